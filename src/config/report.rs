//! What is wrong with a configuration, as the user reads it: `file:line:col`, the line, a caret, hints.
//!
//! Every stage adds its [`Problem`]s to one [`Report`]; its `Display` is the only place that lays them out, in plain
//! text without colour. It must never show a line of a file that was added as [`Excerpt::Withheld`]. Called by
//! the other files of `config`; printed once by the commands.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use unicode_width::UnicodeWidthChar;

/// All that is wrong with a configuration, with the text needed to show where.
#[derive(Debug, Clone, Default)]
pub struct Report {
    files: Vec<Source>,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
struct Source {
    name: String,
    text: Arc<str>,
    excerpt: Excerpt,
    muted: Vec<Place>,
    withheld: Vec<Place>,
}

/// Whether a report may show lines of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excerpt {
    Shown,
    /// It may hold secrets: only positions are given.
    Withheld,
}

/// A file that was added to the [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(usize);

/// Bytes `start..end` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: FileId,
    pub start: usize,
    pub end: usize,
}

impl Place {
    pub fn new(file: FileId, span: Range<usize>) -> Self {
        Self { file, start: span.start, end: span.end }
    }
}

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    File(FileId),
    At(Place),
    /// No file: the command line, or all files together.
    Everywhere,
}

impl From<Place> for Where {
    fn from(place: Place) -> Self {
        Self::At(place)
    }
}

impl From<FileId> for Where {
    fn from(file: FileId) -> Self {
        Self::File(file)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong. `message` is a lower-case fragment with backticks round what was typed.
#[derive(Debug, Clone)]
pub struct Problem {
    severity: Severity,
    at: Where,
    message: String,
    notes: Vec<(String, Place)>,
    hints: Vec<String>,
}

impl Problem {
    pub fn error(at: impl Into<Where>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, at.into(), message.into())
    }

    /// Does not fail the configuration.
    pub fn warning(at: impl Into<Where>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, at.into(), message.into())
    }

