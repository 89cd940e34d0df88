//! The texts of `debug=true`: how the newest data of a target came about, and that of one of its members.
//!
//! They contain no values of Secrets, as far as they can be recognized in what a server returns, and nothing from a server except series,
//! unless `--debug-bodies` is set.

use std::fmt::{self, Write};
use std::time::SystemTime;

use super::members::{bounded, by_attention, by_state};
use super::time;
use crate::kind::Call;
use crate::metric::{Encoding, Format};
use crate::poll::{CallRecord, MemberReport, Poller, ProbeReport, Snapshot, TOKEN_CALL, TargetStatus, TokenReport};
use crate::target::{Member, Target};

/// Series of one text, in bytes: the rest is left out.
const MAX_METRICS_BYTES: usize = 256 << 10;

/// The text of `debug=true` about `snapshot`, a result of `poller`.
pub(super) fn debug_page(poller: &Poller, snapshot: &Snapshot) -> String {
    target_text(&poller.target(), &poller.status(), snapshot, poller.token(), MemberCalls::Linked)
}

/// The same for the command `probe`, where no request can ask for a single member.
pub fn debug_text(poller: &Poller, snapshot: &Snapshot) -> String {
    target_text(&poller.target(), &poller.status(), snapshot, poller.token(), MemberCalls::Shown)
}

/// Where the calls of members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberCalls {
    /// In the text.
    Shown,
    /// In the texts about the members.
    Linked,
}

fn target_text(
    target: &Target,
    status: &TargetStatus,
    snapshot: &Snapshot,
    token: Option<TokenReport>,
    calls: MemberCalls,
) -> String {
    /// Why samples are left out although they can be read.
    const WITHHELD: &str = "Their names are reserved for Prometheus, this exporter, another type, or recording rules; or they contain a \
                            credential of this target.";
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write_summary(&mut out, target, status, snapshot);
    if let Some(members) = &snapshot.members {
        let _ = write_members(&mut out, members);
        let _ = match calls {
            MemberCalls::Shown => write_calls_of_members(&mut out, target, snapshot, members),
            MemberCalls::Linked => write_link_to_member(&mut out, target, members),
        };
    } else if let Some(report) = &snapshot.probe {
        let _ = write_probe(&mut out, target, snapshot, report);
    } else if target.source.kind.is_probed() && snapshot.calls.is_empty() {
        out.push_str("\nThe probe\n\n  none\n");
    } else {
        out.push_str("\nThe calls of the poll\n\n");
        let _ = write_calls(&mut out, target, &snapshot.requests, &snapshot.calls);
    }
    if let Some(token) = token {
        let _ = write_token(&mut out, &token);
    }
    if snapshot.withheld > 0 {
        let _ = writeln!(out, "\nSamples left out: {}. {WITHHELD}", snapshot.withheld);
    }
    let samples = snapshot.samples;
    let _ = write!(out, "\nThe metrics of this answer ({samples} samples, text 0.0.4)\n\n");
    write_metrics(&mut out, snapshot);
    let _ = write!(out, "\nThe effective configuration (secrets masked)\n\n{}\n", target.effective().trim_end());
    out
}

/// The text about one member of `target` in `snapshot`: the calls of its poll, and its series.
pub(super) fn member_text(target: &Target, snapshot: &Snapshot, report: &MemberReport) -> String {
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write_member_summary(&mut out, target, report);
    out.push_str("\nThe calls of its poll\n\n");
    let calls = report.poll.as_ref().map(|poll| &*poll.calls).unwrap_or_default();
    let _ = write_calls(&mut out, target, &snapshot.requests, calls);
    out.push_str("\nIts metrics in this answer (text 0.0.4)\n\n");
    write_member_metrics(&mut out, snapshot, &report.member);
    out
}

