//! What a poller makes once of its target and keeps until that changes: the client, the calls, the translator.

use std::sync::Arc;

use super::Shared;
use crate::error_chain;
use crate::fetch::{Client, Redactor};
use crate::kind::{Call, Kind};
use crate::target::{Source, Target};

/// What is made once for a source and kept until it changes.
pub(super) struct Prepared {
    pub(super) source: Source,
    pub(super) client: Client,
    pub(super) redactor: Arc<Redactor>,
    /// None until the target's patterns have been compared with the families of its type.
    pub(super) calls: Option<Arc<[Call]>>,
    /// Away only while an answer is being translated elsewhere.
    pub(super) translator: Option<Box<dyn Kind>>,
    /// What its answers become turned out to be too much for the thread that read them.
    pub(super) is_large: bool,
    /// How often its answers had names that patterns had to be compared with.
    pub(super) comparisons: u8,
}

impl Prepared {
    /// Only what changed is made anew: a rotated Secret is no reason for a translator's counters to begin at 0 again.
    fn new(target: &Target, before: Option<Self>, client: Client) -> Self {
        let source = &target.source;
        let same_calls = |before: &Self| {
            let before = &before.source;
            before.kind == source.kind && before.url == source.url && before.options == source.options
        };
        let before = before.filter(same_calls);
        let is_large = before.as_ref().is_some_and(|before| before.is_large);
        let kept = before.and_then(|before| before.translator);
        let translator = kept.unwrap_or_else(|| source.options.build(source.kind, &source.url));
        let calls = source.filter.is_none().then(|| translator.calls(None).into());
        Self {
            source: source.clone(),
            client,
            redactor: Arc::new(Redactor::new(&source.headers)),
            calls,
            translator: Some(translator),
            is_large,
            comparisons: 0,
        }
    }

    /// The translator, a new one if the last poll did not bring it back: its counters begin at 0, as after a restart.
    pub(super) fn take_translator(&mut self) -> Box<dyn Kind> {
        let source = &self.source;
        self.translator.take().unwrap_or_else(|| source.options.build(source.kind, &source.url))
    }
}

/// What is prepared for `target`, made anew where its source has changed. Where it cannot be made, what was there stays: a rotated CA that
/// is no certificate is put right by the next one, and the counters go on.
pub(super) fn prepare<'p>(
    prepared: &'p mut Option<Prepared>,
    target: &Target,
    shared: &Shared,
) -> Result<&'p mut Prepared, String> {
    if prepared.as_ref().is_none_or(|prepared| prepared.source != target.source) {
        let source = &target.source;
        let client = shared.clients.client(&source.url, &source.connection, &target.id.namespace);
        let client = client.map_err(|error| error_chain::one_line(&error))?;
        let before = prepared.take();
        *prepared = Some(Prepared::new(target, before, client));
    }
    prepared.as_mut().ok_or_else(String::new)
}
