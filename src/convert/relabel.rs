//! Relabeling as Prometheus does it, on a target whose labels are all known: what users write is not recognized but carried out.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::block::{Block, BlockField};
use super::report::{Reporter, quoted};
use crate::kind::re2::{PatternProblem, rewrite};
use crate::yaml::Node;

/// The labels of a target, or of a series.
pub(super) type Labels = BTreeMap<String, String>;

/// The longest result of a replacement: more than any address or URL has.
const LONGEST_VALUE: usize = 16 << 10;

/// The memory of a compiled expression.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// One step.
#[derive(Clone, Debug)]
pub(super) struct RelabelStep {
    pub(super) source_labels: Vec<String>,
    separator: String,
    pub(super) regex: String,
    compiled: Regex,
    modulus: Option<i64>,
    pub(super) target_label: String,
    pub(super) replacement: String,
    pub(super) action: String,
    pub(super) line: usize,
    pub(super) path: String,
    /// Whether it has a regular expression or a replacement of its own.
    is_default: (bool, bool),
}

/// How the names of the fields are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `source_labels`, in a configuration of Prometheus.
    Snake,
    /// `sourceLabels`, in an object of the Operator.
    Camel,
}

impl Spelling {
    pub(super) const fn of(self, snake: &'static str, camel: &'static str) -> &'static str {
        match self {
            Self::Snake => snake,
            Self::Camel => camel,
        }
    }
}

/// The steps of a list. `None` if one of them cannot be carried out, which has been said; a wrong one is a fault.
pub(super) fn steps(
    items: Vec<BlockField<'_, ()>>,
    spelling: Spelling,
    reporter: &mut Reporter,
) -> Option<Vec<RelabelStep>> {
    let mut steps = Vec::new();
    let mut whole = true;
    for item in items {
        match step(item.node, &item.path, spelling, reporter) {
            Some(step) => steps.push(step),
            None => whole = false,
        }
    }
    whole.then_some(steps)
}

fn step(node: &Node, path: &str, spelling: Spelling, reporter: &mut Reporter) -> Option<RelabelStep> {
    let mut block = Block::open(node, path, reporter)?;
    let source_labels = block.texts(spelling.of("source_labels", "sourceLabels"), reporter);
    let separator = block.text("separator", reporter);
    let regex = block.text("regex", reporter);
    let modulus = block.integer("modulus", reporter);
    let target_label = block.filled(spelling.of("target_label", "targetLabel"), reporter);
    let replacement = block.text("replacement", reporter);
    let action = block.filled("action", reporter);
    let line = block.line;
    block.close(reporter);
    let action_name = action.as_ref().map_or_else(|| "replace".to_owned(), |action| action.value.to_lowercase());
    let target_label = target_label.map(|label| label.value).unwrap_or_default();
    match action_name.as_str() {
        "replace" | "lowercase" | "uppercase" | "keepequal" | "dropequal" | "hashmod" if target_label.is_empty() => {
            reporter.fault(
                line,
                path,
                format!(
                    "the action {action_name} needs the label that it is about, write {}",
                    spelling.of("target_label", "targetLabel")
                ),
            );
            return None;
        }
        "hashmod" => {
            reporter.remark(
                line,
                path,
                "hashmod shares targets among several Prometheus servers, and is not carried out here: remove it, and the step that \
                 keeps a share, and convert again",
            );
            return None;
        }
        "keep" | "drop" | "labelmap" | "labeldrop" | "labelkeep" | "replace" | "lowercase" | "uppercase"
        | "keepequal" | "dropequal" => {}
        _ => {
            let shown = action.map(|action| quoted(&action.value)).unwrap_or_default();
            reporter.fault(line, path, format!("{shown} is no action of a relabeling, write for instance replace"));
            return None;
        }
    }
    let (has_regex, has_replacement) = (regex.is_some(), replacement.is_some());
    let written = regex.map_or_else(|| "(.*)".to_owned(), |regex| regex.value);
    let compiled = match rewrite(&written) {
        Ok(common) => RegexBuilder::new(&format!("^(?s:{common})$")).size_limit(MAX_REGEX_BYTES).build().ok(),
        Err(PatternProblem::Invalid(why)) => {
            reporter.fault(line, path, format!("regex is no regular expression of RE2: {why}"));
            return None;
        }
        Err(PatternProblem::GoOnly(why)) => {
            reporter.remark(line, path, format!("regex cannot be carried out: {why}"));
            return None;
        }
    };
    let Some(compiled) = compiled else {
        reporter.remark(line, path, "regex is too large to be carried out: write a smaller one");
        return None;
    };
    Some(RelabelStep {
        source_labels: source_labels.into_iter().map(|label| label.value).collect(),
        separator: separator.map_or_else(|| ";".to_owned(), |separator| separator.value),
        regex: written,
        compiled,
        modulus: modulus.map(|modulus| modulus.value),
        target_label,
        replacement: replacement.map_or_else(|| "$1".to_owned(), |replacement| replacement.value),
        action: action_name,
        line,
        path: path.to_owned(),
        is_default: (!has_regex, !has_replacement),
    })
}

