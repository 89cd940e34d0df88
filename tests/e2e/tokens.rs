//! An Orion behind Wilma and Keyrock, declared as docs/keyrock.md has it: what is wrong with its token is said, and the token itself never is.

use std::time::{Duration, Instant};

use crate::changes::until_shown;
use crate::cluster::{Cluster, NAMESPACE, RELEASE, read};
use crate::probers::{delete, until_series};
use crate::{figure, until};

pub(crate) const MANIFESTS: &str = "tests/e2e/manifests/fiware.yaml";

const PATIENCE: Duration = Duration::from_secs(180);

/// What the Secret has as the secret of the client, and as the password of the user: in the end, and at first.
const SECRET: &str = "of-application-and-user";
const WRONG: &str = "of-another-application";

/// How every JWT begins: with `{"` in Base64. No other word of the exporter does.
const TOKEN: &str = "eyJ";

/// What Prometheus must have of the target: one series each, of this value.
const SERIES: [(&str, f64); 4] = [
    (r#"probe_success{instance="fiware/orion-behind-wilma"}"#, 1.0),
    (r#"orion_up{instance="fiware/orion-behind-wilma"}"#, 1.0),
    (r#"count(probe_call_success{instance="fiware/orion-behind-wilma", call!="token"} == 1)"#, 4.0),
    (r#"count(count by (__name__) ({__name__=~"orion_.+", instance="fiware/orion-behind-wilma"})) >= bool 20"#, 1.0),
];

pub(crate) fn lead_to_an_orion(cluster: &Cluster) {
    let start = Instant::now();
    cluster.apply_file(MANIFESTS);
    cluster.rolled_out("fiware", "wilma");
    figure("Wilma and Keyrock as a pod", start.elapsed());

    // The servers keep the secret that they were started with.
    set_secret(cluster, WRONG);
    let target = target();
    cluster.apply(&target);
    until_shown(cluster, "fiware", "orion-behind-wilma", "False", &["Auth"]);
    let words = ["token: answered 4", " invalid_client: ", "correct clientId and clientSecret"];
    let (said, _) = until("sentence about the secret", PATIENCE, || {
        let path = "{.status.conditions[?(@.type=='Up')].message}";
        let said = cluster.field("fiware", "st/orion-behind-wilma", path);
        if words.iter().all(|word| said.contains(word)) { Ok(said) } else { Err(said) }
    });
    println!("   {said}");

    let pods = pods(cluster);
    set_secret(cluster, SECRET);
    figure("from the mended Secret to all series", until_series(cluster, &SERIES));
    until_shown(cluster, "fiware", "orion-behind-wilma", "True", &["Succeeded"]);
    assert_eq!(self::pods(cluster), pods, "nothing was restarted for it");

    no_secret_is_told(cluster);
    delete(cluster, &target);
    cluster.kubectl(&["delete", "namespace", "fiware", "--wait=false"]);
}

/// The target of the example, with a token whose form is known, and polled more often.
fn target() -> String {
    let example = read("deploy/examples/orion-keyrock.yaml");
    let target = example.split("---\n").next().unwrap_or_default();
    let changed = target.replace("  oauth2:\n", "  interval: 5s\n  oauth2:\n    scopes: [jwt]\n");
    assert_ne!(changed, target);
    changed
}

fn set_secret(cluster: &Cluster, secret: &str) {
    let patch = format!(r#"{{"stringData": {{"secret": "{secret}"}}}}"#);
    cluster.kubectl(&["-n", "fiware", "patch", "secret", "keyrock", "-p", &patch]);
}

/// The pods of the release, each with how often it was restarted.
fn pods(cluster: &Cluster) -> String {
    let selector = format!("app.kubernetes.io/name={RELEASE}");
    let path = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", path])
}

/// Neither the token nor what it was obtained with is in the log, in the objects that others may read, or on a page.
fn no_secret_is_told(cluster: &Cluster) {
    let selector = format!("app.kubernetes.io/name={RELEASE}");
    let page = |path: &str| {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:9850/proxy{path}", cluster.leader());
        until("page", PATIENCE, || cluster.get(&path)).0
    };
    let probe = "/probe?target=fiware/orion-behind-wilma";
    let (metrics, debug) = (page("/metrics"), page(&format!("{probe}&debug=true")));
    // Both tokens were asked for: there is something to tell.
    for outcome in ["success", "invalid_client"] {
        let family = format!("scrapetarget_token_requests_total{{outcome=\"{outcome}\"}} ");
        assert!(metrics.contains(&family), "{family}: {metrics}");
    }
    assert!(debug.contains("The token\n"), "{debug}");
    for (place, text) in [
        ("the log", cluster.kubectl(&["-n", NAMESPACE, "logs", "-l", &selector, "--prefix", "--tail=-1"])),
        ("the status", cluster.kubectl(&["-n", "fiware", "get", "st,servicemonitors", "-o", "yaml"])),
        ("the events", cluster.kubectl(&["-n", "fiware", "get", "events", "-o", "yaml"])),
        ("the metrics", metrics),
        ("the debug page", debug),
        ("the answer", page(probe)),
        ("the page", page("/")),
        ("the API", page("/api/v1/targets")),
    ] {
        assert!(!text.is_empty(), "{place}");
        for secret in [TOKEN, SECRET, WRONG] {
            assert!(!text.contains(secret), "{secret} is in {place}:\n{text}");
        }
    }
}
