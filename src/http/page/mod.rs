//! `/`: the status page. Targets that are down come first, with the reason, and each links to its debug text.
//!
//! It has no scripts and loads no resources. `maud` escapes all text; invisible characters are replaced by [`without_invisible`].

mod members;
mod query;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::response::{self, DocumentRequest, is_invisible};
use super::targets::TargetView;
use super::{AppState, time};
use crate::kind::Type;
use crate::poll::{Mistakes, PollDelay, TargetState};
use query::{PageQuery, PageRows, query_string};

const STYLE: &str = include_str!("style.css");

/// The order of states on the page: those that need action come first.
const STATES: [TargetState; 5] =
    [TargetState::Down, TargetState::Invalid, TargetState::Pending, TargetState::Up, TargetState::Suspended];

/// Seconds between two loads.
const REFRESH: u32 = 10;

/// The columns of the table: class and name. A last one has links.
const COLUMNS: [(Option<&str>, &str); 9] = [
    (None, "Target"),
    (None, "State"),
    (None, "Reason"),
    (None, "Since"),
    (None, "Last poll"),
    (Some("num"), "Took"),
    (Some("num"), "Samples"),
    (None, "Type"),
    (None, "URL"),
];

pub(super) async fn page(State(app): State<Arc<AppState>>, request: Request) -> Response {
    let query = PageQuery::parse(request.uri().query().unwrap_or_default());
    response::render_document(request, move |document| page_response(&app, &query, document)).await
}

fn page_response(app: &AppState, query: &PageQuery, document: &DocumentRequest) -> Response {
    // Hashes by fresh random keys of the standard library: the nonce of one page does not reveal that of another.
    let nonce = format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    let page = TargetsPage {
        views: &TargetView::all(&app.pollers, &document.cancelled),
        unknown: app.pollers.unknown(),
        mistakes: &app.pollers.mistakes(),
        late: app.pollers.delay(),
        query,
        now: SystemTime::now(),
    };
    let mut response = document.respond("text/html; charset=utf-8", page.render(&nonce).into_bytes());
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("deny"));
    response
}

/// The data of the page.
struct TargetsPage<'p> {
    views: &'p [TargetView],
    /// Why the targets are not known.
    unknown: Option<Arc<str>>,
    mistakes: &'p Mistakes,
    late: Option<PollDelay>,
    query: &'p PageQuery,
    now: SystemTime,
}

