//! One file a verb. Each takes what the command line said and gives an exit code.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Settings, Verb};
use crate::config::load::Overrides;
use crate::exit;

pub mod run;

/// Does what the command line says.
pub fn dispatch(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody to tell is no reason to fail.
            let _told = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    match cli.verb {
        None => run::run(cli.run),
        Some(Verb::Run(args)) => run::run(args),
        Some(Verb::Check { .. } | Verb::Links { .. } | Verb::Ls { .. }) => ExitCode::from(exit::USAGE),
    }
}

/// What the command line says in place of the files.
fn overrides(settings: Settings) -> Overrides {
    Overrides {
        command: None,
        links: settings.links,
        registry: settings.registry,
        log_format: settings.log_format.map(Into::into),
        log_level: settings.log_level.map(Into::into),
    }
}

/// Says something to whoever called us. Where stderr is gone there is nobody to tell, which is no reason to panic.
fn complain(message: fmt::Arguments<'_>) {
    let _told = writeln!(std::io::stderr(), "{message}");
}
pub mod check;
pub mod ls;
