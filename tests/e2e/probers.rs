//! What the blackbox exporter probes, declared as targets: the series have the names, and the job and instance, that its dashboards expect.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::{figure, until};

const PATIENCE: Duration = Duration::from_secs(180);

/// A web server, a port and a name of the cluster itself, and a port at which nobody listens.
const TARGETS: &str = r"
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: web, namespace: simulated-fiware }
spec:
  type: Http
  url: http://orion.simulated-fiware.svc:1026/version
  interval: 5s
  monitor: { job: blackbox, instance: Url }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: signalling, namespace: simulated-fiware }
spec:
  type: Tcp
  url: tcp://sora.simulated-webrtc.svc:3000
  interval: 5s
  monitor: { job: blackbox, instance: Url }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: name, namespace: simulated-fiware }
spec:
  type: Dns
  url: dns://kube-dns.kube-system.svc/orion.simulated-fiware.svc.cluster.local?type=A
  interval: 5s
  monitor: { job: blackbox, instance: Url }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: closed, namespace: simulated-fiware }
spec:
  type: Http
  url: http://orion.simulated-fiware.svc:1/
  interval: 5s
  timeout: 2s
  monitor: { job: blackbox, instance: Url }
";

/// What Prometheus must have, in the words of the blackbox exporter's users.
const EXPECTED: [(&str, f64); 8] = [
    (r#"count(probe_success{job="blackbox"} == 1)"#, 3.0),
    (r#"probe_http_status_code{job="blackbox", instance="http://orion.simulated-fiware.svc:1026/version"}"#, 200.0),
    (
        r#"count(probe_http_duration_seconds{job="blackbox", instance="http://orion.simulated-fiware.svc:1026/version"})"#,
        5.0,
    ),
    (r#"probe_ip_protocol{job="blackbox", instance="tcp://sora.simulated-webrtc.svc:3000"}"#, 4.0),
    (r#"probe_dns_answer_rrs{job="blackbox"}"#, 1.0),
    (r#"probe_success{job="blackbox", instance="http://orion.simulated-fiware.svc:1/"}"#, 0.0),
    // An alert of blackbox users: it must fire for what does not answer at all.
    (r#"count(probe_http_status_code{job="blackbox"} <= 199 or probe_http_status_code{job="blackbox"} >= 400)"#, 1.0),
    (r#"count(probe_failure_info{job="blackbox"})"#, 1.0),
];

pub(crate) fn are_series_of_the_blackbox_exporter(cluster: &Cluster) {
    cluster.apply(TARGETS);
    let ((), time) = until("series of the probes", PATIENCE, || {
        for (expression, wanted) in EXPECTED {
            let found = cluster.number(expression).map_err(|error| format!("{expression}: {error}"))?;
            if found != wanted {
                return Err(format!("{expression}: {found}"));
            }
        }
        Ok(())
    });
    figure("from apply to the series of four probes", time);
    until("what kubectl says of them", PATIENCE, || {
        let table = cluster.kubectl(&["-n", "simulated-fiware", "get", "scrapetargets"]);
        let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        if row("web ").contains("True") && row("closed ").contains("False") { Ok(()) } else { Err(table) }
    });
    cluster.kubectl(&["-n", "simulated-fiware", "delete", "st", "web", "signalling", "name", "closed"]);
    for line in TARGETS.lines() {
        if let Some(url) = line.trim().strip_prefix("url: ") {
            cluster.until_not_scraped(url, PATIENCE);
        }
    }
}
