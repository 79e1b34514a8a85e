//! Ten thousand connections to two servers that go and come back in turn: the link finds the other one, and no client
//! hears of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::etcd::{Data, Etcd};
use crate::support::lane::{self, LINK, Lane, to};
use crate::support::load::{Exchange, Load, failed, slowest};
use crate::support::namespace::ran_inside;
use crate::support::server::{Rule, Server, forget_what_has_ended};
use crate::support::service::registry;
use crate::support::wait;
use crate::support::watch::Api;

const CONNECTIONS: usize = 10_000;
const CLIENTS: usize = 8;

/// Lets a fault come over each of the servers in turn, again and again, until there were enough connections. `fault` ends with the
/// server as it was before. Gives all connections, and how many faults there were.
fn in_turn(servers: &mut [Server; 2], mut fault: impl FnMut(usize, &mut Server, &Load)) -> Vec<Exchange> {
    let load = Load::start(LINK, CLIENTS);
    servers.iter().for_each(|server| load.until_at(server.name()));
    let mut turns = 0;
    while load.done() < CONNECTIONS || turns < 6 {
        let server = &mut servers[turns % 2];
        fault(turns, server, &load);
        load.until_at(server.name());
        turns += 1;
    }
    let all = load.end();
    println!(
        "{} connections, {} faults, {} failed, the slowest took {:?}",
        all.len(),
        turns,
        failed(&all).len(),
        slowest(&all)
    );
    all
}

fn servers() -> ([Server; 2], String) {
    forget_what_has_ended();
    let servers = [Server::start(1), Server::start(2)];
    let link = to(&servers.each_ref().map(|server| server.address), "round-robin");
    (servers, link)
}

#[test]
fn none_fails_while_two_servers_are_restarted_in_turn() {
    if ran_inside(none_fails_while_two_servers_are_restarted_in_turn) {
        return;
    }
    let (mut servers, link) = servers();
    let _lane = Lane::start(&link, "");
    let all = in_turn(&mut servers, |_, server, load| {
        server.end_in_order();
        load.go_on(400);
        server.start_again();
    });
    assert_eq!(failed(&all).len(), 0, "{:?}", failed(&all));
}

#[test]
fn none_fails_while_packets_to_one_of_two_servers_are_dropped() {
    if ran_inside(none_fails_while_packets_to_one_of_two_servers_are_dropped) {
        return;
    }
    let (mut servers, link) = servers();
    let _lane = Lane::start(&link, "");
    let all = in_turn(&mut servers, |_, server, load| {
        let hole = Rule::black_hole(server.address);
        load.go_on(1000);
        drop(hole);
        // Who began while it was there finds the other server, and that is not to be the next in a hole.
        wait::until_true("the last attempts in vain to be over", || !server.is_knocked_at());
    });
    assert_eq!(failed(&all).len(), 0, "{:?}", failed(&all));
    // One attempt in vain, then the other server: nobody pays twice.
    assert!(slowest(&all) < Duration::from_secs(3), "{:?}", slowest(&all));
}

/// The servers are those announced in an etcd that dies and comes back too. A third one is announced all the time, and
/// takes no connection.
fn none_fails_while_servers_and_etcd_come_and_go(api: Api, balance: &str) {
    forget_what_has_ended();
    let mut servers = [Server::start(1), Server::start(2)];
    let mut etcd = Etcd::start();
    let nobody: SocketAddr = ([127, 0, 1, 3], 7001).into();
    let _hole = Rule::black_hole(nobody);
    for address in servers.iter().map(|server| server.address).chain([nobody]) {
        lane::announce(api, &etcd, address);
    }
    let link = format!("to = 'registry:{}'\nbalance = '{balance}'\nconnect_timeout = '300ms'\n", lane::NAME);
    let lane = Lane::start(&link, &registry(api, etcd.address()));
    let all = in_turn(&mut servers, |turn, server, load| {
        match turn % 4 {
            1 => etcd.stop(),
            3 => etcd.start_again(Data::Kept),
            _ => {}
        }
        server.end_in_order();
        load.go_on(400);
        server.start_again();
    });
    assert_eq!(failed(&all).len(), 0, "{:?}", failed(&all));
    assert!(lane.logged("can't be followed") > 0, "it has not noticed that etcd was gone");
}

#[test]
fn none_fails_while_two_servers_and_etcd_v3_come_and_go() {
    if ran_inside(none_fails_while_two_servers_and_etcd_v3_come_and_go) {
        return;
    }
    none_fails_while_servers_and_etcd_come_and_go(Api::V3, "round-robin");
}

#[test]
fn none_fails_while_two_servers_and_etcd_v2_come_and_go() {
    if ran_inside(none_fails_while_two_servers_and_etcd_v2_come_and_go) {
        return;
    }
    none_fails_while_servers_and_etcd_come_and_go(Api::V2, "least-connections");
}

/// What a server has taken and then drops with its death no link can save. Nothing else may be lost: a connection that
/// fails was begun before a death and ended after it. A server that hangs before it dies loses exactly those that hang.
#[test]
fn a_kill_costs_those_that_the_killed_server_had_and_no_other() {
    if ran_inside(a_kill_costs_those_that_the_killed_server_had_and_no_other) {
        return;
    }
    let (mut servers, link) = servers();
    let _lane = Lane::start(&link, "");
    let mut deaths: Vec<(Instant, Instant, Option<usize>)> = Vec::new();
    let all = in_turn(&mut servers, |turn, server, load| {
        let hung = (turn % 4 >= 2).then(|| {
            server.freeze();
            until_all_hang(server, load)
        });
        let before = Instant::now();
        server.kill();
        deaths.push((before, Instant::now(), hung));
        load.go_on(400);
        server.start_again();
    });
    let mut excused = 0;
    for (before, after, hung) in deaths {
        let begun_before = |until: Instant| {
            let lost = |one: &&Exchange| one.came_to.is_err() && one.begun < until && one.ended > before;
            all.iter().filter(lost).count()
        };
        let lost = begun_before(after);
        println!(
            "{} of {CLIENTS} at once lost with a server that {}",
            lost,
            if hung.is_some() { "hung" } else { "worked" }
        );
        // While it dies it may still take one more.
        let hang = begun_before(before);
        assert!(hung.is_none_or(|hung| hang == hung), "{lost} lost, {hang} of them hung, of {hung:?}");
        excused += lost;
    }
    assert_eq!(failed(&all).len(), excused);
}

/// Sooner or later each client's turn is at the server that hangs. How many they are.
fn until_all_hang(server: &Server, load: &Load) -> usize {
    wait::until_true("every client to hang", || {
        let done = load.done();
        let hang = server.connections() == CLIENTS;
        // One whose answer was on the way is not among them.
        wait::all_through(Duration::from_millis(50), || {});
        hang && done == load.done()
    });
    CLIENTS
}
