//! What a fleet does to a registry that comes back: requests a second as etcd counts them, and when everybody is
//! announced again. Called by `main`.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ensign::machine::event::Answer;
use tokio::time::sleep;

use crate::fleet::{Api, Done, Ledger, containers, live};
use crate::server::{self, Data, Medium, Server};
use crate::sheet::Sheet;

const BEFORE: Duration = Duration::from_secs(1);
/// How long before the restart the picture begins.
pub const LEAD: Duration = Duration::from_millis(4000);
/// How long after it the picture ends.
const TAIL: Duration = Duration::from_millis(4500);
const DEADLINE: Duration = Duration::from_secs(90);
pub const BUCKET: Duration = Duration::from_millis(100);

/// The TTL is short, so that everybody has missed a heartbeat soon; what is retried, and when, does not depend on it. It
/// grows with a larger fleet, whose heartbeats alone would otherwise be too much for one etcd.
fn ttl(count: usize) -> Duration {
    Duration::from_millis(7500).mul_f64((count as f64 / 1e3).max(1.0))
}

/// When everybody is retrying.
fn outage(count: usize) -> Duration {
    ttl(count) / 3 + Duration::from_millis(500)
}

/// How long it is looked at from the restart on, at least.
fn after(count: usize) -> Duration {
    ttl(count) / 3 + Duration::from_secs(2)
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    api: Api,
    data: Data,
    outage: Outage,
    jitter: Jitter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// Until everybody has noticed.
    Long,
    /// It is started again at once.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jitter {
    /// Each draws its own, and they were started one after the other.
    Own,
    /// All draw the same, and were started at the same instant: a fleet without jitter.
    Same,
}

const V3_KEPT: Case =
    Case { name: "v3, data kept", api: Api::V3, data: Data::Kept, outage: Outage::Long, jitter: Jitter::Own };

pub const CASES: [Case; 6] = [
    V3_KEPT,
    Case { name: "v3, data wiped", data: Data::Wiped, ..V3_KEPT },
    Case { name: "v3, wiped, back at once", data: Data::Wiped, outage: Outage::None, ..V3_KEPT },
    Case { name: "v3, wiped, no jitter", data: Data::Wiped, jitter: Jitter::Same, ..V3_KEPT },
    Case { name: "v2, data kept", api: Api::V2, ..V3_KEPT },
    Case { name: "v2, data wiped", api: Api::V2, data: Data::Wiped, ..V3_KEPT },
];

/// When etcd had counted how many requests.
type Samples = Vec<(Instant, f64)>;

/// Kills etcd and starts it again. Gives requests a second by [`BUCKET`], from [`BEFORE`] before the restart on.
pub async fn restart(at: usize, count: usize, sheet: &mut Sheet) -> Vec<f64> {
    let case = CASES[at];
    let mut server = Server::start(Medium::Memory);
    let ledger: Ledger = Rc::default();
    let mut fleet = tokio::task::JoinSet::new();
    let start = Instant::now();
    for (who, container) in containers(count, case.api, server.address, ttl(count)).into_iter().enumerate() {
        let (seed, late) = match case.jitter {
            Jitter::Own => (who as u64, (ttl(count) / 3).mul_f64(who as f64 / count as f64)),
            Jitter::Same => (0, Duration::ZERO),
        };
        let ledger = Rc::clone(&ledger);
        fleet.spawn_local(async move {
            sleep(late).await;
            live(who, container, seed, start, ledger).await;
        });
    }
    until_all_held(&ledger, count, start).await;
    let poller = Poller::start(server.address);
    sleep(BEFORE).await;
    server.kill();
    if case.outage == Outage::Long {
        sleep(outage(count)).await;
    }
    let started = Instant::now();
    server.start_again(case.data);
    until_all_held(&ledger, count, started).await;
    sleep((started + after(count)).saturating_duration_since(Instant::now())).await;
    fleet.shutdown().await;
    let (up, samples) = poller.stop();
    tell(at, started, up, &ledger.borrow(), &samples, count, sheet);
    buckets(started, &samples)
}

/// Waits until each has been told since then that it holds its record, for so long at most.
async fn until_all_held(ledger: &RefCell<Vec<Done>>, count: usize, since: Instant) {
    while backs(&ledger.borrow(), count, since).len() < count && since.elapsed() < DEADLINE {
        sleep(BUCKET).await;
    }
}

