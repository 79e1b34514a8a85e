//! A real etcd for one test, and the ways it can fail: dead, frozen, wiped, its answers lost.
//!
//! Data in a temporary folder, ports of its own on 127.0.0.1, gone with the value. Talks to it over a raw socket, so
//! that what a test reads back has not gone through the code under test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// Whether the v2 API is on; by default it is not.
#[derive(Clone, Copy)]
pub enum V2 {
    On,
    Off,
}

/// A one-member cluster.
pub struct Etcd {
    child: Child,
    client: SocketAddr,
    _data: TempDir,
}

impl Etcd {
    pub fn start() -> Self {
        Self::start_with(V2::On)
    }

    pub fn start_with(v2: V2) -> Self {
        // Another process may take a free port before etcd does.
        (0..5).find_map(|_| Self::try_start(free_port(), v2)).expect("etcd must start (its log is above)")
    }

    /// The same endpoint with nothing in it.
    pub fn wiped(self) -> Self {
        let client = self.client;
        drop(self);
        Self::try_start(client, V2::On).expect("etcd must start again on its port")
    }

    fn try_start(client: SocketAddr, v2: V2) -> Option<Self> {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{}", free_port()));
        let v2 = match v2 {
            V2::On => "--enable-v2=true",
            V2::Off => "--enable-v2=false",
        };
        let child = Command::new("etcd")
            .args(["--name", "one", "--logger", "zap", "--log-level", "error", v2, "--data-dir"])
            .arg(data.path())
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("these tests need a real etcd in PATH (Debian: etcd-server): {e}"));
        let mut etcd = Self { child, client, _data: data };
        let deadline = Instant::now() + STARTED_WITHIN;
        while Instant::now() < deadline {
            if etcd.child.try_wait().expect("our own child").is_some() {
                return None;
            }
            if request(client, "GET", "/health", "").is_ok_and(|(_, body)| body.contains("true")) {
                return Some(etcd);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Status and body of a request made by hand.
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        request(self.client, method, path, body).expect("etcd must answer")
    }

    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("our own child can be signalled");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// HTTP/1.0, so that the answer ends with the connection and is never chunked.
fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// A port that nothing listens on.
pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// A member that is frozen: it takes connections (the kernel does) and never says a word.
pub fn silent() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
}

/// A way to an etcd that loses answers: the request of one connection is carried out, its answer never comes.
pub struct Lossy {
    listen: SocketAddr,
    /// Connections taken so far.
    count: Arc<AtomicUsize>,
    lose: Arc<AtomicUsize>,
}

impl Lossy {
    /// Loses nothing until told to.
    pub fn before(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let listen = listener.local_addr().expect("a bound socket has an address");
        let (count, lose) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (taken, lost, to) = (Arc::clone(&count), Arc::clone(&lose), etcd.client);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let lose = taken.fetch_add(1, Ordering::SeqCst) == lost.load(Ordering::SeqCst);
                std::thread::spawn(move || relay(client, to, lose));
            }
        });
        Self { listen, count, lose }
    }

    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Loses the answer to the request that comes after `skip` more; one request is one connection.
    pub fn lose_after(&self, skip: usize) {
        self.lose.store(self.count.load(Ordering::SeqCst) + skip, Ordering::SeqCst);
    }
}

fn relay(mut client: TcpStream, to: SocketAddr, lose: bool) {
    let Ok(mut server) = TcpStream::connect(to) else { return };
    let (Ok(mut from), Ok(mut upstream)) = (client.try_clone(), server.try_clone()) else { return };
    let up = std::thread::spawn(move || {
        let _ended = std::io::copy(&mut from, &mut upstream);
        // A client that gives up does not take its request back: the server has it already.
        if !lose {
            let _closed = upstream.shutdown(Shutdown::Both);
        }
    });
    if lose {
        let _swallowed = std::io::copy(&mut server, &mut std::io::sink());
    } else {
        let _ended = std::io::copy(&mut server, &mut client);
        let _closed = client.shutdown(Shutdown::Both);
    }
    let _joined = up.join();
}