fn write_summary(out: &mut String, target: &Target, status: &TargetStatus, snapshot: &Snapshot) -> fmt::Result {
    let now = SystemTime::now();
    writeln!(out, "Target {}\n", target.id)?;
    writeln!(out, "  type          {}", target.source.kind)?;
    writeln!(out, "  url           {}", target.shown_url())?;
    if let Some(address) = snapshot.probe.as_ref().and_then(|report| report.address()) {
        writeln!(out, "  address       {address}")?;
    }
    if let Some(members) = &snapshot.members {
        let counts = members.counts();
        writeln!(out, "  members       {} of {} answer ({})", counts.up, counts.found, by_state(members))?;
    }
    let state = status.state.as_str();
    writeln!(out, "  state         {state} since {}", time::utc_and_ago(status.since, now))?;
    if let Some(failure) = &status.failure {
        writeln!(out, "  reason        {}: {}", failure.reason.as_str(), failure.message)?;
    }
    if let Some(partial) = snapshot.partial() {
        writeln!(out, "  partial       {partial}")?;
    }
    match status.last_success {
        Some(at) => writeln!(out, "  last success  {}", time::utc_and_ago(at, now))?,
        None => writeln!(out, "  last success  never")?,
    }
    let was_polled = match &snapshot.members {
        Some(members) => members.iter().any(|report| report.poll.is_some()),
        None => !snapshot.calls.is_empty(),
    };
    if was_polled {
        let ended = time::utc_and_ago(snapshot.ended_at, now);
        writeln!(out, "  last poll     ended {ended}, took {}", time::duration(snapshot.duration()))?;
        match snapshot.hold() {
            Some(hold) => writeln!(
                out,
                "  next poll     in {} at the earliest, since it failed for this reason",
                time::duration(hold)
            ),
            None => Ok(()),
        }
    } else {
        match &snapshot.failure {
            Some(failure) => writeln!(out, "  this answer   no poll: {}: {}", failure.reason.as_str(), failure.message),
            None => writeln!(out, "  this answer   no poll"),
        }
    }
}

/// The members, those that need attention first.
fn write_members(out: &mut String, members: &[MemberReport]) -> fmt::Result {
    /// Members that are listed; the rest is only counted. As many as can be polled.
    const MAX_LISTED: usize = 500;
    /// Of one column, in characters: a longer text moves the rest of its own line only.
    const MAX_WIDTH: usize = 63;
    writeln!(out, "\nThe members\n")?;
    let listed: Vec<&MemberReport> = by_attention(members).into_iter().take(MAX_LISTED).collect();
    if listed.is_empty() {
        return writeln!(out, "  none");
    }
    let now = SystemTime::now();
    let rows: Vec<MemberRow> = listed.iter().map(|report| MemberRow::new(report, now)).collect();
    let header = MemberRow::HEADER.map(str::to_owned);
    let mut widths = [0; MemberRow::COLUMNS];
    for row in rows.iter().map(|row| &row.cells).chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().min(MAX_WIDTH).max(*width);
        }
    }
    write_row(out, &header, widths)?;
    for row in &rows {
        write_row(out, &row.cells, widths)?;
        if let Some(failure) = &row.failure {
            writeln!(out, "    {failure}")?;
        }
    }
    if members.len() > MAX_LISTED {
        writeln!(out, "  and {} more", members.len() - MAX_LISTED)?;
    }
    Ok(())
}

/// The calls of the first members in the order of the list.
fn write_calls_of_members(
    out: &mut String,
    target: &Target,
    snapshot: &Snapshot,
    members: &[MemberReport],
) -> fmt::Result {
    /// Members whose calls are shown: with hundreds, the rest of the text would be hard to find.
    const MAX_SHOWN: usize = 20;
    let polled = by_attention(members).into_iter().filter_map(|report| Some((report, report.poll.as_ref()?)));
    for (report, poll) in polled.take(MAX_SHOWN) {
        writeln!(out, "\nThe calls of {}\n", bounded(&report.member.name))?;
        write_calls(out, target, &snapshot.requests, &poll.calls)?;
    }
    Ok(())
}

