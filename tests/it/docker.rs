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

/// The options that link a container to `redis` as `db`, and then `more`. An engine that has given up link variables
/// (Docker 29, unless told otherwise) gets them by hand; its hosts file still has the name.
fn linked(engine: &Engine, redis: &Container, image: &str, more: &[&str]) -> Vec<String> {
    let link = format!("{}:db", redis.name);
    let mut options = vec!["--link".to_owned(), link.clone()];
    options.extend(more.iter().map(|option| (*option).to_owned()));
    if !engine.run(&["--link", &link], image, &["env"]).stdout.contains("DB_PORT_6379_TCP=") {
        println!("this engine makes no link variables: they are given by hand");
        let address = redis.address();
        for variable in [
            "DB_NAME=/client/db".to_owned(),
            format!("DB_PORT_6379_TCP=tcp://{address}:6379"),
            format!("DB_PORT_6379_TCP_ADDR={address}"),
        ] {
            options.extend(["--env".to_owned(), variable]);
        }
    }
    options
}

fn borrowed(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
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
