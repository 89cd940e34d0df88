//! Targets that are many pods, by EndpointSlices as the control plane writes them. No pod runs here: each has a simulated server at a port of
//! its own, and a slice of its own, since a slice has one number for each port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use simulators::Simulated;
use simulators::mediasoup::Agent;

use crate::exporter::{PATIENCE, Release, Replica, target, targets, told, until};
use crate::operator::own_address;
use crate::support::cluster::Cluster;

const NO_MONITORS: [&str; 4] = ["--discovery.mode", "none", "--log-level", "debug"];

/// What an exporter needs that finds no members.
const TARGETS: &str = "[{ apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [list, watch] }]";
/// The same with what finds them.
const MEMBERS: &str = "[{ apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [list, watch] }, \
                        { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch] }]";

/// A server for one pod.
async fn server(seed: u64) -> Simulated {
    Simulated::serve(Agent::new(seed).routes(), (own_address(), 0).into()).await.unwrap()
}

fn address(server: &Simulated) -> SocketAddr {
    let url = reqwest::Url::parse(&server.url()).unwrap();
    let address = (url.host_str().unwrap().trim_matches(['[', ']']).parse::<IpAddr>().unwrap(), url.port().unwrap());
    address.into()
}

/// A pod, in its slice.
#[derive(Clone)]
struct Pod {
    name: &'static str,
    uid: &'static str,
    address: SocketAddr,
    serving: bool,
    terminating: bool,
}

impl Pod {
    fn of(name: &'static str, server: &Simulated) -> Self {
        Self { name, uid: name, address: address(server), serving: true, terminating: false }
    }

    fn endpoint(&self) -> Value {
        json!({
            "addresses": [self.address.ip().to_string()],
            "conditions": {
                "ready": self.serving && !self.terminating, "serving": self.serving, "terminating": self.terminating,
            },
            "targetRef": { "kind": "Pod", "name": self.name, "uid": self.uid },
            "nodeName": "node-1",
            "zone": "zone-1",
        })
    }
}

/// The slice `name` of the Service `service`, with the port `agent`.
fn slice(namespace: &str, service: &str, name: &str, port: u16, endpoints: &[Value]) -> String {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": namespace, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "agent", "port": port, "protocol": "TCP" }],
    })
    .to_string()
}

/// Writes the slice of a pod, whose name is that of the slice unless another is given.
fn show(cluster: &Cluster, namespace: &str, name: Option<&str>, pod: &Pod) {
    let port = pod.address.port();
    cluster.apply(&slice(namespace, "rooms", name.unwrap_or(pod.name), port, &[pod.endpoint()]));
}

async fn remove(cluster: &Cluster, namespace: &str, name: &str) {
    let slices = Api::<EndpointSlice>::namespaced(cluster.client(), namespace);
    slices.delete(name, &DeleteParams::default()).await.unwrap();
}

/// A target whose members are the pods behind the Service `rooms`.
fn with_members(namespace: &str, more: &str) -> String {
    let members = format!("members: {{ service: {{ name: rooms }}, {more} }}, mediasoup: {{ source: Agent }}");
    target(namespace, "rooms", "http://rooms/", &members)
}

/// The values of all series of a family, by the value of the label `label`.
fn values(series: &BTreeMap<String, f64>, family: &str, label: &str) -> BTreeMap<String, f64> {
    let prefix = format!("{family}{{");
    let quoted = format!("{label}=\"");
    let of = |(name, value): (&String, &f64)| {
        let labels = name.strip_prefix(&prefix)?;
        let (_, rest) = labels.split_once(&quoted)?;
        Some((rest.split('"').next()?.to_owned(), *value))
    };
    series.iter().filter_map(of).collect()
}

/// Waits until these pods answer, or do not, and no others are there.
async fn until_members(replica: &Replica, target: &str, wanted: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let wanted: BTreeMap<String, f64> = wanted.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    until(PATIENCE, async || {
        let series = replica.probe(target).await.unwrap_or_default();
        let found = values(&series, "probe_member_success", "pod");
        if found == wanted { Ok(series) } else { Err(format!("{found:?} of {series:#?}\n{}", replica.log())) }
    })
    .await
}

