//! Pages that a browser was led to by somebody else's name, and requests that do not say clearly for which host they are.

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connections::address;
use crate::support::program::{Running, command, run};

/// Every path that says something of the targets, and one that does not exist.
const PATHS: [&str; 7] = [
    "/",
    "/metrics",
    "/sd",
    "/api/v1/targets",
    "/probe?target=media/rooms",
    "/probe?target=media/rooms&debug=true",
    "/nothing",
];

fn service<const N: usize>(folder: &TempDir, listen: &str, more: [&str; N]) -> Running {
    let targets = folder.path().join("targets.yaml");
    let text = "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: { name: rooms, namespace: media }\n\
         spec: { type: Sora, url: \"http://127.0.0.1:9/\", suspend: true }\n";
    std::fs::write(&targets, text).unwrap();
    let mut command = command(["run", "--targets", targets.to_str().unwrap(), "--listen-address", listen]);
    command.args(more);
    Running::listening(command)
}

/// The answer to a request as it is written.
async fn ask(service: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(address(service)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(service: &Running, path: &str, host: &str) -> String {
    ask(service, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_nothing_is_served_to_a_browser_that_was_led_there_by_a_name() {
    let folder = TempDir::new().unwrap();
    let service = service(&folder, "127.0.0.1:0", ["--web.external-url", "https://exporter.example.com/x"]);
    service.until_status("/-/ready", 200).await;
    for path in PATHS {
        let answer = get(&service, path, "rebound.evil.test:9850").await;
        assert_eq!(status(&answer), 421, "{path}: {answer}");
        assert!(answer.contains("--web.allowed-hosts=rebound.evil.test") && !answer.contains("rooms"), "{answer}");
        for good in ["localhost:9850", "LOCALHOST", "a.localhost", "127.0.0.1:9850", "[::1]", "exporter.example.com"] {
            let expected = if path == "/nothing" { 404 } else { 200 };
            assert_eq!(status(&get(&service, path, good).await), expected, "{path} for {good}");
        }
    }
    for path in ["/-/healthy", "/-/ready", "/x/-/healthy"] {
        assert_eq!(status(&get(&service, path, "rebound.evil.test").await), 200, "{path} says nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn elsewhere_any_name_is_served_until_some_are_allowed() {
    let folder = TempDir::new().unwrap();
    let open = service(&folder, "0.0.0.0:0", []);
    let closed = service(&folder, "0.0.0.0:0", ["--web.allowed-hosts", "one.test,*.svc"]);
    for service in [&open, &closed] {
        service.until_status("/-/ready", 200).await;
    }
    for (host, allowed) in [
        ("exporter.monitoring.svc:9850", true),
        ("one.test", true),
        ("10.1.2.3:9850", true), // as Prometheus scrapes a pod
        ("[fd00::1]:9850", true),
        ("svc", false),
        ("x.one.test", false),
        ("one.test.evil.test", false),
    ] {
        assert_eq!(status(&get(&open, "/metrics", host).await), 200, "{host}");
        assert_eq!(status(&get(&closed, "/metrics", host).await), if allowed { 200 } else { 421 }, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_an_unclear_host_is_a_bad_one() {
    let folder = TempDir::new().unwrap();
    let service = service(&folder, "127.0.0.1:0", []);
    service.until_status("/-/ready", 200).await;
    let close = "Connection: close\r\n\r\n";
    for (request, expected) in [
        (format!("GET /sd HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n{close}"), 400),
        (format!("GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n{close}"), 400),
        (format!("GET /sd HTTP/1.1\r\n{close}"), 400),
        (format!("GET /sd HTTP/1.1\r\nHost:\r\n{close}"), 400),
        (format!("GET /sd HTTP/1.1\r\nHost: user@localhost\r\n{close}"), 400),
        (format!("GET /sd HTTP/1.1\r\nHost: localhost:99999\r\n{close}"), 400),
        (format!("GET /sd HTTP/1.1\r\nHost: localhost,evil.test\r\n{close}"), 400),
        // The target counts, and not the header.
        (format!("GET http://evil.test/sd HTTP/1.1\r\nHost: localhost\r\n{close}"), 421),
        (format!("GET http://localhost/sd HTTP/1.1\r\nHost: evil.test\r\n{close}"), 200),
        (format!("GET http://user@localhost/sd HTTP/1.1\r\nHost: localhost\r\n{close}"), 400),
        // Without a Host, as HTTP/1.0 allows it, there is no name that could be allowed; a load balancer may ask so for our health.
        ("GET /sd HTTP/1.0\r\n\r\n".to_owned(), 421),
        ("GET /-/ready HTTP/1.0\r\n\r\n".to_owned(), 200),
    ] {
        let answer = ask(&service, &request).await;
        assert_eq!(status(&answer), expected, "{request:?}: {answer}");
    }
    let targets = ask(&service, &format!("GET http://localhost:1/sd HTTP/1.1\r\nHost: localhost:2\r\n{close}")).await;
    assert!(!targets.contains("localhost:2"), "{targets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_ever_taken_for_another_type() {
    let folder = TempDir::new().unwrap();
    let service = service(&folder, "127.0.0.1:0", []);
    for when in ["as soon as it listens", "when it is ready"] {
        for path in PATHS.iter().chain(&["/-/healthy", "/-/ready", "/probe"]) {
            for host in ["localhost", "evil.test", ""] {
                let answer = get(&service, path, host).await;
                assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{when}, {path}: {answer}");
            }
        }
        service.until_status("/-/ready", 200).await;
    }
}

#[test]
fn a_host_that_is_none_is_refused_in_one_line_that_says_what_to_write() {
    for bad in ["http://exporter.example.com", "exporter.example.com:9850", "a/b", "*x"] {
        let said = run(["run", "--web.allowed-hosts", bad]);
        assert_eq!((said.code, said.stderr.lines().count()), (Some(2), 1), "{bad}: {}", said.stderr);
        assert!(said.stderr.contains("*.example.com"), "{}", said.stderr);
    }
}
