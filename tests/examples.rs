//! What users copy must work: example manifests, snippets of the documentation, Prometheus configurations, the proxy for Sora.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

#[path = "support/pages.rs"]
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;
use reqwest::Url;
use scrapetarget_exporter::file;
use scrapetarget_exporter::kind::{Blocks, Engine, Type};
use serde_json::Value;

const PAGES: &[&str] = &[
    "README.md",
    "docs/keyrock.md",
    "docs/kubernetes.md",
    "docs/members.md",
    "docs/oauth2.md",
    "docs/operating.md",
    "docs/probers.md",
    "docs/prometheus.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a folder, in order.
fn folder(path: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(path)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The code blocks of a page in one language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// A manifest with a certificate and its key where it tells the reader to put his: what else stands there is rightly a problem.
fn filled_in(manifest: &str) -> String {
    let ours = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
    let placeholder =
        Regex::new(r"(?m)^( *)-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n *replace me.*\n *-----END .*\n").unwrap();
    let fill = |found: &regex::Captures<'_>| {
        let pem = if &found[2] == "CERTIFICATE" { ours.cert.pem() } else { ours.signing_key.serialize_pem() };
        let indent = &found[1];
        format!("{indent}{}\n", pem.trim_end().replace('\n', &format!("\n{indent}")))
    };
    placeholder.replace_all(manifest, fill).into_owned()
}

/// Objects beside a target with members, which are the cluster's to judge.
const OF_THE_CLUSTER: [&str; 4] =
    ["v1 Service", "apps/v1 Deployment", "apps/v1 StatefulSet", "autoscaling/v2 HorizontalPodAutoscaler"];

/// Checks that manifests have neither a problem nor a note: everything that they refer to is there as well.
fn assert_good(manifest: &str, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.yaml");
    fs::write(&path, filled_in(manifest)).unwrap();
    let mut report = file::check(&file::Inputs::read(&[path]), file::CheckOptions::default());
    let ours = |note: &str| !OF_THE_CLUSTER.iter().any(|kind| note.contains(&format!(": {kind} is ignored")));
    // Services are the cluster's.
    report.notes.retain(|note| ours(&note.to_string()) && note.path != "spec.members.service");
    assert!(report.problems.is_empty() && report.notes.is_empty() && report.targets > 0, "{name}: {report}");
}

#[test]
fn every_example_passes_the_check() {
    for file in folder("deploy/examples") {
        assert_good(&fs::read_to_string(&file).unwrap(), &file.display().to_string());
    }
}

/// The Service that a target names has the port, and selects the pods of the workload beside it.
#[test]
fn the_members_of_every_example_are_pods_of_the_workload_beside_it() {
    let mut seen = 0;
    for file in folder("deploy/examples") {
        let objects = objects(&file);
        let kind = |kinds: &[&str]| -> Vec<&Value> {
            objects.iter().filter(|object| kinds.iter().any(|kind| object["kind"] == **kind)).collect()
        };
        for target in
            kind(&["ScrapeTarget"]).into_iter().filter(|target| target["spec"]["members"]["service"].is_object())
        {
            let url = Url::parse(target["spec"]["url"].as_str().unwrap()).unwrap();
            let [service] = kind(&["Service"])[..] else { panic!("{} has one Service", file.display()) };
            let host = format!(
                "{}.{}.svc",
                service["metadata"]["name"].as_str().unwrap(),
                service["metadata"]["namespace"].as_str().unwrap()
            );
            assert_eq!(url.host_str(), Some(host.as_str()), "{}", file.display());
            assert_eq!(target["metadata"]["namespace"], service["metadata"]["namespace"]);
            assert_eq!(service["spec"]["ports"][0]["port"], url.port().unwrap());
            let [workload] = kind(&["Deployment", "StatefulSet"])[..] else {
                panic!("{} has one workload", file.display())
            };
            let pod = &workload["spec"]["template"];
            assert_eq!(service["spec"]["selector"], workload["spec"]["selector"]["matchLabels"]);
            assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
            let ports = pod["spec"]["containers"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|container| container["ports"].as_array().unwrap());
            let opened = ports.filter(|port| port["containerPort"] == url.port().unwrap()).count();
            assert_eq!(opened, 1, "{}: a pod listens on it", file.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn every_manifest_on_a_page_passes_the_check() {
    let mut seen = 0;
    for page in PAGES {
        for manifest in blocks(&read(page), "yaml").into_iter().filter(|block| block.contains("kind: ScrapeTarget")) {
            assert_good(manifest, &format!("{page}: {manifest}"));
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} manifests were found");
}

#[test]
fn every_kind_and_every_source_has_an_example() {
    let all: String = folder("deploy/examples").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let types = Type::ALL.iter().map(|kind| format!("type: {kind}"));
    for line in types.chain(["source: Agent", "source: Prometheus"].map(ToOwned::to_owned)) {
        assert!(all.contains(&line), "no example has {line}");
    }
}

/// By the name of the target and a word of what is said about it.
#[test]
fn every_system_that_is_promised_has_an_example() {
    for (file, systems) in [
        (
            "prometheus.yaml",
            &[
                ("node-1", "node_exporter"),
                ("processes-node-1", "process-exporter"),
                ("kube-state-metrics", "kube-state-metrics"),
                ("elasticsearch", "elasticsearch_exporter"),
                ("nginx", "nginx-prometheus-exporter"),
                ("apache", "apache_exporter"),
                ("mysql", "mysqld_exporter"),
                ("postgres", "postgres_exporter"),
                ("oracledb", "oracledb_exporter"),
                ("redis-sessions", "redis_exporter"),
                ("gateway", "linux-tiny-exporter"),
                ("blackbox-page", "blackbox exporter"),
            ][..],
        ),
        ("turn-servers.yaml", &[("coturn", "coturn"), ("pion", "pion/turn"), ("node-turn", "node-turn")][..]),
    ] {
        let text = read(&format!("deploy/examples/{file}"));
        for (name, word) in systems {
            let of_target = |document: &&str| document.contains(&format!("metadata: {{ name: {name}, "));
            let document = text.split("\n---\n").filter(|part| part.contains("kind: ScrapeTarget")).find(of_target);
            let document = document.unwrap_or_else(|| panic!("{file} has no {name}"));
            let comment = document.lines().take_while(|line| line.starts_with('#')).collect::<String>();
            assert!(comment.contains(word), "{file}: {name} does not say what {word} needs: {comment}");
        }
    }
}

/// Fields of the CRD, by the fields that they stand among and their own name, each with the first place where it stands. What is the
/// same in several places, as a reference to a Secret is, needs one example.
type Fields = BTreeMap<(String, String), String>;

/// Adds the fields below a part of the schema.
fn add_fields(schema: &Value, place: &str, found: &mut Fields) {
    let schema = schema.get("items").unwrap_or(schema);
    let siblings = &schema["properties"];
    for (name, inner) in siblings.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        found.entry((siblings.to_string(), name.clone())).or_insert_with(|| place.clone());
        add_fields(inner, &place, found);
    }
}

/// Takes away the fields that a value sets.
fn remove_fields(schema: &Value, value: &Value, left: &mut Fields) {
    for value in value.as_array().into_iter().flatten() {
        remove_fields(&schema["items"], value, left);
    }
    let siblings = &schema["properties"];
    for (name, inner) in siblings.as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            left.remove(&(siblings.to_string(), name.clone()));
            remove_fields(inner, value, left);
        }
    }
}

/// An example with the fields that it only shows, in comments: no reader could leave them as they are.
fn with_commented_fields(example: &str) -> String {
    let field = Regex::new(r"(?m)^( +)# ([a-z][A-Za-z]+: \S)").unwrap();
    field.replace_all(example, "$1$2").into_owned()
}

#[test]
fn no_example_is_down_because_the_pod_of_the_reader_lacks_an_address() {
    for file in folder("deploy/examples") {
        let text = fs::read_to_string(&file).unwrap();
        for document in file::documents(&text) {
            let spec =
                &document.value().unwrap_or_else(|error| panic!("{}: {}", file.display(), error.message))["spec"];
            assert_eq!(spec["sourceIpAddress"], Value::Null, "{}", file.display());
            assert_ne!(spec["preferredIpProtocol"], "ip6", "{}", file.display());
        }
    }
}

#[test]
fn every_field_of_a_target_has_an_example() {
    let text = read("crds/scrapetargets.yaml");
    let crd = file::documents(&text).next().unwrap().value().unwrap_or_else(|error| panic!("{}", error.message));
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
    let mut left = Fields::new();
    add_fields(schema, "spec", &mut left);
    assert!(left.len() > 50, "{left:?}");
    for file in folder("deploy/examples") {
        let text = with_commented_fields(&fs::read_to_string(&file).unwrap());
        for document in file::documents(&text) {
            let manifest = document.value().unwrap_or_else(|error| panic!("{}: {}", file.display(), error.message));
            if manifest["kind"] == "ScrapeTarget" {
                remove_fields(schema, &manifest["spec"], &mut left);
            }
        }
    }
    let missing: BTreeSet<_> = left.values().collect();
    assert!(missing.is_empty(), "no example has {missing:#?}");
}

#[test]
fn promtool_takes_the_prometheus_configurations() {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    for file in folder("deploy/prometheus") {
        let output = Command::new(&promtool).args(["check", "config"]).arg(&file).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{promtool} is needed ({error}): run `make tools`, then this test by `make unit`")
        });
        let report = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{report}");
    }
}

#[test]
fn the_readme_shows_the_files_that_are_tested() {
    let readme = read("README.md");
    for (language, file) in [
        ("yaml", "deploy/prometheus/http-sd.yml"),
        ("yaml", "deploy/prometheus/static.yml"),
        ("nginx", "deploy/nginx/sora-read-only.conf"),
    ] {
        assert!(blocks(&readme, language).contains(&read(file).as_str()), "README.md does not show {file} as it is");
    }
}

#[test]
fn the_proxy_lets_exactly_our_calls_to_sora_through() {
    let options = serde_json::json!({ "sora": { "clusterMetrics": true, "serverMode": true } });
    let blocks: Blocks = serde_json::from_value(options).unwrap();
    let url = Url::parse("http://sora.example.com:3001/").unwrap();
    let Ok(Engine::Calls(build)) = blocks.engine("Sora".parse().unwrap(), &url) else { panic!("it is not polled") };
    let calls = build().calls(None);
    let ours: BTreeSet<String> = calls.into_iter().map(|call| call.headers[0].1.clone()).collect();
    let conf = read("deploy/nginx/sora-read-only.conf");
    let allowed = conf.lines().map(str::trim).filter(|line| line.starts_with("Sora_"));
    let allowed: BTreeSet<String> = allowed
        .map(|line| {
            let (from, to) = line.trim_end_matches(';').split_once(' ').unwrap();
            assert_eq!(from, to.trim(), "one name is turned into another");
            from.to_owned()
        })
        .collect();
    assert_eq!(allowed, ours);
}

#[test]
fn every_limit_on_the_page_of_probes_names_a_test_that_is_there() {
    let page = read("docs/probers.md");
    let (_, limits) = page.split_once("## Limits for tenants").unwrap();
    let limits: Vec<&str> = limits.lines().filter(|line| line.starts_with('|')).collect();
    let limits = limits.join("\n");
    let named = limits.split('`').skip(1).step_by(2).filter(|word| word.contains('_') && !word.contains('/'));
    let named: BTreeSet<&str> = named.collect();
    let code = sources(&root().join("tests")) + &sources(&root().join("src"));
    let missing: Vec<_> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty() && named.len() > 5, "{missing:?}");
    for row in limits.lines().skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
}

