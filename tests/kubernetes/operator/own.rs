//! The ServiceMonitor that the chart makes for the exporter itself, with a password, beside a Service that wants it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::server::{Pool, Server, until};
use super::stage::{Stage, own_address};
use crate::support::chart;

/// Whoever is scraped, and what came with each request.
struct Scraped {
    address: SocketAddr,
    authorizations: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Scraped {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scraped {
    async fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let authorizations = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&authorizations);
        let answer = async move |headers: HeaderMap| {
            let authorization = headers.get(AUTHORIZATION).map_or("none", |value| value.to_str().unwrap()).to_owned();
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(authorization);
            "own 1\n"
        };
        let router = Router::new().route("/metrics", get(answer));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, authorizations, task }
    }

    fn authorizations(&self) -> Vec<String> {
        self.authorizations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The manifests of a Service that leads here.
    fn service(&self, namespace: &str, name: &str, labels: &Value) -> String {
        let metadata = json!({ "name": name, "namespace": namespace, "labels": labels });
        let port = json!([{ "name": "http", "port": self.address.port() }]);
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": { "ports": port } });
        let subsets = json!([{ "addresses": [{ "ip": self.address.ip() }], "ports": port }]);
        let endpoints = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets });
        format!("{service}\n---\n{endpoints}\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_the_exporters_labels_does_not_get_prometheus_password() {
    let stage = Stage::enter();
    let namespace = stage.cluster.namespace("release");
    let (ours, theirs) = (Scraped::start().await, Scraped::start().await);
    let secret = "username.name=probe,serviceMonitor.selfMonitor.basicAuth.username.key=user,\
                  serviceMonitor.selfMonitor.basicAuth.password.name=probe,serviceMonitor.selfMonitor.basicAuth.password.key=password";
    let set = format!(
        "namespaceOverride={namespace},discovery.monitorLabels.prometheus=main,serviceMonitor.selfMonitor.enabled=true,\
         serviceMonitor.selfMonitor.interval=1s,serviceMonitor.selfMonitor.scrapeTimeout=1s,\
         serviceMonitor.selfMonitor.basicAuth.{secret}"
    );
    let manifests = chart::render(&["--set", &set]);
    let labels = &chart::one(&manifests, "Service", chart::RELEASE)["metadata"]["labels"];
    stage.cluster.apply(&ours.service(&namespace, chart::RELEASE, labels));
    stage.cluster.apply(&theirs.service(&namespace, "decoy", labels));
    let credentials = json!({ "user": "prometheus", "password": "secret" });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "probe", "namespace": namespace }, "stringData": credentials });
    stage.cluster.apply(&secret.to_string());
    stage.cluster.apply(&chart::one(&manifests, "ServiceMonitor", chart::RELEASE).to_string());

    let server = Server::start(&stage, &[&namespace], json!({})).await;
    let wanted = Pool { active: vec!["up".to_owned()], dropped: 1 };
    until("our own Service alone", async || {
        let found = server.pools().await.remove(&format!("serviceMonitor/{namespace}/{}/0", chart::RELEASE));
        let several = ours.authorizations().len() > 2;
        if several && found.as_ref() == Some(&wanted) { Ok(()) } else { Err(format!("{found:?}\n{}", server.log())) }
    })
    .await;
    assert!(ours.authorizations().iter().all(|sent| sent.starts_with("Basic ")), "{:?}", ours.authorizations());
    assert_eq!(theirs.authorizations(), [""; 0]);
}
