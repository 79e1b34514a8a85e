//! The supervisor in a simulated world: scenarios with literal times, and properties over a great many event orders.

use std::ops::Range;
use std::time::Duration;

use ensign::config::{
    Config, Conflict, Kind, ReadyBy, RestartWhen, Service, ServiceId, Signal, Unhealthy, WITHDRAW_LIMIT,
};
use ensign::machine::action::Action;
use ensign::machine::event::{Answer, Ending, Event, SpawnFailure, Verdict};
use ensign::machine::service::State;
use ensign::machine::stop;
use ensign::machine::time::Time;
use proptest::prelude::*;

use crate::support::plan::{self, SECOND, announce, awaited, check, config, daemon};
use crate::support::world::{KillEffect, World};

const MAIN: ServiceId = ServiceId(0);
const TERM: i32 = 15;
const HELD: Answer = Answer::Held { ttl: Duration::from_secs(60) };

fn started(config: Config) -> World {
    let mut world = World::new(config, 7);
    world.feed(Event::Started);
    world
}

fn announced() -> Config {
    let mut service = daemon("web");
    service.announce = vec![announce("web.example.com")];
    service.stop.drain = 2 * SECOND;
    config(vec![service])
}

fn registers(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Register { .. }))
}

fn withdraws(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Withdraw { .. }))
}

fn signalled(actions: &[Action]) -> Vec<i32> {
    let signal = |action: &Action| match action {
        Action::Signal { signal, .. } => Some(signal.0),
        _ => None,
    };
    actions.iter().filter_map(signal).collect()
}

#[test]
fn main_ends_the_container_with_its_code() {
    let mut world = started(config(vec![daemon("web")]));
    world.end(MAIN, Ending::Code(0));
    assert_eq!(world.exited, Some(0));
}

#[test]
fn a_wrapped_command_is_not_restarted_and_gets_all_the_time_it_wants() {
    let mut service = daemon("app");
    service.restart.when = RestartWhen::Never;
    service.stop.timeout = None;
    let mut world = started(config(vec![service]));
    assert_eq!(signalled(&world.signal(TERM)), [TERM]);
    assert!(world.advance(100_000 * SECOND).is_empty());
    assert_eq!(signalled(&world.signal(TERM)), [TERM], "a second TERM is passed on as well");
    world.end(MAIN, Ending::Killed(Signal(TERM)));
    assert_eq!(world.exited, Some(143));
}

#[test]
fn a_term_before_anything_has_started_is_not_lost() {
    let mut world = World::new(config(vec![daemon("web")]), 1);
    world.signal(TERM);
    world.feed(Event::Started);
    assert_eq!(world.exited, Some(143));
}

#[test]
fn a_crash_is_restarted_within_its_delay() {
    let mut world = started(config(vec![daemon("web")]));
    world.end(MAIN, Ending::Code(1));
    assert!(matches!(world.state(0), State::Backoff { .. }));
    world.advance(SECOND / 10);
    assert!(matches!(world.state(0), State::Up { .. }));
}

#[test]
fn twenty_crashes_give_up_with_mains_code() {
    let mut world = started(config(vec![daemon("web")]));
    for _ in 0..20 {
        assert_eq!(world.exited, None);
        world.end(MAIN, Ending::Code(42));
        world.advance(SECOND * 30 - SECOND / 10);
    }
    assert_eq!(world.exited, Some(42));
}

#[test]
fn a_command_that_is_not_there_ends_the_container_with_127() {
    let mut world = World::new(config(vec![daemon("web")]), 1);
    world.spawn_fails = Some(SpawnFailure::NotFound);
    world.feed(Event::Started);
    assert_eq!(world.exited, Some(127));
}

#[test]
fn mains_death_withdraws_before_the_restart() {
    let mut world = started(announced());
    world.answer(HELD);
    let actions = world.end(MAIN, Ending::Killed(Signal(9)));
    assert!(withdraws(&actions));
}

#[test]
fn a_crash_loop_is_never_announced_again() {
    let mut world = started(announced());
    world.answer(HELD);
    for _ in 0..19 {
        world.end(MAIN, Ending::Code(1));
        world.answer(Answer::Withdrawn);
        // Until it runs again, and then for not quite as long as it must to be trusted.
        while !matches!(world.state(0), State::Up { .. }) {
            let next = world.supervisor.next_deadline().expect("a restart is due");
            assert!(!registers(&world.advance(next.since(world.now))));
        }
        assert!(!registers(&world.advance(SECOND - Duration::from_millis(1))));
    }
    world.end(MAIN, Ending::Code(1));
    world.answer(Answer::Withdrawn);
    assert_eq!(world.exited, Some(1), "given up");
}

