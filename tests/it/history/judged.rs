//! The checker itself, on short histories written by hand: one that is as it must be, and one for each way to be wrong.

use std::time::Duration;

use ensign::config::Conflict;

use super::stage::LIMITS;
use crate::support::history::checker::{Kind, check};
use crate::support::history::timeline::{Change, Deed, Life, Quorum, Timeline, When};

const fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Done at once.
fn when(ms: u64) -> When {
    When { from: at(ms), to: at(ms) }
}

fn life(name: &str, conflict: Conflict, deeds: &[(u64, Deed)]) -> Life {
    let deeds = deeds.iter().map(|(ms, deed)| (when(*ms), *deed)).collect();
    Life { name: name.to_owned(), value: name.to_owned(), conflict, deeds }
}

/// One that starts at once, and is fit but for what is done to it.
fn a(deeds: &[(u64, Deed)]) -> Life {
    life("a", Conflict::Take, &[&[(0, Deed::Started)], deeds].concat())
}

/// Up to 20 s. Each write has a lease of its own.
fn timeline(lives: Vec<Life>, quorum: &[(u64, Quorum)], changes: &[(u64, &str)]) -> Timeline {
    let change = |(lease, (ms, value)): (u64, &(u64, &str))| Change {
        at: at(*ms),
        revision: lease,
        value: Some((*value).to_owned()).filter(|value| !value.is_empty()),
        lease,
    };
    let changes = (1..).zip(changes).map(change).collect();
    let quorum = quorum.iter().map(|(ms, what)| (when(*ms), *what)).collect();
    Timeline { lives, quorum, changes, end: at(20_000), ..Timeline::default() }
}

fn judged(lives: Vec<Life>, quorum: &[(u64, Quorum)], changes: &[(u64, &str)]) -> Vec<Kind> {
    let timeline = timeline(lives, quorum, changes);
    let kinds: Vec<Kind> = check(&timeline, LIMITS).into_iter().map(|violation| violation.kind).collect();
    println!("{timeline}{kinds:?}");
    kinds
}

const GONE: &str = "";
const LOST: Quorum = Quorum::Lost;
const BACK: Quorum = Quorum::Back;

#[test]
fn what_is_as_it_must_be_is_no_violation() {
    let stops = [(10_000, Deed::Stopped)];
    assert_eq!(judged(vec![a(&stops)], &[], &[(200, "a"), (10_100, GONE)]), []);
    let crashes = [(5000, Deed::Crashed), (10_000, Deed::Stopped)];
    let changes = [(200, "a"), (5010, GONE), (5800, "a"), (10_100, GONE)];
    assert_eq!(judged(vec![a(&crashes)], &[], &changes), []);
    let sick = [(5000, Deed::Sick), (6000, Deed::Well), (10_000, Deed::Killed)];
    let changes = [(200, "a"), (5400, GONE), (6100, "a"), (15_100, GONE)];
    assert_eq!(judged(vec![a(&sick)], &[], &changes), []);
    // The second one waits for the first to go, the third takes its place.
    let b = life("b", Conflict::Wait, &[(1000, Deed::Started), (16_000, Deed::Stopped)]);
    let c = life("c", Conflict::Take, &[(12_000, Deed::Started)]);
    let changes = [(200, "a"), (10_010, GONE), (11_000, "b"), (12_200, "c")];
    assert_eq!(judged(vec![a(&stops), b, c], &[], &changes), []);
}

