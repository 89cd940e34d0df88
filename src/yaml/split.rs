//! A stream as the texts of its documents, so that one that cannot be read does not hide the others.

/// The texts between separators, each with its first line, counted from 1.
///
/// A `---` at the beginning of a line always separates: no scalar may contain one there.
pub fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let separates =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if separates && position > start {
            parts.push((start_line, text.get(start..position).unwrap_or_default()));
            (start, start_line) = (position, number + 1);
        }
        position += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

/// Whether a line holds more than a comment, a directive or a separator.
pub fn has_content(line: &str) -> bool {
    let line = line.trim();
    let after = line.strip_prefix("---").map_or(line, str::trim_start);
    !(after.is_empty() || after.starts_with('#') || line.starts_with('%') || line == "...")
}
