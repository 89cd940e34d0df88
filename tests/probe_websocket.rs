//! Type WebSocket against signalling servers: dialogues as of real ones, what is exported whatever happens, and servers that mean ill.

#![expect(clippy::unwrap_used, reason = "a test may")]
#![allow(clippy::needless_pass_by_value, reason = "options are written where they are used")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use scrapetarget_exporter::kind::Reason;
use serde_json::{Value, json};
use simulators::Mode;
use simulators::signalling::{Signalling, SignallingFault as Fault};
use support::conversation::{Conversation, Conversations};
use support::faults::closed_port;
use support::probing::{Certificate, Probed, mistakes_in, target_of};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const YEAR_2040: f64 = 2_208_988_800.0;
const PHASES: [&str; 5] = ["resolve", "connect", "processing", "transfer", "ping"];
const STATUS: &str = "probe_websocket_status_code";
const UPGRADED: &str = "probe_websocket_connection_upgraded";
const REGEX: &str = "probe_websocket_failed_due_to_regex";
const CLOSE_CODE: &str = "probe_websocket_close_code";

/// A server that each connection is served by.
async fn serving(server: Signalling, tls: Option<Arc<ServerConfig>>) -> Conversations {
    let handle = move |conversation: Conversation| {
        let server = server.clone();
        async move {
            server.serve(conversation.stream).await;
            Ok(())
        }
    };
    Conversations::start("127.0.0.1", tls, handle).await
}

/// A server that accepts every upgrade, and then does what a function says.
async fn after_upgrade<F>(then: impl Fn(Conversation) -> F + Clone + Send + Sync + 'static) -> Conversations
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let handle = move |mut conversation: Conversation| {
        let then = then.clone();
        async move {
            let head = conversation.until(b"\r\n\r\n").await?;
            let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
            let accept = derive_accept_key(key.as_bytes());
            let lines = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
            conversation.say(format!("{lines}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")).await?;
            then(conversation).await
        }
    };
    Conversations::start("127.0.0.1", None, handle).await
}

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let header = match length {
        0..=125 => vec![first, u8::try_from(length).unwrap()],
        126..=0xffff => [&[first, 126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
        _ => [&[first, 127][..], &u64::try_from(length).unwrap().to_be_bytes()].concat(),
    };
    [header, payload.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// The next frame of the client: its first byte, and what it carries.
async fn heard(conversation: &mut Conversation) -> io::Result<(u8, Vec<u8>)> {
    let header = conversation.bytes(2).await?;
    assert!(header[1] & 0x80 != 0, "a client masks its frames");
    let length = match header[1] & 0x7f {
        126 => usize::from(u16::from_be_bytes(conversation.bytes(2).await?.try_into().unwrap())),
        127 => usize::try_from(u64::from_be_bytes(conversation.bytes(8).await?.try_into().unwrap())).unwrap(),
        short => usize::from(short),
    };
    let mask = conversation.bytes(4).await?;
    let payload = conversation.bytes(length).await?;
    Ok((header[0], payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()))
}

fn spec(url: String, options: Value) -> Value {
    json!({ "type": "WebSocket", "url": url, "websocket": options })
}

/// A probe of `/signaling`.
async fn probe(server: &Conversations, options: Value) -> Probed {
    Probed::of(spec(format!("ws://{}/signaling", server.address), options)).await
}

/// The same with an authority that is trusted.
async fn probe_with(server: &Conversations, options: Value, ca: &str) -> Probed {
    let spec = spec(format!("wss://{}/signaling", server.address), options);
    Probed::changed(spec, |target| Arc::make_mut(&mut target.source).connection.tls.ca = Some(ca.as_bytes().into()))
        .await
}

/// A spec whose probe has little time.
async fn probe_briefly(server: &Conversations, options: Value) -> Probed {
    let mut spec = spec(format!("ws://{}/signaling", server.address), options);
    spec["timeout"] = "400ms".into();
    Probed::of(spec).await
}

fn phase(name: &str) -> String {
    format!("probe_websocket_duration_seconds{{phase=\"{name}\"}}")
}

/// What is there whatever becomes of a probe.
#[track_caller]
fn has_what_is_always_there(probed: &Probed) {
    for family in [STATUS, UPGRADED, REGEX, CLOSE_CODE, "probe_websocket_tls_duration_seconds", "probe_ip_protocol"] {
        probed.value(family);
    }
    for name in PHASES {
        probed.value(&phase(name));
    }
}

#[tokio::test]
async fn an_upgrade_is_enough_without_a_dialogue() {
    let server = serving(Signalling::default(), None).await;
    let probed = Probed::of(json!({ "type": "WebSocket", "url": format!("ws://{}/signaling", server.address) })).await;
    probed.succeeded();
    has_what_is_always_there(&probed);
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED), probed.value(REGEX)), (101.0, 1.0, 0.0));
    assert_eq!(probed.value(CLOSE_CODE), 1000.0);
    assert_eq!(probed.value("probe_call_http_status_code{call=\"handshake\"}"), 101.0);
    assert_eq!(probed.value("probe_ip_protocol"), 4.0);
    assert!(probed.value(&phase("connect")) > 0.0 && probed.value(&phase("processing")) > 0.0);
    for name in ["transfer", "ping"] {
        assert_eq!(probed.value(&phase(name)), 0.0);
    }
    assert_eq!(probed.value("probe_websocket_tls_duration_seconds"), 0.0);
    assert!(!probed.has("probe_websocket_subprotocol_info") && !probed.has("probe_tls_version_info"));
}

