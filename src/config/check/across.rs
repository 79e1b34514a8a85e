//! The rules between services: who listens where, who announces what, who starts after whom. Called by `check` once
//! all services have put down what they claim.

use std::time::Duration;

use crate::config::raw::table::{At, enumerate, nearest};
use crate::config::report::{Place, Problem, Report};
use crate::config::{
    DnsName, Label, ListenAt, REQUEST_TIMEOUT, RegistryUrl, Service, ServiceId, WITHDRAW_LIMIT,
};

/// Docker's time from TERM to KILL, unless it is told another.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);

/// What the services want for themselves, in the order of the services.
#[derive(Default)]
pub struct Claims {
    pub listeners: Vec<Listener>,
    pub records: Vec<Record>,
    /// What leases are asked for, where that was typed.
    pub leases: Vec<(Place, Duration)>,
    pub links: Vec<(ServiceId, Name)>,
    /// Those that give their service variables; the value is the name as these spell it.
    pub exports: Vec<(ServiceId, Name)>,
    /// For each service in turn: what it starts after.
    pub after: Vec<Vec<Name>>,
}

/// A name, and how it was typed.
pub struct Name {
    pub value: String,
    pub typed: At<String>,
}

pub struct Listener {
    /// More than one where they are implied.
    pub places: Vec<ListenAt>,
    /// As it was typed, where it was.
    pub typed: Option<String>,
    pub service: String,
    /// The link's name as typed.
    pub link: String,
    pub place: Place,
}

pub struct Record {
    pub name: DnsName,
    pub instance: Label,
    /// The name as typed.
    pub typed: String,
    pub service: String,
    pub place: Place,
}

/// Reports what goes against the rules, and gives for each service those that it starts after.
pub fn check(claims: &Claims, names: &[&str], report: &mut Report) -> Vec<Vec<ServiceId>> {
    listeners(claims, report);
    links(claims, report);
    exports(claims, report);
    records(claims, report);
    order(claims, names, report)
}

/// Warns of leases that a few bad moments of the registry end.
pub fn leases(claims: &Claims, registry: &RegistryUrl, report: &mut Report) {
    let three = REQUEST_TIMEOUT * 3;
    match registry {
        RegistryUrl::Etcd3(_) | RegistryUrl::Etcd2(_) => {}
        RegistryUrl::Dir(_) => return,
    }
    for (place, ttl) in claims.leases.iter().filter(|(_, ttl)| *ttl < three) {
        let [ttl, three] = [*ttl, three].map(humantime::format_duration);
        let message = format!("`ttl` ({ttl}) is shorter than three requests to etcd may take ({three})");
        let hint = "a moment without a leader, and the record is gone; 10s outlast an election";
        report.push(Problem::warning(*place, message).hint(hint));
    }
}

/// Warns of a stop that the container's runtime would cut short. `place` is that of main's `[stop]`. With `timeout =
/// "never"` the user has chosen to leave the bound to the runtime.
pub fn stop<'a>(
    services: impl Iterator<Item = &'a Service>,
    main: &Service,
    place: Place,
    report: &mut Report,
) {
    let Some(timeout) = main.stop.timeout else { return };
    let shown = |time: Duration| humantime::format_duration(time).to_string();
    let (mut before, mut what) = (main.stop.drain, format!("drain {}", shown(main.stop.drain)));
    for service in services {
        if !service.announce.is_empty() && before < WITHDRAW_LIMIT {
            (before, what) = (WITHDRAW_LIMIT, format!("withdrawal {}", shown(WITHDRAW_LIMIT)));
        }
        if service.stop.drain > before {
            before = service.stop.drain;
            what = format!("drain {} of `{}`", shown(before), service.name);
        }
    }
    let total = before + timeout + main.stop.sweep;
    if total < RUNTIME_PATIENCE {
        return;
    }
    let [total_text, timeout, sweep] = [total, timeout, main.stop.sweep].map(shown);
    let message = format!(
        "stopping `{}` may take {total_text} ({what}, timeout {timeout}, sweep {sweep}), and Docker kills after 10s",
        main.name
    );
    let longer = total.as_secs() + 1;
    let hint = format!("make one of them shorter, or stop the container with `docker stop -t {longer}`");
    report.push(Problem::warning(place, message).hint(hint));
}

fn listeners(claims: &Claims, report: &mut Report) {
    for (nth, later) in claims.listeners.iter().enumerate() {
        let Some((at, earlier)) =
            claims.listeners[..nth].iter().find_map(|one| Some((one.meet(later)?, one)))
        else {
            continue;
        };
        let at = later.typed.clone().unwrap_or_else(|| at.to_string());
        let message = format!(
            "link `{}` of service `{}` and link `{}` of service `{}` both listen at {at}",
            earlier.link, earlier.service, later.link, later.service
        );
        report.push(Problem::error(later.place, message).note("the other is", earlier.place));
    }
}

impl Listener {
    fn meet<'a>(&self, other: &'a Self) -> Option<&'a ListenAt> {
        other.places.iter().find(|theirs| self.places.iter().any(|ours| ours.is_in_the_way_of(theirs)))
    }
}

fn links(claims: &Claims, report: &mut Report) {
    for (nth, (service, name)) in claims.links.iter().enumerate() {
        let same = |(other, earlier): &&(ServiceId, Name)| other == service && earlier.value == name.value;
        if let Some((_, earlier)) = claims.links[..nth].iter().find(same) {
            let problem =
                Problem::error(name.typed.place, format!("two links have the name `{}`", name.typed.value));
            report.push(problem.note("the other is", earlier.typed.place));
        }
    }
}

