//! Puts the answer of a target with members together: one exposition of the series of all members, and the families about them.
//!
//! It works on texts and reports. It neither polls nor decides which members there are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::member::MemberText;
use super::members::{MemberReport, MemberReports, MemberState};
use super::render::{
    self, CALL_SUCCESS, FAILURE, MEMBER_DURATION, MEMBER_FAILURE, MEMBER_INFO, MEMBER_SUCCESS, MEMBERS, SERIES_DROPPED,
    SKIPPED_FIELDS, SUCCESS,
};
use super::snapshot::{Exposition, Failure, Snapshot};
use crate::kind::{Call, Reason};
use crate::metric::{Encoding, Families, Format, merge_members};
use crate::tls::Expiry;

/// An answer to be put together.
pub(super) struct Composition {
    /// When the last round began and ended. Changes of the members between rounds do not make an answer younger.
    pub(super) round: RoundTime,
    /// The answer that this one continues, and the names of the members whose series are taken from it. `None`: all series are in `texts`.
    pub(super) base: Option<(Arc<Snapshot>, HashSet<Arc<str>>)>,
    /// The series of members that are not taken from the base, in the order of members.
    pub(super) texts: Vec<MemberText>,
    pub(super) members: MemberReports,
    /// Some of those that are to be polled were not polled yet.
    pub(super) has_pending: bool,
    /// Why there are no members, if that is an error.
    pub(super) failure: Option<Failure>,
    pub(super) certificate_expiry: Option<Expiry>,
    pub(super) totals: MemberTotals,
    pub(super) requests: Arc<[Call]>,
    pub(super) format: Format,
}

/// When a round took place.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTime {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) ended_at: SystemTime,
}

/// What all members have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemberTotals {
    pub(super) samples: usize,
    pub(super) dropped: u64,
    pub(super) skipped: u64,
    pub(super) withheld: u64,
}

impl MemberTotals {
    /// Counts samples that do not fit to those of other members.
    fn leave_out(&mut self, samples: usize) {
        self.samples = self.samples.saturating_sub(samples);
        self.skipped += samples as u64;
    }
}

impl Composition {
    /// About the bytes that have to be copied and compressed.
    pub(super) fn bytes(&self) -> usize {
        let base = self.base.as_ref().map_or(0, |(base, _)| base.exposition.length());
        base + self.texts.iter().map(MemberText::len).sum::<usize>() + MEMBER_BYTES * self.members.len()
    }

    /// Puts the answer together.
    pub(super) fn snapshot(self) -> Snapshot {
        let Self {
            round,
            base,
            texts,
            members,
            has_pending,
            failure,
            certificate_expiry,
            mut totals,
            requests,
            format,
        } = self;
        let failure = failure.or_else(|| failure_of(&members, has_pending));
        let own = |totals: &MemberTotals| {
            own_families(&round, &members, failure.as_ref(), certificate_expiry, totals).finish()
        };
        let mut left_out = base.as_ref().map_or(0, |(base, _)| base.left_out);
        let kept = base.map(|(base, taken)| {
            let text = base.body(Format::Text, Encoding::Identity);
            retain_members(&text, |name| taken.contains(name))
        });
        let texts: Vec<Vec<u8>> = kept.into_iter().chain(texts.into_iter().map(MemberText::into_plain)).collect();
        let parts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        totals.leave_out(left_out);
        let (mut text, mut own_of_all) = (Vec::new(), own(&totals));
        let mut merged = merge_members(&parts, &own_of_all, format, &mut text);
        if merged.left_out > 0 {
            // Rare: members of different versions, whose servers choose the names. It is told in the answer itself.
            left_out += merged.left_out;
            totals.leave_out(merged.left_out);
            own_of_all = own(&totals);
            text.clear();
            merged = merge_members(&parts, &own_of_all, format, &mut text);
        }
        let samples = totals.samples + own_of_all.len();
        drop(texts);
        Snapshot {
            started: round.started,
            ended: round.ended,
            ended_at: round.ended_at,
            failure,
            calls: Box::default(),
            members: Some(members.into()),
            left_out,
            withheld: totals.withheld,
            requests,
            probe: None,
            is_permanent: false,
            samples,
            exposition: Exposition::of_text(&text, format, merged.plain_counters),
        }
    }
}

/// About the bytes of the families about one member.
const MEMBER_BYTES: usize = 512;

