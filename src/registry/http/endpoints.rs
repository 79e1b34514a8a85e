//! A cluster's endpoints: which there are, and which one the next operation asks first. It is the one that answered
//! last; what was dead, frozen or slow then is not. Called by `etcd3` and `etcd2`; `tour` goes through them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::uri::Authority;

use super::auth::{Auth, Scheme};
use super::kept::{Kept, Shared};
use super::tls::Clients;
use super::tour::Tour;
use super::{REQUEST_TIMEOUT, reason};
use crate::config::{self, HostPort};
use crate::net::http;
use crate::net::resolve::Resolver;
use crate::registry::error::{Error, Failure};
use crate::registry::names::Names;

/// The endpoints of one cluster; cheap to share.
#[derive(Debug)]
pub struct Endpoints {
    pub(super) clients: Clients,
    pub(super) auth: Auth,
    names: Names,
    pub(super) all: Vec<Arc<Endpoint>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub struct Endpoint {
    at: HostPort,
    /// What requests say whom they are for.
    pub(super) host: HeaderValue,
    pub(super) kept: Arc<Kept>,
    /// Where it answered last.
    seen: Mutex<Option<SocketAddr>>,
}

impl Endpoints {
    /// `headers` go with each request. Errors: a host that no URL can hold.
    pub fn new(
        hosts: &[HostPort],
        registry: &config::Registry,
        resolver: Arc<Resolver>,
        headers: HeaderMap,
        scheme: Scheme,
    ) -> Result<Self, Error> {
        let names = Names::new(resolver);
        let clients = Clients::new(registry.tls.as_ref(), names.clone(), headers);
        let shared = Arc::default();
        let endpoint =
            |(place, at)| Endpoint::new(at, clients.usual_port(), Kept::new(place, &shared)).map(Arc::new);
        let all = hosts.iter().enumerate().map(endpoint).collect::<Result<_, _>>()?;
        let auth = Auth::new(scheme, registry.login.as_ref());
        Ok(Self { clients, auth, names, all, shared })
    }

    /// The address of the endpoint that the next operation would start with: where it answered last, without a look-up.
    /// One whose name is not found is passed by.
    pub async fn peer(&self) -> Result<SocketAddr, Error> {
        let mut tried = Vec::new();
        for _ in &self.all {
            let at = self.shared.first.load(Ordering::Relaxed);
            let endpoint = &self.all[at];
            if let Some(seen) = *endpoint.seen() {
                return Ok(seen);
            }
            let found = tokio::time::timeout(REQUEST_TIMEOUT, self.names.lookup(&endpoint.at.host)).await;
            let late = |_| Err(format!("its name was not found within {}", reason::shown(REQUEST_TIMEOUT)));
            match found.unwrap_or_else(late) {
                Ok(addresses) => {
                    let ip = addresses.first().expect("a look-up that succeeds has an address");
                    return Ok(SocketAddr::new(*ip, endpoint.at.port));
                }
                Err(reason) => tried.push(Failure { endpoint: endpoint.at.to_string(), reason }),
            }
            self.avoid(at);
        }
        Err(Error::Unreachable { tried })
    }

    /// Waits until the kept connection that the next operation would use ends, and not by us. One that has since the
    /// last call counts.
    pub async fn hung_up(&self) {
        self.shared.hung_up.notified().await;
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The tour of one operation.
    pub fn tour(self: &Arc<Self>) -> Tour {
        Tour::new(Arc::clone(self), self.shared.first.load(Ordering::Relaxed))
    }

    /// The one after this.
    pub(super) fn after(&self, at: usize) -> usize {
        (at + 1) % self.all.len()
    }

    /// Let the next operation start here: it has answered.
    pub(super) fn prefer(&self, at: usize) {
        self.shared.first.store(at, Ordering::Relaxed);
    }

    /// Let the next operation start elsewhere, unless another one has already seen to that.
    pub(super) fn avoid(&self, at: usize) {
        let _moved =
            self.shared.first.compare_exchange(at, self.after(at), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// This one has failed, for this reason.
    pub(super) fn failed(&self, at: usize, reason: String) -> Failure {
        let endpoint = &self.all[at];
        // Its name may lead elsewhere by now.
        endpoint.answered_at(None);
        self.avoid(at);
        Failure { endpoint: endpoint.to_string(), reason }
    }
}

impl Endpoint {
    fn new(at: &HostPort, usual_port: u16, kept: Arc<Kept>) -> Result<Self, Error> {
        let unfit = |reason: String| Error::Endpoint { endpoint: at.to_string(), reason };
        Authority::try_from(at.to_string()).map_err(|e| unfit(e.to_string()))?;
        let host = HeaderValue::from_str(&http::host(at, usual_port)).map_err(|e| unfit(e.to_string()))?;
        Ok(Self { at: at.clone(), host, kept, seen: Mutex::default() })
    }

    pub fn at(&self) -> &HostPort {
        &self.at
    }

    pub fn answered_at(&self, address: Option<SocketAddr>) {
        *self.seen() = address;
    }

    /// Nothing panics with it.
    fn seen(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}
