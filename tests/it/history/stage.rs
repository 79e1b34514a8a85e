//! Plays a schedule with a real etcd and real ensigns, and writes down what was done when. Judges nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ensign::config::Conflict;
use nix::sys::signal::Signal;

use super::schedule::{Act, Health, Step, Who};
use crate::support::etcd::{Data, Etcd};
use crate::support::history::History;
use crate::support::history::checker::Limits;
use crate::support::history::spans::At;
use crate::support::history::timeline::{Deed, Life, Quorum, Timeline, When};
use crate::support::namespace::Place;
use crate::support::service::{Folder, KEY, Service, registry, send};
use crate::support::watch::Api;
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

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

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

/// Folder, processes, and which of the timeline's lives it is.
struct Player {
    folder: Folder,
    service: Service,
    life: usize,
    main: i32,
}

pub struct Stage {
    began: Instant,
    /// The network of this stage's programs, below 127.0.0.0/8.
    net: [u8; 2],
    etcd: Etcd,
    history: History,
    players: [Option<Player>; 2],
    leaving: Vec<Player>,
    timeline: Timeline,
    logs: Vec<(String, String)>,
}

impl Stage {
    pub fn new() -> Self {
        static STAGES: AtomicU8 = AtomicU8::new(0);
        let process = u8::try_from(std::process::id() % 200).expect("below 200");
        let net = [process + 20, STAGES.fetch_add(1, Ordering::Relaxed)];
        let etcd = Etcd::start_at(SocketAddr::from((Ipv4Addr::new(127, net[0], net[1], 1), 2379)));
        let began = Instant::now();
        let history = History::follow(KEY, &[etcd.address()], began);
        let (players, timeline) = (Default::default(), Timeline::default());
        Self { began, net, etcd, history, players, leaving: vec![], timeline, logs: vec![] }
    }

    pub fn play(&mut self, schedule: &[Step]) {
        for (pause, act) in schedule {
            wait::be_late(*pause);
            self.act(*act);
        }
    }

    /// Lets what is left come to rest, ends it, and tells all that was.
    pub fn end(mut self) -> (Timeline, Vec<(String, String)>) {
        wait::be_late(LIMITS.again + LIMITS.ttl / 3 + LIMITS.retry + LIMITS.answer + LIMITS.slack * 2);
        for who in [Who::A, Who::B] {
            if self.players[who as usize].is_some() {
                self.act(Act::Stop(who));
            }
        }
        wait::be_late(LIMITS.answer + LIMITS.slack * 2);
        self.timeline.changes = self.history.told();
        self.timeline.end = self.began.elapsed();
        for player in std::mem::take(&mut self.leaving) {
            let ended = player.service.running.wait();
            self.logs.push((self.timeline.lives[player.life].name.clone(), ended.stderr));
        }
        self.logs.sort();
        (self.timeline, self.logs)
    }

    pub fn etcd(&self) -> &Etcd {
        &self.etcd
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
            Act::KillEtcd => self.quorum(Quorum::Lost, Etcd::stop),
            Act::FreezeEtcd => self.quorum(Quorum::Lost, |etcd| etcd.freeze()),
            Act::StartEtcd => self.quorum(Quorum::Back, |etcd| etcd.start_again(Data::Kept)),
            Act::ThawEtcd => self.quorum(Quorum::Back, |etcd| {
                etcd.thaw();
                etcd.request("GET", "/health", "");
            }),
        }
    }

    fn deed(&mut self, who: Who, deed: Deed, what: impl FnOnce(&mut Player)) {
        let player = self.players[who as usize].as_mut().expect("a schedule does this to one that is up");
        let when = stamped(self.began, || what(player)).0;
        self.timeline.lives[player.life].deeds.push((when, deed));
    }

    fn quorum(&mut self, state: Quorum, what: impl FnOnce(&mut Etcd)) {
        let when = stamped(self.began, || what(&mut self.etcd)).0;
        self.timeline.quorum.push((when, state));
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
        let began = self.began;
        let (when, (service, main)) = stamped(began, || {
            let service = folder.start(Place::First);
            let main = service.running.main();
            (service, main)
        });
        deeds.push((when, Deed::Started));
        let value =
            format!(r#"{{"host":"192.0.2.{number}","port":8087,"priority":10,"weight":100,"ttl":1}}"#);
        let name = format!("{who:?}{}", life + 1);
        self.timeline.lives.push(Life { name, value, conflict, deeds });
        self.players[who as usize] = Some(Player { folder, service, life, main });
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
        format!("shell = {shell:?}\n{COMMON}{check}{announce}{}", registry(Api::V3, self.etcd.address()))
    }
}

impl Player {
    /// Its main process dies; there is one, or soon will be.
    fn crash(&mut self) {
        let init = self.service.running.init();
        let lives = |pid: &i32| process::lives(*pid);
        self.main = wait::until("a main process", || process::children(init).into_iter().find(lives));
        send(self.main, Signal::SIGKILL);
    }

    /// As one pauses a container.
    fn freeze(&mut self) {
        for pid in self.all() {
            send(pid, Signal::SIGSTOP);
        }
    }

    /// Those that it looks after first, so that it finds them well.
    fn thaw(&mut self) {
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
