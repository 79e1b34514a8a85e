//! Where something listens or is reached: hosts, ports, addresses and the URLs made of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::Bad;
use crate::config::{AddressRule, HostPort, HttpTarget, RegistryUrl};

const HOST_MAX: usize = 253;
const ETCD_PORT: u16 = 2379;
const HTTP_PORT: u16 = 80;
/// Without the final NUL (IFNAMSIZ is 16).
const INTERFACE_MAX: usize = 15;

/// 1 to 65535.
pub fn port(text: &str) -> Result<u16, Bad> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        Ok(_) | Err(_) => Err(Bad::new("a port", "a port is a number from 1 to 65535")),
    }
}

/// `db:5432`, `10.0.0.1:5432`, `[::1]:5432`.
pub fn host_port(text: &str) -> Result<HostPort, Bad> {
    authority(text, None).map_err(|why| {
        Bad::new("a host and port", why).hint("it is written like `db:5432`, `10.0.0.1:5432` or `[::1]:5432`")
    })
}

/// A host, and a port unless there is a default for it.
fn authority(text: &str, default_port: Option<u16>) -> Result<HostPort, String> {
    let (host, port_text) = if let Some(rest) = text.strip_prefix('[') {
        let (inner, rest) = rest.split_once(']').ok_or("`]` is missing")?;
        let address: Ipv6Addr = inner.parse().map_err(|_| "what is in brackets must be an IPv6 address")?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or("after `]` only `:` and a port may follow")?),
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if host.contains("//") {
            return Err("it is a host and a port, without a scheme".to_owned());
        }
        if host.contains(':') {
            return Err("an IPv6 address goes in brackets".to_owned());
        }
        (hostname(host)?, port)
    };
    let port = match port_text {
        Some(text) => port(text).map_err(|bad| bad.why)?,
        None => default_port.ok_or("the port is missing")?,
    };
    Ok(HostPort { host, port })
}

/// A name to look up; service names hold `_`.
pub fn host_name(text: &str) -> Result<String, Bad> {
    hostname(text).map_err(|why| Bad::new("a host's name", why))
}

