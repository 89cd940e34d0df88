//! Secrets and ConfigMaps that targets refer to, in a real API server with RBAC.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use simulators::Simulated;

use crate::support::cluster::Cluster;
use crate::support::load::allowed;
use crate::support::program::{Running, command};

/// Nothing but the value of a Secret has these letters.
const MARKER: &str = "qzxjkvwq";

/// What is read every minute is noticed within this.
const MINUTE: Duration = Duration::from_secs(75);

/// What is missing, or lacks its label, is looked for every ten seconds.
const SOON: Duration = Duration::from_secs(20);

/// What the exporter may do in each namespace that it looks after.
const TARGETS: &str = "[{ apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [list, watch] }]";

/// What it may do where targets are to have credentials.
const OBJECTS: &str = r#"[{ apiGroups: [""], resources: [secrets, configmaps], verbs: [get] }]"#;

/// The exporter as an account that may do what is granted here, and no more.
struct Exporter<'c> {
    cluster: &'c Cluster,
    namespace: String,
    program: Running,
}

impl<'c> Exporter<'c> {
    /// It follows its own namespace and `more`, and has `arguments` besides.
    fn start(cluster: &'c Cluster, more: &[&str], arguments: &[&str]) -> Self {
        cluster.install_crd();
        let namespace = cluster.namespace("secrets");
        let kubeconfig = cluster.kubeconfig_of(&namespace, "exporter");
        let watched = [&[namespace.as_str()], more].concat();
        for watched in &watched {
            cluster.grant(watched, "targets", &namespace, TARGETS);
        }
        let mut command = command(["run", "--listen-address", "127.0.0.1:0", "--discovery.mode", "none"]);
        command.args(["--target-allow-loopback", "--shutdown-delay", "0s", "--log-level", "trace"]);
        command.args(["--watch-namespace", &watched.join(",")]).args(arguments).env("KUBECONFIG", kubeconfig);
        let program = Running::listening(command);
        Self { cluster, namespace, program }
    }

    /// Lets it read the Secrets and ConfigMaps of a namespace.
    fn allow(&self, namespace: &str) {
        self.cluster.grant(namespace, "secrets", &self.namespace, OBJECTS);
    }

    /// A target with a token of the Secret of its own name.
    fn declare(&self, namespace: &str, name: &str, url: &str) {
        self.declare_with(
            namespace,
            name,
            url,
            &format!("authorization: {{ credentials: {{ name: {name}, key: token }} }}"),
        );
    }

    fn declare_with(&self, namespace: &str, name: &str, url: &str, more: &str) {
        self.cluster.apply(&format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
             spec:\n  type: Mediasoup\n  url: '{url}'\n  interval: 1s\n  mediasoup: {{ source: Prometheus }}\n  {more}\n"
        ));
    }

    /// Asks for a target's debug page until all of `wanted` are in it, which is promised within this time.
    async fn until(&self, namespace: &str, name: &str, promised: Duration, wanted: &[&str]) {
        let path = format!("/probe?target={namespace}/{name}&debug=true");
        let start = Instant::now();
        loop {
            let (_, page) = self.program.get(&path).await.unwrap_or_default();
            assert_clean(&path, &page);
            if wanted.iter().all(|wanted| page.contains(wanted)) {
                return;
            }
            let late = start.elapsed() >= allowed(promised);
            assert!(!late, "{wanted:?} does not come to be:\n{page}\n{}", self.program.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Looks whether a target still has its credentials, whatever has become of them in the cluster. A poll that a busy machine was too
    /// slow for says nothing of that.
    async fn has_credentials(&self, namespace: &str, name: &str) {
        let (_, page) = self.program.get(&format!("/probe?target={namespace}/{name}")).await.unwrap_or_default();
        let lost = ["config", "auth"].iter().any(|reason| page.contains(&format!("reason=\"{reason}\"")));
        assert!(page.contains("probe_success ") && !lost, "{page}\n{}", self.program.log());
    }

    /// What it asked the API server about Secrets and ConfigMaps: verbs, and names.
    fn asked(&self) -> BTreeSet<(String, String)> {
        let user = format!("system:serviceaccount:{}:exporter", self.namespace);
        let mut lines = self.cluster.audit();
        lines.retain(|line| line.user == user && matches!(line.resource.as_str(), "secrets" | "configmaps"));
        lines.into_iter().map(|line| (line.verb, line.name)).collect()
    }
}

fn secret(namespace: &str, name: &str, more: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {namespace} }}\n{more}\n")
}

