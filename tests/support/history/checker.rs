//! Holds what etcd tells of a key against what each instance was at that time. Pure: no clock, no etcd.
//!
//! What the test knows of an instance is when it did something to it, to within a few milliseconds, and how long ensign
//! may take to notice. So there are two answers to "was it fit": *perhaps*, with all the time that it may take, by which
//! a record that is there is judged; and *surely*, by which one that is missing is.

use std::fmt;
use std::time::Duration;

use ensign::config::Conflict;

use super::spans::{At, FOREVER, Spans};
use super::timeline::{Change, Deed, Life, Quorum, Timeline, When};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a lease, and how late after that etcd drops it.
    pub ttl: Duration,
    pub expiry: Duration,
    /// One request, all endpoints tried.
    pub answer: Duration,
    /// The longest pause between two tries.
    pub retry: Duration,
    /// A crashed service is not announced for this long at least …
    pub settle: Duration,
    /// … and for this long at most, if it does not crash again.
    pub again: Duration,
    /// From a start, or from a check that passes again, to being fit.
    pub boot: Duration,
    /// From a check that fails to being unfit.
    pub unwell: Duration,
    /// What a loaded machine adds to anything.
    pub slack: Duration,
}

impl Limits {
    /// For what is wanted while the registry answers.
    fn at_once(&self) -> Duration {
        self.answer + self.slack
    }

    /// The same, where an earlier try may have failed.
    fn by_retry(&self) -> Duration {
        self.retry + self.at_once()
    }

    /// The same, for one that waits for another's record to go.
    fn by_heartbeat(&self) -> Duration {
        self.ttl / 3 + self.by_retry()
    }

    /// By then a lease that nobody renews is gone.
    fn by_ttl(&self) -> Duration {
        self.ttl + self.expiry
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The record of one that is not fit stayed for longer than it may.
    Stale,
    /// There was none, or not that of the one who takes the key over, for longer than it may be.
    Missing,
    /// A record went though the one who announces it was fit all the time.
    Robbed,
    /// A key was taken over by one that may not (any more).
    Taken,
    /// One that was not fit was announced.
    Unfit,
    /// One that crashed again and again was announced.
    CrashLoop,
    /// Nobody announces that.
    Unknown,
    /// It hangs on no lease.
    ForEver,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub kind: Kind,
    pub at: At,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.3} s {:?}: {}", self.at.as_secs_f64(), self.kind, self.what)
    }
}

/// All that was not as it must be.
pub fn check(timeline: &Timeline, limits: Limits) -> Vec<Violation> {
    let checker = Checker { timeline, limits, answering: answering(timeline) };
    let mut found = checker.writes();
    found.extend(checker.stale());
    found.extend(checker.robbed());
    for life in &timeline.lives {
        found.extend(checker.missing(life));
    }
    found.sort_by_key(|violation| violation.at);
    found
}

struct Checker<'a> {
    timeline: &'a Timeline,
    limits: Limits,
    answering: Spans,
}

