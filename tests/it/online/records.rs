//! What would be announced, and what lies in its way: each put there by hand, in a real etcd (v3, v2) or a folder.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ensign::config::units::{dns_name, label};
use ensign::config::{Conflict, DnsName};
use ensign::registry::{Claim, Record};

use super::{File, Told, url};
use crate::support::etcd::{self, Etcd};
use crate::support::place::{KEY, LONG, Place, VALUE, record};

const THEIRS: &str = r#"{"host":"192.0.2.9","port":8087}"#;

fn file(url: &str, more: &str) -> File {
    File::new(&format!(
        "[[announce]]\nname = 'web.s.prod.example.com'\nport = 8087\ninstance = 'node-1'\n\
         address = ['cidr:198.51.100.0/24', '192.0.2.7']\n{more}\n[registry]\nurl = '{url}'\n"
    ))
}

fn told(place: &Place, more: &str) -> Told {
    file(&url(place), more).online()
}

/// A record that somebody announces, at the name and instance given.
async fn announced(place: &Place, name: &str, instance: &str, host: &str, ttl: Duration) {
    let name: DnsName = dns_name(name).expect("a name");
    let record = Record { name, instance: label(instance).expect("a label"), ..record(host) };
    place.registry().register(&Claim::new(vec![record], ttl), Conflict::Take).await.expect("registered");
}

/// That the only thing said is `text`, as a warning, and all is well otherwise.
fn is_warned(told: &Told, text: &str) {
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(
        (told.err.matches("warning: ").count(), told.err.matches("error: ").count()),
        (1, 0),
        "{told:?}"
    );
    assert!(told.err.contains(text), "{text:?}: {told:?}");
}

fn is_refused(told: &Told, text: &str) {
    assert_eq!(told.code, 69, "{told:?}");
    assert_eq!(
        (told.err.matches("warning: ").count(), told.err.matches("error: ").count()),
        (0, 1),
        "{told:?}"
    );
    assert!(told.err.contains(text), "{text:?}: {told:?}");
}

async fn what_would_be_announced_is_shown_and_not_written(place: Place) {
    let first = told(&place, "");
    assert_eq!((first.code, first.err.as_str()), (0, ""), "{first:?}");
    let lines = [
        "web.s.prod.example.com as node-1 of web:".to_owned(),
        "  address  192.0.2.7, by `192.0.2.7`".to_owned(),
        format!("  key      {KEY}"),
        format!("  value    {VALUE}"),
        "  now      nothing is there".to_owned(),
    ];
    assert!(first.out.contains(&lines.join("\n")), "{first:?}");
    assert!(place.registry().list(None).await.expect("a list").is_empty());
    announced(&place, "web.s.prod.example.com", "node-1", "192.0.2.7", LONG).await;
    let second = told(&place, "");
    assert_eq!((second.code, second.err.as_str()), (0, ""), "{second:?}");
    assert!(second.out.contains("now      the same, ") && second.out.contains(" left"), "{second:?}");
}

async fn somebody_elses_record_under_our_key_is_told_with_its_time(place: Place) {
    announced(&place, "web.s.prod.example.com", "node-1", "192.0.2.9", LONG).await;
    let told = told(&place, "");
    is_warned(&told, "somebody else's record is there: 192.0.2.9 port 8087, ");
    assert!(told.err.contains("left\nhint: `conflict` says that we take its place"), "{told:?}");
}

async fn what_is_no_record_beside_ours_makes_lookups_fail(place: Place) {
    announced(&place, "web.s.prod.example.com", "other", "192.0.2.9", LONG).await;
    place.write("/skydns/com/example/prod/s/web/lock", "locked");
    is_refused(
        &told(&place, ""),
        "look-ups of `web.s.prod.example.com` fail: `/skydns/com/example/prod/s/web/lock`",
    );
}

