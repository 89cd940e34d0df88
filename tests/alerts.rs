//! The alerts that come with the chart: promtool runs them on series that the exporter gives, and every name in them is one of ours.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::Url;
use scrapetarget_exporter::kind::{Blocks, Engine, Reason, Type};
use scrapetarget_exporter::poll::MemberState;
use serde_json::{Value, json};
use support::exposition::{Sample, sample};
use support::families;
use support::promql::{self, OF_PODS, OF_TARGETS};
use support::tools::promtool;

const RULES: &str = "charts/scrapetarget-exporter/files/rules.yaml";
const THRESHOLDS: &str = "charts/scrapetarget-exporter/files/thresholds.yaml";
const RUNBOOKS: &str = "https://github.com/scrapetarget/scrapetarget-exporter/blob/main/docs/runbooks";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The one document of a file.
fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a folder, in order.
fn folder(path: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(path)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Every alert, in order.
fn alerts() -> Vec<Value> {
    let groups = yaml(RULES)["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn names() -> BTreeSet<String> {
    alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect()
}

/// The groups of tests in all files.
fn tests() -> Vec<Value> {
    let files = folder("tests/alerts").into_iter();
    files.flat_map(|file| yaml(file.to_str().unwrap())["tests"].as_array().unwrap().clone()).collect()
}

fn run(arguments: &[&str]) {
    let output = Command::new(promtool()).args(arguments).current_dir(root()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_takes_the_rules_and_has_nothing_to_say() {
    run(&["check", "rules", "--lint=all", "--lint-fatal", RULES]);
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_it_should_not() {
    let files = folder("tests/alerts");
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(|| run(&["test", "rules", file.to_str().unwrap()]));
        }
    });
}

#[test]
fn there_is_a_case_for_each_alert_in_which_it_fires_and_one_in_which_it_does_not() {
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for case in tests().iter().flat_map(|test| test["alert_rule_test"].as_array().cloned().unwrap_or_default()) {
        let none = case["exp_alerts"].as_array().unwrap().is_empty();
        let name = case["alertname"].as_str().unwrap().to_owned();
        if none { &mut quiet } else { &mut fires }.insert(name);
    }
    assert_eq!(fires, names());
    assert_eq!(quiet, names());
}

#[test]
fn each_alert_says_how_bad_it_is_what_happened_and_where_to_read_on() {
    let mut seen = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(seen.insert(name.to_owned()), "{name} comes twice");
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity:?}");
        for text in ["summary", "description"] {
            let text = alert["annotations"][text].as_str().unwrap_or_default();
            assert!(text.len() > 20 && text.ends_with('.'), "{name}: {text:?}");
        }
        assert_eq!(alert["annotations"]["runbook_url"], json!(format!("{RUNBOOKS}/{name}.md")));
    }
}

#[test]
fn each_duration_and_each_exception_has_its_reason_in_a_comment() {
    let text = read(RULES);
    for rule in text.split("      - alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let before_for = rule.lines().take_while(|line| !line.starts_with("        for:")).last().unwrap();
        let explained = if rule.contains("        for:") {
            before_for.trim().starts_with('#')
        } else {
            rule.contains("        # No `for`")
        };
        assert!(explained, "{name} does not say why it waits, or why it does not");
    }
}

/// What users look at: targets, by series of their own. An alert of these outlives a change of the leader.
#[test]
fn an_alert_about_a_target_does_not_end_by_a_lost_scrape() {
    for alert in alerts() {
        let about_the_exporter =
            ["ScrapeTargetExporter", "ScrapeTargetNoLeader", "ScrapeTargetPollsLate", "ScrapeTargetFilesInvalid"];
        let name = alert["alert"].as_str().unwrap();
        if !about_the_exporter.iter().any(|start| name.starts_with(start)) {
            assert_eq!(alert["keep_firing_for"], json!("3m"), "{name}");
        }
    }
}

#[test]
fn every_series_and_label_in_an_alert_is_one_that_the_exporter_gives() {
    let known = families::series();
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        assert_eq!(promql::unknown(expression, &known), Vec::<String>::new(), "{expression}");
        for annotation in alert["annotations"].as_object().unwrap().values() {
            let text = annotation.as_str().unwrap();
            for label in text.split("$labels.").skip(1) {
                let label: String = label.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let asked = format!("{expression} and on ({label}) up");
                assert_eq!(promql::unknown(&asked, &known), Vec::<String>::new(), "{text}");
            }
        }
    }
}

