//! A simulated world for the supervisor: processes that obey or do not, probes and registry requests that are
//! answered when the test says so, and a check of every promise after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ensign::config::{Config, ServiceId, Signal};
use ensign::machine::Supervisor;
use ensign::machine::action::Action;
use ensign::machine::announce;
use ensign::machine::event::{
    Answer, AttemptId, CheckId, ClaimId, Descendants, Ending, Event, LinkId, ProbeId, RequestId, Run,
    SpawnFailure, Verdict,
};
use ensign::machine::health;
use ensign::machine::service::{Readiness, State};
use ensign::machine::stop::Phase;
use ensign::machine::time::Time;

#[derive(Debug, Clone)]
pub struct World {
    pub supervisor: Supervisor,
    pub now: Time,
    pub exited: Option<u8>,
    pub alive: BTreeMap<ServiceId, Process>,
    pub probes: BTreeSet<(ServiceId, CheckId, ProbeId)>,
    pub requests: BTreeMap<ServiceId, RequestId>,
    /// What may stand in the registry, as far as it has said.
    claims: BTreeMap<ServiceId, ClaimId>,
    /// Attempts to reach a link's upstream.
    pub attempts: BTreeMap<(ServiceId, LinkId), AttemptId>,
    /// Processes that are nobody's main process: setsid'd leftovers.
    pub orphans: u32,
    /// Everything that was ever answered: fed again, it is stale.
    pub history: Vec<Event>,
    pub spawn_fails: Option<SpawnFailure>,
    /// What SIGKILL does; a process may hang in the kernel.
    pub kill: KillEffect,
    config: Arc<Config>,
    runs: BTreeMap<ServiceId, Run>,
    /// Of the start that is under way: what has been reached, and since when it waits.
    reached: BTreeSet<(ServiceId, LinkId)>,
    waiting: BTreeMap<ServiceId, Time>,
    crashed: BTreeMap<ServiceId, Since>,
    told: Descendants,
    shutdown: Option<Time>,
    main_ended: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillEffect {
    Ends,
    Nothing,
}

#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub run: Run,
    /// When it was first asked to go.
    pub asked: Option<Time>,
    pub killed: bool,
}

/// Since when a service that has crashed has been up, ready and healthy again.
#[derive(Debug, Clone, Copy)]
enum Since {
    NotYet,
    Fit(Time),
}

impl World {
    pub fn new(config: Config, seed: u64) -> Self {
        let config = Arc::new(config);
        Self {
            supervisor: Supervisor::new(Arc::clone(&config), seed),
            now: Time::ZERO,
            exited: None,
            alive: BTreeMap::new(),
            probes: BTreeSet::new(),
            requests: BTreeMap::new(),
            claims: BTreeMap::new(),
            attempts: BTreeMap::new(),
            orphans: 0,
            history: Vec::new(),
            spawn_fails: None,
            kill: KillEffect::Ends,
            config,
            runs: BTreeMap::new(),
            reached: BTreeSet::new(),
            waiting: BTreeMap::new(),
            crashed: BTreeMap::new(),
            told: Descendants::None,
            shutdown: None,
            main_ended: None,
        }
    }

    /// Feeds one event, carries out what comes of it, and checks every promise. Gives all actions.
    pub fn feed(&mut self, event: Event) -> Vec<Action> {
        self.feed_batch([event])
    }

    fn feed_batch(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut queue = std::collections::VecDeque::from_iter(events);
        let mut all = Vec::new();
        while let Some(event) = queue.pop_front() {
            if let Event::Signal(Signal(2 | 3 | 15)) = event {
                self.shutdown.get_or_insert(self.now);
            }
            let happens_again = matches!(event, Event::Signal(_) | Event::ClockSet | Event::RegistryHungUp);
            if !happens_again && !matches!(event, Event::Tick | Event::Started) {
                self.history.push(event.clone());
            }
            let actions = self.supervisor.handle(event, self.now);
            assert!(self.exited.is_none() || actions.is_empty(), "{actions:?} after Exit");
            for action in &actions {
                queue.extend(self.perform(action));
            }
            all.extend(actions);
        }
        self.check_promises();
        all
    }

    pub fn advance(&mut self, by: Duration) -> Vec<Action> {
        let until = self.now + by;
        let mut all = Vec::new();
        while let Some(deadline) = self.supervisor.next_deadline().filter(|&deadline| deadline <= until) {
            self.now = deadline;
            all.extend(self.feed(Event::Tick));
            if self.exited.is_some() {
                break;
            }
        }
        self.now = until.max(self.now);
        all
    }

