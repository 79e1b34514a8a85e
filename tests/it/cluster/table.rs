//! The table of docs/promises.md: one line a fault, with the worst that was seen. `ENSIGN_BLESS=1` writes the lines of
//! what is run anew; else they must be there.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::fleet::{Fleet, Turn};
use crate::support::history::{History, Presence};
use crate::support::watch::Api;

/// What was seen of one fault in one API.
#[derive(Debug)]
pub struct Worst {
    /// For how long a record was missing while its service was fit.
    pub missing: Duration,
    /// For how long a record was there while its service was unfit and a quorum answered.
    pub there: Duration,
}

#[derive(Debug)]
pub struct Row {
    pub fault: String,
    pub v3: Worst,
    pub v2: Worst,
}

impl Worst {
    /// From `begun` to `end`; `answers` is since when a quorum does.
    pub fn of(fleet: &Fleet, history: &History, api: Api, [begun, answers, end]: [Instant; 3]) -> Self {
        let webs = || fleet.0.iter().filter(|web| web.api == api);
        let missing = webs().filter(|web| web.turn == Turn::Late).map(|web| {
            let gone = Presence::Gone;
            history.longest(api, &web.key, gone, begun, web.unfit.unwrap_or(end))
        });
        let there = webs().filter_map(|web| {
            let from = web.unfit?.max(answers);
            Some(history.longest(api, &web.key, Presence::There, from, end))
        });
        Self { missing: missing.max().unwrap_or_default(), there: there.max().unwrap_or_default() }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |span: Duration| match span.as_millis().div_ceil(100) {
            0 => "0".to_owned(),
            tenths => format!("{}.{} s", tenths / 10, tenths % 10),
        };
        let [v3, v2] = [&self.v3, &self.v2].map(|worst| [worst.missing, worst.there].map(shown));
        write!(f, "| {} | {} | {} | {} | {} |", self.fault, v3[0], v3[1], v2[0], v2[1])
    }
}

/// Several tests write to the file, each its own lines.
pub fn note(row: &Row) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/promises.md");
    let mut file = File::options().read(true).write(true).open(path).expect("docs/promises.md is there");
    file.lock().expect("a file can be locked");
    let mut page = String::new();
    file.read_to_string(&mut page).expect("it is text");
    let head = format!("| {} |", row.fault);
    // The other table of the page says why, in fewer columns.
    let is_it = |line: &str| line.starts_with(&head) && line.matches('|').count() == 6;
    assert!(page.lines().any(is_it), "docs/promises.md has no line {head:?}");
    if std::env::var_os("ENSIGN_BLESS").is_none() {
        return;
    }
    let line = |line: &str| if is_it(line) { format!("{row}\n") } else { format!("{line}\n") };
    let page: String = page.lines().map(line).collect();
    file.rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| file.write_all(page.as_bytes()))
        .expect("it is written");
}