/// What the tests of the blackbox exporter are about.
#[tokio::test]
async fn the_cases_of_the_blackbox_exporter_have_the_same_results() {
    let echo = after_upgrade(async |mut conversation: Conversation| {
        loop {
            match heard(&mut conversation).await? {
                (0x88, payload) => conversation.say(frame(0x88, &payload)).await?,
                (_, payload) => conversation.say(frame(0x81, &payload)).await?,
            }
        }
    })
    .await;
    let probed = probe(&echo, json!({})).await;
    probed.succeeded();

    let probed = probe(&echo, json!({ "queryResponse": [{ "send": "hello" }, { "expect": "^hello$" }] })).await;
    probed.succeeded();
    assert_eq!((probed.value(REGEX), probed.value(CLOSE_CODE)), (0.0, 1000.0));
    assert!(probed.value(&phase("transfer")) > 0.0);

    let probed = probe(&echo, json!({ "queryResponse": [{ "send": "hello" }, { "expect": "goodbye" }] })).await;
    probed.failed(Reason::Match);
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED), probed.value(REGEX)), (101.0, 1.0, 1.0));
    assert!(probed.message.contains("spec.websocket.queryResponse[1]"), "{}", probed.message);

    let refusing = Signalling::default();
    refusing.switch().set(Mode::Status(503));
    let probed = probe(&serving(refusing, None).await, json!({})).await;
    probed.failed(Reason::HttpStatus);
    has_what_is_always_there(&probed);
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED), probed.value(CLOSE_CODE)), (503.0, 0.0, 0.0));
}

