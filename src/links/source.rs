//! One source of addresses, and the last good answer that it gave. Files are read where they are; what takes time is
//! looked up once at a time, in a task that a connection may wait for or not. Never resolves by itself (`net` does),
//! never connects. Called by `upstream`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::docker_env::alias_of;
use super::endpoint::Endpoint;
use super::feed::News;
use super::picker::Offer;
use super::plan::{Peer, Way};
use crate::config::{DnsName, HostPort};
use crate::net::gateway;
use crate::net::resolve::{Answer, Hosts, Instance, ResolveError, Resolver};

/// How long a fresh answer is worth waiting for when an older one is at hand.
const PATIENCE: Duration = Duration::from_millis(150);

/// The weight of an address that comes without one: the same as a record's that says nothing.
const WEIGHT: u16 = 100;

/// So that what an instance weighs can be split among its addresses.
pub(super) const FINER: u32 = 16;

/// The routes are read again after this long.
const ROUTES: Duration = Duration::from_secs(1);

/// The longest wait for the registry's first answer.
const FIRST_NEWS: Duration = Duration::from_secs(5);

/// Of more instances than this, the rest is not used.
const MOST: usize = 1024;

/// What a source says; the same `Arc` until it says something else.
pub(super) type Offers = Arc<[Offer<Endpoint>]>;

#[derive(Debug)]
pub(super) struct Source {
    way: Way,
    /// Of a name in the registry.
    news: Option<watch::Receiver<News>>,
    known: Mutex<Known>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Known {
    offers: Offers,
    /// Why there is nothing new, or nothing.
    error: Option<Arc<SourceError>>,
    /// The hosts file that `offers` is from, for a peer: the same file need not be searched twice.
    hosts: Option<Arc<Hosts>>,
    /// Who was announced when `offers` was made of it.
    instances: Option<Arc<[Instance]>>,
    /// When the routes were read.
    routes: Option<Instant>,
    /// The last good addresses of instances that are known by name.
    hosts_of: HashMap<String, Vec<IpAddr>>,
    /// A look-up is under way since then.
    asking: Option<Instant>,
    /// What was looked up last need not be looked up again before then.
    fresh_until: Option<Instant>,
}

/// Why a source has no addresses, or no new ones.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    Lookup(#[from] ResolveError),
    #[error("there is no default route over a gateway")]
    NoGateway,
    #[error("nobody is announced as `{name}`")]
    Nobody { name: String },
    #[error("the registry has not been reached yet: {reason}")]
    Unreached { reason: String },
}

/// How far reading what is at hand has come.
enum Glance {
    Enough,
    /// The rest is a look-up.
    TakesTime,
}

impl Source {
    /// `news` is what tells of a name in the registry.
    pub(super) fn new(way: Way, news: Option<watch::Receiver<News>>) -> Self {
        Self { way, news, known: Mutex::default(), ended: Notify::new() }
    }

    /// Takes in what is at hand now, so that an entry that is there at the start counts even if it is gone when the
    /// first connection comes.
    pub(super) fn prime(&self, resolver: &Resolver) {
        self.is_at_hand(resolver);
    }

