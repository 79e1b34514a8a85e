//! The service behind every forwarder: what it does with a connection, the connection's first byte says. A thread of
//! the benchmark; what it sees it tells by a channel, because a forwarder may cut a reply. Started by `main`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const MESSAGE: usize = 128;
const CHUNK: usize = 256 << 10;

/// Read everything, and tell how much and when it was over.
pub const SINK: u8 = b'S';
/// Write until told to stop by [`Upstream::pour`], then close.
pub const POUR: u8 = b'F';
/// Answer each whole message with itself.
pub const ECHO: u8 = b'E';
/// Answer with one byte and close.
pub const ONCE: u8 = b'C';
/// Read to the end, then answer: at once, or 2 s later.
pub const REPLY: u8 = b'H';
pub const REPLY_LATE: u8 = b'L';
/// Reset.
pub const RESET: u8 = b'R';
/// Write [`FILE_LENGTH`] bytes and close.
pub const FILE: u8 = b'D';
pub const FILE_LENGTH: usize = 64 << 20;
/// Read nothing.
pub const DEAF: u8 = b'N';

pub const ANSWER: &[u8] = b"answer";

#[derive(Debug)]
pub enum Seen {
    /// A sink's: so many bytes, the last of them then.
    Bytes(u64, Instant),
    Reset,
}

pub struct Upstream {
    pub address: SocketAddr,
    pour: Arc<AtomicBool>,
    seen: Mutex<mpsc::Receiver<Seen>>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").expect("bind");
        SockRef::from(&listener).listen(4096).expect("a longer queue");
        listener.set_nonblocking(true).expect("not blocking");
        let address = listener.local_addr().expect("bound");
        let pour = Arc::new(AtomicBool::new(false));
        let (tell, seen) = mpsc::channel();
        let goes_on = Arc::clone(&pour);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(listener, goes_on, tell));
        });
        Self { address, pour, seen: Mutex::new(seen) }
    }

    /// While it runs, [`POUR`] connections get bytes.
    pub fn pour<T>(&self, run: impl FnOnce() -> T) -> T {
        self.pour.store(true, Ordering::Relaxed);
        let result = run();
        self.pour.store(false, Ordering::Relaxed);
        result
    }

    pub fn stop_pouring(&self) {
        self.pour.store(false, Ordering::Relaxed);
    }

    /// What a connection saw, if it comes in time.
    pub fn seen(&self, within: Duration) -> Option<Seen> {
        self.seen.lock().expect("no thread fails holding it").recv_timeout(within).ok()
    }
}

async fn serve(listener: TcpListener, pour: Arc<AtomicBool>, tell: mpsc::Sender<Seen>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        // Short of descriptors, the next attempt is as good.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(one(stream, Arc::clone(&pour), tell.clone()));
    }
}

/// What is measured by the byte has a thread; the many are tasks.
async fn one(mut stream: tokio::net::TcpStream, pour: Arc<AtomicBool>, tell: mpsc::Sender<Seen>) {
    let mut kind = [0];
    if stream.read_exact(&mut kind).await.is_err() {
        return;
    }
    let _ = stream.set_nodelay(true);
    match kind[0] {
        ONCE => {
            let _ = stream.write_all(b"x").await;
        }
        ECHO => {
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).await.is_ok() && stream.write_all(&message).await.is_ok() {}
        }
        other => {
            let stream = stream.into_std().expect("a socket");
            stream.set_nonblocking(false).expect("blocking");
            thread::spawn(move || in_a_thread(other, stream, &pour, &tell));
        }
    }
}

fn in_a_thread(kind: u8, mut stream: TcpStream, pour: &AtomicBool, tell: &mpsc::Sender<Seen>) {
    match kind {
        SINK => {
            let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
            let seen = loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break Seen::Bytes(bytes, Instant::now()),
                    Ok(length) => bytes += length as u64,
                    Err(_) => break Seen::Reset,
                }
            };
            let _ = tell.send(seen);
        }
        POUR => {
            let buffer = vec![0; CHUNK];
            while pour.load(Ordering::Relaxed) && stream.write_all(&buffer).is_ok() {}
        }
        FILE => {
            let _ = stream.write_all(&vec![0; FILE_LENGTH]);
        }
        REPLY | REPLY_LATE => {
            let _ = stream.read_to_end(&mut Vec::new());
            if kind == REPLY_LATE {
                thread::sleep(Duration::from_secs(2));
            }
            let _ = stream.write_all(ANSWER);
            let _ = stream.shutdown(Shutdown::Write);
        }
        RESET => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        DEAF => {
            thread::sleep(Duration::from_secs(3));
        }
        other => panic!("a forwarder changed a byte: {other}"),
    }
}
