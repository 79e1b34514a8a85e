//! When a record is there: while the service is fit, to the TTL's end at most after that, and never else.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Announced, TTL, with_both};
use crate::support::namespace::Place;
use crate::support::process;
use crate::support::service::{KEY, VALUE, command, send};
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::Held;

#[test]
fn the_record_is_exact_and_stays_while_the_service_runs() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let place = if api == super::Api::V3 { Place::First } else { Place::Guest };
        let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
        let web = Announced::start(etcd, api, place, &text);
        let first = web.watch.nth(0);
        assert_eq!((first.key.as_str(), first.value.as_deref()), (KEY, Some(VALUE)), "{api:?}");
        wait::all_through(TTL * 5 + TTL / 4, || {
            let held = api.read(etcd, KEY).expect("the record is there");
            assert!(held == Held { value: VALUE.into(), ttl: 2 } || held.ttl == 1, "{api:?} {held:?}");
        });
        assert_eq!(web.watch.count(), 1, "{api:?}: {:?}", web.watch.changes());
        let ended = web.service.stop();
        assert_eq!(ended.code, 143, "{ended:?}");
        assert_eq!(web.watch.nth(1).value, None);
        assert_eq!(api.read(etcd, KEY), None);
    });
}

/// Full jitter draws the delay from 0 on; `settle` is what the test measures.
#[test]
fn a_crash_withdraws_at_once_and_a_restart_announces_once_settled() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let settle = Duration::from_millis(600);
    with_both(|etcd, api| {
        let text = command(&["hold"])
            + "stop = { drain = \"0s\" }\nready = { settle = \"600ms\" }\n\
               restart = { delay = \"10ms\", max_delay = \"10ms\" }\n";
        let web = Announced::start(etcd, api, Place::First, &text);
        let mut main = web.service.pid(&["hold"]);
        let mut withdrawn_after = vec![];
        for round in 0..3 {
            assert!(web.watch.nth(2 * round).value.is_some());
            let killed = Instant::now();
            send(main, Signal::SIGKILL);
            main = web.service.pid_after(main, &["hold"]);
            let started = Instant::now();
            let gone = web.watch.nth(2 * round + 1);
            assert_eq!(gone.value, None);
            withdrawn_after.push(gone.at - killed);
            let back = web.watch.nth(2 * round + 2);
            // It was started before it was seen, by the few ms that a look at /proc takes.
            assert!(back.at - killed >= settle, "{api:?}: back {:?} after the crash", back.at - killed);
            assert!(back.at - started < settle + Duration::from_secs(2), "{api:?}");
        }
        withdrawn_after.sort();
        assert!(withdrawn_after[1] < Duration::from_millis(100), "{api:?}: {withdrawn_after:?}");
        assert_eq!(web.service.stop().code, 143);
    });
}

#[test]
fn ensigns_own_death_leaves_the_record_to_its_ttl() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let web = Announced::start(etcd, api, Place::Guest, &command(&["hold"]));
        web.watch.nth(0);
        let main = web.service.pid(&["hold"]);
        let killed = Instant::now();
        web.service.send(Signal::SIGKILL);
        wait::until_true("main to follow its init", || !process::lives(main));
        let gone = web.watch.nth(1);
        assert_eq!(gone.value, None);
        let after = gone.at - killed;
        assert!(after > TTL / 2 && after < TTL + Duration::from_secs(2), "{api:?}: {after:?}");
    });
}
