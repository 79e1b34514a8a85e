//! Which address the next connection tries: by priority, weight and what became of earlier attempts. Pure: the time,
//! and how busy an address is, are told; nothing is connected to. Called by `upstream` for each attempt.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::config::Balance;

/// How long an address that failed is passed by; doubles with each failure in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(6400);

/// An address that connections may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<A> {
    pub address: A,
    /// Lower ones go first; the others are for when none of those takes a connection.
    pub group: u32,
    /// The share among those of one group. Zero is a share all the same, the smallest.
    pub weight: u32,
}

/// The addresses known, and how each has done.
#[derive(Debug)]
pub struct Picker<A> {
    balance: Balance,
    /// An attempt knows by then how it went.
    attempt: Duration,
    places: Vec<Place<A>>,
}

#[derive(Debug)]
struct Place<A> {
    offer: Offer<A>,
    /// What it is owed of the picks so far: the one with the most credit is next.
    credit: i64,
    trouble: Option<Trouble>,
}

/// The last attempts all failed.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    pause: Duration,
    since: Instant,
    /// Passed by until then, while there is another.
    until: Instant,
}

impl<A: Clone + Eq + Hash> Picker<A> {
    /// `attempt` is the longest that one takes.
    pub fn new(balance: Balance, attempt: Duration) -> Self {
        Self { balance, attempt: attempt.min(LONGEST_PAUSE), places: Vec::new() }
    }

    /// What is known from now on, in order of preference where that matters. What was learned of an address that
    /// stays is kept; of an address that is offered twice, the first offer counts.
    pub fn learn(&mut self, offers: impl IntoIterator<Item = Offer<A>>) {
        let mut known: HashMap<A, Place<A>> =
            self.places.drain(..).map(|place| (place.offer.address.clone(), place)).collect();
        let mut places: Vec<Place<A>> = Vec::new();
        let mut seen = HashSet::new();
        for mut offer in offers {
            if !seen.insert(offer.address.clone()) {
                continue;
            }
            if self.balance == Balance::First {
                // A group of its own for each: their order is all there is to go by.
                offer.group = u32::try_from(places.len()).unwrap_or(u32::MAX);
            }
            places.push(match known.remove(&offer.address) {
                Some(Place { offer: same, credit, trouble }) if same == offer => {
                    Place { offer, credit, trouble }
                }
                Some(Place { trouble, .. }) => Place { offer, credit: 0, trouble },
                None => Place { offer, credit: 0, trouble: None },
            });
        }
        self.places = places;
    }

    /// Whether how busy an address is makes a difference.
    pub fn asks_who_is_busy(&self) -> bool {
        self.balance == Balance::LeastConnections && self.places.len() > 1
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The address to try now, after those of `tried`. One that failed of late comes last, and once its pause is over
    /// one attempt at a time finds out whether it is back. `None` when all that is known has been tried.
    ///
    /// `busy` tells how many connections an address has; it is asked where the balance goes by that.
    pub fn pick(&mut self, now: Instant, tried: &[A], busy: impl Fn(&A) -> usize) -> Option<A> {
        if let ([only], []) = (&self.places[..], tried) {
            return Some(only.offer.address.clone());
        }
        let untried = |place: &&mut Place<A>| !tried.contains(&place.offer.address);
        let group = self
            .places
            .iter_mut()
            .filter(untried)
            .filter(|place| place.is_fit(now))
            .map(|place| place.offer.group)
            .min();
        let Some(group) = group else {
            let places = self.places.iter_mut().filter(untried);
            let soonest = places.min_by_key(|place| place.trouble.map(|trouble| trouble.until))?;
            return Some(soonest.offer.address.clone());
        };
        let mut fit: Vec<&mut Place<A>> = self
            .places
            .iter_mut()
            .filter(untried)
            .filter(|place| place.offer.group == group && place.is_fit(now))
            .collect();
        if self.balance == Balance::LeastConnections {
            let mut loads: Vec<Load> = Vec::with_capacity(fit.len());
            loads.extend(fit.iter().map(|place| Load::of(busy(&place.offer.address), place.share())));
            let least = loads.iter().copied().reduce(Load::lower)?;
            let mut loads = loads.into_iter();
            fit.retain(|_| loads.next().is_some_and(|load| !least.is_lower_than(load)));
        }
        // The smooth round: each gains its share, the next one pays for all. Equal shares take turns, and a heavy
        // one does not get its picks in a row.
        let total: i64 = fit.iter().map(|place| i64::from(place.share())).sum();
        for place in &mut fit {
            place.credit += i64::from(place.share());
        }
        let next = fit.into_iter().rev().max_by_key(|place| place.credit)?;
        next.credit -= total;
        if let Some(trouble) = &mut next.trouble {
            trouble.until = now + trouble.pause.max(self.attempt);
        }
        Some(next.offer.address.clone())
    }

    /// An attempt that began at `begun` has failed by `now`. Attempts side by side that fail together count once.
    pub fn failed(&mut self, address: &A, begun: Instant, now: Instant) {
        let Some(place) = self.place(address) else { return };
        let pause = match place.trouble {
            None => FIRST_PAUSE,
            Some(trouble) if begun < trouble.since => return,
            Some(trouble) => (trouble.pause * 2).min(LONGEST_PAUSE),
        };
        place.trouble = Some(Trouble { pause, since: now, until: now + pause });
    }

    /// The address has taken a connection.
    pub fn succeeded(&mut self, address: &A) {
        if let Some(place) = self.place(address) {
            place.trouble = None;
        }
    }

    fn place(&mut self, address: &A) -> Option<&mut Place<A>> {
        self.places.iter_mut().find(|place| place.offer.address == *address)
    }
}

impl<A> Place<A> {
    fn is_fit(&self, now: Instant) -> bool {
        self.trouble.is_none_or(|trouble| trouble.until <= now)
    }

    /// Its weight, finer: so that zero is less than any.
    fn share(&self) -> u32 {
        self.offer.weight.saturating_mul(64).max(1)
    }
}

/// Connections for a share.
#[derive(Debug, Clone, Copy)]
struct Load {
    connections: u64,
    share: u64,
}

impl Load {
    /// With the one that is to come, so that weights count from the first.
    fn of(busy: usize, share: u32) -> Self {
        Self {
            connections: u64::try_from(busy).unwrap_or(u64::MAX / 2).saturating_add(1),
            share: share.into(),
        }
    }

    fn is_lower_than(self, other: Self) -> bool {
        u128::from(self.connections) * u128::from(other.share)
            < u128::from(other.connections) * u128::from(self.share)
    }

    fn lower(self, other: Self) -> Self {
        if other.is_lower_than(self) { other } else { self }
    }
}

#[cfg(test)]
mod tests;
