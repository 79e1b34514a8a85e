//! Checks and the record: a failing one withdraws, a passing one brings it back, and one that hangs ends by its
//! timeout and leaves nothing behind.

use std::collections::HashSet;
use std::fs::read_dir;
use std::net::TcpListener;

use super::{Announced, announcing, with_both};
use crate::support::etcd::{free_port, silent};
use crate::support::namespace::Place;
use crate::support::service::{Folder, KEY, Service, VALUE, command, list};
use crate::support::skip::{self, Need};
use crate::support::watch::{Api, Watch};
use crate::support::{acted, actor, wait};

/// Quick, so that a test need not wait; no grace, so that each failure counts.
const QUICK: &str = "every = \"50ms\"\ntimeout = \"40s\"\ngrace = \"0s\"\nfall = 2\n";

/// There, gone, there again, gone again, by nothing but the check.
fn follows(watch: &Watch, set: impl Fn(bool)) {
    assert_eq!(watch.nth(0).value.as_deref(), Some(VALUE));
    for round in 0..2 {
        set(false);
        assert_eq!(watch.nth(2 * round + 1).value, None);
        set(true);
        assert_eq!(watch.nth(2 * round + 2).value.as_deref(), Some(VALUE));
    }
}

#[test]
fn the_record_follows_an_http_check() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let (folder, address) = (Folder::new(), free_port());
        folder.write("healthy", "");
        let healthy = folder.path("healthy").display().to_string();
        let main = ["http", &address.to_string(), &healthy];
        let text = format!("{}[[check]]\nhttp = \"http://{address}/healthz\"\n{QUICK}", command(&main));
        let web = Announced::start(etcd, api, Place::First, &text);
        let pid = web.service.pid(&main);
        follows(&web.watch, |fit| if fit { folder.write("healthy", "") } else { folder.remove("healthy") });
        assert_eq!(web.service.pid(&main), pid, "withdrawn is not restarted");
        web.service.until_logged("check 1 is unhealthy: 2 failures in a row: status 503");
    });
}

#[test]
fn the_record_follows_an_exec_check() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let folder = Folder::new();
        folder.write("healthy", "");
        let exec = list("exec", &["test".into(), "-e".into(), folder.path("healthy").into()]);
        let text = format!("{}[[check]]\n{exec}{QUICK}", command(&["hold"]));
        let web = Announced::start(etcd, api, Place::Guest, &text);
        follows(&web.watch, |fit| if fit { folder.write("healthy", "") } else { folder.remove("healthy") });
        web.service.until_logged("check 1 is unhealthy: 2 failures in a row: exit code 1");
    });
}

#[test]
fn the_record_follows_a_tcp_check() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let listener = silent();
        let address = listener.local_addr().expect("bound");
        let listener = std::cell::RefCell::new(Some(listener));
        let text = format!("{}[[check]]\ntcp = \"{address}\"\n{QUICK}", command(&["hold"]));
        let web = Announced::start(etcd, api, Place::First, &text);
        follows(&web.watch, |fit| {
            *listener.borrow_mut() = fit.then(|| TcpListener::bind(address).expect("the port is ours again"));
        });
        web.service.until_logged("check 1 is unhealthy: 2 failures in a row: connection refused");
    });
}

#[test]
fn one_failing_check_of_two_is_enough() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let folder = Folder::new();
        folder.write("healthy", "");
        let exec = list("exec", &["test".into(), "-e".into(), folder.path("healthy").into()]);
        let always = "[[check]]\nexec = [\"true\"]\n";
        let text = format!("{}{always}{QUICK}[[check]]\n{exec}{QUICK}", command(&["hold"]));
        let web = Announced::start(etcd, api, Place::First, &text);
        follows(&web.watch, |fit| if fit { folder.write("healthy", "") } else { folder.remove("healthy") });
    });
}

