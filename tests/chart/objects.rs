//! The objects of the chart and how they belong together.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::support::chart;

fn case(name: &str) -> Vec<Value> {
    let (_, file) = chart::cases().into_iter().find(|(case, _)| case == name).unwrap();
    chart::render_case(&file)
}

/// Whether a map of labels has all of another.
fn has(labels: &Value, selector: &Value) -> bool {
    let selector = selector.as_object().unwrap_or_else(|| panic!("no selector: {selector}"));
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Every label selector of a case that is for the exporter's own pods.
fn selectors(manifests: &[Value]) -> Vec<Value> {
    let mut found = Vec::new();
    for manifest in manifests {
        let spec = &manifest["spec"];
        let selector = match manifest["kind"].as_str().unwrap() {
            "Deployment" | "PodDisruptionBudget" => &spec["selector"]["matchLabels"],
            "Service" if spec.get("selector").is_some() => &spec["selector"],
            _ => continue,
        };
        found.push(selector.clone());
    }
    found
}

#[test]
fn selectors_find_the_exporters_pods_and_no_others_and_name_no_version() {
    for (case, file) in chart::cases() {
        let manifests = chart::render_case(&file);
        let pods = chart::pods(&manifests);
        let selectors = selectors(&manifests);
        assert!(selectors.len() >= 2, "{case}");
        let deployment = chart::of_kind(&manifests, "Deployment")[0]["metadata"]["name"].as_str().unwrap();
        for selector in selectors {
            let selected = pods.iter().filter(|(_, pod)| has(&pod["metadata"]["labels"], &selector));
            let selected: Vec<&str> = selected.map(|(name, _)| name.as_str()).collect();
            assert_eq!(selected, [deployment], "{case}: {selector}");
            assert!(!selector.to_string().contains("version") && !selector.to_string().contains("helm"), "{selector}");
        }
    }
}

#[test]
fn one_service_has_all_pods_and_the_other_is_for_the_leader_to_fill() {
    let manifests = chart::render(&[""; 0]);
    let all = chart::one(&manifests, "Service", "scrapetarget-exporter");
    let leader = chart::one(&manifests, "Service", "scrapetarget-exporter-probe");
    let documented = &chart::parse(include_str!("../../deploy/service.yaml"))[0];
    assert_eq!(leader["spec"].get("selector"), None);
    assert_eq!(leader["metadata"]["name"], documented["metadata"]["name"]);
    assert!(has(&leader["metadata"]["labels"], &documented["metadata"]["labels"]));
    assert_eq!(leader["spec"]["ports"][0]["name"], documented["spec"]["ports"][0]["name"]);
    assert!(
        !has(&all["metadata"]["labels"], &documented["metadata"]["labels"]),
        "only one may be selected by monitors"
    );
    // Its Endpoints are the leader's alone: nothing of the release may write them.
    assert_eq!(chart::of_kind(&manifests, "Endpoints").len() + chart::of_kind(&manifests, "EndpointSlice").len(), 0);
}

#[test]
fn the_service_for_the_leader_has_the_one_family_of_its_address_in_every_case() {
    let dual = case("dual-stack");
    let all = chart::one(&dual, "Service", "scrapetarget-exporter");
    assert_eq!(all["spec"]["ipFamilyPolicy"], "PreferDualStack");
    assert_eq!(all["spec"]["ipFamilies"], json!(["IPv4"]));
    for (case, file) in chart::cases() {
        let manifests = chart::render_case(&file);
        let services = chart::of_kind(&manifests, "Service").into_iter();
        let leader: Vec<_> = services.filter(|service| service["spec"].get("selector").is_none()).collect();
        assert_eq!(leader.len(), 1, "{case}");
        let spec = leader[0]["spec"].as_object().unwrap();
        assert_eq!(spec.keys().filter(|key| key.starts_with("ip")).count(), 0, "{case}: the cluster's first family");
    }
}

#[test]
fn the_exporters_own_monitor_selects_the_service_with_all_pods() {
    let manifests = case("everything");
    let monitor = chart::one(&manifests, "ServiceMonitor", "media-exporter");
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    let services = chart::of_kind(&manifests, "Service").into_iter();
    let selected: Vec<_> = services.filter(|service| has(&service["metadata"]["labels"], selector)).collect();
    assert_eq!(selected.len(), 1);
    assert_eq!(selected[0]["metadata"]["name"], "media-exporter");
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], selected[0]["spec"]["ports"][0]["name"]);
    assert!(has(&monitor["metadata"]["labels"], &json!({ "release": "kube-prometheus-stack", "team": "media" })));
}

