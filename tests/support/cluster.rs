//! A real cluster of three etcds, each on a host of its own in a small network, and what can happen to it: members die,
//! freeze, are cut off from each other or from clients, come back, or come back with nothing.
//!
//! Only for a test in namespaces of its own ([`super::namespace::ran_inside`]): its addresses exist nowhere else, and
//! nothing of it outlives the test, however that ends. The test itself can talk to each member, always. Asserts nothing
//! about ensign.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::certificates::Pair;
use super::etcd::{Data, request_within, turn_auth_on};
use super::lan::{Host, Lan};
use super::{process, wait};

/// How long a member may take to answer a question of ours before it is taken for one that does not.
const PATIENCE: Duration = Duration::from_millis(300);

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member(usize);

/// An end of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Member(Member),
    /// The host of this number that clients run on.
    Client(usize),
}

pub struct Cluster {
    /// First the members, then those of clients.
    lan: Lan,
    children: [Option<Child>; 3],
    /// In memory: a disk has no part in these tests.
    data: TempDir,
    /// Counts the clusters that there were at these addresses.
    wiped: u32,
    cuts: Vec<(At, At)>,
    tls: Option<Tls>,
    /// Header lines of requests of ours: root's, once there is one.
    headers: String,
}

/// What clients meet at the second of a member's addresses, and whose certificates they must show there.
#[derive(Clone)]
pub struct Tls {
    pub server: Pair,
    pub clients_ca: PathBuf,
}

impl Member {
    pub const ALL: [Self; 3] = [Self(0), Self(1), Self(2)];

    /// The two others.
    pub fn others(self) -> [Self; 2] {
        [Self((self.0 + 1) % 3), Self((self.0 + 2) % 3)]
    }
}

impl Cluster {
    /// Three members that answer, and so many hosts beside them for clients.
    pub fn start(clients: u8) -> Self {
        Self::start_with(clients, None)
    }

    /// As `start`; each also speaks TLS, and both APIs want to know who asks.
    pub fn start_secure(clients: u8, tls: Tls, password: &str) -> Self {
        let mut cluster = Self::start_with(clients, Some(tls));
        let to = cluster.address(Member::ALL[0]);
        cluster.headers = turn_auth_on(password, |headers, method, path, body| {
            let long = Duration::from_secs(10);
            request_within(long, to, headers, method, path, body).expect("a member answers")
        });
        cluster
    }

