//! Where a connection goes: asked anew for each, tried address by address, with the last good answer kept while the
//! source fails. Never caches a name beyond that, never resolves by itself (`net::resolve` does). Called by
//! `listener` for each accepted connection.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use super::docker_env::alias_of;
use super::plan::{Peer, Target};
use crate::net::resolve::{Hosts, ResolveError, Resolver};

/// The other end of one forward.
#[derive(Debug)]
pub(super) struct Upstream {
    to: Target,
    /// For one attempt.
    timeout: Duration,
    /// Where the forward listens: to connect there would be a loop.
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
}

/// What the last good look-up said.
#[derive(Debug, Default)]
struct Known {
    /// The hosts file that `addresses` is from, for a peer: the same file need not be searched twice.
    hosts: Option<Arc<Hosts>>,
    addresses: Vec<SocketAddr>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Lookup(#[from] ResolveError),
    #[error("{address}: {}", reason(error))]
    Attempt { address: SocketAddr, error: io::Error },
    #[error("{address} is where this link itself listens")]
    Loop { address: SocketAddr },
}

impl Upstream {
    pub(super) fn new(to: Target, timeout: Duration, own: Vec<SocketAddr>) -> Self {
        Self { to, timeout, own, known: Mutex::default() }
    }

    /// Learns now what the hosts file says of a peer, so that an entry that is there at the start counts even if
    /// it is gone when the first connection comes.
    pub(super) fn prime(&self, resolver: &Resolver) {
        if let Target::Peer(peer) = &self.to {
            self.peer(peer, resolver.hosts());
        }
    }

