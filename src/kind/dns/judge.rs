//! Whether the records of a reply are the wanted ones.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reply::{Reply, Section};
use super::types;
use crate::failure::{CallError, Reason};
use crate::kind::Compute;
use crate::kind::probe::{Pattern, Subject, find};
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
pub(super) struct ReplyRules(Vec<SectionRules>);

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
        Self(compiled)
    }

    /// Judges the records: the answer first, then the other sections.
    pub(super) async fn judge(&self, reply: &Reply, compute: &dyn Compute) -> Result<(), CallError> {
        for rules in &self.0 {
            rules.judge(reply, compute).await?;
        }
        Ok(())
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
    async fn judge(&self, reply: &Reply, compute: &dyn Compute) -> Result<(), CallError> {
        let place = self.section.as_str();
        let fail = |message: String| Err(CallError::new(Reason::Match, message));
        let rule = |name: &str, index: usize| format!("{}.{name}[{index}]", field(self.section));
        if reply.count(self.section) == 0 {
            let wanting = [("failIfNotMatchesRegexp", &self.not_matches), ("failIfNoneMatchesRegexp", &self.none_matches)];
            if let Some((name, _)) = wanting.into_iter().find(|(_, patterns)| !patterns.is_empty()) {
                return fail(format!("there is no {place} record, and {}.{name} wants one", field(self.section)));
            }
        }
        let mut unlike_all = None;
        let mut any_matches = false;
        for (at, (number, text)) in (1..).zip(reply.records(self.section)) {
            let text = Subject::new(text);
            let record = || format!("{place} record {at} ({})", types::type_name(number));
            if let Some(index) = find(&self.matches, true, &text, compute).await? {
                return fail(format!("{} matches {}", record(), rule("failIfMatchesRegexp", index)));
            }
            if unlike_all.is_none()
                && let Some(index) = find(&self.all_match, false, &text, compute).await?
            {
                unlike_all = Some(format!("{} does not match {}", record(), rule("failIfAllMatchRegexp", index)));
            }
            if let Some(index) = find(&self.not_matches, false, &text, compute).await? {
                return fail(format!("{} does not match {}", record(), rule("failIfNotMatchesRegexp", index)));
            }
            any_matches = any_matches || find(&self.none_matches, true, &text, compute).await?.is_some();
            // Many small comparisons together take long as well, and others wait for this thread.
            tokio::task::yield_now().await;
        }
        if let Some(message) = unlike_all {
            return fail(message);
        }
        if !self.none_matches.is_empty() && !any_matches {
            return fail(format!("no {place} record matches any of {}.failIfNoneMatchesRegexp", field(self.section)));
        }
        Ok(())
    }
}
