//! What valid files mean, and what the command line changes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use ensign::commands::check;
use ensign::config::load::{Overrides, load_with, wrap};
use ensign::config::{
    AddressRule, Config, EnvLinks, HostPort, Kind, Limit, Listen, ListenAt, LogFormat, LogLevel, Owner,
    Probe, ReadyBy, RegistryUrl, Resource, RestartWhen, ServiceId, Signal, UnixSocket, Upstream,
};

use super::{SECRET, in_folder, load, outside};

fn config(text: &str) -> Config {
    let mut config = None;
    in_folder(text, |path| config = Some(load(path).unwrap_or_else(|report| panic!("{report}")).config));
    config.expect("loaded")
}

fn args(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn the_shown_web_server_is_understood() {
    let config = load(Path::new("config/web.toml")).expect("valid").config;
    let web = &config.services[config.main.0];
    assert_eq!(web.name, "web");
    assert_eq!(web.command, args(&["python3", "app.py"]));
    assert_eq!(web.directory.as_deref(), Some(Path::new("/srv")));
    let user = web.user.as_ref().expect("given");
    assert_eq!((user.uid, user.gid, &user.groups[..]), (1000, 1000, &[1000, 4][..]));
    assert_eq!(web.env[1], ("DB".into(), "postgres://app@127.0.0.1/app".into()));
    assert_eq!(web.limits, [Limit { resource: Resource::Nofile, soft: Some(65536), hard: Some(65536) }]);
    assert!(web.no_new_privileges);
    assert_eq!(web.ready.by, ReadyBy::Checks);
    assert!(matches!(&web.checks[0].probe, Probe::Http(target) if target.path == "/healthz"));
    let record = &web.announce[0];
    assert_eq!(
        (record.name.as_str(), record.instance.as_str(), record.port),
        ("web.s.prod.example.com", "web-1", 8000)
    );
    let from_env = AddressRule::Env { variable: "HOST_IP".to_owned(), address: [10, 1, 2, 3].into() };
    assert_eq!(record.address, [from_env, AddressRule::Auto]);
    assert_eq!(web.links[0].to, [Upstream::HostPort(HostPort { host: "db".to_owned(), port: 5432 })]);
    assert_eq!(
        web.links[0].listen,
        Listen::At(vec![ListenAt::Tcp("127.0.0.1:5432".parse().expect("literal"))])
    );
    assert!(
        matches!(&config.registry.url, RegistryUrl::Etcd3(hosts) if hosts.len() == 2 && hosts[1].port == 2379)
    );
}

#[test]
fn a_link_listens_for_both_protocols_and_at_a_socket_of_the_services_own_user() {
    let config = config(
        "command = ['x']\nuser = 'app'\n[[link]]\nname = 'dns'\nto = 'dns:53'\nidle_timeout = '5s'
         listen = ['127.0.0.1:53', '127.0.0.1:53/udp', 'unix:/run/dns.sock']\n[[link]]\nname = 'other'\nto = 'x:1'
         listen = 'unix:/run/other.sock'\nmode = '0660'\nowner = 'root:log'\n",
    );
    let [dns, other] = &config.services[0].links[..] else { panic!("two links") };
    let address = "127.0.0.1:53".parse().expect("literal");
    let socket = |path: &str, mode, uid, gid| {
        let owner = Some(Owner { uid, gid: Some(gid) });
        ListenAt::Unix(UnixSocket { path: path.into(), mode, owner })
    };
    let places =
        vec![ListenAt::Tcp(address), ListenAt::Udp(address), socket("/run/dns.sock", 0o600, 1000, 1000)];
    assert_eq!(dns.listen, Listen::At(places));
    assert_eq!(dns.idle_timeout, Duration::from_secs(5));
    assert_eq!(other.listen, Listen::At(vec![socket("/run/other.sock", 0o660, 0, 4)]));
}

#[test]
fn whoever_listens_for_others_is_warned_in_one_line() {
    in_folder("command = ['x']\n[[link]]\nname = 'l'\nto = 'x:1'\nlisten = '0.0.0.0:1'\n", |path| {
        let warnings = load(path).expect("valid").warnings.to_string();
        assert!(
            warnings.contains(
                ":5:10: warning: others than this container's processes can reach `0.0.0.0:1`: listen at 127.0.0.1 \
                 or [::1] to keep them out\n"
            ),
            "{warnings}"
        );
    });
    for quiet in ["127.0.0.9:1", "[::1]:1/udp", "unix:/run/x"] {
        in_folder(
            &format!("command = ['x']\n[[link]]\nname = 'l'\nto = 'x:1'\nlisten = '{quiet}'\n"),
            |path| {
                assert!(load(path).expect("valid").warnings.is_empty(), "{quiet}");
            },
        );
    }
}

#[test]
fn services_of_a_directory_know_each_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("writable");
    write("web.toml", "command = ['web']\nmain = true\nafter = ['migrate', 'cache', 'migrate']\n");
    write("cache.toml", "command = ['cache']\n");
    write("migrate.toml", "command = ['migrate']\nkind = 'oneshot'\nafter = ['cache']\n");
    write("ensign.toml", "[log]\nlevel = 'debug'\n");
    write(".hidden.toml", "not toml");
    write("notes.txt", "not toml");
    let config = load(folder.path()).unwrap_or_else(|report| panic!("{report}")).config;
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["cache", "migrate", "web"]);
    assert_eq!(config.main, ServiceId(2));
    assert_eq!(config.services[2].after, [ServiceId(1), ServiceId(0)]);
    assert_eq!(config.services[1].kind, Kind::Oneshot);
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn secrets_and_bytes_reach_the_service_untouched() {
    let text = r#"
command = ["app", "${SECRET}", "${BYTES}", "$${PLAIN} $5", "${EMPTY:-x}${EMPTY}"]
env_file = "${FOLDER:-}one.env"
env = { A = "from env", URL = "x:${SECRET}@y" }
"#;
    in_folder(text, |path| {
        fs::write(path.with_file_name("one.env"), b"# c\nexport A='from file'\nB=\"\xff\"\nC=${SECRET}\n")
            .expect("writable");
        let service = load(path).unwrap_or_else(|report| panic!("{report}")).config.services.remove(0);
        let mut expected = args(&["app", SECRET, "", "${PLAIN} $5", "x"]);
        expected[2] = OsStr::from_bytes(b"\xff").to_owned();
        assert_eq!(service.command, expected);
        let pairs: [(&str, &[u8]); 5] = [
            ("A", b"from file"),
            ("B", b"\xff"),
            ("C", b"${SECRET}"),
            ("A", b"from env"),
            ("URL", b"x:hunter2!@y"),
        ];
        let pairs = pairs.map(|(key, value)| (OsString::from(key), OsStr::from_bytes(value).to_owned()));
        assert_eq!(service.env, pairs);
    });
}

