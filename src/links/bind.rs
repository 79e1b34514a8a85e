//! Makes the sockets that links listen on: TCP, UDP and Unix ones, each ready when it is given out. Never accepts or
//! receives. A file of a Unix socket is removed only if nobody listens there, or if it is ours. Called by `worker`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdUdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchownat};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::connection;
use crate::config::{ListenAt, Owner, UnixSocket};

const BACKLOG: i32 = 4096;

/// Room for what a burst brings while others have their turn; the kernel gives less where its limit is lower.
const DATAGRAMS: usize = 1 << 20;

/// One place where a link listens.
#[derive(Debug)]
pub(super) struct Bound {
    /// With the port that it has got.
    pub(super) at: ListenAt,
    pub(super) listener: Listener,
    /// Of a Unix socket.
    pub(super) file: Option<SocketFile>,
}

#[derive(Debug)]
pub(super) enum Listener {
    /// TCP, or a Unix socket under the type of TCP's: accepting is the same call for both.
    Stream(StdListener),
    Datagram(StdUdpSocket),
}

/// The file of a Unix socket. Dropping it removes the file, if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why a Unix socket can't be had.
#[derive(Debug, thiserror::Error)]
enum UnixError {
    #[error("somebody listens there")]
    Served,
    #[error("what is there is no socket")]
    NoSocket,
    #[error("another socket took its place")]
    Displaced,
    #[error("it can't be given to uid {uid}: {error}")]
    Owner { uid: u32, error: io::Error },
    #[error("it can't be given the mode {mode:04o}: {error}")]
    Mode { mode: u32, error: io::Error },
}

/// A socket that listens at `at`, not blocking and closed on exec.
///
/// # Errors
/// As the kernel says; for a Unix socket in words, and of the kind `AddrInUse` where something else is there.
pub(super) fn bind(at: &ListenAt) -> io::Result<Bound> {
    match at {
        ListenAt::Tcp(address) => {
            let listener = tcp(*address)?;
            let at = ListenAt::Tcp(listener.local_addr()?);
            Ok(Bound { at, listener: Listener::Stream(listener), file: None })
        }
        ListenAt::Udp(address) => {
            let socket = udp(*address)?;
            let at = ListenAt::Udp(socket.local_addr()?);
            Ok(Bound { at, listener: Listener::Datagram(socket), file: None })
        }
        ListenAt::Unix(wanted) => {
            let (listener, file) = unix(wanted)?;
            Ok(Bound { at: at.clone(), listener: Listener::Stream(listener), file: Some(file) })
        }
    }
}

/// An IPv6 listener takes IPv6 alone. What it accepts inherits its options: set once here, not for each connection.
fn tcp(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&connection::keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One that takes what is sent to any address is told with each datagram which: the answer has to come from there.
/// Without SO_REUSEADDR, which would let another process share the port and take what comes.
fn udp(address: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(DATAGRAMS)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Mode and owner are as wanted before it listens: until then the kernel refuses everybody who comes.
fn unix(wanted: &UnixSocket) -> io::Result<(StdListener, SocketFile)> {
    let address = SockAddr::unix(&wanted.path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The file gets these bits, less the umask, which belongs to the whole process and is left alone.
    fchmod(&socket, Mode::from_bits_truncate(wanted.mode))?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        remove_stale(&wanted.path, &address)?;
        socket.bind(&address)?;
    }
    let file = SocketFile::made(wanted)?;
    socket.listen(BACKLOG)?;
    // Whoever looked between the two calls saw a socket that nobody serves.
    if !file.is_there() {
        return Err(taken(UnixError::Displaced));
    }
    // Accepting, reading, writing and closing are the same calls; what is TCP's own is not asked of it.
    Ok((socket.into(), file))
}

/// Removes a socket that nobody listens on, left behind by a process that was killed.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(taken(UnixError::NoSocket));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue is an answer too, and not waited for.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(taken(UnixError::Served)),
    }
}

fn taken(error: UnixError) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, error)
}

impl SocketFile {
    /// The file of a socket that was just bound, with its mode and owner.
    fn made(wanted: &UnixSocket) -> io::Result<Self> {
        let UnixSocket { path, mode, owner } = wanted;
        // Held by a descriptor: should somebody put another file there, that one is not touched.
        let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
        let metadata = held.metadata()?;
        if !metadata.file_type().is_socket() {
            return Err(taken(UnixError::Displaced));
        }
        let file = Self { path: path.clone(), device: metadata.dev(), inode: metadata.ino() };
        let Owner { uid, gid } = owner.unwrap_or(Owner { uid: metadata.uid(), gid: None });
        if uid != metadata.uid() || gid.is_some_and(|gid| gid != metadata.gid()) {
            let given =
                fchownat(&held, "", Some(Uid::from_raw(uid)), gid.map(Gid::from_raw), AtFlags::AT_EMPTY_PATH);
            given.map_err(|error| io::Error::other(UnixError::Owner { uid, error: error.into() }))?;
        }
        if metadata.mode() & 0o777 != *mode {
            let failed = |error| io::Error::other(UnixError::Mode { mode: *mode, error });
            change_mode(&held, *mode).map_err(failed)?;
        }
        Ok(file)
    }

    fn is_there(&self) -> bool {
        let there = fs::symlink_metadata(&self.path);
        there.is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }
}

/// Of a file that is only held; the kernel has no call for that before 6.6.
fn change_mode(held: &File, mode: u32) -> io::Result<()> {
    fs::set_permissions(format!("/proc/self/fd/{}", held.as_raw_fd()), Permissions::from_mode(mode))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            // A folder that has become read-only: the next one to listen there finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
