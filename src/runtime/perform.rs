//! The only match on `Action`: carries out what the supervisor decided, and answers at once where an answer is due in
//! the same turn. Whatever takes time goes to `tasks.rs` or to the registrar.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::Resource as Rlimit;
use tokio::sync::mpsc::UnboundedSender;

use super::children::{Children, Owner};
use super::journal::Journal;
use super::registrar::Registrar;
use super::stop_with_job;
use super::tasks::{Purpose, Tasks};
use crate::checks::{self, http::Prober};
use crate::config::{Config, Probe, Resource, ServiceId, Signal};
use crate::links::{Exported, Links};
use crate::machine::action::Action;
use crate::machine::event::{AttemptId, CheckId, Ending, Event, LinkId, ProbeId, Run, SpawnFailure, Verdict};
use crate::net::resolve::Resolver;
use crate::sys::process::{self, Pid};
use crate::sys::spawn::{
    self, Identity, Orphaned, Privileges, ResourceLimit, SpawnError, Stdio, TerminalUse,
};
use crate::sys::tty::{self, Terminal};

/// Everything outside the supervisor that it acts on.
#[derive(Debug)]
pub struct World {
    config: Arc<Config>,
    pub children: Children,
    /// The process group of each service's latest run that began, also after its leader has been reaped.
    groups: HashMap<ServiceId, (Run, Pid)>,
    tasks: Tasks,
    registrar: Registrar,
    resolver: Arc<Resolver>,
    /// Made only where there is an http check.
    prober: Option<Prober>,
    /// Their threads serve as long as this is there.
    links: Links,
    /// What they say to each service.
    exported: Vec<Exported>,
    environment: Vec<OsString>,
    position: Position,
    terminal: Option<Terminal>,
    /// Main has had the terminal from us.
    lent: Cell<bool>,
    journal: Journal,
    /// The limits of open files that a service gets where it sets none itself.
    descriptors: Option<(u64, u64)>,
}

/// Where in the process tree we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Pid1,
    /// The subreaper of our descendants.
    Inside,
}

/// What became of an action, as far as that is known at once.
#[derive(Debug, Default)]
pub struct Done {
    pub event: Option<Event>,
    pub exit: Option<u8>,
}

impl From<Event> for Done {
    fn from(event: Event) -> Self {
        Self { event: Some(event), exit: None }
    }
}

impl World {
    pub fn new(
        config: Arc<Config>,
        links: Links,
        exported: Vec<Exported>,
        descriptors: Option<(u64, u64)>,
        events: UnboundedSender<Event>,
    ) -> Result<Self, super::RuntimeError> {
        let position = if nix::unistd::getpid().as_raw() == 1 { Position::Pid1 } else { Position::Inside };
        if position == Position::Inside
            && let Err(error) = process::become_subreaper()
        {
            tracing::warn!("cannot adopt orphaned descendants: {error}");
        }
        let resolver = Arc::new(Resolver::system());
        let mut checks = config.services.iter().flat_map(|service| &service.checks);
        let any_http = checks.any(|check| matches!(check.probe, Probe::Http(_)));
        let prober = any_http.then(|| Prober::new(Arc::clone(&resolver)));
        Ok(Self {
            prober,
            registrar: Registrar::new(Arc::clone(&config), Arc::clone(&resolver))?,
            children: Children::default(),
            groups: HashMap::new(),
            tasks: Tasks::new(events),
            resolver,
            links,
            exported,
            environment: process::environment(),
            position,
            terminal: Terminal::controlling(),
            lent: Cell::new(false),
            journal: Journal::default(),
            descriptors,
            config,
        })
    }

    pub async fn registry_hung_up(&self) {
        self.registrar.hung_up().await;
    }

