//! The cache with an API server whose answers are scripted, and the store against a naive model.

mod model;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::crd::{ScrapeTarget, ScrapeTargetSpec};
use crate::k8s::watch::tests::{Requests, ScriptedAnswer, scripted};
use crate::kind::Type;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> TargetId {
    TargetId::new("team", name)
}

/// A target whose members are the endpoints of a Service of this name.
fn declaration(service: &str) -> ParsedTarget {
    let mut spec = ScrapeTargetSpec::new(Type::Sora, "http://rooms:80/");
    spec.members = Some(serde_json::from_value(json!({ "service": { "name": service } })).unwrap());
    ParsedTarget::parse(ScrapeTarget::new("a", spec)).unwrap()
}

/// A slice of a Service with one pod at each of the addresses, named by its last byte.
fn slice_of(service: &str, name: &str, addresses: &[u8]) -> Value {
    let endpoint = |last: &u8| {
        json!({
            "addresses": [format!("10.0.0.{last}")],
            "targetRef": { "kind": "Pod", "name": format!("pod-{last}"), "uid": format!("uid-{last}") },
        })
    };
    json!({
        "metadata": {
            "name": name, "namespace": "team", "resourceVersion": "1",
            "labels": { "kubernetes.io/service-name": service, "other": "label" },
        },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    })
}

fn event(kind: &str, slice: &Value) -> Value {
    json!({ "type": kind, "object": slice })
}

struct Harness {
    cache: Arc<EndpointCache>,
    requests: Requests,
    stop: CancellationToken,
    task: JoinHandle<&'static str>,
}

