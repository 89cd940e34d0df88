//! The polls of the members of one target. A round polls all of them at once, each with a task and a timeout of its own; a member that
//! appears between two rounds is polled at once, and the series of one that is gone are left out of the answer at once.
//!
//! It does not decide when a round is due, nor where members come from.

use std::collections::{BTreeMap, HashSet};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::task::{self, AbortHandle, JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::PollContext;
use super::admission::Admission;
use super::blocking::{WorkError, run_blocking};
use super::compose::{Composition, MemberTotals, RoundTime};
use super::member::{MemberJob, MemberProcess, MemberResult};
use super::members::{MemberPoll, MemberReport, MemberReports, MemberState, UnlistedMembers};
use super::poller::Poller;
use super::prepare::PreparedTarget;
use super::render;
use super::snapshot::{Failure, Snapshot};
use super::translate::TranslationLimits;
use crate::kind::{Call, CallError, Reason};
use crate::metric::Format;
use crate::target::{Member, MemberSource, Target, TargetMembers};
use crate::tls::Expiry;

/// Polls of members begin at least this far apart, so that a target with many members does not keep other targets waiting; but all of them
/// within [`Target::spread`].
const GAP: Duration = Duration::from_millis(2);

/// How long after a change of the members the answer is put together anew, since several often change together.
const COLLECT_CHANGES: Duration = Duration::from_millis(100);

/// The least time between two answers that are put together because of changes.
const MIN_COMPOSE_INTERVAL: Duration = Duration::from_millis(500);

/// Answers up to this size are put together on the thread of polls: some milliseconds.
const MAX_INLINE_BYTES: usize = 256 << 10;

/// Members that are not polled and are listed all the same; more are only counted.
const MAX_OTHERS: usize = 100;

/// After this time, the series of members that have answered are compressed while they wait for the others.
pub(super) const SLOW_ROUND: Duration = Duration::from_secs(1);

/// How many bytes are compressed before other polls get a turn: a millisecond or two.
const COMPRESS_BATCH: usize = 128 << 10;

/// How long addresses are used at least before the name is resolved again.
const MIN_RESOLVE_INTERVAL: Duration = Duration::from_secs(10);

/// A round that begins this much early after the last resolution resolves the name all the same.
const EARLY: Duration = Duration::from_millis(500);

/// For so many rounds, the addresses that are known are used while the name cannot be resolved.
const ROUNDS_WITHOUT_DNS: u32 = 3;

/// The members of a target, their newest results, and the polls of them that are under way.
pub(super) struct MemberPolls {
    context: Arc<PollContext>,
    admission: Arc<Admission>,
    /// The members that are polled, by name.
    polled: BTreeMap<Arc<str>, PolledMember>,
    /// Others, by name, and why they are not polled.
    others: Vec<(Member, MemberState)>,
    /// How many more there are.
    unlisted: UnlistedMembers,
    tasks: JoinSet<EndedPoll>,
    /// What was sent last.
    calls: Arc<[Call]>,
    /// How many polls were begun.
    begun: u64,
    /// How many polls may begin before the next round. Whoever renames pods without end must not cause polls without end.
    extra_polls: usize,
    /// The number of the last poll that belongs to the round under way. Those of members that appear later do not: it ends without them.
    last_of_round: u64,
    names: ResolvedMembers,
    /// What the results are about.
    target: Option<Arc<Target>>,
    /// The last round that has ended.
    round: Option<RoundTime>,
    /// When the answer must be put together anew.
    compose_at: Option<Instant>,
    composed: Option<Instant>,
}

/// A poll that has ended: the member's name, the number of the poll, and its result.
type EndedPoll = (Arc<str>, u64, MemberResult);

/// A member that is polled.
struct PolledMember {
    member: Member,
    process: Arc<Mutex<MemberProcess>>,
    /// The poll under way, by its number.
    running: Option<(u64, AbortHandle)>,
    result: Option<MemberResult>,
}

/// The addresses of a host, as they were last resolved.
#[derive(Default)]
struct ResolvedMembers {
    members: Arc<[Member]>,
    /// The lookup under way, if there is one.
    lookup: JoinSet<Result<Arc<[SocketAddr]>, CallError>>,
    /// When the last lookup began.
    begun: Option<Instant>,
    failures: u32,
    error: Option<CallError>,
}

/// What has happened to the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberEvent {
    /// A poll has ended.
    Polled,
    /// The addresses of the host are known anew: there may be new members to poll.
    Resolved,
    /// The answer must be put together anew.
    Changed,
}

