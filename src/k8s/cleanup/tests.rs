use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::time::Instant;

use super::*;

/// An API server with a Lease and the Endpoints of the release, where ServiceMonitors are unknown or forbidden.
#[derive(Default)]
struct FakeServer {
    lease: Option<Value>,
    /// When the Lease was written.
    written: Vec<Instant>,
    /// A pod acquires the Lease again before it is read for the n-th time.
    lost_at: Vec<usize>,
    reads: usize,
    monitors_forbidden: bool,
    endpoints_deleted: bool,
    slice_deleted: bool,
}

impl FakeServer {
    fn answer(&mut self, method: &str, path: &str, sent: &[u8]) -> (u16, Value) {
        let not_found = || (404, json!({ "kind": "Status", "status": "Failure", "code": 404, "message": "not found" }));
        if path.contains("/leases") && method == "GET" {
            self.reads += 1;
            if self.lost_at.contains(&self.reads) {
                self.lease = Some(held_by_a_pod(15));
            }
            return self.lease.clone().map_or_else(not_found, |lease| (200, lease));
        }
        if path.contains("/leases") {
            let lease: Value = serde_json::from_slice(sent).unwrap();
            self.written.push(Instant::now());
            self.lease = Some(lease.clone());
            return (200, lease);
        }
        let is_slice = path.contains("/endpointslices/");
        if (path.contains("/endpoints/") || is_slice) && method == "GET" {
            let settings = settings();
            let labels = labels::of_release(&settings).into_iter();
            let labels: serde_json::Map<_, _> = labels.map(|(key, value)| (key.to_owned(), json!(value))).collect();
            let metadata = json!({ "name": "st-probe", "uid": "u", "labels": labels });
            return (200, json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": [] }));
        }
        if is_slice {
            self.slice_deleted = true;
            return (200, json!({ "kind": "Status", "status": "Success" }));
        }
        if path.contains("/endpoints/") {
            self.endpoints_deleted = true;
            return (200, json!({ "kind": "Status", "status": "Success" }));
        }
        if self.monitors_forbidden {
            let message = "servicemonitors.monitoring.coreos.com is forbidden: User \"u\" cannot list resource \
                           \"servicemonitors\" in API group \"monitoring.coreos.com\" at the cluster scope";
            let status = json!({ "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": message });
            return (403, status);
        }
        not_found()
    }
}

fn held_by_a_pod(seconds: i32) -> Value {
    let spec = LeaseSpec {
        holder_identity: Some("pod".to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    json!({ "metadata": { "name": "st" }, "spec": spec })
}

fn settings() -> Settings {
    crate::k8s::leader::tests::settings()
}

/// The result of `cleanup`, and the server after it.
async fn cleaned(server: FakeServer, mode: DiscoveryMode) -> (Result<Removed, CleanupError>, FakeServer) {
    let server = Arc::new(Mutex::new(server));
    let shared = Arc::clone(&server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&shared);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let (code, answer) = server.lock().unwrap().answer(head.method.as_str(), head.uri.path(), &body);
            let answer = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            answer.map_err(|error| kube::Error::Service(Box::new(error)))
        }
    });
    let client = ApiClient::answered_by(Client::new(service, "monitoring"));
    let mut settings = settings();
    settings.discovery.mode = mode;
    let result = cleanup(&client, &settings).await;
    let server = std::mem::take(&mut *server.lock().unwrap());
    (result, server)
}

#[tokio::test(start_paused = true)]
async fn monitors_that_may_not_be_listed_are_an_error_only_in_their_own_mode_and_the_endpoints_go_all_the_same() {
    let forbidden = || FakeServer { monitors_forbidden: true, ..FakeServer::default() };
    for mode in [DiscoveryMode::HttpSd, DiscoveryMode::None] {
        let (result, server) = cleaned(forbidden(), mode).await;
        assert_eq!(result.unwrap(), Removed { monitors: 0, endpoints: 1 });
        assert!(server.endpoints_deleted && server.slice_deleted);
    }
    let (result, server) = cleaned(forbidden(), DiscoveryMode::ServiceMonitor).await;
    assert!(matches!(result, Err(CleanupError::Forbidden(rule)) if rule.contains("servicemonitors")));
    assert!(server.endpoints_deleted && server.slice_deleted);
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_kept_for_as_long_as_the_leader_may_write() {
    let started = Instant::now();
    let server = FakeServer { lease: Some(held_by_a_pod(300)), ..FakeServer::default() };
    let (result, server) = cleaned(server, DiscoveryMode::ServiceMonitor).await;
    assert_eq!(result.unwrap().endpoints, 1);
    assert!(started.elapsed() > Duration::from_secs(295), "{:?}", started.elapsed());
    assert!(server.written.windows(2).all(|pair| pair[1] - pair[0] <= DURATION / 2), "{:?}", server.written);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_acquires_the_lease_again_is_waited_for_but_not_for_ever() {
    let started = Instant::now();
    let server = FakeServer { lease: Some(held_by_a_pod(15)), lost_at: vec![2], ..FakeServer::default() };
    let (result, _) = cleaned(server, DiscoveryMode::ServiceMonitor).await;
    assert_eq!(result.unwrap().endpoints, 1);
    assert!(started.elapsed() > Duration::from_secs(28), "{:?}", started.elapsed());

    let server = FakeServer { lease: Some(held_by_a_pod(15)), lost_at: (2..99).collect(), ..FakeServer::default() };
    let (result, server) = cleaned(server, DiscoveryMode::ServiceMonitor).await;
    assert!(matches!(result, Err(CleanupError::Unfinished { what: "keep the Lease", .. })));
    assert!(!server.endpoints_deleted && !server.slice_deleted);
}

#[test]
fn the_leader_is_given_the_time_of_a_whole_lease_whatever_its_clock_says() {
    let lease = |renewed: &str, holder: Option<&str>, seconds| LeaseSpec {
        holder_identity: holder.map(str::to_owned),
        renew_time: Some(MicroTime(renewed.parse().unwrap())),
        lease_duration_seconds: Some(seconds),
        ..LeaseSpec::default()
    };
    for renewed in ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let left = |holder, seconds| remaining(&lease(renewed, holder, seconds)).as_secs();
        assert_eq!(left(Some("pod"), 15), 15);
        assert_eq!(left(None, 15), 0, "it was given back");
        assert_eq!(left(Some("cleanup-1"), 15), 0, "it does not write");
        assert_eq!(left(Some("pod"), 1_000_000), 300, "somebody edited it");
        assert_eq!(left(Some("pod"), -1), 0);
    }
}
