//! The program from outside: what it prints, where, and with which exit code.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData};
use simulators::edumeet::Edumeet;
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use simulators::sora::Node;
use simulators::{Mode, Simulated};
use support::faults::closed_port;
use support::old::{pem_of, version_1};
use support::program::{PATIENCE, Running, Said, command, folder_with, run, said, said_to, signal};
use tempfile::TempDir;

const COMMANDS: [&str; 9] = ["run", "demo", "simulate", "probe", "check", "crd", "convert", "cleanup", "healthcheck"];

/// One line on stderr, nothing on stdout; the line.
fn one_line(said: &Said) -> &str {
    let line = said.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {:?}", said.stderr));
    assert!(line.starts_with("error: ") && !line.contains('\n'), "not one line: {:?}", said.stderr);
    line
}

/// A port that is free now; nobody is told to take it.
const FREE: &str = "127.0.0.1:0";

#[test]
fn every_command_has_help_and_the_program_has_a_version() {
    for arguments in COMMANDS.iter().map(|name| vec![*name, "--help"]).chain([vec!["--help"], vec!["-h"]]) {
        let said = run(&arguments);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(said.stdout.contains("Usage: scrapetarget-exporter"), "{arguments:?}: {}", said.stdout);
    }
    let version = run(["--version"]);
    assert_eq!(version.stdout, format!("scrapetarget-exporter {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(version.code, Some(0));
}

#[test]
fn the_help_of_run_names_the_variable_of_every_flag() {
    let help = run(["run", "--help"]).stdout;
    let flags: Vec<&str> =
        help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2 && *word != "--help").collect();
    assert!(flags.len() >= 10, "{flags:?}");
    for flag in flags {
        // Descriptions name flags as well, some with a value.
        let name =
            flag.split('=').next().unwrap().trim_start_matches("--").trim_end_matches([',', ';', ':', '.', ')', ']']);
        // Another name of --listen-address, as other exporters have it.
        if name == "web.listen-address" {
            continue;
        }
        let variable = name.replace(['-', '.'], "_").to_uppercase();
        assert!(help.contains(&format!("SCRAPETARGET_{variable}=")), "{flag} has no variable in:\n{help}");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_that_says_what_to_write() {
    let run_on = |more: &[&str]| [&["run", "--targets", "x"], more].concat().join(" ");
    let cases = [
        (String::new(), "run, demo, simulate, probe, check, crd, convert, cleanup, healthcheck or help"),
        ("serve".to_owned(), "run, demo, simulate, probe, check, crd, convert, cleanup, healthcheck or help"),
        ("prob".to_owned(), "'probe'"),
        ("--bogus".to_owned(), "--bogus"),
        ("run --targets".to_owned(), "--targets <FILE_OR_DIRECTORY>"),
        ("run --target x".to_owned(), "'--targets'"),
        (run_on(&["--listen-address", "9850"]), "write HOST:PORT or :PORT"),
        (run_on(&["--listen-address", ":port"]), "write HOST:PORT or :PORT"),
        (run_on(&["--target-deny-cidr", "10.0.0.0/99"]), "for instance 10.0.0.0/8"),
        (run_on(&["--target-deny-cidr", "internal"]), "for instance 10.0.0.0/8"),
        (run_on(&["--max-body-bytes", "0"]), "for instance 16MiB"),
        (run_on(&["--max-body-bytes", "16MB"]), "for instance 16MiB"),
        (run_on(&["--max-inflight-bytes=-1"]), "for instance 16MiB"),
        (run_on(&["--max-inflight-bytes", "99999999999999999999GiB"]), "for instance 16MiB"),
        (run_on(&["--web.external-url", "exporter.example.com"]), "https://exporter.example.com/"),
        (run_on(&["--web.external-url", "ftp://exporter"]), "write an http or https URL"),
        (run_on(&["--web.max-connections", "0"]), "1..="),
        (run_on(&["--shutdown-delay", "1.5s"]), "write for instance 15s"),
        (run_on(&["--shutdown-delay", "5"]), "write for instance 15s"),
        (run_on(&["--log-level", "loud"]), "error, warn, info, debug, trace"),
        (run_on(&["--log-format", "xml"]), "logfmt, json"),
        (run_on(&["surplus"]), "surplus"),
        (run_on(&["--discovery.mode", "servicemonitor"]), "write serviceMonitor, httpSD or none"),
        (run_on(&["--discovery.monitor-namespace", "ours"]), "write target or release"),
        (run_on(&["--discovery.scheme", "HTTPS"]), "write http or https"),
        (run_on(&["--discovery.tls", "{"]), "write a JSON object"),
        (run_on(&["--discovery.tls", "true"]), "write a JSON object"),
        (run_on(&["--discovery.basic-auth", "prometheus"]), "write a JSON object"),
        (run_on(&["--discovery.scrape-class="]), "--discovery.scrape-class"),
        (run_on(&["--discovery.allowed-scrape-class", "a,"]), "write the name of a scrape class of your Prometheus"),
        (run_on(&["--discovery.monitor-label", "release"]), "write a label as KEY=VALUE"),
        (run_on(&["--discovery.monitor-label", "a=b,c=-"]), "write a label as KEY=VALUE"),
        (run_on(&["--discovery.monitor-annotation", "a/b/c=d"]), "write an annotation as KEY=VALUE"),
        (run_on(&["--discovery.service", "Probe"]), "lowercase letters, digits and inner hyphens"),
        (run_on(&["--leader-election.lease-name", "a-"]), "lowercase letters, digits and inner hyphens"),
        (run_on(&["--leader-election.identity="]), "--leader-election.identity"),
        (run_on(&["--leader-election.lease-duration", "4s"]), "whole seconds from 5s to 5m"),
        (run_on(&["--leader-election.lease-duration", "15500ms"]), "whole seconds from 5s to 5m"),
        (run_on(&["--namespace", "a.b"]), "lowercase letters, digits and inner hyphens"),
        (run_on(&["--release-name", "A"]), "lowercase letters, digits and inner hyphens"),
        (format!("run --release-name {}", "a".repeat(58)), "write --discovery.service NAME"),
        (format!("cleanup --release-name {}", "a".repeat(58)), "write --discovery.service NAME"),
        ("run --watch-namespace a,B".to_owned(), "lowercase letters, digits and inner hyphens"),
        ("run --target-selector team=".to_owned() + "media,", "write a label selector as kubectl -l takes it"),
        ("run --secret-label a=b=c".to_owned(), "write a label as KEY or KEY=VALUE"),
        ("run --advertise-address localhost".to_owned(), "--advertise-address"),
        ("run --discovery.tls {}".to_owned(), "write --discovery.scheme=https as well"),
        ("run --discovery.scheme http --web.config.file x --discovery.tls {}".to_owned(), "--discovery.scheme=https"),
        ("cleanup surplus".to_owned(), "surplus"),
        ("demo --interval often".to_owned(), "write for instance 15s"),
        ("demo --listen-address here".to_owned(), "write HOST:PORT or :PORT"),
        ("simulate".to_owned(), "<SERVER>"),
        ("simulate Kurento".to_owned(), "Sora, Orion, Mediasoup, Edumeet, Website, Dns, Signalling"),
        ("simulate Dns --fault slow".to_owned(), "error, hang, html, empty, truncated"),
        ("simulate Website --token x".to_owned(), "goes with Mediasoup, Edumeet, Signalling, Turn and Wilma"),
        ("simulate Sora --listen-address :1,:2".to_owned(), "or three for a cluster"),
        ("simulate Orion --listen-address :1,:2".to_owned(), "write one"),
        ("simulate Mediasoup --listen-address :1,:2".to_owned(), "write one"),
        ("simulate Edumeet --listen-address 9".to_owned(), "write HOST:PORT or :PORT"),
        ("simulate Wilma --listen-address :1".to_owned(), "write two, for Wilma and for Keyrock"),
        ("simulate Orion --token x".to_owned(), "goes with Mediasoup, Edumeet, Signalling, Turn and Wilma"),
        ("probe".to_owned(), "write probe FILE, or probe --type TYPE --url URL"),
        ("probe --type Sora".to_owned(), "write probe FILE, or probe --type TYPE --url URL"),
        ("probe --url x".to_owned(), "write probe FILE, or probe --type TYPE --url URL"),
        ("probe --url http://x/".to_owned(), "write --type with one of Sora, Orion, Mediasoup, Http"),
        ("probe --url tcp://x:25".to_owned(), "tcp://x:25 is the url of a target of type Tcp: write --type Tcp"),
        ("probe --url dns://x/a.test".to_owned(), "write --type Dns"),
        ("probe --url icmp://x".to_owned(), "write --type Icmp"),
        ("probe --url grpcs://x".to_owned(), "write --type Grpc"),
        ("probe --type Http --url tcp://x:25".to_owned(), "it is the url of a target of type Tcp"),
        ("probe --type Icmp --url icmp://x --icmp-max-payload 65508".to_owned(), "65507"),
        ("probe --type Kurento --url http://x/".to_owned(), "write one of Sora, Orion, Mediasoup"),
        ("probe --type Sora --url x".to_owned(), "http://HOST:PORT/PATH"),
        ("probe --type Sora --url ftp://x/".to_owned(), "http://HOST:PORT/PATH"),
        ("probe --type Sora --url http://x/ --target a".to_owned(), "write probe FILE --target NAME"),
        ("probe --type Sora --url http://x/ --set interval".to_owned(), "write FIELD=VALUE"),
        ("probe --type Sora --url http://x/ --set interval=[".to_owned(), "--set interval"),
        ("probe --type Sora --url http://x/ --set interval=1.5s".to_owned(), "for instance 15s"),
        ("probe --type Sora --url http://x/ --set sora.clusterMetric=true".to_owned(), "\"clusterMetrics\""),
        ("probe --type Sora --url http://x/ --set url.a=b".to_owned(), "--set url.a"),
        ("probe --type Sora --url http://x/ --timeout 0.5s".to_owned(), "write for instance 15s"),
        ("probe file --type Sora".to_owned(), "--type"),
        ("probe file --set interval=5s".to_owned(), "write the field itself"),
        ("probe file --members-dns".to_owned(), "in a FILE, write members: {dns: {}}"),
        ("probe --type Sora --url http://127.0.0.1:9/ --members-dns".to_owned(), "the host in url is an address"),
        ("probe --type Sora --url http://x/ --set members.service={}".to_owned(), "write dns: {} instead"),
        ("probe --type Sora --url http://x/ --members-dns --set members.service={}".to_owned(), "write one of them"),
        ("check".to_owned(), "<FILE>"),
        ("crd surplus".to_owned(), "surplus"),
        ("healthcheck here".to_owned(), "http://127.0.0.1:9850/-/healthy"),
        ("healthcheck unix:/run/x".to_owned(), "http://127.0.0.1:9850/-/healthy"),
    ];
    for (line, wanted) in cases {
        let said = run(line.split_whitespace());
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{line}: {}", said.stderr);
        assert!(one_line(&said).contains(wanted), "{line}: {:?} is not in {:?}", wanted, said.stderr);
    }
}

#[test]
fn what_a_single_probe_cannot_have_is_one_line_that_says_what_to_write() {
    let secret = "spec.http.bodySecretRef: with --type and --url there is no Secret: write the target into a FILE";
    for (flags, wanted) in [
        (&["--timeout", "0s"][..], "write a duration above 0s, and 1h at most"),
        (&["--timeout", "1h1ms"], "write a duration above 0s, and 1h at most"),
        (&["--set", "http.bodySecretRef={name: s, key: k}"], secret),
    ] {
        let said = run([&["probe", "--type", "Http", "--url", "http://x/"][..], flags].concat());
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{flags:?}: {}", said.stderr);
        assert!(one_line(&said).contains(wanted), "{flags:?}: {wanted:?} is not in {:?}", said.stderr);
    }
}

#[test]
fn a_wrong_variable_is_one_line_that_says_what_to_write() {
    for (name, value, wanted) in [
        ("LISTEN_ADDRESS", "9850", "write HOST:PORT or :PORT"),
        ("TARGET_DENY_CIDR", "10.0.0.0/8,all", "for instance 10.0.0.0/8"),
        ("MAX_BODY_BYTES", "lots", "for instance 16MiB"),
        ("MAX_INFLIGHT_BYTES", "0", "for instance 16MiB"),
        ("WEB_EXTERNAL_URL", "x", "https://exporter.example.com/"),
        ("WEB_MAX_CONNECTIONS", "many", "invalid digit"),
        ("SHUTDOWN_DELAY", "soon", "write for instance 15s"),
        ("SHUTDOWN_DELAY", "5s\nx", "write for instance 15s"),
        ("LOG_LEVEL", "loud", "error, warn, info, debug, trace"),
        ("LOG_FORMAT", "xml", "logfmt, json"),
        ("DISCOVERY_MODE", "None", "write serviceMonitor, httpSD or none"),
        ("DISCOVERY_MONITOR_LABEL", "a=b,c", "write a label as KEY=VALUE"),
        ("DISCOVERY_MONITOR_ANNOTATION", "a=b, c\nd", "write an annotation as KEY=VALUE"),
        ("LEADER_ELECTION_LEASE_DURATION", "1h", "whole seconds from 5s to 5m"),
        ("RELEASE_NAME", "", "lowercase letters, digits and inner hyphens"),
    ] {
        let said = said(command(["run", "--targets", "x"]).env(format!("SCRAPETARGET_{name}"), value));
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{name}: {}", said.stderr);
        assert!(one_line(&said).contains(wanted), "{name}={value}: {wanted:?} is not in {:?}", said.stderr);
        let blamed = format!("for the variable SCRAPETARGET_{name}");
        assert!(said.stderr.contains(&blamed), "{name}={value}: {blamed:?} is not in {:?}", said.stderr);
    }
}

#[test]
fn a_wrong_value_is_blamed_on_the_flag_if_it_stands_there() {
    for arguments in [["--log-level", "loud"], ["--log.level", "loud"]] {
        let mut run = command(["run", "--targets", "x"]);
        let said = said(run.args(arguments).env("SCRAPETARGET_LOG_LEVEL", "info"));
        assert_eq!(said.code, Some(2));
        assert!(one_line(&said).contains("for '--log-level <LEVEL>'"), "{}", said.stderr);
    }
}

#[test]
fn a_variable_that_belongs_to_no_flag_is_told_and_what_kubernetes_sets_is_not() {
    let service =
        [("SCRAPETARGET_EXPORTER_SERVICE_HOST", "10.0.0.1"), ("SCRAPETARGET_EXPORTER_PORT_9850_TCP_ADDR", "10.0.0.1")];
    let mut check = command(["check", "/nowhere.yaml"]);
    let checked = said(check.env("SCRAPETARGET_LOG_LEVLE", "debug").envs(service));
    assert_eq!(
        checked.stderr,
        "warning: no flag uses the variable SCRAPETARGET_LOG_LEVLE, it has no effect: did you mean SCRAPETARGET_LOG_LEVEL?\n"
    );
    let mut run = command(["run", "--targets", "/nowhere.yaml", "--listen-address", FREE]);
    run.env("SCRAPETARGET_SHUTDOWNDELAY", "1s").envs(service);
    let mut running = Running::listening(run);
    running.wait("the warning", |running| {
        (running.logged("did you mean SCRAPETARGET_SHUTDOWN_DELAY?") == 1).then_some(())
    });
    assert_eq!(running.logged("SCRAPETARGET_EXPORTER"), 0, "{}", running.log());
}

#[test]
fn the_names_of_the_field_stand_for_ours() {
    let mut demo = command(["demo", "--web.listen-address", FREE, "--log.level", "debug", "--log.format", "json"]);
    demo.args(["--once", "--interval", "1h"]);
    let demo = said(&mut demo);
    assert_eq!(demo.code, Some(0), "{}", demo.stderr);
    assert!(demo.stderr.contains(r#""level":"DEBUG""#), "{}", demo.stderr);
    let help = run(["help", "run"]);
    assert_eq!(help.code, Some(0));
    for alias in ["--web.listen-address", "--log.level", "--log.format"] {
        assert!(help.stdout.contains(alias), "{alias}");
    }
}

#[test]
fn help_is_a_command() {
    for (asked, same) in [(&["help"][..], &["--help"][..]), (&["help", "probe"], &["probe", "--help"])] {
        let (help, flag) = (run(asked), run(same));
        assert_eq!((help.code, help.stdout), (Some(0), flag.stdout));
    }
    let unknown = run(["help", "prob"]);
    assert_eq!(unknown.code, Some(2));
    assert!(one_line(&unknown).contains("prob"), "{}", unknown.stderr);
}

/// Runs a shell command in which `$0` is the program.
fn shell(script: &str, folder: &Path) -> Said {
    let program = command([""; 0]).get_program().to_owned();
    let mut shell = std::process::Command::new("bash");
    said(shell.args(["-c", script]).arg(program).current_dir(folder))
}

#[test]
fn a_reader_that_goes_away_is_no_panic_of_ours() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("bad.yaml"), BAD).unwrap();
    // What is written last comes after the reader has gone; the exit code is that of the program.
    for (arguments, code) in [
        ("probe --type Sora --url http://127.0.0.1:1/", 1),
        ("probe bad.yaml", 1),
        ("check bad.yaml", 1),
        ("crd", 0),
        ("--help", 0),
        ("run --bogus", 2),
        ("run --log-level trace --targets bad.yaml --listen-address 1.2.3.4:0", 1),
    ] {
        let script = format!("{{ sleep 0.2; exec \"$0\" {arguments}; }} 2>&1 | true; exit \"${{PIPESTATUS[0]}}\"");
        let said = shell(&script, folder.path());
        assert_eq!(said.code, Some(code), "{arguments}: {}{}", said.stdout, said.stderr);
    }
}

#[test]
fn targets_from_files_and_flags_about_those_of_kubernetes_contradict_each_other() {
    for (flag, value) in [
        ("watch-namespace", "media"),
        ("target-selector", "team=media"),
        ("secret-label", "scrapetarget.dev/use"),
        ("advertise-address", "10.0.0.1"),
        ("kube-context", "test"),
        ("namespace", "monitoring"),
        ("release-name", "other"),
        ("discovery.mode", "none"),
        ("discovery.tls", "{}"),
        ("leader-election.lease-duration", "15s"),
    ] {
        let variable = format!("SCRAPETARGET_{}", flag.to_uppercase().replace(['-', '.'], "_"));
        let flags = run(["run", "--targets", "x", &format!("--{flag}"), value]);
        let by_variable = said(command(["run", "--targets", "x"]).env(&variable, value));
        let both = said(command(["run"]).env("SCRAPETARGET_TARGETS", "x").env(&variable, value));
        for said in [flags, by_variable, both] {
            assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{flag}: {}", said.stderr);
            let line = one_line(&said);
            assert!(line.contains(&format!("--{flag} is for those of Kubernetes")), "{line}");
            assert!(line.contains("--targets") && line.contains(&variable), "{line}");
        }
    }
}

/// A command where there is neither a kubeconfig nor a pod.
fn without_cluster(arguments: &[&str], home: &Path) -> std::process::Command {
    let mut command = command(arguments);
    command.env("HOME", home).env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    command
}

#[test]
fn where_there_is_no_cluster_one_line_says_what_to_do_instead() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("good.yaml"), GOOD).unwrap();
    let file = folder.path().join("good.yaml");
    let address = ["run", "--listen-address", FREE];
    for (arguments, wanted) in [
        (&address[..], "set --targets"),
        (&["cleanup"], "run this in the cluster"),
        (&["check", "--server-side", file.to_str().unwrap()], "leave out --server-side"),
    ] {
        let said = said(&mut without_cluster(arguments, folder.path()));
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.stderr);
        let line = one_line(&said);
        assert!(line.contains("set KUBECONFIG") && line.contains(wanted), "{line}");
    }
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(&kubeconfig, "apiVersion: v1\nkind: Config\n").unwrap();
    let mut unknown = without_cluster(&["run", "--listen-address", FREE, "--kube-context", "nowhere"], folder.path());
    let unknown = said(unknown.env("KUBECONFIG", &kubeconfig));
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""), "{}", unknown.stderr);
    assert!(one_line(&unknown).contains("nowhere"), "{}", unknown.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_is_told_after_what_could_be_checked_without_it() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("good.yaml"), GOOD).unwrap();
    let server = closed_port();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{ name: a, context: {{ cluster: a, user: a }} }}]\n\
         users: [{{ name: a, user: {{}} }}]\nclusters: [{{ name: a, cluster: {{ server: '{server}' }} }}]\n"
    );
    fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
    let mut asked = without_cluster(&["check", "--server-side", "good.yaml"], folder.path());
    let said = said(asked.env("KUBECONFIG", "kubeconfig").current_dir(folder.path()));
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), "1 good target, 0 problems\n"), "{}", said.stderr);
    let line = one_line(&said);
    assert!(line.contains("the API server cannot be reached") && line.contains("refused"), "{line}");

    let proxy = closed_port();
    let kubeconfig = fs::read_to_string(folder.path().join("kubeconfig")).unwrap();
    fs::write(folder.path().join("kubeconfig"), kubeconfig.replace(&server, "https://api.proxied.test")).unwrap();
    let by_proxy = asked.env("HTTPS_PROXY", &proxy).env_remove("NO_PROXY").env_remove("no_proxy");
    let said = support::program::said(by_proxy);
    let place = proxy.trim_start_matches("http://").trim_end_matches('/');
    let words = format!("the proxy {place} (HTTPS_PROXY) cannot be reached: Connection refused");
    assert!(one_line(&said).contains(&words), "{}", said.stderr);
}

