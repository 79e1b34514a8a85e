//! One listening socket: how it is bound, and the loop that accepts. Never gives up on a socket: what can't be
//! accepted now is tried again, without a spin. Called by `worker`.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tracing::{info, warn};

use super::plan::{Source, Target};
use super::relay::{self, Outcome};
use super::upstream::Upstream;
use crate::net::resolve::Resolver;
use crate::sys::socket;

const BACKLOG: i32 = 4096;

/// So many are accepted before those that are open get their turn.
const BATCH: usize = 64;

/// Descriptors that connections leave alone: 64 pipes, and as many again for everything else.
const RESERVE: u64 = 256;

/// After a failed accept: when descriptors are short, waiting is all that helps.
const PAUSE: Duration = Duration::from_millis(100);

/// Failures to accept, and full links, closer together than this are one episode, told once.
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
    /// Of the connections that are open at one time.
    pub(super) limit: Option<Limit>,
    /// Of those of all links together: what is left over is for everybody else's descriptors.
    pub(super) descriptors: Arc<Semaphore>,
}

/// `max_connections` of a link, whichever of its addresses they come to.
#[derive(Debug)]
pub(super) struct Limit {
    places: Arc<Semaphore>,
    full: Mutex<Episode>,
}

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
    socket.set_tcp_keepalive(&relay::keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts for ever, one task a connection; `workers` take turns.
pub(super) async fn accept(listener: AsyncFd<StdListener>, shared: Arc<Shared>, workers: Vec<Handle>) {
    let mut short = Episode::default();
    let mut workers = workers.iter().cycle();
    loop {
        // An error means that the runtime ends, and with it this task.
        let Ok(mut ready) = listener.readable().await else { return };
        for _ in 0..BATCH {
            let place = shared.place().await;
            // Fails when the semaphore is closed, which nobody does.
            let Ok(room) = Arc::clone(&shared.descriptors).acquire_owned().await else { return };
            match ready.try_io(socket::accept) {
                Ok(Ok(client)) => {
                    let worker = workers.next().expect("there is one at least");
                    worker.spawn(serve(client, Arc::clone(&shared), (place, room)));
                }
                // The client was gone before we came to it; the next one is waiting.
                Ok(Err(error)) if is_of_one_client(&error) => {}
                Ok(Err(error)) => {
                    if short.is_news() {
                        warn!("{}: cannot accept connections for now: {error}", shared.source);
                    }
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "no event says that descriptors are free again"
                    )]
                    tokio::time::sleep(PAUSE).await;
                }
                // None is waiting any more.
                Err(_) => break,
            }
        }
        yield_now().await;
    }
}

/// Things of one kind that happen closer together than [`EPISODE`], and are told once.
#[derive(Debug, Default)]
struct Episode(Option<Instant>);

impl Episode {
    /// It happens; whether that is worth a line.
    fn is_news(&mut self) -> bool {
        let last = self.0.replace(Instant::now());
        last.is_none_or(|at| at.elapsed() > EPISODE)
    }
}

impl Shared {
    /// Waits until one more connection may be open; the clients wait in the kernel's queue. None where there is no
    /// limit.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let Limit { places, full } = self.limit.as_ref()?;
        let place = Arc::clone(places).try_acquire_owned();
        if let Ok(place) = place {
            return Some(place);
        }
        if full.lock().unwrap_or_else(PoisonError::into_inner).is_news() {
            warn!("{}: as many connections are open as `max_connections` allows; more wait", self.source);
        }
        // Fails when the semaphore is closed, which nobody does.
        Arc::clone(places).acquire_owned().await.ok()
    }
}

/// As many connections as `limit` open files allow, two each, and leave some for probes, the registry, pipes and the
/// rest of PID 1: clients that stay must not make a healthy service look dead.
pub(super) fn room_within(limit: u64) -> Arc<Semaphore> {
    let reserve = RESERVE.min(limit / 4);
    let connections = usize::try_from((limit - reserve) / 2).unwrap_or(usize::MAX);
    Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS)))
}

impl Limit {
    pub(super) fn new(connections: NonZeroU32) -> Self {
        let places = usize::try_from(connections.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), full: Mutex::default() }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO))
}

/// One connection, from its accept to its end; its place is free again after that.
#[expect(clippy::manual_async_fn, reason = "an `async fn` would have room for its arguments twice")]
fn serve(
    client: StdStream,
    shared: Arc<Shared>,
    places: (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit),
) -> impl Future<Output = ()> + Send {
    async move {
        let _places = places;
        // Fails where the kernel has no room to watch one more: as good as out of descriptors.
        let Ok(client) = TcpStream::from_std(client) else { return };
        // In a box of its own: what it takes to connect should not stay with a connection for its life.
        let Some(upstream) = Box::pin(connect(&client, &shared)).await else {
            return relay::reset(client);
        };
        // The last user of a forward may be a connection that lives for days: let go of what it won't need.
        drop(shared);
        match relay::relay(&client, &upstream).await {
            Outcome::Orderly => {}
            Outcome::Broken => {
                relay::reset(client);
                relay::reset(upstream);
            }
        }
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
    use crate::config::Balance;
    use crate::links::plan::Way;
    use crate::links::upstream::NewsOf;

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

    /// Thousands of idle connections are tasks and little else.
    #[test]
    fn a_connection_is_a_small_task() {
        let way = Way::Host(crate::config::HostPort { host: "db".to_owned(), port: 1 });
        let target = Target { ways: vec![way], balance: Balance::RoundRobin };
        let shared = Shared {
            source: Source::Variables(Vec::new()),
            to: target.clone(),
            upstream: Upstream::new(target, PAUSE, Vec::new(), &NewsOf::new()),
            resolver: Arc::new(Resolver::system()),
            is_failing: AtomicBool::new(false),
            limit: None,
            descriptors: Arc::new(Semaphore::new(1)),
        };
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        let client = StdStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let room = Arc::clone(&shared.descriptors).try_acquire_owned().expect("there is one");
        let size = size_of_val(&serve(client, Arc::new(shared), (None, room)));
        assert!(size <= 400, "{size} bytes");
    }

    #[test]
    fn a_failure_of_one_client_is_no_pause() {
        assert!(is_of_one_client(&Errno::ECONNABORTED.into()));
        assert!(!is_of_one_client(&Errno::EMFILE.into()));
        assert!(!is_of_one_client(&Errno::ENFILE.into()));
    }
}
