//! An API server that has no time for us and answers 429.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::exporter::{PATIENCE, Release, server, target, targets, told, until};
use crate::support::cluster::Cluster;

/// One request of the account at a time, be it about targets or about ConfigMaps; and a ConfigMap takes half a minute to be made, since a
/// webhook at `port` never answers.
fn rules(release: &Release, port: u16) -> String {
    format!(
        r#"
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {{ name: busy }}
spec:
  type: Limited
  limited: {{ nominalConcurrencyShares: 0, lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {{ type: Reject }} }}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {{ name: busy }}
spec:
  priorityLevelConfiguration: {{ name: busy }}
  matchingPrecedence: 100
  rules:
    - subjects: [{{ kind: ServiceAccount, serviceAccount: {{ name: {release}, namespace: {release} }} }}]
      resourceRules:
        - {{ verbs: ["*"], apiGroups: ["", scrapetarget.dev], resources: ["*"], namespaces: ["*"], clusterScope: true }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{ name: busy }}
webhooks:
  - name: slow.example.com
    admissionReviewVersions: [v1]
    sideEffects: None
    timeoutSeconds: 30
    clientConfig: {{ url: 'https://127.0.0.1:{port}/' }}
    rules: [{{ apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps] }}]
"#,
        release = release.namespace
    )
}

/// Keeps the API server busy until it is dropped: after half a minute, when the webhook has had its time, with another request.
struct Hold(JoinHandle<()>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hold {
    /// Returns when the account gets nothing but 429.
    async fn take(client: &Client, namespace: &str) -> Self {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let start = Instant::now();
        loop {
            let maps = maps.clone();
            let map = serde_json::from_value(serde_json::json!({ "metadata": { "generateName": "slow-" } })).unwrap();
            let hold = Self(tokio::spawn(async move {
                loop {
                    let _ = maps.create(&PostParams::default(), &map).await;
                    // One that is refused as well takes no time.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }));
            let tried = Instant::now();
            while tried.elapsed() < Duration::from_secs(2) {
                let asked = Api::<ConfigMap>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
                if matches!(asked, Err(kube::Error::Api(status)) if status.code == 429) {
                    return hold;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(start.elapsed() < PATIENCE, "the API server is never busy");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_has_no_time_is_asked_again_calmly_until_it_has() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    release.grant(&cluster, &release.namespace, r#"[{ apiGroups: [""], resources: [configmaps], verbs: [create] }]"#);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    cluster.apply(&rules(&release, silent.local_addr().unwrap().port()));
    cluster.apply(&target("default", "first", &server.url(), ""));
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig_of(&release.namespace, &release.namespace)).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let refused = || {
        let lines = release.asked(&cluster);
        lines.iter().filter(|line| line.resource == "scrapetargets" && line.code == 429).count()
    };
    let until_refused = async |times| {
        let (start, before) = (Instant::now(), refused());
        until(PATIENCE, async || {
            let there = refused() - before;
            (there >= times).then_some(()).ok_or_else(|| format!("429 came {there} times"))
        })
        .await;
        start.elapsed()
    };

    let held = Hold::take(&client, &release.namespace).await;
    let replica = release.replica();
    until_refused(1).await;
    let took = until_refused(4).await;
    assert!(took > Duration::from_millis(1500), "four more tries in {took:?}");
    assert_eq!(replica.get("/-/ready").await.unwrap().0, 503);
    until(PATIENCE, async || {
        let told = replica.logged("no target is known yet");
        (told == 1).then_some(()).ok_or_else(|| format!("it is told {told} times\n{}", replica.log()))
    })
    .await;
    drop(held);
    replica.until_up("default/first").await;
    until(PATIENCE, async || {
        let told = replica.logged("the API server is back");
        (told == 1).then_some(()).ok_or_else(|| format!("it is told {told} times\n{}", replica.log()))
    })
    .await;
    let api = targets(&cluster, "default");
    let until_told = async |name| {
        until(PATIENCE, async || {
            let told = told(&api.get(name).await.unwrap());
            let up = told.get("Up").is_some_and(|(verdict, _)| verdict == "True/Succeeded");
            up.then_some(()).ok_or_else(|| format!("{told:?}\n{}", replica.log()))
        })
        .await;
    };
    until_told("first").await;

    // The watch that runs goes on; what is written is refused.
    let held = Hold::take(&client, &release.namespace).await;
    cluster.apply(&target("default", "second", &server.url(), ""));
    replica.until_up("default/second").await;
    let before = refused();
    until_refused(1).await;
    drop(held);
    until_told("second").await;
    assert!(refused() - before < 10, "429 came {} times", refused() - before);
}
