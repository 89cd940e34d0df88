//! The texts in the options of a kind that may be credentials: masks them where the spec is shown, and lists them to be found elsewhere.

use serde_json::Value;

use super::Options;

/// Replaces every text at and below `paths`, which are written as in [`Options::CONFIDENTIAL`].
pub(super) fn mask<O: Options>(options: Option<&mut O>, paths: &[&str], mask: &str) {
    let Some(options) = options.filter(|_| !paths.is_empty()) else { return };
    // Options that cannot be read again after that are not shown at all.
    *options = serde_json::to_value(&*options)
        .and_then(|mut value| {
            each_at_paths(&mut value, paths, &mut |text| mask.clone_into(text));
            serde_json::from_value(value)
        })
        .unwrap_or_default();
}

/// Every text at and below `paths`.
pub(super) fn texts<O: Options>(options: Option<&O>, paths: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(options) = options.filter(|_| !paths.is_empty())
        && let Ok(mut value) = serde_json::to_value(options)
    {
        each_at_paths(&mut value, paths, &mut |text| found.push(std::mem::take(text)));
    }
    found
}

fn each_at_paths(value: &mut Value, paths: &[&str], found: &mut impl FnMut(&mut String)) {
    for path in paths {
        // The first two steps lead to the block.
        let steps: Vec<&str> = path.split('.').skip(2).collect();
        each_at(value, &steps, found);
    }
}

fn each_at(value: &mut Value, steps: &[&str], found: &mut impl FnMut(&mut String)) {
    let Some((step, rest)) = steps.split_first() else { return each_below(value, found) };
    let name = step.trim_end_matches(['[', ']', '{', '}']);
    let Some(inner) = value.get_mut(name) else { return };
    match inner {
        Value::Array(items) if step.ends_with(']') => items.iter_mut().for_each(|item| each_at(item, rest, found)),
        Value::Object(fields) if step.ends_with('}') => {
            fields.values_mut().for_each(|field| each_at(field, rest, found));
        }
        inner => each_at(inner, rest, found),
    }
}

fn each_below(value: &mut Value, found: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => found(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_below(item, found)),
        Value::Object(fields) => fields.values_mut().for_each(|field| each_below(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
    #[serde(default)]
    struct Dialogue {
        body: Option<String>,
        steps: Vec<Step>,
        metadata: BTreeMap<String, Vec<String>>,
        retries: u8,
    }

    #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
    #[serde(default)]
    struct Step {
        send: String,
        expect: String,
    }

    impl Options for Dialogue {
        const URL_USAGE: &'static str = "";
        const CONFIDENTIAL: &'static [&'static str] =
            &["spec.dialogue.body", "spec.dialogue.steps[].send", "spec.dialogue.metadata", "spec.dialogue.retries"];
    }

    fn masked(value: Value) -> Value {
        let mut options: Dialogue = serde_json::from_value(value).unwrap();
        mask(Some(&mut options), Dialogue::CONFIDENTIAL, "-");
        serde_json::to_value(options).unwrap()
    }

    #[test]
    fn texts_at_and_below_the_places_are_replaced_and_all_others_stay() {
        let written = json!({
            "body": "secret", "retries": 3, "metadata": { "x-key": ["secret", "secret"] },
            "steps": [{ "send": "secret", "expect": "OK" }, { "send": "", "expect": "" }],
        });
        let shown = json!({
            "body": "-", "retries": 3, "metadata": { "x-key": ["-", "-"] },
            "steps": [{ "send": "-", "expect": "OK" }, { "send": "-", "expect": "" }],
        });
        assert_eq!(masked(written), shown);
        assert_eq!(masked(json!({})), json!({ "body": null, "retries": 0, "metadata": {}, "steps": [] }));
        mask::<Dialogue>(None, Dialogue::CONFIDENTIAL, "-");
    }

    #[test]
    fn the_texts_at_and_below_the_places_are_listed() {
        let written =
            json!({ "body": "a", "metadata": { "x-key": ["b", "c"] }, "steps": [{ "send": "d", "expect": "OK" }] });
        let options: Dialogue = serde_json::from_value(written).unwrap();
        assert_eq!(texts(Some(&options), Dialogue::CONFIDENTIAL), ["a", "d", "b", "c"]);
        assert_eq!(texts(Some(&options), &[]), Vec::<String>::new());
    }
}