    pub fn signal(&mut self, number: i32) -> Vec<Action> {
        self.feed(Event::Signal(Signal(number)))
    }

    /// A process ends by itself or by what was done to it.
    pub fn end(&mut self, service: ServiceId, ending: Ending) -> Vec<Action> {
        let Some(process) = self.alive.remove(&service) else { return Vec::new() };
        if service == self.config.main {
            self.main_ended = Some(self.now);
        }
        if process.asked.is_none() && !ending.is_success() {
            self.crashed.insert(service, Since::NotYet);
        }
        let exited = Event::Exited { service, run: process.run, ending };
        let events = self.descendants_event().into_iter().chain([exited]);
        self.feed_batch(events.collect::<Vec<_>>())
    }

    /// The last of the orphans goes.
    pub fn end_orphans(&mut self) -> Vec<Action> {
        self.orphans = 0;
        let event = self.descendants_event();
        self.feed_batch(event)
    }

    pub fn probed(&mut self, verdict: Verdict) -> Vec<Action> {
        let Some(&(service, check, probe)) = self.probes.first() else { return Vec::new() };
        self.probes.pop_first();
        self.feed(Event::Probed { service, check, probe, verdict })
    }

    /// An upstream has taken a connection of the first attempt under way, or none has.
    pub fn tried(&mut self, verdict: Verdict) -> Vec<Action> {
        let Some(((service, link), attempt)) = self.attempts.pop_first() else { return Vec::new() };
        if verdict == Verdict::Pass {
            self.reached.insert((service, link));
        }
        self.feed(Event::Reached { service, link, attempt, verdict })
    }

    pub fn answer(&mut self, answer: Answer) -> Vec<Action> {
        let Some((service, request)) = self.requests.pop_first() else { return Vec::new() };
        match (self.supervisor.services()[service.0].announcer().state(), answer) {
            (announce::State::Withdrawing { .. }, Answer::Withdrawn | Answer::Lost | Answer::Taken)
            | (announce::State::Renewing { .. }, Answer::Lost) => drop(self.claims.remove(&service)),
            (_, _) => {}
        }
        self.feed(Event::Answered { service, request, answer })
    }

    pub fn state(&self, service: usize) -> &State {
        self.supervisor.services()[service].state()
    }

    fn descendants_event(&mut self) -> Option<Event> {
        let left =
            if self.alive.is_empty() && self.orphans == 0 { Descendants::None } else { Descendants::Some };
        let changed = left != self.told;
        self.told = left;
        changed.then_some(Event::Descendants(left))
    }

