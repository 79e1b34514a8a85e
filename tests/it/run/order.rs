//! Several services: who starts when, who stops when, and whose end is whose business.

use std::ffi::OsString;

use nix::sys::signal::Signal;

use crate::support::namespace::{Place, Sandbox};
use crate::support::service::{Folder, Service, command, count, list, send};
use crate::support::skip::{self, Need};
use crate::support::{process, wait};

/// A service that says when it comes and when it goes. Going takes a while, so that an order can be seen.
fn talker(name: &str) -> String {
    let script = format!(
        "trap 'sleep 0.1; echo {name} down; exit 0' TERM; echo {name} up; while :; do sleep 1 & wait; done"
    );
    shell(&script)
}

fn shell(script: &str) -> String {
    let argv: Vec<OsString> = ["sh", "-c", script].map(OsString::from).into();
    list("command", &argv)
}

/// Where `line` stands among the lines.
fn place_of(text: &str, line: &str) -> usize {
    text.lines().position(|seen| seen.contains(line)).unwrap_or_else(|| panic!("no {line:?} in {text}"))
}

#[test]
fn a_oneshot_ends_before_main_begins() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("migrate.toml", &(shell("sleep 0.2; echo migrated") + "kind = \"oneshot\"\nmain = false\n"));
    folder.write("web.toml.d", "no service's file");
    folder.write(
        "app.toml",
        &(shell("echo serving; exit 4")
            + "after = [\"migrate\"]\n\
        restart = { when = \"never\" }\nmain = true\n"),
    );
    let ended = folder.start(Place::First).running.wait();
    assert_eq!((ended.stdout.as_str(), ended.code), ("migrated\nserving\n", 4), "{ended:?}");
}

#[test]
fn main_never_begins_after_a_oneshot_that_failed() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write(
        "migrate.toml",
        &(shell("echo tried; exit 6")
            + "kind = \"oneshot\"\nmain = false\n\
          restart = { delay = \"1ms\", give_up = { after = 3, within = \"1m\" } }\n"),
    );
    folder.write("app.toml", &(shell("echo serving") + "after = [\"migrate\"]\nmain = true\n"));
    let ended = folder.start(Place::First).running.wait();
    assert_eq!((ended.stdout.as_str(), ended.code), ("tried\ntried\ntried\n", 6), "{ended:?}");
    assert_eq!(count(&ended.stderr, "never starts"), 1, "{ended:?}");
}

/// db, then app, then tail, which is `after` main and so goes before it. db gets its TERM when main is gone.
fn three(place: Place) -> Service {
    let folder = Folder::new();
    folder.write("db.toml", &(talker("db") + "main = false\n"));
    folder.write("app.toml", &(talker("app") + "after = [\"db\"]\nmain = true\n"));
    folder.write("tail.toml", &(talker("tail") + "after = [\"app\"]\nmain = false\n"));
    let service = folder.start(place);
    for name in ["db", "app", "tail"] {
        service.running.until_line(&format!("{name} up"));
    }
    service
}

#[test]
fn services_start_in_order_and_stop_in_the_reverse() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let ended = three(place).stop();
        assert_eq!(ended.code, 0, "{ended:?}");
        let started =
            ["db", "app", "tail"].map(|name| place_of(&ended.stderr, &format!("started service=\"{name}\"")));
        assert!(started.is_sorted(), "{}", ended.stderr);
        let down: Vec<&str> = ended.stdout.lines().filter(|line| line.ends_with("down")).collect();
        assert_eq!(down, ["tail down", "app down", "db down"], "{ended:?}");
    }
}

/// What comes after a daemon waits for its checks, where it is ready by them.
#[test]
fn a_service_waits_until_the_one_before_is_ready() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let exec = list("exec", &["test".into(), "-e".into(), folder.path("up").into()]);
    let ready = format!("ready = {{ by = \"checks\" }}\nmain = false\n[[check]]\n{exec}every = \"20ms\"\n");
    folder.write("db.toml", &(command(&["stubborn"]) + "stop = { timeout = \"1ms\" }\n" + &ready));
    folder.write("app.toml", &(command(&["hold"]) + "after = [\"db\"]\nmain = true\n"));
    let service = folder.start(Place::First);
    service.pid(&["stubborn"]);
    assert_eq!(service.logged("started service=\"app\""), 0, "{}", service.log());
    folder.write("up", "");
    service.until_logged("started service=\"app\"");
    let log = service.log();
    assert!(place_of(&log, "ready service=\"db\"") < place_of(&log, "started service=\"app\""), "{log}");
}

#[test]
fn a_sidecars_crash_is_its_own_business() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("app.toml", &(command(&["hold"]) + "main = true\n"));
    folder.write("side.toml", &(command(&["signals"]) + "main = false\nrestart = { delay = \"1ms\" }\n"));
    let service = folder.start(Place::First);
    let (main, mut side) = (service.pid(&["hold"]), service.pid(&["signals"]));
    for _ in 0..3 {
        send(side, Signal::SIGKILL);
        side = service.pid_after(side, &["signals"]);
    }
    assert_eq!((service.pid(&["hold"]), process::lives(main)), (main, true));
    // Main's end is the container's, and takes the sidecar with it.
    send(main, Signal::SIGKILL);
    let main = service.pid_after(main, &["hold"]);
    assert_eq!(service.pid(&["signals"]), side, "nor is main's crash the sidecar's");
    service.send(Signal::SIGTERM);
    wait::until_true("both to be gone", || !process::lives(main) && !process::lives(side));
    assert_eq!(service.running.wait().code, 143);
}

/// A sidecar that is down for good is not the container's end either; main's is, whatever the sidecar does.
#[test]
fn main_goes_on_without_a_sidecar_that_gave_up() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("app.toml", &(command(&["hold"]) + "main = true\n"));
    let policy = "restart = { delay = \"1ms\", give_up = { after = 2, within = \"1m\" } }\n";
    folder.write("side.toml", &(command(&["exit", "3"]) + "main = false\n" + policy));
    let service = folder.start(Place::First);
    service.until_logged("given up service=\"side\"");
    assert!(process::lives(service.pid(&["hold"])));
    assert_eq!(service.stop().code, 143);
}

/// Two readers of one stdin would each get half of it.
#[test]
fn stdin_is_mains_alone() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("words", "a line\n");
    let tell = |name: &str| {
        shell(&format!("echo {name}=$(readlink /proc/self/fd/0); cat; echo {name} read; sleep 9"))
    };
    folder.write("app.toml", &(tell("app") + "main = true\nafter = [\"side\"]\n"));
    folder.write("side.toml", &(tell("side") + "main = false\n"));
    let words = folder.path("words");
    let stdin = std::fs::File::open(&words).expect("it has been written");
    let service = folder.start_in(Sandbox::new(Place::First).stdin(stdin));
    for line in ["side=/dev/null", "side read", &format!("app={}", words.display()), "a line", "app read"] {
        service.running.until_line(line);
    }
    assert_eq!(service.running.stdout().matches("a line").count(), 1);
}
