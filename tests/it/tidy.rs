//! The house rules that no compiler and no lint holds: who may import whom, what the machine may know, where `unsafe`
//! and sleeping live, and that what is written for people is true and can be found. Reads files; changes none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::ensign;

/// Which modules of ours each may name; itself always. docs/architecture.md says why.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("commands", &["cli", "config", "exit", "links", "log", "net", "registry", "runtime", "sys"]),
    ("cli", &["config"]),
    ("runtime", &["checks", "config", "exit", "links", "machine", "net", "registry", "sys"]),
    ("machine", &["config", "exit"]),
    // These three never name each other: they meet as events.
    ("links", &["config", "net", "sys"]),
    ("checks", &["config", "net"]),
    ("registry", &["config", "net"]),
    ("net", &["config", "sys"]),
    ("log", &["config", "sys"]),
    ("config", &[]),
    ("sys", &[]),
];

/// Not in the machine: whatever would make two runs of the same events differ, or touch the world.
const IMPURE: [&str; 22] = [
    "tokio",
    "nix",
    "libc",
    "tracing",
    "hyper",
    "socket2",
    "Instant",
    "SystemTime",
    "fs",
    "env",
    "process",
    "thread",
    "io",
    "net",
    "sync::Mutex",
    "RefCell",
    "HashMap",
    "HashSet",
    "TcpStream",
    "UdpSocket",
    "File",
    "async",
];

/// Where tests may let time pass: waiting, and what runs under test.
const MAY_SLEEP: [&str; 2] = ["tests/support/wait.rs", "tests/support/actor/"];

const LONGEST: usize = 500;

/// A source file, and its text without comments and without what stands in strings.
struct Source {
    path: String,
    text: String,
    code: String,
}

/// Every file below `folder` for which `wanted`, except what is built.
fn files(folder: &str, wanted: impl Fn(&Path) -> bool + Copy) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|why| panic!("{folder}: {why}")) {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("of an entry").to_str().expect("text").to_owned();
        let path = path.strip_prefix("./").map(Path::to_path_buf).unwrap_or(path);
        if path.is_dir() && !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
            found.extend(files(path.to_str().expect("text"), wanted));
        } else if path.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is(extension: &'static str) -> impl Fn(&Path) -> bool + Copy {
    move |path| path.extension().is_some_and(|found| found == extension)
}

fn sources(folder: &str) -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source is text");
        Source { path: path.to_str().expect("text").to_owned(), code: code_of(&text), text }
    };
    files(folder, is("rs")).into_iter().map(read).collect()
}

fn all_sources() -> Vec<Source> {
    ["src", "tests", "benches", "examples", "fuzz"].into_iter().flat_map(sources).collect()
}

