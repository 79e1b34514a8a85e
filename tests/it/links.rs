//! Links with real sockets on loopback addresses: what one end does the other must see, and nothing else.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ensign::config::{Balance, EnvLinks, HostPort, Link, Listen, ListenAt, Upstream};
use ensign::links::{self, Links, Plan, plan_links};
use ensign::net::resolve::Resolver;
use ensign::sys::socket::unacknowledged;
use socket2::{SockRef, Socket};

use crate::support::server::echo;

mod end;
mod hazards;
mod reach;
mod streams;
mod udp;
mod unix;

/// For anything that must happen: generous, never the measure of anything.
const DEADLINE: Duration = Duration::from_secs(30);

/// A name server nowhere, and a hosts file of our own.
struct Names(tempfile::TempDir);

impl Names {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn hosts(&self) -> PathBuf {
        self.0.path().join("hosts")
    }

    fn say(&self, text: &str) {
        std::fs::write(self.hosts(), text).expect("write the hosts file");
    }

    /// A name server somewhere, at port 53.
    fn ask(&self, server: SocketAddr) {
        std::fs::write(self.0.path().join("resolv.conf"), format!("nameserver {}\n", server.ip()))
            .expect("write");
    }

    fn resolver(&self) -> Resolver {
        Resolver::with_files(self.hosts(), self.0.path().join("resolv.conf"))
    }
}

fn link(listen: &str, to: SocketAddr) -> Link {
    Link {
        name: "x".to_owned(),
        listen: Listen::At(vec![ListenAt::Tcp(listen.parse().expect("an address"))]),
        to: vec![Upstream::HostPort(HostPort { host: to.ip().to_string(), port: to.port() })],
        balance: Balance::RoundRobin,
        connect_timeout: DEADLINE,
        max_connections: None,
        idle_timeout: DEADLINE,
        wait: None,
        export: false,
    }
}

/// An open link from any port of 127.0.0.1 to `to`.
fn open(to: SocketAddr) -> (Links, SocketAddr) {
    let link = link("127.0.0.1:0", to);
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let links = links::open(&plan, Names::new().resolver()).expect("open");
    let address = address_of(&links, 0);
    (links, address)
}

/// Where the first forward listens, by the order of its places.
fn address_of(links: &Links, place: usize) -> SocketAddr {
    links.opened[0].places[place].address().expect("an address")
}

/// With a queue for any crowd that comes here: beyond it, the kernel may reset whom it has let in by a SYN cookie.
fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.2:0").expect("bind");
    SockRef::from(&listener).listen(4096).expect("a longer queue");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    bounded(&stream);
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    SockRef::from(listener).set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let (stream, _) = listener.accept().expect("accept");
    bounded(&stream);
    stream
}

/// A test that waits for what never comes fails by this.
fn bounded(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
}

/// A link and both of its ends.
fn pair() -> (Links, TcpStream, TcpStream) {
    let (listener, to) = listen();
    let (links, address) = open(to);
    let client = connect(address);
    let server = accept(&listener);
    (links, client, server)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
}

fn is_reset(result: io::Result<usize>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn read_end(stream: &mut TcpStream) -> io::Result<usize> {
    stream.read(&mut [0; 64])
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");
}

#[test]
fn megabytes_both_ways_at_once_are_the_same_bytes() {
    let (_links, client, server) = pair();
    let (up, down) = (noise(1, 5 << 20), noise(2, 3 << 20));
    let expected = (checksum(&up), checksum(&down));
    let send = |stream: &TcpStream, bytes: Vec<u8>| {
        let mut stream = stream.try_clone().expect("clone");
        thread::spawn(move || {
            stream.write_all(&bytes).expect("write");
            stream.shutdown(Shutdown::Write).expect("close");
        })
    };
    let receive = |mut stream: TcpStream| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("read");
            checksum(&bytes)
        })
    };
    let sends = [send(&client, up), send(&server, down)];
    let received = (receive(server), receive(client));
    sends.into_iter().for_each(|send| send.join().expect("sent"));
    assert_eq!((received.0.join().expect("up"), received.1.join().expect("down")), expected);
}

