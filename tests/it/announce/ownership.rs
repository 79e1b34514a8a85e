//! Two containers with one name and one instance, as real processes: who is announced, what the other says, and what
//! becomes of it when one of them goes, in whatever way.

use std::time::{Duration, Instant};

use ensign::config::Conflict;
use ensign::config::units::dns_name;
use ensign::registry::Claim;
use nix::sys::signal::Signal;

use super::TTL;
use crate::support::namespace;
use crate::support::place::{KEY, LONG, Place, record};
use crate::support::service::{ANNOUNCE, Folder, Service, command, send};
use crate::support::skip::{self, Need};
use crate::support::wait;

/// Nobody notices anything later than this: a heartbeat, and what a loaded machine adds to it.
const BEAT: Duration = Duration::from_millis(667 + 1500);

fn start(place: &Place, address: &str, conflict: &str) -> Service {
    let announce = ANNOUNCE.replace("192.0.2.7", address);
    let text = command(&["hold"])
        + "stop = { drain = \"0s\" }\nready = { settle = \"300ms\" }\n\
           restart = { delay = \"1ms\", max_delay = \"1ms\" }\n";
    let conflict = format!("conflict = \"{conflict}\"\n");
    Folder::with(&format!("{text}{announce}{conflict}{}", place.config())).start(namespace::Place::Guest)
}

fn is_at(place: &Place, address: &str) -> bool {
    place.read(KEY).is_some_and(|value| value.contains(&format!(r#""host":"{address}""#)))
}

fn until_at(place: &Place, address: &str) -> Duration {
    let began = Instant::now();
    wait::until_true(&format!("the record to be at {address}"), || is_at(place, address));
    began.elapsed()
}

fn the_later_one_wins_and_the_earlier_one_comes_back_when_it_is_gone(place: &Place) {
    let old = start(place, "192.0.2.7", "take");
    until_at(place, "192.0.2.7");
    let new = start(place, "192.0.2.8", "take");
    until_at(place, "192.0.2.8");
    let taken = Instant::now();
    let told = "another instance has taken over our key; its record is left alone: \
                web.s.prod.example.com as node-1 is at 192.0.2.8:8087";
    old.until_logged(told);
    assert!(taken.elapsed() < BEAT, "{:?}", taken.elapsed());
    // Nor does a crash make it the later one.
    send(old.pid(&["hold"]), Signal::SIGKILL);
    old.until_logged("another instance is announced under our key; waiting for it to go");
    wait::all_through(TTL * 2, || assert!(is_at(place, "192.0.2.8"), "{:?}", place.read(KEY)));
    assert_eq!(old.logged("taken over our key"), 1, "{}", old.log());
    assert_eq!(old.logged("waiting for it to go"), 1, "{}", old.log());
    assert_eq!(new.logged("our key"), 0, "{}", new.log());

    new.send(Signal::SIGKILL);
    new.running.wait();
    let gone = until_at(place, "192.0.2.7");
    assert!(gone > TTL / 4 && gone < TTL + BEAT, "its time, and a heartbeat: {gone:?}");
    wait::until_true("it to be told", || old.logged("announced: web") == 2);

    // The next deploy; this time the old one is stopped.
    let newer = start(place, "192.0.2.9", "take");
    until_at(place, "192.0.2.9");
    assert_eq!(old.stop().code, 143);
    wait::all_through(TTL, || assert!(is_at(place, "192.0.2.9"), "{:?}", place.read(KEY)));
    newer.stop();
    assert_eq!(place.read(KEY), None);
}

fn one_that_waits_is_announced_when_the_other_goes(place: &Place) {
    let first = start(place, "192.0.2.7", "take");
    until_at(place, "192.0.2.7");
    let second = start(place, "192.0.2.8", "wait");
    second.until_logged(
        "another instance is announced under our key; waiting for it to go: \
         web.s.prod.example.com as node-1 is at 192.0.2.7:8087",
    );
    wait::all_through(TTL * 2, || assert!(is_at(place, "192.0.2.7"), "{:?}", place.read(KEY)));
    assert_eq!((second.logged("our key"), first.logged("our key")), (1, 0), "{}", second.log());
    first.stop();
    let took = until_at(place, "192.0.2.8");
    assert!(took < BEAT, "{took:?}");

    let third = start(place, "192.0.2.9", "wait");
    third.until_logged("waiting for it to go");
    second.send(Signal::SIGKILL);
    second.running.wait();
    let took = until_at(place, "192.0.2.9");
    assert!(took > TTL / 4 && took < TTL + BEAT, "its time, and a heartbeat: {took:?}");
    // One that waits in vain leaves nothing, and takes nothing with it.
    let fourth = start(place, "192.0.2.10", "wait");
    fourth.until_logged("waiting for it to go");
    fourth.stop();
    assert!(is_at(place, "192.0.2.9"));
    third.stop();
    assert_eq!(place.read(KEY), None);
}

/// Each record of a service goes its own way.
fn records_of_one_service_differ(place: &Place) {
    let admin = KEY.replace("/web/", "/admin/");
    let mut other = record("192.0.2.9");
    other.name = dns_name("admin.s.prod.example.com").expect("a name");
    let rival = Claim::new(vec![record("192.0.2.9"), other], LONG);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let registry = place.registry();
    runtime.block_on(registry.register(&rival, Conflict::Take)).expect("registered");

    let second = ANNOUNCE.replace("name = \"web.", "conflict = \"wait\"\nname = \"admin.");
    let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
    let web = Folder::with(&format!("{text}{ANNOUNCE}{second}{}", place.config()));
    let web = web.start(namespace::Place::Guest);
    web.until_logged(
        "waiting for it to go: admin.s.prod.example.com as node-1 is at 192.0.2.9:8087; \
         announced: web.s.prod.example.com at 192.0.2.7:8087 as node-1",
    );
    let at = |key: &str| place.read(key).expect("a record is there");
    wait::all_through(TTL * 2, || {
        assert!(is_at(place, "192.0.2.7"));
        assert!(at(&admin).contains("192.0.2.9"));
    });
    runtime.block_on(registry.withdraw(&rival)).expect("withdrawn");
    wait::until_true("the second record", || place.read(&admin).is_some_and(|v| v.contains("192.0.2.7")));
    assert!(is_at(place, "192.0.2.7"));
    web.stop();
    assert_eq!((place.read(KEY), place.read(&admin)), (None, None));
}

macro_rules! everywhere {
    ($($test:ident)*) => {
        $(mod $test {
            use crate::support::place::Place;

            fn test(place: fn() -> Place) {
                if !super::skip::without(super::Need::Namespaces) {
                    super::$test(&place());
                }
            }

            #[test]
            fn v3() {
                test(Place::v3);
            }

            #[test]
            fn v2() {
                test(Place::v2);
            }

            #[test]
            fn dir() {
                test(Place::dir);
            }
        })*
    };
}

everywhere! {
    the_later_one_wins_and_the_earlier_one_comes_back_when_it_is_gone
    one_that_waits_is_announced_when_the_other_goes
    records_of_one_service_differ
}
