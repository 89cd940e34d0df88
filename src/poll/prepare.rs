//! What the polls of a target need, made once and kept until the target changes.

use std::sync::{Arc, OnceLock};

use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::PollContext;
use super::blocking::{WorkError, run_blocking};
use crate::dial::Dialer;
use crate::error_chain::one_line;
use crate::fetch::{Client, Redactor};
use crate::kind::{Call, Engine, Kind, Prober};
use crate::metric::{Filter, Stop};
use crate::target::{SecretValue, Source, Target};

/// What is made once for a target, and kept until its source changes.
pub(super) struct PreparedTarget {
    pub(super) source: Arc<Source>,
    pub(super) client: Client,
    pub(super) redactor: Arc<Redactor>,
    /// Makes a translator of the answers.
    pub(super) translators: Translators,
    /// Unset until the target's patterns have been compared with the families of its type.
    calls: OnceLock<Arc<[Call]>>,
}

/// Makes translators of one target's answers.
pub(super) type Translators = Arc<dyn Fn() -> Box<dyn Kind> + Send + Sync>;

/// What is made once for a target that is probed, and kept until its source changes.
pub(super) struct PreparedProbe {
    pub(super) source: Arc<Source>,
    pub(super) prober: Arc<dyn Prober>,
    pub(super) dialer: Dialer,
    pub(super) redactor: Arc<Redactor>,
    /// Set when the target's patterns have been compared with the families of its type.
    compared: OnceLock<()>,
}

/// What is made once for a target.
#[derive(Clone)]
pub(super) enum Prepared {
    /// It is polled with HTTP calls.
    Calls(Arc<PreparedTarget>),
    /// It is probed.
    Probe(Arc<PreparedProbe>),
}

impl Prepared {
    fn source(&self) -> &Source {
        match self {
            Self::Calls(prepared) => &prepared.source,
            Self::Probe(prepared) => &prepared.source,
        }
    }

    fn new(target: &Target, context: &PollContext) -> Result<Self, String> {
        match target.engine() {
            Some(Engine::Calls(translators)) => {
                PreparedTarget::new(target, translators, context).map(|prepared| Self::Calls(Arc::new(prepared)))
            }
            Some(Engine::Probe(prober)) => {
                PreparedProbe::new(target, prober, context).map(|prepared| Self::Probe(Arc::new(prepared)))
            }
            None => Err("the declaration of the target is not valid".to_owned()),
        }
    }
}

impl PreparedProbe {
    fn new(target: &Target, prober: &Arc<dyn Prober>, context: &PollContext) -> Result<Self, String> {
        let source = Arc::clone(&target.source);
        let dialer = context.clients.dialers().dialer(&source.connection, &target.id.namespace);
        let dialer = dialer.map_err(|error| one_line(&error))?;
        let of_proxy = source.proxy_authorization();
        let secrets = source.secrets.iter().flatten().map(SecretValue::expose);
        let secrets = secrets.chain(of_proxy.as_ref().map(HeaderValue::as_bytes));
        let written = source.options.confidential_texts(source.kind);
        let redactor = Arc::new(Redactor::of(&source.headers, secrets).hiding(&written));
        let compared = OnceLock::new();
        if source.filter.is_none() {
            let _ = compared.set(());
        }
        Ok(Self { source, prober: Arc::clone(prober), dialer, redactor, compared })
    }

    /// Compares the patterns of the target with all names of its type, once after each change, on a blocking thread.
    pub(super) async fn compare(
        &self,
        target: &Target,
        context: &PollContext,
        deadline: Instant,
    ) -> Result<(), WorkError> {
        if self.compared.get().is_none() {
            compare(&self.source, target, context, deadline, |_| ()).await?;
            let _ = self.compared.set(());
        }
        Ok(())
    }
}

/// Compares the patterns of the target with all names of its type on a blocking thread, and calls `then` with the filter there.
async fn compare<T: Send + 'static>(
    source: &Source,
    target: &Target,
    context: &PollContext,
    deadline: Instant,
    then: impl FnOnce(&Filter) -> T + Send + 'static,
) -> Result<T, WorkError> {
    let (filter, kind) = (source.filter.clone(), source.kind);
    let work = move |stop: Stop| {
        let filter = filter.as_deref()?;
        let _compiled = filter.compiled(); // once for all names
        for desc in kind.families() {
            filter.wants(desc.name);
            if stop.is_set() {
                return None;
            }
        }
        Some(then(filter))
    };
    let permit = context.small_answers.acquire(target, deadline).await?;
    run_blocking(permit, deadline, work).await?.ok_or(WorkError::TimedOut)
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
    pub(super) fn take(&mut self, prepared: &PreparedTarget) -> Box<dyn Kind> {
        self.kind.take().unwrap_or_else(|| (prepared.translators)())
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
    fn new(target: &Target, translators: &Translators, context: &PollContext) -> Result<Self, String> {
        let source = Arc::clone(&target.source);
        let client = context.clients.client(&source.url, &source.connection, &target.id.namespace);
        let client = client.map_err(|error| one_line(&error))?;
        let of_proxy = source.proxy_authorization();
        let of_proxy = of_proxy.as_ref().map(HeaderValue::as_bytes);
        let redactor = Arc::new(Redactor::of(&source.headers, of_proxy.into_iter()));
        let calls = OnceLock::new();
        if source.filter.is_none() {
            let _ = calls.set(translators().calls(None).into());
        }
        Ok(Self { source, client, redactor, translators: Arc::clone(translators), calls })
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
        let translators = Arc::clone(&self.translators);
        let work = move |filter: &Filter| Arc::<[Call]>::from(translators().calls(Some(filter)));
        let calls = compare(&self.source, target, context, deadline, work).await?;
        Ok(Arc::clone(self.calls.get_or_init(|| calls)))
    }
}

/// Prepares `target`, if its source has changed. If that fails, the old preparation is kept: a rotated CA that is no certificate will be
/// replaced by another one, and then the counters go on.
pub(super) fn prepare(
    prepared: &mut Option<Prepared>,
    target: &Target,
    context: &PollContext,
) -> Result<Prepared, String> {
    if let Some(prepared) = prepared.as_ref().filter(|prepared| *prepared.source() == *target.source) {
        return Ok(prepared.clone());
    }
    let new = Prepared::new(target, context)?;
    *prepared = Some(new.clone());
    Ok(new)
}
