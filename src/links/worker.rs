//! Opens a plan: every listener first, then the threads that bytes live on, one unless the configuration wants more:
//! the first accepts, and all take connections in turn. Without links there is no thread. Never touches a byte itself. Called by the wiring of `ensign run` before main starts.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::feed::{self, Follow};
use super::holder::{self, Holder};
use super::listener::{self, Limit, Shared};
use super::plan::{Bind, Forward, Plan, PlanError, Source, Target};
use super::upstream::{NewsOf, Upstream};
use crate::config::Workers;
use crate::net::resolve::Resolver;
use crate::sys::{process, socket};

/// The open links. Dropping it closes them, and every connection through them.
#[derive(Debug)]
pub struct Links {
    /// In the plan's order.
    pub opened: Vec<Opened>,
    /// Forwards of variables that could not be opened; each has been logged as a warning.
    pub skipped: Vec<LinkError>,
    _workers: Vec<Worker>,
}

/// A forward that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    pub to: Target,
    pub source: Source,
}

/// Why a link is not open.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{link}: cannot listen on {address}: {}", reason(error, holder.as_ref()))]
    Listen { link: Source, address: SocketAddr, error: io::Error, holder: Option<Holder> },
    #[error("cannot start the links: {0}")]
    Start(#[from] io::Error),
}

#[derive(Debug)]
struct Worker {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Opens what `plan` says; every listener takes connections when this returns. A forward of variables that can't be
/// opened is left out with a warning; if one of a file can't, nothing is opened and all such errors come back.
/// The resolver is the worker's own.
pub fn open(plan: &Plan, resolver: Resolver) -> Result<Links, Vec<LinkError>> {
    open_following(plan, resolver, &|_, _| Box::pin(async {}))
}

/// As [`open`]; `follow` is run for each name in the registry that a link leads to.
pub fn open_following(plan: &Plan, resolver: Resolver, follow: Follow<'_>) -> Result<Links, Vec<LinkError>> {
    let mut errors: Vec<_> = plan.errors.iter().cloned().map(LinkError::Plan).collect();
    let mut skipped = Vec::new();
    let mut bound = Vec::new();
    for forward in &plan.forwards {
        match bind(forward) {
            Ok(listeners) => bound.push((forward, listeners)),
            Err(refused) => {
                let error = refused.explain(&forward.source);
                match forward.source {
                    Source::Variables(_) => skipped.push(error),
                    Source::File { .. } => errors.push(error),
                }
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for error in &skipped {
        warn!("{error}; this link is left out");
    }
    let (opened, workers) =
        start(bound, resolver, plan.workers, follow).map_err(|error| vec![LinkError::Start(error)])?;
    for Opened { addresses, to, source } in &opened {
        let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        info!("{source}: {} goes to {to}", addresses.join(" and "));
    }
    Ok(Links { opened, skipped, _workers: workers })
}

/// An address that can't be listened on.
struct Refused {
    address: SocketAddr,
    error: io::Error,
}

/// All listeners of a forward, or none.
fn bind(forward: &Forward) -> Result<Vec<StdListener>, Refused> {
    let mut listeners: Vec<StdListener> = Vec::new();
    for mut address in forward.listen.addresses() {
        // "Any port" on two addresses means the same one on both.
        if let (Bind::Loopback(0), Some(first)) = (&forward.listen, listeners.first()) {
            address.set_port(first.local_addr().map_or(0, |bound| bound.port()));
        }
        match listener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_without_ipv6(&error, &forward.listen) && address.is_ipv6() => {}
            Err(error) => return Err(Refused { address, error }),
        }
    }
    Ok(listeners)
}

impl Refused {
    fn explain(self, link: &Source) -> LinkError {
        let Self { address, error } = self;
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        let holder = if is_taken { holder::of(address) } else { None };
        LinkError::Listen { link: link.clone(), address, error, holder }
    }
}

/// A machine without IPv6 is fine where nobody asked for it by address.
fn is_without_ipv6(error: &io::Error, listen: &Bind) -> bool {
    let is_missing = matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT));
    is_missing && matches!(listen, Bind::Loopback(_))
}

/// The tasks that accept, and the threads.
fn start(
    bound: Vec<(&Forward, Vec<StdListener>)>,
    resolver: Resolver,
    workers: Workers,
    follow: Follow<'_>,
) -> io::Result<(Vec<Opened>, Vec<Worker>)> {
    if bound.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtimes: Vec<Runtime> = (0..workers.get()).map(|_| runtime()).collect::<Result<_, _>>()?;
    let handles: Vec<Handle> = runtimes.iter().map(|runtime| runtime.handle().clone()).collect();
    let first = handles.first().expect("one at least");
    let resolver = Arc::new(resolver);
    let descriptors = listener::room_within(process::descriptor_limit());
    let mut opened = Vec::new();
    let mut news = NewsOf::new();
    for name in bound.iter().flat_map(|(forward, _)| forward.to.names()) {
        news.entry(name.clone()).or_insert_with(|| {
            let (feed, news) = feed::feed();
            first.spawn(follow(name.clone(), feed));
            news
        });
    }
    for (forward, listeners) in bound {
        let addresses: Vec<_> = listeners.iter().map(StdListener::local_addr).collect::<Result<_, _>>()?;
        let Forward { to, source, connect_timeout, max_connections, listen: _ } = forward.clone();
        let upstream = Upstream::new(to.clone(), connect_timeout, addresses.clone(), &news);
        upstream.prime(&resolver);
        let shared = Arc::new(Shared {
            source: source.clone(),
            to: to.clone(),
            upstream,
            resolver: Arc::clone(&resolver),
            is_failing: AtomicBool::new(false),
            limit: max_connections.map(Limit::new),
            descriptors: Arc::clone(&descriptors),
        });
        let _context = first.enter();
        for listener in listeners {
            let listener = socket::watch(listener)?;
            first.spawn(listener::accept(listener, Arc::clone(&shared), handles.clone()));
        }
        opened.push(Opened { addresses, to, source });
    }
    let started = runtimes.into_iter().map(Worker::start).collect::<Result<_, _>>()?;
    Ok((opened, started))
}

impl Worker {
    /// The thread inherits the signal mask of the one that opens the links: PID 1 has blocked them all there.
    fn start(runtime: Runtime) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            // An error says that the other end was dropped: as good as being told.
            let _ = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name("links".to_owned()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported when it happened.
            let _ = thread.join();
        }
    }
}

fn reason(error: &io::Error, holder: Option<&Holder>) -> String {
    match (error.kind(), holder) {
        (io::ErrorKind::AddrInUse, Some(holder)) => format!("{holder} listens there"),
        (io::ErrorKind::AddrInUse, None) => "the port is in use".to_owned(),
        (io::ErrorKind::PermissionDenied, _) => "not permitted; ports below 1024 need root here".to_owned(),
        (_, _) => error.to_string(),
    }
}
