//! The client of the API server. Every call has its deadline here, and every answer is classified here: whose fault an error is, and which
//! permission is missing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use tokio::time::Instant;

use super::proxy;
use crate::error_chain;

/// The deadline of a call. An admission webhook has 10 s by default, so that the API server's error about one that hangs still arrives.
const DEADLINE: Duration = Duration::from_secs(12);

/// A connection that waits for an answer and receives nothing for this long is closed, whatever request uses it.
const READ_TIMEOUT: Duration = Duration::from_mins(6);

/// A permission counts as missing after this many denials in a row: an API server that has just started denies everything for a moment.
pub(super) const BELIEVED_DENIALS: u32 = 3;

/// A missing permission is logged when it is denied again after this, for the same reason.
const DENIAL_LOG_DELAY: Duration = Duration::from_secs(3);

/// There is no usable configuration of a client, so that waiting would not help.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Neither a kubeconfig nor a pod's own token.
    #[error(
        "no cluster to watch: {0}; set --targets to read targets from files, or KUBECONFIG to the path of a kubeconfig"
    )]
    NoConfig(String),
    /// The kubeconfig lacks the context, or has another fault.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// Its address or credentials cannot be used.
    #[error("the cluster's address or credentials cannot be used: {0}")]
    Client(String),
}

/// A client with an address and credentials. Cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    kube: Client,
    /// The namespace of our pod, or of the kubeconfig's context.
    namespace: Arc<str>,
    denials: Arc<Mutex<HashMap<PolicyRule, Denial>>>,
}

