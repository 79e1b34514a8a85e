//! What would be forwarded, worked out before anything is opened: from the configuration and the environment.
//! Pure; never opens, looks up or logs anything. Called by the wiring before `open`, and by `ensign links`.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::docker_env::{self, EnvLink, EnvPort, Origin, Problem, Protocol};
use crate::config::{
    Balance, Config, DnsName, EnvLinks, HostPort, Link, Listen, ListenAt, Upstream, Workers,
};

/// No more links than this are opened for variables: each takes two descriptors, and an init needs some of its own.
pub const MOST_AUTOMATIC: usize = 256;

/// One connection attempt to a peer that only variables name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Of a client's session through a UDP port that only variables name.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that `open` would open, and what there is to say about the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Those of the files first, in their order; then the variables', by alias and port.
    pub forwards: Vec<Forward>,
    /// For the log, as warnings.
    pub notices: Vec<Notice>,
    /// With any of these nothing can be opened.
    pub errors: Vec<PlanError>,
    /// How many threads share the connections.
    pub workers: Workers,
}

/// What listens for one kind of traffic, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub listen: Bind,
    pub to: Target,
    pub source: Source,
    /// For one connection attempt to one address.
    pub connect_timeout: Duration,
    /// So many may be open at a time; of UDP, sessions.
    pub max_connections: Option<NonZeroU32>,
    /// A UDP client that is silent for so long, both ways, is forgotten.
    pub idle_timeout: Duration,
}

/// Where a forward listens: for streams or for datagrams, never for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// 127.0.0.1, and [::1] where the machine has it.
    Loopback(Transport, u16),
    /// Every one of these, or the link is not open. Never empty.
    At(Vec<ListenAt>),
}

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Connections, of TCP or of Unix sockets.
    Stream,
    /// UDP.
    Datagram,
}

/// Where the connections of a forward go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// All of them together. Never empty.
    pub ways: Vec<Way>,
    pub balance: Balance,
}

/// One way to find addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Peer(Peer),
    Host(HostPort),
    /// The SRV records of a name.
    Srv(String),
    /// Who is announced under a name.
    Registry(DnsName),
    /// A port of the default route's gateway.
    Gateway(u16),
    Unix(PathBuf),
}

/// The other end of a Docker link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// As the variables spell them; several when Compose linked one container several times.
    pub aliases: Vec<String>,
    /// As the hosts file spells them, where the variables say.
    pub names: Vec<String>,
    /// In the variable's name: what programs know the port by.
    pub number: u16,
    /// Where the peer was when this container started. Somebody else may live there by now.
    pub address: SocketAddr,
}

/// Who asked for a forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Docker's variables, for these aliases.
    Variables(Vec<String>),
    /// `[[link]]` in a file.
    File { service: String, link: String },
}

/// Something that is not forwarded, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    #[error(transparent)]
    Variable(#[from] Problem),
    #[error("link {alias}: {protocol} is not forwarded yet: {}", list(ports))]
    Protocol { alias: String, protocol: Protocol, ports: Vec<u16> },
    #[error(
        "port {port}{transport} goes to {taker}; {loser} ({address}) wants it too: give one of them another with \
         `listen` in a `[[link]]`"
    )]
    Taken { port: u16, transport: Transport, taker: Source, loser: String, address: SocketAddr },
    #[error(
        "only {MOST_AUTOMATIC} links are opened for variables; {left} are left out: name those to open with `--links`"
    )]
    TooMany { left: usize },
}

/// Something that a file asks for and that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{link}: no variable {} is set for `env:{alias}`", variables(alias, missing))]
    NoVariables { link: Source, alias: String, missing: Vec<Transport> },
    #[error("{link}: the port to listen at does not follow from `to`: give `listen`")]
    NoPort { link: Source },
    #[error("{first} and {second} both listen on {at}")]
    Twice { first: Source, second: Source, at: ListenAt },
}

/// What to forward: the links of every service, then the automatic ones of `env`.
pub fn plan(config: &Config, env: impl IntoIterator<Item = (OsString, OsString)>) -> Plan {
    let services = config.services.iter();
    let links = services.flat_map(|service| service.links.iter().map(|link| (service.name.as_str(), link)));
    Plan { workers: config.links.workers, ..plan_links(&config.links.env, links, env) }
}

