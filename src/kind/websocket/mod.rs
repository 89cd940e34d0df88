//! WebSocket servers, such as the signalling of media servers: a probe makes the handshake and, if it is told so, goes through a dialogue of
//! messages, sends a ping, and ends the connection.

mod handshake;
mod script;
mod session;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use ::http::header::HOST;
use ::http::uri::Authority;
use futures::future::BoxFuture;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::probe::dialogue::{SENT, any_of, base64, exclusive, has_any, sent_secrets};
use super::probe::{BoxedStream, authority, phases};
use super::surface::{has_header, path_and_query, tls_config_needs_tls, url_begins_with};
use super::{CallError, Field, Probe, Prober, Reason, Recorder, SecretKeyRef, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::dial::{JudgedAddress, ServerRole};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, patterns, port};
pub use handshake::{AgreedUpgrade, read_handshake};
use handshake::{SWITCHING_PROTOCOLS, UpgradeAnswer, upgrade};
use script::{ScriptedMessage, script};
use session::{BASE_MEMORY, MessageSession};

/// The handshake with a WebSocket server, and the messages after it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The status codes of a good answer to the handshake. 101 is an accepted upgrade. Others are good signs where a server refuses whoever
    /// has no credentials, for instance 401.
    #[schemars(length(min = 1, max = 16), inner(range(min = 100, max = 599)))]
    pub valid_status_codes: Vec<u16>,
    /// The subprotocols that are asked for, in the order of preference. The server must choose one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 128)))]
    pub subprotocols: Vec<String>,
    /// The header `Origin`, as a browser sends it: many servers accept only pages of their own. By default there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub origin: Option<String>,
    /// The dialogue with the server, message by message. Without it, the handshake is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_response: Vec<MessageStep>,
    /// Whether a ping is sent at the end, whose pong must come.
    pub ping: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            valid_status_codes: vec![SWITCHING_PROTOCOLS],
            subprotocols: Vec::new(),
            origin: None,
            query_response: Vec::new(),
            ping: false,
        }
    }
}

/// One step of a dialogue. What is expected comes first, what is sent next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageStep {
    /// Read a message, and compare it with this regular expression, which may match anywhere in it. A message has 1 MiB at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expect: Option<String>,
    /// Read a message, which must have exactly these bytes, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expect_base64: Option<String>,
    /// Pass over messages that are not the expected one. By default, the first other one makes the probe fail.
    #[serde(default)]
    pub skip_unmatched: bool,
    /// Send this as a text message. In a step with `expect`, `$1`, `${1}` and `${name}` are replaced by what the groups of the expression
    /// matched, and `$$` by `$`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub send: Option<String>,
    /// Send these bytes, in Base64, as a binary message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub send_base64: Option<String>,
    /// Send the value of a Secret, for instance a message with a token: as a text message if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_secret_ref: Option<SecretKeyRef>,
}

patterns! {
    URL = concat!("^wss?://", host!(), port!(), path_and_query!(), "$");
    SUBPROTOCOL = "^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$";
    ORIGIN = concat!("^(null|[a-z][a-z0-9+.-]*://", host!(), port!(), ")$");
}

const EXPECTED: [&str; 2] = ["expect", "expectBase64"];

