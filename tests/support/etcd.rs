//! A real etcd for one test, and the ways it can fail: dead, frozen, wiped, its answers lost.
//!
//! Data in a temporary folder, ports of its own on 127.0.0.1, gone with the value. Talks to it over a raw socket, so
//! that what a test reads back has not gone through the code under test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::certificates::Pair;
use super::lan::Host;
use super::{process, wait};

/// What a restart finds.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    Kept,
    Wiped,
}

/// What clients meet at the second of its addresses.
pub struct Secure {
    pub address: SocketAddr,
    pub server: Pair,
    /// Whoever shows no certificate of this authority is sent away.
    pub clients_ca: Option<PathBuf>,
}

/// A one-member cluster.
pub struct Etcd {
    child: Child,
    client: SocketAddr,
    secure: Option<Secure>,
    /// Of the command line, after those that every etcd here has: the last word counts.
    flags: Vec<String>,
    data: TempDir,
    /// Header lines of requests made by hand: root's, once there is one.
    headers: String,
}

/// What [`USER`] may do, as v3 wants to be told.
fn granted() -> String {
    let (from, to) = (BASE64.encode("/skydns/"), BASE64.encode("/skydns0"));
    format!(r#"{{"name":"ens","perm":{{"permType":"READWRITE","key":"{from}","range_end":"{to}"}}}}"#)
}

/// Makes users by `ask`, which takes headers, method, path and body. Gives the headers of root.
pub fn turn_auth_on(password: &str, ask: impl Fn(&str, &str, &str, &str) -> (u16, String)) -> String {
    let done = |headers: &str, method: &str, path: &str, body: &str| {
        let (status, answer) = ask(headers, method, path, body);
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    };
    let v3 = |path: &str, body: String| done("", "POST", &format!("/v3/auth/{path}"), &body);
    for (user, password) in [("root", ROOT_PASSWORD), (USER, password)] {
        v3("user/add", format!(r#"{{"name":"{user}","password":"{password}"}}"#));
        v3("role/add", format!(r#"{{"name":"{user}"}}"#));
        v3("user/grant", format!(r#"{{"user":"{user}","role":"{user}"}}"#));
    }
    v3("role/grant", granted());
    v3("enable", "{}".to_owned());
    let v2 = |path: &str, body: &str| done("", "PUT", &format!("/v2/auth/{path}"), body);
    v2("users/root", &format!(r#"{{"user":"root","password":"{ROOT_PASSWORD}"}}"#));
    v2("roles/ens", r#"{"role":"ens","permissions":{"kv":{"read":["/skydns*"],"write":["/skydns*"]}}}"#);
    v2("users/ens", &format!(r#"{{"user":"{USER}","password":"{password}","roles":["ens"]}}"#));
    v2("enable", "");
    let headers = log_in(|method, path, body| ask("", method, path, body));
    done(&headers, "DELETE", "/v2/auth/roles/guest", "");
    headers
}

/// Root's headers for both APIs. Not even a login goes with a token that is no good, so `ask` shows none.
pub fn log_in(ask: impl Fn(&str, &str, &str) -> (u16, String)) -> String {
    let login = format!(r#"{{"name":"root","password":"{ROOT_PASSWORD}"}}"#);
    let (status, answer) = ask("POST", "/v3/auth/authenticate", &login);
    assert_eq!(status, 200, "{answer}");
    let token = answer.split(r#""token":""#).nth(1).and_then(|rest| rest.split('"').next());
    let basic = BASE64.encode(format!("root:{ROOT_PASSWORD}"));
    let token = token.expect("a token");
    format!("Authorization: Basic {basic}\r\nGrpc-Metadata-Token: {token}\r\n")
}

/// How often somebody has logged in, by what etcd tells of itself.
pub fn logins(metrics: &str) -> u64 {
    const MADE: &str = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Authenticate\"";
    let values =
        metrics.lines().filter_map(|line| line.strip_prefix(MADE)?.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// Of root, and of the user that tests are.
pub const ROOT_PASSWORD: &str = "root-geheim";
pub const USER: &str = "ens";

impl Etcd {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// One with these flags as well. By itself etcd's v2 API would be off; here it takes a flag.
    pub fn start_with(flags: &[&str]) -> Self {
        // Another process may take a free port before etcd does.
        (0..5).find_map(|_| Self::try_start(free_port(), flags)).expect("etcd must start (its log is above)")
    }

    /// One at an address of the test's choice, where it can be started again whatever else is busy.
    pub fn start_at(client: SocketAddr) -> Self {
        Self::try_start(client, &[]).expect("etcd must start (its log is above)")
    }

    /// One whose address the test itself can't reach, but a host with it can. It may take a moment to answer.
    pub fn start_on(host: &Host) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (client, peer) = ((host.address, 2379).into(), (host.address, 2380).into());
        let child = launch(host.command("etcd"), client, peer, None, &[], data.path());
        Self { child, client, secure: None, flags: Vec::new(), data, headers: String::new() }
    }

    /// One that speaks TLS at `secure.address`, beside its plain address.
    pub fn start_secure(server: Pair, clients_ca: Option<PathBuf>) -> Self {
        let secure = || {
            let (server, clients_ca) = (server.clone(), clients_ca.clone());
            Secure { address: free_port(), server, clients_ca }
        };
        (0..5)
            .find_map(|_| Self::try_start_with(free_port(), Some(secure()), &[]))
            .expect("etcd must start (its log is above)")
    }

    /// Where it speaks TLS.
    pub fn secure_address(&self) -> SocketAddr {
        self.secure.as_ref().expect("started so").address
    }

    /// Another certificate, from the next start on.
    pub fn set_server(&mut self, server: Pair) {
        self.secure.as_mut().expect("started so").server = server;
    }

    /// From now on both APIs want to know who asks. There is root, and [`USER`], who may do anything below `/skydns`.
    pub fn turn_auth_on(&mut self, password: &str) {
        let to = self.client;
        self.headers = turn_auth_on(password, |headers, method, path, body| {
            request(to, headers, method, path, body).expect("etcd must answer")
        });
    }

    /// Root's token, anew.
    fn log_in(&mut self) {
        let to = self.client;
        self.headers =
            log_in(|method, path, body| request(to, "", method, path, body).expect("etcd must answer"));
    }

    pub fn grant_v3(&self) {
        let (status, answer) = self.request("POST", "/v3/auth/role/grant", &granted());
        assert_eq!(status, 200, "{answer}");
    }

    pub fn revoke_v3(&self) {
        let (from, to) = (BASE64.encode("/skydns/"), BASE64.encode("/skydns0"));
        let ask = format!(r#"{{"role":"ens","key":"{from}","range_end":"{to}"}}"#);
        let (status, answer) = self.request("POST", "/v3/auth/role/revoke", &ask);
        assert_eq!(status, 200, "{answer}");
    }

    /// Of [`USER`], in both APIs.
    pub fn set_password(&self, password: &str) {
        let v3 = format!(r#"{{"name":"{USER}","password":"{password}"}}"#);
        let (status, answer) = self.request("POST", "/v3/auth/user/changepw", &v3);
        assert_eq!(status, 200, "{answer}");
        let v2 = format!(r#"{{"user":"{USER}","password":"{password}"}}"#);
        let (status, answer) = self.request("PUT", "/v2/auth/users/ens", &v2);
        assert_eq!(status, 200, "{answer}");
    }

    /// The same endpoint with nothing in it.
    pub fn wiped(self) -> Self {
        let client = self.client;
        drop(self);
        Self::try_start(client, &[]).expect("etcd must start again on its port")
    }

    /// Kills it, as a power cut would.
    pub fn stop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Starts it again after a `stop`, at the same endpoint.
    pub fn start_again(&mut self, data: Data) {
        if let Data::Wiped = data {
            self.data = tempfile::tempdir().expect("a temporary folder");
        }
        let (secure, data) = (self.secure.as_ref(), self.data.path());
        self.child = launch(Command::new("etcd"), self.client, free_port(), secure, &self.flags, data);
        assert!(self.has_come_up(), "etcd must start again on its port");
        if !self.headers.is_empty() {
            self.log_in();
        }
    }

    fn try_start(client: SocketAddr, flags: &[&str]) -> Option<Self> {
        Self::try_start_with(client, None, flags)
    }

    fn try_start_with(client: SocketAddr, secure: Option<Secure>, flags: &[&str]) -> Option<Self> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let data = tempfile::tempdir().expect("a temporary folder");
        let child = launch(Command::new("etcd"), client, free_port(), secure.as_ref(), &flags, data.path());
        let mut etcd = Self { child, client, secure, flags, data, headers: String::new() };
        etcd.has_come_up().then_some(etcd)
    }

    fn has_come_up(&mut self) -> bool {
        wait::until("etcd to answer or to end", || {
            if self.child.try_wait().expect("our own child").is_some() {
                return Some(false);
            }
            let health = request(self.client, "", "GET", "/health", "");
            health.is_ok_and(|(_, body)| body.contains("true")).then_some(true)
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Header lines with which both APIs take us for root.
    pub fn headers(&self) -> &str {
        &self.headers
    }

    /// Status and body of a request made by hand.
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        request(self.client, &self.headers, method, path, body).expect("etcd must answer")
    }

    pub fn freeze(&self) {
        process::freeze(self.child.id().cast_signed());
    }

    pub fn thaw(&self) {
        process::send(self.child.id().cast_signed(), Signal::SIGCONT);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(
    mut etcd: Command,
    client: SocketAddr,
    peer: SocketAddr,
    secure: Option<&Secure>,
    flags: &[String],
    data: &Path,
) -> Child {
    let (mut client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    if let Some(Secure { address, server, clients_ca }) = secure {
        client_url = format!("{client_url},https://{address}");
        etcd.arg("--cert-file").arg(&server.cert).arg("--key-file").arg(&server.key);
        if let Some(ca) = clients_ca {
            etcd.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
        }
    }
    etcd.args(["--name", "one", "--logger", "zap", "--log-level", "error", "--enable-v2=true", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("one={peer_url}")])
        .args(flags)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("these tests need a real etcd in PATH (Debian: etcd-server): {e}"))
}

pub fn request(
    to: SocketAddr,
    headers: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    request_within(Duration::from_secs(10), to, headers, method, path, body)
}

/// HTTP/1.0, so that the answer ends with the connection and is never chunked. Waits so long at most for a part of it.
pub fn request_within(
    patience: Duration,
    to: SocketAddr,
    headers: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\n{headers}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
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

/// How many have come to it since it was asked last.
pub fn connections(silent: &TcpListener) -> usize {
    silent.set_nonblocking(true).expect("a socket can be");
    silent.incoming().take_while(Result::is_ok).count()
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out, its answer never comes.
    Lost,
    /// It is carried out after this long, whether or not the client is still there: a member that was frozen.
    Late(Duration),
}

/// A way to an etcd on which chosen requests are in for a [`Fate`]. One request is one connection.
pub struct Lossy {
    listen: SocketAddr,
    road: Arc<Mutex<Road>>,
}

#[derive(Default)]
struct Road {
    /// Connections taken so far.
    taken: usize,
    /// Which of them is in for what.
    fate: Option<(usize, Fate)>,
    /// Requests that have been answered by etcd, late or lost ones alike.
    done: usize,
}

impl Lossy {
    /// Lets everything through until told otherwise.
    pub fn before(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let listen = listener.local_addr().expect("a bound socket has an address");
        let road = Arc::new(Mutex::new(Road::default()));
        let (shared, to) = (Arc::clone(&road), etcd.client);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let fate = {
                    let mut road = shared.lock().expect("nobody panics with it");
                    road.taken += 1;
                    road.fate.filter(|(number, _)| *number == road.taken).map(|(_, fate)| fate)
                };
                let road = Arc::clone(&shared);
                std::thread::spawn(move || {
                    relay(client, to, fate);
                    road.lock().expect("nobody panics with it").done += 1;
                });
            }
        });
        Self { listen, road }
    }

    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// For the request that comes after `skip` more.
    pub fn decide(&self, skip: usize, fate: Fate) {
        let mut road = self.road.lock().expect("nobody panics with it");
        road.fate = Some((road.taken + 1 + skip, fate));
    }

    /// How many requests it has taken.
    pub fn taken(&self) -> usize {
        self.road.lock().expect("nobody panics with it").taken
    }

    /// Whether every request taken so far has been carried out.
    pub fn is_settled(&self) -> bool {
        let road = self.road.lock().expect("nobody panics with it");
        road.done == road.taken
    }
}

/// Reads one request, has it carried out, and hands the answer back unless it is to be lost.
fn relay(mut client: TcpStream, to: SocketAddr, fate: Option<Fate>) {
    let Some(request) = read_message(&mut client) else { return };
    if let Some(Fate::Late(by)) = fate {
        wait::be_late(by);
    }
    let Ok(mut server) = TcpStream::connect(to) else { return };
    // One request a connection: the next one has a fate of its own.
    let (head, rest) = request.split_at(request.iter().position(|b| *b == b'\n').map_or(0, |end| end + 1));
    if server.write_all(&[head, b"Connection: close\r\n", rest].concat()).is_err() {
        return;
    }
    // The server's answer may be chunked: taken as it comes until its side or the client's is closed.
    if fate == Some(Fate::Lost) {
        // Carried out when the first byte of the answer is there; the client hears nothing until it gives up.
        let _first = server.read(&mut [0; 1]);
        let _gone = client.read(&mut [0; 1]);
        return;
    }
    let Ok(mut watched) = client.try_clone() else { return };
    let Ok(server_side) = server.try_clone() else { return };
    let mut buffer = [0; 4096];
    // Even with the client gone the request is seen through to the first of its answer.
    if let Ok(count) = server.read(&mut buffer)
        && client.write_all(&buffer[..count]).is_ok()
    {
        let closer = std::thread::spawn(move || {
            let _gone = watched.read(&mut [0; 1]);
            let _closed = server_side.shutdown(Shutdown::Both);
        });
        let _ended = std::io::copy(&mut server, &mut client);
        let _joined = closer.join();
    }
}

/// Headers and as much body as they announce.
fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        message.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&message).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(message);
        }
    }
}
