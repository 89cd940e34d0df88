//! The five conditions of a ScrapeTarget, computed from facts. Pure: no clock, no cluster. What each reason means is decided here.
//!
//! `lastTransitionTime` changes with the status of a condition only. While a fact is not known yet, the observed condition is kept, so that
//! a restarted exporter and a new leader write nothing.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use crate::crd::{Condition, ConditionStatus, MembersStatus, ScrapeTargetStatus};
use crate::k8s::settings::DiscoveryMode;
use crate::k8s::target_store::MonitorState;
use crate::kind::Reason;
use crate::poll::{MemberCounts, TargetState, TargetStatus};
use crate::target::Problem;
use crate::time::{PromDuration, rfc3339};

const READY: &str = "Ready";
const ACCEPTED: &str = "Accepted";
const MONITOR_READY: &str = "MonitorReady";
const UP: &str = "Up";
const SCRAPED: &str = "Scraped";

/// Conditions that become known soon after a target is new. `Scraped` takes several scrape intervals, so nothing waits for it.
const AWAITED: [&str; 3] = [ACCEPTED, MONITOR_READY, UP];

/// The reason of a condition that is not known yet.
const PENDING: &str = Reason::Pending.condition();
const SUSPENDED: &str = Reason::Suspended.condition();
const CONFIG: &str = Reason::Config.condition();
/// Some members answer, and others do not.
const PARTIAL: &str = "Partial";
const NOT_SCRAPED: &str = "NotScraped";

/// In characters. A server may answer with a page of text, and the API server keeps every status in memory.
const MAX_MESSAGE: usize = 1024;

/// `maxItems` of the schema. Conditions of other writers count as well.
const MAX_CONDITIONS: usize = 16;

/// What could not be read yet, as a Secret, is reported after this time only: a restart of the API server is not worth a write of the status.
const UNREAD_GRACE: Duration = Duration::from_secs(30);

/// After so many scrape intervals without a scrape, `Scraped` becomes `False`.
const MISSED_SCRAPES: u32 = 5;

/// Everything that a status depends on.
#[derive(Clone, Debug)]
pub(super) struct StatusFacts<'f> {
    pub(super) now: SystemTime,
    pub(super) generation: i64,
    /// The status in the cluster.
    pub(super) observed: &'f ScrapeTargetStatus,
    /// Whether the target can be polled as declared; `None`: not known yet.
    pub(super) accepted: Option<Result<(), &'f Problem>>,
    pub(super) suspended: bool,
    /// Whether it has `spec.members`.
    pub(super) has_members: bool,
    pub(super) monitor: Option<&'f MonitorState>,
    /// The state after polls of this very declaration; `None`: there was none yet.
    pub(super) poll: Option<&'f TargetStatus>,
    /// `None`: it cannot be scraped, since the declaration is invalid.
    pub(super) scrapes: Option<ScrapeFacts>,
}

/// What is known of scrapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScrapeFacts {
    /// The scrape interval.
    pub(super) interval: Duration,
    /// Time since the last scrape.
    pub(super) last: Option<Duration>,
    /// For how long this replica, as the leader, would have been scraped.
    pub(super) watched_for: Duration,
    pub(super) mode: DiscoveryMode,
    /// `spec.monitor.enabled`.
    pub(super) monitor: bool,
}

/// The status: all five conditions, the summary first.
pub(super) fn status(facts: &StatusFacts<'_>) -> ScrapeTargetStatus {
    let pending = |message| move || ConditionState::pending(message);
    let accepted = facts.accepted().or_else(|| facts.observed_state(ACCEPTED));
    let accepted = accepted.unwrap_or_else(pending("the objects to which the spec refers have not been read yet"));
    let monitor = facts.monitor().or_else(|| facts.observed_state(MONITOR_READY));
    let monitor = monitor.unwrap_or_else(pending("its ServiceMonitor has not been checked yet"));
    let ready = ConditionState::ready(&accepted, &monitor);
    let up = facts.up().or_else(|| facts.observed_state(UP)).unwrap_or_else(pending("not polled yet"));
    let scraped = facts.scraped().or_else(|| facts.observed_scraped());
    let scraped =
        scraped.unwrap_or_else(pending("not observed long enough to determine whether the target is scraped"));
    let states = [(READY, ready), (ACCEPTED, accepted), (MONITOR_READY, monitor), (UP, up), (SCRAPED, scraped)];
    ScrapeTargetStatus {
        observed_generation: Some(facts.generation),
        conditions: states.into_iter().map(|(kind, state)| facts.condition(kind, state)).collect(),
        members: facts.members(),
    }
}

