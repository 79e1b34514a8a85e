//! What a link has done so far, in numbers: kept in one place for whoever shows them. Only counts; never decides, never
//! logs. Written by the relaying threads, read by anybody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::endpoint::Endpoint;

/// Upper bounds of the times to connect that are told apart, in microseconds: from what the same host takes to what
/// is hardly a connection any more.
pub const CONNECT_BOUNDS_US: [u64; 8] = [100, 500, 1_000, 5_000, 20_000, 100_000, 500_000, 2_000_000];

/// Addresses that are not offered any more are forgotten past so many.
const MOST_PLACES: usize = 4096;

/// Of one link, over all of its listeners.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted; of UDP, clients that sent something.
    pub accepted: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
    /// Of those accepted, how many found no upstream.
    pub unserved: AtomicU64,
    /// Bytes from clients to upstreams.
    pub bytes_up: AtomicU64,
    /// Bytes from upstreams to clients.
    pub bytes_down: AtomicU64,
    /// How many connects took up to each of [`CONNECT_BOUNDS_US`], and how many longer than the last.
    pub connect_times: [AtomicU64; CONNECT_BOUNDS_US.len() + 1],
    /// All times to connect together, in microseconds.
    pub connect_time_us: AtomicU64,
    places: Mutex<BTreeMap<Endpoint, Arc<Place>>>,
}

/// What one address of a link has done.
#[derive(Debug, Default)]
pub struct Place {
    /// Connections to it that are open.
    pub open: AtomicU64,
    /// Connections that it took.
    pub connected: AtomicU64,
    /// Attempts that it refused or did not answer.
    pub failed: AtomicU64,
    /// Attempts under way, where the link goes by how busy an address is.
    trying: AtomicU64,
}

/// An attempt under way; not any more when this is dropped.
#[derive(Debug)]
pub(super) struct Trying(Arc<Place>);

/// An open connection to an address; not open any more when this is dropped.
#[derive(Debug)]
pub(super) struct Use(Arc<Place>);

impl Counters {
    pub(super) fn moved(&self, up: usize, down: usize) {
        for (counter, bytes) in [(&self.bytes_up, up), (&self.bytes_down, down)] {
            if bytes > 0 {
                add(counter, u64::try_from(bytes).unwrap_or(u64::MAX));
            }
        }
    }

    /// `address` took a connection after `time`.
    pub(super) fn connected(&self, address: &Endpoint, time: Duration) -> Use {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = CONNECT_BOUNDS_US.partition_point(|&bound| bound < micros);
        add(&self.connect_times[bucket], 1);
        add(&self.connect_time_us, micros);
        self.used(address)
    }

    /// `address` is used from now on.
    pub(super) fn used(&self, address: &Endpoint) -> Use {
        let place = self.place(address);
        add(&place.connected, 1);
        add(&place.open, 1);
        Use(place)
    }

    /// `address` took no connection.
    pub(super) fn failed(&self, address: &Endpoint) {
        add(&self.place(address).failed, 1);
    }

    /// `address` is tried from now on.
    pub(super) fn trying(&self, address: &Endpoint) -> Trying {
        let place = self.place(address);
        add(&place.trying, 1);
        Trying(place)
    }

    /// How many connections to `address` are open, or will be if it takes them.
    pub(super) fn busy_at(&self, address: &Endpoint) -> usize {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = places
            .get(address)
            .map_or(0, |place| place.open.load(Ordering::Relaxed) + place.trying.load(Ordering::Relaxed));
        usize::try_from(busy).unwrap_or(usize::MAX)
    }

    /// Each address by its name, in order.
    pub fn places(&self) -> Vec<(String, Arc<Place>)> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().map(|(address, place)| (address.to_string(), Arc::clone(place))).collect()
    }

    fn place(&self, address: &Endpoint) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(address) {
            return Arc::clone(place);
        }
        // Containers come and go under addresses that never come back.
        if places.len() >= MOST_PLACES {
            let is_busy = |count: &AtomicU64| count.load(Ordering::Relaxed) > 0;
            places.retain(|_, place| is_busy(&place.open) || is_busy(&place.trying));
        }
        Arc::clone(places.entry(address.clone()).or_default())
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.0.trying.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Endpoint {
        Endpoint::Tcp(text.parse().expect("an address"))
    }

    #[test]
    fn a_connection_counts_while_it_is_open_and_its_time_goes_by_bounds() {
        let counters = Counters::default();
        let (one, other) = (address("10.0.0.1:1"), address("10.0.0.2:1"));
        let first = counters.connected(&one, Duration::from_micros(100));
        let second = counters.connected(&one, Duration::from_micros(101));
        counters.connected(&other, Duration::from_secs(9));
        assert_eq!((counters.busy_at(&one), counters.busy_at(&other)), (2, 0));
        drop((first, second));
        assert_eq!(counters.busy_at(&one), 0);
        let times = counters.connect_times.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!(times, [1, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counters.connect_time_us.load(Ordering::Relaxed), 9_000_201);
        let places = counters.places();
        assert_eq!(places[0].0, "10.0.0.1:1");
        assert_eq!(places[0].1.connected.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn addresses_of_long_ago_are_forgotten() {
        let counters = Counters::default();
        let kept = counters.connected(&address("127.0.0.1:1"), Duration::ZERO);
        for n in 0..MOST_PLACES {
            counters.failed(&Endpoint::Tcp(([10, 0, (n >> 8) as u8, n as u8], 1).into()));
        }
        assert!(counters.places().len() <= 2, "{}", counters.places().len());
        assert_eq!(counters.busy_at(&address("127.0.0.1:1")), 1);
        drop(kept);
    }
}
