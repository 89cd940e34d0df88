//! `/`: the page for the person who was woken up. What is down comes first, with its reason; one click leads to the debug text.
//!
//! It needs no script and loads nothing. Every text on it goes through [`Escaped`].

mod html;
mod selection;

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::reply::Audience;
use super::view::{self, View};
use super::{App, reply, time};
use crate::poll::{Mistakes, PollDelay, TargetState};
use html::{Escaped, Thousands};
use selection::{Selection, Wanted};

const STYLE: &str = include_str!("page.css");

/// The order of states on the page: what somebody must act on comes first.
const STATES: [TargetState; 5] =
    [TargetState::Down, TargetState::Invalid, TargetState::Pending, TargetState::Up, TargetState::Suspended];

/// Seconds between two loads.
const REFRESH: u32 = 10;

pub(super) async fn page(State(app): State<Arc<App>>, request: Request) -> Response {
    let wanted = Wanted::parse(request.uri().query().unwrap_or_default());
    let (mut parts, _) = request.into_parts();
    let (client, headers) = (parts.extensions.remove(), parts.headers);
    reply::aside(client, move |audience| answer(&app, &wanted, &headers, audience)).await
}

fn answer(app: &App, wanted: &Wanted, request: &HeaderMap, audience: &Audience) -> Response {
    // Fresh keys of the standard library's hasher: nobody can tell the next page's nonce from this one's.
    let nonce = format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    let page = Page {
        views: &view::all(&app.pollers, audience),
        unknown: app.pollers.unknown(),
        mistakes: &app.pollers.mistakes(),
        late: app.pollers.delay(),
        wanted,
        now: SystemTime::now(),
    };
    let mut response = reply::document(request, audience, "text/html; charset=utf-8", page.write(&nonce).into_bytes());
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

/// Everything that is on the page.
struct Page<'p> {
    views: &'p [View],
    /// Why the targets are not known.
    unknown: Option<Arc<str>>,
    mistakes: &'p Mistakes,
    late: Option<PollDelay>,
    wanted: &'p Wanted,
    now: SystemTime,
}

