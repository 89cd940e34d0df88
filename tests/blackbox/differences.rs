//! What is wanted to differ. The list is closed: anything else that differs is a mistake, and so is an entry that no longer occurs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::comparison::Found;

/// How a family differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Only we have it.
    Ours,
    /// Only they have it.
    Theirs,
    /// Both have it, ours with one more label: `family{label}`.
    Label,
    /// Both have it, with other series.
    Series,
    /// Both have the series, with another value.
    Value,
}

/// Where a difference may occur. It must occur somewhere there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows {
    All,
    /// Those that name it, and there it must.
    Named,
    /// The same, of the rows that are probed in namespaces.
    NamedInNamespaces,
}

#[derive(Debug)]
pub struct Difference {
    /// By what a row refers to it.
    pub name: &'static str,
    /// Names of families; `*` at the end stands for any end.
    pub families: &'static [&'static str],
    pub shapes: &'static [Shape],
    pub rows: Rows,
    /// For the docs: when, what they do, what we do, and why.
    pub when: &'static str,
    pub theirs: &'static str,
    pub ours: &'static str,
}

pub const DIFFERENCES: &[Difference] = &[Difference {
    name: "about the poll",
    families: &[
        "probe_failure_info",
        "probe_timestamp_seconds",
        "probe_call_*",
        "probe_series_dropped",
        "probe_skipped_fields",
    ],
    shapes: &[Shape::Ours],
    rows: Rows::All,
    when: "always",
    theirs: "absent",
    ours: "why the probe failed, when it was, how each call went, and what was left out",
}];

impl Difference {
    pub fn covers(&self, found: &Found) -> bool {
        self.shapes.contains(&found.shape)
            && self.families.iter().any(|family| match family.strip_suffix('*') {
                Some(start) => found.family.starts_with(start),
                None => found.family == *family,
            })
    }
}

const BEGIN: &str = "<!-- differences: begin -->\n";
const END: &str = "<!-- differences: end -->";

#[test]
fn the_page_of_the_probers_lists_each_difference() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/probers.md");
    let found = fs::read_to_string(&page).unwrap();
    let (before, rest) = found.split_once(BEGIN).expect("the mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the mark where the table ends");
    let mut table = "| family | when | blackbox exporter | here |\n|---|---|---|---|\n".to_owned();
    for Difference { families, when, theirs, ours, .. } in DIFFERENCES {
        let families: Vec<String> = families.iter().map(|family| format!("`{}`", family.replace('*', "…"))).collect();
        let _ = writeln!(table, "| {} | {when} | {theirs} | {ours} |", families.join(", "));
    }
    let expected = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&page, &expected).unwrap();
        return;
    }
    assert!(found == expected, "docs/probers.md does not list the differences as they are: run `make generate`");
}

#[test]
fn each_difference_has_a_name_of_its_own() {
    let names: BTreeSet<&str> = DIFFERENCES.iter().map(|difference| difference.name).collect();
    assert_eq!(names.len(), DIFFERENCES.len());
}
