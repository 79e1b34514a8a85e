//! Docker's link variables, from any bytes: the scan and the plan never panic, and open no more than they may.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use ensign::config::EnvLinks;
use ensign::links::docker_env::matches;
use ensign::links::plan::MOST_AUTOMATIC;
use ensign::links::plan_links;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // As the kernel hands an environment over: NAME=value, ended by a NUL.
    let env = data.split(|&byte| byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (variable[..at].to_vec(), variable[at + 1..].to_vec());
        Some((OsString::from_vec(name), OsString::from_vec(value)))
    });
    let plan = plan_links(&EnvLinks::All, [], env);
    assert!(plan.errors.is_empty());
    assert!(plan.forwards.len() <= MOST_AUTOMATIC);
    for notice in &plan.notices {
        assert!(!notice.to_string().is_empty());
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some((pattern, alias)) = text.split_once('\n')
    {
        matches(pattern, alias);
    }
});
