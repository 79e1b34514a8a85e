//! Everything that the supervisor can ask of the world, and everything that it has to say. `runtime/perform.rs` is
//! the only place that carries these out.

use std::fmt;
use std::time::Duration;

use super::event::{AttemptId, CheckId, ClaimId, Ending, LinkId, ProbeId, RequestId, Run};
use crate::config::{Conflict, ServiceId, Signal};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the service's command. Answered by `Spawned` or `SpawnFailed` before anything else happens.
    Spawn { service: ServiceId, run: Run },
    /// Send a signal to the run's process group (to the process alone while it has no group yet).
    Signal { service: ServiceId, run: Run, signal: Signal },
    /// The run's process is gone: kill what is left of its group, which would be in its successor's way.
    KillRemains { service: ServiceId, run: Run },
    /// Run the check once. Answered by `Probed`.
    Probe { service: ServiceId, check: CheckId, probe: ProbeId },
    /// End a probe that took too long or lost its purpose. Still answered by `Probed`.
    CancelProbe { service: ServiceId, check: CheckId, probe: ProbeId },
    /// Try once whether an upstream of the link takes a connection. Answered by `Reached`.
    Reach { service: ServiceId, link: LinkId, attempt: AttemptId },
    /// The answer does not matter any more.
    CancelReach { service: ServiceId, link: LinkId, attempt: AttemptId },
    /// Put the service's records into the registry, with whatever may be left of an earlier try of this claim. `conflict`
    /// is the most that may be done about another instance's record; each record's own setting says whether it is.
    Register { service: ServiceId, claim: ClaimId, request: RequestId, conflict: Conflict },
    /// Heartbeat; also has the records say where we are now.
    Renew { service: ServiceId, claim: ClaimId, request: RequestId },
    /// Remove the claim's records, whatever became of the requests before it; those are dropped unanswered.
    Withdraw { service: ServiceId, claim: ClaimId, request: RequestId },
    /// The stop signals begin: links let nobody in from outside any more. Our own processes may need them to the end.
    TurnAway,
    /// Send a signal to every process that is left in the container, or to every descendant when not PID 1.
    Sweep(Signal),
    /// Say it in the log.
    Tell(Notice),
    /// Leave with this code. The last action ever.
    Exit(u8),
}

/// A change of state and its cause, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `None` is the container as a whole.
    pub service: Option<ServiceId>,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Started {
        run: Run,
    },
    Ready,
    Ended {
        ending: Ending,
        ran_for: Duration,
        next: Next,
    },
    /// The signal was passed on to nobody because main does not run.
    SignalDropped(Signal),
    Stopping {
        signal: Signal,
        why: StopCause,
    },
    /// Still there after its stop timeout.
    Killed,
    Healthy {
        check: CheckId,
    },
    Unhealthy {
        check: CheckId,
        failures: u32,
    },
    /// It took longer than its timeout; counts as a failure.
    ProbeTimedOut {
        check: CheckId,
    },
    Announced,
    /// The address is another one now, and the record says so.
    Moved,
    /// There is no address to announce; what was announced is withdrawn.
    NoAddress,
    Withdrawing(Unfit),
    Withdrawn,
    /// The registry knows nothing of our record any more: it was emptied, or we were frozen past the TTL.
    Forgotten,
    /// Another instance's record stands under our key, and its place is not taken.
    KeyHeld,
    /// Another instance's record stands where ours stood.
    KeyTaken,
    RegistryLost,
    RegistryStillLost {
        lasted: Duration,
    },
    RegistryBack {
        lasted: Duration,
    },
    /// The container is being stopped.
    ShuttingDown(Signal),
    /// Main is gone, others are not: they get this signal.
    Sweeping(Signal),
    /// A service that this one is `after` will never be ready.
    NeverStarts {
        after: ServiceId,
    },
    /// The start waits for an upstream of the link, for so long at most.
    AwaitingLink {
        link: String,
        limit: Duration,
    },
    StillAwaitingLink {
        link: String,
        waited: Duration,
        left: Duration,
    },
    /// One has taken a connection; only told after it was told that it is waited for.
    LinkReached {
        link: String,
        waited: Duration,
    },
    /// None has in all that time: the service does not start.
    LinkNotReached {
        link: String,
        limit: Duration,
        next: Next,
    },
}

