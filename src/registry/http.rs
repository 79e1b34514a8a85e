//! What is said to a cluster over HTTP: one request, one answer. `tour` is the way through its `endpoints`, `tls` connects, `kept` keeps
//! the connection, `auth` and `token` say who we are, `reason` why it failed.
//!
//! Nothing here waits between attempts or knows what is being said. One connection to an endpoint is kept, without a
//! timer of its own: a heartbeat opens none and looks no name up. One that was closed meanwhile is known to be; one that
//! died in silence costs a request's time. Called by `etcd3` and `etcd2`.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};

mod auth;
mod endpoints;
mod files;
mod kept;
mod reason;
mod tls;
mod token;
mod tour;

pub use auth::Scheme;
pub use endpoints::Endpoints;
pub use tour::Tour;

use auth::Pass;
use endpoints::Endpoint;
use tls::Client;

use crate::config::REQUEST_TIMEOUT;
use crate::net::http;

/// The longest answer that is read.
const MAX_BODY: usize = 4 << 20;

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

/// An endpoint's answer, to be read. One by which it only says that it is in trouble never gets this far.
#[derive(Debug)]
pub struct Reply {
    pub endpoint: String,
    /// Of the request.
    pub path: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

fn request(client: &Client, endpoint: &Endpoint, ask: &Ask, pass: &Pass) -> Result<Request<String>, String> {
    let kind = match &ask.body {
        Some(Body::Json(_)) => Some("application/json"),
        Some(Body::Form(_)) => Some("application/x-www-form-urlencoded"),
        None => None,
    };
    let mut request = Request::builder().method(ask.method.clone()).uri(&ask.path);
    request = request.header(HOST, &endpoint.host).header(ACCEPT, "*/*");
    for (name, value) in client.headers() {
        request = request.header(name, value);
    }
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    let body = match &ask.body {
        Some(Body::Json(text) | Body::Form(text)) => text.clone(),
        None => String::new(),
    };
    pass.shown_with(request).body(body).map_err(|e| e.to_string())
}

type Answer = (StatusCode, HeaderMap, String);

/// Why there is no answer.
enum Fault {
    /// The connection was there, and ended before the answer began: a kept one may have been closed just before.
    Ended(String),
    Other(String),
}

async fn exchange(
    limit: Duration,
    client: &Client,
    endpoint: &Endpoint,
    ask: &Ask,
    pass: &Pass,
) -> Result<Answer, Fault> {
    let late = |_| Err(Fault::Other(format!("no answer within {}", reason::shown(limit))));
    let answer = answer(client, endpoint, ask, pass);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(late)
}

async fn answer(client: &Client, endpoint: &Endpoint, ask: &Ask, pass: &Pass) -> Result<Answer, Fault> {
    let request = request(client, endpoint, ask, pass).map_err(Fault::Other)?;
    let kept = endpoint.kept.take(client);
    let was_kept = kept.is_some();
    let mut connection = match kept {
        Some(kept) => kept,
        None => client.connect(endpoint).await.map_err(Fault::Other)?,
    };
    let why = |error: hyper::Error| reason::of(&error, client.transport());
    let response = connection.send(request).await.map_err(|error| {
        if was_kept {
            endpoint.kept.tell();
        }
        Fault::Ended(why(error))
    })?;
    endpoint.answered_at(Some(connection.remote()));
    let (head, mut body) = response.into_parts();
    let text = read(&mut body, why).await.map_err(Fault::Other)?;
    // One that is closed as announced has not died.
    let closes = |said: &HeaderValue| said.as_bytes().eq_ignore_ascii_case(b"close");
    if head.version == Version::HTTP_11 && !head.headers.get(CONNECTION).is_some_and(closes) {
        endpoint.kept.keep(client, connection);
    }
    Ok((head.status, head.headers, text))
}

async fn read(body: &mut Incoming, why: impl Fn(hyper::Error) -> String) -> Result<String, String> {
    let mut read = Vec::new();
    while let Some(chunk) = http::chunk(body).await.map_err(&why)? {
        if read.len() + chunk.len() > MAX_BODY {
            return Err(format!("its answer is longer than {} MiB", MAX_BODY >> 20));
        }
        read.extend_from_slice(&chunk);
    }
    String::from_utf8(read).map_err(|_| "its answer is not text".to_owned())
}
