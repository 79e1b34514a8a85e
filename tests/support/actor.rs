//! One payload program: everything that a supervised process may do to its init, one function a sub-command.
//! Tests, benchmarks and the demo run it; it must never use anything of ensign's, or it would test ensign with itself.
//!
//! There is no Rust start-up here (`no_main`): std's own would ignore SIGPIPE, handle SIGSEGV and reopen closed
//! descriptors before `state` could report what the init really handed down.
#![no_main]
#![expect(clippy::disallowed_methods, reason = "clippy.toml is for PID 1: this is what runs under one")]

use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

#[path = "actor/args.rs"]
mod args;
#[path = "actor/serve.rs"]
mod serve;
#[path = "actor/state.rs"]
mod state;
#[path = "actor/sys.rs"]
mod sys;
#[path = "actor/tools.rs"]
mod tools;

use args::Args;

const USAGE: &str = "\
usage: actor COMMAND …
what a main process may do
  exit CODE                      end with CODE
  crash-after MS CODE            end with CODE after MS milliseconds
  kill-self SIGNAL               die of SIGNAL, no core file
  hold                           announce readiness, then wait for ever with every signal at its default
  stubborn                       the same, TERM ignored
  signals [--log FILE] [--until N] [--member] [--stamp] [--skip-ready]
                                 log each signal received until N (15) comes; --member: a second process in the group
  state                          what was inherited, from /proc/self, bytes in hex
  orphans N [--batch N] [--watch] [--hold]
                                 leave N orphans behind, each ending at once; --watch: print how many ns later PID 1
                                 has collected the last; --hold: then wait for ever
  leave-behind [--count N] [--deep] [--term obey|ignore|MS] [--log FILE] [--code N]
                                 leave setsid'd descendants behind that take TERM so, then end with the code;
                                 --deep: each with a child in a session of its own that does the same
  tty                            report the terminal's groups and the lines read; `quit` ends it
  flood stdout|stderr|both [LINES]
  http [ADDR:]PORT [HEALTHY-FILE] [--term-delay MS] [--log]
  echo [ADDR:]PORT
  named ADDR:PORT                answer each 8 bytes with the last number of ADDR and those; TERM: take no more
                                 connections, serve those that are open to their end, then end
tools of the tests
  dirty COMMAND…                 exec with every signal blocked and ignored, and fds 3-9 open
  odd COMMAND…                   exec with an odd environment, umask and limits
  blocked SIGNAL COMMAND…        exec with every signal blocked and SIGNAL already pending
  session COMMAND…               exec as leader of a session whose terminal is stdin
  window ROWS COLUMNS            set the size of the terminal on stdin
  send SIGNAL PID [--count N] [--every-us N] [--stamp] [--until-gone]
  stamp [NS]                     print the monotonic clock, or how far past NS it is
  stamp-exec COMMAND…            exec with the clock as the last argument
";

/// The C entry; the arguments come through std, which reads them before `main` (glibc's init array).
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
    let mut args = Args::from_env();
    let Some(command) = args.next_text() else { return usage() };
    match command.as_str() {
        "exit" => args.number(),
        "crash-after" => crash_after(args),
        "kill-self" => kill_self(args.number()),
        "hold" => hold(),
        "stubborn" => stubborn(),
        "signals" => signals(args),
        "state" => state::print(),
        "orphans" => orphans(args),
        "leave-behind" => leave_behind(args),
        "tty" => tty(),
        "flood" => flood(args),
        "http" => serve::http(args),
        "echo" => serve::echo(args),
        "named" => serve::named(args),
        "dirty" => tools::dirty(args),
        "odd" => tools::odd(args),
        "blocked" => tools::blocked(args),
        "session" => tools::session(args),
        "window" => tools::window(args),
        "send" => tools::send(args),
        "stamp" => tools::stamp(args),
        "stamp-exec" => tools::stamp_exec(args),
        _ => usage(),
    }
}

fn usage() -> i32 {
    say_error(USAGE);
    2
}

/// Prints a line and survives a stdout that is closed, full or broken: a test decides what that means, not a panic.
fn say(line: &str) {
    let _ =
        std::io::stdout().write_all(format!("{line}\n").as_bytes()).and_then(|()| std::io::stdout().flush());
}

fn say_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn crash_after(mut args: Args) -> i32 {
    sys::sleep_ms(args.number());
    args.number()
}

fn kill_self(signal: i32) -> i32 {
    sys::no_core_file();
    sys::set_default(signal);
    sys::set_mask(0);
    sys::send(sys::pid(), signal);
    say_error(&format!("signal {signal} did not kill\n"));
    1
}

fn hold() -> i32 {
    say("ready");
    loop {
        sys::pause();
    }
}

fn stubborn() -> i32 {
    sys::set_ignored(libc::SIGTERM);
    hold()
}

