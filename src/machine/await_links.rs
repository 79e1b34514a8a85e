//! What a service's start waits for: of each link that says `wait`, an upstream that takes a connection. When to try
//! and to try again, when to say so, when to give up. Never tries anything itself; `service.rs` owns one of these and
//! asks it before each start.

use std::time::Duration;

use super::action::{Action, Change};
use super::event::{AttemptId, LinkId, Verdict};
use super::out::Out;
use super::time::{Time, earliest};
use crate::config;

/// After a failed attempt; doubles with each up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An attempt that has no answer for this long is told of as one that failed is, at once.
const UNANSWERED: Duration = Duration::from_secs(1);
/// From the first word to the next; doubles with each up to [`LONGEST_SILENCE`].
const FIRST_SILENCE: Duration = Duration::from_secs(5);
const LONGEST_SILENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Default)]
pub struct AwaitLinks {
    /// Those that no upstream has taken a connection of yet. Empty: there is nothing to wait for.
    waits: Vec<Wait>,
    since: Time,
    last_attempt: AttemptId,
}

/// For one link.
#[derive(Debug, Clone)]
struct Wait {
    link: LinkId,
    until: Time,
    trying: Trying,
    /// After the next failure.
    pause: Duration,
    told: Told,
    /// When there is something to tell.
    tell_at: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trying {
    Now(AttemptId),
    At(Time),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// Its beginning, and since then a word after each silence; this is the latest.
    Waiting(Duration),
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Waiting,
    AllReached,
    /// The link was not reached in all the time that it has for that.
    InVain(LinkId, Duration),
}

impl AwaitLinks {
    /// A start is due: all its links are tried at once.
    pub fn begin(&mut self, links: &[config::Link], out: &mut Out<'_>) -> Progress {
        self.since = out.now;
        let wanted = links.iter().enumerate().filter_map(|(id, link)| Some((LinkId(id), link.wait?)));
        self.waits = wanted.map(|(link, wait)| Wait::new(link, wait, out.now)).collect();
        self.advance(links, out)
    }

    /// An attempt is over.
    pub fn reached(
        &mut self,
        links: &[config::Link],
        link: LinkId,
        attempt: AttemptId,
        verdict: Verdict,
        out: &mut Out<'_>,
    ) {
        let is_of_it = |wait: &Wait| wait.link == link && wait.trying == Trying::Now(attempt);
        let Some(index) = self.waits.iter().position(is_of_it) else { return };
        match verdict {
            Verdict::Pass => {
                let wait = self.waits.remove(index);
                if wait.told != Told::Nothing {
                    let waited = out.now.since(self.since);
                    out.tell(Change::LinkReached { link: name(links, link), waited });
                }
            }
            Verdict::Fail => self.waits[index].failed(out.now),
        }
    }

    /// Does what is due: tries, tells, or finds that it has been long enough.
    pub fn advance(&mut self, links: &[config::Link], out: &mut Out<'_>) -> Progress {
        if let Some(wait) = self.waits.iter().find(|wait| wait.until <= out.now) {
            return Progress::InVain(wait.link, wait.until.since(self.since));
        }
        for wait in &mut self.waits {
            if wait.tell_at <= out.now {
                out.tell(wait.word(name(links, wait.link), self.since, out.now));
            }
            if let Trying::At(at) = wait.trying
                && at <= out.now
            {
                self.last_attempt = AttemptId(self.last_attempt.0.wrapping_add(1));
                wait.trying = Trying::Now(self.last_attempt);
                out.act(Action::Reach { service: out.service, link: wait.link, attempt: self.last_attempt });
            }
        }
        if self.waits.is_empty() { Progress::AllReached } else { Progress::Waiting }
    }

    /// Nobody waits any more.
    pub fn cancel(&mut self, out: &mut Out<'_>) {
        for wait in self.waits.drain(..) {
            if let Trying::Now(attempt) = wait.trying {
                out.act(Action::CancelReach { service: out.service, link: wait.link, attempt });
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let of_wait = |wait: &Wait| match wait.trying {
            Trying::Now(_) => wait.until.min(wait.tell_at),
            Trying::At(at) => wait.until.min(wait.tell_at).min(at),
        };
        self.waits.iter().map(of_wait).fold(None, |first, at| earliest(first, Some(at)))
    }
}

impl Wait {
    fn new(link: LinkId, wait: Duration, now: Time) -> Self {
        let (trying, told, tell_at) = (Trying::At(now), Told::Nothing, now + UNANSWERED);
        Self { link, until: now + wait, trying, pause: FIRST_PAUSE, told, tell_at }
    }

    fn failed(&mut self, now: Time) {
        self.trying = Trying::At(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if self.told == Told::Nothing {
            self.tell_at = now;
        }
    }

    /// What there is to tell now, and when there is more.
    fn word(&mut self, link: String, since: Time, now: Time) -> Change {
        let (silence, change) = match self.told {
            Told::Nothing => (FIRST_SILENCE, Change::AwaitingLink { link, limit: self.until.since(since) }),
            Told::Waiting(silence) => {
                let (waited, left) = (now.since(since), self.until.since(now));
                ((silence * 2).min(LONGEST_SILENCE), Change::StillAwaitingLink { link, waited, left })
            }
        };
        self.told = Told::Waiting(silence);
        self.tell_at = now + silence;
        change
    }
}

pub fn name(links: &[config::Link], link: LinkId) -> String {
    links.get(link.0).map(|link| link.name.clone()).unwrap_or_default()
}
