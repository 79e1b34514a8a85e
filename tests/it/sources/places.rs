//! Sources other than a host and port, each with the real thing: SRV records of a dnsmasq in a network of its own, the
//! gateway of a default route there, and a Unix socket.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use ensign::config::{Balance, Upstream};

use super::{DEADLINE, connect, host, link, open, refusing};
use crate::support::ensign;
use crate::support::namespace::{Place, Sandbox};
use crate::support::skip::{self, Need};

/// Runs `ensign run` with a link on 127.0.0.1:5432 `to`, in a network of its own, where `before` has been run and
/// `main` is the main process; gives what was printed. `$D` is a folder, and `serve IP PORT` a server that says its IP, until `stop IP`.
fn in_network(to: &str, before: &str, main: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("write");
    let common = "D=\"${0%/*}\"\n\
        ask() { printf 'GET /n HTTP/1.0\\r\\n\\r\\n' | timeout 20 busybox nc 127.0.0.1 5432 | tail -n 1; }\n\
        serve() { mkdir -p \"$D/$1\"; echo $1 >\"$D/$1/n\"; busybox httpd -f -p $1:$2 -h \"$D/$1\" & echo $! >\"$D/$1/pid\"; }\n\
        stop() { kill $(cat \"$D/$1/pid\"); }\n\
        names() { dnsmasq -k -C \"$D/$1.conf\" --no-hosts --no-resolv --bind-interfaces --listen-address=127.0.0.1 \
        --user=root --pid-file=\"$D/names.pid\" --log-facility=\"$D/names.log\" & \
        until [ -s \"$D/names.pid\" ]; do :; done; }\n\
        nameless() { kill $(cat \"$D/names.pid\"); while kill -0 $(cat \"$D/names.pid\") 2>/dev/null; do :; done; \
        : >\"$D/names.pid\"; }\n";
    write("one.conf", ZONE_ONE);
    write("two.conf", ZONE_TWO);
    write("resolv.conf", "nameserver 127.0.0.1\n");
    write("main.sh", &format!("{common}{main}"));
    write(
        "web.toml",
        &format!(
            "command = ['sh', '{}/main.sh']\n[restart]\nwhen = 'never'\n[[link]]\nname = 'db'\nto = '{to}'\n\
             listen = '127.0.0.1:5432'\nconnect_timeout = '1s'\n[registry]\nurl = 'dir:/nonexistent'\n",
            folder.path().display()
        ),
    );
    let start = format!("{common}mount --bind \"$D/resolv.conf\" /etc/resolv.conf\n{before}\nexec \"$@\"\n");
    write("start.sh", &start);
    let path = |name: &str| OsString::from(folder.path().join(name));
    let argv: Vec<OsString> = [
        "sh".into(),
        "-eu".into(),
        path("start.sh"),
        ensign().into(),
        "run".into(),
        "-c".into(),
        path("web.toml"),
    ]
    .into();
    let ended = Sandbox::new(Place::Guest).net().run(argv);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout
}

/// The better group has two that share 3 to 1; the other one is for when both are gone.
const ZONE_ONE: &str = "srv-host=_db._tcp.example.test,a.example.test,7001,10,3\n\
    srv-host=_db._tcp.example.test,b.example.test,7001,10,1\n\
    srv-host=_db._tcp.example.test,c.example.test,7002,20,0\n\
    host-record=a.example.test,127.0.1.1\nhost-record=b.example.test,127.0.1.2\nhost-record=c.example.test,127.0.1.3\n";

/// Moved. The target's address is not in the answer: it is a name of another's.
const ZONE_TWO: &str = "srv-host=_db._tcp.example.test,d.example.test,7003,0,0\ncname=d.example.test,e.example.test\n\
    host-record=e.example.test,127.0.1.4\n";

#[test]
fn srv_records_are_followed_by_priority_and_weight_and_kept_while_dns_is_gone() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let before =
        "names one\nserve 127.0.1.1 7001\nserve 127.0.1.2 7001\nserve 127.0.1.3 7002\nserve 127.0.1.4 7003";
    let main = "for n in 1 2 3 4 5 6 7 8; do ask; done\n\
        stop 127.0.1.1; stop 127.0.1.2\n\
        until [ \"$(ask)\" = 127.0.1.3 ]; do :; done; ask\n\
        nameless; names two\n\
        until [ \"$(ask)\" = 127.0.1.4 ]; do :; done; ask\n\
        nameless; ask; ask\n";
    let printed = in_network("srv:_db._tcp.example.test", before, main);
    let lines: Vec<&str> = printed.lines().collect();
    let count = |name| lines[..8].iter().filter(|line| **line == name).count();
    assert_eq!((count("127.0.1.1"), count("127.0.1.2")), (6, 2), "{lines:?}");
    assert_eq!(lines[8..], ["127.0.1.3", "127.0.1.4", "127.0.1.4", "127.0.1.4"]);
}

#[test]
fn the_gateway_is_where_the_default_route_leads_now() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let before = "ip route add default via 10.9.0.1 dev lo onlink\n\
        ip addr add 10.9.0.1/32 dev lo; ip addr add 10.9.0.2/32 dev lo; serve 10.9.0.1 5432; serve 10.9.0.2 5432";
    let main = "until [ \"$(ask)\" = 10.9.0.1 ]; do :; done; ask\n\
        ip addr del 10.9.0.2/32 dev lo; ip route replace default via 10.9.0.2 dev lo onlink; ip addr add 10.9.0.2/32 dev lo\n\
        until [ \"$(ask)\" = 10.9.0.2 ]; do :; done; ask\n";
    assert_eq!(in_network("gateway:5432", before, main), "10.9.0.1\n10.9.0.2\n");
}

fn unix(path: &Path) -> Upstream {
    Upstream::Unix(path.to_owned())
}

#[test]
fn a_unix_socket_is_an_upstream_like_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let (_links, address) = open(&link(vec![host(refusing()), unix(&path)], Balance::RoundRobin, DEADLINE));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.write_all(b"!").expect("write");
        let mut question = Vec::new();
        stream.read_to_end(&mut question).expect("read to the client's close");
        question.reverse();
        stream.write_all(&question).expect("write");
    });
    let (mut client, greeting) = connect(address);
    assert_eq!(greeting, b'!');
    let question: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    client.write_all(&question).expect("write");
    client.shutdown(Shutdown::Write).expect("close");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("read");
    answer.reverse();
    assert!(answer == question, "{} bytes of {}", answer.len(), question.len());
    server.join().expect("served");
}
