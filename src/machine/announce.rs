//! One service's announcement: from "it should be there" or "it should not" to single registry requests, with one in
//! flight at most, a heartbeat every third of the TTL, and retries that neither flood the registry nor give up.
//! Never talks to a registry and never decides whether the service is fit; `service.rs` says so by `want`.

use std::time::Duration;

use super::action::{Action, Change, Unfit};
use super::event::{Answer, ClaimId, RequestId};
use super::out::Out;
use super::time::Time;
use crate::config::Conflict;

/// The first retry's longest delay; doubles up to `RETRY_MAX`, so that a registry that returns is found within a second.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How soon the next heartbeat comes after the registry has hung up; at random, since it hangs up on a whole fleet at once.
const HASTE: Duration = Duration::from_millis(500);
/// How long no other one comes early after one that did and found all in place, as a part of the TTL: some registries,
/// or what is before them, close whatever is idle.
const CALM: u32 = 10;

/// An outage is told of again after this, then each time that it has become twice as long, and at least once in
/// [`LONGEST_SILENCE`]: days of it must not fill a disk, nor be forgotten.
const FIRST_SILENCE: Duration = Duration::from_secs(60);
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
pub struct Announcer {
    /// What a lease is asked for; `None` where nothing is announced.
    ttl: Option<Duration>,
    state: State,
    last_claim: ClaimId,
    last_request: RequestId,
    outage: Outage,
    haste: Haste,
    /// Another's record stands under our key, and that has been said.
    taken: bool,
    /// There was no address to announce when that was looked at last, and that has been said.
    homeless: bool,
    /// What may be displaced is what was there before us. Once we have been announced, what stands there came later:
    /// two instances would take the key from each other for ever.
    conflict: Conflict,
}

/// The registry is out of reach, from the first failure in a row to the next answer.
#[derive(Debug, Clone, Copy, Default)]
struct Outage {
    /// In a row; none is no outage.
    failures: u32,
    since: Time,
    /// When the next failure is told of again.
    remind_at: Time,
}

/// Whether a whole fleet may have come to the registry with us, and would for as long as it takes a tenth of each pause
/// to part it: what was started together, what an outage kept waiting, what the registry hung up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Likely,
    ByChance,
}

/// What the registry's hanging up makes of the next heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// It may come early, but not before this.
    From(Time),
    /// It comes early.
    Made,
}

/// Whether heartbeats are sent in this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    Now,
    NotNow,
}

/// There is one claim at a time: the next is made once the registry has said that nothing is left of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Absent,
    Registering {
        claim: ClaimId,
    },
    /// A try failed; it may have taken effect all the same.
    RegisterLater {
        claim: ClaimId,
        at: Time,
    },
    Held {
        claim: ClaimId,
        /// From here on it goes along when another service's heartbeat is sent.
        early_at: Time,
        renew_at: Time,
    },
    Renewing {
        claim: ClaimId,
    },
    RenewLater {
        claim: ClaimId,
        at: Time,
    },
    Withdrawing {
        claim: ClaimId,
    },
    /// Tried until the registry has answered: one that was away may let the record stand for its whole TTL again.
    WithdrawLater {
        claim: ClaimId,
        at: Time,
    },
}

impl Announcer {
    pub fn new(ttl: Option<Duration>) -> Self {
        Self {
            ttl,
            state: State::Absent,
            last_claim: ClaimId(0),
            last_request: RequestId(0),
            outage: Outage::default(),
            haste: Haste::From(Time::ZERO),
            taken: false,
            homeless: false,
            conflict: Conflict::Take,
        }
    }

