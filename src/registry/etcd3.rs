//! etcd's v3 API by its JSON gateway: one lease a claim, its ID chosen by us.
//!
//! The lease is what makes undoing safe. Revoking it removes what we wrote and nothing else, even when the answer to
//! the request that wrote it was lost, and a late write under a revoked lease is refused by etcd. So a key is never
//! deleted by name here, and never written without the lease or over something that was not seen first.
//! Called by `Registry`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use self::found::Found;
use super::claim::Claim;
use super::error::Error;
use super::follow::{self, Ended};
use super::http::{Ask, Body, Endpoints, Reply, Scheme, Tour};
use super::skydns::{self, Fields, whole_seconds};
use super::{Listed, Registration, Renewal};
use crate::config::{self, Conflict, DnsName, HostPort};
use crate::net::resolve::{Instance, Resolver};

mod found;
mod read;

/// gRPC's code for a request that is wrong; etcd's, for one by nobody.
const INVALID_ARGUMENT: i64 = 3;
/// gRPC's code for a lease (or key) that is not there.
const NOT_FOUND: i64 = 5;
/// gRPC's code for what this user may not do.
const PERMISSION_DENIED: i64 = 7;
/// gRPC's code for "the lease already exists".
const FAILED_PRECONDITION: i64 = 9;
/// How often a write that others got in the way of is begun anew.
const ROUNDS: usize = 4;

/// A cluster spoken to in v3.
#[derive(Debug)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    prefix: String,
}

