//! The plan: which alias gets a port, what a file takes for itself, and what is said about the rest.

use super::*;
use crate::config::UnixSocket;

fn env(text: &str) -> Vec<(OsString, OsString)> {
    let lines = text.split_whitespace().map(|line| line.split_once('=').expect("NAME=value"));
    lines.map(|(name, value)| (name.into(), value.into())).collect()
}

fn automatic(text: &str) -> Plan {
    plan_links(&EnvLinks::All, [], env(text))
}

fn link(name: &str, listen: Listen, to: Upstream) -> Link {
    Link {
        name: name.to_owned(),
        listen,
        to: vec![to],
        balance: Balance::RoundRobin,
        connect_timeout: Duration::from_secs(1),
        max_connections: None,
        idle_timeout: IDLE_TIMEOUT,
        wait: None,
        export: false,
    }
}

fn host(host: &str, port: u16) -> Upstream {
    Upstream::HostPort(HostPort { host: host.to_owned(), port })
}

fn at(address: &str) -> Listen {
    Listen::At(vec![ListenAt::Tcp(address.parse().expect("an address"))])
}

/// `listen > to (source)` for each forward.
fn told(plan: &Plan) -> Vec<String> {
    let forwards = plan.forwards.iter();
    forwards.map(|forward| format!("{} > {} ({})", forward.listen, forward.to, forward.source)).collect()
}

fn notices(plan: &Plan) -> Vec<String> {
    plan.notices.iter().map(ToString::to_string).collect()
}

