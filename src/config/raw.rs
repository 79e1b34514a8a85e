//! The shapes of the files as read: typed text with positions, and nothing understood yet.
//!
//! Turns the text of one file into these shapes and reports syntax errors, wrong types and unknown keys, all of
//! them. It must not know a default, a rule or a unit. Called by `check`.

pub mod table;

use toml::de::DeTable;

use crate::config::report::{Excerpt, FileId, Place, Problem, Report};
use table::{At, Field, Named, Number, Syntax, Table};

/// What a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One service, of several in a directory.
    Service,
    /// `ensign.toml` of a directory.
    Common,
    /// All there is: a service and the common settings.
    Whole,
}

/// The part of a file that describes a service.
#[derive(Debug)]
pub struct Service {
    pub command: Field<Vec<At<String>>>,
    pub shell: Field<String>,
    pub directory: Field<String>,
    pub user: Field<String>,
    pub env: Field<Named<String>>,
    pub env_file: Field<Vec<At<String>>>,
    pub main: Field<bool>,
    pub kind: Field<String>,
    pub after: Field<Vec<At<String>>>,
    pub limits: Field<Named<Result<Number, SoftHard>>>,
    pub no_new_privileges: Field<bool>,
    pub restart: Restart,
    pub stop: Stop,
    pub ready: Ready,
    pub checks: Field<Vec<Check>>,
    pub announce: Field<Vec<Announce>>,
    pub links: Field<Vec<Link>>,
}

#[derive(Debug)]
pub struct SoftHard {
    pub place: Place,
    pub soft: Field<Number>,
    pub hard: Field<Number>,
}

#[derive(Debug)]
pub struct Restart {
    pub when: Field<String>,
    pub delay: Field<String>,
    pub max_delay: Field<String>,
    pub reset_after: Field<String>,
    pub give_up: GiveUp,
}

#[derive(Debug)]
pub struct GiveUp {
    pub after: Field<Number>,
    pub within: Field<String>,
}

#[derive(Debug)]
pub struct Stop {
    pub place: Place,
    pub signal: Field<String>,
    pub drain: Field<String>,
    pub timeout: Field<String>,
    pub sweep: Field<String>,
}

#[derive(Debug)]
pub struct Ready {
    pub by: Field<String>,
    pub timeout: Field<String>,
    pub settle: Field<String>,
}

#[derive(Debug)]
pub struct Check {
    pub place: Place,
    pub http: Field<String>,
    pub tcp: Field<String>,
    pub exec: Field<Vec<At<String>>>,
    pub every: Field<String>,
    pub timeout: Field<String>,
    pub grace: Field<String>,
    pub rise: Field<Number>,
    pub fall: Field<Number>,
    pub unhealthy: Field<String>,
}

#[derive(Debug)]
pub struct Announce {
    pub place: Place,
    pub name: Field<String>,
    pub port: Field<Number>,
    pub address: Field<Vec<At<String>>>,
    pub instance: Field<String>,
    pub ttl: Field<String>,
    pub dns_ttl: Field<String>,
    pub priority: Field<Number>,
    pub weight: Field<Number>,
    pub conflict: Field<String>,
}

#[derive(Debug)]
pub struct Link {
    pub place: Place,
    pub name: Field<String>,
    pub listen: Field<Vec<At<String>>>,
    pub to: Field<Vec<At<String>>>,
    pub balance: Field<String>,
    pub connect_timeout: Field<String>,
    pub max_connections: Field<Number>,
    pub wait: Field<String>,
    pub export: Field<bool>,
    pub mode: Field<String>,
    pub owner: Field<String>,
    pub idle_timeout: Field<String>,
}

/// The settings that are common to all services.
#[derive(Debug)]
pub struct Common {
    pub registry: Registry,
    pub links_env: Field<Result<Vec<At<String>>, bool>>,
    pub links_workers: Field<Number>,
    pub log_format: Field<String>,
    pub log_level: Field<String>,
}

#[derive(Debug)]
pub struct Registry {
    pub place: Place,
    pub url: Field<String>,
    pub prefix: Field<String>,
    pub ca: Field<String>,
    pub cert: Field<String>,
    pub key: Field<String>,
    pub user: Field<String>,
    pub password_file: Field<String>,
}

/// What was read from one file; by its role, one part or both.
#[derive(Debug)]
pub struct Contents {
    pub service: Option<Service>,
    pub common: Option<Common>,
}

/// Reads the text of `file`; what is wrong with it goes to `report`.
pub fn read(file: FileId, role: Role, report: &mut Report) -> Contents {
    let text = report.text(file);
    let (root, errors) = DeTable::parse_recoverable(&text);
    let syntax = report_syntax(file, &text, &errors, report);

    let mut table = Table::root(root.get_ref(), file, syntax, report);
    let service = matches!(role, Role::Service | Role::Whole).then(|| Service::read(&mut table));
    let common = matches!(role, Role::Common | Role::Whole).then(|| Common::read(&mut table));
    let elsewhere = match role {
        Role::Service => (asked(Common::read), "belongs in `ensign.toml`"),
        Role::Common => (asked(Service::read), "belongs in the file of a service"),
        Role::Whole => (Vec::new(), ""),
    };
    table.finish(&elsewhere.0, elsewhere.1);
    Contents { service, common }
}

