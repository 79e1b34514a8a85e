//! `ensign links`: what would be forwarded, and where the hosts file says that it is now. Starts, opens and looks up
//! nothing else; `--resolve` (`resolved`) looks up the rest. Called by the wiring.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use super::table::aligned;
use crate::config::{Config, HostPort};
use crate::links::docker_env::{self, Belongs, EnvLink};
use crate::links::{self, Bind, Forward, Plan, Source, Target, Way};
use crate::net::resolve::Hosts;

pub mod resolved;

/// How much `ensign links` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Plan,
    /// `--env`: the link variables that the main process would see, too.
    PlanAndVariables,
}

/// Writes the plan for `config` and the environment `env` as a table, then what is left out and why. The plan comes
/// back: with errors in it, `ensign run` would refuse to start.
pub fn run(
    config: &Config,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    hosts: &Hosts,
    show: Show,
    out: &mut dyn Write,
) -> io::Result<Plan> {
    let env: Vec<_> = env.into_iter().collect();
    let plan = links::plan(config, env.iter().cloned());
    print(&plan, hosts, out)?;
    match show {
        Show::Plan => {}
        Show::PlanAndVariables => {
            let main = &config.services[config.main.0];
            writeln!(out)?;
            let exported = links::exported(main, &plan);
            let given: Vec<_> = env.into_iter().filter(|(name, _)| !exported.replaces(name)).collect();
            // The later one wins, as for the service itself.
            let added: BTreeMap<_, _> = exported.variables().iter().chain(&main.env).cloned().collect();
            let added: Vec<_> = added.into_iter().collect();
            print_variables(&given, &added, out)?;
        }
    }
    Ok(plan)
}

fn print(plan: &Plan, hosts: &Hosts, out: &mut dyn Write) -> io::Result<()> {
    if plan.forwards.is_empty() {
        writeln!(out, "no links")?;
    } else {
        let titles = ["LISTEN", "TO", "SOURCE", "HOSTS FILE"].map(str::to_owned);
        let rows = plan.forwards.iter().map(|forward| row(forward, hosts));
        let rows: Vec<_> = std::iter::once(titles).chain(rows).collect();
        out.write_all(aligned(&rows).as_bytes())?;
    }
    for error in &plan.errors {
        writeln!(out, "error: {error}")?;
    }
    for notice in &plan.notices {
        writeln!(out, "note: {notice}")?;
    }
    Ok(())
}

fn row(forward: &Forward, hosts: &Hosts) -> [String; 4] {
    let listen = match &forward.listen {
        Bind::Loopback(transport, port) => format!("127.0.0.1:{port}{transport}, [::1]:{port}{transport}"),
        Bind::At(_) => forward.listen.to_string(),
    };
    let source = match &forward.source {
        Source::Variables(aliases) => format!("env {}", aliases.join(", ")),
        Source::File { .. } => forward.source.to_string(),
    };
    [listen, forward.to.to_string(), source, listed(&forward.to, hosts)]
}

/// What the hosts file says of a target now.
fn listed(to: &Target, hosts: &Hosts) -> String {
    let each: Vec<String> = to.ways.iter().map(|way| listed_way(way, hosts)).collect();
    each.join("; ")
}

fn listed_way(way: &Way, hosts: &Hosts) -> String {
    let (found, otherwise) = match way {
        Way::Peer(peer) => (links::listed(peer, hosts), "not listed: as the variable says"),
        Way::Host(HostPort { host, port }) => {
            if host.parse::<IpAddr>().is_ok() {
                return "-".to_owned();
            }
            let addresses = hosts.addresses(host).iter();
            (addresses.map(|&ip| SocketAddr::new(ip, *port)).collect(), "not listed: DNS")
        }
        Way::Srv(_) | Way::Registry(_) | Way::Gateway(_) | Way::Unix(_) => return "-".to_owned(),
    };
    if found.is_empty() { otherwise.to_owned() } else { join(&found) }
}