impl Checker<'_> {
    /// Who wrote, and whether they may have.
    fn writes(&self) -> Vec<Violation> {
        let mut found = vec![];
        let mut before: Option<&str> = None;
        for change in &self.timeline.changes {
            let Change { at, value, lease, .. } = change;
            let standing = std::mem::replace(&mut before, value.as_deref());
            let Some(value) = value.as_deref() else { continue };
            let mut tell = |kind, what| found.push(Violation { kind, at: *at, what });
            let Some(life) = self.timeline.owner(value) else {
                tell(Kind::Unknown, format!("nobody says {value}"));
                continue;
            };
            if *lease == 0 {
                tell(Kind::ForEver, format!("{} is announced without a lease", life.name));
            }
            // What a member that did not answer has taken may be carried out when it answers again.
            let sent = at.saturating_sub(self.limits.at_once());
            let cuts = gaps(life, Deed::CutOff, Deed::Mended);
            let sent = outages(self.timeline)
                .chain(cuts.iter())
                .filter(|(_, back)| *back >= sent)
                .map(|(lost, _)| lost.saturating_sub(self.limits.at_once()))
                .fold(sent, At::min);
            if !self.perhaps(life).touch(sent, *at) {
                let (kind, why) = match why_unfit(life, *at) {
                    Deed::LoopOn => (Kind::CrashLoop, "in a crash loop".to_owned()),
                    deed => (Kind::Unfit, format!("not fit: {deed:?}")),
                };
                tell(kind, format!("{} is announced, and is {why}", life.name));
            }
            if let Some(rival) = standing.filter(|standing| *standing != value)
                && let Some(wrong) = self.wrong_to_take(life, change)
            {
                let rival = self.timeline.name_of(rival);
                tell(Kind::Taken, format!("{} takes the place of {rival}{wrong}", life.name));
            }
        }
        found
    }

    /// Why `life` must not take another's place with this write.
    fn wrong_to_take(&self, life: &Life, write: &Change) -> Option<&'static str> {
        if life.conflict == Conflict::Wait {
            return Some(" and was to wait");
        }
        let mut earlier = self.timeline.changes.iter().take_while(|change| change.revision < write.revision);
        let knows_of = |at: At| {
            // Whose answer was lost may not know of it.
            let answer = self.limits.answer;
            let asked = bounds(life).map_or(at, |(started, _)| at.saturating_sub(answer).max(started.from));
            self.able(life).hold(asked, at + answer)
        };
        let has_announced =
            earlier.any(|change| change.value.as_deref() == Some(&life.value) && knows_of(change.at));
        has_announced.then_some(", not for the first time")
    }

    /// Who has the key next, where it is taken over by way of an end.
    fn taker(&self, gone: &Change) -> Option<(&Life, &Change)> {
        let write = self.timeline.changes.iter().find(|next| next.revision > gone.revision)?;
        let taker = self.timeline.owner(write.value.as_deref()?)?;
        (write.at - gone.at <= self.timeline.takeover?).then_some((taker, write))
    }

    /// Records of those that were not fit.
    fn stale(&self) -> Vec<Violation> {
        let mut found = vec![];
        for (from, to, change) in self.standing() {
            let Some(life) = change.value.as_deref().and_then(|value| self.timeline.owner(value)) else {
                continue;
            };
            for (unfit, until) in Spans::of([(from, to)]).without(&self.perhaps(life)).iter() {
                let allowed = self.withdrawn_by(life, unfit).min(self.expired_by(unfit));
                if until > allowed {
                    let (kind, why) = match why_unfit(life, unfit) {
                        deed @ Deed::LoopOn => (Kind::CrashLoop, deed),
                        deed => (Kind::Stale, deed),
                    };
                    let (for_ms, allowed_ms) = ((until - unfit).as_millis(), (allowed - unfit).as_millis());
                    let what = format!(
                        "the record of {} stood for {for_ms} ms after it was no longer fit ({why:?}), allowed are {allowed_ms}",
                        life.name
                    );
                    found.push(Violation { kind, at: allowed, what });
                }
            }
        }
        found
    }

    /// Its own withdrawal: as soon as it can be answered for long enough.
    fn withdrawn_by(&self, life: &Life, unfit: At) -> At {
        let deadline = |(from, to): (At, At)| {
            let within = match from + self.limits.by_retry() <= unfit {
                true => unfit + self.limits.at_once(),
                false => unfit.max(from) + self.limits.by_retry(),
            };
            (within <= to).then_some(within)
        };
        self.able(life).iter().filter_map(deadline).min().unwrap_or(FOREVER)
    }

    /// Its lease, which begins anew when a quorum is back.
    fn expired_by(&self, unfit: At) -> At {
        let by = |lease: At| if lease == FOREVER { FOREVER } else { lease + self.limits.by_ttl() };
        outages(self.timeline).filter(|(_, back)| *back > unfit).fold(by(unfit), |deadline, (lost, back)| {
            if lost < deadline { deadline.max(by(back)) } else { deadline }
        })
    }

    /// Records that went for no reason.
    fn robbed(&self) -> Vec<Violation> {
        let mut found = vec![];
        for (from, to, change) in self.standing() {
            let next = self.timeline.changes.iter().find(|next| next.revision > change.revision);
            let (Some(next), Some(value)) = (next, change.value.as_deref()) else { continue };
            let (None, Some(life)) = (&next.value, self.timeline.owner(value)) else { continue };
            // A lease ends no sooner than its TTL after it was renewed, and it was no later than it was first used.
            let younger = to < from + self.limits.ttl.saturating_sub(self.limits.slack);
            let since = to.saturating_sub(if younger { self.limits.at_once() } else { self.limits.by_ttl() });
            if !self.surely(life).within(&self.able(life)).hold(since, to) {
                continue;
            }
            let (kind, what) = match self.taker(next).filter(|(taker, _)| taker.value != life.value) {
                None => {
                    (Kind::Robbed, format!("the record of {} went, and nothing was wrong with it", life.name))
                }
                Some((taker, write)) => match self.wrong_to_take(taker, write) {
                    None => continue,
                    Some(wrong) => {
                        (Kind::Taken, format!("{} takes the place of {}{wrong}", taker.name, life.name))
                    }
                },
            };
            found.push(Violation { kind, at: to, what });
        }
        found
    }

    /// When it should have been announced and was not.
    fn missing(&self, life: &Life) -> Vec<Violation> {
        let mut found = vec![];
        let (surely, perhaps) = (self.surely(life).within(&self.able(life)), self.perhaps(life));
        let mut tell = |from: At, allowed: Duration, what: String| {
            found.push(Violation { kind: Kind::Missing, at: from + allowed, what });
        };
        for (absent, until) in self.absent().iter() {
            for (from, to) in Spans::of([(absent, until)]).within(&surely).iter() {
                // One that became fit when there was none had nobody to wait for.
                let fresh = perhaps.around(from).is_some_and(|(fit, _)| absent <= fit);
                let allowed = if fresh { self.limits.by_retry() } else { self.limits.by_heartbeat() };
                if to - from > allowed {
                    let what = format!(
                        "no record for {} ms while {} was fit, allowed are {}",
                        (to - from).as_millis(),
                        life.name,
                        allowed.as_millis()
                    );
                    tell(from, allowed, what);
                }
            }
        }
        let mut writes = self.timeline.changes.iter();
        let first = writes.find(|change| change.value.as_deref() == Some(&life.value));
        let first = first.map_or(self.timeline.end, |change| change.at);
        let allowed = self.limits.by_retry();
        if let (Conflict::Take, Some((from, to))) = (life.conflict, surely.iter().next())
            && to.min(first) > from + allowed
        {
            tell(from, allowed, format!("{} does not take the key over", life.name));
        }
        found
    }

    /// From when to when each write stood.
    fn standing(&self) -> impl Iterator<Item = (At, At, &Change)> {
        let changes = &self.timeline.changes;
        let ends = changes.iter().skip(1).map(|next| next.at).chain([self.timeline.end]);
        changes.iter().zip(ends).filter(|(change, _)| change.value.is_some()).map(|(c, end)| (c.at, end, c))
    }

    fn absent(&self) -> Spans {
        let held = Spans::of(self.standing().map(|(from, to, _)| (from, to)));
        Spans::of([(Duration::ZERO, self.timeline.end)]).without(&held)
    }

    /// When it may have been fit, as far as anybody can tell.
    fn perhaps(&self, life: &Life) -> Spans {
        let Limits { settle, unwell, .. } = self.limits;
        let Some((started, ended)) = bounds(life) else { return Spans::default() };
        let first_breath = |sick: When| if sick.to <= started.from { sick.to } else { sick.to + unwell };
        let crashes = pairs(life, Deed::Crashed, Deed::Thawed).into_iter().map(|(crash, thawed)| {
            let next_run = match frozen_at(life, crash) {
                true => thawed.map_or(FOREVER, |thawed| thawed.from),
                false => crash.from,
            };
            (crash.to, next_run + settle)
        });
        let loops = pairs(life, Deed::LoopOn, Deed::LoopOff).into_iter();
        let loops = loops.map(|(on, off)| (on.to, off.map_or(FOREVER, |off| off.from + settle)));
        let sick = pairs(life, Deed::Sick, Deed::Well).into_iter();
        let sick = sick.map(|(sick, well)| (first_breath(sick), well.map_or(FOREVER, |well| well.from)));
        let gaps = Spans::of(crashes.chain(loops).chain(sick));
        Spans::of([(started.from, ended.map_or(FOREVER, |ended| ended.to))]).without(&gaps)
    }

    /// When it was fit, by all that is known.
    fn surely(&self, life: &Life) -> Spans {
        let Limits { boot, again, .. } = self.limits;
        let Some((started, ended)) = bounds(life) else { return Spans::default() };
        let by = |end: Option<When>, late: Duration| end.map_or(FOREVER, |end| end.to + late);
        let crashes = pairs(life, Deed::Crashed, Deed::Thawed).into_iter().map(|(crash, thawed)| {
            let seen = if frozen_at(life, crash) { by(thawed, again) } else { crash.to + again };
            (crash.from, seen)
        });
        let gap = |(open, end): (When, Option<When>), late| (open.from, by(end, late));
        let loops = pairs(life, Deed::LoopOn, Deed::LoopOff).into_iter().map(|pair| gap(pair, again));
        let sick = pairs(life, Deed::Sick, Deed::Well).into_iter().map(|pair| gap(pair, boot));
        let frozen = pairs(life, Deed::Frozen, Deed::Thawed).into_iter().map(|pair| gap(pair, boot));
        let gaps = Spans::of(crashes.chain(loops).chain(sick).chain(frozen));
        Spans::of([(started.to + boot, ended.map_or(FOREVER, |ended| ended.from))]).without(&gaps)
    }

    /// When it could ask and be answered.
    fn able(&self, life: &Life) -> Spans {
        let Some((started, ended)) = bounds(life) else { return Spans::default() };
        let ended = ended.map_or(FOREVER, |ended| {
            let stopped = life.deeds.iter().any(|(_, deed)| *deed == Deed::Stopped);
            let limit = ended.to + self.limits.at_once();
            // It asks once more before it leaves, and does not wait for a registry that it could not reach before.
            let asks = self.answering.hold(ended.from.saturating_sub(self.limits.by_retry()), limit);
            if stopped && asks { limit } else { ended.from }
        });
        let life_time = Spans::of([(started.from, ended)]).within(&self.answering);
        let awake = life_time.without(&gaps(life, Deed::Frozen, Deed::Thawed));
        awake.without(&gaps(life, Deed::CutOff, Deed::Mended))
    }
}

