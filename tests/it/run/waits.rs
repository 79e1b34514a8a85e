//! Links that a start waits for and that give variables, with real processes: what is logged, when it ends, how it
//! ends. The upstream is a Unix socket in the test's folder, which comes and goes as the test wants.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::namespace::{Place, Sandbox};
use crate::support::service::{Folder, Service, command, list, send};
use crate::support::skip::{self, Need};
use crate::support::{ensign, wait};

const SOCKET: &str = "db.sock";

/// A service with a link to the folder's socket.
fn waiting(folder: &Folder, main: &str, limit: &str) -> Service {
    let to = folder.path(SOCKET).display().to_string();
    let link = format!(
        "[[link]]\nname = \"db\"\nlisten = \"127.0.0.1:5432\"\nto = \"unix:{to}\"\nwait = \"{limit}\"\n\
         connect_timeout = \"1h\"\n"
    );
    folder.write("web.toml", &(main.to_owned() + &link));
    folder.start_in(Sandbox::new(Place::First).net())
}

fn upstream(folder: &Folder) -> UnixListener {
    UnixListener::bind(folder.path(SOCKET)).expect("the path is free")
}

#[test]
fn a_start_waits_for_its_link_and_says_so_once() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let service = waiting(&folder, &command(&["hold"]), "30s");
    service.until_logged("waiting up to 30s for link `db`: unix:");
    // Some attempts later.
    wait::all_through(Duration::from_millis(500), || {
        assert_eq!((service.logged("waiting"), service.logged("started")), (1, 0), "{}", service.log());
    });
    let _upstream = upstream(&folder);
    service.until_logged("started");
    let log = service.log();
    let place = |text: &str| log.lines().position(|line| line.contains(text)).expect(text);
    assert!(place("No such file or directory") < place("link `db` reached after"), "{log}");
    assert!(place("link `db` reached after") < place("started"), "{log}");
    assert_eq!(service.stop().code, 143);
}

#[test]
fn a_link_that_is_reached_at_once_is_not_worth_a_line() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let upstream = upstream(&folder);
    let service = waiting(&folder, &command(&["hold"]), "30s");
    service.pid(&["hold"]);
    let (mut tried, _) = upstream.accept().expect("it has been tried");
    assert_eq!(std::io::Read::read(&mut tried, &mut [0]).expect("readable"), 0, "and left at once");
    let ended = service.stop();
    assert!(!ended.stderr.contains("waiting") && !ended.stderr.contains("reached"), "{ended:?}");
}

#[test]
fn a_wait_in_vain_ends_the_container_with_69() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let ended = waiting(&folder, &command(&["exit", "0"]), "300ms").running.wait();
    assert_eq!(ended.code, 69, "{ended:?}");
    let last = ended.stderr.lines().last().expect("it says why");
    assert!(last.contains("ERROR link `db` not reached within 300ms; given up: unix:"), "{ended:?}");
    assert!(last.contains("No such file"), "{ended:?}");
    assert!(!ended.stderr.contains("started"), "{ended:?}");
}

/// Its queue is full and nobody takes from it: the attempt itself has no end for an hour.
#[test]
fn an_upstream_that_neither_takes_nor_refuses_holds_up_no_end() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let path = folder.path(SOCKET);
    socket.bind(&SockAddr::unix(&path).expect("a path")).expect("the path is free");
    socket.listen(0).expect("listens");
    let _filler = UnixStream::connect(&path).expect("the first fits");
    let ended = waiting(&folder, &command(&["exit", "0"]), "1500ms").running.wait();
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.stderr.contains("waiting up to 1.5s for link `db`: no answer"), "{ended:?}");
    assert!(ended.stderr.contains("not reached within 1.5s; given up: no answer"), "{ended:?}");
}

#[test]
fn a_stop_while_it_waits_ends_it_with_the_signal() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let service = waiting(&Folder::new(), &command(&["exit", "0"]), "1h");
        service.until_logged("waiting up to 3600s");
        service.send(signal);
        let ended = service.running.wait();
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(!ended.stderr.contains("started"), "{ended:?}");
    }
}

#[test]
fn a_restart_waits_until_the_upstream_is_back() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let first = upstream(&folder);
    let service = waiting(&folder, &(command(&["hold"]) + "restart = { delay = \"1ms\" }\n"), "30s");
    let main = service.pid(&["hold"]);
    drop(first);
    send(main, Signal::SIGKILL);
    // The socket's file is still there.
    service.until_logged("waiting up to 30s for link `db`: unix:");
    assert_eq!((service.logged("connection refused"), service.logged("started again")), (1, 0));
    folder.remove(SOCKET);
    let _second = upstream(&folder);
    service.pid_after(main, &["hold"]);
    assert_eq!(service.logged("started again (run 2)"), 1, "{}", service.log());
    assert_eq!(service.stop().code, 143);
}

