//! May a service be announced? Announced means running, ready, healthy, not stopping, and settled since its last
//! crash. `service.rs` says whether it serves now; what is kept here is for how long it has.

use std::time::Duration;

use super::action::Unfit;
use super::time::Time;

#[derive(Debug, Clone, Copy, Default)]
pub struct Fitness {
    /// Since when it has served without a break.
    since: Option<Time>,
    /// For how long it must, before it is trusted. Zero on the first run, and once it has.
    settle: Duration,
}

impl Fitness {
    /// It has crashed: the next run is trusted after this long.
    pub fn must_settle(&mut self, settle: Duration) {
        *self = Self { since: None, settle };
    }

    /// Fit, or why not.
    pub fn judge(&mut self, serves: Result<(), Unfit>, now: Time) -> Result<(), Unfit> {
        if serves.is_err() {
            self.since = None;
            return serves;
        }
        let since = *self.since.get_or_insert(now);
        if now < since + self.settle {
            return Err(Unfit::Settling);
        }
        // Settled once is settled for this run, and no deadline is left behind.
        self.settle = Duration::ZERO;
        Ok(())
    }

    /// When it will have settled, if nothing happens.
    pub fn settled_at(&self) -> Option<Time> {
        self.since.filter(|_| !self.settle.is_zero()).map(|since| since + self.settle)
    }
}
