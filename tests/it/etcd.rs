//! Announcing against a real etcd (v3 and v2) and a real folder: what is written, how long it stays, and that nothing
//! but our own record is ever removed, whatever was cancelled or lost on the way.

use std::fs;
use std::pin::pin;
use std::time::{Duration, Instant};

use ensign::commands::ls;
use ensign::config::Conflict::{Take, Wait};
use ensign::config::units::{dns_name, label};
use ensign::config::{self, RegistryUrl};
use ensign::registry::{Claim, Error, Registration, Renewal};
use serde_json::Value;

use crate::support::etcd::{Etcd, Fate, Lossy, connections, free_port, silent};
use crate::support::place::{
    KEY, LONG, Place, TTL, VALUE, claim, give_up_after, hosts, record, registry, until,
};
use crate::support::wait;

fn granted(registration: Registration) -> Duration {
    match registration {
        Registration::Held { ttl } => ttl,
        Registration::Taken => panic!("nobody's record was in the way"),
    }
}

async fn writes_exactly_what_resolvers_read(place: Place) {
    let registry = place.registry();
    let granted = granted(registry.register(&claim(LONG), Take).await.expect("registered"));
    assert_eq!(granted, LONG);
    assert_eq!(place.read(KEY).as_deref(), Some(VALUE));
}

async fn lists_what_is_there_and_what_is_no_record(place: Place) {
    let registry = place.registry();
    assert_eq!(registry.list(None).await.expect("an empty list"), []);
    let mut other = record("2001:db8::9");
    other.name = dns_name("web-2.s.prod.example.com").expect("a name");
    let claim = Claim::new(vec![record("192.0.2.7"), other], LONG);
    registry.register(&claim, Take).await.expect("registered");
    place.write("/skydns/com/example/prod/s/web/zz-lock", "locked");

    let name = dns_name("web.s.prod.example.com").expect("a name");
    let listed = registry.list(Some(&name)).await.expect("a list");
    assert_eq!(listed.len(), 2, "{listed:?}");
    let first = &listed[0];
    assert_eq!((first.name.as_str(), first.instance.as_str()), ("web.s.prod.example.com", "node-1"));
    let fields = first.record.as_ref().expect("a record");
    assert_eq!((fields.host.as_str(), fields.port, fields.ttl), ("192.0.2.7", 8087, 5));
    let left = first.ttl_left.expect("a time to live");
    assert!(left <= LONG && left > LONG / 2, "{left:?}");
    assert!(listed[1].record.is_err(), "{listed:?}");
    assert_eq!(listed[1].ttl_left, None);

    let all = registry.list(None).await.expect("a list");
    let keys: Vec<&str> = all.iter().map(|l| l.key.as_str()).collect();
    assert_eq!(
        keys,
        ["/skydns/com/example/prod/s/web-2/node-1", KEY, "/skydns/com/example/prod/s/web/zz-lock"]
    );
}

async fn stays_as_long_as_it_is_renewed(place: Place) {
    let registry = place.registry();
    let claim = claim(TTL);
    let granted = granted(registry.register(&claim, Take).await.expect("registered"));
    assert!(granted >= TTL);
    let begun = Instant::now();
    let mut beat = tokio::time::interval(TTL / 3);
    while begun.elapsed() < TTL * 5 / 2 {
        beat.tick().await;
        assert_eq!(registry.renew(&claim).await.expect("renewed"), Renewal::Kept { ttl: granted });
        assert_eq!(place.read(KEY).as_deref(), Some(VALUE));
    }
}

async fn goes_when_it_is_not_renewed(place: Place) {
    let registry = place.registry();
    let claim = claim(TTL);
    registry.register(&claim, Take).await.expect("registered");
    let begun = Instant::now();
    let name = dns_name("web.s.prod.example.com").expect("a name");
    let is_gone = async || registry.list(Some(&name)).await.expect("a list").is_empty().then_some(());
    wait::until_async("the record to expire", is_gone).await;
    assert!(begun.elapsed() > TTL - Duration::from_millis(500), "gone too early: {:?}", begun.elapsed());
    if let Place::Dir(_) = place {
        // The file is the next writer's to remove.
        let mut other = record("192.0.2.8");
        other.instance = label("node-2").expect("a label");
        registry.register(&Claim::new(vec![other], LONG), Take).await.expect("registered");
    }
    assert_eq!(place.read(KEY), None);
    assert_eq!(registry.renew(&claim).await.expect("an answer"), Renewal::Lost);
}

