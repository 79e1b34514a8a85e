//! Who is behind a link, before anything is started.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::File;
use crate::support::namespace::{Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{ensign, etcd};

fn at(last: u8) -> SocketAddr {
    ([127, 0, 4, last], 0).into()
}

/// An address that answers no connection at all: its queue is full, and nobody takes from it.
fn black_hole() -> (SocketAddr, Socket, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&at(8).into()).expect("bind");
    listener.listen(0).expect("listen");
    let address = listener.local_addr().expect("bound").as_socket().expect("IP");
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        fillers.push(filler);
    }
    (address, listener, fillers)
}

#[test]
fn each_address_of_each_link_is_tried_and_what_came_of_it_told() {
    let server = TcpListener::bind(at(1)).expect("bind");
    let there = server.local_addr().expect("bound");
    let refusing = etcd::free_port();
    let (silent, _listener, _fillers) = black_hole();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("db.sock");
    let _unix = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let file = File::new(&format!(
        "[[link]]\nname = 'db'\nlisten = '127.0.0.1:5432'\nconnect_timeout = '300ms'\n\
         to = ['{there}', '{refusing}', '{silent}', 'unix:{}', 'unix:/no/such.sock']\n\
         [[link]]\nname = 'docker'\nto = 'env:NOT_SET_HERE'\n\
         [[link]]\nname = 'dns'\nto = '{refusing}'\nlisten = '127.0.0.1:5353/udp'\n\
         [registry]\nurl = 'etcd://127.0.0.1:1'\n",
        socket.display()
    ));
    let told = file.online();
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    let unix = format!("unix:{}", socket.display());
    for (address, result) in [
        (there.to_string(), "accepts"),
        (refusing.to_string(), "connection refused"),
        (silent.to_string(), "no answer"),
        (unix, "accepts"),
    ] {
        let row = told.row(&address);
        assert_eq!((row[0], row[row.len() - 1]), ("db of web", result), "{told:?}");
    }
    assert!(told.row("unix:/no/such.sock")[4].starts_with("No such file"), "{told:?}");
    assert!(told.row("env:NOT_SET_HERE")[4].contains("Docker's variables"), "{told:?}");
    let dns = told.row("127.0.0.1:5353/udp");
    assert!(dns[0] == "dns of web" && dns[4].contains("UDP"), "{told:?}");
    assert!(told.out.contains("nothing is announced"), "nobody asks the registry: {told:?}");
}

#[test]
fn a_link_that_nobody_is_behind_is_69_and_all_are_tried_side_by_side() {
    let (silent, _listener, _fillers) = black_hole();
    let link = |n: u16| {
        format!(
            "[[link]]\nname = 'l{n}'\nlisten = '127.0.0.1:{}'\nto = '{silent}'\nconnect_timeout = '2s'\n",
            6000 + n
        )
    };
    let file = File::new(&(0..20).map(link).collect::<String>());
    let begun = Instant::now();
    let told = file.online();
    assert_eq!(told.code, 69, "{told:?}");
    assert_eq!(told.err.matches("error: link `l").count(), 20, "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "one after the other it would be 40 s");
}

#[test]
fn an_invalid_file_is_78_and_nobody_is_asked() {
    let told = File::new("[[link]]\nname = 'db'\nto = 'nowhere.invalid'\n").online();
    assert_eq!((told.code, told.out.as_str()), (78, ""), "{told:?}");
}

/// Two addresses of one name, one of which has a server; and a name that nobody knows.
#[test]
fn names_are_looked_up_in_a_real_dns() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let file = File::new(
        "[[link]]\nname = 'db'\nto = 'db.example.test:5432'\nlisten = '127.0.0.1:5432'\n\
         [[link]]\nname = 'gone'\nto = 'gone.example.test:1'\nlisten = '127.0.0.1:7000'\n\
         [[link]]\nname = 'srv'\nto = 'srv:_db._tcp.example.test'\nlisten = '127.0.0.1:7001'\n",
    );
    let folder = file.0.path().display().to_string();
    fs_write(&file, "resolv.conf", "nameserver 127.0.0.1\n");
    fs_write(
        &file,
        "dns.conf",
        "host-record=db.example.test,127.0.1.1\nhost-record=db.example.test,127.0.1.2\n\
         srv-host=_db._tcp.example.test,one.example.test,5432,10,10\nhost-record=one.example.test,127.0.1.1\n\
         local=/example.test/\n",
    );
    fs_write(
        &file,
        "start.sh",
        &format!(
            "mount --bind {folder}/resolv.conf /etc/resolv.conf\n\
             dnsmasq -k -C {folder}/dns.conf --no-hosts --no-resolv --bind-interfaces --listen-address=127.0.0.1 \
             --user=root --pid-file={folder}/pid &\n\
             busybox httpd -f -p 127.0.1.1:5432 -h {folder} &\n\
             until [ -s {folder}/pid ]; do :; done\n\
             until busybox nc 127.0.1.1 5432 </dev/null >/dev/null 2>&1; do :; done\n\
             {} check --online {folder}/web.toml || code=$?\nkill $(jobs -p)\nexit $code\n",
            ensign().display()
        ),
    );
    let argv = ["sh".into(), "-u".into(), file.0.path().join("start.sh").into()].to_vec();
    let ended = Sandbox::new(Place::Guest).net().run(argv);
    assert_eq!(ended.code, 69, "{ended:?}");
    for (address, result) in [("127.0.1.1:5432", "accepts"), ("127.0.1.2:5432", "connection refused")] {
        let is_it = |line: &&str| line.starts_with("db of web") && line.contains(&format!(" {address} "));
        let line = ended.stdout.lines().find(is_it).unwrap_or_else(|| panic!("{address}: {ended:?}"));
        assert!(line.ends_with(result), "{line}");
    }
    let line = |start: &str| ended.stdout.lines().find(|line| line.starts_with(start)).expect("told");
    assert!(line("srv of web").ends_with("127.0.1.1:5432  accepts"), "{ended:?}");
    assert!(line("gone of web").ends_with("no address found for `gone.example.test`"), "{ended:?}");
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{ended:?}");
}

fn fs_write(file: &File, name: &str, text: &str) {
    std::fs::write(file.0.path().join(name), text).expect("written");
}
