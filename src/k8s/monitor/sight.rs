//! The ServiceMonitors of this release as the API server shows them: a watch of each namespace that we look after, or of all.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use super::super::Settings;
use super::super::access::{ApiError, Cluster, Rule};
use super::{GROUP, PLURAL, labels, monitors};

/// A namespace; `None`: all.
pub(in crate::k8s) type Scope = Option<Arc<str>>;

/// Where monitors of ours can be: everywhere, or in each watched namespace and in our own.
pub(in crate::k8s) fn scopes(settings: &Settings) -> Vec<Scope> {
    if settings.watch_namespaces.is_empty() {
        return vec![None];
    }
    let mut names: Vec<&String> = settings.watch_namespaces.iter().chain([&settings.namespace]).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| Some(Arc::from(name.as_str()))).collect()
}

/// How long the next page of a list may take. A watch that runs has a limit of its own.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a watch shows.
pub(super) type Seen = Event<DynamicObject>;

/// What was seen, and in which of the [`scopes`].
pub(super) type Sighting = (usize, Result<Seen, ApiError>);

/// Watches `scopes`. After an error it goes on by itself, with growing pauses.
pub(super) fn watch(
    cluster: &Cluster,
    settings: &Settings,
    scopes: &[Scope],
) -> SelectAll<BoxStream<'static, Sighting>> {
    let config = watcher::Config::default().labels(&labels::selector(settings));
    let watches = scopes.iter().enumerate().map(|(index, scope)| {
        let cluster = cluster.clone();
        let scope = scope.clone();
        let (api, config) = (monitors(&cluster, scope.as_deref()), config.clone());
        let events = bounded(move || watcher(api.clone(), config.clone()).default_backoff().boxed());
        events.map(move |event| (index, judge(&cluster, scope.as_deref(), event))).boxed()
    });
    stream::select_all(watches)
}

type Raw = BoxStream<'static, watcher::Result<Seen>>;

/// What the stream of `start` brings. One that is silent in the middle of a list is given up for a new one.
fn bounded(start: impl Fn() -> Raw + Send + 'static) -> impl Stream<Item = watcher::Result<Seen>> + Send {
    let first = (start(), false);
    stream::unfold((start, first), |(start, (mut events, mut listing))| async move {
        loop {
            let next = if listing {
                tokio::time::timeout(DEADLINE, events.next()).await
            } else {
                Ok(events.next().await) // a quiet watch, or a pause after an error
            };
            if let Ok(event) = next {
                let event = event?;
                listing = matches!(event, Ok(Event::Init | Event::InitApply(_)));
                return Some((event, (start, (events, listing))));
            }
            tracing::debug!("a list of ServiceMonitors does not come, asking anew");
            events = start();
            listing = false;
        }
    })
}

/// Whose fault an error is. A list or a change that comes tells that it is permitted by now.
fn judge(cluster: &Cluster, scope: Option<&str>, event: watcher::Result<Seen>) -> Result<Seen, ApiError> {
    let (verb, result) = match event {
        Ok(event @ Event::InitDone) => ("list", Ok(event)),
        Ok(event @ (Event::Apply(_) | Event::Delete(_))) => ("watch", Ok(event)),
        Ok(event) => return Ok(event),
        Err(watcher::Error::InitialListFailed(error)) => ("list", Err(error)),
        Err(watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error)) => ("watch", Err(error)),
        Err(watcher::Error::WatchError(status)) => ("watch", Err(kube::Error::Api(status))),
        Err(error @ watcher::Error::NoResourceVersion) => return Err(ApiError::Unreachable(error.to_string())),
    };
    cluster.judge(Rule::new(verb, GROUP, PLURAL, scope), result)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_hangs_is_begun_anew_and_a_quiet_watch_is_left_alone() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        let mut events = bounded(move || {
            let hangs = counted.fetch_add(1, Ordering::Relaxed) == 0;
            let shown = if hangs { vec![Ok(Event::Init)] } else { vec![Ok(Event::Init), Ok(Event::InitDone)] };
            stream::iter(shown).chain(stream::pending()).boxed()
        })
        .boxed();
        for _ in 0..2 {
            assert!(matches!(events.next().await, Some(Ok(Event::Init))));
        }
        assert!(matches!(events.next().await, Some(Ok(Event::InitDone))));
        assert!(tokio::time::timeout(DEADLINE * 20, events.next()).await.is_err());
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }
}