async fn withdraws_at_once_and_as_often_as_asked(place: Place) {
    let registry = place.registry();
    let claim = claim(LONG);
    registry.withdraw(&claim).await.expect("nothing to withdraw is fine");
    registry.register(&claim, Take).await.expect("registered");
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
    registry.withdraw(&claim).await.expect("withdrawn again");
    assert_eq!(registry.renew(&claim).await.expect("an answer"), Renewal::Lost);
}

async fn registers_twice_with_one_claim(place: Place) {
    let registry = place.registry();
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    registry.register(&claim, Take).await.expect("registered again");
    assert_eq!(registry.renew(&claim).await.expect("renewed"), Renewal::Kept { ttl: LONG });
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
}

async fn takes_back_a_registration_given_up_anywhere(place: Place) {
    let registry = place.registry();
    let mut finished = 0;
    for polls in 0..40 {
        let claim = claim(LONG);
        if give_up_after(polls, registry.register(&claim, Take)).await.is_some() {
            finished += 1;
        }
        registry.withdraw(&claim).await.expect("withdrawn");
        assert_eq!(place.read(KEY), None, "after {polls} polls");
    }
    assert!((1..40).contains(&finished), "{finished} of 40 finished: cut at no point, or at every one");
    for step in 0..60 {
        let claim = claim(LONG);
        let _cut =
            tokio::time::timeout(Duration::from_micros(step * 50), registry.register(&claim, Take)).await;
        registry.withdraw(&claim).await.expect("withdrawn");
        assert_eq!(place.read(KEY), None, "after {step} steps");
    }
    // Nor did anything come later.
    let last = claim(LONG);
    registry.register(&last, Take).await.expect("registered");
    registry.withdraw(&last).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
}

async fn a_successor_survives_its_predecessors_end(place: Place) {
    let (old_one, new_one) = (place.registry(), place.registry());
    // The address is the same in one case: nothing but ownership tells the two records apart.
    for address in ["192.0.2.7", "192.0.2.8"] {
        let (old, new) = (claim(LONG), Claim::new(vec![record(address)], LONG));
        old_one.register(&old, Take).await.expect("registered");
        new_one.register(&new, Take).await.expect("takes over");
        assert_eq!(old_one.renew(&old).await.expect("an answer"), Renewal::Taken);
        old_one.withdraw(&old).await.expect("withdrawn");
        assert_eq!(place.read(KEY), Some(record(address).value()));
        assert_eq!(new_one.renew(&new).await.expect("renewed"), Renewal::Kept { ttl: LONG });
        new_one.withdraw(&new).await.expect("withdrawn");
        assert_eq!(place.read(KEY), None);
    }
}

async fn comes_back_when_the_other_one_goes(place: Place) {
    let registry = place.registry();
    let (old, new) = (claim(LONG), claim(LONG));
    registry.register(&old, Take).await.expect("registered");
    registry.register(&new, Take).await.expect("takes over");
    assert_eq!(registry.renew(&old).await.expect("an answer"), Renewal::Taken);
    registry.withdraw(&new).await.expect("withdrawn");
    assert_eq!(registry.renew(&old).await.expect("an answer"), Renewal::Lost);
}

async fn takes_its_place_back_when_it_registers_again(place: Place) {
    let registry = place.registry();
    let (one, other) = (claim(LONG), claim(LONG));
    registry.register(&one, Take).await.expect("registered");
    registry.register(&other, Take).await.expect("takes over");
    registry.register(&one, Take).await.expect("takes it back");
    assert_eq!(registry.renew(&other).await.expect("an answer"), Renewal::Taken);
    assert_eq!(registry.renew(&one).await.expect("renewed"), Renewal::Kept { ttl: LONG });
}

