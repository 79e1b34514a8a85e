//! Bytes by the gibibyte: each one arrives, in its place, whoever is slow; and a client that vanishes in the middle.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::lane::{LINK, Lane, to};
use crate::support::load::connect;
use crate::support::namespace::ran_inside;
use crate::support::process;
use crate::support::server::Rule;
use crate::support::wait;

const GIB: u64 = 1 << 30;

/// Random bytes without end: the same ones for the same seed, each block with its number, so that none can be in the
/// place of another. Made block by block, and compared as they come: nothing is kept.
struct Noise {
    block: Vec<u8>,
    number: u64,
    used: usize,
}

impl Noise {
    fn new(seed: u64) -> Self {
        // A length that fits no buffer's.
        let mut block = vec![0; (1 << 20) + 7];
        fastrand::Rng::with_seed(seed).fill(&mut block);
        let mut noise = Self { block, number: 0, used: 0 };
        noise.stamp();
        noise
    }

    fn stamp(&mut self) {
        self.block[..8].copy_from_slice(&self.number.to_be_bytes());
    }

    /// The next ones, `most` at the most.
    fn next(&self, most: u64) -> &[u8] {
        let rest = &self.block[self.used..];
        &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
    }

    fn advance(&mut self, by: usize) {
        self.used += by;
        if self.used == self.block.len() {
            self.number += 1;
            self.used = 0;
            self.stamp();
        }
    }

    /// Whether these are the next ones.
    fn is(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let next = self.next(bytes.len() as u64);
            let length = next.len();
            if next != &bytes[..length] {
                return false;
            }
            bytes = &bytes[length..];
            self.advance(length);
        }
        true
    }
}

/// Sends so many and closes its half.
fn send(mut stream: TcpStream, seed: u64, length: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut noise, mut left) = (Noise::new(seed), length);
        while left > 0 {
            let sent = stream.write(noise.next(left)).expect("it is open");
            noise.advance(sent);
            left -= sent as u64;
        }
        stream.shutdown(Shutdown::Write).expect("it is open");
    })
}

/// Compares all that comes; gives how much that was.
fn receive(mut stream: TcpStream, seed: u64) -> JoinHandle<u64> {
    thread::spawn(move || {
        let (mut noise, mut buffer, mut length) = (Noise::new(seed), vec![0; 300_000], 0);
        loop {
            let read = stream.read(&mut buffer).expect("it is open");
            if read == 0 {
                return length;
            }
            assert!(noise.is(&buffer[..read]), "other bytes within {read} after {length}");
            length += read as u64;
        }
    })
}

/// An ensign before this.
fn open() -> (Lane, TcpListener) {
    let listener = TcpListener::bind("127.0.1.1:0").expect("bind");
    (Lane::start(&to(&[listener.local_addr().expect("bound")], "round-robin"), ""), listener)
}

/// Both ends of a connection over an ensign.
fn pair() -> (Lane, TcpStream, TcpStream) {
    let (lane, listener) = open();
    let (client, server) = ends(&listener);
    (lane, client, server)
}

fn ends(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(LINK).expect("a connection");
    let (server, _) = listener.accept().expect("ensign connects");
    server.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    server.set_write_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    (client, server)
}

fn again(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a descriptor is free")
}

fn rate(what: &str, bytes: u64, begun: Instant, lane: &Lane) {
    let took = begun.elapsed();
    let mib = (bytes >> 20) as f64;
    println!(
        "{mib} MiB {what} in {took:?}, {:.0} MiB/s, {}0 ms of CPU in ensign",
        mib / took.as_secs_f64(),
        lane.cpu_ticks()
    );
}

#[test]
fn a_gibibyte_arrives_whole_each_way() {
    if ran_inside(a_gibibyte_arrives_whole_each_way) {
        return;
    }
    for (seed, way) in [(1, "up"), (2, "down")] {
        let (lane, client, server) = pair();
        let (from, to) = if way == "up" { (&client, &server) } else { (&server, &client) };
        let begun = Instant::now();
        let received = receive(again(to), seed);
        send(again(from), seed, GIB).join().expect("sent");
        assert_eq!(received.join().expect("received"), GIB);
        rate(way, GIB, begun, &lane);
        // The other half is still open.
        send(again(to), 3, 1000).join().expect("sent");
        assert_eq!(receive(again(from), 3).join().expect("received"), 1000);
    }
}

