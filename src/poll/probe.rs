//! One probe: gives the prober of a target what it needs, ends it at the deadline, and makes its result a snapshot.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::PollContext;
use super::authorized::PollCredentials;
use super::blocking::{WorkError, run_blocking};
use super::prepare::PreparedProbe;
use super::render::{self, Polled};
use super::snapshot::{CallRecord, ProbeReport, Snapshot};
use super::translate::{MAX_INLINE_EXPOSITION, SampleLimit};
use crate::budget::eviction_error;
use crate::failure::{CallError, Reason};
use crate::fetch::Credentials as _;
use crate::kind::{ComparisonWork, Compute, HeavyWork, Probe, Recorder};
use crate::metric::{Allowance, Families, Format, Stop};
use crate::target::{SecretValue, Target};

/// Probes a target.
pub(super) async fn probe(
    target: &Target,
    prepared: &PreparedProbe,
    context: &Arc<PollContext>,
    started: Instant,
    format: Format,
) -> Snapshot {
    let source = &prepared.source;
    let probing = Probing { target, prepared, context, started };
    let mut credentials = prepared.credentials.begin(context, target.interval);
    let (outcome, mut record) = probing.run(&mut credentials).await;
    let redactor = credentials.redactor();
    let ended = Instant::now();
    let error = outcome.err().map(|error| match error.message.as_str() {
        "" => CallError::new(error.reason, not_in_time(&record)),
        _ => error,
    });
    let error = error.map(|error| CallError::new(error.reason, redactor.sentence(&error.message)));
    let pause = error.as_ref().map_or(Duration::ZERO, |error| prepared.prober.pause_after(error.reason));
    let error = error.map(|error| if pause.is_zero() { error } else { with_pause(&error, pause) });
    match &error {
        Some(error) => record.event(format!("failed: {}: {}", error.reason.as_str(), error.message)),
        None => record.event("succeeded"),
    }
    let allowance = Allowance { bytes: MAX_INLINE_EXPOSITION, compares: true, stop: Stop::default() };
    let mut families = Families::within(allowance, source.filter.clone());
    record.write(&mut families);
    let mut families = families.finish();
    families.withhold(|text| redactor.is_in(text));
    let call = prepared.prober.call();
    let mut failure = error.as_ref().map(|error| render::failure(error, call));
    let families = SampleLimit::of(target).enforce(families, &mut failure);
    let body = record.body_beginning().filter(|_| error.is_some() && context.shows_bodies());
    let beginning = body.map(|body| redactor.beginning_of(&body.bytes, body.is_cut).into());
    let mut calls = vec![CallRecord {
        call,
        duration: ended.duration_since(started),
        status: record.http_status(),
        bytes: record.bytes(),
        error: error.map(|error| error.message.into()),
        beginning,
    }];
    calls.extend(credentials.take_record());
    let certificate_expiry = record.expiry();
    let report = ProbeReport::new(record.into_record(), redactor);
    let requests = Arc::default();
    let polled = Polled { started, ended, families, failure, calls, requests, certificate_expiry };
    let snapshot = render::probed(polled, target.timeout, report, format);
    Snapshot { held_until: (!pause.is_zero()).then(|| ended + pause), ..snapshot }
}

/// The probe of one target, as often as it is tried.
struct Probing<'p> {
    target: &'p Target,
    prepared: &'p PreparedProbe,
    context: &'p Arc<PollContext>,
    started: Instant,
}

impl Probing<'_> {
    /// Probes with a token if one is needed, and once more with another one if the server has refused it.
    async fn run(&self, credentials: &mut PollCredentials<'_>) -> (Result<(), CallError>, Recorder) {
        let deadline = self.own_deadline();
        if let Err(error) = credentials.obtain(deadline).await {
            return (Err(error), self.recorder());
        }
        let (outcome, record) = self.attempt(credentials.headers(), self.recorder()).await;
        if !record.are_credentials_refused() {
            return (outcome, record);
        }
        match credentials.renew(deadline).await {
            Ok(false) => (outcome, record),
            Err(error) => (Err(error), record),
            Ok(true) => {
                let mut record = self.recorder();
                record.event("the server refused the token: once more with a new one");
                self.attempt(credentials.headers(), record).await
            }
        }
    }

    fn recorder(&self) -> Recorder {
        let mut record = Recorder::new(self.started);
        self.prepared.prober.begin(&mut record);
        record
    }

    /// When the prober ends what takes too long.
    fn own_deadline(&self) -> Instant {
        self.started + self.target.timeout.saturating_sub(head_start(self.target.timeout))
    }

    async fn attempt(&self, headers: &HeaderMap, mut record: Recorder) -> (Result<(), CallError>, Recorder) {
        let Self { target, prepared, context, started } = self;
        let deadline = *started + target.timeout;
        let source = &prepared.source;
        let mut memory = context.limits.share(prepared.dialer.namespace());
        let evicted = memory.evicted();
        let own_deadline = self.own_deadline();
        let compute = BlockingWork { context, target, deadline: own_deadline };
        let aftercare = context.aftercare.of(prepared.dialer.namespace());
        let secrets: Vec<Option<&[u8]>> =
            source.secrets.iter().map(|secret| secret.as_ref().map(SecretValue::expose)).collect();
        let mut probe = Probe {
            dialer: &prepared.dialer,
            host: source.url.host_str().unwrap_or_default(),
            headers,
            secrets: &secrets,
            proxy: source.connection.proxy.as_ref(),
            admitted: Vec::new(),
            deadline: own_deadline,
            record: &mut record,
            memory: &mut memory,
            max_body_bytes: context.limits.max_body_bytes,
            compute: &compute,
            aftercare: &aftercare,
            compared: ComparisonWork::default(),
        };
        let probing = AssertUnwindSafe(prepared.prober.probe(&mut probe)).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = evicted.cancelled() => Err(eviction_error()),
            outcome = timeout_at(deadline, probing) => match outcome {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(_)) => Err(CallError::new(Reason::Internal, "the probe was aborted: please report this")),
                Err(_) => Err(CallError::new(Reason::Timeout, "")),
            },
        };
        (outcome, record)
    }
}

/// Says how long the target is left alone.
fn with_pause(error: &CallError, pause: Duration) -> CallError {
    let message = format!("{}; it is not probed again for {} s, unless it is changed", error.message, pause.as_secs());
    CallError::new(error.reason, message)
}

/// How much earlier than the probe its prober ends what takes too long: it says better what did not happen in time, and has families for it.
fn head_start(timeout: Duration) -> Duration {
    (timeout / 20).min(Duration::from_millis(20))
}

/// What a probe was doing when its time was over.
fn not_in_time(record: &Recorder) -> String {
    match record.last_event() {
        Some(event) => format!("no answer in time; before that: {event}"),
        None => "no answer in time".to_owned(),
    }
}

/// Does the heavy work of a prober on blocking threads, in the share of its namespace.
#[derive(Debug)]
struct BlockingWork<'w> {
    context: &'w Arc<PollContext>,
    target: &'w Target,
    deadline: Instant,
}

impl Compute for BlockingWork<'_> {
    fn run(&self, work: HeavyWork) -> BoxFuture<'_, Result<Box<dyn Any + Send>, CallError>> {
        Box::pin(async move {
            let permit = self.context.large_answers.acquire(self.target, self.deadline).await;
            let permit = permit.map_err(WorkError::of_comparison)?;
            run_blocking(permit, self.deadline, move |stop| work(&stop)).await.map_err(WorkError::of_comparison)
        })
    }
}
