//! The direction in which modules know each other: the tree of `src/` tells the data's way, and this keeps it true.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and the modules it may name. What is not here must be added here on purpose.
const ALLOWED: &[(&str, &[&str])] = &[
    ("metric", &[]),
    ("backoff", &[]),
    ("self_metrics", &["metric"]),
    ("failure", &[]),
    ("rule", &[]),
    ("budget", &["failure"]),
    ("stun", &[]),
    ("dial", &["error_chain", "failure", "host_pattern", "tls"]),
    ("oauth2", &["dial", "failure"]),
    ("kind", &["budget", "dial", "failure", "metric", "rule", "stun", "time", "tls"]),
    ("time", &[]),
    ("tls", &[]),
    ("yaml", &[]),
    ("host_pattern", &[]),
    ("error_chain", &[]),
    ("fetch", &["budget", "dial", "error_chain", "failure", "kind", "oauth2", "tls"]),
    ("crd", &["kind", "metric", "rule", "time", "yaml"]),
    ("convert", &["crd", "dial", "kind", "time", "yaml"]),
    ("target", &["crd", "dial", "kind", "metric", "oauth2", "yaml"]),
    ("file", &["crd", "kind", "self_metrics", "target", "yaml"]),
    (
        "poll",
        &[
            "backoff",
            "budget",
            "dial",
            "error_chain",
            "failure",
            "fetch",
            "kind",
            "metric",
            "oauth2",
            "self_metrics",
            "target",
            "tls",
        ],
    ),
    ("http", &["host_pattern", "kind", "metric", "poll", "self_metrics", "target", "time", "tls", "yaml"]),
    ("k8s", &["backoff", "crd", "error_chain", "kind", "poll", "self_metrics", "target", "time"]),
    ("cli", &["crd", "dial", "file", "http", "k8s", "kind", "time"]),
    ("telemetry", &["cli"]),
    (
        "app",
        &[
            "backoff",
            "budget",
            "cli",
            "convert",
            "crd",
            "dial",
            "error_chain",
            "failure",
            "fetch",
            "file",
            "host_pattern",
            "http",
            "k8s",
            "kind",
            "metric",
            "oauth2",
            "poll",
            "rule",
            "self_metrics",
            "stun",
            "target",
            "telemetry",
            "time",
            "tls",
            "yaml",
        ],
    ),
];

/// Crates that only these modules may name: I/O and frameworks stay at the rim.
const CONFINED: &[(&str, &[&str])] = &[
    ("axum", &["http"]),
    ("hyper", &["fetch", "http", "kind"]),
    ("kube", &["crd", "k8s"]),
    ("k8s_openapi", &["crd", "k8s"]),
    ("clap", &["cli"]),
    ("prometheus", &["self_metrics"]),
    ("simulators", &["app"]),
    ("granit_parser", &["yaml"]),
    ("serde_saphyr", &["yaml"]),
    ("tokio", &["app", "budget", "dial", "fetch", "file", "http", "k8s", "kind", "poll"]),
];

/// Names of a crate's own root that are no modules.
const ROOT_ITEMS: &[&str] = &["VERSION", "REVISION", "RUST_VERSION", "descs"];

fn rust_files(under: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The top module that a file belongs to; `None` for `main.rs` and `lib.rs`.
fn module_of(file: &Path) -> Option<String> {
    let relative = file.strip_prefix(source()).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "main" | "lib")).then(|| name.to_owned())
}

/// The code of a file without comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The identifiers that follow `prefix`, also each of those in braces: `crate::{a, b::c}`.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.insert(std::mem::take(&mut name));
                        continue;
                    }
                    _ => {}
                }
                name.push(c);
            }
            names.insert(name);
        } else {
            names.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    let first =
        |name: &String| name.trim().split("::").next().unwrap().split_whitespace().next().unwrap_or("").to_owned();
    names.iter().map(first).filter(|name| !name.is_empty()).collect()
}

#[test]
fn modules_name_only_what_lies_below_them() {
    let mut seen = BTreeSet::new();
    for file in rust_files(&source()) {
        let Some(module) = module_of(&file) else { continue };
        let allowed = ALLOWED.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{} has no row in ALLOWED", file.display()));
        for used in names_after(&code(&file), "crate::") {
            let fine = used == module || allowed.contains(&used.as_str()) || ROOT_ITEMS.contains(&used.as_str());
            assert!(fine, "{} names crate::{used}, which `{module}` must not know", file.display());
        }
        seen.insert(module);
    }
    for (module, _) in ALLOWED {
        assert!(seen.contains(*module), "ALLOWED has a row for `{module}`, which does not exist");
    }
}

#[test]
fn the_rows_hold_no_circle() {
    for (module, allowed) in ALLOWED {
        let mut reached: BTreeSet<&str> = allowed.iter().copied().collect();
        loop {
            let further: BTreeSet<&str> = ALLOWED
                .iter()
                .filter(|(name, _)| reached.contains(name))
                .flat_map(|(_, next)| next.iter().copied())
                .collect();
            if further.is_subset(&reached) {
                break;
            }
            reached.extend(further);
        }
        assert!(!reached.contains(module), "`{module}` can reach itself");
    }
}