#[tokio::test]
async fn signalling_of_sora_needs_no_seat_of_its_licence() {
    let server = serving(Signalling::default(), None).await;
    let probed = probe(&server, json!({ "ping": true })).await;
    probed.succeeded();
    assert!(probed.value(&phase("ping")) > 0.0);
    assert_eq!(probed.value(CLOSE_CODE), 1000.0);
    // Who has a seat for it can have a whole offer.
    let connect = r#"{"type":"connect","role":"recvonly","channel_id":"probe"}"#;
    let steps = json!([{ "send": connect }, { "expect": r#""type":"offer""# }]);
    probe(&server, json!({ "queryResponse": steps })).await.succeeded();
}

#[tokio::test]
async fn signalling_of_the_demo_of_mediasoup_is_a_dialogue_in_its_subprotocol() {
    let server = serving(Signalling::default(), None).await;
    let request = r#"{"request":true,"id":17,"method":"getRouterRtpCapabilities","data":{}}"#;
    let options = json!({
        "subprotocols": ["protoo"],
        "origin": "https://demo.example.com",
        "queryResponse": [{ "send": request }, { "expect": r#""ok":true"#, "skipUnmatched": true }],
        "ping": true,
    });
    let url = |query: &str| format!("ws://{}/{query}", server.address);
    let probed = Probed::of(spec(url("?roomId=probe&peerId=probe"), options.clone())).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_websocket_subprotocol_info{subprotocol=\"protoo\"}"), 1.0);
    let probed = Probed::of(spec(url("?roomId=probe"), options)).await;
    probed.failed(Reason::HttpStatus);
    assert_eq!(probed.value(STATUS), 400.0);
    let probed = Probed::of(spec(url("?roomId=probe&peerId=probe"), json!({}))).await;
    probed.failed(Reason::Auth);
    assert!(!probed.has("probe_websocket_subprotocol_info"));
}

#[tokio::test]
async fn signalling_of_socket_io_and_janus_is_understood() {
    let server = serving(Signalling::default(), None).await;
    let socket_io = format!("ws://{}/socket.io/?EIO=4&transport=websocket", server.address);
    let open = json!({ "queryResponse": [{ "expect": r#"^0\{"sid""#, "send": "40" }, { "expect": r#"^40\{"sid""# }] });
    Probed::of(spec(socket_io, open)).await.succeeded();

    let janus = json!({
        "subprotocols": ["janus-protocol"],
        "queryResponse": [
            { "send": r#"{"janus":"ping","transaction":"probe"}"# },
            { "expect": r#""janus":"pong".*"transaction":"(?P<tag>\w+)""#, "send": r#"{"janus":"ping","transaction":"${tag}-$1"}"# },
            { "expect": "probe-probe" },
        ],
    });
    Probed::of(spec(format!("ws://{}/", server.address), janus)).await.succeeded();
}

#[tokio::test]
async fn every_fault_of_a_handshake_has_its_reason_and_a_sentence() {
    for (fault, reason, says) in [
        (Fault::WrongAccept, Reason::Protocol, "Sec-WebSocket-Accept"),
        (Fault::NoUpgrade, Reason::Response, "Upgrade: websocket"),
        (Fault::UnaskedSubprotocol, Reason::Protocol, "subprotocol"),
        (Fault::UnaskedExtension, Reason::Protocol, "extension"),
    ] {
        let probed = probe(&serving(Signalling::default().with(fault), None).await, json!({ "ping": true })).await;
        probed.failed(reason);
        has_what_is_always_there(&probed);
        assert!(probed.message.contains(says), "{fault:?}: {}", probed.message);
        assert_eq!((probed.value(STATUS), probed.value(UPGRADED)), (101.0, 0.0), "{fault:?}");
    }
    let server = serving(Signalling::default().with(Fault::NoSubprotocol), None).await;
    let options = json!({ "subprotocols": ["protoo"] });
    let probed = Probed::of(spec(format!("ws://{}/?roomId=a&peerId=b", server.address), options)).await;
    probed.failed(Reason::Response);
    assert!(probed.message.contains("none of websocket.subprotocols"), "{}", probed.message);
}

#[tokio::test]
async fn every_fault_of_a_message_has_its_reason_and_a_sentence() {
    let expecting = json!({ "queryResponse": [{ "expect": "never", "skipUnmatched": true }] });
    for (fault, reason, says) in [
        (Fault::HugeFrame, Reason::Limit, "1 MiB"),
        (Fault::EndlessFragments(0), Reason::Limit, "--max-body-bytes"),
        (Fault::EndlessFragments(1000), Reason::Limit, "--max-body-bytes"),
        (Fault::EndlessPings, Reason::Limit, "10000 messages"),
        (Fault::Endless, Reason::Limit, "--max-body-bytes"),
        (Fault::Masked, Reason::Protocol, "masked"),
        (Fault::InvalidUtf8, Reason::Protocol, "UTF-8"),
        (Fault::LongControlFrame, Reason::Protocol, "125 bytes"),
        (Fault::Compressed, Reason::Protocol, "compressed"),
        (Fault::UnknownFrame, Reason::Protocol, "unknown type"),
        (Fault::Drop, Reason::Connect, "without a close frame"),
        (Fault::Close(4403), Reason::Response, "4403"),
    ] {
        let probed = probe(&serving(Signalling::default().with(fault), None).await, expecting.clone()).await;
        probed.failed(reason);
        has_what_is_always_there(&probed);
        assert!(probed.message.contains(says), "{fault:?}: {}", probed.message);
        assert_eq!((probed.value(STATUS), probed.value(UPGRADED), probed.value(REGEX)), (101.0, 1.0, 1.0), "{fault:?}");
        let code = match fault {
            Fault::Drop => 1006.0,
            Fault::Close(code) => f64::from(code),
            _ => 0.0,
        };
        assert_eq!(probed.value(CLOSE_CODE), code, "{fault:?}");
    }
}

#[tokio::test]
async fn a_silent_server_is_out_of_time_and_the_sentence_says_what_did_not_come() {
    let silent = Signalling::default();
    silent.switch().set(Mode::Hang);
    let hanging = serving(silent.clone(), None).await;
    let probed = probe_briefly(&hanging, json!({})).await;
    probed.failed(Reason::Timeout);
    has_what_is_always_there(&probed);
    assert!(probed.message.contains("handshake"), "{}", probed.message);
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED)), (0.0, 0.0));
    silent.switch().set(Mode::Empty);
    for (options, says) in [
        (json!({ "queryResponse": [{ "expect": "a" }] }), "spec.websocket.queryResponse[0]"),
        (json!({ "ping": true }), "ping"),
    ] {
        let probed = probe_briefly(&hanging, options).await;
        probed.failed(Reason::Timeout);
        assert!(probed.message.contains(says), "{}", probed.message);
        assert_eq!((probed.value(UPGRADED), probed.value(CLOSE_CODE)), (1.0, 0.0));
    }
    let probed = probe_briefly(&serving(Signalling::default().with(Fault::Trickle), None).await, json!({})).await;
    probed.failed(Reason::Timeout);
    let probed =
        probe_briefly(&serving(Signalling::default().with(Fault::NoPong), None).await, json!({ "ping": true })).await;
    probed.failed(Reason::Timeout);
    let probed =
        probe_briefly(&serving(Signalling::default().with(Fault::WrongPong), None).await, json!({ "ping": true }))
            .await;
    probed.failed(Reason::Timeout);
    assert!(probed.message.contains("something else"), "{}", probed.message);
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_end_does_not_make_the_probe_fail() {
    let probed = probe_briefly(&serving(Signalling::default().with(Fault::NoClose), None).await, json!({})).await;
    probed.succeeded();
    assert_eq!(probed.value(CLOSE_CODE), 0.0);
    let probed = probe(&serving(Signalling::default().with(Fault::Close(1001)), None).await, json!({})).await;
    probed.succeeded();
    assert_eq!(probed.value(CLOSE_CODE), 1001.0);
    let dropping = after_upgrade(async |mut conversation: Conversation| {
        heard(&mut conversation).await?;
        conversation.end().await
    });
    let probed = probe(&dropping.await, json!({})).await;
    probed.succeeded();
    assert_eq!(probed.value(CLOSE_CODE), 1006.0);
    let without_code = after_upgrade(async |mut conversation: Conversation| {
        heard(&mut conversation).await?;
        conversation.say(frame(0x88, b"")).await?;
        conversation.hang().await
    });
    assert_eq!(probe(&without_code.await, json!({})).await.value(CLOSE_CODE), 1005.0);
}

#[tokio::test]
async fn a_refusal_has_its_status_and_may_be_a_good_sign() {
    let guarded = serving(Signalling::default().guarded("Bearer token"), None).await;
    let probed = probe(&guarded, json!({})).await;
    probed.failed(Reason::Auth);
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED)), (401.0, 0.0));
    assert_eq!(probed.value("probe_call_http_status_code{call=\"handshake\"}"), 401.0);
    let probed = probe(&guarded, json!({ "validStatusCodes": [401] })).await;
    probed.succeeded();
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED)), (401.0, 0.0));

    let open = serving(Signalling::default(), None).await;
    let probed = probe(&open, json!({ "validStatusCodes": [401] })).await;
    probed.failed(Reason::HttpStatus);
    assert!(probed.message.contains("accepted"), "{}", probed.message);
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED), probed.value(CLOSE_CODE)), (101.0, 1.0, 1000.0));

    for (mode, reason, status) in [
        (Mode::Status(403), Reason::Auth, 403.0),
        (Mode::Status(301), Reason::HttpStatus, 301.0),
        (Mode::Html, Reason::HttpStatus, 200.0),
        (Mode::Truncated, Reason::Protocol, 0.0),
    ] {
        let server = Signalling::default();
        server.switch().set(mode);
        let probed = probe(&serving(server, None).await, json!({})).await;
        probed.failed(reason);
        assert_eq!(probed.value(STATUS), status, "{mode:?}");
    }
}