#[test]
fn a_shell_line_is_left_to_the_shell() {
    let config = config("shell = 'echo ${UNSET} ${SECRET}'\n");
    assert_eq!(config.services[0].command, args(&["/bin/sh", "-c", "echo ${UNSET} ${SECRET}"]));
}

#[test]
fn nothing_is_drained_where_nothing_is_announced() {
    let drain = |text: &str| config(text).services[0].stop.drain;
    assert_eq!(drain("command = ['x']\n[stop]\ndrain = '3s'\n"), Duration::ZERO);
    let announced =
        "command = ['x']\n[stop]\ndrain = '3s'\ntimeout = '1s'\n[[announce]]\nname = 'a.b'\nport = 1\n";
    assert_eq!(drain(announced), Duration::from_secs(3));
}

#[test]
fn times_signals_and_limits_of_every_form() {
    let config = config(
        "command = ['x']\nuser = '7:8'\nlimits = { core = 'unlimited', stack = '8MiB', nofile = { soft = 1, hard = '2' } }\n\
         [stop]\ntimeout = 'never'\nsignal = 'quit'\nsweep = '1h'\n[restart]\ngive_up = { after = '3' }\n[links]\nenv = ['DB*']\n",
    );
    let service = &config.services[0];
    assert_eq!((service.stop.timeout, service.stop.signal), (None, Signal(3)));
    assert_eq!(service.restart.give_up.after, 3);
    let limit = |resource, soft, hard| Limit { resource, soft, hard };
    assert_eq!(
        service.limits,
        [
            limit(Resource::Core, None, None),
            limit(Resource::Stack, Some(8 << 20), Some(8 << 20)),
            limit(Resource::Nofile, Some(1), Some(2)),
        ]
    );
    assert_eq!(config.links.env, EnvLinks::Matching(vec!["DB*".to_owned()]));
}