fn steps(block: &Value) -> &[Value] {
    block.get("queryResponse").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be ws://HOST:PORT/PATH?QUERY or wss://HOST:PORT/PATH?QUERY, with a port from 1 to 65535 if any, and without user, \
                  password, fragment, backslash or whitespace",
        separator: UrlSeparator::Slashes,
    };
    const URL_USAGE: &'static str = "ws://HOST/PATH, or wss://HOST/PATH for TLS, and a port if it is not 80 or, with TLS, 443";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::AnyHeaders, Field::Credentials, Field::Tls, Field::Proxy, Field::Addresses];
    const REGEXES: &'static [&'static str] = &["spec.websocket.queryResponse[].expect"];
    const CONFIDENTIAL: &'static [&'static str] =
        &["spec.websocket.queryResponse[].send", "spec.websocket.queryResponse[].sendBase64"];
    const TYPE_HINTS: &'static [(&'static str, &'static str)] = &[
        ("spec.websocket.validStatusCodes", "write a list of numbers, for instance [101] or [401]"),
        ("spec.websocket.subprotocols", "write a list of names, for instance [protoo]"),
    ];
    const RESERVED: &'static [(&'static str, &'static str)] = &[
        ("headers", "write them into spec.headers"),
        ("httpConfig", "write basicAuth, authorization and tlsConfig into the spec itself"),
        ("tls", "write wss:// instead of ws:// in url"),
    ];

    fn rules() -> Vec<Rule> {
        const BLOCK: &str = "spec.websocket";
        const STEP: &str = "spec.websocket.queryResponse[]";
        vec![
            base64("spec.websocket.queryResponse[].sendBase64", "send"),
            base64("spec.websocket.queryResponse[].expectBase64", "expect"),
            exclusive(STEP, &EXPECTED, "expect and expectBase64 are mutually exclusive, write them into steps of their own"),
            exclusive(
                STEP,
                &SENT,
                "send, sendBase64 and sendSecretRef are mutually exclusive, write them into steps of their own",
            ),
            Rule::new(
                STEP,
                format!("{} || {}", any_of(&EXPECTED), any_of(&SENT)),
                "the step does nothing, write expect or send",
            )
            .holds_if(|step| !step.is_object() || has_any(step, &EXPECTED) || has_any(step, &SENT)),
            Rule::new(
                STEP,
                format!("!has(self.skipUnmatched) || !self.skipUnmatched || {}", any_of(&EXPECTED)),
                "skipUnmatched has no effect in a step that expects nothing, remove it or write expect",
            )
            .field("skipUnmatched")
            .holds_if(|step| {
                step.get("skipUnmatched").and_then(Value::as_bool) != Some(true) || has_any(step, &EXPECTED)
            }),
            Rule::matches(
                "spec.websocket.subprotocols[]",
                &SUBPROTOCOL,
                "a subprotocol consists of letters, digits and the characters !#$%&'*+-.^_`|~, write several as a list",
            ),
            Rule::matches(
                "spec.websocket.origin",
                &ORIGIN,
                "must be SCHEME://HOST or SCHEME://HOST:PORT, as browsers send it, without a path and without / at its end",
            ),
            Rule::new(
                BLOCK,
                "!has(self.validStatusCodes) || 101 in self.validStatusCodes || \
                 (!(has(self.queryResponse) && size(self.queryResponse) > 0) && !(has(self.ping) && self.ping))",
                "messages follow only after an accepted upgrade: add 101, or remove queryResponse and ping",
            )
            .field("validStatusCodes")
            .holds_if(|block| {
                let codes = block.get("validStatusCodes").and_then(Value::as_array);
                let is_accepted = codes.is_none_or(|codes| codes.iter().any(|code| *code == SWITCHING_PROTOCOLS));
                let pings = block.get("ping").and_then(Value::as_bool) == Some(true);
                is_accepted || (steps(block).is_empty() && !pings)
            }),
            tls_config_needs_tls(
                "!self.url.startsWith('ws://')",
                "tlsConfig has no effect without TLS: write wss:// instead of ws:// in url, or remove it",
                |spec| !url_begins_with(spec, "ws://"),
            ),
            Rule::new(
                "spec",
                "self.type != 'WebSocket' || !has(self.headers) || \
                 !self.headers.exists(h, h.name.lowerAscii().startsWith('sec-websocket-'))",
                "the handshake has its Sec-WebSocket-* headers already, write websocket.subprotocols for Sec-WebSocket-Protocol, and remove \
                 the others",
            )
            .field("headers")
            .holds_if(|spec| {
                spec.get("type").and_then(Value::as_str) != Some("WebSocket")
                    || !has_header(spec, |name| name.starts_with("sec-websocket-"))
            }),
            Rule::new(
                "spec",
                "!has(self.websocket) || !has(self.websocket.origin) || !has(self.headers) || \
                 !self.headers.exists(h, h.name.lowerAscii() == 'origin')",
                "websocket.origin and the header Origin are mutually exclusive, remove one of them",
            )
            .field("websocket.origin")
            .holds_if(|spec| spec.pointer("/websocket/origin").is_none() || !has_header(spec, |name| name == "origin")),
        ]
    }

    fn secrets(&self) -> Vec<(String, &SecretKeyRef)> {
        sent_secrets(self.query_response.iter().map(|step| step.send_secret_ref.as_ref()))
    }
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let mut errors = Vec::new();
        let steps = script(&self.query_response, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let path = if url.path().is_empty() { "/" } else { url.path() };
        let target = url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        Ok(Arc::new(WebSocketProber {
            url: url.clone(),
            is_tls: url.scheme() == "wss",
            port: url.port_or_known_default().unwrap_or(80),
            authority: authority(url),
            target,
            valid_status_codes: self.valid_status_codes.clone(),
            subprotocols: self.subprotocols.clone(),
            origin: self.origin.clone(),
            steps,
            ping: self.ping,
        }))
    }
}

