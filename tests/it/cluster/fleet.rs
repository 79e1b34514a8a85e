//! Services that are announced in one cluster and can be made unfit: in both APIs, with the member that is to suffer as
//! the first to ask and as the last. Asserts nothing but that they do as they are told.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cluster::{Cluster, Member};
use crate::support::history::{History, Presence};
use crate::support::service::{ANNOUNCE, Folder, Service, command, list, registry_of, send};
use crate::support::watch::Api;

pub const TTL: Duration = Duration::from_secs(10);
/// The file that a fit service has.
const FIT: &str = "fit";

/// When a service becomes unfit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Just when the fault has begun.
    Early,
    /// When it has lasted for a while.
    Late,
}

/// And how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Its check fails.
    Check,
    /// Its main process is killed, and the next one is not trusted so soon.
    Main,
}

pub struct Web {
    pub api: Api,
    pub turn: Turn,
    pub key: String,
    /// Since when it is not fit.
    pub unfit: Option<Instant>,
    how: How,
    folder: Folder,
    service: Service,
}

pub struct Fleet(pub Vec<Web>);

impl Turn {
    pub const ALL: [Self; 2] = [Self::Early, Self::Late];
}

impl Fleet {
    pub fn start(cluster: &Cluster, target: Member) -> Self {
        let [second, third] = target.others();
        let orders = [[target, second, third], [second, third, target]];
        let mut webs = Vec::new();
        for api in Api::BOTH {
            for (place, order) in orders.into_iter().enumerate() {
                for turn in Turn::ALL {
                    let is_main = turn == Turn::Early && (api == Api::V3) == (place == 0);
                    let how = if is_main { How::Main } else { How::Check };
                    webs.push(Web::start(cluster, api, order, turn, how, webs.len()));
                }
            }
        }
        Self(webs)
    }

    /// Waits until they are announced, or are not.
    pub fn until(&self, history: &History, turn: Turn, presence: Presence) {
        for web in self.0.iter().filter(|web| web.turn == turn) {
            history.until(web.api, &web.key, presence);
        }
    }

    /// Makes them unfit.
    pub fn turn(&mut self, turn: Turn) {
        for web in self.0.iter_mut().filter(|web| web.turn == turn) {
            web.unfit = Some(Instant::now());
            match web.how {
                How::Check => web.folder.remove(FIT),
                How::Main => send(web.service.pid(&["hold"]), Signal::SIGKILL),
            }
        }
    }

    /// Makes them fit again.
    pub fn turn_back(&mut self, turn: Turn) {
        for web in self.0.iter_mut().filter(|web| web.turn == turn) {
            web.folder.write(FIT, "");
        }
    }

    /// Stops them all; nothing is left of them.
    pub fn stop(self, history: &History) {
        for Web { api, key, service, .. } in self.0 {
            assert_eq!(service.stop().code, 143);
            history.until(api, &key, Presence::Gone);
        }
    }
}

impl Web {
    fn start(cluster: &Cluster, api: Api, order: [Member; 3], turn: Turn, how: How, number: usize) -> Self {
        let folder = Folder::new();
        folder.write(FIT, "");
        let check = list("exec", &["test".into(), "-e".into(), folder.path(FIT).into()]);
        let instance = format!("node-{number}");
        let announce = ANNOUNCE.replace("node-1", &instance).replace("2s", &format!("{}s", TTL.as_secs()));
        let text = command(&["hold"])
            + "stop = { drain = \"0s\" }\nready = { settle = \"1h\" }\n"
            + &format!("[[check]]\n{check}every = \"200ms\"\ntimeout = \"30s\"\ngrace = \"0s\"\nfall = 1\n")
            + &announce
            + &registry_of(api, &order.map(|member| cluster.address(member)));
        folder.write("web.toml", &text);
        let service = folder.start_in(cluster.client(0).sandbox());
        let key = format!("/skydns/com/example/prod/s/web/{instance}");
        Self { api, turn, key, unfit: None, how, folder, service }
    }
}
