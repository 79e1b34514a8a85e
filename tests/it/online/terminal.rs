//! `ensign ls --watch` on a terminal: drawn in place, as wide as there is room, and gone without a trace.

use std::process::{Child, Command};

use ensign::config::Conflict;
use ensign::config::units::label;
use ensign::registry::{Claim, Record};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::runtime::Runtime;

use crate::support::place::{LONG, Place, record};
use crate::support::terminal::Terminal;
use crate::support::{actor, ensign, process, wait};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const INTERRUPT: &str = "\x03";

fn window(terminal: &Terminal, rows: u16, columns: u16) {
    let mut set = Command::new(actor());
    set.args(["window", &rows.to_string(), &columns.to_string()]).stdin(terminal.end());
    assert!(set.status().expect("the actor runs").success());
}

fn start(terminal: &Terminal, place: &Place) -> Child {
    let mut ls = Command::new(actor());
    ls.arg("session").arg(ensign()).args(["ls", "--watch", "--registry", &super::url(place)]);
    ls.env("TERM", "xterm").env_remove("NO_COLOR");
    ls.stdin(terminal.end()).stdout(terminal.end()).stderr(terminal.end()).spawn().expect("the actor runs")
}

fn claim(instance: &str) -> Claim {
    Claim::new(vec![Record { instance: label(instance).expect("a label"), ..record("192.0.2.7") }], LONG)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The lines of the last whole frame, as they look.
fn frame(terminal: &Terminal) -> Vec<String> {
    let shown = terminal.shown();
    let whole = shown.rsplit_once("\x1b[J").map_or("", |(before, _)| before);
    let frame = whole.rsplit_once("\x1b[H").map_or("", |(_, frame)| frame);
    let plain = |line: &str| {
        let mut parts = line.split('\x1b');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once(['m', 'K']).map_or("", |(_, rest)| rest))
    };
    frame.split("\r\n").map(plain).collect()
}

fn until_a_line(terminal: &Terminal, what: &str, is_it: impl Fn(&str) -> bool) {
    wait::until(what, || frame(terminal).iter().any(|line| is_it(line)).then_some(()));
}

#[test]
fn the_list_is_drawn_in_place_changes_are_marked_and_the_end_is_clean() {
    let (mut terminal, place, runtime) = (Terminal::new(), Place::v3(), runtime());
    let registry = place.registry();
    let (one, two) = (claim("one"), claim("two"));
    runtime.block_on(registry.register(&one, Conflict::Take)).expect("registered");
    window(&terminal, 10, 100);
    let mut ls = start(&terminal, &place);
    until_a_line(&terminal, "the one that is there", |line| {
        line.starts_with("  web.s.prod.example.com  one")
    });
    runtime.block_on(registry.register(&two, Conflict::Take)).expect("registered");
    until_a_line(&terminal, "the one that came", |line| line.starts_with("+ web.s.prod.example.com  two"));
    assert!(terminal.shown().contains("\x1b[32m+ "), "it is green");
    runtime.block_on(registry.withdraw(&one)).expect("withdrawn");
    until_a_line(&terminal, "the one that went", |line| line.starts_with("- ") && line.ends_with("gone"));
    until_a_line(&terminal, "its mark to go", |line| line.ends_with(": 1 announced"));
    wait::until_true("what is gone not to be shown any more", || {
        let lines = frame(&terminal);
        lines.len() == 4 && lines[3].starts_with("  web.s.prod.example.com  two")
    });

    window(&terminal, 10, 40);
    wait::until_true("a frame for the narrow window", || {
        let lines = frame(&terminal);
        lines.iter().all(|line| line.chars().count() <= 40) && lines.iter().any(|line| line.contains('…'))
    });
    assert!(frame(&terminal)[3].contains("8087"), "names give way first: {:?}", frame(&terminal));
    window(&terminal, 3, 40);
    wait::until_true("a frame for the low window", || frame(&terminal).len() == 3);
    assert!(frame(&terminal)[2].starts_with('…'), "{:?}", frame(&terminal));

    terminal.send(INTERRUPT);
    assert_eq!(ls.wait().expect("ours").code(), Some(130));
    // It comes in pieces.
    let header = terminal.until(terminal.until(0, LEAVE), "\r\n");
    terminal.until(header, "\r\n");
    let shown = terminal.shown();
    let (_, left) = shown.rsplit_once(LEAVE).expect("it was waited for");
    assert_eq!(shown.matches(ENTER).count(), 1);
    let lines: Vec<&str> = left.split("\r\n").collect();
    assert_eq!(lines.len(), 3, "the list, and the cursor below it: {left:?}");
    assert!(lines[0].starts_with("NAME") && lines[1].contains("two") && lines[2].is_empty(), "{left:?}");
}

#[test]
fn stopped_it_gives_the_terminal_back_and_continued_it_takes_it_again() {
    let (mut terminal, place, runtime) = (Terminal::new(), Place::dir(), runtime());
    runtime.block_on(place.registry().register(&claim("one"), Conflict::Take)).expect("registered");
    let ls = format!("{} ls --watch --registry {}\n", ensign().display(), super::url(&place));
    let mut shell = Command::new(actor());
    shell.args(["session", "bash", "--norc", "--noprofile", "-i"]).env("TERM", "xterm").env("PS1", "$ ");
    let shell = shell.stdin(terminal.end()).stdout(terminal.end()).stderr(terminal.end());
    let mut shell = shell.spawn().expect("bash runs");
    terminal.until(0, "$ ");
    terminal.send(&ls);
    until_a_line(&terminal, "the list", |line| line.contains("one"));
    let from = terminal.shown().len();
    terminal.send("\x1a");
    let left = terminal.until(from, LEAVE);
    terminal.until(left, "Stopped");
    terminal.send("fg\n");
    terminal.until(left, ENTER);
    terminal.send(INTERRUPT);
    terminal.until(left, LEAVE);
    terminal.send("exit 7\n");
    assert_eq!(shell.wait().expect("ours").code(), Some(7));
}

/// What a terminal can't do is not done to it.
#[test]
fn a_dumb_terminal_gets_lines() {
    let (terminal, place, runtime) = (Terminal::new(), Place::dir(), runtime());
    runtime.block_on(place.registry().register(&claim("one"), Conflict::Take)).expect("registered");
    let mut ls = Command::new(ensign());
    ls.args(["ls", "--watch", "--registry", &super::url(&place)]).env("TERM", "dumb");
    let mut ls = ls.stdin(terminal.end()).stdout(terminal.end()).spawn().expect("ensign runs");
    terminal.until(0, "+ web.s.prod.example.com one 192.0.2.7:8087\r\n");
    assert!(!terminal.shown().contains('\x1b'));
    nix::sys::signal::kill(Pid::from_raw(ls.id().cast_signed()), Signal::SIGTERM).expect("ours");
    let _ended = ls.wait().expect("ours");
    assert!(process::state(ls.id().cast_signed()).is_none());
}
