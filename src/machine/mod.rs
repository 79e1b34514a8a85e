//! The supervisor: a pure machine. It takes events and the time, and answers with actions. No tokio, no nix, no
//! socket, no file, no clock, no log, no randomness of its own: the same events at the same times with the same seed
//! give the same actions, so that races are orders which a test can enumerate.
//!
//! It is a product of small machines, one file each. This file only routes events to them and keeps the rules that
//! cross services: when one may start, that main's end is the container's, and how the container ends.

pub mod action;
pub mod announce;
pub mod await_links;
pub mod event;
pub mod fitness;
pub mod health;
pub mod order;
pub mod out;
pub mod restart;
pub mod service;
pub mod state;
pub mod stop;
pub mod time;

use std::sync::Arc;

use self::action::{Action, Change, Notice};
use self::announce::Beat;
use self::event::{Descendants, Event};
use self::order::Gate;
use self::out::Out;
use self::service::{Closing, Delivery, Kill, SIGKILL, Service, State};
use self::stop::{Drain, Phase, SweepKill};
use self::time::{Time, earliest};
use crate::config::{Config, ServiceId, Signal};
use crate::exit;

/// The numbers of the signals that mean something to us; the same on every Linux.
pub const SIGINT: Signal = Signal(2);
pub const SIGQUIT: Signal = Signal(3);
pub const SIGTERM: Signal = Signal(15);

/// The state of the whole container.
#[derive(Debug, Clone)]
pub struct Supervisor {
    config: Arc<Config>,
    services: Vec<Service>,
    phase: Phase,
    started: Progress,
    descendants: Descendants,
    rng: fastrand::Rng,
}

/// Whether [`Event::Started`] has come: a signal before it stops a container that never starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    NotYet,
    Started,
}

impl Supervisor {
    /// A supervisor of `config` with nothing started yet. `seed` decides all jitter.
    pub fn new(config: Arc<Config>, seed: u64) -> Self {
        Self {
            services: config.services.iter().map(Service::new).collect(),
            phase: Phase::Running,
            started: Progress::NotYet,
            descendants: Descendants::None,
            rng: fastrand::Rng::with_seed(seed),
            config,
        }
    }

    pub fn services(&self) -> &[Service] {
        &self.services
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes in what happened at `now` and gives what is to be done, in this order. After this, everything that was
    /// due at `now` is handled: [`Self::next_deadline`] is later than `now`, or none.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.phase == Phase::Left {
            return actions;
        }
        self.take_in(event, now, &mut actions);
        self.advance(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let phase = match self.phase {
            Phase::Left => return None,
            Phase::Running => None,
            // Whichever comes: drained and withdrawn (an event), or drained and tired of waiting for it.
            Phase::Draining { drained_at, withdrawn_by, .. } => {
                Some(if self.is_withdrawn() { drained_at } else { withdrawn_by })
            }
            Phase::Stopping { all_by, .. } if self.has_unasked() => all_by,
            Phase::Stopping { wall, .. } if self.has_unkilled() => wall,
            Phase::Stopping { wall, .. } => wall.map(|wall| wall + stop::VANISH_LIMIT),
            Phase::Sweeping { kill, withdrawn_by, .. } => {
                let leave = match (self.descendants, kill) {
                    (Descendants::Some, SweepKill::At(at)) => Some(at),
                    (Descendants::Some, SweepKill::Done { leave_at }) => Some(leave_at),
                    (Descendants::None, _) => None,
                };
                // Past it only the descendants are waited for.
                earliest(leave, Some(withdrawn_by).filter(|_| self.descendants == Descendants::None))
            }
        };
        let closing = self.closing();
        let services = self.services.iter().zip(&self.config.services);
        services.map(|(service, config)| service.next_deadline(config, closing)).fold(phase, earliest)
    }

    fn take_in(&mut self, event: Event, now: Time, actions: &mut Vec<Action>) {
        match event {
            Event::Started => self.started = Progress::Started,
            Event::Tick => {}
            Event::ClockSet => self.services.iter_mut().for_each(|service| service.doubt(now)),
            Event::RegistryHungUp => {
                for id in (0..self.services.len()).map(ServiceId) {
                    self.with(id, now, actions, |service, _, out| service.hung_up(out));
                }
            }
            Event::Signal(signal) => self.signalled(signal, now, actions),
            Event::Descendants(descendants) => self.descendants = descendants,
            Event::Spawned { service, run } => {
                self.with(service, now, actions, |service, config, out| service.spawned(config, run, out));
                if self.services.iter().any(Service::has_process) {
                    self.descendants = Descendants::Some;
                }
            }
            Event::SpawnFailed { service, run, failure } => {
                self.with(service, now, actions, |service, config, out| {
                    service.spawn_failed(config, run, failure, out);
                });
            }
            Event::Exited { service, run, ending } => {
                let closing = self.closing();
                self.with(service, now, actions, |service, config, out| {
                    service.exited(config, run, ending, closing, out);
                });
            }
            Event::Probed { service, check, probe, verdict } => {
                self.with(service, now, actions, |service, config, out| {
                    service.probed(config, check, probe, verdict, out);
                });
            }
            Event::Reached { service, link, attempt, verdict } => {
                self.with(service, now, actions, |service, config, out| {
                    service.reached(config, link, attempt, verdict, out);
                });
            }
            Event::Answered { service, request, answer } => {
                self.with(service, now, actions, |service, _, out| service.answered(request, answer, out));
            }
        }
    }

