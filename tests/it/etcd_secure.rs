//! A secured etcd, v3 and v2: TLS with certificates of both sides, users with passwords, and all that can be wrong with
//! them, at the start and while everything runs.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ensign::config::units::dns_name;
use ensign::config::{self, Conflict, Identity, Login, RegistryUrl, Tls};
use ensign::net::resolve::Resolver;
use ensign::registry::{Registry, Renewal, Seen};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{JoinSet, LocalSet};

use crate::support::certificates::{Authority, Pair, Validity, replace};
use crate::support::ensign;
use crate::support::etcd::{self, Data, Etcd, Fate, Lossy, USER};
use crate::support::namespace::{Place, ran_inside};
use crate::support::place::{LONG, claim, hosts};
use crate::support::process;
use crate::support::service::{ANNOUNCE, Folder, KEY, Service, VALUE, command};
use crate::support::skip::{self, Need};
use crate::support::wait;
use crate::support::watch::Api;

const HERE: &str = "IP:127.0.0.1,DNS:localhost";
const NAME: &str = "web.s.prod.example.com";
const PASSWORD: &str = "geheim-1!\u{e9}";
const NEXT_PASSWORD: &str = "geheim-2";
/// Longer than the shortest: etcd has a password to check, for v2 with each request.
const TTL: Duration = Duration::from_secs(4);
/// Far beyond what an announcement takes.
const PATIENCE: Duration = Duration::from_secs(30);
const LOST: &str = "registry out of reach";

/// An etcd that wants a certificate, a user and a password, and a folder with what it takes.
struct Secured {
    etcd: Etcd,
    /// etcd reads its certificate anew for each connection.
    authority: Authority,
    folder: Folder,
}

impl Secured {
    fn start() -> Self {
        let authority = Authority::new();
        let server = authority.issue("etcd", HERE, Validity::Now);
        let mut etcd = Etcd::start_secure(server, Some(authority.ca()));
        etcd.turn_auth_on(PASSWORD);
        let folder = Folder::new();
        let Pair { cert, key } = authority.issue("client", "DNS:client", Validity::Now);
        for (name, from) in [("ca.pem", &authority.ca()), ("web.pem", &cert), ("web.key", &key)] {
            fs::copy(from, folder.path(name)).expect("copied");
        }
        folder.write("password", &format!("{PASSWORD}\n"));
        Self { etcd, authority, folder }
    }

    /// Starts a service that is announced in the API, with the log at its most talkative.
    fn announce(&self, api: Api) -> Service {
        let scheme = match api {
            Api::V3 => "etcds",
            Api::V2 => "etcd2s",
        };
        let text = command(&["hold"])
            + "stop = { drain = \"0s\" }\n"
            + &ANNOUNCE.replace("ttl = \"2s\"", "ttl = \"4s\"")
            + &format!(
                "[registry]\nurl = \"{scheme}://{}\"\nca = \"ca.pem\"\ncert = \"web.pem\"\nkey = \"web.key\"\n\
                 user = \"{USER}\"\npassword_file = \"password\"\n[log]\nlevel = \"trace\"\n",
                self.etcd.secure_address()
            );
        self.folder.write("web.toml", &text);
        self.folder.start(Place::First)
    }

    fn config(&self, api: Api) -> config::Registry {
        let path = |name: &str| self.folder.path(name);
        let tls = Tls {
            ca: path("ca.pem"),
            identity: Some(Identity { cert: path("web.pem"), key: path("web.key") }),
        };
        let login = Login { user: USER.to_owned(), password_file: path("password") };
        at(api, self.etcd.secure_address(), Some(tls), Some(login))
    }

    fn until_announced(&self, api: Api, service: &Service) {
        let begun = Instant::now();
        wait::until_true("the record", || {
            assert!(begun.elapsed() < PATIENCE, "{api:?}: not announced: {}", service.log());
            self.holds(api)
        });
    }

    fn holds(&self, api: Api) -> bool {
        api.read(&self.etcd, KEY).is_some_and(|held| held.value == VALUE)
    }
}

