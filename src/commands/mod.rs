//! One file a verb. Each takes what the command line said and gives an exit code.

use std::ffi::OsString;
use std::fmt;
use std::io::{ErrorKind, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{Cli, DEFAULT_CONFIG, Settings, Verb};
use crate::config::load::{self, Overrides};
use crate::config::report::{Problem, Report, Where};
use crate::config::{Config, units};
use crate::exit;
use crate::net::resolve::Resolver;
use crate::sys;

use self::links::Show;

pub mod check;
pub mod links;
pub mod ls;
pub mod run;
mod table;

/// Does what the command line says.
pub fn dispatch(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::understand(args) {
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
        Some(Verb::Check { path, online }) => {
            sys::signals::unblock_all();
            let look = if online { check::Look::Online } else { check::Look::AtTheFiles };
            ExitCode::from(check::run(&path, look, &mut stdout(), &mut stderr()))
        }
        Some(Verb::Links { env, resolve, settings }) => match configure_reader(settings) {
            Ok(config) => {
                sys::signals::unblock_all();
                let show = if env { Show::PlanAndVariables } else { Show::Plan };
                show_links(&config, show, if resolve { LookUp::Everything } else { LookUp::Nothing })
            }
            Err(code) => code,
        },
        Some(Verb::Ls { name, json, watch, settings }) => {
            let format = if json { ls::Format::JsonLines } else { ls::Format::Table };
            let until = if watch { ls::Until::Ended } else { ls::Until::Printed };
            list(name.as_deref(), format, until, settings)
        }
    }
}

/// What `ensign links` asks others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookUp {
    Nothing,
    Everything,
}

fn show_links(config: &Config, show: Show, look_up: LookUp) -> ExitCode {
    let resolver = Arc::new(Resolver::system());
    let shown =
        links::run(config, std::env::vars_os(), &resolver.hosts(), show, &mut stdout()).and_then(|plan| {
            if look_up == LookUp::Everything {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(links::resolved::print(
                    &plan,
                    &config.registry,
                    &resolver,
                    &mut stdout(),
                ))?;
            }
            Ok(plan)
        });
    match shown {
        Ok(plan) if plan.errors.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(exit::CONFIG),
        // `ensign links | head` is no failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: cannot print the links: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn list(name: Option<&str>, format: ls::Format, until: ls::Until, settings: Settings) -> ExitCode {
    let config = match configure_reader(settings) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let name = match name.map(|typed| units::dns_name(typed).map_err(|bad| (typed, bad))).transpose() {
        Ok(name) => name,
        Err((typed, bad)) => {
            let hint = bad.hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            complain(format_args!("error: `{typed}` is {bad}\n{hint}"));
            return ExitCode::from(exit::USAGE);
        }
    };
    match until {
        ls::Until::Printed => {
            sys::signals::unblock_all();
            ls::run(&config.registry, name.as_ref(), format)
        }
        ls::Until::Ended => ls::watch::run(&config.registry, name.as_ref(), format),
    }
}

/// What to run. A command alone needs no file, and reads none: it is how every wrapped container starts.
fn configure(settings: Settings, command: Vec<OsString>) -> Result<Config, ExitCode> {
    let path = settings.config.clone();
    let overrides = overrides(settings);
    let loaded = match (path, command.is_empty()) {
        (None, false) => return load::wrap(command, &overrides).map_err(refuse),
        (Some(path), false) => load::load(&path, &Overrides { command: Some(command), ..overrides }),
        (None, true) if Path::new(DEFAULT_CONFIG).try_exists().is_ok_and(|there| !there) => {
            return Err(refuse(nothing_to_run()));
        }
        (path, true) => load::load(path.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)), &overrides),
    };
    let loaded = loaded.map_err(refuse)?;
    complain(format_args!("{}", loaded.warnings));
    Ok(loaded.config)
}

/// As [`configure`], for verbs that only read: where there is no file at all, the settings of a wrapped command hold.
fn configure_reader(settings: Settings) -> Result<Config, ExitCode> {
    let without_files = settings.config.is_none() && !Path::new(DEFAULT_CONFIG).exists();
    let command = if without_files { vec![OsString::from("true")] } else { Vec::new() };
    configure(settings, command)
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

fn nothing_to_run() -> Report {
    let message = format!("there is nothing to run: no command, no `-c PATH`, and no `{DEFAULT_CONFIG}`");
    let hint = "`ensign -- COMMAND` wraps a command, `ensign run -c web.toml` runs a service file";
    let mut report = Report::default();
    report.push(Problem::error(Where::Everywhere, message).hint(hint));
    report
}

fn refuse(report: Report) -> ExitCode {
    complain(format_args!("{report}"));
    ExitCode::from(exit::CONFIG)
}

/// Says something to whoever called us.
fn complain(message: fmt::Arguments<'_>) {
    sys::stderr::say(&message.to_string());
}
