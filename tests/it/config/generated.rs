//! Properties over generated files: nothing that can be typed is a panic, and what is written is what is read.

use std::fmt::Write as _;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use ensign::config::check::{File, Loaded, Outside, Overrides, check};
use ensign::config::raw::Role;
use ensign::config::report::Report;
use ensign::config::*;
use proptest::prelude::*;

fn load(bytes: Vec<u8>) -> Result<Loaded, Report> {
    let nothing = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let outside = Outside {
        variables: [("A".into(), "b".into())].into(),
        hostname: "host".to_owned(),
        read: &nothing,
        is_public: &|_| false,
    };
    let file = File { path: "web.toml".into(), role: Role::Whole, bytes: Ok(bytes) };
    check(vec![file], &Overrides::default(), &outside)
}

fn settings(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Either a configuration, or a report that says why not.
fn answers(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    match load(bytes) {
        Ok(loaded) => prop_assert!(!loaded.config.services.is_empty() && !loaded.warnings.has_errors()),
        Err(report) => prop_assert!(report.has_errors() && report.to_string().contains("error: ")),
    }
    Ok(())
}

proptest! {
    #![proptest_config(settings(2000))]

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        answers(bytes)?;
    }

    #[test]
    fn any_text_gets_an_answer(text in "([a-z_]{1,6}|[\\[\\]{}=\"'.,\n\\$ 0-9]|é|\t){0,60}") {
        answers(text.into_bytes())?;
    }

    /// A file that was right, with pieces of it moved about.
    #[test]
    fn any_mangled_file_gets_an_answer(cuts in prop::collection::vec((any::<u16>(), 0_usize..40, any::<u16>()), 1..6)) {
        let mut text = include_bytes!("../../../config/full.toml").to_vec();
        for (from, length, to) in cuts {
            let from = usize::from(from) % text.len();
            let cut: Vec<u8> = text.drain(from..(from + length).min(text.len())).collect();
            let to = usize::from(to) % text.len();
            text.splice(to..to, cut);
        }
        answers(text)?;
    }
}

proptest! {
    #![proptest_config(settings(300))]

    #[test]
    fn what_is_written_is_read(config in config()) {
        let text = written(&config);
        let loaded = load(text.clone().into_bytes());
        let loaded = loaded.map_err(|report| TestCaseError::fail(format!("{report}\nof:\n{text}")))?;
        prop_assert_eq!(loaded.config, config, "{}", text);
    }
}

/// Milliseconds up to a day.
fn time(from: u64) -> impl Strategy<Value = Duration> {
    (from..86_400_000).prop_map(Duration::from_millis)
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}"
}

/// Whatever can be passed to a program, also what looks like a variable.
fn text() -> impl Strategy<Value = String> {
    "([^\u{0}]|\\$\\{?|\\$\\{A\\}){0,12}".prop_map(|text| text.replace('\0', ""))
}

fn argv() -> impl Strategy<Value = Vec<std::ffi::OsString>> {
    (word(), prop::collection::vec(text(), 0..4))
        .prop_map(|(program, rest)| [program].into_iter().chain(rest).map(Into::into).collect())
}

fn host_port() -> impl Strategy<Value = HostPort> {
    let host = prop_oneof![
        word(),
        any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
        any::<u128>().prop_map(|ip| std::net::Ipv6Addr::from(ip).to_string())
    ];
    let reserved = ["gateway", "registry", "srv", "unix", "env"];
    (host, 1_u16..)
        .prop_filter("means something else", move |(host, _)| !reserved.contains(&host.as_str()))
        .prop_map(|(host, port)| HostPort { host, port })
}

fn restart() -> impl Strategy<Value = Restart> {
    let when = prop_oneof![Just(RestartWhen::Always), Just(RestartWhen::OnFailure), Just(RestartWhen::Never)];
    (when, time(0), time(0), time(0), 1_u32.., time(1)).prop_map(
        |(when, a, b, reset_after, after, within)| Restart {
            when,
            delay: a.min(b),
            max_delay: a.max(b),
            reset_after,
            give_up: GiveUp { after, within },
        },
    )
}

fn probe_check() -> impl Strategy<Value = Check> {
    let http = (host_port(), "(/[a-z0-9%=?&.-]{0,8}){1,3}")
        .prop_map(|(authority, path)| Probe::Http(HttpTarget { authority, path }));
    let probe = prop_oneof![http, host_port().prop_map(Probe::Tcp), argv().prop_map(Probe::Exec)];
    let unhealthy = prop_oneof![Just(Unhealthy::Withdraw), Just(Unhealthy::Restart)];
    (probe, time(1), time(1), time(0), 1_u32.., 1_u32.., unhealthy).prop_map(
        |(probe, every, timeout, grace, rise, fall, unhealthy)| Check {
            probe,
            every,
            timeout,
            grace,
            rise,
            fall,
            unhealthy,
        },
    )
}

