//! What a link costs and how it behaves, beside other forwarders: `cargo bench --bench links`, or `make bench-links`.
//! All of them forward one port of 127.0.0.0/8 to the same service, a thread of this program, as its clients are. The
//! contestants take turns within a round; what is told are medians over the rounds. The figures go into
//! docs/benchmarks.md, between its two marks.
//!
//! ENSIGN_BIN names another binary to measure as ours, ENSIGN_BENCH_ROUNDS another number of rounds; with that,
//! docs/benchmarks.md is left alone. Peers that are not installed are left out.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "clippy.toml is for PID 1: a benchmark starts, waits for and prints what it likes"
)]

use std::fmt::Write as _;
use std::fs::{read_to_string, write};
use std::process::Command;
use std::time::Instant;

use load::{Better, Figure};
use peers::{Forwarder, Kind};
use plot::{Bar, Colour};
use upstream::Upstream;

#[path = "common/mod.rs"]
mod common;
#[path = "links/load.rs"]
mod load;
#[path = "links/peers.rs"]
mod peers;
#[path = "links/plot.rs"]
mod plot;
#[path = "links/upstream.rs"]
mod upstream;

const DEFAULT_ROUNDS: usize = 9;
const DOCUMENT: &str = "docs/benchmarks.md";
/// The rows that are pictures as well, and the files' names.
const PICTURES: [(&str, &str); 6] = [
    ("upload, 1 connection, GB/s", "upload"),
    ("upload, 1 connection, CPU-s/GB", "cost"),
    ("new connections/s, 16 clients", "connections"),
    ("requests/s, 64 connections", "requests"),
    ("ping-pong, 64 connections, p99, µs", "latency"),
    ("memory an idle connection, bytes", "memory"),
];

const MEASURES: [fn(&Forwarder, &Upstream) -> Vec<Figure>; 8] = [
    load::bulk_up,
    load::bulk_down,
    load::bulk_up_8,
    load::connections_1,
    load::connections_16,
    load::ping_pong,
    load::ping_pong_64,
    load::split,
];

/// The rows in the order of their first figure; in each the figures of every contestant.
struct Sheet {
    kinds: Vec<Kind>,
    rows: Vec<(&'static str, Better, Vec<Vec<f64>>)>,
}

impl Sheet {
    fn add(&mut self, contestant: usize, figures: Vec<Figure>) {
        for (label, better, value) in figures {
            let row = self.rows.iter().position(|row| row.0 == label).unwrap_or_else(|| {
                self.rows.push((label, better, vec![vec![]; self.kinds.len()]));
                self.rows.len() - 1
            });
            self.rows[row].2[contestant].push(value);
        }
    }

    /// A table; last in each row how often ours is as good as the best peer's.
    fn text(&self) -> String {
        let mut text = header("", self.kinds.iter().map(|kind| kind.name()).chain(["ensign / best peer"]));
        for (label, better, figures) in &self.rows {
            let medians: Vec<Option<f64>> = figures.iter().map(|values| median(values)).collect();
            let peers = self.kinds.iter().zip(&medians).filter(|(kind, _)| kind.is_peer());
            let best = peers.filter_map(|(_, median)| *median).reduce(match better {
                Better::More => f64::max,
                Better::Less => f64::min,
            });
            let ours = self.kinds.iter().position(|kind| *kind == Kind::Ensign).and_then(|at| medians[at]);
            let ratio = ours.zip(best).map(|(ours, best)| format!("{:.2}", ours / best));
            let cells = medians.iter().map(|median| median.map_or("–".to_owned(), shortened));
            line(
                &mut text,
                &format!("{label} ({})", better.text()),
                cells.chain([ratio.unwrap_or("–".to_owned())]),
            );
        }
        text
    }
}

impl Sheet {
    /// The pictures, by their files' names.
    fn pictures(&self) -> Vec<(&'static str, String)> {
        let drawn = PICTURES.iter().filter_map(|(label, file)| {
            let (_, better, figures) = self.rows.iter().find(|row| row.0 == *label)?;
            let bars: Vec<Bar<'_>> = self
                .kinds
                .iter()
                .zip(figures)
                .filter_map(|(kind, values)| {
                    let value = median(values)?;
                    let colour = match (kind.is_peer(), kind) {
                        (true, _) => Colour::Peer,
                        (false, Kind::Ensign) => Colour::Ours,
                        (false, _) => Colour::Direct,
                    };
                    Some(Bar { name: kind.name(), value, text: shortened(value), colour })
                })
                .collect();
            Some((*file, plot::bars(&format!("{label} ({})", better.text()), &bars)))
        });
        drawn.collect()
    }
}

fn header<'a>(corner: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut text = String::new();
    line(&mut text, corner, names.clone().map(str::to_owned));
    line(&mut text, "---", names.map(|_| "---".to_owned()));
    text
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    writeln!(text, "| {first} | {} |", cells.join(" | ")).expect("a string takes it");
}

