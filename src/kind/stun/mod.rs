//! STUN servers, probed with a Binding request: the server answers from which address the request came.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::probe::{StunLink, StunRequest, StunTransport, hash_of, phases, record_software};
use super::surface::{tls_config_needs_tls, url_begins_with};
use super::{CallError, Field, Probe, Prober, Reason, Recorder, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, patterns, port, raw};
use crate::stun::{StunClass, StunMessage, StunMethod, StunWriter, TransactionId};

/// What the answer of a STUN server must be, and how it is exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The network that the server must see the request come from: an address, or a range such as `203.0.113.0/24`. If not set, any is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 49))]
    pub expect_address: Option<String>,
    /// How the address that the server sees is exported: `Hash` as a number that changes with it, `Plain` as a label.
    pub mapped_address: MappedAddress,
}

/// How an address is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MappedAddress {
    /// A number that changes with it.
    #[default]
    Hash,
    /// As it is.
    Plain,
}

patterns! {
    URL = concat!("^stuns?:", host!(), port!(), r"(\?transport=(udp|tcp))?$");
    /// TLS over UDP.
    DTLS = r"^stuns:[^?]*\?transport=udp$";
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be stun:HOST or stuns:HOST, with :PORT if it is not the default one, and ?transport=tcp if it is not UDP, for \
                  instance stun:stun.example.com or stun:[2001:db8::1]:3478?transport=tcp",
        separator: UrlSeparator::Colon,
    };
    const URL_USAGE: &'static str = "stun:HOST over UDP, stun:HOST?transport=tcp over TCP, at port 3478; stuns:HOST over TLS, at port 5349; \
                                     another port follows the host";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::Tls, Field::Addresses];

    fn rules() -> Vec<Rule> {
        vec![
            Rule::new(
                "spec",
                format!("self.type != 'Stun' || !self.url.matches({})", raw(DTLS.as_str())),
                "stuns is probed over TLS and not over DTLS, remove ?transport=udp",
            )
            .field("url")
            .holds_if(|spec| {
                let text = |field: &str| spec.get(field).and_then(Value::as_str);
                text("type") != Some("Stun") || text("url").is_none_or(|url| !DTLS.is_match(url))
            }),
            tls_config_needs_tls(
                "!self.url.startsWith('stun:')",
                "tlsConfig has no effect without TLS: write stuns: instead of stun: in url, or remove it",
                |spec| !url_begins_with(spec, "stun:"),
            ),
            Rule::new(
                "spec.stun.expectAddress",
                "(isIP(self) || isCIDR(self)) && !self.matches('/0[0-9]')",
                "must be an IP address, or a range of them as ADDRESS/BITS, for instance 203.0.113.0/24",
            )
            .holds_if_text(|text| network(text).is_some()),
        ]
    }
}

/// An address or a range of addresses, as Kubernetes reads them: IPv4 addresses are not written as IPv6 ones.
fn network(text: &str) -> Option<IpNet> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    if address.to_canonical() != address {
        return None;
    }
    let Some(bits) = bits else { return Some(address.into()) };
    let is_number = bits == "0" || bits.bytes().all(|byte| byte.is_ascii_digit()) && !bits.starts_with('0');
    IpNet::new(address, bits.parse().ok().filter(|_| is_number)?).ok()
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let expected = match self.expect_address.as_deref().map(|text| (text, network(text))) {
            None => None,
            Some((_, Some(network))) => Some(network),
            Some((text, None)) => {
                let message = format!("{text:?} is neither an address nor a range of addresses, correct it");
                return Err(vec![FieldError::new("spec.stun.expectAddress", message)]);
            }
        };
        let transport = StunTransport::of(url);
        let port = url.port().unwrap_or_else(|| transport.default_port());
        Ok(Arc::new(StunProber { transport, port, expected, exported: self.mapped_address }))
    }
}

crate::descs! {
    DURATION = gauge "probe_stun_duration_seconds" ["phase"] "Duration of each phase of the probe in seconds: resolve, connect, tls, request; 0 for a phase that was not reached.";
    ERROR_CODE = gauge "probe_stun_error_code" [] "Error code of the answer, for instance 401; 0 if it was no error, or there was none.";
    TRANSMISSIONS = gauge "probe_stun_transmissions" [] "How often the request was sent: more than once if no answer came over UDP; 0 if it was not.";
    ADDRESS_HASH = gauge "probe_stun_mapped_address_hash" [] "Hash (FNV-1a, 32 bits) of the address from which the server saw the request come: it changes with the address. 0 if there is none.";
    ADDRESS_INFO = gauge "probe_stun_mapped_address_info" ["address"] "The address from which the server saw the request come, in the label. Always 1; only with mappedAddress: Plain, and absent without an answer.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [FAMILIES, SharedFamilies::STUN, SharedFamilies::ADDRESS, SharedFamilies::TLS].concat()
}