fn announce() -> impl Strategy<Value = Announce> {
    let rule = prop_oneof![
        Just(AddressRule::Auto),
        Just(AddressRule::Public),
        Just(AddressRule::Private),
        Just(AddressRule::Container),
        word().prop_map(AddressRule::Interface),
        (0_u8..=32).prop_map(|prefix| AddressRule::Cidr { network: [0, 0, 0, 0].into(), prefix }),
        (1_u32..0xe000_0000).prop_map(|ip| AddressRule::Literal(std::net::Ipv4Addr::from(ip).into())),
    ];
    (
        word(),
        word(),
        1_u16..,
        prop::collection::vec(rule, 1..4),
        2_u64..99_999,
        any::<u64>(),
        (1_u16.., 1_u16.., any::<bool>()),
    )
        .prop_map(|(name, instance, port, address, ttl, dns_ttl, (priority, weight, waits))| Announce {
            // Under one parent, and never with equal keys: the port is part of it.
            name: units::dns_name(&format!("n{port}-{name}.example.com")).expect("made of words"),
            instance: units::label(&format!("i-{instance}")).expect("made of words"),
            port,
            address,
            ttl: Duration::from_secs(ttl),
            dns_ttl: Duration::from_secs(dns_ttl % ttl + 1),
            priority,
            weight,
            conflict: if waits { Conflict::Wait } else { Conflict::Take },
        })
}

fn service() -> impl Strategy<Value = Service> {
    let stop = (1_i32..=64, time(0), prop::option::of(time(0)), time(0));
    let ready = (time(1), time(0));
    let balance =
        prop_oneof![Just(Balance::RoundRobin), Just(Balance::LeastConnections), Just(Balance::First)];
    let limit_of_link = prop::option::of(1_u32..).prop_map(|most| most.and_then(NonZeroU32::new));
    let given = (prop::option::of(time(1)), any::<bool>());
    // A UDP port and a Unix socket beside.
    let more = prop::option::of((time(1), 0_u32..0o1000, any::<(u16, u16)>()));
    let link = (host_port(), time(1), prop::option::of((1_u16.., more)), balance, limit_of_link, given);
    let link = link.prop_map(|(to, connect_timeout, listen, balance, max_connections, (wait, export))| {
        let address = |port| ([127, 0, 0, 1], port).into();
        let mut idle_timeout = Duration::from_secs(60);
        let mut is_udp = false;
        let listen = listen.map_or(Listen::Loopback, |(port, more)| {
            let mut places = vec![ListenAt::Tcp(address(port))];
            if let Some((idle, mode, (uid, gid))) = more {
                (idle_timeout, is_udp) = (idle, true);
                let owner = Some(Owner { uid: uid.into(), gid: Some(gid.into()) });
                places.push(ListenAt::Udp(address(port)));
                places.push(ListenAt::Unix(UnixSocket { path: "/run/l.sock".into(), mode, owner }));
            }
            Listen::At(places)
        });
        // A list where its port goes without saying, or is said.
        let second = HostPort { host: "second.example".to_owned(), port: to.port };
        let mut to = vec![Upstream::Gateway(to.port), Upstream::HostPort(to), Upstream::HostPort(second)];
        if listen != Listen::Loopback {
            to.push(Upstream::Srv("_pg._tcp.example".to_owned()));
        }
        if listen != Listen::Loopback && !is_udp {
            to.push(Upstream::Unix("/run/x.sock".into()));
        }
        Link {
            name: "l".to_owned(),
            listen,
            to,
            balance,
            connect_timeout,
            max_connections,
            idle_timeout,
            wait,
            export,
        }
    });
    let limit = (any::<u32>(), prop::option::of(any::<u32>())).prop_map(|(soft, more)| Limit {
        resource: Resource::Nofile,
        soft: Some(soft.into()),
        hard: more.map(|more| u64::from(soft) + u64::from(more)),
    });
    let env = prop::collection::btree_map("[A-Z_]{1,5}", text(), 0..3);
    (
        (
            argv(),
            prop::option::of("/[a-z]{1,5}"),
            env,
            prop::option::of(limit),
            any::<bool>(),
            prop::option::of(any::<(u16, u16)>()),
        ),
        (restart(), stop, ready),
        (prop::collection::vec(probe_check(), 0..3), prop::option::of(announce()), prop::option::of(link)),
    )
        .prop_map(
            |(
                (command, directory, env, limit, no_new_privileges, user),
                (restart, stop, ready),
                (checks, announce, link),
            )| Service {
                name: "web".to_owned(),
                command,
                directory: directory.map(Into::into),
                user: user.map(|(uid, gid)| User {
                    uid: uid.into(),
                    gid: gid.into(),
                    groups: vec![gid.into()],
                    name: None,
                    home: None,
                }),
                env: env.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
                limits: limit.into_iter().collect(),
                no_new_privileges,
                kind: Kind::Daemon,
                after: Vec::new(),
                restart,
                stop: Stop {
                    signal: Signal(stop.0),
                    drain: if announce.is_some() { stop.1 } else { Duration::ZERO },
                    timeout: stop.2,
                    sweep: stop.3,
                },
                ready: Ready {
                    by: if checks.is_empty() { ReadyBy::Start } else { ReadyBy::Checks },
                    timeout: ready.0,
                    settle: ready.1,
                },
                checks,
                announce: announce.into_iter().collect(),
                links: link.into_iter().collect(),
            },
        )
}