#[test]
fn a_reply_may_come_long_after_the_client_half_closed() {
    let (_links, mut client, mut server) = pair();
    client.write_all(b"question").expect("write");
    client.shutdown(Shutdown::Write).expect("close");
    let mut question = String::new();
    server.read_to_string(&mut question).expect("read to the end");
    assert_eq!(question, "question");
    // Not a wait for a fact: the pause is what is tested. Peers cut the reply after 0 to 0.5 s.
    thread::park_timeout(Duration::from_secs(2));
    server.write_all(b"answer").expect("write");
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("read to the end");
    assert_eq!(answer, "answer");
}

#[test]
fn a_server_may_half_close_first() {
    let (_links, mut client, mut server) = pair();
    server.write_all(b"greeting").expect("write");
    server.shutdown(Shutdown::Write).expect("close");
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).expect("read to the end");
    assert_eq!(greeting, "greeting");
    client.write_all(b"thanks").expect("write");
    drop(client);
    let mut thanks = String::new();
    server.read_to_string(&mut thanks).expect("read to the end");
    assert_eq!(thanks, "thanks");
}

#[test]
fn a_reset_is_a_reset_at_the_other_end_and_comes_after_the_bytes() {
    let (_links, mut client, mut server) = pair();
    server.write_all(b"last words").expect("write");
    let mut words = [0; 10];
    client.read_exact(&mut words).expect("read");
    reset(server);
    assert!(is_reset(read_end(&mut client)));

    // At once: the link may still be at connecting, or have only just done it.
    for _ in 0..50 {
        let (_links, client, mut server) = pair();
        reset(client);
        assert!(is_reset(read_end(&mut server)));
    }
}

/// A link and both of its ends, the client's with so small a buffer that the link is soon stuck with an answer.
fn pair_with_a_narrow_client() -> (Links, TcpStream, TcpStream) {
    let (listener, to) = listen();
    let (links, address) = open(to);
    let client = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    client.set_recv_buffer_size(4096).expect("a small buffer");
    client.connect(&address.into()).expect("connect");
    let client = TcpStream::from(client);
    bounded(&client);
    let server = accept(&listener);
    (links, client, server)
}

/// Sends until the link is stuck, all its buffers full. Gives what the link's end has acknowledged: the server may
/// believe that the client will get all this, whatever the server does next.
fn answer(server: &mut TcpStream) -> Vec<u8> {
    let mut bytes = noise(3, 64 << 20);
    let written = fill(server, &bytes);
    bytes.truncate(written - unacknowledged(server).expect("ask"));
    assert!(bytes.len() > 100_000, "the link took {} bytes", bytes.len());
    bytes
}

/// The client gets all of `expected` before whatever ends its connection.
fn is_received(client: &mut TcpStream, expected: &[u8]) -> bool {
    // Quick from here on: there is a limit to how long the link waits for a slow one.
    SockRef::from(&*client).set_recv_buffer_size(4 << 20).expect("a large buffer");
    let mut got = vec![0; expected.len()];
    client.read_exact(&mut got).expect("all of it");
    got == expected
}