impl MemberPolls {
    pub(super) fn new(context: Arc<PollContext>, admission: Arc<Admission>) -> Self {
        Self {
            context,
            admission,
            polled: BTreeMap::new(),
            others: Vec::new(),
            unlisted: UnlistedMembers::new(),
            tasks: JoinSet::new(),
            calls: Arc::default(),
            begun: 0,
            extra_polls: 0,
            last_of_round: 0,
            names: ResolvedMembers::default(),
            target: None,
            round: None,
            compose_at: None,
            composed: None,
        }
    }

    /// Begins a round. If the members are the addresses of a host, that is resolved first. While addresses are known, slow name servers do
    /// not keep them from being polled in time.
    pub(super) async fn begin_round(
        &mut self,
        target: &Arc<Target>,
        prepared: &Arc<PreparedTarget>,
        calls: &Arc<[Call]>,
        started: Instant,
    ) {
        self.set_target(target);
        if let Some(members) = target.members.as_ref().filter(|members| members.source == MemberSource::Dns) {
            self.names.begin_lookup(prepared, target, started);
            if self.names.wait(started + target.spread).await {
                self.set_members(members);
            }
        }
        let names: Vec<Arc<str>> =
            self.polled.iter().filter(|(_, member)| !member.is_running()).map(|(name, _)| Arc::clone(name)).collect();
        self.begin_polls(names, target, prepared, calls);
        self.last_of_round = self.begun;
        self.extra_polls = target.members.as_ref().map_or(0, |members| members.limit);
    }

    /// Follows a change of the target's members: forgets those that are gone, and polls those that are new, if `calls` are known. Before the
    /// first round has begun, that is left to it.
    pub(super) fn follow(&mut self, target: &Arc<Target>, prepared: &Arc<PreparedTarget>, calls: Option<&Arc<[Call]>>) {
        self.set_target(target);
        let Some(calls) = calls.filter(|_| self.round.is_some() || self.is_round_running()) else { return };
        let is_new = |member: &PolledMember| !member.is_running() && member.result.is_none();
        let new = self.polled.iter().filter(|(_, member)| is_new(member)).map(|(name, _)| Arc::clone(name));
        let names: Vec<Arc<str>> = new.take(self.extra_polls).collect();
        self.extra_polls -= names.len();
        self.begin_polls(names, target, prepared, calls);
    }

    /// Whether a poll of the round is under way.
    pub(super) fn is_round_running(&self) -> bool {
        let last = self.last_of_round;
        self.polled.values().any(|member| member.running.as_ref().is_some_and(|(number, _)| *number <= last))
    }

    /// Waits until something happens to the members; for ever, if there is nothing to wait for.
    pub(super) async fn event(&mut self) -> MemberEvent {
        let compose_at = self.compose_at;
        let changed = async {
            match compose_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => {
                self.end_poll(ended);
                MemberEvent::Polled
            }
            () = self.names.ended() => {
                if let Some(members) = self.target.as_ref().and_then(|target| target.members.clone()) {
                    self.set_members(&members);
                }
                MemberEvent::Resolved
            }
            () = changed => MemberEvent::Changed,
        }
    }

