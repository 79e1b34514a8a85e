//! Who listens in a place already, as far as /proc tells: for the message about one in use, nothing else. Never
//! fails; what can't be read is not known.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use crate::config::ListenAt;

/// The process that holds a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its name as the kernel shows it: up to 15 bytes.
    pub command: String,
}

/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The state of a UDP socket that is not connected, in /proc/net/udp.
const UNCONNECTED: &str = "07";

/// The process that listens where `at` can't be bound.
pub(super) fn of(at: &ListenAt) -> Option<Holder> {
    let inodes: Vec<String> = match at {
        ListenAt::Tcp(address) => inodes(["/proc/net/tcp", "/proc/net/tcp6"], LISTENING, *address),
        ListenAt::Udp(address) => inodes(["/proc/net/udp", "/proc/net/udp6"], UNCONNECTED, *address),
        ListenAt::Unix(socket) => {
            let table = fs::read_to_string("/proc/net/unix").ok()?;
            unix_inodes(&table, socket.path.to_str()?)
        }
    };
    let inodes: Vec<String> = inodes.into_iter().map(|inode| format!("socket:[{inode}]")).collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pid = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|to| inodes.iter().any(|inode| to.as_os_str() == inode.as_str()))
    })?;
    let command = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { pid, command: String::from_utf8_lossy(&command).trim_end().to_owned() })
}

fn inodes(tables: [&str; 2], state: &str, address: SocketAddr) -> Vec<String> {
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    tables.flat_map(|table| listening_inodes(&table, state, address)).collect()
}

/// The inodes of the sockets in `table` that are bound to `path`.
fn unix_inodes(table: &str, path: &str) -> Vec<String> {
    let sockets = table.lines().filter_map(|line| {
        let (rest, bound) = line.split_once(" /")?;
        let inode = rest.split_ascii_whitespace().last()?;
        (path.strip_prefix('/') == Some(bound)).then(|| inode.to_owned())
    });
    sockets.collect()
}

/// The inodes of the sockets in `table` that are in this state at `address` or at every address.
fn listening_inodes(table: &str, wanted: &str, address: SocketAddr) -> Vec<String> {
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (ip, port) = words.next()?.split_once(':')?;
            let ip = kernel_ip(ip)?;
            let is_there = ip == address.ip() || ip.is_unspecified();
            let is_it = is_there && u16::from_str_radix(port, 16) == Ok(address.port());
            let (_remote, state) = (words.next()?, words.next()?);
            let inode = words.nth(5)?;
            (is_it && state == wanted).then(|| inode.to_owned())
        })
        .collect()
}

/// The kernel prints an address as words of 32 bits, each in this machine's byte order.
fn kernel_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(word(0)?.into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::config::UnixSocket;

    #[test]
    fn our_own_listeners_are_ours() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("bind");
            let port = listener.local_addr().expect("bound").port();
            let asked: SocketAddr =
                if address.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" }.parse().expect("one");
            let holder = of(&ListenAt::Tcp(SocketAddr::new(asked.ip(), port))).expect("a holder");
            assert_eq!(holder.pid, std::process::id(), "{address}");
            assert!(!holder.command.is_empty());
        }
    }

    #[test]
    fn our_own_udp_and_unix_sockets_are_ours() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let at = ListenAt::Udp(socket.local_addr().expect("bound"));
        assert_eq!(of(&at).map(|holder| holder.pid), Some(std::process::id()));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a socket");
        let _listener = UnixListener::bind(&path).expect("bind");
        let at = ListenAt::Unix(UnixSocket { path, mode: 0o600, owner: None });
        assert_eq!(of(&at).map(|holder| holder.pid), Some(std::process::id()));
    }

    #[test]
    fn nobody_is_nobody() {
        let nowhere = "127.0.0.9:1".parse().expect("an address");
        assert_eq!(of(&ListenAt::Tcp(nowhere)), None);
        assert_eq!(of(&ListenAt::Udp(nowhere)), None);
        assert!(listening_inodes("garbage\n1: x:y\n\n", LISTENING, nowhere).is_empty());
        assert!(unix_inodes("garbage\n /\n\n", "/run/x").is_empty());
    }
}
