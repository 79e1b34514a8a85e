//! An init whose loop dies of a bug as soon as main runs: `ensign::runtime` itself, with a configuration that no file
//! can say (a check that is due at the end of time), so that its loop panics for real and nothing of it is made up.

use std::process::ExitCode;
use std::time::Duration;

use ensign::config::{Probe, Unhealthy};
use ensign::links::{Exported, Links};
use ensign::{log, runtime, sys};

#[expect(dead_code, reason = "shared with the machine's tests, which use the rest")]
#[path = "plan.rs"]
mod plan;

fn main() -> ExitCode {
    sys::signals::block_all().expect("signals can be blocked");
    let mut main = plan::daemon("main");
    main.command = std::env::args_os().skip(1).collect();
    let mut check = plan::check(Unhealthy::Withdraw);
    (check.probe, check.timeout) = (Probe::Exec(vec!["sleep".into(), "1000".into()]), Duration::MAX);
    main.checks = vec![check];
    main.ready.timeout = Duration::MAX;
    let config = plan::config(vec![main]);
    log::init(config.log);
    runtime::run(config, Links::default(), vec![Exported::default()], None)
        .map_or(ExitCode::from(99), ExitCode::from)
}
