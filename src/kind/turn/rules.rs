//! What a target of this type may not be. Each rule is said in CEL, for the API server, and in Rust.

use std::time::Duration;

use serde_json::Value;

use super::flow::{LEAST_FOR_RELEASE, PART_FOR_RELEASE, for_release};
use crate::kind::surface::{tls_config_needs_tls, url_begins_with};
use crate::rule::{Rule, patterns, raw};
use crate::time::{self, PromDuration};

patterns! {
    PACKET_INTERVAL = "^([0-9]{1,2}s)?([0-9]{1,4}ms)?$";
}

/// Fields that have a meaning in mode Relay only.
const OF_RELAY: [&str; 5] = ["packets", "packetSize", "packetInterval", "minReceived", "requireRelay"];

/// Fields that name credentials.
const CREDENTIALS: [&str; 3] = ["username", "password", "sharedSecret"];

/// Fields about credentials that are made of a shared secret.
const OF_SHARED_SECRET: [&str; 2] = ["userId", "ttl"];

/// The shortest interval between probes that relay.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest timeout of probes with an allocation, which has to be given back within it.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

fn has_any_of(fields: &[&str]) -> String {
    fields.iter().map(|field| format!("has(self.{field})")).collect::<Vec<_>>().join(" || ")
}

fn has_any(turn: &Value, fields: &[&str]) -> bool {
    fields.iter().any(|field| turn.get(field).is_some())
}

fn mode(turn: &Value) -> Option<&str> {
    turn.get("mode").and_then(Value::as_str)
}

/// Whether the duration is one, and then at least this; what is none, other rules tell.
fn is_at_least(value: Option<&Value>, least: Duration) -> bool {
    let parsed = value.and_then(Value::as_str).and_then(|text| text.parse::<PromDuration>().ok());
    parsed.is_none_or(|duration| duration.get() >= least)
}

fn is_between(text: &str, least: Duration, most: Duration) -> bool {
    text.parse::<PromDuration>().is_ok_and(|duration| (least..=most).contains(&duration.get()))
}

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = of_credentials();
    rules.extend(of_relay());
    rules.extend(of_times());
    rules.push(tls_config_needs_tls(
        "!self.url.startsWith('turn:')",
        "tlsConfig has no effect without TLS: write turns: instead of turn: in url, or remove it",
        |spec| !url_begins_with(spec, "turn:"),
    ));
    rules
}

fn of_credentials() -> Vec<Rule> {
    const BLOCK: &str = "spec.turn";
    let any = has_any_of(&CREDENTIALS);
    vec![
        Rule::new(
            BLOCK,
            "has(self.username) == has(self.password)",
            "username and password belong together, write both or none of them",
        )
        .holds_if(|turn| turn.get("username").is_some() == turn.get("password").is_some()),
        Rule::new(
            BLOCK,
            "!has(self.sharedSecret) || !(has(self.username) || has(self.password))",
            "sharedSecret and username with password are mutually exclusive, since credentials are made of the secret: write one of them",
        )
        .field("sharedSecret")
        .holds_if(|turn| turn.get("sharedSecret").is_none() || !has_any(turn, &["username", "password"])),
        Rule::new(
            BLOCK,
            format!("has(self.sharedSecret) || !({})", has_any_of(&OF_SHARED_SECRET)),
            "userId and ttl are those of credentials that are made of sharedSecret, write that as well or remove them",
        )
        .holds_if(|turn| turn.get("sharedSecret").is_some() || !has_any(turn, &OF_SHARED_SECRET)),
        Rule::new(
            BLOCK,
            format!("!has(self.mode) || self.mode != 'Challenge' || !({any})"),
            "mode Challenge uses no credentials, remove them or write mode: Allocate",
        )
        .field("mode")
        .holds_if(|turn| mode(turn) != Some("Challenge") || !has_any(turn, &CREDENTIALS)),
        Rule::new(
            BLOCK,
            format!("!has(self.mode) || self.mode == 'Challenge' || {any}"),
            "modes Allocate and Relay need credentials, write username and password, or sharedSecret; without any, write mode: Challenge",
        )
        .field("mode")
        .holds_if(|turn| matches!(mode(turn), None | Some("Challenge")) || has_any(turn, &CREDENTIALS)),
        Rule::new(
            "spec.turn.ttl",
            format!(
                "self.matches({}) && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('24h')",
                raw(time::DURATION_PATTERN)
            ),
            "must be a duration from 1m to 24h, for instance 10m",
        )
        .holds_if_text(|text| is_between(text, Duration::from_secs(60), Duration::from_secs(24 * 3600))),
    ]
}

