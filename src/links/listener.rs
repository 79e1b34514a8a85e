//! One listening socket: how it is bound, and the loop that accepts. Never gives up on a socket: what can't be
//! accepted now is tried again, without a spin. Called by `worker`.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::{info, warn};

use super::plan::{Source, Target};
use super::relay;
use super::upstream::Upstream;
use crate::net::resolve::Resolver;

const BACKLOG: i32 = 4096;

/// After a failed accept: when descriptors are short, waiting is all that helps.
const PAUSE: Duration = Duration::from_millis(100);

/// Failures to accept closer together than this are one episode, told once.
const EPISODE: Duration = Duration::from_secs(30);

/// What the connections of one forward share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) to: Target,
    pub(super) upstream: Upstream,
    pub(super) resolver: Arc<Resolver>,
    /// The last connection found no upstream; that is told once, not for each connection.
    pub(super) is_failing: AtomicBool,
}

/// A socket that listens on `address`, not blocking and closed on exec. An IPv6 one takes IPv6 alone.
pub(super) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts for ever, one task a connection.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut last_failure: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(serve(client, Arc::clone(&shared)));
            }
            // The client was gone before we came to it; the next one is waiting.
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                if last_failure.is_none_or(|at| at.elapsed() > EPISODE) {
                    warn!("{}: cannot accept connections for now: {error}", shared.source);
                }
                last_failure = Some(Instant::now());
                #[expect(
                    clippy::disallowed_methods,
                    reason = "no event says that descriptors are free again"
                )]
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO))
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    // In a box of its own: what it takes to connect should not stay with a connection for its life.
    match Box::pin(connect(&client, &shared)).await {
        Some(upstream) => {
            // The last user of a forward may be a connection that lives for days: let go of what it won't need.
            drop(shared);
            relay::relay(client, upstream).await;
        }
        None => relay::reset(client),
    }
}

async fn connect(client: &TcpStream, shared: &Shared) -> Option<TcpStream> {
    let connected = tokio::select! {
        // In this order: a connection that is made must be ended by the relay, with a reset.
        biased;
        connected = shared.upstream.connect(&shared.resolver) => connected,
        // Nobody waits for it any more.
        () = relay::failed(client) => return None,
    };
    let Shared { source, to, is_failing, .. } = shared;
    match connected {
        Ok(upstream) => {
            relay::prepare(client);
            relay::prepare(&upstream);
            if is_failing.swap(false, Ordering::Relaxed) {
                info!("{source}: {to} takes connections again");
            }
            Some(upstream)
        }
        Err(error) => {
            if !is_failing.swap(true, Ordering::Relaxed) {
                warn!("{source}: cannot connect to {to}: {error}; clients get a reset");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_failure_of_one_client_is_no_pause() {
        assert!(is_of_one_client(&Errno::ECONNABORTED.into()));
        assert!(!is_of_one_client(&Errno::EMFILE.into()));
        assert!(!is_of_one_client(&Errno::ENFILE.into()));
    }
}
