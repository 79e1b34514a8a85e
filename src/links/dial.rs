//! What of a connection takes time: finding an upstream where a source must be asked or an address has failed, and
//! waiting for the last bytes before a reset. On the links' own event loop, beside the relaying threads, which never
//! wait. Called by `engine`.

use std::future;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::sync::watch;

use super::acceptor::PAUSE;
use super::connection::{Client, reset};
use super::counters::Use;
use super::engine::{Letter, Mailbox};
use super::relay::LAST_BYTES;
use super::shared::{Guest, Lack};
use super::upstream::{ConnectError, Tried};
use crate::sys::socket;

/// So long an accepted client waits at the most for a descriptor to its upstream.
const SHORT: Duration = Duration::from_secs(30);

/// Finds an upstream for `client`, and sends both to `engine`; or resets the client. A `lack` is known already.
///
/// At the `end` nobody is there who could wait for it: then only what the client has sent is worth the time.
pub(super) async fn dial(
    client: Client,
    tried: Tried,
    lack: Option<Lack>,
    engine: Mailbox,
    mut end: watch::Receiver<()>,
) {
    let Client { socket, guest } = client;
    // Fails where the kernel has no room to watch one more: as good as out of descriptors.
    let Ok(watched) = tokio::net::TcpStream::from_std(socket) else { return };
    let connected = tokio::select! {
        // In this order: a connection that is made must be ended by the relay, with a reset.
        biased;
        connected = patiently(&guest, tried, lack) => Some(connected),
        // Nobody waits for it any more. An error means that the loop ends, and this with it.
        _ = watched.ready(Interest::ERROR) => None,
        () = is_in_vain(&watched, &mut end) => None,
    };
    // Can't fail: nobody else has the socket.
    let Ok(socket) = watched.into_std() else { return };
    match connected {
        Some(Ok((upstream, counted))) => {
            guest.served();
            engine.post(Letter::Connection(Box::new(Client { socket, guest }.connected(upstream, counted))));
        }
        Some(Err(error)) => {
            guest.unserved(&error);
            reset(socket);
        }
        None => reset(socket),
    }
}

/// Ready at the end, for a client that has sent nothing.
async fn is_in_vain(client: &tokio::net::TcpStream, end: &mut watch::Receiver<()>) {
    // An error says that the other end was dropped: that is the sign.
    let _ = end.changed().await;
    if socket::unread(client) > 0 {
        future::pending().await
    }
}

/// Where it is our own descriptors that are short, the client waits, as it would in the queue of the listener.
async fn patiently(
    guest: &Guest,
    tried: Tried,
    mut lack: Option<Lack>,
) -> Result<(TcpStream, Use), ConnectError> {
    let begun = Instant::now();
    let mut connected = guest.upstream.connect(&guest.resolver, tried, || drop(lack.take())).await;
    while connected.as_ref().is_err_and(ConnectError::is_ours) && begun.elapsed() < SHORT {
        if let Some(error) = connected.as_ref().err().and_then(ConnectError::shortage) {
            lack.replace(guest.lacks(error));
        }
        #[expect(clippy::disallowed_methods, reason = "no event says that descriptors are free again")]
        tokio::time::sleep(PAUSE).await;
        connected = guest.upstream.connect(&guest.resolver, Tried::default(), || drop(lack.take())).await;
    }
    connected
}

/// Resets what is left of a connection, each end once the peer has what was written to it: a reset throws away what it
/// has not.
pub(super) async fn reset_after_last_bytes(ends: Vec<TcpStream>, _place: Guest) {
    for end in ends {
        delivered(&end).await;
        reset(end);
    }
}

/// There is no event for it, so this looks now and then; it is the rare end of a rare case.
async fn delivered(to: &TcpStream) {
    let mut pause = Duration::from_millis(1);
    while pause < LAST_BYTES && socket::unacknowledged(to).is_ok_and(|bytes| bytes > 0) {
        #[expect(clippy::disallowed_methods, reason = "the kernel has no event for an acknowledgement")]
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
