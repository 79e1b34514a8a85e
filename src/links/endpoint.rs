//! One place to connect to, and how. Once connected, a stream socket is a stream socket: the relay need not know which
//! kind it has. Never chooses, never retries what the other end refuses. Called by `upstream`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

/// Between two looks at a Unix socket whose queue is full: the kernel has no event for it.
const FULL: Duration = Duration::from_millis(5);

/// In order: IPv4, IPv6, then paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl Endpoint {
    /// One attempt, for as long as the caller waits.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                // A port of this machine's that nobody listens on may be given to the very socket that asks for it:
                // TCP then connects that socket to itself.
                if stream.local_addr()? == *address {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Ok(stream)
            }
            Self::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => {
                        // Reading, writing and closing are the same calls; what is TCP's own fails and is not missed.
                        let stream = OwnedFd::from(stream.into_std()?);
                        return TcpStream::from_std(stream.into());
                    }
                    // Where TCP would wait in the queue.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        #[expect(
                            clippy::disallowed_methods,
                            reason = "no event says that the queue has room"
                        )]
                        tokio::time::sleep(FULL).await;
                    }
                    Err(error) => return Err(error),
                }
            },
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