fn at(api: Api, address: SocketAddr, tls: Option<Tls>, login: Option<Login>) -> config::Registry {
    let url = match api {
        Api::V3 => RegistryUrl::Etcd3(hosts(&[address])),
        Api::V2 => RegistryUrl::Etcd2(hosts(&[address])),
    };
    config::Registry { url, prefix: "/skydns".to_owned(), tls, login }
}

fn registry(config: &config::Registry) -> Registry {
    Registry::new(config, Arc::new(Resolver::system())).expect("a registry")
}

/// Why nothing can be listed.
async fn refusal(config: &config::Registry) -> String {
    registry(config).list(None).await.expect_err("refused").to_string()
}

/// Tests both APIs at the same time.
fn both(test: impl Fn(Api) + Sync) {
    thread::scope(|scope| {
        let both = Api::BOTH.map(|api| {
            let test = &test;
            let named = thread::Builder::new().name(format!("{api:?}"));
            named.spawn_scoped(scope, move || test(api)).expect("a thread starts")
        });
        for one in both {
            one.join().expect("its own panic is above");
        }
    });
}

fn trusting(ca: PathBuf) -> Option<Tls> {
    Some(Tls { ca, identity: None })
}

fn ls(file: &Path) -> std::process::Output {
    Command::new(ensign()).args(["ls", "--json", "-c"]).arg(file).output().expect("ensign runs")
}