    pub fn perform(&mut self, action: Action) -> Done {
        match action {
            Action::Spawn { service, run } => return self.spawn_service(service, run).into(),
            Action::Signal { service, run, signal } => self.signal(Owner::Service { service, run }, signal),
            Action::KillRemains { service, run } => {
                // Of this very run: a number of an older one may be somebody else's by now.
                if let Some(&(_, group)) = self.groups.get(&service).filter(|(of, _)| *of == run) {
                    // Mostly there is nothing left of it. Never the bare pid: that one has been reaped.
                    let _sent = process::kill(-group, libc::SIGKILL);
                }
            }
            Action::Probe { service, check, probe } => {
                return Done { event: self.probe(service, check, probe), exit: None };
            }
            Action::CancelProbe { service, check, probe } => {
                self.tasks.cancel(Purpose::Probe(service, check));
                self.signal(Owner::Probe { service, check, probe }, Signal(libc::SIGKILL));
            }
            Action::Reach { service, link, attempt } => self.reach(service, link, attempt),
            Action::CancelReach { service, link, attempt: _ } => {
                self.tasks.cancel(Purpose::Reach(service, link));
            }
            Action::Register { service, claim, request, conflict } => {
                self.registrar.register(&mut self.tasks, service, claim, request, conflict);
            }
            Action::Renew { service, claim, request } => {
                self.registrar.renew(&mut self.tasks, service, claim, request);
            }
            // There is one at a time.
            Action::Withdraw { service, claim: _, request } => {
                self.registrar.withdraw(&mut self.tasks, service, request);
            }
            Action::TurnAway => self.links.turn_away(),
            Action::Sweep(signal) => self.sweep(signal),
            Action::Tell(notice) => self.journal.tell(&self.config, &notice, &self.registrar),
            Action::Exit(code) => return Done { event: None, exit: Some(code) },
        }
        Done::default()
    }

    /// The pid of main, while it has one.
    pub fn main_pid(&self) -> Option<Pid> {
        let (_, group) = *self.groups.get(&self.config.main)?;
        self.children.owner(group).map(|_| group)
    }

    /// Main was stopped. A shell that may have started us must see its job stop, be it by ^Z or by reading the terminal
    /// from the background. Where there is none we go on: nobody would ever continue us.
    pub fn main_stopped(&self) {
        if self.position == Position::Inside && self.terminal.is_some() && tty::is_job_of_a_shell() {
            stop_with_job();
        }
    }

    /// The terminal goes back to whoever shares it with us: main's group is about to be nobody's.
    pub fn leave(&self) {
        if let (Position::Inside, Some(terminal), Some(&(_, group))) =
            (self.position, self.terminal, self.groups.get(&self.config.main))
            && terminal.belongs_to(group)
            && let Err(error) = terminal.take_back()
        {
            tracing::debug!("cannot take the terminal back: {error}");
        }
    }

    /// Nobody is left to use them. Waits for what is still on its way, for `limit` at most.
    pub fn close_links(&self, limit: Duration) {
        self.links.finish(limit);
    }

    /// We were continued: by `fg`, which made us the foreground again, or by `bg`.
    pub fn continued(&self) {
        if let (Some(terminal), Some(main)) = (self.terminal, self.main_pid())
            && terminal.is_ours()
            && let Err(error) = terminal.give_to(main)
        {
            tracing::debug!("cannot hand the terminal back to main: {error}");
        }
    }

    /// Cleans up after an exec probe, and notes what the log will say of the check should this make it unhealthy.
    pub fn exec_probe_ended(&self, pid: Pid, service: ServiceId, check: CheckId, ending: Ending) {
        // What it left in the background would pile up, probe by probe. Mostly there is nothing.
        let _sent = process::kill(-pid, libc::SIGKILL);
        if !ending.is_success() {
            self.journal.note_failure(service, check, ending.to_string());
        }
    }

    fn spawn_service(&mut self, service: ServiceId, run: Run) -> Event {
        let config = &self.config.services[service.0];
        let is_main = service == self.config.main;
        let terminal = match self.terminal {
            Some(terminal) if is_main && self.holds(terminal) => TerminalUse::TakeForeground,
            Some(_) | None => TerminalUse::LeaveAlone,
        };
        let stdio = if is_main { Stdio::Inherit } else { Stdio::NoInput };
        match self.spawn(service, &config.command, terminal, stdio) {
            Ok(pid) => {
                if terminal == TerminalUse::TakeForeground {
                    self.lent.set(true);
                }
                self.children.insert(pid, Owner::Service { service, run });
                self.groups.insert(service, (run, pid));
                Event::Spawned { service, run }
            }
            Err(error) => {
                tracing::error!(service = config.name, "{error}");
                Event::SpawnFailed { service, run, failure: classify(&error) }
            }
        }
    }