#[test]
fn a_quarter_of_a_gibibyte_each_way_at_once_arrives_whole() {
    if ran_inside(a_quarter_of_a_gibibyte_each_way_at_once_arrives_whole) {
        return;
    }
    let (lane, client, server) = pair();
    let begun = Instant::now();
    let received = [receive(again(&server), 1), receive(again(&client), 2)];
    let sent = [send(client, 1, GIB / 4), send(server, 2, GIB / 4)];
    sent.into_iter().for_each(|sent| sent.join().expect("sent"));
    assert_eq!(received.map(|received| received.join().expect("received")), [GIB / 4; 2]);
    rate("both ways", GIB / 2, begun, &lane);
}

/// Takes a gulp only when the sender can send no more: every buffer on the way is full, again and again.
#[test]
fn a_reader_that_lets_everything_fill_up_again_and_again_gets_every_byte() {
    if ran_inside(a_reader_that_lets_everything_fill_up_again_and_again_gets_every_byte) {
        return;
    }
    const LENGTH: u64 = 128 << 20;
    for (seed, way) in [(1, "up"), (2, "down")] {
        let (lane, client, server) = pair();
        let (mut from, mut to) = if way == "up" { (client, server) } else { (server, client) };
        from.set_nonblocking(true).expect("it is open");
        let begun = Instant::now();
        let (mut sent, mut got) = (Noise::new(seed), Noise::new(seed));
        let (mut unsent, mut length, mut gulps) = (LENGTH, 0, 0);
        let mut buffer = vec![0; 100_000];
        while length < LENGTH {
            unsent -= fill(&mut from, &mut sent, unsent);
            let read = to.read(&mut buffer).expect("it is open");
            assert!(got.is(&buffer[..read]), "other bytes within {read} after {length}");
            length += read as u64;
            gulps += 1;
        }
        from.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(to.read(&mut buffer).expect("it is open"), 0, "and then the end");
        rate(&format!("{way} in {gulps} gulps"), LENGTH, begun, &lane);
    }
}

/// Sends until no more can be sent, or all is; gives how much that was.
fn fill(to: &mut TcpStream, noise: &mut Noise, most: u64) -> u64 {
    let mut sent = 0;
    while sent < most {
        match to.write(noise.next(most - sent)) {
            Ok(length) => {
                noise.advance(length);
                sent += length as u64;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    sent
}

/// Each end once, while bytes are on their way to it: as long as there are some, it is not the keepalive that finds out
/// but the kernel, which gives up sending (after 15 minutes; here within seconds).
#[test]
fn an_end_that_vanishes_in_the_middle_of_a_stream_ends_the_other() {
    if ran_inside(an_end_that_vanishes_in_the_middle_of_a_stream_ends_the_other) {
        return;
    }
    std::fs::write("/proc/sys/net/ipv4/tcp_retries2", "2").expect("this network is ours");
    let (lane, listener) = open();
    let open = lane.sockets();
    let streams = ["client", "server"].map(|vanishes| {
        let (client, server) = ends(&listener);
        let (gone, mut stays) = if vanishes == "client" { (client, server) } else { (server, client) };
        stays.set_nonblocking(true).expect("it is open");
        let mut noise = Noise::new(1);
        fill(&mut stays, &mut noise, GIB);
        let [peer, own] = [gone.peer_addr(), gone.local_addr()].map(|end| end.expect("it is connected"));
        let cut = Rule::cut(peer, own);
        // It reads, and nobody hears of that any more.
        drop(receive(again(&gone), 1));
        (vanishes, stays, noise, cut)
    });
    let begun = Instant::now();
    for (vanishes, mut stays, mut noise, _cut) in streams {
        let how = wait::until("the other end to fail", || failure(&mut stays, &mut noise));
        println!("a {vanishes} vanished: the other end heard within {:?}", begun.elapsed());
        assert_eq!(how, ErrorKind::ConnectionReset);
    }
    wait::until_true("ensign to let go of all", || lane.sockets() <= open);
}

/// How sending fails, if it does.
fn failure(to: &mut TcpStream, noise: &mut Noise) -> Option<ErrorKind> {
    loop {
        match to.write(noise.next(GIB)) {
            Ok(length) => noise.advance(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => return Some(error.kind()),
        }
    }
}

/// As a container is paused: a splice that is under way then comes back with less than there is room for.
#[test]
fn a_stream_goes_on_however_often_it_is_frozen() {
    if ran_inside(a_stream_goes_on_however_often_it_is_frozen) {
        return;
    }
    let (lane, client, server) = pair();
    let (sender, receiver) = (send(client, 5, 2 * GIB), receive(server, 5));
    for _ in 0..300 {
        if receiver.is_finished() {
            break;
        }
        process::freeze(lane.pid());
        process::send(lane.pid(), Signal::SIGCONT);
        wait::be_late(Duration::from_millis(5));
    }
    sender.join().expect("all was sent");
    assert_eq!(receiver.join().expect("all that came was right"), 2 * GIB);
}
