//! What comes out is what main did: its exit code, 128+N for its death by signal N, 127 and 126 for what can't run.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::namespace::{Ended, Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{ensign, wrapped};

fn every_exit_code(place: Place) {
    for code in 0..=255 {
        let ended = Sandbox::new(place).run(wrapped(&["exit", &code.to_string()]));
        assert_eq!(ended.code, code, "{ended:?}");
    }
}

#[test]
fn every_exit_code_comes_out_of_pid_1() {
    if skip::without(Need::Namespaces) {
        return;
    }
    every_exit_code(Place::First);
}

#[test]
fn every_exit_code_comes_out_of_a_guest() {
    if skip::without(Need::Namespaces) {
        return;
    }
    every_exit_code(Place::Guest);
}

/// Not those that end nothing by default: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
#[test]
fn every_death_by_signal_n_is_128_and_n() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for signal in (1..=64).filter(|n| !matches!(n, 17..=23 | 28)) {
        for place in [Place::First, Place::Guest] {
            let ended = Sandbox::new(place).run(wrapped(&["kill-self", &signal.to_string()]));
            assert_eq!(ended.code, 128 + signal, "{place:?} {ended:?}");
        }
    }
}

fn run_command(command: &OsString) -> Ended {
    // Directories that everyone may search: one that refuses would be the answer, not the missing command.
    let sandbox = Sandbox::new(Place::First).env("PATH", "/usr/bin:/bin");
    sandbox.run(vec![ensign().into(), "--".into(), command.clone()])
}

fn assert_refused(command: impl Into<OsString>, code: i32, reasons: &[&str]) {
    let command = command.into();
    let ended = run_command(&command);
    assert_eq!(ended.code, code, "{ended:?}");
    let said = ended.stderr.to_lowercase();
    assert!(ended.stderr.contains(&*command.to_string_lossy()), "names {command:?}: {ended:?}");
    assert!(reasons.iter().any(|reason| said.contains(reason)), "says one of {reasons:?}: {ended:?}");
}

#[test]
fn a_command_that_is_not_there_is_127() {
    if skip::without(Need::Namespaces) {
        return;
    }
    assert_refused("/no/such/command", 127, &["no such file", "not found"]);
    assert_refused("no-such-command-anywhere", 127, &["no such file", "not found"]);
}

#[test]
fn a_command_that_may_not_be_run_is_126() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a-file");
    std::fs::write(&file, "#!/bin/sh\n").expect("a file is written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("it is ours");
    assert_refused(&file, 126, &["permission denied", "not executable"]);
    assert_refused(directory.path(), 126, &["permission denied", "directory"]);
}

/// As with a shell: a name without a slash is looked for in PATH, and a good one behind a bad one is found.
#[test]
fn a_command_is_looked_for_in_path() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let argv = [ensign().into(), "--".into(), "sh".into(), "-c".into(), "exit 9".into()].to_vec();
    let ended = Sandbox::new(Place::First).env("PATH", "/no/such/directory:/usr/bin:/bin").run(argv);
    assert_eq!(ended.code, 9, "{ended:?}");
}

#[test]
fn the_version_is_told() {
    if skip::as_a_peer("has a version of its own") {
        return;
    }
    let told = Command::new(ensign()).arg("--version").output().expect("ensign runs");
    assert!(told.status.success(), "{told:?}");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(text.contains("ensign") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
}

#[test]
fn bad_usage_is_2_and_says_why() {
    if skip::as_a_peer("has another code for it") {
        return;
    }
    let told = Command::new(ensign()).arg("--no-such-option").output().expect("ensign runs");
    assert_eq!(told.status.code(), Some(2), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stderr).contains("--no-such-option"), "{told:?}");
}