    /// TERM, INT and QUIT stop the container (an image's STOPSIGNAL may be any of them); all else is main's.
    fn signalled(&mut self, signal: Signal, now: Time, actions: &mut Vec<Action>) {
        let stops = matches!(signal, SIGTERM | SIGINT | SIGQUIT);
        match self.phase {
            Phase::Running if stops => {
                actions.push(tell(Change::ShuttingDown(signal)));
                let drain = if self.is_withdrawn() { Drain::NothingAnnounced } else { Drain::Announced };
                self.phase = Phase::drain(&self.config, signal, drain, now);
            }
            // Asked twice: whoever asks does not want to wait for the drain.
            Phase::Draining { signal, wall, .. } if stops => {
                self.begin_stopping(signal, wall, now, actions);
            }
            Phase::Running | Phase::Draining { .. } | Phase::Stopping { .. } => {
                let main = self.config.main;
                let mut delivery = Delivery::Dropped;
                self.with(main, now, actions, |service, _, out| delivery = service.signal(signal, out));
                if delivery == Delivery::Dropped {
                    actions.push(tell(Change::SignalDropped(signal)));
                }
            }
            Phase::Sweeping { .. } | Phase::Left => {}
        }
    }

    /// Brings everything up to date with everything else: whatever is due or has become possible is done.
    fn advance(&mut self, now: Time, actions: &mut Vec<Action>) {
        // One wake-up, and one connection, for the heartbeats of all.
        let is_due = |service: &Service| service.announcer().is_due(now);
        let beat = if self.services.iter().any(is_due) { Beat::Now } else { Beat::NotNow };
        // A service's step may open the way for another's, in the worst case for each in turn.
        for _ in 0..=self.services.len() {
            let before = actions.len();
            self.move_phase(now, actions);
            if self.phase == Phase::Left {
                return;
            }
            for id in (0..self.services.len()).map(ServiceId) {
                let closing = self.closing();
                self.open_gate(id, closing, now, actions);
                self.with(id, now, actions, |service, config, out| {
                    service.advance(config, closing, beat, out);
                });
            }
            if actions.len() == before {
                return;
            }
        }
        self.move_phase(now, actions);
    }

    /// Starts a waiting service whose turn it is, or ends its wait.
    fn open_gate(&mut self, id: ServiceId, closing: Closing, now: Time, actions: &mut Vec<Action>) {
        let waiting = *self.services[id.0].state() == State::Waiting;
        if !waiting || self.started == Progress::NotYet || closing == Closing::Yes {
            return;
        }
        match order::gate(&self.config, &self.services, id) {
            Gate::Open => self.with(id, now, actions, |service, config, out| service.start(config, out)),
            Gate::Closed => {}
            Gate::Shut(after) => {
                // A wait that ends in vain is a failure, also when what was waited for ended well.
                let last = self.services[after.0].last_ending().filter(|ending| !ending.is_success());
                self.with(id, now, actions, |service, _, out| service.never_starts(after, last, out));
            }
        }
    }

    fn move_phase(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.started == Progress::NotYet && self.phase == Phase::Running {
            return;
        }
        match self.phase {
            Phase::Running | Phase::Draining { .. } | Phase::Stopping { .. } if self.main_is_over() => {
                self.begin_sweep(now, actions);
            }
            // Killed and still there: it hangs in the kernel, and we do not.
            Phase::Stopping { wall: Some(wall), .. } if wall + stop::VANISH_LIMIT <= now => {
                self.begin_sweep(now, actions);
            }
            Phase::Draining { signal, drained_at, withdrawn_by, wall } => {
                let withdrawn = self.is_withdrawn() || withdrawn_by <= now;
                if drained_at <= now && withdrawn {
                    self.begin_stopping(signal, wall, now, actions);
                }
            }
            Phase::Running | Phase::Stopping { .. } | Phase::Sweeping { .. } | Phase::Left => {}
        }
        match self.phase {
            Phase::Stopping { signal, all_by, wall } => {
                self.stop_services(signal, all_by, wall, now, actions);
            }
            Phase::Sweeping { code, kill, withdrawn_by } => {
                self.finish_sweep(code, kill, withdrawn_by, now, actions);
            }
            Phase::Running | Phase::Draining { .. } | Phase::Left => {}
        }
    }

    fn begin_stopping(&mut self, signal: Signal, wall: Option<Time>, now: Time, actions: &mut Vec<Action>) {
        self.phase = Phase::stopping(&self.config, signal, wall, now);
        actions.push(Action::TurnAway);
    }

