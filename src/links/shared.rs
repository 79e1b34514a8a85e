//! What the connections of one link share: where they go, how many there may be, what was said of them. A connection
//! holds it as a [`Guest`], whose end gives its place back. Never accepts and never connects. Called by `acceptor` and
//! `connection`.

use std::io;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::counters::Counters;
use super::doorbell::Doorbell;
use super::plan::{Source, Target};
use super::side::Kind;
use super::upstream::{ConnectError, Upstream};
use crate::net::resolve::Resolver;

/// Descriptors that connections leave alone: 64 pipes, and as many again for everything else.
const RESERVE: u64 = 256;

/// Failures to accept, and full links, closer together than this are one episode, told once.
const EPISODE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) to: Target,
    pub(super) upstream: Upstream,
    pub(super) resolver: Arc<Resolver>,
    pub(super) counters: Arc<Counters>,
    /// Of the sockets at either end.
    pub(super) kind: Kind,
    /// The last connection found no upstream; that is told once, not for each connection.
    is_failing: AtomicBool,
    /// `max_connections` of the link, whichever of its addresses they come to.
    limit: Option<Places>,
    /// It is full, which is told once as well.
    full: Mutex<Episode>,
    /// What a connection needs is used up, and so is that.
    short: Mutex<Episode>,
    /// Of the connections of all links together: what is left over is for everybody else's descriptors.
    descriptors: Arc<Places>,
    /// Tells those who wait for a place.
    doorbells: Arc<Doorbells>,
}

/// So many may be open at a time.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: AtomicUsize,
    /// So many have one, and lack a descriptor all the same: see [`Shared::lacks`].
    lacking: AtomicUsize,
}

/// Somebody let in who lacks a descriptor. For as long as this lives nobody else is let in.
#[derive(Debug)]
pub(super) struct Lack(Arc<Places>);

/// Who is to be told when a place is free again.
#[derive(Debug)]
pub(super) struct Doorbells {
    pub(super) bells: Vec<Arc<Doorbell>>,
    anybody_waits: AtomicBool,
}

/// Things of one kind that happen closer together than [`EPISODE`], and are told once.
#[derive(Debug, Default)]
struct Episode(Option<Instant>);

/// One connection's place, for as long as it is open.
#[derive(Debug)]
pub(super) struct Guest(Arc<Shared>);

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "each is a part, none has a default")]
    pub(super) fn new(
        source: Source,
        to: Target,
        upstream: Upstream,
        resolver: Arc<Resolver>,
        counters: Arc<Counters>,
        kind: Kind,
        limit: Option<NonZeroU32>,
        descriptors: Arc<Places>,
        doorbells: Arc<Doorbells>,
    ) -> Self {
        let most = |limit: NonZeroU32| Places::new(usize::try_from(limit.get()).unwrap_or(usize::MAX));
        let limit = limit.map(most);
        Self {
            source,
            to,
            upstream,
            resolver,
            counters,
            kind,
            is_failing: AtomicBool::new(false),
            limit,
            full: Mutex::default(),
            short: Mutex::default(),
            descriptors,
            doorbells,
        }
    }

    /// A place for one more connection. `None` while there is none: then the doorbells ring once there is.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Guest> {
        let guest = self.try_admit().or_else(|| {
            self.doorbells.anybody_waits.store(true, Ordering::SeqCst);
            // It may have become free before anybody knew that we wait.
            self.try_admit()
        });
        if guest.is_none() && is_news(&self.full) {
            let reason = match &self.limit {
                Some(limit) if limit.is_full() => "`max_connections` allows",
                Some(_) | None => "the limit of open files has room for",
            };
            warn!("{}: as many connections are open as {reason}; more wait", self.source);
        }
        guest
    }

    /// The kernel has nothing left to let anybody in with.
    pub(super) fn short(&self, error: &io::Error) {
        if is_news(&self.short) {
            warn!("{}: cannot accept connections for now: {error}", self.source);
        }
    }

    /// For somebody let in for whose way on there is no descriptor. Those who come later must not have the next ones:
    /// they would get all there are, and keep them.
    pub(super) fn lacks(&self, error: &io::Error) -> Lack {
        self.short(error);
        self.descriptors.lacking.fetch_add(1, Ordering::SeqCst);
        Lack(Arc::clone(&self.descriptors))
    }

    /// As [`Self::admit`], for somebody who does not wait.
    pub(super) fn try_admit(self: &Arc<Self>) -> Option<Guest> {
        if !self.limit.as_ref().is_none_or(Places::take) {
            return None;
        }
        if self.descriptors.take() {
            self.counters.open.fetch_add(1, Ordering::Relaxed);
            return Some(Guest(Arc::clone(self)));
        }
        self.limit.iter().for_each(Places::give_back);
        None
    }

    /// A connection has found its upstream.
    pub(super) fn served(&self) {
        if self.works_again() {
            info!("{}: {} takes connections again", self.source, self.to);
        }
    }

    /// A connection has found none.
    pub(super) fn unserved(&self, error: &ConnectError) {
        self.counters.unserved.fetch_add(1, Ordering::Relaxed);
        if self.begins_to_fail() {
            warn!("{}: cannot connect to {}: {error}; clients get a reset", self.source, self.to);
        }
    }

    /// No address takes anything, and that is news.
    pub(super) fn begins_to_fail(&self) -> bool {
        !self.is_failing.swap(true, Ordering::Relaxed)
    }

    /// Some address does, and that is news.
    pub(super) fn works_again(&self) -> bool {
        // The look is cheaper than the change, and this is for every connection.
        self.is_failing() && self.is_failing.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0), lacking: AtomicUsize::new(0) }
    }

    /// As many connections as `limit` open files allow, two each, and leave some for probes, the registry, pipes and
    /// the rest of PID 1: clients that stay must not make a healthy service look dead.
    pub(super) fn within(limit: u64) -> Self {
        let reserve = RESERVE.min(limit / 4);
        Self::new(usize::try_from((limit - reserve) / 2).unwrap_or(usize::MAX).max(1))
    }

    fn take(&self) -> bool {
        let free = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many there are, taken or not.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Nobody has one.
    pub(super) fn are_free(&self) -> bool {
        self.taken.load(Ordering::SeqCst) == 0
    }

    /// See [`Shared::lacks`].
    pub(super) fn does_anybody_lack(&self) -> bool {
        self.lacking.load(Ordering::SeqCst) > 0
    }

    fn is_full(&self) -> bool {
        self.taken.load(Ordering::SeqCst) >= self.most
    }
}

impl Doorbells {
    pub(super) fn new(bells: Vec<Arc<Doorbell>>) -> Self {
        Self { bells, anybody_waits: AtomicBool::new(false) }
    }

    fn place_is_free(&self) {
        if self.anybody_waits.load(Ordering::SeqCst) && self.anybody_waits.swap(false, Ordering::SeqCst) {
            self.bells.iter().for_each(|bell| bell.ring());
        }
    }
}

/// It happens; whether that is worth a line.
fn is_news(episode: &Mutex<Episode>) -> bool {
    let last = episode.lock().unwrap_or_else(PoisonError::into_inner).0.replace(Instant::now());
    last.is_none_or(|at| at.elapsed() > EPISODE)
}

impl Deref for Guest {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Lack {
    fn drop(&mut self) {
        self.0.lacking.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        self.limit.iter().for_each(Places::give_back);
        self.descriptors.give_back();
        self.doorbells.place_is_free();
    }
}
