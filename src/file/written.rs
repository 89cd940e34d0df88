//! The ScrapeTargets of files as they were written, for somebody else to judge. It judges nothing itself.

use std::sync::Arc;

use serde_json::Value;

use super::input::{Input, Inputs};
use super::line::line_of;
use super::load::{FileProblem, Origin};
use super::{manifest, yaml};
use crate::crd;

/// The manifest of a ScrapeTarget.
#[derive(Clone, Debug)]
pub struct Written {
    /// Where it stands.
    pub origin: Origin,
    /// What it says.
    pub manifest: Value,
}

impl Written {
    /// Something that somebody says about it, with its place and its name.
    pub fn problem(&self, message: impl Into<String>) -> FileProblem {
        let text = |field: &str| self.manifest.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let namespace = text("/metadata/namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let name = text("/metadata/name").unwrap_or_default();
        FileProblem::of_document(&self.origin, Some(format!("ScrapeTarget {namespace}{name}")), message)
    }
}

/// Every ScrapeTarget that has well-formed names, whatever else is wrong with it. What cannot be read is left out: `check` tells of it.
pub fn written(inputs: &Inputs) -> Vec<Written> {
    let mut found = Vec::new();
    for input in &inputs.0 {
        let Input::File(file, Ok(text)) = input else { continue };
        for document in yaml::documents(text) {
            let Ok(value) = &document.value else { continue };
            for (path, manifest) in manifest::items(value) {
                if manifest.get("kind").and_then(Value::as_str) != Some("ScrapeTarget") || !is_named(&manifest) {
                    continue;
                }
                // Only an item of a List stands elsewhere than its document.
                let within = if path.is_empty() { None } else { line_of(document.text, &path) };
                let line = within.map_or(document.line, |line| document.offset + line);
                let origin = Origin { file: Arc::clone(file), document: document.index, line };
                found.push(Written { origin, manifest: manifest.into_owned() });
            }
        }
    }
    found
}

fn is_named(manifest: &Value) -> bool {
    let mut problems = Vec::new();
    crd::check_names(manifest, &mut problems);
    !problems.iter().any(|problem| matches!(problem.path.as_str(), "metadata" | "metadata.name" | "metadata.namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn targets_are_found_also_in_lists_and_whatever_is_wrong_with_them() {
        let folder = tempfile::TempDir::new().unwrap();
        let text = "# two\n{kind: ScrapeTarget, metadata: {name: a, namespace: media}}\n---\nkind: List\nitems:\n\
            - {kind: Secret, metadata: {name: s}}\n- {kind: ScrapeTarget, metadata: {name: b}, spec: 5}\n---\nkind: [\n";
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let unnamed = "{kind: ScrapeTarget}\n---\n{kind: ScrapeTarget, metadata: {name: c, namespace: ../d}}\n";
        fs::write(folder.path().join("b.yaml"), unnamed).unwrap();
        let found = written(&Inputs::read(&[folder.path().to_owned(), "/nowhere/at/all.yaml".into()]));
        let shown: Vec<String> = found.iter().map(|written| written.problem("no").to_string()).collect();
        let place = |rest: &str| format!("{}/a.yaml:{rest}", folder.path().display());
        assert_eq!(
            shown,
            [place("2: document 1 (ScrapeTarget media/a): no"), place("7: document 2 (ScrapeTarget b): no"),]
        );
    }
}
