//! The end of a container with links: what main wrote last gets to where it was sent.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::support::namespace::{Place, Sandbox};
use crate::support::service::{Folder, list};
use crate::support::skip::{self, Need};

/// More than the kernel's buffers of the socket behind the link take.
const LAST: usize = 700_000;

/// Main writes to its link and ends at once; the link's other end reads nothing before that.
fn writes_last(folder: &Folder) -> UnixListener {
    let path = folder.path("upstream.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/7000; head -c {LAST} /dev/zero >&3");
    let link =
        format!("[[link]]\nname = \"log\"\nlisten = \"127.0.0.1:7000\"\nto = \"unix:{}\"\n", path.display());
    folder.write("web.toml", &(list("command", &["bash".into(), "-c".into(), script.into()]) + &link));
    listener
}

#[test]
fn what_main_wrote_before_it_ended_arrives() {
    if skip::without(Need::Namespaces) {
        return;
    }
    for place in [Place::First, Place::Guest] {
        let folder = Folder::new();
        let listener = writes_last(&folder);
        let service = folder.start_in(Sandbox::new(place).net());
        let (mut upstream, _) = listener.accept().expect("the link connects");
        service.until_logged("ended: exit code 0");
        let mut last = Vec::new();
        upstream.read_to_end(&mut last).expect("an orderly end");
        assert_eq!((last.len(), service.running.wait().code), (LAST, 0), "{place:?}");
    }
}

#[test]
fn somebody_who_does_not_read_holds_up_the_end_for_a_second_at_most() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let folder = Folder::new();
    let listener = writes_last(&folder);
    let service = folder.start_in(Sandbox::new(Place::First).net());
    let _upstream = listener.accept().expect("the link connects");
    service.until_logged("ended: exit code 0");
    let ended = Instant::now();
    assert_eq!(service.running.wait().code, 0);
    // One second is promised; the rest is for a busy machine.
    assert!(ended.elapsed() < Duration::from_secs(8), "{:?}", ended.elapsed());
}
