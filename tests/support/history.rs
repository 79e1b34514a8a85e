//! The history of a key, read from etcd itself: each change as it happened, stamped when it was heard of, by a watch
//! from revision 1 that survives etcd's own restarts; and at the end all of it read anew, which shows whether the watch
//! missed one. Talks over a raw socket; what the changes mean is the checker's.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::etcd::request;
use super::wait;

pub mod checker;
pub mod spans;
pub mod timeline;

use timeline::Change;

/// What is put beside the key when all that is to be told has happened.
const END: &str = ".end";

/// A watch of one key through all members of a cluster: what any of them tells first is when it was heard of.
pub struct History {
    key: String,
    members: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// By revision.
    changes: Vec<Change>,
    /// The end has been heard of.
    is_whole: bool,
    streams: Vec<TcpStream>,
    is_closed: bool,
}

impl History {
    /// From the first revision on. Times count from `began`.
    pub fn follow(key: &str, members: &[SocketAddr], began: Instant) -> Self {
        let shared = Arc::new(Shared { began, heard: Mutex::default() });
        for member in members.iter().copied() {
            let (key, shared) = (key.to_owned(), Arc::clone(&shared));
            std::thread::spawn(move || shared.follow(&key, member));
        }
        Self { key: key.to_owned(), members: members.to_vec(), shared }
    }

    /// Everything until now, once it has been heard. All members must answer.
    pub fn told(&self) -> Vec<Change> {
        let end = json!({"key": BASE64.encode(format!("{}{END}", self.key)), "value": ""}).to_string();
        let (status, answer) =
            request(self.members[0], "", "POST", "/v3/kv/put", &end).expect("etcd answers");
        assert_eq!(status, 200, "{answer}");
        let heard = wait::until("the watch to have told of all", || {
            let heard = self.shared.heard.lock().expect("nobody panics with it");
            heard.is_whole.then(|| heard.changes.clone())
        });
        let untimed = |change: &Change| Change { at: Duration::ZERO, ..change.clone() };
        let untimed: Vec<Change> = heard.iter().map(untimed).collect();
        for member in &self.members {
            assert_eq!(untimed, read_anew(&self.key, *member), "what the watch told, and what {member} has");
        }
        heard
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let mut heard = self.shared.heard.lock().expect("nobody panics with it");
        heard.is_closed = true;
        for stream in &heard.streams {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn follow(&self, key: &str, member: SocketAddr) {
        let mut next = 1;
        while let Some(stream) = self.connect(member) {
            let Ok(lines) = watch(&stream, key, next) else { continue };
            for line in lines.map_while(Result::ok) {
                let at = self.began.elapsed();
                let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
                for (key, change) in changes(&said, at) {
                    next = change.revision + 1;
                    self.hear(&key, change);
                }
            }
        }
    }

    /// Once there is somebody to talk to; `None` when the watch is over.
    fn connect(&self, member: SocketAddr) -> Option<TcpStream> {
        wait::until("a member to take connections", || {
            let lock = || self.heard.lock().expect("nobody panics with it");
            if lock().is_closed {
                return Some(None);
            }
            let stream = TcpStream::connect(member).ok()?;
            let mut heard = lock();
            heard.streams.push(stream.try_clone().expect("a descriptor is free"));
            Some(Some(stream).filter(|_| !heard.is_closed))
        })
    }

    fn hear(&self, key: &str, change: Change) {
        let mut heard = self.heard.lock().expect("nobody panics with it");
        if key.ends_with(END) {
            heard.is_whole = true;
            return;
        }
        let changes = &mut heard.changes;
        if let Err(place) = changes.binary_search_by_key(&change.revision, |change| change.revision) {
            changes.insert(place, change);
        }
    }
}

type Lines = std::io::Lines<BufReader<TcpStream>>;

fn watch(mut stream: &TcpStream, key: &str, revision: u64) -> std::io::Result<Lines> {
    let (from, to) = (BASE64.encode(key), BASE64.encode(format!("{key}~")));
    let create = json!({"key": from, "range_end": to, "start_revision": revision});
    let ask = json!({ "create_request": create }).to_string();
    write!(stream, "POST /v3/watch HTTP/1.0\r\nContent-Length: {}\r\n\r\n{ask}", ask.len())?;
    Ok(BufReader::new(stream.try_clone()?).lines())
}

/// All changes up to the end, by a watch of its own from revision 1.
fn read_anew(key: &str, member: SocketAddr) -> Vec<Change> {
    let stream = TcpStream::connect(member).expect("etcd takes connections");
    let lines = watch(&stream, key, 1).expect("a request is taken").map_while(Result::ok);
    let said = lines.filter_map(|line| serde_json::from_str(&line).ok());
    let all = said.flat_map(|said: Value| changes(&said, Duration::ZERO));
    all.take_while(|(key, _)| !key.ends_with(END)).map(|(_, change)| change).collect()
}

fn changes(said: &Value, at: Duration) -> Vec<(String, Change)> {
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let events = said["result"]["events"].as_array().into_iter().flatten();
    let change = |event: &Value| {
        let kv = &event["kv"];
        let value = (event["type"] != "DELETE").then(|| text(&kv["value"]));
        (
            text(&kv["key"]),
            Change { at, revision: number(&kv["mod_revision"]), value, lease: number(&kv["lease"]) },
        )
    };
    events.map(change).collect()
}

fn text(base64: &Value) -> String {
    let bytes = BASE64.decode(base64.as_str().unwrap_or_default()).expect("base64");
    String::from_utf8(bytes).expect("text")
}
