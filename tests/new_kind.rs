//! A kind is one folder and one line: the complete examples of `docs/architecture.md`, one of each sort, are added to a copy of the source, and
//! tested.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the copy. It stays, so that a run without changes compiles nothing.
fn copy() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("new_kind")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The code block after `<!-- marker -->`.
fn block<'p>(page: &'p str, marker: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("<!-- {marker} -->\n```rust\n")).unwrap();
    rest.split_once("```\n").unwrap().0
}

/// Writes a file unless it is there already: cargo looks at the time of the last change.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// The folders that are added.
const FOLDERS: [&str; 2] = ["src/kind/example", "src/kind/finger"];

/// Makes `to` equal to `from`, but for the folders and the lines that are added.
fn mirror(from: &Path, to: &Path, edit: &impl Fn(&Path, String) -> String) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(to).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if from.join(entry.file_name()).exists()
            || FOLDERS.iter().any(|folder| path.ends_with(folder.trim_start_matches("src/")))
        {
            continue;
        }
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, path) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            mirror(&source, &path, edit);
        } else {
            write(&path, &edit(&source, fs::read_to_string(&source).unwrap()));
        }
    }
}

/// Gives the packages of the copy other names: with the same ones, cargo would take what it builds for the original's.
fn renamed(text: &str) -> String {
    text.replace("name = \"scrapetarget-exporter\"", "name = \"scrapetarget-exporter-with-example\"")
        .replace("name = \"simulators\"", "name = \"simulators-with-example\"")
        .replace("\n \"simulators\",", "\n \"simulators-with-example\",")
        .replace("path = \"simulators\"", "path = \"simulators\", package = \"simulators-with-example\"")
}

/// The manifest without tests and benchmarks, whose files are not copied.
fn manifest() -> String {
    let text = renamed(&fs::read_to_string(root().join("Cargo.toml")).unwrap());
    let sections =
        text.split("\n[").filter(|section| !section.starts_with("[bench]]") && !section.starts_with("[test]]"));
    sections.collect::<Vec<_>>().join("\n[")
}

#[test]
fn a_kind_is_one_folder_and_one_line() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let lines = block(&page, "the line in kinds!").to_owned() + block(&page, "the line of the kind that probes");
    let add_line = |file: &Path, text: String| {
        if !file.ends_with("src/kind/mod.rs") {
            return text;
        }
        let (before, after) = text.split_once("\nkinds! {\n").unwrap();
        format!("{before}\nkinds! {{\n{lines}{after}")
    };
    mirror(&root().join("src"), &copy().join("src"), &add_line);
    mirror(&root().join("simulators"), &copy().join("simulators"), &|_, text| renamed(&text));
    for folder in FOLDERS {
        let file = format!("{folder}/mod.rs");
        write(&copy().join(&file), block(&page, &file));
    }
    for file in ["build.rs", "Cargo.lock"] {
        write(&copy().join(file), &renamed(&fs::read_to_string(root().join(file)).unwrap()));
    }
    write(&copy().join("Cargo.toml"), &manifest());

    let mut cargo = Command::new(env!("CARGO"));
    // What this run of cargo has told us is not true for the next one, and would build dependencies anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "OUT_DIR"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            cargo.env_remove(&name);
        }
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    cargo.args(["test", "--offline", "--locked", "--lib", "--target-dir"]).arg(target);
    cargo.arg("--manifest-path").arg(copy().join("Cargo.toml"));
    cargo.args(["--", "kind::example::", "kind::finger::"]);
    let output = cargo.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}\n{stdout}");
    assert!(stdout.contains("6 passed"), "the tests of the examples did not run: {stdout}");
}