#[test]
fn a_record_that_outlives_its_service_is_stale() {
    let stale = |deeds: &[(u64, Deed)], quorum: &[(u64, Quorum)], gone: u64| {
        judged(vec![a(deeds)], quorum, &[(200, "a"), (gone, GONE)])
    };
    let stop = [(5000, Deed::Stopped)];
    assert_eq!(stale(&stop, &[], 6900), []);
    assert_eq!(stale(&stop, &[], 7100), [Kind::Stale]);
    let kill = [(5000, Deed::Killed)];
    assert_eq!(stale(&kill, &[], 11_900), []);
    assert_eq!(stale(&kill, &[], 12_100), [Kind::Stale]);
    let sick = [(5000, Deed::Sick)];
    assert_eq!(stale(&sick, &[], 7500), []);
    assert_eq!(stale(&sick, &[], 7700), [Kind::Stale]);
    // As soon as somebody answers, however long nobody did; with nobody left to ask, the TTL begins anew.
    let away = [(4000, LOST), (12_000, BACK)];
    assert_eq!(stale(&sick, &away, 14_900), []);
    assert_eq!(stale(&sick, &away, 15_100), [Kind::Stale]);
    assert_eq!(stale(&kill, &away, 18_900), []);
    assert_eq!(stale(&kill, &away, 19_100), [Kind::Stale]);
    // One that is frozen can do nothing about it.
    let frozen = [(5000, Deed::Frozen), (5100, Deed::Crashed)];
    assert_eq!(stale(&frozen, &[], 12_000), []);
    assert_eq!(stale(&frozen, &[], 12_200), [Kind::Stale]);
}

#[test]
fn a_record_that_is_not_there_is_missing() {
    assert_eq!(judged(vec![a(&[])], &[], &[]), [Kind::Missing, Kind::Missing], "for nobody, and for a");
    assert_eq!(judged(vec![a(&[])], &[], &[(4400, "a")]), []);
    assert_eq!(judged(vec![a(&[])], &[], &[(4600, "a")]), [Kind::Missing, Kind::Missing]);
    // Somebody else's went, and a has waited for that.
    let waits = |ms| {
        let other = life("b", Conflict::Take, &[(0, Deed::Started), (8000, Deed::Killed)]);
        let a = life("a", Conflict::Wait, &[(1000, Deed::Started)]);
        judged(vec![other, a], &[], &[(200, "b"), (13_000, GONE), (ms, "a")])
    };
    assert_eq!(waits(17_500), []);
    assert_eq!(waits(17_800), [Kind::Missing]);
    // Not while nobody could be told.
    let away = [(1000, LOST), (15_000, BACK)];
    assert_eq!(judged(vec![a(&[])], &away, &[(17_900, "a")]), []);
    assert_eq!(judged(vec![a(&[])], &away, &[(18_100, "a")]), [Kind::Missing, Kind::Missing]);
    let sick = [(5000, Deed::Sick), (6000, Deed::Well)];
    assert_eq!(judged(vec![a(&sick)], &[], &[(200, "a"), (5400, GONE)]), [Kind::Missing]);
}

#[test]
fn a_later_one_that_does_not_take_the_key_over_is_missing() {
    let b = || life("b", Conflict::Take, &[(5000, Deed::Started)]);
    assert_eq!(judged(vec![a(&[]), b()], &[], &[(200, "a"), (5200, "b")]), []);
    assert_eq!(judged(vec![a(&[]), b()], &[], &[(200, "a")]), [Kind::Missing]);
}

#[test]
fn a_record_that_goes_for_no_reason_was_robbed() {
    let changes = [(200, "a"), (10_000, GONE), (10_500, "a")];
    assert_eq!(judged(vec![a(&[])], &[], &changes), [Kind::Robbed]);
    // The old one takes its successor's with it.
    let b = life("b", Conflict::Take, &[(5000, Deed::Started)]);
    let changes = [(200, "a"), (5200, "b"), (9000, GONE), (9500, "b")];
    assert_eq!(judged(vec![a(&[(9000, Deed::Stopped)]), b], &[], &changes), [Kind::Robbed]);
    // etcd had lost its time, and it may have run out.
    let away = [(3000, LOST), (9000, BACK)];
    assert_eq!(judged(vec![a(&[])], &away, &[(200, "a"), (10_000, GONE), (10_500, "a")]), []);
}

