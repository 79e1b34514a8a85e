//! The files of a folder: made, locked, read, written whole and swept, each step under the lock. It must never follow a
//! link where it makes or changes something. Called by `dir`.

use super::*;

/// A root that we make is ours alone to write to. One that several users are to share is made beforehand with the
/// mode they need (`0777`, or `2775` and a common group): everything below takes after it, whatever the umask. A sticky
/// root (`1777`) works as long as no two users announce the same instance of a name.
pub(super) fn make_root(root: &Path) -> Result<(), Error> {
    at(root, fs::DirBuilder::new().recursive(true).mode(0o755).create(root))
}

pub(super) fn make_folders(root: &Path, file: &Path) -> Result<(), Error> {
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
pub(super) fn file_mode(root: &Path) -> Result<u32, Error> {
    Ok(at(root, fs::metadata(root))?.permissions().mode() & 0o666 | 0o600)
}

/// Takes the one lock of the folder; it ends with the value, or with the process.
pub(super) fn lock(root: &Path) -> Result<Flock<File>, Error> {
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
pub(super) fn open_lock(root: &Path, path: &Path) -> Result<File, Error> {
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
pub(super) fn read(path: &Path) -> Result<Option<Result<Stored, String>>, Error> {
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

pub(super) fn write(root: &Path, path: &Path, stored: &Stored) -> Result<(), Error> {
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
pub(super) fn walk(folder: &Path) -> Result<Vec<PathBuf>, Error> {
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
pub(super) fn sweep(root: &Path, prefix: &str) {
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
