//! What main is given: everything of the starter's that is its own to keep, untouched, and nothing of its mess.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::support::namespace::{Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{acted, ensign};

/// `actor state` as `key → value`.
type State = HashMap<String, String>;

/// What main sees when `actor STARTER` starts `argv`.
fn state(place: Place, starter: &str, directory: &Path, argv: Vec<OsString>) -> State {
    let ended = Sandbox::new(place).directory(directory).through(acted(&[starter])).run(argv);
    assert_eq!(ended.code, 0, "{ended:?}");
    let pair = |line: &str| line.split_once(' ').map(|(key, value)| (key.into(), value.into()));
    ended.stdout.lines().filter_map(pair).collect()
}

/// `actor state` with arguments after it that it doesn't read: empty ones, spaces, dashes, bytes that are no text.
fn payload() -> Vec<OsString> {
    let mut argv = acted(&["state", "", "two words", "--", "-x", "--help", "$HOME"]);
    argv.push(OsString::from_vec(b"\xff\xfe \x80".to_vec()));
    argv
}

fn under_the_init() -> Vec<OsString> {
    [ensign().into(), "--".into()].into_iter().chain(payload()).collect()
}

#[test]
fn what_is_mains_reaches_it_untouched() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let parent = tempfile::tempdir().expect("a directory");
    let directory = parent.path().join(OsStr::from_bytes(b"no \xfftext"));
    std::fs::create_dir(&directory).expect("a directory");
    for place in [Place::First, Place::Guest] {
        let alone = state(place, "odd", &directory, payload());
        let under = state(place, "odd", &directory, under_the_init());
        for key in ["Argv", "Env", "Cwd", "Umask", "Limits", "Uid", "Gid", "Groups"] {
            assert!(!alone[key].is_empty() || key == "Groups", "{key} says something");
            assert_eq!(under.get(key), alone.get(key), "{key} {place:?}");
        }
        for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Sid"] {
            assert_eq!(under.get(key), alone.get(key), "{key} {place:?}");
        }
    }
}

/// The starter had every signal blocked and ignored (CHLD too: then no `wait` ever reports) and fds 3 to 9 open.
#[test]
fn nothing_of_the_starters_mess_reaches_main() {
    if skip::without(Need::Namespaces) || skip::as_a_peer("hands on masks, ignored signals and descriptors") {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let alone = state(place, "dirty", Path::new("/"), payload());
        assert_ne!(
            (&*alone["SigIgn"], &*alone["Fds"]),
            ("0000000000000000", "0 1 2"),
            "the starter makes a mess"
        );
        let under = state(place, "dirty", Path::new("/"), under_the_init());
        for key in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
            assert_eq!(under[key], "0000000000000000", "{key} {place:?}");
        }
        assert_eq!(under["Fds"], "0 1 2", "{place:?}");
    }
}

#[test]
fn main_leads_a_group_of_its_own() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let under = state(place, "odd", Path::new("/"), under_the_init());
        assert_eq!(under["Pgid"], under["Pid"], "{place:?}");
    }
}
