//! etcd's own account of what became of the keys below /skydns, told by etcd itself as it happens: what a client that
//! watches would have seen, in its order. Opened before what is to be seen.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

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
        let (status, body) = match self {
            Self::V3 => {
                let ask = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) }).to_string();
                etcd.request("POST", "/v3/kv/put", &ask)
            }
            Self::V2 => etcd.request("PUT", &format!("/v2/keys{key}"), &format!("value={value}")),
        };
        assert!(status == 200 || status == 201, "{body}");
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
}

pub struct Watch {
    stream: TcpStream,
    heard: Arc<Mutex<Vec<Change>>>,
}

impl Watch {
    /// From now on.
    pub fn open(etcd: &Etcd, api: Api) -> Self {
        match api {
            Api::V3 => Self::v3(etcd, 0),
            Api::V2 => {
                let request = "GET /v2/keys/skydns?wait=true&recursive=true&stream=true";
                Self::start(etcd, api, request, "")
            }
        }
    }

    /// All that ever was, and what comes. The v2 API keeps no such history.
    pub fn history(etcd: &Etcd) -> Self {
        Self::v3(etcd, 1)
    }

    fn v3(etcd: &Etcd, from_revision: u64) -> Self {
        let (from, to) = (BASE64.encode("/skydns/"), BASE64.encode("/skydns0"));
        let ask = json!({"create_request": {"key": from, "range_end": to, "start_revision": from_revision}});
        Self::start(etcd, Api::V3, "POST /v3/watch", &ask.to_string())
    }

    /// Returns once etcd has said that the watch stands.
    fn start(etcd: &Etcd, api: Api, request: &str, body: &str) -> Self {
        let mut stream = TcpStream::connect(etcd.address()).expect("etcd takes connections");
        write!(
            stream,
            "{request} HTTP/1.0\r\n{}Content-Length: {}\r\n\r\n{body}",
            etcd.headers(),
            body.len()
        )
        .expect("a request is taken");
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor is free"));
        let mut line = String::new();
        while lines.read_line(&mut line).expect("headers, with the v2 API's word") > 2 {
            line.clear();
        }
        if api == Api::V3 {
            lines.read_line(&mut line).expect("the v3 API's word");
            assert!(line.contains(r#""created":true"#), "{line}");
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let at = Instant::now();
                let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
                telling.lock().expect("nobody panics with it").extend(changes(api, &said, at));
            }
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

fn changes(api: Api, said: &Value, at: Instant) -> Vec<Change> {
    match api {
        Api::V3 => {
            let events = said["result"]["events"].as_array().into_iter().flatten();
            let change = |event: &Value| {
                let value = if event["type"] == "DELETE" { None } else { text(&event["kv"]["value"]) };
                Some(Change { at, key: text(&event["kv"]["key"])?, value })
            };
            events.filter_map(change).collect()
        }
        Api::V2 => {
            let Some(key) = said["node"]["key"].as_str() else { return vec![] };
            let value = said["node"]["value"].as_str().map(str::to_owned);
            vec![Change { at, key: key.to_owned(), value }]
        }
    }
}

fn text(base64: &Value) -> Option<String> {
    let bytes = BASE64.decode(base64.as_str()?).expect("base64");
    Some(String::from_utf8(bytes).expect("text"))
}
