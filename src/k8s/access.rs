//! How the API server is reached, and what its answers mean: whose fault an error is, and which permission is missing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::runtime::watcher;
use kube::{Client, Config};
use tokio::time::Instant;

use super::proxy;
use crate::error_chain;

/// No call takes longer, watches apart. An API server that is slower than this is as good as away. A webhook has 10 s by default, and what it
/// is blamed for should still be heard.
const DEADLINE: Duration = Duration::from_secs(12);

/// No connection that waits for an answer is silent for longer: kube starts its watches without a deadline, and the API server ends each after
/// five minutes.
const SILENCE: Duration = Duration::from_mins(6);

/// As many denials in a row are believed: an API server that has just started denies everything for a moment.
pub(super) const BELIEVED_DENIALS: u32 = 3;

/// A missing permission is told when it is denied again after this, for the same reason.
const TOLD_DENIAL: Duration = Duration::from_secs(3);

/// The cluster cannot be reached at all, and waiting would not help: nobody said where it is, or who we are.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Neither a kubeconfig nor a pod's own token.
    #[error("no cluster to watch: {0}; give --targets to read targets from files, or a kubeconfig by KUBECONFIG")]
    NoConfig(String),
    /// The kubeconfig lacks the context, or has another fault.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// What it says cannot be used.
    #[error("the cluster's address or credentials cannot be used: {0}")]
    Client(String),
}

/// A cluster, and who we are in it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The namespace of our pod, or of the kubeconfig's context.
    namespace: Arc<str>,
    denied: Arc<Mutex<HashMap<Rule, Denial>>>,
}

/// A permission that is missing, or seems to be.
#[derive(Clone, Copy, Debug)]
struct Denial {
    since: Instant,
    told: bool,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of `context` in the kubeconfig; without one, that of its current context or of the pod that we run in.
    ///
    /// Nothing is asked of it yet. A pod's token is read again when it is rotated.
    pub async fn connect(context: Option<&str>) -> Result<Self, AccessError> {
        let variable = |name: &str| std::env::var(name).ok();
        proxy::check(variable).map_err(|error| AccessError::Client(error.to_string()))?;
        let kubeconfig = Kubeconfig::read();
        let proxy_url = kubeconfig.as_ref().ok().and_then(|kubeconfig| proxy_url(kubeconfig, context));
        let mut config = match context {
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
                let kubeconfig = kubeconfig.map_err(|error| AccessError::Kubeconfig(error_chain::one_line(&error)))?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.map_err(|error| AccessError::Kubeconfig(error_chain::one_line(&error)))?
            }
            None => Config::infer().await.map_err(|error| AccessError::NoConfig(error.to_string()))?,
        };
        let proxy = proxy::choose(&config.cluster_url, proxy_url.as_deref(), variable);
        let proxy = proxy.map_err(|error| AccessError::Client(error.to_string()))?;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(SILENCE);
        // Whoever calls knows better when to try again, and what became worthless meanwhile.
        config.default_retry = false;
        let namespace = config.default_namespace.clone().into();
        config.proxy_url = None;
        let client = match proxy {
            None => Client::try_from(config),
            Some(proxy) => {
                tracing::info!(proxy = proxy::place(&proxy), "the API server is reached through a proxy");
                proxy::through(&proxy, &config)
            }
        };
        let client = client.map_err(|error| AccessError::Client(error_chain::one_line(&error)))?;
        Ok(Self { client, namespace, denied: Arc::default() })
    }

    /// A cluster that nobody answers for.
    #[cfg(test)]
    pub(super) fn unreachable() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
        config.default_retry = false;
        Self::behind(Client::try_from(config).unwrap())
    }

    /// A cluster that `client` answers for.
    #[cfg(test)]
    pub(super) fn behind(client: Client) -> Self {
        Self { client, namespace: "default".into(), denied: Arc::default() }
    }

    /// The namespace of our pod, or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// For typed calls. Each goes through [`call`](Self::call), watches apart.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for an answer, but not for long. A permission that stays missing is logged once, and again only
    /// after it was there.
    pub(super) async fn call<T>(
        &self,
        rule: Rule,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        let result = tokio::time::timeout(DEADLINE, request).await;
        let result =
            result.unwrap_or_else(|_| Err(kube::Error::Service(format!("no answer within {DEADLINE:?}").into())));
        self.judge(rule, result)
    }

    /// What the answer to a call or a watch means. For those that do not go through [`call`](Self::call).
    pub(super) fn judge<T>(&self, rule: Rule, result: kube::Result<T>) -> Result<T, ApiError> {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let result = result.map_err(|error| ApiError::new(&rule, &error));
        match &result {
            // Permission is asked for before the object is looked for, or compared with what it should be.
            Ok(_) | Err(ApiError::NotFound | ApiError::Conflict(_)) => {
                if !denied.is_empty() && denied.remove(&rule).is_some_and(|denial| denial.told) {
                    tracing::info!(verb = rule.verb, resource = rule.resource, "permission is granted now");
                }
            }
            // What was asked is noted, since its success will end this; what is missing is told, which may be another verb.
            Err(ApiError::Forbidden(missing)) => {
                let denial = denied.entry(rule).or_insert_with(|| Denial { since: Instant::now(), told: false });
                if !denial.told && denial.since.elapsed() >= TOLD_DENIAL {
                    denial.told = true;
                    tracing::warn!(
                        verb = missing.verb,
                        resource = missing.resource,
                        api_group = missing.group,
                        namespace = missing.namespace.as_deref(),
                        "{missing}"
                    );
                }
            }
            Err(_) => {}
        }
        result
    }
}

