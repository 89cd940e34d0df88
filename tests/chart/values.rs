//! Which values the chart takes, and how it refuses others.

use std::collections::{BTreeMap, BTreeSet};

use scrapetarget_exporter::cli::Cli;
use serde_json::{Value, json};

use crate::support::chart;

#[test]
fn the_linter_finds_nothing_in_any_case() {
    let folder = chart::folder();
    for (name, file) in chart::cases() {
        let said = chart::helm(["lint", "--strict", folder.to_str().unwrap(), "-f", &file]);
        assert_eq!(said.code, Some(0), "{name}: {}{}", said.stdout, said.stderr);
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_what_it_may_be() {
    let refused: [(&str, &[&str]); 66] = [
        ("replica=2", &["additional properties 'replica' not allowed"]),
        ("discovery.mod=none", &["at '/discovery'", "additional properties 'mod' not allowed"]),
        // What other exporters' charts have, and what it is here.
        ("discovery.labels.release=a", &["'monitorLabels instead'", "additional properties 'labels' not allowed"]),
        (
            "serviceMonitor.enabled=true",
            &["'discovery.mode or serviceMonitor.selfMonitor.enabled instead'", "'enabled' not allowed"],
        ),
        (
            "serviceMonitor.defaults.interval=15s",
            &["'discovery or serviceMonitor.selfMonitor instead'", "'defaults' not allowed"],
        ),
        ("allowIcmp=true", &["'probers, with Icmp among them, instead'", "'allowIcmp' not allowed"]),
        ("commonAnnotations.a=b", &["'deploymentAnnotations, podAnnotations and the annotations of other objects"]),
        (
            "prometheusRule.additionalAnnotations.a=b",
            &["'prometheusRule.annotations for the object, or prometheusRule.additionalRuleAnnotations for its alerts"],
        ),
        ("replicas=two", &["at '/replicas'", "got string, want integer"]),
        ("replicas=-1", &["at '/replicas'", "minimum"]),
        ("discovery.mode=probe", &["at '/discovery/mode'", "'serviceMonitor', 'httpSD', 'none'"]),
        ("discovery.monitorNamespace=team", &["'target', 'release'"]),
        ("discovery.monitorLabels.tier=1", &["at '/discovery/monitorLabels/tier'", "want string"]),
        ("watchNamespaces=team", &["at '/watchNamespaces'", "got string, want array"]),
        ("watchNamespaces={Team}", &["at '/watchNamespaces/0'", "'Team' does not match pattern"]),
        ("targetDenyCidr={10.0.0.0}", &["at '/targetDenyCidr/0'"]),
        ("secretLabel=a b", &["at '/secretLabel'"]),
        ("log.level=verbose", &["'error', 'warn', 'info', 'debug', 'trace'"]),
        ("limits.maxBodyBytes=16MB", &["at '/limits/maxBodyBytes'"]),
        ("shutdownDelay=10", &["at '/shutdownDelay'"]),
        ("shutdownDelay=30m1h", &["at '/shutdownDelay'"]),
        ("image.digest=latest", &["at '/image/digest'"]),
        ("image.pullPolicy=Sometimes", &["'Always', 'IfNotPresent', 'Never'"]),
        ("rbac.secrets=all", &["'cluster', 'namespaces', 'none'"]),
        ("service.port=0", &["at '/service/port'"]),
        ("openshift.enabled=perhaps", &["true, false, 'auto'"]),
        ("fullnameOverride=a-name-that-is-longer-than-forty-six-characters", &["at '/fullnameOverride'"]),
        ("targets[0].name=a", &["at '/targets/0'", "missing property 'spec'"]),
        ("webConfig.enabled=true", &["webConfig.existingSecret, webConfig.config and webConfig.tlsSecret"]),
        (
            "webConfig.enabled=true,webConfig.existingSecret=a,webConfig.config.x=y",
            &["webConfig.existingSecret and webConfig.config are mutually exclusive"],
        ),
        ("discovery.basicAuth.username.name=a", &["needs discovery.monitorNamespace: release"]),
        ("discovery.tls.ca.secret.name=a", &["needs discovery.monitorNamespace: release", "discovery.scrapeClass"]),
        (
            "shutdownDelay=30s",
            &["terminationGracePeriodSeconds is 30: it must be more than shutdownDelay, which is 30s"],
        ),
        ("discovery.tls.serverName=a", &["discovery.tls needs https: set discovery.scheme: https"]),
        (
            "webConfig.enabled=true,webConfig.tlsSecret=a,discovery.scheme=http,discovery.tls.serverName=a",
            &["discovery.tls needs https"],
        ),
        (
            "leaderElection.leaseDuration=1s",
            &["leaderElection.leaseDuration is 1s: it must be whole seconds from 5s to 5m"],
        ),
        ("targetSelector=a b", &["targetSelector is not a label selector in the syntax of kubectl -l", "a b"]),
        ("targetDenyCidr={10.0.0.300/8}", &["at '/targetDenyCidr/0'", "10.0.0.300/8"]),
        ("limits.maxBodyBytes=0", &["at '/limits/maxBodyBytes'"]),
        ("limits.maxConnections=4294967296", &["at '/limits/maxConnections'", "maximum"]),
        ("discovery.monitorLabels.a=b c", &["at '/discovery/monitorLabels/a'", "'b c' does not match pattern"]),
        ("podAnnotations.a b=c", &["at '/podAnnotations'", "additional properties 'a b' not allowed"]),
        ("serviceMonitor.selfMonitor.interval=5s1h", &["at '/serviceMonitor/selfMonitor/interval'"]),
        ("webConfig.config.tls_server_config=null", &["at '/webConfig/config/tls_server_config'", "want object"]),
        ("ingress.enabled=true", &["ingress.enabled needs ingress.hosts"]),
        (
            "targets[0].name=a,targets[0].spec.type=Sora,targets[0].spec.url=http://x/,\
             targets[1].name=a,targets[1].spec.type=Sora,targets[1].spec.url=http://y/,targets[1].namespace=prometheus",
            &["targets has prometheus/a twice"],
        ),
        ("rbac.members=all", &["at '/rbac/members'", "'cluster', 'namespaces', 'none'"]),
        ("rbac.memberNamespaces={a}", &["rbac.memberNamespaces needs rbac.members: namespaces"]),
        ("rbac.memberNamespaces={A}", &["at '/rbac/memberNamespaces/0'"]),
        ("rbac.members=namespaces", &["rbac.members: namespaces needs watchNamespaces"]),
        (
            "watchNamespaces={a},rbac.members=namespaces,rbac.memberNamespaces={b}",
            &["rbac.memberNamespaces has b, where no targets are watched"],
        ),
        ("rbac.secretNamespaces={a}", &["rbac.secretNamespaces needs rbac.secrets: namespaces"]),
        ("targetAccess.profile=any", &["at '/targetAccess/profile'", "'Any', 'OwnNamespace', 'Listed'"]),
        ("targetAccess.hosts={a}", &["need targetAccess.profile: Listed or OwnNamespace"]),
        ("targetAccess.cidrs={10.0.0.0/8}", &["need targetAccess.profile: Listed or OwnNamespace"]),
        ("targetAccess.profile=Listed", &["needs targetAccess.hosts or targetAccess.cidrs"]),
        ("targetAccess.profile=Listed,targetAccess.hosts={http://a/}", &["at '/targetAccess/hosts/0'"]),
        ("targetAccess.profile=Listed,targetAccess.hosts={a.*}", &["at '/targetAccess/hosts/0'"]),
        ("targetAccess.profile=Listed,targetAccess.hosts={10.0.0.1}", &["at '/targetAccess/hosts/0'"]),
        ("targetAccess.profile=Listed,targetAccess.hosts={*.\\{namespace\\}}", &["at '/targetAccess/hosts/0'"]),
        ("targetAccess.profile=Listed,targetAccess.cidrs={10.0.0.0}", &["at '/targetAccess/cidrs/0'"]),
        (
            "networkPolicy.enabled=true,targetAccess.profile=Listed,targetAccess.hosts={sora.example.com}",
            &["networkPolicy.egress.targets must contain the addresses of sora.example.com"],
        ),
        ("clusterDomain=.local", &["at '/clusterDomain'"]),
        ("web.allowedHosts={https://a}", &["at '/web/allowedHosts/0'"]),
        ("limits.maxSampleLimit=0", &["at '/limits/maxSampleLimit'", "minimum"]),
        ("expectedTargets=0", &["at '/expectedTargets'", "minimum"]),
    ];
    assert_refused(&refused);
}

#[test]
fn a_setting_of_all_service_monitors_that_the_operator_or_prometheus_would_refuse_is_refused() {
    assert_refused(&[
        ("discovery.honorLabels=true", &["at '/discovery/honorLabels'", "'declared', 'byDefault', 'never'"]),
        ("discovery.labelLimit=5", &["at '/discovery/labelLimit'", "minimum"]),
        ("discovery.bodySizeLimit=16EB", &["at '/discovery/bodySizeLimit'", "'16EB' does not match pattern"]),
        ("discovery.proxyUrl=http://me:secret@proxy", &["at '/discovery/proxyUrl'"]),
        (
            "discovery.relabelings[0].action=keep,discovery.relabelings[0].regex=a(",
            &["discovery.relabelings[0].regex is not a regular expression that Prometheus can read: a("],
        ),
        (
            "scrapeConfig.metricRelabelings[0].regex=a,scrapeConfig.metricRelabelings[1].regex=(",
            &["scrapeConfig.metricRelabelings[1].regex is not a regular expression"],
        ),
        (
            "serviceMonitor.selfMonitor.relabelings[0].regex=*",
            &["serviceMonitor.selfMonitor.relabelings[0].regex is not a regular expression"],
        ),
        (
            "discovery.metricRelabelings[0].targetLabel=a,discovery.metricRelabelings[0].replacement=$(HOME)",
            &["discovery.metricRelabelings[0] holds \"$(\"", "environment variable"],
        ),
        (
            "discovery.metricRelabelings[0].action=labeldrop,discovery.metricRelabelings[0].regex=pod|container",
            &["discovery.metricRelabelings[0].regex matches the label pod, by which series are told apart"],
        ),
        (
            "discovery.relabelings[0].action=LabelDrop,discovery.relabelings[0].regex=names.*",
            &["discovery.relabelings[0].regex matches the label namespace"],
        ),
    ]);
}

/// Each setting is refused, with all of its words.
fn assert_refused(refused: &[(&str, &[&str])]) {
    for (set, words) in refused {
        let said = chart::template(&["--set", set]).expect_err(set);
        for word in *words {
            assert!(said.contains(word), "{set}: {said}");
        }
    }
}

#[test]
fn values_that_do_not_go_together_are_refused_with_what_they_need() {
    let refused: [(&str, &[&str]); 34] = [
        ("service.nodePort=30000", &["service.nodePort needs service.type: NodePort or LoadBalancer"]),
        ("service.nodePort=70000", &["at '/service/nodePort'", "maximum"]),
        (
            "service.probe.nodePort=30000",
            &["service.probe.nodePort needs service.probe.type: NodePort or LoadBalancer"],
        ),
        (
            "service.type=NodePort,service.loadBalancerIP=192.0.2.1",
            &["service.loadBalancerIP needs service.type: LoadBalancer"],
        ),
        (
            "service.loadBalancerSourceRanges={192.0.2.1/24}",
            &["service.loadBalancerSourceRanges needs service.type: LoadBalancer"],
        ),
        (
            "service.probe.loadBalancerClass=a",
            &["service.probe.loadBalancerClass needs service.probe.type: LoadBalancer"],
        ),
        ("service.loadBalancerSourceRanges={192.0.2.1}", &["at '/service/loadBalancerSourceRanges/0'"]),
        (
            "service.externalIPs={192.0.2.0/24}",
            &["service.externalIPs[0] is \"192.0.2.0/24\", which is not an IP address"],
        ),
        ("service.type=ExternalName", &["'ClusterIP', 'NodePort', 'LoadBalancer'"]),
        ("service.externalTrafficPolicy=Local", &["service.externalTrafficPolicy needs service.type: NodePort"]),
        ("service.type=NodePort,service.clusterIP=None", &["service.clusterIP: None needs service.type: ClusterIP"]),
        (
            "service.clusterIP=None,service.port=80",
            &["service.clusterIP: None needs service.port to be containerPort, which is 9850"],
        ),
        (
            "service.probe.clusterIP=None,containerPort=8080",
            &["service.probe.clusterIP: None needs service.port to be containerPort, which is 8080"],
        ),
        (
            "service.ipDualStack.enabled=true,service.ipFamilyPolicy=SingleStack",
            &["service.ipDualStack.enabled sets both as well: remove one or the other"],
        ),
        ("service.probe.externalTrafficPolicy=Local", &["at '/service/probe'", "the only endpoint is the leader"]),
        ("service.probe.ipFamilies={IPv6}", &["at '/service/probe'", "since the leader has one address"]),
        ("httpRoute.enabled=true", &["httpRoute.enabled needs httpRoute.parentRefs"]),
        ("httpRoute.hostnames={http://a/}", &["at '/httpRoute/hostnames/0'"]),
        ("httpRoute.parentRefs[0].namespace=a", &["at '/httpRoute/parentRefs/0'", "missing property 'name'"]),
        ("networkPolicy.flavor=calico", &["at '/networkPolicy/flavor'", "'kubernetes', 'cilium'"]),
        (
            "verticalPodAutoscaler.minAllowed.memory=1Gi,verticalPodAutoscaler.containerPolicies[0].containerName=exporter",
            &[
                "verticalPodAutoscaler.containerPolicies has the container exporter, and so has verticalPodAutoscaler.minAllowed",
            ],
        ),
        (
            "verticalPodAutoscaler.updateMode=Off",
            &[
                "'verticalPodAutoscaler.updatePolicy.updateMode (if you have not set it, upgrade with --reset-then-reuse-values",
            ],
        ),
        (
            "rbac.existingClusterRoles.targets=a,rbac.extraRules[0].verbs={get}",
            &["rbac.extraRules would be added to the role that rbac.existingClusterRoles.targets replaces"],
        ),
        (
            "lifecycle.preStop.sleep.seconds=25",
            &[
                "terminationGracePeriodSeconds is 30: it must be more than lifecycle.preStop.sleep and shutdownDelay together, which are 35s",
            ],
        ),
        ("lifecycle.beforeStop.a=b", &["at '/lifecycle'", "additional properties 'beforeStop' not allowed"]),
        ("lifecycle.stopSignal=SIGINT", &["at '/lifecycle'", "it needs spec.os.name of the pod"]),
        ("lifecycle.preStop.tcpSocket.port=1", &["at '/lifecycle/preStop'", "'sleep, httpGet or exec, since"]),
        (
            "service.type=NodePort,service.probe.type=NodePort,service.nodePort=30000,service.probe.nodePort=30000",
            &["service.nodePort and service.probe.nodePort are both 30000", "write another number for one of them"],
        ),
        (
            "service.ipFamilies={IPv4,IPv6},service.ipFamilyPolicy=SingleStack",
            &["service.ipFamilies has two families, and service.ipFamilyPolicy is SingleStack: leave one family"],
        ),
        (
            "service.ipDualStack.enabled=true,service.ipDualStack.ipFamilyPolicy=SingleStack",
            &["service.ipDualStack.ipFamilies has two families, and service.ipDualStack.ipFamilyPolicy is SingleStack"],
        ),
        (
            "rbac.create=false,rbac.existingClusterRoles.targets=a",
            &["rbac.existingClusterRoles.targets needs rbac.create: true, which binds it"],
        ),
        ("rbac.create=false,rbac.extraRules[0].verbs={get}", &["rbac.extraRules needs rbac.create: true"]),
        (
            "rbac.secrets=none,rbac.existingClusterRoles.secrets=a",
            &["rbac.existingClusterRoles.secrets is not bound with rbac.secrets: none: remove one of them"],
        ),
        (
            "rbac.members=none,rbac.existingClusterRoles.members=a",
            &["rbac.existingClusterRoles.members is not bound with rbac.members: none: remove one of them"],
        ),
    ];
    assert_refused(&refused);
}

#[test]
fn names_labels_and_annotations_that_would_break_an_object_or_have_no_effect_are_refused() {
    assert_refused(&[
        ("sidecars[0].name=exporter", &["sidecars[0].name is exporter, which is the name of the exporter itself"]),
        (
            "extraContainers[0].name=a,sidecars[0].name=a",
            &["sidecars[0].name is a, which is the name of extraContainers[0]: write another name"],
        ),
        ("dashboards.enabled=true,dashboards.labelValue=a b", &["at '/dashboards/labelValue'"]),
        (
            "dashboards.enabled=true,dashboards.label=app.kubernetes.io/name",
            &["dashboards.label is app.kubernetes.io/name, which the chart sets itself"],
        ),
        (
            "prometheusRule.enabled=true,prometheusRule.additionalRuleLabels.cluster=a",
            &["where all series are of one cluster, set prometheusRule.groupLabels: []"],
        ),
        (
            "prometheusRule.enabled=true,prometheusRule.groupLabels={Inf}",
            &["prometheusRule.groupLabels has Inf, which PromQL reads as a number"],
        ),
        (
            "prometheusRule.enabled=true,prometheusRule.additionalRuleAnnotations.summary=a",
            &["prometheusRule.additionalRuleAnnotations has summary, which each alert has: write another name"],
        ),
        (
            "prometheusRule.enabled=true,prometheusRule.additionalRuleAnnotations.runbook_url=a",
            &["has runbook_url, which each alert has: write another name, or set prometheusRule.runbookUrl"],
        ),
        (
            "prometheusRule.enabled=true,prometheusRule.additionalRuleAnnotations.a=$labels.job }}",
            &["prometheusRule.additionalRuleAnnotations.a has \"{{\" and \"}}\" that do not belong together"],
        ),
        (
            "prometheusRule.enabled=true,prometheusRule.alerts.SoraLicenseExpiresSoon.threshold=0",
            &[
                "prometheusRule.alerts.SoraLicenseExpiresSoon.threshold is 0",
                "set prometheusRule.disabled.SoraLicenseExpiresSoon",
            ],
        ),
    ]);
}

#[test]
fn a_hook_without_its_handler_is_refused_with_what_is_missing() {
    for (lifecycle, words) in [
        (
            json!({ "preStop": {} }),
            "lifecycle.preStop has no handler: write sleep, httpGet or exec, or null for no hook",
        ),
        (json!({ "postStart": { "exec": null } }), "lifecycle.postStart has no handler: write sleep, httpGet or exec"),
        (json!({ "preStop": { "sleep": {} } }), "at '/lifecycle/preStop/sleep': missing property 'seconds'"),
        (json!({ "preStop": { "httpGet": {} } }), "at '/lifecycle/preStop/httpGet': missing property 'port'"),
        (json!({ "preStop": { "exec": {} } }), "at '/lifecycle/preStop/exec': missing property 'command'"),
        (
            json!({ "preStop": { "exec": { "command": [] } } }),
            "at '/lifecycle/preStop/exec/command': minItems: got 0, want 1",
        ),
        (
            json!({ "preStop": { "sleep": { "seconds": 1 }, "httpGet": { "port": 80 } } }),
            "lifecycle.preStop has httpGet and sleep, and a hook has one handler: remove one, or set it to null",
        ),
    ] {
        let said = chart::template(&["--set-json", &format!("lifecycle={lifecycle}")]).unwrap_err();
        assert!(said.contains(words), "{lifecycle}: {said}");
    }
    let said = chart::template(&["--set-json", r#"startupProbe={"exec":{"command":[]}}"#]).unwrap_err();
    assert!(said.contains("at '/startupProbe/exec/command': minItems: got 0, want 1"), "{said}");
}

/// As in a file of values that is put over another one: what is null there is not in the chart's own values, and Helm keeps it.
#[test]
fn null_takes_away_a_hook_or_a_handler_of_another_file() {
    let hooks = json!({ "preStop": { "sleep": { "seconds": 5 } }, "postStart": { "exec": { "command": ["/agent"] } } });
    let folder = tempfile::tempdir().unwrap();
    let [file, second] = ["values.yaml", "over.yaml"].map(|name| folder.path().join(name));
    std::fs::write(&file, json!({ "lifecycle": hooks }).to_string()).unwrap();
    for (over, left) in [
        (json!({ "preStop": null }), json!({ "postStart": { "exec": { "command": ["/agent"] } } })),
        (
            json!({ "preStop": { "sleep": null, "httpGet": { "port": 80 } }, "postStart": null }),
            json!({ "preStop": { "httpGet": { "port": 80 } } }),
        ),
        (json!({ "preStop": null, "postStart": null }), json!(null)),
    ] {
        std::fs::write(&second, json!({ "lifecycle": over }).to_string()).unwrap();
        let manifests = chart::render(&["-f", file.to_str().unwrap(), "-f", second.to_str().unwrap()]);
        let pod = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["lifecycle"], left, "{over}");
    }
}

#[test]
fn an_address_that_is_none_is_refused_with_what_to_write() {
    let other = "which is not an IP address: write one, such as 192.0.2.10 or 2001:db8::10";
    for (set, place) in [
        ("service.clusterIP=999.1.1.1", "service.clusterIP is \"999.1.1.1\""),
        ("service.probe.clusterIP=none", "service.probe.clusterIP is \"none\""),
        ("service.probe.externalIPs={192.0.2.1,192.0.2.01}", "service.probe.externalIPs[1] is \"192.0.2.01\""),
        ("service.externalIPs={1:2:3:4:5:6:7}", "service.externalIPs[0] is \"1:2:3:4:5:6:7\""),
        ("service.externalIPs={1:2:3:4:5:6:7:8::}", "service.externalIPs[0] is \"1:2:3:4:5:6:7:8::\""),
        ("service.externalIPs={fd00::1::2}", "service.externalIPs[0] is \"fd00::1::2\""),
        ("service.externalIPs={fd00:::1}", "service.externalIPs[0] is \"fd00:::1\""),
        ("service.externalIPs={12345::}", "service.externalIPs[0] is \"12345::\""),
        ("hostAliases[0].ip=sora,hostAliases[0].hostnames={sora}", "hostAliases[0].ip is \"sora\""),
        ("dnsConfig.nameservers={10.0.0.256}", "dnsConfig.nameservers[0] is \"10.0.0.256\""),
        ("dnsConfig.nameservers={64:ff9b::192.0.2.01}", "dnsConfig.nameservers[0] is \"64:ff9b::192.0.2.01\""),
        ("dnsConfig.nameservers={1:2:3:4:5:6:7:192.0.2.1}", "dnsConfig.nameservers[0] is \"1:2:3:4:5:6:7:192.0.2.1\""),
        ("dnsConfig.nameservers={64:192.0.2.1::}", "dnsConfig.nameservers[0] is \"64:192.0.2.1::\""),
    ] {
        let said = chart::template(&["--set", set]).expect_err(set);
        assert!(said.contains(&format!("{place}, {other}")), "{set}: {said}");
    }
    for (set, place, address) in [
        ("service.externalIPs={::ffff:c000:20a}", "service.externalIPs[0]", "::ffff:c000:20a"),
        ("dnsConfig.nameservers={0:0:0:0:0:ffff:192.0.2.10}", "dnsConfig.nameservers[0]", "0:0:0:0:0:ffff:192.0.2.10"),
    ] {
        let said = chart::template(&["--set", set]).expect_err(set);
        let mapped = "an IPv4 address in the form of IPv6, which Kubernetes 1.36 refuses: write 192.0.2.10";
        assert!(said.contains(&format!("{place} is {address}, {mapped}")), "{set}: {said}");
    }
    for address in [
        "10.96.0.10",
        "fd00::10",
        "::",
        "::1",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "FD00::A",
        "64:ff9b::192.0.2.10",
        "1:2:3:4:5:6:192.0.2.10",
        "::fffe:192.0.2.10",
    ] {
        let manifests = chart::render(&["--set", &format!("service.probe.clusterIP={address}")]);
        let name = format!("{}-probe", chart::RELEASE);
        assert_eq!(chart::one(&manifests, "Service", &name)["spec"]["clusterIP"], address);
    }
}

/// Kubernetes hands it to the cloud as it is.
#[test]
fn what_a_cloud_may_take_as_the_address_of_a_load_balancer_is_let_through() {
    for text in ["192.0.2.1", "reserved-address", "192.0.2.1,2001:db8::1"] {
        let json = format!("service.loadBalancerIP={}", json!(text));
        let manifests = chart::render(&["--set", "service.type=LoadBalancer", "--set-json", &json]);
        assert_eq!(chart::one(&manifests, "Service", chart::RELEASE)["spec"]["loadBalancerIP"], text);
        let said = chart::template(&["--set-json", &json]).unwrap_err();
        assert!(said.contains("service.loadBalancerIP needs service.type: LoadBalancer"), "{said}");
    }
    for text in [" ", " 192.0.2.1", "192.0.2.1\n"] {
        let json = format!("service.probe.loadBalancerIP={}", json!(text));
        let said = chart::template(&["--set", "service.probe.type=LoadBalancer", "--set-json", &json]).unwrap_err();
        assert!(said.contains("at '/service/probe/loadBalancerIP'"), "{said}");
    }
}

#[test]
fn a_value_that_is_no_list_is_refused_with_what_to_write() {
    let (to, from) = ("networkPolicy.egress.targets", "networkPolicy.ingress.from");
    for (flavor, place, value, words) in [
        (
            "kubernetes",
            "dnsConfig",
            json!({ "nameservers": "10.0.0.10" }),
            ".nameservers is not a list: write one, such as [10.96.0.10]",
        ),
        (
            "kubernetes",
            from,
            json!([{ "ipBlock": { "cidr": "10.0.0.0/8", "except": "10.1.0.0/16" } }]),
            "[0].ipBlock.except is not a list: write one, such as [10.1.0.0/16]",
        ),
        (
            "kubernetes",
            to,
            json!([{ "to": { "podSelector": {} } }]),
            "[0].to is not a list: write one, such as [{ipBlock:",
        ),
        ("cilium", to, json!([{ "toPorts": 3 }]), "[0].toPorts is not a list: write one, such as [{ports: [{port:"),
        ("cilium", to, json!([{ "toPorts": [{}, 3] }]), "[0].toPorts[1] is not a map: write {ports: [{port:"),
        (
            "cilium",
            to,
            json!([{ "toPorts": [{ "ports": 3 }] }]),
            "[0].toPorts[0].ports is not a list: write one, such as",
        ),
    ] {
        let flavor = format!("networkPolicy.enabled=true,networkPolicy.flavor={flavor}");
        let said = chart::template(&["--set", &flavor, "--set-json", &format!("{place}={value}")]).unwrap_err();
        assert!(said.contains(&format!("{place}{words}")), "{value}: {said}");
    }
}

#[test]
fn a_range_that_does_not_begin_with_its_first_address_is_refused_with_the_range_that_does() {
    let words = "which does not begin with the first address of the range, as Kubernetes 1.36 requires";
    for (range, first, alone) in [
        ("10.0.0.1/8", "10.0.0.0/8", "10.0.0.1/32"),
        ("10.255.0.0/9", "10.128.0.0/9", "10.255.0.0/32"),
        ("192.0.2.7/30", "192.0.2.4/30", "192.0.2.7/32"),
        ("1.2.3.4/0", "0.0.0.0/0", "1.2.3.4/32"),
        ("fd80::/8", "fd00::/8", "fd80::/128"),
        ("a:b:c:d:ffff::/65", "a:b:c:d:8000::/65", "a:b:c:d:ffff::/128"),
        ("fd00::1/127", "fd00::/127", "fd00::1/128"),
    ] {
        let set = format!("service.type=LoadBalancer,service.loadBalancerSourceRanges={{{range}}}");
        let said = chart::template(&["--set", &set]).unwrap_err();
        let expected =
            format!("service.loadBalancerSourceRanges[0] is {range}, {words}: write {first}, or {alone} for");
        assert!(said.contains(&expected), "{said}");
        chart::render(&["--set", &set.replace(range, &format!("{first},{alone}"))]);
    }
    // The program takes these: only objects of Kubernetes need the first address.
    let words = format!("{words} in network policies (networkPolicy.enabled is true): write");
    for (place, set) in [
        ("targetDenyCidr[0]", "targetDenyCidr={10.0.0.1/8}"),
        ("targetAccess.cidrs[0]", "targetAccess.profile=Listed,targetAccess.cidrs={10.0.0.1/8}"),
    ] {
        chart::render(&["--set", set]);
        let said = chart::template(&["--set", &format!("networkPolicy.enabled=true,{set}")]).unwrap_err();
        assert!(said.contains(&format!("{place} is 10.0.0.1/8, {words} 10.0.0.0/8")), "{said}");
    }
    for set in [
        "targetAccess.profile=Listed,targetAccess.cidrs={10.0.0.0/8},targetDenyCidr={10.0.0.1/8}",
        "networkPolicy.egress.targets[0].to[0].ipBlock.cidr=10.0.0.0/8,targetDenyCidr={10.0.0.1/8}",
    ] {
        chart::render(&["--set", &format!("networkPolicy.enabled=true,{set}")]); // they stand in no policy
    }
}

#[test]
fn an_address_block_of_a_policy_that_the_api_server_would_refuse_is_refused_wherever_it_is() {
    let refused = |flavor: &str, place: &str, rules: &Value, expected: &str| {
        let flavor = format!("networkPolicy.enabled=true,networkPolicy.flavor={flavor}");
        let said = chart::template(&["--set", &flavor, "--set-json", &format!("{place}={rules}")]).unwrap_err();
        assert!(said.contains(expected), "{rules}: {said}");
    };
    for (block, words) in [
        (json!({}), " has no cidr: write ADDRESS/BITS"),
        (json!(null), " has no cidr: write ADDRESS/BITS"),
        (json!({ "cidr": "10.0.0.1" }), ".cidr is \"10.0.0.1\", which is not a range of addresses: write ADDRESS/BITS"),
        (json!({ "cidr": "10.0.0.0/33" }), ".cidr is \"10.0.0.0/33\", which is not a range"),
        (json!({ "cidr": "10.0.0.0/08" }), ".cidr is \"10.0.0.0/08\", which is not a range"),
        (
            json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.1.0/16"] }),
            ".except[1] is 10.1.1.0/16, which does not begin",
        ),
        (
            json!({ "cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"] }),
            ".except[0] is 11.0.0.0/16, which is not a part of 10.0.0.0/8",
        ),
        (json!({ "cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"] }), ".except[0] is 10.0.0.0/8, which is not a part of"),
        (
            json!({ "cidr": "::ffff:10.0.0.0/104" }),
            ".cidr is ::ffff:10.0.0.0/104, IPv4 addresses in the form of IPv6, which Kubernetes 1.36 refuses: write 10.0.0.0/8",
        ),
        (
            json!({ "cidr": "::/0", "except": ["::ffff:0:0/96"] }),
            ".except[0] is ::ffff:0:0/96, IPv4 addresses in the form",
        ),
        (json!({ "cidr": "::/0", "except": ["10.0.0.0/8"] }), ".except[0] is 10.0.0.0/8, which is not a part of ::/0"),
    ] {
        let place = "networkPolicy.ingress.from";
        refused("kubernetes", place, &json!([{ "ipBlock": block }]), &format!("{place}[0].ipBlock{words}"));
    }
    let peer = json!({ "ipBlock": { "cidr": "10.0.0.1/24" } });
    let words = "ipBlock.cidr is 10.0.0.1/24, which does not begin with the first address";
    for place in ["networkPolicy.ingress.from", "networkPolicy.egress.dns", "networkPolicy.egress.apiServer"] {
        for flavor in ["kubernetes", "cilium"] {
            refused(flavor, place, &json!([peer]), &format!("{place}[0].{words}"));
        }
    }
    for (place, inside) in [("networkPolicy.egress.targets", "to"), ("networkPolicy.ingress.extra", "from")] {
        refused("kubernetes", place, &json!([{ inside: [peer] }]), &format!("{place}[0].{inside}[0].{words}"));
        for nothing in [json!(null), json!({}), json!("all")] {
            let rules = json!([{ inside: [{ "podSelector": {} }, nothing] }]);
            refused(
                "kubernetes",
                place,
                &rules,
                &format!("{place}[0].{inside}[1] is empty, or not a map: write ipBlock"),
            );
        }
        // Without a policy, nothing shows them.
        let unused = format!("{place}={}", json!([{ inside: [peer, null] }, { "toPorts": 3 }]));
        chart::render(&[
            "--set-json",
            &unused,
            "--set-json",
            &format!("networkPolicy.egress.dns={}", json!([peer, {}])),
        ]);
    }
    let listed = "networkPolicy.enabled=true,targetAccess.profile=Listed,targetAccess.cidrs={::ffff:a00:0/104}";
    let said = chart::template(&["--set", listed]).unwrap_err();
    let words = "refuses in network policies (networkPolicy.enabled is true): write 10.0.0.0/8";
    assert!(said.contains("targetAccess.cidrs[0] is ::ffff:a00:0/104, ") && said.contains(words), "{said}");
    for whole in [
        json!({ "cidr": "fd00::/8", "except": ["fd01::/16", "fd00:0:0:1::/64"] }),
        json!({ "cidr": "64:ff9b::0.0.0.0/96", "except": ["64:ff9b::10.0.0.0/104"] }),
    ] {
        let from = format!("networkPolicy.ingress.from={}", json!([{ "ipBlock": whole }]));
        chart::render(&["--set", "networkPolicy.enabled=true", "--set-json", &from]);
    }
}

/// Translated for Cilium, they would select all pods of the namespace.
#[test]
fn a_peer_that_a_network_policy_cannot_have_is_refused_with_both_flavors() {
    for flavor in ["kubernetes", "cilium"] {
        for place in ["networkPolicy.ingress.from", "networkPolicy.egress.dns", "networkPolicy.egress.apiServer"] {
            for (peer, words) in [
                (json!({}), "[0] is empty: write ipBlock, namespaceSelector or podSelector"),
                (
                    json!({ "toEntities": ["kube-apiserver"] }),
                    "[0] has toEntities, which a peer of a NetworkPolicy does not have",
                ),
                (json!({ "namespaceselector": {} }), "[0] has namespaceselector, which a peer"),
                (
                    json!({ "ipBlock": { "cidr": "10.0.0.0/8" }, "podSelector": {} }),
                    "[0] has ipBlock and a selector: write each as a peer of its own",
                ),
            ] {
                let flavor = format!("networkPolicy.enabled=true,networkPolicy.flavor={flavor}");
                let said =
                    chart::template(&["--set", &flavor, "--set-json", &format!("{place}=[{peer}]")]).unwrap_err();
                assert!(said.contains(&format!("{place}{words}")), "{said}");
            }
        }
    }
}

/// `condition` of a dependency names a value of the chart that depends on it.
#[test]
fn a_chart_that_depends_on_this_one_can_switch_it() {
    chart::render(&["--set", "enabled=true"]);
}

#[test]
fn a_service_of_two_families_has_a_policy_that_the_api_server_takes() {
    for (set, policy) in [
        ("service.ipFamilies={IPv4,IPv6}", json!("RequireDualStack")),
        ("service.ipFamilies={IPv4,IPv6},service.ipFamilyPolicy=PreferDualStack", json!("PreferDualStack")),
        ("service.ipFamilies={IPv4}", json!(null)),
    ] {
        let manifests = chart::render(&["--set", set]);
        let service = chart::of_kind(&manifests, "Service")
            .into_iter()
            .find(|service| service["metadata"]["name"] == chart::RELEASE);
        assert_eq!(service.unwrap()["spec"]["ipFamilyPolicy"], policy, "{set}");
    }
}

#[test]
fn rules_of_a_policy_in_the_format_of_the_other_flavor_are_refused_with_what_to_write() {
    let to = "networkPolicy.egress.targets";
    let from = "networkPolicy.ingress.extra";
    let ports = "networkPolicy.egress.targetPorts";
    for (flavor, place, value, words) in [
        (
            "cilium",
            to,
            json!([{}]),
            "[0] is empty, and Cilium selects nothing by that. To allow everything, write [{toEntities: [all]}]",
        ),
        (
            "cilium",
            from,
            json!([{}]),
            "[0] is empty, and Cilium selects nothing by that. To allow everything, write [{fromEntities: [all]}]",
        ),
        (
            "cilium",
            to,
            json!([{ "toCIDR": [] }, { "to": [] }]),
            "[1] has to, which a rule of Cilium does not have: write toCIDR",
        ),
        ("cilium", to, json!([{ "ports": [] }]), "[0] has ports, which a rule of Cilium does not have: write toCIDR"),
        ("cilium", from, json!([{ "from": [] }]), "[0] has from, which a rule of Cilium does not have: write fromCIDR"),
        (
            "kubernetes",
            to,
            json!([{ "toEntities": ["all"] }]),
            "[0] has toEntities, which a rule of a NetworkPolicy does not have",
        ),
        (
            "kubernetes",
            from,
            json!([{ "to": [] }]),
            "[0] has to, which a rule of a NetworkPolicy does not have: write from and ports",
        ),
        (
            "cilium",
            to,
            json!([{ "toEntities": ["all"], "toPorts": [{ "ports": [] }, { "ports": vec![json!({ "port": "1" }); 41] }] }]),
            "[0].toPorts[1].ports has 41 ports, and Cilium takes 40: write the others into one more entry of toPorts",
        ),
        ("cilium", ports, json!([443, { "protocol": "UDP" }]), "[1] has no port, which Cilium needs: write it"),
        ("kubernetes", ports, json!([{ "port": 9, "endPort": 5 }]), "[0] has endPort 5, which is less than port"),
        (
            "kubernetes",
            ports,
            json!([{ "port": "http", "endPort": 5 }]),
            "[0] has endPort, which needs the number of a port",
        ),
    ] {
        let flavor = format!("networkPolicy.enabled=true,networkPolicy.flavor={flavor}");
        let said = chart::template(&["--set", &flavor, "--set-json", &format!("{place}={value}")]).unwrap_err();
        assert!(said.contains(&format!("{place}{words}")), "{value}: {said}");
    }
    for flavor in ["cilium", "kubernetes"] {
        let set = format!("networkPolicy.flavor={flavor},networkPolicy.egress.targetPorts[0].endPort=5");
        let said = chart::template(&["--set", &set]).unwrap_err();
        assert!(said.contains("properties 'port' required, if 'endPort' exists"), "{said}");
    }
    let everything = [("cilium", json!([{ "toEntities": ["all"] }])), ("kubernetes", json!([{}]))];
    for (flavor, rules) in everything {
        let flavor = format!("networkPolicy.enabled=true,networkPolicy.flavor={flavor}");
        chart::render(&["--set", &flavor, "--set-json", &format!("{to}={rules}")]);
    }
}

/// Every flag that the chart gives in any case, and every flag that it refuses because a value stands for it, with that value.
fn own_flags() -> (BTreeSet<String>, BTreeMap<String, String>) {
    let mut given = BTreeSet::new();
    for (_, file) in chart::cases() {
        let manifests = chart::render_case(&file);
        let extra = chart::parse(&std::fs::read_to_string(&file).unwrap());
        let extra = extra.first().map_or(Value::Null, |values| values["extraArgs"].clone());
        for deployment in chart::of_kind(&manifests, "Deployment") {
            let arguments = chart::arguments(&deployment["spec"]["template"]["spec"]["containers"][0]);
            let of_chart = arguments
                .iter()
                .filter(|argument| !extra.as_array().is_some_and(|extra| extra.contains(&json!(argument))));
            let flags = of_chart.filter_map(|argument| argument.strip_prefix("--"));
            given.extend(flags.map(|flag| flag.split('=').next().unwrap().to_owned()));
        }
    }
    let helpers = chart::read("templates/_helpers.tpl");
    let (_, list) = helpers.split_once("\"scrapetarget-exporter.ownFlags\" -}}\n").unwrap();
    let rows = list.lines().take_while(|line| !line.starts_with("{{"));
    let pair = |row: &str| row.split_once(": ").map(|(flag, value)| (flag.to_owned(), value.to_owned())).unwrap();
    (given, rows.map(pair).collect())
}

#[test]
fn a_flag_that_a_value_stands_for_is_refused_in_extra_arguments_and_variables_with_the_name_of_the_value() {
    let (given, refused) = own_flags();
    let missing: Vec<&String> = given.iter().filter(|flag| !refused.contains_key(*flag)).collect();
    assert!(missing.is_empty() && given.len() > 25, "not refused in extraArgs: {missing:?}");
    let values = &chart::parse(&chart::read("values.yaml"))[0];
    for (flag, value) in &refused {
        let place = format!("/{}", value.replace('.', "/"));
        assert!(values.pointer(&place).is_some(), "{flag}: the chart has no value {value}");
    }
    for flag in ["log-level", "log.level", "web.listen-address", "web.config.file", "namespace"] {
        let expected =
            format!("extraArgs has --{flag}, for which the chart has a value: set {} instead", refused[flag]);
        let [joined, apart, one_word] = [format!("--{flag}=a"), format!("--{flag}"), format!("--{flag} a")];
        let other = "--kube-context=a";
        for arguments in [json!([other, joined]), json!([other, apart, "a"]), json!([one_word])] {
            let set = format!("extraArgs={arguments}");
            let said = chart::template(&["--set-json", &set]).expect_err(&set);
            assert!(said.contains(&expected), "{set}: {said}");
        }
    }
    for (variable, expected) in [
        ("SCRAPETARGET_LOG_LEVEL", "for which the chart has a value: set log.level instead"),
        (
            "SCRAPETARGET_LEADER_ELECTION_LEASE_DURATION",
            "for which the chart has a value: set leaderElection.leaseDuration instead",
        ),
        ("SCRAPETARGET_ADVERTISE_ADDRESS", "which the chart sets from each pod: leave it out"),
    ] {
        let set = format!("extraEnv[0].name=A,extraEnv[1].name={variable},extraEnv[1].value=a");
        let said = chart::template(&["--set", &set]).expect_err(&set);
        assert!(said.contains(&format!("extraEnv has {variable}, {expected}")), "{said}");
    }
}

#[test]
fn an_extra_argument_that_is_no_flag_is_refused_and_the_value_of_one_is_not() {
    for (arguments, expected) in [
        (json!(["--leader-election.identity=z"]), "extraArgs has --leader-election.identity, which the chart sets"),
        (json!(["--advertise-address", "10.0.0.1"]), "extraArgs has --advertise-address, which the chart sets"),
        (json!(["--secrets-directory=/x"]), "extraArgs has --secrets-directory, with which no pod can run"),
        (json!(["debug"]), "extraArgs has \"debug\", which is not a flag: write --flag=value"),
        (json!(["--kube-context=a", "-v"]), "extraArgs has \"-v\", which is not a flag"),
        (
            json!(["--kube-context a"]),
            "extraArgs has \"--kube-context a\", which the program would read as a single word",
        ),
    ] {
        let set = format!("extraArgs={arguments}");
        let said = chart::template(&["--set-json", &set]).expect_err(&set);
        assert!(said.contains(expected), "{set}: {said}");
    }
    for arguments in [json!(["--kube-context", "a"]), json!(["--kube-context=a b"])] {
        let manifests = chart::render(&["--set-json", &format!("extraArgs={arguments}")]);
        let container =
            &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"]["containers"][0];
        let line = ["scrapetarget-exporter".to_owned()].into_iter().chain(chart::arguments(container));
        assert!(Cli::parse_line(line).is_ok(), "{arguments}");
    }
}

#[test]
fn a_wrong_target_is_refused_at_its_field() {
    let target = "targets[0].name=a,targets[0].spec.url=http://x/,targets[0].spec.type";
    let refused: [(&str, &[&str]); 5] = [
        ("Sora,targets[0].spec.headers=x", &["at '/targets/0/spec/headers'", "got string, want array"]),
        (
            "Sora,targets[0].spec.intervall=5s",
            &["at '/targets/0/spec'", "additional properties 'intervall' not allowed"],
        ),
        (
            "Orion,targets[0].spec.orion.level=City",
            &["at '/targets/0/spec/orion/level'", "'Subservice', 'Service', 'Total'"],
        ),
        ("Sora,targets[0].spec.interval=15", &["at '/targets/0/spec/interval'", "got number, want string"]),
        ("Kurento", &["at '/targets/0/spec/type'", "'Sora', 'Orion', 'Mediasoup'"]),
    ];
    for (set, words) in refused {
        let said = chart::template(&["--set", &format!("{target}={set}")]).expect_err(set);
        for word in words {
            assert!(said.contains(word), "{set}: {said}");
        }
    }
}

/// Whether the chart takes a value, which is JSON.
fn taken(place: &str, value: &Value) -> bool {
    chart::template(&["--set-json", &format!("{place}={value}")]).is_ok()
}

/// Relabelings of all targets.
const STEPS: [&str; 19] = [
    "[]",
    r#"[{"targetLabel": "cluster", "replacement": "tokyo"}]"#,
    r#"[{"action": "Drop", "sourceLabels": ["__name__"], "regex": "a|b.*"}]"#,
    r#"[{"action": "labeldrop", "regex": "(rack_.*|region)"}]"#,
    r#"[{"action": "keepequal", "targetLabel": "namespace", "sourceLabels": ["a"]}]"#,
    r#"[{"action": "hashmod", "targetLabel": "part", "sourceLabels": ["instance"], "modulus": 2}]"#,
    r#"[{"targetLable": "a"}]"#,
    r#"[{"targetLabel": "__address__", "replacement": "x:80"}]"#,
    r#"[{"targetLabel": "namespace", "replacement": "x"}]"#,
    r#"[{"targetLabel": "pod", "replacement": "x"}]"#,
    r#"[{"targetLabel": "$1", "sourceLabels": ["a"]}]"#,
    r#"[{"targetLabel": "a-b", "sourceLabels": ["a"]}]"#,
    r#"[{"targetLabel": "_9", "replacement": "x"}]"#,
    r#"[{"action": "labelmap", "regex": "a(.*)"}]"#,
    r#"[{"action": "LabelKeep", "regex": "a"}]"#,
    r#"[{"action": "labeldrop"}]"#,
    r#"[{"action": "keep", "regex": "a(", "sourceLabels": ["a"]}]"#,
    r#"[{"action": "drop", "regex": "(?=a)", "sourceLabels": ["a"]}]"#,
    r#"[{"targetLabel": "a", "replacement": "$(HOME)"}]"#,
];

/// A place among the values, how a word becomes a value there, the flag, and words.
type Row<'r> = (&'r str, &'r dyn Fn(&str) -> Value, &'r str, &'r [&'r str]);

