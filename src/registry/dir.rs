//! A folder of records that containers of one host share: one file a record, in a tree that mirrors its key.
//!
//! Every write happens under one lock and lands by rename, so a reader sees a whole record or none; each file names
//! its owner and when its time is out (wall clock, the same for all containers of a host). What is not a record
//! begins with a dot, which no label can. It must never touch a file system on the control thread: a stuck one then
//! delays nothing but the announcement, and one thread at most is ever stuck in it. Called by `Registry`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};

use super::aside::{Aside, Stuck};
use super::claim::Claim;
use super::dir_watch::Watch;
use super::error::Error;
use super::follow::{self, Ended};
use super::skydns::{self, Fields, NoRecord};
use super::{Listed, Registration, Renewal};
use crate::config::{Conflict, DnsName};
use crate::net::resolve::Instance;

mod files;

use files::{lock, make_folders, make_root, read, sweep, walk, write};

/// For one operation, the wait for an earlier one that is stuck included.
const TIMEOUT: Duration = Duration::from_secs(1);
/// For the lock, which another process may have been frozen with.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
const LOCK_POLL: Duration = Duration::from_millis(2);
/// From one look at the folders to the next, where the kernel does not tell of changes.
const LOOK: Duration = Duration::from_millis(500);
const LOCK_FILE: &str = ".lock";
const TEMPORARY: &str = ".new-";
/// The longest file that is read as a record.
const MAX_FILE: u64 = 64 << 10;
/// The most folders and files that one walk looks at.
const MAX_ENTRIES: usize = 100_000;

/// The folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    prefix: String,
    /// What comes next (a withdrawal after a cancelled registration) sees the end of the operation under way.
    aside: Aside,
}

/// What a record's file holds: one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    record: Fields,
    owner: String,
    /// Milliseconds since 1970.
    expires_ms: u64,
}

impl Store {
    pub fn new(root: &Path, prefix: &str) -> Self {
        Self { root: root.to_owned(), prefix: prefix.to_owned(), aside: Aside::default() }
    }

    pub async fn register(&self, claim: &Claim, most: Conflict) -> Result<Registration, Error> {
        let records: Vec<_> = self
            .files(claim)
            .enumerate()
            .map(|(place, (path, record))| {
                let said: Vec<Fields> = claim.said_at(place).map(skydns::Record::fields).collect();
                (path, record, said, claim.conflict(place, most))
            })
            .collect();
        let (root, prefix, owner, ttl) =
            (self.root.clone(), self.prefix.clone(), claim.token().to_string(), claim.ttl());
        let (registration, rivals) = self
            .run(move || {
                make_root(&root)?;
                let _lock = lock(&root)?;
                sweep(&root, &prefix);
                let mut registration = Registration::Held { ttl };
                let mut rivals = Vec::new();
                for (path, record, said, conflict) in records {
                    let there = read(&path).ok().flatten().and_then(Result::ok);
                    let theirs = there.filter(|there| !there.expired() && !said.contains(&there.record));
                    let rival = theirs.filter(|_| conflict == Conflict::Wait).map(|there| Ok(there.record));
                    match rival {
                        Some(_) => registration = Registration::Taken,
                        None => {
                            make_folders(&root, &path)?;
                            write(
                                &root,
                                &path,
                                &Stored { record, owner: owner.clone(), expires_ms: in_ms(ttl) },
                            )?;
                        }
                    }
                    rivals.push(rival);
                }
                Ok((registration, rivals))
            })
            .await?;
        note_rivals(claim, &rivals);
        Ok(registration)
    }

    pub async fn renew(&self, claim: &Claim) -> Result<Renewal, Error> {
        let records: Vec<_> = self.files(claim).collect();
        let (root, owner, ttl) = (self.root.clone(), claim.token().to_string(), claim.ttl());
        let (renewal, rivals) = self
            .run(move || {
                let mut rivals = Vec::new();
                if !root.exists() {
                    return Ok((Renewal::Lost, rivals));
                }
                let _lock = lock(&root)?;
                let mut moved = false;
                for (path, record) in records {
                    rivals.push(match read(&path)? {
                        Some(Ok(stored)) if stored.owner == owner => {
                            moved |= stored.record != record;
                            let owner = owner.clone();
                            write(&root, &path, &Stored { record, owner, expires_ms: in_ms(ttl) })?;
                            None
                        }
                        Some(Ok(stored)) if !stored.expired() => Some(Ok(stored.record)),
                        Some(Err(why)) => Some(Err(NoRecord::Unreadable(why))),
                        Some(Ok(_)) | None => return Ok((Renewal::Lost, rivals)),
                    });
                }
                let renewal = match rivals.iter().any(Option::is_some) {
                    true => Renewal::Taken,
                    false if moved => Renewal::Moved { ttl },
                    false => Renewal::Kept { ttl },
                };
                Ok((renewal, rivals))
            })
            .await?;
        note_rivals(claim, &rivals);
        Ok(renewal)
    }

    pub async fn withdraw(&self, claim: &Claim) -> Result<(), Error> {
        let records: Vec<_> = self.files(claim).collect();
        let (root, owner) = (self.root.clone(), claim.token().to_string());
        self.run(move || {
            if !root.exists() {
                return Ok(());
            }
            let _lock = lock(&root)?;
            for (path, _) in records {
                if let Some(Ok(stored)) = read(&path)?
                    && stored.owner == owner
                {
                    at(&path, gone_is_fine(fs::remove_file(&path)))?;
                }
            }
            Ok(())
        })
        .await
    }

