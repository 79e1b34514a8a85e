//! `[[check]]`.

use std::time::Duration;

use super::argv;
use crate::config::check::values::Values;
use crate::config::raw::table::Field;
use crate::config::report::Problem;
use crate::config::{Check, Probe, Unhealthy, raw, units};

pub fn check(raw: &raw::Check, values: &mut Values<'_>) -> Option<Check> {
    let probe = probe(raw, values);
    let every = values.or(&raw.every, Duration::from_secs(2), units::positive_duration);
    let timeout = values.or(&raw.timeout, Duration::from_secs(1), units::positive_duration);
    let grace = values.or(&raw.grace, Duration::from_secs(10), units::duration);
    let rise = values.number(&raw.rise, 1, 1..=u32::MAX);
    let fall = values.number(&raw.fall, 3, 1..=u32::MAX);
    let unhealthy = values.choice(
        &raw.unhealthy,
        Unhealthy::Withdraw,
        &[("withdraw", Unhealthy::Withdraw), ("restart", Unhealthy::Restart)],
    );
    Some(Check {
        probe: probe?,
        every: every?,
        timeout: timeout?,
        grace: grace?,
        rise: rise?,
        fall: fall?,
        unhealthy: unhealthy?,
    })
}

/// Exactly one of the three; each that is given is looked at.
fn probe(raw: &raw::Check, values: &mut Values<'_>) -> Option<Probe> {
    let http = values.optional(&raw.http, units::http_url);
    let tcp = values.optional(&raw.tcp, units::host_port);
    let exec = match &raw.exec {
        Field::Absent => Some(None),
        Field::Bad => None,
        Field::Given(list) => argv(list, "exec", values).map(Some),
    };
    let absent = [raw.http.is_absent(), raw.tcp.is_absent(), raw.exec.is_absent()];
    match absent.iter().filter(|absent| !**absent).count() {
        1 => {}
        0 => {
            values.report.push(
                Problem::error(raw.place, "this check has nothing to do")
                    .hint("give it one of `http`, `tcp` and `exec`"),
            );
            return None;
        }
        _ => {
            // In a file with syntax errors, what is not there still counts as perhaps there.
            let given = [raw.http.place(), raw.tcp.place(), raw.exec.place()];
            if let Some(second) = given.into_iter().flatten().max_by_key(|place| place.start)
                && given.iter().flatten().count() > 1
            {
                values.error(second, "`http`, `tcp` and `exec` exclude each other");
            }
            return None;
        }
    }
    http?.map(Probe::Http).or(tcp?.map(Probe::Tcp)).or(exec?.map(Probe::Exec))
}
