//! The users of UDP links: resolvers. Thousands of them at once, with a real name server behind the link, or two.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

const NAMES: u16 = 3_000;

/// A dnsmasq that knows `n0.test` to `n2999.test`; its answers tell which server it is and which name was asked for.
pub struct NameServer {
    at: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl NameServer {
    fn start(at: SocketAddr, number: u8) -> Self {
        let mut hosts = String::new();
        for n in 0..NAMES {
            let ip = address_of_name(number, n);
            writeln!(hosts, "{}.{}.{}.{} n{n}.test", ip[0], ip[1], ip[2], ip[3]).expect("to memory");
        }
        Self::saying(at, &hosts, 0)
    }

    /// What this hosts file says, `n0.test` in it, good for so many seconds.
    pub fn saying(at: SocketAddr, hosts: &str, ttl: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("hosts");
        std::fs::write(&file, hosts).expect("write");
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-hosts",
                "--no-resolv",
                "--pid-file=",
            ])
            .args(["--bind-interfaces", "--user=root", "--cache-size=10000", "--log-facility=/dev/null"])
            .arg(format!("--listen-address={}", at.ip()))
            .arg(format!("--port={}", at.port()))
            .arg(format!("--local-ttl={ttl}"))
            .arg(format!("--addn-hosts={}", file.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("dnsmasq starts (Debian: dnsmasq-base)");
        let server = Self { at, child, _folder: folder };
        let client = client(at);
        wait::until_true("dnsmasq to answer", || {
            // Refused for as long as it is not there.
            client.send(&question(1, 0)).is_ok() && try_answer(&client).is_some()
        });
        server
    }

    /// It takes questions, and answers none.
    pub fn freeze(&mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGSTOP).expect("it is our child");
    }

    fn stop(mut self) -> SocketAddr {
        self.end();
        self.at
    }

    fn end(&mut self) {
        let _ended_before = self.child.kill();
        self.child.wait().expect("it is our child");
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn address_of_name(server: u8, n: u16) -> [u8; 4] {
    let [high, low] = n.to_be_bytes();
    [10, server, high, low]
}

fn question(id: u16, n: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [format!("n{n}"), "test".to_owned()] {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.bytes());
    }
    // The root, then A and IN.
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Checks that `answer` is one to this very question, and gives the server's number.
fn server_of(answer: &[u8], id: u16, n: u16) -> u8 {
    let question = question(id, n);
    assert_eq!(answer[..2], question[..2], "another's id");
    assert_eq!(answer[12..question.len()], question[12..], "another's name");
    let address: [u8; 4] = answer[answer.len() - 4..].try_into().expect("four bytes");
    assert_eq!(address, address_of_name(address[1], n), "another's address");
    address[1]
}

/// Everybody asks at once; who gets no answer asks again, as resolvers do. How many each server answered.
fn all_ask(clients: &[UdpSocket], first_id: u16) -> [usize; 2] {
    let id = |n: usize| first_id.wrapping_add(u16::try_from(n).expect("few"));
    let mut answered = vec![None; clients.len()];
    wait::until_true("everybody to be answered", || {
        for (n, client) in clients.iter().enumerate().filter(|(n, _)| answered[*n].is_none()) {
            client.send(&question(id(n), n as u16)).expect("send");
        }
        // Until nothing has come for a while: the rest is lost, in whoever's full buffer.
        let mut last = Instant::now();
        while last.elapsed() < PATIENCE && answered.contains(&None) {
            for (n, client) in clients.iter().enumerate() {
                while let (None, Some(answer)) = (answered[n], try_answer(client)) {
                    last = Instant::now();
                    // A late answer to what the client asked before is its own too.
                    if answer[..2] == id(n).to_be_bytes() {
                        answered[n] = Some(server_of(&answer, id(n), n as u16));
                    }
                }
            }
        }
        answered.iter().all(Option::is_some)
    });
    [1, 2].map(|server| answered.iter().filter(|one| **one == Some(server)).count())
}

/// A client that does not wait for an answer.
fn quick(to: SocketAddr) -> UdpSocket {
    let client = client(to);
    client.set_nonblocking(true).expect("not blocking");
    client
}

fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port()
}

#[test]
fn thousands_of_resolvers_at_once_get_their_own_answers_while_servers_come_and_go() {
    raise_descriptors();
    let port = free_udp_port();
    let at_ip = |last| SocketAddr::from(([127, 0, 1, last], port));
    let (one, two) = (NameServer::start(at_ip(1), 1), NameServer::start(at_ip(2), 2));
    let (_links, address) = open_link(&udp(vec![at("127.0.0.1:0")], &[at_ip(1), at_ip(2)]));
    let clients: Vec<UdpSocket> = (0..NAMES).map(|_| quick(address)).collect();

    let by = all_ask(&clients, 10_000);
    assert_eq!(by, [1_500, 1_500], "they take turns, a session stays where it is");

    // Those of the second go to the first, at the same ports; and nobody goes back without a need.
    let gone = two.stop();
    assert_eq!(all_ask(&clients, 20_000), [3_000, 0]);
    let _two = NameServer::start(gone, 2);
    assert_eq!(all_ask(&clients, 30_000), [3_000, 0]);

    // New ones do.
    wait::until_true("new clients to be answered by the second", || {
        all_ask(&[quick(address), quick(address)], 40_000)[1] > 0
    });
    one.stop();
    assert_eq!(all_ask(&clients, 50_000), [0, 3_000]);
}