#[test]
fn what_came_before_a_reset_is_not_lost() {
    // An HTTP server that answers early and closes with a part of the request unread does just this.
    let (_links, mut client, mut server) = pair_with_a_narrow_client();
    client.write_all(b"never read").expect("write");
    server.peek(&mut [0]).expect("the request has come");
    let answer = answer(&mut server);
    drop(server);
    assert!(is_received(&mut client, &answer));
    assert_eq!(client.read_to_end(&mut Vec::new()).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (_links, mut client, mut server) = pair_with_a_narrow_client();
    // The link is in the middle of writing to the server when that goes.
    fill(&mut client, &noise(7, 64 << 20));
    let answer = answer(&mut server);
    drop(server);
    assert!(is_received(&mut client, &answer));
    assert_eq!(client.read_to_end(&mut Vec::new()).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_answer_reaches_a_client_that_sends_to_a_server_that_has_closed() {
    let (_links, mut client, mut server) = pair_with_a_narrow_client();
    let answer = answer(&mut server);
    let ends = [server.peer_addr(), server.local_addr()].map(|end| end.expect("an address").port());
    drop(server);
    // The first write is answered with a reset, the second can't be passed on.
    client.write_all(b"more").expect("write");
    wait_until("the link's connection to the server has been reset", || !is_in_kernel_table(ends));
    // Fails when the link was quick to tell; what has come before must still be there.
    let _ = client.write_all(b"and more");
    assert!(is_received(&mut client, &answer));
}

/// Whether the kernel knows a TCP connection between these ports, seen from the first.
fn is_in_kernel_table(ends: [u16; 2]) -> bool {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the table");
    let ends = ends.map(|port| format!(":{port:04X}"));
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        ends.iter().all(|end| words.next().is_some_and(|word| word.ends_with(end)))
    })
}

#[test]
fn a_reset_after_a_half_close_passes_too() {
    let (_links, client, mut server) = pair();
    client.shutdown(Shutdown::Write).expect("close");
    assert_eq!(read_end(&mut server).expect("the end"), 0);
    // The client is gone while the server still thinks: as on a direct connection, it need not write to know.
    // (EPIPE is what the kernel calls a reset of a side that has been closed already.)
    reset(client);
    wait_until("the server's socket has failed", || {
        server.take_error().expect("ask").is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    });
}

#[test]
fn refused_is_a_reset_not_an_empty_answer() {
    let (listener, to) = listen();
    drop(listener);
    let (_links, address) = open(to);
    for _ in 0..3 {
        let mut client = connect(address);
        assert!(is_reset(read_end(&mut client)));
    }
}

#[test]
fn a_name_that_nobody_knows_is_a_reset_and_works_once_it_is_known() {
    let names = Names::new();
    let (listener, to) = listen();
    let mut link = link("127.0.0.1:0", to);
    link.to = vec![Upstream::HostPort(HostPort { host: "db".to_owned(), port: to.port() })];
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let links = links::open(&plan, names.resolver()).expect("open");
    let address = address_of(&links, 0);
    assert!(is_reset(read_end(&mut connect(address))));
    names.say(&format!("{} db\n", to.ip()));
    let client = connect(address);
    accept(&listener);
    drop(client);
}

/// Writes until the other end has taken no more for a while.
fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(length) => written += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    written
}

#[test]
fn a_reader_that_does_not_read_stops_the_writer_and_loses_nothing() {
    let (_links, mut client, mut server) = pair();
    // Small buffers at both ends, so that what the link holds shows.
    SockRef::from(&client).set_send_buffer_size(64 << 10).expect("a buffer");
    let bytes = noise(4, 64 << 20);
    let written = fill(&mut client, &bytes);
    // The kernel's buffers of two connections; what the link itself holds is one scratch buffer.
    assert!(written < 24 << 20, "{written} bytes went into the link while nobody read");
    let expected = checksum(&bytes[..written]);
    client.shutdown(Shutdown::Write).expect("close");
    let mut got = Vec::new();
    server.read_to_end(&mut got).expect("read");
    assert_eq!((got.len(), checksum(&got)), (written, expected));
}

#[test]
fn a_client_that_resets_while_the_server_reads_nothing_ends_the_connection() {
    let (_links, mut client, server) = pair();
    fill(&mut client, &noise(5, 64 << 20));
    reset(client);
    // The server hears of it although it reads nothing, so that the link is stuck with bytes for it.
    wait_until("the server's socket has failed", || {
        server.take_error().expect("ask").is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
    });
}

#[test]
fn a_client_that_gives_up_while_connecting_stops_the_attempt() {
    // A listener with a full queue: the link's own connection attempt hangs.
    let listener = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.2:0".parse().expect("an address");
    listener.bind(&any.into()).expect("bind");
    listener.listen(0).expect("listen");
    let to = listener.local_addr().expect("bound").as_socket().expect("an IP address");
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&to, Duration::from_millis(300)) {
        fillers.push(filler);
        assert!(fillers.len() < 100, "the queue never fills");
    }
    let mut patient = link("127.0.0.1:0", to);
    patient.connect_timeout = 10 * DEADLINE;
    let plan = plan_links(&EnvLinks::None, [("web", &patient)], []);
    let links = links::open(&plan, Names::new().resolver()).expect("open");
    let before = descriptors();
    let client = connect(address_of(&links, 0));
    wait_until("the link has accepted and tries", || descriptors() >= before + 3);
    reset(client);
    wait_until("the link has let go", || descriptors() == before);
}

