//! Reads what secures a connection: small files that others rewrite. Opens nothing but regular files, since anything
//! else could make us wait. Called, aside, by `tls`, `auth` and `token`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use crate::registry::aside::Stuck;
use crate::registry::error::Error;

/// No file that is meant is longer.
const LONGEST: u64 = 1 << 20;

/// How long a look at newer files is waited for where there is something made of older ones.
pub const PATIENCE: Duration = Duration::from_millis(150);

/// Nothing is known of this file, for this reason.
pub fn stuck(path: &Path, stuck: &Stuck) -> Error {
    Error::File { path: path.to_owned(), reason: stuck.to_string() }
}

/// What the file holds now.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::File { path: path.to_owned(), reason };
    let said = |error: std::io::Error| failed(error.to_string().to_lowercase());
    if !fs::metadata(path).map_err(said)?.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(said)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > LONGEST {
        return Err(failed(format!("it is longer than {} MiB", LONGEST >> 20)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_make_us_wait_is_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        for path in [&pipe, folder.path(), Path::new("/dev/zero"), Path::new("/nonexistent")] {
            assert!(matches!(read(path), Err(Error::File { .. })), "{}", path.display());
        }
    }
}
