//! Attempts to connect: to which addresses, one after the other and each within its part of the time, and whether a connection was made for
//! a call or one was reused.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, select};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::failure::{CallError, Reason};

tokio::task_local! {
    /// The attempt of the request under way.
    static ATTEMPT: ConnectAttempt;
    /// Whether the connection that is being made may resume a TLS session. Unlike the attempt it is known as well where the connection is
    /// finished in a task of its own.
    static RESUMES: bool;
}

/// Whether the connection that is being made may resume a session that another connection has left under the name of its server. Members of
/// a target have one name and are several servers, each with its own certificate, which is then verified on every connection.
pub(super) fn resumes() -> bool {
    RESUMES.try_with(|resumes| *resumes).unwrap_or(true)
}

/// How long a connection to the first address is waited for before the second is tried as well, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(300);

/// How many addresses are named in an error message.
const MAX_NAMED: usize = 3;

/// An attempt to send one request, over a connection to one of some addresses.
#[derive(Clone, Debug)]
pub(super) struct ConnectAttempt(Arc<AttemptState>);

#[derive(Debug)]
struct AttemptState {
    addresses: Vec<SocketAddr>,
    /// When the attempt ends; `None`: with the poll.
    deadline: Option<Instant>,
    /// The request needed a new connection.
    is_started: AtomicBool,
    /// The connection has been made.
    is_connected: AtomicBool,
}

impl ConnectAttempt {
    /// With addresses that may be contacted, one of each IP version at most: both are tried, the second a moment later.
    fn new(addresses: Vec<SocketAddr>, deadline: Option<Instant>) -> Self {
        Self(Arc::new(AttemptState {
            addresses,
            deadline,
            is_started: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
        }))
    }

    /// The address that is tried first.
    pub(super) fn first_address(&self) -> Option<SocketAddr> {
        self.0.addresses.first().copied()
    }

    /// Sends a request. It reuses a connection if none is made meanwhile; one that is made resumes a TLS session only if it `resumes`.
    pub(super) async fn during<R: Future>(&self, request: R, resumes: bool) -> R::Output {
        RESUMES.scope(resumes, ATTEMPT.scope(self.clone(), request)).await
    }

    /// Connects over TCP.
    pub(super) async fn connect(&self) -> Result<TcpStream, ConnectFailure> {
        self.0.is_started.store(true, Ordering::Relaxed);
        let connecting = connect_any(&self.0.addresses);
        let connected = match self.0.deadline {
            Some(deadline) => {
                tokio::time::timeout_at(deadline, connecting).await.map_err(|_| ConnectFailure::TimedOut)?
            }
            None => connecting.await,
        };
        let stream = connected.map_err(|error| ConnectFailure::Error(error.to_string()))?;
        self.0.is_connected.store(true, Ordering::Relaxed);
        Ok(stream)
    }

    /// Whether a connection was made for the request, including TLS. One that was begun while another became free does not count.
    pub(super) fn is_connected(&self) -> bool {
        self.0.is_connected.load(Ordering::Relaxed)
    }

    /// Whether a connection was begun and has not been made so far.
    pub(super) fn is_connecting(&self) -> bool {
        self.0.is_started.load(Ordering::Relaxed) && !self.is_connected()
    }
}

/// The attempts to send one request, in order. Each begins when it is taken: then its part of the time is known.
pub(super) struct ConnectAttempts {
    addresses: std::vec::IntoIter<Vec<SocketAddr>>,
    deadline: Instant,
}

impl ConnectAttempts {
    /// To the addresses of a host, with `last_good` first, until `deadline`.
    pub(super) fn new(addresses: &[SocketAddr], last_good: Option<IpAddr>, deadline: Instant) -> Self {
        Self { addresses: attempts(addresses, last_good).into_iter(), deadline }
    }

    /// Whether the attempt that was taken last is the last one.
    pub(super) fn is_last(&self) -> bool {
        self.addresses.len() == 0
    }
}

impl Iterator for ConnectAttempts {
    type Item = ConnectAttempt;

    fn next(&mut self) -> Option<ConnectAttempt> {
        let left = self.addresses.len();
        let addresses = self.addresses.next()?;
        Some(ConnectAttempt::new(addresses, end_of_attempt(self.deadline, left)))
    }
}

