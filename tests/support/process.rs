//! What /proc tells of a process: children, state, fields of status; one that is gone has none of it. Does nothing to it
//! but what a signal does.

use std::ffi::OsString;
use std::fs::{read, read_dir, read_to_string};
use std::os::unix::ffi::OsStringExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait;

/// The pids of the children, those that a thread started included.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Children, their children and so on; itself is not among them.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        all.extend(children(*parent));
        next += 1;
    }
    all
}

/// The argument list, one value an argument; empty for a zombie.
pub fn argv(pid: i32) -> Vec<OsString> {
    let bytes = read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let end = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if end.is_empty() {
        vec![]
    } else {
        end.split(|byte| *byte == 0).map(|a| OsString::from_vec(a.to_vec())).collect()
    }
}

/// A line of /proc/PID/status.
pub fn status(pid: i32, field: &str) -> Option<String> {
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// A signal mask of /proc/PID/status: bit N-1 is signal N.
pub fn mask(pid: i32, field: &str) -> Option<u64> {
    u64::from_str_radix(&status(pid, field)?, 16).ok()
}

/// The state letter (R, S, T, Z …); none once it is collected.
pub fn state(pid: i32) -> Option<char> {
    status(pid, "State")?.chars().next()
}

pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("the process is there and ours");
}

/// Returns when every thread has stopped, or it is gone: the signal returns before they have.
pub fn freeze(pid: i32) {
    send(pid, Signal::SIGSTOP);
    wait::until_true("it to be frozen", || {
        let mut tasks = read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let stopped = |task: &str| state(task.parse().ok()?).filter(|state| *state == 'T');
        tasks.all(|task| task.file_name().to_str().and_then(stopped).is_some()) || !lives(pid)
    });
}

/// It runs or could: neither collected nor a zombie that waits for that (a machine's own PID 1 may take its time).
pub fn lives(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// Processor time used by all its threads, those of the kernel on its behalf included, in ticks of 10 ms.
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What follows the name, which may hold anything: the state is field 3, the times are 14 and 15.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut times = rest.split(' ').skip(11).map_while(|word| word.parse::<u64>().ok());
    Some(times.next()? + times.next()?)
}
