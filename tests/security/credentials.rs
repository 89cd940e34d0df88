//! A server repeats the credentials that it was sent, in every spelling that we know and every place that it may write to.

use std::fmt::Write as _;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::attack::{Attacked, Server};
use super::support::program::{Running, command, said};

const TOKEN: &str = "tok3n-Zq8xw0v7/LkjH21+pv";
const KEY: &str = "k3y_Wm4tR9pQ2sDd7";
const PASSWORD: &str = "pA55-w0rd:of%the broker";

/// Stands in everything that a server writes beside the credentials: bodies are nobody else's to read.
const BODY: &str = "qzxjkvwq internal page";

/// From a text to what a server writes.
type Write = fn(&str) -> String;

/// How a server writes what it got.
const SPELLINGS: [(&str, Write); 11] = [
    ("plain", ToOwned::to_owned),
    ("control", |text| apart(text, "\u{1}")),
    ("escape", |text| apart(text, "\u{1b}[0m\u{7f}").replace("[0m", "")),
    ("width", |text| apart(text, "\u{200b}\u{2060}")),
    ("direction", |text| apart(text, "\u{202e}\u{e0041}")),
    ("blank", |text| apart(text, " \t")),
    ("dash", |text| apart(text, "-")),
    ("upper", str::to_uppercase),
    ("percent", |text| text.bytes().fold(String::new(), |out, byte| format!("{out}%{byte:02X}"))),
    ("html", |text| text.bytes().fold(String::new(), |out, byte| format!("{out}&#{byte};"))),
    ("base64", |text| format!("{} {}", STANDARD.encode(text), URL_SAFE_NO_PAD.encode(format!("x{text}")))),
];

/// Where it writes it: the type of the target, and the whole answer.
const PLACES: [(&str, &str, Write); 14] = [
    ("refusal", "Sora", |text| answer("401 Unauthorized", "", &format!("{BODY} {text}"))),
    ("forbidden", "Sora", |text| answer("403 Forbidden", "", &format!("{{\"error\":\"{BODY} {text}\"}}"))),
    ("broken", "Orion", |text| answer("500 Internal Server Error", "", &format!("<html>{text} {BODY}"))),
    ("reason", "Sora", |text| answer(&format!("403 {BODY} {}", line(text)), "", "{}")),
    ("redirect", "Sora", |text| {
        answer("302 Found", &format!("location: http://{}/\r\n", line(text)), &format!("{BODY} {text}"))
    }),
    ("challenge", "Sora", |text| answer("401 Unauthorized", &format!("www-authenticate: {}\r\n", line(text)), "")),
    ("status-line", "Sora", |text| format!("{BODY} {text}\r\n\r\n")),
    ("header", "Sora", |text| format!("HTTP/1.1 200 OK\r\n{BODY}{text}\r\n\r\n")),
    ("schema", "Agent", |text| answer("200 OK", "", &format!("{{\"schema\":{}}}", json(text)))),
    ("version", "Agent", |text| {
        answer("200 OK", "", &format!("{{\"schema\":\"mediasoup-stats/v1{}\"}}", json(text).trim_matches('"')))
    }),
    ("services", "Orion", |text| answer("200 OK", "", &format!("{{\"services\":{}}}", json(text)))),
    ("string", "Sora", |text| answer("200 OK", "", &json(text))),
    ("half", "Sora", |text| answer("200 OK", "", &format!("{{{}", json(text)))),
    ("exposition", "Prometheus", |text| answer("200 OK", "", &format!("{BODY} {text}"))),
];

fn apart(text: &str, separator: &str) -> String {
    text.chars().flat_map(|c| std::iter::once(c).chain(separator.chars())).collect()
}

/// What may stand in a line of a header.
fn line(text: &str) -> String {
    text.replace(['\r', '\n', '\u{7f}', '\u{1b}', '\u{1}'], ";")
}

fn json(text: &str) -> String {
    serde_json::to_string(&format!("{BODY} {text}")).unwrap()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// A server whose path says how it repeats the credentials: `/PLACE/SPELLING/…`. `/honest/` only asks for them.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).await.is_err() {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let _ = stream.write_all(answer_to(&head).as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("http://{address}")
}

