//! Hosts, probed with ICMP echo requests (ping). No capability is needed: see `dial`.

mod echo;
mod round_trips;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{CallError, Field, Probe, ProbeLimits, Prober, Reason, Recorder, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::dial::{EchoArrival, EchoSettings, EchoSocket, ICMP_HEADER, IcmpRefusal};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, patterns, raw};
use crate::time::{self, PromDuration};
pub use echo::{IcmpVersion, refused_request, reply, request};
use round_trips::RoundTrips;

/// The echo requests to a host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// Bytes after the header of a request; 0: 28. The operator sets how many are allowed (`--icmp-max-payload`), by default 1472.
    #[schemars(range(max = 65507))]
    pub payload_size: u16,
    /// Forbid that a request is divided on its way, so that one which is too large fails.
    pub dont_fragment: bool,
    /// How many routers may pass a request on.
    #[schemars(range(min = 1))]
    pub ttl: u8,
    /// How many requests are sent. With more than one, the number of replies and their round-trip times are exported as well.
    #[schemars(range(min = 1, max = 10))]
    pub count: u8,
    /// The time from one request to the next, from 50ms to 10s.
    pub packet_interval: PromDuration,
    /// How many requests must be answered.
    #[schemars(range(min = 1, max = 10))]
    pub min_received: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            payload_size: 0,
            dont_fragment: false,
            ttl: 64,
            count: 1,
            packet_interval: Duration::from_millis(200).into(),
            min_received: 1,
        }
    }
}

patterns! {
    URL = concat!("^icmp://", host!(), "$");
    /// A url whose address is multicast, broadcast, of `0.0.0.0/8` or unspecified.
    NO_HOST = concat!(
        r"^icmp://((0|22[4-9]|23[0-9])(\.[0-9]{1,3}){3}|255\.255\.255\.255",
        r"|\[[fF]{2}[0-9a-fA-F]{2}:[0-9a-fA-F:]*\]|\[[0:]+\])$"
    );
    INTERVAL = "^([0-9]{1,2}s)?([0-9]{1,5}ms)?$";
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be icmp://HOST, without port and path, where HOST is a name, an IPv4 address, or an IPv6 address in brackets",
        separator: UrlSeparator::Slashes,
    };
    const URL_USAGE: &'static str = "the host that is pinged, as in icmp://192.0.2.1";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::Addresses];
    const DURATIONS: &'static [&'static str] = &["spec.icmp.packetInterval"];

    fn rules() -> Vec<Rule> {
        let number = |icmp: &Value, field: &str| icmp.get(field).and_then(Value::as_u64).unwrap_or(1);
        let pattern = raw(time::DURATION_PATTERN);
        let readable = |field: &str| format!("{field} != '' && {field}.matches({pattern})");
        let interval = "self.icmp.packetInterval";
        let ten = "duration(self.interval) < duration('10s') ? duration(self.interval) : duration('10s')";
        vec![
            Rule::new(
                "spec",
                format!(
                    "!has(self.icmp) || self.icmp.count < 2 || !({}) || !({}) || (has(self.timeout) && !({})) || \
                     duration({interval}).getMilliseconds() * (self.icmp.count - 1) < \
                     (has(self.timeout) ? duration(self.timeout) : ({ten})).getMilliseconds()",
                    readable(interval),
                    readable("self.interval"),
                    readable("self.timeout"),
                ),
                "the last of count requests would be sent after the timeout (by default the smaller of interval and 10s), write a smaller \
                 count, a shorter packetInterval or a longer timeout",
            )
            .field("icmp.packetInterval")
            .holds_if(|spec| last_is_sent_in_time(spec).unwrap_or(true)),
            Rule::new(
                "spec",
                format!("self.type != 'Icmp' || !self.url.matches({})", raw(NO_HOST.as_str())),
                "the address in url is not that of one host (multicast, broadcast, or 0.0.0.0 and [::], which stand for no host), and is \
                 never pinged: write the address of a host",
            )
            .field("url")
            .holds_if(|spec| {
                spec.get("type").and_then(Value::as_str) != Some("Icmp")
                    || spec.get("url").and_then(Value::as_str).is_none_or(|url| !NO_HOST.is_match(url))
            }),
            Rule::new(
                "spec.icmp",
                "self.count < 1 || self.minReceived <= self.count",
                "no more requests can be answered than are sent, write at most count",
            )
            .field("minReceived")
            .holds_if(move |icmp| number(icmp, "count") < 1 || number(icmp, "minReceived") <= number(icmp, "count")),
            Rule::new(
                "spec.icmp.packetInterval",
                "self.matches('^([0-9]{1,2}s)?([0-9]{1,5}ms)?$') && self != '' && duration(self) >= duration('50ms') && \
                 duration(self) <= duration('10s')",
                "must be a duration from 50ms to 10s, for instance 200ms or 1s",
            )
            .holds_if_text(|text| {
                let allowed = PromDuration::from(Duration::from_millis(50))..=PromDuration::from_secs(10);
                INTERVAL.is_match(text) && text.parse().is_ok_and(|interval: PromDuration| allowed.contains(&interval))
            }),
        ]
    }
}

