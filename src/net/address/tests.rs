//! Each rule over networks of every kind, without one.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn on(interfaces: &[(&str, &str)]) -> Snapshot {
    let interfaces = interfaces.iter();
    Snapshot {
        interfaces: interfaces.map(|(n, a)| Interface { name: (*n).to_owned(), address: ip(a) }).collect(),
        hostname: "web-1".to_owned(),
        ..Snapshot::default()
    }
}

fn host() -> Snapshot {
    on(&[
        ("lo", "127.0.0.1"),
        ("lo", "::1"),
        ("eth0", "fe80::1"),
        ("eth0", "2001:db8::5"),
        ("eth0", "203.0.113.5"),
        ("eth1", "fd00::5"),
        ("eth1", "10.0.0.5"),
        ("eth2", "169.254.1.1"),
    ])
}

fn one(rule: AddressRule, snapshot: &Snapshot) -> Result<IpAddr, String> {
    choose(&[rule], snapshot).map(|c| c.address).map_err(|e| e.to_string())
}

fn cidr(network: &str, prefix: u8) -> AddressRule {
    AddressRule::Cidr { network: ip(network), prefix }
}

#[test]
fn auto_is_the_source_towards_the_registry() {
    let mut host = host();
    host.registry = Some("10.0.0.1:2379".parse().expect("an address"));
    host.towards_registry = Some(ip("10.0.0.5"));
    host.towards_anywhere = Some(ip("203.0.113.5"));
    assert_eq!(one(AddressRule::Auto, &host), Ok(ip("10.0.0.5")));
    host.towards_registry = None;
    assert!(one(AddressRule::Auto, &host).expect_err("no route").contains("no route to the registry"));
}

#[test]
fn auto_is_loopback_only_for_a_registry_on_loopback() {
    let mut host = host();
    host.registry = Some("127.0.0.1:2379".parse().expect("an address"));
    host.towards_registry = Some(ip("127.0.0.1"));
    assert_eq!(one(AddressRule::Auto, &host), Ok(ip("127.0.0.1")));
    host.registry = Some("10.0.0.1:2379".parse().expect("an address"));
    assert!(one(AddressRule::Auto, &host).expect_err("loopback").contains("can't reach"));
    host.towards_registry = Some(ip("169.254.1.1"));
    assert!(one(AddressRule::Auto, &host).is_err());
}

#[test]
fn auto_without_a_registry_to_connect_to_is_the_default_route() {
    let mut host = host();
    host.towards_anywhere = Some(ip("203.0.113.5"));
    assert_eq!(one(AddressRule::Auto, &host), Ok(ip("203.0.113.5")));
    host.towards_anywhere = None;
    assert!(one(AddressRule::Auto, &host).expect_err("several").contains("no default route"));
    let alone = on(&[("lo", "127.0.0.1"), ("eth0", "172.18.0.2"), ("eth0", "fe80::2")]);
    assert_eq!(one(AddressRule::Auto, &alone), Ok(ip("172.18.0.2")));
    assert!(one(AddressRule::Auto, &on(&[("lo", "127.0.0.1")])).is_err());
}

#[test]
fn public_and_private_by_kind_and_v4_first() {
    assert_eq!(one(AddressRule::Public, &host()), Ok(ip("203.0.113.5")));
    assert_eq!(one(AddressRule::Private, &host()), Ok(ip("10.0.0.5")));
    let v6 = on(&[("eth0", "fd00::5"), ("eth0", "2001:db8::5")]);
    assert_eq!(one(AddressRule::Public, &v6), Ok(ip("2001:db8::5")));
    assert_eq!(one(AddressRule::Private, &v6), Ok(ip("fd00::5")));
    let neither = on(&[("lo", "127.0.0.1"), ("eth0", "100.64.0.9"), ("eth1", "169.254.0.9")]);
    assert!(one(AddressRule::Public, &neither).is_err());
    assert!(one(AddressRule::Private, &neither).is_err());
}

/// Hosts with two networks: the second is the private one, whatever its numbers.
#[test]
fn private_is_the_second_interface_where_no_address_says_so() {
    let two = on(&[
        ("lo", "127.0.0.1"),
        ("eth0", "203.0.113.5"),
        ("eth0", "203.0.113.6"),
        ("eth1", "fe80::2"),
        ("eth1", "2001:db8::7"),
        ("eth1", "100.64.0.9"),
        ("eth2", "198.51.100.7"),
    ]);
    assert_eq!(one(AddressRule::Private, &two), Ok(ip("100.64.0.9")));
    // A private address says it by itself, on whichever interface.
    let first = on(&[("eth0", "10.0.0.5"), ("eth1", "203.0.113.5"), ("docker0", "172.17.0.1")]);
    assert_eq!(one(AddressRule::Private, &first), Ok(ip("10.0.0.5")));
    let alone = on(&[("lo", "127.0.0.1"), ("eth0", "203.0.113.5"), ("eth1", "169.254.0.9")]);
    assert!(one(AddressRule::Private, &alone).is_err());
}

#[test]
fn a_network_of_ipv6_alone_is_as_good() {
    let mut six = on(&[("lo", "::1"), ("eth0", "fe80::5"), ("eth0", "2001:db8::5"), ("eth1", "fd00::5")]);
    six.towards_anywhere = Some(ip("2001:db8::5"));
    for (rule, address) in [
        (AddressRule::Auto, "2001:db8::5"),
        (AddressRule::Public, "2001:db8::5"),
        (AddressRule::Private, "fd00::5"),
        (AddressRule::Container, "2001:db8::5"),
        (AddressRule::Interface("eth0".to_owned()), "2001:db8::5"),
        (cidr("2001:db8::", 32), "2001:db8::5"),
    ] {
        assert_eq!(one(rule.clone(), &six), Ok(ip(address)), "{}", shown(&rule));
    }
    six.hosts = "fe80::5 web-1\nfd00::5 web-1\n".to_owned();
    assert_eq!(one(AddressRule::Container, &six), Ok(ip("fd00::5")));
    six.registry = Some("[2001:db8::1]:2379".parse().expect("an address"));
    six.towards_registry = Some(ip("fd00::5"));
    assert_eq!(one(AddressRule::Auto, &six), Ok(ip("fd00::5")));
}