    /// Ends a round that began at `started`, and puts its answer together.
    pub(super) async fn end_round(&mut self, poller: &Poller, target: &Target, started: Instant) -> Snapshot {
        self.round = Some(RoundTime { started, ended: Instant::now(), ended_at: SystemTime::now() });
        match self.compose(poller, target).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => render::unpolled(Reason::Internal, "a round without a result: please report this"),
            Err(error) => {
                let message = match error {
                    WorkError::NoPermit | WorkError::TimedOut => {
                        "the members have answered, but the answer could not be put together before the timeout"
                    }
                    WorkError::Aborted => "the answer could not be put together: please report this",
                };
                render::unpolled(error.reason(), message)
            }
        }
    }

    /// The answer with the members as they are now; `None` before the end of the first round, and if there was no time for it: then the last
    /// answer stays, and it is tried again.
    pub(super) async fn recompose(&mut self, poller: &Poller, target: &Target) -> Option<Snapshot> {
        match self.compose(poller, target).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::debug!(target = %target.id, ?error, "the answer was not put together anew");
                self.schedule_composition();
                None
            }
        }
    }

    /// Compresses what waits, if a round that began at `started` takes long. It is looked at whenever a member has answered.
    pub(super) async fn compress_if_slow(&mut self, started: Instant) {
        if started.elapsed() < SLOW_ROUND {
            return;
        }
        let mut bytes = 0;
        for text in self.polled.values_mut().filter_map(|member| member.result.as_mut()?.text.as_mut()) {
            bytes += text.compress();
            if bytes >= COMPRESS_BATCH {
                bytes = 0;
                yield_now().await;
            }
        }
    }

    /// Puts the answer together; `None` before the end of the first round. It must run to its end, since it takes the series that are not in
    /// an answer yet. If it fails they are lost, and their members are as if they were not polled yet.
    async fn compose(&mut self, poller: &Poller, target: &Target) -> Result<Option<Snapshot>, WorkError> {
        self.compose_at = None;
        self.composed = Some(Instant::now());
        let Some(round) = self.round else { return Ok(None) };
        let base = poller.newest().filter(|newest| newest.members.is_some());
        let (composition, names) = self.composition(round, base, poller.format());
        if composition.bytes() <= MAX_INLINE_BYTES {
            return Ok(Some(composition.snapshot()));
        }
        let deadline = Instant::now() + target.timeout;
        let composed = async {
            let permit = self.context.large_answers.acquire(target, deadline).await?;
            run_blocking(permit, deadline, move |_| composition.snapshot()).await
        };
        let composed = composed.await;
        if composed.is_err() {
            for name in names {
                if let Some(member) = self.polled.get_mut(&name) {
                    member.result = None;
                }
            }
        }
        composed.map(Some)
    }

    /// Takes the series that are not in an answer yet, and says whose they are.
    fn composition(
        &mut self,
        round: RoundTime,
        base: Option<Arc<Snapshot>>,
        format: Format,
    ) -> (Composition, Vec<Arc<str>>) {
        let (mut texts, mut names) = (Vec::new(), Vec::new());
        let (mut taken, mut totals) = (HashSet::new(), MemberTotals::default());
        let mut certificate_expiry: Option<Expiry> = None;
        for (name, member) in &mut self.polled {
            let Some(result) = &mut member.result else { continue };
            match result.text.take() {
                Some(text) => {
                    texts.push(text);
                    names.push(Arc::clone(name));
                }
                None if result.samples > 0 && base.is_none() => {
                    member.result = None; // its series are in an answer that is not valid any more
                    continue;
                }
                None if result.samples > 0 => _ = taken.insert(Arc::clone(name)),
                None => {}
            }
            totals.add(result);
            certificate_expiry = earliest(certificate_expiry, result.certificate_expiry);
        }
        let mut members: Vec<MemberReport> = self.polled.values().map(PolledMember::report).collect();
        members.extend(self.others.iter().map(|(member, state)| MemberReport {
            member: member.clone(),
            state: *state,
            failure: None,
            poll: None,
        }));
        members.sort_by(|a, b| a.member.name.cmp(&b.member.name));
        let base = base.filter(|_| !taken.is_empty()).map(|base| (base, taken));
        let failure = self.names.failure();
        let has_pending = self.polled.values().any(|member| member.result.is_none());
        let composition = Composition {
            round,
            base,
            texts,
            members: MemberReports::new(members, self.unlisted.clone()),
            has_pending,
            failure,
            certificate_expiry,
            totals,
            requests: Arc::clone(&self.calls),
            format,
        };
        (composition, names)
    }

    /// Replaces the target. If another one gives other data, all results are forgotten, and polls that are under way are stopped.
    fn set_target(&mut self, target: &Arc<Target>) {
        let before = self.target.replace(Arc::clone(target));
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, target)) {
            return; // the usual case
        }
        if before.is_some_and(|before| !before.gives_same_data(target)) {
            self.round = None;
            self.names = ResolvedMembers::default(); // of another host, or at another port
            for member in self.polled.values_mut() {
                member.forget();
            }
        }
        if let Some(members) = &target.members {
            self.set_members(members);
        }
    }

    /// Replaces the members. A process that stays keeps its results and the memory of its counters.
    fn set_members(&mut self, declared: &TargetMembers) {
        let all = match &declared.source {
            MemberSource::Dns => Arc::clone(&self.names.members),
            MemberSource::Service { endpoints, .. } => Arc::clone(endpoints),
        };
        let mut before = std::mem::take(&mut self.polled);
        let mut others = Vec::new();
        let mut unlisted = UnlistedMembers::new();
        let mut has_changed = false;
        for member in all.iter() {
            let name = Arc::clone(&member.name);
            if member.is_included(declared.include) && self.polled.len() < declared.limit {
                let known = before.remove(&name);
                has_changed |= known.as_ref().is_none_or(|known| !known.member.is_shown_like(member));
                self.polled.insert(name, PolledMember::new(member, known));
            } else {
                let state = if member.terminating {
                    MemberState::Terminating
                } else if member.is_included(declared.include) {
                    MemberState::OverLimit
                } else {
                    MemberState::NotReady
                };
                if others.len() < MAX_OTHERS {
                    others.push((member.clone(), state));
                } else {
                    *unlisted.entry(state).or_default() += 1;
                }
            }
        }
        let shown = |others: &[(Member, MemberState)]| -> Vec<(Arc<str>, MemberState)> {
            others.iter().map(|(member, state)| (Arc::clone(&member.name), *state)).collect()
        };
        has_changed |= !before.is_empty() || shown(&others) != shown(&self.others) || unlisted != self.unlisted;
        (self.others, self.unlisted) = (others, unlisted);
        before.into_values().for_each(PolledMember::stop);
        if has_changed {
            self.schedule_composition();
        }
    }

    fn schedule_composition(&mut self) {
        let soon = Instant::now() + COLLECT_CHANGES;
        let earliest = self.composed.map_or(soon, |composed| soon.max(composed + MIN_COMPOSE_INTERVAL));
        self.compose_at.get_or_insert(earliest);
    }

    fn begin_polls(
        &mut self,
        names: Vec<Arc<str>>,
        target: &Arc<Target>,
        prepared: &Arc<PreparedTarget>,
        calls: &Arc<[Call]>,
    ) {
        let Some(members) = &target.members else { return };
        self.calls = Arc::clone(calls);
        let spread = target.spread;
        let gap = GAP.min(spread / u32::try_from(names.len().max(1)).unwrap_or(u32::MAX));
        let limits = TranslationLimits::of_member(target, members, self.polled.len());
        let service = match &members.source {
            MemberSource::Dns => None,
            MemberSource::Service { host, .. } => Some(Arc::clone(host)),
        };
        let mut due = Instant::now();
        for name in names {
            let Some(polled) = self.polled.get_mut(&name) else { continue };
            let job = MemberJob {
                context: Arc::clone(&self.context),
                admission: Arc::clone(&self.admission),
                target: Arc::clone(target),
                prepared: Arc::clone(prepared),
                calls: Arc::clone(calls),
                member: polled.member.clone(),
                service: service.clone(),
                limits,
                due,
                timeout: target.timeout.min(target.interval.saturating_sub(spread)),
            };
            due += gap;
            self.begun += 1;
            let (number, process) = (self.begun, Arc::clone(&polled.process));
            let task = self.tasks.spawn(async move {
                let mut process = process.lock_owned().await;
                let result = job.run(&mut process).await;
                (name, number, result)
            });
            polled.running = Some((number, task));
        }
    }

    fn end_poll(&mut self, ended: Result<(task::Id, EndedPoll), JoinError>) {
        let (name, number, result) = match ended {
            Ok((_, ended)) => ended,
            // The process is gone.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                let panicked = self.polled.iter().find_map(|(name, member)| {
                    let (number, task) = member.running.as_ref()?;
                    (task.id() == error.id()).then(|| (Arc::clone(name), *number))
                });
                let Some((name, number)) = panicked else { return };
                (name, number, MemberResult::unsent(Reason::Internal, "the poll was aborted: please report this"))
            }
        };
        let Some(polled) = self.polled.get_mut(&name) else { return };
        if polled.running.as_ref().is_none_or(|(running, _)| *running != number) {
            return; // a poll of a process that is gone
        }
        polled.running = None;
        let is_first = polled.result.replace(result).is_none();
        // The answer of a round is put together at its end.
        if is_first && number > self.last_of_round {
            self.schedule_composition();
        }
    }
}

