//! The kinds of target. Some are polled with HTTP calls, whose answers a kind translates into families: these are pure, without network and
//! clock. The others are probed: they speak a protocol themselves, over sockets that a [`Dialer`](crate::dial::Dialer) opens.
//!
//! To add a kind: make a folder `kind/<name>/` with an `Options` that implements [`Options`] and either [`CallOptions`] or
//! [`ProbeOptions`], then add its line to `kinds!` below. The CRD, the command line, the docs and the tests follow from that line.

mod answer;
mod confidential;
mod json;
mod probe;
pub mod reserved;
mod secret;
mod surface;

use std::fmt::{self, Debug};
use std::sync::Arc;

use reqwest::Url;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use answer::{Answer, Response};
pub use json::{Flag, FromJson, JsonEntries, JsonField, JsonList, Number, Text};
pub use probe::{
    Aftercare, AftercareRoom, BodyBeginning, ComparisonWork, Compute, HeavyWork, Probe, ProbeEvent, ProbeLimits,
    ProbeRecord, Prober, Recorder, SharedFamilies, pattern_problem, re2,
};
pub use secret::SecretKeyRef;
pub(crate) use surface::has_header;
pub use surface::{Field, UrlForm, UrlQuery, UrlSeparator};

pub use crate::failure::{CallError, Reason};
use crate::metric::{Desc, Families, Filter};
use crate::rule::{FieldError, Rule};

/// The options block of a kind: `spec.sora`, `spec.orion`, … Its doc comments are what `kubectl explain` prints.
///
/// The constants are what the schema of the other fields says about this kind, so that it need not name one.
pub trait Options:
    Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + JsonSchema + Send + Sync
{
    /// How `spec.url` is written.
    const URL: UrlForm = UrlForm::HTTP;

    /// How `spec.url` is used: follows the name of the kind in the description of that field.
    const URL_USAGE: &'static str;

    /// Whether `spec.url` may have a query.
    const URL_QUERY: UrlQuery = UrlQuery::Never;

    /// What `spec.maxAge` is if it is not set.
    const MAX_AGE: MaxAge = MaxAge::OfInterval;

    /// Whether it passes on the series of servers of any kind, under whatever names they have. Then no prefix of names is its own, and
    /// whoever runs the exporter may forbid it, as a probe.
    const PASSES_ON: bool = false;

    /// The fields of the spec, beside those that every kind has, which have a meaning for this one. The others are refused.
    const FIELDS: &'static [Field] = Field::OF_CALLS;

    /// Headers, in lower case, that the calls set to an option, with what is said to whoever names them in `spec.headers` of this kind.
    const OWN_HEADERS: &'static [(&'static str, &'static str)] = &[];

    /// Headers, in lower case, that are commands to servers of this kind. No target of any kind may send them, since a poll is to change
    /// nothing: with why, as it is said after the name.
    const COMMAND_HEADERS: &'static [(&'static str, &'static str)] = &[];

    /// Where in the block regular expressions stand: `spec.example.pattern[]`.
    const REGEXES: &'static [&'static str] = &[];

    /// Where in the block durations stand: `spec.example.pause`.
    const DURATIONS: &'static [&'static str] = &[];

    /// Where in the block, or in lists there, another type of value is easily written, with what is said then: what to write instead.
    const TYPE_HINTS: &'static [(&'static str, &'static str)] = &[];

    /// Where in the block texts stand that people may write credentials into, though there are Secrets for that: `spec.example.send[]`.
    /// Whatever is at such a place or below it is masked wherever the spec is shown.
    const CONFIDENTIAL: &'static [&'static str] = &[];

    /// Fields of the block that do not exist, with what is said to whoever writes them.
    const RESERVED: &'static [(&'static str, &'static str)] = &[];

    /// Rules about the block, and about other fields of a spec of this type.
    fn rules() -> Vec<Rule> {
        Vec::new()
    }

    /// Writes out the defaults that depend on other options, for whoever wants to see what holds.
    fn fill(&mut self) {}

    /// The HTTP status of the answer to a scrape if the poll has failed: another one than 200 makes `up` 0.
    fn fail_status(&self) -> u16 {
        200
    }

    /// Keys of Secrets that the block names, each with its field below the block: `queryResponse[0].sendSecretRef`. Their values are given to
    /// the probe in the same order.
    fn secrets(&self) -> Vec<(String, &SecretKeyRef)> {
        Vec::new()
    }
}