#[test]
fn the_chart_takes_what_the_program_takes_and_nothing_that_would_keep_it_from_starting() {
    let list = |text: &str| json!([text]);
    let text = |text: &str| json!(text);
    let pair =
        |text: &str| text.split_once('=').map_or_else(|| json!({ text: "" }), |(key, value)| json!({ key: value }));
    let rows: [Row<'_>; 9] = [
        (
            "targetSelector",
            &text,
            "target-selector",
            &[
                "team=media",
                "a!=b, c",
                "!legacy",
                "x.dev/tier in (edge, core),y notin(z)",
                "a=",
                "a in ()",
                "a b",
                "=x",
                "tier in edge",
                "tier within (a)",
                "a,",
                "k=v)",
                "! a",
                "a/b/c",
            ],
        ),
        (
            "secretLabel",
            &text,
            "secret-label",
            &["a.dev/use=true", "use", "use=", "=true", "a/b/c", "a=b=c", "-a", "a=-"],
        ),
        (
            "targetDenyCidr",
            &list,
            "target-deny-cidr",
            &[
                "10.0.0.0/8",
                "0.0.0.0/0",
                "fd00::/8",
                "::/0",
                "::1/128",
                "1:2:3:4:5:6:7:8/64",
                "1::8/1",
                "10.0.0.0/33",
                "10.0.0/8",
                "10.0.0.256/8",
                "fd00::/129",
                "1:2:3:4:5:6:7/64",
                "1::2::3/64",
                "12345::/16",
                ":/0",
                "fd00:/8",
            ],
        ),
        ("discovery.allowedScrapeClasses", &list, "discovery.allowed-scrape-class", &["tenants", "a b"]),
        (
            "discovery.monitorLabels",
            &pair,
            "discovery.monitor-label",
            &["a.dev/b=c", "a=", "=c", "a b=c", "a=b c", "a/b/c=d"],
        ),
        (
            "discovery.monitorAnnotations",
            &pair,
            "discovery.monitor-annotation",
            &["a.dev/b={ any: thing, }", "a=b=c", "=c", "a b=c", "a=b\nc"],
        ),
        (
            "leaderElection.leaseDuration",
            &text,
            "leader-election.lease-duration",
            &["5s", "5m", "1m30s", "4m60s", "300s", "4s", "301s", "5m1s", "1h", "5s500ms", "0s"],
        ),
        (
            "limits.maxBodyBytes",
            &text,
            "max-body-bytes",
            &["1", "16MiB", "1Gi", "512B", "0", "0MiB", "99999999999GiB", "1TiB", "1K"],
        ),
        ("limits.maxInflightBytes", &text, "max-inflight-bytes", &["999999GiB", "128MiB", "00", "1.5GiB"]),
    ];
    assert_same(&rows);
    for limit in [0_u64, 1, 1_000_000, 1_000_001] {
        let line = ["scrapetarget-exporter".to_owned(), "run".to_owned(), format!("--max-sample-limit={limit}")];
        assert_eq!(taken("limits.maxSampleLimit", &json!(limit)), Cli::parse_line(line).is_ok(), "{limit}");
    }
    for connections in [1_u64, 4_294_967_295, 4_294_967_296, 0] {
        let line =
            ["scrapetarget-exporter".to_owned(), "run".to_owned(), format!("--web.max-connections={connections}")];
        assert_eq!(taken("limits.maxConnections", &json!(connections)), Cli::parse_line(line).is_ok(), "{connections}");
    }
}

