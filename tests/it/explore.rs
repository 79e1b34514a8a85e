//! An exhaustive walk: from every state that one announced, checked service can be in, every event that can happen
//! there. The simulated world holds each step against every promise; what was seen is written to docs/machine.md,
//! and the test fails when that file is not what the machine does. `ENSIGN_BLESS=1` writes it anew.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ensign::config::{Config, ServiceId, Signal, Unhealthy};
use ensign::machine::action::Action;
use ensign::machine::event::{Answer, Ending, Event, Verdict};
use ensign::machine::service::{Kill, Readiness, State};
use ensign::machine::stop::{Phase, SweepKill};
use ensign::machine::time::Time;
use ensign::machine::{announce, health};

use crate::support::plan::{SECOND, announce as announced, awaited, check, config, daemon};
use crate::support::world::World;

const MAIN: ServiceId = ServiceId(0);
const HELD: Answer = Answer::Held { ttl: Duration::from_secs(60) };

/// Makes it happen, if it can, and gives what the supervisor did.
type Happen = fn(&mut World) -> Option<Vec<Action>>;

/// What may happen in a state, as docs/machine.md names it.
const HAPPENINGS: [(&str, Happen); 22] = [
    ("the next deadline comes", |world| {
        world.supervisor.next_deadline().map(|at| world.advance(at.since(world.now)))
    }),
    ("the clock is set", |world| Some(world.feed(Event::ClockSet))),
    ("the registry hangs up", |world| Some(world.feed(Event::RegistryHungUp))),
    ("TERM", |world| Some(world.signal(15))),
    ("INT", |world| Some(world.signal(2))),
    ("HUP", |world| Some(world.signal(1))),
    ("main exits with 0", |world| world.alive.contains_key(&MAIN).then(|| world.end(MAIN, Ending::Code(0)))),
    ("main exits with 1", |world| world.alive.contains_key(&MAIN).then(|| world.end(MAIN, Ending::Code(1)))),
    ("main is killed", |world| {
        world.alive.contains_key(&MAIN).then(|| world.end(MAIN, Ending::Killed(Signal(9))))
    }),
    ("the link is reached", |world| (!world.attempts.is_empty()).then(|| world.tried(Verdict::Pass))),
    ("the link is not reached", |world| (!world.attempts.is_empty()).then(|| world.tried(Verdict::Fail))),
    ("the check passes", |world| (!world.probes.is_empty()).then(|| world.probed(Verdict::Pass))),
    ("the check fails", |world| (!world.probes.is_empty()).then(|| world.probed(Verdict::Fail))),
    ("registry: held", |world| answer(world, HELD)),
    ("registry: moved", |world| answer(world, Answer::Moved { ttl: Duration::from_secs(60) })),
    ("no address", |world| answer(world, Answer::NoAddress)),
    ("registry: lost", |world| answer(world, Answer::Lost)),
    ("registry: taken", |world| answer(world, Answer::Taken)),
    ("registry: withdrawn", |world| answer(world, Answer::Withdrawn)),
    ("registry: no answer", |world| answer(world, Answer::Failed)),
    ("a process is left behind", |world| {
        let possible = world.orphans == 0 && !world.alive.is_empty();
        possible.then(|| {
            world.orphans = 1;
            Vec::new()
        })
    }),
    ("the last one left behind goes", |world| (world.orphans > 0).then(|| world.end_orphans())),
];

fn answer(world: &mut World, answer: Answer) -> Option<Vec<Action>> {
    (!world.requests.is_empty()).then(|| world.answer(answer))
}

type Outcomes = BTreeSet<(String, String)>;
type Table = BTreeMap<String, BTreeMap<usize, Outcomes>>;

