//! Metric families and their text forms. Pure: no clock, no I/O, no knowledge of targets.
//!
//! A poll fills a [`Families`]; [`Families::finish`] puts it in order; [`encode()`] writes it. Everything lies in three flat
//! buffers, since a poll of a busy server makes thousands of samples and most of them live for a few microseconds.

mod allowance;
mod convert;
mod encode;
mod exposition;
mod families;
mod filter;
mod finished;
mod gzip;
mod members;
mod negotiate;

pub use allowance::{Allowance, Excess, Stop};
pub use convert::{Rewriter, openmetrics_to_text, text_to_openmetrics};
pub use encode::{PlainCounters, encode, write_value};
pub use exposition::{
    ExpositionError, ExpositionPolicy, ExpositionSource, LineFault, pass_exposition, read_exposition,
};
pub use families::{Families, FamilyId, Mark, Suffix};
pub use filter::{Compiled, Filter, FilterError, character_of};
pub use finished::Finished;
pub use gzip::{gunzip, gzip};
pub use members::{Merged, merge_members};
pub use negotiate::{Encoding, Format, negotiate_encoding, negotiate_format};

/// What a family measures, as Prometheus names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Only rises, except when its source restarts.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Cumulative buckets with `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Quantiles with `_sum` and `_count`; only ever passed on from another exporter.
    Summary,
    /// Not known: `untyped` in text 0.0.4, `unknown` in OpenMetrics.
    Unknown,
}

impl Type {
    /// The word in a `# TYPE` line of text 0.0.4.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Unknown => "untyped",
        }
    }

    /// The type with this word in a `# TYPE` line of text 0.0.4.
    fn of_text(word: &str) -> Option<Self> {
        let all = [Self::Counter, Self::Gauge, Self::Histogram, Self::Summary, Self::Unknown];
        all.into_iter().find(|kind| kind.text() == word)
    }

    /// Whether its samples have several names.
    const fn is_composed(self) -> bool {
        matches!(self, Self::Histogram | Self::Summary)
    }

    /// The word in a `# TYPE` line of OpenMetrics 1.0.
    pub const fn openmetrics(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            other => other.text(),
        }
    }
}

/// A family that is known when the program is built: what `docs/metrics.md` lists.
///
/// Always a `static`, declared by [`descs!`](crate::descs), so that name, type, help and label names stand in one place.
#[derive(Debug)]
pub struct Desc {
    /// The name of the samples, a counter's `_total` included.
    pub name: &'static str,
    /// Counter, gauge, …
    pub kind: Type,
    /// One sentence for a stranger; where the value comes from, if that is not obvious.
    pub help: &'static str,
    /// Names of the labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// Declares families as statics, and `FAMILIES`, the list of all of them.
///
/// ```
/// scrapetarget_exporter::descs! {
///     UP = gauge "example_up" [] "Whether the last poll succeeded.";
///     CALLS = counter "example_calls_total" ["method"] "Calls by method.";
/// }
/// assert_eq!(FAMILIES.len(), 2);
/// ```
#[macro_export]
macro_rules! descs {
    ($($(#[$meta:meta])* $ident:ident = $kind:ident $name:literal [$($label:literal),* $(,)?] $help:literal;)+) => {
        $(
            $(#[$meta])*
            #[allow(unreachable_pub, reason = "some lists live in private modules")]
            #[doc = concat!("The family `", $name, "`.")]
            pub static $ident: $crate::metric::Desc = $crate::metric::Desc {
                name: $name,
                kind: $crate::descs!(@kind $kind),
                help: $help,
                labels: &[$($label),*],
            };
        )+
        /// Every family of this list, in the order of declaration.
        #[allow(unreachable_pub, reason = "some lists live in private modules")]
        pub static FAMILIES: &[&$crate::metric::Desc] = &[$(&$ident),+];
    };
    (@kind counter) => { $crate::metric::Type::Counter };
    (@kind gauge) => { $crate::metric::Type::Gauge };
    (@kind histogram) => { $crate::metric::Type::Histogram };
}

/// Whether `name` may be the name of a metric: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// Whether `name` may be the name of a label: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
