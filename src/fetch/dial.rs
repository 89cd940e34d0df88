//! How connections come about: to which addresses, one after the other and each within its part of the time, and whether a call had one
//! made for it or found one that was kept.

use std::error::Error;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::plain;
use crate::kind::{CallError, Reason};

tokio::task_local! {
    /// What the request under way does to be connected.
    static ATTEMPT: Attempt;
}

/// The sentence about a target names so many addresses.
const MOST_NAMED: usize = 3;

/// One request, sent over a connection to one of these addresses.
#[derive(Clone, Debug)]
pub(super) struct Attempt(Arc<State>);

#[derive(Debug)]
struct State {
    addresses: Vec<SocketAddr>,
    /// The end of their part of the time; none where that is the end of the poll.
    until: Option<Instant>,
    asked: AtomicBool,
    made: AtomicBool,
}

impl Attempt {
    /// With addresses that were judged, of either IP version: both are tried at a time, the second a moment later.
    pub(super) fn at(addresses: Vec<SocketAddr>, until: Option<Instant>) -> Self {
        Self(Arc::new(State { addresses, until, asked: AtomicBool::new(false), made: AtomicBool::new(false) }))
    }

    /// Sends a request. It is over a kept connection if none was made meanwhile.
    pub(super) async fn during<R: Future>(&self, request: R) -> R::Output {
        ATTEMPT.scope(self.clone(), request).await
    }

    /// Connects over TCP.
    pub(super) async fn connect(&self) -> Result<TcpStream, Why> {
        self.0.asked.store(true, Ordering::Relaxed);
        let connecting = plain::connect(&self.0.addresses);
        let connected = match self.0.until {
            Some(until) => tokio::time::timeout_at(until, connecting).await.map_err(|_| Why::Silent)?,
            None => connecting.await,
        };
        let stream = connected.map_err(|error| Why::Said(error.to_string()))?;
        self.0.made.store(true, Ordering::Relaxed);
        Ok(stream)
    }

    /// Whether a connection was made for it, TLS and all. One that was begun but outrun by another that became free is none.
    pub(super) fn made_connection(&self) -> bool {
        self.0.made.load(Ordering::Relaxed)
    }

    /// Whether it asked for a connection that did not come about, so far at least.
    pub(super) fn lacks_connection(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) && !self.made_connection()
    }
}

/// When an attempt ends, if it and those after it are `left` to share the time to `deadline`; nothing for the last one, which ends with the
/// poll.
pub(super) fn end_of_attempt(deadline: Instant, left: usize) -> Option<Instant> {
    let now = Instant::now();
    let part = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
    (left > 1).then(|| now + part)
}

/// The addresses of a host in the order in which they are tried, the one that `worked` first. Two of different IP versions make one attempt,
/// so that a network without IPv6 costs 0.3 s and not a part of the poll.
pub(super) fn attempts(addresses: &[SocketAddr], worked: Option<IpAddr>) -> Vec<Vec<SocketAddr>> {
    if let [only] = addresses {
        return vec![vec![*only]];
    }
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (leading, others): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let mut attempts = vec![Vec::new(); leading.len().max(others.len())];
    for addresses in [leading, others] {
        for (attempt, address) in attempts.iter_mut().zip(addresses) {
            attempt.push(address);
        }
    }
    let has_worked = |address: &SocketAddr| Some(address.ip()) == worked;
    if let Some(at) = attempts.iter().position(|attempt| attempt.iter().any(has_worked))
        && let Some(attempt) = attempts.get_mut(at)
    {
        attempt.sort_by_key(|address| !has_worked(address));
        attempts.get_mut(..=at).unwrap_or_default().rotate_right(1);
    }
    attempts
}

/// Gives the connector the addresses that were resolved and judged for the request under way, whatever name it asks for: a `serverName`
/// stands in the place of the host there.
#[derive(Debug)]
pub(super) struct Judged;

impl Resolve for Judged {
    fn resolve(&self, _: Name) -> Resolving {
        // Read here, not in the future: the connector may be carried on by a task of its own.
        let addresses = ATTEMPT.try_with(|attempt| attempt.0.addresses.clone());
        Box::pin(std::future::ready(match addresses {
            Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
            Err(error) => Err(error.into()),
        }))
    }
}

/// Watches the HTTP client's connector.
#[derive(Clone, Debug)]
pub(super) struct Watch;

impl<C> Layer<C> for Watch {
    type Service = Watched<C>;

    fn layer(&self, connector: C) -> Watched<C> {
        Watched(connector)
    }
}

/// A connector that notes for the request under way what becomes of it, and ends when the attempt's part of the time does.
#[derive(Clone, Debug)]
pub(super) struct Watched<C>(C);

type BoxError = Box<dyn Error + Send + Sync>;

impl<C, To> Service<To> for Watched<C>
where
    C: Service<To, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, to: To) -> Self::Future {
        let until = ATTEMPT.try_with(|attempt| {
            attempt.0.asked.store(true, Ordering::Relaxed);
            attempt.0.until
        });
        let connecting = self.0.call(to);
        Box::pin(async move {
            let connection = match until {
                Ok(Some(until)) => tokio::time::timeout_at(until, connecting).await.map_err(|_| Silent)??,
                _ => connecting.await?,
            };
            // Only where it is waited for: one that is carried on by a task of its own is kept for somebody else.
            let _ = ATTEMPT.try_with(|attempt| attempt.0.made.store(true, Ordering::Relaxed));
            Ok(connection)
        })
    }
}

/// The attempt's part of the time is over.
#[derive(Debug, thiserror::Error)]
#[error("no answer in time")]
pub(super) struct Silent;