/// Blocks everything and takes signals one by one: unlike handlers that misses none, the real-time ones, 32 and 33
/// (which libc keeps for itself) and those ignored by default included.
fn signals(mut args: Args) -> i32 {
    sys::set_mask(!0);
    let last = args.option("--until").map_or(libc::SIGTERM, |n| args::number(&n));
    let stamped = args.flag("--stamp");
    let log: Box<dyn Fn(&str)> = match args.option("--log") {
        None => Box::new(say),
        Some(path) => {
            let file = appended(PathBuf::from(path));
            Box::new(move |line| {
                let _ = (&file).write_all(format!("{line}\n").as_bytes());
            })
        }
    };
    let silent = args.flag("--skip-ready");
    let mut member = None;
    let mut name = "main";
    if args.flag("--member") {
        match sys::fork() {
            0 => name = "member",
            pid => member = Some(pid),
        }
    }
    if !silent {
        log(if name == "main" { "ready" } else { "ready member" });
    }
    loop {
        let signal = sys::next_signal(!0);
        match stamped {
            true => log(&sys::now_ns().to_string()),
            false => log(&format!("{name} {signal}")),
        }
        if signal == last {
            break;
        }
    }
    if let Some(pid) = member {
        sys::wait(pid);
    }
    0
}

/// A batch is one short-lived parent: its children are orphans, or already zombies, the moment that it is collected.
fn orphans(mut args: Args) -> i32 {
    let mut left: i64 = args.number();
    let batch = args.option("--batch").map_or(100, |n| args::number::<i64>(&n)).max(1);
    while left > 0 {
        let now = batch.min(left);
        left -= now;
        let parent = sys::fork();
        if parent == 0 {
            for _ in 0..now {
                if sys::fork() == 0 {
                    sys::exit_now(0);
                }
            }
            sys::exit_now(0);
        }
        sys::wait(parent);
    }
    let done = sys::now_ns();
    say("done");
    if args.flag("--watch") {
        while first_has_others() {}
        say(&format!("reaped {}", sys::now_ns() - done));
    }
    if args.flag("--hold") { hold() } else { 0 }
}

/// PID 1 has a child besides this process, its main one.
fn first_has_others() -> bool {
    let tasks = std::fs::read_dir("/proc/1/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.map(|list| list.split_whitespace().count()).sum::<usize>() > 1
}

fn leave_behind(mut args: Args) -> i32 {
    let count: i32 = args.option("--count").map_or(1, |n| args::number(&n));
    let code = args.option("--code").map_or(0, |n| args::number(&n));
    let term = args.option("--term").map_or("obey".into(), |t| t.to_string_lossy().into_owned());
    let log = args.option("--log").map(|path| appended(PathBuf::from(path)));
    let note = |line: String| match &log {
        None => say(&line),
        Some(file) => {
            let _ = { file }.write_all(format!("{line}\n").as_bytes());
        }
    };
    let deep = args.flag("--deep");
    sys::set_mask(sys::bit(libc::SIGTERM));
    // Each holds the writing end until it is set up; main sees the end of the pipe once all are.
    let Ok((mut all_set, setting_up)) = std::io::pipe() else { fail("no pipe") };
    for _ in 0..count {
        if sys::fork() == 0 {
            sys::new_session();
            if deep && sys::fork() == 0 {
                sys::new_session();
            }
            note(format!("left {}", sys::pid()));
            drop(setting_up);
            loop {
                sys::next_signal(sys::bit(libc::SIGTERM));
                note(format!("TERM {}", sys::pid()));
                match term.as_str() {
                    "obey" => sys::exit_now(0),
                    "ignore" => {}
                    ms => {
                        sys::sleep_ms(args::number(ms.as_ref()));
                        note(format!("end {}", sys::pid()));
                        sys::exit_now(0);
                    }
                }
            }
        }
    }
    drop(setting_up);
    let _ = all_set.read(&mut [0]);
    code
}

fn tty() -> i32 {
    say(&format!("ready pgid={} tpgid={}", sys::group(), sys::foreground()));
    for line in std::io::stdin().lock().lines() {
        match line.as_deref() {
            Ok("quit") => return 0,
            Ok(line) => say(&format!("read {line} pgid={} tpgid={}", sys::group(), sys::foreground())),
            Err(why) => {
                say(&format!("no input: {why}"));
                return 1;
            }
        }
    }
    0
}

fn flood(mut args: Args) -> i32 {
    let to = args.next_text().unwrap_or_else(|| "both".into());
    let lines: u64 = args.next().map_or(u64::MAX, |n| args::number(&n));
    for n in 0..lines {
        let line = format!("{n:020} a line of a flood that fills whatever nobody reads\n");
        if to != "stderr" && std::io::stdout().write_all(line.as_bytes()).is_err() {
            return 1;
        }
        if to != "stdout" && std::io::stderr().write_all(line.as_bytes()).is_err() {
            return 1;
        }
    }
    0
}

fn appended(path: PathBuf) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap_or_else(|why| fail(&format!("{path:?}: {why}")))
}

/// Reads a file of /proc whole; empty where there is none.
fn proc_bytes(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    bytes
}

fn fail(why: &str) -> ! {
    say_error(&format!("actor: {why}\n"));
    std::process::exit(2)
}