    fn perform(&mut self, action: &Action) -> Vec<Event> {
        match *action {
            Action::Spawn { service, run } => {
                assert!(!self.alive.contains_key(&service), "{service:?} spawned while it runs");
                let last = self.runs.insert(service, run).unwrap_or_default();
                assert!(run > last, "runs count up");
                assert_eq!(self.shutdown, None, "spawned while shutting down");
                self.assert_links_reached(service);
                if let Some(failure) = self.spawn_fails {
                    return vec![Event::SpawnFailed { service, run, failure }];
                }
                let process = Process { run, asked: None, killed: false };
                self.alive.insert(service, process);
                self.told = Descendants::Some;
                return vec![Event::Spawned { service, run }];
            }
            Action::Signal { service, run, signal } => return self.signal_process(service, run, signal),
            Action::TurnAway => {}
            Action::Sweep(signal) => {
                let services: Vec<_> = self.alive.iter().map(|(&service, p)| (service, p.run)).collect();
                if signal == Signal(9) {
                    let sweep = self.config.services[self.config.main.0].stop.sweep;
                    match self.main_ended {
                        Some(ended) => assert!(self.now >= ended + sweep, "KILL before the sweep's time"),
                        None => assert!(self.is_main_hung_or_never_ran(), "KILL with main alive"),
                    }
                }
                let mut events = Vec::new();
                for (service, run) in services {
                    events.extend(self.kill_process(service, run, signal));
                }
                if signal == Signal(9) && self.kill == KillEffect::Ends {
                    self.orphans = 0;
                }
                if self.alive.is_empty() && self.orphans == 0 && self.told == Descendants::Some {
                    self.told = Descendants::None;
                    events.insert(0, Event::Descendants(Descendants::None));
                }
                return events;
            }
            Action::Probe { service, check, probe } => {
                let fresh = !self.probes.iter().any(|&(s, c, _)| (s, c) == (service, check));
                assert!(fresh, "probes of one check pile up");
                self.probes.insert((service, check, probe));
            }
            Action::CancelProbe { service, check, probe } => {
                assert!(self.probes.contains(&(service, check, probe)), "cancelled a probe that is over");
            }
            Action::Reach { service, link, attempt } => {
                assert!(!self.alive.contains_key(&service), "{service:?} waits while it runs");
                assert!(!self.reached.contains(&(service, link)), "tried again what is reached");
                let busy = self.attempts.insert((service, link), attempt);
                assert_eq!(busy, None, "two attempts at once");
                self.waiting.entry(service).or_insert(self.now);
            }
            Action::CancelReach { service, link, attempt } => {
                let cancelled = self.attempts.remove(&(service, link));
                assert_eq!(cancelled, Some(attempt), "cancelled what is not under way");
                // It is answered all the same, and nobody listens.
                for verdict in [Verdict::Pass, Verdict::Fail] {
                    self.history.push(Event::Reached { service, link, attempt, verdict });
                }
            }
            Action::Register { service, claim, request, .. } | Action::Renew { service, claim, request } => {
                let before = *self.claims.entry(service).or_insert(claim);
                assert_eq!(before, claim, "a claim is left behind that nobody withdraws any more");
                let busy = self.requests.insert(service, request);
                assert_eq!(busy, None, "two requests at once");
                self.assert_fit(service);
            }
            // Takes the place of whatever is in flight.
            Action::Withdraw { service, request, .. } => drop(self.requests.insert(service, request)),
            Action::KillRemains { service, .. } => {
                assert!(!self.alive.contains_key(&service), "killed the remains of what runs");
            }
            Action::Tell(_) => {}
            Action::Exit(code) => {
                assert_eq!(self.exited.replace(code), None, "left twice");
            }
        }
        Vec::new()
    }

    fn signal_process(&mut self, service: ServiceId, run: Run, signal: Signal) -> Vec<Event> {
        let process = self.alive.get(&service).copied().expect("signalled what does not run");
        assert_eq!(process.run, run);
        if signal == Signal(9) {
            assert!(process.asked.is_some(), "{service:?} killed without having been asked to go");
            self.assert_time_to_kill(service, process);
        }
        self.kill_process(service, run, signal)
    }

    fn kill_process(&mut self, service: ServiceId, run: Run, signal: Signal) -> Vec<Event> {
        let Some(process) = self.alive.get_mut(&service) else { return Vec::new() };
        process.asked.get_or_insert(self.now);
        if signal != Signal(9) || self.kill == KillEffect::Nothing {
            return Vec::new();
        }
        assert!(!process.killed, "killed twice");
        process.killed = true;
        self.alive.remove(&service);
        if service == self.config.main {
            self.main_ended = Some(self.now);
        }
        let mut events = Vec::new();
        if self.alive.is_empty() && self.orphans == 0 {
            self.told = Descendants::None;
            events.push(Event::Descendants(Descendants::None));
        }
        events.push(Event::Exited { service, run, ending: Ending::Killed(signal) });
        events
    }

    fn is_main_hung_or_never_ran(&self) -> bool {
        self.alive.get(&self.config.main).is_none_or(|_| self.kill == KillEffect::Nothing)
    }

    /// SIGKILL comes at the service's own deadline, or at main's wall, never before.
    fn assert_time_to_kill(&self, service: ServiceId, process: Process) {
        let own = self.config.services[service.0].stop.timeout;
        let main = &self.config.services[self.config.main.0];
        let asked = process.asked.unwrap_or(Time::after_start(Duration::MAX));
        let at_own = own.is_some_and(|timeout| self.now >= asked + timeout);
        let at_wall = match (self.shutdown, main.stop.timeout) {
            (Some(began), Some(timeout)) => self.now >= began + timeout,
            (None, _) | (_, None) => false,
        };
        assert!(at_own || at_wall, "{service:?} killed before its time");
    }

    /// Every link that it waits for was reached since it ran last; the next start waits for them anew.
    fn assert_links_reached(&mut self, service: ServiceId) {
        for link in self.awaited(service) {
            assert!(self.reached.remove(&(service, link)), "{service:?} spawned with {link:?} not reached");
            assert!(!self.attempts.contains_key(&(service, link)), "an attempt that nobody needs");
        }
        self.waiting.remove(&service);
    }

