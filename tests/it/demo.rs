//! `make demo` does what it shows, and leaves nothing behind. Runs the very program.

use std::fs::{read, read_dir};
use std::path::Path;
use std::process::Command;

use crate::support::actor;

/// The text between `before` and `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in:\n{text}"));
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} after {before:?} in:\n{text}")).0
}

#[test]
fn the_demo_shows_what_it_says_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let demo = actor().with_file_name("demo");
    let ran = Command::new(&demo).env("TMPDIR", folder.path()).output().expect("cargo build --example demo");
    let text = String::from_utf8(ran.stdout).expect("text");
    assert!(ran.status.success(), "{text}");

    let acts: Vec<&str> = text.split("\n== ").collect();
    let [_, checked, announced, linked, crashed, again, stopped] = acts[..] else { panic!("{text}") };
    assert!(checked.contains("ok: echo, web (main); announces web.demo.example"), "{checked}");
    assert!(linked.contains("24 bytes went through"), "{linked}");

    // The same record is there, gone, there and gone again.
    let port = between(announced, "web.demo.example at 127.0.0.1:", " ");
    let listed = |act: &str| -> Vec<String> {
        let (_, table) = act.split_once("  NAME ").expect("ls prints a table");
        let rows = table.lines().filter(|line| line.starts_with("  web.demo.example "));
        rows.map(|row| row.split_whitespace().nth(3).unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(listed(announced), [port]);
    assert_eq!(listed(crashed), [""; 0]);
    assert_eq!(listed(again), [port]);
    assert_eq!(listed(stopped), [""; 0]);

    // Killed by what it says, withdrawn within milliseconds (the limit is for a machine that is busy), another process.
    let first = between(announced, "answered by web, pid ", "\n");
    assert!(crashed.starts_with(&format!("web crashes: kill -KILL {first}\n")), "{crashed}");
    assert!(crashed.contains("ended: killed by SIGKILL"), "{crashed}");
    let gone: f64 = between(crashed, "the record was gone ", " ms after the kill").parse().expect("a number");
    assert!(gone < 1000.0, "{gone}");
    let second = between(again, "answered by web, pid ", "\n");
    assert_ne!(first, second);
    assert_eq!(between(stopped, "is still served: pid ", "\n"), second);
    assert!(stopped.contains("exit code 0: web's own"), "{stopped}");

    assert_eq!(read_dir(folder.path()).expect("is there").count(), 0);
    assert_eq!(processes_that_know(folder.path()), [0; 0]);
}

/// Those with the folder's path in their environment, as everything that the demo starts has it.
fn processes_that_know(folder: &Path) -> Vec<i32> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let all = read_dir("/proc").expect("a mounted /proc").flatten();
    all.filter_map(|entry| {
        let environment = read(entry.path().join("environ")).ok()?;
        environment.windows(folder.len()).any(|part| part == folder).then_some(())?;
        entry.file_name().to_str()?.parse().ok()
    })
    .collect()
}
