//! Why a registry could not do what it was asked. Every message is a lower-case fragment that names where and why.

use std::path::PathBuf;

/// An operation failed. Its outcome is unknown unless the registry refused: withdraw the claim, or ask again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one endpoint gave an answer to go by.
    #[error("no endpoint of the registry gave an answer: {}", list(.tried))]
    Unreachable { tried: Vec<Failure> },
    /// etcd understood and said no.
    #[error("etcd at {endpoint} refused: {message}")]
    Refused { endpoint: String, message: String },
    /// etcd does not take us for whom we say we are.
    #[error("etcd at {endpoint}: wrong user or password (user `{user}`)")]
    Login { endpoint: String, user: String },
    /// etcd wants to know who we are.
    #[error("etcd at {endpoint} wants a user and a password: give `user` and `password_file`")]
    Nobody { endpoint: String },
    /// etcd's JSON gateway can't take a user from a certificate, so it refuses one that looks as if it should.
    #[error(
        "etcd at {endpoint} takes no client certificate with a CommonName while its auth is on: use one without"
    )]
    CommonName { endpoint: String },
    /// We may not do this there.
    #[error("etcd at {endpoint}: permission denied for key `{key}`")]
    Denied { endpoint: String, key: String },
    /// What the v2 API says in either case.
    #[error("etcd at {endpoint}: wrong user or password, or permission denied for key `{key}`")]
    LoginOrDenied { endpoint: String, key: String },
    /// What secures the connection can't be had.
    #[error("`{}`: {reason}", .path.display())]
    File { path: PathBuf, reason: String },
    /// Something answered that does not speak the protocol.
    #[error("{endpoint} does not answer like etcd: {reason}")]
    NotEtcd { endpoint: String, reason: String },
    /// The v2 API is off, as it is by default since etcd 3.4.
    #[error(
        "etcd at {endpoint} does not serve the v2 API\nhint: start it with `--enable-v2=true`, or use `etcd://` for v3"
    )]
    V2Off { endpoint: String },
    /// Others kept writing to the same key.
    #[error("`{key}` is being written by others all the time")]
    Contended { key: String },
    /// The registry's folder can't be used.
    #[error("`{}`: {reason}", .path.display())]
    Folder { path: PathBuf, reason: String },
    /// The URL names something that can't be an endpoint.
    #[error("`{endpoint}` is not a host and port: {reason}")]
    Endpoint { endpoint: String, reason: String },
}

impl Error {
    /// What is wrong with the endpoint that answered so, where another one may answer all the same.
    pub(super) fn of_endpoint(&self) -> Option<String> {
        match self {
            Self::NotEtcd { reason, .. } => Some(format!("it does not answer like etcd: {reason}")),
            Self::V2Off { .. } => {
                Some("it does not serve the v2 API: start it with `--enable-v2=true`".to_owned())
            }
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Login { .. }
            | Self::Nobody { .. }
            | Self::CommonName { .. }
            | Self::Denied { .. }
            | Self::LoginOrDenied { .. }
            | Self::File { .. }
            | Self::Contended { .. }
            | Self::Folder { .. }
            | Self::Endpoint { .. } => None,
        }
    }
}

/// What one endpoint did instead of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub endpoint: String,
    pub reason: String,
}

fn list(tried: &[Failure]) -> String {
    let each: Vec<String> = tried.iter().map(|f| format!("{}: {}", f.endpoint, f.reason)).collect();
    each.join("; ")
}
