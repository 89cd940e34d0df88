//! One scope, all namespaces or one of them: lists it, then watches it, for ever.
//!
//! `kube::runtime::watcher` would do the same, but has no deadline for the start of a watch nor for a page, and never lists again
//! while the server refuses the version that it asks from.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::super::access::{ApiError, BELIEVED_DENIALS, Cluster, Rule};
use super::super::backoff::Backoff;
use super::super::object::Shown;
use super::super::pages::{Page, Pages};
use super::super::settings::Selector;
use super::convert::{Converted, convert};
use super::{News, Report};
use crate::target::TargetId;

/// Objects in one answer, fewer where they are large: a large fleet is never in memory as JSON.
const PAGE: u32 = 200;
/// A watch is ended by the server after this, and begun anew: one cheap request, and a dead connection is noticed.
const WATCH: Duration = Duration::from_secs(60);
/// A server that is this late to end a watch is not there any more.
const GRACE: Duration = Duration::from_secs(5);
/// A watch that ends sooner than this did not work.
const SHORT: Duration = Duration::from_secs(5);
/// While the CRD is missing somebody is installing it.
const MISSING_RETRY: Duration = Duration::from_secs(4);
/// While nothing is known every scrape is answered by 503.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// After as many failures in a row, the version that the watch asks from may be what is wrong.
const FAILURES_BEFORE_LIST: u32 = 5;
/// Whoever may list but not watch lists this seldom: often enough to notice a new target, seldom enough for a large cluster.
const LIST_INSTEAD: Duration = Duration::from_mins(3);

/// A scope that is followed.
pub(super) struct Scope {
    index: usize,
    cluster: Cluster,
    api: Api<Shown>,
    list: Rule,
    watch: Rule,
    selector: Option<String>,
    reports: mpsc::Sender<Report>,
    backoff: Backoff,
    /// Denials in a row, while something is wrong.
    failing: Option<u32>,
    /// Nothing is known before the first list.
    listed: bool,
}

/// How a watch ended that worked.
enum Ended {
    /// The server had enough of it, as it should.
    InTime,
    /// The version that it would go on from is not known any more.
    Expired,
}

impl Scope {
    pub(super) fn new(
        index: usize,
        cluster: Cluster,
        namespace: Option<&str>,
        selector: Option<&Selector>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let api = match namespace {
            Some(namespace) => Api::namespaced(cluster.client(), namespace),
            None => Api::all(cluster.client()),
        };
        let rule = |verb| Rule::new(verb, "scrapetarget.dev", "scrapetargets", namespace);
        Self {
            index,
            cluster,
            api,
            list: rule("list"),
            watch: rule("watch"),
            selector: selector.map(|selector| selector.as_str().to_owned()),
            reports,
            backoff: Backoff::new(),
            failing: None,
            listed: false,
        }
    }

    /// Lists and watches until it is dropped.
    pub(super) async fn follow(mut self) {
        loop {
            match self.list().await {
                Ok(Some(version)) => {
                    self.listed = true;
                    self.works().await;
                    self.watch_from(version).await;
                    self.pause().await;
                }
                Ok(None) => {
                    tracing::debug!("the list of ScrapeTargets took too long, it begins anew");
                    self.pause().await;
                }
                Err(error) => self.failed(error).await,
            }
        }
    }

    /// Lists everything, page by page. Returns the version that a watch can go on from; `None` if the list expired on the way.
    async fn list(&self) -> Result<Option<String>, ApiError> {
        self.tell(News::Listing).await;
        let mut pages = Pages::of(PAGE);
        let mut page = self.page(&mut pages, None).await?;
        loop {
            let Some(Page { items, next, version }) = page else { return Ok(None) };
            let told =
                async { self.tell(News::Page(items.into_iter().filter_map(|Converted(item)| item).collect())).await };
            let Some(token) = next else {
                told.await;
                self.tell(News::Listed).await;
                return Ok(version);
            };
            // The server makes the next page while we read this one.
            let (next, ()) = tokio::join!(self.page(&mut pages, Some(&token)), told);
            page = next?;
        }
    }

    async fn page(&self, pages: &mut Pages, token: Option<&str>) -> Result<Option<Page<Converted>>, ApiError> {
        pages.page(&self.cluster, &self.list, self.api.resource_url(), self.selector.as_deref(), token).await
    }

