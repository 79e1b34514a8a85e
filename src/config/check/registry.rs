//! `[registry]`: where announcements go, and what secures the way there.
//!
//! It must never put a password into a problem, nor show the line of one. Relative paths begin at the file's folder.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::values::Values;
use crate::config::raw::table::{At, Field};
use crate::config::report::{Problem, Where};
use crate::config::units::{self, Bad, Transport, Unfit};
use crate::config::{Identity, Login, Registry, RegistryUrl, Tls, raw};

/// The variable that names the system's bundle of certification authorities, as it does for OpenSSL and for Go.
pub const AUTHORITIES: &str = "SSL_CERT_FILE";

/// Where systems keep that bundle: Debian and Alpine, Fedora, SUSE, and the BSDs' way.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Docker and Kubernetes put secrets there for everybody in the container, by default.
const MOUNTED: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// `overridden` is the command line's URL. `None` after the reasons were reported.
pub fn check(
    raw: &raw::Registry,
    folder: &Path,
    overridden: Option<&str>,
    values: &mut Values<'_>,
) -> Option<Registry> {
    let from_file = url(&raw.url, values);
    let (url, about) = match overridden {
        Some(text) => (url_of_command_line(text, values), Where::Everywhere),
        None => (from_file, raw.url.place().map_or(Where::At(raw.place), Where::At)),
    };
    let prefix = values.or(&raw.prefix, "/skydns".to_owned(), units::registry_prefix);
    let (url, transport) = url?;
    let v2 = match &url {
        RegistryUrl::Etcd3(_) => false,
        RegistryUrl::Etcd2(_) => true,
        RegistryUrl::Dir(_) => {
            if overridden.is_none() {
                of_no_use(raw, values);
            }
            return Some(Registry { url, prefix: prefix?, tls: None, login: None });
        }
    };
    let wanted =
        transport == Transport::Tls || [&raw.ca, &raw.cert, &raw.key].iter().any(|field| !field.is_absent());
    let tls = if wanted { tls(raw, folder, about, values).map(Some) } else { Some(None) };
    let login = login(raw, folder, values);
    if let (Some(Some(login)), false) = (&login, wanted) {
        let place = raw.password_file.place().map_or(about, Where::At);
        let message =
            format!("the password of `{}` goes over the network as it is, for all to read", login.user);
        values.report.push(
            Problem::warning(place, message).hint("speak TLS: give `ca`, or write `etcds://` or `etcd2s://`"),
        );
    }
    if let (Some(at), true) = (raw.user.given().filter(|at| at.value.contains(':')), v2) {
        values.error(at.place, "the v2 API takes no user whose name holds a `:`");
        return None;
    }
    Some(Registry { url, prefix: prefix?, tls: tls?, login: login? })
}

fn url(field: &Field<String>, values: &mut Values<'_>) -> Option<(RegistryUrl, Transport)> {
    let default = || (RegistryUrl::Dir(PathBuf::from("/run/ensign/registry")), Transport::Unsaid);
    match field {
        Field::Absent => Some(default()),
        Field::Bad => None,
        Field::Given(at) => {
            if at.value.contains('@') {
                values.report.withhold(at.place);
            }
            let text = values.text(at)?;
            let url = units::registry_url(&text);
            url.map_err(|bad| match text.contains('@') {
                true => {
                    let message = format!("the URL is not {}: {}", bad.wanted, bad.why);
                    values
                        .report
                        .push(Problem::error(at.place, message).hint_if(bad.hint.map(str::to_owned)));
                }
                false => values.refuse(at, &text, bad),
            })
            .ok()
        }
    }
}

fn url_of_command_line(text: &str, values: &mut Values<'_>) -> Option<(RegistryUrl, Transport)> {
    let refused = |Bad { wanted, why, hint }| {
        // What stands before an `@` may be a password.
        let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
        let message = format!("`--registry {shown}` is not {wanted}: {why}");
        values.report.push(Problem::error(Where::Everywhere, message).hint_if(hint.map(str::to_owned)));
    };
    units::registry_url(text).map_err(refused).ok()
}

/// Says of each key that is about a connection that a folder has none.
fn of_no_use(raw: &raw::Registry, values: &mut Values<'_>) {
    let keys = [
        ("ca", &raw.ca),
        ("cert", &raw.cert),
        ("key", &raw.key),
        ("user", &raw.user),
        ("password_file", &raw.password_file),
    ];
    for (name, field) in keys {
        if let Some(place) = field.place() {
            values.error(place, format!("`{name}` is for etcd, and the registry is a folder"));
        }
    }
}