/// Whether `observed` has everything of `desired`. Conditions of other writers do not count.
pub(super) fn is_up_to_date(observed: &ScrapeTargetStatus, desired: &ScrapeTargetStatus) -> bool {
    has_same_conditions(observed, desired) && observed.members == desired.members
}

/// What two statuses differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// The numbers of members alone, which change with every rollout.
    Numbers,
    /// The message of `Up`, and perhaps numbers: the same failure has another cause.
    Message,
    /// Anything else.
    Conditions,
}

/// What `observed` and `desired` differ in.
pub(super) fn difference(observed: &ScrapeTargetStatus, desired: &ScrapeTargetStatus) -> Difference {
    let same_members = observed.members.is_some() == desired.members.is_some();
    if same_members && has_same_conditions(observed, desired) {
        return Difference::Numbers;
    }
    let unchanged = with_message_of(observed, desired.clone());
    if same_members && has_same_conditions(observed, &unchanged) { Difference::Message } else { Difference::Conditions }
}

/// The status with the message of `Up` that `observed` has.
pub(super) fn with_message_of(observed: &ScrapeTargetStatus, mut status: ScrapeTargetStatus) -> ScrapeTargetStatus {
    if let Some(up) = status.conditions.iter_mut().find(|condition| condition.kind == UP) {
        up.message = find(observed, UP).map(|observed| observed.message.clone()).unwrap_or_default();
    }
    status
}

fn has_same_conditions(observed: &ScrapeTargetStatus, desired: &ScrapeTargetStatus) -> bool {
    observed.observed_generation == desired.observed_generation
        && desired.conditions.iter().all(|condition| find(observed, &condition.kind) == Some(condition))
}

/// A hash of a status. It leaves out times, numbers of members, and the message of `Up`, which differ from poll to poll.
pub(super) fn fingerprint(status: &ScrapeTargetStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    for Condition { kind, status, reason, message, .. } in &status.conditions {
        let message = if kind == UP { "" } else { message };
        (kind, *status as u8, reason, message).hash(&mut hasher);
    }
    hasher.finish()
}

/// The conditions that other writers have added to `observed`.
pub(super) fn foreign_conditions<'s>(
    observed: &'s ScrapeTargetStatus,
    desired: &'s ScrapeTargetStatus,
) -> impl Iterator<Item = &'s Condition> {
    observed.conditions.iter().filter(|condition| find(desired, &condition.kind).is_none())
}

/// Whether a problem is reported now: what was not read yet is usually read soon.
pub(super) fn is_worth_reporting(problem: &Problem, watched_for: Duration) -> bool {
    watched_for >= UNREAD_GRACE || !matches!(problem.reason, "SecretUnread" | "ConfigMapUnread" | "EndpointsUnread")
}

/// Whether a condition is pending that should become known soon.
pub(super) fn is_pending(status: &ScrapeTargetStatus) -> bool {
    let open = |kind| find(status, kind).is_none_or(|condition| condition.reason == PENDING);
    AWAITED.into_iter().any(open)
}

/// Whether a condition that is pending in `observed`, for which a user waits, is known in `desired`.
pub(super) fn resolves_pending(desired: &ScrapeTargetStatus, observed: &ScrapeTargetStatus) -> bool {
    let open = |status, kind| find(status, kind).is_none_or(|condition| condition.reason == PENDING);
    AWAITED.into_iter().any(|kind| open(observed, kind) && !open(desired, kind))
}

/// Whether other writers have added so many conditions that ours do not fit beside them.
pub(super) fn exceeds_limit(observed: &ScrapeTargetStatus, desired: &ScrapeTargetStatus) -> bool {
    foreign_conditions(observed, desired).count() + desired.conditions.len() > MAX_CONDITIONS
}

fn find<'s>(status: &'s ScrapeTargetStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

