//! One service: its defaults (each written here and nowhere else) and the rules within it.
//!
//! Called by `check` for each service; what a rule between services needs to know is put down in [`Claims`].

mod announce;
mod limits;
mod probe;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::accounts;
use super::across::{Claims, Name};
use super::env_file;
use super::values::Values;
use super::{Part, Subject};
use crate::config::raw::table::{At, Field};
use crate::config::report::{Excerpt, Place, Problem};
use crate::config::{GiveUp, Kind, Ready, ReadyBy, Restart, RestartWhen, Service, Signal, Stop, raw, units};

/// `None` after the reasons were reported.
pub fn check(
    raw: &raw::Service,
    subject: &Subject<'_>,
    values: &mut Values<'_>,
    claims: &mut Claims,
) -> Option<Service> {
    let command = command(raw, subject, values);
    let directory = optional_path(&raw.directory, values);
    let user = accounts::parse(&raw.user, values, units::user);
    let env = env(raw, subject.folder, values);
    let limits = limits::check(&raw.limits, values);
    let kind =
        values.choice(&raw.kind, Kind::Daemon, &[("daemon", Kind::Daemon), ("oneshot", Kind::Oneshot)]);
    let restart = restart(&raw.restart, values);
    let checks = each(&raw.checks, |raw| probe::check(raw, values));
    let announce = each(&raw.announce, |raw| announce::check(raw, subject, values, claims));
    let links = each(&raw.links, |raw| {
        super::link::check(raw, subject, user.as_ref().and_then(Option::as_ref), values, claims)
    });
    let stop = stop(&raw.stop, &raw.announce, values);
    let ready = ready(raw, values);
    for at in raw.after.given().map_or(&[][..], |at| &at.value) {
        if let Some(value) = values.text(at) {
            claims.after[subject.id.0].push(Name { value, typed: at.clone() });
        }
    }
    if let (Some(kind), Some(restart)) = (kind, &restart) {
        fits_kind(raw, kind, restart, subject.part, values);
    }
    Some(Service {
        name: subject.name.to_owned(),
        command: command?,
        directory: directory?,
        user: user?,
        env: env?,
        limits: limits?,
        no_new_privileges: raw.no_new_privileges.given().is_some_and(|at| at.value),
        kind: kind?,
        // Put in once all services are known.
        after: Vec::new(),
        restart: restart?,
        stop: stop?,
        ready: ready?,
        checks: checks?,
        announce: announce?,
        links: links?,
    })
}

/// All of a list checked, so that each error is found, before one that failed makes the whole fail.
fn each<R, T>(field: &Field<Vec<R>>, check: impl FnMut(&R) -> Option<T>) -> Option<Vec<T>> {
    match field {
        Field::Absent => Some(Vec::new()),
        Field::Bad => None,
        Field::Given(at) => {
            let all: Vec<Option<T>> = at.value.iter().map(check).collect();
            all.into_iter().collect()
        }
    }
}

fn command(raw: &raw::Service, subject: &Subject<'_>, values: &mut Values<'_>) -> Option<Vec<OsString>> {
    let from_file = match (&raw.command, &raw.shell) {
        (Field::Given(command), Field::Given(shell)) => {
            let problem = Problem::error(shell.place, "`command` and `shell` exclude each other");
            values.report.push(problem.note("`command` is", command.place));
            None
        }
        (Field::Given(list), _) => argv(list, "command", values),
        // The shell replaces variables itself: done here as well, a value would be read as shell code.
        (_, Field::Given(shell)) if shell.value.contains('\0') => {
            values.error(shell.place, "a NUL byte can't be passed on");
            None
        }
        (_, Field::Given(shell)) => Some(["/bin/sh", "-c", &shell.value].map(OsString::from).to_vec()),
        (Field::Absent, Field::Absent) if subject.command.is_none() => {
            let problem = Problem::error(subject.about, "`command` is missing");
            values
                .report
                .push(problem.hint("give `command = [\"program\", \"argument\"]` or `shell = \"…\"`"));
            None
        }
        (Field::Absent | Field::Bad, Field::Absent | Field::Bad) => None,
    };
    subject.command.map(<[OsString]>::to_vec).or(from_file)
}

/// The program and its arguments.
fn argv(list: &At<Vec<At<String>>>, name: &str, values: &mut Values<'_>) -> Option<Vec<OsString>> {
    if list.value.is_empty() {
        values.error(list.place, format!("`{name}` is empty: the program is missing"));
        return None;
    }
    let all: Vec<_> = list.value.iter().map(|word| values.bytes(word)).collect();
    let argv = all.into_iter().collect::<Option<Vec<_>>>()?;
    if argv.first().is_some_and(|program| program.is_empty()) {
        values.error(list.value[0].place, format!("the program of `{name}` is empty"));
        return None;
    }
    Some(argv)
}

/// `Some(None)` where none is given.
fn optional_path(field: &Field<String>, values: &mut Values<'_>) -> Option<Option<PathBuf>> {
    match field {
        Field::Absent => Some(None),
        Field::Bad => None,
        Field::Given(at) => path(at, values).map(Some),
    }
}

fn path(at: &At<String>, values: &mut Values<'_>) -> Option<PathBuf> {
    let path = values.bytes(at)?;
    if path.is_empty() {
        values.error(at.place, "a path is empty");
        return None;
    }
    Some(PathBuf::from(path))
}

