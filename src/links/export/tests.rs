//! What a service is told of its links, for every way in which a link can be written.

use std::time::Duration;

use super::*;
use crate::config::{Balance, EnvLinks, HostPort, Link, Listen, UnixSocket, Upstream, units};
use crate::links::plan_links;

const ENV: &str = "CACHE_PORT_11211_TCP=tcp://10.0.0.1:11211 CACHE_PORT_6379_TCP=tcp://10.0.0.1:16379";

fn link(name: &str, listen: &[&str], to: &[Upstream]) -> Link {
    let at = |text: &&str| ListenAt::Tcp(text.parse().expect("an address"));
    link_at(name, listen.iter().map(at).collect(), to)
}

fn link_at(name: &str, listen: Vec<ListenAt>, to: &[Upstream]) -> Link {
    Link {
        name: name.to_owned(),
        listen: if listen.is_empty() { Listen::Loopback } else { Listen::At(listen) },
        to: to.to_vec(),
        balance: Balance::First,
        connect_timeout: Duration::from_secs(1),
        max_connections: None,
        idle_timeout: Duration::from_secs(60),
        wait: None,
        export: true,
    }
}

fn host(port: u16) -> Upstream {
    Upstream::HostPort(HostPort { host: "db".to_owned(), port })
}

fn registry() -> Upstream {
    Upstream::Registry(units::dns_name("redis.example.com").expect("a name"))
}

/// What the service `web` with these links is told.
fn told(links: Vec<Link>) -> Exported {
    let mut config =
        crate::config::load::wrap(vec!["web".into()], &Default::default()).expect("nothing to object to");
    let mut service = config.services.remove(0);
    service.links = links;
    let env = ENV.split(' ').map(|text| text.split_once('=').expect("NAME=value"));
    let env = env.map(|(name, value)| (name.into(), value.into()));
    let pairs = service.links.iter().map(|link| (service.name.as_str(), link));
    let plan = plan_links(&EnvLinks::None, pairs, env);
    assert_eq!(plan.errors, []);
    exported(&service, &plan)
}

fn lines(exported: &Exported) -> Vec<String> {
    let text = |text: &OsString| text.to_str().expect("text").to_owned();
    let mut lines: Vec<_> =
        exported.variables().iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
    lines.sort();
    lines
}

/// Of the ports alone, without their parts.
fn ports(listen: &[&str], to: &[Upstream]) -> Vec<String> {
    let mut lines = lines(&told(vec![link("cache", listen, to)]));
    lines.retain(|line| line.contains("_TCP=") || line.starts_with("CACHE_PORT="));
    lines
}

#[test]
fn a_link_says_what_docker_would_and_where_it_listens() {
    assert_eq!(
        lines(&told(vec![link("my-db", &[], &[host(5432)])])),
        [
            "MY_DB_NAME=/web/my-db",
            "MY_DB_PORT=tcp://127.0.0.1:5432",
            "MY_DB_PORT_5432_TCP=tcp://127.0.0.1:5432",
            "MY_DB_PORT_5432_TCP_ADDR=127.0.0.1",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
        ]
    );
}

#[test]
fn the_number_is_the_one_that_programs_may_look_for() {
    let own = ["CACHE_PORT=tcp://127.0.0.1:7000", "CACHE_PORT_7000_TCP=tcp://127.0.0.1:7000"];
    assert_eq!(ports(&["127.0.0.1:7000"], &[registry()]), own);
    assert_eq!(ports(&["127.0.0.1:7000"], &[registry(), host(6379)]), own);
    assert_eq!(ports(&["127.0.0.1:7000"], &[host(6379), Upstream::Gateway(6380)]), own);
    let both = [
        "CACHE_PORT=tcp://127.0.0.1:7000",
        "CACHE_PORT_6379_TCP=tcp://127.0.0.1:7000",
        "CACHE_PORT_7000_TCP=tcp://127.0.0.1:7000",
    ];
    assert_eq!(ports(&["127.0.0.1:7000"], &[host(6379)]), both);
    assert_eq!(ports(&["127.0.0.1:7000"], &[host(6379), Upstream::Gateway(6379)]), both);
    // The number of the variable, whatever port its value has.
    assert_eq!(ports(&["127.0.0.1:7000"], &[Upstream::Env("CACHE".to_owned())]), both);
}

