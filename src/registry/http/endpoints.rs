//! The way to a cluster: its endpoints, and the tour that one operation makes.
//!
//! Each endpoint is tried once an operation and gets a second, so a dead or frozen member costs at most that; the one
//! that works is where the next operation starts. Called by `etcd3` and `etcd2`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Response, Url};

use super::auth::{Auth, Pass, Scheme, Trouble};
use super::tls::Clients;
use super::{Answer, Ask, Fault, MAX_BODY, REQUEST_TIMEOUT, Reply, exchange, reason, request};
use crate::config::{self, HostPort};
use crate::net::resolve::Resolver;
use crate::registry::error::{Error, Failure};
use crate::registry::names::Names;

/// An endpoint that took this long, whether it answered in the end or the caller gave it up, is not asked first again.
const SLOW: Duration = Duration::from_millis(250);

/// The endpoints of one cluster; cheap to share.
#[derive(Debug)]
pub struct Endpoints {
    clients: Clients,
    auth: Auth,
    names: Names,
    all: Vec<Endpoint>,
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
        Tour {
            endpoints: Arc::clone(self),
            at: self.first.load(Ordering::Relaxed),
            left: self.all.len(),
            tried: Vec::new(),
            ended: false,
        }
    }

    /// Let the next operation start elsewhere, unless another one has already seen to that.
    fn avoid(&self, at: usize) {
        let next = (at + 1) % self.all.len();
        let _moved = self.first.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
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

/// One operation's way through the endpoints: it stays with one that answers and never goes back to one that failed.
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
    /// Asks until an endpoint answers. Only for requests that may be carried out twice.
    pub async fn send(&mut self, ask: &Ask) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = self.send_once(ask).await? {
                return Ok(reply);
            }
        }
    }

    /// Asks the present endpoint. `None`: it failed, the request may or may not have been carried out, and the next
    /// endpoint has its turn (or this one again, by a new connection). Error: there is no endpoint left to ask.
    pub async fn send_once(&mut self, ask: &Ask) -> Result<Option<Reply>, Error> {
        if self.left == 0 {
            return Err(Error::Unreachable { tried: std::mem::take(&mut self.tried) });
        }
        let endpoint = &self.endpoints.all[self.at];
        let label = endpoint.at.to_string();
        match self.answer(endpoint, ask).await {
            Ok((status, _, body)) if reason::is_common_name(status, &body) => {
                Err(Error::CommonName { endpoint: label })
            }
            Ok((status, headers, body)) if !status.is_server_error() => {
                Ok(Some(Reply { endpoint: label, path: ask.path.clone(), status, headers, body }))
            }
            Ok((status, _, body)) => {
                self.fail(label, reason::complaint(status, &body));
                Ok(None)
            }
            Err(Trouble::Ended(_)) if !self.ended => {
                self.ended = true;
                Ok(None)
            }
            Err(Trouble::Ended(reason) | Trouble::Endpoint(reason)) => {
                self.fail(label, reason);
                Ok(None)
            }
            Err(Trouble::Fatal(error)) => Err(error),
        }
    }

    /// The endpoint's answer, whatever it is, to a request that says who we are. One that only says that it does not
    /// take us for that has changed nothing: the request is made once more when we have logged in again.
    async fn answer(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Answer, Trouble> {
        let Endpoints { clients, auth, .. } = &*self.endpoints;
        let client = clients.current().map_err(Trouble::Fatal)?;
        let mut waiting = self.waiting();
        let pass = auth.pass(&client, endpoint, None).await?;
        let answer = waiting.with(&pass, exchange(&client, endpoint, ask, &pass)).await?;
        if !auth.is_stale(answer.0, &answer.2) {
            return Ok(answer);
        }
        let fresh = auth.pass(&client, endpoint, Some(&pass)).await?;
        if !fresh.is_other_than(&pass) {
            return Ok(answer);
        }
        waiting.with(&fresh, exchange(&client, endpoint, ask, &fresh)).await
    }

    fn waiting(&self) -> Waiting<'_> {
        Waiting { endpoints: &self.endpoints, at: self.at, since: Instant::now(), unanswered: None }
    }

    /// Begins an answer at the present endpoint that may take up to `patience` from its first line to its last. `None`:
    /// it gave none, and the next operation starts elsewhere.
    pub async fn open(&self, ask: &Ask, patience: Duration) -> Option<Lines> {
        let Endpoints { clients, auth, all, .. } = &*self.endpoints;
        let endpoint = &all[self.at];
        let until = tokio::time::Instant::now() + patience;
        let begun = tokio::time::timeout(REQUEST_TIMEOUT, async {
            let client = clients.current().ok()?;
            let pass = auth.pass(&client, endpoint, None).await.ok()?;
            request(&client, endpoint, ask, &pass).ok()?.timeout(patience + REQUEST_TIMEOUT).send().await.ok()
        });
        match begun.await.ok().flatten() {
            Some(response) => {
                Some(Lines { endpoint: endpoint.to_string(), response, read: Vec::new(), until })
            }
            None => {
                self.endpoints.avoid(self.at);
                None
            }
        }
    }

    fn fail(&mut self, endpoint: String, reason: String) {
        // Its name may lead elsewhere by now.
        self.endpoints.all[self.at].answered_at(None);
        self.endpoints.avoid(self.at);
        self.at = (self.at + 1) % self.endpoints.all.len();
        self.left -= 1;
        self.ended = false;
        self.tried.push(Failure { endpoint, reason });
    }
}

