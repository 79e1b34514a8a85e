//! The settings that are common to all services, and what the command line says about them.

use std::path::PathBuf;

use super::Overrides;
use super::values::Values;
use crate::config::raw::table::{At, Field};
use crate::config::report::{Problem, Where};
use crate::config::{EnvLinks, Links, Log, LogFormat, LogLevel, Registry, RegistryUrl, Workers, raw, units};

pub fn check(
    raw: &raw::Common,
    overrides: &Overrides,
    values: &mut Values<'_>,
) -> Option<(Registry, Links, Log)> {
    let url = values.or(
        &raw.registry_url,
        RegistryUrl::Dir(PathBuf::from("/run/ensign/registry")),
        units::registry_url,
    );
    let url = match &overrides.registry {
        Some(text) => match units::registry_url(text) {
            Ok(url) => Some(url),
            Err(bad) => {
                // What stands before an `@` may be a password.
                let shown = text.rsplit_once('@').map_or(text.as_str(), |(_, host)| host);
                let message = format!("`--registry {shown}` is not {}: {}", bad.wanted, bad.why);
                let problem = Problem::error(Where::Everywhere, message);
                values.report.push(problem.hint_if(bad.hint.map(str::to_owned)));
                None
            }
        },
        None => url,
    };
    let prefix = values.or(&raw.registry_prefix, "/skydns".to_owned(), units::registry_prefix);
    let env = env(&raw.links_env, values);
    let workers = values.number(&raw.links_workers, Workers::default().get(), 1..=Workers::MOST);
    let workers = workers.and_then(Workers::new);
    let format = values.choice(
        &raw.log_format,
        LogFormat::Text,
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
    );
    let level = values.choice(
        &raw.log_level,
        LogLevel::Info,
        &[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ],
    );
    Some((
        Registry { url: url?, prefix: prefix? },
        Links { env: overrides.links.clone().or(env)?, workers: workers? },
        Log { format: overrides.log_format.or(format)?, level: overrides.log_level.or(level)? },
    ))
}

fn env(field: &Field<Result<Vec<At<String>>, bool>>, values: &mut Values<'_>) -> Option<EnvLinks> {
    let at = match field {
        Field::Absent => return Some(EnvLinks::All),
        Field::Bad => return None,
        Field::Given(at) => at,
    };
    match &at.value {
        Err(true) => Some(EnvLinks::All),
        Err(false) => Some(EnvLinks::None),
        Ok(patterns) => {
            let mut pattern = |at: &At<String>| {
                let pattern = values.text(at)?;
                if pattern.is_empty() {
                    values.error(at.place, "a pattern is empty");
                    return None;
                }
                Some(pattern)
            };
            let all: Vec<Option<String>> = patterns.iter().map(&mut pattern).collect();
            all.into_iter().collect::<Option<_>>().map(EnvLinks::Matching)
        }
    }
}
