//! Alerts of the chart that fire for real: a rule goes from its values by way of the Operator into Prometheus, a server gets a fault, and
//! Prometheus' API has the alert, for that server and for none beside it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, NAMESPACE, RELEASE, root};
use crate::probers::until_series;
use crate::{agent, figure, targets, until};

const PATIENCE: Duration = Duration::from_secs(180);

const VALUES: &str = "tests/e2e/manifests/alerts-values.yaml";

/// What those values say of the runbooks.
const RUNBOOKS: &str = "https://runbooks.example.com/media";

/// The targets of tests/e2e/manifests/alerts.yaml. Of the Sora, one knows in which cluster it is.
const TARGETS: &str = r"
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: sora, namespace: alerts }
spec:
  type: Sora
  url: http://sora.alerts.svc:3000/
  interval: 5s
  labels: { cluster: tokyo }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: shop, namespace: alerts }
spec:
  type: Http
  url: https://shop.alerts.svc:8443/
  interval: 5s
  tlsConfig: { serverName: www.shop.test, ca: { configMap: { name: shop, key: ca.crt } } }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: blog, namespace: alerts }
spec:
  type: Http
  url: https://blog.alerts.svc:8443/
  interval: 5s
  tlsConfig: { serverName: www.shop.test, ca: { configMap: { name: blog, key: ca.crt } } }
";

