//! Wakes a relaying thread: an eventfd that it watches. Says nothing of why. Called by whoever has something for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

#[derive(Debug)]
pub(super) struct Doorbell(EventFd);

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // Fails when it has been rung so often that it can't be rung again: then it rings already.
        let _ = self.0.write(1);
    }

    /// It has been heard.
    pub(super) fn silence(&self) {
        // Fails when it did not ring.
        let _ = self.0.read();
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
