//! The container image is as docs/image.md says. It is read from the archive that IMAGE names, and run by runc as a cluster would run it,
//! which takes root. `make image-test` makes it first.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = "usr/local/bin/scrapetarget-exporter";

/// How much larger the base of a release may be than the one that is made on this machine: it brings the names of time zones.
const BASE_OF_RELEASES: u64 = 4_000_000;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at what takes its time.
const PAUSE: Duration = Duration::from_millis(50);

/// What `OpenShift` makes of a pod: any number, in group 0.
const ANYBODY: (u32, u32) = (1_000_860_000, 0);

fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The image, unpacked into a folder that goes with it.
struct Image {
    folder: TempDir,
    description: Value,
    bytes: u64,
}

impl Image {
    fn unpack() -> Self {
        let archive =
            std::env::var_os("IMAGE").unwrap_or_else(|| panic!("IMAGE names no archive: run `make image-test`"));
        let folder = tempfile::tempdir().unwrap();
        succeed(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder.path()));
        let read = |name: &str| serde_json::from_reader(File::open(folder.path().join(name)).unwrap()).unwrap();
        let manifest: Value = read("manifest.json");
        let description = read(manifest[0]["Config"].as_str().unwrap());
        let root = folder.path().join("rootfs");
        std::fs::create_dir(&root).unwrap();
        let mut bytes = 0;
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            let layer = folder.path().join(layer.as_str().unwrap());
            bytes += std::fs::metadata(&layer).unwrap().len();
            succeed(Command::new("tar").arg("-xpf").arg(layer).arg("-C").arg(&root));
        }
        Self { folder, description, bytes }
    }

    fn config(&self, key: &str) -> &Value {
        &self.description["config"][key]
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.path().join("state"));
        command
    }

    /// A container that may do what every pod may and no more: it has no capability and no file to write. In /targets are our examples.
    fn container(&self, (uid, gid): (u32, u32), arguments: &[&str]) -> Command {
        let entrypoint = self.config("Entrypoint").as_array().unwrap().iter().cloned();
        let line: Vec<Value> = entrypoint.chain(arguments.iter().map(|&argument| argument.into())).collect();
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples");
        let namespaces = ["ipc", "mount", "network", "pid", "uts"].map(|kind| json!({ "type": kind }));
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": uid, "gid": gid },
                "args": line,
                "env": self.config("Env"),
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/targets", "type": "bind", "source": examples, "options": ["bind", "ro"] },
            ],
            "linux": { "namespaces": namespaces },
        });
        std::fs::write(self.folder.path().join("config.json"), spec.to_string()).unwrap();
        let mut command = self.runc();
        command.arg("run").arg("--bundle").arg(self.folder.path()).arg(self.name()).stdin(Stdio::null());
        command
    }

    /// No other test has a folder of this name, so none has a container of this name.
    fn name(&self) -> String {
        let folder = self.folder.path().file_name().unwrap().to_string_lossy();
        format!("scrapetarget-{}", folder.trim_start_matches('.'))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.runc().args(["delete", "--force"]).arg(self.name()).stderr(Stdio::null()).status();
    }
}

/// Every file below `folder` that is no folder itself.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

fn source(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Of these, the types that probe, with HTTP/2, Brotli, DNS, WebSocket, STUN and TURN, and `convert` take 4.1.
#[test]
fn it_takes_29_megabytes_at_most() {
    let bytes = Image::unpack().bytes + BASE_OF_RELEASES;
    assert!(bytes <= 29_000_000, "{bytes} bytes");
}

#[test]
fn it_runs_as_a_user_that_kubernetes_knows_is_not_root() {
    assert_eq!(Image::unpack().config("User"), "65532:65532");
}

#[test]
fn it_starts_the_program_without_a_shell_and_shows_its_port() {
    let image = Image::unpack();
    assert_eq!(image.config("Entrypoint"), &json!([format!("/{PROGRAM}")]));
    assert_eq!(image.config("ExposedPorts"), &json!({ "9850/tcp": {} }));
    assert_eq!(image.config("Healthcheck")["Test"], json!(["CMD", format!("/{PROGRAM}"), "healthcheck"]));
}

#[test]
fn its_labels_say_what_cargo_says() {
    let image = Image::unpack();
    let label =
        |key: &str| image.config("Labels")[format!("org.opencontainers.image.{key}")].as_str().unwrap().to_owned();
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("url"), env!("CARGO_PKG_REPOSITORY"));
    assert_eq!(label("source"), env!("CARGO_PKG_REPOSITORY"));
    assert_eq!(label("documentation"), concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/README.md"));
    assert!(!label("revision").is_empty());
}

#[test]
fn the_licences_of_all_that_is_linked_come_with_it() {
    let folder = Image::unpack();
    let folder = folder.root().join("licenses");
    assert_eq!(std::fs::read_to_string(folder.join("LICENSE")).unwrap(), source("LICENSE"));
    let mut text = String::new();
    let texts = File::open(folder.join("THIRD-PARTY.gz")).unwrap();
    flate2::read::GzDecoder::new(texts).read_to_string(&mut text).unwrap();
    assert!(text == source("THIRD-PARTY"), "tests/licences.rs holds that file against what is linked");
}

#[test]
fn nothing_in_it_can_be_run_but_the_program() {
    let image = Image::unpack();
    let runnable = files(&image.root()).into_iter().filter(|file| {
        let metadata = std::fs::symlink_metadata(file).unwrap();
        metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
    });
    assert_eq!(runnable.collect::<Vec<_>>(), [image.root().join(PROGRAM)]);
}

#[test]
fn the_program_needs_no_library() {
    const INTERPRETER: u32 = 3;
    let image = Image::unpack();
    let program = std::fs::read(image.root().join(PROGRAM)).unwrap();
    let number =
        |at: usize, bytes: usize| program[at..at + bytes].iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte));
    assert_eq!(program[..6], *b"\x7fELF\x02\x01", "64 bits, little end first");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let mut kinds = (0..count).map(|index| number(usize::try_from(table + index * size).unwrap(), 4));
    assert!(kinds.all(|kind| kind != u64::from(INTERPRETER)), "it asks for an interpreter");
}

