//! TURN servers, probed as clients use them: the server must ask for credentials, take them, give a relayed address, and relay packets.
//!
//! A probe borrows an allocation from the server, and gives it back however it ends: see `allocation`. The only peer that it ever names is the
//! relayed address of this very allocation, so that no server is made to send to others.

mod allocation;
mod credentials;
mod flow;
mod refusal;
mod relay;
mod request;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::probe::{StunTransport, phases};
use super::{
    CallError, Field, Probe, Prober, Reason, Recorder, SecretKeyRef, SharedFamilies, UrlForm, UrlQuery, UrlSeparator,
};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, patterns, port};
use crate::time::PromDuration;
use credentials::TurnCredentialSource;
use relay::RelaySettings;

/// What is tried with a TURN server, and with which credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// How far a probe goes. `Challenge`: the server must ask for credentials. `Allocate`: it must take them and give a relayed address.
    /// `Relay`: packets that are sent to that address must come back. Default: `Allocate` with credentials, else `Challenge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TurnMode>,
    /// The name of the user, in a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<SecretKeyRef>,
    /// The password of the user, in a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKeyRef>,
    /// Instead of `username` and `password`: the secret that the server shares with those who make credentials for its users
    /// (`static-auth-secret` of coturn), in a Secret. Each probe makes credentials for itself that end after `ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_secret: Option<SecretKeyRef>,
    /// The user in credentials that are made of `sharedSecret`: their name is `TIME:USER`, where TIME is when they end. Default:
    /// `scrapetarget-exporter`; if it is empty, the name is the time alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub user_id: Option<String>,
    /// How long credentials that are made of `sharedSecret` are valid, from 1m to 24h. It must be longer than the clocks differ. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<PromDuration>,
    /// Mode `Relay`: how many packets are sent. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub packets: Option<u8>,
    /// Mode `Relay`: bytes of each packet. Default: 160, as in a call with G.711.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1400))]
    pub packet_size: Option<u16>,
    /// Mode `Relay`: the time from one packet to the next, from 5ms to 1s. Default: 20ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_interval: Option<PromDuration>,
    /// Mode `Relay`: how many packets must come back. Default: 1, so that lost packets are seen in the metrics and fail no probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub min_received: Option<u8>,
    /// Mode `Relay`: whether a server fails the probe that forbids to relay to its own address (error 403), as many do for private networks.
    /// Default: false, so that `probe_turn_relay_forbidden` tells of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_relay: Option<bool>,
}

/// How far a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TurnMode {
    /// The server must ask for credentials.
    Challenge,
    /// It must take them and give a relayed address.
    Allocate,
    /// It must relay packets.
    Relay,
}

patterns! {
    URL = concat!("^(turn:", host!(), port!(), r"(\?transport=(udp|tcp))?|turns:", host!(), port!(), r"(\?transport=tcp)?)$");
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be turn:HOST or turns:HOST, with :PORT if it is not the default one, and for turn ?transport=tcp if it is not UDP, \
                  for instance turn:turn.example.com or turn:[2001:db8::1]:3478?transport=tcp; turns is TLS over TCP, never over UDP",
        separator: UrlSeparator::Colon,
    };
    const URL_USAGE: &'static str = "turn:HOST over UDP, turn:HOST?transport=tcp over TCP, at port 3478; turns:HOST over TLS, at port 5349; \
                                     another port follows the host";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::Tls, Field::Addresses];
    const DURATIONS: &'static [&'static str] = &["spec.turn.ttl", "spec.turn.packetInterval"];

    const RESERVED: &'static [(&'static str, &'static str)] = &[
        ("realm", "remove it: the server says which realm it has"),
        ("relay", "remove it: packets are relayed to the own relayed address"),
    ];

    fn rules() -> Vec<Rule> {
        rules::rules()
    }

    fn fill(&mut self) {
        let mode = self.mode();
        self.mode = Some(mode);
        if let Some(TurnCredentialSource::SharedSecret { user, ttl }) = TurnCredentialSource::new(self) {
            self.user_id = Some(user);
            self.ttl = Some(ttl.into());
        }
        if mode == TurnMode::Relay {
            RelaySettings::new(self).show(self);
        }
    }

    fn secrets(&self) -> Vec<(String, &SecretKeyRef)> {
        let fields =
            [("username", &self.username), ("password", &self.password), ("sharedSecret", &self.shared_secret)];
        fields.into_iter().filter_map(|(field, key)| Some((field.to_owned(), key.as_ref()?))).collect()
    }
}