#[test]
fn after_one_crash_it_is_announced_once_it_has_settled() {
    let mut world = started(announced());
    world.answer(HELD);
    world.end(MAIN, Ending::Code(1));
    world.answer(Answer::Withdrawn);
    let next = world.supervisor.next_deadline().expect("a restart is due");
    world.advance(next.since(world.now));
    assert!(!registers(&world.advance(SECOND - Duration::from_millis(1))));
    assert!(registers(&world.advance(Duration::from_millis(1))));
}

#[test]
fn a_stop_withdraws_then_drains_then_signals_then_kills() {
    let mut world = started(announced());
    world.answer(HELD);
    let actions = world.signal(TERM);
    assert!(withdraws(&actions) && signalled(&actions).is_empty());
    world.answer(Answer::Withdrawn);
    assert!(signalled(&world.advance(2 * SECOND - Duration::from_millis(1))).is_empty());
    assert_eq!(signalled(&world.advance(Duration::from_millis(1))), [TERM]);
    assert!(world.advance(5 * SECOND - Duration::from_millis(1)).is_empty());
    assert_eq!(signalled(&world.advance(Duration::from_millis(1))), [9]);
    assert_eq!(world.exited, Some(137));
}

#[test]
fn nothing_announced_is_not_drained() {
    let mut world = started(announced());
    world.answer(Answer::Failed);
    world.end(MAIN, Ending::Code(1));
    world.answer(Answer::Withdrawn);
    world.advance(SECOND / 10);
    assert_eq!(signalled(&world.signal(TERM)), [TERM], "it was not announced at that moment");
}

#[test]
fn a_second_term_cuts_the_drain_short() {
    let mut world = started(announced());
    world.answer(HELD);
    world.signal(TERM);
    assert_eq!(signalled(&world.signal(TERM)), [TERM]);
}

#[test]
fn a_dead_registry_holds_up_neither_the_stop_nor_the_exit() {
    let mut world = started(announced());
    world.answer(HELD);
    world.signal(TERM);
    assert_eq!(signalled(&world.advance(2 * SECOND)), [TERM]);
    world.end(MAIN, Ending::Code(0));
    assert_eq!(world.exited, None, "a last moment for the registry to answer");
    world.advance(WITHDRAW_LIMIT);
    assert_eq!(world.exited, Some(0));
}

#[test]
fn leftovers_are_swept_and_the_last_one_out_ends_it() {
    let mut world = started(config(vec![daemon("web")]));
    world.orphans = 1;
    let actions = world.end(MAIN, Ending::Code(0));
    assert!(actions.contains(&Action::Sweep(Signal(TERM))));
    assert_eq!(world.exited, None);
    world.end_orphans();
    assert_eq!(world.exited, Some(0));
}

#[test]
fn an_int_or_quit_stops_main_with_itself() {
    for number in [2, 3] {
        let mut world = started(config(vec![daemon("web")]));
        assert_eq!(
            signalled(&world.signal(number)),
            [number],
            "an image's STOPSIGNAL was chosen for its main"
        );
    }
}

#[test]
fn any_other_signal_is_mains() {
    for number in (1..=64).filter(|number| ![2, 3, 9, 15, 17, 19].contains(number)) {
        let mut world = started(config(vec![daemon("web")]));
        assert_eq!(signalled(&world.signal(number)), [number]);
    }
}

#[test]
fn an_unhealthy_check_withdraws_and_a_healthy_one_brings_it_back() {
    let mut service = announced().services.remove(0);
    service.checks = vec![check(Unhealthy::Withdraw)];
    let mut world = started(config(vec![service]));
    assert!(world.requests.is_empty(), "not announced before the first pass");
    assert!(registers(&world.probed(Verdict::Pass)));
    world.answer(HELD);
    world.advance(2 * SECOND);
    assert!(!withdraws(&world.probed(Verdict::Fail)), "one failure is not `fall`");
    world.advance(2 * SECOND);
    assert!(withdraws(&world.probed(Verdict::Fail)));
    world.answer(Answer::Withdrawn);
    world.advance(2 * SECOND);
    assert!(registers(&world.probed(Verdict::Pass)));
}

#[test]
fn an_unhealthy_check_that_says_so_restarts_the_service() {
    let mut service = daemon("web");
    service.checks = vec![check(Unhealthy::Restart)];
    let mut world = started(config(vec![service]));
    world.probed(Verdict::Pass);
    world.advance(2 * SECOND);
    world.probed(Verdict::Fail);
    world.advance(2 * SECOND);
    assert_eq!(signalled(&world.probed(Verdict::Fail)), [TERM]);
    world.end(MAIN, Ending::Code(0));
    assert!(matches!(world.state(0), State::Backoff { .. }), "a crash, whatever it ended with");
}

#[test]
fn a_probe_without_an_answer_is_cancelled_and_counts_as_a_failure() {
    let mut service = daemon("web");
    service.checks = vec![check(Unhealthy::Restart)];
    service.checks[0].fall = 1;
    let mut world = started(config(vec![service]));
    let actions = world.advance(SECOND);
    assert!(actions.iter().any(|action| matches!(action, Action::CancelProbe { .. })));
    assert_eq!(signalled(&actions), [TERM]);
}