/// [`plan`] for `(service, link)` pairs, with no more of a configuration than it needs.
pub fn plan_links<'a>(
    automatic: &EnvLinks,
    links: impl IntoIterator<Item = (&'a str, &'a Link)>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Plan {
    let found = docker_env::scan(env);
    let mut plan = Plan::default();
    let mut used = Vec::new();
    for (service, link) in links {
        let source = Source::File { service: service.to_owned(), link: link.name.clone() };
        let named = link.to.iter().filter_map(|to| match to {
            Upstream::Env(alias) => Some(docker_env::alias_of(alias)),
            Upstream::HostPort(_)
            | Upstream::Srv(_)
            | Upstream::Registry(_)
            | Upstream::Gateway(_)
            | Upstream::Unix(_) => None,
        });
        let wanted = transports(&link.listen);
        let mut peers = Vec::new();
        for alias in named {
            let peer = found.iter().find(|found| docker_env::alias_of(&found.alias) == alias);
            let has =
                |transport: &&Transport| peer.is_some_and(|peer| of(**transport, peer).next().is_some());
            let (there, missing): (Vec<_>, Vec<_>) = wanted.iter().partition(has);
            // Where nothing says which, either will do; else there must be a port for each.
            let is_enough = match link.listen {
                Listen::Loopback => !there.is_empty(),
                Listen::At(_) => missing.is_empty(),
            };
            peers.extend(peer.filter(|_| is_enough));
            if !is_enough {
                plan.errors.push(PlanError::NoVariables { link: source.clone(), alias, missing });
            }
        }
        peers.iter().for_each(|peer| plan.note(peer));
        plan.add_link(&peers, source, link);
        used.extend(peers);
    }
    plan.add_automatic(found.iter().filter(|link| is_wanted(automatic, link)), &used);
    plan
}

impl Plan {
    /// A link of a file, with the Docker links that it names.
    fn add_link(&mut self, peers: &[&EnvLink], source: Source, link: &Link) {
        let target = |transport, port| target(peers, link, transport, port);
        match (&link.listen, &link.to[..]) {
            // A port for each of the peer's.
            (Listen::Loopback, [Upstream::Env(_)]) => {
                for (transport, port) in peers.iter().flat_map(|peer| forwarded(peer)) {
                    let listen = Bind::Loopback(transport, port.number);
                    let to = target(transport, Some(port.number));
                    self.add_from_file(listen, to, source.clone(), link);
                }
            }
            (Listen::Loopback, ways) => match ways.iter().find_map(Upstream::port) {
                Some(port) => {
                    let listen = Bind::Loopback(Transport::Stream, port);
                    self.add_from_file(listen, target(Transport::Stream, Some(port)), source, link);
                }
                None => self.errors.push(PlanError::NoPort { link: source }),
            },
            (Listen::At(places), _) => {
                for transport in [Transport::Stream, Transport::Datagram] {
                    let places = places.iter().filter(|at| Transport::at(at) == transport).cloned();
                    let groups = match peers {
                        [] => vec![places.collect()],
                        // Which port of the peer's is meant goes by where it listens.
                        [_, ..] => places.map(|at| vec![at]).collect(),
                    };
                    for places in groups.into_iter().filter(|places: &Vec<_>| !places.is_empty()) {
                        let port = places.iter().find_map(ListenAt::port);
                        let to = target(transport, port);
                        self.add_from_file(Bind::At(places), to, source.clone(), link);
                    }
                }
            }
        }
    }

    fn add_from_file(&mut self, listen: Bind, to: Target, source: Source, link: &Link) {
        // Its variables are missing, which is told.
        if to.ways.is_empty() {
            return;
        }
        let taken = self.forwards.iter().find_map(|other| Some((other, overlap(&other.listen, &listen)?)));
        match taken {
            Some((other, at)) => {
                self.errors.push(PlanError::Twice { first: other.source.clone(), second: source, at })
            }
            None => self.forwards.push(Forward {
                listen,
                to,
                source,
                connect_timeout: link.connect_timeout,
                max_connections: link.max_connections,
                idle_timeout: link.idle_timeout,
            }),
        }
    }

