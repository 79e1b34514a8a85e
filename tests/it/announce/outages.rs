//! The registry goes away and comes back: dead, wiped, frozen. The service never feels it, the log tells it once, and
//! the record is there again as soon as there is somewhere to put it.

use std::io::copy;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::{Announced, TTL};
use crate::support::etcd::{Data, Etcd};
use crate::support::namespace::Place;
use crate::support::process;
use crate::support::service::{ANNOUNCE, Folder, KEY, Service, VALUE, command, registry, send};
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::{Api, Watch};

const LOST: &str = "registry out of reach";
const FOUND: &str = "registry reached again";
/// How soon after the registry's return the record is back.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// One service in each API, both announced.
fn both(etcd: &Etcd) -> Vec<Announced> {
    let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
    let start = |api| Announced::start(etcd, api, Place::First, &text);
    let both: Vec<Announced> = Api::BOTH.map(start).into();
    for web in &both {
        web.watch.nth(0);
    }
    both
}

/// Lets the outage outlast the TTL, and more than one try of each.
fn long_enough(both: &[Announced]) {
    for web in both {
        web.service.until_logged(LOST);
    }
    wait::be_late(TTL + TTL / 2);
}

/// Checks what holds after every outage; the registry has been back since `back`.
fn is_over(etcd: &Etcd, back: Instant, both: Vec<Announced>, pids: &[i32]) {
    let held = |api: Api| api.read(etcd, KEY).is_some_and(|held| held.value == VALUE);
    wait::until_true("the records to be back", || both.iter().all(|web| held(web.api)));
    let took = back.elapsed();
    assert!(took < BACK_WITHIN, "{took:?}");
    for web in &both {
        web.service.until_logged(FOUND);
    }
    // Whatever still hangs on what was before the outage is over by the end of a TTL.
    wait::be_late(TTL + TTL / 2);
    for (web, pid) in both.into_iter().zip(pids) {
        let (api, log) = (web.api, web.service.log());
        assert!(held(api), "{api:?}: {log}");
        assert_eq!(web.service.pid(&["hold"]), *pid, "{api:?}: the service was left alone");
        assert_eq!((web.service.logged(LOST), web.service.logged(FOUND)), (1, 1), "{api:?}: {log}");
        assert_eq!(web.service.stop().code, 143);
        assert_eq!(api.read(etcd, KEY), None, "{api:?}: withdrawn at last");
    }
}

fn pids(both: &[Announced]) -> Vec<i32> {
    both.iter().map(|web| web.service.pid(&["hold"])).collect()
}

fn dies_and_comes_back(data: Data) {
    let mut etcd = Etcd::start();
    let both = both(&etcd);
    let pids = pids(&both);
    etcd.stop();
    long_enough(&both);
    etcd.start_again(data);
    is_over(&etcd, Instant::now(), both, &pids);
}

#[test]
fn an_etcd_that_was_restarted_has_the_record_again() {
    if skip::without(Need::Namespaces) {
        return;
    }
    dies_and_comes_back(Data::Kept);
}

#[test]
fn an_etcd_that_comes_back_empty_has_the_record_again() {
    if skip::without(Need::Namespaces) {
        return;
    }
    dies_and_comes_back(Data::Wiped);
}

/// A service that has no heartbeat for so long, but for a reason.
fn patient(api: Api, ttl: &str, at: SocketAddr) -> Service {
    let announce = ANNOUNCE.replace("ttl = \"2s\"", &format!("ttl = \"{ttl}\""));
    let service = Folder::with(&(command(&["hold"]) + &announce + &registry(api, at))).start(Place::First);
    service.until_logged("announced");
    service
}

