//! The checks of one service: when each is probed, when a probe has taken too long, and what its answers make of the
//! service's health. Never runs a probe; `service.rs` owns one of these and asks it.

use std::time::Duration;

use super::action::{Action, Change};
use super::event::{CheckId, ProbeId, Verdict};
use super::out::Out;
use super::time::{Time, earliest};
use crate::config::{self, Unhealthy};

/// Until a check has passed once, and within its grace, it is probed this soon again, then twice as long after, up to
/// `every`: a service that starts in 80 ms is ready in 100 and not in 2,000.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
pub struct Health {
    checks: Vec<Check>,
    /// When the current run began; `None` while there is nothing to probe.
    since: Option<Time>,
}

#[derive(Debug, Clone)]
struct Check {
    probing: Probing,
    state: State,
    /// Of the same kind in a row, this run.
    passes: u32,
    failures: u32,
    last_probe: ProbeId,
    /// The next interval before the first pass; `every` after it.
    interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probing {
    Idle {
        next: Time,
    },
    Running {
        started: Time,
    },
    /// Given up, but what ran it has not gone yet; the next may not start before (none pile up).
    Cancelled {
        next: Time,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Unknown,
    Healthy,
    Unhealthy,
}

impl Health {
    pub fn new(checks: &[config::Check]) -> Self {
        let checks = checks
            .iter()
            .map(|check| Check {
                probing: Probing::Idle { next: Time::ZERO },
                state: State::Unknown,
                passes: 0,
                failures: 0,
                last_probe: ProbeId(0),
                interval: check.every,
            })
            .collect();
        Self { checks, since: None }
    }

    /// A run began: everything is unknown again.
    pub fn start(&mut self, config: &[config::Check], now: Time) {
        self.since = Some(now);
        for (check, config) in self.checks.iter_mut().zip(config) {
            check.state = State::Unknown;
            (check.passes, check.failures) = (0, 0);
            check.interval = FIRST_INTERVAL.min(config.every);
            check.probing = match check.probing {
                Probing::Idle { .. } => Probing::Idle { next: now },
                Probing::Running { .. } | Probing::Cancelled { .. } => Probing::Cancelled { next: now },
            };
        }
    }

    /// The run is over, or its end has been decided: what is asked now says nothing about the service.
    pub fn stop(&mut self, out: &mut Out<'_>) {
        self.since = None;
        for (id, check) in self.checks.iter_mut().enumerate() {
            check.state = State::Unknown;
            if let Probing::Running { started } = check.probing {
                check.probing = Probing::Cancelled { next: started };
                out.act(Action::CancelProbe {
                    service: out.service,
                    check: CheckId(id),
                    probe: check.last_probe,
                });
            }
        }
    }

    /// A probe is over. Gives the check if it has just become unhealthy.
    pub fn probed(
        &mut self,
        config: &[config::Check],
        id: CheckId,
        probe: ProbeId,
        verdict: Verdict,
        out: &mut Out<'_>,
    ) -> Option<CheckId> {
        let (check, config) = (self.checks.get_mut(id.0)?, config.get(id.0)?);
        if probe != check.last_probe {
            return None;
        }
        match check.probing {
            Probing::Idle { .. } => None,
            Probing::Cancelled { next } => {
                check.probing = Probing::Idle { next };
                None
            }
            Probing::Running { started } => {
                let next = started + check.step(config, self.since, out.now);
                check.probing = Probing::Idle { next };
                self.count(config, id, verdict, out)
            }
        }
    }

    /// Does what is due: ends probes that take too long, starts those whose time has come. Gives the checks that have
    /// become unhealthy by a timeout.
    pub fn advance(&mut self, config: &[config::Check], out: &mut Out<'_>) -> Vec<CheckId> {
        let mut fallen = Vec::new();
        if self.since.is_none() {
            return fallen;
        }
        for (index, config) in config.iter().enumerate() {
            let id = CheckId(index);
            let Some(check) = self.checks.get_mut(index) else { continue };
            match check.probing {
                Probing::Running { started } if started + config.timeout <= out.now => {
                    let next = started + check.step(config, self.since, out.now);
                    check.probing = Probing::Cancelled { next };
                    let probe = check.last_probe;
                    out.act(Action::CancelProbe { service: out.service, check: id, probe });
                    out.tell(Change::ProbeTimedOut { check: id });
                    fallen.extend(self.count(config, id, Verdict::Fail, out));
                }
                Probing::Idle { next } if next <= out.now => {
                    check.last_probe = ProbeId(check.last_probe.0.wrapping_add(1));
                    check.probing = Probing::Running { started: out.now };
                    out.act(Action::Probe { service: out.service, check: id, probe: check.last_probe });
                }
                Probing::Idle { .. } | Probing::Running { .. } | Probing::Cancelled { .. } => {}
            }
        }
        fallen
    }

    pub fn next_deadline(&self, config: &[config::Check]) -> Option<Time> {
        self.since?;
        let deadlines = self.checks.iter().zip(config).map(|(check, config)| match check.probing {
            Probing::Idle { next } => Some(next),
            Probing::Running { started } => Some(started + config.timeout),
            Probing::Cancelled { .. } => None,
        });
        deadlines.fold(None, earliest)
    }

    /// Healthy when every check says so; a service without checks is always healthy.
    pub fn state(&self) -> State {
        let any = |wanted| self.checks.iter().any(|check| check.state == wanted);
        if any(State::Unhealthy) {
            State::Unhealthy
        } else if any(State::Unknown) {
            State::Unknown
        } else {
            State::Healthy
        }
    }

    fn count(
        &mut self,
        config: &config::Check,
        id: CheckId,
        verdict: Verdict,
        out: &mut Out<'_>,
    ) -> Option<CheckId> {
        let since = self.since?;
        let check = self.checks.get_mut(id.0)?;
        match verdict {
            Verdict::Pass => {
                check.failures = 0;
                check.passes = check.passes.saturating_add(1);
                check.interval = config.every;
                if check.state != State::Healthy && check.passes >= config.rise {
                    check.state = State::Healthy;
                    out.tell(Change::Healthy { check: id });
                }
                None
            }
            Verdict::Fail => {
                check.passes = 0;
                if in_grace(config, since, out.now) {
                    return None;
                }
                check.failures = check.failures.saturating_add(1);
                if check.state == State::Unhealthy || check.failures < config.fall {
                    return None;
                }
                check.state = State::Unhealthy;
                out.tell(Change::Unhealthy { check: id, failures: check.failures });
                Some(id)
            }
        }
    }
}

impl Check {
    /// The interval from this probe's start to the next one's. Short ones only while failures count for nothing, or
    /// they would use up `fall` at once.
    fn step(&mut self, config: &config::Check, since: Option<Time>, now: Time) -> Duration {
        if !since.is_some_and(|since| in_grace(config, since, now)) {
            self.interval = config.every;
        }
        let step = self.interval;
        self.interval = step.saturating_mul(2).min(config.every);
        step
    }
}

fn in_grace(config: &config::Check, since: Time, now: Time) -> bool {
    now.since(since) < config.grace
}

/// What a check that has become unhealthy asks for.
pub fn wants_restart(config: &[config::Check], id: CheckId) -> Option<CheckId> {
    match config.get(id.0)?.unhealthy {
        Unhealthy::Restart => Some(id),
        Unhealthy::Withdraw => None,
    }
}