crate::descs! {
    DURATION = gauge "probe_websocket_duration_seconds" ["phase"] "Duration of each phase of the probe in seconds: resolve, connect, processing (TLS and the handshake), transfer (the dialogue), ping (until its pong); 0 for a phase that was not reached.";
    TLS_DURATION = gauge "probe_websocket_tls_duration_seconds" [] "Duration of the TLS handshake in seconds, which is a part of the phase processing; 0 without TLS.";
    STATUS_CODE = gauge "probe_websocket_status_code" [] "HTTP status code of the answer to the handshake: 101 if the server accepted the upgrade; 0 without an answer.";
    UPGRADED = gauge "probe_websocket_connection_upgraded" [] "Whether the handshake succeeded, so that messages could be sent.";
    FAILED_DUE_TO_REGEX = gauge "probe_websocket_failed_due_to_regex" [] "Whether the probe failed in a step of the dialogue that expects a message: another one came, or none could be read.";
    SUBPROTOCOL_INFO = gauge "probe_websocket_subprotocol_info" ["subprotocol"] "The subprotocol that the server chose, in the label. Always 1; absent without one.";
    CLOSE_CODE = gauge "probe_websocket_close_code" [] "Code with which the server closed the connection: 1000 is a normal end, 1005 means that it sent no code, 1006 that it ended the connection without closing it. 0 if it has done neither.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [FAMILIES, SharedFamilies::ADDRESS, SharedFamilies::TLS].concat()
}

phases! {
    WebSocketPhase of DURATION:
    Resolve => "resolve",
    Connect => "connect",
    Processing => "processing",
    Transfer => "transfer",
    Ping => "ping",
}

#[derive(Debug)]
struct WebSocketProber {
    url: Url,
    is_tls: bool,
    port: u16,
    authority: String,
    /// Path and query.
    target: String,
    valid_status_codes: Vec<u16>,
    subprotocols: Vec<String>,
    origin: Option<String>,
    steps: Vec<ScriptedMessage>,
    ping: bool,
}

impl Prober for WebSocketProber {
    fn call(&self) -> &'static str {
        "handshake"
    }

    fn begin(&self, record: &mut Recorder) {
        for phase in WebSocketPhase::ALL {
            phase.took(record, Duration::ZERO);
        }
        for desc in [&TLS_DURATION, &STATUS_CODE, &UPGRADED, &FAILED_DUE_TO_REGEX, &CLOSE_CODE] {
            record.set(desc, &[], 0.0);
        }
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(self.run(probe))
    }
}