#[test]
fn it_runs_as_any_user_who_may_write_nothing() {
    for user in [(65532, 65532), ANYBODY] {
        let image = Image::unpack();
        let output = succeed(&mut image.container(user, &["--version"]));
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim(), concat!("scrapetarget-exporter ", env!("CARGO_PKG_VERSION")));
    }
}

/// Ends the container with the test, however that ends.
struct Running {
    image: Image,
    process: Child,
}

impl Running {
    /// Runs the health check of the image in the container.
    fn health(&self) -> Option<i32> {
        let mut command = self.image.runc();
        command.arg("exec").arg(self.image.name());
        for word in self.image.config("Healthcheck")["Test"].as_array().unwrap().iter().skip(1) {
            command.arg(word.as_str().unwrap());
        }
        command.stdin(Stdio::null()).output().unwrap().status.code()
    }
}

impl Drop for Running {
    /// Kills until it is dead: before the container is there, there is nothing to kill.
    fn drop(&mut self) {
        while matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.image.runc().arg("kill").arg(self.image.name()).arg("KILL").stderr(Stdio::null()).status();
            std::thread::sleep(PAUSE);
        }
    }
}

#[test]
fn its_health_check_succeeds_only_while_the_service_runs_which_ends_when_it_is_told_to() {
    let image = Image::unpack();
    let alone = image.container(ANYBODY, &["healthcheck"]).output().unwrap();
    assert_eq!(alone.status.code(), Some(1), "{}", String::from_utf8_lossy(&alone.stderr));

    let log = image.folder.path().join("log");
    let mut service = image.container(ANYBODY, &["run", "--targets", "/targets"]);
    let process = service.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let mut running = Running { image, process };
    let start = Instant::now();
    while running.health() != Some(0) {
        let ended = running.process.try_wait().unwrap();
        let log = || std::fs::read_to_string(&log).unwrap();
        assert!(
            ended.is_none() && start.elapsed() < PATIENCE,
            "no health after {:?}: {ended:?}: {}",
            start.elapsed(),
            log()
        );
        std::thread::sleep(PAUSE);
    }
    succeed(running.image.runc().arg("kill").arg(running.image.name()).arg("TERM"));
    let start = Instant::now();
    let ended = loop {
        if let Some(status) = running.process.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "still there {:?} after the signal", start.elapsed());
        std::thread::sleep(PAUSE);
    };
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn the_dockerfile_builds_for_whatever_architecture_is_asked_for() {
    let dockerfile = source("Dockerfile");
    let named: Vec<_> = dockerfile
        .lines()
        .filter(|line| ["amd64", "arm64", "x86", "aarch64"].iter().any(|cpu| line.contains(cpu)))
        .collect();
    assert_eq!(named.len(), 3, "one line for each, and one for all others: {named:#?}");
    assert!(dockerfile.contains("FROM --platform=${BUILDPLATFORM} ${RUST} AS build"), "built without emulation");
}

#[test]
fn the_dockerfile_compiles_with_a_rust_that_is_new_enough() {
    let dockerfile = source("Dockerfile");
    let (_, rest) = dockerfile.split_once("/rust:").unwrap();
    let numbers = |version: &str| version.split('.').map(|number| number.parse().unwrap()).collect::<Vec<u32>>();
    let pinned = numbers(rest.split_once('-').unwrap().0);
    assert_eq!(pinned.len(), 3, "pinned to the last number: {pinned:?}");
    assert!(pinned >= numbers(env!("CARGO_PKG_RUST_VERSION")), "{pinned:?}");
}

#[test]
fn the_dockerfile_names_every_base_by_a_digest() {
    let dockerfile = source("Dockerfile");
    let bases: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .map(|from| from.split_whitespace().find(|word| !word.starts_with("--")).unwrap())
        .collect();
    assert_eq!(bases, ["${RUST}", "${BASE}"]);
    for base in bases {
        let argument = format!("ARG {}=", base.trim_start_matches("${").trim_end_matches('}'));
        let default = dockerfile.lines().find_map(|line| line.strip_prefix(&argument)).unwrap();
        let (name, digest) = default.split_once("@sha256:").unwrap_or_else(|| panic!("{default} has no digest"));
        assert!(name.rsplit('/').next().unwrap().contains(':'), "{name}: the tag is for people");
        assert!(
            digest.len() == 64 && digest.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)),
            "{digest}"
        );
    }
}

/// Whether `.dockerignore` lets a file through.
fn is_let_through(file: &Path) -> bool {
    source(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')).any(|allowed| file.starts_with(allowed))
}

#[test]
fn all_that_cargo_wants_to_see_gets_into_the_build() {
    let output = succeed(
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    for target in metadata["packages"][0]["targets"].as_array().unwrap() {
        let file = Path::new(target["src_path"].as_str().unwrap()).strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        assert!(is_let_through(file), "{file:?} is kept out by .dockerignore");
    }
}
