//! Many descriptors watched as one by the event loop: an epoll instance within it. Each costs the kernel an entry, and
//! this process nothing. Called by the links.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most that one look tells of.
pub const MOST: usize = 64;

/// Descriptors, each under a number of its own. One that is closed is watched no more.
#[derive(Debug)]
pub struct Watch(AsyncFd<Descriptors>);

#[derive(Debug)]
struct Descriptors(Epoll);

/// What one look has found.
#[derive(Debug)]
pub struct Found {
    events: [EpollEvent; MOST],
    count: usize,
}

impl Watch {
    /// To be called where the event loop is that will wait.
    pub fn new() -> io::Result<Self> {
        let watched = Descriptors(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        // SAFETY: it owns its descriptor, which stays open and the same for as long as it lives.
        Ok(Self(unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?))
    }

    /// Watches `descriptor` for something to read, or an error.
    pub fn add(&self, descriptor: &impl AsFd, number: usize) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
        Ok(self.0.get_ref().0.add(descriptor, event)?)
    }

    /// Waits until something is there. What is not read by then is told again, after the others.
    ///
    /// # Errors
    /// When the event loop has ended.
    pub async fn ready(&self) -> io::Result<Found> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut events = [EpollEvent::empty(); MOST];
            match ready.get_inner().0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => ready.clear_ready(),
                Ok(count) => return Ok(Found { events, count }),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Found {
    /// The numbers of the descriptors.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        self.events[..self.count].iter().filter_map(|event| usize::try_from(event.data()).ok())
    }
}

impl AsRawFd for Descriptors {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn each_is_told_until_it_is_read_and_no_more_when_it_is_closed() {
        let watch = Watch::new().expect("a watch");
        let mut sockets: Vec<_> = (0..100).map(|_| UdpSocket::bind("127.0.0.1:0").expect("bind")).collect();
        for (number, socket) in sockets.iter().enumerate() {
            watch.add(socket, number).expect("added");
            sockets[0].send_to(b"x", socket.local_addr().expect("bound")).expect("sent");
        }
        let mut seen = [0; 100];
        while seen.contains(&0) {
            watch.ready().await.expect("ready").numbers().for_each(|number| seen[number] += 1);
        }
        for socket in &sockets[1..] {
            socket.recv(&mut [0]).expect("read");
        }
        assert_eq!(watch.ready().await.expect("ready").numbers().collect::<Vec<_>>(), [0]);
        sockets.swap_remove(0);
        let mut ready = Box::pin(watch.ready());
        let poll = ready.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Pending));
        sockets[7].send_to(b"x", sockets[8].local_addr().expect("bound")).expect("sent");
        assert_eq!(ready.await.expect("ready").numbers().collect::<Vec<_>>(), [8]);
    }
}
