//! Reads a TOML table by asking for each key by its name: what has the wrong type and what nobody asked for become
//! problems with their places. A key's name is written once, where it is asked for.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::report::{FileId, Place, Problem, Report};

/// A value and where it was typed.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
}

/// What a file says under a key.
#[derive(Debug, Clone)]
pub enum Field<T> {
    Absent,
    /// A problem was reported for it (or its file can't be read in full): not there, and no default either.
    Bad,
    Given(At<T>),
}

impl<T> Field<T> {
    pub fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Bad => None,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub fn place(&self) -> Option<Place> {
        self.given().map(|at| at.place)
    }
}

/// What a table holds under keys that are not ours.
pub type Named<T> = Vec<(At<String>, At<T>)>;

/// A number, or the text of one: so that `"${PORT}"` can stand where a number is wanted.
#[derive(Debug, Clone)]
pub enum Number {
    Literal(u64),
    Text(String),
}

/// Whether a file's syntax was right throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    Whole,
    /// What is absent may be hidden behind a syntax error, so that absence proves nothing.
    Broken,
    /// A table's header is wrong, so that keys may have come to lie in another table.
    Adrift,
}

pub struct Table<'t, 'r> {
    entries: &'t DeTable<'t>,
    place: Place,
    /// As the user writes it: `[stop]`.
    title: &'static str,
    syntax: Syntax,
    asked: Vec<&'static str>,
    report: &'r mut Report,
}

/// A value of the wrong type: where, and what was wanted.
struct Mismatch {
    place: Place,
    wanted: &'static str,
    found: &'static str,
    hint: Option<String>,
}

const LIST: &str = "a list of strings";

type Converted<T> = Result<T, Vec<Mismatch>>;
type Value<'t> = Spanned<DeValue<'t>>;

impl<'t, 'r> Table<'t, 'r> {
    pub fn root(entries: &'t DeTable<'t>, file: FileId, syntax: Syntax, report: &'r mut Report) -> Self {
        let place = Place::new(file, 0..0);
        Self { entries, place, title: "this file", syntax, asked: Vec::new(), report }
    }

    /// Where the table begins.
    pub fn place(&self) -> Place {
        self.place
    }

    pub fn string(&mut self, name: &'static str) -> Field<String> {
        self.get(name, |value, file| string(value, file, "a string"))
    }

