//! Who we are, to etcd: by a token for the v3 API, for which we log in once, and by name and password with each request
//! for the v2 API.
//!
//! The password is read from its file when it is needed. It must never be in an error, and never be sent anywhere but to
//! an endpoint of ours. `token` logs in. Called by `endpoints` and `tour`.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::http::request::Builder;
use serde_json::Value;

use super::endpoints::Endpoint;
use super::tls::Client;
use super::token::Tokens;
use super::{Fault, REQUEST_TIMEOUT, files};
use crate::config::{self, Secret, units};
use crate::net::resolve::watched::Stamp;
use crate::registry::aside::Aside;
use crate::registry::error::Error;

/// gRPC's codes for a request that is wrong, for a state that it does not fit, and for a token that is none.
pub(super) const INVALID_ARGUMENT: i64 = 3;
pub(super) const FAILED_PRECONDITION: i64 = 9;
const UNAUTHENTICATED: i64 = 16;

/// How etcd's API wants to be told who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A token in a header; v3.
    Token,
    /// Name and password in a header; v2.
    Basic,
}

#[derive(Debug)]
pub enum Auth {
    Nobody,
    Token(Arc<Tokens>),
    Basic(Arc<Basic>),
}

#[derive(Debug)]
pub struct Basic {
    login: config::Login,
    aside: Aside,
    /// Never locked while the file is looked at.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How many passes there have been.
    count: u64,
    pass: Option<Pass>,
    /// Of the password's file, as the pass was made.
    stamp: Option<Stamp>,
}

/// What is shown with a request.
#[derive(Debug, Clone)]
pub struct Pass {
    number: u64,
    /// `None` where etcd asks nobody who he is.
    header: Option<Secret<HeaderValue>>,
}

/// Why there is no pass.
#[derive(Debug)]
pub enum Trouble {
    /// This endpoint did not say. Another one may.
    Endpoint(String),
    /// Its connection ended. It may say by a new one.
    Ended(String),
    Fatal(Error),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Ended(reason) => Self::Ended(reason),
            Fault::Other(reason) => Self::Endpoint(reason),
        }
    }
}

impl Auth {
    pub fn new(scheme: Scheme, login: Option<&config::Login>) -> Self {
        match (login, scheme) {
            (None, Scheme::Token | Scheme::Basic) => Self::Nobody,
            (Some(login), Scheme::Token) => Self::Token(Tokens::new(login)),
            (Some(login), Scheme::Basic) => Self::Basic(Basic::new(login)),
        }
    }

    /// What to show with the next request. `refused` is what was shown with this one, and was no good: if there is
    /// nothing better, it comes back.
    pub async fn pass(
        &self,
        client: &Client,
        endpoint: &Arc<Endpoint>,
        refused: Option<&Pass>,
    ) -> Result<Pass, Trouble> {
        match self {
            Self::Nobody => Ok(Pass::nobody()),
            Self::Token(tokens) => tokens.pass(client, endpoint, refused).await,
            Self::Basic(basic) => basic.pass().await.map_err(Trouble::Fatal),
        }
    }

    /// Whether an answer says that what was shown is no good (any more).
    pub fn is_stale(&self, status: StatusCode, body: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Basic(_) => status == StatusCode::UNAUTHORIZED,
            Self::Token(_) if status.is_success() => false,
            Self::Token(_) => match said(body) {
                (UNAUTHENTICATED, _) => true,
                // Of a JWT; etcd 3.5.0, 3.5.1 and some before them have no code for it.
                (_, message) if message.contains("auth: revision in header is old") => true,
                (INVALID_ARGUMENT, message) => {
                    message.contains("user name is empty") || message.contains("auth store is old")
                }
                _ => false,
            },
        }
    }

    /// A request with this pass got no answer. etcd may hold one for ever whose token is of a cluster that has been
    /// wiped since.
    pub fn doubt(&self, pass: &Pass) {
        match self {
            Self::Token(tokens) => tokens.doubt(pass),
            Self::Nobody | Self::Basic(_) => {}
        }
    }
}

impl Basic {
    fn new(login: &config::Login) -> Arc<Self> {
        Arc::new(Self { login: login.clone(), aside: Aside::default(), known: Mutex::default() })
    }