impl Options {
    /// How far a probe goes, by itself or by the credentials.
    fn mode(&self) -> TurnMode {
        let has_credentials = TurnCredentialSource::new(self).is_some();
        self.mode.unwrap_or(if has_credentials { TurnMode::Allocate } else { TurnMode::Challenge })
    }
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let transport = StunTransport::of(url);
        Ok(Arc::new(TurnProber {
            transport,
            port: url.port().unwrap_or_else(|| transport.default_port()),
            mode: self.mode(),
            credentials: TurnCredentialSource::new(self),
            relay: RelaySettings::new(self),
        }))
    }
}

crate::descs! {
    DURATION = gauge "probe_turn_duration_seconds" ["phase"] "Duration of each phase of the probe in seconds: resolve, connect, tls, challenge, allocate, permission, relay, release; 0 for a phase that was not reached.";
    ERROR_CODE = gauge "probe_turn_error_code" ["step"] "Error code of the last answer to each step: challenge, allocate, permission, release, for instance 486; 0 if it was no error, or there was none. That the server asks for credentials (401) is none.";
    AUTHENTICATION = gauge "probe_turn_authentication_required" [] "Whether the server wants credentials; 0: anybody may use it as a relay. Absent until it has answered.";
    LIFETIME = gauge "probe_turn_allocation_lifetime_seconds" [] "How long the server would have kept the allocation, in seconds; 0 if there was none.";
    SENT = gauge "probe_turn_relay_packets_sent" [] "Packets that were sent to the own relayed address; only in mode Relay.";
    RECEIVED = gauge "probe_turn_relay_packets_received" [] "Packets that came back, each counted once; only in mode Relay.";
    ROUND_TRIP = gauge "probe_turn_relay_round_trip_seconds" ["stat"] "Round-trip times of the packets that came back, in seconds: min, avg, max. Absent if none did.";
    JITTER = gauge "probe_turn_relay_jitter_seconds" [] "How much the round-trip times of neighbouring packets differ on average, in seconds. Absent if no packet came back.";
    FORBIDDEN = gauge "probe_turn_relay_forbidden" [] "Whether the server forbids to relay to its own address (error 403), so that relaying could not be tried; only in mode Relay.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [FAMILIES, SharedFamilies::STUN, SharedFamilies::ADDRESS, SharedFamilies::TLS].concat()
}

phases! {
    TurnPhase of DURATION:
    Resolve => "resolve",
    Connect => "connect",
    Tls => "tls",
    Challenge => "challenge",
    Allocate => "allocate",
    Permission => "permission",
    Relay => "relay",
    Release => "release",
}

impl TurnPhase {
    /// Those with a request, whose answer may be an error.
    const STEPS: [Self; 4] = [Self::Challenge, Self::Allocate, Self::Permission, Self::Release];
}

#[derive(Debug)]
struct TurnProber {
    transport: StunTransport,
    port: u16,
    mode: TurnMode,
    credentials: Option<TurnCredentialSource>,
    relay: RelaySettings,
}

impl Prober for TurnProber {
    fn call(&self) -> &'static str {
        self.aim().as_str()
    }

    fn begin(&self, record: &mut Recorder) {
        for phase in TurnPhase::ALL {
            phase.took(record, Duration::ZERO);
        }
        for step in TurnPhase::STEPS {
            record.set(&ERROR_CODE, &[step.as_str()], 0.0);
        }
        record.set(&LIFETIME, &[], 0.0);
        if self.mode == TurnMode::Relay {
            for desc in [&SENT, &RECEIVED, &FORBIDDEN] {
                record.set(desc, &[], 0.0);
            }
        }
    }

    /// Servers, and programs in front of them, lock out addresses from which wrong credentials come.
    fn pause_after(&self, reason: Reason) -> Duration {
        const AFTER_REJECTION: Duration = Duration::from_secs(60);
        if reason == Reason::Auth { AFTER_REJECTION } else { Duration::ZERO }
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(self.run(probe))
    }
}

impl TurnProber {
    /// The step that a probe is about, which has the name of the call.
    const fn aim(&self) -> TurnPhase {
        match self.mode {
            TurnMode::Challenge => TurnPhase::Challenge,
            TurnMode::Allocate => TurnPhase::Allocate,
            TurnMode::Relay => TurnPhase::Relay,
        }
    }

    /// A failure begins with its step. That of the call precedes every failure anyway.
    fn in_step<T>(&self, step: TurnPhase, result: Result<T, CallError>) -> Result<T, CallError> {
        result.map_err(|error| {
            if step == self.aim() {
                return error;
            }
            CallError::new(error.reason, format!("{}: {}", step.as_str(), error.message))
        })
    }
}