#[test]
fn readiness_by_checks_holds_those_that_are_after_it() {
    let (mut db, mut web) = (daemon("db"), daemon("web"));
    db.ready.by = ReadyBy::Checks;
    db.checks = vec![check(Unhealthy::Withdraw)];
    web.after = vec![ServiceId(1)];
    let mut world = started(config(vec![web, db]));
    assert_eq!(*world.state(0), State::Waiting);
    world.probed(Verdict::Pass);
    assert!(matches!(world.state(0), State::Up { .. }));
}

#[test]
fn a_oneshot_runs_to_its_end_before_main() {
    let (mut migrate, mut web) = (daemon("migrate"), daemon("web"));
    migrate.kind = Kind::Oneshot;
    web.after = vec![ServiceId(1)];
    let mut world = started(config(vec![web, migrate]));
    assert_eq!(*world.state(0), State::Waiting);
    world.end(ServiceId(1), Ending::Code(0));
    assert!(matches!(world.state(0), State::Up { .. }));
}

#[test]
fn a_oneshot_that_fails_for_good_ends_the_container_with_its_code() {
    let (mut migrate, mut web) = (daemon("migrate"), daemon("web"));
    migrate.kind = Kind::Oneshot;
    migrate.restart.when = RestartWhen::Never;
    web.after = vec![ServiceId(1)];
    let mut world = started(config(vec![web, migrate]));
    world.end(ServiceId(1), Ending::Code(9));
    assert_eq!(world.exited, Some(9));
}

#[test]
fn services_stop_in_the_reverse_of_their_order() {
    let (mut proxy, web) = (daemon("proxy"), daemon("web"));
    proxy.after = vec![MAIN];
    let mut world = started(config(vec![web, proxy]));
    let actions = world.signal(TERM);
    let to: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Signal { service, .. } => Some(*service),
            _ => None,
        })
        .collect();
    assert_eq!(to, [ServiceId(1)], "the proxy first");
    assert_eq!(signalled(&world.end(ServiceId(1), Ending::Code(0))), [TERM]);
    world.end(MAIN, Ending::Code(0));
    assert_eq!(world.exited, Some(0));
}

#[test]
fn main_is_asked_to_go_while_there_is_time_although_a_service_after_it_does_not_go() {
    let (mut stubborn, web) = (daemon("stubborn"), daemon("web"));
    stubborn.after = vec![MAIN];
    let mut world = started(config(vec![web, stubborn]));
    world.signal(TERM);
    assert!(world.advance(SECOND * 5 / 2 - Duration::from_millis(1)).is_empty());
    assert_eq!(
        signalled(&world.advance(Duration::from_millis(1))),
        [TERM],
        "half of main's own timeout is left"
    );
    world.end(MAIN, Ending::Code(0));
    assert_eq!(world.exited, None, "the stubborn one is swept");
    world.advance(2 * SECOND);
    assert_eq!(world.exited, Some(0));
}

#[test]
fn a_registry_that_forgot_us_is_told_again_at_once() {
    let mut world = started(announced());
    world.answer(HELD);
    world.advance(20 * SECOND);
    assert!(registers(&world.answer(Answer::Lost)));
}

fn conflicts(actions: &[Action]) -> Vec<Conflict> {
    let conflict = |action: &Action| match action {
        Action::Register { conflict, .. } => Some(*conflict),
        _ => None,
    };
    actions.iter().filter_map(conflict).collect()
}

/// Two containers that crash in turn would take the key from each other for ever.
#[test]
fn only_the_first_announcement_of_a_container_displaces_another() {
    let mut world = World::new(announced(), 7);
    assert_eq!(conflicts(&world.feed(Event::Started)), [Conflict::Take]);
    world.answer(Answer::Failed);
    assert_eq!(conflicts(&world.advance(SECOND)), [Conflict::Take], "it has never been announced");
    world.answer(HELD);
    for _ in 0..3 {
        world.end(MAIN, Ending::Code(1));
        world.answer(Answer::Withdrawn);
        assert_eq!(conflicts(&world.advance(3 * SECOND)), [Conflict::Wait]);
        world.answer(Answer::Taken);
    }
}

#[test]
fn whose_record_stands_there_is_told_once() {
    let mut world = started(announced());
    assert_eq!(
        told(&world.answer(Answer::Taken)),
        ["another instance is announced under our key; waiting for it to go"]
    );
    for _ in 0..10 {
        world.advance(20 * SECOND);
        assert!(told(&world.answer(Answer::Taken)).is_empty());
        world.advance(20 * SECOND);
        assert!(told(&world.answer(Answer::Lost)).is_empty());
        assert!(told(&world.answer(Answer::Taken)).is_empty());
    }
    world.advance(20 * SECOND);
    world.answer(Answer::Lost);
    assert_eq!(told(&world.answer(HELD)), ["announced"]);
    world.advance(20 * SECOND);
    let taken = ["another instance has taken over our key; its record is left alone"];
    assert_eq!(told(&world.answer(Answer::Taken)), taken);
}

