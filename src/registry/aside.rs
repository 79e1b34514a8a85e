//! Work that may block on a file system: on a thread of its own, one piece at a time. A file system that hangs then delays
//! nothing but what wants to know of it, and one thread at most is ever stuck in it. It must never be waited for without
//! a limit. Called by `dir`, and by `http` for the files that secure a connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

/// Where one piece of work runs after the other.
#[derive(Debug, Clone, Default)]
pub struct Aside {
    /// Held by the work under way until it has really ended, not only until its caller gave it up: what comes next
    /// sees its end.
    turn: Arc<Mutex<()>>,
}

/// Why nothing came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    #[error("its file system does not answer")]
    Late,
    #[error("the operation broke off")]
    Broken,
}

impl Aside {
    /// What `work` gives, if that is within `limit`, earlier work included. Dropping this future does not stop work that
    /// has begun.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        let turn = Arc::clone(&self.turn);
        let ended = tokio::time::timeout(limit, async {
            let turn = turn.lock_owned().await;
            let task = tokio::task::spawn_blocking(move || {
                let result = work();
                drop(turn);
                result
            });
            task.await
        });
        match ended.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Stuck::Broken),
            Err(_) => Err(Stuck::Late),
        }
    }
}
