//! TLS for HTTP clients: rustls with ring, one configuration a client and none for the process.
//!
//! Says how, never whom to trust: that comes from the configuration. Called by whoever makes a connection that is secured.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

/// Trusts `roots`, and shows `identity` to whoever asks. Each connection is checked anew: none is resumed.
pub fn config(roots: RootCertStore, identity: Option<Arc<CertifiedKey>>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what every version of TLS needs")
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config
}
