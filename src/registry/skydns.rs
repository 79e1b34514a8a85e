//! The record as SkyDNS and CoreDNS read it: where its key lies and what its JSON says, both ways.
//!
//! Pure text. It must never put a key below the prefix that is not a record, nor leave out `ttl`: one value that is
//! not JSON breaks look-ups of the whole name, and without a `ttl` many resolvers serve the low half of the lease's
//! ID as one. Called by the three registries.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Announce, Conflict, DnsName, Label};

/// One announced instance of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub name: DnsName,
    pub instance: Label,
    pub host: IpAddr,
    pub port: u16,
    pub priority: u16,
    pub weight: u16,
    /// What resolvers hand out; whole seconds, at least one.
    pub dns_ttl: Duration,
    /// What to do about another's record under this key; no part of the value.
    pub conflict: Conflict,
}

impl Record {
    /// The record that `announce` asks for, at the address that was chosen for it.
    pub fn new(announce: &Announce, host: IpAddr) -> Self {
        Self {
            name: announce.name.clone(),
            instance: announce.instance.clone(),
            host,
            port: announce.port,
            priority: announce.priority,
            weight: announce.weight,
            dns_ttl: announce.dns_ttl,
            conflict: announce.conflict,
        }
    }

    /// `/skydns/com/example/prod/s/web/<instance>`.
    pub fn key(&self, prefix: &str) -> String {
        format!("{}/{}", folder(prefix, &self.name), self.instance.as_str())
    }

    /// The value stored under the key: one line of JSON.
    pub fn value(&self) -> String {
        serde_json::to_string(&self.fields()).expect("plain fields always serialise")
    }

    pub fn fields(&self) -> Fields {
        Fields {
            host: self.host.to_string(),
            port: self.port.into(),
            priority: self.priority.into(),
            weight: self.weight.into(),
            ttl: whole_seconds(self.dns_ttl),
        }
    }
}

/// The fields of a record's JSON that we write and read; others are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fields {
    /// An address, or a name in records that others wrote.
    pub host: String,
    pub port: i64,
    pub priority: i64,
    pub weight: i64,
    /// Seconds.
    pub ttl: u64,
}

impl Default for Fields {
    /// What resolvers assume for a field that is absent.
    fn default() -> Self {
        Self { host: String::new(), port: 0, priority: 10, weight: 100, ttl: 0 }
    }
}

impl Fields {
    /// Reads a value; the error says what is wrong with it.
    pub fn parse(value: &str) -> Result<Self, NoRecord> {
        serde_json::from_str::<Self>(value)
            .map_err(|e| NoRecord::Unreadable(format!("not a record's JSON: {e}")))?
            .checked()
    }

    /// These, if they are a record; the error says what is wrong with them.
    pub fn checked(self) -> Result<Self, NoRecord> {
        if self.host.is_empty() { Err(NoRecord::NoHost) } else { Ok(self) }
    }
}

/// Why a value is none that can be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRecord {
    /// One such makes resolvers fail for each name that it lies below.
    #[error("{0}")]
    Unreadable(String),
    /// A text, say: resolvers pass it by.
    #[error("it has no `host`")]
    NoHost,
}

/// The key under which every instance of `name` lies.
pub fn folder(prefix: &str, name: &DnsName) -> String {
    let labels: Vec<&str> = name.as_str().rsplit('.').collect();
    format!("{prefix}/{}", labels.join("/"))
}

/// The name and instance that `key` stands for, in the notation of DNS; `None` for a key that is not below `prefix`.
pub fn name_of(prefix: &str, key: &str) -> Option<(String, String)> {
    let path = key.strip_prefix(prefix)?.strip_prefix('/')?;
    let mut labels: Vec<&str> = path.split('/').collect();
    let instance = labels.pop()?;
    labels.reverse();
    Some((labels.join("."), instance.to_owned()))
}

/// Seconds as the wire wants them: rounded up, never zero (to etcd's v2 API zero means "expire at once").
pub fn whole_seconds(time: Duration) -> u64 {
    let up = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(up).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str) -> Record {
        Record {
            name: DnsName("web.s.prod.example.com".to_owned()),
            instance: Label("node-1".to_owned()),
            host: host.parse().expect("an address"),
            port: 8087,
            priority: 10,
            weight: 100,
            dns_ttl: Duration::from_secs(5),
            conflict: Conflict::Take,
        }
    }

    #[test]
    fn key_reverses_the_labels() {
        assert_eq!(record("192.0.2.7").key("/skydns"), "/skydns/com/example/prod/s/web/node-1");
    }

    #[test]
    fn value_is_exactly_what_resolvers_know() {
        assert_eq!(
            record("192.0.2.7").value(),
            r#"{"host":"192.0.2.7","port":8087,"priority":10,"weight":100,"ttl":5}"#
        );
        assert_eq!(
            record("2001:db8::7").value(),
            r#"{"host":"2001:db8::7","port":8087,"priority":10,"weight":100,"ttl":5}"#
        );
    }

    #[test]
    fn key_and_back() {
        let back = name_of("/skydns", &record("::1").key("/skydns"));
        assert_eq!(back, Some(("web.s.prod.example.com".to_owned(), "node-1".to_owned())));
        assert_eq!(name_of("/skydns", "/skydns2/com/x"), None);
        assert_eq!(name_of("/skydns", "/skydns"), None);
        assert_eq!(name_of("/skydns", "/skydns/config"), Some((String::new(), "config".to_owned())));
    }

    #[test]
    fn fields_of_others_are_read() {
        let fields = Fields::parse(r#"{"host":"10.0.0.1","port":80,"text":"hi"}"#).expect("a record");
        assert_eq!(fields, Fields { host: "10.0.0.1".to_owned(), port: 80, ..Fields::default() });
        assert!(Fields::parse("lock").is_err());
        assert!(Fields::parse("{}").expect_err("no host") == NoRecord::NoHost);
    }

    #[test]
    fn seconds_round_up_and_are_never_zero() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1500)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(60)), 60);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}
