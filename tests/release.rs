//! The steps of a release that need no registry, and the workflow that calls them. `make release-dry-run` runs all steps.
#![expect(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const CHANGELOG: &str = "\
# Changelog

## [Unreleased]

## [0.1.0] - 2026-01-02

### Added

- `run`: polls \"all\"
  servers.

### Changed

- **Breaking:** a flag is gone.
- Another message.

### Security

- A body is bounded.
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// A checkout with what the steps look at, and with a changelog.
fn checkout(changelog: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    // The files in which the step sets the version are listed there alone.
    let script = read("deploy/release/version.py");
    let named = script.split_once("\nFILES = [\n").unwrap().1.split_once("\n]\n").unwrap().0;
    let named: Vec<&str> =
        named.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    assert!(named.len() > 5, "{named:?}");
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "THIRD-PARTY",
        "charts/scrapetarget-exporter/Chart.yaml",
        "deploy/scrapetarget-exporter.yaml",
        "deploy/release/archives.sh",
        "deploy/release/changelog.py",
        "deploy/release/elf.py",
        "deploy/release/gate.py",
        "deploy/release/version.py",
    ]
    .into_iter()
    .chain(named)
    {
        let copy = folder.path().join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(root().join(file), copy).unwrap();
    }
    let changelog = changelog.replace("0.1.0", env!("CARGO_PKG_VERSION"));
    fs::write(folder.path().join("CHANGELOG.md"), changelog).unwrap();
    folder
}

