//! What a thousand announcers cost one real etcd, and what they do to it when it comes back: `cargo bench --bench scale`,
//! or `make bench-scale`. The announcers are in this process, on one thread; each has a connection, a lease and a key of
//! its own, and is the init's own code. The figures go into docs/benchmarks-scale.md, between its two marks.
//!
//! ENSIGN_BENCH_ROUNDS names another number of rounds, ENSIGN_BENCH_ANNOUNCERS another number of announcers,
//! ENSIGN_BENCH_ETCD another etcd, ENSIGN_BENCH_PART the only part to measure; with any of them the document is left alone.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "clippy.toml is for PID 1: a benchmark starts, waits for and prints what it likes"
)]

use std::fs::{read_to_string, write};
use std::process::Command;
use std::time::{Duration, Instant};

use cost::{Kind, Stage};
use server::Medium;
use sheet::Sheet;

#[path = "common/mod.rs"]
mod common;
#[path = "scale/cost.rs"]
mod cost;
#[path = "scale/fleet.rs"]
mod fleet;
#[path = "scale/foresee.rs"]
mod foresee;
#[path = "scale/herd.rs"]
mod herd;
#[path = "scale/plot.rs"]
mod plot;
#[path = "scale/server.rs"]
mod server;
#[path = "scale/sheet.rs"]
mod sheet;

/// The one that services have unless told otherwise.
pub const TTL: Duration = Duration::from_secs(60);
const ANNOUNCERS: usize = 1000;
/// Of how many containers.
const PACES: [usize; 2] = [1000, 10_000];
const ROUNDS: usize = 3;
const DOCUMENT: &str = "docs/benchmarks-scale.md";
const PICTURE: &str = "docs/benchmarks/restart.svg";
/// Which cases are in it.
const PICTURED: [usize; 4] = [0, 1, 3, 4];

fn main() {
    // Without it this is `cargo test --all-targets` or a runner that asks for a list of tests: there is none.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    common::raise_descriptors();
    let count = setting("ENSIGN_BENCH_ANNOUNCERS").unwrap_or(ANNOUNCERS);
    let rounds = setting("ENSIGN_BENCH_ROUNDS").unwrap_or(ROUNDS);
    let asked =
        ["ROUNDS", "ANNOUNCERS", "ETCD", "PART"].map(|name| std::env::var_os(format!("ENSIGN_BENCH_{name}")));
    let is_default = asked.iter().all(Option::is_none);
    let load = read_to_string("/proc/loadavg").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (figures, picture) = tokio::task::LocalSet::new().block_on(&runtime, measure(count, rounds));
    let text = format!("{}\n{figures}", circumstances(count, rounds, &load));
    println!("{text}");
    if is_default {
        common::publish(DOCUMENT, &text);
        write(PICTURE, picture).expect("writable");
    }
}

/// The tables, and the picture of the restart.
async fn measure(count: usize, rounds: usize) -> (String, String) {
    let only = std::env::var("ENSIGN_BENCH_PART").ok();
    let wants = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let start = Instant::now();
    let say = |what: &str| eprintln!("{what}, {:.0} s", start.elapsed().as_secs_f64());
    let mut costs = Sheet::new(Kind::ALL.map(Kind::name));
    if wants("cost") {
        let stages = [Stage::set(Medium::Disk, count).await, Stage::set(Medium::Memory, count).await];
        for round in 1..=rounds {
            say(&format!("cost, round {round} of {rounds}"));
            for stage in &stages {
                stage.at_full_speed(&mut costs).await;
            }
            for containers in PACES {
                stages[0].at_the_pace_of(containers, &mut costs).await;
            }
            stages[0].curl(&mut costs);
        }
    }
    for round in (1..=rounds).filter(|_| wants("memory")) {
        say(&format!("memory, round {round} of {rounds}"));
        for kind in Kind::ALL {
            cost::memory(kind, count, &mut costs).await;
        }
    }
    let mut restarts = Sheet::new(herd::CASES.map(|case| case.name));
    let mut seen = vec![vec![]; herd::CASES.len()];
    for round in 1..=rounds {
        for (at, seen) in seen.iter_mut().enumerate() {
            if !wants("restart") && !wants(herd::CASES[at].name) {
                continue;
            }
            say(&format!("restart, round {round} of {rounds}, {}", herd::CASES[at].name));
            *seen = herd::restart(at, count, &mut restarts).await;
        }
    }
    let mut foreseen = Sheet::new(["100,000 announcers, ttl 60 s"]);
    if wants("foresee") {
        foresee::outage(&mut foreseen);
    }
    say("done");
    let picture = plot::lines(
        &format!("{count} announcers: requests/s around a restart of etcd at 0 s"),
        -herd::LEAD.as_secs_f64(),
        herd::BUCKET.as_secs_f64(),
        &PICTURED.map(|at| (herd::CASES[at].name, &*seen[at])),
    );
    (format!("{}\n{}\n{}", costs.text(), restarts.text(), foreseen.text()), picture)
}

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn circumstances(count: usize, rounds: usize, load: &str) -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().map(|said| said.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
    };
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, kernel {}, {cpus} processors, load before {}. {}, one member. {count} announcers, {rounds} rounds, medians.\n",
        said("date", &["-u", "+%F"]),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?"),
        said(&server::binary(), &["--version"]).replace("etcd Version:", "etcd"),
    )
}