#[test]
fn each_port_of_a_docker_link_has_its_variables() {
    let expected = [
        "CACHE_PORT=tcp://127.0.0.1:6379",
        "CACHE_PORT_11211_TCP=tcp://127.0.0.1:11211",
        "CACHE_PORT_6379_TCP=tcp://127.0.0.1:6379",
    ];
    assert_eq!(ports(&[], &[Upstream::Env("CACHE".to_owned())]), expected);
    // It listens at one of them itself: that one goes there.
    let expected = [
        "CACHE_PORT=tcp://127.0.0.1:7000",
        "CACHE_PORT_11211_TCP=tcp://127.0.0.1:11211",
        "CACHE_PORT_6379_TCP=tcp://127.0.0.1:7000",
        "CACHE_PORT_7000_TCP=tcp://127.0.0.1:7000",
    ];
    assert_eq!(ports(&["127.0.0.1:7000", "127.0.0.1:11211"], &[Upstream::Env("CACHE".to_owned())]), expected);
}

#[test]
fn an_address_is_one_that_a_process_of_ours_can_connect_to() {
    let to = [registry()];
    assert_eq!(ports(&["0.0.0.0:6379"], &to)[0], "CACHE_PORT=tcp://127.0.0.1:6379");
    assert_eq!(ports(&["[::]:6379"], &to)[0], "CACHE_PORT=tcp://::1:6379");
    assert_eq!(ports(&["[fd00::1]:6379", "10.0.0.9:6379"], &to)[0], "CACHE_PORT=tcp://10.0.0.9:6379");
    let v6 = lines(&told(vec![link("cache", &["[::1]:6379"], &to)]));
    assert!(v6.contains(&"CACHE_PORT_6379_TCP_ADDR=::1".to_owned()), "{v6:?}");
}

#[test]
fn udp_has_its_own_names_and_a_path_has_none() {
    let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let socket = ListenAt::Unix(UnixSocket { path: "/run/ns.sock".into(), mode: 0o600, owner: None });
    let listen = vec![socket.clone(), ListenAt::Udp(at("127.0.0.1:53")), ListenAt::Tcp(at("127.0.0.1:5353"))];
    let mut all = lines(&told(vec![link_at("ns", listen, &[host(53)])]));
    all.retain(|line| !line.contains("_ADDR=") && !line.contains("_PROTO="));
    assert_eq!(
        all,
        [
            "NS_NAME=/web/ns",
            "NS_PORT=tcp://127.0.0.1:5353",
            "NS_PORT_5353_TCP=tcp://127.0.0.1:5353",
            "NS_PORT_5353_TCP_PORT=5353",
            "NS_PORT_53_TCP=tcp://127.0.0.1:5353",
            "NS_PORT_53_TCP_PORT=5353",
            "NS_PORT_53_UDP=udp://127.0.0.1:53",
            "NS_PORT_53_UDP_PORT=53",
        ]
    );
    assert_eq!(lines(&told(vec![link_at("ns", vec![socket], &[host(53)])])), ["NS_NAME=/web/ns"]);
}

#[test]
fn what_is_not_exported_says_nothing_and_takes_nothing_out() {
    let quiet = Link { export: false, ..link("db", &[], &[host(5432)]) };
    let exported = told(vec![quiet, link("cache", &[], &[host(6379)])]);
    assert!(lines(&exported).iter().all(|line| line.starts_with("CACHE_")));
    let replaces = |name: &str| exported.replaces(OsStr::new(name));
    for name in ["CACHE_NAME", "CACHE_PORT", "CACHE_PORT_1_TCP", "CACHE_PORT_1_UDP_ADDR"] {
        assert!(replaces(name), "{name}");
    }
    for name in ["CACHE_ENV_PASSWORD", "CACHE", "CACHE_URL", "MY_CACHE_NAME", "DB_NAME", "DB_PORT_5432_TCP"] {
        assert!(!replaces(name), "{name}");
    }
}

/// Whoever reads Docker's variables reads these: our own reader does.
#[test]
fn what_is_said_is_what_docker_links_readers_understand() {
    let exported = told(vec![link("cache", &["10.9.8.7:7000"], &[host(6379)])]);
    let found = docker_env::scan(exported.variables().iter().cloned());
    let [cache] = &found[..] else { panic!("{found:?}") };
    assert_eq!((cache.alias.as_str(), cache.name.as_deref()), ("CACHE", Some("cache")));
    let at = "10.9.8.7:7000".parse().expect("an address");
    let ports: Vec<_> = cache.ports.iter().map(|port| (port.number, port.to)).collect();
    assert_eq!((ports, &cache.problems[..]), (vec![(6379, at), (7000, at)], &[][..]));
}
