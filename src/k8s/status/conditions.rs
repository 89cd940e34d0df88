//! What a status must say: from facts to conditions. Pure: no clock, no cluster.
//!
//! A condition moves only with its state. Where nothing is known yet, what the cluster says already stays, so that a restarted
//! exporter and a new leader write nothing.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::super::catalog::MonitorState;
use super::super::settings::DiscoveryMode;
use crate::crd::{Condition, ConditionStatus, ScrapeTargetStatus};
use crate::kind::Reason;
use crate::poll::{TargetState as State, TargetStatus as Status};
use crate::target::Problem;

const READY: &str = "Ready";
const ACCEPTED: &str = "Accepted";
const MONITOR_READY: &str = "MonitorReady";
const UP: &str = "Up";
const SCRAPED: &str = "Scraped";

/// What will soon be known of a new target. Scrapes take their time, they do not count.
const AWAITED: [&str; 3] = [ACCEPTED, MONITOR_READY, UP];

/// The reason of what is not known yet.
const PENDING: &str = Reason::Pending.condition();
const SUSPENDED: &str = Reason::Suspended.condition();
const CONFIG: &str = Reason::Config.condition();
const NOT_SCRAPED: &str = "NotScraped";

/// A server may answer with a page of text, and each status lies in the API server's memory.
const LONGEST_MESSAGE: usize = 1024;

/// As the schema has it, those of others included.
const MOST_CONDITIONS: usize = 16;

/// So long a Secret that nobody could read yet counts as not known yet: a restart of an API server is no news.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);

/// Scrapes that may be missing before we say that there are none.
const PATIENCE: u32 = 5;

/// Everything that a status depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts<'f> {
    pub(super) now: SystemTime,
    pub(super) generation: i64,
    /// What the cluster says already.
    pub(super) observed: &'f ScrapeTargetStatus,
    /// Whether the target can be polled as it is declared; `None`: not known yet.
    pub(super) accepted: Option<Result<(), &'f Problem>>,
    pub(super) suspended: bool,
    pub(super) monitor: Option<&'f MonitorState>,
    /// What polls of this very declaration brought; `None`: there was none yet.
    pub(super) poll: Option<&'f Status>,
    /// `None`: nobody can scrape it, since the declaration is not understood.
    pub(super) scrapes: Option<Scrapes>,
}

/// What is known of scrapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scrapes {
    /// How often they should come.
    pub(super) interval: Duration,
    /// How long ago the last one came.
    pub(super) last: Option<Duration>,
    /// How long we have been the one to whom they would have come.
    pub(super) watched_for: Duration,
    pub(super) mode: DiscoveryMode,
    /// `spec.monitor.enabled`.
    pub(super) monitor: bool,
}

/// The whole status: all five conditions, in the order in which people read them.
pub(super) fn status(facts: &Facts<'_>) -> ScrapeTargetStatus {
    let pending = |message| move || Finding::pending(message);
    let accepted = facts.accepted().or_else(|| facts.kept(ACCEPTED));
    let accepted = accepted.unwrap_or_else(pending("what the spec refers to is not read yet"));
    let monitor = facts.monitor().or_else(|| facts.kept(MONITOR_READY));
    let monitor = monitor.unwrap_or_else(pending("its ServiceMonitor is not looked at yet"));
    let ready = Finding::ready(&accepted, &monitor);
    let up = facts.up().or_else(|| facts.kept(UP)).unwrap_or_else(pending("not polled yet"));
    let scraped = facts.scraped().or_else(|| facts.kept_scraped());
    let scraped = scraped.unwrap_or_else(pending("not watched long enough to tell whether scrapes come"));
    let findings = [(READY, ready), (ACCEPTED, accepted), (MONITOR_READY, monitor), (UP, up), (SCRAPED, scraped)];
    ScrapeTargetStatus {
        observed_generation: Some(facts.generation),
        conditions: findings.into_iter().map(|(kind, finding)| facts.condition(kind, finding)).collect(),
    }
}

/// Whether `observed` says all that `wanted` says. What others added to it is theirs.
pub(super) fn says(observed: &ScrapeTargetStatus, wanted: &ScrapeTargetStatus) -> bool {
    observed.observed_generation == wanted.observed_generation
        && wanted.conditions.iter().all(|condition| find(observed, &condition.kind) == Some(condition))
}