/// Container names hold `_`, so it is taken here.
fn hostname(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if text.len() > HOST_MAX {
        return Err(format!("the host is longer than {HOST_MAX} characters"));
    }
    if let Some(c) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        return Err(format!("`{c}` may not stand in a host's name"));
    }
    if text.starts_with('.') || text.contains("..") {
        return Err("a part of the host's name is empty".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// `http://host[:port][/path][?query]`.
pub fn http_url(text: &str) -> Result<HttpTarget, Bad> {
    let bad = |why: String| {
        Bad::new("a URL to check", why)
            .hint("it is written like `http://127.0.0.1:8000/healthz`, plain http only")
    };
    let rest = text.strip_prefix("http://").ok_or_else(|| bad("it must begin with `http://`".to_owned()))?;
    let (authority_text, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority_text.contains('@') {
        return Err(bad("a user can't be given".to_owned()));
    }
    if path.contains('#') {
        return Err(bad("a `#` part is never sent".to_owned()));
    }
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(bad(format!("`{c}` must be percent-encoded")));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(HttpTarget { authority: authority(authority_text, Some(HTTP_PORT)).map_err(bad)?, path })
}

/// What a registry's URL says of the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain, unless a certificate is given.
    Unsaid,
    Tls,
}

/// `etcd://a:2379,b:2379`, `etcd2://a`, `etcds://a` and `etcd2s://a` for TLS, `dir:/path`.
pub fn registry_url(text: &str) -> Result<(RegistryUrl, Transport), Bad> {
    let bad = |why: &str| {
        Bad::new("a registry", why)
            .hint("it is written like `etcd://10.0.0.1:2379,10.0.0.2:2379`, `etcd2://10.0.0.1`, `etcds://` or `etcd2s://` for TLS, or `dir:/run/registry`")
    };
    if let Some(path) = text.strip_prefix("dir:") {
        return match path.starts_with('/') {
            true => Ok((RegistryUrl::Dir(PathBuf::from(path)), Transport::Unsaid)),
            false => Err(bad("the folder's path must begin with `/`")),
        };
    }
    let hosts = |list: &str| {
        if list.contains('@') {
            return Err(bad("a user is not given in it, but by `user` and `password_file`"));
        }
        if list.contains('/') {
            return Err(bad("it has no path: keys are set with `registry.prefix`"));
        }
        list.split(',').map(|one| authority(one, Some(ETCD_PORT)).map_err(|why| bad(&why))).collect()
    };
    match text.split_once("://") {
        Some(("etcd", list)) => Ok((RegistryUrl::Etcd3(hosts(list)?), Transport::Unsaid)),
        Some(("etcds", list)) => Ok((RegistryUrl::Etcd3(hosts(list)?), Transport::Tls)),
        Some(("etcd2", list)) => Ok((RegistryUrl::Etcd2(hosts(list)?), Transport::Unsaid)),
        Some(("etcd2s", list)) => Ok((RegistryUrl::Etcd2(hosts(list)?), Transport::Tls)),
        Some(_) | None => {
            Err(bad("it must begin with `etcd://`, `etcds://`, `etcd2://`, `etcd2s://` or `dir:`"))
        }
    }
}

/// One way to find the announced address; `env:NAME` is resolved by whoever knows the environment.
pub fn address_rule(text: &str) -> Result<AddressRule, Bad> {
    let bad = |why: &str| {
        Bad::new("an address rule", why).hint(
            "it is `auto`, `public`, `private`, `container`, `interface:NAME`, `cidr:NETWORK`, `env:VARIABLE` or an address",
        )
    };
    if let Some(name) = text.strip_prefix("interface:") {
        let good = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        return match !name.is_empty() && name.len() <= INTERFACE_MAX && name.chars().all(good) {
            true => Ok(AddressRule::Interface(name.to_owned())),
            false => Err(bad("an interface can't have this name")),
        };
    }
    if let Some(network) = text.strip_prefix("cidr:") {
        return cidr(network).map_err(|why| bad(&why));
    }
    match text {
        "auto" => Ok(AddressRule::Auto),
        "public" => Ok(AddressRule::Public),
        "private" => Ok(AddressRule::Private),
        "container" => Ok(AddressRule::Container),
        other => {
            let address: IpAddr =
                other.parse().map_err(|_| bad("there is no such rule, and it is no address"))?;
            announceable(address).map(AddressRule::Literal).map_err(bad)
        }
    }
}

/// An address that others could connect to.
fn announceable(address: IpAddr) -> Result<IpAddr, &'static str> {
    if address.is_unspecified() || address.is_multicast() {
        return Err("nobody can connect to this address");
    }
    Ok(address)
}

/// `10.0.0.0/8`, `fd00::/8`.
fn cidr(text: &str) -> Result<AddressRule, String> {
    let (address, length) = text.split_once('/').ok_or("a network has a `/` and a length")?;
    let network: IpAddr = address.parse().map_err(|_| "before the `/` must be an address")?;
    let bits = if network.is_ipv4() { 32 } else { 128 };
    let prefix = length.parse::<u8>().ok().filter(|prefix| *prefix <= bits && !length.starts_with('+'));
    let prefix = prefix.ok_or_else(|| format!("after the `/` must be a number from 0 to {bits}"))?;
    let host_bits = u32::from(bits - prefix);
    let masked = match network {
        IpAddr::V4(v4) => {
            IpAddr::from(Ipv4Addr::from(v4.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)))
        }
        IpAddr::V6(v6) => {
            IpAddr::from(Ipv6Addr::from(v6.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)))
        }
    };
    if masked != network {
        return Err(format!("the network is `{masked}/{prefix}`"));
    }
    Ok(AddressRule::Cidr { network, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.to_owned(), port }
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(host_port("DB_1:5432"), Ok(at("db_1", 5432)));
        assert_eq!(host_port("10.0.0.1:1"), Ok(at("10.0.0.1", 1)));
        assert_eq!(host_port("[::1]:65535"), Ok(at("::1", 65535)));
        for text in [
            "", ":", "db", "db:", ":1", "db:0", "db:65536", "db:+1", "::1:80", "[::1]", "[::1", "[db]:1",
            "[::1]1", "a b:1", "a..b:1",
        ] {
            assert!(host_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_to_check() {
        let target = |authority, path: &str| Ok(HttpTarget { authority, path: path.to_owned() });
        assert_eq!(http_url("http://localhost"), target(at("localhost", 80), "/"));
        assert_eq!(http_url("http://[::1]:81?a=b"), target(at("::1", 81), "/?a=b"));
        assert_eq!(http_url("http://x:8000/a/b"), target(at("x", 8000), "/a/b"));
        for text in [
            "",
            "x",
            "https://x",
            "http://",
            "http://u:p@x",
            "http://x/#a",
            "http://x/a b",
            "http://x/\n",
            "http://x:/",
        ] {
            assert!(http_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn registries() {
        assert_eq!(
            registry_url("etcd://a,[::1]:1"),
            Ok((RegistryUrl::Etcd3(vec![at("a", 2379), at("::1", 1)]), Transport::Unsaid))
        );
        let v2 = || RegistryUrl::Etcd2(vec![at("a", 4001)]);
        assert_eq!(registry_url("etcd2://a:4001"), Ok((v2(), Transport::Unsaid)));
        assert_eq!(registry_url("etcd2s://a:4001"), Ok((v2(), Transport::Tls)));
        assert_eq!(registry_url("etcds://a"), Ok((RegistryUrl::Etcd3(vec![at("a", 2379)]), Transport::Tls)));
        assert_eq!(registry_url("dir:/x"), Ok((RegistryUrl::Dir("/x".into()), Transport::Unsaid)));
        for text in [
            "",
            "dir:",
            "dir:x",
            "etcd://",
            "etcd://a,",
            "etcd://a/b",
            "etcd://u@a",
            "http://a",
            "https://a",
            "etcd3://a",
            "etcd:a",
        ] {
            assert!(registry_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn address_rules() {
        assert_eq!(address_rule("interface:eth1"), Ok(AddressRule::Interface("eth1".to_owned())));
        let network =
            |text: &str, prefix| Ok(AddressRule::Cidr { network: text.parse().expect("literal"), prefix });
        assert_eq!(address_rule("cidr:10.0.0.0/8"), network("10.0.0.0", 8));
        assert_eq!(address_rule("cidr:0.0.0.0/0"), network("0.0.0.0", 0));
        assert_eq!(address_rule("cidr:fd00::/8"), network("fd00::", 8));
        assert_eq!(address_rule("cidr:::1/128"), network("::1", 128));
        for text in [
            "",
            "Auto",
            "interface:",
            "interface:a/b",
            "cidr:10.0.0.0",
            "cidr:10.0.0.0/33",
            "cidr:10.0.0.1/8",
            "0.0.0.0",
            "ff02::1",
        ] {
            assert!(address_rule(text).is_err(), "{text}");
        }
    }
}
