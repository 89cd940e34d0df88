//! Targets that probe, from both sides: whoever declares them has the series of the blackbox exporter, with the job and the instance that
//! its dashboards expect; and the administrator decides what may be probed, by values of the chart and by an admission policy.

use std::time::{Duration, Instant};

use crate::changes::until_shown;
use crate::cluster::{ADMISSION, Cluster, NAMESPACE, RELEASE, root};
use crate::{figure, targets, until};

const PATIENCE: Duration = Duration::from_secs(180);

/// A page, two ports and a name, each of the cluster itself, declared as docs/probers.md has those do it who come from the blackbox
/// exporter; and a port at which nobody listens, behind a Service without an address of its own: so a pod refuses, in every network.
const PROBED: &str = r"
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: page, namespace: simulated-fiware }
spec:
  type: Http
  url: http://orion.simulated-fiware.svc:1026/version
  interval: 5s
  maxAge: 0s
  preferredIpProtocol: ip6
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
metadata: { name: api-server, namespace: simulated-fiware }
spec:
  type: Tcp
  url: tls://kubernetes.default.svc:443
  interval: 5s
  tlsConfig: { ca: { configMap: { name: kube-root-ca.crt, key: ca.crt } } }
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
  url: http://rooms.simulated-webrtc.svc:1/
  interval: 5s
  monitor: { job: blackbox, instance: Url }
";

