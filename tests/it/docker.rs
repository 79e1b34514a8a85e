//! Real containers with the static binary, each promise as somebody with a Docker client sees it.

mod exits;
mod links;
mod networks;
mod records;
mod scratch;
mod stop;
mod terminal;

use crate::support::docker::image::Image;
use crate::support::docker::{Container, Engine};
use crate::support::wait;

/// A redis that answers, and its image, which has a client too.
fn redis<'e>(engine: &'e Engine, options: &[&str]) -> (Container<'e>, String) {
    let image = engine.import(&Image::redis());
    let redis = engine.start_container("redis", options, &image, &[]);
    redis.until_logged("Ready to accept connections");
    (redis, image)
}

/// An etcd that answers, with its client beside it.
fn etcd<'e>(engine: &'e Engine, options: &[&str]) -> Container<'e> {
    let etcd = engine.start_container("etcd", options, &engine.import(&Image::etcd()), &[]);
    wait::until_true("etcd to be healthy", || {
        etcd.is_running() && etcd.exec(&["etcdctl", "endpoint", "health"]).code == 0
    });
    etcd
}

/// The records in `etcd`, one line each.
fn records(etcd: &Container) -> String {
    etcd.exec(&["etcdctl", "get", "--prefix", "--print-value-only", "/skydns/"]).stdout
}
