//! Notices that something changed in a registry's folder: by inotify, or by a look at the folders' times where the kernel
//! refuses that. What changed is the reader's to find out. Nothing here is called on a control thread; what touches the
//! file system is called where it may block.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// The most folders that are watched.
const MOST: usize = 4096;

/// Folders that are looked at from before they are read, so that no change is missed.
#[derive(Debug)]
pub(super) struct Watch {
    folders: Vec<PathBuf>,
    how: How,
}

#[derive(Debug)]
enum How {
    Told(OwnedFd),
    /// inotify is refused (its instances are used up, or the file system is no place for it).
    Looking(Vec<Stamp>),
}

/// What changes when an entry of a folder does.
type Stamp = Option<(u64, i64, i64)>;

impl Watch {
    /// Watches `folder`, all folders below it, and those that lead to it from `root`: any may be missing yet.
    pub(super) fn new(root: &Path, folder: &Path) -> Self {
        let below = folder.strip_prefix(root).unwrap_or(Path::new(""));
        let way = below.ancestors().map(|part| root.join(part));
        let mut folders: Vec<PathBuf> = way.filter(|folder| folder.is_dir()).collect();
        if folder.is_dir() {
            folders.extend(subfolders(folder));
        }
        let how = match told(&folders) {
            Ok(inotify) => How::Told(inotify),
            Err(_) => How::Looking(stamps(&folders)),
        };
        Self { folders, how }
    }

    /// Readable once something has changed; the watch itself, to be looked at, where nobody tells. Any descriptor that
    /// can be read will do for this kind of receiver.
    pub(super) fn into_told(self) -> Result<Receiver, Self> {
        match self.how {
            How::Told(inotify) => match Receiver::from_owned_fd_unchecked(inotify) {
                Ok(inotify) => Ok(inotify),
                Err(_) => {
                    let how = How::Looking(stamps(&self.folders));
                    Err(Self { how, ..self })
                }
            },
            How::Looking(_) => Err(self),
        }
    }

    /// Whether a look shows a change.
    pub(super) fn has_changed(&self) -> bool {
        match &self.how {
            How::Told(_) => false,
            How::Looking(seen) => stamps(&self.folders) != *seen,
        }
    }
}

fn told(folders: &[PathBuf]) -> io::Result<OwnedFd> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let changes = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    for folder in folders {
        match inotify.add_watch(folder, changes) {
            // Gone by now: its parent tells of it when it comes back, or has told already.
            Ok(_) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(inotify.into())
}

fn stamps(folders: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |folder: &PathBuf| {
        let stat = fs::metadata(folder).ok()?;
        Some((stat.ino(), stat.mtime(), stat.mtime_nsec()))
    };
    folders.iter().map(stamp).collect()
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut rest = vec![folder.to_owned()];
    while let Some(folder) = rest.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for entry in inner {
            if found.len() == MOST {
                return found;
            }
            found.push(entry.path());
            rest.push(entry.path());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_below_a_folder_that_was_missing_is_told() {
        let root = tempfile::tempdir().expect("a folder");
        let wanted = root.path().join("a/b");
        let told = Watch::new(root.path(), &wanted).into_told().expect("inotify");
        fs::create_dir_all(&wanted).expect("made");
        tokio::time::timeout(Duration::from_secs(30), told.readable())
            .await
            .expect("told")
            .expect("readable");
        let told = Watch::new(root.path(), &wanted).into_told().expect("inotify");
        fs::write(wanted.join("new"), "").expect("written");
        tokio::time::timeout(Duration::from_secs(30), told.readable())
            .await
            .expect("told")
            .expect("readable");
    }

    #[test]
    fn where_nobody_tells_a_look_shows_what_came_and_went() {
        let root = tempfile::tempdir().expect("a folder");
        let looking = || {
            let watch = Watch::new(root.path(), root.path());
            Watch { how: How::Looking(stamps(&watch.folders)), ..watch }
        };
        for change in [|path: &Path| fs::write(path, ""), |path: &Path| fs::remove_file(path)] {
            let watch = looking();
            assert!(!watch.has_changed());
            // Times of files tick every few milliseconds.
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            change(&root.path().join("one")).expect("changed");
            assert!(watch.has_changed());
        }
    }
}
