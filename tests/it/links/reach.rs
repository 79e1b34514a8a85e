//! Whether somebody is there behind a link, asked without going through it.

use std::net::TcpListener;

use ensign::config::{EnvLinks, Listen, ListenAt, Upstream};
use ensign::links::{self, plan_links};

use super::{Names, link, listen};

async fn answer(ports: [u16; 2]) -> Result<(), String> {
    let env =
        ports.map(|port| (format!("DB_PORT_{port}_TCP").into(), format!("tcp://127.0.0.2:{port}").into()));
    let mut link = link("127.0.0.1:0", "127.0.0.2:1".parse().expect("an address"));
    link.to = vec![Upstream::Env("DB".to_owned())];
    // Each leads to the port of its number. Nobody else takes ports of that address.
    let at = |port| ListenAt::Tcp(([127, 0, 3, 1], port).into());
    link.listen = Listen::At(ports.map(at).to_vec());
    let plan = plan_links(&EnvLinks::None, [("web", &link)], env);
    let links = links::open(&plan, Names::new().resolver()).expect("open");
    assert_eq!(links.opened.len(), 2);
    let other = links.reach("api", "x").accepts().await;
    assert_eq!(
        other,
        Err("none of its ports takes connections".to_owned()),
        "a link of that name, elsewhere"
    );
    links.reach("web", "x").accepts().await
}

/// The ends of the link itself take every connection; that says nothing.
#[tokio::test]
async fn any_port_of_a_docker_link_will_do_and_the_links_own_end_will_not() {
    let (first, one) = listen();
    let (second, two) = listen();
    let ports = [one.port(), two.port()];
    assert_eq!(answer(ports).await, Ok(()));
    drop(first);
    assert_eq!(answer(ports).await, Ok(()));
    drop(second);
    let refused = answer(ports).await.expect_err("nobody is there");
    assert!(refused.starts_with("127.0.0.2:") && refused.ends_with(": connection refused"), "{refused}");
    let _back = TcpListener::bind(two).expect("bind");
    assert_eq!(answer(ports).await, Ok(()), "what failed a moment ago is tried all the same");
}
