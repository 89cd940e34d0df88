//! gRPC services: a probe makes one call of the standard health checking protocol, `grpc.health.v1.Health/Check`.

mod call;
mod health;
mod status;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::probe::{BoxedStream, authority};
use super::surface::{has_header, tls_config_needs_tls, url_begins_with};
use super::{CallError, Field, Probe, Prober, Reason, Recorder, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::dial::{JudgedAddress, ServerRole};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, patterns, port, raw};
pub use health::{ServingStatus, serving_status};
use status::StatusCode;

/// The health check of a gRPC service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The service whose health is asked for. Empty: that of the server as a whole.
    #[schemars(length(max = 256))]
    pub service: String,
    /// Metadata that is sent with the call: names with their values. A value whose name ends with `-bin` is sent in Base64. Secrets belong
    /// into `spec.headers`, which are sent as metadata as well.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "lists_of_texts")]
    pub metadata: BTreeMap<String, Vec<String>>,
}

/// Texts by name, within limits.
fn lists_of_texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "type": "array",
            "maxItems": 8,
            "items": { "type": "string", "maxLength": 512 },
        },
    })
}

patterns! {
    URL = concat!("^grpcs?://", host!(), port!(), "$");
    /// The name of metadata.
    METADATA_NAME = "^[0-9a-zA-Z_.-]{1,128}$";
    /// The value of metadata: what a header may have.
    PRINTABLE = "^[ -~]*$";
}

/// Names that the protocol sets itself, in lower case. Those that begin with `grpc-` are as well.
const OF_PROTOCOL: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Of `spec.headers`, `Host` may be set: it is the authority of the request.
const SETTABLE: &str = "host";

fn is_of_protocol(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("grpc-") || OF_PROTOCOL.contains(&name.as_str())
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be grpc://HOST:PORT or grpcs://HOST:PORT, with a port from 1 to 65535 if any, and without user, path and query, \
                  nor a / at its end",
        separator: UrlSeparator::Slashes,
    };
    const URL_USAGE: &'static str =
        "grpc://HOST, or grpcs://HOST for TLS, and a port if it is not 80 or, with TLS, 443";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::AnyHeaders, Field::Credentials, Field::Tls, Field::Addresses];
    const CONFIDENTIAL: &'static [&'static str] = &["spec.grpc.metadata"];
    const RESERVED: &'static [(&'static str, &'static str)] = &[("tls", "write grpcs:// instead of grpc:// in url")];

    fn rules() -> Vec<Rule> {
        let quoted = |names: &[&str]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        let of_headers: Vec<&str> = OF_PROTOCOL.into_iter().filter(|name| *name != SETTABLE).collect();
        vec![
            Rule::new(
                "spec.grpc.metadata",
                format!("key.matches({})", raw(METADATA_NAME.as_str())),
                "a name of metadata consists of letters, digits, _, - and ., 128 at most",
            )
            .on_keys()
            .holds_if_text(|name| METADATA_NAME.is_match(name)),
            Rule::new(
                "spec.grpc.metadata",
                format!("!key.lowerAscii().startsWith('grpc-') && !(key.lowerAscii() in [{}])", quoted(&OF_PROTOCOL)),
                "this name belongs to gRPC or HTTP/2 itself, remove it",
            )
            .on_keys()
            .holds_if_text(|name| !is_of_protocol(name)),
            Rule::new(
                "spec.grpc.metadata{}",
                format!("self.all(value, value.matches({}))", raw(PRINTABLE.as_str())),
                "a value of metadata must consist of printable ASCII characters, without line breaks",
            )
            .holds_if(|values| {
                let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
                values.iter().filter_map(Value::as_str).all(|value| PRINTABLE.is_match(value))
            }),
            tls_config_needs_tls(
                "!self.url.startsWith('grpc://')",
                "tlsConfig has no effect without TLS: write grpcs:// instead of grpc:// in url, or remove it",
                |spec| !url_begins_with(spec, "grpc://"),
            ),
            Rule::new(
                "spec",
                format!(
                    "self.type != 'Grpc' || !has(self.headers) || !self.headers.exists(h, \
                     h.name.lowerAscii().startsWith('grpc-') || h.name.lowerAscii() in [{}])",
                    quoted(&of_headers)
                ),
                "headers whose names begin with grpc-, content-type and te are set by gRPC itself, remove them",
            )
            .field("headers")
            .holds_if(|spec| {
                spec.get("type").and_then(Value::as_str) != Some("Grpc")
                    || !has_header(spec, |name| name != SETTABLE && is_of_protocol(name))
            }),
        ]
    }
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let is_tls = url.scheme() == "grpcs";
        let mut metadata = HeaderMap::new();
        for (name, values) in &self.metadata {
            let is_binary = name.to_ascii_lowercase().ends_with("-bin");
            for value in values {
                let value = if is_binary { &STANDARD_NO_PAD.encode(value) } else { value };
                // Schema and rules refuse others.
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                    metadata.append(name, value);
                }
            }
        }
        Ok(Arc::new(GrpcProber {
            is_tls,
            port: url.port().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority(url),
            service: self.service.clone(),
            metadata,
        }))
    }
}

