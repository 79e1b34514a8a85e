//! How many connections each address has, for the balance that goes by it. The relay owns the sockets; this only looks
//! whether they are still there, a bounded number of them at a time. Called by `upstream`.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::net::TcpStream;

use crate::sys::socket::Sight;

/// The most sockets that one look goes through. With more, a count may be late by some connections.
const LOOK: usize = 256;

#[derive(Debug)]
pub(super) struct Uses<A> {
    open: VecDeque<(A, Sight)>,
    counts: HashMap<A, usize>,
}

impl<A> Default for Uses<A> {
    fn default() -> Self {
        Self { open: VecDeque::new(), counts: HashMap::new() }
    }
}

impl<A: Clone + Eq + Hash> Uses<A> {
    /// Counts a connection until its socket is closed.
    pub(super) fn add(&mut self, address: A, stream: &TcpStream) {
        if let Ok(sight) = Sight::of(stream) {
            *self.counts.entry(address.clone()).or_default() += 1;
            self.open.push_back((address, sight));
        }
    }

    /// Forgets what has been closed.
    pub(super) fn look(&mut self) {
        for _ in 0..self.open.len().min(LOOK) {
            let Some((address, sight)) = self.open.pop_front() else { return };
            if sight.is_open() {
                self.open.push_back((address, sight));
            } else if let Some(count) = self.counts.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&address);
                }
            }
        }
    }

    pub(super) fn of(&self, address: &A) -> usize {
        self.counts.get(address).copied().unwrap_or(0)
    }
}