async fn a_text_beside_ours_does_no_harm(place: Place) {
    place.write("/skydns/com/example/prod/s/web/note", r#"{"text":"hello"}"#);
    let told = told(&place, "");
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
}

async fn labels_that_resolvers_refuse_are_told(place: Place) {
    announced(&place, "web.s.prod.example.com", "other", "192.0.2.9", LONG).await;
    for (label, why) in [
        ("any", "is a wildcard of SkyDNS"),
        ("host:web:80", "`:` may not stand in a label"),
        ("Upper", "look-ups are in lower case"),
    ] {
        let key = format!("/skydns/com/example/prod/s/web/{label}");
        place.write(&key, THEIRS);
        is_warned(&told(&place, ""), why);
        place.delete(&key);
    }
}

async fn a_longer_name_below_ours_is_found_with_it(place: Place) {
    announced(&place, "api.web.s.prod.example.com", "x", "192.0.2.9", LONG).await;
    is_warned(&told(&place, ""), "a look-up of `web.s.prod.example.com` also finds");
}

async fn records_below_our_key_hide_it(place: Place) {
    announced(&place, "node-1.web.s.prod.example.com", "x", "192.0.2.9", LONG).await;
    let what = match place {
        Place::V3(_) => "hidden by `/skydns/com/example/prod/s/web/node-1/x`",
        Place::V2(_) | Place::Dir(_) => "can't be announced: its key is a folder",
    };
    is_refused(&told(&place, ""), what);
}

async fn a_record_above_ours_is_in_its_way(place: Place) {
    announced(&place, "s.prod.example.com", "web", "192.0.2.9", LONG).await;
    let told = told(&place, "");
    match place {
        Place::V3(_) => is_warned(&told, "`/skydns/com/example/prod/s/web` is a record"),
        Place::V2(_) | Place::Dir(_) => is_refused(&told, "`/skydns/com/example/prod/s/web` is a record"),
    }
}

async fn a_record_that_lasts_longer_than_ours_could_is_told(place: Place) {
    announced(&place, "web.s.prod.example.com", "node-1", "192.0.2.7", LONG).await;
    is_warned(&told(&place, "ttl = '10s'"), "more than its `ttl` (10s): the registry grants no less");
}

macro_rules! everywhere {
    ($($test:ident)*) => {
        mod v3 { $(#[tokio::test] async fn $test() { super::$test(super::Place::v3()).await; })* }
        mod v2 { $(#[tokio::test] async fn $test() { super::$test(super::Place::v2()).await; })* }
        mod dir { $(#[tokio::test] async fn $test() { super::$test(super::Place::dir()).await; })* }
    };
}

everywhere! {
    what_would_be_announced_is_shown_and_not_written
    somebody_elses_record_under_our_key_is_told_with_its_time
    what_is_no_record_beside_ours_makes_lookups_fail
    a_longer_name_below_ours_is_found_with_it
    records_below_our_key_hide_it
    a_record_above_ours_is_in_its_way
    a_record_that_lasts_longer_than_ours_could_is_told
}

#[tokio::test]
async fn what_others_write_into_etcd_is_told_as_resolvers_take_it() {
    for place in [Place::v3(), Place::v2()] {
        labels_that_resolvers_refuse_are_told(place).await;
    }
    for place in [Place::v3(), Place::v2()] {
        a_text_beside_ours_does_no_harm(place).await;
    }
}

#[test]
fn places_with_a_meaning_of_their_own_are_told() {
    let place = Place::v3();
    let at = |name: &str, instance: &str| {
        File::new(&format!(
            "[[announce]]\nname = '{name}'\nport = 1\ninstance = '{instance}'\naddress = '192.0.2.7'\n[registry]\n\
             url = '{}'\n",
            url(&place)
        ))
        .online()
    };
    is_warned(&at("dns.example.com", "ns"), "name servers of the zone");
    is_warned(&at("apex.dns.example.com", "x"), "addresses of the zone itself");
    is_warned(&at("config", "x"), "SkyDNS keeps its own settings");
}

/// In front of an etcd, as if it ran where the clock says another time.
fn with_another_clock(etcd: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut asked = vec![0; 4096];
            let length = client.read(&mut asked).expect("a request");
            let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
            let mut etcd = TcpStream::connect(etcd).expect("it runs");
            let alone = asked.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
            etcd.write_all(alone.as_bytes()).expect("it is there");
            let mut answer = String::new();
            etcd.read_to_string(&mut answer).expect("text");
            let line =
                answer.lines().find(|line| line.starts_with("Date: ")).expect("it is dated").to_owned();
            let answer = answer.replacen(&line, "Date: Thu, 01 Jan 2026 00:00:00 GMT", 1);
            // Fails where nobody waits for it any more.
            let _ = client.write_all(answer.as_bytes());
        }
    });
    address
}

/// Of v2, whose times are those of a clock.
#[test]
fn members_whose_clocks_differ_are_told() {
    let etcd = Etcd::start();
    let (right, wrong) = (etcd.address(), with_another_clock(etcd.address()));
    is_warned(&file(&format!("etcd2://{right},{wrong}"), "").online(), &format!("the clock of {right} is "));
    let told = file(&format!("etcd2://{right}"), "").online();
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    let told = file(&format!("etcd://{right},{wrong}"), "").online();
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
}

#[test]
fn an_endpoint_that_does_not_answer_is_a_warning_and_all_of_them_an_error() {
    let (place, dead, frozen) = (Place::v3(), etcd::free_port(), etcd::silent());
    let frozen = frozen.local_addr().expect("bound");
    let some = file(&format!("etcd://{dead},{},{frozen}", place.etcd().address()), "").online();
    assert_eq!((some.code, some.err.matches("warning: ").count()), (0, 2), "{some:?}");
    assert_eq!(some.row(&dead.to_string())[1], "connection refused");
    assert_eq!(some.row(&frozen.to_string())[1], "no answer within 1s");
    assert_eq!(some.row(&place.etcd().address().to_string())[1], "answers");
    assert!(some.out.contains("now      nothing is there"), "{some:?}");
    let none = file(&format!("etcd://{dead},{frozen}"), "").online();
    is_refused(&none, "the registry is out of reach");
    assert!(none.out.contains(&format!("value    {VALUE}\n  now      unknown")), "{none:?}");
}

#[test]
fn a_registry_that_is_none_of_the_kind_says_what_to_do() {
    let etcd = Etcd::start_with(&["--enable-v2=false"]);
    let told = file(&format!("etcd2://{}", etcd.address()), "").online();
    is_refused(&told, "the registry is out of reach");
    assert!(told.row(&etcd.address().to_string())[1].contains("does not serve the v2 API"), "{told:?}");
}

#[test]
fn no_rule_that_gives_an_address_is_an_error_with_the_reason_of_each() {
    let place = Place::v3();
    let told = File::new(&format!(
        "[[announce]]\nname = 'web.example.com'\nport = 1\naddress = ['interface:none', 'cidr:198.51.100.0/24']\n\
         [registry]\nurl = '{}'\n",
        url(&place)
    ))
    .online();
    is_refused(&told, "no address to announce: `interface:none`: no such interface is up");
    let auto = File::new(&format!(
        "[[announce]]\nname = 'web.example.com'\nport = 1\n[registry]\nurl = '{}'\n",
        url(&place)
    ));
    let auto = auto.online();
    assert!(auto.out.contains("address  127.0.0.1, by `auto`"), "as the registry is: {auto:?}");
}

#[test]
fn a_folder_that_is_none_is_out_of_reach() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry");
    std::fs::write(&path, "").expect("written");
    let told = file(&format!("dir:{}", path.display()), "").online();
    is_refused(&told, "the registry is out of reach");
    assert!(told.row(&path.display().to_string())[1].ends_with("it is not a folder"), "{told:?}");
}
