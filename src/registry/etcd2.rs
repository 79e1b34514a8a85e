//! etcd's v2 keys: one node a record, told from another's by the index at which it was created.
//!
//! There are no leases here, so ownership is by index: a record is always *created* (what lies there is compared and
//! deleted first), heartbeats keep the `createdIndex`, and a node with another one is somebody else's. Each write
//! names what it expects to find; a request that a frozen member carries out late can't overwrite anything.
//! What remains: a creation given up after a second and carried out later leaves a record until its time is out.
//! Called by `Registry`.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderMap;
use serde::Deserialize;
use tokio::sync::OwnedMutexGuard;

use super::claim::{Claim, Trace};
use super::error::Error;
use super::follow::{self, Ended};
use super::http::{Ask, Body, Endpoints, Reply, Scheme, Tour};
use super::skydns::{self, Fields, Record, whole_seconds};
use super::{Listed, Registration, Renewal};
use crate::config::{self, Conflict, DnsName, HostPort};
use crate::net::http::encoded;
use crate::net::resolve::{Instance, Resolver};

/// How often a write that others got in the way of is begun anew.
const ROUNDS: usize = 4;

const KEY_NOT_FOUND: u64 = 100;
const COMPARE_FAILED: u64 = 101;
/// Something was looked for below a record.
const NOT_A_FOLDER: u64 = 104;
const KEY_EXISTS: u64 = 105;
const UNAUTHORIZED: u64 = 110;

type Traces = OwnedMutexGuard<Vec<Trace>>;

