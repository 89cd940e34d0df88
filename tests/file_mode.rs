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
use simulators::Simulated;
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
async fn members_of_a_service_are_refused_with_what_to_write_instead_and_nothing_is_sent() {
    let (one, two) = (Rooms::start(1).await, Rooms::start(2).await);
    let folder = TempDir::new().unwrap();
    let with = |members: &str| one.target("a", members).replace("127.0.0.1", "localhost");
    write(folder.path(), "a.yaml", &with("  members: { service: {} }\n"));
    write(folder.path(), "b.yaml", &two.target("b", ""));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "a", "probe_failure_info{reason=\"config\"} 1").await;
    until_says(&service, "b", "media_rooms 2").await;
    let found = entry(&service, "a").await;
    assert_eq!(found["state"], "invalid", "{found:#}");
    assert!(
        found.to_string().contains("spec.members.service: ") && found.to_string().contains("write dns: {}"),
        "{found:#}"
    );
    assert_eq!(one.asked(), 0);

    write(folder.path(), "a.yaml", &with("  members: { dns: {} }\n"));
    until_says(&service, "a", "probe_success 1").await;
    write(folder.path(), "a.yaml", &with("  members: { service: {} }\n"));
    until_says(&service, "a", "probe_failure_info{reason=\"config\"} 1").await;
}

