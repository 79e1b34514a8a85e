//! `ensign run -c` as a user has it: service files in a folder, the real binary, and what can be seen of it from
//! outside: its processes, its log, its exit code. Asserts nothing; waits for facts.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::namespace::{Ended, Place, Running, Sandbox};
pub use super::process::send;
use super::watch::Api;
use super::{acted, ensign, wait};

/// What the records of [`announced`] are found by.
pub const KEY: &str = "/skydns/com/example/prod/s/web/node-1";
pub const VALUE: &str = r#"{"host":"192.0.2.7","port":8087,"priority":10,"weight":100,"ttl":1}"#;

/// A folder of service files, and of whatever else a test needs a path for. Gone with the last one that has it.
#[derive(Clone)]
pub struct Folder(Arc<TempDir>);

impl Folder {
    pub fn new() -> Self {
        Self(Arc::new(tempfile::tempdir().expect("a temporary folder")))
    }

    /// A folder with one file in it, `web.toml`.
    pub fn with(text: &str) -> Self {
        let folder = Self::new();
        folder.write("web.toml", text);
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file of ours is written");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("a file of ours is there");
    }

    /// `ensign run -c` of the file of this name; the whole folder's where it is empty.
    pub fn run(&self, name: &str) -> Vec<OsString> {
        let path = if name.is_empty() { self.0.path().to_owned() } else { self.path(name) };
        vec![ensign().into(), "run".into(), "-c".into(), path.into()]
    }

    /// Starts `web.toml`, or the whole folder where there is none.
    pub fn start(&self, place: Place) -> Service {
        self.start_in(Sandbox::new(place))
    }

    pub fn start_in(&self, sandbox: Sandbox) -> Service {
        let file = if self.path("web.toml").exists() { "web.toml" } else { "" };
        Service { running: sandbox.start(self.run(file)), _folder: self.clone() }
    }
}

/// An ensign with its services.
pub struct Service {
    pub running: Running,
    _folder: Folder,
}

impl Service {
    /// The pid of the process that runs `actor ARG…`, once there is one.
    pub fn pid(&self, args: &[&str]) -> i32 {
        self.running.pid_of(&acted(args))
    }

    /// As `pid`, of another process than `old`: the next run.
    pub fn pid_after(&self, old: i32, args: &[&str]) -> i32 {
        let argv = acted(args);
        wait::until(&format!("another run of {argv:?}"), || {
            self.running.pids_of(&argv).into_iter().find(|pid| *pid != old)
        })
    }

    pub fn log(&self) -> String {
        self.running.stderr()
    }

    /// How many lines of the log hold `text`.
    pub fn logged(&self, text: &str) -> usize {
        count(&self.log(), text)
    }

    pub fn until_logged(&self, text: &str) {
        wait::until_true(&format!("{text:?} in the log"), || self.logged(text) > 0);
    }

    /// Sends ensign a signal.
    pub fn send(&self, signal: Signal) {
        send(self.running.init(), signal);
    }

    /// TERM, and the end that follows.
    pub fn stop(self) -> Ended {
        self.send(Signal::SIGTERM);
        self.running.wait()
    }
}

/// How many of the lines hold `text`.
pub fn count(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// A line of TOML: `KEY = ["…", …]`.
pub fn list(key: &str, argv: &[OsString]) -> String {
    let argv: Vec<&str> =
        argv.iter().map(|arg| arg.to_str().expect("the tests' arguments are text")).collect();
    // JSON's strings and lists are TOML's.
    format!("{key} = {}\n", serde_json::to_string(&argv).expect("text is JSON"))
}

/// A line of TOML: `command = [ACTOR, ARG…]`.
pub fn command(args: &[&str]) -> String {
    list("command", &acted(args))
}

/// `[[announce]]` of [`KEY`], its TTL the shortest that etcd grants.
pub const ANNOUNCE: &str = r#"
[[announce]]
name = "web.s.prod.example.com"
port = 8087
address = "192.0.2.7"
instance = "node-1"
ttl = "2s"
dns_ttl = "1s"
"#;

/// `[registry]` at an etcd.
pub fn registry(api: Api, at: SocketAddr) -> String {
    registry_of(api, &[at])
}

/// As `registry`, by these of its members, in this order.
pub fn registry_of(api: Api, members: &[SocketAddr]) -> String {
    let scheme = match api {
        Api::V3 => "etcd",
        Api::V2 => "etcd2",
    };
    let at: Vec<String> = members.iter().map(SocketAddr::to_string).collect();
    format!("[registry]\nurl = \"{scheme}://{}\"\n", at.join(","))
}
