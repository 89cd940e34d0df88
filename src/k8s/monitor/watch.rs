//! The ServiceMonitors of this release as the API server shows them: a watch of each namespace that we look after, or of all.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::Instant;

use super::client::PAGE;
use super::observed::ServiceMonitor;
use super::{GROUP, PLURAL, labels, monitors};
use crate::k8s::Settings;
use crate::k8s::backoff::Backoff;
use crate::k8s::client::{ApiClient, ApiError, PolicyRule, asked};

/// A namespace; `None`: all.
pub(in crate::k8s) type Scope = Option<Arc<str>>;

/// Where monitors of ours can be: everywhere, or in each watched namespace and in our own.
pub(in crate::k8s) fn scopes(settings: &Settings) -> Vec<Scope> {
    let mut scopes = settings.watched();
    let own = Some(Arc::from(settings.namespace.as_str()));
    if !scopes.contains(&None) && !scopes.contains(&own) {
        scopes.push(own);
    }
    scopes
}

/// How long the next page of a list may take. A watch that runs has a limit of its own.
const DEADLINE: Duration = Duration::from_secs(30);

/// The longest pause after a denial: permissions come seldom.
const LONGEST_DENIED: Duration = Duration::from_mins(1);

/// What a watch shows.
pub(super) type MonitorEvent = Event<ServiceMonitor>;

/// What was seen, and in which of the [`scopes`].
pub(super) type ScopeEvent = (usize, Result<MonitorEvent, ApiError>);

/// Watches `scopes`. After an error it goes on by itself, with growing pauses.
pub(super) fn watch(
    cluster: &ApiClient,
    settings: &Settings,
    scopes: &[Scope],
) -> SelectAll<BoxStream<'static, ScopeEvent>> {
    let config = watcher::Config::default().labels(&labels::selector(settings)).page_size(PAGE);
    let watches = scopes.iter().enumerate().map(|(index, scope)| {
        let (cluster, scope, config) = (cluster.clone(), scope.clone(), config.clone());
        let api = monitors(&cluster, scope.as_deref());
        let judge = move |event| judge(&cluster, scope.as_deref(), event);
        let events = calm(move || watcher(api.clone(), config.clone()).boxed(), judge);
        events.map(move |event| (index, event)).boxed()
    });
    stream::select_all(watches)
}

type Raw = BoxStream<'static, watcher::Result<MonitorEvent>>;

/// A watch that is begun anew as often as it must be.
struct Calm<S, J> {
    start: S,
    judge: J,
    events: Raw,
    /// In the middle of a list.
    listing: bool,
    /// After an error.
    pause: Option<Duration>,
    failing: Backoff,
    denied: Backoff,
    /// When it failed last.
    failed: Instant,
}

/// What the stream of `start` brings, as `judge` understands it. One that is silent in the middle of a list is given up for a new one, and
/// after an error there is a pause, which grows until it has worked for a while.
fn calm<S, J>(start: S, judge: J) -> impl Stream<Item = Result<MonitorEvent, ApiError>> + Send
where
    S: Fn() -> Raw + Send + 'static,
    J: Fn(watcher::Result<MonitorEvent>) -> Result<MonitorEvent, ApiError> + Send + 'static,
{
    let events = start();
    let calm = Calm {
        start,
        judge,
        events,
        listing: false,
        pause: None,
        failing: Backoff::new(),
        denied: Backoff::up_to(LONGEST_DENIED),
        failed: Instant::now(),
    };
    stream::unfold(calm, async |mut calm| Some((calm.next().await, calm)))
}

