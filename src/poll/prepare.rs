//! What the polls of a target need, made once and kept until the target changes.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::PollContext;
use super::blocking::{WorkError, run_blocking};
use crate::error_chain::one_line;
use crate::fetch::{Client, Redactor};
use crate::kind::{Call, Kind};
use crate::metric::Stop;
use crate::target::{Source, Target};

/// What is made once for a target, and kept until its source changes.
pub(super) struct PreparedTarget {
    pub(super) source: Source,
    pub(super) client: Client,
    pub(super) redactor: Arc<Redactor>,
    /// Unset until the target's patterns have been compared with the families of its type.
    calls: OnceLock<Arc<[Call]>>,
}

/// The translator of one server, and what its answers were like.
#[derive(Default)]
pub(super) struct Translator {
    /// `None` at first, while an answer is being translated on a blocking thread, and after a poll that lost it.
    pub(super) kind: Option<Box<dyn Kind>>,
    /// Its expositions are too large to be made on a thread of polls.
    pub(super) is_large: bool,
    /// How often its answers had new names, which patterns had to be compared with.
    pub(super) comparisons: u8,
    /// What it was last used with.
    prepared: Option<Arc<PreparedTarget>>,
}

impl Translator {
    /// Takes the translator, or a new one if there is none. The counters of a new one begin at 0, as after a restart.
    pub(super) fn take(&mut self, source: &Source) -> Box<dyn Kind> {
        self.kind.take().unwrap_or_else(|| source.options.build(source.kind, &source.url))
    }

    /// Prepares it for the answers of another poll. Only what has changed is made anew: a rotated Secret must not reset its counters.
    pub(super) fn use_with(&mut self, prepared: &Arc<PreparedTarget>) {
        let Some(before) = self.prepared.replace(Arc::clone(prepared)) else { return };
        if Arc::ptr_eq(&before, prepared) {
            return;
        }
        self.comparisons = 0;
        let (before, source) = (&before.source, &prepared.source);
        if before.kind != source.kind || before.url != source.url || before.options != source.options {
            (self.kind, self.is_large) = (None, false);
        }
    }
}

impl PreparedTarget {
    fn new(target: &Target, context: &PollContext) -> Result<Self, String> {
        let source = target.source.clone();
        let client = context.clients.client(&source.url, &source.connection, &target.id.namespace);
        let client = client.map_err(|error| one_line(&error))?;
        let redactor = Arc::new(Redactor::new(&source.headers));
        let calls = OnceLock::new();
        if source.filter.is_none() {
            let _ = calls.set(source.options.build(source.kind, &source.url).calls(None).into());
        }
        Ok(Self { source, client, redactor, calls })
    }

    /// The calls of a poll, if they are known already.
    pub(super) fn known_calls(&self) -> Option<&Arc<[Call]>> {
        self.calls.get()
    }

    /// The calls of a poll. Once after each change the patterns of the target are compared with all names of its type, on a blocking thread.
    pub(super) async fn calls(
        &self,
        target: &Target,
        context: &PollContext,
        deadline: Instant,
    ) -> Result<Arc<[Call]>, WorkError> {
        if let Some(calls) = self.calls.get() {
            return Ok(Arc::clone(calls));
        }
        let source = self.source.clone();
        let work = move |stop: Stop| {
            let filter = source.filter.as_deref()?;
            let _compiled = filter.compiled(); // once for all names
            for desc in source.kind.families() {
                filter.wants(desc.name);
                if stop.is_set() {
                    return None;
                }
            }
            Some(source.options.build(source.kind, &source.url).calls(Some(filter)).into())
        };
        let permit = context.small_answers.acquire(target, deadline).await?;
        let calls: Arc<[Call]> = run_blocking(permit, deadline, work).await?.ok_or(WorkError::TimedOut)?;
        Ok(Arc::clone(self.calls.get_or_init(|| calls)))
    }
}

/// Prepares `target`, if its source has changed. If that fails, the old preparation is kept: a rotated CA that is no certificate will be
/// replaced by another one, and then the counters go on.
pub(super) fn prepare(
    prepared: &mut Option<Arc<PreparedTarget>>,
    target: &Target,
    context: &PollContext,
) -> Result<Arc<PreparedTarget>, String> {
    if let Some(prepared) = prepared.as_ref().filter(|prepared| prepared.source == target.source) {
        return Ok(Arc::clone(prepared));
    }
    let new = Arc::new(PreparedTarget::new(target, context)?);
    *prepared = Some(Arc::clone(&new));
    Ok(new)
}