/// Watches the processes that a check starts until it has seen 16 of them. A probe is two at most, and its successor
/// may already run while the kernel buries the killed.
fn none_pile_up(check: &str, place: Place) -> Service {
    let probe = acted(&["stubborn"]);
    let service = Folder::with(&(command(&["hold"]) + check)).start(place);
    let mut seen = HashSet::new();
    wait::until_true("enough probes", || {
        let now = service.running.pids_of(&probe);
        assert!(now.len() <= 4, "at once: {now:?}");
        seen.extend(now);
        seen.len() >= 16
    });
    service
}

/// The probe ignores TERM and has a child: both are gone with it.
#[test]
fn an_exec_check_that_hangs_is_ended_by_its_timeout() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let shell = format!("{0} stubborn & exec {0} stubborn", actor().display());
    let exec = list("exec", &["sh".into(), "-c".into(), shell.into()]);
    let check = format!("[[check]]\n{exec}every = \"20ms\"\ntimeout = \"100ms\"\ngrace = \"0s\"\nfall = 3\n");
    for place in [Place::First, Place::Guest] {
        let service = none_pile_up(&check, place);
        service.until_logged("check 1 is unhealthy: 3 failures in a row");
        let ended = service.stop();
        assert_eq!(ended.code, 143, "{ended:?}");
    }
}

#[test]
fn what_an_exec_check_leaves_behind_goes_with_it() {
    if skip::without(Need::Namespaces) {
        return;
    }
    // Its own end waits until what it leaves has been seen to run.
    let shell = format!("{} stubborn & sleep 0.05", actor().display());
    let exec = list("exec", &["sh".into(), "-c".into(), shell.into()]);
    let check = format!("[[check]]\n{exec}every = \"60ms\"\n");
    for place in [Place::First, Place::Guest] {
        let service = none_pile_up(&check, place);
        assert_eq!(service.logged("check 1 is healthy"), 1);
        assert_eq!(service.stop().code, 143);
    }
}

/// A server that takes the connection and says nothing. What waits for it is not kept.
#[test]
fn an_http_check_that_hangs_is_ended_by_its_timeout() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let listener = silent();
    let address = listener.local_addr().expect("bound");
    let check = format!(
        "[[check]]\nhttp = \"http://{address}/\"\nevery = \"20ms\"\ntimeout = \"60ms\"\ngrace = \"0s\"\n"
    );
    let folder = Folder::with(&(command(&["hold"]) + &check));
    let service = folder.start(Place::First);
    let init = service.running.init();
    let open = || read_dir(format!("/proc/{init}/fd")).map_or(0, Iterator::count);
    let mut most = 0;
    // Each probe is a connection; the listener's queue is drained by the test.
    for _ in 0..10 {
        let (_stream, _) = listener.accept().expect("a probe connects");
        most = most.max(open());
    }
    service.until_logged("check 1 is unhealthy: 3 failures in a row");
    assert!(open() <= most && most < 20, "{} descriptors, {most} at most before", open());
}

/// The first run is announced, for nothing is known against it. After its crash the record never comes back, and etcd's
/// whole history says so.
#[test]
fn a_crash_loop_is_never_announced() {
    if skip::without(Need::Namespaces) {
        return;
    }
    with_both(|etcd, api| {
        let folder = Folder::new();
        let script = format!(
            "mkdir {} && exec {1} crash-after 1000 3; exec {1} crash-after 50 3",
            folder.path("first").display(),
            actor().display()
        );
        let text = list("command", &["sh".into(), "-c".into(), script.into()])
            + "ready = { settle = \"2s\" }\n\
               restart = { delay = \"20ms\", max_delay = \"40ms\", give_up = { after = 12, within = \"1m\" } }\n";
        let watch = Watch::open(etcd, api);
        folder.write("web.toml", &announcing(&text, api, etcd));
        let ended = folder.start(Place::First).running.wait();
        assert_eq!(ended.code, 3, "{ended:?}");
        assert_eq!(ended.stderr.matches("ended: exit code 3").count(), 12, "{}", ended.stderr);
        let all = if api == Api::V3 { Watch::history(etcd) } else { watch };
        all.nth(1);
        assert_eq!(api.read(etcd, KEY), None);
        let values: Vec<bool> = all.changes().iter().map(|change| change.value.is_some()).collect();
        assert_eq!(values, [true, false], "{:?}", all.changes());
    });
}
