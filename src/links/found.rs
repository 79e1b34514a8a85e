//! Where a way leads now, for people to see. Asks the way's source as a connection would, and connects to nothing.
//! Called by `ensign links --resolve`.

use std::sync::Arc;

use super::feed;
use super::plan::Way;
use super::source::{FINER, Source};
use crate::net::resolve::{Instance, Resolver};

/// An address that connections may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub address: String,
    /// Lower ones go first.
    pub priority: u32,
    pub weight: u32,
}

/// The addresses that `way` leads to, or why there are none. `announced` is what the registry says, for a name in it.
pub async fn found(
    way: &Way,
    resolver: &Arc<Resolver>,
    announced: Result<Vec<Instance>, String>,
) -> Result<Vec<Found>, String> {
    let (feed, news) = feed::feed();
    match announced {
        Ok(instances) => feed.tell(instances),
        Err(reason) => drop(feed.lose(reason)),
    }
    let source = Arc::new(Source::new(way.clone(), Some(news)));
    source.ask(resolver);
    source.settled().await;
    if let Some(error) = source.error() {
        return Err(error.to_string());
    }
    let offers = source.offers();
    let found = offers.iter().map(|offer| Found {
        address: offer.address.to_string(),
        priority: offer.group,
        weight: offer.weight / FINER,
    });
    Ok(found.collect())
}
