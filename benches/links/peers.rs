//! The contestants: how each is set up to forward one port to one address, and what it costs the machine while it runs.
//! Those that are not installed are left out. Started by `main`.

use std::fs::{read_dir, read_to_string, write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

const PROXYD: &str = "/lib/systemd/systemd-socket-proxyd";
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Processor time is counted in these (USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Ensign,
    Socat,
    Haproxy,
    HaproxySplice,
    Nginx,
    Proxyd,
    Rinetd,
}

impl Kind {
    /// Those that can be measured here.
    pub fn installed() -> Vec<Self> {
        let all = [
            Self::Direct,
            Self::Ensign,
            Self::Socat,
            Self::Haproxy,
            Self::HaproxySplice,
            Self::Nginx,
            Self::Proxyd,
            Self::Rinetd,
        ];
        all.into_iter().filter(|kind| kind.is_installed()).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ensign => "ensign",
            Self::Socat => "socat",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx stream",
            Self::Proxyd => "socket-proxyd",
            Self::Rinetd => "rinetd",
        }
    }

    pub fn is_peer(self) -> bool {
        !matches!(self, Self::Direct | Self::Ensign)
    }

    fn program(self) -> Option<PathBuf> {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let find = |name| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
        match self {
            Self::Direct => None,
            Self::Ensign => Some(
                std::env::var_os("ENSIGN_BIN").map_or(env!("CARGO_BIN_EXE_ensign").into(), PathBuf::from),
            ),
            Self::Socat => find("socat"),
            Self::Haproxy | Self::HaproxySplice => find("haproxy"),
            Self::Nginx => find("nginx").filter(|_| Path::new(NGINX_STREAM).exists()),
            Self::Proxyd => Some(PathBuf::from(PROXYD)).filter(|file| file.is_file()),
            Self::Rinetd => find("rinetd"),
        }
    }

    fn is_installed(self) -> bool {
        self == Self::Direct || self.program().is_some()
    }

    /// As the program says it, from the first words that have a digit.
    pub fn version(self) -> String {
        let (argument, Some(program)) =
            (if self == Self::Socat { "-V" } else { "--version" }, self.program())
        else {
            return String::new();
        };
        let argument =
            if matches!(self, Self::Haproxy | Self::HaproxySplice | Self::Nginx) { "-v" } else { argument };
        let said = Command::new(program).arg(argument).output().expect("it was found");
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        let words = text.lines().filter(|line| !line.contains("www")).flat_map(str::split_whitespace);
        let mut numbered = words.filter(|word| word.contains(|c: char| c.is_ascii_digit()));
        numbered.next().unwrap_or("?").trim_start_matches("nginx/").to_owned()
    }

    /// How many idle connections it is given: descriptors, processes or its own patience end before 5,000.
    pub fn idle(self) -> usize {
        match self {
            Self::Socat => 300,
            Self::Proxyd => 3000,
            Self::Rinetd => 1000,
            Self::Direct | Self::Ensign | Self::Haproxy | Self::HaproxySplice | Self::Nginx => 5000,
        }
    }
}

/// A forwarder that runs; ends when dropped.
pub struct Forwarder {
    pub kind: Kind,
    pub address: SocketAddr,
    child: Option<Child>,
    _files: tempfile::TempDir,
}

impl Forwarder {
    pub fn start(kind: Kind, to: SocketAddr) -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let mut forwarder = Self { kind, address: to, child: None, _files: files };
        let Some(program) = kind.program() else { return forwarder };
        forwarder.address = free_address();
        let mut command = command(kind, &program, forwarder.address, to, forwarder._files.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        forwarder.child = Some(command.spawn().expect("it was found"));
        forwarder.until_it_listens();
        forwarder
    }

    fn until_it_listens(&self) {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "{} does not listen", self.kind.name());
            sleep(Duration::from_millis(10));
        }
    }

    /// Its processes. Of ensign just the one: beside it runs a main process that does nothing.
    fn processes(&self) -> Vec<u32> {
        let Some(child) = &self.child else { return vec![] };
        let mut tree = vec![child.id()];
        if self.kind == Kind::Ensign {
            return tree;
        }
        let parents: Vec<(u32, u32)> = read_dir("/proc")
            .expect("there")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
            .collect();
        let mut next = 0;
        while let Some(&parent) = tree.get(next) {
            tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
            next += 1;
        }
        tree
    }

    /// Seconds of processor time so far, of children that have ended too.
    pub fn cpu(&self) -> f64 {
        let ticks = |pid| -> f64 {
            let fields = stat(pid).unwrap_or_default();
            fields.iter().skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
        };
        self.processes().into_iter().map(ticks).sum::<f64>() / TICKS_A_SECOND
    }

    /// In bytes, what is shared divided among those who share it.
    pub fn memory(&self) -> f64 {
        let pss = |pid| {
            let text = read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        };
        self.processes().into_iter().filter_map(pss).sum::<f64>() * 1024.0
    }
}