#[test]
fn the_chart_takes_the_settings_of_all_service_monitors_that_the_program_takes() {
    let text = |text: &str| json!(text);
    let number = |text: &str| text.parse().map_or_else(|_| json!(text), |number: i64| json!(number));
    let steps = |text: &str| serde_json::from_str(text).unwrap();
    let rows: [Row<'_>; 9] = [
        ("discovery.relabelings", &steps, "discovery.relabelings", &STEPS),
        ("discovery.metricRelabelings", &steps, "discovery.metric-relabelings", &STEPS),
        (
            "discovery.honorLabels",
            &text,
            "discovery.honor-labels",
            &["declared", "byDefault", "never", "always", "true"],
        ),
        (
            "discovery.proxyUrl",
            &text,
            "discovery.proxy-url",
            &[
                "http://proxy:3128",
                "https://proxy.example.com/",
                "socks5://[fd00::1]:1080",
                "http://10.0.0.1",
                "proxy:3128",
                "socks5h://proxy",
                "ftp://proxy",
                "http://me:secret@proxy",
                "http://proxy/x",
                "http://proxy:0",
                "http://$(HOME)",
            ],
        ),
        ("discovery.targetLimit", &number, "discovery.target-limit", &["0", "1", "1000000", "1000001", "-1", "x"]),
        ("discovery.labelLimit", &number, "discovery.label-limit", &["0", "1", "5", "6", "1000000", "1000001", "-1"]),
        ("discovery.labelNameLengthLimit", &number, "discovery.label-name-length-limit", &["0", "15", "16", "1000001"]),
        (
            "discovery.labelValueLengthLimit",
            &number,
            "discovery.label-value-length-limit",
            &["0", "63", "64", "1000001"],
        ),
        (
            "discovery.bodySizeLimit",
            &text,
            "discovery.body-size-limit",
            &[
                "0",
                "1B",
                "16MB",
                "16MiB",
                "999999999GB",
                "1",
                "01KB",
                "1.5MB",
                "0MB",
                "16M",
                "16mb",
                "1TB",
                "16EB",
                "1000000000B",
            ],
        ),
    ];
    assert_same(&rows);
}

