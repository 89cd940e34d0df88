//! Parses the exposition of another exporter, in text 0.0.4 or OpenMetrics, into [`Families`]. Pure; the text is not trusted.
//!
//! Timestamps, exemplars and creation times are dropped: the time of a sample is that of the poll. What Prometheus could not parse is
//! skipped and counted, so that the families can always be written again.

mod line;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::families::{Families, FamilyId, Suffix};
use super::{Format, Type, is_metric_name};
pub use line::LineFault;
pub(super) use line::unescape;
use line::{Grammar, LabelPairs, SampleLine, comment, number};

/// Longest name of a metric that is read.
const MAX_NAME: usize = 512;
/// Most labels of one sample; Prometheus servers are usually limited to 30 to 64.
const MAX_LABELS: usize = 64;
/// Most names that comments may describe; a Prometheus server itself has a few hundred.
const MAX_DECLARED: usize = 100_000;
/// Longest help text that is kept, in bytes.
const MAX_HELP: usize = 2048;
/// Longest line of an exposition that is passed on, in bytes.
const MAX_LINE: usize = 64 << 10;

/// Decides which samples of a passed-on exposition are kept, and what their labels say.
pub trait ExpositionPolicy {
    /// Whether a family, or a sample, may be called `name`; other samples are counted as skipped and withheld.
    fn admits(&self, name: &str) -> bool;

    /// The value that the label `name` gets in place of `value`.
    fn rewrite<'v>(&self, name: &str, value: Cow<'v, str>) -> Cow<'v, str>;
}

/// Why a text has no samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpositionError {
    /// There is no text.
    #[error("the body is empty")]
    Empty,
    /// An HTML page.
    #[error("the body is HTML, not Prometheus text; is the url right?")]
    Html,
    /// No line is a sample or a comment.
    #[error("the body is not Prometheus text: no line of it is a sample")]
    Foreign,
    /// More samples than wanted.
    #[error("more than {0} samples, which is what spec.sampleLimit allows")]
    TooMany(usize),
    /// Comments about too many names.
    #[error("more than {MAX_DECLARED} names with HELP or TYPE")]
    TooManyNames,
    /// Another encoding than UTF-8.
    #[error("the body is UTF-16, not UTF-8")]
    Utf16,
    /// OpenMetrics without its end.
    #[error("the body is incomplete: OpenMetrics must end with # EOF")]
    NoEnd,
    /// OpenMetrics that goes on after its end.
    #[error("line {0} comes after # EOF, the end of OpenMetrics")]
    AfterEnd(usize),
    /// A bad line where none may be.
    #[error("line {0} cannot be read: {1}")]
    Line(usize, LineFault),
}

impl ExpositionError {
    /// Whether it is about the amount of what can be read.
    pub const fn is_about_limit(&self) -> bool {
        matches!(self, Self::TooMany(_) | Self::TooManyNames)
    }
}

/// What an exposition is that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpositionSource {
    /// The format that its server has named.
    pub format: Format,
    /// Whether one bad line makes all of it useless. If not, such a line is skipped and counted.
    pub is_strict: bool,
}

/// Reads all of `text` into `out`, until that holds more than `limit` samples.
///
/// On an error `out` may hold a part: [`Families::rewind`] takes it back.
pub fn read_exposition(
    text: &str,
    policy: &impl ExpositionPolicy,
    limit: usize,
    out: &mut Families,
) -> Result<(), ExpositionError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(ExpositionError::Empty);
    }
    if text.starts_with('<') {
        return Err(ExpositionError::Html);
    }
    let format = if text.ends_with("# EOF") { Format::OpenMetrics } else { Format::Text };
    let mut reader = ExpositionReader::new(policy, format, Mode::Lenient, out);
    for line in text.lines() {
        let line = line.trim_start(); // white space at the end of a help text is a part of it
        if line.is_empty() {
            continue;
        }
        if reader.read(line).is_err() {
            reader.out.skip();
        }
        if !reader.goes_on(limit)? {
            break;
        }
    }
    if reader.understood { Ok(()) } else { Err(ExpositionError::Foreign) }
}

