//! One probe: gives the prober of a target what it needs, ends it at the deadline, and makes its result a snapshot.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::PollContext;
use super::blocking::{WorkError, run_blocking};
use super::prepare::PreparedProbe;
use super::render::{self, Polled};
use super::snapshot::{CallRecord, ProbeReport, Snapshot};
use super::translate::{MAX_INLINE_EXPOSITION, SampleLimit};
use crate::budget::eviction_error;
use crate::failure::{CallError, Reason};
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
    let deadline = started + target.timeout;
    let source = &prepared.source;
    let mut record = Recorder::new(started);
    prepared.prober.begin(&mut record);
    let mut memory = context.limits.share(prepared.dialer.namespace());
    let evicted = memory.evicted();
    let own_deadline = started + target.timeout.saturating_sub(head_start(target.timeout));
    let compute = BlockingWork { context, target, deadline: own_deadline };
    let aftercare = context.aftercare.of(prepared.dialer.namespace());
    let secrets: Vec<Option<&[u8]>> =
        source.secrets.iter().map(|secret| secret.as_ref().map(SecretValue::expose)).collect();
    let mut probe = Probe {
        dialer: &prepared.dialer,
        host: source.url.host_str().unwrap_or_default(),
        headers: &source.headers,
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
    drop(memory);
    let ended = Instant::now();
    let error = outcome.err().map(|error| match error.message.as_str() {
        "" => CallError::new(error.reason, not_in_time(&record)),
        _ => error,
    });
    let error = error.map(|error| CallError::new(error.reason, prepared.redactor.sentence(&error.message)));
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
    families.withhold(|text| prepared.redactor.is_in(text));
    let call = prepared.prober.call();
    let mut failure = error.as_ref().map(|error| render::failure(error, call));
    let families = SampleLimit::of(target).enforce(families, &mut failure);
    let body = record.body_beginning().filter(|_| error.is_some() && context.shows_bodies());
    let beginning = body.map(|body| prepared.redactor.beginning_of(&body.bytes, body.is_cut).into());
    let calls = vec![CallRecord {
        call,
        duration: ended.duration_since(started),
        status: record.http_status(),
        bytes: record.bytes(),
        error: error.map(|error| error.message.into()),
        beginning,
    }];
    let certificate_expiry = record.expiry();
    let report = ProbeReport::new(record.into_record(), Arc::clone(&prepared.redactor));
    let requests = Arc::default();
    let polled = Polled { started, ended, families, failure, calls, requests, certificate_expiry };
    let snapshot = render::probed(polled, target.timeout, report, format);
    Snapshot { held_until: (!pause.is_zero()).then(|| ended + pause), ..snapshot }
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
