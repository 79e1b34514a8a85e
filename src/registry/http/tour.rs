//! One operation's way through the endpoints of a cluster.
//!
//! Each is asked once a request and gets a second. One that is slow keeps its second, but the next one is asked beside it
//! after a quarter of that: a frozen member, or one without its leader, costs no more. Whoever answers first counts, so
//! this is only for requests that may be carried out twice, in any order. Called by `etcd3` and `etcd2`.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Incoming;

use super::auth::{Pass, Trouble};
use super::endpoints::{Endpoint, Endpoints};
use super::{Answer, Ask, Fault, MAX_BODY, REQUEST_TIMEOUT, Reply, exchange, reason, request};
use crate::net::http::{Connection, chunk};
use crate::registry::error::{Error, Failure};

/// An endpoint that takes this long is slow: the next one is asked, too.
const SLOW: Duration = Duration::from_millis(250);

/// It stays with an endpoint that answers and never goes back to one that failed.
#[derive(Debug)]
pub struct Tour {
    endpoints: Arc<Endpoints>,
    at: usize,
    left: usize,
    tried: Vec<Failure>,
    /// The connection to the present endpoint ended once: a kept one may have been closed just before.
    ended: bool,
}

impl Tour {
    pub(super) fn new(endpoints: Arc<Endpoints>, at: usize) -> Self {
        let left = endpoints.all.len();
        Self { endpoints, at, left, tried: Vec::new(), ended: false }
    }

    /// Asks until an endpoint answers, and gives what `read` makes of it. One whose answer is not to be read
    /// ([`Error::of_endpoint`]) has failed. Only for requests that may be carried out twice.
    pub async fn send<T: Send>(
        &mut self,
        ask: &Ask,
        read: impl Fn(&Reply) -> Result<T, Error> + Sync,
    ) -> Result<T, Error> {
        if self.left == 0 {
            return Err(self.unreachable());
        }
        let endpoints = Arc::clone(&self.endpoints);
        let race = Race { endpoints: &endpoints, ask, read: &read, is_won: AtomicBool::new(false) };
        match race.run(self.at, self.left).await {
            Ok(Won { at, left, said, failed }) => {
                self.endpoints.prefer(at);
                (self.at, self.left, self.ended) = (at, left, false);
                self.tried.extend(failed);
                Ok(said)
            }
            Err(Lost::Everywhere(failed)) => {
                self.left = 0;
                self.tried.extend(failed);
                Err(self.unreachable())
            }
            Err(Lost::Fatal(error)) => Err(error),
        }
    }

    /// As `send`, but asks the present endpoint alone. `None`: it failed, the request may or may not have been carried
    /// out, and the next endpoint has its turn (or this one again, by a new connection). Error: there is no endpoint left
    /// to ask.
    pub async fn send_once<T: Send>(
        &mut self,
        ask: &Ask,
        read: impl Fn(&Reply) -> Result<T, Error> + Sync,
    ) -> Result<Option<T>, Error> {
        if self.left == 0 {
            return Err(self.unreachable());
        }
        let race = Race { endpoints: &self.endpoints, ask, read: &read, is_won: AtomicBool::new(false) };
        match race.ask(self.at).await {
            Ok(said) => Ok(Some(said)),
            Err(Trouble::Fatal(error)) => Err(error),
            Err(Trouble::Ended(_)) if !self.ended => {
                self.ended = true;
                Ok(None)
            }
            Err(Trouble::Ended(reason) | Trouble::Endpoint(reason)) => {
                self.tried.push(self.endpoints.failed(self.at, reason));
                self.at = self.endpoints.after(self.at);
                self.left -= 1;
                self.ended = false;
                Ok(None)
            }
        }
    }

    /// The present one, for people.
    pub fn endpoint(&self) -> String {
        self.endpoints.all[self.at].to_string()
    }

    fn unreachable(&mut self) -> Error {
        Error::Unreachable { tried: std::mem::take(&mut self.tried) }
    }