/// The link variables among `env` with the service's own `added` over it. A peer's own environment (`DB_ENV_…`) may
/// hold passwords, and so may what only looks like a link's variable: their names are shown, not their values.
fn print_variables(
    env: &[(OsString, OsString)],
    added: &[(OsString, OsString)],
    out: &mut dyn Write,
) -> io::Result<()> {
    let is_replaced = |name: &OsStr| added.iter().any(|(other, _)| other == name);
    let mut seen: Vec<_> = env.iter().filter(|(name, _)| !is_replaced(name)).chain(added).collect();
    seen.sort();
    seen.dedup_by(|a, b| a.0 == b.0);
    let links = docker_env::scan(seen.iter().map(|&variable| variable.clone()));
    for (name, value) in seen {
        let Some(name) = name.to_str() else { continue };
        let is_foreign = |link: &EnvLink| link.problems.iter().any(|why| why.is_of_the_value_of(name));
        let belongs = links.iter().map(|link| match is_foreign(link) {
            true => Belongs::Secretly,
            false => docker_env::belongs(name, &link.alias),
        });
        match belongs.max() {
            Some(Belongs::Yes) => writeln!(out, "{name}={}", value.to_string_lossy())?,
            Some(Belongs::Secretly) => writeln!(out, "{name}=(not shown)")?,
            Some(Belongs::No) | None => {}
        }
    }
    Ok(())
}

fn join(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Balance, EnvLinks, Link, Listen, ListenAt, Upstream};

    fn env(text: &str) -> Vec<(OsString, OsString)> {
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        lines.map(|(name, value)| (name.into(), value.into())).collect()
    }

    const ENV: &str = "DB_PORT_5432_TCP=tcp://172.17.0.5:5432
        DB_PORT=tcp://172.17.0.5:5432
        DB_NAME=/web/db
        DB_ENV_PASSWORD=hush
        DB_PASSWORD=not ours
        NS_PORT_53_UDP=udp://172.17.0.6:53
        C_PORT_11211_TCP=tcp://172.17.0.7:11211
        HOME=/root";

    fn text(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).expect("write to memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_plan_is_a_table_with_what_the_hosts_file_says_now() {
        let api = Link {
            name: "api".to_owned(),
            listen: Listen::At(vec![ListenAt::Tcp("127.0.0.1:8080".parse().expect("an address"))]),
            to: vec![Upstream::HostPort(HostPort { host: "api.example".to_owned(), port: 80 })],
            balance: Balance::First,
            connect_timeout: Duration::from_secs(1),
            max_connections: None,
            idle_timeout: Duration::from_secs(60),
            wait: None,
            export: false,
        };
        let plan = links::plan_links(&EnvLinks::All, [("web", &api)], env(ENV));
        let hosts = Hosts::parse(b"172.17.0.9 db\n");
        assert_eq!(
            text(|out| print(&plan, &hosts, out)),
            "LISTEN                          TO                SOURCE             HOSTS FILE\n\
             127.0.0.1:8080                  api.example:80    link `api` of web  not listed: DNS\n\
             127.0.0.1:11211, [::1]:11211    172.17.0.7:11211  env C              not listed: as the variable says\n\
             127.0.0.1:5432, [::1]:5432      172.17.0.5:5432   env DB             172.17.0.9:5432\n\
             127.0.0.1:53/udp, [::1]:53/udp  172.17.0.6:53     env NS             not listed: as the variable says\n"
        );
        assert_eq!(text(|out| print(&Plan::default(), &hosts, out)), "no links\n");
    }

    #[test]
    fn the_variables_of_links_are_shown_and_no_secret_of_a_peer() {
        let added = [("C_NAME".into(), "/web/cache".into()), ("DB_NAME".into(), "/web/other".into())];
        assert_eq!(
            text(|out| print_variables(&env(&format!("{ENV}\n        API_PORT_1_TCP=hush")), &added, out)),
            "API_PORT_1_TCP=(not shown)\n\
             C_NAME=/web/cache\n\
             C_PORT_11211_TCP=tcp://172.17.0.7:11211\n\
             DB_ENV_PASSWORD=(not shown)\n\
             DB_NAME=/web/other\n\
             DB_PORT=tcp://172.17.0.5:5432\n\
             DB_PORT_5432_TCP=tcp://172.17.0.5:5432\n\
             NS_PORT_53_UDP=udp://172.17.0.6:53\n"
        );
    }
}