/// How to see the calls of one member, by the example of the first in the list.
fn write_link_to_member(out: &mut String, target: &Target, members: &[MemberReport]) -> fmt::Result {
    let Some(first) = by_attention(members).first().map(|report| &report.member) else { return Ok(()) };
    let (id, label, name) = (&target.id, first.label.as_str(), bounded(&first.name));
    writeln!(out, "\n  The calls and series of one: /probe?target={id}&debug=true&{label}={name}")
}

fn write_row(out: &mut String, cells: &[String], widths: [usize; MemberRow::COLUMNS]) -> fmt::Result {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        write!(line, "  {cell:<width$}")?;
    }
    writeln!(out, "{}", line.trim_end())
}

/// A line about a member.
struct MemberRow {
    cells: [String; Self::COLUMNS],
    failure: Option<String>,
}

impl MemberRow {
    const COLUMNS: usize = 8;
    const HEADER: [&str; Self::COLUMNS] = ["STATE", "NAME", "ADDRESS", "NODE", "ZONE", "POLLED", "TOOK", "SERIES"];

    fn new(report: &MemberReport, now: SystemTime) -> Self {
        let MemberReport { member, state, failure, poll } = report;
        let known = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| bounded(text).into_owned());
        let polled = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        Self {
            cells: [
                state.as_str().to_owned(),
                bounded(&member.name).into_owned(),
                member.address.to_string(),
                known(member.node.as_deref()),
                known(member.zone.as_deref()),
                polled(poll.as_ref().map(|poll| time::ago(poll.ended_at, now))),
                polled(poll.as_ref().map(|poll| time::duration(poll.duration))),
                polled(poll.as_ref().map(|poll| poll.samples.to_string())),
            ],
            failure: failure.as_ref().map(|failure| format!("{}: {}", failure.reason.as_str(), failure.message)),
        }
    }
}

fn write_member_summary(out: &mut String, target: &Target, report: &MemberReport) -> fmt::Result {
    let now = SystemTime::now();
    let member = &report.member;
    writeln!(out, "Target {}, {} {}\n", target.id, member.label.as_str(), bounded(&member.name))?;
    writeln!(out, "  type          {}", target.source.kind)?;
    writeln!(out, "  url           {}", target.shown_url())?;
    writeln!(out, "  address       {}", member.address)?;
    for (name, value) in [("node", &member.node), ("zone", &member.zone)] {
        if let Some(value) = value {
            writeln!(out, "  {name}          {}", bounded(value))?;
        }
    }
    if !member.uid.is_empty() {
        writeln!(out, "  uid           {}", bounded(&member.uid))?;
    }
    writeln!(out, "  state         {}", report.state.as_str())?;
    if let Some(failure) = &report.failure {
        writeln!(out, "  reason        {}: {}", failure.reason.as_str(), failure.message)?;
    }
    match &report.poll {
        Some(poll) => {
            let (ended, took) = (time::utc_and_ago(poll.ended_at, now), time::duration(poll.duration));
            writeln!(out, "  last poll     ended {ended}, took {took}, {} series", poll.samples)
        }
        None => writeln!(out, "  last poll     none"),
    }
}

/// What a prober did, step by step, and the certificates that it met.
fn write_probe(out: &mut String, target: &Target, snapshot: &Snapshot, report: &ProbeReport) -> fmt::Result {
    writeln!(out, "\nThe probe\n")?;
    for record in snapshot.calls.iter().filter(|record| record.call != TOKEN_CALL) {
        writeln!(out, "  {} of {}", record.call, target.shown_url())?;
        write_headers(out, target)?;
        write_outcome_of_probe(out, record)?;
    }
    writeln!(out, "\nIts timeline\n")?;
    for event in report.events() {
        writeln!(out, "  {:>10}  {}", time::duration(event.at), event.text)?;
    }
    for (number, certificate) in report.certificates().enumerate() {
        if number == 0 {
            writeln!(out, "\nThe certificates that the server sent, its own first\n")?;
        }
        writeln!(out, "  {}. {}", number + 1, certificate.replace("; ", "\n     "))?;
    }
    Ok(())
}

