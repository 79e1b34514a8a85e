//! The picker's rules, with literal times, and as properties over any weights and any failures.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const ATTEMPT: Duration = Duration::from_secs(3);

fn picker(balance: Balance, offers: &[(u16, u32, u32)]) -> Picker<u16> {
    let mut picker = Picker::new(balance, ATTEMPT);
    picker.learn(offers.iter().map(|&(address, group, weight)| Offer { address, group, weight }));
    picker
}

fn idle(_: &u16) -> usize {
    0
}

/// The order in which one connection would try everything.
fn order(picker: &mut Picker<u16>, now: Instant) -> Vec<u16> {
    let mut tried = Vec::new();
    while let Some(next) = picker.pick(now, &tried, idle) {
        tried.push(next);
    }
    tried
}

#[test]
fn first_is_the_order_whatever_groups_and_weights_say() {
    let mut first = picker(Balance::First, &[(3, 7, 1), (1, 0, 100), (2, 0, 0), (1, 0, 5)]);
    let now = Instant::now();
    for _ in 0..3 {
        assert_eq!(order(&mut first, now), [3, 1, 2]);
    }
}

#[test]
fn a_heavy_one_does_not_get_its_picks_in_a_row() {
    let mut round = picker(Balance::RoundRobin, &[(1, 0, 3), (2, 0, 1)]);
    let now = Instant::now();
    let picks: Vec<_> = (0..8).filter_map(|_| round.pick(now, &[], idle)).collect();
    assert_eq!(picks, [1, 1, 2, 1, 1, 1, 2, 1]);
}

#[test]
fn a_lower_group_goes_first_and_the_next_is_for_when_all_of_it_failed() {
    let mut round = picker(Balance::RoundRobin, &[(1, 20, 100), (2, 10, 0), (3, 10, 0)]);
    let now = Instant::now();
    assert_eq!(order(&mut round, now), [2, 3, 1]);
    round.failed(&2, now, now);
    assert_eq!(order(&mut round, now), [3, 1, 2]);
    round.failed(&3, now, now);
    assert_eq!(round.pick(now, &[], idle), Some(1));
}

#[test]
fn a_failure_sets_aside_for_a_time_that_doubles_and_a_success_ends_it() {
    let mut first = picker(Balance::First, &[(1, 0, 0), (2, 0, 0)]);
    let mut now = Instant::now();
    for pause in [100, 200, 400, 800, 1600, 3200, 6400, 6400] {
        assert_eq!(first.pick(now, &[], idle), Some(1));
        first.failed(&1, now, now);
        assert_eq!(first.pick(now + MS * (pause - 1), &[], idle), Some(2));
        now += MS * pause;
    }
    // Its time is over: one attempt finds out, and nobody else has to wait for that.
    assert_eq!(first.pick(now, &[], idle), Some(1));
    assert_eq!(first.pick(now + MS, &[], idle), Some(2));
    first.succeeded(&1);
    assert_eq!(first.pick(now + MS, &[], idle), Some(1));
    first.failed(&1, now, now);
    assert_eq!(first.pick(now + MS * 100, &[], idle), Some(1));
}

#[test]
fn nobody_else_finds_out_while_an_attempt_that_does_may_take() {
    let mut first = picker(Balance::First, &[(1, 0, 0), (2, 0, 0)]);
    let now = Instant::now();
    first.failed(&1, now, now);
    let again = now + MS * 100;
    assert_eq!(first.pick(again, &[], idle), Some(1));
    assert_eq!(first.pick(again + ATTEMPT - MS, &[], idle), Some(2));
    // It may have been given up by its client.
    assert_eq!(first.pick(again + ATTEMPT, &[], idle), Some(1));
}

#[test]
fn attempts_that_fail_together_count_once() {
    let mut first = picker(Balance::First, &[(1, 0, 0), (2, 0, 0)]);
    let begun = Instant::now();
    for attempt in 0..50 {
        first.failed(&1, begun, begun + MS * (attempt + 1));
    }
    assert_eq!(first.pick(begun + MS * 101, &[], idle), Some(1));
}

#[test]
fn what_is_known_of_an_address_outlives_the_others_coming_and_going() {
    let mut first = picker(Balance::First, &[(1, 0, 0), (2, 0, 0)]);
    let now = Instant::now();
    first.failed(&1, now, now);
    first.learn([3, 1, 4].map(|address| Offer { address, group: 0, weight: 0 }));
    assert_eq!(order(&mut first, now), [3, 4, 1]);
    first.learn([]);
    assert!(first.is_empty());
    assert_eq!(first.pick(now, &[], idle), None);
}

#[test]
fn least_connections_fills_up_by_weight() {
    let mut least = picker(Balance::LeastConnections, &[(1, 0, 100), (2, 0, 100), (3, 0, 200)]);
    let mut open = [0_usize; 4];
    for _ in 0..40 {
        let next = least.pick(Instant::now(), &[], |address| open[usize::from(*address)]);
        open[usize::from(next.expect("one"))] += 1;
    }
    assert_eq!(open, [0, 10, 10, 20]);
    open = [0, 5, 0, 9];
    assert_eq!(least.pick(Instant::now(), &[], |address| open[usize::from(*address)]), Some(2));
}

fn offers() -> impl Strategy<Value = Vec<(u16, u32, u32)>> {
    prop::collection::vec((0_u16..8, 0_u32..3, prop_oneof![Just(0), 1_u32..1000]), 1..12)
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![Just(Balance::RoundRobin), Just(Balance::First), Just(Balance::LeastConnections)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Over many picks each gets its share, to within one pick for each that takes part.
    #[test]
    fn shares_are_kept(weights in prop::collection::vec(prop_oneof![Just(0), 1_u32..300], 1..8)) {
        let offers: Vec<_> = (0..).zip(&weights).map(|(address, weight)| (address, 0, *weight)).collect();
        let mut round = picker(Balance::RoundRobin, &offers);
        let now = Instant::now();
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..2000 {
            counts[usize::from(round.pick(now, &[], idle).expect("one"))] += 1;
        }
        let share = |weight: u32| f64::from((weight * 64).max(1));
        let total: f64 = weights.iter().map(|weight| share(*weight)).sum();
        for (weight, count) in weights.iter().zip(counts) {
            let due = 2000.0 * share(*weight) / total;
            prop_assert!((f64::from(count) - due).abs() <= weights.len() as f64, "{weight}: {count} for {due}");
        }
    }

    /// Whatever has happened: a connection tries everything that is known, each once, and what is not set aside first.
    #[test]
    fn everything_is_tried_once_and_the_fit_first(
        balance in balance(),
        offers in offers(),
        history in prop::collection::vec((0_u16..8, any::<bool>(), 0_u32..3000), 0..60),
    ) {
        let mut picker = picker(balance, &offers);
        let mut now = Instant::now();
        for (address, is_success, later) in history {
            let _tried = picker.pick(now, &[], idle);
            if is_success { picker.succeeded(&address) } else { picker.failed(&address, now, now) }
            now += MS * later;
        }
        let fit: Vec<u16> =
            picker.places.iter().filter(|place| place.is_fit(now)).map(|place| place.offer.address).collect();
        let mut known: Vec<u16> = offers.iter().map(|(address, ..)| *address).collect();
        known.sort_unstable();
        known.dedup();
        let order = order(&mut picker, now);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, known);
        prop_assert!(order[..fit.len()].iter().all(|address| fit.contains(address)), "{:?} of {:?}", order, fit);
    }
}