/// Waits until a condition of the target `rooms` is this, and returns its message.
async fn until_told(cluster: &Cluster, namespace: &str, kind: &str, verdict: &str) -> String {
    until(PATIENCE, async || {
        let target = targets(cluster, namespace).get("rooms").await.unwrap();
        let conditions = told(&target);
        match conditions.get(kind) {
            Some((found, message)) if found == verdict => Ok(message.clone()),
            _ => Err(format!("{conditions:#?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_drain_go_and_are_replaced_and_the_answer_has_exactly_those_that_are_there() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("members");
    let rooms = format!("{namespace}/rooms");
    let [one, two, three] = [server(1).await, server(2).await, server(3).await];
    show(cluster, &namespace, None, &Pod::of("a", &one));
    cluster.apply(&with_members(&namespace, ""));
    let release = Release::install(cluster, &[&namespace], &NO_MONITORS);
    let replica = release.ready().await;
    let series = until_members(&replica, &rooms, &[("a", 1.0)]).await;
    let info = format!("probe_member_info{{pod=\"a\",address=\"{}\",node=\"node-1\",zone=\"zone-1\"}}", address(&one));
    assert_eq!(series.get(&info), Some(&1.0), "{series:#?}");
    assert_eq!(values(&series, "mediasoup_up", "pod"), BTreeMap::from([("a".to_owned(), 1.0)]));

    show(cluster, &namespace, None, &Pod::of("b", &two));
    until_members(&replica, &rooms, &[("a", 1.0), ("b", 1.0)]).await;

    // It drains, and still serves.
    let draining = Pod { terminating: true, ..Pod::of("a", &one) };
    show(cluster, &namespace, None, &draining);
    until(PATIENCE, async || {
        let series = replica.probe(&rooms).await.unwrap();
        let states = values(&series, "probe_members", "state");
        let drains = states["terminating"] == 1.0 && states["up"] == 1.0 && states["down"] == 0.0;
        let is_polled = values(&series, "probe_member_success", "pod").get("a") == Some(&1.0);
        (drains && is_polled).then_some(()).ok_or_else(|| format!("{states:?} {series:#?}"))
    })
    .await;
    drop(one);
    until(PATIENCE, async || {
        let series = replica.probe(&rooms).await.unwrap();
        let told = values(&series, "probe_member_success", "pod");
        let states = values(&series, "probe_members", "state");
        let is_quiet = told.keys().eq(["b"]) && states["down"] == 0.0 && states["terminating"] == 1.0;
        (is_quiet && series["probe_success"] == 1.0).then_some(()).ok_or_else(|| format!("{series:#?}"))
    })
    .await;

    // It is gone, and its series are.
    remove(cluster, &namespace, "a").await;
    until(PATIENCE, async || {
        let series = replica.probe(&rooms).await.unwrap();
        let left: Vec<_> = series.keys().filter(|name| name.contains("pod=\"a\"")).collect();
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;

    // A pod of another name takes over the address, while the slice of the first is still there.
    let successor = Pod { name: "c", uid: "c", ..Pod::of("b", &two) };
    show(cluster, &namespace, None, &Pod { terminating: true, serving: false, ..Pod::of("b", &two) });
    show(cluster, &namespace, None, &successor);
    let series = until_members(&replica, &rooms, &[("c", 1.0)]).await;
    assert!(!series.keys().any(|name| name.contains("pod=\"b\"")), "{series:#?}");

    // A pod of the same name is another process, elsewhere.
    show(cluster, &namespace, None, &Pod { uid: "another", ..Pod::of("c", &three) });
    let elsewhere =
        format!("probe_member_info{{pod=\"c\",address=\"{}\",node=\"node-1\",zone=\"zone-1\"}}", address(&three));
    until(PATIENCE, async || {
        let series = replica.probe(&rooms).await.unwrap();
        let infos = series.keys().filter(|name| name.starts_with("probe_member_info{pod=\"c\"")).collect::<Vec<_>>();
        (infos == [&elsewhere]).then_some(()).ok_or_else(|| format!("{infos:?}"))
    })
    .await;

    // It does not pass its readiness probe: it is counted, and not polled.
    show(cluster, &namespace, None, &Pod { uid: "another", serving: false, ..Pod::of("c", &three) });
    until(PATIENCE, async || {
        let series = replica.probe(&rooms).await.unwrap();
        let is_empty = values(&series, "probe_members", "state").get("not_ready") == Some(&1.0)
            && series.contains_key(r#"probe_failure_info{reason="no_members"}"#);
        is_empty.then_some(()).ok_or_else(|| format!("{series:#?}"))
    })
    .await;
    until_told(cluster, &namespace, "Up", "False/NoMembers").await;
    remove(cluster, &namespace, "b").await;
    cluster.apply(&with_members(&namespace, "include: All"));
    until_members(&replica, &rooms, &[("c", 1.0)]).await;
    until_told(cluster, &namespace, "Up", "True/Succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_that_fails_leaves_the_target_up_and_is_named() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("partial");
    let one = server(1).await;
    let gone = Pod::of("b", &server(2).await);
    show(cluster, &namespace, None, &Pod::of("a", &one));
    show(cluster, &namespace, None, &gone);
    cluster.apply(&with_members(&namespace, ""));
    let release = Release::install(cluster, &[&namespace], &NO_MONITORS);
    let replica = release.ready().await;
    until_members(&replica, &format!("{namespace}/rooms"), &[("a", 1.0), ("b", 0.0)]).await;
    let message = until_told(cluster, &namespace, "Up", "True/Partial").await;
    assert!(message.starts_with("1 of 2 answered; b: connect"), "{message}");
    let columns = until(PATIENCE, async || {
        let said = cluster.kubectl(&["--namespace", &namespace, "get", "st", "rooms", "-o", "wide"]);
        let is_shown = said.stdout.contains("MEMBERS") && said.stdout.contains("\"found\":2");
        if is_shown { Ok(said.stdout) } else { Err(format!("{}{}", said.stdout, said.stderr)) }
    })
    .await;
    assert!(columns.contains("\"up\":1"), "{columns}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told_with_what_to_write_instead_and_heals() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("missing");
    let server = server(1).await;
    cluster.apply(&with_members(&namespace, ""));
    let release = Release::install(cluster, &[&namespace], &NO_MONITORS);
    let replica = release.ready().await;
    let message = until_told(cluster, &namespace, "Accepted", "False/EndpointsNotFound").await;
    assert!(message.contains(&format!("no EndpointSlice of Service {namespace}/rooms")), "{message}");
    let series = replica.probe(&format!("{namespace}/rooms")).await.unwrap();
    assert_eq!(series.get(r#"probe_failure_info{reason="config"}"#), Some(&1.0), "{series:#?}");

    // The placeholder of a Service without pods.
    cluster.apply(&slice(&namespace, "rooms", "empty", 80, &[]));
    until_told(cluster, &namespace, "Up", "False/NoMembers").await;
    until_told(cluster, &namespace, "Accepted", "True/Accepted").await;

    show(cluster, &namespace, None, &Pod::of("a", &server));
    until_members(&replica, &format!("{namespace}/rooms"), &[("a", 1.0)]).await;
    let port = with_members(&namespace, "").replace("name: rooms }, ", "name: rooms, port: http }, ");
    assert!(port.contains("port: http"));
    cluster.apply(&port);
    let message = until_told(cluster, &namespace, "Accepted", "False/PortNotFound").await;
    let listed = format!("\"agent\" ({})", address(&server).port());
    assert!(message.contains("\"http\"") && message.ends_with(&listed), "{message}");
    cluster.apply(&port.replace("port: http", "port: agent"));
    until_members(&replica, &format!("{namespace}/rooms"), &[("a", 1.0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_permission_the_rule_is_told_everything_else_goes_on_and_it_is_noticed_once_it_is_granted() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("forbidden");
    let server = server(1).await;
    show(cluster, &namespace, None, &Pod::of("a", &server));
    cluster.apply(&with_members(&namespace, ""));
    cluster.apply(&target(&namespace, "plain", &server.url(), ""));
    let release = Release::without_rights(cluster, &[&namespace], &NO_MONITORS);
    release.grant(cluster, &namespace, TARGETS);
    let replica = release.ready().await;
    replica.until_up(&format!("{namespace}/plain")).await;
    let rooms = format!("{namespace}/rooms");
    let rule = format!(
        "not permitted in namespace {namespace}: a Role or ClusterRole must have the rule {{apiGroups: [\"discovery.k8s.io\"], \
         resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"]}}"
    );
    let rule = rule.replace('"', "&quot;");
    until(PATIENCE, async || {
        let (_, page) = replica.get(&format!("/probe?target={rooms}&debug=true")).await.unwrap_or_default();
        let is_told = page.contains(&rule) || page.contains(&rule.replace("&quot;", "\""));
        is_told.then_some(()).ok_or_else(|| format!("{page}\n{}", replica.log()))
    })
    .await;
    release.grant(cluster, &namespace, MEMBERS);
    until_members(&replica, &rooms, &[("a", 1.0)]).await;
    replica.until_up(&format!("{namespace}/plain")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_read_only_while_a_target_names_a_service_and_only_those_of_its_service() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("unread");
    let server = server(1).await;
    show(cluster, &namespace, None, &Pod::of("a", &server));
    cluster.apply(&target(&namespace, "plain", &server.url(), ""));
    // What it writes for itself is in its own namespace.
    let release = Release::install(cluster, &[&namespace], &NO_MONITORS);
    let replica = release.ready().await;
    replica.until_up(&format!("{namespace}/plain")).await;
    let asked = || {
        let mut asked = release.asked(cluster);
        asked.retain(|line| line.resource == "endpointslices" && line.namespace == namespace);
        asked
    };
    assert_eq!(asked().len(), 0, "{:#?}", asked());
    let selectors = || asked().iter().map(|line| line.uri.clone()).collect::<BTreeSet<_>>();
    let rooms = format!("{namespace}/rooms");
    for _ in 0..2 {
        let before = replica.log().matches("not needed any more").count();
        cluster.apply(&with_members(&namespace, ""));
        until_members(&replica, &rooms, &[("a", 1.0)]).await;
        targets(cluster, &namespace).delete("rooms", &DeleteParams::default()).await.unwrap();
        replica.until_gone(&rooms).await;
        until(PATIENCE, async || {
            let ended = replica.log().matches("not needed any more").count() > before;
            ended.then_some(()).ok_or_else(|| replica.log())
        })
        .await;
    }
    until(PATIENCE, async || {
        let lists = asked().iter().filter(|line| line.verb == "list").count();
        (lists >= 2).then_some(()).ok_or_else(|| format!("{:#?}", asked()))
    })
    .await;
    let selectors = selectors();
    assert!(selectors.iter().all(|uri| uri.contains("service-name+in+%28rooms%29")), "{selectors:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_hangs_members_are_as_last_known_and_what_has_changed_is_noticed_afterwards() {
    let cluster = Cluster::private();
    cluster.install_crd();
    let [one, two] = [server(1).await, server(2).await];
    show(&cluster, "default", None, &Pod::of("a", &one));
    cluster.apply(&with_members("default", ""));
    let release = Release::install(&cluster, &[], &NO_MONITORS);
    let replica = release.ready().await;
    until_members(&replica, "default/rooms", &[("a", 1.0)]).await;
    cluster.kill();
    let last_poll = async || replica.probe("default/rooms").await.unwrap()["probe_timestamp_seconds"];
    let killed = last_poll().await;
    until(PATIENCE, async || {
        // Longer than a scrape, and than several attempts to watch again.
        let series = until_members(&replica, "default/rooms", &[("a", 1.0)]).await;
        let later = series["probe_timestamp_seconds"] - killed;
        (later > 8.0).then_some(()).ok_or_else(|| format!("{later} s"))
    })
    .await;
    cluster.restart();
    show(&cluster, "default", None, &Pod::of("b", &two));
    remove(&cluster, "default", "a").await;
    until_members(&replica, "default/rooms", &[("b", 1.0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_thousand_pods_the_first_are_polled_and_all_are_counted_and_numbers_are_written_once_a_minute() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("many");
    let server = server(1).await;
    let first = Pod::of("a", &server);
    show(cluster, &namespace, None, &first);
    let pods = |slice: usize| -> Vec<Value> {
        (0..500)
            .map(|i| {
                let pod = format!("pod-{slice}-{i}");
                json!({
                    "addresses": [format!("198.51.{}.{}", 100 + slice * 2 + i / 250, i % 250 + 1)],
                    "targetRef": { "kind": "Pod", "name": pod, "uid": pod },
                })
            })
            .collect()
    };
    for slice_number in 0..4 {
        let name = format!("many-{slice_number}");
        cluster.apply(&slice(&namespace, "rooms", &name, 9, &pods(slice_number)));
    }
    cluster.apply(&with_members(&namespace, "limit: 1"));
    let release = Release::install(cluster, &[&namespace], &NO_MONITORS);
    let replica = release.ready().await;
    let rooms = format!("{namespace}/rooms");
    let series = until_members(&replica, &rooms, &[("a", 1.0)]).await;
    let states = values(&series, "probe_members", "state");
    assert_eq!((states["up"], states["over_limit"]), (1.0, 2000.0), "{states:?}");
    let found = async |wanted: u64| {
        until(PATIENCE, async || {
            let _ = replica.probe(&rooms).await; // without scrapes, a condition changes
            let target = targets(cluster, &namespace).get("rooms").await.unwrap();
            let members = &target.data["status"]["members"];
            (members["found"] == wanted).then_some(()).ok_or_else(|| format!("{}", target.data["status"]))
        })
        .await;
    };
    found(2001).await;
    until_told(cluster, &namespace, "Up", "True/Succeeded").await;
    until_told(cluster, &namespace, "Scraped", "True/Scraped").await;
    let removed = Timestamp::now();
    remove(cluster, &namespace, "many-0").await;
    remove(cluster, &namespace, "many-1").await;
    found(1001).await;
    // An answer comes a little before its line in the log.
    let (before, last) = until(PATIENCE, async || {
        let mut writes = release.asked(cluster);
        writes.retain(|line| line.subresource == "status" && line.code == 200);
        match &writes[..] {
            [.., before, last] if last.at > removed => Ok((before.at, last.at)),
            _ => Err(format!("{writes:#?}")),
        }
    })
    .await;
    let between = Duration::try_from(last.duration_since(before)).unwrap();
    assert!(between >= Duration::from_secs(59), "{before} {last}");
}
