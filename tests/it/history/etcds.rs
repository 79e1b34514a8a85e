//! The registry of a stage: one etcd on loopback, or three in a network of their own. Does to its members what a
//! schedule says, and knows when whoever asks is answered again.

use std::net::{Ipv4Addr, SocketAddr};

use super::schedule::{Size, Who};
use crate::support::cluster::{At, Cluster, Member};
use crate::support::etcd::{Data, Etcd};
use crate::support::namespace::{Place, Sandbox};
use crate::support::wait;

pub enum Etcds {
    One(Box<Etcd>),
    Three(Box<Cluster>),
}

impl Etcds {
    /// `network` is for the one on loopback. Three are only for a test in namespaces of its own.
    pub fn start(size: Size, network: [u8; 2]) -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(127, network[0], network[1], 1), 2379));
        match size {
            Size::One => Self::One(Box::new(Etcd::start_at(address))),
            Size::Three => Self::Three(Box::new(Cluster::start(2))),
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::One(etcd) => vec![etcd.address()],
            Self::Three(cluster) => cluster.addresses().to_vec(),
        }
    }

    /// Where an instance runs.
    pub fn sandbox(&self, who: Who) -> Sandbox {
        match self {
            Self::One(_) => Sandbox::new(Place::First),
            Self::Three(cluster) => cluster.client(who as usize).sandbox(),
        }
    }

    pub fn kill(&mut self, member: usize) {
        match self {
            Self::One(etcd) => etcd.stop(),
            Self::Three(cluster) => cluster.kill(Member::ALL[member]),
        }
    }

    pub fn start_again(&mut self, member: usize) {
        match self {
            Self::One(etcd) => etcd.start_again(Data::Kept),
            Self::Three(cluster) => cluster.restart(Member::ALL[member]),
        }
    }

    pub fn freeze(&self, member: usize) {
        match self {
            Self::One(etcd) => etcd.freeze(),
            Self::Three(cluster) => cluster.freeze(Member::ALL[member]),
        }
    }

    pub fn thaw(&self, member: usize) {
        match self {
            Self::One(etcd) => etcd.thaw(),
            Self::Three(cluster) => cluster.thaw(Member::ALL[member]),
        }
    }

    pub fn isolate(&mut self, member: usize) {
        self.three().isolate(Member::ALL[member]);
    }

    /// Of an instance, from all members.
    pub fn cut_off(&mut self, who: Who) {
        for member in Member::ALL {
            self.three().cut(At::Client(who as usize), At::Member(member));
        }
    }

    pub fn heal(&mut self) {
        self.three().heal();
    }

    /// Waits until each of these is answered by a quorum: one that has come back may have upset the others first.
    pub fn until_answered(&self, members: &[usize]) {
        match self {
            Self::One(etcd) => drop(etcd.request("GET", "/health", "")),
            Self::Three(cluster) => {
                for member in members.iter().map(|member| Member::ALL[*member]) {
                    let what = format!("{member:?} to be answered by a quorum");
                    wait::until_true(&what, || cluster.answers(member));
                }
            }
        }
    }

    fn three(&mut self) -> &mut Cluster {
        match self {
            Self::Three(cluster) => cluster,
            Self::One(_) => unreachable!("nobody cuts the cables of a schedule for one"),
        }
    }
}
