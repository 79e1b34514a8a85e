//! A cluster that wants certificates, users and passwords. A token is in the memory of each member: one that was
//! restarted takes none for good that was made before.

use std::fs;
use std::sync::Arc;

use ensign::config::{self, Conflict, Identity, Login, RegistryUrl};
use ensign::net::resolve::Resolver;
use ensign::registry::{Registry, Renewal};

use super::fleet::TTL;
use crate::support::certificates::{Authority, Pair, Validity};
use crate::support::cluster::{Cluster, Member, Tls};
use crate::support::etcd::{self, USER};
use crate::support::history::{History, Presence};
use crate::support::namespace::ran_inside;
use crate::support::place::{LONG, claim, hosts};
use crate::support::service::{ANNOUNCE, Folder, KEY, command};
use crate::support::wait;
use crate::support::watch::Api;

const PASSWORD: &str = "geheim";

/// How often somebody has logged in there since it was started.
fn logins(cluster: &Cluster, member: Member) -> u64 {
    let (_, metrics) = wait::until("metrics", || cluster.ask(member, "GET", "/metrics", ""));
    etcd::logins(&metrics)
}

#[test]
fn a_member_that_forgot_our_token_is_logged_in_to_once() {
    if ran_inside(a_member_that_forgot_our_token_is_logged_in_to_once) {
        return;
    }
    let authority = Authority::new();
    let server = authority.issue("etcd", "IP:10.77.0.2,IP:10.77.0.3,IP:10.77.0.4", Validity::Now);
    let tls = Tls { server, clients_ca: authority.ca() };
    let mut cluster = Cluster::start_secure(1, tls, PASSWORD);
    let history = History::follow(&cluster.addresses(), cluster.headers());
    let target = cluster.leader().others()[0];
    let [second, third] = target.others();
    let addresses = [target, second, third].map(|member| cluster.secure_address(member));

    // A real ensign, which lives through the restart of each member, one after the other.
    let folder = Folder::new();
    let Pair { cert, key } = authority.issue("client", "DNS:client", Validity::Now);
    for (name, from) in [("ca.pem", &authority.ca()), ("web.pem", &cert), ("web.key", &key)] {
        fs::copy(from, folder.path(name)).expect("copied");
    }
    folder.write("password", PASSWORD);
    let url = addresses.map(|address| address.to_string()).join(",");
    let text = command(&["hold"])
        + "stop = { drain = \"0s\" }\n"
        + &ANNOUNCE.replace("\"2s\"", &format!("\"{}s\"", TTL.as_secs()))
        + &format!(
            "[registry]\nurl = \"etcds://{url}\"\nca = \"ca.pem\"\ncert = \"web.pem\"\nkey = \"web.key\"\n\
             user = \"{USER}\"\npassword_file = \"password\"\n"
        );
    folder.write("web.toml", &text);
    let service = folder.start_in(cluster.client(0).sandbox());
    history.until(Api::V3, KEY, Presence::There);

    // And a client whose every request is known.
    let tls = config::Tls {
        ca: authority.ca(),
        identity: Some(Identity { cert: folder.path("web.pem"), key: folder.path("web.key") }),
    };
    let login = Login { user: USER.to_owned(), password_file: folder.path("password") };
    let url = RegistryUrl::Etcd3(hosts(&addresses));
    let config =
        config::Registry { url, prefix: "/skydns/other".to_owned(), tls: Some(tls), login: Some(login) };
    let registry = Registry::new(&config, Arc::new(Resolver::system())).expect("a registry");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let claim = claim(LONG);
    runtime.block_on(registry.register(&claim, Conflict::Take)).expect("registered");
    assert!(logins(&cluster, target) >= 1);

    for member in [target, second, third] {
        cluster.terminate(member);
        cluster.restart(member);
        cluster.until_healthy();
        let before = Member::ALL.map(|member| logins(&cluster, member));
        for _ in 0..3 {
            let renewed = runtime.block_on(registry.renew(&claim)).expect("renewed");
            assert_eq!(renewed, Renewal::Kept { ttl: LONG });
        }
        let after = Member::ALL.map(|member| logins(&cluster, member));
        // Ensign itself may have logged in meanwhile, once.
        let made = after.iter().sum::<u64>() - before.iter().sum::<u64>();
        println!("{member:?} restarted: {made} logins, {before:?} to {after:?}");
        assert!(made <= 2, "{before:?} {after:?}");
        assert!(member != target || made >= 1, "the member that we use was restarted");
    }
    wait::be_late(TTL / 2);
    let changes = history.of(Api::V3, KEY);
    assert_eq!(changes.len(), 1, "{changes:?} {}", service.log());
    assert_eq!(service.logged("registry out of reach"), 0, "{}", service.log());
    assert_eq!(service.stop().code, 143);
}
