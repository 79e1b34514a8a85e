//! What a heartbeat costs: requests, connections, wake-ups and memory, in a network of our own where the kernel counts.

use std::fs;
use std::time::Duration;

use ensign::config::Conflict::Take;
use ensign::registry::Renewal;

use crate::support::etcd::Etcd;
use crate::support::namespace::{Place, ran_inside};
use crate::support::place::{self, LONG, claim};
use crate::support::process;
use crate::support::service::{ANNOUNCE, Folder, command, registry};
use crate::support::wait;
use crate::support::watch::Api;

/// Connections that anybody in this network has opened.
fn opened() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").expect("the kernel counts");
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|name| name == "ActiveOpens").expect("a known name");
    values.split(' ').nth(at).expect("as many values").parse().expect("a number")
}

/// What etcd itself has counted; asking takes one connection.
fn counted(etcd: &Etcd, metric: &str) -> u64 {
    let (_, text) = etcd.request("GET", "/metrics", "");
    let values =
        text.lines().filter_map(|line| line.strip_prefix(metric)?.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum::<f64>() as u64
}

fn switches(pid: i32) -> u64 {
    process::status(pid, "voluntary_ctxt_switches").expect("it runs").parse().expect("a number")
}

fn memory(pid: i32) -> u64 {
    let text = process::status(pid, "VmRSS").expect("it runs");
    text.trim_end_matches(" kB").parse().expect("a number")
}

/// So many services, each announced with a TTL of 2 s, for ten heartbeats and some.
struct Idle {
    renewed: u64,
    opened: u64,
    switches: u64,
    threads: String,
}

fn idle(etcd: &Etcd, services: usize) -> Idle {
    let folder = Folder::new();
    for number in 0..services {
        let main = if number == 0 { "main = true\n" } else { "" };
        let announce = ANNOUNCE.replace("web.s.prod", &format!("web{number}.s.prod"));
        let stop = "stop = { drain = \"0s\" }\n";
        folder.write(&format!("web{number}.toml"), &format!("{}{main}{stop}{announce}", command(&["hold"])));
    }
    folder.write("ensign.toml", &registry(Api::V3, etcd.address()));
    let running = folder.start(Place::Guest);
    for number in 0..services {
        running.until_logged(&format!("announced: web{number}"));
    }
    let pid = running.running.init();
    // Until the heartbeats have found each other.
    wait::be_late(Duration::from_secs(2));
    const RENEWED: &str = "etcd_debugging_lease_renewed_total";
    let before = (counted(etcd, RENEWED), opened(), switches(pid));
    wait::be_late(Duration::from_secs(8));
    let switches = switches(pid) - before.2;
    let opened = opened() - before.1;
    let renewed = counted(etcd, RENEWED) - before.0;
    let threads = process::status(pid, "Threads").expect("it runs");
    running.stop();
    Idle { renewed, opened, switches, threads }
}

#[test]
fn services_share_one_wake_up_and_one_connection() {
    if ran_inside(services_share_one_wake_up_and_one_connection) {
        return;
    }
    let etcd = Etcd::start();
    let one = idle(&etcd, 1);
    let four = idle(&etcd, 4);
    for (services, idle) in [(1, &one), (4, &four)] {
        let beats = idle.renewed / services;
        println!(
            "{services} services: {beats} heartbeats, {} leases renewed, {} connections opened, {} wake-ups",
            idle.renewed, idle.opened, idle.switches
        );
        assert!((11..=15).contains(&beats), "every 0.6 to 0.67 s: {beats}");
        assert_eq!(idle.opened, 0, "a heartbeat opens no connection");
        assert_eq!(idle.threads, "1");
    }
    // Of one: its time has come, and two answers. On its own each of the four would take as many.
    assert!(one.switches <= 7 * one.renewed, "{}", one.switches);
    assert!(four.switches <= 3 * four.renewed, "{}", four.switches);
}

#[test]
fn thousands_of_heartbeats_take_no_more_memory_than_a_hundred() {
    if ran_inside(thousands_of_heartbeats_take_no_more_memory_than_a_hundred) {
        return;
    }
    let own = i32::try_from(std::process::id()).expect("a pid");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for place in [place::Place::v3(), place::Place::v2()] {
        runtime.block_on(async {
            let registry = place.registry();
            let claim = claim(LONG);
            registry.register(&claim, Take).await.expect("registered");
            let (mut first, before) = (0, opened());
            for beat in 0..4000 {
                assert_eq!(registry.renew(&claim).await.expect("renewed"), Renewal::Kept { ttl: LONG });
                if beat == 500 {
                    first = memory(own);
                }
            }
            let grown = memory(own).saturating_sub(first);
            println!("after 4000 heartbeats {grown} kB more than after 500");
            // What a leak of 75 bytes a heartbeat would come to; pages of our own code come and go with less.
            assert!(grown < 256, "{grown} kB more");
            assert_eq!(opened() - before, 0, "one connection for all");
            registry.withdraw(&claim).await.expect("withdrawn");
        });
    }
}
