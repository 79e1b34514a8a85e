//! What connects to the endpoints of a cluster. Over TLS it is made of files, and made anew when they have changed.
//!
//! The files are looked at before each request, aside: they may lie on a file system that hangs. It must never fall
//! silent over a file that went bad while there is a client made of an older one: that one goes on. Called by `endpoints`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::HeaderMap;
use rustls::pki_types::ServerName;

use super::endpoints::Endpoint;
use super::{REQUEST_TIMEOUT, files, reason};
use crate::config::{self, HostPort, units};
use crate::net::http::{Connection, Secure};
use crate::net::resolve::watched::Stamp;
use crate::net::tls;
use crate::registry::aside::Aside;
use crate::registry::error::Error;
use crate::registry::names::Names;

/// Name look-up and connection, and what it takes to secure it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// What it takes to connect to an endpoint; cheap to share.
#[derive(Debug, Clone)]
pub struct Client(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    names: Names,
    headers: HeaderMap,
    tls: Option<Arc<rustls::ClientConfig>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
}

/// Gives the client that requests are to be made with.
#[derive(Debug)]
pub enum Clients {
    Plain(Client),
    Tls(Arc<Tls>),
}

#[derive(Debug)]
pub struct Tls {
    names: Names,
    headers: HeaderMap,
    files: config::Tls,
    aside: Aside,
    /// Never locked while files are looked at.
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    of: Vec<Option<Stamp>>,
    client: Client,
    /// What was said of newer files that can't be used.
    told: Option<String>,
}

impl Clients {
    /// `headers` go with each request. Over TLS nothing is read yet.
    pub fn new(tls: Option<&config::Tls>, names: Names, headers: HeaderMap) -> Self {
        let (aside, made) = (Aside::default(), Mutex::default());
        match tls {
            None => Self::Plain(Client::new(&names, &headers, None)),
            Some(files) => Self::Tls(Arc::new(Tls { names, headers, files: files.clone(), aside, made })),
        }
    }

    /// The one that a URL need not name.
    pub fn usual_port(&self) -> u16 {
        match self {
            Self::Plain(_) => 80,
            Self::Tls(_) => 443,
        }
    }

    /// The client, made of the files as they are now. Error: they can't be used, and never could.
    pub async fn current(&self) -> Result<Client, Error> {
        match self {
            Self::Plain(client) => Ok(client.clone()),
            Self::Tls(tls) => tls.current().await,
        }
    }
}

impl Tls {
    async fn current(self: &Arc<Self>) -> Result<Client, Error> {
        let limit = if self.made().is_some() { files::PATIENCE } else { REQUEST_TIMEOUT };
        let tls = Arc::clone(self);
        let looked = self.aside.run(limit, move || tls.look()).await;
        match (looked.unwrap_or_else(|stuck| Err(files::stuck(&self.files.ca, &stuck))), &mut *self.made()) {
            (Ok(client), _) => Ok(client),
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

    fn look(&self) -> Result<Client, Error> {
        let of = stamps(&self.files);
        if let Some(made) = &*self.made()
            && made.of == of
            && !of.contains(&None)
        {
            return Ok(made.client.clone());
        }
        let client = self.make()?;
        *self.made() = Some(Made { of, client: client.clone(), told: None });
        Ok(client)
    }

    fn made(&self) -> MutexGuard<'_, Option<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> Result<Client, Error> {
        let files = &self.files;
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
        Ok(Client::new(&self.names, &self.headers, Some(tls::config(roots, identity))))
    }
}

fn stamps(files: &config::Tls) -> Vec<Option<Stamp>> {
    let identity = files.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
    std::iter::once(&files.ca).chain(identity).map(|path| Stamp::of(path)).collect()
}

impl Client {
    fn new(names: &Names, headers: &HeaderMap, tls: Option<rustls::ClientConfig>) -> Self {
        Self(Arc::new(Parts { names: names.clone(), headers: headers.clone(), tls: tls.map(Arc::new) }))
    }

    /// The very same, not one that was made anew.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What goes with each request.
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    pub fn transport(&self) -> Transport {
        if self.0.tls.is_some() { Transport::Tls } else { Transport::Plain }
    }

    /// A new connection to an endpoint, in time. Error: why there is none.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        let late = |_| Err(format!("no connection within {}", reason::shown(CONNECT_TIMEOUT)));
        tokio::time::timeout(CONNECT_TIMEOUT, self.open(endpoint)).await.unwrap_or_else(late)
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        let Parts { names, tls, .. } = &*self.0;
        let HostPort { host, port } = endpoint.at();
        let secure = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
                Some(Secure { config: Arc::clone(config), name })
            }
        };
        let found = names.lookup(host).await.map_err(|why| reason::in_line(&why))?;
        let addresses: Vec<SocketAddr> = found.into_iter().map(|ip| (ip, *port).into()).collect();
        let opened = Connection::open(&addresses, secure, endpoint.kept.ending()).await;
        opened.map_err(|error| reason::of(&error, self.transport()))
    }
}
