//! The terminal: main is its foreground group, keys reach main once, and a shell's job control works through the init.

use std::ffi::OsString;
use std::process::Command;

use nix::sys::signal::Signal;

use super::signals::send;
use crate::support::namespace::{Place, Running, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::terminal::Terminal;
use crate::support::{acted, actor, process, wait, wrapped};

const INTERRUPT: &str = "\x03";
const SUSPEND: &str = "\x1a";
const PLACES: [Place; 2] = [Place::First, Place::Guest];

/// Starts `argv` as leader of the terminal's session, as a runtime does for `-it`.
fn start(place: Place, terminal: &Terminal, argv: Vec<OsString>) -> Running {
    let sandbox = Sandbox::new(place).through(acted(&["session"])).env("TERM", "dumb").env("PS1", "$ ");
    sandbox.stdin(terminal.end()).stdout(terminal.end()).stderr(terminal.end()).start(argv)
}

/// The numbers after `pgid=` and `tpgid=` of the first line after `from` that has them.
fn groups(terminal: &Terminal, from: usize) -> (String, String) {
    terminal.until(terminal.until(from, "tpgid="), "\r\n");
    let shown = terminal.shown();
    let number = |key: &str| shown[from..].split_once(key).expect("it was waited for").1.to_owned();
    let digits = |text: String| text.chars().take_while(char::is_ascii_digit).collect();
    (digits(number(" pgid=")), digits(number(" tpgid=")))
}

#[test]
fn main_has_the_foreground_and_reads_what_is_typed() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in PLACES {
        let mut terminal = Terminal::new();
        let running = start(place, &terminal, wrapped(&["tty"]));
        let (own, foreground) = groups(&terminal, 0);
        assert_eq!(own, foreground, "{place:?}");
        terminal.send("hello\n");
        terminal.until(0, "read hello");
        terminal.send("quit\n");
        assert_eq!(running.wait().code, 0, "{place:?}");
    }
}

/// Main gets `signal` of the terminal once. A signal through the init comes after it: twice would show by then.
fn once(place: Place, signal: i32, act: impl Fn(&mut Terminal)) {
    let mut terminal = Terminal::new();
    let running = start(place, &terminal, wrapped(&["signals", "--until", "12"]));
    terminal.until(0, "ready");
    act(&mut terminal);
    terminal.until(0, &format!("main {signal}\r"));
    send(running.init(), Signal::SIGUSR1);
    terminal.until(0, "main 10\r");
    send(running.init(), Signal::SIGUSR2);
    assert_eq!(running.wait().code, 0, "{place:?}");
    assert_eq!(terminal.shown().matches(&format!("main {signal}\r")).count(), 1, "{place:?}");
}

#[test]
fn an_interrupt_reaches_main_once() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in PLACES {
        once(place, libc::SIGINT, |terminal| terminal.send(INTERRUPT));
    }
}

#[test]
fn a_change_of_the_window_reaches_main_once() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in PLACES {
        once(place, libc::SIGWINCH, |terminal| {
            let changed = Command::new(actor()).args(["window", "50", "132"]).stdin(terminal.end()).status();
            assert!(changed.expect("the actor runs").success());
        });
    }
}

/// Nobody is there to see PID 1 stop: it stays awake, and passes on the CONT that wakes main.
#[test]
fn a_suspended_main_under_pid_1_is_woken_by_cont() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut terminal = Terminal::new();
    let running = start(Place::First, &terminal, wrapped(&["tty"]));
    terminal.until(0, "ready");
    let (init, main) = (running.init(), running.main());
    terminal.send(SUSPEND);
    wait::until_true("main to be stopped", || process::state(main) == Some('T'));
    assert_ne!(process::state(init), Some('T'));
    send(init, Signal::SIGCONT);
    terminal.send("hello\n");
    terminal.until(0, "read hello");
    terminal.send("quit\n");
    assert_eq!(running.wait().code, 0);
}

/// A shell with job control, and the command line that it is to run.
fn shell(terminal: &Terminal) -> (Running, String) {
    let argv = ["bash", "--norc", "--noprofile", "-i"].map(OsString::from).to_vec();
    let running = start(Place::Guest, terminal, argv);
    terminal.until(0, "$ ");
    let command = wrapped(&["tty"]).iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>();
    (running, command.join(" "))
}

/// After `fg` main has the terminal again; then it ends, and the shell goes on with its code.
fn brought_back(mut terminal: Terminal, running: Running) {
    let from = terminal.shown().len();
    terminal.send("fg\n");
    terminal.send("hello\n");
    let read = terminal.until(from, "read hello") - "read hello".len();
    let (own, foreground) = groups(&terminal, read);
    assert_eq!(own, foreground);
    terminal.send("quit\n");
    terminal.send("echo code=$?.\nexit 5\n");
    terminal.until(from, "code=0.");
    assert_eq!(running.wait().code, 5);
}

const NO_JOBS: &str = "takes no part in a shell's job control";

#[test]
fn a_shell_sees_the_init_stop_with_main_and_brings_both_back() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(NO_JOBS) {
        return;
    }
    let mut terminal = Terminal::new();
    let (running, command) = shell(&terminal);
    terminal.send(&format!("{command}\n"));
    terminal.until(0, "ready pgid");
    let init = running.pid_of(&wrapped(&["tty"]));
    let main = process::children(init)[0];
    terminal.send(SUSPEND);
    terminal.until(0, "Stopped");
    for pid in [init, main] {
        assert_eq!(process::state(pid), Some('T'));
    }
    brought_back(terminal, running);
}

/// Reading from the background stops main, as it stops any job; the shell keeps its terminal until `fg`.
#[test]
fn an_init_started_in_the_background_leaves_the_terminal_to_the_shell() {
    if skip::without(Need::Namespaces) || skip::as_a_peer(NO_JOBS) {
        return;
    }
    let mut terminal = Terminal::new();
    let (running, command) = shell(&terminal);
    terminal.send(&format!("{command} &\n"));
    terminal.until(0, "ready pgid");
    let (own, foreground) = groups(&terminal, 0);
    assert_ne!(own, foreground, "the foreground is the shell's");
    let init = running.pid_of(&wrapped(&["tty"]));
    wait::until_true("the job to stop for its input", || process::state(init) == Some('T'));
    terminal.send("echo still-$((40 + 2))\n");
    terminal.until(0, "still-42");
    brought_back(terminal, running);
}

/// Without job control a script and what it runs share one group, and main's is another: it would read no more.
#[test]
fn a_script_has_its_terminal_back_after_the_init() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("leaves the terminal with main's group") {
        return;
    }
    let mut terminal = Terminal::new();
    let init =
        wrapped(&["exit", "0"]).iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>();
    let script = format!("{}; echo done; read line; echo got=$line.", init.join(" "));
    let running = start(Place::Guest, &terminal, ["sh", "-c", &script].map(OsString::from).to_vec());
    terminal.until(0, "done");
    terminal.send("hello\n");
    terminal.until(0, "got=hello.");
    assert_eq!(running.wait().code, 0);
}

/// The first of its session has no shell above it that would continue it: it goes on while main is stopped.
#[test]
fn an_init_that_nobody_could_continue_does_not_stop() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut terminal = Terminal::new();
    let running = start(Place::Guest, &terminal, wrapped(&["tty"]));
    groups(&terminal, 0);
    let main = running.main();
    terminal.send(SUSPEND);
    wait::until_true("main to be stopped", || process::state(main) == Some('T'));
    send(main, Signal::SIGCONT);
    terminal.send("quit\n");
    assert_eq!(running.wait().code, 0, "it reaps, so it runs");
}