#[test]
fn a_restart_that_waits_in_vain_is_a_crash() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let first = upstream(&folder);
    let policy = "restart = { delay = \"1ms\", give_up = { after = 3, within = \"1m\" } }\n";
    let service = waiting(&folder, &(command(&["hold"]) + policy), "200ms");
    let main = service.pid(&["hold"]);
    drop(first);
    send(main, Signal::SIGKILL);
    let ended = service.running.wait();
    assert_eq!(ended.code, 69, "{ended:?}");
    let said: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("not reached")).collect();
    assert!(said[0].contains("WARN") && said[0].contains("; starts again in "), "{ended:?}");
    assert!(said[1].contains("ERROR") && said[1].contains("; given up: "), "{ended:?}");
    assert_eq!(said.len(), 2, "{ended:?}");
}

/// Whoever is given Docker's variables for a link that is exported sees ours in their place, and whatever the file says
/// in place of ours.
fn given() -> Sandbox {
    Sandbox::new(Place::First)
        .net()
        .env("DB_NAME", "/web/db")
        .env("DB_PORT", "tcp://172.17.0.5:5432")
        .env("DB_PORT_5432_TCP", "tcp://172.17.0.5:5432")
        .env("DB_PORT_5432_TCP_ADDR", "172.17.0.5")
        .env("DB_PORT_53_UDP", "udp://172.17.0.5:53")
        .env("DB_ENV_PASSWORD", "hush")
        .env("DB_USER", "me")
        .env("OTHER_PORT_1_TCP", "tcp://172.17.0.6:1")
}

const SEEN: [&str; 10] = [
    "DB_ENV_PASSWORD=hush",
    "DB_NAME=mine",
    "DB_PORT=tcp://127.0.0.1:7000",
    "DB_PORT_5432_TCP=tcp://127.0.0.1:7000",
    "DB_PORT_5432_TCP_ADDR=127.0.0.1",
    "DB_PORT_5432_TCP_PORT=7000",
    "DB_PORT_5432_TCP_PROTO=tcp",
    "DB_PORT_7000_TCP=tcp://127.0.0.1:7000",
    "DB_PORT_7000_TCP_ADDR=127.0.0.1",
    "DB_PORT_7000_TCP_PORT=7000",
];

fn exporting(folder: &Folder) {
    let print = |to: &str| {
        let path = folder.path(to).display().to_string();
        format!("env | LC_ALL=C sort > {path}.new; mv {path}.new {path}")
    };
    let shell = |script: String| ["sh".into(), "-c".into(), script.into()];
    let main = shell(print("main") + "; exec sleep 1000");
    let check = list("exec", &shell(print("check")));
    let text = list("command", &main)
        + "main = true\nenv = { DB_NAME = \"mine\" }\n[[check]]\n"
        + &check
        + "[[link]]\nname = \"db\"\nto = \"env:DB\"\nlisten = \"127.0.0.1:7000\"\nexport = true\n";
    folder.write("main.toml", &text);
    folder.write("side.toml", &(list("command", &shell(print("side"))) + "main = false\n"));
    folder.write("ensign.toml", "[links]\nenv = false\n");
}

#[test]
fn an_exported_link_takes_the_place_of_dockers_variables_in_its_service_alone() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    exporting(&folder);
    let service = folder.start_in(given());
    let of_db = |name: &str| -> Vec<String> {
        let text = wait::until(name, || std::fs::read_to_string(folder.path(name)).ok());
        let lines = text.lines().filter(|line| line.starts_with("DB_") || line.starts_with("OTHER_"));
        lines.map(str::to_owned).collect()
    };
    let own =
        [&SEEN[..], &["DB_PORT_7000_TCP_PROTO=tcp", "DB_USER=me", "OTHER_PORT_1_TCP=tcp://172.17.0.6:1"]];
    assert_eq!(of_db("main"), own.concat());
    assert_eq!(of_db("check"), own.concat());
    let untouched = of_db("side");
    assert_eq!(untouched.len(), 8, "{untouched:?}");
    assert!(untouched.contains(&"DB_PORT_5432_TCP=tcp://172.17.0.5:5432".to_owned()), "{untouched:?}");
    service.stop();
}

#[test]
fn ensign_links_shows_what_main_would_see() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    exporting(&folder);
    let argv = vec![ensign().into(), "links".into(), "--env".into(), "-c".into(), folder.path("").into()];
    let ended = given().run(argv);
    assert_eq!(ended.code, 0, "{ended:?}");
    let (_, variables) = ended.stdout.split_once("\n\n").expect("after the table");
    let expected = [&["DB_ENV_PASSWORD=(not shown)"], &SEEN[1..]].concat();
    let shown: Vec<&str> = variables.lines().collect();
    assert_eq!(
        shown,
        [&expected[..], &["DB_PORT_7000_TCP_PROTO=tcp", "OTHER_PORT_1_TCP=tcp://172.17.0.6:1"]].concat()
    );
}