#[test]
fn a_record_without_an_address_is_withdrawn_until_there_is_one() {
    let mut world = started(announced());
    world.answer(HELD);
    world.advance(20 * SECOND);
    let actions = world.answer(Answer::NoAddress);
    assert!(withdraws(&actions));
    assert_eq!(told(&actions), ["not announced as long as there is no address for it"]);
    // The registry is out of reach as well: the record is withdrawn before anything else is tried.
    world.answer(Answer::Failed);
    assert!(withdraws(&world.advance(SECOND)));
    assert!(registers(&world.answer(Answer::Withdrawn)));
    for _ in 0..100 {
        assert!(told(&world.answer(Answer::NoAddress)).is_empty(), "told once");
        assert!(registers(&world.advance(SECOND)));
    }
    assert_eq!(told(&world.answer(HELD)), ["announced"]);
    world.advance(20 * SECOND);
    let moved = Answer::Moved { ttl: 60 * SECOND };
    assert_eq!(told(&world.answer(moved)), ["announced at another address"]);
}

/// However far apart they started: after one heartbeat of each, there is one wake-up for all.
#[test]
fn heartbeats_of_services_find_each_other_and_stay_together() {
    for apart in [0, 1, 4, 9, 10, 11, 15, 19] {
        let (mut web, mut side) = (daemon("web"), daemon("side"));
        web.announce = vec![announce("web.example.com")];
        side.announce = vec![announce("side.example.com")];
        side.after = vec![MAIN];
        side.links = vec![awaited("db", 60 * SECOND)];
        let mut world = started(config(vec![web, side]));
        world.answer(HELD);
        world.advance(Duration::from_secs(apart));
        world.answer(HELD);
        world.tried(Verdict::Pass);
        world.answer(HELD);
        let mut beats = Vec::new();
        while world.now < Time::after_start(600 * SECOND) {
            let next = world.supervisor.next_deadline().expect("a heartbeat is due");
            let renewed = renewals(&world.advance(next.since(world.now)));
            beats.push(renewed.len());
            for _ in renewed {
                // Answers take their time, and not the same.
                world.advance(Duration::from_millis(3));
                world.answer(HELD);
            }
        }
        let (first, rest) = beats.split_at(3);
        assert!(rest.iter().all(|beat| *beat == 2), "{apart} s apart: {first:?} {rest:?}");
        assert!((28..=36).contains(&beats.len()), "{apart} s apart: {} wake-ups", beats.len());
    }
}

/// What was started together, or kept waiting by one outage, does not beat in the same seconds from then on.
#[test]
fn a_fleets_heartbeats_are_spread_over_most_of_their_pause() {
    let pause = |world: &World| {
        let at = world.supervisor.next_deadline().expect("a heartbeat is due");
        at.since(world.now).as_millis()
    };
    let (mut first, mut second, mut returned) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..200 {
        let mut world = World::new(announced(), seed);
        world.feed(Event::Started);
        world.answer(HELD);
        first.push(pause(&world));
        world.advance(20 * SECOND);
        world.answer(HELD);
        second.push(pause(&world));
        world.advance(20 * SECOND);
        world.answer(Answer::Failed);
        world.advance(SECOND);
        world.answer(HELD);
        returned.push(pause(&world));
    }
    for wide in [first, returned] {
        let within = |range: Range<u128>| wide.iter().filter(|pause| range.contains(pause)).count();
        let parts = [6000..9500, 9500..13_000, 13_000..16_500, 16_500..20_001].map(within);
        assert!(parts.iter().all(|share| (30..70).contains(share)), "{parts:?}");
        assert_eq!(parts.iter().sum::<usize>(), wide.len());
    }
    assert!(second.iter().all(|pause| (18_000..=20_000).contains(pause)), "{second:?}");
}

/// It may have died, and be back with nothing in it.
#[test]
fn a_registry_that_hangs_up_is_asked_soon() {
    let mut world = started(announced());
    world.answer(HELD);
    let mut pauses = Vec::new();
    for _ in 0..100 {
        world.feed(Event::RegistryHungUp);
        let next = world.supervisor.next_deadline().expect("a heartbeat is due").since(world.now);
        assert!(next <= SECOND / 2, "{next:?}");
        pauses.push(next);
        // Hung up once more before that: neither sooner nor later.
        world.feed(Event::RegistryHungUp);
        assert_eq!(world.supervisor.next_deadline(), Some(world.now + next));
        assert_eq!(renewals(&world.advance(next)).len(), 1);
        // It was right to ask, so it may be again, at once.
        assert!(registers(&world.answer(Answer::Lost)));
        world.answer(HELD);
    }
    let spread = pauses.iter().max().expect("some").saturating_sub(*pauses.iter().min().expect("some"));
    assert!(spread > SECOND / 3, "a fleet spreads out: {spread:?}");
    // Whatever is due sooner stays so.
    world.advance(20 * SECOND);
    world.answer(HELD);
    world.advance(Duration::from_millis(17_999));
    let due = world.supervisor.next_deadline().expect("a heartbeat is due");
    for _ in 0..50 {
        world.feed(Event::RegistryHungUp);
        assert!(world.supervisor.next_deadline().expect("still") <= due);
    }
}

