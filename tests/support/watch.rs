//! etcd's own account of what became of the keys below /skydns, told by etcd itself as it happens: what a client that
//! watches would have seen, in its order. Opened before what is to be seen.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::wait;

/// Which of etcd's two APIs; each has data of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    V3,
    V2,
}

/// What a key holds now.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub value: String,
    /// Seconds: what was granted (v3), what is left (v2).
    pub ttl: i64,
}

impl Api {
    pub const BOTH: [Self; 2] = [Self::V3, Self::V2];

    /// As someone with curl would, for ever.
    pub fn write(self, etcd: &Etcd, key: &str, value: &str) {
        let (method, path, body) = self.put(key, value);
        let (status, body) = etcd.request(method, &path, &body);
        assert!(status == 200 || status == 201, "{body}");
    }

    /// Method, path and body of the request that writes.
    pub fn put(self, key: &str, value: &str) -> (&'static str, String, String) {
        match self {
            Self::V3 => {
                let ask = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
                ("POST", "/v3/kv/put".to_owned(), ask.to_string())
            }
            Self::V2 => ("PUT", format!("/v2/keys{key}"), format!("value={value}")),
        }
    }

    pub fn delete(self, etcd: &Etcd, key: &str) {
        let (status, body) = match self {
            Self::V3 => {
                let ask = json!({ "key": BASE64.encode(key) }).to_string();
                etcd.request("POST", "/v3/kv/deleterange", &ask)
            }
            Self::V2 => etcd.request("DELETE", &format!("/v2/keys{key}"), ""),
        };
        assert_eq!(status, 200, "{body}");
    }

