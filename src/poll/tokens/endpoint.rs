//! A token endpoint as one namespace reaches it. While it is down, it is tried by one request at a time and ever more rarely, for however
//! many tokens: each of them then fails with the endpoint's error.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::fetch::Client;
use crate::oauth2::TokenError;

/// The pauses between attempts that fail.
pub(super) const fn backoff() -> Backoff {
    Backoff::between(Duration::from_secs(1), Duration::from_mins(1))
}

/// Between two requests at one host and port which follow upon failures.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How long the turn of a namespace is kept for it: longer than any interval, or a target that is polled rarely would never have one.
const TURN_KEPT: Duration = Duration::from_hours(2);

/// When requests which follow upon failures may begin at a host and port, whatever namespaces and tokens they are for. Each namespace has a
/// turn of its own, so that one with many tokens does not keep others from theirs.
#[derive(Debug)]
pub(super) struct RetryPace(Mutex<RetryTurns>);

#[derive(Debug)]
struct RetryTurns {
    next: Instant,
    kept: HashMap<Arc<str>, Instant>,
}

impl RetryPace {
    pub(super) fn new() -> Self {
        Self(Mutex::new(RetryTurns { next: Instant::now(), kept: HashMap::new() }))
    }

    /// Takes the turn of a namespace; the error is when it will come.
    fn take(&self, namespace: &Arc<str>, now: Instant) -> Result<(), Instant> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.kept.retain(|_, turn| now.saturating_duration_since(*turn) < TURN_KEPT);
        if let Some(turn) = turns.kept.get(namespace).copied() {
            if turn > now {
                return Err(turn);
            }
            turns.kept.remove(namespace);
            return Ok(());
        }
        let turn = turns.next.max(now);
        turns.next = turn + RETRY_INTERVAL;
        if turn <= now {
            return Ok(());
        }
        turns.kept.insert(Arc::clone(namespace), turn);
        Err(turn)
    }
}

/// A token endpoint.
#[derive(Debug)]
pub(super) struct TokenEndpoint {
    pub(super) client: Client,
    /// Its host and port, and the proxy before it: requests at once are counted by these.
    pub(super) authority: Arc<str>,
    namespace: Arc<str>,
    pace: Arc<RetryPace>,
    outage: Mutex<EndpointOutage>,
}

/// Why no request may begin.
#[derive(Debug)]
pub(super) enum NotNow {
    /// The endpoint is down.
    Down,
    /// It is to be asked again at this time.
    NotBefore(Instant),
}

#[derive(Debug)]
struct EndpointOutage {
    /// Why it is down; `None`: it is not.
    error: Option<TokenError>,
    backoff: Backoff,
    /// When it is tried again.
    retry_at: Instant,
    /// An attempt is under way to learn whether it works again.
    is_tried: bool,
}

/// A request at an endpoint. What is dropped without an end was no attempt.
pub(super) struct EndpointAttempt<'e> {
    endpoint: &'e TokenEndpoint,
    /// It was down when this began.
    is_trial: bool,
}

impl TokenEndpoint {
    pub(super) fn new(client: Client, authority: Arc<str>, namespace: Arc<str>, pace: Arc<RetryPace>) -> Self {
        let outage = EndpointOutage { error: None, backoff: backoff(), retry_at: Instant::now(), is_tried: false };
        Self { client, authority, namespace, pace, outage: Mutex::new(outage) }
    }

    /// Why no request can be made now, and when one can; `None`: now.
    pub(super) fn why_not(&self, now: Instant) -> Option<(TokenError, Instant)> {
        self.outage().why_not(now)
    }

    /// Whether the last request has shown that it is down.
    pub(super) fn is_down(&self) -> bool {
        self.outage().error.is_some()
    }

    /// Begins a request, unless the endpoint is down and it is not yet the time to try it. `is_retry`: the last request for this token has
    /// failed.
    pub(super) fn begin(&self, is_retry: bool, now: Instant) -> Result<EndpointAttempt<'_>, NotNow> {
        let mut outage = self.outage();
        if outage.why_not(now).is_some() {
            return Err(NotNow::Down);
        }
        let is_trial = outage.error.is_some();
        if (is_trial || is_retry)
            && let Err(turn) = self.pace.take(&self.namespace, now)
        {
            if is_trial {
                outage.retry_at = turn;
            }
            return Err(NotNow::NotBefore(turn));
        }
        outage.is_tried |= is_trial;
        Ok(EndpointAttempt { endpoint: self, is_trial })
    }

    fn outage(&self) -> MutexGuard<'_, EndpointOutage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndpointOutage {
    fn why_not(&self, now: Instant) -> Option<(TokenError, Instant)> {
        let error = self.error.as_ref().filter(|_| self.is_tried || self.retry_at > now)?;
        Some((error.clone(), self.retry_at))
    }
}

impl EndpointAttempt<'_> {
    /// The request has failed in this way, or got an answer that shows that the endpoint works.
    pub(super) fn end(self, error: Option<&TokenError>, now: Instant) {
        let mut outage = self.endpoint.outage();
        if error.is_some_and(TokenError::is_our_limit) {
            if self.is_trial {
                outage.retry_at = now + outage.backoff.next();
            }
            return;
        }
        match error.filter(|error| error.is_outage) {
            None => {
                outage.error = None;
                outage.backoff.reset();
            }
            // Of several that began while it was up, the first one tells.
            Some(_) if outage.error.is_some() && !self.is_trial => {}
            Some(error) => {
                outage.error = Some(error.clone());
                outage.retry_at = now + outage.backoff.next();
            }
        }
    }
}

impl Drop for EndpointAttempt<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.endpoint.outage().is_tried = false;
        }
    }
}