    /// Begins an answer at the present endpoint that may take up to `patience` from its first line to its last. `None`:
    /// it gave none, and the next operation starts elsewhere.
    pub async fn open(&self, ask: &Ask, patience: Duration) -> Option<Lines> {
        let Endpoints { clients, auth, all, .. } = &*self.endpoints;
        let endpoint = &all[self.at];
        let until = tokio::time::Instant::now() + patience;
        let begun = tokio::time::timeout(REQUEST_TIMEOUT, async {
            let client = clients.current().await.ok()?;
            let pass = auth.pass(&client, endpoint, None).await.ok()?;
            let request = request(&client, endpoint, ask, &pass).ok()?;
            let mut connection = client.connect(endpoint).await.ok()?;
            let response = connection.send(request).await.ok()?;
            response.status().is_success().then(|| (connection, response.into_body()))
        });
        match begun.await.ok().flatten() {
            Some((connection, body)) => {
                let endpoint = endpoint.to_string();
                Some(Lines { endpoint, _connection: connection, body, read: Vec::new(), until })
            }
            None => {
                self.endpoints.avoid(self.at);
                None
            }
        }
    }
}

/// One request, and those that have been asked it.
struct Race<'a, T> {
    endpoints: &'a Endpoints,
    ask: &'a Ask,
    read: &'a (dyn Fn(&Reply) -> Result<T, Error> + Sync),
    is_won: AtomicBool,
}

struct Won<T> {
    at: usize,
    /// How many may still be asked another request, itself among them.
    left: usize,
    said: T,
    failed: Vec<Failure>,
}

enum Lost {
    Everywhere(Vec<Failure>),
    Fatal(Error),
}

type Outcome<T> = Result<Won<T>, Lost>;

impl<T: Send> Race<'_, T> {
    /// From `at` on, `left` endpoints at most.
    fn run(&self, at: usize, left: usize) -> Pin<Box<dyn Future<Output = Outcome<T>> + Send + '_>> {
        Box::pin(async move {
            let mut here = pin!(self.run_at(at, left));
            if left == 1 {
                return here.await;
            }
            let rest = || self.run(self.endpoints.after(at), left - 1);
            match tokio::time::timeout(SLOW, &mut here).await {
                Ok(Err(Lost::Everywhere(failed))) => after(failed, rest().await),
                Ok(outcome) => outcome,
                Err(_) => {
                    // Whatever else is asked meanwhile need not wait as long.
                    self.endpoints.avoid(at);
                    let mut rest = rest();
                    tokio::select! {
                        here = &mut here => match here {
                            Err(Lost::Everywhere(failed)) => after(failed, rest.await),
                            outcome => outcome,
                        },
                        rest = &mut rest => match rest {
                            Err(Lost::Everywhere(failed)) => after(failed, here.await),
                            outcome => outcome,
                        },
                    }
                }
            }
        })
    }

    async fn run_at(&self, at: usize, left: usize) -> Outcome<T> {
        let said = match self.ask(at).await {
            // A kept connection may have been closed just before: once more, by a new one.
            Err(Trouble::Ended(_)) => self.ask(at).await,
            answered => answered,
        };
        match said {
            Ok(said) => {
                self.is_won.store(true, Ordering::Relaxed);
                Ok(Won { at, left, said, failed: Vec::new() })
            }
            Err(Trouble::Ended(reason) | Trouble::Endpoint(reason)) => {
                Err(Lost::Everywhere(vec![self.endpoints.failed(at, reason)]))
            }
            Err(Trouble::Fatal(error)) => Err(Lost::Fatal(error)),
        }
    }

    /// An endpoint's answer that is one to go by. One that answers wrongly is told for what it is where it is the only
    /// one, and is one of those that failed where there are others to ask.
    async fn ask(&self, at: usize) -> Result<T, Trouble> {
        self.said(at).await.map_err(|trouble| match trouble {
            Trouble::Fatal(error) if self.endpoints.all.len() > 1 => {
                error.of_endpoint().map_or(Trouble::Fatal(error), Trouble::Endpoint)
            }
            Trouble::Fatal(_) | Trouble::Endpoint(_) | Trouble::Ended(_) => trouble,
        })
    }

    async fn said(&self, at: usize) -> Result<T, Trouble> {
        let endpoint = &self.endpoints.all[at];
        let (status, headers, body) = self.answer(at, endpoint).await?;
        if reason::is_common_name(status, &body) {
            return Err(Trouble::Fatal(Error::CommonName { endpoint: endpoint.to_string() }));
        }
        // The latter is what a member that lags behind the others says.
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Trouble::Endpoint(reason::complaint(status, &body)));
        }
        let reply =
            Reply { endpoint: endpoint.to_string(), path: self.ask.path.clone(), status, headers, body };
        (self.read)(&reply).map_err(Trouble::Fatal)
    }

    /// The endpoint's answer, whatever it is, to a request that says who we are. One that only says that it does not
    /// take us for that has changed nothing: the request is made once more when we have logged in again.
    async fn answer(&self, at: usize, endpoint: &Arc<Endpoint>) -> Result<Answer, Trouble> {
        let Endpoints { clients, auth, .. } = self.endpoints;
        let client = clients.current().await.map_err(Trouble::Fatal)?;
        let mut waiting = Waiting {
            endpoints: self.endpoints,
            is_won: &self.is_won,
            at,
            since: Instant::now(),
            unanswered: None,
        };
        let pass = auth.pass(&client, endpoint, None).await?;
        let answer =
            waiting.with(&pass, exchange(REQUEST_TIMEOUT, &client, endpoint, self.ask, &pass)).await?;
        if !auth.is_stale(answer.0, &answer.2) {
            return Ok(answer);
        }
        let fresh = auth.pass(&client, endpoint, Some(&pass)).await?;
        if !fresh.is_other_than(&pass) {
            return Ok(answer);
        }
        waiting.with(&fresh, exchange(REQUEST_TIMEOUT, &client, endpoint, self.ask, &fresh)).await
    }
}

