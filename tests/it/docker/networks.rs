//! A user-defined network: no variables, names from the engine's DNS at 127.0.0.11.

use super::{etcd, records, redis};
use crate::support::docker::{Container, Engine, mounted, mounted_actor};
use crate::support::wait;

/// Main holds; asked through the link by whoever is in the container too.
const LINKED: &str = r#"
command = ["sleep", "1000"]
[[link]]
name = "db"
to = "db:6379"
"#;

#[test]
fn a_link_by_name_follows_the_engine_s_dns() {
    let Some(engine) = Engine::start() else { return };
    let network = engine.network("net");
    let (redis, image) = redis(&engine, &["--network", &network, "--network-alias", "db"]);
    let says = |redis: &Container, who: &str| {
        assert_eq!(redis.exec(&["redis-cli", "set", "who", who]).stdout, "OK\n");
    };
    says(&redis, "redis");
    let (ensign, file) = (mounted(), format!("{}:/web.toml:ro", engine.file("web.toml", LINKED)));
    let options = ["--network", &network, "-v", &ensign, "-v", &file];
    let client = engine.start_container("client", &options, &image, &["/ensign", "-c", "/web.toml"]);
    let ask = |host: &str| client.exec(&["redis-cli", "-h", host, "get", "who"]).stdout;
    wait::until_true("the link to be open", || ask("127.0.0.1") == "redis\n");

    let old = redis.address_on(&network);
    redis.stop();
    let decoy = engine.start_container("decoy", &["--network", &network], &image, &[]);
    assert_eq!(decoy.address_on(&network), old, "the engine gives the free address to the next one");
    decoy.until_logged("Ready to accept connections");
    says(&decoy, "decoy");
    redis.ok(&["start"]);
    let new = redis.address_on(&network);
    println!("moved from {old}, where the decoy is, to {new}");
    assert_ne!(old, new);
    wait::until_true("redis to be back", || redis.exec(&["redis-cli", "ping"]).stdout == "PONG\n");
    says(&redis, "moved");
    assert_eq!(ask(&old), "decoy\n");
    for _ in 0..5 {
        assert_eq!(ask("127.0.0.1"), "moved\n");
    }
}

#[test]
fn a_registry_by_name_is_found_through_the_engine_s_dns() {
    let Some(engine) = Engine::start() else { return };
    let network = engine.network("net");
    let etcd = etcd(&engine, &["--network", &network, "--network-alias", "etcd"]);
    let image = engine.ok(&["inspect", "--format", "{{.Config.Image}}", &etcd.name]);
    let text = r#"
        command = ["/actor", "hold"]
        registry = { url = "etcd://etcd:2379" }
        announce = [{ name = "web.example.com", port = 8000 }]
    "#;
    let (ensign, actor) = (mounted(), mounted_actor());
    let file = format!("{}:/web.toml:ro", engine.file("web.toml", text));
    let options = ["--network", &network, "-v", &ensign, "-v", &actor, "-v", &file];
    let web = engine.start_container("web", &options, &image, &["/ensign", "-c", "/web.toml"]);
    let host = format!("{:?}", web.address_on(&network));
    wait::until_true("the record with the container's address", || records(&etcd).contains(&host));
}
