//! UDP through links: whole datagrams, each answer to who asked, sessions that follow, end, and make room.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Mutex;

use ensign::config::Upstream;
use ensign::config::units::dns_name;
use ensign::links::{Bind, Feed};
use ensign::net::resolve::Instance;
use tokio::sync::oneshot;

use super::*;
use crate::support::lane::{LINK, Lane};
use crate::support::namespace::ran_inside;
use crate::support::wait;

pub mod dns;

/// As long as a lost datagram may keep a test that then sends it again.
const PATIENCE: Duration = Duration::from_millis(200);

fn at(text: &str) -> ListenAt {
    ListenAt::Udp(text.parse().expect("an address"))
}

/// A link for UDP from `listen` to all of `to`.
fn udp(listen: Vec<ListenAt>, to: &[SocketAddr]) -> Link {
    let to = to.iter().map(|to| Upstream::HostPort(HostPort { host: to.ip().to_string(), port: to.port() }));
    Link { listen: Listen::At(listen), to: to.collect(), ..link("127.0.0.1:0", free()) }
}

/// An address that says nothing: only what is asked for in its place counts.
fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

fn open_link(link: &Link) -> (Links, SocketAddr) {
    open_by(link, &Names::new())
}

fn open_by(link: &Link, names: &Names) -> (Links, SocketAddr) {
    let plan = plan_links(&EnvLinks::None, [("web", link)], []);
    let links = links::open(&plan, names.resolver()).expect("open");
    let address = address_of(&links, 0);
    (links, address)
}

/// Answers whatever comes with what it has got, or with its own address.
struct Server {
    address: SocketAddr,
    stop: UdpSocket,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Same,
    Whoami,
}

impl Server {
    fn start(at: &str, answer: Answer) -> Self {
        let socket = UdpSocket::bind(at).expect("bind");
        let address = socket.local_addr().expect("bound");
        let stop = UdpSocket::bind("127.0.0.99:0").expect("bind");
        let end = stop.local_addr().expect("bound");
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).expect("receive");
                if from == end {
                    return;
                }
                let sent = match answer {
                    Answer::Same => socket.send_to(&buffer[..length], from),
                    Answer::Whoami => socket.send_to(address.to_string().as_bytes(), from),
                };
                sent.expect("send");
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let thread = self.thread.take().expect("once");
        // A datagram may get lost, and does where a flood has filled the socket.
        wait::until_true("a server of datagrams to end", || {
            self.stop.send_to(b"", self.address).expect("send");
            thread.is_finished()
        });
        let ended = thread.join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// Connected: it sees nothing that comes from elsewhere.
fn client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).expect("bind");
    socket.connect(to).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// One question, again if it or its answer got lost.
fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    wait::until("an answer", || {
        client.send(question).expect("send");
        try_answer(client)
    })
}

fn try_answer(client: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 1 << 16];
    let length = client.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

fn who(client: &UdpSocket) -> String {
    String::from_utf8(ask(client, b"?")).expect("text")
}

/// The sockets of this machine that are connected to `to`: sessions. One look at the table may miss some while others'
/// sockets come and go.
fn sessions(to: SocketAddr) -> BTreeSet<String> {
    let IpAddr::V4(ip) = to.ip() else { panic!("an IPv4 address") };
    let to = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), to.port());
    let look = |_| {
        let table = std::fs::read_to_string("/proc/self/net/udp").expect("the table");
        let ends = table.lines().map(|line| line.split_whitespace().skip(1).take(2).collect::<Vec<_>>());
        ends.filter(|ends| ends[1] == to).map(|ends| ends[0].to_owned()).collect::<Vec<_>>()
    };
    (0..5).flat_map(look).collect()
}