/// The attempts of one call that brought no connection.
#[derive(Debug, Default)]
pub(super) struct Unconnected {
    failed: Vec<(SocketAddr, Why)>,
    /// The one that is being made.
    attempt: Option<Attempt>,
}

/// Why no connection came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Silent,
    Said(String),
}

impl Unconnected {
    /// Another attempt begins.
    pub(super) fn begin(&mut self, attempt: &Attempt) {
        self.attempt = Some(attempt.clone());
    }

    /// It brought no connection.
    pub(super) fn failed(&mut self, why: &Why) {
        let Some(attempt) = self.attempt.take() else { return };
        self.failed.extend(attempt.0.addresses.iter().map(|address| (*address, why.clone())));
    }

    /// What is said of a call that was cut off, if that was while it had no connection yet.
    pub(super) fn cut_off(mut self, proxied: bool) -> Option<CallError> {
        self.attempt.as_ref().filter(|attempt| attempt.lacks_connection())?;
        self.failed(&Why::Silent);
        Some(self.told(proxied))
    }

    /// What is said when every address was tried. Silence everywhere is a matter of time; else somebody said no.
    pub(super) fn told(&self, proxied: bool) -> CallError {
        let all_silent = self.failed.iter().all(|(_, why)| *why == Why::Silent);
        let reason = if all_silent { Reason::Timeout } else { Reason::Connect };
        let same = self.failed.windows(2).all(|pair| matches!(pair, [(_, one), (_, other)] if one == other));
        let mut text = String::from(if proxied { "no connection through the proxy " } else { "no connection to " });
        for (number, (address, why)) in self.failed.iter().take(MOST_NAMED).enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            let _ = write!(text, "{separator}{address}");
            match why {
                _ if same => {}
                Why::Silent => text.push_str(" (no answer in time)"),
                Why::Said(words) => _ = write!(text, " ({words})"),
            }
        }
        let more = self.failed.len().saturating_sub(MOST_NAMED);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        match self.failed.first() {
            Some((_, Why::Said(words))) if same => _ = write!(text, ": {words}"),
            Some((_, Why::Silent)) if same => text.push_str(" in time"),
            _ => {}
        }
        CallError::new(reason, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 80)).collect()
    }

    fn order(texts: &[&str], worked: Option<&str>) -> Vec<Vec<String>> {
        let attempts = attempts(&addresses(texts), worked.map(|text| text.parse().unwrap()));
        attempts.iter().map(|attempt| attempt.iter().map(|address| address.ip().to_string()).collect()).collect()
    }

    #[test]
    fn the_address_that_worked_comes_first_and_others_keep_their_order() {
        let three = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        assert_eq!(order(&three, None), [["10.0.0.1"], ["10.0.0.2"], ["10.0.0.3"]]);
        assert_eq!(order(&three, Some("10.0.0.3")), [["10.0.0.3"], ["10.0.0.1"], ["10.0.0.2"]]);
        assert_eq!(order(&three, Some("10.0.0.9")), [["10.0.0.1"], ["10.0.0.2"], ["10.0.0.3"]], "it is gone");
        assert_eq!(order(&[], None), Vec::<Vec<String>>::new());
    }

    #[test]
    fn addresses_of_both_ip_versions_are_tried_in_pairs() {
        let mixed = ["2001:db8::1", "2001:db8::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"];
        assert_eq!(
            order(&mixed, None),
            [vec!["2001:db8::1", "10.0.0.1"], vec!["2001:db8::2", "10.0.0.2"], vec!["10.0.0.3"]]
        );
        assert_eq!(
            order(&mixed, Some("10.0.0.2")),
            [vec!["10.0.0.2", "2001:db8::2"], vec!["2001:db8::1", "10.0.0.1"], vec!["10.0.0.3"]]
        );
    }

    /// The sentence where these addresses failed, each for its reason.
    fn told(failed: &[(&str, Option<&str>)], proxied: bool) -> (Reason, String) {
        let why = |words: Option<&str>| words.map_or(Why::Silent, |words| Why::Said(words.to_owned()));
        let failed = failed.iter().map(|(address, words)| (addresses(&[address])[0], why(*words))).collect();
        let CallError { reason, message } = Unconnected { failed, attempt: None }.told(proxied);
        (reason, message)
    }

    #[test]
    fn the_sentence_names_a_few_addresses_and_says_what_became_of_each() {
        let told = |failed: &[_]| told(failed, false);
        assert_eq!(told(&[("10.0.0.1", None)]), (Reason::Timeout, "no connection to 10.0.0.1:80 in time".to_owned()));
        assert_eq!(
            told(&[("10.0.0.1", None), ("::1", None), ("10.0.0.3", None), ("10.0.0.4", None), ("10.0.0.5", None)]),
            (Reason::Timeout, "no connection to 10.0.0.1:80, [::1]:80, 10.0.0.3:80 and 2 more in time".to_owned())
        );
        assert_eq!(
            told(&[("10.0.0.1", Some("refused")), ("10.0.0.2", Some("refused"))]),
            (Reason::Connect, "no connection to 10.0.0.1:80, 10.0.0.2:80: refused".to_owned())
        );
        assert_eq!(
            told(&[("10.0.0.1", None), ("10.0.0.2", Some("refused"))]),
            (Reason::Connect, "no connection to 10.0.0.1:80 (no answer in time), 10.0.0.2:80 (refused)".to_owned())
        );
    }

    #[test]
    fn where_there_is_a_proxy_it_is_the_proxy_s_address() {
        let told = told(&[("10.0.0.1", Some("refused"))], true);
        assert_eq!(told, (Reason::Connect, "no connection through the proxy 10.0.0.1:80: refused".to_owned()));
    }
}
