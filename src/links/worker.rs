//! Opens a plan: every listener first, then the threads: one for what takes time, and those that bytes live on, of which
//! the first accepts and all take connections in turn. Without links there is no thread. Never touches a byte itself.
//! Called by the wiring of `ensign run` before main starts.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::acceptor::Acceptor;
use super::bind::{self, Bound, Listener, SocketFile};
use super::counters::Counters;
use super::engine::{Engine, Letter, Mailbox};
use super::feed::{self, Follow};
use super::holder::{self, Holder};
use super::plan::{Bind, Forward, Plan, PlanError, Source, Target, Transport, Way};
use super::reach::Reach;
use super::shared::{Doorbells, Places, Shared};
use super::side::Kind;
use super::udp;
use super::upstream::{NewsOf, Upstream};
use crate::config::{ListenAt, Workers};
use crate::net::resolve::Resolver;
use crate::sys::process;

/// For a relaying thread to tell that its time is over.
const GRACE: Duration = Duration::from_millis(100);

/// The open links; by default none. Dropping it closes them, and every connection through them.
#[derive(Debug, Default)]
pub struct Links {
    /// In the plan's order.
    pub opened: Vec<Opened>,
    /// Forwards of variables that could not be opened; each has been logged as a warning.
    pub skipped: Vec<LinkError>,
    /// Those that take connections.
    forwards: Vec<Arc<Shared>>,
    /// Removed before the threads end: nobody connects to what is not served.
    _files: Vec<SocketFile>,
    threads: Option<Threads>,
}

/// A forward that is open.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Where it listens.
    pub places: Vec<ListenAt>,
    pub to: Target,
    pub source: Source,
    pub counters: Arc<Counters>,
}

/// Why a link is not open.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{link}: cannot listen on {at}: {}", reason(at, error, holder.as_ref()))]
    Listen { link: Source, at: ListenAt, error: io::Error, holder: Option<Holder> },
    #[error("cannot start the links: {0}")]
    Start(#[from] io::Error),
}

#[derive(Debug)]
struct Threads {
    /// The one for what takes time.
    beside: Handle,
    stop: Option<oneshot::Sender<()>>,
    /// Tells what takes time, and UDP, that it is the end.
    end: watch::Sender<()>,
    engines: Vec<Mailbox>,
    joined: Vec<JoinHandle<()>>,
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
    let Started { opened, forwards, files, threads } =
        start(bound, resolver, plan.workers, follow).map_err(|error| vec![LinkError::Start(error)])?;
    for Opened { places, to, source, .. } in &opened {
        let places: Vec<_> = places.iter().map(ListenAt::to_string).collect();
        info!("{source}: {} goes to {to}", places.join(" and "));
    }
    Ok(Links { opened, skipped, forwards, _files: files, threads })
}

#[derive(Default)]
struct Started {
    opened: Vec<Opened>,
    forwards: Vec<Arc<Shared>>,
    files: Vec<SocketFile>,
    threads: Option<Threads>,
}

/// A place that can't be listened at.
struct Refused {
    at: ListenAt,
    error: io::Error,
}

/// All listeners of a forward, or none.
fn bind(forward: &Forward) -> Result<Vec<Bound>, Refused> {
    let mut listeners: Vec<Bound> = Vec::new();
    for mut at in forward.listen.places() {
        // "Any port" on two addresses means the same one on both.
        if let (Bind::Loopback(_, 0), Some(first)) = (&forward.listen, listeners.first())
            && let (ListenAt::Tcp(address) | ListenAt::Udp(address), Some(port)) = (&mut at, first.at.port())
        {
            address.set_port(port);
        }
        match bind::bind(&at) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_without_ipv6(&error, &forward.listen) && !listeners.is_empty() => {}
            Err(error) => return Err(Refused { at, error }),
        }
    }
    Ok(listeners)
}

impl Refused {
    fn explain(self, link: &Source) -> LinkError {
        let Self { at, error } = self;
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        let holder = if is_taken { holder::of(&at) } else { None };
        LinkError::Listen { link: link.clone(), at, error, holder }
    }
}

/// A machine without IPv6 is fine where nobody asked for it by address.
fn is_without_ipv6(error: &io::Error, listen: &Bind) -> bool {
    let is_missing = matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT));
    is_missing && matches!(listen, Bind::Loopback(..))
}

