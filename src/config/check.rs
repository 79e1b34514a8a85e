//! From the shapes as read to the checked [`Config`]: every rule, every default, every error.
//!
//! It opens no file and asks no system: what it may know of the world is in [`Outside`]. Called by `load`, and by
//! tests and fuzzing in its place.

pub mod env_file;
pub mod expand;

mod accounts;
mod across;
mod common;
mod link;
mod registry;
mod service;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::raw::table::{Field, enumerate};
use super::raw::{self, Role};
use super::report::{Excerpt, Place, Problem, Report, Where};
use super::{Config, EnvLinks, LogFormat, LogLevel, RestartWhen, Service, ServiceId, units};
use across::Claims;
pub use registry::AUTHORITIES;
use values::Values;

/// A configuration to run, and what it warns of.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Warnings only; printed as errors are.
    pub warnings: Report,
}

/// What is known of a service besides its file's text.
pub struct Subject<'a> {
    pub id: ServiceId,
    pub name: &'a str,
    /// The file, for what is missing in it.
    pub about: Where,
    /// Where relative paths of the file begin.
    pub folder: &'a Path,
    pub part: Part,
    /// Takes the place of the file's command.
    pub command: Option<&'a [OsString]>,
}

/// What the end of a service means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Main,
    Sidecar,
}

/// What the command line puts in the place of the files' settings.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// argv of main; if given, never empty.
    pub command: Option<Vec<OsString>>,
    pub links: Option<EnvLinks>,
    pub registry: Option<String>,
    pub log_format: Option<LogFormat>,
    pub log_level: Option<LogLevel>,
}

/// The world as far as a configuration can refer to it.
pub struct Outside<'a> {
    /// The environment that ensign was given.
    pub variables: BTreeMap<OsString, OsString>,
    pub hostname: String,
    /// Reads a whole file: an `env_file`, a `KEY_FILE`, /etc/passwd, /etc/group.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Whether everybody may read a file; not of one that can't be looked at.
    pub is_public: &'a dyn Fn(&Path) -> bool,
}

/// One file of the configuration.
#[derive(Debug, Clone)]
pub struct File {
    /// As it is shown to the user.
    pub path: PathBuf,
    pub role: Role,
    /// Its bytes, or why they can't be read.
    pub bytes: Result<Vec<u8>, String>,
}

/// A service's file once it is read.
struct ServiceFile {
    name: String,
    folder: PathBuf,
    about: Where,
    /// Nothing where the file can't be read.
    raw: Option<raw::Service>,
}

/// Checks all files together.
///
/// # Errors
/// Every error of every file, with the warnings among them.
pub fn check(files: Vec<File>, overrides: &Overrides, outside: &Outside<'_>) -> Result<Loaded, Report> {
    let mut values = Values { report: Report::default(), outside };
    let (mut services, mut common) = (Vec::new(), None);
    for file in files {
        let (service, settings) = read(&file, &mut values.report);
        services.extend(service);
        common = common.or(settings.map(|settings| (settings, folder(&file))));
    }
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let (common, folder) = common.unwrap_or_else(|| (raw::silence().1, PathBuf::new()));
    finish(&services, &common, &folder, overrides, values)
}

/// The configuration of a command without any file: it runs once, and it is stopped by whoever stops the container.
///
/// # Errors
/// What is wrong with the overrides.
pub fn wrap(command: Vec<OsString>, overrides: &Overrides, outside: &Outside<'_>) -> Result<Config, Report> {
    let program =
        command.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let (service, common) = raw::silence();
    let service = ServiceFile {
        name: units::service_name(&program).unwrap_or_else(|_| "main".to_owned()),
        folder: PathBuf::new(),
        about: Where::Everywhere,
        raw: Some(service),
    };
    let overrides = Overrides {
        command: Some(command).filter(|command| !command.is_empty()),
        log_level: overrides.log_level.or(Some(LogLevel::Warn)),
        ..overrides.clone()
    };
    let values = Values { report: Report::default(), outside };
    let mut config = finish(&[service], &common, Path::new(""), &overrides, values)?.config;
    for service in &mut config.services {
        service.restart.when = RestartWhen::Never;
        service.stop.timeout = None;
    }
    Ok(config)
}

