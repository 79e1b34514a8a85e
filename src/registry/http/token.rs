//! Who we are, to etcd's v3 API: a token, for which we log in.
//!
//! A login costs etcd a tenth of a second of a processor, and one that was given up costs the same: a fleet that comes at
//! once would never get in by beginning again. So each runs to its end, whoever waits for it, and whoever comes next finds
//! it, or its token. There is one at an endpoint at most, and another one elsewhere only when that takes long: its member
//! may be frozen. One that was refused is not repeated for a while unless the file changes. Called by `auth`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::auth::{FAILED_PRECONDITION, INVALID_ARGUMENT};
use super::auth::{Pass, Trouble, password, said, secret_header};
use super::endpoints::Endpoint;
use super::tls::Client;
use super::{Ask, Body, REQUEST_TIMEOUT, exchange, files, reason};
use crate::config::{self, Secret};
use crate::net::resolve::watched::Stamp;
use crate::registry::aside::Aside;
use crate::registry::error::Error;

/// After a refusal the same password is not tried again for so long.
const HOLD: Duration = Duration::from_secs(5);
/// A login may take so long. Hundreds of clients that log in at once wait for each other's.
const LONGEST_LOGIN: Duration = Duration::from_secs(30);
/// A token is of the cluster as it is for so long: a request with it that gets no answer has another reason.
const FRESH: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Tokens {
    login: config::Login,
    aside: Aside,
    known: Mutex<Known>,
    /// A login has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// How many passes there have been.
    count: u64,
    pass: Option<Pass>,
    /// Since when there is that one.
    since: Option<Instant>,
    refused: Option<Refused>,
    /// The latest last.
    under_way: Vec<Login>,
}

#[derive(Debug)]
struct Login {
    at: Arc<Endpoint>,
    begun: Instant,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    stamp: Stamp,
}

/// A login in a task of its own. Over when this is dropped, also by a panic.
struct UnderWay {
    tokens: Arc<Tokens>,
    at: Arc<Endpoint>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.tokens.known().under_way.retain(|login| !Arc::ptr_eq(&login.at, &self.at));
        self.tokens.ended.notify_waiters();
    }
}

impl Tokens {
    pub fn new(login: &config::Login) -> Arc<Self> {
        let (aside, known, ended) = (Aside::default(), Mutex::default(), Notify::new());
        Arc::new(Self { login: login.clone(), aside, known, ended })
    }

    /// The token that we have, unless it is the one that was refused; or that of a login.
    pub async fn pass(
        self: &Arc<Self>,
        client: &Client,
        endpoint: &Arc<Endpoint>,
        refused: Option<&Pass>,
    ) -> Result<Pass, Trouble> {
        if let Some(pass) = self.token(refused) {
            return Ok(pass);
        }
        let late = |_| Trouble::Endpoint(format!("no login within {}", reason::shown(REQUEST_TIMEOUT)));
        let turn = tokio::time::timeout(REQUEST_TIMEOUT, self.turn(endpoint, refused));
        match turn.await.map_err(late)? {
            Turn::Pass(pass) => return Ok(pass),
            Turn::LogIn => {}
        }
        let under_way = UnderWay { tokens: Arc::clone(self), at: Arc::clone(endpoint) };
        let client = client.clone();
        let login = tokio::spawn(async move { under_way.tokens.log_in(&client, &under_way.at).await });
        let outcome = async {
            tokio::select! {
                // A panic has been reported where it happened.
                outcome = login => {
                    outcome.unwrap_or_else(|_| Err(Trouble::Endpoint("the login broke off".to_owned())))
                }
                pass = self.others(refused) => Ok(pass),
            }
        };
        tokio::time::timeout(REQUEST_TIMEOUT, outcome).await.map_err(late)?
    }

    /// See [`super::auth::Auth::doubt`].
    pub fn doubt(&self, pass: &Pass) {
        let mut known = self.known();
        let is_fresh = known.since.is_some_and(|since| since.elapsed() < FRESH);
        if !is_fresh && known.pass.as_ref().is_some_and(|known| !known.is_other_than(pass)) {
            known.pass = None;
        }
    }

