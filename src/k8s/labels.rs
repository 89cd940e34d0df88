//! The labels that mark an object as written by this release, so that two releases in a cluster never touch each other's objects.

use super::Settings;

/// The field manager of every server-side apply, and the value of [`MANAGED_BY`].
pub(super) const MANAGER: &str = "scrapetarget-exporter";

/// The tool that manages the object.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What the keys of our own labels and annotations begin with.
pub(super) const DOMAIN: &str = "scrapetarget.dev/";

/// The name of the release that wrote the object.
pub(super) const RELEASE: &str = "scrapetarget.dev/release";

/// The namespace of that release.
pub(super) const RELEASE_NAMESPACE: &str = "scrapetarget.dev/release-namespace";

/// On the Service of which only the leader is an endpoint, with the name of the release: monitors select by it.
pub(super) const PROBE: &str = "scrapetarget.dev/probe";

/// On a monitor that is not beside its target: the target's namespace.
pub(super) const TARGET_NAMESPACE: &str = "scrapetarget.dev/target-namespace";

/// On a monitor that is not beside its target: the target's name; an annotation if it is too long for a label.
pub(super) const TARGET_NAME: &str = "scrapetarget.dev/target-name";

/// Whether Argo CD, Flux or Helm tracks its objects by this label or annotation, and deletes those that it did not create.
pub(super) fn is_tracking(key: &str) -> bool {
    const DOMAINS: [&str; 4] =
        ["argocd.argoproj.io/", "kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/", "meta.helm.sh/"];
    key == "app.kubernetes.io/instance" || DOMAINS.iter().any(|domain| key.starts_with(domain))
}

/// The labels of everything that the release of `settings` writes.
pub(super) fn of_release(settings: &Settings) -> [(&'static str, &str); 3] {
    [(MANAGED_BY, MANAGER), (RELEASE, &settings.release), (RELEASE_NAMESPACE, &settings.namespace)]
}

/// Selects what the release of `settings` wrote.
pub(super) fn selector(settings: &Settings) -> String {
    format!("{RELEASE}={},{RELEASE_NAMESPACE}={}", settings.release, settings.namespace)
}
