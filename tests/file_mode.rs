//! The service on files that change: edits by people and editors, rotated secrets, broken and half-written files, mounted ConfigMaps.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use scrapetarget_exporter::sim::Simulated;
use support::program::Running;
use tempfile::TempDir;

/// A server that says how many rooms it has, to those who know its token, and counts who asks.
struct Rooms {
    server: Simulated,
    token: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Rooms {
    async fn start(rooms: u32) -> Self {
        let (token, asked) = (Arc::<Mutex<String>>::default(), Arc::<AtomicUsize>::default());
        let (wanted, counter) = (Arc::clone(&token), Arc::clone(&asked));
        let routes = Router::new().fallback(move |headers: HeaderMap| {
            counter.fetch_add(1, Ordering::SeqCst);
            let wanted = wanted.lock().unwrap().clone();
            let given = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
            async move {
                if wanted.is_empty() || given == Some(format!("Bearer {wanted}")) {
                    (StatusCode::OK, format!("media_rooms {rooms}\n"))
                } else {
                    (StatusCode::UNAUTHORIZED, String::new())
                }
            }
        });
        let server = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
        Self { server, token, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The manifest of a target on this server, with more fields of the spec.
    fn target(&self, name: &str, more: &str) -> String {
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\nspec:\n  \
             type: Mediasoup\n  url: {}\n  interval: 1s\n  mediasoup: {{ source: Prometheus }}\n{more}",
            self.server.url()
        )
    }
}

const TOKEN: &str = "  authorization: { credentials: { name: agent, key: token } }\n";

fn secret(token: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: agent, namespace: media }}\nstringData: {{ token: {token} }}\n"
    )
}

fn probe(name: &str) -> String {
    format!("/probe?target=media/{name}")
}

