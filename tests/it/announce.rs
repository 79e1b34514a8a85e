//! Announcing, end to end: `ensign run -c` with real services against a real etcd, v3 and v2. What a client that
//! watches etcd sees is the measure, and etcd tells it.

mod addresses;
mod checks;
mod cost;
mod fitness;
mod outages;
mod ownership;
mod stop;

use std::thread;
use std::time::Duration;

use crate::support::etcd::Etcd;
use crate::support::namespace::Place;
use crate::support::service::{ANNOUNCE, Folder, Service, registry};
use crate::support::watch::{Api, Watch};

/// What [`ANNOUNCE`] asks for.
const TTL: Duration = Duration::from_secs(2);

/// A service that is announced in one of the two APIs of one etcd.
struct Announced {
    api: Api,
    watch: Watch,
    service: Service,
}

impl Announced {
    /// Starts it; `text` is its file, which announces and has its registry added.
    fn start(etcd: &Etcd, api: Api, place: Place, text: &str) -> Self {
        let watch = Watch::open(etcd, api);
        let service = folder(text, api, etcd).start(place);
        Self { api, watch, service }
    }
}

/// A folder with a file that holds `text`, announces, and names its registry.
fn folder(text: &str, api: Api, etcd: &Etcd) -> Folder {
    Folder::with(&announcing(text, api, etcd))
}

fn announcing(text: &str, api: Api, etcd: &Etcd) -> String {
    format!("{text}{ANNOUNCE}{}", registry(api, etcd.address()))
}

/// Tests both APIs against one etcd, at the same time.
fn with_both(test: impl Fn(&Etcd, Api) + Sync) {
    let etcd = Etcd::start();
    thread::scope(|scope| {
        for api in Api::BOTH {
            let (etcd, test) = (&etcd, &test);
            thread::Builder::new()
                .name(format!("{api:?}"))
                .spawn_scoped(scope, move || test(etcd, api))
                .expect("a thread starts");
        }
    });
}
