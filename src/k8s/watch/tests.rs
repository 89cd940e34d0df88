//! The watch against an API server whose answers are scripted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt;
use http::{Request as HttpRequest, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde_json::{Value, json};

use super::*;

/// The answer to a request.
pub(in crate::k8s) enum ScriptedAnswer {
    /// A page with these objects, in this resource version, and the token of the next page.
    Page(Vec<Value>, &'static str, Option<&'static str>),
    /// These events; then the watch ends.
    Events(Vec<Value>),
    /// These events; then nothing, for ever.
    Open(Vec<Value>),
    /// These events after this time; then the watch ends.
    Later(Duration, Vec<Value>),
    /// A failure with this code.
    Status(u16),
    /// Nothing, for ever.
    Hang,
}

/// A request, by its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum ReceivedRequest {
    List { token: Option<String> },
    Watch { version: String },
}

impl ReceivedRequest {
    pub(in crate::k8s) fn is_list(&self) -> bool {
        matches!(self, Self::List { .. })
    }
}

/// The requests that were received, in their order.
#[derive(Clone, Default)]
pub(in crate::k8s) struct Requests(Arc<Mutex<Vec<ReceivedRequest>>>);

impl Requests {
    pub(in crate::k8s) fn all(&self) -> Vec<ReceivedRequest> {
        self.0.lock().unwrap().clone()
    }

    pub(in crate::k8s) fn lists(&self) -> usize {
        self.all().iter().filter(|request| request.is_list()).count()
    }

    pub(in crate::k8s) fn watches(&self) -> usize {
        self.all().len() - self.lists()
    }
}

/// A client whose lists and watches are answered by `answer`, which is also given how many requests came before.
pub(in crate::k8s) fn scripted(
    answer: impl Fn(usize, &ReceivedRequest) -> ScriptedAnswer + Clone + Send + 'static,
) -> (ApiClient, Requests) {
    let requests = Requests::default();
    let log = requests.clone();
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        let received = if query.contains_key("watch") {
            ReceivedRequest::Watch { version: query["resourceVersion"].clone() }
        } else {
            ReceivedRequest::List { token: query.get("continue").cloned() }
        };
        let before = {
            let mut requests = log.0.lock().unwrap();
            requests.push(received.clone());
            requests.len() - 1
        };
        let answer = answer(before, &received);
        async move {
            let lines_of = |events: Vec<Value>| {
                let lines = events.into_iter().map(|event| Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))));
                stream::iter(lines.collect::<Vec<_>>()).map_ok(Frame::data)
            };
            let body = |value: Value| StreamBody::new(lines_of(vec![value])).boxed_unsync();
            Ok::<_, Infallible>(match answer {
                ScriptedAnswer::Page(items, version, next) => {
                    let metadata = json!({ "resourceVersion": version, "continue": next });
                    Response::new(body(json!({ "metadata": metadata, "items": items })))
                }
                ScriptedAnswer::Events(events) => Response::new(StreamBody::new(lines_of(events)).boxed_unsync()),
                ScriptedAnswer::Open(events) => {
                    Response::new(StreamBody::new(lines_of(events).chain(stream::pending())).boxed_unsync())
                }
                ScriptedAnswer::Later(delay, events) => {
                    let lines = stream::once(tokio::time::sleep(delay)).flat_map(move |()| lines_of(events.clone()));
                    Response::new(StreamBody::new(lines).boxed_unsync())
                }
                ScriptedAnswer::Status(code) => {
                    let status = serde_json::to_value(status(code)).unwrap();
                    Response::builder().status(code).body(body(status)).unwrap()
                }
                ScriptedAnswer::Hang => pending().await,
            })
        }
    });
    (ApiClient::answered_by(Client::new(service, "default")), requests)
}

fn status(code: u16) -> Status {
    let denial = r#"configmaps is forbidden: User "u" cannot list resource "configmaps" in API group """#;
    Status::failure(if code == 403 { denial } else { "" }, "").with_code(code)
}

fn object(name: &str, version: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "team", "resourceVersion": version } })
}

fn event(kind: &str, name: &str, version: &str) -> Value {
    json!({ "type": kind, "object": object(name, version) })
}