/// Whether the last request of a target is sent before the timeout; none if one of the fields is not readable, which other rules report.
fn last_is_sent_in_time(spec: &Value) -> Option<bool> {
    let span = |value: Option<&Value>, default: Duration| {
        value.map_or(Some(default), |value| Some(value.as_str()?.parse::<PromDuration>().ok()?.get()))
    };
    let icmp = spec.get("icmp")?;
    let count = icmp.get("count").map_or(Some(1), Value::as_u64)?;
    let packet_interval = span(icmp.get("packetInterval"), Options::default().packet_interval.get())?;
    let interval = span(spec.get("interval"), Duration::from_secs(15))?;
    let timeout = span(spec.get("timeout"), interval.min(Duration::from_secs(10)))?;
    let later = u32::try_from(count).ok()?.saturating_sub(1);
    Some(later == 0 || packet_interval.checked_mul(later)? < timeout)
}

impl super::ProbeOptions for Options {
    fn prober(&self, _: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        Ok(Arc::new(IcmpProber { options: self.clone() }))
    }
}

crate::descs! {
    DURATION = gauge "probe_icmp_duration_seconds" ["phase"] "Duration of the ICMP echo in seconds by phase: resolve is the lookup of the host's name, setup the opening of the socket, rtt the round trip, on average if there are several.";
    HOP_LIMIT = gauge "probe_icmp_reply_hop_limit" [] "TTL (IPv4) or hop limit (IPv6) of the last reply.";
    SENT = gauge "probe_icmp_packets_sent" [] "Echo requests that were sent; only with a count of more than one.";
    RECEIVED = gauge "probe_icmp_packets_received" [] "Echo requests that were answered; only with a count of more than one.";
    ROUND_TRIP = gauge "probe_icmp_rtt_seconds" ["stat"] "Round-trip times of the echo requests that were answered, in seconds: min, avg, max, stddev; only with a count of more than one.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [SharedFamilies::ADDRESS, FAMILIES].concat()
}

/// How long replies are waited for after the last request, if enough have come.
const LATE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct IcmpProber {
    options: Options,
}

impl Prober for IcmpProber {
    fn call(&self) -> &'static str {
        "echo"
    }

    fn begin(&self, record: &mut Recorder) {
        for phase in ["resolve", "setup", "rtt"] {
            record.set(&DURATION, &[phase], 0.0);
        }
        if self.options.count > 1 {
            record.set(&SENT, &[], 0.0);
            record.set(&RECEIVED, &[], 0.0);
        }
    }

    fn exceeds(&self, limits: &ProbeLimits) -> Option<FieldError> {
        let (size, most) = (self.options.payload_size, limits.max_echo_payload);
        (size > most).then(|| {
            let message = format!(
                "{size} is more than this installation allows, write at most {most}, or have the administrator of the exporter raise \
                 --icmp-max-payload"
            );
            FieldError::new("spec.icmp.payloadSize", message)
        })
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(async move {
            let Options { payload_size, ttl, dont_fragment, .. } = self.options;
            let host = probe.host.to_owned();
            let (address, took) = probe.resolve(&host).await;
            let address = address?;
            probe.record.set(&DURATION, &["resolve"], took.as_secs_f64());
            let limits = ProbeLimits { max_echo_payload: probe.dialer.max_echo_payload() };
            if let Some(error) = self.exceeds(&limits) {
                return Err(CallError::new(Reason::Config, error.to_string()));
            }
            let start = Instant::now();
            let socket = probe.dialer.echo(address, EchoSettings { ttl, dont_fragment });
            probe.record.set(&DURATION, &["setup"], start.elapsed().as_secs_f64());
            let socket = socket?;
            let payload = echo::payload(usize::from(payload_size));
            // The payload of each request is kept until its reply has come.
            probe.memory.cover((payload.len() + ICMP_HEADER) * (usize::from(self.options.count) + 2)).await;
            Echoes::new(&self.options, &socket, payload).exchange(probe).await
        })
    }
}

/// A request on its way.
#[derive(Debug)]
struct SentRequest {
    sequence: u16,
    at: Instant,
    payload: Vec<u8>,
    is_answered: bool,
}

/// The requests of one probe.
#[derive(Debug)]
struct Echoes<'e> {
    options: &'e Options,
    socket: &'e EchoSocket,
    version: IcmpVersion,
    payload: Vec<u8>,
    first_sequence: u16,
    sent: Vec<SentRequest>,
    times: RoundTrips,
    /// Requests that were refused, and the last refusal.
    refused: u8,
    refusal: Option<IcmpRefusal>,
}

impl<'e> Echoes<'e> {
    fn new(options: &'e Options, socket: &'e EchoSocket, payload: Vec<u8>) -> Self {
        let version = if socket.peer().is_ipv4() { IcmpVersion::V4 } else { IcmpVersion::V6 };
        let first_sequence = echo::random_sequence();
        let (sent, times) = (Vec::new(), RoundTrips::default());
        Self { options, socket, version, payload, first_sequence, sent, times, refused: 0, refusal: None }
    }

