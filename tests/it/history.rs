//! Two instances with one name, one etcd, and a schedule of misfortunes drawn from a seed: whatever comes of it, etcd's
//! own history must show no record that should not have been there, and none missing that should.
//!
//! `ENSIGN_SCHEDULES=200` plays so many (`make nightly`), `ENSIGN_SEED=7` that one alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ensign::config::Conflict;

use crate::support::history::checker::{self, Kind};
use crate::support::service::KEY;
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::Api;

mod judged;
mod schedule;
mod stage;

use schedule::{Act, Health, Who};
use stage::{LIMITS, Stage};

/// So many are played where nobody says otherwise, and so many at a time: most of it is waiting.
const SCHEDULES: u64 = 10;
const AT_A_TIME: usize = 10;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

/// What was wrong with this schedule, for a person to read.
fn play(seed: u64) -> Result<(), String> {
    let schedule = schedule::schedule(seed);
    let mut stage = Stage::new();
    stage.play(&schedule);
    let (timeline, logs) = stage.end();
    let violations = checker::check(&timeline, LIMITS);
    if violations.is_empty() && number("ENSIGN_SEED").is_none() {
        return Ok(());
    }
    let mut told = format!("\n===== schedule {seed}\n{timeline}\n");
    for (name, log) in logs {
        told += &format!("{name} says\n{log}\n");
    }
    for violation in &violations {
        told += &format!("VIOLATION {violation}\n");
    }
    if violations.is_empty() {
        println!("{told}");
        return Ok(());
    }
    Err(told
        + &format!("this one alone: ENSIGN_SEED={seed} cargo nextest run --no-capture history::schedules\n"))
}

/// As a loop of curl would: on and on, whatever becomes of the service.
#[test]
fn a_liar_that_announces_a_crash_loop_is_found_out() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut stage = Stage::new();
    stage.act(Act::Start(Who::A, Conflict::Take, Health::Well));
    let value = stage.value(Who::A).to_owned();
    wait::until_true("the record", || {
        Api::V3.read(stage.etcd(), KEY).is_some_and(|held| held.value == value)
    });
    stage.act(Act::LoopOn(Who::A));
    for _ in 0..12 {
        Api::V3.write(stage.etcd(), KEY, &value);
        wait::be_late(Duration::from_millis(300));
    }
    let (timeline, _) = stage.end();
    let found: Vec<Kind> = checker::check(&timeline, LIMITS).iter().map(|violation| violation.kind).collect();
    assert!(found.contains(&Kind::CrashLoop) && found.contains(&Kind::ForEver), "{timeline}{found:?}");
}

#[test]
fn schedules_of_misfortunes_leave_no_record_wrong() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let seeds = match number("ENSIGN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ENSIGN_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let (next, wrong) = (AtomicU64::new(seeds.start), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = catch_unwind(AssertUnwindSafe(|| play(seed)));
                    let played =
                        played.unwrap_or_else(|_| Err(format!("schedule {seed} could not be played\n")));
                    if let Err(why) = played {
                        eprintln!("{why}");
                        wrong.lock().expect("nobody panics with it").push(seed);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics with it");
    assert!(wrong.is_empty(), "schedules {wrong:?} of {seeds:?}: see above");
}
