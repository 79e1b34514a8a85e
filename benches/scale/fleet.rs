//! Announcers as production has them, many in one process: for each the init's own state machine and the init's own
//! registry client with a connection of its own. Only what carries out the machine's actions is ours, as the
//! registrar does: a claim for each registration. Called by `cost`, `memory` and `herd`.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ensign::config::units::{dns_name, label};
use ensign::config::{self, Conflict, HostPort, RegistryUrl, ServiceId};
use ensign::machine::action::Action;
use ensign::machine::announce::{Announcer, Beat};
use ensign::machine::event::{Answer, ClaimId};
use ensign::machine::out::Out;
use ensign::machine::time::Time;
use ensign::net::resolve::Resolver;
use ensign::registry::{Claim, Record, Registration, Registry, Renewal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    V3,
    V2,
}

/// A container's side of the registry: its client, its record, the claim that stands.
pub struct Container {
    registry: Registry,
    record: Record,
    ttl: Duration,
    claim: RefCell<Option<(ClaimId, Arc<Claim>)>>,
}

/// One request that was over.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub who: usize,
    pub began: Instant,
    pub ended: Instant,
    pub answer: Answer,
}

pub type Ledger = Rc<RefCell<Vec<Done>>>;

pub fn containers(count: usize, api: Api, etcd: SocketAddr, ttl: Duration) -> Vec<Rc<Container>> {
    let resolver = Arc::new(Resolver::system());
    (0..count).map(|at| Rc::new(Container::new(at, api, etcd, ttl, &resolver))).collect()
}

impl Container {
    fn new(at: usize, api: Api, etcd: SocketAddr, ttl: Duration, resolver: &Arc<Resolver>) -> Self {
        let hosts = vec![HostPort { host: etcd.ip().to_string(), port: etcd.port() }];
        let url = match api {
            Api::V3 => RegistryUrl::Etcd3(hosts),
            Api::V2 => RegistryUrl::Etcd2(hosts),
        };
        let config = config::Registry { url, prefix: "/skydns".to_owned(), tls: None, login: None };
        let record = Record {
            name: dns_name("web.s.prod.example.com").expect("a name"),
            instance: label(&format!("node-{at}")).expect("a label"),
            host: "192.0.2.7".parse().expect("an address"),
            port: 8087,
            priority: 10,
            weight: 100,
            dns_ttl: Duration::from_secs(5),
            conflict: Conflict::Take,
        };
        let registry = Registry::new(&config, Arc::clone(resolver)).expect("a client");
        Self { registry, record, ttl, claim: RefCell::default() }
    }

    pub async fn register(&self, id: ClaimId, conflict: Conflict) -> Answer {
        let claim = self.claim_of(id);
        match self.registry.register(&claim, conflict).await {
            Ok(Registration::Held { ttl }) => Answer::Held { ttl },
            Ok(Registration::Taken) => Answer::Taken,
            Err(_) => Answer::Failed,
        }
    }

    /// One heartbeat.
    pub async fn renew(&self) -> Answer {
        let Some((_, claim)) = self.claim.borrow().clone() else { return Answer::Lost };
        match self.registry.renew(&claim).await {
            Ok(Renewal::Kept { ttl }) => Answer::Held { ttl },
            Ok(Renewal::Moved { ttl }) => Answer::Moved { ttl },
            Ok(Renewal::Lost) => Answer::Lost,
            Ok(Renewal::Taken) => Answer::Taken,
            Err(_) => Answer::Failed,
        }
    }

    fn claim_of(&self, id: ClaimId) -> Arc<Claim> {
        let mut standing = self.claim.borrow_mut();
        let fresh = Claim::new(vec![self.record.clone()], self.ttl);
        let claim = match standing.take() {
            Some((known, claim)) if known == id => claim,
            Some((_, earlier)) => Arc::new(fresh.after(&earlier)),
            None => Arc::new(fresh),
        };
        *standing = Some((id, Arc::clone(&claim)));
        claim
    }

    async fn carry_out(&self, action: &Action) -> Answer {
        match action {
            Action::Register { claim, conflict, .. } => self.register(*claim, *conflict).await,
            Action::Renew { .. } => self.renew().await,
            other => panic!("{other:?} of a service that is always fit"),
        }
    }
}

/// Announced for ever, from now on. `seed` decides its jitter.
pub async fn live(who: usize, container: Rc<Container>, seed: u64, start: Instant, ledger: Ledger) {
    let mut life = Life::new(container.ttl, seed);
    loop {
        match life.next(Time::after_start(start.elapsed())) {
            Next::Ask(action) => {
                let began = Instant::now();
                let answer = container.carry_out(&action).await;
                ledger.borrow_mut().push(Done { who, began, ended: Instant::now(), answer });
                life.answered(&action, answer, Time::after_start(start.elapsed()));
            }
            Next::Wait(until) => tokio::select! {
                () = tokio::time::sleep_until((start + until.since_start()).into()) => {}
                () = container.registry.hung_up() => life.hung_up(Time::after_start(start.elapsed())),
            },
        }
    }
}

/// The machine of one announcement that is always wanted.
pub struct Life {
    machine: Announcer,
    rng: fastrand::Rng,
}

pub enum Next {
    Ask(Action),
    Wait(Time),
}

impl Life {
    pub fn new(ttl: Duration, seed: u64) -> Self {
        Self { machine: Announcer::new(Some(ttl)), rng: fastrand::Rng::with_seed(seed) }
    }

    pub fn next(&mut self, now: Time) -> Next {
        let mut actions = vec![];
        let Self { machine, rng } = self;
        machine.want(
            Ok(()),
            Beat::NotNow,
            &mut Out { service: ServiceId(0), now, rng, actions: &mut actions },
        );
        let asked = actions.into_iter().find(|action| !matches!(action, Action::Tell(_)));
        let wait = || machine.next_deadline().expect("something is due or being asked");
        asked.map_or_else(|| Next::Wait(wait()), Next::Ask)
    }

    pub fn hung_up(&mut self, now: Time) {
        let Self { machine, rng } = self;
        machine.hung_up(&mut Out { service: ServiceId(0), now, rng, actions: &mut vec![] });
    }

    pub fn answered(&mut self, asked: &Action, answer: Answer, now: Time) {
        let (Action::Register { request, .. } | Action::Renew { request, .. }) = asked else { return };
        let Self { machine, rng } = self;
        let out = &mut Out { service: ServiceId(0), now, rng, actions: &mut vec![] };
        machine.answered(*request, answer, out);
    }
}

/// Each of them registered, some at a time.
pub async fn register_all(containers: &[Rc<Container>], at_once: usize) {
    let all =
        each(
            containers,
            at_once,
            |container| async move { container.register(ClaimId(1), Conflict::Take).await },
        );
    let refused = all.await.into_iter().filter(|answer| !matches!(answer, Answer::Held { .. })).count();
    assert_eq!(refused, 0, "all are registered");
}

/// Does `work` for each, `at_once` of them side by side.
pub async fn each<T: Clone + 'static, A: 'static, F: Future<Output = A> + 'static>(
    of: &[T],
    at_once: usize,
    work: impl Fn(T) -> F + Clone + 'static,
) -> Vec<A> {
    let queue = Rc::new(RefCell::new(of.to_vec()));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let (queue, work) = (Rc::clone(&queue), work.clone());
        workers.spawn_local(async move {
            let mut answers = vec![];
            loop {
                let Some(next) = queue.borrow_mut().pop() else { return answers };
                answers.push(work(next).await);
            }
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}
