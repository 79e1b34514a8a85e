//! What announcing costs and how fast it is, against one real etcd on 127.0.0.1: `cargo bench --bench announce`.
//!
//! Latencies are seen from outside: a signal sent by this program, a watch that etcd answers, a process in /proc. Each
//! row is one kind of registry. ENSIGN_BIN names another binary to measure, ENSIGN_BENCH_ROUNDS another number of
//! rounds, ENSIGN_BENCH_REST another number of seconds to watch it at rest.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "clippy.toml is for PID 1: a benchmark starts, waits for and prints what it likes"
)]

use std::fs::{read_dir, read_to_string};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::etcd::{Etcd, free_port};
use support::namespace::{Place, Running, Sandbox};
use support::service::{ANNOUNCE, Folder, KEY, Service, VALUE, command, registry, send};
use support::skip::{self, Need};
use support::watch::{Api, Watch};
use support::{acted, ensign, process, wait};

#[expect(dead_code, reason = "shared with the tests, which use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

const DEFAULT_ROUNDS: u64 = 100;
const DEFAULT_REST: u64 = 60;
/// The restart's: its wait is drawn from 0 to this, so what is measured includes half of it on average.
const DELAY: Duration = Duration::from_millis(100);
/// Start-up work is over by then, so the window of rest has none of it.
const SETTLE: Duration = Duration::from_secs(3);

/// A row's label and the values measured for it.
type Row = (String, Vec<f64>);

fn main() {
    // Without it this is `cargo test --all-targets` or a runner that asks for a list of tests: there is none.
    if !std::env::args().any(|arg| arg == "--bench") || skip::without(Need::Namespaces) {
        return;
    }
    build_actor();
    let rounds = setting("ENSIGN_BENCH_ROUNDS", DEFAULT_ROUNDS) as usize;
    let rest = Duration::from_secs(setting("ENSIGN_BENCH_REST", DEFAULT_REST));
    println!("ours is {}; {rounds} rounds; at rest for {rest:?}\n", ensign().display());
    let etcd = Etcd::start();
    let mut latencies = vec![];
    for api in Api::BOTH {
        latencies.push(by_hand(&etcd, api, rounds));
        latencies.extend(crashes(&etcd, api, rounds));
    }
    println!("{:62}{:>9}{:>9}{:>9}{:>9}", "milliseconds", "n", "p50", "p99", "max");
    for (label, values) in latencies {
        print!("{label:62}{:>9}", values.len());
        for share in [0.5, 0.99, 1.0] {
            print!("{:>9}", shown(quantile(&values, share)));
        }
        println!();
    }
    println!();
    at_rest(&etcd, rest);
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A bench target gets the binaries of its package built beside it, not the examples.
fn build_actor() {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let built =
        Command::new(cargo).args(["build", "--quiet", "--profile", profile, "--example", "actor"]).status();
    assert!(built.is_ok_and(|status| status.success()), "the payload program is built");
}

/// What etcd and its watch take by themselves: a key deleted by hand.
fn by_hand(etcd: &Etcd, api: Api, rounds: usize) -> Row {
    let watch = Watch::open(etcd, api);
    let mut deleted = vec![];
    for round in 0..rounds {
        api.write(etcd, KEY, VALUE);
        watch.nth(2 * round);
        let asked = Instant::now();
        api.delete(etcd, KEY);
        deleted.push(milliseconds(watch.nth(2 * round + 1).at - asked));
    }
    (format!("{api:?}: a deletion by hand → seen by a watch (the floor)"), deleted)
}

/// A container a round: it starts, is announced, and its main is killed.
fn crashes(etcd: &Etcd, api: Api, rounds: usize) -> Vec<Row> {
    let text = format!(
        "{}restart = {{ delay = \"{}ms\" }}\nstop = {{ drain = \"0s\" }}\n{ANNOUNCE}{}",
        command(&["hold"]),
        DELAY.as_millis(),
        registry(api, etcd.address())
    );
    let hold = acted(&["hold"]);
    let (mut announced, mut withdrawn, mut restarted, mut beyond) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let watch = Watch::open(etcd, api);
        let service = Folder::with(&text).start(Place::First);
        let main = wait::at_once("main", || service.running.pids_of(&hold).first().copied());
        let started = Instant::now();
        announced.push(milliseconds(watch.nth(0).at.saturating_duration_since(started)));
        // Whatever came with the start is over.
        service.running.until_line("ready");
        let killed = Instant::now();
        send(main, Signal::SIGKILL);
        let next = || service.running.pids_of(&hold).into_iter().find(|pid| *pid != main);
        wait::at_once("the next run", next);
        let took = milliseconds(killed.elapsed());
        restarted.push(took);
        beyond.push(took - drawn(&service.log()));
        withdrawn.push(milliseconds(watch.nth(1).at - killed));
        service.stop();
    }
    let label = |what: &str| format!("{api:?}: {what}");
    vec![
        (label("main seen running → record seen by a watch"), announced),
        (label("SIGKILL of main → its deletion seen by a watch"), withdrawn),
        (label(&format!("SIGKILL of main → next run (delay {DELAY:?}, full jitter)")), restarted),
        (label("… beyond the delay drawn, which is logged in whole ms"), beyond),
    ]
}

