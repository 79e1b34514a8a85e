//! A program that was written for Docker's links, and the service that it uses moves from host to host: real etcd, real
//! Redis, four hosts of a network of their own. The program knows nothing of any of it.

use nix::sys::signal::Signal;

use crate::support::etcd::Etcd;
use crate::support::lan::{Host, Lan};
use crate::support::service::{Folder, Service, registry};
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::Api;

/// Asks Redis who it is, by the variables and by localhost, one question at a time each way, and prints each answer.
const PROGRAM: &str = r#"
    env | grep ^DB_ | LC_ALL=C sort
    ask() {
        while :; do
            answer=$(redis-cli -h "$2" -p "$3" get who 2>&1) || answer="failed: $answer"
            echo "$1 $answer"
            sleep 0.01
        done
    }
    ask localhost localhost 6379 &
    ask variable "$DB_PORT_6379_TCP_ADDR" "$DB_PORT_6379_TCP_PORT"
"#;

const VARIABLES: &str = "DB_NAME=/web/db
DB_PORT=tcp://127.0.0.1:6379
DB_PORT_6379_TCP=tcp://127.0.0.1:6379
DB_PORT_6379_TCP_ADDR=127.0.0.1
DB_PORT_6379_TCP_PORT=6379
DB_PORT_6379_TCP_PROTO=tcp
";

/// A Redis under ensign: announced once it knows who it is.
fn redis(host: &Host, who: &str, registry: &str) -> Service {
    let folder = Folder::with(&format!(
        r#"
        command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--loglevel", "warning"]
        ready = {{ by = "checks" }}
        stop = {{ drain = "500ms" }}
        [[check]]
        exec = ["redis-cli", "set", "who", "{who}"]
        [[announce]]
        name = "redis.s.prod.example.com"
        port = 6379
        instance = "{who}"
        ttl = "2s"
        dns_ttl = "1s"
        {registry}"#
    ));
    let service = folder.start_in(host.sandbox());
    service.until_logged("announced: redis.s.prod.example.com");
    assert_eq!(service.logged(&format!("at {}:6379 as {who}", host.address)), 1, "{}", service.log());
    service
}

/// Waits until the program has had this answer, both ways, several times after the first `from` lines.
fn until_answered(web: &Service, from: usize, who: &str) {
    let answers = [format!("variable {who}"), format!("localhost {who}")];
    wait::until_true(&format!("{who} to answer"), || {
        let text = web.running.stdout();
        answers.iter().all(|answer| text.lines().skip(from).filter(|line| line == answer).count() > 20)
    });
}

fn lines(web: &Service) -> usize {
    web.running.stdout().lines().count()
}

fn a_program_finds_redis_wherever_it_moves(api: Api) {
    if skip::without(Need::Namespaces) {
        return;
    }
    let lan = Lan::of(4);
    let etcd = Etcd::start_on(&lan.switch);
    let registry = registry(api, etcd.address());
    let command = serde_json::to_string(&["sh", "-c", PROGRAM]).expect("text is JSON");
    let folder = Folder::with(&format!(
        r#"
        command = {command}
        [[link]]
        name = "db"
        listen = ["127.0.0.1:6379", "[::1]:6379"]
        to = "registry:redis.s.prod.example.com"
        wait = "60s"
        export = true
        {registry}"#
    ));
    let web = folder.start_in(lan.hosts[0].sandbox());
    web.until_logged("waiting up to 60s for link `db`: ");
    let one = redis(&lan.hosts[1], "one", &registry);
    until_answered(&web, 0, "one");
    assert!(web.running.stdout().starts_with(VARIABLES), "{}", web.running.stdout());
    assert_eq!(web.logged("link `db` reached after"), 1, "{}", web.log());

    // A redeploy: the next one is there before the last one goes.
    let two = redis(&lan.hosts[2], "two", &registry);
    assert_eq!(one.stop().code, 0);
    let after_one = lines(&web);
    until_answered(&web, after_one, "two");

    // A crash of its host: its record stays for its TTL.
    let three = redis(&lan.hosts[3], "three", &registry);
    let before_crash = lines(&web);
    two.send(Signal::SIGKILL);
    two.running.wait();
    let after_two = lines(&web);
    until_answered(&web, after_two, "three");

    let ended = web.stop();
    three.stop();
    assert_eq!(ended.code, 143);
    let answers: Vec<(usize, &str)> =
        ended.stdout.lines().enumerate().skip(VARIABLES.lines().count()).collect();
    let is_of = |line: &str, who: &[&str]| who.iter().any(|who| line.ends_with(&format!(" {who}")));
    let failed: Vec<_> = answers.iter().filter(|(_, line)| !is_of(line, &["one", "two", "three"])).collect();
    println!(
        "{} answers, {} failed: {failed:?}; the crash was after {before_crash}",
        answers.len(),
        failed.len()
    );
    // Those that Redis was answering when it was killed, one each way; nothing was lost to the redeploy.
    assert!(failed.len() <= 2 && failed.iter().all(|(at, _)| *at >= before_crash), "{failed:?}");
    // What was asked before an end may be printed after it, once each way.
    let after = |end: usize| answers.iter().filter(move |(at, _)| *at >= end + 2).map(|(_, line)| *line);
    assert!(after(after_one).all(|line| !is_of(line, &["one"])), "{answers:?}");
    assert!(after(after_two).all(|line| is_of(line, &["three"])), "{answers:?}");
}

#[test]
fn a_program_finds_redis_wherever_it_moves_v3() {
    a_program_finds_redis_wherever_it_moves(Api::V3);
}

#[test]
fn a_program_finds_redis_wherever_it_moves_v2() {
    a_program_finds_redis_wherever_it_moves(Api::V2);
}