fn exports(claims: &Claims, report: &mut Report) {
    for (nth, (service, name)) in claims.exports.iter().enumerate() {
        // Of two that have one name that has been said.
        let alike = |(other, earlier): &&(ServiceId, Name)| {
            other == service && earlier.value == name.value && earlier.typed.value != name.typed.value
        };
        if let Some((_, earlier)) = claims.exports[..nth].iter().find(alike) {
            let message = format!(
                "links `{}` and `{}` would both export `{}_PORT` and the like",
                earlier.typed.value, name.typed.value, name.value
            );
            report.push(Problem::error(name.typed.place, message).note("the other is", earlier.typed.place));
        }
    }
}

/// How two records are in each other's way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clash {
    SameKey,
    Hidden,
    Below,
}

fn records(claims: &Claims, report: &mut Report) {
    for (nth, later) in claims.records.iter().enumerate() {
        let earlier = &claims.records[..nth];
        for clash in [Clash::SameKey, Clash::Hidden, Clash::Below] {
            if let Some(earlier) = earlier.iter().find(|earlier| earlier.clash(later) == Some(clash)) {
                let what = format!("service `{}` announces the other", earlier.service);
                report.push(clash.problem(earlier, later).note(what, earlier.place));
            }
        }
    }
}

impl Record {
    /// The parts of its key, after the prefix.
    fn key(&self) -> Vec<&str> {
        self.name.as_str().rsplit('.').chain([self.instance.as_str()]).collect()
    }

    fn clash(&self, other: &Self) -> Option<Clash> {
        let (ours, theirs) = (self.key(), other.key());
        if ours == theirs {
            Some(Clash::SameKey)
        } else if ours.starts_with(&theirs) || theirs.starts_with(&ours) {
            Some(Clash::Hidden)
        } else {
            (is_parent(&self.name, &other.name) || is_parent(&other.name, &self.name)).then_some(Clash::Below)
        }
    }
}

impl Clash {
    fn problem(self, earlier: &Record, later: &Record) -> Problem {
        let earlier_is_upper = earlier.name.as_str().len() < later.name.as_str().len();
        let (upper, lower) = if earlier_is_upper { (earlier, later) } else { (later, earlier) };
        let (upper, lower) = (&upper.typed, &lower.typed);
        match self {
            Self::SameKey => {
                Problem::error(later.place, format!("`{}` is announced twice with one instance", later.typed))
                    .hint("give each its own `instance`")
            }
            Self::Hidden => Problem::error(
                later.place,
                format!("the record of `{upper}` would be hidden by `{lower}` below its key"),
            )
            .hint("a key with others below it is not looked at; choose another `instance`"),
            Self::Below => {
                let message = format!("a look-up of `{upper}` also finds `{lower}`, which lies below it");
                Problem::warning(later.place, message)
            }
        }
    }
}

fn is_parent(parent: &DnsName, child: &DnsName) -> bool {
    child.as_str().strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
}

fn order(claims: &Claims, names: &[&str], report: &mut Report) -> Vec<Vec<ServiceId>> {
    let mut edges: Vec<Vec<(usize, Place)>> = Vec::new();
    for list in &claims.after {
        let mut resolved: Vec<(usize, Place)> = Vec::new();
        for Name { value, typed: at } in list {
            match names.iter().position(|name| name == value) {
                Some(id) if resolved.iter().any(|(other, _)| *other == id) => {}
                Some(id) => resolved.push((id, at.place)),
                None => {
                    let hint = match nearest(&at.value, names) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the services are {}", enumerate(names)),
                    };
                    report.push(
                        Problem::error(at.place, format!("there is no service `{}`", at.value)).hint(hint),
                    );
                }
            }
        }
        edges.push(resolved);
    }
    for (cycle, place) in cycles(&edges) {
        let first = cycle.first().copied().unwrap_or_default();
        let steps: Vec<String> =
            cycle.iter().skip(1).chain([&first]).map(|id| format!("after `{}`", names[*id])).collect();
        report.push(Problem::error(
            place,
            format!("a circle of services: `{}` {}", names[first], steps.join(", ")),
        ));
    }
    edges.iter().map(|list| list.iter().map(|(id, _)| ServiceId(*id)).collect()).collect()
}

/// Each circle that a walk along the edges closes, with the place of its first edge. At least one for any knot.
fn cycles(edges: &[Vec<(usize, Place)>]) -> Vec<(Vec<usize>, Place)> {
    let mut found = Vec::new();
    let mut done = vec![false; edges.len()];
    for start in 0..edges.len() {
        // A stack of (service, its next edge): no recursion, however long the chain is.
        let mut path: Vec<(usize, usize)> = if done[start] { Vec::new() } else { vec![(start, 0)] };
        while let Some((service, next)) = path.last_mut() {
            let service = *service;
            let Some((target, _)) = edges[service].get(*next).copied() else {
                done[service] = true;
                path.pop();
                continue;
            };
            *next += 1;
            if let Some(from) = path.iter().position(|(on_path, _)| *on_path == target) {
                let (first, taken) = path[from];
                found.push((path[from..].iter().map(|(id, _)| *id).collect(), edges[first][taken - 1].1));
            } else if !done[target] {
                path.push((target, 0));
            }
        }
    }
    found
}
