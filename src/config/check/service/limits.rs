//! `limits = { … }`.

use crate::config::check::values::Values;
use crate::config::raw::SoftHard;
use crate::config::raw::table::{At, Field, Number, enumerate, nearest};
use crate::config::report::Problem;
use crate::config::{Limit, Resource, units};

const RESOURCES: [(&str, Resource); 14] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

type Entry = (At<String>, At<Result<Number, SoftHard>>);

pub fn check(field: &Field<Vec<Entry>>, values: &mut Values<'_>) -> Option<Vec<Limit>> {
    super::each(field, |(key, value)| {
        let resource = resource(key, values);
        let (soft, hard) = match &value.value {
            Ok(both) => {
                let both = amount(&At { value: both.clone(), place: value.place }, resource, values);
                (both, both)
            }
            Err(table) => {
                let mut side = |field, name| values.present(field, name, table.place).cloned();
                let (soft, hard) = (side(&table.soft, "soft"), side(&table.hard, "hard"));
                let mut amount = |at: Option<At<Number>>| at.and_then(|at| amount(&at, resource, values));
                (amount(soft), amount(hard))
            }
        };
        let limit = Limit { resource: resource?, soft: soft?, hard: hard? };
        if limit.soft.unwrap_or(u64::MAX) > limit.hard.unwrap_or(u64::MAX) {
            values.error(value.place, format!("the soft limit of `{}` is above the hard one", key.value));
            return None;
        }
        Some(limit)
    })
}

fn resource(key: &At<String>, values: &mut Values<'_>) -> Option<Resource> {
    let found = RESOURCES.iter().find(|(name, _)| *name == key.value).map(|(_, resource)| *resource);
    if found.is_none() {
        let names = RESOURCES.map(|(name, _)| name);
        let hint = match nearest(&key.value, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the limits are {}", enumerate(&names)),
        };
        values.report.push(Problem::error(key.place, format!("unknown limit `{}`", key.value)).hint(hint));
    }
    found
}

/// For a resource that is not known, a value is only looked at as far as it can be wrong for all of them.
fn amount(at: &At<Number>, resource: Option<Resource>, values: &mut Values<'_>) -> Option<Option<u64>> {
    match &at.value {
        Number::Literal(number) => {
            let typed = At { value: number.to_string(), place: at.place };
            units::limit_number(*number).map_err(|bad| values.refuse(&typed, &typed.value, bad)).ok()
        }
        Number::Text(text) => {
            let typed = At { value: text.clone(), place: at.place };
            values.parse(&typed, |text| units::limit(text, resource.unwrap_or(Resource::As)))
        }
    }
}