/// Reads all of `body` into `out` as Prometheus would, except that a line which it could not read is skipped and counted, unless the source
/// is strict. No more than `limit` samples are read.
///
/// On an error `out` may hold a part: [`Families::rewind`] takes it back.
pub fn pass_exposition(
    body: &[u8],
    source: ExpositionSource,
    policy: &impl ExpositionPolicy,
    limit: usize,
    out: &mut Families,
) -> Result<(), ExpositionError> {
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    if matches!(body, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'#', ..] | [b'#', 0, ..]) {
        return Err(ExpositionError::Utf16);
    }
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if body.trim_ascii_start().starts_with(b"<") {
        return Err(ExpositionError::Html);
    }
    out.allow_long_label_values();
    let is_openmetrics = source.format == Format::OpenMetrics;
    let mut reader = ExpositionReader::new(policy, source.format, Mode::Passing, out);
    let (mut has_ended, mut has_faults) = (false, false);
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    let lines = if body.is_empty() { None } else { Some(body.split(|byte| *byte == b'\n')) };
    for (number, line) in (1..).zip(lines.into_iter().flatten()) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if has_ended && !line.is_empty() {
            return Err(ExpositionError::AfterEnd(number));
        }
        if is_openmetrics && line == b"# EOF" {
            (has_ended, reader.understood) = (true, true);
            continue;
        }
        if let Err(fault) = reader.read_bytes(line, is_openmetrics && !has_ended) {
            if source.is_strict && fault != LineFault::QuotedName {
                return Err(ExpositionError::Line(number, fault));
            }
            has_faults = true;
            reader.out.skip();
        }
        if !reader.goes_on(limit)? {
            return Ok(());
        }
    }
    // Nothing at all is an answer as well: that of a server which has no series at the moment.
    if has_faults && !reader.understood {
        return Err(ExpositionError::Foreign);
    }
    if is_openmetrics && !has_ended {
        return Err(ExpositionError::NoEnd);
    }
    Ok(())
}

/// The word of a `# TYPE` line, those of OpenMetrics included that [`Type`] has no place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeclaredType {
    Simple(Type),
    Info,
    GaugeHistogram,
}

impl DeclaredType {
    fn parse(word: &str) -> Option<Self> {
        Some(match &*word.to_ascii_lowercase() {
            "counter" => Self::Simple(Type::Counter),
            "gauge" | "stateset" => Self::Simple(Type::Gauge),
            "histogram" => Self::Simple(Type::Histogram),
            "summary" => Self::Simple(Type::Summary),
            "untyped" | "unknown" => Self::Simple(Type::Unknown),
            "info" => Self::Info,
            "gaugehistogram" => Self::GaugeHistogram,
            _ => return None,
        })
    }
}

/// The comments about a name.
#[derive(Clone, Copy, Debug, Default)]
struct FamilyMetadata<'t> {
    kind: Option<DeclaredType>,
    help: &'t str,
}

/// The family that a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SampleFamily<'t> {
    family: &'t str,
    kind: Type,
    suffix: Suffix,
    help: &'t str,
}

/// What to do with the samples of a name.
#[derive(Clone, Copy, Debug)]
enum SampleAction {
    /// Add them to this family.
    Added(FamilyId, Type, Suffix),
    /// Ignore them: they hold nothing that is kept.
    Ignored,
    /// Skip them: they could not be written again.
    Skipped,
    /// Withhold them: the policy does not admit them.
    Withheld,
}

/// How an exposition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As well as possible: nobody else may read it, and what matters are its numbers.
    Lenient,
    /// As Prometheus reads it: nothing in it may mean anything else afterwards.
    Passing,
}

