//! What an announcement is worth while its cluster of three etcds is in trouble: for how long a record was missing while
//! its service was fit, and there while it was not, by the cluster's own account. docs/promises.md has the numbers.

mod fleet;
mod secure;
mod table;

use std::time::{Duration, Instant};

use self::fleet::{Fleet, TTL, Turn};
use self::table::{Row, Worst};
use crate::support::cluster::{At, Cluster, Member};
use crate::support::etcd::Data;
use crate::support::history::{History, Presence};
use crate::support::namespace::ran_inside;
use crate::support::wait;
use crate::support::watch::Api;

/// How long a fault lasts: a record that nobody renewed would be gone by then.
const LASTS: Duration = Duration::from_secs(13);
/// Whatever a frozen member or a cut cable has held back has come by then.
const LATE: Duration = Duration::from_secs(2);
/// One request that nobody answers (1 s), the check's own interval (0.2 s), and what a busy machine adds.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(2);
/// After an outage.
const RIGHT_WITHIN: Duration = Duration::from_secs(2);

/// A cluster to which things happen, one after the other.
struct Lane {
    cluster: Cluster,
    history: History,
}

/// How a fault goes.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Two members answer all the time, but for an election.
    Minor,
    /// There is no quorum until it is mended.
    Outage,
}

impl Lane {
    fn start() -> Self {
        let cluster = Cluster::start(1);
        let history = History::follow(&cluster.addresses(), cluster.headers());
        Self { cluster, history }
    }

    /// Lets it happen to `target`, which one half of the services asks first, while some services become unfit, then
    /// while it lasts, and the rest just before it is over.
    fn suffer(
        &mut self,
        fault: &str,
        kind: Kind,
        target: Member,
        strike: impl FnOnce(&mut Cluster),
        last: impl FnOnce(&mut Cluster),
        mend: impl FnOnce(&mut Cluster),
    ) {
        let Self { cluster, history } = self;
        let mut fleet = Fleet::start(cluster, target);
        Turn::ALL.into_iter().for_each(|turn| fleet.until(history, turn, Presence::There));
        let (begun, clusters) = (Instant::now(), history.clusters());
        strike(cluster);
        fleet.turn(Turn::Early);
        let answers = (kind == Kind::Minor).then(|| cluster.until_quorum());
        last(cluster);
        if kind == Kind::Minor {
            fleet.until(history, Turn::Early, Presence::Gone);
            fleet.turn(Turn::Late);
            fleet.until(history, Turn::Late, Presence::Gone);
        }
        mend(cluster);
        let answers = answers.unwrap_or_else(|| cluster.until_quorum());
        let blind = answers - begun;
        cluster.until_healthy();
        fleet.until(history, Turn::Early, Presence::Gone);
        if kind != Kind::Minor {
            fleet.until(history, Turn::Late, Presence::There);
        }
        wait::be_late(LATE);
        history.until_complete();
        let end = Instant::now();
        // What was there before is not in the account of a cluster that was wiped.
        let from = if history.clusters() == clusters { begun } else { answers };
        let row = Row {
            fault: fault.to_owned(),
            v3: Worst::of(&fleet, history, Api::V3, [from, answers, end]),
            v2: Worst::of(&fleet, history, Api::V2, [from, answers, end]),
        };
        println!("{row:?} without a quorum for {blind:?}");
        let (missing, there) = match kind {
            Kind::Minor => (Duration::ZERO, WITHDRAWN_WITHIN),
            Kind::Outage => (RIGHT_WITHIN, RIGHT_WITHIN),
        };
        for (api, worst) in [("v3", &row.v3), ("v2", &row.v2)] {
            assert!(worst.missing <= missing, "{fault}, {api}: missing for {:?}", worst.missing);
            assert!(worst.there <= there, "{fault}, {api}: there for {:?}", worst.there);
        }
        table::note(&row);
        if kind == Kind::Minor {
            fleet.turn_back(Turn::Late);
        }
        fleet.until(history, Turn::Late, Presence::There);
        fleet.stop(history);
    }
}

fn follower(cluster: &Cluster) -> Member {
    cluster.leader().others()[0]
}

fn lasts(_cluster: &mut Cluster) {
    wait::be_late(LASTS);
}