#[tokio::test]
async fn what_is_sent_is_a_handshake_of_the_rfc_with_the_headers_of_the_target() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let book = Arc::clone(&seen);
    let handle = move |mut conversation: Conversation| {
        let book = Arc::clone(&book);
        async move {
            let head = conversation.until(b"\r\n\r\n").await?;
            book.lock().unwrap().push(head);
            conversation.say("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
            conversation.end().await
        }
    };
    let server = Conversations::start("127.0.0.1", None, handle).await;
    let bearer = json!({ "type": "Bearer", "credentials": { "name": "a", "key": "token" } });
    let options =
        json!({ "subprotocols": ["a", "b"], "origin": "https://app.example.com", "validStatusCodes": [101, 400] });
    let mut whole = spec(format!("ws://{}/a%20b/c?room=1&x=%2F", server.address), options);
    whole["authorization"] = bearer;
    whole["headers"] = json!([{ "name": "Host", "value": "sfu.example.com" }, { "name": "X-Tenant", "value": "shop" }]);
    Probed::of(whole).await.succeeded();
    let basic = json!({ "username": { "name": "a", "key": "user" }, "password": { "name": "a", "key": "password" } });
    let mut bare = spec(format!("ws://{}", server.address), json!({}));
    bare["basicAuth"] = basic;
    Probed::of(bare).await.failed(Reason::HttpStatus);
    let seen = seen.lock().unwrap();
    let [first, second] = seen.as_slice() else { panic!("{seen:?}") };
    assert!(first.starts_with("GET /a%20b/c?room=1&x=%2F HTTP/1.1\r\nHost: sfu.example.com\r\n"), "{first}");
    for line in [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: a, b",
        "Origin: https://app.example.com",
        "authorization: Bearer token-value",
        "x-tenant: shop",
    ] {
        assert_eq!(first.lines().filter(|sent| *sent == line).count(), 1, "{line}: {first}");
    }
    assert!(second.starts_with(&format!("GET / HTTP/1.1\r\nHost: {}\r\n", server.address)), "{second}");
    for absent in ["Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"] {
        assert!(!second.contains(absent), "{second}");
    }
    assert!(second.contains("authorization: Basic "), "{second}");
    let key = |head: &str| head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap().to_owned();
    assert!(key(first) != key(second) && key(first).len() == 24);
}

