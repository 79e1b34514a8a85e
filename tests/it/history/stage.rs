//! Plays a schedule with a real etcd and real ensigns, and writes down what was done when. Judges nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ensign::config::Conflict;
use nix::sys::signal::Signal;

use super::etcds::Etcds;
use super::schedule::{Act, Health, Size, Step, Who};
use crate::support::etcd::Etcd;
use crate::support::history::History;
use crate::support::history::checker::Limits;
use crate::support::history::spans::At;
use crate::support::history::timeline::{Change, Deed, Life, Quorum, Timeline, When};
use crate::support::service::{Folder, Service, registry_of, send};
use crate::support::watch::{self, Api};
use crate::support::{actor, process, wait};

/// What every instance's file says; `Limits` goes with it.
const COMMON: &str = r#"
stop = { drain = "0s" }
ready = { by = "checks", settle = "600ms" }
restart = { delay = "50ms", max_delay = "100ms", give_up = { after = 1000 } }
"#;
const CHECK: &str = "every = \"150ms\"\ntimeout = \"1s\"\ngrace = \"0s\"\nrise = 1\nfall = 2\n";
/// How long a run lives in a crash loop: it is healthy by then, and not trusted yet.
const LOOP: &str = "0.3";

/// How long the key may be nobody's meanwhile, in v2.
const TAKEOVER: Duration = ms(500);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// With one etcd.
pub const LIMITS: Limits = Limits {
    ttl: ms(5000),
    expiry: ms(2000),
    answer: ms(1000),
    retry: ms(1000),
    settle: ms(600),
    again: ms(2500),
    boot: ms(1500),
    unwell: ms(600),
    slack: ms(1000),
};

pub fn limits(size: Size) -> Limits {
    match size {
        Size::One => LIMITS,
        // Two of three may let a request wait for its second.
        Size::Three => Limits { answer: LIMITS.answer * 3, ..LIMITS },
    }
}

/// Folder, processes, and which of the timeline's lives it is.
struct Player {
    folder: Folder,
    service: Service,
    life: usize,
    is_frozen: bool,
}

pub struct Stage {
    began: Instant,
    /// The network of this stage's programs, below 127.0.0.0/8.
    net: [u8; 2],
    api: Api,
    size: Size,
    etcds: Etcds,
    /// Members that run, and the one that is cut off from the others.
    running: Vec<usize>,
    isolated: Option<usize>,
    history: History,
    players: [Option<Player>; 2],
    leaving: Vec<Player>,
    timeline: Timeline,
    logs: Vec<(String, String)>,
}

impl Stage {
    pub fn new(api: Api, size: Size) -> Self {
        static STAGES: AtomicU8 = AtomicU8::new(0);
        let process = u8::try_from(std::process::id() % 200).expect("below 200");
        let net = [process + 20, STAGES.fetch_add(1, Ordering::Relaxed)];
        let etcds = Etcds::start(size, net);
        let began = Instant::now();
        let history = History::follow(&etcds.addresses(), "");
        Self {
            began,
            net,
            api,
            size,
            running: (0..etcds.addresses().len()).collect(),
            isolated: None,
            etcds,
            history,
            players: Default::default(),
            leaving: vec![],
            timeline: Timeline::default(),
            logs: vec![],
        }
    }

    pub fn play(&mut self, schedule: &[Step]) {
        for (pause, act) in schedule {
            wait::be_late(*pause);
            let (when, ()) = stamped(self.began, || self.act(*act));
            self.timeline.notes.push((when, format!("  {act:?}")));
        }
    }

    /// Lets what is left come to rest, ends it, and tells all that was.
    pub fn end(mut self) -> (Timeline, Vec<(String, String)>) {
        let limits = limits(self.size);
        wait::be_late(limits.again + limits.ttl / 3 + limits.retry + limits.answer + limits.slack * 2);
        for who in [Who::A, Who::B] {
            if self.players[who as usize].is_some() {
                self.act(Act::Stop(who));
            }
        }
        wait::be_late(limits.answer + limits.slack * 2);
        self.history.until_complete();
        // Of whatever key: nobody has another one.
        let changes = self.history.all(self.api).into_iter().map(|change| {
            let watch::Change { at, revision, value, lease, .. } = change;
            Change { at: at - self.began, revision, value, lease }
        });
        self.timeline.changes = changes.collect();
        self.timeline.takeover = match self.api {
            Api::V3 => None,
            Api::V2 => Some(TAKEOVER),
        };
        self.timeline.end = self.began.elapsed();
        for player in std::mem::take(&mut self.leaving) {
            let ended = player.service.running.wait();
            self.logs.push((self.timeline.lives[player.life].name.clone(), ended.stderr));
        }
        self.logs.sort();
        (self.timeline, self.logs)
    }

