//! Which address we announce: the rules of the configuration over a snapshot of what this machine knows about itself.
//!
//! [`choose`] is pure and [`gather`] is the only one to look. Nothing here sends a packet or looks a name up. It must
//! never choose what others can't reach by accident: loopback, link-local and unspecified addresses only come out
//! where the registry itself is on loopback, or where the user wrote them down. Called by the driver before a
//! registration and by `check --online`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::config::AddressRule;

/// What this machine knows about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In the kernel's order; of interfaces that are up.
    pub interfaces: Vec<Interface>,
    pub hostname: String,
    /// The hosts file's text.
    pub hosts: String,
    /// The registry, where it is connected to and its address is known.
    pub registry: Option<SocketAddr>,
    /// The source address that the kernel would use towards `registry`.
    pub towards_registry: Option<IpAddr>,
    /// The source address of the default route, IPv4 before IPv6.
    pub towards_anywhere: Option<IpAddr>,
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub address: IpAddr,
}

/// The address to announce, and the rule that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub address: IpAddr,
    pub rule: AddressRule,
}

/// No rule gave an address; each says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address to announce: {}", list(.tried))]
pub struct AddressError {
    pub tried: Vec<(AddressRule, String)>,
}

fn list(tried: &[(AddressRule, String)]) -> String {
    let each: Vec<String> = tried.iter().map(|(rule, why)| format!("`{}`: {why}", shown(rule))).collect();
    each.join("; ")
}

/// A rule as it is written in the configuration.
pub fn shown(rule: &AddressRule) -> String {
    match rule {
        AddressRule::Auto => "auto".to_owned(),
        AddressRule::Public => "public".to_owned(),
        AddressRule::Private => "private".to_owned(),
        AddressRule::Container => "container".to_owned(),
        AddressRule::Interface(name) => format!("interface:{name}"),
        AddressRule::Cidr { network, prefix } => format!("cidr:{network}/{prefix}"),
        AddressRule::Env { variable, .. } => format!("env:{variable}"),
        AddressRule::Literal(address) => address.to_string(),
    }
}

/// They choose the same whatever this machine looks like: there is nothing to look for.
pub fn are_fixed(rules: &[AddressRule]) -> bool {
    rules.iter().all(|rule| match rule {
        AddressRule::Env { .. } | AddressRule::Literal(_) => true,
        AddressRule::Auto
        | AddressRule::Public
        | AddressRule::Private
        | AddressRule::Container
        | AddressRule::Interface(_)
        | AddressRule::Cidr { .. } => false,
    })
}

/// The address of the first rule that gives one.
pub fn choose(rules: &[AddressRule], snapshot: &Snapshot) -> Result<Chosen, AddressError> {
    let mut tried = Vec::new();
    for rule in rules {
        match apply(rule, snapshot) {
            Ok(address) => return Ok(Chosen { address, rule: rule.clone() }),
            Err(why) => tried.push((rule.clone(), why)),
        }
    }
    Err(AddressError { tried })
}

fn apply(rule: &AddressRule, snapshot: &Snapshot) -> Result<IpAddr, String> {
    match rule {
        AddressRule::Auto => auto(snapshot),
        AddressRule::Public => first(snapshot, |i| is_public(i.address))
            .ok_or_else(|| "no interface has a public address".to_owned()),
        AddressRule::Private => first(snapshot, |i| is_private(i.address))
            .or_else(|| second(snapshot))
            .ok_or_else(|| "no interface has a private address".to_owned()),
        AddressRule::Container => container(snapshot),
        AddressRule::Interface(name) => interface(snapshot, name),
        AddressRule::Cidr { network, prefix } => {
            let inside = |i: &Interface| within(i.address, *network, *prefix);
            first(snapshot, |i| inside(i) && usable(i.address))
                .or_else(|| first(snapshot, inside))
                .ok_or_else(|| "no interface has an address in it".to_owned())
        }
        AddressRule::Env { address, .. } | AddressRule::Literal(address) => written(*address),
    }
}

/// The way to the registry is the one that others most likely share. Without a registry to connect to: the default
/// route, or on a network without one the only address there is.
fn auto(snapshot: &Snapshot) -> Result<IpAddr, String> {
    let Some(registry) = snapshot.registry else {
        return snapshot
            .towards_anywhere
            .filter(|ip| usable(*ip))
            .or_else(|| only(snapshot))
            .ok_or_else(|| "there is no default route, and not just one address to choose from".to_owned());
    };
    let Some(source) = snapshot.towards_registry else {
        return Err(format!("there is no route to the registry at {}", registry.ip()));
    };
    if usable(source) || (source.is_loopback() && registry.ip().is_loopback()) {
        return Ok(source);
    }
    Err(format!("the way to the registry at {} begins at {source}, which others can't reach", registry.ip()))
}

