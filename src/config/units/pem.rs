//! What files hold that a connection is secured with: certificates, keys, passwords.
//!
//! Pure, and never quotes what it was given. Called by `check`, and by the registry when such a file has changed.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::config::Secret;

/// Which file of a certificate and its key is wrong, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    Cert(&'static str),
    Key(&'static str),
}

/// Whom to trust, from a bundle; what stands in it besides certificates, or is none that can be read, is passed over.
pub fn authorities(bundle: &[u8]) -> Result<RootCertStore, &'static str> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(bundle)?);
    if added == 0 { Err("none of its certificates can be read") } else { Ok(roots) }
}

/// Who we are: our certificate, with those that vouch for it, and its key.
pub fn identity(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, Unfit> {
    let chain = certificates(chain).map_err(Unfit::Cert)?;
    let encrypted = String::from_utf8_lossy(key).contains("ENCRYPTED");
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        Unfit::Key(match error {
            _ if encrypted => "the key is encrypted, and there is nobody to ask for its passphrase",
            PemError::NoItemsFound => "no private key in PEM is in it",
            _ => "this is not PEM",
        })
    })?;
    let key = ring::sign::any_supported_type(&key).map_err(|_| {
        Unfit::Key("the key is of no kind that can be used: RSA, ECDSA (P-256, P-384) or Ed25519")
    })?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) => Ok(Arc::new(identity)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Unfit::Key("it is not the certificate's key")),
        Err(_) => Err(Unfit::Cert("its first certificate can't be read")),
    }
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| "this is not PEM")?;
    if all.is_empty() { Err("no certificate in PEM is in it") } else { Ok(all) }
}

/// What a password's file holds, without the end of its line.
pub fn password(bytes: &[u8]) -> Result<Secret<String>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the password is not UTF-8")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err("no password is in it");
    }
    if text.contains(['\n', '\0']) {
        return Err("the password must be one line");
    }
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_a_line() {
        let password = |text: &str| password(text.as_bytes()).map(|secret| secret.expose().clone());
        assert_eq!(password("a b "), Ok("a b ".to_owned()));
        assert_eq!(password("x\n"), Ok("x".to_owned()));
        assert_eq!(password("x\r\n"), Ok("x".to_owned()));
        for bad in ["", "\n", "\r\n", "a\nb\n", "a\n\n", "a\0"] {
            assert!(password(bad).is_err(), "{bad:?}");
        }
        assert!(super::password(b"\xff").is_err());
    }

    #[test]
    fn what_is_no_pem_is_told() {
        for text in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            assert!(authorities(text.as_bytes()).is_err(), "{text}");
            assert!(matches!(identity(text.as_bytes(), b""), Err(Unfit::Cert(_))), "{text}");
        }
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(authorities(empty).map(|_| ()), Err("none of its certificates can be read"));
        assert_eq!(identity(empty, b"x").map(|_| ()), Err(Unfit::Key("no private key in PEM is in it")));
        let key = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(matches!(identity(empty, key), Err(Unfit::Key(why)) if why.contains("encrypted")));
    }
}