/// Our own open sockets; the link's are among them. nextest runs each test in a process of its own.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our descriptors").count()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_thousand_connections_at_once() {
    raise_descriptors();
    let (listener, to) = listen();
    echo(listener);
    let (links, address) = open(to);
    let before = descriptors();
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| connect(address)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(&number.to_be_bytes()).expect("write");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = [0; 8];
        client.read_exact(&mut answer).expect("read");
        assert_eq!(answer, number.to_be_bytes());
    }
    drop(clients);
    wait_until("every descriptor is closed again", || descriptors() == before);
    drop(links);
}

#[test]
fn a_request_in_two_segments_waits_for_no_acknowledgement() {
    let (_links, mut client, mut server) = pair();
    client.set_nodelay(true).expect("nodelay");
    server.set_nodelay(true).expect("nodelay");
    let start = Instant::now();
    let mut both = [0; 2];
    for _ in 0..50 {
        // The second goes off when the link has passed on the first, and nobody has answered it.
        client.write_all(b"a").expect("write");
        server.peek(&mut both).expect("the first");
        client.write_all(b"b").expect("write");
        server.read_exact(&mut both).expect("read");
        server.write_all(b"c").expect("write");
        client.peek(&mut both).expect("the first");
        server.write_all(b"d").expect("write");
        client.read_exact(&mut both).expect("read");
    }
    // With Nagle's algorithm on either side of the link each round costs a delayed acknowledgement: 40 ms.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?} for 50 rounds", start.elapsed());
}

fn variables(text: &str) -> Vec<(OsString, OsString)> {
    let lines = text.split_whitespace().map(|line| line.split_once('=').expect("NAME=value"));
    lines.map(|(name, value)| (name.into(), value.into())).collect()
}

/// A port that is free on every loopback address now.
fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").expect("bind").local_addr().expect("bound").port()
}

fn peer_at(ip: &str, port: u16) -> TcpListener {
    TcpListener::bind((ip.parse::<IpAddr>().expect("an address"), port)).expect("bind the peer")
}

fn plan_env(text: &str) -> Plan {
    let plan = plan_links(&EnvLinks::All, [], variables(text));
    assert_eq!(plan.notices, []);
    plan
}

