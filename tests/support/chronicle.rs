//! What became of the keys below /skydns in a cluster, told by all of its members at once: each change at the earliest
//! moment that any of them told of it, whichever of them were dead or frozen then. Begun before what is to be told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::cluster::{Cluster, Member};
use super::wait;
use super::watch::{Api, Change};

/// A key that is written so that whoever has told of it has told of everything before it.
const MARK: &str = "/skydns/mark";
/// Between two tries to reach a member that is dead.
const PAUSE: Duration = Duration::from_millis(5);

/// A change by the number that all members give it. The first is that of the cluster: one that was wiped is another.
type Number = (Api, usize, u64, String);

#[derive(Default)]
struct Book {
    changes: BTreeMap<Number, Change>,
    /// Clusters by their ID, in the order in which they were heard of.
    clusters: Vec<u64>,
    /// The last mark that each member told of.
    marks: BTreeMap<(Api, SocketAddr), String>,
}

pub struct Chronicle {
    book: Arc<Mutex<Book>>,
    over: Arc<AtomicBool>,
}

impl Chronicle {
    pub fn begin(cluster: &Cluster) -> Self {
        let this = Self { book: Arc::default(), over: Arc::default() };
        for api in Api::BOTH {
            for address in Member::ALL.map(|member| cluster.address(member)) {
                let (book, over) = (Arc::clone(&this.book), Arc::clone(&this.over));
                let headers = cluster.headers().to_owned();
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        // From the beginning each time: what has been told before is in the book.
                        let _ended = match api {
                            Api::V3 => listen_v3(address, &headers, &book),
                            Api::V2 => listen_v2(address, &headers, &book),
                        };
                        wait::be_late(PAUSE);
                    }
                });
            }
        }
        this.until_complete(cluster);
        this
    }

    /// Waits until all that has happened so far has been told by every member. All must be well.
    pub fn until_complete(&self, cluster: &Cluster) {
        let mark = format!("{:?}", Instant::now());
        for api in Api::BOTH {
            let write = || match api {
                Api::V3 => {
                    let ask =
                        json!({ "key": BASE64.encode(MARK), "value": BASE64.encode(&mark) }).to_string();
                    cluster.ask(Member::ALL[0], "POST", "/v3/kv/put", &ask)
                }
                Api::V2 => {
                    let path = format!("/v2/keys{MARK}");
                    cluster.ask(Member::ALL[0], "PUT", &path, &format!("value={}", BASE64.encode(&mark)))
                }
            };
            wait::until_true("a mark", || write().is_some_and(|(status, _)| status < 300));
        }
        let value = |api| if api == Api::V3 { mark.clone() } else { BASE64.encode(&mark) };
        wait::until_true("every member's account", || {
            let book = lock(&self.book);
            let all = Api::BOTH.into_iter().flat_map(|api| Member::ALL.map(|member| (api, member)));
            all.into_iter()
                .all(|(api, member)| book.marks.get(&(api, cluster.address(member))) == Some(&value(api)))
        });
    }

    /// How many clusters there have been: one that was wiped is another.
    pub fn clusters(&self) -> usize {
        lock(&self.book).clusters.len()
    }

    /// What became of the key, in the order in which it did; in the latest cluster only, where one was wiped.
    pub fn of(&self, api: Api, key: &str) -> Vec<Change> {
        let book = lock(&self.book);
        let latest = book.clusters.len().saturating_sub(1);
        let ours = book
            .changes
            .iter()
            .filter(|((of, cluster, ..), change)| (*of, *cluster) == (api, latest) && change.key == key);
        ours.map(|(_, change)| change.clone()).collect()
    }

    /// Waits until the key is there or is gone, as the latest that was told of it.
    pub fn until(&self, api: Api, key: &str, there: Presence) {
        wait::until_true(&format!("{api:?} {key} to be {there:?}: {:?}", self.of(api, key)), || {
            self.now(api, key) == there
        });
    }

    pub fn now(&self, api: Api, key: &str) -> Presence {
        match self.of(api, key).last() {
            Some(Change { value: Some(_), .. }) => Presence::There,
            Some(Change { value: None, .. }) | None => Presence::Gone,
        }
    }

    /// The longest time within `from` to `to` in which the key was so.
    pub fn longest(&self, api: Api, key: &str, what: Presence, from: Instant, to: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        let (mut state, mut since) = (Presence::Gone, from);
        for change in self.of(api, key) {
            let at = change.at.clamp(from, to);
            if state == what {
                longest = longest.max(at - since);
            }
            state = if change.value.is_some() { Presence::There } else { Presence::Gone };
            since = at;
        }
        if state == what { longest.max(to - since) } else { longest }
    }
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    There,
    Gone,
}

