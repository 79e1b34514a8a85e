//! One attempt to be announced: what is claimed, and what it takes to undo it whatever was answered.
//!
//! It must never hold anything that another attempt could share: every clean-up deletes by what is in here, and only
//! our own record may ever be deleted. Made by the driver, one for each registration; read by the registries.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::skydns::{Fields, NoRecord, Record};
use crate::config::Conflict;

/// How many records of earlier claims are remembered: one for each address that we had lately.
const FORMER: usize = 64;

/// One registration of records that live and die together.
///
/// `register` may be repeated with the same claim while it fails. After `withdraw`, or once a renewal says `Lost`,
/// make a new one: a late answer to an old request can then do no harm.
#[derive(Debug)]
pub struct Claim {
    records: Vec<Record>,
    ttl: Duration,
    token: Token,
    /// What we have said under these keys before: wherever it still stands, it is ours to replace.
    former: Vec<Record>,
    /// Whether anything was ever asked for; a claim that was not is withdrawn without a word on the wire.
    begun: AtomicBool,
    /// Whose record stood in the place of each of ours when that was looked at last.
    rivals: Mutex<Vec<Option<String>>>,
    /// What the v2 API has told us, per record. Held by a request that is under way, so that whoever comes next
    /// (a withdrawal after a cancelled registration) sees its end and not a guess.
    pub(super) traces: Arc<tokio::sync::Mutex<Vec<Trace>>>,
}

impl Claim {
    /// A claim that has not been made yet. `ttl` is of the lease: at least a second, whole seconds.
    pub fn new(records: Vec<Record>, ttl: Duration) -> Self {
        let traces = vec![Trace::Nothing; records.len()];
        Self {
            ttl,
            token: Token::random(),
            former: Vec::new(),
            begun: AtomicBool::new(false),
            rivals: Mutex::new(vec![None; records.len()]),
            records,
            traces: Arc::new(tokio::sync::Mutex::new(traces)),
        }
    }

    /// This claim with what `earlier`, made for the same keys, has said: what is left of that is no rival's.
    pub fn after(mut self, earlier: &Self) -> Self {
        self.former = earlier.said().filter(|said| !self.records.contains(said)).cloned().collect();
        self.former.truncate(FORMER);
        self
    }

    /// The same claim, to say something else under the same keys: a renewal then rewrites what stands there.
    pub fn saying(&self, records: Vec<Record>) -> Self {
        let same = Self::new(records, self.ttl).after(self);
        same.begun.store(self.begun(), Ordering::Relaxed);
        Self { token: self.token, traces: Arc::clone(&self.traces), ..same }
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Each record in whose place another's stood when that was looked at last, and what that one says.
    pub fn rivals(&self) -> Vec<(&Record, String)> {
        let rivals = self.rivals.lock().unwrap_or_else(PoisonError::into_inner);
        self.records.iter().zip(rivals.iter()).filter_map(|(r, rival)| Some((r, rival.clone()?))).collect()
    }

    /// Another's record stands in the place of this one, or none does.
    pub(super) fn note_rival(&self, place: usize, rival: Option<&Result<Fields, NoRecord>>) {
        let told = rival.map(|fields| match fields {
            Ok(Fields { host, port, .. }) if host.contains(':') => format!("[{host}]:{port}"),
            Ok(Fields { host, port, .. }) => format!("{host}:{port}"),
            Err(_) => "something that is no record".to_owned(),
        });
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)[place] = told;
    }

    /// All that may stand under the key of the record at `place` without being another's.
    pub(super) fn said_at(&self, place: usize) -> impl Iterator<Item = &Record> {
        let record = &self.records[place];
        self.said().filter(move |said| said.name == record.name && said.instance == record.instance)
    }

    /// It, or one before it, has said something else.
    pub(super) fn has_moved(&self) -> bool {
        !self.former.is_empty()
    }

    fn said(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().chain(&self.former)
    }

    /// What to do about another's record in the place of this one, where `most` is allowed.
    pub(super) fn conflict(&self, place: usize, most: Conflict) -> Conflict {
        match (most, self.records[place].conflict) {
            (Conflict::Take, Conflict::Take) => Conflict::Take,
            (Conflict::Wait, _) | (_, Conflict::Wait) => Conflict::Wait,
        }
    }

    /// What was asked for; the registry may grant more.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// What the v2 API, which has no leases, has told us of the node of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// None was asked for, or it is gone.
    Nothing,
    /// A creation was sent when the store stood at `after`, and its answer is not in (yet, or for good).
    Asked { after: u64 },
    /// It is ours as long as it has this `createdIndex`.
    Created { created: u64, modified: u64 },
}

/// The name of a claim among all claims of all machines: etcd's lease ID, a folder record's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u64);

impl Token {
    /// Random from the kernel by way of the standard hasher's keys (a clock-seeded generator could repeat itself in
    /// containers that start together, and two claims with one lease ID would delete each other's records).
    /// Positive for etcd; the low half is large because some resolvers take that for a TTL and the smaller one wins.
    fn random() -> Self {
        let bits = RandomState::new().hash_one("claim");
        Self(bits & 0x7fff_ffff_ffff_ffff | 0x8000_0000)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_a_lease_id_and_differ() {
        let tokens: Vec<u64> = (0..1000).map(|_| Token::random().0).collect();
        for token in &tokens {
            assert!(i64::try_from(*token).is_ok(), "{token} is not positive");
            assert!(*token & 0xffff_ffff >= 0x8000_0000, "{token} has a small low half");
        }
        let distinct: std::collections::HashSet<&u64> = tokens.iter().collect();
        assert_eq!(distinct.len(), tokens.len());
    }
}