pub(crate) fn fire_for_what_has_a_fault(cluster: &Cluster) {
    let start = Instant::now();
    cluster.apply_file("tests/e2e/manifests/alerts.yaml");
    let values = format!("--values={}", root().join(VALUES).display());
    cluster.helm("upgrade", &["--reuse-values", &values]);
    let rules = cluster.names("prometheusrules");
    assert_eq!(rules, [format!("{NAMESPACE}/{RELEASE}")]);
    for name in ["sora", "shop", "blog"] {
        cluster.rolled_out("alerts", name);
    }
    trust(cluster, "shop", "shop");
    trust(cluster, "blog", "blog");
    cluster.apply(TARGETS);
    figure("rules, servers with faults and targets applied", start.elapsed());

    let start = Instant::now();
    let worker = cluster.is_ours().then(|| a_worker_is_lost(cluster));
    let sora = until_fires(cluster, "SoraAuthWebhookFails", &["alerts/sora"]);
    // Beside it are three Soras that have been scraped for longer.
    let soras = r#"count(sora_auth_webhook_total{state="failed", instance=~"(alerts|simulated-webrtc)/.+"})"#;
    until_series(cluster, &[(soras, 4.0)]);
    is_as_the_values_say(&sora, "SoraAuthWebhookFails", "page");
    assert_eq!(sora["labels"]["cluster"], "tokyo", "{sora}");
    says(&sora, &["alerts/sora", "auth webhook", "%"]);

    let shop = until_fires(cluster, "ScrapeTargetCertificateExpired", &["alerts/shop"]);
    is_as_the_values_say(&shop, "ScrapeTargetCertificateExpired", "critical");
    assert_eq!(shop["labels"]["cluster"], Value::Null, "{shop}");
    says(&shop, &["alerts/shop", "ended 1h"]);
    until_series(cluster, &[(r#"probe_success{instance="alerts/shop"}"#, 0.0)]);
    // The one beside it has been looked at by the same rules: its certificate ends soon.
    let blog = until_fires(cluster, "ScrapeTargetCertificateExpiresSoon", &["alerts/blog"]);
    is_as_the_values_say(&blog, "ScrapeTargetCertificateExpiresSoon", "warning");
    says(&blog, &["alerts/blog", "expires in 9d"]);

    if let Some(pod) = worker {
        let died = until_fires(cluster, "MediasoupWorkerDied", &[agent::TARGET]);
        is_as_the_values_say(&died, "MediasoupWorkerDied", "critical");
        assert_eq!(died["labels"]["pod"], pod, "{died}");
        says(&died, &[agent::TARGET, &pod]);
    }
    figure("from the targets to all alerts", start.elapsed());

    the_certificate_is_renewed(cluster);
    if cluster.is_ours() {
        cluster.kubectl(&["-n", "webrtc", "scale", "deployment/rooms", "--replicas=1"]);
    }
    cluster.kubectl(&["-n", "alerts", "delete", "st", "--all"]);
    let others = if cluster.is_ours() { &[agent::TARGET][..] } else { &[] };
    cluster.until_up(&[&targets::names()[..], others].concat(), PATIENCE);
    cluster.kubectl(&["delete", "namespace", "alerts", "--wait=false"]);
}

/// A worker process is killed in one of two pods of the application. Returns that pod.
fn a_worker_is_lost(cluster: &Cluster) -> String {
    cluster.kubectl(&["-n", "webrtc", "scale", "deployment/rooms", "--replicas=2"]);
    let patch = r#"{"spec": {"interval": "5s", "members": {"service": {}}}}"#;
    cluster.kubectl(&["-n", "webrtc", "patch", "st", "rooms", "--type=merge", "-p", patch]);
    let counters = format!(r#"mediasoup_worker_deaths_total{{instance="{}", pod!=""}}"#, agent::TARGET);
    // From 0: a rise that nobody has seen is none.
    let both = format!("count({counters} == 0)");
    figure("until both pods of the application are scraped", until_series(cluster, &[(&both, 2.0)]));
    let pods = cluster.query(&counters).unwrap();
    let pod = pods[0].0["pod"].clone();
    cluster.signal_in_pod("/mediasoup-worker\0", "KILL", "webrtc", &pod);
    // The application has lost its room, and opens another one.
    let of_pod = |family: &str| format!(r#"{family}{{instance="{}", pod="{pod}"}}"#, agent::TARGET);
    let (deaths, workers) = (of_pod("mediasoup_worker_deaths_total"), of_pod("mediasoup_workers"));
    until_series(cluster, &[(&deaths, 1.0), (&workers, 1.0)]);
    pod
}

/// A server whose certificate is renewed: what was critical is over, and the other tier is as for any certificate.
fn the_certificate_is_renewed(cluster: &Cluster) {
    let start = Instant::now();
    let patch = r#"[{"op": "remove", "path": "/spec/template/spec/containers/0/args/2"}]"#;
    cluster.kubectl(&["-n", "alerts", "patch", "deployment/shop", "--type=json", "-p", patch]);
    cluster.rolled_out("alerts", "shop");
    trust(cluster, "shop", "renewed");
    // What is in a ConfigMap is read again once a minute. One that nobody has referred to before is read at once.
    let patch = r#"{"spec": {"tlsConfig": {"ca": {"configMap": {"name": "renewed"}}}}}"#;
    cluster.kubectl(&["-n", "alerts", "patch", "st", "shop", "--type=merge", "-p", patch]);
    until_fires(cluster, "ScrapeTargetCertificateExpired", &[]);
    let success = r#"probe_success{instance="alerts/shop"}"#;
    figure("until a poll trusts it", until_series(cluster, &[(success, 1.0)]));
    until_fires(cluster, "ScrapeTargetCertificateExpiresSoon", &["alerts/blog", "alerts/shop"]);
    figure("from the renewed certificate to the end of its alert", start.elapsed());
}

/// A ConfigMap with the authority that has signed a website's certificate: it prints it when it starts.
fn trust(cluster: &Cluster, website: &str, name: &str) {
    let (authority, _) = until("certificate of the authority", PATIENCE, || {
        let log = cluster.kubectl(&["-n", "alerts", "logs", &format!("deployment/{website}")]);
        match log.split_once("signed by:\n") {
            Some((_, authority)) if authority.ends_with("-----END CERTIFICATE-----\n") => Ok(authority.to_owned()),
            _ => Err(log),
        }
    });
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "alerts" },
        "data": { "ca.crt": authority },
    });
    cluster.apply(&map.to_string());
}

/// Waits until an alert fires for exactly these targets. Returns the alert for the first of them.
fn until_fires(cluster: &Cluster, name: &str, wanted: &[&str]) -> Value {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    let (found, time) = until(name, PATIENCE, || {
        let answer = cluster.ask_prometheus("/api/v1/alerts")?;
        let alerts = answer["data"]["alerts"].as_array().ok_or_else(|| answer.to_string())?;
        let of_name = |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        let found: Vec<&Value> = alerts.iter().filter(of_name).collect();
        let instances: Vec<&str> = found.iter().filter_map(|alert| alert["labels"]["instance"].as_str()).collect();
        if instances.len() == wanted.len() && instances.iter().copied().collect::<BTreeSet<_>>() == wanted {
            Ok(found.first().map_or(Value::Null, |alert| (*alert).clone()))
        } else {
            let seen = alerts.iter().filter(|alert| alert["labels"]["alertname"] == name);
            Err(format!("{:?} instead of {wanted:?}", seen.map(Value::to_string).collect::<Vec<_>>()))
        }
    });
    figure(&format!("until {name} fires as it should"), time);
    found
}

/// The labels and annotations that the values of the chart decide.
fn is_as_the_values_say(alert: &Value, name: &str, severity: &str) {
    let labels = &alert["labels"];
    assert_eq!((&labels["severity"], &labels["team"]), (&json!(severity), &json!("media")), "{alert}");
    assert_eq!(alert["annotations"]["runbook_url"], format!("{RUNBOOKS}/{name}.md"), "{alert}");
}

/// What whoever is woken reads.
fn says(alert: &Value, words: &[&str]) {
    let texts = ["summary", "description"].map(|name| alert["annotations"][name].as_str().unwrap_or_default());
    println!("   {}", texts[1]);
    assert!(texts.iter().all(|text| !text.is_empty() && !text.contains("no value")), "{alert}");
    for word in words {
        assert!(texts[1].contains(word), "{word}: {alert}");
    }
}