#[test]
fn a_key_is_taken_over_once_and_by_no_one_who_waits() {
    let b = |conflict| life("b", conflict, &[(3000, Deed::Started)]);
    let changes = [(200, "a"), (3500, "b"), (6000, "a"), (8000, "b")];
    assert_eq!(judged(vec![a(&[]), b(Conflict::Take)], &[], &changes), [Kind::Taken, Kind::Taken]);
    assert_eq!(judged(vec![a(&[]), b(Conflict::Wait)], &[], &changes[..2]), [Kind::Taken]);
    // The answer to its first announcement was lost.
    let changes = [(1100, "a"), (3500, "b"), (6000, "a")];
    assert_eq!(judged(vec![a(&[]), b(Conflict::Take)], &[(500, LOST), (1000, BACK)], &changes), []);
    // It has waited, and takes nobody's place.
    let changes = [(200, "a"), (6000, GONE), (7500, "b")];
    assert_eq!(judged(vec![a(&[(6000, Deed::Stopped)]), b(Conflict::Wait)], &[], &changes), []);
}

#[test]
fn one_that_was_never_fit_is_not_announced() {
    let never = life("a", Conflict::Take, &[(0, Deed::Sick), (1000, Deed::Started)]);
    assert_eq!(judged(vec![never], &[], &[(1200, "a"), (1300, GONE)]), [Kind::Unfit]);
    let killed = a(&[(3000, Deed::Killed)]);
    assert_eq!(judged(vec![killed], &[], &[(6000, "a"), (6100, GONE)]), [Kind::Unfit]);
    // A member that was frozen wrote it late; what lasts is judged by itself.
    let late = a(&[(3000, Deed::Killed)]);
    assert_eq!(judged(vec![late], &[(1000, LOST), (6000, BACK)], &[(5900, "a"), (6100, GONE)]), []);
}

#[test]
fn a_crash_loop_is_not_announced() {
    let looping = || a(&[(3000, Deed::LoopOn), (15_000, Deed::LoopOff)]);
    let fit_again = [(200, "a"), (3010, GONE), (16_000, "a")];
    assert_eq!(judged(vec![looping()], &[], &fit_again), []);
    let announced = [(200, "a"), (3010, GONE), (6000, "a"), (6500, GONE), (16_000, "a")];
    assert_eq!(judged(vec![looping()], &[], &announced), [Kind::CrashLoop]);
    // Or still, which is as bad.
    let found = judged(vec![looping()], &[], &[(200, "a"), (9000, GONE), (16_000, "a")]);
    assert_eq!(found, [Kind::CrashLoop]);
}

#[test]
fn a_value_that_nobody_has_and_a_record_without_a_lease_are_told() {
    assert_eq!(judged(vec![], &[], &[(200, "x"), (300, GONE)]), [Kind::Unknown]);
    let change = Change { at: at(200), revision: 1, value: Some("a".to_owned()), lease: 0 };
    let timeline =
        Timeline { lives: vec![a(&[])], changes: vec![change], end: at(1000), ..Timeline::default() };
    let kinds: Vec<Kind> = check(&timeline, LIMITS).into_iter().map(|violation| violation.kind).collect();
    assert_eq!(kinds, [Kind::ForEver]);
}

/// As v2 does it: the one goes, and the other comes.
#[test]
fn a_takeover_by_way_of_an_end_is_one_all_the_same() {
    let judged = |conflict, gap: u64, changes: &[(u64, &str)]| {
        let b = life("b", conflict, &[(3000, Deed::Started)]);
        let changes = [&[(200, "a"), (3500, GONE), (3500 + gap, "b")], changes].concat();
        let timeline = Timeline { takeover: Some(at(500)), ..timeline(vec![a(&[]), b], &[], &changes) };
        check(&timeline, LIMITS).into_iter().map(|violation| violation.kind).collect::<Vec<_>>()
    };
    assert_eq!(judged(Conflict::Take, 10, &[]), []);
    assert_eq!(judged(Conflict::Wait, 10, &[]), [Kind::Taken]);
    assert_eq!(judged(Conflict::Take, 600, &[]), [Kind::Robbed]);
    let back_again = [(7000, GONE), (7010, "a")];
    assert_eq!(judged(Conflict::Take, 10, &back_again), [Kind::Taken]);
}