/// As where something between closes what is idle, as soon as it is.
#[test]
fn one_that_hangs_up_all_the_time_is_asked_ten_times_a_ttl() {
    let mut world = started(announced());
    world.answer(HELD);
    let (mut asked, begun) = (Vec::new(), world.now);
    while world.now.since(begun) < 600 * SECOND {
        world.feed(Event::RegistryHungUp);
        let next = world.supervisor.next_deadline().expect("a heartbeat is due");
        for _ in renewals(&world.advance(next.since(world.now))) {
            asked.push(world.now);
            world.answer(HELD);
        }
    }
    assert!((95..=101).contains(&asked.len()), "{}", asked.len());
    for pair in asked.windows(2) {
        assert!(pair[1].since(pair[0]) >= 6 * SECOND, "{pair:?}");
    }
}

/// Nor is anything asked for what is not announced.
#[test]
fn a_registry_that_hangs_up_on_nobody_wakes_nobody() {
    let mut world = started(config(vec![daemon("web")]));
    assert!(world.feed(Event::RegistryHungUp).is_empty());
    assert_eq!(world.supervisor.next_deadline(), None);
    let mut world = started(announced());
    world.answer(HELD);
    world.end(MAIN, Ending::Code(1));
    world.answer(Answer::Withdrawn);
    let due = world.supervisor.next_deadline();
    assert!(world.feed(Event::RegistryHungUp).is_empty());
    assert_eq!(world.supervisor.next_deadline(), due);
}

/// All of a container's in one wake-up, as ever.
#[test]
fn heartbeats_that_come_early_come_together() {
    let (mut web, mut side) = (daemon("web"), daemon("side"));
    web.announce = vec![announce("web.example.com")];
    side.announce = vec![announce("side.example.com")];
    let mut world = started(config(vec![web, side]));
    world.answer(HELD);
    world.answer(HELD);
    world.feed(Event::RegistryHungUp);
    let next = world.supervisor.next_deadline().expect("a heartbeat is due");
    assert_eq!(renewals(&world.advance(next.since(world.now))).len(), 2);
}

fn renewals(actions: &[Action]) -> Vec<ServiceId> {
    let renewed = |action: &Action| match action {
        Action::Renew { service, .. } => Some(*service),
        _ => None,
    };
    actions.iter().filter_map(renewed).collect()
}

/// What got lost may have been displaced.
#[test]
fn what_got_lost_displaces_nobody_when_it_comes_back() {
    let mut world = World::new(announced(), 7);
    assert_eq!(
        conflicts(&world.feed(Event::Started)),
        [Conflict::Take],
        "a redeploy displaces what was before"
    );
    world.answer(HELD);
    world.advance(20 * SECOND);
    assert_eq!(conflicts(&world.answer(Answer::Lost)), [Conflict::Wait]);
    world.answer(Answer::Taken);
    let beats = world.advance(100 * SECOND);
    assert!(!registers(&beats), "it goes on looking, quietly");
    assert_eq!(conflicts(&world.answer(Answer::Lost)), [Conflict::Wait], "theirs has gone");
}

#[test]
fn an_unreachable_registry_is_tried_again_within_a_second_for_ever() {
    let mut world = started(announced());
    for _ in 0..1000 {
        world.answer(Answer::Failed);
        assert!(registers(&world.advance(SECOND)), "and the service never notices");
    }
    assert!(world.alive.contains_key(&MAIN));
}

#[test]
fn an_outage_is_told_of_less_and_less_often() {
    let mut world = started(announced());
    let mut lines = told(&world.answer(Answer::Failed));
    for _ in 0..3 * 24 * 360 {
        world.advance(10 * SECOND);
        lines.extend(told(&world.answer(Answer::Failed)));
    }
    assert_eq!(
        lines[..9],
        [
            "registry out of reach; serving on, and trying again",
            "registry still out of reach, for 1m by now",
            "registry still out of reach, for 2m by now",
            "registry still out of reach, for 4m by now",
            "registry still out of reach, for 8m by now",
            "registry still out of reach, for 16m by now",
            "registry still out of reach, for 32m by now",
            "registry still out of reach, for 1h 4m by now",
            "registry still out of reach, for 2h 4m by now",
        ]
    );
    assert_eq!(lines.len(), 9 + 69, "then each hour, for three days");
    world.advance(SECOND);
    assert_eq!(told(&world.answer(HELD)), ["registry reached again after 3days 1s", "announced"]);
}