fn finish(
    files: &[ServiceFile],
    common: &raw::Common,
    folder: &Path,
    overrides: &Overrides,
    mut values: Values<'_>,
) -> Result<Loaded, Report> {
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let main = find_main(files, &mut values.report);
    let mut claims = Claims::default();
    let mut services = Vec::new();
    for (id, file) in files.iter().enumerate() {
        claims.after.push(Vec::new());
        let Some(raw) = &file.raw else {
            services.push(None);
            continue;
        };
        let (part, command) = match main == Some(id) {
            true => (Part::Main, overrides.command.as_deref()),
            false => (Part::Sidecar, None),
        };
        let subject = Subject {
            id: ServiceId(id),
            name: &file.name,
            about: file.about,
            folder: &file.folder,
            part,
            command,
        };
        services.push(service::check(raw, &subject, &mut values, &mut claims));
    }
    let common = common::check(common, folder, overrides, &mut values);
    let after = across::check(&claims, &names, &mut values.report);
    if let Some((registry, ..)) = &common {
        across::leases(&claims, &registry.url, &mut values.report);
    }
    let of_main = main.and_then(|main| Some((files[main].raw.as_ref()?, services[main].as_ref()?)));
    if let Some((raw, main)) = of_main {
        across::stop(services.iter().flatten(), main, raw.stop.place, &mut values.report);
    }

    let mut report = values.report;
    report.sort();
    let services: Option<Vec<Service>> = services.into_iter().collect();
    match (services, main, common) {
        (Some(services), Some(main), Some((registry, links, log))) if !report.has_errors() => {
            let services =
                services.into_iter().zip(after).map(|(service, after)| Service { after, ..service });
            let config = Config { services: services.collect(), main: ServiceId(main), registry, links, log };
            Ok(Loaded { config, warnings: report })
        }
        _ => Err(report),
    }
}

fn read(file: &File, report: &mut Report) -> (Option<ServiceFile>, Option<raw::Common>) {
    let shown = file.path.display().to_string();
    let text = file.bytes.as_deref().map(text_of).unwrap_or_default();
    let id = report.add_file(shown, &text, Excerpt::Shown);
    let contents = match &file.bytes {
        Err(why) => {
            report.push(Problem::error(id, format!("cannot be read: {why}")));
            raw::Contents { service: None, common: None }
        }
        Ok(bytes) => match std::str::from_utf8(bytes) {
            Ok(_) => raw::read(id, file.role, report),
            Err(error) => {
                let start = error.valid_up_to();
                report.push(Problem::error(Place::new(id, start..start + 1), "this is not UTF-8"));
                raw::Contents { service: None, common: None }
            }
        },
    };
    if file.role == Role::Common {
        return (None, contents.common);
    }
    let stem = file.path.file_stem().unwrap_or_default().to_string_lossy();
    if let Err(bad) = units::service_name(&stem) {
        let problem =
            Problem::error(id, format!("the file's name makes `{stem}` the service's: {}", bad.why));
        report.push(problem.hint_if(bad.hint.map(str::to_owned)));
    }
    (
        Some(ServiceFile {
            name: stem.into_owned(),
            folder: folder(file),
            about: id.into(),
            raw: contents.service,
        }),
        contents.common,
    )
}

/// Where relative paths of a file begin.
fn folder(file: &File) -> PathBuf {
    file.path.parent().unwrap_or(Path::new("")).to_owned()
}

/// Text with every byte at its place, whatever the bytes are.
fn text_of(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .flat_map(|chunk| [chunk.valid().to_owned(), "?".repeat(chunk.invalid().len())])
        .collect()
}

/// The only service, or the one that says so.
fn find_main(files: &[ServiceFile], report: &mut Report) -> Option<usize> {
    if let [only] = files {
        if let Some(at) = only.raw.as_ref().and_then(|raw| raw.main.given()).filter(|at| !at.value) {
            report
                .push(Problem::error(at.place, "the only service is the main one").hint("leave `main` out"));
        }
        return Some(0);
    }
    let main = |file: &ServiceFile| {
        file.raw.as_ref().and_then(|raw| raw.main.given()).filter(|at| at.value).cloned()
    };
    let claims: Vec<_> = files.iter().enumerate().filter_map(|(id, file)| Some((id, main(file)?))).collect();
    // In a file that can't be understood, it may stand.
    let unknown = |file: &ServiceFile| file.raw.as_ref().is_none_or(|raw| matches!(raw.main, Field::Bad));
    match &claims[..] {
        [] if files.iter().any(unknown) => {}
        [] => {
            let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            let problem = Problem::error(
                Where::Everywhere,
                "no service is the main one, whose end is the container's end",
            );
            report.push(
                problem.hint(format!("write `main = true` into the file of one of {}", enumerate(&names))),
            );
        }
        [(_, first), others @ ..] => {
            for (id, at) in others {
                let message = format!("`{}` can't be a second main service", files[*id].name);
                report.push(Problem::error(at.place, message).note("the first is", first.place));
            }
        }
    }
    claims.first().map(|(id, _)| *id)
}
