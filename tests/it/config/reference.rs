//! What is shown to users of the keys stays true: config/full.toml has every key, at its default, and
//! docs/service-file.md has every key, with that default. Which keys there are, the reader itself says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ensign::config::Config;

use super::{in_folder, load};

/// Each table: its title in docs/service-file.md, and how an unknown key is put into it.
const TABLES: [(&str, &str); 12] = [
    ("Top level", "unknown-key-of-this-test = 1"),
    ("`limits`", "limits.nofile = { unknown-key-of-this-test = 1 }"),
    ("`[restart]`", "[restart]\nunknown-key-of-this-test = 1"),
    ("`give_up`", "[restart.give_up]\nunknown-key-of-this-test = 1"),
    ("`[stop]`", "[stop]\nunknown-key-of-this-test = 1"),
    ("`[ready]`", "[ready]\nunknown-key-of-this-test = 1"),
    ("`[[check]]`", "[[check]]\nunknown-key-of-this-test = 1"),
    ("`[[announce]]`", "[[announce]]\nunknown-key-of-this-test = 1"),
    ("`[[link]]`", "[[link]]\nunknown-key-of-this-test = 1"),
    ("`[registry]`", "[registry]\nunknown-key-of-this-test = 1"),
    ("`[links]`", "[links]\nunknown-key-of-this-test = 1"),
    ("`[log]`", "[log]\nunknown-key-of-this-test = 1"),
];

/// They have no default, and stand in config/full.toml as what they are examples of.
const REQUIRED: [&str; 6] =
    ["command", "[[check]] http", "[[announce]] name", "[[announce]] port", "[[link]] name", "[[link]] to"];

/// The keys of a table, from the hint that an unknown one gets.
fn keys(unknown: &str) -> Vec<String> {
    let mut keys = Vec::new();
    in_folder(unknown, |path| {
        let report = load(path).expect_err("an unknown key").to_string();
        let (_, after) = report.split_once("unknown key `unknown-key-of-this-test`").expect("named");
        let hint = after.lines().find_map(|line| line.strip_prefix("hint: ")).expect("a hint");
        let (_, list) = hint.split_once(" may have ").expect("lists the keys");
        keys = list.split(", ").map(|key| key.trim_matches('`').to_owned()).collect();
    });
    keys
}

/// The values in config/full.toml by table and key (`[stop] drain`); of keys in comments, none.
fn full() -> BTreeMap<String, Option<String>> {
    let mut table = String::new();
    let mut values = BTreeMap::new();
    for line in fs::read_to_string("config/full.toml").expect("is there").lines() {
        if line.starts_with('[') {
            table = format!("{line} ");
        } else if let Some((key, value)) = line.trim_start_matches("# ").split_once(" = ")
            && !key.contains(' ')
        {
            let value = (!line.starts_with('#')).then(|| value.to_owned());
            assert_eq!(values.insert(format!("{table}{key}"), value), None, "{line}");
        }
    }
    values
}

/// `key -> default` of the table under a heading of docs/service-file.md.
fn documented(title: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string("docs/service-file.md").expect("is there");
    let (_, section) =
        text.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let section = section.split("\n## ").next().expect("split gives one at least");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[2].trim_matches('`').to_owned())
    })
    .collect()
}

#[test]
fn every_key_is_documented_with_its_default() {
    let full = full();
    for (title, unknown) in TABLES {
        let mut known = keys(unknown);
        known.sort();
        let documented = documented(title);
        assert_eq!(documented.keys().cloned().collect::<Vec<_>>(), known, "{title}");
        for (key, default) in documented {
            let prefix =
                if title.contains('[') { format!("{} ", title.trim_matches('`')) } else { String::new() };
            let name = format!("{prefix}{key}");
            let shown = full.get(&name).cloned().flatten().filter(|_| !REQUIRED.contains(&name.as_str()));
            if !["`limits`", "`give_up`"].contains(&title) {
                assert_eq!(default, shown.unwrap_or_default(), "{title} {key}");
            }
        }
    }
}

#[test]
fn the_full_file_has_every_key() {
    let text = fs::read_to_string("config/full.toml").expect("is there");
    let full = full();
    for (title, unknown) in TABLES {
        for key in keys(unknown) {
            let name = format!("{} {key}", title.trim_matches('`'));
            let there = match title {
                "Top level" => {
                    full.contains_key(&key)
                        || text.contains(&format!("[{key}]\n"))
                        || text.contains(&format!("[[{key}]]\n"))
                }
                "`limits`" | "`give_up`" => text.contains(&format!("{key} = ")),
                _ => full.contains_key(&name),
            };
            assert!(there, "{name}");
        }
    }
}

#[test]
fn each_line_of_the_full_file_is_the_default() {
    let text = fs::read_to_string("config/full.toml").expect("is there");
    // Under one name, because the name is part of the configuration.
    let config = |text: &str| -> Config {
        let mut config = None;
        in_folder(text, |path| config = Some(load(path).expect("valid").config));
        config.expect("loaded")
    };
    let whole = config(&text);
    let mut table = String::new();
    let mut taken_out = 0;
    for (nth, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            table = format!("{line} ");
        }
        let key = line.split(" = ").next().expect("split gives one at least");
        if line.is_empty()
            || line.starts_with(['#', '['])
            || REQUIRED.contains(&format!("{table}{key}").as_str())
        {
            continue;
        }
        let without: Vec<&str> =
            text.lines().enumerate().filter(|(other, _)| *other != nth).map(|(_, line)| line).collect();
        assert_eq!(config(&without.join("\n")), whole, "{line}");
        taken_out += 1;
    }
    assert!(taken_out > 30, "{taken_out}");
}

/// The blocks of TOML in a text, in order.
fn blocks(text: &str) -> Vec<&str> {
    text.split("\n```toml\n")
        .skip(1)
        .map(|after| after.split("\n```").next().expect("split gives one"))
        .collect()
}

/// A block that says where it lies, `# /etc/ensign/web.toml`, is one of the files of its section; any other is a file
/// by itself, where no command is given of a service that needs nothing else.
#[test]
fn each_snippet_shown_to_users_is_valid() {
    let docs = fs::read_dir("docs").expect("is there").map(|entry| entry.expect("readable").path());
    let mut seen = 0;
    for path in docs.filter(|path| path.is_file()).chain(["README.md".into()]) {
        let text = fs::read_to_string(&path).expect("text");
        for section in text.split("\n## ") {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let check =
                |path: &Path| load(path).map(drop).unwrap_or_else(|report| panic!("{report}\n{section}"));
            for block in blocks(section) {
                seen += 1;
                match block.lines().next().and_then(|line| line.strip_prefix("# /etc/ensign/")) {
                    Some(name) => fs::write(folder.path().join(name), block).expect("writable"),
                    None if block.contains("\ncommand ") || block.starts_with("command ") => {
                        in_folder(block, check);
                    }
                    None => in_folder(&format!("command = ['x']\n{block}"), check),
                }
            }
            if fs::read_dir(folder.path()).expect("is there").next().is_some() {
                check(folder.path());
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn each_file_shown_to_users_is_valid() {
    for entry in fs::read_dir("config").expect("is there") {
        let path = entry.expect("readable").path();
        let loaded = load(Path::new(&path)).unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
}
