//! A relaying thread: an epoll set with the links' listeners and connections in it, and nothing that waits for anything
//! else. What takes time is done beside it (`dial`) and comes back by letter. A panic in a connection ends that
//! connection alone. Called by `worker`.
//!
//! Why not tasks of an event loop that is there already: a connection is then two registrations and a task, eight times
//! the memory, and each of its events a wake-up of that task.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::acceptor::{self, Accepted, Acceptor};
use super::connection::{Client, Connection, Next, Which};
use super::dial::{dial, reset_after_last_bytes};
use super::doorbell::Doorbell;
use super::relay::LAST_BYTES;
use super::shared::{Lack, Places};
use super::side::Side;
use super::slots::{Slots, Token};
use super::upstream::Tried;

/// So many events are taken at a time.
const EVENTS: usize = 256;

/// What an event is of, where it is of no connection.
const BELL: u64 = u64::MAX;
const ACCEPTORS: u64 = 1 << 63;

/// So many timers of what is gone are nothing to tidy up.
const STALE: usize = 1024;

/// Between two looks at what is still on its way, at the very end.
const LOOK: Duration = Duration::from_millis(1);

/// What the others have for a relaying thread.
#[derive(Debug)]
pub(super) enum Letter {
    /// Accepted by another thread; this one's turn.
    Client(Client),
    /// Connected where it took time.
    Connection(Box<Connection>),
    /// Nobody from outside is let in any more.
    TurnAway,
    /// Nobody is let in any more, and what is quiet is closed: all by then, and then tell.
    Finish {
        by: Instant,
        done: mpsc::Sender<()>,
    },
    Stop,
}

/// Where letters go.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    letters: mpsc::Sender<Letter>,
    bell: Arc<Doorbell>,
}

/// What becomes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// It has taken too long to connect, or lives for longer than most.
    Old(Token),
    /// Its receiver has had its time.
    Tired(Token),
    /// Descriptors may be there again.
    Accept(usize),
}

#[derive(Debug)]
pub(super) struct Engine {
    epoll: Epoll,
    mail: Mailbox,
    letters: mpsc::Receiver<Letter>,
    /// By their number; `None` once closed.
    acceptors: Vec<Option<Acceptor>>,
    /// All relaying threads, which take what is accepted in turn; empty where there is only this one.
    turns: Vec<Mailbox>,
    next_turn: usize,
    connections: Slots<Connection>,
    /// Of the loop.
    round: u64,
    /// Those that have more to do.
    busy: VecDeque<Token>,
    timers: BinaryHeap<Reverse<(Instant, Due)>>,
    /// The loop for what takes time.
    beside: Handle,
    /// Of the connections of all threads, those included for which something takes time.
    places: Arc<Places>,
    /// Tells those.
    end: watch::Receiver<()>,
    finish: Option<(Instant, mpsc::Sender<()>)>,
}

impl Mailbox {
    pub(super) fn post(&self, letter: Letter) {
        // Fails when the thread has ended: then nobody is connected through it any more.
        if self.letters.send(letter).is_ok() {
            self.bell.ring();
        }
    }

    pub(super) fn bell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.bell)
    }
}

impl Engine {
    /// `end` tells what takes time that it is the end.
    pub(super) fn new(beside: Handle, places: Arc<Places>, end: watch::Receiver<()>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Arc::new(Doorbell::new()?);
        epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let (sender, letters) = mpsc::channel();
        Ok(Self {
            epoll,
            mail: Mailbox { letters: sender, bell },
            letters,
            acceptors: Vec::new(),
            turns: Vec::new(),
            next_turn: 0,
            connections: Slots::default(),
            round: 1,
            busy: VecDeque::new(),
            timers: BinaryHeap::new(),
            beside,
            places,
            end,
            finish: None,
        })
    }

    pub(super) fn mailbox(&self) -> Mailbox {
        self.mail.clone()
    }

    /// What it accepts goes to each of these in turn.
    pub(super) fn share_with(&mut self, all: Vec<Mailbox>) {
        self.turns = all;
    }