#[tokio::test]
async fn pings_of_the_server_are_answered_while_a_message_is_waited_for() {
    let server = after_upgrade(async |mut conversation: Conversation| {
        conversation.say(frame(0x89, b"are you there")).await?;
        let (first, payload) = heard(&mut conversation).await?;
        assert_eq!((first, payload.as_slice()), (0x8a, &b"are you there"[..]));
        conversation.say(text("welcome")).await?;
        conversation.hang().await
    });
    probe_briefly(&server.await, json!({ "queryResponse": [{ "expect": "welcome" }] })).await.succeeded();
}

#[tokio::test]
async fn messages_may_come_with_the_handshake_in_fragments_and_after_others() {
    let server = after_upgrade(async |mut conversation: Conversation| {
        let first =
            [text("noise"), frame(0x01, b"wel"), frame(0x89, b""), frame(0x80, b"come 7"), frame(0x82, &[0, 255])];
        conversation.say(first.concat()).await?;
        while heard(&mut conversation).await? != (0x81, b"hello 7".to_vec()) {}
        conversation.say(frame(0x88, &1000_u16.to_be_bytes())).await?;
        conversation.hang().await
    })
    .await;
    let steps = json!([
        { "expect": "^welcome ([0-9]+)$", "skipUnmatched": true },
        { "expectBase64": "AP8=" },
    ]);
    let mut with_send = steps.clone();
    with_send[0]["send"] = "hello $1".into();
    probe(&server, json!({ "queryResponse": with_send })).await.succeeded();
    let mut without_skip = steps.clone();
    without_skip[0]["skipUnmatched"] = false.into();
    let probed = probe_briefly(&server, json!({ "queryResponse": without_skip })).await;
    probed.failed(Reason::Match);
    assert!(probed.message.contains("skipUnmatched"), "{}", probed.message);
    let mut other_bytes = steps;
    other_bytes[1]["expectBase64"] = "AP4=".into();
    probe_briefly(&server, json!({ "queryResponse": other_bytes })).await.failed(Reason::Match);
}

