//! The labels by which Prometheus tells the series of a target from those of others, however it discovers the target.

use std::borrow::Cow;

use reqwest::Url;

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
        InstanceLabel::Url if spec.kind.passes_on() => host_and_port(&spec.url),
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

/// What Prometheus would call the server of this url if it scraped that itself. A url that is none stays as it is.
fn host_and_port(url: &str) -> Cow<'_, str> {
    let parsed = Url::parse(url).ok();
    let address = parsed.and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    address.map_or_else(|| Cow::from(url), Cow::from)
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn the_instance_of_a_server_whose_metrics_are_passed_on_is_its_host_and_port() {
        for (url, instance) in [
            ("http://node.media.svc:9100/metrics", "node.media.svc:9100"),
            ("https://10.0.0.7/metrics?collect[]=cpu", "10.0.0.7:443"),
            ("http://exporter/", "exporter:80"),
            ("http://[2001:db8::1]:9100/metrics", "[2001:db8::1]:9100"),
            ("no url", "no url"),
        ] {
            assert_eq!(host_and_port(url), instance);
        }
    }
}