impl Page<'_> {
    fn count(&self, state: TargetState) -> usize {
        self.views.iter().filter(|view| view.status.state == state).count()
    }

    fn write(&self, nonce: &str) -> String {
        let selection = Selection::new(self.views, self.wanted);
        let mut out = String::with_capacity(24 * 1024 + 1024 * selection.rows.len());
        // Writing to a String cannot fail.
        let _ = self.head(&mut out, nonce);
        let _ = self.counts(&mut out);
        let _ = self.notes(&mut out);
        let _ = self.lateness(&mut out);
        let _ = self.form(&mut out);
        let _ = self.table(&mut out, &selection);
        let _ = self.foot(&mut out);
        out
    }

    /// The state of everything in a few words, and the class that colours them.
    fn headline(&self) -> (String, &'static str) {
        let [down, invalid, pending, up, _] = STATES.map(|state| self.count(state));
        let of = |n: usize, word: &str| format!("{} {word}", Thousands(n));
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

    fn head(&self, out: &mut String, nonce: &str) -> std::fmt::Result {
        let (headline, class) = self.headline();
        // The tab's icon says the same as the headline.
        let colour = match class {
            "down" => "c62828",
            "invalid" => "c77700",
            "up" => "2e7d46",
            _ => "7a8590",
        };
        // Shorter, where something is left of it.
        let title = if self.views.is_empty() {
            headline.clone()
        } else {
            headline.replacen("All ", "", 1).replacen(" targets are", "", 1).replacen(" target is", "", 1)
        };
        write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n"
        )?;
        if self.wanted.refreshes {
            writeln!(out, "<meta http-equiv=\"refresh\" content=\"{REFRESH}\">")?;
        }
        write!(
            out,
            "<title>{title} · scrapetarget-exporter</title>\n\
             <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
             %3Ccircle cx='8' cy='8' r='7' fill='%23{colour}'/%3E%3C/svg%3E\">\n\
             <style nonce=\"{nonce}\">{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<p class=\"name\">scrapetarget-exporter</p>\n<h1 class=\"{class}\">{headline}</h1>\n"
        )
    }

    fn counts(&self, out: &mut String) -> std::fmt::Result {
        out.push_str("<ul class=\"counts\">\n");
        for state in STATES {
            let (count, word) = (self.count(state), state.as_str());
            let none = if count == 0 { " none" } else { "" };
            let current = self.wanted.state == Some(state);
            // A second click takes the filter off again.
            let link = self.wanted.link(|link| {
                link.state = if current { None } else { Some(state) };
                link.page = 1;
            });
            let current = if current { " aria-current=\"true\"" } else { "" };
            let count = Thousands(count);
            let link = Escaped(&link);
            writeln!(
                out,
                "<li class=\"{word}{none}\"><a href=\"{link}\"{current}><b>{count}</b><span>{word}</span></a></li>"
            )?;
        }
        out.push_str("</ul>\n</header>\n<main>\n");
        Ok(())
    }

    /// What is not about one target: why they are not known, and what is wrong where they are declared.
    fn notes(&self, out: &mut String) -> std::fmt::Result {
        /// Who has mended these sees the others.
        const TOLD: usize = 20;
        if let Some(why) = &self.unknown {
            let why = Escaped(why);
            writeln!(
                out,
                "<p class=\"note\"><strong>Not all targets are known yet, so that /sd tells none:</strong> <bdi>{why}</bdi></p>"
            )?;
        }
        let (told, untold) = (&self.mistakes.sentences, self.mistakes.untold);
        if told.is_empty() {
            return Ok(());
        }
        let all = told.len() + untold;
        let plural = if all == 1 { "" } else { "s" };
        let all = Thousands(all);
        writeln!(out, "<div class=\"note\"><strong>{all} mistake{plural} in the files of targets</strong>\n<ul>")?;
        for sentence in told.iter().take(TOLD) {
            writeln!(out, "<li><bdi>{}</bdi></li>", Escaped(sentence))?;
        }
        let more = untold + told.len().saturating_sub(TOLD);
        if more > 0 {
            writeln!(out, "<li>{} more, in the log</li>", Thousands(more))?;
        }
        out.push_str("</ul></div>\n");
        Ok(())
    }

    /// What is wrong with the exporter and not with any target.
    fn lateness(&self, out: &mut String) -> std::fmt::Result {
        let Some(late) = &self.late else { return Ok(()) };
        let (by, began, waiting) = (time::duration(late.by), time::ago(late.since, self.now), Thousands(late.waiting));
        let limit = late.cores.map(|cores| format!(" Its limit is {cores:.2} cores.")).unwrap_or_default();
        writeln!(
            out,
            "<p class=\"note\"><strong>Polls begin {by} late: there is more to poll than the exporter's CPU carries.</strong> \
             It began {began}. Targets that wait for their turn: {waiting}.{limit}</p>"
        )
    }

    fn form(&self, out: &mut String) -> std::fmt::Result {
        let text = Escaped(&self.wanted.text);
        write!(
            out,
            "<form method=\"get\" role=\"search\">\n<label class=\"sr\" for=\"q\">Filter</label>\
             <input id=\"q\" name=\"q\" type=\"search\" value=\"{text}\" placeholder=\"Name, url, label or reason\">\n"
        )?;
        let states = STATES.map(|state| (state.as_str(), self.wanted.state == Some(state)));
        select(out, "state", "State", "any state", states)?;
        let kinds = crate::kind::Type::ALL.iter().map(|kind| (kind.as_str(), self.wanted.kind == Some(*kind)));
        select(out, "type", "Type", "any type", kinds)?;
        if !self.wanted.refreshes {
            out.push_str("<input type=\"hidden\" name=\"refresh\" value=\"off\">\n");
        }
        out.push_str("<button>Filter</button>\n");
        if self.wanted.narrows() {
            let link = self.wanted.link(|link| *link = Wanted { refreshes: link.refreshes, ..Wanted::default() });
            writeln!(out, "<a href=\"{}\">Show all</a>", Escaped(&link))?;
        }
        let link = self.wanted.link(|link| link.refreshes = !link.refreshes);
        let (now, change) =
            if self.wanted.refreshes { ("Refreshes every 10 s", "pause") } else { ("Paused", "resume") };
        writeln!(out, "<span class=\"aside\">{now} · <a href=\"{}\">{change}</a></span>\n</form>", Escaped(&link))
    }

    fn table(&self, out: &mut String, selection: &Selection<'_>) -> std::fmt::Result {
        if selection.matching == 0 {
            let text = match (self.unknown.is_none(), self.views.is_empty()) {
                (false, true) => {
                    "<strong>No target is known yet.</strong> This page shows them as soon as they are read."
                }
                (true, true) => "<strong>No ScrapeTarget is declared.</strong> Declare one, and it appears here.",
                (_, false) => "<strong>No target matches the filter.</strong>",
            };
            return writeln!(out, "<p class=\"note\">{text}</p>");
        }
        if self.wanted.narrows() {
            let (matching, all) = (Thousands(selection.matching), Thousands(self.views.len()));
            let verb = if selection.matching == 1 { "matches" } else { "match" };
            writeln!(out, "<p class=\"matches\" role=\"status\">{matching} of {all} targets {verb}</p>")?;
        }
        self.pages(out, selection)?;
        out.push_str(
            "<div class=\"frame\"><table role=\"table\">\n<caption class=\"sr\">Targets, those that need attention first</caption>\n<thead><tr>",
        );
        for (class, name) in COLUMNS {
            write!(out, "<th scope=\"col\"{class}>{name}</th>")?;
        }
        out.push_str("</tr></thead>\n<tbody role=\"rowgroup\">\n");
        for view in &selection.rows {
            self.row(out, view)?;
        }
        out.push_str("</tbody>\n</table></div>\n");
        self.pages(out, selection)
    }

    fn row(&self, out: &mut String, view: &View) -> std::fmt::Result {
        let status = &view.status;
        let (state, kind) = (status.state.as_str(), view.kind_word());
        let id = view.id.to_string();
        let (namespace, name) = (Escaped(&view.id.namespace), Escaped(&view.id.name));
        write!(
            out,
            "<tr role=\"row\" class=\"{state}\"><th scope=\"row\" role=\"rowheader\"><small>{namespace}</small>{name}</th>\
             <td role=\"cell\" data-label=\"State\"><div class=\"state\">{state}</div></td>"
        )?;
        match &status.failure {
            Some(failure) if !matches!(status.state, TargetState::Pending | TargetState::Suspended) => {
                let (reason, message) = (failure.reason.as_str(), Escaped(&failure.message));
                write!(
                    out,
                    "<td role=\"cell\" data-label=\"Reason\" class=\"why\"><div><b>{reason}</b> <bdi>{message}</bdi></div></td>"
                )?;
            }
            _ => out.push_str("<td role=\"cell\" class=\"why\"></td>"),
        }
        self.time(out, "Since", Some(status.since))?;
        self.time(out, "Last poll", view.last_poll_at())?;
        match view.last_poll() {
            Some(poll) => write!(
                out,
                "<td role=\"cell\" data-label=\"Took\" class=\"num\">{}</td><td role=\"cell\" data-label=\"Samples\" class=\"num\">{}</td>",
                time::duration(poll.duration()),
                Thousands(poll.samples)
            )?,
            None => out.push_str("<td role=\"cell\" class=\"num\"></td><td role=\"cell\" class=\"num\"></td>"),
        }
        let url = Escaped(view.url());
        write!(
            out,
            "<td role=\"cell\" data-label=\"Type\">{kind}</td><td role=\"cell\" data-label=\"URL\" class=\"url\"><div>{url}"
        )?;
        self.labels(out, view)?;
        out.push_str("</div></td>");
        if view.target().is_none() {
            return out.write_str("<td role=\"cell\" class=\"go\"></td></tr>\n");
        }
        let link = html::query([("target", id.as_str())]);
        let (link, label) = (Escaped(&link), Escaped(&id));
        writeln!(
            out,
            "<td role=\"cell\" class=\"go\"><a href=\"probe{link}&amp;debug=true\" aria-label=\"debug {label}\">debug</a>\
             <a href=\"probe{link}\" aria-label=\"probe {label}\">probe</a></td></tr>"
        )
    }

    /// The labels of a target, each a link to the targets that have it. Of many, as many as one looks at.
    fn labels(&self, out: &mut String, view: &View) -> std::fmt::Result {
        const SHOWN: usize = 8;
        let count = view.labels().count();
        if count == 0 {
            return Ok(());
        }
        out.push_str("<ul class=\"labels\" aria-label=\"Labels\">");
        for (name, value) in view.labels().take(SHOWN) {
            let label = format!("{name}={value}");
            let link = self.wanted.link(|link| {
                link.text.clone_from(&label);
                link.page = 1;
            });
            let shown = shortened(&label);
            let rest = if shown.len() < label.len() { "…" } else { "" };
            write!(out, "<li><a href=\"{}\"><bdi>{}{rest}</bdi></a></li>", Escaped(&link), Escaped(shown))?;
        }
        if let Some(more) = count.checked_sub(SHOWN).filter(|more| *more > 0) {
            write!(out, "<li>and {more} more</li>")?;
        }
        out.push_str("</ul>");
        Ok(())
    }

    /// A cell with a time: how long ago for the eye, the exact one below it.
    fn time(&self, out: &mut String, label: &str, at: Option<SystemTime>) -> std::fmt::Result {
        let Some(at) = at else {
            out.push_str("<td role=\"cell\" class=\"when\"></td>");
            return Ok(());
        };
        let (ago, utc, exact) = (time::ago(at, self.now), time::utc_on_the_day(at, self.now), time::rfc3339(at));
        write!(
            out,
            "<td role=\"cell\" data-label=\"{label}\" class=\"when\"><div>{ago}<small><time datetime=\"{exact}\">{utc}</time></small></div></td>"
        )
    }

    /// Says which part of the rows this is, if it is not all, and leads to the others.
    fn pages(&self, out: &mut String, selection: &Selection<'_>) -> std::fmt::Result {
        if selection.pages == 1 {
            return Ok(());
        }
        let (first, last) = (selection.before + 1, selection.before + selection.rows.len());
        let (first, last, matching) = (Thousands(first), Thousands(last), Thousands(selection.matching));
        write!(out, "<nav aria-label=\"Pages\"><span>{first} to {last} of {matching} targets</span>")?;
        for (there, page, word) in [
            (selection.page > 1, selection.page.saturating_sub(1), "previous"),
            (selection.page < selection.pages, selection.page + 1, "next"),
        ] {
            if there {
                let link = self.wanted.link(|link| link.page = page);
                write!(out, "<a href=\"{}\" rel=\"{word}\">{word} page</a>", Escaped(&link))?;
            }
        }
        out.push_str("</nav>\n");
        Ok(())
    }

    fn foot(&self, out: &mut String) -> std::fmt::Result {
        let (version, revision, now) = (Escaped(crate::VERSION), Escaped(crate::REVISION), time::utc(self.now));
        writeln!(
            out,
            "</main>\n<footer><span>scrapetarget-exporter {version} ({revision})</span><span>as of {now}</span>\
             <a href=\"metrics\">metrics</a><a href=\"sd\">service discovery</a><a href=\"api/v1/targets\">JSON</a></footer>\n\
             </body>\n</html>"
        )
    }
}

