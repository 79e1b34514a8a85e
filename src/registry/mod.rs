//! Announcing: a record with a time to live in etcd or in a shared folder, and reading what is there.
//!
//! One operation a call, always in bounded time, with no retry and no waiting of its own: when to register, renew,
//! withdraw or try again is the state machine's to say. Any call may be dropped at any moment and `withdraw` called at
//! once; only what the claim itself wrote is ever deleted. Called by the driver, `ls` and links that follow a name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Conflict, DnsName, RegistryUrl};
use crate::net::resolve::{Instance, Resolver};

mod aside;
mod claim;
pub mod dir;
mod dir_watch;
mod error;
pub mod etcd2;
pub mod etcd3;
mod follow;
mod http;
mod names;
mod reach;
mod skydns;

pub use claim::Claim;
pub use error::{Error, Failure};
pub use follow::{Seen, instances};
pub use reach::{Around, Reached, reach};
pub use skydns::{Fields, NoRecord, Record};

/// Where records are announced.
#[derive(Debug)]
pub enum Registry {
    Etcd3(etcd3::Client),
    Etcd2(etcd2::Client),
    Dir(dir::Store),
}

/// What became of a claim that was to be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Every record is there, for `ttl`, which may be more than was asked for.
    Held { ttl: Duration },
    /// Someone else's record is there, and it was to be left alone ([`Claim::rivals`]); the others of the claim are
    /// there for its time to live. Go on renewing: it is `Lost` when theirs goes.
    Taken,
}

/// What became of a claim that was to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Ours for another `ttl`.
    Kept { ttl: Duration },
    /// The same, and a record that said something else was rewritten in its place.
    Moved { ttl: Duration },
    /// The lease or a record of it is gone: withdraw this claim and register a fresh one.
    Lost,
    /// Someone else's record is there now. Leave it alone and go on renewing: it is `Lost` when theirs goes.
    Taken,
}

/// One entry of the registry, readable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// In DNS notation. Others may have written keys that are no valid names.
    pub name: String,
    pub instance: String,
    /// `None`: it stays until someone deletes it.
    pub ttl_left: Option<Duration>,
    /// The record, or why the value is none.
    pub record: Result<Fields, NoRecord>,
}

impl Registry {
    /// A client for what the configuration names; nothing is connected to yet.
    pub fn new(registry: &config::Registry, resolver: Arc<Resolver>) -> Result<Self, Error> {
        Ok(match &registry.url {
            RegistryUrl::Etcd3(hosts) => Self::Etcd3(etcd3::Client::new(hosts, registry, resolver)?),
            RegistryUrl::Etcd2(hosts) => Self::Etcd2(etcd2::Client::new(hosts, registry, resolver)?),
            RegistryUrl::Dir(root) => Self::Dir(dir::Store::new(root, &registry.prefix)),
        })
    }

    /// Writes every record of the claim. A record that says what we say, or have said ([`Claim::after`]), is ours
    /// whoever wrote it. `most` is what may be done about another's, where the record's own `conflict` wants it, too.
    pub async fn register(&self, claim: &Claim, most: Conflict) -> Result<Registration, Error> {
        claim.begin();
        match self {
            Self::Etcd3(client) => client.register(claim, most).await,
            Self::Etcd2(client) => client.register(claim, most).await,
            Self::Dir(store) => store.register(claim, most).await,
        }
    }

    /// Makes the claim's records last for their time to live again, if they are still there and still ours, and has
    /// them say what the claim says.
    pub async fn renew(&self, claim: &Claim) -> Result<Renewal, Error> {
        match self {
            Self::Etcd3(client) => client.renew(claim).await,
            Self::Etcd2(client) => client.renew(claim).await,
            Self::Dir(store) => store.renew(claim).await,
        }
    }

    /// Removes whatever the claim may have written, and nothing else. Done already is done; may be repeated.
    pub async fn withdraw(&self, claim: &Claim) -> Result<(), Error> {
        if !claim.begun() {
            return Ok(());
        }
        match self {
            Self::Etcd3(client) => client.withdraw(claim).await,
            Self::Etcd2(client) => client.withdraw(claim).await,
            Self::Dir(store) => store.withdraw(claim).await,
        }
    }

    /// What is announced now below `name`, or at all; sorted by key.
    pub async fn list(&self, name: Option<&DnsName>) -> Result<Vec<Listed>, Error> {
        let mut listed = match self {
            Self::Etcd3(client) => client.list(name).await,
            Self::Etcd2(client) => client.list(name).await,
            Self::Dir(store) => store.list(name).await,
        }?;
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    /// Who is announced under `name` (or below it) and can be connected to.
    pub async fn instances(&self, name: &DnsName) -> Result<Vec<Instance>, Error> {
        Ok(instances(&self.list(Some(name)).await?))
    }

    /// Tells who is announced under `name` (or below it), now and at each change, until it is dropped. The only one
    /// that waits and asks again by itself: there is nobody else whose turn that could be.
    pub async fn follow(&self, name: &DnsName, tell: impl FnMut(Seen) + Send) {
        follow::follow(self, Some(name), tell).await;
    }

    /// As [`follow`](Self::follow), of everybody without a name. Tells of each change, also of what can't be connected to.
    pub async fn changes(&self, name: Option<&DnsName>, tell: impl FnMut(Seen) + Send) {
        follow::follow(self, name, tell).await;
    }

    /// Where the next operation would connect to, for finding the address that the kernel would use for it.
    /// `None` where nothing is connected to.
    pub async fn peer(&self) -> Result<Option<SocketAddr>, Error> {
        match self {
            Self::Etcd3(client) => client.endpoints().peer().await.map(Some),
            Self::Etcd2(client) => client.endpoints().peer().await.map(Some),
            Self::Dir(_) => Ok(None),
        }
    }
}

impl Registry {
    /// Waits until the connection that the next operation would use is closed by the other side, which may be back
    /// without what it knew. For ever where there is no connection.
    pub async fn hung_up(&self) {
        match self {
            Self::Etcd3(client) => client.endpoints().hung_up().await,
            Self::Etcd2(client) => client.endpoints().hung_up().await,
            Self::Dir(_) => std::future::pending().await,
        }
    }
}

impl Listed {
    /// `None` for a key that stands for no name.
    fn new(
        prefix: &str,
        key: &str,
        record: Result<Fields, NoRecord>,
        ttl_left: Option<Duration>,
    ) -> Option<Self> {
        let (name, instance) = skydns::name_of(prefix, key)?;
        Some(Self { key: key.to_owned(), name, instance, ttl_left, record })
    }
}