/// The wait before the next run that the log tells of, in milliseconds.
fn drawn(log: &str) -> f64 {
    let told = log.split_once("starts again in ").expect("the crash is logged before the next run").1;
    let (number, unit) = told.split_at(told.find(|c: char| !c.is_ascii_digit()).unwrap_or(told.len()));
    let number: f64 = number.parse().expect("a number");
    let unit = unit.split_whitespace().next().unwrap_or_default();
    number
        * match unit {
            "s" => 1e3,
            "ms" => 1.0,
            "µs" => 1e-3,
            "ns" => 1e-6,
            other => panic!("unit {other}"),
        }
}

/// All at once, each in namespaces of its own: what one service costs that has a check and an announcement, and its
/// parts, with the documented defaults.
fn at_rest(etcd: &Etcd, rest: Duration) {
    let hold = command(&["hold"]);
    let announced = |api, instance| {
        let announce = ANNOUNCE.replace("ttl = \"2s\"", "ttl = \"60s\"").replace("node-1", instance);
        announce + &registry(api, etcd.address())
    };
    let checked = || {
        let at = free_port();
        command(&["http", &at.to_string()]) + &format!("[[check]]\nhttp = \"http://{at}/healthz\"\n")
    };
    let served = |text: &str, until: &str| {
        let service = Folder::with(text).start(Place::First);
        service.until_logged(until);
        Resting::Served(service)
    };
    let exec = format!("{hold}[[check]]\nexec = [\"true\"]\n");
    let all = [
        ("a wrapped command", Resting::Wrapped(wrapped(Link::None))),
        ("a wrapped command with a link", Resting::Wrapped(wrapped(Link::Open))),
        ("a service", served(&hold, "ready")),
        ("… with an http check every 2 s", served(&checked(), "healthy")),
        ("… with an exec check every 2 s", served(&exec, "healthy")),
        ("… announced, v3, ttl 60 s", served(&(hold.clone() + &announced(Api::V3, "a")), "announced")),
        ("… announced, v2, ttl 60 s", served(&(hold.clone() + &announced(Api::V2, "b")), "announced")),
        (
            "… with the http check, announced, v3",
            served(&(checked() + &announced(Api::V3, "c")), "announced"),
        ),
    ];
    sleep(SETTLE);
    let before: Vec<Usage> = all.iter().map(|(_, resting)| Usage::of(resting.init())).collect();
    sleep(rest);
    println!(
        "{:48}{:>12}{:>12}{:>12}{:>12}{:>9}",
        "at rest", "CPU ms/min", "wakes/min", "VmRSS KiB", "VmHWM KiB", "threads"
    );
    let minutes = rest.as_secs_f64() / 60.0;
    for ((name, resting), before) in all.iter().zip(before) {
        let pid = resting.init();
        let now = Usage::of(pid);
        let number =
            |field| process::status(pid, field).map(|text| text.replace(" kB", "")).unwrap_or_default();
        println!(
            "{name:48}{:>12}{:>12}{:>12}{:>12}{:>9}",
            shown((now.cpu_ns - before.cpu_ns) / 1e6 / minutes),
            shown((now.switches - before.switches) / minutes),
            number("VmRSS"),
            number("VmHWM"),
            number("Threads")
        );
    }
}

/// `ensign -- actor hold`, with a Docker link variable if it is to have a link. In a network of its own: its port is free.
fn wrapped(link: Link) -> Running {
    let through = match link {
        Link::Open => {
            vec!["env".into(), "DB_NAME=/web/db".into(), "DB_PORT_5432_TCP=tcp://192.0.2.7:5432".into()]
        }
        Link::None => vec![],
    };
    let running = Sandbox::new(Place::First).net().through(through).start(support::wrapped(&["hold"]));
    running.until_line("ready");
    running
}

enum Link {
    None,
    Open,
}

enum Resting {
    Wrapped(Running),
    Served(Service),
}

impl Resting {
    fn init(&self) -> i32 {
        match self {
            Self::Wrapped(running) => running.init(),
            Self::Served(service) => service.running.init(),
        }
    }
}

/// Since its start, over all threads.
struct Usage {
    cpu_ns: f64,
    /// Each wake-up from idleness is one.
    switches: f64,
}

impl Usage {
    fn of(pid: i32) -> Self {
        let tasks = || read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let files =
            |name: &'static str| tasks().filter_map(move |task| read_to_string(task.path().join(name)).ok());
        let cpu = files("schedstat").filter_map(|text| text.split(' ').next()?.parse::<f64>().ok());
        let switches = files("status").map(|text| {
            let counts = text.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            counts.filter_map(|count| count.trim().parse::<f64>().ok()).sum::<f64>()
        });
        Self { cpu_ns: cpu.sum(), switches: switches.sum() }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Three digits that count, and no more.
fn shown(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
