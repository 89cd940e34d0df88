//! What the chart permits the exporter: exactly what deploy/rbac.yaml explains, where it is needed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::chart;

/// Where a rule holds: a namespace, or everywhere.
type Place = Option<String>;

/// A rule as text, and where it holds for the exporter's account.
type Right = (String, Place);

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// What the roles that are bound to an account permit it.
fn rights(manifests: &[Value], account: &str) -> BTreeSet<Right> {
    let bindings = manifests.iter().filter(|manifest| text(&manifest["kind"]).ends_with("RoleBinding"));
    let mut rights = BTreeSet::new();
    for binding in bindings {
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
        if binding["subjects"][0]["name"] != account {
            continue;
        }
        let (kind, name) = (text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
        let place = binding["metadata"].get("namespace").map(text);
        let is_its_role = |role: &&Value| {
            let same = role["kind"] == *kind && role["metadata"]["name"] == *name;
            same && (kind == "ClusterRole" || role["metadata"].get("namespace").map(text) == place)
        };
        let roles: Vec<_> = manifests.iter().filter(is_its_role).collect();
        assert_eq!(roles.len(), 1, "{kind} {name}");
        rights.extend(roles[0]["rules"].as_array().unwrap().iter().map(|rule| (rule.to_string(), place.clone())));
    }
    rights
}

/// The same of a chart with these arguments.
fn rendered(arguments: &[&str]) -> BTreeSet<Right> {
    rights(&chart::render(arguments), chart::RELEASE)
}

fn documented() -> Vec<Value> {
    chart::parse(include_str!("../../deploy/rbac.yaml"))
}

fn everywhere(rights: &BTreeSet<Right>) -> BTreeSet<String> {
    rights.iter().filter(|(_, place)| place.is_none()).map(|(rule, _)| rule.clone()).collect()
}

/// The rules about a resource, and where they hold.
fn about(rights: &BTreeSet<Right>, resource: &str) -> BTreeSet<Place> {
    let quoted = format!("\"{resource}\"");
    rights.iter().filter(|(rule, _)| rule.contains(&quoted)).map(|(_, place)| place.clone()).collect()
}

fn places(names: &[&str]) -> BTreeSet<Place> {
    names.iter().map(|name| Some((*name).to_owned())).collect()
}

#[test]
fn the_rules_are_those_that_are_documented_each_with_its_reason() {
    let documented = rights(&documented(), chart::RELEASE);
    assert!(documented.len() >= 8, "{documented:#?}");
    assert_eq!(rendered(&[]), documented);
}

#[test]
fn the_roles_for_people_are_those_that_are_documented() {
    let roles = |manifests: &[Value]| -> Vec<(String, Value, Value)> {
        let is_for_people =
            |role: &&Value| ["-view", "-edit"].iter().any(|end| text(&role["metadata"]["name"]).ends_with(end));
        let roles = chart::of_kind(manifests, "ClusterRole").into_iter().filter(is_for_people);
        let aggregation = |role: &Value| {
            let labels = role["metadata"]["labels"].as_object().unwrap().iter();
            labels
                .filter(|(key, _)| key.contains("aggregate"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        roles.map(|role| (text(&role["metadata"]["name"]), role["rules"].clone(), aggregation(role))).collect()
    };
    let of_chart = roles(&chart::render(&[""; 0]));
    assert_eq!(of_chart.len(), 2);
    assert_eq!(of_chart, roles(&documented()));
    assert_eq!(roles(&chart::render(&["--set", "rbac.aggregate=false"])).len(), 0);
}

#[test]
fn with_watched_namespaces_the_same_rules_hold_there_and_nowhere_else() {
    let watched = rendered(&["--set", "watchNamespaces={a,b}"]);
    assert_eq!(everywhere(&watched), BTreeSet::new());
    let rules = |rights: &BTreeSet<Right>| rights.iter().map(|(rule, _)| rule.clone()).collect::<BTreeSet<_>>();
    assert_eq!(rules(&watched), rules(&rendered(&[])));
    assert_eq!(about(&watched, "scrapetargets"), places(&["a", "b"]));
    assert_eq!(about(&watched, "scrapetargets/status"), places(&["a", "b"]));
    assert_eq!(about(&watched, "secrets"), places(&["a", "b"]));
    assert_eq!(about(&watched, "servicemonitors"), places(&["a", "b", "prometheus"]));
    assert_eq!(about(&watched, "leases"), places(&["prometheus"]));
    assert_eq!(about(&watched, "endpoints"), places(&["prometheus"]));
    assert_eq!(about(&watched, "endpointslices"), places(&["a", "b", "prometheus"]));
    let set = "watchNamespaces={a},rbac.aggregate=false,crds.enabled=false";
    let without_rights_over_the_cluster = chart::render(&["--set", set]);
    for manifest in &without_rights_over_the_cluster {
        assert!(manifest["metadata"].get("namespace").is_some(), "{manifest}");
    }
}

#[test]
fn secrets_are_read_where_the_values_say() {
    let somewhere = rendered(&["--set", "rbac.secrets=namespaces,rbac.secretNamespaces={a}"]);
    assert_eq!(about(&somewhere, "secrets"), places(&["a"]));
    assert_eq!(about(&somewhere, "configmaps"), places(&["a"]));
    assert_eq!(about(&somewhere, "scrapetargets"), [None].into());
    let watched = "watchNamespaces={a,b},rbac.secrets=namespaces,rbac.secretNamespaces={b}";
    assert_eq!(about(&rendered(&["--set", watched]), "secrets"), places(&["b"]));
    let nowhere = chart::render(&["--set", "rbac.secrets=none"]);
    assert!(!nowhere.iter().any(|manifest| manifest["rules"].to_string().contains("secrets")));
    // Those whom a namespace belongs to bind it themselves.
    let for_binding = chart::render(&["--set", "rbac.secrets=namespaces"]);
    chart::one(&for_binding, "ClusterRole", "scrapetarget-exporter-secrets");
    assert_eq!(about(&rights(&for_binding, chart::RELEASE), "secrets"), BTreeSet::new());
}

/// Where the exporter may list and watch the EndpointSlices of all Services, with these values. It owns one slice besides.
fn members_are_found(set: &str) -> BTreeSet<Place> {
    let rule = r#"{"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":["list","watch"]}"#;
    let rights = rendered(&["--set", set]).into_iter();
    rights.filter(|(right, _)| right == rule).map(|(_, place)| place).collect()
}

#[test]
fn members_are_found_where_the_values_say() {
    assert_eq!(members_are_found("replicas=1"), [None].into());
    assert_eq!(members_are_found("rbac.members=none"), BTreeSet::new());
    assert_eq!(members_are_found("watchNamespaces={a,b}"), places(&["a", "b"]));
    assert_eq!(members_are_found("watchNamespaces={a,b},rbac.members=none"), BTreeSet::new());
    let some = "watchNamespaces={a,b},rbac.members=namespaces,rbac.memberNamespaces={b}";
    assert_eq!(members_are_found(some), places(&["b"]));
    // Those whom a namespace belongs to bind it themselves.
    let for_binding = "watchNamespaces={a,b},rbac.members=namespaces";
    assert_eq!(members_are_found(for_binding), BTreeSet::new());
    let role = chart::render(&["--set", for_binding]);
    let role = chart::one(&role, "ClusterRole", "scrapetarget-exporter-members");
    assert_eq!(role["rules"].as_array().unwrap().len(), 1, "nothing but the slices: {role}");
    // Neither the rights over Secrets nor the mode of discovery changes it.
    assert_eq!(members_are_found("rbac.secrets=none,discovery.mode=httpSD"), [None].into());
}

#[test]
fn no_right_over_slices_is_given_that_could_change_them() {
    // The roles of that case are not the chart's.
    for (case, file) in chart::cases().into_iter().filter(|(name, _)| name != "existing-roles") {
        for (rule, _) in rights(&chart::render_case(&file), chart::RELEASE) {
            let writes =
                ["create", "patch", "update", "delete", "*"].iter().any(|verb| rule.contains(&format!("\"{verb}\"")));
            let slices = rule.contains("\"endpointslices\"");
            assert!(!slices || !writes || rule.contains("resourceNames"), "{case}: {rule}");
        }
    }
}

#[test]
fn monitors_are_permitted_in_their_mode_only() {
    for mode in ["httpSD", "none"] {
        let set = format!("discovery.mode={mode}");
        assert_eq!(about(&rendered(&["--set", &set]), "servicemonitors"), BTreeSet::new());
    }
}

#[test]
fn openshift_and_further_rules_add_what_they_say() {
    let plain = rendered(&[]);
    let added = |arguments: &[&str]| rendered(arguments).difference(&plain).cloned().collect::<Vec<_>>();
    let restricted = [
        r#"{"apiGroups":[""],"resources":["endpoints/restricted"],"verbs":["create"]}"#,
        r#"{"apiGroups":["discovery.k8s.io"],"resources":["endpointslices/restricted"],"verbs":["create"]}"#,
    ];
    let restricted = restricted.map(|rule| (rule.to_owned(), Some("prometheus".to_owned()))).to_vec();
    assert_eq!(added(&["--set", "openshift.enabled=true"]), restricted);
    assert_eq!(added(&["--api-versions=security.openshift.io/v1"]), restricted);
    assert_eq!(added(&["--api-versions=security.openshift.io/v1", "--set", "openshift.enabled=false"]), []);
    let set = "rbac.extraRules[0].apiGroups={x},rbac.extraRules[0].resources={y},rbac.extraRules[0].verbs={get}";
    let further = r#"{"apiGroups":["x"],"resources":["y"],"verbs":["get"]}"#.to_owned();
    assert_eq!(added(&["--set", set]), vec![(further, None)]);
}

#[test]
fn roles_that_exist_are_bound_in_place_of_those_of_the_chart() {
    let roles = ["targets", "secrets", "members", "monitors", "release"];
    let bound = |further: &str| {
        let set = roles.map(|role| format!("rbac.existingClusterRoles.{role}=their-{role}")).join(",");
        let manifests = chart::render(&["--set", &set, "--set", &format!("rbac.aggregate=false,{further}")]);
        let made = chart::of_kind(&manifests, "Role").len() + chart::of_kind(&manifests, "ClusterRole").len();
        assert_eq!(made, 0, "{further}");
        let bindings = manifests.iter().filter(|manifest| text(&manifest["kind"]).ends_with("RoleBinding"));
        let bound = bindings.map(|binding| {
            assert_eq!(binding["roleRef"]["kind"], "ClusterRole");
            assert_eq!(binding["subjects"][0]["name"], chart::RELEASE);
            (text(&binding["roleRef"]["name"]), binding["metadata"].get("namespace").map(text))
        });
        bound.collect::<BTreeSet<(String, Place)>>()
    };
    let right = |role: &str, place: Option<&str>| (format!("their-{role}"), place.map(ToOwned::to_owned));
    let mut everywhere: BTreeSet<_> = roles.iter().take(4).map(|role| right(role, None)).collect();
    everywhere.insert(right("release", Some("prometheus")));
    assert_eq!(bound("replicas=1"), everywhere);
    let mut watched: BTreeSet<_> = roles.iter().take(4).map(|role| right(role, Some("a"))).collect();
    watched.extend([right("monitors", Some("prometheus")), right("release", Some("prometheus"))]);
    assert_eq!(bound("watchNamespaces={a}"), watched);
    // Where the owners of namespaces bind, the chart does not.
    let none: BTreeSet<_> = everywhere.iter().filter(|(role, _)| role != "their-secrets").cloned().collect();
    assert_eq!(bound("rbac.secrets=namespaces"), none);
    // A binding cannot be changed to another role, so no name of one is that of another.
    let names = |set: &str| {
        let manifests = chart::render(&["--set", set]);
        let bindings = manifests.iter().filter(|manifest| text(&manifest["kind"]).ends_with("RoleBinding"));
        bindings.map(|binding| text(&binding["metadata"]["name"])).collect::<BTreeSet<_>>()
    };
    let [own, one, other] =
        ["replicas=1", "rbac.existingClusterRoles.release=a", "rbac.existingClusterRoles.release=b"].map(names);
    assert_eq!((one.difference(&own).count(), one.difference(&other).count()), (1, 1), "{own:?} {one:?} {other:?}");
}

#[test]
fn the_lease_and_the_endpoints_are_those_that_the_exporter_is_told() {
    let rights = rendered(&["--set", "leaderElection.leaseName=other"]);
    assert!(rights.iter().any(|(rule, _)| rule.contains(r#""resourceNames":["other"]"#)), "{rights:#?}");
    let none = chart::render(&["--set", "rbac.create=false,rbac.aggregate=false,serviceAccount.create=false"]);
    assert!(!none.iter().any(|manifest| text(&manifest["kind"]).contains("Role")));
    assert_eq!(chart::of_kind(&none, "ServiceAccount").len(), 0);
}

#[test]
fn the_job_after_an_upgrade_may_delete_monitors_where_none_are_written_any_more() {
    let account = "scrapetarget-exporter-cleanup-monitors";
    let right = |set: &str| rights(&chart::render(&["--set", set]), account);
    let rule = r#"{"apiGroups":["monitoring.coreos.com"],"resources":["servicemonitors"],"verbs":["list","delete"]}"#;
    let everywhere: BTreeSet<Right> = [(rule.to_owned(), None)].into();
    assert_eq!(right("cleanup.afterUpgrade=always,discovery.mode=none"), everywhere);
    assert_eq!(right("cleanup.afterUpgrade=always,watchNamespaces={a}"), everywhere);
    // It writes them everywhere, so none is left over.
    assert_eq!(right("cleanup.afterUpgrade=always"), BTreeSet::new());
    // Without a look at the cluster nobody knows what was there.
    assert_eq!(right("discovery.mode=none"), BTreeSet::new());
}
