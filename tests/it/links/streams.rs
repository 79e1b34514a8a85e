//! Connections that stream, so that the link splices them, and links that are full: the same bytes, the same ends, and
//! no pipe left behind. nextest runs each test in a process of its own, so its pipes are those of its link.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use ensign::config::Workers;

use super::*;

/// More than the buffers of the kernel on the way, so that it can't be all in them.
const STREAM: usize = 64 << 20;

/// As src/links/pipes.rs has it: of one process, and of those the spare ones of one thread.
const MOST_PIPES: usize = 64;
const MOST_SPARE: usize = 4;

/// Pipes that are open in this process.
fn pipes() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("our descriptors").flatten();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count() / 2
}

fn send(stream: &TcpStream, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut stream = stream.try_clone().expect("clone");
    thread::spawn(move || {
        stream.write_all(&bytes).expect("write");
        stream.shutdown(Shutdown::Write).expect("close");
    })
}

/// Length and checksum of all that comes.
fn receive(mut stream: TcpStream) -> JoinHandle<(usize, u64)> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read");
        (bytes.len(), checksum(&bytes))
    })
}

fn seal(bytes: &[u8]) -> (usize, u64) {
    (bytes.len(), checksum(bytes))
}

#[test]
fn streams_both_ways_at_once_are_the_same_bytes() {
    let before = pipes();
    let (_links, client, server) = pair();
    let (up, down) = (noise(1, STREAM), noise(2, STREAM));
    let expected = (seal(&up), seal(&down));
    let sends = [send(&client, up), send(&server, down)];
    let received = (receive(server), receive(client));
    sends.into_iter().for_each(|send| send.join().expect("sent"));
    assert_eq!((received.0.join().expect("up"), received.1.join().expect("down")), expected);
    let left = pipes() - before;
    assert!((1..=2).contains(&left), "{left} pipes for two streams: they were not spliced, or they leak");
}

