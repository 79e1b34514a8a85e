//! Forwards datagrams. Each client has a session: a socket of its own to one address of the upstream, so that answers
//! can't be crossed and a refusal is seen. Nothing is queued and nothing waits: what can't be passed on at once is
//! dropped and counted, as UDP may. Never splits, joins or reorders what one client sends. Called by `worker`.
//!
//! One task a forward, for all its ports and sessions, which it watches as one: a session costs a socket and an entry in a
//! table, no task and no timer.

mod losses;
mod port;
mod session;
mod sessions;

use std::cell::RefCell;
use std::future::{self, Future};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tracing::warn;

use self::losses::Episode;
use self::port::Port;
use self::session::Session;
use self::sessions::{Client, Id, Sessions};
use super::endpoint::Endpoint;
use super::shared::{Guest, Shared};
use super::source::Offers;
use crate::sys::watch::Watch;

/// No datagram is larger.
const LARGEST: usize = 1 << 16;

/// So many are taken from one socket before the others get their turn, and so many sockets before other links do.
const BATCH: usize = 64;

/// So many sessions end in one turn, at the most.
const ENDS: usize = 256;

/// A link's sessions, where nothing else limits them: each takes one of the machine's ports, of which there are 28232.
const MOST: usize = 16_384;

/// The sources are asked again after this long. Datagrams come as often as they like; each look takes some reading.
const FRESH: Duration = Duration::from_secs(1);

/// Datagrams of new clients that wait for the first answer of a source.
const WAITING: usize = 64;

thread_local! {
    /// Every datagram of the thread goes through this one; nothing stays in it across an await.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into_boxed_slice());
}

/// How much a forward may hold, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A session that is silent for so long, both ways, ends.
    pub(super) idle: Duration,
    /// So many sessions at one time; with one more, the longest silent one ends.
    pub(super) sessions: usize,
}

impl Bounds {
    /// `wanted`, or an equal part of half of the `descriptors` that all links share: connections need some too, and so
    /// does each of the `forwards` for datagrams.
    pub(super) fn new(idle: Duration, wanted: Option<usize>, descriptors: usize, forwards: usize) -> Self {
        Self { idle, sessions: wanted.unwrap_or(MOST.min(descriptors / 2 / forwards.max(1))).max(1) }
    }
}

/// Makes the task that forwards what comes to `sockets`, to the `end`. To be called where the task will run.
pub(super) fn forward(
    sockets: Vec<UdpSocket>,
    shared: Arc<Shared>,
    bounds: Bounds,
    end: watch::Receiver<()>,
) -> io::Result<impl Future<Output = ()> + Send> {
    let own = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
    let ports = sockets.into_iter().map(Port::new).collect::<Result<Vec<_>, _>>()?;
    let watch = Watch::new()?;
    for (number, port) in ports.iter().enumerate() {
        watch.add(port, number)?;
    }
    let forwarder = Forwarder {
        shared,
        ports,
        own,
        watch,
        sessions: Sessions::default(),
        bounds,
        looking: None,
        fresh_until: None,
        learned: Vec::new(),
        version: 0,
        waiting: Vec::new(),
        refused: Vec::new(),
        full: Episode::default(),
        dropped: Episode::default(),
    };
    Ok(forwarder.run(end))
}

/// One forward.
struct Forwarder {
    shared: Arc<Shared>,
    ports: Vec<Port>,
    own: Vec<SocketAddr>,
    /// The ports by their number, then the sessions.
    watch: Watch,
    sessions: Sessions<Session>,
    bounds: Bounds,
    /// The sources are being asked.
    looking: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// What they said will do until then.
    fresh_until: Option<Instant>,
    learned: Vec<Offers>,
    /// Of what they said: another number, another answer.
    version: u64,
    /// What new clients sent while there is no answer, in order.
    waiting: Vec<(Client, Box<[u8]>)>,
    /// The addresses that have refused something since the last answer of any.
    refused: Vec<Endpoint>,
    full: Episode,
    dropped: Episode,
}

impl Forwarder {
    async fn run(mut self, mut end: watch::Receiver<()>) {
        loop {
            let idle = self.sessions.longest_idle().and_then(|(_, last)| last.checked_add(self.bounds.idle));
            tokio::select! {
                biased;
                () = done(&mut self.looking) => {
                    self.looking = None;
                    self.looked(Instant::now());
                }
                found = self.watch.ready() => {
                    // An error means that the runtime ends, and with it this task.
                    let Ok(found) = found else { return };
                    for number in found.numbers() {
                        match number.checked_sub(self.ports.len()) {
                            None => self.take(number),
                            Some(session) => self.give_back(session),
                        }
                    }
                }
                () = until(idle) => {}
                // An error says that the other end was dropped: that is the sign.
                _ = end.changed() => {
                    // What was sent before it is passed on, if it can be at once.
                    (0..self.ports.len()).for_each(|port| self.take(port));
                    return;
                }
            }
            self.end_idle(Instant::now());
            yield_now().await;
        }
    }

