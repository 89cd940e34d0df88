//! The tokens of OAuth 2.0. Targets of one namespace with equal settings have one token, which is requested once for all of them: by the first
//! poll that needs it, in a task of its own, so that a poll that is cut off takes nothing away from others. There are no timers: a token that
//! no poll needs is not renewed, and one that no target has any more is forgotten.
//!
//! It knows nothing of targets and their calls.

mod endpoint;
mod permits;
mod state;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Url;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use self::endpoint::{NotNow, RetryPace, TokenEndpoint};
use self::permits::{RequestGroup, TokenPermits};
pub(super) use self::state::TokenInUse;
use self::state::{LastRequest, Need, Step, TokenState};
use super::PollContext;
use super::snapshot::CallRecord;
use crate::dial::Connection;
use crate::failure::{CallError, Reason};
use crate::fetch::{self, Clients, TOKEN_CALL};
use crate::oauth2::{self, ClientStyle, IssuedToken, TokenError, TokenSettings};

/// How long a request may take. A poll waits for it as long as it has time itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The most tokens of one namespace.
const MAX_IN_NAMESPACE: usize = 10_000;

/// The tokens in use.
#[derive(Debug, Default)]
pub(super) struct TokenBook {
    tokens: Mutex<BookPages>,
    permits: Arc<TokenPermits>,
}

#[derive(Debug, Default)]
struct BookPages {
    tokens: HashMap<TokenKey, Weak<SharedToken>>,
    counts: HashMap<Arc<str>, usize>,
    endpoints: HashMap<EndpointKey, Weak<TokenEndpoint>>,
    /// By the authority of the endpoints.
    paces: HashMap<Arc<str>, Weak<RetryPace>>,
}

/// What must be equal for a token to be shared.
type TokenKey = (Arc<str>, Arc<TokenSettings>);

/// What must be equal for an outage to be one: another namespace may reach the endpoint in another way, and must not be told how this one does.
type EndpointKey = (Arc<str>, Url, Connection);

/// A token that targets share. It is forgotten with the last of them.
#[derive(Debug)]
pub(super) struct SharedToken {
    key: TokenKey,
    endpoint: Arc<TokenEndpoint>,
    state: Mutex<TokenState>,
    /// A request has ended.
    changed: watch::Sender<()>,
    book: Weak<TokenBook>,
}

/// What is known of a token, for the debug page.
#[derive(Clone, Debug)]
pub struct TokenReport {
    /// The token endpoint.
    pub url: Url,
    /// The last request: when it began, how long it took, the status of its answer, and why it gave no token.
    pub last: Option<TokenRequestReport>,
    /// The token in use, if there is one: its lifetime, and what is left of it. Both are unknown if the token is used until it is refused.
    pub lifetime: Option<(Option<Duration>, Option<Duration>)>,
    /// How long no request is made after the last one has failed.
    pub retry_in: Option<Duration>,
}

/// The last request for a token.
#[derive(Clone, Debug)]
pub struct TokenRequestReport {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The status of its answer.
    pub status: Option<u16>,
    /// Why it gave no token.
    pub error: Option<String>,
}

impl TokenBook {
    /// The token for targets of `namespace` with these settings.
    pub(super) fn token(
        self: &Arc<Self>,
        settings: &Arc<TokenSettings>,
        namespace: &Arc<str>,
        clients: &Clients,
    ) -> Result<Arc<SharedToken>, String> {
        let key: TokenKey = (Arc::clone(namespace), Arc::clone(settings));
        let mut pages = self.pages();
        if let Some(token) = pages.tokens.get(&key).and_then(Weak::upgrade) {
            return Ok(token);
        }
        let count = pages.counts.get(namespace).copied().unwrap_or(0);
        if count >= MAX_IN_NAMESPACE {
            return Err(format!(
                "spec.oauth2: the targets of this namespace need more than {MAX_IN_NAMESPACE} tokens: let several have one, with equal settings"
            ));
        }
        let endpoint = pages.endpoint(settings, namespace, clients)?;
        let token = Arc::new(SharedToken {
            key: key.clone(),
            endpoint,
            state: Mutex::new(TokenState::new(settings.styles)),
            changed: watch::Sender::new(()),
            book: Arc::downgrade(self),
        });
        if pages.tokens.insert(key, Arc::downgrade(&token)).is_none() {
            pages.counts.insert(Arc::clone(namespace), count + 1);
        }
        Ok(token)
    }

    fn pages(&self) -> MutexGuard<'_, BookPages> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a token whose last target is gone, and its endpoint if it was the last one there.
    fn forget(&self, key: &TokenKey, endpoint: &Arc<TokenEndpoint>) {
        let mut pages = self.pages();
        if Arc::strong_count(endpoint) == 1 {
            pages.endpoints.retain(|_, known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(endpoint)));
        }
        // Meanwhile there may be another one with the same key.
        if pages.tokens.get(key).is_none_or(|token| token.strong_count() > 0) {
            return;
        }
        pages.tokens.remove(key);
        if let Some(count) = pages.counts.get_mut(&key.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pages.counts.remove(&key.0);
            }
        }
    }
}