/// Connects to the first of one or two addresses that accepts. The error is that of the address that failed last.
pub(super) async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let stream = match *addresses {
        [first, second, ..] => connect_either(first, second).await?,
        [only] => TcpStream::connect(only).await?,
        [] => return Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    stream.set_nodelay(true)?; // the end of a request that takes two packets must not wait for an acknowledgement
    Ok(stream)
}

async fn connect_either(first: SocketAddr, second: SocketAddr) -> io::Result<TcpStream> {
    let mut preferred = pin!(TcpStream::connect(first));
    if let Ok(connected) = tokio::time::timeout(HEAD_START, &mut preferred).await {
        return match connected {
            Ok(stream) => Ok(stream),
            Err(_) => TcpStream::connect(second).await,
        };
    }
    match select(preferred, pin!(TcpStream::connect(second))).await {
        Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
        Either::Left((connected, _)) | Either::Right((connected, _)) => connected,
    }
}

/// When an attempt ends, if it and those after it are `left` to share the time to `deadline`; nothing for the last one, which ends with the
/// poll.
fn end_of_attempt(deadline: Instant, left: usize) -> Option<Instant> {
    let now = Instant::now();
    let part = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
    (left > 1).then(|| now + part)
}

/// The addresses of a host in the order in which they are tried, with `last_good` first. Two of different IP versions make one attempt, so
/// that a network without IPv6 costs 0.3 s and not a part of the poll.
fn attempts(addresses: &[SocketAddr], last_good: Option<IpAddr>) -> Vec<Vec<SocketAddr>> {
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
    let is_last_good = |address: &SocketAddr| Some(address.ip()) == last_good;
    if let Some(at) = attempts.iter().position(|attempt| attempt.iter().any(is_last_good))
        && let Some(attempt) = attempts.get_mut(at)
    {
        attempt.sort_by_key(|address| !is_last_good(address));
        attempts.get_mut(..=at).unwrap_or_default().rotate_right(1);
    }
    attempts
}

/// The addresses of the attempt under way. To be asked when a connector is called, not by what it returns, which may be carried on by a task of
/// its own.
pub(super) fn current_addresses() -> Vec<SocketAddr> {
    ATTEMPT.try_with(|attempt| attempt.0.addresses.clone()).unwrap_or_default()
}

/// The resolver of the HTTP client. It returns the addresses of the attempt in progress, which have been checked, whatever the name: with
/// `serverName` it is not the host.
#[derive(Debug)]
pub(super) struct AttemptResolver;

impl Resolve for AttemptResolver {
    fn resolve(&self, _: Name) -> Resolving {
        // Read here, not in the future: the connector may be carried on by a task of its own.
        let addresses = ATTEMPT.try_with(|attempt| attempt.0.addresses.clone());
        Box::pin(std::future::ready(match addresses {
            Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
            Err(error) => Err(error.into()),
        }))
    }
}

/// Wraps the HTTP client's connector in an [`AttemptConnector`].
#[derive(Clone, Debug)]
pub(super) struct AttemptLayer;

impl<C> Layer<C> for AttemptLayer {
    type Service = AttemptConnector<C>;

    fn layer(&self, connector: C) -> AttemptConnector<C> {
        AttemptConnector(connector)
    }
}

/// A connector that records its progress in the attempt under way, and observes the attempt's deadline.
#[derive(Clone, Debug)]
pub(super) struct AttemptConnector<C>(C);

/// Any error of a connector.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

impl<C, To> Service<To> for AttemptConnector<C>
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
        let deadline = ATTEMPT.try_with(|attempt| {
            attempt.0.is_started.store(true, Ordering::Relaxed);
            attempt.0.deadline
        });
        let connecting = RESUMES.scope(resumes(), self.0.call(to));
        Box::pin(async move {
            let connection = match deadline {
                Ok(Some(deadline)) => {
                    tokio::time::timeout_at(deadline, connecting).await.map_err(|_| AttemptTimedOut)??
                }
                _ => connecting.await?,
            };
            // Only within the request's task: a connection that the client finishes in a task of its own is for another request.
            let _ = ATTEMPT.try_with(|attempt| attempt.0.is_connected.store(true, Ordering::Relaxed));
            Ok(connection)
        })
    }
}

/// The deadline of an attempt has passed.
#[derive(Debug, thiserror::Error)]
#[error("no answer in time")]
pub(super) struct AttemptTimedOut;

/// The addresses to which one call could not connect.
#[derive(Debug, Default)]
pub(super) struct ConnectFailures {
    failed: Vec<(SocketAddr, ConnectFailure)>,
    /// The attempt under way.
    attempt: Option<ConnectAttempt>,
}

