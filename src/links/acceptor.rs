//! One listening socket on a relaying thread: whom it lets in, and when it holds back. What can't be accepted now is
//! tried again, without a spin; who waits, waits in the kernel's queue. Called by `engine`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::connection::Client;
use super::shared::Shared;
use crate::config::ListenAt;
use crate::sys::socket;

/// So many are accepted before those that are there get their turn.
const BATCH: usize = 64;

/// After a failed accept: when descriptors are short, waiting is all that helps.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Acceptor {
    socket: OwnedFd,
    at: ListenAt,
    shared: Arc<Shared>,
    /// The last round in which somebody waited.
    round: u64,
    /// So many may be waiting.
    crowd: usize,
    /// The kernel is not asked to tell of clients.
    pub(super) is_paused: bool,
    /// It will be tried again in a while.
    pub(super) is_timed: bool,
}

/// What one look at the queue gave.
#[derive(Debug)]
pub(super) enum Accepted {
    Client(Client),
    /// The client was gone before we came to it; the next one is waiting.
    Gone,
    Nobody,
    /// As many are open as may be: until a place is free.
    Full,
    /// No descriptor for it: until [`PAUSE`] is over.
    Short,
}

impl Acceptor {
    pub(super) fn new(socket: OwnedFd, at: ListenAt, shared: Arc<Shared>) -> Self {
        Self { socket, at, shared, round: 0, crowd: 1, is_paused: false, is_timed: false }
    }

    pub(super) fn is_open_to_others(&self) -> bool {
        self.at.is_open_to_others()
    }

    /// Told for as long as somebody waits.
    pub(super) fn interest(token: u64) -> EpollEvent {
        EpollEvent::new(EpollFlags::EPOLLIN, token)
    }

    /// How many to accept in this round of the thread: one, and twice as many each time that somebody waits in the
    /// very next one. To ask in vain costs the kernel as much as half an accept.
    pub(super) fn batch(&mut self, round: u64) -> usize {
        self.crowd = if round == self.round + 1 { (self.crowd * 2).min(BATCH) } else { 1 };
        self.round = round;
        self.crowd
    }

    pub(super) fn accept(&mut self) -> Accepted {
        let Some(guest) = self.shared.admit() else { return Accepted::Full };
        match socket::accept(&self.socket) {
            Ok(socket) => {
                self.shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
                Accepted::Client(Client { socket, guest })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accepted::Nobody,
            Err(error) if is_of_one_client(&error) => Accepted::Gone,
            Err(error) => {
                self.shared.short(&error);
                Accepted::Short
            }
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_one_client_is_no_pause() {
        assert!(is_of_one_client(&Errno::ECONNABORTED.into()));
        assert!(!is_of_one_client(&Errno::EMFILE.into()));
        assert!(!is_of_one_client(&Errno::ENFILE.into()));
    }
}
