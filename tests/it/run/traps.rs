//! What harmed somebody once, or would have: each is seen to do no harm now.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::etcd::free_port;
use crate::support::namespace::{Place, Sandbox};
use crate::support::service::{Folder, command};
use crate::support::skip::{self, Need};
use crate::support::wait;

/// Each takes two descriptors of ensign's. A probe that finds none left would have main restarted again and again,
/// and that frees none.
#[test]
fn clients_that_stay_leave_descriptors_for_the_probes() {
    if skip::without(Need::Namespaces) {
        return;
    }
    // Two a client: of two limits side by side, one is used up to the last descriptor.
    for few in ["--nofile=120:120", "--nofile=121:121"] {
        let (upstream, listen) = (free_port(), free_port());
        let text = command(&["http", &upstream.to_string()])
            + &format!(
                "[[check]]\ntcp = \"{upstream}\"\nevery = \"100ms\"\ngrace = \"0s\"\nfall = 1\n\
                 [[link]]\nname = \"self\"\nlisten = \"{listen}\"\nto = \"{upstream}\"\n"
            );
        let limited = Sandbox::new(Place::Guest).through(["prlimit", few].map(Into::into).to_vec());
        let service = Folder::with(&text).start_in(limited);
        service.until_logged("check 1 is healthy");
        // A probe may have come before main listened.
        let before = service.logged("unhealthy");
        let clients: Vec<_> =
            (0..90).map(|_| TcpStream::connect(listen).expect("the queue has room")).collect();
        wait::all_through(Duration::from_secs(1), || {
            assert_eq!(service.logged("unhealthy"), before, "{}", service.log());
        });
        drop(clients);
        service.stop();
    }
}

/// `>> /proc/1/fd/1` is how scripts of a container reach its log; Docker gives them no right to trace.
#[test]
fn a_service_with_a_user_leaves_the_init_open_to_its_own_root() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let limited = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"];
    let folder = Folder::with(&(command(&["hold"]) + "user = \"65534:65534\"\n"));
    let service = folder.start_in(Sandbox::new(Place::Guest).through(limited.map(Into::into).to_vec()));
    service.until_logged("ready");
    let descriptor = format!("/proc/{}/fd/1", service.running.init());
    let read = Command::new(limited[0]).args(&limited[1..]).args(["readlink", &descriptor]).status();
    assert!(read.expect("setpriv runs").success(), "{descriptor} is closed to root");
    service.stop();
}

/// It can't work the second time either, and nothing is to be tried again.
#[test]
fn a_directory_that_is_not_there_ends_it_at_once() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::with(&(command(&["hold"]) + "directory = \"/nope\"\n"));
    let ended = folder.start(Place::First).running.wait();
    assert_eq!(ended.code, 126, "{ended:?}");
    assert_eq!(
        ended.stderr.matches("/nope").count() + ended.stderr.matches("working directory").count(),
        1,
        "{ended:?}"
    );
}
