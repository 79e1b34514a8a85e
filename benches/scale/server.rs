//! One real etcd, killed and started again at will, and what it costs: processor time, memory, log, requests.
//! Called by all that is measured.

use std::fs::{Permissions, read_dir, read_to_string};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// Where its data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Memory,
    Disk,
}

/// What a restart finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Kept,
    Wiped,
}

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    peer: SocketAddr,
    medium: Medium,
    data: TempDir,
}

/// What it has counted since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub requests: f64,
    pub proposals: f64,
    pub log_bytes: f64,
    pub syncs: f64,
    pub database_bytes: f64,
}

/// The binary that is measured: Debian's, or the one that ENSIGN_BENCH_ETCD names.
pub fn binary() -> String {
    std::env::var("ENSIGN_BENCH_ETCD").unwrap_or("etcd".to_owned())
}

impl Server {
    pub fn start(medium: Medium) -> Self {
        let (address, peer, data) = (free_port(), free_port(), folder(medium));
        let child = launch(address, peer, data.path());
        let server = Self { child, address, peer, medium, data };
        server.until_up();
        server
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// At the same address; returns before it is up.
    pub fn start_again(&mut self, data: Data) {
        if data == Data::Wiped {
            self.data = folder(self.medium);
        }
        self.child = launch(self.address, self.peer, self.data.path());
    }

    fn until_up(&self) {
        let started = Instant::now();
        while !is_up(self.address) {
            assert!(started.elapsed() < DEADLINE, "etcd must start (its log is above)");
            sleep(Duration::from_millis(10));
        }
    }

    /// Seconds of processor time, over all threads.
    pub fn cpu(&self) -> f64 {
        let tasks = read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let of = |text: String| text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
        tasks.filter_map(|task| of(read_to_string(task.path().join("schedstat")).ok()?)).sum::<f64>() / 1e9
    }

    /// KiB that are resident.
    pub fn memory(&self) -> f64 {
        resident(&self.child.id().to_string())
    }

    pub fn descriptors(&self) -> usize {
        read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    pub fn counters(&self) -> Counters {
        counters(self.address).expect("etcd tells its counters")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// KiB that are resident of a process, or of `self`.
pub fn resident(process: &str) -> f64 {
    let status = read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}

pub fn is_up(address: SocketAddr) -> bool {
    get(address, "/health").is_some_and(|body| body.contains("true"))
}

/// What etcd at this address has counted; `None` while it does not answer.
pub fn counters(address: SocketAddr) -> Option<Counters> {
    let text = get(address, "/metrics")?;
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Some(Counters {
        requests: sum("grpc_server_started_total{") + sum("etcd_http_received_total{"),
        proposals: sum("etcd_server_proposals_committed_total "),
        log_bytes: sum("etcd_disk_wal_write_bytes_total "),
        syncs: sum("etcd_disk_wal_fsync_duration_seconds_count"),
        database_bytes: sum("etcd_mvcc_db_total_size_in_bytes "),
    })
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn folder(medium: Medium) -> TempDir {
    let below = match medium {
        Medium::Memory => "/dev/shm",
        Medium::Disk => env!("CARGO_TARGET_TMPDIR"),
    };
    // etcd complains of a folder that others can read.
    let private = Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir_in(below).expect("a temporary folder")
}

fn launch(client: SocketAddr, peer: SocketAddr, data: &std::path::Path) -> Child {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    Command::new(binary())
        .args(["--name", "one", "--logger", "zap", "--log-level", "error", "--enable-v2=true", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("one={peer}")])
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("a real etcd must be in PATH (Debian: etcd-server): {e}"))
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}
