//! DNS through hickory, as resolv.conf asks: its servers, search domains and ndots. Never reads the hosts file (the
//! resolver does), never waits longer than `DNS_LIMIT`. Used by the resolver alone.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record};
use hickory_resolver::system_conf::parse_resolv_conf;

use super::watched::Watched;
use super::{Answer, DNS_LIMIT, Instance, ResolveError};

/// One attempt on one server takes no longer than this, whatever resolv.conf allows.
const ATTEMPT: Duration = Duration::from_secs(2);

/// An answer is believed for no longer than this, "no such name" included: a peer that moved or came up is found
/// soon, while Podman's name server of old says a day for a container's address, and so do zones for what is missing.
const BELIEVED: Duration = Duration::from_secs(5);

/// The engine's own name server, in each container on a user-defined network. It says 600 s of an address that is
/// another container's with the next start, and it is on this machine: asked each time, as every C library does.
const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// Answers kept. A container knows few names.
const CACHE: u64 = 256;

#[derive(Debug)]
pub(super) struct Dns {
    conf: Watched<Result<TokioResolver, NetError>>,
    port: u16,
}

impl Dns {
    pub(super) fn at(resolv_conf: impl Into<PathBuf>) -> Self {
        Self { conf: Watched::at(resolv_conf), port: 53 }
    }

    #[cfg(test)]
    pub(super) fn is_started(&self) -> bool {
        self.conf.is_read() && self.conf.get(|bytes| build(bytes, self.port)).is_ok()
    }

    /// The A and AAAA records of `host`; not empty.
    pub(super) async fn lookup(&self, host: &str) -> Result<Answer<IpAddr>, ResolveError> {
        self.ask(host, async |resolver| {
            let answer = resolver.lookup_ip(host).await?;
            Ok(Answer { found: answer.iter().collect(), until: answer.valid_until() })
        })
        .await
    }

    /// The SRV records of `name`, each with what the answer says of its target's addresses; not empty.
    pub(super) async fn instances(
        &self,
        name: &str,
    ) -> Result<Answer<(Instance, Vec<IpAddr>)>, ResolveError> {
        self.ask(name, async |resolver| {
            let answer = resolver.srv_lookup(name).await?;
            Ok(Answer { found: located(answer.answers(), answer.additionals()), until: answer.valid_until() })
        })
        .await
    }