struct ExpositionReader<'t, 'o, P> {
    policy: &'o P,
    format: Format,
    mode: Mode,
    out: &'o mut Families,
    declared: HashMap<&'t str, FamilyMetadata<'t>>,
    /// The name of the newest comment: samples below it belong to it where they can.
    current: &'t str,
    /// Families that got samples.
    made: HashMap<&'t str, Type>,
    /// Samples of one name come in runs.
    last: Option<(&'t str, SampleAction)>,
    /// Series so far, whatever the order of their labels.
    seen: HashSet<u64>,
    hasher: RandomState,
    understood: bool,
    /// Those of the last sample.
    labels: LabelPairs<'t>,
}

impl<'t, 'o, P: ExpositionPolicy> ExpositionReader<'t, 'o, P> {
    fn new(policy: &'o P, format: Format, mode: Mode, out: &'o mut Families) -> Self {
        Self {
            policy,
            format,
            mode,
            out,
            declared: HashMap::new(),
            current: "",
            made: HashMap::new(),
            last: None,
            seen: HashSet::new(),
            hasher: RandomState::new(),
            understood: false,
            labels: Vec::new(),
        }
    }

    /// Whether there is still room for more.
    fn goes_on(&mut self, limit: usize) -> Result<bool, ExpositionError> {
        if self.out.len() > limit {
            return Err(ExpositionError::TooMany(limit));
        }
        if self.declared.len() > MAX_DECLARED {
            return Err(ExpositionError::TooManyNames);
        }
        // An allowance is exceeded: all of it is discarded, and the caller learns which one from `excess`.
        Ok(!self.out.is_stopped() && self.out.excess().is_none())
    }

    /// Reads a line that may be anything. A line without anything is a fault only where it is `never_blank`.
    fn read_bytes(&mut self, line: &'t [u8], never_blank: bool) -> Result<(), LineFault> {
        if line.len() > MAX_LINE {
            return Err(LineFault::TooLong);
        }
        let text = std::str::from_utf8(line).map_err(|_| LineFault::Encoding)?;
        if text.contains('\0') {
            return Err(LineFault::Encoding);
        }
        let text = text.trim_start_matches([' ', '\t']);
        match text.is_empty() {
            true if never_blank => Err(LineFault::Blank),
            true => Ok(()),
            false => self.read(text),
        }
    }

    /// Reads a line that is not blank and does not begin with a blank.
    fn read(&mut self, line: &'t str) -> Result<(), LineFault> {
        if let Some(rest) = line.strip_prefix('#') {
            return self.read_comment(rest);
        }
        let grammar = match (self.mode, self.format) {
            (Mode::Lenient, _) => Grammar::Any,
            (Mode::Passing, Format::Text) => Grammar::Text,
            (Mode::Passing, Format::OpenMetrics) => Grammar::OpenMetrics,
        };
        let sample = match line::sample(line.trim_end(), grammar, MAX_LABELS, &mut self.labels) {
            Ok(sample) => sample,
            Err(fault) => {
                self.understood |= fault == LineFault::QuotedName;
                return Err(fault);
            }
        };
        if sample.name.len() > MAX_NAME || !is_metric_name(sample.name) {
            return Err(LineFault::Name);
        }
        self.understood = true;
        if sample.has_exemplar && self.mode == Mode::Passing {
            self.out.skip();
        }
        self.add(sample)
    }

    fn read_comment(&mut self, rest: &'t str) -> Result<(), LineFault> {
        let is_lenient = self.mode == Mode::Lenient;
        self.understood |= is_lenient;
        let Some((keyword, name, rest)) = comment(rest) else { return Ok(()) };
        self.understood = true;
        if name.starts_with('"') && !is_lenient {
            return Ok(()); // about samples that are skipped
        }
        let mut understood = Ok(());
        match keyword {
            "HELP" => self.declared.entry(name).or_default().help = rest,
            "TYPE" => {
                let kind = DeclaredType::parse(rest.trim_end());
                if kind.is_none() {
                    understood = Err(LineFault::Type);
                }
                let declaration = self.declared.entry(name).or_default();
                declaration.kind = declaration.kind.or(kind);
            }
            _ => return Ok(()),
        }
        self.current = name;
        self.last = None;
        understood
    }