fn answer_to(head: &str) -> String {
    let header =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default();
    let (authorization, key) = (header("authorization"), header("x-api-key"));
    assert!(!authorization.is_empty(), "the server does not get what it needs: {head}");
    let credentials = authorization.split_once(' ').unwrap().1;
    let decoded = STANDARD.decode(credentials).ok().and_then(|pair| String::from_utf8(pair).ok()).unwrap_or_default();
    let path: Vec<&str> = head.split(' ').nth(1).unwrap().split('/').skip(1).collect();
    if path[0] == "honest" {
        return answer("200 OK", "content-type: text/plain\r\n", "media_rooms{room=\"tok3n\"} 3\n");
    }
    if path[0] == "series" {
        let text = format!(
            "# HELP media_help It is {key}.\nmedia_help 1\nmedia_rooms{{room=\"{credentials}\"}} 1\nmedia_rooms{{room=\"a\"}} 2\n\
             media_keys{{key=\"so {key} is it\"}} 1\n# {BODY}\nmedia_{key} 1\nmedia_up 1\n"
        );
        return answer("200 OK", "", &text);
    }
    let spelled = SPELLINGS.iter().find(|(name, _)| *name == path[1]).unwrap().1;
    let text = format!("{} {} {} {}", spelled(authorization), spelled(credentials), spelled(&decoded), spelled(key));
    PLACES.iter().find(|(name, ..)| *name == path[0]).unwrap().2(&text)
}

fn manifest(out: &mut String, name: &str, kind: &str, url: &str, basic: bool) {
    let (kind, block) = match kind {
        "Agent" => ("Mediasoup", ""),
        "Prometheus" => ("Mediasoup", "  mediasoup: { source: Prometheus }\n"),
        kind => (kind, ""),
    };
    let authorization = if basic {
        "  basicAuth: { username: { name: s, key: user }, password: { name: s, key: password } }\n"
    } else {
        "  authorization: { credentials: { name: s, key: token } }\n"
    };
    write!(
        out,
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\nspec:\n  \
         type: {kind}\n  url: {url}\n  interval: 1h\n  maxAge: 1h\n{block}{authorization}  headers:\n    - {{ name: x-api-key, secretKeyRef: {{ name: s, key: key }} }}\n---\n"
    )
    .unwrap();
}

/// The targets of every place and spelling, and their names.
async fn stage() -> (TempDir, PathBuf, Vec<String>) {
    let server = echo().await;
    let (mut text, mut names) = (String::new(), Vec::new());
    for (place, kind, _) in PLACES {
        for (number, (spelling, _)) in SPELLINGS.iter().enumerate() {
            let name = format!("{place}-{spelling}");
            manifest(&mut text, &name, kind, &format!("{server}/{place}/{spelling}/"), number % 2 == 1);
            names.push(name);
        }
    }
    manifest(&mut text, "series", "Prometheus", &format!("{server}/series/"), false);
    manifest(&mut text, "honest", "Prometheus", &format!("{server}/honest/"), false);
    names.push("series".to_owned());
    write!(
        text,
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s, namespace: media }}\n\
         stringData: {{ token: {TOKEN:?}, key: {KEY:?}, user: broker, password: {PASSWORD:?} }}\n"
    )
    .unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    std::fs::write(&file, text).unwrap();
    (folder, file, names)
}