impl BookPages {
    fn endpoint(
        &mut self,
        settings: &TokenSettings,
        namespace: &Arc<str>,
        clients: &Clients,
    ) -> Result<Arc<TokenEndpoint>, String> {
        let key: EndpointKey = (Arc::clone(namespace), settings.url.clone(), settings.connection.clone());
        if let Some(endpoint) = self.endpoints.get(&key).and_then(Weak::upgrade) {
            return Ok(endpoint);
        }
        let client = clients.token_client(&settings.url, &settings.connection, namespace);
        let client = client.map_err(|error| error.of_token_endpoint())?;
        let (host, port) = (settings.url.host_str().unwrap_or_default(), settings.url.port_or_known_default());
        let mut authority = format!("{host}:{}", port.unwrap_or_default());
        // Whoever goes through a proxy of its own must not use up the requests of those who do not.
        if let Some(proxy) = settings.connection.proxy.as_ref().filter(|proxy| proxy.serves(&settings.url)) {
            let _ = write!(authority, " through {}:{}", proxy.host(), proxy.port());
        }
        let authority: Arc<str> = authority.into();
        let pace = self.pace(&authority);
        let endpoint = Arc::new(TokenEndpoint::new(client, authority, Arc::clone(namespace), pace));
        self.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        self.endpoints.insert(key, Arc::downgrade(&endpoint));
        Ok(endpoint)
    }
}

impl BookPages {
    fn pace(&mut self, authority: &Arc<str>) -> Arc<RetryPace> {
        if let Some(pace) = self.paces.get(authority).and_then(Weak::upgrade) {
            return pace;
        }
        let pace = Arc::new(RetryPace::new());
        self.paces.retain(|_, pace| pace.strong_count() > 0);
        self.paces.insert(Arc::clone(authority), Arc::downgrade(&pace));
        pace
    }
}

impl Drop for SharedToken {
    fn drop(&mut self) {
        if let Some(book) = self.book.upgrade() {
            book.forget(&self.key, &self.endpoint);
        }
    }
}

impl SharedToken {
    /// A token that is valid, for a target that is polled at this interval. It is requested if there is none, and waited for until `deadline`.
    pub(super) async fn valid(
        self: &Arc<Self>,
        context: &Arc<PollContext>,
        interval: Duration,
        deadline: Instant,
    ) -> Result<TokenInUse, CallError> {
        let token = self.meet(Need::Valid { interval }, context, deadline).await?;
        token.ok_or_else(|| TokenError::aborted().call_error())
    }

    /// Another token than `refused`, to which a server has answered 401; `None` if that is too young to be replaced, or if the endpoint has
    /// issued the same once more.
    pub(super) async fn newer(
        self: &Arc<Self>,
        context: &Arc<PollContext>,
        refused: &TokenInUse,
        deadline: Instant,
    ) -> Result<Option<TokenInUse>, CallError> {
        let token = self.meet(Need::Newer(refused.number), context, deadline).await?;
        Ok(token.filter(|token| token.value != refused.value))
    }

    async fn meet(
        self: &Arc<Self>,
        need: Need,
        context: &Arc<PollContext>,
        deadline: Instant,
    ) -> Result<Option<TokenInUse>, CallError> {
        let mut changed = self.changed.subscribe();
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Err(CallError::new(Reason::Auth, "token: timeout: none came within the time of the poll"));
            }
            changed.mark_unchanged();
            let outage = self.endpoint.why_not(now).map(|(error, _)| error);
            let step = self.state().step(need, outage, now);
            match step {
                Step::Use(token) => return Ok(Some(token)),
                Step::UseAndRequest(token) => {
                    self.request(context);
                    return Ok(Some(token));
                }
                Step::Fail(error) => return Err(error.call_error()),
                Step::TooYoung => return Ok(None),
                Step::Request => self.request(context),
                Step::Wait => {}
            }
            // The sender is a part of this token.
            let _ = timeout_at(deadline, changed.changed()).await;
        }
    }

    /// Begins a request in a task of its own.
    fn request(self: &Arc<Self>, context: &Arc<PollContext>) {
        let request = TokenRequestTask { token: Arc::clone(self), is_ended: false };
        let context = Arc::clone(context);
        tokio::spawn(async move { request.run(&context).await });
    }

    /// The last request, for the first poll that ends after it.
    pub(super) fn take_unreported(&self) -> Option<CallRecord> {
        self.state().take_unreported()
    }

    /// What is known of it.
    pub(super) fn report(&self) -> TokenReport {
        let now = Instant::now();
        let state = self.state();
        let retry_at = state.retry_at(now).or_else(|| self.endpoint.why_not(now).map(|(_, at)| at));
        TokenReport {
            url: self.key.1.url.clone(),
            last: state.last.as_ref().map(|last| TokenRequestReport {
                at: last.at,
                duration: last.duration,
                status: last.status,
                error: last.error.as_ref().map(|error| error.message().to_owned()),
            }),
            lifetime: state.lifetimes(now),
            retry_in: retry_at.map(|at| at.saturating_duration_since(now)),
        }
    }

    fn state(&self) -> MutexGuard<'_, TokenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a request. However it ends, others may make the next one.
