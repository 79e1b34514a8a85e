//! Forwarding: what is sent to the init arrives at main and its group, whole, once, and however early it comes.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::namespace::{Place, Running, Sandbox};
pub use crate::support::process::send;
use crate::support::skip::{self, Need};
use crate::support::{acted, actor, process, wait, wrapped};

/// How often a race is tried.
const TRIES: u32 = 100;
const TERM: u64 = 1 << (libc::SIGTERM - 1);

/// ILL, TRAP, BUS, FPE, SEGV, SYS (a fault of the init's own is not main's), and CHLD.
const KEPT: [i32; 7] = [4, 5, 7, 8, 11, 31, 17];
/// ABRT, which a peer takes for a fault of its own, and the two that libc keeps for itself.
const PEERS_KEEP: [i32; 3] = [6, 32, 33];
const TTIN_TTOU: [i32; 2] = [21, 22];
const LAST: i32 = 64;

/// Sends any signal: nix has no names for the real-time ones, 32 and 33.
pub fn send_number(pid: i32, signal: i32) {
    let sent = Command::new(actor()).args(["send", &signal.to_string(), &pid.to_string()]).status();
    assert!(sent.expect("the actor runs").success(), "signal {signal} to {pid}");
}

/// Main and another process of its group, both logging what they get.
fn logging_group(place: Place) -> Running {
    let last = LAST.to_string();
    let args = ["signals", "--member", "--until", &last];
    let running = Sandbox::new(place).env("TINI_KILL_PROCESS_GROUP", "1").start(wrapped(&args));
    running.until_line("ready");
    running.until_line("ready member");
    running
}

/// Sends each of `signals` when the one before has arrived; each must have arrived once in the end, and nothing else.
fn arrive(place: Place, signals: &[i32]) {
    let running = logging_group(place);
    let init = running.init();
    for signal in signals.iter().chain([&LAST]) {
        send_number(init, *signal);
        running.until_line(&format!("main {signal}"));
        running.until_line(&format!("member {signal}"));
    }
    let ended = running.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    for who in ["main", "member"] {
        // Main hears of its member's end, from the kernel.
        let got = ended.stdout.lines().filter_map(|line| line.strip_prefix(who)?.trim().parse().ok());
        let got: Vec<i32> = got.filter(|signal| *signal != libc::SIGCHLD).collect();
        let sent: Vec<i32> = signals.iter().copied().chain([LAST]).collect();
        assert_eq!(got, sent, "{who} {place:?}");
    }
}

#[test]
fn every_signal_reaches_main_and_its_group_once() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let apart = |n: &i32| matches!(*n, libc::SIGKILL | libc::SIGSTOP | LAST);
    let others = [&KEPT[..], &PEERS_KEEP, &TTIN_TTOU].concat();
    let signals: Vec<i32> = (1..LAST).filter(|n| !apart(n) && !others.contains(n)).collect();
    arrive(Place::First, &signals);
    arrive(Place::Guest, &signals);
}

#[test]
fn ttin_and_ttou_are_forwarded_like_the_rest() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("ignores these two") {
        return;
    }
    arrive(Place::First, &TTIN_TTOU);
    arrive(Place::Guest, &TTIN_TTOU);
}

#[test]
fn what_peers_keep_is_forwarded_like_the_rest() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("keeps these three") {
        return;
    }
    arrive(Place::First, &PEERS_KEEP);
    arrive(Place::Guest, &PEERS_KEEP);
}

/// After them come two that are forwarded, one by one: had any been, it would stand before the second.
#[test]
fn faults_and_chld_are_not_forwarded() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let running = Sandbox::new(Place::First).start(wrapped(&["signals", "--until", "12"]));
    running.until_line("ready");
    let init = running.init();
    for signal in KEPT {
        send_number(init, signal);
    }
    send(init, Signal::SIGUSR1);
    running.until_line("main 10");
    send(init, Signal::SIGUSR2);
    let ended = running.wait();
    assert_eq!((ended.code, &*ended.stdout), (0, "ready\nmain 10\nmain 12\n"));
}

/// A TERM without limit: a main that ignores it lives on, and so does the init.
#[test]
fn a_main_that_ignores_term_is_not_killed_for_it() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let running = Sandbox::new(Place::First).start(wrapped(&["signals", "--until", "12"]));
    running.until_line("ready");
    let init = running.init();
    for _ in 0..3 {
        send(init, Signal::SIGTERM);
    }
    send(init, Signal::SIGUSR1);
    running.until_line("main 10");
    assert!(process::lives(init) && process::lives(running.main()));
    send(init, Signal::SIGUSR2);
    assert_eq!(running.wait().code, 0);
}

/// The earliest that there is: the signal waits, blocked, when the init is exec'd. Main's group does not exist yet.
#[test]
fn a_term_that_came_before_the_init_is_not_lost() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("hands its starter's mask on, so main can't get it")
    {
        return;
    }
    for place in [Place::First, Place::Guest] {
        for _ in 0..TRIES / 2 {
            let ended = Sandbox::new(place).through(acted(&["blocked", "15"])).run(wrapped(&["hold"]));
            assert_eq!(ended.code, 143, "{place:?} {ended:?}");
        }
    }
}

/// PID 1 gets no signal that it neither blocks nor handles: the kernel drops it. From the moment that it does either,
/// none may be lost: not before main is there, not before main has its group, not while main is being exec'd.
#[test]
fn a_term_during_the_start_of_pid_1_is_not_lost() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for n in 0..TRIES {
        let running = Sandbox::new(Place::First).start(wrapped(&["hold"]));
        let init = running.init_at_once();
        wait::at_once("TERM to be blocked or handled", || {
            let masks = ["SigBlk", "SigCgt"].map(|field| process::mask(init, field).unwrap_or(0));
            // One that sleeps in `sigwait` shows neither, but has started main by then.
            let armed = masks.iter().any(|mask| mask & TERM != 0) || !process::children(init).is_empty();
            armed.then_some(())
        });
        after(Duration::from_micros(20) * n);
        send(init, Signal::SIGTERM);
        assert_eq!(running.wait().code, 143, "try {n}");
    }
}

/// A guest dies of it, or passes it on; either way the run is over.
#[test]
fn a_term_during_the_start_of_a_guest_is_not_lost() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for n in 0..TRIES {
        let running = Sandbox::new(Place::Guest).start(wrapped(&["hold"]));
        let init = running.init_at_once();
        after(Duration::from_micros(30) * n);
        send(init, Signal::SIGTERM);
        assert_eq!(running.wait().code, 143, "try {n}");
    }
}

/// The moment that the child exists: its group may not.
#[test]
fn a_term_before_main_has_its_group_is_not_lost() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for n in 0..TRIES {
        let running = Sandbox::new(Place::First).start(wrapped(&["hold"]));
        let init = running.init_at_once();
        wait::at_once("a child", || process::children(init).first().copied());
        send(init, Signal::SIGTERM);
        assert_eq!(running.wait().code, 143, "try {n}");
    }
}

/// Microseconds, by burning them: a sleep is too coarse to walk over a start-up.
fn after(delay: Duration) {
    let started = Instant::now();
    while started.elapsed() < delay {
        std::hint::spin_loop();
    }
}
