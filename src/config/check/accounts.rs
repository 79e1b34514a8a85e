//! Values that /etc/passwd and /etc/group have a say in. Called by the checks of services and links.

use std::path::Path;

use super::values::Values;
use crate::config::raw::table::Field;
use crate::config::report::{Problem, Where};
use crate::config::units::Bad;

/// `Some(None)` where nothing is given.
pub fn parse<T>(
    field: &Field<String>,
    values: &mut Values<'_>,
    parser: impl FnOnce(&str, &str, &str) -> Result<T, Bad>,
) -> Option<Option<T>> {
    // A missing file has no entries: an image may be without one, and a `UID:GID` needs none.
    let mut read = |path: &str| match (values.outside.read)(Path::new(path)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let at = field.place().map_or(Where::Everywhere, Where::At);
            values.report.push(Problem::error(at, format!("cannot read `{path}`: {error}")));
            String::new()
        }
    };
    let (passwd, group) = match field {
        Field::Given(_) => (read("/etc/passwd"), read("/etc/group")),
        Field::Absent | Field::Bad => (String::new(), String::new()),
    };
    values.optional(field, |text| parser(text, &passwd, &group))
}
