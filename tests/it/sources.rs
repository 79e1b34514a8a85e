//! Where links lead: several addresses, some of them dead, behind one link. Real sockets on loopback addresses.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ensign::config::{Balance, EnvLinks, HostPort, Link, Listen, ListenAt, Upstream};
use ensign::links::{self, Links, plan_links};
use ensign::net::resolve::Resolver;
use socket2::{Domain, Socket, Type};

use crate::support::wait;

mod places;
mod registry;

/// For anything that must happen: generous, never the measure of anything.
const DEADLINE: Duration = Duration::from_secs(30);

fn host(address: SocketAddr) -> Upstream {
    Upstream::HostPort(HostPort { host: address.ip().to_string(), port: address.port() })
}

fn link(to: Vec<Upstream>, balance: Balance, connect_timeout: Duration) -> Link {
    let listen = Listen::At(vec![ListenAt::Tcp("127.0.0.1:0".parse().expect("an address"))]);
    Link {
        name: "x".to_owned(),
        listen,
        to,
        balance,
        connect_timeout,
        max_connections: None,
        idle_timeout: connect_timeout,
        wait: None,
        export: false,
    }
}

fn open(link: &Link) -> (Links, SocketAddr) {
    let plan = plan_links(&EnvLinks::None, [("web", link)], []);
    let links = links::open(&plan, Resolver::with_files("/nonexistent", "/nonexistent")).expect("open");
    let address = links.opened[0].places[0].address().expect("an address");
    (links, address)
}

/// Sends its own last byte to whoever connects, then waits for the client's end.
struct Server {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
}

impl Server {
    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let address = listener.local_addr().expect("bound");
        let IpAddr::V4(ip) = address.ip() else { panic!("IPv4") };
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let name = ip.octets()[3];
                thread::spawn(move || {
                    let _sent = stream.write_all(&[name]);
                    let _end = stream.read(&mut [0]);
                });
            }
        });
        Self { address, taken }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

fn ip(last: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 1, last), 0).into()
}

/// A connection through the link, and which server it has come to.
fn connect(link: SocketAddr) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(link).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut name = [0];
    stream.read_exact(&mut name).expect("a server answers");
    (stream, name[0])
}

/// An address that answers no connection at all: its queue is full, and nobody takes from it.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _fillers: Vec<TcpStream>,
}

impl BlackHole {
    fn new(last: u8) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&ip(last).into()).expect("bind");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().expect("bound").as_socket().expect("IP");
        let mut fillers = Vec::new();
        while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            fillers.push(filler);
        }
        Self { address, _listener: listener, _fillers: fillers }
    }
}

fn refusing() -> SocketAddr {
    TcpListener::bind(ip(9)).expect("bind").local_addr().expect("bound")
}

#[test]
fn connections_take_turns_and_pass_a_refusing_address_by() {
    let servers = [Server::at(ip(1)), Server::at(ip(2))];
    let to = vec![host(servers[0].address), host(refusing()), host(servers[1].address)];
    let (_links, address) = open(&link(to, Balance::RoundRobin, DEADLINE));
    let came_to: Vec<u8> = (0..200).map(|_| connect(address).1).collect();
    let count = |name| came_to.iter().filter(|other| **other == name).count();
    assert_eq!(count(1) + count(2), 200);
    assert!(count(1).abs_diff(count(2)) <= 10, "{came_to:?}");
}

#[test]
fn the_second_is_used_only_while_the_first_takes_no_connection() {
    let free = TcpListener::bind(ip(1)).expect("bind").local_addr().expect("bound");
    let second = Server::at(ip(2));
    let (_links, address) = open(&link(vec![host(free), host(second.address)], Balance::First, DEADLINE));
    for _ in 0..20 {
        assert_eq!(connect(address).1, 2);
    }
    let _first = Server::at(free);
    wait::until_true("the first to be found again", || connect(address).1 == 1);
    for _ in 0..20 {
        assert_eq!(connect(address).1, 1);
    }
}

#[test]
fn the_least_busy_is_next() {
    let servers = [Server::at(ip(1)), Server::at(ip(2)), Server::at(ip(3))];
    let to = servers.iter().map(|server| host(server.address)).collect();
    let (links, address) = open(&link(to, Balance::LeastConnections, DEADLINE));
    let mut open: Vec<_> = (0..30).map(|_| connect(address)).collect();
    assert_eq!(servers.each_ref().map(Server::taken), [10, 10, 10]);
    // Those of one end; the next ones all go there.
    open.retain(|(_, name)| *name != 2);
    let gone = servers[1].address.to_string();
    wait::until_true("the end of its connections to be seen", || {
        let places = links.opened[0].counters.places();
        places.iter().any(|(name, place)| *name == gone && place.open.load(Ordering::Relaxed) == 0)
    });
    let before = servers.each_ref().map(Server::taken);
    open.extend((0..5).map(|_| connect(address)));
    let after = servers.each_ref().map(Server::taken);
    assert_eq!([0, 1, 2].map(|server| after[server] - before[server]), [0, 5, 0]);
}

/// Each time that the dead address is tried costs a connection the whole attempt: set aside, it is tried so rarely that
/// hundreds of connections pay for it a few times.
#[test]
fn an_address_that_drops_everything_does_not_cost_every_connection_its_timeout() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let hole = BlackHole::new(8);
    let server = Server::at(ip(1));
    let to = vec![host(hole.address), host(server.address)];
    for balance in [Balance::First, Balance::RoundRobin, Balance::LeastConnections] {
        let (_links, address) = open(&link(to.clone(), balance, TIMEOUT));
        let slow = (0..400).filter(|_| {
            let begun = Instant::now();
            assert_eq!(connect(address).1, 1);
            begun.elapsed() >= TIMEOUT
        });
        let slow = slow.count();
        assert!((1..=5).contains(&slow), "{balance:?}: {slow} of 400 paid for it");
    }
}
