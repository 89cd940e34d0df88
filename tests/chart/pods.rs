//! The pods of the chart: what the program is told, and what the pods may do.

use std::collections::BTreeSet;

use clap::CommandFactory;
use scrapetarget_exporter::cli::{Cli, Command, RunArgs};
use serde_json::{Value, json};

use crate::support::chart;

/// The arguments of every container of our image, each with its case.
fn arguments() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (case, file) in chart::cases() {
        for (_, pod) in chart::pods(&chart::render_case(&file)) {
            let containers = pod["spec"]["containers"].as_array().unwrap();
            let ours = containers.iter().find(|container| container.get("args").is_some()).unwrap();
            found.push((case.clone(), chart::arguments(ours)));
        }
    }
    found
}

fn parse(arguments: &[String]) -> Command {
    let line = ["scrapetarget-exporter".to_owned()].into_iter().chain(arguments.iter().cloned());
    Cli::parse_line(line).unwrap_or_else(|refusal| panic!("{arguments:?}: {refusal:?}")).command
}

/// Whether they are those of the Job after an upgrade.
fn is_after_upgrade(arguments: &[String]) -> bool {
    arguments.contains(&"--only=monitors".to_owned())
}

#[test]
fn the_program_takes_what_every_pod_gives_it() {
    let mut seen = BTreeSet::new();
    for (_, arguments) in arguments().iter().filter(|(_, arguments)| !is_after_upgrade(arguments)) {
        parse(arguments);
        seen.insert(arguments[0].clone());
    }
    assert_eq!(seen, ["cleanup", "healthcheck", "run"].map(ToOwned::to_owned).into());
}

#[test]
fn the_program_takes_what_the_job_after_an_upgrade_gives_it() {
    let all = arguments();
    let after: Vec<_> = all.iter().filter(|(_, arguments)| is_after_upgrade(arguments)).collect();
    assert!(!after.is_empty());
    for (_, arguments) in after {
        parse(arguments);
    }
}

#[test]
fn every_flag_of_run_is_given_by_a_value() {
    /// Targets and Secrets from files are not for a cluster; a pod has no kubeconfig; the Service is named after the release; the last two are
    /// given by the pod itself.
    const OTHERS: [&str; 6] = [
        "targets",
        "secrets-directory",
        "kube-context",
        "discovery.service",
        "advertise-address",
        "leader-election.identity",
    ];
    let all = arguments();
    let given: BTreeSet<&str> = all
        .iter()
        .filter(|(_, arguments)| arguments[0] == "run")
        .flat_map(|(_, arguments)| &arguments[1..])
        .map(|argument| argument.strip_prefix("--").unwrap().split('=').next().unwrap())
        .chain(OTHERS)
        .collect();
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().filter(|flag| flag.get_id() != "help").map(|flag| flag.get_long().unwrap());
    assert_eq!(given, flags.collect());
}

#[test]
fn the_address_and_the_name_in_the_lease_come_from_the_pod() {
    let manifests = chart::render(&[""; 0]);
    let pod = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"];
    let field = |name: &str| {
        let env = pod["containers"][0]["env"].as_array().unwrap();
        env.iter().find(|entry| entry["name"] == name).unwrap()["valueFrom"]["fieldRef"]["fieldPath"].clone()
    };
    assert_eq!(field("SCRAPETARGET_ADVERTISE_ADDRESS"), "status.podIP");
    assert_eq!(field("SCRAPETARGET_LEADER_ELECTION_IDENTITY"), "metadata.name");
}

