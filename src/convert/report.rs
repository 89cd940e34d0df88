//! What there is to say about the inputs: faults, because of which nothing is converted, and remarks, one for each thing that is left
//! behind or changed. Neither ever contains a password.

use std::collections::BTreeSet;
use std::fmt;

use crate::yaml::Node;

/// The most faults of one input that are told, so that an input that is something else does not fill a screen.
const MAX_FAULTS: usize = 50;

/// The longest field name or value that a message repeats.
const LONGEST_QUOTE: usize = 80;

/// Something wrong with an input, because of which it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFault {
    /// The input, as the user named it.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The field: `modules.http_2xx.http.method`. Empty if it is about the whole input.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Something that is not carried over, or not as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The input, as the user named it.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The field, or what the remark is about.
    pub path: String,
    /// What is left behind or changed, why, and what to do instead.
    pub message: String,
}

impl fmt::Display for InputFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.file, self.line, &self.path, &self.message)
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.file, self.line, &self.path, &self.message)
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, file: &str, line: Option<usize>, path: &str, message: &str) -> fmt::Result {
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    // Keys may contain anything, line breaks included, and one message must stay one line.
    let text = format!("{file}{line}: {path}{message}");
    text.chars().try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
}

/// Collects what there is to say about one input.
#[derive(Debug)]
pub(super) struct Reporter {
    file: String,
    pub(super) faults: Vec<InputFault>,
    pub(super) remarks: Vec<Remark>,
    /// Places and messages of all remarks.
    said: BTreeSet<(String, String)>,
}

impl Reporter {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), faults: Vec::new(), remarks: Vec::new(), said: BTreeSet::new() }
    }

    /// The input is refused.
    #[inline(never)]
    pub(super) fn fault(&mut self, line: usize, path: &str, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            let (file, line) = (self.file.clone(), Some(line).filter(|line| *line > 0));
            self.faults.push(InputFault { file, line, path: path.to_owned(), message: message.into() });
        }
    }

    /// Something is left behind or changed. The same sentence about the same place is said once.
    #[inline(never)]
    pub(super) fn remark(&mut self, line: usize, path: &str, message: impl Into<String>) {
        let (file, line) = (self.file.clone(), Some(line).filter(|line| *line > 0));
        let remark = Remark { file, line, path: path.to_owned(), message: message.into() };
        if self.said.insert((remark.path.clone(), remark.message.clone())) {
            self.remarks.push(remark);
        }
    }

    /// The type of a value is not that of its field.
    #[inline(never)]
    pub(super) fn wrong_type(&mut self, node: &Node, path: &str, wanted: &str) {
        self.fault(node.line, path, format!("is {}, write {wanted}", node.kind()));
    }
}

/// A text of the input for a message, cut to a length that a line can show.
#[inline(never)]
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}

/// The path of a field below another.
#[inline(never)]
pub(super) fn join(path: &str, key: &str) -> String {
    let key: String = key.chars().take(LONGEST_QUOTE).collect();
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