/// A number for what a status says. Times do not count, nor does the sentence of `Up`, which differs from poll to poll.
pub(super) fn gist(status: &ScrapeTargetStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    for Condition { kind, status, reason, message, .. } in &status.conditions {
        let message = if kind == UP { "" } else { message };
        (kind, *status as u8, reason, message).hash(&mut hasher);
    }
    hasher.finish()
}

/// The conditions that others have added to `observed`.
pub(super) fn of_others<'s>(
    observed: &'s ScrapeTargetStatus,
    wanted: &'s ScrapeTargetStatus,
) -> impl Iterator<Item = &'s Condition> {
    observed.conditions.iter().filter(|condition| find(wanted, &condition.kind).is_none())
}

/// Whether a problem is worth saying of a target that is watched for so long: what is merely not read yet ends by itself, mostly soon.
pub(super) fn is_certain(problem: &Problem, watched_for: Duration) -> bool {
    watched_for >= UNREAD_PATIENCE || !matches!(problem.reason, "SecretUnread" | "ConfigMapUnread")
}

/// Whether something will soon be known that is not known yet.
pub(super) fn is_pending(status: &ScrapeTargetStatus) -> bool {
    let open = |kind| find(status, kind).is_none_or(|condition| condition.reason == PENDING);
    AWAITED.into_iter().any(open)
}

/// Whether `wanted` knows something for which a user waits, and `observed` does not know it yet.
pub(super) fn tells_more(wanted: &ScrapeTargetStatus, observed: &ScrapeTargetStatus) -> bool {
    let open = |status, kind| find(status, kind).is_none_or(|condition| condition.reason == PENDING);
    AWAITED.into_iter().any(|kind| open(observed, kind) && !open(wanted, kind))
}

/// Whether others have added so many conditions that ours do not fit.
pub(super) fn is_crowded(observed: &ScrapeTargetStatus, wanted: &ScrapeTargetStatus) -> bool {
    of_others(observed, wanted).count() + wanted.conditions.len() > MOST_CONDITIONS
}

fn find<'s>(status: &'s ScrapeTargetStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

/// What a condition says, but for its times.
struct Finding {
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl Finding {
    fn new(status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }

    fn of(observed: &Condition) -> Self {
        Self::new(observed.status, &observed.reason, observed.message.as_str())
    }

    fn pending(message: &str) -> Self {
        Self::new(ConditionStatus::Unknown, PENDING, message)
    }

    /// The exporter does what the spec says; whether the target answers is another matter.
    fn ready(accepted: &Self, monitor: &Self) -> Self {
        let both = [accepted, monitor];
        if let Some(not) = both.into_iter().find(|finding| finding.status == ConditionStatus::False) {
            return Self::new(ConditionStatus::False, &not.reason, not.message.clone());
        }
        if both.into_iter().all(|finding| finding.status == ConditionStatus::True) {
            return Self::new(ConditionStatus::True, READY, "the exporter does what the spec says");
        }
        Self::pending("not all is known yet, see Accepted and MonitorReady")
    }
}

impl Facts<'_> {
    fn accepted(&self) -> Option<Finding> {
        Some(match self.accepted? {
            Ok(()) => Finding::new(ConditionStatus::True, ACCEPTED, "the target can be polled as it is declared"),
            Err(problem) => Finding::new(ConditionStatus::False, problem.reason, problem.message.as_str()),
        })
    }

    fn monitor(&self) -> Option<Finding> {
        let state = self.monitor?;
        let mut message = state.message.as_str();
        // A webhook may put an id of the request into its words: the first ones stand for all.
        if state.is_quoted() {
            message = self.said_before(MONITOR_READY, state.status, state.reason).unwrap_or(message);
        }
        Some(Finding::new(state.status, state.reason, message))
    }

    fn up(&self) -> Option<Finding> {
        if self.suspended {
            return Some(Finding::new(ConditionStatus::Unknown, SUSPENDED, "spec.suspend is true"));
        }
        if let Some(Err(problem)) = self.accepted {
            return Some(Finding::new(ConditionStatus::Unknown, CONFIG, problem.message.as_str()));
        }
        let poll = self.poll?;
        let status = match poll.state {
            State::Up => ConditionStatus::True,
            State::Down => ConditionStatus::False,
            State::Pending => return None,
            State::Invalid if self.accepted.is_none() => return None, // for a reason that may end in a moment
            State::Suspended | State::Invalid => ConditionStatus::Unknown,
        };
        let (reason, message) = poll
            .failure
            .as_ref()
            .map_or(("Succeeded", "the last poll succeeded"), |failure| (failure.reason.condition(), &failure.message));
        // Such a message has times and sizes in it that differ from poll to poll: the first one stands for all.
        let message = self.said_before(UP, status, reason).unwrap_or(message);
        Some(Finding::new(status, reason, message))
    }