/// A cluster spoken to in v2.
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
        let endpoints = Endpoints::new(hosts, registry, resolver, HeaderMap::new(), Scheme::Basic)?;
        Ok(Self { endpoints: Arc::new(endpoints), prefix: registry.prefix.clone() })
    }

    pub(super) fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    pub async fn register(&self, claim: &Claim, most: Conflict) -> Result<Registration, Error> {
        let mut traces = Arc::clone(&claim.traces).lock_owned().await;
        let mut tour = self.endpoints.tour();
        let mut registration = Registration::Held { ttl: claim.ttl() };
        for place in 0..claim.records().len() {
            let created;
            (tour, traces, created) = self.create(tour, traces, place, claim, most).await?;
            match (created, &mut registration) {
                (Registration::Held { ttl }, Registration::Held { ttl: least }) => *least = ttl.min(*least),
                (Registration::Taken, _) => registration = Registration::Taken,
                (Registration::Held { .. }, Registration::Taken) => {}
            }
        }
        Ok(registration)
    }

    /// Creates the node of one record, in the place of what lies there.
    async fn create(
        &self,
        mut tour: Tour,
        mut traces: Traces,
        place: usize,
        claim: &Claim,
        most: Conflict,
    ) -> Result<(Tour, Traces, Registration), Error> {
        let (record, ttl) = (&claim.records()[place], claim.ttl());
        let held = |node: &Node| Registration::Held { ttl: node.left().unwrap_or(ttl) };
        let key = record.key(&self.prefix);
        let value = record.value();
        for _ in 0..ROUNDS + self.endpoints.count() {
            let there = get(&mut tour, &key).await?;
            claim.note_rival(place, None);
            if let Some(node) = &there.node {
                if traces[place].is_of(node, &value) {
                    traces[place] = node.trace();
                    return Ok((tour, traces, held(node)));
                }
                let is_alike = claim.said_at(place).any(|said| said.value() == node.value);
                if claim.conflict(place, most) == Conflict::Wait && !is_alike {
                    claim.note_rival(place, Some(&Fields::parse(&node.value)));
                    return Ok((tour, traces, Registration::Taken));
                }
                let theirs = [("prevIndex", node.modified_index.to_string())];
                match delete(&mut tour, &key, &theirs).await? {
                    Deleted::Yes | Deleted::Gone => {}
                    Deleted::Changed => continue,
                }
            }
            let fields = [
                ("value", value.clone()),
                ("ttl", whole_seconds(ttl).to_string()),
                ("prevExist", "false".into()),
            ];
            let ask = put(&key, &fields);
            let asked = Trace::Asked { after: there.index };
            // A refusal of this request says nothing about an earlier one that is still out.
            let otherwise = if matches!(traces[place], Trace::Asked { .. }) { asked } else { Trace::Nothing };
            traces[place] = asked;
            // In a task of its own: when we are dropped, the request runs to its end (a second at most) with the
            // traces in hand, and the withdrawal that waits for them knows what became of it.
            let sent = tokio::spawn(async move {
                let made = tour.send_once(&ask, verdict).await;
                match &made {
                    Ok(Some(Verdict::Done(done))) => traces[place] = done.node.trace(),
                    Ok(Some(Verdict::Refused(_))) => traces[place] = otherwise,
                    Ok(None) | Err(_) => {}
                }
                (tour, traces, made)
            });
            let made;
            (tour, traces, made) = sent.await.expect("the task neither panics nor is cancelled");
            match made? {
                Some(Verdict::Done(done)) => return Ok((tour, traces, held(&done.node))),
                None | Some(Verdict::Refused(Refusal { code: KEY_EXISTS, .. })) => {}
                Some(Verdict::Refused(refusal)) => return Err(refusal.into()),
            }
        }
        Err(Error::Contended { key })
    }

    /// The worst of the records decides: one that is gone makes the claim lost.
    pub async fn renew(&self, claim: &Claim) -> Result<Renewal, Error> {
        let mut traces = claim.traces.lock().await;
        let mut tour = self.endpoints.tour();
        let (mut least, mut worst) = (claim.ttl(), Renewal::Kept { ttl: claim.ttl() });
        for (place, trace) in traces.iter_mut().enumerate() {
            let renewal = self.refresh(&mut tour, trace, place, claim).await?;
            match (renewal, worst) {
                (Renewal::Lost, _) => return Ok(Renewal::Lost),
                (Renewal::Taken, _) => worst = Renewal::Taken,
                (Renewal::Moved { .. }, Renewal::Kept { .. }) => worst = renewal,
                (Renewal::Kept { .. } | Renewal::Moved { .. }, _) => {}
            }
            if let Renewal::Kept { ttl } | Renewal::Moved { ttl } = renewal {
                least = least.min(ttl);
            }
        }
        Ok(match worst {
            Renewal::Kept { .. } => Renewal::Kept { ttl: least },
            Renewal::Moved { .. } => Renewal::Moved { ttl: least },
            Renewal::Taken | Renewal::Lost => worst,
        })
    }

    async fn refresh(
        &self,
        tour: &mut Tour,
        trace: &mut Trace,
        place: usize,
        claim: &Claim,
    ) -> Result<Renewal, Error> {
        let key = claim.records()[place].key(&self.prefix);
        let value = claim.records()[place].value();
        // Whatever is not told apart below is ours; a rival's is noted where one is found.
        claim.note_rival(place, None);
        let taken_by = |node: &Node| {
            claim.note_rival(place, Some(&Fields::parse(&node.value)));
            Renewal::Taken
        };
        let mut moved = false;
        for _ in 0..ROUNDS {
            let (created, modified) = match *trace {
                Trace::Created { created, modified } => (created, modified),
                Trace::Asked { .. } => return Ok(Renewal::Lost),
                Trace::Nothing => {
                    return Ok(get(tour, &key).await?.node.as_ref().map_or(Renewal::Lost, taken_by));
                }
            };
            // A refresh keeps the value, tells no watcher, and says in its answer what the value is.
            let text = if moved { ("value", value.clone()) } else { ("refresh", "true".to_owned()) };
            let ttl = ("ttl", whole_seconds(claim.ttl()).to_string());
            let exists = ("prevExist", "true".to_owned());
            let is_ours = ("prevIndex", modified.to_string());
            match tour.send(&put(&key, &[text, ttl, exists, is_ours]), verdict).await? {
                Verdict::Done(done) => {
                    *trace = done.node.trace();
                    let ttl = done.node.left().unwrap_or(claim.ttl());
                    match (done.node.value == value, moved) {
                        (true, true) => return Ok(Renewal::Moved { ttl }),
                        (true, false) => return Ok(Renewal::Kept { ttl }),
                        (false, _) => moved = true,
                    }
                }
                Verdict::Refused(Refusal { code: KEY_NOT_FOUND, .. }) => return Ok(Renewal::Lost),
                Verdict::Refused(Refusal { code: COMPARE_FAILED, .. }) => match get(tour, &key).await?.node {
                    None => return Ok(Renewal::Lost),
                    // Ours, only further on: a heartbeat whose answer was lost.
                    Some(node) if node.created_index == created => *trace = node.trace(),
                    Some(node) => return Ok(taken_by(&node)),
                },
                Verdict::Refused(refusal) => return Err(refusal.into()),
            }
        }
        Err(Error::Contended { key })
    }

    pub async fn withdraw(&self, claim: &Claim) -> Result<(), Error> {
        let mut traces = claim.traces.lock().await;
        let mut tour = self.endpoints.tour();
        for (trace, record) in traces.iter_mut().zip(claim.records()) {
            self.remove(&mut tour, trace, record).await?;
        }
        Ok(())
    }

    async fn remove(&self, tour: &mut Tour, trace: &mut Trace, record: &Record) -> Result<(), Error> {
        let key = record.key(&self.prefix);
        for _ in 0..ROUNDS {
            match *trace {
                Trace::Nothing => return Ok(()),
                Trace::Asked { .. } => {
                    let ours = get(tour, &key).await?.node.filter(|node| trace.is_of(node, &record.value()));
                    *trace = ours.map_or(Trace::Nothing, |node| node.trace());
                }
                Trace::Created { created, modified } => {
                    let ours = [("prevIndex", modified.to_string())];
                    *trace = match delete(tour, &key, &ours).await? {
                        Deleted::Yes | Deleted::Gone => Trace::Nothing,
                        Deleted::Changed => get(tour, &key)
                            .await?
                            .node
                            .filter(|node| node.created_index == created)
                            .map_or(Trace::Nothing, |node| node.trace()),
                    };
                }
            }
        }
        Err(Error::Contended { key })
    }

    pub async fn list(&self, name: Option<&DnsName>) -> Result<Vec<Listed>, Error> {
        let folder = self.folder(name);
        Ok(self.list_at(&mut self.endpoints.tour(), &folder).await?.0)
    }

    /// Everything below `name` lies there, or everything.
    fn folder(&self, name: Option<&DnsName>) -> String {
        name.map_or(self.prefix.clone(), |name| skydns::folder(&self.prefix, name))
    }

    /// What lies at `key` itself; nothing where that is a folder.
    pub async fn at(&self, key: &str) -> Result<Option<Listed>, Error> {
        let path = format!("{}?quorum=true", path(key));
        match self.endpoints.tour().send(&Ask { method: Method::GET, path, body: None }, verdict).await? {
            Verdict::Done(done) if done.node.dir => Ok(None),
            Verdict::Done(done) => Ok(done.listed(&self.prefix).pop()),
            Verdict::Refused(Refusal { code: KEY_NOT_FOUND | NOT_A_FOLDER, .. }) => Ok(None),
            Verdict::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Tells who is announced, and ends with the first change, or in time.
    pub(super) async fn watch(
        &self,
        name: Option<&DnsName>,
        hear: &mut (impl FnMut(Vec<Instance>) + Send),
    ) -> Result<Ended, Error> {
        let mut tour = self.endpoints.tour();
        let folder = self.folder(name);
        let (listed, index) = self.list_at(&mut tour, &folder).await?;
        hear(follow::instances(&listed));
        // From the next index on: what has happened since is told at once.
        let path = format!("{}?wait=true&recursive=true&waitIndex={}", path(&folder), index + 1);
        let ask = Ask { method: Method::GET, path, body: None };
        let Some(mut lines) = tour.open(&ask, follow::renewal()).await else { return Ok(Ended::Silent) };
        let told = lines.next().await.is_some_and(|line| serde_json::from_str::<Done>(&line).is_ok());
        Ok(if told { Ended::News } else { Ended::Silent })
    }

    /// What lies below `folder`, and where the store stood.
    async fn list_at(&self, tour: &mut Tour, folder: &str) -> Result<(Vec<Listed>, u64), Error> {
        let path = format!("{}?recursive=true&quorum=true", path(folder));
        let ask = Ask { method: Method::GET, path, body: None };
        let (verdict, index) = tour.send(&ask, verdict_and_index).await?;
        let mut listed = match verdict {
            Verdict::Done(done) => done.listed(&self.prefix),
            Verdict::Refused(Refusal { code: KEY_NOT_FOUND | NOT_A_FOLDER, .. }) => Vec::new(),
            Verdict::Refused(refusal) => return Err(refusal.into()),
        };
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok((listed, index))
    }
}

impl Trace {
    /// Whether `node` is what the traced request made. While its answer is out, that takes a value like ours in a
    /// node created after the request was prepared.
    fn is_of(&self, node: &Node, value: &str) -> bool {
        match *self {
            Self::Nothing => false,
            Self::Asked { after } => node.value == value && node.created_index > after,
            Self::Created { created, .. } => node.created_index == created,
        }
    }
}

/// What lies at a key, and where the store stood when it was read.
struct There {
    node: Option<Node>,
    index: u64,
}

async fn get(tour: &mut Tour, key: &str) -> Result<There, Error> {
    // A plain GET is answered from a member's own, perhaps old, copy.
    let path = format!("{}?quorum=true", path(key));
    let ask = Ask { method: Method::GET, path, body: None };
    match tour.send(&ask, verdict_and_index).await? {
        (Verdict::Done(done), _) if done.node.dir => Err(Error::Refused {
            endpoint: tour.endpoint(),
            message: format!("`{key}` is a folder: it is part of a longer name that is announced"),
        }),
        (Verdict::Done(done), index) => Ok(There { node: Some(done.node), index }),
        (Verdict::Refused(Refusal { code: KEY_NOT_FOUND, .. }), index) => Ok(There { node: None, index }),
        (Verdict::Refused(refusal), _) => Err(refusal.into()),
    }
}

enum Deleted {
    Yes,
    Gone,
    /// The condition does not hold (any more).
    Changed,
}

async fn delete(tour: &mut Tour, key: &str, condition: &[(&str, String)]) -> Result<Deleted, Error> {
    let path = format!("{}?{}", path(key), encode(condition));
    match tour.send(&Ask { method: Method::DELETE, path, body: None }, verdict).await? {
        Verdict::Done(_) => Ok(Deleted::Yes),
        Verdict::Refused(Refusal { code: KEY_NOT_FOUND, .. }) => Ok(Deleted::Gone),
        Verdict::Refused(Refusal { code: COMPARE_FAILED, .. }) => Ok(Deleted::Changed),
        Verdict::Refused(refusal) => Err(refusal.into()),
    }
}

fn put(key: &str, fields: &[(&str, String)]) -> Ask {
    Ask { method: Method::PUT, path: path(key), body: Some(Body::Form(encode(fields))) }
}

/// The key's path, encoded as a URL wants it.
fn path(key: &str) -> String {
    format!("/v2/keys{}", encoded(key, |byte| is_plain(byte) || byte == b'/'))
}

fn encode(fields: &[(&str, String)]) -> String {
    let each: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encoded(value, is_plain))).collect();
    each.join("&")
}

