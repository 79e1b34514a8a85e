//! The variable scan: what Docker wrote over the years, what others write, and arbitrary variables.

use proptest::prelude::*;

use super::*;

fn variables(text: &str) -> Vec<(OsString, OsString)> {
    let lines = text.split_whitespace();
    lines.map(|line| line.split_once('=').expect("NAME=value")).map(|(n, v)| (n.into(), v.into())).collect()
}

fn tcp(number: u16, to: &str) -> EnvPort {
    EnvPort { protocol: Protocol::Tcp, number, to: to.parse().expect("an address") }
}

fn only(text: &str) -> EnvLink {
    let mut links = scan(variables(text));
    assert_eq!(links.len(), 1, "{links:?}");
    links.remove(0)
}

#[test]
fn what_docker_sets_for_postgres() {
    let link = only(
        "DB_PORT=tcp://172.17.0.5:5432 DB_PORT_5432_TCP=tcp://172.17.0.5:5432 DB_PORT_5432_TCP_ADDR=172.17.0.5
         DB_PORT_5432_TCP_PORT=5432 DB_PORT_5432_TCP_PROTO=tcp DB_NAME=/web/db DB_ENV_POSTGRES_PASSWORD=x
         HOME=/root PATH=/bin PORT=80",
    );
    assert_eq!(link.alias, "DB");
    assert_eq!(link.name.as_deref(), Some("db"));
    assert_eq!(link.origin, Origin::Docker);
    assert_eq!(link.ports, [tcp(5432, "172.17.0.5:5432")]);
    assert_eq!(link.problems, []);
}

#[test]
fn an_alias_may_look_like_anything() {
    let link = only("MY_DB_2_PORT_5432_TCP=tcp://10.0.0.1:5432 MY_DB_2_NAME=/web/my-db-2");
    assert_eq!((link.alias.as_str(), link.name.as_deref()), ("MY_DB_2", Some("my-db-2")));
    let link = only("A_PORT_1_TCP_PORT_2_TCP=tcp://10.0.0.1:2");
    assert_eq!((link.alias.as_str(), link.ports[0].number), ("A_PORT_1_TCP", 2));
    let link = only("_PORT_1_TCP=tcp://10.0.0.1:1 X.Y_PORT_2_TCP=tcp://10.0.0.1:2");
    assert_eq!(link.alias, "X.Y");
}

#[test]
fn tcp_goes_first_then_the_number() {
    let link = only(
        "A_PORT_53_UDP=udp://10.0.0.1:53 A_PORT_9_TCP=tcp://10.0.0.1:9 A_PORT_10_TCP=tcp://10.0.0.1:10
         A_PORT_5_SCTP=sctp://10.0.0.1:5",
    );
    let order: Vec<_> = link.ports.iter().map(|port| (port.protocol, port.number)).collect();
    assert_eq!(order, [(Protocol::Tcp, 9), (Protocol::Tcp, 10), (Protocol::Udp, 53), (Protocol::Sctp, 5)]);
}

#[test]
fn a_range_is_all_of_its_ports_with_or_without_their_own_variables() {
    let ends = "F_PORT_20_TCP_START=tcp://10.0.0.1:20 F_PORT_20_TCP_PORT_START=20 F_PORT_20_TCP_ADDR=10.0.0.1
                F_PORT_20_TCP_END=tcp://10.0.0.1:22 F_PORT_20_TCP_PORT_END=22 ";
    let each =
        "F_PORT_20_TCP=tcp://10.0.0.1:20 F_PORT_21_TCP=tcp://10.0.0.1:21 F_PORT_22_TCP=tcp://10.0.0.1:22";
    let ports = [tcp(20, "10.0.0.1:20"), tcp(21, "10.0.0.1:21"), tcp(22, "10.0.0.1:22")];
    assert_eq!(only(ends).ports, ports);
    assert_eq!(only(&format!("{ends}{each}")).ports, ports);
    assert_eq!(only(&format!("{ends}{each}")).problems, []);
}

