//! What a listening socket is like, whoever else wants its place.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use super::*;
use crate::sys::socket;

fn any(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

#[test]
fn a_port_can_be_bound_again_at_once_but_not_twice() {
    let first = tcp(any("127.0.0.1:0")).expect("bind");
    let address = first.local_addr().expect("bound");
    assert_eq!(tcp(address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    let client = std::net::TcpStream::connect(address).expect("connect");
    first.set_nonblocking(false).expect("blocking");
    // Closed by us first: the connection is left in TIME_WAIT on our side.
    drop(first.accept().expect("accept"));
    drop((client, first));
    tcp(address).expect("bound again");
}

#[test]
fn both_families_can_have_every_address_at_once() {
    let v4 = tcp(any("0.0.0.0:0")).expect("bind");
    let port = v4.local_addr().expect("bound").port();
    tcp(SocketAddr::new("::".parse().expect("an address"), port)).expect("bind");
}

#[test]
fn what_is_accepted_inherits_nodelay_and_keepalive() {
    let listener = tcp(any("127.0.0.1:0")).expect("bind");
    let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
    let accepted = Socket::from(socket::accept(&listener).expect("accept"));
    assert!(accepted.tcp_nodelay().expect("ask") && accepted.keepalive().expect("ask"));
    assert_eq!(accepted.tcp_keepalive_time().expect("ask"), Duration::from_secs(60));
    assert_eq!(accepted.tcp_keepalive_retries().expect("ask"), 4);
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn socket(&self, mode: u32) -> UnixSocket {
        UnixSocket { path: self.0.path().join("db.sock"), mode, owner: None }
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").mode() & 0o777
}

fn refusal(wanted: &UnixSocket) -> String {
    unix(wanted).expect_err("can't be").to_string()
}

#[test]
fn a_unix_socket_has_its_mode_whatever_the_umask_and_goes_with_its_listener() {
    let folder = Folder::new();
    for mode in [0o600, 0o660, 0o666, 0o777, 0o000] {
        let wanted = folder.socket(mode);
        let (listener, file) = unix(&wanted).expect("bind");
        assert_eq!(mode_of(&wanted.path), mode, "{mode:o}");
        drop(file);
        assert!(!wanted.path.exists());
        drop(listener);
    }
}

#[test]
fn what_a_unix_listener_accepts_is_a_stream() {
    let wanted = Folder::new().socket(0o600);
    fs::create_dir_all(wanted.path.parent().expect("a folder")).expect("made");
    let (listener, _file) = unix(&wanted).expect("bind");
    let mut client = UnixStream::connect(&wanted.path).expect("connect");
    client.write_all(b"hello").expect("write");
    let mut accepted = socket::accept(&listener).expect("accept");
    accepted.set_nonblocking(false).expect("blocking");
    let mut text = [0; 5];
    accepted.read_exact(&mut text).expect("read");
    assert_eq!(&text, b"hello");
}

#[test]
fn a_stale_file_is_replaced_and_nothing_else_is() {
    let folder = Folder::new();
    let wanted = folder.socket(0o600);
    drop(UnixListener::bind(&wanted.path).expect("bind"));
    assert!(wanted.path.exists());
    drop(unix(&wanted).expect("it was stale"));

    drop(UnixDatagram::bind(&wanted.path).expect("bind"));
    drop(unix(&wanted).expect("it was stale"));

    let other = UnixListener::bind(&wanted.path).expect("bind");
    assert_eq!(refusal(&wanted), "somebody listens there");
    UnixStream::connect(&wanted.path).expect("it still does");
    drop(other);
    fs::remove_file(&wanted.path).expect("removed");

    let _other = UnixDatagram::bind(&wanted.path).expect("bind");
    assert_eq!(refusal(&wanted), "somebody listens there");
    fs::remove_file(&wanted.path).expect("removed");

    fs::write(&wanted.path, "precious").expect("written");
    assert_eq!(refusal(&wanted), "what is there is no socket");
    assert_eq!(fs::read(&wanted.path).expect("still there"), b"precious");
    fs::remove_file(&wanted.path).expect("removed");

    std::os::unix::fs::symlink("elsewhere", &wanted.path).expect("made");
    assert_eq!(refusal(&wanted), "what is there is no socket");
}

#[test]
fn a_full_queue_is_somebody_who_listens() {
    let wanted = Folder::new().socket(0o600);
    fs::create_dir_all(wanted.path.parent().expect("a folder")).expect("made");
    let other = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    other.bind(&SockAddr::unix(&wanted.path).expect("a path")).expect("bind");
    other.listen(0).expect("listen");
    let _one = UnixStream::connect(&wanted.path).expect("connect");
    assert_eq!(refusal(&wanted), "somebody listens there");
}

#[test]
fn a_file_that_is_another_by_now_is_left_alone() {
    let folder = Folder::new();
    let wanted = folder.socket(0o600);
    let (_listener, file) = unix(&wanted).expect("bind");
    fs::remove_file(&wanted.path).expect("removed");
    let _other = UnixListener::bind(&wanted.path).expect("bind");
    drop(file);
    assert!(wanted.path.exists());
}

#[test]
fn udp_ports_are_nobody_elses_and_apart_from_tcp_ones() {
    let first = udp(any("127.0.0.1:0")).expect("bind");
    let address = first.local_addr().expect("bound");
    assert_eq!(udp(address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    tcp(address).expect("another protocol");
    let v4 = udp(any("0.0.0.0:0")).expect("bind");
    let port = v4.local_addr().expect("bound").port();
    udp(SocketAddr::new("::".parse().expect("an address"), port)).expect("another family");
}