/// Means itself wherever it stands in a URL.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What etcd made of a request.
enum Verdict {
    Done(Done),
    Refused(Refusal),
}

struct Refusal {
    endpoint: String,
    code: u64,
    message: String,
}

impl From<Refusal> for Error {
    fn from(Refusal { endpoint, message, .. }: Refusal) -> Self {
        Self::Refused { endpoint, message }
    }
}

fn verdict(reply: &Reply) -> Result<Verdict, Error> {
    let strange = |reason: String| Error::NotEtcd { endpoint: reply.endpoint.clone(), reason };
    if reply.status.is_success() {
        return serde_json::from_str(&reply.body).map(Verdict::Done).map_err(|e| strange(e.to_string()));
    }
    let endpoint = reply.endpoint.clone();
    match serde_json::from_str::<Failed>(&reply.body) {
        Ok(Failed { code: UNAUTHORIZED, .. }) => {
            Err(Error::LoginOrDenied { endpoint, key: reply.key().to_owned() })
        }
        Ok(Failed { code, message, cause }) => {
            let said = if cause.is_empty() { message } else { format!("{message} ({cause})") };
            Ok(Verdict::Refused(Refusal { endpoint, code, message: said.to_lowercase() }))
        }
        Err(_) if reply.status.as_u16() == 404 && reply.body.trim() == "404 page not found" => {
            Err(Error::V2Off { endpoint })
        }
        Err(_) => Err(strange(format!("status {} without an error code", reply.status.as_u16()))),
    }
}