#[test]
fn the_exporters_own_monitor_has_the_limits_of_a_scrape() {
    let limits = [
        ("sampleLimit", json!(50000)),
        ("targetLimit", json!(2)),
        ("labelLimit", json!(30)),
        ("labelNameLengthLimit", json!(64)),
        ("labelValueLengthLimit", json!(1_000_000)),
        ("bodySizeLimit", json!("16MiB")),
    ];
    let manifests = case("everything");
    let monitor = chart::one(&manifests, "ServiceMonitor", "media-exporter");
    for (field, value) in &limits {
        assert_eq!(monitor["spec"][field], *value, "{field}");
    }
    let without = chart::render(&["--set", "serviceMonitor.selfMonitor.enabled=true"]);
    let monitor = chart::one(&without, "ServiceMonitor", chart::RELEASE);
    assert!(limits.iter().all(|(field, _)| monitor["spec"].get(field).is_none()), "{monitor}");
}

#[test]
fn what_is_set_for_all_targets_is_in_each_scrape_config_and_what_is_set_for_these_alone_takes_precedence() {
    let manifests = case("http-sd");
    let configs = chart::of_kind(&manifests, "ScrapeConfig");
    assert_eq!(configs.len(), 2);
    for config in configs {
        let spec = &config["spec"];
        for (field, value) in [
            ("targetLimit", json!(5000)),
            ("labelLimit", json!(30)),
            ("labelNameLengthLimit", json!(64)),
            ("labelValueLengthLimit", json!(1_000_000)),
            ("bodySizeLimit", json!("16MB")),
            ("proxyUrl", json!("http://proxy.example.com:3128")),
            ("sampleLimit", json!(10000)),
        ] {
            assert_eq!(spec[field], value, "{field}");
        }
        assert_eq!(spec["httpSDConfigs"][0]["proxyUrl"], spec["proxyUrl"]);
        let last = |list: &str| spec[list].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last("relabelings"), json!({ "targetLabel": "region", "replacement": "kanto" }));
        assert_eq!(last("metricRelabelings")["regex"], "go_.*");
    }
    let never = chart::render(&[
        "--set",
        "discovery.mode=httpSD,discovery.honorLabels=never,discovery.labelLimit=30,scrapeConfig.spec.labelLimit=0",
    ]);
    let configs = chart::of_kind(&never, "ScrapeConfig");
    assert_eq!(configs.len(), 1, "nobody's labels win");
    assert_eq!((configs[0]["spec"].get("honorLabels"), &configs[0]["spec"]["labelLimit"]), (None, &json!(0)));
    let url = configs[0]["spec"]["httpSDConfigs"][0]["url"].as_str().unwrap();
    assert!(url.ends_with("/sd"), "{url}");
}

#[test]
fn the_scrape_config_asks_the_leader_and_there_is_none_in_other_modes() {
    let manifests = case("http-sd");
    let config = chart::one(&manifests, "ScrapeConfig", chart::RELEASE);
    let honoring = chart::one(&manifests, "ScrapeConfig", &format!("{}-honor-labels", chart::RELEASE));
    for (config, honors) in [(config, false), (honoring, true)] {
        let sd = &config["spec"]["httpSDConfigs"][0];
        let url = format!(
            "http://scrapetarget-exporter-probe.prometheus.svc:9850/sd?honorLabels={honors}&honorLabelsDefault=true"
        );
        assert_eq!((&sd["url"], config["spec"].get("honorLabels")), (&json!(url), honors.then_some(&json!(true))));
        // As with ServiceMonitors, and a job that a target names itself stays.
        let job = &config["spec"]["relabelings"][0];
        let name = config["metadata"]["name"].as_str().unwrap();
        let own = format!("scrapeConfig/prometheus/{name}");
        assert!(Regex::new(&format!("^(?:{})$", job["regex"].as_str().unwrap())).unwrap().is_match(&own), "{job}");
        assert_eq!(
            (&job["sourceLabels"], &job["targetLabel"], &job["replacement"], config["spec"].get("jobName")),
            (&json!(["job"]), &json!("job"), &json!("scrapetarget-exporter-probe"), None)
        );
    }
    assert!(has(&config["metadata"]["labels"], &json!({ "release": "kube-prometheus-stack", "team": "media" })));
    let tls = case("web-config-tls");
    let config = chart::one(&tls, "ScrapeConfig", chart::RELEASE);
    assert_eq!(config["spec"]["scheme"], "HTTPS");
    assert!(config["spec"]["httpSDConfigs"][0]["url"].as_str().unwrap().starts_with("https://"));
    for (name, file) in chart::cases() {
        let configs = chart::render_case(&file).iter().filter(|manifest| manifest["kind"] == "ScrapeConfig").count();
        let wanted = ["http-sd", "odd-names", "web-config-tls", "watch-without-secrets"].contains(&name.as_str());
        assert_eq!(configs, 2 * usize::from(wanted), "{name}");
    }
}

