//! Where a connection goes: its sources are asked, the picker says which of their addresses is next, and the next one
//! is tried before the client sees anything. Never resolves by itself, never waits for a slow source while there is an
//! address to try.
//!
//! Two ways in. [`Upstream::at_hand`] answers at once, and not at all where a source must be waited for: a relaying
//! thread asks it for each connection that it accepts. [`Upstream::connect`] waits, and tries what there is to try.

mod datagrams;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::watch;

use super::counters::{Counters, Trying, Use};
use super::endpoint::Endpoint;
use super::feed::News;
use super::own::leads_back;
use super::picker::{Offer, Picker};
use super::plan::{Target, Way};
use super::source::{Offers, Source};
use crate::config::DnsName;
use crate::net::resolve::Resolver;

/// What is told of each name in the registry.
pub(super) type NewsOf = BTreeMap<DnsName, watch::Receiver<News>>;

/// The other end of one forward.
#[derive(Debug)]
pub(super) struct Upstream {
    sources: Vec<Arc<Source>>,
    /// For one attempt.
    timeout: Duration,
    /// Where the forward listens: to connect there would be a loop.
    own: Vec<SocketAddr>,
    counters: Arc<Counters>,
    known: Mutex<Known>,
}

/// An attempt at one address, under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) address: Endpoint,
    begun: Instant,
    /// Where it counts: those that come at the same moment must not all go to one address.
    _trying: Option<Trying>,
}

/// What was tried for a connection, in vain.
#[derive(Debug, Default)]
pub(super) struct Tried {
    addresses: Vec<Endpoint>,
    /// Of the one that should have taken it: it says most.
    first_error: Option<ConnectError>,
}

#[derive(Debug)]
struct Known {
    picker: Picker<Endpoint>,
    /// What the picker has learned: by source, in order.
    learned: Vec<Offers>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Nowhere(String),
    #[error("{address}: {}", reason(error))]
    Attempt { address: Endpoint, error: io::Error },
    #[error("{address} is where this link itself listens")]
    Loop { address: Endpoint },
}

impl Upstream {
    /// `news` tells of the names in the registry.
    pub(super) fn new(
        to: Target,
        timeout: Duration,
        own: Vec<SocketAddr>,
        news: &NewsOf,
        counters: Arc<Counters>,
    ) -> Self {
        let Target { ways, balance } = to;
        let source = |way| {
            let news = if let Way::Registry(name) = &way { news.get(name).cloned() } else { None };
            Arc::new(Source::new(way, news))
        };
        let sources = ways.into_iter().map(source).collect();
        let known = Known { picker: Picker::new(balance, timeout), learned: Vec::new() };
        Self { sources, timeout, own, counters, known: Mutex::new(known) }
    }

    /// Learns what is at hand before the first connection comes.
    pub(super) fn prime(&self, resolver: &Resolver) {
        self.sources.iter().for_each(|source| source.prime(resolver));
    }

    /// For one attempt.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The address to try first, where nothing must be waited for to know it.
    pub(super) fn at_hand(&self, resolver: &Resolver, now: Instant) -> Option<Attempt> {
        if !self.sources.iter().all(|source| source.is_at_hand(resolver)) || !self.learn() {
            return None;
        }
        self.attempt(&[], now).filter(|attempt| !self.is_own(&attempt.address))
    }

    /// A connection to the first address that takes one, those that were `tried` aside. Tells when an attempt has
    /// `begun`: when there was a socket for it.
    pub(super) async fn connect(
        &self,
        resolver: &Arc<Resolver>,
        mut tried: Tried,
        mut begun: impl FnMut(),
    ) -> Result<(TcpStream, Use), ConnectError> {
        self.look(resolver).await;
        while let Some(attempt) = self.attempt(&tried.addresses, Instant::now()) {
            let answer = match self.is_own(&attempt.address) {
                true => Err(ConnectError::Loop { address: attempt.address.clone() }),
                false => {
                    let answer =
                        tokio::time::timeout(self.timeout, attempt.address.connect(&mut begun)).await;
                    answer.map_err(io::Error::from).flatten().map_err(|error| attempt.error(error))
                }
            };
            match answer {
                Ok(stream) => return Ok((stream, self.succeeded(&attempt))),
                Err(error) => self.failed(attempt, error, &mut tried),
            }
        }
        Err(tried.first_error.unwrap_or_else(|| ConnectError::Nowhere(self.complaint())))
    }

