//! Any bytes as the file of a service, with no file to read: an answer, and never a panic. A report must show
//! nothing that only a variable held.
//!
//! `cargo +nightly fuzz run config fuzz/corpus/config config tests/data/config -- -max_total_time=60`

#![no_main]

use std::io;
use std::path::Path;

use ensign::config::check::{File, Outside, Overrides, check, env_file};
use ensign::config::raw::Role;
use libfuzzer_sys::fuzz_target;

/// Nothing that a fuzzer types by chance.
const SECRET: &str = "\u{1f980}0b7e1d";

fuzz_target!(|bytes: &[u8]| {
    let read = |path: &Path| match path.to_str() {
        Some("/secret") => Ok(SECRET.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let outside = Outside {
        variables: [("A".into(), "b".into()), ("S_FILE".into(), "/secret".into())].into(),
        hostname: "host".to_owned(),
        read: &read,
        is_public: &|_| true,
    };
    let file = |path: &str, role| File { path: path.into(), role, bytes: Ok(bytes.to_owned()) };
    for files in [
        vec![file("web.toml", Role::Whole)],
        vec![file("ensign.toml", Role::Common), file("a.toml", Role::Service), file("b.toml", Role::Service)],
    ] {
        let report = match check(files, &Overrides::default(), &outside) {
            Ok(loaded) => loaded.warnings,
            Err(report) => {
                assert!(report.has_errors());
                report
            }
        };
        assert!(!report.to_string().contains(SECRET));
    }
    env_file::parse(bytes);
});