    /// What clients have sent to one port.
    fn take(&mut self, port: usize) {
        let now = Instant::now();
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..BATCH {
                match self.ports[port].receive(buffer) {
                    // It would go round and round.
                    Ok(head) if self.own.contains(&head.from) => {}
                    Ok(head) => {
                        let client = Client { port, address: head.from, local: head.to };
                        self.pass(client, &buffer[..head.length], now);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Nothing there; or a failure that is over, since it has been told.
                    Err(_) => return,
                }
            }
        });
    }

    /// What came back through one session.
    fn give_back(&mut self, id: Id) {
        let now = Instant::now();
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..BATCH {
                // It may have ended in this very turn.
                let Some((client, session)) = self.sessions.get(id) else { return };
                match session.socket.recv(buffer) {
                    Ok(length) => {
                        self.is_there(id);
                        self.sessions.touch(id, now);
                        let Client { port, address, local } = client;
                        match self.ports[port].send(&buffer[..length], address, local) {
                            Ok(()) => self.shared.counters.moved(0, length),
                            Err(error) => self.dropped(now, &format!("an answer to {address}: {error}")),
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => return self.refused(id, &error, now),
                }
            }
        });
    }

    fn pass(&mut self, client: Client, bytes: &[u8], now: Instant) {
        self.look(now);
        match self.sessions.find(&client) {
            Some(id) => self.send(id, bytes, now),
            None if self.looking.is_none() => self.begin(client, bytes, now),
            None if self.waiting.len() < WAITING => self.waiting.push((client, bytes.into())),
            // An answer from before is good enough for so many.
            None if self.learned.iter().any(|offers| !offers.is_empty()) => {
                self.waiting.push((client, bytes.into()));
                self.admit(now);
            }
            None => self.dropped(now, "no address is known yet"),
        }
    }

    /// Asks the sources, where it is time for that. Mostly the answer is at hand.
    fn look(&mut self, now: Instant) {
        if self.looking.is_some() || self.fresh_until.is_some_and(|until| now < until) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut looking: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { shared.upstream.look_around(&shared.resolver).await });
        // What is not at hand is waited for in the loop, which asks again before it sleeps.
        match looking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => self.looked(now),
            Poll::Pending => self.looking = Some(looking),
        }
    }

    fn looked(&mut self, now: Instant) {
        self.fresh_until = now.checked_add(FRESH);
        let learned = self.shared.upstream.learned();
        let is_same = learned.len() == self.learned.len()
            && learned.iter().zip(&self.learned).all(|(now, before)| Arc::ptr_eq(now, before));
        if !is_same {
            self.learned = learned;
            self.version += 1;
        }
        self.admit(now);
    }

    /// Passes on what had to wait.
    fn admit(&mut self, now: Instant) {
        for (client, bytes) in std::mem::take(&mut self.waiting) {
            match self.sessions.find(&client) {
                Some(id) => self.send(id, &bytes, now),
                None => self.begin(client, &bytes, now),
            }
        }
    }

    /// The place that it had among the descriptors.
    fn end_longest_idle(&mut self, now: Instant) -> Option<Guest> {
        let (id, _) = self.sessions.longest_idle()?;
        let ended = self.sessions.remove(id)?;
        if let Some(count) = self.full.count(now) {
            let (source, most) = (&self.shared.source, self.bounds.sessions);
            warn!(
                "{source}: {count} clients forgotten of late, those silent for longest: {most} at a time is all"
            );
        }
        Some(ended.guest)
    }

    fn end_idle(&mut self, now: Instant) {
        for _ in 0..ENDS {
            match self.sessions.longest_idle() {
                Some((id, last)) if now.duration_since(last) >= self.bounds.idle => {
                    self.sessions.remove(id);
                }
                Some(_) | None => return,
            }
        }
    }
}

/// Ready when `work` is; never, where there is none.
async fn done(work: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match work {
        Some(work) => work.await,
        None => future::pending().await,
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end.into()).await,
        None => future::pending().await,
    }
}