/// What follows a process's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    RestartIn(Duration),
    /// By policy, or because it did what it was for.
    StaysDown,
    /// Too many crashes in too short a time, or a command that can't be run.
    GivesUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    Shutdown,
    Unhealthy(CheckId),
    NotReadyInTime,
}

/// Why a service may not be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    NotRunning,
    Stopping,
    NotReady,
    Unhealthy,
    Settling,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { run: Run(1) } => write!(f, "started"),
            Self::Started { run: Run(n) } => write!(f, "started again (run {n})"),
            Self::Ready => write!(f, "ready"),
            Self::Ended { ending, ran_for, next } => {
                write!(f, "ended: {ending} after {ran_for:.1?}; {next}")
            }
            Self::SignalDropped(signal) => write!(f, "{signal} dropped: main is not running"),
            Self::Stopping { signal, why: StopCause::Shutdown } => write!(f, "stopping with {signal}"),
            Self::Stopping { signal, why: StopCause::Unhealthy(CheckId(n)) } => {
                write!(f, "stopping with {signal} to be started again: check {} is unhealthy", n + 1)
            }
            Self::Stopping { signal, why: StopCause::NotReadyInTime } => {
                write!(f, "stopping with {signal} to be started again: not ready in time")
            }
            Self::Killed => write!(f, "killed: still there after its stop timeout"),
            Self::Healthy { check: CheckId(n) } => write!(f, "check {} is healthy", n + 1),
            Self::Unhealthy { check: CheckId(n), failures } => {
                write!(f, "check {} is unhealthy: {failures} failures in a row", n + 1)
            }
            Self::ProbeTimedOut { check: CheckId(n) } => write!(f, "check {} got no answer in time", n + 1),
            Self::Announced => write!(f, "announced"),
            Self::Moved => write!(f, "announced at another address"),
            Self::NoAddress => write!(f, "not announced as long as there is no address for it"),
            Self::Withdrawing(why) => write!(f, "withdrawing: {why}"),
            Self::Withdrawn => write!(f, "withdrawn"),
            Self::Forgotten => write!(f, "the registry has forgotten our record; announcing it again"),
            Self::KeyHeld => write!(f, "another instance is announced under our key; waiting for it to go"),
            Self::KeyTaken => write!(f, "another instance has taken over our key; its record is left alone"),
            Self::RegistryLost => write!(f, "registry out of reach; serving on, and trying again"),
            Self::RegistryStillLost { lasted } => {
                write!(f, "registry still out of reach, for {} by now", rounded(*lasted))
            }
            Self::RegistryBack { lasted } => write!(f, "registry reached again after {}", rounded(*lasted)),
            Self::ShuttingDown(signal) => write!(f, "shutting down on {signal}"),
            Self::Sweeping(signal) => write!(f, "main is gone; what is left gets {signal}"),
            Self::NeverStarts { .. } => {
                write!(f, "never starts: a service that it is after will never be ready")
            }
            Self::AwaitingLink { link, limit } => write!(f, "waiting up to {limit:?} for link `{link}`"),
            Self::StillAwaitingLink { link, waited, left } => {
                write!(f, "still waiting for link `{link}`, for {waited:.0?} by now, up to {left:.0?} more")
            }
            Self::LinkReached { link, waited } => write!(f, "link `{link}` reached after {waited:.1?}"),
            Self::LinkNotReached { link, limit, next } => {
                write!(f, "link `{link}` not reached within {limit:?}; {next}")
            }
        }
    }
}

/// As people say it, no more exactly than they want it.
fn rounded(span: Duration) -> String {
    if span < Duration::from_secs(60) {
        return format!("{span:.1?}");
    }
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RestartIn(delay) => write!(f, "starts again in {delay:.0?}"),
            Self::StaysDown => write!(f, "stays down"),
            Self::GivesUp => write!(f, "given up"),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRunning => "not running",
            Self::Stopping => "stopping",
            Self::NotReady => "not ready",
            Self::Unhealthy => "unhealthy",
            Self::Settling => "not settled since its last crash",
        })
    }
}