    /// Takes in what is at hand. Whether that is all there is to ask.
    pub(super) fn is_at_hand(&self, resolver: &Resolver) -> bool {
        match self.glance(resolver) {
            Glance::Enough => true,
            Glance::TakesTime => false,
        }
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
            let until = answer.as_ref().ok().map(|answer| answer.until);
            asking.0.take(answer.map(|answer| in_order(answer.found)));
            asking.0.lock().fresh_until = until;
        });
    }

    /// Waits for the look-up under way, but not for one that takes long: there may be an answer from before, or
    /// another source.
    pub(super) async fn settle(&self) {
        let asking = self.lock().asking;
        if let Some(since) = asking {
            let _late = timeout_at((since + PATIENCE).into(), self.settled()).await;
        }
    }

    /// Waits for the look-up under way; it has a limit of its own.
    pub(super) async fn settled(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        // Another one may have begun when this one has ended: that is for others to wait for.
        if self.lock().asking.is_some() {
            ended.await;
        }
    }

    /// The last good answer.
    pub(super) fn offers(&self) -> Offers {
        Arc::clone(&self.lock().offers)
    }

    /// What is wrong with it at present.
    pub(super) fn error(&self) -> Option<Arc<SourceError>> {
        self.lock().error.clone()
    }

    fn glance(&self, resolver: &Resolver) -> Glance {
        match &self.way {
            Way::Peer(peer) => self.peer(peer, resolver.hosts()),
            Way::Host(to) => match resolver.listed(&to.host) {
                Some(found) => self.take(Ok(at_port(&found, to.port))),
                None => return self.last_look_up(),
            },
            Way::Srv(_) => return self.last_look_up(),
            Way::Registry(name) => return self.registry(name),
            Way::Gateway(port) => self.gateway(*port),
            Way::Unix(path) => self.take(Ok(offers([Endpoint::Unix(path.as_path().into())]))),
        }
        Glance::Enough
    }

    fn last_look_up(&self) -> Glance {
        match self.lock().fresh_until {
            Some(until) if Instant::now() < until => Glance::Enough,
            Some(_) | None => Glance::TakesTime,
        }
    }

    async fn look_up(&self, resolver: &Arc<Resolver>) -> Result<Answer<Offer<Endpoint>>, SourceError> {
        match &self.way {
            Way::Host(HostPort { host, port }) => {
                let answer = resolver.answer(host).await?;
                Ok(Answer { found: at_port(&answer.found, *port), until: answer.until })
            }
            Way::Srv(name) => self.locate(resolver.instances(name).await?, resolver).await,
            Way::Registry(name) => {
                let instances = self.announced().await?;
                if instances.is_empty() {
                    return Err(SourceError::Nobody { name: name.as_str().to_owned() });
                }
                let found = instances.iter().map(|one| (one.clone(), Vec::new())).collect();
                // Whoever comes or goes is told.
                self.locate(Answer { found, until: Instant::now() }, resolver).await
            }
            // These are at hand.
            Way::Peer(_) | Way::Gateway(_) | Way::Unix(_) => {
                Ok(Answer { found: self.offers().to_vec(), until: Instant::now() })
            }
        }
    }

    /// Finds the addresses of instances that came without. One that can't be looked up keeps its last ones, and one
    /// that has none is left out; with no address at all, the first error counts.
    async fn locate(
        &self,
        instances: Answer<(Instance, Vec<IpAddr>)>,
        resolver: &Arc<Resolver>,
    ) -> Result<Answer<Offer<Endpoint>>, SourceError> {
        let mut looking = JoinSet::new();
        let mut until = instances.until;
        let mut instances: Vec<_> = instances.found.into_iter().take(MOST).collect();
        for (instance, addresses) in &mut instances {
            if !addresses.is_empty() {
                continue;
            }
            match resolver.listed(&instance.host) {
                // The file may say something else any time.
                Some(listed) => (*addresses, until) = (listed, Instant::now()),
                None => {
                    let (host, resolver) = (instance.host.clone(), Arc::clone(resolver));
                    looking.spawn(async move {
                        let answer = resolver.answer(&host).await;
                        (host, answer)
                    });
                }
            }
        }
        let mut found: HashMap<String, Vec<IpAddr>> = HashMap::new();
        let mut first_error = None;
        while let Some(ended) = looking.join_next().await {
            // A panic has been reported where it happened; the host is then one that was not found.
            let Ok((host, answer)) = ended else { continue };
            let addresses = match answer {
                Ok(answer) => {
                    until = until.min(answer.until);
                    answer.found
                }
                Err(error) => {
                    until = Instant::now();
                    let is_answer = matches!(error, ResolveError::NotFound { .. });
                    first_error.get_or_insert(error);
                    let kept = self.lock().hosts_of.get(&host).cloned();
                    kept.filter(|_| !is_answer).unwrap_or_default()
                }
            };
            found.insert(host, addresses);
        }
        let offers: Vec<_> = instances
            .iter()
            .flat_map(|(instance, addresses)| {
                let addresses =
                    if addresses.is_empty() { found.get(&instance.host) } else { Some(addresses) };
                at_instance(instance, addresses.map_or(&[][..], Vec::as_slice))
            })
            .collect();
        self.lock().hosts_of = found;
        match first_error {
            Some(error) if offers.is_empty() => Err(error.into()),
            Some(_) | None => Ok(Answer { found: offers, until }),
        }
    }

    fn take(&self, answer: Result<Vec<Offer<Endpoint>>, SourceError>) {
        let mut known = self.lock();
        // Whoever was announced when a look-up began: the next look goes by who is announced then.
        (known.instances, known.fresh_until) = (None, None);
        let (offers, error) = match answer {
            Ok(offers) => (offers, None),
            // Nobody could be asked.
            Err(
                error @ (SourceError::Lookup(ResolveError::Failed { .. })
                | SourceError::NoGateway
                | SourceError::Unreached { .. }),
            ) => {
                known.error = Some(Arc::new(error));
                return;
            }
            // That is an answer: what was there may be another's by now.
            Err(
                error @ (SourceError::Lookup(ResolveError::NotFound { .. }) | SourceError::Nobody { .. }),
            ) => (Vec::new(), Some(Arc::new(error))),
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
            known.offers = offers(found.into_iter().map(Endpoint::Tcp)).into();
        } else if known.offers.is_empty() {
            known.offers = offers([Endpoint::Tcp(peer.address)]).into();
        }
        known.hosts = Some(hosts);
    }

    /// Takes in who is announced, where that needs no look-up.
    fn registry(&self, name: &DnsName) -> Glance {
        let Some(instances) = self.news.as_ref().and_then(|news| news.borrow().instances.clone()) else {
            return Glance::TakesTime;
        };
        if self.lock().instances.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &instances)) {
            return Glance::Enough;
        }
        let mut offers = Vec::new();
        for instance in instances.iter().take(MOST) {
            let Ok(ip) = instance.host.parse() else { return Glance::TakesTime };
            offers.extend(at_instance(instance, &[ip]));
        }
        self.take(match offers.is_empty() {
            true => Err(SourceError::Nobody { name: name.as_str().to_owned() }),
            false => Ok(in_order(offers)),
        });
        self.lock().instances = Some(instances);
        Glance::Enough
    }

    /// Who is announced, as soon as that is known.
    async fn announced(&self) -> Result<Arc<[Instance]>, SourceError> {
        let unreached = |reason: &str| SourceError::Unreached { reason: reason.to_owned() };
        let Some(mut news) = self.news.clone() else { return Err(unreached("nobody follows it")) };
        let answer = news.wait_for(|news| news.instances.is_some() || news.lost.is_some());
        match timeout(FIRST_NEWS, answer).await {
            Ok(Ok(news)) => match (&news.instances, &news.lost) {
                (Some(instances), _) => Ok(Arc::clone(instances)),
                (None, lost) => Err(unreached(lost.as_deref().unwrap_or("nothing was told"))),
            },
            Ok(Err(_)) => Err(unreached("nobody follows it any more")),
            Err(_) => Err(unreached("no answer")),
        }
    }

    fn gateway(&self, port: u16) {
        {
            let mut known = self.lock();
            if known.routes.is_some_and(|read| read.elapsed() < ROUTES) {
                return;
            }
            known.routes = Some(Instant::now());
        }
        let found = gateway::at_port(port);
        self.take(match found.is_empty() {
            true => Err(SourceError::NoGateway),
            false => Ok(offers(found.into_iter().map(Endpoint::Tcp))),
        });
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

/// In an order of its own: DNS servers turn theirs with each answer, which says nothing.
fn in_order(mut offers: Vec<Offer<Endpoint>>) -> Vec<Offer<Endpoint>> {
    offers.sort_by(|a, b| {
        let key = |offer: &Offer<Endpoint>| (offer.group, std::cmp::Reverse(offer.weight));
        key(a).cmp(&key(b)).then_with(|| a.address.cmp(&b.address))
    });
    offers
}

fn at_port(found: &[IpAddr], port: u16) -> Vec<Offer<Endpoint>> {
    offers(found.iter().map(|&ip| Endpoint::Tcp(SocketAddr::new(ip, port))))
}

/// Addresses that are all alike.
fn offers(addresses: impl IntoIterator<Item = Endpoint>) -> Vec<Offer<Endpoint>> {
    let weight = u32::from(WEIGHT) * FINER;
    addresses.into_iter().map(|address| Offer { address, group: 0, weight }).collect()
}

/// An instance with several addresses weighs no more than with one.
fn at_instance(instance: &Instance, addresses: &[IpAddr]) -> Vec<Offer<Endpoint>> {
    let each = u32::from(instance.weight) * FINER / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let offer = |&ip| Offer {
        address: Endpoint::Tcp(SocketAddr::new(ip, instance.port)),
        group: instance.priority.into(),
        weight: each,
    };
    addresses.iter().map(offer).collect()
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
