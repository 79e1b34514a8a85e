//! What the supervisor has to say, said in the log: how grave it is, and what the world knows of its cause.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tracing::Level;

use super::registrar::Registrar;
use crate::config::{Config, ServiceId, Signal};
use crate::machine::action::{Change, Next, Notice};
use crate::machine::event::CheckId;

/// Cheap to share: probes that run note why they failed.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// Why each check failed last.
    failures: Rc<RefCell<HashMap<(ServiceId, CheckId), String>>>,
    /// Why each link was not reached last, by its name.
    unreached: Rc<RefCell<HashMap<(ServiceId, String), String>>>,
}

impl Journal {
    /// Keeps why a probe failed for the line that says that its check is unhealthy.
    pub fn note_failure(&self, service: ServiceId, check: CheckId, why: String) {
        self.failures.borrow_mut().insert((service, check), why);
    }

    /// Keeps what came of an attempt to reach a link's upstream for the lines that say that it is waited for.
    pub fn note_reach(&self, service: ServiceId, link: String, result: Result<(), String>) {
        let mut unreached = self.unreached.borrow_mut();
        match result {
            Ok(()) => drop(unreached.remove(&(service, link))),
            Err(why) => drop(unreached.insert((service, link), why)),
        }
    }

    pub fn tell(&self, config: &Config, notice: &Notice, registrar: &Registrar) {
        let change = &notice.change;
        let service = notice.service.map(|id| config.services[id.0].name.as_str());
        let cause = self.cause(notice, registrar).map(|cause| format!(": {cause}")).unwrap_or_default();
        match level(change) {
            Level::ERROR => tracing::error!(service, "{change}{cause}"),
            Level::WARN => tracing::warn!(service, "{change}{cause}"),
            Level::INFO => tracing::info!(service, "{change}{cause}"),
            Level::DEBUG | Level::TRACE => tracing::debug!(service, "{change}{cause}"),
        }
    }

    /// What the supervisor need not know to decide, and people to understand.
    fn cause(&self, notice: &Notice, registrar: &Registrar) -> Option<String> {
        let service = notice.service?;
        match &notice.change {
            Change::AwaitingLink { link, .. }
            | Change::StillAwaitingLink { link, .. }
            | Change::LinkNotReached { link, .. } => {
                let why = self.unreached.borrow().get(&(service, link.clone())).cloned();
                Some(why.unwrap_or_else(|| "no answer".to_owned()))
            }
            Change::Unhealthy { check, .. } => self.failures.borrow().get(&(service, *check)).cloned(),
            Change::RegistryLost | Change::RegistryStillLost { .. } | Change::NoAddress => {
                registrar.last_error(service)
            }
            Change::Announced | Change::Moved => registrar.describe(service),
            Change::KeyHeld | Change::KeyTaken => registrar.describe_rivals(service),
            _ => None,
        }
    }
}

fn level(change: &Change) -> Level {
    match change {
        Change::Ended { next: Next::GivesUp, .. }
        | Change::LinkNotReached { next: Next::GivesUp, .. }
        | Change::NeverStarts { .. } => Level::ERROR,
        Change::Ended { next: Next::RestartIn(_), .. }
        | Change::LinkNotReached { next: Next::RestartIn(_) | Next::StaysDown, .. }
        | Change::StillAwaitingLink { .. }
        | Change::Killed
        | Change::Unhealthy { .. }
        | Change::KeyHeld
        | Change::KeyTaken
        | Change::NoAddress
        | Change::RegistryLost
        | Change::RegistryStillLost { .. }
        | Change::Forgotten => Level::WARN,
        Change::Sweeping(Signal(libc::SIGKILL)) => Level::WARN,
        Change::Started { .. }
        | Change::Ready
        | Change::AwaitingLink { .. }
        | Change::LinkReached { .. }
        | Change::Ended { next: Next::StaysDown, .. }
        | Change::Stopping { .. }
        | Change::Healthy { .. }
        | Change::Announced
        | Change::Moved
        | Change::Withdrawing(_)
        | Change::Withdrawn
        | Change::RegistryBack { .. }
        | Change::ShuttingDown(_)
        | Change::Sweeping(_) => Level::INFO,
        Change::SignalDropped(_) | Change::ProbeTimedOut { .. } => Level::DEBUG,
    }
}
