//! Values as they are written for the charts prometheus-blackbox-exporter and kube-state-metrics, and what becomes of them here. Each file of
//! the folder `adopted` has them as they were `written`, what this chart says of that (`refused`; nothing: it takes them), the same as
//! `values` of this chart, and parts of the objects that are `wanted` of these; `absent` are kinds.

use std::fs;

use serde_json::Value;

use crate::support::chart;

/// The files, by name.
fn files() -> Vec<(String, Value)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/adopted");
    let mut files: Vec<(String, Value)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), chart::parse(&fs::read_to_string(&path).unwrap())[0].clone()))
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(files.len(), 10);
    files
}

/// What `helm template` makes of values.
fn template(values: &Value) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    fs::write(&file, values.to_string()).unwrap();
    chart::template(&["-f", file.to_str().unwrap()])
}

/// Whether all of a value is in another: keys of maps, items of lists in any place.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| contains(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| found.iter().any(|found| contains(found, wanted)))
        }
        _ => found == wanted,
    }
}

fn list<'v>(file: &'v Value, key: &str) -> &'v [Value] {
    file.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[test]
fn what_other_charts_call_otherwise_is_refused_with_the_name_that_it_has_here() {
    for (name, file) in files() {
        let said = template(&file["written"]);
        let refused = list(&file, "refused");
        assert_eq!(said.is_err(), !refused.is_empty(), "{name}: {said:?}");
        for words in refused {
            let said = said.as_ref().unwrap_err();
            assert!(said.contains(words.as_str().unwrap()), "{name}: no {words} in {said}");
        }
    }
}

#[test]
fn translated_they_give_what_was_wanted() {
    for (name, file) in files() {
        let manifests = chart::parse(&template(&file["values"]).unwrap_or_else(|error| panic!("{name}: {error}")));
        let wanted = list(&file, "wanted");
        assert!(!wanted.is_empty(), "{name}");
        for wanted in wanted {
            let same = chart::of_kind(&manifests, wanted["kind"].as_str().unwrap());
            assert!(same.iter().any(|found| contains(found, wanted)), "{name}: no {wanted:#} among {same:#?}");
        }
        for kind in list(&file, "absent") {
            let found = chart::of_kind(&manifests, kind.as_str().unwrap());
            assert_eq!(found, [&Value::Null; 0], "{name}");
        }
    }
}

#[test]
fn every_name_of_another_chart_leads_to_a_value_that_there_is() {
    let schema: Value = serde_json::from_str(&chart::read("values.schema.json")).unwrap();
    let values = &chart::parse(&chart::read("values.yaml"))[0];
    let properties = schema["properties"].as_object().unwrap();
    let names = schema["dependencies"].as_object().unwrap();
    assert!(names.len() > 40);
    for (name, words) in names {
        assert!(!properties.contains_key(name), "{name} is a value itself");
        let words = words[0].as_str().unwrap();
        assert!(words.ends_with(" instead"), "{name}: {words}");
        let first = words.split([' ', ',', ':', ';']).next().unwrap();
        let place = format!("/{}", first.replace('.', "/"));
        // Labels are up to the user.
        let place = place.strip_suffix("/release").unwrap_or(&place);
        assert!(
            words.starts_with("no value: ") || values.pointer(place).is_some(),
            "{name}: there is no value {first}"
        );
    }
}
