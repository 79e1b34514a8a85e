//! The hosts file: name to addresses, tolerant of any bytes. Never looks anything up elsewhere. Used by the resolver,
//! and by links for the aliases that Docker writes there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::watched::Watched;

/// A hosts file on disk, read again when it changes.
#[derive(Debug)]
pub struct HostsFile(Watched<Hosts>);

/// What a hosts file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// By lower-case name; never an empty list.
    addresses: HashMap<String, Vec<IpAddr>>,
}

impl HostsFile {
    /// The hosts file at `path`; it may be missing, now or later.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Watched::at(path))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What the file says now; the same `Arc` while its bytes are the same.
    pub fn read(&self) -> Arc<Hosts> {
        self.0.get(Hosts::parse)
    }
}

impl Hosts {
    /// Reads `address name…` lines; `#` begins a comment, a line that makes no sense is passed over.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut hosts = Self::default();
        for line in bytes.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let Some(address) = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok())
            else {
                continue;
            };
            for name in words.filter_map(|word| std::str::from_utf8(word).ok()) {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                let known = hosts.addresses.entry(name).or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        hosts
    }

    /// The addresses of `name` in the order of the file, case ignored; empty when it is not listed.
    pub fn addresses(&self, name: &str) -> &[IpAddr] {
        match self.addresses.get(&name.to_ascii_lowercase()) {
            Some(addresses) => addresses,
            None => &[],
        }
    }

    /// Every name, in lower case, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.addresses.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(hosts: &Hosts, name: &str) -> Vec<String> {
        hosts.addresses(name).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn docker_writes_what_we_read() {
        let hosts = Hosts::parse(
            b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
              172.17.0.2\tdb 3f4e5d web_db\n172.17.0.3\tMy-Cache\n172.17.0.9\tdb\n172.17.0.2 db\n",
        );
        assert_eq!(found(&hosts, "localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found(&hosts, "DB"), ["172.17.0.2", "172.17.0.9"]);
        assert_eq!(found(&hosts, "web_db"), ["172.17.0.2"]);
        assert_eq!(found(&hosts, "my-cache"), ["172.17.0.3"]);
        assert!(found(&hosts, "cache").is_empty());
    }

    #[test]
    fn a_line_that_makes_no_sense_costs_only_itself() {
        let hosts = Hosts::parse(
            b"\xff\xfe db\nnot-an-address db\n10.0.0.1\n  10.0.0.2   a\tb#c d\r\n# 10.0.0.3 db\n10.0.0.4 \xff e.\n\0",
        );
        assert_eq!(found(&hosts, "a"), ["10.0.0.2"]);
        assert_eq!(found(&hosts, "b"), ["10.0.0.2"]);
        assert_eq!(found(&hosts, "e"), ["10.0.0.4"]);
        assert_eq!(hosts.names().count(), 3);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            Hosts::parse(&bytes);
        }
    }
}
