//! Moves the bytes of one connection, both ways, until both ends are done. What one end does the other sees: a
//! half-close stays one, a reset becomes a reset, a slow reader slows the writer. Never adds or loses a byte, and
//! never reads on while the other end has not taken what was read: one scratch buffer's worth or one pipe's in either
//! direction, and neither while nobody is blocked. Called by `listener`, on a worker's thread.
//!
//! Messages are copied through a scratch buffer that all connections of a thread share. A direction that fills it is
//! a stream and is spliced instead, through a pipe lent for just as long as bytes are in it; when its bursts get
//! small it is copied again, because two splices cost more than a small copy.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::pipes::{self, Lent};
use crate::sys::socket;

const SCRATCH: usize = 64 << 10;

/// A stream whose bursts are smaller than this is one no more.
const SMALL: usize = 16 << 10;

/// A direction that has moved this much lets the thread's other connections go first.
const TURN: usize = 1 << 20;

/// How long the bytes that a peer sent before its reset may take to get to a peer that does not read.
const LAST_BYTES: Duration = Duration::from_secs(2);

thread_local! {
    /// Every read of the thread goes through this one; nothing stays in it across an await.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Each side closed in its own time: closing both sockets is all that is left to do.
    Orderly,
    /// Both are to be reset.
    Broken,
}

/// How one direction came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sender closed its side.
    Closed,
    /// The sender is gone (reset, or vanished); all that it sent was passed on.
    SenderGone,
    /// The receiver is gone.
    ReceiverGone,
}

/// What one look at a sender gave.
enum Step {
    /// Nothing, for now.
    Quiet,
    /// So many bytes: with the receiver, or held for it.
    Moved(usize),
    End(End),
}

/// What a turn of a direction, or of a connection, came to.
enum Turn<T> {
    /// There is more; it's the others' turn.
    Over,
    Done(T),
}

/// Bytes that the receiver has not taken yet.
enum Held {
    Bytes { bytes: Box<[u8]>, written: usize },
    Piped(Lent),
}

/// How a sender sends.
enum Pace {
    Messages,
    /// `burst` bytes have come since it last paused.
    Stream {
        burst: usize,
    },
}

/// One direction of a connection.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    pace: Pace,
    held: Option<Held>,
    /// For a sender that can't be read from now. In a box: most connections never need it.
    watch: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
    end: Option<End>,
}

/// Finds out about a peer that vanished: within two minutes when idle.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// Keeps small messages fast and finds out about a peer that vanished.
/// A socket that has failed by now takes no option; whoever uses it next will notice.
pub(super) fn prepare(upstream: &TcpStream) {
    let _ = upstream.set_nodelay(true);
    let _ = SockRef::from(upstream).set_tcp_keepalive(&keepalive());
}

/// Closes so that the peer sees a reset: to it this is no orderly end.
pub(super) fn reset(stream: TcpStream) {
    // If it fails the socket is closed all the same.
    let _ = stream.set_zero_linger();
}

/// Ready once `stream` has failed (reset, or vanished).
pub(super) async fn failed(stream: &TcpStream) {
    // An error means that the runtime ends, and this connection with it.
    let _ = stream.ready(Interest::ERROR).await;
}

/// Relays until both sides are done.
pub(super) async fn relay(client: &TcpStream, upstream: &TcpStream) -> Outcome {
    let (mut up, mut down) = (Direction::new(client, upstream), Direction::new(upstream, client));
    loop {
        match poll_fn(|cx| turn(&mut up, &mut down, cx)).await {
            Turn::Over => yield_now().await,
            Turn::Done(Outcome::Orderly) => return Outcome::Orderly,
            Turn::Done(Outcome::Broken) => break,
        }
    }
    // Pipes and buffers are of no use any more.
    drop((up, down));
    Box::pin(async { tokio::join!(delivered(client), delivered(upstream)) }).await;
    Outcome::Broken
}