/// When each that has heard so since then first heard that it holds its record.
fn backs(ledger: &[Done], count: usize, since: Instant) -> Vec<Instant> {
    let mut backs = vec![None; count];
    for done in ledger.iter().filter(|done| done.ended >= since && is_held(done)) {
        backs[done.who].get_or_insert(done.ended);
    }
    backs.into_iter().flatten().collect()
}

fn is_held(done: &Done) -> bool {
    matches!(done.answer, Answer::Held { .. } | Answer::Moved { .. })
}

fn tell(
    at: usize,
    started: Instant,
    up: Instant,
    ledger: &[Done],
    samples: &Samples,
    count: usize,
    sheet: &mut Sheet,
) {
    let mut add = |what: &str, value: f64| sheet.add(what, at, value);
    add("etcd needs to be up, s", (up - started).as_secs_f64());
    if CASES[at].outage == Outage::Long {
        // The last of it: by then everybody is retrying.
        let last = Duration::from_secs(1);
        let tried = ledger.iter().filter(|done| (started - last..started).contains(&done.began)).count();
        add("attempts/s while it is down", tried as f64 / last.as_secs_f64());
    }
    let mut backs = backs(ledger, count, started);
    backs.sort();
    let since = |back: &Instant| back.saturating_duration_since(up).as_secs_f64();
    for (share, label) in [(0.5, "half are"), (0.99, "99 % are"), (1.0, "all are")] {
        if let Some(back) = backs.get(((count - 1) as f64 * share) as usize) {
            add(&format!("{label} back after, s"), since(back));
        }
    }
    if backs.len() < count {
        add(&format!("not back after {DEADLINE:?}"), (count - backs.len()) as f64);
    }
    let rates: Vec<(Instant, f64)> = samples.windows(2).map(|pair| (pair[1].0, rate(pair))).collect();
    let all_back = backs.last().map_or(up, |last| up.max(*last));
    let of_the_return = rates.iter().filter(|(at, _)| up < *at && *at <= all_back + BUCKET);
    add("requests/s, the most in 100 ms", of_the_return.map(|(_, rate)| *rate).fold(0.0, f64::max));
    let mut slowest: Vec<f64> = ledger
        .iter()
        .filter(|done| done.began >= up && done.began <= all_back && is_held(done))
        .map(took)
        .collect();
    slowest.sort_by(f64::total_cmp);
    add("slowest request of the return, ms", slowest.last().copied().unwrap_or(0.0));
    let failed = ledger.iter().filter(|done| done.began >= up && done.answer == Answer::Failed).count();
    add("failed after it was up", failed as f64);
}

fn took(done: &Done) -> f64 {
    (done.ended - done.began).as_secs_f64() * 1e3
}

fn rate(pair: &[(Instant, f64)]) -> f64 {
    (pair[1].1 - pair[0].1).max(0.0) / (pair[1].0 - pair[0].0).as_secs_f64().max(1e-3)
}

fn buckets(started: Instant, samples: &Samples) -> Vec<f64> {
    let count = ((LEAD + TAIL).as_millis() / BUCKET.as_millis()) as u32;
    let middle = |bucket: u32| started + BUCKET * bucket + BUCKET / 2 - LEAD;
    let at = |time: Instant| {
        samples.windows(2).find(|pair| pair[0].0 <= time && time < pair[1].0).map_or(0.0, rate)
    };
    (0..count).map(|bucket| at(middle(bucket))).collect()
}

/// Asks etcd for its counters all the time, from a thread of its own.
struct Poller {
    done: Arc<AtomicBool>,
    /// When it came up last, and all samples.
    thread: JoinHandle<(Instant, Samples)>,
}

impl Poller {
    fn start(address: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut samples: Samples = vec![];
            let (mut is_down, mut up) = (true, Instant::now());
            while !is_done.load(Ordering::Relaxed) {
                match server::counters(address).filter(|_| !is_down || server::is_up(address)) {
                    Some(counters) => {
                        // A restart begins at nothing.
                        if is_down {
                            up = Instant::now();
                            samples.push((Instant::now() - Duration::from_millis(10), 0.0));
                        }
                        samples.push((Instant::now(), counters.requests));
                        is_down = false;
                        std::thread::sleep(BUCKET);
                    }
                    None => {
                        if !is_down {
                            samples.push((Instant::now(), 0.0));
                        }
                        is_down = true;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
            (up, samples)
        });
        Self { done, thread }
    }

    fn stop(self) -> (Instant, Samples) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}
