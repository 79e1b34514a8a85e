//! When a record is there: while the service is fit, to the TTL's end at most after that, and never else.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Announced, TTL, with_both};
use crate::support::namespace::Place;
use crate::support::service::{ANNOUNCE, Folder, KEY, VALUE, command, send};
use crate::support::skip::{self, Need};
use crate::support::watch::Held;
use crate::support::{ensign, process, wait};

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

/// What `ensign ls` prints of the folder, one line an instance.
fn listed(folder: &Path) -> Vec<String> {
    let registry = format!("dir:{}", folder.display());
    let told = Command::new(ensign()).args(["ls", "--json", "--registry", &registry]).output();
    let told = told.expect("ensign runs");
    assert!(told.status.success(), "{told:?}");
    String::from_utf8_lossy(&told.stdout).lines().map(str::to_owned).collect()
}

/// Two containers of one host that share a folder, without any etcd.
#[test]
fn a_folder_is_a_registry_as_good() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let shared = tempfile::tempdir().expect("a temporary folder");
    let shared = shared.path().join("registry");
    let start = |place, instance: &str| {
        let more = "stop = { drain = \"0s\" }\nready = { settle = \"300ms\" }\n\
                    restart = { delay = \"1ms\", max_delay = \"1ms\" }\n";
        let registry = format!("[registry]\nurl = \"dir:{}\"\n", shared.display());
        let announce = ANNOUNCE.replace("node-1", instance);
        Folder::with(&format!("{}{more}{announce}{registry}", command(&["hold"]))).start(place)
    };
    let until = |instances: &[&str]| {
        wait::until_true(&format!("{instances:?} to be listed"), || {
            let lines = listed(&shared);
            let names = |(line, name): (&String, &&str)| line.contains(&format!("\"instance\":\"{name}\""));
            lines.len() == instances.len() && lines.iter().zip(instances).all(names)
        });
    };
    let (one, two) = (start(Place::First, "node-1"), start(Place::Guest, "node-2"));
    until(&["node-1", "node-2"]);
    let held =
        std::fs::read_to_string(shared.join(KEY.trim_start_matches('/'))).expect("a file of the record");
    assert!(held.contains(VALUE), "{held}");
    // Both stay past their TTL; a crash takes one of them away until its next run has settled.
    wait::be_late(TTL + TTL / 2);
    until(&["node-1", "node-2"]);
    send(one.pid(&["hold"]), Signal::SIGKILL);
    until(&["node-2"]);
    until(&["node-1", "node-2"]);
    let killed = Instant::now();
    two.send(Signal::SIGKILL);
    until(&["node-1"]);
    assert!(killed.elapsed() > TTL / 2, "by its TTL: {:?}", killed.elapsed());
    assert_eq!(one.stop().code, 143);
    until(&[]);
}