fn of_relay() -> Vec<Rule> {
    let number = |turn: &Value, field: &str, default| turn.get(field).map_or(Some(default), Value::as_u64);
    vec![
        Rule::new(
            "spec.turn",
            format!("(has(self.mode) && self.mode == 'Relay') || !({})", has_any_of(&OF_RELAY)),
            "packets, packetSize, packetInterval, minReceived and requireRelay have an effect in mode Relay only, write mode: Relay or remove them",
        )
        .holds_if(|turn| mode(turn) == Some("Relay") || !has_any(turn, &OF_RELAY)),
        Rule::new(
            "spec.turn",
            "!has(self.minReceived) || self.minReceived <= (has(self.packets) ? self.packets : 10)",
            "no more packets can come back than are sent, write at most packets, which is 10 by default",
        )
        .field("minReceived")
        .holds_if(move |turn| {
            let (wanted, sent) = (number(turn, "minReceived", 1), number(turn, "packets", 10));
            wanted.zip(sent).is_none_or(|(wanted, sent)| wanted <= sent)
        }),
        Rule::new(
            "spec.turn.packetInterval",
            format!(
                "self.matches({}) && self != '' && duration(self) >= duration('5ms') && duration(self) <= duration('1s')",
                raw(PACKET_INTERVAL.as_str())
            ),
            "must be a duration from 5ms to 1s, for instance 20ms",
        )
        .holds_if_text(|text| {
            PACKET_INTERVAL.is_match(text) && is_between(text, Duration::from_millis(5), Duration::from_secs(1))
        }),
    ]
}

fn of_times() -> Vec<Rule> {
    let pattern = raw(time::DURATION_PATTERN);
    let readable = |field: &str| format!("{field} != '' && {field}.matches({pattern})");
    let of_mode = |turn: &Value| turn.pointer("/turn/mode").and_then(Value::as_str) == Some("Relay");
    let is_relay = "has(self.turn) && has(self.turn.mode) && self.turn.mode == 'Relay'";
    let has_credentials = "has(self.turn) && (has(self.turn.username) || has(self.turn.sharedSecret))";
    let ten = "duration(self.interval) < duration('10s') ? duration(self.interval) : duration('10s')";
    let timeout = format!("(has(self.timeout) ? duration(self.timeout) : ({ten})).getMilliseconds()");
    let least = LEAST_FOR_RELEASE.as_millis();
    let interval = "self.turn.packetInterval";
    // One that is too long has a rule of its own.
    let measurable = format!(
        "{interval} != '' && {interval}.matches({}) && duration({interval}) <= duration('1s')",
        raw(PACKET_INTERVAL.as_str())
    );
    vec![
        Rule::new(
            "spec",
            format!("!({is_relay}) || !({}) || duration(self.interval) >= duration('10s')", readable("self.interval")),
            "in mode Relay, a TURN server is probed at most every 10s, since it relays packets for that: write an interval of 10s or more",
        )
        .field("interval")
        .holds_if(move |spec| !of_mode(spec) || is_at_least(spec.get("interval"), SHORTEST_INTERVAL)),
        Rule::new(
            "spec",
            format!(
                "!({has_credentials}) || !has(self.timeout) || !({}) || duration(self.timeout) >= duration('1s')",
                readable("self.timeout")
            ),
            "an allocation of a TURN server has to be given back within the timeout, write 1s or more",
        )
        .field("timeout")
        .holds_if(|spec| {
            let has_credentials = spec.get("turn").is_some_and(|turn| has_any(turn, &["username", "sharedSecret"]));
            !has_credentials || is_at_least(spec.get("timeout"), SHORTEST_TIMEOUT)
        }),
        Rule::new(
            "spec",
            format!(
                "!({is_relay}) || !({}) || (has({interval}) && !({})) || (has(self.timeout) && !({})) || \
                 (has({interval}) ? duration({interval}) : duration('20ms')).getMilliseconds() * \
                 ((has(self.turn.packets) ? self.turn.packets : 10) - 1) < \
                 {timeout} - ({timeout} / {PART_FOR_RELEASE} > {least} ? {timeout} / {PART_FOR_RELEASE} : {least})",
                readable("self.interval"),
                measurable,
                readable("self.timeout"),
            ),
            "the last of packets would be sent too late: of the timeout (by default the smaller of interval and 10s), a twentieth, and at \
             least 200ms, is for giving the allocation back; write fewer packets, a shorter packetInterval or a longer timeout",
        )
        .field("turn.packets")
        .holds_if(move |spec| !of_mode(spec) || last_is_sent_in_time(spec).unwrap_or(true)),
    ]
}

/// Whether the last packet is sent before the timeout; none if one of the fields is not readable, which other rules report.
fn last_is_sent_in_time(spec: &Value) -> Option<bool> {
    let span = |value: Option<&Value>, default: Duration| {
        value.map_or(Some(default), |value| Some(value.as_str()?.parse::<PromDuration>().ok()?.get()))
    };
    let turn = spec.get("turn")?;
    let packets = turn.get("packets").map_or(Some(10), Value::as_u64)?;
    let packet_interval = span(turn.get("packetInterval"), Duration::from_millis(20))?;
    if packet_interval > Duration::from_secs(1) {
        return None;
    }
    let interval = span(spec.get("interval"), Duration::from_secs(15))?;
    let timeout = span(spec.get("timeout"), interval.min(Duration::from_secs(10)))?;
    let later = u32::try_from(packets.saturating_sub(1)).unwrap_or(u32::MAX);
    let last = packet_interval.saturating_mul(later);
    Some(last < timeout.saturating_sub(for_release(timeout)))
}
