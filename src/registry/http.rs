//! The way to a cluster: its endpoints, one HTTP client for all of them, and the tour that one operation makes.
//!
//! Each endpoint is tried once an operation and gets a second, so a dead or frozen member costs at most that; the one
//! that works is where the next operation starts. Nothing here waits between attempts or knows what is being said.
//! One connection to an endpoint is kept, without a timer of its own: a heartbeat opens none and looks no name up. One that
//! was closed meanwhile is known to be; one that died in silence costs a request's time. Called by `etcd3` and `etcd2`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use super::error::{Error, Failure};
use super::names::Names;
use crate::config::HostPort;
use crate::net::resolve::Resolver;

/// Name look-up and connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// One request from its beginning to the answer's last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// An endpoint that took this long, whether it answered in the end or the caller gave it up, is not asked first again.
const SLOW: Duration = Duration::from_millis(250);
/// The longest answer that is read.
const MAX_BODY: usize = 4 << 20;

/// The endpoints of one cluster; cheap to share.
#[derive(Debug)]
pub struct Endpoints {
    client: Client,
    names: Names,
    all: Vec<Endpoint>,
    /// Where the next operation starts.
    first: AtomicUsize,
}

#[derive(Debug)]
struct Endpoint {
    at: HostPort,
    base: Url,
    /// Where it answered last.
    seen: Mutex<Option<SocketAddr>>,
}

/// One request, the same for whichever endpoint gets it.
#[derive(Debug)]
pub struct Ask {
    pub method: Method,
    /// Path and query, encoded.
    pub path: String,
    pub body: Option<Body>,
}

#[derive(Debug)]
pub enum Body {
    Json(String),
    Form(String),
}

