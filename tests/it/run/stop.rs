//! The end of the container and signals on the way, with a service file.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::namespace::Place;
use crate::support::service::{Folder, command, count, list};
use crate::support::skip::{self, Need};
use crate::support::{actor, process};

/// Main logs the signals that it gets, up to `last`, which ends it.
fn logging(last: i32, more: &str) -> Folder {
    Folder::with(&(command(&["signals", "--until", &last.to_string()]) + more))
}

#[test]
fn a_stop_reaches_main_as_the_right_signal() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let own = "stop = { signal = \"USR2\" }\n";
    // What ensign gets, main's file, what main gets.
    let cases = [
        (Signal::SIGTERM, "", 15),
        (Signal::SIGINT, "", 2),
        (Signal::SIGQUIT, "", 3),
        (Signal::SIGTERM, own, 12),
        (Signal::SIGINT, own, 2),
    ];
    for (sent, file, got) in cases {
        for place in [Place::First, Place::Guest] {
            let service = logging(got, file).start(place);
            service.running.until_line("ready");
            service.send(sent);
            let ended = service.running.wait();
            assert_eq!(
                (ended.code, ended.stdout.as_str()),
                (0, &*format!("ready\nmain {got}\n")),
                "{sent} {place:?}"
            );
        }
    }
}

#[test]
fn other_signals_are_mains() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let service = logging(15, "").start(place);
        service.running.until_line("ready");
        let main = service.pid(&["signals", "--until", "15"]);
        for (signal, number) in
            [(Signal::SIGHUP, 1), (Signal::SIGUSR1, 10), (Signal::SIGUSR2, 12), (Signal::SIGWINCH, 28)]
        {
            service.send(signal);
            service.running.until_line(&format!("main {number}"));
        }
        assert!(process::lives(main));
        let ended = service.stop();
        assert_eq!((ended.code, count(&ended.stdout, "main")), (0, 5), "{ended:?}");
    }
}

/// Also a second TERM while main still runs: what it makes of it is its own affair.
#[test]
fn a_main_that_ignores_its_stop_is_killed_after_its_timeout() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let timeout = Duration::from_millis(400);
    for place in [Place::First, Place::Guest] {
        let service =
            Folder::with(&(command(&["stubborn"]) + "stop = { timeout = \"400ms\" }\n")).start(place);
        service.running.until_line("ready");
        let asked = Instant::now();
        service.send(Signal::SIGTERM);
        service.send(Signal::SIGTERM);
        let ended = service.running.wait();
        let took = asked.elapsed();
        assert_eq!(ended.code, 137, "{ended:?}");
        assert!(took >= timeout && took < timeout + Duration::from_secs(3), "{place:?} {took:?}");
        assert_eq!(count(&ended.stderr, "killed: still there after its stop timeout"), 1, "{ended:?}");
    }
}

#[test]
fn what_main_leaves_in_sessions_of_its_own_is_swept() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let sweep = Duration::from_millis(300);
    let argv = ["leave-behind", "--count", "2", "--deep", "--code", "7", "--term"];
    for place in [Place::First, Place::Guest] {
        for (term, killed) in [("obey", 0), ("ignore", 1)] {
            let argv: Vec<&str> = argv.iter().copied().chain([term]).collect();
            let text = command(&argv) + "stop = { sweep = \"300ms\" }\nrestart = { when = \"never\" }\n";
            let ended = Folder::with(&text).start(place).running.wait();
            assert_eq!((ended.code, count(&ended.stdout, "TERM")), (7, 4), "{place:?} {term} {ended:?}");
            assert_eq!(
                count(&ended.stderr, "what is left gets SIGKILL"),
                killed,
                "{place:?} {term} {ended:?}"
            );
            // Not the second more that a process may take which hangs in the kernel.
            let longest = sweep + Duration::from_millis(950);
            assert!(ended.took < longest && (killed == 0 || ended.took >= sweep), "{place:?} {ended:?}");
        }
    }
}

/// A run that crashes leaves them as well; they are not the next run's, but they are swept at the end.
#[test]
fn a_stop_sweeps_what_earlier_runs_have_left() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let script = "mkdir \"$1/first\" && exec \"$0\" leave-behind --code 5; exec \"$0\" hold";
    let argv =
        ["sh", "-c", script].map(Into::into).into_iter().chain([actor().into(), folder.path("").into()]);
    let argv: Vec<_> = argv.collect();
    folder.write("web.toml", &(list("command", &argv) + "restart = { delay = \"1ms\" }\n"));
    for place in [Place::First, Place::Guest] {
        let _fresh = std::fs::remove_dir(folder.path("first"));
        let service = folder.start(place);
        service.pid(&["hold"]);
        let ended = service.stop();
        assert_eq!((ended.code, count(&ended.stdout, "TERM")), (143, 1), "{place:?} {ended:?}");
    }
}