    pub fn boolean(&mut self, name: &'static str) -> Field<bool> {
        self.get(name, |value, file| match value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => mismatch(value, file, "`true` or `false`"),
        })
    }

    pub fn number(&mut self, name: &'static str) -> Field<Number> {
        self.get(name, |value, file| number(value, file, "a number"))
    }

    pub fn list(&mut self, name: &'static str) -> Field<Vec<At<String>>> {
        self.get(name, |value, file| list(value, file, LIST))
    }

    /// A string, or a list of them.
    pub fn one_or_more(&mut self, name: &'static str) -> Field<Vec<At<String>>> {
        self.get(name, |value, file| match value.get_ref() {
            DeValue::String(_) => Ok(vec![At { value: string(value, file, "")?, place: place(value, file) }]),
            _ => list(value, file, "a string or a list of strings"),
        })
    }

    /// `Ok` a list, `Err` a boolean.
    pub fn boolean_or_list(&mut self, name: &'static str) -> Field<Result<Vec<At<String>>, bool>> {
        self.get(name, |value, file| match value.get_ref() {
            DeValue::Boolean(value) => Ok(Err(*value)),
            _ => list(value, file, "`true`, `false` or a list of strings").map(Ok),
        })
    }

    /// Keys of the user's own choice, with strings.
    pub fn strings_by_name(&mut self, name: &'static str) -> Field<Named<String>> {
        self.by_name(name, |table, value| string(value, table.place.file, "a string"))
    }

    /// Keys that `check` knows, each with a number or a table that `read` takes.
    pub fn numbers_or_tables<T>(
        &mut self,
        name: &'static str,
        title: &'static str,
        read: impl Fn(&mut Table<'_, '_>) -> T,
    ) -> Field<Named<Result<Number, T>>> {
        self.by_name(name, |table, value| match value.get_ref() {
            DeValue::Table(inner) => {
                Ok(Err(table.nested(inner, place(value, table.place.file), title, &read)))
            }
            _ => number(value, table.place.file, "a number, a string or a table").map(Ok),
        })
    }

    fn by_name<T>(
        &mut self,
        name: &'static str,
        mut convert: impl FnMut(&mut Self, &'t Value<'t>) -> Converted<T>,
    ) -> Field<Named<T>> {
        let found = self.get(name, |value, file| match value.get_ref() {
            DeValue::Table(inner) => Ok(inner),
            _ => mismatch(value, file, "a table"),
        });
        let entries = match found {
            Field::Given(entries) => entries,
            Field::Absent => return Field::Absent,
            Field::Bad => return Field::Bad,
        };
        let file = self.place.file;
        let mut pairs = Vec::new();
        for (key, value) in entries.value.iter() {
            match convert(self, value) {
                Ok(converted) => {
                    let key = At { value: key.get_ref().to_string(), place: Place::new(file, key.span()) };
                    pairs.push((key, At { value: converted, place: place(value, file) }));
                }
                Err(mismatches) => self.mismatches(key.get_ref(), mismatches),
            }
        }
        // As typed: the parser sorts by name.
        pairs.sort_by_key(|(key, _)| key.place.start);
        Field::Given(At { value: pairs, place: entries.place })
    }

    /// A table that reads as an empty one where it is absent.
    pub fn table<T>(
        &mut self,
        name: &'static str,
        title: &'static str,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> T {
        let found = self.get(name, |value, file| match value.get_ref() {
            DeValue::Table(inner) => Ok(inner),
            _ => mismatch(value, file, "a table").map_err(|mismatches| {
                let hint = || Some(format!("write {title}, and its keys below it"));
                mismatches.into_iter().map(|mismatch| Mismatch { hint: hint(), ..mismatch }).collect()
            }),
        });
        match found {
            Field::Given(at) => self.nested(at.value, at.place, title, read),
            Field::Absent => self.nested(&DeTable::new(), self.place, title, read),
            Field::Bad => {
                let nothing = DeTable::new();
                read(&mut Table { syntax: Syntax::Broken, ..self.child(&nothing, self.place, title) })
            }
        }
    }

    /// `[[name]]`, any number of times.
    pub fn tables<T>(
        &mut self,
        name: &'static str,
        title: &'static str,
        read: impl Fn(&mut Table<'_, '_>) -> T,
    ) -> Field<Vec<T>> {
        let found = self.get(name, |value, file| {
            let once = || format!("write `[[{name}]]`: there may be several");
            let hinted = |mismatches: Vec<Mismatch>| {
                mismatches.into_iter().map(|mismatch| Mismatch { hint: Some(once()), ..mismatch }).collect()
            };
            let DeValue::Array(items) = value.get_ref() else {
                return mismatch(value, file, "a list of tables").map_err(hinted);
            };
            let (mut tables, mut wrong) = (Vec::new(), Vec::new());
            for item in items.iter() {
                match item.get_ref() {
                    DeValue::Table(inner) => tables.push((inner, place(item, file))),
                    _ => wrong.extend(mismatch::<()>(item, file, "a list of tables").map_err(hinted).err()),
                }
            }
            if wrong.is_empty() { Ok(tables) } else { Err(wrong.into_iter().flatten().collect()) }
        });
        match found {
            Field::Given(at) => {
                let each = at.value.into_iter().map(|(inner, place)| self.nested(inner, place, title, &read));
                Field::Given(At { value: each.collect(), place: at.place })
            }
            Field::Absent => Field::Absent,
            Field::Bad => Field::Bad,
        }
    }

    /// Reports each key that nobody asked for; of those that are `elsewhere`, it says where they `belong`.
    pub fn finish(self, elsewhere: &[&str], belong: &str) {
        if self.syntax == Syntax::Adrift {
            return;
        }
        for (key, _) in self.entries.iter() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let hint = match nearest(name, &self.asked) {
                _ if elsewhere.contains(&name) => format!("`{name}` {belong}"),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{} may have {}", self.title, enumerate(&self.asked)),
            };
            let place = Place::new(self.place.file, key.span());
            // `password = "…"`, say: what stands behind it is not ours to show.
            if name.contains("pass") || name.contains("secret") || name.contains("token") {
                self.report.withhold(place);
            }
            self.report.push(Problem::error(place, format!("unknown key `{name}`")).hint(hint));
        }
    }

    /// The names that were asked for.
    pub fn asked(&self) -> Vec<&'static str> {
        self.asked.clone()
    }

    fn nested<T>(
        &mut self,
        entries: &DeTable<'_>,
        place: Place,
        title: &'static str,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> T {
        let mut table = self.child(entries, place, title);
        let value = read(&mut table);
        table.finish(&[], "");
        value
    }

    fn child<'c>(&'c mut self, entries: &'c DeTable<'c>, place: Place, title: &'static str) -> Table<'c, 'c> {
        Table { entries, place, title, syntax: self.syntax, asked: Vec::new(), report: self.report }
    }

    fn absent<T>(&self, name: &str) -> Field<T> {
        match self.syntax {
            Syntax::Whole if !self.entries.contains_key(name) => Field::Absent,
            Syntax::Whole | Syntax::Broken | Syntax::Adrift => Field::Bad,
        }
    }

    fn get<T>(
        &mut self,
        name: &'static str,
        convert: impl FnOnce(&'t Value<'t>, FileId) -> Converted<T>,
    ) -> Field<T> {
        self.asked.push(name);
        let Some(value) = self.entries.get(name) else {
            return self.absent(name);
        };
        match convert(value, self.place.file) {
            Ok(converted) => Field::Given(At { value: converted, place: place(value, self.place.file) }),
            Err(mismatches) => {
                self.mismatches(name, mismatches);
                Field::Bad
            }
        }
    }

    fn mismatches(&mut self, name: &str, mismatches: Vec<Mismatch>) {
        for Mismatch { place, wanted, found, hint } in mismatches {
            let message = format!("`{name}` must be {wanted}, not {found}");
            self.report.push(Problem::error(place, message).hint_if(hint));
        }
    }
}

