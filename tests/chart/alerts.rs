//! What the chart makes of the alerts and of the dashboards.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::support::chart;

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
    let set = "dashboards.enabled=true,dashboards.labels.team=media,dashboards.labels.grafana_dashboard=other";
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
    // Two that disagree: the setting with a name of its own counts.
    let folder = annotations(",dashboards.folder=Media,dashboards.annotations.grafana_folder=Other");
    assert_eq!(folder["grafana_folder"], "Media");
}