struct TokenRequestTask {
    token: Arc<SharedToken>,
    is_ended: bool,
}

impl Drop for TokenRequestTask {
    fn drop(&mut self) {
        if !self.is_ended {
            self.token.state().give_up(TokenError::aborted());
        }
        self.token.changed.send_replace(());
    }
}

impl TokenRequestTask {
    async fn run(mut self, context: &PollContext) {
        let SharedToken { key: (namespace, _), endpoint, book, .. } = &*self.token;
        let Some(book) = book.upgrade() else { return };
        let group = RequestGroup {
            namespace: Arc::clone(namespace),
            authority: Arc::clone(&endpoint.authority),
            is_trial: endpoint.is_down(),
        };
        let permit = timeout(REQUEST_TIMEOUT, book.permits.acquire(group)).await.ok().flatten();
        drop(book);
        let Some(_permit) = permit else {
            self.token.state().give_up(TokenError::no_turn());
            self.is_ended = true;
            return;
        };
        // Its last target may be gone meanwhile: nobody needs it any more.
        if Arc::strong_count(&self.token) == 1 {
            // Or somebody takes it up at this moment, and must find that nothing is under way.
            self.token.state().not_sent(None);
            self.is_ended = true;
            return;
        }
        // It may have been found to be down meanwhile.
        let is_retry = self.token.state().has_failed();
        let attempt = match self.token.endpoint.begin(is_retry, Instant::now()) {
            Ok(attempt) => attempt,
            Err(why) => {
                let turn = match why {
                    NotNow::Down => None,
                    NotNow::NotBefore(turn) => Some(turn),
                };
                self.token.state().not_sent(turn);
                self.is_ended = true;
                return;
            }
        };
        let sent = Instant::now();
        let (result, style, last) = self.token.send(context, sent + REQUEST_TIMEOUT).await;
        let ended = Instant::now();
        attempt.end(result.as_ref().err(), ended);
        log(&self.token, &last);
        let call = CallRecord {
            call: TOKEN_CALL,
            duration: last.request.duration,
            status: last.request.status,
            bytes: last.bytes,
            error: result.as_ref().err().map(|error| error.message().into()),
            beginning: None,
        };
        let mut state = self.token.state();
        state.record(last.request, call);
        state.end(result, style, sent);
        drop(state);
        self.is_ended = true;
    }
}

/// What came of a request.
struct TokenRequestRecord {
    request: LastRequest,
    bytes: usize,
}

impl SharedToken {
    /// Requests a token: in both styles of authentication, if it is not known yet which one the endpoint takes.
    async fn send(
        &self,
        context: &PollContext,
        deadline: Instant,
    ) -> (Result<IssuedToken, TokenError>, ClientStyle, TokenRequestRecord) {
        let (start, settings) = (Instant::now(), &self.key.1);
        let styles = self.state().styles();
        let mut first: Option<TokenError> = None;
        let (mut status, mut bytes, mut used) = (None, 0, ClientStyle::Header);
        let mut result = Err(TokenError::aborted());
        for style in styles {
            let request = settings.request(style);
            let exchange = fetch::token(&self.endpoint.client, &settings.url, request, &context.limits, deadline).await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            result = match &exchange.answer.0 {
                Ok(response) => oauth2::read(response.status, &response.body, settings.grant(), now),
                Err(error) => Err(TokenError::unanswered(error)),
            };
            context.metrics.end_token_request(result.as_ref().map_or_else(|error| error.outcome, |_| "success"));
            (status, bytes, used) = (exchange.status, exchange.bytes, style);
            match &result {
                Err(error) if error.may_be_style && first.is_none() => first = Some(error.clone()),
                _ => break,
            }
        }
        // Of two refusals, the one that says more.
        if let (Err(second), Some(first)) = (&result, first)
            && second.says_less_than(&first)
        {
            result = Err(first);
        }
        let request = LastRequest {
            at: SystemTime::now(),
            duration: start.elapsed(),
            status,
            error: result.as_ref().err().cloned(),
        };
        (result, used, TokenRequestRecord { request, bytes })
    }
}