    fn new(severity: Severity, at: Where, message: String) -> Self {
        Self { severity, at, message, notes: Vec::new(), hints: Vec::new() }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub fn hint_if(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Another place that belongs to it.
    pub fn note(mut self, what: impl Into<String>, place: Place) -> Self {
        self.notes.push((what.into(), place));
        self
    }
}

impl Report {
    pub fn add_file(&mut self, name: impl Into<String>, text: &str, excerpt: Excerpt) -> FileId {
        self.files.push(Source {
            name: name.into(),
            text: text.into(),
            excerpt,
            muted: Vec::new(),
            withheld: Vec::new(),
        });
        FileId(self.files.len() - 1)
    }

    pub fn push(&mut self, problem: Problem) {
        if let Where::At(place) = problem.at {
            let overlaps = |muted: &Place| muted.start <= place.end && place.start <= muted.end;
            if self.files[place.file.0].muted.iter().any(overlaps) {
                return;
            }
        }
        self.problems.push(problem);
    }

    /// From now on, problems that touch this place are dropped.
    pub fn mute(&mut self, place: Place) {
        self.files[place.file.0].muted.push(place);
    }

    /// The line of this place is never shown: it holds what may be a secret.
    pub fn withhold(&mut self, place: Place) {
        let line = self.line(place);
        self.files[place.file.0].withheld.push(line);
    }

    fn shows(&self, place: Place) -> bool {
        let source = &self.files[place.file.0];
        source.excerpt == Excerpt::Shown && !source.withheld.contains(&self.line(place))
    }

    /// The line on which a place begins, without its end.
    pub fn line(&self, place: Place) -> Place {
        let (_, _, line) = locate(&self.files[place.file.0].text, place.start);
        Place::new(place.file, line)
    }

    pub fn text(&self, file: FileId) -> Arc<str> {
        Arc::clone(&self.files[file.0].text)
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// In the order of the files, and within one from top to bottom; what belongs to no file comes last.
    pub fn sort(&mut self) {
        self.problems.sort_by_key(|problem| match problem.at {
            Where::File(file) => (file.0, 0),
            Where::At(place) => (place.file.0, place.start),
            Where::Everywhere => (usize::MAX, 0),
        });
    }

    /// `line:column`, both from 1; columns count characters.
    fn position(&self, place: Place) -> String {
        let (line, column, _) = locate(&self.files[place.file.0].text, place.start);
        format!("{}:{line}:{column}", Printable(&self.files[place.file.0].name))
    }

    fn write_excerpt(&self, f: &mut fmt::Formatter<'_>, place: Place) -> fmt::Result {
        let source = &self.files[place.file.0];
        let (number, _, line) = locate(&source.text, place.start);
        let text = source.text[line.clone()].trim_end_matches('\r');
        let start = floor(text, place.start.saturating_sub(line.start));
        let end = floor(text, place.end.saturating_sub(line.start)).max(start);

        let gutter = number.to_string().len();
        let shown: String = text.chars().map(visible).collect();
        writeln!(f, " {number} | {shown}")?;
        // A tab stays a tab, so that the caret stands right whatever the terminal's tab stops are.
        let lead: String = text[..start]
            .chars()
            .map(|c| if c == '\t' { "\t".to_owned() } else { " ".repeat(columns(c)) })
            .collect();
        let carets = text[start..end].chars().map(columns).sum::<usize>().max(1);
        writeln!(f, " {:gutter$} | {lead}{}", "", "^".repeat(carets))
    }
}

/// The number of the line that holds byte `at`, the column in characters (both from 1), and the line's bytes.
fn locate(text: &str, at: usize) -> (usize, usize, Range<usize>) {
    let at = floor(text, at);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    (text[..start].matches('\n').count() + 1, text[start..at].chars().count() + 1, start..end)
}

/// The character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Terminal columns that [`visible`] of a character takes.
fn columns(c: char) -> usize {
    visible(c).width().unwrap_or(1)
}

/// No control character reaches the terminal, save the tab.
fn visible(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

/// Text of unknown origin within one line of output.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.problems.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            match problem.at {
                Where::File(file) => write!(f, "{}: ", Printable(&self.files[file.0].name))?,
                Where::At(place) => write!(f, "{}: ", self.position(place))?,
                Where::Everywhere => {}
            }
            let severity = match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            writeln!(f, "{severity}: {}", Printable(&problem.message))?;
            if let Where::At(place) = problem.at
                && self.shows(place)
            {
                self.write_excerpt(f, place)?;
            }
            for (what, place) in &problem.notes {
                writeln!(f, "note: {} at {}", Printable(what), self.position(*place))?;
            }
            for hint in &problem.hints {
                writeln!(f, "hint: {}", Printable(hint))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let mut report = Report::default();
        let file = report.add_file("a.toml", text, Excerpt::Shown);
        report.push(Problem::error(Place::new(file, span), "wrong"));
        report.to_string()
    }

    #[test]
    fn the_caret_stands_under_the_span() {
        assert_eq!(
            shown("x = 1\nyy = 22\n", 11..13),
            "a.toml:2:6: error: wrong\n 2 | yy = 22\n   |      ^^\n"
        );
    }

    #[test]
    fn tabs_are_kept_and_wide_text_counts_double() {
        assert_eq!(shown("\t日 = x", 7..8), "a.toml:1:6: error: wrong\n 1 | \t日 = x\n   | \t     ^\n");
    }

    #[test]
    fn a_span_of_several_lines_is_marked_to_the_end_of_its_first() {
        assert_eq!(shown("a = [\r\n1]", 4..9), "a.toml:1:5: error: wrong\n 1 | a = [\n   |     ^\n");
    }

    #[test]
    fn a_span_at_or_past_the_end_or_inside_a_character_is_no_panic() {
        assert!(shown("", 0..0).contains("a.toml:1:1: "));
        assert!(shown("a", 7..9).contains("a.toml:1:2: "));
        assert!(shown("日", 1..2).contains("a.toml:1:1: "));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut report = Report::default();
        let file = report.add_file("a\u{1b}", "\u{1b}[2J", Excerpt::Shown);
        report.push(Problem::error(Place::new(file, 0..1), "`\u{1b}` is wrong\n").hint("not \u{7}"));
        assert!(!report.to_string().contains(['\u{1b}', '\u{7}']), "{report}");
        assert!(report.to_string().contains(r"`\u{1b}` is wrong\n"), "{report}");
    }

    #[test]
    fn a_withheld_line_is_never_shown() {
        let mut report = Report::default();
        let file = report.add_file("a.toml", "x = 1\ny = 'geheim'\n", Excerpt::Shown);
        report.push(Problem::error(Place::new(file, 6..7), "wrong"));
        report.withhold(Place::new(file, 10..18));
        report.push(Problem::error(Place::new(file, 0..1), "wrong, too"));
        let shown = "a.toml:2:1: error: wrong\n\na.toml:1:1: error: wrong, too\n 1 | x = 1\n   | ^\n";
        assert_eq!(report.to_string(), shown);
    }

    #[test]
    fn a_withheld_file_gives_positions_only() {
        let mut report = Report::default();
        let file = report.add_file("s.env", "PASSWORD\n", Excerpt::Withheld);
        report.push(Problem::error(Place::new(file, 0..8), "no `=`").note("see", Place::new(file, 3..4)));
        assert_eq!(report.to_string(), "s.env:1:1: error: no `=`\nnote: see at s.env:1:4\n");
    }
}