impl RelabelStep {
    /// Changes `labels`. False: the target is dropped.
    pub(super) fn apply(&self, labels: &mut Labels) -> bool {
        let value = |label: &str| labels.get(label).map(String::as_str).unwrap_or_default();
        let joined = self.source_labels.iter().map(|label| value(label)).collect::<Vec<_>>().join(&self.separator);
        match self.action.as_str() {
            "keep" => return self.compiled.is_match(&joined),
            "drop" => return !self.compiled.is_match(&joined),
            "keepequal" => return value(&self.target_label) == joined,
            "dropequal" => return value(&self.target_label) != joined,
            "lowercase" => set(labels, &self.target_label, joined.to_lowercase()),
            "uppercase" => set(labels, &self.target_label, joined.to_uppercase()),
            "labeldrop" => labels.retain(|label, _| !self.compiled.is_match(label)),
            "labelkeep" => labels.retain(|label, _| self.compiled.is_match(label)),
            "labelmap" => {
                let mapped: Vec<(String, String)> = labels
                    .iter()
                    .filter(|(label, _)| self.compiled.is_match(label))
                    .map(|(label, value)| (self.compiled.replace(label, &self.replacement).into_owned(), value.clone()))
                    .collect();
                for (label, value) in mapped {
                    set(labels, &label, value);
                }
            }
            _ => {
                let Some(found) = self.compiled.captures(&joined) else { return true };
                let (mut label, mut value) = (String::new(), String::new());
                found.expand(&self.target_label, &mut label);
                found.expand(&self.replacement, &mut value);
                if is_label_name(&label) {
                    set(labels, &label, value);
                }
            }
        }
        true
    }

    /// The label and the value that the step gives to every series, whatever series it is.
    pub(super) fn constant(&self) -> Option<(&str, &str)> {
        let is_constant = self.action == "replace" && self.is_default.0 && !self.replacement.contains('$');
        is_constant.then_some((self.target_label.as_str(), self.replacement.as_str()))
    }

    /// The step as a field of a ScrapeTarget.
    pub(super) fn manifest(&self) -> Value {
        let mut fields = serde_json::Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        if !self.source_labels.is_empty() {
            put("sourceLabels", json!(self.source_labels));
        }
        if self.separator != ";" {
            put("separator", json!(self.separator));
        }
        if !self.target_label.is_empty() {
            put("targetLabel", json!(self.target_label));
        }
        if !self.is_default.0 {
            put("regex", json!(self.regex));
        }
        if let Some(modulus) = self.modulus {
            put("modulus", json!(modulus));
        }
        if !self.is_default.1 {
            put("replacement", json!(self.replacement));
        }
        if self.action != "replace" {
            put("action", json!(self.action));
        }
        Value::Object(fields)
    }
}

