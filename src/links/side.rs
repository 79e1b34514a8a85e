//! One end of a connection: a socket that never blocks, and what the kernel last said of it. Says nothing of its own
//! accord and decides nothing. Called by `relay` and `connection`.
//!
//! The kernel tells of a change once (edge-triggered): what it said holds until a read or a write comes back short.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::SockRef;

use super::pipes::Lent;

#[derive(Debug)]
pub(super) struct Side {
    socket: TcpStream,
    ready: EpollFlags,
    kind: Kind,
}

/// What is known of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A read that comes back short says that nothing is left.
    Tcp,
    /// Perhaps a Unix socket: a read of such a one also ends where descriptors were sent along.
    Any,
}

impl Side {
    /// All that there is to be told of a socket, each time that it comes about.
    pub(super) fn interest(token: u64) -> EpollEvent {
        let of_it = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        EpollEvent::new(of_it | EpollFlags::EPOLLPRI | EpollFlags::EPOLLET, token)
    }

    /// `socket` may be of any kind of stream; it does not block.
    pub(super) fn new(socket: TcpStream, kind: Kind) -> Self {
        Self { socket, ready: EpollFlags::empty(), kind }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Takes in what the kernel says.
    pub(super) fn note(&mut self, events: EpollFlags) {
        // From now on what is urgent comes in its place among the other bytes, and none of them is lost.
        if (events - self.ready).contains(EpollFlags::EPOLLPRI) {
            let _ = SockRef::from(&self.socket).set_out_of_band_inline(true);
        }
        self.ready |= events;
        // The next read or write says what it is.
        if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.ready |= EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        }
    }

    pub(super) fn is_readable(&self) -> bool {
        self.ready.contains(EpollFlags::EPOLLIN) || self.ready.contains(EpollFlags::EPOLLRDHUP)
    }

    pub(super) fn is_writable(&self) -> bool {
        self.ready.contains(EpollFlags::EPOLLOUT)
    }

    /// Some of its bytes are, or were, urgent. A read ends before those, and a splice finds nothing there.
    pub(super) fn is_urgent(&self) -> bool {
        self.ready.contains(EpollFlags::EPOLLPRI)
    }

    /// No more comes than what is there.
    pub(super) fn has_closed(&self) -> bool {
        self.ready.contains(EpollFlags::EPOLLRDHUP)
    }

    /// Reset, or vanished.
    pub(super) fn has_failed(&self) -> bool {
        self.ready.contains(EpollFlags::EPOLLERR)
    }

    /// Why it has failed. The kernel tells once.
    pub(super) fn failure(&self) -> io::Error {
        let told = self.socket.take_error().unwrap_or_else(Some);
        told.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// Reads once: 0 at the end of the stream, `None` when there is nothing now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty());
        match self.passing(read)? {
            // A call to hear that nothing is left is saved: what comes next is told anew. The end has been told already,
            // if it has come.
            Some(length)
                if length > 0 && length < buffer.len() && !self.is_urgent() && self.kind == Kind::Tcp =>
            {
                self.ready.remove(EpollFlags::EPOLLIN);
                Ok(Some(length))
            }
            Some(length) => Ok(Some(length)),
            None => {
                self.ready.remove(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
                Ok(None)
            }
        }
    }

    /// Writes as much as it takes now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
        let written = self.passing(sent)?.unwrap_or(0);
        // No room is left after a short write, as above.
        if written < bytes.len() {
            self.ready.remove(EpollFlags::EPOLLOUT);
        }
        Ok(written)
    }

    /// Moves what there is into the empty pipe, as [`Side::read`].
    pub(super) fn fill(&mut self, pipe: &mut Lent) -> io::Result<Option<usize>> {
        let filled = pipe.fill(self);
        let filled = self.passing(filled)?;
        if filled.is_none() {
            self.ready.remove(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        }
        Ok(filled)
    }

    /// Takes what is in the pipe until it takes no more; whether that was all.
    pub(super) fn drain(&mut self, pipe: &mut Lent) -> io::Result<bool> {
        while pipe.held() > 0 {
            let drained = pipe.drain(self);
            // Less than all is no word that there is no room: a stop and a continuation end a splice, too.
            if self.passing(drained)?.is_none() {
                self.ready.remove(EpollFlags::EPOLLOUT);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells the peer that no more comes.
    pub(super) fn close_write(&self) -> io::Result<()> {
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// `None` for what only says "not now". No signal comes to this thread, so nothing is ever interrupted.
    fn passing<T>(&mut self, answer: Result<T, impl Into<io::Error>>) -> io::Result<Option<T>> {
        match answer.map_err(Into::into) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => {
                // Told once: by this, it is not told by an event.
                self.ready |= EpollFlags::EPOLLERR;
                Err(error)
            }
        }
    }
}

impl AsFd for Side {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
