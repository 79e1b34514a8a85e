//! The end of an announcement: before main is told to stop, and of our own record only.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;

use super::{Announced, TTL, folder, with_both};
use crate::support::etcd::{Etcd, free_port};
use crate::support::namespace::Place;
use crate::support::service::{Folder, KEY, VALUE, command, count, list};
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::{Api, Watch};

/// A main that writes a key of its own into etcd when it gets its TERM: what came first is in etcd's own order then.
fn tells_etcd_of_its_term(etcd: &Etcd, api: Api) -> String {
    let (request, body) = match api {
        Api::V3 => {
            let (key, value) = (BASE64.encode("/skydns/term"), BASE64.encode("came"));
            ("POST /v3/kv/put", format!(r#"{{"key":"{key}","value":"{value}"}}"#))
        }
        Api::V2 => ("PUT /v2/keys/skydns/term", "value=came".to_owned()),
    };
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let request = format!("{request} HTTP/1.0\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let port = etcd.address().port();
    let script = format!(
        "trap 'exec 3<>/dev/tcp/127.0.0.1/{port}; printf %s \"$REQUEST\" >&3; cat <&3 >&2; exit 7' TERM\n\
         echo ready\nwhile :; do sleep 1 & wait; done"
    );
    let request = serde_json::to_string(&request).expect("text is JSON");
    list("command", &["bash", "-c", &script].map(Into::into)) + &format!("env = {{ REQUEST = {request} }}\n")
}

#[test]
fn the_record_is_gone_before_main_gets_its_term() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        for drain in ["0s", "200ms"] {
            let text = tells_etcd_of_its_term(etcd, api) + &format!("stop = {{ drain = \"{drain}\" }}\n");
            let web = Announced::start(etcd, api, Place::First, &text);
            web.service.running.until_line("ready");
            web.watch.nth(0);
            let ended = web.service.stop();
            assert_eq!(ended.code, 7, "{ended:?}");
            let (gone, term) = (web.watch.nth(1), web.watch.nth(2));
            assert_eq!((gone.key.as_str(), gone.value), (KEY, None), "{drain}");
            assert_eq!((term.key.as_str(), term.value.as_deref()), ("/skydns/term", Some("came")), "{drain}");
        }
    });
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn main_serves_on_while_it_drains() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let drain = Duration::from_millis(700);
    with_both(|etcd, api| {
        let address = free_port();
        let text = command(&["http", &address.to_string()]) + "stop = { drain = \"700ms\" }\n";
        let web = Announced::start(etcd, api, Place::First, &text);
        web.watch.nth(0);
        wait::until_true("main to listen", || ask(address).is_ok());
        let asked = Instant::now();
        web.service.send(Signal::SIGTERM);
        let gone = web.watch.nth(1).at;
        let served = ask(address);
        assert!(asked.elapsed() < drain, "too slow a machine to see anything");
        assert!(served.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")));
        assert!(gone - asked < drain / 2, "{api:?}: withdrawn only after {:?}", gone - asked);
        assert_eq!(web.service.running.wait().code, 0);
        assert!(asked.elapsed() >= drain, "{api:?}: it was let drain for {:?}", asked.elapsed());
    });
}

/// Who asks twice does not want to wait for the drain.
#[test]
fn a_second_term_ends_the_drain() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let text = command(&["hold"]) + "stop = { drain = \"50s\" }\n";
        let web = Announced::start(etcd, api, Place::Guest, &text);
        web.watch.nth(0);
        let asked = Instant::now();
        web.service.send(Signal::SIGTERM);
        assert_eq!(web.watch.nth(1).value, None);
        assert_eq!(web.service.stop().code, 143);
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    });
}

/// The successor is another container with the same name and instance, at another port.
#[test]
fn an_old_instances_end_leaves_its_successors_record() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
        let text = |port: &str| super::announcing(&text, api, etcd).replace("8087", port);
        let start = |port: &str| Folder::with(&text(port)).start(Place::First);
        let held = || api.read(etcd, KEY).map(|held| held.value);
        let mut old = start("8000");
        wait::until_true("the first record", || held().is_some());
        // Once with an old one that ends unaware, once with one that has seen its successor's record.
        for (round, port) in ["8001", "8002"].into_iter().enumerate() {
            let value = VALUE.replace("8087", port);
            let new = start(port);
            wait::until_true("the successor's record", || held().as_ref() == Some(&value));
            if round == 1 {
                old.until_logged("another instance has taken over our key");
            }
            let watch = Watch::open(etcd, api);
            assert_eq!(old.stop().code, 143);
            let ended = Instant::now();
            wait::all_through(TTL + TTL / 2, || {
                assert_eq!(watch.count(), 0, "{:?} later: {:?}", ended.elapsed(), watch.changes());
            });
            assert_eq!(held(), Some(value));
            old = new;
        }
        assert_eq!(old.stop().code, 143);
        assert_eq!(held(), None, "the last one's own record goes with it");
    });
}

/// As a successor would, but by hand and for ever: it is not ours to remove.
#[test]
fn a_record_written_over_ours_stays() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
        let web = Announced::start(etcd, api, Place::Guest, &text);
        web.watch.nth(0);
        let other = VALUE.replace("192.0.2.7", "192.0.2.8");
        api.write(etcd, KEY, &other);
        web.service.until_logged("another instance has taken over our key");
        let ended = web.service.stop();
        assert_eq!((ended.code, count(&ended.stderr, "withdrawn service")), (143, 1), "{ended:?}");
        assert_eq!(api.read(etcd, KEY).map(|held| held.value), Some(other));
    });
}

/// With nothing to withdraw nobody has found us there: no drain.
#[test]
fn nothing_announced_is_nothing_to_drain() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let check = "[[check]]\nexec = [\"false\"]\n";
        let text = command(&["hold"]) + "stop = { drain = \"50s\" }\n" + check;
        let service = folder(&text, api, etcd).start(Place::First);
        service.until_logged("ready");
        let asked = Instant::now();
        assert_eq!(service.stop().code, 143);
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    });
}