impl Client {
    pub fn new(
        hosts: &[HostPort],
        registry: &config::Registry,
        resolver: Arc<Resolver>,
    ) -> Result<Self, Error> {
        // Without this a member that has lost its leader holds each request for seven seconds.
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("grpc-metadata-hasleader"),
            HeaderValue::from_static("true"),
        )]);
        let endpoints = Endpoints::new(hosts, registry, resolver, headers, Scheme::Token)?;
        Ok(Self { endpoints: Arc::new(endpoints), prefix: registry.prefix.clone() })
    }

    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub async fn register(&self, claim: &Claim, conflict: Conflict) -> Result<Registration, Error> {
        let mut tour = self.endpoints.tour();
        let ttl = grant(&mut tour, claim).await?;
        self.put(&mut tour, claim, ttl, conflict).await
    }

    /// Puts every record in one transaction, each over nothing or over exactly what was seen there: a request that a
    /// frozen member carries out late can then not overwrite what a successor wrote meanwhile. Rivals' records that are
    /// to be left alone are left out.
    async fn put(
        &self,
        tour: &mut Tour,
        claim: &Claim,
        ttl: Duration,
        conflict: Conflict,
    ) -> Result<Registration, Error> {
        // Place by place the revision last seen, 0 for "absent"; none where a rival's record stays.
        let mut seen = vec![Some(zero()); claim.records().len()];
        for _ in 0..ROUNDS {
            let said = call(tour, "/v3/kv/txn", &self.exchange(claim, &seen)).await?;
            let answer: Txn = accepted(said, &self.key(claim))?;
            if answer.succeeded {
                let all = seen.iter().all(Option::is_some);
                return Ok(if all { Registration::Held { ttl } } else { Registration::Taken });
            }
            let found = answer.found(claim);
            seen = found
                .iter()
                .enumerate()
                .map(|(place, found)| match (found, claim.conflict(place, conflict)) {
                    (Found::Rival { .. }, Conflict::Wait) => None,
                    (found, Conflict::Take | Conflict::Wait) => Some(found.revision()),
                })
                .collect();
            for (place, (found, seen)) in found.iter().zip(&seen).enumerate() {
                claim.note_rival(place, found.rival().filter(|_| seen.is_none()));
            }
        }
        Err(self.contended(claim))
    }

    /// A transaction that writes the record of each place that has a revision, if each key still stands at that; if
    /// not, reads all.
    fn exchange(&self, claim: &Claim, seen: &[Option<String>]) -> Value {
        let lease = claim.token().to_string();
        let (mut compare, mut puts) = (Vec::new(), Vec::new());
        for (record, revision) in claim.records().iter().zip(seen) {
            let Some(revision) = revision else { continue };
            let key = encode(&record.key(&self.prefix));
            compare.push(json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}));
            puts.push(json!({"request_put": {"key": key, "value": encode(&record.value()), "lease": lease}}));
        }
        json!({"compare": compare, "success": puts, "failure": self.ranges(claim)})
    }

    fn ranges(&self, claim: &Claim) -> Value {
        let keys = claim.records().iter().map(|record| encode(&record.key(&self.prefix)));
        keys.map(|key| json!({"request_range": {"key": key}})).collect()
    }

    fn contended(&self, claim: &Claim) -> Error {
        Error::Contended { key: self.key(claim) }
    }

    /// The first of a claim's keys, for people.
    fn key(&self, claim: &Claim) -> String {
        claim.records().first().map_or_else(String::new, |record| record.key(&self.prefix))
    }

    /// Renews the lease, then looks at what hangs on it: a record that was deleted or taken over by hand would
    /// otherwise be missing for as long as we live.
    pub async fn renew(&self, claim: &Claim) -> Result<Renewal, Error> {
        let mut tour = self.endpoints.tour();
        let Some(ttl) = keepalive(&mut tour, claim).await? else {
            return Ok(Renewal::Lost);
        };
        match self.look(&mut tour, claim, ttl).await {
            // The lease is renewed whatever comes now, so a failure to look is not a failure to renew.
            Err(_) if !claim.has_moved() => Ok(Renewal::Kept { ttl }),
            looked => looked,
        }
    }

    async fn look(&self, tour: &mut Tour, claim: &Claim, ttl: Duration) -> Result<Renewal, Error> {
        let read = json!({"success": self.ranges(claim)});
        let answer: Txn = accepted(call(tour, "/v3/kv/txn", &read).await?, &self.key(claim))?;
        let found = answer.found(claim);
        for (place, found) in found.iter().enumerate() {
            claim.note_rival(place, found.rival());
        }
        if found.iter().any(|found| matches!(found, Found::Nothing)) {
            return Ok(Renewal::Lost);
        }
        let stale = |found: &Found| matches!(found, Found::Stale { .. }).then(|| found.revision());
        let stale: Vec<Option<String>> = found.iter().map(stale).collect();
        let is_stale = stale.iter().any(Option::is_some);
        if is_stale {
            let said = call(tour, "/v3/kv/txn", &self.exchange(claim, &stale)).await?;
            let answer: Txn = accepted(said, &self.key(claim))?;
            if !answer.succeeded {
                return Err(self.contended(claim));
            }
        }
        Ok(match found.iter().any(|found| found.rival().is_some()) {
            true => Renewal::Taken,
            false if is_stale => Renewal::Moved { ttl },
            false => Renewal::Kept { ttl },
        })
    }

    pub async fn withdraw(&self, claim: &Claim) -> Result<(), Error> {
        let mut tour = self.endpoints.tour();
        let ask = json!({"ID": claim.token().to_string()});
        match call::<Value>(&mut tour, "/v3/lease/revoke", &ask).await? {
            Verdict::Done(_) | Verdict::Refused(Refusal { code: NOT_FOUND, .. }) => Ok(()),
            Verdict::Refused(refusal) => Err(refused(refusal, &self.key(claim))),
        }
    }
}

impl Client {
    /// Tells who is announced, then at each change, until the watch ends, as each does in time.
    pub(super) async fn watch(
        &self,
        name: Option<&DnsName>,
        hear: &mut (impl FnMut(Vec<Instance>) + Send),
    ) -> Result<Ended, Error> {
        let mut tour = self.endpoints.tour();
        let folder = self.folder(name);
        let (from, to) = (encode(&format!("{folder}/")), encode(&format!("{folder}0")));
        let there = call(&mut tour, "/v3/kv/range", &json!({"key": from, "range_end": to})).await?;
        let mut known: Known = accepted(there, &folder)?;
        hear(known.instances());
        let Some(next) = known.next_revision() else { return Ok(Ended::Silent) };
        let create = json!({"key": from, "range_end": to, "start_revision": next.to_string()});
        let Some(mut lines) =
            tour.open(&post("/v3/watch", &json!({"create_request": create})), follow::renewal()).await
        else {
            return Ok(Ended::Silent);
        };
        let mut ended = Ended::Silent;
        while let Some(line) = lines.next().await {
            let endpoint = lines.endpoint();
            match known.take(&line).map_err(|reason| Error::NotEtcd { endpoint: endpoint.clone(), reason })? {
                Taken::News => {
                    ended = Ended::News;
                    hear(known.instances());
                }
                Taken::Nothing => {}
                Taken::Over => break,
                Taken::Refused(message) if message.contains("PermissionDenied") => {
                    return Err(Error::Denied { endpoint, key: folder });
                }
                Taken::Refused(message) => return Err(Error::Refused { endpoint, message }),
            }
        }
        Ok(ended)
    }
}