impl Harness {
    fn new(
        answer: impl Fn(usize, &crate::k8s::watch::tests::ReceivedRequest) -> ScriptedAnswer + Clone + Send + 'static,
    ) -> Self {
        let (client, requests) = scripted(answer);
        let mut shared = Arc::into_inner(Shared::idle()).unwrap();
        shared.client = client;
        let cache = EndpointCache::new(Arc::new(shared), &[None]);
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&cache).run(stop.clone()));
        Self { cache, requests, stop, task }
    }

    /// Waits for a change, and takes it.
    async fn changed(&self) -> Vec<TargetId> {
        tokio::time::timeout(60 * SECOND, self.cache.changed.wait()).await.unwrap();
        self.cache.changed.take().into_iter().collect()
    }

    /// The names of the members of the target `a`.
    fn members(&self, declaration: &ParsedTarget) -> Vec<String> {
        let members = self.cache.endpoints(&id("a"), declaration).unwrap();
        members.iter().map(|member| member.name.to_string()).collect()
    }

    fn reason(&self, declaration: &ParsedTarget) -> &'static str {
        self.cache.endpoints(&id("a"), declaration).unwrap_err().reason
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_watch_begins_with_the_first_target_and_ends_with_the_last_and_nothing_is_kept_then() {
    let harness = Harness::new(|_, request| {
        if request.is_list() {
            let slices = vec![slice_of("rooms", "rooms-1", &[1, 2]), slice_of("other", "other-1", &[3])];
            ScriptedAnswer::Page(slices, "7", None)
        } else {
            ScriptedAnswer::Open(vec![])
        }
    });
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(harness.requests.all().len(), 0, "nobody needs slices");
    let rooms = declaration("rooms");
    for target in ["a", "b"] {
        harness.cache.set_service(&id(target), &rooms);
        assert!(!harness.cache.is_read(&id(target)));
    }
    assert_eq!(harness.reason(&rooms), "EndpointsUnread");
    assert_eq!(harness.changed().await, [id("a"), id("b")]);
    assert!(harness.cache.is_read(&id("a")));
    assert_eq!(harness.members(&rooms), ["pod-1", "pod-2"]);
    assert_eq!(harness.requests.lists(), 1);
    assert_eq!(harness.cache.state().scopes[0].entries(), 4, "nothing of the other Service");
    let [a, b] = ["a", "b"].map(|name| harness.cache.endpoints(&id(name), &rooms).unwrap());
    assert!(Arc::ptr_eq(&a, &b), "members are shared");
    harness.cache.remove_target(&id("a"));
    tokio::time::sleep(SECOND).await;
    assert!(harness.cache.state().scopes[0].entries() > 0);
    harness.cache.remove_target(&id("b"));
    tokio::time::sleep(SECOND).await;
    assert_eq!(harness.cache.state().scopes[0].entries(), 0);
    let requests = harness.requests.all().len();
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(harness.requests.all().len(), requests, "the watch has ended");
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_new_is_listed_and_the_members_of_others_stay_meanwhile() {
    let harness = Harness::new(|before, request| match (before, request.is_list()) {
        (0, true) => ScriptedAnswer::Page(vec![slice_of("rooms", "rooms-1", &[1])], "7", None),
        (_, true) => {
            let slices = vec![slice_of("rooms", "rooms-1", &[1]), slice_of("more", "more-1", &[2])];
            ScriptedAnswer::Page(slices, "8", None)
        }
        _ => ScriptedAnswer::Open(vec![]),
    });
    let (rooms, more) = (declaration("rooms"), declaration("more"));
    harness.cache.set_service(&id("a"), &rooms);
    assert_eq!(harness.changed().await, [id("a")]);
    for target in 0..49 {
        harness.cache.set_service(&id(&format!("b{target:02}")), &more);
        tokio::time::sleep(SECOND / 50).await;
        assert_eq!(harness.members(&rooms), ["pod-1"]);
    }
    let changed = harness.changed().await;
    assert_eq!((changed.len(), &changed[0]), (49, &id("b00")), "the members of the first are as before");
    assert_eq!(harness.requests.lists(), 2, "one list for all");
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_slices_reach_their_targets_together_within_a_second_and_no_others() {
    let harness = Harness::new(|_, request| {
        if request.is_list() {
            let slices = vec![slice_of("rooms", "rooms-1", &[1]), slice_of("more", "more-1", &[9])];
            return ScriptedAnswer::Page(slices, "7", None);
        }
        ScriptedAnswer::Later(
            5 * SECOND,
            vec![
                event("ADDED", &slice_of("rooms", "rooms-2", &[2, 3])),
                event("ADDED", &slice_of("unwanted", "unwanted-1", &[4])),
                event("DELETED", &slice_of("rooms", "rooms-1", &[1])),
                event("MODIFIED", &slice_of("rooms", "rooms-2", &[2])),
                event("BOOKMARK", &json!({ "metadata": { "resourceVersion": "8" } })),
            ],
        )
    });
    let rooms = declaration("rooms");
    harness.cache.set_service(&id("a"), &rooms);
    harness.cache.set_service(&id("b"), &declaration("more"));
    assert_eq!(harness.changed().await, [id("a"), id("b")]);
    let listed = Instant::now();
    assert_eq!(harness.changed().await, [id("a")]);
    let took = listed.elapsed();
    assert!(took < 6 * SECOND, "{took:?}");
    assert_eq!(harness.members(&rooms), ["pod-2"]);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_is_given_to_another_service_leaves_the_first() {
    let harness = Harness::new(|_, request| {
        if request.is_list() {
            return ScriptedAnswer::Page(
                vec![slice_of("rooms", "one", &[1]), slice_of("rooms", "two", &[2])],
                "7",
                None,
            );
        }
        let moved = vec![
            event("MODIFIED", &slice_of("more", "one", &[1])),
            event("MODIFIED", &slice_of("unwanted", "two", &[2])),
        ];
        ScriptedAnswer::Open(moved)
    });
    let (rooms, more) = (declaration("rooms"), declaration("more"));
    harness.cache.set_service(&id("a"), &rooms);
    harness.cache.set_service(&id("b"), &more);
    while harness.cache.endpoints(&id("b"), &more).is_err() {
        harness.changed().await;
    }
    assert_eq!(harness.reason(&rooms), "EndpointsNotFound");
    assert_eq!(harness.cache.endpoints(&id("b"), &more).unwrap().len(), 1);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_the_last_known_members_stay_and_a_new_list_replaces_them() {
    let harness = Harness::new(|before, request| match (before, request.is_list()) {
        (0, true) => ScriptedAnswer::Page(vec![slice_of("rooms", "rooms-1", &[1])], "7", None),
        (1, _) => ScriptedAnswer::Events(vec![]),
        (2..30, _) => ScriptedAnswer::Status(if before % 2 == 0 { 500 } else { 410 }),
        (_, true) => ScriptedAnswer::Page(vec![slice_of("rooms", "rooms-9", &[9])], "8", None),
        _ => ScriptedAnswer::Open(vec![]),
    });
    let rooms = declaration("rooms");
    harness.cache.set_service(&id("a"), &rooms);
    harness.changed().await;
    while harness.requests.all().len() < 30 {
        assert_eq!(harness.members(&rooms), ["pod-1"]);
        tokio::time::sleep(SECOND).await;
    }
    harness.changed().await;
    assert_eq!(harness.members(&rooms), ["pod-9"]);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_permission_the_rule_is_named_and_it_recovers_by_itself() {
    let harness = Harness::new(|before, request| match (before, request.is_list()) {
        (0..8, _) => ScriptedAnswer::Status(403),
        (_, true) => ScriptedAnswer::Page(vec![slice_of("rooms", "rooms-1", &[1])], "7", None),
        _ => ScriptedAnswer::Open(vec![]),
    });
    let rooms = declaration("rooms");
    harness.cache.set_service(&id("a"), &rooms);
    assert_eq!(harness.changed().await, [id("a")]);
    assert!(harness.cache.is_read(&id("a")));
    let problem = harness.cache.endpoints(&id("a"), &rooms).unwrap_err();
    assert_eq!(problem.reason, "EndpointsForbidden");
    let rule = r#"{apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"]}"#;
    assert!(problem.message.contains(rule), "{}", problem.message);
    assert_eq!(harness.changed().await, [id("a")]);
    assert_eq!(harness.members(&rooms), ["pod-1"]);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_permission_that_was_taken_away_stays_missing_while_the_api_server_is_away() {
    let harness = Harness::new(|before, request| match (before, request.is_list()) {
        (0, _) => ScriptedAnswer::Page(vec![slice_of("rooms", "rooms-1", &[1])], "7", None),
        (6..10, _) => ScriptedAnswer::Status(500),
        _ => ScriptedAnswer::Status(403),
    });
    let rooms = declaration("rooms");
    harness.cache.set_service(&id("a"), &rooms);
    harness.changed().await;
    assert_eq!(harness.members(&rooms), ["pod-1"]);
    harness.changed().await;
    while harness.requests.all().len() < 12 {
        assert_eq!(harness.reason(&rooms), "EndpointsForbidden");
        tokio::time::sleep(SECOND / 10).await;
    }
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_service_can_have_is_never_in_the_selector() {
    let harness = Harness::new(|_, _| ScriptedAnswer::Hang);
    for name in ["a),b", "x in (y)", "A"] {
        let odd = declaration(name);
        harness.cache.set_service(&id("a"), &odd);
        assert!(harness.cache.is_read(&id("a")));
        assert_eq!(harness.reason(&odd), "EndpointsNotFound");
    }
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(harness.requests.all().len(), 0);
    harness.stop().await;
}

#[test]
fn a_few_names_are_in_the_selector_and_many_are_not() {
    let mut scope = ScopeState::default();
    let now = Instant::now();
    let want = |scope: &mut ScopeState, name: String| {
        let service = ServiceRef { namespace: "team".into(), name: name.as_str().into() };
        scope.want(&service, &id("a"), now)
    };
    assert!(want(&mut scope, "b".to_owned()) && want(&mut scope, "a".to_owned()));
    assert_eq!(scope.begin(now), "kubernetes.io/service-name in (a,b)");
    assert!(!want(&mut scope, "a".to_owned()), "it is covered");
    (0..60).for_each(|i| assert!(want(&mut scope, i.to_string())));
    assert_eq!(scope.begin(now), "kubernetes.io/service-name");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_created_again_needs_no_other_list_and_one_that_is_gone_costs_nothing_for_long() {
    let harness = Harness::new(|_, request| {
        if request.is_list() {
            ScriptedAnswer::Page(vec![slice_of("rooms", "rooms-1", &[1]), slice_of("more", "more-1", &[2])], "7", None)
        } else {
            ScriptedAnswer::Later(5 * SECOND, vec![event("MODIFIED", &slice_of("rooms", "rooms-1", &[1, 3]))])
        }
    });
    let (rooms, more) = (declaration("rooms"), declaration("more"));
    harness.cache.set_service(&id("a"), &rooms);
    harness.cache.set_service(&id("b"), &more);
    assert_eq!(harness.changed().await, [id("a"), id("b")]);
    harness.cache.remove_target(&id("a"));
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(harness.cache.changed.take(), BTreeSet::new());
    harness.cache.set_service(&id("a"), &rooms);
    assert!(harness.cache.is_read(&id("a")));
    assert_eq!(harness.members(&rooms), ["pod-1", "pod-3"], "what has changed meanwhile is known");
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(harness.members(&rooms), ["pod-1", "pod-3"]);
    assert_eq!(harness.requests.lists(), 1);
    let before = harness.cache.state().scopes[0].entries();
    harness.cache.remove_target(&id("a"));
    tokio::time::sleep(40 * SECOND).await;
    assert!(harness.cache.state().scopes[0].entries() < before);
    harness.cache.set_service(&id("a"), &rooms);
    assert!(!harness.cache.is_read(&id("a")));
    harness.stop().await;
}

#[test]
fn services_that_no_target_names_any_more_are_bounded() {
    let (mut scope, mut texts, now) = (ScopeState::default(), SharedTexts::default(), Instant::now());
    let service = |name: usize| ServiceRef { namespace: "team".into(), name: format!("s{name}").into() };
    (0..40).for_each(|name| assert!(scope.want(&service(name), &id("a"), now)));
    let _ = scope.begin(now);
    scope.list_started();
    for name in 0..40 {
        // The last ones have 1,000 endpoints each.
        let count = if name < 30 { 1 } else { 1000 };
        let endpoints: Vec<Value> =
            (0..count).map(|i| json!({ "addresses": [format!("10.0.{}.{}", i / 250, i % 250)] })).collect();
        let mut slice = slice_of(&format!("s{name}"), &format!("s{name}-1"), &[]);
        slice["endpoints"] = json!(endpoints);
        scope.listed(&serde_json::from_value(slice).unwrap(), 0, &mut texts);
    }
    scope.list_finished(now);
    let is_kept = |scope: &ScopeState, names: std::ops::Range<usize>| {
        names.filter(|name| scope.is_listed(&service(*name))).count()
    };
    (1..30).for_each(|name| assert!(!scope.unwant(&service(name), &id("a"), now)));
    assert_eq!((is_kept(&scope, 1..5), is_kept(&scope, 5..30)), (0, 25), "the oldest go first");
    (30..40).for_each(|name| assert!(!scope.unwant(&service(name), &id("a"), now)));
    assert_eq!((is_kept(&scope, 1..36), is_kept(&scope, 36..40)), (0, 4));
    // Those that are wanted again stay.
    assert!(!scope.want(&service(39), &id("a"), now));
    scope.forget_unwanted(now + 31 * SECOND);
    assert_eq!((is_kept(&scope, 0..39), is_kept(&scope, 39..40)), (1, 1));
    assert!(!scope.unwant(&service(0), &id("a"), now) && scope.unwant(&service(39), &id("a"), now));
    assert!(!scope.is_wanted(), "the watch ends at once");
}

#[tokio::test(start_paused = true)]
async fn a_scope_whose_last_targets_go_while_its_watch_is_replaced_is_empty_and_begins_no_watch() {
    let cache = EndpointCache::new(Shared::idle(), &[None]);
    let names: Vec<String> = (0..60).map(|name| format!("s{name}")).collect();
    for name in &names {
        cache.set_service(&id(name), &declaration(name));
    }
    let _ = cache.with_scope(0, |scope| scope.begin(Instant::now()));
    for name in &names {
        cache.remove_target(&id(name));
    }
    tokio::time::advance(3600 * SECOND).await;
    assert_eq!(cache.begins_at(0), None);
    assert_eq!(cache.with_scope(0, |scope| scope.forgets_at()), Some(None));
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&cache).run(stop.clone()));
    tokio::time::sleep(SECOND).await;
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slices_that_admit_any_port_make_no_list_of_members_for_each_of_a_thousand_ports() {
    let harness = Harness::new(|_, request| {
        if request.is_list() {
            let mut slice = slice_of("rooms", "rooms-1", &[1]);
            slice["ports"] = json!([{ "name": "any", "port": null }]);
            ScriptedAnswer::Page(vec![slice], "7", None)
        } else {
            ScriptedAnswer::Later(3600 * SECOND, Vec::new())
        }
    });
    let at = |port: u16| {
        let mut spec = ScrapeTargetSpec::new(Type::Sora, format!("http://rooms:{port}/"));
        spec.members = Some(serde_json::from_value(json!({ "service": {} })).unwrap());
        ParsedTarget::parse(ScrapeTarget::new("a", spec)).unwrap()
    };
    harness.cache.set_service(&id("a"), &at(1000));
    harness.changed().await;
    let found: Vec<_> = (1000..2000).map(|port| harness.cache.endpoints(&id("a"), &at(port))).collect();
    let (good, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), refused.len()), (16, 984));
    let problem = refused.into_iter().find_map(Result::err).unwrap();
    assert!(problem.reason == "PortNotFound" && problem.message.contains("too many different ones"), "{problem:?}");
    assert!(harness.cache.endpoints(&id("a"), &at(1000)).is_ok(), "those that are known stay");
    harness.stop().await;
}

#[test]
fn messages_say_what_to_write_instead() {
    let message = |url: &str, namespace: &str| {
        let spec = ScrapeTargetSpec {
            members: Some(serde_json::from_value(json!({ "service": {} })).unwrap()),
            ..ScrapeTargetSpec::new(Type::Sora, url)
        };
        let declaration = ParsedTarget::parse(ScrapeTarget::new("a", spec)).unwrap();
        EndpointsError::no_service(&TargetId::new(namespace, "a"), &declaration).problem().message
    };
    for url in ["http://rooms.webrtc:80/", "http://rooms.webrtc.svc/", "http://rooms.webrtc.svc.cluster.local/"] {
        let elsewhere = message(url, "team");
        assert!(elsewhere.contains("Service team/rooms:") && elsewhere.contains("namespace webrtc,"), "{elsewhere}");
        assert!(!message(url, "webrtc").contains("The url names"));
    }
    for url in ["http://rooms/", "http://rooms.example.com/"] {
        assert!(!message(url, "team").contains("The url names"), "{url}");
    }
    let service = ServiceRef { namespace: "team".into(), name: "rooms".into() };
    let found = |count: u16| join::PortNotFound((0..count).map(|i| (Arc::from(format!("p{i:02}")), Some(i))).collect());
    let port = |name: Option<&str>, count| {
        let wanted = WantedPort { name: name.map(Arc::from), number: 9851 };
        EndpointsError::Port(service.clone(), wanted, found(count)).problem().message
    };
    let listed = port(Some("agent"), 14);
    assert!(listed.contains("\"agent\"") && listed.ends_with("\"p09\" (9), 4 more"), "{listed}");
    assert!(port(None, 2).contains("has the number 9851 of the url in the pods (targetPort)"));
    assert!(port(None, 0).contains("no TCP port"));
}

#[test]
fn one_service_and_one_namespace_do_not_take_the_memory_of_others() {
    let (mut store, mut texts) = (store::SliceStore::default(), SharedTexts::default());
    let mut put = |namespace: &str, service: &str, name: usize| {
        let endpoints: Vec<Value> =
            (0..1000).map(|i| json!({ "addresses": [format!("10.0.{}.{}", i / 250, i % 250)] })).collect();
        let slice = json!({
            "metadata": { "name": name.to_string(), "namespace": namespace }, "addressType": "IPv4", "endpoints": endpoints,
        });
        let service = ServiceRef { namespace: namespace.into(), name: service.into() };
        store.put(&service, &serde_json::from_value(slice).unwrap(), None, 0, &mut texts);
        (store.entries(), store.is_truncated(&service))
    };
    assert_eq!(put("fair", "a", 0), (1001, false));
    let full = (1..10).map(|slice| put("hostile", "a", slice)).last().unwrap();
    assert_eq!(full, (1001 + 5500, true));
    let full = (10..100).map(|slice| put("hostile", &slice.to_string(), slice)).last().unwrap();
    assert!(full.0 <= 1001 + 20_000 + 100 && full.1, "{full:?}");
    assert!(!put("fair", "b", 0).1);
    assert!(!put("fair", "c", 1).1);
}