/// The threads, and what they listen to.
fn start(
    bound: Vec<(&Forward, Vec<Bound>)>,
    resolver: Resolver,
    workers: Workers,
    follow: Follow<'_>,
) -> io::Result<Started> {
    if bound.is_empty() {
        return Ok(Started::default());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let beside = runtime.handle();
    let descriptors = Arc::new(Places::within(process::descriptor_limit()));
    let (end, ended) = watch::channel(());
    let engine = |_| Engine::new(beside.clone(), Arc::clone(&descriptors), ended.clone());
    let mut engines: Vec<Engine> = (0..workers.get()).map(engine).collect::<Result<_, _>>()?;
    let mailboxes: Vec<Mailbox> = engines.iter().map(Engine::mailbox).collect();
    let first = engines.first_mut().expect("one at least");
    if mailboxes.len() > 1 {
        first.share_with(mailboxes.clone());
    }
    let resolver = Arc::new(resolver);
    let doorbells = Arc::new(Doorbells::new(mailboxes.iter().map(Mailbox::bell).collect()));
    let (mut opened, mut forwards, mut files) = (Vec::new(), Vec::new(), Vec::new());
    let mut news = NewsOf::new();
    for name in bound.iter().flat_map(|(forward, _)| forward.to.names()) {
        news.entry(name.clone()).or_insert_with(|| {
            let (feed, news) = feed::feed();
            beside.spawn(follow(name.clone(), feed));
            news
        });
    }
    let is_datagrams = |at: &ListenAt| Transport::at(at) == Transport::Datagram;
    let datagram_forwards =
        bound.iter().filter(|(_, listeners)| listeners.iter().any(|bound| is_datagrams(&bound.at))).count();
    for (forward, listeners) in bound {
        let places: Vec<_> = listeners.iter().map(|bound| bound.at.clone()).collect();
        let own = places.iter().filter_map(ListenAt::address).collect();
        let Forward { to, source, connect_timeout, max_connections, idle_timeout, listen: _ } =
            forward.clone();
        let counters = Arc::<Counters>::default();
        let upstream = Upstream::new(to.clone(), connect_timeout, own, &news, Arc::clone(&counters));
        upstream.prime(&resolver);
        let shared = Arc::new(Shared::new(
            source.clone(),
            to.clone(),
            upstream,
            Arc::clone(&resolver),
            Arc::clone(&counters),
            kind(&places, &to),
            max_connections,
            Arc::clone(&descriptors),
            Arc::clone(&doorbells),
        ));
        let _context = beside.enter();
        let mut sockets = Vec::new();
        for Bound { at, listener, file } in listeners {
            files.extend(file);
            match listener {
                Listener::Stream(listener) => {
                    first.listen(Acceptor::new(listener.into(), at, Arc::clone(&shared)))?;
                }
                Listener::Datagram(socket) => sockets.push(socket),
            }
        }
        if !sockets.is_empty() {
            let wanted = max_connections.map(|most| usize::try_from(most.get()).unwrap_or(usize::MAX));
            let bounds = udp::Bounds::new(idle_timeout, wanted, descriptors.most(), datagram_forwards);
            beside.spawn(udp::forward(sockets, Arc::clone(&shared), bounds, ended.clone())?);
        }
        // Of UDP nothing tells whether it takes anything.
        if places.iter().any(|at| Transport::at(at) == Transport::Stream) {
            forwards.push(shared);
        }
        opened.push(Opened { places, to, source, counters });
    }
    Threads::start(runtime, engines, end).map(|threads| Started {
        opened,
        forwards,
        files,
        threads: Some(threads),
    })
}

/// Of the ends of a link's connections.
fn kind(places: &[ListenAt], to: &Target) -> Kind {
    let listens = places.iter().any(|at| matches!(at, ListenAt::Unix(_)));
    let leads = to.ways.iter().any(|way| matches!(way, Way::Unix(_)));
    if listens || leads { Kind::Any } else { Kind::Tcp }
}

impl Threads {
    /// They inherit the signal mask of the thread that opens the links: PID 1 has blocked them all there.
    fn start(runtime: Runtime, engines: Vec<Engine>, end: watch::Sender<()>) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let beside = runtime.handle().clone();
        let mut threads = Self { beside, end, stop: Some(stop), engines: Vec::new(), joined: Vec::new() };
        let wait = move || {
            // An error says that the other end was dropped: as good as being told.
            let _ = runtime.block_on(stopped);
        };
        threads.joined.push(thread::Builder::new().name("links".to_owned()).spawn(wait)?);
        for engine in engines {
            threads.engines.push(engine.mailbox());
            let run = move || {
                if let Err(error) = engine.run() {
                    error!("links are not relayed any more: {error}");
                }
            };
            threads.joined.push(thread::Builder::new().name("relay".to_owned()).spawn(run)?);
        }
        Ok(threads)
    }

    fn finish(&self, by: Instant) {
        // Fails when nobody listens.
        let _ = self.end.send(());
        let (done, all_done) = mpsc::channel();
        for engine in &self.engines {
            engine.post(Letter::Finish { by, done: done.clone() });
        }
        drop(done);
        // Ends when each has told, or has ended.
        while all_done.recv_timeout(by.saturating_duration_since(Instant::now()) + GRACE).is_ok() {}
    }
}

impl Links {
    /// Closes the listeners that others can reach. What is connected stays so.
    pub fn turn_away(&self) {
        if let Some(threads) = &self.threads {
            threads.engines.iter().for_each(|engine| engine.post(Letter::TurnAway));
        }
    }

    /// The upstreams of a `[[link]]`.
    pub fn reach(&self, service: &str, link: &str) -> Reach {
        let source = Source::File { service: service.to_owned(), link: link.to_owned() };
        let forwards = self.forwards.iter().filter(|forward| forward.source == source);
        let on = self.threads.as_ref().map(|threads| threads.beside.clone());
        Reach { on, forwards: forwards.cloned().collect() }
    }

    /// Closes the listeners, and the connections as soon as nothing is on its way through them: what a process wrote
    /// before it ended gets where it was sent to. Waits for that, for `limit` at most.
    pub fn finish(&self, limit: Duration) {
        if let Some(threads) = &self.threads {
            threads.finish(Instant::now() + limit);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.engines.iter().for_each(|engine| engine.post(Letter::Stop));
        drop(self.stop.take());
        for thread in self.joined.drain(..) {
            // A panic of the thread has been reported when it happened.
            let _ = thread.join();
        }
    }
}

fn reason(at: &ListenAt, error: &io::Error, holder: Option<&Holder>) -> String {
    match (error.kind(), holder) {
        (io::ErrorKind::AddrInUse, Some(holder)) => format!("{holder} listens there"),
        (_, _) if matches!(at, ListenAt::Unix(_)) => error.to_string(),
        (io::ErrorKind::AddrInUse, None) => "the port is in use".to_owned(),
        (io::ErrorKind::PermissionDenied, _) => "not permitted; ports below 1024 need root here".to_owned(),
        (_, _) => error.to_string(),
    }
}
