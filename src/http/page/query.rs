//! The query of the page, and the rows that it selects.

use std::cmp::Reverse;

use super::STATES;
use crate::http::targets::TargetView;
use crate::kind::Type;
use crate::poll::{MemberReport, MemberState, TargetState};

/// Rows of one page: more would make a phone's browser slow.
const ROWS_PER_PAGE: usize = 500;

/// Members on one page, if that leaves each target [`MIN_MEMBERS`].
const MEMBERS_PER_PAGE: usize = 1000;

/// Members that every target may show, however many targets there are.
const MIN_MEMBERS: usize = 5;

/// Members that one target may show: the debug text has all.
const MAX_MEMBERS: usize = 100;

/// The longest filter text. Names and URLs are no longer.
const MAX_TEXT_CHARS: usize = 2048;

/// The parameters of the page. Unknown ones and invalid values are ignored: a page is no API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    pub(super) text: String,
    pub(super) state: Option<TargetState>,
    pub(super) kind: Option<Type>,
    /// From 1.
    pub(super) page: usize,
    pub(super) refreshes: bool,
}

impl Default for PageQuery {
    fn default() -> Self {
        Self { text: String::new(), state: None, kind: None, page: 1, refreshes: true }
    }
}

impl PageQuery {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "q" => parsed.text = value.trim().chars().take(MAX_TEXT_CHARS).collect(),
                "state" => parsed.state = STATES.into_iter().find(|state| state.as_str() == value),
                "type" => parsed.kind = value.parse().ok(),
                "page" => parsed.page = value.parse().unwrap_or(1).max(1),
                "refresh" => parsed.refreshes = value != "off",
                _ => {}
            }
        }
        parsed
    }

    /// Whether it may exclude targets.
    pub(super) fn is_filtered(&self) -> bool {
        !self.text.is_empty() || self.state.is_some() || self.kind.is_some()
    }

    /// The query string of the page that differs from this one by `change`.
    pub(super) fn link(&self, change: impl FnOnce(&mut Self)) -> String {
        let mut link = self.clone();
        change(&mut link);
        let page = link.page.to_string();
        let pairs = [
            ("q", link.text.as_str()),
            ("state", link.state.map(TargetState::as_str).unwrap_or_default()),
            ("type", link.kind.map(Type::as_str).unwrap_or_default()),
            ("page", if link.page > 1 { &page } else { "" }),
            ("refresh", if link.refreshes { "" } else { "off" }),
        ];
        query_string(pairs.into_iter().filter(|(_, value)| !value.is_empty()))
    }

    fn matches(&self, view: &TargetView) -> bool {
        if self.state.is_some_and(|state| state != view.status.state)
            || self.kind.is_some_and(|kind| Some(kind) != view.kind())
        {
            return false;
        }
        let needle = self.text.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&needle);
        needle.is_empty()
            || has(&view.id.to_string())
            || has(view.url())
            || view.status.failure.as_ref().is_some_and(|why| has(why.reason.as_str()) || has(&why.message))
            || view.labels().any(|(name, value)| has(&format!("{name}={value}")))
            || view.members().into_iter().flat_map(|members| members.iter()).any(|report| is_member(report, &needle))
    }

    /// Whether the text of the filter is about this member.
    pub(super) fn is_about(&self, report: &MemberReport) -> bool {
        !self.text.is_empty() && is_member(report, &self.text.to_lowercase())
    }
}

/// Whether a member's name, address, node, zone, or the reason why it fails contains `needle`.
fn is_member(report: &MemberReport, needle: &str) -> bool {
    let MemberReport { member, failure, .. } = report;
    let has = |text: &str| text.to_lowercase().contains(needle);
    has(&member.name)
        || has(&member.address.to_string())
        || [&member.node, &member.zone].into_iter().flatten().any(|text| has(text))
        || failure.as_ref().is_some_and(|why| has(why.reason.as_str()) || has(&why.message))
}

/// `?a=b&c=d`, percent-encoded.
pub(super) fn query_string<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> String {
    let mut query = url::form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
    query.extend_pairs(pairs);
    query.finish()
}

/// The rows of one page.
pub(super) struct PageRows<'v> {
    pub(super) views: Vec<&'v TargetView>,
    /// Targets that match, on all pages.
    pub(super) matching: usize,
    pub(super) page: usize,
    pub(super) pages: usize,
    /// Rows on earlier pages.
    pub(super) before: usize,
    /// How many members each target may show.
    pub(super) members_per_target: usize,
}

impl<'v> PageRows<'v> {
    pub(super) fn new(views: &'v [TargetView], query: &PageQuery) -> Self {
        let mut rows: Vec<&TargetView> = views.iter().filter(|view| query.matches(view)).collect();
        // Of the targets that are down, the one that failed last comes first: users most likely look for it. Others are ordered by name, but
        // those of which a member is down come before those that are up as a whole.
        rows.sort_by_cached_key(|view| {
            let broken = matches!(view.status.state, TargetState::Down | TargetState::Invalid);
            let rank = STATES.iter().position(|state| *state == view.status.state);
            let mut members = view.members().into_iter().flat_map(|members| members.iter());
            let is_partial = members.any(|report| report.state == MemberState::Down);
            (rank, broken.then_some(Reverse(view.status.since)), !is_partial)
        });
        let matching = rows.len();
        let pages = matching.div_ceil(ROWS_PER_PAGE).max(1);
        let page = query.page.min(pages);
        let before = (page - 1) * ROWS_PER_PAGE;
        let views: Vec<&TargetView> = rows.into_iter().skip(before).take(ROWS_PER_PAGE).collect();
        let with_members = views.iter().filter(|view| view.members().is_some()).count();
        let members_per_target = (MEMBERS_PER_PAGE / with_members.max(1)).clamp(MIN_MEMBERS, MAX_MEMBERS);
        Self { views, matching, page, pages, before, members_per_target }
    }
}

#[cfg(test)]
mod tests {
    use super::query_string;

    #[test]
    fn a_query_string_is_percent_encoded() {
        assert_eq!(query_string([("target", "a/b&c=d"), ("x", "<")]), "?target=a%2Fb%26c%3Dd&x=%3C");
    }
}
