//! The tcp probe: an accepted connection passes. Never sends a byte.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::Failure;
use crate::config::HostPort;
use crate::net::resolve::Resolver;

/// Connects once to each address of `target` in turn, until one accepts. Has no timeout: drop it to give up.
pub async fn probe(target: &HostPort, resolver: &Resolver) -> Result<(), Failure> {
    let mut failure = Failure::NoAnswer;
    for ip in resolver.lookup(&target.host).await? {
        match connect(SocketAddr::new(ip, target.port)).await {
            Ok(()) => return Ok(()),
            Err(error) => failure = Failure::from(&error),
        }
    }
    Err(failure)
}

async fn connect(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    if is_with_itself(&stream) { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(()) }
}

/// A port of this machine's that nobody listens on may be given to the very socket that asks for it: TCP then
/// connects that socket to itself.
fn is_with_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(host: &str, port: u16) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let resolver = Resolver::with_files("/nonexistent/hosts", "/nonexistent/resolv.conf");
        runtime.block_on(probe(&HostPort { host: host.to_owned(), port }, &resolver))
    }

    #[test]
    fn an_accepted_connection_passes_on_any_address_of_a_name() {
        let listener = std::net::TcpListener::bind("[::1]:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        // localhost is 127.0.0.1 first, where nobody listens.
        probed("localhost", port).expect("passes");
        probed("::1", port).expect("passes");
    }

    #[test]
    fn a_failure_says_why() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        assert_eq!(probed("127.0.0.1", port).expect_err("closed").to_string(), "connection refused");
        let unknown = probed("db", port).expect_err("unknown").to_string();
        assert_eq!(unknown, "cannot look up `db`: no name server in /nonexistent/resolv.conf");
    }

    #[test]
    fn a_socket_that_reaches_itself_is_no_service() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.77:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        runtime.block_on(async {
            assert!(!is_with_itself(&TcpStream::connect(address).await.expect("connect")));
            drop(listener);
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("reuse");
            socket.bind(address).expect("bind");
            assert!(is_with_itself(&socket.connect(address).await.expect("connect")));
        });
    }
}
