//! Lists the objects of a collection and then watches them, for as long as the events are received.
//!
//! It is used in place of `kube::runtime::watcher`, which has no deadline for a page of a list nor for the start of a watch, and which
//! does not list again while the API server refuses the resource version that it resumes from. It only reports what the API server
//! shows; what that means is decided by the receiver of the events.

mod pager;

#[cfg(test)]
pub(super) mod tests;

use std::fmt::Debug;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, Request, WatchEvent as RawEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::client::{ApiClient, ApiError, BELIEVED_DENIALS, PolicyRule};
use super::settings::Scope;
use crate::backoff::Backoff;
use pager::{ListPage, Pager};

/// A watch that the API server has not ended this long after its timeout runs over a dead connection.
const WATCH_GRACE: Duration = Duration::from_secs(5);
/// A watch that ends sooner than this counts as failed.
const SHORTEST_WATCH: Duration = Duration::from_secs(5);
/// The longest delay between attempts while nothing was listed yet.
const FIRST_LIST_RETRY: Duration = Duration::from_secs(2);

/// An object as the watch reads it.
pub(super) trait WatchedObject: Clone + Debug + DeserializeOwned + Send + 'static {
    /// Where the watch resumes after this object.
    fn resource_version(&self) -> Option<&str>;
}

impl<K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static> WatchedObject for K {
    fn resource_version(&self) -> Option<&str> {
        self.meta().resource_version.as_deref()
    }
}

/// What is listed and watched: the objects of one resource, in one namespace or in all.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    /// Empty: the core group.
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    /// The plural name, as it stands in a URL and in a Role.
    pub(super) resource: &'static str,
    pub(super) scope: Scope,
}

impl Collection {
    /// The objects of a built-in kind in one namespace.
    pub(super) fn of<K: k8s_openapi::Resource>(namespace: &str) -> Self {
        Self { group: K::GROUP, version: K::VERSION, resource: K::URL_PATH_SEGMENT, scope: Some(namespace.into()) }
    }

    /// The path of its URL.
    pub(super) fn path(&self) -> String {
        let Self { group, version, resource, scope } = self;
        let api = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match scope {
            Some(namespace) => format!("{api}/namespaces/{namespace}/{resource}"),
            None => format!("{api}/{resource}"),
        }
    }

    /// The permission that `verb` needs.
    pub(super) fn rule(&self, verb: &'static str) -> PolicyRule {
        PolicyRule::new(verb, self.group, self.resource, self.scope.as_deref())
    }
}

/// Which objects are watched, when they are listed again, and how long the delays after failures are.
#[derive(Clone, Debug)]
pub(super) struct WatchConfig {
    pub(super) label_selector: Option<String>,
    pub(super) field_selector: Option<String>,
    /// Objects in one page, fewer where they are large.
    pub(super) page_size: u32,
    /// Everything is listed again when nothing, not even a bookmark, was received for this long, over however many watches.
    pub(super) relist_after_silence: Option<Duration>,
    /// The API server ends each watch after this, and the next one begins where it ended: a cheap request, by which a dead connection is
    /// noticed.
    pub(super) watch_timeout: Duration,
    /// Everything is listed again after a watch that has shown nothing at all, not even the bookmark that the API server sends shortly
    /// before it ends one: changes made in that time may never be shown.
    pub(super) relist_after_silent_watch: bool,
    /// The interval between lists where listing is permitted and watching is not.
    pub(super) list_instead_of_watch: Duration,
    /// After this many failures in a row, the resource version that the watch resumes from may be what is wrong.
    pub(super) failures_before_relist: u32,
    /// The longest delay after a failure.
    pub(super) longest_backoff: Duration,
    /// The longest delay after a missing permission.
    pub(super) longest_denied_backoff: Duration,
    /// The longest delay while the API server does not know the resource.
    pub(super) longest_missing_backoff: Duration,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            label_selector: None,
            field_selector: None,
            page_size: 200,
            relist_after_silence: None,
            watch_timeout: Duration::from_secs(60),
            relist_after_silent_watch: false,
            list_instead_of_watch: Duration::from_mins(3),
            failures_before_relist: 5,
            longest_backoff: Duration::from_secs(15),
            longest_denied_backoff: Duration::from_secs(15),
            longest_missing_backoff: Duration::from_secs(15),
        }
    }
}

