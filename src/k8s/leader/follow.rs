//! Follows one object by its name. What is done about it is the business of others.

use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::Api;
use kube::runtime::watcher::watch_object;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::super::access::{ApiError, BELIEVED_DENIALS, Cluster, Rule, asked};
use super::super::backoff::Backoff;

/// What a look at the object showed.
#[derive(Clone, Debug)]
pub(super) enum Look<K> {
    /// The object as it is now; `None`: it is not there.
    Seen(Option<K>),
    /// We may not look.
    Denied,
    /// The API server did not show it.
    Away(ApiError),
}

/// The first look must succeed within this.
const DEADLINE: Duration = Duration::from_secs(10);
/// When a permission is asked for again that has been missing for long.
pub(super) const DENIED_RETRY: Duration = Duration::from_secs(30);
/// So that an API server that is back is noticed at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Shows the object each time that it changes, until it is dropped. After `silence` without news it is read again: the connection may have
/// died without a word.
pub(super) async fn follow<K>(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    silence: Duration,
    mut show: impl FnMut(Look<K>),
) -> Infallible
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + k8s_openapi::Resource,
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let rule = |verb| Rule::new(verb, K::GROUP, K::URL_PATH_SEGMENT, Some(namespace));
    let api = Api::<K>::namespaced(cluster.client(), namespace);
    let (mut failing, mut denied) = (Backoff::up_to(LONGEST_PAUSE), Backoff::up_to(DENIED_RETRY));
    let mut denials = 0;
    loop {
        let mut stream = pin!(watch_object(api.clone(), name));
        // What is seen first comes from a list, the rest from a watch.
        let mut listed = false;
        let error = loop {
            let next = timeout(if listed { silence } else { DEADLINE }, stream.next()).await;
            if listed && !matches!(next, Ok(Some(Err(_)))) {
                failing.reset();
                denied.reset();
                denials = 0;
            }
            match next {
                Ok(Some(Ok(object))) => {
                    if let Ok(object) = cluster.judge(rule(if listed { "watch" } else { "list" }), Ok(object)) {
                        show(Look::Seen(object));
                    }
                    listed = true;
                }
                Ok(Some(Err(error))) => {
                    let (verb, error) = asked(error);
                    break cluster.judge(rule(verb), Err::<(), _>(error)).err();
                }
                Err(_) if !listed => break Some(ApiError::silent(format_args!("none within {DEADLINE:?}"))),
                Ok(None) | Err(_) => break None,
            }
        };
        let Some(error) = error else { continue };
        let is_denial = matches!(error, ApiError::Forbidden(_));
        denials = if is_denial { denials + 1 } else { 0 };
        show(if denials < BELIEVED_DENIALS { Look::Away(error) } else { Look::Denied });
        tokio::time::sleep(if is_denial { denied.next() } else { failing.next() }).await;
    }
}
