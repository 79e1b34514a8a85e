//! `ensign links --resolve`: where each link leads now, and which of that the next connection would try. Asks DNS and the
//! registry once, as a connection would have them asked; connects to no upstream. Called by the wiring.

use std::io::{self, Write};
use std::sync::Arc;

use crate::commands::table::aligned;
use crate::config::{self, Balance};
use crate::links::{self, Forward, Found, Plan, Way};
use crate::net::resolve::{Instance, Resolver};
use crate::registry::{self, Registry};

/// Writes each link's sources, and under each the addresses that it has now or why it has none.
pub async fn print(
    plan: &Plan,
    registry: &config::Registry,
    resolver: &Arc<Resolver>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for forward in &plan.forwards {
        writeln!(out, "\n{} at {}:", forward.source, forward.listen)?;
        let mut is_first = true;
        for way in &forward.to.ways {
            let announced = announced(way, registry, resolver).await.map_err(|error| error.to_string());
            writeln!(out, "  {way}")?;
            match links::found(way, resolver, announced).await {
                Err(reason) => writeln!(out, "    nothing: {reason}")?,
                Ok(found) => {
                    out.write_all(indented(forward, way, &found, &mut is_first).as_bytes())?;
                }
            }
        }
    }
    Ok(())
}

/// The addresses of one way, each with its turn. `is_first` as long as no address of the link has been shown.
fn indented(forward: &Forward, way: &Way, found: &[Found], is_first: &mut bool) -> String {
    let best = found.iter().map(|one| one.priority).min();
    let rows: Vec<_> = found
        .iter()
        .map(|one| {
            let turn = if forward.is_where_it_listens(one) {
                "this link itself"
            } else {
                match forward.to.balance {
                    Balance::First if std::mem::take(is_first) => "next",
                    Balance::RoundRobin | Balance::LeastConnections if Some(one.priority) == best => {
                        "in turn"
                    }
                    Balance::First | Balance::RoundRobin | Balance::LeastConnections => "standby",
                }
            };
            let says = match way {
                Way::Srv(_) | Way::Registry(_) => format!("priority {}, weight {}", one.priority, one.weight),
                Way::Peer(_) | Way::Host(_) | Way::Gateway(_) | Way::Unix(_) => String::new(),
            };
            [format!("    {}", one.address), turn.to_owned(), says]
        })
        .collect();
    aligned(&rows)
}

/// What the registry says of `way`, where it is a name in it.
pub async fn announced(
    way: &Way,
    registry: &config::Registry,
    resolver: &Arc<Resolver>,
) -> Result<Vec<Instance>, registry::Error> {
    match way {
        Way::Registry(name) => Registry::new(registry, Arc::clone(resolver))?.instances(name).await,
        Way::Peer(_) | Way::Host(_) | Way::Srv(_) | Way::Gateway(_) | Way::Unix(_) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::config::{
        Conflict, DnsName, EnvLinks, HostPort, Label, Link, Listen, ListenAt, RegistryUrl, Upstream,
    };
    use crate::registry::{Claim, Record};

    #[tokio::test]
    async fn each_source_has_its_addresses_or_its_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("hosts"), "10.0.0.1 db\n10.0.0.2 db\n").expect("write");
        let resolver = Resolver::with_files(folder.path().join("hosts"), folder.path().join("resolv.conf"));
        let url = RegistryUrl::Dir(folder.path().join("registry"));
        let registry = config::Registry { url, prefix: "/skydns".to_owned(), tls: None, login: None };
        let name = DnsName("web.example".to_owned());
        let link = Link {
            name: "x".to_owned(),
            listen: Listen::At(vec![ListenAt::Tcp("127.0.0.1:80".parse().expect("an address"))]),
            to: vec![
                Upstream::HostPort(HostPort { host: "db".to_owned(), port: 5432 }),
                Upstream::HostPort(HostPort { host: "gone".to_owned(), port: 1 }),
                Upstream::Registry(name.clone()),
                Upstream::Unix("/run/x.sock".into()),
            ],
            balance: Balance::First,
            connect_timeout: Duration::from_secs(1),
            max_connections: None,
            idle_timeout: Duration::from_secs(60),
            wait: None,
            export: false,
        };
        let record = Record {
            name,
            instance: Label("one".to_owned()),
            host: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            port: 80,
            priority: 10,
            weight: 70,
            dns_ttl: Duration::from_secs(5),
            conflict: Conflict::Take,
        };
        let resolver = Arc::new(resolver);
        let store = Registry::new(&registry, Arc::clone(&resolver)).expect("a registry");
        store
            .register(&Claim::new(vec![record], Duration::from_secs(60)), Conflict::Take)
            .await
            .expect("registered");
        let plan = links::plan_links(&EnvLinks::None, [("web", &link)], []);
        let mut out = Vec::new();
        print(&plan, &registry, &resolver, &mut out).await.expect("write to memory");
        let text = String::from_utf8(out).expect("text");
        let nowhere = format!("no name server in {}/resolv.conf", folder.path().display());
        assert_eq!(
            text,
            format!(
                "\nlink `x` of web at 127.0.0.1:80:\n  db:5432\n    10.0.0.1:5432  next\n    10.0.0.2:5432  standby\n  \
                 gone:1\n    nothing: cannot look up `gone`: {nowhere}\n  registry:web.example\n    192.0.2.7:80  \
                 standby  priority 10, weight 70\n  unix:/run/x.sock\n    unix:/run/x.sock  standby\n"
            )
        );
    }
}