#[test]
fn a_range_is_bounded_and_has_two_ends() {
    let problem = |text: &str| {
        let link = only(text);
        assert_eq!(link.ports, []);
        link.problems[0].to_string()
    };
    assert_eq!(
        problem("F_PORT_1_TCP_START=tcp://10.0.0.1:1 F_PORT_1_TCP_END=tcp://10.0.0.1:65535"),
        "`F_PORT_1_TCP_START` is passed over: a range of 65535 ports is longer than 256"
    );
    assert_eq!(
        problem("F_PORT_20_TCP_START=tcp://10.0.0.1:20"),
        "`F_PORT_20_TCP_START` is passed over: the range has no `F_PORT_20_TCP_END`"
    );
    assert_eq!(
        problem("F_PORT_20_TCP_END=tcp://10.0.0.1:20"),
        "`F_PORT_20_TCP_END` is passed over: the range has no `F_PORT_20_TCP_START`"
    );
    for end in ["tcp://10.0.0.1:19", "tcp://10.0.0.2:22"] {
        let range = format!("F_PORT_20_TCP_START=tcp://10.0.0.1:20 F_PORT_20_TCP_END={end}");
        assert_eq!(
            problem(&range),
            "`F_PORT_20_TCP_START` is passed over: the range does not end where it could"
        );
    }
    assert_eq!(
        problem("F_PORT_65535_TCP_START=tcp://10.0.0.1:1 F_PORT_65535_TCP_END=tcp://10.0.0.1:9"),
        "`F_PORT_65535_TCP_START` is passed over: the range does not end where it could"
    );
}

#[test]
fn ipv6_with_and_without_brackets() {
    assert_eq!(only("A_PORT_80_TCP=tcp://[fd00::1]:80").ports, [tcp(80, "[fd00::1]:80")]);
    assert_eq!(only("A_PORT_80_TCP=tcp://fd00::1:80").ports, [tcp(80, "[fd00::1]:80")]);
}

#[test]
fn a_value_that_is_no_link_is_passed_over_and_never_shown() {
    for value in [
        "yes",
        "",
        "tcp://",
        "tcp://10.0.0.1",
        "tcp://10.0.0.1:",
        "tcp://10.0.0.1:0",
        "tcp://10.0.0.1:65536",
        "tcp://10.0.0.1:+80",
        "tcp://10.0.0.1:80/",
        "udp://10.0.0.1:80",
        "tcp://db:80",
        "tcp://[10.0.0.1]:80",
        "tcp://10.0.0.300:80",
        "10.0.0.1:80",
    ] {
        let link = only(&format!("A_PORT_80_TCP={value} A_PORT_81_TCP=tcp://10.0.0.1:81"));
        assert_eq!(link.ports, [tcp(81, "10.0.0.1:81")], "{value}");
        assert_eq!(
            link.problems[0].to_string(),
            "`A_PORT_80_TCP` is passed over: its value is not `tcp://ADDRESS:PORT`"
        );
    }
    let link = only("A_PORT_65536_TCP=tcp://10.0.0.1:1 A_PORT_0_TCP=tcp://10.0.0.1:1");
    assert_eq!(link.ports, []);
    assert_eq!(
        link.problems[1].to_string(),
        "`A_PORT_65536_TCP` is passed over: `65536` is not a port from 1 to 65535"
    );
}

#[test]
fn what_points_at_this_end_is_passed_over() {
    let link = only("A_PORT_80_TCP=tcp://127.0.0.1:80 A_PORT_81_TCP=tcp://127.0.0.1:8081");
    assert_eq!(link.ports, [tcp(81, "127.0.0.1:8081")]);
    assert_eq!(link.problems[0].to_string(), "`A_PORT_80_TCP` is passed over: it points at this end");
}

