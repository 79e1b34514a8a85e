//! The states that one service can be in. Nothing but types: `service.rs` moves from one to the next.

use super::action::StopCause;
use super::event::Ending;
use super::time::Time;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not started yet: what it is `after` is not ready.
    Waiting,
    /// It would start, were the links that it waits for reached.
    AwaitingLinks,
    /// Asked for; the answer comes in the same turn.
    Starting {
        since: Time,
    },
    Up {
        since: Time,
        ready: Readiness,
    },
    /// Asked to go, still there.
    Stopping {
        since: Time,
        cause: StopCause,
        kill: Kill,
    },
    Backoff {
        until: Time,
    },
    /// For good.
    Down {
        last: Option<Ending>,
        why: DownWhy,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    No,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    At(Time),
    /// Left to the container runtime.
    Never,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownWhy {
    /// Its policy wants no further run, or the container is stopping.
    Ended,
    GaveUp,
}

/// Whether the container is on its way out: nothing is started any more and nothing stays announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    No,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Sent,
    Dropped,
}
