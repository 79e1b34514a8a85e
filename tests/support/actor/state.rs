//! `actor state`: what an init handed down, one `key value` a line, bytes in hex so that none is lost. Reads
//! /proc/self only; changes nothing before it has read.

use std::os::unix::ffi::OsStrExt;

use crate::{proc_bytes, say, sys};

/// The lines of /proc/self/status that an exec passes on.
const STATUS: [&str; 16] = [
    "PPid",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "SigPnd",
    "ShdPnd",
    "Uid",
    "Gid",
    "Groups",
    "Umask",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
];

pub fn print() -> i32 {
    let status = String::from_utf8_lossy(&proc_bytes("/proc/self/status")).into_owned();
    for line in status.lines() {
        if let Some((key, value)) = line.split_once(':').filter(|(key, _)| STATUS.contains(key)) {
            say(&format!("{key} {}", value.trim().replace('\t', " ")));
        }
    }
    say(&format!("Fds {}", sys::open_fds().iter().map(i32::to_string).collect::<Vec<_>>().join(" ")));
    say(&format!("Argv {}", hex(&proc_bytes("/proc/self/cmdline"))));
    say(&format!("Env {}", hex(&proc_bytes("/proc/self/environ"))));
    let cwd = std::fs::read_link("/proc/self/cwd").unwrap_or_default();
    say(&format!("Cwd {}", hex(cwd.as_os_str().as_bytes())));
    say(&format!("Limits {}", hex(&proc_bytes("/proc/self/limits"))));
    say(&format!("Pid {}", sys::pid()));
    say(&format!("Pgid {}", sys::group()));
    say(&format!("Sid {}", sys::session()));
    say(&format!("Tpgid {}", sys::foreground()));
    say(&format!("Pdeathsig {}", sys::parent_death_signal()));
    0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
