//! Both ends of a link: where it listens, and where it leads.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Bad, dns_name, host_name, host_port, port};
use crate::config::{ListenAt, UnixSocket, Upstream};

/// The longest path of a socket, without the final NUL.
const UNIX_MAX: usize = 107;

/// A place of our own to listen at: `127.0.0.1:5432`, `[::1]:53/udp`, `unix:/run/db.sock`. Who may connect to a socket
/// is not in the text: `socket` says it.
pub fn listen(text: &str, socket: impl FnOnce(PathBuf) -> UnixSocket) -> Result<ListenAt, Bad> {
    let bad = |why: &str| {
        Bad::new("a place to listen at", why).hint(
            "it is written like `127.0.0.1:5432`, `[::1]:5432`, `127.0.0.1:53/udp` or `unix:/run/db.sock`, without a name",
        )
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(|path| ListenAt::Unix(socket(path))).map_err(bad);
    }
    let (address, listen_at): (_, fn(SocketAddr) -> ListenAt) = match text.split_once('/') {
        None => (text, ListenAt::Tcp),
        Some((address, "tcp")) => (address, ListenAt::Tcp),
        Some((address, "udp")) => (address, ListenAt::Udp),
        Some(_) => return Err(bad("after the port only `/tcp` or `/udp` may follow")),
    };
    let address: SocketAddr = address.parse().map_err(|_| bad("it is no address with a port"))?;
    if address.port() == 0 {
        return Err(bad("a port is a number from 1 to 65535"));
    }
    if address.ip().is_multicast() {
        return Err(bad("it is a multicast address"));
    }
    Ok(listen_at(address))
}

/// One way to an upstream.
pub fn upstream(text: &str) -> Result<Upstream, Bad> {
    let bad = |why: &str| {
        Bad::new("an upstream", why).hint(
            "it is written like `db:5432`, `[fd00::1]:5432`, `srv:_pg._tcp.example.com`, `registry:pg.example.com`, `gateway:8000`, \
             `unix:/run/db.sock` or `env:DB`, the latter for a Docker link",
        )
    };
    let is_alias = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '=');
    match text.split_once(':') {
        Some(("env", alias)) if is_alias(alias) => Ok(Upstream::Env(alias.to_owned())),
        Some(("env", _)) => Err(bad("`env:` must be followed by the link's alias")),
        Some(("srv", name)) => host_name(name).map(Upstream::Srv).map_err(|inner| bad(&inner.why)),
        Some(("gateway", text)) => port(text).map(Upstream::Gateway).map_err(|inner| bad(&inner.why)),
        Some(("unix", path)) => socket_path(path).map(Upstream::Unix).map_err(bad),
        Some(("registry", name)) => dns_name(name).map(Upstream::Registry).map_err(|inner| bad(&inner.why)),
        Some(_) | None => host_port(text).map(Upstream::HostPort).map_err(|inner| bad(&inner.why)),
    }
}

/// Permission bits, in octal as chmod(1) takes them.
pub fn mode(text: &str) -> Result<u32, Bad> {
    let bad = |why: &str| Bad::new("a mode", why).hint("it is written like `0600` or `0660`");
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    let mode = mode.ok_or_else(|| bad("it has three or four digits from 0 to 7"))?;
    if mode > 0o777 { Err(bad("a socket has permissions alone")) } else { Ok(mode) }
}

fn socket_path(path: &str) -> Result<PathBuf, &'static str> {
    if !path.starts_with('/') {
        return Err("the socket's path must begin with `/`");
    }
    if path.len() > UNIX_MAX || path.contains('\0') {
        return Err("no socket can have this path: it is longer than 107 bytes, or holds a NUL");
    }
    if path.ends_with('/') {
        return Err("the path is that of a folder");
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<ListenAt, Bad> {
        listen(text, |path| UnixSocket { path, mode: 0o600, owner: None })
    }

    #[test]
    fn a_place_is_shown_as_it_is_written() {
        for text in ["127.0.0.1:5432", "[::1]:5432", "127.0.0.1:53/udp", "[::]:53/udp", "unix:/run/db.sock"] {
            assert_eq!(at(text).expect("a place").to_string(), text);
        }
        assert_eq!(at("127.0.0.1:53/tcp"), at("127.0.0.1:53"));
    }

    #[test]
    fn what_is_no_place() {
        for text in [
            "",
            "53/udp",
            "127.0.0.1/udp",
            "127.0.0.1:53/",
            "127.0.0.1:53/UDP",
            "127.0.0.1:53/sctp",
            "127.0.0.1:53/udp/udp",
            "224.0.0.1:53/udp",
            "127.0.0.1:0/udp",
            "unix:",
            "unix:run/x",
            "unix:/run/",
            "unix:/a\0b",
            "udp:127.0.0.1:53",
            "localhost:53",
            "::1:53",
            "53",
        ] {
            assert!(at(text).is_err(), "{text}");
        }
        assert!(at(&format!("unix:/{}", "x".repeat(106))).is_ok());
        assert!(at(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn a_mode_is_octal_and_permissions_alone() {
        assert_eq!([mode("0600"), mode("660"), mode("0000")], [Ok(0o600), Ok(0o660), Ok(0)]);
        for text in ["", "6", "66", "0o660", "rw-", "0680", "+660", "1777", "06600"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
