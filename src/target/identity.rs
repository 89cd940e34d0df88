//! The labels by which Prometheus tells the series of a target from those of others, however it discovers the target.

use std::borrow::Cow;

use super::TargetId;
use crate::crd::{InstanceLabel, ScrapeTargetSpec};

/// The labels that discovery sets last, so that neither `spec.labels` nor relabelings can change them. `job` is only there if the target
/// names one: otherwise Prometheus sets it.
pub fn identity_labels<'t>(
    id: &'t TargetId,
    spec: &'t ScrapeTargetSpec,
) -> impl Iterator<Item = (&'static str, Cow<'t, str>)> + use<'t> {
    let monitor = spec.monitor.as_ref();
    let instance = match monitor.map(|monitor| monitor.instance).unwrap_or_default() {
        InstanceLabel::Name => Cow::from(id.to_string()),
        InstanceLabel::Url => Cow::from(&spec.url),
    };
    let job = monitor.and_then(|monitor| monitor.job.as_deref()).filter(|job| !job.is_empty());
    [
        Some(("instance", instance)),
        job.map(|job| ("job", Cow::from(job))),
        Some(("namespace", Cow::from(&*id.namespace))),
        Some(("target_namespace", Cow::from(&*id.namespace))),
        Some(("target_name", Cow::from(&*id.name))),
    ]
    .into_iter()
    .flatten()
}
