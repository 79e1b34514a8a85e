//! `[[link]]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::across::{Claims, Listener, Name};
use super::values::Values;
use super::{Subject, accounts};
use crate::config::raw::table::{At, Field};
use crate::config::report::Problem;
use crate::config::{Balance, Link, Listen, ListenAt, Owner, UnixSocket, Upstream, User, raw, units};

/// Of a Unix socket: its owner alone, who is the service that the link is for.
const MODE: u32 = 0o600;

/// A UDP client that is silent for so long is forgotten.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// `user` is who the service runs as.
pub fn check(
    raw: &raw::Link,
    subject: &Subject<'_>,
    user: Option<&User>,
    values: &mut Values<'_>,
    claims: &mut Claims,
) -> Option<Link> {
    let name = values.required(&raw.name, "name", raw.place, units::service_name);
    let access = access(raw, user, values);
    let listen = listen(&raw.listen, access.unwrap_or((MODE, None)), values);
    let to = upstreams(raw, values);
    let balances = [
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
        ("first", Balance::First),
    ];
    let balance = values.choice(&raw.balance, Balance::RoundRobin, &balances);
    let connect_timeout = values.or(&raw.connect_timeout, Duration::from_secs(3), units::positive_duration);
    let idle_timeout = values.or(&raw.idle_timeout, IDLE_TIMEOUT, units::positive_duration);
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
    if let (Some(listen), Some(to)) = (&listen, &to) {
        fit(raw, listen, to, values);
    }

    let typed = raw.name.given().map_or("?", |at| &at.value);
    let mut claim = |places, typed_at, place| {
        let (service, link) = (subject.name.to_owned(), typed.to_owned());
        claims.listeners.push(Listener { places, typed: typed_at, service, link, place });
    };
    if let Some(Given::At(list)) = &listen {
        for (at, typed) in list {
            claim(vec![at.value.clone()], Some(typed.clone()), at.place);
        }
    } else if let Some(Some(port)) = implied {
        let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let places = both.map(|address| ListenAt::Tcp(SocketAddr::new(address, port))).to_vec();
        claim(places, None, raw.to.place().unwrap_or(raw.place));
    }
    if let (Some(value), Some(typed)) = (&name, raw.name.given()) {
        claims.links.push((subject.id, Name { value: value.clone(), typed: typed.clone() }));
        if export {
            let alias = units::docker_alias(value);
            claims.exports.push((subject.id, Name { value: alias, typed: typed.clone() }));
        }
    }
    // What can't be has been reported.
    implied?;
    access?;
    Some(Link {
        name: name?,
        listen: match listen? {
            Given::Nothing => Listen::Loopback,
            Given::At(places) => Listen::At(places.into_iter().map(|(at, _)| at.value).collect()),
        },
        to: to?,
        balance: balance?,
        connect_timeout: connect_timeout?,
        max_connections: max_connections?,
        idle_timeout: idle_timeout?,
        wait: wait?,
        export,
    })
}

enum Given {
    Nothing,
    /// Each with its text.
    At(Vec<(At<ListenAt>, String)>),
}

/// Mode and owner of the link's Unix sockets. Where no owner is given, the service's user: whoever it is must be able
/// to connect.
fn access(raw: &raw::Link, user: Option<&User>, values: &mut Values<'_>) -> Option<(u32, Option<Owner>)> {
    let mode = values.or(&raw.mode, MODE, units::mode);
    let owner = accounts::parse(&raw.owner, values, units::owner);
    let of_service = user.map(|user| Owner { uid: user.uid, gid: Some(user.gid) });
    Some((mode?, owner?.or(of_service)))
}

fn listen(
    field: &Field<Vec<At<String>>>,
    (mode, owner): (u32, Option<Owner>),
    values: &mut Values<'_>,
) -> Option<Given> {
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
    let socket = |path: PathBuf| UnixSocket { path, mode, owner };
    let mut place = |at: &At<String>| {
        let value = values.parse(at, |text| units::listen(text, socket))?;
        if value.is_open_to_others() {
            let message = format!(
                "others than this container's processes can reach `{}`: listen at 127.0.0.1 or [::1] to keep them out",
                at.value
            );
            values.report.push(Problem::warning(at.place, message));
        }
        Some((At { value, place: at.place }, at.value.clone()))
    };
    let all: Vec<Option<_>> = list.value.iter().map(&mut place).collect();
    all.into_iter().collect::<Option<_>>().map(Given::At)
}

/// Whether both ends go together, and the keys with them.
fn fit(raw: &raw::Link, listen: &Given, to: &[Upstream], values: &mut Values<'_>) {
    let places = match listen {
        Given::Nothing => &[][..],
        Given::At(places) => places,
    };
    let leads_to_socket = to.iter().any(|to| matches!(to, Upstream::Unix(_)));
    let (mut may_be_udp, mut has_socket) = (false, false);
    for (At { value, place }, _) in places {
        match value {
            ListenAt::Tcp(_) => {}
            ListenAt::Udp(_) => {
                may_be_udp = true;
                if leads_to_socket {
                    values.error(*place, "what comes over UDP can't go to a Unix socket");
                }
            }
            ListenAt::Unix(socket) => {
                has_socket = true;
                if to.contains(&Upstream::Unix(socket.path.clone())) {
                    values.error(*place, "the link leads to where it listens itself");
                }
            }
        }
    }
    let only_udp = !places.is_empty() && places.iter().all(|(at, _)| matches!(at.value, ListenAt::Udp(_)));
    if let (Some(at), true) = (raw.wait.given(), only_udp) {
        values.error(
            at.place,
            "nothing tells whether UDP is taken: `wait` is for a link that takes connections",
        );
    }
    // Docker's variables may name UDP ports.
    may_be_udp |= places.is_empty() && matches!(to, [Upstream::Env(_)]);
    for (field, name) in [(&raw.mode, "mode"), (&raw.owner, "owner")] {
        if let (Some(at), false) = (field.given(), has_socket) {
            values.error(at.place, format!("`{name}` is for a link that listens at a Unix socket"));
        }
    }
    if let (Some(at), false) = (raw.idle_timeout.given(), may_be_udp) {
        values.error(at.place, "`idle_timeout` is for a link that listens for UDP: connections have none");
    }
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
        let parsed = values.parse(at, units::upstream);
        if parsed.is_some() && all.contains(&parsed) {
            values.error(at.place, format!("`{}` stands here twice", at.value));
        }
        all.push(parsed);
    }
    all.into_iter().collect()
}
