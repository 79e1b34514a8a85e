//! Writing to stderr without ever waiting for whoever should read it. The description behind stderr is shared with
//! every child, so O_NONBLOCK is never set on it: a pipe or a terminal is opened once more, for us alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write, stderr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel takes this much into a pipe whole or not at all (PIPE_BUF), also beside other writers.
pub const ATOMIC: usize = 4096;

/// Stderr, as far as it can be written without waiting.
#[derive(Debug)]
pub enum Stderr {
    /// Our own description of the same pipe or terminal.
    Reopened(File),
    /// A socket: `send` can be told not to wait.
    Socket,
    /// A regular file never makes anybody wait.
    File,
    /// A pipe or a terminal that could not be opened again: somebody else's, or /proc is not there.
    Inherited,
    Closed,
}

impl Stderr {
    pub fn open() -> Self {
        let Ok(metadata) = stderr().as_fd().try_clone_to_owned().map(File::from).and_then(|f| f.metadata())
        else {
            return Self::Closed;
        };
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Self::Socket;
        }
        if kind.is_file() {
            return Self::File;
        }
        let own = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open("/proc/self/fd/2");
        own.map_or(Self::Inherited, Self::Reopened)
    }

    /// Writes `line` whole, or fails: `WouldBlock` when there is no room now.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = match self {
            Self::Reopened(file) => file.write(line)?,
            Self::Socket => send(line)?,
            Self::File => nix::unistd::write(stderr(), line)?,
            Self::Inherited => write_if_room(line)?,
            Self::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        if written == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Says `text` before there is a loop that could be held up: waits for room, but for a second at most in all, and then
/// drops the rest. A container whose log is stuck still starts.
pub fn say(text: &str) {
    let mut stderr = Stderr::open();
    let mut patience = 1000_u16;
    for line in text.split_inclusive('\n') {
        for part in line.as_bytes().chunks(ATOMIC) {
            while let Err(error) = stderr.write(part) {
                if error.kind() != io::ErrorKind::WouldBlock || patience == 0 {
                    return;
                }
                let pause = patience.min(10);
                patience -= pause;
                // Nothing to wait for here: it only lets the time pass, with no signal to interrupt it.
                let _timed_out = poll(&mut [], PollTimeout::from(pause));
            }
        }
    }
}

/// The kernel's own "not if it would wait", which not every kind of file knows. Where it does not, a look first: only
/// another writer that fills the room in between could then make us wait.
fn write_if_room(line: &[u8]) -> io::Result<usize> {
    let stderr = stderr();
    let part = libc::iovec { iov_base: line.as_ptr().cast_mut().cast(), iov_len: line.len() };
    // SAFETY: the kernel reads `line`, which outlives the call. An offset of -1 is the current one.
    let written = unsafe { libc::pwritev2(stderr.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    if let Ok(written) = usize::try_from(written) {
        return Ok(written);
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) {
        return Err(error);
    }
    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut room, PollTimeout::ZERO)? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(nix::unistd::write(&stderr, line)?)
}

fn send(line: &[u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, send};
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(send(stderr().as_raw_fd(), line, flags)?)
}