#[test]
fn datagrams_of_any_size_arrive_whole_and_so_do_the_answers() {
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let link = udp(vec![at("127.0.0.1:0"), at("[::1]:0"), at("0.0.0.0:0")], &[server.address]);
    let (links, _) = open_link(&link);
    let places = links.opened[0].places.clone();
    assert_eq!(places.len(), 3);
    let mut targets: Vec<SocketAddr> = places.iter().map(|at| at.address().expect("one")).collect();
    // Any address of the one that listens at all of them; the answer must come from there.
    for ip in [[127, 0, 0, 1], [127, 0, 0, 7]] {
        targets.push(SocketAddr::from((ip, targets[2].port())));
    }
    targets.remove(2);
    for target in targets {
        let client = client(target);
        for size in [0, 1, 512, 1_472, 9_000, 65_507] {
            let question = noise(size as u64, size);
            assert!(ask(&client, &question) == question, "{size} bytes to {target}");
        }
    }
}

#[test]
fn what_one_client_sends_stays_in_its_order() {
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let (_links, address) = open_link(&udp(vec![at("127.0.0.1:0")], &[server.address]));
    let client = client(address);
    ask(&client, b"there");
    for round in 0..100_u32 {
        let sent: Vec<[u8; 4]> = (0..50).map(|n| (round * 50 + n).to_be_bytes()).collect();
        for number in &sent {
            client.send(number).expect("send");
        }
        // Few enough for every buffer on the way: none is lost.
        let got: Vec<_> = sent.iter().map(|_| try_answer(&client).expect("an answer")).collect();
        assert!(got.iter().zip(&sent).all(|(got, sent)| got == sent), "{got:?}");
    }
}

#[test]
fn a_thousand_clients_at_once_get_their_own_answers() {
    // With ports that nobody else takes meanwhile.
    if ran_inside(a_thousand_clients_at_once_get_their_own_answers) {
        return;
    }
    raise_descriptors();
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let (_links, address) = open_link(&udp(vec![at("127.0.0.1:0")], &[server.address]));
    let clients: Vec<UdpSocket> = (0..1_000).map(|_| client(address)).collect();
    let question = |n: usize| format!("question of client {n}").into_bytes();
    let numbered: Vec<_> = clients.iter().enumerate().collect();
    // As many at a time as the buffers on the way have room for, however late anybody reads them.
    for crowd in numbered.chunks(200) {
        for (n, client) in crowd {
            client.send(&question(*n)).expect("send");
        }
        for (n, client) in crowd {
            let answer = try_answer(client).unwrap_or_else(|| ask(client, &question(*n)));
            assert_eq!(answer, question(*n));
        }
    }
    assert_eq!(sessions(server.address).len(), 1_000);
}

#[test]
fn an_address_that_refuses_gives_way_and_is_used_again_when_it_is_back() {
    // With ports that nobody else takes meanwhile.
    if ran_inside(an_address_that_refuses_gives_way_and_is_used_again_when_it_is_back) {
        return;
    }
    let first = Server::start("127.0.0.1:0", Answer::Whoami);
    let second = Server::start("127.0.0.2:0", Answer::Whoami);
    let (one, two) = (first.address, second.address);
    let link = Link { balance: Balance::First, ..udp(vec![at("127.0.0.1:0")], &[one, two]) };
    let (_links, address) = open_link(&link);
    let of_old = client(address);
    assert_eq!(who(&of_old), one.to_string());
    drop(first);
    // The same client, at the same port: the refusal moves it.
    assert_eq!(who(&of_old), two.to_string());
    assert_eq!(who(&client(address)), two.to_string());
    let _back = Server::start(&one.to_string(), Answer::Whoami);
    wait::until_true("a new client to be at the first again", || who(&client(address)) == one.to_string());
    assert_eq!(who(&of_old), two.to_string(), "moved without a need");
}

