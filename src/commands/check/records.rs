//! The registry's side of `ensign check --online`: which endpoints answer, what would be announced at which address, and
//! what lies there that would keep resolvers from finding it. Reads only. Called by `online`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::online::{Finding, LIMIT, Section};
use super::registry_url;
use crate::commands::table::{aligned, plain};
use crate::config::{Announce, Config, Conflict, DnsName, RegistryUrl, Service, units};
use crate::net::address::{self, Snapshot};
use crate::net::resolve::Resolver;
use crate::registry::{self, Around, Listed, NoRecord, Reached, Record, Registry};

/// Clocks are asked in whole seconds, and not at one moment.
const CLOCKS_APART: Duration = Duration::from_secs(3);

const OUT_OF_REACH: &str = "everything would go on serving, and be announced once the registry is back";

/// Reads what there is to read, not past `until`.
pub async fn look(config: &Config, resolver: &Arc<Resolver>, until: Instant) -> Section {
    let announced = || config.services.iter().flat_map(|service| &service.announce);
    let Some(first) = announced().next() else {
        return Section { text: "nothing is announced\n".to_owned(), findings: Vec::new() };
    };
    let looked = timeout_at(until, async {
        // Small, whatever else is there: what lies below the record's own key.
        let name = format!("{}.{}", first.instance.as_str(), first.name.as_str());
        let reached = registry::reach(&config.registry, &DnsName(name), resolver).await;
        let mut section = endpoints(config, &reached);
        match Registry::new(&config.registry, Arc::clone(resolver)) {
            Ok(registry) => records(config, &registry, &reached, &mut section).await,
            Err(error) => section.findings.push(Finding::error(error.to_string())),
        }
        section
    });
    looked.await.unwrap_or_else(|_| Section {
        text: format!("{}: no answer\n", registry_url(&config.registry)),
        findings: vec![Finding::error(format!(
            "the registry can't be read within {}",
            humantime::format_duration(LIMIT)
        ))],
    })
}

fn endpoints(config: &Config, reached: &[Reached]) -> Section {
    let mut rows = vec![["REGISTRY", "RESULT"].map(str::to_owned)];
    let mut findings = Vec::new();
    let is_reached = reached.iter().any(|one| one.answer.is_ok());
    for one in reached {
        rows.push(match &one.answer {
            Ok(()) => [one.endpoint.clone(), "answers".to_owned()],
            Err(error) => {
                let reason = reason(error);
                if is_reached {
                    let text = format!("{} of the registry does not answer: {reason}", one.endpoint);
                    findings.push(Finding::warning(text));
                }
                [one.endpoint.clone(), plain(&reason)]
            }
        });
    }
    if !is_reached {
        let url = registry_url(&config.registry);
        // Each says why in the table.
        findings.push(Finding::error(format!("the registry is out of reach: {url}")).hint(OUT_OF_REACH));
    }
    findings.extend(clocks(reached));
    Section { text: aligned(&rows), findings }
}

/// The two members whose clocks are furthest apart, if that is too far.
fn clocks(reached: &[Reached]) -> Option<Finding> {
    let told = || reached.iter().filter_map(|one| Some((one.ahead?, &one.endpoint)));
    let ((most, ahead), (least, behind)) = (told().max()?, told().min()?);
    let apart = Duration::from_secs(most.abs_diff(least));
    let text =
        format!("the clock of {ahead} is {} ahead of that of {behind}", humantime::format_duration(apart));
    let hint = "etcd's v2 API ends a record by the clock of its leader, at a time reckoned by that of the member that was asked";
    (apart >= CLOCKS_APART).then(|| Finding::warning(text).hint(hint))
}