/// `proxy-url` of the cluster of a context; without one, of the current one.
fn proxy_url(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster)?;
    cluster.cluster.as_ref()?.proxy_url.clone()
}

/// The permission that a call needs, as it stands in a Role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) verb: &'static str,
    pub(super) group: &'static str,
    /// Plural, with the subresource: `scrapetargets/status`.
    pub(super) resource: &'static str,
    /// `None`: in all namespaces.
    pub(super) namespace: Option<Arc<str>>,
}

impl Rule {
    pub(super) fn new(
        verb: &'static str,
        group: &'static str,
        resource: &'static str,
        namespace: Option<&str>,
    ) -> Self {
        Self { verb, group, resource, namespace: namespace.map(Arc::from) }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, namespace } = self;
        match namespace {
            Some(namespace) => {
                write!(f, "not permitted in namespace {namespace}: a Role or ClusterRole must have the rule ")?;
            }
            None => f.write_str("not permitted: a ClusterRole must have the rule ")?,
        }
        write!(f, "{{apiGroups: [{group:?}], resources: [{resource:?}], verbs: [{verb:?}]}}")
    }
}

/// Why a call brought nothing, by whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// Of whoever installed us: a permission is missing.
    #[error("{0}")]
    Forbidden(Rule),
    /// Nobody's: the object, or its whole kind, is not there.
    #[error("it does not exist")]
    NotFound,
    /// Nobody's: somebody else was faster, or has other ideas.
    #[error("conflict: {0}")]
    Conflict(String),
    /// Ours, or of an admission webhook: what we wrote is not taken, and would not be next time.
    #[error("refused: {0}")]
    Refused(String),
    /// Of the API server or of a webhook that it must ask, about what was sent: another object may fare better.
    #[error("{0}")]
    Failed(String),
    /// Of the API server, the way to it or our credentials; it passes.
    #[error("{0}")]
    Unreachable(String),
}

impl ApiError {
    fn new(rule: &Rule, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            let way = proxy::WayError::behind(error).map(|error| Self::Unreachable(error.to_string()));
            return way.unwrap_or_else(|| Self::silent(error_chain::one_line(error)));
        };
        match status.code {
            403 => match denied_verb(&status.message) {
                Some(verb) => Self::Forbidden(Rule { verb, ..rule.clone() }),
                None if status.message.is_empty() => Self::Forbidden(rule.clone()),
                // A quota, a webhook or a namespace that is being deleted forbids as well, and no permission would help.
                None => Self::Refused(status.message.clone()),
            },
            404 => Self::NotFound,
            409 => Self::Conflict(status.message.clone()),
            400 | 405 | 413 | 415 | 422 => Self::Refused(status.message.clone()),
            401 => Self::Unreachable(format!("the API server does not take our credentials: {}", status.message)),
            429 => Self::Unreachable(format!("the API server has no time for us: {}", status.message)),
            500 if is_of_the_object(status) => {
                Self::Failed(format!("the API server fails with status 500: {}", status.message))
            }
            code => Self::Unreachable(format!("the API server fails with status {code}: {}", status.message)),
        }
    }

    /// No answer at all.
    pub(super) fn silent(why: impl fmt::Display) -> Self {
        Self::Unreachable(format!("the API server does not answer: {why}"))
    }
}

/// Whether a failure may be about the object alone. It is not where the API server says that it has no time, where its own store fails,
/// nor where something in front of it answers, which has no `Status` to send.
fn is_of_the_object(status: &Status) -> bool {
    let of_a_server = ["ServerTimeout", "Failed to parse error data"].contains(&status.reason.as_str());
    !of_a_server && !status.message.starts_with("etcdserver: ")
}

