//! A real Docker engine for one test: the one that answers already, else one of the test's own, made as root from
//! dockerd in namespaces of its own (processes, mounts, network), so that its bridge, its packet filter and its
//! containers are nothing of the machine's and are gone with it. Everything made in an engine that was there is
//! labelled and removed. Drives the client as a user does; asserts nothing about ensign.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::skip::{self, Need};
use super::terminal::Terminal;
use super::{actor, ensign, process, wait};

pub mod image;

use image::Image;

/// Debian's, where there is one: another in PATH may be too new for its engine.
const CLIENTS: [&str; 2] = ["/usr/bin/docker", "docker"];

/// PID 1 of the engine's namespaces: a shell, so that somebody collects what containerd leaves behind.
const BOOT: &str = "ip link set lo up\ndockerd \"$@\"\nexit $?\n";

pub struct Engine {
    client: &'static str,
    /// Tells this test's containers, images and networks from all others.
    id: String,
    folder: TempDir,
    own: Option<Daemon>,
}

impl Engine {
    /// None where the run leaves Docker out. Panics where there can be no engine.
    pub fn start() -> Option<Engine> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        if skip::without(Need::Docker) {
            return None;
        }
        let client = CLIENTS.into_iter().find(|client| answers(Command::new(client).arg("--version")));
        let client = client.expect("a client was there a moment ago");
        let id = format!("ensign-test-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("ensign-docker-").tempdir().expect("a folder");
        let own = match answers(Command::new(client).arg("version")) {
            true => None,
            false => Some(Daemon::start(folder.path(), &id)),
        };
        let engine = Engine { client, id, folder, own };
        wait::until_true("the engine to answer", || {
            engine.own.as_ref().is_none_or(Daemon::lives) && answers(engine.command().arg("version"))
        });
        let whose = if engine.own.is_some() { "started for this test" } else { "was there" };
        println!("engine {}: {whose}", engine.ok(&["version", "--format", "{{.Server.Version}}"]));
        Some(engine)
    }

    /// The client, told where the engine is.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.client);
        if self.own.is_some() {
            command.env("DOCKER_HOST", format!("unix://{}", self.folder.path().join("socket").display()));
            command.env("DOCKER_CONFIG", self.folder.path());
        }
        command
    }

    /// Runs the client to its end.
    pub fn docker(&self, args: &[&str]) -> Ended {
        let started = Instant::now();
        let ran = self.command().args(args).stdin(Stdio::null()).output().expect("the client runs");
        Ended {
            took: started.elapsed(),
            code: ran.status.code().expect("nobody kills the client"),
            stdout: String::from_utf8_lossy(&ran.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&ran.stderr).into_owned(),
        }
    }

    /// As `docker`, for what must work: its output without the final newline.
    pub fn ok(&self, args: &[&str]) -> String {
        let ended = self.docker(args);
        assert_eq!(ended.code, 0, "docker {args:?}: {}", ended.stderr);
        ended.stdout.trim_end().to_owned()
    }

    /// Makes an image; gives its name.
    pub fn import(&self, image: &Image) -> String {
        let (name, tar) = (format!("{}:{}", self.id, image.name), self.folder.path().join("image.tar"));
        image.pack(&tar);
        let mut import = vec!["import".to_owned()];
        import.extend(image.changes.iter().flat_map(|change| ["--change".to_owned(), change.clone()]));
        import.extend([tar.display().to_string(), name.clone()]);
        self.ok(&import.iter().map(String::as_str).collect::<Vec<_>>());
        name
    }

    /// `docker run --rm OPTION… IMAGE COMMAND…`, waited for.
    pub fn run(&self, options: &[&str], image: &str, command: &[&str]) -> Ended {
        let label = self.label();
        self.docker(&[&["run", "--rm", "--label", &label], options, &[image], command].concat())
    }

    /// `docker run --rm OPTION… IMAGE COMMAND…` on a terminal.
    pub fn run_on(&self, terminal: &Terminal, options: &[&str], image: &str, command: &[&str]) -> Child {
        let mut run = self.command();
        run.args(["run", "--rm", "--label", &self.label()]).args(options).arg(image).args(command);
        run.stdin(terminal.end()).stdout(terminal.end()).stderr(terminal.end());
        run.spawn().expect("the client runs")
    }

    /// `docker run -d OPTION… IMAGE COMMAND…`
    pub fn start_container(
        &self,
        name: &str,
        options: &[&str],
        image: &str,
        command: &[&str],
    ) -> Container<'_> {
        let (name, label) = (self.name(name), self.label());
        let run = ["run", "-d", "--name", &name, "--label", &label];
        self.ok(&[&run, options, &[image], command].concat());
        Container { engine: self, name }
    }

    /// A user-defined network; gives its name.
    pub fn network(&self, name: &str) -> String {
        let (name, label) = (self.name(name), self.label());
        self.ok(&["network", "create", "--label", &label, &name]);
        name
    }

    /// A file for a container to mount, readable by every user; gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("the folder is there");
        path.display().to_string()
    }

    /// A name that no other test uses.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    fn label(&self) -> String {
        format!("ensign-test={}", self.id)
    }

    /// Removes what this test made, from an engine that others use too.
    fn clear(&self) {
        let label = format!("label={}", self.label());
        let listed = |args: &[&str]| self.docker(args).stdout;
        let remove = |how: &[&str], listed: String| {
            let names: Vec<_> = listed.split_whitespace().collect();
            if !names.is_empty() {
                let removed = self.docker(&[how, &names].concat());
                eprint!("{}", removed.stderr);
            }
        };
        remove(&["rm", "-f", "-v"], listed(&["ps", "-aq", "--filter", &label]));
        remove(&["network", "rm"], listed(&["network", "ls", "-q", "--filter", &label]));
        remove(&["rmi"], listed(&["images", "--format", "{{.Repository}}:{{.Tag}}", &self.id]));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.own.is_none() {
            self.clear();
        }
    }
}

