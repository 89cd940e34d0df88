//! Which rows the page shows, in which order: what its query asks for.

use std::cmp::Reverse;

use super::super::view::View;
use super::{STATES, html};
use crate::kind::Type;
use crate::poll::TargetState;

/// Rows of one page: more make a phone's browser slow, and nobody reads them.
const ROWS: usize = 500;

/// The longest filter text; a name and a url are shorter.
const LONGEST: usize = 2048;

/// What the query asks for. What it does not understand is passed over: a page is no API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) text: String,
    pub(super) state: Option<TargetState>,
    pub(super) kind: Option<Type>,
    /// From 1.
    pub(super) page: usize,
    pub(super) refreshes: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { text: String::new(), state: None, kind: None, page: 1, refreshes: true }
    }
}

impl Wanted {
    pub(super) fn parse(query: &str) -> Self {
        let mut wanted = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "q" => wanted.text = value.trim().chars().take(LONGEST).collect(),
                "state" => wanted.state = STATES.into_iter().find(|state| state.as_str() == value),
                "type" => wanted.kind = value.parse().ok(),
                "page" => wanted.page = value.parse().unwrap_or(1).max(1),
                "refresh" => wanted.refreshes = value != "off",
                _ => {}
            }
        }
        wanted
    }

    /// Whether it may leave targets out.
    pub(super) fn narrows(&self) -> bool {
        !self.text.is_empty() || self.state.is_some() || self.kind.is_some()
    }

    /// The query of a page that differs from this one by `change`, not yet escaped for HTML.
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
        html::query(pairs.into_iter().filter(|(_, value)| !value.is_empty()))
    }

    fn matches(&self, view: &View) -> bool {
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
    }
}

/// The rows of one page.
pub(super) struct Selection<'v> {
    pub(super) rows: Vec<&'v View>,
    /// Targets that match, on all pages.
    pub(super) matching: usize,
    pub(super) page: usize,
    pub(super) pages: usize,
    /// Rows on earlier pages.
    pub(super) before: usize,
}

impl<'v> Selection<'v> {
    pub(super) fn new(views: &'v [View], wanted: &Wanted) -> Self {
        let mut rows: Vec<&View> = views.iter().filter(|view| wanted.matches(view)).collect();
        // Of what is broken, the newest is most likely what somebody was woken up for. Others keep the order of names.
        rows.sort_by_cached_key(|view| {
            let broken = matches!(view.status.state, TargetState::Down | TargetState::Invalid);
            let rank = STATES.iter().position(|state| *state == view.status.state);
            (rank, broken.then_some(Reverse(view.status.since)))
        });
        let matching = rows.len();
        let pages = matching.div_ceil(ROWS).max(1);
        let page = wanted.page.min(pages);
        let before = (page - 1) * ROWS;
        let rows = rows.into_iter().skip(before).take(ROWS).collect();
        Self { rows, matching, page, pages, before }
    }
}