fn set(labels: &mut Labels, label: &str, value: String) {
    if value.is_empty() || value.len() > LONGEST_VALUE {
        labels.remove(label);
    } else {
        labels.insert(label.to_owned(), value);
    }
}

pub(super) fn is_label_name(label: &str) -> bool {
    let mut letters = label.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::document::documents;

    fn run(text: &str, labels: &[(&str, &str)]) -> Option<Labels> {
        let node = documents(text).unwrap().remove(0);
        let mut reporter = Reporter::new("x");
        let items = node.items().iter().map(|node| BlockField { value: (), node, path: "r".to_owned() }).collect();
        let steps = steps(items, Spelling::Snake, &mut reporter).unwrap_or_else(|| panic!("{reporter:?}"));
        let mut labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        steps.iter().all(|step| step.apply(&mut labels)).then_some(labels)
    }

    #[test]
    fn what_every_user_of_the_blackbox_exporter_writes_is_carried_out() {
        let labels = run(
            "- source_labels: [__address__]\n  target_label: __param_target\n- source_labels: [__param_target]\n  target_label: \
             instance\n- target_label: __address__\n  replacement: 127.0.0.1:9115\n",
            &[("__address__", "https://example.com")],
        )
        .unwrap();
        assert_eq!(labels["__param_target"], "https://example.com");
        assert_eq!(labels["instance"], "https://example.com");
        assert_eq!(labels["__address__"], "127.0.0.1:9115");
    }

    #[test]
    fn actions_do_what_those_of_prometheus_do() {
        let labels = [("a", "x;y"), ("b", "Up"), ("meta_c", "1")];
        let one = |text: &str| run(text, &labels);
        let replaced = one(
            "- {source_labels: [a, b], separator: '-', regex: '(.);(.)-(.*)', target_label: d, replacement: '${2}_$3'}\n",
        );
        assert_eq!(replaced.unwrap()["d"], "y_Up");
        assert!(!one("- {source_labels: [a], regex: nothing, target_label: d}\n").unwrap().contains_key("d"));
        assert!(!one("- {target_label: b, replacement: ''}\n").unwrap().contains_key("b"), "an empty value removes");
        assert!(one("- {source_labels: [b], regex: U, action: keep}\n").is_none(), "anchored");
        assert!(one("- {source_labels: [b], regex: Up, action: drop}\n").is_none());
        assert_eq!(one("- {source_labels: [b], target_label: b, action: lowercase}\n").unwrap()["b"], "up");
        assert_eq!(one("- {regex: meta_(.*), action: labelmap}\n").unwrap()["c"], "1");
        assert!(!one("- {regex: meta_.*, action: labeldrop}\n").unwrap().contains_key("meta_c"));
        assert_eq!(one("- {regex: b, action: labelkeep}\n").unwrap().len(), 1);
        assert!(one("- {source_labels: [b], target_label: a, action: keepequal}\n").is_none());
        assert!(one("- {source_labels: [b], target_label: b, action: dropequal}\n").is_none());
    }

    #[test]
    fn wrong_steps_are_faults_and_shares_are_named() {
        for (text, fault) in [
            ("- {action: replace}\n", true),
            ("- {action: replicate, target_label: a}\n", true),
            ("- {target_label: a, regex: '('}\n", true),
            ("- {target_labels: a}\n", true),
            ("- {source_labels: [a], target_label: b, modulus: 2, action: hashmod}\n", false),
        ] {
            let node = documents(text).unwrap().remove(0);
            let mut reporter = Reporter::new("x");
            let items = node.items().iter().map(|node| BlockField { value: (), node, path: "r".to_owned() }).collect();
            assert!(steps(items, Spelling::Snake, &mut reporter).is_none(), "{text}");
            assert_eq!(
                (!reporter.faults.is_empty(), !reporter.remarks.is_empty()),
                (fault, !fault),
                "{text}: {reporter:?}"
            );
        }
    }
}