/// What `spec.maxAge` is if it is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxAge {
    /// Nine tenths of the interval.
    OfInterval,
    /// Zero: every scrape polls the target.
    Zero,
}

/// The options of a kind that is polled with HTTP calls.
pub trait CallOptions: Options {
    /// Makes the translator of one target. `url` is the target's own, already validated.
    fn build(&self, url: &Url) -> Box<dyn Kind>;
}

/// The options of a kind that is probed.
pub trait ProbeOptions: Options {
    /// Makes the prober of one target: whatever can be parsed or compiled, is. The errors are those that neither schema nor CEL can express.
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>>;
}

/// How a target is polled.
#[derive(Clone)]
pub enum Engine {
    /// With HTTP calls. It makes a translator of their answers.
    Calls(Arc<dyn Fn() -> Box<dyn Kind> + Send + Sync>),
    /// By a prober.
    Probe(Arc<dyn Prober>),
}

impl Engine {
    fn calls<O: CallOptions + 'static>(options: O, url: &Url) -> Self {
        let url = url.clone();
        Self::Calls(Arc::new(move || options.build(&url)))
    }

    /// A new translator; none if it is probed.
    pub fn translator(&self) -> Option<Box<dyn Kind>> {
        match self {
            Self::Calls(translators) => Some(translators()),
            Self::Probe(_) => None,
        }
    }

    fn probe<O: ProbeOptions>(options: &O, url: &Url) -> Result<Self, Vec<FieldError>> {
        options.prober(url).map(Self::Probe)
    }
}

impl Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calls(_) => "Calls",
            Self::Probe(_) => "Probe",
        })
    }
}

/// One target's translator. It may remember things between polls, to accumulate counters.
pub trait Kind: Send {
    /// The HTTP calls of a poll, in order. The first one is the primary call: it decides `probe_success`. A server need not be
    /// asked for what `filter` hides.
    fn calls(&self, filter: Option<&Filter>) -> Vec<Call>;

    /// Turns the answers, one for each call in the same order, into families, and says of each call whether it was good.
    ///
    /// A call that failed removes only its own families. It must not panic, whatever a server may have written.
    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>>;
}

/// What a translator may know beside the answers.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// When the poll ended, as Unix time in seconds.
    pub now: f64,
    /// `spec.sampleLimit`: a kind sheds detail, least important first, to stay at or below it.
    pub sample_limit: usize,
}

/// One HTTP request that a poll makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The value of the label `call`: one of a small fixed set.
    pub name: &'static str,
    /// GET or POST; nothing has a body.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers of the protocol itself; the user's come besides.
    pub headers: Vec<(&'static str, String)>,
    /// The header, in lower case, in which servers want to be told how many seconds are left for their answer.
    pub timeout_header: Option<&'static str>,
}

/// The methods that monitoring APIs are read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST with an empty body.
    Post,
}