/// Moves both directions on.
fn turn(up: &mut Direction<'_>, down: &mut Direction<'_>, cx: &mut Context<'_>) -> Poll<Turn<Outcome>> {
    let turns = [up.advance(down.end, cx), down.advance(up.end, cx)];
    match (up.end, down.end) {
        (Some(End::Closed), Some(End::Closed)) => Poll::Ready(Turn::Done(Outcome::Orderly)),
        // A receiver that is gone may have sent something before: that other direction goes on to its end.
        (None | Some(End::Closed | End::ReceiverGone), None)
        | (None, Some(End::Closed | End::ReceiverGone)) => {
            let is_over = turns.iter().any(|turn| matches!(turn, Poll::Ready(Turn::Over)));
            if is_over { Poll::Ready(Turn::Over) } else { Poll::Pending }
        }
        (Some(_), Some(_)) | (Some(End::SenderGone), None) | (None, Some(End::SenderGone)) => {
            Poll::Ready(Turn::Done(Outcome::Broken))
        }
    }
}

impl<'a> Direction<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream) -> Self {
        Self { from, to, pace: Pace::Messages, held: None, watch: None, end: None }
    }

    /// `other` is how the opposite direction ended, if it has.
    fn advance(&mut self, other: Option<End>, cx: &mut Context<'_>) -> Poll<Turn<()>> {
        if self.end.is_none() {
            match ready!(self.pass(cx)) {
                Turn::Over => return Poll::Ready(Turn::Over),
                Turn::Done(end) => {
                    (self.held, self.watch) = (None, None);
                    self.end = Some(self.pass_on(end, other));
                }
            }
        }
        // Half-closed, then gone: no read will tell.
        if self.end == Some(End::Closed) && other.is_none() {
            let from = self.from;
            let watch = self.watch.get_or_insert_with(|| Box::pin(failed(from)));
            ready!(watch.as_mut().poll(cx));
            self.end = Some(End::SenderGone);
        }
        Poll::Ready(Turn::Done(()))
    }

    /// Tells the receiver of a sender's close.
    fn pass_on(&self, end: End, other: Option<End>) -> End {
        match (end, other) {
            // The kernel tells of a reset once. It was told to a write of the other direction; the read then sees
            // an end that is no close.
            (End::Closed, Some(End::ReceiverGone)) => End::SenderGone,
            // The second of two: the socket itself is closed now.
            (End::Closed, Some(End::Closed)) => End::Closed,
            (End::Closed, Some(End::SenderGone) | None) => {
                match SockRef::from(self.to).shutdown(Shutdown::Write) {
                    Ok(()) => End::Closed,
                    Err(_) => End::ReceiverGone,
                }
            }
            (End::SenderGone | End::ReceiverGone, _) => end,
        }
    }

    /// Passes on what there is, to the end of the direction or of its turn.
    fn pass(&mut self, cx: &mut Context<'_>) -> Poll<Turn<End>> {
        let mut moved = 0;
        while moved < TURN {
            if let Some(end) = ready!(self.hand_over(cx)) {
                return Poll::Ready(Turn::Done(end));
            }
            if ready!(self.from.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Turn::Done(End::SenderGone));
            }
            match self.step() {
                Step::Quiet => {}
                Step::Moved(length) => moved += length,
                Step::End(end) => return Poll::Ready(Turn::Done(end)),
            }
        }
        Poll::Ready(Turn::Over)
    }

    /// Waits for a blocked receiver. A sender that fails meanwhile ends the wait soon: else a receiver that never
    /// reads would hold a connection that nobody is at the other end of.
    fn hand_over(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        while let Some(held) = &mut self.held {
            match self.to.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => match held.write(self.to) {
                    Ok(true) => (self.held, self.watch) = (None, None),
                    Ok(false) => {}
                    Err(_) => return Poll::Ready(Some(End::ReceiverGone)),
                },
                Poll::Ready(Err(_)) => return Poll::Ready(Some(End::ReceiverGone)),
                Poll::Pending => {
                    let from = self.from;
                    let watch = self.watch.get_or_insert_with(|| Box::pin(out_of_patience(from)));
                    ready!(watch.as_mut().poll(cx));
                    return Poll::Ready(Some(End::SenderGone));
                }
            }
        }
        Poll::Ready(None)
    }

    /// Reads once, and writes as much of it as `to` takes now.
    fn step(&mut self) -> Step {
        let piped = match self.pace {
            Pace::Messages => None,
            Pace::Stream { burst } => pipes::lend().map(|pipe| (pipe, burst)),
        };
        let moved = match piped {
            Some((pipe, burst)) => self.splice(pipe, burst),
            None => BUFFER.with_borrow_mut(|buffer| self.copy(buffer)),
        };
        moved.unwrap_or_else(Step::End)
    }

    fn copy(&mut self, buffer: &mut [u8]) -> Result<Step, End> {
        let Some(length) = read(self.from, buffer).map_err(|_| End::SenderGone)? else {
            return Ok(Step::Quiet);
        };
        if length == 0 {
            return Err(End::Closed);
        }
        self.pace = if length == buffer.len() { Pace::Stream { burst: length } } else { Pace::Messages };
        let written = write(self.to, &buffer[..length]).map_err(|_| End::ReceiverGone)?;
        if written < length {
            self.held = Some(Held::Bytes { bytes: buffer[written..length].into(), written: 0 });
        }
        Ok(Step::Moved(length))
    }

    fn splice(&mut self, mut pipe: Lent, burst: usize) -> Result<Step, End> {
        match self.from.try_io(Interest::READABLE, || pipe.fill(self.from)) {
            Ok(0) => Err(End::Closed),
            Ok(length) => {
                self.pace = Pace::Stream { burst: burst + length };
                if !drain(&mut pipe, self.to).map_err(|_| End::ReceiverGone)? {
                    self.held = Some(Held::Piped(pipe));
                }
                Ok(Step::Moved(length))
            }
            Err(error) if is_passing(&error) => {
                self.pace = if burst < SMALL { Pace::Messages } else { Pace::Stream { burst: 0 } };
                Ok(Step::Quiet)
            }
            Err(_) => Err(End::SenderGone),
        }
    }
}