fn env(raw: &raw::Service, folder: &Path, values: &mut Values<'_>) -> Option<Vec<(OsString, OsString)>> {
    let mut env = Vec::new();
    let mut sound = !matches!(raw.env_file, Field::Bad) && !matches!(raw.env, Field::Bad);
    for file in raw.env_file.given().map_or(&[][..], |at| &at.value) {
        match env_file(file, folder, values) {
            Some(variables) => env.extend(variables),
            None => sound = false,
        }
    }
    for (key, value) in raw.env.given().map_or(&[][..], |at| &at.value) {
        if key.value.is_empty() || key.value.contains(['=', '\0']) {
            values.error(key.place, format!("`{}` can't be the name of a variable", key.value));
            sound = false;
        }
        match values.bytes(value) {
            Some(value) => env.push((OsString::from(&key.value), value)),
            None => sound = false,
        }
    }
    sound.then_some(env)
}

fn env_file(at: &At<String>, folder: &Path, values: &mut Values<'_>) -> Option<Vec<(OsString, OsString)>> {
    let path = folder.join(path(at, values)?);
    let bytes = match (values.outside.read)(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            values.error(at.place, format!("cannot read `{}`: {error}", at.value));
            return None;
        }
    };
    let parsed = env_file::parse(&bytes);
    if parsed.flaws.is_empty() {
        return Some(parsed.variables);
    }
    let name = folder.join(&at.value).display().to_string();
    let file = values.report.add_file(name, &super::text_of(&bytes), Excerpt::Withheld);
    for (span, flaw) in parsed.flaws {
        values.report.push(Problem::error(Place::new(file, span), flaw).note("the file is named", at.place));
    }
    None
}

fn restart(raw: &raw::Restart, values: &mut Values<'_>) -> Option<Restart> {
    let when = values.choice(
        &raw.when,
        RestartWhen::OnFailure,
        &[
            ("always", RestartWhen::Always),
            ("on-failure", RestartWhen::OnFailure),
            ("never", RestartWhen::Never),
        ],
    );
    let delay = values.or(&raw.delay, Duration::from_millis(100), units::duration);
    let max_delay = values.or(&raw.max_delay, Duration::from_secs(30), units::duration);
    let reset_after = values.or(&raw.reset_after, Duration::from_secs(60), units::duration);
    let after = values.number(&raw.give_up.after, 20, 1..=u32::MAX);
    let within = values.or(&raw.give_up.within, Duration::from_secs(600), units::positive_duration);
    if let (Some(delay), Some(max_delay)) = (delay, max_delay)
        && delay > max_delay
        && let Some(place) = raw.max_delay.place().or(raw.delay.place())
    {
        let given = (humantime::format_duration(delay), humantime::format_duration(max_delay));
        values.error(place, format!("`delay` ({}) is longer than `max_delay` ({})", given.0, given.1));
    }
    Some(Restart {
        when: when?,
        delay: delay?,
        max_delay: max_delay?,
        reset_after: reset_after?,
        give_up: GiveUp { after: after?, within: within? },
    })
}

fn stop(raw: &raw::Stop, announce: &Field<Vec<raw::Announce>>, values: &mut Values<'_>) -> Option<Stop> {
    let signal = values.or(&raw.signal, Signal(libc::SIGTERM), units::signal);
    let drain = values.or(&raw.drain, Duration::from_secs(2), units::duration);
    let timeout = values.or(&raw.timeout, Some(Duration::from_secs(5)), units::duration_or_never);
    let sweep = values.or(&raw.sweep, Duration::from_secs(2), units::duration);
    let announces = announce.given().is_some_and(|at| !at.value.is_empty());
    let drain = if announces { drain? } else { drain.map(|_| Duration::ZERO)? };
    Some(Stop { signal: signal?, drain, timeout: timeout?, sweep: sweep? })
}

fn ready(raw: &raw::Service, values: &mut Values<'_>) -> Option<Ready> {
    let by = values.choice(
        &raw.ready.by,
        ReadyBy::Start,
        &[("start", ReadyBy::Start), ("checks", ReadyBy::Checks)],
    );
    let timeout = values.or(&raw.ready.timeout, Duration::from_secs(60), units::positive_duration);
    let settle = values.or(&raw.ready.settle, Duration::from_secs(1), units::duration);
    let none = match &raw.checks {
        Field::Absent => true,
        Field::Given(at) => at.value.is_empty(),
        Field::Bad => false,
    };
    if let (Some(ReadyBy::Checks), true, Some(place)) = (by, none, raw.ready.by.place()) {
        let problem = Problem::error(place, "ready by `checks`, but there is no check");
        values.report.push(problem.hint("add a `[[check]]`"));
    }
    Some(Ready { by: by?, timeout: timeout?, settle: settle? })
}

/// What a oneshot can't have, and what can't be main.
fn fits_kind(raw: &raw::Service, kind: Kind, restart: &Restart, part: Part, values: &mut Values<'_>) {
    if kind == Kind::Daemon {
        return;
    }
    if let (Part::Main, Some(place)) = (part, raw.kind.place()) {
        let problem = Problem::error(place, "a oneshot can't be the main service");
        values.report.push(
            problem.hint("a main service that runs once is a daemon with `when = \"never\"` in `[restart]`"),
        );
    }
    if let (RestartWhen::Always, Some(place)) = (restart.when, raw.restart.when.place()) {
        values.error(place, "a oneshot that is restarted always never ends, and nothing `after` it starts");
    }
    let announced =
        raw.announce.given().map_or(&[][..], |at| &at.value).iter().map(|one| (one.place, "announced"));
    let checked = raw.checks.given().map_or(&[][..], |at| &at.value).iter().map(|one| (one.place, "checked"));
    for (place, what) in announced.chain(checked) {
        values.error(place, format!("a oneshot can't be {what}: it serves nothing"));
    }
}