/// The one usable IPv4 address, or where there is none the one usable IPv6 address.
fn only(snapshot: &Snapshot) -> Option<IpAddr> {
    let of = |v4: bool| -> Vec<IpAddr> {
        let all = snapshot.interfaces.iter().map(|i| i.address);
        all.filter(|ip| usable(*ip) && ip.is_ipv4() == v4).collect()
    };
    let (v4, v6) = (of(true), of(false));
    match (v4.as_slice(), v6.as_slice()) {
        ([one], _) | ([], [one]) => Some(*one),
        _ => None,
    }
}

/// Docker and Kubernetes write the container's address and its hostname into the hosts file.
fn container(snapshot: &Snapshot) -> Result<IpAddr, String> {
    let mut named = named_in_hosts(&snapshot.hosts, &snapshot.hostname);
    named.sort_by_key(IpAddr::is_ipv6);
    if let Some(address) = named.into_iter().find(|ip| usable(*ip)) {
        return Ok(address);
    }
    snapshot.towards_anywhere.filter(|ip| usable(*ip)).ok_or_else(|| {
        format!("the hosts file has no address for `{}`, and there is no default route", snapshot.hostname)
    })
}

fn named_in_hosts(hosts: &str, hostname: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(hostname)).then_some(address)
        })
        .collect()
}

/// Loopback is allowed here: the interface was named.
fn interface(snapshot: &Snapshot, name: &str) -> Result<IpAddr, String> {
    if !snapshot.interfaces.iter().any(|i| i.name == name) {
        let mut names: Vec<&str> = snapshot.interfaces.iter().map(|i| i.name.as_str()).collect();
        names.dedup();
        return Err(format!("no such interface is up with an address (there are: {})", names.join(", ")));
    }
    first(snapshot, |i| i.name == name && (usable(i.address) || i.address.is_loopback()))
        .ok_or_else(|| "it has link-local addresses only".to_owned())
}

/// What the user wrote is taken at their word, short of what no one can connect to.
fn written(address: IpAddr) -> Result<IpAddr, String> {
    if address.is_unspecified() || address.is_multicast() {
        return Err(format!("nobody can connect to {address}"));
    }
    Ok(address)
}

/// The first match, IPv4 before IPv6.
fn first(snapshot: &Snapshot, fits: impl Fn(&Interface) -> bool) -> Option<IpAddr> {
    let matching = || snapshot.interfaces.iter().filter(|i| fits(i)).map(|i| i.address);
    matching().find(IpAddr::is_ipv4).or_else(|| matching().next())
}

/// That of the second interface that others can reach: of a host with two, the first is the one to the outside.
fn second(snapshot: &Snapshot) -> Option<IpAddr> {
    let reached: Vec<&Interface> = snapshot.interfaces.iter().filter(|i| usable(i.address)).collect();
    let outer = reached.first()?;
    let inner = reached.iter().find(|i| i.name != outer.name)?;
    first(snapshot, |i| i.name == inner.name && usable(i.address))
}

/// Reachable from another machine, by its kind.
fn usable(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn is_public(address: IpAddr) -> bool {
    let shared = within(address, IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10);
    let ours = match address {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        // Global unicast.
        IpAddr::V6(_) => within(address, IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0)), 3),
    };
    usable(address) && !is_private(address) && !shared && ours
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    // A shift by the whole width (prefix 0) leaves nothing to compare.
    let differing = (address ^ network).checked_shr(width - u32::from(prefix.min(width as u8))).unwrap_or(0);
    differing == 0
}

/// Looks at this machine: a few system calls, no packet. `registry` is where the registry is connected to.
pub fn gather(registry: Option<SocketAddr>) -> Snapshot {
    // Documentation addresses: nobody's, so they take the default route.
    let anywhere = [
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)),
        SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)),
    ];
    Snapshot {
        interfaces: interfaces(),
        hostname: nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
        hosts: fs::read("/etc/hosts").map(|h| String::from_utf8_lossy(&h).into_owned()).unwrap_or_default(),
        registry,
        towards_registry: registry.and_then(source_towards),
        towards_anywhere: anywhere.into_iter().find_map(source_towards),
    }
}

fn interfaces() -> Vec<Interface> {
    // Without a list there are no interfaces to choose from, and the rules say so.
    let all = getifaddrs().into_iter().flatten().filter(|i| i.flags.contains(InterfaceFlags::IFF_UP));
    all.filter_map(|i| {
        let storage = i.address?;
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;
        Some(Interface { name: i.interface_name, address })
    })
    .collect()
}

/// The address that packets to `to` would come from; its own, where it is this machine's. Connecting a UDP socket sends
/// nothing: it only has the kernel choose a route and a source.
pub fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any =
        if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests;