fn answers(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|ran| ran.status.success())
}

/// An engine of the test's own.
struct Daemon {
    child: Child,
    log: PathBuf,
    cgroup: String,
}

impl Daemon {
    fn start(folder: &Path, id: &str) -> Daemon {
        let log = folder.join("log");
        let output = File::create(&log).expect("a log");
        let place = |name: &str| folder.join(name).display().to_string();
        // The first dies with this thread, whatever kills it; the second takes all of its namespace with it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--fork", "--pid", "--mount-proc", "--net", "--mount"])
            .args(["--kill-child=KILL", "--", "sh", "-euc", BOOT, "sh"])
            .args(["--host", &format!("unix://{}", place("socket")), "--pidfile", &place("pid")])
            .args(["--data-root", &place("data"), "--exec-root", &place("exec"), "--cgroup-parent", id])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .env("DOCKER_KEEP_DEPRECATED_LEGACY_LINKS_ENV_VARS", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor is free"))
            .stderr(output)
            .spawn()
            .expect("setpriv starts (util-linux)");
        Daemon { child, log, cgroup: id.to_owned() }
    }

    /// True as long as it runs. Panics with its last words where it has ended.
    fn lives(&self) -> bool {
        if process::lives(self.child.id() as i32) {
            return true;
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        panic!("dockerd has ended: {last:#?}")
    }
}

/// Kills PID 1 of the namespaces, and with it all processes, mounts and interfaces; then the cgroups are empty.
impl Drop for Daemon {
    fn drop(&mut self) {
        for first in process::children(self.child.id() as i32) {
            let _ = kill(Pid::from_raw(first), Signal::SIGKILL);
        }
        let _ = self.child.wait();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let roots = hierarchies.map(|hierarchy| hierarchy.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        for root in roots {
            remove_cgroup(&root.join(&self.cgroup));
        }
    }
}

fn remove_cgroup(path: &Path) {
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    for folder in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&folder.path());
    }
    let _ = fs::remove_dir(path);
}

/// A container that was started in the background.
pub struct Container<'e> {
    engine: &'e Engine,
    pub name: String,
}

impl Container<'_> {
    /// `docker VERB OPTION… NAME`, which must work.
    pub fn ok(&self, verb: &[&str]) -> String {
        self.engine.ok(&[verb, &[&self.name]].concat())
    }

    /// `docker stop`; how long it took.
    pub fn stop(&self) -> Duration {
        let stopped = self.engine.docker(&["stop", &self.name]);
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        stopped.took
    }

    /// Its exit code, once it has ended.
    pub fn wait(&self) -> i32 {
        self.ok(&["wait"]).parse().expect("a number")
    }

    pub fn is_running(&self) -> bool {
        self.ok(&["inspect", "--format", "{{.State.Running}}"]) == "true"
    }

    /// On the default bridge.
    pub fn address(&self) -> String {
        self.address_on("bridge")
    }

    /// On a user-defined network.
    pub fn address_on(&self, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        self.ok(&["inspect", "--format", &format])
    }

    pub fn exec(&self, command: &[&str]) -> Ended {
        self.engine.docker(&[&["exec", &self.name], command].concat())
    }

    /// What it has printed, and to stderr.
    pub fn logs(&self) -> (String, String) {
        let logs = self.engine.docker(&["logs", &self.name]);
        (logs.stdout, logs.stderr)
    }

    /// Waits until a line of its output has `text` in it.
    pub fn until_logged(&self, text: &str) {
        wait::until_true(&format!("{text:?} in the output of {}", self.name), || {
            // Asked first: what ends in between has printed all of it.
            let running = self.is_running();
            let (out, err) = self.logs();
            let is_there = [&out, &err].iter().any(|log| log.contains(text));
            assert!(is_there || running, "{} has ended: {out}{err}", self.name);
            is_there
        });
    }
}

#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// The option's value that puts the ensign under test into a container that knows nothing of it.
pub fn mounted() -> String {
    mount(&ensign(), "/ensign")
}

/// As `mounted`, for the actor.
pub fn mounted_actor() -> String {
    mount(&actor(), "/actor")
}

fn mount(program: &Path, at: &str) -> String {
    let program = program.canonicalize().expect("the program was built");
    format!("{}:{at}:ro", program.display())
}

/// Where a program of this machine is.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let found = folders.iter().map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("these tests put {program} into an image, and it is not in PATH"))
}
