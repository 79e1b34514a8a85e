//! The address in the record, in networks of our own: which one it is where there are several, and that it is still the
//! right one after it has changed.

use std::process::Command;

use super::TTL;
use crate::support::etcd::Etcd;
use crate::support::lan::Lan;
use crate::support::namespace::{self, Sandbox, ran_inside};
use crate::support::place::{KEY, Place};
use crate::support::service::{ANNOUNCE, Folder, Service, command, registry};
use crate::support::skip::{self, Need};
use crate::support::watch::{Api, Watch};
use crate::support::{ensign, wait};

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().expect("ip is there");
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An interface that leads nowhere, with these addresses.
fn interface(name: &str, addresses: &[&str]) {
    ip(&format!("link add {name} type veth peer name {name}-end"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {address} dev {name}{nodad}"));
    }
    ip(&format!("link set {name} up"));
    ip(&format!("link set {name}-end up"));
}

fn announcing(place: &Place, address: &str) -> Service {
    let announce = ANNOUNCE.replace("\"192.0.2.7\"", address);
    let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
    Folder::with(&format!("{text}{announce}{}", place.config())).start(namespace::Place::Guest)
}

fn until_at(place: &Place, address: &str) {
    let host = format!(r#""host":"{address}""#);
    wait::until_true(&format!("the record to be at {address}"), || {
        place.read(KEY).is_some_and(|value| value.contains(&host))
    });
}

fn follows_its_interface(place: &Place, api: Option<Api>, rule: &str) {
    interface("eth0", &["10.1.0.5/24"]);
    let watch = api.map(|api| Watch::open(place.etcd(), api));
    let web = announcing(place, rule);
    until_at(place, "10.1.0.5");
    let hosts = ["10.1.0.6", "10.1.0.7", "10.1.0.5"];
    for (before, now) in ["10.1.0.5", "10.1.0.6", "10.1.0.7"].iter().zip(hosts) {
        // As a lease of DHCP that ends: the old one goes first.
        ip(&format!("addr del {before}/24 dev eth0"));
        ip(&format!("addr add {now}/24 dev eth0"));
        until_at(place, now);
        web.until_logged(&format!("announced at another address: web.s.prod.example.com at {now}:8087"));
        // And it stays.
        wait::all_through(TTL * 3 / 2, || assert!(place.read(KEY).is_some_and(|v| v.contains(now))));
    }
    if let Some(watch) = &watch {
        let seen: Vec<_> = watch.changes().into_iter().map(|change| change.value).collect();
        let in_place = seen.len() == 4 && seen.iter().all(Option::is_some);
        assert!(in_place, "a moment without it: {seen:?}");
    }

    ip("addr flush dev eth0");
    wait::until_true("the record to be withdrawn", || place.read(KEY).is_none());
    web.until_logged("not announced as long as there is no address for it: no address to announce: `");
    wait::all_through(TTL, || assert_eq!(place.read(KEY), None));
    assert_eq!(web.logged("not announced as long as"), 1, "{}", web.log());
    ip("addr add 10.1.0.8/24 dev eth0");
    until_at(place, "10.1.0.8");
    assert_eq!(web.logged("out of reach"), 0, "{}", web.log());
    web.stop();
    assert_eq!(place.read(KEY), None);
}

#[test]
fn a_record_follows_its_interface_v3() {
    if !ran_inside(a_record_follows_its_interface_v3) {
        follows_its_interface(&Place::v3(), Some(Api::V3), r#""private""#);
    }
}

#[test]
fn a_record_follows_its_interface_v2() {
    if !ran_inside(a_record_follows_its_interface_v2) {
        follows_its_interface(&Place::v2(), Some(Api::V2), r#""interface:eth0""#);
    }
}

#[test]
fn a_record_follows_its_interface_dir() {
    if !ran_inside(a_record_follows_its_interface_dir) {
        follows_its_interface(&Place::dir(), None, r#"["public", "cidr:10.1.0.0/16"]"#);
    }
}

/// The way to the registry changes under the connection that is kept to it.
#[test]
fn auto_follows_the_way_to_the_registry() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let lan = Lan::of(1);
    let etcd = Etcd::start_on(&lan.switch);
    let announce = ANNOUNCE.replace("192.0.2.7", "auto").replace("ttl = \"2s\"", "ttl = \"6s\"");
    let text = command(&["hold"]) + "stop = { drain = \"0s\" }\n";
    let folder = Folder::with(&format!("{text}{announce}{}", registry(Api::V3, etcd.address())));
    let host = &lan.hosts[0];
    let web = folder.start_in(host.sandbox());
    let listed = || {
        let registry = format!("etcd://{}", etcd.address());
        let told =
            lan.switch.command("env").arg(ensign()).args(["ls", "--json", "--registry", &registry]).output();
        String::from_utf8_lossy(&told.expect("ensign runs").stdout).into_owned()
    };
    let until = |address: &str| {
        wait::until_true(&format!("the record to be at {address}"), || listed().contains(address));
    };
    until(&host.address.to_string());
    let ip = |args: &str| {
        let done = host.command("ip").args(args.split(' ')).status().expect("ip is there");
        assert!(done.success(), "{args}");
    };
    ip(&format!("addr del {}/24 dev eth0", host.address));
    ip("addr add 10.77.0.42/24 dev eth0");
    until("10.77.0.42");
    web.until_logged("announced at another address");
    assert_eq!(listed().lines().count(), 1);
    web.stop();
    assert_eq!(listed(), "");
}

/// What `ensign ls` tells of a folder, as `name address`.
fn listed(place: &Place) -> Vec<String> {
    let Place::Dir(dir) = place else { panic!("a folder is wanted") };
    let registry = format!("dir:{}", dir.path().join("registry").display());
    let told = Command::new(ensign()).args(["ls", "--json", "--registry", &registry]).output();
    let text = String::from_utf8(told.expect("ensign runs").stdout).expect("text");
    let line = |line: &str| {
        let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let name = told["name"].as_str().expect("a name").split('.').next().expect("a label");
        format!("{name} {}", told["host"].as_str().or(told["address"].as_str()).expect("an address"))
    };
    text.lines().map(line).collect()
}

/// A host of several networks; the default route leads through the first.
#[test]
fn each_rule_finds_its_address_among_several_interfaces() {
    if ran_inside(each_rule_finds_its_address_among_several_interfaces) {
        return;
    }
    interface("eth0", &["203.0.113.5/24", "2001:db8:7::5/64"]);
    interface("eth1", &["10.0.0.5/24", "fd00:7::5/64"]);
    interface("eth2", &["169.254.7.7/16"]);
    ip("route add default dev eth0");
    let place = Place::dir();
    let hosts = tempfile::NamedTempFile::new().expect("a temporary file");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a hostname");
    std::fs::write(hosts.path(), format!("127.0.0.1 localhost\n172.17.0.2 {name}")).expect("written");
    // In the mounts of this test only.
    let mounted = Command::new("mount").arg("--bind").arg(hosts.path()).arg("/etc/hosts").status();
    assert!(mounted.expect("mount is there").success());

    let rules = [
        ("auto", r#""auto""#),
        ("public", r#""public""#),
        ("private", r#""private""#),
        ("container", r#""container""#),
        ("interface", r#""interface:eth1""#),
        ("six", r#""cidr:fd00::/8""#),
        ("env", r#""env:HOST_IP""#),
        ("list", r#"["interface:eth9", "cidr:192.168.0.0/16", "private"]"#),
        ("literal", r#""127.0.0.1""#),
    ];
    let announce = rules.map(|(name, rule)| {
        ANNOUNCE.replace("\"192.0.2.7\"", rule).replace("web.s.prod", &format!("{name}.s.prod"))
    });
    let text = command(&["hold"]) + &announce.concat() + &place.config();
    let sandbox = Sandbox::new(namespace::Place::Guest).env("HOST_IP", "198.51.100.9");
    let web = Folder::with(&text).start_in(sandbox);
    web.until_logged("announced: auto");
    let expected = [
        "auto 203.0.113.5",
        "container 172.17.0.2",
        "env 198.51.100.9",
        "interface 10.0.0.5",
        "list 10.0.0.5",
        "literal 127.0.0.1",
        "private 10.0.0.5",
        "public 203.0.113.5",
        "six fd00:7::5",
    ];
    assert_eq!(listed(&place), expected);
}

/// Loopback and link-local addresses are there, and nobody wrote them down.
#[test]
fn what_others_can_not_reach_is_never_announced() {
    if ran_inside(what_others_can_not_reach_is_never_announced) {
        return;
    }
    interface("eth0", &["169.254.7.7/16"]);
    for rule in ["auto", "public", "private", "container", "interface:eth0", "cidr:10.0.0.0/8"] {
        let place = Place::dir();
        let web = announcing(&place, &format!("{rule:?}"));
        web.until_logged("not announced as long as there is no address for it");
        assert_eq!(listed(&place), [""; 0], "{rule}");
        assert_eq!(web.stop().code, 143);
    }
}
