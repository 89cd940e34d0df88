//! A secret goes to its target and to nobody else: not to a page, not to the log, not to an error, not to a terminal.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use simulators::Simulated;
use support::faults::closed_port;
use support::program::{Running, command, said};
use tempfile::TempDir;

/// Nothing but a secret has these letters.
const MARKER: &str = "qzxjkvwq";

/// A server that answers `status` and keeps the headers of every request.
async fn server(status: u16) -> (Simulated, Arc<Mutex<Vec<HeaderMap>>>) {
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let keep = Arc::clone(&seen);
    let routes = Router::new().fallback(move |headers: HeaderMap| {
        keep.lock().unwrap().push(headers);
        async move { (StatusCode::from_u16(status).unwrap(), "media_rooms 3\n") }
    });
    (Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap(), seen)
}

fn manifest(name: &str, url: &str, more: &str) -> String {
    format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\nspec:\n  \
         type: Mediasoup\n  url: {url}\n  interval: 30s\n  timeout: 30s\n  mediasoup: {{ source: Prometheus }}\n{more}---\n"
    )
}

/// Every place where a secret can stand, each in a target that is up, one that refuses, and one that is down.
fn manifests(up: &str, refuses: &str) -> String {
    let down = closed_port();
    let mut text = String::new();
    for (state, url) in [("up", up), ("refuses", refuses), ("down", down.as_str())] {
        let headers = format!(
            "  headers:\n    - {{ name: x-literal, value: literal-{MARKER} }}\n    - {{ name: x-api-key, secretKeyRef: {{ name: s, key: key }} }}\n"
        );
        let basic = "  basicAuth: { username: { name: s, key: user }, password: { name: s, key: password } }\n";
        let token = "  authorization: { type: Bearer, credentials: { name: s, key: token } }\n";
        text += &manifest(&format!("header-{state}"), url, &headers);
        text += &manifest(&format!("basic-{state}"), url, basic);
        text += &manifest(&format!("token-{state}"), url, token);
        let proxy = format!(
            "  proxyUrl: {}\n  proxyAuth: {{ username: {{ name: s, key: user }}, password: {{ name: s, key: password }} }}\n",
            url.trim_end_matches('/')
        );
        text += &manifest(&format!("proxy-{state}"), "http://media.test/", &proxy);
    }
    let key = "  tlsConfig: { cert: { secret: { name: s, key: user } }, keySecret: { name: s, key: password } }\n";
    text += &manifest("key", &up.replace("http:", "https:"), key);
    // A value that no header can have: the problem names the key, and not the value.
    text += &manifest("newline", up, "  authorization: { credentials: { name: s, key: newline } }\n");
    text + &format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s, namespace: media }}\n\
         stringData: {{ key: key-{MARKER}, user: user-{MARKER}, password: password-{MARKER}, token: token-{MARKER}, newline: \"a\\n{MARKER}\" }}\n"
    )
}

fn names(text: &str) -> Vec<&str> {
    text.split("metadata: { name: ")
        .skip(1)
        .map(|rest| rest.split(',').next().unwrap())
        .filter(|name| *name != "s")
        .collect()
}

/// The marker, plain and in the encodings that a request has it in.
fn assert_clean(place: &str, text: &str) {
    let basic = STANDARD.encode(format!("user-{MARKER}:password-{MARKER}"));
    for secret in [MARKER, &basic, &basic[..16], &STANDARD.encode(MARKER)] {
        assert!(!text.contains(secret), "{secret:?} is in {place}:\n{text}");
    }
}

async fn stage() -> (TempDir, PathBuf, String, Simulated, Simulated, Arc<Mutex<Vec<HeaderMap>>>) {
    let (up, seen) = server(200).await;
    let (refuses, _) = server(401).await;
    let text = manifests(&up.url(), &refuses.url());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    fs::write(&file, &text).unwrap();
    (folder, file, text, up, refuses, seen)
}

fn sent(seen: &Mutex<Vec<HeaderMap>>, wanted: &str) -> bool {
    let seen = seen.lock().unwrap();
    seen.iter().flat_map(HeaderMap::values).any(|value| value.as_bytes() == wanted.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_debug_shows_no_secret() {
    let (_folder, file, text, _up, _refuses, seen) = stage().await;
    let names = names(&text);
    assert_eq!(names.len(), 14);
    for name in names {
        for debug in [&["--debug"][..], &[]] {
            let mut probe = command(["probe", "--target", name]);
            let said = said(probe.args(debug).arg(&file));
            assert_eq!(said.code, Some(i32::from(!name.ends_with("-up"))), "{name}: {}", said.stderr);
            assert_clean(&format!("what probe of {name} prints"), &said.stdout);
            assert_clean(&format!("the error of {name}"), &said.stderr);
        }
    }
    for header in [&format!("literal-{MARKER}"), &format!("key-{MARKER}"), &format!("Bearer token-{MARKER}")] {
        assert!(sent(&seen, header), "{header} was sent to the target");
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("user-{MARKER}:password-{MARKER}")));
    assert!(sent(&seen, &basic));
    let seen = seen.lock().unwrap();
    let by_proxy = seen.iter().filter(|headers| headers.contains_key("proxy-authorization")).collect::<Vec<_>>();
    assert!(!by_proxy.is_empty() && by_proxy.iter().all(|headers| headers["proxy-authorization"] == basic));
    assert!(by_proxy.iter().all(|headers| !headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_shows_no_secret_on_any_page_nor_in_the_log() {
    let (folder, file, text, _up, _refuses, seen) = stage().await;
    let service = Running::ready(folder.path(), ["--log-level", "trace"]).await;
    for name in names(&text) {
        let path = format!("/probe?target=media/{name}");
        let body = service.body(&path).await;
        assert!(
            body.contains(if name.ends_with("-up") { "probe_success 1" } else { "probe_failure_info{" }),
            "{name}: {body}"
        );
        for path in [path.clone(), format!("{path}&debug=true")] {
            assert_clean(&path, &service.body(&path).await);
        }
    }
    for path in ["/", "/sd", "/api/v1/targets", "/metrics"] {
        assert_clean(path, &service.body(path).await);
    }
    assert!(sent(&seen, &format!("Bearer token-{MARKER}")));

    // What is broken is told without what is in it.
    for (name, broken) in [
        ("half.yaml", format!("kind: Secret\nstringData: {{ a: {MARKER}\n  b: ]\n")),
        ("data.yaml", secret(&format!("data: {{ a: \"{MARKER}?\" }}"))),
        ("twice.yaml", secret(&format!("stringData:\n  {MARKER}: {MARKER}\n  {MARKER}: {MARKER}"))),
        ("proxy.yaml", manifest("proxy", "http://x/", &format!("  proxyUrl: http://user:{MARKER}@proxy:3128\n"))),
        ("url.yaml", manifest("url", &format!("http://user:{MARKER}@media/"), "")),
    ] {
        fs::write(folder.path().join(name), broken).unwrap();
    }
    fs::write(&file, text.replace("spec:\n", "spec:\n  sekret: no\n")).unwrap();
    service.until("/metrics", |_, _| (service.logged("sekret") + service.logged("proxy.yaml") > 1).then_some(())).await;
    assert_clean("the log", &service.log());
    let check = said(command(["check"]).arg(folder.path()));
    assert_eq!(check.code, Some(1));
    assert_clean("what check prints", &check.stdout);
}

fn secret(data: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: t }}\n{data}\n")
}