/// What is known of the token. The token itself is not.
fn write_token(out: &mut String, token: &TokenReport) -> fmt::Result {
    let now = SystemTime::now();
    writeln!(out, "\nThe token\n\n  POST {}", token.url)?;
    match &token.last {
        None => writeln!(out, "  not requested yet")?,
        Some(last) => {
            let (took, ended) = (time::duration(last.duration), time::utc_and_ago(last.at, now));
            match last.status {
                Some(status) => writeln!(out, "  → {status}, {took}, ended {ended}")?,
                None => writeln!(out, "  → no answer, {took}, ended {ended}")?,
            }
            if let Some(error) = &last.error {
                writeln!(out, "  error: {error}")?;
            }
        }
    }
    match &token.lifetime {
        None => writeln!(out, "  there is none")?,
        Some((Some(lifetime), Some(left))) => {
            writeln!(out, "  lifetime {} s, {} s left", lifetime.as_secs(), left.as_secs())?;
        }
        Some(_) => writeln!(out, "  lifetime unknown: used until it is refused")?,
    }
    match token.retry_in {
        Some(pause) => writeln!(out, "  the next request in {} s at the earliest", pause.as_secs_f64().ceil()),
        None => Ok(()),
    }
}

fn write_calls(out: &mut String, target: &Target, requests: &[Call], calls: &[CallRecord]) -> fmt::Result {
    if calls.is_empty() {
        return writeln!(out, "  none");
    }
    for (i, record) in calls.iter().enumerate() {
        writeln!(out, "  {}. {}", i + 1, record.call)?;
        if record.call == TOKEN_CALL {
            if let Some(oauth2) = &target.source.oauth2 {
                writeln!(out, "     POST {}", oauth2.token.url)?;
            }
            write_outcome(out, record)?;
            continue;
        }
        if let Some(request) = requests.iter().find(|request| request.name == record.call) {
            writeln!(out, "     {} {}", request.method.as_str(), request.url)?;
            for (name, value) in &request.headers {
                writeln!(out, "     {name}: {value}")?;
            }
        }
        write_headers(out, target)?;
        write_outcome(out, record)?;
    }
    Ok(())
}

