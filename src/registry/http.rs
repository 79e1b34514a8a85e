//! What is said to a cluster over HTTP: one request, one answer. `tour` is the way through its `endpoints`, `tls` has the client,
//! `auth` who we are, `reason` why it failed.
//!
//! Nothing here waits between attempts or knows what is being said. One connection to an endpoint is kept, without a
//! timer of its own: a heartbeat opens none and looks no name up. One that was closed meanwhile is known to be; one that
//! died in silence costs a request's time. Called by `etcd3` and `etcd2`.

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};

mod auth;
mod endpoints;
mod files;
mod reason;
mod tls;
mod tour;

pub use auth::Scheme;
pub use endpoints::Endpoints;
pub use tour::Tour;

use auth::Pass;
use endpoints::Endpoint;

use crate::config::REQUEST_TIMEOUT;

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

/// An endpoint's answer, whatever it says. Server errors (5xx) never get this far.
#[derive(Debug)]
pub struct Reply {
    pub endpoint: String,
    /// Of the request.
    pub path: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

fn request(client: &Client, endpoint: &Endpoint, ask: &Ask, pass: &Pass) -> Result<RequestBuilder, String> {
    let request = pass.shown_with(client.request(ask.method.clone(), endpoint.url(&ask.path)?));
    Ok(match &ask.body {
        Some(Body::Json(text)) => request.header(CONTENT_TYPE, "application/json").body(text.clone()),
        Some(Body::Form(text)) => {
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(text.clone())
        }
        None => request,
    })
}

type Answer = (StatusCode, HeaderMap, String);

/// Why there is no answer.
enum Fault {
    /// The connection was there, and ended before the answer began: a kept one may have been closed just before.
    Ended(String),
    Other(String),
}

async fn exchange(client: &Client, endpoint: &Endpoint, ask: &Ask, pass: &Pass) -> Result<Answer, Fault> {
    let request = request(client, endpoint, ask, pass).map_err(Fault::Other)?;
    let mut response = request.send().await.map_err(|e| match e.is_connect() || e.is_timeout() {
        true => Fault::Other(reason::of(&e)),
        false => Fault::Ended(reason::of(&e)),
    })?;
    endpoint.answered_at(response.remote_addr());
    let body = read(&mut response).await.map_err(Fault::Other)?;
    Ok((response.status(), std::mem::take(response.headers_mut()), body))
}

async fn read(response: &mut Response) -> Result<String, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| reason::of(&e))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(format!("its answer is longer than {} MiB", MAX_BODY >> 20));
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).map_err(|_| "its answer is not text".to_owned())
}
