//! Docker's link variables, and what they say: `DB_PORT_5432_TCP=tcp://172.17.0.2:5432`, its details, ranges, and
//! `DB_NAME`. Pure: it works on variables that it is given, any bytes, and never panics, reads the environment,
//! opens or logs anything. Called by `plan`; `ensign links --env` asks it which variables belong to a link.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use crate::config::units::docker_alias as alias_of;

/// A longer range of ports is refused: it is a mistake, or media traffic that wants no forwarder.
pub const LONGEST_RANGE: usize = 256;

/// One alias and what its variables say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvLink {
    /// As the variables spell it: upper case, `_` for `-`.
    pub alias: String,
    /// As the hosts file spells it: the last part of `<ALIAS>_NAME=/web/db`.
    pub name: Option<String>,
    pub origin: Origin,
    /// In the order of protocol (TCP first) and number, each number once for a protocol.
    pub ports: Vec<EnvPort>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Docker,
    /// A service variable of the kubelet's, in the same shape: there may be thousands, none of them asked for.
    Kubernetes,
}

/// One port of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvPort {
    pub protocol: Protocol,
    /// The number in the variable's name: the one that the program expects.
    pub number: u16,
    /// The variable's value. Docker makes the two numbers equal; who writes the variable by hand may not.
    pub to: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A variable that was passed over. Never shows a value: any variable may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("`{variable}` is passed over: its value is not `{protocol}://ADDRESS:PORT`")]
    Value { variable: String, protocol: Protocol },
    #[error("`{variable}` is passed over: `{number}` is not a port from 1 to 65535")]
    Number { variable: String, number: String },
    #[error("`{variable}` is passed over: the range has no `{missing}`")]
    HalfRange { variable: String, missing: String },
    #[error("`{variable}` is passed over: the range does not end where it could")]
    Range { variable: String },
    #[error("`{variable}` is passed over: a range of {ports} ports is longer than {LONGEST_RANGE}")]
    LongRange { variable: String, ports: usize },
    #[error("`{variable}` is passed over: it points at this end")]
    Itself { variable: String },
}

impl Problem {
    /// The value of the variable `name` is none that Docker would give it: it is somebody else's, whatever it is.
    pub fn is_of_the_value_of(&self, name: &str) -> bool {
        match self {
            Self::Value { variable, .. } | Self::Number { variable, .. } => variable == name,
            Self::HalfRange { .. } | Self::Range { .. } | Self::LongRange { .. } | Self::Itself { .. } => {
                false
            }
        }
    }
}

/// What a variable of a link says, besides its alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Start,
    End,
    /// `_ADDR`, `_PORT`, `_PROTO`, `_PORT_START`, `_PORT_END`: nothing that the others don't say.
    Detail,
}

const PARTS: [(&str, Part); 8] = [
    ("", Part::Whole),
    ("_START", Part::Start),
    ("_END", Part::End),
    ("_ADDR", Part::Detail),
    ("_PORT", Part::Detail),
    ("_PROTO", Part::Detail),
    ("_PORT_START", Part::Detail),
    ("_PORT_END", Part::Detail),
];

const PROTOCOLS: [(&str, Protocol); 3] =
    [("_TCP", Protocol::Tcp), ("_UDP", Protocol::Udp), ("_SCTP", Protocol::Sctp)];

/// The links that `env` describes, in the order of their aliases. Of a variable that is there twice the first
/// counts, as for getenv(3).
pub fn scan(env: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<EnvLink> {
    let mut variables = BTreeMap::new();
    for (name, value) in env {
        // A name that is not text names no alias that Docker would allow.
        if let Ok(name) = name.into_string() {
            variables.entry(name).or_insert(value);
        }
    }
    let mut found: BTreeMap<&str, Finding> = BTreeMap::new();
    for (name, value) in &variables {
        if let Some(variable) = Variable::parse(name)
            && variable.part != Part::Detail
        {
            found.entry(variable.alias).or_default().take(variable, value.to_str());
        }
    }
    let is_set = |alias: &str, rest: &str| variables.contains_key(&format!("{alias}{rest}"));
    found
        .into_iter()
        .map(|(alias, finding)| {
            let name = variables.get(&format!("{alias}_NAME")).and_then(|value| value.to_str());
            let name = name.and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
            let kubernetes = is_set(alias, "_SERVICE_HOST") && is_set(alias, "_SERVICE_PORT");
            finding.into_link(
                alias.to_owned(),
                name.map(str::to_owned),
                if kubernetes { Origin::Kubernetes } else { Origin::Docker },
            )
        })
        .collect()
}

/// Whether the variable `name` was made for the link of `alias`.
pub fn belongs(name: &str, alias: &str) -> Belongs {
    match name.strip_prefix(alias) {
        Some("_NAME" | "_PORT") => Belongs::Yes,
        Some(rest) if rest.starts_with("_ENV_") => Belongs::Secretly,
        Some(_) if Variable::parse(name).is_some_and(|variable| variable.alias == alias) => Belongs::Yes,
        Some(_) | None => Belongs::No,
    }
}

/// In the order of what counts when several aliases are asked about: a possible secret goes before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Belongs {
    No,
    Yes,
    /// A variable of the peer's own environment: its value may be a password.
    Secretly,
}