/// The headers of the spec.
fn write_headers(out: &mut String, target: &Target) -> fmt::Result {
    for (name, value) in &target.source.headers {
        let value = if value.is_sensitive() { "<secret>".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        writeln!(out, "     {name}: {value}")?;
    }
    Ok(())
}

/// What came of a call.
fn write_outcome(out: &mut String, record: &CallRecord) -> fmt::Result {
    let took = time::duration(record.duration);
    match record.status {
        Some(status) => writeln!(out, "     → {status}, {} bytes, {took}", record.bytes)?,
        None => writeln!(out, "     → no answer, {took}")?,
    }
    write_error(out, record)
}

/// What came of a probe: most of them have no status.
fn write_outcome_of_probe(out: &mut String, record: &CallRecord) -> fmt::Result {
    if record.status.is_some() || (record.bytes == 0 && record.error.is_some()) {
        return write_outcome(out, record);
    }
    let took = time::duration(record.duration);
    match record.bytes {
        0 => writeln!(out, "     → succeeded, {took}")?,
        bytes => writeln!(out, "     → {bytes} bytes, {took}")?,
    }
    write_error(out, record)
}

fn write_error(out: &mut String, record: &CallRecord) -> fmt::Result {
    let Some(error) = &record.error else { return Ok(()) };
    writeln!(out, "     error: {error}")?;
    match &record.beginning {
        Some(beginning) if beginning.is_empty() => writeln!(out, "     body:  empty"),
        Some(beginning) => writeln!(out, "     body:  {beginning}"),
        None if record.bytes > 0 && record.status.is_some() => {
            writeln!(out, "     body:  not shown, --debug-bodies shows its beginning")
        }
        None => Ok(()),
    }
}

/// The exposition; of a large one only the beginning.
fn write_metrics(out: &mut String, snapshot: &Snapshot) {
    let end = out.len() + MAX_METRICS_BYTES;
    let mut pieces = snapshot.pieces(Format::Text, Encoding::Identity);
    while out.len() < end {
        let Some(piece) = pieces.next() else { return };
        out.push_str(&String::from_utf8_lossy(&piece));
    }
    if pieces.next().is_some() {
        out.push_str("\nThe rest is omitted here: send the request without debug=true\n");
    }
}

/// The series of one member, with the headers of their families; of many only the first ones.
fn write_member_metrics(out: &mut String, snapshot: &Snapshot, member: &Member) {
    let start = out.len();
    let series = MemberSeries::of(member);
    let mut header = String::new();
    for piece in snapshot.pieces(Format::Text, Encoding::Identity) {
        for line in String::from_utf8_lossy(&piece).lines() {
            if line.starts_with('#') {
                if line.starts_with("# HELP ") {
                    header.clear();
                }
                header.extend([line, "\n"]);
            } else if series.contains(line) {
                if out.len() - start > MAX_METRICS_BYTES {
                    out.push_str("\nThe rest is omitted here: send the request without debug=true\n");
                    return;
                }
                out.push_str(&std::mem::take(&mut header));
                out.extend([line, "\n"]);
            }
        }
    }
    if out.len() == start {
        out.push_str("none\n");
    }
}

/// The series of a member, which have its label before all others.
struct MemberSeries {
    first_label: String,
}

impl MemberSeries {
    fn of(member: &Member) -> Self {
        let name = member.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Self { first_label: format!("{}=\"{name}\"", member.label.as_str()) }
    }

    fn contains(&self, line: &str) -> bool {
        let labels = line.split_once('{').and_then(|(_, labels)| labels.strip_prefix(self.first_label.as_str()));
        labels.is_some_and(|rest| rest.starts_with([',', '}']))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::members::tests::{pod, pods, probed_target, snapshot, status, target};
    use crate::kind::{ProbeEvent, ProbeRecord};
    use crate::poll::{MemberState, TokenRequestReport};
    use crate::target::MemberLabel;

    #[test]
    fn the_text_of_a_target_lists_its_members_those_that_fail_first() {
        let mut members = pods(3);
        members.push(pod(4, MemberState::OverLimit));
        let text = target_text(&target("rooms"), &status(), &snapshot(members), None, MemberCalls::Linked);
        for words in [
            "  members       2 of 4 answer (1 down, 2 up, 1 over_limit)\n",
            "  partial       2 of 3 answered; rooms-003: connect\n",
            "  last poll     ended ",
            "\n  STATE       NAME       ADDRESS        NODE    ZONE    POLLED   TOOK   SERIES\n",
            "\n  down        rooms-003  10.0.0.3:9851  node-a  zone-1  3 s ago  12 ms  2\n    connect: stats: Connection refused\n  up ",
            "\n  over_limit  rooms-004  10.0.0.4:9851  node-a  zone-1  -        -      -\n",
            "/probe?target=webrtc/rooms&debug=true&pod=rooms-003\n",
            "rooms{pod=\"rooms-001\"} 3\n",
        ] {
            assert!(text.contains(words), "{words:?} in {text}");
        }
        assert!(!text.contains("The calls of"), "{text}");
    }

    #[test]
    fn what_is_known_of_a_token_is_its_last_request_its_lifetime_and_when_the_next_one_may_be_made() {
        let text = |report: &TokenReport| {
            let mut out = String::new();
            write_token(&mut out, report).unwrap();
            out
        };
        let fresh =
            TokenReport { url: "https://idm.test/token".parse().unwrap(), last: None, lifetime: None, retry_in: None };
        let beginning = "\nThe token\n\n  POST https://idm.test/token\n";
        assert_eq!(text(&fresh), format!("{beginning}  not requested yet\n  there is none\n"));
        let last = |status, error: Option<&str>| TokenRequestReport {
            at: SystemTime::now() - Duration::from_secs(30),
            duration: Duration::from_millis(12),
            status,
            error: error.map(str::to_owned),
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let issued = TokenReport {
            last: Some(last(Some(200), None)),
            lifetime: Some((seconds(3600), seconds(3570))),
            ..fresh.clone()
        };
        let failing = TokenReport {
            last: Some(last(None, Some("connect: Connection refused"))),
            retry_in: Some(Duration::from_millis(7200)),
            ..issued.clone()
        };
        for (report, wanted) in [
            (&issued, &["  → 200, 12 ms, ended ", " s ago)\n", "\n  lifetime 3600 s, 3570 s left\n"][..]),
            (&failing, &["  → no answer, 12 ms, ended ", "\n  error: connect: Connection refused\n", "3570 s left\n"]),
            (&failing, &["\n  the next request in 8 s at the earliest\n"]),
        ] {
            let text = text(report);
            assert!(text.starts_with(beginning) && wanted.iter().all(|words| text.contains(words)), "{text}");
        }
        assert!(!text(&issued).contains("the next request"));
    }

    #[test]
    fn the_command_shows_the_calls_of_some_members_those_that_fail_first() {
        let text = target_text(&target("rooms"), &status(), &snapshot(pods(100)), None, MemberCalls::Shown);
        let shown: Vec<&str> = text.split("\nThe calls of ").skip(1).map(|rest| &rest[..9]).collect();
        assert_eq!((shown.len(), &shown[..2]), (20, &["rooms-100", "rooms-001"][..]));
        assert!(text.contains("\nThe calls of rooms-100\n\n  1. stats\n     → no answer, 7.0 ms\n"), "{text}");
        assert!(!text.contains("/probe?target="), "{text}");
    }

    #[test]
    fn a_text_about_thousands_of_members_is_bounded() {
        let members: Vec<_> = (0..5000_u16)
            .map(|number| {
                let mut report = pod(1, MemberState::NotReady);
                report.member.name = format!("{number:04}-{}", "n".repeat(248)).into();
                report.member.zone = Some("\n".repeat(100_000).into());
                report
            })
            .collect();
        let mut shown = snapshot(members);
        let text = target_text(&target("rooms"), &status(), &shown, None, MemberCalls::Linked);
        assert!(text.contains("  and 4500 more\n") && text.contains("this answer   no poll"), "{text}");
        assert!(
            text.len() < 1 << 20 && text.lines().count() < 700,
            "{} bytes, {} lines",
            text.len(),
            text.lines().count()
        );
        shown.members = Some(std::sync::Arc::default());
        let text = target_text(&target("rooms"), &status(), &shown, None, MemberCalls::Linked);
        assert!(text.contains("\nThe members\n\n  none\n"), "{text}");
    }

    #[test]
    fn the_text_of_a_member_has_its_calls_and_its_series_alone() {
        let shown = snapshot(pods(3));
        let members = shown.members.clone().unwrap();
        let text = member_text(&target("rooms"), &shown, &members[1]);
        for words in [
            "Target webrtc/rooms, pod rooms-002\n",
            "  address       10.0.0.2:9851\n  node          node-a\n  zone          zone-1\n  uid           uid-2\n  state         up\n",
            ", took 12 ms, 2 series\n",
            "  1. stats\n     → 200, 2048 bytes, 7.0 ms\n",
        ] {
            assert!(text.contains(words), "{words:?} in {text}");
        }
        let (_, series) = text.split_once("(text 0.0.4)\n\n").unwrap();
        let kind = "kind=\"{pod=\\\"rooms-001\\\"}\"";
        assert_eq!(
            series,
            format!(
                "# HELP rooms Rooms.\n# TYPE rooms gauge\nrooms{{pod=\"rooms-002\"}} 3\n# HELP rooms_created_total Rooms since the start.\n\
                 # TYPE rooms_created_total counter\nrooms_created_total{{pod=\"rooms-002\",{kind}}} 70\n"
            )
        );
        let text = member_text(&target("rooms"), &shown, &members[2]);
        for words in [
            "  state         down\n  reason        connect: stats: Connection refused\n",
            "     → no answer, 7.0 ms\n     error: Connection refused\n",
            "(text 0.0.4)\n\nnone\n",
        ] {
            assert!(text.contains(words), "{words:?} in {text}");
        }
    }

    /// A failed probe of the target `web`.
    fn probed(certificates: &[&str]) -> Snapshot {
        let mut shown = snapshot(Vec::new());
        shown.members = None;
        shown.calls = Box::new([CallRecord {
            call: "request",
            duration: Duration::from_millis(120),
            status: Some(500),
            bytes: 12,
            error: Some("answered 500".into()),
            beginning: Some("out of order".into()),
        }]);
        let event = |at, text: &str| ProbeEvent { at: Duration::from_micros(at), text: text.into() };
        let record = ProbeRecord {
            address: Some([127, 0, 0, 1].into()),
            events: Box::new([
                event(420, "resolved localhost to 127.0.0.1"),
                event(12_300, "answered 302, redirected to https://localhost/login"),
                event(120_000, "failed: http_status: answered 500"),
            ]),
            certificates: certificates.iter().map(|text| (*text).into()).collect(),
        };
        shown.probe = Some(Box::new(ProbeReport::without_credentials(record)));
        shown
    }

    #[test]
    fn the_text_of_a_probe_has_its_timeline_and_the_certificates_in_place_of_calls() {
        let shown = probed(&["CN=localhost; issued by CN=authority", "CN=authority"]);
        let text = target_text(&probed_target("web"), &status(), &shown, None, MemberCalls::Linked);
        for words in [
            "\n  address       127.0.0.1\n",
            "\nThe probe\n\n  request of http://web.webrtc.svc/\n     → 500, 12 bytes, 120 ms\n     error: answered 500\n     \
             body:  out of order\n",
            "\nIts timeline\n\n     0.42 ms  resolved localhost to 127.0.0.1\n       12 ms  answered 302, redirected to https://localhost/login\n",
            "\n      120 ms  failed: http_status: answered 500\n",
            "\nThe certificates that the server sent, its own first\n\n  1. CN=localhost\n     issued by CN=authority\n  2. CN=authority\n\n",
        ] {
            assert!(text.contains(words), "{words:?} in {text}");
        }
        assert!(!text.contains("The calls of the poll"), "{text}");
        let mut plain = probed(&[]);
        let succeeded = CallRecord { status: None, bytes: 0, error: None, beginning: None, ..plain.calls[0].clone() };
        plain.calls = Box::new([succeeded]);
        let text = target_text(&probed_target("web"), &status(), &plain, None, MemberCalls::Linked);
        assert!(text.contains("\n     → succeeded, 120 ms\n\nIts timeline\n"), "{text}");
        assert!(!text.contains("The certificates"), "{text}");
        (plain.probe, plain.calls) = (None, Box::default());
        let text = target_text(&probed_target("web"), &status(), &plain, None, MemberCalls::Linked);
        assert!(text.contains("\nThe probe\n\n  none\n") && !text.contains("The calls of the poll"), "{text}");
        let text = target_text(&target("rooms"), &status(), &plain, None, MemberCalls::Linked);
        assert!(text.contains("\nThe calls of the poll\n\n  none\n") && !text.contains("The probe"), "{text}");
    }

    #[test]
    fn a_series_is_that_of_the_member_whose_name_is_equal() {
        let mut member = pod(1, MemberState::Up).member;
        (member.label, member.name) = (MemberLabel::Member, "[::1]:80\"\\\n".into());
        let series = MemberSeries::of(&member);
        assert!(series.contains("a{member=\"[::1]:80\\\"\\\\\\n\"} 1"));
        assert!(series.contains("a{member=\"[::1]:80\\\"\\\\\\n\",b=\"c\"} 1"));
        for other in ["a 1", "a{member=\"[::1]:80\"} 1", "a{pod=\"[::1]:80\"} 1", "a{b=\"\",member=\"[::1]:80\"} 1"] {
            assert!(!series.contains(other), "{other}");
        }
    }
}
