//! Configurations for the machine's tests, made by hand: short, and with the times that a test wants.

use std::time::Duration;

use ensign::config::{
    AddressRule, Announce, Balance, Check, Config, Conflict, EnvLinks, GiveUp, Kind, Link, Links, Listen,
    Log, LogFormat, LogLevel, Probe, Ready, ReadyBy, Registry, RegistryUrl, Restart, RestartWhen, Service,
    ServiceId, Signal, Stop, Unhealthy, Upstream, Workers, units,
};

pub const SECOND: Duration = Duration::from_secs(1);

/// A daemon with the documented defaults, no check and no announcement.
pub fn daemon(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        command: vec![name.into()],
        directory: None,
        user: None,
        env: Vec::new(),
        limits: Vec::new(),
        no_new_privileges: false,
        kind: Kind::Daemon,
        after: Vec::new(),
        restart: Restart {
            when: RestartWhen::OnFailure,
            delay: SECOND / 10,
            max_delay: 30 * SECOND,
            reset_after: 60 * SECOND,
            give_up: GiveUp { after: 20, within: 600 * SECOND },
        },
        stop: Stop {
            signal: Signal(15),
            drain: Duration::ZERO,
            timeout: Some(5 * SECOND),
            sweep: 2 * SECOND,
        },
        ready: Ready { by: ReadyBy::Start, timeout: 60 * SECOND, settle: SECOND },
        checks: Vec::new(),
        announce: Vec::new(),
        links: Vec::new(),
    }
}

pub fn check(unhealthy: Unhealthy) -> Check {
    Check {
        probe: Probe::Exec(vec!["true".into()]),
        every: 2 * SECOND,
        timeout: SECOND,
        grace: Duration::ZERO,
        rise: 1,
        fall: 2,
        unhealthy,
    }
}

/// A link that leads nowhere in particular, and is waited for.
pub fn awaited(name: &str, wait: Duration) -> Link {
    Link {
        name: name.to_owned(),
        listen: Listen::Loopback,
        to: vec![Upstream::Gateway(5432)],
        balance: Balance::RoundRobin,
        connect_timeout: 3 * SECOND,
        max_connections: None,
        idle_timeout: Duration::from_secs(60),
        wait: Some(wait),
        export: false,
    }
}

pub fn announce(name: &str) -> Announce {
    Announce {
        name: units::dns_name(name).expect("a valid name"),
        port: 8087,
        address: vec![AddressRule::Auto],
        instance: units::label("one").expect("a valid label"),
        ttl: 60 * SECOND,
        dns_ttl: 5 * SECOND,
        priority: 10,
        weight: 100,
        conflict: Conflict::Take,
    }
}

/// The first service is main.
pub fn config(services: Vec<Service>) -> Config {
    Config {
        services,
        main: ServiceId(0),
        registry: Registry {
            url: RegistryUrl::Dir("/nowhere".into()),
            prefix: "/skydns".to_owned(),
            tls: None,
            login: None,
        },
        links: Links { env: EnvLinks::None, workers: Workers::default() },
        log: Log { format: LogFormat::Text, level: LogLevel::Info },
    }
}
