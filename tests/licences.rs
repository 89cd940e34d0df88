//! Every crate that is linked comes from crates.io, has a licence that `deny.toml` allows, and is none that it bans. The file also says what
//! cargo-deny has to refuse where it can ask for advisories.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The lines of one section of `deny.toml`, without comments.
fn section(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    let lines = text.lines().skip_while(|line| *line != format!("[{name}]")).skip(1);
    let lines: Vec<String> = lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    assert!(!lines.is_empty(), "deny.toml has no section [{name}]");
    lines
}

/// The strings of one list in a section, which has one string, or one table with a name, per entry.
fn list(name: &str, key: &str) -> Vec<String> {
    let text = section(name).join("\n");
    let text = format!("\n{text}");
    let (_, rest) = text.split_once(&format!("\n{key} = [")).unwrap_or_else(|| panic!("[{name}] has no list {key}"));
    let (list, _) = rest.split_once(']').unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_file_refuses_what_has_known_faults_and_what_comes_from_elsewhere() {
    for (name, lines) in [
        ("advisories", &[r#"yanked = "deny""#, r#"unmaintained = "all""#, r#"unused-ignored-advisory = "deny""#][..]),
        ("sources", &[r#"unknown-registry = "deny""#, r#"unknown-git = "deny""#]),
    ] {
        let section = section(name);
        for line in lines {
            assert!(section.iter().any(|found| found == line), "[{name}] lacks {line}: {section:?}");
        }
    }
    assert!(!list("licenses", "allow").is_empty() && !list("bans", "deny").is_empty());
    // Fields that cargo-deny has taken out of the section: it would refuse the file.
    let gone = ["vulnerability", "notice", "severity-threshold"];
    let advisories = section("advisories");
    assert!(!advisories.iter().any(|line| gone.iter().any(|field| line.starts_with(field))), "{advisories:?}");
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// The names of those that are built. The metadata also have what another feature of a dependency would bring.
fn built() -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--prefix=none", "--format={p}", "--target=x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = list("licenses", "allow");
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX).unwrap();
        let fine = expression.evaluate(|requirement| allowed.contains(&requirement.to_string()));
        assert!(fine, "{name} is under {licence}, which deny.toml does not allow");
    }
}

#[test]
fn every_dependency_comes_from_the_registry_and_none_is_banned() {
    let (banned, built) = (list("bans", "deny"), built());
    assert!(built.iter().any(|name| name == "rustls"), "{built:?}");
    for name in &banned {
        assert!(!built.contains(name), "{name} is banned by deny.toml");
    }
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let source = package["source"].as_str();
        let fine = source.is_none_or(|source| source == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(fine, "{name} comes from {source:?}");
    }
}

/// The crates that THIRD-PARTY lists, with their versions and the licences that were chosen.
fn listed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/THIRD-PARTY")).unwrap();
    let part = text.split("\n1. Crates\n=").nth(1).unwrap().split("\n2. Texts of their licences\n=").next().unwrap();
    let entries = part.lines().filter_map(|line| line.strip_prefix("* ")).map(|line| line.split_once(": ").unwrap());
    entries.map(|(name, rest)| (name.to_owned(), rest.split(" (by ").next().unwrap().to_owned())).collect()
}

/// Crates of the registry that are linked, or that have written code which is, as `name version`; with what their manifests say.
fn linked() -> BTreeMap<String, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--prefix=none", "--edges=normal", "--format={p}|{l}|"])
        .args(["--package=scrapetarget-exporter", "--target=x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates = text.lines().filter_map(|line| {
        let [package, licence, ..] = line.split('|').collect::<Vec<_>>()[..] else { return None };
        let [name, version, ..] = package.split(' ').collect::<Vec<_>>()[..] else { return None };
        // Those with a path are our own.
        (!package.contains("(/")).then(|| (format!("{name} {}", version.trim_start_matches('v')), licence.to_owned()))
    });
    crates.collect()
}

/// Every crate that Cargo.lock has, as `name version`.
fn locked() -> BTreeSet<String> {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let field = |part: &str, key: &str| {
        let line = part.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").skip(1);
    packages.map(|part| format!("{} {}", field(part, "name").unwrap(), field(part, "version").unwrap())).collect()
}

/// What cargo has not downloaded on this machine, a crate for arm64 alone, is known by Cargo.lock only.
#[test]
fn the_texts_of_licences_are_those_of_all_that_is_linked() {
    const RENEW: &str = "run deploy/release/third-party.py";
    let (listed, linked, locked) = (listed(), linked(), locked());
    assert!(linked.len() > 200, "{linked:#?}");
    for (name, licence) in &linked {
        let chosen = listed.get(name).unwrap_or_else(|| panic!("THIRD-PARTY lacks {name}: {RENEW}"));
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX).unwrap();
        let chosen: Vec<&str> = chosen.split(" AND ").collect();
        let fine = expression.evaluate(|requirement| chosen.contains(&requirement.to_string().as_str()));
        assert!(fine, "{name} is under {licence}, and THIRD-PARTY has {chosen:?}: {RENEW}");
    }
    let gone: Vec<_> = listed.keys().filter(|name| !locked.contains(*name)).collect();
    assert!(gone.is_empty(), "THIRD-PARTY has what is not linked: {gone:?}: {RENEW}");
    let foreign: Vec<_> = listed.keys().filter(|name| !linked.contains_key(*name)).collect();
    assert!(foreign.len() < 20, "on arm64 alone there is little: {foreign:?}: {RENEW}");
}

#[test]
fn every_crate_has_a_text_with_the_texts_that_go_with_the_standard_libraries() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/THIRD-PARTY")).unwrap();
    let texts = text.split("\n2. Texts of their licences\n=").nth(1).unwrap();
    for name in listed().keys() {
        assert!(texts.contains(&format!("\n* {name}\n")), "no text for {name}");
    }
    assert!(!texts.split("\n3. Rust").next().unwrap().contains("<year>"), "a form without a copyright line");
    for words in
        ["The Rust Project Developers", "GNU LESSER GENERAL PUBLIC LICENSE", "--build-arg RUST=", "three years"]
    {
        assert!(texts.contains(words), "{words}");
    }
}

/// The toolchain of a release is that of the Dockerfile, whose generator refuses parts that it does not know. This sees those of another.
#[test]
fn every_part_of_the_standard_library_that_is_linked_is_named() {
    const OF_RUST: [&str; 8] = ["alloc", "core", "getopts", "proc_macro", "std", "sysroot", "test", "unwind"];
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/THIRD-PARTY")).unwrap();
    let std = text.split("\n3. Rust's standard library\n=").nth(1).unwrap();
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let told = std::process::Command::new(rustc).args(["--print", "target-libdir"]).output().unwrap();
    let folder = String::from_utf8(told.stdout).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder.trim()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some((name, _)) = file.strip_prefix("lib").and_then(|file| file.strip_suffix(".rlib")?.rsplit_once('-'))
        else {
            continue;
        };
        let is_rusts = OF_RUST.contains(&name)
            || ["panic_", "profiler_", "rustc_std_workspace_", "std_detect"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
        // A crate may be called with either sign.
        let listed = [name.to_owned(), name.replace('_', "-")];
        let is_listed =
            listed.iter().any(|name| std.contains(&format!("\n* {name} ")) || std.contains(&format!("\n* {name}:")));
        assert!(is_rusts || is_listed, "THIRD-PARTY lacks {name} of Rust's standard library");
        seen += usize::from(is_listed);
    }
    assert!(seen > 5, "{seen} in {folder}");
}
