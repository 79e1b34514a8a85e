//! What is done through a forwarder, and the figures that it gives. Called by `main`, once a turn.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peers::{Forwarder, Kind, dead_end};
use crate::upstream::{
    ANSWER, DEAF, ECHO, FILE, FILE_LENGTH, MESSAGE, ONCE, POUR, REPLY, REPLY_LATE, RESET, SINK, Seen,
    Upstream,
};

/// How long each measurement goes on.
const SPAN: Duration = Duration::from_millis(600);
const CHUNK: usize = 256 << 10;
/// Between two segments of a request.
const APART: Duration = Duration::from_micros(300);
/// For what must come, and for a forwarder that hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

impl Better {
    pub fn text(self) -> &'static str {
        match self {
            Self::More => "more is better",
            Self::Less => "less is better",
        }
    }
}

/// A row's label, which way is better, and a value for it.
pub type Figure = (&'static str, Better, f64);

fn connect(forwarder: &Forwarder, kind: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(forwarder.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

/// GB/s, and the forwarder's seconds of processor time a GB.
fn bulk(
    forwarder: &Forwarder,
    rate: &'static str,
    cost: &'static str,
    run: impl FnOnce() -> (u64, Duration),
) -> Vec<Figure> {
    let before = forwarder.cpu();
    let (bytes, time) = run();
    let gb = bytes as f64 / 1e9;
    let mut figures = vec![(rate, Better::More, gb / time.as_secs_f64())];
    if forwarder.kind != Kind::Direct {
        figures.push((cost, Better::Less, (forwarder.cpu() - before) / gb));
    }
    figures
}

fn up(forwarder: &Forwarder, upstream: &Upstream, connections: usize) -> (u64, Duration) {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut stream = connect(forwarder, SINK).expect("connect");
                let chunk = vec![0; CHUNK];
                while start.elapsed() < SPAN {
                    stream.write_all(&chunk).expect("write");
                }
                stream.shutdown(Shutdown::Write).expect("close");
                // Who closes at once may lose what a forwarder has not read.
                let _ = stream.read(&mut [0]);
            });
        }
    });
    let mut all = (0, start);
    for _ in 0..connections {
        let Some(Seen::Bytes(bytes, at)) = upstream.seen(DEADLINE) else {
            panic!("{}: a stream did not arrive", forwarder.kind.name())
        };
        all = (all.0 + bytes, all.1.max(at));
    }
    (all.0, all.1 - start)
}

pub fn bulk_up(forwarder: &Forwarder, upstream: &Upstream) -> Vec<Figure> {
    bulk(forwarder, "upload, 1 connection, GB/s", "upload, 1 connection, CPU-s/GB", || {
        up(forwarder, upstream, 1)
    })
}

pub fn bulk_up_8(forwarder: &Forwarder, upstream: &Upstream) -> Vec<Figure> {
    bulk(forwarder, "upload, 8 connections, GB/s", "upload, 8 connections, CPU-s/GB", || {
        up(forwarder, upstream, 8)
    })
}

pub fn bulk_down(forwarder: &Forwarder, upstream: &Upstream) -> Vec<Figure> {
    bulk(forwarder, "download, 1 connection, GB/s", "download, 1 connection, CPU-s/GB", || {
        let start = Instant::now();
        let mut bytes = 0;
        upstream.pour(|| {
            let mut stream = connect(forwarder, POUR).expect("connect");
            let mut buffer = vec![0; CHUNK];
            loop {
                match stream.read(&mut buffer).expect("read") {
                    0 => break,
                    length => bytes += length as u64,
                }
                if start.elapsed() >= SPAN {
                    upstream.stop_pouring();
                }
            }
        });
        (bytes, start.elapsed())
    })
}

/// Connect, ask, answer, end: how many a second, and the longest that one took.
fn connections(forwarder: &Forwarder, clients: usize) -> (f64, f64) {
    let start = Instant::now();
    let client = || {
        let (mut count, mut worst) = (0, Duration::ZERO);
        while start.elapsed() < SPAN {
            let from = Instant::now();
            let mut stream = connect(forwarder, ONCE).expect("connect");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("read");
            assert_eq!(answer, b"x");
            (count, worst) = (count + 1, worst.max(from.elapsed()));
        }
        (count, worst)
    };
    let (count, worst) = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let ends = clients.into_iter().map(|client| client.join().expect("a client"));
        ends.fold((0, Duration::ZERO), |all, one| (all.0 + one.0, all.1.max(one.1)))
    });
    (f64::from(count) / start.elapsed().as_secs_f64(), worst.as_secs_f64() * 1e3)
}