async fn until_says(service: &Running, name: &str, line: &str) {
    service.until(&probe(name), |status, body| (status == 200 && body.lines().any(|l| l == line)).then_some(())).await;
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

/// Waits until the files have been read once more.
async fn until_read_again(service: &Running, before: usize) {
    service.until("/-/healthy", |_, _| (service.logged("read target files") > before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_come_change_and_go_with_their_files() {
    let (one, two) = (Rooms::start(1).await, Rooms::start(2).await);
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &one.target("a", ""));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "a", "media_rooms 1").await;
    service.until_status(&probe("b"), 404).await;

    write(folder.path(), "b.yml", &two.target("b", ""));
    until_says(&service, "b", "media_rooms 2").await;
    write(folder.path(), "a.yaml", &two.target("a", ""));
    until_says(&service, "a", "media_rooms 2").await;
    fs::remove_file(folder.path().join("b.yml")).unwrap();
    service.until_status(&probe("b"), 404).await;
    assert!(service.body("/sd").await.contains("media/a"));
    assert!(!service.body("/sd").await.contains("media/b"));
    until_says(&service, "a", "media_rooms 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_is_a_service_without_targets_until_there_is_one() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    let service = Running::ready(folder.path(), [""; 0]).await;
    assert_eq!(service.body("/sd").await.trim(), "[]");
    write(
        folder.path(),
        "a.json",
        &format!(
            "{{\"apiVersion\": \"scrapetarget.dev/v1alpha1\", \"kind\": \"ScrapeTarget\",
        \"metadata\": {{\"name\": \"a\", \"namespace\": \"media\"}},
        \"spec\": {{\"type\": \"Mediasoup\", \"url\": \"{}\", \"mediasoup\": {{\"source\": \"Prometheus\"}}}}}}",
            one.server.url()
        ),
    );
    until_says(&service, "a", "media_rooms 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_heals_the_target_without_a_restart() {
    let rooms = Rooms::start(1).await;
    *rooms.token.lock().unwrap() = "old".to_owned();
    let folder = TempDir::new().unwrap();
    write(folder.path(), "targets.yaml", &rooms.target("a", TOKEN));
    write(folder.path(), "secret.yaml", &secret("old"));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "a", "probe_success 1").await;

    *rooms.token.lock().unwrap() = "new".to_owned();
    until_says(&service, "a", "probe_failure_info{reason=\"auth\"} 1").await;
    write(folder.path(), "secret.yaml", &secret("new"));
    until_says(&service, "a", "probe_success 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_reason_config_and_nothing_is_sent_until_it_is_there() {
    let rooms = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), "targets.yaml", &rooms.target("a", TOKEN));
    let service = Running::ready(folder.path(), [""; 0]).await;
    let reason = "probe_failure_info{reason=\"config\"} 1";
    until_says(&service, "a", reason).await;
    let debug = service.body("/probe?target=media/a&debug=true").await;
    assert!(debug.contains("media/agent"), "it says which Secret: {debug}");

    write(folder.path(), "secret.yaml", &secret("x").replace("token", "other-key"));
    until_read_again(&service, 1).await;
    until_says(&service, "a", reason).await;
    assert_eq!(rooms.asked(), 0, "nothing is sent without the credentials");

    write(folder.path(), "secret.yaml", &secret("x"));
    until_says(&service, "a", "probe_success 1").await;
    fs::remove_file(folder.path().join("secret.yaml")).unwrap();
    until_says(&service, "a", reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_yaml_keeps_its_targets_and_is_told_once() {
    let (one, two) = (Rooms::start(1).await, Rooms::start(2).await);
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &(one.target("a", "") + &one.target("b", "")));
    write(folder.path(), "c.yaml", &one.target("c", ""));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "b", "media_rooms 1").await;

    write(folder.path(), "a.yaml", &(one.target("a", "  labels: {\n") + &two.target("b", "")));
    until_says(&service, "b", "media_rooms 2").await; // the document beside the broken one is good
    until_says(&service, "a", "media_rooms 1").await;
    let reads = service.logged("read target files");
    write(folder.path(), "c.yaml", &two.target("c", ""));
    until_read_again(&service, reads).await;
    assert_eq!(service.logged("is not well-formed YAML"), 1, "{}", service.log());

    write(folder.path(), "a.yaml", &two.target("a", ""));
    until_says(&service, "a", "media_rooms 2").await;
    service.until_status(&probe("b"), 404).await;
    assert_eq!(service.logged("all target files are good again"), 1, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_file_loses_no_target() {
    let (one, two) = (Rooms::start(1).await, Rooms::start(2).await);
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &(one.target("a", "") + &one.target("b", "  labels: { region: tokyo }\n")));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "b", "media_rooms 1").await;

    let whole = two.target("a", "") + &two.target("b", "  labels: { region: osaka }\n");
    let cut = whole.find("osaka").unwrap();
    write(folder.path(), "a.yaml", &whole[..cut]); // the writer stops for longer than two looks
    until_says(&service, "a", "media_rooms 2").await;
    until_says(&service, "b", "media_rooms 1").await;
    write(folder.path(), "a.yaml", &whole);
    until_says(&service, "b", "media_rooms 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_the_schema_refuses_keeps_its_last_good_version_and_leaves_others_alone() {
    let (one, two) = (Rooms::start(1).await, Rooms::start(2).await);
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &(one.target("a", "") + &one.target("b", "")));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "a", "media_rooms 1").await;

    let bad = two.target("a", "  timeout: 5s\n") + &two.target("b", "") + &two.target("new", "  labels: { job: x }\n");
    write(folder.path(), "a.yaml", &bad);
    until_says(&service, "b", "media_rooms 2").await;
    until_says(&service, "a", "media_rooms 1").await;
    service.until_status(&probe("new"), 404).await;
    assert_eq!(service.logged("field=spec.timeout"), 1, "{}", service.log());
    assert_eq!(service.logged("ScrapeTarget media/new"), 1, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_told_once_however_often_files_are_read() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &one.target("a", "  intervall: 5s\n"));
    write(folder.path(), "b.yaml", &one.target("b", ""));
    let service = Running::ready(folder.path(), [""; 0]).await;
    for more in ["# one\n", "# two\n"] {
        let reads = service.logged("read target files");
        write(folder.path(), "b.yaml", &one.target("b", more));
        until_read_again(&service, reads).await;
    }
    assert_eq!(service.logged("intervall"), 1, "{}", service.log());
    until_says(&service, "b", "media_rooms 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_swap_of_a_mounted_config_map_takes_effect() {
    let (one, two) = (Rooms::start(1).await, Rooms::start(2).await);
    let folder = TempDir::new().unwrap();
    let mount = folder.path();
    let version = |name: &str, text: &str| {
        fs::create_dir(mount.join(name)).unwrap();
        write(&mount.join(name), "targets.yaml", text);
    };
    version("..1", &one.target("a", ""));
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/targets.yaml", mount.join("targets.yaml")).unwrap();
    let service = Running::ready(mount, [""; 0]).await;
    until_says(&service, "a", "media_rooms 1").await;

    version("..2", &(two.target("a", "") + &two.target("b", "")));
    symlink("..2", mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    fs::remove_dir_all(mount.join("..1")).unwrap();
    until_says(&service, "a", "media_rooms 2").await;
    until_says(&service, "b", "media_rooms 2").await;
    assert_eq!(service.logged("level=warn"), 0, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_target_is_not_asked_and_not_discovered() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &one.target("a", "  suspend: true\n"));
    let service = Running::ready(folder.path(), [""; 0]).await;
    let body = service.body(&probe("a")).await;
    assert!(body.contains("probe_failure_info{reason=\"suspended\"} 1\n") && !body.contains("probe_success"), "{body}");
    assert_eq!(service.body("/sd").await.trim(), "[]");
    assert_eq!(one.asked(), 0);
    write(folder.path(), "a.yaml", &one.target("a", ""));
    until_says(&service, "a", "probe_success 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_discovered_while_the_only_targets_cannot_be_read() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    let targets = folder.path().join("targets");
    let service = Running::service(["--targets", targets.to_str().unwrap()]);
    // Not mounted yet, then half-written, then refused: each is told, and none is a list without targets.
    for (told, text) in
        [("No such file", None), ("not well-formed", Some("spec: {")), ("intervall", Some("  intervall: 1s\n"))]
    {
        if let Some(text) = text {
            // A mount comes with what is in it.
            let staged = folder.path().join("staged");
            fs::create_dir(&staged).unwrap();
            write(&staged, "a.yaml", &one.target("a", text));
            let _ = fs::remove_dir_all(&targets);
            fs::rename(&staged, &targets).unwrap();
        }
        service.until("/-/healthy", |_, _| (service.logged(told) == 1).then_some(())).await;
        for path in ["/-/ready", "/sd", "/probe?target=media/a"] {
            let (status, body) = service.get(path).await.unwrap();
            assert_eq!(status, 503, "{told}: {path}: {body}");
        }
    }
    write(&targets, "a.yaml", &one.target("a", ""));
    until_says(&service, "a", "media_rooms 1").await;
    service.until_status("/-/ready", 200).await;
}
