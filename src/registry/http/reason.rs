//! Why a request got no answer, or none to go by: one short line, in words. Pure.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage};
use serde_json::Value;

use super::tls::Transport;
use crate::net::http::below;

/// The cause at the bottom of what ended a connection of this kind, or kept it from being made.
pub fn of(error: &(dyn Error + 'static), transport: Transport) -> String {
    let mut cause: &(dyn Error + 'static) = error;
    loop {
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return insecure(error);
        }
        match below(cause) {
            Some(deeper) => cause = deeper,
            None => break,
        }
    }
    let text = cause.to_string();
    // Whoever closes a connection with something unread in it resets it.
    let is_reset = cause.downcast_ref().is_some_and(|e: &io::Error| e.kind() == ErrorKind::ConnectionReset);
    if transport == Transport::Plain && (is_reset || text == "connection closed before message completed") {
        return "it closed the connection without an answer: does it want TLS (`etcds://`)?".to_owned();
    }
    // Once it is secured, an error is one of HTTP.
    let is_secured = error.is::<hyper::Error>();
    if text == "tls handshake eof" || transport == Transport::Tls && is_reset && !is_secured {
        return "it closed the connection in the TLS handshake: does it speak TLS?".to_owned();
    }
    in_line(&text)
}

/// In the middle of a sentence.
pub fn in_line(text: &str) -> String {
    text.split(" (os error").next().unwrap_or(text).to_lowercase()
}

/// What keeps a connection from being secure.
fn insecure(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            // The latter where an authority was made anew under its old name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate has an unknown issuer: `ca` does not vouch for it".to_owned()
            }
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("its certificate has expired, at {}", date(*not_after))
            }
            CertificateError::Expired => "its certificate has expired".to_owned(),
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!("its certificate is not valid yet, but from {}", date(*not_before))
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names = if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") };
                let expected = expected.to_str();
                format!(
                    "its certificate is for another name (name mismatch): for {names}, not for {expected}"
                )
            }
            CertificateError::NotValidForName => {
                "its certificate is for another name (name mismatch)".to_owned()
            }
            other => format!("its certificate can't be trusted: {}", other.to_string().to_lowercase()),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "it wants a certificate of us: give `cert` and `key`".to_owned()
            }
            AlertDescription::CertificateExpired => {
                "it takes our certificate (`cert`) for expired".to_owned()
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => {
                format!("it refuses our certificate (`cert`), or has none of us ({alert:?})")
            }
            other => format!("it ended the TLS handshake: {other:?}"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS".to_owned()
        }
        other => format!("no TLS: {}", other.to_string().to_lowercase()),
    }
}

fn date(time: UnixTime) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    at.map_or_else(String::new, |at| humantime::format_rfc3339_seconds(at).to_string())
}

/// What an answer that is an error says, short enough for one line. etcd says it in JSON of three shapes, a proxy in
/// any way.
pub fn complaint(status: StatusCode, body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let message = json["message"].as_str().or_else(|| json["error"]["message"].as_str());
    let line = json["cause"].as_str().or(message).or_else(|| body.lines().next()).unwrap_or_default();
    let short: String = line.chars().take(200).collect();
    format!("{} (status {})", short.to_lowercase(), status.as_u16())
}

/// Whether etcd refuses us for the name in our certificate.
pub fn is_common_name(status: StatusCode, body: &str) -> bool {
    status == StatusCode::BAD_REQUEST && body.starts_with("CommonName of client")
}

/// As people write it.
pub fn shown(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_told_as_an_end_is() {
        let reset = io::Error::from_raw_os_error(libc::ECONNRESET);
        assert!(of(&reset, Transport::Tls).contains("does it speak TLS?"));
        assert!(of(&reset, Transport::Plain).contains("does it want TLS"));
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(of(&refused, Transport::Tls), "connection refused");
    }

    #[test]
    fn etcds_complaints_are_told_in_its_words() {
        for body in [
            r#"{"error":"etcdserver: no leader","code":14,"message":"etcdserver: no leader"}"#,
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#,
            r#"{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}"#,
        ] {
            let told = complaint(StatusCode::SERVICE_UNAVAILABLE, body);
            assert_eq!(told, "etcdserver: no leader (status 503)");
        }
    }
}
