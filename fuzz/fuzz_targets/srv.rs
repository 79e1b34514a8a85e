//! A name server's answer to a question for SRV records, from any bytes, by way of the resolver's own types. Never a panic,
//! and nobody who can't be connected to.
//!
//! `cargo +nightly fuzz run srv fuzz/corpus/srv -- -max_total_time=60`

#![no_main]

use std::sync::LazyLock;

use ensign::net::resolve::{Resolver, located};
use hickory_resolver::proto::op::Message;
use libfuzzer_sys::fuzz_target;

static NAMES: LazyLock<Resolver> = LazyLock::new(|| Resolver::with_files("/nonexistent", "/nonexistent"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::from_vec(bytes) else { return };
    let found = located(&message.answers, &message.additionals);
    assert!(found.len() <= message.answers.len());
    for (instance, _) in found {
        assert!(instance.port > 0 && !instance.host.is_empty());
        NAMES.listed(&instance.host);
    }
});
