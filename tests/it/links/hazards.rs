//! What goes wrong in relays that look right: urgent bytes, resets with bytes under way, a crowd at the very end, streams
//! beside somebody who only has a word to say.

use std::fs::DirEntry;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ensign::config::UnixSocket;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::udp::dns::NameServer;
use super::*;
use crate::support::namespace::ran_inside;
use crate::support::wait;

/// TCP's urgent byte ends a read before it, with more to come after it.
#[test]
fn urgent_bytes_hold_up_nothing() {
    for length in [100, 8 << 20] {
        for way in ["up", "down"] {
            let (_links, client, server) = pair();
            let (mut from, mut to) = if way == "up" { (client, server) } else { (server, client) };
            let before = noise(7, length);
            let sent = before.clone();
            let sender = thread::spawn(move || {
                from.write_all(&sent).expect("write");
                SockRef::from(&from).send_out_of_band(b"!").expect("an urgent byte");
                from.write_all(b"after").expect("write");
                from
            });
            let mut got = vec![0; length];
            to.read_exact(&mut got).expect("what came before it");
            assert!(got == before, "other bytes {way}");
            let mut rest = Vec::new();
            while !rest.ends_with(b"after") {
                let mut byte = [0];
                to.read_exact(&mut byte).expect("what came after it, and no more had to be sent");
                rest.push(byte[0]);
            }
            // The urgent one itself has its place among the others, unless it came with the very first bytes.
            assert!(rest == b"!after" || rest == b"after", "{rest:?} {way}");
            drop(sender.join().expect("sent"));
        }
    }
}

/// It was taken from the sender, so it must get to a reader that takes its time: only one that does not read at all is
/// given up.
#[test]
fn a_slow_reader_gets_what_was_sent_before_a_reset() {
    const PAUSE: Duration = Duration::from_millis(30);
    let (_links, mut client, mut server) = pair();
    let sent = answer(&mut server);
    reset(server);
    let (mut length, mut gulp, begun) = (0, vec![0; 64 << 10], Instant::now());
    while length < sent.len() {
        let read = client.read(&mut gulp).expect("there is more to come");
        assert!(gulp[..read] == sent[length..length + read], "other bytes after {length}");
        length += read;
        // For twice as long as the link has patience with one that does not read.
        if begun.elapsed() < Duration::from_secs(4) {
            wait::be_late(PAUSE);
        }
    }
    assert!(is_reset(client.read(&mut gulp)));
}

/// Nothing can be delivered to whoever has reset: nobody waits for that.
#[test]
fn a_reset_by_a_server_that_reads_nothing_is_passed_on_at_once() {
    let delays = (0..3).map(|_| {
        let (_links, mut client, server) = pair();
        client.set_nonblocking(true).expect("not blocking");
        fill(&mut client, &noise(9, 1 << 20));
        reset(server);
        let begun = Instant::now();
        wait::until_true("the client to hear of it", || is_reset(client.read(&mut [0])));
        begun.elapsed()
    });
    // Two seconds are what it takes to give up on a peer that is there.
    let least = delays.min().expect("three");
    assert!(least < Duration::from_millis(1500), "{least:?}");
}

/// They have connected, said a word and left, and the link has not come to them when it is to end.
#[test]
fn a_crowd_that_came_at_the_last_moment_is_heard() {
    const CROWD: usize = 300;
    let (listener, to) = listen();
    let (links, address) = open(to);
    for _ in 0..CROWD {
        connect(address).write_all(b"word").expect("write");
    }
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut word = Vec::new();
            if stream.read_to_end(&mut word).is_ok() {
                count.fetch_add(word.len(), Ordering::Relaxed);
            }
        }
    });
    links.finish(DEADLINE);
    drop(links);
    wait::until_true("all words to be heard", || heard.load(Ordering::Relaxed) == CROWD * b"word".len());
}

/// Writes and reads as fast as it goes, for as long as `goes_on`.
fn stream(stream: TcpStream, goes_on: &Arc<AtomicBool>) -> [thread::JoinHandle<()>; 2] {
    let goes_on = Arc::clone(goes_on);
    let mut reader = stream.try_clone().expect("clone");
    let read = move || while reader.read(&mut [0; 65536]).is_ok_and(|length| length > 0) {};
    let write = move || {
        let mut writer = stream;
        while goes_on.load(Ordering::Relaxed) && writer.write_all(&[0; 65536]).is_ok() {}
        let _ = writer.shutdown(Shutdown::Write);
    };
    [thread::spawn(read), thread::spawn(write)]
}

#[test]
fn streams_leave_turns_to_somebody_with_a_word_to_say() {
    const WORDS: u32 = 60;
    let (listener, to) = listen();
    let (echoing, echo_at) = listen();
    echo(echoing);
    let both = [link("127.0.0.1:0", to), link("127.0.0.1:0", echo_at)];
    let plan = plan_links(&EnvLinks::None, both.iter().map(|link| ("web", link)), []);
    let links = links::open(&plan, Names::new().resolver()).expect("open");
    let [streaming, talking] = [0, 1].map(|n| links.opened[n].places[0].address().expect("an address"));
    let goes_on = Arc::new(AtomicBool::new(true));
    let mut streams = Vec::new();
    for _ in 0..6 {
        let client = connect(streaming);
        streams.extend(stream(accept(&listener), &goes_on));
        streams.extend(stream(client, &goes_on));
    }
    let mut talker = connect(talking);
    let begun = Instant::now();
    for _ in 0..WORDS {
        talker.write_all(b"word").expect("write");
        talker.read_exact(&mut [0; 4]).expect("read");
    }
    let took = begun.elapsed();
    goes_on.store(false, Ordering::Relaxed);
    streams.into_iter().for_each(|stream| stream.join().expect("a stream"));
    // Each word is a few turns of six streams: some milliseconds, be the machine as busy as it likes.
    assert!(took < WORDS * Duration::from_millis(150), "{took:?}");
}

