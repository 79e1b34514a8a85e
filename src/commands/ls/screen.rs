//! The list on a terminal: drawn in place, on a screen of its own, which is gone when this is dropped. What is drawn is
//! worked out apart from drawing it. Called by `watch`.

use std::collections::BTreeMap;
use std::io::{self, Write, stdout};
use std::time::{Duration, Instant};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::changes::{Change, Kind};
use super::{TITLES, align_ports, cells};
use crate::commands::table::{fill, plain};
use crate::registry::Listed;
use crate::sys;

/// How long a change is to be seen.
const MARKED: Duration = Duration::from_secs(5);
/// Names give way on a narrow terminal, but not to less.
const NARROWEST: usize = 8;

/// The other screen, no cursor, and no line that goes on on the next one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// While it lives, the terminal shows what was drawn last.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    pub fn enter() -> io::Result<Self> {
        let screen = Self(());
        show(ENTER)?;
        Ok(screen)
    }

    /// In the place of what was there.
    pub fn draw(&self, view: &View, now: Instant) -> io::Result<()> {
        let (columns, rows) = sys::tty::size_of_stdout().unwrap_or((80, 24));
        let size = Size { columns: columns.into(), rows: rows.into() };
        let paint = if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            Paint::Plain
        } else {
            Paint::Coloured
        };
        let lines: Vec<String> = view.lines(now, size, paint);
        show(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _left = show(LEAVE);
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Coloured,
}

/// What there is to see.
#[derive(Debug)]
pub struct View {
    /// Whose list it is.
    title: String,
    entries: Vec<Listed>,
    /// When the entries were read.
    read: Option<Instant>,
    /// By key.
    marks: BTreeMap<String, Mark>,
    /// Why it can't be read now, and since when.
    lost: Option<(String, Instant)>,
}

#[derive(Debug)]
struct Mark {
    change: Change,
    since: Instant,
}

impl View {
    pub fn new(title: String) -> Self {
        Self { title, entries: Vec::new(), read: None, marks: BTreeMap::new(), lost: None }
    }

    /// What is there, and what of it is news. The first of all is none.
    pub fn take(&mut self, entries: Vec<Listed>, changes: Vec<Change>, now: Instant) {
        if self.read.is_some() {
            let marks =
                changes.into_iter().map(|change| (change.entry.key.clone(), Mark { change, since: now }));
            self.marks.extend(marks);
        }
        self.lost = None;
        self.entries = entries;
        self.read = Some(now);
    }

    pub fn lose(&mut self, reason: String, now: Instant) {
        let since = self.lost.take().map_or(now, |(_, since)| since);
        self.lost = Some((reason, since));
    }

    /// No more of them than fit, none longer than fits.
    pub fn lines(&self, now: Instant, size: Size, paint: Paint) -> Vec<String> {
        let mut lines = vec![cut(&self.headline(now), size.columns), String::new()];
        if self.read.is_none() {
            lines.truncate(size.rows);
            return lines;
        }
        let shown = self.rows(now);
        let mut rows = vec![TITLES.map(str::to_owned)];
        rows.extend(shown.iter().map(|(_, cells)| cells.clone()));
        align_ports(&mut rows);
        let widths = widths(&rows, size.columns);
        let signs = std::iter::once(None).chain(shown.iter().map(|(kind, _)| *kind));
        let table = rows.iter().zip(signs).map(|(row, kind)| {
            let cells = row.iter().zip(widths).map(|(cell, width)| fill(&cut(cell, width), width));
            let sign = kind.map_or(' ', Kind::sign);
            let line = format!("{sign} {}", cells.collect::<Vec<_>>().join("  "));
            painted(cut(line.trim_end(), size.columns), kind, paint)
        });
        lines.extend(table);
        if lines.len() > size.rows {
            let hidden = lines.len() - size.rows.max(1) + 1;
            lines.truncate(size.rows.saturating_sub(1));
            lines.push(cut(&format!("… {hidden} more"), size.columns));
        }
        lines
    }

    fn headline(&self, now: Instant) -> String {
        let count = self.entries.len();
        match (&self.lost, self.read) {
            (Some((reason, since)), _) => {
                let time = humantime::format_duration(Duration::from_secs((now - *since).as_secs()));
                format!("{}: out of reach for {time}: {}", self.title, plain(reason))
            }
            (None, None) => format!("{}: not read yet", self.title),
            (None, Some(_)) => format!("{}: {count} announced", self.title),
        }
    }

    /// All there are, and those that are gone for as long as they are marked; by key.
    fn rows(&self, now: Instant) -> Vec<(Option<Kind>, [String; 5])> {
        let fresh = |key: &String| {
            self.marks.get(key).filter(|mark| now.saturating_duration_since(mark.since) < MARKED)
        };
        let since = self.read.map_or(Duration::ZERO, |read| now.saturating_duration_since(read));
        let mut rows: BTreeMap<&String, _> = self
            .entries
            .iter()
            .map(|entry| {
                let left = entry.ttl_left.map(|left| left.saturating_sub(since));
                (&entry.key, (fresh(&entry.key).map(|mark| mark.change.kind), cells(entry, left)))
            })
            .collect();
        for (key, mark) in &self.marks {
            if mark.change.kind == Kind::Removed && fresh(key).is_some() {
                let [name, instance, address, port, _] = cells(&mark.change.entry, None);
                rows.entry(key)
                    .or_insert((Some(Kind::Removed), [name, instance, address, port, "gone".to_owned()]));
            }
        }
        rows.into_values().collect()
    }
}

/// As wide as their widest cells; where that is too wide, names are the first to give way.
fn widths(rows: &[[String; 5]], columns: usize) -> [usize; 5] {
    let mut widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].width()).max().unwrap_or(0));
    // The sign and a space, and two between columns.
    let mut over = (widths.iter().sum::<usize>() + 10).saturating_sub(columns);
    for width in &mut widths[..3] {
        let given = over.min(width.saturating_sub(NARROWEST));
        *width -= given;
        over -= given;
    }
    widths
}

/// What of `text` fits; that something is missing is shown.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let is_fit = width <= left;
        left = left.saturating_sub(width);
        is_fit
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    if columns > 0 {
        cut.push('…');
    }
    cut
}

fn painted(line: String, kind: Option<Kind>, paint: Paint) -> String {
    let colour = match kind {
        None => return line,
        Some(Kind::Added) => 32,
        Some(Kind::Removed) => 31,
        Some(Kind::Changed) => 33,
    };
    match paint {
        Paint::Plain => line,
        Paint::Coloured => format!("\x1b[{colour}m{line}\x1b[0m"),
    }
}
