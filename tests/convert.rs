//! `convert`: what users of a blackbox exporter have, as ScrapeTargets that `check` accepts, with a line for each thing that is left behind.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use scrapetarget_exporter::file::documents;
use serde_json::{Value, json};
use support::program::{PATIENCE, Said, command, run, said_to};
use support::tools;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/convert").join(name)
}

/// Runs the command in the folder of the fixtures, so that messages name files and no folders.
fn convert(arguments: &[&str]) -> Said {
    let mut command = command(["convert"]);
    command.args(arguments).current_dir(fixture(""));
    said_to(&mut command, "", PATIENCE)
}

/// Converts these texts; `jobs` is a configuration of Prometheus.
fn converted(blackbox: &str, jobs: &str) -> Said {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("blackbox.yml"), blackbox).unwrap();
    fs::write(folder.path().join("prometheus.yml"), jobs).unwrap();
    let mut command = command(["convert", "blackbox.yml", "--prometheus", "prometheus.yml"]);
    command.current_dir(folder.path());
    said_to(&mut command, "", PATIENCE)
}

/// A job that asks for these targets by the module `m`.
fn job(targets: &str) -> String {
    format!(
        "scrape_configs:\n- job_name: j\n  metrics_path: /probe\n  params: {{module: [m]}}\n  static_configs: [{{targets: [{targets}]}}]\n  \
         relabel_configs:\n  - {{source_labels: [__address__], target_label: __param_target}}\n  - {{source_labels: [__param_target], \
         target_label: instance}}\n"
    )
}

/// The manifests of a stream, by kind and name.
fn manifests(stream: &str) -> BTreeMap<(String, String), Value> {
    let text = |value: &Value, field: &str| value.pointer(field).and_then(Value::as_str).unwrap().to_owned();
    let all = documents(stream).into_iter().map(|document| document.value.unwrap());
    all.map(|manifest| ((text(&manifest, "/kind"), text(&manifest, "/metadata/name")), manifest)).collect()
}

/// The spec of the only target.
fn only_spec(said: &Said) -> Value {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let mut targets = manifests(&said.stdout).into_iter().filter(|((kind, _), _)| kind == "ScrapeTarget");
    let (_, manifest) = targets.next().unwrap_or_else(|| panic!("no target: {}", said.stderr));
    assert!(targets.next().is_none(), "{}", said.stdout);
    manifest["spec"].clone()
}

fn assert_checked(stream: &str) {
    let checked = said_to(&mut command(["check", "-"]), stream, PATIENCE);
    assert_eq!(checked.code, Some(0), "{}\n{stream}", checked.stdout);
}

const EVERYTHING: [&str; 7] =
    ["blackbox.yml", "--prometheus", "prometheus.yml", "--manifests", "objects.yml", "--namespace", "web"];

#[test]
fn every_option_is_converted_or_named() {
    for (arguments, name) in [(&EVERYTHING[..], "all"), (&["--values", "values.yaml", "--secrets"][..], "values")] {
        let said = convert(arguments);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let (manifests, remarks) =
            (fixture(&format!("{name}.expected.yaml")), fixture(&format!("{name}.expected.txt")));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&manifests, &said.stdout).unwrap();
            fs::write(&remarks, &said.stderr).unwrap();
        }
        assert_eq!(said.stdout, fs::read_to_string(manifests).unwrap());
        assert_eq!(said.stderr, fs::read_to_string(remarks).unwrap());
    }
}

#[test]
fn what_is_written_passes_check() {
    for arguments in [&EVERYTHING[..], &["--values", "values.yaml"]] {
        let said = convert(arguments);
        assert_checked(&said.stdout);
        let secrets = convert(&[arguments, &["--secrets"]].concat());
        assert_checked(&secrets.stdout);
    }
}