impl PolledMember {
    /// `known` is what was known under the same name.
    fn new(member: &Member, known: Option<Self>) -> Self {
        let fresh = || Self { member: member.clone(), process: Arc::default(), running: None, result: None };
        match known {
            None => fresh(),
            Some(known) if known.member.uid != member.uid => {
                known.stop();
                fresh()
            }
            // The process is the same, but what is at its old address may be another one.
            Some(mut known) if known.member.address != member.address => {
                known.forget();
                Self { member: member.clone(), ..known }
            }
            Some(known) => Self { member: member.clone(), ..known },
        }
    }

    /// Forgets its result, but not the memory of its counters.
    fn forget(&mut self) {
        self.result = None;
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }

    /// The process is gone.
    fn stop(mut self) {
        self.forget();
    }

    /// Whether a poll is under way.
    fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn report(&self) -> MemberReport {
        let failure = self.result.as_ref().and_then(|result| result.failure.clone());
        let state = match &self.result {
            _ if self.member.terminating => MemberState::Terminating,
            None => MemberState::Pending,
            Some(_) if failure.is_some() => MemberState::Down,
            Some(_) => MemberState::Up,
        };
        let poll = self.result.as_ref().map(|result| MemberPoll {
            ended_at: result.ended_at,
            duration: result.duration,
            samples: result.samples,
            calls: Arc::clone(&result.calls),
        });
        MemberReport { member: self.member.clone(), state, failure, poll }
    }
}

