//! Objects that an older or a foreign CRD let in.

use scrapetarget_exporter::crd;
use serde_json::{Value, json};

use crate::exporter::{PATIENCE, Release, server, target, targets, told, until};
use crate::support::cluster::Cluster;

/// Our CRD with a spec in which everything is permitted.
fn loose() -> String {
    let mut crd: Value = serde_saphyr::from_str(&crd::print().unwrap()).unwrap();
    let version = &mut crd["spec"]["versions"][0];
    version.as_object_mut().unwrap().remove("selectableFields");
    let schema = &mut version["schema"]["openAPIV3Schema"];
    schema.as_object_mut().unwrap().remove("required");
    schema["properties"]["spec"] = json!({ "x-kubernetes-preserve-unknown-fields": true });
    crd.to_string()
}

/// Each with a part of the sentence that must be told, and whether it can be answered for at `/probe`.
const BAD: [(&str, &str, &str, bool); 5] = [
    ("interval", "spec: { type: Sora, url: 'http://a/', interval: 1.5h }", "spec.interval: ", true),
    ("timeout", "spec: { type: Sora, url: 'http://a/', interval: 1s, timeout: 2s }", "timeout", true),
    ("kind", "spec: { type: Fax, url: 'http://a/' }", "spec.type: ", false),
    ("url", "spec: { type: Sora, url: [7] }", "spec.url: ", false),
    ("nothing", "", "spec", false),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_used_says_why_everywhere_and_hides_no_other() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.apply(&loose());
    cluster.wait_for_crd(CRD);
    let namespace = cluster.namespace("malformed");
    let bad = |name: &str, body: &str| {
        let head = "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget";
        cluster.apply(&format!("{head}\nmetadata: {{ name: {name}, namespace: {namespace} }}\n{body}\n"));
    };
    // One that is there at the start, the others come while the exporter runs.
    let ((first, body, ..), others) = (BAD[4], &BAD[..4]);
    bad(first, body);
    cluster.apply(&target(&namespace, "good", &server.url(), ""));
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    let replica = release.ready().await;
    replica.until_up(&format!("{namespace}/good")).await;
    for (name, body, ..) in others {
        bad(name, body);
    }
    let api = targets(&cluster, &namespace);
    for (name, _, words, answers) in BAD {
        let object = until(PATIENCE, async || {
            let object = api.get(name).await.unwrap();
            let told = told(&object);
            let accepted = told
                .get("Accepted")
                .is_some_and(|(verdict, why)| verdict == "False/InvalidSpec" && why.contains(words));
            accepted.then_some(object).ok_or_else(|| format!("{name}: {told:?}\n{}", replica.log()))
        })
        .await;
        assert_eq!(told(&object)["Ready"].0, "False/InvalidSpec");
        assert_eq!(object.data["status"]["observedGeneration"], object.metadata.generation.unwrap());
        let series = replica.probe(&format!("{namespace}/{name}")).await;
        let config = series.map(|series| series[r#"probe_failure_info{reason="config"}"#]);
        assert_eq!(config, answers.then_some(1.0), "{name}");
    }
    let malformed = r#"scrapetarget_watch_events_total{event="malformed",kind="ScrapeTarget"}"#;
    assert!(replica.metric(malformed).await >= 5.0);
    let log = replica.log();
    let warned = |name| {
        let target = format!("target={namespace}/{name} ");
        let lines = log.lines().filter(|line| line.contains("level=warn") && format!("{line} ").contains(&target));
        lines.count()
    };
    assert!(BAD.iter().all(|(name, ..)| warned(name) == 1), "{log}");
    until(PATIENCE, async || {
        let told = told(&api.get("good").await.unwrap());
        (told.get("Up").is_some_and(|(verdict, _)| verdict == "True/Succeeded"))
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;

    // Good, bad, good again: the object as it is now counts.
    cluster.apply(&target(&namespace, "good", &server.url(), "maxAge: soon"));
    let good = format!("{namespace}/good");
    until(PATIENCE, async || {
        let page = replica.body(&format!("/probe?target={good}&debug=true")).await;
        (page.contains(r#"reason="config""#) && page.contains("spec.maxAge: ")).then_some(()).ok_or(page)
    })
    .await;
    cluster.apply(&target(&namespace, "good", &server.url(), "maxAge: 0s"));
    replica.until_up(&good).await;

    for (name, ..) in BAD {
        let words = format!("spec: {{ type: Mediasoup, url: '{}', interval: 1s }}", server.url());
        api.delete(name, &kube::api::DeleteParams::default()).await.unwrap();
        bad(name, &words);
        replica.until_up(&format!("{namespace}/{name}")).await;
    }
}

/// A time that the API server takes, and hardly anybody else.
const STRANGE_TIME: &str = "9999-12-31T23:59:59Z";

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_into_the_metadata_of_an_object_hides_no_other() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    let namespace = cluster.namespace("strange");
    cluster.apply(&target(&namespace, "strange", &server.url(), ""));
    // The exporter writes its status meanwhile.
    let spoil = |interval: &str| {
        let path = format!("/apis/scrapetarget.dev/v1alpha1/namespaces/{namespace}/scrapetargets/strange");
        let stored = cluster.change(&path, |object| {
            object["metadata"]["managedFields"][0]["time"] = json!(STRANGE_TIME);
            object["spec"]["interval"] = json!(interval);
        });
        assert!(stored["metadata"]["managedFields"].to_string().contains(STRANGE_TIME), "{stored}");
    };
    spoil("2s");
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    let replica = release.ready().await;
    replica.until_up(&format!("{namespace}/strange")).await;
    spoil("3s");
    cluster.apply(&target(&namespace, "new", &server.url(), ""));
    replica.until_up(&format!("{namespace}/new")).await;
    let api = targets(&cluster, &namespace);
    until(PATIENCE, async || {
        let told = told(&api.get("new").await.unwrap());
        told.get("Up")
            .is_some_and(|(verdict, _)| verdict == "True/Succeeded")
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_crd_fills_in_by_itself_stops_no_target() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    let namespace = cluster.namespace("newer");
    cluster.apply(&target(&namespace, "old", &server.url(), ""));
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    let replica = release.ready().await;
    let old = format!("{namespace}/old");
    replica.until_up(&old).await;

    let mut newer: Value = serde_saphyr::from_str(&crd::print().unwrap()).unwrap();
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["shinyNew"] =
        json!({ "type": "boolean", "default": true });
    cluster.apply(&newer.to_string());
    cluster.wait_for_crd(CRD);
    let api = targets(&cluster, &namespace);
    until(PATIENCE, async || {
        let object = api.get("old").await.unwrap();
        (object.data["spec"]["shinyNew"] == true).then_some(()).ok_or_else(|| format!("{object:?}"))
    })
    .await;
    // A watch that was begun before does not show it.
    let told_of_it = || replica.log().matches("field=spec.shinyNew").count();
    let mut age = 0;
    until(PATIENCE, async || {
        age += 1;
        cluster.apply(&target(&namespace, "new", &server.url(), &format!("maxAge: {age}ms")));
        (told_of_it() > 0).then_some(()).ok_or_else(|| replica.log())
    })
    .await;
    cluster.apply(&target(&namespace, "newest", &server.url(), ""));
    replica.until_up(&format!("{namespace}/newest")).await;
    replica.until_up(&old).await;
    until(PATIENCE, async || {
        let told = told(&api.get("old").await.unwrap());
        let accepted = told.get("Accepted").is_some_and(|(verdict, _)| verdict == "True/Accepted");
        accepted.then_some(()).ok_or_else(|| format!("{told:?}"))
    })
    .await;
    assert_eq!(told_of_it(), 1, "{}", replica.log());
}

const CRD: &str = "scrapetargets.scrapetarget.dev";