/// Fails unless the chart takes the same words as the program.
fn assert_same(rows: &[Row<'_>]) {
    for (place, value, flag, words) in rows {
        for word in *words {
            let line = ["scrapetarget-exporter", "run", &format!("--{flag}={word}")].map(ToOwned::to_owned);
            assert_eq!(taken(place, &value(word)), Cli::parse_line(line).is_ok(), "{place}: {word}");
        }
    }
}

#[test]
fn tls_of_discovery_goes_with_any_way_to_have_https() {
    for set in [
        "discovery.scheme=https",
        "webConfig.enabled=true,webConfig.tlsSecret=a",
        "webConfig.enabled=true,webConfig.existingSecret=a",
        "webConfig.enabled=true,webConfig.existingSecret=a,webConfig.scheme=https",
    ] {
        chart::render(&["--set", &format!("discovery.tls.serverName=x,{set}")]);
    }
}

#[test]
fn template_expressions_are_evaluated_in_extra_manifests_and_in_no_other_value() {
    let expression = "{{ .Release.Name }}";
    let elsewhere = json!({
        "targets": [{ "name": "a", "annotations": { "a": expression },
            "spec": { "type": "Sora", "url": expression, "labels": { "a": expression } } }],
        "podAnnotations": { "a": expression },
        "deploymentAnnotations": { "a": expression },
        "extraArgs": [format!("--{}", "a={{ .Release.Name }}")],
        "extraEnv": [{ "name": "A", "value": expression }],
        "discovery": { "monitorAnnotations": { "a": expression }, "scrapeClass": expression },
        "service": { "annotations": { "a": expression } },
        "affinity": { "a": expression },
        "webConfig": { "enabled": true, "config": { "a": expression } },
        "networkPolicy": { "enabled": true, "egress": { "targets": [{ "to": [{ "podSelector": { "a": expression } }] }] } },
        "serviceMonitor": { "selfMonitor": { "enabled": true, "relabelings": [{ "replacement": expression }] } },
        "prometheusRule": { "enabled": true, "rules": [{ "expr": expression }] },
    });
    let written = elsewhere.to_string().matches(expression).count();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, elsewhere.to_string()).unwrap();
    let text = chart::template(&["-f", file.to_str().unwrap()]).unwrap();
    assert!(text.matches(expression).count() >= written, "{text}");
    for entry in std::fs::read_dir(chart::folder().join("templates")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        let uses =
            entry.is_file() && std::fs::read_to_string(&entry).unwrap().split_whitespace().any(|word| word == "tpl");
        assert_eq!(uses, name == "extra-manifests.yaml", "{name}");
    }
}