#[test]
fn the_command_line_goes_before_the_files() {
    let overrides = Overrides {
        command: Some(args(&["other", "${SECRET}"])),
        links: Some(EnvLinks::None),
        registry: Some("etcd2://r".to_owned()),
        log_format: Some(LogFormat::Json),
        log_level: Some(LogLevel::Trace),
    };
    in_folder("directory = '/srv'\n", |path| {
        let config =
            load_with(path, &overrides, &outside()).unwrap_or_else(|report| panic!("{report}")).config;
        assert_eq!(
            config.services[0].command,
            args(&["other", "${SECRET}"]),
            "words of the command line stay as they are"
        );
        assert_eq!(config.services[0].directory.as_deref(), Some(Path::new("/srv")));
        assert_eq!(config.links.env, EnvLinks::None);
        assert!(matches!(config.registry.url, RegistryUrl::Etcd2(_)));
        assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Trace));

        let wrong = Overrides { registry: Some("redis://r".to_owned()), ..overrides };
        let report = load_with(path, &wrong, &outside()).expect_err("no registry").to_string();
        assert!(report.starts_with("error: `--registry redis://r` is not a registry: "), "{report}");
    });
}

#[test]
fn a_wrapped_command_runs_once_and_is_not_hurried() {
    let config =
        wrap(args(&["/usr/bin/python3", "app.py"]), &Overrides::default()).expect("nothing can be wrong");
    let service = &config.services[0];
    assert_eq!((service.name.as_str(), config.services.len()), ("python3", 1));
    assert_eq!(service.command, args(&["/usr/bin/python3", "app.py"]));
    assert_eq!(service.restart.when, RestartWhen::Never);
    assert_eq!((service.stop.drain, service.stop.timeout), (Duration::ZERO, None));
    assert_eq!(service.stop.sweep, Duration::from_secs(2));
    assert_eq!((service.ready.by, service.checks.len()), (ReadyBy::Start, 0));
    assert_eq!((config.links.env, config.log.level), (EnvLinks::All, LogLevel::Warn));

    let overrides =
        Overrides { log_level: Some(LogLevel::Debug), links: Some(EnvLinks::None), ..Overrides::default() };
    let config =
        wrap(vec![OsStr::from_bytes(b"/\xff odd").to_owned()], &overrides).expect("nothing can be wrong");
    assert_eq!((config.services[0].name.as_str(), config.log.level), ("main", LogLevel::Debug));
    assert_eq!(config.links.env, EnvLinks::None);
    assert!(wrap(Vec::new(), &Overrides::default()).is_err());
}

#[test]
fn what_has_no_end_is_not_read_to_it() {
    let report = load(Path::new("/dev/zero")).expect_err("no configuration").to_string();
    assert!(report.contains("larger than"), "{report}");
    let report = load(Path::new("/nonexistent.toml")).expect_err("no configuration").to_string();
    assert!(report.starts_with("/nonexistent.toml: error: cannot be read: No such file"), "{report}");
}

#[test]
fn the_verb_says_what_would_run_or_what_is_wrong() {
    let run = |path: &Path| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check::run(path, check::Look::AtTheFiles, &mut out, &mut err);
        (code, String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
    };
    let text = "command = ['x']\n[stop]\ntimeout = '9s'\n[[announce]]\nname = 'Web.example.com'\nport = 80\ninstance = 'one'\n";
    in_folder(text, |path| {
        let (code, out, err) = run(path);
        let expected =
            "ok: web (main); announces web.example.com port 80 as one in dir:/run/ensign/registry\n";
        assert_eq!((code, out.as_str()), (0, expected));
        assert!(err.contains("warning: stopping `web` may take 13s"), "{err}");
    });
    in_folder("comand = ['x']\n", |path| {
        let (code, out, err) = run(path);
        assert_eq!((code, out.as_str()), (78, ""));
        assert!(err.contains("web.toml:1:1: error: unknown key `comand`"), "{err}");
    });
}
