//! Servers behind a link that say who they are, and all that can become of them: an orderly end, a kill, a freeze, a
//! network that refuses or drops their packets. For tests that run in a network of their own. Asserts nothing.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use socket2::SockRef;

use super::{acted, process, wait};

/// An `actor named`; its name is the last number of its address.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

/// Answers every connection with its own bytes, until the process ends.
pub fn echo(listener: TcpListener) {
    // Many may come at once.
    SockRef::from(&listener).listen(4096).expect("it listens already");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::spawn(move || {
        runtime.block_on(async {
            listener.set_nonblocking(true).expect("not blocking");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
    });
}

/// A packet filter's rule that stands until it is dropped.
pub struct Rule(Vec<String>);

/// A TCP socket of this network.
#[derive(Debug)]
pub struct Row {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// As the kernel numbers them.
    pub state: u8,
    /// Bytes that wait to be read; connections that wait to be accepted.
    pub queued: u32,
}

pub const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const LISTEN: u8 = 10;

impl Server {
    /// At 127.0.1.`name`.
    pub fn start(name: u8) -> Self {
        Self::start_at((Ipv4Addr::new(127, 0, 1, name), 7001).into())
    }

    /// Returns once it takes connections.
    pub fn start_at(address: SocketAddr) -> Self {
        let argv = acted(&["named", &address.to_string()]);
        let child =
            Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::null()).spawn().expect("the actor starts");
        let server = Self { address, child };
        wait::until_true("the server to listen", || !server.rows(LISTEN).is_empty());
        server
    }

    pub fn name(&self) -> u8 {
        match self.address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        }
    }

    fn rows(&self, state: u8) -> Vec<Row> {
        rows().into_iter().filter(|row| row.local == self.address && row.state == state).collect()
    }

    /// Connections that it has, accepted or not.
    pub fn connections(&self) -> usize {
        self.rows(ESTABLISHED).len()
    }

    /// Somebody tries to connect, and has not been answered.
    pub fn is_knocked_at(&self) -> bool {
        rows().iter().any(|row| row.remote == self.address && row.state == SYN_SENT)
    }

    pub fn send(&self, signal: Signal) {
        process::send(self.child.id().cast_signed(), signal);
    }

    pub fn freeze(&self) {
        process::freeze(self.child.id().cast_signed());
    }

    /// Ends it so that everybody who got as far as a connection gets an answer: new ones are refused, those that wait
    /// are accepted, those that are open are served to their end.
    pub fn end_in_order(&mut self) {
        let _refused = Rule::refuse(self.address);
        wait::until_true("all who knocked to be let in", || {
            self.rows(SYN_RECV).is_empty() && self.rows(LISTEN).iter().all(|row| row.queued == 0)
        });
        self.send(Signal::SIGTERM);
        let ended = wait::until("the server to end", || self.child.try_wait().expect("our own child"));
        assert!(ended.success(), "{ended}");
    }

    /// Ends it as a crash does; returns once nothing of it is left.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Starts it again at its address.
    pub fn start_again(&mut self) {
        *self = Self::start_at(self.address);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Rule {
    /// Nobody can connect there, and is told so at once.
    pub fn refuse(to: SocketAddr) -> Self {
        Self::to(to, "-p tcp --syn", "-j REJECT --reject-with tcp-reset")
    }

    /// Nobody can connect there, and nobody is told.
    pub fn black_hole(to: SocketAddr) -> Self {
        Self::to(to, "-p tcp --syn", "-j DROP")
    }

    fn to(to: SocketAddr, what: &str, then: &str) -> Self {
        Self::new(&format!("INPUT {what} -d {} --dport {} {then}", to.ip(), to.port()))
    }

    /// Nothing comes through any more between these two, either way.
    pub fn cut(one: SocketAddr, other: SocketAddr) -> [Self; 2] {
        [(one, other), (other, one)].map(|(from, to)| {
            let ends =
                format!("-s {} --sport {} -d {} --dport {}", from.ip(), from.port(), to.ip(), to.port());
            Self::new(&format!("INPUT -p tcp {ends} -j DROP"))
        })
    }

    /// As iptables has it, from the chain on.
    fn new(rule: &str) -> Self {
        let rule = Self(rule.split(' ').map(str::to_owned).collect());
        assert!(rule.is_done("-I"), "iptables takes {rule:?}");
        rule
    }

    fn is_done(&self, how: &str) -> bool {
        let lock = std::env::temp_dir().join(format!("xtables-{}", std::process::id()));
        let iptables = Command::new("iptables").arg(how).args(&self.0).env("XTABLES_LOCKFILE", lock).status();
        iptables.expect("iptables is installed").success()
    }
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        assert!(self.is_done("-D") || std::thread::panicking(), "iptables lets go of {self:?}");
    }
}

/// Lets ended connections go at once in this network, so that the list of sockets is one of those that matter.
pub fn forget_what_has_ended() {
    std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0").expect("this network is ours");
}

/// Every IPv4 TCP socket of this network that the kernel tells of.
pub fn rows() -> Vec<Row> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the kernel tells");
    table.lines().skip(1).filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (_, queued) = words.next()?.split_once(':')?;
    Some(Row { local, remote, state, queued: u32::from_str_radix(queued, 16).ok()? })
}

fn address(hex: &str) -> Option<SocketAddr> {
    let (ip, port) = hex.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some(SocketAddrV4::new(ip, u16::from_str_radix(port, 16).ok()?).into())
}
