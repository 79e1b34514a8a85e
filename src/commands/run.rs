//! `ensign run` and `ensign -- COMMAND`: be the init. The only wiring: configuration, log, links, then the loop.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::{DEFAULT_CONFIG, Run};
use crate::config::{Config, load};
use crate::links::{self, Links};
use crate::net::resolve::Resolver;
use crate::{exit, log, runtime};

/// Runs to the end of the container.
pub fn run(args: Run) -> ExitCode {
    let config = match configure(args) {
        Ok(config) => config,
        Err(report) => {
            super::complain(format_args!("{report}"));
            return ExitCode::from(exit::CONFIG);
        }
    };
    log::init(config.log);
    // Lives as long as the container: its thread serves the links.
    let _links = match open_links(&config) {
        Ok(links) => links,
        Err(code) => return ExitCode::from(code),
    };
    match runtime::run(config) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(exit::INTERNAL)
        }
    }
}

/// A command alone needs no file, and reads none: it is how every wrapped container starts.
fn configure(args: Run) -> Result<Config, crate::config::report::Report> {
    let Run { settings, command } = args;
    let path = settings.config.clone();
    let overrides = super::overrides(settings);
    match (path, command.is_empty()) {
        (None, false) => load::wrap(command, &overrides),
        (path, no_command) => {
            let overrides = load::Overrides { command: (!no_command).then_some(command), ..overrides };
            let path = path.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
            let loaded = load::load(path, &overrides)?;
            for warning in &loaded.warnings {
                super::complain(format_args!("{warning}"));
            }
            Ok(loaded.config)
        }
    }
}

/// Every listener takes connections when this returns: main may connect with its first instruction.
fn open_links(config: &Config) -> Result<Links, u8> {
    let plan = links::plan(config, std::env::vars_os());
    for notice in &plan.notices {
        tracing::warn!("{notice}");
    }
    links::open(&plan, Resolver::system()).map_err(|errors| {
        for error in errors {
            tracing::error!("{error}");
        }
        exit::CONFIG
    })
}
