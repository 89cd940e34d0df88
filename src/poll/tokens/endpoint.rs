//! A token endpoint as one namespace reaches it. While it is down, it is tried by one request at a time and ever more rarely, for however
//! many tokens: each of them then fails with the endpoint's error.

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

/// A token endpoint.
#[derive(Debug)]
pub(super) struct TokenEndpoint {
    pub(super) client: Client,
    /// Its host and port: requests at once are counted by these.
    pub(super) authority: Arc<str>,
    outage: Mutex<EndpointOutage>,
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
    pub(super) fn new(client: Client, authority: Arc<str>) -> Self {
        let outage = EndpointOutage { error: None, backoff: backoff(), retry_at: Instant::now(), is_tried: false };
        Self { client, authority, outage: Mutex::new(outage) }
    }

    /// Why no request can be made now, and when one can; `None`: now.
    pub(super) fn why_not(&self, now: Instant) -> Option<(TokenError, Instant)> {
        let outage = self.outage();
        let error = outage.error.as_ref().filter(|_| outage.is_tried || outage.retry_at > now)?;
        Some((error.clone(), outage.retry_at))
    }

    /// Begins a request, unless the endpoint is down and it is not yet the time to try it.
    pub(super) fn begin(&self, now: Instant) -> Result<EndpointAttempt<'_>, TokenError> {
        if let Some((error, _)) = self.why_not(now) {
            return Err(error);
        }
        let mut outage = self.outage();
        let is_trial = outage.error.is_some();
        outage.is_tried = is_trial;
        Ok(EndpointAttempt { endpoint: self, is_trial })
    }

    fn outage(&self) -> MutexGuard<'_, EndpointOutage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndpointAttempt<'_> {
    /// The request has failed in this way, or got an answer that shows that the endpoint works.
    pub(super) fn end(self, error: Option<&TokenError>, now: Instant) {
        let mut outage = self.endpoint.outage();
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
