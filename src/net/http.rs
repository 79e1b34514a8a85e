//! HTTP/1.1 as a client: one connection, made to the first of some addresses that takes it, and requests on it, one after
//! the other.
//!
//! Never looks a name up, never follows a redirect, never keeps a connection by itself and has no timeout but the pause
//! before the next address is tried beside a slow one: whoever drops what it waits for closes the connection. Tells
//! when the other side closes one, also while nothing is asked. Called by http checks and the registry's clients.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::config::HostPort;

/// An address that takes this long to answer has the next one tried beside it.
const SLOW: Duration = Duration::from_millis(150);

/// The kernel looks whether an idle peer is still there, and gives it up in about a minute. It wakes nobody meanwhile.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVES: u32 = 3;
/// What was sent and is not acknowledged for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A connection; closed when it is dropped, whatever is under way on it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<String>,
    driver: AbortHandle,
    remote: SocketAddr,
}

/// How to secure a connection: what to trust and show, and who must answer.
#[derive(Debug)]
pub struct Secure {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl Connection {
    /// Connects to one of `addresses`, of which there must be one; each that is slow has the next one tried beside it.
    /// `ended` is called when the connection ends and not by our dropping it; it says [`is_closed`](Self::is_closed)
    /// by then. Error: what became of the last address that was tried, or the end of the TLS handshake.
    pub async fn open(
        addresses: &[SocketAddr],
        secure: Option<Secure>,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let stream = connect(addresses).await?;
        let remote = stream.peer_addr()?;
        let stream: Box<dyn Stream> = match secure {
            None => Box::new(stream),
            Some(Secure { config, name }) => {
                Box::new(TlsConnector::from(config).connect(name, stream).await?)
            }
        };
        let (sender, connection) = handshake(Transport(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // Why it ended is told to whoever waits for an answer.
            let _ended = connection.await;
            ended();
        });
        Ok(Self { sender, driver: driver.abort_handle(), remote })
    }

    /// Whom it leads to.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// It has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its answer, of which the body must be read before the next one. The
    /// request's URI is a path, its headers are all that is sent but the body's length.
    pub async fn send(&mut self, request: Request<String>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The next part of a body; `None` at its end.
pub async fn chunk(body: &mut Incoming) -> hyper::Result<Option<Bytes>> {
    loop {
        let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await else {
            return Ok(None);
        };
        // Else it is trailers, which nobody wants.
        if let Ok(bytes) = frame?.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// How a request says whom it is for: without the port where that is the usual one.
pub fn host(of: &HostPort, usual_port: u16) -> String {
    let whole = of.to_string();
    match whole.strip_suffix(&format!(":{usual_port}")) {
        Some(host) if of.port == usual_port => host.to_owned(),
        Some(_) | None => whole,
    }
}

/// `text` with every byte percent-encoded that is not `plain`.
pub fn encoded(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Below an error; an `io::Error` that wraps another hides it from `source`.
pub fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

fn connect(addresses: &[SocketAddr]) -> Connecting<'_> {
    Box::pin(async move {
        let Some((first, rest)) = addresses.split_first() else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let mut here = pin!(connect_to(*first));
        if rest.is_empty() {
            return here.await;
        }
        match tokio::time::timeout(SLOW, &mut here).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(_)) => return connect(rest).await,
            Err(_) => {}
        }
        let mut there = connect(rest);
        tokio::select! {
            here = &mut here => match here {
                Ok(stream) => Ok(stream),
                Err(_) => there.await,
            },
            there = &mut there => match there {
                Ok(stream) => Ok(stream),
                Err(_) => here.await,
            },
        }
    })
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

/// Plain or secured.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// tokio's streams as hyper wants them.
struct Transport(Box<dyn Stream>);

impl hyper::rt::Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut to: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut room = [0; 4096];
        let most = to.remaining().min(room.len());
        let mut read = ReadBuf::new(&mut room[..most]);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut read))?;
        to.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn what_is_not_plain_is_encoded_byte_by_byte() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/';
        assert_eq!(encoded("/a b/\u{e9}%+&", plain), "/a%20b/%C3%A9%25%2B%26");
        assert_eq!(encoded("", plain), "");
    }

    #[test]
    fn a_usual_port_is_not_said() {
        let said = |name: &str, port| host(&HostPort { host: name.to_owned(), port }, 80);
        assert_eq!(said("a", 80), "a");
        assert_eq!(said("a", 8080), "a:8080");
        assert_eq!(said("fe80::80", 80), "[fe80::80]");
    }

    #[tokio::test]
    async fn an_answer_that_is_given_up_ends_its_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (tell, told) = std::sync::mpsc::channel();
        let address = [listener.local_addr().expect("bound")];
        let mut connection =
            Connection::open(&address, None, move || tell.send(()).expect("heard")).await.expect("connected");
        let (mut server, _) = listener.accept().await.expect("accepted");
        // Half of an answer, and the other half never.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
        let request = Request::get("/").body(String::new()).expect("a request");
        let half = async {
            let mut asked = [0; 4096];
            let count = server.read(&mut asked).await.expect("a request");
            assert!(asked[..count].starts_with(b"GET / HTTP/1.1\r\n"));
            server.write_all(answer).await.expect("written");
        };
        let (head, ()) = tokio::join!(connection.send(request), half);
        let mut body = head.expect("its head").into_body();
        assert_eq!(chunk(&mut body).await.expect("a part").expect("half of it"), "half");
        let rest = tokio::time::timeout(Duration::from_millis(50), chunk(&mut body)).await;
        assert!(rest.is_err(), "nothing comes");
        drop((connection, body));
        assert_eq!(server.read(&mut [0]).await.expect("read"), 0, "its end");
        assert!(told.recv().is_err(), "we have closed it ourselves");
    }

    #[tokio::test]
    async fn a_slow_address_holds_up_no_other() {
        // Taken by nobody: the kernel's queue for one is full of others.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        full.listen(0).expect("listening");
        let slow = full.local_addr().expect("bound").as_socket().expect("of IP");
        let _fills = TcpStream::connect(slow).await.expect("the only place");
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = good.local_addr().expect("bound");
        let begun = std::time::Instant::now();
        let stream = connect(&[slow, address]).await.expect("by the second");
        assert_eq!(stream.peer_addr().expect("connected"), address);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