    /// The terminal is ours to give: we are its foreground, or main had it from us before, and no shell has taken it
    /// since.
    fn holds(&self, terminal: Terminal) -> bool {
        let lent = self.groups.contains_key(&self.config.main) && self.lent.get();
        terminal.is_ours() || lent && (self.position == Position::Pid1 || !terminal.belongs_to_our_starter())
    }

    fn spawn(
        &self,
        service: ServiceId,
        argv: &[OsString],
        terminal: TerminalUse,
        stdio: Stdio,
    ) -> Result<Pid, SpawnError> {
        let config = &self.config.services[service.0];
        let identity = config.user.as_ref().map(|user| Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        });
        let inherited = self.descriptors.map(|(soft, hard)| ResourceLimit {
            resource: Rlimit::RLIMIT_NOFILE as u32,
            soft,
            hard,
        });
        let own = config.limits.iter().map(|limit| ResourceLimit {
            resource: rlimit(limit.resource) as u32,
            soft: limit.soft.unwrap_or(libc::RLIM_INFINITY),
            hard: limit.hard.unwrap_or(libc::RLIM_INFINITY),
        });
        let env = self.environment_of(service);
        spawn::spawn(&spawn::Command {
            argv,
            env: env.as_deref().unwrap_or(&self.environment),
            directory: config.directory.as_deref(),
            identity: identity.as_ref(),
            limits: &inherited.into_iter().chain(own).collect::<Vec<_>>(),
            privileges: if config.no_new_privileges { Privileges::NoNew } else { Privileges::Keep },
            terminal,
            orphaned: match self.position {
                Position::Pid1 => Orphaned::Survives,
                Position::Inside => Orphaned::IsKilled,
            },
            stdio,
        })
    }

    /// The service's own environment, or `None` where ours reaches it untouched.
    fn environment_of(&self, service: ServiceId) -> Option<Vec<OsString>> {
        let (config, exported) = (&self.config.services[service.0], &self.exported[service.0]);
        let user = config.user.as_ref();
        let name = user.and_then(|user| user.name.clone()).map(OsString::from);
        let home = user.and_then(|user| user.home.clone()).map(OsString::from);
        let of_user = [("HOME", home), ("USER", name.clone()), ("LOGNAME", name)];
        let of_user = of_user.into_iter().filter_map(|(key, value)| Some((OsString::from(key), value?)));
        let added: Vec<_> = of_user.chain(exported.variables().iter().chain(&config.env).cloned()).collect();
        if added.is_empty() {
            return None;
        }
        let inherited = self.environment.iter().filter(|present| !exported.replaces(name_of(present)));
        let mut env: Vec<OsString> = inherited.cloned().collect();
        for (mut entry, value) in added {
            entry.push("=");
            env.retain(|present| !present.as_encoded_bytes().starts_with(entry.as_encoded_bytes()));
            entry.push(value);
            env.push(entry);
        }
        Some(env)
    }

    /// Tries once whether an upstream of the link takes a connection. The links' thread does it.
    fn reach(&mut self, service: ServiceId, link: LinkId, attempt: AttemptId) {
        let config = &self.config.services[service.0];
        let name = config.links[link.0].name.clone();
        let reach = self.links.reach(&config.name, &name);
        let journal = self.journal.clone();
        let reached = move |verdict| Event::Reached { service, link, attempt, verdict };
        let work = async move {
            let result = reach.accepts().await;
            let verdict = if result.is_ok() { Verdict::Pass } else { Verdict::Fail };
            journal.note_reach(service, name, result);
            reached(verdict)
        };
        self.tasks.start(Purpose::Reach(service, link), work, reached(Verdict::Fail));
    }

    fn signal(&self, owner: Owner, signal: Signal) {
        let Some(pid) = self.children.pid(owner) else { return };
        // Gone in this moment: its end is on its way.
        if let Err(error) = process::kill_group(pid, signal.0) {
            tracing::debug!("{signal} not delivered to {pid}: {error}");
        }
    }

    fn sweep(&self, signal: Signal) {
        match self.position {
            // Fails only when there is nobody left.
            Position::Pid1 => drop(process::kill_all(signal.0)),
            Position::Inside => {
                for pid in process::descendants() {
                    let _sent = process::kill(pid, signal.0);
                }
            }
        }
    }

    /// Starts a probe. An event at once when it could not even be started.
    fn probe(&mut self, service: ServiceId, check: CheckId, probe: ProbeId) -> Option<Event> {
        let done = move |verdict| Event::Probed { service, check, probe, verdict };
        let config = &self.config.services[service.0];
        let target = config.checks.get(check.0)?.probe.clone();
        if let Probe::Exec(argv) = &target {
            return match self.spawn(service, argv, TerminalUse::LeaveAlone, Stdio::Null) {
                Ok(pid) => {
                    self.children.insert(pid, Owner::Probe { service, check, probe });
                    None
                }
                Err(error) => {
                    self.journal.note_failure(service, check, error.to_string());
                    Some(done(Verdict::Fail))
                }
            };
        }
        let (resolver, prober) = (Arc::clone(&self.resolver), self.prober.clone());
        let journal = self.journal.clone();
        let work = async move {
            let result = match (&target, prober) {
                (Probe::Http(target), Some(prober)) => prober.probe(target).await,
                (Probe::Tcp(target), _) => checks::tcp::probe(target, &resolver).await,
                // An exec check is a child and has been started above; a prober is there for every http check.
                (Probe::Exec(_), _) | (Probe::Http(_), None) => Ok(()),
            };
            done(match result {
                Ok(()) => Verdict::Pass,
                Err(failure) => {
                    journal.note_failure(service, check, failure.to_string());
                    Verdict::Fail
                }
            })
        };
        self.tasks.start(Purpose::Probe(service, check), work, done(Verdict::Fail));
        None
    }
}