#[test]
fn kubernetes_variables_are_told_apart() {
    let service = "R_SERVICE_HOST=10.0.0.1 R_SERVICE_PORT=6379 R_PORT=tcp://10.0.0.1:6379
                   R_PORT_6379_TCP=tcp://10.0.0.1:6379 R_PORT_6379_TCP_PROTO=tcp";
    assert_eq!(only(service).origin, Origin::Kubernetes);
    assert_eq!(only("R_SERVICE_HOST=x R_PORT_6379_TCP=tcp://10.0.0.1:6379").origin, Origin::Docker);
}

#[test]
fn patterns() {
    for (pattern, alias) in [
        ("db", "DB"),
        ("*", "DB"),
        ("*", ""),
        ("d?", "DB"),
        ("my-db*", "MY_DB_2"),
        ("*_2", "MY_DB_2"),
        ("*D*_?", "MY_DB_2"),
        ("**", "X"),
        ("a*a", "AABA"),
    ] {
        assert!(matches(pattern, alias), "{pattern} {alias}");
    }
    for (pattern, alias) in
        [("db", "DB2"), ("d?", "D"), ("", "X"), ("*a", "AAB"), ("b*", "AB"), ("a*b*c", "ACB"), ("?", "")]
    {
        assert!(!matches(pattern, alias), "{pattern} {alias}");
    }
}

#[test]
fn what_belongs_to_a_link() {
    for name in ["DB_NAME", "DB_PORT", "DB_PORT_1_TCP", "DB_PORT_1_TCP_PORT", "DB_PORT_1_UDP_PORT_START"] {
        assert_eq!(belongs(name, "DB"), Belongs::Yes, "{name}");
    }
    assert_eq!(belongs("DB_ENV_PASSWORD", "DB"), Belongs::Secretly);
    for name in ["DB", "DB_1_NAME", "DB_1_PORT_1_TCP", "DB_HOST", "X_DB_NAME", "DB_PORT_X"] {
        assert_eq!(belongs(name, "DB"), Belongs::No, "{name}");
    }
}

/// A container that another one is linked to.
#[derive(Debug, Clone)]
struct Peer {
    name: String,
    address: IpAddr,
    ports: BTreeMap<(Protocol, u16), ()>,
}

/// Which variables Docker of which time sets for the consecutive ports of a peer.
#[derive(Debug, Clone, Copy)]
enum Ranges {
    /// Before 2015: none.
    None,
    /// Early 2015: instead of a variable for each port.
    Instead,
    /// Since then.
    Besides,
}

/// What Docker sets in the client for a link to `peer`.
fn docker_sets(peer: &Peer, ranges: Ranges) -> Vec<(OsString, OsString)> {
    let alias = alias_of(&peer.name);
    let mut set: Vec<(String, String)> = vec![(format!("{alias}_NAME"), format!("/web/{}", peer.name))];
    let ports: Vec<(Protocol, u16)> = peer.ports.keys().copied().collect();
    let value = |(protocol, port): (Protocol, u16)| format!("{protocol}://{}:{port}", peer.address);
    if let Some(&lowest) = ports.first() {
        set.push((format!("{alias}_PORT"), value(lowest)));
    }
    for run in ports.chunk_by(|a, b| a.0 == b.0 && a.1.checked_add(1) == Some(b.1)) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let prefix = format!("{alias}_PORT_{}_{}", first.1, first.0.to_string().to_uppercase());
        if run.len() > 1 && !matches!(ranges, Ranges::None) {
            set.push((format!("{prefix}_START"), value(first)));
            set.push((format!("{prefix}_PORT_START"), first.1.to_string()));
            set.push((format!("{prefix}_END"), value(last)));
            set.push((format!("{prefix}_PORT_END"), last.1.to_string()));
        }
        if run.len() > 1 && matches!(ranges, Ranges::Instead) {
            continue;
        }
        for &port in run {
            let prefix = format!("{alias}_PORT_{}_{}", port.1, port.0.to_string().to_uppercase());
            set.push((prefix.clone(), value(port)));
            set.push((format!("{prefix}_ADDR"), peer.address.to_string()));
            set.push((format!("{prefix}_PORT"), port.1.to_string()));
            set.push((format!("{prefix}_PROTO"), port.0.to_string()));
        }
    }
    set.push((format!("{alias}_ENV_PASSWORD"), "secret".to_owned()));
    set.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

