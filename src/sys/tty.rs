//! The terminal: whether there is one, to whom it belongs now, and stopping with the shell's job.

use std::io::{self, IsTerminal, stdin, stdout};
use std::os::fd::AsRawFd;

use nix::unistd::{Pid, getpgid, getpgrp, getppid, getsid, tcgetpgrp};

/// Our controlling terminal, on stdin.
#[derive(Debug, Clone, Copy)]
pub struct Terminal(());

impl Terminal {
    pub fn controlling() -> Option<Self> {
        (stdin().is_terminal() && tcgetpgrp(stdin()).is_ok()).then_some(Self(()))
    }

    /// Are we its foreground? Started in a shell's background we leave it alone.
    pub fn is_ours(self) -> bool {
        self.belongs_to(getpgrp().as_raw())
    }

    pub fn belongs_to(self, group: i32) -> bool {
        tcgetpgrp(stdin()).is_ok_and(|foreground| foreground.as_raw() == group)
    }

    /// The group of the process that started us has it: a shell that took it back.
    pub fn belongs_to_our_starter(self) -> bool {
        getpgid(Some(getppid())).is_ok_and(|group| self.belongs_to(group.as_raw()))
    }

    pub fn take_back(self) -> io::Result<()> {
        self.give_to(getpgrp().as_raw())
    }

    /// Makes `group` the foreground group. Works from the background too: SIGTTOU is blocked.
    pub fn give_to(self, group: i32) -> io::Result<()> {
        nix::unistd::tcsetpgrp(stdin(), Pid::from_raw(group))?;
        Ok(())
    }
}

/// How many columns and rows stdout shows; `None` where it is no terminal, or one that does not say.
pub fn size_of_stdout() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize` into memory that is ours, or nothing.
    let told = unsafe { libc::ioctl(stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Is there somebody above us who may stop and continue us: of our session, in a group of its own, and no init? The
/// kernel's rule, by which a group without one is orphaned, and an init, which continues nobody.
pub fn is_job_of_a_shell() -> bool {
    let above = std::iter::successors(Some(getppid()), |&pid| {
        super::process::parent(pid.as_raw()).map(Pid::from_raw)
    });
    let mut strangers =
        above.take(32).filter(|&pid| getpgid(Some(pid)).is_ok_and(|group| group != getpgrp()));
    strangers.next().is_some_and(|pid| pid.as_raw() > 1 && getsid(Some(pid)).ok() == getsid(None).ok())
}

/// Stops our whole process group, as ^Z does to a job, so that the shell that started it sees it stopped. Returns
/// once it is continued.
pub fn stop_with_job() -> io::Result<()> {
    super::process::kill(0, libc::SIGSTOP)
}
