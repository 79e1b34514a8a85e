//! What heartbeats cost etcd: ours in both APIs, and the request that a loop with curl makes. Called by `main`.

use std::fs::read_to_string;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ensign::machine::event::Answer;
use nix::sys::resource::{UsageWho, getrusage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::TTL;
use crate::fleet::{Api, Container, containers, each, register_all};
use crate::server::{Medium, Server, resident};
use crate::sheet::Sheet;

/// How long each goes on at its own pace.
const SPAN: Duration = Duration::from_millis(2500);
/// The seeds' loop beats this often, for a record of [`TTL`].
const SEED_EVERY: Duration = Duration::from_secs(45);
/// Heartbeats that are under way side by side when it is to go fast.
const AT_ONCE: usize = 32;
/// Longer than the run: nothing ends while others have their turn.
const LONG: Duration = Duration::from_secs(3600);
const CURLS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours(Api),
    Seed,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Ours(Api::V3), Self::Ours(Api::V2), Self::Seed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours(Api::V3) => "ensign, v3",
            Self::Ours(Api::V2) => "ensign, v2",
            Self::Seed => "curl loop, v2",
        }
    }

    /// Heartbeats a second of this many containers: ours come at 0.9 to 1 of a third of the TTL.
    fn rate(self, containers: usize) -> f64 {
        let every = match self {
            Self::Ours(_) => TTL.mul_f64(0.95 / 3.0),
            Self::Seed => SEED_EVERY,
        };
        containers as f64 / every.as_secs_f64()
    }
}

/// One etcd with all the contestants registered in it.
pub struct Stage {
    server: Server,
    medium: Medium,
    teams: Vec<Vec<Beater>>,
    watchers: [Arc<AtomicUsize>; 2],
}

/// One that can be told to beat.
#[derive(Clone)]
enum Beater {
    Ours(Rc<Container>),
    Seed { etcd: SocketAddr, at: usize },
}

impl Beater {
    async fn beat(self) {
        let good = match self {
            Self::Ours(container) => matches!(container.renew().await, Answer::Held { .. }),
            Self::Seed { etcd, at } => put(etcd, at).await.is_ok_and(|answer| answer.contains("\"set\"")),
        };
        assert!(good, "a heartbeat of an etcd that is up");
    }
}

async fn team(kind: Kind, count: usize, etcd: SocketAddr) -> Vec<Beater> {
    match kind {
        Kind::Ours(api) => {
            let fleet = containers(count, api, etcd, LONG);
            register_all(&fleet, AT_ONCE).await;
            fleet.into_iter().map(Beater::Ours).collect()
        }
        Kind::Seed => {
            let team: Vec<Beater> = (0..count).map(|at| Beater::Seed { etcd, at }).collect();
            each(&team, AT_ONCE, Beater::beat).await;
            team
        }
    }
}

impl Stage {
    pub async fn set(medium: Medium, count: usize) -> Self {
        let server = Server::start(medium);
        let mut teams = vec![];
        for kind in Kind::ALL {
            teams.push(team(kind, count, server.address).await);
        }
        let watchers = [
            watch(
                server.address,
                "POST /v3/watch",
                r#"{"create_request":{"key":"Lw==","range_end":"MA=="}}"#,
                "\"kv\"",
            ),
            watch(
                server.address,
                "GET /v2/keys/skydns?wait=true&recursive=true&stream=true",
                "",
                "\"action\"",
            ),
        ];
        Self { server, medium, teams, watchers }
    }

    /// Everybody once, as fast as it goes.
    pub async fn at_full_speed(&self, sheet: &mut Sheet) {
        let on = self.label();
        for (at, team) in self.teams.iter().enumerate() {
            let (seen, counters) = (self.seen(), self.server.counters());
            let (cpu, own, start) = (self.server.cpu(), own_cpu(), Instant::now());
            each(team, AT_ONCE, Beater::beat).await;
            let (took, cpu, own) = (start.elapsed(), self.server.cpu() - cpu, own_cpu() - own);
            let now = self.server.counters();
            let thousands = team.len() as f64 / 1e3;
            let mut add = |what: &str, value: f64| sheet.add(&format!("{what}, {on}"), at, value);
            add("heartbeats/s, as fast as it goes", team.len() as f64 / took.as_secs_f64());
            add("etcd, CPU ms per 1,000, as fast as it goes", cpu * 1e3 / thousands);
            add("log syncs per 1,000, as fast as it goes", (now.syncs - counters.syncs) / thousands);
            if self.medium == Medium::Disk {
                let mut add = |what: &str, value: f64| sheet.add(what, at, value / thousands);
                add("requests per 1,000", now.requests - counters.requests);
                add("raft proposals per 1,000", now.proposals - counters.proposals);
                add("raft log, KiB per 1,000", (now.log_bytes - counters.log_bytes) / 1024.0);
                add("database, KiB per 1,000", (now.database_bytes - counters.database_bytes) / 1024.0);
                add("events to one watcher per 1,000", (self.seen() - seen) as f64);
                add("the announcing side, CPU ms per 1,000", own * 1e3);
            }
        }
    }