    /// There is something that may be announced.
    pub fn announces(&self) -> bool {
        self.ttl.is_some()
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Nothing of ours is in the registry, nor on its way there.
    pub fn is_absent(&self) -> bool {
        self.state == State::Absent
    }

    /// Its heartbeat is due.
    pub fn is_due(&self, now: Time) -> bool {
        matches!(self.state, State::Held { renew_at, .. } if renew_at <= now)
    }

    /// Brings the announcement toward what is wanted: `Ok` is announced, `Err` is why not. Also does what is due, and
    /// what soon will be where another service's heartbeat wakes us anyway.
    pub fn want(&mut self, wanted: Result<(), Unfit>, beat: Beat, out: &mut Out<'_>) {
        if self.ttl.is_none() {
            return;
        }
        let now = out.now;
        match (self.state, wanted) {
            (State::Absent, Ok(())) => {
                let claim = self.next_claim();
                self.register(claim, out);
            }
            (State::RegisterLater { claim, at }, Ok(())) if at <= now => self.register(claim, out),
            (State::Held { claim, early_at, renew_at }, Ok(()))
                if renew_at <= now || (beat == Beat::Now && early_at <= now) =>
            {
                self.renew(claim, out);
            }
            (State::RenewLater { claim, at }, Ok(())) if at <= now => self.renew(claim, out),
            (
                State::Registering { claim }
                | State::RegisterLater { claim, .. }
                | State::Held { claim, .. }
                | State::Renewing { claim }
                | State::RenewLater { claim, .. },
                Err(why),
            ) => {
                out.tell(Change::Withdrawing(why));
                self.withdraw(claim, out);
            }
            (State::WithdrawLater { claim, at }, Ok(()) | Err(_)) if at <= now => {
                self.withdraw(claim, out);
            }
            (
                State::Registering { .. }
                | State::RegisterLater { .. }
                | State::Held { .. }
                | State::Renewing { .. }
                | State::RenewLater { .. }
                // One request at a time: what is wanted now is done when this one is answered.
                | State::Withdrawing { .. }
                | State::WithdrawLater { .. },
                Ok(()),
            )
            | (State::Absent | State::Withdrawing { .. } | State::WithdrawLater { .. }, Err(_)) => {}
        }
    }

    /// A request is over. `want` follows in the same turn and acts on the new state.
    pub fn answered(&mut self, request: RequestId, answer: Answer, out: &mut Out<'_>) {
        if request != self.last_request {
            return;
        }
        let Some(ttl) = self.ttl else { return };
        if matches!(self.state, State::Registering { .. } | State::Renewing { .. }) {
            self.find_home(answer, out);
        }
        let company = self.company();
        self.judge_haste(answer, ttl, out.now);
        match (self.state, answer) {
            (State::Registering { claim }, Answer::Held { ttl } | Answer::Moved { ttl }) => {
                self.succeeded(out);
                self.taken = false;
                self.conflict = Conflict::Wait;
                out.tell(Change::Announced);
                self.hold(claim, ttl, company, out);
            }
            (State::Renewing { claim }, Answer::Held { ttl }) => {
                self.succeeded(out);
                self.hold(claim, ttl, company, out);
            }
            (State::Renewing { claim }, Answer::Moved { ttl }) => {
                self.succeeded(out);
                out.tell(Change::Moved);
                self.hold(claim, ttl, company, out);
            }
            (State::Registering { claim }, Answer::Taken) => {
                self.succeeded(out);
                self.note_taken(Change::KeyHeld, out);
                self.hold(claim, ttl, company, out);
            }
            (State::Renewing { claim }, Answer::Taken) => {
                self.succeeded(out);
                self.note_taken(Change::KeyTaken, out);
                self.hold(claim, ttl, company, out);
            }
            // The registry was not asked: what it made of earlier requests stands.
            (State::Registering { claim }, Answer::NoAddress) => {
                self.state = State::RegisterLater { claim, at: later(RETRY_MAX, out) };
            }
            // What stands there leads to where we are no more.
            (State::Renewing { claim }, Answer::NoAddress) => self.withdraw(claim, out),
            (State::Renewing { .. }, Answer::Lost) => {
                self.succeeded(out);
                if !self.taken {
                    out.tell(Change::Forgotten);
                }
                // `want` registers anew at once: the record is missing now.
                self.state = State::Absent;
            }
            // It says what is not true any more. Tries may have taken effect, so it is withdrawn first.
            (State::Registering { claim }, Answer::Lost) => {
                let at = self.failed(out);
                self.state = State::WithdrawLater { claim, at };
            }
            (State::Registering { claim }, Answer::Failed | Answer::Withdrawn) => {
                let at = self.failed(out);
                self.state = State::RegisterLater { claim, at };
            }
            (State::Renewing { claim }, Answer::Failed | Answer::Withdrawn) => {
                let at = self.failed(out);
                self.state = State::RenewLater { claim, at };
            }
            (State::Withdrawing { .. }, Answer::Withdrawn | Answer::Lost | Answer::Taken) => {
                self.succeeded(out);
                self.set_absent(out);
            }
            (
                State::Withdrawing { claim },
                Answer::Failed | Answer::NoAddress | Answer::Held { .. } | Answer::Moved { .. },
            ) => {
                let at = self.failed(out);
                self.state = State::WithdrawLater { claim, at };
            }
            // Nothing is in flight in these, so this answers nothing of ours.
            (
                State::Absent
                | State::RegisterLater { .. }
                | State::Held { .. }
                | State::RenewLater { .. }
                | State::WithdrawLater { .. },
                Answer::Held { .. }
                | Answer::Moved { .. }
                | Answer::Lost
                | Answer::Taken
                | Answer::Withdrawn
                | Answer::NoAddress
                | Answer::Failed,
            ) => {}
        }
    }

    /// The registry may have forgotten us meanwhile: the next heartbeat is due now.
    pub fn doubt(&mut self, now: Time) {
        if let State::Held { early_at, renew_at, .. } = &mut self.state {
            (*early_at, *renew_at) = (now, now);
        }
    }

    /// The registry has closed its connection. It may have died, and be back without what it knew: the next heartbeat is due
    /// soon, unless it is sooner anyway.
    pub fn hung_up(&mut self, out: &mut Out<'_>) {
        if let (State::Held { early_at, renew_at, .. }, Haste::From(from)) = (&mut self.state, self.haste) {
            let at = (out.now + HASTE.mul_f64(out.rng.f64())).max(from);
            if at < *renew_at {
                *renew_at = at;
                *early_at = from.max(out.now).min(*early_at);
                self.haste = Haste::Made;
            }
        }
    }

    /// Of the request that is in flight.
    fn company(&self) -> Company {
        let is_first = matches!(self.state, State::Registering { .. });
        if is_first || self.outage.failures > 0 || self.haste == Haste::Made {
            Company::Likely
        } else {
            Company::ByChance
        }
    }

    /// A heartbeat that came early did so for nothing where it found all in place.
    fn judge_haste(&mut self, answer: Answer, ttl: Duration, now: Time) {
        match (self.haste, self.state) {
            (Haste::Made, State::Renewing { .. })
                if matches!(answer, Answer::Held { .. }) && self.outage.failures == 0 =>
            {
                self.haste = Haste::From(now + ttl / CALM);
            }
            (Haste::Made, State::Registering { .. } | State::Renewing { .. } | State::Withdrawing { .. }) => {
                self.haste = Haste::From(now)
            }
            // Still to come; or nothing is in flight.
            (Haste::Made | Haste::From(_), _) => {}
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        match self.state {
            State::Absent
            | State::Registering { .. }
            | State::Renewing { .. }
            | State::Withdrawing { .. } => None,
            State::RegisterLater { at, .. } | State::RenewLater { at, .. } => Some(at),
            State::Held { renew_at, .. } => Some(renew_at),
            State::WithdrawLater { at, .. } => Some(at),
        }
    }

    fn register(&mut self, claim: ClaimId, out: &mut Out<'_>) {
        self.state = State::Registering { claim };
        let request = self.next_request();
        out.act(Action::Register { service: out.service, claim, request, conflict: self.conflict });
    }

    fn renew(&mut self, claim: ClaimId, out: &mut Out<'_>) {
        self.state = State::Renewing { claim };
        let request = self.next_request();
        out.act(Action::Renew { service: out.service, claim, request });
    }

    fn withdraw(&mut self, claim: ClaimId, out: &mut Out<'_>) {
        self.state = State::Withdrawing { claim };
        let request = self.next_request();
        out.act(Action::Withdraw { service: out.service, claim, request });
    }

    /// Ours for `ttl` from now; the next heartbeat comes at a third of it, or early so that a fleet spreads out.
    fn hold(&mut self, claim: ClaimId, ttl: Duration, company: Company, out: &mut Out<'_>) {
        let least = match company {
            // No sooner than [`CALM`] has it.
            Company::Likely => 0.3,
            Company::ByChance => 0.9,
        };
        let pause = (ttl / 3).mul_f64(least + (1.0 - least) * out.rng.f64());
        let (early_at, renew_at) = (out.now + pause / 2, out.now + pause);
        self.state = State::Held { claim, early_at, renew_at };
    }

    fn set_absent(&mut self, out: &mut Out<'_>) {
        self.state = State::Absent;
        self.taken = false;
        out.tell(Change::Withdrawn);
    }

    fn note_taken(&mut self, change: Change, out: &mut Out<'_>) {
        if !self.taken {
            out.tell(change);
        }
        self.taken = true;
        self.conflict = Conflict::Wait;
    }

    fn find_home(&mut self, answer: Answer, out: &mut Out<'_>) {
        let homeless = answer == Answer::NoAddress;
        if homeless && !self.homeless {
            out.tell(Change::NoAddress);
        }
        self.homeless = homeless;
    }

    fn succeeded(&mut self, out: &mut Out<'_>) {
        let Outage { failures, since, .. } = std::mem::take(&mut self.outage);
        if failures > 0 {
            out.tell(Change::RegistryBack { lasted: out.now.since(since) });
        }
    }

    /// Notes a failure and gives the time to try again: later each time, spread over half of the delay.
    fn failed(&mut self, out: &mut Out<'_>) -> Time {
        let outage = &mut self.outage;
        if outage.failures == 0 {
            *outage = Outage { failures: 0, since: out.now, remind_at: out.now + FIRST_SILENCE };
            out.tell(Change::RegistryLost);
        } else if outage.remind_at <= out.now {
            let lasted = out.now.since(outage.since);
            outage.remind_at = out.now + lasted.clamp(FIRST_SILENCE, LONGEST_SILENCE);
            out.tell(Change::RegistryStillLost { lasted });
        }
        let longest = RETRY_MIN.saturating_mul(1 << outage.failures.min(8)).min(RETRY_MAX);
        outage.failures = outage.failures.saturating_add(1);
        later(longest, out)
    }

    fn next_claim(&mut self) -> ClaimId {
        self.last_claim = ClaimId(self.last_claim.0.wrapping_add(1));
        self.last_claim
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request = RequestId(self.last_request.0.wrapping_add(1));
        self.last_request
    }
}

/// In `longest`, or down to half of it.
fn later(longest: Duration, out: &mut Out<'_>) -> Time {
    out.now + longest.mul_f64(0.5 + 0.5 * out.rng.f64())
}
