//! What others wrote in a registry, from any bytes: etcd's answers of both versions, the lines of a watch, and the file
//! of a record. Never a panic, and nobody who can't be connected to.
//!
//! The first byte says whose answer it is; each line that follows is one. Files are the whole rest.
//! `cargo +nightly fuzz run registry fuzz/corpus/registry fuzz/seeds/registry -- -max_total_time=60`

#![no_main]

use std::fs;
use std::sync::LazyLock;

use ensign::config::units::dns_name;
use ensign::net::resolve::{Instance, Resolver};
use ensign::registry::dir::Store;
use ensign::registry::etcd3::{Known, Taken};
use ensign::registry::{etcd2, instances};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// A folder with one record, and what it takes to read it.
struct Folder {
    root: TempDir,
    store: Store,
    runtime: Runtime,
}

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let root = tempfile::tempdir_in("/dev/shm").expect("a folder");
    fs::create_dir_all(root.path().join("skydns/test/web")).expect("it is ours");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    Folder { store: Store::new(root.path(), "/skydns"), root, runtime }
});

static NAMES: LazyLock<Resolver> = LazyLock::new(|| Resolver::with_files("/nonexistent", "/nonexistent"));

fn are_sound(instances: &[Instance]) {
    for instance in instances {
        assert!(instance.port > 0 && !instance.host.is_empty());
        NAMES.listed(&instance.host);
    }
}

fn v3(lines: &str) {
    let mut lines = lines.lines();
    let Some(mut known) = lines.next().and_then(|line| serde_json::from_str::<Known>(line).ok()) else { return };
    are_sound(&known.instances());
    assert!(known.next_revision().is_none_or(|next| next > 1));
    for line in lines {
        let before = known.instances();
        match known.take(line) {
            Ok(Taken::News) => are_sound(&known.instances()),
            Ok(Taken::Nothing | Taken::Over | Taken::Refused(_)) | Err(_) => assert_eq!(known.instances(), before),
        }
    }
}

fn v2(answer: &str) {
    let Ok(done) = serde_json::from_str::<etcd2::Done>(answer) else { return };
    let listed = done.listed("/skydns");
    assert!(listed.iter().all(|listed| listed.key.starts_with("/skydns/")));
    are_sound(&instances(&listed));
}

fn file(bytes: &[u8]) {
    let Folder { root, store, runtime } = &*FOLDER;
    fs::write(root.path().join("skydns/test/web/one"), bytes).expect("it is ours");
    let name = dns_name("web.test").expect("a name");
    let listed = runtime.block_on(store.list(Some(&name))).expect("the folder is there");
    assert!(listed.len() <= 1);
    are_sound(&instances(&listed));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match (kind, std::str::from_utf8(rest)) {
        (b'3', Ok(text)) => v3(text),
        (b'2', Ok(text)) => v2(text),
        (b'f', _) => file(rest),
        (_, _) => {}
    }
});
