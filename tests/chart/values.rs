//! Which values the chart takes, and how it refuses others.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::chart;

#[test]
fn the_linter_finds_nothing_in_any_case() {
    let folder = chart::folder();
    for (name, file) in chart::cases() {
        let said = chart::helm(["lint", "--strict", folder.to_str().unwrap(), "-f", &file]);
        assert_eq!(said.code, Some(0), "{name}: {}{}", said.stdout, said.stderr);
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_what_it_may_be() {
    let refused: [(&str, &[&str]); 28] = [
        ("replica=2", &["additional properties 'replica' not allowed"]),
        ("discovery.mod=none", &["at '/discovery'", "additional properties 'mod' not allowed"]),
        ("replicas=two", &["at '/replicas'", "got string, want integer"]),
        ("replicas=-1", &["at '/replicas'", "minimum"]),
        ("discovery.mode=probe", &["at '/discovery/mode'", "'serviceMonitor', 'httpSD', 'none'"]),
        ("discovery.monitorNamespace=team", &["'target', 'release'"]),
        ("discovery.monitorLabels.tier=1", &["at '/discovery/monitorLabels/tier'", "want string"]),
        ("watchNamespaces=team", &["at '/watchNamespaces'", "got string, want array"]),
        ("watchNamespaces={Team}", &["at '/watchNamespaces/0'", "'Team' does not match pattern"]),
        ("targetDenyCidr={10.0.0.0}", &["at '/targetDenyCidr/0'"]),
        ("secretLabel=a b", &["at '/secretLabel'"]),
        ("log.level=verbose", &["'error', 'warn', 'info', 'debug', 'trace'"]),
        ("limits.maxBodyBytes=16MB", &["at '/limits/maxBodyBytes'"]),
        ("shutdownDelay=10", &["at '/shutdownDelay'"]),
        ("shutdownDelay=30m1h", &["at '/shutdownDelay'"]),
        ("image.digest=latest", &["at '/image/digest'"]),
        ("image.pullPolicy=Sometimes", &["'Always', 'IfNotPresent', 'Never'"]),
        ("rbac.secrets=all", &["'cluster', 'namespaces', 'none'"]),
        ("service.port=0", &["at '/service/port'"]),
        ("openshift.enabled=perhaps", &["true, false, 'auto'"]),
        ("fullnameOverride=a-name-that-is-longer-than-forty-six-characters", &["at '/fullnameOverride'"]),
        ("targets[0].name=a", &["at '/targets/0'", "missing property 'spec'"]),
        ("webConfig.enabled=true", &["webConfig.existingSecret, webConfig.config and webConfig.tlsSecret"]),
        (
            "webConfig.enabled=true,webConfig.existingSecret=a,webConfig.config.x=y",
            &["webConfig.existingSecret and webConfig.config exclude each other"],
        ),
        ("discovery.basicAuth.username.name=a", &["needs discovery.monitorNamespace: release"]),
        ("discovery.tls.ca.secret.name=a", &["needs discovery.monitorNamespace: release", "discovery.scrapeClass"]),
        (
            "shutdownDelay=30s",
            &["terminationGracePeriodSeconds is 30: it must be more than shutdownDelay, which is 30s"],
        ),
        ("rbac.secretNamespaces={a}", &["rbac.secretNamespaces needs rbac.secrets: namespaces"]),
    ];
    for (set, words) in refused {
        let said = chart::template(&["--set", set]).expect_err(set);
        for word in words {
            assert!(said.contains(word), "{set}: {said}");
        }
    }
}

#[test]
fn durations_are_added_up_before_the_grace_period_is_compared() {
    for (delay, seconds) in [("59s", 60), ("1m", 61), ("1m29s", 90), ("1h1m1s", 3662), ("900ms", 1), ("0s", 1)] {
        let set = |seconds: u32| format!("shutdownDelay={delay},terminationGracePeriodSeconds={seconds}");
        chart::template(&["--set", &set(seconds)]).unwrap_or_else(|error| panic!("{delay}: {error}"));
        if seconds > 1 {
            chart::template(&["--set", &set(seconds - 1)]).expect_err(delay);
        }
    }
}

#[test]
fn global_values_of_other_charts_are_let_through() {
    chart::render(&["--set", "global.storageClass=fast,global.other.deep=true"]);
}

#[test]
fn a_default_can_be_taken_away_by_null() {
    let manifests = chart::render(&["--set", "podSecurityContext.runAsUser=null,livenessProbe=null"]);
    let pod = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"].get("runAsUser"), None);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["containers"][0].get("livenessProbe"), None);
}

#[test]
fn every_example_of_values_in_the_readme_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let readme = chart::read("README.md");
    let examples: Vec<&str> = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 5, "{examples:#?}");
    for example in examples {
        std::fs::write(&file, example).unwrap();
        chart::template(&["-f", file.to_str().unwrap()]).unwrap_or_else(|error| panic!("{example}{error}"));
    }
}

/// The places of all values, and of all keys of a schema whose keys are fixed, as `a.b.c`.
fn places(value: &Value, schema: &Value, place: &str, found: &mut [BTreeSet<String>; 2]) {
    let inner = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let values = value.as_object().unwrap_or_else(|| panic!("{place} is no map"));
    found[0].extend(values.keys().map(|key| inner(key)));
    found[1].extend(properties.keys().map(|key| inner(key)));
    for (key, schema) in properties {
        if let Some(value) = values.get(key).filter(|value| value.is_object()) {
            places(value, schema, &inner(key), found);
        }
    }
}

#[test]
fn the_schema_knows_exactly_the_values_that_there_are() {
    let schema: Value = serde_json::from_str(&chart::read("values.schema.json")).unwrap();
    let values = &chart::parse(&chart::read("values.yaml"))[0];
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    places(values, &schema, "", &mut found);
    // `strategy.rollingUpdate` is Kubernetes' own.
    assert!(found[0].len() > 100, "{:?}", found[0]);
    assert_eq!(found[0], found[1]);
}

#[test]
fn what_the_schema_refers_to_is_there_and_nothing_else_is() {
    let text = chart::read("values.schema.json");
    let schema: Value = serde_json::from_str(&text).unwrap();
    let defined: BTreeSet<&str> = schema["definitions"].as_object().unwrap().keys().map(String::as_str).collect();
    let used = text.split("#/definitions/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(defined, used);
}
