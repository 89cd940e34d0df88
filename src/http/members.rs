//! The members of a target as responses show them, and the member that a request names.

use std::borrow::Cow;
use std::fmt::Write;

use axum::http::StatusCode;

use super::response::{ErrorResponse, is_invisible};
use crate::poll::{MemberReport, MemberReports, MemberState, Snapshot};
use crate::target::{Member, MemberLabel, Target};

/// The order of states where not all members are shown: those that fail come first, those that are not polled last.
const STATES: [MemberState; 6] = [
    MemberState::Down,
    MemberState::Pending,
    MemberState::Terminating,
    MemberState::Up,
    MemberState::NotReady,
    MemberState::OverLimit,
];

/// The members in the order of [`STATES`], those of one state by name.
pub(super) fn by_attention(members: &[MemberReport]) -> Vec<&MemberReport> {
    let mut sorted: Vec<&MemberReport> = members.iter().collect();
    sorted.sort_by_key(|report| STATES.iter().position(|state| *state == report.state));
    sorted
}

/// How many are in each state: `1 down, 11 up`.
pub(super) fn by_state(members: &MemberReports) -> String {
    let mut text = String::new();
    for state in STATES {
        let count = members.count(state);
        if count > 0 {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{count} {}", state.as_str()); // writing to a String cannot fail
        }
    }
    text
}

/// A text from an EndpointSlice, which others may write by hand: in one line, and no longer than a name in Kubernetes may be.
pub(super) fn bounded(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 253;
    let end = text.char_indices().nth(MAX_CHARS).map_or(text.len(), |(end, _)| end);
    let shown = text.get(..end).unwrap_or_default();
    if end == text.len() && !shown.contains(is_invisible) {
        return Cow::Borrowed(text);
    }
    let mut shown = shown.replace(is_invisible, "\u{fffd}");
    if end < text.len() {
        shown.push('…');
    }
    Cow::Owned(shown)
}

/// A member as a request names it: `pod=NAME` or `member=ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemberParameter {
    pub(super) label: MemberLabel,
    pub(super) name: Box<str>,
}

impl MemberParameter {
    /// The member of `target` in `snapshot` that has this name.
    pub(super) fn find<'s>(&self, target: &Target, snapshot: &'s Snapshot) -> Result<&'s MemberReport, ErrorResponse> {
        let not_found = |text: String| Err(ErrorResponse(StatusCode::NOT_FOUND, text));
        let id = &target.id;
        let Some(members) = &snapshot.members else {
            let why = match &snapshot.failure {
                Some(failure) => format!("{}: {}", failure.reason.as_str(), failure.message),
                None => "it was not polled yet".to_owned(),
            };
            return not_found(format!("the members of target {id} are not known: {why}"));
        };
        let is_meant = |report: &&MemberReport| {
            let Member { label, name, .. } = &report.member;
            *label == self.label && **name == *self.name
        };
        match members.iter().find(is_meant) {
            Some(found) => Ok(found),
            None => not_found(format!("target {id} has no member {self}: {}", candidates(members))),
        }
    }
}

impl std::fmt::Display for MemberParameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={:?}", self.label.as_str(), bounded(&self.name))
    }
}

/// What to write in place of an unknown name.
fn candidates(members: &[MemberReport]) -> String {
    /// Members that are named; the rest is only counted.
    const MAX_NAMED: usize = 10;
    let named: Vec<String> = members
        .iter()
        .take(MAX_NAMED)
        .map(|report| format!("{}={}", report.member.label.as_str(), bounded(&report.member.name)))
        .collect();
    let named = named.join(", ");
    match members.len() {
        0 => "it has none".to_owned(),
        count @ 1..=MAX_NAMED => format!("it has {count}, write one of {named}"),
        count => format!("it has {count}, write one of {named}, … (debug=true alone lists them)"),
    }
}

#[cfg(test)]
pub(super) mod tests;