#[test]
fn several_replicas_are_spread_and_have_a_budget_and_one_has_neither() {
    let spread = |manifests: &[Value]| {
        let deployment = chart::of_kind(manifests, "Deployment")[0].clone();
        let constraints = &deployment["spec"]["template"]["spec"]["topologySpreadConstraints"];
        let budgets = chart::of_kind(manifests, "PodDisruptionBudget").len();
        (constraints.as_array().map_or(0, Vec::len), budgets)
    };
    assert_eq!(spread(&chart::render(&[""; 0])), (0, 0));
    let three = case("replicas");
    assert_eq!(spread(&three), (2, 1));
    let template = &chart::of_kind(&three, "Deployment")[0]["spec"]["template"];
    for constraint in template["spec"]["topologySpreadConstraints"].as_array().unwrap() {
        assert!(has(&template["metadata"]["labels"], &constraint["labelSelector"]["matchLabels"]));
        assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway", "a cluster of one node runs them all");
    }
    assert_eq!(spread(&chart::render(&["--set", "replicas=3,podDisruptionBudget.enabled=false"])).1, 0);
    assert_eq!(spread(&chart::render(&["--set", "podDisruptionBudget.enabled=true"])).1, 1);
}

#[test]
fn the_network_policy_holds_for_every_pod_and_opens_the_port_of_the_container() {
    let manifests = chart::render(&["--set", "networkPolicy.enabled=true,containerPort=8080,service.port=80"]);
    let policy = chart::one(&manifests, "NetworkPolicy", chart::RELEASE);
    let pods = chart::pods(&manifests);
    assert_eq!(pods.len(), 3, "the exporter, the Job, the test");
    for (name, pod) in pods {
        assert!(has(&pod["metadata"]["labels"], &policy["spec"]["podSelector"]["matchLabels"]), "{name}");
    }
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], 8080);
    let narrow = case("network-policy");
    let egress = &chart::one(&narrow, "NetworkPolicy", chart::RELEASE)["spec"]["egress"];
    let ports: Vec<Vec<u64>> = egress.as_array().unwrap().iter().map(ports).collect();
    assert_eq!(
        ports,
        [vec![3000, 1026], vec![53, 53], vec![443, 6443], vec![9850]],
        "targets, names, API server, ourselves"
    );
    assert_eq!(chart::of_kind(&chart::render(&[""; 0]), "NetworkPolicy").len(), 0);
    let few = chart::render(&[
        "--set-json",
        r#"networkPolicy={"enabled":true,"egress":{"targetPorts":[443,{"port":1,"endPort":9,"protocol":"UDP"}]}}"#,
    ]);
    let targets = &chart::one(&few, "NetworkPolicy", chart::RELEASE)["spec"]["egress"][0];
    assert_eq!(targets["to"][0], json!({ "namespaceSelector": {} }));
    assert_eq!(
        targets["ports"],
        json!([{ "port": 443, "protocol": "TCP" }, { "port": 1, "endPort": 9, "protocol": "UDP" }])
    );
}

/// To whom a policy lets targets be asked, and the ports of all other rules.
fn egress(manifests: &[Value]) -> (Vec<Value>, Vec<Vec<u64>>) {
    let rules = chart::one(manifests, "NetworkPolicy", chart::RELEASE)["spec"]["egress"].as_array().unwrap().clone();
    let (others, targets): (Vec<&Value>, Vec<&Value>) = rules.iter().partition(|rule| rule.get("ports").is_some());
    let peers = targets.into_iter().flat_map(|rule| rule["to"].as_array().cloned().unwrap_or_else(|| vec![json!({})]));
    (peers.collect(), others.into_iter().map(ports).collect())
}