#[test]
fn durations_are_added_up_before_the_grace_period_is_compared() {
    for (delay, seconds) in [("59s", 60), ("1m", 61), ("1m29s", 90), ("1h1m1s", 3662), ("900ms", 1), ("0s", 1)] {
        let set = |seconds: u32| format!("shutdownDelay={delay},terminationGracePeriodSeconds={seconds}");
        chart::template(&["--set", &set(seconds)]).unwrap_or_else(|error| panic!("{delay}: {error}"));
        if seconds > 1 {
            chart::template(&["--set", &set(seconds - 1)]).expect_err(delay);
        }
    }
}

#[test]
fn global_values_of_other_charts_are_let_through() {
    chart::render(&["--set", "global.storageClass=fast,global.other.deep=true"]);
}

#[test]
fn a_default_can_be_taken_away_by_null() {
    let manifests = chart::render(&["--set", "podSecurityContext.runAsUser=null,livenessProbe=null"]);
    let pod = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"].get("runAsUser"), None);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["containers"][0].get("livenessProbe"), None);
}

/// The places of all lists, and of all maps whose keys are up to the user.
fn free(value: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
    let fixed = schema.get("properties").and_then(Value::as_object).filter(|_| schema["additionalProperties"] == false);
    match fixed {
        Some(properties) => {
            for (key, schema) in properties {
                let inner = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                free(&value[key], schema, &inner, found);
            }
        }
        None if value.is_object() || value.is_array() => found.push(place.to_owned()),
        None => {}
    }
}

