//! One integration binary for everything that needs more than one module.

#[path = "../support/mod.rs"]
mod support;

mod announce;
mod config;
mod docker;
mod demo;
mod etcd;
mod explore;
mod init;
mod links;
mod machine;
