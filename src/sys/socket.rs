//! What a socket does and says of itself that no safe crate of ours asks for. Called by the links.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

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

/// How many bytes have come that nobody has read; 0 for what is no connection.
pub fn unread(socket: &impl AsFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and this request writes one int to the place
    // that is given, which lives until the call is over.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(answer).map_or(0, |_| usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};

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
        assert!(unread(&reader) > 1);
        reader.read_to_end(&mut Vec::new()).expect("read");
        assert_eq!((unacknowledged(&writer).expect("ask"), unread(&reader)), (0, 0));
        assert!(unacknowledged(&listener).is_err());
    }
}