#[test]
fn nobody_there_costs_nobody_else_anything_and_is_over_when_somebody_is() {
    // With ports that nobody else takes meanwhile.
    if ran_inside(nobody_there_costs_nobody_else_anything_and_is_over_when_somebody_is) {
        return;
    }
    let gone = Server::start("127.0.0.1:0", Answer::Whoami);
    let there = Server::start("127.0.0.1:0", Answer::Whoami);
    let nowhere = gone.address;
    drop(gone);
    let links = [udp(vec![at("127.0.0.1:0")], &[nowhere]), udp(vec![at("127.0.0.1:0")], &[there.address])];
    let plan = plan_links(&EnvLinks::None, links.iter().map(|link| ("web", link)), []);
    let links = links::open(&plan, Names::new().resolver()).expect("open");
    let [dead, live] = [0, 1].map(|nth| client(links.opened[nth].places[0].address().expect("one")));
    for _ in 0..1_000 {
        dead.send(b"?").expect("send");
    }
    assert_eq!(who(&live), there.address.to_string());
    let _back = Server::start(&nowhere.to_string(), Answer::Whoami);
    assert_eq!(who(&dead), nowhere.to_string());
}

#[test]
fn a_silent_session_ends_and_one_that_is_used_does_not() {
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let idle_timeout = Duration::from_millis(600);
    let link = Link { idle_timeout, ..udp(vec![at("127.0.0.1:0")], &[server.address]) };
    let (_links, address) = open_link(&link);
    let (silent, busy) = (client(address), client(address));
    ask(&silent, b"once");
    ask(&busy, b"once");
    assert_eq!(sessions(server.address).len(), 2);
    let started = Instant::now();
    wait::until_true("the silent one to be forgotten", || {
        ask(&busy, b"again");
        sessions(server.address).len() == 1
    });
    assert!(started.elapsed() > idle_timeout / 2, "{:?}", started.elapsed());
    let kept = sessions(server.address);
    ask(&busy, b"again");
    assert_eq!(sessions(server.address), kept);
    assert_eq!(ask(&silent, b"I am back"), b"I am back");
    wait::until_true("both to be forgotten", || sessions(server.address).is_empty());
}

#[test]
fn a_full_link_forgets_the_client_that_is_silent_for_longest() {
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let link = Link { max_connections: 3.try_into().ok(), ..udp(vec![at("127.0.0.1:0")], &[server.address]) };
    let (_links, address) = open_link(&link);
    let clients: Vec<_> = (0..4).map(|_| client(address)).collect();
    let session_of = |n: usize| {
        let before = sessions(server.address);
        ask(&clients[n], b"?");
        let after = sessions(server.address);
        assert!(after.len() <= 3, "{after:?}");
        after.into_iter().find(|one| !before.contains(one))
    };
    let first: Vec<_> = (0..3).map(|n| session_of(n).expect("a session of its own")).collect();
    assert_eq!(session_of(0), None, "it has one");
    session_of(3).expect("it gets the place of the second");
    let left = sessions(server.address);
    assert!(
        left.contains(&first[0]) && !left.contains(&first[1]) && left.contains(&first[2]),
        "{left:?} of {first:?}"
    );
    // Who was forgotten comes back as a new one.
    session_of(1).expect("a session again");
}

#[test]
fn a_client_that_keeps_its_port_follows_where_its_upstream_goes() {
    let names = Names::new();
    let server = Server::start("127.0.0.11:0", Answer::Whoami);
    let moved = Server::start(&format!("127.0.0.12:{}", server.address.port()), Answer::Whoami);
    names.say("127.0.0.11 db\n");
    let to = vec![Upstream::HostPort(HostPort { host: "db".to_owned(), port: server.address.port() })];
    let (_links, address) = open_by(&Link { to, ..udp(vec![at("127.0.0.1:0")], &[]) }, &names);
    let client = client(address);
    assert_eq!(who(&client), server.address.to_string());
    names.say("127.0.0.12 db\n");
    wait::until_true("the session to follow", || who(&client) == moved.address.to_string());
    // Nobody can be asked: the last good address stays.
    names.say("");
    assert_eq!(who(&client), moved.address.to_string());
}