fn errors(plan: &Plan) -> Vec<String> {
    plan.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn several_aliases_of_one_peer_are_one_forward() {
    let plan = automatic(
        "DB_PORT_5432_TCP=tcp://10.0.0.1:5432 DB_NAME=/web/db DB_1_PORT_5432_TCP=tcp://10.0.0.1:5432
         DB_1_NAME=/web/db_1 PROJ_DB_1_PORT_5432_TCP=tcp://10.0.0.1:5432",
    );
    assert_eq!(told(&plan), ["localhost:5432 > 10.0.0.1:5432 (DB, DB_1, PROJ_DB_1)"]);
    let [Way::Peer(peer)] = &plan.forwards[0].to.ways[..] else { panic!("a peer") };
    assert_eq!(peer.names, ["db", "db_1"]);
    assert_eq!(notices(&plan), [""; 0]);
}

#[test]
fn the_first_of_two_peers_gets_the_port_and_the_other_is_named() {
    let text =
        "B_PORT_80_TCP=tcp://10.0.0.2:80 A_PORT_80_TCP=tcp://10.0.0.1:80 B_PORT_81_TCP=tcp://10.0.0.2:81";
    let plan = automatic(text);
    assert_eq!(told(&plan), ["localhost:80 > 10.0.0.1:80 (A)", "localhost:81 > 10.0.0.2:81 (B)"]);
    assert_eq!(
        notices(&plan),
        ["port 80 goes to A; B (10.0.0.2:80) wants it too: give one of them another with `listen` in a \
          `[[link]]`"]
    );
    let reversed: Vec<_> = env(text).into_iter().rev().collect();
    assert_eq!(plan, plan_links(&EnvLinks::All, [], reversed));
}

#[test]
fn which_aliases_are_opened_is_a_setting_and_kubernetes_never_is() {
    let text = "MY_DB_PORT_1_TCP=tcp://10.0.0.1:1 MY_CACHE_PORT_2_TCP=tcp://10.0.0.1:2
                X_PORT_3_TCP=tcp://10.0.0.1:3 X_PORT_4_TCP=bad
                K_PORT_5_TCP=tcp://10.0.0.1:5 K_SERVICE_HOST=10.0.0.1 K_SERVICE_PORT=5 K_PORT_6_UDP=bad";
    let ports = |links: EnvLinks| {
        let plan = plan_links(&links, [], env(text));
        (
            plan.forwards.iter().map(|f| f.listen.places()[0].port().expect("a port")).collect::<Vec<_>>(),
            plan.notices.len(),
        )
    };
    assert_eq!(ports(EnvLinks::All), (vec![2, 1, 3], 1));
    assert_eq!(ports(EnvLinks::None), (vec![], 0));
    assert_eq!(ports(EnvLinks::Matching(vec!["my-*".to_owned(), "k".to_owned()])), (vec![2, 1], 0));
}

#[test]
fn udp_ports_are_forwarded_beside_tcp_ones_and_sctp_is_noticed_once_an_alias() {
    let plan = automatic(
        "NS_PORT_53_UDP=udp://10.0.0.1:53 NS_PORT_53_TCP=tcp://10.0.0.1:53 NS_1_PORT_53_UDP=udp://10.0.0.1:53
         OTHER_PORT_53_UDP=udp://10.0.0.2:53 NS_PORT_7_SCTP=sctp://10.0.0.1:7 NS_PORT_8_SCTP=sctp://10.0.0.1:8",
    );
    assert_eq!(told(&plan), ["localhost:53 > 10.0.0.1:53 (NS)", "localhost:53/udp > 10.0.0.1:53 (NS, NS_1)"]);
    assert_eq!(
        notices(&plan),
        [
            "link NS: sctp is not forwarded yet: 7, 8",
            "port 53/udp goes to NS, NS_1; OTHER (10.0.0.2:53) wants it too: give one of them another with `listen` in a \
             `[[link]]`"
        ]
    );
}

#[test]
fn a_range_of_udp_ports_is_each_of_them() {
    let plan = automatic("M_PORT_5000_UDP_START=udp://10.0.0.1:6000 M_PORT_5000_UDP_END=udp://10.0.0.1:6001");
    assert_eq!(
        told(&plan),
        ["localhost:5000/udp > 10.0.0.1:6000 (M)", "localhost:5001/udp > 10.0.0.1:6001 (M)"]
    );
}

#[test]
fn a_link_of_a_file_takes_the_ports_of_the_protocols_that_it_listens_for() {
    let text =
        "NS_PORT_53_UDP=udp://10.0.0.1:53 NS_PORT_53_TCP=tcp://10.0.0.1:53 NS_PORT_54_TCP=tcp://10.0.0.1:54";
    let plan_of = |listen: Listen| {
        let ns = link("ns", listen, Upstream::Env("NS".to_owned()));
        plan_links(&EnvLinks::None, [("web", &ns)], env(text))
    };
    let from = |listen: &str, to: &str| format!("{listen} > {to} (link `ns` of web)");
    assert_eq!(
        told(&plan_of(Listen::Loopback)),
        [
            from("localhost:53", "10.0.0.1:53"),
            from("localhost:54", "10.0.0.1:54"),
            from("localhost:53/udp", "10.0.0.1:53")
        ]
    );
    let mixed = ["127.0.0.1:54", "127.0.0.1:99"].map(|at| at.parse().expect("an address"));
    let socket = UnixSocket { path: "/run/ns.sock".into(), mode: 0o600, owner: None };
    let mut places = mixed.map(ListenAt::Tcp).to_vec();
    places.extend(mixed.map(ListenAt::Udp));
    places.push(ListenAt::Unix(socket));
    assert_eq!(
        told(&plan_of(Listen::At(places))),
        [
            from("127.0.0.1:54", "10.0.0.1:54"),
            from("127.0.0.1:99", "10.0.0.1:53"),
            from("unix:/run/ns.sock", "10.0.0.1:53"),
            from("127.0.0.1:54/udp", "10.0.0.1:53"),
            from("127.0.0.1:99/udp", "10.0.0.1:53"),
        ]
    );
    let only_tcp = link("ns", Listen::At(mixed.map(ListenAt::Udp).to_vec()), Upstream::Env("A".to_owned()));
    let plan = plan_links(&EnvLinks::None, [("web", &only_tcp)], env("A_PORT_1_TCP=tcp://10.0.0.1:1"));
    assert_eq!(errors(&plan), ["link `ns` of web: no variable `A_PORT_…_UDP` is set for `env:A`"]);
}

#[test]
fn a_link_for_both_protocols_is_a_forward_for_each() {
    let dns: SocketAddr = "127.0.0.1:53".parse().expect("an address");
    let link = link("dns", Listen::At(vec![ListenAt::Tcp(dns), ListenAt::Udp(dns)]), host("x", 53));
    let plan = plan_links(&EnvLinks::None, [("web", &link)], []);
    assert_eq!(
        told(&plan),
        ["127.0.0.1:53 > x:53 (link `dns` of web)", "127.0.0.1:53/udp > x:53 (link `dns` of web)"]
    );
    let other = Link { name: "b".to_owned(), ..link.clone() };
    let plan = plan_links(&EnvLinks::None, [("web", &link), ("web", &other)], []);
    assert_eq!(
        errors(&plan),
        [
            "link `dns` of web and link `b` of web both listen on 127.0.0.1:53",
            "link `dns` of web and link `b` of web both listen on 127.0.0.1:53/udp"
        ]
    );
}

#[test]
fn a_file_takes_its_alias_out_of_the_automatic_ones() {
    let text =
        "DB_PORT_1_TCP=tcp://10.0.0.1:1 DB_PORT_2_TCP=tcp://10.0.0.1:2 DB_1_PORT_1_TCP=tcp://10.0.0.1:1
                C_PORT_1_TCP=tcp://10.0.0.9:1";
    let db = link("db", Listen::Loopback, Upstream::Env("db".to_owned()));
    let plan = plan_links(&EnvLinks::All, [("web", &db)], env(text));
    assert_eq!(
        told(&plan),
        ["localhost:1 > 10.0.0.1:1 (link `db` of web)", "localhost:2 > 10.0.0.1:2 (link `db` of web)"]
    );
    assert!(notices(&plan)[0].starts_with("port 1 goes to link `db` of web; C (10.0.0.9:1) wants it too"));

    // Another port than its own: Docker's lowest, unless the number says which.
    for (listen, to) in [("127.0.0.1:9", "10.0.0.1:1"), ("127.0.0.1:2", "10.0.0.1:2")] {
        let db = link("db", at(listen), Upstream::Env("DB".to_owned()));
        let plan = plan_links(&EnvLinks::All, [("web", &db)], env(text));
        assert_eq!(
            told(&plan),
            [format!("{listen} > {to} (link `db` of web)"), "localhost:1 > 10.0.0.9:1 (C)".to_owned()]
        );
    }
}

#[test]
fn an_alias_without_variables_is_an_error_even_of_kubernetes_it_may_be_asked_for() {
    let db = link("db", Listen::Loopback, Upstream::Env("my-db".to_owned()));
    let plan = plan_links(&EnvLinks::None, [("web", &db)], env("MY_DB_PORT_1_SCTP=sctp://10.0.0.1:1"));
    assert_eq!(
        errors(&plan),
        ["link `db` of web: no variable `MY_DB_PORT_…_TCP` or `MY_DB_PORT_…_UDP` is set for `env:MY_DB`"]
    );
    let kubernetes = "MY_DB_PORT_1_TCP=tcp://10.0.0.1:1 MY_DB_SERVICE_HOST=x MY_DB_SERVICE_PORT=1";
    let plan = plan_links(&EnvLinks::None, [("web", &db)], env(kubernetes));
    assert_eq!((told(&plan).len(), errors(&plan).len()), (1, 0));
}

#[test]
fn two_links_on_one_address_and_port_are_an_error_that_names_both() {
    let plan_of = |a: Listen, b: Listen| {
        let (a, b) = (link("a", a, host("x", 80)), link("b", b, host("y", 80)));
        errors(&plan_links(&EnvLinks::None, [("web", &a), ("job", &b)], []))
    };
    let error = |address: &str| vec![format!("link `a` of web and link `b` of job both listen on {address}")];
    assert_eq!(plan_of(Listen::Loopback, Listen::Loopback), error("127.0.0.1:80"));
    assert_eq!(plan_of(Listen::Loopback, at("[::1]:80")), error("[::1]:80"));
    assert_eq!(plan_of(at("0.0.0.0:80"), at("127.0.0.2:80")), error("0.0.0.0:80"));
    for (a, b) in [
        ("0.0.0.0:80", "[::]:80"),
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ] {
        assert_eq!(plan_of(at(a), at(b)), [""; 0], "{a} {b}");
    }
}

#[test]
fn there_is_a_most_for_variables() {
    let text: String = (1..=300).map(|port| format!("A_PORT_{port}_TCP=tcp://10.0.0.1:{port} ")).collect();
    let plan = automatic(&text);
    assert_eq!(plan.forwards.len(), MOST_AUTOMATIC);
    assert_eq!(plan.notices, [Notice::TooMany { left: 44 }]);
}
