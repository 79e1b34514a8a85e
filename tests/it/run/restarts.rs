//! What follows the end of a run: by the policy, by a check, by the time it took to get ready.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::namespace::{Ended, Place};
use crate::support::service::{Folder, command, count, list, send};
use crate::support::skip::{self, Need};
use crate::support::{actor, process, wait};

/// A main that prints a line a run, then does `script` with `$0` for the actor and `$1` for a folder of its own.
fn each_run(script: &str, policy: &str) -> Ended {
    let folder = Folder::new();
    let argv = ["sh", "-c", &format!("echo run; {script}")].map(Into::into);
    let argv: Vec<_> = argv.into_iter().chain([actor().into(), folder.path("").into()]).collect();
    folder.write("web.toml", &format!("{}restart = {{ {policy} }}\n", list("command", &argv)));
    folder.start(Place::First).running.wait()
}

#[test]
fn each_policy_restarts_what_it_says() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let thrice = "delay = \"1ms\", give_up = { after = 3, within = \"10m\" }";
    // The policy, main's script, its runs, the container's code.
    let cases = [
        ("always", "exit 0", 3, 0),
        ("always", "exit 5", 3, 5),
        ("on-failure", "exit 0", 1, 0),
        ("on-failure", "exit 5", 3, 5),
        ("on-failure", "exec \"$0\" kill-self 9", 3, 137),
        ("on-failure", "mkdir \"$1/first\" && exit 5; exit 0", 2, 0),
        ("never", "exit 0", 1, 0),
        ("never", "exit 5", 1, 5),
        ("never", "exec \"$0\" kill-self 11", 1, 139),
    ];
    for (when, script, runs, code) in cases {
        let ended = each_run(script, &format!("when = \"{when}\", {thrice}"));
        let ran = count(&ended.stdout, "run");
        assert_eq!((ran, ended.code), (runs, code), "{when} {script}: {ended:?}");
        let gave_up = usize::from(runs == 3);
        assert_eq!(count(&ended.stderr, "given up"), gave_up, "{when} {script}: {ended:?}");
    }
}

/// The delay is drawn from 0 to its limit; what comes on top is ours. The best of a few: others run tests as well.
#[test]
fn a_restart_comes_within_its_delay() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let delay = Duration::from_millis(50);
    for place in [Place::First, Place::Guest] {
        let policy = "restart = { delay = \"50ms\", max_delay = \"50ms\" }\n";
        let service = Folder::with(&(command(&["hold"]) + policy)).start(place);
        let mut main = service.pid(&["hold"]);
        let mut took = vec![];
        for _ in 0..5 {
            let killed = Instant::now();
            send(main, Signal::SIGKILL);
            main = service.pid_after(main, &["hold"]);
            took.push(killed.elapsed());
        }
        took.sort();
        assert!(took[2] < delay + Duration::from_millis(100), "{place:?} {took:?}");
        assert_eq!(service.logged("ended: killed by SIGKILL"), 5);
        assert_eq!(service.stop().code, 143);
    }
}

#[test]
fn what_is_left_of_a_run_is_gone_before_the_next() {
    if skip::without(Need::Namespaces) {
        return;
    }
    // A member of main's group that would hold the next run's port.
    let script = "\"$0\" stubborn & exec \"$0\" hold";
    let argv: Vec<_> = ["sh", "-c", script].map(Into::into).into_iter().chain([actor().into()]).collect();
    let text = list("command", &argv) + "restart = { delay = \"1ms\" }\nstop = { sweep = \"10ms\" }\n";
    let service = Folder::with(&text).start(Place::First);
    let (main, rest) = (service.pid(&["hold"]), service.pid(&["stubborn"]));
    send(main, Signal::SIGKILL);
    let (_, next) = (service.pid_after(main, &["hold"]), service.pid_after(rest, &["stubborn"]));
    wait::until_true("the first one to be gone", || !process::lives(rest));
    assert_ne!(next, rest);
    assert_eq!(service.stop().code, 143);
}

#[test]
fn a_stop_during_the_delay_ends_it() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let policy = "restart = { delay = \"1h\", max_delay = \"1h\" }\n";
    let service = Folder::with(&(command(&["exit", "9"]) + policy)).start(Place::First);
    service.until_logged("starts again in");
    let ended = service.stop();
    assert_eq!(ended.code, 9, "{ended:?}");
}

#[test]
fn an_unhealthy_main_is_restarted_where_the_check_says_so() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("healthy", "");
    let exec = list("exec", &["test".into(), "-e".into(), folder.path("healthy").into()]);
    let check = format!("[[check]]\n{exec}every = \"30ms\"\ngrace = \"0s\"\nunhealthy = \"restart\"\n");
    let policy = "restart = { delay = \"1ms\" }\n";
    folder.write("web.toml", &(command(&["hold"]) + policy + &check));
    let service = folder.start(Place::First);
    let main = service.pid(&["hold"]);
    service.until_logged("check 1 is healthy");
    folder.remove("healthy");
    service.until_logged("stopping with SIGTERM to be started again: check 1 is unhealthy");
    folder.write("healthy", "");
    service.pid_after(main, &["hold"]);
    service.until_logged("ended: killed by SIGTERM");
    assert_eq!(service.stop().code, 143);
}

#[test]
fn not_ready_in_time_is_a_crash() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let text = command(&["hold"])
        + "ready = { by = \"checks\", timeout = \"150ms\" }\n\
           restart = { delay = \"1ms\", give_up = { after = 2, within = \"1m\" } }\n\
           [[check]]\nexec = [\"false\"]\n";
    let ended = Folder::with(&text).start(Place::First).running.wait();
    assert_eq!(ended.code, 143, "{ended:?}");
    assert_eq!(count(&ended.stderr, "not ready in time"), 2, "{}", ended.stderr);
    assert_eq!(count(&ended.stderr, " ready service"), 0, "{}", ended.stderr);
}
