//! One UDP port that clients send to. An answer leaves from the very address that the client sent to: where a port
//! takes what comes to any address, the kernel is asked for it with each datagram, and told. Never waits. Called by
//! `udp`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};

#[derive(Debug)]
pub(super) enum Port {
    /// Bound to one address.
    One(UdpSocket),
    /// Bound to all of them. With room for what the kernel tells beside a datagram.
    Any(UdpSocket, Vec<u8>),
}

/// A datagram, without its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    /// Which address it was sent to, where that is not the port's own.
    pub(super) to: Option<IpAddr>,
}

impl Port {
    /// `socket` as `bind` has made it.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(match socket.local_addr()?.ip().is_unspecified() {
            true => Self::Any(socket, nix::cmsg_space!(libc::in6_pktinfo)),
            false => Self::One(socket),
        })
    }

    /// The next datagram, whole if `buffer` has room for the largest.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Head> {
        match self {
            Self::One(socket) => {
                let (length, from) = socket.recv_from(buffer)?;
                Ok(Head { length, from, to: None })
            }
            Self::Any(socket, control) => {
                let mut parts = [IoSliceMut::new(buffer)];
                let (socket, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
                let told = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(control), flags)?;
                let from = told.address.as_ref().and_then(address_of).ok_or(io::ErrorKind::InvalidData)?;
                let to = told.cmsgs()?.find_map(|message| match message {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into())
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
                    }
                    _ => None,
                });
                Ok(Head { length: told.bytes, from, to })
            }
        }
    }

    /// Sends an answer; `from` is where the client sent to.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        match (self, from) {
            (Self::One(socket) | Self::Any(socket, _), None) => socket.send_to(bytes, to).map(drop),
            (Self::One(socket) | Self::Any(socket, _), Some(IpAddr::V4(from))) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                send_with(socket, bytes, to, ControlMessage::Ipv4PacketInfo(&info))
            }
            (Self::One(socket) | Self::Any(socket, _), Some(IpAddr::V6(from))) => {
                let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                send_with(socket, bytes, to, ControlMessage::Ipv6PacketInfo(&info))
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::One(socket) | Self::Any(socket, _) => socket.as_fd(),
        }
    }
}

fn send_with(
    socket: &UdpSocket,
    bytes: &[u8],
    to: SocketAddr,
    control: ControlMessage<'_>,
) -> io::Result<()> {
    let (to, flags) = (SockaddrStorage::from(to), MsgFlags::MSG_DONTWAIT);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &[control], flags, Some(&to))?;
    Ok(())
}

fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenAt;
    use crate::links::bind::{self, Listener};

    fn port(at: &str) -> (Port, u16) {
        let bound = bind::bind(&ListenAt::Udp(at.parse().expect("an address"))).expect("bind");
        let Listener::Datagram(socket) = bound.listener else { panic!("a UDP socket") };
        (Port::new(socket).expect("bound"), bound.at.port().expect("a port"))
    }

    fn wait(port: &Port) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        poll(&mut [PollFd::new(port.as_fd(), PollFlags::POLLIN)], PollTimeout::from(30_000_u16))
            .expect("poll");
    }

    #[test]
    fn an_answer_comes_from_where_the_question_went() {
        for (listen, asked) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.7"),
            ("[::]:0", "::1"),
            ("[::1]:0", "::1"),
        ] {
            let (mut port, number) = port(listen);
            let asked = SocketAddr::new(asked.parse().expect("an address"), number);
            let any = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let client = UdpSocket::bind(any).expect("bind");
            client.connect(asked).expect("connect");
            for length in [0, 1, 65_507] {
                client.send(&vec![7; length]).expect("send");
                wait(&port);
                let mut buffer = vec![0; 1 << 16];
                let head = port.receive(&mut buffer).expect("a datagram");
                assert_eq!(
                    (head.length, head.from),
                    (length, client.local_addr().expect("bound")),
                    "{listen}"
                );
                port.send(&buffer[..length], head.from, head.to).expect("send");
                // Connected: it would not see an answer from elsewhere.
                client.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("set");
                assert_eq!(client.recv(&mut buffer).expect("an answer"), length, "{listen}");
            }
            assert_eq!(port.receive(&mut [0]).expect_err("no more").kind(), io::ErrorKind::WouldBlock);
        }
    }
}
