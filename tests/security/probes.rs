//! Secrets in every field of the types that probe, and servers that repeat them wherever they can.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use scrapetarget_exporter::crd::openapi;
use scrapetarget_exporter::kind::Type;
use serde_json::Value;

use super::support::program::{Running, command, said};

/// Values of Secrets. No form of them may be anywhere.
const SECRETS: [(&str, &str); 6] = [
    ("token", "tok3n-Zq8xw0v7-LkjH21"),
    ("key", "k3y_Wm4tR9pQ2sDd7"),
    ("password", "pA55w0rd-of-broker-9"),
    ("body", "b0dyOfSecret-77xKq"),
    ("send", "s3ndOfSecret-41vRt"),
    ("user", "us3rOfSecret-63hGy"),
];

/// Credentials that people wrote into the spec itself although they should not. No page and no log may show them.
const WRITTEN: [&str; 4] = ["wr1ttenHeader-82pLm", "wr1ttenBody-55tNb", "wr1ttenSend-19cVf", "wr1ttenMetadata-37zQx"];

/// A web server that repeats all that it got: as its status, in a redirect, as a header and as its body.
async fn web() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                let mut length = None;
                while length.is_none_or(|length| got.len() < length) {
                    let mut more = [0; 4096];
                    match stream.read(&mut more).await {
                        Ok(count) if count > 0 => got.extend_from_slice(&more[..count]),
                        _ => return,
                    }
                    length = request_length(&got);
                }
                let got = String::from_utf8_lossy(&got).into_owned();
                let line: String = got.replace(['\r', '\n'], " ");
                let path: String = line.chars().filter(char::is_ascii_alphanumeric).collect();
                let status = match got.split(' ').nth(1).unwrap() {
                    "/moved" => format!("302 Found\r\nlocation: http://{address}/{path}?q={path}"),
                    "/refused" => "401 Unauthorized".to_owned(),
                    "/broken" => format!("500 {line}"),
                    _ => "200 OK".to_owned(),
                };
                let length = got.len();
                let answer = format!("HTTP/1.1 {status}\r\nx-got: {line}\r\ncontent-length: {length}\r\n\r\n{got}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address.to_string()
}

/// How long a request is, if all of its head is there.
fn request_length(got: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(got).to_lowercase();
    let (head, _) = text.split_once("\r\n\r\n")?;
    let body = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    Some(head.len() + 4 + body.parse::<usize>().unwrap())
}

/// A server on a TCP port that repeats each line.
async fn port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let _ = write.write_all(format!("{line}\n").as_bytes()).await;
                }
            });
        }
    });
    address.to_string()
}

/// Targets with secrets in every field, and their names.
async fn stage() -> (TempDir, String, Vec<&'static str>) {
    let (web, port) = (web().await, port().await);
    let [header, body, send, metadata] = WRITTEN;
    let basic = "basicAuth: { username: { name: s, key: user }, password: { name: s, key: password } }";
    let bearer = "authorization: { credentials: { name: s, key: token } }";
    let headers = format!(
        "headers: [{{ name: x-key, secretKeyRef: {{ name: s, key: key }} }}, {{ name: x-own, value: {header} }}]"
    );
    let request = format!("http: {{ method: POST, body: {body}, validStatusCodes: [200] }}");
    let of_secret = "http: { method: POST, bodySecretRef: { name: s, key: body }, failIfBodyMatchesRegexp: [POST] }";
    let said = "{ expect: \"(.+)\", labels: [{ name: said, value: \"${1}\" }] }";
    let grpc = format!("grpc: {{ service: a, metadata: {{ x-own: [{metadata}] }} }}");
    let encoded = STANDARD.encode(send);
    let dialogue = |steps: &str| format!("timeout: 1s, tcp: {{ queryResponse: [{steps}] }}");
    let targets = [
        ("refused", "Http", format!("http://{web}/refused"), format!("{basic}, {headers}, {request}")),
        ("moved", "Http", format!("http://{web}/moved"), format!("{bearer}, {headers}, {request}")),
        ("broken", "Http", format!("http://{web}/broken"), format!("{bearer}, {headers}, {of_secret}")),
        ("matched", "Http", format!("http://{web}/"), format!("{basic}, {headers}, {of_secret}")),
        (
            "said",
            "Tcp",
            format!("tcp://{port}"),
            dialogue(&format!("{{ sendSecretRef: {{ name: s, key: send }} }}, {said}")),
        ),
        ("unmatched", "Tcp", format!("tcp://{port}"), dialogue(&format!("{{ send: {send} }}, {{ expect: nothing }}"))),
        (
            "binary",
            "Tcp",
            format!("tcp://{port}"),
            dialogue(&format!("{{ sendBase64: {encoded:?}, newline: true }}, {{ expectBytes: otherwise }}")),
        ),
        (
            "upgrade",
            "WebSocket",
            format!("ws://{web}/refused"),
            format!(
                "{bearer}, {headers}, websocket: {{ queryResponse: [{{ send: {send} }}, {{ sendBase64: {encoded:?} }}, \
                 {{ sendSecretRef: {{ name: s, key: send }} }}] }}"
            ),
        ),
        ("health", "Grpc", format!("grpc://{port}"), format!("timeout: 1s, {bearer}, {headers}, {grpc}")),
    ];
    let mut text = String::new();
    for (name, kind, url, more) in &targets {
        write!(
            text,
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\n\
             spec: {{ type: {kind}, url: \"{url}\", interval: 1h, maxAge: 1h, {more} }}\n---\n"
        )
        .unwrap();
    }
    let values: Vec<String> = SECRETS.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let values = values.join(", ");
    write!(
        text,
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s, namespace: media }}\nstringData: {{ {values} }}\n"
    )
    .unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file, targets.iter().map(|(name, ..)| *name).collect())
}

