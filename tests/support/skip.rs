//! What a test needs of the machine. Who can't give it says so with a variable, and the test prints one line and is
//! over. Without the variable a machine that refuses is a failure with the reason: a green run has run everything.

use std::process::Command;

/// What keeps a private engine from being started is told after what the default one's client said.
const DOCKER: &str = "docker version >/dev/null && exit
    [ $(id -u) = 0 ] || { echo 'Only root can start an engine' >&2; exit 1; }
    command -v dockerd >/dev/null || { echo 'There is no dockerd to start (Debian: docker.io)' >&2; exit 1; }";

#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// PID and mount namespaces through `unshare`: as root, or with user namespaces open to everyone.
    Namespaces,
    /// A Docker engine that answers, or root and a dockerd to start one.
    Docker,
}

impl Need {
    pub const ALL: [Need; 2] = [Need::Namespaces, Need::Docker];

    /// Set to 1 it leaves out the tests that have this need.
    pub fn variable(self) -> &'static str {
        match self {
            Need::Namespaces => "ENSIGN_SKIP_NS",
            Need::Docker => "ENSIGN_SKIP_DOCKER",
        }
    }

    fn probe(self) -> Command {
        let (program, args): (_, &[&str]) = match self {
            Need::Namespaces => ("unshare", &["--fork", "--pid", "--mount-proc", "--", "true"]),
            Need::Docker => ("sh", &["-c", DOCKER]),
        };
        let mut probe = Command::new(program);
        if let (Need::Namespaces, false) = (self, nix::unistd::geteuid().is_root()) {
            probe.args(["--user", "--map-root-user"]);
        }
        probe.args(args);
        probe
    }
}

/// True when the test is to return at once. Panics when the machine refuses and nobody said that it may.
#[must_use]
pub fn without(need: Need) -> bool {
    let skipped = std::env::var_os(need.variable()).is_some_and(|value| value == "1");
    if skipped {
        println!("skipped: {}=1", need.variable());
        return true;
    }
    if let Err(why) = refusal(need.probe()) {
        panic!("this test needs {need:?}: {why}. {}=1 leaves such tests out", need.variable());
    }
    false
}

/// True, with a line that says why, where the init under test is a peer that can't do this. Never for an ensign.
#[must_use]
pub fn as_a_peer(lacks: &str) -> bool {
    let peer = super::ensign().file_name().is_some_and(|name| name != "ensign");
    if peer {
        println!("skipped: {} {lacks}", super::ensign().display());
    }
    peer
}

/// Runs `probe`; its words where it fails.
fn refusal(mut probe: Command) -> Result<(), String> {
    let ran = probe.output().map_err(|why| format!("{:?}: {why}", probe.get_program()))?;
    if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()) }
}

#[test]
fn each_need_has_its_own_variable() {
    let [one, two] = Need::ALL.map(Need::variable);
    assert_ne!(one, two);
}

#[test]
fn a_refusal_gives_the_words_of_who_refused() {
    let mut probe = Command::new("sh");
    probe.args(["-c", "echo not with me >&2; exit 1"]);
    assert_eq!(refusal(probe), Err("not with me".into()));
    assert!(refusal(Command::new("/no/such/program")).is_err_and(|why| why.contains("/no/such/program")));
}
