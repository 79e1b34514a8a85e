//! Unix sockets that links listen at: who may connect, what happens to the file. A real redis lies behind them, and
//! redis-cli asks.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use ensign::config::{Owner, UnixSocket};
use nix::sys::signal::Signal;

use super::*;
use crate::support::namespace::{Place, Sandbox};
use crate::support::service::{self, Folder, command, list};
use crate::support::skip::{self, Need};

/// Nobody of this machine's.
const APP: u32 = 61_234;
const OTHER: u32 = 61_235;

struct Redis(Child);

impl Redis {
    fn start(address: SocketAddr) -> Self {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let child = Command::new("redis-server")
            .args(["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed");
        let mut redis = Self(child);
        let mut output = BufReader::new(redis.0.stdout.take().expect("piped"));
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|length| length > 0) {
                if line.contains("eady to accept connections") {
                    let _ = tell.send(());
                }
                line.clear();
            }
        });
        told.recv_timeout(DEADLINE).expect("redis is ready");
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis() -> (Redis, SocketAddr) {
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (Redis::start(at), at)
}

/// A folder that everybody may enter, as /run is.
fn open_folder() -> Folder {
    let folder = Folder::new();
    std::fs::set_permissions(folder.path(""), std::fs::Permissions::from_mode(0o755)).expect("ours");
    folder
}

/// `PING` as this user and group.
fn ping(socket: &Path, user: u32, group: u32) -> Output {
    Command::new("setpriv")
        .args([format!("--reuid={user}"), format!("--regid={group}")])
        .args(["--clear-groups", "--", "redis-cli", "-s"])
        .arg(socket)
        .arg("PING")
        .output()
        .expect("setpriv and redis-cli run")
}

fn is_let_in(socket: &Path, user: u32, group: u32) -> bool {
    let output = ping(socket, user, group);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let is_refused = text.contains("Permission denied");
    assert!(is_refused != text.contains("PONG"), "{text}");
    !is_refused
}

fn socket_at(path: &Path, mode: u32, owner: Option<Owner>) -> ListenAt {
    ListenAt::Unix(UnixSocket { path: path.to_owned(), mode, owner })
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn mode_and_owner_say_who_may_connect() {
    assert!(is_root(), "only root can give a socket to somebody else");
    let (_redis, to) = redis();
    let folder = open_folder();
    let owner = Some(Owner { uid: APP, gid: Some(APP) });
    for (name, mode, expected) in [
        ("private", 0o600, [true, false, false]),
        ("shared", 0o660, [true, true, false]),
        ("open", 0o666, [true, true, true]),
    ] {
        let path = folder.path(name);
        let mut link = link("127.0.0.1:0", to);
        link.listen = Listen::At(vec![socket_at(&path, mode, owner)]);
        let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
        let links = links::open(&plan, Names::new().resolver()).expect("open");
        assert_eq!(links.opened[0].places[0].to_string(), format!("unix:{}", path.display()));
        let metadata = std::fs::metadata(&path).expect("is there");
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (APP, APP, mode));
        let seen =
            [(APP, APP), (OTHER, APP), (OTHER, OTHER)].map(|(user, group)| is_let_in(&path, user, group));
        assert_eq!(seen, expected, "{name}");
        drop(links);
        assert!(!path.exists(), "{name} is left behind");
    }
}

/// A service with a link at `redis.sock`, which it may connect to as its user.
fn service_file(folder: &Folder, to: SocketAddr, command: &str) -> String {
    format!(
        "{command}user = '{APP}:{APP}'\n[restart]\nwhen = 'never'\n[[link]]\nname = 'redis'\nto = '{}'\n\
         listen = 'unix:{}'\n[registry]\nurl = 'dir:/nonexistent'\n",
        to,
        folder.path("redis.sock").display()
    )
}