    /// Watches, again and again, until only a new list can help.
    async fn watch_from(&mut self, mut version: String) {
        let listed = Instant::now();
        let mut failures = 0;
        while failures < FAILURES_BEFORE_LIST {
            let opened = self.open(&version).await;
            let begun = Instant::now();
            let ended = match opened {
                Ok(Some(events)) => {
                    self.works().await;
                    let ended = self.read(events, &mut version).await;
                    if begun.elapsed() >= SHORT {
                        self.backoff.reset();
                        failures = 0;
                    }
                    ended
                }
                Ok(None) => Ok(Ended::Expired),
                Err(error) => Err(error),
            };
            match ended {
                Ok(Ended::InTime) if begun.elapsed() >= SHORT => {}
                Ok(Ended::InTime) => {
                    failures += 1;
                    self.pause().await;
                }
                Ok(Ended::Expired) => {
                    return tracing::debug!(
                        version,
                        "the version of the watch has expired, everything is listed again"
                    );
                }
                Err(ApiError::NotFound) => return,
                Err(error) => {
                    // Whoever may not watch would list every few seconds, which is too dear.
                    let denied = matches!(error, ApiError::Forbidden(_));
                    failures += u32::from(!denied);
                    self.failed(error).await;
                    if denied && listed.elapsed() >= LIST_INSTEAD {
                        return;
                    }
                }
            }
        }
    }

    /// Begins one watch; `None` if the version has expired.
    async fn open(
        &self,
        version: &str,
    ) -> Result<Option<impl Stream<Item = kube::Result<WatchEvent<Shown>>> + use<>>, ApiError> {
        let params = WatchParams {
            label_selector: self.selector.clone(),
            timeout: u32::try_from(WATCH.as_secs()).ok(),
            ..WatchParams::default()
        };
        self.cluster.call(self.watch.clone(), unless_expired(self.api.watch(&params, version))).await
    }

    /// Reads one watch to its end. `version` moves on with what it shows.
    async fn read(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<Shown>>>,
        version: &mut String,
    ) -> Result<Ended, ApiError> {
        let latest = Instant::now() + WATCH + GRACE;
        let mut events = pin!(events);
        loop {
            let Ok(event) = timeout_at(latest, events.next()).await else {
                return Err(ApiError::silent("it did not end a watch in time"));
            };
            let Some(event) = event else { return Ok(Ended::InTime) };
            let event = event.and_then(|event| match event {
                WatchEvent::Error(status) => Err(kube::Error::Api(status.boxed())),
                event => Ok(event),
            });
            if is_expired(&event) {
                return Ok(Ended::Expired);
            }
            let news = match self.cluster.judge(self.watch.clone(), event)? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    advance(version, object.metadata.resource_version.as_deref());
                    convert(object).map(|observed| News::Applied(Box::new(observed)))
                }
                WatchEvent::Deleted(object) => {
                    advance(version, object.metadata.resource_version.as_deref());
                    let (namespace, name) = (object.metadata.namespace, object.metadata.name);
                    namespace.zip(name).map(|(namespace, name)| News::Deleted(TargetId::new(&namespace, &name)))
                }
                WatchEvent::Bookmark(bookmark) => {
                    advance(version, Some(&bookmark.metadata.resource_version));
                    None
                }
                WatchEvent::Error(_) => None,
            };
            if let Some(news) = news {
                self.backoff.reset();
                self.tell(news).await;
            }
        }
    }

    async fn works(&mut self) {
        if self.failing.take().is_some() {
            self.tell(News::Works).await;
        }
    }

    /// Says what is wrong, and waits before it is tried again.
    async fn failed(&mut self, error: ApiError) {
        let denials = self.failing.get_or_insert(0);
        *denials = if matches!(error, ApiError::Forbidden(_)) { *denials + 1 } else { 0 };
        let denied = *denials == BELIEVED_DENIALS;
        let longest = match &error {
            ApiError::NotFound => MISSING_RETRY,
            ApiError::Unreachable(_) if !self.listed => FIRST_RETRY,
            _ => Duration::MAX,
        };
        self.tell(News::Failing(error)).await;
        if denied {
            self.tell(News::Denied).await;
        }
        tokio::time::sleep(self.backoff.next().min(longest)).await;
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.next()).await;
    }

    /// Waits for the controller, which is faster than any API server. Once it is gone the process ends.
    async fn tell(&self, news: News) {
        if self.reports.send(Report { scope: self.index, news }).await.is_err() {
            pending::<()>().await;
        }
    }
}

fn advance(version: &mut String, seen: Option<&str>) {
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        seen.clone_into(version);
    }
}

/// Whether the server says that it does not know a version, or a page, any more.
const fn is_expired<T>(result: &kube::Result<T>) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == 410)
}

/// `None` where the server does not know any more what is asked for: that is nobody's fault, and has a remedy.
async fn unless_expired<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<Option<T>> {
    let result = request.await;
    if is_expired(&result) { Ok(None) } else { result.map(Some) }
}
