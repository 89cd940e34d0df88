//! What users copy must work: example manifests, snippets of the documentation, Prometheus configurations, the proxy for Sora.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::Url;
use scrapetarget_exporter::file;
use scrapetarget_exporter::kind::Blocks;

const PAGES: &[&str] = &["README.md", "docs/kubernetes.md", "docs/operating.md"];

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

/// Checks that manifests have neither a problem nor a note: everything that they refer to is there as well.
fn assert_good(path: &Path, name: &str) {
    let report = file::check(&[path.to_owned()]);
    assert!(report.problems.is_empty() && report.notes.is_empty() && report.targets > 0, "{name}: {report}");
}

#[test]
fn every_example_passes_the_check() {
    for file in folder("deploy/examples") {
        assert_good(&file, &file.display().to_string());
    }
}

#[test]
fn every_manifest_on_a_page_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for page in PAGES {
        for manifest in blocks(&read(page), "yaml").into_iter().filter(|block| block.contains("kind: ScrapeTarget")) {
            let path = folder.path().join("manifest.yaml");
            fs::write(&path, manifest).unwrap();
            assert_good(&path, &format!("{page}: {manifest}"));
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} manifests were found");
}

#[test]
fn every_way_to_reach_a_target_has_an_example() {
    let all: String = folder("deploy/examples").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for field in [
        "type: Sora",
        "type: Orion",
        "source: Agent",
        "source: Prometheus",
        "headers:",
        "secretKeyRef:",
        "basicAuth:",
        "authorization:",
        "type: Bearer",
        "ca:",
        "configMap:",
        "cert:",
        "keySecret:",
        "serverName:",
        "proxyUrl:",
    ] {
        assert!(all.contains(field), "no example has {field}");
    }
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
    let calls = blocks.build("Sora".parse().unwrap(), &url).calls();
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
fn links_between_pages_lead_somewhere() {
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "charts/scrapetarget-exporter/README.md",
        "docs/alerts.md",
        "docs/architecture.md",
        "docs/dashboards.md",
        "docs/gitops.md",
        "docs/kubernetes.md",
        "docs/operating.md",
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
                let text = fs::read_to_string(&path).unwrap();
                let found = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{page} links to {target}, but there is no such heading");
            }
        }
    }
}

/// The anchor that a heading gets: small letters, hyphens for spaces, no punctuation.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