#[test]
fn null_takes_away_any_free_map_or_list() {
    let schema: Value = serde_json::from_str(&chart::read("values.schema.json")).unwrap();
    let values = &chart::parse(&chart::read("values.yaml"))[0];
    let mut places = Vec::new();
    free(values, &schema, "", &mut places);
    places.push("networkPolicy.ingress".to_owned());
    assert!(places.len() > 50 && places.contains(&"commonLabels".to_owned()), "{places:?}");
    let everything = "networkPolicy.enabled=true,prometheusRule.enabled=true,dashboards.enabled=true,\
                      serviceMonitor.selfMonitor.enabled=true,verticalPodAutoscaler.enabled=true,ingress.enabled=true,\
                      ingress.hosts[0].host=a,webConfig.enabled=true,webConfig.tlsSecret=a,cleanup.afterUpgrade=always";
    places.retain(|place| place != "ingress.hosts" && !NEEDED.contains(&place.as_str()));
    for mode in ["serviceMonitor", "httpSD"] {
        // One of them at a time would take a minute.
        let nulls: Vec<String> = places.iter().map(|place| format!("{place}=null")).collect();
        let set = format!("{everything},discovery.mode={mode}");
        let manifests = chart::render(&["--set", &set, "--set", &nulls.join(",")]);
        let text = serde_json::to_string(&manifests).unwrap();
        assert!(!text.contains("%!") && !text.contains("<nil>"), "{text}");
    }
}

