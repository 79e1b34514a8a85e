//! One integration binary for everything that needs more than one module.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "clippy.toml is for PID 1: a test starts, waits for and prints what it likes"
)]

#[path = "../support/mod.rs"]
mod support;

mod announce;
mod cluster;
mod config;
mod demo;
mod docker;
mod etcd;
mod etcd_secure;
mod explore;
mod history;
mod init;
mod lanes;
mod links;
mod machine;
mod moves;
mod online;
mod run;
mod sources;
mod tidy;
