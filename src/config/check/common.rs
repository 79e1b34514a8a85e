//! The settings that are common to all services, and what the command line says about them.

use std::path::Path;

use super::values::Values;
use super::{Overrides, registry};
use crate::config::raw::table::{At, Field};
use crate::config::{EnvLinks, Links, Log, LogFormat, LogLevel, Registry, Workers, raw};

/// `folder` is where relative paths of the file begin.
pub fn check(
    raw: &raw::Common,
    folder: &Path,
    overrides: &Overrides,
    values: &mut Values<'_>,
) -> Option<(Registry, Links, Log)> {
    let registry = registry::check(&raw.registry, folder, overrides.registry.as_deref(), values);
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
        registry?,
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
