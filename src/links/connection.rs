//! One connection on a relaying thread: the attempt to reach its upstream, then the relay. Knows of no other connection
//! and of no event loop. Called by `engine`.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use socket2::{SockRef, TcpKeepalive};

use super::counters::Use;
use super::relay::{Relay, Turn};
use super::shared::Guest;
use super::side::Side;
use super::upstream::{Attempt, Tried};
use crate::sys::socket;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Side,
    pub(super) upstream: Side,
    stage: Stage,
    guest: Guest,
    /// It waits for its turn.
    pub(super) is_queued: bool,
    /// Somebody will call [`Connection::tire`].
    pub(super) is_timed: bool,
    /// At so many looks in a row nothing was on its way.
    quiet: u8,
}

/// So many looks in a row say that a connection whose client has not closed it is of no use any more: what a look
/// does not see may be between two sockets of the kernel's.
const QUIET: u8 = 4;

/// A client that waits for its upstream, and its place.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) guest: Guest,
}

/// What comes after [`Connection::advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Waits,
    /// Waits, and wants [`Connection::tire`] after [`super::relay::LAST_BYTES`].
    WaitsSoLong,
    /// There is more to do, when the others have had their turn.
    Again,
    /// Over: to be closed.
    Close,
    /// Over: both ends are to be reset.
    Reset,
    /// The first address did not take it: [`Connection::into_client`].
    Refused,
}

#[derive(Debug)]
enum Stage {
    Connecting {
        /// In a box: it is over soon, and most connections live longer.
        attempt: Box<Attempt>,
        /// How it failed.
        error: Option<io::Error>,
    },
    Relaying {
        relay: Relay,
        _counted: Use,
    },
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Client,
    Upstream,
}

/// Finds out about a peer that vanished: within two minutes when idle.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// Closes so that the peer sees a reset: to it this is no orderly end.
pub(super) fn reset(socket: TcpStream) {
    // If it fails the socket is closed all the same.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

impl Client {
    /// The first attempt for it has begun on `socket`.
    pub(super) fn connecting(self, attempt: Attempt, socket: TcpStream) -> Connection {
        self.with(socket, Stage::Connecting { attempt: Box::new(attempt), error: None })
    }

    /// It has its upstream.
    pub(super) fn connected(self, upstream: TcpStream, counted: Use) -> Connection {
        self.with(upstream, Stage::Relaying { relay: Relay::default(), _counted: counted })
    }

    fn with(self, upstream: TcpStream, stage: Stage) -> Connection {
        let kind = self.guest.kind;
        let (client, upstream) = (Side::new(self.socket, kind), Side::new(upstream, kind));
        Connection { client, upstream, stage, guest: self.guest, is_queued: false, is_timed: false, quiet: 0 }
    }
}

impl Connection {
    /// Takes in what the kernel says of one end.
    pub(super) fn note(&mut self, which: Which, events: EpollFlags) {
        match which {
            Which::Client => self.client.note(events),
            Which::Upstream => self.upstream.note(events),
        }
    }

    /// Does what can be done now.
    pub(super) fn advance(&mut self) -> Next {
        if let Stage::Connecting { attempt, error } = &mut self.stage {
            // Nobody waits for it any more.
            if self.client.has_failed() {
                return Next::Reset;
            }
            if error.is_none() && !self.upstream.is_writable() {
                return Next::Waits;
            }
            if error.is_none() {
                *error = match self.upstream.has_failed() {
                    true => Some(self.upstream.failure()),
                    false => attempt.address.verdict(self.upstream.socket()).err(),
                };
            }
            if error.is_some() {
                return Next::Refused;
            }
            let counted = self.guest.upstream.succeeded(attempt);
            self.guest.served();
            self.stage = Stage::Relaying { relay: Relay::default(), _counted: counted };
        }
        match &mut self.stage {
            Stage::Connecting { .. } => Next::Waits,
            Stage::Relaying { relay, .. } => {
                let (turn, moved) = relay.advance(&mut self.client, &mut self.upstream);
                self.guest.counters.moved(moved.up, moved.down);
                match turn {
                    Turn::Waits => Next::Waits,
                    Turn::WaitsSoLong => Next::WaitsSoLong,
                    Turn::Over => Next::Again,
                    Turn::Orderly => Next::Close,
                    Turn::Broken => Next::Reset,
                }
            }
        }
    }

    /// The time for the attempt is over, or that for the relay's last bytes.
    pub(super) fn tire(&mut self) -> Next {
        self.is_timed = false;
        match &mut self.stage {
            // It may have been made while this thread was stopped.
            Stage::Connecting { error, .. } if !self.upstream.is_writable() => {
                error.get_or_insert(io::ErrorKind::TimedOut.into());
            }
            Stage::Connecting { .. } => {}
            Stage::Relaying { relay, .. } => relay.tire(Instant::now()),
        }
        self.advance()
    }

    /// It has lived for longer than most: from now on a peer that vanished is to be noticed. What is accepted inherits
    /// this from its listener.
    pub(super) fn keep_alive(&self) {
        if matches!(self.stage, Stage::Relaying { .. }) {
            // Fails for what is no TCP, or has failed by now: whoever uses it next will notice.
            let _ = SockRef::from(self.upstream.socket()).set_tcp_keepalive(&keepalive());
        }
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. })
    }

    /// When an attempt that begins now is given up.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        now + self.guest.upstream.timeout()
    }

    /// The client, and what was tried for it in vain: once it is [`Next::Refused`].
    pub(super) fn into_client(self) -> (Client, Tried) {
        let mut tried = Tried::default();
        if let Stage::Connecting { attempt, error: Some(error) } = self.stage {
            let error = attempt.error(error);
            self.guest.upstream.failed(*attempt, error, &mut tried);
        }
        (Client { socket: self.client.into_socket(), guest: self.guest }, tried)
    }

    /// Resets both ends. What comes back has bytes under way to a peer that is there: it is to be reset once they have
    /// arrived.
    pub(super) fn reset(self) -> Option<(Vec<TcpStream>, Guest)> {
        let ends = [self.client, self.upstream].into_iter();
        let (delivered, late): (Vec<_>, Vec<_>) = ends.partition(is_delivered);
        delivered.into_iter().for_each(|end| reset(end.into_socket()));
        let late: Vec<_> = late.into_iter().map(Side::into_socket).collect();
        if late.is_empty() { None } else { Some((late, self.guest)) }
    }

    /// Looks whether anything is on its way, here or in the kernel: where nothing is, closing it now loses nothing.
    pub(super) fn is_quiet(&mut self) -> bool {
        let is_delivered = is_delivered(&self.client) && is_delivered(&self.upstream);
        match &self.stage {
            // Gone without a word, as far as can be known.
            Stage::Connecting { .. } => self.client.has_closed() && socket::unread(&self.client) == 0,
            Stage::Relaying { relay, .. } => {
                let is_quiet = is_delivered && relay.is_quiet(&self.client, &self.upstream);
                self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
                is_quiet && relay.has_sent_all() || self.quiet >= QUIET
            }
        }
    }
}

/// What was written to it is there, or never will be.
fn is_delivered(side: &Side) -> bool {
    // Fails for what is no socket with a count.
    side.has_failed() || socket::unacknowledged(side).map_or(true, |bytes| bytes == 0)
}