crate::descs! {
    DURATION = gauge "probe_grpc_duration_seconds" ["phase"] "Duration of each phase of the probe in seconds: resolve, and check, which includes the connection and TLS.";
    SSL = gauge "probe_grpc_ssl" [] "Whether the call was made over TLS.";
    STATUS_CODE = gauge "probe_grpc_status_code" [] "Status code of gRPC that the call ended with: 0 is OK, 5 an unknown service, 12 a server without health service, 14 a server that cannot be reached. Also 0 if the call was not made.";
    RESPONSE = gauge "probe_grpc_healthcheck_response" ["serving_status"] "Whether the health check was answered with this status.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [FAMILIES, SharedFamilies::ADDRESS, SharedFamilies::TLS].concat()
}

#[derive(Debug)]
struct GrpcProber {
    is_tls: bool,
    port: u16,
    authority: String,
    service: String,
    metadata: HeaderMap,
}

/// Why there was no health status, and with which code of gRPC.
#[derive(Debug)]
struct FailedCheck {
    code: StatusCode,
    error: CallError,
}

impl FailedCheck {
    fn new(code: StatusCode, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, error: CallError::new(reason, message) }
    }

    /// There was no connection, or it broke.
    fn unavailable(error: CallError) -> Self {
        let code = if error.reason == Reason::Timeout { StatusCode::DEADLINE_EXCEEDED } else { StatusCode::UNAVAILABLE };
        Self { code, error }
    }
}

impl Prober for GrpcProber {
    fn call(&self) -> &'static str {
        "check"
    }

    fn begin(&self, record: &mut Recorder) {
        record.set(&DURATION, &["resolve"], 0.0);
        record.set(&SSL, &[], 0.0);
        record.set(&STATUS_CODE, &[], 0.0);
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(self.run(probe))
    }
}

impl GrpcProber {
    async fn run(&self, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let (resolved, took) = probe.resolve(probe.host).await;
        probe.record.set(&DURATION, &["resolve"], took.as_secs_f64());
        let address = resolved?;
        for status in ServingStatus::ALL {
            probe.record.set(&RESPONSE, &[status.as_str()], 0.0);
        }
        let start = Instant::now();
        let checked = self.check(probe, address).await;
        probe.record.set(&DURATION, &["check"], start.elapsed().as_secs_f64());
        let code = checked.as_ref().map_or_else(|failed| failed.code, |_| StatusCode::OK);
        probe.record.set(&STATUS_CODE, &[], f64::from(code.number()));
        if code == StatusCode::UNAUTHENTICATED {
            probe.record.credentials_refused();
        }
        let status = checked.map_err(|failed| failed.error)?;
        probe.record.set(&RESPONSE, &[status.as_str()], 1.0);
        probe.record.event(format!("answered {}", status.as_str()));
        if status == ServingStatus::Serving {
            return Ok(());
        }
        let message = match &*self.service {
            "" => format!("the server says that it is {}", status.as_str()),
            service => format!("the server says that {service} is {}", status.as_str()),
        };
        Err(CallError::new(Reason::Response, message))
    }

    async fn check(&self, probe: &mut Probe<'_>, address: JudgedAddress) -> Result<ServingStatus, FailedCheck> {
        let connected = probe.dialer.connect(address, self.port, probe.deadline).await;
        let mut stream: BoxedStream = Box::new(connected.map_err(FailedCheck::unavailable)?);
        probe.record.event(format!("connected to {}", SocketAddr::new(address.ip(), self.port)));
        if self.is_tls {
            let (result, peer) = probe.dialer.handshake(stream, ServerRole::Target, probe.host, &[b"h2"], probe.deadline).await;
            let is_http2 = peer.as_ref().is_some_and(|peer| peer.alpn.as_deref() == Some(b"h2"));
            if let Some(peer) = peer {
                probe.record.tls(&peer, false);
            }
            stream = Box::new(result.map_err(FailedCheck::unavailable)?);
            if !is_http2 {
                let message = "the server does not agree on HTTP/2 in the TLS handshake (ALPN), which gRPC requires";
                return Err(FailedCheck::new(StatusCode::UNAVAILABLE, Reason::Protocol, message));
            }
            probe.record.set(&SSL, &[], 1.0);
        }
        call::check(self, probe, stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_protocol_are_no_metadata() {
        for name in ["grpc-timeout", "TE", "Content-Type", "host", "GRPC-x"] {
            assert!(is_of_protocol(name), "{name}");
        }
        for name in ["x-api-key", "tenant", "trace-bin", "authorization", "user-agent"] {
            assert!(!is_of_protocol(name), "{name}");
        }
    }
}
