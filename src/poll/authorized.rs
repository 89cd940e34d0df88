//! Calls and probes of targets that need a token: with which headers they are made, and what happens if the server refuses the token.
//!
//! A target without `spec.oauth2` passes through without cost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::PollContext;
use super::snapshot::CallRecord;
use super::tokens::{SharedToken, TokenInUse};
use crate::failure::CallError;
use crate::fetch::{self, Client, Credentials, Exchange, Fetched, Redactor};
use crate::kind::{Answer, Call};
use crate::oauth2::{OAuth2Settings, encoded};
use crate::target::{SecretValue, Source, Target};

/// What is sent with every call of a target, and what finds it in texts.
pub(super) struct PreparedCredentials {
    source: Arc<Source>,
    /// For what is known without a token.
    redactor: Arc<Redactor>,
    token: Option<PreparedToken>,
}

/// The token of one target.
struct PreparedToken {
    shared: Arc<SharedToken>,
    settings: OAuth2Settings,
    /// What finds the last tokens, with their numbers: it is made once for each.
    redactor: Mutex<Option<([u64; 2], Arc<Redactor>)>>,
}

/// What the calls of a poll have come to.
pub(super) struct AuthorizedCalls {
    pub(super) fetched: Fetched,
    /// The request for a token, if one was made.
    pub(super) token: Option<CallRecord>,
    /// Finds everything secret that was sent.
    pub(super) redactor: Arc<Redactor>,
}

impl PreparedCredentials {
    /// The error is for the user of the target.
    pub(super) fn new(target: &Target, context: &PollContext) -> Result<Self, String> {
        let source = Arc::clone(&target.source);
        let token = match &source.oauth2 {
            None => None,
            Some(settings) => Some(PreparedToken {
                shared: context.tokens.token(&settings.token, &target.id.namespace, &context.clients)?,
                settings: settings.clone(),
                redactor: Mutex::default(),
            }),
        };
        let redactor = Arc::new(redactor_of(&source, &source.headers, &[]));
        Ok(Self { source, redactor, token })
    }

    /// The token that it needs.
    pub(super) fn token(&self) -> Option<&Arc<SharedToken>> {
        self.token.as_ref().map(|token| &token.shared)
    }

    /// Makes the calls of a poll.
    pub(super) async fn fetch(
        &self,
        client: &Client,
        calls: &[Call],
        context: &Arc<PollContext>,
        interval: Duration,
        deadline: Instant,
    ) -> AuthorizedCalls {
        let Some(_) = &self.token else {
            let fetched = fetch::fetch(client, calls, &self.source.headers, &context.limits, deadline).await;
            return AuthorizedCalls { fetched, token: None, redactor: Arc::clone(&self.redactor) };
        };
        let mut credentials = self.begin(context, interval);
        let fetched = match credentials.obtain(deadline).await {
            Ok(()) => fetch::fetch(client, calls, &mut credentials, &context.limits, deadline).await,
            Err(error) => unsent(calls, &error),
        };
        AuthorizedCalls { fetched, token: credentials.take_record(), redactor: credentials.redactor() }
    }

    /// The credentials of one poll of a target that is polled at this interval. They may have to be obtained.
    pub(super) fn begin<'p>(&'p self, context: &'p Arc<PollContext>, interval: Duration) -> PollCredentials<'p> {
        PollCredentials { prepared: self, context, interval, headers: None, used: None, refused: None }
    }
}

/// The credentials of one poll.
pub(super) struct PollCredentials<'p> {
    prepared: &'p PreparedCredentials,
    context: &'p Arc<PollContext>,
    interval: Duration,
    /// With the token; `None` without one.
    headers: Option<HeaderMap>,
    used: Option<TokenInUse>,
    /// The token that was used before, and refused.
    refused: Option<TokenInUse>,
}

