//! Work that takes time: probes, attempts to reach a link's upstream and registry requests, one task each on the control thread. Its end, a panic and a
//! cancellation alike become one event; nothing here decides anything.

use std::collections::HashMap;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, spawn_local};

use crate::config::ServiceId;
use crate::machine::event::{CheckId, Event, LinkId};

/// What a task is for; one at a time each, which also bounds the queue of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    Probe(ServiceId, CheckId),
    Reach(ServiceId, LinkId),
    Registry(ServiceId),
}

#[derive(Debug)]
pub struct Tasks {
    events: UnboundedSender<Event>,
    running: HashMap<Purpose, AbortHandle>,
}

impl Tasks {
    pub fn new(events: UnboundedSender<Event>) -> Self {
        Self { events, running: HashMap::new() }
    }

    /// Runs `work` to its event. Whatever else ends it (a panic, [`Self::cancel`]) gives `otherwise`. An earlier task
    /// for the same purpose is cancelled.
    pub fn start(&mut self, purpose: Purpose, work: impl Future<Output = Event> + 'static, otherwise: Event) {
        self.cancel(purpose);
        let task = spawn_local(work);
        self.running.insert(purpose, task.abort_handle());
        let events = self.events.clone();
        spawn_local(async move {
            let event = task.await.unwrap_or(otherwise);
            // The loop has ended: nobody is left to tell.
            let _told = events.send(event);
        });
    }

    /// Drops the task's work at once. Its event still comes.
    pub fn cancel(&mut self, purpose: Purpose) {
        if let Some(task) = self.running.remove(&purpose) {
            task.abort();
        }
    }
}
