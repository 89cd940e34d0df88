//! The members of a target in its row.

use maud::{Markup, html};

use super::query::{PageRows, query_string};
use super::{TargetsPage, Thousands};
use crate::http::members::{bounded, by_attention, by_state};
use crate::http::targets::TargetView;
use crate::http::time;
use crate::poll::MemberReport;

/// From this number on, the members of a target are folded.
const FOLDED_FROM: usize = 10;

/// How many members answer, below the state of the target.
pub(super) fn members_up(view: &TargetView) -> Markup {
    let Some(members) = view.members() else { return Markup::default() };
    let counts = members.counts();
    html! { small { (Thousands(counts.up)) "/" (Thousands(counts.found)) " up" span class="sr" { ", of its members" } } }
}

impl TargetsPage<'_> {
    /// The members of a target, first those that the filter is about, then those that fail. `None`: there is none to show.
    pub(super) fn members(&self, view: &TargetView, rows: &PageRows<'_>) -> Option<Markup> {
        let members = view.members().filter(|members| !members.is_empty())?;
        let mut shown = by_attention(members);
        shown.sort_by_key(|report| !self.query.is_about(report));
        shown.truncate(rows.members_per_target);
        let more = members.len() - shown.len();
        let id = view.id.to_string();
        let link = query_string([("target", id.as_str()), ("debug", "true")]);
        let list = html! {
            ul class="members" aria-label={ "Members of " (id) } {
                @for report in shown { (self.member(report, &link)) }
                @if more > 0 { li { a href={ "probe" (link) } { "and " (Thousands(more)) " more" } } }
            }
        };
        if members.len() < FOLDED_FROM {
            return Some(list);
        }
        // The page is loaded again and again, which folds them: a target that alone is looked at is not folded.
        let is_open = rows.matching == 1;
        Some(html! { details open[is_open] { summary { (by_state(members)) } (list) } })
    }

    fn member(&self, report: &MemberReport, link: &str) -> Markup {
        let MemberReport { member, state, failure, poll } = report;
        let name = bounded(&member.name);
        let parameter = query_string([(member.label.as_str(), &*member.name)]).replacen('?', "&", 1);
        html! {
            li class=(state.as_str()) {
                a href={ "probe" (link) (parameter) } { bdi { (name) } }
                " " span class="state" { (state.as_str()) }
                @if let Some(failure) = failure { " " b { (failure.reason.as_str()) } " " bdi { (failure.message) } }
                @if let Some(poll) = poll { " " small { (time::ago(poll.ended_at, self.now)) } }
            }
        }
    }
}