fn config() -> impl Strategy<Value = Config> {
    let hosts = || prop::collection::vec(host_port(), 1..3);
    let url = prop_oneof![
        hosts().prop_map(RegistryUrl::Etcd3),
        hosts().prop_map(RegistryUrl::Etcd2),
        "/[a-z/]{0,9}".prop_map(|path| RegistryUrl::Dir(path.into())),
    ];
    let env = prop_oneof![
        Just(EnvLinks::All),
        Just(EnvLinks::None),
        prop::collection::vec("[A-Z*?]{1,5}", 0..3).prop_map(EnvLinks::Matching),
    ];
    let workers = (1..=Workers::MOST).prop_filter_map("in range", Workers::new);
    let links = (env, workers).prop_map(|(env, workers)| Links { env, workers });
    let level = prop_oneof![Just(LogLevel::Error), Just(LogLevel::Info), Just(LogLevel::Trace)];
    let format = prop_oneof![Just(LogFormat::Text), Just(LogFormat::Json)];
    (service(), url, "(/[a-z0-9]{1,5}){1,3}", links, format, level).prop_map(
        |(service, url, prefix, links, format, level)| Config {
            services: vec![service],
            main: ServiceId(0),
            registry: Registry { url, prefix, tls: None, login: None },
            links,
            log: Log { format, level },
        },
    )
}

/// A TOML string whose variables are plain text.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(&text.replace("${", "$${")).expect("text is JSON");
    json.replace('\u{7f}', "\\u007f")
}

fn list<T>(items: &[T], each: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&each(item))).collect();
    format!("[{}]", items.join(", "))
}

fn span(duration: Duration) -> String {
    quoted(&humantime::format_duration(duration).to_string())
}

fn os(text: &std::ffi::OsString) -> String {
    text.to_str().expect("generated from text").to_owned()
}

