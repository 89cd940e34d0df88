//! TCP ports: a probe connects, makes a TLS handshake if it is told so, and goes through a dialogue with the server.

mod dialogue;
mod script;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::probe::dialogue::{SENT, any_of, base64, exclusive, has_any, sent_secrets};
use super::probe::{BoxedStream, FAILED_DUE_TO_REGEX, phases};
use super::reserved::{IDENTITY_LABELS, TAKEN_LABELS};
use super::surface::{tls_config_needs_tls, url_begins_with};
use super::{CallError, Field, Probe, Prober, Reason, Recorder, SecretKeyRef, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::dial::ServerRole;
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, needed_port, patterns};
use dialogue::Dialogue;
pub use dialogue::{SearchedLines, search_lines};
use script::Script;

/// The dialogue with a server on a TCP port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The dialogue with the server, step by step. Without it, a connection is enough; for `tls://` with a handshake.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_response: Vec<DialogueStep>,
}

/// One step of a dialogue. Its parts are done in this order: wait for what is expected, send, start TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DialogueStep {
    /// Read lines until this regular expression matches one of them, anywhere in it. A line ends with `\n` or `\r\n`, which are not part of
    /// it, and has 64 KiB at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expect: Option<String>,
    /// Read as many bytes as this text has, and compare them with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expect_bytes: Option<String>,
    /// The same for bytes that are no text, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expect_base64: Option<String>,
    /// Labels of `probe_expect_info`, which is exported when the line that `expect` matches has arrived. Only one step may have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub labels: Vec<ExpectLabel>,
    /// Send this text. In a step with `expect`, `$1`, `${1}` and `${name}` are replaced by what the groups of the expression matched, and
    /// `$$` by `$`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub send: Option<String>,
    /// Send these bytes, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub send_base64: Option<String>,
    /// Send the value of a Secret, for instance a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_secret_ref: Option<SecretKeyRef>,
    /// Whether a newline follows what is sent. By default it does, except after `sendBase64`. For `\r\n`, write `\r` at the end of `send`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newline: Option<bool>,
    /// Make a TLS handshake and go on with encryption.
    #[serde(default)]
    pub starttls: bool,
}

/// A label whose value is taken from a line of the server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ExpectLabel {
    /// The name of the label.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value, in which groups of `expect` are replaced as in `send`. It is cut after 128 characters.
    #[schemars(length(max = 128))]
    pub value: String,
}

patterns! {
    URL = concat!("^(tcp|tls)://", host!(), needed_port!(), "$");
    LABEL_NAME = "^[a-zA-Z_][a-zA-Z0-9_]*$";
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be tcp://HOST:PORT or tls://HOST:PORT, with a port from 1 to 65535, and without user, path and query, nor a / at its end",
        separator: UrlSeparator::Slashes,
    };
    const URL_USAGE: &'static str = "tcp://HOST:PORT, or tls://HOST:PORT for a connection with TLS from the start";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::Tls, Field::Addresses];
    const REGEXES: &'static [&'static str] = &["spec.tcp.queryResponse[].expect"];
    const CONFIDENTIAL: &'static [&'static str] =
        &["spec.tcp.queryResponse[].send", "spec.tcp.queryResponse[].sendBase64"];

    const RESERVED: &'static [(&'static str, &'static str)] = &[("tls", "write tls:// instead of tcp:// in url")];

    fn rules() -> Vec<Rule> {
        rules()
    }

    fn secrets(&self) -> Vec<(String, &SecretKeyRef)> {
        sent_secrets(self.query_response.iter().map(|step| step.send_secret_ref.as_ref()))
    }
}

const EXPECTED: [&str; 3] = ["expect", "expectBytes", "expectBase64"];

fn starts_tls(step: &Value) -> bool {
    step.get("starttls").and_then(Value::as_bool) == Some(true)
}

fn has_labels(step: &Value) -> bool {
    step.get("labels").and_then(Value::as_array).is_some_and(|labels| !labels.is_empty())
}