fn step(checkout: &Path, script: &str, arguments: &[&str]) -> Output {
    Command::new(checkout.join("deploy/release").join(script)).args(arguments).output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_gate_is_passed_when_all_say_the_version_of_the_tag_and_names_every_place_that_does_not() {
    let tag = concat!("v", env!("CARGO_PKG_VERSION"));
    let good = checkout(CHANGELOG);
    let passed = step(good.path(), "gate.py", &[tag]);
    assert!(passed.status.success(), "{}", printed(&passed));

    let refused = step(good.path(), "gate.py", &["v99.0.0"]);
    let said = printed(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for place in [
        "Cargo.toml",
        "Cargo.lock",
        "Chart.yaml: version",
        "Chart.yaml: appVersion",
        "servers.yaml",
        "README.md",
        "CHANGELOG.md",
    ] {
        assert!(said.contains(place), "{place}: {said}");
    }
    for wrong in [
        CHANGELOG.replace("2026-01-02", "soon"),
        CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n### Fixed\n\n- It.\n"),
    ] {
        let checkout = checkout(&wrong);
        assert_eq!(step(checkout.path(), "gate.py", &[tag]).status.code(), Some(1), "{wrong}");
    }
}

#[test]
fn the_next_version_is_set_in_one_step_in_every_place_that_the_gate_looks_at() {
    let unreleased = CHANGELOG.replace("## [0.1.0] - 2026-01-02\n\n", "");
    let checkout = checkout(&unreleased);
    for wrong in [&["v1.2.3"][..], &["1.2"], &["1.2.3-rc.01"], &[]] {
        assert!(!step(checkout.path(), "version.py", wrong).status.success(), "{wrong:?}");
    }
    // The candidate's changes become those of the version. A second time everything is done.
    for version in ["9.8.7-rc.1", "9.8.7", "9.8.7"] {
        let set = step(checkout.path(), "version.py", &[version]);
        assert!(set.status.success(), "{}", printed(&set));
    }
    let judged = step(checkout.path(), "gate.py", &["v9.8.7"]);
    let said = printed(&judged);
    // `make generate` writes this one.
    let left =
        format!("error: deploy/scrapetarget-exporter.yaml: names {}, the tag is v9.8.7\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(said, left);
    let changelog = fs::read_to_string(checkout.path().join("CHANGELOG.md")).unwrap();
    assert_eq!(changelog.matches("## [Unreleased]\n\n## [9.8.7] - 2").count(), 1, "{changelog}");
    let lock = fs::read_to_string(checkout.path().join("Cargo.lock")).unwrap();
    let changed = lock.lines().zip(read("Cargo.lock").lines()).filter(|(new, old)| new != old).count();
    assert_eq!(changed, 1, "it has changed other packages");
}

#[test]
fn the_changelog_becomes_notes_and_what_artifact_hub_shows() {
    let checkout = checkout(CHANGELOG);
    let version = env!("CARGO_PKG_VERSION");
    let notes = printed(&step(checkout.path(), "changelog.py", &["notes", version]));
    let places = [
        "## Breaking changes\n\n- a flag is gone.",
        "## Security",
        "## Changed",
        "## Added",
        "## Upgrade",
        "## Verify",
    ];
    let found: Vec<_> = places.iter().map(|place| notes.find(place)).collect();
    assert!(found.is_sorted() && found.iter().all(Option::is_some), "{found:?}: {notes}");
    let annotations = printed(&step(checkout.path(), "changelog.py", &["annotations", version]));
    assert!(
        annotations.contains("  - kind: added\n    description: \"`run`: polls \\\"all\\\" servers.\"\n"),
        "{annotations}"
    );
    assert!(annotations.contains("artifacthub.io/containsSecurityUpdates: \"true\"\n"), "{annotations}");
}

#[test]
fn the_changelog_of_this_version_can_be_read() {
    let output = step(root(), "changelog.py", &["annotations", "Unreleased"]);
    assert!(output.status.success(), "{}", printed(&output));
}

/// An ELF file of this machine number with one program header of this kind.
fn elf(folder: &Path, machine: u8, kind: u8) -> PathBuf {
    let mut bytes = vec![0; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (bytes[18], bytes[32], bytes[54], bytes[56], bytes[64]) = (machine, 64, 56, 1, kind);
    let file = folder.join(format!("{machine}-{kind}"));
    fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn archives_have_a_static_program_of_their_architecture_with_the_licences() {
    const AMD64: u8 = 62;
    const ARM64: u8 = 183;
    const LOAD: u8 = 1;
    const INTERPRETER: u8 = 3;
    let checkout = checkout(CHANGELOG);
    let packed = |program: &Path, folder: &str| {
        let pair = format!("arm64={}", program.display());
        step(checkout.path(), "archives.sh", &["1.2.3", checkout.path().join(folder).to_str().unwrap(), &pair])
    };
    let program = elf(checkout.path(), ARM64, LOAD);
    for folder in ["first", "second"] {
        let output = packed(&program, folder);
        assert!(output.status.success(), "{}", printed(&output));
    }
    let [first, second] = ["first", "second"]
        .map(|folder| checkout.path().join(folder).join("scrapetarget-exporter-1.2.3-linux-arm64.tar.gz"));
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "the same programs make the same bytes");
    let list = printed(&Command::new("tar").arg("-tzf").arg(first).output().unwrap());
    for name in ["scrapetarget-exporter\n", "LICENSE\n", "THIRD-PARTY\n"] {
        assert!(list.contains(&format!("linux-arm64/{name}")), "{list}");
    }
    for (machine, kind, why) in [(AMD64, LOAD, "not for arm64"), (ARM64, INTERPRETER, "nothing to load")] {
        let output = packed(&elf(checkout.path(), machine, kind), "none");
        assert!(!output.status.success() && printed(&output).contains(why), "{}", printed(&output));
    }
}

#[test]
fn workflows_may_read_and_pin_every_action_and_call_every_step() {
    let mut all = String::new();
    for entry in fs::read_dir(root().join(".github/workflows")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!(".github/workflows/{name}"));
        serde_saphyr::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains("\npermissions: { contents: read }\n"), "{name}");
        for line in text.lines().filter_map(|line| line.split_once("uses: ")).map(|(_, action)| action) {
            let (_, rest) = line.split_once('@').unwrap();
            let (commit, tag) = rest.split_once(" # v").unwrap_or_else(|| panic!("{line} names no version"));
            assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()) && !tag.is_empty(), "{line}");
        }
        all.push_str(&text);
    }
    for entry in fs::read_dir(root().join("deploy/release")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_step = matches!(name.rsplit_once('.'), Some((_, "sh" | "py")))
            && !["dry-run.sh", "elf.py", "version.py"].contains(&name.as_str());
        assert!(!is_step || all.contains(&format!("deploy/release/{name}")), "no workflow calls {name}");
    }
}

#[test]
fn what_is_verified_is_who_the_page_says() {
    let (page, script) = (read("docs/publishing.md"), read("deploy/release/verify.sh"));
    for part in ["/.github/workflows/release.yml@refs/tags/", "https://token.actions.githubusercontent.com"] {
        assert!(page.contains(part) && script.contains(part), "{part}");
    }
}

/// `chart.sh` adds annotations at the end of the file.
#[test]
fn the_annotations_are_the_last_field_of_the_chart() {
    let chart = read("charts/scrapetarget-exporter/Chart.yaml");
    let last = chart.lines().rfind(|line| !line.starts_with([' ', '#']) && !line.is_empty());
    assert_eq!(last, Some("annotations:"));
}
