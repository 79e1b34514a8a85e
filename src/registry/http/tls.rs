//! The HTTP client of a cluster. Over TLS it is made of files, and made anew when they have changed.
//!
//! The files are looked at before each request, which takes microseconds and no timer. It must never fall silent over
//! a file that went bad while there is a client made of an older one: that one goes on. Called by `endpoints`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::HeaderMap;

use super::{REQUEST_TIMEOUT, files, reason};
use crate::config::{self, units};
use crate::net::resolve::watched::Stamp;
use crate::net::tls;
use crate::registry::error::Error;
use crate::registry::names::Names;

/// Name look-up and connection, and what it takes to secure it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Gives the client that requests are to be made with.
#[derive(Debug)]
pub struct Clients {
    names: Names,
    headers: HeaderMap,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Plain(Client),
    Tls { files: config::Tls, made: Mutex<Option<Made>> },
}

#[derive(Debug)]
struct Made {
    of: Vec<Option<Stamp>>,
    client: Client,
    /// What was said of newer files that can't be used.
    told: Option<String>,
}

impl Clients {
    /// `headers` go with each request. Over TLS nothing is read yet. Error: no client to be had.
    pub fn new(tls: Option<&config::Tls>, names: Names, headers: HeaderMap) -> Result<Self, Error> {
        let way = match tls {
            None => Way::Plain(build(&names, &headers, tls::none())?),
            Some(files) => Way::Tls { files: files.clone(), made: Mutex::new(None) },
        };
        Ok(Self { names, headers, way })
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        match &self.way {
            Way::Plain(_) => "http",
            Way::Tls { .. } => "https",
        }
    }

    /// The client, made of the files as they are now. Error: they can't be used, and never could.
    pub fn current(&self) -> Result<Client, Error> {
        let (files, made) = match &self.way {
            Way::Plain(client) => return Ok(client.clone()),
            Way::Tls { files, made } => (files, made),
        };
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        let of = stamps(files);
        if let Some(made) = &*made
            && made.of == of
            && !of.contains(&None)
        {
            return Ok(made.client.clone());
        }
        match (self.make(files), &mut *made) {
            (Ok(client), made) => {
                *made = Some(Made { of, client: client.clone(), told: None });
                Ok(client)
            }
            (Err(error), None) => Err(error),
            (Err(error), Some(made)) => {
                let error = error.to_string();
                if made.told.as_ref() != Some(&error) {
                    tracing::warn!("registry: {error}; what was read before is used on");
                    made.told = Some(error);
                }
                Ok(made.client.clone())
            }
        }
    }

    fn make(&self, files: &config::Tls) -> Result<Client, Error> {
        let unfit = |path: &Path, why: &str| Error::File { path: path.to_owned(), reason: why.to_owned() };
        let roots = units::authorities(&files::read(&files.ca)?).map_err(|why| unfit(&files.ca, why))?;
        let identity = match &files.identity {
            None => None,
            Some(config::Identity { cert, key }) => {
                let identity = units::identity(&files::read(cert)?, &files::read(key)?);
                Some(identity.map_err(|wrong| match wrong {
                    units::Unfit::Cert(why) => unfit(cert, why),
                    units::Unfit::Key(why) => unfit(key, why),
                })?)
            }
        };
        build(&self.names, &self.headers, tls::config(roots, identity))
    }
}

fn stamps(files: &config::Tls) -> Vec<Option<Stamp>> {
    let identity = files.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
    std::iter::once(&files.ca).chain(identity).map(|path| Stamp::of(path)).collect()
}

fn build(names: &Names, headers: &HeaderMap, tls: rustls::ClientConfig) -> Result<Client, Error> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .default_headers(headers.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(None)
        .tcp_nodelay(true)
        .dns_resolver(names.clone())
        .build()
        .map_err(|e| Error::Client { reason: reason::of(&e) })
}
