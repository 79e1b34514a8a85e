//! The sub-commands that set the stage for an init rather than run under it: odd starters, senders, stamps.
//! Each `COMMAND…` is exec'd, so what started as the actor becomes the init under test with the same pid.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use crate::args::{self, Args};
use crate::{fail, say, sys};

/// The worst starter there is: all that an init has to clean up.
pub fn dirty(args: Args) -> i32 {
    for signal in 1..=64 {
        sys::set_ignored(signal);
    }
    sys::set_mask(!0);
    sys::fill_fds(9);
    exec(args.rest(), None)
}

/// What an init has to leave alone. The environment has what a map would lose: order, a variable twice, bytes that are
/// no text, an entry that is no variable.
pub fn odd(args: Args) -> i32 {
    sys::set_umask(0o027);
    sys::lower_limits();
    let env = [
        b"Z=last comes first".to_vec(),
        b"BYTES=\xff\xfe=\x80".to_vec(),
        b"TWICE=1".to_vec(),
        b"TWICE=2".to_vec(),
        b"EMPTY=".to_vec(),
        b"PATH=/usr/bin:/bin".to_vec(),
        b"no variable at all".to_vec(),
        b"A=1".to_vec(),
    ];
    exec(args.rest(), Some(&env.map(OsString::from_vec)))
}

pub fn blocked(mut args: Args) -> i32 {
    let signal = args.number();
    sys::set_mask(!0);
    sys::send(sys::pid(), signal);
    exec(args.rest(), None)
}

pub fn session(args: Args) -> i32 {
    sys::new_session();
    sys::take_terminal();
    exec(args.rest(), None)
}

pub fn window(mut args: Args) -> i32 {
    let (rows, columns) = (args.number(), args.number());
    sys::set_window(rows, columns);
    0
}

pub fn send(mut args: Args) -> i32 {
    let count: u32 = args.option("--count").map_or(1, |n| args::number(&n));
    let gap: u64 = args.option("--every-us").map_or(0, |n| args::number(&n));
    let (stamped, until_gone) = (args.flag("--stamp"), args.flag("--until-gone"));
    let (signal, pid) = (args.number(), args.number());
    let watch = until_gone.then(|| sys::open_process(pid));
    for n in 0..count {
        if n > 0 {
            sys::sleep_us(gap);
        }
        let sent = sys::now_ns();
        if !sys::send(pid, signal) {
            fail(&format!("signal {signal} to {pid}: {}", std::io::Error::last_os_error()));
        }
        if let Some(process) = watch {
            sys::wait_gone(process);
            say(&(sys::now_ns() - sent).to_string());
        } else if stamped {
            say(&sent.to_string());
        }
    }
    0
}

pub fn stamp(mut args: Args) -> i32 {
    let now = sys::now_ns();
    let since: u64 = args.next().map_or(0, |ns| args::number(&ns));
    say(&(now - since).to_string());
    0
}

pub fn stamp_exec(args: Args) -> i32 {
    let mut argv = args.rest();
    argv.push(sys::now_ns().to_string().into());
    exec(argv, None)
}

fn exec(argv: Vec<OsString>, env: Option<&[OsString]>) -> i32 {
    let program = argv.first().map_or(OsStr::new(""), |arg| arg.as_os_str()).to_owned();
    let why = sys::exec(argv, env);
    fail(&format!("{program:?}: {why}"))
}
