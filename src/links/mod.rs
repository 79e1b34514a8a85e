//! Links: a listener inside the container for each service that runs elsewhere.
//!
//! [`plan`] says what would be forwarded and opens nothing; [`open`] opens it, all listeners before it returns. Then
//! one thread (`worker`) accepts (`listener`), finds where a connection goes (`upstream`, which asks a `source` and a
//! `picker`) and moves its bytes (`relay`). The control thread never sees a byte, and a panic in a connection ends that connection alone.
//!
//! Called by the wiring of `ensign run` and by `ensign links`. Never imports checks or the registry: they meet only
//! as events.

pub mod docker_env;
pub mod export;
mod picker;
pub mod plan;

mod acceptor;
mod bind;
mod connection;
mod counters;
mod dial;
mod doorbell;
mod endpoint;
mod engine;
mod feed;
mod found;
mod holder;
mod own;
mod pipes;
mod reach;
mod relay;
mod shared;
mod side;
mod slots;
mod source;
mod udp;
mod upstream;
mod worker;

pub use counters::{CONNECT_BOUNDS_US, Counters, Place};
pub use export::{Exported, exported};
pub use feed::{Feed, Follow};
pub use found::{Found, found};
pub use holder::Holder;
pub use plan::{
    Bind, Forward, Notice, Peer, Plan, PlanError, Source, Target, Transport, Way, plan, plan_links,
};
pub use reach::Reach;
pub use source::listed;
pub use worker::{LinkError, Links, Opened, open, open_following};