/// As `verdict`, and where the store stood.
fn verdict_and_index(reply: &Reply) -> Result<(Verdict, u64), Error> {
    let verdict = verdict(reply)?;
    let index = reply.headers.get("x-etcd-index").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let strange = || Error::NotEtcd {
        endpoint: reply.endpoint.clone(),
        reason: "no `X-Etcd-Index` in its answer".to_owned(),
    };
    Ok((verdict, index.ok_or_else(strange)?))
}

impl Reply {
    /// What it is about, for people.
    fn key(&self) -> &str {
        let path = self.path.strip_prefix("/v2/keys").unwrap_or(&self.path);
        path.split('?').next().unwrap_or(path)
    }
}

// etcd's answers; what is zero or empty is left out.

/// A request was carried out, and this is what lies there.
#[derive(Deserialize)]
pub struct Done {
    node: Node,
}

impl Done {
    /// What it is and what lies below it, in no order: each record, and what is none.
    pub fn listed(self, prefix: &str) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut rest = vec![self.node];
        while let Some(mut node) = rest.pop() {
            rest.append(&mut node.nodes);
            if !node.dir {
                listed.extend(Listed::new(prefix, &node.key, Fields::parse(&node.value), node.left()));
            }
        }
        listed
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    dir: bool,
    ttl: Option<i64>,
    #[serde(default)]
    modified_index: u64,
    #[serde(default)]
    created_index: u64,
    #[serde(default)]
    nodes: Vec<Node>,
}

impl Node {
    fn trace(&self) -> Trace {
        Trace::Created { created: self.created_index, modified: self.modified_index }
    }

    fn left(&self) -> Option<Duration> {
        self.ttl.map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
    }
}

#[derive(Deserialize)]
struct Failed {
    #[serde(rename = "errorCode")]
    code: u64,
    message: String,
    #[serde(default)]
    cause: String,
}