#[test]
fn the_defaults_of_the_values_are_those_of_the_program() {
    let manifests = chart::render(&[""; 0]);
    let pod = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"];
    let run = |arguments: &[String]| -> Box<RunArgs> {
        let Command::Run(run) = parse(arguments) else { panic!("{arguments:?}") };
        run
    };
    let (given, default) = (run(&chart::arguments(&pod["containers"][0])), run(&["run".to_owned()]));
    assert_eq!(given.listen_address, default.listen_address);
    assert_eq!(given.polling.max_body_bytes, default.polling.max_body_bytes);
    assert_eq!(given.polling.max_inflight_bytes, default.polling.max_inflight_bytes);
    assert_eq!(given.polling.max_sample_limit, default.polling.max_sample_limit);
    assert_eq!(given.polling.icmp_max_payload, default.polling.icmp_max_payload);
    assert_eq!(given.probing.max_probes_per_address, default.probing.max_probes_per_address);
    assert_eq!(given.web_max_connections, default.web_max_connections);
    assert_eq!(given.log.log_level, default.log.log_level);
    assert_eq!(given.log.log_format, default.log.log_format);
    let (given, default) = (given.kubernetes, default.kubernetes);
    assert_eq!(given.leader_election_lease_duration, default.leader_election_lease_duration);
    assert_eq!(given.discovery_monitor_namespace, default.discovery_monitor_namespace);
    assert_eq!(given.release.discovery_mode, default.release.discovery_mode);
    assert_eq!(given.release.service(), default.release.service());
}

#[test]
fn what_kubernetes_would_expand_is_passed_on_as_it_is_written() {
    let (_, file) = chart::cases().into_iter().find(|(name, _)| name == "everything").unwrap();
    let manifests = chart::render_case(&file);
    let container =
        &chart::one(&manifests, "Deployment", "media-exporter")["spec"]["template"]["spec"]["containers"][0];
    let written = container["args"].to_string();
    assert!(written.contains("example.com/price=$$(HOME) $$5, of=course"), "{written}");
    // Whoever writes arguments herself may want a variable.
    assert!(written.contains("--kube-context=$(CONTEXT)"), "{written}");
    let Command::Run(run) = parse(&chart::arguments(container)) else { panic!("{written}") };
    let price = ("example.com/price".to_owned(), "$(HOME) $5, of=course".to_owned());
    assert_eq!(run.kubernetes.discovery_monitor_annotation, [price]);
}

#[test]
fn every_pod_keeps_to_the_restricted_standard() {
    for (case, file) in chart::cases() {
        for (name, pod) in chart::pods(&chart::render_case(&file)) {
            let spec = &pod["spec"];
            let what = format!("{case}: {name}");
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{what}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{what}");
            assert_eq!(spec["enableServiceLinks"], false, "{what}");
            for container in spec["containers"].as_array().unwrap().iter().filter(|c| c.get("args").is_some()) {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{what}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }), "{what}");
            }
        }
    }
}

#[test]
fn only_pods_that_ask_the_api_server_have_a_token_and_an_account_gives_none_by_itself() {
    for (case, file) in chart::cases() {
        let manifests = chart::render_case(&file);
        for (name, pod) in chart::pods(&manifests) {
            let is_test = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test";
            assert_eq!(pod["spec"]["automountServiceAccountToken"], !is_test, "{case}: {name}");
        }
        for account in chart::of_kind(&manifests, "ServiceAccount") {
            // That case asks for it.
            assert_eq!(account["automountServiceAccountToken"], case == "everything", "{case}: {account}");
        }
    }
}

#[test]
fn every_pod_has_resources_where_a_quota_asks_for_them() {
    let memory = |set: &str| {
        let set = format!("cleanup.afterUpgrade=always,discovery.mode=none,resources.limits.memory=64Mi,{set}");
        let pods = chart::pods(&chart::render(&["--set", &set]));
        let limit = |pod: &Value| pod["spec"]["containers"][0]["resources"]["limits"]["memory"].clone();
        pods.iter().map(|(name, pod)| format!("{name} {}", limit(pod))).collect::<BTreeSet<_>>()
    };
    let expected = |job: &str| {
        let pods = [("", "64Mi"), ("-cleanup", job), ("-cleanup-monitors", job), ("-test-ready", "64Mi")];
        pods.into_iter().map(|(end, limit)| format!("{}{end} {limit:?}", chart::RELEASE)).collect::<BTreeSet<_>>()
    };
    assert_eq!(memory("replicas=1"), expected("64Mi"));
    assert_eq!(memory("cleanup.resources.limits.memory=32Mi"), expected("32Mi"));
}

/// What the exporter is told with these values, by the name of a flag.
fn told(set: &str, flag: &str) -> Vec<String> {
    let manifests = chart::render(&["--set", set]);
    let pod = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"];
    let prefix = format!("--{flag}=");
    let arguments = chart::arguments(&pod["containers"][0]);
    arguments.iter().filter_map(|argument| argument.strip_prefix(&prefix)).map(ToOwned::to_owned).collect()
}

