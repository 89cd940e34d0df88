//! What is made of the chart or for it, and must not drift: `make generate` renews it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use scrapetarget_exporter::crd;
use serde_json::{Map, Value};

use crate::support::chart;

/// Compares a file with what it should be; with `UPDATE_DOCS=1` writes it first.
fn assert_current(path: &Path, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "{} has drifted: run `make generate`", path.display());
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// One value: its place, its default, and what its comment says.
struct Row {
    place: String,
    default: String,
    text: String,
}

/// Reads the comments of values.yaml. A map whose keys have comments of their own is no row.
fn rows() -> Vec<Row> {
    let text = chart::read("values.yaml");
    let values = &chart::parse(&text)[0];
    let mut rows: Vec<Row> = Vec::new();
    // The keys that lead to the line, each with its indentation.
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut comment: Option<String> = None;
    // Below a value that is a map as a whole.
    let mut inside: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(words) = line.strip_prefix("# -- ") {
            comment = Some(words.to_owned());
            continue;
        }
        if let Some(words) = line.strip_prefix("# ") {
            if let Some(comment) = &mut comment {
                let _ = write!(comment, " {words}");
            }
            continue;
        }
        let Some((key, rest)) = line.split_once(':').filter(|_| !line.starts_with('-')) else { continue };
        if inside.is_some_and(|depth| indent > depth) {
            assert!(comment.is_none(), "{line}: the comment of the map above tells of the whole");
            continue;
        }
        inside = None;
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, key));
        let place: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
        let value = place.iter().fold(values, |value, key| &value[*key]);
        let text = comment.take();
        if rest.trim().is_empty() && value.is_object() && text.is_none() {
            continue;
        }
        let text = text.unwrap_or_else(|| panic!("{} has no comment", place.join(".")));
        if value.is_object() {
            inside = Some(indent);
        }
        rows.push(Row { place: place.join("."), default: value.to_string(), text });
    }
    rows
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from("| value | default | description |\n|---|---|---|\n");
    for Row { place, default, text } in rows {
        let _ = writeln!(out, "| `{place}` | `{}` | {} |", default.replace('|', "\\|"), text.replace('|', "\\|"));
    }
    out
}

#[test]
fn the_readme_has_every_value_with_its_default_and_its_comment() {
    let rows = rows();
    assert!(rows.len() > 100, "only {} values", rows.len());
    let ends = rows.iter().filter(|row| row.text.ends_with('.')).map(|row| row.place.as_str());
    assert_eq!(ends.collect::<Vec<_>>(), [""; 0], "a comment ends without a full stop");
    let path = chart::folder().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once("<!-- values: begin -->\n").expect("the mark where the table begins");
    let (_, after) = rest.split_once("<!-- values: end -->").expect("the mark where the table ends");
    let expected = format!("{before}<!-- values: begin -->\n{}<!-- values: end -->{after}", table(&rows));
    assert_current(&path, &expected);
}

