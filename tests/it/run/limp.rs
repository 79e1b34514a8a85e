//! The loop has panicked, for real: what is left of the init still reaps, passes signals on, and ends with main's code.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::namespace::{Place, Running, Sandbox};
use crate::support::service::send;
use crate::support::skip::{self, Need};
use crate::support::{acted, actor, process, wait};

/// See tests/support/broken.rs.
fn broken() -> PathBuf {
    let beside = actor().with_file_name("broken");
    assert!(
        beside.exists(),
        "{beside:?} is missing: cargo build --example broken (with the profile of this run)"
    );
    beside
}

fn start(place: Place, args: &[&str]) -> Running {
    let argv: Vec<OsString> = [broken().into()].into_iter().chain(acted(args)).collect();
    let running = Sandbox::new(place).start(argv);
    wait::until_true("the loop to have died", || running.stderr().contains("supervision has ended"));
    assert!(running.stderr().contains("panicked at"), "{}", running.stderr());
    running
}

#[test]
fn a_dead_loop_still_passes_signals_on_and_ends_with_mains_code() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let running = start(place, &["signals"]);
        running.until_line("ready");
        let init = running.init();
        for (signal, number) in [(Signal::SIGHUP, 1), (Signal::SIGUSR1, 10), (Signal::SIGINT, 2)] {
            send(init, signal);
            running.until_line(&format!("main {number}"));
        }
        send(init, Signal::SIGTERM);
        assert_eq!(running.wait().code, 0, "{place:?}");
        let running = start(place, &["hold"]);
        running.until_line("ready");
        send(running.init(), Signal::SIGTERM);
        assert_eq!(running.wait().code, 143, "{place:?}");
        assert_eq!(start(place, &["crash-after", "300", "7"]).wait().code, 7, "{place:?}");
    }
}

#[test]
fn a_dead_loop_still_reaps() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let running = start(place, &["orphans", "1000", "--hold"]);
        running.until_line("ready");
        let (init, main) = (running.init(), running.pid_of(&acted(&["orphans", "1000", "--hold"])));
        // The check's own process is the other one.
        wait::until_true("the orphans to be gone", || {
            let children = process::children(init);
            children.contains(&main) && children.len() <= 2 && children.iter().all(|pid| process::lives(*pid))
        });
        send(init, Signal::SIGTERM);
        assert_eq!(running.wait().code, 143, "{place:?}");
    }
}