/// What a file that says nothing reads as.
pub fn silence() -> (Service, Common) {
    let mut report = Report::default();
    let file = report.add_file("", "", Excerpt::Shown);
    let nothing = DeTable::new();
    let mut table = Table::root(&nothing, file, Syntax::Whole, &mut report);
    (Service::read(&mut table), Common::read(&mut table))
}

/// The top-level keys that `read` asks for.
fn asked<T>(read: impl FnOnce(&mut Table<'_, '_>) -> T) -> Vec<&'static str> {
    let mut report = Report::default();
    let file = report.add_file("", "", Excerpt::Shown);
    let nothing = DeTable::new();
    let mut table = Table::root(&nothing, file, Syntax::Whole, &mut report);
    read(&mut table);
    table.asked()
}

/// One error a line: those after it are mostly its consequences, and so is whatever else is said of these lines.
fn report_syntax(file: FileId, text: &str, errors: &[toml::de::Error], report: &mut Report) -> Syntax {
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut syntax = Syntax::Whole;
    let mut is_list_told = false;
    for (span, message) in errors {
        let place = Place::new(file, span);
        let line = report.line(place);
        // A list that is not closed makes one of each line to the end of the file.
        let is_told = message.starts_with(IN_A_LIST) && std::mem::replace(&mut is_list_told, true);
        if !is_told {
            report.push(Problem::error(place, message).hint_if(syntax_hint(message)));
        }
        report.mute(line);
        if text[line.start..line.end].trim_start().starts_with('[') {
            syntax = Syntax::Adrift;
        } else if syntax == Syntax::Whole {
            syntax = Syntax::Broken;
        }
    }
    syntax
}

/// How the parser's message begins where a list goes on when it should not.
const IN_A_LIST: &str = "missing comma between array elements";

/// Where the parser's own words don't say what to do.
fn syntax_hint(message: &str) -> Option<String> {
    let hint = if message.starts_with(IN_A_LIST) {
        "a `]` or a `,` is missing here, or above"
    } else if message.starts_with("unexpected leading zero") {
        "write it in quotes, like `\"0660\"`"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

impl Service {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            command: t.list("command"),
            shell: t.string("shell"),
            directory: t.string("directory"),
            user: t.string("user"),
            env: t.strings_by_name("env"),
            env_file: t.one_or_more("env_file"),
            main: t.boolean("main"),
            kind: t.string("kind"),
            after: t.list("after"),
            limits: t.numbers_or_tables("limits", "a limit", SoftHard::read),
            no_new_privileges: t.boolean("no_new_privileges"),
            restart: t.table("restart", "`[restart]`", Restart::read),
            stop: t.table("stop", "`[stop]`", Stop::read),
            ready: t.table("ready", "`[ready]`", Ready::read),
            checks: t.tables("check", "`[[check]]`", Check::read),
            announce: t.tables("announce", "`[[announce]]`", Announce::read),
            links: t.tables("link", "`[[link]]`", Link::read),
        }
    }
}

impl SoftHard {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self { place: t.place(), soft: t.number("soft"), hard: t.number("hard") }
    }
}

impl Restart {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            when: t.string("when"),
            delay: t.string("delay"),
            max_delay: t.string("max_delay"),
            reset_after: t.string("reset_after"),
            give_up: t.table("give_up", "`give_up`", GiveUp::read),
        }
    }
}

impl GiveUp {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self { after: t.number("after"), within: t.string("within") }
    }
}

impl Stop {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            signal: t.string("signal"),
            drain: t.string("drain"),
            timeout: t.string("timeout"),
            sweep: t.string("sweep"),
        }
    }
}

impl Ready {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self { by: t.string("by"), timeout: t.string("timeout"), settle: t.string("settle") }
    }
}

impl Check {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            http: t.string("http"),
            tcp: t.string("tcp"),
            exec: t.list("exec"),
            every: t.string("every"),
            timeout: t.string("timeout"),
            grace: t.string("grace"),
            rise: t.number("rise"),
            fall: t.number("fall"),
            unhealthy: t.string("unhealthy"),
        }
    }
}

impl Announce {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            name: t.string("name"),
            port: t.number("port"),
            address: t.one_or_more("address"),
            instance: t.string("instance"),
            ttl: t.string("ttl"),
            dns_ttl: t.string("dns_ttl"),
            priority: t.number("priority"),
            weight: t.number("weight"),
            conflict: t.string("conflict"),
        }
    }
}

impl Link {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            name: t.string("name"),
            listen: t.one_or_more("listen"),
            to: t.one_or_more("to"),
            balance: t.string("balance"),
            connect_timeout: t.string("connect_timeout"),
            max_connections: t.number("max_connections"),
            wait: t.string("wait"),
            export: t.boolean("export"),
            mode: t.string("mode"),
            owner: t.string("owner"),
            idle_timeout: t.string("idle_timeout"),
        }
    }
}

impl Registry {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            url: t.string("url"),
            prefix: t.string("prefix"),
            ca: t.string("ca"),
            cert: t.string("cert"),
            key: t.string("key"),
            user: t.string("user"),
            password_file: t.string("password_file"),
        }
    }
}

impl Common {
    fn read(t: &mut Table<'_, '_>) -> Self {
        let registry = t.table("registry", "`[registry]`", Registry::read);
        let (links_env, links_workers) =
            t.table("links", "`[links]`", |t| (t.boolean_or_list("env"), t.number("workers")));
        let (log_format, log_level) = t.table("log", "`[log]`", |t| (t.string("format"), t.string("level")));
        Self { registry, links_env, links_workers, log_format, log_level }
    }
}