impl TargetsPage<'_> {
    fn render(&self, nonce: &str) -> String {
        let rows = PageRows::new(self.views, self.query);
        let (headline, class) = self.headline();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                (self.head(&headline, class, nonce))
                body {
                    header {
                        p class="name" { "scrapetarget-exporter" }
                        h1 class=(class) { (headline) }
                        (self.counts())
                    }
                    main {
                        (self.notes())
                        (self.lateness())
                        (self.form())
                        (self.table(&rows))
                    }
                    footer {
                        span { "scrapetarget-exporter " (crate::VERSION) " (" (crate::REVISION) ")" }
                        span { "as of " (time::utc(self.now)) }
                        a href="metrics" { "metrics" }
                        a href="sd" { "service discovery" }
                        a href="api/v1/targets" { "JSON" }
                    }
                }
            }
        };
        without_invisible(page.into_string())
    }

    fn count(&self, state: TargetState) -> usize {
        self.views.iter().filter(|view| view.status.state == state).count()
    }

    /// A summary of all states, and the CSS class for its colour.
    fn headline(&self) -> (String, &'static str) {
        let [down, invalid, pending, up, _] = STATES.map(|state| self.count(state));
        let of = |n: usize, state: &str| format!("{} {state}", Thousands(n));
        if self.unknown.is_some() {
            ("Targets are not known yet".to_owned(), "pending")
        } else if self.views.is_empty() {
            ("No targets are declared".to_owned(), "pending")
        } else if down > 0 && invalid > 0 {
            (format!("{}, {}", of(down, "down"), of(invalid, "invalid")), "down")
        } else if down > 0 {
            (of(down, "down"), "down")
        } else if invalid > 0 {
            (of(invalid, "invalid"), "invalid")
        } else if pending > 0 {
            (format!("{}, {}", of(up, "up"), of(pending, "pending")), "pending")
        } else if up == 0 {
            ("All targets are suspended".to_owned(), "suspended")
        } else {
            (if up == 1 { "1 target is up".to_owned() } else { format!("All {} targets are up", Thousands(up)) }, "up")
        }
    }

    fn head(&self, headline: &str, class: &str, nonce: &str) -> Markup {
        // The icon of the browser's tab has the colour of the headline.
        let colour = match class {
            "down" => "c62828",
            "invalid" => "c77700",
            "up" => "2e7d46",
            _ => "7a8590",
        };
        let icon = format!(
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
             %3Ccircle cx='8' cy='8' r='7' fill='%23{colour}'/%3E%3C/svg%3E"
        );
        // Tabs are narrow: "All 12 targets are up" becomes "12 up".
        let title = if self.views.is_empty() {
            headline.to_owned()
        } else {
            headline.replacen("All ", "", 1).replacen(" targets are", "", 1).replacen(" target is", "", 1)
        };
        html! {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if self.query.refreshes { meta http-equiv="refresh" content=(REFRESH); }
                title { (title) " · scrapetarget-exporter" }
                link rel="icon" href=(icon);
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
        }
    }

    fn counts(&self) -> Markup {
        html! {
            ul class="counts" {
                @for state in STATES {
                    @let count = self.count(state);
                    @let is_current = self.query.state == Some(state);
                    li class={ (state.as_str()) @if count == 0 { " none" } } {
                        // A second click removes the filter.
                        a href=(self.query.link(|link| {
                            link.state = if is_current { None } else { Some(state) };
                            link.page = 1;
                        })) aria-current=[is_current.then_some("true")] {
                            b { (Thousands(count)) }
                            span { (state.as_str()) }
                        }
                    }
                }
            }
        }
    }

    /// Why the targets are not known, and mistakes that belong to no target.
    fn notes(&self) -> Markup {
        /// The most mistakes that are shown; the others appear when these are corrected.
        const MAX_SHOWN: usize = 20;
        let (told, untold) = (&self.mistakes.sentences, self.mistakes.untold);
        let all = told.len() + untold;
        let more = untold + told.len().saturating_sub(MAX_SHOWN);
        html! {
            @if let Some(why) = &self.unknown {
                p class="note" {
                    strong { "Not all targets are known yet, so /sd returns none:" } " " bdi { (why) }
                }
            }
            @if !told.is_empty() {
                div class="note" {
                    strong { (Thousands(all)) " mistake" @if all != 1 { "s" } " in the files of targets" }
                    ul {
                        @for sentence in told.iter().take(MAX_SHOWN) { li { bdi { (sentence) } } }
                        @if more > 0 { li { (Thousands(more)) " more, in the log" } }
                    }
                }
            }
        }
    }

    /// A note while polls are delayed.
    fn lateness(&self) -> Markup {
        let Some(late) = &self.late else { return Markup::default() };
        html! {
            p class="note" {
                strong {
                    "Polls begin " (time::duration(late.by)) " late: there is more to poll than the exporter's CPU can handle."
                }
                " It began " (time::ago(late.since, self.now)) ". Targets that wait for their turn: "
                (Thousands(late.waiting)) "."
                @if let Some(cores) = late.cores { " Its limit is " (format!("{cores:.2}")) " cores." }
            }
        }
    }

    fn form(&self) -> Markup {
        let query = self.query;
        let states = STATES.map(|state| (state.as_str(), query.state == Some(state)));
        let kinds = Type::ALL.iter().map(|kind| (kind.as_str(), query.kind == Some(*kind)));
        let refresh_link = query.link(|link| link.refreshes = !link.refreshes);
        let (now, change) = if query.refreshes { ("Refreshes every 10 s", "pause") } else { ("Paused", "resume") };
        html! {
            form method="get" role="search" {
                label class="sr" for="q" { "Filter" }
                input id="q" name="q" type="search" value=(query.text) placeholder="Name, pod, url, label or reason";
                (select("state", "State", "any state", states))
                (select("type", "Type", "any type", kinds))
                @if !query.refreshes { input type="hidden" name="refresh" value="off"; }
                button { "Filter" }
                @if query.is_filtered() {
                    a href=(query.link(|link| {
                        *link = PageQuery { refreshes: link.refreshes, ..PageQuery::default() };
                    })) { "Show all" }
                }
                span class="aside" { (now) " · " a href=(refresh_link) { (change) } }
            }
        }
    }

    fn table(&self, rows: &PageRows<'_>) -> Markup {
        if rows.matching == 0 {
            return html! {
                p class="note" {
                    @if !self.views.is_empty() {
                        strong { "No target matches the filter." }
                    } @else if self.unknown.is_some() {
                        strong { "No target is known yet." } " This page shows them as soon as they are read."
                    } @else {
                        strong { "No ScrapeTarget is declared." } " Declare one, and it appears here."
                    }
                }
            };
        }
        html! {
            @if self.query.is_filtered() {
                p class="matches" role="status" {
                    (Thousands(rows.matching)) " of " (Thousands(self.views.len())) " targets "
                    @if rows.matching == 1 { "matches" } @else { "match" }
                }
            }
            (self.page_links(rows))
            div class="frame" {
                table role="table" {
                    caption class="sr" { "Targets, those that need attention first" }
                    thead {
                        tr {
                            @for (class, name) in COLUMNS { th scope="col" class=[class] { (name) } }
                            th scope="col" { span class="sr" { "Links" } }
                        }
                    }
                    tbody role="rowgroup" { @for view in &rows.views { (self.row(view, rows)) } }
                }
            }
            (self.page_links(rows))
        }
    }

    fn row(&self, view: &TargetView, rows: &PageRows<'_>) -> Markup {
        let status = &view.status;
        let state = status.state.as_str();
        let id = view.id.to_string();
        let link = query_string([("target", id.as_str())]);
        let is_unwell = !matches!(status.state, TargetState::Pending | TargetState::Suspended);
        html! {
            tr role="row" class=(state) {
                th scope="row" role="rowheader" { small { (view.id.namespace) } (view.id.name) }
                td role="cell" data-label="State" { div { div class="state" { (state) } (members::members_up(view)) } }
                @let failure = status.failure.as_ref().filter(|_| is_unwell);
                @let members = self.members(view, rows);
                @if failure.is_none() && members.is_none() {
                    td role="cell" class="why" {}
                } @else {
                    td role="cell" data-label=(if failure.is_some() { "Reason" } else { "Members" }) class="why" {
                        div {
                            @if let Some(failure) = failure { b { (failure.reason.as_str()) } " " bdi { (failure.message) } }
                            @if let Some(members) = members { (members) }
                        }
                    }
                }
                (self.time_cell("Since", Some(status.since)))
                (self.time_cell("Last poll", view.last_poll_at()))
                @if let Some(poll) = view.last_poll() {
                    td role="cell" data-label="Took" class="num" { (time::duration(poll.duration())) }
                    td role="cell" data-label="Samples" class="num" { (Thousands(poll.samples)) }
                } @else {
                    td role="cell" class="num" {}
                    td role="cell" class="num" {}
                }
                td role="cell" data-label="Type" { (view.kind_name()) }
                td role="cell" data-label="URL" class="url" { div { (view.url()) (self.labels(view)) } }
                td role="cell" class="go" {
                    @if view.target().is_some() {
                        a href={ "probe" (link) "&debug=true" } aria-label={ "debug " (id) } { "debug" }
                        a href={ "probe" (link) } aria-label={ "probe " (id) } { "probe" }
                    }
                }
            }
        }
    }

    /// The labels of a target, the first few at least. Each is a link to the targets that have it.
    fn labels(&self, view: &TargetView) -> Markup {
        const MAX_SHOWN: usize = 8;
        let count = view.labels().count();
        if count == 0 {
            return Markup::default();
        }
        html! {
            ul class="labels" aria-label="Labels" {
                @for (name, value) in view.labels().take(MAX_SHOWN) {
                    @let label = format!("{name}={value}");
                    @let shown = shortened(&label);
                    li {
                        a href=(self.query.link(|link| {
                            link.text.clone_from(&label);
                            link.page = 1;
                        })) {
                            bdi { (shown) @if shown.len() < label.len() { "…" } }
                        }
                    }
                }
                @if count > MAX_SHOWN { li { "and " (count - MAX_SHOWN) " more" } }
            }
        }
    }

    /// How long ago it was, and the exact time below.
    fn time_cell(&self, label: &str, at: Option<SystemTime>) -> Markup {
        let Some(at) = at else { return html! { td role="cell" class="when" {} } };
        html! {
            td role="cell" data-label=(label) class="when" {
                div {
                    (time::ago(at, self.now))
                    small { time datetime=(time::rfc3339_millis(at)) { (time::utc_short(at, self.now)) } }
                }
            }
        }
    }

    /// Links to the other pages; nothing if there is only one.
    fn page_links(&self, rows: &PageRows<'_>) -> Markup {
        if rows.pages == 1 {
            return Markup::default();
        }
        let (first, last) = (rows.before + 1, rows.before + rows.views.len());
        let previous = (rows.page > 1).then(|| (rows.page - 1, "previous"));
        let next = (rows.page < rows.pages).then(|| (rows.page + 1, "next"));
        html! {
            nav aria-label="Pages" {
                span { (Thousands(first)) " to " (Thousands(last)) " of " (Thousands(rows.matching)) " targets" }
                @for (page, rel) in [previous, next].into_iter().flatten() {
                    a href=(self.query.link(|link| link.page = page)) rel=(rel) { (rel) " page" }
                }
            }
        }
    }
}

