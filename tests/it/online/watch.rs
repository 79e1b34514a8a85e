//! `ensign ls --watch` into a pipe: a line for each change, of a real etcd (v3, v2) and of a folder.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ensign::config::Conflict;
use ensign::config::units::{dns_name, label};
use ensign::registry::{Claim, Record};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::ensign;
use crate::support::etcd::Data;
use crate::support::place::{LONG, Place, TTL, record};
use crate::support::wait;

const NAME: &str = "web.s.prod.example.com";

/// A watch, and what it has printed so far.
struct Watch {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

fn kept(mut from: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            shared.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    text
}

impl Watch {
    fn start(place: &Place, args: &[&str]) -> Self {
        let url = super::url(place);
        let mut ls = Command::new(ensign());
        ls.args(["ls", "--watch", "--registry", &url]).args(args);
        let mut child = ls.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ensign runs");
        let out = kept(child.stdout.take().expect("piped"));
        let err = kept(child.stderr.take().expect("piped"));
        Self { child, out, err }
    }

    fn lines(&self) -> Vec<String> {
        self.out.lock().expect("no panic").lines().map(str::to_owned).collect()
    }

    /// The lines without their times, once there are `count`.
    fn until(&self, count: usize) -> Vec<String> {
        let lines = self.until_there_are(count);
        lines.iter().map(|line| line.split_once(' ').expect("a time in front").1.to_owned()).collect()
    }

    fn until_there_are(&self, count: usize) -> Vec<String> {
        wait::until(&format!("{count} lines"), || Some(self.lines()).filter(|lines| lines.len() >= count))
    }

    fn complained(&self, of: &str) {
        wait::until_true(of, || self.err.lock().expect("no panic").contains(of));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn claim(instance: &str, host: &str, ttl: Duration) -> Claim {
    Claim::new(vec![Record { instance: label(instance).expect("a label"), ..record(host) }], ttl)
}

async fn each_change_is_a_line_and_a_renewal_is_none(place: Place) {
    let registry = place.registry();
    let one = claim("one", "192.0.2.7", LONG);
    registry.register(&one, Conflict::Take).await.expect("registered");
    let watch = Watch::start(&place, &[NAME]);
    assert_eq!(watch.until(1), [format!("+ {NAME} one 192.0.2.7:8087")]);
    let mut namesake = one.records()[0].clone();
    namesake.name = dns_name("web-2.s.prod.example.com").expect("a name");
    registry.register(&Claim::new(vec![namesake], LONG), Conflict::Take).await.expect("registered");
    registry.register(&claim("two", "2001:db8::1", TTL), Conflict::Take).await.expect("registered");
    assert_eq!(watch.until(2)[1], format!("+ {NAME} two [2001:db8::1]:8087"));
    registry.renew(&one).await.expect("renewed");
    // It dies without a word.
    assert_eq!(watch.until(3)[2], format!("- {NAME} two [2001:db8::1]:8087"));
    registry.register(&claim("one", "192.0.2.8", LONG), Conflict::Take).await.expect("registered");
    let moved = watch.until(4)[3].clone();
    // In v2 a record makes place for the next one: it may be seen gone in between.
    if moved.starts_with('-') {
        assert_eq!(watch.until(5)[4], format!("+ {NAME} one 192.0.2.8:8087"));
    } else {
        assert_eq!(moved, format!("~ {NAME} one 192.0.2.8:8087 (was 192.0.2.7:8087)"));
    }
    let before = watch.lines().len();
    place.write("/skydns/com/example/prod/s/web/zz", "no record");
    let broken = watch.until(before + 1)[before].clone();
    assert!(broken.starts_with(&format!("+ {NAME} zz no record: ")), "{broken}");
    assert_eq!(watch.lines().len(), before + 1);
}

macro_rules! everywhere {
    ($($test:ident)*) => {
        mod v3 { $(#[tokio::test] async fn $test() { super::$test(super::Place::v3()).await; })* }
        mod v2 { $(#[tokio::test] async fn $test() { super::$test(super::Place::v2()).await; })* }
        mod dir { $(#[tokio::test] async fn $test() { super::$test(super::Place::dir()).await; })* }
    };
}

everywhere! { each_change_is_a_line_and_a_renewal_is_none }

#[tokio::test]
async fn an_outage_is_told_once_and_forgets_nothing() {
    let mut place = Place::v3();
    let one = claim("one", "192.0.2.7", LONG);
    place.registry().register(&one, Conflict::Take).await.expect("registered");
    let watch = Watch::start(&place, &["--json"]);
    watch.until_there_are(1);
    let Place::V3(etcd) = &mut place else { panic!("it is v3") };
    etcd.stop();
    watch.complained("warning: the registry can't be read: ");
    etcd.start_again(Data::Kept);
    watch.complained("note: the registry is read again");
    place.registry().withdraw(&one).await.expect("withdrawn");
    let lines = watch.until_there_are(2);
    let read = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let (came, went) = (read(&lines[0]), read(&lines[1]));
    assert_eq!((came["change"].as_str(), went["change"].as_str()), (Some("added"), Some("removed")));
    assert!(came["time"].as_str().expect("a time").ends_with('Z'), "{came}");
    assert_eq!((came["address"].as_str(), came["port"].as_i64()), (Some("192.0.2.7"), Some(8087)));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(watch.err.lock().expect("no panic").matches("warning").count(), 1);
}

/// As any program that is no init.
#[test]
fn a_signal_ends_it() {
    let place = Place::dir();
    std::fs::create_dir_all(place.file("/skydns")).expect("made");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut watch = Watch::start(&place, &[]);
        std::fs::write(place.file("/skydns/x"), "no record").expect("written");
        watch.until(1);
        kill(Pid::from_raw(watch.child.id().cast_signed()), signal).expect("ours");
        let ended = watch.child.wait().expect("ours");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(signal as i32));
    }
}