/// From when to when no quorum answers, at the longest.
fn outages(timeline: &Timeline) -> impl Iterator<Item = (At, At)> {
    let lost = timeline.quorum.iter().filter(|(_, what)| *what == Quorum::Lost);
    lost.map(|(lost, _)| {
        let back = |(when, what): &&(When, Quorum)| *what == Quorum::Back && when.from >= lost.from;
        (lost.from, timeline.quorum.iter().find(back).map_or(FOREVER, |(back, _)| back.to))
    })
}

fn answering(timeline: &Timeline) -> Spans {
    Spans::of([(Duration::ZERO, FOREVER)]).without(&Spans::of(outages(timeline)))
}

/// Its start and its end.
fn bounds(life: &Life) -> Option<(When, Option<When>)> {
    let started = life.deeds.iter().find(|(_, deed)| *deed == Deed::Started)?.0;
    let ended = life.deeds.iter().find(|(_, deed)| matches!(deed, Deed::Stopped | Deed::Killed));
    Some((started, ended.map(|(when, _)| *when)))
}

/// Each `open`, and the first `end` after it.
fn pairs(life: &Life, open: Deed, end: Deed) -> Vec<(When, Option<When>)> {
    let mut deeds = life.deeds.iter();
    let mut pairs = vec![];
    while let Some((when, deed)) = deeds.next() {
        if *deed == open {
            pairs.push((*when, deeds.clone().find(|(_, deed)| *deed == end).map(|(when, _)| *when)));
        }
    }
    pairs
}