/// A web server that counts who asks.
async fn site() -> (Simulated, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&asked);
    let routes = Router::new().fallback(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { "hello" }
    });
    (Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap(), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_the_installation_does_not_probe_is_refused_with_the_flag_and_never_contacted() {
    let (one, (site, asked)) = (Rooms::start(1).await, site().await);
    let folder = TempDir::new().unwrap();
    let web = format!(
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: web, namespace: media }}\n\
         spec: {{ type: Http, url: '{}', interval: 1s }}\n",
        site.url()
    );
    write(folder.path(), "a.yaml", &(one.target("a", "") + &web));
    let service = Running::ready(folder.path(), ["--probers", "Tcp,Dns"]).await;
    until_says(&service, "web", "probe_failure_info{reason=\"config\"} 1").await;
    until_says(&service, "a", "media_rooms 1").await;
    let entry = entry(&service, "web").await;
    assert_eq!(entry["state"], "invalid", "{entry}");
    let message = entry["message"].as_str().unwrap();
    assert!(message.contains("type Http is not allowed") && message.contains("--probers"), "{message}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_that_is_too_large_is_refused_with_the_flag_and_never_sent() {
    let folder = TempDir::new().unwrap();
    let large = "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: { name: host, namespace: media }\n\
                 spec: { type: Icmp, url: 'icmp://127.0.0.1', interval: 1s, icmp: { payloadSize: 101 } }\n";
    write(folder.path(), "a.yaml", large);
    let service = Running::ready(folder.path(), ["--icmp-max-payload", "100"]).await;
    until_says(&service, "host", "probe_failure_info{reason=\"config\"} 1").await;
    let entry = entry(&service, "host").await;
    assert_eq!(entry["state"], "invalid", "{entry}");
    let message = entry["message"].as_str().unwrap();
    assert!(message.contains("spec.icmp.payloadSize: 101 is more") && message.contains("at most 100"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_comes_from_a_file_of_its_own_and_is_followed_there() {
    let rooms = Rooms::start(1).await;
    *rooms.token.lock().unwrap() = "t0ken-one".to_owned();
    let folder = TempDir::new().unwrap();
    let secrets = folder.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    write(folder.path(), "targets.yaml", &rooms.target("a", TOKEN));
    let service =
        Running::ready(&folder.path().join("targets.yaml"), ["--secrets-directory", secrets.to_str().unwrap()]).await;
    until_says(&service, "a", "probe_failure_info{reason=\"config\"} 1").await;
    let debug = service.body("/probe?target=media/a&debug=true").await;
    let places = format!("{0}/media/agent/token or {0}/media_agent_token", secrets.display());
    assert!(debug.contains(&places), "it says where: {debug}");
    assert_eq!(rooms.asked(), 0);

    write(&secrets, "media_agent_token", "t0ken-one\n");
    until_says(&service, "a", "probe_success 1").await;
    *rooms.token.lock().unwrap() = "t0ken-two".to_owned();
    until_says(&service, "a", "probe_failure_info{reason=\"auth\"} 1").await;
    write(&secrets, "media_agent_token", "t0ken-two\n");
    until_says(&service, "a", "probe_success 1").await;
    write(&secrets, "media_agent_token", &"x".repeat((1 << 20) + 1));
    service
        .until("/metrics", |_, body| body.contains("scrapetarget_files_last_reload_successful 0").then_some(()))
        .await;
    assert!(service.body("/").await.contains("media_agent_token: cannot be read: it is larger than 1 MiB"));
    until_says(&service, "a", "probe_success 1").await;
    let debug = service.body("/probe?target=media/a&debug=true").await;
    assert!(!service.log().contains("t0ken") && !debug.contains("t0ken"), "{debug}");
    fs::remove_file(secrets.join("media_agent_token")).unwrap();
    until_says(&service, "a", "probe_failure_info{reason=\"config\"} 1").await;
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
    assert_eq!(service.logged("all target files are valid again"), 1, "{}", service.log());
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
    service
        .until(&probe("new"), |status, body| (status == 404 && body.contains("spec.labels[job]")).then_some(()))
        .await;
    assert_eq!(service.logged("field=spec.timeout"), 1, "{}", service.log());
    assert_eq!(service.logged("ScrapeTarget media/new"), 1, "{}", service.log());
}

/// The entry of one target in `/api/v1/targets`.
async fn entry(service: &Running, name: &str) -> serde_json::Value {
    let answer: serde_json::Value = serde_json::from_str(&service.body("/api/v1/targets").await).unwrap();
    let targets = answer["data"]["targets"].as_array().unwrap();
    let found: Vec<_> = targets.iter().filter(|target| target["name"] == name).collect();
    let [found] = found[..] else { panic!("{name} is there {} times: {answer:#}", found.len()) };
    found.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_manifest_is_invalid_on_the_page_in_the_api_and_in_the_metrics_until_it_is_mended() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    let good = one.target("a", "");
    let typo = one.target("typo", "").replace("Mediasoup\n", "Mediasoop\n");
    let kind = one.target("kind", "").replace("ScrapeTarget", "ScrapTarget");
    write(folder.path(), "a.yaml", &(good.clone() + &one.target("new", "  timeout: 5s\n") + &typo + &kind));
    let service = Running::ready(folder.path(), [""; 0]).await;
    until_says(&service, "a", "media_rooms 1").await;
    for (name, kind, wanted) in [
        ("new", "Mediasoup", "a.yaml:19: spec.timeout: timeout must be at most interval, write a shorter timeout"),
        ("typo", "unknown", "a.yaml:25: spec.type: Unsupported value: \"Mediasoop\""),
        ("kind", "Mediasoup", "a.yaml:31: kind: unknown kind \"ScrapTarget\" of scrapetarget.dev, did you mean"),
    ] {
        let entry = entry(&service, name).await;
        assert_eq!(
            (&entry["state"], &entry["reason"], &entry["type"]),
            (&"invalid".into(), &"config".into(), &kind.into())
        );
        let message = entry["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{message}");
        let page = service.body("/?state=invalid").await;
        assert!(page.contains(&format!(">{name}</th>")) && page.contains("timeout must be at most interval"), "{page}");
        service.until_status(&probe(name), 404).await;
        assert!(!service.body("/sd").await.contains(name), "it is not discovered");
    }
    let page = service.body("/").await;
    assert!(page.contains("4 mistakes in the files of targets") && page.contains("3 invalid"), "{page}");
    let metrics = service.body("/metrics").await;
    for line in [
        "scrapetarget_targets{type=\"Mediasoup\",state=\"invalid\"} 2",
        "scrapetarget_targets{type=\"unknown\",state=\"invalid\"} 1",
        "scrapetarget_targets{type=\"Mediasoup\",state=\"up\"} 1",
        "scrapetarget_files_last_reload_successful 0",
        "scrapetarget_files_last_reload_success_timestamp_seconds 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }

    // What was good is kept, is polled on, and is shown to be behind its file.
    write(folder.path(), "a.yaml", &one.target("a", "  timeout: 5s\n"));
    service
        .until("/api/v1/targets", |_, body| body.contains("its last good version stays in use (up)").then_some(()))
        .await;
    assert_eq!(entry(&service, "a").await["state"], "invalid");
    until_says(&service, "a", "probe_success 1").await;
    let metrics = service.body("/metrics").await;
    assert!(metrics.contains("state=\"invalid\"} 1\n") && metrics.contains("scrapetarget_up{"), "{metrics}");
    assert!(service.body("/sd").await.contains("media/a"));

    write(folder.path(), "a.yaml", &good);
    service
        .until("/metrics", |_, body| body.contains("scrapetarget_files_last_reload_successful 1\n").then_some(()))
        .await;
    assert_eq!(entry(&service, "a").await["state"], "up");
    assert!(!service.body("/").await.contains("mistake"));
    let metrics = service.body("/metrics").await;
    let time =
        metrics.lines().find_map(|line| line.strip_prefix("scrapetarget_files_last_reload_success_timestamp_seconds "));
    assert!(time.unwrap().parse::<f64>().unwrap() > 1.7e9, "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_no_yaml_is_told_on_the_page_and_in_the_api() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &(one.target("a", "") + "---\nkind: [\n"));
    let service = Running::ready(folder.path(), [""; 0]).await;
    assert!(service.body("/").await.contains("1 mistake in the files of targets"));
    let answer: serde_json::Value = serde_json::from_str(&service.body("/api/v1/targets").await).unwrap();
    let mistakes = answer["data"]["mistakes"].as_array().unwrap();
    assert_eq!(mistakes.len(), 1, "{answer:#}");
    assert!(mistakes[0].as_str().unwrap().contains(": document 2: is not well-formed YAML"), "{answer:#}");
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
async fn one_path_that_was_never_there_is_named_wherever_one_looks_and_the_others_are_polled() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    write(folder.path(), "a.yaml", &one.target("a", ""));
    let (here, missing) = (folder.path().join("a.yaml"), folder.path().join("missing"));
    let service = Running::service(["--targets", here.to_str().unwrap(), "--targets", missing.to_str().unwrap()]);
    until_says(&service, "a", "media_rooms 1").await;
    let why = format!("{}: cannot be read: No such file", missing.display());
    for path in ["/-/ready", "/sd", "/api/v1/targets", "/probe?target=media/b"] {
        let (status, body) = service.get(path).await.unwrap();
        assert!(status == 503 && body.contains("not known yet") && body.contains(&why), "{path}: {status} {body}");
    }
    let page = service.body("/").await;
    assert!(page.contains("<h1 class=\"pending\">Targets are not known yet</h1>") && page.contains(&why), "{page}");
    assert!(page.contains(">a</th>"), "what is known is shown: {page}");
    let told = |words: &str| service.log().lines().filter(|l| l.contains(words) && l.contains(&why)).count();
    assert_eq!(
        (told("not all targets are known yet"), service.logged("targets are known\"")),
        (1, 0),
        "{}",
        service.log()
    );

    let staged = folder.path().join("staged");
    fs::create_dir(&staged).unwrap();
    write(&staged, "b.yaml", &one.target("b", ""));
    fs::rename(&staged, &missing).unwrap();
    service.until_status("/-/ready", 200).await;
    let sd = service.body("/sd").await;
    assert!(sd.contains("media/a") && sd.contains("media/b"), "never a part of them: {sd}");
    assert_eq!(service.logged("targets are known\""), 1, "{}", service.log());

    // Once known, they stay known: what cannot be read any more is kept, and told.
    fs::rename(&missing, &staged).unwrap();
    service.until("/", |_, body| body.contains(&why).then_some(())).await;
    assert!(service.body("/sd").await.contains("media/b"));
    service.until_status("/-/ready", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_discovered_while_the_only_targets_cannot_be_read() {
    let one = Rooms::start(1).await;
    let folder = TempDir::new().unwrap();
    let targets = folder.path().join("targets");
    let service = Running::service(["--targets", targets.to_str().unwrap()]);
    // Not mounted yet, then half-written, then refused: each is told, and none is a list without targets.
    for (told, text) in
        [("No such file", None), ("duplicate key", Some("spec: {")), ("intervall", Some("  intervall: 1s\n"))]
    {
        if let Some(text) = text {
            // A mount comes with what is in it.
            let staged = folder.path().join("staged");
            fs::create_dir(&staged).unwrap();
            write(&staged, "a.yaml", &one.target("a", text));
            let _ = fs::remove_dir_all(&targets);
            fs::rename(&staged, &targets).unwrap();
        }
        service.until("/-/healthy", |_, _| (service.logged(told) > 0).then_some(())).await;
        for path in ["/-/ready", "/sd", "/probe?target=media/a"] {
            let (status, body) = service.get(path).await.unwrap();
            assert_eq!(status, 503, "{told}: {path}: {body}");
        }
    }
    write(&targets, "a.yaml", &one.target("a", ""));
    until_says(&service, "a", "media_rooms 1").await;
    service.until_status("/-/ready", 200).await;
}