pub(in crate::k8s) fn bookmark(version: &str) -> Value {
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "resourceVersion": version } });
    json!({ "type": "BOOKMARK", "object": object })
}

pub(in crate::k8s) fn expired() -> Value {
    json!({ "type": "ERROR", "object": status(410) })
}

fn of(version: &str) -> ReceivedRequest {
    ReceivedRequest::Watch { version: version.to_owned() }
}

const LIST: ReceivedRequest = ReceivedRequest::List { token: None };

fn watched(client: &ApiClient, config: WatchConfig) -> BoxStream<'static, WatchEvent<ConfigMap>> {
    watch(client, Collection::of::<ConfigMap>("team"), config)
}

/// An event in short.
fn short(event: &WatchEvent<ConfigMap>) -> String {
    let name = |object: &ConfigMap| object.metadata.name.clone().unwrap();
    match event {
        WatchEvent::ListStarted => "start".to_owned(),
        WatchEvent::ListPage(page) => format!("page {}", page.iter().map(name).collect::<Vec<_>>().join(" ")),
        WatchEvent::ListFinished => "finish".to_owned(),
        WatchEvent::Applied(object) => format!("applied {}", name(object)),
        WatchEvent::Deleted(object) => format!("deleted {}", name(object)),
        WatchEvent::Denied => "denied".to_owned(),
        WatchEvent::Failed(error) => format!("failed: {error}"),
        WatchEvent::Recovered => "recovered".to_owned(),
    }
}

/// The first events.
async fn first(count: usize, events: &mut BoxStream<'static, WatchEvent<ConfigMap>>) -> Vec<String> {
    events.take(count).map(|event| short(&event)).collect().await
}

/// Everything that happens in this time.
async fn during(time: Duration, events: &mut BoxStream<'static, WatchEvent<ConfigMap>>) -> Vec<String> {
    let mut seen = Vec::new();
    let all = async {
        while let Some(event) = events.next().await {
            seen.push(short(&event));
        }
    };
    assert!(tokio::time::timeout(time, all).await.is_err(), "a watch never ends");
    seen
}

#[tokio::test(start_paused = true)]
async fn the_pages_of_a_list_come_before_what_the_watch_shows_and_each_watch_resumes_where_the_last_ended() {
    let (client, requests) = scripted(|before, _| match before {
        0 => ScriptedAnswer::Page(vec![object("a", "1")], "7", Some("more")),
        1 => ScriptedAnswer::Page(vec![object("b", "2")], "7", None),
        2 => ScriptedAnswer::Events(vec![event("MODIFIED", "a", "8"), event("DELETED", "b", "9")]),
        3 => ScriptedAnswer::Events(vec![bookmark("12")]),
        _ => ScriptedAnswer::Open(vec![event("ADDED", "c", "13")]),
    });
    let mut events = watched(&client, WatchConfig::default());
    assert_eq!(
        first(7, &mut events).await,
        ["start", "page a", "page b", "finish", "applied a", "deleted b", "applied c"]
    );
    let more = ReceivedRequest::List { token: Some("more".to_owned()) };
    assert_eq!(requests.all(), [LIST, more, of("7"), of("9"), of("12")]);
}

