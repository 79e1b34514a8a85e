//! What an init costs, side by side with its peers: `cargo bench --bench init`. Each figure is measured in namespaces of
//! its own, the contestants take turns within a round, and what is printed are medians over the rounds.
//!
//! ENSIGN_BIN names another binary to measure as ours, ENSIGN_BENCH_ROUNDS another number of rounds. Peers that are not
//! installed are left out. `none` is the payload alone, as PID 1: the floor, not a contestant.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "clippy.toml is for PID 1: a benchmark starts, waits for and prints what it likes"
)]

use std::ffi::OsString;
use std::fs::{metadata, read_dir, read_to_string};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use support::namespace::{Ended, Place, Running, Sandbox};
use support::skip::{self, Need};
use support::{acted, actor, ensign, process};

#[expect(dead_code, reason = "shared with the tests, which use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

const DEFAULT_ROUNDS: usize = 7;
const STARTS_A_ROUND: usize = 20;
const STOPS_A_ROUND: usize = 10;
const SIGNALS_A_ROUND: usize = 100;
const ORPHANS: &str = "20000";
/// Start-up work is over by then, so the window of rest has none of it.
const SETTLE: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(10);

struct Contestant {
    name: &'static str,
    /// None for the payload alone.
    binary: Option<PathBuf>,
}

impl Contestant {
    /// The init, if there is one, around `actor ARG…`.
    fn argv(&self, args: &[&str]) -> Vec<OsString> {
        let init = self.binary.iter().flat_map(|path| [path.into(), "--".into()]);
        init.chain(acted(args)).collect()
    }

    /// Runs as PID 1 until the payload has said that it is ready.
    fn start(&self, args: &[&str]) -> Running {
        let running = Sandbox::new(Place::First).start(self.argv(args));
        running.until_line("ready");
        running
    }
}

