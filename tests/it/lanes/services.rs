//! PostgreSQL, Redis and nginx behind a link, each with its own benchmark: no error by its own account, and the data are
//! right afterwards. And TLS, of which a link sees nothing.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::lane::{LINK, Lane, to};
use crate::support::namespace::ran_inside;
use crate::support::wait;

/// Where the services are, of which each test has one.
const SERVICE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 1, 1)), 7001);

/// A service that ends with the test, and a link to it.
struct Linked {
    _lane: Lane,
    child: Child,
    folder: PathBuf,
}

impl Linked {
    fn start(folder: PathBuf, service: &mut Command) -> Self {
        let child = service.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it is installed");
        wait::until_true("the service to listen", || TcpStream::connect(SERVICE).is_ok());
        Self { _lane: Lane::start(&to(&[SERVICE], "round-robin"), ""), child, folder }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        // What it leaves behind goes with the namespaces.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Gone with the test's other temporary files.
fn folder() -> PathBuf {
    tempfile::tempdir().expect("a folder").keep()
}

/// What it printed, both ways: its words are the verdict.
fn done(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it is installed");
    let text = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(status.success(), "{command:?}: {status}: {text}");
    text
}

fn lines<'a>(text: &'a str, what: &[&str]) -> Vec<&'a str> {
    text.lines().filter(|line| what.iter().any(|what| line.contains(what))).collect()
}

/// The newest of PostgreSQL's own programs.
fn postgres(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed").flatten();
    let newest = versions.max_by_key(|version| version.file_name().to_string_lossy().parse().unwrap_or(0));
    newest.expect("a version").path().join("bin").join(program)
}

/// PostgreSQL refuses to be root: to it we are nobody.
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=65534", "--map-group=65534", "--"]).arg(program);
    command
}

fn sql(at: SocketAddr, text: &str) -> String {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let psql = ["-h", &ip, "-p", &port, "-U", "postgres", "-XAtc", text, "postgres"];
    done(Command::new(postgres("psql")).args(psql)).trim_end().to_owned()
}

fn pgbench(args: &[&str]) -> String {
    let (ip, port) = (LINK.ip().to_string(), LINK.port().to_string());
    done(
        Command::new(postgres("pgbench"))
            .args(["-h", &ip, "-p", &port, "-U", "postgres"])
            .args(args)
            .arg("postgres"),
    )
}

#[test]
fn postgresql_works_through_a_link() {
    if ran_inside(postgresql_works_through_a_link) {
        return;
    }
    let data = folder();
    let (host, port) = (SERVICE.ip(), SERVICE.port());
    done(
        as_nobody(&postgres("initdb"))
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-D"])
            .arg(&data),
    );
    let settings = format!(
        "listen_addresses = '{host}'\nport = {port}\nunix_socket_directories = ''\nfsync = off\n\
         logging_collector = on\nmax_connections = 50\n"
    );
    fs::write(data.join("postgresql.conf"), settings).expect("it is ours");
    let linked = Linked::start(data.clone(), as_nobody(&postgres("postgres")).arg("-D").arg(&data));
    wait::until_true("postgres to be ready", || {
        let ready = Command::new(postgres("pg_isready"))
            .args(["-qh", &host.to_string(), "-p", &port.to_string()])
            .status();
        ready.expect("it is installed").success()
    });
    pgbench(&["-iq", "-s", "2"]);
    // Clients that stay, then clients that come anew for each transaction.
    let mut transactions = 0;
    for (clients, each, args) in
        [(8, 250, ["-M", "prepared"]), (8, 250, ["-M", "simple"]), (4, 50, ["-M", "extended"])]
    {
        let (clients_text, each_text) = (clients.to_string(), each.to_string());
        let mut all = vec!["-n", "-j", "2", "-c", &clients_text, "-t", &each_text];
        all.extend(args);
        if each == 50 {
            all.push("-C");
        }
        let report = pgbench(&all);
        println!("{:?}", lines(&report, &["actually processed", "failed", "tps"]));
        let processed = format!("number of transactions actually processed: {0}/{0}", clients * each);
        assert!(report.contains(&processed), "{report}");
        assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{report}");
        transactions += clients * each;
    }
    let sums = "SELECT (SELECT count(*) FROM pgbench_history),
        (SELECT sum(delta) FROM pgbench_history) = ALL (ARRAY[(SELECT sum(abalance) FROM pgbench_accounts),
        (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches)])";
    assert_eq!(sql(LINK, sums), format!("{transactions}|t"));
    // 20 MB in one answer, and the same ones without the link.
    let all = "COPY (SELECT * FROM pgbench_accounts ORDER BY aid) TO STDOUT";
    let through = sql(LINK, all);
    assert!(through == sql(SERVICE, all), "other rows through the link");
    println!("{transactions} transactions, 0 failed; {} MB in one answer", through.len() / 1_000_000);
    drop(linked);
}

fn redis_cli(args: &[&str]) -> String {
    let (ip, port) = (LINK.ip().to_string(), LINK.port().to_string());
    done(Command::new("redis-cli").args(["-h", &ip, "-p", &port]).args(args)).trim_end().to_owned()
}