/// Why no connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConnectFailure {
    TimedOut,
    Error(String),
}

impl ConnectFailures {
    /// Begins another attempt.
    pub(super) fn begin(&mut self, attempt: &ConnectAttempt) {
        self.attempt = Some(attempt.clone());
    }

    /// Records that the attempt has failed.
    pub(super) fn add(&mut self, why: &ConnectFailure) {
        let Some(attempt) = self.attempt.take() else { return };
        self.failed.extend(attempt.0.addresses.iter().map(|address| (*address, why.clone())));
    }

    /// The error of a call whose deadline has passed, if it was still connecting.
    pub(super) fn on_deadline(mut self, proxied: bool) -> Option<CallError> {
        self.attempt.as_ref().filter(|attempt| attempt.is_connecting())?;
        self.add(&ConnectFailure::TimedOut);
        Some(self.call_error(proxied))
    }

    /// The error of a call for which every address was tried. It is a timeout if none of them answered.
    pub(super) fn call_error(&self, proxied: bool) -> CallError {
        let all_timed_out = self.failed.iter().all(|(_, why)| *why == ConnectFailure::TimedOut);
        let reason = if all_timed_out { Reason::Timeout } else { Reason::Connect };
        let same = self.failed.windows(2).all(|pair| matches!(pair, [(_, one), (_, other)] if one == other));
        let mut text = String::from(if proxied { "no connection through the proxy " } else { "no connection to " });
        for (number, (address, why)) in self.failed.iter().take(MAX_NAMED).enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            let _ = write!(text, "{separator}{address}");
            match why {
                _ if same => {}
                ConnectFailure::TimedOut => text.push_str(" (no answer in time)"),
                ConnectFailure::Error(words) => _ = write!(text, " ({words})"),
            }
        }
        let more = self.failed.len().saturating_sub(MAX_NAMED);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        match self.failed.first() {
            Some((_, ConnectFailure::Error(words))) if same => _ = write!(text, ": {words}"),
            Some((_, ConnectFailure::TimedOut)) if same => text.push_str(" in time"),
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

    fn order(texts: &[&str], last_good: Option<&str>) -> Vec<Vec<String>> {
        let attempts = attempts(&addresses(texts), last_good.map(|text| text.parse().unwrap()));
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

    /// The error where these addresses failed, each for its reason.
    fn message(failed: &[(&str, Option<&str>)], proxied: bool) -> (Reason, String) {
        let why = |words: Option<&str>| {
            words.map_or(ConnectFailure::TimedOut, |words| ConnectFailure::Error(words.to_owned()))
        };
        let failed = failed.iter().map(|(address, words)| (addresses(&[address])[0], why(*words))).collect();
        let CallError { reason, message } = ConnectFailures { failed, attempt: None }.call_error(proxied);
        (reason, message)
    }

    #[test]
    fn the_sentence_names_a_few_addresses_and_says_what_became_of_each() {
        let message = |failed: &[_]| message(failed, false);
        assert_eq!(
            message(&[("10.0.0.1", None)]),
            (Reason::Timeout, "no connection to 10.0.0.1:80 in time".to_owned())
        );
        assert_eq!(
            message(&[("10.0.0.1", None), ("::1", None), ("10.0.0.3", None), ("10.0.0.4", None), ("10.0.0.5", None)]),
            (Reason::Timeout, "no connection to 10.0.0.1:80, [::1]:80, 10.0.0.3:80 and 2 more in time".to_owned())
        );
        assert_eq!(
            message(&[("10.0.0.1", Some("refused")), ("10.0.0.2", Some("refused"))]),
            (Reason::Connect, "no connection to 10.0.0.1:80, 10.0.0.2:80: refused".to_owned())
        );
        assert_eq!(
            message(&[("10.0.0.1", None), ("10.0.0.2", Some("refused"))]),
            (Reason::Connect, "no connection to 10.0.0.1:80 (no answer in time), 10.0.0.2:80 (refused)".to_owned())
        );
    }

    #[test]
    fn where_there_is_a_proxy_it_is_the_proxy_s_address() {
        let message = message(&[("10.0.0.1", Some("refused"))], true);
        assert_eq!(message, (Reason::Connect, "no connection through the proxy 10.0.0.1:80: refused".to_owned()));
    }
}
