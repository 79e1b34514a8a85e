//! `ensign run` and `ensign -- COMMAND`: be the init. The only wiring: configuration, log, links, then the loop.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::Run;
use crate::config::{self, Config, DnsName};
use crate::links::{self, Feed, Links, Plan};
use crate::net::resolve::Resolver;
use crate::registry::{Registry, Seen};
use crate::sys::process;
use crate::{exit, log, runtime};

/// Runs to the end of the container.
pub fn run(args: Run) -> ExitCode {
    let config = match super::configure(args.settings, args.command) {
        Ok(config) => config,
        Err(code) => return code,
    };
    log::init(config.log);
    let plan = links::plan(&config, std::env::vars_os());
    // Two for each connection of a link: the limit that was meant for main should not be theirs.
    let before = if plan.forwards.is_empty() { None } else { process::raise_descriptor_limit() };
    let opened = match open_links(&config, &plan) {
        Ok(opened) => opened,
        Err(code) => return ExitCode::from(code),
    };
    let exported = config.services.iter().map(|service| links::exported(service, &plan)).collect();
    match runtime::run(config, opened, exported, before) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(exit::INTERNAL)
        }
    }
}

/// Every listener takes connections when this returns: main may connect with its first instruction.
fn open_links(config: &Config, plan: &Plan) -> Result<Links, u8> {
    for notice in &plan.notices {
        tracing::warn!("{notice}");
    }
    let registry = config.registry.clone();
    let follow = move |name: DnsName, feed: Feed| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(follow(registry.clone(), name, feed))
    };
    links::open_following(plan, Resolver::system(), &follow).map_err(|errors| {
        for error in errors {
            tracing::error!("{error}");
        }
        exit::CONFIG
    })
}

/// Tells the links who is announced under `name`, for ever. On their thread, with a client of its own: neither waits for
/// the other's registry.
async fn follow(registry: config::Registry, name: DnsName, feed: Feed) {
    let registry = match Registry::new(&registry, Arc::new(Resolver::system())) {
        Ok(registry) => registry,
        Err(error) => {
            tracing::error!("links to registry:{}: {error}", name.as_str());
            feed.lose(error.to_string());
            return;
        }
    };
    let mut is_lost = false;
    let tell = |seen| match seen {
        Seen::Instances(instances) => {
            if std::mem::take(&mut is_lost) {
                tracing::info!("registry:{} is followed again", name.as_str());
            }
            feed.tell(instances);
        }
        Seen::Lost(reason) => {
            is_lost = true;
            let known = feed.lose(reason.clone());
            let name = name.as_str();
            tracing::warn!("registry:{name} can't be followed: {reason}; links go on with the {known} known");
        }
    };
    registry.follow(&name, tell).await;
}
