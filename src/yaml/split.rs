//! A stream as the texts of its documents, so that one that cannot be read does not hide the others.

/// What editors on Windows write at the beginning of a file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The texts between separators, each with its first line, counted from 1.
///
/// A `---` at the beginning of a line always separates: no scalar may contain one there. What follows a `...` until then, which are directives
/// for the next document, belongs to none; nor does a byte order mark before a document, as files have that were put together.
pub fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 1, 0);
    let (mut has_begun, mut ended) = (false, None);
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.strip_prefix(BYTE_ORDER_MARK).unwrap_or(whole);
        let after_mark = position + whole.len() - line.len();
        if is_marker(line, "---") && position > start {
            parts.push((start_line, text.get(start..ended.unwrap_or(position)).unwrap_or_default()));
            (start, start_line) = (after_mark, number + 1);
            (has_begun, ended) = (false, None);
        } else if after_mark > position && !has_begun {
            (start, start_line) = (after_mark, number + 1);
        }
        position += whole.len();
        if is_marker(line, "...") {
            ended = ended.or(Some(position));
        } else if has_content(line) {
            (has_begun, ended) = (true, None);
        }
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether a line holds more than a comment, a directive or a separator.
pub fn has_content(line: &str) -> bool {
    let line = line.trim();
    let after = line.strip_prefix("---").map_or(line, str::trim_start);
    !(after.is_empty() || after.starts_with('#') || line.starts_with('%') || line == "...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_after_the_end_of_a_document_are_no_part_of_it() {
        for (text, parts) in [
            ("a: 1\n...\n%YAML 1.1\n---\nb: 2\n", &[(1, "a: 1\n...\n"), (4, "---\nb: 2\n")][..]),
            ("a: 1\n... # end\n\n# next\n---\nb: 2\n", &[(1, "a: 1\n... # end\n"), (5, "---\nb: 2\n")]),
            ("a: 1\n...\nb: 2\n---\nc: 3\n", &[(1, "a: 1\n...\nb: 2\n"), (4, "---\nc: 3\n")]),
            ("a: ...\n...b: 1\n", &[(1, "a: ...\n...b: 1\n")]),
        ] {
            assert_eq!(split(text), parts, "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_may_stand_before_every_document() {
        for (text, parts) in [
            ("a: 1\n\u{feff}---\nb: 2\n", &[(1, "a: 1\n"), (2, "---\nb: 2\n")][..]),
            ("a: 1\n---\n\u{feff}b: 2\n", &[(1, "a: 1\n"), (3, "b: 2\n")]),
            ("a: 1\n---\n\u{feff}---\nb: 2\n", &[(1, "a: 1\n"), (2, "---\n"), (3, "---\nb: 2\n")]),
            ("\u{feff}---\na: 1\n", &[(1, "---\na: 1\n")]),
            ("a: |\n  x\n\u{feff}b: 2\n", &[(1, "a: |\n  x\n\u{feff}b: 2\n")]),
        ] {
            assert_eq!(split(text), parts, "{text:?}");
        }
    }
}