/// Otherwise what is well in one cluster hides what is not in another. The chart replaces these texts (`prometheusRule.groupLabels`).
#[test]
fn whatever_is_put_together_or_compared_by_labels_is_of_one_cluster() {
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        for list in ["by (", "on ("].iter().flat_map(|word| expression.split(word).skip(1)) {
            assert!(list.starts_with("cluster, "), "{expression}");
        }
        let description = alert["annotations"]["description"].as_str().unwrap();
        for query in description.split("with printf ").skip(1) {
            assert!(
                query.contains("{cluster=%q,") && query.contains("\" $labels.cluster $labels.job "),
                "{description}"
            );
        }
    }
}

#[test]
fn every_series_in_an_alert_is_asked_for_by_its_job() {
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        for (name, labels) in promql::mentions(expression).series {
            assert!(labels.contains("job"), "{name} of {expression} may be another exporter's");
        }
        // The text that the chart replaces.
        let jobs: Vec<&str> = expression.split("job=").skip(1).map(|rest| rest.split('"').nth(1).unwrap()).collect();
        assert!(jobs.iter().all(|job| *job == "scrapetarget.*"), "{expression}");
    }
}

#[test]
fn a_name_that_nobody_has_would_be_found() {
    let known = families::series();
    let unknown = |expression| promql::unknown(expression, &known);
    assert_eq!(unknown("sum by (service) (rate(orion_incoming_transactions_total{service=\"}\"}[5m])) > 0.5"), [""; 0]);
    assert_eq!(unknown("sora_upp == 0"), ["series sora_upp"]);
    assert_eq!(unknown("sum without (__name__) ({__name__=~\"sora_(up|upp)\", job=\"a\"})"), ["series sora_upp"]);
    assert_eq!(unknown("{__name__=~\"sora_(up|version_info)\", version=\"a\"} > 0"), ["label version of sora_up"]);
    assert_eq!(unknown("sora_up{modes=\"a\"} == 0"), ["label modes of sora_up"]);
    assert_eq!(unknown("count by (service) (sora_up)"), ["label service"]);
    assert_eq!(unknown("sora_up unless on (job, reason) probe_failure_info{reason=~\"a|b\"} offset 5m"), [""; 0]);
    assert_eq!(unknown("histogram_quantile(0.9, sum by (le) (scrapetarget_poll_delay_seconds_bucket))"), [""; 0]);
}

/// Every file below `folder` that ends like an exposition.
fn expositions(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { expositions(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "metrics"))
        .collect()
}

/// The series of a sample in one canonical text, without names that users give.
fn canonical(mut sample: Sample) -> String {
    const OF_USERS: [&str; 4] = ["node_name", "target_name", "target_namespace", "type"];
    sample.labels.retain(|(label, _)| !OF_USERS.contains(&label.as_str()));
    sample.series()
}