/// What an outage has left of one claim would outlive the withdrawal of the next.
#[test]
fn what_could_not_be_withdrawn_is_withdrawn_before_it_is_announced_again() {
    let mut world = started(announced());
    world.answer(HELD);
    world.end(MAIN, Ending::Code(1));
    let mut again = world.answer(Answer::Failed);
    for _ in 0..10 {
        again.extend(world.advance(SECOND));
        again.extend(world.answer(Answer::Failed));
    }
    assert!(matches!(world.state(0), State::Up { .. }), "fit long since");
    assert!(withdraws(&again) && !registers(&again));
    world.advance(SECOND);
    assert!(registers(&world.answer(Answer::Withdrawn)));
}

/// The registry may have been away for that long, and may let the record stand for its whole TTL once it is back.
#[test]
fn a_withdrawal_is_tried_until_it_is_answered_however_long_that_takes() {
    let mut world = started(announced());
    world.answer(HELD);
    world.end(MAIN, Ending::Code(1));
    for _ in 0..300 {
        world.answer(Answer::Failed);
        assert!(withdraws(&world.advance(SECOND)));
    }
}

/// Main, held by two links, one of them patient; started, and the attempts that it made.
fn held_by_links(config: impl FnOnce(&mut Service)) -> (World, Vec<Action>) {
    let mut main = daemon("web");
    main.links = vec![awaited("db", 30 * SECOND), awaited("cache", 60 * SECOND)];
    config(&mut main);
    let mut world = World::new(plan::config(vec![main]), 7);
    let actions = world.feed(Event::Started);
    (world, actions)
}

fn told(actions: &[Action]) -> Vec<String> {
    let told = |action: &Action| match action {
        Action::Tell(notice) => Some(notice.change.to_string()),
        _ => None,
    };
    actions.iter().filter_map(told).collect()
}

fn attempts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Reach { .. })).count()
}

#[test]
fn a_service_starts_when_each_of_its_links_is_reached_and_says_nothing_of_a_wait_that_was_none() {
    let (mut world, actions) = held_by_links(|_| {});
    assert_eq!((attempts(&actions), world.state(0)), (2, &State::AwaitingLinks));
    assert!(world.tried(Verdict::Pass).is_empty());
    assert_eq!(told(&world.tried(Verdict::Pass)), ["started", "ready"]);
}

#[test]
fn a_link_that_is_not_reached_is_told_of_at_once_then_ever_more_rarely() {
    let (mut world, _) = held_by_links(|main| {
        main.links.remove(0);
    });
    assert_eq!(told(&world.tried(Verdict::Fail)), ["waiting up to 60s for link `cache`"]);
    let mut said = Vec::new();
    let mut pauses = Vec::new();
    while world.now < Time::after_start(57 * SECOND) {
        let next = world.supervisor.next_deadline().expect("it tries again");
        let before = world.now;
        let actions = world.advance(next.since(before));
        said.extend(told(&actions).into_iter().map(|text| (world.now.since_start().as_secs(), text)));
        if attempts(&actions) > 0 {
            pauses.push(next.since(before).as_millis());
            said.extend(told(&world.tried(Verdict::Fail)).into_iter().map(|text| (0, text)));
        }
    }
    assert_eq!(pauses[..6], [50, 100, 200, 400, 800, 1000]);
    let word =
        |at: u64, left| (at, format!("still waiting for link `cache`, for {at}s by now, up to {left}s more"));
    assert_eq!(said, [word(5, 55), word(15, 45), word(35, 25)]);
    let next = world.supervisor.next_deadline().expect("it tries again");
    world.advance(next.since(world.now));
    let end = world.tried(Verdict::Pass);
    assert!(told(&end)[0].starts_with("link `cache` reached after 58."), "{end:?}");
}

#[test]
fn an_attempt_without_an_answer_is_told_of_after_a_second() {
    let (mut world, _) = held_by_links(|_| {});
    world.tried(Verdict::Pass);
    assert!(world.advance(SECOND - Duration::from_millis(1)).is_empty());
    assert_eq!(told(&world.advance(Duration::from_millis(1))), ["waiting up to 60s for link `cache`"]);
    assert!(told(&world.tried(Verdict::Fail)).is_empty(), "once");
}

#[test]
fn main_is_not_started_for_a_link_that_is_not_reached_in_time() {
    let (mut world, _) = held_by_links(|_| {});
    world.advance(30 * SECOND - Duration::from_millis(1));
    assert_eq!(world.exited, None);
    let actions = world.advance(Duration::from_millis(1));
    assert_eq!(told(&actions)[0], "link `db` not reached within 30s; given up");
    assert_eq!(world.exited, Some(69));
}

