//! ensign, the first process of a container: theory of operation and the module list.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod checks;
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
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
