//! The configuration as its users meet it: each invalid file gives the report that lies beside it, and what the
//! repository shows as valid is.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ensign::config::check::Outside;
use ensign::config::load::{Loaded, Overrides, load_with};
use ensign::config::report::Report;

use crate::support::certificates::{Authority, Pair, Validity};

mod generated;
mod reference;
mod valid;

/// Rewrites the reports instead of comparing them.
const BLESS: &str = "ENSIGN_BLESS";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\nlog:x:4:app\n";

/// What SECRET_FILE holds: no report may show it.
const SECRET: &str = "hunter2!";

/// What stands in /run/secrets of the examples in docs.
fn mounted(name: &str) -> io::Result<Vec<u8>> {
    static MADE: LazyLock<(Authority, Pair)> = LazyLock::new(|| {
        let authority = Authority::new();
        let pair = authority.issue("web", "DNS:web", Validity::Now);
        (authority, pair)
    });
    let (authority, pair) = &*MADE;
    match name {
        "ca.pem" => fs::read(authority.ca()),
        "web.pem" => fs::read(&pair.cert),
        "web.key" => fs::read(&pair.key),
        "etcd-password" => Ok(format!("{SECRET}\n").into_bytes()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if let Ok(name) = path.strip_prefix("/run/secrets") {
        return mounted(name.to_str().expect("text"));
    }
    match path.to_str() {
        Some("/etc/passwd") => Ok(PASSWD.into()),
        Some("/etc/group") => Ok(GROUP.into()),
        _ => fs::read(path),
    }
}

fn is_public(path: &Path) -> bool {
    path.ends_with("public.key")
}

/// The same world on every machine.
fn outside() -> Outside<'static> {
    let variables: [(&str, &OsStr); 7] = [
        ("HOSTNAME", OsStr::new("web-1")),
        ("EMPTY", OsStr::new("")),
        ("HOST_IP", OsStr::new("10.1.2.3")),
        ("BAD_IP", OsStr::new("not-an-address")),
        ("BYTES", OsStr::from_bytes(b"\xff")),
        ("SECRET_FILE", OsStr::new("tests/data/config/secret.txt")),
        ("GONE_FILE", OsStr::new("/nonexistent/secret")),
    ];
    let variables: BTreeMap<OsString, OsString> =
        variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Outside { variables, hostname: "web-1".to_owned(), read: &read, is_public: &is_public }
}

fn load(path: &Path) -> Result<Loaded, Report> {
    load_with(path, &Overrides::default(), &outside())
}

fn in_folder(text: &str, check: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("web.toml");
    fs::write(&path, text).expect("a file in it");
    check(&path);
}

/// Each `NAME.toml` and each folder of tests/data/config.
fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir("tests/data/config").expect("the tests run in the package's folder");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut cases: Vec<PathBuf> =
        paths.filter(|path| path.is_dir() || path.extension() == Some(OsStr::new("toml"))).collect();
    cases.sort();
    cases
}

#[test]
fn each_bad_file_gives_the_report_beside_it() {
    let mut differing = Vec::new();
    let cases = cases();
    assert!(cases.len() > 20, "{cases:?}");
    for path in cases {
        let report = match load(&path) {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(report) => {
                assert!(report.has_errors(), "{}", path.display());
                report.to_string()
            }
        };
        assert!(!report.contains(SECRET) && !report.contains("hunter2"), "a secret is shown:\n{report}");
        let expected = path.with_extension("report");
        if std::env::var_os(BLESS).is_some() {
            fs::write(&expected, &report).expect("the folder of the tests is writable");
        } else if fs::read_to_string(&expected).ok().as_deref() != Some(&report) {
            differing.push(format!("{}:\n{report}", expected.display()));
        }
    }
    assert!(differing.is_empty(), "{BLESS}=1 rewrites these:\n\n{}", differing.join("\n\n"));
}