/// Of an entry of the environment.
fn name_of(entry: &OsStr) -> &OsStr {
    let name = entry.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
    OsStr::from_bytes(name)
}

fn classify(error: &SpawnError) -> SpawnFailure {
    let (source, is_exec) = match error {
        SpawnError::Exec { source, .. } => (source, true),
        SpawnError::Prepare { source, .. } => (source, false),
        SpawnError::Nul { .. } => return SpawnFailure::NotExecutable,
    };
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) if is_exec => SpawnFailure::NotFound,
        Some(
            libc::EAGAIN
            | libc::ENOMEM
            | libc::ENFILE
            | libc::EMFILE
            | libc::EIO
            | libc::ETXTBSY
            | libc::EINTR,
        ) => SpawnFailure::Other,
        _ => SpawnFailure::NotExecutable,
    }
}

fn rlimit(resource: Resource) -> Rlimit {
    match resource {
        Resource::As => Rlimit::RLIMIT_AS,
        Resource::Core => Rlimit::RLIMIT_CORE,
        Resource::Cpu => Rlimit::RLIMIT_CPU,
        Resource::Data => Rlimit::RLIMIT_DATA,
        Resource::Fsize => Rlimit::RLIMIT_FSIZE,
        Resource::Memlock => Rlimit::RLIMIT_MEMLOCK,
        Resource::Msgqueue => Rlimit::RLIMIT_MSGQUEUE,
        Resource::Nice => Rlimit::RLIMIT_NICE,
        Resource::Nofile => Rlimit::RLIMIT_NOFILE,
        Resource::Nproc => Rlimit::RLIMIT_NPROC,
        Resource::Rtprio => Rlimit::RLIMIT_RTPRIO,
        Resource::Rttime => Rlimit::RLIMIT_RTTIME,
        Resource::Sigpending => Rlimit::RLIMIT_SIGPENDING,
        Resource::Stack => Rlimit::RLIMIT_STACK,
    }
}