async fn waits_for_anothers_record_to_go_when_told_to(place: Place) {
    let (old_one, new_one) = (place.registry(), place.registry());
    let theirs = Claim::new(vec![record("192.0.2.8")], LONG);
    new_one.register(&theirs, Take).await.expect("registered");
    let ours = claim(LONG);
    assert_eq!(old_one.register(&ours, Wait).await.expect("an answer"), Registration::Taken);
    assert_ne!(old_one.renew(&ours).await.expect("an answer"), Renewal::Kept { ttl: LONG });
    old_one.withdraw(&ours).await.expect("withdrawn");
    assert_eq!(place.read(KEY), Some(record("192.0.2.8").value()), "left alone all the while");
    assert_eq!(new_one.renew(&theirs).await.expect("renewed"), Renewal::Kept { ttl: LONG });

    new_one.withdraw(&theirs).await.expect("withdrawn");
    let again = claim(LONG);
    granted(old_one.register(&again, Wait).await.expect("registered"));
    assert_eq!(place.read(KEY).as_deref(), Some(VALUE));
}

/// What an earlier life of ours left behind is nobody's to wait for.
async fn waits_for_no_record_that_is_like_its_own(place: Place) {
    let registry = place.registry();
    registry.register(&claim(LONG), Take).await.expect("registered");
    let ours = claim(LONG);
    granted(registry.register(&ours, Wait).await.expect("registered"));
    assert_eq!(registry.renew(&ours).await.expect("renewed"), Renewal::Kept { ttl: LONG });
}

async fn notices_that_its_record_was_deleted(place: Place) {
    let registry = place.registry();
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    place.delete(KEY);
    assert_eq!(registry.renew(&claim).await.expect("an answer"), Renewal::Lost);
}

async fn leaves_a_record_written_by_hand(place: Place) {
    let registry = place.registry();
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    let by_hand = r#"{"host":"198.51.100.1"}"#;
    place.write(KEY, by_hand);
    assert_eq!(registry.renew(&claim).await.expect("an answer"), Renewal::Taken);
    registry.withdraw(&claim).await.expect("withdrawn");
    match &place {
        Place::V3(_) | Place::V2(_) => assert_eq!(place.read(KEY).as_deref(), Some(by_hand)),
        Place::Dir(_) => assert_eq!(fs::read_to_string(place.file(KEY)).expect("there"), by_hand),
    }
}

async fn comes_back_after_a_wipe(place: Place) {
    let registry = place.registry();
    let first = claim(LONG);
    registry.register(&first, Take).await.expect("registered");
    let place = match place {
        Place::V3(etcd) => Place::V3(etcd.wiped()),
        Place::V2(etcd) => Place::V2(etcd.wiped()),
        Place::Dir(dir) => {
            fs::remove_dir_all(dir.path().join("registry")).expect("removed");
            Place::Dir(dir)
        }
    };
    assert_eq!(registry.renew(&first).await.expect("an answer"), Renewal::Lost);
    registry.withdraw(&first).await.expect("nothing left to withdraw is fine");
    let second = claim(LONG);
    registry.register(&second, Take).await.expect("registered");
    assert_eq!(place.read(KEY).as_deref(), Some(VALUE));
    registry.withdraw(&first).await.expect("the old claim has nothing there");
    assert_eq!(place.read(KEY).as_deref(), Some(VALUE));
}

async fn passes_by_a_dead_endpoint(place: Place) {
    let registry = place.through(&[free_port(), place.etcd().address()]);
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    assert!(matches!(registry.renew(&claim).await, Ok(Renewal::Kept { .. })));
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
}

/// It runs and answers, only not in this API.
async fn passes_by_a_member_without_its_api(place: Place) {
    let off = Etcd::start_with(&["--enable-grpc-gateway=false", "--enable-v2=false"]);
    let addresses = [off.address(), place.etcd().address()];
    assert_eq!(place.through(&addresses).list(None).await.expect("an empty list"), []);
    let registry = place.through(&addresses);
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    assert!(matches!(registry.renew(&claim).await, Ok(Renewal::Kept { .. })));
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
}

