//! What is known of one token: a state machine without network. All that needs a decision is decided here.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::endpoint::backoff;
use crate::backoff::Backoff;
use crate::oauth2::{ClientAuthStyles, ClientStyle, HiddenValue, IssuedToken, TokenError};
use crate::poll::snapshot::CallRecord;

/// A token that was refused is replaced only if it is at least this old: a server may refuse a new one as well, for a right that it lacks.
const LEAST_AGE: Duration = Duration::from_secs(30);

/// However soon a token is said to end, it is used for so long after it came: each poll would request one after the other otherwise, and use
/// none.
const LEAST_LIFETIME: Duration = Duration::from_secs(1);

/// A token in use.
#[derive(Clone, Debug)]
pub(in crate::poll) struct TokenInUse {
    /// Each token that was issued has another number.
    pub(in crate::poll) number: u64,
    pub(in crate::poll) value: HiddenValue,
    obtained: Instant,
    lifetime: Option<Duration>,
}

impl TokenInUse {
    fn is_valid(&self, now: Instant) -> bool {
        self.left(now).is_none_or(|left| !left.is_zero())
    }

    /// The rest of its lifetime; `None`: it is valid until it is refused.
    fn left(&self, now: Instant) -> Option<Duration> {
        Some((self.obtained + self.lifetime?).saturating_duration_since(now))
    }

    /// Whether it should be replaced by now, for targets that are polled at this interval.
    fn is_near_its_end(&self, now: Instant, interval: Duration) -> bool {
        let Some((lifetime, left)) = self.lifetime.zip(self.left(now)) else { return false };
        left <= (2 * interval).max(Duration::from_secs(30)).min(lifetime / 5)
    }
}

/// What a poll wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    /// A token that is valid. Targets with this interval will need one again.
    Valid { interval: Duration },
    /// Another token than this one, which the server has refused.
    Newer(u64),
}

/// What to do about it.
#[derive(Debug)]
pub(super) enum Step {
    /// Use this token.
    Use(TokenInUse),
    /// Use this token, and request the next one in the background.
    UseAndRequest(TokenInUse),
    /// Request one.
    Request,
    /// Wait for the request under way.
    Wait,
    /// There is none.
    Fail(TokenError),
    /// The token that was refused is too young to be replaced.
    TooYoung,
}

/// How the client authenticates itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StyleMemory {
    /// Nothing is known yet: both are tried, the header first.
    Unknown,
    /// It worked last, or was never in doubt.
    Works(ClientStyle),
    /// Neither worked: they are tried in turn, this one next.
    Next(ClientStyle),
}

/// The last request.
#[derive(Clone, Debug)]
pub(super) struct LastRequest {
    pub(super) at: SystemTime,
    pub(super) duration: Duration,
    pub(super) status: Option<u16>,
    pub(super) error: Option<TokenError>,
}

/// What is known of one token.
#[derive(Debug)]
pub(super) struct TokenState {
    token: Option<TokenInUse>,
    issued: u64,
    is_requested: bool,
    /// Why the last request gave none, and when the next one may be made.
    failed: Option<(TokenError, Instant)>,
    backoff: Backoff,
    styles: ClientAuthStyles,
    style: StyleMemory,
    pub(super) last: Option<LastRequest>,
    /// The last request, until a poll has reported it.
    unreported: Option<CallRecord>,
}

impl TokenState {
    pub(super) const fn new(styles: ClientAuthStyles) -> Self {
        let style = match styles {
            ClientAuthStyles::Only(style) => StyleMemory::Works(style),
            ClientAuthStyles::Auto => StyleMemory::Unknown,
        };
        Self {
            token: None,
            issued: 0,
            is_requested: false,
            failed: None,
            backoff: backoff(),
            styles,
            style,
            last: None,
            unreported: None,
        }
    }

    /// What a poll is to do. `outage` is why the endpoint may not be asked now.
    pub(super) fn step(&mut self, need: Need, outage: Option<TokenError>, now: Instant) -> Step {
        let failed = self.failed.as_ref().filter(|(_, retry_at)| *retry_at > now).map(|(error, _)| error.clone());
        let why_not = failed.or(outage);
        let token = self.token.as_ref().filter(|token| token.is_valid(now)).cloned();
        match (token, need) {
            (Some(token), Need::Valid { interval }) => {
                if token.is_near_its_end(now, interval) && !self.is_requested && why_not.is_none() {
                    self.is_requested = true;
                    return Step::UseAndRequest(token);
                }
                return Step::Use(token);
            }
            (Some(token), Need::Newer(number)) if token.number != number => return Step::Use(token),
            (Some(token), Need::Newer(_)) if now.saturating_duration_since(token.obtained) < LEAST_AGE => {
                return Step::TooYoung;
            }
            (_, Need::Valid { .. } | Need::Newer(_)) => {}
        }
        if self.is_requested {
            return Step::Wait;
        }
        if let Some(error) = why_not {
            return Step::Fail(error);
        }
        self.is_requested = true;
        Step::Request
    }