/// The columns: class of the header cell, name.
const COLUMNS: [(&str, &str); 10] = [
    ("", "Target"),
    ("", "State"),
    ("", "Reason"),
    ("", "Since"),
    ("", "Last poll"),
    (" class=\"num\"", "Took"),
    (" class=\"num\"", "Samples"),
    ("", "Type"),
    ("", "URL"),
    ("", "<span class=\"sr\">Links</span>"),
];

/// The beginning of a label: a value may have 256 characters.
fn shortened(label: &str) -> &str {
    const LONGEST: usize = 80;
    label.char_indices().nth(LONGEST).map_or(label, |(end, _)| label.get(..end).unwrap_or(label))
}

fn select<'w>(
    out: &mut String,
    name: &str,
    label: &str,
    any: &str,
    words: impl IntoIterator<Item = (&'w str, bool)>,
) -> std::fmt::Result {
    write!(
        out,
        "<label class=\"sr\" for=\"{name}\">{label}</label><select id=\"{name}\" name=\"{name}\"><option value=\"\">{any}</option>"
    )?;
    for (word, selected) in words {
        let selected = if selected { " selected" } else { "" };
        write!(out, "<option{selected}>{word}</option>")?;
    }
    out.push_str("</select>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn polls_that_begin_late_are_told_above_the_targets() {
        let (now, wanted) = (SystemTime::now(), Wanted::default());
        let mut page =
            Page { views: &[], unknown: None, mistakes: &Mistakes::default(), late: None, wanted: &wanted, now };
        assert!(!page.write("nonce").contains("Polls begin"));
        let since = now - Duration::from_secs(180);
        page.late = Some(PollDelay { since, by: Duration::from_millis(4200), waiting: 12, cores: Some(0.2) });
        let text = page.write("nonce");
        for told in ["begin 4.20 s late", "It began 3 min ago", "wait for their turn: 12", "limit is 0.20 cores"] {
            assert!(text.contains(told), "{told}: {text}");
        }
    }
}