fn main() {
    // Without it this is `cargo test --all-targets` or a runner that asks for a list of tests: there is none.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    common::raise_descriptors();
    let start = Instant::now();
    let asked: Option<usize> = std::env::var("ENSIGN_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok());
    let rounds = asked.unwrap_or(DEFAULT_ROUNDS);
    let upstream = Upstream::start();
    let kinds = Kind::installed();
    let mut sheet = Sheet { kinds: kinds.clone(), rows: vec![] };
    let load_before = read_to_string("/proc/loadavg").unwrap_or_default();
    {
        let forwarders: Vec<Forwarder> =
            kinds.iter().map(|kind| Forwarder::start(*kind, upstream.address)).collect();
        for round in 0..rounds {
            eprintln!("round {} of {rounds}, {:.0} s", round + 1, start.elapsed().as_secs_f64());
            for measure in MEASURES {
                for (at, forwarder) in forwarders.iter().enumerate() {
                    sheet.add(at, measure(forwarder, &upstream));
                }
            }
        }
    }
    let mut behaviours = vec![];
    for (at, kind) in kinds.iter().enumerate() {
        eprintln!("memory and behaviour of {}, {:.0} s", kind.name(), start.elapsed().as_secs_f64());
        sheet.add(at, load::memory(*kind, &upstream));
        behaviours.push(load::behaviour(*kind, &upstream));
    }
    let text = format!(
        "{}\n{}\n{}",
        circumstances(&kinds, rounds, &load_before),
        sheet.text(),
        behaviour(&kinds, &behaviours)
    );
    println!("{text}");
    if asked.is_none() {
        common::publish(DOCUMENT, &text);
        for (file, picture) in sheet.pictures() {
            write(format!("docs/benchmarks/{file}.svg"), picture).expect("writable");
        }
    }
}

fn circumstances(kinds: &[Kind], rounds: usize, load: &str) -> String {
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let date = Command::new("date").args(["-u", "+%F"]).output().map(|said| said.stdout).unwrap_or_default();
    let versions: Vec<String> = kinds
        .iter()
        .filter(|kind| **kind != Kind::Direct)
        .map(|kind| format!("{} {}", kind.name(), kind.version()))
        .collect();
    let idle: Vec<String> = kinds
        .iter()
        .filter(|kind| kind.idle() != Kind::Ensign.idle())
        .map(|kind| format!("{} {}", kind.name(), kind.idle()))
        .collect();
    format!(
        "{}, kernel {}, {cpus} processors, load before {}. {}. {rounds} rounds, medians. Idle connections: {}; {}.\n",
        String::from_utf8_lossy(&date).trim(),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?"),
        versions.join(", "),
        Kind::Ensign.idle(),
        idle.join(", "),
    )
}

fn behaviour(kinds: &[Kind], answers: &[Vec<(&'static str, String)>]) -> String {
    let mut text = header("", kinds.iter().map(|kind| kind.name()));
    for (at, (question, _)) in answers.first().into_iter().flatten().enumerate() {
        line(&mut text, question, answers.iter().map(|answers| answers[at].1.clone()));
    }
    text
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// Three digits that count, and no more.
fn shortened(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
