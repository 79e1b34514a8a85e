//! What can be said of a registry before anything is announced: which of its endpoints answer, and what lies around the
//! key of a record to be. Reads only: no key, no lease, no folder is ever made here. Called by `ensign check --online`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Method;
use hyper::header::DATE;
use tokio::task::JoinSet;

use super::http::{Ask, Endpoints, Reply};
use super::skydns::Record;
use super::{Error, Listed, Registry};
use crate::config::{self, DnsName, HostPort, RegistryUrl};
use crate::net::resolve::Resolver;

/// One endpoint of a registry, and what became of a question to it alone.
#[derive(Debug)]
pub struct Reached {
    pub endpoint: String,
    pub answer: Result<(), Error>,
    /// By how many seconds its clock is ahead of ours, where the registry's times are those of its members' clocks.
    pub ahead: Option<i64>,
}

/// What lies where a record is to be.
#[derive(Debug, Default)]
pub struct Around {
    /// Under its very key.
    pub there: Option<Listed>,
    /// Records whose keys its own would lie below.
    pub above: Vec<Listed>,
    /// Records below its key.
    pub below: Vec<Listed>,
    /// Everything else below its name.
    pub beside: Vec<Listed>,
}

/// Asks each endpoint by itself, all side by side, for what lies below `name`. A folder is one endpoint, and must be one
/// that we may write to.
pub async fn reach(registry: &config::Registry, name: &DnsName, resolver: &Arc<Resolver>) -> Vec<Reached> {
    let alone = |url| config::Registry { url, ..registry.clone() };
    let label = |host: &HostPort| host.to_string();
    let each: Vec<(String, config::Registry)> = match &registry.url {
        RegistryUrl::Etcd3(hosts) => {
            hosts.iter().map(|host| (label(host), alone(RegistryUrl::Etcd3(vec![host.clone()])))).collect()
        }
        RegistryUrl::Etcd2(hosts) => {
            hosts.iter().map(|host| (label(host), alone(RegistryUrl::Etcd2(vec![host.clone()])))).collect()
        }
        RegistryUrl::Dir(path) => vec![(path.display().to_string(), registry.clone())],
    };
    let mut asking = JoinSet::new();
    for (place, (endpoint, registry)) in each.into_iter().enumerate() {
        let (name, resolver) = (name.clone(), Arc::clone(resolver));
        asking.spawn(async move {
            let (answer, ahead) = match ask(&registry, &name, resolver).await {
                Ok(ahead) => (Ok(()), ahead),
                Err(error) => (Err(error), None),
            };
            (place, Reached { endpoint, answer, ahead })
        });
    }
    let mut reached = asking.join_all().await;
    reached.sort_by_key(|(place, _)| *place);
    reached.into_iter().map(|(_, reached)| reached).collect()
}

async fn ask(
    registry: &config::Registry,
    name: &DnsName,
    resolver: Arc<Resolver>,
) -> Result<Option<i64>, Error> {
    let registry = Registry::new(registry, resolver)?;
    registry.list(Some(name)).await?;
    match &registry {
        Registry::Dir(store) => store.is_writable().await.map(|()| None),
        // A lease is so long, whatever the clocks say.
        Registry::Etcd3(_) => Ok(None),
        Registry::Etcd2(client) => Ok(ahead(client.endpoints()).await),
    }
}

/// By the date of an answer, which is in whole seconds.
async fn ahead(endpoints: &Arc<Endpoints>) -> Option<i64> {
    let ask = Ask { method: Method::GET, path: "/version".to_owned(), body: None };
    let dated = |reply: &Reply| Ok(reply.headers.get(DATE).cloned());
    let date = endpoints.tour().send(&ask, dated).await.ok()??;
    let theirs = httpdate::parse_http_date(date.to_str().ok()?).ok()?;
    let seconds = |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok();
    Some(seconds(theirs)? - seconds(SystemTime::now())?)
}

impl Registry {
    /// What lies around the key of `record`, which starts with `prefix`.
    pub async fn around(&self, record: &Record, prefix: &str) -> Result<Around, Error> {
        let key = record.key(prefix);
        let mut around = Around::default();
        let ends = key.match_indices('/').map(|(at, _)| at).filter(|at| *at > prefix.len());
        for above in ends.map(|at| &key[..at]) {
            around.above.extend(self.at(above).await?);
        }
        let below = format!("{key}/");
        for listed in self.list(Some(&record.name)).await? {
            if listed.key == key {
                around.there = Some(listed);
            } else if listed.key.starts_with(&below) {
                around.below.push(listed);
            } else {
                around.beside.push(listed);
            }
        }
        Ok(around)
    }

    async fn at(&self, key: &str) -> Result<Option<Listed>, Error> {
        match self {
            Self::Etcd3(client) => client.at(key).await,
            Self::Etcd2(client) => client.at(key).await,
            Self::Dir(store) => store.at(key).await,
        }
    }
}