#[test]
fn the_profile_of_targets_becomes_what_they_may_name() {
    let hosts = |set: &str| told(set, "target-allow-host");
    let cidrs = |set: &str| told(set, "target-allow-cidr");
    assert_eq!(hosts("targetAccess.profile=Any"), [""; 0]);
    assert_eq!(cidrs("targetAccess.profile=Any"), [""; 0]);
    let own = ["*.{namespace}.svc", "*.{namespace}.svc.cluster.local"];
    assert_eq!(hosts("targetAccess.profile=OwnNamespace"), own);
    let other =
        "targetAccess.profile=OwnNamespace,clusterDomain=example.internal,targetAccess.hosts={sora.example.com}";
    assert_eq!(hosts(other), ["*.{namespace}.svc", "*.{namespace}.svc.example.internal", "sora.example.com"]);
    let listed =
        "targetAccess.profile=Listed,targetAccess.hosts={*.example.com},targetAccess.cidrs={192.0.2.0/24,::1/128}";
    assert_eq!(
        (hosts(listed), cidrs(listed)),
        (vec!["*.example.com".into()], vec!["192.0.2.0/24".into(), "::1/128".into()])
    );
    // Without any of these flags everything is permitted: a profile that restricts gives at least one, whatever else is said.
    for profile in ["OwnNamespace", "Listed"] {
        for lists in [
            "targetAccess.hosts={a}",
            "targetAccess.cidrs={10.0.0.0/8}",
            "targetAccess.hosts=null",
            "clusterDomain=null",
        ] {
            let set = format!("targetAccess.profile={profile},{lists}");
            match chart::template(&["--set", &set]) {
                Ok(_) => assert!(!hosts(&set).is_empty() || !cidrs(&set).is_empty(), "{set}"),
                Err(refusal) => {
                    assert!(refusal.contains("needs targetAccess.hosts or targetAccess.cidrs"), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn whoever_names_hosts_need_not_name_those_of_the_chart() {
    let hosts = |set: &str| told(set, "web.allowed-hosts");
    assert_eq!(hosts("ingress.enabled=true,ingress.hosts[0].host=a"), [""; 0], "any name");
    let all = hosts("web.allowedHosts={exporter.example.com},ingress.enabled=true,ingress.hosts[0].host=b.example.com");
    for name in [
        "exporter.example.com",
        "b.example.com",
        "scrapetarget-exporter.prometheus.svc",
        "scrapetarget-exporter-probe.prometheus.svc",
        "scrapetarget-exporter-probe.prometheus.svc.cluster.local",
    ] {
        assert!(all.iter().any(|host| host == name), "{name}: {all:?}");
    }
    // What Prometheus and `helm test` ask is among them.
    let manifests = chart::render(&["--set", "discovery.mode=httpSD,web.allowedHosts={a}"]);
    let sd = chart::one(&manifests, "ScrapeConfig", chart::RELEASE)["spec"]["httpSDConfigs"][0]["url"].clone();
    let test = chart::arguments(&chart::of_kind(&manifests, "Pod")[0]["spec"]["containers"][0])[1].clone();
    for url in [sd.as_str().unwrap(), &test] {
        let host = url.split("://").nth(1).unwrap().split(':').next().unwrap();
        assert!(all.iter().any(|allowed| allowed == host), "{host}: {all:?}");
    }
}

#[test]
fn memory_is_made_of_the_number_of_targets_and_of_what_may_be_in_flight() {
    let memory = |set: &str| {
        let manifests = chart::render(&["--set", set]);
        let pods = chart::pods(&manifests).into_iter();
        let resources: BTreeSet<String> =
            pods.map(|(_, pod)| pod["spec"]["containers"][0]["resources"].to_string()).collect();
        assert_eq!(resources.len(), 1, "the same for all pods: {resources:?}");
        let resources: Value = serde_json::from_str(resources.first().unwrap()).unwrap();
        ["requests", "limits"].map(|kind| resources[kind]["memory"].as_str().map(ToOwned::to_owned))
    };
    let mebibytes = |request: u64, limit: u64| [Some(format!("{request}Mi")), Some(format!("{limit}Mi"))];
    assert_eq!(memory("replicas=1"), mebibytes(127, 383));
    assert_eq!(memory("expectedTargets=10000"), mebibytes(689, 945));
    assert_eq!(memory("expectedTargets=10000,limits.maxInflightBytes=1GiB"), mebibytes(689, 689 + 2048));
    assert_eq!(memory("limits.maxInflightBytes=1048576B"), mebibytes(127, 129));
    assert_eq!(memory("limits.maxInflightBytes=null,expectedTargets=null"), mebibytes(127, 383));
    // What is said counts as it is said.
    assert_eq!(memory("resources.limits.memory=1Gi"), [None, Some("1Gi".to_owned())]);
    assert_eq!(memory("resources=null"), [None, None]);
}

#[test]
fn openshift_chooses_the_user() {
    let user = |arguments: &[&str]| {
        let manifests = chart::render(arguments);
        let context = |(_, pod): (String, Value)| pod["spec"]["securityContext"]["runAsUser"].clone();
        chart::pods(&manifests).into_iter().map(context).collect::<Vec<_>>()
    };
    assert_eq!(user(&[]), [65532, 65532, 65532]);
    assert_eq!(user(&["--api-versions=security.openshift.io/v1"]), [Value::Null, Value::Null, Value::Null]);
    assert_eq!(user(&["--set", "openshift.enabled=true"]), [Value::Null, Value::Null, Value::Null]);
}

#[test]
fn a_new_chart_with_the_same_program_restarts_no_pod() {
    for (case, file) in chart::cases() {
        let manifests = chart::render_case(&file);
        for deployment in chart::of_kind(&manifests, "Deployment") {
            let template = deployment["spec"]["template"].to_string();
            assert!(!template.contains("helm.sh/chart") && !template.contains("kubernetes.io/version"), "{case}");
        }
    }
}

#[test]
fn probes_ask_in_the_way_that_the_listener_answers() {
    let probe = |case: &str| {
        let (_, file) = chart::cases().into_iter().find(|(name, _)| name == case).unwrap();
        let manifests = chart::render_case(&file);
        let container = &chart::of_kind(&manifests, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        (container["readinessProbe"].clone(), chart::of_kind(&manifests, "Pod").len())
    };
    let (plain, tests) = probe("default");
    assert_eq!(
        (&plain["httpGet"]["path"], &plain["httpGet"]["scheme"], tests),
        (&"/-/ready".into(), &"HTTP".into(), 1)
    );
    let (tls, tests) = probe("web-config-tls");
    assert_eq!((&tls["httpGet"]["scheme"], tests), (&"HTTPS".into(), 1));
    // Passwords are not asked for there.
    let (password, tests) = probe("web-config");
    assert_eq!(
        (&password["httpGet"]["path"], &password["httpGet"]["scheme"], tests),
        (&"/-/ready".into(), &"HTTPS".into(), 1)
    );
    // The kubelet has no certificate, and the pod of `helm test` has none either; what a Secret of somebody else wants is not known.
    let (closed, tests) = probe("web-config-secret");
    assert_eq!((&closed["tcpSocket"]["port"], closed.get("httpGet"), tests), (&"http".into(), None, 0));
}

#[test]
fn the_kubelet_asks_wherever_neither_a_certificate_nor_a_password_is_wanted_for_it() {
    let asks = |set: &str| {
        let manifests = chart::render(&["--set", &format!("webConfig.enabled=true,{set}")]);
        let container =
            chart::of_kind(&manifests, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0].clone();
        let opened = chart::arguments(&container).contains(&"--web.open-health".to_owned());
        let tests = chart::of_kind(&manifests, "Pod").len();
        (opened, ["livenessProbe", "readinessProbe"].map(|probe| container[probe].get("httpGet").is_some()), tests)
    };
    let users = "webConfig.config.basic_auth_users.ann=x";
    assert_eq!(asks(users), (true, [true; 2], 1));
    assert_eq!(asks(&format!("{users},web.openHealth=false")), (false, [false; 2], 0));
    let certificates = "webConfig.tlsSecret=a,webConfig.config.tls_server_config.client_auth_type";
    assert_eq!(asks(&format!("{certificates}=RequireAndVerifyClientCert")), (true, [false; 2], 0));
    assert_eq!(asks(&format!("{certificates}=VerifyClientCertIfGiven")), (true, [true; 2], 1));
    let own = "webConfig.existingSecret=a";
    assert_eq!(asks(own), (true, [false; 2], 0));
    assert_eq!(asks(&format!("{own},webConfig.clientCertificates=false")), (true, [true; 2], 1));
    assert_eq!(asks(&format!("{own},webConfig.authenticated=false,web.openHealth=false")), (false, [true; 2], 1));
}

#[test]
fn a_probe_keeps_its_handler_when_only_times_are_set_and_is_taken_whole_with_a_handler() {
    let (_, file) = chart::cases().into_iter().find(|(name, _)| name == "probes").unwrap();
    let container = |set: &str| {
        let manifests = chart::render(&["-f", &file, "--set", set]);
        chart::of_kind(&manifests, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0].clone()
    };
    let get = |path: &str, scheme: &str| json!({ "path": path, "port": "http", "scheme": scheme });
    let plain = container("replicas=1");
    let liveness = json!({ "httpGet": get("/-/healthy", "HTTP"), "periodSeconds": 20, "timeoutSeconds": 5, "failureThreshold": 6 });
    assert_eq!(plain["livenessProbe"], liveness);
    let readiness =
        json!({ "httpGet": get("/-/ready", "HTTP"), "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 5 });
    assert_eq!(plain["readinessProbe"], readiness);
    assert_eq!(plain["startupProbe"], json!({ "httpGet": get("/-/healthy", "HTTP"), "failureThreshold": 30 }));
    let closed = container("webConfig.enabled=true,webConfig.existingSecret=a");
    assert_eq!(closed["startupProbe"], json!({ "tcpSocket": { "port": "http" }, "failureThreshold": 30 }));
    let own = container("livenessProbe.exec.command={sh}");
    assert_eq!(own["livenessProbe"], json!({ "exec": { "command": ["sh"] }, "periodSeconds": 20 }));
    assert_eq!(container("startupProbe=null").get("startupProbe"), None);
}

#[test]
fn pods_that_are_all_stopped_first_have_no_rolling_update() {
    let strategy = |set: &str| {
        let manifests = chart::render(&["--set", set]);
        chart::of_kind(&manifests, "Deployment")[0]["spec"]["strategy"].clone()
    };
    assert_eq!(strategy("strategy.type=Recreate"), json!({ "type": "Recreate" }));
    assert_eq!(
        strategy("strategy.rollingUpdate.maxSurge=2")["rollingUpdate"],
        json!({ "maxSurge": 2, "maxUnavailable": 0 })
    );
}

#[test]
fn a_pod_on_the_nodes_network_goes_before_the_next_one_comes() {
    let update = |set: &str| {
        let manifests = chart::render(&["--set", set]);
        let rolling = chart::of_kind(&manifests, "Deployment")[0]["spec"]["strategy"]["rollingUpdate"].clone();
        (rolling["maxSurge"].clone(), rolling["maxUnavailable"].clone())
    };
    assert_eq!(update("replicas=1"), (1.into(), 0.into()));
    assert_eq!(update("hostNetwork=true"), (0.into(), 1.into()));
    let many_nodes = "hostNetwork=true,strategy.rollingUpdate.maxSurge=1,strategy.rollingUpdate.maxUnavailable=0";
    assert_eq!(update(many_nodes), (1.into(), 0.into()));
    assert_eq!(update("strategy.rollingUpdate=null"), (Value::Null, Value::Null));
}

#[test]
fn the_image_is_named_by_registry_repository_and_digest_or_tag() {
    let image = |set: &str| {
        let manifests = chart::render(&["--set", set]);
        let images: BTreeSet<String> = chart::pods(&manifests)
            .iter()
            .map(|(_, pod)| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(images.len(), 1, "the same for all pods");
        images.into_iter().next().unwrap()
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    assert_eq!(image("image.tag=1.2.3"), "ghcr.io/scrapetarget/scrapetarget-exporter:1.2.3");
    assert_eq!(image("image.registry=,image.repository=exporter,image.tag=x"), "exporter:x");
    assert_eq!(image("global.imageRegistry=mirror/,image.tag=x"), "mirror/scrapetarget/scrapetarget-exporter:x");
    assert_eq!(
        image(&format!("image.tag=x,image.digest={digest}")),
        format!("ghcr.io/scrapetarget/scrapetarget-exporter@{digest}")
    );
}

#[test]
fn the_types_that_may_be_probed_are_a_value_and_only_icmp_needs_a_sysctl_for_the_group_of_the_pod() {
    let rendered = |set: &str| {
        let manifests = chart::render(&["--set-json", set]);
        let spec = chart::one(&manifests, "Deployment", chart::RELEASE)["spec"]["template"]["spec"].clone();
        let arguments = chart::arguments(&spec["containers"][0]);
        let flag = arguments.iter().find_map(|argument| argument.strip_prefix("--probers="));
        (flag.map(ToOwned::to_owned), spec["securityContext"]["sysctls"].clone())
    };
    let sysctl = |value: &str| serde_json::json!([{ "name": "net.ipv4.ping_group_range", "value": value }]);
    let icmp = |more: &str| rendered(&format!(r#"probers=["Icmp"]{more}"#)).1;
    assert_eq!(
        rendered("replicas=1"),
        (Some("Http,Tcp,Dns,Grpc,WebSocket,Stun,Turn,Prometheus".to_owned()), Value::Null)
    );
    assert_eq!(
        rendered("probers=null"),
        (Some("Http,Tcp,Dns,Grpc,WebSocket,Stun,Turn,Prometheus".to_owned()), Value::Null),
        "the default"
    );
    assert_eq!(rendered("probers=[]"), (Some("none".to_owned()), Value::Null));
    assert_eq!(rendered(r#"probers=["Http","Icmp"]"#), (Some("Http,Icmp".to_owned()), sysctl("65532 65532")));
    assert_eq!(icmp(",podSecurityContext.runAsGroup=1000"), sysctl("1000 1000"));
    assert_eq!(icmp(",securityContext.runAsGroup=7"), sysctl("7 7"), "that of the container counts");
    assert_eq!(icmp(",openshift.enabled=true"), sysctl("0 0"));
    assert_eq!(icmp(",hostNetwork=true"), Value::Null, "the kubelet would refuse the pod");
    let all = r#",podSecurityContext.sysctls=[{"name":"net.ipv4.ping_group_range","value":"0 2147483647"}]"#;
    assert_eq!(icmp(all), sysctl("0 2147483647"), "the user's own");
}

#[test]
fn only_pods_that_poll_get_the_sysctl_for_pings() {
    let manifests = chart::render(&["--set-json", r#"probers=["Icmp"]"#]);
    let pods = chart::pods(&manifests).into_iter();
    let (with, without): (Vec<_>, Vec<_>) =
        pods.partition(|(_, pod)| !pod["spec"]["securityContext"]["sysctls"].is_null());
    let name = |(name, _): &(String, Value)| name.clone();
    assert_eq!(with.iter().map(name).collect::<Vec<_>>(), [chart::RELEASE]);
    assert!(
        without.len() >= 2,
        "the pods of the test and of the clean-up: {:?}",
        without.iter().map(name).collect::<Vec<_>>()
    );
}

/// The API server refuses a deadline, by default of 600 seconds, that is not beyond the time for which a pod must be ready.
#[test]
fn a_rollout_has_its_time_apart_from_that_for_which_a_pod_must_be_ready() {
    for (seconds, deadline) in [(1, 601), (600, 1200), (3600, 4200)] {
        let manifests = chart::render(&["--set", &format!("minReadySeconds={seconds}")]);
        let spec = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"];
        assert_eq!((&spec["minReadySeconds"], &spec["progressDeadlineSeconds"]), (&seconds.into(), &deadline.into()));
    }
    let manifests = chart::render(&[""; 0]);
    let spec = &chart::one(&manifests, "Deployment", chart::RELEASE)["spec"];
    assert!(spec.get("minReadySeconds").is_none() && spec.get("progressDeadlineSeconds").is_none());
}