/// An endpoint's answer, whatever it says. Server errors (5xx) never get this far.
#[derive(Debug)]
pub struct Reply {
    pub endpoint: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Endpoints {
    /// `headers` go with each request. Errors: a host that no URL can hold; no client to be had.
    pub fn new(hosts: &[HostPort], resolver: Arc<Resolver>, headers: HeaderMap) -> Result<Self, Error> {
        let names = Names::new(resolver);
        let client = Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(None)
            .tcp_nodelay(true)
            .dns_resolver(names.clone())
            .build()
            .map_err(|e| Error::Client { reason: reason(&e) })?;
        let all = hosts.iter().map(Endpoint::new).collect::<Result<_, _>>()?;
        Ok(Self { client, names, all, first: AtomicUsize::new(0) })
    }

    /// The address of the endpoint that the next operation would start with: where it answered last, without a look-up.
    /// One whose name is not found is passed by.
    pub async fn peer(&self) -> Result<SocketAddr, Error> {
        let mut tried = Vec::new();
        for _ in &self.all {
            let at = self.first.load(Ordering::Relaxed);
            let endpoint = &self.all[at];
            if let Some(seen) = *lock(&endpoint.seen) {
                return Ok(seen);
            }
            let found = tokio::time::timeout(REQUEST_TIMEOUT, self.names.lookup(&endpoint.at.host)).await;
            let late = |_| Err(format!("its name was not found within {}", shown(REQUEST_TIMEOUT)));
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
    fn new(at: &HostPort) -> Result<Self, Error> {
        let base = Url::parse(&format!("http://{at}"))
            .map_err(|e| Error::Endpoint { endpoint: at.to_string(), reason: e.to_string() })?;
        Ok(Self { at: at.clone(), base, seen: Mutex::default() })
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
        let waiting = Waiting { endpoints: &self.endpoints, at: self.at, since: Instant::now() };
        let outcome = exchange(&self.endpoints.client, endpoint, ask).await;
        drop(waiting);
        match outcome {
            Ok((status, headers, body)) if !status.is_server_error() => {
                Ok(Some(Reply { endpoint: label, status, headers, body }))
            }
            Ok((status, _, body)) => {
                self.fail(label, complaint(status, &body));
                Ok(None)
            }
            Err(Fault::Ended(_)) if !self.ended => {
                self.ended = true;
                Ok(None)
            }
            Err(Fault::Ended(reason) | Fault::Other(reason)) => {
                self.fail(label, reason);
                Ok(None)
            }
        }
    }

    /// Begins an answer at the present endpoint that may take up to `patience` from its first line to its last. `None`:
    /// it gave none, and the next operation starts elsewhere.
    pub async fn open(&self, ask: &Ask, patience: Duration) -> Option<Lines> {
        let endpoint = &self.endpoints.all[self.at];
        let until = tokio::time::Instant::now() + patience;
        let request =
            request(&self.endpoints.client, endpoint, ask).ok()?.timeout(patience + REQUEST_TIMEOUT);
        match tokio::time::timeout(REQUEST_TIMEOUT, request.send()).await {
            Ok(Ok(response)) => {
                Some(Lines { endpoint: endpoint.at.to_string(), response, read: Vec::new(), until })
            }
            Ok(Err(_)) | Err(_) => {
                self.endpoints.avoid(self.at);
                None
            }
        }
    }

    fn fail(&mut self, endpoint: String, reason: String) {
        // Its name may lead elsewhere by now.
        *lock(&self.endpoints.all[self.at].seen) = None;
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
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.since.elapsed() >= SLOW {
            self.endpoints.avoid(self.at);
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

fn request(client: &Client, endpoint: &Endpoint, ask: &Ask) -> Result<RequestBuilder, String> {
    let url = endpoint.base.join(&ask.path).map_err(|e| e.to_string())?;
    let request = client.request(ask.method.clone(), url);
    Ok(match &ask.body {
        Some(Body::Json(text)) => request.header(CONTENT_TYPE, "application/json").body(text.clone()),
        Some(Body::Form(text)) => {
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(text.clone())
        }
        None => request,
    })
}

/// Why there is no answer.
enum Fault {
    /// The connection was there, and ended before the answer began.
    Ended(String),
    Other(String),
}

async fn exchange(
    client: &Client,
    endpoint: &Endpoint,
    ask: &Ask,
) -> Result<(StatusCode, HeaderMap, String), Fault> {
    let request = request(client, endpoint, ask).map_err(Fault::Other)?;
    let mut response = request.send().await.map_err(|e| match e.is_connect() || e.is_timeout() {
        true => Fault::Other(reason(&e)),
        false => Fault::Ended(reason(&e)),
    })?;
    *lock(&endpoint.seen) = response.remote_addr();
    let body = read(&mut response).await.map_err(Fault::Other)?;
    Ok((response.status(), std::mem::take(response.headers_mut()), body))
}

async fn read(response: &mut Response) -> Result<String, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| reason(&e))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(format!("its answer is longer than {} MiB", MAX_BODY >> 20));
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).map_err(|_| "its answer is not text".to_owned())
}

/// What a server error says, short enough for one line. etcd says it in JSON of three shapes, a proxy in any way.
fn complaint(status: StatusCode, body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let message = json["message"].as_str().or_else(|| json["error"]["message"].as_str());
    let line = json["cause"].as_str().or(message).or_else(|| body.lines().next()).unwrap_or_default();
    let short: String = line.chars().take(200).collect();
    format!("{} (status {})", short.to_lowercase(), status.as_u16())
}

/// The cause at the bottom of the client's error, in words.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            format!("no connection within {}", shown(CONNECT_TIMEOUT))
        } else {
            format!("no answer within {}", shown(REQUEST_TIMEOUT))
        };
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Nothing panics with it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shown(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

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
        let endpoints = Endpoints::new(hosts, Arc::new(Resolver::system()), HeaderMap::new());
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

    #[test]
    fn etcds_complaints_are_told_in_its_words() {
        for body in [
            r#"{"error":"etcdserver: no leader","code":14,"message":"etcdserver: no leader"}"#,
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#,
            r#"{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}"#,
        ] {
            let told = complaint(StatusCode::SERVICE_UNAVAILABLE, body);
            assert_eq!(told, "etcdserver: no leader (status 503)");
        }
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
