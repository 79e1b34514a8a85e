//! `ensign ls`: what is announced in the registry now, or with `--watch` (`watch`) from now on. Reads and prints, nothing
//! else. Called by the command line.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::check::registry_url;
use super::table::{aligned, plain};
use crate::config::{self, DnsName};
use crate::net::resolve::Resolver;
use crate::registry::{Error, Listed, NoRecord, Registry};

mod changes;
mod screen;
pub mod watch;

/// How long it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// What is there now has been printed.
    Printed,
    /// Somebody ends it.
    Ended,
}

/// How the list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns under a heading.
    Table,
    /// One JSON object a line.
    JsonLines,
}

/// Prints what is announced under `name`, or at all, to stdout. What is there but is no record is told on stderr.
/// Exit code 0; 1 when the registry can't be read.
pub fn run(registry: &config::Registry, name: Option<&DnsName>, format: Format) -> ExitCode {
    let listed = match read(registry, name) {
        Ok(listed) => listed,
        Err(message) => {
            // With stderr gone there is nobody to tell.
            let _told = writeln!(io::stderr(), "error: {message}");
            return ExitCode::FAILURE;
        }
    };
    let _told = io::stderr().write_all(warnings(&listed).as_bytes());
    if listed.is_empty() && format == Format::Table {
        let _told = writeln!(io::stderr(), "note: nothing is announced {}", wherever(registry, name));
    }
    let text = match format {
        Format::Table => table(&listed),
        Format::JsonLines => json_lines(&listed),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // `ensign ls | head` is no failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let _told = writeln!(io::stderr(), "error: cannot print the list: {e}");
            ExitCode::FAILURE
        }
    }
}

fn read(registry: &config::Registry, name: Option<&DnsName>) -> Result<Vec<Listed>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    let listed: Result<_, Error> = runtime.block_on(async {
        let registry = Registry::new(registry, Arc::new(Resolver::system()))?;
        registry.list(name).await
    });
    // A look-up or a file system that is stuck must not keep us.
    runtime.shutdown_background();
    listed.map_err(|e| e.to_string())
}

fn wherever(registry: &config::Registry, name: Option<&DnsName>) -> String {
    match name {
        Some(name) => format!("under `{}` in {}", name.as_str(), registry_url(registry)),
        None => format!("in {}", registry_url(registry)),
    }
}

const TITLES: [&str; 5] = ["NAME", "INSTANCE", "ADDRESS", "PORT", "TTL-LEFT"];

fn table(listed: &[Listed]) -> String {
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(listed.iter().filter(|entry| entry.record.is_ok()).map(|entry| cells(entry, entry.ttl_left)));
    align_ports(&mut rows);
    aligned(&rows)
}

/// What of an entry stands under the titles.
fn cells(entry: &Listed, ttl_left: Option<Duration>) -> [String; 5] {
    let (address, port) = match &entry.record {
        Ok(record) => (plain(&record.host), record.port.to_string()),
        Err(reason) => (format!("no record: {}", plain(&reason.to_string())), String::new()),
    };
    [plain(&entry.name), plain(&entry.instance), address, port, left(ttl_left)]
}

/// Numbers end in one column.
fn align_ports(rows: &mut [[String; 5]]) {
    let width = rows.iter().map(|row| row[3].len()).max().unwrap_or(0);
    for [_, _, _, port, _] in rows {
        *port = format!("{port:>width$}");
    }
}

fn left(time: Option<Duration>) -> String {
    let seconds = |t: Duration| humantime::format_duration(Duration::from_secs(t.as_secs())).to_string();
    time.map_or("forever".to_owned(), seconds)
}

/// One line of `--json`; of `--watch`, `time` and `change` say when it came to be so and how. `error` is there instead of the record's fields where the value is no record;
/// `ttl_left` (seconds) is null where it stays for ever.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'a str>,
    name: &'a str,
    instance: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_ttl: Option<u64>,
    ttl_left: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn json_lines(listed: &[Listed]) -> String {
    listed.iter().map(|entry| json_line(entry, None, None)).collect()
}

fn json_line(entry: &Listed, time: Option<&str>, change: Option<&str>) -> String {
    let record = entry.record.as_ref().ok();
    let line = Line {
        time,
        change,
        name: &entry.name,
        instance: &entry.instance,
        key: &entry.key,
        address: record.map(|r| r.host.as_str()),
        port: record.map(|r| r.port),
        priority: record.map(|r| r.priority),
        weight: record.map(|r| r.weight),
        dns_ttl: record.map(|r| r.ttl),
        ttl_left: entry.ttl_left.map(|t| t.as_secs()),
        error: entry.record.as_ref().err().map(NoRecord::to_string),
    };
    serde_json::to_string(&line).expect("plain fields always serialise") + "\n"
}

fn warnings(listed: &[Listed]) -> String {
    let warning = |entry: &Listed| {
        let reason = entry.record.as_ref().err()?;
        let of = match entry.name.is_empty() {
            true => "every name".to_owned(),
            false => format!("all of `{}`", plain(&entry.name)),
        };
        Some(format!(
            "warning: `{}` is no record: {}\nhint: resolvers may fail for {of} while it is there\n",
            plain(&entry.key),
            plain(&reason.to_string()),
        ))
    };
    listed.iter().filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Fields;

    fn entry(name: &str, host: Result<&str, &str>, ttl_left: Option<u64>) -> Listed {
        Listed {
            key: format!("/skydns/{name}/i1"),
            name: name.to_owned(),
            instance: "i1".to_owned(),
            ttl_left: ttl_left.map(Duration::from_secs),
            record: host
                .map(|h| Fields { host: h.to_owned(), port: 80, ttl: 5, ..Fields::default() })
                .map_err(|reason| NoRecord::Unreadable(reason.to_owned())),
        }
    }

    fn some() -> Vec<Listed> {
        vec![
            entry("web.example", Ok("192.0.2.7"), Some(59)),
            entry("longer.web.example", Ok("2001:db8::1"), None),
            entry("x", Err("not JSON"), None),
        ]
    }

    #[test]
    fn table_is_aligned() {
        assert_eq!(
            table(&some()),
            "NAME                INSTANCE  ADDRESS      PORT  TTL-LEFT\n\
             web.example         i1        192.0.2.7      80  59s\n\
             longer.web.example  i1        2001:db8::1    80  forever\n"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = json_lines(&some());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"name":"web.example","instance":"i1","key":"/skydns/web.example/i1","address":"192.0.2.7","port":80,"priority":10,"weight":100,"dns_ttl":5,"ttl_left":59}"#
        );
        assert_eq!(
            lines[2],
            r#"{"name":"x","instance":"i1","key":"/skydns/x/i1","ttl_left":null,"error":"not JSON"}"#
        );
    }

    #[test]
    fn what_is_no_record_is_a_warning() {
        assert_eq!(
            warnings(&some()),
            "warning: `/skydns/x/i1` is no record: not JSON\nhint: resolvers may fail for all of `x` while it is there\n"
        );
    }
}
