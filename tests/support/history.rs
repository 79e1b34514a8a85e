//! What became of the keys below /skydns, told by all members of an etcd at once, in both APIs and from the first
//! revision on: each change at the earliest moment that any of them told of it, whichever of them were dead or frozen
//! then. In the end all of it is read anew, which shows whether one was missed. What it means is the checker's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::etcd::request;
use super::wait;
use super::watch::{self, Api, Change};

pub mod checker;
pub mod spans;
pub mod timeline;

/// A key that is written so that whoever has told of it has told of everything before it.
const MARK: &str = "/skydns/mark";
/// Between two tries to reach a member that is dead.
const PAUSE: Duration = Duration::from_millis(5);

pub struct History {
    members: Vec<SocketAddr>,
    headers: String,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    /// By API, cluster, revision and key.
    changes: BTreeMap<(Api, usize, u64, String), Change>,
    /// IDs, in the order in which they were heard of.
    clusters: Vec<u64>,
    /// How many marks there have been, and the last that each member told of.
    marked: u32,
    marks: BTreeMap<(Api, SocketAddr), Option<String>>,
}

/// What one member tells.
struct Account {
    api: Api,
    member: SocketAddr,
    headers: String,
    /// Of the cluster that it is about.
    cluster: u64,
    /// From which it goes on.
    revision: u64,
}

impl History {
    /// Header lines are those that both APIs take for root. All members must be well.
    pub fn follow(members: &[SocketAddr], headers: &str) -> Self {
        let this = Self { members: members.to_vec(), headers: headers.to_owned(), book: Arc::default() };
        for mut account in this.accounts() {
            let book = Arc::downgrade(&this.book);
            thread::spawn(move || {
                while book.strong_count() > 0 {
                    let (api, member) = (account.api, account.member);
                    let _ended = account.listen(|cluster, change| {
                        lock(&*book.upgrade()?).note(api, member, cluster, change);
                        Some(())
                    });
                    wait::be_late(PAUSE);
                }
            });
        }
        this.until_complete();
        this
    }

    /// Waits until all that has happened so far has been told by every member, and asserts that each of them, asked for
    /// all of it again, tells the same. All must be well.
    pub fn until_complete(&self) {
        lock(&self.book).marked += 1;
        let mark = Some(lock(&self.book).marked.to_string());
        for api in Api::BOTH {
            let (method, path, body) = api.put(MARK, mark.as_deref().expect("a text"));
            wait::until_true("a mark", || {
                let answer = request(self.members[0], &self.headers, method, &path, &body);
                answer.is_ok_and(|(status, _)| status < 300)
            });
        }
        for mut account in self.accounts() {
            let (api, member) = (account.api, account.member);
            wait::until_true("every member's account", || {
                lock(&self.book).marks.get(&(api, member)) == Some(&mark)
            });
            let is_mark = |change: &Change| change.key == MARK && change.value == mark;
            let mut anew = vec![];
            wait::until_true("all of it anew", || {
                let _ended = account.listen(|_, change| {
                    anew.extend(change);
                    (!anew.last().is_some_and(is_mark)).then_some(())
                });
                anew.last().is_some_and(is_mark)
            });
            let untimed = |changes: Vec<Change>| -> Vec<_> {
                let changes = changes.into_iter().take_while(|change| !is_mark(change));
                changes
                    .map(|Change { revision, key, value, lease, .. }| (revision, key, value, lease))
                    .collect()
            };
            let heard = lock(&self.book).latest(api);
            assert_eq!(untimed(heard), untimed(anew), "what was heard of {api:?}, and what {member} has");
        }
    }

    fn accounts(&self) -> Vec<Account> {
        let account = |api| {
            move |member: &SocketAddr| Account {
                api,
                member: *member,
                headers: self.headers.clone(),
                cluster: 0,
                revision: 1,
            }
        };
        Api::BOTH.into_iter().flat_map(|api| self.members.iter().map(account(api))).collect()
    }

    /// How many clusters there have been: one that was wiped is another.
    pub fn clusters(&self) -> usize {
        lock(&self.book).clusters.len()
    }

    /// All changes, in their order; in the latest cluster only, where one was wiped.
    pub fn all(&self, api: Api) -> Vec<Change> {
        let mut all = lock(&self.book).latest(api);
        all.retain(|change| change.key != MARK);
        all
    }

    /// What became of the key.
    pub fn of(&self, api: Api, key: &str) -> Vec<Change> {
        let mut all = self.all(api);
        all.retain(|change| change.key == key);
        all
    }

    /// Waits until the key is there or is gone, as the latest that was told of it.
    pub fn until(&self, api: Api, key: &str, there: Presence) {
        wait::until_true(&format!("{api:?} {key} to be {there:?}: {:?}", self.of(api, key)), || {
            self.now(api, key) == there
        });
    }

    pub fn now(&self, api: Api, key: &str) -> Presence {
        match self.of(api, key).last() {
            Some(Change { value: Some(_), .. }) => Presence::There,
            Some(Change { value: None, .. }) | None => Presence::Gone,
        }
    }

    /// The longest time within `from` to `to` in which the key was so.
    pub fn longest(&self, api: Api, key: &str, what: Presence, from: Instant, to: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        let (mut state, mut since) = (Presence::Gone, from);
        for change in self.of(api, key) {
            let at = change.at.clamp(from, to);
            if state == what {
                longest = longest.max(at - since);
            }
            state = if change.value.is_some() { Presence::There } else { Presence::Gone };
            since = at;
        }
        if state == what { longest.max(to - since) } else { longest }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    There,
    Gone,
}

impl Account {
    /// Tells what comes, and whose it is even before something does, until etcd tells no more or `tell` wants none.
    fn listen(&mut self, mut tell: impl FnMut(u64, Option<Change>) -> Option<()>) -> Option<()> {
        loop {
            let (lines, cluster) = watch::open(self.api, self.member, &self.headers, self.revision)?;
            tell(cluster, None)?;
            if std::mem::replace(&mut self.cluster, cluster) != cluster && self.revision > 1 {
                // Its revisions are others.
                self.revision = 1;
                continue;
            }
            for change in watch::changes(self.api, lines) {
                self.revision = change.revision + 1;
                tell(cluster, Some(change))?;
            }
        }
    }
}

impl Book {
    fn note(&mut self, api: Api, member: SocketAddr, id: u64, change: Option<Change>) {
        let cluster = self.clusters.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.clusters.push(id);
            self.clusters.len() - 1
        });
        let Some(change) = change else { return };
        if change.key == MARK {
            self.marks.insert((api, member), change.value.clone());
        }
        self.changes.entry((api, cluster, change.revision, change.key.clone())).or_insert(change);
    }

    fn latest(&self, api: Api) -> Vec<Change> {
        let latest = self.clusters.len().saturating_sub(1);
        let ours = self.changes.iter().filter(|((of, cluster, ..), _)| (*of, *cluster) == (api, latest));
        ours.map(|(_, change)| change.clone()).collect()
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("nobody panics with it")
}