    fn awaited(&self, service: ServiceId) -> Vec<LinkId> {
        let links = self.config.services[service.0].links.iter().enumerate();
        links.filter(|(_, link)| link.wait.is_some()).map(|(id, _)| LinkId(id)).collect()
    }

    /// Waiting ends when the first of the links has been waited for as long as it may be, and then nothing is tried.
    fn check_wait(&mut self, service: ServiceId) {
        if *self.supervisor.services()[service.0].state() != State::AwaitingLinks {
            assert!(!self.attempts.keys().any(|(of, _)| *of == service), "an attempt that nobody needs");
            self.reached.retain(|(of, _)| *of != service);
            self.waiting.remove(&service);
            return;
        }
        assert_eq!(self.shutdown, None, "waits while shutting down");
        let since = self.waiting[&service];
        for link in self.awaited(service).into_iter().filter(|link| !self.reached.contains(&(service, *link)))
        {
            let wait = self.config.services[service.0].links[link.0].wait.expect("it is awaited");
            assert!(self.now < since + wait, "waits for longer than {wait:?}");
        }
    }

    /// Running, ready, healthy, not stopping, settled.
    fn assert_fit(&self, service: ServiceId) {
        assert!(self.alive.contains_key(&service), "announced without a process");
        self.assert_looks_fit(service);
        if let Some(since) = self.crashed.get(&service) {
            let settle = self.config.services[service.0].ready.settle;
            let settled = match *since {
                Since::NotYet => settle.is_zero(),
                Since::Fit(at) => self.now >= at + settle,
            };
            assert!(settled, "announced before it settled");
        }
    }

    fn assert_looks_fit(&self, service: ServiceId) {
        assert_eq!(self.supervisor.phase(), Phase::Running, "announced while stopping");
        let state = &self.supervisor.services()[service.0];
        assert!(matches!(state.state(), State::Up { ready: Readiness::Yes, .. }), "announced: {state:?}");
        assert_eq!(state.health(), health::State::Healthy, "announced while unhealthy");
    }

    fn check_promises(&mut self) {
        let deadline = self.supervisor.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "spins: {deadline:?} at {:?}", self.now);
        if self.exited.is_some() {
            assert_eq!(deadline, None, "a deadline after Exit");
            assert!(self.attempts.is_empty(), "an attempt after Exit");
            return;
        }
        for id in (0..self.config.services.len()).map(ServiceId) {
            self.check_wait(id);
        }
        for (id, service) in self.supervisor.services().iter().enumerate() {
            let id = ServiceId(id);
            assert_eq!(service.has_process(), self.alive.contains_key(&id), "{id:?}: {:?}", service.state());
            match service.announcer().state() {
                announce::State::Absent
                | announce::State::Withdrawing { .. }
                | announce::State::WithdrawLater { .. } => {}
                announce::State::Registering { .. }
                | announce::State::RegisterLater { .. }
                | announce::State::Held { .. }
                | announce::State::Renewing { .. }
                | announce::State::RenewLater { .. } => self.assert_looks_fit(id),
            }
            let fit = matches!(service.state(), State::Up { ready: Readiness::Yes, .. })
                && service.health() == health::State::Healthy;
            if let Some(since) = self.crashed.get_mut(&id) {
                *since = match (fit, *since) {
                    (false, _) => Since::NotYet,
                    (true, Since::NotYet) => Since::Fit(self.now),
                    (true, fit) => fit,
                };
            }
            let settle = self.config.services[id.0].ready.settle;
            if let Some(Since::Fit(at)) = self.crashed.get(&id)
                && self.now >= *at + settle
            {
                // Settled once is settled for the run.
                self.crashed.remove(&id);
            }
        }
    }

    /// What has been answered before means nothing now.
    pub fn feed_stale(&mut self, nth: usize) {
        let Some(event) = self.history.get(nth % self.history.len().max(1)).cloned() else { return };
        if let Event::Descendants(_) = event {
            return;
        }
        let state = |s: &Supervisor| format!("{:?} {:?} {:?}", s.services(), s.phase(), s.next_deadline());
        let before = state(&self.supervisor);
        let actions = self.supervisor.handle(event.clone(), self.now);
        assert!(actions.is_empty(), "stale {event:?} gave {actions:?}");
        assert!(before == state(&self.supervisor), "stale {event:?} changed something");
    }
}