    /// Signals every service whose turn it is, in the reverse of the order of their start.
    fn stop_services(
        &mut self,
        signal: Signal,
        all_by: Option<Time>,
        wall: Option<Time>,
        now: Time,
        actions: &mut Vec<Action>,
    ) {
        let reached = |time: Option<Time>| time.is_some_and(|time| time <= now);
        for id in (0..self.services.len()).map(ServiceId) {
            let last = order::is_last(&self.config, &self.services, id);
            let config = Arc::clone(&self.config);
            let stop = &config.services[id.0].stop;
            if (last || reached(all_by)) && !self.services[id.0].is_shutting_down() {
                // TERM means "stop as you are configured to"; any other was chosen by whoever sent it.
                let signal = if signal == SIGTERM || id != config.main { stop.signal } else { signal };
                let own = stop.timeout.map(|timeout| now + timeout);
                let kill = earliest(own, wall).map_or(Kill::Never, Kill::At);
                self.with(id, now, actions, |service, _, out| service.shut_down(Some(signal), kill, out));
            }
            if reached(wall) {
                self.with(id, now, actions, |service, _, out| service.kill(out));
            }
        }
    }

    fn begin_sweep(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.phase = Phase::sweep(&self.config, self.exit_code(), now);
        let config = Arc::clone(&self.config);
        for (id, config) in config.services.iter().enumerate() {
            let signal = Some(config.stop.signal).filter(|&signal| signal != SIGTERM);
            self.with(ServiceId(id), now, actions, |service, _, out| {
                // Never: the sweep's own KILL reaches it.
                service.shut_down(signal, Kill::Never, out);
            });
        }
        if self.descendants == Descendants::Some {
            actions.push(tell(Change::Sweeping(SIGTERM)));
            actions.push(Action::Sweep(SIGTERM));
        }
    }

    fn finish_sweep(
        &mut self,
        code: u8,
        kill: SweepKill,
        withdrawn_by: Time,
        now: Time,
        actions: &mut Vec<Action>,
    ) {
        let gone = match (self.descendants, kill) {
            (Descendants::None, _) => true,
            (Descendants::Some, SweepKill::At(at)) if at <= now => {
                actions.push(tell(Change::Sweeping(SIGKILL)));
                actions.push(Action::Sweep(SIGKILL));
                self.services.iter_mut().for_each(Service::swept);
                let kill = SweepKill::Done { leave_at: now + stop::VANISH_LIMIT };
                self.phase = Phase::Sweeping { code, kill, withdrawn_by };
                false
            }
            (Descendants::Some, SweepKill::Done { leave_at }) => leave_at <= now,
            (Descendants::Some, SweepKill::At(_)) => false,
        };
        if gone && (self.is_withdrawn() || withdrawn_by <= now) {
            self.phase = Phase::Left;
            actions.push(Action::Exit(code));
        }
    }

    /// Main has had its last run (or its first was called off).
    fn main_is_over(&self) -> bool {
        let main = &self.services[self.config.main.0];
        match main.state() {
            State::Down { .. } => true,
            State::Waiting | State::AwaitingLinks | State::Backoff { .. } => self.phase.is_closing(),
            State::Starting { .. } | State::Up { .. } | State::Stopping { .. } => false,
        }
    }

    /// Main's own code; that of the signal which ended the wait where main never ran.
    fn exit_code(&self) -> u8 {
        let last = self.services[self.config.main.0].last_ending();
        match (last, self.phase) {
            (Some(ending), _) => ending.exit_code(),
            (None, Phase::Draining { signal, .. } | Phase::Stopping { signal, .. }) => {
                event::Ending::Killed(signal).exit_code()
            }
            (None, Phase::Running | Phase::Sweeping { .. } | Phase::Left) => exit::INTERNAL,
        }
    }

    fn is_withdrawn(&self) -> bool {
        self.services.iter().all(|service| service.announcer().is_absent())
    }

    fn has_unasked(&self) -> bool {
        self.services.iter().any(|service| service.has_process() && !service.is_shutting_down())
    }

    fn has_unkilled(&self) -> bool {
        self.services.iter().any(|service| match service.state() {
            State::Starting { .. } | State::Up { .. } => true,
            State::Stopping { kill, .. } => *kill != Kill::Done,
            State::Waiting | State::AwaitingLinks | State::Backoff { .. } | State::Down { .. } => false,
        })
    }

    fn closing(&self) -> Closing {
        if self.phase.is_closing() { Closing::Yes } else { Closing::No }
    }

    fn with(
        &mut self,
        id: ServiceId,
        now: Time,
        actions: &mut Vec<Action>,
        step: impl FnOnce(&mut Service, &crate::config::Service, &mut Out<'_>),
    ) {
        let (Some(service), Some(config)) = (self.services.get_mut(id.0), self.config.services.get(id.0))
        else {
            return;
        };
        let mut out = Out { service: id, now, rng: &mut self.rng, actions };
        step(service, config, &mut out);
    }
}

fn tell(change: Change) -> Action {
    Action::Tell(Notice { service: None, change })
}