/// Every file below `folder` that ends in `.rs`, joined.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn the_page_of_promises_names_every_attack_and_no_test_that_is_not_there() {
    let page = read("docs/security.md");
    let (_, tests) = page.split_once("## How the promises are tested").unwrap();
    let named = tests.split('`').skip(1).step_by(2).filter(|word| word.contains('_') && !word.contains('/'));
    let named: BTreeSet<&str> = named.collect();
    let code = sources(&root().join("tests")) + &sources(&root().join("src"));
    let missing: Vec<_> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty() && named.len() > 20, "{missing:?}");
    // What each module of the attacks is about stands on the page by one of its tests at least.
    for file in folder("tests/security").into_iter().filter(|file| !file.ends_with("main.rs")) {
        let module = fs::read_to_string(&file).unwrap();
        assert!(named.iter().any(|name| module.contains(&format!("fn {name}("))), "{} is not told of", file.display());
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    for page in [
        "README.md",
        "README.ja.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "charts/scrapetarget-exporter/README.md",
        "docs/alerts.md",
        "docs/architecture.md",
        "docs/dashboards.md",
        "docs/gitops.md",
        "docs/image.md",
        "docs/kubernetes.md",
        "docs/members.md",
        "docs/operating.md",
        "docs/probers.md",
        "docs/publishing.md",
        "docs/security.md",
    ] {
        let text = read(page);
        let folder = root().join(page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            if target.starts_with("http") {
                continue;
            }
            let path = if file.is_empty() { root().join(page) } else { folder.join(file) };
            assert!(path.exists(), "{page} links to {target}");
            if !heading.is_empty() {
                let anchors = pages::anchors(&fs::read_to_string(&path).unwrap());
                assert!(anchors.iter().any(|anchor| anchor == heading), "{page} links to {target}: no such heading");
            }
        }
    }
}