/// A permission that is missing, or seems to be.
#[derive(Clone, Copy, Debug)]
struct Denial {
    since: Instant,
    is_logged: bool,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// A client for `context` of the kubeconfig; without one, for its current context or for the cluster of our own pod.
    ///
    /// No request is sent yet. A pod's token is read again when it is rotated.
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
        config.read_timeout = Some(READ_TIMEOUT);
        // The caller decides when to retry, and whether the request is still of use then.
        config.default_retry = false;
        let namespace = config.default_namespace.clone().into();
        config.proxy_url = None;
        let kube = match proxy {
            None => Client::try_from(config),
            Some(proxy) => {
                tracing::info!(proxy = proxy::address(&proxy), "the API server is reached through a proxy");
                proxy::client_through(&proxy, &config)
            }
        };
        let kube = kube.map_err(|error| AccessError::Client(error_chain::one_line(&error)))?;
        Ok(Self { kube, namespace, denials: Arc::default() })
    }

    /// A client of an API server that cannot be reached.
    #[cfg(test)]
    pub(super) fn unreachable() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
        config.default_retry = false;
        Self::answered_by(Client::try_from(config).unwrap())
    }

    /// A client whose requests are answered by `kube`.
    #[cfg(test)]
    pub(super) fn answered_by(kube: Client) -> Self {
        Self { kube, namespace: "default".into(), denials: Arc::default() }
    }

    /// The namespace of our pod, or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client that makes the request of a [`call`](Self::call).
    pub(super) fn kube(&self) -> Client {
        self.kube.clone()
    }

    /// Sends `request`, which needs the permission `rule`, and waits for the answer until the deadline.
    pub(super) async fn call<T>(
        &self,
        rule: PolicyRule,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        self.call_within(DEADLINE, rule, request).await
    }

    /// The same with another deadline, for callers that cannot wait so long.
    pub(super) async fn call_within<T>(
        &self,
        deadline: Duration,
        rule: PolicyRule,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        let result = tokio::time::timeout(deadline, request).await;
        let result =
            result.unwrap_or_else(|_| Err(kube::Error::Service(format!("no answer within {deadline:?}").into())));
        self.judge(rule, result)
    }

    /// What an answer to a call, or an event of a watch, means. A permission that stays missing is logged once, and again only after it
    /// was granted meanwhile.
    pub(super) fn judge<T>(&self, rule: PolicyRule, result: kube::Result<T>) -> Result<T, ApiError> {
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        let result = result.map_err(|error| ApiError::new(&rule, &error));
        match &result {
            // The API server checks the permission before it looks for the object.
            Ok(_) | Err(ApiError::NotFound | ApiError::Conflict(_)) => {
                if !denials.is_empty() && denials.remove(&rule).is_some_and(|denial| denial.is_logged) {
                    tracing::info!(verb = rule.verb, resource = rule.resource, "permission is granted now");
                }
            }
            // The denial is kept by the rule of the call, whose success ends it. Logged is the rule that is missing, which may have another
            // verb: an apply that has to create its object needs more than `patch`.
            Err(ApiError::Forbidden(missing)) => {
                let denial = denials.entry(rule).or_insert_with(|| Denial { since: Instant::now(), is_logged: false });
                if !denial.is_logged && denial.since.elapsed() >= DENIAL_LOG_DELAY {
                    denial.is_logged = true;
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

/// The permission that a call needs: one rule of a Role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PolicyRule {
    pub(super) verb: &'static str,
    pub(super) group: &'static str,
    /// Plural, with the subresource: `scrapetargets/status`.
    pub(super) resource: &'static str,
    /// `None`: in all namespaces.
    pub(super) namespace: Option<Arc<str>>,
}

impl PolicyRule {
    pub(super) fn new(
        verb: &'static str,
        group: &'static str,
        resource: &'static str,
        namespace: Option<&str>,
    ) -> Self {
        Self { verb, group, resource, namespace: namespace.map(Arc::from) }
    }

    /// The sentence that it is missing, where several verbs are needed.
    pub(super) fn with_verbs(&self, verbs: &[&str]) -> String {
        let Self { verb: _, group, resource, namespace } = self;
        let rule = format!("the rule {{apiGroups: [{group:?}], resources: [{resource:?}], verbs: {verbs:?}}}");
        match namespace {
            Some(namespace) => {
                format!("not permitted in namespace {namespace}: a Role or ClusterRole must have {rule}")
            }
            None => format!("not permitted: a ClusterRole must have {rule}"),
        }
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_verbs(&[self.verb]))
    }
}

/// Why a call failed, by whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// A permission is missing: the fault of the installation.
    #[error("{0}")]
    Forbidden(PolicyRule),
    /// The object, or its whole kind, does not exist.
    #[error("it does not exist")]
    NotFound,
    /// Another writer has changed the object in the meantime, or owns a field that we write.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The API server or an admission webhook does not accept what we wrote, and would not accept it next time.
    #[error("refused: {0}")]
    Refused(String),
    /// The API server, or a webhook that it calls, failed at this object. Another object may succeed.
    #[error("{0}")]
    Failed(String),
    /// The API server, the network or our credentials do not work. This is temporary.
    #[error("{0}")]
    Unreachable(String),
}

impl ApiError {
    fn new(rule: &PolicyRule, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            let proxy = proxy::TunnelError::behind(error).map(|error| Self::Unreachable(error.to_string()));
            return proxy.unwrap_or_else(|| Self::silent(error_chain::one_line(error)));
        };
        match status.code {
            403 => match denied_verb(&status.message) {
                Some(verb) => Self::Forbidden(PolicyRule { verb, ..rule.clone() }),
                None if status.message.is_empty() => Self::Forbidden(rule.clone()),
                // A quota, a webhook or a namespace that is being deleted answers 403 as well, and no permission would help.
                None => Self::Refused(status.message.clone()),
            },
            404 => Self::NotFound,
            409 => Self::Conflict(status.message.clone()),
            400 | 405 | 413 | 415 | 422 => Self::Refused(status.message.clone()),
            401 => Self::Unreachable(format!("the API server does not accept our credentials: {}", status.message)),
            429 => Self::Unreachable(format!("the API server is overloaded: {}", status.message)),
            500 if is_about_the_object(status) => {
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

/// Whether a status 500 may be about the object alone. It is not where the API server is overloaded or its store fails, nor where
/// something in front of it answers, whose answer has no `Status`.
fn is_about_the_object(status: &Status) -> bool {
    let is_server = ["ServerTimeout", "Failed to parse error data"].contains(&status.reason.as_str());
    !is_server && !status.message.starts_with("etcdserver: ")
}

/// The verb of a denial by RBAC, which always reads `r.g "n" is forbidden: User "u" cannot create resource "r" in API group "g"`. A webhook
/// may use the same words, after `… denied the request: `.
fn denied_verb(message: &str) -> Option<&'static str> {
    const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let (what, denial) = message.split_once(r#" is forbidden: User ""#)?;
    let mut words = denial.split_once(r#"" cannot "#)?.1.split_whitespace();
    let verb = words.next()?;
    VERBS.into_iter().find(|known| *known == verb).filter(|_| words.next() == Some("resource") && !what.contains(": "))
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
    async fn a_denial_that_passes_within_seconds_is_not_logged_and_one_that_stays_is_logged_once() {
        let (log, _guard) = crate::k8s::outage::tests::Log::begin();
        let client = ApiClient::unreachable();
        let rule = || PolicyRule::new("list", "", "leases", Some("n"));
        let judge = |denied: bool| {
            let message = r#"leases is forbidden: User "u" cannot list resource "leases" in API group """#;
            let denial = || Status::failure(message, "Forbidden").with_code(403);
            let result = if denied { Err(kube::Error::Api(Box::new(denial()))) } else { Ok(()) };
            assert_eq!(client.judge(rule(), result).is_err(), denied);
        };
        judge(true);
        tokio::time::advance(DENIAL_LOG_DELAY / 2).await;
        judge(true);
        judge(false);
        assert_eq!((log.count("must have the rule"), log.count("is granted now")), (0, 0), "it had only just started");
        for _ in 0..4 {
            judge(true);
            tokio::time::advance(DENIAL_LOG_DELAY).await;
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
            ApiError::new(&PolicyRule::new("patch", "", "x", None), &kube::Error::Api(Box::new(status)))
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