/// What no object is complete without, and maps of settings as a whole.
const NEEDED: [&str; 42] = [
    "image",
    "image.repository",
    "crds",
    "targetAccess",
    "targetAccess.profile",
    "discovery",
    "discovery.mode",
    "scrapeConfig",
    "serviceMonitor",
    "serviceMonitor.selfMonitor",
    "limits",
    "log",
    "leaderElection",
    "terminationGracePeriodSeconds",
    "web",
    "webConfig",
    "webConfig.existingSecretKey",
    "webConfig.scheme",
    "containerPort",
    "service",
    "service.type",
    "service.port",
    "service.probe",
    "service.probe.type",
    "serviceAccount",
    "rbac",
    "openshift",
    "cleanup",
    "strategy.type",
    "podDisruptionBudget",
    "networkPolicy",
    "networkPolicy.egress",
    "networkPolicy.egress.apiServerPorts",
    "networkPolicy.egress.dnsPorts",
    "verticalPodAutoscaler",
    "prometheusRule",
    "dashboards",
    "dashboards.label",
    "dashboards.folderAnnotation",
    "mediasoupAgent",
    "mediasoupAgent.configMap",
    "mediasoupAgent.configMap.name",
];

#[test]
fn null_is_refused_where_an_object_would_not_be_complete_with_all_names() {
    // A place inside of one that is null cannot be set.
    for depth in 0..3 {
        let places = NEEDED.iter().filter(|place| place.matches('.').count() == depth);
        let places: BTreeSet<&str> = places.copied().collect();
        assert!(places.len() > 3);
        let nulls: Vec<String> = places.iter().map(|place| format!("{place}=null")).collect();
        let said = chart::template(&["--set", &nulls.join(",")]).unwrap_err();
        let named = said.split_once("null cannot be the value of ").unwrap_or_else(|| panic!("{said}")).1;
        let named: BTreeSet<&str> = named.split_once(": leave it out").unwrap().0.split(", ").collect();
        assert_eq!(named, places);
        assert!(said.contains("upgrade with --reset-then-reuse-values"), "{said}");
    }
}

