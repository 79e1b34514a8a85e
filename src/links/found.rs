//! Where a way leads now, for people to see, and whether somebody is there. Asks the way's source as a connection would;
//! connects only where it is told to. Called by `ensign links --resolve` and `ensign check --online`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::feed;
use super::own::leads_back;
use super::plan::{Forward, Way};
use super::source::{FINER, Source};
use super::upstream::reason;
use crate::config::ListenAt;
use crate::net::resolve::{Instance, Resolver};

/// An address that connections may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub address: String,
    /// Lower ones go first.
    pub priority: u32,
    pub weight: u32,
    endpoint: Endpoint,
}

impl Found {
    /// Tries one connection, `within` at the most, and closes it. The error says what came of it.
    pub async fn accepts(&self, within: Duration) -> Result<(), String> {
        let answer = tokio::time::timeout(within, self.endpoint.connect(|| {})).await;
        answer.map_err(io::Error::from).flatten().map(drop).map_err(|error| reason(&error))
    }
}

impl Forward {
    /// Whether `found` is where it listens itself: no connection goes there, it would never end.
    pub fn is_where_it_listens(&self, found: &Found) -> bool {
        let own: Vec<_> = self.listen.places().iter().filter_map(ListenAt::address).collect();
        matches!(&found.endpoint, Endpoint::Tcp(to) if leads_back(*to, &own))
    }
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
        endpoint: offer.address.clone(),
    });
    Ok(found.collect())
}