fn log(token: &SharedToken, sent: &TokenRequestRecord) {
    let (namespace, url) = (&token.key.0, token.endpoint.authority.as_ref());
    let (duration, status) = (tracing::field::debug(sent.request.duration), sent.request.status);
    match &sent.request.error {
        None => tracing::debug!(%namespace, endpoint = url, status, duration, "obtained a token"),
        Some(error) => {
            let error = error.message();
            tracing::debug!(%namespace, endpoint = url, status, duration, error, "obtained no token");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dial::AddressRules;
    use crate::oauth2::{ClientAuthStyles, HiddenValue};

    fn settings(secret: &str) -> Arc<TokenSettings> {
        Arc::new(TokenSettings {
            url: Url::parse("http://127.0.0.1:9/token").unwrap(),
            client_id: HiddenValue::new(&b"id"[..]),
            client_secret: HiddenValue::new(secret.as_bytes()),
            scopes: Vec::new(),
            endpoint_params: BTreeMap::new(),
            user: None,
            styles: ClientAuthStyles::Auto,
            connection: Connection::default(),
        })
    }

    #[test]
    fn equal_settings_of_one_namespace_have_one_token_which_goes_with_its_last_target() {
        let (book, clients) = (Arc::<TokenBook>::default(), Clients::new(AddressRules::default()));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let token = |secret: &str, namespace| book.token(&settings(secret), namespace, &clients).unwrap();
        let (one, same, rotated, elsewhere) = (token("s", &a), token("s", &a), token("t", &a), token("s", &b));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &rotated) && !Arc::ptr_eq(&one, &elsewhere));
        assert!(Arc::ptr_eq(&one.endpoint, &rotated.endpoint) && !Arc::ptr_eq(&one.endpoint, &elsewhere.endpoint));
        let counts = || {
            let pages = book.pages();
            (pages.tokens.len(), pages.counts[&a])
        };
        assert_eq!(counts(), (3, 2));
        drop((one, rotated));
        assert_eq!(counts(), (2, 1));
        drop((same, elsewhere));
        let pages = book.pages();
        assert!(pages.tokens.is_empty() && pages.counts.is_empty() && pages.endpoints.is_empty());
        drop(pages);
        assert!(!format!("{book:?}").contains("secret: s"));
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_endpoint_is_down_all_namespaces_together_try_it_four_times_a_second() {
        let (book, clients) = (Arc::<TokenBook>::default(), Clients::new(AddressRules::default()));
        let names: Vec<Arc<str>> = (0..10).map(|number| format!("n{number}").into()).collect();
        let tokens: Vec<_> = names.iter().map(|name| book.token(&settings("s"), name, &clients).unwrap()).collect();
        let down = oauth2::read(503, b"", "password", Duration::ZERO).unwrap_err();
        let now = Instant::now();
        for token in &tokens {
            token
                .endpoint
                .begin(false, now)
                .unwrap_or_else(|_| panic!("it is not known yet that it is down"))
                .end(Some(&down), now);
        }
        // By then each would try it once more.
        let later = now + Duration::from_secs(2);
        let mut begun = 0;
        for step in 0..10 {
            let at = later + step * Duration::from_millis(100);
            begun += tokens
                .iter()
                .filter(|token| token.endpoint.begin(false, at).map(|attempt| attempt.end(Some(&down), at)).is_ok())
                .count();
        }
        assert!((1..=4).contains(&begun), "{begun} in a second");
    }

    #[test]
    fn whoever_has_a_proxy_of_its_own_does_not_use_up_the_requests_of_others() {
        let (book, clients) = (Arc::<TokenBook>::default(), Clients::new(AddressRules::default()));
        let authority = |proxy: Option<&str>| {
            let mut settings = Arc::unwrap_or_clone(settings("s"));
            settings.connection.proxy = proxy.map(|url| Url::parse(url).unwrap().into());
            Arc::clone(&book.token(&Arc::new(settings), &"a".into(), &clients).unwrap().endpoint.authority)
        };
        assert_eq!(&*authority(None), "127.0.0.1:9");
        assert_eq!(&*authority(Some("http://192.0.2.1:3128/")), "127.0.0.1:9 through 192.0.2.1:3128");
    }

    #[test]
    fn a_token_endpoint_that_may_not_be_contacted_is_refused_by_its_address() {
        let (book, clients) = (Arc::<TokenBook>::default(), Clients::new(AddressRules::default()));
        let mut settings = Arc::unwrap_or_clone(settings("s"));
        settings.url = Url::parse("http://169.254.169.254/latest/api/token").unwrap();
        let error = book.token(&Arc::new(settings), &"a".into(), &clients).unwrap_err();
        assert!(error.starts_with("spec.oauth2.tokenUrl: 169.254.169.254 may not be contacted"), "{error}");
    }
}
