//! One table of good and bad manifests: `tests/manifests/*.yaml`. A comment before each says what the answer must be:
//!
//! * `# good`: taken;
//! * `# expect: SENTENCE`: refused, by the API server as well, with this sentence among its own words;
//! * `# expect offline: SENTENCE`: refused by `check` and file mode only, or only there in these words.

use std::fs;
use std::path::Path;

use scrapetarget_exporter::file::documents;
use scrapetarget_exporter::yaml::{has_content, split};
use serde_json::Value;

/// What the answer must be.
#[derive(Debug, PartialEq)]
pub enum Expect {
    Good,
    Refused(String),
    RefusedOffline(String),
}

/// One manifest.
pub struct Case {
    /// Its file and line.
    pub place: String,
    pub expect: Expect,
    pub manifest: Value,
    /// As it stands in the file.
    pub text: String,
}

/// All of them.
pub fn table() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let parts = split(&text).into_iter().filter(|(_, part)| part.lines().any(has_content));
        for (document, (_, text)) in documents(&text).zip(parts) {
            let place = format!("{}:{}", path.file_name().unwrap().to_string_lossy(), document.line);
            let head =
                text.lines().find(|line| line.starts_with("# ")).unwrap_or_else(|| panic!("{place} says nothing"));
            let expect = match head.trim_start_matches("# ").split_once(": ") {
                None if head == "# good" => Expect::Good,
                Some(("expect", sentence)) => Expect::Refused(sentence.to_owned()),
                Some(("expect offline", sentence)) => Expect::RefusedOffline(sentence.to_owned()),
                _ => panic!("{place}: {head}"),
            };
            let manifest = document.value().unwrap();
            cases.push(Case { expect, manifest, text: text.to_owned(), place });
        }
    }
    assert!(cases.len() >= 90, "only {} cases were found", cases.len());
    cases
}