    fn scraped(&self) -> Option<Finding> {
        let Some(scrapes) = self.scrapes else {
            return Some(Finding::new(ConditionStatus::Unknown, CONFIG, "the spec is not understood, see Accepted"));
        };
        if self.suspended {
            return Some(Finding::new(ConditionStatus::Unknown, SUSPENDED, "spec.suspend is true"));
        }
        let patience = scrapes.interval.saturating_mul(PATIENCE);
        if scrapes.last.is_some_and(|last| last <= patience) {
            return Some(Finding::new(ConditionStatus::True, SCRAPED, "scrapes come"));
        }
        if scrapes.watched_for <= patience {
            return None;
        }
        let before =
            |condition: &Condition| condition.status == ConditionStatus::True || condition.reason == NOT_SCRAPED;
        let ever = scrapes.last.is_some() || find(self.observed, SCRAPED).is_some_and(before);
        let (reason, since) = if ever { (NOT_SCRAPED, "any more") } else { ("NeverScraped", "yet") };
        let advice = self.advice(&scrapes);
        let patience = crate::crd::Duration::from(patience);
        let message = format!("no Prometheus scrapes it {since}, at least not within {patience}: {advice}");
        Some(Finding::new(ConditionStatus::False, reason, message))
    }

    /// What the user can look at where no scrape comes.
    fn advice(&self, scrapes: &Scrapes) -> &'static str {
        match scrapes.mode {
            DiscoveryMode::ServiceMonitor if !scrapes.monitor => {
                "spec.monitor.enabled is false, so a scrape configuration of your own must ask for it at /probe"
            }
            DiscoveryMode::ServiceMonitor
                if self.monitor.is_some_and(|monitor| monitor.status == ConditionStatus::False) =>
            {
                "its ServiceMonitor is not as it should be, see MonitorReady"
            }
            DiscoveryMode::ServiceMonitor => {
                "compare the labels of its ServiceMonitor with serviceMonitorSelector of the Prometheus object, those of \
                 its namespace with serviceMonitorNamespaceSelector, and see whether Prometheus can reach the exporter"
            }
            DiscoveryMode::HttpSd => {
                "see whether the Prometheus object selects the ScrapeConfig of the exporter by scrapeConfigSelector and \
                 scrapeConfigNamespaceSelector, or reads /sd in another way, and can reach the exporter"
            }
            DiscoveryMode::None => "discovery is off, so a scrape configuration of your own must ask for it at /probe",
        }
    }

    /// The sentence with which the cluster says the same already.
    fn said_before(&self, kind: &str, status: ConditionStatus, reason: &str) -> Option<&str> {
        let observed = find(self.observed, kind)?;
        let generation = observed.observed_generation == Some(self.generation);
        (generation && observed.status == status && observed.reason == reason).then_some(observed.message.as_str())
    }

    /// What the cluster says of this generation. Of another it is worth nothing.
    fn kept(&self, kind: &str) -> Option<Finding> {
        let observed = find(self.observed, kind)?;
        // That nothing could be told is worth nothing either, once the cause may be gone.
        let told = observed.status != ConditionStatus::Unknown || self.accepted.is_none();
        let same = observed.observed_generation == Some(self.generation);
        (told && same).then(|| Finding::of(observed))
    }

    /// Scrapes do not ask for the generation.
    fn kept_scraped(&self) -> Option<Finding> {
        let told = |observed: &&Condition| observed.status != ConditionStatus::Unknown;
        find(self.observed, SCRAPED).filter(told).map(Finding::of)
    }

    fn condition(&self, kind: &str, finding: Finding) -> Condition {
        let Finding { status, reason, message } = finding;
        let since = find(self.observed, kind).filter(|observed| observed.status == status);
        Condition {
            kind: kind.to_owned(),
            status,
            observed_generation: Some(self.generation),
            last_transition_time: since
                .map_or_else(|| rfc3339(self.now), |observed| observed.last_transition_time.clone()),
            reason,
            message: bounded(message),
        }
    }
}

fn bounded(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
        message.truncate(end);
    }
    message
}

/// In whole seconds, as `metav1.Time` has it.
fn rfc3339(at: SystemTime) -> String {
    // A clock outside jiff's nine thousand years is no clock.
    let at = Timestamp::try_from(at).unwrap_or_default().to_zoned(TimeZone::UTC);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
