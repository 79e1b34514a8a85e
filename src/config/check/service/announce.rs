//! `[[announce]]`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use super::super::Subject;
use crate::config::check::across::{Claims, Record};
use crate::config::check::values::Values;
use crate::config::raw::table::{At, Field};
use crate::config::report::Problem;
use crate::config::units::Bad;
use crate::config::{AddressRule, Announce, Conflict, raw, units};

/// etcd raises a lease below this to it, with its default election timeout.
const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// Of a name with its instance in front, as the target of an SRV record.
const TARGET_MAX: usize = 253;

pub fn check(
    raw: &raw::Announce,
    subject: &Subject<'_>,
    values: &mut Values<'_>,
    claims: &mut Claims,
) -> Option<Announce> {
    let hostname = &values.outside.hostname;
    let own_label = units::make_label(hostname);
    let name = values.required(&raw.name, "name", raw.place, units::dns_name);
    let port = values.present(&raw.port, "port", raw.place).is_some();
    let port = values.number(&raw.port, 0, 1..=u16::MAX).filter(|_| port);
    let address = address(&raw.address, values);
    let instance = values.or(&raw.instance, own_label, units::label);
    let ttl = values.or(&raw.ttl, Duration::from_secs(60), lease);
    let no_longer_than_ttl = Duration::from_secs(ttl.map_or(5, |ttl| ttl.as_secs().min(5)));
    let dns_ttl = values.or(&raw.dns_ttl, no_longer_than_ttl, whole_seconds);
    let priority = values.number(&raw.priority, 10, 1..=u16::MAX);
    let weight = values.number(&raw.weight, 100, 1..=u16::MAX);
    let conflicts = [("take", Conflict::Take), ("wait", Conflict::Wait)];
    let conflict = values.choice(&raw.conflict, Conflict::Take, &conflicts);

    if let (Some(ttl), Some(place)) = (ttl, raw.ttl.place()) {
        claims.leases.push((place, ttl));
    }
    if let (Some(ttl), Some(dns_ttl)) = (ttl, dns_ttl)
        && dns_ttl > ttl
        && let Some(place) = raw.dns_ttl.place()
    {
        let [ttl, dns_ttl] = [ttl, dns_ttl].map(humantime::format_duration);
        let message = format!("`dns_ttl` ({dns_ttl}) is longer than `ttl` ({ttl})");
        let hint = "resolvers would keep the record for longer than the registry does";
        values.report.push(Problem::error(place, message).hint(hint));
    }
    if let (Some(name), Some(instance), Some(place)) = (&name, &instance, raw.name.place()) {
        if instance.as_str().len() + 1 + name.as_str().len() > TARGET_MAX {
            values.error(
                place,
                format!("the name is longer than {TARGET_MAX} characters with its instance in front"),
            );
        }
        claims.records.push(Record {
            name: name.clone(),
            instance: instance.clone(),
            typed: raw.name.given().map(|at| at.value.clone()).unwrap_or_default(),
            service: subject.name.to_owned(),
            place,
        });
    }
    Some(Announce {
        name: name?,
        port: port?,
        address: address?,
        instance: instance?,
        ttl: ttl?,
        dns_ttl: dns_ttl?,
        priority: priority?,
        weight: weight?,
        conflict: conflict?,
    })
}

/// A variable that is unset or empty is passed over as long as another rule is left.
fn address(field: &Field<Vec<At<String>>>, values: &mut Values<'_>) -> Option<Vec<AddressRule>> {
    let list = match field {
        Field::Absent => return Some(vec![AddressRule::Auto]),
        Field::Bad => return None,
        Field::Given(list) => list,
    };
    let rules: Vec<Option<Option<AddressRule>>> =
        list.value.iter().map(|rule| self::rule(rule, values)).collect();
    let rules: Vec<AddressRule> =
        rules.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    if rules.is_empty() {
        let problem = Problem::error(list.place, "no rule for the address is left");
        values
            .report
            .push(problem.hint("a variable that is not set gives none; add `auto` after it, or set it"));
        return None;
    }
    Some(rules)
}

/// `Some(None)` for a variable that says nothing.
fn rule(at: &At<String>, values: &mut Values<'_>) -> Option<Option<AddressRule>> {
    let text = values.text(at)?;
    let Some(variable) = text.strip_prefix("env:") else {
        return units::address_rule(&text).map_err(|bad| values.refuse(at, &text, bad)).ok().map(Some);
    };
    let Some(value) = values.environment(variable, at.place)?.filter(|value| !value.is_empty()) else {
        return Some(None);
    };
    match announced(&value) {
        Some(address) => Some(Some(AddressRule::Env { variable: variable.to_owned(), address })),
        None => {
            values.error(
                at.place,
                format!("the variable of `{}` does not hold an address that can be announced", at.value),
            );
            None
        }
    }
}

fn announced(value: &OsString) -> Option<IpAddr> {
    match units::address_rule(value.to_str()?) {
        Ok(AddressRule::Literal(address)) => Some(address),
        Ok(_) | Err(_) => None,
    }
}

fn lease(text: &str) -> Result<Duration, Bad> {
    let ttl = units::duration(text)?;
    if ttl < SHORTEST_TTL {
        return Err(Bad {
            wanted: "a lease's time",
            why: "it is shorter than 2s".to_owned(),
            hint: Some("etcd keeps a lease for at least two seconds"),
        });
    }
    Ok(ttl)
}

fn whole_seconds(text: &str) -> Result<Duration, Bad> {
    let ttl = units::duration(text)?;
    if ttl.is_zero() || ttl.subsec_nanos() != 0 {
        let why = "the DNS counts whole seconds, at least 1".to_owned();
        return Err(Bad { wanted: "a record's time", why, hint: None });
    }
    Ok(ttl)
}