impl WebSocketProber {
    async fn run(&self, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let (resolved, took) = probe.resolve(probe.host).await;
        WebSocketPhase::Resolve.took(probe.record, took);
        let address = resolved?;
        let start = Instant::now();
        let connected = self.connect(address, probe).await;
        WebSocketPhase::Connect.took(probe.record, start.elapsed());
        let mut stream = connected?;
        timeout_at(probe.deadline, probe.memory.cover(BASE_MEMORY)).await.map_err(|_| {
            let message = "no memory for the answer in time: other targets need it (--max-inflight-bytes)";
            CallError::new(Reason::Timeout, message)
        })?;
        let start = Instant::now();
        let answer = async {
            if self.is_tls {
                stream = encrypted(probe, stream).await?;
            }
            let answering = timeout_at(probe.deadline, upgrade(self, probe, &mut stream)).await;
            answering.unwrap_or_else(|_| {
                Err(CallError::new(Reason::Timeout, "the server did not answer the handshake in time"))
            })
            .map(|answer| (answer, stream))
        };
        let answer = answer.await;
        WebSocketPhase::Processing.took(probe.record, start.elapsed());
        let (answer, stream) = answer?;
        self.judge(answer, probe, stream).await
    }

    /// Connects to the server, through a tunnel if there is a proxy before it.
    async fn connect(&self, address: JudgedAddress, probe: &mut Probe<'_>) -> Result<BoxedStream, CallError> {
        if let Some(proxy) = probe.proxy_for(&self.url) {
            let at = probe.resolve_proxy(proxy, false).await?;
            return probe.connect_through(proxy, at, Some((&address.ip().to_string(), self.port))).await;
        }
        probe.connect(address, self.port).await.0
    }

    /// Judges the answer to the handshake, and goes on with messages if it is an upgrade.
    async fn judge(&self, answer: UpgradeAnswer, probe: &mut Probe<'_>, stream: BoxedStream) -> Result<(), CallError> {
        let UpgradeAnswer { status, upgrade, rest } = answer;
        probe.record.status(status);
        probe.record.set(&STATUS_CODE, &[], f64::from(status));
        probe.record.event(format!("answered {status}"));
        let is_valid = self.valid_status_codes.contains(&status);
        let Some(upgrade) = upgrade else {
            probe.record.beginning(&rest);
            if status == 401 && !is_valid {
                probe.record.credentials_refused();
            }
            return if is_valid { Ok(()) } else { Err(refused(status)) };
        };
        let agreed = upgrade?;
        probe.record.set(&UPGRADED, &[], 1.0);
        if let Some(subprotocol) = &agreed.subprotocol {
            probe.record.set(&SUBPROTOCOL_INFO, &[subprotocol], 1.0);
            probe.record.event(format!("agreed on the subprotocol {subprotocol}"));
        }
        let session = MessageSession::new(probe, stream, rest).await;
        if is_valid {
            return session.run(&self.steps, self.ping).await;
        }
        session.close().await;
        let message = "the server accepted the upgrade (101), which is none of websocket.validStatusCodes";
        Err(CallError::new(Reason::HttpStatus, message))
    }
}

/// The server answered with a status that is not wanted.
fn refused(status: u16) -> CallError {
    match status {
        401 | 403 => CallError::new(
            Reason::Auth,
            format!(
                "the server answered {status}: it wants other credentials, in basicAuth, authorization, oauth2, headers or url, or another \
                 websocket.origin"
            ),
        ),
        _ => CallError::new(
            Reason::HttpStatus,
            format!("the server answered {status}, which is none of websocket.validStatusCodes"),
        ),
    }
}

/// Makes a TLS handshake, and records it whatever becomes of it.
async fn encrypted(probe: &mut Probe<'_>, stream: BoxedStream) -> Result<BoxedStream, CallError> {
    let start = Instant::now();
    let wanted = probe.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let host = wanted.as_ref().map_or(probe.host, Authority::host);
    let alpn: &[&[u8]] = &[b"http/1.1"];
    let (result, peer) = probe.dialer.handshake(stream, ServerRole::Target, host, alpn, probe.deadline).await;
    probe.record.set(&TLS_DURATION, &[], start.elapsed().as_secs_f64());
    if let Some(peer) = peer {
        probe.record.tls(&peer, false);
    }
    Ok(Box::new(result?))
}
