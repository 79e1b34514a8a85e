//! ensign, the first process of a container: theory of operation and the module list.
//!
//! `main` blocks every signal, reads the command line and calls one file of [`commands`]. `run`, the init, reads the
//! files into a [`config::Config`], opens the [`links`] on a thread of their own, and gives the rest to [`runtime`]: one
//! loop on one thread that turns signals, exits, answers and deadlines into events, hands them to the [`machine`], and
//! carries out the actions that it answers with. The machine decides everything and touches nothing.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod checks;
mod cli;
pub mod commands;
pub mod config;
pub mod exit;
pub mod links;
pub mod log;
pub mod machine;
pub mod net;
pub mod registry;
pub mod runtime;
pub mod sys;

/// Runs the command line `args` (the program's name first) and gives the process's exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    // First of all: what comes from now on waits for whoever reads it, also when we are PID 1, to which the kernel
    // delivers nothing that is neither blocked nor handled.
    let blocked = sys::signals::block_all();
    sys::process::seal_inherited_fds();
    if blocked.is_err() {
        return ExitCode::from(exit::INTERNAL);
    }
    commands::dispatch(args)
}