/// One that listens at every address has all of this machine's: a connection to any of them would come back to it, and
/// take descriptors until none is left for anybody.
#[test]
fn a_link_at_every_address_connects_to_none_of_them() {
    if ran_inside(a_link_at_every_address_connects_to_none_of_them) {
        return;
    }
    let added = Command::new("ip").args(["addr", "add", "10.9.9.9/32", "dev", "lo"]).status();
    assert!(added.expect("ip is installed").success());
    for (listen, to) in [
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.9"),
        ("0.0.0.0", "10.9.9.9"),
        ("[::]", "[::1]"),
        ("127.0.0.1", "0.0.0.0"),
    ] {
        let port = free_port();
        let link = link(&format!("{listen}:{port}"), format!("{to}:{port}").parse().expect("an address"));
        let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
        let links = links::open(&plan, Names::new().resolver()).expect("open");
        let host = if listen == "[::]" { "[::1]" } else { "127.0.0.1" };
        let mut client = connect(format!("{host}:{port}").parse().expect("an address"));
        assert!(is_reset(read_end(&mut client)), "{listen} to {to}");
        assert_eq!(links.opened[0].counters.accepted.load(Ordering::Relaxed), 1, "{listen} to {to}");
    }
}

/// Where IPv6 is switched off, a name has an address all the same that no socket can be connected to.
#[test]
fn an_address_of_a_family_that_is_switched_off_is_one_that_fails() {
    if ran_inside(an_address_of_a_family_that_is_switched_off_is_one_that_fails) {
        return;
    }
    without_ipv6();
    let (listener, to) = listen();
    let names = Names::new();
    names.say(&format!("2001:db8::1 db\n{} db\n", to.ip()));
    let mut link = link("127.0.0.1:0", to);
    link.to = vec![Upstream::HostPort(HostPort { host: "db".to_owned(), port: to.port() })];
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let links = links::open(&plan, names.resolver()).expect("open");
    let address = address_of(&links, 0);
    let client = connect(address);
    drop((accept(&listener), client, listener));
    // Whichever of the two is tried first, nobody waits for it as for descriptors.
    for _ in 0..4 {
        let mut client = connect(address);
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        assert!(is_reset(read_end(&mut client)));
    }
}

/// Of a Unix socket a read ends after a message with descriptors, and what comes behind it is told of with it.
#[test]
fn what_follows_descriptors_over_a_unix_socket_arrives() {
    let folder = tempfile::tempdir().expect("a folder");
    let [at, to] = ["link.sock", "server.sock"].map(|name| folder.path().join(name));
    let listener = UnixListener::bind(&to).expect("bind");
    let mut link = link("127.0.0.1:0", SocketAddr::from(([127, 0, 0, 1], 9)));
    link.listen = Listen::At(vec![ListenAt::Unix(UnixSocket { path: at.clone(), mode: 0o600, owner: None })]);
    link.to = vec![Upstream::Unix(to)];
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let _links = links::open(&plan, Names::new().resolver()).expect("open");
    // Both are there before the link looks: it has not accepted anybody yet.
    let mut client = UnixStream::connect(&at).expect("connect");
    let (descriptors, first) = ([client.as_raw_fd()], [IoSlice::new(b"1")]);
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(client.as_raw_fd(), &first, &rights, MsgFlags::empty(), None).expect("sent");
    client.write_all(b" and the rest").expect("write");
    let (mut server, _) = listener.accept().expect("accept");
    server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut heard = [0; 14];
    server.read_exact(&mut heard).expect("all of it");
    assert_eq!(&heard, b"1 and the rest");
}

/// How often the thread for what takes time has woken up.
fn wake_ups() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("our threads").flatten();
    let file = |thread: &DirEntry, name: &str| {
        std::fs::read_to_string(thread.path().join(name)).expect("a thread of ours")
    };
    let thread = threads.into_iter().find(|thread| file(thread, "comm") == "links\n").expect("it is there");
    let status = file(&thread, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("a line of it").trim().parse().expect("a number")
}

#[test]
fn connections_to_a_name_wake_nobody_up_while_its_last_answer_is_good() {
    if ran_inside(connections_to_a_name_wake_nobody_up_while_its_last_answer_is_good) {
        return;
    }
    let (listener, to) = listen();
    echo(listener);
    let at = "127.0.0.1:53".parse().expect("an address");
    let _names_server = NameServer::saying(at, &format!("{} n0.test\n", to.ip()), 60);
    let names = Names::new();
    names.ask(at);
    let mut link = link("127.0.0.1:0", to);
    link.to = vec![Upstream::HostPort(HostPort { host: "n0.test".to_owned(), port: to.port() })];
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    let links = links::open(&plan, names.resolver()).expect("open");
    let said = |n: u32| {
        let mut client = connect(address_of(&links, 0));
        client.write_all(&n.to_be_bytes()).expect("write");
        let mut heard = [0; 4];
        client.read_exact(&mut heard).expect("an answer");
        assert_eq!(heard, n.to_be_bytes());
    };
    said(0);
    let before = wake_ups();
    (1..=200).for_each(said);
    let woken = wake_ups() - before;
    // It is asked again after some seconds, if that takes so long.
    assert!(woken < 100, "{woken} times for 200 connections");
}
