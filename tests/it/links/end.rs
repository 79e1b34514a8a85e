//! The end of a container with links: what main wrote last gets to where it was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::namespace::{Place, Sandbox, ran_inside};
use crate::support::service::{Folder, command, list};
use crate::support::skip::{self, Need};
use crate::support::wait;

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

/// Main takes its time to stop. Its own way to the upstream stays open, that of others is closed, and whoever is
/// connected stays so until main has ended.
#[test]
fn a_stop_turns_others_away_and_cuts_nobody_off() {
    if ran_inside(a_stop_turns_others_away_and_cuts_nobody_off) {
        return;
    }
    let folder = Folder::new();
    let path = folder.path("upstream.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let link = |name: &str, at: &str| {
        format!("[[link]]\nname = \"{name}\"\nlisten = \"{at}\"\nto = \"unix:{}\"\n", path.display())
    };
    let links = link("others", "0.0.0.0:7000") + &link("own", "127.0.0.1:7001");
    folder.write(
        "web.toml",
        &(command(&["signals", "--until", "10"]) + "stop = { timeout = 'never' }\n" + &links),
    );
    let service = folder.start(Place::Guest);
    service.running.until_line("ready");
    let mut client = TcpStream::connect("127.0.0.1:7000").expect("it listens");
    let (mut upstream, _) = listener.accept().expect("the link connects");
    service.send(Signal::SIGTERM);
    service.running.until_line("main 15");
    wait::until_true("others to be turned away", || {
        TcpStream::connect("127.0.0.1:7000").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let mut own = TcpStream::connect("127.0.0.1:7001").expect("main may need it still");
    for end in [&mut client, &mut own] {
        end.write_all(b"word").expect("it is open");
    }
    let (mut second, _) = listener.accept().expect("the link connects");
    for end in [&mut upstream, &mut second] {
        let mut word = [0; 4];
        end.read_exact(&mut word).expect("it is open");
        end.write_all(&word).expect("it is open");
    }
    service.send(Signal::SIGUSR1);
    assert_eq!(service.running.wait().code, 0);
    let mut last = String::new();
    client.read_to_string(&mut last).expect("an orderly end");
    assert_eq!(last, "word");
}