    pub async fn list(&self, name: Option<&DnsName>) -> Result<Vec<Listed>, Error> {
        let folder = self.folder(name);
        let (root, prefix) = (self.root.clone(), self.prefix.clone());
        self.run(move || list(&root, &prefix, &folder)).await
    }

    /// Everything below `name` lies there, or everything.
    fn folder(&self, name: Option<&DnsName>) -> String {
        name.map_or(self.prefix.clone(), |name| skydns::folder(&self.prefix, name))
    }

    /// What lies at `key` itself; nothing where that is a folder.
    pub async fn at(&self, key: &str) -> Result<Option<Listed>, Error> {
        let (root, prefix, key) = (self.root.clone(), self.prefix.clone(), key.to_owned());
        self.run(move || {
            let path = inside(&root, &key);
            Ok(if path.is_file() { listed(&prefix, &key, &path) } else { None })
        })
        .await
    }

    /// Whether a record could be written, as far as that can be seen without writing one.
    pub async fn is_writable(&self) -> Result<(), Error> {
        let root = self.root.clone();
        self.run(move || {
            // A root that is missing is made with the first record.
            let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
            if !there.is_dir() {
                return Err(Error::Folder {
                    path: there.to_owned(),
                    reason: "it is not a folder".to_owned(),
                });
            }
            let access = AccessFlags::W_OK | AccessFlags::X_OK;
            at(there, nix::unistd::access(there, access).map_err(io::Error::from))
        })
        .await
    }

    /// Tells who is announced, and ends with the first change, when a record's time is out, or in time.
    pub(super) async fn watch(
        &self,
        name: Option<&DnsName>,
        hear: &mut (impl FnMut(Vec<Instance>) + Send),
    ) -> Result<Ended, Error> {
        let folder = self.folder(name);
        let (root, prefix) = (self.root.clone(), self.prefix.clone());
        let (watch, mut listed) = self
            .run(move || {
                // A root that is not there is no empty one: it may not be mounted.
                at(&root, fs::metadata(&root))?;
                let watch = Watch::new(&root, &inside(&root, &folder));
                Ok((watch, list(&root, &prefix, &folder)?))
            })
            .await?;
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        hear(follow::instances(&listed));
        let soonest = listed.iter().filter_map(|listed| listed.ttl_left).min();
        let until = tokio::time::Instant::now() + soonest.unwrap_or(Duration::MAX).min(follow::renewal());
        match watch.into_told() {
            Ok(told) => {
                let _change_or_time = tokio::time::timeout_at(until, told.readable()).await;
            }
            Err(watch) => {
                let watch = Arc::new(watch);
                while tokio::time::Instant::now() < until {
                    #[expect(clippy::disallowed_methods, reason = "nobody tells of changes here")]
                    tokio::time::sleep(LOOK).await;
                    let watch = Arc::clone(&watch);
                    if self.run(move || Ok(watch.has_changed())).await? {
                        break;
                    }
                }
            }
        }
        // A change, or the time of a record: something is different now.
        Ok(Ended::News)
    }

    fn files(&self, claim: &Claim) -> impl Iterator<Item = (PathBuf, Fields)> {
        claim.records().iter().map(|r| (inside(&self.root, &r.key(&self.prefix)), r.fields()))
    }

    /// Runs `work` where it may block. Dropping this future does not stop work that has begun.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let failed = |stuck: Stuck| Error::Folder { path: self.root.clone(), reason: stuck.to_string() };
        self.aside.run(TIMEOUT, work).await.map_err(failed)?
    }
}

/// Every record below `folder` whose time is not out, and what is there that is none.
fn list(root: &Path, prefix: &str, folder: &str) -> Result<Vec<Listed>, Error> {
    let mut all = Vec::new();
    for path in walk(&inside(root, folder))? {
        let Ok(below) = path.strip_prefix(root) else { continue };
        let key = format!("/{}", below.to_string_lossy());
        if hidden(&path) {
            continue;
        }
        all.extend(listed(prefix, &key, &path));
    }
    Ok(all)
}

/// What the file of `key` holds; `None` where it is gone by now, or its time is out.
fn listed(prefix: &str, key: &str, path: &Path) -> Option<Listed> {
    let unreadable = |reason| (Err(NoRecord::Unreadable(reason)), None);
    let (record, left) = match read(path) {
        Ok(None) => return None,
        Ok(Some(Ok(stored))) if stored.expired() => return None,
        Ok(Some(Ok(stored))) => {
            let left = Duration::from_millis(stored.expires_ms.saturating_sub(now_ms()));
            (stored.record.checked(), Some(left))
        }
        Ok(Some(Err(reason))) => unreadable(reason),
        Err(error) => unreadable(error.to_string()),
    };
    Listed::new(prefix, key, record, left)
}

fn note_rivals(claim: &Claim, rivals: &[Option<Result<Fields, NoRecord>>]) {
    for (place, rival) in rivals.iter().enumerate() {
        claim.note_rival(place, rival.as_ref());
    }
}

impl Stored {
    fn expired(&self) -> bool {
        self.expires_ms <= now_ms()
    }
}

fn inside(root: &Path, key: &str) -> PathBuf {
    root.join(key.trim_start_matches('/'))
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn in_ms(time: Duration) -> u64 {
    now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Gives an I/O error its place.
fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|e| {
        let text = e.to_string();
        let reason = match e.kind() {
            ErrorKind::IsADirectory => "it is a folder: part of a longer name that is announced".to_owned(),
            ErrorKind::NotADirectory => "a record is in the way, announced under a shorter name".to_owned(),
            _ => text.split(" (os error").next().unwrap_or(&text).to_lowercase(),
        };
        Error::Folder { path: path.to_owned(), reason }
    })
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

#[cfg(test)]
mod tests;
