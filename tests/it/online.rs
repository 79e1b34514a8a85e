//! `ensign check --online` and `ensign ls --watch`: what an operator sees of the world, with the real things in it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::ensign;
use crate::support::place::Place;

mod links;
mod records;
mod terminal;
mod watch;

/// The place as a configuration names it.
fn url(place: &Place) -> String {
    match place {
        Place::V3(etcd) => format!("etcd://{}", etcd.address()),
        Place::V2(etcd) => format!("etcd2://{}", etcd.address()),
        Place::Dir(dir) => format!("dir:{}", dir.path().join("registry").display()),
    }
}

/// What `ensign check --online` said.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

/// A file that may be checked.
struct File(tempfile::TempDir);

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("web.toml"), format!("command = ['true']\n{text}")).expect("written");
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("web.toml")
    }

    fn online(&self) -> Told {
        let mut check = Command::new(ensign());
        check.args(["check", "--online"]).arg(self.path()).env_remove("DB_PORT_5432_TCP");
        let told = check.output().expect("ensign runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Told { code: told.status.code().expect("it ends"), out: text(told.stdout), err: text(told.stderr) }
    }
}

impl Told {
    /// The cells of the row in which `cell` stands alone.
    fn row(&self, cell: &str) -> Vec<&str> {
        let rows =
            self.out.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
        let mut rows = rows.map(Iterator::collect::<Vec<_>>);
        rows.find(|row| row.contains(&cell)).unwrap_or_else(|| panic!("no row of {cell}: {self:?}"))
    }
}
