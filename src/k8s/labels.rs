//! The labels that mark an object as written by this release, so that two releases in a cluster never touch each other's objects.

use super::Settings;

/// The field manager of every server-side apply, and the value of [`MANAGED_BY`].
pub(super) const MANAGER: &str = "scrapetarget-exporter";

/// The label with the tool that manages the object.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The prefix of the keys of our own labels and annotations.
pub(super) const DOMAIN: &str = "scrapetarget.dev/";

/// The label with the name of the release that wrote the object.
pub(super) const RELEASE: &str = "scrapetarget.dev/release";

/// The label with the namespace of that release.
pub(super) const RELEASE_NAMESPACE: &str = "scrapetarget.dev/release-namespace";

/// The label of the Service of which only the leader is an endpoint, with the name of the release: monitors select by it.
pub(super) const PROBE: &str = "scrapetarget.dev/probe";

/// The label of a monitor in the release's namespace with the namespace of its target.
pub(super) const TARGET_NAMESPACE: &str = "scrapetarget.dev/target-namespace";

/// The label of a monitor in the release's namespace with the name of its target; an annotation if the name is too long for a label.
pub(super) const TARGET_NAME: &str = "scrapetarget.dev/target-name";

/// Whether Argo CD, Flux or Helm tracks its objects by this label or annotation, and deletes those that it did not create.
pub(super) fn is_tracking(key: &str) -> bool {
    const DOMAINS: [&str; 4] =
        ["argocd.argoproj.io/", "kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/", "meta.helm.sh/"];
    key == "app.kubernetes.io/instance" || DOMAINS.iter().any(|domain| key.starts_with(domain))
}

/// The labels of every object that the release of `settings` writes.
pub(super) fn of_release(settings: &Settings) -> [(&'static str, &str); 3] {
    [(MANAGED_BY, MANAGER), (RELEASE, &settings.release), (RELEASE_NAMESPACE, &settings.namespace)]
}

/// Selects the objects that the release of `settings` wrote.
pub(super) fn selector(settings: &Settings) -> String {
    format!("{RELEASE}={},{RELEASE_NAMESPACE}={}", settings.release, settings.namespace)
}