impl Method {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// Registers the kinds. Each line gives the word of `spec.type`, the folder, which is also the name of the kind's block of the spec, and
/// whether it is polled with `calls` or by a `probe`.
macro_rules! kinds {
    (@engine calls, $options:expr, $url:expr) => { Ok(Engine::calls($options, $url)) };
    (@engine probe, $options:expr, $url:expr) => { Engine::probe(&$options, $url) };
    (@is_probed calls) => { false };
    (@is_probed probe) => { true };
    ($($(#[doc = $doc:literal])+ $kind:ident => $module:ident, $engine:ident;)+) => {
        $(pub mod $module;)+

        /// What is polled; decides which block of the spec may be present.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
        pub enum Type { $($(#[doc = $doc])+ $kind),+ }

        impl Type {
            /// Every kind there is.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The word in `spec.type`, in labels and on pages.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),+ }
            }

            /// The name of the kind's block in the spec.
            pub const fn block(self) -> &'static str {
                match self { $(Self::$kind => stringify!($module)),+ }
            }

            /// What the kind is for, in a sentence or two.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$kind => concat!($($doc),+)),+ }
            }

            /// How `spec.url` is used.
            pub const fn url_usage(self) -> &'static str {
                match self { $(Self::$kind => <$module::Options as Options>::URL_USAGE),+ }
            }

            /// How `spec.url` is written.
            pub const fn url(self) -> UrlForm {
                match self { $(Self::$kind => <$module::Options as Options>::URL),+ }
            }

            /// The kinds whose targets have such a url.
            pub fn with_url(url: &str) -> impl Iterator<Item = Self> {
                Self::ALL.iter().copied().filter(|kind| kind.url().pattern.is_match(url))
            }

            /// Whether `spec.url` may have a query.
            pub const fn url_query(self) -> UrlQuery {
                match self { $(Self::$kind => <$module::Options as Options>::URL_QUERY),+ }
            }

            /// The fields of the spec, beside those that every kind has, which have a meaning for this one.
            pub const fn fields(self) -> &'static [Field] {
                match self { $(Self::$kind => <$module::Options as Options>::FIELDS),+ }
            }

            /// Where in the block regular expressions stand.
            pub const fn regexes(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$module::Options as Options>::REGEXES),+ }
            }

            /// Where in the block texts stand that are not shown.
            pub const fn confidential(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$module::Options as Options>::CONFIDENTIAL),+ }
            }

            /// Fields of the block that do not exist, with what is said to whoever writes them.
            pub const fn reserved(self) -> &'static [(&'static str, &'static str)] {
                match self { $(Self::$kind => <$module::Options as Options>::RESERVED),+ }
            }

            /// What `spec.maxAge` is if it is not set.
            pub const fn max_age(self) -> MaxAge {
                match self { $(Self::$kind => <$module::Options as Options>::MAX_AGE),+ }
            }

            /// Whether it passes on the series of servers of any kind, under their own names.
            pub const fn passes_on(self) -> bool {
                match self { $(Self::$kind => <$module::Options as Options>::PASSES_ON),+ }
            }

            /// Whether it can reach servers of any kind, so that whoever runs the exporter may forbid it.
            pub const fn may_be_forbidden(self) -> bool {
                self.is_probed() || self.passes_on()
            }

            /// Whether it is probed. If not, it is polled with HTTP calls, and the names of its families begin with that of its block, unless
            /// it passes on those of its servers.
            pub const fn is_probed(self) -> bool {
                match self { $(Self::$kind => kinds!(@is_probed $engine)),+ }
            }

            /// The rules of its folder.
            pub fn rules(self) -> Vec<Rule> {
                match self { $(Self::$kind => <$module::Options as Options>::rules()),+ }
            }

            /// Headers, in lower case, that only the kind may set, with what is said to whoever sets them for it.
            pub const fn own_headers(self) -> &'static [(&'static str, &'static str)] {
                match self { $(Self::$kind => <$module::Options as Options>::OWN_HEADERS),+ }
            }

            /// Headers, in lower case, that are commands to its servers, with why no target may send them.
            pub const fn command_headers(self) -> &'static [(&'static str, &'static str)] {
                match self { $(Self::$kind => <$module::Options as Options>::COMMAND_HEADERS),+ }
            }

            /// Where in the block durations stand.
            pub const fn durations(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$module::Options as Options>::DURATIONS),+ }
            }

            /// Where in the block another type of value is easily written, with what is said then.
            pub const fn type_hints(self) -> &'static [(&'static str, &'static str)] {
                match self { $(Self::$kind => <$module::Options as Options>::TYPE_HINTS),+ }
            }

            /// Every family that the kind can export.
            pub fn families(self) -> Vec<&'static Desc> {
                match self { $(Self::$kind => $module::families()),+ }
            }
        }

        /// The options of each kind; at most the one that matches `type` is there, so that none takes memory in targets of another.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct Blocks {
            $(
                $(#[doc = $doc])+
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $module: Option<Box<$module::Options>>,
            )+
        }

        impl Blocks {
            /// The kinds whose block is present.
            pub fn present(&self) -> Vec<Type> {
                let mut present = Vec::new();
                $(if self.$module.is_some() { present.push(Type::$kind); })+
                present
            }

            /// Writes out the defaults of the block that belongs to `kind`, also if it is not there.
            pub fn fill(&mut self, kind: Type) {
                match kind {
                    $(Type::$kind => Options::fill(&mut **self.$module.get_or_insert_default())),+
                }
            }

            /// Replaces the texts of the block of `kind` that are not shown.
            pub fn mask(&mut self, kind: Type, mask: &str) {
                match kind {
                    $(Type::$kind => confidential::mask(self.$module.as_deref_mut(), kind.confidential(), mask)),+
                }
            }

            /// The texts of the block of `kind` that are not shown.
            pub fn confidential_texts(&self, kind: Type) -> Vec<String> {
                match kind {
                    $(Type::$kind => confidential::texts(self.$module.as_deref(), kind.confidential())),+
                }
            }

            /// How a target of type `kind` is polled.
            pub fn engine(&self, kind: Type, url: &Url) -> Result<Engine, Vec<FieldError>> {
                match kind {
                    $(Type::$kind => kinds!(@engine $engine, self.$module.as_deref().cloned().unwrap_or_default(), url)),+
                }
            }

            /// The HTTP status of the answer to a scrape of a target of type `kind` if the poll has failed.
            pub fn fail_status(&self, kind: Type) -> u16 {
                match kind {
                    $(Type::$kind => self.$module.as_deref().map_or(200, Options::fail_status)),+
                }
            }

            /// Keys of Secrets that the block of `kind` names, each with its field below the spec.
            pub fn secrets(&self, kind: Type) -> Vec<(String, &SecretKeyRef)> {
                match kind {
                    $(Type::$kind => self.$module.as_deref().into_iter().flat_map(Options::secrets).map(|(field, key)| {
                        (format!("{}.{field}", kind.block()), key)
                    }).collect()),+
                }
            }
        }
    };
}