    fn add(&mut self, sample: SampleLine<'t>) -> Result<(), LineFault> {
        let action = match self.last {
            Some((name, action)) if name == sample.name => action,
            _ => {
                let action = self.decide(sample.name);
                self.last = Some((sample.name, action));
                action
            }
        };
        match action {
            SampleAction::Added(family, kind, suffix) => return self.push(family, kind, suffix, sample.value),
            SampleAction::Ignored => {}
            SampleAction::Skipped => self.out.skip(),
            SampleAction::Withheld => self.out.withhold(),
        }
        Ok(())
    }

    fn push(&mut self, family: FamilyId, kind: Type, suffix: Suffix, value: f64) -> Result<(), LineFault> {
        let bound = match (kind, suffix) {
            (Type::Histogram, Suffix::Bucket) => Some("le"),
            (Type::Summary, Suffix::None) => Some("quantile"),
            _ => None,
        };
        let is_count = kind == Type::Histogram && matches!(suffix, Suffix::Bucket | Suffix::Count);
        if is_count && value < 0.0 {
            self.labels.clear();
            return Err(LineFault::Count);
        }
        let mut labels = std::mem::take(&mut self.labels);
        let pushed = self.push_labels(family, suffix, bound, &mut labels, value);
        labels.clear();
        self.labels = labels; // its memory is for the next sample
        pushed
    }

    fn push_labels(
        &mut self,
        family: FamilyId,
        suffix: Suffix,
        bound: Option<&str>,
        labels: &mut LabelPairs<'t>,
        value: f64,
    ) -> Result<(), LineFault> {
        if self.mode == Mode::Passing {
            labels.retain(|(_, value)| !value.is_empty());
        }
        for (name, value) in &mut *labels {
            // A second `__name__` fails the whole scrape; a bound that is no number, or a hexadecimal one, fails promtool.
            if name.starts_with("__") {
                return Err(LineFault::Name);
            }
            if bound == Some(name) && (number(value).is_none() || value.contains(['x', 'X'])) {
                return Err(LineFault::Bound);
            }
            *value = self.policy.rewrite(name, std::mem::take(value));
        }
        if bound == Some("le") && !labels.iter().any(|(name, _)| *name == "le") {
            return Err(LineFault::Bound);
        }
        if !self.seen.insert(self.series(family, suffix, labels)) {
            self.out.skip();
        } else if !self.out.set_labels(family, suffix, labels, value) {
            return Err(LineFault::Name);
        }
        Ok(())
    }

