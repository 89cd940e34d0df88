//! The modes `httpSD` and `none`: removes the ServiceMonitors that an earlier mode wrote, and reports in `MonitorReady` why there are none.

use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, stream};

use super::client::{MonitorClient, MonitorError, OwnedMonitor, list_page, scopes};
use super::condition::disabled_by_mode;
use crate::backoff::Backoff;
use crate::k8s::Shared;
use crate::k8s::client::{ApiError, BELIEVED_DENIALS};
use crate::target::TargetId;

/// Deletions in flight.
const IN_FLIGHT: usize = 8;

/// The deadline for one page of a list.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs until another replica leads.
pub(super) async fn run(client: MonitorClient) {
    let shared = &client.shared;
    shared.enqueue_monitors(shared.targets.ids());
    let mut removal = pin!(remove_all(|| remove_found(client.clone())));
    let mut removed = false;
    let mut leadership = client.leadership.clone();
    loop {
        tokio::select! {
            () = leadership.lost() => return,
            () = &mut removal, if !removed => removed = true,
            item = shared.monitors.next() => {
                if let Some(id) = item.key().target() {
                    set_condition(shared, id);
                }
            }
        }
    }
}

fn set_condition(shared: &Shared, id: &TargetId) {
    let state = disabled_by_mode(shared.settings.discovery.mode);
    if shared.targets.put_monitor(id, Some(state)) {
        shared.statuses.add(id.clone());
    }
}

/// The result of one attempt to remove all monitors.
#[derive(Clone, Copy, Debug, Default)]
struct RemovalAttempt {
    /// Monitors that were found and not deleted.
    left: usize,
    /// Whether another attempt may get further.
    retry: bool,
    /// Whether a permission is missing, or seems to be.
    denied: bool,
}

/// Repeats the attempt until a list is empty, or deleting what is left is not permitted: the Role of these modes does not include
/// ServiceMonitors, unless they were left in it for a while after the mode was changed.
async fn remove_all<A: Future<Output = RemovalAttempt>>(mut attempt: impl FnMut() -> A) {
    let mut backoff = Backoff::new();
    let mut warned = false;
    let mut denials = 0;
    loop {
        let RemovalAttempt { left, retry, denied } = attempt().await;
        if left > 0 && !warned {
            warned = true;
            tracing::warn!(
                left,
                "ServiceMonitors of an earlier discovery.mode could not be deleted, Prometheus still uses them"
            );
        }
        denials = if denied { denials + 1 } else { 0 };
        if !retry && (denials == 0 || denials >= BELIEVED_DENIALS) {
            return;
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Deletes the monitors that can be found.
async fn remove_found(client: MonitorClient) -> RemovalAttempt {
    let (found, mut attempt) = find(&client).await;
    attempt.left = found.len();
    let deletions = stream::iter(found).map(move |OwnedMonitor { monitor, uid }| {
        let client = client.clone();
        async move { (client.delete(&monitor, uid).await, monitor) }
    });
    let mut deletions = pin!(deletions.buffer_unordered(IN_FLIGHT));
    while let Some((deleted, monitor)) = deletions.next().await {
        match deleted {
            Ok(()) => {
                attempt.left -= 1;
                attempt.retry = true; // the next list shows whether it is gone: a finalizer may hold it
            }
            Err(MonitorError::Api(ApiError::Forbidden(_))) => attempt.denied = true,
            Err(error) => {
                tracing::debug!(%monitor, ?error, "a ServiceMonitor of an earlier mode is kept for now");
                attempt.retry = true;
            }
        }
    }
    attempt
}

/// Lists the monitors of this release in all scopes. The attempt says whether there may be more.
async fn find(client: &MonitorClient) -> (Vec<OwnedMonitor>, RemovalAttempt) {
    let shared = &client.shared;
    let (mut found, mut attempt) = (Vec::new(), RemovalAttempt::default());
    for scope in scopes(&shared.settings) {
        let mut token = None;
        loop {
            let page = list_page(&shared.client, &scope, &shared.settings, token.take());
            match tokio::time::timeout(DEADLINE, page).await {
                Ok(Ok((owned, next))) => {
                    found.extend(owned);
                    token = next;
                }
                // Not a fault in these modes, so it is not logged as a missing permission.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {
                    tracing::debug!(%status, "cannot list ServiceMonitors of an earlier mode");
                    attempt.denied |= status.code == 403;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot list ServiceMonitors of an earlier mode yet");
                    attempt.retry = true;
                }
                Err(_) => {
                    tracing::debug!("cannot list ServiceMonitors of an earlier mode yet: no answer");
                    attempt.retry = true;
                }
            }
            if token.is_none() {
                break;
            }
        }
    }
    (found, attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::leader::Leadership;

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_until_nothing_is_left_that_could_be_removed() {
        let attempt = |left, retry| RemovalAttempt { left, retry, denied: false };
        let mut attempts = [attempt(0, true), attempt(3, true), attempt(2, true), attempt(2, false)].into_iter();
        remove_all(|| std::future::ready(attempts.next().unwrap())).await;
        assert_eq!(attempts.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_denial_is_tried_again_and_several_end_it() {
        let attempt = |denied| RemovalAttempt { left: 0, retry: false, denied };
        let mut attempts = [attempt(true), attempt(false)].into_iter();
        remove_all(|| std::future::ready(attempts.next().unwrap())).await;
        assert_eq!(attempts.len(), 0);

        let mut attempts = 0;
        remove_all(|| {
            attempts += 1;
            std::future::ready(attempt(true))
        })
        .await;
        assert_eq!(attempts, BELIEVED_DENIALS);
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_answer_is_tried_again() {
        let client = MonitorClient { shared: Shared::idle(), leadership: Leadership::never() };
        let (found, attempt) = find(&client).await;
        assert!(found.is_empty() && attempt.retry);
    }
}
