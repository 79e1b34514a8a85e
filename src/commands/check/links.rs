//! The links' side of `ensign check --online`: where each leads now, and who takes a connection there. Connects and closes;
//! sends no byte. Called by `online`.

use std::ffi::OsString;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::online::{Finding, LIMIT, Section};
use crate::commands::links::resolved::announced;
use crate::commands::table::{aligned, plain};
use crate::config::{self, Config, ListenAt};
use crate::links::{self, Forward, PlanError, Source, Way};
use crate::net::resolve::Resolver;

/// So many attempts at once: an address is a descriptor, and a name may have a thousand.
const MOST_AT_ONCE: usize = 256;

/// What became of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Accepts,
    /// Of UDP: nobody can tell.
    NotTried,
    Failed(String),
}

/// One address of one way, or what the way has instead of one.
#[derive(Debug)]
struct Line {
    address: String,
    seen: Seen,
}

/// Asks each source of each link and tries each address, all side by side, not past `until`.
pub async fn look(
    config: &Config,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    resolver: &Arc<Resolver>,
    until: Instant,
) -> Section {
    let plan = links::plan(config, env);
    let room = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut looking = JoinSet::new();
    for (forward, of_it) in plan.forwards.iter().enumerate() {
        for (way, to) in of_it.to.ways.iter().enumerate() {
            let one = Look {
                way: to.clone(),
                forward: of_it.clone(),
                until,
                registry: config.registry.clone(),
                resolver: Arc::clone(resolver),
                room: Arc::clone(&room),
            };
            looking.spawn(async move { ((forward, way), one.lines().await) });
        }
    }
    let mut seen = looking.join_all().await;
    seen.sort_by_key(|(place, _)| *place);
    let mut section = Section::default();
    let mut rows = vec![["LINK", "LISTEN", "TO", "ADDRESS", "RESULT"].map(str::to_owned)];
    for (number, forward) in plan.forwards.iter().enumerate() {
        let of_it = || seen.iter().filter(|((forward, _), _)| *forward == number);
        for ((_, way), lines) in of_it() {
            rows.extend(lines.iter().map(|line| row(forward, &forward.to.ways[*way], line)));
        }
        section.findings.extend(verdict(forward, of_it().flat_map(|(_, lines)| lines)));
    }
    for error in &plan.errors {
        match error {
            PlanError::NoVariables { link, alias, .. } => {
                let result = "Docker's variables are not set here".to_owned();
                rows.push([name(link), "-".to_owned(), format!("env:{alias}"), "-".to_owned(), result]);
            }
            PlanError::NoPort { .. } | PlanError::Twice { .. } => {
                section.findings.push(Finding::error(error.to_string()));
            }
        }
    }
    section.findings.extend(plan.notices.iter().map(|notice| Finding::warning(notice.to_string())));
    section.text = if rows.len() == 1 { "no links\n".to_owned() } else { aligned(&rows) };
    section
}

/// All that a look at one way needs.
struct Look {
    way: Way,
    forward: Forward,
    until: Instant,
    registry: config::Registry,
    resolver: Arc<Resolver>,
    room: Arc<Semaphore>,
}

impl Look {
    /// Never empty.
    async fn lines(self) -> Vec<Line> {
        let nothing = |reason| vec![Line { address: "-".to_owned(), seen: Seen::Failed(reason) }];
        let found = async {
            let announced = announced(&self.way, &self.registry, &self.resolver).await;
            links::found(&self.way, &self.resolver, announced.map_err(|error| error.to_string())).await
        };
        let found = match timeout_at(self.until, found).await {
            Ok(Ok(found)) if found.is_empty() => return nothing("no address was found".to_owned()),
            Ok(Ok(found)) => found,
            Ok(Err(reason)) => return nothing(reason),
            Err(_) => return nothing(too_late()),
        };
        let is_datagrams = is_datagrams(&self.forward);
        let mut trying = JoinSet::new();
        for (place, one) in found.into_iter().enumerate() {
            let known = match () {
                () if is_datagrams => Some(Seen::NotTried),
                () if self.forward.is_where_it_listens(&one) => {
                    Some(Seen::Failed("is where this link itself listens".to_owned()))
                }
                () => None,
            };
            let (room, within, until) = (Arc::clone(&self.room), self.forward.connect_timeout, self.until);
            trying.spawn(async move {
                let tried = async {
                    let _permit = room.acquire().await;
                    one.accepts(within).await
                };
                let seen = match known {
                    Some(known) => known,
                    None => match timeout_at(until, tried).await {
                        Ok(Ok(())) => Seen::Accepts,
                        Ok(Err(reason)) => Seen::Failed(reason),
                        Err(_) => Seen::Failed(too_late()),
                    },
                };
                (place, Line { address: one.address.clone(), seen })
            });
        }
        let mut lines = trying.join_all().await;
        lines.sort_by_key(|(place, _)| *place);
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// A forward is of one kind alone.
fn is_datagrams(forward: &Forward) -> bool {
    forward.listen.places().iter().any(|at| matches!(at, ListenAt::Udp(_)))
}

fn too_late() -> String {
    format!("no answer within {}", humantime::format_duration(LIMIT))
}

fn row(forward: &Forward, way: &Way, line: &Line) -> [String; 5] {
    let result = match &line.seen {
        Seen::Accepts => "accepts".to_owned(),
        Seen::NotTried => "found; UDP tells nobody whether it is taken".to_owned(),
        Seen::Failed(reason) => plain(reason),
    };
    let (listen, to) = (forward.listen.to_string(), way.to_string());
    [name(&forward.source), listen, to, plain(&line.address), result]
}

fn name(source: &Source) -> String {
    match source {
        Source::Variables(aliases) => format!("env {}", aliases.join(", ")),
        Source::File { service, link } => format!("{link} of {service}"),
    }
}

/// What is wrong with a link that nobody is behind. One that only Docker's variables name may be for a port that
/// nobody ever meant to use.
fn verdict<'a>(forward: &Forward, lines: impl Iterator<Item = &'a Line>) -> Option<Finding> {
    let mut lines = lines;
    if lines.any(|line| !matches!(line.seen, Seen::Failed(_))) {
        return None;
    }
    let what = if is_datagrams(forward) { "was found" } else { "takes a connection" };
    let text = format!("{}: no address of {} {what}", forward.source, forward.to);
    Some(match forward.source {
        Source::File { .. } => Finding::error(text),
        Source::Variables(_) => Finding::warning(format!("link of {text}")),
    })
}
