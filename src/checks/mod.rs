//! Checks over the network: each probe runs once and says how it went. No timeout, no repetition, no verdict over
//! several probes in here: the caller ends a probe by dropping it, and the machine counts. An exec check is a child
//! like any other and none of this module's business. Called by the runtime.

use std::io;

use crate::net::resolve::ResolveError;

pub mod http;
pub mod tcp;

/// Why a probe did not pass, in a few words for `status` and the log.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Lookup(#[from] ResolveError),
    #[error("connection refused")]
    Refused,
    #[error("connection reset")]
    Reset,
    #[error("no answer")]
    NoAnswer,
    #[error("status {0}")]
    Status(u16),
    /// Something else, in the words of who noticed.
    #[error("{0}")]
    Other(String),
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset => Self::Reset,
            io::ErrorKind::TimedOut => Self::NoAnswer,
            _ => Self::Other(error.to_string()),
        }
    }
}
