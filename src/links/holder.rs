//! Who listens on a port already, as far as /proc tells: for the message about a port in use, nothing else. Never
//! fails; what can't be read is not known.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The process that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its name as the kernel shows it: up to 15 bytes.
    pub command: String,
}

/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The process that listens where `address` can't be bound.
pub(super) fn of(address: SocketAddr) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, address))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
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

/// The inodes of the sockets in `table` that listen on `address` or on every address.
fn listening_inodes(table: &str, address: SocketAddr) -> Vec<String> {
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
            (is_it && state == LISTENING).then(|| inode.to_owned())
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
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn our_own_listeners_are_ours() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("bind");
            let port = listener.local_addr().expect("bound").port();
            let asked: SocketAddr =
                if address.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" }.parse().expect("one");
            let holder = of(SocketAddr::new(asked.ip(), port)).expect("a holder");
            assert_eq!(holder.pid, std::process::id(), "{address}");
            assert!(!holder.command.is_empty());
        }
    }

    #[test]
    fn nobody_is_nobody() {
        assert_eq!(of("127.0.0.9:1".parse().expect("an address")), None);
        assert!(listening_inodes("garbage\n1: x:y\n\n", "127.0.0.1:1".parse().expect("one")).is_empty());
    }
}