#[test]
fn a_peer_that_moves_is_followed_and_its_old_address_never_used() {
    let names = Names::new();
    let port = free_port();
    let peers = ["127.0.0.11", "127.0.0.12", "127.0.0.13"].map(|ip| peer_at(ip, port));
    let variables = format!("MY_DB_PORT_{port}_TCP=tcp://127.0.0.11:{port} MY_DB_NAME=/web/my-db");
    let links = links::open(&plan_env(&variables), names.resolver()).expect("open");
    assert_eq!(links.opened[0].places.len(), 2, "127.0.0.1 and [::1]");

    let through = |listen: SocketAddr, peer: &TcpListener| {
        let mut client = connect(listen);
        let mut server = accept(peer);
        server.write_all(b"here").expect("write");
        let mut word = [0; 4];
        client.read_exact(&mut word).expect("read");
        (client, server)
    };
    let [v4, v6] = [0, 1].map(|at| address_of(&links, at));
    let mut first = through(v4, &peers[0]);
    names.say("127.0.0.12 my-db");
    through(v4, &peers[1]);
    through(v6, &peers[1]);
    names.say("127.0.0.13\tMY-db\n");
    through(v4, &peers[2]);
    // Docker truncates the file before it writes it.
    names.say("");
    through(v4, &peers[2]);
    // The connection of old was left alone.
    first.0.write_all(b"still").expect("write");
    let mut word = [0; 5];
    first.1.read_exact(&mut word).expect("read");

    // A link that opens now learns the entry at once, so that it too can't be misled by a moment without one.
    drop(links);
    names.say("127.0.0.13 my-db\n");
    let links = links::open(&plan_env(&variables), names.resolver()).expect("open");
    let v4 = address_of(&links, 0);
    names.say("");
    through(v4, &peers[2]);

    // The peer is down at its new address, and somebody listens at the old one.
    names.say("127.0.0.14 my-db\n");
    assert!(is_reset(read_end(&mut connect(v4))));
    peers[0].set_nonblocking(true).expect("not blocking");
    assert_eq!(peers[0].accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_port_in_use_costs_a_variable_its_link_and_names_the_holder() {
    let port = free_port();
    let other = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", port)).expect("bind");
    let variables =
        format!("A_PORT_{port}_TCP=tcp://127.0.0.2:{port} A_PORT_{other}_TCP=tcp://127.0.0.2:{other}");
    let links = links::open(&plan_env(&variables), Names::new().resolver()).expect("open");
    assert_eq!(links.opened.len(), 1);
    assert_eq!(address_of(&links, 0).port(), other);
    let error = links.skipped[0].to_string();
    assert!(error.starts_with(&format!("A: cannot listen on 127.0.0.1:{port}: ")), "{error}");
    assert!(error.contains(&format!("(pid {}) listens there", std::process::id())), "{error}");
    // All or nothing: the other family's half is not open either.
    assert_eq!(TcpStream::connect(("::1", port)).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_port_in_use_is_an_error_for_a_link_of_a_file_and_nothing_is_open() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = holder.local_addr().expect("bound");
    let (_server, to) = listen();
    let free = free_port();
    let links = [link(&format!("127.0.0.1:{free}"), to), link(&taken.to_string(), to)];
    let plan = plan_links(&EnvLinks::None, links.iter().map(|link| ("web", link)), []);
    let errors = links::open(&plan, Names::new().resolver()).expect_err("refused");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().starts_with(&format!("link `x` of web: cannot listen on {taken}: ")));
    TcpListener::bind(("127.0.0.1", free)).expect("nothing of the plan stays open");
}

#[test]
fn without_links_there_is_no_thread_and_with_them_two() {
    let threads = || std::fs::read_dir("/proc/self/task").expect("our threads").count();
    let before = threads();
    let links = links::open(&Plan::default(), Names::new().resolver()).expect("open");
    assert_eq!((threads(), links.opened.len()), (before, 0));
    let (_listener, to) = listen();
    let (links, address) = open(to);
    // One that relays, and one for what takes time.
    assert_eq!(threads(), before + 2);
    drop(links);
    assert_eq!(threads(), before);
    assert_eq!(TcpStream::connect(address).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn short_of_descriptors_the_link_waits_without_a_spin_and_recovers() {
    use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
    use nix::sys::time::TimeValLike;
    let (listener, to) = listen();
    echo(listener);
    let (_links, address) = open(to);
    let mut early = connect(address);
    early.write_all(b"a").expect("write");
    early.read_exact(&mut [0]).expect("read");
    let waiting = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, descriptors() as u64, hard).expect("lower the limit");
    let mut fillers = Vec::new();
    while let Ok(filler) = std::fs::File::open("/dev/null") {
        fillers.push(filler);
    }
    // The kernel completes the connection; nobody can accept it.
    waiting.connect(&address.into()).expect("connect");
    waiting.send(b"b").expect("send");
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("our usage");
        usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds()
    };
    let before = cpu();
    // The pause is what is tested: a spin would burn all of it.
    thread::park_timeout(Duration::from_secs(1));
    let spent = cpu() - before;
    assert!(spent < 300, "{spent} ms of CPU in 1 s");
    // What is open goes on.
    early.write_all(b"a").expect("write");
    early.read_exact(&mut [0]).expect("read");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("restore the limit");
    let mut waiting = TcpStream::from(waiting);
    bounded(&waiting);
    waiting.read_exact(&mut [0]).expect("served at last");
}

/// In a network of this test's own.
fn without_ipv6() {
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("the network is ours");
}