/// Nobody asks it anything while it is away, and for long after.
#[test]
fn an_etcd_that_is_back_at_once_without_its_data_has_the_record_again() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut etcd = Etcd::start();
    let both = Api::BOTH.map(|api| patient(api, "1h", etcd.address()));
    // The second time is no longer than the first: it was right to ask.
    for times in 1..=2 {
        etcd.stop();
        etcd.start_again(Data::Wiped);
        let back = Instant::now();
        for (api, service) in Api::BOTH.into_iter().zip(&both) {
            wait::until_true("the record", || api.read(&etcd, KEY).is_some());
            assert!(back.elapsed() < BACK_WITHIN, "{api:?}: {:?}", back.elapsed());
            wait::until_true("its word", || service.logged("forgotten") == times);
        }
    }
}

/// Something on the way to `to` that closes a connection on which nothing is asked, and how many there were.
fn impatient(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let at = listener.local_addr().expect("a bound socket has an address");
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            let server = TcpStream::connect(to).expect("etcd is there");
            client.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket can");
            let (mut from, mut back) =
                (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
            let (mut asks, mut answers) = (server, client);
            thread::spawn(move || {
                let _idle = copy(&mut from, &mut asks);
                let _closed = (asks.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            });
            thread::spawn(move || copy(&mut back, &mut answers));
        }
    });
    (at, taken)
}

#[test]
fn one_that_closes_what_is_idle_is_asked_no_more_than_ten_times_a_ttl() {
    if skip::without(Need::Namespaces) {
        return;
    }
    super::with_both(|etcd, api| {
        let (at, taken) = impatient(etcd.address());
        let service = patient(api, "20s", at);
        let before = taken.load(Ordering::Relaxed);
        wait::be_late(Duration::from_secs(9));
        let beats = taken.load(Ordering::Relaxed) - before;
        // One at once, then every 2 s.
        assert!((4..=6).contains(&beats), "{api:?}: {beats} connections");
        assert_eq!((service.logged(LOST), service.logged("forgotten")), (0, 0), "{}", service.log());
    });
}

/// It takes connections and never answers. Main is killed meanwhile: its restart waits for no registry.
#[test]
fn a_frozen_etcd_holds_up_nothing() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let etcd = Etcd::start();
    let both = both(&etcd);
    etcd.freeze();
    long_enough(&both);
    let old = pids(&both);
    let killed = Instant::now();
    for pid in &old {
        send(*pid, Signal::SIGKILL);
    }
    let next = |(web, old): (&Announced, &i32)| web.service.pid_after(*old, &["hold"]);
    let pids: Vec<i32> = both.iter().zip(&old).map(next).collect();
    // Up to the first delay of 100 ms, and whatever this machine needs.
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    // Past `settle`: the record waits for nothing but etcd.
    wait::be_late(Duration::from_millis(1500));
    etcd.thaw();
    is_over(&etcd, Instant::now(), both, &pids);
}

/// Before it could ever be announced: the service starts and serves all the same.
#[test]
fn a_registry_that_comes_later_gets_the_record_then() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut etcd = Etcd::start();
    etcd.stop();
    let both = Api::BOTH.map(|api| super::folder(&command(&["hold"]), api, &etcd).start(Place::First));
    for service in &both {
        service.until_logged(LOST);
        assert!(process::lives(service.pid(&["hold"])));
    }
    etcd.start_again(Data::Kept);
    let back = Instant::now();
    for (api, service) in Api::BOTH.into_iter().zip(both) {
        wait::until_true("the record", || api.read(&etcd, KEY).is_some());
        assert!(back.elapsed() < BACK_WITHIN, "{:?}", back.elapsed());
        service.until_logged(FOUND);
        assert_eq!((service.logged(LOST), service.logged(FOUND)), (1, 1), "{}", service.log());
    }
}