/// Every series that stands in a golden exposition or in a text of `/metrics`, and those about polls with each word they can have.
fn given() -> BTreeSet<String> {
    let texts = expositions(&root().join("tests/fixtures")).into_iter().map(|file| fs::read_to_string(file).unwrap());
    let mut given: BTreeSet<String> = texts
        .chain([families::own_metrics()])
        .flat_map(|text| {
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| canonical(sample(line).unwrap_or_else(|why| panic!("{line}: {why}"))))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut with = |name: &str, label: &str, values: &mut dyn Iterator<Item = &str>| {
        for value in values {
            let labels = vec![(label.to_owned(), value.to_owned())];
            given.insert(Sample { name: name.to_owned(), labels, value: 0.0 }.series());
        }
    };
    with("probe_failure_info", "reason", &mut Reason::ALL.iter().map(|reason| reason.as_str()));
    let blocks: Blocks = serde_json::from_value(json!({ "sora": { "clusterMetrics": true } })).unwrap();
    let url = Url::parse("http://server/").unwrap();
    let calls = |kind: &Type| -> Vec<&str> {
        // A prober has a call of one name, which no url of http tells.
        match blocks.engine(*kind, &url) {
            Ok(Engine::Calls(build)) => build().calls(None).iter().map(|call| call.name).collect(),
            Ok(Engine::Probe(prober)) => vec![prober.call()],
            Err(_) => Vec::new(),
        }
    };
    let calls: Vec<&str> = Type::ALL.iter().flat_map(calls).collect();
    with("probe_call_success", "call", &mut calls.into_iter());
    with("probe_members", "state", &mut MemberState::COUNTED.iter().map(|state| state.as_str()));
    with("probe_member_failure_info", "reason", &mut Reason::ALL.iter().map(|reason| reason.as_str()));
    with("probe_turn_relay_round_trip_seconds", "stat", &mut ["min", "avg", "max"].into_iter());
    // One of each target.
    given.insert(Sample { name: "scrapetarget_up".to_owned(), labels: Vec::new(), value: 0.0 }.series());
    let by_itself = |labels: &BTreeSet<String>| labels.iter().all(|label| promql::OF_MEMBERS.contains(&label.as_str()));
    for name in families::series().iter().filter(|(_, labels)| by_itself(labels)).map(|(name, _)| name) {
        given.insert(Sample { name: name.clone(), labels: Vec::new(), value: 0.0 }.series());
    }
    given
}

#[test]
fn the_cases_use_series_that_the_exporter_gives_with_the_labels_of_discovery() {
    let given = given();
    for test in tests() {
        for input in test["input_series"].as_array().unwrap() {
            let text = input["series"].as_str().unwrap();
            let line = text.replace(", ", ",") + " 0";
            let mut sample = sample(&line).unwrap_or_else(|why| panic!("{text}: {why}"));
            sample.labels.retain(|(name, _)| name != promql::OF_CLUSTERS);
            let of_the_exporter = sample.name.starts_with("scrapetarget_")
                || !sample.labels.iter().any(|(name, _)| name == "target_name");
            if !of_the_exporter && promql::is_of_members(&sample.name) {
                // Of a target with members, each series has the label of one; of a target without, none has.
                sample.labels.retain(|(name, _)| !promql::OF_MEMBERS.contains(&name.as_str()));
            }
            let discovered: &[&str] = if of_the_exporter { &OF_PODS } else { &OF_TARGETS };
            let labels: BTreeMap<String, String> = sample.labels.iter().cloned().collect();
            for label in discovered {
                assert!(labels.contains_key(*label), "{text} lacks {label}");
            }
            sample.labels.retain(|(name, _)| !discovered.contains(&name.as_str()));
            if !of_the_exporter {
                assert_eq!(labels["instance"], format!("{}/{}", labels["namespace"], labels["target_name"]));
                assert_eq!(labels["namespace"], labels["target_namespace"]);
            }
            let known = sample.name == "up" || given.contains(&canonical(sample));
            assert!(known, "{text} is nothing that the exporter gives");
        }
    }
}

#[test]
fn there_is_a_runbook_for_each_alert_and_for_no_other() {
    let pages = folder("docs/runbooks").into_iter();
    let pages: BTreeSet<String> = pages.map(|page| page.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(pages, names());
    for name in pages {
        let page = read(&format!("docs/runbooks/{name}.md"));
        let headings: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        let expected = [
            &format!("# {name}"),
            "## What it means",
            "## What users feel",
            "## What to look at",
            "## What to do",
            "## When to silence",
        ];
        assert_eq!(headings, expected);
        assert!(page.lines().count() < 60, "{name} is too long to be read in the middle of the night");
    }
}

#[test]
fn runbooks_name_only_series_that_exist_and_lead_to_pages_that_exist() {
    let known = families::series();
    let starts = ["sora_", "orion_", "mediasoup_", "probe_", "scrapetarget_"];
    for page in folder("docs/runbooks") {
        let text = fs::read_to_string(&page).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let beginning = || known.keys().any(|name| name.starts_with(word));
            let ours = starts.iter().any(|start| word.starts_with(start));
            assert!(!ours || beginning(), "{} speaks of {word}", page.display());
        }
        for target in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            assert!(page.parent().unwrap().join(target).exists(), "{} links to {target}", page.display());
        }
    }
}

#[test]
fn the_values_of_the_chart_know_each_alert_by_its_name() {
    let schema: Value = serde_json::from_str(&read("charts/scrapetarget-exporter/values.schema.json")).unwrap();
    for by_name in ["disabled", "alerts"] {
        let values = &schema["properties"]["prometheusRule"]["properties"][by_name];
        // A pattern: for names of properties that are not allowed, Helm says where they stand.
        let pattern = values["patternProperties"].as_object().unwrap().keys().next().unwrap();
        let known = pattern.trim_start_matches("^(").trim_end_matches(")$").split('|');
        let known: BTreeSet<String> = known.map(ToOwned::to_owned).collect();
        assert_eq!(known, names(), "{by_name}");
    }
}

/// How the threshold of an alert stands in its expression, and its unit.
fn threshold(name: &str) -> Option<(String, String)> {
    let all = yaml(THRESHOLDS);
    let threshold = all.get(name)?;
    let text = |field: &str| threshold[field].as_str().unwrap().to_owned();
    Some((text("text").replace("%s", &text("default")), format!("{} {}", text("default"), text("unit"))))
}