#[test]
fn the_agent_of_the_chart_is_that_of_the_repository_and_reaches_a_pod_unchanged() {
    let agent = fs::read_to_string(repository("deploy/mediasoup-agent/agent.js")).unwrap();
    assert_current(&chart::folder().join("files/mediasoup-agent.js"), &agent);
    let namespaces = "mediasoupAgent.configMap.namespaces={rooms,studio}";
    let rendered = chart::render(&["--set", "mediasoupAgent.configMap.enabled=true", "--set", namespaces]);
    let maps = chart::of_kind(&rendered, "ConfigMap");
    let maps: Vec<_> = maps.iter().filter(|map| map["metadata"]["name"] == "mediasoup-agent").collect();
    let found: Vec<_> = maps.iter().map(|map| map["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(found, ["rooms", "studio"]);
    assert!(maps.iter().all(|map| map["data"]["agent.js"] == agent.as_str()));
    // Without it, the applications that load it would not start.
    assert!(maps.iter().all(|map| map["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"));
}

#[test]
fn the_crd_of_the_chart_is_that_of_the_program() {
    let printed = crd::print().unwrap();
    assert_current(&chart::folder().join("files/crds/scrapetargets.yaml"), &printed);
    let rendered = chart::render(&[""; 0]);
    let mut rendered = chart::of_kind(&rendered, "CustomResourceDefinition")[0].clone();
    let metadata = rendered["metadata"].as_object_mut().unwrap();
    let annotations = metadata.remove("annotations").unwrap();
    assert_eq!(annotations["helm.sh/resource-policy"], "keep");
    metadata.remove("labels").unwrap();
    assert_eq!(rendered, chart::parse(&printed)[0]);
}

/// A part of the CRD's schema as JSON Schema has it: what Kubernetes alone knows is left out, and what the API server would drop in
/// silence is refused.
fn json_schema(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut found = Map::new();
    for (key, value) in fields {
        let value = match (key.as_str(), value) {
            ("description" | "default" | "format", _) => continue,
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(name, schema)| (name.clone(), json_schema(schema))).collect()
            }
            ("items" | "additionalProperties", schema) => json_schema(schema),
            (key, _) if key.starts_with("x-kubernetes-") => continue,
            (_, value) => value.clone(),
        };
        found.insert(key.clone(), value);
    }
    if found.contains_key("properties") && !found.contains_key("additionalProperties") {
        found.insert("additionalProperties".to_owned(), false.into());
    }
    Value::Object(found)
}

#[test]
fn the_values_know_what_the_spec_of_a_target_is() {
    const MARK: &str = "    \"scrapeTargetSpec\": ";
    let path = chart::folder().join("values.schema.json");
    let text = fs::read_to_string(&path).unwrap();
    let (before, _) = text.split_once(MARK).expect("it is the last definition");
    let spec = json_schema(&crd::openapi()["properties"]["spec"]);
    let spec = serde_json::to_string_pretty(&spec).unwrap().replace('\n', "\n    ");
    assert_current(&path, &format!("{before}{MARK}{spec}\n  }}\n}}\n"));
}

#[test]
fn the_crd_can_be_left_out_and_need_not_be_kept() {
    let kinds = |set: &str| {
        let manifests = chart::render(&["--set", set]);
        chart::of_kind(&manifests, "CustomResourceDefinition").into_iter().cloned().collect::<Vec<Value>>()
    };
    assert_eq!(kinds("crds.enabled=false").len(), 0);
    assert_eq!(kinds("crds.keep=false")[0]["metadata"].get("annotations"), None);
    let annotations = &kinds("crds.annotations.a=b")[0]["metadata"]["annotations"];
    assert_eq!((&annotations["a"], &annotations["helm.sh/resource-policy"]), (&"b".into(), &"keep".into()));
}

/// The first lines of the manifests for people without Helm.
const PLAIN: &str = "\
# scrapetarget-exporter for a cluster without Helm, in the namespace prometheus. Generated from charts/scrapetarget-exporter by
# `make generate`. First `kubectl create namespace prometheus`, then `kubectl apply --server-side -f` this file.
#
# Write the label that your Prometheus selects as one more of the Deployment's `args`: --discovery.monitor-label=KEY=VALUE
";

#[test]
fn the_manifests_for_people_without_helm_are_what_the_chart_renders() {
    let rendered = chart::template(&["--no-hooks"]).unwrap();
    let of_helm = |line: &&str| {
        ["helm.sh/", "app.kubernetes.io/managed-by: Helm", "# Source: "]
            .iter()
            .all(|mark| !line.trim().starts_with(mark))
    };
    let lines: Vec<&str> = rendered.lines().filter(of_helm).collect();
    // The policy of the CRD was the only one of its annotations.
    let text =
        format!("{PLAIN}{}\n", lines.join("\n")).replace("  annotations:\nspec:", "spec:").replace("\n\n---", "\n---");
    let documents = chart::parse(&text);
    assert_eq!(documents.len(), chart::parse(&rendered).len());
    assert!(!text.contains("Helm:") && !text.contains("helm.sh"), "a trace of Helm");
    assert_current(&repository("deploy/scrapetarget-exporter.yaml"), &text);
}

#[test]
fn every_case_is_rendered_twice_the_same() {
    for (name, file) in chart::cases() {
        let [first, second] = [(); 2].map(|()| chart::template(&["-f", file.as_str()]).unwrap());
        assert!(first == second, "{name}");
    }
}

#[test]
fn the_version_of_the_chart_is_the_version_of_the_program() {
    let about = &chart::parse(&chart::read("Chart.yaml"))[0];
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    let images = about["annotations"]["artifacthub.io/images"].as_str().unwrap();
    let manifests = chart::render(&[""; 0]);
    let image =
        &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"]["containers"][0]["image"];
    assert!(images.contains(image.as_str().unwrap()), "{images}");
}
