//! `${VAR}` and `${VAR:-default}` in a string: where they stand and what is wrong with them. Pure; `values` puts
//! the variables' values in.

use std::ops::Range;

/// A string taken apart. The ranges are bytes of the string.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Literal(&'a str),
    Variable { name: &'a str, default: Option<&'a str>, at: Range<usize> },
    Flaw { what: &'static str, at: Range<usize> },
}

/// `$${` stands for `${`; a `$` in front of anything else is only a `$`.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut from = 0;
    while let Some(found) = text[from..].find("${") {
        let dollar = from + found;
        if text[from..dollar].ends_with('$') {
            pieces.push(Piece::Literal(&text[from..dollar - 1]));
            pieces.push(Piece::Literal("${"));
            from = dollar + 2;
            continue;
        }
        pieces.push(Piece::Literal(&text[from..dollar]));
        let Some(length) = text[dollar..].find('}') else {
            pieces.push(Piece::Flaw { what: "`${` has no `}`", at: dollar..text.len() });
            return pieces;
        };
        from = dollar + length + 1;
        pieces.push(variable(text, dollar..from));
    }
    pieces.push(Piece::Literal(&text[from..]));
    pieces
}

fn variable(text: &str, at: Range<usize>) -> Piece<'_> {
    let inner = &text[at.start + 2..at.end - 1];
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if inner.contains("${") {
        Piece::Flaw { what: "a `${…}` can't hold another one", at }
    } else if name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit()) {
        Piece::Variable { name, default, at }
    } else {
        Piece::Flaw { what: "`${` must be followed by a variable's name and `}` or `:-`", at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Literals joined, variables as `<name|default>`, flaws as `!`.
    fn sketch(text: &str) -> String {
        let show = |piece: &Piece<'_>| match piece {
            Piece::Literal(literal) => (*literal).to_owned(),
            Piece::Variable { name, default: None, .. } => format!("<{name}>"),
            Piece::Variable { name, default: Some(default), .. } => format!("<{name}|{default}>"),
            Piece::Flaw { .. } => "!".to_owned(),
        };
        pieces(text).iter().map(show).collect()
    }

    #[test]
    fn variables_escapes_and_flaws() {
        for (text, expected) in [
            ("", ""),
            ("a$b$", "a$b$"),
            ("a${B}c", "a<B>c"),
            ("${A}${B:-c d}", "<A><B|c d>"),
            ("${A:-}", "<A|>"),
            ("${A:-:-x}", "<A|:-x>"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$A", "$A"),
            ("é${A}", "é<A>"),
            ("${", "!"),
            ("${}", "!"),
            ("${1A}", "!"),
            ("${A-b}", "!"),
            ("${A:-${B}}", "!}"),
        ] {
            assert_eq!(sketch(text), expected, "{text}");
        }
    }
}