#[test]
fn those_after_a_service_whose_link_is_not_reached_never_start() {
    let (mut side, mut main) = (daemon("side"), daemon("web"));
    side.links = vec![awaited("db", 5 * SECOND)];
    main.after = vec![ServiceId(1)];
    let mut world = started(config(vec![main, side.clone()]));
    assert_eq!(world.state(0), &State::Waiting);
    world.advance(5 * SECOND);
    assert_eq!(world.exited, Some(69));
    let mut world = started(config(vec![daemon("web"), side]));
    world.advance(5 * SECOND);
    assert!(
        matches!(world.state(1), State::Down { .. }) && world.exited.is_none(),
        "main goes on without it"
    );
}

#[test]
fn a_stop_while_it_waits_ends_at_once() {
    let (mut world, _) = held_by_links(|_| {});
    world.tried(Verdict::Fail);
    assert!(
        world.signal(1).iter().all(|action| matches!(action, Action::Tell(_))),
        "there is no main to pass it to"
    );
    world.signal(TERM);
    assert_eq!(world.exited, Some(143));
}

#[test]
fn each_start_waits_anew_and_a_wait_in_vain_counts_as_a_crash() {
    let (mut world, _) = held_by_links(|main| main.restart.give_up.after = 3);
    world.tried(Verdict::Pass);
    world.tried(Verdict::Pass);
    for crash in 1..=2 {
        match crash {
            1 => drop(world.end(MAIN, Ending::Code(5))),
            _ => drop(world.advance(30 * SECOND)),
        }
        assert!(matches!(world.state(0), State::Backoff { .. }), "{crash}: {:?}", world.state(0));
        let next = world.supervisor.next_deadline().expect("a restart is due");
        assert_eq!(attempts(&world.advance(next.since(world.now))), 2);
        assert_eq!(world.state(0), &State::AwaitingLinks);
    }
    let actions = world.advance(30 * SECOND);
    assert_eq!(told(&actions).last().map(String::as_str), Some("link `db` not reached within 30s; given up"));
    let killed = actions.iter().filter(|action| matches!(action, Action::KillRemains { .. })).count();
    assert_eq!((world.exited, killed), (Some(69), 0), "nothing ran whose remains could be killed");
}

/// It has run: what is told to whoever started the container is how that ended.
#[test]
fn a_stop_while_a_restart_waits_ends_with_mains_last_code() {
    let (mut world, _) = held_by_links(|_| {});
    world.tried(Verdict::Pass);
    world.tried(Verdict::Pass);
    world.end(MAIN, Ending::Code(5));
    world.advance(SECOND / 10);
    assert_eq!(world.state(0), &State::AwaitingLinks);
    world.signal(TERM);
    assert_eq!(world.exited, Some(5));
}