fn steps(spec: &Value) -> &[Value] {
    spec.pointer("/tcp/queryResponse").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn rules() -> Vec<Rule> {
    const STEP: &str = "spec.tcp.queryResponse[]";
    const STEPS: &str = "spec.tcp.queryResponse";
    const NAME: &str = "spec.tcp.queryResponse[].labels[].name";
    let reserved: Vec<&str> = IDENTITY_LABELS.into_iter().chain(TAKEN_LABELS).collect();
    let quoted = reserved.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    vec![
        base64("spec.tcp.queryResponse[].sendBase64", "send"),
        base64("spec.tcp.queryResponse[].expectBase64", "expectBytes"),
        Rule::matches(
            NAME,
            &LABEL_NAME,
            "the name of a label must start with a letter or underscore, followed by letters, digits and underscores",
        ),
        exclusive(
            STEP,
            &EXPECTED,
            "expect, expectBytes and expectBase64 are mutually exclusive, write them into steps of their own",
        ),
        exclusive(
            STEP,
            &SENT,
            "send, sendBase64 and sendSecretRef are mutually exclusive, write them into steps of their own",
        ),
        Rule::new(
            STEP,
            format!("{} || {} || (has(self.starttls) && self.starttls)", any_of(&EXPECTED), any_of(&SENT)),
            "the step does nothing, write expect, send or starttls: true",
        )
        .holds_if(|step| {
            let is_no_flag = step.get("starttls").is_some_and(|flag| !flag.is_boolean());
            let does_something = has_any(step, &EXPECTED) || has_any(step, &SENT) || starts_tls(step);
            !step.is_object() || does_something || is_no_flag // of which its type is told
        }),
        Rule::new(
            STEP,
            "!has(self.labels) || size(self.labels) == 0 || has(self.expect)",
            "labels have their values from the line that expect matches, write expect or remove them",
        )
        .field("labels")
        .holds_if(|step| !has_labels(step) || step.get("expect").is_some()),
        Rule::new(
            STEP,
            format!("!has(self.newline) || {}", any_of(&SENT)),
            "newline has no effect in a step that sends nothing, remove it",
        )
        .field("newline")
        .holds_if(|step| step.get("newline").is_none() || has_any(step, &SENT)),
        Rule::new(
            STEPS,
            "self.filter(step, has(step.labels) && size(step.labels) > 0).size() <= 1",
            "only one step may have labels, since they are those of one series: remove those of the others",
        )
        .holds_if(|steps| {
            steps.as_array().is_none_or(|steps| steps.iter().filter(|step| has_labels(step)).count() <= 1)
        }),
        Rule::new(
            STEPS,
            "self.filter(step, has(step.starttls) && step.starttls).size() <= 1",
            "only one step may have starttls: true, since the connection is encrypted from then on",
        )
        .holds_if(|steps| {
            steps.as_array().is_none_or(|steps| steps.iter().filter(|step| starts_tls(step)).count() <= 1)
        }),
        Rule::new(
            "spec",
            "!self.url.startsWith('tls://') || !has(self.tcp) || !has(self.tcp.queryResponse) || \
             !self.tcp.queryResponse.exists(step, has(step.starttls) && step.starttls)",
            "a connection to a tls:// url is encrypted from the start, write tcp:// or remove starttls",
        )
        .field("tcp.queryResponse")
        .holds_if(|spec| {
            !url_begins_with(spec, "tls://") || !steps(spec).iter().any(starts_tls)
        }),
        tls_config_needs_tls(
            "!self.url.startsWith('tcp://') || (has(self.tcp) && has(self.tcp.queryResponse) && \
             self.tcp.queryResponse.exists(step, has(step.starttls) && step.starttls))",
            "tlsConfig has no effect without TLS: write tls:// instead of tcp:// in url or starttls: true in a step, or remove it",
            |spec| !url_begins_with(spec, "tcp://") || steps(spec).iter().any(starts_tls),
        ),
        Rule::new(
            NAME,
            format!("!self.startsWith('__') && !(self in [{quoted}])"),
            "this label is reserved for Prometheus or set by discovery, write another name",
        )
        .holds_if_text(move |name| !name.starts_with("__") && !reserved.contains(&name)),
    ]
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let script = Script::new(&self.query_response)?;
        let port = url.port().ok_or_else(|| vec![FieldError::new("spec.url", "has no port, write tcp://HOST:PORT")])?;
        Ok(Arc::new(TcpProber { port, is_tls: url.scheme() == "tls", script }))
    }
}

crate::descs! {
    DURATION = gauge "probe_tcp_duration_seconds" ["phase"] "Duration of each phase of the probe in seconds: resolve, connect, tls, exchange; 0 for a phase that was not reached.";
    FAILED_BYTES = gauge "probe_failed_due_to_bytes" [] "Whether the probe failed because the server sent other bytes than a step expects.";
    EXPECT_INFO = gauge "probe_expect_info" [] "The line that matched, in the labels of its step. Always 1; absent until it has arrived.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [FAMILIES, SharedFamilies::ADDRESS, SharedFamilies::TLS, SharedFamilies::PATTERNS].concat()
}

phases! {
    TcpPhase of DURATION: Resolve => "resolve", Connect => "connect", Tls => "tls", Exchange => "exchange"
}

#[derive(Debug)]
struct TcpProber {
    port: u16,
    /// From the start.
    is_tls: bool,
    script: Script,
}

impl Prober for TcpProber {
    fn call(&self) -> &'static str {
        "exchange"
    }

    fn begin(&self, record: &mut Recorder) {
        for phase in TcpPhase::ALL {
            phase.took(record, Duration::ZERO);
        }
        record.set(&FAILED_DUE_TO_REGEX, &[], 0.0);
        record.set(&FAILED_BYTES, &[], 0.0);
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(self.run(probe))
    }
}

impl TcpProber {
    async fn run(&self, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let (resolved, took) = probe.resolve(probe.host).await;
        TcpPhase::Resolve.took(probe.record, took);
        let (connected, took) = probe.connect(resolved?, self.port).await;
        TcpPhase::Connect.took(probe.record, took);
        let mut stream = connected?;
        if self.is_tls {
            stream = handshake(probe, stream).await?;
        }
        Dialogue::new(probe, stream).run(&self.script).await
    }
}

/// Makes a TLS handshake, and records it whatever becomes of it.
async fn handshake(probe: &mut Probe<'_>, stream: BoxedStream) -> Result<BoxedStream, CallError> {
    let start = Instant::now();
    let (result, peer) = probe.dialer.handshake(stream, ServerRole::Target, probe.host, &[], probe.deadline).await;
    TcpPhase::Tls.took(probe.record, start.elapsed());
    if let Some(peer) = peer {
        probe.record.tls(&peer, false);
    }
    Ok(Box::new(result?))
}

/// The connection did not do what the dialogue needs.
fn mismatch(message: impl Into<String>) -> CallError {
    CallError::new(Reason::Match, message)
}