prop_compose! {
    fn peer()(
        name in "[a-z0-9][a-z0-9_.-]{0,12}",
        address in prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ],
        starts in prop::collection::vec((protocol(), 1u16..=65535, 1u16..6), 1..5),
    ) -> Peer {
        let runs = starts.into_iter().flat_map(|(protocol, first, length)| {
            (0..length).filter_map(move |more| Some(((protocol, first.checked_add(more)?), ())))
        });
        Peer { name, address, ports: runs.collect() }
    }
}

/// A variable's name or value that is nearly one of Docker's.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("_PORT"),
        Just("_TCP"),
        Just("_UDP"),
        Just("_START"),
        Just("_END"),
        Just("_ADDR"),
        Just("_1"),
        Just("_65535"),
        Just("_99999"),
        Just("A"),
        Just("_NAME"),
        Just("tcp://"),
        Just("10.0.0.1"),
        Just(":"),
        Just("1"),
        Just("65535"),
        Just("["),
        Just("]"),
        Just("::"),
        Just("é"),
        Just("_"),
        Just("/"),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn bytes(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

proptest! {
    #[test]
    fn any_bytes_are_scanned(env: Vec<(Vec<u8>, Vec<u8>)>) {
        scan(env.into_iter().map(|(name, value)| (bytes(name), bytes(value))));
    }

    #[test]
    fn anything_near_a_link_is_scanned(env in prop::collection::vec((nearly(), nearly()), 0..20)) {
        for link in scan(env.into_iter().map(|(name, value)| (name.into(), value.into()))) {
            prop_assert!(!link.alias.is_empty());
            prop_assert!(link.ports.iter().all(|port| port.number > 0 && port.to.port() > 0));
        }
    }

    #[test]
    fn what_docker_sets_is_found_again(
        peers in prop::collection::vec(peer(), 1..4),
        ranges in prop_oneof![Just(Ranges::None), Just(Ranges::Instead), Just(Ranges::Besides)],
    ) {
        let peers: BTreeMap<String, Peer> = peers.into_iter().map(|peer| (alias_of(&peer.name), peer)).collect();
        let env: Vec<_> = peers.values().flat_map(|peer| docker_sets(peer, ranges)).collect();
        let found = scan(env);
        prop_assert_eq!(found.len(), peers.len());
        for (link, (alias, peer)) in found.iter().zip(&peers) {
            let ports: Vec<_> = link.ports.iter().map(|port| (port.protocol, port.number)).collect();
            prop_assert_eq!(&link.alias, alias);
            prop_assert_eq!(link.name.as_ref(), Some(&peer.name));
            prop_assert_eq!(ports, peer.ports.keys().copied().collect::<Vec<_>>());
            for port in &link.ports {
                prop_assert_eq!(port.to, SocketAddr::new(peer.address, port.number));
            }
            prop_assert_eq!(&link.problems, &[]);
        }
    }

    #[test]
    fn patterns_agree_with_the_naive_definition(pattern in "[ab*?]{0,8}", alias in "[ab]{0,8}") {
        fn naive(pattern: &[u8], alias: &[u8]) -> bool {
            match (pattern.first(), alias.first()) {
                (None, None) => true,
                (Some(b'*'), _) => {
                    naive(&pattern[1..], alias) || (!alias.is_empty() && naive(pattern, &alias[1..]))
                }
                (Some(b'?'), Some(_)) => naive(&pattern[1..], &alias[1..]),
                (Some(p), Some(a)) => p == a && naive(&pattern[1..], &alias[1..]),
                (Some(_), None) | (None, Some(_)) => false,
            }
        }
        prop_assert_eq!(matches(&pattern, &alias), naive(pattern.as_bytes(), alias.as_bytes()));
    }
}