    /// For a while, as often as so many containers do it in life.
    pub async fn at_the_pace_of(&self, containers: usize, sheet: &mut Sheet) {
        let before = self.server.cpu();
        tokio::time::sleep(SPAN).await;
        let idle = (self.server.cpu() - before) / SPAN.as_secs_f64();
        for (at, (kind, team)) in Kind::ALL.iter().zip(&self.teams).enumerate() {
            let rate = kind.rate(containers);
            let (before, start) = (self.server.cpu(), tokio::time::Instant::now());
            let mut under_way = tokio::task::JoinSet::new();
            for (beats, beater) in team.iter().cycle().enumerate() {
                let due = start + Duration::from_secs_f64(beats as f64 / rate);
                if due - start >= SPAN {
                    break;
                }
                tokio::time::sleep_until(due).await;
                under_way.spawn_local(beater.clone().beat());
            }
            tokio::time::sleep_until(start + SPAN).await;
            let busy = (self.server.cpu() - before) / SPAN.as_secs_f64() - idle;
            under_way.join_all().await;
            let mut add = |what: &str, value: f64| sheet.add(what, at, value);
            let of = format!("{containers} containers, ttl 60 s");
            add(&format!("heartbeats/s of {of}"), rate);
            add(&format!("etcd, CPU ms per 1,000, of {of}"), busy * 1e6 / rate);
            add(&format!("etcd, % of a processor, of {of}"), busy * 100.0);
        }
        sheet.note("etcd's own, with nobody beating, % of a processor", idle * 100.0);
    }

    fn label(&self) -> &'static str {
        match self.medium {
            Medium::Memory => "data in memory",
            Medium::Disk => "data on disk",
        }
    }

    fn seen(&self) -> usize {
        // What is on its way to a watcher arrives within this.
        std::thread::sleep(Duration::from_millis(100));
        self.watchers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// What a real curl costs where it runs.
    pub fn curl(&self, sheet: &mut Sheet) {
        let seed = Kind::ALL.iter().position(|kind| *kind == Kind::Seed).expect("it is one");
        let before = children_cpu();
        for _ in 0..CURLS {
            let url = format!("http://{}/v2/keys{}0", self.server.address, KEY);
            let done = Command::new("sh")
                .args([
                    "-c",
                    "curl -s -o /dev/null -X PUT \"$1\" -d value=\"$2\" -d ttl=60",
                    "sh",
                    &url,
                    VALUE,
                ])
                .stdin(Stdio::null())
                .status();
            assert!(done.is_ok_and(|status| status.success()), "curl is installed");
        }
        sheet.add(
            "the announcing side with a real sh and curl, CPU ms per 1,000",
            seed,
            (children_cpu() - before) * 1e6 / CURLS as f64,
        );
    }
}

/// The same with nobody else in it: memory an announcer.
pub async fn memory(kind: Kind, count: usize, sheet: &mut Sheet) {
    let at = Kind::ALL.iter().position(|known| *known == kind).expect("one of them");
    let server = Server::start(Medium::Memory);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, own, open) = (server.memory(), resident("self"), server.descriptors());
    let team = team(kind, count, server.address).await;
    for _ in 0..3 {
        each(&team, AT_ONCE, Beater::beat).await;
    }
    let each = |kib: f64| kib / team.len() as f64;
    sheet.add("etcd, KiB of memory an announcer", at, each(server.memory() - before));
    sheet.add("the announcing side, KiB of memory a client", at, each((resident("self") - own).max(0.0)));
    sheet.add(
        "etcd, connections held by 1,000",
        at,
        server.descriptors().saturating_sub(open) as f64 / (team.len() as f64 / 1e3),
    );
}

const KEY: &str = "/skydns/com/example/prod/s/web/seed-";
const VALUE: &str = r#"{"host":"192.0.2.7","port":8087,"priority":10,"weight":100,"ttl":5}"#;

/// The request of a curl, and a connection of its own as each curl has.
async fn put(etcd: SocketAddr, at: usize) -> std::io::Result<String> {
    let body = format!("value={}&ttl={}", VALUE.replace('"', "%22"), LONG.as_secs());
    let mut stream = tokio::net::TcpStream::connect(etcd).await?;
    let head = format!(
        "PUT /v2/keys{KEY}{at} HTTP/1.1\r\nHost: {etcd}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = vec![];
    while !answer.ends_with(b"}\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Counts what a watcher is told: how often `mark` comes.
fn watch(etcd: SocketAddr, request: &str, body: &str, mark: &'static str) -> Arc<AtomicUsize> {
    let mut stream = TcpStream::connect(etcd).expect("etcd takes connections");
    write!(stream, "{request} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("taken");
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut rest = String::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            rest.push_str(&String::from_utf8_lossy(&buffer[..length]));
            let whole = rest.rfind('\n').map_or(0, |end| end + 1);
            counting.fetch_add(rest[..whole].matches(mark).count(), Ordering::Relaxed);
            rest.drain(..whole);
        }
    });
    count
}

/// Seconds of processor time of this thread, which is all of the announcers.
fn own_cpu() -> f64 {
    let text = read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Seconds of all children that have ended and been waited for.
fn children_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it is always told");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6)
        .sum()
}