impl MemberTotals {
    fn add(&mut self, result: &MemberResult) {
        self.samples += result.samples;
        self.dropped += result.dropped;
        self.skipped += result.skipped;
        self.withheld += result.withheld;
    }
}

impl ResolvedMembers {
    /// Begins to resolve the name of the target's host, unless that was done a moment ago or is under way.
    fn begin_lookup(&mut self, prepared: &Arc<PreparedTarget>, target: &Target, started: Instant) {
        let fresh = MIN_RESOLVE_INTERVAL.max(target.interval).saturating_sub(EARLY);
        let is_fresh = self.begun.is_some_and(|begun| started.duration_since(begun) < fresh);
        if (is_fresh && self.error.is_none()) || !self.lookup.is_empty() {
            return;
        }
        self.begun = Some(started);
        let (prepared, deadline) = (Arc::clone(prepared), started + target.timeout);
        self.lookup.spawn(async move {
            let found = timeout_at(deadline, prepared.client.host_addresses()).await;
            found.unwrap_or_else(|_| Err(CallError::new(Reason::Dns, "the name servers did not answer in time")))
        });
    }

    /// Waits for the lookup under way, if there is one: until `deadline`, or to its end while no address is known. Returns whether it has
    /// ended.
    async fn wait(&mut self, deadline: Instant) -> bool {
        if self.lookup.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            self.ended().await; // it has a deadline of its own
            return true;
        }
        timeout_at(deadline, self.ended()).await.is_ok()
    }

    /// Waits until the lookup under way has ended, and takes its result; for ever, if there is none.
    async fn ended(&mut self) {
        let Some(found) = self.lookup.join_next().await else { return pending().await };
        match found
            .unwrap_or_else(|_| Err(CallError::new(Reason::Internal, "the lookup was aborted: please report this")))
        {
            Ok(addresses) => {
                let mut members: Vec<Member> = addresses.iter().map(|address| Member::at(*address)).collect();
                members.sort_by(|a, b| a.name.cmp(&b.name));
                (self.members, self.failures, self.error) = (members.into(), 0, None);
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                tracing::debug!(failures = self.failures, error = %error, "the host of a target with members was not resolved");
                self.error = Some(error);
                if self.failures > ROUNDS_WITHOUT_DNS {
                    self.members = Arc::default();
                }
            }
        }
    }

    /// Why there are no members, if the name could not be resolved.
    fn failure(&self) -> Option<Failure> {
        let error = self.error.as_ref().filter(|_| self.members.is_empty())?;
        Some(Failure { reason: error.reason, message: render::bounded(&error.message).into() })
    }
}

/// The certificate of either that expires first.
fn earliest(one: Option<Expiry>, other: Option<Expiry>) -> Option<Expiry> {
    let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
    let last_chain = [a.last_chain, b.last_chain].into_iter().flatten().min();
    Some(Expiry { earliest: a.earliest.min(b.earliest), last_chain })
}
