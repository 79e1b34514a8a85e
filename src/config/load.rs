//! The one reader: finds the files of a configuration and gathers what they may refer to.
//!
//! All reading of the config module is here; what the bytes mean is `check`'s. A file that can't be read is an
//! error, never passed over. Called by the commands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub use super::check::{Loaded, Overrides};

use super::check::{self, File, Outside};
use super::raw::Role;
use super::report::{Problem, Report, Where};
use super::{Config, check::AUTHORITIES};

/// The settings common to all services of a directory.
const COMMON_FILE: &str = "ensign.toml";

/// No file that is meant is larger; one without an end is not waited for.
const LARGEST: u64 = 1 << 20;

/// Loads the configuration at `path`: a service's file, or a directory of them.
///
/// # Errors
/// Everything that is wrong with it, in one report.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Loaded, Report> {
    let hostname =
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let variables = std::env::vars_os().collect();
    let outside = Outside { variables, hostname, read: &read_file, is_public: &is_public };
    load_with(path, overrides, &outside)
}

/// The configuration of a command without any file. Nothing is read, unless the overrides name a registry that takes
/// the system's certification authorities.
///
/// # Errors
/// What is wrong with the overrides.
pub fn wrap(command: Vec<OsString>, overrides: &Overrides) -> Result<Config, Report> {
    let variables = std::env::var_os(AUTHORITIES).map(|path| (AUTHORITIES.into(), path));
    let variables = BTreeMap::from_iter(variables);
    let outside = Outside { variables, hostname: String::new(), read: &read_file, is_public: &is_public };
    check::wrap(command, overrides, &outside)
}

/// As [`load`], within another environment.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, overrides: &Overrides, outside: &Outside<'_>) -> Result<Loaded, Report> {
    let files = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => directory(path)?,
        Ok(_) | Err(_) => vec![file(path, Role::Whole)],
    };
    check::check(files, overrides, outside)
}

fn file(path: &Path, role: Role) -> File {
    File { path: path.to_owned(), role, bytes: read_file(path).map_err(|error| error.to_string()) }
}

/// `*.toml` as a shell takes it: without hidden files.
fn directory(path: &Path) -> Result<Vec<File>, Report> {
    let cannot = |error: io::Error| only(format!("cannot read the directory `{}`: {error}", path.display()));
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".toml") && !bytes.starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    if names.iter().all(|name| name == COMMON_FILE) {
        return Err(only(format!("there is no service's file, `NAME.toml`, in `{}`", path.display())));
    }
    let role = |name: &OsString| if name == COMMON_FILE { Role::Common } else { Role::Service };
    Ok(names.iter().map(|name| file(&path.join(name), role(name))).collect())
}

fn only(message: String) -> Report {
    let mut report = Report::default();
    report.push(Problem::error(Where::Everywhere, message));
    report
}

fn is_public(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}
