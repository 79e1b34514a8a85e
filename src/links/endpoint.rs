//! One place to connect to, and how. Once connected, a stream socket is a stream socket: the relay need not know which
//! kind it has. Never chooses, never retries what the other end refuses. Called by `upstream` and `connection`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;

/// Between two looks at a Unix socket whose queue is full: the kernel has no event for it.
const FULL: Duration = Duration::from_millis(5);

/// In order: IPv4, IPv6, then paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl Endpoint {
    /// Begins an attempt. The socket does not block; it is writable once it is connected or has failed.
    /// `WouldBlock`: a Unix socket whose queue is full.
    pub(super) fn begin(&self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(address) => {
                let kind = Type::STREAM.nonblocking().cloexec();
                let socket = Socket::new(Domain::for_address(*address), kind, Some(Protocol::TCP))?;
                // Small messages are not held back.
                socket.set_tcp_nodelay(true)?;
                match socket.connect(&(*address).into()) {
                    Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
                    Ok(()) | Err(_) => Ok(socket.into()),
                }
            }
            Self::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
                // From here on reading, writing and closing are the same calls; what is TCP's own fails and is not
                // missed.
                socket.connect(&SockAddr::unix(path)?)?;
                Ok(socket.into())
            }
        }
    }

    /// Whether a socket that got its connection got it from somebody else. A port of this machine's that nobody listens
    /// on may be given to the very socket that asks for it: TCP then connects that socket to itself.
    pub(super) fn verdict(&self, socket: &TcpStream) -> io::Result<()> {
        match self {
            Self::Tcp(address) if socket.local_addr()? == *address => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }

    /// One attempt, for as long as the caller waits. Tells when it has `begun`: when there was a socket for it.
    pub(super) async fn connect(&self, mut begun: impl FnMut()) -> io::Result<TcpStream> {
        loop {
            match self.begin() {
                Ok(socket) => {
                    begun();
                    let socket = tokio::net::TcpStream::from_std(socket)?;
                    socket.ready(Interest::WRITABLE).await?;
                    let socket = socket.into_std()?;
                    if let Some(error) = socket.take_error()? {
                        return Err(error);
                    }
                    return self.verdict(&socket).map(|()| socket);
                }
                // Where TCP would wait in the queue.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    #[expect(clippy::disallowed_methods, reason = "no event says that the queue has room")]
                    tokio::time::sleep(FULL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