fn token(namespace: &str, name: &str, token: &str) -> String {
    secret(namespace, name, &format!("stringData: {{ token: {token}-{MARKER} }}"))
}

/// The block for a token, with the ID of the client in one Secret and its secret in another.
fn oauth2(token_url: &str) -> String {
    format!(
        "oauth2: {{ clientId: {{ secret: {{ name: id, key: id }} }}, clientSecret: {{ name: a, key: token }}, tokenUrl: '{token_url}' }}"
    )
}

fn client_id(namespace: &str) -> String {
    secret(namespace, "id", "stringData: { id: exporter }")
}

fn assert_clean(place: &str, text: &str) {
    assert!(!text.contains(MARKER), "a secret is in {place}:\n{text}");
}

/// A server that takes one token at a time, and keeps what it was sent.
#[derive(Clone, Default)]
struct Server {
    wanted: Arc<Mutex<String>>,
    sent: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn serve(&self) -> Simulated {
        let server = self.clone();
        let routes = Router::new().fallback(move |headers: HeaderMap| {
            let sent = headers.get("authorization").map_or("nothing", |value| value.to_str().unwrap()).to_owned();
            let fine = sent.contains(&*server.wanted.lock().unwrap());
            server.sent.lock().unwrap().push(sent);
            async move { (if fine { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "media_rooms 3\n") }
        });
        Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap()
    }

    /// A token endpoint that takes one secret of a client at a time, and keeps what it was sent.
    async fn serve_tokens(&self) -> Simulated {
        let server = self.clone();
        let routes = Router::new().fallback(move |headers: HeaderMap| {
            let sent = headers.get("authorization").map_or("nothing", |value| value.to_str().unwrap());
            let sent = sent.strip_prefix("Basic ").map_or_else(Vec::new, |pair| STANDARD.decode(pair).unwrap());
            let sent = String::from_utf8(sent).unwrap();
            let fine = sent == format!("exporter:{}", server.wanted.lock().unwrap());
            server.sent.lock().unwrap().push(sent);
            async move {
                if fine {
                    (StatusCode::OK, format!("{{\"access_token\":\"issued-{MARKER}\",\"expires_in\":3600}}"))
                } else {
                    (
                        StatusCode::UNAUTHORIZED,
                        format!("{{\"error\":\"invalid_client\",\"error_description\":\"{MARKER}\"}}"),
                    )
                }
            }
        });
        Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap()
    }

    /// Wants this secret of a client.
    fn wants_secret(&self, secret: &str) {
        *self.wanted.lock().unwrap() = format!("{secret}-{MARKER}");
    }

    fn wants(&self, token: &str) {
        *self.wanted.lock().unwrap() = format!("Bearer {token}-{MARKER}");
    }

    fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_may_be_missing_created_rotated_and_deleted_and_is_never_listed_nor_shown() {
    let (server, exporter) = (Server::default(), Exporter::start(Cluster::shared(), &[], &[]));
    let (simulated, namespace) = (server.serve().await, exporter.namespace.clone());
    exporter.allow(&namespace);
    exporter.cluster.apply(&secret(&namespace, "a", &format!("stringData: {{ other: {MARKER} }}")));
    exporter.declare(&namespace, "a", &simulated.url());
    exporter.declare(&namespace, "b", &simulated.url());
    for name in ["a", "b"] {
        // Whether the object is missing or its key is not told to who may declare targets and read no Secrets.
        let missing = format!("there is no Secret {namespace}/{name} with the key \"token\"\n");
        exporter.until(&namespace, name, MINUTE, &["reason=\"config\"", &missing]).await;
    }
    assert_eq!(server.sent(), [""; 0], "nothing is sent without the credentials");

    for name in ["a", "b"] {
        exporter.cluster.apply(&token(&namespace, name, "one"));
        exporter.until(&namespace, name, SOON, &["probe_success 1"]).await;
    }
    // Any token is taken, so that no refusal has it read sooner.
    exporter.cluster.apply(&token(&namespace, "a", "two"));
    exporter.cluster.kubectl(&["--namespace", &namespace, "delete", "secret", "b"]);
    let start = Instant::now();
    while !server.sent().contains(&format!("Bearer two-{MARKER}")) {
        assert!(start.elapsed() < allowed(MINUTE), "{}", exporter.program.log());
        exporter.has_credentials(&namespace, "a").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    exporter.until(&namespace, "b", MINUTE, &["reason=\"config\"", "there is no Secret"]).await;

    assert!(!server.sent().iter().any(|sent| sent == "nothing"));
    let asked = ["a", "b"].map(|name| ("get".to_owned(), name.to_owned()));
    assert_eq!(exporter.asked(), BTreeSet::from(asked));
    for path in ["/", "/api/v1/targets", "/metrics", "/sd"] {
        assert_clean(path, &exporter.program.body(path).await);
    }
    assert_clean("the log", &exporter.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_with_authorities_is_read_as_secrets_are() {
    let exporter = Exporter::start(Cluster::shared(), &[], &["--secret-label", "scrapetarget.dev/use"]);
    let namespace = exporter.namespace.clone();
    exporter.allow(&namespace);
    let more = "tlsConfig: { ca: { configMap: { name: trust, key: ca.crt } } }";
    exporter.declare_with(&namespace, "tls", "https://127.0.0.1:9/", more);
    let missing = format!("there is no ConfigMap {namespace}/trust with the key \"ca.crt\"\n");
    exporter.until(&namespace, "tls", MINUTE, &["reason=\"config\"", &missing]).await;
    let authority = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
    exporter.cluster.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: trust, namespace: {namespace} }}\ndata: {{ ca.crt: {authority:?} }}\n"
    ));
    exporter.until(&namespace, "tls", SOON, &["reason=\"connect\""]).await;
    assert_eq!(exporter.asked(), BTreeSet::from([("get".to_owned(), "trust".to_owned())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_401_the_credentials_are_read_again_without_waiting_for_the_minute() {
    let (server, exporter) = (Server::default(), Exporter::start(Cluster::shared(), &[], &[]));
    let (simulated, namespace) = (server.serve().await, exporter.namespace.clone());
    server.wants("two");
    exporter.allow(&namespace);
    exporter.cluster.apply(&token(&namespace, "a", "one"));
    exporter.declare(&namespace, "a", &simulated.url());
    exporter.until(&namespace, "a", MINUTE, &["reason=\"auth\""]).await;
    exporter.cluster.apply(&token(&namespace, "a", "two"));
    // At most every 30 s, and the first 401 may have had it read a moment ago.
    exporter.until(&namespace, "a", Duration::from_secs(40), &["probe_success 1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_the_permission_is_told_the_rule_and_harms_no_other() {
    let (server, cluster) = (Server::default(), Cluster::shared());
    let (simulated, denied) = (server.serve().await, cluster.namespace("denied"));
    let exporter = Exporter::start(cluster, &[&denied], &[]);
    let allowed = exporter.namespace.clone();
    exporter.allow(&allowed);
    for namespace in [&allowed, &denied] {
        cluster.apply(&token(namespace, "a", "one"));
        exporter.declare(namespace, "a", &simulated.url());
    }
    exporter.until(&allowed, "a", MINUTE, &["probe_success 1"]).await;
    let rule = "{apiGroups: [\"\"], resources: [\"secrets\"], verbs: [\"get\"]}";
    let place = format!("not permitted in namespace {denied}");
    exporter.until(&denied, "a", MINUTE, &["reason=\"config\"", &place, rule]).await;
    exporter.allow(&denied);
    exporter.until(&denied, "a", MINUTE, &["probe_success 1"]).await;
    let warned =
        |line: &&str| line.contains("level=warn") && line.contains("resource=secrets") && line.contains(&place);
    // What is permitted again within seconds is not told at all.
    assert!(exporter.program.log().lines().filter(warned).count() <= 1, "{}", exporter.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_secret_label_only_secrets_whose_owner_says_so_are_used() {
    let (server, exporter) =
        (Server::default(), Exporter::start(Cluster::shared(), &[], &["--secret-label", "scrapetarget.dev/use=true"]));
    let (simulated, namespace) = (server.serve().await, exporter.namespace.clone());
    exporter.allow(&namespace);
    exporter.cluster.apply(&token(&namespace, "a", "one"));
    exporter.declare(&namespace, "a", &simulated.url());
    exporter.until(&namespace, "a", MINUTE, &["reason=\"config\"", "scrapetarget.dev/use=true"]).await;
    assert_eq!(server.sent(), [""; 0]);
    exporter.cluster.kubectl(&["--namespace", &namespace, "label", "secret", "a", "scrapetarget.dev/use=true"]);
    exporter.until(&namespace, "a", SOON, &["probe_success 1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_stay_while_the_api_server_is_away_and_are_read_again_when_it_is_back() {
    let (server, cluster) = (Server::default(), Cluster::private());
    let (simulated, exporter) = (server.serve().await, Exporter::start(&cluster, &[], &[]));
    let namespace = exporter.namespace.clone();
    exporter.allow(&namespace);
    cluster.apply(&token(&namespace, "a", "one"));
    exporter.declare(&namespace, "a", &simulated.url());
    exporter.until(&namespace, "a", MINUTE, &["probe_success 1"]).await;
    cluster.kill();
    let start = Instant::now();
    while exporter.program.logged("not read, older values stay in use") < 2 {
        assert!(start.elapsed() < allowed(MINUTE), "{}", exporter.program.log());
        exporter.has_credentials(&namespace, "a").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.restart();
    cluster.apply(&token(&namespace, "a", "two"));
    let start = Instant::now();
    while !server.sent().contains(&format!("Bearer two-{MARKER}")) {
        assert!(start.elapsed() < allowed(MINUTE), "{}", exporter.program.log());
        // It has just started, but it does not take the values away.
        exporter.has_credentials(&namespace, "a").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_secret_label_no_token_is_requested_with_secrets_that_lack_it_and_the_field_is_named() {
    const LABEL: &str = "scrapetarget.dev/use=true";
    let (server, idm) = (Server::default(), Server::default());
    let exporter = Exporter::start(Cluster::shared(), &[], &["--secret-label", LABEL]);
    let (simulated, endpoint, namespace) = (server.serve().await, idm.serve_tokens().await, exporter.namespace.clone());
    idm.wants_secret("one");
    server.wants("issued");
    exporter.allow(&namespace);
    exporter.cluster.apply(&client_id(&namespace));
    exporter.cluster.apply(&token(&namespace, "a", "one"));
    exporter.declare_with(&namespace, "a", &simulated.url(), &oauth2(&endpoint.url()));
    for (field, name, key) in [("clientId.secret", "id", "id"), ("clientSecret", "a", "token")] {
        let refused = format!(
            "spec.oauth2.{field}: there is no Secret {namespace}/{name} with the key {key:?} and the label {LABEL}"
        );
        exporter.until(&namespace, "a", MINUTE, &["reason=\"config\"", &refused]).await;
        let status = exporter.cluster.kubectl(&["--namespace", &namespace, "get", "st", "a", "-o", "yaml"]);
        assert_clean("the object", &status.stdout);
        assert_eq!((server.sent(), idm.sent()), (Vec::new(), Vec::new()), "nothing is sent to either");
        exporter.cluster.kubectl(&["--namespace", &namespace, "label", "secret", name, LABEL]);
    }
    exporter.until(&namespace, "a", SOON, &["probe_success 1"]).await;
    assert_eq!(server.sent().first(), Some(&format!("Bearer issued-{MARKER}")));
    assert_clean("the log", &exporter.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refusal_by_the_token_endpoint_the_secret_of_the_client_is_read_again_without_waiting_for_the_minute() {
    let (server, idm, exporter) = (Server::default(), Server::default(), Exporter::start(Cluster::shared(), &[], &[]));
    let (simulated, endpoint, namespace) = (server.serve().await, idm.serve_tokens().await, exporter.namespace.clone());
    idm.wants_secret("two");
    server.wants("issued");
    exporter.allow(&namespace);
    exporter.cluster.apply(&client_id(&namespace));
    exporter.cluster.apply(&token(&namespace, "a", "one"));
    exporter.declare_with(&namespace, "a", &simulated.url(), &oauth2(&endpoint.url()));
    let refused = "token: answered 401 invalid_client: ";
    exporter.until(&namespace, "a", MINUTE, &["reason=\"auth\"", refused, "correct clientId and clientSecret"]).await;
    exporter.cluster.apply(&token(&namespace, "a", "two"));
    // At most every 30 s, and the first refusal may have had it read a moment ago. Other settings wait for no pause of the old ones.
    exporter.until(&namespace, "a", Duration::from_secs(40), &["probe_success 1"]).await;
    assert_eq!(server.sent().first(), Some(&format!("Bearer issued-{MARKER}")), "nothing is sent without a token");
    assert_eq!(idm.sent().last(), Some(&format!("exporter:two-{MARKER}")));
    for path in ["/", "/api/v1/targets", "/metrics", "/sd"] {
        assert_clean(path, &exporter.program.body(path).await);
    }
    assert_clean("the log", &exporter.program.log());
}
