//! `make demo`: what ensign is for, seen in a few seconds. Runs the real binary on config/demo and does to it what
//! happens to services: clients, a crash, a stop.
//!
//! It only watches from outside: what it shows is ensign's own log, the output of `ensign ls`, and times that it took
//! itself. Everything is on 127.0.0.1 and in one temporary folder, and ends with it. Uses nothing of ensign's library.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "clippy.toml is for PID 1: this program starts one and waits for it"
)]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// For each thing that is waited for; none takes more than two seconds on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("\nthe demo failed: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let started = Instant::now();
    let stage = Stage::new()?;

    title("One service file for each service, checked before anything starts");
    stage.ensign(&["check", "config/demo"])?;

    title("ensign starts echo, then web, and announces web once its check has passed");
    let mut ensign = Ensign::start(&stage)?;
    ensign.until("announced: ")?;
    stage.ls()?;
    let first = stage.web()?;
    say(&format!("  GET http://127.0.0.1:{}/  answered by web, pid {first}", stage.web_port));

    title("Inside the container, a service that runs elsewhere is a port on localhost");
    let back = stage.through_the_link(b"hello from the other end")?;
    say(&format!(
        "  {} bytes went through 127.0.0.1:{} and came back: {back:?}",
        back.len(),
        stage.link_port
    ));

    title(&format!("web crashes: kill -KILL {first}"));
    let gone = stage.kill_and_watch(first)?;
    ensign.until("withdrawn")?;
    stage.ls()?;
    say(&format!("  the record was gone {:.1} ms after the kill", gone.as_secs_f64() * 1000.0));

    title("It starts again, and is announced once it has been healthy for a second");
    ensign.until("announced: ")?;
    stage.ls()?;
    let second = stage.web()?;
    say(&format!("  GET http://127.0.0.1:{}/  answered by web, pid {second}", stage.web_port));

    title("The container is stopped: kill -TERM");
    kill(ensign.pid(), Signal::SIGTERM)?;
    ensign.until("withdrawn")?;
    stage.ls()?;
    let draining = stage.web()?;
    say(&format!("  and whoever had found it before is still served: pid {draining}"));
    let ended = ensign.end()?;
    let code = ended.code().ok_or_else(|| format!("ensign ended by a signal: {ended}"))?;
    say(&format!("  exit code {code}: web's own"));
    say(&format!("\nThat was {:.1} s. Read on in README.md.", started.elapsed().as_secs_f64()));
    Ok(())
}

/// The programs, the ports and the folder.
struct Stage {
    ensign: PathBuf,
    actor: PathBuf,
    folder: tempfile::TempDir,
    web_port: u16,
    echo_port: u16,
    link_port: u16,
}

impl Stage {
    fn new() -> Result<Self> {
        let examples = std::env::current_exe()?;
        let examples = examples.parent().ok_or("the demo is in no folder")?;
        // All three at once, so that they differ.
        let free: Vec<_> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let port = |n: usize| free[n].local_addr().map(|address| address.port());
        Ok(Self {
            ensign: examples.with_file_name("ensign"),
            actor: examples.join("actor"),
            folder: tempfile::tempdir()?,
            web_port: port(0)?,
            echo_port: port(1)?,
            link_port: port(2)?,
        })
    }

    /// ensign with the variables that config/demo asks for.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.ensign);
        command.args(args).stdin(Stdio::null()).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env("ACTOR", &self.actor).env("DEMO_REGISTRY", self.folder.path());
        for (name, port) in
            [("WEB_PORT", self.web_port), ("ECHO_PORT", self.echo_port), ("LINK_PORT", self.link_port)]
        {
            command.env(name, port.to_string());
        }
        command
    }

    /// Runs ensign to its end and shows what it prints.
    fn ensign(&self, args: &[&str]) -> Result<()> {
        say(&format!("  $ ensign {}", args.join(" ")));
        let ran = self.command(args).stderr(Stdio::inherit()).output()?;
        for line in String::from_utf8_lossy(&ran.stdout).lines() {
            say(&format!("  {line}"));
        }
        if ran.status.success() { Ok(()) } else { Err(format!("ensign {args:?}: {}", ran.status).into()) }
    }

    fn ls(&self) -> Result<()> {
        self.ensign(&["ls", "-c", "config/demo"])
    }

    /// Kills the process and gives the time until its record was gone from the folder.
    fn kill_and_watch(&self, pid: i32) -> Result<Duration> {
        let record = only_file(&self.folder.path().join("skydns")).ok_or("there is no record to watch")?;
        let killed = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        // Without a pause: it would be what is measured.
        while record.exists() {
            if killed.elapsed() > PATIENCE {
                return Err("the record is still there".into());
            }
            std::thread::yield_now();
        }
        Ok(killed.elapsed())
    }

    /// Asks web who it is.
    fn web(&self) -> Result<i32> {
        let mut web = connect(self.web_port)?;
        write!(web, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        web.read_to_string(&mut answer)?;
        let pid = answer.trim_end().rsplit(' ').next().and_then(|pid| pid.parse().ok());
        pid.ok_or_else(|| format!("web answered {answer:?}").into())
    }

    fn through_the_link(&self, bytes: &[u8]) -> Result<String> {
        let mut link = connect(self.link_port)?;
        link.write_all(bytes)?;
        link.shutdown(Shutdown::Write)?;
        let mut back = String::new();
        link.read_to_string(&mut back)?;
        if back.as_bytes() == bytes {
            Ok(back)
        } else {
            Err(format!("other bytes came back: {back:?}").into())
        }
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The one file below `folder` that is no dot file.
fn only_file(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if path.is_dir() { only_file(&path) } else { Some(path).filter(|_| !hidden) }
    })
}

/// A running ensign, whose log lines come one by one. Dropped, it is killed, and what it started with it.
struct Ensign {
    child: Child,
    log: Receiver<String>,
}

impl Ensign {
    fn start(stage: &Stage) -> Result<Self> {
        say("  $ ensign run -c config/demo");
        let mut child = stage.command(&["run", "-c", "config/demo"]).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or("no log to read")?;
        let (lines, log) = channel();
        // Ends with the log.
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(|line| line.ok()).all(|line| lines.send(line).is_ok())
        });
        Ok(Self { child, log })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Shows the log up to and with the next line that has `text` in it.
    fn until(&mut self, text: &str) -> Result<()> {
        loop {
            let line = self.next()?.ok_or_else(|| format!("ensign ended before it said {text:?}"))?;
            if line.contains(text) {
                return Ok(());
            }
        }
    }

    /// Shows the rest of the log and gives how ensign ended.
    fn end(&mut self) -> Result<ExitStatus> {
        while self.next()?.is_some() {}
        Ok(self.child.wait()?)
    }

    /// Shows and gives the next line; none once the log is at its end.
    fn next(&mut self) -> Result<Option<String>> {
        match self.log.recv_timeout(PATIENCE) {
            Ok(line) => {
                // The date says nothing here; the time of day does.
                let (_, since_midnight) = line.split_once('T').unwrap_or(("", &line));
                say(&format!("  | {since_midnight}"));
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(format!("no word from ensign for {PATIENCE:?}").into()),
        }
    }
}

impl Drop for Ensign {
    fn drop(&mut self) {
        // Ended already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn title(text: &str) {
    say(&format!("\n== {text}"));
}

/// A reader that has gone away is no reason to leave anything running.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