    /// What etcd answers when asked for the key.
    pub fn read(self, etcd: &Etcd, key: &str) -> Option<Held> {
        let json = |body: &str| -> Value { serde_json::from_str(body).expect("JSON") };
        match self {
            Self::V3 => {
                let ask = json!({ "key": BASE64.encode(key) }).to_string();
                let answer = json(&etcd.request("POST", "/v3/kv/range", &ask).1);
                let value = text(&answer["kvs"][0]["value"])?;
                let lease = json!({ "ID": answer["kvs"][0]["lease"] }).to_string();
                let lease = json(&etcd.request("POST", "/v3/lease/timetolive", &lease).1);
                let ttl = lease["grantedTTL"].as_str().and_then(|ttl| ttl.parse().ok()).unwrap_or(0);
                Some(Held { value, ttl })
            }
            Self::V2 => {
                let (status, body) = etcd.request("GET", &format!("/v2/keys{key}?quorum=true"), "");
                let node = json(&body)["node"].take();
                let value = node["value"].as_str().map(str::to_owned).filter(|_| status == 200)?;
                Some(Held { value, ttl: node["ttl"].as_i64().unwrap_or(0) })
            }
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was heard of, which is never before it was made.
    pub at: Instant,
    pub key: String,
    /// `None`: it is gone (deleted, revoked, or its time was up).
    pub value: Option<String>,
    /// What all members call it by.
    pub revision: u64,
    /// 0 where it stays for ever. Of v2, which has no leases, 1 where its time will be up.
    pub lease: u64,
}

/// A member that says nothing for so long is asked anew: it may have died in silence.
const SILENCE: Duration = Duration::from_secs(20);

pub struct Watch {
    stream: TcpStream,
    heard: Arc<Mutex<Vec<Change>>>,
}

impl Watch {
    /// From now on. Returns once etcd has said that the watch stands.
    pub fn open(etcd: &Etcd, api: Api) -> Self {
        Self::start(etcd, api, 0)
    }

    /// All that ever was, and what comes. The v2 API keeps no such history.
    pub fn history(etcd: &Etcd) -> Self {
        Self::start(etcd, Api::V3, 1)
    }

    fn start(etcd: &Etcd, api: Api, revision: u64) -> Self {
        let (lines, _) = open(api, etcd.address(), etcd.headers(), revision).expect("etcd can be watched");
        let stream = lines.get_ref().try_clone().expect("a descriptor is free");
        stream.set_read_timeout(None).expect("it may be silent for long");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&heard);
        std::thread::spawn(move || {
            changes(api, lines)
                .for_each(|change| telling.lock().expect("nobody panics with it").push(change));
        });
        Self { stream, heard }
    }

    /// All that has been heard so far.
    pub fn changes(&self) -> Vec<Change> {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    pub fn count(&self) -> usize {
        self.changes().len()
    }

    /// The change number `nth` (from 0), once it has been heard.
    pub fn nth(&self, nth: usize) -> Change {
        wait::until(&format!("etcd's change {nth}, after {:?}", self.changes()), || {
            self.changes().get(nth).cloned()
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _closed = self.stream.shutdown(Shutdown::Both);
    }
}

/// Asks for changes from this revision on, or from now on where it is 0. It ends when none comes for [`SILENCE`]. Once it is granted: what they are told by, and
/// the cluster's ID. The v2 API tells one change alone where it is asked for a revision.
pub fn open(api: Api, to: SocketAddr, headers: &str, revision: u64) -> Option<(BufReader<TcpStream>, u64)> {
    let v2 = "GET /v2/keys/skydns?wait=true&recursive=true";
    let (request, body) = match api {
        Api::V3 => {
            let (from, to) = (BASE64.encode("/skydns/"), BASE64.encode("/skydns0"));
            let create = json!({ "key": from, "range_end": to, "start_revision": revision });
            ("POST /v3/watch".to_owned(), json!({ "create_request": create }).to_string())
        }
        Api::V2 if revision == 0 => (format!("{v2}&stream=true"), String::new()),
        Api::V2 => (format!("{v2}&waitIndex={revision}"), String::new()),
    };
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(SILENCE)).ok()?;
    write!(stream, "{request} HTTP/1.0\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    let (mut lines, mut head) = (BufReader::new(stream), String::new());
    while lines.read_line(&mut head).ok()? > 2 {}
    let cluster = match api {
        Api::V3 => {
            let mut line = String::new();
            lines.read_line(&mut line).ok()?;
            let result = serde_json::from_str::<Value>(&line).ok()?["result"].take();
            result["created"].as_bool().filter(|created| *created)?;
            number(&result["header"]["cluster_id"])
        }
        Api::V2 => {
            let id = head.lines().find_map(|line| line.strip_prefix("X-Etcd-Cluster-Id: "))?;
            u64::from_str_radix(id, 16).ok()?
        }
    };
    Some((lines, cluster))
}

/// Each when it is told, until etcd tells no more.
pub fn changes(api: Api, lines: BufReader<TcpStream>) -> impl Iterator<Item = Change> {
    lines.lines().map_while(Result::ok).flat_map(move |line| {
        let at = Instant::now();
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        match api {
            Api::V3 => {
                let events = said["result"]["events"].as_array().into_iter().flatten();
                events.filter_map(|event| change_v3(event, at)).collect::<Vec<_>>()
            }
            Api::V2 => change_v2(&said["node"], at).into_iter().collect(),
        }
    })
}

fn change_v3(event: &Value, at: Instant) -> Option<Change> {
    let kv = &event["kv"];
    Some(Change {
        at,
        key: text(&kv["key"])?,
        value: (event["type"] != "DELETE").then(|| text(&kv["value"]).unwrap_or_default()),
        revision: number(&kv["mod_revision"]),
        lease: number(&kv["lease"]),
    })
}

fn change_v2(node: &Value, at: Instant) -> Option<Change> {
    Some(Change {
        at,
        key: node["key"].as_str()?.to_owned(),
        value: node["value"].as_str().map(str::to_owned),
        revision: number(&node["modifiedIndex"]),
        lease: u64::from(node["expiration"].is_string()),
    })
}

/// The v3 API writes numbers as text, and leaves a 0 out.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn text(base64: &Value) -> Option<String> {
    let bytes = BASE64.decode(base64.as_str()?).expect("base64");
    Some(String::from_utf8(bytes).expect("text"))
}
