//! The folder registry in folders that others have been at.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::config::Label;
use crate::registry::Record;

fn claim() -> Claim {
    let record = Record {
        name: DnsName("web.example".to_owned()),
        instance: Label("node-1".to_owned()),
        host: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        port: 80,
        priority: 10,
        weight: 100,
        dns_ttl: Duration::from_secs(5),
        conflict: Conflict::Take,
    };
    Claim::new(vec![record], Duration::from_secs(60))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[tokio::test]
async fn what_is_made_takes_after_a_root_that_was_there() {
    for (root_mode, file_mode) in [(0o777, 0o666), (0o2775, 0o664), (0o700, 0o600)] {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(root.path(), Permissions::from_mode(root_mode)).expect("ours");
        Store::new(root.path(), "/skydns").register(&claim(), Conflict::Take).await.expect("registered");
        assert_eq!(mode(&root.path().join("skydns/example/web")), root_mode);
        assert_eq!(mode(&root.path().join("skydns/example/web/node-1")), file_mode);
        assert_eq!(mode(&root.path().join(".lock")), file_mode);
    }
}

#[tokio::test]
async fn a_root_that_is_made_is_for_its_maker_to_write_to() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let root = temporary.path().join("run/registry");
    Store::new(&root, "/skydns").register(&claim(), Conflict::Take).await.expect("registered");
    assert_eq!(mode(&root) & 0o022, 0);
}

#[tokio::test]
async fn a_name_below_a_record_is_refused_with_the_reason() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let store = Store::new(root.path(), "/skydns");
    store.register(&claim(), Conflict::Take).await.expect("registered");
    let mut below = claim().records()[0].clone();
    below.name = DnsName("node-1.web.example".to_owned());
    let below = Claim::new(vec![below], Duration::from_secs(60));
    let error = store.register(&below, Conflict::Take).await.expect_err("a record is in the way").to_string();
    assert!(error.contains("a record is in the way"), "{error}");
}

#[tokio::test]
async fn links_and_pipes_are_neither_followed_nor_waited_for() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let store = Store::new(root.path(), "/skydns");
    store.register(&claim(), Conflict::Take).await.expect("registered");
    let folder = root.path().join("skydns/example/web");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).expect("linked");
    nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let listed = store.list(None).await.expect("a list");
    let mut readable: Vec<(&str, bool)> =
        listed.iter().map(|l| (l.instance.as_str(), l.record.is_ok())).collect();
    readable.sort_unstable();
    assert_eq!(readable, [("link", false), ("node-1", true), ("pipe", false)]);
}

/// Found by fuzzing: it was an instance that nobody can connect to.
#[tokio::test]
async fn a_record_without_a_host_is_told_and_none_to_connect_to() {
    let root = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(root.path().join("skydns/example/web")).expect("made");
    let text = r#"{"record":{"port":80},"owner":"1","expires_ms":4102444800000}"#;
    fs::write(root.path().join("skydns/example/web/node-1"), text).expect("written");
    let listed = Store::new(root.path(), "/skydns").list(None).await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].record, Err(NoRecord::NoHost));
    assert_eq!(follow::instances(&listed), []);
}

#[tokio::test]
async fn a_link_in_place_of_a_folder_is_not_followed() {
    let root = tempfile::tempdir().expect("a folder");
    let elsewhere = tempfile::tempdir().expect("a folder");
    fs::create_dir(root.path().join("skydns")).expect("created");
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("skydns/example")).expect("linked");
    let store = Store::new(root.path(), "/skydns");
    store.register(&claim(), Conflict::Take).await.expect_err("a link is in the way");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("listed").count(), 0);
}
