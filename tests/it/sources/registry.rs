//! Links that follow a name in a real etcd (v3 and v2) or a folder, and what an outage of it changes: nothing.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ensign::config::units::{dns_name, label};
use ensign::config::{Balance, Conflict, EnvLinks, Upstream};
use ensign::links::{self, Links, plan_links};
use ensign::net::resolve::{Instance, Resolver};
use ensign::registry::{Claim, Record, Registry, Seen};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{DEADLINE, connect, host, ip, link};
use crate::support::etcd::{Data, Etcd};
use crate::support::place::{LONG, Place, TTL};
use crate::support::wait;

const NAME: &str = "web.s.prod.example.com";

fn claim(instance: &str, address: SocketAddr, ttl: Duration) -> Claim {
    let record = Record {
        name: dns_name(NAME).expect("a name"),
        instance: label(instance).expect("a label"),
        host: address.ip(),
        port: address.port(),
        priority: 10,
        weight: 100,
        dns_ttl: Duration::from_secs(5),
        conflict: Conflict::Take,
    };
    Claim::new(vec![record], ttl)
}

/// What a follower of the place is told, in order.
fn follow(place: &Place) -> UnboundedReceiver<Seen> {
    follow_by(place.registry())
}

/// As `follow`, by these addresses.
fn follow_through(place: &Place, addresses: &[SocketAddr]) -> UnboundedReceiver<Seen> {
    follow_by(place.through(addresses))
}

fn follow_by(registry: Registry) -> UnboundedReceiver<Seen> {
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        let name = dns_name(NAME).expect("a name");
        registry.follow(&name, move |seen| drop(tell.send(seen))).await;
    });
    told
}

/// In front of an etcd: a proxy that passes everything on but what waits for changes, which it forbids. And when it did.
fn without_watches(etcd: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let forbidden = Arc::<Mutex<Vec<Instant>>>::default();
    let told = Arc::clone(&forbidden);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut asked = vec![0; 4096];
            let Ok(length) = client.read(&mut asked) else { continue };
            let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
            let mut answer = Vec::new();
            if asked.contains("wait=true") || asked.contains("/v3/watch") {
                told.lock().expect("nobody panics with it").push(Instant::now());
                answer.extend(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n<p>No</p>");
            } else {
                let mut etcd = TcpStream::connect(etcd).expect("it runs");
                let alone = asked.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
                etcd.write_all(alone.as_bytes()).expect("it is there");
                etcd.read_to_end(&mut answer).expect("an answer");
            }
            // Fails where nobody waits for it any more.
            let _answered = client.write_all(&answer);
        }
    });
    (address, forbidden)
}

/// Waits until exactly these ports are told of.
async fn until(told: &mut UnboundedReceiver<Seen>, ports: &[u16]) {
    let wanted: BTreeSet<u16> = ports.iter().copied().collect();
    let told = timeout(DEADLINE, async {
        loop {
            if let Some(Seen::Instances(instances)) = told.recv().await
                && instances.iter().map(|instance| instance.port).collect::<BTreeSet<_>>() == wanted
            {
                return;
            }
        }
    });
    told.await.unwrap_or_else(|_| panic!("waited in vain for {ports:?}"));
}

async fn until_lost(told: &mut UnboundedReceiver<Seen>) {
    let lost = async { while !matches!(told.recv().await, Some(Seen::Lost(_)) | None) {} };
    timeout(DEADLINE, lost).await.expect("the outage is told");
}

fn at(port: u16) -> SocketAddr {
    ([192, 0, 2, 7], port).into()
}

