//! An ensign with one link, as a user has it: a service file, the real binary, and what can be seen of it from outside.
//! For tests that run in a network of their own, so that its port is always the same. Asserts nothing.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::etcd::Etcd;
use super::namespace::{Place, Sandbox};
use super::process;
use super::service::{self, Folder, Service, command};
use super::watch::Api;

/// Where the link of every lane listens.
pub const LINK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7000);

/// What [`announce`]d servers are found by.
pub const NAME: &str = "web.s.prod.example.com";

pub struct Lane(Service);

impl Lane {
    /// With these keys in its `[[link]]`, and these tables in its file.
    pub fn start(link: &str, tables: &str) -> Self {
        Self::start_in(Sandbox::new(Place::Guest), link, tables)
    }

    pub fn start_in(sandbox: Sandbox, link: &str, tables: &str) -> Self {
        let listen = if link.contains("listen =") { String::new() } else { format!("listen = '{LINK}'\n") };
        let main = command(&["hold"]);
        let folder = Folder::with(&format!("{main}[[link]]\nname = 'lane'\n{listen}{link}\n{tables}"));
        let service = folder.start_in(sandbox);
        // Main starts when the links are open.
        service.running.until_line("ready");
        Self(service)
    }

    pub fn pid(&self) -> i32 {
        self.0.running.init()
    }

    /// How many lines of the log hold `text`.
    pub fn logged(&self, text: &str) -> usize {
        service::count(&self.0.log(), text)
    }

    /// Descriptors that ensign has open, by their numbers.
    fn open(&self) -> BTreeMap<usize, PathBuf> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it is there and ours");
        let number = |fd: &DirEntry| fd.file_name().to_string_lossy().parse().expect("a number");
        open.flatten().filter_map(|fd| Some((number(&fd), std::fs::read_link(fd.path()).ok()?))).collect()
    }

    /// Those of them that are connections or listen for some. A pipe may be kept for the next stream, these are not.
    pub fn sockets(&self) -> usize {
        self.open().values().filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// The limit of open files that leaves `free` numbers below it. What whoever runs the tests has left open, and
    /// ensign inherits, may have numbers above it.
    pub fn limit_for(&self, free: usize) -> usize {
        let open = self.open();
        let mut free_numbers = (0..).filter(|number| !open.contains_key(number));
        free_numbers.nth(free).expect("numbers never end")
    }

    /// Processor time that ensign has used, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        process::cpu_ticks(self.pid()).expect("it is there")
    }
}

/// `to` of a `[[link]]`, and how it is balanced.
pub fn to(addresses: &[SocketAddr], balance: &str) -> String {
    let list: Vec<String> = addresses.iter().map(|address| format!("'{address}'")).collect();
    format!("to = [{}]\nbalance = '{balance}'\nconnect_timeout = '300ms'\n", list.join(", "))
}

/// Lets this process, and what it starts, have so many descriptors.
pub fn descriptors(needed: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    let limit = hard.max(needed);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
        .unwrap_or_else(|why| panic!("this test needs `ulimit -n {needed}`: {why}"));
}

fn key(server: SocketAddr) -> String {
    format!("/skydns/com/example/prod/s/web/{}", server.ip().to_string().replace('.', "-"))
}

/// By hand, for ever.
pub fn announce(api: Api, etcd: &Etcd, server: SocketAddr) {
    let (ip, port) = (server.ip(), server.port());
    api.write(etcd, &key(server), &format!(r#"{{"host":"{ip}","port":{port}}}"#));
}

pub fn withdraw(api: Api, etcd: &Etcd, server: SocketAddr) {
    api.delete(etcd, &key(server));
}