fn place(value: &Value<'_>, file: FileId) -> Place {
    Place::new(file, value.span())
}

fn mismatch<T>(value: &Value<'_>, file: FileId, wanted: &'static str) -> Converted<T> {
    let (found, hint) = match value.get_ref() {
        DeValue::String(_) if wanted == LIST => {
            ("a string", Some("write it in brackets, each word in its own quotes".to_owned()))
        }
        DeValue::String(_) => ("a string", None),
        DeValue::Integer(number) if wanted.contains("string") => (
            "a number",
            Some(format!("write it in quotes, `\"{number}\"`; a duration with its unit, `\"{number}s\"`")),
        ),
        DeValue::Integer(_) => ("a number", None),
        DeValue::Float(_) => ("a number with a fraction", None),
        DeValue::Boolean(_) => ("a boolean", None),
        DeValue::Datetime(_) => ("a date", None),
        DeValue::Array(_) => ("a list", None),
        DeValue::Table(_) => ("a table", None),
    };
    Err(vec![Mismatch { place: place(value, file), wanted, found, hint }])
}

fn string(value: &Value<'_>, file: FileId, wanted: &'static str) -> Converted<String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        _ => mismatch(value, file, wanted),
    }
}

fn number(value: &Value<'_>, file: FileId, wanted: &'static str) -> Converted<Number> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Number::Text(text.clone().into_owned())),
        DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Ok(Number::Literal(number)),
            // Negative or huge: left to the check of the range, which names the bounds.
            Err(_) => Ok(Number::Text(number.to_string())),
        },
        _ => mismatch(value, file, wanted),
    }
}

fn list(value: &Value<'_>, file: FileId, wanted: &'static str) -> Converted<Vec<At<String>>> {
    let DeValue::Array(items) = value.get_ref() else {
        return mismatch(value, file, wanted);
    };
    let (mut list, mut wrong) = (Vec::new(), Vec::new());
    for item in items.iter() {
        match string(item, file, wanted) {
            Ok(text) => list.push(At { value: text, place: place(item, file) }),
            Err(mismatches) => wrong.extend(mismatches),
        }
    }
    if wrong.is_empty() { Ok(list) } else { Err(wrong) }
}

/// The name among `known` that was probably meant.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let scored = known.iter().map(|known| (strsim::normalized_damerau_levenshtein(name, known), *known));
    scored.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// `a`, `b`, `c`.
pub fn enumerate<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}