/// From when to when something was so, at the longest.
fn gaps(life: &Life, open: Deed, end: Deed) -> Spans {
    let gap = |(at, end): (When, Option<When>)| (at.from, end.map_or(FOREVER, |end| end.to));
    Spans::of(pairs(life, open, end).into_iter().map(gap))
}

fn frozen_at(life: &Life, when: When) -> bool {
    let frozen =
        |(from, to): (When, Option<When>)| from.to <= when.from && to.is_none_or(|to| when.to <= to.from);
    pairs(life, Deed::Frozen, Deed::Thawed).into_iter().any(frozen)
}

/// What it suffered from then: the last thing that was done to it and not undone.
fn why_unfit(life: &Life, at: At) -> Deed {
    let open = |of: Deed, end: Deed| {
        let in_it = |(from, to): &(When, Option<When>)| from.from <= at && to.is_none_or(|to| at <= to.to);
        pairs(life, of, end).iter().any(in_it).then_some(of)
    };
    let done = |what: Deed| life.deeds.iter().any(|(w, deed)| *deed == what && w.from <= at).then_some(what);
    done(Deed::Stopped)
        .or(done(Deed::Killed))
        .or(open(Deed::LoopOn, Deed::LoopOff))
        .or(open(Deed::Sick, Deed::Well))
        .or(done(Deed::Crashed))
        .unwrap_or(Deed::Started)
}