    /// The attempt has made a connection, which counts until what this gives is dropped.
    pub(super) fn succeeded(&self, attempt: &Attempt) -> Use {
        self.known().picker.succeeded(&attempt.address);
        self.counters.connected(&attempt.address, attempt.begun.elapsed())
    }

    /// The attempt has failed.
    pub(super) fn failed(&self, attempt: Attempt, error: ConnectError, tried: &mut Tried) {
        let Attempt { address, begun, _trying } = attempt;
        if !error.is_ours() {
            self.known().picker.failed(&address, begun, Instant::now());
            self.counters.failed(&address);
        }
        tried.addresses.push(address);
        tried.first_error.get_or_insert(error);
    }

    fn is_own(&self, address: &Endpoint) -> bool {
        matches!(address, Endpoint::Tcp(to) if leads_back(*to, &self.own))
    }

    /// Asks every source, and waits only as long as nothing is known.
    async fn look(&self, resolver: &Arc<Resolver>) {
        self.sources.iter().for_each(|source| source.ask(resolver));
        for source in &self.sources {
            source.settle().await;
        }
        if self.learn() {
            return;
        }
        for source in &self.sources {
            source.settled().await;
            if self.learn() {
                return;
            }
        }
    }

    /// Hands the picker what the sources say now. Whether there is anything to try.
    fn learn(&self) -> bool {
        let said: Vec<Offers> = self.sources.iter().map(|source| source.offers()).collect();
        let mut known = self.known();
        let is_same = said.len() == known.learned.len()
            && said.iter().zip(&known.learned).all(|(said, learned)| Arc::ptr_eq(said, learned));
        if !is_same {
            known.picker.learn(said.iter().flat_map(|offers| ranked(offers)));
            known.learned = said;
        }
        !known.picker.is_empty()
    }

    fn attempt(&self, tried: &[Endpoint], now: Instant) -> Option<Attempt> {
        let mut known = self.known();
        let address = known.picker.pick(now, tried, |address| self.counters.busy_at(address))?;
        let _trying = known.picker.asks_who_is_busy().then(|| self.counters.trying(&address));
        Some(Attempt { address, begun: now, _trying })
    }

    /// Why there is nothing to try.
    fn complaint(&self) -> String {
        let errors = self.sources.iter().filter_map(|source| source.error());
        let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
        if errors.is_empty() { "no address is known".to_owned() } else { errors.join("; ") }
    }

    /// Nothing here panics with the lock held, so what a poisoned one holds is whole.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The offers of one source, by priority and then weight, their priorities counted from 0: what one source calls
/// priority 10 is no worse than what another, which knows none, has.
fn ranked(offers: &[Offer<Endpoint>]) -> Vec<Offer<Endpoint>> {
    let mut ranked = offers.to_vec();
    ranked.sort_by_key(|offer| (offer.group, std::cmp::Reverse(offer.weight)));
    let (mut rank, mut last) = (0, ranked.first().map_or(0, |offer| offer.group));
    for offer in &mut ranked {
        rank += u32::from(offer.group != last);
        last = std::mem::replace(&mut offer.group, rank);
    }
    ranked
}

impl Attempt {
    pub(super) fn error(&self, error: io::Error) -> ConnectError {
        ConnectError::Attempt { address: self.address.clone(), error }
    }
}

impl ConnectError {
    /// It says nothing about the other end.
    pub(super) fn is_ours(&self) -> bool {
        let Self::Attempt { address, error } = self else { return false };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => true,
            // All ports towards it are used up. Of IPv6, that family is more likely to be switched off.
            Some(Errno::EADDRNOTAVAIL) => matches!(address, Endpoint::Tcp(to) if to.is_ipv4()),
            Some(_) | None => false,
        }
    }

    /// There was no descriptor for it: what the kernel said.
    pub(super) fn shortage(&self) -> Option<&io::Error> {
        let Self::Attempt { error, .. } = self else { return None };
        let short = [Some(Errno::EMFILE as i32), Some(Errno::ENFILE as i32)];
        short.contains(&error.raw_os_error()).then_some(error)
    }
}

