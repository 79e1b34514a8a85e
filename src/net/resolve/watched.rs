//! A small file that others rewrite under us, parsed again whenever its stat says that it changed. Never blocks on
//! anything but a regular file; never loses what it knew because one read failed. Used for the hosts file and
//! resolv.conf; whoever else reads such a file has the stamp.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// More of a file than this is not read: nobody's hosts file is that long.
const LONGEST: u64 = 16 * 1024 * 1024;

/// The kernel's clock for file times ticks every 1 to 10 ms: a file changed this recently may change again
/// without its stat showing it, so it is not trusted from its stat alone.
const FRESH: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    known: Mutex<Option<Known<T>>>,
}

#[derive(Debug)]
struct Known<T> {
    stamp: Option<Stamp>,
    bytes: Vec<u8>,
    value: Arc<T>,
}

/// What changes when a file does. `None` in place of it: read again next time whatever the stat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T> Watched<T> {
    pub(super) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), known: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's content as `parse` understands it; a missing file is an empty one. `parse` runs only when the
    /// bytes differ from those of the last call.
    pub(super) fn get(&self, parse: impl FnOnce(&[u8]) -> T) -> Arc<T> {
        let mut known = self.lock();
        let stamp = Stamp::of(&self.path);
        if let Some(known) = known.as_ref()
            && stamp.is_some()
            && known.stamp == stamp
        {
            return Arc::clone(&known.value);
        }
        let read = read(&self.path);
        match (known.as_mut(), read) {
            // Descriptors or memory ran out, or it is not ours to read: what was known is better than nothing.
            (Some(known), Err(_)) => Arc::clone(&known.value),
            (Some(known), Ok(bytes)) if known.bytes == bytes => {
                known.stamp = stamp;
                Arc::clone(&known.value)
            }
            (_, read) => {
                let bytes = read.unwrap_or_default();
                let value = Arc::new(parse(&bytes));
                *known = Some(Known { stamp, bytes, value: Arc::clone(&value) });
                value
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_read(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known<T>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    /// Taken before the file is read, so that a change in between shows the next time.
    pub fn of(path: &Path) -> Option<Self> {
        let stat = std::fs::metadata(path).ok()?;
        if is_fresh(&stat) {
            return None;
        }
        Some(Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
        })
    }
}

fn is_fresh(stat: &Metadata) -> bool {
    // A time in the future (`Err`) is not about now; what changes the file next sets a time of its own.
    stat.modified().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < FRESH))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    // Opening a FIFO or a device could block for ever.
    match std::fs::metadata(path) {
        Ok(stat) if stat.is_file() => {}
        Ok(_) => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &Watched<String>) -> Arc<String> {
        file.get(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    #[test]
    fn every_change_is_seen_at_once_even_two_of_one_size_within_a_tick() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = Watched::at(&path);
        assert_eq!(*text(&file), "");
        for round in 0..200 {
            let content = format!("{:03}", round);
            std::fs::write(&path, &content).expect("write");
            assert_eq!(*text(&file), content);
        }
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(*text(&file), "");
    }

    #[test]
    fn the_stat_of_a_file_just_written_is_not_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "one").expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        let now = SystemTime::now();
        file.set_modified(now).expect("set");
        assert_eq!(Stamp::of(&path), None);
        file.set_modified(now + Duration::from_secs(3600)).expect("set");
        assert!(Stamp::of(&path).is_some(), "a wrong clock costs nothing");
        file.set_modified(now - Duration::from_secs(1)).expect("set");
        assert!(Stamp::of(&path).is_some());
    }

    #[test]
    fn an_unchanged_file_is_not_parsed_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "one").expect("write");
        let file = Watched::at(&path);
        let first = text(&file);
        std::fs::write(&path, "one").expect("write the same");
        assert!(Arc::ptr_eq(&first, &text(&file)));
    }

    #[test]
    fn what_cannot_be_read_leaves_what_was_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "one").expect("write");
        let file = Watched::at(&path);
        assert_eq!(*text(&file), "one");
        // A loop of symbolic links: the stat fails with something else than "not found".
        std::fs::remove_file(&path).expect("remove");
        std::os::unix::fs::symlink(&path, &path).expect("a loop");
        assert_eq!(*text(&file), "one");
    }

    #[test]
    fn something_that_is_no_file_is_empty_and_does_not_block() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        assert_eq!(*text(&Watched::at(&path)), "");
    }
}
