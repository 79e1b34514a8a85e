//! The registry as the supervisor sees it: claims by their number, one request at a time for each service. Chooses the
//! address that is announced, anew at each heartbeat; keeps why the latest request failed, for people.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::tasks::{Purpose, Tasks};
use crate::config::{self, Config, Conflict, ServiceId};
use crate::machine::event::{Answer, ClaimId, Event, RequestId};
use crate::net::address;
use crate::net::resolve::Resolver;
use crate::registry::{Claim, Error, Record, Registration, Registry, Renewal};

#[derive(Debug)]
pub struct Registrar {
    config: Arc<Config>,
    /// `None` where no service announces anything: then there is no client either.
    shared: Option<Rc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    claims: RefCell<HashMap<ServiceId, Claimed>>,
    errors: RefCell<HashMap<ServiceId, String>>,
    /// Held by a heartbeat: those that come at the same time use one connection, one after the other.
    beat: Mutex<()>,
}

/// What a service claims.
#[derive(Debug)]
struct Claimed {
    id: ClaimId,
    /// The latest: a withdrawal needs what the registration has left in it.
    claim: Arc<Claim>,
    /// It, and the one before it where that was lost: some of whose records may stand until this one is held.
    standing: Vec<Arc<Claim>>,
}

/// Why nothing was asked of the registry, or what it answered instead.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Registry(#[from] Error),
    #[error(transparent)]
    Address(#[from] address::AddressError),
}

impl Registrar {
    pub fn new(config: Arc<Config>, resolver: Arc<Resolver>) -> Result<Self, Error> {
        let announces = config.services.iter().any(|service| !service.announce.is_empty());
        let shared =
            announces.then(|| Registry::new(&config.registry, resolver)).transpose()?.map(|registry| {
                Rc::new(Shared {
                    registry,
                    claims: RefCell::default(),
                    errors: RefCell::default(),
                    beat: Mutex::default(),
                })
            });
        Ok(Self { config, shared })
    }

    pub fn register(
        &self,
        tasks: &mut Tasks,
        service: ServiceId,
        claim: ClaimId,
        request: RequestId,
        conflict: Conflict,
    ) {
        let config = Arc::clone(&self.config);
        self.ask(tasks, service, request, async move |shared| {
            let announce = &config.services[service.0].announce;
            // We have moved since the claim was made: what it says is not true any more.
            let Some(claim) = shared.claim(service, claim, announce).await? else { return Ok(Answer::Lost) };
            let registration = shared.registry.register(&claim, conflict).await?;
            // Under each key there is our new record now, or somebody else's.
            shared.set_standing(service, vec![claim]);
            Ok(match registration {
                Registration::Held { ttl } => Answer::Held { ttl },
                Registration::Taken => Answer::Taken,
            })
        });
    }

    pub fn renew(&self, tasks: &mut Tasks, service: ServiceId, claim: ClaimId, request: RequestId) {
        let config = Arc::clone(&self.config);
        self.ask(tasks, service, request, async move |shared| {
            let _turn = shared.beat.lock().await;
            let records = shared.records(&config.services[service.0].announce).await?;
            let Some(claim) = shared.saying(service, claim, records) else { return Ok(Answer::Lost) };
            Ok(match shared.registry.renew(&claim).await? {
                Renewal::Kept { ttl } => Answer::Held { ttl },
                Renewal::Moved { ttl } => Answer::Moved { ttl },
                Renewal::Lost => Answer::Lost,
                Renewal::Taken => Answer::Taken,
            })
        });
    }

    /// Whatever the service has claimed.
    pub fn withdraw(&self, tasks: &mut Tasks, service: ServiceId, request: RequestId) {
        self.ask(tasks, service, request, async move |shared| {
            for claim in shared.standing(service) {
                shared.registry.withdraw(&claim).await?;
            }
            shared.set_standing(service, Vec::new());
            Ok(Answer::Withdrawn)
        });
    }

    /// Waits until the registry closes the connection to it. For ever where nothing is announced.
    pub async fn hung_up(&self) {
        match &self.shared {
            Some(shared) => shared.registry.hung_up().await,
            None => future::pending().await,
        }
    }

    /// What went wrong last, for people.
    pub fn last_error(&self, service: ServiceId) -> Option<String> {
        self.shared.as_ref()?.errors.borrow().get(&service).cloned()
    }

    /// What the service's claim says, for people: `web.s.prod.example.com at 10.0.0.7:8087 as web-1`.
    pub fn describe(&self, service: ServiceId) -> Option<String> {
        let claims = self.shared.as_ref()?.claims.borrow();
        Some(described(claims.get(&service)?.claim.records()))
    }