/// No rule but one that names it gives an address that other machines can't connect to.
#[test]
fn what_others_can_not_reach_comes_out_only_where_it_was_written_down() {
    for address in
        ["127.0.0.1", "127.9.9.9", "::1", "169.254.1.1", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
    {
        let mut bad = on(&[("eth0", address)]);
        bad.towards_anywhere = Some(ip(address));
        bad.towards_registry = Some(ip(address));
        bad.hosts = format!("{address} web-1\n");
        for registry in [None, Some("192.0.2.1:2379".parse().expect("an address"))] {
            bad.registry = registry;
            for rule in [AddressRule::Auto, AddressRule::Public, AddressRule::Private, AddressRule::Container]
            {
                let chosen = one(rule.clone(), &bad);
                assert!(chosen.is_err(), "`{}` gives {chosen:?}", shown(&rule));
            }
        }
        let nobodys = ip(address).is_unspecified() || ip(address).is_multicast();
        assert_eq!(one(AddressRule::Literal(ip(address)), &bad).is_err(), nobodys, "{address}");
    }
}

#[test]
fn rules_that_never_change_their_mind_need_no_look() {
    let env = AddressRule::Env { variable: "HOST_IP".to_owned(), address: ip("192.0.2.7") };
    assert!(are_fixed(&[env.clone(), AddressRule::Literal(ip("192.0.2.8"))]));
    assert!(!are_fixed(&[env, AddressRule::Auto]));
}

#[test]
fn container_is_what_the_hosts_file_says() {
    let mut host = host();
    host.towards_anywhere = Some(ip("203.0.113.5"));
    host.hosts =
        "127.0.0.1 localhost WEB-1\n# 10.9.9.9 web-1\nfd00::7 web-1\n172.17.0.2\tweb-1.lan web-1 # me\n"
            .to_owned();
    assert_eq!(one(AddressRule::Container, &host), Ok(ip("172.17.0.2")));
    host.hosts = "127.0.1.1 web-1\n172.17.0.2 web-11\n".to_owned();
    assert_eq!(one(AddressRule::Container, &host), Ok(ip("203.0.113.5")));
    host.towards_anywhere = None;
    assert!(one(AddressRule::Container, &host).expect_err("nothing").contains("`web-1`"));
}

#[test]
fn an_interface_by_name() {
    let named = |name: &str| one(AddressRule::Interface(name.to_owned()), &host());
    assert_eq!(named("eth1"), Ok(ip("10.0.0.5")));
    assert_eq!(named("lo"), Ok(ip("127.0.0.1")));
    assert!(named("eth2").expect_err("link-local").contains("link-local"));
    assert!(named("wlan0").expect_err("absent").contains("there are: lo, eth0, eth1, eth2"));
}

#[test]
fn networks_by_prefix() {
    assert_eq!(one(cidr("10.0.0.0", 8), &host()), Ok(ip("10.0.0.5")));
    assert_eq!(one(cidr("203.0.113.5", 32), &host()), Ok(ip("203.0.113.5")));
    assert_eq!(one(cidr("fd00::", 8), &host()), Ok(ip("fd00::5")));
    assert_eq!(one(cidr("0.0.0.0", 0), &host()), Ok(ip("203.0.113.5")));
    assert_eq!(one(cidr("::", 0), &host()), Ok(ip("2001:db8::5")));
    assert_eq!(one(cidr("127.0.0.0", 8), &host()), Ok(ip("127.0.0.1")));
    assert!(one(cidr("10.1.0.0", 16), &host()).is_err());
}

#[test]
fn what_is_written_is_taken() {
    assert_eq!(one(AddressRule::Literal(ip("127.0.0.1")), &host()), Ok(ip("127.0.0.1")));
    let env = AddressRule::Env { variable: "HOST_IP".to_owned(), address: ip("192.0.2.7") };
    assert_eq!(one(env, &host()), Ok(ip("192.0.2.7")));
    assert!(one(AddressRule::Literal(ip("0.0.0.0")), &host()).is_err());
}

#[test]
fn rules_go_in_order_and_the_error_names_each() {
    let rules = [cidr("192.168.0.0", 16), AddressRule::Private, AddressRule::Public];
    let chosen = choose(&rules, &host()).expect("the second gives one");
    assert_eq!(chosen, Chosen { address: ip("10.0.0.5"), rule: AddressRule::Private });
    let error = choose(&rules, &on(&[])).expect_err("there is nothing");
    assert_eq!(
        error.to_string(),
        "no address to announce: `cidr:192.168.0.0/16`: no interface has an address in it; `private`: no \
         interface has a private address; `public`: no interface has a public address"
    );
}

#[test]
fn this_machine_has_a_loopback_interface_and_a_way_to_it() {
    let here = gather(Some("127.0.0.1:2379".parse().expect("an address")));
    assert!(here.interfaces.iter().any(|i| i.address == ip("127.0.0.1")), "{here:?}");
    assert_eq!(here.towards_registry, Some(ip("127.0.0.1")));
    assert!(!here.hostname.is_empty());
}
