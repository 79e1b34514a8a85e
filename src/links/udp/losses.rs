//! What a forward of datagrams says in the log: what is lost and why, and never a line for each. Called by the rest of
//! `udp`.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Forwarder;
use crate::links::shared::Shared;

/// Things that happen closer together than this are told once.
const EPISODE: Duration = Duration::from_secs(30);

/// Things of one kind, counted until they are told.
#[derive(Debug, Default)]
pub(super) struct Episode {
    count: u64,
    told: Option<Instant>,
}

impl Episode {
    /// It happens. How often it has since it was told last, if that is worth a line.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < EPISODE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl Forwarder {
    /// No address takes anything: told once, not for each datagram.
    pub(super) fn fails(&self, why: &str) {
        let Shared { source, to, .. } = &*self.shared;
        if self.shared.begins_to_fail() {
            warn!("{source}: cannot send to {to}: {why}; datagrams are dropped");
        }
    }

    pub(super) fn dropped(&mut self, now: Instant, why: &str) {
        // That is told already.
        if self.shared.is_failing() {
            return;
        }
        if let Some(count) = self.dropped.count(now) {
            warn!("{}: {count} datagrams dropped of late, the last one: {why}", self.shared.source);
        }
    }

    /// Some address takes what is sent.
    pub(super) fn works(&self) {
        let Shared { source, to, .. } = &*self.shared;
        if self.shared.works_again() {
            info!("{source}: {to} takes datagrams again");
        }
    }
}