/// The text with comments left out and strings emptied; lines stay lines.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_name = code.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let hashes =
            rest[1.min(rest.len())..].len() - rest[1.min(rest.len())..].trim_start_matches('#').len();
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if c == 'r' && !is_name && rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 2;
            from + rest[from..].find(&end).map_or(rest.len() - from, |at| at + end.len())
        } else if c == '"' {
            string_length(rest)
        } else if c == '\'' && rest[1..].starts_with('\\') {
            2 + rest[3..].find('\'').map_or(1, |at| at + 2)
        } else if c == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.chars().take(3).map(char::len_utf8).sum()
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The words of a text: names and the like.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// What follows each `crate::`, groups taken apart.
fn imported(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None => found.extend(words(after).next()),
            Some(group) => {
                let mut depth = 1;
                let mut start = 0;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || depth == 1 && c == ',' {
                        found.extend(words(&group[start..at]).next());
                        start = at;
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

fn module_of(path: &str) -> &str {
    let below = path.strip_prefix("src/").expect("a source of ours");
    below.split('/').next().expect("split gives one").trim_end_matches(".rs")
}

fn holds(what: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{what}:\n  {}", broken.join("\n  "));
}

#[test]
fn modules_import_only_what_they_may() {
    let rules: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut broken = Vec::new();
    for source in sources("src") {
        let module = module_of(&source.path);
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let allowed = rules.get(module).copied().unwrap_or_default();
        let too_much = imported(&source.code).into_iter().filter(|to| *to != module && !allowed.contains(to));
        broken.extend(too_much.map(|to| format!("{} imports {to}", source.path)));
        // The way round: enough `super`s lead to the root. What `mod tests` adds is one level.
        let depth = source.path.trim_end_matches("/mod.rs").matches('/').count();
        let own = source.code.split("#[cfg(test)]").next().expect("split gives one");
        if own.contains(&"super::".repeat(depth)) {
            broken.push(format!("{} leaves its module by `super`", source.path));
        }
    }
    holds("docs/architecture.md, \"Who may import whom\"", broken);
}

#[test]
fn every_rule_of_the_imports_is_needed() {
    let modules: BTreeSet<String> =
        sources("src").iter().map(|source| module_of(&source.path).to_owned()).collect();
    let named = MAY_IMPORT.iter().flat_map(|(module, to)| [*module].into_iter().chain(to.iter().copied()));
    let unknown = named.filter(|name| !modules.contains(*name)).map(str::to_owned).collect();
    holds("a rule names a module that is not there", unknown);
}

/// The tree of docs/architecture.md and the sources are the same, and so are its import rules and ours.
#[test]
fn the_map_of_the_house_is_the_house() {
    let map = fs::read_to_string("docs/architecture.md").expect("is there");
    let mapped: BTreeSet<&str> = map
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|word| word.starts_with("src/") && word.ends_with(".rs"))
        .collect();
    let sources = sources("src");
    let there = sources.iter().map(|source| source.path.as_str()).filter(|path| !path.ends_with("/tests.rs"));
    let there: BTreeSet<&str> = there.collect();
    let mut broken: Vec<String> =
        there.difference(&mapped).map(|path| format!("{path} is not in it")).collect();
    broken.extend(mapped.difference(&there).map(|path| format!("{path} is not there")));
    for (module, to) in MAY_IMPORT.iter().filter(|(_, to)| !to.is_empty()) {
        let line = format!("{module:9} -> {}\n", to.join(" "));
        if !map.contains(&line) {
            broken.push(format!("no line `{}`", line.trim_end()));
        }
    }
    holds("docs/architecture.md", broken);
}

#[test]
fn the_machine_knows_nothing_of_the_world() {
    let mut broken = Vec::new();
    for source in sources("src/machine") {
        let own = source.code.split("#[cfg(test)]").next().expect("split gives one");
        let found = words(own).filter(|word| IMPURE.contains(word));
        broken.extend(found.map(|word| format!("{}: {word}", source.path)));
    }
    holds("the machine is given events and the time, nothing else", broken);
}

#[test]
fn unsafe_lives_in_sys() {
    let homes = ["src/sys/", "tests/support/actor.rs", "tests/support/actor/sys.rs"];
    let at_home = |source: &Source| homes.iter().any(|home| source.path.starts_with(home));
    let sources = all_sources();
    let others = sources.iter().filter(|source| !at_home(source));
    let broken = others.filter(|source| words(&source.code).any(|word| word == "unsafe"));
    holds("`unsafe` outside its homes", broken.map(|source| source.path.clone()).collect());
}

#[test]
fn nothing_is_left_unfinished_or_silenced() {
    let marks = ["todo!", "unimplemented!", "dbg!", "#[ignore", "#[allow", "#![allow", "FIXME"];
    let mut broken = Vec::new();
    for source in all_sources() {
        let found = marks.iter().filter(|mark| source.code.contains(**mark));
        broken.extend(found.map(|mark| format!("{}: {mark}", source.path)));
    }
    holds("finish it, run it, or `#[expect]` it with a reason", broken);
}

#[test]
fn every_file_says_what_it_is_for_and_is_one_thing() {
    let mut broken = Vec::new();
    for source in all_sources() {
        if !source.text.starts_with("//! ") {
            broken.push(format!("{} does not open with `//! `", source.path));
        }
        let lines = source.text.lines().count();
        if source.path.starts_with("src/") && lines > LONGEST {
            broken.push(format!("{} has {lines} lines, more than {LONGEST}", source.path));
        }
    }
    holds("files", broken);
}

#[test]
fn tests_wait_for_facts() {
    let may = |source: &Source| MAY_SLEEP.iter().any(|home| source.path.starts_with(home));
    let tests = sources("tests");
    let broken =
        tests.iter().filter(|source| !may(source) && words(&source.code).any(|word| word == "sleep"));
    holds("use tests/support/wait.rs", broken.map(|source| source.path.clone()).collect());
}

/// Relative links of a document, without anchors, as paths from the top.
/// A machine that somebody has worked on has more than a fresh one.
#[test]
fn what_tests_start_is_what_setup_installs() {
    const ON_ANY_DEBIAN: [&str; 3] = ["ldd", "sh", "tar"];
    let setup = fs::read_to_string("scripts/setup").expect("it is there");
    let is_installed = |name: &str| setup.lines().any(|line| line.trim().starts_with(&format!("{name}=")));
    let mut missing = vec![];
    for path in files("tests", is("rs")) {
        let text = fs::read_to_string(&path).expect("a source file");
        let starts = ["Command::new(", ".program("].into_iter().flat_map(|call| text.split(call).skip(1));
        // What is no literal, or a path, is not for setup to install.
        let names = starts.filter_map(|rest| rest.strip_prefix('"')?.split_once('"')).map(|(name, _)| name);
        let is_name = |name: &str| name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let unknown =
            names.filter(|name| is_name(name) && !ON_ANY_DEBIAN.contains(name) && !is_installed(name));
        missing.extend(unknown.map(|name| format!("{name}, in {}", path.display())));
    }
    holds("a program that tests start is in scripts/setup", missing);
}

fn links(document: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(document).expect("text");
    let targets = text.split("](").skip(1).filter_map(|after| after.split(')').next());
    let here = document.parent().expect("a file is in a folder");
    targets
        .map(|target| target.split('#').next().expect("split gives one"))
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .map(|target| {
            let mut path = PathBuf::new();
            for part in here.join(target).components() {
                match part.as_os_str().to_str() {
                    Some("..") => drop(path.pop()),
                    Some(".") => {}
                    _ => path.push(part),
                }
            }
            path
        })
        .collect()
}

fn documents() -> Vec<PathBuf> {
    files(".", is("md"))
}

#[test]
fn documents_link_to_what_is_there_and_are_found() {
    let documents = documents();
    let mut linked = BTreeSet::new();
    let mut broken = Vec::new();
    for document in &documents {
        for link in links(document) {
            if !link.exists() {
                broken.push(format!(
                    "{} links to {}, which is not there",
                    document.display(),
                    link.display()
                ));
            }
            if link != *document {
                linked.insert(link);
            }
        }
    }
    let docs =
        documents.iter().filter(|document| document.starts_with("docs") && !linked.contains(*document));
    broken.extend(docs.map(|document| format!("nothing links to {}", document.display())));
    holds("documents", broken);
}

#[test]
fn every_verb_is_documented() {
    let help = Command::new(ensign()).arg("--help").output().expect("ensign runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let (_, list) = help.split_once("\nCommands:\n").expect("help lists the verbs");
    let verbs: Vec<&str> =
        list.lines().take_while(|line| !line.is_empty()).filter_map(|line| words(line).next()).collect();
    assert!(verbs.contains(&"run") && verbs.contains(&"ls"), "{verbs:?}");
    let text: String =
        documents().iter().map(|document| fs::read_to_string(document).expect("text")).collect();
    let broken = verbs.iter().filter(|verb| **verb != "help" && !text.contains(&format!("ensign {verb}")));
    holds("verbs that no document shows", broken.map(|verb| (*verb).to_owned()).collect());
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let text = fs::read_to_string("CHANGELOG.md").expect("is there");
    assert!(text.lines().any(|line| line == "## Unreleased"), "CHANGELOG.md has no `## Unreleased`");
}

/// Of whoever wrote a file, such as a path in an example that was pasted.
#[test]
fn no_file_knows_a_machine() {
    let here = env!("CARGO_MANIFEST_DIR").to_owned();
    let patterns = [here, ["/ho", "me/"].concat(), ["/Us", "ers/"].concat()];
    let mut broken = Vec::new();
    for path in files(".", |_| true) {
        let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
        let found = patterns.iter().filter(|pattern| text.contains(pattern.as_str()));
        broken.extend(found.map(|pattern| format!("{}: {pattern}", path.display())));
    }
    holds("paths of one machine", broken);
}

#[test]
fn comments_and_strings_are_no_code() {
    let code = |text: &str| code_of(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code("a // b\nc"), "a c");
    assert_eq!(code(r#"f("x \" y", b'"', '\'', 'é') z"#), "f(, b, , ) z");
    assert_eq!(code("r##\"a \"# b\"## c"), "c");
    assert_eq!(code("fn f<'a>(x: &'a str) -> char"), "fn f<'a>(x: &'a str) -> char");
    assert_eq!(code("var\"x\" for"), "var for");
    let group = "use crate::{exit, log::{a, b}, runtime}; crate::net::x; use crate::config;";
    assert_eq!(Vec::from_iter(imported(group)), ["config", "exit", "log", "net", "runtime"]);
}
