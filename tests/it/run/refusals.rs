//! What can't be run, said once and clearly, with nothing started; and what the command line says in place of a file.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::namespace::{Ended, Place, Sandbox};
use crate::support::service::{Folder, command, count, list};
use crate::support::skip::{self, Need};
use crate::support::{acted, ensign};

#[test]
fn a_bad_file_is_reported_whole_and_starts_nothing() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let touch = |name: &str| list("command", &["touch".into(), folder.path(name).into()]);
    folder.write("good.toml", &(touch("good-ran") + "main = false\n"));
    folder.write(
        "bad.toml",
        &(touch("bad-ran")
            + "main = true\nrestrat = { when = \"always\" }\nuser = \"no-such-user\"\n[stop]\ntimeout = 5\n"),
    );
    for place in [Place::First, Place::Guest] {
        let ended = Sandbox::new(place).run(folder.run(""));
        assert_eq!((ended.code, ended.stdout.as_str()), (78, ""), "{ended:?}");
        for (line, what) in [(3, "restrat"), (4, "no-such-user"), (6, "timeout")] {
            assert_eq!(count(&ended.stderr, &format!("bad.toml:{line}:")), 1, "{what}: {}", ended.stderr);
        }
        assert_eq!(count(&ended.stderr, "error:"), 3, "{}", ended.stderr);
        assert!(!folder.path("good-ran").exists() && !folder.path("bad-ran").exists());
    }
}

fn refused(command: &str, code: i32) -> Ended {
    // Given up at once: trying again can't help.
    let text = list("command", &[command.into()])
        + "restart = { when = \"always\", delay = \"1h\", max_delay = \"1h\" }\n";
    // Directories that everyone may search: one that refuses would be the answer, not the missing command.
    let sandbox = Sandbox::new(Place::First).env("PATH", "/usr/bin:/bin");
    let ended = Folder::with(&text).start_in(sandbox).running.wait();
    assert_eq!(ended.code, code, "{ended:?}");
    assert!(ended.stderr.contains(command), "{ended:?}");
    ended
}

#[test]
fn a_command_that_cant_be_run_is_127_or_126() {
    if skip::without(Need::Namespaces) {
        return;
    }
    refused("/no/such/command", 127);
    refused("no-such-command-anywhere", 127);
    let folder = Folder::new();
    folder.write("plain", "#!/bin/sh\n");
    std::fs::set_permissions(folder.path("plain"), PermissionsExt::from_mode(0o644)).expect("it is ours");
    refused(&folder.path("plain").display().to_string(), 126);
    refused(&folder.path("").display().to_string(), 126);
}

/// In a root without /etc/ensign, whatever the machine has.
#[test]
fn nothing_to_run_says_what_to_do() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for args in [&["/ensign"][..], &["/ensign", "run"]] {
        let sandbox = Sandbox::new(Place::First).bare_root(&[(&ensign(), "ensign")]);
        let ended = sandbox.run(args.iter().map(Into::into).collect());
        assert_eq!((ended.code, ended.stdout.as_str()), (78, ""), "{ended:?}");
        for hint in ["nothing to run", "/etc/ensign", "ensign -- COMMAND", "ensign run -c"] {
            assert!(ended.stderr.contains(hint), "{hint:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let told = Command::new(ensign()).args(["run", "-c", "/no/such/web.toml"]).output().expect("ensign runs");
    assert_eq!(told.status.code(), Some(78), "{told:?}");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(said.contains("/no/such/web.toml") && said.contains("No such file"), "{said}");
}

/// The command takes main's place; the rest of the file holds for it.
#[test]
fn a_command_line_replaces_the_files() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("app.toml", &(command(&["exit", "1"]) + "env = { GIVEN = \"by the file\" }\nmain = true\n"));
    folder.write("side.toml", &(command(&["hold"]) + "main = false\n"));
    folder.write("ensign.toml", "[log]\nlevel = \"error\"\n");
    let mut argv = folder.run("");
    argv.extend(["--", "sh", "-c", "echo $GIVEN $1; exit 0", "sh", "two  words"].map(Into::into));
    let ended = Sandbox::new(Place::First).run(argv);
    assert_eq!((ended.code, ended.stdout.contains("by the file two words\n")), (0, true), "{ended:?}");
    assert_eq!(ended.stderr, "", "nothing to complain of at this level");
}

/// The command's own options are its own.
#[test]
fn a_wrapped_command_is_not_restarted() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let mut argv = vec![ensign().into(), "run".into(), "--".into()];
    argv.extend(acted(&["exit", "9"]));
    let ended = Sandbox::new(Place::First).run(argv);
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (9, "", ""), "{ended:?}");
}