    /// Nothing panics with it.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self, refused: Option<&Pass>) -> Option<Pass> {
        self.known().token(refused)
    }

    /// The token of somebody else's login.
    async fn others(&self, refused: Option<&Pass>) -> Pass {
        loop {
            let ended = self.ended.notified();
            if let Some(pass) = self.token(refused) {
                return pass;
            }
            ended.await;
        }
    }

    /// Waits until there is a token, or a login is to be begun: it counts as under way from then on.
    async fn turn(&self, endpoint: &Arc<Endpoint>, refused: Option<&Pass>) -> Turn {
        loop {
            let ended = self.ended.notified();
            let at = {
                let mut known = self.known();
                if let Some(pass) = known.token(refused) {
                    return Turn::Pass(pass);
                }
                let begun = Instant::now();
                match known.next_login(endpoint).filter(|at| *at > begun) {
                    Some(at) => at,
                    None => {
                        known.under_way.push(Login { at: Arc::clone(endpoint), begun });
                        return Turn::LogIn;
                    }
                }
            };
            let _ended_or_late = tokio::time::timeout_at(at, ended).await;
        }
    }

    async fn log_in(&self, client: &Client, endpoint: &Endpoint) -> Result<Pass, Trouble> {
        let file = self.login.password_file.clone();
        // While whoever began this still waits: that is what it is told then.
        let limit = REQUEST_TIMEOUT / 2;
        let looked = self.aside.run(limit, move || (Stamp::of(&file), password(&file))).await;
        let (stamp, password) =
            looked.map_err(|stuck| Trouble::Fatal(files::stuck(&self.login.password_file, &stuck)))?;
        let is_held = |last: &Refused| Some(last.stamp) == stamp && last.at.elapsed() < HOLD;
        if self.known().refused.as_ref().is_some_and(is_held) {
            return Err(self.wrong(endpoint));
        }
        let password = password.map_err(Trouble::Fatal)?;
        let ask = Ask {
            method: Method::POST,
            path: "/v3/auth/authenticate".to_owned(),
            body: Some(Body::Json(
                json!({"name": self.login.user, "password": password.expose()}).to_string(),
            )),
        };
        let (status, _, body) = exchange(LONGEST_LOGIN, client, endpoint, &ask, &Pass::nobody()).await?;
        let header = match said(&body) {
            _ if status.is_success() => Some(token(&body).ok_or_else(|| {
                let reason = "no token in its answer to a login".to_owned();
                Trouble::Fatal(Error::NotEtcd { endpoint: endpoint.to_string(), reason })
            })?),
            // As etcd's own client has it: whoever asks nobody is told nothing.
            (FAILED_PRECONDITION, message) if message.contains("not enabled") => None,
            (INVALID_ARGUMENT, message) if message.contains("authentication failed") => {
                self.known().refused = stamp.map(|stamp| Refused { at: Instant::now(), stamp });
                return Err(self.wrong(endpoint));
            }
            _ if reason::is_common_name(status, &body) => {
                return Err(Trouble::Fatal(Error::CommonName { endpoint: endpoint.to_string() }));
            }
            _ => return Err(Trouble::Endpoint(format!("no login: {}", reason::complaint(status, &body)))),
        };
        let mut known = self.known();
        known.count += 1;
        let pass = Pass::new(known.count, header);
        (known.refused, known.pass, known.since) = (None, Some(pass.clone()), Some(Instant::now()));
        Ok(pass)
    }

    fn wrong(&self, endpoint: &Endpoint) -> Trouble {
        Trouble::Fatal(Error::Login { endpoint: endpoint.to_string(), user: self.login.user.clone() })
    }
}

/// What there is to do for a token.
enum Turn {
    Pass(Pass),
    LogIn,
}

impl Known {
    fn token(&self, refused: Option<&Pass>) -> Option<Pass> {
        self.pass.clone().filter(|pass| refused.is_none_or(|refused| pass.is_other_than(refused)))
    }

    /// When a login may be begun there, unless one ends before; `None` where none is under way.
    fn next_login(&self, there: &Arc<Endpoint>) -> Option<Instant> {
        match self.under_way.iter().find(|login| Arc::ptr_eq(&login.at, there)) {
            Some(same) => Some(same.begun + LONGEST_LOGIN),
            None => self.under_way.last().map(|other| other.begun + REQUEST_TIMEOUT),
        }
    }
}

fn token(body: &str) -> Option<Secret<hyper::header::HeaderValue>> {
    let answer: Value = serde_json::from_str(body).ok()?;
    secret_header(answer.get("token")?.as_str()?)
}
