//! One listening socket: how it is bound. Called by `worker`.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::connection;

const BACKLOG: i32 = 4096;

/// A socket that listens on `address`, not blocking and closed on exec. An IPv6 one takes IPv6 alone. What it accepts
/// inherits its options: set once here, not for each connection.
pub(super) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&connection::keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::socket;

    #[test]
    fn a_port_can_be_bound_again_at_once_but_not_twice() {
        let first = bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        let address = first.local_addr().expect("bound");
        assert_eq!(bind(address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        let client = std::net::TcpStream::connect(address).expect("connect");
        first.set_nonblocking(false).expect("blocking");
        // Closed by us first: the connection is left in TIME_WAIT on our side.
        drop(first.accept().expect("accept"));
        drop((client, first));
        bind(address).expect("bound again");
    }

    #[test]
    fn both_families_can_have_every_address_at_once() {
        let v4 = bind("0.0.0.0:0".parse().expect("an address")).expect("bind");
        let port = v4.local_addr().expect("bound").port();
        bind(SocketAddr::new("::".parse().expect("an address"), port)).expect("bind");
    }

    #[test]
    fn what_is_accepted_inherits_nodelay_and_keepalive() {
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let accepted = Socket::from(socket::accept(&listener).expect("accept"));
        assert!(accepted.tcp_nodelay().expect("ask") && accepted.keepalive().expect("ask"));
        assert_eq!(accepted.tcp_keepalive_time().expect("ask"), Duration::from_secs(60));
        assert_eq!(accepted.tcp_keepalive_retries().expect("ask"), 4);
    }
}