#[test]
fn the_network_policy_fits_the_profile_of_targets() {
    let (any, others) = egress(&chart::render(&["--set", "networkPolicy.enabled=true"]));
    assert_eq!(others, [vec![53, 53], vec![443, 6443], vec![9850]], "names, API server, ourselves");
    assert_eq!(any[0], json!({ "namespaceSelector": {} }), "to some plugins, addresses are no pods");
    let denied =
        |peer: &Value| peer["ipBlock"]["except"].as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>();
    assert_eq!(
        (&any[1]["ipBlock"]["cidr"], &any[2]["ipBlock"]["cidr"], any.len()),
        (&"0.0.0.0/0".into(), &"::/0".into(), 3)
    );
    for range in ["169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"] {
        assert!(denied(&any[1]).contains(&format!("{range:?}")), "{range}: {any:#?}");
    }
    for range in ["fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128"] {
        assert!(denied(&any[2]).contains(&format!("{range:?}")), "{range}: {any:#?}");
    }
    let (any, _) = egress(&case("any"));
    assert!(denied(&any[1]).contains(&"\"10.0.0.0/8\"".to_owned()), "what the operator denies: {any:#?}");
    assert_eq!(any.len(), 2, "one family is denied as a whole");
    let (any, _) = egress(&chart::render(&["--set", "networkPolicy.enabled=true,targetDenyCidr={0::/0}"]));
    assert_eq!((any.len(), &any[1]["ipBlock"]["cidr"]), (2, &"0.0.0.0/0".into()), "also if it is written differently");
    let (any, _) = egress(&chart::render(&["--set", "networkPolicy.enabled=true,targetDenyCidr={::ffff:0:0/96}"]));
    assert!(
        any.len() == 3 && !denied(&any[2]).iter().any(|range| range.contains("ffff")),
        "no packet has it: {any:#?}"
    );

    let own = |set: &str| {
        egress(&chart::render(&[
            "--set",
            &format!("networkPolicy.enabled=true,targetAccess.profile=OwnNamespace,{set}"),
        ]))
        .0
    };
    assert_eq!(own("replicas=1"), [json!({ "namespaceSelector": {} })]);
    let watched = json!({ "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"] }] });
    assert_eq!(own("watchNamespaces={a,b}"), [json!({ "namespaceSelector": watched })]);
    let range = json!({ "ipBlock": { "cidr": "192.0.2.0/24" } });
    assert_eq!(own("targetAccess.cidrs={192.0.2.0/24}"), [json!({ "namespaceSelector": {} }), range.clone()]);
    assert_eq!(own("watchNamespaces={a},targetAccess.hosts={x.b.svc}"), [json!({ "namespaceSelector": {} })]);

    let listed = |set: &str| {
        egress(&chart::render(&["--set", &format!("networkPolicy.enabled=true,targetAccess.profile=Listed,{set}")])).0
    };
    assert_eq!(listed("targetAccess.cidrs={192.0.2.0/24}"), [range]);
    let whole = &listed("targetAccess.cidrs={0::/0},targetDenyCidr={fd12::/16}")[0];
    assert!(["fe80::/10", "fd12::/16"].iter().all(|range| denied(whole).contains(&format!("{range:?}"))), "{whole:#?}");
    assert_eq!(listed("targetAccess.hosts={*.webrtc.svc}"), [json!({ "namespaceSelector": {} })]);
    let told = "targetAccess.hosts={sora.example.com},networkPolicy.egress.targets[0].to[0].ipBlock.cidr=192.0.2.7/32";
    assert_eq!(listed(told), [json!({ "ipBlock": { "cidr": "192.0.2.7/32" } })]);
    let (all, _) =
        egress(&chart::render(&["--set-json", r#"networkPolicy={"enabled":true,"egress":{"targets":[{}]}}"#]));
    assert_eq!(all, [json!({})], "everywhere");
}

#[test]
fn the_policy_of_cilium_knows_names_and_lets_through_what_the_other_does() {
    let manifests = case("cilium");
    assert_eq!(chart::of_kind(&manifests, "NetworkPolicy").len(), 0, "one of them is enough");
    let policy = chart::one(&manifests, "CiliumNetworkPolicy", chart::RELEASE);
    for (name, pod) in chart::pods(&manifests) {
        assert!(has(&pod["metadata"]["labels"], &policy["spec"]["endpointSelector"]["matchLabels"]), "{name}");
    }
    let namespace = "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name";
    let ingress = policy["spec"]["ingress"].as_array().unwrap();
    let prometheus = json!({ namespace: "monitoring", "app.kubernetes.io/name": "prometheus" });
    assert_eq!(ingress[0]["fromEndpoints"][0]["matchLabels"], prometheus);
    assert_eq!(ingress[1]["fromCIDRSet"], json!([{ "cidr": "198.51.100.0/24" }]));
    for rule in &ingress[..2] {
        assert_eq!(rule["toPorts"], json!([{ "ports": [{ "port": "9850", "protocol": "TCP" }] }]));
    }
    assert_eq!(ingress[2], json!({ "fromEntities": ["remote-node"] }), "as it is written");
    let egress = policy["spec"]["egress"].as_array().unwrap();
    let ports = json!([{ "ports": [{ "port": "443", "protocol": "TCP" }, { "port": "3000", "endPort": 3005, "protocol": "TCP" }] }]);
    let pods = json!([{ "matchExpressions": [{ "key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists" }] }]);
    let names = json!([{ "matchName": "sora.example.com" }, { "matchPattern": "*.example.org" }, { "matchPattern": "**.example.org" }]);
    assert_eq!(egress[0], json!({ "toEndpoints": pods, "toPorts": ports }), "the Services among the hosts");
    assert_eq!(egress[1], json!({ "toCIDRSet": [{ "cidr": "192.0.2.0/24" }], "toPorts": ports }));
    assert_eq!(egress[2], json!({ "toFQDNs": names, "toPorts": ports }));
    assert_eq!(egress[3]["toPorts"][0]["rules"], json!({ "dns": [{ "matchPattern": "*" }] }), "else no name is known");
    assert_eq!((&egress[4]["toEntities"], egress.len()), (&json!(["kube-apiserver"]), 6));
    // Each rule has one way to say where, or Cilium refuses it.
    for rule in ingress.iter().chain(egress) {
        let ways = rule.as_object().unwrap().keys().filter(|key| *key != "toPorts").count();
        assert_eq!(ways, 1, "{rule}");
    }
    let cilium = |set: &str| {
        let set = format!("networkPolicy.enabled=true,networkPolicy.flavor=cilium,{set}");
        let manifests = chart::render(&["--set", &set]);
        chart::one(&manifests, "CiliumNetworkPolicy", chart::RELEASE)["spec"]["egress"].as_array().unwrap().clone()
    };
    let any = cilium("targetDenyCidr={10.0.0.0/8}");
    assert!(any[1]["toCIDRSet"][0]["except"].as_array().unwrap().contains(&"10.0.0.0/8".into()), "{any:#?}");
    assert_eq!(any[2], json!({ "toEntities": ["cluster"] }), "nodes are no addresses to Cilium");
    let own = cilium("targetAccess.profile=OwnNamespace,watchNamespaces={a,b}");
    assert_eq!(
        own[0],
        json!({ "toEndpoints": [{ "matchExpressions": [{ "key": namespace, "operator": "In", "values": ["a", "b"] }] }] })
    );
    let told = cilium("targetAccess.profile=Listed,targetAccess.hosts={\\{namespace\\}.Example.com}");
    assert_eq!(told[0], json!({ "toFQDNs": [{ "matchPattern": "*.example.com" }] }));
    let whole = cilium("networkPolicy.egress.targets[0].toEntities={world}");
    assert_eq!(whole[0], json!({ "toEntities": ["world"] }));
}

#[test]
fn more_ports_than_cilium_takes_in_one_list_are_in_several() {
    let ports: Vec<u32> = (3000..3081).collect();
    let places = ["targetPorts", "dnsPorts", "apiServerPorts"];
    let set: Vec<String> =
        places.iter().map(|place| format!("networkPolicy.egress.{place}={}", json!(ports))).collect();
    let flavor = ["--set", "networkPolicy.enabled=true,networkPolicy.flavor=cilium"];
    let manifests =
        chart::render(&[&flavor[..], &["--set-json", &set[0], "--set-json", &set[1], "--set-json", &set[2]]].concat());
    let policy = chart::one(&manifests, "CiliumNetworkPolicy", chart::RELEASE);
    let rules = policy["spec"]["egress"].as_array().unwrap();
    let many: Vec<&Vec<Value>> =
        rules.iter().map(|rule| rule["toPorts"].as_array().unwrap()).filter(|entries| entries.len() > 1).collect();
    assert!(many.len() >= 3, "{rules:#?}");
    for entries in many {
        let lists: Vec<&Vec<Value>> = entries.iter().map(|entry| entry["ports"].as_array().unwrap()).collect();
        assert!(lists.iter().all(|list| list.len() <= 40), "{entries:#?}");
        let found: Vec<&str> = lists.into_iter().flatten().map(|port| port["port"].as_str().unwrap()).collect();
        assert_eq!(found, ports.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    let dns = rules.iter().filter(|rule| !rule["toPorts"][0]["rules"].is_null()).collect::<Vec<_>>();
    assert_eq!(dns.len(), 1);
    for entry in dns[0]["toPorts"].as_array().unwrap() {
        assert_eq!(entry["rules"], json!({ "dns": [{ "matchPattern": "*" }] }), "names are learnt on every port");
    }
}

#[test]
fn both_services_have_the_fields_that_they_are_given_and_no_others() {
    let manifests = case("everything");
    let spec = |name: &str| chart::one(&manifests, "Service", name)["spec"].clone();
    let (all, leader) = (spec("media-exporter"), spec("media-exporter-probe"));
    for (field, wanted) in [
        ("type", json!(["LoadBalancer", "LoadBalancer"])),
        ("loadBalancerIP", json!(["192.0.2.10", "192.0.2.12"])),
        ("loadBalancerClass", json!(["example.com/internal", "example.com/internal"])),
        ("loadBalancerSourceRanges", json!([["192.0.2.0/24"], ["192.0.2.0/24"]])),
        ("externalIPs", json!([["192.0.2.11"], ["192.0.2.13"]])),
        ("externalTrafficPolicy", json!(["Local", null])),
        ("internalTrafficPolicy", json!(["Local", null])),
        ("sessionAffinity", json!(["ClientIP", null])),
        ("ipFamilies", json!([["IPv4"], null])),
        ("ipFamilyPolicy", json!(["PreferDualStack", null])),
    ] {
        assert_eq!(json!([all[field], leader[field]]), wanted, "{field}");
    }
    assert_eq!((&all["ports"][0]["nodePort"], &leader["ports"][0]["nodePort"]), (&json!(30080), &json!(30081)));
    let annotations = &chart::one(&manifests, "Service", "media-exporter-probe")["metadata"]["annotations"];
    assert_eq!(annotations["example.com/owner"], "prometheus");
    let plain = chart::render(&[""; 0]);
    for service in chart::of_kind(&plain, "Service") {
        let fields: BTreeSet<&str> = service["spec"].as_object().unwrap().keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = ["type", "ports", "selector"].into();
        assert!(fields.is_subset(&known), "{fields:?}");
    }
}

#[test]
fn a_rule_of_a_route_leads_to_the_exporter_unless_it_leads_elsewhere() {
    let manifests = case("everything");
    let route = chart::one(&manifests, "HTTPRoute", "media-exporter");
    let service = chart::one(&manifests, "Service", "media-exporter");
    let rules = route["spec"]["rules"].as_array().unwrap();
    assert_eq!(
        rules[0]["backendRefs"],
        json!([{ "name": "media-exporter", "port": service["spec"]["ports"][0]["port"] }])
    );
    assert_eq!((rules[1].get("backendRefs"), rules.len()), (None, 2), "it redirects");
    let set = r#"httpRoute={"enabled":true,"parentRefs":[{"name":"a"}],"rules":[{"backendRefs":[{"name":"proxy","port":80}]}]}"#;
    let manifests = chart::render(&["--set-json", set]);
    let spec = &chart::one(&manifests, "HTTPRoute", chart::RELEASE)["spec"];
    assert_eq!(spec["rules"], json!([{ "backendRefs": [{ "name": "proxy", "port": 80 }] }]));
    assert_eq!(spec.get("hostnames"), None);
}

#[test]
fn a_monitor_with_credentials_keeps_to_the_service_by_its_name() {
    for (case, file) in chart::cases() {
        for monitor in chart::of_kind(&chart::render_case(&file), "ServiceMonitor") {
            let name = &monitor["metadata"]["name"];
            for endpoint in monitor["spec"]["endpoints"].as_array().unwrap() {
                let keep =
                    json!({ "action": "keep", "sourceLabels": ["__meta_kubernetes_service_name"], "regex": name });
                assert_eq!(endpoint["relabelings"][0], keep, "{case}: before anybody else's");
            }
        }
    }
    let everything = case("everything");
    let monitor = chart::one(&everything, "ServiceMonitor", "media-exporter");
    assert_eq!(
        monitor["spec"]["endpoints"][0]["relabelings"][1],
        json!({ "targetLabel": "cluster", "replacement": "tokyo" })
    );
}

#[test]
fn a_narrow_network_policy_lets_the_test_in_and_no_other_pod_of_the_release() {
    let let_in = |arguments: &[&str]| {
        let manifests = chart::render(arguments);
        let from = chart::one(&manifests, "NetworkPolicy", chart::RELEASE)["spec"]["ingress"][0]["from"].clone();
        let peers = from.as_array().unwrap_or_else(|| panic!("{from}"));
        let selectors = peers.iter().filter_map(|peer| peer.get("podSelector"));
        let selectors: Vec<&Value> = selectors.map(|selector| &selector["matchLabels"]).collect();
        let pods = chart::pods(&manifests).into_iter();
        let selected = pods.filter(|(_, pod)| selectors.iter().any(|labels| has(&pod["metadata"]["labels"], labels)));
        (peers.len(), selected.map(|(name, _)| name).collect::<Vec<_>>())
    };
    let (_, file) = chart::cases().into_iter().find(|(name, _)| name == "network-policy").unwrap();
    let test = format!("{}-test-ready", chart::RELEASE);
    assert_eq!(let_in(&["-f", &file]), (2, vec![test.clone()]));
    assert_eq!(let_in(&["-f", &file, "--set", "commonLabels.team=media"]), (2, vec![test]));
    let no_test = "webConfig.enabled=true,webConfig.existingSecret=a";
    assert_eq!(let_in(&["-f", &file, "--set", no_test]), (1, vec![]));
}

fn ports(rule: &Value) -> Vec<u64> {
    rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect()
}

#[test]
fn labels_for_all_are_on_everything_and_replace_no_label_that_selects() {
    let set = "commonLabels.team=media,commonLabels.app\\.kubernetes\\.io/name=other";
    let manifests = chart::render(&[
        "--set",
        set,
        "--set",
        "networkPolicy.enabled=true,ingress.enabled=true,ingress.hosts[0].host=a",
    ]);
    for manifest in &manifests {
        let labels = &manifest["metadata"]["labels"];
        assert!(
            has(labels, &json!({ "team": "media", "app.kubernetes.io/name": "scrapetarget-exporter" })),
            "{manifest}"
        );
    }
    for (name, pod) in chart::pods(&manifests) {
        assert_eq!(pod["metadata"]["labels"]["team"], "media", "{name}");
    }
}

#[test]
fn every_object_says_its_namespace() {
    let cluster_wide = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];
    for (case, file) in chart::cases().into_iter().filter(|(name, _)| name != "everything") {
        for manifest in chart::render_case(&file) {
            let kind = manifest["kind"].as_str().unwrap();
            let says = manifest["metadata"].get("namespace").is_some();
            assert_eq!(says, !cluster_wide.contains(&kind), "{case}: {kind} {}", manifest["metadata"]["name"]);
        }
    }
}

fn annotations(manifest: &Value) -> Map<String, Value> {
    manifest["metadata"]["annotations"].as_object().cloned().unwrap_or_default()
}

#[test]
fn targets_come_after_the_first_installation_and_belong_to_every_later_one() {
    let (_, file) = chart::cases().into_iter().find(|(name, _)| name == "targets").unwrap();
    let first = chart::render(&["-f", &file]);
    let targets = chart::of_kind(&first, "ScrapeTarget");
    assert_eq!(targets.len(), 2);
    for target in targets {
        let annotations = annotations(target);
        assert_eq!(annotations["helm.sh/hook"], "post-install,post-upgrade");
        // Without these, the next upgrade would refuse what it finds.
        assert_eq!(annotations["meta.helm.sh/release-name"], "scrapetarget-exporter");
        assert_eq!(annotations["meta.helm.sh/release-namespace"], "prometheus");
        assert_eq!(target["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm");
        assert!(!annotations.contains_key("helm.sh/hook-delete-policy"));
    }
    let later = chart::render_case(&file);
    for target in chart::of_kind(&later, "ScrapeTarget") {
        assert!(annotations(target).keys().all(|key| !key.contains("helm.sh")), "{target}");
    }
    assert_eq!(chart::one(&later, "ScrapeTarget", "orion-city")["metadata"]["namespace"], "team-a");
}

#[test]
fn what_the_release_wrote_is_removed_before_it_goes() {
    let manifests = chart::render(&[""; 0]);
    let job = chart::one(&manifests, "Job", "scrapetarget-exporter-cleanup");
    assert_eq!(annotations(job)["helm.sh/hook"], "pre-delete");
    let account = &chart::one(&manifests, "ServiceAccount", chart::RELEASE)["metadata"]["name"];
    assert_eq!(&job["spec"]["template"]["spec"]["serviceAccountName"], account);
    assert!(job["spec"]["activeDeadlineSeconds"].as_u64().unwrap() < 300, "Helm waits for five minutes");
    assert_eq!(chart::of_kind(&chart::render(&["--set", "cleanup.enabled=false"]), "Job").len(), 0);
}

#[test]
fn the_lease_goes_with_the_release_and_says_nothing_that_is_the_exporters() {
    let manifests = chart::render(&["--set", "leaderElection.leaseName=other"]);
    let lease = chart::one(&manifests, "Lease", "other");
    assert_eq!(lease.get("spec"), None);
    assert_eq!(chart::of_kind(&chart::render(&["--set", "leaderElection.createLease=false"]), "Lease").len(), 0);
}

#[test]
fn the_job_after_an_upgrade_has_an_account_of_its_own_that_goes_with_it() {
    let manifests = case("gitops");
    let name = "scrapetarget-exporter-cleanup-monitors";
    let job = chart::one(&manifests, "Job", name);
    assert_eq!(job["spec"]["template"]["spec"]["serviceAccountName"], name);
    for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"] {
        let annotations = annotations(chart::one(&manifests, kind, name));
        assert_eq!(annotations["helm.sh/hook"], "post-upgrade,post-rollback");
        // When the Job fails, Helm looks whether these have succeeded, and Argo CD whether the whole has failed.
        assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded,hook-failed");
        assert_eq!(annotations["helm.sh/hook-weight"], "-5", "before the Job");
    }
    // It is the only one with a log.
    assert_eq!(annotations(job)["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
}

#[test]
fn the_web_configuration_reaches_the_exporter() {
    let manifests = case("web-config");
    let secret = chart::one(&manifests, "Secret", "scrapetarget-exporter-web-config");
    let config = &chart::parse(secret["stringData"]["web-config.yml"].as_str().unwrap())[0];
    assert_eq!(config["tls_server_config"], json!({ "cert_file": "tls.crt", "key_file": "tls.key" }));
    assert!(config["basic_auth_users"]["prometheus"].as_str().unwrap().starts_with("$2y$10$"));
    let mounted = |manifests: &[Value]| {
        let pod = chart::of_kind(manifests, "Deployment")[0]["spec"]["template"]["spec"].clone();
        let argument =
            chart::arguments(&pod["containers"][0]).into_iter().find(|text| text.contains("web.config.file"));
        let sources = pod["volumes"][0]["projected"]["sources"].as_array().unwrap().iter();
        let names = sources.map(|source| source["secret"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(pod["containers"][0]["volumeMounts"][0]["mountPath"], "/etc/scrapetarget-exporter");
        (argument.unwrap(), names)
    };
    let (argument, secrets) = mounted(&manifests);
    assert_eq!(argument, "--web.config.file=/etc/scrapetarget-exporter/web-config.yml");
    assert_eq!(secrets, ["scrapetarget-exporter-web-config", "exporter-tls"]);
    let (argument, secrets) = mounted(&case("web-config-secret"));
    assert_eq!(argument, "--web.config.file=/etc/scrapetarget-exporter/config.yml");
    assert_eq!(secrets, ["exporter-web-config"]);
}

/// The keys below which there is something other than a text.
fn keys_of_other_types(value: &Value, key: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| keys_of_other_types(value, key, found)),
        Value::Array(items) => items.iter().for_each(|item| keys_of_other_types(item, key, found)),
        Value::String(_) => {}
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            found.insert(key.to_owned());
        }
    }
}

#[test]
fn names_that_yaml_would_read_as_something_else_stay_texts() {
    const NO_TEXTS: [&str; 22] = [
        "activeDeadlineSeconds",
        "allowPrivilegeEscalation",
        "automountServiceAccountToken",
        "backoffLimit",
        "containerPort",
        "enableServiceLinks",
        "failureThreshold",
        "honorLabels",
        "maxUnavailable",
        "maxSurge",
        "periodSeconds",
        "port",
        "readOnly",
        "readOnlyRootFilesystem",
        "replicas",
        "revisionHistoryLimit",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "terminationGracePeriodSeconds",
        "timeoutSeconds",
        "ttlSecondsAfterFinished",
    ];
    let (_, file) = chart::cases().into_iter().find(|(name, _)| name == "odd-names").unwrap();
    let file = ["-f", file.as_str()];
    let mut rendered = vec![chart::render(&file)];
    for name in ["true", "null", "y", "1234", "1e3", "0x1f", "2001-01-01"] {
        // Without the other name, the release's alone would be that of all objects.
        let full = if name.starts_with(|c: char| c.is_ascii_digit()) { "off" } else { "" };
        let set = format!("nameOverride={name},leaderElection.leaseName={name},fullnameOverride={full}");
        let text = chart::template_as(name, &["--set-string", &set]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let manifests = chart::parse(&text);
        let deployment = chart::of_kind(&manifests, "Deployment")[0];
        assert_eq!(deployment["metadata"]["name"], if full.is_empty() { name } else { full });
        assert_eq!(deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], name);
        chart::one(&manifests, "Lease", name);
        rendered.push(manifests);
    }
    for manifests in &rendered {
        let mut found = BTreeSet::new();
        for manifest in manifests.iter().filter(|manifest| manifest["kind"] != "CustomResourceDefinition") {
            keys_of_other_types(manifest, "", &mut found);
        }
        let wrong: Vec<&String> = found.iter().filter(|key| !NO_TEXTS.contains(&key.as_str())).collect();
        assert_eq!(wrong, [""; 0], "{manifests:#?}");
    }
    let odd = &rendered[0];
    assert_eq!(chart::one(odd, "ScrapeConfig", "null")["spec"]["relabelings"][0]["replacement"], "a: b # c");
    assert_eq!(chart::one(odd, "ServiceMonitor", "null")["spec"]["jobLabel"], "y");
    let path = &chart::one(odd, "Ingress", "null")["spec"]["rules"][0]["http"]["paths"][0]["path"];
    assert_eq!(path, "/a: #b");
    assert_eq!(chart::one(odd, "Job", "null-cleanup")["spec"]["ttlSecondsAfterFinished"], 1_000_000);
}

#[test]
fn a_name_that_no_service_can_have_is_refused_at_once() {
    let refused = chart::template_as("1234", &[""; 0]).unwrap_err();
    assert!(refused.contains("1234-scrapetarget-exporter cannot be the name of a Service"), "{refused}");
    let refused = chart::template(&["--set-string", "fullnameOverride=1234"]).unwrap_err();
    assert!(refused.contains("at '/fullnameOverride'"), "{refused}");
}

#[test]
fn the_name_of_a_release_becomes_one_that_a_service_can_have() {
    for (release, name) in [
        ("media.tokyo", "media-tokyo-scrapetarget-exporter"),
        ("scrapetarget-exporter.tokyo", "scrapetarget-exporter-tokyo"),
        ("a-release-whose-name-is-cut-in-the-middle-of--a.dot", "a-release-whose-name-is-cut-in-the-middle-of"),
        ("a-release-whose-name-is-cut-at-a-dot-12345678.a.b", "a-release-whose-name-is-cut-at-a-dot-12345678"),
    ] {
        let text = chart::template_as(release, &[""; 0]).unwrap_or_else(|error| panic!("{release}: {error}"));
        let manifests = chart::parse(&text);
        let deployment = chart::of_kind(&manifests, "Deployment")[0];
        assert_eq!(deployment["metadata"]["name"], name);
        assert_eq!(deployment["metadata"]["labels"]["app.kubernetes.io/instance"], release);
        chart::one(&manifests, "Service", &format!("{name}-probe"));
    }
}

#[test]
fn a_long_name_leaves_room_for_every_ending() {
    let long = "a-release-whose-name-is-as-long-as-helm-lets-it-be-53";
    let set = "cleanup.afterUpgrade=always,discovery.mode=httpSD,webConfig.enabled=true,webConfig.tlsSecret=a";
    let folder = chart::folder();
    let arguments = ["template", long, folder.to_str().unwrap(), "--kube-version=1.36", "--set", set];
    let said = chart::helm(arguments);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for manifest in chart::parse(&said.stdout) {
        let name = manifest["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 63, "{name}");
    }
}