/// What Prometheus must have of them, in the words of those who use the blackbox exporter: one series each, of this value.
const SERIES: [(&str, f64); 13] = [
    (r#"count(probe_success{job="blackbox"})"#, 5.0),
    (r#"count(probe_success{job="blackbox"} == 1)"#, 4.0),
    (r#"probe_success{job="blackbox", instance="http://rooms.simulated-webrtc.svc:1/"}"#, 0.0),
    (r#"probe_failure_info{job="blackbox", target_name="closed", reason="connect"}"#, 1.0),
    (r#"count(probe_failure_info{job="blackbox"})"#, 1.0),
    (r#"probe_http_status_code{job="blackbox", instance="http://orion.simulated-fiware.svc:1026/version"}"#, 200.0),
    // Each phase of it.
    (
        r#"count(probe_http_duration_seconds{job="blackbox", instance="http://orion.simulated-fiware.svc:1026/version"})"#,
        5.0,
    ),
    // An alert of theirs, which must fire for what does not answer at all.
    (r#"count(probe_http_status_code{job="blackbox"} <= 199 or probe_http_status_code{job="blackbox"} >= 400)"#, 1.0),
    // Another: the certificate ends soon, or not.
    (r#"count(probe_ssl_earliest_cert_expiry{job="blackbox"} > time())"#, 1.0),
    (
        r#"count(probe_ssl_last_chain_expiry_timestamp_seconds{instance="tls://kubernetes.default.svc:443"} > time())"#,
        1.0,
    ),
    (r#"count(probe_tcp_duration_seconds{job="blackbox", phase="connect"} > 0)"#, 2.0),
    (r#"probe_dns_answer_rrs{job="blackbox"}"#, 1.0),
    (r#"count(probe_ip_protocol{job="blackbox"} > 0)"#, 5.0),
];

pub(crate) fn have_the_series_of_the_blackbox_exporter(cluster: &Cluster) {
    let explained = cluster.kubectl(&["explain", "scrapetarget.spec.http"]);
    assert!(explained.contains("validStatusCodes"), "{explained}");
    cluster.apply(PROBED);
    figure("from apply to all series of five probes", until_series(cluster, &SERIES));
    until_shown(cluster, "simulated-fiware", "api-server", "True", &["Succeeded"]);
    until_shown(cluster, "simulated-fiware", "closed", "False", &["Connect"]);
    let debug = format!(
        "/api/v1/namespaces/{NAMESPACE}/pods/{}:9850/proxy/probe?target=simulated-fiware/api-server&debug=true",
        cluster.leader()
    );
    let debug = cluster.get(&debug).unwrap();
    assert!(debug.contains("Its timeline") && debug.contains("resolved kubernetes.default.svc to "), "{debug}");
    delete(cluster, PROBED);
}

/// Pings: of a Service without an address of its own, so of a pod.
const PINGS: &str = r"
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: ping, namespace: simulated-webrtc }
spec:
  type: Icmp
  url: icmp://rooms.simulated-webrtc.svc
  interval: 5s
  icmp: { count: 3, payloadSize: 1000 }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: large-ping, namespace: simulated-webrtc }
spec:
  type: Icmp
  url: icmp://rooms.simulated-webrtc.svc
  interval: 5s
  icmp: { payloadSize: 1001 }
";

/// Targets that probe one address each second.
const FLOOD: u32 = 8;

/// What the address may have in a second: too little for these, and something for some of them.
const RATE: u32 = 2;

pub(crate) fn are_what_the_administrator_allows(cluster: &Cluster) {
    cluster.apply(PINGS);
    // The default of the chart.
    for name in ["ping", "large-ping"] {
        until_accepted(cluster, name, "TypeNotAllowed", "--probers");
    }

    let start = Instant::now();
    let rate = format!("--set=limits.maxProbesPerAddress={RATE}");
    cluster.helm(
        "upgrade",
        &["--set=probers={Http,Icmp}", &rate, "--set=limits.icmpMaxPayload=1000", "--set=networkPolicy.enabled=true"],
    );
    figure("helm upgrade --wait, with another sysctl of the pod", start.elapsed());
    let policy = format!("{NAMESPACE}/{RELEASE}");
    assert!(cluster.names("networkpolicies").contains(&policy), "{:?}", cluster.names("networkpolicies"));
    // The namespace is restricted: there is no capability by which it could be.
    until_accepted(cluster, "ping", "Accepted", "");
    until_accepted(cluster, "large-ping", "LimitExceeded", "--icmp-max-payload");
    let received = r#"probe_icmp_packets_received{instance="simulated-webrtc/ping"}"#;
    let hops = r#"count(probe_icmp_reply_hop_limit{instance="simulated-webrtc/ping"} > 0)"#;
    figure("until three pings of a pod came back", until_series(cluster, &[(received, 3.0), (hops, 1.0)]));
    until_shown(cluster, "simulated-webrtc", "ping", "True", &["Succeeded"]);

    let flood = flood();
    cluster.apply(&flood);
    let of_flood = |selected: &str| format!("count({selected})");
    let refused = of_flood(r#"probe_failure_info{instance=~"simulated-fiware/flood-.", reason="limit"}"#);
    let probed = of_flood(r#"max_over_time(probe_success{instance=~"simulated-fiware/flood-."}[1m]) == 1"#);
    let ((), time) = until("probes of one address that are too many", PATIENCE, || {
        let (refused, probed) = (cluster.number(&refused)?, cluster.number(&probed)?);
        if refused > 0.0 && probed > 0.0 { Ok(()) } else { Err(format!("{refused} refused, {probed} probed")) }
    });
    figure(&format!("until some of {FLOOD} probes a second of one address were refused"), time);
    delete(cluster, &[PINGS, &flood].join("---\n"));

    admission_is_by_namespace(cluster);
    cluster.helm("upgrade", &["--reset-values"]);
    assert!(!cluster.names("networkpolicies").contains(&policy), "{:?}", cluster.names("networkpolicies"));
    cluster.until_up(&targets::names(), PATIENCE);
}

/// The example of an admission policy: types and hosts by annotations of the namespace.
fn admission_is_by_namespace(cluster: &Cluster) {
    let target = |host: &str| {
        format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\n\
             metadata: {{ name: tenant, namespace: simulated-fiware }}\n\
             spec: {{ type: Http, url: 'http://{host}:1026/version', interval: 5s, http: {{ followRedirects: false }} }}\n"
        )
    };
    let (own, other) = (target("orion.simulated-fiware.svc"), target("sora.simulated-webrtc.svc"));
    cluster.apply_file(ADMISSION);
    cluster.kubectl(&[
        "annotate",
        "namespace",
        "simulated-fiware",
        "scrapetarget.example.com/probers=Http",
        "scrapetarget.example.com/hosts=*.simulated-fiware.svc",
    ]);
    // The API server has both a moment after it took them.
    let words = "the host sora.simulated-webrtc.svc may not be probed from this namespace";
    let (said, _) = until("refusal by the policy", PATIENCE, || {
        let said = cluster.try_kubectl(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &other);
        if !said.good() && said.stderr.contains(words) { Ok(said.stderr) } else { Err(said.stderr) }
    });
    println!("   {}", said.trim_end());
    cluster.apply(&own);
    until_shown(cluster, "simulated-fiware", "tenant", "True", &["Succeeded"]);
    // Others are changed as before, in a namespace without annotations as well.
    cluster.kubectl(&["-n", "simulated-webrtc", "label", "st", "sora-tokyo", "checked=yes"]);
    cluster.kubectl(&["-n", "simulated-webrtc", "label", "st", "sora-tokyo", "checked-"]);
    cluster.kubectl(&["delete", "-f", root().join(ADMISSION).to_str().unwrap()]);
    delete(cluster, &own);
}

/// As many targets as `FLOOD` says, all at one address.
fn flood() -> String {
    let target = |number: u32| {
        format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\n\
             metadata: {{ name: flood-{number}, namespace: simulated-fiware }}\n\
             spec: {{ type: Http, url: 'http://orion.simulated-fiware.svc:1026/version', interval: 1s }}\n"
        )
    };
    (0..FLOOD).map(target).collect::<Vec<_>>().join("---\n")
}

/// Waits until each expression has one series, of this value.
pub(crate) fn until_series(cluster: &Cluster, wanted: &[(&str, f64)]) -> Duration {
    let ((), time) = until("series of the probes", PATIENCE, || {
        for (expression, wanted) in wanted {
            let found = cluster.query(expression)?;
            if !matches!(&found[..], [(_, value)] if value == wanted) {
                return Err(format!("{expression}: {found:?} instead of {wanted}"));
            }
        }
        Ok(())
    });
    time
}

/// Waits until the condition Accepted of one of `PINGS` is so, and says these words.
fn until_accepted(cluster: &Cluster, name: &str, reason: &str, words: &str) {
    let condition = |part: &str| format!("{{.status.conditions[?(@.type=='Accepted')].{part}}}");
    until("condition Accepted", PATIENCE, || {
        let path = format!("{}: {}", condition("reason"), condition("message"));
        let said = cluster.field("simulated-webrtc", &format!("st/{name}"), &path);
        if said.starts_with(&format!("{reason}: ")) && said.contains(words) { Ok(()) } else { Err(said) }
    });
}

/// Deletes targets, and waits until Prometheus has the others only.
pub(crate) fn delete(cluster: &Cluster, manifests: &str) {
    let said = cluster.try_kubectl(&["delete", "-f", "-"], manifests);
    assert!(said.good(), "{}", said.stderr);
    cluster.until_up(&targets::names(), PATIENCE);
}
