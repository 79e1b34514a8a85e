//! What the tests share.

pub mod etcd;
pub mod namespace;
pub mod process;
pub mod skip;
pub mod terminal;
pub mod wait;