fn after<T>(mut failed: Vec<Failure>, outcome: Outcome<T>) -> Outcome<T> {
    match outcome {
        Ok(won) => {
            failed.extend(won.failed);
            Ok(Won { failed, ..won })
        }
        Err(Lost::Everywhere(more)) => {
            failed.extend(more);
            Err(Lost::Everywhere(failed))
        }
        Err(Lost::Fatal(error)) => Err(Lost::Fatal(error)),
    }
}

/// A request under way. When the caller drops the operation, this is the only one to see that an endpoint was slow.
struct Waiting<'a> {
    endpoints: &'a Endpoints,
    is_won: &'a AtomicBool,
    at: usize,
    since: Instant,
    /// What was shown with a request that has no answer yet.
    unanswered: Option<Pass>,
}

impl Waiting<'_> {
    async fn with(
        &mut self,
        pass: &Pass,
        exchange: impl Future<Output = Result<Answer, Fault>>,
    ) -> Result<Answer, Trouble> {
        self.unanswered = Some(pass.clone());
        let answer = exchange.await?;
        self.unanswered = None;
        Ok(answer)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Where another one has answered meanwhile, that is preferred, and what was shown was good.
        if self.since.elapsed() >= SLOW && !self.is_won.load(Ordering::Relaxed) {
            self.endpoints.avoid(self.at);
            if let Some(pass) = &self.unanswered {
                self.endpoints.auth.doubt(pass);
            }
        }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    endpoint: String,
    /// Its own.
    _connection: Connection,
    body: Incoming,
    read: Vec<u8>,
    until: tokio::time::Instant,
}

impl Lines {
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The next line; `None` when the answer is over, broken off or longer than any, or its time is up.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return String::from_utf8(line).ok();
            }
            let chunk = tokio::time::timeout_at(self.until, chunk(&mut self.body)).await.ok()?.ok()??;
            if self.read.len() + chunk.len() > MAX_BODY {
                return None;
            }
            self.read.extend_from_slice(&chunk);
        }
    }
}

#[cfg(test)]
mod tests;
