//! Where it has to run: under another init, as nobody, on a root that can't be written, with next to no files.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::signals::send;
use crate::support::namespace::{Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{actor, ensign, process, wait, wrapped};

const NOBODY: u32 = 65534;

/// PID 1 waits for the init and then stays, so the end of the namespace can't be what ends main.
#[test]
fn main_dies_with_an_init_that_is_killed() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("sets a parent-death signal for itself only") {
        return;
    }
    let staying = ["sh", "-c", "\"$@\"; exec \"$0\" hold"].map(OsString::from);
    let argv = staying.into_iter().chain([actor().into()]).chain(wrapped(&["hold"])).collect();
    let running = Sandbox::new(Place::First).start(argv);
    let init = running.pid_of(&wrapped(&["hold"]));
    running.until_line("ready");
    let main = process::children(init)[0];
    send(init, Signal::SIGKILL);
    wait::until_true("main to be gone", || !process::lives(main));
    wait::until_true("PID 1 to have stayed", || {
        running.stdout().lines().filter(|line| *line == "ready").count() == 2
    });
}

/// The init and the payload alone, at /ensign and /actor.
fn bare(place: Place) -> Sandbox {
    Sandbox::new(place).bare_root(&[(&ensign(), "ensign"), (&actor(), "actor")])
}

fn bare_argv(args: &[&str]) -> Vec<OsString> {
    ["/ensign", "--", "/actor"].iter().chain(args).map(OsString::from).collect()
}

/// Reaps, forwards and gives the code, all of it as this user.
fn works(sandbox: impl Fn() -> Sandbox, user: u32) {
    let running = sandbox().start(bare_argv(&["orphans", "300", "--hold"]));
    running.until_line("ready");
    let (init, main) = (running.init(), running.main());
    wait::until_true("only main to be left", || process::children(init) == [main]);
    for pid in [init, main] {
        assert_eq!(process::status(pid, "Uid"), Some(vec![user.to_string(); 4].join("\t")));
    }
    send(init, Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
    let ended = sandbox().run(bare_argv(&["leave-behind", "--code", "7"]));
    assert_eq!(ended.code, 7, "{ended:?}");
    assert!(ended.stdout.contains("TERM"), "{ended:?}");
}

#[test]
fn works_alone_on_a_root_that_is_read_only() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("needs libc's files") {
        return;
    }
    works(|| bare(Place::First).read_only(), nix::unistd::geteuid().as_raw());
}

#[test]
fn works_as_nobody_on_a_root_that_is_read_only() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("needs libc's files") {
        return;
    }
    works(|| bare(Place::First).read_only().user(NOBODY), NOBODY);
    works(|| bare(Place::Guest).read_only().user(NOBODY), NOBODY);
}

#[test]
fn a_root_that_is_read_only_can_not_be_written() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let written: Vec<OsString> = ["sh", "-c", "echo x >\"$0\""].map(OsString::from).to_vec();
    let argv = |file: PathBuf| written.iter().cloned().chain([file.into()]).collect();
    let sandbox = || Sandbox::new(Place::First);
    assert_eq!(sandbox().run(argv(file.path().into())).code, 0);
    assert_ne!(sandbox().read_only().run(argv(file.path().into())).code, 0);
}

/// A loopback of its own: what is bound in one run is free in the next, and the host's is out of reach.
#[test]
fn works_in_a_network_of_its_own() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let run = || Sandbox::new(Place::First).net().start(wrapped(&["http", "127.0.0.1:80"]));
    let (one, two) = (run(), run());
    for running in [one, two] {
        let main = running.main();
        wait::until_true("port 80 to be listened on", || {
            let sockets = std::fs::read_to_string(format!("/proc/{main}/net/tcp")).unwrap_or_default();
            sockets.contains("0100007F:0050 00000000:0000 0A")
        });
        send(running.init(), Signal::SIGTERM);
        assert_eq!(running.wait().code, 0);
    }
}
