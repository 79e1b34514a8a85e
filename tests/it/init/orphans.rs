//! Reaping: every orphan at once, however many, while main runs on; and what main leaves behind when it ends.

use std::ffi::OsString;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::signals::send;
use crate::support::namespace::{Ended, Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{acted, actor, ensign, process, wait, wrapped};

/// How long what is left has from TERM to KILL, by default.
const SWEEP: Duration = Duration::from_secs(2);

fn reaps(place: Place, count: &str) {
    let sandbox = Sandbox::new(place).env("TINI_SUBREAPER", "1");
    let running = sandbox.start(wrapped(&["orphans", count, "--hold"]));
    running.until_line("ready");
    let (init, main) = (running.init(), running.main());
    wait::until_true("only main to be left", || process::children(init) == [main]);
    assert!(process::lives(main));
    send(init, Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
}

#[test]
fn twenty_thousand_orphans_are_reaped_while_main_holds_on() {
    if skip::without(Need::Namespaces) {
        return;
    }
    reaps(Place::First, "20000");
}

#[test]
fn a_guest_reaps_orphans_too() {
    if skip::without(Need::Namespaces) {
        return;
    }
    reaps(Place::Guest, "2000");
}

/// Above the guest is a PID 1 that would reap them as well: one that lives tells whose they are.
#[test]
fn an_orphan_under_a_guest_becomes_its_child() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let argv = wrapped_shell("(\"$0\" hold &); exec \"$0\" hold");
    let running = Sandbox::new(Place::Guest).env("TINI_SUBREAPER", "1").start(argv);
    let init = running.init();
    wait::until_true("main and the orphan to be its children", || {
        let children = process::children(init);
        children.len() == 2 && children.iter().all(|pid| process::argv(*pid) == acted(&["hold"]))
    });
    send(init, Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
}

/// `ensign -- sh -c SCRIPT`, in which `$0` is the actor.
fn wrapped_shell(script: &str) -> Vec<OsString> {
    let shell = ["--", "sh", "-c", script].map(OsString::from);
    [ensign().into()].into_iter().chain(shell).chain([actor().into()]).collect()
}

/// A main that ends in the middle of it: its code is not lost among theirs.
#[test]
fn mains_code_is_not_lost_among_orphans() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let argv = wrapped_shell("\"$0\" orphans 300 --batch 1; exit 77");
    for _ in 0..10 {
        let ended = Sandbox::new(Place::First).run(argv.clone());
        assert_eq!(ended.code, 77, "{ended:?}");
    }
}

fn leaves(place: Place, term: &str) -> Ended {
    let args = ["leave-behind", "--count", "3", "--deep", "--code", "7", "--term", term];
    let ended = Sandbox::new(place).run(wrapped(&args));
    assert_eq!(ended.code, 7, "{place:?} {ended:?}");
    assert_eq!(count(&ended, "left"), 6, "{place:?} {ended:?}");
    ended
}

fn count(ended: &Ended, what: &str) -> usize {
    ended.stdout.lines().filter(|line| line.starts_with(what)).count()
}

const PEERS_LEAVE: &str = "leaves without what is left, and the kernel kills that";

#[test]
fn what_is_left_gets_term_and_the_init_leaves_with_the_last() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(PEERS_LEAVE) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let ended = leaves(place, "obey");
        assert_eq!(count(&ended, "TERM"), 6, "{place:?} {ended:?}");
        assert!(ended.took < SWEEP, "{place:?} {ended:?}");
    }
}

#[test]
fn what_is_left_is_waited_for_and_no_longer_than_that() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(PEERS_LEAVE) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let ended = leaves(place, "300");
        assert_eq!(count(&ended, "end"), 6, "{place:?} {ended:?}");
        assert!(ended.took < SWEEP, "{place:?} {ended:?}");
    }
}

#[test]
fn what_ignores_term_is_killed_after_the_sweep() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(PEERS_LEAVE) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let ended = leaves(place, "ignore");
        assert_eq!(count(&ended, "TERM"), 6, "{place:?} {ended:?}");
        assert!(ended.took >= SWEEP, "{place:?} {ended:?}");
    }
}