/// The places of all values that are not maps.
fn leaves(value: &Value, place: &str, found: &mut Vec<String>) {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        Some(fields) => fields.iter().for_each(|(key, value)| {
            leaves(value, &if place.is_empty() { key.clone() } else { format!("{place}.{key}") }, found);
        }),
        None => found.push(place.to_owned()),
    }
}

/// Whether there is a null in it.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

#[test]
fn null_takes_away_any_other_value_and_no_object_shows_it() {
    let values = &chart::parse(&chart::read("values.yaml"))[0];
    let mut places = Vec::new();
    leaves(values, "", &mut places);
    let on = |place: &str| place.ends_with(".enabled") || place == "rbac.create" || place == "serviceAccount.create";
    places.retain(|place| !NEEDED.contains(&place.as_str()) && !on(place) && !place.ends_with("parentRefs"));
    places.retain(|place| !["ingress.hosts", "webConfig.tlsSecret", "discovery.mode"].contains(&place.as_str()));
    places.extend(["rbac.existingClusterRoles", "service.ipDualStack"].map(ToOwned::to_owned));
    assert!(places.len() > 200, "{}", places.len());
    // The fields of these two are null with them.
    places
        .retain(|place| !place.starts_with("rbac.existingClusterRoles.") && !place.starts_with("service.ipDualStack."));
    let nulls: Vec<String> = places.iter().map(|place| format!("{place}=null")).collect();
    let everything = "networkPolicy.enabled=true,prometheusRule.enabled=true,dashboards.enabled=true,podDisruptionBudget.enabled=true,\
                      serviceMonitor.selfMonitor.enabled=true,verticalPodAutoscaler.enabled=true,ingress.enabled=true,\
                      ingress.hosts[0].host=a,webConfig.enabled=true,webConfig.tlsSecret=a,httpRoute.enabled=true,\
                      httpRoute.parentRefs[0].name=a,mediasoupAgent.configMap.enabled=true,cleanup.enabled=true";
    for mode in ["serviceMonitor", "httpSD"] {
        let set = format!("{everything},discovery.mode={mode}");
        let manifests = chart::render(&["--set", &set, "--set", &nulls.join(",")]);
        for manifest in manifests.iter().filter(|manifest| manifest["kind"] != "CustomResourceDefinition") {
            let text = manifest.to_string();
            assert!(!has_null(manifest) && !text.contains("%!") && !text.contains("<nil>"), "{text}");
        }
    }
    let without = chart::render(&["--set", "ingress=null,httpRoute=null"]);
    assert_eq!(without, chart::render(&[""; 0]));
}

#[test]
fn without_a_limit_or_a_time_the_program_has_its_own() {
    let nulls = "limits.maxBodyBytes=null,limits.maxInflightBytes=null,limits.maxSampleLimit=null,limits.maxConnections=null,shutdownDelay=null,\
                 limits.maxProbesPerAddress=null,limits.icmpMaxPayload=null,leaderElection.leaseDuration=null,log.level=null,log.format=null";
    let manifests = chart::render(&["--set", nulls]);
    let container = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"]["containers"][0];
    let arguments = chart::arguments(container);
    assert!(!arguments.iter().any(|argument| argument.contains("max") || argument.contains("log")), "{arguments:?}");
    let line = ["scrapetarget-exporter".to_owned()].into_iter().chain(arguments);
    assert!(Cli::parse_line(line).is_ok());
}

#[test]
fn every_example_of_values_in_the_readme_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let readme = chart::read("README.md");
    let examples: Vec<&str> = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 5, "{examples:#?}");
    for example in examples {
        std::fs::write(&file, example).unwrap();
        chart::template(&["-f", file.to_str().unwrap()]).unwrap_or_else(|error| panic!("{example}{error}"));
    }
}

/// The places of all values, and of all keys of a schema whose keys are fixed, as `a.b.c`.
fn places(value: &Value, schema: &Value, place: &str, found: &mut [BTreeSet<String>; 2]) {
    let inner = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let values = value.as_object().unwrap_or_else(|| panic!("{place} is no map"));
    found[0].extend(values.keys().map(|key| inner(key)));
    found[1].extend(properties.keys().map(|key| inner(key)));
    for (key, schema) in properties {
        if let Some(value) = values.get(key).filter(|value| value.is_object()) {
            places(value, schema, &inner(key), found);
        }
    }
}

#[test]
fn the_schema_knows_exactly_the_values_that_there_are() {
    let schema: Value = serde_json::from_str(&chart::read("values.schema.json")).unwrap();
    let values = &chart::parse(&chart::read("values.yaml"))[0];
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    places(values, &schema, "", &mut found);
    // `strategy.rollingUpdate` is Kubernetes' own.
    assert!(found[0].len() > 100, "{:?}", found[0]);
    // That of a chart that depends on this one.
    assert!(found[1].remove("enabled"), "{:?}", found[1]);
    assert_eq!(found[0], found[1]);
}

#[test]
fn what_the_schema_refers_to_is_there_and_nothing_else_is() {
    let text = chart::read("values.schema.json");
    let schema: Value = serde_json::from_str(&text).unwrap();
    let defined: BTreeSet<&str> = schema["definitions"].as_object().unwrap().keys().map(String::as_str).collect();
    let used = text.split("#/definitions/").skip(1).map(|rest| rest.split(['"', '/']).next().unwrap()).collect();
    assert_eq!(defined, used);
}