pub fn connections_1(forwarder: &Forwarder, _: &Upstream) -> Vec<Figure> {
    let (rate, _) = connections(forwarder, 1);
    vec![("new connections/s, 1 client", Better::More, rate)]
}

pub fn connections_16(forwarder: &Forwarder, _: &Upstream) -> Vec<Figure> {
    let before = forwarder.cpu();
    let (rate, worst) = connections(forwarder, 16);
    let mut figures = vec![
        ("new connections/s, 16 clients", Better::More, rate),
        ("new connections, 16 clients, worst, ms", Better::Less, worst),
    ];
    if forwarder.kind != Kind::Direct {
        let cost = (forwarder.cpu() - before) / (rate * SPAN.as_secs_f64()) * 1e4;
        figures.push(("new connections, 16 clients, CPU-s per 10,000", Better::Less, cost));
    }
    figures
}

/// Microseconds at this share of the sorted times.
fn at(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6
}

pub fn ping_pong(forwarder: &Forwarder, _: &Upstream) -> Vec<Figure> {
    let mut times = exchange(forwarder, &[MESSAGE]);
    vec![
        ("ping-pong, 1 connection, p50, µs", Better::Less, at(&mut times, 0.5)),
        ("ping-pong, 1 connection, p99, µs", Better::Less, at(&mut times, 0.99)),
    ]
}

/// A request that leaves in two segments, as of a client that writes header and body: the second when the forwarder has
/// passed on the first. The time is that from the second to the answer.
pub fn split(forwarder: &Forwarder, _: &Upstream) -> Vec<Figure> {
    let mut times = exchange(forwarder, &[16, MESSAGE - 16]);
    vec![("request in two segments, from the second, p50, µs", Better::Less, at(&mut times, 0.5))]
}

fn exchange(forwarder: &Forwarder, segments: &[usize]) -> Vec<Duration> {
    let mut stream = connect(forwarder, ECHO).expect("connect");
    let (start, mut times, mut message) = (Instant::now(), vec![], [0; MESSAGE]);
    while start.elapsed() < SPAN {
        let (last, before) = segments.split_last().expect("a message has a part");
        for &length in before {
            stream.write_all(&message[..length]).expect("write");
            thread::sleep(APART);
        }
        let from = Instant::now();
        stream.write_all(&message[..*last]).expect("write");
        stream.read_exact(&mut message).expect("read");
        times.push(from.elapsed());
    }
    times
}

pub fn ping_pong_64(forwarder: &Forwarder, _: &Upstream) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // One by one, and before the clock runs: a short queue of a listener is not what is measured here.
    let streams: Vec<_> = (0..64).map(|_| connect(forwarder, ECHO).expect("connect")).collect();
    let before = forwarder.cpu();
    let mut times = runtime.block_on(async {
        let start = Instant::now();
        let clients: Vec<_> =
            streams.into_iter().map(|stream| tokio::spawn(requests(stream, start))).collect();
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.await.expect("a client"));
        }
        times
    });
    let count = times.len() as f64;
    let mut figures = vec![
        ("requests/s, 64 connections", Better::More, count / SPAN.as_secs_f64()),
        ("ping-pong, 64 connections, p50, µs", Better::Less, at(&mut times, 0.5)),
        ("ping-pong, 64 connections, p99, µs", Better::Less, at(&mut times, 0.99)),
    ];
    if forwarder.kind != Kind::Direct {
        let cost = (forwarder.cpu() - before) / count * 1e5;
        figures.push(("requests, 64 connections, CPU-s per 100,000", Better::Less, cost));
    }
    figures
}

async fn requests(stream: TcpStream, start: Instant) -> Vec<Duration> {
    stream.set_nonblocking(true).expect("not blocking");
    let mut stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
    let (mut times, mut message) = (vec![], [0; MESSAGE]);
    while start.elapsed() < SPAN {
        let from = Instant::now();
        stream.write_all(&message).await.expect("write");
        stream.read_exact(&mut message).await.expect("read");
        times.push(from.elapsed());
    }
    times
}

/// A forwarder of its own: what others have left it with does not count.
pub fn memory(kind: Kind, upstream: &Upstream) -> Vec<Figure> {
    if kind == Kind::Direct {
        return vec![];
    }
    let forwarder = Forwarder::start(kind, upstream.address);
    let open = || {
        let mut stream = connect(&forwarder, ECHO)?;
        stream.write_all(&[0; MESSAGE])?;
        stream.read_exact(&mut [0; MESSAGE])?;
        Ok::<_, std::io::Error>(stream)
    };
    // Start-up is over once it has served somebody and let go.
    drop(open().expect("a connection"));
    thread::sleep(Duration::from_millis(500));
    let rest = forwarder.memory();
    let streams: Vec<_> = (0..kind.idle()).map_while(|_| open().ok()).collect();
    assert_eq!(streams.len(), kind.idle(), "{} takes no more", kind.name());
    let each = (forwarder.memory() - rest) / streams.len() as f64;
    vec![
        ("memory without connections, KiB", Better::Less, rest / 1024.0),
        ("memory an idle connection, bytes", Better::Less, each),
    ]
}

