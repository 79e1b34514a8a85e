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
use tokio::sync::Mutex;

use super::claim::Claim;
use super::dir_watch::Watch;
use super::error::Error;
use super::skydns::{self, Fields, NoRecord};
use super::{Listed, Registration, Renewal, follow};
use crate::config::{Conflict, DnsName};
use crate::net::resolve::Instance;

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
    /// Held by the operation under way until it has really ended, not only until its caller gave it up: what comes
    /// next (a withdrawal after a cancelled registration) sees its end.
    turn: Arc<Mutex<()>>,
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
        Self { root: root.to_owned(), prefix: prefix.to_owned(), turn: Arc::default() }
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
        let folder = name.map_or(self.prefix.clone(), |name| skydns::folder(&self.prefix, name));
        let (root, prefix) = (self.root.clone(), self.prefix.clone());
        self.run(move || list(&root, &prefix, &folder)).await
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
            let access = AccessFlags::W_OK | AccessFlags::X_OK;
            at(there, nix::unistd::access(there, access).map_err(io::Error::from))
        })
        .await
    }

    /// Tells who is announced, and ends with the first change, when a record's time is out, or in time.
    pub(super) async fn watch(
        &self,
        name: &DnsName,
        hear: &mut (impl FnMut(Vec<Instance>) + Send),
    ) -> Result<(), Error> {
        let folder = skydns::folder(&self.prefix, name);
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
        Ok(())
    }

    fn files(&self, claim: &Claim) -> impl Iterator<Item = (PathBuf, Fields)> {
        claim.records().iter().map(|r| (inside(&self.root, &r.key(&self.prefix)), r.fields()))
    }

    /// Runs `work` where it may block. Dropping this future does not stop work that has begun.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let failed = |reason: &str| Error::Folder { path: self.root.clone(), reason: reason.to_owned() };
        let turn = Arc::clone(&self.turn);
        let ended = tokio::time::timeout(TIMEOUT, async {
            let turn = turn.lock_owned().await;
            let task = tokio::task::spawn_blocking(move || {
                let result = work();
                drop(turn);
                result
            });
            task.await
        });
        match ended.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(failed("the operation broke off")),
            Err(_) => Err(failed("its file system does not answer")),
        }
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

/// A root that we make is ours alone to write to. One that several users are to share is made beforehand with the
/// mode they need (`0777`, or `2775` and a common group): everything below takes after it, whatever the umask. A sticky
/// root (`1777`) works as long as no two users announce the same instance of a name.
fn make_root(root: &Path) -> Result<(), Error> {
    at(root, fs::DirBuilder::new().recursive(true).mode(0o755).create(root))
}

fn make_folders(root: &Path, file: &Path) -> Result<(), Error> {
    let mode = at(root, fs::metadata(root))?.permissions().mode() & 0o7777 | 0o700;
    let below = file.parent().and_then(|parent| parent.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    let mut folder = root.to_owned();
    for part in below {
        folder.push(part);
        let is_new = match fs::create_dir(&folder) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            Err(e) => return at(&folder, Err(e)),
        };
        // Never by way of a link: another user of the root may have put it there, and it may lead anywhere.
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = at(&folder, OpenOptions::new().read(true).custom_flags(flags.bits()).open(&folder))?;
        if is_new {
            at(&folder, opened.set_permissions(Permissions::from_mode(mode)))?;
        }
    }
    Ok(())
}

/// The mode of a file for those who may read and write the root.
fn file_mode(root: &Path) -> Result<u32, Error> {
    Ok(at(root, fs::metadata(root))?.permissions().mode() & 0o666 | 0o600)
}

/// Takes the one lock of the folder; it ends with the value, or with the process.
fn lock(root: &Path) -> Result<Flock<File>, Error> {
    let path = root.join(LOCK_FILE);
    let mut file = open_lock(root, &path)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if errno != nix::errno::Errno::EWOULDBLOCK => {
                return at(&path, Err(errno.into()));
            }
            Err(_) if Instant::now() >= deadline => {
                let reason = "another process has held the lock for too long".to_owned();
                return Err(Error::Folder { path, reason });
            }
            Err((same, _)) => file = same,
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a blocking thread of its own, and flock has no time limit"
        )]
        std::thread::sleep(LOCK_POLL);
    }
}

/// Opened without "create" first: in a sticky folder the kernel refuses that flag for a file of another user
/// (fs.protected_regular), and a lock needs no right to write.
fn open_lock(root: &Path, path: &Path) -> Result<File, Error> {
    let open = || OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
    match open() {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        result => return at(path, result),
    }
    match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Ok(file) => {
            at(path, file.set_permissions(Permissions::from_mode(file_mode(root)?)))?;
            Ok(file)
        }
        // Another process made it in between.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => at(path, open()),
        Err(e) => at(path, Err(e)),
    }
}

/// `None`: there is nothing. The inner error: something is there that is no record of ours.
fn read(path: &Path) -> Result<Option<Result<Stored, String>>, Error> {
    // Neither through a link nor waiting at a pipe that someone put there.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return at(path, Err(e)),
    };
    if !at(path, file.metadata())?.is_file() {
        return Ok(Some(Err("it is not a file".to_owned())));
    }
    let mut text = String::new();
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => Ok(Some(serde_json::from_str(&text).map_err(|e| e.to_string()))),
        Err(e) if e.kind() == ErrorKind::InvalidData => Ok(Some(Err("it is not text".to_owned()))),
        Err(e) => at(path, Err(e)),
    }
}

fn write(root: &Path, path: &Path, stored: &Stored) -> Result<(), Error> {
    let temporary = path.with_file_name(format!("{TEMPORARY}{}", stored.owner));
    let text = serde_json::to_string(stored).expect("plain fields always serialise");
    at(&temporary, gone_is_fine(fs::remove_file(&temporary)))?;
    let mut file = at(&temporary, OpenOptions::new().write(true).create_new(true).open(&temporary))?;
    let mode = Permissions::from_mode(file_mode(root)?);
    let written = file.set_permissions(mode).and_then(|()| writeln!(file, "{text}"));
    let landed = at(&temporary, written).and_then(|()| at(path, fs::rename(&temporary, path)));
    if landed.is_err() {
        // Best effort: the next writer sweeps it otherwise.
        let _left = fs::remove_file(&temporary);
    }
    landed
}

/// Every file below `folder`; nothing when there is no such folder. Links are not followed.
fn walk(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(e) => return at(&folder, Err(e)),
        };
        for entry in entries {
            let entry = at(&folder, entry)?;
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(Error::Folder { path: folder, reason: "there is too much in it".to_owned() });
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                // Gone since it was read.
                Err(_) => {}
            }
        }
    }
    Ok(files)
}

/// Removes records whose time is out and what crashed writers left; under the lock nobody else is writing. What
/// can't be removed (another user's) stays.
fn sweep(root: &Path, prefix: &str) {
    for path in walk(&inside(root, prefix)).unwrap_or_default() {
        let name = path.file_name().map_or(&b""[..], |name| name.as_encoded_bytes());
        let stale = if name.starts_with(TEMPORARY.as_bytes()) {
            true
        } else {
            !hidden(&path) && matches!(read(&path), Ok(Some(Ok(stored))) if stored.expired())
        };
        if stale {
            let _kept = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests;
