//! The members of a target as the last round left them, for answers and pages.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::snapshot::{CallRecord, Failure};
use crate::target::Member;

/// The state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Its last poll succeeded.
    Up,
    /// Its last poll failed.
    Down,
    /// Its pod is being deleted. It is polled as long as `include` says so, and is never down.
    Terminating,
    /// It is not polled, since it does not have the readiness that `include` asks for.
    NotReady,
    /// It is not polled, since there are more than `limit`.
    OverLimit,
    /// It was not polled yet.
    Pending,
}

impl MemberState {
    /// The states that `probe_members` counts.
    pub const COUNTED: &[Self] = &[Self::Up, Self::Down, Self::Terminating, Self::NotReady, Self::OverLimit];

    /// The value of the label `state`, and the name on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Terminating => "terminating",
            Self::NotReady => "not_ready",
            Self::OverLimit => "over_limit",
            Self::Pending => "pending",
        }
    }
}

/// The members of a target: every one that is polled and the first of the others, in the order of their names. All others are only counted,
/// since a Service may have thousands of endpoints, and many targets.
#[derive(Clone, Debug, Default)]
pub struct MemberReports {
    list: Box<[MemberReport]>,
    unlisted: UnlistedMembers,
}

/// Members that are not polled, by state.
pub(crate) type UnlistedMembers = BTreeMap<MemberState, usize>;

impl MemberReports {
    pub(crate) fn new(list: Vec<MemberReport>, unlisted: UnlistedMembers) -> Self {
        Self { list: list.into(), unlisted }
    }

    /// How many are in this state, listed or not.
    pub fn count(&self, state: MemberState) -> usize {
        let listed = self.list.iter().filter(|report| report.state == state).count();
        listed + self.unlisted.get(&state).copied().unwrap_or(0)
    }

    /// How many there are, and how many answer.
    pub fn counts(&self) -> MemberCounts {
        let answers = |report: &&MemberReport| report.poll.is_some() && report.failure.is_none();
        let found = self.list.len() + self.unlisted.values().sum::<usize>();
        MemberCounts { found, up: self.list.iter().filter(answers).count() }
    }
}

/// Those that are listed.
impl Deref for MemberReports {
    type Target = [MemberReport];

    fn deref(&self) -> &[MemberReport] {
        &self.list
    }
}

impl From<Vec<MemberReport>> for MemberReports {
    fn from(list: Vec<MemberReport>) -> Self {
        Self::new(list, UnlistedMembers::new())
    }
}

/// One member of a target.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// The process itself.
    pub member: Member,
    /// Its state.
    pub state: MemberState,
    /// Why its last poll failed, whatever the state.
    pub failure: Option<Failure>,
    /// Its last poll; `None`: there was none.
    pub poll: Option<MemberPoll>,
}

/// The last poll of a member.
#[derive(Clone, Debug)]
pub struct MemberPoll {
    /// When it ended.
    pub ended_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Series of the member.
    pub samples: usize,
    /// The calls, in order. What was sent is the same for all members, but for the address.
    pub calls: Arc<[CallRecord]>,
}

/// How many members a target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Members that were found, polled or not.
    pub found: usize,
    /// Members whose last poll succeeded, terminating ones included.
    pub up: usize,
}