/// What one turn of one contestant gave: a row's label and a value for it, as often as it was measured.
type Figures = Vec<(&'static str, f64)>;

/// The rows in the order of their first figure; in each the figures of every contestant.
struct Sheet {
    contestants: Vec<Contestant>,
    rows: Vec<(&'static str, Vec<Vec<f64>>)>,
}

impl Sheet {
    fn add(&mut self, contestant: usize, figures: Figures) {
        for (label, value) in figures {
            let row = self.rows.iter().position(|(known, _)| *known == label).unwrap_or_else(|| {
                self.rows.push((label, vec![vec![]; self.contestants.len()]));
                self.rows.len() - 1
            });
            self.rows[row].1[contestant].push(value);
        }
    }

    fn print(&self) {
        print!("{:48}", "");
        for contestant in &self.contestants {
            print!("{:>11}", contestant.name);
        }
        println!("{:>13}", "ensign/tini");
        for (label, figures) in &self.rows {
            let medians: Vec<Option<f64>> = figures.iter().map(|values| quantile(values, 0.5)).collect();
            print!("{label:48}");
            for median in &medians {
                print!("{:>11}", median.map_or("-".into(), shortened));
            }
            let of = |name| medians[self.contestants.iter().position(|c| c.name == name)?];
            let ratio = of("ensign").zip(of("tini")).filter(|(_, tini)| *tini > 0.0);
            println!("{:>13}", ratio.map_or("-".into(), |(ours, tini)| format!("{:.2}", ours / tini)));
        }
    }
}

fn main() {
    // Without it this is `cargo test --all-targets` or a runner that asks for a list of tests: there is none.
    if !std::env::args().any(|arg| arg == "--bench") || skip::without(Need::Namespaces) {
        return;
    }
    build_actor();
    let rounds =
        std::env::var("ENSIGN_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_ROUNDS);
    let mut sheet = Sheet { contestants: contestants(), rows: vec![] };
    println!(
        "{rounds} rounds, medians; {ORPHANS} orphans; idle for {REST:?}; ours is {}\n",
        ensign().display()
    );
    for measure in [start_up, term_to_gone, usr1_to_main, orphans] {
        for _ in 0..rounds {
            for contestant in 0..sheet.contestants.len() {
                let figures = measure(&sheet.contestants[contestant]);
                sheet.add(contestant, figures);
            }
        }
    }
    idle(&mut sheet);
    sheet.print();
}

fn contestants() -> Vec<Contestant> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let peers = ["tini", "dumb-init", "catatonit"].into_iter();
    let peers = peers.filter_map(|name| Some(Contestant { name, binary: Some(find(name)?) }));
    let ours = Contestant { name: "ensign", binary: Some(ensign()) };
    [ours].into_iter().chain(peers).chain([Contestant { name: "none", binary: None }]).collect()
}

/// A bench target gets the binaries of its package built beside it, not the examples.
fn build_actor() {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let built =
        Command::new(cargo).args(["build", "--quiet", "--profile", profile, "--example", "actor"]).status();
    assert!(built.is_ok_and(|status| status.success()), "the payload program is built");
}

fn start_up(contestant: &Contestant) -> Figures {
    let run = |_| {
        let sandbox = Sandbox::new(Place::First).through(acted(&["stamp-exec"]));
        let ended = sandbox.run(contestant.argv(&["stamp"]));
        ("start: exec to main's first instruction, µs", numbers(&ended)[0] / 1e3)
    };
    (0..STARTS_A_ROUND).map(run).collect()
}

fn term_to_gone(contestant: &Contestant) -> Figures {
    let run = |_| {
        let running = contestant.start(&["signals"]);
        ("TERM to all gone, µs", send(&["--until-gone", "15"], &running)[0] / 1e3)
    };
    (0..STOPS_A_ROUND).map(run).collect()
}

fn usr1_to_main(contestant: &Contestant) -> Figures {
    let running = contestant.start(&["signals", "--stamp"]);
    let count = SIGNALS_A_ROUND.to_string();
    let sent = send(&["--stamp", "--count", &count, "--every-us", "2000", "10"], &running);
    send(&["15"], &running);
    let got = numbers(&running.wait());
    // A signal has no queue: of those that came as one the first has waited longest. The last to arrive is the TERM.
    let waited =
        |pair: &[f64]| sent.iter().find(|sent| (pair[0]..pair[1]).contains(sent)).map(|sent| pair[1] - sent);
    let got: Vec<f64> = [0.0].into_iter().chain(got).collect();
    let delays: Vec<f64> = got.windows(2).filter_map(waited).map(|ns| ns / 1e3).collect();
    let figure = |share| quantile(&delays, share).unwrap_or(f64::NAN);
    vec![("USR1 to main, p50, µs", figure(0.5)), ("USR1 to main, p95, µs", figure(0.95))]
}

/// Nothing to measure without an init: the payload would have to reap its own.
fn orphans(contestant: &Contestant) -> Figures {
    if contestant.binary.is_none() {
        return vec![];
    }
    let running = contestant.start(&["orphans", ORPHANS, "--watch", "--hold"]);
    let lag = running.stdout().lines().find_map(|line| line.strip_prefix("reaped ")?.parse::<f64>().ok());
    let cpu: f64 = each_task(running.init(), "schedstat", |text| text.split(' ').next()?.parse().ok());
    vec![
        ("orphans: processor time of the init, ms", cpu / 1e6),
        ("orphans: the last is gone after, ms", lag.unwrap_or(f64::NAN) / 1e6),
    ]
}

/// All at once: each has its own namespaces and none does anything.
fn idle(sheet: &mut Sheet) {
    let running: Vec<Running> =
        sheet.contestants.iter().map(|contestant| contestant.start(&["hold"])).collect();
    sleep(SETTLE);
    let before: Vec<f64> = running.iter().map(|one| switches(one.init())).collect();
    sleep(REST);
    for (contestant, running) in running.iter().enumerate() {
        let pid = running.init();
        let memory = read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib = |key: &str| -> f64 {
            let lines = memory.lines().filter_map(|line| line.strip_prefix(key));
            lines.filter_map(|rest| rest.split_whitespace().rev().nth(1)?.parse::<f64>().ok()).sum()
        };
        let threads = process::status(pid, "Threads").and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
        let binary = sheet.contestants[contestant].binary.clone().unwrap_or(actor());
        sheet.add(
            contestant,
            vec![
                ("idle: switches", switches(pid) - before[contestant]),
                ("idle: resident, KiB", kib("Rss:")),
                ("idle: proportional, KiB", kib("Pss:")),
                ("idle: private, KiB", kib("Private_")),
                ("idle: threads", threads),
                ("binary, KiB", metadata(binary).map_or(f64::NAN, |file| file.len() as f64 / 1024.0)),
            ],
        );
    }
}

/// Runs `actor send ARG… PID` at the init; the numbers that it prints.
fn send(args: &[&str], running: &Running) -> Vec<f64> {
    let pid = running.init().to_string();
    let sent = Command::new(actor()).arg("send").args(args).arg(pid).output().expect("the actor runs");
    assert!(sent.status.success(), "{sent:?}");
    String::from_utf8_lossy(&sent.stdout).lines().filter_map(|line| line.parse().ok()).collect()
}

fn numbers(ended: &Ended) -> Vec<f64> {
    ended.stdout.lines().filter_map(|line| line.parse().ok()).collect()
}

/// How often the threads were switched out so far, by themselves or not: each wake-up from idleness is one.
fn switches(pid: i32) -> f64 {
    each_task(pid, "status", |text| {
        let counts = text.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        Some(counts.filter_map(|(_, n)| n.trim().parse::<f64>().ok()).sum())
    })
}

/// The sum over the threads of what `value` finds in this file of each.
fn each_task(pid: i32, file: &str, value: impl Fn(&str) -> Option<f64>) -> f64 {
    let tasks = read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| value(&read_to_string(task.path().join(file)).ok()?)).sum()
}

fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied()
}

/// Three digits that count, and no more.
fn shortened(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
