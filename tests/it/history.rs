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
use crate::support::namespace;
use crate::support::service::KEY;
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::Api;

mod etcds;
mod judged;
mod schedule;
mod stage;

use schedule::{Act, Health, Size, Who};
use stage::{LIMITS, Stage, limits};

/// How many are played where nobody says otherwise, and at a time: most of it is waiting.
const WITH_ONE: Plan = Plan { schedules: 10, at_a_time: 10 };
const WITH_THREE: Plan = Plan { schedules: 5, at_a_time: 5 };

struct Plan {
    schedules: u64,
    at_a_time: usize,
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

/// What was wrong with this schedule, for a person to read.
fn play(seed: u64, api: Api, size: Size) -> Result<(), String> {
    let schedule = schedule::schedule(seed, size);
    let mut stage = Stage::new(api, size);
    stage.play(&schedule);
    let (timeline, logs) = stage.end();
    let violations = checker::check(&timeline, limits(size));
    let mut told = format!("\n===== schedule {seed}, {api:?}, size {size:?}\n{timeline}\n");
    for (name, log) in logs {
        told += &format!("{name} says\n{log}\n");
    }
    for violation in &violations {
        told += &format!("VIOLATION {violation}\n");
    }
    if violations.is_empty() {
        if number("ENSIGN_SEED").is_some() {
            println!("{told}");
        }
        return Ok(());
    }
    Err(told)
}

/// Plays as many as are wanted. `test` is how to find it again.
fn play_all(test: &str, plan: &Plan, play: impl Fn(u64) -> Result<(), String> + Sync) {
    let seeds = match number("ENSIGN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ENSIGN_SCHEDULES").unwrap_or(plan.schedules),
    };
    let (next, wrong) = (AtomicU64::new(seeds.start), Mutex::new(vec![]));
    let one_after_the_other = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let played = catch_unwind(AssertUnwindSafe(|| play(seed)));
            if let Err(why) = played.unwrap_or_else(|_| Err(format!("schedule {seed} could not be played\n")))
            {
                eprintln!("{why}\nalone: ENSIGN_SEED={seed} cargo nextest run --no-capture {test}");
                wrong.lock().expect("nobody panics with it").push(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.at_a_time {
            scope.spawn(one_after_the_other);
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics with it");
    assert!(wrong.is_empty(), "schedules {wrong:?} of {seeds:?}: see above");
}

#[test]
fn schedules_with_one_etcd_leave_no_record_wrong() {
    if !skip::without(Need::Namespaces) {
        play_all("schedules_with_one_etcd_leave", &WITH_ONE, |seed| play(seed, Api::V3, Size::One));
    }
}

#[test]
fn schedules_with_one_etcd_v2_leave_no_record_wrong() {
    if !skip::without(Need::Namespaces) {
        play_all("schedules_with_one_etcd_v2", &WITH_ONE, |seed| play(seed, Api::V2, Size::One));
    }
}

/// Each with a network of its own, in a process of its own.
#[test]
fn schedules_with_three_etcds_leave_no_record_wrong() {
    if namespace::is_inside() {
        let seed = number("ENSIGN_SEED").expect("the one that began this said so");
        return play(seed, Api::V3, Size::Three).unwrap_or_else(|why| panic!("{why}"));
    }
    if skip::without(Need::Namespaces) {
        return;
    }
    play_all("schedules_with_three", &WITH_THREE, |seed| {
        let seed = [("ENSIGN_SEED", seed.to_string())];
        let ended = namespace::run_inside(schedules_with_three_etcds_leave_no_record_wrong, &seed);
        if number("ENSIGN_SEED").is_some() {
            println!("{}", ended.stdout);
        }
        if ended.code == 0 { Ok(()) } else { Err(ended.stdout + &ended.stderr) }
    });
}

/// As a loop of curl would: on and on, whatever becomes of the service.
#[test]
fn a_liar_that_announces_a_crash_loop_is_found_out() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut stage = Stage::new(Api::V3, Size::One);
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
