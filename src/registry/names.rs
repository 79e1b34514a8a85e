//! Endpoints' names and their addresses, with the last good addresses kept: a DNS server that is slow or stuck must
//! not cost a heartbeat. It must never hold a request up for longer than [`PATIENCE`] once a name is known.
//! Called by the HTTP client when it connects.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Why there is nothing good.
    error: String,
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
        let (resolver, host) = (Arc::clone(&self.resolver), host.to_owned());
        entry.addresses(async move { resolver.lookup(&host).await }).await
    }
}

impl Host {
    /// The answer of `look_up`, or of the one that is still under way; the last good one when it fails or takes long.
    async fn addresses(
        self: &Arc<Self>,
        look_up: impl Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send + 'static,
    ) -> Result<Vec<IpAddr>, String> {
        let answered = self.answered.notified();
        let known = {
            let mut found = lock(&self.found);
            if found.task.as_ref().is_none_or(JoinHandle::is_finished) {
                let host = Arc::clone(self);
                found.task = Some(tokio::spawn(async move { host.learn(look_up.await) }));
            }
            !found.good.is_empty()
        };
        if known {
            let _late = tokio::time::timeout(PATIENCE, answered).await;
        } else {
            answered.await;
        }
        let found = lock(&self.found);
        if found.good.is_empty() { Err(found.error.clone()) } else { Ok(found.good.clone()) }
    }

    fn learn(&self, answer: Result<Vec<IpAddr>, ResolveError>) {
        {
            let mut found = lock(&self.found);
            match answer {
                Ok(addresses) => found.good = addresses,
                Err(error) => found.error = error.to_string(),
            }
        }
        self.answered.notify_waiters();
    }
}

/// No lock here is held over anything that can panic, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Instant;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn nothing() -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError::NotFound { name: "etcd".to_owned() })
    }

    #[tokio::test]
    async fn the_last_good_answer_outlives_a_failing_server() {
        let host = Arc::new(Host::default());
        assert_eq!(host.addresses(async { nothing() }).await, Err("no address found for `etcd`".to_owned()));
        assert_eq!(host.addresses(async { Ok(vec![HERE]) }).await, Ok(vec![HERE]));
        assert_eq!(host.addresses(async { nothing() }).await, Ok(vec![HERE]));
    }

    #[tokio::test]
    async fn a_stuck_server_costs_little_and_is_asked_once_at_a_time() {
        let host = Arc::new(Host::default());
        assert_eq!(host.addresses(async { Ok(vec![HERE]) }).await, Ok(vec![HERE]));
        let begun = Instant::now();
        assert_eq!(host.addresses(pending()).await, Ok(vec![HERE]));
        assert!(begun.elapsed() < PATIENCE * 3, "{:?}", begun.elapsed());
        let asked_again = async { panic!("the first look-up is still under way") };
        assert_eq!(host.addresses(asked_again).await, Ok(vec![HERE]));
    }

    #[tokio::test]
    async fn a_slow_first_answer_is_there_for_the_next_request() {
        let host = Arc::new(Host::default());
        let (answer, slow) = tokio::sync::oneshot::channel();
        let given_up = host.addresses(async { slow.await.expect("the test answers") });
        assert!(tokio::time::timeout(Duration::from_millis(10), given_up).await.is_err());
        answer.send(Ok(vec![HERE])).expect("the look-up goes on");
        assert_eq!(host.addresses(pending()).await, Ok(vec![HERE]));
    }
}