fn select<'w>(name: &str, label: &str, any: &str, options: impl IntoIterator<Item = (&'w str, bool)>) -> Markup {
    html! {
        label class="sr" for=(name) { (label) }
        select id=(name) name=(name) {
            option value="" { (any) }
            @for (option, is_selected) in options { option selected[is_selected] { (option) } }
        }
    }
}

/// The beginning of a label: a value may have 256 characters.
fn shortened(label: &str) -> &str {
    const MAX_CHARS: usize = 80;
    label.char_indices().nth(MAX_CHARS).map_or(label, |(end, _)| label.get(..end).unwrap_or(label))
}

/// The page with U+FFFD in place of control characters and of those that change the direction of text: a name or a message from outside
/// could use them to look like another.
fn without_invisible(page: String) -> String {
    let is_replaced = |c: char| is_invisible(c) && !matches!(c, '\n' | '\t');
    if page.contains(is_replaced) { page.replace(is_replaced, "\u{fffd}") } else { page }
}

/// A count with separated thousands: `12,345`.
struct Thousands(usize);

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::http::members::tests::{self as made, pod, pods};
    use crate::poll::{MemberReport, MemberState};

    fn page<'p>(query: &'p PageQuery, mistakes: &'p Mistakes) -> TargetsPage<'p> {
        TargetsPage { views: &[], unknown: None, mistakes, late: None, query, now: SystemTime::now() }
    }

    fn with_members(name: &str, reports: Vec<MemberReport>) -> TargetView {
        TargetView::of(made::target(name), made::status(), Some(made::snapshot(reports)))
    }

    /// The rows of a page with these targets.
    fn rows(views: &[TargetView], query: &str) -> Vec<String> {
        let (query, mistakes) = (PageQuery::parse(query), Mistakes::default());
        let page = TargetsPage { views, ..page(&query, &mistakes) }.render("nonce");
        page.split("<tr role=\"row\"").skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn members_are_below_their_target_those_that_fail_first_and_folded_from_ten_on() {
        let few = rows(&[with_members("few", pods(3))], "").remove(0);
        assert!(few.contains("<small>2/3 up<span class=\"sr\">, of its members</span></small>"), "{few}");
        assert!(few.contains("data-label=\"Members\"") && !few.contains("<details"), "{few}");
        let items: Vec<&str> = few.split("<li").skip(1).collect();
        assert_eq!(items.len(), 3);
        for words in [
            "class=\"down\"><a href=\"probe?target=webrtc%2Ffew&amp;debug=true&amp;pod=rooms-003\">",
            "<bdi>rooms-003</bdi></a> <span class=\"state\">down</span> <b>connect</b> <bdi>stats: Connection refused</bdi> <small>3 s ago</small>",
        ] {
            assert!(items[0].contains(words), "{words} in {few}");
        }
        let views = [with_members("many", pods(12)), with_members("few", pods(9))];
        let both = rows(&views, "");
        assert!(
            both[0].contains("<details><summary>1 down, 11 up</summary><ul") && !both[1].contains("<details"),
            "{both:?}"
        );
        assert!(rows(&views, "q=many")[0].contains("<details open><summary>"), "a target that is alone");
    }

    #[test]
    fn a_page_has_a_bounded_number_of_members() {
        let views: Vec<TargetView> = (0..400).map(|n| with_members(&format!("t{n}"), pods(250))).collect();
        let all = rows(&views, "");
        assert_eq!(all.len(), 400);
        for row in &all {
            assert_eq!(row.matches("<li class=").count(), 5);
            assert!(row.contains("&amp;debug=true\">and 245 more</a>"), "{row}");
        }
        let one = rows(&views[..1], "").remove(0);
        assert!(one.matches("<li class=").count() == 100 && one.contains("and 150 more"), "{one}");
    }

    #[test]
    fn a_target_is_found_by_its_members_and_those_that_match_are_shown() {
        let views = [with_members("a", pods(200)), with_members("b", vec![pod(201, MemberState::Up)])];
        for query in ["q=rooms-150", "q=10.0.0.150%3A9851"] {
            let found = rows(&views, query);
            assert!(found.len() == 1 && found[0].contains("webrtc%2Fa"), "{query}: {found:?}");
            let (_, first) = found[0].split_once("<li class=\"up\"").unwrap();
            assert!(
                first.starts_with("><a href=\"probe?target=webrtc%2Fa&amp;debug=true&amp;pod=rooms-150\">"),
                "{first}"
            );
        }
        for (query, targets) in [("q=node-A", 2), ("q=connection+refused", 1), ("q=zone-2", 0), ("q=webrtc%2Fb", 1)] {
            assert_eq!(rows(&views, query).len(), targets, "{query}");
        }
    }

    #[test]
    fn of_targets_that_are_up_those_with_a_member_that_is_down_come_first() {
        let whole = with_members("a", vec![pod(1, MemberState::Up), pod(2, MemberState::NotReady)]);
        let names = rows(&[whole, with_members("b", pods(2))], "");
        assert!(names[0].contains("</small>b</th>") && names[1].contains("</small>a</th>"), "{names:?}");
        let none = rows(&[with_members("none", vec![])], "").remove(0);
        assert!(none.contains("<small>0/0 up") && !none.contains("<ul class=\"members\""), "{none}");
    }

    #[test]
    fn names_of_members_are_escaped() {
        let mut hostile = pod(1, MemberState::Down);
        hostile.member.name = "\"><script>x</script>&\u{202e}".into();
        hostile.failure.as_mut().unwrap().message = "<img src=x>".into();
        let row = rows(&[with_members("a", vec![hostile])], "").remove(0);
        assert!(!row.contains("<script") && !row.contains("<img") && !row.contains('\u{202e}'), "{row}");
        assert!(row.contains("&amp;pod=%22%3E%3Cscript%3Ex%3C%2Fscript%3E%26%E2%80%AE\""), "{row}");
    }

    #[test]
    fn late_polls_are_told_above_the_targets() {
        let (query, mistakes) = (PageQuery::default(), Mistakes::default());
        let mut page = page(&query, &mistakes);
        assert!(!page.render("nonce").contains("Polls begin"));
        let since = page.now - Duration::from_secs(180);
        page.late = Some(PollDelay { since, by: Duration::from_millis(4200), waiting: 12, cores: Some(0.2) });
        let text = page.render("nonce");
        for told in ["begin 4.20 s late", "It began 3 min ago", "wait for their turn: 12", "limit is 0.20 cores"] {
            assert!(text.contains(told), "{told}: {text}");
        }
    }

    /// What stands in an element and in an attribute of a page about `text`.
    fn rendered(text: &str) -> [String; 2] {
        let (query, mistakes) = (PageQuery { text: text.to_owned(), ..PageQuery::default() }, Mistakes::default());
        let page = TargetsPage { unknown: Some(text.into()), ..page(&query, &mistakes) }.render("nonce");
        [("<bdi>", "</bdi></p>"), ("value=\"", "\" placeholder")].map(|(begin, end)| {
            let (_, rest) = page.split_once(begin).unwrap();
            rest.split_once(end).unwrap().0.to_owned()
        })
    }

    #[test]
    fn a_text_cannot_leave_its_element_or_attribute() {
        for rendered in rendered("\"><script>alert('1 & 2')</script>\u{202e}\0") {
            assert_eq!(rendered, "&quot;&gt;&lt;script&gt;alert('1 &amp; 2')&lt;/script&gt;\u{fffd}\u{fffd}");
        }
        for rendered in rendered("plain täxt\n日本") {
            assert_eq!(rendered, "plain täxt\n日本");
        }
    }

    proptest! {
        #[test]
        fn no_text_whatever_keeps_a_character_of_markup(text in any::<String>()) {
            for rendered in rendered(&text) {
                prop_assert!(!rendered.contains(['<', '>', '"']));
                prop_assert!(rendered.split('&').skip(1).all(|rest| ["amp;", "lt;", "gt;", "quot;"].iter().any(|entity| rest.starts_with(entity))));
                let read = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];
                let read = read.iter().fold(rendered, |text, (entity, c)| text.replace(entity, c));
                prop_assert_eq!(read, without_invisible(text.clone()));
            }
        }
    }

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Thousands(number).to_string(), text);
        }
    }
}
