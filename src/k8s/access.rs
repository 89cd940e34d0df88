//! How the API server is reached, and what its answers mean: whose fault an error is, and which permission is missing.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// No call takes longer, watches apart. An API server that is slower than this is as good as away.
const DEADLINE: Duration = Duration::from_secs(10);

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
    denied: Arc<Mutex<HashSet<Rule>>>,
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
        let mut config = match context {
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
                let kubeconfig = Kubeconfig::read().map_err(|error| AccessError::Kubeconfig(chain(&error)))?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.map_err(|error| AccessError::Kubeconfig(chain(&error)))?
            }
            None => Config::infer().await.map_err(|error| AccessError::NoConfig(error.to_string()))?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        // Whoever calls knows better when to try again, and what became worthless meanwhile.
        config.default_retry = false;
        let namespace = config.default_namespace.clone().into();
        let client = Client::try_from(config).map_err(|error| AccessError::Client(chain(&error)))?;
        Ok(Self { client, namespace, denied: Arc::default() })
    }

    /// A cluster that nobody answers for.
    #[cfg(test)]
    pub(super) fn unreachable() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
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

    /// Waits for an answer, but not for long. A missing permission is logged once, and again only after it was there.
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
        match result {
            Ok(value) => {
                if !denied.is_empty() && denied.remove(&rule) {
                    tracing::info!(verb = rule.verb, resource = rule.resource, "permission is granted now");
                }
                Ok(value)
            }
            Err(error) => {
                let error = ApiError::new(&rule, &error);
                // What was asked is noted, since its success will end this; what is missing is told, which may be another verb.
                if let ApiError::Forbidden(missing) = &error
                    && denied.insert(rule)
                {
                    tracing::warn!(
                        verb = missing.verb,
                        resource = missing.resource,
                        api_group = missing.group,
                        namespace = missing.namespace.as_deref(),
                        "{missing}"
                    );
                }
                Err(error)
            }
        }
    }
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
    /// Of the API server or the way to it; it passes.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
}

impl ApiError {
    fn new(rule: &Rule, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Unreachable(chain(error)) };
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
            code => Self::Unreachable(format!("status {code}: {}", status.message)),
        }
    }
}

/// The verb of a denial, which always reads `User "u" cannot create resource "r" in API group "g"`: an apply that has to create its
/// object needs more than `patch`.
fn denied_verb(message: &str) -> Option<&'static str> {
    const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut words = message.split_once(" cannot ")?.1.split_whitespace();
    let verb = words.next()?;
    VERBS.into_iter().find(|known| *known == verb).filter(|_| words.next() == Some("resource"))
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some say their cause themselves.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_verb_that_is_missing_and_a_quota_is_no_denial() {
        let denial = r#"x "a" is forbidden: User "u" cannot create resource "x" in API group "g" in the namespace "n""#;
        assert_eq!(denied_verb(denial), Some("create"));
        assert_eq!(denied_verb(r#"User "u" cannot use resource "x""#), None);
        assert_eq!(denied_verb(r#"x "a" is forbidden: exceeded quota: q"#), None);
        assert_eq!(denied_verb("admission webhook denied the request: you cannot create a Service here"), None);
    }
}
