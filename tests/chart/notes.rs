//! What the chart says after it is installed. What it says of the objects of a cluster is tried in a cluster.

use serde_json::{Value, json};

use crate::support::chart;
use crate::support::program::said;
use crate::support::tools;

/// The notes of an installation with these values.
fn notes(set: &str) -> String {
    let folder = chart::folder();
    let fixed = ["install", chart::RELEASE, folder.to_str().unwrap(), "--namespace=prometheus", "--dry-run=client"];
    let said = chart::helm(fixed.into_iter().chain(["--set", set]));
    assert_eq!(said.code, Some(0), "{set}: {}", said.stderr);
    said.stdout.split_once("\nNOTES:\n").unwrap().1.to_owned()
}

/// The lines for a Prometheus that is configured by hand, among the notes.
fn lines(notes: &str) -> String {
    let (_, lines) = notes.split_once("     scrape_configs:\n").unwrap_or_else(|| panic!("{notes}"));
    let lines: Vec<&str> = lines.lines().take_while(|line| line.starts_with("     ")).collect();
    format!("scrape_configs:\n{}\n", lines.join("\n"))
}

/// The jobs in these lines, which promtool takes: of most targets, and of those with `honorLabels`.
fn jobs(notes: &str) -> [Value; 2] {
    let lines = lines(notes);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, &lines).unwrap();
    let judged =
        said(std::process::Command::new(tools::promtool()).args(["check", "config", "--syntax-only"]).arg(&file));
    assert_eq!(judged.code, Some(0), "{lines}{}", judged.stderr);
    let jobs = chart::parse(&lines)[0]["scrape_configs"].as_array().unwrap().clone();
    jobs.try_into().unwrap_or_else(|jobs| panic!("not two: {jobs:?}"))
}

const CA: &str = "/etc/prometheus/scrapetarget-exporter/ca.crt";

#[test]
fn a_prometheus_that_is_configured_by_hand_is_given_what_it_needs_to_reach_a_listener_with_tls_or_users() {
    let ca = json!({ "ca_file": CA });
    let client = json!({
        "ca_file": CA,
        "cert_file": "/etc/prometheus/scrapetarget-exporter/client.crt",
        "key_file": "/etc/prometheus/scrapetarget-exporter/client.key",
    });
    let user = json!({ "username": "USER", "password_file": "/etc/prometheus/scrapetarget-exporter/password" });
    for (set, scheme, tls, auth) in [
        ("", Value::Null, &Value::Null, &Value::Null),
        ("tlsSecret=exporter-tls", json!("https"), &ca, &Value::Null),
        ("tlsSecret=exporter-tls,webConfig.config.basic_auth_users.a=b", json!("https"), &ca, &user),
        ("config.basic_auth_users.a=b", Value::Null, &Value::Null, &user),
        ("config.tls_server_config.client_auth_type=RequireAndVerifyClientCert", json!("https"), &client, &Value::Null),
        ("existingSecret=theirs,webConfig.scheme=https", json!("https"), &ca, &user),
    ] {
        let enabled = if set.is_empty() { String::new() } else { format!(",webConfig.enabled=true,webConfig.{set}") };
        for mode in ["discovery.mode=none", "discovery.mode=httpSD,scrapeConfig.enabled=false"] {
            for (job, honor_labels) in jobs(&notes(&format!("{mode}{enabled}"))).iter().zip([false, true]) {
                let list = &job["http_sd_configs"][0];
                let host = format!("scrapetarget-exporter-probe.prometheus.svc:9850/sd?honorLabels={honor_labels}");
                assert_eq!(list["url"], format!("{}://{host}", scheme.as_str().unwrap_or("http")), "{set}");
                assert_eq!(job["honor_labels"], if honor_labels { json!(true) } else { Value::Null }, "{set}");
                assert_eq!(job["scheme"], scheme, "{set}");
                assert_eq!([&job["tls_config"], &list["tls_config"]], [tls, tls], "{set}");
                assert_eq!([&job["basic_auth"], &list["basic_auth"]], [auth, auth], "{set}");
            }
        }
    }
}

/// Alerts and dashboards ask for one job.
#[test]
fn targets_with_honor_labels_get_the_same_job_as_the_others_from_a_prometheus_that_is_configured_by_hand() {
    let [first, second] = jobs(&notes("discovery.mode=none,scrapeConfig.jobName=targets"));
    assert_eq!((&first["job_name"], &second["job_name"]), (&json!("targets"), &json!("targets-honor-labels")));
    assert_eq!(first["relabel_configs"], Value::Null);
    let rename = json!({
        "source_labels": ["job"],
        "regex": "targets-honor-labels",
        "target_label": "job",
        "replacement": "targets",
    });
    assert_eq!(second["relabel_configs"], json!([rename]));
}