#[test]
fn a_service_with_a_user_of_its_own_connects_and_nobody_else_does() {
    if skip::without(Need::Namespaces) {
        return;
    }
    assert!(is_root(), "only root can start a service as another user");
    let (_redis, to) = redis();
    let folder = open_folder();
    let socket = folder.path("redis.sock");
    let ask = ["redis-cli".into(), "-s".into(), socket.clone().into(), "PING".into()];
    folder.write("web.toml", &service_file(&folder, to, &list("command", &ask)));
    let ended = Sandbox::new(Place::First).run(folder.run("web.toml"));
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "PONG\n"), "{ended:?}");
    assert!(!socket.exists(), "left behind");

    folder.write("web.toml", &service_file(&folder, to, &command(&["hold"])));
    let service = folder.start(Place::First);
    service.pid(&["hold"]);
    assert!(is_let_in(&socket, APP, APP) && !is_let_in(&socket, OTHER, APP));

    // A second ensign can't have it, says who has, and leaves it alone.
    let second = Sandbox::new(Place::Guest).run(folder.run("web.toml"));
    assert_eq!(second.code, 78, "{second:?}");
    let refusal = format!("cannot listen on unix:{}: ", socket.display());
    assert!(second.stderr.contains(&refusal) && second.stderr.contains("listens there"), "{second:?}");
    assert!(is_let_in(&socket, APP, APP));

    // Killed, it leaves the file; the next one replaces it.
    service::send(service.running.init(), Signal::SIGKILL);
    service.running.wait();
    assert!(socket.exists());
    let service = folder.start(Place::First);
    service.pid(&["hold"]);
    assert!(is_let_in(&socket, APP, APP));
    let ended = service.stop();
    assert!(!socket.exists(), "left behind: {ended:?}");
}

#[test]
fn what_is_no_socket_is_an_error_and_stays() {
    let folder = open_folder();
    let (_server, to) = listen();
    let refused = |path: &Path| {
        let mut link = link("127.0.0.1:0", to);
        link.listen = Listen::At(vec![socket_at(path, 0o600, None)]);
        let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
        let errors = links::open(&plan, Names::new().resolver()).expect_err("refused");
        errors.iter().map(ToString::to_string).collect::<String>()
    };
    folder.write("file", "precious");
    let error = refused(&folder.path("file"));
    assert!(error.ends_with("/file: what is there is no socket"), "{error}");
    assert_eq!(std::fs::read(folder.path("file")).expect("still there"), b"precious");
    let error = refused(&folder.path("none/sock"));
    assert!(error.contains("No such file or directory"), "{error}");
    let held = UnixListener::bind(folder.path("held")).expect("bind");
    let error = refused(&folder.path("held"));
    assert!(error.ends_with(&format!("(pid {}) listens there", std::process::id())), "{error}");
    drop(held);
    assert!(std::fs::metadata(folder.path("held")).expect("is there").file_type().is_socket());
}

#[test]
fn streams_through_a_socket_are_whole_and_end_as_they_end() {
    let folder = open_folder();
    let path = folder.path("sock");
    let (listener, to) = listen();
    let mut link = link("127.0.0.1:0", to);
    link.listen = Listen::At(vec![socket_at(&path, 0o600, None)]);
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let _links = links::open(&plan, Names::new().resolver()).expect("open");
    let mut client = std::os::unix::net::UnixStream::connect(&path).expect("connect");
    let mut server = accept(&listener);
    let (up, down) = (noise(1, 3 << 20), noise(2, 3 << 20));
    let expected = checksum(&up);
    let echo = thread::spawn(move || {
        let mut got = Vec::new();
        server.read_to_end(&mut got).expect("read");
        server.write_all(&down).expect("write");
        (checksum(&got), checksum(&down))
    });
    client.write_all(&up).expect("write");
    client.shutdown(Shutdown::Write).expect("close");
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("read");
    assert_eq!(echo.join().expect("echoed"), (expected, checksum(&got)));
}