/// Who is announced, as a listing tells it and then the lines of a watch. Pure.
#[derive(Debug, Deserialize)]
#[serde(from = "Range")]
pub struct Known {
    revision: i64,
    /// By key; `None` is what can't be connected to.
    instances: BTreeMap<String, Option<Instance>>,
}

/// What a line of a watch was.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    News,
    Nothing,
    /// Nothing more comes. What is there is to be listed again.
    Over,
    /// etcd will not have it watched, for this reason.
    Refused(String),
}

impl From<Range> for Known {
    fn from(range: Range) -> Self {
        let instances = range.kvs.into_iter().map(|kv| (kv.key.clone(), kv.instance())).collect();
        Self { revision: range.header.revision.parse().unwrap_or(0), instances }
    }
}

impl Known {
    /// All that can be connected to, by key.
    pub fn instances(&self) -> Vec<Instance> {
        self.instances.values().flatten().cloned().collect()
    }

    /// Where a watch begins that misses nothing; `None` where the listing does not say of when it is.
    pub fn next_revision(&self) -> Option<i64> {
        self.revision.checked_add(1).filter(|next| *next > 1)
    }

    /// Takes in a line of the watch. Error: it is none, for this reason.
    pub fn take(&mut self, line: &str) -> Result<Taken, String> {
        let Streaming { result } = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let Some(watched) = result else { return Ok(Taken::Over) };
        if watched.canceled {
            // By a compaction: what is there is listed again.
            return Ok(match watched.cancel_reason {
                reason if reason.is_empty() || watched.compact_revision != "0" => Taken::Over,
                message => Taken::Refused(message),
            });
        }
        let taken = if watched.events.is_empty() { Taken::Nothing } else { Taken::News };
        for Happening { kind, kv } in watched.events {
            match kind {
                Kind::Put => self.instances.insert(kv.key.clone(), kv.instance()),
                Kind::Delete => self.instances.remove(&kv.key),
            };
        }
        Ok(taken)
    }
}

async fn grant(tour: &mut Tour, claim: &Claim) -> Result<Duration, Error> {
    let ask = json!({"ID": claim.token().to_string(), "TTL": whole_seconds(claim.ttl()).to_string()});
    let granted = match call::<Granted>(tour, "/v3/lease/grant", &ask).await? {
        Verdict::Done(granted) => seconds(&granted.ttl),
        // Nobody else has this ID: an earlier attempt of this very claim was carried out.
        Verdict::Refused(Refusal { code: FAILED_PRECONDITION, .. }) => keepalive(tour, claim).await?,
        Verdict::Refused(refusal) => return Err(refused(refusal, "")),
    };
    let gone =
        || Error::Refused { endpoint: tour.endpoint(), message: "the lease is gone already".to_owned() };
    granted.ok_or_else(gone)
}

/// The time the lease has again; `None` when there is no such lease (any more).
async fn keepalive(tour: &mut Tour, claim: &Claim) -> Result<Option<Duration>, Error> {
    let ask = json!({"ID": claim.token().to_string()});
    let answer: Streamed = accepted(call(tour, "/v3/lease/keepalive", &ask).await?, "")?;
    Ok(seconds(&answer.result.ttl))
}

async fn call<T: for<'a> Deserialize<'a> + Send>(
    tour: &mut Tour,
    path: &str,
    body: &Value,
) -> Result<Verdict<T>, Error> {
    tour.send(&post(path, body), verdict).await
}

fn post(path: &str, body: &Value) -> Ask {
    Ask { method: Method::POST, path: path.to_owned(), body: Some(Body::Json(body.to_string())) }
}