    /// Of the file as it is now; as it was, while it can't be used.
    async fn pass(self: &Arc<Self>) -> Result<Pass, Error> {
        let limit = if self.known().pass.is_some() { files::PATIENCE } else { REQUEST_TIMEOUT };
        let basic = Arc::clone(self);
        let looked = self.aside.run(limit, move || basic.look()).await;
        let looked = looked.unwrap_or_else(|stuck| Err(files::stuck(&self.login.password_file, &stuck)));
        looked.or_else(|error| self.known().pass.clone().ok_or(error))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Result<Pass, Error> {
        let login = &self.login;
        let stamp = Stamp::of(&login.password_file);
        let is_same = |known: &Known| stamp.is_some() && known.stamp == stamp;
        if let Some(pass) =
            Some(self.known()).filter(|known| is_same(known)).and_then(|known| known.pass.clone())
        {
            return Ok(pass);
        }
        let pair = format!("{}:{}", login.user, password(&login.password_file)?.expose());
        let text = format!("Basic {}", BASE64.encode(pair));
        let header = secret_header(&text).expect("base64 is fit for a header");
        let mut known = self.known();
        let pass = match known.pass.take() {
            Some(pass) if pass.header.as_ref() == Some(&header) => pass,
            Some(_) | None => {
                known.count += 1;
                Pass { number: known.count, header: Some(header) }
            }
        };
        known.stamp = stamp;
        known.pass = Some(pass.clone());
        Ok(pass)
    }
}

impl Pass {
    pub(super) fn new(number: u64, header: Option<Secret<HeaderValue>>) -> Self {
        Self { number, header }
    }

    pub(super) fn nobody() -> Self {
        Self::new(0, None)
    }

    pub fn is_other_than(&self, other: &Self) -> bool {
        self.number != other.number
    }

    pub fn shown_with(&self, request: Builder) -> Builder {
        match &self.header {
            Some(header) => request.header(AUTHORIZATION, header.expose()),
            None => request,
        }
    }
}

pub(super) fn password(path: &Path) -> Result<Secret<String>, Error> {
    units::password(&files::read(path)?)
        .map_err(|why| Error::File { path: path.to_owned(), reason: why.to_owned() })
}

/// `None` where no header can hold it.
pub(super) fn secret_header(text: &str) -> Option<Secret<HeaderValue>> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(Secret::new(header))
}

/// The gRPC code of a refusal, and what etcd says with it.
pub(super) fn said(body: &str) -> (i64, String) {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let code = answer["code"].as_i64().or_else(|| answer["error"]["grpc_code"].as_i64()).unwrap_or(-1);
    let message = answer["message"].as_str().or_else(|| answer["error"]["message"].as_str());
    (code, message.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(file: &Path) -> config::Login {
        config::Login { user: "ens".to_owned(), password_file: file.to_owned() }
    }

    #[tokio::test]
    async fn v2s_header_follows_the_file_and_outlives_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        let login = login(&file);
        let auth = Basic::new(&login);
        assert!(matches!(auth.pass().await, Err(Error::File { .. })));
        std::fs::write(&file, "one\n").expect("written");
        let one = auth.pass().await.expect("a pass");
        let header = one.header.as_ref().expect("a header").expose();
        assert_eq!(header, &format!("Basic {}", BASE64.encode("ens:one")));
        assert!(!auth.pass().await.expect("a pass").is_other_than(&one));
        std::fs::write(&file, "two\n").expect("written");
        let two = auth.pass().await.expect("a pass");
        assert!(two.is_other_than(&one));
        std::fs::write(&file, "").expect("written");
        assert!(!auth.pass().await.expect("as it was").is_other_than(&two));
        let shown = format!("{auth:?}");
        assert!(!shown.contains(&BASE64.encode("ens:two")), "{shown}");
    }

    #[test]
    fn what_says_that_a_token_is_no_good() {
        let folder = tempfile::tempdir().expect("a folder");
        let auth = Auth::new(Scheme::Token, Some(&login(folder.path())));
        let stale = |status, body: &str| auth.is_stale(StatusCode::from_u16(status).expect("a status"), body);
        assert!(stale(
            401,
            r#"{"error":"etcdserver: invalid auth token","code":16,"message":"etcdserver: invalid auth token"}"#
        ));
        assert!(stale(400, r#"{"code":3,"message":"etcdserver: user name is empty"}"#));
        assert!(stale(400, r#"{"code":3,"message":"etcdserver: revision of auth store is old"}"#));
        assert!(stale(401, r#"{"error":{"grpc_code":16,"message":"etcdserver: invalid auth token"}}"#));
        // A JWT, as 3.5.1 says it once a user has been added.
        assert!(stale(
            500,
            r#"{"error":"auth: revision in header is old","code":2,"message":"auth: revision in header is old"}"#
        ));
        assert!(!stale(403, r#"{"code":7,"message":"etcdserver: permission denied"}"#));
        assert!(!stale(400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#));
        assert!(!stale(200, r#"{"code":16}"#));
    }
}