/// Of one endpoint, which is named beside it; without the error's own hint.
fn reason(error: &registry::Error) -> String {
    match error {
        registry::Error::Unreachable { tried } if tried.len() == 1 => tried[0].reason.clone(),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

async fn records(config: &Config, registry: &Registry, reached: &[Reached], section: &mut Section) {
    // Without it no address is chosen either: the rule would choose another one than it will.
    let snapshot = match registry.peer().await {
        Ok(peer) => Some(address::gather(peer)),
        Err(_) => None,
    };
    let is_reached = reached.iter().any(|one| one.answer.is_ok());
    for service in &config.services {
        // The records of a service live and die together, with the shortest of its times.
        let ttl = service.announce.iter().map(|announce| announce.ttl).min().unwrap_or_default();
        for announce in &service.announce {
            let one = One { config, service, announce, ttl };
            one.labels(section);
            let Some(record) = one.record(snapshot.as_ref(), section) else { continue };
            if !is_reached {
                let _ = writeln!(section.text, "  now      unknown");
                continue;
            }
            match registry.around(&record, &config.registry.prefix).await {
                Ok(around) => one.compare(&record, &around, section),
                Err(error) => {
                    let _ = writeln!(section.text, "  now      unknown");
                    section.findings.push(Finding::error(format!("{}: {error}", one.name())));
                }
            }
        }
    }
}

/// One record to be.
struct One<'a> {
    config: &'a Config,
    service: &'a Service,
    announce: &'a Announce,
    /// Of its lease.
    ttl: Duration,
}

impl One<'_> {
    fn name(&self) -> String {
        format!("`{}` as `{}`", self.announce.name.as_str(), self.announce.instance.as_str())
    }

    /// The record, at the address that would be announced now; told, with why.
    fn record(&self, snapshot: Option<&Snapshot>, section: &mut Section) -> Option<Record> {
        let Announce { name, instance, .. } = self.announce;
        let _ =
            writeln!(section.text, "\n{} as {} of {}:", name.as_str(), instance.as_str(), self.service.name);
        let Some(snapshot) = snapshot else {
            let _ = writeln!(section.text, "  address  unknown: the registry's name is not found");
            return None;
        };
        match address::choose(&self.announce.address, snapshot) {
            Err(error) => {
                let _ = writeln!(section.text, "  address  none");
                section.findings.push(Finding::error(format!("{}: {error}", self.name())));
                None
            }
            Ok(chosen) => {
                let record = Record::new(self.announce, chosen.address);
                let rule = address::shown(&chosen.rule);
                let _ = writeln!(section.text, "  address  {}, by `{rule}`", chosen.address);
                let _ = writeln!(section.text, "  key      {}", record.key(&self.config.registry.prefix));
                let _ = writeln!(section.text, "  value    {}", record.value());
                Some(record)
            }
        }
    }

    /// Labels that are valid and mean something else where they stand.
    fn labels(&self, section: &mut Section) {
        let Announce { name, instance, .. } = self.announce;
        let labels: Vec<&str> = name.as_str().rsplit('.').chain([instance.as_str()]).collect();
        let mut warn =
            |text: &str| section.findings.push(Finding::warning(format!("{}: {text}", self.name())));
        if labels[0] == "config" {
            warn("SkyDNS keeps its own settings at this key");
        }
        for pair in labels.windows(2).skip(1) {
            match pair {
                ["dns", "ns"] => warn("resolvers take `dns/ns` for the name servers of the zone above"),
                ["dns", "apex"] => warn("resolvers take `dns/apex` for the addresses of the zone itself"),
                _ => {}
            }
        }
        let is_hidden = self.config.registry.prefix.split('/').any(|part| part.starts_with('_'));
        if is_hidden && matches!(self.config.registry.url, RegistryUrl::Etcd2(_)) {
            warn("etcd's v2 API lists no key that begins with `_`, as the prefix does");
        }
    }

    /// What is there already, beside the record to be.
    fn compare(&self, record: &Record, around: &Around, section: &mut Section) {
        let now =
            around.there.as_ref().map_or("nothing is there".to_owned(), |there| self.now(record, there));
        let _ = writeln!(section.text, "  now      {now}");
        let findings = &mut section.findings;
        findings.extend(around.there.as_ref().and_then(|there| self.under_our_key(record, there)));
        findings.extend(around.above.iter().map(|above| self.above(above)));
        findings.extend(around.below.iter().map(|below| self.below(below)));
        let look_ups = around.beside.iter().chain(&around.below);
        findings.extend(look_ups.filter_map(|beside| self.unreadable(beside)));
        findings.extend(around.beside.iter().filter_map(|beside| self.beside(beside)));
    }

    fn now(&self, record: &Record, there: &Listed) -> String {
        let what = match &there.record {
            Ok(fields) if *fields == record.fields() => "the same".to_owned(),
            Ok(fields) => format!("{} port {}", plain(&fields.host), fields.port),
            Err(reason) => format!("no record: {}", plain(&reason.to_string())),
        };
        format!("{what}, {}", left(there))
    }

    fn under_our_key(&self, record: &Record, there: &Listed) -> Option<Finding> {
        let is_ours = there.record.as_ref().is_ok_and(|fields| *fields == record.fields());
        if !is_ours {
            let text =
                format!("{}: somebody else's record is there: {}", self.name(), self.now(record, there));
            let hint = match record.conflict {
                Conflict::Take => "`conflict` says that we take its place; give each its own `instance`",
                Conflict::Wait => "`conflict` says that we wait for it to go; give each its own `instance`",
            };
            return Some(Finding::warning(text).hint(hint));
        }
        // Seconds are rounded, by etcd and by us.
        let granted = there.ttl_left.filter(|left| *left > self.ttl + Duration::from_secs(1))?;
        let [granted, ttl] = [granted, self.ttl].map(humantime::format_duration);
        let text = format!(
            "{}: the record that is there has {granted} left, more than its `ttl` ({ttl}): the registry grants no less",
            self.name()
        );
        let hint = "etcd grants one and a half of its `--election-timeout` at least; a dead instance stays for so long";
        Some(Finding::warning(text).hint(hint))
    }

    /// A record that ours would lie below.
    fn above(&self, above: &Listed) -> Finding {
        let (key, full) = (plain(&above.key), full_name(above));
        match self.config.registry.url {
            RegistryUrl::Etcd3(_) => Finding::warning(format!(
                "{}: `{key}` is a record, and this one below it hides it: look-ups of `{full}` find this one instead",
                self.name()
            )),
            RegistryUrl::Etcd2(_) | RegistryUrl::Dir(_) => {
                let text = format!(
                    "{}: can't be announced: `{key}` is a record, and nothing can lie below it",
                    self.name()
                );
                Finding::error(text)
            }
        }
    }

    /// A record below our key.
    fn below(&self, below: &Listed) -> Finding {
        let key = plain(&below.key);
        let text = match self.config.registry.url {
            RegistryUrl::Etcd3(_) => format!(
                "{}: hidden by `{key}` below its key: look-ups of `{}.{}` find that one instead",
                self.name(),
                self.announce.instance.as_str(),
                self.announce.name.as_str()
            ),
            RegistryUrl::Etcd2(_) | RegistryUrl::Dir(_) => {
                format!("{}: can't be announced: its key is a folder, in which `{key}` lies", self.name())
            }
        };
        Finding::error(text).hint("choose another `instance`, or remove what is there")
    }

    /// What makes look-ups of our name fail.
    fn unreadable(&self, listed: &Listed) -> Option<Finding> {
        let Err(NoRecord::Unreadable(reason)) = &listed.record else { return None };
        let (name, key) = (self.announce.name.as_str(), plain(&listed.key));
        let text = format!("look-ups of `{name}` fail: `{key}` is no record: {}", plain(reason));
        let text = format!("{}: {text}", self.name());
        Some(Finding::error(text).hint("remove that key: resolvers give up on the whole name"))
    }

    /// What else a look-up of our name comes upon.
    fn beside(&self, beside: &Listed) -> Option<Finding> {
        let (key, name) = (plain(&beside.key), self.announce.name.as_str());
        if beside.record.is_err() {
            return None;
        }
        let below = beside.key.strip_prefix(&self.folder())?.split('/').filter(|part| !part.is_empty());
        let bad = below.clone().find_map(|label| {
            let why = match units::label(label.strip_prefix('_').unwrap_or(label)) {
                Err(bad) => bad.why,
                Ok(_) if label.chars().any(|c| c.is_ascii_uppercase()) => {
                    "look-ups are in lower case, and never find it".to_owned()
                }
                Ok(_) => return None,
            };
            Some(format!("{}: `{key}` has the label `{}`: {why}", self.name(), plain(label)))
        });
        let longer = || {
            (below.count() > 1).then(|| {
                format!("{}: a look-up of `{name}` also finds `{key}`, of a longer name", self.name())
            })
        };
        bad.or_else(longer).map(Finding::warning)
    }

    fn folder(&self) -> String {
        let labels: Vec<&str> = self.announce.name.as_str().rsplit('.').collect();
        format!("{}/{}/", self.config.registry.prefix, labels.join("/"))
    }
}

fn full_name(listed: &Listed) -> String {
    let parts = [listed.instance.as_str(), listed.name.as_str()].into_iter().filter(|part| !part.is_empty());
    plain(&parts.collect::<Vec<_>>().join("."))
}

fn left(listed: &Listed) -> String {
    match listed.ttl_left {
        Some(left) => {
            format!("{} left", humantime::format_duration(Duration::from_secs(left.as_secs())))
        }
        None => "for ever".to_owned(),
    }
}
