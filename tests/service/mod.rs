//! A whole service on a loopback port, with targets written by hand.
#![allow(dead_code, reason = "each test file uses its share")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../support/eventually.rs"]
pub(crate) mod eventually;
#[path = "../support/load.rs"]
pub(crate) mod load;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use eventually::PATIENCE;
use reqwest::RequestBuilder;
use scrapetarget_exporter::crd::{
    Header, Members, MembersService, Monitor, ParsedTarget, ScrapeTarget, ScrapeTargetSpec,
};
use scrapetarget_exporter::dial::AddressRules;
use scrapetarget_exporter::fetch::{Clients, Limits as FetchLimits};
use scrapetarget_exporter::file::FileObjects;
use scrapetarget_exporter::http::{self, RouterOptions, ServerLimits, WebConfig};
use scrapetarget_exporter::kind::Type;
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Member, MemberLabel, MemberSource, Target, TargetId};
use simulators::Simulated;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

/// A service that listens; it is stopped when it is dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) pollers: Arc<Pollers>,
    pub(crate) stop: CancellationToken,
    pub(crate) served: tokio::task::JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Service {
    /// Serves `targets`, which are known.
    pub(crate) async fn start(targets: Vec<Target>, options: RouterOptions) -> Self {
        let service = Self::unknown(targets, options).await;
        service.pollers.set_known();
        service
    }

    /// Serves `targets` while it is not known whether they are all.
    pub(crate) async fn unknown(targets: Vec<Target>, options: RouterOptions) -> Self {
        install_crypto();
        let self_metrics = Arc::new(SelfMetrics::new().unwrap());
        let clients = Clients::new(AddressRules::default());
        let limits = FetchLimits::new(1 << 24, 1 << 27);
        let (pollers, _) = Pollers::new(clients, limits, self_metrics.polls.clone(), true);
        let pollers = Arc::new(pollers);
        pollers.replace(targets);
        let router = http::router(Arc::clone(&pollers), self_metrics, options);
        let mut service = serve(router, None, ServerLimits::default()).await;
        service.pollers = pollers;
        service
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A GET of `path`, to be sent.
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        client().get(self.url(path))
    }

    /// Status and text of a GET.
    pub(crate) async fn text(&self, path: &str) -> (StatusCode, String) {
        let response = self.get(path).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// The JSON of a GET that succeeds.
    pub(crate) async fn json(&self, path: &str) -> serde_json::Value {
        let response = self.get(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/json");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    /// Waits until every target has been polled, or has told why it will not be.
    pub(crate) async fn settle(&self) {
        for poller in self.pollers.list() {
            poller.answer(PATIENCE).await;
        }
    }
}

/// Serves `router` with these limits.
pub(crate) async fn serve(router: Router, web: Option<Arc<WebConfig>>, limits: ServerLimits) -> Service {
    install_crypto();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(http::serve(vec![listener], router, web, limits, stop.clone()));
    let clients = Clients::new(AddressRules::default());
    let metrics = SelfMetrics::new().unwrap().polls;
    let (pollers, _) = Pollers::new(clients, FetchLimits::new(1, 1), metrics, false);
    Service { address, pollers: Arc::new(pollers), stop, served }
}

pub(crate) fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A client that shows answers as they are: nothing is unpacked or followed.
pub(crate) fn client() -> reqwest::Client {
    install_crypto();
    reqwest::Client::builder().no_gzip().no_proxy().build().unwrap()
}

/// A server that answers every call with `status` and an empty JSON object.
pub(crate) async fn server(status: StatusCode) -> Simulated {
    Simulated::serve(
        Router::new()
            .fallback(any(move || async move { (status, if status == StatusCode::OK { SORA } else { "{}" }) })),
        (Ipv4Addr::LOCALHOST, 0).into(),
    )
    .await
    .unwrap()
}

/// An answer that fits every call of a Sora target.
const SORA: &str = r#"{"version": "2025.1.0", "max_connections": 100, "mode": "normal"}"#;

/// A url where nobody listens, nor will: its port is taken for as long as the tests run.
pub(crate) fn nobody() -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    std::mem::forget(socket);
    url
}

/// A Sora target that is polled once and then rarely, with a header whose value must not be shown.
pub(crate) fn target(namespace: &str, name: &str, url: &str) -> Target {
    declared(namespace, name, Type::Sora, url, |_| {})
}

/// The same on a server that hangs: no poll of it ends while a test runs.
pub(crate) fn pending(namespace: &str, name: &str, url: &str) -> Target {
    declared(namespace, name, Type::Sora, url, |spec| spec.timeout = Some(Duration::from_mins(9).into()))
}

/// A target of these pods, which is polled once and then rarely.
pub(crate) fn target_of_pods(namespace: &str, name: &str, pods: &[(&str, SocketAddr)]) -> Target {
    let mut target = declared(namespace, name, Type::Sora, &format!("http://{name}.{namespace}.svc:3000/"), |spec| {
        spec.members = Some(Members { service: Some(MembersService::default()), ..Members::default() });
    });
    let Some(MemberSource::Service { endpoints, .. }) = target.members.as_mut().map(|members| &mut members.source)
    else {
        panic!("{:?}", target.members)
    };
    let pod = |(name, address): &(&str, SocketAddr)| Member {
        name: (*name).into(),
        label: MemberLabel::Pod,
        node: Some("node-1".into()),
        ..Member::at(*address)
    };
    *endpoints = pods.iter().map(pod).collect();
    target
}

/// A target that is polled once and then rarely, declared with further `changes`.
pub(crate) fn declared(
    namespace: &str,
    name: &str,
    kind: Type,
    url: &str,
    changes: impl FnOnce(&mut ScrapeTargetSpec),
) -> Target {
    let mut spec = ScrapeTargetSpec::new(kind, url);
    let rarely = Duration::from_mins(10).into();
    (spec.interval, spec.timeout, spec.max_age) = (rarely, Some(Duration::from_secs(5).into()), Some(rarely));
    spec.monitor = Some(Monitor { interval: Some(Duration::from_secs(15).into()), ..Monitor::default() });
    spec.headers =
        vec![Header { name: "x-api-key".to_owned(), value: Some("open sesame".to_owned()), secret_key_ref: None }];
    changes(&mut spec);
    let declaration = ParsedTarget::parse(ScrapeTarget::new(name, spec)).unwrap();
    Target::resolve(TargetId::new(namespace, name), Arc::new(declaration), &FileObjects::default())
}