/// The bytes that wait to be read at `port` of 127.0.0.1.
fn unread(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/udp").expect("the table");
    let end = format!("0100007F:{port:04X}");
    let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&end)).expect("it listens");
    let (_, queue) = line.split_whitespace().nth(4).and_then(|both| both.split_once(':')).expect("queues");
    u64::from_str_radix(queue, 16).expect("a number")
}

#[test]
fn the_first_questions_wait_for_the_first_answer_of_the_source() {
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let name = dns_name("web.s.prod.example.com").expect("a name");
    let link = Link { to: vec![Upstream::Registry(name)], ..udp(vec![at("127.0.0.1:0")], &[]) };
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let (tell, told) = oneshot::channel::<Instance>();
    let told = Mutex::new(Some(told));
    let follow = |_, feed: Feed| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let told = told.lock().expect("one thread").take().expect("one name");
        Box::pin(async move { feed.tell(vec![told.await.expect("told")]) })
    };
    let links = links::open_following(&plan, Names::new().resolver(), &follow).expect("open");
    let address = address_of(&links, 0);
    let clients: Vec<_> = (0..70).map(|_| client(address)).collect();
    for (n, client) in clients.iter().enumerate() {
        client.send(format!("first of {n}").as_bytes()).expect("send");
        client.send(format!("second of {n}").as_bytes()).expect("send");
    }
    wait::until_true("the link to have taken them all", || unread(address.port()) == 0);
    let host = server.address.ip().to_string();
    tell.send(Instance { host, port: server.address.port(), priority: 0, weight: 1 })
        .expect("somebody waits");
    // None is sent again: the first 64 have waited, in their order, and the rest is lost.
    let answers: Vec<Vec<u8>> =
        clients.iter().flat_map(|client| [try_answer(client), try_answer(client)]).flatten().collect();
    let expected = (0..32).flat_map(|n| [format!("first of {n}"), format!("second of {n}")]);
    assert_eq!(answers, expected.map(String::into_bytes).collect::<Vec<_>>());
}

#[test]
fn a_link_to_its_own_port_is_no_storm() {
    // With ports that nobody else takes meanwhile.
    if ran_inside(a_link_to_its_own_port_is_no_storm) {
        return;
    }
    for listen in ["127.0.0.1", "0.0.0.0"] {
        let port = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port();
        let own = SocketAddr::from(([127, 0, 0, 1], port));
        let (_links, address) = open_link(&udp(vec![at(&format!("{listen}:{port}"))], &[own]));
        assert_eq!(address.port(), port);
        let client = client(own);
        client.send(b"?").expect("send");
        assert_eq!(try_answer(&client), None);
        assert_eq!(sessions(own).len(), 1, "the client alone");
    }
}

#[test]
fn dockers_udp_ports_are_open_on_both_loopbacks_and_named_when_they_are_taken() {
    // With ports that nobody else takes meanwhile.
    if ran_inside(dockers_udp_ports_are_open_on_both_loopbacks_and_named_when_they_are_taken) {
        return;
    }
    let server = Server::start("127.0.0.11:0", Answer::Whoami);
    let port = free_port();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port();
    let _holder = UdpSocket::bind(("127.0.0.1", taken)).expect("bind");
    let plan = plan_env(&format!(
        "NS_PORT_{port}_UDP=udp://{} NS_NAME=/web/ns NS_PORT_{taken}_UDP=udp://127.0.0.11:53",
        server.address
    ));
    assert!(plan.forwards.iter().all(|forward| matches!(forward.listen, Bind::Loopback(..))));
    let names = Names::new();
    let links = links::open(&plan, names.resolver()).expect("open");
    let places: Vec<String> = links.opened[0].places.iter().map(ToString::to_string).collect();
    assert_eq!(places, [format!("127.0.0.1:{port}/udp"), format!("[::1]:{port}/udp")]);
    for place in &links.opened[0].places {
        assert_eq!(who(&client(place.address().expect("one"))), server.address.to_string());
    }
    let error = links.skipped[0].to_string();
    assert!(error.starts_with(&format!("NS: cannot listen on 127.0.0.1:{taken}/udp: ")), "{error}");
    assert!(error.contains(&format!("(pid {}) listens there", std::process::id())), "{error}");
}

