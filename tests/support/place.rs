//! The three kinds of places to announce in, each with a way to look at it that does not go through the code under
//! test, and the claims and waits that their tests share.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ensign::config::units::{dns_name, label};
use ensign::config::{self, Conflict, HostPort, RegistryUrl};
use ensign::net::resolve::Resolver;
use ensign::registry::{Claim, Record, Registry};
use tempfile::TempDir;

use super::etcd::Etcd;
use super::watch::Api;
use super::{service, wait};

pub const KEY: &str = "/skydns/com/example/prod/s/web/node-1";
pub const VALUE: &str = r#"{"host":"192.0.2.7","port":8087,"priority":10,"weight":100,"ttl":5}"#;
/// The shortest that etcd grants.
pub const TTL: Duration = Duration::from_secs(2);
pub const LONG: Duration = Duration::from_secs(60);

pub fn registry(url: RegistryUrl) -> Registry {
    let config = config::Registry { url, prefix: "/skydns".to_owned(), tls: None, login: None };
    Registry::new(&config, Arc::new(Resolver::system())).expect("a registry")
}

pub fn hosts(addresses: &[SocketAddr]) -> Vec<HostPort> {
    addresses.iter().map(|a| HostPort { host: a.ip().to_string(), port: a.port() }).collect()
}

pub fn record(host: &str) -> Record {
    Record {
        name: dns_name("web.s.prod.example.com").expect("a name"),
        instance: label("node-1").expect("a label"),
        host: host.parse().expect("an address"),
        port: 8087,
        priority: 10,
        weight: 100,
        dns_ttl: Duration::from_secs(5),
        conflict: Conflict::Take,
    }
}

pub fn claim(ttl: Duration) -> Claim {
    Claim::new(vec![record("192.0.2.7")], ttl)
}

/// A place to announce in, and a way to look at it that does not go through the code under test.
pub enum Place {
    V3(Etcd),
    V2(Etcd),
    Dir(TempDir),
}

impl Place {
    pub fn v3() -> Self {
        Self::V3(Etcd::start())
    }

    pub fn v2() -> Self {
        Self::V2(Etcd::start())
    }

    pub fn dir() -> Self {
        Self::Dir(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn registry(&self) -> Registry {
        match self {
            Self::V3(etcd) | Self::V2(etcd) => self.through(&[etcd.address()]),
            Self::Dir(dir) => registry(RegistryUrl::Dir(dir.path().join("registry"))),
        }
    }

    /// A client that knows the place by these addresses.
    pub fn through(&self, addresses: &[SocketAddr]) -> Registry {
        match self {
            Self::V3(_) => registry(RegistryUrl::Etcd3(hosts(addresses))),
            Self::V2(_) => registry(RegistryUrl::Etcd2(hosts(addresses))),
            Self::Dir(_) => self.registry(),
        }
    }

    pub fn etcd(&self) -> &Etcd {
        match self {
            Self::V3(etcd) | Self::V2(etcd) => etcd,
            Self::Dir(_) => panic!("a folder has no etcd"),
        }
    }

    /// `[registry]` of a service file.
    pub fn config(&self) -> String {
        match self {
            Self::V3(etcd) => service::registry(Api::V3, etcd.address()),
            Self::V2(etcd) => service::registry(Api::V2, etcd.address()),
            Self::Dir(dir) => format!("[registry]\nurl = \"dir:{}/registry\"\n", dir.path().display()),
        }
    }

    pub fn file(&self, key: &str) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.path().join("registry").join(key.trim_start_matches('/')),
            Self::V3(_) | Self::V2(_) => panic!("etcd has no files"),
        }
    }

    /// The value at `key`.
    pub fn read(&self, key: &str) -> Option<String> {
        match self {
            Self::V3(etcd) => Api::V3.read(etcd, key).map(|held| held.value),
            Self::V2(etcd) => Api::V2.read(etcd, key).map(|held| held.value),
            Self::Dir(_) => {
                let text = fs::read_to_string(self.file(key)).ok()?;
                let stored = text.split_once(r#"{"record":"#).expect("a record first").1;
                let end = stored.find(r#","owner""#).expect("then its owner");
                Some(stored[..end].to_owned())
            }
        }
    }

    /// As someone with curl (or an editor) would.
    pub fn write(&self, key: &str, value: &str) {
        match self {
            Self::V3(etcd) => Api::V3.write(etcd, key, value),
            Self::V2(etcd) => Api::V2.write(etcd, key, value),
            Self::Dir(_) => fs::write(self.file(key), value).expect("the folder is there"),
        }
    }

    pub fn delete(&self, key: &str) {
        match self {
            Self::V3(etcd) => Api::V3.delete(etcd, key),
            Self::V2(etcd) => Api::V2.delete(etcd, key),
            Self::Dir(_) => fs::remove_file(self.file(key)).expect("the record is there"),
        }
    }
}

/// Polls `future` at most `times` times, then drops it: a caller that gives up at any point of an operation.
pub async fn give_up_after<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    std::future::poll_fn(|context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        let polled = future.as_mut().poll(context).map(Some);
        if polls == times && polled.is_pending() { Poll::Ready(None) } else { polled }
    })
    .await
}

/// Waits for a fact, within one generous deadline.
pub async fn until(what: &str, fact: impl Fn() -> bool) {
    wait::until_async(what, async || fact().then_some(())).await;
}
