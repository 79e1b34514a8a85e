//! Runs a command in fresh PID and mount namespaces of its own: as PID 1 there, or as a guest under another PID 1.
//! /proc is that of the namespaces, nothing outlives a `Running`, and no orphan depends on the machine's own PID 1.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::skip::{self, Need};
use super::{process, wait};

/// What becomes of the command within its namespaces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// It is PID 1.
    First,
    /// A shell is PID 1, waits for it and ends with its code.
    Guest,
}

/// Set for a test that runs in namespaces of its own.
const INSIDE: &str = "ENSIGN_INSIDE";

/// Runs the calling test again, by its name, in namespaces of its own: processes, mounts and a network, where it may
/// set up what it likes. True out here, where nothing is left to do but to return; false in there. Panics as that run did.
/// No temporary file of that run outlives it.
#[must_use]
pub fn ran_inside<T: Fn()>(test: T) -> bool {
    if is_inside() {
        return false;
    }
    if skip::without(Need::Namespaces) {
        return true;
    }
    let ended = run_inside(test, &[]);
    print!("{}", ended.stdout);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    true
}

/// This is the run of a test that has namespaces of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// As `ran_inside`, with variables for that run, and with its end for the caller to judge.
pub fn run_inside<T: Fn()>(_test: T, env: &[(&'static str, String)]) -> Ended {
    let path = std::any::type_name::<T>();
    let (_, name) = path.split_once("::").expect("a test is in a crate");
    let this = std::env::current_exe().expect("we run");
    let argv = [this.into(), "--exact".into(), name.into(), "--nocapture".into()];
    // Whatever it leaves behind when it is killed goes with this.
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let sandbox = Sandbox::new(Place::Guest).net().env(INSIDE, "1").env("TMPDIR", temporary.path());
    let sandbox = env.iter().fold(sandbox, |sandbox, (name, value)| sandbox.env(name, value));
    let ended = sandbox.start(argv.into()).tested();
    assert!(ended.stdout.contains("running 1 test"), "no test is called {name}");
    ended
}

pub struct Sandbox {
    place: Place,
    with_net: bool,
    beside: Option<i32>,
    user: Option<u32>,
    read_only: bool,
    root: Option<tempfile::TempDir>,
    files: Vec<(PathBuf, &'static str)>,
    redirections: &'static str,
    prefix: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    directory: Option<PathBuf>,
    stdin: Stdio,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl Sandbox {
    pub fn new(place: Place) -> Sandbox {
        Sandbox {
            place,
            with_net: false,
            beside: None,
            user: None,
            read_only: false,
            root: None,
            files: vec![],
            redirections: "",
            prefix: vec![],
            env: vec![],
            directory: None,
            stdin: Stdio::null(),
            stdout: None,
            stderr: None,
        }
    }

    /// A network of its own too, with the loopback up.
    pub fn net(mut self) -> Sandbox {
        self.with_net = true;
        self
    }

    /// In the network of this process, and with the rights that its user has there.
    pub fn beside(mut self, pid: i32) -> Sandbox {
        self.beside = Some(pid);
        self
    }

    /// Runs the command as this user and group, without capabilities. Needs root outside.
    pub fn user(mut self, id: u32) -> Sandbox {
        assert!(nix::unistd::geteuid().is_root(), "only root can run a command as user {id}");
        self.user = Some(id);
        self
    }

    /// No file of the root can be written.
    pub fn read_only(mut self) -> Sandbox {
        self.read_only = true;
        self
    }

    /// A root with /proc and these files of the host, each at `/NAME`, and nothing else.
    pub fn bare_root(mut self, files: &[(&Path, &'static str)]) -> Sandbox {
        self.root = Some(tempfile::tempdir().expect("a directory for the root"));
        self.files = files.iter().map(|(from, name)| (from.to_path_buf(), *name)).collect();
        self
    }

    /// Redirections as a shell writes them, such as `<&-`, applied to the command alone.
    pub fn redirected(mut self, redirections: &'static str) -> Sandbox {
        self.redirections = redirections;
        self
    }

    /// A command that execs the one to run, such as `actor dirty`.
    pub fn through(mut self, prefix: Vec<OsString>) -> Sandbox {
        self.prefix = prefix;
        self
    }

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Sandbox {
        self.env.push((name, value.into()));
        self
    }

    pub fn directory(mut self, path: &Path) -> Sandbox {
        self.directory = Some(path.to_path_buf());
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Sandbox {
        self.stdin = stdin.into();
        self
    }

    /// In place of the file that `Running::stdout` reads.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Sandbox {
        self.stdout = Some(stdout.into());
        self
    }

    /// In place of the file that `Running::stderr` reads.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Sandbox {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts the command; `Running::init` tells when it has been exec'd.
    pub fn start(self, argv: Vec<OsString>) -> Running {
        let (out, err) = (capture(), capture());
        let mut unshare = match self.beside {
            None => Command::new("unshare"),
            Some(pid) => {
                let mut nsenter = Command::new("nsenter");
                nsenter.args(joining(pid)).arg("unshare");
                nsenter
            }
        };
        unshare.args(["--fork", "--pid", "--mount-proc", "--kill-child=KILL"]);
        if self.beside.is_none() && !nix::unistd::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        if self.with_net {
            unshare.arg("--net");
        }
        unshare
            .args(["--", "sh", "-euc", &self.script(), "sh"])
            .args(self.entry())
            .args(&self.prefix)
            .args(&argv);
        unshare.envs(self.env).stdin(self.stdin);
        unshare.stdout(self.stdout.unwrap_or_else(|| shared(&out)));
        unshare.stderr(self.stderr.unwrap_or_else(|| shared(&err)));
        if let Some(directory) = &self.directory {
            unshare.current_dir(directory);
        }
        let started = Instant::now();
        let child = unshare.spawn().expect("unshare starts");
        Running { child, argv, out, err, started, _root: self.root }
    }

    /// Starts the command and waits for its end.
    pub fn run(self, argv: Vec<OsString>) -> Ended {
        self.start(argv).wait()
    }

    /// Runs as PID 1 and becomes the command in the end, or its parent.
    fn script(&self) -> String {
        let mut script = String::new();
        let mut line = |text: String| script.push_str(&(text + "\n"));
        if self.with_net {
            line("ip link set lo up".into());
        }
        let root = self.root.as_ref().map(|dir| dir.path().display().to_string());
        if let Some(root) = &root {
            line(format!(
                "mount -t tmpfs -o mode=755 root {root}; mkdir {root}/proc; mount -t proc proc {root}/proc"
            ));
            for (from, name) in &self.files {
                line(format!(": >{root}/{name}; mount --bind {} {root}/{name}", from.display()));
            }
        }
        if self.read_only {
            line(format!("mount -o remount,bind,ro {}", root.as_deref().unwrap_or("/")));
        }
        match self.place {
            Place::First => line(format!("exec \"$@\" {}", self.redirections)),
            Place::Guest => line(format!("set +e; \"$@\" {}; exit $?", self.redirections)),
        }
        script
    }

    /// The command that enters root and user, and execs the rest.
    fn entry(&self) -> Vec<OsString> {
        let mut entry: Vec<OsString> = vec![];
        if let Some(root) = &self.root {
            entry.push("chroot".into());
            if let Some(id) = self.user {
                entry.extend([format!("--userspec=+{id}:+{id}").into(), "--groups=".into()]);
            }
            entry.push(root.path().into());
        } else if let Some(id) = self.user {
            let (user, group) = (format!("--reuid={id}"), format!("--regid={id}"));
            entry.extend(["setpriv", &user, &group, "--clear-groups", "--"].map(OsString::from));
        }
        entry
    }
}

/// The arguments of nsenter that lead into the network of `pid`, before the command's own.
pub fn joining(pid: i32) -> Vec<String> {
    let namespace = |kind: &str| format!("--{kind}=/proc/{pid}/ns/{kind}");
    let mut args = vec![namespace("net")];
    if !nix::unistd::geteuid().is_root() {
        args.extend([namespace("user"), "--preserve-credentials".to_owned()]);
    }
    args.push("--".to_owned());
    args
}

/// Appending, so that writers side by side overwrite nothing of each other.
fn capture() -> File {
    let file = tempfile::tempfile().expect("a file for the output");
    let append = OFlag::O_APPEND | OFlag::O_RDWR;
    fcntl(&file, FcntlArg::F_SETFL(append)).expect("a file can be appended to");
    file
}

fn shared(file: &File) -> Stdio {
    file.try_clone().expect("a descriptor is free").into()
}

pub struct Running {
    child: Child,
    argv: Vec<OsString>,
    out: File,
    err: File,
    started: Instant,
    _root: Option<tempfile::TempDir>,
}

impl Running {
    /// The command's pid as seen from out here, once it has been exec'd.
    pub fn init(&self) -> i32 {
        self.pid_of(&self.argv)
    }

    /// The pid, as seen from out here, of the process inside that runs exactly `argv`.
    pub fn pid_of(&self, argv: &[OsString]) -> i32 {
        wait::until(&format!("{argv:?} to be running"), || self.find(argv))
    }

    /// As `init`, noticed within microseconds of the exec: for a test that races with what comes next.
    pub fn init_at_once(&self) -> i32 {
        wait::at_once(&format!("{:?} to be running", self.argv), || self.find(&self.argv))
    }

    /// Every process inside that runs exactly `argv` now.
    pub fn pids_of(&self, argv: &[OsString]) -> Vec<i32> {
        let below = process::descendants(self.child.id() as i32).into_iter();
        below.filter(|pid| process::argv(*pid) == argv).collect()
    }

    fn find(&self, argv: &[OsString]) -> Option<i32> {
        self.pids_of(argv).first().copied()
    }

    /// The main process under the init: its only child.
    pub fn main(&self) -> i32 {
        let init = self.init();
        wait::until("the init's child", || process::children(init).first().copied())
    }

    pub fn stdout(&self) -> String {
        text(&self.out)
    }

    pub fn stderr(&self) -> String {
        text(&self.err)
    }

    /// Waits until `line` has been printed, whole.
    pub fn until_line(&self, line: &str) {
        let what = format!("the line {line:?}");
        let has_ended = || !process::lives(self.child.id() as i32);
        let is_there = || self.stdout().lines().any(|seen| seen == line);
        wait::until_true(&what, || {
            let ended = has_ended();
            let there = is_there();
            assert!(there || !ended, "it has ended without {what}: {}", self.stderr());
            there
        });
    }

    pub fn wait(mut self) -> Ended {
        let status = wait::until(&format!("{:?} to end", self.argv), || self.ended());
        self.told(status)
    }

    /// As `wait`, where it is a test.
    fn tested(mut self) -> Ended {
        let status = wait::until_tested(&format!("{:?} to end", self.argv), || self.ended());
        self.told(status)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    fn told(self, status: ExitStatus) -> Ended {
        let took = self.started.elapsed();
        // `unshare` kills itself with the signal that killed its child.
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).expect("it has ended");
        Ended { code, stdout: self.stdout(), stderr: self.stderr(), took }
    }
}

/// Kills the namespace's PID 1, and with it everything inside. `--kill-child` alone would not do: a change of user
/// clears that signal.
impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} printed: {:?}, and to stderr: {:?}", self.argv, self.stdout(), self.stderr());
        }
        if let Ok(None) = self.child.try_wait() {
            let firsts = process::children(self.child.id() as i32);
            for first in &firsts {
                let _ = kill(Pid::from_raw(*first), Signal::SIGKILL);
            }
            // `unshare` ends by itself then, once everything inside is gone: its ports are free.
            if firsts.is_empty() {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

#[derive(Debug)]
pub struct Ended {
    /// The exit code, 128+N for a death by signal N.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// Everything written so far; the file's own offset belongs to the writers and stays as it is.
fn text(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().expect("an open file has a length").len() as usize];
    let read = file.read_at(&mut bytes, 0).expect("a file is read");
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}
