//! Signals on our own side: all of them are blocked from the first statement of `main` to the end, and read from one
//! descriptor. Blocked, they wait for us: nothing is lost between exec and the loop, not even as PID 1, to which the
//! kernel delivers nothing that is neither blocked nor handled.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel raises these at whoever made the mistake; blocking them would only turn a report into a silent death.
const SYNCHRONOUS: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS];

/// The highest signal number of Linux.
pub const MAX_SIGNAL: i32 = 64;

/// Blocks every signal that can be and makes the end of children known to us, whatever our parent had set. The first
/// thing that `main` does; threads inherit it.
pub fn block_all() -> io::Result<()> {
    let ours = ours();
    // SAFETY: the kernel reads one mask of eight bytes. Not through the C library, which keeps two signals to itself
    // (32 and 33, for thread cancellation and set*id; we use neither), and they are main's like the rest.
    let blocked = unsafe {
        let (set, none) = (&raw const ours, ptr::null_mut::<u64>());
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, none, size_of::<u64>())
    };
    if blocked == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the default disposition runs no code of ours.
    // Ignored by whoever started us, SIGCHLD would reap our children behind our back.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Lets signals do to us what they do to any program, for verbs that are no init. To be called while there is one thread.
pub fn unblock_all() {
    // It fails for bad arguments only.
    let _unblocked = SigSet::empty().thread_set_mask();
}

/// The kernel's own form of a signal set: bit 0 is signal 1.
fn ours() -> u64 {
    SYNCHRONOUS.iter().fold(u64::MAX, |set, &signal| set & !(1 << (signal as i32 - 1)))
}

/// The descriptor that blocked signals are read from.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    pub fn open() -> io::Result<Self> {
        let ours = ours();
        let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
        // SAFETY: the kernel reads one mask of eight bytes; see `block_all`.
        let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const ours, size_of::<u64>(), flags) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
    }

    /// Tells the event loop of this thread when there is something to read.
    pub fn watch(&self) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
        // SAFETY: a borrowed descriptor stays open, and the same, for as long as the borrow lasts.
        Ok(unsafe { AsyncFd::register_with_interest(self.as_fd(), Interest::READABLE) }?)
    }

    /// The most that one read gives. Fewer, and there was nothing more to read.
    pub const BATCH: usize = 16;

    /// Puts the numbers of the signals that have come into `into`: one call for a burst. `WouldBlock` if none have.
    pub fn read(&self, into: &mut Vec<i32>) -> io::Result<()> {
        into.clear();
        let mut infos = [const { MaybeUninit::<libc::signalfd_siginfo>::uninit() }; Self::BATCH];
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