#[test]
fn every_target_of_the_example_is_converted_but_for_probers_that_are_not_offered() {
    let said = convert(&EVERYTHING);
    let left: Vec<&str> = said.stderr.lines().filter(|line| line.contains("is not converted")).collect();
    for line in &left {
        let known =
            ["the prober unix", "WebSocket", "no module \"unknown\"", "kubernetes_sd_configs", "targets.ingress"];
        assert!(known.iter().any(|why| line.contains(why)), "{line}");
    }
    assert_eq!(left.len(), 5, "{left:#?}");
    let modules: BTreeSet<String> = manifests(&said.stdout)
        .into_values()
        .filter(|manifest| manifest["kind"] == "ScrapeTarget")
        .map(|manifest| manifest["spec"]["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(modules, ["Dns", "Grpc", "Http", "Icmp", "Tcp"].map(str::to_owned).into());
}

#[test]
fn no_password_is_written_or_said_unless_secrets_are_asked_for() {
    let said = convert(&EVERYTHING);
    assert!(!said.stdout.contains("hunter") && !said.stderr.contains("hunter"), "{}\n{}", said.stdout, said.stderr);
    let with = convert(&[&EVERYTHING[..], &["--secrets"]].concat());
    assert!(!with.stderr.contains("hunter"), "{}", with.stderr);
    let secrets = manifests(&with.stdout);
    let basic = &secrets[&("Secret".to_owned(), "blackbox-web-basic".to_owned())];
    assert_eq!(basic["stringData"], json!({"username": "probe", "password": "hunter2"}));
    assert_eq!(basic["metadata"]["namespace"], "web");
    for number in [3, 4, 5] {
        assert!(with.stdout.contains(&format!("hunter{number}")), "{number}");
    }
    // What has no place in a target has none in a Secret either.
    for number in [6, 7, 8] {
        assert!(!with.stdout.contains(&format!("hunter{number}")), "{number}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let (first, second) = (convert(&EVERYTHING), convert(&EVERYTHING));
    assert_eq!((first.stdout, first.stderr), (second.stdout, second.stderr));
}

#[test]
fn a_password_in_a_url_becomes_a_reference() {
    let said = converted("modules: {m: {prober: http}}", &job("https://al%40ice:hunter2@example.com/x"));
    let spec = only_spec(&said);
    assert_eq!(spec["url"], "https://example.com/x");
    assert_eq!(spec["basicAuth"]["password"], json!({"name": "m-example-com", "key": "password"}));
    assert!(!said.stdout.contains("hunter2") && !said.stderr.contains("hunter2"), "{}", said.stderr);
    assert_checked(&said.stdout);
}

#[test]
fn intervals_and_timeouts_are_those_that_were_in_effect() {
    for (module, scrape, interval, timeout) in [
        ("", "", "1m", "9s500ms"),
        ("timeout: 5s", "", "1m", "5s"),
        ("timeout: 20s", "scrape_interval: 15s, scrape_timeout: 15s", "15s", "14s500ms"),
        ("timeout: 1.5s", "scrape_interval: 10s", "10s", "1s500ms"),
        ("timeout: 0s", "scrape_interval: 1d", "1h", "9s500ms"),
        ("", "scrape_interval: 500ms", "1s", "500ms"),
        ("", "scrape_interval: 5s", "5s", "4s500ms"),
    ] {
        let jobs = job("https://example.com")
            .replace("job_name: j", &format!("job_name: j\n  {}", scrape.replace(", ", "\n  ")));
        let spec = only_spec(&converted(&format!("modules: {{m: {{prober: http, {module}}}}}"), &jobs));
        assert_eq!(
            (spec["interval"].as_str(), spec["timeout"].as_str()),
            (Some(interval), Some(timeout)),
            "{module} {scrape}"
        );
    }
}

#[test]
fn ip6_is_written_where_it_was_the_default_and_matters() {
    for (module, target, wanted) in [
        ("prober: http", "https://example.com", json!("ip6")),
        ("prober: http, http: {preferred_ip_protocol: ip4}", "https://example.com", json!("ip4")),
        ("prober: http, http: {preferred_ip_protocol: ''}", "https://example.com", json!("ip6")),
        ("prober: http, http: {preferred_ip_protocol: ipv6}", "https://example.com", json!("ip4")),
        ("prober: icmp", "192.0.2.1", Value::Null),
        ("prober: tcp", "'[2001:db8::1]:22'", Value::Null),
    ] {
        let spec = only_spec(&converted(&format!("modules: {{m: {{{module}}}}}"), &job(target)));
        assert_eq!(spec["preferredIpProtocol"], wanted, "{module} {target}");
    }
}

#[test]
fn the_parameter_hostname_is_a_host_header_and_the_name_in_the_certificate() {
    let with_hostname = |module: &str, target: &str| {
        let jobs = job(target).replace("params: {module: [m]}", "params: {module: [m], hostname: [www.example.com]}");
        converted(&format!("modules: {{m: {{{module}}}}}"), &jobs)
    };
    let spec = only_spec(&with_hostname("prober: http", "https://192.0.2.7"));
    assert_eq!(spec["headers"], json!([{"name": "Host", "value": "www.example.com"}]));
    assert_eq!(spec["tlsConfig"]["serverName"], "www.example.com");
    let spec = only_spec(&with_hostname("prober: tcp, tcp: {tls: true}", "192.0.2.7:443"));
    assert_eq!((&spec["headers"], &spec["tlsConfig"]["serverName"]), (&Value::Null, &json!("www.example.com")));
    let said = with_hostname("prober: http, http: {headers: {Host: other.example.com}}", "https://192.0.2.7");
    assert!(said.stdout.is_empty() && said.stderr.contains("answers 400"), "{}", said.stderr);
}

#[test]
fn names_are_unique_and_those_of_hosts() {
    let said = converted(
        "modules: {m: {prober: http}}",
        &job("https://example.com/a, https://example.com/b, https://EXAMPLE.org"),
    );
    let names: Vec<String> = manifests(&said.stdout).into_keys().map(|(_, name)| name).collect();
    assert_eq!(names.len(), 3, "{}", said.stderr);
    assert!(
        names.iter().any(|name| name == "m-example-com") && names.iter().any(|name| name == "m-example-org"),
        "{names:?}"
    );
    assert!(names.iter().any(|name| name.starts_with("m-example-com-")), "{names:?}");
}

#[test]
fn a_target_that_stands_twice_is_converted_once_and_in_two_jobs_twice() {
    let twice = converted("modules: {m: {prober: icmp}}", &job("example.com, example.com"));
    assert_eq!(manifests(&twice.stdout).len(), 1);
    assert!(twice.stderr.contains("stands twice"), "{}", twice.stderr);
    let second = job("example.com").replace("scrape_configs:\n", "").replace("job_name: j", "job_name: other");
    let jobs = format!("{}{second}", job("example.com"));
    assert_eq!(manifests(&converted("modules: {m: {prober: icmp}}", &jobs).stdout).len(), 2);
}

#[test]
fn labels_of_the_exporter_are_left_to_it() {
    let jobs = job("https://example.com")
        .replace("targets: [https", "labels: {team: web, phase: x, namespace: y}, targets: [https");
    let said = converted("modules: {m: {prober: http}}", &jobs);
    assert_eq!(only_spec(&said)["labels"], json!({"team": "web"}));
    assert!(said.stderr.contains("the label \"phase\" is left out"), "{}", said.stderr);
    assert!(said.stderr.contains("the label namespace is that of the target"), "{}", said.stderr);
}

/// Configurations that a blackbox exporter refuses, or that can never work, each with the field and a word of the sentence.
const REFUSED: &[(&str, &str, &str)] = &[
    ("", "", "is empty"),
    ("module: {}", "module", "did you mean modules?"),
    ("- a", "", "is a list, write a map"),
    ("modules: [a]", "modules", "write a map"),
    ("modules: {m: {prober: http}}\nmodules: {}", "", "twice"),
    ("modules: {m: {prober: http}", "", "not well-formed"),
    ("modules: {m: {prober: htpp}}", "modules.m.prober", "is no prober, write one of http"),
    ("modules: {m: {timeout: 5s}}", "modules.m.prober", "is missing"),
    ("modules: {m: {prober: http, timeout: 5}}", "modules.m.timeout", "write for instance 5s"),
    ("modules: {m: {prober: http, timeout: -5s}}", "modules.m.timeout", "write for instance 5s"),
    ("modules: {m: {prober: http, timeout: 1d}}", "modules.m.timeout", "write for instance 5s"),
    ("modules: {m: {prober: http, htpp: {}}}", "modules.m.htpp", "did you mean http?"),
    ("modules: {m: {prober: http, http: [a]}}", "modules.m.http", "write a map"),
    ("modules: {m: {prober: http, http: {metod: GET}}}", "modules.m.http.metod", "did you mean method?"),
    ("modules: {m: {prober: http, http: {method: [GET]}}}", "modules.m.http.method", "is a list, write a text"),
    ("modules: {m: {prober: http, http: {fail_if_ssl: maybe}}}", "modules.m.http.fail_if_ssl", "write true or false"),
    ("modules: {m: {prober: http, http: {valid_status_codes: [ok]}}}", "valid_status_codes[0]", "is no status code"),
    ("modules: {m: {prober: http, http: {valid_status_codes: 200}}}", "valid_status_codes", "write a list"),
    ("modules: {m: {prober: http, http: {valid_http_versions: [HTTP/9]}}}", "valid_http_versions[0]", "is no version"),
    ("modules: {m: {prober: http, http: {body: a, body_file: b}}}", "modules.m.http.body_file", "excludes body"),
    (
        "modules: {m: {prober: http, http: {body_size_limit: -1}}}",
        "modules.m.http.body_size_limit",
        "for instance 10MB",
    ),
    (
        "modules: {m: {prober: http, http: {body_size_limit: much}}}",
        "modules.m.http.body_size_limit",
        "for instance 10MB",
    ),
    (
        "modules: {m: {prober: http, http: {fail_if_body_matches_regexp: ['(']}}}",
        "regexp[0]",
        "no regular expression of RE2",
    ),
    ("modules: {m: {prober: http, http: {fail_if_body_not_matches_regexp: ['(?=a)']}}}", "regexp[0]", "look-around"),
    ("modules: {m: {prober: http, http: {fail_if_header_matches: [{header: A, regexp: '['}]}}}", "[0].regexp", "RE2"),
    (
        "modules: {m: {prober: http, http: {fail_if_header_matches: [{header: A}]}}}",
        "header_matches[0]",
        "regexp is missing",
    ),
    (
        "modules: {m: {prober: http, http: {fail_if_header_not_matches: [{regexp: a}]}}}",
        "not_matches[0]",
        "header is missing",
    ),
    ("modules: {m: {prober: http, http: {compression: zip}}}", "modules.m.http.compression", "write gzip, br"),
    (
        "modules: {m: {prober: http, http: {compression: gzip, headers: {Accept-Encoding: br}}}}",
        "headers.Accept-Encoding",
        "does not accept",
    ),
    (
        "modules: {m: {prober: http, http: {compression: gzip, headers: {accept-encoding: 'gzip;q=0'}}}}",
        "headers.accept-encoding",
        "does not accept",
    ),
    (
        "modules: {m: {prober: http, http: {compression: br, headers: {Accept-Encoding: '*;q=0'}}}}",
        "headers.Accept-Encoding",
        "does not accept",
    ),
    (
        "modules: {m: {prober: http, http: {enable_http3: true}}}",
        "modules.m.http.enable_http3",
        "write enable_http2: false",
    ),
    ("modules: {m: {prober: http, http: {enable_http3: true, enable_http2: true}}}", "enable_http3", "excludes HTTP/2"),
    (
        "modules: {m: {prober: http, http: {enable_http3: true, enable_http2: false, valid_http_versions: [HTTP/1.1]}}}",
        "valid_http_versions[0]",
        "HTTP/3.0 alone",
    ),
    (
        "modules: {m: {prober: http, http: {basic_auth: {username: a}, bearer_token: b}}}",
        "bearer_token",
        "at most one of",
    ),
    (
        "modules: {m: {prober: http, http: {authorization: {credentials: a}, basic_auth: {username: b}}}}",
        "authorization",
        "at most one of",
    ),
    (
        "modules: {m: {prober: http, http: {basic_auth: {username: a}, oauth2: {client_id: a, token_url: b}}}}",
        "oauth2",
        "at most one of",
    ),
    (
        "modules: {m: {prober: http, http: {basic_auth: {username: a, password: b, password_file: c}}}}",
        "password_file",
        "at most one of",
    ),
    (
        "modules: {m: {prober: http, http: {authorization: {type: basic, credentials: a}}}}",
        "authorization.type",
        "write basic_auth",
    ),
    (
        "modules: {m: {prober: http, http: {bearer_token: a, bearer_token_file: b}}}",
        "bearer_token_file",
        "at most one of",
    ),
    ("modules: {m: {prober: http, http: {oauth2: {token_url: a}}}}", "modules.m.http.oauth2", "client_id is missing"),
    (
        "modules: {m: {prober: http, http: {oauth2: {client_id: a, token_url: b, client_secret: c, client_secret_file: d}}}}",
        "client_secret_file",
        "at most one of",
    ),
    (
        "modules: {m: {prober: http, http: {oauth2: {client_id: a, token_url: b, signature_algorithm: HS256}}}}",
        "signature_algorithm",
        "write RS256",
    ),
    ("modules: {m: {prober: http, http: {proxy_url: ':'}}}", "modules.m.http.proxy_url", "is no URL of a proxy"),
    ("modules: {m: {prober: http, http: {no_proxy: a}}}", "modules.m.http.no_proxy", "needs proxy_url"),
    (
        "modules: {m: {prober: http, http: {proxy_url: 'http://a', proxy_from_environment: true}}}",
        "proxy_from_environment",
        "excludes proxy_url",
    ),
    ("modules: {m: {prober: http, http: {proxy_connect_header: {A: [b]}}}}", "proxy_connect_header", "needs proxy_url"),
    (
        "modules: {m: {prober: http, http: {http_headers: {Authorization: {values: [a]}}}}}",
        "http_headers.Authorization",
        "write it under headers",
    ),
    (
        "modules: {m: {prober: http, http: {tls_config: {min_version: TLS13, max_version: TLS12}}}}",
        "tls_config.min_version",
        "is above max_version",
    ),
    (
        "modules: {m: {prober: http, http: {tls_config: {min_version: SSL3}}}}",
        "tls_config.min_version",
        "is no version of TLS",
    ),
    (
        "modules: {m: {prober: http, http: {tls_config: {cert_file: a}}}}",
        "modules.m.http.tls_config",
        "write key or key_file",
    ),
    (
        "modules: {m: {prober: http, http: {tls_config: {key: a}}}}",
        "modules.m.http.tls_config",
        "write cert or cert_file",
    ),
    ("modules: {m: {prober: http, http: {tls_config: {ca: a, ca_file: b}}}}", "tls_config.ca_file", "at most one of"),
    ("modules: {m: {prober: tcp, tcp: {query_response: [{expect: '('}]}}}", "query_response[0].expect", "RE2"),
    (
        "modules: {m: {prober: tcp, tcp: {query_response: [{expect: a, expect_bytes: b}]}}}",
        "[0].expect_bytes",
        "excludes expect",
    ),
    (
        "modules: {m: {prober: tcp, tcp: {query_response: [{send: !!binary '*'}]}}}",
        "query_response[0].send",
        "is not base64",
    ),
    (
        "modules: {m: {prober: tcp, tcp: {query_response: [{expect: a, labels: [{name: b}]}, {expect: c, labels: [{name: d}]}]}}}",
        "query_response[1]",
        "write them in one step",
    ),
    (
        "modules: {m: {prober: tcp, tcp: {query_response: [{expect: a, labels: [{name: b-c}]}]}}}",
        "labels[0].name",
        "is no name of a label",
    ),
    ("modules: {m: {prober: tcp, tcp: {source_ip_address: eth0}}}", "source_ip_address", "is no IP address"),
    ("modules: {m: {prober: tcp, tcp: {query_respons: []}}}", "query_respons", "did you mean query_response?"),
    ("modules: {m: {prober: unix, unix: {query_response: [{expect: '('}]}}}", "query_response[0].expect", "RE2"),
    ("modules: {m: {prober: dns}}", "modules.m.dns", "query_name is missing"),
    ("modules: {m: {prober: dns, dns: {query_name: a, query_type: NOT}}}", "query_type", "is not known here"),
    ("modules: {m: {prober: dns, dns: {query_name: a, query_class: X}}}", "query_class", "is not known here"),
    (
        "modules: {m: {prober: dns, dns: {query_name: a, valid_rcodes: [NOEROR]}}}",
        "valid_rcodes[0]",
        "did you mean NOERROR",
    ),
    (
        "modules: {m: {prober: dns, dns: {query_name: a, transport_protocol: udp4}}}",
        "transport_protocol",
        "neither udp nor tcp",
    ),
    (
        "modules: {m: {prober: dns, dns: {query_name: a, dns_over_tls: true}}}",
        "dns_over_tls",
        "write transport_protocol: tcp",
    ),
    (
        "modules: {m: {prober: dns, dns: {query_name: a, validate_answer_rrs: {fail_if_matches_regexp: ['(']}}}}",
        "regexp[0]",
        "RE2",
    ),
    (
        "modules: {m: {prober: dns, dns: {query_name: a, validate_answer_rrs: {fail_if_any: []}}}}",
        "fail_if_any",
        "is not a field",
    ),
    ("modules: {m: {prober: icmp, icmp: {ttl: 256}}}", "modules.m.icmp.ttl", "from 0 to 255"),
    ("modules: {m: {prober: icmp, icmp: {ttl: -1}}}", "modules.m.icmp.ttl", "from 0 to 255"),
    ("modules: {m: {prober: icmp, icmp: {payload_size: 65508}}}", "payload_size", "from 0 to 65507"),
    ("modules: {m: {prober: grpc, grpc: {services: a}}}", "modules.m.grpc.services", "did you mean service?"),
    (
        "modules: {m: {prober: websocket, websocket: {http_config: {bearer: a}}}}",
        "http_config.bearer",
        "is not a field",
    ),
    ("modules: {m: {prober: tcp, http: {body_size_limit: x}}}", "modules.m.http.body_size_limit", "is no size"),
];

#[test]
fn what_a_blackbox_exporter_refuses_is_refused_with_its_line_and_field() {
    for (text, field, word) in REFUSED {
        let said = said_to(&mut command(["convert", "-"]), text, PATIENCE);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{text}: {}", said.stderr);
        let fits = |line: &str| line.starts_with("error: <stdin>") && line.contains(field) && line.contains(word);
        assert!(said.stderr.lines().any(fits), "{text}: {}", said.stderr);
    }
    assert!(REFUSED.len() >= 24);
}

#[test]
fn a_fault_has_the_line_on_which_it_stands() {
    let text = "modules:\n  m:\n    prober: http\n    http:\n      method: GET\n      compression: zip\n";
    let said = said_to(&mut command(["convert", "-"]), text, PATIENCE);
    assert!(said.stderr.starts_with("error: <stdin>:6: modules.m.http.compression: "), "{}", said.stderr);
}

#[test]
fn mistakes_in_other_inputs_are_refused_too() {
    let good = "modules: {m: {prober: http}}";
    let jobs = |more: &str| job("https://example.com").replace("metrics_path", &format!("{more}\n  metrics_path"));
    for (jobs, word) in [
        ("scrape_config: []".to_owned(), "did you mean scrape_configs?"),
        (jobs("scrape_intervall: 5s"), "did you mean scrape_interval?"),
        (jobs("scrape_interval: fast"), "is no duration"),
        (jobs("scrape_interval: 5s\n  scrape_timeout: 6s"), "is above scrape_interval"),
        (
            job("https://example.com")
                .replace("target_label: __param_target", "target_label: __param_target, regex: '('"),
            "RE2",
        ),
        (job("https://example.com").replace("job_name: j", "honor_labels: false"), "has no job_name"),
        ("a: [".to_owned(), "not well-formed"),
    ] {
        let said = converted(good, &jobs);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{jobs}: {}", said.stderr);
        assert!(said.stderr.contains(word), "{jobs}: {}", said.stderr);
    }
    for (flag, text, word) in [
        ("--manifests", "a: 1", "is no object of Kubernetes"),
        (
            "--manifests",
            "{apiVersion: monitoring.coreos.com/v1, kind: Probe, metadata: {name: a}, spec: {modul: b}}",
            "did you mean module?",
        ),
        ("--manifests", "{apiVersion: monitoring.coreos.com/v1, kind: Probe, spec: {}}", "metadata.name"),
        ("--values", "serviceMonitor: {targets: [{name: a}]}", "needs a name and a url"),
        ("--values", "serviceMonitor: {target: []}", "did you mean targets?"),
        ("--values", "config: {modules: {m: {prober: x}}}", "config.modules.m.prober"),
    ] {
        let folder = TempDir::new().unwrap();
        let (modules, file) = (folder.path().join("blackbox.yml"), folder.path().join("file.yml"));
        fs::write(&modules, good).unwrap();
        fs::write(&file, text).unwrap();
        let modules: &[&Path] = if word.starts_with("config.") { &[] } else { &[&modules] };
        let mut command = command(["convert", flag]);
        command.arg(&file).args(modules);
        let said = said_to(&mut command, "", PATIENCE);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{text}: {}", said.stderr);
        assert!(said.stderr.contains(word), "{text}: {}", said.stderr);
    }
}

#[test]
fn flags_that_cannot_be_meant_are_one_line() {
    for (arguments, word) in [
        (&["convert"][..], "FILE"),
        (&["convert", "-", "--prometheus", "-"], "standard input can be read once"),
        (&["convert", "-", "--namespace", "A"], "lowercase letters"),
        (&["convert", "-", "--secret"], "'--secrets'"),
    ] {
        let said = run(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(said.stderr.lines().count() == 1 && said.stderr.contains(word), "{arguments:?}: {}", said.stderr);
    }
    let said = run(["convert", "/no/such/blackbox.yml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.starts_with("error: /no/such/blackbox.yml: cannot be read: "), "{}", said.stderr);
}

#[test]
fn modules_without_targets_are_named() {
    let said = said_to(&mut command(["convert", "-"]), "modules: {a: {prober: http}, b: {prober: icmp}}", PATIENCE);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""));
    assert_eq!(said.stderr.lines().filter(|line| line.contains("has no targets")).count(), 2, "{}", said.stderr);
}

#[test]
fn no_more_targets_than_a_limit_are_converted() {
    let targets: Vec<String> = (0..10_001).map(|number| format!("h{number}")).collect();
    let said = converted("modules: {m: {prober: icmp}}", &job(&targets.join(", ")));
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    assert!(said.stderr.contains("more than 10000 targets"), "{}", said.stderr);
}

#[test]
fn an_input_that_is_too_large_is_refused() {
    let large = format!("# {}\nmodules: {{}}\n", "x".repeat(16 << 20));
    let said = said_to(&mut command(["convert", "-"]), &large, PATIENCE);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("larger than 16 MiB"), "{}", said.stderr);
}

/// Jobs with the relabelings that users write, and those that nobody should.
const RELABELLED: &str = r"scrape_configs:
- job_name: usual
  metrics_path: /probe
  params: {module: [one]}
  static_configs: [{targets: ['https://a.example.com', 'https://b.example.com/x?y=z'], labels: {team: web}}]
  relabel_configs:
  - {source_labels: [__address__], target_label: __param_target}
  - {source_labels: [__param_target], target_label: instance}
  - {target_label: __address__, replacement: 'blackbox:9115'}
- job_name: groups
  metrics_path: /probe
  static_configs:
  - targets: ['https://a.example.com;two;Tokyo', 'https://b.example.com;one;Osaka', 'none;one;x']
    labels: {__meta_site: s1, __meta_rack: r1, old: x, junk_a: '1', junk_b: '2'}
  relabel_configs:
  - {source_labels: [__address__], regex: 'none;.*', action: drop}
  - {source_labels: [__address__], regex: '([^;]+);([^;]+);([^;]+)', target_label: __param_target, replacement: $1}
  - {source_labels: [__address__], regex: '([^;]+);(?P<module>[^;]+);([^;]+)', target_label: __param_module, replacement: '${module}'}
  - {source_labels: [__address__], regex: '([^;]+);([^;]+);([^;]+)', target_label: city, replacement: '$3'}
  - {source_labels: [city], target_label: city, action: lowercase}
  - {source_labels: [old], target_label: shouted, action: uppercase}
  - {regex: '__meta_(.+)', action: labelmap}
  - {regex: 'junk_.*', action: labeldrop}
  - {source_labels: [site, rack], separator: '-', target_label: place}
  - {source_labels: [old], regex: 'nothing', target_label: never}
  - {target_label: old, replacement: ''}
  - {source_labels: [__param_target], target_label: instance}
  - {source_labels: [city], regex: 'tok', target_label: anchored, replacement: 'yes'}
  - {source_labels: [site], regex: '(.)(.)', target_label: 'label_$1', replacement: 'dollar$$$2'}
  - {target_label: __address__, replacement: 'blackbox:9115'}
  - {target_label: job, replacement: renamed}
- job_name: kept
  metrics_path: /probe
  params: {module: [two]}
  static_configs: [{targets: ['https://c.example.com', 'https://d.example.com'], labels: {a: https://c.example.com}}]
  relabel_configs:
  - {source_labels: [__address__], target_label: __param_target}
  - {source_labels: [a], target_label: __address__, action: keepequal}
  - {target_label: __address__, replacement: 'blackbox:9115'}
  - {source_labels: [__param_target], target_label: instance}
  - {regex: '(a|instance|job|__.*)', action: labelkeep}
";

#[test]
fn relabelings_are_carried_out_as_prometheus_does_it() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("prometheus.yml"), RELABELLED).unwrap();
    let mut wanted = BTreeSet::new();
    for job in ["usual", "groups", "kept"] {
        let discovered = ["2s", "10s", "40s"].iter().find_map(|timeout| {
            let mut promtool = Command::new(tools::promtool());
            promtool.args(["check", "service-discovery", "--timeout", timeout, "prometheus.yml", job]);
            let out = promtool.current_dir(folder.path()).output().unwrap();
            let found: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap_or_default();
            (!found.is_empty()).then_some(found)
        });
        for target in discovered.unwrap_or_else(|| panic!("promtool finds nothing of {job}")) {
            // Without labels, it is dropped.
            let labels: BTreeMap<String, String> = serde_json::from_value(target["labels"].clone()).unwrap_or_default();
            if labels.is_empty() {
                continue;
            }
            assert_eq!(labels["instance"], labels["__param_target"]);
            let own =
                labels.iter().filter(|(name, _)| !name.starts_with("__") && *name != "instance" && *name != "job");
            wanted.insert(
                json!([
                    labels["__param_module"],
                    labels["__param_target"],
                    labels["job"],
                    own.collect::<BTreeMap<_, _>>()
                ])
                .to_string(),
            );
        }
    }
    // The timeout tells the module.
    let said = converted("modules: {one: {prober: http, timeout: 1s}, two: {prober: http, timeout: 2s}}", RELABELLED);
    let found = manifests(&said.stdout).into_values().map(|manifest| {
        let spec = &manifest["spec"];
        let module = if spec["timeout"] == "1s" { "one" } else { "two" };
        let labels = spec.get("labels").cloned().unwrap_or_else(|| json!({}));
        json!([module, spec["url"], spec["monitor"]["job"], labels]).to_string()
    });
    assert_eq!(found.collect::<BTreeSet<_>>(), wanted, "{}", said.stderr);
    assert_eq!(wanted.len(), 5);
}

/// The block of code that follows a marker in the page.
fn block<'p>(page: &'p str, marker: &str) -> &'p str {
    let (_, rest) =
        page.split_once(&format!("<!-- convert: {marker} -->\n```")).unwrap_or_else(|| panic!("no {marker}"));
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_worked_example_in_the_docs_is_what_the_command_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating.md");
    let mut page = fs::read_to_string(&path).unwrap();
    let folder = TempDir::new().unwrap();
    for name in ["blackbox.yml", "prometheus.yml"] {
        fs::write(folder.path().join(name), block(&page, name)).unwrap();
    }
    let mut command = command(["convert", "blackbox.yml", "--prometheus", "prometheus.yml", "--namespace", "web"]);
    command.current_dir(folder.path());
    let said = said_to(&mut command, "", PATIENCE);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_checked(&said.stdout);
    for (marker, text) in [("stderr", &said.stderr), ("stdout", &said.stdout)] {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let begin = format!("<!-- convert: {marker} -->\n");
            let (before, rest) = page.split_once(&begin).unwrap();
            let (fence, rest) = rest.split_once('\n').unwrap();
            let (_, after) = rest.split_once("```").unwrap();
            page = format!("{before}{begin}{fence}\n{text}```{after}");
            fs::write(&path, &page).unwrap();
        }
        assert_eq!(block(&page, marker), text, "docs/migrating.md is not what the command says: run `make generate`");
    }
}
