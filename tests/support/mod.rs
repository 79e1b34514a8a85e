//! What the tests share: the programs under test, and one module a need. Asserts nothing about ensign; the tests do.

use std::ffi::OsString;
use std::path::PathBuf;

pub mod certificates;
pub mod cluster;
pub mod docker;
pub mod etcd;
pub mod history;
pub mod lan;
pub mod lane;
pub mod load;
pub mod namespace;
pub mod place;
pub mod plan;
pub mod process;
pub mod server;
pub mod service;
pub mod skip;
pub mod terminal;
pub mod wait;
pub mod watch;
pub mod world;

/// The init under test: this build's, or the one that ENSIGN_BIN names (a release build; a peer, to compare).
pub fn ensign() -> PathBuf {
    std::env::var_os("ENSIGN_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ensign")), PathBuf::from)
}

/// The payload program, built as an example beside this build's ensign.
pub fn actor() -> PathBuf {
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_ensign")).with_file_name("examples").join("actor");
    assert!(
        beside.exists(),
        "{beside:?} is missing: cargo build --example actor (with the profile of this run)"
    );
    beside
}

/// `ensign -- actor ARG…`
pub fn wrapped(args: &[&str]) -> Vec<OsString> {
    let mut argv = vec![ensign().into(), "--".into()];
    argv.extend(acted(args));
    argv
}

/// `actor ARG…`
pub fn acted(args: &[&str]) -> Vec<OsString> {
    let mut argv = vec![OsString::from(actor())];
    argv.extend(args.iter().map(OsString::from));
    argv
}
