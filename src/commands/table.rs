//! Plain text in columns. Knows nothing of what stands in them. Called by the verbs that print lists.

use unicode_width::UnicodeWidthStr;

/// Lines of columns as wide as their widest cell, two spaces between them, none at a line's end.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].width()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| fill(cell, width));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// `text` with spaces after it, up to `width` columns.
pub fn fill(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// What others have written, on one line: what would move the cursor is shown and not done.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let rows = [["a", "b"], ["日本", ""], ["abc", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a     b\n日本\nabc   d\n");
    }

    #[test]
    fn nothing_written_by_others_moves_the_cursor() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
    }
}
