//! Sources that move while clients come and go: no client hears of it, and from a stated time on all come to the new
//! place. Real files, a real dnsmasq, a real etcd, a real routing table. Both places live all the time.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::etcd::{Data, Etcd};
use crate::support::lane::{self, LINK, Lane};
use crate::support::load::{Load, failed, slowest};
use crate::support::namespace::ran_inside;
use crate::support::server::{Server, forget_what_has_ended};
use crate::support::service::{self, registry};
use crate::support::wait;
use crate::support::watch::Api;

const CLIENTS: usize = 8;

/// Moves the source from one place to the other and back, `times` in all. A connection begun `within` that time
/// after a move comes to the new place.
fn moves(servers: &[Server; 2], within: Duration, times: usize, mut to: impl FnMut(&Server)) {
    let load = Load::start(LINK, CLIENTS);
    load.until_at(servers[0].name());
    let mut stays = Vec::new();
    for turn in 1..=times {
        load.go_on(200);
        let new = &servers[turn % 2];
        let left = Instant::now();
        to(new);
        let settled = Instant::now() + within;
        load.until_begun_after(settled, 200);
        stays.push((left, settled, new.name()));
    }
    let all = load.end();
    assert_eq!(failed(&all).len(), 0, "{:?}", failed(&all));
    for (at, (left, settled, name)) in stays.iter().enumerate() {
        let until = stays.get(at + 1).map_or_else(Instant::now, |next| next.0);
        let astray = all.iter().filter(|one| {
            one.begun > *settled && one.ended < until && one.came_to.as_ref().is_ok_and(|came| came != name)
        });
        assert_eq!(astray.count(), 0, "came to the old place {within:?} after move {at}");
        let found = all.iter().filter(|one| one.begun > *left && one.came_to == Ok(*name));
        let found = found.map(|one| one.begun).min().expect("some came there");
        println!("move {at}: the first one came there {:?} after it began", found - *left);
    }
    println!("{} connections, {times} moves, 0 failed, the slowest took {:?}", all.len(), slowest(&all));
}

/// An /etc of our own, with this hosts file and a resolv.conf that names our own name server.
fn etc(hosts: &str) {
    let own = tempfile::tempdir().expect("a folder").keep();
    let script =
        "mount -t tmpfs own \"$0\"; cp -a /etc/. \"$0\" 2>/dev/null || true; mount --bind \"$0\" /etc";
    run("sh", &["-euc", script, own.to_str().expect("text")]);
    // Whatever it was: a link, or mounted from somewhere.
    let _gone = fs::remove_file("/etc/resolv.conf");
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n").expect("it is ours");
    let _gone = fs::remove_file("/etc/hosts");
    fs::write("/etc/hosts", hosts).expect("it is ours");
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("it is installed");
    assert!(status.success(), "{program} {args:?}: {status}");
}

fn servers() -> [Server; 2] {
    forget_what_has_ended();
    [Server::start(1), Server::start(2)]
}

fn link(to: &str) -> String {
    format!("to = '{to}'\nconnect_timeout = '300ms'\n")
}

fn line(server: &Server) -> String {
    format!("{} moving.example.test\n", server.address.ip())
}

/// Read anew for each connection, so the next one knows.
#[test]
fn the_hosts_file_is_written_anew_in_place() {
    if ran_inside(the_hosts_file_is_written_anew_in_place) {
        return;
    }
    let servers = servers();
    etc(&line(&servers[0]));
    let _lane = Lane::start(&link("moving.example.test:7001"), "");
    moves(&servers, Duration::ZERO, 20, |new| fs::write("/etc/hosts", line(new)).expect("it is ours"));
}

#[test]
fn the_hosts_file_is_replaced_by_another() {
    if ran_inside(the_hosts_file_is_replaced_by_another) {
        return;
    }
    let servers = servers();
    etc(&line(&servers[0]));
    let _lane = Lane::start(&link("moving.example.test:7001"), "");
    moves(&servers, Duration::ZERO, 20, |new| {
        fs::write("/etc/hosts.new", line(new)).expect("it is ours");
        fs::rename("/etc/hosts.new", "/etc/hosts").expect("it is ours");
    });
}

/// A dnsmasq at 127.0.0.1 whose answers are good for a second.
struct Names {
    folder: PathBuf,
    child: Child,
}

impl Names {
    /// `conf` are lines of its configuration, `hosts` those of a hosts file that is its alone.
    fn start(conf: &str, hosts: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder").keep();
        fs::write(folder.join("hosts"), hosts).expect("it is ours");
        let child = Self::launch(&folder, conf);
        Self { folder, child }
    }

    fn launch(folder: &Path, conf: &str) -> Child {
        let own = format!(
            "{conf}addn-hosts={0}/hosts\nlog-facility={0}/log\nno-hosts\nno-resolv\nlocal-ttl=1\n\
             bind-interfaces\nlisten-address=127.0.0.1\n",
            folder.display()
        );
        fs::write(folder.join("conf"), own).expect("it is ours");
        let conf = format!("--conf-file={}", folder.join("conf").display());
        let logged = || count(folder, ": started, ");
        let before = logged();
        // As who we are: it can't become anybody else where a user's own namespace has us.
        let child = Command::new("dnsmasq").args(["--no-daemon", &conf]).stderr(Stdio::null()).spawn();
        wait::until_true("dnsmasq to listen", || logged() > before);
        child.expect("dnsmasq is installed")
    }