/// What etcd made of a request.
enum Verdict<T> {
    Done(T),
    Refused(Refusal),
}

struct Refusal {
    endpoint: String,
    code: i64,
    message: String,
}

/// Goes by the gRPC code in the body: the HTTP status that goes with one differs between etcd's versions.
fn verdict<T: for<'a> Deserialize<'a>>(reply: &Reply) -> Result<Verdict<T>, Error> {
    let strange = |reason: String| Error::NotEtcd { endpoint: reply.endpoint.clone(), reason };
    let value: Value = serde_json::from_str(&reply.body)
        .map_err(|_| strange(format!("status {} without JSON", reply.status.as_u16())))?;
    let refused = |code: i64, said: &Value| {
        let message = said.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        Ok(Verdict::Refused(Refusal { endpoint: reply.endpoint.clone(), code, message }))
    };
    if let Some(code) = value.get("code").and_then(Value::as_i64) {
        return refused(code, &value);
    }
    // Errors of streaming calls have their own shape.
    if let Some(error) = value.get("error") {
        return refused(error.get("grpc_code").and_then(Value::as_i64).unwrap_or(-1), error);
    }
    if !reply.status.is_success() {
        return Err(strange(format!("status {}", reply.status.as_u16())));
    }
    serde_json::from_value(value).map(Verdict::Done).map_err(|e| strange(e.to_string()))
}

/// For calls of which no refusal is expected. `key` is what they are about, for people.
fn accepted<T>(verdict: Verdict<T>, key: &str) -> Result<T, Error> {
    match verdict {
        Verdict::Done(answer) => Ok(answer),
        Verdict::Refused(refusal) => Err(refused(refusal, key)),
    }
}

fn refused(Refusal { endpoint, code, message }: Refusal, key: &str) -> Error {
    match code {
        PERMISSION_DENIED => Error::Denied { endpoint, key: key.to_owned() },
        INVALID_ARGUMENT if message.contains("user name is empty") => Error::Nobody { endpoint },
        _ => Error::Refused { endpoint, message },
    }
}

// etcd's answers. 64-bit numbers are strings, and what is zero or empty is left out.

fn zero() -> String {
    "0".to_owned()
}

#[derive(Deserialize)]
struct Granted {
    #[serde(rename = "TTL", default = "zero")]
    ttl: String,
}

#[derive(Deserialize)]
struct Streamed {
    result: Granted,
}

#[derive(Deserialize)]
struct TimeToLive {
    #[serde(rename = "TTL", default = "zero")]
    ttl: String,
}

impl TimeToLive {
    /// A lease that ended between the two requests has nothing left, which is not "no limit".
    fn left(&self) -> Option<Duration> {
        Some(seconds(&self.ttl).unwrap_or(Duration::ZERO))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    header: Header,
    kvs: Vec<Kv>,
}

#[derive(Deserialize)]
#[serde(default)]
struct Header {
    revision: String,
}

impl Default for Header {
    fn default() -> Self {
        Self { revision: zero() }
    }
}

/// One line of a watch; one without a result says that the watch is over.
#[derive(Deserialize)]
struct Streaming {
    result: Option<Watched>,
}

#[derive(Deserialize)]
struct Watched {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    #[serde(default = "zero")]
    compact_revision: String,
    #[serde(default)]
    events: Vec<Happening>,
}

#[derive(Deserialize)]
struct Happening {
    #[serde(rename = "type", default)]
    kind: Kind,
    kv: Kv,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    #[default]
    Put,
    Delete,
}

#[derive(Deserialize)]
struct Kv {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default = "zero")]
    mod_revision: String,
    #[serde(default = "zero")]
    lease: String,
}

impl Kv {
    fn instance(&self) -> Option<Instance> {
        follow::instance(&Fields::parse(&decode(&self.value)).ok()?)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Txn {
    succeeded: bool,
    responses: Vec<Responses>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Responses {
    response_range: Range,
}

/// `None` for a time that has run out or was never there.
fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().filter(|s| *s > 0).map(Duration::from_secs)
}

fn encode(text: &str) -> String {
    BASE64.encode(text)
}

/// Keys and values of others may hold any bytes; what is not text can't be a record and will be told as such.
fn decode(text: &str) -> String {
    BASE64.decode(text).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}