async fn a_frozen_endpoint_costs_one_short_wait(place: Place) {
    let frozen = silent();
    let addresses = [frozen.local_addr().expect("bound"), place.etcd().address()];
    let registry = place.through(&addresses);
    let claim = claim(LONG);
    let begun = Instant::now();
    registry.register(&claim, Take).await.expect("registered");
    assert!(begun.elapsed() >= Duration::from_millis(240), "the frozen one was not asked");
    assert!(matches!(registry.renew(&claim).await, Ok(Renewal::Kept { .. })));
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(connections(&frozen), 1, "the frozen one was asked again");
    assert_eq!(place.read(KEY), None);
}

async fn a_withdrawal_goes_round_what_held_up_the_registration(place: Place) {
    let frozen = silent();
    let addresses = [frozen.local_addr().expect("bound"), place.etcd().address()];
    let registry = place.through(&addresses);
    let claim = claim(LONG);
    let cut = tokio::time::timeout(Duration::from_millis(100), registry.register(&claim, Take)).await;
    assert!(cut.is_err(), "the frozen endpoint answered");
    let begun = Instant::now();
    registry.withdraw(&claim).await.expect("withdrawn");
    assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
}

async fn says_why_when_no_endpoint_answers(place: Place) {
    let frozen = silent();
    let (dead, mute) = (free_port(), frozen.local_addr().expect("bound"));
    let registry = place.through(&[dead, mute]);
    let error = registry.register(&claim(LONG), Take).await.expect_err("nobody is there");
    assert_eq!(
        error.to_string(),
        format!(
            "no endpoint of the registry gave an answer: {dead}: connection refused; {mute}: no answer within 1s"
        )
    );
}

async fn takes_back_a_registration_whose_answer_was_lost(place: Place) {
    let lossy = Lossy::before(place.etcd());
    for lost in 0..2 {
        let registry = place.through(&[lossy.address()]);
        let claim = claim(LONG);
        lossy.decide(lost, Fate::Lost);
        registry.register(&claim, Take).await.expect_err("its answer was lost");
        registry.withdraw(&claim).await.expect("withdrawn");
        assert_eq!(place.read(KEY), None, "request {lost}");
    }
}

/// The caller gives up while a request is on its way, and withdraws before etcd has even seen it.
async fn takes_back_a_registration_that_arrives_after_it_was_given_up(place: Place) {
    let lossy = Lossy::before(place.etcd());
    let registry = place.through(&[lossy.address()]);
    let by = Duration::from_millis(300);
    for late in 0..2 {
        let claim = claim(LONG);
        lossy.decide(late, Fate::Late(by));
        let cut = tokio::time::timeout(by / 2, registry.register(&claim, Take)).await;
        assert!(cut.is_err(), "request {late} was not late");
        registry.withdraw(&claim).await.expect("withdrawn");
        until("the late request has arrived", || lossy.is_settled()).await;
        assert_eq!(place.read(KEY), None, "request {late}");
    }
}

/// A frozen member carries out what it was asked long after that was done elsewhere, and after a successor came.
async fn a_late_write_does_not_undo_what_a_successor_wrote(place: Place) {
    let lossy = Lossy::before(place.etcd());
    let new_one = place.registry();
    for late in 0..2 {
        let old = claim(LONG);
        lossy.decide(late, Fate::Late(Duration::from_millis(1500)));
        let old_one = place.through(&[lossy.address(), place.etcd().address()]);
        old_one.register(&old, Take).await.expect("registered elsewhere");
        let new = Claim::new(vec![record("192.0.2.8")], LONG);
        new_one.register(&new, Take).await.expect("takes over");
        until("the late request has arrived", || lossy.is_settled()).await;
        assert_eq!(place.read(KEY), Some(record("192.0.2.8").value()), "request {late}");
        old_one.withdraw(&old).await.expect("withdrawn");
        assert_eq!(place.read(KEY), Some(record("192.0.2.8").value()), "request {late}");
        new_one.withdraw(&new).await.expect("withdrawn");
    }
}