kinds! {
    /// WebRTC SFU Sora, polled through its HTTP API.
    Sora => sora, calls;
    /// FIWARE Orion Context Broker, polled through its monitoring endpoints.
    Orion => orion, calls;
    /// A mediasoup application, polled through the agent of this project or through its own exporter.
    Mediasoup => mediasoup, calls;
    /// A web server, probed with HTTP requests as by the blackbox exporter.
    Http => http, probe;
    /// A TCP port, probed by connecting and, if wanted, by TLS and a dialogue.
    Tcp => tcp, probe;
    /// A DNS server, probed with a query.
    Dns => dns, probe;
    /// A host, probed with ICMP echo requests (ping).
    Icmp => icmp, probe;
    /// A gRPC service, probed through the standard health checking protocol.
    Grpc => grpc, probe;
    /// A WebSocket server, such as the signalling of a media server, probed with a handshake and, if wanted, messages and a ping.
    WebSocket => websocket, probe;
    /// A STUN server, probed by asking it from which address the request came.
    Stun => stun, probe;
    /// A TURN server, probed with an allocation and, if wanted, packets through its relay.
    Turn => turn, probe;
    /// Any server with metrics for Prometheus, whose series are passed on as they are.
    Prometheus => prometheus, calls;
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Type {
    type Err = String;

    /// Any case is read: `module=sora` is what users of the blackbox exporter write.
    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|kind| kind.as_str().eq_ignore_ascii_case(word)).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("unknown type {word:?}, write one of {}", words.join(", "))
        })
    }
}