    fn start_with(clients: u8, tls: Option<Tls>) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "cluster"]).arg(data.path()).status();
        assert!(mounted.expect("mount is there").success(), "these tests run in namespaces of their own");
        let mut cluster = Self {
            lan: Lan::here(3 + clients),
            children: [None, None, None],
            data,
            wiped: 0,
            cuts: Vec::new(),
            tls,
            headers: String::new(),
        };
        cluster.restart_all(Data::Kept);
        cluster.until_healthy();
        cluster
    }

    /// Where clients find it.
    pub fn address(&self, member: Member) -> SocketAddr {
        (self.lan.hosts[member.0].address, 2379).into()
    }

    pub fn addresses(&self) -> [SocketAddr; 3] {
        Member::ALL.map(|member| self.address(member))
    }

    /// Where clients find it by TLS.
    pub fn secure_address(&self, member: Member) -> SocketAddr {
        (self.lan.hosts[member.0].address, 2378).into()
    }

    /// Header lines with which both APIs take us for root. A member that was restarted does not take them for v3.
    pub fn headers(&self) -> &str {
        &self.headers
    }

    /// A host with an address of its own, for programs that talk to the cluster.
    pub fn client(&self, number: usize) -> &Host {
        &self.lan.hosts[3 + number]
    }

    // What can happen to a member.

    /// As a power cut would.
    pub fn kill(&mut self, member: Member) {
        process::send(self.pid(member), Signal::SIGKILL);
        self.bury(member);
    }

    /// As its administrator would; returns when it has ended.
    pub fn terminate(&mut self, member: Member) {
        process::send(self.pid(member), Signal::SIGTERM);
        self.bury(member);
    }

    pub fn freeze(&self, member: Member) {
        process::freeze(self.pid(member));
    }

    pub fn thaw(&self, member: Member) {
        process::send(self.pid(member), Signal::SIGCONT);
    }

    /// Starts one that has ended, with the data that it has; it may take a moment to answer.
    pub fn restart(&mut self, member: Member) {
        assert!(self.children[member.0].is_none(), "{member:?} runs");
        let name = |member: Member| format!("m{}", member.0);
        let peer = |member: Member| format!("http://{}:2380", self.lan.hosts[member.0].address);
        let all = Member::ALL.map(|member| format!("{}={}", name(member), peer(member))).join(",");
        let mut client = format!("http://{}", self.address(member));
        let mut etcd = self.lan.hosts[member.0].command("etcd");
        if let Some(Tls { server, clients_ca }) = &self.tls {
            client = format!("{client},https://{}", self.secure_address(member));
            etcd.arg("--cert-file").arg(&server.cert).arg("--key-file").arg(&server.key);
            etcd.arg("--client-cert-auth").arg("--trusted-ca-file").arg(clients_ca);
        }
        let etcd = etcd
            .args(["--name", &name(member), "--logger", "zap", "--log-level", "fatal", "--enable-v2=true"])
            .arg("--data-dir")
            .arg(self.folder(member))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)])
            .args(["--initial-cluster", &all, "--initial-cluster-token", &format!("c{}", self.wiped)])
            .stdin(Stdio::null())
            .spawn();
        let why = "these tests need a real etcd in PATH (Debian: etcd-server)";
        self.children[member.0] = Some(etcd.expect(why));
    }

    /// Kills whatever runs, and starts all three.
    pub fn restart_all(&mut self, data: Data) {
        for member in Member::ALL {
            if self.children[member.0].is_some() {
                self.kill(member);
            }
        }
        if let Data::Wiped = data {
            self.wiped += 1;
            for member in Member::ALL {
                std::fs::remove_dir_all(self.folder(member)).expect("a member had data");
            }
        }
        for member in Member::ALL {
            self.restart(member);
        }
    }

    /// From now on no packet gets from one to the other, and nobody is told: it is sent to a card that nobody has.
    pub fn cut(&mut self, one: At, other: At) {
        for (from, to) in [(one, other), (other, one)] {
            let (nobody, to) = ("02:00:00:00:00:ff", self.host(to).address.to_string());
            self.host(from).ip(&[
                "neigh",
                "replace",
                &to,
                "lladdr",
                nobody,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ]);
        }
        self.cuts.push((one, other));
    }

    /// Cuts it off from both others; clients still reach it.
    pub fn isolate(&mut self, member: Member) {
        for other in member.others() {
            self.cut(At::Member(member), At::Member(other));
        }
    }

    /// Mends every cut.
    pub fn heal(&mut self) {
        for (one, other) in std::mem::take(&mut self.cuts) {
            for (from, to) in [(one, other), (other, one)] {
                let to = self.host(to).address.to_string();
                self.host(from).ip(&["neigh", "del", &to, "dev", "eth0"]);
            }
        }
    }

    // How it is.

    /// Who leads, once somebody does: of those who say that they do the latest.
    pub fn leader(&self) -> Member {
        wait::until("a leader", || {
            let led = |member: &Member| {
                let (_, status) = self.ask(*member, "POST", "/v3/maintenance/status", "{}")?;
                let status: Value = serde_json::from_str(&status).ok()?;
                let is_leader = status["leader"] == status["header"]["member_id"];
                let term = status["raftTerm"].as_str()?.parse::<u64>().ok()?;
                is_leader.then_some((term, *member))
            };
            Member::ALL.iter().filter_map(led).max().map(|(_, member)| member)
        })
    }

    /// Waits until each member that runs answers for the cluster.
    pub fn until_healthy(&self) {
        wait::until_true("a healthy cluster", || {
            let runs = |member: &Member| self.children[member.0].is_some();
            Member::ALL.into_iter().filter(runs).all(|member| self.answers(member))
        });
    }

    /// Waits until a request that begins now is answered by a quorum, and tells when that was seen.
    pub fn until_quorum(&self) -> Instant {
        wait::until_true("a quorum", || Member::ALL.into_iter().any(|member| self.answers(member)));
        Instant::now()
    }

    /// It has just read something that only a quorum can know.
    pub fn answers(&self, member: Member) -> bool {
        self.ask(member, "GET", "/health", "").is_some_and(|(status, _)| status == 200)
    }

    /// Status and body; `None` where it does not answer in time.
    pub fn ask(&self, member: Member, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        request_within(PATIENCE, self.address(member), &self.headers, method, path, body).ok()
    }

    fn folder(&self, member: Member) -> PathBuf {
        self.data.path().join(member.0.to_string())
    }

    fn host(&self, at: At) -> &Host {
        match at {
            At::Member(member) => &self.lan.hosts[member.0],
            At::Client(number) => self.client(number),
        }
    }

    fn pid(&self, member: Member) -> i32 {
        self.children[member.0].as_ref().expect("it runs").id().cast_signed()
    }

    fn bury(&mut self, member: Member) {
        let ended = self.children[member.0].take().expect("it ran").wait();
        ended.expect("a child of ours");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        let _unmounted = Command::new("umount").arg(self.data.path()).status();
    }
}