async fn ends_a_registration_whose_answer_was_lost_elsewhere(place: Place) {
    let lossy = Lossy::before(place.etcd());
    for lost in 0..2 {
        let registry = place.through(&[lossy.address(), place.etcd().address()]);
        let claim = claim(LONG);
        lossy.decide(lost, Fate::Lost);
        let granted = granted(registry.register(&claim, Take).await.expect("registered"));
        assert!(granted <= LONG && granted > LONG / 2, "request {lost}: {granted:?}");
        assert_eq!(registry.renew(&claim).await.expect("renewed"), Renewal::Kept { ttl: LONG });
        registry.withdraw(&claim).await.expect("withdrawn");
        assert_eq!(place.read(KEY), None, "request {lost}");
    }
}

async fn keeps_a_record_whose_renewals_answer_was_lost(place: Place) {
    let lossy = Lossy::before(place.etcd());
    let registry = place.through(&[lossy.address()]);
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    lossy.decide(0, Fate::Lost);
    registry.renew(&claim).await.expect_err("its answer was lost");
    assert_eq!(registry.renew(&claim).await.expect("renewed"), Renewal::Kept { ttl: LONG });
    lossy.decide(0, Fate::Lost);
    registry.renew(&claim).await.expect_err("its answer was lost");
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
}

async fn goes_on_after_a_freeze(place: Place) {
    let registry = place.registry();
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    place.etcd().freeze();
    let begun = Instant::now();
    registry.renew(&claim).await.expect_err("frozen");
    registry.withdraw(&claim).await.expect_err("frozen");
    assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
    place.etcd().thaw();
    registry.withdraw(&claim).await.expect("withdrawn");
    assert_eq!(place.read(KEY), None);
}

/// In places of each kind, or only where there are endpoints.
macro_rules! everywhere {
    (all: $($test:ident)*; of_etcd: $($endpoints:ident)*;) => {
        in_place!(v3: $($test)* $($endpoints)*);
        in_place!(v2: $($test)* $($endpoints)*);
        in_place!(dir: $($test)*);
    };
}

macro_rules! in_place {
    ($place:ident: $($test:ident)*) => {
        mod $place {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Place::$place()).await;
            })*
        }
    };
}

everywhere! {
    all:
        writes_exactly_what_resolvers_read
        lists_what_is_there_and_what_is_no_record
        stays_as_long_as_it_is_renewed
        goes_when_it_is_not_renewed
        withdraws_at_once_and_as_often_as_asked
        registers_twice_with_one_claim
        takes_back_a_registration_given_up_anywhere
        a_successor_survives_its_predecessors_end
        comes_back_when_the_other_one_goes
        takes_its_place_back_when_it_registers_again
        waits_for_anothers_record_to_go_when_told_to
        waits_for_no_record_that_is_like_its_own
        notices_that_its_record_was_deleted
        leaves_a_record_written_by_hand
        comes_back_after_a_wipe;
    of_etcd:
        passes_by_a_dead_endpoint
        passes_by_a_member_without_its_api
        a_frozen_endpoint_costs_one_short_wait
        a_withdrawal_goes_round_what_held_up_the_registration
        says_why_when_no_endpoint_answers
        takes_back_a_registration_whose_answer_was_lost
        takes_back_a_registration_that_arrives_after_it_was_given_up
        a_late_write_does_not_undo_what_a_successor_wrote
        ends_a_registration_whose_answer_was_lost_elsewhere
        keeps_a_record_whose_renewals_answer_was_lost
        goes_on_after_a_freeze;
}