fn fold(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// No secret. Of a text that people read also none that was written into the spec: in series the author of a target may want what a server
/// repeats.
fn assert_clean(place: &str, text: &str, is_read: bool) {
    let folded = fold(text);
    let (password, user) = (SECRETS[2].1, SECRETS[5].1);
    let pair = STANDARD.encode(format!("{user}:{password}"));
    let secrets = SECRETS.iter().map(|(_, value)| *value).chain([pair.as_str()]);
    let encoded = STANDARD.encode(WRITTEN[2]);
    let mut sought: Vec<&str> = secrets.collect();
    if is_read {
        sought.extend(WRITTEN);
        sought.push(&encoded);
    }
    for secret in sought {
        assert!(!folded.contains(&fold(secret)), "{secret} is in {place}:\n{text}");
    }
}

const METRICS: &str = "\nThe metrics of this answer";
const CONFIGURATION: &str = "\nThe effective configuration";

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_probes_stand_nowhere() {
    let (_folder, file, names) = stage().await;
    for flags in [&["--log-level", "trace"][..], &["--log-level", "trace", "--debug-bodies"]] {
        let running = Running::ready(std::path::Path::new(&file), flags).await;
        let mut debugs = Vec::new();
        for name in &names {
            let series = running.body(&format!("/probe?target=media/{name}")).await;
            assert!(series.contains("\nprobe_call_success{"), "{name} was not probed: {series}");
            assert_clean(&format!("the series of {name}"), &series, false);
            let debug = running.body(&format!("/probe?target=media/{name}&debug=true")).await;
            assert_clean(&format!("the debug page of {name}"), debug.split_once(METRICS).unwrap().0, true);
            debugs.push(debug.split_once(CONFIGURATION).unwrap().1.to_owned());
            assert_clean(&format!("the configuration of {name}"), debugs.last().unwrap(), true);
            if *name == "refused" {
                let body = debug.lines().find(|line| line.starts_with("     body:  ")).unwrap();
                assert_eq!(body.contains("not shown"), !flags.contains(&"--debug-bodies"), "{body}");
            }
        }
        for path in ["/api/v1/targets", "/", "/metrics", "/sd"] {
            assert_clean(path, &running.body(path).await, true);
        }
        let log = running.log();
        assert_clean("the log", &log, true);
        for said in ["message=called", "address=127.0.0.1", "message=probed", "event=\"connected to 127.0.0.1:"] {
            assert!(log.contains(said), "{said} is not in {log}");
        }
        // They were there to be found: what is masked says so.
        for (name, line) in [
            ("refused", "  body: <masked>\n"),
            ("unmatched", "send: <masked>\n"),
            ("binary", "sendBase64: <masked>\n"),
            ("upgrade", "send: <masked>\n"),
            ("health", "    - <masked>\n"),
        ] {
            let shown = &debugs[names.iter().position(|found| *found == name).unwrap()];
            assert!(shown.contains(line), "{line:?} in {shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_probe_shows_no_secret_of_a_probe() {
    let (_folder, file, names) = stage().await;
    for name in names {
        let mut probe = command(["probe", &file, "--target", name, "--debug", "--debug-bodies"]);
        let said = tokio::task::spawn_blocking(move || said(&mut probe)).await.unwrap();
        let before = said.stdout.split_once(METRICS).unwrap_or_else(|| panic!("{name}: {}", said.stderr)).0;
        assert_clean(name, before, true);
        assert_clean(name, &(said.stdout.clone() + &said.stderr), false);
    }
}

/// Fields of the kinds, as paths, whose name says that they are sent to a server and may hold whatever a server wants to know.
fn suspects(schema: &Value, path: &str, found: &mut Vec<String>) {
    const NAMES: &[&str] =
        &["body", "send", "sendBase64", "metadata", "password", "token", "username", "credentials", "value"];
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // The name of a Secret and a key of it tell nothing.
        let is_reference = field["x-kubernetes-map-type"] == "atomic" && field.pointer("/properties/key").is_some();
        if NAMES.contains(&name.as_str()) && !is_reference {
            found.push(path);
            continue;
        }
        suspects(field, &path, found);
        suspects(&field["items"], &format!("{path}[]"), found);
        suspects(&field["additionalProperties"], &format!("{path}{{}}"), found);
    }
}

#[test]
fn every_field_of_a_kind_that_is_sent_is_confidential() {
    let schema = openapi();
    for kind in Type::ALL {
        let (block, mut found) = (kind.block(), Vec::new());
        let block_schema = schema.pointer(&format!("/properties/spec/properties/{block}")).unwrap();
        suspects(block_schema, &format!("spec.{block}"), &mut found);
        for path in &found {
            let covered = |place: &&str| path == place || path.starts_with(&format!("{place}."));
            let is_label = path.ends_with(".labels[].value");
            assert!(
                is_label || kind.confidential().iter().any(covered),
                "{path} is shown: {kind} must name it in CONFIDENTIAL"
            );
        }
        for place in kind.confidential() {
            assert!(place.starts_with(&format!("spec.{block}.")), "{place}");
        }
    }
}
