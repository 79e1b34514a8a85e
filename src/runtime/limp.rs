//! What is left of PID 1 when its loop has died of a bug: reap, pass signals on, and end with main's code. Nothing
//! is restarted, announced or checked any more, but the container does not die of it.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::reaper;
use crate::exit;
use crate::machine::event::Descendants;
use crate::sys::process::{self, Pid};
use crate::sys::signals::Signals;

/// Serves `main` to its end and gives the exit code. Without a main there is nothing to stay for.
pub fn run(signals: &Signals, main: Option<Pid>) -> u8 {
    tracing::error!("internal error: supervision has ended; reaping and passing signals on until main ends");
    let Some(main) = main else { return exit::INTERNAL };
    let mut numbers = Vec::new();
    loop {
        let reaped = reaper::reap(|pid| pid == main);
        if let Some((_, ending)) = reaped.ended.first() {
            return ending.exit_code();
        }
        if reaped.descendants == Descendants::None {
            return exit::INTERNAL;
        }
        let mut readable = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // A failure here can only be an interruption; the next round looks again.
        let _ready = poll(&mut readable, PollTimeout::NONE);
        if signals.read(&mut numbers).is_err() {
            continue;
        }
        for &number in numbers.iter().filter(|&&number| number != libc::SIGCHLD) {
            // Gone already: the next round reaps it.
            let _sent = process::kill_group(main, number);
        }
    }
}