#[test]
fn frameworks_stay_in_their_adapters() {
    for file in rust_files(&source()) {
        let Some(module) = module_of(&file) else { continue };
        let code = code(&file);
        for (library, homes) in CONFINED {
            let named = !names_after(&code, &format!("{library}::")).is_empty();
            assert!(
                !named || homes.contains(&module.as_str()),
                "{} names {library}, which belongs to {homes:?}",
                file.display()
            );
        }
    }
}

/// Files outside of `kind` that may name a kind: each is about a simulated server, shows a user an example, or reads what another program
/// calls its kinds.
const NAMES_A_KIND: &[&str] = &["app/demo.rs", "app/simulate.rs", "cli.rs", "convert/request.rs"];

/// The text of a file without its tests; comments count, since some of them become the CRD and `--help`.
fn without_tests(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

fn is_test(relative: &Path) -> bool {
    relative.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

#[test]
fn a_kind_is_named_in_its_folder_only() {
    let mut excepted: BTreeSet<&str> = BTreeSet::new();
    for file in rust_files(&source()) {
        let relative = file.strip_prefix(source()).unwrap();
        if relative.starts_with("kind") || is_test(relative) {
            continue;
        }
        let text = without_tests(&file).to_lowercase();
        // Some kinds are common words.
        let code = ["http", "tcp", "dns", "icmp", "grpc", "websocket", "stun", "turn", "prometheus"]
            .map(|word| [format!("type::{word}"), format!("kind::{word}")]);
        let words = ["sora", "orion", "mediasoup", "edumeet"].map(ToOwned::to_owned);
        for kind in code.into_iter().flatten().chain(words) {
            let is_named = |line: &str| {
                let ends = |after: &str| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
                line.match_indices(&kind).any(|(at, _)| !kind.contains(':') || ends(&line[at + kind.len()..]))
            };
            if let Some(line) = text.lines().position(is_named) {
                let fine = NAMES_A_KIND.iter().find(|path| relative.ends_with(path));
                let line = line + 1;
                assert!(fine.is_some(), "{}:{line} names {kind}: a kind is one folder and one line", file.display());
                excepted.extend(fine);
            }
        }
    }
    assert_eq!(excepted.len(), NAMES_A_KIND.len(), "only {excepted:?} need an exception");
}

/// The types that a file declares outside of its tests.
fn types(file: &Path) -> Vec<String> {
    let code = code(file);
    let production = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let name = |line: &str| {
        let line = line.strip_prefix("pub").map_or(line, |rest| {
            let scope = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
            scope.map_or(rest, |(_, rest)| rest).trim_start()
        });
        let name = ["struct ", "enum ", "trait ", "type "].iter().find_map(|word| line.strip_prefix(word))?;
        Some(name.chars().take_while(|c| c.is_alphanumeric()).collect())
    };
    production.lines().filter_map(name).collect()
}

/// Names that stand for the same thing in each of several places.
const NAMED_IN_EACH_PLACE: &[&str] = &[
    // The options of a kind, and the trait that they implement.
    "Options",
];

#[test]
fn one_type_name_means_one_thing() {
    let mut declared: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in rust_files(&source()) {
        let relative = file.strip_prefix(source()).unwrap().to_path_buf();
        if is_test(&relative) {
            continue;
        }
        for name in types(&file).into_iter().filter(|name| !NAMED_IN_EACH_PLACE.contains(&name.as_str())) {
            if let Some(other) = declared.insert(name.clone(), relative.clone()) {
                panic!("{name} is declared in {} and in {}", other.display(), relative.display());
            }
        }
    }
    assert!(declared.len() > 300, "only {} types were found", declared.len());
}

#[test]
fn the_glossary_is_short() {
    const MOST_TERMS: usize = 25;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, glossary) = page.split_once("<!-- glossary: begin -->").unwrap();
    let (glossary, _) = glossary.split_once("<!-- glossary: end -->").unwrap();
    let terms = glossary.lines().filter(|line| line.starts_with("| ")).count() - 1;
    assert!((1..=MOST_TERMS).contains(&terms), "{terms} terms");
}

#[test]
fn the_page_of_the_architecture_has_the_same_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("<!-- allowed: begin -->").unwrap();
    let (table, _) = table.split_once("<!-- allowed: end -->").unwrap();
    let words = |cell: &str| -> BTreeSet<String> {
        cell.split(',').map(|word| word.trim().trim_matches('`').to_owned()).filter(|word| !word.is_empty()).collect()
    };
    let rows: Vec<(BTreeSet<String>, BTreeSet<String>)> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (words(cells[1]), words(cells[3]))
        })
        .collect();
    assert_eq!(rows.len(), ALLOWED.len());
    for (module, allowed) in ALLOWED {
        let (_, shown) = rows.iter().find(|(name, _)| name.contains(*module)).unwrap();
        let all = ALLOWED.len() - 1 == allowed.len();
        let allowed = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert!(*shown == allowed || (all && shown.contains("all")), "the row of `{module}` says {shown:?}");
    }
}