#[test]
fn a_slow_reader_gets_every_byte_of_a_stream() {
    let (_links, client, mut server) = pair();
    let bytes = noise(3, STREAM);
    let expected = checksum(&bytes);
    let sent = send(&client, bytes);
    // In gulps of any size and now and then a pause: the link is stuck with bytes in its pipe again and again.
    let mut random = fastrand::Rng::with_seed(4);
    let mut got = vec![0; STREAM];
    let mut length = 0;
    while length < STREAM {
        let most = random.usize(1..=512 << 10).min(STREAM - length);
        let read = server.read(&mut got[length..length + most]).expect("read");
        assert!(read > 0, "the end comes after {length} bytes");
        length += read;
        if random.u8(..) < 16 {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
    assert_eq!(read_end(&mut server).expect("the end"), 0);
    sent.join().expect("sent");
    assert_eq!(checksum(&got), expected);
}

#[test]
fn a_reply_comes_after_a_stream_was_half_closed() {
    let (_links, client, server) = pair();
    for (from, to, seed) in [(&client, &server, 5), (&server, &client, 6)] {
        let bytes = noise(seed, STREAM / 4);
        let expected = seal(&bytes);
        let sent = send(from, bytes);
        assert_eq!(receive(to.try_clone().expect("clone")).join().expect("received"), expected);
        sent.join().expect("sent");
    }
}

#[test]
fn small_messages_and_streams_take_turns() {
    let (_links, mut client, mut server) = pair();
    for round in 0..8 {
        let length = if round % 2 == 0 { 4 << 20 } else { 100 };
        let bytes = noise(round, length);
        let mut writer = client.try_clone().expect("clone");
        let expected = checksum(&bytes);
        let sent = thread::spawn(move || writer.write_all(&bytes).expect("write"));
        let mut got = vec![0; length];
        server.read_exact(&mut got).expect("read");
        sent.join().expect("sent");
        assert_eq!(checksum(&got), expected);
        server.write_all(b"ok").expect("write");
        client.read_exact(&mut [0; 2]).expect("read");
    }
}

#[test]
fn a_stream_that_is_reset_takes_its_pipe_along_and_the_next_gets_none_of_its_bytes() {
    let before = pipes();
    let (listener, to) = listen();
    SockRef::from(&listener).set_recv_buffer_size(32 << 10).expect("a small buffer");
    let (_links, address) = open(to);
    for round in 0..2 {
        let mut client = connect(address);
        let server = accept(&listener);
        // The server reads nothing: the link is stuck with a pipe full of this.
        fill(&mut client, &noise(round, STREAM / 2));
        assert!(pipes() > before, "the stream is not spliced");
        reset(client);
        wait_until("the server's socket has failed", || {
            server.take_error().expect("ask").is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
        });
        wait_until("the pipe is closed", || pipes() == before);

        let client = connect(address);
        let server = accept(&listener);
        let bytes = noise(10 + round, STREAM / 8);
        let expected = seal(&bytes);
        let sent = send(&client, bytes);
        assert_eq!(receive(server).join().expect("received"), expected);
        sent.join().expect("sent");
        drop(client);
        assert!(pipes() <= before + MOST_SPARE);
    }
}

#[test]
fn a_server_that_resets_a_stream_resets_its_client() {
    let (_links, mut client, server) = pair();
    fill(&mut client, &noise(7, STREAM));
    reset(server);
    assert!(is_reset(read_end(&mut client)));
}

#[test]
fn more_streams_than_pipes_are_the_same_bytes() {
    const STREAMS: usize = MOST_PIPES + 16;
    raise_descriptors();
    let before = pipes();
    let (listener, to) = listen();
    // So little that every stream is stuck soon; inherited by what is accepted.
    SockRef::from(&listener).set_recv_buffer_size(32 << 10).expect("a small buffer");
    let (_links, address) = open(to);
    let passed = Arc::new(AtomicUsize::new(0));
    let mut streams = Vec::new();
    for seed in 0..STREAMS {
        let mut client = connect(address);
        let server = accept(&listener);
        let bytes = noise(seed as u64, 8 << 20);
        let expected = seal(&bytes);
        let passed = Arc::clone(&passed);
        let sent = thread::spawn(move || {
            for part in bytes.chunks(1 << 20) {
                client.write_all(part).expect("write");
                passed.fetch_add(1, Ordering::Relaxed);
            }
        });
        streams.push((server, sent, expected));
    }
    // Nobody reads, so whoever got a pipe keeps it.
    let is_stuck = || passed.load(Ordering::Relaxed) >= STREAMS;
    wait_until("every stream flows", is_stuck);
    assert!(pipes() - before <= MOST_PIPES, "{} pipes", pipes() - before);
    let received: Vec<_> =
        streams.into_iter().map(|(server, sent, expected)| (receive(server), sent, expected)).collect();
    for (received, sent, expected) in received {
        sent.join().expect("sent");
        assert_eq!(received.join().expect("received"), expected);
    }
    let spare = pipes() - before;
    assert!((1..=MOST_SPARE).contains(&spare), "{spare} pipes are kept");
}

fn open_with(set: impl FnOnce(&mut Link, &mut Plan), listen: Vec<SocketAddr>, to: SocketAddr) -> Links {
    let mut link = link("127.0.0.1:0", to);
    link.listen = Listen::At(listen.into_iter().map(ListenAt::Tcp).collect());
    let mut workers = Plan::default();
    set(&mut link, &mut workers);
    let plan = Plan { workers: workers.workers, ..plan_links(&EnvLinks::None, [("web", &link)], []) };
    links::open(&plan, Names::new().resolver()).expect("open")
}

#[test]
fn a_full_link_lets_clients_wait_at_whichever_of_its_addresses() {
    let (listener, to) = listen();
    let any = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse().expect("an address"));
    let links = open_with(|link, _| link.max_connections = NonZeroU32::new(2), any.to_vec(), to);
    let [v4, v6] = [0, 1].map(|at| address_of(&links, at));
    let first = connect(v4);
    let second = connect(v6);
    let (_, mut one) = (accept(&listener), accept(&listener));
    listener.set_nonblocking(true).expect("not blocking");
    for address in [v6, v4] {
        let mut waiting = connect(address);
        waiting.write_all(b"hello").expect("the kernel takes it");
        // The pause is what is tested: nobody comes.
        thread::park_timeout(Duration::from_millis(200));
        assert_eq!(listener.accept().expect_err("the link is full").kind(), ErrorKind::WouldBlock);
        drop(waiting);
    }
    drop((first, second));
    assert_eq!(read_end(&mut one).expect("the end"), 0);
    drop(one);
    listener.set_nonblocking(false).expect("blocking");
    // Those two that gave up had their turn: they are not counted any more.
    for address in [v4, v6, v4] {
        let mut client = connect(address);
        client.write_all(b"x").expect("write");
        loop {
            let mut server = accept(&listener);
            let mut word = [0];
            if server.read_exact(&mut word).is_ok() && word == *b"x" {
                break;
            }
        }
    }
}

#[test]
fn several_workers_share_the_connections() {
    let threads = || std::fs::read_dir("/proc/self/task").expect("our threads").count();
    let before = threads();
    let (listener, to) = listen();
    let any = vec!["127.0.0.1:0".parse().expect("an address")];
    let links = open_with(|_, plan| plan.workers = Workers::new(3).expect("in range"), any, to);
    // And one for what takes time.
    assert_eq!(threads(), before + 4);
    let address = address_of(&links, 0);
    let mut pairs = Vec::new();
    for number in 0..9_u8 {
        let mut client = connect(address);
        let mut server = accept(&listener);
        client.write_all(&[number]).expect("write");
        let mut word = [0];
        server.read_exact(&mut word).expect("read");
        assert_eq!(word, [number]);
        pairs.push((client, server));
    }
    drop(links);
    assert_eq!(threads(), before);
    for (client, _) in &mut pairs {
        assert_eq!(read_end(client).expect("the links are gone"), 0);
    }
}
