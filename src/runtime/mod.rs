//! The dull driver: turns the world into events for the supervisor and its actions into the world. One thread, one
//! `select!`, nothing awaited anywhere else on the way.

pub mod children;
pub mod journal;
pub mod limp;
pub mod perform;
pub mod reaper;
pub mod registrar;
pub mod tasks;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use self::children::Owner;
use self::perform::World;
use crate::config::{Config, Signal};
use crate::links::{Exported, Links};
use crate::machine::Supervisor;
use crate::machine::event::{Descendants, Event, Verdict};
use crate::machine::time::Time;
use crate::sys::clock::Clock;
use crate::sys::signals::Signals;
use crate::sys::{process, tty};

/// How long a thread that read a folder (the loop itself never does) stays when it has nothing to do.
const IDLE_THREAD: Duration = Duration::from_millis(200);

/// For what main wrote last and a link has not delivered yet. Mostly there is nothing.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why supervision could not begin. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
}

/// Supervises `config` to the end of the container and gives the exit code. All signals must be blocked already.
/// `links` are open, and stay so until this returns; `exported` is what they say to each service, in the services'
/// order. `descriptors` are the limits of open files that services get back, if ours were changed.
pub fn run(
    config: Config,
    links: Links,
    exported: Vec<Exported>,
    descriptors: Option<(u64, u64)>,
) -> Result<u8, RuntimeError> {
    let io = |what| move |source| RuntimeError::Io { what, source };
    let signals = Signals::open().map_err(io("open the signal descriptor"))?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .map_err(io("start the event loop"))?;
    let config = Arc::new(config);
    let (sender, events) = unbounded_channel();
    let mut world = World::new(Arc::clone(&config), links, exported, descriptors, sender)?;
    let end = catch_unwind(AssertUnwindSafe(|| {
        let local = LocalSet::new();
        local.block_on(&tokio, Driver::new(config, &mut world, &signals, events).drive())
    }));
    world.leave();
    world.close_links(LAST_WORDS);
    // A request that hangs in a file system must not hold up the exit.
    tokio.shutdown_background();
    match end {
        Ok(Ok(code)) => Ok(code),
        Ok(Err(source)) => Err(RuntimeError::Io { what: "watch for signals", source }),
        // The panic hook has said where.
        Err(_panic) => Ok(limp::run(&signals, world.main_pid())),
    }
}

struct Driver<'a> {
    supervisor: Supervisor,
    world: &'a mut World,
    signals: &'a Signals,
    events: UnboundedReceiver<Event>,
    epoch: Instant,
    descendants: Descendants,
}

impl<'a> Driver<'a> {
    fn new(
        config: Arc<Config>,
        world: &'a mut World,
        signals: &'a Signals,
        events: UnboundedReceiver<Event>,
    ) -> Self {
        let supervisor = Supervisor::new(config, fastrand::u64(..));
        let (epoch, descendants) = (Instant::now(), Descendants::None);
        Self { supervisor, world, signals, events, epoch, descendants }
    }

    async fn drive(mut self) -> io::Result<u8> {
        let signals = self.signals.watch()?;
        let clock = self.clock();
        // What came while we were starting goes first: a container that is told to stop before main runs never runs it.
        let mut exit = self.take_signals()?;
        if exit.is_none() {
            exit = self.feed([Event::Started]);
            process::release_startup_pages();
        }
        loop {
            if let Some(code) = exit {
                return Ok(code);
            }
            let deadline = self.supervisor.next_deadline().map(|time| self.epoch + time.since_start());
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let clock_set = async {
                match &clock {
                    Some(clock) => clock.is_set().await,
                    None => std::future::pending().await,
                }
            };
            let hung_up = self.world.registry_hung_up();
            exit = tokio::select! {
                biased;
                ready = signals.readable() => {
                    ready?.clear_ready();
                    self.take_signals()?
                }
                Some(event) = self.events.recv() => self.feed([event]),
                () = due => self.feed([Event::Tick]),
                () = clock_set => self.feed([Event::ClockSet]),
                () = hung_up => self.feed([Event::RegistryHungUp]),
            };
        }
    }

    /// For those who have something in a registry, which forgets. Without it a heartbeat comes when it comes.
    fn clock(&self) -> Option<Clock> {
        let announces = self.supervisor.services().iter().any(|service| service.announcer().announces());
        let clock = announces.then(Clock::watch)?;
        clock.inspect_err(|error| tracing::debug!("cannot watch the clock: {error}")).ok()
    }

    /// Feeds every signal that has come. Gives the exit code once there is one.
    fn take_signals(&mut self) -> io::Result<Option<u8>> {
        let mut numbers = Vec::new();
        loop {
            match self.signals.read(&mut numbers) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            for &number in &numbers {
                let exit = match number {
                    libc::SIGCHLD => self.reap(),
                    number => {
                        if number == libc::SIGCONT {
                            self.world.continued();
                        }
                        self.feed([Event::Signal(Signal(number))])
                    }
                };
                if exit.is_some() {
                    return Ok(exit);
                }
            }
            // Where children end in a flood the next one has come by now: a look here is cheaper than a round through
            // the event loop.
            if numbers.len() < Signals::BATCH && !numbers.contains(&libc::SIGCHLD) {
                return Ok(None);
            }
        }
    }

    fn reap(&mut self) -> Option<u8> {
        let reaped = reaper::reap(|pid| self.world.children.owner(pid).is_some());
        let mut events = Vec::new();
        if reaped.descendants != self.descendants {
            self.descendants = reaped.descendants;
            events.push(Event::Descendants(reaped.descendants));
        }
        for (pid, ending) in reaped.ended {
            events.extend(self.world.children.remove(pid).map(|owner| match owner {
                Owner::Service { service, run } => Event::Exited { service, run, ending },
                Owner::Probe { service, check, probe } => {
                    let verdict = if ending.is_success() { Verdict::Pass } else { Verdict::Fail };
                    self.world.exec_probe_ended(pid, service, check, ending);
                    Event::Probed { service, check, probe, verdict }
                }
            }));
        }
        let exit = self.feed(events);
        let main = self.world.main_pid();
        if exit.is_none() && reaped.stopped.into_iter().any(|pid| Some(pid) == main) {
            self.world.main_stopped();
        }
        exit
    }

    /// Gives the events to the supervisor and does what it says, its answers first, until there is no more to say.
    fn feed(&mut self, events: impl IntoIterator<Item = Event>) -> Option<u8> {
        let mut queue = VecDeque::from_iter(events);
        let mut exit = None;
        while let Some(event) = queue.pop_front() {
            let now = Time::after_start(self.elapsed());
            for action in self.supervisor.handle(event, now) {
                let done = self.world.perform(action);
                if let Some(event) = done.event {
                    if let Event::Spawned { .. } = event {
                        self.descendants = Descendants::Some;
                    }
                    queue.push_front(event);
                }
                exit = exit.or(done.exit);
            }
        }
        exit
    }

    fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// Stops with the shell's job. The terminal comes back with the CONT that wakes us.
fn stop_with_job() {
    if let Err(error) = tty::stop_with_job() {
        tracing::warn!("cannot stop with the shell's job: {error}");
    }
}