async fn who_comes_and_goes_is_told(place: Place) {
    let registry = place.registry();
    let (one, two, brief) =
        (claim("one", at(1), LONG), claim("two", at(2), LONG), claim("brief", at(3), TTL));
    registry.register(&one, Conflict::Take).await.expect("registered");
    let mut told = follow(&place);
    until(&mut told, &[1]).await;
    registry.register(&two, Conflict::Take).await.expect("registered");
    until(&mut told, &[1, 2]).await;
    registry.register(&brief, Conflict::Take).await.expect("registered");
    until(&mut told, &[1, 2, 3]).await;
    // It dies without a word.
    until(&mut told, &[1, 2]).await;
    registry.withdraw(&one).await.expect("withdrawn");
    until(&mut told, &[2]).await;
    place.write("/skydns/com/example/prod/s/web/others", "no record");
    let mut namesake = claim("x", at(9), LONG).records()[0].clone();
    namesake.name = dns_name("web-2.s.prod.example.com").expect("a name");
    registry.register(&Claim::new(vec![namesake], LONG), Conflict::Take).await.expect("registered");
    registry.renew(&two).await.expect("renewed");
    registry.withdraw(&two).await.expect("withdrawn");
    until(&mut told, &[]).await;
}

async fn an_outage_is_told_once_and_followed_from_there(mut place: Place) {
    let one = claim("one", at(1), LONG);
    let _granted = place.registry().register(&one, Conflict::Take).await.expect("registered");
    let mut told = follow(&place);
    until(&mut told, &[1]).await;
    etcd(&mut place).stop();
    until_lost(&mut told).await;
    etcd(&mut place).start_again(Data::Kept);
    place.registry().register(&claim("two", at(2), LONG), Conflict::Take).await.expect("registered");
    let (mut seen, mut lost) = (BTreeSet::new(), 0);
    while seen.len() < 2 {
        match timeout(DEADLINE, told.recv()).await.expect("in time").expect("followed") {
            Seen::Instances(instances) => {
                assert!(!instances.is_empty(), "what is kept is never gone");
                seen = instances.iter().map(|instance| instance.port).collect();
            }
            Seen::Lost(_) => lost += 1,
        }
    }
    assert_eq!((lost, seen), (0, BTreeSet::from([1, 2])));
}

/// What may be listed and not watched is looked at again and again, but not in a row.
async fn one_that_lets_nobody_watch_is_asked_now_and_then(place: Place) {
    let (proxy, forbidden) = without_watches(place.etcd().address());
    let mut told = follow_through(&place, &[proxy]);
    place.registry().register(&claim("one", at(1), LONG), Conflict::Take).await.expect("registered");
    until(&mut told, &[1]).await;
    let forbidden = wait::until_async("the seventh watch", async || {
        let forbidden = forbidden.lock().expect("nobody panics with it").clone();
        Some(forbidden).filter(|forbidden| forbidden.len() > 6)
    });
    let forbidden = forbidden.await;
    // Pauses from half of 100 ms up, each twice as long as the last.
    assert!(forbidden[6] - forbidden[0] > Duration::from_secs(2), "{forbidden:?}");
}

async fn one_that_lets_nobody_watch_is_left_for_one_that_does(place: Place) {
    let (proxy, forbidden) = without_watches(place.etcd().address());
    let mut told = follow_through(&place, &[proxy, place.etcd().address()]);
    for port in 1..5 {
        let claim = claim("one", at(port), LONG);
        place.registry().register(&claim, Conflict::Take).await.expect("registered");
        until(&mut told, &[port]).await;
    }
    assert_eq!(forbidden.lock().expect("nobody panics with it").len(), 1);
}

fn etcd(place: &mut Place) -> &mut Etcd {
    match place {
        Place::V3(etcd) | Place::V2(etcd) => etcd,
        Place::Dir(_) => panic!("a folder has no etcd"),
    }
}

