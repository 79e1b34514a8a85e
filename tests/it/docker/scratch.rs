//! FROM scratch: one static binary and a payload. No /etc but what the engine mounts, no shell, nothing to write to,
//! no user that anybody knows.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{borrowed, etcd, linked, redis};
use crate::support::docker::Engine;
use crate::support::docker::image::Image;
use crate::support::wait;

const BARE: [&str; 5] = ["--read-only", "--user", "65534:65534", "--cap-drop", "ALL"];

#[test]
fn a_link_works_in_an_image_of_nothing() {
    let Some(engine) = Engine::start() else { return };
    let (redis, client) = redis(&engine, &[]);
    let (options, image) = (linked(&engine, &redis, &client, &BARE), engine.import(&Image::scratch()));
    let app =
        engine.start_container("app", &borrowed(&options), &image, &["/ensign", "--", "/actor", "hold"]);
    app.until_logged("ready");
    // There is no client in it: one that shares its network asks at its localhost.
    let network = format!("container:{}", app.name);
    let asked = engine.run(&["--network", &network], &client, &["redis-cli", "-h", "127.0.0.1", "ping"]);
    assert_eq!(asked.stdout, "PONG\n", "{asked:?}");
    assert_eq!(app.logs(), ("ready\n".into(), String::new()));
}

/// The container of the service file, then another that lists what is announced.
fn announces(engine: &Engine, url: &str, options: &[&str]) {
    let text = format!(
        "command = ['/actor', 'http', '8000']\nregistry = {{ url = '{url}' }}\n\
         announce = [{{ name = 'web.example.com', port = 8000 }}]\n"
    );
    let file = format!("{}:/web.toml:ro", engine.file("web.toml", &text));
    let image = engine.import(&Image::scratch());
    let options = [&BARE[..], options].concat();
    let with_file = [&options[..], &["-v", &file]].concat();
    let web = engine.start_container("web", &with_file, &image, &["/ensign", "-c", "/web.toml"]);
    let list = || engine.run(&options, &image, &["/ensign", "ls", "--json", "--registry", url]);
    let listed = wait::until("the record in a list made in another container", || {
        assert!(web.is_running(), "{:?}", web.logs());
        let listed = list();
        assert_eq!(listed.code, 0, "{listed:?}");
        (!listed.stdout.is_empty()).then_some(listed.stdout)
    });
    print!("{listed}");
    let host = format!(r#""address":{:?},"port":8000"#, web.address());
    assert!(listed.contains(r#""name":"web.example.com""#) && listed.contains(&host), "{listed}");
    web.stop();
    assert_eq!((web.wait(), list().stdout.as_str()), (0, ""));
}

#[test]
fn a_service_file_announces_in_a_folder_that_containers_share() {
    let Some(engine) = Engine::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let shared = format!("{}:/run/ensign/registry", folder.path().display());
    announces(&engine, "dir:/run/ensign/registry", &["-v", &shared]);
}

#[test]
fn a_service_file_announces_in_etcd() {
    let Some(engine) = Engine::start() else { return };
    let etcd = etcd(&engine, &[]);
    let link = format!("{}:etcd", etcd.name);
    announces(&engine, "etcd://etcd:2379", &["--link", &link]);
}
