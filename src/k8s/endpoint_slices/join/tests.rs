use serde_json::{Value, json};

use super::*;
use crate::k8s::endpoint_slices::slice::tests::slice;

const HTTP: WantedPort = WantedPort { name: None, number: 80 };

fn named(name: &str) -> WantedPort {
    WantedPort { name: Some(name.into()), number: 80 }
}

/// A pod's endpoint: `name`, `uid`, `address` and some of the letters r (not ready), s (not serving), t (terminating).
fn pod(name: &str, uid: &str, address: &str, not: &str) -> Value {
    json!({
        "addresses": [address],
        "conditions": { "ready": !not.contains('r'), "serving": !not.contains('s'), "terminating": not.contains('t') },
        "targetRef": { "kind": "Pod", "name": name, "uid": uid },
        "nodeName": "node", "zone": "zone",
    })
}

/// A slice with the port 80, of this resource version.
fn of(version: u32, family: &str, endpoints: &[Value]) -> KeptSlice {
    slice(&json!({
        "metadata": { "resourceVersion": version.to_string() },
        "addressType": family, "endpoints": endpoints, "ports": [{ "name": "http", "port": 80 }],
    }))
}

fn ports(ports: &Value) -> KeptSlice {
    slice(&json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": ports }))
}

fn all(slices: &[KeptSlice], port: &WantedPort) -> Result<Vec<Member>, PortNotFound> {
    join(slices.iter(), port, false)
}

/// The members as `name@address`, with the letters of [`pod`].
fn shown(slices: &[KeptSlice]) -> Vec<String> {
    let members = all(slices, &HTTP).unwrap();
    let letter = |is: bool, letter| if is { letter } else { "" };
    let show = |member: &Member| {
        let not = [letter(!member.ready, "r"), letter(!member.serving, "s"), letter(member.terminating, "t")].concat();
        format!("{}@{} {not}", member.name, member.address).trim_end().to_owned()
    };
    members.iter().map(show).collect()
}

#[test]
fn a_pod_of_both_families_is_one_member_at_the_preferred_one() {
    let slices = [
        of(1, "IPv4", &[pod("b", "1", "10.0.0.1", ""), pod("a", "2", "10.0.0.2", "")]),
        of(2, "IPv6", &[pod("b", "1", "fd00::1", ""), pod("c", "3", "fd00::3", "")]),
    ];
    assert_eq!(shown(&slices), ["a@10.0.0.2:80", "b@10.0.0.1:80", "c@[fd00::3]:80"]);
    let members = join(slices.iter(), &HTTP, true).unwrap();
    assert_eq!(members[1].address.to_string(), "[fd00::1]:80");
    assert_eq!((members[1].label, &*members[1].uid, members[1].node.as_deref()), (MemberLabel::Pod, "1", Some("node")));
}

#[test]
fn a_pod_that_is_moved_to_another_slice_is_one_member_in_its_newest_state() {
    let old = of(1, "IPv4", &[pod("a", "1", "10.0.0.1", "")]);
    let new = of(2, "IPv4", &[pod("a", "1", "10.0.0.1", "rt")]);
    assert_eq!(shown(&[old, new]), ["a@10.0.0.1:80 rt"]);
    let ready = of(7, "IPv4", &[pod("a", "1", "10.0.0.1", "")]);
    let starting = of(3, "IPv4", &[pod("a", "1", "10.0.0.1", "rs")]);
    assert_eq!(shown(&[ready, starting]), ["a@10.0.0.1:80"]);
    let ready = of(3, "IPv4", &[pod("a", "1", "10.0.0.1", "")]);
    let unready = of(7, "IPv4", &[pod("a", "1", "10.0.0.1", "rs")]);
    assert_eq!(shown(&[ready, unready]), ["a@10.0.0.1:80 rs"]);
}

#[test]
fn of_two_pods_with_one_name_the_one_that_stays_is_the_member() {
    let old = pod("a-0", "old", "10.0.0.1", "rt");
    let starting = pod("a-0", "new", "10.0.0.2", "rs");
    for order in [[&old, &starting], [&starting, &old]] {
        let slices = [of(1, "IPv4", &order.map(Value::clone))];
        assert_eq!(shown(&slices), ["a-0@10.0.0.2:80 rs"]);
        assert_eq!(&*all(&slices, &HTTP).unwrap()[0].uid, "new");
    }
}

#[test]
fn an_address_that_another_pod_has_taken_over_is_polled_under_its_new_name_only() {
    let slices = [
        of(5, "IPv4", &[pod("old", "1", "10.0.0.1", "rt")]),
        of(2, "IPv4", &[pod("new", "2", "10.0.0.1", ""), pod("other", "3", "10.0.0.2", "")]),
    ];
    assert_eq!(shown(&slices), ["new@10.0.0.1:80", "other@10.0.0.2:80"]);
}

#[test]
fn an_endpoint_without_a_pod_has_its_address_as_its_name() {
    let slices = [
        of(1, "IPv4", &[json!({ "addresses": ["192.0.2.7"] })]),
        of(2, "IPv4", &[json!({ "addresses": ["192.0.2.7"] })]),
    ];
    let members = all(&slices, &HTTP).unwrap();
    assert_eq!(members, [Member::at("192.0.2.7:80".parse().unwrap())]);
}

#[test]
fn publish_not_ready_addresses_leaves_serving_to_say_whether_a_pod_is_ready_and_a_terminating_pod_is_not_ready() {
    let slices = [of(1, "IPv4", &[pod("a", "1", "10.0.0.1", "s"), pod("b", "2", "10.0.0.2", "t")])];
    assert_eq!(shown(&slices), ["a@10.0.0.1:80 s", "b@10.0.0.2:80 rt"]);
}

#[test]
fn the_port_is_found_by_its_name_or_is_the_only_one_or_that_of_the_url() {
    let http = json!([{ "name": "http", "port": 8080 }]);
    let several = json!([{ "name": "http", "port": 8080 }, { "name": "agent", "port": 80 }]);
    for (found, port, wanted) in [
        (&http, &HTTP, Some(8080)),
        (&http, &named("http"), Some(8080)),
        (&http, &named("agent"), None),
        (&several, &HTTP, Some(80)),
        (&several, &named("http"), Some(8080)),
        (&several, &WantedPort { name: None, number: 81 }, None),
        (&json!([{ "name": "any", "port": null }]), &named("any"), Some(80)),
        (&json!([{ "name": "any", "port": null }]), &HTTP, Some(80)),
        (&json!([]), &HTTP, Some(80)),
        (&json!([]), &named("http"), None),
        (&json!([{ "name": "media", "port": 80, "protocol": "UDP" }]), &HTTP, None),
        (
            &json!([{ "name": "media", "port": 1, "protocol": "UDP" }, { "name": "http", "port": 8080 }]),
            &HTTP,
            Some(8080),
        ),
    ] {
        let members = all(&[ports(found)], port).ok();
        let number = members.map(|members| members[0].address.port());
        assert_eq!(number, wanted, "{found} for {port:?}");
    }
}

#[test]
fn a_named_port_may_have_another_number_in_each_slice_and_slices_without_it_are_left_out() {
    let of = |address: &str, port: Value| {
        slice(&json!({ "addressType": "IPv4", "endpoints": [{ "addresses": [address] }], "ports": [port] }))
    };
    let slices = [
        of("10.0.0.1", json!({ "name": "http", "port": 80 })),
        of("10.0.0.2", json!({ "name": "http", "port": 81 })),
        of("10.0.0.3", json!({ "name": "other", "port": 82 })),
    ];
    let addresses: Vec<String> = all(&slices, &named("http")).unwrap().iter().map(|m| m.name.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:81"]);
    let Err(PortNotFound(ports)) = all(&slices, &named("none")) else { panic!("there is no such port") };
    let ports: Vec<_> = ports.iter().map(|(name, number)| (&**name, *number)).collect();
    assert_eq!(ports, [("http", Some(80)), ("http", Some(81)), ("other", Some(82))]);
}

#[test]
fn a_service_without_pods_has_no_members_whatever_its_ports() {
    let empty = slice(&json!({ "addressType": "IPv4", "endpoints": null, "ports": null }));
    assert_eq!(all(&[empty], &named("http")), Ok(vec![]));
    let malformed = json!([{ "addresses": ["x"] }]);
    assert_eq!(all(&[slice(&json!({ "addressType": "IPv4", "endpoints": malformed }))], &named("http")), Ok(vec![]));
}