/// A request under way. When the caller drops the operation, this is the only one to see that an endpoint was slow.
struct Waiting<'a> {
    endpoints: &'a Endpoints,
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
        if self.since.elapsed() >= SLOW {
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
    response: Response,
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
            let chunk = tokio::time::timeout_at(self.until, self.response.chunk()).await.ok()?.ok()??;
            if self.read.len() + chunk.len() > MAX_BODY {
                return None;
            }
            self.read.extend_from_slice(&chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use reqwest::Method;

    use super::*;

    /// An endpoint that gives each connection the same answer.
    fn canned(answer: String) -> HostPort {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let _request = client.read(&mut [0; 4096]);
                let _answered = client.write_all(answer.as_bytes());
            }
        });
        HostPort { host: "127.0.0.1".to_owned(), port }
    }

    fn answer(status: &str, body: &str) -> HostPort {
        canned(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    async fn ask(hosts: &[HostPort]) -> Result<String, String> {
        let url = config::RegistryUrl::Etcd3(hosts.to_vec());
        let registry = config::Registry { url, prefix: String::new(), tls: None, login: None };
        let resolver = Arc::new(Resolver::system());
        let endpoints = Endpoints::new(hosts, &registry, resolver, HeaderMap::new(), Scheme::Token);
        let endpoints = Arc::new(endpoints.map_err(|e| e.to_string())?);
        let ask = Ask { method: Method::GET, path: "/health".to_owned(), body: None };
        endpoints.tour().send(&ask).await.map(|reply| reply.body).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_member_in_trouble_is_passed_by() {
        let hosts = [answer("503 Service Unavailable", "no leader"), answer("200 OK", "fine")];
        assert_eq!(ask(&hosts).await, Ok("fine".to_owned()));
        let error = ask(&hosts[..1]).await.expect_err("there is no other");
        assert!(error.ends_with(": no leader (status 503)"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_the_end() {
        let endless = canned(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY + 1)));
        let error = ask(&[endless]).await.expect_err("too long");
        assert!(error.contains("longer than 4 MiB"), "{error}");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let hosts =
            [canned("HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into())];
        assert_eq!(ask(&hosts).await, Ok(String::new()));
    }

    #[tokio::test]
    async fn what_is_not_http_is_told() {
        let error = ask(&[canned("* OK IMAP4 ready\r\n".to_owned())]).await.expect_err("not HTTP");
        assert!(error.contains("invalid http"), "{error}");
    }

    #[tokio::test]
    async fn a_host_that_no_url_can_hold_is_refused() {
        let error = ask(&[HostPort { host: "a b".to_owned(), port: 1 }]).await.expect_err("a space");
        assert!(error.starts_with("`a b:1` is not a host and port"), "{error}");
    }
}
