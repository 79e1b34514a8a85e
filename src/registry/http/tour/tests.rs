//! Endpoints that answer late, wrongly or not at all.

use std::io::{Read, Write};
use std::net::TcpListener;

use hyper::Method;
use hyper::header::HeaderMap;

use super::super::Scheme;
use super::*;
use crate::config::{self, HostPort};
use crate::net::resolve::Resolver;

/// An endpoint that gives each connection the same answer.
fn canned(answer: String) -> HostPort {
    late(answer, None)
}

/// As `canned`, after so long.
fn late(answer: String, by: Option<Duration>) -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _request = client.read(&mut [0; 4096]);
            // Nothing more comes: it reads in vain for that long.
            let _set = client.set_read_timeout(by);
            let _waited = by.map(|_| client.read(&mut [0; 1]));
            let _answered = client.write_all(answer.as_bytes());
        }
    });
    HostPort { host: "127.0.0.1".to_owned(), port }
}

fn answer(status: &str, body: &str) -> HostPort {
    canned(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

fn endpoints(hosts: &[HostPort]) -> Result<Arc<Endpoints>, String> {
    endpoints_for(hosts, None)
}

fn endpoints_for(hosts: &[HostPort], login: Option<config::Login>) -> Result<Arc<Endpoints>, String> {
    let url = config::RegistryUrl::Etcd3(hosts.to_vec());
    let registry = config::Registry { url, prefix: String::new(), tls: None, login };
    let resolver = Arc::new(Resolver::system());
    let endpoints = Endpoints::new(hosts, &registry, resolver, HeaderMap::new(), Scheme::Token);
    Ok(Arc::new(endpoints.map_err(|e| e.to_string())?))
}

async fn ask(hosts: &[HostPort]) -> Result<String, String> {
    ask_again(&endpoints(hosts)?).await
}

async fn ask_again(endpoints: &Arc<Endpoints>) -> Result<String, String> {
    let ask = Ask { method: Method::GET, path: "/health".to_owned(), body: None };
    endpoints.tour().send(&ask, read).await.map_err(|e| e.to_string())
}

/// HTML is nothing to be read.
fn read(reply: &Reply) -> Result<String, Error> {
    if reply.body.starts_with('<') {
        return Err(Error::NotEtcd { endpoint: reply.endpoint.clone(), reason: "HTML".to_owned() });
    }
    Ok(reply.body.clone())
}

fn website() -> HostPort {
    answer("200 OK", "<p>Welcome to nginx!")
}

#[tokio::test]
async fn a_member_in_trouble_is_passed_by() {
    let hosts = [answer("503 Service Unavailable", "no leader"), answer("200 OK", "fine")];
    assert_eq!(ask(&hosts).await, Ok("fine".to_owned()));
    let error = ask(&hosts[..1]).await.expect_err("there is no other");
    assert!(error.ends_with(": no leader (status 503)"), "{error}");
}

#[tokio::test]
async fn one_that_answers_wrongly_or_lags_is_passed_by_and_told_of() {
    let busy = || answer("429 Too Many Requests", r#"{"code":8,"message":"etcdserver: too many requests"}"#);
    assert_eq!(ask(&[website(), busy(), answer("200 OK", "fine")]).await, Ok("fine".to_owned()));
    let both = ask(&[website(), busy()]).await.expect_err("there is no other");
    assert!(both.contains("it does not answer like etcd: HTML; "), "{both}");
    assert!(both.ends_with(": etcdserver: too many requests (status 429)"), "{both}");
    let alone = ask(&[website()]).await.expect_err("there is no other");
    assert!(alone.ends_with(" does not answer like etcd: HTML") && !alone.contains("no endpoint"), "{alone}");
}

const TOKEN: &str = r#"{"token":"fine"}"#;

/// Asks this one first, and then one that takes everybody's login, as a user.
async fn ask_beside(first: HostPort) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "geheim").expect("written");
    let login = config::Login { user: "ens".to_owned(), password_file };
    ask_again(&endpoints_for(&[first, answer("200 OK", TOKEN)], Some(login))?).await
}

#[tokio::test]
async fn one_that_gives_no_token_is_passed_by() {
    assert_eq!(ask_beside(website()).await, Ok(TOKEN.to_owned()));
}

#[tokio::test]
async fn one_that_is_silent_at_our_login_costs_a_second() {
    let begun = Instant::now();
    assert_eq!(ask_beside(late(String::new(), NEVER)).await, Ok(TOKEN.to_owned()));
    assert!(begun.elapsed() < REQUEST_TIMEOUT + SLOW, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_the_end() {
    let endless = canned(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY + 1)));
    let error = ask(&[endless]).await.expect_err("too long");
    assert!(error.contains("longer than 4 MiB"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let hosts =
        [canned("HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into())];
    assert_eq!(ask(&hosts).await, Ok(String::new()));
}

#[tokio::test]
async fn what_is_not_http_is_told() {
    let error = ask(&[canned("* OK IMAP4 ready\r\n".to_owned())]).await.expect_err("not HTTP");
    assert!(error.contains("invalid http"), "{error}");
}

#[tokio::test]
async fn a_host_that_no_url_can_hold_is_refused() {
    let error = ask(&[HostPort { host: "a b".to_owned(), port: 1 }]).await.expect_err("a space");
    assert!(error.starts_with("`a b:1` is not a host and port"), "{error}");
}

const NEVER: Option<Duration> = Some(Duration::from_secs(60));

#[tokio::test]
async fn a_silent_one_costs_a_quarter_of_a_second_once() {
    let hosts = [late(String::new(), NEVER), late(String::new(), NEVER), answer("200 OK", "fine")];
    let endpoints = endpoints(&hosts).expect("endpoints");
    let begun = Instant::now();
    assert_eq!(ask_again(&endpoints).await, Ok("fine".to_owned()));
    assert!(begun.elapsed() >= SLOW * 2 && begun.elapsed() < REQUEST_TIMEOUT, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(ask_again(&endpoints).await, Ok("fine".to_owned()));
    assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_slow_ones_answer_counts_where_no_other_has_one() {
    let slow = || late("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow".to_owned(), Some(SLOW * 2));
    for other in [late(String::new(), NEVER), answer("503 Service Unavailable", "no leader"), website()] {
        assert_eq!(ask(&[slow(), other]).await, Ok("slow".to_owned()));
    }
}

#[tokio::test]
async fn each_that_failed_is_told_of() {
    let hosts = [late(String::new(), NEVER), answer("503 Service Unavailable", "no leader")];
    let begun = Instant::now();
    let error = ask(&hosts).await.expect_err("nobody answers");
    assert!(error.contains("no answer within 1s") && error.contains("no leader"), "{error}");
    assert!(begun.elapsed() < REQUEST_TIMEOUT + SLOW, "{:?}", begun.elapsed());
}