#[test]
fn redis_works_through_a_link() {
    if ran_inside(redis_works_through_a_link) {
        return;
    }
    let data = folder();
    let (host, port) = (SERVICE.ip().to_string(), SERVICE.port().to_string());
    let args = ["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no", "--dir"];
    let _linked = Linked::start(data.clone(), Command::new("redis-server").args(args).arg(&data));
    let mut total = 0;
    for (requests, more) in [(20_000, ["-P", "1"]), (100_000, ["-P", "16"]), (2000, ["-k", "0"])] {
        let (ip, port, number) = (LINK.ip().to_string(), LINK.port().to_string(), requests.to_string());
        let args =
            ["-h", &ip, "-p", &port, "-q", "-n", &number, "-c", "50", "-r", "100", "-t", "incr,lpush,get"];
        let report = done(Command::new("redis-benchmark").args(args).args(more));
        assert_eq!(lines(&report, &["requests per second"]).len(), 3, "{report}");
        assert!(!report.to_ascii_lowercase().contains("error"), "{report}");
        total += requests;
        let rates: Vec<&str> = report.lines().filter_map(|line| line.rsplit('\r').next()).collect();
        println!("{more:?} {rates:?}");
    }
    // Each INCR was one, and each LPUSH.
    let sum = "local s = 0 for _, k in ipairs(redis.call('KEYS', 'counter:*')) do s = s + redis.call('GET', k) end return s";
    assert_eq!(redis_cli(&["EVAL", sum, "0"]), total.to_string());
    assert_eq!(redis_cli(&["LLEN", "mylist"]), total.to_string());
    println!("{total} INCR and as many LPUSH, each of them once");
}

/// An nginx with one file, `noise`, in plain or over TLS with a certificate of its own.
fn nginx(is_tls: IsTls) -> (Linked, Vec<u8>) {
    let folder = folder();
    let at = |name: &str| folder.join(name).display().to_string();
    let mut noise = vec![0; 5_000_001];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    fs::write(at("noise"), &noise).expect("it is ours");
    fs::write(at("small"), "hello\n").expect("it is ours");
    let tls = match is_tls {
        IsTls::No => String::new(),
        IsTls::Yes => {
            let request =
                ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
            let names =
                ["-days", "2", "-subj", "/CN=secure.test", "-addext", "subjectAltName=DNS:secure.test"];
            let files = ["-keyout", &at("key"), "-out", &at("cert")];
            done(Command::new("openssl").args(request).args(names).args(files));
            format!("ssl_certificate {};\nssl_certificate_key {};\n", at("cert"), at("key"))
        }
    };
    let listen = format!("listen {SERVICE}{} backlog=1024;", if is_tls == IsTls::Yes { " ssl" } else { "" });
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
        .concat();
    let conf = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {};\nerror_log {} warn;\nevents {{ worker_connections 500; }}\n\
         http {{\naccess_log off;\n{temporary}server {{\n{listen}\n{tls}root {};\n}}\n}}\n",
        at("pid"),
        at("error.log"),
        folder.display()
    );
    fs::write(at("conf"), conf).expect("it is ours");
    let mut service = Command::new("nginx");
    service.args(["-p", &at(""), "-c", &at("conf"), "-e", &at("error.log")]);
    (Linked::start(folder.clone(), &mut service), noise)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsTls {
    Yes,
    No,
}

#[test]
fn nginx_works_through_a_link() {
    if ran_inside(nginx_works_through_a_link) {
        return;
    }
    let (_linked, noise) = nginx(IsTls::No);
    for path in ["small", "noise"] {
        let url = format!("http://{LINK}/{path}");
        let report = done(Command::new("wrk").args(["-t", "1", "-c", "50", "-d", "1s", &url]));
        println!("{path}: {:?}", lines(&report, &["requests in", "Requests/sec", "Transfer/sec"]));
        assert_eq!(lines(&report, &["Socket errors", "Non-2xx"]), [""; 0]);
        assert_eq!(lines(&report, &["requests in"]).len(), 1, "{report}");
    }
    let got =
        Command::new("curl").args(["-sf", &format!("http://{LINK}/noise")]).output().expect("installed");
    assert!(got.stdout == noise, "{} other bytes", got.stdout.len());
}

/// A client that verifies whom it talks to sees the server's own certificate, and no other.
#[test]
fn tls_passes_through_untouched() {
    if ran_inside(tls_passes_through_untouched) {
        return;
    }
    let (linked, noise) = nginx(IsTls::Yes);
    let certificate = linked.folder.join("cert").display().to_string();
    let fingerprint = |pem: &Path| {
        let x509 = ["x509", "-noout", "-fingerprint", "-sha256", "-in"];
        done(Command::new("openssl").args(x509).arg(pem))
    };
    let own = fingerprint(&linked.folder.join("cert"));
    let shown = linked.folder.join("shown");
    let address = LINK.to_string();
    let ask = ["s_client", "-connect", &address, "-servername", "secure.test", "-CAfile", &certificate];
    let verify = ["-verify_return_error", "-verify_hostname", "secure.test"];
    let session = done(Command::new("openssl").args(ask).args(verify).stdin(Stdio::null()));
    assert!(session.contains("Verify return code: 0 (ok)"), "{session}");
    fs::write(&shown, session).expect("it is ours");
    assert_eq!(fingerprint(&shown), own);

    let to = format!("secure.test:{}:{}", LINK.port(), LINK.ip());
    let url = format!("https://secure.test:{}/noise", LINK.port());
    let got = Command::new("curl").args(["-sSf", "--cacert", &certificate, "--resolve", &to, &url]).output();
    let got = got.expect("curl is installed");
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(got.stdout == noise, "{} other bytes", got.stdout.len());
    // The check is one: by another name it fails.
    let to = format!("other.test:{}:{}", LINK.port(), LINK.ip());
    let url = format!("https://other.test:{}/noise", LINK.port());
    let refused =
        Command::new("curl").args(["-s", "--cacert", &certificate, "--resolve", &to, &url]).status();
    assert!(!refused.expect("curl is installed").success());
    println!("{}", own.trim_end());
}
