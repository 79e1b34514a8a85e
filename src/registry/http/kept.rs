//! The connection to an endpoint that is kept between requests, one at most. It must never keep one that has ended, or
//! on which an answer is under way; one that ends meanwhile is told of where it is the one that the next operation
//! would use. Called by `endpoints`; `http` uses it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::tls::Client;
use crate::net::http::Connection;

/// What the endpoints of a cluster share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Where the next operation starts.
    pub first: AtomicUsize,
    /// The connection that it would have used has ended.
    pub hung_up: Notify,
}

#[derive(Debug)]
pub struct Kept {
    /// Whose it is.
    at: usize,
    shared: Arc<Shared>,
    /// With what it was made by.
    connection: Mutex<Option<(Client, Connection)>>,
}

impl Kept {
    pub fn new(at: usize, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { at, shared: Arc::clone(shared), connection: Mutex::default() })
    }

    /// The kept connection, if it is one of this client and has not ended.
    pub fn take(&self, client: &Client) -> Option<Connection> {
        let (of, connection) = self.connection().take()?;
        (of.is(client) && !connection.is_closed()).then_some(connection)
    }

    /// Keeps a connection of whose last answer everything has been read.
    pub fn keep(&self, client: &Client, connection: Connection) {
        if !connection.is_closed() {
            *self.connection() = Some((client.clone(), connection));
        }
    }

    /// A kept connection has ended, and not by us: whoever it leads to may have died, and be back without what it knew.
    pub fn tell(&self) {
        if self.shared.first.load(Ordering::Relaxed) == self.at {
            self.shared.hung_up.notify_one();
        }
    }

    /// What a connection does that ends.
    pub fn ending(self: &Arc<Self>) -> impl FnOnce() + Send + 'static {
        let kept: Weak<Self> = Arc::downgrade(self);
        move || {
            let Some(kept) = kept.upgrade() else { return };
            let ended = kept.connection().take_if(|(_, connection)| connection.is_closed());
            if ended.is_some() {
                kept.tell();
            }
        }
    }

    /// Nothing panics with it.
    fn connection(&self) -> MutexGuard<'_, Option<(Client, Connection)>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
