//! The variables that a link with `export` gives to its service: Docker's, but what they say is where the link listens.
//! That stays true wherever the upstream moves. Pure; called by the wiring, and by `ensign links --env`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::docker_env::{self, Belongs, Protocol};
use super::plan::{Bind, Forward, Plan, Source, Way};
use crate::config::{ListenAt, Service};

/// What the links of one service say to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// As Docker spells the links' names.
    aliases: Vec<String>,
    variables: Vec<(OsString, OsString)>,
}

/// The ports of a link by the numbers that programs know them by.
type Ports = BTreeMap<(Protocol, u16), SocketAddr>;

/// What the links of `service` export, as `plan` has them.
pub fn exported(service: &Service, plan: &Plan) -> Exported {
    let mut all = Exported::default();
    for link in service.links.iter().filter(|link| link.export) {
        let source = Source::File { service: service.name.clone(), link: link.name.clone() };
        let forwards = plan.forwards.iter().filter(|forward| forward.source == source);
        let alias = docker_env::alias_of(&link.name);
        all.add(format!("{alias}_NAME"), format!("/{}/{}", service.name, link.name));
        all.add_ports(&alias, &ports(forwards));
        all.aliases.push(alias);
    }
    all
}

impl Exported {
    /// In no order that matters; each name once.
    pub fn variables(&self) -> &[(OsString, OsString)] {
        &self.variables
    }

    /// Whether a variable of this name that we were given would say something else of the same link. The peer's own
    /// variables (`DB_ENV_…`) do not.
    pub fn replaces(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else { return false };
        self.aliases.iter().any(|alias| docker_env::belongs(name, alias) == Belongs::Yes)
    }

    fn add(&mut self, name: String, value: String) {
        self.variables.push((name.into(), value.into()));
    }

    fn add_ports(&mut self, alias: &str, ports: &Ports) {
        // TCP goes first, then the lowest.
        if let Some(((protocol, _), at)) = ports.first_key_value() {
            self.add(format!("{alias}_PORT"), url(*protocol, *at));
        }
        for ((protocol, number), at) in ports {
            let of_port = format!("{alias}_PORT_{number}_{}", protocol.to_string().to_uppercase());
            self.add(format!("{of_port}_ADDR"), at.ip().to_string());
            self.add(format!("{of_port}_PORT"), at.port().to_string());
            self.add(format!("{of_port}_PROTO"), protocol.to_string());
            self.add(of_port, url(*protocol, *at));
        }
    }
}

/// Under the number that it listens at, and under the upstream's own where that is known: a program may look for either.
fn ports<'a>(forwards: impl Iterator<Item = &'a Forward> + Clone) -> Ports {
    let mut ports = Ports::new();
    for forward in forwards.clone() {
        for (protocol, at) in local(&forward.listen) {
            ports.entry((protocol, at.port())).or_insert(at);
        }
    }
    for forward in forwards {
        let first = local(&forward.listen).first().copied();
        if let (Some(number), Some((protocol, at))) = (upstreams_port(&forward.to.ways), first) {
            ports.entry((protocol, number)).or_insert(at);
        }
    }
    ports
}

/// Where this container's processes find the link, IPv4 first. A path is nothing that these variables can say.
fn local(listen: &Bind) -> Vec<(Protocol, SocketAddr)> {
    let places = listen.places().into_iter().filter_map(|at| match at {
        ListenAt::Tcp(address) => Some((Protocol::Tcp, reachable(address))),
        ListenAt::Udp(address) => Some((Protocol::Udp, reachable(address))),
        ListenAt::Unix(_) => None,
    });
    let mut places: Vec<_> = places.collect();
    places.sort_by_key(|(_, address)| address.is_ipv6());
    places
}

fn reachable(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    listen
}

/// The port of the upstream, where all its sources say the same one in advance.
fn upstreams_port(ways: &[Way]) -> Option<u16> {
    let mut ports = ways.iter().map(|way| match way {
        Way::Peer(peer) => Some(peer.number),
        Way::Host(host) => Some(host.port),
        Way::Gateway(port) => Some(*port),
        Way::Srv(_) | Way::Registry(_) | Way::Unix(_) => None,
    });
    let first = ports.next()?;
    first.filter(|_| ports.all(|port| port == first))
}

/// As Docker writes it: an IPv6 address has no brackets.
fn url(protocol: Protocol, at: SocketAddr) -> String {
    format!("{protocol}://{}:{}", at.ip(), at.port())
}

#[cfg(test)]
mod tests;
