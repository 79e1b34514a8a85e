//! Work that may block on a file system: on a thread of its own, one piece at a time. A file system that hangs then delays
//! nothing but what wants to know of it, and one thread at most is ever stuck in it. It must never be waited for without
//! a limit. Called by `dir`, and by `http` for the files that secure a connection.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};

/// Where one piece of work runs after the other.
///
/// A thread for each, and not one of the event loop's own: that loop could not end while one is stuck, and where there is
/// no room for a thread it panics.
#[derive(Debug, Clone, Default)]
pub struct Aside {
    /// Held by the work under way until it has really ended, not only until its caller gave it up: what comes next
    /// sees its end.
    turn: Arc<Mutex<()>>,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    #[error("its file system does not answer")]
    Late,
    #[error("the operation broke off")]
    Broken,
    #[error("no thread can be had for it: {0}")]
    Thread(io::Error),
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
            let (tell, told) = oneshot::channel();
            let work = move || {
                let result = work();
                drop(turn);
                // Fails where nobody waits for it any more.
                let _ = tell.send(result);
            };
            thread::Builder::new().name("files".to_owned()).spawn(work).map_err(Stuck::Thread)?;
            // It fails after a panic, which has been reported where it happened.
            told.await.map_err(|_| Stuck::Broken)
        });
        ended.await.unwrap_or(Err(Stuck::Late))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_panics_or_hangs_is_told_and_the_next_has_its_turn() {
        let aside = Aside::default();
        let panicked = aside.run(LONG, || -> u8 { panic!("as a test has it") }).await;
        assert!(matches!(panicked, Err(Stuck::Broken)), "{panicked:?}");
        let (end, ended) = mpsc::channel::<()>();
        let hung = aside.run(Duration::from_millis(10), move || ended.recv()).await;
        assert!(matches!(hung, Err(Stuck::Late)), "{hung:?}");
        // It waits for that to end.
        let next = tokio::time::timeout(Duration::from_millis(10), aside.run(LONG, || 1)).await;
        assert!(next.is_err());
        drop(end);
        assert!(matches!(aside.run(LONG, || 2).await, Ok(2)));
    }
}
