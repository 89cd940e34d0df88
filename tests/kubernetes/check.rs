//! `check --server-side`: the API server's own words about manifests, and whose fault it is when there are none.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::program::{Said, command, said};

fn target(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ {spec} }}\n---\n"
    )
}

/// What `check --server-side` says of these manifests to one with this kubeconfig.
fn check(kubeconfig: &Path, manifests: &str) -> Said {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.yaml"), manifests).unwrap();
    let mut command = command(["check", "--server-side", "a.yaml"]);
    said(command.env("KUBECONFIG", kubeconfig).current_dir(folder.path()))
}

#[test]
fn the_api_server_judges_each_target_in_its_own_words() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("check");
    let good = target("good", &namespace, "type: Sora, url: 'http://sora:3000/'");
    let secret = format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: s, namespace: {namespace} }}\n---\n");
    let misspelt = target("misspelt", &namespace, "type: Sora, url: 'http://sora:3000/', intervall: 5s");
    let wrong = target("wrong", &namespace, "type: Sora, url: 'ftp://sora/'");
    let lost = target("lost", "no-such-namespace", "type: Sora, url: 'http://sora:3000/'");
    let said = check(cluster.admin_kubeconfig(), &[good, secret, misspelt, wrong, lost].concat());
    assert_eq!((said.code, said.stderr.as_str()), (Some(1), ""), "{}", said.stdout);
    let lines: Vec<&str> = said.stdout.lines().filter(|line| line.contains("the API server")).collect();
    let [misspelt, wrong, lost, "the API server would accept 1 of 4 targets"] = lines[..] else {
        panic!("{}", said.stdout)
    };
    let refusal = |document: usize, line: usize, name: &str| {
        format!("a.yaml:{line}: document {document} (ScrapeTarget {name}): the API server rejects it: ")
    };
    let words = misspelt.strip_prefix(&refusal(3, 10, &format!("{namespace}/misspelt"))).unwrap_or(misspelt);
    assert_eq!(
        words,
        "ScrapeTarget in version \"v1alpha1\" cannot be handled as a ScrapeTarget: strict decoding error: unknown field \
         \"spec.intervall\""
    );
    let words = wrong.strip_prefix(&refusal(4, 15, &format!("{namespace}/wrong"))).unwrap_or(wrong);
    assert!(
        words.starts_with("ScrapeTarget.scrapetarget.dev \"wrong\" is invalid: spec.url: Invalid value: "),
        "{words}"
    );
    assert!(lost.ends_with("namespaces \"no-such-namespace\" not found"), "{lost}");
    let secrets = cluster.kubectl(&["get", "secrets,scrapetargets", "--namespace", &namespace, "--output", "name"]);
    assert_eq!(secrets.stdout, "", "nothing is stored");
}

#[test]
fn a_target_is_judged_as_it_stands_in_the_file_and_not_mixed_with_the_one_in_the_cluster() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("check");
    cluster.apply(&target("a", &namespace, "type: Orion, url: 'http://orion/', orion: { level: Total }"));
    let said = check(cluster.admin_kubeconfig(), &target("a", &namespace, "type: Sora, url: 'http://sora:3000/'"));
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.ends_with("the API server would accept 1 of 1 targets\n"), "{}", said.stdout);
}

#[test]
fn one_who_may_not_create_targets_is_told_the_rule_and_is_asked_about_other_namespaces_all_the_same() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let [open, closed] = ["check", "check"].map(|prefix| cluster.namespace(prefix));
    let kubeconfig = cluster.kubeconfig_of(&open, "author");
    let rules = "[{ apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [create] }]";
    cluster.grant(&open, "author", &open, rules);
    let both =
        [&closed, &open].map(|namespace| target("a", namespace, "type: Sora, url: 'http://sora:3000/'")).concat();
    let said = check(&kubeconfig, &both);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    let denied = format!("not permitted in namespace {closed}: a Role or ClusterRole must have the rule ");
    let rule = "{apiGroups: [\"scrapetarget.dev\"], resources: [\"scrapetargets\"], verbs: [\"create\"]}";
    assert!(said.stdout.contains(&format!("the API server was not queried: {denied}{rule}\n")), "{}", said.stdout);
    assert!(said.stdout.ends_with("the API server would accept 1 of 2 targets\n"), "{}", said.stdout);
}

#[test]
fn without_the_crd_or_without_an_answer_one_line_says_what_to_do() {
    let cluster = Cluster::private();
    let good = target("good", "default", "type: Sora, url: 'http://sora:3000/'");
    let missing = check(cluster.admin_kubeconfig(), &good);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), "1 good target, 0 problems\n"));
    assert!(missing.stderr.contains("scrapetarget-exporter crd | kubectl apply --server-side"), "{}", missing.stderr);

    let stranger = fs::read_to_string(cluster.admin_kubeconfig()).unwrap().replace("admin-token", "no-token");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("kubeconfig");
    fs::write(&file, stranger).unwrap();
    let refused = check(&file, &good);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("does not accept the credentials"), "{}", refused.stderr);

    cluster.kill();
    let away = check(cluster.admin_kubeconfig(), &good);
    assert_eq!(away.code, Some(1));
    assert!(away.stderr.starts_with("error: the API server cannot be reached: "), "{}", away.stderr);
}
