//! The lines of an `env_file`. Pure: bytes to variables and flaws; a value is never quoted in a flaw.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;

/// What a file gives: variables in their order, and what is wrong with which bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EnvFile {
    pub variables: Vec<(OsString, OsString)>,
    pub flaws: Vec<(Range<usize>, &'static str)>,
}

/// `KEY=VALUE` lines: `#` comments, an optional `export `, optional quotes round the whole value. Nothing is replaced
/// in a value, and no escapes are known.
pub fn parse(bytes: &[u8]) -> EnvFile {
    let mut file = EnvFile::default();
    let mut start = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let trimmed = line.trim_ascii();
        if !trimmed.is_empty() && !trimmed.starts_with(b"#") {
            match variable(trimmed) {
                Ok(variable) => file.variables.push(variable),
                Err(flaw) => file.flaws.push((start..start + line.len(), flaw)),
            }
        }
        start += line.len() + 1;
    }
    file
}

fn variable(line: &[u8]) -> Result<(OsString, OsString), &'static str> {
    let line = line.strip_prefix(b"export ").unwrap_or(line);
    let equals = line.iter().position(|byte| *byte == b'=').ok_or("a line must be `KEY=VALUE`")?;
    let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
    if key.is_empty() || key.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'')) {
        return Err("a name without spaces and quotes must stand before the `=`");
    }
    if line.contains(&0) {
        return Err("a NUL byte can't be passed on");
    }
    let value = match value {
        [quote @ (b'"' | b'\''), inner @ .., last] if quote == last && !inner.contains(quote) => inner,
        [b'"' | b'\'', ..] => {
            return Err("the quotes must be closed at the end of the line, and nowhere before");
        }
        plain => plain,
    };
    Ok((OsStr::from_bytes(key).to_owned(), OsStr::from_bytes(value).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let file = parse(line);
        assert_eq!(file.variables.len() + file.flaws.len(), 1, "{line:?}");
        file.variables.into_iter().next().map(|(k, v)| (k.as_bytes().to_owned(), v.as_bytes().to_owned()))
    }

    #[test]
    fn lines_of_every_form() {
        for (line, key, value) in [
            (&b"A=b"[..], &b"A"[..], &b"b"[..]),
            (b"  export A = b c \r", b"A", b"b c"),
            (b"A=\"b # c\"", b"A", b"b # c"),
            (b"A='it is \"x\"'", b"A", b"it is \"x\""),
            (b"A=", b"A", b""),
            (b"A=''", b"A", b""),
            (b"A=b=c", b"A", b"b=c"),
            (b"A=${B}\\n", b"A", b"${B}\\n"),
            (b"a.b-c=\xff", b"a.b-c", b"\xff"),
        ] {
            assert_eq!(one(line), Some((key.to_owned(), value.to_owned())), "{line:?}");
        }
        for line in
            [&b"A"[..], b"=b", b"A B=c", b"A=\"b", b"A='", b"A=\"b\"c", b"A=\"b\"c\"", b"A=\0", b"export =b"]
        {
            assert_eq!(one(line), None, "{line:?}");
        }
    }

    #[test]
    fn comments_and_empty_lines_are_passed_over_and_flaws_have_their_place() {
        let file = parse(b"# a\n\nA=b\n  # c\nwrong\n");
        assert_eq!(file.variables.len(), 1);
        assert_eq!(file.flaws, [(15..20, "a line must be `KEY=VALUE`")]);
    }
}