/// A condition without its generation and time.
struct ConditionState {
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl ConditionState {
    fn new(status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }

    fn new_true(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::True, reason, message)
    }

    fn new_false(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    fn new_unknown(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::Unknown, reason, message)
    }

    fn observed(observed: &Condition) -> Self {
        Self::new(observed.status, &observed.reason, observed.message.as_str())
    }

    fn pending(message: &str) -> Self {
        Self::new_unknown(PENDING, message)
    }

    /// `Ready` summarizes what the exporter does with the spec. Whether the target answers is left to `Up`.
    fn ready(accepted: &Self, monitor: &Self) -> Self {
        let both = [accepted, monitor];
        if let Some(not) = both.into_iter().find(|state| state.status == ConditionStatus::False) {
            return Self::new_false(&not.reason, not.message.clone());
        }
        if both.into_iter().all(|state| state.status == ConditionStatus::True) {
            return Self::new_true(READY, "the target is polled and discovered as declared");
        }
        Self::pending("not yet determined, see Accepted and MonitorReady")
    }
}

impl StatusFacts<'_> {
    fn accepted(&self) -> Option<ConditionState> {
        Some(match self.accepted? {
            Ok(()) => ConditionState::new_true(ACCEPTED, "the target can be polled as declared"),
            Err(problem) => ConditionState::new_false(problem.reason, problem.message.as_str()),
        })
    }

    fn monitor(&self) -> Option<ConditionState> {
        let state = self.monitor?;
        let mut message = state.message.as_str();
        // A webhook may put the id of the request into its message: keep the first one, or every attempt would be a write.
        if state.is_quoted() {
            message = self.same_message(MONITOR_READY, state.status, state.reason).unwrap_or(message);
        }
        Some(ConditionState::new(state.status, state.reason, message))
    }

    fn up(&self) -> Option<ConditionState> {
        if self.suspended {
            return Some(ConditionState::new_unknown(SUSPENDED, "spec.suspend is true"));
        }
        if let Some(Err(problem)) = self.accepted {
            return Some(ConditionState::new_unknown(CONFIG, problem.message.as_str()));
        }
        let poll = self.poll?;
        let status = match poll.state {
            TargetState::Up => ConditionStatus::True,
            TargetState::Down => ConditionStatus::False,
            TargetState::Pending => return None,
            TargetState::Invalid if self.accepted.is_none() => return None, // a Secret that is not read yet
            TargetState::Suspended | TargetState::Invalid => ConditionStatus::Unknown,
        };
        let (reason, message) = match (&poll.failure, &poll.partial) {
            (Some(failure), _) => (failure.reason.condition(), &*failure.message),
            (None, Some(message)) => (PARTIAL, &**message),
            (None, None) => ("Succeeded", "the last poll succeeded"),
        };
        // Keep the first message of the same words, or every poll would be a write.
        let before = self.same_message(UP, status, reason);
        let before = before.filter(|before| reason == PARTIAL || has_same_words(before, message));
        let message = before.unwrap_or(message);
        Some(ConditionState::new(status, reason, message))
    }

    /// The members as the last poll found them; those of the status, as long as nothing is known. A target that is not polled has none.
    fn members(&self) -> Option<MembersStatus> {
        if !self.has_members || self.suspended || self.accepted.is_some_and(|accepted| accepted.is_err()) {
            return None;
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = |MemberCounts { found, up }| MembersStatus { found: number(found), up: number(up) };
        match self.poll.map(|poll| (poll.state, poll.members)) {
            None | Some((TargetState::Pending, None)) => self.observed.members,
            // An object that was not read yet, which is no reason to write.
            Some((TargetState::Invalid, _)) if self.accepted.is_none() => self.observed.members,
            Some((_, members)) => members.map(counts),
        }
    }

    fn scraped(&self) -> Option<ConditionState> {
        let Some(scrapes) = self.scrapes else {
            return Some(ConditionState::new_unknown(CONFIG, "the spec is invalid, see Accepted"));
        };
        if self.suspended {
            return Some(ConditionState::new_unknown(SUSPENDED, "spec.suspend is true"));
        }
        let allowed = scrapes.interval.saturating_mul(MISSED_SCRAPES);
        if scrapes.last.is_some_and(|last| last <= allowed) {
            return Some(ConditionState::new_true(SCRAPED, "scrapes come"));
        }
        if scrapes.watched_for <= allowed {
            return None;
        }
        let before =
            |condition: &Condition| condition.status == ConditionStatus::True || condition.reason == NOT_SCRAPED;
        let ever = scrapes.last.is_some() || find(self.observed, SCRAPED).is_some_and(before);
        let (reason, since) = if ever { (NOT_SCRAPED, "any more") } else { ("NeverScraped", "yet") };
        let advice = self.advice(&scrapes);
        let within = PromDuration::from(allowed);
        let message = format!("no Prometheus scrapes it {since}, at least not within {within}: {advice}");
        Some(ConditionState::new_false(reason, message))
    }

    /// What the user can check when no scrape comes.
    fn advice(&self, scrapes: &ScrapeFacts) -> &'static str {
        match scrapes.mode {
            DiscoveryMode::ServiceMonitor if !scrapes.monitor => {
                "spec.monitor.enabled is false, so your own scrape configuration must request it from /probe"
            }
            DiscoveryMode::ServiceMonitor
                if self.monitor.is_some_and(|monitor| monitor.status == ConditionStatus::False) =>
            {
                "its ServiceMonitor is not up to date, see MonitorReady"
            }
            DiscoveryMode::ServiceMonitor => {
                "compare the labels of its ServiceMonitor with serviceMonitorSelector of the Prometheus object, those of \
                 its namespace with serviceMonitorNamespaceSelector, and check whether Prometheus can reach the exporter"
            }
            DiscoveryMode::HttpSd => {
                "check whether the Prometheus object selects the ScrapeConfig of the exporter by scrapeConfigSelector and \
                 scrapeConfigNamespaceSelector, or reads /sd in another way, and can reach the exporter"
            }
            DiscoveryMode::None => "discovery is off, so your own scrape configuration must request it from /probe",
        }
    }

    /// The observed message, if the condition is otherwise the same and of this generation.
    fn same_message(&self, kind: &str, status: ConditionStatus, reason: &str) -> Option<&str> {
        let observed = find(self.observed, kind)?;
        let generation = observed.observed_generation == Some(self.generation);
        (generation && observed.status == status && observed.reason == reason).then_some(observed.message.as_str())
    }

    /// The observed condition, if it is of this generation.
    fn observed_state(&self, kind: &str) -> Option<ConditionState> {
        let observed = find(self.observed, kind)?;
        // `Unknown` is not kept once the target was checked again: its cause may be gone.
        let is_kept = observed.status != ConditionStatus::Unknown || self.accepted.is_none();
        let is_same = observed.observed_generation == Some(self.generation);
        (is_kept && is_same).then(|| ConditionState::observed(observed))
    }

    /// The observed `Scraped`, of any generation: a change of the spec does not interrupt scrapes.
    fn observed_scraped(&self) -> Option<ConditionState> {
        let is_known = |observed: &&Condition| observed.status != ConditionStatus::Unknown;
        find(self.observed, SCRAPED).filter(is_known).map(ConditionState::observed)
    }

    fn condition(&self, kind: &str, state: ConditionState) -> Condition {
        let ConditionState { status, reason, message } = state;
        let since = find(self.observed, kind).filter(|observed| observed.status == status);
        Condition {
            kind: kind.to_owned(),
            status,
            observed_generation: Some(self.generation),
            last_transition_time: since
                .map_or_else(|| rfc3339(self.now), |observed| observed.last_transition_time.clone()),
            reason,
            message: truncated(message),
        }
    }
}

/// Whether two messages differ in nothing but durations, sizes, addresses, names of pods and the like: words with a digit in them. A status
/// code of HTTP is a word like any other, and so is the name of a field.
fn has_same_words(one: &str, other: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let mut before = "";
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let is_code = matches!(before, "status" | "answered");
            let is_number = word.contains(|c: char| c.is_ascii_digit()) && !is_code && !word.contains("oauth2");
            words.push(if is_number { String::new() } else { word.to_owned() });
            before = word;
        }
        words
    };
    words(one) == words(&truncated(other.to_owned()))
}

fn truncated(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests;