#[test]
fn an_open_session_does_not_hold_up_the_end() {
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let (links, address) = open_link(&udp(vec![at("127.0.0.1:0")], &[server.address]));
    ask(&client(address), b"once");
    let begun = Instant::now();
    links.finish(DEADLINE);
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
}

#[test]
fn an_address_of_a_family_that_is_switched_off_is_passed_by() {
    if ran_inside(an_address_of_a_family_that_is_switched_off_is_passed_by) {
        return;
    }
    without_ipv6();
    let server = Server::start("127.0.0.1:0", Answer::Same);
    let nowhere = format!("[2001:db8::1]:{}", server.address.port()).parse().expect("an address");
    let (_links, address) = open_link(&udp(vec![at("127.0.0.1:0")], &[nowhere, server.address]));
    let clients: Vec<_> = (0..10).map(|_| client(address)).collect();
    for client in &clients {
        client.send(b"first").expect("send");
        assert_eq!(try_answer(client).as_deref(), Some(&b"first"[..]), "not one is lost");
    }
    assert_eq!(sessions(server.address).len(), clients.len(), "and nobody has lost a session");
}

/// A flood that comes while the sources are asked: what waits and what does not is all of one session.
#[test]
fn a_client_that_floods_during_a_look_up_has_one_session() {
    if ran_inside(a_client_that_floods_during_a_look_up_has_one_session) {
        return;
    }
    let server = Server::start("127.0.2.1:0", Answer::Same);
    let name_server = "127.0.0.1:53".parse().expect("an address");
    let names = Names::new();
    names.ask(name_server);
    let mut name_server = dns::NameServer::saying(name_server, "127.0.2.1 n0.test\n", 0);
    let mut link = udp(vec![at("127.0.0.1:0")], &[]);
    link.to = vec![Upstream::HostPort(HostPort { host: "n0.test".to_owned(), port: server.address.port() })];
    let (_links, address) = open_by(&link, &names);
    assert_eq!(ask(&client(address), b"?"), b"?");
    name_server.freeze();
    // The next datagram finds the last answer too old.
    wait::be_late(Duration::from_millis(1_100));
    let flooding = client(address);
    for n in 0..200_u8 {
        flooding.send(&[n]).expect("send");
    }
    let answers: Vec<_> = (0..200).map(|_| try_answer(&flooding).expect("an answer")).collect();
    assert_eq!(answers, (0..200_u8).map(|n| vec![n]).collect::<Vec<_>>());
    assert_eq!(sessions(server.address).len(), 2);
}

/// A collector of statistics or of logs never says a word.
#[test]
fn an_upstream_that_never_answers_is_back_when_it_refuses_nothing_any_more() {
    if ran_inside(an_upstream_that_never_answers_is_back_when_it_refuses_nothing_any_more) {
        return;
    }
    let there = UdpSocket::bind("127.0.1.1:0").expect("bind");
    let to = there.local_addr().expect("bound");
    drop(there);
    let lane = Lane::start(&format!("listen = '127.0.0.1:7000/udp'\nto = '{to}'\n"), "");
    let client = client(LINK);
    for round in 1..=2 {
        wait::until_true("the refusals to be told", || {
            client.send(b"lost").expect("send");
            lane.logged("datagrams are dropped") == round
        });
        let there = UdpSocket::bind(to).expect("bind");
        wait::until_true("it to be told that it is back", || {
            client.send(b"taken").expect("send");
            lane.logged("takes datagrams again") == round
        });
        drop(there);
    }
}