    fn add_automatic<'a>(&mut self, links: impl Iterator<Item = &'a EnvLink>, used: &[&EnvLink]) {
        let (mut opened, mut left) = (0, 0);
        for link in links.filter(|link| !used.iter().any(|used| used.alias == link.alias)) {
            self.note(link);
            // Another alias of a peer that a file has a link for is that peer still.
            let is_used = |port: &EnvPort| used.iter().any(|used| used.ports.contains(port));
            for (transport, port) in forwarded(link).filter(|(_, port)| !is_used(port)) {
                let listen = Bind::Loopback(transport, port.number);
                let taker = self.forwards.iter_mut().find(|other| overlap(&other.listen, &listen).is_some());
                match taker {
                    None if opened == MOST_AUTOMATIC => left += 1,
                    None => {
                        opened += 1;
                        self.forwards.push(Forward {
                            listen,
                            to: Target {
                                ways: vec![Way::Peer(Peer::new(link, port))],
                                balance: Balance::First,
                            },
                            source: Source::Variables(vec![link.alias.clone()]),
                            connect_timeout: CONNECT_TIMEOUT,
                            max_connections: None,
                            idle_timeout: IDLE_TIMEOUT,
                        });
                    }
                    Some(taker) => {
                        if !taker.is_joined_by(link, port) {
                            self.notices.push(Notice::Taken {
                                port: port.number,
                                transport,
                                taker: taker.source.clone(),
                                loser: link.alias.clone(),
                                address: port.to,
                            });
                        }
                    }
                }
            }
        }
        if left > 0 {
            self.notices.push(Notice::TooMany { left });
        }
    }

    /// What is to say about an alias that is used.
    fn note(&mut self, link: &EnvLink) {
        self.notices.extend(link.problems.iter().cloned().map(Notice::Variable));
        let of_it = link.ports.iter().filter(|port| port.protocol == Protocol::Sctp);
        let ports: Vec<u16> = of_it.map(|port| port.number).collect();
        if !ports.is_empty() {
            let (alias, protocol) = (link.alias.clone(), Protocol::Sctp);
            self.notices.push(Notice::Protocol { alias, protocol, ports });
        }
    }
}

impl Target {
    /// The names that are to be followed in the registry.
    pub fn names(&self) -> impl Iterator<Item = &DnsName> {
        self.ways.iter().filter_map(|way| match way {
            Way::Registry(name) => Some(name),
            Way::Peer(_) | Way::Host(_) | Way::Srv(_) | Way::Gateway(_) | Way::Unix(_) => None,
        })
    }
}

impl Forward {
    /// Takes in one more alias of the same peer; false when it is another peer.
    fn is_joined_by(&mut self, link: &EnvLink, port: &EnvPort) -> bool {
        let ([Way::Peer(peer)], Source::Variables(aliases)) = (&mut self.to.ways[..], &mut self.source)
        else {
            return false;
        };
        if peer.address != port.to {
            return false;
        }
        let more = Peer::new(link, port);
        aliases.extend(more.aliases.iter().cloned());
        peer.aliases.extend(more.aliases);
        peer.names.extend(more.names);
        true
    }
}

impl Peer {
    fn new(link: &EnvLink, port: &EnvPort) -> Self {
        let names = link.name.iter().cloned().collect();
        Self { aliases: vec![link.alias.clone()], names, number: port.number, address: port.to }
    }
}

impl Bind {
    /// The places to listen at, those that must be there first.
    pub fn places(&self) -> Vec<ListenAt> {
        let at = |ip: IpAddr, transport: &Transport, port: &u16| match transport {
            Transport::Stream => ListenAt::Tcp(SocketAddr::new(ip, *port)),
            Transport::Datagram => ListenAt::Udp(SocketAddr::new(ip, *port)),
        };
        match self {
            Self::Loopback(transport, port) => vec![
                at(Ipv4Addr::LOCALHOST.into(), transport, port),
                at(Ipv6Addr::LOCALHOST.into(), transport, port),
            ],
            Self::At(places) => places.clone(),
        }
    }
}