/// Whether the whole of `alias` matches the shell pattern (`*`, `?`); case is ignored and `-` is `_`.
pub fn matches(pattern: &str, alias: &str) -> bool {
    let (pattern, alias): (Vec<char>, Vec<char>) =
        (alias_of(pattern).chars().collect(), alias_of(alias).chars().collect());
    let (mut p, mut a) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: that `*` takes one more.
    let mut retry = None;
    while a < alias.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, a + 1));
                p += 1;
            }
            Some(&c) if c == '?' || c == alias[a] => (p, a) = (p + 1, a + 1),
            Some(_) | None => match retry {
                Some((after, from)) => {
                    (p, a) = (after, from);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// A variable's name, taken apart.
#[derive(Debug, Clone, Copy)]
struct Variable<'a> {
    name: &'a str,
    alias: &'a str,
    /// Digits, of whatever size.
    number: &'a str,
    protocol: Protocol,
    part: Part,
}

impl<'a> Variable<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        PARTS.iter().find_map(|&(suffix, part)| {
            let rest = name.strip_suffix(suffix)?;
            let (rest, protocol) =
                PROTOCOLS.iter().find_map(|&(suffix, kind)| Some((rest.strip_suffix(suffix)?, kind)))?;
            let (rest, number) = rest.rsplit_once('_')?;
            let alias = rest.strip_suffix("_PORT")?;
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            (is_number && !alias.is_empty()).then_some(Self { name, alias, number, protocol, part })
        })
    }
}

/// What was found for one alias so far.
#[derive(Default)]
struct Finding {
    whole: BTreeMap<(Protocol, u16), (String, SocketAddr)>,
    starts: BTreeMap<(Protocol, u16), (String, SocketAddr)>,
    ends: BTreeMap<(Protocol, u16), (String, SocketAddr)>,
    problems: Vec<Problem>,
}

impl Finding {
    fn take(&mut self, variable: Variable<'_>, value: Option<&str>) {
        let Variable { name, number, protocol, part, alias: _ } = variable;
        let name = name.to_owned();
        let Some(port) = port(number) else {
            self.problems.push(Problem::Number { variable: name, number: number.to_owned() });
            return;
        };
        let Some(to) = value.and_then(|value| target(value, protocol)) else {
            self.problems.push(Problem::Value { variable: name, protocol });
            return;
        };
        let place = match part {
            Part::Whole => &mut self.whole,
            Part::Start => &mut self.starts,
            Part::End => &mut self.ends,
            Part::Detail => return,
        };
        place.insert((protocol, port), (name, to));
    }

    fn into_link(mut self, alias: String, name: Option<String>, origin: Origin) -> EnvLink {
        let mut ports = BTreeMap::new();
        for (&key, (variable, start)) in &self.starts {
            match self.ends.remove(&key) {
                Some((_, end)) => match range(variable, key.1, *start, end) {
                    Ok(range) => ports.extend(range.map(|(n, to)| ((key.0, n), (variable.clone(), to)))),
                    Err(problem) => self.problems.push(problem),
                },
                None => self.problems.push(half(variable, "_START", "_END")),
            }
        }
        self.problems.extend(self.ends.values().map(|(variable, _)| half(variable, "_END", "_START")));
        // What a port's own variable says goes before what a range says.
        ports.extend(self.whole);
        let mut link = EnvLink { alias, name, origin, ports: Vec::new(), problems: self.problems };
        for ((protocol, number), (variable, to)) in ports {
            if to.port() == number && is_this_end(to.ip()) {
                link.problems.push(Problem::Itself { variable });
            } else {
                link.ports.push(EnvPort { protocol, number, to });
            }
        }
        link
    }
}

/// The ports of a range: the number in the name with the address that it stands for.
fn range(
    variable: &str,
    first: u16,
    start: SocketAddr,
    end: SocketAddr,
) -> Result<impl Iterator<Item = (u16, SocketAddr)>, Problem> {
    let more = end.port().checked_sub(start.port()).filter(|_| start.ip() == end.ip());
    let last = more.and_then(|more| first.checked_add(more));
    let Some(last) = last else {
        return Err(Problem::Range { variable: variable.to_owned() });
    };
    let ports = usize::from(last - first) + 1;
    if ports > LONGEST_RANGE {
        return Err(Problem::LongRange { variable: variable.to_owned(), ports });
    }
    Ok((first..=last).zip((start.port()..=end.port()).map(move |port| SocketAddr::new(start.ip(), port))))
}

fn half(variable: &str, has: &str, lacks: &str) -> Problem {
    let missing = format!("{}{lacks}", variable.strip_suffix(has).unwrap_or(variable));
    Problem::HalfRange { variable: variable.to_owned(), missing }
}

/// `tcp://172.17.0.2:5432`. Docker writes an IPv6 address without brackets; both are read.
fn target(value: &str, protocol: Protocol) -> Option<SocketAddr> {
    let (scheme, rest) = value.split_once("://")?;
    let (host, number) = rest.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => host.parse().ok()?,
    };
    scheme.eq_ignore_ascii_case(&protocol.to_string()).then_some(SocketAddr::new(address, port(number)?))
}

fn port(digits: &str) -> Option<u16> {
    // `parse` would take a sign.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}

fn is_this_end(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests;
