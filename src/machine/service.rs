//! One service: its runs, its readiness, and whether it is fit to be announced. Owns its restart history, its health
//! and its announcer; knows nothing of other services (`mod.rs` and `stop.rs` say when it may start and must stop).

use std::time::Duration;

use super::action::{Action, Change, Next, StopCause, Unfit};
use super::announce::{Announcer, Beat};
use super::await_links::{self, AwaitLinks, Progress};
use super::event::{
    Answer, AttemptId, CheckId, Ending, LinkId, ProbeId, RequestId, Run, SpawnFailure, Verdict,
};
use super::fitness::Fitness;
use super::health::{self, Health};
use super::out::Out;
use super::restart::{Decision, History};
pub use super::state::{Closing, Delivery, DownWhy, Kill, Readiness, State};
use super::time::{Time, earliest};
use crate::config::{self, Kind, ReadyBy, RestartWhen, ServiceId, Signal};
use crate::exit;

/// SIGKILL, the same number everywhere; the machine has no libc to ask.
pub const SIGKILL: Signal = Signal(9);

#[derive(Debug, Clone)]
pub struct Service {
    state: State,
    last_run: Run,
    links: AwaitLinks,
    history: History,
    health: Health,
    announcer: Announcer,
    fitness: Fitness,
}

impl Service {
    pub fn new(config: &config::Service) -> Self {
        Self {
            state: State::Waiting,
            last_run: Run(0),
            links: AwaitLinks::default(),
            history: History::default(),
            health: Health::new(&config.checks),
            announcer: Announcer::new(config.announce.iter().map(|announce| announce.ttl).min()),
            fitness: Fitness::default(),
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn run(&self) -> Run {
        self.last_run
    }

    pub fn health(&self) -> health::State {
        self.health.state()
    }

    /// Time may have passed that nobody has noticed.
    pub fn doubt(&mut self, now: Time) {
        self.announcer.doubt(now);
    }

    /// The registry may have died, and be back.
    pub fn hung_up(&mut self, out: &mut Out<'_>) {
        self.announcer.hung_up(out);
    }

    pub fn announcer(&self) -> &Announcer {
        &self.announcer
    }

    /// There is, or is about to be, a process.
    pub fn has_process(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Up { .. } | State::Stopping { .. } => true,
            State::Waiting | State::AwaitingLinks | State::Backoff { .. } | State::Down { .. } => false,
        }
    }

    /// Those that are `after` it may start.
    pub fn is_reached(&self, config: &config::Service) -> bool {
        match (config.kind, &self.state) {
            (Kind::Daemon, State::Up { ready: Readiness::Yes, .. }) => true,
            (Kind::Oneshot, State::Down { last: Some(ending), .. }) => ending.is_success(),
            (Kind::Daemon | Kind::Oneshot, _) => false,
        }
    }

    /// Those that are `after` it will never start.
    pub fn is_out_of_reach(&self, config: &config::Service) -> bool {
        matches!(self.state, State::Down { .. }) && !self.is_reached(config)
    }

    /// Its turn has come: it starts once the links that it waits for are reached, which may be now.
    pub fn start(&mut self, config: &config::Service, out: &mut Out<'_>) {
        self.state = State::AwaitingLinks;
        let progress = self.links.begin(&config.links, out);
        self.go_on(config, progress, out);
    }

    pub fn reached(
        &mut self,
        config: &config::Service,
        link: LinkId,
        attempt: AttemptId,
        verdict: Verdict,
        out: &mut Out<'_>,
    ) {
        self.links.reached(&config.links, link, attempt, verdict, out);
    }

    fn go_on(&mut self, config: &config::Service, progress: Progress, out: &mut Out<'_>) {
        match progress {
            Progress::Waiting => {}
            Progress::AllReached => self.spawn(out),
            Progress::InVain(link, limit) => self.not_reached(config, link, limit, out),
        }
    }

    fn spawn(&mut self, out: &mut Out<'_>) {
        self.last_run = Run(self.last_run.0.wrapping_add(1));
        self.state = State::Starting { since: out.now };
        out.act(Action::Spawn { service: out.service, run: self.last_run });
    }

    pub fn spawned(&mut self, config: &config::Service, run: Run, out: &mut Out<'_>) {
        if run != self.last_run || !matches!(self.state, State::Starting { .. }) {
            return;
        }
        out.tell(Change::Started { run });
        self.state = State::Up { since: out.now, ready: Readiness::No };
        self.health.start(&config.checks, out.now);
    }

    pub fn spawn_failed(
        &mut self,
        config: &config::Service,
        run: Run,
        failure: SpawnFailure,
        out: &mut Out<'_>,
    ) {
        let State::Starting { since } = self.state else { return };
        if run != self.last_run {
            return;
        }
        // What can't be found on the first try is not there; what has run before may be on its way back.
        if (run == Run(1) && failure.is_permanent()) || config.restart.when == RestartWhen::Never {
            self.state = State::Down { last: Some(failure.ending()), why: DownWhy::GaveUp };
        } else {
            self.crashed(config, failure.ending(), since, out);
        }
    }

    pub fn exited(
        &mut self,
        config: &config::Service,
        run: Run,
        ending: Ending,
        closing: Closing,
        out: &mut Out<'_>,
    ) {
        if run != self.last_run {
            return;
        }
        match self.state {
            State::Up { since, .. } | State::Stopping { since, .. } if closing == Closing::Yes => {
                self.end(ending, since, out);
            }
            State::Up { since, .. } => match (config.restart.when, ending.is_success(), config.kind) {
                (RestartWhen::Always, _, Kind::Daemon)
                | (RestartWhen::Always | RestartWhen::OnFailure, false, Kind::Daemon | Kind::Oneshot) => {
                    self.crashed(config, ending, since, out);
                }
                (RestartWhen::Always, true, Kind::Oneshot)
                | (RestartWhen::OnFailure, true, Kind::Daemon | Kind::Oneshot)
                | (RestartWhen::Never, _, Kind::Daemon | Kind::Oneshot) => {
                    self.end(ending, since, out);
                }
            },
            State::Stopping { since, cause, .. } => match cause {
                StopCause::Shutdown => self.end(ending, since, out),
                // Stopped because it was not fit, so that it counts as a crash whatever it ended with.
                StopCause::Unhealthy(_) | StopCause::NotReadyInTime => match config.restart.when {
                    RestartWhen::Always | RestartWhen::OnFailure => {
                        self.crashed(config, ending, since, out);
                    }
                    RestartWhen::Never => self.end(ending, since, out),
                },
            },
            State::Waiting
            | State::AwaitingLinks
            | State::Starting { .. }
            | State::Backoff { .. }
            | State::Down { .. } => {}
        }
    }

    pub fn probed(
        &mut self,
        config: &config::Service,
        check: CheckId,
        probe: ProbeId,
        verdict: Verdict,
        out: &mut Out<'_>,
    ) {
        let fallen = self.health.probed(&config.checks, check, probe, verdict, out);
        self.restart_if_wanted(config, fallen, out);
    }

    pub fn answered(&mut self, request: RequestId, answer: Answer, out: &mut Out<'_>) {
        self.announcer.answered(request, answer, out);
    }

    /// Asks it to go for the container's shutdown, which no restart follows. No signal: the sweep's TERM reaches it.
    pub fn shut_down(&mut self, signal: Option<Signal>, kill: Kill, out: &mut Out<'_>) {
        match self.state {
            State::Waiting | State::AwaitingLinks | State::Backoff { .. } => {
                self.links.cancel(out);
                self.state = State::Down { last: self.last_ending(), why: DownWhy::Ended };
            }
            State::Starting { .. } | State::Up { .. } => {
                self.stop(signal, StopCause::Shutdown, kill, out);
            }
            // Already signalled on its own account: from now on the container's deadline holds as well.
            State::Stopping { since, kill: own, .. } => {
                let kill = match (own, kill) {
                    (Kill::At(a), Kill::At(b)) => Kill::At(a.min(b)),
                    (Kill::Done, _) | (_, Kill::Done) => Kill::Done,
                    (Kill::Never, other) | (other, Kill::Never) => other,
                };
                self.state = State::Stopping { since, cause: StopCause::Shutdown, kill };
            }
            State::Down { .. } => {}
        }
    }

    /// The container's time is up: kills it if that has not been done.
    pub fn kill(&mut self, out: &mut Out<'_>) {
        let (since, cause) = match self.state {
            State::Starting { since } | State::Up { since, .. } => (since, StopCause::Shutdown),
            State::Stopping { since, cause, kill: Kill::At(_) | Kill::Never } => (since, cause),
            State::Stopping { kill: Kill::Done, .. }
            | State::Waiting
            | State::AwaitingLinks
            | State::Backoff { .. }
            | State::Down { .. } => return,
        };
        self.health.stop(out);
        self.state = State::Stopping { since, cause, kill: Kill::Done };
        out.tell(Change::Killed);
        out.act(Action::Signal { service: out.service, run: self.last_run, signal: SIGKILL });
    }

    /// The sweep has killed everything: there is nothing left to kill it for.
    pub fn swept(&mut self) {
        if let State::Stopping { kill, .. } = &mut self.state {
            *kill = Kill::Done;
        }
    }

    /// What it is `after` will never be ready; `last` is why.
    pub fn never_starts(&mut self, after: ServiceId, last: Option<Ending>, out: &mut Out<'_>) {
        out.tell(Change::NeverStarts { after });
        self.state = State::Down { last, why: DownWhy::GaveUp };
    }

    pub fn is_shutting_down(&self) -> bool {
        match self.state {
            State::Stopping { cause: StopCause::Shutdown, .. } | State::Down { .. } => true,
            State::Stopping { cause: StopCause::Unhealthy(_) | StopCause::NotReadyInTime, .. }
            | State::Waiting
            | State::AwaitingLinks
            | State::Starting { .. }
            | State::Up { .. }
            | State::Backoff { .. } => false,
        }
    }

    /// How its latest run ended, if one has.
    pub fn last_ending(&self) -> Option<Ending> {
        match self.state {
            State::Down { last, .. } => last,
            State::Waiting
            | State::AwaitingLinks
            | State::Starting { .. }
            | State::Up { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => self.history.last_ending(),
        }
    }

    /// Passes a signal on, if there is anybody to pass it to.
    pub fn signal(&mut self, signal: Signal, out: &mut Out<'_>) -> Delivery {
        if !self.has_process() {
            return Delivery::Dropped;
        }
        out.act(Action::Signal { service: out.service, run: self.last_run, signal });
        Delivery::Sent
    }

    /// Does what is due, and brings readiness, health and announcement up to date with each other.
    pub fn advance(&mut self, config: &config::Service, closing: Closing, beat: Beat, out: &mut Out<'_>) {
        let fallen = self.health.advance(&config.checks, out);
        for check in fallen {
            self.restart_if_wanted(config, Some(check), out);
        }
        match self.state {
            State::AwaitingLinks if closing == Closing::Yes => self.shut_down(None, Kill::Never, out),
            State::AwaitingLinks => {
                let progress = self.links.advance(&config.links, out);
                self.go_on(config, progress, out);
            }
            State::Backoff { until } if until <= out.now && closing == Closing::No => self.start(config, out),
            State::Stopping { kill: Kill::At(at), .. } if at <= out.now => self.kill(out),
            // A oneshot is reached by its end, never by being up.
            State::Up { since, ready: Readiness::No } if config.kind == Kind::Daemon => {
                let ready = match config.ready.by {
                    ReadyBy::Start => true,
                    ReadyBy::Checks => self.health.state() == health::State::Healthy,
                };
                if ready {
                    self.state = State::Up { since, ready: Readiness::Yes };
                    out.tell(Change::Ready);
                } else if since + config.ready.timeout <= out.now {
                    let kill = own_kill(config, out.now);
                    self.stop(Some(config.stop.signal), StopCause::NotReadyInTime, kill, out);
                }
            }
            State::Waiting
            | State::Starting { .. }
            | State::Up { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Down { .. } => {}
        }
        let fit = self.fitness.judge(self.serves(closing), out.now);
        self.announcer.want(fit, beat, out);
    }

    pub fn next_deadline(&self, config: &config::Service, closing: Closing) -> Option<Time> {
        let own = match self.state {
            State::Waiting | State::Starting { .. } | State::Down { .. } => None,
            State::AwaitingLinks => self.links.next_deadline(),
            State::Up { since, ready: Readiness::No } => {
                (config.kind == Kind::Daemon).then(|| since + config.ready.timeout)
            }
            State::Up { ready: Readiness::Yes, .. } => self.fitness.settled_at(),
            State::Stopping { kill: Kill::At(at), .. } => Some(at),
            State::Stopping { kill: Kill::Never | Kill::Done, .. } => None,
            State::Backoff { until } => (closing == Closing::No).then_some(until),
        };
        let inner = earliest(self.health.next_deadline(&config.checks), self.announcer.next_deadline());
        earliest(own, inner)
    }

    /// Whether it serves now, as far as that can be seen from inside.
    fn serves(&self, closing: Closing) -> Result<(), Unfit> {
        match self.state {
            State::Up { ready: Readiness::Yes, .. } if closing == Closing::Yes => Err(Unfit::Stopping),
            State::Up { ready: Readiness::Yes, .. } => match self.health.state() {
                health::State::Healthy => Ok(()),
                health::State::Unknown | health::State::Unhealthy => Err(Unfit::Unhealthy),
            },
            State::Up { ready: Readiness::No, .. } => Err(Unfit::NotReady),
            State::Stopping { .. } => Err(Unfit::Stopping),
            State::Waiting
            | State::AwaitingLinks
            | State::Starting { .. }
            | State::Backoff { .. }
            | State::Down { .. } => Err(Unfit::NotRunning),
        }
    }

    fn restart_if_wanted(&mut self, config: &config::Service, fallen: Option<CheckId>, out: &mut Out<'_>) {
        let Some(check) = fallen.and_then(|check| health::wants_restart(&config.checks, check)) else {
            return;
        };
        if matches!(self.state, State::Up { .. }) {
            let kill = own_kill(config, out.now);
            self.stop(Some(config.stop.signal), StopCause::Unhealthy(check), kill, out);
        }
    }

    fn stop(&mut self, signal: Option<Signal>, cause: StopCause, kill: Kill, out: &mut Out<'_>) {
        let since = match self.state {
            State::Starting { since } | State::Up { since, .. } => since,
            State::Waiting
            | State::AwaitingLinks
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Down { .. } => return,
        };
        self.health.stop(out);
        self.state = State::Stopping { since, cause, kill };
        if let Some(signal) = signal {
            out.tell(Change::Stopping { signal, why: cause });
            out.act(Action::Signal { service: out.service, run: self.last_run, signal });
        }
    }

    fn crashed(&mut self, config: &config::Service, ending: Ending, since: Time, out: &mut Out<'_>) {
        self.health.stop(out);
        let ran_for = out.now.since(since);
        let next = self.after_crash(config, ending, ran_for, out);
        if let Next::RestartIn(_) = next {
            out.act(Action::KillRemains { service: out.service, run: self.last_run });
        }
        out.tell(Change::Ended { ending, ran_for, next });
    }

    /// A link that it waits for was not reached in time. A first start that fails so is not tried again; any other
    /// counts as a crash.
    fn not_reached(&mut self, config: &config::Service, link: LinkId, limit: Duration, out: &mut Out<'_>) {
        self.links.cancel(out);
        let ending = Ending::Code(exit::UNAVAILABLE);
        let next = match self.last_run {
            Run(0) => {
                self.state = State::Down { last: Some(ending), why: DownWhy::GaveUp };
                Next::GivesUp
            }
            // However long it waited: that was no run.
            Run(_) => self.after_crash(config, ending, Duration::ZERO, out),
        };
        let link = await_links::name(&config.links, link);
        out.tell(Change::LinkNotReached { link, limit, next });
    }

    /// Backs off or gives up, and says which.
    fn after_crash(
        &mut self,
        config: &config::Service,
        ending: Ending,
        ran_for: Duration,
        out: &mut Out<'_>,
    ) -> Next {
        match self.history.crashed(&config.restart, ran_for, ending, out.now, out.rng) {
            Decision::GiveUp => {
                self.state = State::Down { last: Some(ending), why: DownWhy::GaveUp };
                Next::GivesUp
            }
            Decision::After(delay) => {
                self.fitness.must_settle(config.ready.settle.max(self.history.ceiling(&config.restart)));
                self.state = State::Backoff { until: out.now + delay };
                Next::RestartIn(delay)
            }
        }
    }

    /// For good, by policy or by the container's end.
    fn end(&mut self, ending: Ending, since: Time, out: &mut Out<'_>) {
        self.health.stop(out);
        out.tell(Change::Ended { ending, ran_for: out.now.since(since), next: Next::StaysDown });
        self.state = State::Down { last: Some(ending), why: DownWhy::Ended };
    }
}

/// The service's own deadline, for a stop that begins now.
pub fn own_kill(config: &config::Service, now: Time) -> Kill {
    match config.stop.timeout {
        Some(timeout) => Kill::At(now + timeout),
        None => Kill::Never,
    }
}