fn tls(raw: &raw::Registry, folder: &Path, about: Where, values: &mut Values<'_>) -> Option<Tls> {
    let ca = match &raw.ca {
        Field::Absent => system_bundle(about, values),
        Field::Bad => None,
        Field::Given(at) => file(at, folder, values).and_then(|(path, bytes)| {
            let trusted = units::authorities(&bytes);
            trusted.map_err(|why| unfit(at, &path, why, values)).ok().map(|_| path)
        }),
    };
    let identity = both([("cert", &raw.cert), ("key", &raw.key)], values).map(|pair| {
        let [cert_at, key_at] = pair?;
        let cert = file(cert_at, folder, values);
        let key = file(key_at, folder, values);
        let ((cert, chain), (key, key_bytes)) = cert.zip(key)?;
        warn_if_public(key_at, &key, "key", values);
        match units::identity(&chain, &key_bytes) {
            Ok(_) => Some(Some(Identity { cert, key })),
            Err(Unfit::Cert(why)) => {
                unfit(cert_at, &cert, why, values);
                None
            }
            Err(Unfit::Key(why)) => {
                unfit(key_at, &key, why, values);
                None
            }
        }
    });
    Some(Tls { ca: ca?, identity: identity.unwrap_or(Some(None))? })
}

fn login(raw: &raw::Registry, folder: &Path, values: &mut Values<'_>) -> Option<Option<Login>> {
    let pair = both([("user", &raw.user), ("password_file", &raw.password_file)], values);
    let Some(pair) = pair else { return Some(None) };
    let [user_at, file_at] = pair?;
    let user = values.text(user_at);
    let user = match user.as_deref() {
        Some("") => {
            values.error(user_at.place, "`user` is empty");
            None
        }
        _ => user,
    };
    let (path, bytes) = file(file_at, folder, values)?;
    warn_if_public(file_at, &path, "password", values);
    if let Err(why) = units::password(&bytes) {
        unfit(file_at, &path, why, values);
        return None;
    }
    Some(Some(Login { user: user?, password_file: path }))
}

/// Two keys that go together. Outer `None`: neither is given. Inner `None`: one of them is missing or bad.
fn both<'f>(
    fields: [(&str, &'f Field<String>); 2],
    values: &mut Values<'_>,
) -> Option<Option<[&'f At<String>; 2]>> {
    let [(first_name, first), (second_name, second)] = fields;
    match (first, second) {
        (Field::Absent, Field::Absent) => None,
        (Field::Given(first), Field::Given(second)) => Some(Some([first, second])),
        (Field::Given(at), Field::Absent) => {
            values.error(at.place, format!("`{first_name}` is given, and `{second_name}` is not"));
            Some(None)
        }
        (Field::Absent, Field::Given(at)) => {
            values.error(at.place, format!("`{second_name}` is given, and `{first_name}` is not"));
            Some(None)
        }
        (Field::Bad, _) | (_, Field::Bad) => Some(None),
    }
}

/// Where the file is, and what it holds now.
fn file(at: &At<String>, folder: &Path, values: &mut Values<'_>) -> Option<(PathBuf, Vec<u8>)> {
    let text = values.bytes(at)?;
    if text.is_empty() {
        values.error(at.place, "a path is empty");
        return None;
    }
    let path = folder.join(&text);
    match (values.outside.read)(&path) {
        Ok(bytes) => Some((path, bytes)),
        Err(error) => {
            values.error(at.place, format!("cannot read `{}`: {error}", at.value));
            None
        }
    }
}

fn unfit(at: &At<String>, path: &Path, why: &str, values: &mut Values<'_>) {
    values.error(at.place, format!("`{}` can't be used: {why}", path.display()));
}

fn warn_if_public(at: &At<String>, path: &Path, what: &str, values: &mut Values<'_>) {
    let mounted = MOUNTED.iter().any(|folder| path.starts_with(folder));
    if !mounted && (values.outside.is_public)(path) {
        let message = format!("everybody may read the {what} in `{}`", path.display());
        values.report.push(Problem::warning(at.place, message).hint("`chmod o-r` it"));
    }
}

/// The first that can be used of what this system has.
fn system_bundle(about: Where, values: &mut Values<'_>) -> Option<PathBuf> {
    let named = values.outside.variables.get(OsStr::new(AUTHORITIES)).filter(|path| !path.is_empty());
    let mut candidates = match named {
        Some(path) => vec![PathBuf::from(path)],
        None => BUNDLES.map(PathBuf::from).to_vec(),
    };
    let outside = values.outside;
    candidates.retain(|path| (outside.read)(path).is_ok_and(|bundle| units::authorities(&bundle).is_ok()));
    let found = candidates.into_iter().next();
    if found.is_none() {
        let why = match named {
            Some(path) => format!(
                "`{}`, which {AUTHORITIES} names, is no bundle of certification authorities",
                path.display()
            ),
            None => "there is no bundle of certification authorities on this system".to_owned(),
        };
        let message = format!("whom to trust is not known: {why}");
        let hint =
            "name a file with the certificate of the registry's authority: `ca = \"/etc/etcd/ca.pem\"`";
        values.report.push(Problem::error(about, message).hint(hint));
    }
    found
}