#[tokio::test]
async fn a_message_may_have_a_mebibyte_and_groups_of_one_less() {
    // It sends a message of as many bytes as it is told.
    let server = after_upgrade(async |mut conversation: Conversation| {
        while let (0x81, length) = heard(&mut conversation).await? {
            let length: usize = String::from_utf8(length).unwrap().parse().unwrap();
            conversation.say(text(&format!("{}end", "a".repeat(length - 3)))).await?;
        }
        conversation.end().await
    })
    .await;
    let steps = |length: &str| json!({ "queryResponse": [{ "send": length }, { "expect": "end$" }] });
    for length in ["100", "100000", "1000000"] {
        probe(&server, steps(length)).await.succeeded();
    }
    let probed = probe(&server, steps("1048577")).await;
    probed.failed(Reason::Limit);
    assert!(probed.message.contains("1 MiB"), "{}", probed.message);
    let grouped = |length: &str| json!({ "queryResponse": [{ "send": length }, { "expect": "(end)$", "send": "$1" }] });
    let probed = probe(&server, grouped("65537")).await;
    probed.failed(Reason::Limit);
    assert!(probed.message.contains("64 KiB"), "{}", probed.message);
}

#[tokio::test]
async fn secrets_are_sent_and_not_shown() {
    let server = after_upgrade(async |mut conversation: Conversation| {
        let (first, payload) = heard(&mut conversation).await?;
        assert_eq!(first, 0x81);
        conversation.say(frame(0x81, &payload)).await?;
        while let Ok((first, payload)) = heard(&mut conversation).await {
            conversation.say(frame(first, &payload)).await?;
        }
        Ok(())
    })
    .await;
    let steps = json!([{ "sendSecretRef": { "name": "a", "key": "token" } }, { "expect": "^token-value$" }]);
    let probed = probe(&server, json!({ "queryResponse": steps })).await;
    probed.succeeded();
    let steps = json!([{ "sendSecretRef": { "name": "a", "key": "token" } }, { "expect": "^other$" }]);
    let probed = probe(&server, json!({ "queryResponse": steps })).await;
    probed.failed(Reason::Match);
    let shown = probed.snapshot.probe.as_ref().unwrap();
    assert!(!format!("{shown:?}{}", probed.message).contains("token-value"), "{}", probed.message);
}

#[tokio::test]
async fn over_tls_the_certificate_is_exported_and_http2_is_not_offered() {
    let certificate = Certificate::good();
    let mut config = certificate.server_config();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = serving(Signalling::default(), Some(Arc::new(config))).await;
    let probed = probe_with(&server, json!({ "ping": true }), &certificate.ca).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_earliest_cert_expiry"), YEAR_2040);
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2040);
    assert_eq!(probed.value("probe_tls_version_info{version=\"TLS 1.3\"}"), 1.0);
    assert!(probed.has("probe_ssl_last_chain_info") && !probed.has("probe_tls_cipher_info"));
    let (tls, processing) = (probed.value("probe_websocket_tls_duration_seconds"), probed.value(&phase("processing")));
    assert!(tls > 0.0 && tls < processing, "{tls} {processing}");

    let only_http2 = {
        let mut config = certificate.server_config();
        config.alpn_protocols = vec![b"h2".to_vec()];
        serving(Signalling::default(), Some(Arc::new(config))).await
    };
    probe_with(&only_http2, json!({}), &certificate.ca).await.failed(Reason::Tls);

    // Plain against TLS, and the other way round.
    let probed = probe(&server, json!({})).await;
    probed.failed(Reason::Protocol);
    assert!(probed.message.contains("wss://"), "{}", probed.message);
    let plain = Conversations::start("127.0.0.1", None, async |mut conversation: Conversation| {
        conversation.bytes(5).await?;
        conversation.say("HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        conversation.end().await
    });
    probe_with(&plain.await, json!({}), &certificate.ca).await.failed(Reason::Tls);
}

