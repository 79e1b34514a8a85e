//! A pipe through which bytes get from one socket to another without being copied: the kernel moves the pages. Never
//! waits. Called by the links' relay, by way of their pool of pipes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// Both ends of a pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// In bytes.
    size: usize,
    held: usize,
}

impl Pipe {
    /// A pipe of `wanted` bytes, or of as many as this user may have: where the user has too many, a pipe comes
    /// with two pages and can't be grown.
    pub fn new(wanted: usize) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let grown = fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted.try_into().unwrap_or(i32::MAX)));
        let size = grown.or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ))?;
        Ok(Self { read, write, size: size.try_into().unwrap_or(0), held: 0 })
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many bytes are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves what `from` has into the empty pipe: 0 at the end of the stream, `WouldBlock` when there is nothing now.
    /// A pipe that holds something may be full whatever the count says, so it must be drained first.
    pub fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "else `WouldBlock` could mean that the pipe is full");
        self.held = splice(from, None, &self.write, None, self.size, flags())?;
        Ok(self.held)
    }

    /// Moves what the pipe holds to `to`, as much as that takes in one call; `WouldBlock` when it takes nothing now.
    pub fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.read, None, to, None, self.held, flags())?;
        self.held -= moved;
        Ok(moved)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        (one, listener.accept().expect("accept").0)
    }

    #[test]
    fn bytes_and_the_end_go_through() {
        let ((mut writer, from), (to, mut reader)) = (pair(), pair());
        let mut pipe = Pipe::new(1 << 16).expect("a pipe");
        assert_eq!(pipe.size(), 1 << 16);
        from.set_nonblocking(true).expect("not blocking");
        assert_eq!(pipe.fill(&from).expect_err("nothing there").kind(), ErrorKind::WouldBlock);
        writer.write_all(b"word").expect("write");
        from.set_nonblocking(false).expect("blocking");
        assert_eq!((pipe.fill(&from).expect("a word"), pipe.held()), (4, 4));
        assert_eq!((pipe.drain(&to).expect("room"), pipe.held()), (4, 0));
        let mut word = [0; 4];
        reader.read_exact(&mut word).expect("read");
        assert_eq!(&word, b"word");
        drop(writer);
        assert_eq!(pipe.fill(&from).expect("the end"), 0);
    }

    #[test]
    fn a_size_that_nobody_may_have_gives_a_smaller_pipe() {
        let pipe = Pipe::new(usize::MAX).expect("a pipe");
        assert!((1..1 << 30).contains(&pipe.size()), "{}", pipe.size());
    }
}
