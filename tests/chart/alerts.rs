//! What the chart makes of the alerts and of the dashboards.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::support::chart;
use crate::support::promql::{OF_CLUSTERS, OF_MEMBERS, OF_PODS, OF_TARGETS};

fn rules(manifests: &[Value]) -> Vec<Value> {
    let groups = chart::of_kind(manifests, "PrometheusRule")[0]["spec"]["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn names(rules: &[Value]) -> BTreeSet<&str> {
    rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect()
}

#[test]
fn nothing_is_made_of_them_unless_it_is_asked_for() {
    let manifests = chart::render::<&str>(&[]);
    assert!(chart::of_kind(&manifests, "PrometheusRule").is_empty());
    assert!(chart::of_kind(&manifests, "ConfigMap").is_empty());
}

#[test]
fn the_rules_are_those_of_the_file_for_the_jobs_of_this_release_alone() {
    let manifests = chart::render(&["--set", "prometheusRule.enabled=true"]);
    let jobs = format!("{0}|{0}-probe", chart::RELEASE);
    let file = chart::read("files/rules.yaml").replace("scrapetarget.*", &jobs);
    let groups = &chart::one(&manifests, "PrometheusRule", chart::RELEASE)["spec"]["groups"];
    assert_eq!(groups, &chart::parse(&file)[0]["groups"]);
}

#[test]
fn the_jobs_follow_those_of_discovery_or_are_what_is_said() {
    let jobs = |set: &str| {
        let manifests = chart::render(&["--set", &format!("prometheusRule.enabled=true,{set}")]);
        let expression = rules(&manifests)[0]["expr"].as_str().unwrap().to_owned();
        expression.split('"').nth(1).unwrap().to_owned()
    };
    assert_eq!(jobs("discovery.mode=httpSD"), format!("{0}|{0}-probe", chart::RELEASE));
    assert_eq!(jobs("discovery.mode=httpSD,scrapeConfig.jobName=targets"), format!("{}|targets", chart::RELEASE));
    assert_eq!(jobs("fullnameOverride=media"), "media|media-probe");
    assert_eq!(jobs("prometheusRule.job=mine.*"), "mine.*");
}

#[test]
fn a_job_whose_name_means_something_in_a_regular_expression_is_the_only_one_that_is_found() {
    for name in ["a.b|c(d)[e]", r#"say "hi" \ $1"#, "targets", "a: b # c"] {
        let json = format!("scrapeConfig.jobName={}", Value::from(name));
        let manifests =
            chart::render(&["--set", "prometheusRule.enabled=true,discovery.mode=httpSD", "--set-json", &json]);
        let expression = rules(&manifests)[0]["expr"].as_str().unwrap().to_owned();
        let quoted = expression.split("job=~").nth(1).unwrap().split(", target_name").next().unwrap();
        // A text of PromQL is here one of JSON.
        let jobs: String = serde_json::from_str(quoted).unwrap_or_else(|error| panic!("{quoted}: {error}"));
        let jobs = Regex::new(&format!("^(?:{jobs})$")).unwrap();
        for (job, is_ours) in [(name, true), (chart::RELEASE, true), ("axb", false), ("a", false), ("other", false)] {
            assert_eq!(jobs.is_match(job), is_ours, "{job}: {jobs}");
        }
    }
}

#[test]
fn an_alert_is_switched_off_by_its_name() {
    let all = chart::render(&["--set", "prometheusRule.enabled=true"]);
    let some = chart::render(&[
        "--set",
        "prometheusRule.enabled=true,prometheusRule.disabled.MediasoupWorkerDied=true,prometheusRule.disabled.SoraNodeMissing=false",
    ]);
    let (all, some) = (rules(&all), rules(&some));
    let mut expected = names(&all);
    assert!(expected.remove("MediasoupWorkerDied"));
    assert_eq!(names(&some), expected);
    // A group without rules would be refused.
    assert!(!some.is_empty());
}

fn rule(set: &str, name: &str) -> Value {
    let json = format!("prometheusRule={set}");
    let manifests = chart::render(&["--set-json", &json, "--set", "prometheusRule.enabled=true"]);
    rules(&manifests).into_iter().find(|rule| rule["alert"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn an_alert_has_another_threshold_duration_and_severity_if_values_say_so_and_others_stay() {
    let set = r#"{"alerts": {
        "SoraLicenseNearlyUsedUp": {"threshold": 0.75, "for": "30m", "keepFiringFor": "1h", "severity": "page"},
        "ScrapeTargetCertificateExpiresSoon": {"threshold": 7},
        "ScrapeTargetPollSlow": {"threshold": 4.5},
        "MediasoupWorkerBusy": {"threshold": 0}
    }}"#;
    let expression = |name| rule(set, name)["expr"].as_str().unwrap().to_owned();
    let licence = rule(set, "SoraLicenseNearlyUsedUp");
    assert!(expression("SoraLicenseNearlyUsedUp").contains("} > 0.75\n"), "{licence}");
    assert_eq!(licence["for"], "30m");
    assert_eq!(licence["keep_firing_for"], "1h");
    assert_eq!(licence["labels"]["severity"], "page");
    assert!(expression("ScrapeTargetCertificateExpiresSoon").contains("< 7 * 86400 > 0"));
    // Both parts of it have the threshold.
    assert_eq!(expression("ScrapeTargetPollSlow").matches("> 4.5\n").count(), 2);
    assert!(expression("MediasoupWorkerBusy").contains("> 0\n"));
    assert_eq!(rule(set, "SoraLicenseUsedUp"), rule("{}", "SoraLicenseUsedUp"));
}

#[test]
fn each_threshold_of_the_file_can_be_changed() {
    let thresholds = chart::parse(&chart::read("files/thresholds.yaml")).remove(0);
    let names: Vec<&String> = thresholds.as_object().unwrap().keys().collect();
    let set: Vec<String> = names.iter().map(|name| format!("{name:?}: {{\"threshold\": 0.4321}}")).collect();
    let json = format!("prometheusRule={{\"enabled\": true, \"alerts\": {{{}}}}}", set.join(", "));
    let manifests = chart::render(&["--set-json", &json]);
    let changed = rules(&manifests).into_iter().filter(|rule| rule["expr"].as_str().unwrap().contains(" 0.4321"));
    let changed: BTreeSet<String> = changed.map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(changed, names.into_iter().cloned().collect());
}

#[test]
fn what_an_alert_cannot_have_is_refused_with_what_to_write_instead() {
    let refused = |set: &str| {
        let json = format!("prometheusRule={set}");
        chart::template(&["--set-json", &json, "--set", "prometheusRule.enabled=true"]).unwrap_err()
    };
    let said = refused(r#"{"alerts": {"ScrapeTargetDown": {"threshold": 1}}}"#);
    assert!(said.contains("prometheusRule.alerts.ScrapeTargetDown.threshold: this alert has no threshold"), "{said}");
    let said = refused(r#"{"additionalRuleLabels": {"severity": "page"}}"#);
    assert!(said.contains("set prometheusRule.alerts.NAME.severity instead"), "{said}");
    // Of everything, and of the one thread of a worker.
    for name in ["SoraLicenseNearlyUsedUp", "ProbeSlow", "MediasoupWorkerBusy"] {
        for percent in ["90", "1", "1.5"] {
            let said = refused(&format!(r#"{{"alerts": {{"{name}": {{"threshold": {percent}}}}}}}"#));
            let words = format!("prometheusRule.alerts.{name}.threshold is {percent}, but it is a share");
            assert!(said.contains(&words) && said.contains("write 0.9 for 90 %"), "{said}");
        }
    }
    let said = refused(r#"{"alerts": {"ScrapeTargetPollSlow": {"threshold": -1}}}"#);
    assert!(
        said.contains("at '/prometheusRule/alerts/ScrapeTargetPollSlow/threshold': minimum: got -1, want 0"),
        "{said}"
    );
    for (set, words) in [
        (
            r#"{"additionalRuleLabels": {"__name__": "a"}}"#,
            "additionalRuleLabels has __name__, which Prometheus sets itself",
        ),
        (
            r#"{"additionalRuleLabels": {"alertname": "a"}}"#,
            "additionalRuleLabels has alertname, which Prometheus sets itself",
        ),
        (r#"{"additionalRuleLabels": {"team": "{{ $labels.job }}"}}"#, "additionalRuleLabels.team has \"{{\""),
        (
            r#"{"alerts": {"ScrapeTargetDown": {"severity": "{{ $value }}"}}}"#,
            "alerts.ScrapeTargetDown.severity has \"{{\"",
        ),
        (
            r#"{"additionalRuleLabels": {"cluster": "a"}}"#,
            "has cluster, by which prometheusRule.groupLabels tells clusters apart",
        ),
        (
            r#"{"groupLabels": ["__name__"]}"#,
            "prometheusRule.groupLabels has __name__, which does not tell clusters apart",
        ),
        (
            r#"{"groupLabels": ["cluster", "job"]}"#,
            "prometheusRule.groupLabels has job, which does not tell clusters apart",
        ),
        (r#"{"job": "a("}"#, "prometheusRule.job is not a regular expression that Prometheus can read: a("),
    ] {
        let said = refused(set);
        assert!(said.contains(words), "{set}: {said}");
    }
    for wrong in [
        r#"{"alerts": {"ScrapeTargetDwon": {}}}"#,
        r#"{"alerts": {"ScrapeTargetDown": {"for": "5 minutes"}}}"#,
        r#"{"alerts": {"ScrapeTargetDown": {"for": ""}}}"#,
        r#"{"alerts": {"ScrapeTargetPollSlow": {"threshold": "2) or vector(1"}}}"#,
        r#"{"groupLabels": ["a) or vector(1"]}"#,
        r#"{"runbookUrl": "runbooks"}"#,
    ] {
        assert!(refused(wrong).contains("prometheusRule"), "{wrong}");
    }
}

/// A label of the rule replaces that of a series, and Prometheus gives a rule up of which two alerts have the same labels.
#[test]
fn a_label_by_which_alerts_can_be_told_apart_is_refused_as_one_of_rules() {
    let of_discovery = OF_TARGETS.iter().chain(&OF_PODS).chain(&OF_MEMBERS).map(|label| (*label).to_owned());
    let mut labels: BTreeSet<String> = of_discovery.collect();
    // Each alert has a case that fires, with exactly the labels that it has.
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/alerts")).unwrap() {
        let cases = &chart::parse(&std::fs::read_to_string(entry.unwrap().path()).unwrap())[0];
        let all = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
        let asked = all(cases, "tests").into_iter().flat_map(|test| all(&test, "alert_rule_test"));
        for alert in asked.flat_map(|asked| all(&asked, "exp_alerts")) {
            labels.extend(alert["exp_labels"].as_object().unwrap().keys().cloned());
        }
    }
    labels.retain(|label| label != OF_CLUSTERS && label != "severity");
    // Those that Prometheus sets itself are refused in any case.
    labels.retain(|label| !label.starts_with("__"));
    assert!(labels.len() > 20, "{labels:?}");
    let set: Vec<String> = labels.iter().map(|label| format!("{label:?}: \"a\"")).collect();
    let json = format!("prometheusRule={{\"enabled\": true, \"additionalRuleLabels\": {{{}}}}}", set.join(", "));
    let said = chart::template(&["--set-json", &json]).err().unwrap_or_default();
    let words: Vec<String> = labels.into_iter().collect();
    let words = format!("prometheusRule.additionalRuleLabels has {}, by which alerts are told apart", words.join(", "));
    assert!(said.contains(&words), "wanted: {words}: {said}");
}

#[test]
fn without_a_runbook_url_alerts_have_no_annotation_of_that_name() {
    for set in ["prometheusRule.runbookUrl=", "prometheusRule.runbookUrl=null"] {
        let manifests = chart::render(&["--set", "prometheusRule.enabled=true", "--set", set]);
        for rule in rules(&manifests) {
            assert!(rule["annotations"].get("runbook_url").is_none(), "{rule}");
            assert!(rule["annotations"]["summary"].is_string(), "{rule}");
        }
    }
}

#[test]
fn null_takes_away_what_another_file_of_values_says_of_an_alert() {
    let set = r#"{"disabled": {"SoraNodeMissing": null}, "alerts": {"SoraNodeMissing": null,
        "SoraLicenseNearlyUsedUp": {"threshold": null, "for": null, "keepFiringFor": null, "severity": null}}}"#;
    for name in ["SoraNodeMissing", "SoraLicenseNearlyUsedUp"] {
        assert_eq!(rule(set, name), rule("{}", name));
    }
}

#[test]
fn each_alert_has_the_labels_and_annotations_that_are_added() {
    let set = r#"{"additionalRuleLabels": {"team": "media"}, "runbookUrl": "http://wiki/runbooks/",
        "additionalRuleAnnotations": {"dashboard": "http://grafana/d/sora"}}"#;
    let manifests =
        chart::render(&["--set-json", &format!("prometheusRule={set}"), "--set", "prometheusRule.enabled=true"]);
    for rule in rules(&manifests) {
        assert_eq!(rule["labels"]["team"], "media");
        assert_eq!(rule["annotations"]["dashboard"], "http://grafana/d/sora");
        let name = rule["alert"].as_str().unwrap();
        assert_eq!(rule["annotations"]["runbook_url"], format!("http://wiki/runbooks/{name}.md"));
    }
}

#[test]
fn alerts_tell_clusters_apart_by_the_labels_that_values_name() {
    let text = |set, name| {
        let rule = rule(set, name);
        format!("{} {}", rule["expr"].as_str().unwrap(), rule["annotations"]["description"].as_str().unwrap())
    };
    let two = r#"{"groupLabels": ["region", "k8s"]}"#;
    assert!(text(two, "ScrapeTargetExporterDown").contains("max by (region, k8s, job, namespace) (up{"));
    let down = text(two, "ScrapeTargetDown");
    assert!(
        down.contains(r#"{region=%q,k8s=%q,job=%q,instance=%q}" $labels.region $labels.k8s $labels.job "#),
        "{down}"
    );
    let none = r#"{"groupLabels": []}"#;
    assert!(text(none, "ScrapeTargetExporterDown").contains("max by (job, namespace) (up{"));
    assert!(text(none, "ScrapeTargetDown").contains(r#"{job=%q,instance=%q}" $labels.job "#));
    for set in [two, none] {
        let json = format!("prometheusRule={set}");
        let manifests = chart::render(&["--set-json", &json, "--set", "prometheusRule.enabled=true"]);
        for rule in rules(&manifests) {
            let text = rule.to_string();
            for left in ["cluster=%q", "labels.cluster", "(cluster, "] {
                assert!(!text.contains(left), "{text}");
            }
        }
    }
}

#[test]
fn rules_of_ones_own_are_added_as_they_are() {
    let extra = r#"prometheusRule.rules=[{"alert": "Mine", "expr": "sora_up == 0", "annotations": {"summary": "{{ $labels.instance }}"}}]"#;
    let manifests = chart::render(&["--set", "prometheusRule.enabled=true", "--set-json", extra]);
    let rules = rules(&manifests);
    let mine = rules.last().unwrap();
    assert_eq!(mine["alert"], "Mine");
    assert_eq!(mine["annotations"]["summary"], "{{ $labels.instance }}");
}

#[test]
fn each_dashboard_is_a_config_map_that_the_sidecar_finds() {
    let set = "dashboards.enabled=true,dashboards.labels.team=media";
    let manifests = chart::render(&["--set", set]);
    for name in ["exporter", "mediasoup", "orion", "sora"] {
        let map = chart::one(&manifests, "ConfigMap", &format!("{}-{name}", chart::RELEASE));
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(map["metadata"]["labels"]["team"], "media");
        let text = map["data"][format!("scrapetarget-{name}.json")].as_str().unwrap();
        assert_eq!(text.trim_end(), chart::read(&format!("files/dashboards/{name}.json")).trim_end());
    }
}

#[test]
fn dashboards_are_in_the_folder_that_the_sidecar_reads_from_their_annotation() {
    let annotations = |set: &str| {
        let manifests = chart::render(&["--set", &format!("dashboards.enabled=true{set}")]);
        chart::one(&manifests, "ConfigMap", &format!("{}-sora", chart::RELEASE))["metadata"]["annotations"].clone()
    };
    assert!(annotations("").is_null());
    assert_eq!(annotations(",dashboards.folder=Media")["grafana_folder"], "Media");
    let both = annotations(
        ",dashboards.folder=Media/Live,dashboards.folderAnnotation=k8s-sidecar-target-directory,dashboards.annotations.owner=media",
    );
    assert_eq!(both["k8s-sidecar-target-directory"], "Media/Live");
    assert_eq!(both["owner"], "media");
    let twice = annotations(",dashboards.folder=Media,dashboards.annotations.grafana_folder=Media");
    assert_eq!(twice["grafana_folder"], "Media");
    assert_eq!(annotations(",dashboards.annotations.grafana_folder=Other")["grafana_folder"], "Other");
    assert!(annotations(",dashboards.folder=null").is_null());
}

#[test]
fn a_label_and_a_folder_of_dashboards_that_are_set_twice_must_be_the_same() {
    for (set, words) in [
        (
            "dashboards.labels.grafana_dashboard=other",
            "dashboards.labels has grafana_dashboard: other, and dashboards.labelValue is 1: remove one of them",
        ),
        (
            "dashboards.folder=Media,dashboards.annotations.grafana_folder=Other",
            "dashboards.annotations has grafana_folder: Other, and dashboards.folder is Media: remove one of them",
        ),
    ] {
        let said = chart::template(&["--set-string", set]).unwrap_err();
        assert!(said.contains(words), "{set}: {said}");
    }
}