/// Walks every state that `config` can reach, and gives what happened in each.
fn walk(config: Config) -> Table {
    let mut table = Table::new();
    let mut seen = HashSet::new();
    let mut first = World::new(config, 1);
    first.feed(Event::Started);
    let mut queue = VecDeque::from([first]);
    while let Some(world) = queue.pop_front() {
        if world.exited.is_some() || !seen.insert(fingerprint(&world)) {
            continue;
        }
        assert!(seen.len() < 50_000, "the state space has no end: some counter is unbounded");
        let row = table.entry(name(&world)).or_default();
        for (number, (_, happen)) in HAPPENINGS.iter().enumerate() {
            let mut next = world.clone();
            let Some(actions) = happen(&mut next) else { continue };
            row.entry(number).or_default().insert((done(&actions), name(&next)));
            queue.push_back(next);
        }
    }
    table
}

/// The whole state with every number left out: what is the same but for times and counts is walked once.
fn fingerprint(world: &World) -> String {
    let supervisor = &world.supervisor;
    let whole = format!("{:?} {:?}", supervisor.services(), supervisor.phase());
    // What decides when a line is told or a heartbeat comes, and nothing else.
    let whole: String = whole.split("outage: ").flat_map(|part| part.split("taken: ").last()).collect();
    // Of a time it counts whether it has come, not the unit that it is printed in.
    let mut print = String::new();
    for (at, part) in whole.split("Time(").enumerate() {
        let (time, part) = if at == 0 { ("", part) } else { part.split_once(')').unwrap_or((part, "")) };
        print.push_str(match time {
            "" => "",
            time if is_future(time, world.now) => "later",
            _ => "past",
        });
        print.extend(part.chars().filter(|c| !c.is_ascii_digit() && *c != '.'));
    }
    let (alive, probes) = (world.alive.len(), world.probes.len());
    let (requests, attempts) = (world.requests.len(), world.attempts.len());
    write!(print, "{alive} {probes} {requests} {attempts} {}", world.orphans).expect("a string takes all");
    print
}

/// Of a duration as it is printed.
fn is_future(time: &str, now: Time) -> bool {
    let units = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let in_seconds = |(unit, size): (&str, f64)| Some(time.strip_suffix(unit)?.parse::<f64>().ok()? * size);
    units.into_iter().find_map(in_seconds).expect("a duration") > now.since_start().as_secs_f64()
}

/// The state in the words of the documentation.
fn name(world: &World) -> String {
    if let Some(code) = world.exited {
        return format!("left with {code}");
    }
    let supervisor = &world.supervisor;
    let service = &supervisor.services()[0];
    let phase = match supervisor.phase() {
        Phase::Running => "running",
        Phase::Draining { .. } => "draining",
        Phase::Stopping { .. } => "stopping",
        Phase::Sweeping { kill: SweepKill::At(_), .. } => "sweeping",
        Phase::Sweeping { kill: SweepKill::Done { .. }, .. } => "sweeping, killed",
        Phase::Left => "left",
    };
    let state = match service.state() {
        State::Waiting => "waiting",
        State::AwaitingLinks => "waiting for its link",
        State::Starting { .. } => "starting",
        State::Up { ready: Readiness::No, .. } => "up, not ready",
        State::Up { ready: Readiness::Yes, .. } => "up, ready",
        State::Stopping { kill: Kill::Done, .. } => "killed",
        State::Stopping { .. } => "stopping",
        State::Backoff { .. } => "backing off",
        State::Down { .. } => "down",
    };
    let health = match service.health() {
        health::State::Unknown => "health unknown",
        health::State::Healthy => "healthy",
        health::State::Unhealthy => "unhealthy",
    };
    let announcement = match service.announcer().state() {
        announce::State::Absent => "not announced",
        announce::State::Registering { .. } => "registering",
        announce::State::RegisterLater { .. } => "to be registered again",
        announce::State::Held { .. } => "announced",
        announce::State::Renewing { .. } => "renewing",
        announce::State::RenewLater { .. } => "to be renewed again",
        announce::State::Withdrawing { .. } => "withdrawing",
        announce::State::WithdrawLater { .. } => "to be withdrawn again",
    };
    format!("{phase} · {state} · {health} · {announcement}")
}