fn fold(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// No credential in any spelling, and without `bodies` nothing else that a server wrote.
fn assert_clean(place: &str, text: &str, bodies: bool) {
    let folded = fold(text);
    let mut spelled: Vec<String> = [TOKEN, KEY, PASSWORD].map(fold).into();
    for secret in [TOKEN, KEY, PASSWORD] {
        spelled.extend(SPELLINGS[8..].iter().map(|(_, spell)| fold(&spell(secret))));
    }
    spelled.push(fold(&STANDARD.encode(format!("broker:{PASSWORD}"))));
    for secret in spelled {
        // A part is as bad: half of it is in no text by accident.
        let half = &secret[..secret.len().div_ceil(2).max(10)];
        assert!(!folded.contains(half), "{half:?} is in {place}:\n{text}");
    }
    assert!(bodies || !text.contains("qzxjkvwq"), "a body is in {place}:\n{text}");
}

/// Asks for every target, which polls it, and then for all of them.
async fn api(running: &Running, names: &[String]) -> String {
    for name in names.iter().map(String::as_str).chain(["honest"]) {
        let exposition = running.body(&format!("/probe?target=media/{name}")).await;
        assert_clean(name, &exposition, false);
        assert!(exposition.contains("\nprobe_call_success{"), "{name} was not polled: {exposition}");
    }
    running.body("/api/v1/targets").await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_a_server_repeats_and_what_it_writes_beside_them_stand_nowhere() {
    let (_folder, file, names) = stage().await;
    let running = Running::ready(&file, ["--log-level", "trace"]).await;
    let api = api(&running, &names).await;
    assert_clean("the API", &api, false);
    assert_clean("the page", &running.body("/").await, false);
    assert_clean("/metrics", &running.body("/metrics").await, false);
    for name in &names {
        let debug = running.body(&format!("/probe?target=media/{name}&debug=true")).await;
        assert_clean(&format!("the debug page of {name}"), &debug, false);
    }
    assert_clean("the log", &running.log(), false);

    // The sentences help all the same.
    for sentence in [
        "answered 401 Unauthorized, ",
        "answered 403 Forbidden, 2 bytes of JSON",
        "answered 500 Internal Server Error, ",
    ] {
        assert!(api.contains(sentence), "{sentence}: {api}");
    }
    assert!(
        api.contains("answered 302 Found; redirects are not followed")
            && api.contains("\\\"services\\\" is not an object"),
        "{api}"
    );

    let series = running.body("/probe?target=media/series").await;
    assert!(series.contains("media_rooms{room=\"a\"} 2\n") && series.contains("media_up 1\n"), "{series}");
    assert!(series.contains("\nprobe_success 1\n") && series.contains("\nprobe_skipped_fields 4\n"), "{series}");
    let honest = running.body("/probe?target=media/honest").await;
    assert!(
        honest.contains("media_rooms{room=\"tok3n\"} 3\n") && honest.contains("\nprobe_skipped_fields 0\n"),
        "{honest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_debug_bodies_the_debug_page_alone_has_their_beginning_and_no_credentials_in_it() {
    let (_folder, file, names) = stage().await;
    let running = Running::ready(&file, ["--log-level", "trace", "--debug-bodies"]).await;
    assert_clean("the API", &api(&running, &names).await, false);
    assert_clean("the page", &running.body("/").await, false);
    let mut shown = 0;
    for name in &names {
        let debug = running.body(&format!("/probe?target=media/{name}&debug=true")).await;
        assert_clean(&format!("the debug page of {name}"), &debug, true);
        let is_masked = debug.lines().any(|line| line.contains("body:  ") && line.contains("<masked>"));
        shown += usize::from(debug.contains(BODY) && is_masked);
    }
    assert!(shown > names.len() / 2, "{shown} of {}", names.len());
    assert_clean("the log", &running.log(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_probe_shows_bodies_only_when_it_is_told_to_and_credentials_never() {
    let (_folder, file, _) = stage().await;
    let file = file.to_str().unwrap();
    for (flags, bodies) in
        [(&[][..], false), (&["--debug"], false), (&["--debug", "--debug-bodies"], true), (&["--debug-bodies"], false)]
    {
        for name in ["refusal-control", "forbidden-width", "version-plain", "broken-percent"] {
            let mut probe = command(["probe", file, "--target", name]);
            let said = tokio::task::spawn_blocking(move || said(probe.args(flags))).await.unwrap();
            let (place, text) = (format!("probe {name} {flags:?}"), said.stdout + &said.stderr);
            assert_eq!(said.code, Some(1), "{text}");
            assert_clean(&place, &text, bodies);
            assert_eq!(text.contains(BODY), bodies, "{place}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_thousands_of_words_delay_nobody() {
    let server = Server::saying("media_rooms 3\n".repeat(1000)).await;
    let mut targets =
        "---\napiVersion: v1\nkind: Secret\nmetadata: { name: words, namespace: tenant }\nstringData:\n".to_owned();
    for header in 0..16 {
        let words: Vec<String> =
            (0..1800_u32).map(|word| format!("{:08x}", (header * 1800 + word).wrapping_mul(2_654_435_761))).collect();
        let _ = writeln!(targets, "  key-{header}: \"{}\"", words.join(" "));
    }
    let headers = (0..16).map(|i| format!("{{ name: x-auth{i}, secretKeyRef: {{ name: words, key: key-{i} }} }}"));
    let more = format!("mediasoup: {{ source: Prometheus }}\nheaders: [{}]", headers.collect::<Vec<_>>().join(", "));
    for i in 0..4 {
        targets += &server.target("tenant", &format!("words-{i}"), "Mediasoup", &more);
    }
    let attacked = Attacked::start(&targets, &[]).await;
    let watch = attacked.watch();
    attacked.all_up(6).await;
    let asked = server.asked();
    attacked.program.until("/-/healthy", |_, _| (server.asked() >= asked + 20).then_some(())).await;
    attacked.unnoticed(watch).await;
}
