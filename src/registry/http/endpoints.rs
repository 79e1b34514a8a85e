//! A cluster's endpoints: which there are, and which one the next operation asks first. It is the one that answered
//! last; what was dead, frozen or slow then is not. Called by `etcd3` and `etcd2`; `tour` goes through them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::auth::{Auth, Scheme};
use super::tls::Clients;
use super::tour::Tour;
use super::{REQUEST_TIMEOUT, reason};
use crate::config::{self, HostPort};
use crate::net::resolve::Resolver;
use crate::registry::error::{Error, Failure};
use crate::registry::names::Names;

/// The endpoints of one cluster; cheap to share.
#[derive(Debug)]
pub struct Endpoints {
    pub(super) clients: Clients,
    pub(super) auth: Auth,
    names: Names,
    pub(super) all: Vec<Endpoint>,
    /// Where the next operation starts.
    first: AtomicUsize,
}

#[derive(Debug)]
pub struct Endpoint {
    at: HostPort,
    base: Url,
    /// Where it answered last.
    seen: Mutex<Option<SocketAddr>>,
}

impl Endpoints {
    /// `headers` go with each request. Errors: a host that no URL can hold; no client to be had.
    pub fn new(
        hosts: &[HostPort],
        registry: &config::Registry,
        resolver: Arc<Resolver>,
        headers: HeaderMap,
        scheme: Scheme,
    ) -> Result<Self, Error> {
        let names = Names::new(resolver);
        let clients = Clients::new(registry.tls.as_ref(), names.clone(), headers)?;
        let all = hosts.iter().map(|at| Endpoint::new(clients.scheme(), at)).collect::<Result<_, _>>()?;
        let auth = Auth::new(scheme, registry.login.as_ref());
        Ok(Self { clients, auth, names, all, first: AtomicUsize::new(0) })
    }

    /// The address of the endpoint that the next operation would start with: where it answered last, without a look-up.
    /// One whose name is not found is passed by.
    pub async fn peer(&self) -> Result<SocketAddr, Error> {
        let mut tried = Vec::new();
        for _ in &self.all {
            let at = self.first.load(Ordering::Relaxed);
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The tour of one operation.
    pub fn tour(self: &Arc<Self>) -> Tour {
        Tour::new(Arc::clone(self), self.first.load(Ordering::Relaxed))
    }

    /// The one after this.
    pub(super) fn after(&self, at: usize) -> usize {
        (at + 1) % self.all.len()
    }

    /// Let the next operation start here: it has answered.
    pub(super) fn prefer(&self, at: usize) {
        self.first.store(at, Ordering::Relaxed);
    }

    /// Let the next operation start elsewhere, unless another one has already seen to that.
    pub(super) fn avoid(&self, at: usize) {
        let _moved = self.first.compare_exchange(at, self.after(at), Ordering::Relaxed, Ordering::Relaxed);
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
    fn new(scheme: &str, at: &HostPort) -> Result<Self, Error> {
        let base = Url::parse(&format!("{scheme}://{at}"))
            .map_err(|e| Error::Endpoint { endpoint: at.to_string(), reason: e.to_string() })?;
        Ok(Self { at: at.clone(), base, seen: Mutex::default() })
    }

    pub fn answered_at(&self, address: Option<SocketAddr>) {
        *self.seen() = address;
    }

    /// Nothing panics with it.
    fn seen(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of an encoded path and query.
    pub fn url(&self, path: &str) -> Result<Url, String> {
        self.base.join(path).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}
