//! Whether an upstream of a link takes a connection: tried as a client's would be, on the links' own thread, and closed
//! at once. Not through the local end: that one always takes it. Called by the runtime for links that a service's start
//! waits for.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::shared::Shared;
use super::upstream::Tried;

/// The upstreams of one link: one for each port of a Docker link, else one.
#[derive(Debug, Clone)]
pub struct Reach {
    pub(super) on: Option<Handle>,
    pub(super) forwards: Vec<Arc<Shared>>,
}

impl Reach {
    /// One attempt at each of its upstreams. Ends with the first that takes a connection, else when all have failed,
    /// with the reason of the first. Dropping this ends the attempt.
    pub async fn accepts(self) -> Result<(), String> {
        let Some(on) = self.on else { return Err("it is not open".to_owned()) };
        // Dropped, it aborts what is in it.
        let mut attempts = JoinSet::new();
        for forward in self.forwards {
            let attempt = async move {
                forward.upstream.connect(&forward.resolver, Tried::default(), || {}).await.map(drop)
            };
            attempts.spawn_on(attempt, &on);
        }
        let mut failure = None;
        while let Some(ended) = attempts.join_next().await {
            match ended {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => drop(failure.get_or_insert(error.to_string())),
                // A panic, which has been reported where it happened.
                Err(error) => drop(failure.get_or_insert(error.to_string())),
            }
        }
        // A Docker link may have UDP ports alone.
        Err(failure.unwrap_or_else(|| "none of its ports takes connections".to_owned()))
    }
}
