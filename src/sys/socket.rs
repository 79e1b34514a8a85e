//! What a socket does and says of itself that no safe crate of ours asks for. Called by the links.

use std::io;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells the event loop of this thread when there is somebody to accept.
pub fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: the listener owns its descriptor, which stays open and the same for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

/// The next connection of a TCP listener, not blocking and closed on exec: all in one system call.
pub fn accept(listener: &impl AsFd) -> io::Result<TcpStream> {
    let (address, length) = (ptr::null_mut(), ptr::null_mut());
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the listener is open for as long as it is borrowed; null says that nobody wants the peer's address.
    let fd = unsafe { libc::accept4(listener.as_fd().as_raw_fd(), address, length, flags) };
    Errno::result(fd)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// How many bytes (and a close) were written to a TCP socket that its peer has not acknowledged. Fails for what is
/// no TCP connection.
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SIOCOUTQ goes by this name in libc.
    // SAFETY: the descriptor is open for as long as it is borrowed, and this request writes one int to the place
    // that is given, which lives until the call is over.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    Errno::result(answer)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// A socket that belongs to somebody else, who may close it at any time.
#[derive(Debug)]
pub struct Sight {
    descriptor: RawFd,
    inode: u64,
}

impl Sight {
    /// Remembers `socket` without keeping it open.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let descriptor = socket.as_fd().as_raw_fd();
        Ok(Self { descriptor, inode: inode(descriptor)? })
    }

    /// Whether it is still open. The number alone may be another file's by now; with the inode it is not.
    pub fn is_open(&self) -> bool {
        inode(self.descriptor).is_ok_and(|inode| inode == self.inode)
    }
}

fn inode(descriptor: RawFd) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes a whole `stat` to the place that is given. A number that is no descriptor, or another
    // file's, is an error or that file's inode: nothing is read from or done to the file.
    let answer = unsafe { libc::fstat(descriptor, stat.as_mut_ptr()) };
    Errno::result(answer)?;
    // SAFETY: the call succeeded, so all of it is written.
    Ok(unsafe { stat.assume_init() }.st_ino)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn what_a_peer_has_not_taken_is_counted_even_after_the_close() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut writer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (mut reader, _) = listener.accept().expect("accept");
        assert_eq!(unacknowledged(&writer).expect("ask"), 0);
        writer.set_nonblocking(true).expect("not blocking");
        while writer.write(&[0; 65536]).is_ok() {}
        writer.shutdown(Shutdown::Write).expect("close");
        assert!(unacknowledged(&writer).expect("ask") > 1);
        reader.read_to_end(&mut Vec::new()).expect("read");
        assert_eq!(unacknowledged(&writer).expect("ask"), 0);
        assert!(unacknowledged(&listener).is_err());
    }

    #[test]
    fn a_socket_is_seen_until_it_is_closed_and_its_number_is_not_taken_for_it() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
        let sight = Sight::of(&socket).expect("a socket");
        assert!(sight.is_open());
        drop(socket);
        // Most likely with the very number; whichever, it is another one.
        let _other = TcpListener::bind("127.0.0.1:0").expect("bind");
        assert!(!sight.is_open());
    }
}