/// The gateway speaks of a lease in places where v2 and folders have none.
#[tokio::test]
async fn a_lease_revoked_by_hand_is_lost() {
    let etcd = Etcd::start();
    let place = Place::V3(etcd);
    let registry = place.registry();
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    let (_, body) = place.etcd().request("POST", "/v3/lease/leases", "{}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let lease = answer["leases"][0]["ID"].as_str().expect("one lease");
    let (status, _) = place.etcd().request("POST", "/v3/lease/revoke", &format!(r#"{{"ID":"{lease}"}}"#));
    assert_eq!(status, 200);
    assert_eq!(registry.renew(&claim).await.expect("an answer"), Renewal::Lost);
}

#[tokio::test]
async fn a_withdrawn_lease_leaves_nothing_behind() {
    let place = Place::v3();
    let registry = place.registry();
    let claim = claim(LONG);
    registry.register(&claim, Take).await.expect("registered");
    registry.withdraw(&claim).await.expect("withdrawn");
    let (_, body) = place.etcd().request("POST", "/v3/lease/leases", "{}");
    assert!(!body.contains("\"ID\""), "{body}");
}

#[tokio::test]
async fn v2_that_is_switched_off_is_told_from_an_absent_key() {
    let etcd = Etcd::start_with(&["--enable-v2=false"]);
    let registry = registry(RegistryUrl::Etcd2(hosts(&[etcd.address()])));
    let error = registry.register(&claim(LONG), Take).await.expect_err("the v2 API is off");
    assert!(matches!(error, Error::V2Off { .. }), "{error}");
    assert!(error.to_string().contains("--enable-v2=true"), "{error}");
    let error = registry.list(None).await.expect_err("the v2 API is off");
    assert!(matches!(error, Error::V2Off { .. }), "{error}");
}

/// A reader never meets half a record, nor anything in the folder that is none.
#[tokio::test]
async fn a_folder_holds_nothing_that_looks_like_a_record_but_records() {
    let place = Place::dir();
    let registry = place.registry();
    registry.register(&claim(LONG), Take).await.expect("registered");
    let crashed = place.file(KEY).with_file_name(".new-1");
    fs::write(&crashed, "half a rec").expect("written");
    assert_eq!(registry.list(None).await.expect("a list").len(), 1);
    registry.register(&claim(LONG), Take).await.expect("registered");
    assert!(!crashed.exists(), "what a crashed writer left is still there");
}

#[tokio::test]
async fn a_folder_whose_lock_is_held_for_ever_is_given_up() {
    let place = Place::dir();
    let registry = place.registry();
    let first = claim(LONG);
    registry.register(&first, Take).await.expect("registered");
    let lock = fs::File::open(place.file("/.lock")).expect("the lock file");
    lock.lock().expect("taken");
    let begun = Instant::now();
    let error = registry.register(&claim(LONG), Take).await.expect_err("locked");
    assert!(error.to_string().contains("lock"), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    drop(lock);
    assert_eq!(registry.renew(&first).await.expect("renewed"), Renewal::Kept { ttl: LONG });
}

/// The thread that waits for the lock goes on when its caller gives up; what comes next must see its end.
#[tokio::test]
async fn a_registration_given_up_while_the_folder_was_locked_is_taken_back() {
    let place = Place::dir();
    let registry = place.registry();
    registry.register(&Claim::new(vec![], LONG), Take).await.expect("the folder is made");
    for round in 0..20 {
        let lock = fs::File::open(place.file("/.lock")).expect("the lock file");
        lock.lock().expect("taken");
        let claim = claim(LONG);
        let _cut = tokio::time::timeout(Duration::from_millis(1), registry.register(&claim, Take)).await;
        let withdrawing = pin!(registry.withdraw(&claim));
        let release = async {
            // At another moment of the two waiters' rhythm each time.
            wait::be_late_async(Duration::from_micros(5000 + round * 370)).await;
            drop(lock);
        };
        let (withdrawn, ()) = tokio::join!(withdrawing, release);
        withdrawn.expect("withdrawn");
        assert_eq!(place.read(KEY), None);
    }
}

/// Registries and their operations may live in a task of their own.
#[tokio::test]
async fn an_operation_runs_in_a_task() {
    let place = Place::dir();
    let registry = place.registry();
    let task = tokio::spawn(async move { registry.register(&claim(LONG), Take).await });
    task.await.expect("no panic").expect("registered");
    until("the record is there", || place.read(KEY).is_some()).await;
}

#[test]
fn ls_says_by_its_exit_code_whether_the_registry_was_read() {
    let exit = |url| {
        let registry = config::Registry { url, prefix: "/skydns".to_owned(), tls: None, login: None };
        format!("{:?}", ls::run(&registry, None, ls::Format::JsonLines))
    };
    let etcd = Etcd::start();
    let [success, failure] = [std::process::ExitCode::SUCCESS, std::process::ExitCode::FAILURE];
    assert_eq!(exit(RegistryUrl::Etcd3(hosts(&[etcd.address()]))), format!("{success:?}"));
    assert_eq!(exit(RegistryUrl::Etcd3(hosts(&[free_port()]))), format!("{failure:?}"));
}