/// What a schedule may do next.
#[derive(Debug, Clone)]
enum Step {
    Wait(u16),
    ToDeadline,
    Signal(i32),
    End { service: usize, code: u8 },
    Probed(Verdict),
    Tried(Verdict),
    Answered(Answer),
    HungUp,
    Stale(usize),
    Orphans(u32),
    SpawnFails(Option<SpawnFailure>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let failure = prop_oneof![
        3 => Just(None),
        1 => Just(Some(SpawnFailure::Other)),
        1 => Just(Some(SpawnFailure::NotFound)),
    ];
    let answer = prop_oneof![
        4 => Just(HELD),
        2 => Just(Answer::Failed),
        1 => Just(Answer::Lost),
        1 => Just(Answer::Taken),
        1 => Just(Answer::Moved { ttl: Duration::from_secs(60) }),
        1 => Just(Answer::NoAddress),
        3 => Just(Answer::Withdrawn),
    ];
    let step = prop_oneof![
        3 => (0_u16..5000).prop_map(Step::Wait),
        6 => Just(Step::ToDeadline),
        1 => prop_oneof![Just(1), Just(10), Just(18), Just(15), Just(2), Just(34)].prop_map(Step::Signal),
        3 => (0_usize..4, 0_u8..3).prop_map(|(service, code)| Step::End { service, code }),
        5 => prop_oneof![3 => Just(Verdict::Pass), 1 => Just(Verdict::Fail)].prop_map(Step::Probed),
        5 => prop_oneof![2 => Just(Verdict::Pass), 1 => Just(Verdict::Fail)].prop_map(Step::Tried),
        1 => Just(Step::HungUp),
        5 => answer.prop_map(Step::Answered),
        2 => any::<usize>().prop_map(Step::Stale),
        1 => (0_u32..3).prop_map(Step::Orphans),
        1 => failure.prop_map(Step::SpawnFails),
    ];
    proptest::collection::vec(step, 0..120)
}

fn when() -> impl Strategy<Value = RestartWhen> {
    prop_oneof![
        2 => Just(RestartWhen::Always),
        2 => Just(RestartWhen::OnFailure),
        1 => Just(RestartWhen::Never),
    ]
}

/// Main, a sidecar, a oneshot before main and a service after it; a part of them announced and checked.
fn configs() -> impl Strategy<Value = Config> {
    let policies = (when(), when(), 1_u32..6, prop_oneof![Just(ReadyBy::Start), Just(ReadyBy::Checks)]);
    let times = (0_u64..4, 0_u64..4, 0_u64..4, 0_u64..6);
    let counts = (1_usize..=4, 0_usize..3, prop_oneof![Just(Unhealthy::Withdraw), Just(Unhealthy::Restart)]);
    let waits = proptest::collection::vec(proptest::collection::vec(1_u64..12_000, 0..3), 4);
    (policies, times, counts, waits).prop_map(|(policies, times, counts, waits)| {
        let (main_when, sidecar_when, give_up, ready) = policies;
        let (drain, timeout, sweep, grace) = times;
        let (services, checks, unhealthy) = counts;
        let mut main = daemon("main");
        main.restart.when = main_when;
        main.restart.give_up.after = give_up * 4;
        main.announce = vec![announce("main.example.com"), announce("admin.example.org")];
        main.checks = vec![check(unhealthy); checks];
        for check in &mut main.checks {
            check.grace = Duration::from_secs(grace);
        }
        main.ready.by = if checks == 0 { ReadyBy::Start } else { ready };
        main.ready.timeout = 10 * SECOND;
        main.stop.drain = Duration::from_secs(drain);
        main.stop.timeout = Some(Duration::from_secs(timeout));
        main.stop.sweep = Duration::from_secs(sweep);
        let mut sidecar = daemon("sidecar");
        sidecar.restart.when = sidecar_when;
        sidecar.announce = vec![announce("sidecar.example.com")];
        let mut oneshot = daemon("oneshot");
        oneshot.kind = Kind::Oneshot;
        oneshot.restart.give_up.after = give_up;
        if services >= 3 {
            main.after = vec![ServiceId(2)];
        }
        let mut last = daemon("last");
        last.after = vec![MAIN];
        let mut all = [main, sidecar, oneshot, last];
        for (service, waits) in all.iter_mut().zip(waits) {
            let waits = waits.into_iter().map(Duration::from_millis);
            service.links = waits.map(|wait| awaited("db", wait)).collect();
        }
        config(all.into_iter().take(services).collect())
    })
}

fn play(world: &mut World, step: &Step) {
    match *step {
        Step::Wait(ms) => drop(world.advance(Duration::from_millis(ms.into()))),
        Step::ToDeadline => {
            if let Some(deadline) = world.supervisor.next_deadline() {
                world.advance(deadline.since(world.now));
            }
        }
        Step::Signal(number) => drop(world.signal(number)),
        Step::End { service, code: 2 } => drop(world.end(ServiceId(service), Ending::Killed(Signal(11)))),
        Step::End { service, code } => drop(world.end(ServiceId(service), Ending::Code(code))),
        Step::Tried(verdict) => drop(world.tried(verdict)),
        Step::HungUp => drop(world.feed(Event::RegistryHungUp)),
        Step::Probed(verdict) => drop(world.probed(verdict)),
        Step::Answered(answer) => drop(world.answer(answer)),
        Step::Stale(nth) => world.feed_stale(nth),
        Step::Orphans(0) => drop(world.end_orphans()),
        Step::Orphans(n) => world.orphans = if world.alive.is_empty() { 0 } else { n },
        Step::SpawnFails(failure) => world.spawn_fails = failure,
    }
}

/// PROPTEST_CASES asks for more: a million for a night.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// The world checks its promises after every event; this only makes the orders.
    #[test]
    fn no_order_of_events_breaks_a_promise(config in configs(), seed: u64, steps in steps()) {
        let mut world = World::new(config, seed);
        world.feed(Event::Started);
        for step in &steps {
            play(&mut world, step);
        }
    }

    /// From any state, with processes that obey nothing, even hang when killed, and a registry that never answers.
    #[test]
    fn term_reaches_exit_within_the_budget(
        config in configs(),
        seed: u64,
        steps in steps(),
        kill in prop_oneof![Just(KillEffect::Ends), Just(KillEffect::Nothing)],
    ) {
        let budget = stop::budget(&config).expect("main's timeout has an end");
        let mut world = World::new(config, seed);
        world.feed(Event::Started);
        for step in &steps {
            play(&mut world, step);
        }
        world.kill = kill;
        world.signal(TERM);
        world.advance(budget);
        prop_assert!(world.exited.is_some(), "still here after {budget:?}: {:?}", world.supervisor);
    }

    #[test]
    fn the_same_events_with_the_same_seed_give_the_same_actions(config in configs(), seed: u64, steps in steps()) {
        let mut worlds = [World::new(config.clone(), seed), World::new(config, seed)];
        for world in &mut worlds {
            world.feed(Event::Started);
            for step in &steps {
                play(world, step);
            }
        }
        prop_assert_eq!(format!("{:?}", worlds[0].supervisor), format!("{:?}", worlds[1].supervisor));
    }
}