    /// A question to DNS within the limit; an empty answer is "not found".
    async fn ask<T>(
        &self,
        name: &str,
        question: impl AsyncFnOnce(&TokioResolver) -> Result<Answer<T>, NetError>,
    ) -> Result<Answer<T>, ResolveError> {
        let failed = |reason: String| ResolveError::Failed { name: name.to_owned(), reason };
        let resolver = self.conf.get(|bytes| build(bytes, self.port));
        let Ok(resolver) = resolver.as_ref() else {
            return Err(failed(format!("no name server in {}", self.conf.path().display())));
        };
        let Ok(answer) = tokio::time::timeout(DNS_LIMIT, question(resolver)).await else {
            return Err(failed("no answer from DNS".to_owned()));
        };
        match answer {
            Ok(answer) if answer.found.is_empty() => Err(ResolveError::NotFound { name: name.to_owned() }),
            Ok(answer) => Ok(answer),
            Err(error) if error.is_no_records_found() => {
                Err(ResolveError::NotFound { name: name.to_owned() })
            }
            Err(NetError::Timeout) => Err(failed("no answer from DNS".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// The instances that the SRV records among `answers` name, each with the addresses that came `along` for its target.
pub fn located(answers: &[Record], along: &[Record]) -> Vec<(Instance, Vec<IpAddr>)> {
    let records = answers.iter().filter_map(|record| match &record.data {
        // A root target says that there is no such service, and nobody listens at port 0.
        RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => Some(srv),
        _ => None,
    });
    let located = records.map(|srv| {
        let SRV { target, port, priority, weight, .. } = srv;
        let host = target.to_utf8();
        let extra = along.iter().filter(|record| record.name == *target);
        let addresses = extra.filter_map(|record| record.data.ip_addr()).collect();
        (Instance { host, port: *port, priority: *priority, weight: *weight }, addresses)
    });
    located.collect()
}

fn build(resolv_conf: &[u8], port: u16) -> Result<TokioResolver, NetError> {
    let (parsed, asked) = parse_resolv_conf(resolv_conf)?;
    let mut servers = parsed.name_servers().to_vec();
    for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = port;
    }
    // The search list holds `domain` already. What hickory adds is the hostname's own domain, tried first: no C
    // library does that where there is a search list.
    let asks_docker = servers.iter().any(|server| server.ip == DOCKER);
    let config = ResolverConfig::from_parts(None, parsed.search().to_vec(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.ndots = asked.ndots;
    options.edns0 = asked.edns0;
    options.timeout = asked.timeout.clamp(Duration::from_secs(1), ATTEMPT);
    // hickory counts what comes after the first.
    options.attempts = asked.attempts.clamp(1, 2) - 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHE;
    let believed = if asks_docker { Duration::ZERO } else { BELIEVED };
    options.positive_max_ttl = Some(believed);
    options.negative_max_ttl = Some(believed);
    builder.build()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::mpsc;
    use std::time::Instant;

    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::{Record, RecordType};

    use super::*;

    /// A name server for `zone` on `address`; each question that it gets is told.
    fn serve(
        socket: UdpSocket,
        zone: &'static [(&'static str, u32, &'static str)],
    ) -> mpsc::Receiver<String> {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let question = Message::from_vec(&packet[..length]).expect("a question");
                let query = question.queries.first().expect("one query").clone();
                let name = query.name().to_utf8();
                let mut answer = question.into_response();
                let mut code = ResponseCode::NXDomain;
                for (owner, ttl, text) in zone.iter().filter(|(owner, _, _)| *owner == name) {
                    code = ResponseCode::NoError;
                    let data = match text.parse::<IpAddr>().expect("an address") {
                        IpAddr::V4(ip) if query.query_type() == RecordType::A => RData::A(ip.into()),
                        IpAddr::V6(ip) if query.query_type() == RecordType::AAAA => RData::AAAA(ip.into()),
                        IpAddr::V4(_) | IpAddr::V6(_) => continue,
                    };
                    debug_assert_eq!(*owner, name);
                    answer.add_answer(Record::from_rdata(query.name().clone(), *ttl, data));
                }
                answer.metadata.response_code = code;
                let _ = tell.send(format!("{name} {}", query.query_type()));
                socket.send_to(&answer.to_vec().expect("a message"), from).expect("send");
            }
        });
        told
    }

    fn dns(folder: &tempfile::TempDir, conf: &str, port: u16) -> Dns {
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, conf).expect("write");
        Dns { conf: Watched::at(path), port }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    fn texts(answer: Result<Answer<IpAddr>, ResolveError>) -> Vec<String> {
        answer.expect("an answer").found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn search_domains_both_families_ttl_and_a_changed_resolv_conf() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = first.local_addr().expect("bound").port();
        let second = UdpSocket::bind(("127.0.0.2", port)).expect("bind");
        let zone: &[_] = &[("db.b.example.", 60, "10.0.0.1"), ("db.b.example.", 60, "fd00::1")];
        let asked = serve(first, zone);
        let asked_second = serve(second, &[("db.b.example.", 0, "10.0.0.2")]);
        let dns = dns(&folder, "search a.example b.example\nnameserver 127.0.0.1\n", port);
        assert!(!dns.is_started());
        runtime().block_on(async {
            assert_eq!(texts(dns.lookup("db").await), ["10.0.0.1", "fd00::1"]);
            let mut questions: Vec<_> = asked.try_iter().collect();
            questions.sort();
            assert_eq!(
                questions,
                ["db.a.example. A", "db.a.example. AAAA", "db.b.example. A", "db.b.example. AAAA"]
            );
            // The answers live for 5 s, as "no such name" does.
            assert_eq!(texts(dns.lookup("db").await), ["10.0.0.1", "fd00::1"]);
            assert!(!asked.try_iter().any(|question| question.starts_with("db.b.")));

            std::fs::write(dns.conf.path(), "search b.example\nnameserver 127.0.0.2\n").expect("write");
            assert_eq!(texts(dns.lookup("db").await), ["10.0.0.2"]);
            asked_second.try_iter().for_each(drop);
            // A TTL of 0 is asked for each time.
            assert_eq!(texts(dns.lookup("db").await), ["10.0.0.2"]);
            assert!(asked_second.try_iter().any(|question| question == "db.b.example. A"));
            let error = dns.lookup("nothing").await.expect_err("no such name");
            assert_eq!(error.to_string(), "no address found for `nothing`");
        });
    }

    #[test]
    fn docker_s_name_server_is_asked_each_time_whatever_it_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UdpSocket::bind((DOCKER, 0)).expect("bind");
        let port = socket.local_addr().expect("bound").port();
        let asked = serve(socket, &[("db.", 600, "10.0.0.1")]);
        let dns = dns(&folder, "nameserver 127.0.0.11\noptions ndots:0\n", port);
        runtime().block_on(async {
            for _ in 0..2 {
                assert_eq!(texts(dns.lookup("db").await), ["10.0.0.1"]);
                assert!(asked.try_iter().any(|question| question == "db. A"));
                dns.lookup("nothing").await.expect_err("no such name");
                assert!(asked.try_iter().any(|question| question == "nothing. A"));
            }
        });
    }

    #[test]
    fn an_answer_that_is_good_for_a_day_is_believed_for_seconds() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = socket.local_addr().expect("bound").port();
        let _asked = serve(socket, &[("db.", 86_400, "10.0.0.1")]);
        runtime().block_on(async {
            let resolver = build(b"nameserver 127.0.0.1\n", port).expect("a resolver");
            for _ in 0..2 {
                let found = resolver.lookup_ip("db.").await.expect("an answer");
                assert!(found.valid_until() <= Instant::now() + BELIEVED);
            }
        });
    }

    #[test]
    fn ndots_decides_what_is_asked_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = socket.local_addr().expect("bound").port();
        let asked = serve(socket, &[("web.prod.", 60, "10.0.0.1"), ("web.prod.cluster.", 60, "10.0.0.2")]);
        let dns = dns(&folder, "search cluster\noptions ndots:5\nnameserver 127.0.0.1\n", port);
        runtime().block_on(async {
            assert_eq!(texts(dns.lookup("web.prod").await), ["10.0.0.2"]);
            assert_eq!(texts(dns.lookup("web.prod.").await), ["10.0.0.1"]);
        });
        drop(asked);
    }

    #[test]
    fn a_dead_server_costs_a_bounded_time() {
        let folder = tempfile::tempdir().expect("a folder");
        // Bound, never read: nobody answers and nothing says "port unreachable".
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = socket.local_addr().expect("bound").port();
        let dns = dns(&folder, "search a b c d\nnameserver 127.0.0.1\noptions timeout:30 attempts:9", port);
        let start = Instant::now();
        let error = runtime().block_on(dns.lookup("db")).expect_err("no answer");
        assert_eq!(error.to_string(), "cannot look up `db`: no answer from DNS");
        assert!(start.elapsed() < DNS_LIMIT + Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