#[tokio::test]
async fn v3_goes_on_after_a_compaction() {
    let mut place = Place::v3();
    place.registry().register(&claim("one", at(1), LONG), Conflict::Take).await.expect("registered");
    let mut told = follow(&place);
    until(&mut told, &[1]).await;
    // While nobody is watching: what happens meanwhile can't be replayed.
    etcd(&mut place).stop();
    until_lost(&mut told).await;
    etcd(&mut place).start_again(Data::Kept);
    let two = claim("two", at(2), LONG);
    place.registry().register(&two, Conflict::Take).await.expect("registered");
    place.registry().withdraw(&two).await.expect("withdrawn");
    let answer = place.etcd().request("POST", "/v3/kv/range", r#"{"key":"eA=="}"#).1;
    let revision =
        answer.split(r#""revision":""#).nth(1).and_then(|rest| rest.split('"').next()).expect("one");
    let compaction = format!(r#"{{"revision":"{revision}","physical":true}}"#);
    assert_eq!(place.etcd().request("POST", "/v3/kv/compaction", &compaction).0, 200);
    until(&mut told, &[1]).await;
    place.registry().register(&claim("three", at(3), LONG), Conflict::Take).await.expect("registered");
    until(&mut told, &[1, 3]).await;
}

/// A link that follows `NAME` in the place, as the wiring of `ensign run` has it.
fn open(place: &Place, balance: Balance, others: &[SocketAddr]) -> (Links, SocketAddr) {
    let mut to = vec![Upstream::Registry(dns_name(NAME).expect("a name"))];
    to.extend(others.iter().map(|other| host(*other)));
    let link = link(to, balance, Duration::from_millis(300));
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let resolver = Resolver::with_files("/nonexistent", "/nonexistent");
    let follow = |name, feed: links::Feed| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let registry: Registry = place.registry();
        Box::pin(async move {
            let tell = |seen| match seen {
                Seen::Instances(instances) => feed.tell(instances),
                Seen::Lost(reason) => drop(feed.lose(reason)),
            };
            registry.follow(&name, tell).await;
        })
    };
    let links = links::open_following(&plan, resolver, &follow).expect("open");
    let address = links.opened[0].places[0].address().expect("an address");
    (links, address)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn a_link_follows_who_is_announced_and_a_list_falls_back_while_nobody_is() {
    let place = Place::dir();
    let (server, other) = (super::Server::at(ip(1)), super::Server::at(ip(2)));
    let (_links, address) = open(&place, Balance::First, &[other.address]);
    assert_eq!(connect(address).1, 2);
    let claim = claim("one", server.address, LONG);
    let (runtime, registry) = (runtime(), place.registry());
    runtime.block_on(registry.register(&claim, Conflict::Take)).expect("registered");
    wait::until_true("the one announced to be found", || connect(address).1 == 1);
    runtime.block_on(registry.withdraw(&claim)).expect("withdrawn");
    wait::until_true("the one withdrawn to be left", || connect(address).1 == 2);
}

#[test]
fn the_best_priority_that_works_is_used_by_weight() {
    let servers = [super::Server::at(ip(1)), super::Server::at(ip(2)), super::Server::at(ip(3))];
    let (links, feed) = {
        let feed = Mutex::new(None);
        let link =
            link(vec![Upstream::Registry(dns_name(NAME).expect("a name"))], Balance::RoundRobin, DEADLINE);
        let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
        let resolver = Resolver::with_files("/nonexistent", "/nonexistent");
        let opened = links::open_following(&plan, resolver, &|_, given| {
            *feed.lock().expect("no panic") = Some(given);
            Box::pin(async {})
        });
        (opened.expect("open"), feed.into_inner().expect("no panic").expect("given"))
    };
    let address = links.opened[0].places[0].address().expect("an address");
    let instance = |server: usize, priority, weight| Instance {
        host: servers[server].address.ip().to_string(),
        port: servers[server].address.port(),
        priority,
        weight,
    };
    feed.tell(vec![instance(0, 20, 100), instance(1, 10, 30), instance(2, 10, 10)]);
    for _ in 0..40 {
        connect(address);
    }
    assert_eq!(servers.each_ref().map(super::Server::taken), [0, 30, 10]);
    feed.lose("gone".to_owned());
    connect(address);
    feed.tell(vec![instance(0, 20, 100)]);
    assert_eq!(connect(address).1, 1);
}

macro_rules! everywhere {
    ($($test:ident)*) => {
        mod v3 { $(#[tokio::test] async fn $test() { super::$test(super::Place::v3()).await; })* }
        mod v2 { $(#[tokio::test] async fn $test() { super::$test(super::Place::v2()).await; })* }
    };
}

everywhere! {
    who_comes_and_goes_is_told
    an_outage_is_told_once_and_followed_from_there
    one_that_lets_nobody_watch_is_asked_now_and_then
    one_that_lets_nobody_watch_is_left_for_one_that_does
}

#[tokio::test]
async fn who_comes_and_goes_in_a_folder_is_told() {
    who_comes_and_goes_is_told(Place::dir()).await;
}