fn written(config: &Config) -> String {
    let service = &config.services[0];
    let mut out = format!("command = {}\n", list(&service.command, os));
    let mut line = |text: String| writeln!(out, "{text}").expect("a String takes all");
    if let Some(directory) = &service.directory {
        line(format!("directory = {}", quoted(&directory.display().to_string())));
    }
    if let Some(user) = &service.user {
        line(format!("user = \"{}:{}\"", user.uid, user.gid));
    }
    let env: Vec<String> =
        service.env.iter().map(|(key, value)| format!("{} = {}", os(key), quoted(&os(value)))).collect();
    line(format!("env = {{ {} }}", env.join(", ")));
    let number = |limit: Option<u64>| limit.map_or("\"unlimited\"".to_owned(), |limit| limit.to_string());
    for limit in &service.limits {
        line(format!("limits.nofile = {{ soft = {}, hard = {} }}", number(limit.soft), number(limit.hard)));
    }
    line(format!("no_new_privileges = {}", service.no_new_privileges));
    let when = match service.restart.when {
        RestartWhen::Always => "always",
        RestartWhen::OnFailure => "on-failure",
        RestartWhen::Never => "never",
    };
    let restart = &service.restart;
    line(format!(
        "[restart]\nwhen = '{when}'\ndelay = {}\nmax_delay = {}",
        span(restart.delay),
        span(restart.max_delay)
    ));
    line(format!("reset_after = {}", span(restart.reset_after)));
    line(format!(
        "give_up = {{ after = {}, within = {} }}",
        restart.give_up.after,
        span(restart.give_up.within)
    ));
    let stop = &service.stop;
    line(format!(
        "[stop]\nsignal = '{}'\ndrain = {}\nsweep = {}",
        stop.signal.0,
        span(stop.drain),
        span(stop.sweep)
    ));
    line(format!("timeout = {}", stop.timeout.map_or("'never'".to_owned(), span)));
    let by = match service.ready.by {
        ReadyBy::Start => "start",
        ReadyBy::Checks => "checks",
    };
    line(format!(
        "[ready]\nby = '{by}'\ntimeout = {}\nsettle = {}",
        span(service.ready.timeout),
        span(service.ready.settle)
    ));
    for check in &service.checks {
        line("[[check]]".to_owned());
        line(match &check.probe {
            Probe::Http(target) => {
                format!("http = {}", quoted(&format!("http://{}{}", target.authority, target.path)))
            }
            Probe::Tcp(target) => format!("tcp = {}", quoted(&target.to_string())),
            Probe::Exec(argv) => format!("exec = {}", list(argv, os)),
        });
        line(format!(
            "every = {}\ntimeout = {}\ngrace = {}",
            span(check.every),
            span(check.timeout),
            span(check.grace)
        ));
        let unhealthy = match check.unhealthy {
            Unhealthy::Withdraw => "withdraw",
            Unhealthy::Restart => "restart",
        };
        line(format!("rise = {}\nfall = {}\nunhealthy = '{unhealthy}'", check.rise, check.fall));
    }
    for record in &service.announce {
        line(format!("[[announce]]\nname = '{}'\nport = {}", record.name.as_str(), record.port));
        line(format!("address = {}", list(&record.address, rule)));
        line(format!("instance = '{}'\nttl = {}", record.instance.as_str(), span(record.ttl)));
        line(format!(
            "dns_ttl = {}\npriority = {}\nweight = {}\nconflict = \"{}\"",
            span(record.dns_ttl),
            record.priority,
            record.weight,
            match record.conflict {
                Conflict::Take => "take",
                Conflict::Wait => "wait",
            }
        ));
    }
    for link in &service.links {
        let to = list(&link.to, |to| match to {
            Upstream::HostPort(to) => to.to_string(),
            Upstream::Registry(name) => format!("registry:{}", name.as_str()),
            Upstream::Gateway(port) => format!("gateway:{port}"),
            Upstream::Srv(name) => format!("srv:{name}"),
            Upstream::Unix(path) => format!("unix:{}", path.display()),
            Upstream::Env(_) => unreachable!("not generated"),
        });
        let balance = match link.balance {
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
            Balance::First => "first",
        };
        line(format!(
            "[[link]]\nname = '{}'\nto = {to}\nbalance = '{balance}'\nconnect_timeout = {}",
            link.name,
            span(link.connect_timeout)
        ));
        if let Some(most) = link.max_connections {
            line(format!("max_connections = {most}"));
        }
        if let Some(wait) = link.wait {
            line(format!("wait = {}", span(wait)));
        }
        line(format!("export = {}", link.export));
        if let Listen::At(addresses) = &link.listen {
            line(format!("listen = {}", list(addresses, ToString::to_string)));
            for place in addresses {
                match place {
                    ListenAt::Tcp(_) => {}
                    ListenAt::Udp(_) => line(format!("idle_timeout = {}", span(link.idle_timeout))),
                    ListenAt::Unix(UnixSocket { mode, owner, .. }) => {
                        line(format!("mode = '{mode:03o}'"));
                        if let Some(Owner { uid, gid: Some(gid) }) = owner {
                            line(format!("owner = '{uid}:{gid}'"));
                        }
                    }
                }
            }
        }
    }
    let hosts = |hosts: &[HostPort]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let url = match &config.registry.url {
        RegistryUrl::Etcd3(list) => format!("etcd://{}", hosts(list)),
        RegistryUrl::Etcd2(list) => format!("etcd2://{}", hosts(list)),
        RegistryUrl::Dir(path) => format!("dir:{}", path.display()),
    };
    line(format!("[registry]\nurl = {}\nprefix = '{}'", quoted(&url), config.registry.prefix));
    let env = match &config.links.env {
        EnvLinks::All => "true".to_owned(),
        EnvLinks::None => "false".to_owned(),
        EnvLinks::Matching(patterns) => list(patterns, Clone::clone),
    };
    line(format!("[links]\nenv = {env}\nworkers = {}", config.links.workers.get()));
    let log = (format!("{:?}", config.log.format), format!("{:?}", config.log.level));
    line(format!("[log]\nformat = '{}'\nlevel = '{}'", log.0.to_lowercase(), log.1.to_lowercase()));
    out
}

fn rule(rule: &AddressRule) -> String {
    match rule {
        AddressRule::Auto => "auto".to_owned(),
        AddressRule::Public => "public".to_owned(),
        AddressRule::Private => "private".to_owned(),
        AddressRule::Container => "container".to_owned(),
        AddressRule::Interface(name) => format!("interface:{name}"),
        AddressRule::Cidr { network, prefix } => format!("cidr:{network}/{prefix}"),
        AddressRule::Env { variable, .. } => format!("env:{variable}"),
        AddressRule::Literal(address) => address.to_string(),
    }
}
