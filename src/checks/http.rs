//! The http probe: a GET, and a status of 200 to 399 passes. Follows no redirect, uses no proxy, keeps no connection,
//! reads no body.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Request;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};

use super::Failure;
use crate::config::HttpTarget;
use crate::net::http::{self, Connection};
use crate::net::resolve::Resolver;

/// What http probes share. Idle it does nothing at all: no connection is kept.
#[derive(Debug, Clone)]
pub struct Prober(Arc<Resolver>);

impl Prober {
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self(resolver)
    }

    /// Asks once. Has no timeout: drop it to give up.
    pub async fn probe(&self, target: &HttpTarget) -> Result<(), Failure> {
        let authority = &target.authority;
        let request = Request::get(http::encoded(&target.path, |byte| !b"\"<>\\^`{|}".contains(&byte)))
            .header(HOST, http::host(authority, 80))
            .header(ACCEPT, "*/*")
            .header(USER_AGENT, concat!("ensign/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(String::new())
            .map_err(|error| Failure::Other(error.to_string()))?;
        let found = self.0.lookup(&authority.host).await?;
        let addresses: Vec<SocketAddr> = found.into_iter().map(|ip| (ip, authority.port).into()).collect();
        let connection = Connection::open(&addresses, None, || {}).await;
        let mut connection = connection.map_err(|error| Failure::from(&error))?;
        // What is not read of the answer goes away with the connection.
        let answer = connection.send(request).await.map_err(|error| failure(&error))?;
        match answer.status().as_u16() {
            200..400 => Ok(()),
            status => Err(Failure::Status(status)),
        }
    }
}

/// The cause at the bottom says it best: the layers above add what everybody knows.
fn failure(error: &hyper::Error) -> Failure {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = http::below(cause) {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(error) => Failure::from(error),
        None => Failure::Other(cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::config::HostPort;

    fn probed(host: &str, port: u16, path: &str) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let resolver = Resolver::with_files("/nonexistent/hosts", "/nonexistent/resolv.conf");
        let prober = Prober::new(Arc::new(resolver));
        let authority = HostPort { host: host.to_owned(), port };
        runtime.block_on(prober.probe(&HttpTarget { authority, path: path.to_owned() }))
    }

    /// Answers one request with `answer`, whatever it is; the request is told.
    fn serve(address: &str, answer: &'static [u8]) -> (u16, mpsc::Receiver<String>) {
        let listener = TcpListener::bind(address).expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("read");
                request.push(byte[0]);
            }
            tell.send(String::from_utf8(request).expect("text")).expect("told");
            // The prober may be gone before it has all.
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(Shutdown::Write);
        });
        (port, told)
    }

    fn answered(answer: &'static [u8]) -> Result<(), String> {
        let (port, _told) = serve("127.0.0.1:0", answer);
        probed("127.0.0.1", port, "/").map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_status_from_200_to_399_passes() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        assert_eq!(answered(b"HTTP/1.0 204 No Content\r\n\r\n"), Ok(()));
        assert_eq!(answered(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), Ok(()));
        assert_eq!(answered(b"HTTP/1.1 399 Odd\r\n\r\n"), Ok(()));
        assert_eq!(answered(b"HTTP/1.1 404 Not Found\r\n\r\n"), Err("status 404".to_owned()));
        assert_eq!(answered(b"HTTP/1.1 503 Busy\r\n\r\n"), Err("status 503".to_owned()));
    }

    #[test]
    fn the_request_is_plain_and_asks_for_no_kept_connection() {
        let (port, told) = serve("[::1]:0", b"HTTP/1.1 200 OK\r\n\r\n");
        probed("::1", port, "/healthz?full=1").expect("passes");
        let request = told.recv().expect("a request").to_ascii_lowercase();
        assert!(request.starts_with("get /healthz?full=1 http/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nhost: [::1]:{port}\r\n")), "{request}");
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    }

    #[test]
    fn a_name_is_looked_up_by_our_own_resolver() {
        let (port, _told) = serve("[::1]:0", b"HTTP/1.1 200 OK\r\n\r\n");
        probed("localhost", port, "/").expect("passes on the second address");
        let failure = probed("db", 80, "/").expect_err("unknown");
        assert_eq!(failure.to_string(), "cannot look up `db`: no name server in /nonexistent/resolv.conf");
    }

    #[test]
    fn an_endless_body_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            assert!(stream.read(&mut [0; 4096]).expect("the request") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("write");
            // Ends by the prober's going away.
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        probed("127.0.0.1", port, "/").expect("passes");
        server.join().expect("the connection was closed");
    }

    #[test]
    fn a_failure_says_why() {
        let closed = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port();
        assert_eq!(probed("127.0.0.1", closed, "/").expect_err("closed").to_string(), "connection refused");
        assert_eq!(answered(b""), Err("connection closed before message completed".to_owned()));
        let odd = answered(b"SSH-2.0-OpenSSH_9.2\r\n").expect_err("not HTTP");
        assert_eq!(odd, "invalid HTTP version parsed");
    }
}
