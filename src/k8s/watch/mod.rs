//! The watch of ScrapeTargets: what the API server shows, as reports that the controller takes one after another.
//!
//! It judges manifests, but decides nothing: it neither knows pollers nor writes anything.

mod convert;
mod scope;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(super) use convert::Observed;

use super::Shared;
use super::access::ApiError;
use crate::target::TargetId;
use scope::Scope;

/// What one scope says.
#[derive(Debug)]
pub(super) struct Report {
    /// Which scope, by its place among those that were started.
    pub(super) scope: usize,
    pub(super) news: News,
}

/// What there is to say of a scope.
#[derive(Debug)]
pub(super) enum News {
    /// A list begins. What an earlier one showed that did not end is void.
    Listing,
    /// A part of the list.
    Page(Vec<Observed>),
    /// The list is complete: what it did not show does not exist.
    Listed,
    /// An object is new, or different.
    Applied(Box<Observed>),
    /// An object is gone.
    Deleted(TargetId),
    /// We may not look, and this will not pass in a moment.
    Denied,
    /// It does not work; it is tried again until it does.
    Failing(ApiError),
    /// It works again.
    Works,
}

/// Reports that may wait for the controller. A page is one report, so this bounds memory as well.
const WAITING: usize = 64;

/// Watches each of the namespaces, or all of them together. Returns the namespaces (`None`: all) and what is said of them.
pub(super) fn start(
    shared: &Shared,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> (Vec<Option<Arc<str>>>, mpsc::Receiver<Report>) {
    let namespaces = shared.settings.watched();
    let (reports, receiver) = mpsc::channel(WAITING);
    for (index, namespace) in namespaces.iter().enumerate() {
        let selector = shared.settings.target_selector.as_ref();
        let scope = Scope::new(index, shared.cluster.clone(), namespace.as_deref(), selector, reports.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = scope.follow() => {}
            }
            "the watch of ScrapeTargets"
        });
    }
    (namespaces, receiver)
}
