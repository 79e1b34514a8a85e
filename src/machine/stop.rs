//! How the container ends: withdraw, drain, signal, kill, sweep, leave; each step with its deadline, all of them
//! inside one budget. Holds the phase and its deadlines; `mod.rs` moves from one to the next.

use std::time::Duration;

use super::time::Time;
use crate::config::{Config, Signal, WITHDRAW_LIMIT};

/// How long a killed process may take to vanish (it may hang in the kernel) before we leave all the same.
pub const VANISH_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// Withdrawn, or about to be, and still serving.
    Draining {
        signal: Signal,
        drained_at: Time,
        withdrawn_by: Time,
        wall: Option<Time>,
    },
    /// Services get their stop signals, those that come after others first, until `all_by`: then whoever has not been
    /// asked is, order or not, so that nobody is killed at `wall` without having been asked to go.
    Stopping {
        signal: Signal,
        all_by: Option<Time>,
        wall: Option<Time>,
    },
    /// Main is gone. What is left has had its TERM.
    Sweeping {
        code: u8,
        kill: SweepKill,
        withdrawn_by: Time,
    },
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepKill {
    At(Time),
    /// Done; leave at this time even if something hangs.
    Done {
        leave_at: Time,
    },
}

impl Phase {
    /// The stop begins: the signal is the one that we were sent, `drain` how long to serve on.
    pub fn drain(config: &Config, signal: Signal, drain: Drain, now: Time) -> Self {
        let (drain, limit) = match drain {
            Drain::Announced => (longest_drain(config), WITHDRAW_LIMIT),
            Drain::NothingAnnounced => (Duration::ZERO, Duration::ZERO),
        };
        let main = &config.services[config.main.0];
        let before_signal = drain.max(limit);
        Self::Draining {
            signal,
            drained_at: now + drain,
            withdrawn_by: now + before_signal,
            wall: main.stop.timeout.map(|timeout| now + before_signal + timeout),
        }
    }

    /// The signals begin. Those that others wait for may take half of main's time.
    pub fn stopping(config: &Config, signal: Signal, wall: Option<Time>, now: Time) -> Self {
        let half = config.services[config.main.0].stop.timeout.map(|timeout| now + timeout / 2);
        let all_by = half.zip(wall).map(|(half, wall)| half.min(wall));
        Self::Stopping { signal, all_by, wall }
    }

    pub fn sweep(config: &Config, code: u8, now: Time) -> Self {
        let sweep = config.services[config.main.0].stop.sweep;
        Self::Sweeping { code, kill: SweepKill::At(now + sweep), withdrawn_by: now + WITHDRAW_LIMIT }
    }

    pub fn is_closing(self) -> bool {
        self != Self::Running
    }
}

/// Whether there are clients who found us in the registry and may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    Announced,
    NothingAnnounced,
}

fn longest_drain(config: &Config) -> Duration {
    config.services.iter().map(|service| service.stop.drain).max().unwrap_or_default()
}

/// The longest that a stop can take from the first TERM on; `None` where main's stop timeout is "never".
pub fn budget(config: &Config) -> Option<Duration> {
    let stop = &config.services[config.main.0].stop;
    let before_signal = longest_drain(config).max(WITHDRAW_LIMIT);
    Some(before_signal + stop.timeout? + VANISH_LIMIT + stop.sweep + VANISH_LIMIT.max(WITHDRAW_LIMIT))
}