/// What a watch reports.
#[derive(Clone, Debug)]
pub(super) enum WatchEvent<K> {
    /// A list begins. A list before it that did not end is void.
    ListStarted,
    /// A part of the list.
    ListPage(Vec<K>),
    /// The list is complete: what it did not show does not exist.
    ListFinished,
    /// An object was created or changed.
    Applied(K),
    /// An object was deleted; this is its last state.
    Deleted(K),
    /// The permission to list or to watch is missing, and has been for several attempts.
    Denied,
    /// It does not work. It is tried again until it does.
    Failed(ApiError),
    /// It works again after it had failed.
    Recovered,
}

/// The events of `collection`. It runs while it is polled, and never ends.
pub(super) fn watch<K: WatchedObject>(
    client: &ApiClient,
    collection: Collection,
    config: WatchConfig,
) -> BoxStream<'static, WatchEvent<K>> {
    // One event is buffered, so that the next page is requested while this one is processed.
    let (sender, mut receiver) = mpsc::channel(1);
    let watch = ListWatch {
        client: client.clone(),
        failure_backoff: Backoff::up_to(config.longest_backoff),
        denied_backoff: Backoff::up_to(config.longest_denied_backoff),
        collection,
        config,
        events: sender,
        has_failed: false,
        denials: 0,
        was_listed: false,
    };
    let mut run = Box::pin(watch.run());
    stream::poll_fn(move |cx| {
        let event = receiver.poll_recv(cx);
        if event.is_ready() {
            return event;
        }
        let _ = run.as_mut().poll(cx);
        receiver.poll_recv(cx)
    })
    .boxed()
}

struct ListWatch<K> {
    client: ApiClient,
    collection: Collection,
    config: WatchConfig,
    events: mpsc::Sender<WatchEvent<K>>,
    failure_backoff: Backoff,
    denied_backoff: Backoff,
    /// Whether the last attempt failed.
    has_failed: bool,
    /// Missing permissions in a row.
    denials: u32,
    was_listed: bool,
}

/// How a watch ended that had started.
enum WatchEnd {
    /// The API server ended it at its timeout, or earlier.
    Closed,
    /// The API server does not know the resource version any more.
    Expired,
    /// It is time for a new list.
    Relist,
}

impl<K: WatchedObject> ListWatch<K> {
    async fn run(mut self) {
        loop {
            match self.list().await {
                Ok(Some(version)) => {
                    self.was_listed = true;
                    self.recovered().await;
                    self.watch_from(version).await;
                }
                Ok(None) => {
                    tracing::debug!(resource = self.collection.resource, "the list has expired before its end");
                    self.back_off().await;
                }
                Err(error) => self.failed(error).await,
            }
        }
    }

