//! Where a link listens: an address and port for TCP or UDP, or a Unix socket. Checked values, nothing is opened
//! here. Used by `check`, and by the links.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where a link listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// 127.0.0.1 and [::1] at the upstream's port.
    Loopback,
    /// Just these.
    At(Vec<ListenAt>),
}

/// One place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAt {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(UnixSocket),
}

/// A socket in the file system, and who may connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// Absolute, and short enough for a socket.
    pub path: PathBuf,
    /// Permission bits, 0 to 0o777.
    pub mode: u32,
    /// None leaves it to whoever runs ensign.
    pub owner: Option<Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    /// None leaves the group as it is.
    pub gid: Option<u32>,
}

impl ListenAt {
    /// The port, where it is one. 0 is any free one.
    pub fn port(&self) -> Option<u16> {
        self.address().map(|address| address.port())
    }

    /// The address and port, where it is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Not only those on this machine can come here.
    pub fn is_open_to_others(&self) -> bool {
        self.address().is_some_and(|address| !address.ip().is_loopback())
    }

    /// Nobody can listen at both. The two families are apart: every listener of ours is of one only.
    pub fn is_in_the_way_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) | (Self::Udp(one), Self::Udp(other)) => {
                is_one_place(*one, *other)
            }
            (Self::Unix(one), Self::Unix(other)) => one.path == other.path,
            (Self::Tcp(_) | Self::Udp(_) | Self::Unix(_), _) => false,
        }
    }
}

/// One that listens at all addresses is in the way of every other one at its port. Port 0 is any free one, so never
/// the same.
fn is_one_place(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |ip: IpAddr| ip.is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || is_any(one.ip()) || is_any(other.ip()))
}

impl fmt::Display for ListenAt {
    /// As it is written in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "{address}/udp"),
            Self::Unix(socket) => write!(f, "unix:{}", socket.path.display()),
        }
    }
}
