//! Signals on our own side: all of them are blocked from the first statement of `main` to the end, and read from one
//! descriptor. Blocked, they wait for us: nothing is lost between exec and the loop, not even as PID 1, to which the
//! kernel delivers nothing that is neither blocked nor handled.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The kernel raises these at whoever made the mistake; blocking them would only turn a report into a silent death.
const SYNCHRONOUS: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS];

/// The highest signal number of Linux.
pub const MAX_SIGNAL: i32 = 64;

/// Blocks every signal that can be and makes the end of children known to us, whatever our parent had set. The first
/// thing that `main` does; threads inherit it.
pub fn block_all() -> io::Result<()> {
    ours().thread_block()?;
    // SAFETY: the default disposition runs no code of ours.
    // Ignored by whoever started us, SIGCHLD would reap our children behind our back.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

fn ours() -> SigSet {
    let mut set = SigSet::all();
    for signal in SYNCHRONOUS {
        set.remove(signal);
    }
    set
}

/// The descriptor that blocked signals are read from.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    pub fn open() -> io::Result<Self> {
        Ok(Self(SignalFd::with_flags(&ours(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Tells the event loop of this thread when there is something to read.
    pub fn watch(&self) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
        // SAFETY: a borrowed descriptor stays open, and the same, for as long as the borrow lasts.
        Ok(unsafe { AsyncFd::register_with_interest(self.as_fd(), Interest::READABLE) }?)
    }

    /// Appends the numbers of the signals that have come, up to sixteen: one call for a burst. `WouldBlock` if none.
    pub fn read(&self, into: &mut Vec<i32>) -> io::Result<()> {
        let mut infos = [const { MaybeUninit::<libc::signalfd_siginfo>::uninit() }; 16];
        // SAFETY: the kernel writes whole records into memory that is ours and large enough.
        let bytes = unsafe { libc::read(self.0.as_raw_fd(), infos.as_mut_ptr().cast(), size_of_val(&infos)) };
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
        for info in &infos[..bytes / size_of::<libc::signalfd_siginfo>()] {
            // SAFETY: the kernel has filled this many records; every bit pattern is a valid one.
            let info = unsafe { info.assume_init_ref() };
            into.push(info.ssi_signo as i32);
        }
        Ok(())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