    /// Other names, in the hosts file that it reads again when told.
    fn reread(&self, hosts: &str) {
        fs::write(self.folder.join("hosts"), hosts).expect("it is ours");
        let read = || count(&self.folder, ": read /");
        let before = read();
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGHUP).expect("our own child");
        wait::until_true("dnsmasq to have read it", || read() > before);
    }

    /// Another one in its place: there is none for a moment.
    fn replace(&mut self, conf: &str) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        self.child = Self::launch(&self.folder, conf);
    }
}

/// Lines of dnsmasq's log with this text.
fn count(folder: &Path, text: &str) -> usize {
    service::count(&fs::read_to_string(folder.join("log")).unwrap_or_default(), text)
}

impl Drop for Names {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// An answer is used for its TTL, here a second; the rest is for a slow machine.
const TTL: Duration = Duration::from_secs(2);

#[test]
fn an_address_in_dns_is_another() {
    if ran_inside(an_address_in_dns_is_another) {
        return;
    }
    let servers = servers();
    etc("");
    let names = Names::start("", &line(&servers[0]));
    let _lane = Lane::start(&link("moving.example.test:7001"), "");
    moves(&servers, TTL, 2, |new| names.reread(&line(new)));
}

#[test]
fn srv_records_name_another_and_their_server_is_away_for_a_moment() {
    if ran_inside(srv_records_name_another_and_their_server_is_away_for_a_moment) {
        return;
    }
    let zone = |server: &Server| {
        let (name, ip, port) = (server.name(), server.address.ip(), server.address.port());
        format!(
            "srv-host=_db._tcp.example.test,n{name}.example.test,{port},10,1\nhost-record=n{name}.example.test,{ip}\n"
        )
    };
    let servers = servers();
    etc("");
    let mut names = Names::start(&zone(&servers[0]), "");
    let _lane = Lane::start(&link("srv:_db._tcp.example.test"), "");
    moves(&servers, TTL, 2, |new| names.replace(&zone(new)));
}

/// Watched: known as soon as it is announced. One comes before the other goes, as in any careful deployment.
#[test]
fn a_record_is_withdrawn_and_another_announced() {
    if ran_inside(a_record_is_withdrawn_and_another_announced) {
        return;
    }
    let servers = servers();
    let etcd = Etcd::start();
    lane::announce(Api::V3, &etcd, servers[0].address);
    let _lane = Lane::start(&link(&format!("registry:{}", lane::NAME)), &registry(Api::V3, etcd.address()));
    moves(&servers, Duration::from_secs(1), 4, |new| {
        let old = servers.iter().find(|server| server.name() != new.name()).expect("the other one");
        lane::announce(Api::V3, &etcd, new.address);
        lane::withdraw(Api::V3, &etcd, old.address);
    });
}

/// While nobody watches: ensign asks again after 5 s at most.
#[test]
fn a_record_is_another_when_etcd_comes_back() {
    if ran_inside(a_record_is_another_when_etcd_comes_back) {
        return;
    }
    let servers = servers();
    let etcd = RefCell::new(Etcd::start());
    lane::announce(Api::V2, &etcd.borrow(), servers[0].address);
    let tables = registry(Api::V2, etcd.borrow().address());
    let _lane = Lane::start(&link(&format!("registry:{}", lane::NAME)), &tables);
    moves(&servers, Duration::from_secs(6), 1, |new| {
        let mut etcd = etcd.borrow_mut();
        etcd.stop();
        etcd.start_again(Data::Kept);
        lane::announce(Api::V2, &etcd, new.address);
        lane::withdraw(Api::V2, &etcd, servers[0].address);
    });
}

/// The routes are read again after a second.
#[test]
fn the_default_route_leads_elsewhere() {
    if ran_inside(the_default_route_leads_elsewhere) {
        return;
    }
    forget_what_has_ended();
    let gateways = ["10.9.0.1", "10.9.0.2"];
    for gateway in gateways {
        // It needs a neighbour that is not us to be a gateway, and then us to answer there.
        run("ip", &["route", "replace", "default", "via", gateway, "dev", "lo", "onlink"]);
        run("ip", &["address", "add", &format!("{gateway}/32"), "dev", "lo"]);
    }
    let route = |gateway: &str| {
        run("ip", &["address", "del", &format!("{gateway}/32"), "dev", "lo"]);
        run("ip", &["route", "replace", "default", "via", gateway, "dev", "lo", "onlink"]);
        run("ip", &["address", "add", &format!("{gateway}/32"), "dev", "lo"]);
    };
    let servers = gateways.map(|ip| Server::start_at(format!("{ip}:7001").parse().expect("an address")));
    route(gateways[0]);
    let _lane = Lane::start(&link("gateway:7001"), "");
    moves(&servers, Duration::from_secs(2), 2, |new| route(&new.address.ip().to_string()));
}