#[tokio::test(start_paused = true)]
async fn a_resource_version_that_has_expired_is_replaced_by_a_list_whether_the_watch_or_an_event_says_so() {
    let (client, requests) = scripted(|before, _| match before {
        1 => ScriptedAnswer::Status(410),
        3 => ScriptedAnswer::Open(vec![event("ADDED", "a", "8"), expired()]),
        5 => ScriptedAnswer::Open(vec![]),
        _ => ScriptedAnswer::Page(vec![], "7", None),
    });
    let mut events = watched(&client, WatchConfig::default());
    let seen = first(10, &mut events).await;
    assert_eq!(seen.iter().filter(|event| *event == "finish").count(), 3, "{seen:?}");
    assert!(!seen.iter().any(|event| event.starts_with("failed")), "nobody is at fault: {seen:?}");
    during(Duration::from_secs(30), &mut events).await;
    assert_eq!(requests.all(), [LIST, of("7"), LIST, of("7"), LIST, of("7")]);
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_token_has_expired_begins_again_and_is_not_finished() {
    let (client, _) = scripted(|before, _| match before {
        0 => ScriptedAnswer::Page(vec![object("a", "1")], "7", Some("more")),
        1 => ScriptedAnswer::Status(410),
        2 => ScriptedAnswer::Page(vec![object("b", "2")], "8", None),
        _ => ScriptedAnswer::Open(vec![]),
    });
    let mut events = watched(&client, WatchConfig::default());
    assert_eq!(first(5, &mut events).await, ["start", "page a", "start", "page b", "finish"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_the_start_of_a_watch_and_a_watch_that_hang_are_cancelled_and_tried_again() {
    let (client, requests) = scripted(|before, _| match before {
        0 | 2 => ScriptedAnswer::Hang,
        1 => ScriptedAnswer::Page(vec![], "7", None),
        3 => ScriptedAnswer::Open(vec![]),
        _ => ScriptedAnswer::Open(vec![event("ADDED", "late", "8")]),
    });
    let mut events = watched(&client, WatchConfig::default());
    let started = Instant::now();
    let seen = first(9, &mut events).await;
    let no_answer = "failed: the API server does not answer: ";
    assert!(seen[1].starts_with(no_answer) && seen[6].starts_with(no_answer), "{seen:?}");
    assert_eq!(seen[8], "failed: the API server does not answer: it did not end a watch in time");
    assert_eq!(first(2, &mut events).await, ["recovered", "applied late"]);
    assert_eq!(requests.all(), [LIST, LIST, of("7"), of("7"), of("7")]);
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_five_failures_of_the_watch_everything_is_listed_again() {
    let (client, requests) = scripted(|_, request| match request {
        ReceivedRequest::List { .. } => ScriptedAnswer::Page(vec![], "7", None),
        ReceivedRequest::Watch { .. } => ScriptedAnswer::Status(500),
    });
    let mut events = watched(&client, WatchConfig::default());
    during(Duration::from_mins(10), &mut events).await;
    assert!(requests.lists() > 2 && requests.watches() >= 5 * (requests.lists() - 1), "{:?}", requests.all());
    // The delays of 15 s at most are shortened at random by up to a half.
    assert!((35..=90).contains(&requests.watches()), "{}", requests.watches());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_not_started_again_at_once() {
    let (client, requests) = scripted(|_, request| match request {
        ReceivedRequest::List { .. } => ScriptedAnswer::Page(vec![], "7", None),
        ReceivedRequest::Watch { .. } => ScriptedAnswer::Events(vec![]),
    });
    during(Duration::from_mins(10), &mut watched(&client, WatchConfig::default())).await;
    assert!(requests.watches() < 100, "{}", requests.watches());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_works_is_never_listed_again_unless_that_is_configured() {
    let answer = |_: usize, request: &ReceivedRequest| match request {
        ReceivedRequest::List { .. } => ScriptedAnswer::Page(vec![], "7", None),
        ReceivedRequest::Watch { .. } => ScriptedAnswer::Open(vec![event("MODIFIED", "a", "8")]),
    };
    let (client, requests) = scripted(answer);
    during(Duration::from_mins(30), &mut watched(&client, WatchConfig::default())).await;
    assert_eq!(requests.lists(), 1);
    let (client, requests) = scripted(answer);
    let silence = WatchConfig { relist_after_silence: Some(Duration::from_secs(10)), ..WatchConfig::default() };
    during(Duration::from_secs(65), &mut watched(&client, silence)).await;
    assert_eq!(requests.lists(), 7);
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_over_all_watches_since_the_last_event_or_bookmark() {
    for (events, lists) in [(vec![], 4), (vec![bookmark("8")], 1)] {
        let (client, requests) = scripted(move |_, request| match request {
            ReceivedRequest::List { .. } => ScriptedAnswer::Page(vec![], "7", None),
            ReceivedRequest::Watch { .. } => ScriptedAnswer::Later(Duration::from_secs(60), events.clone()),
        });
        let silence = WatchConfig { relist_after_silence: Some(Duration::from_mins(5)), ..WatchConfig::default() };
        during(Duration::from_mins(16), &mut watched(&client, silence)).await;
        assert_eq!(requests.lists(), lists);
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_listed_is_denied_after_three_attempts_and_requested_about_once_a_minute() {
    let (client, requests) = scripted(|_, _| ScriptedAnswer::Status(403));
    let config = WatchConfig { longest_denied_backoff: Duration::from_mins(1), ..WatchConfig::default() };
    let mut events = watched(&client, config);
    let seen = first(6, &mut events).await;
    let denials: Vec<_> =
        seen.iter().filter(|event| *event != "start").map(|event| event.starts_with("failed")).collect();
    assert_eq!(denials, [true, true, false], "{seen:?}");
    during(Duration::from_mins(10), &mut events).await;
    assert!((8..=24).contains(&requests.lists()), "{}", requests.lists());
}

#[tokio::test(start_paused = true)]
async fn where_only_the_watch_is_denied_everything_is_listed_every_few_minutes() {
    let (client, requests) = scripted(|_, request| match request {
        ReceivedRequest::List { .. } => ScriptedAnswer::Page(vec![object("a", "1")], "7", None),
        ReceivedRequest::Watch { .. } => ScriptedAnswer::Status(403),
    });
    let seen = during(Duration::from_mins(10), &mut watched(&client, WatchConfig::default())).await;
    assert!(seen.contains(&"denied".to_owned()), "{seen:?}");
    assert!((3..=4).contains(&requests.lists()), "{}", requests.lists());
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_does_not_exist_yet_is_requested_as_often_as_configured() {
    let (client, requests) = scripted(|_, _| ScriptedAnswer::Status(404));
    let config = WatchConfig { longest_missing_backoff: Duration::from_secs(4), ..WatchConfig::default() };
    let seen = during(Duration::from_mins(1), &mut watched(&client, config)).await;
    assert!(seen.contains(&"failed: it does not exist".to_owned()), "{seen:?}");
    assert!((15..=35).contains(&requests.lists()), "{}", requests.lists());
}

fn shown(event: Option<ObjectEvent<ConfigMap>>) -> String {
    match event.unwrap() {
        ObjectEvent::Observed(object) => format!("{:?}", object.and_then(|object| object.metadata.resource_version)),
        ObjectEvent::Denied => "denied".to_owned(),
        ObjectEvent::Failed(_) => "failed".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_object_is_shown_by_lists_and_events_and_read_again_after_silence_and_failures() {
    let (client, requests) = scripted(|before, _| match before {
        0 => ScriptedAnswer::Page(vec![], "1", None),
        1 => ScriptedAnswer::Open(vec![event("ADDED", "a", "2"), event("DELETED", "a", "3")]),
        2 => ScriptedAnswer::Page(vec![object("a", "4")], "4", None),
        3 => ScriptedAnswer::Status(500),
        4 => ScriptedAnswer::Page(vec![object("a", "5")], "5", None),
        _ => ScriptedAnswer::Open(vec![]),
    });
    let mut states = watch_object::<ConfigMap>(&client, "team", "a", Duration::from_secs(10));
    for wanted in ["None", r#"Some("2")"#, "None", r#"Some("4")"#, "failed", r#"Some("5")"#] {
        assert_eq!(shown(states.next().await), wanted);
    }
    assert_eq!(requests.all(), [LIST, of("1"), LIST, of("4"), LIST]);
}

#[tokio::test(start_paused = true)]
async fn a_single_object_that_may_be_listed_but_not_watched_is_listed_and_stays_denied() {
    let (client, _) = scripted(|_, request| match request {
        ReceivedRequest::List { .. } => ScriptedAnswer::Page(vec![object("a", "1")], "1", None),
        ReceivedRequest::Watch { .. } => ScriptedAnswer::Status(403),
    });
    let mut states = watch_object::<ConfigMap>(&client, "team", "a", Duration::from_secs(10));
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(shown(states.next().await));
    }
    let denied = seen.iter().position(|state| state == "denied").unwrap();
    assert!(!seen[denied..].contains(&"failed".to_owned()), "{seen:?}");
    assert!(seen[denied..].contains(&r#"Some("1")"#.to_owned()), "{seen:?}");
}
