//! Clients that keep a link busy: each opens a connection, says something of its own, hears it back along with the name
//! of the server that it has come to, and begins anew. Counts; judges nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait;

/// For what a test does not expect to happen at all.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// One connection, from before it is begun to after its end.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub begun: Instant,
    pub ended: Instant,
    /// The name of the server (the last number of its address), or why there was no answer.
    pub came_to: Result<u8, String>,
}

pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    begun: AtomicU64,
    done: Mutex<Vec<Exchange>>,
}

impl Load {
    /// So many clients, until `end`.
    pub fn start(link: SocketAddr, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while !shared.is_over.load(Ordering::Relaxed) {
                    let number = shared.begun.fetch_add(1, Ordering::Relaxed);
                    let begun = Instant::now();
                    let came_to = exchange(link, number).map_err(|why| why.to_string());
                    shared.log().push(Exchange { begun, ended: Instant::now(), came_to });
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { shared, clients }
    }

    pub fn done(&self) -> usize {
        self.shared.log().len()
    }

    /// Waits until so many more are done.
    pub fn go_on(&self, more: usize) {
        let most = self.done() + more;
        wait::until_true("connections", || self.done() >= most);
    }

    /// Waits until one that begins from now on has come to the server of this name.
    pub fn until_at(&self, name: u8) {
        let (now, seen) = (Instant::now(), self.done());
        let is_there = |one: &Exchange| one.begun >= now && one.came_to == Ok(name);
        wait::until_true("a connection there", || self.shared.log()[seen..].iter().any(is_there));
    }

    /// Waits until so many are done that were begun after `then`.
    pub fn until_begun_after(&self, then: Instant, count: usize) {
        wait::until_true("connections after that", || {
            self.shared
                .log()
                .iter()
                .rev()
                .take_while(|one| one.ended > then)
                .filter(|one| one.begun > then)
                .count()
                >= count
        });
    }

    /// All of them, as they ended.
    pub fn end(self) -> Vec<Exchange> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
        std::mem::take(&mut *self.shared.log())
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Vec<Exchange>> {
        self.done.lock().expect("nobody panics with it")
    }
}

/// Those that had no answer.
pub fn failed(all: &[Exchange]) -> Vec<&Exchange> {
    all.iter().filter(|one| one.came_to.is_err()).collect()
}

pub fn slowest(all: &[Exchange]) -> Duration {
    all.iter().map(|one| one.ended - one.begun).max().unwrap_or_default()
}

fn exchange(link: SocketAddr, number: u64) -> io::Result<u8> {
    let mut stream = connect(link)?;
    ask(&mut stream, number)
}

pub fn connect(link: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(link)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// What `actor named` answers; its name.
fn ask(stream: &mut TcpStream, number: u64) -> io::Result<u8> {
    let said = number.to_be_bytes();
    let mut heard = [0; 9];
    stream.write_all(&said)?;
    stream.read_exact(&mut heard)?;
    if heard[1..] != said {
        return Err(io::Error::other(format!("{:?} came back for {said:?}", &heard[1..])));
    }
    Ok(heard[0])
}