impl Held {
    /// Writes until `to` takes no more; whether all is written.
    fn write(&mut self, to: &TcpStream) -> io::Result<bool> {
        match self {
            Self::Bytes { bytes, written } => {
                *written += write(to, &bytes[*written..])?;
                Ok(*written == bytes.len())
            }
            Self::Piped(pipe) => drain(pipe, to),
        }
    }
}

/// Ready when `from` has failed and its last bytes have had their time.
async fn out_of_patience(from: &TcpStream) {
    failed(from).await;
    #[expect(clippy::disallowed_methods, reason = "a limit, raced against the bytes")]
    sleep(LAST_BYTES).await;
}

/// Reads once; None when there is nothing now.
fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut length = None;
    let answer = from.try_io(Interest::READABLE, || {
        let read = recv(from.as_raw_fd(), buffer, MsgFlags::empty())?;
        length = Some(read);
        // Nothing is left after a short read, and a call to hear that is saved: what comes next is a new event.
        let is_short = read > 0 && read < buffer.len();
        if is_short { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match answer {
        Err(error) if !is_passing(&error) => Err(error),
        Ok(()) | Err(_) => Ok(length),
    }
}

/// Writes as much as `to` takes now.
fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    let answer = to.try_io(Interest::WRITABLE, || {
        written = send(to.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?;
        // No room is left after a short write, as above.
        if written < bytes.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match answer {
        Err(error) if !is_passing(&error) => Err(error),
        Ok(()) | Err(_) => Ok(written),
    }
}

/// Moves on what is in `pipe` until `to` takes no more; whether that was all.
fn drain(pipe: &mut Lent, to: &TcpStream) -> io::Result<bool> {
    while pipe.held() > 0 {
        match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Waits until the peer has what was written to `to`: a reset throws away what it has not. There is no event for
/// it, so this looks now and then; it is the rare end of a rare case.
async fn delivered(to: &TcpStream) {
    let mut pause = Duration::from_millis(1);
    // Of a connection that failed, nothing can be delivered any more, and the kernel counts nothing.
    while pause < LAST_BYTES && socket::unacknowledged(to).is_ok_and(|bytes| bytes > 0) {
        #[expect(clippy::disallowed_methods, reason = "the kernel has no event for an acknowledgement")]
        sleep(pause).await;
        pause *= 2;
    }
}