fn done(actions: &[Action]) -> String {
    let name = |action: &Action| {
        Some(match action {
            Action::Spawn { .. } => "spawn".to_owned(),
            Action::Signal { signal, .. } => format!("send {signal}"),
            Action::KillRemains { .. } => "kill what is left of its group".to_owned(),
            Action::Probe { .. } => "probe".to_owned(),
            Action::CancelProbe { .. } => "cancel the probe".to_owned(),
            Action::Reach { .. } => "try the link".to_owned(),
            Action::CancelReach { .. } => "stop trying the link".to_owned(),
            Action::Register { .. } => "register".to_owned(),
            Action::Renew { .. } => "renew".to_owned(),
            Action::Withdraw { .. } => "**withdraw**".to_owned(),
            Action::TurnAway => "turn others away".to_owned(),
            Action::Sweep(signal) => format!("send {signal} to all"),
            Action::Exit(code) => format!("leave with {code}"),
            Action::Tell(_) => return None,
        })
    };
    let names: Vec<_> = actions.iter().filter_map(name).collect();
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}

fn documented() -> Config {
    let mut service = daemon("web");
    service.announce = vec![announced("web.example.com")];
    service.checks = vec![check(Unhealthy::Withdraw)];
    service.checks[0].fall = 1;
    service.links = vec![awaited("db", 30 * SECOND)];
    service.restart.give_up.after = 3;
    service.stop.drain = 2 * SECOND;
    config(vec![service])
}

fn render(table: &Table) -> String {
    let mut page = String::from(
        "# What the supervisor does in every state\n\n\
         Generated by `tests/it/explore.rs` from the machine itself (`ENSIGN_BLESS=1 cargo nextest run explore`), \
         for one service\nwith a link that it waits for (`wait = \"30s\"`), a check (`unhealthy = \"withdraw\"`, `fall = 1`), an announcement, \
         `restart.when = \"on-failure\"` and `give_up.after = 3`.\n\
         Where one event has several outcomes, they differ by what the name of the state does not show: how many \
         crashes came before,\nwhich deadline is the next, whether something was left behind.\n\n",
    );
    let states = table.len();
    writeln!(page, "{states} states; what leads nowhere and does nothing is left out.").expect("a string");
    for (state, row) in table {
        let mut lines = String::new();
        for (&number, outcomes) in row {
            for (actions, next) in outcomes {
                if actions == "–" && next == state {
                    continue;
                }
                let next = if next == state { "*same*" } else { next };
                writeln!(lines, "| {} | {actions} | {next} |", HAPPENINGS[number].0).expect("a string");
            }
        }
        write!(page, "\n## {state}\n\n| event | does | then |\n|---|---|---|\n{lines}").expect("a string");
    }
    page
}

#[test]
fn every_state_of_one_service_is_walked_and_documented() {
    let page = render(&walk(documented()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/machine.md");
    if std::env::var_os("ENSIGN_BLESS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written to");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/machine.md is stale: ENSIGN_BLESS=1 cargo nextest run explore");
}

/// The same walk where a failing check restarts, with no drain, with limits that are already reached.
#[test]
fn every_state_of_other_policies_keeps_the_promises() {
    let mut restarting = documented();
    restarting.services[0].checks[0].unhealthy = Unhealthy::Restart;
    let mut hasty = documented();
    hasty.services[0].stop.drain = Duration::ZERO;
    hasty.services[0].stop.timeout = Some(Duration::ZERO);
    hasty.services[0].stop.sweep = Duration::ZERO;
    hasty.services[0].ready.settle = Duration::ZERO;
    let mut patient = documented();
    patient.services[0].stop.timeout = None;
    for config in [restarting, hasty, patient] {
        assert!(walk(config).len() > 20, "the walk saw the states");
    }
}
