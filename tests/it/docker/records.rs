//! An announcement in etcd through the ways in which a container ends: stopped, killed, restarted.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{etcd, records};
use crate::support::docker::image::Image;
use crate::support::docker::{Container, Engine, mounted, mounted_actor};
use crate::support::wait;

/// Starts `text` as the service file of a scratch container beside `etcd`.
fn web<'e>(engine: &'e Engine, etcd: &Container, image: &str, text: &str) -> Container<'e> {
    let text = format!(
        "{text}\nregistry = {{ url = 'etcd://etcd:2379' }}\n\
         announce = [{{ name = 'web.example.com', port = 8000, ttl = '4s', dns_ttl = '2s' }}]\n"
    );
    let file = format!("{}:/web.toml:ro", engine.file("web.toml", &text));
    let (link, ensign, actor) = (format!("{}:etcd", etcd.name), mounted(), mounted_actor());
    let options = ["--link", &link, "-v", &ensign, "-v", &actor, "-v", &file];
    let web = engine.start_container("web", &options, image, &["/ensign", "-c", "/web.toml"]);
    announced(etcd, &web);
    web
}

fn announced(etcd: &Container, web: &Container) {
    let host = format!("{:?}", web.address());
    wait::until_true("the record with the container's address", || {
        assert!(web.is_running(), "{:?}", web.logs());
        records(etcd).contains(&host)
    });
}

#[test]
fn signals_reach_main_and_the_record_of_a_killed_container_goes_with_its_ttl() {
    let Some(engine) = Engine::start() else { return };
    let etcd = etcd(&engine, &[]);
    let image = engine.import(&Image::scratch());
    let web = web(&engine, &etcd, &image, r#"command = ["/actor", "signals"]"#);
    web.ok(&["kill", "-s", "SIGUSR1"]);
    web.until_logged("main 10\n");
    web.ok(&["kill", "-s", "HUP"]);
    web.until_logged("main 1\n");
    assert!(!records(&etcd).is_empty(), "no signal but those that stop withdraws");

    let killed = Instant::now();
    web.ok(&["kill"]);
    assert_eq!(web.wait(), 137);
    wait::until_true("the record to be gone", || records(&etcd).is_empty());
    println!("gone {:?} after the kill; its ttl was 4 s", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(20), "far below the default ttl of 60 s");
}

#[test]
fn a_stop_withdraws_then_drains_then_ends_with_main_s_code() {
    let Some(engine) = Engine::start() else { return };
    let etcd = etcd(&engine, &[]);
    let image = engine.ok(&["inspect", "--format", "{{.Config.Image}}", &etcd.name]);
    let text = r#"
        shell = "trap 'echo told; exit 3' TERM; /actor http 8000 & wait"
        stop.drain = "5s"
    "#;
    let web = web(&engine, &etcd, &image, text);
    let serves = || {
        let ask =
            format!("printf 'GET / HTTP/1.0\\r\\nConnection: close\\r\\n\\r\\n' | nc {} 8000", web.address());
        etcd.exec(&["sh", "-c", &ask]).stdout.contains("200 OK")
    };
    wait::until_true("main to serve", serves);
    let started = Instant::now();
    let mut stop = engine.command();
    let mut stop =
        stop.args(["stop", "-t", "60", &web.name]).stdout(Stdio::null()).spawn().expect("the client runs");
    wait::until_true("the record to be gone", || records(&etcd).is_empty());
    println!("withdrawn {:?} after the stop", started.elapsed());
    assert!(serves(), "withdrawn, and still serving");
    assert!(!web.logs().0.contains("told"), "main hears of it when the drain is over");
    assert!(stop.wait().expect("our child").success());
    println!("stopped {:?} after the stop; drain was 5 s", started.elapsed());
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert!(web.logs().0.contains("told"));
    assert_eq!(web.wait(), 3);
}

#[test]
fn a_restart_announces_again() {
    let Some(engine) = Engine::start() else { return };
    let etcd = etcd(&engine, &[]);
    let image = engine.import(&Image::scratch());
    let web = web(&engine, &etcd, &image, r#"command = ["/actor", "http", "8000"]"#);
    web.stop();
    assert_eq!(records(&etcd), "", "withdrawn by the time that the container has ended");
    assert_eq!(web.wait(), 0);
    web.ok(&["start"]);
    announced(&etcd, &web);
    web.ok(&["restart"]);
    announced(&etcd, &web);
    assert_eq!(records(&etcd).lines().filter(|line| !line.is_empty()).count(), 1);
}