/// The container's end waits a second for the registry's word, and no longer.
#[test]
fn a_stop_without_a_registry_stays_in_its_budget() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let text = "stop = { drain = \"100ms\" }\nrestart = { when = \"never\" }\n";
    let begin = |etcd: &Etcd, args: &[&str]| {
        let start = |api| Announced::start(etcd, api, Place::First, &(command(args) + text));
        let both = Api::BOTH.map(start);
        both.iter().for_each(|web| drop(web.watch.nth(0)));
        both
    };
    let mut etcd = Etcd::start();
    // Four containers: two are told to stop, the main of the other two ends by itself.
    let told = begin(&etcd, &["hold"]);
    let (stopped, ends) = (Instant::now(), begin(&etcd, &["crash-after", "1500", "7"]));
    etcd.freeze();
    let asked = Instant::now();
    told.iter().for_each(|web| web.service.send(Signal::SIGTERM));
    for web in told {
        assert_eq!(web.service.running.wait().code, 143);
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    }
    etcd.stop();
    for web in ends {
        assert_eq!(web.service.running.wait().code, 7);
        assert!(stopped.elapsed() < Duration::from_secs(6), "{:?}", stopped.elapsed());
    }
}

/// Somebody empties the registry while everything runs.
#[test]
fn a_record_deleted_by_hand_comes_back() {
    if skip::without(Need::Namespaces) {
        return;
    }
    super::with_both(|etcd, api| {
        let web = Announced::start(etcd, api, Place::First, &command(&["hold"]));
        web.watch.nth(0);
        api.delete(etcd, KEY);
        assert_eq!(web.watch.nth(1).value, None);
        let back = web.watch.nth(2);
        assert_eq!(back.value.as_deref(), Some(VALUE));
        assert!(back.at - web.watch.nth(1).at < TTL, "by the next heartbeat");
        assert_eq!((web.service.logged("forgotten"), web.service.logged(LOST)), (1, 0));
    });
}

/// One record of two is deleted by hand, and etcd (out of space: it renews and deletes, and grants nothing) takes no new
/// announcement. What is left of the old one goes with the service all the same, not with its lease.
#[test]
fn what_is_left_of_a_record_that_could_not_be_put_back_is_withdrawn() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let etcd = Etcd::start();
    let announce = ANNOUNCE.replace("ttl = \"2s\"", "ttl = \"15s\"");
    let other = announce.replace("name = \"web.", "name = \"admin.");
    let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n" + &announce + &other;
    let service = Folder::with(&(text + &registry(Api::V3, etcd.address()))).start(Place::First);
    let admin = KEY.replace("/web/", "/admin/");
    wait::until_true("both records", || {
        [KEY, &admin].into_iter().all(|key| Api::V3.read(&etcd, key).is_some())
    });
    let full = r#"{"action":"ACTIVATE","alarm":"NOSPACE"}"#;
    assert_eq!(etcd.request("POST", "/v3/maintenance/alarm", full).0, 200);
    Api::V3.delete(&etcd, KEY);
    service.until_logged("database space exceeded");
    assert!(Api::V3.read(&etcd, &admin).is_some(), "{}", service.log());
    let ended = service.stop();
    assert_eq!((ended.code, Api::V3.read(&etcd, &admin)), (143, None), "{ended:?}");
}

/// As on a machine that was suspended: the record is gone with its time, and the clock is set when it goes on. The
/// heartbeat itself would be minutes away.
#[test]
fn a_machine_that_goes_on_has_the_record_again() {
    if skip::without(Need::Namespaces) {
        return;
    }
    super::with_both(|etcd, api| {
        let announce = ANNOUNCE.replace("ttl = \"2s\"", "ttl = \"1h\"");
        let text = command(&["hold"]) + &announce + &registry(api, etcd.address());
        let (watch, _service) = (Watch::open(etcd, api), Folder::with(&text).start(Place::First));
        watch.nth(0);
        api.delete(etcd, KEY);
        assert_eq!(watch.nth(1).value, None);
        let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("there is a clock");
        clock_settime(ClockId::CLOCK_REALTIME, now).unwrap_or_else(|why| {
            panic!("this test sets the clock: {why}. ENSIGN_SKIP_NS=1 leaves it out, with others that need rights")
        });
        let (gone, back) = (watch.nth(1).at, watch.nth(2));
        assert_eq!(back.value.as_deref(), Some(VALUE));
        assert!(back.at - gone < BACK_WITHIN, "{:?}", back.at - gone);
    });
}