/// Announced, kept, followed, listed, withdrawn; and nobody sees the password.
#[test]
fn all_of_it_works_over_tls_with_a_user() {
    if skip::without(Need::Namespaces) {
        return;
    }
    both(|api| {
        let secured = Secured::start();
        let service = secured.announce(api);
        secured.until_announced(api, &service);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (tell, mut told) = unbounded_channel();
        let followed = registry(&secured.config(api));
        let _following = runtime.spawn(async move {
            let name = dns_name(NAME).expect("a name");
            followed.follow(&name, move |seen| drop(tell.send(seen))).await;
        });
        let next = |told: &mut tokio::sync::mpsc::UnboundedReceiver<Seen>| {
            runtime.block_on(async { tokio::time::timeout(LONG, told.recv()).await.expect("in time") })
        };
        let Some(Seen::Instances(found)) = next(&mut told) else { panic!("{api:?}: not followed") };
        assert_eq!(found[0].port, 8087);
        let gone = Instant::now() + TTL + TTL / 2;
        wait::until_true("more than the time of a lease", || {
            assert!(secured.holds(api), "{api:?}: {}", service.log());
            Instant::now() > gone
        });
        let listed = ls(&secured.folder.path("web.toml"));
        let shown = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.status.success() && shown.contains(r#""instance":"node-1""#), "{listed:?}");

        let argv = process::argv(service.running.init());
        service.send(nix::sys::signal::Signal::SIGTERM);
        let ended = service.running.wait();
        assert_eq!(ended.code, 143);
        assert!(!secured.holds(api), "{api:?}: withdrawn");
        while !matches!(next(&mut told).expect("followed"), Seen::Instances(found) if found.is_empty()) {}
        let basic = base64(&format!("{USER}:{PASSWORD}"));
        let all = format!("{argv:?}\n{shown}{}\n{ended:?}", String::from_utf8_lossy(&listed.stderr));
        assert!(all.contains("announced"), "{all}");
        for secret in ["geheim", &basic, &base64(PASSWORD), "BEGIN"] {
            assert!(!all.contains(secret), "{api:?}: `{secret}` in {all}");
        }
    });
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn each_certificate_that_is_wrong_is_told_for_what_it_is() {
    let authority = Authority::new();
    let other = Authority::new();
    let server = authority.issue("etcd", HERE, Validity::Now);
    let mut etcd = Etcd::start_secure(server.clone(), Some(authority.ca()));
    let client = |pair: Pair| {
        let identity = Some(Identity { cert: pair.cert, key: pair.key });
        Some(Tls { ca: authority.ca(), identity })
    };
    let good = client(authority.issue("client", "DNS:client", Validity::Now));
    for api in Api::BOTH {
        let secure = |tls| at(api, etcd.secure_address(), tls, None);
        assert_eq!(registry(&secure(good.clone())).list(None).await.expect("listed"), []);
        for (tls, reason) in [
            (trusting(other.ca()), "unknown issuer"),
            (trusting(authority.ca()), "certificate"),
            (client(authority.issue("late", "DNS:late", Validity::Past)), "our certificate"),
            (client(other.issue("stranger", "DNS:stranger", Validity::Now)), "our certificate"),
        ] {
            let refused = refusal(&secure(tls.clone())).await;
            assert!(refused.contains(reason) && !refused.contains('\n'), "{api:?} {tls:?}: {refused}");
        }
        // Plain where TLS is wanted, and the other way round.
        let plain = refusal(&at(api, etcd.secure_address(), None, None)).await;
        assert!(plain.contains("does it want TLS"), "{plain}");
        let not_tls = refusal(&at(api, etcd.address(), good.clone(), None)).await;
        assert!(not_tls.contains("does it speak TLS"), "{not_tls}");
    }
    for (pair, reason) in [
        (authority.issue("old", HERE, Validity::Past), "has expired, at 2020-01-02T00:00:00Z"),
        (authority.issue("elsewhere", "DNS:elsewhere.example", Validity::Now), "name mismatch"),
    ] {
        etcd.stop();
        etcd.set_server(pair);
        etcd.start_again(Data::Kept);
        let refused = refusal(&at(Api::V3, etcd.secure_address(), good.clone(), None)).await;
        assert!(refused.contains(reason), "{refused}");
    }
}

/// Its end is seen by whoever waits for it, and not taken for one where we have closed the connection ourselves.
#[tokio::test]
async fn an_etcd_that_dies_hangs_up() {
    let authority = Authority::new();
    let mut etcd = Etcd::start_secure(authority.issue("etcd", HERE, Validity::Now), None);
    for api in Api::BOTH {
        for (address, tls) in [(etcd.secure_address(), trusting(authority.ca())), (etcd.address(), None)] {
            let registry = registry(&at(api, address, tls, None));
            assert_eq!(registry.list(None).await.expect("listed"), []);
            // A watch has its own connection, which is closed when it is dropped.
            let name = dns_name(NAME).expect("a name");
            let (tell, mut told) = unbounded_channel();
            tokio::select! {
                () = registry.follow(&name, move |seen| drop(tell.send(seen))) => {}
                seen = told.recv() => assert_eq!(seen, Some(Seen::Instances(Vec::new()))),
            }
            let short = tokio::time::timeout(Duration::from_millis(200), registry.hung_up()).await;
            assert!(short.is_err(), "{api:?}: all is well");
            etcd.stop();
            tokio::time::timeout(LONG, registry.hung_up()).await.expect("in time");
            etcd.start_again(Data::Kept);
        }
    }
}

/// Without a file: whom to trust is the system's business, and where there is nobody, that is said.
#[test]
fn a_url_alone_trusts_whom_the_system_trusts() {
    let authority = Authority::new();
    let etcd = Etcd::start_secure(authority.issue("etcd", HERE, Validity::Now), None);
    for scheme in ["etcds", "etcd2s"] {
        let ls = |bundle: &Path| {
            let url = format!("{scheme}://localhost:{}", etcd.secure_address().port());
            let mut ls = Command::new(ensign());
            let ended = ls.args(["ls", "--registry", &url]).env("SSL_CERT_FILE", bundle).output();
            let ended = ended.expect("ensign runs");
            (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
        };
        let (code, said) = ls(&authority.ca());
        assert!(code == Some(0) && said.starts_with("note: nothing is announced in "), "{said}");
        let (code, said) = ls(&Authority::new().ca());
        assert!(code == Some(1) && said.contains("unknown issuer"), "{said}");
        let (code, said) = ls(Path::new("/nonexistent"));
        assert!(code == Some(78) && said.contains("no bundle of certification authorities"), "{said}");
    }
}

/// What is wrong at the start and put right while everything runs, in both APIs.
#[test]
fn what_is_put_right_is_taken_up() {
    if skip::without(Need::Namespaces) {
        return;
    }
    both(|api| {
        let secured = Secured::start();
        let right = fs::read(secured.folder.path("ca.pem")).expect("there");
        fs::copy(Authority::new().ca(), secured.folder.path("ca.pem")).expect("copied");
        let service = secured.announce(api);
        service.until_logged("unknown issuer");
        let listed = ls(&secured.folder.path("web.toml"));
        assert!(!listed.status.success());
        assert!(String::from_utf8_lossy(&listed.stderr).contains("unknown issuer"), "{listed:?}");
        replace(&secured.folder.path("ca.pem"), &right);
        secured.until_announced(api, &service);
        // And what is broken later changes nothing.
        replace(&secured.folder.path("ca.pem"), b"half a fi");
        service.until_logged("what was read before is used on");
        assert_eq!(service.logged("what was read before is used on"), 1, "{}", service.log());
        secured.until_announced(api, &service);
        assert_eq!(service.stop().code, 143);

        replace(&secured.folder.path("ca.pem"), &right);
        replace(&secured.folder.path("password"), b"wrong");
        let service = secured.announce(api);
        service.until_logged("wrong user or password");
        let listed = ls(&secured.folder.path("web.toml"));
        assert!(String::from_utf8_lossy(&listed.stderr).contains("wrong user or password"), "{listed:?}");
        replace(&secured.folder.path("password"), PASSWORD.as_bytes());
        secured.until_announced(api, &service);
        assert_eq!(service.stop().code, 143);
        assert!(!secured.holds(api));
    });
}

#[test]
fn a_right_that_is_missing_is_named_and_taken_up_when_it_is_granted() {
    if skip::without(Need::Namespaces) {
        return;
    }
    let secured = Secured::start();
    secured.etcd.revoke_v3();
    let service = secured.announce(Api::V3);
    service.until_logged(&format!("permission denied for key `{KEY}`"));
    secured.etcd.grant_v3();
    secured.until_announced(Api::V3, &service);
    assert_eq!(service.stop().code, 143);
}

/// etcd's JSON gateway takes no user from a certificate, and refuses one that could be meant so.
#[tokio::test]
async fn a_certificate_with_a_common_name_is_told_of() {
    let secured = Secured::start();
    let named = secured.authority.issue_to("named", "/CN=ens", "DNS:named", Validity::Now);
    let mut config = secured.config(Api::V3);
    let tls = config.tls.as_mut().expect("given");
    tls.identity = Some(Identity { cert: named.cert, key: named.key });
    for login in [config.login.clone(), None] {
        let refused = refusal(&config::Registry { login, ..config.clone() }).await;
        assert!(refused.contains("takes no client certificate with a CommonName"), "{refused}");
    }
}

/// The token is lost with the password, and with etcd's process: nobody notices.
#[test]
fn a_changed_password_and_a_restarted_etcd_are_got_over() {
    if skip::without(Need::Namespaces) {
        return;
    }
    both(|api| {
        let mut secured = Secured::start();
        let service = secured.announce(api);
        secured.until_announced(api, &service);
        replace(&secured.folder.path("password"), NEXT_PASSWORD.as_bytes());
        secured.etcd.set_password(NEXT_PASSWORD);
        stays(&secured, api, &service);
        secured.etcd.stop();
        service.until_logged(LOST);
        secured.etcd.start_again(Data::Kept);
        secured.until_announced(api, &service);
        service.until_logged("registry reached again");
        stays(&secured, api, &service);
        // Changed there alone; here later.
        secured.etcd.set_password("geheim-3");
        if api == Api::V2 {
            // In v3 a lease is renewed whoever asks.
            wait::until_true("the refusal", || service.logged(LOST) > 1);
        }
        replace(&secured.folder.path("password"), b"geheim-3\n");
        secured.until_announced(api, &service);
        let ended = service.stop();
        assert_eq!(ended.code, 143);
        assert!(!format!("{ended:?}").contains("geheim"), "{ended:?}");
        assert!(!secured.holds(api));
    });
}

/// Past the time of the lease that was there at first.
fn stays(secured: &Secured, api: Api, service: &Service) {
    wait::be_late(TTL + TTL / 2);
    wait::until_true("the record", || secured.holds(api));
    assert!(service.logged("wrong user") == 0, "{}", service.log());
}

/// A file system whose server is gone: whoever looks at anything in it waits, until this is dropped.
struct Hung {
    _server: fs::File,
    at: PathBuf,
}

impl Hung {
    /// Over whatever is there.
    fn over(at: PathBuf) -> Self {
        let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let server = fuse.expect("this test mounts a file system: it needs /dev/fuse");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = MsFlags::empty();
        mount(Some("hung"), &at, Some("fuse"), flags, Some(data.as_str()))
            .expect("mounted: this is root in here");
        Self { _server: server, at }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).expect("it is mounted");
    }
}

/// The thread that would wait is the one that reaps.
#[test]
fn files_that_hang_hold_up_nothing() {
    if ran_inside(files_that_hang_hold_up_nothing) {
        return;
    }
    both(|api| {
        let secured = Secured::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let registry = registry(&secured.config(api));
        let claim = claim(LONG);
        runtime.block_on(registry.register(&claim, Conflict::Take)).expect("registered");
        let hung = Hung::over(secured.folder.path(""));
        // Ends the wait of whoever does wait.
        let (end, ended) = mpsc::channel();
        let waker = thread::spawn(move || {
            let _ended_or_late = ended.recv_timeout(Duration::from_secs(10));
            drop(hung);
        });
        let begun = Instant::now();
        for _ in 0..2 {
            let renewed = runtime.block_on(registry.renew(&claim)).expect("renewed");
            assert_eq!(renewed, Renewal::Kept { ttl: LONG }, "{api:?}");
        }
        let refused = runtime.block_on(refusal(&secured.config(api)));
        assert!(refused.ends_with("its file system does not answer"), "{api:?}: {refused}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{api:?}: {:?}", begun.elapsed());
        runtime.shutdown_background();
        end.send(()).expect("it waits for that");
        waker.join().expect("it does not panic");
    });
}

#[tokio::test]
async fn one_login_serves_all_and_a_refused_one_is_not_repeated() {
    let mut etcd = Etcd::start();
    etcd.turn_auth_on(PASSWORD);
    let folder = Folder::new();
    folder.write("password", PASSWORD);
    let road = Lossy::before(&etcd);
    let login = Login { user: USER.to_owned(), password_file: folder.path("password") };
    let config = at(Api::V3, road.address(), None, Some(login));
    let all = registry(&config);
    let (a, b, c, d) = tokio::join!(all.list(None), all.list(None), all.list(None), all.list(None));
    for listed in [a, b, c, d] {
        assert_eq!(listed.expect("listed"), []);
    }
    assert_eq!(road.taken(), 5, "four requests and one login");

    replace(&folder.path("password"), b"wrong");
    wait::be_late_async(Duration::from_millis(60)).await;
    let all = registry(&config);
    for _ in 0..5 {
        let refused = all.list(None).await.expect_err("refused").to_string();
        assert!(refused.ends_with("wrong user or password (user `ens`)"), "{refused}");
    }
    assert_eq!(road.taken(), 6, "one login more");
    replace(&folder.path("password"), PASSWORD.as_bytes());
    assert_eq!(all.list(None).await.expect("listed"), []);

    let nobody = refusal(&at(Api::V3, etcd.address(), None, None)).await;
    assert!(nobody.contains("wants a user and a password"), "{nobody}");
}

/// Each login costs etcd a tenth of a second of a processor, whether or not anybody still waits for it: that of one who
/// gave up after a second would be for nothing, and all the others' as well.
#[tokio::test]
async fn a_crowd_that_logs_in_at_once_gets_in() {
    const CROWD: usize = 100;
    let mut etcd = Etcd::start();
    etcd.turn_auth_on(PASSWORD);
    let folder = Folder::new();
    folder.write("password", PASSWORD);
    let login = Login { user: USER.to_owned(), password_file: folder.path("password") };
    let config = at(Api::V3, etcd.address(), None, Some(login));
    let (begun, before) = (Instant::now(), etcd::logins(&etcd.request("GET", "/metrics", "").1));
    let (here, mut crowd) = (LocalSet::new(), JoinSet::new());
    for _ in 0..CROWD {
        let registry = registry(&config);
        let is_in = async move {
            wait::until_async("a listing", async || registry.list(None).await.ok()).await;
            begun.elapsed()
        };
        crowd.spawn_local_on(is_in, &here);
    }
    let mut times = here.run_until(crowd.join_all()).await;
    times.sort();
    println!("the first is in after {:?}, the last after {:?}", times[0], times[CROWD - 1]);
    let made = etcd::logins(&etcd.request("GET", "/metrics", "").1) - before;
    assert_eq!(made, CROWD as u64, "none was for nothing");
}

/// An etcd that is busy with others' logins is slow for those who are in, too: they must not log in again for that.
#[tokio::test]
async fn a_request_without_an_answer_soon_after_a_login_costs_no_other() {
    let mut etcd = Etcd::start();
    etcd.turn_auth_on(PASSWORD);
    let folder = Folder::new();
    folder.write("password", PASSWORD);
    let road = Lossy::before(&etcd);
    let login = Login { user: USER.to_owned(), password_file: folder.path("password") };
    let registry = registry(&at(Api::V3, road.address(), None, Some(login)));
    road.decide(1, Fate::Lost);
    let lost = registry.list(None).await.expect_err("the answer is lost").to_string();
    assert!(lost.ends_with("no answer within 1s"), "{lost}");
    assert_eq!(registry.list(None).await.expect("listed"), []);
    assert_eq!(road.taken(), 3, "a login and two requests");
}

/// A token of what the cluster was: etcd may hold a request with it for ever.
#[tokio::test]
async fn an_etcd_wiped_and_secured_again_is_logged_in_to_again() {
    let mut etcd = Etcd::start();
    // So that the token's number is beyond whatever the new cluster has seen.
    for _ in 0..100 {
        Api::V3.write(&etcd, "/others", "x");
    }
    etcd.turn_auth_on(PASSWORD);
    let folder = Folder::new();
    folder.write("password", PASSWORD);
    let login = Login { user: USER.to_owned(), password_file: folder.path("password") };
    let registry = registry(&at(Api::V3, etcd.address(), None, Some(login)));
    let first = claim(LONG);
    registry.register(&first, Conflict::Take).await.expect("registered");
    etcd = etcd.wiped();
    etcd.turn_auth_on(PASSWORD);
    wait::until_async("the new cluster to take us", async || registry.list(None).await.ok()).await;
    assert_eq!(registry.renew(&first).await.expect("an answer"), Renewal::Lost);
}

/// A user is named before etcd's auth is on: as etcd's own client has it, nothing is asked of nobody.
#[tokio::test]
async fn auth_may_be_turned_on_later() {
    let mut etcd = Etcd::start();
    let folder = Folder::new();
    folder.write("password", PASSWORD);
    for api in Api::BOTH {
        let login = Login { user: USER.to_owned(), password_file: folder.path("password") };
        let registry = registry(&at(api, etcd.address(), None, Some(login)));
        let claim = claim(LONG);
        registry.register(&claim, Conflict::Take).await.expect("registered");
        if api == Api::V3 {
            etcd.turn_auth_on(PASSWORD);
        }
        assert_eq!(registry.renew(&claim).await.expect("renewed"), Renewal::Kept { ttl: LONG });
        registry.withdraw(&claim).await.expect("withdrawn");
        assert_eq!(registry.list(None).await.expect("listed"), []);
    }
}