/// Why a connection was not made, in words.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Balance, HostPort};
    use crate::links::plan::Peer;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn peer() -> Way {
        Way::Peer(Peer {
            aliases: vec!["MY_DB".to_owned()],
            names: vec!["my-db".to_owned()],
            number: 5432,
            address: "10.0.0.1:5432".parse().expect("an address"),
        })
    }

    fn host(host: &str, port: u16) -> Way {
        Way::Host(HostPort { host: host.to_owned(), port })
    }

    fn first(ways: Vec<Way>, own: Vec<SocketAddr>) -> Upstream {
        let to = Target { ways, balance: Balance::First };
        Upstream::new(to, TIMEOUT, own, &NewsOf::new(), Arc::default())
    }

    fn upstream(way: Way) -> Upstream {
        first(vec![way], Vec::new())
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn hosts(&self, text: &str) {
            std::fs::write(self.0.path().join("hosts"), text).expect("write");
        }

        fn resolver(&self) -> Arc<Resolver> {
            Arc::new(Resolver::with_files(self.0.path().join("hosts"), self.0.path().join("resolv.conf")))
        }
    }

    fn now<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    /// What one connection would try, in order.
    fn asked(upstream: &Upstream, resolver: &Arc<Resolver>) -> Vec<String> {
        now(upstream.look(resolver));
        let mut tried = Vec::new();
        while let Some(next) = upstream.attempt(&tried, Instant::now()) {
            tried.push(next.address);
        }
        tried.iter().map(Endpoint::to_string).collect()
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
        let upstream = upstream(host("db", 80));
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.2:80"]);
        files.hosts("");
        assert_eq!(asked(&upstream, &resolver), ["10.0.0.2:80"]);
    }

    #[test]
    fn the_next_address_is_tried_and_the_failure_of_the_best_one_told() {
        let files = Files::new();
        let listener = std::net::TcpListener::bind("127.0.0.3:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        files.hosts("127.0.0.2 db\n127.0.0.3 db\n");
        let upstream = upstream(host("db", port));
        let connected = now(upstream.connect(&files.resolver(), Tried::default(), || {}))
            .map(|(stream, _)| stream.peer_addr().expect("a peer"));
        assert_eq!(connected.expect("connected"), listener.local_addr().expect("bound"));
        drop(listener);
        let error =
            now(upstream.connect(&files.resolver(), Tried::default(), || {})).expect_err("nobody there");
        assert_eq!(error.to_string(), format!("127.0.0.3:{port}: connection refused"));
    }

    #[test]
    fn attempts_under_way_count_for_the_least_busy() {
        let [one, two] = ["127.0.0.1", "127.0.0.2"]
            .map(|ip| Endpoint::Tcp((ip.parse::<std::net::IpAddr>().expect("an address"), 80).into()));
        let to = Target {
            ways: vec![host("127.0.0.1", 80), host("127.0.0.2", 80)],
            balance: Balance::LeastConnections,
        };
        let counters = Arc::<Counters>::default();
        let upstream = Upstream::new(to, TIMEOUT, Vec::new(), &NewsOf::new(), Arc::clone(&counters));
        upstream.prime(&Files::new().resolver());
        assert!(upstream.learn());
        let open: Vec<_> = [&one, &one, &two, &two, &two, &two].map(|address| counters.used(address)).into();
        // As a pool opens its connections: all at once.
        let attempts: Vec<_> = (0..6).filter_map(|_| upstream.attempt(&[], Instant::now())).collect();
        let to_one = attempts.iter().filter(|attempt| attempt.address == one).count();
        assert_eq!((attempts.len(), to_one), (6, 4));
        drop((attempts, open));
        assert_eq!((counters.busy_at(&one), counters.busy_at(&two)), (0, 0));
    }

    #[test]
    fn a_link_never_connects_to_itself() {
        let own = "127.0.0.1:80".parse().expect("an address");
        let own = vec![own, "[::1]:80".parse().expect("an address")];
        let upstream = first(vec![host("localhost", 80)], own);
        let error =
            now(upstream.connect(&Files::new().resolver(), Tried::default(), || {})).expect_err("a loop");
        assert_eq!(error.to_string(), "127.0.0.1:80 is where this link itself listens");
    }
}
