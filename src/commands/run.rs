//! `ensign run` and `ensign -- COMMAND`: be the init. The only wiring: configuration, log, links, then the loop.

use std::process::ExitCode;

use crate::cli::Run;
use crate::config::Config;
use crate::links::{self, Links};
use crate::net::resolve::Resolver;
use crate::{exit, log, runtime};

/// Runs to the end of the container.
pub fn run(args: Run) -> ExitCode {
    let config = match super::configure(args.settings, args.command) {
        Ok(config) => config,
        Err(code) => return code,
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
