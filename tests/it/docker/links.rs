//! `docker run --link`: what listens in the other container is on localhost, and stays there when it moves.

use super::{borrowed, linked, redis};
use crate::support::docker::{Container, Engine, mounted};
use crate::support::wait;

#[test]
fn an_image_that_knows_nothing_of_ensign_reaches_its_link_on_localhost() {
    let Some(engine) = Engine::start() else { return };
    let (redis, image) = redis(&engine, &[]);
    let options = linked(&engine, &redis, &image, &["-v", &mounted()]);
    let script = "redis-cli -h localhost set greeting hello && redis-cli -h 127.0.0.1 get greeting && exit 7";
    let ended = engine.run(&borrowed(&options), &image, &["/ensign", "--", "sh", "-c", script]);
    println!("{ended:?}");
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str(), ended.code), ("OK\nhello\n", "", 7));
}

/// Docker's variables go on naming the old address. Its hosts file does too until the peer is back: who asks before
/// that gets what is there, with or without ensign, so nobody asks.
#[test]
fn a_link_follows_a_peer_that_moved_and_never_reaches_who_has_its_old_address() {
    let Some(engine) = Engine::start() else { return };
    let (redis, image) = redis(&engine, &[]);
    let says = |redis: &Container, who: &str| {
        assert_eq!(redis.exec(&["redis-cli", "set", "who", who]).stdout, "OK\n");
    };
    says(&redis, "redis");
    let options = linked(&engine, &redis, &image, &["-v", &mounted()]);
    let client =
        engine.start_container("client", &borrowed(&options), &image, &["/ensign", "--", "sleep", "1000"]);
    let ask = |host: &str| client.exec(&["redis-cli", "-h", host, "get", "who"]).stdout;
    wait::until_true("the link to be open", || ask("127.0.0.1") == "redis\n");

    let old = redis.address();
    redis.stop();
    let decoy = engine.start_container("decoy", &[], &image, &[]);
    assert_eq!(decoy.address(), old, "the engine gives the free address to the next one");
    decoy.until_logged("Ready to accept connections");
    says(&decoy, "decoy");
    redis.ok(&["start"]);
    let new = redis.address();
    println!("moved from {old}, where the decoy is, to {new}");
    assert_ne!(old, new);
    wait::until_true("redis to be back", || redis.exec(&["redis-cli", "ping"]).stdout == "PONG\n");
    says(&redis, "moved");
    assert_eq!(ask(&old), "decoy\n");
    for _ in 0..5 {
        assert_eq!(ask("127.0.0.1"), "moved\n");
    }
    let given = client.exec(&["cat", "/proc/1/environ"]).stdout;
    let variable = given.split('\0').find_map(|line| line.strip_prefix("DB_PORT_6379_TCP_ADDR="));
    assert_eq!(variable, Some(old.as_str()));
    assert_eq!(client.logs(), (String::new(), String::new()));
}