#[tokio::test]
async fn a_rejected_certificate_is_told_of() {
    let expired = Certificate::changed(|params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let server = serving(Signalling::default(), Some(Arc::new(expired.server_config()))).await;
    let probed = probe_with(&server, json!({}), &expired.ca).await;
    probed.failed(Reason::Tls);
    has_what_is_always_there(&probed);
    assert!(probed.has("probe_ssl_last_chain_info") && !probed.has("probe_ssl_last_chain_expiry_timestamp_seconds"));
    assert_eq!((probed.value(STATUS), probed.value(UPGRADED)), (0.0, 0.0));
}

/// In TLS 1.3 the handshake is over for us before the server has looked at our certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_client_certificate_says_so_after_the_handshake() {
    let certificate = Certificate::good();
    let config = certificate.demanding_server_config();
    let server = serving(Signalling::default(), Some(Arc::new(config))).await;
    let probed = probe_with(&server, json!({}), &certificate.ca).await;
    probed.failed(Reason::Tls);
    assert!(probed.message.contains("requires a client certificate"), "{}", probed.message);
}

#[tokio::test]
async fn without_a_connection_the_families_are_there() {
    let url = closed_port().replace("http://", "ws://");
    let probed = Probed::of(spec(url, json!({}))).await;
    probed.failed(Reason::Connect);
    has_what_is_always_there(&probed);
    let probed = Probed::of(spec("ws://no-such-host.invalid/signaling".to_owned(), json!({}))).await;
    probed.failed(Reason::Dns);
    has_what_is_always_there(&probed);
    assert_eq!(probed.value("probe_ip_protocol"), 0.0);
    for (says, reason) in [("SSH-2.0-OpenSSH_9.2\r\n", Reason::Protocol), ("", Reason::Connect)] {
        let server = Conversations::start("127.0.0.1", None, move |mut conversation: Conversation| async move {
            conversation.until(b"\r\n\r\n").await?;
            conversation.say(says).await?;
            conversation.end().await
        });
        let probed = probe(&server.await, json!({})).await;
        probed.failed(reason);
        assert_eq!(probed.value(STATUS), 0.0);
    }
}

#[test]
fn what_has_no_effect_or_is_no_dialogue_is_refused_with_its_field() {
    let at = |options: Value| mistakes_in(&spec("ws://sfu/".to_owned(), options));
    for (options, field) in [
        (json!({ "queryResponse": [{}] }), "queryResponse[0]"),
        (json!({ "queryResponse": [{ "expect": "a", "expectBase64": "AA==" }] }), "queryResponse[0]"),
        (json!({ "queryResponse": [{ "send": "a", "sendBase64": "AA==" }] }), "queryResponse[0]"),
        (json!({ "queryResponse": [{ "sendBase64": "A" }] }), "queryResponse[0].sendBase64"),
        (json!({ "queryResponse": [{ "expect": "(" }] }), "queryResponse[0].expect"),
        (json!({ "queryResponse": [{ "send": "a", "skipUnmatched": true }] }), "queryResponse[0].skipUnmatched"),
        (json!({ "validStatusCodes": [401], "ping": true }), "validStatusCodes"),
        (json!({ "validStatusCodes": [401], "queryResponse": [{ "send": "a" }] }), "validStatusCodes"),
        (json!({ "subprotocols": ["a b"] }), "subprotocols[0]"),
        (json!({ "origin": "https://a/" }), "origin"),
    ] {
        assert_eq!(at(options.clone()), [format!("spec.websocket.{field}")], "{options}");
    }
    assert_eq!(at(json!({ "validStatusCodes": [401, 403] })), <[String; 0]>::default());
    let with = |field: &str, value: Value| {
        let mut spec = spec("ws://sfu/".to_owned(), json!({ "origin": "https://a" }));
        spec[field] = value;
        mistakes_in(&spec)
    };
    assert_eq!(with("tlsConfig", json!({ "insecureSkipVerify": true })), ["spec.tlsConfig"]);
    assert_eq!(with("proxyUrl", json!("http://proxy:3128")), <[String; 0]>::default());
    assert_eq!(with("noProxy", json!("a")), ["spec.noProxy"]);
    assert_eq!(with("headers", json!([{ "name": "Sec-WebSocket-Protocol", "value": "a" }])), ["spec.headers"]);
    assert_eq!(with("headers", json!([{ "name": "origin", "value": "https://b" }])), ["spec.websocket.origin"]);
    assert_eq!(with("url", json!("http://sfu/")), ["spec.url"]);
    target_of(&spec("wss://sfu.example.com:5000/signaling?a=b".to_owned(), json!({})));
}