    /// Lists everything, page by page. Returns the resource version that a watch resumes from; `None`: the list has expired.
    async fn list(&self) -> Result<Option<String>, ApiError> {
        self.emit(WatchEvent::ListStarted).await;
        let params = ListParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            ..ListParams::default()
        };
        let rule = self.collection.rule("list");
        let mut pager = Pager::new(&self.client, rule, self.collection.path(), params, self.config.page_size);
        let mut token = None;
        loop {
            let Some(ListPage { items, next, version }) = pager.page(token.take()).await? else { return Ok(None) };
            self.emit(WatchEvent::ListPage(items)).await;
            if next.is_none() {
                self.emit(WatchEvent::ListFinished).await;
                return Ok(version);
            }
            token = next;
        }
    }

    /// Watches, again and again, until a new list is needed.
    async fn watch_from(&mut self, mut version: String) {
        let listed = Instant::now();
        let mut received_at = None;
        let mut failures = 0;
        while failures < self.config.failures_before_relist {
            let opened = self.open(&version).await;
            let started = Instant::now();
            let ended = match opened {
                Ok(Some(events)) => {
                    self.denials = 0;
                    self.recovered().await;
                    self.read(events, &mut version, received_at.get_or_insert(started)).await
                }
                Ok(None) => Ok(WatchEnd::Expired),
                Err(error) => Err(error),
            };
            let has_lasted = started.elapsed() >= SHORTEST_WATCH;
            if has_lasted {
                self.failure_backoff.reset();
                self.denied_backoff.reset();
                failures = 0;
            }
            match ended {
                Ok(WatchEnd::Relist) => return,
                Ok(WatchEnd::Closed) if has_lasted => {}
                Ok(WatchEnd::Closed) => {
                    failures += 1;
                    self.back_off().await;
                }
                Ok(WatchEnd::Expired) => {
                    tracing::debug!(resource = self.collection.resource, version, "the resource version has expired");
                    return self.back_off().await;
                }
                Err(ApiError::NotFound) => return self.back_off().await,
                Err(error) => {
                    let is_denied = matches!(error, ApiError::Forbidden(_));
                    failures += u32::from(!is_denied);
                    self.failed(error).await;
                    // A list for every denied watch would cost too much.
                    if is_denied && listed.elapsed() >= self.config.list_instead_of_watch {
                        return;
                    }
                }
            }
        }
    }

    /// Starts one watch; `None`: the resource version has expired.
    async fn open(
        &self,
        version: &str,
    ) -> Result<Option<impl Stream<Item = kube::Result<RawEvent<K>>> + use<K>>, ApiError> {
        let params = WatchParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            timeout: u32::try_from(self.config.watch_timeout.as_secs()).ok(),
            ..WatchParams::default()
        };
        let request = async {
            let request = Request::new(self.collection.path()).watch(&params, version);
            let events = self.client.kube().request_events(request.map_err(kube::Error::BuildRequest)?).await;
            match events {
                Err(kube::Error::Api(status)) if status.code == 410 => Ok(None),
                events => events.map(Some),
            }
        };
        self.client.call(self.collection.rule("watch"), request).await
    }

    /// Reads one watch to its end. `version` and `received_at` are those of the last event, which may be one of an earlier watch.
    async fn read(
        &mut self,
        events: impl Stream<Item = kube::Result<RawEvent<K>>>,
        version: &mut String,
        received_at: &mut Instant,
    ) -> Result<WatchEnd, ApiError> {
        let started = Instant::now();
        let deadline = started + self.config.watch_timeout + WATCH_GRACE;
        let mut must_relist = self.config.relist_after_silent_watch;
        let mut events = pin!(events);
        loop {
            let silent_at = self.config.relist_after_silence.map(|silence| *received_at + silence);
            let until = silent_at.map_or(deadline, |silent_at| silent_at.min(deadline));
            let event = match timeout_at(until, events.next()).await {
                Ok(Some(event)) => event,
                Ok(None) if must_relist && started.elapsed() >= SHORTEST_WATCH => return Ok(WatchEnd::Relist),
                Ok(None) => return Ok(WatchEnd::Closed),
                Err(_) if until < deadline || must_relist => return Ok(WatchEnd::Relist),
                Err(_) => return Err(ApiError::silent("it did not end a watch in time")),
            };
            let event = match event {
                Ok(RawEvent::Error(status)) if status.code == 410 => return Ok(WatchEnd::Expired),
                Ok(RawEvent::Error(status)) => Err(kube::Error::Api(status.boxed())),
                Err(kube::Error::Api(status)) if status.code == 410 => return Ok(WatchEnd::Expired),
                event => event,
            };
            let event = self.client.judge(self.collection.rule("watch"), event)?;
            must_relist = false;
            let (shown_version, event) = match event {
                RawEvent::Added(object) | RawEvent::Modified(object) => {
                    (object.resource_version().map(str::to_owned), Some(WatchEvent::Applied(object)))
                }
                RawEvent::Deleted(object) => {
                    (object.resource_version().map(str::to_owned), Some(WatchEvent::Deleted(object)))
                }
                RawEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), None),
                RawEvent::Error(_) => (None, None),
            };
            if let Some(shown_version) = shown_version.filter(|version| !version.is_empty()) {
                *version = shown_version;
            }
            if let Some(event) = event {
                self.emit(event).await;
            }
            *received_at = Instant::now();
        }
    }

    async fn recovered(&mut self) {
        if std::mem::take(&mut self.has_failed) {
            self.emit(WatchEvent::Recovered).await;
        }
    }

    /// Reports a failure and waits before the next attempt.
    async fn failed(&mut self, error: ApiError) {
        self.has_failed = true;
        let is_denied = matches!(error, ApiError::Forbidden(_));
        self.denials = if is_denied { self.denials.saturating_add(1) } else { 0 };
        let delay = if is_denied { self.denied_backoff.next() } else { self.failure_backoff.next() };
        let longest = match &error {
            ApiError::NotFound => self.config.longest_missing_backoff,
            ApiError::Unreachable(_) if !self.was_listed => FIRST_LIST_RETRY,
            _ => Duration::MAX,
        };
        let is_denied = self.denials >= BELIEVED_DENIALS;
        self.emit(if is_denied { WatchEvent::Denied } else { WatchEvent::Failed(error) }).await;
        sleep(delay.min(longest)).await;
    }

    async fn back_off(&mut self) {
        sleep(self.failure_backoff.next()).await;
    }

    /// Waits until the event is received. Without a receiver there is nothing left to do.
    async fn emit(&self, event: WatchEvent<K>) {
        if self.events.send(event).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// What a watch of a single object reports.
#[derive(Clone, Debug)]
pub(super) enum ObjectEvent<K> {
    /// The object as it is now; `None`: it does not exist.
    Observed(Option<K>),
    /// It may not be listed or watched.
    Denied,
    /// The API server did not show it. It is tried again until it does.
    Failed(ApiError),
}

/// The longest delay between attempts to read a single object: an API server that is back is noticed at once.
const OBJECT_RETRY: Duration = Duration::from_secs(2);
/// The longest delay between attempts that lack a permission.
pub(super) const DENIED_RETRY: Duration = Duration::from_secs(30);

/// The states of the object `name`. It is read again when nothing was received for `silence`, and after every failure.
pub(super) fn watch_object<K>(
    client: &ApiClient,
    namespace: &str,
    name: &str,
    silence: Duration,
) -> BoxStream<'static, ObjectEvent<K>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + k8s_openapi::Resource + WatchedObject,
{
    let config = WatchConfig {
        field_selector: Some(format!("metadata.name={name}")),
        relist_after_silence: Some(silence),
        list_instead_of_watch: DENIED_RETRY,
        failures_before_relist: 1,
        longest_backoff: OBJECT_RETRY,
        longest_denied_backoff: DENIED_RETRY,
        ..WatchConfig::default()
    };
    let mut listed = None;
    let states = watch::<K>(client, Collection::of::<K>(namespace), config).filter_map(move |event| {
        let event = match event {
            WatchEvent::ListStarted => {
                listed = None;
                None
            }
            WatchEvent::ListPage(page) => {
                listed = page.into_iter().next().or_else(|| listed.take());
                None
            }
            WatchEvent::ListFinished => Some(ObjectEvent::Observed(listed.take())),
            WatchEvent::Applied(object) => Some(ObjectEvent::Observed(Some(object))),
            WatchEvent::Deleted(_) => Some(ObjectEvent::Observed(None)),
            WatchEvent::Denied => Some(ObjectEvent::Denied),
            WatchEvent::Failed(error) => Some(ObjectEvent::Failed(error)),
            WatchEvent::Recovered => None,
        };
        std::future::ready(event)
    });
    states.boxed()
}