impl Book {
    /// The number of the cluster with this ID, new or known.
    fn cluster(&mut self, id: u64) -> usize {
        self.clusters.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.clusters.push(id);
            self.clusters.len() - 1
        })
    }

    fn note(&mut self, api: Api, from: SocketAddr, cluster: usize, index: u64, change: Change) {
        if change.key == MARK {
            self.marks.insert((api, from), change.value.unwrap_or_default());
        } else {
            self.changes.entry((api, cluster, index, change.key.clone())).or_insert(change);
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("nobody panics with it")
}

/// Sends a request, and gives what follows the answer's headers, and those.
fn open(to: SocketAddr, headers: &str, request: &str, body: &str) -> Option<(BufReader<TcpStream>, String)> {
    let mut stream = TcpStream::connect(to).ok()?;
    write!(stream, "{request} HTTP/1.0\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    let (mut lines, mut headers) = (BufReader::new(stream), String::new());
    while lines.read_line(&mut headers).ok()? > 2 {}
    Some((lines, headers))
}

/// A watch from the first revision on, until it ends.
fn listen_v3(address: SocketAddr, headers: &str, book: &Mutex<Book>) -> Option<()> {
    let (from, to) = (BASE64.encode("/skydns/"), BASE64.encode("/skydns0"));
    let ask = json!({"create_request": {"key": from, "range_end": to, "start_revision": 1}}).to_string();
    let (lines, _) = open(address, headers, "POST /v3/watch", &ask)?;
    for line in lines.lines() {
        let (said, at) = (serde_json::from_str::<Value>(&line.ok()?).ok()?, Instant::now());
        let result = &said["result"];
        let mut book = lock(book);
        let cluster = book.cluster(result["header"]["cluster_id"].as_str()?.parse().ok()?);
        for event in result["events"].as_array().into_iter().flatten() {
            let index = event["kv"]["mod_revision"].as_str()?.parse().ok()?;
            let text = |field: &str| {
                let bytes = BASE64.decode(event["kv"][field].as_str()?).ok()?;
                String::from_utf8(bytes).ok()
            };
            let value = if event["type"] == "DELETE" { None } else { text("value") };
            book.note(Api::V3, address, cluster, index, Change { at, key: text("key")?, value });
        }
    }
    None
}

/// One change after the other from the first that is known, until one can't be had. A stream would end with the first
/// that is history.
fn listen_v2(address: SocketAddr, headers: &str, book: &Mutex<Book>) -> Option<()> {
    let mut next = 1;
    loop {
        let request = format!("GET /v2/keys/skydns?wait=true&recursive=true&waitIndex={next}");
        let (mut rest, head) = open(address, headers, &request, "")?;
        let id = head.lines().find_map(|line| line.strip_prefix("X-Etcd-Cluster-Id: "))?.trim();
        let cluster = lock(book).cluster(u64::from_str_radix(id, 16).ok()?);
        let mut body = String::new();
        rest.read_to_string(&mut body).ok()?;
        let (said, at) = (serde_json::from_str::<Value>(&body).ok()?, Instant::now());
        let node = &said["node"];
        let (key, index) = (node["key"].as_str()?.to_owned(), node["modifiedIndex"].as_u64()?);
        let change = Change { at, key, value: node["value"].as_str().map(str::to_owned) };
        lock(book).note(Api::V2, address, cluster, index, change);
        next = index + 1;
    }
}