#[test]
fn each_threshold_that_the_chart_can_change_stands_in_the_expression_of_its_alert() {
    for name in yaml(THRESHOLDS).as_object().unwrap().keys() {
        let alerts = alerts();
        let alert = alerts.iter().find(|alert| alert["alert"] == *name).unwrap_or_else(|| panic!("no {name}"));
        let (text, _) = threshold(name).unwrap();
        let expression = alert["expr"].as_str().unwrap();
        let mut after = expression.split(&text).skip(1).peekable();
        assert!(after.peek().is_some(), "{name}: {text:?} is not in {expression}");
        assert!(after.all(|rest| rest.starts_with(char::is_whitespace)), "{name}: {text:?} is a part of a number");
    }
}

/// The first sentence of a runbook.
fn meaning(name: &str) -> String {
    let page = read(&format!("docs/runbooks/{name}.md"));
    let text = page.split("## What it means\n\n").nth(1).unwrap().split("\n\n").next().unwrap().replace('\n', " ");
    let end = text.find(". ").map_or(text.len(), |end| end + 1);
    text[..end].to_owned()
}

/// `docs/alerts.md`.
fn page() -> String {
    let mut out = BEFORE.to_owned();
    for group in yaml(RULES)["groups"].as_array().unwrap() {
        let title = match group["name"].as_str().unwrap() {
            "scrapetarget-exporter" => "The exporter itself",
            "scrapetarget-targets" => "Targets of any kind",
            "sora" => "Sora",
            "orion" => "Orion",
            "mediasoup" => "mediasoup",
            "probes" => "Probes",
            other => panic!("{other} has no title"),
        };
        let _ = write!(
            out,
            "\n## {title}\n\n| alert | severity | after | threshold | what it means |\n|---|---|---|---|---|\n"
        );
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            let severity = rule["labels"]["severity"].as_str().unwrap();
            let after = rule["for"].as_str().unwrap_or("immediately");
            let threshold = threshold(name).map(|(_, words)| words).unwrap_or_default();
            let meaning = meaning(name);
            let _ = writeln!(out, "| [{name}](runbooks/{name}.md) | {severity} | {after} | {threshold} | {meaning} |");
        }
    }
    out
}

const BEFORE: &str = "\
# Alerts

This page is generated from the rules (`make generate`). Each alert has a runbook: how it affects users, what to look at, and what to do.

* **With the Helm chart**: `prometheusRule.enabled: true` creates a PrometheusRule. The alerts about the exporter itself need the
  exporter's own metrics: `serviceMonitor.selfMonitor.enabled: true`.
* **Without the chart**: add [rules.yaml](../charts/scrapetarget-exporter/files/rules.yaml) to `rule_files` of Prometheus. If the names of
  your jobs do not begin with `scrapetarget`, replace them in the file.
* **To disable an alert**: `prometheusRule.disabled.NAME: true`.
* **To change a threshold, a severity or how long an alert waits**: `prometheusRule.alerts.NAME`, with `threshold` in the unit below, `severity`,
  `for` and `keepFiringFor`. Descriptions and runbooks speak of the defaults. For anything else, disable the alert, and add your version to
  `prometheusRule.rules`.
* **To route alerts**: `prometheusRule.additionalRuleLabels`, such as `team: media`, and `prometheusRule.additionalRuleAnnotations`.
* **Without access to the internet**: copy `docs/runbooks` to where your people can read it, and set `prometheusRule.runbookUrl` to it.
* **One Prometheus for several clusters**: alerts tell clusters apart by the label `cluster`, if series have it: give it to targets and to the
  exporter alike. `prometheusRule.groupLabels` names other labels; an empty list stands for one cluster. Labels that Prometheus adds when it sends
  (`external_labels`) are not part of its series: there each Prometheus is a cluster by itself.
* **Two tiers**: the warning is silent while the critical alert about the same matter fires: `ScrapeTargetCertificateExpiresSoon` and
  `ScrapeTargetCertificateExpired`, `SoraLicenseExpiresSoon` and `SoraLicenseExpired`, `SoraLicenseNearlyUsedUp` and `SoraLicenseUsedUp`,
  `OrionNotificationQueueGrowing` and `OrionNotificationsLost` or `OrionNotificationQueueStuck`.

No alert fires for a suspended target; a firing alert ends within three minutes after the target is suspended. A change of the leader
neither fires an alert nor ends one. `critical`: users are affected, or nobody would notice if they were. `warning`: users will be affected.
`info`: data is missing.
";

#[test]
fn the_page_of_alerts_says_what_the_rules_say() {
    let (file, expected) = (root().join("docs/alerts.md"), page());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "docs/alerts.md is not what the rules say: run `make generate`");
}
