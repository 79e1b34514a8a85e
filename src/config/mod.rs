//! The checked configuration: what every other module may rely on. Each value here has passed every rule, so
//! nothing is "optional but must be there", and a default is written once (in `check.rs`).
//!
//! Flow: `load` reads files, `raw` turns text into typed text with positions, `check` turns that into these types
//! and gathers every error, `report` prints the errors. Nothing here does anything.

use std::ffi::OsString;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

pub mod check;
mod listen;
pub mod load;
pub mod raw;
pub mod report;
mod secret;
pub mod units;

pub use listen::{Listen, ListenAt, Owner, UnixSocket};
pub use secret::Secret;

/// How long the registry may take for one request, from its beginning to the answer's last byte.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a stop waits for the registry's word that the records are gone. Past it the record's TTL has to do.
pub const WITHDRAW_LIMIT: Duration = Duration::from_secs(1);

/// Everything that one run of ensign needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// In the order of their names; [`ServiceId`] is the place in this list. Never empty.
    pub services: Vec<Service>,
    /// Its end is the container's end.
    pub main: ServiceId,
    pub registry: Registry,
    pub links: Links,
    pub log: Log,
}

/// A service's place in [`Config::services`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub usize);

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// The file's stem, or the command's file name when a command is wrapped.
    pub name: String,
    /// argv; never empty. `shell = "…"` has become `/bin/sh -c …` here.
    pub command: Vec<OsString>,
    pub directory: Option<PathBuf>,
    pub user: Option<User>,
    /// Added to the environment that ensign was given: `env_file` first, then `env`; later wins.
    pub env: Vec<(OsString, OsString)>,
    pub limits: Vec<Limit>,
    pub no_new_privileges: bool,
    pub kind: Kind,
    /// Started once these are ready (a oneshot: ended with 0). Free of cycles.
    pub after: Vec<ServiceId>,
    pub restart: Restart,
    pub stop: Stop,
    pub ready: Ready,
    pub checks: Vec<Check>,
    pub announce: Vec<Announce>,
    pub links: Vec<Link>,
}

/// Resolved from /etc/passwd and /etc/group when the configuration is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups; the primary one alone for a bare `uid[:gid]`.
    pub groups: Vec<u32>,
    /// `HOME`, `USER` and `LOGNAME` for the child, where /etc/passwd names the user.
    pub name: Option<String>,
    pub home: Option<PathBuf>,
}

/// One resource limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub resource: Resource,
    /// `None` is unlimited.
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The names of `limits = { … }`: setrlimit(2)'s, in lower case without the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs until it is stopped.
    Daemon,
    /// Runs to its end before those `after` it start.
    Oneshot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    pub when: RestartWhen,
    /// The longest first delay; the ceiling doubles with each crash, the delay itself is drawn from 0 to it.
    pub delay: Duration,
    pub max_delay: Duration,
    /// A run this long makes the next crash count as the first again.
    pub reset_after: Duration,
    pub give_up: GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartWhen {
    Always,
    OnFailure,
    Never,
}

/// This many crashes within this time: no further restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveUp {
    pub after: u32,
    pub within: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub signal: Signal,
    /// Withdrawn but still serving before the signal. Zero where nothing is announced.
    pub drain: Duration,
    /// From the signal to SIGKILL; `None` ("never") leaves it to the container runtime.
    pub timeout: Option<Duration>,
    /// After main is gone: from the TERM for what is left to its SIGKILL.
    pub sweep: Duration,
}

/// A signal's number on this machine, real-time ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(pub i32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    pub by: ReadyBy,
    /// Not ready after this long counts as a crash. Does not apply to `start`.
    pub timeout: Duration,
    /// After a crash: up and healthy for this long before it is announced again.
    pub settle: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyBy {
    /// Ready as soon as it runs.
    Start,
    /// Ready once every check has passed `rise` times.
    Checks,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub probe: Probe,
    pub every: Duration,
    pub timeout: Duration,
    /// Failures this early in a run count for nothing.
    pub grace: Duration,
    /// Consecutive passes that make it healthy; at least 1.
    pub rise: u32,
    /// Consecutive failures that make it unhealthy; at least 1.
    pub fall: u32,
    pub unhealthy: Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// GET; a status of 200 to 399 passes.
    Http(HttpTarget),
    /// An accepted connection passes.
    Tcp(HostPort),
    /// Exit code 0 passes. argv; never empty.
    Exec(Vec<OsString>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    pub authority: HostPort,
    /// Path and query, beginning with `/`.
    pub path: String,
}

/// A host (a name or an address literal, without brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unhealthy {
    Withdraw,
    Restart,
}

