//! One source of addresses, and the last good answer that it gave. Files are read where they are; what takes time is
//! looked up once at a time, in a task that a connection may wait for or not. Never resolves by itself (`net` does),
//! never connects. Called by `upstream`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::docker_env::alias_of;
use super::picker::Offer;
use super::plan::{Peer, Way};
use crate::config::HostPort;
use crate::net::resolve::{Hosts, ResolveError, Resolver};

/// How long a fresh answer is worth waiting for when an older one is at hand.
const PATIENCE: Duration = Duration::from_millis(150);

/// The weight of an address that comes without one: the same as a record's that says nothing.
const WEIGHT: u32 = 100;

/// What a source says; the same `Arc` until it says something else.
pub(super) type Offers = Arc<[Offer<SocketAddr>]>;

#[derive(Debug)]
pub(super) struct Source {
    way: Way,
    known: Mutex<Known>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Known {
    offers: Offers,
    /// Why there is nothing new, or nothing.
    error: Option<Arc<ResolveError>>,
    /// The hosts file that `offers` is from, for a peer: the same file need not be searched twice.
    hosts: Option<Arc<Hosts>>,
    /// A look-up is under way since then.
    asking: Option<Instant>,
}

/// How far reading what is at hand has come.
enum Glance {
    Enough,
    /// The rest is a look-up.
    TakesTime,
}

impl Source {
    pub(super) fn new(way: Way) -> Self {
        Self { way, known: Mutex::default(), ended: Notify::new() }
    }

    /// Takes in what is at hand now, so that an entry that is there at the start counts even if it is gone when the
    /// first connection comes.
    pub(super) fn prime(&self, resolver: &Resolver) {
        self.glance(resolver);
    }

    /// Takes in what is at hand, and begins the look-up of what is not.
    pub(super) fn ask(self: &Arc<Self>, resolver: &Arc<Resolver>) {
        let Glance::TakesTime = self.glance(resolver) else { return };
        {
            let mut known = self.lock();
            if known.asking.is_some() {
                return;
            }
            known.asking = Some(Instant::now());
        }
        let (asking, resolver) = (Asking(Arc::clone(self)), Arc::clone(resolver));
        tokio::spawn(async move {
            let answer = asking.0.look_up(&resolver).await;
            asking.0.take(answer);
        });
    }

    /// Waits for the look-up under way, but not for one that takes long: there may be an answer from before, or
    /// another source.
    pub(super) async fn settle(&self) {
        let asking = self.lock().asking;
        if let Some(since) = asking {
            let _late = timeout_at(since + PATIENCE, self.settled()).await;
        }
    }

    /// Waits for the look-up under way; it has a limit of its own.
    pub(super) async fn settled(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.lock().asking.is_none() {
                return;
            }
            ended.await;
        }
    }

    /// The last good answer.
    pub(super) fn offers(&self) -> Offers {
        Arc::clone(&self.lock().offers)
    }

    /// What is wrong with it at present.
    pub(super) fn error(&self) -> Option<Arc<ResolveError>> {
        self.lock().error.clone()
    }

    fn glance(&self, resolver: &Resolver) -> Glance {
        match &self.way {
            Way::Peer(peer) => self.peer(peer, resolver.hosts()),
            Way::Host(to) => match resolver.listed(&to.host) {
                Some(found) => self.take(Ok(at_port(&found, to.port))),
                None => return Glance::TakesTime,
            },
        }
        Glance::Enough
    }

    async fn look_up(&self, resolver: &Resolver) -> Result<Vec<Offer<SocketAddr>>, ResolveError> {
        match &self.way {
            Way::Peer(peer) => Ok(offers(listed(peer, &resolver.hosts()))),
            Way::Host(HostPort { host, port }) => Ok(at_port(&resolver.lookup(host).await?, *port)),
        }
    }

    fn take(&self, answer: Result<Vec<Offer<SocketAddr>>, ResolveError>) {
        let mut known = self.lock();
        let (offers, error) = match answer {
            Ok(offers) => (offers, None),
            // Nobody could be asked.
            Err(error @ ResolveError::Failed { .. }) => {
                known.error = Some(Arc::new(error));
                return;
            }
            // That is an answer: what was there may be another's by now.
            Err(error @ ResolveError::NotFound { .. }) => (Vec::new(), Some(Arc::new(error))),
        };
        known.error = error;
        if *known.offers != *offers {
            known.offers = offers.into();
        }
    }

    /// The variable's address counts only until the hosts file has named the peer once: that address may be
    /// another's by now, and the file is seen empty for a moment while Docker writes it.
    fn peer(&self, peer: &Peer, hosts: Arc<Hosts>) {
        let mut known = self.lock();
        if known.hosts.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &hosts)) {
            return;
        }
        let found = listed(peer, &hosts);
        if !found.is_empty() {
            known.offers = offers(found).into();
        } else if known.offers.is_empty() {
            known.offers = offers([peer.address]).into();
        }
        known.hosts = Some(hosts);
    }

    /// Nothing here panics with the lock held, so what a poisoned one holds is whole.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look-up under way. Over when this is dropped, also by a panic.
struct Asking(Arc<Source>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.lock().asking = None;
        self.0.ended.notify_waiters();
    }
}

fn at_port(found: &[IpAddr], port: u16) -> Vec<Offer<SocketAddr>> {
    offers(found.iter().map(|&ip| SocketAddr::new(ip, port)))
}

/// Addresses that are all alike.
fn offers(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<Offer<SocketAddr>> {
    addresses.into_iter().map(|address| Offer { address, group: 0, weight: WEIGHT }).collect()
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