/// The verb of a denial, which always reads `r.g "n" is forbidden: User "u" cannot create resource "r" in API group "g"`: an apply that
/// has to create its object needs more than `patch`. A webhook may use the same words, after `… denied the request: `.
fn denied_verb(message: &str) -> Option<&'static str> {
    const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let (what, denial) = message.split_once(r#" is forbidden: User ""#)?;
    let mut words = denial.split_once(r#"" cannot "#)?.1.split_whitespace();
    let verb = words.next()?;
    VERBS.into_iter().find(|known| *known == verb).filter(|_| words.next() == Some("resource") && !what.contains(": "))
}

/// What was asked for when a watch went wrong, and how it did.
pub(super) fn asked(error: watcher::Error) -> (&'static str, kube::Error) {
    match error {
        watcher::Error::InitialListFailed(error) => ("list", error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => ("watch", error),
        watcher::Error::WatchError(status) => ("watch", kube::Error::Api(status)),
        watcher::Error::NoResourceVersion => ("list", kube::Error::Service(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_verb_that_is_missing_and_a_quota_is_no_denial() {
        let denial = r#"x "a" is forbidden: User "u" cannot create resource "x" in API group "g" in the namespace "n""#;
        assert_eq!(denied_verb(denial), Some("create"));
        let all = r#"x.g is forbidden: User "system:serviceaccount:n:u" cannot list resource "x" in API group "g" at the cluster scope"#;
        assert_eq!(denied_verb(all), Some("list"));
        assert_eq!(denied_verb(r#"x "a" is forbidden: User "u" cannot use resource "x""#), None);
        assert_eq!(denied_verb(r#"x "a" is forbidden: exceeded quota: q"#), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_that_passes_within_seconds_is_not_told_and_one_that_stays_is_told_once() {
        let (log, _guard) = super::super::outage::tests::Log::begin();
        let cluster = Cluster::unreachable();
        let rule = || Rule::new("list", "", "leases", Some("n"));
        let judge = |denied: bool| {
            let message = r#"leases is forbidden: User "u" cannot list resource "leases" in API group """#;
            let denial = || Status::failure(message, "Forbidden").with_code(403);
            let result = if denied { Err(kube::Error::Api(Box::new(denial()))) } else { Ok(()) };
            assert_eq!(cluster.judge(rule(), result).is_err(), denied);
        };
        judge(true);
        tokio::time::advance(TOLD_DENIAL / 2).await;
        judge(true);
        judge(false);
        assert_eq!((log.count("must have the rule"), log.count("is granted now")), (0, 0), "it had only just started");
        for _ in 0..4 {
            judge(true);
            tokio::time::advance(TOLD_DENIAL).await;
        }
        judge(false);
        assert_eq!((log.count("must have the rule"), log.count("is granted now")), (1, 1));
    }

    #[test]
    fn the_words_of_a_webhook_are_no_denial() {
        for words in [
            "you cannot create a Service here",
            "User may not: your team cannot create resource here",
            r#"x "a" is forbidden: User "u" cannot create resource "x" in API group "g""#,
        ] {
            let message = format!(r#"admission webhook "w.example.com" denied the request: {words}"#);
            assert_eq!(denied_verb(&message), None, "{message}");
        }
    }

    #[test]
    fn a_failure_is_of_the_object_unless_it_is_of_the_api_server_or_of_something_before_it() {
        let judge = |code, reason: &str, message: &str| {
            let status = Status::failure(message, reason).with_code(code);
            ApiError::new(&Rule::new("patch", "", "x", None), &kube::Error::Api(Box::new(status)))
        };
        let webhook = "Internal error occurred: failed calling webhook \"w.example.com\": connection refused";
        let failed = format!("the API server fails with status 500: {webhook}");
        assert_eq!(judge(500, "InternalError", webhook), ApiError::Failed(failed));
        for (code, reason, message) in [
            (500, "ServerTimeout", "The patch operation against x could not be completed at this time"),
            (500, "", "etcdserver: request timed out"),
            (500, "Failed to parse error data", "<html>"),
            (401, "Unauthorized", "Unauthorized"),
            (429, "TooManyRequests", "too many requests"),
            (502, "Failed to parse error data", "bad gateway"),
            (503, "ServiceUnavailable", "shutting down"),
            (504, "Timeout", "request did not complete within the allotted timeout"),
        ] {
            let judged = judge(code, reason, message);
            assert!(matches!(judged, ApiError::Unreachable(_)), "{code} {reason}: {judged:?}");
        }
    }
}