/// What a client and a server see of each other: a question and the answer, in the order of the table.
pub fn behaviour(kind: Kind, upstream: &Upstream) -> Vec<(&'static str, String)> {
    let forwarder = Forwarder::start(kind, upstream.address);
    let reply = |of| {
        let mut stream = connect(&forwarder, of).expect("connect");
        stream.shutdown(Shutdown::Write).expect("close");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) if answer == ANSWER => "arrives".to_owned(),
            Ok(_) => "**lost**".to_owned(),
            Err(error) => format!("**{}**", error.kind()),
        }
    };
    let end = |result: std::io::Result<usize>| match result {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused".to_owned(),
        Err(error) => format!("**{}**", error.kind()),
        Ok(_) => "**clean end**".to_owned(),
    };
    let from_client = || {
        let mut stream = connect(&forwarder, SINK).expect("connect");
        stream.write_all(&[0; MESSAGE]).expect("write");
        thread::sleep(Duration::from_millis(100));
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(stream);
        match upstream.seen(DEADLINE) {
            Some(Seen::Reset) => "reset".to_owned(),
            Some(Seen::Bytes(..)) => "**clean end**".to_owned(),
            None => "**nothing**".to_owned(),
        }
    };
    let mut to_client = connect(&forwarder, RESET).expect("connect");
    let refused = {
        let (_closed, nowhere) = dead_end();
        let forwarder = Forwarder::start(kind, nowhere);
        // Says nothing itself: bytes that nobody has read turn any end into a reset.
        end(TcpStream::connect(forwarder.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.read(&mut [0])
        }))
    };
    vec![
        ("nobody listens upstream: the client sees", refused),
        ("a reply at once after a half-close", reply(REPLY)),
        ("a reply 2 s after a half-close", reply(REPLY_LATE)),
        ("the upstream resets: the client sees", end(to_client.read(&mut [0]))),
        ("the client resets: the upstream sees", from_client()),
        ("taken for an upstream that does not read", deaf(&forwarder)),
        ("a client or an upstream that vanishes while idle", keepalive(&forwarder)),
        ("told to stop in the middle of a download of 64 MiB", stopped(forwarder)),
    ]
}

/// What a client can write while nobody reads: the kernel's buffers of one connection or two, and the forwarder's.
fn deaf(forwarder: &Forwarder) -> String {
    const ENOUGH: usize = 1 << 30;
    let mut stream = connect(forwarder, DEAF).expect("connect");
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let chunk = vec![0; CHUNK];
    let mut taken = 0;
    while taken < ENOUGH {
        match stream.write(&chunk) {
            Ok(length) => taken += length,
            Err(_) => break,
        }
    }
    if taken >= ENOUGH {
        "**no end**".to_owned()
    } else {
        format!("{:.1} MiB", taken as f64 / f64::from(1 << 20))
    }
}

/// Which ends of a connection the forwarder would find out about: those that it has set keepalive for.
fn keepalive(forwarder: &Forwarder) -> String {
    if forwarder.kind == Kind::Direct {
        return "–".to_owned();
    }
    let mut stream = connect(forwarder, ECHO).expect("connect");
    stream.write_all(&[0; MESSAGE]).expect("write");
    stream.read_exact(&mut [0; MESSAGE]).expect("read");
    let start = Instant::now();
    // Some set it after a while.
    loop {
        match forwarder.kept_alive() {
            2.. => return "both noticed".to_owned(),
            one if start.elapsed() > Duration::from_secs(5) => {
                return if one == 1 { "**one noticed**" } else { "**not noticed**" }.to_owned();
            }
            _ => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Whether a client that reads on gets all of it.
fn stopped(forwarder: Forwarder) -> String {
    if forwarder.kind == Kind::Direct {
        return "–".to_owned();
    }
    let mut stream = connect(&forwarder, FILE).expect("connect");
    let mut buffer = vec![0; CHUNK];
    let mut length = stream.read(&mut buffer).expect("read");
    // Everything that the kernel has room for is on its way.
    thread::sleep(Duration::from_millis(100));
    forwarder.tell_to_stop();
    thread::sleep(Duration::from_millis(50));
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    if length == FILE_LENGTH { "arrives".to_owned() } else { format!("**{} MiB of it**", length >> 20) }
}
