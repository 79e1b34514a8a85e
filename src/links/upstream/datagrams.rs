//! What forwarding datagrams needs of an upstream: nothing tells at once whether an address takes them, so picking and
//! learning how it went are apart. Called by `udp`.

use std::sync::Arc;
use std::time::Instant;

use super::Upstream;
use crate::links::counters::Use;
use crate::links::endpoint::Endpoint;
use crate::links::source::Offers;
use crate::net::resolve::Resolver;

impl Upstream {
    /// Asks every source, and waits only as long as nothing is known.
    pub(in crate::links) async fn look_around(&self, resolver: &Arc<Resolver>) {
        self.look(resolver).await;
    }

    /// The address for a session, after those of `tried`.
    pub(in crate::links) fn choose(&self, now: Instant, tried: &[Endpoint]) -> Option<Endpoint> {
        self.attempt(tried, now).map(|attempt| attempt.address)
    }

    /// A session to `address` has begun, and lasts until what this gives is dropped.
    pub(in crate::links) fn begun(&self, address: &Endpoint) -> Use {
        self.counters.used(address)
    }

    /// What was sent to `address` at `sent` has been refused.
    pub(in crate::links) fn refused(&self, address: &Endpoint, sent: Instant, now: Instant) {
        self.known().picker.failed(address, sent, now);
        self.counters.failed(address);
    }

    /// `address` is there.
    pub(in crate::links) fn answered(&self, address: &Endpoint) {
        self.known().picker.succeeded(address);
    }

    /// What the sources said last: the same `Arc`s until they say something else.
    pub(in crate::links) fn learned(&self) -> Vec<Offers> {
        self.known().learned.clone()
    }

    /// Why there is nothing to try.
    pub(in crate::links) fn lack(&self) -> String {
        self.complaint()
    }
}
