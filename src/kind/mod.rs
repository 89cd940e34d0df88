//! The kinds of target: which calls a kind makes, and what their answers mean in Prometheus. Pure: no network, no clock.
//!
//! To add a kind: make a folder `kind/<name>/` with an `Options` that implements [`Options`] and a translator that implements
//! [`Kind`], then add its line to `kinds!` below. The CRD, the command line, the docs and the tests follow from that line.

mod answer;
mod json;
pub mod reserved;

use std::fmt::Debug;

use reqwest::Url;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use answer::{Answer, CallError, Reason, Response};
pub use json::{Flag, FromJson, JsonEntries, JsonField, JsonList, Number, Text};

use crate::metric::{Desc, Families, Filter};

/// The options block of a kind: `spec.sora`, `spec.orion`, … Its doc comments are what `kubectl explain` prints.
///
/// The constants are what the schema of the other fields says about this kind, so that it need not name one.
pub trait Options:
    Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + JsonSchema + Send + Sync
{
    /// How `spec.url` is used: follows the name of the kind in the description of that field.
    const URL_USAGE: &'static str;

    /// The option and its value with which `spec.url` may have a query. By default it may not.
    const URL_QUERY_WITH: Option<(&'static str, &'static str)> = None;

    /// Headers, in lower case, that the calls set to protocol words or to an option: `spec.headers` may not name them.
    const OWN_HEADERS: &'static [&'static str] = &[];

    /// Makes the translator of one target. `url` is the target's own, already validated.
    fn build(&self, url: &Url) -> Box<dyn Kind>;
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

/// Registers the kinds. Each line gives the word of `spec.type`, the folder, and the kind's block of the spec.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident => $module:ident;)+) => {
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

            /// The option and its value with which `spec.url` may have a query.
            pub const fn url_query_with(self) -> Option<(&'static str, &'static str)> {
                match self { $(Self::$kind => <$module::Options as Options>::URL_QUERY_WITH),+ }
            }

            /// Headers, in lower case, that only the kind may set.
            pub const fn own_headers(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$module::Options as Options>::OWN_HEADERS),+ }
            }

            /// Every family that the kind can export.
            pub fn families(self) -> Vec<&'static Desc> {
                match self { $(Self::$kind => $module::families()),+ }
            }
        }

        /// The options of each kind; at most the one that matches `type` is there.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct Blocks {
            $(
                $(#[doc = $doc])+
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $module: Option<$module::Options>,
            )+
        }

        impl Blocks {
            /// The kinds whose block is present.
            pub fn present(&self) -> Vec<Type> {
                let mut present = Vec::new();
                $(if self.$module.is_some() { present.push(Type::$kind); })+
                present
            }

            /// Writes out the defaults of the block that belongs to `kind`, if it is not there.
            pub fn fill(&mut self, kind: Type) {
                match kind {
                    $(Type::$kind => { self.$module.get_or_insert_default(); }),+
                }
            }

            /// Makes the translator for a target of type `kind`.
            pub fn build(&self, kind: Type, url: &Url) -> Box<dyn Kind> {
                match kind {
                    $(Type::$kind => self.$module.clone().unwrap_or_default().build(url)),+
                }
            }
        }
    };
}

kinds! {
    /// WebRTC SFU Sora, polled through its HTTP API.
    Sora => sora;
    /// FIWARE Orion Context Broker, polled through its monitoring endpoints.
    Orion => orion;
    /// A mediasoup application, polled through the agent of this project or through its own exporter.
    Mediasoup => mediasoup;
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