    /// Clients of `acceptor` are let in as soon as the thread runs.
    pub(super) fn listen(&mut self, acceptor: Acceptor) -> io::Result<()> {
        self.epoll.add(&acceptor, Acceptor::interest(ACCEPTORS | self.acceptors.len() as u64))?;
        self.acceptors.push(Some(acceptor));
        Ok(())
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, self.patience()) {
                // Stopped and continued.
                Err(Errno::EINTR) => 0,
                count => count?,
            };
            for event in &events[..count] {
                match event.data() {
                    BELL => {
                        if self.read_letters() {
                            return Ok(());
                        }
                    }
                    number if number & ACCEPTORS != 0 => {
                        self.accept(usize::try_from(number & !ACCEPTORS).expect("it was one"));
                    }
                    bits => {
                        let which = if bits & 1 == 0 { Which::Client } else { Which::Upstream };
                        self.noted(Token::from_bits(bits >> 1), which, event.events());
                    }
                }
            }
            self.ring_due();
            for _ in 0..self.busy.len() {
                let Some(token) = self.busy.pop_front() else { break };
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.is_queued = false;
                }
                self.advance(token, Connection::advance);
            }
            // Else there is more that has not been told yet.
            if count < EVENTS {
                self.close_quiet();
            }
            self.round += 1;
        }
    }

    /// How long there is nothing to do if nothing happens.
    fn patience(&self) -> EpollTimeout {
        if !self.busy.is_empty() {
            return EpollTimeout::ZERO;
        }
        let due = self.timers.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        let look = self.finish.as_ref().map(|_| LOOK);
        let Some(wait) = due.into_iter().chain(look).min() else { return EpollTimeout::NONE };
        // Not too early, which would be a spin: up to the next millisecond.
        let millis = wait.as_micros().div_ceil(1000);
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }

    fn noted(&mut self, token: Token, which: Which, events: EpollFlags) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.note(which, events);
            self.enqueue(token);
        }
    }

    /// Once, whatever happens until its turn: else those with the most events would have the most turns.
    fn enqueue(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !std::mem::replace(&mut connection.is_queued, true) {
            self.busy.push_back(token);
        }
    }

    fn advance(&mut self, token: Token, step: impl FnOnce(&mut Connection) -> Next) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        // The panic itself has been reported where it happened.
        match catch_unwind(AssertUnwindSafe(|| step(connection))).unwrap_or(Next::Reset) {
            Next::Waits => {}
            Next::WaitsSoLong => {
                if !std::mem::replace(&mut connection.is_timed, true) {
                    self.timers.push(Reverse((Instant::now() + LAST_BYTES, Due::Tired(token))));
                }
            }
            Next::Again => self.enqueue(token),
            Next::Close => drop(self.remove(token)),
            Next::Reset => self.reset(token),
            Next::Refused => self.dial_again(token),
        }
    }

    fn remove(&mut self, token: Token) -> Option<Connection> {
        let removed = self.connections.remove(token);
        // Timers of what is gone wake nobody up.
        while let Some(Reverse((_, due))) = self.timers.peek() {
            match *due {
                Due::Old(token) | Due::Tired(token) if self.connections.get_mut(token).is_none() => {
                    self.timers.pop();
                }
                Due::Old(_) | Due::Tired(_) | Due::Accept(_) => break,
            }
        }
        removed
    }

    fn reset(&mut self, token: Token) {
        let Some(connection) = self.remove(token) else { return };
        self.forget(&connection.client);
        self.forget(&connection.upstream);
        if let Some((late, place)) = connection.reset() {
            self.beside.spawn(reset_after_last_bytes(late, place));
        }
    }

    fn dial_again(&mut self, token: Token) {
        let Some(connection) = self.remove(token) else { return };
        self.forget(&connection.client);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let (client, tried) = connection.into_client();
            self.dial(client, tried, None);
        }));
    }

    /// A socket that lives on elsewhere is not watched here any more.
    fn forget(&self, side: &Side) {
        // Fails where it is not watched.
        let _ = self.epoll.delete(side);
    }

    fn dial(&self, client: Client, tried: Tried, lack: Option<Lack>) {
        self.beside.spawn(dial(client, tried, lack, self.mail.clone(), self.end.clone()));
    }

    fn accept(&mut self, number: usize) {
        let round = self.round;
        let batch = self.acceptor(number).map_or(0, |acceptor| acceptor.batch(round));
        for _ in 0..batch {
            let does_anybody_lack = self.places.does_anybody_lack();
            let Some(acceptor) = self.acceptor(number) else { return };
            match if does_anybody_lack { Accepted::Short } else { acceptor.accept() } {
                Accepted::Client(client) => self.let_in(client),
                Accepted::Gone => {}
                Accepted::Nobody => return,
                Accepted::Full => return self.pause(number),
                Accepted::Short => {
                    self.accept_later(number);
                    return self.pause(number);
                }
            }
        }
    }

    fn let_in(&mut self, client: Client) {
        match self.turns.get(self.next_turn) {
            Some(turn) => {
                self.next_turn = (self.next_turn + 1) % self.turns.len();
                turn.post(Letter::Client(client));
            }
            None => self.connect(client),
        }
    }

    /// Those that the kernel has let in already are not to be lost with what they sent.
    fn let_in_the_last(&mut self) {
        for mut acceptor in std::mem::take(&mut self.acceptors).into_iter().flatten() {
            loop {
                match acceptor.accept() {
                    Accepted::Client(client) => self.let_in(client),
                    Accepted::Gone => {}
                    Accepted::Nobody | Accepted::Full | Accepted::Short => break,
                }
            }
        }
    }

    fn acceptor(&mut self, number: usize) -> Option<&mut Acceptor> {
        self.acceptors.get_mut(number)?.as_mut()
    }

    fn pause(&mut self, number: usize) {
        let Some(Some(acceptor)) = self.acceptors.get_mut(number) else { return };
        // Fails where it is not watched, as is meant.
        let _ = self.epoll.delete(&*acceptor);
        acceptor.is_paused = true;
    }

    /// Once, however often it is said: a doorbell rings for each place that is free, too.
    fn accept_later(&mut self, number: usize) {
        let Some(Some(acceptor)) = self.acceptors.get_mut(number) else { return };
        if !std::mem::replace(&mut acceptor.is_timed, true) {
            self.timers.push(Reverse((Instant::now() + acceptor::PAUSE, Due::Accept(number))));
        }
    }

    fn resume(&mut self, number: usize) {
        let Some(Some(acceptor)) = self.acceptors.get_mut(number) else { return };
        if acceptor.is_paused && self.finish.is_none() {
            let interest = Acceptor::interest(ACCEPTORS | number as u64);
            // Out of memory in the kernel: later, then.
            match self.epoll.add(&*acceptor, interest) {
                Ok(()) => acceptor.is_paused = false,
                Err(_) => self.accept_later(number),
            }
        }
    }

    fn connect(&mut self, client: Client) {
        // The panic has been reported where it happened; the client is gone with it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.begin(client)));
    }

    /// To the address at hand, if there is one.
    fn begin(&mut self, client: Client) {
        let attempt = client.guest.upstream.at_hand(&client.guest.resolver, Instant::now());
        let Some(attempt) = attempt else { return self.dial(client, Tried::default(), None) };
        match attempt.address.begin() {
            Ok(socket) => self.watch(client.connecting(attempt, socket)),
            // Its queue is full, which says nothing against it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.dial(client, Tried::default(), None);
            }
            Err(error) => {
                let (mut tried, error) = (Tried::default(), attempt.error(error));
                let lack = error.shortage().map(|error| client.guest.lacks(error));
                client.guest.upstream.failed(attempt, error, &mut tried);
                self.dial(client, tried, lack);
            }
        }
    }

    fn watch(&mut self, connection: Connection) {
        let old = connection.deadline(Instant::now());
        let token = self.connections.insert(connection);
        let Some(connection) = self.connections.get_mut(token) else { return };
        let bits = token.to_bits() << 1;
        let watched = self
            .epoll
            .add(&connection.client, Side::interest(bits))
            .and_then(|()| self.epoll.add(&connection.upstream, Side::interest(bits | 1)));
        match watched {
            Ok(()) => {
                self.timers.push(Reverse((old, Due::Old(token))));
                self.forget_stale_timers();
            }
            // The kernel has no room to watch one more: as good as out of descriptors.
            Err(_) => self.reset(token),
        }
    }

    /// Most connections end long before their timer is due, and there may be thousands a second of them.
    fn forget_stale_timers(&mut self) {
        if self.timers.len() > 2 * self.connections.len() + STALE {
            let connections = &mut self.connections;
            self.timers.retain(|Reverse((_, due))| match *due {
                Due::Old(token) | Due::Tired(token) => connections.get_mut(token).is_some(),
                Due::Accept(_) => true,
            });
        }
    }

    fn ring_due(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, due))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            match due {
                Due::Old(token) => {
                    if self.connections.get_mut(token).is_some_and(|connection| connection.is_connecting()) {
                        self.advance(token, Connection::tire);
                    }
                    // It may have been made at the last moment.
                    if let Some(connection) = self.connections.get_mut(token) {
                        connection.keep_alive();
                    }
                }
                Due::Tired(token) => self.advance(token, Connection::tire),
                Due::Accept(number) => {
                    if let Some(acceptor) = self.acceptor(number) {
                        acceptor.is_timed = false;
                    }
                    self.resume(number);
                }
            }
        }
    }

    /// Whether it is told to stop.
    fn read_letters(&mut self) -> bool {
        self.mail.bell.silence();
        while let Ok(letter) = self.letters.try_recv() {
            match letter {
                Letter::Client(client) => self.connect(client),
                Letter::Connection(connection) => self.watch(*connection),
                Letter::TurnAway => {
                    for acceptor in &mut self.acceptors {
                        acceptor.take_if(|acceptor| acceptor.is_open_to_others());
                    }
                }
                Letter::Finish { by, done } => {
                    self.let_in_the_last();
                    self.finish = Some((by, done));
                }
                Letter::Stop => return true,
            }
        }
        // It rings for a free place, too.
        (0..self.acceptors.len()).for_each(|number| self.resume(number));
        false
    }

    /// At the end: lets go of what has nothing on its way any more.
    fn close_quiet(&mut self) {
        let Some((by, _)) = self.finish else { return };
        for token in self.connections.tokens() {
            if self.connections.get_mut(token).is_some_and(Connection::is_quiet) {
                self.remove(token);
            }
        }
        if (self.places.are_free() || by <= Instant::now())
            && let Some((_, done)) = self.finish.take()
        {
            // Fails when nobody waits for it any more.
            let _ = done.send(());
        }
    }
}
