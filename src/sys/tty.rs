//! The terminal: whether there is one, to whom it belongs now, and stopping with the shell's job.

use std::io::{self, IsTerminal, stdin};

use nix::unistd::{Pid, getpgrp, tcgetpgrp};

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

    /// Makes `group` the foreground group. Works from the background too: SIGTTOU is blocked.
    pub fn give_to(self, group: i32) -> io::Result<()> {
        nix::unistd::tcsetpgrp(stdin(), Pid::from_raw(group))?;
        Ok(())
    }
}

/// Stops our whole process group, as ^Z does to a job, so that the shell that started it sees it stopped. Returns
/// once it is continued.
pub fn stop_with_job() -> io::Result<()> {
    super::process::kill(0, libc::SIGSTOP)
}
