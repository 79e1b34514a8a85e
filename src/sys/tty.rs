//! The terminal: whether it is ours to hand on, to whom it belongs now, and stopping with the shell's job.

use std::io::{self, IsTerminal, stdin};

use nix::unistd::{Pid, getpgrp, tcgetpgrp};

/// The controlling terminal on stdin, whose foreground group we are in when it was found.
#[derive(Debug, Clone, Copy)]
pub struct Terminal(());

impl Terminal {
    /// The terminal, if there is one and we are in its foreground. Started in a shell's background we leave it alone.
    pub fn ours() -> Option<Self> {
        (stdin().is_terminal() && is_foreground()).then_some(Self(()))
    }

    /// Makes `group` the foreground group. Works from the background too: SIGTTOU is blocked.
    pub fn give_to(self, group: i32) -> io::Result<()> {
        nix::unistd::tcsetpgrp(stdin(), Pid::from_raw(group))?;
        Ok(())
    }

    /// Has the shell brought us back to the foreground?
    pub fn is_ours_again(self) -> bool {
        is_foreground()
    }
}

fn is_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

/// Stops our whole process group, as ^Z does to a job, so that the shell that started it sees it stopped. Returns
/// once it is continued.
pub fn stop_with_job() -> io::Result<()> {
    super::process::kill(0, libc::SIGSTOP)
}
