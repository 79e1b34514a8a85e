//! From one typed text to one value: variables are replaced, then `units` parses; what fails becomes a problem at
//! its place.
//!
//! It must never put into a problem what a variable was replaced with: that may be a secret. So a text that holds
//! variables is quoted as typed, and the reason why its value was refused is kept back.

use std::ffi::{OsStr, OsString};
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::Outside;
use super::expand::{Piece, pieces};
use crate::config::raw::table::{At, Field, Number, enumerate, nearest};
use crate::config::report::{Place, Problem, Report, Where};
use crate::config::units::Bad;

/// Everything here answers `None` after it has reported why.
pub struct Values<'a> {
    pub report: Report,
    pub outside: &'a Outside<'a>,
}

/// What a variable is.
enum Variable {
    Unset,
    Set(OsString),
    Unreadable(String),
}

impl Values<'_> {
    pub fn error(&mut self, at: impl Into<Where>, message: impl Into<String>) {
        self.report.push(Problem::error(at, message));
    }

    /// The text with its variables replaced.
    pub fn bytes(&mut self, at: &At<String>) -> Option<OsString> {
        let mut whole = Some(OsString::new());
        for piece in pieces(&at.value) {
            let value = match piece {
                Piece::Literal(literal) => Some(literal.into()),
                Piece::Variable { name, default, at: range } => {
                    self.variable(name, default, self.within(at, range))
                }
                Piece::Flaw { what, at: range } => {
                    let place = self.within(at, range);
                    self.report
                        .push(Problem::error(place, what).hint("write `$${` where a plain `${` is meant"));
                    None
                }
            };
            whole = whole.zip(value).map(|(mut whole, value)| {
                whole.push(value);
                whole
            });
        }
        let whole = whole?;
        if whole.as_bytes().contains(&0) {
            self.error(at.place, "a NUL byte can't be passed on");
            return None;
        }
        Some(whole)
    }

    /// As [`bytes`](Self::bytes), where only text will do.
    pub fn text(&mut self, at: &At<String>) -> Option<String> {
        let bytes = self.bytes(at)?;
        let text = bytes.into_string();
        if text.is_err() {
            self.error(at.place, format!("the value of `{}` is not UTF-8", at.value));
        }
        text.ok()
    }

    pub fn parse<T>(&mut self, at: &At<String>, parser: impl FnOnce(&str) -> Result<T, Bad>) -> Option<T> {
        let text = self.text(at)?;
        parser(&text).map_err(|bad| self.refuse(at, &text, bad)).ok()
    }

    /// Reports that `text`, which `at` was replaced with, was refused.
    pub fn refuse(&mut self, at: &At<String>, text: &str, bad: Bad) {
        let Bad { wanted, why, hint } = bad;
        let message = match at.value == text {
            true => format!("`{text}` is not {wanted}: {why}"),
            false => format!("the value of `{}` is not {wanted}", at.value),
        };
        self.report.push(Problem::error(at.place, message).hint_if(hint.map(str::to_owned)));
    }

    pub fn optional<T>(
        &mut self,
        field: &Field<String>,
        parser: impl FnOnce(&str) -> Result<T, Bad>,
    ) -> Option<Option<T>> {
        match field {
            Field::Absent => Some(None),
            Field::Bad => None,
            Field::Given(at) => self.parse(at, parser).map(Some),
        }
    }

    pub fn or<T>(
        &mut self,
        field: &Field<String>,
        default: T,
        parser: impl FnOnce(&str) -> Result<T, Bad>,
    ) -> Option<T> {
        self.optional(field, parser).map(|given| given.unwrap_or(default))
    }

    pub fn required<T>(
        &mut self,
        field: &Field<String>,
        name: &str,
        parent: Place,
        parser: impl FnOnce(&str) -> Result<T, Bad>,
    ) -> Option<T> {
        self.present(field, name, parent).and_then(|at| self.parse(at, parser))
    }

    /// What is given, or the error that `name` is missing.
    pub fn present<'f, T>(&mut self, field: &'f Field<T>, name: &str, parent: Place) -> Option<&'f At<T>> {
        if field.is_absent() {
            self.error(parent, format!("`{name}` is missing"));
        }
        field.given()
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, field: &Field<String>, default: T, choices: &[(&str, T)]) -> Option<T> {
        let Some(at) = field.given() else {
            return field.is_absent().then_some(default);
        };
        let text = self.text(at)?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let message = match at.value == text {
                true => format!("`{text}` is not one of {}", enumerate(&words)),
                false => format!("the value of `{}` is not one of {}", at.value, enumerate(&words)),
            };
            let hint = nearest(&text, &words).filter(|_| at.value == text);
            let hint = hint.map(|near| format!("did you mean `{near}`?"));
            self.report.push(Problem::error(at.place, message).hint_if(hint));
        }
        chosen
    }

    /// A number within `range`.
    pub fn number<T: Copy + PartialOrd + TryFrom<u64> + std::fmt::Display>(
        &mut self,
        field: &Field<Number>,
        default: T,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let Some(at) = field.given() else {
            return field.is_absent().then_some(default);
        };
        let (typed, number) = match &at.value {
            Number::Literal(number) => (number.to_string(), Some(*number)),
            Number::Text(text) => {
                let digits = self.text(&At { value: text.clone(), place: at.place })?;
                let number = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
                (text.clone(), number)
            }
        };
        let number =
            number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            let what = if matches!(&at.value, Number::Text(text) if text.contains("${")) {
                "the value of "
            } else {
                ""
            };
            let message =
                format!("{what}`{typed}` is not a number from {} to {}", range.start(), range.end());
            self.error(at.place, message);
        }
        number
    }

    /// The value of a variable of the environment that ensign was given; `None` where it is unset. No problem is
    /// reported for that.
    pub fn environment(&mut self, name: &str, place: Place) -> Option<Option<OsString>> {
        match self.look_up(name) {
            Variable::Set(value) => Some(Some(value)),
            Variable::Unset => Some(None),
            Variable::Unreadable(why) => {
                self.error(place, why);
                None
            }
        }
    }

    fn variable(&mut self, name: &str, default: Option<&str>, place: Place) -> Option<OsString> {
        let value = self.environment(name, place)?;
        // As in a shell, `:-` also stands in for what is empty.
        let value = value.filter(|value| default.is_none() || !value.is_empty());
        let value = value.or_else(|| default.map(OsString::from));
        if value.is_none() {
            let problem = Problem::error(place, format!("the variable `{name}` is not set"));
            self.report.push(problem.hint(format!("give a default: `${{{name}:-…}}`")));
        }
        value
    }

    /// `KEY`, or what the file named by `KEY_FILE` holds.
    fn look_up(&self, name: &str) -> Variable {
        if let Some(value) = self.outside.variables.get(OsStr::new(name)) {
            return Variable::Set(value.clone());
        }
        let key = format!("{name}_FILE");
        let Some(path) = self.outside.variables.get(OsStr::new(&key)) else {
            return Variable::Unset;
        };
        match (self.outside.read)(Path::new(path)) {
            Ok(mut bytes) => {
                for end in [b'\n', b'\r'] {
                    if bytes.last() == Some(&end) {
                        bytes.pop();
                    }
                }
                Variable::Set(OsString::from_vec(bytes))
            }
            Err(error) => {
                let path = Path::new(path).display();
                Variable::Unreadable(format!(
                    "cannot read `{path}`, which `{key}` names for `{name}`: {error}"
                ))
            }
        }
    }

    /// The place of a part of a string, or of all of it where escapes hide the part.
    fn within(&self, at: &At<String>, part: Range<usize>) -> Place {
        let Place { file, start, end } = at.place;
        let text = self.report.text(file);
        match text.get(start..end).and_then(|typed| typed.find(&at.value)) {
            Some(offset) => Place::new(file, start + offset + part.start..start + offset + part.end),
            None => at.place,
        }
    }
}