    /// A number that equal series share: order of labels and empty values make no difference to Prometheus.
    fn series(&self, family: FamilyId, suffix: Suffix, labels: &[(&str, Cow<'_, str>)]) -> u64 {
        let pairs = labels
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .fold(0_u64, |sum, pair| sum.wrapping_add(self.hasher.hash_one((pair.0, &*pair.1))));
        self.hasher.hash_one((family, suffix, pairs))
    }

    fn decide(&mut self, name: &'t str) -> SampleAction {
        let Some(target) = self.family_of(name) else { return SampleAction::Ignored };
        // A histogram `a` has samples called `a_count`.
        if !(self.policy.admits(target.family) && self.policy.admits(name)) {
            return SampleAction::Withheld;
        }
        if self.clashes(&target) {
            return SampleAction::Skipped;
        }
        let help = unescape_help(target.help, self.format == Format::OpenMetrics);
        let Some(family) = self.out.family(target.family, target.kind, &help) else { return SampleAction::Skipped };
        let kind = self.out.kind_of(family);
        if kind != target.kind && (target.suffix != Suffix::None || kind == Type::Histogram) {
            return SampleAction::Skipped; // its type came after its first sample, or it is no part of a histogram
        }
        self.made.insert(target.family, kind);
        SampleAction::Added(family, kind, target.suffix)
    }

    /// `None` if the sample is only a creation time.
    fn family_of(&self, name: &'t str) -> Option<SampleFamily<'t>> {
        const SUFFIXES: [&str; 8] = ["", "_total", "_bucket", "_sum", "_count", "_info", "_gsum", "_gcount"];
        let near = std::iter::once(self.current).filter(|current| !current.is_empty());
        let far = SUFFIXES.iter().chain(&["_created"]).filter_map(|suffix| name.strip_suffix(suffix));
        for declared in near.chain(far) {
            let Some((&declared, declaration)) = self.declared.get_key_value(declared) else { continue };
            match fit(declared, declaration, name) {
                NameMatch::Family(family) => return Some(family),
                // Text has no creation times: there it is a sample as any other.
                NameMatch::Created if self.mode == Mode::Passing && self.format == Format::Text => {}
                NameMatch::Created => return None,
                NameMatch::Not => {}
            }
        }
        Some(SampleFamily { family: name, kind: Type::Unknown, suffix: Suffix::None, help: "" })
    }

    /// Whether there are a family `x_count` and a histogram `x`: promtool would read the former as a part of the latter.
    fn clashes(&self, target: &SampleFamily<'_>) -> bool {
        let mut wholes = Suffix::OF_PARTS.iter().filter_map(|part| target.family.strip_suffix(part));
        let has_part = |part| self.made.contains_key(format!("{}{part}", target.family).as_str());
        wholes.any(|whole| self.made.get(whole).is_some_and(|kind| kind.is_composed()))
            || target.kind.is_composed()
                && !self.made.contains_key(target.family)
                && Suffix::OF_PARTS.iter().any(has_part)
    }
}

enum NameMatch<'t> {
    Family(SampleFamily<'t>),
    Created,
    Not,
}

/// Whether a sample called `name` belongs to what was declared as `declared`.
fn fit<'t>(declared: &'t str, declaration: &FamilyMetadata<'t>, name: &'t str) -> NameMatch<'t> {
    let Some(rest) = name.strip_prefix(declared) else { return NameMatch::Not };
    let part_of =
        |family, kind, suffix| NameMatch::Family(SampleFamily { family, kind, suffix, help: declaration.help });
    let simple = match declaration.kind {
        None => Type::Unknown,
        Some(DeclaredType::Simple(kind)) => kind,
        Some(DeclaredType::Info) => {
            return if rest == "_info" { part_of(name, Type::Gauge, Suffix::None) } else { NameMatch::Not };
        }
        Some(DeclaredType::GaugeHistogram) => {
            let part = matches!(rest, "_bucket" | "_gsum" | "_gcount");
            return if part { part_of(name, Type::Unknown, Suffix::None) } else { NameMatch::Not };
        }
    };
    match (simple, rest) {
        (Type::Histogram, "") => NameMatch::Not,
        (kind, "") => part_of(declared, kind, Suffix::None),
        (Type::Counter, "_total") => part_of(name, Type::Counter, Suffix::None),
        (Type::Histogram, "_bucket") => part_of(declared, simple, Suffix::Bucket),
        (Type::Histogram | Type::Summary, "_sum") => part_of(declared, simple, Suffix::Sum),
        (Type::Histogram | Type::Summary, "_count") => part_of(declared, simple, Suffix::Count),
        (Type::Counter | Type::Histogram | Type::Summary, "_created") => NameMatch::Created,
        _ => NameMatch::Not,
    }
}

/// `\\` and `\n`, in OpenMetrics also `\"`, as the characters they stand for; at most [`MAX_HELP`] bytes.
fn unescape_help(help: &str, openmetrics: bool) -> Cow<'_, str> {
    let help = &help[..help.floor_char_boundary(MAX_HELP)];
    unescape(help, openmetrics)
}
