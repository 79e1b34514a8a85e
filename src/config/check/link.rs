//! `[[link]]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::Subject;
use super::across::{Claims, Listener, Name};
use super::values::Values;
use crate::config::raw::table::{At, Field};
use crate::config::report::Problem;
use crate::config::units::Bad;
use crate::config::{Balance, Link, Listen, ListenAt, Upstream, raw, units};

/// A UDP client that is silent for so long is forgotten.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest path of a socket, without the final NUL.
const UNIX_MAX: usize = 107;

pub fn check(
    raw: &raw::Link,
    subject: &Subject<'_>,
    values: &mut Values<'_>,
    claims: &mut Claims,
) -> Option<Link> {
    let name = values.required(&raw.name, "name", raw.place, units::service_name);
    let listen = listen(&raw.listen, values);
    let to = upstreams(raw, values);
    let balances = [
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
        ("first", Balance::First),
    ];
    let balance = values.choice(&raw.balance, Balance::RoundRobin, &balances);
    let connect_timeout = values.or(&raw.connect_timeout, Duration::from_secs(3), units::positive_duration);
    let implied = match (&listen, &to) {
        (Some(Given::Nothing), Some(to)) => implied(raw, to, values),
        (Some(_), _) | (None, _) => Some(None),
    };
    let max_connections = match raw.max_connections.is_absent() {
        true => Some(None),
        false => values.number(&raw.max_connections, 1, 1..=u32::MAX).map(NonZeroU32::new),
    };
    let wait = values.optional(&raw.wait, units::positive_duration);
    let export = raw.export.given().is_some_and(|at| at.value);

    let typed = raw.name.given().map_or("?", |at| &at.value);
    let mut claim = |addresses, place| {
        let (service, link) = (subject.name.to_owned(), typed.to_owned());
        claims.listeners.push(Listener { addresses, service, link, place });
    };
    if let Some(Given::At(list)) = &listen {
        list.iter().for_each(|at| claim(vec![at.value], at.place));
    } else if let Some(Some(port)) = implied {
        let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let addresses = both.map(|address| SocketAddr::new(address, port)).to_vec();
        claim(addresses, raw.to.place().unwrap_or(raw.place));
    }
    if let (Some(value), Some(typed)) = (&name, raw.name.given()) {
        claims.links.push((subject.id, Name { value: value.clone(), typed: typed.clone() }));
        if export {
            let alias = units::docker_alias(value);
            claims.exports.push((subject.id, Name { value: alias, typed: typed.clone() }));
        }
    }
    // What can't be implied has been reported.
    implied?;
    Some(Link {
        name: name?,
        listen: match listen? {
            Given::Nothing => Listen::Loopback,
            Given::At(addresses) => {
                Listen::At(addresses.into_iter().map(|at| ListenAt::Tcp(at.value)).collect())
            }
        },
        to: to?,
        balance: balance?,
        connect_timeout: connect_timeout?,
        max_connections: max_connections?,
        idle_timeout: IDLE_TIMEOUT,
        wait: wait?,
        export,
    })
}

enum Given {
    Nothing,
    At(Vec<At<SocketAddr>>),
}

fn listen(field: &Field<Vec<At<String>>>, values: &mut Values<'_>) -> Option<Given> {
    let list = match field {
        Field::Absent => return Some(Given::Nothing),
        Field::Bad => return None,
        Field::Given(list) => list,
    };
    if list.value.is_empty() {
        let problem = Problem::error(list.place, "`listen` is empty");
        values.report.push(problem.hint("leave it out to listen at 127.0.0.1 and [::1]"));
        return None;
    }
    let mut address =
        |at: &At<String>| values.parse(at, units::listen).map(|value| At { value, place: at.place });
    let all: Vec<Option<_>> = list.value.iter().map(&mut address).collect();
    all.into_iter().collect::<Option<_>>().map(Given::At)
}

/// The port to listen at where `listen` is left out. `Some(None)`: the ports of a Docker link, which are only known
/// from the environment. `None`: there is no one port, which is reported.
fn implied(raw: &raw::Link, to: &[Upstream], values: &mut Values<'_>) -> Option<Option<u16>> {
    if let [Upstream::Env(_)] = to {
        return Some(None);
    }
    let mut ports = to.iter().map(Upstream::port);
    let first = ports.next().flatten();
    if first.is_some() && ports.all(|port| port == first) {
        return Some(first);
    }
    let problem = Problem::error(
        raw.to.place().unwrap_or(raw.place),
        "the port to listen at does not follow from `to`",
    );
    values.report.push(problem.hint("say it with `listen`, as in `listen = \"127.0.0.1:5432\"`"));
    None
}

fn upstreams(raw: &raw::Link, values: &mut Values<'_>) -> Option<Vec<Upstream>> {
    let list = values.present(&raw.to, "to", raw.place)?;
    if list.value.is_empty() {
        values.error(list.place, "`to` is empty");
        return None;
    }
    let mut all: Vec<Option<Upstream>> = Vec::new();
    for at in &list.value {
        let parsed = values.parse(at, upstream);
        if parsed.is_some() && all.contains(&parsed) {
            values.error(at.place, format!("`{}` stands here twice", at.value));
        }
        all.push(parsed);
    }
    all.into_iter().collect()
}

fn upstream(text: &str) -> Result<Upstream, Bad> {
    const WANTED: &str = "an upstream";
    const HINT: &str = "it is written like `db:5432`, `[fd00::1]:5432`, `srv:_pg._tcp.example.com`, `registry:pg.example.com`, `gateway:8000`, \
                        `unix:/run/db.sock` or `env:DB`, the latter for a Docker link";
    let bad = |why: &str| Bad { wanted: WANTED, why: why.to_owned(), hint: Some(HINT) };
    let is_alias = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '=');
    match text.split_once(':') {
        Some(("env", alias)) if is_alias(alias) => Ok(Upstream::Env(alias.to_owned())),
        Some(("env", _)) => Err(bad("`env:` must be followed by the link's alias")),
        Some(("srv", name)) => units::host_name(name).map(Upstream::Srv).map_err(|inner| bad(&inner.why)),
        Some(("gateway", port)) => units::port(port).map(Upstream::Gateway).map_err(|inner| bad(&inner.why)),
        Some(("unix", path)) if !path.starts_with('/') => Err(bad("the socket's path must begin with `/`")),
        Some(("unix", path)) if path.len() > UNIX_MAX || path.contains('\0') => {
            Err(bad("no socket can have this path: it is longer than 107 bytes, or holds a NUL"))
        }
        Some(("unix", path)) => Ok(Upstream::Unix(path.into())),
        Some(("registry", name)) => {
            units::dns_name(name).map(Upstream::Registry).map_err(|inner| bad(&inner.why))
        }
        Some(_) | None => units::host_port(text).map(Upstream::HostPort).map_err(|inner| bad(&inner.why)),
    }
}
