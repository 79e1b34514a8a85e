//! Everything that can happen to the supervisor. The driver turns the world into these; nothing else reaches it.

use std::fmt;
use std::time::Duration;

use crate::config::{ServiceId, Signal};
use crate::exit;

/// The number of a service's run, from 1; what belongs to an older run is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Run(pub u32);

/// A check's place in its service's `[[check]]` list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub usize);

/// The number of one probe of one check, over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProbeId(pub u32);

/// A link's place in its service's `[[link]]` list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub usize);

/// The number of one attempt to reach an upstream of any link of a service, over all its waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AttemptId(pub u32);

/// One attempt to hold a service's records in the registry: kept through renewals, replaced when it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClaimId(pub u32);

/// The number of one request to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first event: everything that must be open before main starts is open.
    Started,
    /// A signal was sent to us (never KILL, STOP or CHLD).
    Signal(Signal),
    /// The answer to [`super::Action::Spawn`], in the same turn.
    Spawned { service: ServiceId, run: Run },
    /// The other answer: nothing runs.
    SpawnFailed { service: ServiceId, run: Run, failure: SpawnFailure },
    /// The reaper's last word on whether any descendant is left; goes before the endings of the same batch, so that
    /// the last one's ending already finds the house empty.
    Descendants(Descendants),
    /// A service's process was reaped.
    Exited { service: ServiceId, run: Run, ending: Ending },
    /// A probe is over and nothing of it is left, also when it was cancelled.
    Probed { service: ServiceId, check: CheckId, probe: ProbeId, verdict: Verdict },
    /// An attempt to reach an upstream of a link is over: one has taken a connection, or none has.
    Reached { service: ServiceId, link: LinkId, attempt: AttemptId, verdict: Verdict },
    /// A registry request is over.
    Answered { service: ServiceId, request: RequestId, answer: Answer },
    /// The system's clock was set. Where the machine was suspended, time has passed that no deadline knows of.
    ClockSet,
    /// The idle connection to the registry was closed, and not by us: the registry may be back already, and know nothing.
    RegistryHungUp,
    /// A deadline has come; what is due follows from the time.
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descendants {
    Some,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnFailure {
    NotFound,
    /// Not a program, or what must be done before it runs is refused: its user, its directory, its limits.
    NotExecutable,
    /// Out of processes, memory or descriptors, a disk that fails: may pass.
    Other,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Code(u8),
    Killed(Signal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
}

/// What the registry said, in the terms that decide what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Registered or renewed: ours for this long.
    Held {
        ttl: Duration,
    },
    /// Renewed, and rewritten on the way: our address has changed.
    Moved {
        ttl: Duration,
    },
    /// The registry knows nothing of our claim any more.
    Lost,
    /// Someone else's record stands under our key; theirs to remove.
    Taken,
    Withdrawn,
    /// Nothing was asked of it: we have no address that others could reach.
    NoAddress,
    /// No answer, or not the one we need; whether it took effect is unknown.
    Failed,
}

impl Ending {
    /// The exit code as a shell and a container runtime report it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            // Signal numbers end at 64, so that this can't overflow.
            Self::Killed(signal) => exit::SIGNAL_BASE.saturating_add(signal.0.clamp(0, 64) as u8),
        }
    }

    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl SpawnFailure {
    /// How a command that never ran counts as having ended.
    pub fn ending(self) -> Ending {
        match self {
            Self::NotFound => Ending::Code(exit::NOT_FOUND),
            Self::NotExecutable | Self::Other => Ending::Code(exit::NOT_EXECUTABLE),
        }
    }

    /// Trying again can't help: the file is not there, or not a program.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::NotFound | Self::NotExecutable => true,
            Self::Other => false,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "killed by {signal}"),
        }
    }
}