#[test]
fn a_prometheus_that_is_configured_by_hand_gets_the_limits_and_the_relabelings_of_all_targets() {
    let set = "discovery.mode=none,discovery.targetLimit=5000,discovery.labelLimit=30,discovery.labelNameLengthLimit=64,\
               discovery.labelValueLengthLimit=1000000,discovery.bodySizeLimit=16MB,discovery.proxyUrl=http://proxy:3128,\
               discovery.honorLabels=byDefault,discovery.relabelings[0].targetLabel=cluster,\
               discovery.relabelings[0].sourceLabels={a},discovery.metricRelabelings[0].action=LabelDrop,\
               discovery.metricRelabelings[0].regex=rack";
    for (job, honor_labels) in jobs(&notes(set)).iter().zip([false, true]) {
        for (field, value) in [
            ("target_limit", json!(5000)),
            ("label_limit", json!(30)),
            ("label_name_length_limit", json!(64)),
            ("label_value_length_limit", json!(1_000_000)),
            ("body_size_limit", json!("16MB")),
            ("proxy_url", json!("http://proxy:3128")),
            ("metric_relabel_configs", json!([{ "action": "labeldrop", "regex": "rack" }])),
        ] {
            assert_eq!(job[field], value, "{field}");
        }
        let step = job["relabel_configs"].as_array().unwrap().last().unwrap();
        assert_eq!(*step, json!({ "source_labels": ["a"], "target_label": "cluster" }));
        let list = &job["http_sd_configs"][0];
        assert!(
            list["url"].as_str().unwrap().ends_with(&format!("honorLabels={honor_labels}&honorLabelsDefault=true"))
        );
        assert_eq!(list["proxy_url"], job["proxy_url"]);
    }
    let only = lines(&notes("discovery.mode=none,discovery.honorLabels=never"));
    assert!(only.contains("/sd\n") && only.matches("job_name").count() == 1, "{only}");
}

#[test]
fn the_notes_say_where_the_authority_is_and_which_name_the_certificate_must_have() {
    let said = notes("discovery.mode=none,webConfig.enabled=true,webConfig.tlsSecret=exporter-tls");
    for words in [
        "it is the key ca.crt of the Secret exporter-tls in namespace prometheus",
        "The certificate must be for scrapetarget-exporter-probe.prometheus.svc,",
        "server_name",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let said = notes("webConfig.enabled=true,webConfig.tlsSecret=exporter-tls");
    assert!(
        said.contains("NOTE: Prometheus connects to the exporter with https, and must trust the certificate authority"),
        "{said}"
    );
    let said = notes("webConfig.enabled=true,webConfig.tlsSecret=exporter-tls,discovery.scrapeClass=exporter");
    assert!(!said.contains("must trust the certificate authority"), "{said}");
}

#[test]
fn the_notes_name_every_way_into_the_exporter_from_outside_of_the_cluster_unless_it_asks_for_a_password() {
    let service = "the Service scrapetarget-exporter";
    let ways = [
        ("ingress.enabled=true,ingress.hosts[0].host=a", "the Ingress".to_owned()),
        ("httpRoute.enabled=true,httpRoute.parentRefs[0].name=a", "the HTTPRoute".to_owned()),
        ("service.type=NodePort", format!("{service} (NodePort)")),
        ("service.probe.type=LoadBalancer", format!("{service}-probe (LoadBalancer)")),
        ("service.externalIPs={192.0.2.1}", format!("{service} (externalIPs)")),
        ("hostNetwork=true", "port 9850 of a node (hostNetwork)".to_owned()),
    ];
    let warning = "WARNING: everyone who can reach one of these can read all metrics and the addresses of all targets";
    assert!(!notes("").contains(warning));
    for (set, way) in &ways {
        let said = notes(set);
        assert!(said.contains(&format!("{warning}: see webConfig.\n  {way}\n")), "{set}: {said}");
        let closed = notes(&format!("{set},webConfig.enabled=true,webConfig.config.basic_auth_users.a=b"));
        assert!(!closed.contains(warning), "{set}: {closed}");
    }
    let all: Vec<&str> = ways.iter().map(|(set, _)| *set).filter(|set| *set != "service.type=NodePort").collect();
    assert_eq!(notes(&all.join(",")).split_once(warning).unwrap().1.matches("\n  ").count(), 5);
}
