//! From one piece of text to one value: durations, sizes, signals, names, addresses, URLs, users.
//!
//! Pure: no file, no environment, no look-up. Called by `check`, and by whoever has to read such a value from
//! the command line.

mod hosts;
mod links;
mod names;
mod pem;
mod quantity;
mod users;

pub use hosts::{Transport, address_rule, host_name, host_port, http_url, port, registry_url};
pub use links::{listen, mode, upstream};
pub use names::{dns_name, docker_alias, label, make_label, registry_prefix, service_name};
pub use pem::{Unfit, authorities, identity, password};
pub use quantity::{duration, duration_or_never, limit, limit_number, positive_duration, signal};
pub use users::{owner, user};

/// Why a text was refused. Only `why` may quote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {wanted}: {why}")]
pub struct Bad {
    /// With its article: `a duration`.
    pub wanted: &'static str,
    pub why: String,
    pub hint: Option<&'static str>,
}

impl Bad {
    fn new(wanted: &'static str, why: impl Into<String>) -> Self {
        Self { wanted, why: why.into(), hint: None }
    }

    fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }
}
