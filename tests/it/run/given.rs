//! What a service file gives its service: who it is, what it knows, where it stands and what it may use.

use std::collections::HashMap;
use std::ffi::OsString;

use crate::support::namespace::{Place, Sandbox};
use crate::support::service::{Folder, Service, command};
use crate::support::skip::{self, Need};
use crate::support::{acted, process, wait};

/// `actor state` under a service file that adds `text`, in `sandbox`.
fn state(folder: &Folder, text: &str, sandbox: Sandbox) -> HashMap<String, String> {
    folder.write("web.toml", &(command(&["state"]) + text));
    let ended = folder.start_in(sandbox).running.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    let pair = |line: &str| line.split_once(' ').map(|(key, value)| (key.into(), value.into()));
    ended.stdout.lines().filter_map(pair).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hex")).collect()
}

fn text(hex: &str) -> String {
    String::from_utf8(bytes(hex)).expect("text")
}

fn variables(state: &HashMap<String, String>) -> Vec<String> {
    text(&state["Env"]).split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn the_environment_is_ours_then_the_files_then_env() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    folder.write("one.env", "# a comment\nONE=1\nexport BOTH='one'\nOURS=file\n");
    folder.write("two.env", "BOTH=two\nENV=file\n");
    let text = "env_file = [\"one.env\", \"two.env\"]\nenv = { ENV = \"env\", MADE = \"of ${OURS} and ${NONE:-none}\" }\n";
    let sandbox = || Sandbox::new(Place::First).env("OURS", "ours").env("KEPT", "kept");
    let seen = variables(&state(&folder, text, sandbox()));
    for expected in ["KEPT=kept", "OURS=file", "ONE=1", "BOTH=two", "ENV=env", "MADE=of ours and none"] {
        assert!(seen.iter().any(|variable| variable == expected), "{expected}: {seen:?}");
    }
    for name in ["OURS=", "BOTH=", "ENV="] {
        assert_eq!(seen.iter().filter(|variable| variable.starts_with(name)).count(), 1, "{name} {seen:?}");
    }
    let plain = variables(&state(&folder, "", sandbox()));
    assert!(plain.contains(&"OURS=ours".to_owned()), "{plain:?}");
}

#[test]
fn directory_limits_and_privileges_are_as_written() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let plain = state(&folder, "", Sandbox::new(Place::First));
    assert_eq!(plain["NoNewPrivs"], "0");
    let directory = folder.path("");
    let given = format!(
        "directory = \"{}\"\nno_new_privileges = true\n\
         limits = {{ nofile = {{ soft = 123, hard = 456 }}, core = 0, fsize = \"64K\" }}\n",
        directory.display()
    );
    for place in [Place::First, Place::Guest] {
        let seen = state(&folder, &given, Sandbox::new(place));
        assert_eq!(
            text(&seen["Cwd"]).trim_end_matches('/'),
            directory.to_string_lossy().trim_end_matches('/')
        );
        assert_eq!(seen["NoNewPrivs"], "1");
        let limits = text(&seen["Limits"]);
        for (name, soft, hard) in
            [("open files", "123", "456"), ("core file size", "0", "0"), ("file size", "65536", "65536")]
        {
            let line = limits
                .lines()
                .find(|line| line.starts_with(&format!("Max {name}")))
                .expect("every limit is there");
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(words.windows(2).any(|pair| pair == [soft, hard]), "{line}");
        }
        // Main is a leader with nothing of ours open or blocked, as without a file.
        assert_eq!(
            (&*seen["Fds"], &*seen["SigBlk"], &*seen["SigIgn"]),
            ("0 1 2", "0000000000000000", "0000000000000000")
        );
    }
}

/// The files that name users, put over the machine's own in the namespace.
fn with_users(folder: &Folder, place: Place) -> Sandbox {
    folder.write("passwd", "root:x:0:0::/root:/bin/sh\napp:x:1234:2345::/srv/app:/bin/sh\n");
    folder.write("group", "root:x:0:\napp:x:2345:\nextra:x:3456:root,app\nothers:x:4567:root\n");
    let script = "for f in passwd group; do mount --bind \"$0/$f\" /etc/$f; done; exec \"$@\"";
    let through: Vec<OsString> =
        ["sh", "-euc", script].map(OsString::from).into_iter().chain([folder.path("").into()]).collect();
    Sandbox::new(place).through(through)
}

#[test]
fn a_named_user_is_whole() {
    if skip::without(Need::Namespaces) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let folder = Folder::new();
    for place in [Place::First, Place::Guest] {
        let seen = state(&folder, "user = \"app\"\n", with_users(&folder, place));
        assert_eq!((&*seen["Uid"], &*seen["Gid"]), ("1234 1234 1234 1234", "2345 2345 2345 2345"));
        let mut groups: Vec<&str> = seen["Groups"].split_whitespace().collect();
        groups.sort_unstable();
        assert!(groups == ["2345", "3456"] || groups == ["3456"], "{groups:?}");
        assert_eq!((&*seen["CapEff"], &*seen["CapPrm"]), ("0000000000000000", "0000000000000000"));
        let variables = variables(&seen);
        for expected in ["HOME=/srv/app", "USER=app", "LOGNAME=app"] {
            assert_eq!(variables.iter().filter(|variable| *variable == expected).count(), 1, "{variables:?}");
        }
        assert_eq!(variables.iter().filter(|variable| variable.starts_with("HOME=")).count(), 1);
    }
    // The file's own HOME wins; numbers need no entry and bring no more.
    let seen = state(
        &folder,
        "user = \"app\"\nenv = { HOME = \"/elsewhere\" }\n",
        with_users(&folder, Place::First),
    );
    assert!(variables(&seen).contains(&"HOME=/elsewhere".to_owned()));
    let seen = state(&folder, "user = \"77:88\"\n", with_users(&folder, Place::First));
    assert_eq!((&*seen["Uid"], &*seen["Gid"], &*seen["Groups"]), ("77 77 77 77", "88 88 88 88", "88"));
}

/// An init that announces, checks and supervises is still one thread.
#[test]
fn the_init_is_one_thread() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let announced = "[[check]]\nexec = [\"true\"]\nevery = \"10ms\"\n\
        [[announce]]\nname = \"web.example.com\"\nport = 80\naddress = \"192.0.2.7\"\n";
    let registry = format!("[registry]\nurl = \"dir:{}\"\n", folder.path("registry").display());
    folder.write("web.toml", &(command(&["hold"]) + announced + &registry));
    let full: Service = folder.start(Place::First);
    full.until_logged("announced");
    let wrapped = Sandbox::new(Place::First).start(crate::support::wrapped(&["hold"]));
    wrapped.until_line("ready");
    for pid in [full.running.init(), wrapped.init()] {
        let threads = || process::status(pid, "Threads").and_then(|n| n.parse::<u32>().ok());
        // A folder is read on a thread that goes when it has nothing more to do.
        wait::until_true("one thread", || threads() == Some(1));
    }
    assert_eq!(process::argv(wrapped.main()), acted(&["hold"]));
}