impl Forwarder {
    /// How many sockets of its own it has set keepalive for.
    pub fn kept_alive(&self) -> usize {
        let said = Command::new("ss").args(["-Htnop"]).output().expect("ss is installed").stdout;
        let text = String::from_utf8_lossy(&said).into_owned();
        let processes = self.processes();
        let ours = text.lines().filter(|line| {
            let is_of = |pid: &u32| line.contains(&format!("pid={pid},"));
            line.contains("timer:(keepalive") && processes.iter().any(is_of)
        });
        ours.count()
    }

    pub fn tell_to_stop(&self) {
        if let Some(child) = &self.child {
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // The forking one leaves its children; they end with their connections.
        self.tell_to_stop();
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// The fields of /proc/PID/stat after the name: state, parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = text.rsplit_once(") ")?;
    Some(after.split(' ').map(str::to_owned).collect())
}

/// Free a moment ago, on an address that nobody else's tests use.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.77:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A port where nobody listens and nobody can: who connects is refused.
pub fn dead_end() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.78:0".parse().expect("an address");
    socket.bind(&any.into()).expect("bind");
    let address = socket.local_addr().expect("bound").as_socket().expect("an IP address");
    (socket, address)
}

fn command(kind: Kind, program: &Path, at: SocketAddr, to: SocketAddr, files: &Path) -> Command {
    let file = files.join("web.toml");
    let configured = |text: String| write(&file, text).expect("write");
    let mut command = Command::new(program);
    match kind {
        Kind::Direct => {}
        Kind::Ensign => {
            configured(format!(
                "command = ['sleep', 'infinity']\n[stop]\ndrain = '0s'\n[log]\nlevel = 'error'\n[links]\nenv = false\n\
                 [registry]\nurl = 'dir:{}'\n[[link]]\nname = 'x'\nlisten = '{at}'\nto = '{to}'\n",
                files.display()
            ));
            command.args(["run", "-c"]).arg(&file);
        }
        Kind::Socat => {
            let listen = format!("TCP-LISTEN:{},bind={},fork,reuseaddr", at.port(), at.ip());
            command.args([listen, format!("TCP:{to}")]);
        }
        Kind::Haproxy | Kind::HaproxySplice => {
            let (tune, splice) = match kind {
                Kind::HaproxySplice => (
                    "tune.pipesize 1048576\n maxpipes 64\n",
                    "option splice-request\n option splice-response\n",
                ),
                _ => ("", ""),
            };
            configured(format!(
                "global\n maxconn 9000\n nbthread 1\n {tune}defaults\n mode tcp\n timeout connect 3s\n \
                 timeout client 1h\n timeout server 1h\n {splice}listen x\n bind {at} backlog 4096\n server s {to}\n"
            ));
            command.args(["-db", "-f"]).arg(&file);
        }
        Kind::Nginx => {
            configured(format!(
                "load_module {NGINX_STREAM};\ndaemon off;\nworker_processes 1;\npid {0}/pid;\nerror_log {0}/log;\n\
                 events {{ worker_connections 18000; }}\nstream {{ server {{ listen {at} backlog=4096; proxy_pass {to};\
                 proxy_timeout 1h; }} }}\n",
                files.display()
            ));
            command.arg("-c").arg(&file);
        }
        Kind::Proxyd => {
            let listener = TcpListener::bind(at).expect("it was free");
            SockRef::from(&listener).listen(4096).expect("a longer queue");
            listener.set_nonblocking(true).expect("not blocking");
            // As systemd hands a socket over: descriptor 3, and whose it is.
            let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
            command = Command::new("sh");
            command.args(["-c", script]).arg(program).args(["--connections-max=20000", &to.to_string()]);
            command.stdin(OwnedFd::from(listener));
        }
        Kind::Rinetd => {
            configured(format!("{} {} {} {}\n", at.ip(), at.port(), to.ip(), to.port()));
            command.args(["-f", "-c"]).arg(&file);
        }
    }
    command
}