impl<S: Fn() -> Raw, J: Fn(watcher::Result<MonitorEvent>) -> Result<MonitorEvent, ApiError>> Calm<S, J> {
    async fn next(&mut self) -> Result<MonitorEvent, ApiError> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        loop {
            let next = if self.listing {
                tokio::time::timeout(DEADLINE, self.events.next()).await
            } else {
                Ok(self.events.next().await) // a quiet watch
            };
            if let Ok(Some(event)) = next {
                self.listing = matches!(event, Ok(Event::Init | Event::InitApply(_)));
                let event = (self.judge)(event);
                self.take_heed(&event);
                return event;
            }
            tracing::debug!("a list of ServiceMonitors does not come, asking anew");
            self.events = (self.start)();
            self.listing = false;
        }
    }

    fn take_heed(&mut self, event: &Result<MonitorEvent, ApiError>) {
        match event {
            // A list alone is no success: the watch that follows it may fail, and the next list is as dear as the first.
            Ok(Event::Apply(_) | Event::Delete(_)) => self.reset(),
            Ok(_) => {}
            Err(error) => {
                if self.failed.elapsed() > LONGEST_DENIED * 2 {
                    self.reset();
                }
                let is_denial = matches!(error, ApiError::Forbidden(_));
                self.pause = Some(if is_denial { self.denied.next() } else { self.failing.next() });
                self.failed = Instant::now();
            }
        }
    }

    fn reset(&mut self) {
        self.failing.reset();
        self.denied.reset();
    }
}

/// Whose fault an error is. A list or a change that comes tells that it is permitted by now.
fn judge(
    cluster: &ApiClient,
    scope: Option<&str>,
    event: watcher::Result<MonitorEvent>,
) -> Result<MonitorEvent, ApiError> {
    let (verb, result) = match event {
        Ok(event @ Event::InitDone) => ("list", Ok(event)),
        Ok(event @ (Event::Apply(_) | Event::Delete(_))) => ("watch", Ok(event)),
        Ok(event) => return Ok(event),
        Err(error) => {
            let (verb, error) = asked(error);
            (verb, Err(error))
        }
    };
    cluster.judge(PolicyRule::new(verb, GROUP, PLURAL, scope), result)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::core::Status;

    use super::*;

    fn understand(event: watcher::Result<MonitorEvent>) -> Result<MonitorEvent, ApiError> {
        judge(&ApiClient::unreachable(), None, event)
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_hangs_is_begun_anew_and_a_quiet_watch_is_left_alone() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        let start = move || {
            let hangs = counted.fetch_add(1, Ordering::Relaxed) == 0;
            let shown = if hangs { vec![Ok(Event::Init)] } else { vec![Ok(Event::Init), Ok(Event::InitDone)] };
            stream::iter(shown).chain(stream::pending()).boxed()
        };
        let mut events = calm(start, understand).boxed();
        for _ in 0..2 {
            assert!(matches!(events.next().await, Some(Ok(Event::Init))));
        }
        assert!(matches!(events.next().await, Some(Ok(Event::InitDone))));
        assert!(tokio::time::timeout(DEADLINE * 20, events.next()).await.is_err());
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }

    /// How often a watch is tried in ten minutes that fails in this way each time.
    async fn tries(fail: fn() -> Vec<watcher::Result<MonitorEvent>>) -> usize {
        let tried = AtomicUsize::new(0);
        let start = move || stream::iter(std::iter::repeat_with(fail).flatten()).boxed();
        let events = calm(start, understand).for_each(|event| {
            tried.fetch_add(usize::from(event.is_err()), Ordering::Relaxed);
            std::future::ready(())
        });
        assert!(tokio::time::timeout(Duration::from_mins(10), events).await.is_err());
        tried.into_inner()
    }

    fn status(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure("", "").with_code(code)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_listed_or_watched_is_asked_for_about_once_a_minute() {
        let listed = tries(|| vec![Ok(Event::Init), Err(watcher::Error::InitialListFailed(status(403)))]).await;
        assert!((8..=24).contains(&listed), "{listed}");
        let watched =
            tries(|| vec![Ok(Event::Init), Ok(Event::InitDone), Err(watcher::Error::WatchStartFailed(status(403)))])
                .await;
        assert!((8..=24).contains(&watched), "{watched}");
        let away = tries(|| vec![Ok(Event::Init), Err(watcher::Error::InitialListFailed(status(500)))]).await;
        assert!((30..=90).contains(&away), "{away}");
    }
}