impl Transport {
    pub(super) fn at(place: &ListenAt) -> Self {
        match place {
            ListenAt::Tcp(_) | ListenAt::Unix(_) => Self::Stream,
            ListenAt::Udp(_) => Self::Datagram,
        }
    }

    fn of(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Tcp => Some(Self::Stream),
            Protocol::Udp => Some(Self::Datagram),
            Protocol::Sctp => None,
        }
    }
}

/// What a link may listen for.
fn transports(listen: &Listen) -> Vec<Transport> {
    let all = [Transport::Stream, Transport::Datagram].into_iter();
    match listen {
        Listen::Loopback => all.collect(),
        Listen::At(places) => all.filter(|one| places.iter().any(|at| Transport::at(at) == *one)).collect(),
    }
}

/// Where the connections of `link` go; of a Docker link, to its port of this number, else to the lowest, which
/// Docker's `DB_PORT` names.
fn target(peers: &[&EnvLink], link: &Link, transport: Transport, port: Option<u16>) -> Target {
    let mut peers = peers.iter();
    let ways = link.to.iter().filter_map(|to| match to {
        Upstream::HostPort(to) => Some(Way::Host(to.clone())),
        Upstream::Srv(name) => Some(Way::Srv(name.clone())),
        Upstream::Registry(name) => Some(Way::Registry(name.clone())),
        Upstream::Gateway(port) => Some(Way::Gateway(*port)),
        Upstream::Unix(path) => Some(Way::Unix(path.clone())),
        Upstream::Env(_) => {
            let peer = peers.next()?;
            let known = || of(transport, peer);
            let port = known().find(|known| Some(known.number) == port).or_else(|| known().next())?;
            Some(Way::Peer(Peer::new(peer, port)))
        }
    });
    Target { ways: ways.collect(), balance: link.balance }
}

/// The ports that can be forwarded.
fn forwarded(link: &EnvLink) -> impl Iterator<Item = (Transport, &EnvPort)> {
    link.ports.iter().filter_map(|port| Some((Transport::of(port.protocol)?, port)))
}

fn of(transport: Transport, link: &EnvLink) -> impl Iterator<Item = &EnvPort> {
    forwarded(link).filter(move |(one, _)| *one == transport).map(|(_, port)| port)
}

fn is_wanted(automatic: &EnvLinks, link: &EnvLink) -> bool {
    link.origin == Origin::Docker
        && match automatic {
            EnvLinks::All => true,
            EnvLinks::None => false,
            EnvLinks::Matching(patterns) => {
                patterns.iter().any(|pattern| docker_env::matches(pattern, &link.alias))
            }
        }
}

/// A place that both would listen at.
fn overlap(a: &Bind, b: &Bind) -> Option<ListenAt> {
    let b = b.places();
    a.places().into_iter().find(|a| b.iter().any(|b| a.is_in_the_way_of(b)))
}

/// "`DB_PORT_…_TCP` or `DB_PORT_…_UDP`"
fn variables(alias: &str, missing: &[Transport]) -> String {
    let names = missing.iter().map(|transport| match transport {
        Transport::Stream => format!("`{alias}_PORT_…_TCP`"),
        Transport::Datagram => format!("`{alias}_PORT_…_UDP`"),
    });
    names.collect::<Vec<_>>().join(" or ")
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variables(aliases) => write!(f, "{}", aliases.join(", ")),
            Self::File { service, link } => write!(f, "link `{link}` of {service}"),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(transport, port) => write!(f, "localhost:{port}{transport}"),
            Self::At(places) => {
                let texts: Vec<_> = places.iter().map(ListenAt::to_string).collect();
                f.write_str(&texts.join(", "))
            }
        }
    }
}

impl fmt::Display for Transport {
    /// What follows a port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "",
            Self::Datagram => "/udp",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways: Vec<_> = self.ways.iter().map(Way::to_string).collect();
        f.write_str(&ways.join(", "))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => write!(f, "{}", peer.address),
            Self::Host(host) => write!(f, "{host}"),
            Self::Srv(name) => write!(f, "srv:{name}"),
            Self::Registry(name) => write!(f, "registry:{}", name.as_str()),
            Self::Gateway(port) => write!(f, "gateway:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