#[test]
fn a_member_dies() {
    if ran_inside(a_member_dies) {
        return;
    }
    let mut lane = Lane::start();
    for (fault, of) in
        [("leader killed", Cluster::leader as fn(&Cluster) -> Member), ("follower killed", follower)]
    {
        let target = of(&lane.cluster);
        let (kill, restart) = (|c: &mut Cluster| c.kill(target), |c: &mut Cluster| c.restart(target));
        lane.suffer(fault, Kind::Minor, target, kill, lasts, restart);
    }
}

#[test]
fn a_member_freezes() {
    if ran_inside(a_member_freezes) {
        return;
    }
    let mut lane = Lane::start();
    let leader = lane.cluster.leader();
    let (freeze, thaw) = (|c: &mut Cluster| c.freeze(leader), |c: &mut Cluster| c.thaw(leader));
    lane.suffer("leader frozen", Kind::Minor, leader, freeze, lasts, thaw);
    let follower = follower(&lane.cluster);
    let (freeze, thaw) = (|c: &mut Cluster| c.freeze(follower), |c: &mut Cluster| c.thaw(follower));
    lane.suffer("follower frozen", Kind::Minor, follower, freeze, lasts, thaw);
}

#[test]
fn a_member_is_cut_off() {
    if ran_inside(a_member_is_cut_off) {
        return;
    }
    let mut lane = Lane::start();
    let leader = lane.cluster.leader();
    lane.suffer(
        "leader cut off from the others",
        Kind::Minor,
        leader,
        |c| c.isolate(leader),
        lasts,
        Cluster::heal,
    );
    let follower = follower(&lane.cluster);
    lane.suffer(
        "follower cut off from the others",
        Kind::Minor,
        follower,
        |c| c.isolate(follower),
        lasts,
        Cluster::heal,
    );
}

#[test]
fn the_member_in_use_is_cut_off_from_us() {
    if ran_inside(the_member_in_use_is_cut_off_from_us) {
        return;
    }
    let mut lane = Lane::start();
    let (leader, us) = (lane.cluster.leader(), At::Client(0));
    let cut = |c: &mut Cluster| c.cut(At::Member(leader), us);
    lane.suffer("the member in use cut off from us", Kind::Minor, leader, cut, lasts, Cluster::heal);
}

#[test]
fn a_cluster_restarts() {
    if ran_inside(a_cluster_restarts) {
        return;
    }
    let mut lane = Lane::start();
    let first = lane.cluster.leader();
    let restart = |cluster: &mut Cluster, member| {
        cluster.terminate(member);
        cluster.restart(member);
        cluster.until_healthy();
    };
    let strike = |cluster: &mut Cluster| {
        cluster.terminate(first);
        cluster.restart(first);
    };
    let rest = |cluster: &mut Cluster| {
        let begun = Instant::now();
        cluster.until_healthy();
        while begun.elapsed() < LASTS {
            first.others().into_iter().chain([first]).for_each(|member| restart(cluster, member));
        }
    };
    lane.suffer("rolling restart", Kind::Minor, first, strike, rest, |_| ());
    let first = lane.cluster.leader();
    lane.suffer(
        "all killed and restarted",
        Kind::Outage,
        first,
        kill_all,
        |_| (),
        |c| c.restart_all(Data::Kept),
    );
}

fn kill_all(cluster: &mut Cluster) {
    Member::ALL.into_iter().for_each(|member| cluster.kill(member));
}

#[test]
fn a_quorum_is_lost() {
    if ran_inside(a_quorum_is_lost) {
        return;
    }
    let mut lane = Lane::start();
    let short = |_: &mut Cluster| wait::be_late(TTL / 2);
    for (fault, last) in [
        ("quorum lost for half of the TTL", short as fn(&mut Cluster)),
        ("quorum lost for longer than the TTL", lasts),
    ] {
        // A leader keeps what it was told in its last second, and has that done later.
        let survivor = follower(&lane.cluster);
        let two = |cluster: &mut Cluster| survivor.others().into_iter().for_each(|m| cluster.kill(m));
        let again = |cluster: &mut Cluster| survivor.others().into_iter().for_each(|m| cluster.restart(m));
        lane.suffer(fault, Kind::Outage, survivor, two, last, again);
    }
}

#[test]
fn a_cluster_is_wiped() {
    if ran_inside(a_cluster_is_wiped) {
        return;
    }
    let mut lane = Lane::start();
    let first = lane.cluster.leader();
    lane.suffer("all data wiped", Kind::Outage, first, kill_all, lasts, |c| c.restart_all(Data::Wiped));
}