fn own_families(
    round: &RoundTime,
    members: &MemberReports,
    failure: Option<&Failure>,
    certificate_expiry: Option<Expiry>,
    totals: &MemberTotals,
) -> Families {
    let mut own = Families::default();
    own.set(&SUCCESS, &[], if failure.is_none() { 1.0 } else { 0.0 });
    render::set_times(&mut own, round.ended.duration_since(round.started), round.ended_at);
    if let Some(failure) = failure {
        own.set(&FAILURE, &[failure.reason.as_str()], 1.0);
    }
    if let Some(expiry) = certificate_expiry {
        render::set_expiry(&mut own, expiry);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of values in one answer")]
    {
        own.set(&SERIES_DROPPED, &[], totals.dropped as f64);
        own.set(&SKIPPED_FIELDS, &[], totals.skipped as f64);
        for state in MemberState::COUNTED {
            own.set(&MEMBERS, &[state.as_str()], members.count(*state) as f64);
        }
    }
    for report in members.iter() {
        let MemberReport { member, state, failure, poll } = report;
        let Some(poll) = poll else { continue };
        let of = (member.label.as_str(), &*member.name);
        let (node, zone) = (member.node.as_deref().unwrap_or_default(), member.zone.as_deref().unwrap_or_default());
        own.set_of_member(&MEMBER_INFO, of, &[&member.address.to_string(), node, zone], 1.0);
        own.set_of_member(&MEMBER_DURATION, of, &[], poll.duration.as_secs_f64());
        // Nobody needs to be told that a process does not answer which is being stopped.
        if failure.is_none() || *state != MemberState::Terminating {
            own.set_of_member(&MEMBER_SUCCESS, of, &[], if failure.is_none() { 1.0 } else { 0.0 });
            if let Some(failure) = failure {
                own.set_of_member(&MEMBER_FAILURE, of, &[failure.reason.as_str()], 1.0);
            }
        }
        for call in poll.calls.iter() {
            own.set_of_member(&CALL_SUCCESS, of, &[call.call], if call.error.is_none() { 1.0 } else { 0.0 });
        }
    }
    own
}

/// Why the target is down: `None` if at least one member answered.
fn failure_of(members: &MemberReports, has_pending: bool) -> Option<Failure> {
    let polled = || members.iter().filter(|report| report.poll.is_some());
    if polled().any(|report| report.failure.is_none()) {
        return None;
    }
    // Those that are being stopped count only if there is nobody else.
    let is_expected = |report: &&MemberReport| report.state != MemberState::Terminating;
    let failed: Vec<&MemberReport> = if polled().any(|report| is_expected(&report)) {
        polled().filter(is_expected).collect()
    } else {
        polled().collect()
    };
    let of_reason = |reason: Reason| {
        failed.iter().filter(move |report| report.failure.as_ref().is_some_and(|failure| failure.reason == reason))
    };
    let reasons = Reason::ALL.iter().copied().filter(|reason| of_reason(*reason).next().is_some());
    // The first one where two are as frequent: `max_by_key` would take the last.
    let Some(reason) = reasons.rev().max_by_key(|reason| of_reason(*reason).count()) else {
        return Some(no_members(members, has_pending));
    };
    let count = of_reason(reason).count();
    let (name, message) =
        of_reason(reason).find_map(|report| Some((&report.member.name, &report.failure.as_ref()?.message))).unzip();
    let (name, message) = (name.map_or("", |name| name), message.map_or("", |message| message));
    let message = match failed.len() {
        1 => format!("{name}: {message}"),
        all => format!("no member of {all} answered, {count} of them for this reason; {name}: {message}"),
    };
    Some(Failure { reason, message: render::bounded(&message).into() })
}

/// The failure of a target without a member that was polled.
fn no_members(members: &MemberReports, has_pending: bool) -> Failure {
    if has_pending {
        return Failure { reason: Reason::Pending, message: "no member was polled yet".into() };
    }
    let message = match members.counts().found {
        0 => "there are no members".to_owned(),
        found => format!("none of {found} members is polled: spec.members.include admits none of them"),
    };
    Failure { reason: Reason::NoMembers, message: message.into() }
}

/// The series of those members that `is_kept` names, without the families about polls and members. `text` is an answer that was put
/// together here: the label of the member is the first one.
fn retain_members(text: &[u8], is_kept: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len());
    // The two lines before the samples of a family, until the first sample that is kept.
    let mut header = 0..0;
    let (mut is_own, mut end) = (false, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let start = end;
        end += line.len();
        if line.starts_with(b"# HELP ") {
            is_own = is_of_poll(line);
            header = start..end;
        } else if line.starts_with(b"# TYPE ") {
            header.end = end;
        } else if !is_own && member_of(line).is_some_and(&is_kept) {
            kept.extend_from_slice(text.get(std::mem::take(&mut header)).unwrap_or_default());
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// Whether this line begins one of the families about polls and members, which are written anew. Servers may have others that begin as these
/// do.
fn is_of_poll(help: &[u8]) -> bool {
    let name = help.strip_prefix(b"# HELP ").and_then(|rest| rest.split(|byte| *byte == b' ').next());
    name.is_some_and(|name| render::PROBE_FAMILIES.iter().any(|family| family.name.as_bytes() == name))
}

/// The value of the first label of a sample.
fn member_of(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let (_, value) = line.split_once('{')?.1.split_once("=\"")?;
    value.split_once('"').map(|(name, _)| name)
}