    /// A connection to the first address that takes one.
    pub(super) async fn connect(&self, resolver: &Resolver) -> Result<TcpStream, ConnectError> {
        let mut failure = None;
        for address in self.addresses(resolver).await? {
            match self.attempt(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.expect("a look-up is never empty"))
    }

    async fn attempt(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        if self.own.contains(&address) {
            return Err(ConnectError::Loop { address });
        }
        let attempt = async {
            let stream = tokio::time::timeout(self.timeout, TcpStream::connect(address)).await??;
            // A port of this machine's that nobody listens on may be given to the very socket that asks for it:
            // TCP then connects that socket to itself.
            if stream.local_addr()? == address {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(stream)
        };
        attempt.await.map_err(|error| ConnectError::Attempt { address, error })
    }

    /// The addresses to try, in order; never empty.
    pub(super) async fn addresses(&self, resolver: &Resolver) -> Result<Vec<SocketAddr>, ResolveError> {
        match &self.to {
            Target::Peer(peer) => Ok(self.peer(peer, resolver.hosts())),
            Target::Host(to) => match resolver.lookup(&to.host).await {
                Ok(found) => {
                    let addresses: Vec<_> =
                        found.into_iter().map(|ip| SocketAddr::new(ip, to.port)).collect();
                    self.known().addresses.clone_from(&addresses);
                    Ok(addresses)
                }
                // Nobody could be asked. "No such name" is an answer: what was there may be another's by now.
                Err(ResolveError::Failed { .. }) if !self.known().addresses.is_empty() => {
                    Ok(self.known().addresses.clone())
                }
                Err(error) => Err(error),
            },
        }
    }

    /// The variable's address counts only until the hosts file has named the peer once: that address may be
    /// another's by now, and the file is seen empty for a moment while Docker writes it.
    fn peer(&self, peer: &Peer, hosts: Arc<Hosts>) -> Vec<SocketAddr> {
        let mut known = self.known();
        if !known.hosts.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &hosts)) {
            let found = listed(peer, &hosts);
            if !found.is_empty() || known.addresses.is_empty() {
                known.addresses = found;
            }
            known.hosts = Some(hosts);
        }
        if known.addresses.is_empty() { vec![peer.address] } else { known.addresses.clone() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the hosts file says that `peer` is: by the names that the variables give, else by any name that Docker
/// would spell like one of its aliases. Empty when it does not say.
pub fn listed(peer: &Peer, hosts: &Hosts) -> Vec<SocketAddr> {
    let by_name: Vec<_> = peer.names.iter().flat_map(|name| hosts.addresses(name)).collect();
    let found = if by_name.is_empty() {
        let is_alias = |name: &str| peer.aliases.contains(&alias_of(name));
        let mut names: Vec<_> = hosts.names().filter(|name| is_alias(name)).collect();
        names.sort_unstable();
        names.into_iter().flat_map(|name| hosts.addresses(name)).collect()
    } else {
        by_name
    };
    let mut addresses = Vec::new();
    for &ip in found {
        let address = SocketAddr::new(ip, peer.address.port());
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostPort;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn peer() -> Target {
        Target::Peer(Peer {
            aliases: vec!["MY_DB".to_owned()],
            names: vec!["my-db".to_owned()],
            address: "10.0.0.1:5432".parse().expect("an address"),
        })
    }

    fn upstream(to: Target) -> Upstream {
        Upstream::new(to, TIMEOUT, Vec::new())
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn hosts(&self, text: &str) {
            std::fs::write(self.0.path().join("hosts"), text).expect("write");
        }

        fn resolver(&self) -> Resolver {
            Resolver::with_files(self.0.path().join("hosts"), self.0.path().join("resolv.conf"))
        }
    }

    fn now<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    fn asked(upstream: &Upstream, resolver: &Resolver) -> Vec<String> {
        let found = now(upstream.addresses(resolver)).expect("addresses");
        found.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn a_peer_is_where_the_hosts_file_says_and_never_goes_back_to_the_variable() {
        let files = Files::new();
        let resolver = files.resolver();
        let upstream = upstream(peer());
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.1:5432"]);
        files.hosts("10.0.0.2 my-db\n");
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.2:5432"]);
        files.hosts("10.0.0.3 My-DB other\n");
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.3:5432"]);
        files.hosts("");
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.3:5432"]);
        files.hosts("fd00::1 my-db\n10.0.0.4 my-db\n");
        assert_eq!(asked(&upstream, &resolver), ["[fd00::1]:5432", "10.0.0.4:5432"]);
    }

    #[test]
    fn a_name_that_docker_would_spell_like_the_alias_will_do() {
        let files = Files::new();
        files.hosts("10.0.0.2 my_db\n10.0.0.3 mydb\n");
        assert_eq!(asked(&upstream(peer()), &files.resolver()), ["10.0.0.2:5432"]);
        files.hosts("10.0.0.2 my_db\n10.0.0.3 my-db\n");
        assert_eq!(asked(&upstream(peer()), &files.resolver()), ["10.0.0.3:5432"]);
    }

    #[test]
    fn a_name_keeps_its_last_addresses_while_nobody_can_be_asked() {
        let files = Files::new();
        files.hosts("10.0.0.2 db\n");
        let resolver = files.resolver();
        let upstream = upstream(Target::Host(HostPort { host: "db".to_owned(), port: 80 }));
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.2:80"]);
        files.hosts("");
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.2:80"]);
    }

    #[test]
    fn the_next_address_is_tried_and_the_last_failure_told() {
        let files = Files::new();
        let listener = std::net::TcpListener::bind("127.0.0.3:0").expect("bind");
        let to = HostPort { host: "db".to_owned(), port: listener.local_addr().expect("bound").port() };
        files.hosts("127.0.0.2 db\n127.0.0.3 db\n");
        let upstream = upstream(Target::Host(to.clone()));
        let connected =
            now(upstream.connect(&files.resolver())).map(|stream| stream.peer_addr().expect("a peer"));
        assert_eq!(connected.expect("connected"), listener.local_addr().expect("bound"));
        drop(listener);
        let error = now(upstream.connect(&files.resolver())).expect_err("nobody there");
        assert_eq!(error.to_string(), format!("127.0.0.3:{}: connection refused", to.port));
    }

    #[test]
    fn a_link_never_connects_to_itself() {
        let own = "127.0.0.1:80".parse().expect("an address");
        let to = Target::Host(HostPort { host: "localhost".to_owned(), port: 80 });
        let upstream = Upstream::new(to, TIMEOUT, vec![own, "[::1]:80".parse().expect("an address")]);
        let error = now(upstream.connect(&Files::new().resolver())).expect_err("a loop");
        assert_eq!(error.to_string(), "[::1]:80 is where this link itself listens");
    }
}