    /// Sends all requests and waits for their replies.
    async fn exchange(mut self, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let mut buffer = vec![0; self.payload.len() + ICMP_HEADER + 1];
        let mut next = Instant::now();
        loop {
            let all_sent = self.sent.len() >= usize::from(self.options.count);
            let until = if all_sent { self.end(probe.deadline) } else { next.min(probe.deadline) };
            if all_sent && self.times.count() + usize::from(self.refused) >= self.sent.len() {
                break;
            }
            tokio::select! {
                biased;
                arrival = self.socket.receive(&mut buffer) => {
                    let at = Instant::now();
                    self.arrived(&arrival?, &buffer, at, probe.record);
                }
                () = sleep_until(until) => {
                    if all_sent || Instant::now() >= probe.deadline {
                        break;
                    }
                    next = Instant::now() + self.options.packet_interval.get();
                    if let Err(error) = self.send(probe.record).await {
                        return self.verdict().map_err(|_| error);
                    }
                }
            }
        }
        self.verdict()
    }

    /// When replies are no longer waited for: once there are enough, those that take much longer are lost.
    fn end(&self, deadline: Instant) -> Instant {
        let last = self.sent.last().map_or(deadline, |request| request.at);
        if self.times.count() >= usize::from(self.options.min_received) {
            deadline.min(last + LATE.max(self.times.longest() * 2))
        } else {
            deadline
        }
    }

    async fn send(&mut self, record: &mut Recorder) -> Result<(), CallError> {
        let number = self.sent.len();
        let sequence = self.first_sequence.wrapping_add(u16::try_from(number).unwrap_or_default());
        let mut payload = self.payload.clone();
        if self.options.count > 1 {
            echo::randomize(&mut payload);
        }
        let packet = request(self.version, sequence, &payload);
        let at = Instant::now();
        self.socket.send(&packet).await?;
        self.sent.push(SentRequest { sequence, at, payload, is_answered: false });
        record.event(format!("sent request {} with {} bytes", number + 1, self.payload.len()));
        if self.options.count > 1 {
            #[expect(clippy::cast_precision_loss, reason = "at most 10")]
            record.set(&SENT, &[], self.sent.len() as f64);
        }
        Ok(())
    }

    fn arrived(&mut self, arrival: &EchoArrival, buffer: &[u8], at: Instant, record: &mut Recorder) {
        match arrival {
            EchoArrival::Packet { length, hop_limit } => {
                let Some((sequence, payload)) = reply(self.version, buffer.get(..*length).unwrap_or_default()) else {
                    return;
                };
                let mut waiting = (1..).zip(self.sent.iter_mut()).filter(|(_, request)| !request.is_answered);
                let is_it = |request: &SentRequest| request.sequence == sequence && request.payload == payload;
                let Some((number, request)) = waiting.find(|(_, request)| is_it(request)) else { return };
                request.is_answered = true;
                self.times.add(at.duration_since(request.at));
                record.received(*length);
                self.record(*hop_limit, record);
                record.event(format!("request {number} was answered"));
            }
            EchoArrival::Refusal { length, refusal } => {
                let of = refused_request(self.version, buffer.get(..*length).unwrap_or_default());
                let is_it = |request: &&mut SentRequest| {
                    !request.is_answered && (refusal.is_of_this_machine() || of == Some(request.sequence))
                };
                let Some(request) = self.sent.iter_mut().find(is_it) else { return };
                request.is_answered = true;
                self.refused += 1;
                self.refusal = Some(*refusal);
                record.event(refusal.to_string());
            }
        }
    }

    fn record(&self, hop_limit: Option<u8>, record: &mut Recorder) {
        record.set(&DURATION, &["rtt"], self.times.average().as_secs_f64());
        if let Some(hop_limit) = hop_limit {
            record.set(&HOP_LIMIT, &[], f64::from(hop_limit));
        }
        if self.options.count > 1 {
            #[expect(clippy::cast_precision_loss, reason = "at most 10")]
            record.set(&RECEIVED, &[], self.times.count() as f64);
            for (stat, value) in self.times.stats() {
                record.set(&ROUND_TRIP, &[stat], value);
            }
        }
    }

    fn verdict(&self) -> Result<(), CallError> {
        let (received, wanted) = (self.times.count(), self.options.min_received);
        if received >= usize::from(wanted) {
            return Ok(());
        }
        let peer = self.socket.peer();
        if let Some(refusal) = &self.refusal {
            return Err(CallError::new(Reason::Unreachable, format!("no way to {peer}: {refusal}")));
        }
        let message = if received == 0 {
            format!("no reply from {peer} in time")
        } else {
            let (sent, count) = (self.sent.len(), self.options.count);
            let unsent = if sent < usize::from(count) {
                format!(", for only {sent} of {count} could be sent before the timeout")
            } else {
                String::new()
            };
            format!(
                "only {received} of {count} requests to {peer} were answered in time{unsent}, and icmp.minReceived is {wanted}"
            )
        };
        Err(CallError::new(Reason::Timeout, message))
    }
}