/// One record to announce while the service is fit to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    pub name: DnsName,
    pub port: u16,
    /// Tried in order; never empty.
    pub address: Vec<AddressRule>,
    pub instance: Label,
    /// Of the lease; renewed every third of it.
    pub ttl: Duration,
    /// The `ttl` inside the record, which resolvers serve; whole seconds.
    pub dns_ttl: Duration,
    pub priority: u16,
    pub weight: u16,
    pub conflict: Conflict,
}

/// What a registration does where another instance's live record stands under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// Takes its place: the later one wins, as a redeploy needs.
    Take,
    /// Leaves it alone, and waits for it to go.
    Wait,
}

/// A lower-case DNS name without the final dot, every label valid, none reserved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(pub(crate) String);

/// One lower-case DNS label: 1 to 63 of `[a-z0-9-]`, no `-` at either end, not `any`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(pub(crate) String);

/// How the announced address is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressRule {
    /// The source address that the kernel would use to reach the registry.
    Auto,
    /// The first global address that is not private.
    Public,
    /// The first private address (RFC 1918, RFC 4193); where there is none, the second interface's.
    Private,
    /// The container's own: what the hosts file says of our hostname, else the default route's interface.
    Container,
    Interface(String),
    Cidr {
        network: IpAddr,
        prefix: u8,
    },
    /// The value that `env:NAME` had when the configuration was checked.
    Env {
        variable: String,
        address: IpAddr,
    },
    Literal(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub listen: Listen,
    /// All of them together are where connections go. Never empty; more than one only where `listen` says where, or
    /// all have the same port.
    pub to: Vec<Upstream>,
    pub balance: Balance,
    /// For one attempt on one address of the upstream.
    pub connect_timeout: Duration,
    /// So many may be open at a time; more wait to be accepted. None is no limit. Of UDP, as many sessions.
    pub max_connections: Option<NonZeroU32>,
    /// A UDP client that is silent for so long, both ways, is forgotten.
    pub idle_timeout: Duration,
    /// Each start of the service waits this long at most for an upstream that takes a connection.
    pub wait: Option<Duration>,
    /// The service gets variables as Docker's, that say where this link listens.
    pub export: bool,
}

/// Which address of several the next connection goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// They take turns, by weight.
    RoundRobin,
    /// The one with the fewest connections of this link, by weight.
    LeastConnections,
    /// In the order of `to`; a later one only while those before it take no connection.
    First,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The Docker link of this alias (`env:DB`): every port that its variables name.
    Env(String),
    /// Hosts file, then DNS, looked up anew for each connection.
    HostPort(HostPort),
    /// The SRV records of this name, looked up likewise.
    Srv(String),
    /// Everybody who is announced under this name.
    Registry(DnsName),
    /// This port of the default route's gateway: in a container, mostly the host.
    Gateway(u16),
    /// An absolute path, short enough for a socket.
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    pub url: RegistryUrl,
    /// `/skydns`: begins with `/`, does not end with one.
    pub prefix: String,
    /// Plain http without it. Of etcd only, as is `login`.
    pub tls: Option<Tls>,
    pub login: Option<Login>,
}

/// What secures the way to the registry: files of PEM, which are read again when they have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Whose word for the registry's certificate is taken.
    pub ca: PathBuf,
    /// Who we are, where the registry wants to know by certificate.
    pub identity: Option<Identity>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Who we are, where the registry wants to know by password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    /// Read again when it has changed. The password itself is never in the configuration.
    pub password_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryUrl {
    /// etcd's v3 JSON gateway; never empty.
    Etcd3(Vec<HostPort>),
    /// etcd's v2 keys; never empty.
    Etcd2(Vec<HostPort>),
    /// A folder of records that containers of one host share.
    Dir(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// Which of Docker's link variables to open links for.
    pub env: EnvLinks,
    /// How many threads share the connections of all links.
    pub workers: Workers,
}

/// 1 to 64 threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers(NonZeroU8);

impl Workers {
    pub const MOST: u8 = 64;

    /// None unless `count` is 1 to [`Self::MOST`].
    pub fn new(count: u8) -> Option<Self> {
        NonZeroU8::new(count).filter(|count| count.get() <= Self::MOST).map(Self)
    }

    pub fn get(self) -> u8 {
        self.0.get()
    }
}

impl Default for Workers {
    /// One thread moves some GB/s: few containers need more.
    fn default() -> Self {
        Self(NonZeroU8::MIN)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvLinks {
    All,
    None,
    /// Aliases by shell pattern (`*`, `?`), case ignored.
    Matching(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Upstream {
    /// The port, where it is known before anything is looked up.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::HostPort(to) => Some(to.port),
            Self::Gateway(port) => Some(*port),
            Self::Env(_) | Self::Srv(_) | Self::Registry(_) | Self::Unix(_) => None,
        }
    }
}

impl DnsName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Signal {
    /// `SIGTERM`; real-time signals as `SIGRTMIN+3`, whose base is the C library's on Linux.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) if self.0 >= 34 => write!(f, "SIGRTMIN+{}", self.0 - 34),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