impl PollCredentials<'_> {
    /// Obtains the token, if one is needed.
    pub(super) async fn obtain(&mut self, deadline: Instant) -> Result<(), CallError> {
        if let Some(token) = &self.prepared.token {
            let valid = token.shared.valid(self.context, self.interval, deadline).await?;
            self.use_token(token, valid);
        }
        Ok(())
    }

    fn use_token(&mut self, token: &PreparedToken, value: TokenInUse) {
        let mut headers = self.prepared.source.headers.clone();
        let (name, header) = token.settings.header_of(&value.value);
        headers.insert(name, header);
        self.headers = Some(headers);
        self.refused = self.used.replace(value);
    }

    /// The request for a token, if one has ended that no poll has reported yet.
    pub(super) fn take_record(&self) -> Option<CallRecord> {
        self.prepared.token.as_ref()?.shared.take_unreported()
    }

    /// Finds everything secret that was sent.
    pub(super) fn redactor(&self) -> Arc<Redactor> {
        let (Some(token), Some(used), Some(headers)) = (&self.prepared.token, &self.used, &self.headers) else {
            return Arc::clone(&self.prepared.redactor);
        };
        let numbers = [used.number, self.refused.as_ref().map_or(0, |refused| refused.number)];
        let mut made = token.redactor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, redactor)) = made.as_ref().filter(|(known, _)| *known == numbers) {
            return Arc::clone(redactor);
        }
        let tokens: Vec<&TokenInUse> = [Some(used), self.refused.as_ref()].into_iter().flatten().collect();
        let redactor = Arc::new(redactor_of(&self.prepared.source, headers, &tokens));
        *made = Some((numbers, Arc::clone(&redactor)));
        redactor
    }
}

impl Credentials for PollCredentials<'_> {
    fn headers(&self) -> &HeaderMap {
        self.headers.as_ref().unwrap_or(&self.prepared.source.headers)
    }

    async fn renew(&mut self, deadline: Instant) -> Result<bool, CallError> {
        let (Some(token), Some(used)) = (&self.prepared.token, self.used.clone()) else { return Ok(false) };
        let newer = token.shared.newer(self.context, &used, deadline).await.map_err(|error| {
            CallError::new(error.reason, format!("answered 401, and there is no new token: {}", error.message))
        })?;
        let is_new = newer.is_some();
        if let Some(newer) = newer {
            self.use_token(token, newer);
        }
        Ok(is_new)
    }
}

/// Calls that were not made, since there is no token.
fn unsent(calls: &[Call], error: &CallError) -> Fetched {
    let exchange = |call: &Call| Exchange {
        call: call.name,
        duration: Duration::ZERO,
        status: None,
        bytes: 0,
        answer: Answer(Err(error.clone())),
    };
    Fetched { exchanges: calls.iter().map(exchange).collect(), certificate_expiry: None, memory: None }
}

/// The longest part of a token that is searched for as a whole.
const PART: usize = 1024;

/// The most parts of a token that are searched for.
const PARTS: usize = 4;

/// Finds what a target sends: its headers, its secrets, these tokens, and what they are obtained with.
fn redactor_of(source: &Source, headers: &HeaderMap, tokens: &[&TokenInUse]) -> Redactor {
    let of_proxy = source.proxy_authorization();
    let own = source.secrets.iter().flatten().map(SecretValue::expose);
    let own = own.chain(of_proxy.as_ref().map(HeaderValue::as_bytes));
    let of_client: Vec<Vec<u8>> = source.oauth2.iter().flat_map(|oauth2| oauth2.token.secrets()).collect();
    let parts = tokens.iter().flat_map(|token| token.value.expose().chunks(PART).take(PARTS));
    // The end of a token may be too short to be told from ordinary text.
    let parts = parts.filter(|part| part.len() >= 8);
    let of_tokens: Vec<Vec<u8>> = parts.flat_map(|part| [part.to_vec(), encoded(part).into_bytes()]).collect();
    let sent = of_client.iter().chain(&of_tokens).map(Vec::as_slice);
    let redactor = Redactor::of(headers, own.chain(sent));
    redactor.hiding(&source.options.confidential_texts(source.kind))
}