    /// The styles to try in a request, one after the other.
    pub(super) fn styles(&self) -> impl Iterator<Item = ClientStyle> + use<> {
        let (first, second) = match self.style {
            StyleMemory::Unknown => (ClientStyle::Header, Some(ClientStyle::Body)),
            StyleMemory::Works(style) | StyleMemory::Next(style) => (style, None),
        };
        [first].into_iter().chain(second)
    }

    /// A request has ended, in which the client has authenticated itself in this style last.
    pub(super) fn end(&mut self, result: Result<IssuedToken, TokenError>, style: ClientStyle, sent: Instant) {
        self.is_requested = false;
        match result {
            Ok(IssuedToken { value, lifetime }) => {
                let lifetime = lifetime.map(|lifetime| lifetime.max(sent.elapsed() + LEAST_LIFETIME));
                self.issued += 1;
                self.token = Some(TokenInUse { number: self.issued, value, obtained: sent, lifetime });
                self.failed = None;
                self.backoff.reset();
                self.style = StyleMemory::Works(style);
            }
            Err(error) => {
                if error.may_be_style && self.styles == ClientAuthStyles::Auto {
                    self.style = StyleMemory::Next(style.other());
                }
                // An outage is the endpoint's, and so is the pause after it.
                self.failed = if error.is_outage { None } else { Some((error, Instant::now() + self.backoff.next())) };
            }
        }
    }

    /// A request was not made: its time was over, or it was aborted.
    pub(super) fn give_up(&mut self, error: TokenError) {
        self.is_requested = false;
        self.failed = Some((error, Instant::now() + self.backoff.next()));
    }

    /// Nothing was sent: the endpoint is down, or is to be asked again for this token at this time.
    pub(super) fn not_sent(&mut self, turn: Option<Instant>) {
        self.is_requested = false;
        if let (Some((_, retry_at)), Some(turn)) = (&mut self.failed, turn) {
            *retry_at = turn;
        }
    }