    /// The only one.
    pub fn etcd(&self) -> &Etcd {
        match &self.etcds {
            Etcds::One(etcd) => etcd,
            Etcds::Three(_) => unreachable!("asked for one"),
        }
    }

    /// What it announces.
    pub fn value(&self, who: Who) -> &str {
        let player = self.players[who as usize].as_ref().expect("it is up");
        &self.timeline.lives[player.life].value
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Start(who, conflict, health) => self.start(who, conflict, health),
            Act::Crash(who) => self.deed(who, Deed::Crashed, Player::crash),
            Act::LoopOn(who) => self.deed(who, Deed::LoopOn, |player| {
                player.folder.write("loop", "");
                player.crash();
            }),
            Act::LoopOff(who) => self.deed(who, Deed::LoopOff, |player| player.folder.remove("loop")),
            Act::Sicken(who) => self.deed(who, Deed::Sick, |player| player.folder.remove("healthy")),
            Act::Cure(who) => self.deed(who, Deed::Well, |player| player.folder.write("healthy", "")),
            Act::Freeze(who) => self.deed(who, Deed::Frozen, Player::freeze),
            Act::Thaw(who) => self.deed(who, Deed::Thawed, Player::thaw),
            Act::Stop(who) => {
                self.deed(who, Deed::Stopped, |player| player.service.send(Signal::SIGTERM));
                self.leaving.extend(self.players[who as usize].take());
            }
            Act::Kill(who) => {
                self.deed(who, Deed::Killed, |player| {
                    let init = player.service.running.init();
                    send(init, Signal::SIGKILL);
                    wait::until_true("it to be gone, and all of its own", || !process::lives(init));
                });
                self.leaving.extend(self.players[who as usize].take());
            }
            Act::KillMember(member) => self.quorum(|stage| {
                stage.running.retain(|running| *running != member);
                stage.etcds.kill(member);
            }),
            Act::StartMember(member) => self.quorum(|stage| {
                stage.running.push(member);
                stage.etcds.start_again(member);
            }),
            Act::FreezeMember(member) => self.quorum(|stage| {
                stage.running.retain(|running| *running != member);
                stage.etcds.freeze(member);
            }),
            Act::ThawMember(member) => self.quorum(|stage| {
                stage.running.push(member);
                stage.etcds.thaw(member);
            }),
            Act::Isolate(member) => self.quorum(|stage| {
                stage.isolated = Some(member);
                stage.etcds.isolate(member);
            }),
            Act::CutOff(who) => {
                let when = stamped(self.began, || self.etcds.cut_off(who)).0;
                self.tell(who, when, Deed::CutOff);
            }
            Act::Heal => {
                let (when, ()) = stamped(self.began, || {
                    self.quorum(|stage| {
                        stage.isolated = None;
                        stage.etcds.heal();
                    });
                });
                for who in [Who::A, Who::B] {
                    if self.players[who as usize].is_some() {
                        self.tell(who, when, Deed::Mended);
                    }
                }
            }
        }
    }

    fn deed(&mut self, who: Who, deed: Deed, what: impl FnOnce(&mut Player)) {
        let player = self.players[who as usize].as_mut().expect("a schedule does this to one that is up");
        let when = stamped(self.began, || what(player)).0;
        self.tell(who, when, deed);
    }

    fn tell(&mut self, who: Who, when: When, deed: Deed) {
        let player = self.players[who as usize].as_ref().expect("a schedule does this to one that is up");
        self.timeline.lives[player.life].deeds.push((when, deed));
    }

    /// Whatever is done to a member or its cables may cost an election.
    fn quorum(&mut self, what: impl FnOnce(&mut Self)) {
        let began = self.began;
        let (when, ()) = stamped(began, || {
            what(self);
            let reached = self.running.iter().copied().filter(|member| self.isolated != Some(*member));
            let reached: Vec<usize> = reached.collect();
            let quorum = self.etcds.addresses().len() / 2 + 1;
            if reached.len() >= quorum {
                self.etcds.until_answered(&reached);
                let now = began.elapsed();
                self.timeline.quorum.push((When { from: now, to: now }, Quorum::Back));
            }
        });
        let lost = When { from: when.from, to: when.from };
        let place = self.timeline.quorum.iter().position(|(back, _)| back.from >= when.from);
        self.timeline.quorum.insert(place.unwrap_or(self.timeline.quorum.len()), (lost, Quorum::Lost));
    }

    fn start(&mut self, who: Who, conflict: Conflict, health: Health) {
        let life = self.timeline.lives.len();
        let number = u8::try_from(life + 2).expect("a schedule is short");
        let folder = Folder::new();
        let mut deeds = vec![];
        match health {
            Health::Well => folder.write("healthy", ""),
            Health::Sick => deeds.push((When { from: At::ZERO, to: At::ZERO }, Deed::Sick)),
        }
        folder.write("web.toml", &self.file(&folder, number, conflict));
        let (began, sandbox) = (self.began, self.etcds.sandbox(who));
        let (when, service) = stamped(began, || {
            let service = folder.start_in(sandbox);
            // Its signals are in order by then.
            service.running.main();
            service
        });
        deeds.push((when, Deed::Started));
        let value =
            format!(r#"{{"host":"192.0.2.{number}","port":8087,"priority":10,"weight":100,"ttl":1}}"#);
        let name = format!("{who:?}{}", life + 1);
        self.timeline.lives.push(Life { name, value, conflict, deeds });
        self.players[who as usize] = Some(Player { folder, service, life, is_frozen: false });
    }

    fn file(&self, folder: &Folder, number: u8, conflict: Conflict) -> String {
        let address = format!("127.{}.{}.{number}:8087", self.net[0], self.net[1]);
        let path = |name: &str| folder.path(name).display().to_string();
        let serve = format!("{} http {address} {}", actor().display(), path("healthy"));
        let shell =
            format!("test -e {} || exec {serve}; {serve} & sleep {LOOP}; kill -9 $!; exit 1", path("loop"));
        let conflict = match conflict {
            Conflict::Take => "take",
            Conflict::Wait => "wait",
        };
        let announce = format!(
            "[[announce]]\nname = \"web.s.prod.example.com\"\nport = 8087\naddress = \"192.0.2.{number}\"\n\
             instance = \"node-1\"\nttl = \"{}s\"\ndns_ttl = \"1s\"\nconflict = \"{conflict}\"\n",
            LIMITS.ttl.as_secs()
        );
        let check = format!("[[check]]\nhttp = \"http://{address}/healthz\"\n{CHECK}");
        let mut members = self.etcds.addresses();
        let first = usize::from(number) % members.len();
        members.rotate_left(first);
        let registry = registry_of(self.api, &members);
        format!("shell = {shell:?}\n{COMMON}{check}{announce}{registry}")
    }
}

impl Player {
    /// Its main process dies, as soon as there is one: it may be between two. One that is frozen may be for long.
    fn crash(&mut self) {
        let init = self.service.running.init();
        let find = || process::children(init).into_iter().find(|pid| process::lives(*pid));
        let main = if self.is_frozen { find() } else { Some(wait::until("a main process", find)) };
        if let Some(main) = main {
            send(main, Signal::SIGKILL);
        }
    }

    /// As one pauses a container.
    fn freeze(&mut self) {
        self.is_frozen = true;
        for pid in self.all() {
            process::freeze(pid);
        }
    }

    /// Those that it looks after first, so that it finds them well.
    fn thaw(&mut self) {
        self.is_frozen = false;
        for pid in self.all().into_iter().rev() {
            send(pid, Signal::SIGCONT);
        }
    }

    fn all(&self) -> Vec<i32> {
        let init = self.service.running.init();
        [init].into_iter().chain(process::descendants(init)).collect()
    }
}

fn stamped<T>(began: Instant, what: impl FnOnce() -> T) -> (When, T) {
    let from = began.elapsed();
    let result = what();
    (When { from, to: began.elapsed() }, result)
}
