//! Endpoints' names for the HTTP client, with the last good addresses kept: a DNS server that is slow or stuck must
//! not cost a heartbeat. It must never hold a request up for longer than [`PATIENCE`] once a name is known.
//! Called by the HTTP client for names only; address literals never come here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::net::resolve::{ResolveError, Resolver};

/// How long a fresh answer is worth waiting for when an older one is at hand.
const PATIENCE: Duration = Duration::from_millis(150);

/// Looks up endpoints' names; one look-up of a name at a time.
#[derive(Debug, Clone)]
pub struct Names {
    resolver: Arc<Resolver>,
    hosts: Arc<Mutex<HashMap<String, Arc<Host>>>>,
}

#[derive(Debug, Default)]
struct Host {
    found: Mutex<Found>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Found {
    good: Vec<IpAddr>,
    error: Option<String>,
    /// The look-up under way. It outlives the request that began it, so that a server that is merely slow fills
    /// `good` for the next one.
    task: Option<JoinHandle<()>>,
}

impl Names {
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self { resolver, hosts: Arc::default() }
    }

    /// The addresses of `host`, or the last good ones when the look-up fails or takes long. Waits without limit only
    /// for a name that has never been found: the caller's own timeout bounds that.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(literal) = host.parse() {
            return Ok(vec![literal]);
        }
        let entry = Arc::clone(lock(&self.hosts).entry(host.to_owned()).or_default());
        let answered = entry.answered.notified();
        let known = {
            let mut found = lock(&entry.found);
            if found.task.as_ref().is_none_or(JoinHandle::is_finished) {
                found.task =
                    Some(tokio::spawn(ask(Arc::clone(&self.resolver), host.to_owned(), Arc::clone(&entry))));
            }
            !found.good.is_empty()
        };
        if known {
            let _late = tokio::time::timeout(PATIENCE, answered).await;
        } else {
            answered.await;
        }
        let found = lock(&entry.found);
        if found.good.is_empty() {
            Err(found.error.clone().unwrap_or_else(|| format!("no address found for `{host}`")))
        } else {
            Ok(found.good.clone())
        }
    }
}

async fn ask(resolver: Arc<Resolver>, host: String, entry: Arc<Host>) {
    let answer: Result<Vec<IpAddr>, ResolveError> = resolver.lookup(&host).await;
    {
        let mut found = lock(&entry.found);
        match answer {
            Ok(addresses) => found.good = addresses,
            Err(error) => found.error = Some(error.to_string()),
        }
    }
    entry.answered.notify_waiters();
}

/// No lock here is held over anything that can panic, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.lookup(name.as_str()).await?;
            // Port 0: the URL's own port is put in by the client.
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
