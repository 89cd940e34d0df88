//! Whether the records of a reply are the wanted ones.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reply::{Reply, Section};
use super::types;
use crate::failure::{CallError, Reason};
use crate::kind::Probe;
use crate::kind::probe::{Matcher, Pattern, readable, work};
use crate::metric::Stop;
use crate::rule::FieldError;

/// Regular expressions for the records of one section. A record is a line as in a zone file, with tabs between its first five parts:
/// `www.example.com.<TAB>300<TAB>IN<TAB>A<TAB>192.0.2.1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "the names are those of the blackbox exporter")]
pub struct RecordRules {
    /// The probe fails if any of these matches any record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    pub fail_if_matches_regexp: Vec<String>,
    /// The probe fails unless all of these match all records; a section without records is right. Beware of the name, which the blackbox
    /// exporter has given to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    pub fail_if_all_match_regexp: Vec<String>,
    /// The probe fails if any of these does not match some record, or if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    pub fail_if_not_matches_regexp: Vec<String>,
    /// The probe fails if none of these matches any record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    pub fail_if_none_matches_regexp: Vec<String>,
}

/// The same for one section, compiled.
#[derive(Debug)]
struct SectionRules {
    section: Section,
    matches: Arc<[Pattern]>,
    all_match: Arc<[Pattern]>,
    not_matches: Arc<[Pattern]>,
    none_matches: Arc<[Pattern]>,
}

/// All rules of a target.
#[derive(Debug)]
pub(super) struct ReplyRules(Arc<[SectionRules]>);

impl ReplyRules {
    /// Compiles the rules for the answer, the authority section and the additional section.
    pub(super) fn new(sections: [Option<&RecordRules>; 3], errors: &mut Vec<FieldError>) -> Self {
        let mut compiled = Vec::new();
        for (section, rules) in Section::ALL.into_iter().zip(sections) {
            let Some(rules) = rules else { continue };
            let mut list = |name: &str, written: &[String]| {
                Pattern::list(&format!("spec.dns.{}.{name}", field(section)), written, errors)
            };
            compiled.push(SectionRules {
                section,
                matches: list("failIfMatchesRegexp", &rules.fail_if_matches_regexp),
                all_match: list("failIfAllMatchRegexp", &rules.fail_if_all_match_regexp),
                not_matches: list("failIfNotMatchesRegexp", &rules.fail_if_not_matches_regexp),
                none_matches: list("failIfNoneMatchesRegexp", &rules.fail_if_none_matches_regexp),
            });
        }
        Self(compiled.into())
    }

    /// Judges the records: the answer first, then the other sections. All comparisons are one piece of work, and a pattern is compiled once for
    /// all records.
    pub(super) async fn judge(&self, reply: &Reply, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let (mut cost, mut bytes) = (0_u64, 0);
        for rules in &*self.0 {
            let lengths = || reply.records(rules.section).map(|(_, text)| text.len());
            let length = lengths().sum();
            let texts = lengths().count();
            let patterns = [&rules.matches, &rules.all_match, &rules.not_matches, &rules.none_matches];
            cost = cost.saturating_add(work(patterns.into_iter().flat_map(|patterns| patterns.iter()), texts, length));
            bytes += length;
        }
        let (rules, reply) = (Arc::clone(&self.0), reply.clone());
        let compare = move |_: &Stop| rules.iter().find_map(|rules| rules.problem(&reply));
        let problem = probe.compare(cost, bytes, compare).await?;
        problem.map_or(Ok(()), |problem| Err(CallError::new(Reason::Match, problem)))
    }
}

const fn field(section: Section) -> &'static str {
    match section {
        Section::Answer => "validateAnswerRrs",
        Section::Authority => "validateAuthorityRrs",
        Section::Additional => "validateAdditionalRrs",
    }
}

impl SectionRules {
    /// Why the records of the section are not the wanted ones.
    fn problem(&self, reply: &Reply) -> Option<String> {
        let place = self.section.as_str();
        let rule = |name: &str, index: usize| format!("{}.{name}[{index}]", field(self.section));
        if reply.count(self.section) == 0 {
            let wanting = [("failIfNotMatchesRegexp", &self.not_matches), ("failIfNoneMatchesRegexp", &self.none_matches)];
            let (name, _) = wanting.into_iter().find(|(_, patterns)| !patterns.is_empty())?;
            return Some(format!("there is no {place} record, and {}.{name} wants one", field(self.section)));
        }
        let patterns = [&self.matches, &self.all_match, &self.not_matches, &self.none_matches];
        let [matches, all_match, not_matches, none_matches] = patterns.map(|patterns| Matcher::list(patterns));
        let find = |patterns: &[Matcher], matching: bool, text: &str| {
            patterns.iter().position(|pattern| pattern.is_match(text) == matching)
        };
        let mut unlike_all = None;
        let mut any_matches = false;
        for (at, (number, text)) in (1..).zip(reply.records(self.section)) {
            let text = readable(&text);
            let record = || format!("{place} record {at} ({})", types::type_name(number));
            if let Some(index) = find(&matches, true, &text) {
                return Some(format!("{} matches {}", record(), rule("failIfMatchesRegexp", index)));
            }
            if unlike_all.is_none()
                && let Some(index) = find(&all_match, false, &text)
            {
                unlike_all = Some(format!("{} does not match {}", record(), rule("failIfAllMatchRegexp", index)));
            }
            if let Some(index) = find(&not_matches, false, &text) {
                return Some(format!("{} does not match {}", record(), rule("failIfNotMatchesRegexp", index)));
            }
            any_matches = any_matches || find(&none_matches, true, &text).is_some();
        }
        if unlike_all.is_some() {
            return unlike_all;
        }
        let is_wanting = !none_matches.is_empty() && !any_matches;
        is_wanting.then(|| format!("no {place} record matches any of {}.failIfNoneMatchesRegexp", field(self.section)))
    }
}
