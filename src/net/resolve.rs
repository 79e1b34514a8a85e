//! The only name look-up: address literals, `localhost`, the hosts file, then DNS. No getaddrinfo (NSS is loaded at
//! run time, even in a static binary). Used by links, checks and the registry clients.
//!
//! Never caches beyond what the source says: a file is read again when its stat changes, a DNS answer lives for its
//! TTL and a few seconds at most. Never waits without bound: a dead DNS server costs at most [`DNS_LIMIT`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod dns;
mod hosts;
pub mod watched;

pub use dns::located;
pub use hosts::{Hosts, HostsFile};

/// The longest that one look-up spends on DNS, all servers, attempts and search domains together.
pub const DNS_LIMIT: Duration = Duration::from_secs(5);

/// Looks names up. Share it by `Arc` within one runtime (DNS runs tasks on the runtime that asks first); another
/// thread makes its own. What DNS needs is made on the first name that is in no file, so a run without DNS pays
/// nothing for it.
#[derive(Debug)]
pub struct Resolver {
    hosts: HostsFile,
    dns: dns::Dns,
}

/// One instance of a service, as an SRV record or a registry names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// A name, or an address literal without brackets.
    pub host: String,
    pub port: u16,
    /// Lower ones go first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// Never empty.
    pub found: Vec<T>,
    /// It need not be asked for again before then. A file's must be: it is read whenever it has changed.
    pub until: Instant,
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("no address found for `{name}`")]
    NotFound { name: String },
    #[error("cannot look up `{name}`: {reason}")]
    Failed { name: String, reason: String },
}

impl Resolver {
    /// A resolver for this machine: /etc/hosts and /etc/resolv.conf. Neither needs to exist.
    pub fn system() -> Self {
        Self::with_files("/etc/hosts", "/etc/resolv.conf")
    }

    /// A resolver over other files than this machine's.
    pub fn with_files(hosts: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> Self {
        Self { hosts: HostsFile::at(hosts), dns: dns::Dns::at(resolv_conf) }
    }

    /// What the hosts file says now. The same `Arc` as long as the file has not changed.
    pub fn hosts(&self) -> Arc<Hosts> {
        self.hosts.read()
    }

    /// The addresses of `host` where no DNS is needed for them: as [`lookup`](Self::lookup), without waiting.
    pub fn listed(&self, host: &str) -> Option<Vec<IpAddr>> {
        if let Ok(ip) = host.parse() {
            return Some(vec![ip]);
        }
        let bare = host.strip_suffix('.').unwrap_or(host);
        if bare.eq_ignore_ascii_case("localhost") {
            return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let listed = self.hosts.read().addresses(bare).to_vec();
        (!listed.is_empty()).then(|| v4_first(listed))
    }

    /// What the SRV records of `name` say: each instance, with the addresses that came along with the answer, if any.
    /// The hosts file has no say in this.
    pub async fn instances(&self, name: &str) -> Result<Answer<(Instance, Vec<IpAddr>)>, ResolveError> {
        Box::pin(self.dns.instances(name)).await
    }

    /// The addresses of `host`, IPv4 first, never empty: a literal (no brackets) is itself, `localhost` is loopback
    /// whatever the files say, the hosts file goes before DNS.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.answer(host).await.map(|answer| answer.found)
    }

    /// As [`lookup`](Self::lookup), with the time that the answer is good for.
    pub async fn answer(&self, host: &str) -> Result<Answer<IpAddr>, ResolveError> {
        if let Some(found) = self.listed(host) {
            return Ok(Answer { found, until: Instant::now() });
        }
        // A future of its own on the heap: hickory's is large, and whoever waits here should stay small.
        let answer = Box::pin(self.dns.lookup(host)).await?;
        Ok(Answer { found: v4_first(answer.found), ..answer })
    }
}

fn v4_first(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(resolver: &Resolver, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(resolver.lookup(host))
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn without_any_file_literals_and_localhost_still_work_and_the_rest_is_a_plain_error() {
        let resolver = Resolver::with_files("/nonexistent/hosts", "/nonexistent/resolv.conf");
        assert_eq!(lookup(&resolver, "10.1.2.3").expect("a literal"), ips(&["10.1.2.3"]));
        assert_eq!(lookup(&resolver, "fd00::1").expect("a literal"), ips(&["fd00::1"]));
        assert_eq!(lookup(&resolver, "LocalHost.").expect("loopback"), ips(&["127.0.0.1", "::1"]));
        let error = lookup(&resolver, "db").expect_err("nowhere to ask");
        assert_eq!(error.to_string(), "cannot look up `db`: no name server in /nonexistent/resolv.conf");
        assert!(!resolver.dns.is_started());
    }

    #[test]
    fn the_hosts_file_goes_first_v4_first_and_starts_no_dns() {
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, "fd00::2 db\n10.0.0.2\tDB db.local # ours\n6.6.6.6 localhost\n")
            .expect("write");
        let resolver = Resolver::with_files(&hosts, "/nonexistent/resolv.conf");
        assert_eq!(lookup(&resolver, "Db").expect("listed"), ips(&["10.0.0.2", "fd00::2"]));
        assert_eq!(lookup(&resolver, "db.local.").expect("listed"), ips(&["10.0.0.2"]));
        assert_eq!(lookup(&resolver, "localhost").expect("loopback"), ips(&["127.0.0.1", "::1"]));
        assert!(!resolver.dns.is_started());
    }
}
