//! Moves the bytes of one connection, both ways, until both ends are done. What one end does the other sees: a
//! half-close stays one, a reset becomes a reset, a slow reader slows the writer. Never adds or loses a byte, never
//! holds more than one scratch buffer's worth in either direction, and none at all while nobody is blocked. Called
//! by `listener`, on the worker's thread.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::sys::socket;

const SCRATCH: usize = 64 * 1024;

/// How long the bytes that a peer sent before its reset may take to get to a peer that does not read.
const LAST_BYTES: Duration = Duration::from_secs(2);

thread_local! {
    /// Every read of the thread goes through this one; nothing stays in it across an await.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
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
    Nothing,
    Passed,
    /// The receiver took no more: these are left.
    Left(Vec<u8>),
    End(End),
}

/// Keeps small messages fast and finds out about a peer that vanished: within two minutes when idle.
/// A socket that has failed by now takes no option; whoever uses it next will notice.
pub(super) fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
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

/// Relays until both sides are done, then closes both as they were closed.
pub(super) async fn relay(client: TcpStream, upstream: TcpStream) {
    if !is_orderly(&client, &upstream).await {
        reset(client);
        reset(upstream);
    }
}

async fn is_orderly(client: &TcpStream, upstream: &TcpStream) -> bool {
    let (up, down) = (copy(client, upstream), copy(upstream, client));
    tokio::pin!(up, down);
    let (mut up_end, mut down_end) = (None, None);
    loop {
        tokio::select! {
            end = &mut up, if up_end.is_none() => up_end = Some(pass_on(end, upstream, down_end)),
            end = &mut down, if down_end.is_none() => down_end = Some(pass_on(end, client, up_end)),
            // Half-closed, then gone: no read will tell.
            () = failed(client), if up_end == Some(End::Closed) => up_end = Some(End::SenderGone),
            () = failed(upstream), if down_end == Some(End::Closed) => down_end = Some(End::SenderGone),
        }
        match (up_end, down_end) {
            (Some(End::Closed), Some(End::Closed)) => return true,
            // A receiver that is gone may have sent something before: that other direction goes on to its end.
            (None | Some(End::Closed | End::ReceiverGone), None)
            | (None, Some(End::Closed | End::ReceiverGone)) => {}
            (Some(_), Some(_)) | (Some(End::SenderGone), None) | (None, Some(End::SenderGone)) => break,
        }
    }
    tokio::join!(delivered(client), delivered(upstream));
    false
}

/// Tells the receiver of a sender's close. `other` is how the direction from that receiver to that sender ended.
fn pass_on(end: End, to: &TcpStream, other: Option<End>) -> End {
    match (end, other) {
        // The kernel tells of a reset once. It was told to a write of the other direction; the read then sees
        // an end that is no close.
        (End::Closed, Some(End::ReceiverGone)) => End::SenderGone,
        (End::Closed, Some(End::Closed | End::SenderGone) | None) => {
            match SockRef::from(to).shutdown(Shutdown::Write) {
                Ok(()) => End::Closed,
                Err(_) => End::ReceiverGone,
            }
        }
        (End::SenderGone | End::ReceiverGone, _) => end,
    }
}

/// One direction, to its end.
async fn copy(from: &TcpStream, to: &TcpStream) -> End {
    loop {
        if from.readable().await.is_err() {
            return End::SenderGone;
        }
        // A fast pair must not keep the thread from the others.
        tokio::task::coop::consume_budget().await;
        match step(from, to) {
            Step::Nothing | Step::Passed => {}
            Step::Left(bytes) => {
                if let Some(end) = hand_over(&bytes, from, to).await {
                    return end;
                }
            }
            Step::End(end) => return end,
        }
    }
}

/// Reads once, and writes as much of it as `to` takes now.
fn step(from: &TcpStream, to: &TcpStream) -> Step {
    BUFFER.with_borrow_mut(|buffer| match from.try_read(buffer) {
        Ok(0) => Step::End(End::Closed),
        Ok(length) => match write(to, &buffer[..length]) {
            Ok(written) if written == length => Step::Passed,
            Ok(written) => Step::Left(buffer[written..length].to_vec()),
            Err(_) => Step::End(End::ReceiverGone),
        },
        Err(error) if is_passing(&error) => Step::Nothing,
        Err(_) => Step::End(End::SenderGone),
    })
}

/// Waits for a blocked receiver. A sender that fails meanwhile ends the wait soon: else a receiver that never
/// reads would hold a connection that nobody is at the other end of.
async fn hand_over(bytes: &[u8], from: &TcpStream, to: &TcpStream) -> Option<End> {
    let write_all = async {
        let mut rest = bytes;
        while !rest.is_empty() {
            if to.writable().await.is_err() {
                return Some(End::ReceiverGone);
            }
            match write(to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(_) => return Some(End::ReceiverGone),
            }
        }
        None
    };
    let give_up = async {
        failed(from).await;
        #[expect(clippy::disallowed_methods, reason = "a limit, raced against the bytes")]
        sleep(LAST_BYTES).await;
    };
    tokio::select! {
        end = write_all => end,
        () = give_up => Some(End::SenderGone),
    }
}

/// Writes until `to` takes no more.
fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match to.try_write(&bytes[written..]) {
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
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