#[test]
fn simulated_servers_run_in_the_image_that_the_chart_asks_for() {
    let image = format!("ghcr.io/scrapetarget/scrapetarget-exporter:{}", env!("CARGO_PKG_VERSION"));
    let servers = read("deploy/simulated/servers.yaml");
    let images: Vec<&str> = servers.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    assert!(images.len() == 4 && images.iter().all(|found| *found == image), "{images:?} instead of {image}");
    assert!(
        read("charts/scrapetarget-exporter/Chart.yaml")
            .contains(&format!("appVersion: \"{}\"", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn every_simulated_server_has_a_target() {
    let folder = root().join("deploy/simulated");
    assert_good_targets(&folder, 6);
    let (servers, targets) = (read("deploy/simulated/servers.yaml"), read("deploy/simulated/targets.yaml"));
    for url in targets.lines().filter_map(|line| line.trim().strip_prefix("url: http://")) {
        let (name, rest) = url.split_once('.').unwrap();
        let (namespace, port) = rest.trim_end_matches('/').split_once(".svc:").unwrap();
        assert!(
            servers.contains(&format!("kind: Service\nmetadata: {{ name: {name}, namespace: {namespace} }}\n")),
            "{url}"
        );
        assert!(servers.contains(&format!("port: {port} }}")), "{url}");
    }
}

/// Checks that a folder has so many targets, no problem, and nothing that is missing.
fn assert_good_targets(folder: &Path, targets: usize) {
    let options = file::CheckOptions { secrets: None, all_references: true };
    let report = file::check(&file::Inputs::read(&[folder.to_owned()]), options);
    assert!(report.problems.is_empty() && report.targets == targets, "{report}");
}

/// Files of ours that people read, below some folders: pages, manifests with their comments, and the notes of the chart.
fn told_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            told_files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|end| ["md", "yaml", "yml", "txt", "tpl"].iter().any(|told| end == *told)) {
        found.push(path.to_owned());
    }
}

/// The words behind `kubectl` wherever a text tells somebody to type it, or names it. Of a pipe, each command is one.
fn kubectl_commands(text: &str) -> Vec<Vec<String>> {
    static TYPED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bkubectl ([^`|;&\n]+)").unwrap());
    let text = text.replace("\\\n", " ");
    let owned =
        |words: &str| words.split_whitespace().map(|word| word.trim_end_matches([',', '.']).to_owned()).collect();
    TYPED.captures_iter(&text).map(|typed| owned(&typed[1])).collect()
}

/// The objects of a file or of a folder.
fn objects(path: &Path) -> Vec<Value> {
    let mut files = Vec::new();
    told_files(path, &mut files);
    assert!(!files.is_empty(), "{} has no manifest", path.display());
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let documents = texts.iter().flat_map(|text| file::documents(text));
    documents.map(|document| document.value().unwrap_or_else(|error| panic!("{}", error.message))).collect()
}

/// Where an object stands: of a Namespace, itself.
fn namespace(object: &Value) -> Option<String> {
    let name = if object["kind"] == "Namespace" { "name" } else { "namespace" };
    object["metadata"][name].as_str().map(ToOwned::to_owned)
}

/// Namespaces in which our pages and examples have their readers put something, but for those of the simulated servers.
fn namespaces_of_readers(pages: &[PathBuf]) -> BTreeSet<String> {
    let examples = objects(&root().join("deploy/examples"));
    let mut found: BTreeSet<String> = examples.iter().filter_map(namespace).collect();
    for page in pages {
        let text = fs::read_to_string(page).unwrap();
        for manifest in blocks(&text, "yaml").into_iter().filter(|block| block.contains("apiVersion:")) {
            let values = file::documents(manifest).filter_map(|document| document.value().ok());
            found.extend(values.filter_map(|object| namespace(&object)));
        }
        for words in kubectl_commands(&text) {
            if let ["create", "namespace", name, ..] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn no_page_asks_through_a_forwarded_port_before_it_is_there() {
    let mut pages = Vec::new();
    for place in ["README.md", "README.ja.md", "docs", "deploy", "charts"] {
        told_files(&root().join(place), &mut pages);
    }
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for line in text.lines().filter(|line| line.contains("kubectl port-forward")) {
            assert!(
                !line.trim_end().ends_with('&'),
                "{}: what comes next does not wait for it: {line}",
                page.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn no_page_deletes_a_namespace_or_a_target_that_it_did_not_make() {
    let mut pages = Vec::new();
    let places = ["README.md", "README.ja.md", "CONTRIBUTING.md", "docs", "deploy", "charts"];
    for place in places {
        told_files(&root().join(place), &mut pages);
    }
    let readers = namespaces_of_readers(&pages);
    assert!(["webrtc", "fiware", "school", "prometheus"].iter().all(|name| readers.contains(*name)), "{readers:?}");
    let mut files = 0;
    for page in &pages {
        for words in kubectl_commands(&fs::read_to_string(page).unwrap()) {
            let told = format!("{}: kubectl {}", page.display(), words.join(" "));
            let mut rest = words.iter().skip_while(|word| *word != "delete").skip(1).map(String::as_str).peekable();
            let mut kinds = None;
            while let Some(word) = rest.next() {
                match word {
                    "-f" | "--filename" => {
                        // A name alone is a mention, of a file that stands beside it.
                        let Some(path) = rest.next_if(|path| path.contains('/')) else { continue };
                        assert_deletes_only_its_own(&objects(&root().join(path)), &readers, &told);
                        files += 1;
                    }
                    "-n" | "--namespace" | "-l" | "--selector" => drop(rest.next()),
                    flag if flag.starts_with('-') => {}
                    word => drop(kinds.get_or_insert(word)),
                }
            }
            for kind in kinds.unwrap_or_default().split(',').map(|kind| kind.split('/').next().unwrap()) {
                let spared = ["namespace", "namespaces", "ns", "scrapetarget", "scrapetargets", "st"];
                assert!(!spared.contains(&kind), "{told}");
            }
        }
    }
    assert!(files >= 3, "{files} deletions of files were found");
}

/// Checks that a file whose objects a page deletes takes nothing with it that a reader has put beside them.
fn assert_deletes_only_its_own(objects: &[Value], readers: &BTreeSet<String>, told: &str) {
    let made: BTreeSet<String> =
        objects.iter().filter(|object| object["kind"] == "Namespace").filter_map(namespace).collect();
    for name in &made {
        assert!(name.starts_with("simulated-"), "{told}: others may have a namespace {name}");
        assert!(!readers.contains(name), "{told}: a page has its readers put something into {name}");
    }
    for object in objects {
        let kind = &object["kind"];
        let namespace = namespace(object).unwrap_or_else(|| panic!("{told}: {kind} is of the whole cluster"));
        assert!(made.contains(&namespace), "{told}: {kind} stands in {namespace}, which is not its own");
    }
}
