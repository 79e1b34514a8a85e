//! Standard streams that are closed, broken or full: none of it may cost a run, a code or a reap.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write, pipe};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use super::signals::send;
use crate::support::namespace::{Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{ensign, process, wait, wrapped};

const PLACES: [Place; 2] = [Place::First, Place::Guest];

const NEEDS_STDIN: &str = "ends when stdin is closed";

fn not_found() -> Vec<std::ffi::OsString> {
    vec![ensign().into(), "--".into(), "/no/such/command".into()]
}

#[test]
fn a_good_run_prints_nothing() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in PLACES {
        for code in ["0", "7"] {
            let ended = Sandbox::new(place).env("TINI_SUBREAPER", "1").run(wrapped(&["exit", code]));
            assert_eq!(
                (ended.code.to_string(), &*ended.stdout, &*ended.stderr),
                (code.into(), "", ""),
                "{place:?}"
            );
        }
    }
}

#[test]
fn a_closed_stream_costs_nothing() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(NEEDS_STDIN) {
        return;
    }
    for place in PLACES {
        for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
            let ended = Sandbox::new(place).redirected(closed).run(wrapped(&["exit", "7"]));
            assert_eq!(ended.code, 7, "{place:?} {closed} {ended:?}");
            let ended = Sandbox::new(place).redirected(closed).run(not_found());
            assert_eq!(ended.code, 127, "{place:?} {closed} {ended:?}");
        }
    }
}

/// A descriptor of the init's own that lands on a free low number would be main's stdin.
#[test]
fn a_closed_stdin_is_not_replaced_by_something_of_the_inits() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(NEEDS_STDIN) {
        return;
    }
    let running = Sandbox::new(Place::First).redirected("<&-").start(wrapped(&["hold"]));
    running.until_line("ready");
    let stdin = std::fs::read_link(format!("/proc/{}/fd/0", running.main()));
    assert!(stdin.as_ref().map_or(true, |path| path.ends_with("null")), "{stdin:?}");
    send(running.init(), Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
}

#[test]
fn a_broken_stderr_costs_nothing() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("dies of its own message") {
        return;
    }
    for place in PLACES {
        for (argv, code) in [(wrapped(&["exit", "7"]), 7), (not_found(), 127)] {
            let (reader, writer) = pipe().expect("a pipe");
            drop(reader);
            let ended = Sandbox::new(place).stderr(writer).run(argv);
            assert_eq!(ended.code, code, "{place:?} {ended:?}");
        }
    }
}

/// A pipe that takes no byte more, and the end that nobody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    set_flags(&writer, OFlag::O_NONBLOCK);
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    set_flags(&writer, OFlag::empty());
    (reader, writer)
}

fn set_flags(end: &PipeWriter, flags: OFlag) {
    fcntl(end, FcntlArg::F_SETFL(flags)).expect("a pipe has flags");
}

fn is_blocking(end: &PipeWriter) -> bool {
    let flags = fcntl(end, FcntlArg::F_GETFL).expect("a pipe has flags");
    !OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK)
}

/// Reaps, forwards and ends, with `options` and a stderr that is full; and leaves the pipe, which main shares, blocking.
fn works_with_a_full_stderr(options: &[&str]) {
    let (_unread, writer) = full_pipe();
    let ours = writer.try_clone().expect("a descriptor is free");
    let mut argv = wrapped(&["orphans", "500", "--hold"]);
    argv.splice(1..1, options.iter().map(Into::into));
    let running = Sandbox::new(Place::First).stderr(writer).start(argv);
    running.until_line("ready");
    let (init, main) = (running.init(), running.main());
    wait::until_true("only main to be left", || process::children(init) == [main]);
    assert!(is_blocking(&ours), "the pipe's flags are main's too");
    send(init, Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
    assert!(is_blocking(&ours));
}

#[test]
fn a_full_stderr_delays_nothing() {
    if skip::without(Need::Namespaces) {
        return;
    }
    works_with_a_full_stderr(&[]);
}

#[test]
fn a_full_stderr_delays_nothing_when_much_is_said() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("has no such option") {
        return;
    }
    works_with_a_full_stderr(&["--log-level", "debug"]);
}

#[test]
fn a_full_stderr_does_not_hold_up_a_failed_start() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("waits until someone reads its message") {
        return;
    }
    let (_unread, writer) = full_pipe();
    assert_eq!(Sandbox::new(Place::First).stderr(writer).run(not_found()).code, 127);
}

/// A device that is always full gives errors, not silence.
#[test]
fn a_full_disk_costs_nothing() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    assert_eq!(Sandbox::new(Place::First).stderr(full).run(not_found()).code, 127);
}
