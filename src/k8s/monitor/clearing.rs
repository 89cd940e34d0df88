//! Discovery without ServiceMonitors: those that an earlier mode left are removed, once, and every target is told why it has none.

use futures::{StreamExt, stream};
use kube::api::ListParams;

use super::super::access::{ApiError, BELIEVED_DENIALS, Cluster};
use super::super::backoff::Backoff;
use super::super::catalog::MonitorState;
use super::super::{DiscoveryMode, Settings, Shared};
use super::place::Place;
use super::requests::{Trouble, Writes};
use super::sight::PAGE;
use super::{Scope, labels, monitors, scopes};
use crate::crd::ConditionStatus;
use crate::target::TargetId;

/// Takes as many targets at once, before others get a turn.
const BATCH: usize = 256;

/// Removals under way at the same time.
const IN_FLIGHT: usize = 8;

/// How long one page of the list may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Until somebody else leads.
pub(super) async fn run(writes: Writes) {
    let shared = &writes.shared;
    shared.monitors.mark(shared.catalog.ids());
    let mut clearing = std::pin::pin!(clear(&writes));
    let mut cleared = false;
    let mut leadership = writes.leadership.clone();
    loop {
        tokio::select! {
            () = leadership.lost() => return,
            () = &mut clearing, if !cleared => cleared = true,
            () = shared.monitors.marked() => {
                for id in shared.monitors.take(BATCH) {
                    tell(shared, &id);
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn tell(shared: &Shared, id: &TargetId) {
    let message = match shared.settings.discovery.mode {
        DiscoveryMode::HttpSd => "discovery.mode is httpSD: Prometheus finds the target by /sd",
        _ => "discovery.mode is none: no ServiceMonitor is written",
    };
    let state = MonitorState { status: ConditionStatus::True, reason: "Disabled", message: message.to_owned() };
    if shared.catalog.put_monitor(id, Some(state)) {
        shared.statuses.add(id.clone());
    }
}

/// Until a list comes back empty, or nothing is left that we may do: the permissions of this mode do not include it, unless whoever
/// changed the mode left them for a while.
async fn clear(writes: &Writes) {
    until_clear(|| attempt(writes.clone())).await;
}

/// Removes what can be found.
async fn attempt(writes: Writes) -> Attempt {
    let (found, mut attempt) = find(&writes).await;
    attempt.left = found.len();
    let removals = stream::iter(found).map(move |Ours { place, uid }| {
        let writes = writes.clone();
        async move { (writes.remove(&place, uid).await, place) }
    });
    let mut removals = std::pin::pin!(removals.buffer_unordered(IN_FLIGHT));
    while let Some((removed, place)) = removals.next().await {
        match removed {
            Ok(()) => {
                attempt.left -= 1;
                attempt.again = true; // whether it is really gone, the next list tells
            }
            Err(Trouble::Api(ApiError::Forbidden(_))) => attempt.denied = true,
            Err(trouble) => {
                tracing::debug!(monitor = %place, ?trouble, "an earlier mode's monitor stays for now");
                attempt.again = true;
            }
        }
    }
    attempt
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    /// Monitors that were found and stay.
    left: usize,
    /// Another attempt may find less.
    again: bool,
    /// A permission is missing, or so it looks.
    denied: bool,
}

async fn until_clear<A: Future<Output = Attempt>>(mut attempt: impl FnMut() -> A) {
    let mut backoff = Backoff::new();
    let mut said = false;
    let mut denials = 0;
    loop {
        let Attempt { left, again, denied } = attempt().await;
        if left > 0 && !said {
            said = true;
            tracing::warn!(
                left,
                "ServiceMonitors of an earlier discovery.mode could not be removed, Prometheus still uses them"
            );
        }
        denials = if denied { denials + 1 } else { 0 };
        if !again && (denials == 0 || denials >= BELIEVED_DENIALS) {
            return;
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// All that can be found; the attempt says whether there may be more.
async fn find(writes: &Writes) -> (Vec<Ours>, Attempt) {
    let shared = &writes.shared;
    let (mut found, mut attempt) = (Vec::new(), Attempt::default());
    for scope in scopes(&shared.settings) {
        let mut token = None;
        loop {
            let page = page(&shared.cluster, &scope, &shared.settings, token.take());
            match tokio::time::timeout(DEADLINE, page).await {
                Ok(Ok((ours, next))) => {
                    found.extend(ours);
                    token = next;
                }
                // Without the right or the kind there is nothing to do here, and nobody to be told.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {
                    tracing::debug!(%status, "cannot look for monitors of an earlier mode");
                    attempt.denied |= status.code == 403;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot look for monitors of an earlier mode yet");
                    attempt.again = true;
                }
                Err(_) => {
                    tracing::debug!("cannot look for monitors of an earlier mode yet: no answer");
                    attempt.again = true;
                }
            }
            if token.is_none() {
                break;
            }
        }
    }
    (found, attempt)
}

/// A monitor that this release wrote.
#[derive(Debug)]
pub(in crate::k8s) struct Ours {
    pub(in crate::k8s) place: Place,
    pub(in crate::k8s) uid: String,
}

/// Lists a part of what this release wrote, and says how to go on: by `token`.
pub(in crate::k8s) async fn page(
    cluster: &Cluster,
    scope: &Scope,
    settings: &Settings,
    token: Option<String>,
) -> kube::Result<(Vec<Ours>, Option<String>)> {
    let mut how = ListParams::default().labels(&labels::selector(settings)).limit(PAGE);
    how.continue_token = token;
    let list = monitors(cluster, scope.as_deref()).list(&how).await?;
    let next = list.metadata.continue_.filter(|token| !token.is_empty());
    let found = list.items.into_iter().map(|object| Ours {
        place: Place {
            namespace: object.metadata.namespace.unwrap_or_default().into(),
            name: object.metadata.name.unwrap_or_default().into(),
        },
        uid: object.metadata.uid.unwrap_or_default(),
    });
    Ok((found.collect(), next))
}

#[cfg(test)]
mod tests {
    use super::super::super::leader::Leadership;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_until_nothing_is_left_that_could_be_removed() {
        let attempt = |left, again| Attempt { left, again, denied: false };
        let mut attempts = [attempt(0, true), attempt(3, true), attempt(2, true), attempt(2, false)].into_iter();
        until_clear(|| std::future::ready(attempts.next().unwrap())).await;
        assert_eq!(attempts.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_denial_is_not_believed_and_several_end_it() {
        let attempt = |denied| Attempt { left: 0, again: false, denied };
        let mut cleared = [attempt(true), attempt(false)].into_iter();
        until_clear(|| std::future::ready(cleared.next().unwrap())).await;
        assert_eq!(cleared.len(), 0);

        let mut attempts = 0;
        until_clear(|| {
            attempts += 1;
            std::future::ready(attempt(true))
        })
        .await;
        assert_eq!(attempts, BELIEVED_DENIALS);
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_answer_is_asked_again() {
        let writes = Writes { shared: Shared::idle(), leadership: Leadership::never() };
        let (found, attempt) = find(&writes).await;
        assert!(found.is_empty() && attempt.again);
    }
}