    /// Whether the last request gave no token, for a reason of its own.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(super) fn record(&mut self, last: LastRequest, call: CallRecord) {
        self.last = Some(last);
        self.unreported = Some(call);
    }

    pub(super) const fn take_unreported(&mut self) -> Option<CallRecord> {
        self.unreported.take()
    }

    /// The lifetime of the token, and what is left of it.
    pub(super) fn lifetimes(&self, now: Instant) -> Option<(Option<Duration>, Option<Duration>)> {
        self.token.as_ref().map(|token| (token.lifetime, token.left(now)))
    }

    /// When the next request may be made at the earliest, if the last one has failed.
    pub(super) fn retry_at(&self, now: Instant) -> Option<Instant> {
        self.failed.as_ref().map(|(_, at)| *at).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::ClientStyle::{Body, Header};
    use super::*;
    use crate::oauth2;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn state() -> TokenState {
        TokenState::new(ClientAuthStyles::Auto)
    }

    fn issued(lifetime: Option<u64>) -> IssuedToken {
        IssuedToken { value: HiddenValue::new(&b"abc"[..]), lifetime: lifetime.map(Duration::from_secs) }
    }

    fn refused(status: u16) -> TokenError {
        oauth2::read(status, br#"{"error":"invalid_client"}"#, "password", Duration::ZERO).unwrap_err()
    }

    fn valid(state: &mut TokenState, after: Duration, start: Instant) -> Step {
        state.step(Need::Valid { interval: INTERVAL }, None, start + after)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_poll_requests_others_wait_and_the_token_is_used_until_near_its_end() {
        let (mut state, start) = (state(), Instant::now());
        assert!(matches!(valid(&mut state, Duration::ZERO, start), Step::Request));
        assert!(matches!(valid(&mut state, Duration::ZERO, start), Step::Wait));
        state.end(Ok(issued(Some(1000))), ClientStyle::Header, start);
        // 30 s before the end, and not a fifth of the lifetime.
        assert!(matches!(valid(&mut state, Duration::from_secs(969), start), Step::Use(_)));
        assert!(matches!(valid(&mut state, Duration::from_secs(970), start), Step::UseAndRequest(_)));
        assert!(matches!(valid(&mut state, Duration::from_secs(971), start), Step::Use(_)), "it is requested already");
        assert!(matches!(valid(&mut state, Duration::from_secs(1000), start), Step::Wait), "to its true end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_token_is_renewed_in_its_last_fifth_and_one_without_end_never() {
        let (mut state, start) = (state(), Instant::now());
        assert!(matches!(valid(&mut state, Duration::ZERO, start), Step::Request));
        state.end(Ok(issued(Some(10))), ClientStyle::Header, start);
        assert!(matches!(valid(&mut state, Duration::from_secs(7), start), Step::Use(_)));
        assert!(matches!(valid(&mut state, Duration::from_secs(8), start), Step::UseAndRequest(_)));
        state.end(Ok(issued(None)), ClientStyle::Header, start);
        assert!(matches!(valid(&mut state, Duration::from_hours(10_000), start), Step::Use(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_ends_before_it_comes_is_used_for_a_moment_all_the_same() {
        let (mut state, start) = (state(), Instant::now());
        assert!(matches!(valid(&mut state, Duration::ZERO, start), Step::Request));
        tokio::time::advance(Duration::from_secs(2)).await;
        let token = IssuedToken { value: HiddenValue::new(&b"abc"[..]), lifetime: Some(Duration::from_micros(1)) };
        state.end(Ok(token), ClientStyle::Header, start);
        assert!(matches!(valid(&mut state, Duration::from_secs(2), start), Step::Use(_)));
        assert!(matches!(valid(&mut state, Duration::from_millis(2999), start), Step::UseAndRequest(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_replaced_once_it_is_thirty_seconds_old() {
        let (mut state, start) = (state(), Instant::now());
        assert!(matches!(valid(&mut state, Duration::ZERO, start), Step::Request));
        state.end(Ok(issued(None)), ClientStyle::Header, start);
        let newer = |state: &mut TokenState, number, seconds| {
            state.step(Need::Newer(number), None, start + Duration::from_secs(seconds))
        };
        assert!(matches!(newer(&mut state, 1, 29), Step::TooYoung));
        assert!(matches!(newer(&mut state, 1, 30), Step::Request));
        assert!(matches!(newer(&mut state, 1, 30), Step::Wait));
        assert!(matches!(valid(&mut state, Duration::from_secs(30), start), Step::Use(_)), "others go on with it");
        state.end(Ok(issued(None)), ClientStyle::Header, start + Duration::from_secs(30));
        assert!(matches!(newer(&mut state, 1, 31), Step::Use(token) if token.number == 2));
        assert!(matches!(newer(&mut state, 2, 31), Step::TooYoung));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_pauses_and_an_outage_leaves_the_old_token_in_use() {
        let (mut state, start) = (state(), Instant::now());
        assert!(matches!(valid(&mut state, Duration::ZERO, start), Step::Request));
        state.end(Err(refused(401)), ClientStyle::Body, start);
        assert!(
            matches!(valid(&mut state, Duration::ZERO, start), Step::Fail(error) if error.outcome == "invalid_client")
        );
        assert!(matches!(valid(&mut state, Duration::from_millis(1001), start), Step::Request));
        state.end(Ok(issued(Some(1000))), ClientStyle::Header, start);
        let at = start + Duration::from_secs(999);
        let down = oauth2::read(503, b"", "password", Duration::ZERO).unwrap_err();
        assert!(down.is_outage);
        let need = Need::Valid { interval: INTERVAL };
        assert!(matches!(state.step(need, Some(down.clone()), at), Step::Use(_)));
        assert!(matches!(state.step(need, Some(down.clone()), at + Duration::from_secs(1)), Step::Fail(_)));
        assert!(matches!(state.step(Need::Newer(1), Some(down), at), Step::Fail(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_style_that_works_is_remembered_and_if_none_does_they_take_turns() {
        let (mut state, start) = (state(), Instant::now());
        let styles = |state: &TokenState| state.styles().collect::<Vec<_>>();
        assert_eq!(styles(&state), [Header, Body]);
        state.end(Err(refused(401)), Body, start);
        assert_eq!(styles(&state), [Header]);
        state.end(Err(refused(400)), Header, start);
        assert_eq!(styles(&state), [Body]);
        state.end(Err(refused(503)), Body, start);
        assert_eq!(styles(&state), [Body], "an outage says nothing about it");
        state.end(Ok(issued(None)), Body, start);
        assert_eq!(styles(&state), [Body]);
        let mut only = TokenState::new(ClientAuthStyles::Only(Body));
        only.end(Err(refused(401)), Body, start);
        assert_eq!(styles(&only), [Body]);
    }
}