#[test]
fn a_variable_stands_for_its_flag_and_a_flag_counts_more() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("missing.yaml");
    let mut from_variables = command(["run"]);
    from_variables.env("SCRAPETARGET_TARGETS", folder.path()).env("SCRAPETARGET_WEB_CONFIG_FILE", &config);
    let failed = said(&mut from_variables);
    assert_eq!(failed.code, Some(1));
    assert!(one_line(&failed).contains("missing.yaml"), "{}", failed.stderr);
    let failed = said(from_variables.args(["--web.config.file", "other.yaml"]));
    assert!(one_line(&failed).contains("other.yaml"), "{}", failed.stderr);
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in
        [vec!["run", "--targets", "x", "--listen-address", &address], vec!["demo", "--listen-address", &address]]
    {
        let said = run(&arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
        let line = one_line(&said);
        assert!(line.contains(&address) && line.contains("in use"), "{line}");
    }
}

#[test]
fn a_web_config_that_cannot_be_used_is_one_line_with_its_path() {
    let folder = TempDir::new().unwrap();
    for (name, text, wanted) in [
        ("empty.yaml", "", "empty"),
        ("broken.yaml", "basic_auth_users: [\n  }\n", "line"),
        ("unknown.yaml", "basic_auth_user: {}\n", "basic_auth_user"),
        ("hash.yaml", "basic_auth_users: { alice: hunter2 }\n", "alice"),
        ("tls.yaml", "tls_server_config: { cert_file: nowhere.crt, key_file: nowhere.key }\n", "nowhere.crt"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let arguments =
            ["run", "--targets", "x", "--listen-address", FREE, "--web.config.file", path.to_str().unwrap()];
        let said = run(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{name}: {}", said.stderr);
        let line = one_line(&said);
        assert!(line.contains(name) && line.contains(wanted) && !line.contains("hunter2"), "{name}: {line}");
        assert_eq!(line.matches("error:").count(), 1, "{line}");
    }
}

#[test]
fn crd_prints_the_file_in_the_repository() {
    let said = run(["crd"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    assert!(said.stdout == include_str!("../crds/scrapetargets.yaml"), "make generate");
}

const GOOD: &str = "\
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: good, namespace: webrtc }
spec: { type: Sora, url: \"http://sora:3000/\" }
";

const BAD: &str = "\
# Two mistakes in the second document, and a third that is no YAML.
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: fine }
spec: { type: Orion, url: \"http://orion:1026/\" }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: bad }
spec:
  type: Sora
  url: http://sora:3000/
  intervall: 5s
  labels:
    instance: mine
---
kind: [
";

/// `check` on some files of a folder; paths in what it says are relative to the folder.
fn check(folder: &Path, names: &[&str]) -> Said {
    said(command(["check"]).args(names).current_dir(folder))
}

#[test]
fn check_tells_every_problem_with_its_place() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("good.yaml", GOOD);
    write("bad.yaml", BAD);
    fs::create_dir(folder.path().join("all")).unwrap();
    write("all/good.yaml", GOOD);
    write("all/bad.yml", BAD);
    write("all/notes.txt", "no manifest");

    let good = check(folder.path(), &["good.yaml"]);
    assert_eq!((good.code, good.stdout.as_str(), good.stderr.as_str()), (Some(0), "1 good target, 0 problems\n", ""));

    let bad = check(folder.path(), &["bad.yaml"]);
    assert_eq!((bad.code, bad.stderr.as_str()), (Some(1), ""));
    let lines: Vec<&str> = bad.stdout.lines().collect();
    let [unknown, label, syntax, "1 good target, 3 problems"] = lines[..] else { panic!("{}", bad.stdout) };
    let place = "document 2 (ScrapeTarget default/bad)";
    assert!(unknown.starts_with(&format!("bad.yaml:14: {place}: spec.intervall: ")), "{unknown}");
    assert!(unknown.contains("did you mean \"interval\"?"), "{unknown}");
    assert!(label.starts_with(&format!("bad.yaml:16: {place}: spec.labels[instance]: ")), "{label}");
    assert!(syntax.starts_with("bad.yaml:18: document 3: is not well-formed YAML"), "{syntax}");

    let both = check(folder.path(), &["good.yaml", "bad.yaml"]);
    assert!(both.code == Some(1) && both.stdout.ends_with("2 good targets, 3 problems\n"), "{}", both.stdout);

    let directory = check(folder.path(), &["all"]);
    assert_eq!(directory.code, Some(1));
    assert!(directory.stdout.contains("all/bad.yml:14: "), "{}", directory.stdout);
    assert!(directory.stdout.ends_with("2 good targets, 3 problems\n"), "{}", directory.stdout);

    let twice = check(folder.path(), &["good.yaml", "all/good.yaml"]);
    assert_eq!(twice.code, Some(1));
    assert!(twice.stdout.contains("is already declared at good.yaml:1"), "{}", twice.stdout);

    let missing = check(folder.path(), &["nowhere.yaml"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stdout.starts_with("nowhere.yaml: cannot be read"), "{}", missing.stdout);
}

#[test]
fn check_reads_lists_json_in_a_row_and_standard_input() {
    let folder = TempDir::new().unwrap();
    let target = |name: &str| {
        let head = r#"{"apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": {"name": ""#;
        format!(r#"{head}{name}"}}, "spec": {{"type": "Sora", "url": "http://h:3000/"}}}}"#)
    };
    let list = format!(
        r#"{{"apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTargetList", "items": [{}]}}"#,
        target("a")
    );
    fs::write(folder.path().join("list.json"), &list).unwrap();
    let row = format!("{}\n{}{}\n", target("b"), target("c"), target("d"));
    fs::write(folder.path().join("row.json"), &row).unwrap();
    let files = check(folder.path(), &["list.json", "row.json"]);
    assert_eq!((files.code, files.stdout.as_str()), (Some(0), "4 good targets, 0 problems\n"));

    for name in ["-", "/dev/stdin"] {
        let said = said_to(command(["check", "list.json", name]).current_dir(folder.path()), &row, PATIENCE);
        assert_eq!((said.code, said.stdout.as_str()), (Some(0), "4 good targets, 0 problems\n"), "{name}");
    }
    let bad = said_to(&mut command(["check", "-"]), &row.replace("Sora", "Soar"), PATIENCE);
    assert_eq!(bad.code, Some(1));
    assert!(bad.stdout.starts_with("<stdin>:1: document 1 (ScrapeTarget default/b): spec.type: "), "{}", bad.stdout);
    let mut piped = std::process::Command::new("bash");
    let program = env!("CARGO_BIN_EXE_scrapetarget-exporter");
    piped.args(["-c", &format!("'{program}' check <(cat row.json)")]).current_dir(folder.path());
    assert_eq!(said(&mut piped).stdout, "3 good targets, 0 problems\n");
}

#[test]
fn check_says_that_there_is_no_target_and_run_does_not_take_standard_input() {
    let none = said_to(&mut command(["check", "-"]), "apiVersion: v1\nkind: List\nitems: []\n", PATIENCE);
    assert_eq!(none.code, Some(0), "a chart may have none: {}", none.stdout);
    assert_eq!(none.stdout, "there is no ScrapeTarget in what was read (note)\n0 good targets, 0 problems\n");
    for kind in ["ScrapTarget", "scrapetarget", "ScrapeTargets"] {
        let said = said_to(&mut command(["check", "-"]), &GOOD.replace("ScrapeTarget", kind), PATIENCE);
        assert_eq!(said.code, Some(1), "{kind}: {}", said.stdout);
        assert!(said.stdout.contains("did you mean \"ScrapeTarget\"?"), "{}", said.stdout);
    }
    for name in ["-", "/dev/stdin"] {
        let said = run(["run", "--targets", name]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{}", said.stderr);
        assert!(one_line(&said).contains("write a FILE or a directory"), "{}", said.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_takes_its_target_from_standard_input() {
    let server = Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let target = GOOD.replace("http://sora:3000/", &server.url());
    let said = said_to(&mut command(["probe", "-"]), &target, PATIENCE);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}

#[test]
fn check_notes_a_secret_that_must_be_elsewhere_without_failing() {
    let folder = TempDir::new().unwrap();
    let reference = ", authorization: { credentials: { name: sora, key: token } } }\n";
    let text = GOOD.trim_end().trim_end_matches('}').to_owned() + reference;
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    let said = check(folder.path(), &["a.yaml"]);
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    assert!(said.stdout.contains("webrtc/sora") && said.stdout.contains("(note)"), "{}", said.stdout);

    let strict = check(folder.path(), &["--require-secrets", "a.yaml"]);
    assert_eq!(strict.code, Some(1), "{}", strict.stdout);
    let line = strict.stdout.lines().next().unwrap();
    assert!(
        line.starts_with("a.yaml:4: document 1 (ScrapeTarget webrtc/good): spec.authorization.credentials: "),
        "{line}"
    );
    assert!(line.ends_with("add its manifest, or provide its values with --secrets-directory"), "{line}");
    let secrets = folder.path().join("secrets");
    fs::create_dir_all(secrets.join("webrtc/sora")).unwrap();
    let with = || check(folder.path(), &["--require-secrets", "--secrets-directory", "secrets", "a.yaml"]);
    let missing = with();
    assert_eq!(missing.code, Some(1), "{}", missing.stdout);
    assert!(missing.stdout.contains("secrets/webrtc/sora/token or secrets/webrtc_sora_token"), "{}", missing.stdout);
    fs::write(secrets.join("webrtc/sora/token"), "t").unwrap();
    let found = with();
    assert_eq!((found.code, found.stdout.as_str()), (Some(0), "1 good target, 0 problems\n"));
    fs::write(secrets.join("webrtc/sora/token"), "\n").unwrap();
    let empty = with();
    assert_eq!(empty.code, Some(1), "{}", empty.stdout);
    let place = "a.yaml:4: document 1 (ScrapeTarget webrtc/good): spec.authorization.credentials: the key \"token\" of";
    assert!(empty.stdout.starts_with(place), "{}", empty.stdout);
    assert!(empty.stdout.ends_with("0 good targets, 1 problem\n"), "{}", empty.stdout);
}

/// A good target whose members are the pods of a Service.
fn of_service() -> String {
    GOOD.trim_end().trim_end_matches('}').to_owned() + ", members: { service: {} } }\n"
}

#[test]
fn check_notes_members_of_a_service_and_refuses_them_for_a_directory_of_secrets() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.yaml"), of_service()).unwrap();
    let line = "a.yaml:4: document 1 (ScrapeTarget webrtc/good): spec.members.service: the pods behind a Service are known in Kubernetes \
                only: for targets from files, write dns: {} instead, with a url whose host has the addresses of all processes";
    let cluster = check(folder.path(), &["--require-secrets", "a.yaml"]);
    assert_eq!((cluster.code, cluster.stdout), (Some(0), format!("{line} (note)\n1 good target, 0 problems\n")));
    fs::create_dir(folder.path().join("secrets")).unwrap();
    let files = check(folder.path(), &["--secrets-directory", "secrets", "a.yaml"]);
    assert_eq!((files.code, files.stdout), (Some(1), format!("{line}\n0 good targets, 1 problem\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_polls_the_addresses_of_a_name_and_not_the_pods_of_a_service() {
    let server = Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let url = server.url().replace("127.0.0.1", "localhost");
    let said = run(["probe", "--type", "Sora", "--url", &url, "--members-dns"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    support::exposition::parse(&said.stdout).unwrap();
    assert!(said.stdout.contains("\nprobe_success 1\n"), "{}", said.stdout);

    let folder = TempDir::new().unwrap();
    let file = folder.path().join("target.yaml");
    let of_name = of_service().replace("http://sora:3000/", &url).replace("service: {}", "dns: {}");
    fs::write(&file, &of_name).unwrap();
    let said = run(["probe", file.to_str().unwrap(), "--timeout", "30s"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));

    let closed = closed_port().replace("127.0.0.1", "localhost");
    let said = run(["probe", "--type", "Sora", "--url", &closed, "--members-dns"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("probe_failure_info{reason=\"connect\"} 1\n"), "{}", said.stdout);
    let [member, all] = said.stderr.lines().collect::<Vec<_>>()[..] else { panic!("{}", said.stderr) };
    assert!(member.starts_with("warning: 127.0.0.1:") && member.ends_with("(connect)"), "{member}");
    assert!(all.starts_with("error: ") && all.contains("127.0.0.1:"), "{all}");

    fs::write(&file, of_service()).unwrap();
    let said = run(["probe", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("probe_failure_info{reason=\"config\"} 1\n"), "{}", said.stdout);
    let line = one_line(&said);
    assert!(line.contains("spec.members.service: ") && line.ends_with("of all processes (config)"), "{line}");
}

#[test]
fn a_directory_of_secrets_goes_with_targets_from_files() {
    for arguments in
        [&["run", "--secrets-directory", "x"][..], &["probe", "--secrets-directory", "x", "--type", "Sora"]]
    {
        let said = run(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{}", said.stderr);
        one_line(&said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_prints_the_exposition_of_each_kind_of_server() {
    let local = ([127, 0, 0, 1], 0).into();
    let sora = Simulated::serve(Node::single(1).router(), local).await.unwrap();
    let broker = Broker::new(1);
    broker.pass(Duration::from_mins(10));
    let orion = Simulated::serve(broker.routes(), local).await.unwrap();
    let agent = Simulated::serve(Agent::new(1).routes(), local).await.unwrap();
    let edumeet = Simulated::serve(Edumeet::new(1).routes(), local).await.unwrap();
    for (kind, server, more, wanted) in [
        ("Sora", &sora, "sora.erlangVMMetrics=true", "sora_erlang_vm_"),
        ("sora", &sora, "interval=30s", "sora_up 1\n"),
        ("Orion", &orion, "orion.level=Total", "\norion_incoming_transactions_total "),
        ("Mediasoup", &agent, "mediasoup.perObject=[]", "mediasoup_up 1\n"),
        ("Mediasoup", &edumeet, "mediasoup.source=Prometheus", "edumeet_peers "),
    ] {
        let said = run(["probe", "--type", kind, "--url", &server.url(), "--set", more]);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{kind} {more}");
        support::exposition::parse(&said.stdout).unwrap_or_else(|error| panic!("{kind} {more}: {error}"));
        assert!(said.stdout.contains(wanted), "{wanted} is not in:\n{}", said.stdout);
        assert!(said.stdout.contains("\nprobe_success 1\n"), "{}", said.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_of_a_server_that_is_down_prints_why_and_exits_1() {
    let said = run(["probe", "--type", "Orion", "--url", &closed_port()]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("\nprobe_success 0\n"), "{}", said.stdout);
    assert!(said.stdout.contains("probe_failure_info{reason=\"connect\"} 1\n"), "{}", said.stdout);
    let line = one_line(&said);
    assert!(line.contains("admin_metrics") && line.contains("refused"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_gives_up_after_its_timeout() {
    let node = Node::single(1);
    node.switch().set(Mode::Hang);
    let server = Simulated::serve(node.router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let said = run(["probe", "--type", "Sora", "--url", &server.url(), "--timeout", "200ms"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("probe_failure_info{reason=\"timeout\"} 1\n"), "{}", said.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_of_a_file_with_several_targets_wants_to_know_which() {
    let server = Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let other = GOOD.replace("good", "other").replace("http://sora:3000/", &server.url());
    fs::write(&file, format!("{GOOD}---\n{other}")).unwrap();
    let file = file.to_str().unwrap();

    let unclear = run(["probe", file]);
    assert_eq!((unclear.code, unclear.stdout.as_str()), (Some(1), ""));
    let line = one_line(&unclear);
    assert!(line.contains("webrtc/good") && line.contains("webrtc/other") && line.contains("--target"), "{line}");
    for name in ["other", "webrtc/other"] {
        let chosen = run(["probe", file, "--target", name]);
        assert_eq!((chosen.code, chosen.stderr.as_str()), (Some(0), ""));
    }
    let nobody = run(["probe", file, "--target", "nobody"]);
    assert_eq!(nobody.code, Some(1));
    assert!(one_line(&nobody).contains("nobody"));
    fs::write(folder.path().join("bad.yaml"), BAD).unwrap();
    let bad = run(["probe", folder.path().join("bad.yaml").to_str().unwrap()]);
    assert_eq!(bad.code, Some(1));
    assert!(one_line(&bad).contains("bad.yaml:"), "{}", bad.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_of_a_good_target_is_not_kept_from_it_by_another_ones_mistake() {
    let server = Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let good = GOOD.replace("http://sora:3000/", &server.url());
    let bad = GOOD.replace("name: good", "name: bad").replace("http://", "ftp://");
    fs::write(&file, format!("{bad}---\n{good}")).unwrap();
    let probe = |name: &str| run(["probe", file.to_str().unwrap(), "--target", name]);
    let chosen = probe("good");
    assert_eq!(chosen.code, Some(0), "{}", chosen.stderr);
    assert!(chosen.stdout.contains("probe_success 1\n"), "{}", chosen.stdout);
    assert!(chosen.stderr.starts_with("warning: ") && chosen.stderr.contains("webrtc/bad"), "{}", chosen.stderr);
    let own = probe("bad");
    assert_eq!((own.code, own.stdout.as_str()), (Some(1), ""));
    assert!(one_line(&own).contains("(ScrapeTarget webrtc/bad): spec.url: "), "{}", own.stderr);
    let nobody = probe("nobody");
    assert!(one_line(&nobody).contains("holds no ScrapeTarget \"nobody\"; but "), "{}", nobody.stderr);
}

#[test]
fn a_value_of_set_that_is_no_yaml_is_told_once() {
    let said = run(["probe", "--type", "Sora", "--url", "http://127.0.0.1:9/", "--set", "sora={"]);
    assert_eq!(said.code, Some(2));
    let line = one_line(&said);
    assert!(
        line.contains("--set sora: the value is not well-formed YAML: ") && line.matches("error:").count() == 1,
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_logs_every_poll_and_trace_every_call_but_no_secret() {
    let server = Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let more = format!("\"{}\", interval: 1s, headers: [{{ name: x-api-key, value: hunter2-hunter2 }}]", server.url());
    fs::write(&file, GOOD.replace("\"http://sora:3000/\"", &more)).unwrap();
    for (level, polls, calls) in [("info", false, false), ("debug", true, false), ("trace", true, true)] {
        let mut running = Running::ready(&file, ["--log-level", level]).await;
        let polled = "message=polled target=webrtc/good kind=Sora outcome=success duration=";
        let called = "message=called target=webrtc/good call=GetStatsReport url=";
        if polls {
            running.wait("two polls", |running| (running.logged(polled) >= 2).then_some(()));
        }
        assert_eq!((running.logged(polled) > 0, running.logged(called) > 0), (polls, calls), "{}", running.log());
        assert!(!running.log().contains("hunter2"), "{}", running.log());
    }
}

#[test]
fn each_simulated_server_is_one_that_a_poll_takes() {
    let cases: [(&[&str], &[&str]); 5] = [
        (&["Sora"], &["--type", "Sora"]),
        (
            &["Sora", "--listen-address", "127.0.0.1:0,127.0.0.1:0"],
            &["--type", "Sora", "--set", "sora.clusterMetrics=true"],
        ),
        (&["Orion"], &["--type", "Orion"]),
        (&["Mediasoup"], &["--type", "Mediasoup"]),
        (&["Edumeet"], &["--type", "Mediasoup", "--set", "mediasoup.source=Prometheus"]),
    ];
    for (simulated, polled) in cases {
        let mut server = Running::spawn(command([&["simulate", "--listen-address", FREE], simulated].concat()));
        let count = simulated.iter().map(|word| word.split(FREE).count() - 1).sum::<usize>() + 1;
        let said = server.wait("its addresses", |server| {
            let said = server.stdout();
            (said.lines().count() == count).then_some(said)
        });
        for line in said.lines() {
            let url = format!("http://{}/", line.strip_prefix("listening on ").unwrap());
            let probe = run([&["probe", "--url", &url], polled].concat());
            assert_eq!((probe.code, probe.stderr.as_str()), (Some(0), ""), "{simulated:?}");
            assert!(probe.stdout.contains("probe_success 1"), "{simulated:?}: {}", probe.stdout);
        }
        signal(server.id(), "TERM");
        assert!(server.ended().success(), "{simulated:?}");
    }
}

/// A simulated server with these arguments, and what it says: the address, and more.
fn simulated(arguments: &[&str], until: &str) -> (Running, String, String) {
    let mut server = Running::spawn(command([&["simulate", "--listen-address", FREE], arguments].concat()));
    let said = server.wait("its words", |server| Some(server.stdout()).filter(|said| said.ends_with(until)));
    let address = said.lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    (server, address, said)
}

#[test]
fn a_simulated_website_is_one_that_probes_take_when_they_trust_its_authority() {
    let (_server, address, said) = simulated(&["website"], "-----END CERTIFICATE-----\n");
    let authority = said.split_once("signed by:\n").unwrap().1;
    let folder = TempDir::new().unwrap();
    let manifest = |name: &str, kind: &str, url: &str, tls: &str| {
        format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name} }}\n\
             spec: {{ type: {kind}, url: \"{url}\", tlsConfig: {{ {tls} }} }}\n---\n"
        )
    };
    let trusted = "ca: { configMap: { name: authority, key: ca.crt } }";
    let config_map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "authority" }, "data": { "ca.crt": authority },
    });
    let text = [
        manifest("page", "Http", &format!("https://{address}/"), trusted),
        manifest("moved", "Http", &format!("https://{address}/old"), trusted),
        manifest("port", "Tcp", &format!("tls://{address}"), trusted),
        manifest("unknown", "Http", &format!("https://{address}/"), "serverName: www.shop.test"),
        manifest("missing", "Http", &format!("https://{address}/nowhere"), trusted),
        config_map.to_string(),
    ];
    let file = folder.path().join("targets.yaml");
    fs::write(&file, text.concat()).unwrap();
    for (name, code, wanted) in [
        ("page", 0, "probe_http_status_code 200\n"),
        ("moved", 0, "probe_http_redirects 1\n"),
        ("port", 0, "probe_ssl_earliest_cert_expiry "),
        ("unknown", 1, "probe_failure_info{reason=\"tls\"} 1\n"),
        ("missing", 1, "probe_failure_info{reason=\"http_status\"} 1\n"),
    ] {
        let probe = run(["probe", file.to_str().unwrap(), "--target", name]);
        assert_eq!(probe.code, Some(code), "{name}: {}", probe.stderr);
        assert!(probe.stdout.contains(wanted), "{name}: {}", probe.stdout);
        let until = probe.stdout.lines().find_map(|line| line.strip_prefix("probe_ssl_earliest_cert_expiry "));
        let left = until.unwrap().parse::<f64>().unwrap() - unix_now();
        assert!((9.0..10.1).contains(&(left / 86_400.0)), "{name}: {left} s");
    }
    let debug = run(["probe", file.to_str().unwrap(), "--target", "moved", "--debug"]);
    assert_eq!(debug.code, Some(0), "{}", debug.stderr);
    for wanted in [
        "\n  address       127.0.0.1\n",
        "\nThe probe\n\n  request of https://127.0.0.1:",
        "\nIts timeline\n",
        "TLS 1.3",
        "redirected to https://127.0.0.1:",
        "\nThe certificates that the server sent, its own first\n\n  1. ",
        "CN=Simulated Authority 1",
    ] {
        assert!(debug.stdout.contains(wanted), "{wanted:?} in {}", debug.stdout);
    }
}

/// A mistake or several in a target of each type that probes.
const MISTAKES_OF_PROBES: &str = "\
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: web, namespace: shop }
spec: { type: Http, url: \"tcp://www.shop.test:443\", http: { valid_status_codes: [200] }, members: { dns: {} } }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: port, namespace: shop }
spec: { type: Tcp, url: \"tcp://www.shop.test\", headers: [{ name: a, value: b }], tcp: { queryResponse: [{ expect: \"(\", send: a, sendBase64: YQ== }] } }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: name, namespace: shop }
spec: { type: Dns, url: \"dns://10.0.0.1\", dns: { queryType: AA, transportProtocol: quic }, preferredIpProtocol: ipv6 }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: host, namespace: shop }
spec: { type: Icmp, url: \"icmp://10.0.0.1:80\", tlsConfig: {}, icmp: { count: 100 }, sourceIpAddress: eth0 }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: health, namespace: shop }
spec: { type: Grpc, url: \"http://10.0.0.1/\", grpc: { metadata: { grpc-timeout: [a] }, services: [a] }, http: {} }
";

#[test]
fn every_mistake_in_a_target_that_is_probed_is_told_with_its_place_and_what_to_write() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("mistakes.yaml");
    fs::write(&file, MISTAKES_OF_PROBES).unwrap();
    let said = run(["check", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    for (line, document, id, field, wanted) in [
        (4, 1, "web", "spec.http.valid_status_codes", "did you mean \"validStatusCodes\"?"),
        (4, 1, "web", "spec.members", "remove it"),
        (4, 1, "web", "spec.url", "url must be http://HOST:PORT/PATH?QUERY"),
        (9, 2, "port", "spec.headers", "remove it"),
        (9, 2, "port", "spec.tcp.queryResponse[0]", "mutually exclusive"),
        (9, 2, "port", "spec.tcp.queryResponse[0].expect", "unclosed group at character 1"),
        (9, 2, "port", "spec.url", "url must be tcp://HOST:PORT or tls://HOST:PORT"),
        (14, 3, "name", "spec.dns.queryType", "write A, AAAA, MX, NS, SOA, TXT"),
        (14, 3, "name", "spec.dns.transportProtocol", "\"udp\", \"tcp\""),
        (14, 3, "name", "spec.preferredIpProtocol", "\"ip4\", \"ip6\""),
        (14, 3, "name", "spec.url", "as in dns://SERVER/example.com, or in dns.queryName"),
        (19, 4, "host", "spec.icmp.count", "less than or equal to 10"),
        (19, 4, "host", "spec.sourceIpAddress", "for instance 10.0.0.7"),
        (19, 4, "host", "spec.tlsConfig", "remove it"),
        (19, 4, "host", "spec.url", "url must be icmp://HOST"),
        (24, 5, "health", "spec.grpc.metadata[grpc-timeout]", "remove it"),
        (24, 5, "health", "spec.grpc.services", "did you mean \"service\"?"),
        (24, 5, "health", "spec.http", "write type: Http"),
        (24, 5, "health", "spec.url", "url must be grpc://HOST:PORT or grpcs://HOST:PORT"),
    ] {
        let place = format!("{}:{line}: document {document} (ScrapeTarget shop/{id}): {field}: ", file.display());
        let found = said.stdout.lines().find_map(|line| line.strip_prefix(&place));
        assert!(found.is_some_and(|message| message.contains(wanted)), "{place}{wanted}: {}", said.stdout);
    }
}

#[test]
fn a_larger_ping_than_the_operator_allows_is_not_sent() {
    let probe = ["probe", "--type", "Icmp", "--url", "icmp://127.0.0.1", "--set", "icmp.payloadSize=1473"];
    let said = run(probe);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    assert!(said.stderr.contains("write at most 1472, or have"), "{}", said.stderr);
    // Whether the system then lets it be sent is another question.
    let said = run([&probe[..], &["--icmp-max-payload", "1473"]].concat());
    assert!(!said.stderr.contains("--icmp-max-payload"), "{}", said.stderr);
}

fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn a_simulated_name_server_is_one_that_probes_take_and_misbehaves_as_it_is_told() {
    let transports = [&[][..], &["--set", "dns.transportProtocol=tcp"]];
    for (fault, code, reason) in [
        (None, 0, None),
        (Some("error"), 1, Some("response")),
        (Some("hang"), 1, Some("timeout")),
        (Some("html"), 1, None),
    ] {
        let flags: Vec<&str> = fault.into_iter().flat_map(|fault| ["--fault", fault]).collect();
        let (_server, address, _) = simulated(&[&["Dns"], &flags[..]].concat(), "\n");
        for transport in transports {
            let url = format!("dns://{address}/www.shop.test?type=A");
            // Only what is never answered may be given up soon.
            let timeout = if matches!(fault, None | Some("error")) { "30s" } else { "1s" };
            let probe = ["probe", "--type", "Dns", "--timeout", timeout, "--url", &url];
            let probe = run([&probe, transport].concat());
            assert_eq!(probe.code, Some(code), "{fault:?} {transport:?}: {}{}", probe.stdout, probe.stderr);
            if let Some(reason) = reason {
                let wanted = format!("probe_failure_info{{reason=\"{reason}\"}} 1\n");
                assert!(probe.stdout.contains(&wanted), "{fault:?} {transport:?}: {}", probe.stdout);
            }
        }
    }
}

#[test]
fn a_simulated_broker_misbehaves_as_it_is_told() {
    let (_server, address, _) = simulated(&["Orion", "--fault", "error"], "\n");
    let probe = run(["probe", "--type", "Orion", "--url", &format!("http://{address}/")]);
    assert_eq!(probe.code, Some(1));
    assert!(probe.stdout.contains("probe_failure_info{reason=\"http_status\"} 1\n"), "{}", probe.stdout);
}

#[test]
fn a_fault_of_one_simulated_server_is_refused_for_another() {
    for (server, fault, words) in [
        ("Orion", "auth-webhook", "goes with Sora"),
        ("Sora", "expired-certificate", "goes with Website"),
        ("Orion", "lost-tokens", "go with Wilma"),
    ] {
        let said = run(["simulate", server, "--fault", fault]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{fault}");
        assert!(one_line(&said).contains(words), "{}", said.stderr);
    }
}

#[test]
fn a_simulated_sora_answers_while_its_auth_webhook_does_not() {
    let (_server, address, _) = simulated(&["Sora", "--fault", "auth-webhook"], "\n");
    let calls = || {
        let probe = run(["probe", "--type", "Sora", "--url", &format!("http://{address}/")]);
        assert_eq!(probe.code, Some(0), "{}", probe.stderr);
        ["failed", "successful"].map(|state| {
            let name = format!("sora_auth_webhook_total{{state=\"{state}\"}} ");
            probe.stdout.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<f64>().unwrap()
        })
    };
    let [failed, successful] = calls();
    let start = Instant::now();
    let now = loop {
        match calls() {
            [now, _] if now == failed => assert!(start.elapsed() < PATIENCE, "{failed} is {now} still"),
            now => break now,
        }
    };
    assert!(now[0] > failed);
    assert_eq!(now[1], successful);
}

#[test]
fn a_simulated_website_with_an_expired_certificate_is_refused_for_it() {
    let (_server, address, said) =
        simulated(&["website", "--fault", "expired-certificate"], "-----END CERTIFICATE-----\n");
    let authority = said.split_once("signed by:\n").unwrap().1;
    let config_map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "authority" }, "data": { "ca.crt": authority },
    });
    let manifest = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: page }}\nspec:\n  type: Http\n  \
         url: https://{address}/\n  tlsConfig: {{ ca: {{ configMap: {{ name: authority, key: ca.crt }} }} }}\n---\n{config_map}\n"
    );
    let folder = folder_with([("page.yaml", manifest.as_str())]);
    let probe = run(["probe".as_ref(), folder.path().join("page.yaml").as_os_str()]);
    assert_eq!(probe.code, Some(1), "{}", probe.stdout);
    assert!(probe.stdout.contains("probe_failure_info{reason=\"tls\"} 1\n"), "{}", probe.stdout);
    let expiry = probe.stdout.lines().find_map(|line| line.strip_prefix("probe_ssl_earliest_cert_expiry "));
    let ago = unix_now() - expiry.unwrap().parse::<f64>().unwrap();
    assert!((3600.0..3600.0 + 600.0).contains(&ago), "{ago}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_agent_with_a_token_wants_it() {
    let mut server = Running::spawn(command(["simulate", "Mediasoup", "--listen-address", FREE, "--token", "t"]));
    let said = server.wait("its address", |server| Some(server.stdout()).filter(|said| said.ends_with('\n')));
    let url = format!("http://{}/", said.trim().strip_prefix("listening on ").unwrap());
    let refused = run(["probe", "--type", "Mediasoup", "--url", &url]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_tells_a_healthy_service_from_none() {
    let down = run(["healthcheck", &closed_port()]);
    assert_eq!(down.code, Some(1));
    assert!(one_line(&down).starts_with("error: nothing listens at 127.0.0.1:"), "{}", down.stderr);
    let red =
        axum::Router::new().route("/red", axum::routing::get(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE }));
    let server =
        Simulated::serve(red.route("/green", axum::routing::get(|| async { "ok" })), ([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
    let red = run(["healthcheck", &format!("{}red", server.url())]);
    assert_eq!(red.code, Some(1));
    assert!(one_line(&red).contains("503"), "{}", red.stderr);
    let green = run(["healthcheck", &format!("{}green", server.url())]);
    assert_eq!((green.code, green.stdout.as_str(), green.stderr.as_str()), (Some(0), "", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_has_a_user_with_a_password_from_a_file_where_one_is_wanted() {
    let folder = TempDir::new().unwrap();
    let hash = bcrypt::hash("secret", 4).unwrap();
    let web = folder.path().join("web.yml");
    fs::write(&web, format!("basic_auth_users: {{ ann: {hash} }}\n")).unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    fs::write(folder.path().join("wrong"), "other\n").unwrap();
    let targets = folder.path().join("targets.yaml");
    fs::write(&targets, GOOD).unwrap();
    let service = |more: &[&str]| {
        let all = ["--targets", targets.to_str().unwrap(), "--web.config.file", web.to_str().unwrap()];
        Running::service([&all[..], more].concat())
    };
    let closed = service(&[]);
    let url = format!("{}/-/healthy", closed.base);
    let refused = run(["healthcheck", &url]);
    assert_eq!(refused.code, Some(1));
    assert!(one_line(&refused).contains("401"), "{}", refused.stderr);
    let wrong = folder.path().join("wrong");
    let asks = |file: &Path| run(["healthcheck", &url, "--username", "ann", "--password-file", file.to_str().unwrap()]);
    assert_eq!((asks(&password).code, asks(&wrong).code), (Some(0), Some(1)));
    let variables = [
        ("SCRAPETARGET_HEALTHCHECK_URL", url.as_str()),
        ("SCRAPETARGET_HEALTHCHECK_USERNAME", "ann"),
        ("SCRAPETARGET_HEALTHCHECK_PASSWORD_FILE", password.to_str().unwrap()),
    ];
    let by_variables = said(command(["healthcheck"]).envs(variables));
    assert_eq!((by_variables.code, by_variables.stderr.as_str()), (Some(0), ""));

    let open = service(&["--web.open-health"]);
    open.until_status("/-/ready", 200).await;
    assert_eq!(run(["healthcheck", &format!("{}/-/healthy", open.base)]).code, Some(0));
    assert_eq!(open.get("/metrics").await.unwrap().0, 401);

    // Who has shown no password is not told which files there are.
    let unknown = service(&["--targets", "/nothing/here", "--web.open-health"]);
    unknown.until_status("/-/ready", 503).await;
    assert_eq!(unknown.get("/-/ready").await.unwrap(), (503, "the targets are not known yet\n".to_owned()));
}

#[test]
fn healthcheck_shows_a_certificate_where_one_is_wanted() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let [(server, server_key), (client, client_key)] = ["server", "client"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        (write(&format!("{name}.crt"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem()))
    });
    let authority = write("ca.crt", authority.pem());
    let config = format!(
        "tls_server_config: {{ cert_file: {server}, key_file: {server_key}, client_ca_file: {authority}, \
         client_auth_type: RequireAndVerifyClientCert }}\n"
    );
    let (config, targets) = (write("web.yml", config), write("targets.yaml", GOOD.to_owned()));
    // Health without a password is no health without a certificate: this is asked for before any path is known.
    let service = Running::service(["--targets", &targets, "--web.config.file", &config, "--web.open-health"]);
    let url = format!("{}/-/healthy", service.base.replace("http://", "https://"));
    let bare = run(["healthcheck", &url]);
    assert_eq!(bare.code, Some(1));
    let wanted = "error: the service requires a client certificate: set --cert-file and --key-file";
    assert_eq!(one_line(&bare), wanted);
    let shown = run(["healthcheck", &url, "--cert-file", &client, "--key-file", &client_key]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    let key = KeyPair::generate().unwrap();
    let mut stranger = CertificateParams::new(["client".to_owned()]).unwrap();
    stranger.distinguished_name.push(DnType::CommonName, "stranger");
    let stranger = stranger.self_signed(&key).unwrap();
    let (stranger, key) = (write("stranger.crt", stranger.pem()), write("stranger.key", key.serialize_pem()));
    let unknown = run(["healthcheck", &url, "--cert-file", &stranger, "--key-file", &key]);
    let words = format!("error: --cert-file {stranger}: the service does not trust its authority");
    assert_eq!((unknown.code, one_line(&unknown)), (Some(1), words.as_str()));
    let alone = run(["healthcheck", &url, "--cert-file", &client]);
    assert_eq!(alone.code, Some(2));
    assert!(one_line(&alone).contains("--key-file"), "{}", alone.stderr);
}

#[test]
fn healthcheck_shows_a_certificate_of_version_1_as_polls_do() {
    let folder = TempDir::new().unwrap();
    let file = file_in(&folder);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["server".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (server, server_key) = (file("server.crt", &certificate.pem()), file("server.key", &key.serialize_pem()));
    let config = format!(
        "tls_server_config: {{ cert_file: {server}, key_file: {server_key}, client_auth_type: RequireAnyClientCert }}\n"
    );
    let (config, targets) = (file("web.yml", &config), file("targets.yaml", GOOD));
    let service = Running::service(["--targets", &targets, "--web.config.file", &config]);
    let url = format!("{}/-/healthy", service.base.replace("http://", "https://"));
    let key = KeyPair::generate().unwrap();
    let old = file("old.crt", &pem_of(&version_1(&key.subject_public_key_info(), &key)));
    let shown = run(["healthcheck", &url, "--cert-file", &old, "--key-file", &file("old.key", &key.serialize_pem())]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    let plain = run(["healthcheck", &url.replace("https://", "http://")]);
    assert_eq!(one_line(&plain), "error: the service speaks https: write https:// instead of http://");
}

#[test]
fn healthcheck_names_the_file_and_its_fault_before_it_asks() {
    let folder = TempDir::new().unwrap();
    let file = file_in(&folder);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["client".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (certificate, key) = (file("a.crt", &certificate.pem()), file("a.key", &key.serialize_pem()));
    let other = file("other.key", &KeyPair::generate().unwrap().serialize_pem());
    let of_kind = |kind: &str| format!("-----BEGIN {kind}-----\nMIIB\n-----END {kind}-----\n");
    let encrypted = file("encrypted.key", &of_kind("ENCRYPTED PRIVATE KEY"));
    let strange = file("strange.key", &of_kind("PRIVATE KEY"));
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    for (certificate, key, words) in [
        (&key, &key, format!("--cert-file {key}: contains no PEM certificate")),
        (&missing, &key, format!("--cert-file {missing}: cannot be read: No such file")),
        (&certificate, &missing, format!("--key-file {missing}: cannot be read: No such file")),
        (&certificate, &certificate, format!("--key-file {certificate}: contains no PEM private key")),
        (
            &certificate,
            &encrypted,
            format!("--key-file {encrypted}: contains an encrypted private key: write one without"),
        ),
        (&certificate, &strange, format!("--key-file {strange}: cannot be used: write a key of RSA of 2048")),
        (&certificate, &other, format!("--key-file {other}: is not the key of --cert-file {certificate}")),
    ] {
        let said = run(["healthcheck", &closed_port(), "--cert-file", certificate, "--key-file", key]);
        assert_eq!(said.code, Some(1));
        assert!(one_line(&said).starts_with(&format!("error: {words}")), "{}", said.stderr);
    }
}

/// Writes a file of this name and text, and tells its path.
fn file_in(folder: &TempDir) -> impl Fn(&str, &str) -> String {
    |name, text| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