    /// Whose records stand in the place of ours: `web.s.prod.example.com as web-1 is at 10.0.0.8:8087`.
    pub fn describe_rivals(&self, service: ServiceId) -> Option<String> {
        let claims = self.shared.as_ref()?.claims.borrow();
        let claim = &claims.get(&service)?.claim;
        let rivals = claim.rivals();
        let told = rivals.iter().map(|(record, rival)| {
            format!("{} as {} is at {rival}", record.name.as_str(), record.instance.as_str())
        });
        let told = told.collect::<Vec<_>>().join(", ");
        let is_ours = |record: &&Record| !rivals.iter().any(|(rival, _)| rival == record);
        let ours: Vec<&Record> = claim.records().iter().filter(is_ours).collect();
        Some(if ours.is_empty() { told } else { format!("{told}; announced: {}", described(ours)) })
    }

    fn ask(
        &self,
        tasks: &mut Tasks,
        service: ServiceId,
        request: RequestId,
        work: impl AsyncFnOnce(&Shared) -> Result<Answer, Refusal> + 'static,
    ) {
        let Some(shared) = self.shared.clone() else { return };
        let answered = move |answer| Event::Answered { service, request, answer };
        let work = async move {
            answered(match work(&shared).await {
                Ok(answer) => answer,
                Err(refusal) => {
                    tracing::debug!("registry request failed: {refusal}");
                    shared.errors.borrow_mut().insert(service, refusal.to_string());
                    match refusal {
                        Refusal::Registry(_) => Answer::Failed,
                        Refusal::Address(_) => Answer::NoAddress,
                    }
                }
            })
        };
        tasks.start(Purpose::Registry(service), work, answered(Answer::Failed));
    }
}

impl Shared {
    fn known(&self, service: ServiceId, id: ClaimId) -> Option<Arc<Claim>> {
        let claims = self.claims.borrow();
        claims.get(&service).filter(|known| known.id == id).map(|known| Arc::clone(&known.claim))
    }

    fn standing(&self, service: ServiceId) -> Vec<Arc<Claim>> {
        self.claims.borrow().get(&service).map(|known| known.standing.clone()).unwrap_or_default()
    }

    fn set_standing(&self, service: ServiceId, standing: Vec<Arc<Claim>>) {
        if let Some(known) = self.claims.borrow_mut().get_mut(&service) {
            known.standing = standing;
        }
    }

    /// The claim of this number, made with the addresses that we have now if it is new; `None` if it says others.
    async fn claim(
        &self,
        service: ServiceId,
        id: ClaimId,
        announce: &[config::Announce],
    ) -> Result<Option<Arc<Claim>>, Refusal> {
        let records = self.records(announce).await?;
        if let Some(claim) = self.known(service, id) {
            return Ok(Some(claim).filter(|claim| claim.records() == records));
        }
        let ttl = announce.iter().map(|announce| announce.ttl).min().unwrap_or_default();
        let mut claims = self.claims.borrow_mut();
        let claim = Claim::new(records, ttl);
        let earlier = claims.remove(&service);
        let claim = Arc::new(match &earlier {
            Some(earlier) => claim.after(&earlier.claim),
            None => claim,
        });
        let mut standing = earlier.map(|earlier| earlier.standing).unwrap_or_default();
        standing.push(Arc::clone(&claim));
        claims.insert(service, Claimed { id, claim: Arc::clone(&claim), standing });
        Ok(Some(claim))
    }

    /// The claim of this number, to say this.
    fn saying(&self, service: ServiceId, id: ClaimId, records: Vec<Record>) -> Option<Arc<Claim>> {
        let known = self.known(service, id)?;
        if known.records() == records {
            return Some(known);
        }
        let claim = Arc::new(known.saying(records));
        // Under the same token: what undoes it undoes what it said before.
        let claimed = Claimed { id, claim: Arc::clone(&claim), standing: vec![Arc::clone(&claim)] };
        self.claims.borrow_mut().insert(service, claimed);
        Some(claim)
    }

    /// What there is to announce, with the addresses that we have now.
    async fn records(&self, announce: &[config::Announce]) -> Result<Vec<Record>, Refusal> {
        let fixed = announce.iter().all(|announce| address::are_fixed(&announce.address));
        let surroundings =
            if fixed { address::Snapshot::default() } else { address::gather(self.registry.peer().await?) };
        let records = announce.iter().map(|announce| {
            let chosen = address::choose(&announce.address, &surroundings)?;
            Ok(Record::new(announce, chosen.address))
        });
        Ok(records.collect::<Result<Vec<_>, address::AddressError>>()?)
    }
}

fn described<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    let each = records.into_iter().map(|record| {
        let (name, instance) = (record.name.as_str(), record.instance.as_str());
        let at = config::HostPort { host: record.host.to_string(), port: record.port };
        format!("{name} at {at} as {instance}")
    });
    each.collect::<Vec<_>>().join(", ")
}