phases! {
    StunPhase of DURATION: Resolve => "resolve", Connect => "connect", Tls => "tls", Request => "request"
}

#[derive(Debug)]
struct StunProber {
    transport: StunTransport,
    port: u16,
    expected: Option<IpNet>,
    exported: MappedAddress,
}

impl Prober for StunProber {
    fn call(&self) -> &'static str {
        "binding"
    }

    fn begin(&self, record: &mut Recorder) {
        for phase in StunPhase::ALL {
            phase.took(record, Duration::ZERO);
        }
        record.set(&ERROR_CODE, &[], 0.0);
        record.set(&TRANSMISSIONS, &[], 0.0);
        if self.exported == MappedAddress::Hash {
            record.set(&ADDRESS_HASH, &[], 0.0);
        }
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(self.run(probe))
    }
}

impl StunProber {
    async fn run(&self, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let (resolved, took) = probe.resolve(probe.host).await;
        StunPhase::Resolve.took(probe.record, took);
        let address = resolved?;
        let mut link = StunLink::open(probe, (address, self.port), self.transport, &DURATION).await?;
        let request = binding()?;
        let asked = format!("asked port {} of {} over {}", self.port, address.ip(), self.transport.as_str());
        probe.record.event(asked);
        let start = Instant::now();
        let answered = link.ask(&request, probe.record, probe.deadline, |_| Ok(())).await;
        StunPhase::Request.took(probe.record, start.elapsed());
        probe.record.set(&TRANSMISSIONS, &[], f64::from(link.transmissions));
        self.judge(&answered?, probe.record)
    }

    fn judge(&self, answer: &[u8], record: &mut Recorder) -> Result<(), CallError> {
        let unreadable = |fault: &dyn std::fmt::Display| CallError::new(Reason::Protocol, format!("the server sent {fault}"));
        let answer = StunMessage::read(answer).map_err(|fault| unreadable(&fault))?;
        record_software(record, &answer);
        if answer.class == StunClass::Error {
            let Some(code) = answer.error_code().map_err(|fault| unreadable(&fault))? else {
                return Err(unreadable(&"an error without ERROR-CODE"));
            };
            record.set(&ERROR_CODE, &[], f64::from(code));
            record.event(format!("answered with error {code}"));
            return Err(refusal(code, &answer));
        }
        let Some(mapped) = answer.mapped_address().map_err(|fault| unreadable(&fault))? else {
            return Err(unreadable(&"an answer without the address that it is about"));
        };
        let address = mapped.ip().to_canonical();
        record.event(format!("answered that the request came from {mapped}"));
        match self.exported {
            MappedAddress::Hash => record.set(&ADDRESS_HASH, &[], f64::from(hash_of(address))),
            MappedAddress::Plain => record.set(&ADDRESS_INFO, &[&address.to_string()], 1.0),
        }
        match self.expected {
            Some(expected) if !expected.contains(&address) => {
                let message = format!("the server saw the request come from {address}, and stun.expectAddress wants {expected}");
                Err(CallError::new(Reason::Match, message))
            }
            _ => Ok(()),
        }
    }
}

/// The request: nothing but its transaction and a checksum.
fn binding() -> Result<StunRequest, CallError> {
    let internal = |what: &str| CallError::new(Reason::Internal, format!("the request could not be made: {what}"));
    let transaction = TransactionId::random().ok_or_else(|| internal("the system has no random numbers"))?;
    let writer = StunWriter::new(StunClass::Request, StunMethod::BINDING, transaction);
    let bytes = writer.finish_with_fingerprint().map_err(|error| internal(&error.to_string()))?;
    Ok(StunRequest { method: StunMethod::BINDING, transaction, bytes })
}

/// The failure of a probe whose server refuses.
fn refusal(code: u16, answer: &StunMessage<'_>) -> CallError {
    let (kind, hint) = match code {
        300 => (Reason::Response, ": another server should be asked, which is for the url to name".to_owned()),
        401 => (Reason::Auth, ": it wants credentials also for Binding requests, which have none; probe it with type Turn".to_owned()),
        420 => {
            let unknown: Vec<String> = answer.unknown_attributes().iter().map(|kind| format!("0x{kind:04x}")).collect();
            (Reason::Response, format!(": it does not know the attributes {}", unknown.join(", ")))
        }
        _ => (Reason::Response, String::new()),
    };
    CallError::new(kind, format!("the server answered with error {code}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_network_is_written_as_kubernetes_reads_it() {
        for (text, wanted) in [
            ("203.0.113.7", "203.0.113.7/32"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("203.0.113.9/24", "203.0.113.9/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), wanted);
        }
        for text in
            ["", "host", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/", "010.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "[::1]"]
        {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
