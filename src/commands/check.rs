//! `ensign check PATH`: says all that is wrong with a configuration, or what it would run. Starts nothing. With `--online`
//! (`online`) it looks at the rest of the world, too.

use std::io::Write;
use std::path::Path;

use crate::config::load::{Loaded, Overrides, load};
use crate::config::{Config, Registry, RegistryUrl};
use crate::exit;

mod links;
mod online;
mod records;

/// How far `ensign check` looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    AtTheFiles,
    Online,
}

/// Writes the summary to `out`, errors and warnings to `err`, and gives the exit code: 0, or [`exit::CONFIG`]; online
/// also [`exit::UNAVAILABLE`].
///
/// A failed write changes nothing: the exit code is the answer.
pub fn run(path: &Path, look: Look, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match load(path, &Overrides::default()) {
        Ok(Loaded { config, warnings }) => {
            let _ = write!(err, "{warnings}");
            let _ = writeln!(out, "{}", summary(&config));
            match look {
                Look::AtTheFiles => 0,
                Look::Online => online::run(&config, out, err),
            }
        }
        Err(report) => {
            let _ = write!(err, "{report}");
            exit::CONFIG
        }
    }
}

/// One line: the services, which of them is main, and what is announced where.
fn summary(config: &Config) -> String {
    let names: Vec<String> = config
        .services
        .iter()
        .enumerate()
        .map(|(id, service)| format!("{}{}", service.name, if id == config.main.0 { " (main)" } else { "" }))
        .collect();
    let records: Vec<String> = config
        .services
        .iter()
        .flat_map(|service| &service.announce)
        .map(|record| {
            format!("{} port {} as {}", record.name.as_str(), record.port, record.instance.as_str())
        })
        .collect();
    let announced = match records.is_empty() {
        true => "nothing is announced".to_owned(),
        false => format!("announces {} in {}", records.join(", "), registry_url(&config.registry)),
    };
    format!("ok: {}; {announced}", names.join(", "))
}

pub(super) fn registry_url(registry: &Registry) -> String {
    let (scheme, hosts) = match &registry.url {
        RegistryUrl::Etcd3(hosts) => ("etcd", hosts),
        RegistryUrl::Etcd2(hosts) => ("etcd2", hosts),
        RegistryUrl::Dir(path) => return format!("dir:{}", path.display()),
    };
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let secure = if registry.tls.is_some() { "s" } else { "" };
    format!("{scheme}{secure}://{}", hosts.join(","))
}
