//! `convert`: what users of a blackbox exporter have, as ScrapeTargets that `check` accepts, with a line for each thing that is left behind.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use scrapetarget_exporter::file::documents;
use serde_json::{Value, json};
use support::program::{PATIENCE, Said, command, folder_with, run, said_to};
use support::tools;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/convert").join(name)
}

/// Runs the command in the folder of the fixtures, so that messages name files and no folders.
fn convert(arguments: &[&str]) -> Said {
    let mut command = command(["convert"]);
    command.args(arguments).current_dir(fixture(""));
    checked(said_to(&mut command, "", PATIENCE))
}

/// What was printed is valid, whatever it is.
fn checked(said: Said) -> Said {
    if !said.stdout.is_empty() {
        assert_checked(&said.stdout);
    }
    said
}

/// Converts these texts; `jobs` is a configuration of Prometheus.
fn converted(blackbox: &str, jobs: &str) -> Said {
    converted_with(&[], blackbox, jobs)
}

fn converted_with(flags: &[&str], blackbox: &str, jobs: &str) -> Said {
    let folder = folder_with([("blackbox.yml", blackbox), ("prometheus.yml", jobs)]);
    let mut command = command(["convert", "blackbox.yml", "--prometheus", "prometheus.yml"]);
    command.args(flags).current_dir(folder.path());
    checked(said_to(&mut command, "", PATIENCE))
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
    let all = documents(stream).map(|document| document.value().unwrap());
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
        let known = ["the prober unix", "no module \"unknown\"", "kubernetes_sd_configs", "targets.ingress"];
        assert!(known.iter().any(|why| line.contains(why)), "{line}");
    }
    assert_eq!(left.len(), 4, "{left:#?}");
    let modules: BTreeSet<String> = manifests(&said.stdout)
        .into_values()
        .filter(|manifest| manifest["kind"] == "ScrapeTarget")
        .map(|manifest| manifest["spec"]["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(modules, ["Dns", "Grpc", "Http", "Icmp", "Tcp", "WebSocket"].map(str::to_owned).into());
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
    for number in [3, 4, 5, 6, 8] {
        assert!(with.stdout.contains(&format!("hunter{number}")), "{number}");
    }
    // What has no place in a target has none in a Secret either.
    assert!(!with.stdout.contains("hunter7"));
}

/// The values of all Secrets of a stream, by name and key.
fn secret_values(stream: &str) -> BTreeMap<(String, String), String> {
    let secrets = manifests(stream).into_iter().filter(|((kind, _), _)| kind == "Secret");
    let of_secret = |((_, name), manifest): ((String, String), Value)| {
        let values: BTreeMap<String, String> = serde_json::from_value(manifest["stringData"].clone()).unwrap();
        values.into_iter().map(move |(key, value)| ((name.clone(), key), value)).collect::<Vec<_>>()
    };
    secrets.flat_map(of_secret).collect()
}

#[test]
fn no_server_is_given_the_password_of_another_module() {
    let modules = [
        "a: {prober: http, http: {basic_auth: {username_file: /a/user, password_file: /a/password}}}",
        "a_files: {prober: http, http: {basic_auth: {username: probe, password: hunter2}}}",
    ];
    let jobs = "scrape_configs:\n- job_name: j\n  metrics_path: /probe\n  static_configs: [{targets: ['a;https://a.example.com', \
                'a_files;https://b.example.com']}]\n  relabel_configs:\n  - {source_labels: [__address__], regex: '(.*);(.*)', target_label: \
                __param_module}\n  - {source_labels: [__address__], regex: '(.*);(.*)', target_label: __param_target, replacement: $2}\n";
    for modules in [modules, [modules[1], modules[0]]] {
        let said = converted_with(&["--secrets"], &format!("modules: {{{}}}", modules.join(", ")), jobs);
        let all = manifests(&said.stdout);
        let secret_of = |target: &str| {
            let spec = &all[&("ScrapeTarget".to_owned(), target.to_owned())]["spec"];
            spec["basicAuth"]["password"]["name"].as_str().unwrap().to_owned()
        };
        let (of_files, inline) = (secret_of("a-a-example-com"), secret_of("a-files-b-example-com"));
        assert_ne!(of_files, inline, "{}", said.stdout);
        assert_eq!(secret_values(&said.stdout)[&(inline, "password".to_owned())], "hunter2");
        assert!(said.stderr.contains(&format!("kubectl create secret generic {of_files} ")), "{}", said.stderr);
    }
}

/// Modules with passwords in places that have no field for one, each with a target, and the values of the Secret.
const WITH_PASSWORDS: &[(&str, &str, &[&str])] = &[
    ("prober: http, http: {method: POST, body: 'user=al&pass=hunter2'}", "https://a", &["user=al&pass=hunter2"]),
    (
        "prober: http, http: {method: POST, body: '{\"api_key\": \"hunter2\"}'}",
        "https://a",
        &["{\"api_key\": \"hunter2\"}"],
    ),
    // What reads a Secret removes one newline.
    ("prober: http, http: {method: POST, body: \"password=hunter2\\n\"}", "https://a", &["password=hunter2\n\n"]),
    ("prober: http, http: {headers: {X-Session-Id: hunter2}}", "https://a", &["hunter2"]),
    ("prober: http, http: {headers: {X_Access_Key: hunter2}}", "https://a", &["hunter2"]),
    ("prober: http, http: {http_headers: {X-Amz-Signature: {values: [hunter2]}}}", "https://a", &["hunter2"]),
    ("prober: http, http: {headers: {Private-Token: hunter2}}", "https://a", &["hunter2"]),
    ("prober: grpc, grpc: {metadata: {authorization: [Bearer hunter2]}}", "a:1", &["Bearer hunter2"]),
    ("prober: tcp, tcp: {query_response: [{send: \"PASS hunter2\\r\"}]}", "a:1", &["PASS hunter2\r"]),
    ("prober: tcp, tcp: {query_response: [{expect: x, send: auth hunter2}]}", "a:1", &["auth hunter2"]),
    (
        "prober: tcp, tcp: {query_response: [{send: a1 LOGIN al hunter2}, {send: QUIT}]}",
        "a:1",
        &["a1 LOGIN al hunter2"],
    ),
    (
        "prober: tcp, tcp: {query_response: [{send: AUTH LOGIN}, {expect: '^334'}, {send: YWw=}, {expect: '^334'}, {send: aHVudGVyMg==}, {send: QUIT}]}",
        "a:1",
        &["YWw=", "aHVudGVyMg=="],
    ),
    // The bytes of a NUL, a name, a NUL and a password.
    (
        "prober: tcp, tcp: {query_response: [{send: AUTH}, {send: !!binary AGFsAGh1bnRlcjI=}]}",
        "a:1",
        &["\0al\0hunter2"],
    ),
];

#[test]
fn what_is_sent_with_a_password_is_read_from_a_secret() {
    for (module, target, wanted) in WITH_PASSWORDS {
        let modules = format!("modules: {{m: {{{module}}}}}");
        let said = converted(&modules, &job(target));
        assert!(!said.stdout.contains("hunter2") && !said.stderr.contains("hunter2"), "{module}: {}", said.stdout);
        assert!(!said.stdout.contains("aHVudGVyMg") && !said.stdout.contains("AGFsAGh1"), "{module}: {}", said.stdout);
        let with = converted_with(&["--secrets"], &modules, &job(target));
        let values: BTreeSet<String> = secret_values(&with.stdout).into_values().collect();
        assert_eq!(values, wanted.iter().map(|value| (*value).to_owned()).collect(), "{module}: {}", with.stdout);
    }
}

#[test]
fn a_pattern_that_cannot_be_used_is_left_out_alone() {
    let http =
        r"{prober: http, http: {fail_if_body_matches_regexp: ['\pL', '(.{900}){3}', '{.{80}'], fail_if_ssl: true}}";
    let said = converted(&format!("modules: {{m: {http}}}"), &job("'http://a/'"));
    let spec = only_spec(&said);
    assert_eq!(spec["http"]["failIfBodyMatchesRegexp"], serde_json::json!([r"\{.{80}"]), "{spec}");
    assert_eq!(spec["http"]["failIfSsl"], true);
    for said_of in [
        "regexp[0]: is left out, and the check with it: \\p needs",
        "regexp[1]: is left out, and the check with it: takes more",
    ] {
        assert!(said.stderr.contains(said_of), "{said_of}: {}", said.stderr);
    }
}

#[test]
fn the_dialogue_of_a_login_keeps_its_commands() {
    let module = "prober: tcp, tcp: {query_response: [{expect: '^220', send: EHLO me}, {send: AUTH x}, {send: QUIT}]}";
    let spec = only_spec(&converted(&format!("modules: {{m: {{{module}}}}}"), &job("a:25")));
    let reference = json!({"name": "blackbox-m", "key": "send"});
    let steps = json!([{"expect": "^220", "send": "EHLO me"}, {"sendSecretRef": reference}, {"send": "QUIT"}]);
    assert_eq!(spec["tcp"]["queryResponse"], steps);
}

#[test]
fn a_body_of_a_file_with_a_password_is_read_from_the_file_by_the_user() {
    let module = "modules: {m: {prober: http, http: {method: POST, body_file: 'a b.txt'}}}";
    let jobs = job("https://a");
    let folder = folder_with([("blackbox.yml", module), ("prometheus.yml", &jobs), ("a b.txt", "password=hunter2\n")]);
    let mut command = command(["convert", "blackbox.yml", "--prometheus", "prometheus.yml"]);
    let said = checked(said_to(command.current_dir(folder.path()), "", PATIENCE));
    assert_eq!(only_spec(&said)["http"]["bodySecretRef"], json!({"name": "blackbox-m-files", "key": "body"}));
    assert!(said.stderr.contains("generic blackbox-m-files '--from-file=body=a b.txt'"), "{}", said.stderr);
    assert!(!said.stderr.contains("hunter2") && said.stderr.contains("a newline at its end"), "{}", said.stderr);
}

#[test]
fn a_password_that_no_secret_can_hold_is_named_and_not_repeated() {
    for (module, target, word) in [
        ("prober: http", "https://a/?api_key=hunter2", "the query of the url may have a password"),
        ("prober: grpc, grpc: {metadata: {x-token: [hunter2, hunter3]}}", "a:1", "stay in the target in plain text"),
        (
            "prober: tcp, tcp: {query_response: [{expect: '(.)', send: 'PASS hunter2 ${1}'}]}",
            "a:1",
            "stays in the target in plain text",
        ),
        (
            "prober: tcp, tcp: {query_response: [{send: AUTH}, {send: !!binary /2h1bnRlcjI=}]}",
            "a:1",
            "since it is no text",
        ),
    ] {
        let said = converted(&format!("modules: {{m: {{{module}}}}}"), &job(target));
        assert!(said.stderr.contains(word), "{module}: {}", said.stderr);
        assert!(!said.stderr.contains("hunter"), "{module}: {}", said.stderr);
        only_spec(&said);
    }
}

#[test]
fn keys_of_secrets_are_valid_whatever_a_header_is_called() {
    let long = format!("X-Token-{}", "a".repeat(100));
    let module = format!("modules: {{m: {{prober: http, http: {{headers: {{X_Token: a, X-Token: b, {long}: c}}}}}}}}");
    let said = converted_with(&["--secrets"], &module, &job("https://a"));
    let keys: BTreeSet<String> = secret_values(&said.stdout).into_keys().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 3, "{}", said.stderr);
    assert!(
        keys.iter().all(|key| key.len() < 253 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')),
        "{keys:?}"
    );
}

#[test]
fn alerts_are_told_of_the_jobs_once_and_one_flag_sets_another_job() {
    let second = job("https://b").replace("scrape_configs:\n", "").replace("job_name: j", "job_name: web.shop");
    let jobs = format!("{}{second}", job("https://a"));
    let modules = "modules: {m: {prober: http}}";
    let about_alerts = |said: &Said| -> Vec<String> {
        said.stderr.lines().filter(|line| line.contains("prometheusRule.job")).map(str::to_owned).collect()
    };
    let lines = about_alerts(&converted(modules, &jobs));
    assert!(lines.len() == 1 && lines[0].contains("\"scrapetarget.*|j|web.shop\""), "{lines:?}");
    let said = converted_with(&["--job", "scrapetarget-web"], modules, &jobs);
    assert_eq!(about_alerts(&said), [""; 0]);
    let all = manifests(&said.stdout);
    assert!(all.len() == 2 && all.values().all(|manifest| manifest["spec"]["monitor"]["job"] == "scrapetarget-web"));
    // It is known then, so that nobody is told to write it.
    let said = convert(&["--values", "values.yaml", "--job", "new"]);
    assert!(!said.stderr.contains("write monitor.job") && said.stdout.contains("job: new"), "{}", said.stderr);
}

#[test]
fn more_probes_of_one_host_than_the_exporter_sends_are_named() {
    let jobs = |count: usize| {
        let targets: Vec<String> = (0..count).map(|number| format!("https://shop.example.com/{number}")).collect();
        job(&targets.join(", ")).replace("metrics_path", "scrape_interval: 5s\n  metrics_path")
    };
    for (module, count, wanted) in [
        ("prober: http", 100, None),
        ("prober: http", 101, Some("\"shop.example.com\" is probed 21 times a second by 101 targets")),
        // A proxy is what is contacted.
        ("prober: http, http: {proxy_url: 'http://proxy:3128'}", 101, Some("\"proxy\" is probed 21 times")),
    ] {
        let said = converted(&format!("modules: {{m: {{{module}}}}}"), &jobs(count));
        let lines: Vec<&str> = said.stderr.lines().filter(|line| line.contains("limits.maxProbesPerAddress")).collect();
        assert_eq!(lines.len(), usize::from(wanted.is_some()), "{}", said.stderr);
        assert!(wanted.is_none_or(|wanted| lines[0].contains(wanted)), "{lines:?}");
    }
}

#[test]
fn nothing_of_a_job_is_lost_without_a_line() {
    let modules = "modules: {m: {prober: http}, m2: {prober: http}}";
    let changed = |from: &str, to: &str| converted(modules, &job("https://a").replace(from, to));
    let step = "  - {source_labels: [__param_target]";
    for (from, to, word) in [
        (
            "module: [m]",
            "module: [m, m2]",
            "params.module: only \"m\" is used, as in the blackbox exporter: \"m2\" is left out",
        ),
        ("module: [m]", "module: [m], hostname: [b, c]", "params.hostname: only \"b\" is used"),
        (
            step,
            "  - {regex: job, action: labeldrop}\n  - {source_labels: [__param_target]",
            "its relabelings remove the label job",
        ),
        (
            step,
            "  - {target_label: __scrape_interval__, replacement: 5s}\n  - {source_labels: [__param_target]",
            "its timeout, 10s, is above its interval, 5s",
        ),
        (
            step,
            "  - {target_label: __scrape_interval__, replacement: often}\n  - {source_labels: [__param_target]",
            "the label __scrape_interval__ is \"often\", which is no duration",
        ),
    ] {
        let said = changed(from, to);
        assert!(said.stderr.contains(word), "{to}: {}", said.stderr);
        only_spec(&said);
    }
    let said = changed("module: [m]", "module: [m], target: [a, b]");
    assert!(said.stdout.is_empty() && said.stderr.contains("params.target: has several values"), "{}", said.stderr);
    let probe = "{apiVersion: monitoring.coreos.com/v1, kind: Probe, metadata: {name: a}, spec: {module: m, interval: 5s, scrapeTimeout: 6s, params: \
                 [{name: hostname, values: [b, c]}], targets: {staticConfig: {static: [https://a], relabelingConfigs: [{regex: job, action: \
                 labeldrop}]}}}}";
    let folder = folder_with([("blackbox.yml", modules), ("probe.yml", probe)]);
    let mut command = command(["convert", "blackbox.yml", "--manifests", "probe.yml"]);
    let said = checked(said_to(command.current_dir(folder.path()), "", PATIENCE));
    for word in ["only \"b\" is used", "remove the label job", "its timeout, 6s, is above its interval, 5s"] {
        assert!(said.stderr.contains(word), "{word}: {}", said.stderr);
    }
}

#[test]
fn limits_of_a_scrape_that_a_target_has_are_kept_and_the_others_named() {
    let modules = "modules: {m: {prober: http}}";
    let kept = json!({
        "labelLimit": 30, "labelNameLengthLimit": 64, "labelValueLengthLimit": 1000, "bodySizeLimit": "16MiB", "labels": { "release": "a" },
    });
    let narrows = "which narrows what the installation allows and never raises it";
    let in_job = "label_limit: 30\n  label_name_length_limit: 64\n  label_value_length_limit: 1000\n  body_size_limit: 16MiB\n  sample_limit: 5\n  \
                  target_limit: 5\n  metrics_path";
    let said = converted(modules, &job("https://a").replace("metrics_path", in_job));
    let monitor = &only_spec(&said)["monitor"];
    for (field, value) in kept.as_object().unwrap().iter().filter(|(field, _)| *field != "labels") {
        assert_eq!(monitor[field], *value, "{field}");
        assert!(said.stderr.contains(&format!("is kept as monitor.{field}, {narrows}")), "{}", said.stderr);
    }
    for words in [
        "label_limit: is kept as monitor.labelLimit, which narrows what the installation allows and never raises it; labels of discovery, such as \
         target_name, count as well",
        "sample_limit: is left out: a target has spec.sampleLimit",
        "target_limit: is left out: the installation sets it for all targets, by discovery.targetLimit",
    ] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    for (limit, words) in [
        (
            "label_limit: 5",
            "label_limit: is left out: 5 is not from 6 to 1000000, which monitor.labelLimit of a target must be",
        ),
        ("label_limit: -1", "label_limit: is left out: -1 is not from 6"),
        (
            "label_value_length_limit: 2000000",
            "label_value_length_limit: is left out: 2000000 is not from 64 to 1000000",
        ),
        (
            "body_size_limit: 1TB",
            "body_size_limit: is left out: \"1TB\" is not what monitor.bodySizeLimit of a target takes",
        ),
        ("body_size_limit: 1.5MB", "body_size_limit: is left out: \"1.5MB\" is not what"),
        ("label_limit: 0", ""),
        ("body_size_limit: 0", ""),
    ] {
        let said = converted(modules, &job("https://a").replace("metrics_path", &format!("{limit}\n  metrics_path")));
        let monitor = &only_spec(&said)["monitor"];
        assert!(monitor.get("labelLimit").is_none() && monitor.get("bodySizeLimit").is_none(), "{limit}: {monitor}");
        assert!(said.stderr.contains(words), "{limit}: {}", said.stderr);
        assert_eq!(said.stderr.contains("imit: is"), !words.is_empty(), "{limit}: {}", said.stderr);
    }
    let limits = "labelLimit: 30, labelNameLengthLimit: 64, labelValueLengthLimit: 1000, bodySizeLimit: 16MiB, sampleLimit: 5, targetLimit: 5";
    let metadata = "metadata: {name: a, labels: {release: a}}";
    let probe = format!(
        "{{apiVersion: monitoring.coreos.com/v1, kind: Probe, {metadata}, spec: {{module: m, interval: 30s, {limits}, targets: {{staticConfig: \
         {{static: [https://a]}}}}}}}}"
    );
    let monitor = format!(
        "{{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, {metadata}, spec: {{{limits}, endpoints: [{{path: /probe, interval: 30s, params: \
         {{module: [m], target: [https://a]}}}}]}}}}"
    );
    for object in [probe, monitor] {
        let folder = folder_with([("blackbox.yml", modules), ("object.yml", object.as_str())]);
        let mut command = command(["convert", "blackbox.yml", "--manifests", "object.yml"]);
        let said = checked(said_to(command.current_dir(folder.path()), "", PATIENCE));
        let monitor = &only_spec(&said)["monitor"];
        for (field, value) in kept.as_object().unwrap() {
            assert_eq!(monitor[field], *value, "{field}");
        }
        for words in [
            format!("bodySizeLimit: is kept as monitor.bodySizeLimit, {narrows}"),
            "sampleLimit: is left out: a target has spec.sampleLimit".to_owned(),
            "targetLimit: is left out: the installation sets it".to_owned(),
        ] {
            assert!(said.stderr.contains(&words), "{words}: {}", said.stderr);
        }
    }
}

/// The configurations that come with the blackbox exporter's package.
#[test]
fn the_examples_of_the_blackbox_exporter_are_converted() {
    let program = tools::blackbox_exporter();
    let root = program.ancestors().nth(3).unwrap();
    let examples = root.join("usr/share/doc/prometheus-blackbox-exporter/examples");
    let mut converted_files = 0;
    for file in [root.join("etc/prometheus/blackbox.yml"), examples.join("blackbox.yml"), examples.join("example.yml")]
    {
        // Another package may have no examples.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let modules = documents(&text).next().unwrap().value().unwrap()["modules"].as_object().unwrap().clone();
        let address = |prober: &Value| match prober.as_str().unwrap() {
            "http" => "https://example.com",
            "icmp" | "dns" => "192.0.2.1",
            _ => "example.com:1",
        };
        let jobs = modules.iter().map(|(name, module)| {
            let job = job(address(&module["prober"])).replace("scrape_configs:\n", "");
            job.replace("job_name: j", &format!("job_name: {name}")).replace("[m]", &format!("[{name}]"))
        });
        let said = converted(&text, &format!("scrape_configs:\n{}", jobs.collect::<String>()));
        assert_eq!(said.code, Some(0), "{}: {}", file.display(), said.stderr);
        let targets = manifests(&said.stdout);
        let jobs = targets.values().map(|manifest| manifest["spec"]["monitor"]["job"].as_str().unwrap().to_owned());
        assert_eq!(jobs.collect::<BTreeSet<_>>(), modules.keys().cloned().collect(), "{}", said.stderr);
        assert!(!said.stdout.contains("mysecret") && !said.stderr.contains("mysecret"), "{}", said.stderr);
        converted_files += 1;
    }
    eprintln!("{converted_files} configurations of {}", program.display());
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
fn an_empty_expectation_waits_for_a_line_and_one_that_is_not_there_does_not() {
    let said = converted(
        "modules: {m: {prober: tcp, tcp: {query_response: [{expect: ''}, {expect: , send: x}, {expect: ''}]}}}",
        &job("a:1"),
    );
    assert_eq!(only_spec(&said)["tcp"]["queryResponse"], json!([{"expect": "^"}, {"send": "x"}, {"expect": "^"}]));
    assert!(said.stderr.contains("query_response[0].expect: is empty, and matches any line"), "{}", said.stderr);
}

#[test]
fn messages_of_websocket_are_steps_without_what_only_lines_have() {
    let module = "headers: {Sec-WebSocket-Protocol: {values: ['chat, prices']}, Origin: {values: [https://a.example.com]}},
        http_config: {bearer_token: hunter2, proxy_url: 'http://proxy:3128', http_headers: {X-A: {values: [b]}}, tls_config: {server_name: b}},
        query_response: [{send: hello, expect: '(hi)', labels: [{name: a, value: b}]}, {expect_bytes: x, send: !!binary /w==}, {starttls: true, send: $1}]";
    let said = converted(
        &format!("modules: {{m: {{prober: websocket, websocket: {{{module}}}}}}}"),
        &job("'wss://sfu.example.com/signaling?a=b'"),
    );
    let spec = only_spec(&said);
    assert_eq!((&spec["type"], &spec["url"]), (&json!("WebSocket"), &json!("wss://sfu.example.com/signaling?a=b")));
    let steps = json!([{"expect": "(hi)", "send": "hello"}, {"sendBase64": "/w=="}, {"send": "$1"}]);
    assert_eq!(spec["websocket"], json!({"subprotocols": ["chat", "prices"], "queryResponse": steps}));
    assert_eq!(spec["headers"], json!([{"name": "Origin", "value": "https://a.example.com"}]));
    assert_eq!(spec["tlsConfig"], json!({"serverName": "b"}));
    assert!(spec["authorization"].is_object() && spec["proxyUrl"].is_null(), "{spec}");
    for field in ["proxy_url", "http_headers", "labels", "expect_bytes", "starttls"] {
        assert!(said.stderr.contains(&format!("{field}: is left out")), "{field}: {}", said.stderr);
    }
    assert!(said.stderr.contains("sent as a binary message"), "{}", said.stderr);
    let plain = converted(
        "modules: {m: {prober: websocket, websocket: {http_config: {tls_config: {server_name: b}}}}}",
        &job("'ws://sfu.example.com/'"),
    );
    assert_eq!(only_spec(&plain)["tlsConfig"], Value::Null);
}

#[test]
fn what_a_websocket_does_not_use_needs_no_secret() {
    let client =
        "proxy_url: 'http://user:hunter2@proxy:3128', proxy_connect_header: {Proxy-Authorization: ['Basic dTpw']},
        http_headers: {X-Token: {secrets: [hunter2]}}";
    for (more, secrets) in [
        ("bearer_token: hunter2", 1),
        ("oauth2: {client_id: a, client_secret: hunter2, token_url: 'https://auth.example.com/token'}", 0),
    ] {
        let module = format!("prober: websocket, websocket: {{http_config: {{{client}, {more}}}}}");
        let said = converted(&format!("modules: {{m: {{{module}}}}}"), &job("'wss://sfu.example.com/'"));
        let spec = only_spec(&said);
        for field in ["proxyUrl", "proxyAuth", "oauth2", "headers"] {
            assert!(spec[field].is_null(), "{field}: {spec}");
        }
        assert_eq!(said.stderr.matches("is read from the key").count(), secrets, "{}", said.stderr);
        for field in ["proxy_url", "proxy_connect_header", "http_headers"] {
            assert_eq!(said.stderr.matches(&format!("http_config.{field}")).count(), 1, "{field}: {}", said.stderr);
        }
    }
    let both = "bearer_token: a, oauth2: {client_id: a, client_secret: b, token_url: 'https://auth.example.com/token'}";
    let module = format!("prober: websocket, websocket: {{http_config: {{{both}}}}}");
    let said = converted(&format!("modules: {{m: {{{module}}}}}"), &job("'wss://sfu.example.com/'"));
    assert!(said.stdout.is_empty() && said.stderr.contains("at most one of"), "{}", said.stderr);
}

#[test]
fn a_payload_that_needs_a_flag_is_named_with_it() {
    for (size, is_named) in [(1472, false), (1473, true), (9000, true)] {
        let said = converted(&format!("modules: {{m: {{prober: icmp, icmp: {{payload_size: {size}}}}}}}"), &job("a"));
        assert_eq!(only_spec(&said)["icmp"]["payloadSize"], size);
        let flag = format!("--icmp-max-payload {size}");
        assert_eq!(said.stderr.contains(&flag), is_named, "{}", said.stderr);
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
    for tls in ["", ", tls_config: {insecure_skip_verify: true}"] {
        let module = format!("prober: tcp, tcp: {{query_response: [{{send: STARTTLS}}, {{starttls: true}}]{tls}}}");
        let spec = only_spec(&with_hostname(&module, "192.0.2.7:25"));
        assert_eq!(spec["tlsConfig"]["serverName"], "www.example.com", "{module}");
    }
    let spec = only_spec(&with_hostname("prober: tcp", "192.0.2.7:25"));
    assert_eq!(spec["tlsConfig"], Value::Null);
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

/// Configurations that a blackbox exporter refuses, or that can never work, each with the field and a word of the sentence. A name of a file
/// is that of the exporter's own test that the row stands for.
const REFUSED: &[(&str, &str, &str)] = &[
    ("", "", "is empty"),
    ("module: {}", "module", "did you mean modules?"),
    ("- a", "", "is a list, write a map"),
    ("modules: [a]", "modules", "write a map"),
    ("modules: {m: {prober: http}}\nmodules: {}", "", "twice"),
    ("modules: {m: {prober: http}", "", "not well-formed"),
    // invalid-prober.yml
    ("modules: {m: {prober: htpp}}", "modules.m.prober", "is no prober, write one of http"),
    ("modules: {m: {timeout: 5s}}", "modules.m.prober", "is missing"),
    ("modules: {m: {prober: http, timeout: 5}}", "modules.m.timeout", "write for instance 5s"),
    ("modules: {m: {prober: http, timeout: -5s}}", "modules.m.timeout", "write for instance 5s"),
    ("modules: {m: {prober: http, timeout: 1d}}", "modules.m.timeout", "write for instance 5s"),
    ("modules: {m: {prober: http, htpp: {}}}", "modules.m.htpp", "did you mean http?"),
    ("modules: {m: {prober: http, http: [a]}}", "modules.m.http", "write a map"),
    // blackbox-bad.yml
    ("modules: {m: {prober: http, http: {metod: GET}}}", "modules.m.http.metod", "did you mean method?"),
    ("modules: {m: {prober: http, http: {method: [GET]}}}", "modules.m.http.method", "is a list, write a text"),
    ("modules: {m: {prober: http, http: {fail_if_ssl: maybe}}}", "modules.m.http.fail_if_ssl", "write true or false"),
    ("modules: {m: {prober: http, http: {valid_status_codes: [ok]}}}", "valid_status_codes[0]", "is no status code"),
    ("modules: {m: {prober: http, http: {valid_status_codes: 200}}}", "valid_status_codes", "write a list"),
    ("modules: {m: {prober: http, http: {valid_http_versions: [HTTP/9]}}}", "valid_http_versions[0]", "is no version"),
    // invalid-http-body-config.yml
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
    // invalid-http-body-match-regexp.yml
    (
        "modules: {m: {prober: http, http: {fail_if_body_matches_regexp: ['(']}}}",
        "regexp[0]",
        "no regular expression of RE2",
    ),
    // invalid-http-body-not-match-regexp.yml
    ("modules: {m: {prober: http, http: {fail_if_body_not_matches_regexp: ['(?=a)']}}}", "regexp[0]", "look-around"),
    // invalid-http-header-match-regexp.yml
    ("modules: {m: {prober: http, http: {fail_if_header_matches: [{header: A, regexp: '['}]}}}", "[0].regexp", "RE2"),
    // invalid-http-header-match.yml
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
    // invalid-http-compression-mismatch.yml
    (
        "modules: {m: {prober: http, http: {compression: gzip, headers: {Accept-Encoding: br}}}}",
        "headers.Accept-Encoding",
        "does not accept",
    ),
    // invalid-http-compression-mismatch-special-case.yml
    (
        "modules: {m: {prober: http, http: {compression: gzip, headers: {accept-encoding: 'gzip;q=0'}}}}",
        "headers.accept-encoding",
        "does not accept",
    ),
    // invalid-http-request-compression-reject-all-encodings.yml
    (
        "modules: {m: {prober: http, http: {compression: br, headers: {Accept-Encoding: '*;q=0'}}}}",
        "headers.Accept-Encoding",
        "does not accept",
    ),
    // invalid-no-versions-http3-enabled.yml
    (
        "modules: {m: {prober: http, http: {enable_http3: true}}}",
        "modules.m.http.enable_http3",
        "write enable_http2: false",
    ),
    // invalid-http-http3-http2-enabled.yml
    ("modules: {m: {prober: http, http: {enable_http3: true, enable_http2: true}}}", "enable_http3", "excludes HTTP/2"),
    // invalid-http-http3-http2.yml, invalid-http-http3-http2-version.yml
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
    // blackbox-bad2.yml
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
    // invalid-http-oauth2-jwt-bearer-signature-algorithm.yml
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
    // invalid-tls-ca-and-ca-file.yml
    ("modules: {m: {prober: http, http: {tls_config: {ca: a, ca_file: b}}}}", "tls_config.ca_file", "at most one of"),
    // invalid-tcp-query-response-regexp.yml
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
    // invalid-unix-query-response-regexp.yml
    ("modules: {m: {prober: unix, unix: {query_response: [{expect: '('}]}}}", "query_response[0].expect", "RE2"),
    // invalid-dns-module.yml
    ("modules: {m: {prober: dns}}", "modules.m.dns", "query_name is missing"),
    // invalid-dns-type.yml
    ("modules: {m: {prober: dns, dns: {query_name: a, query_type: NOT}}}", "query_type", "is not known here"),
    // invalid-dns-class.yml
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
    // invalid-icmp-ttl-overflow.yml
    ("modules: {m: {prober: icmp, icmp: {ttl: 256}}}", "modules.m.icmp.ttl", "from 0 to 255"),
    // invalid-icmp-ttl.yml
    ("modules: {m: {prober: icmp, icmp: {ttl: -1}}}", "modules.m.icmp.ttl", "from 0 to 255"),
    ("modules: {m: {prober: icmp, icmp: {payload_size: 65508}}}", "payload_size", "from 0 to 65507"),
    ("modules: {m: {prober: grpc, grpc: {services: a}}}", "modules.m.grpc.services", "did you mean service?"),
    (
        "modules: {m: {prober: websocket, websocket: {http_config: {bearer: a}}}}",
        "http_config.bearer",
        "is not a field",
    ),
    ("modules: {m: {prober: tcp, http: {body_size_limit: x}}}", "modules.m.http.body_size_limit", "is no size"),
    // invalid-websocket-query-response-regexp.yml
    (
        "modules: {m: {prober: websocket, websocket: {query_response: [{expect: '('}]}}}",
        "query_response[0].expect",
        "RE2",
    ),
    // invalid-websocket-whitespace-bearer-token.yml
    (
        "modules: {m: {prober: websocket, websocket: {http_config: {bearer_token: ' '}}}}",
        "http_config.bearer_token",
        "nothing but blanks",
    ),
    // invalid-websocket-incomplete-basic-auth.yml
    (
        "modules: {m: {prober: websocket, websocket: {http_config: {basic_auth: {username: a}}}}}",
        "http_config.basic_auth",
        "has no password",
    ),
    // invalid-websocket-header-newline-name.yml
    (
        "modules: {m: {prober: websocket, websocket: {headers: {\"X\\nY\": {values: [a]}}}}}",
        "websocket.headers.X",
        "control character",
    ),
    // invalid-websocket-header-control-char.yml
    (
        "modules: {m: {prober: websocket, websocket: {headers: {\"X\\x01\": {values: [a]}}}}}",
        "websocket.headers.X",
        "control character",
    ),
    // invalid-websocket-header-newline-value.yml
    (
        "modules: {m: {prober: websocket, websocket: {headers: {X: {values: [\"a\\nb\"]}}}}}",
        "websocket.headers.X",
        "line break",
    ),
];

#[test]
fn what_a_blackbox_exporter_refuses_is_refused_with_its_line_and_field() {
    for (text, field, word) in REFUSED {
        let said = said_to(&mut command(["convert", "-"]), text, PATIENCE);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{text}: {}", said.stderr);
        let fits = |line: &str| line.starts_with("error: <stdin>") && line.contains(field) && line.contains(word);
        assert!(said.stderr.lines().any(fits), "{text}: {}", said.stderr);
    }
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
        let folder = folder_with([("blackbox.yml", good), ("file.yml", text)]);
        let modules: &[&str] = if word.starts_with("config.") { &[] } else { &["blackbox.yml"] };
        let mut command = command(["convert", flag, "file.yml"]);
        command.args(modules).current_dir(folder.path());
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
        (&["convert", "-", "--job", ""], "write 1 to 256"),
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
    assert_eq!(said.stderr.lines().filter(|line| line.contains("has no targets")).count(), 2, "{}", said.stderr);
    assert_nothing_converted(&said, "no targets are given, name them with --prometheus, --manifests or --values");
}

#[track_caller]
fn assert_nothing_converted(said: &Said, why: &str) {
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
    let last = said.stderr.lines().last().unwrap();
    assert_eq!(last, format!("error: nothing is converted: {why}"), "{}", said.stderr);
}

#[test]
fn inputs_of_which_nothing_comes_are_a_failure() {
    let module = "modules: {m: {prober: http}}";
    let discovered = job("https://a")
        .replace("static_configs: [{targets: [https://a]}]", "kubernetes_sd_configs: [{role: service}]");
    for (blackbox, jobs) in [
        ("modules: {other: {prober: http}}", job("https://example.com")),
        (module, job("ftp://example.com")),
        (module, discovered),
        (module, "scrape_configs: [{job_name: node, static_configs: [{targets: ['a:9100']}]}]".to_owned()),
    ] {
        assert_nothing_converted(&converted(blackbox, &jobs), "the lines above say why");
    }
    let partly = converted(module, &job("ftp://example.com, https://example.com"));
    assert_eq!(partly.code, Some(0), "{}", partly.stderr);
    // There was nothing to convert.
    let nothing = said_to(&mut command(["convert", "-"]), "modules: {}", PATIENCE);
    assert_eq!((nothing.code, nothing.stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_input_with_more_than_is_read_is_refused_with_the_bound() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs = format!("{laughs}a{level}: &a{level} [{inner}]\n");
    }
    let many = format!("modules: {{m: {{prober: dns, dns: {{valid_rcodes: [{}]}}}}}}", "1,".repeat(1_000_001));
    for (text, bound) in
        [(laughs, "repeats more than 100000 values by anchors and aliases"), (many, "holds more than 1000000 values")]
    {
        let said = said_to(&mut command(["convert", "-"]), &text, PATIENCE);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
        assert!(said.stderr.contains(bound), "{}", said.stderr);
    }
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
    let folder = folder_with([("prometheus.yml", RELABELLED)]);
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
    let folder = folder_with(["blackbox.yml", "prometheus.yml"].map(|name| (name, block(&page, name))));
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

/// As in Prometheus: a job without a limit, or with 0, has that of `global`.
#[test]
fn limits_of_global_hold_for_jobs_without_their_own() {
    let modules = "modules: {m: {prober: http}}";
    let global = "global: {label_limit: 30, label_name_length_limit: 64, label_value_length_limit: 1000, body_size_limit: 16MiB, sample_limit: 5, \
                  target_limit: 5, keep_dropped_targets: 1}\n";
    let with = |global: &str, own: &str| {
        converted(
            modules,
            &format!("{global}{}", job("https://a").replace("metrics_path", &format!("{own}metrics_path"))),
        )
    };
    let narrows = "which narrows what the installation allows and never raises it";
    let everything =
        json!({"labelLimit": 30, "labelNameLengthLimit": 64, "labelValueLengthLimit": 1000, "bodySizeLimit": "16MiB"});
    for own in ["", "label_limit: 0\n  body_size_limit: 0MB\n  sample_limit: 0\n  "] {
        let said = with(global, own);
        let monitor = &only_spec(&said)["monitor"];
        for (field, value) in everything.as_object().unwrap() {
            assert_eq!(monitor[field], *value, "{field}");
            let words = format!("is kept as monitor.{field} of the targets whose job has none, {narrows}");
            assert_eq!(said.stderr.matches(&words).count(), 1, "{}", said.stderr);
        }
        for words in [
            "prometheus.yml:1: global.label_limit: is kept",
            "; labels of discovery, such as target_name, count as well",
            "prometheus.yml:1: global.sample_limit: is left out: a target has spec.sampleLimit",
            "prometheus.yml:1: global.target_limit: is left out: the installation sets it",
        ] {
            assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
        }
    }
    // Its own wins, be it higher, or one that no target takes.
    let own = "label_limit: 40\n  label_value_length_limit: 63\n  body_size_limit: 1TB\n  sample_limit: 9\n  ";
    let said = with(global, own);
    let monitor = &only_spec(&said)["monitor"];
    assert_eq!((&monitor["labelLimit"], &monitor["labelNameLengthLimit"]), (&json!(40), &json!(64)));
    assert!(monitor.get("labelValueLengthLimit").is_none() && monitor.get("bodySizeLimit").is_none(), "{monitor}");
    let of_global: Vec<&str> = said.stderr.lines().filter(|line| line.contains("global.")).collect();
    assert_eq!(of_global.len(), 2, "of a name's length and of targets: {of_global:#?}");
    for (global, words) in [
        ("label_limit: 5", "global.label_limit: is left out: 5 is not from 6 to 1000000"),
        ("body_size_limit: 1.5MB", "global.body_size_limit: is left out: \"1.5MB\" is not what monitor.bodySizeLimit"),
        ("label_limit: 0, body_size_limit: 0, sample_limit: 0, target_limit: 0", ""),
    ] {
        let said = with(&format!("global: {{{global}}}\n"), "");
        let monitor = &only_spec(&said)["monitor"];
        assert!(monitor.get("labelLimit").is_none() && monitor.get("bodySizeLimit").is_none(), "{global}: {monitor}");
        assert!(said.stderr.contains(words), "{global}: {}", said.stderr);
        assert_eq!(said.stderr.contains("global."), !words.is_empty(), "{global}: {}", said.stderr);
    }
    let said = with("global: {label_limit: many}\n", "");
    assert!(
        said.code == Some(1) && said.stderr.contains("global.label_limit: is a text, write a whole number"),
        "{}",
        said.stderr
    );
    // Nothing is said of a limit that holds for nothing that is converted.
    let said = converted(
        modules,
        &format!("{global}scrape_configs: [{{job_name: j, static_configs: [{{targets: ['a:1']}}]}}]\n"),
    );
    assert!(!said.stderr.contains("global."), "{}", said.stderr);
}

/// The queries of the page that compare both exporters.
fn comparisons() -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating.md")).unwrap();
    let (_, rest) = page.split_once("<!-- compare: begin -->").unwrap();
    let (all, _) = rest.split_once("<!-- compare: end -->").unwrap();
    all.split("```promql\n").skip(1).map(|query| query.split_once("```").unwrap().0.to_owned()).collect()
}

/// The value of `probe_success` of a target of one side: job, instance, value.
type Probed<'t> = (&'t str, &'t str, u8);

/// How many series each query gives.
fn compared(sides: &[Probed<'_>]) -> Vec<usize> {
    let folder = TempDir::new().unwrap();
    let series: Vec<Value> = sides
        .iter()
        .enumerate()
        .map(|(number, (job, instance, value))| {
            json!({"series": format!("probe_success{{job=\"{job}\", instance=\"{instance}\", n=\"{number}\"}}"), "values": value.to_string()})
        })
        .collect();
    let count = |query: &str| {
        let expression = format!("count({query}) or vector(0)");
        let is = |wanted: usize| {
            let samples = json!([{"labels": "{}", "value": wanted}]);
            let test = json!({"interval": "1m", "input_series": series, "promql_expr_test": [
                {"expr": expression, "eval_time": "0m", "exp_samples": samples}]});
            fs::write(folder.path().join("test.yml"), json!({"rule_files": [], "tests": [test]}).to_string()).unwrap();
            let mut promtool = Command::new(tools::promtool());
            promtool.args(["test", "rules", "test.yml"]).current_dir(folder.path());
            let out = promtool.output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success() || said.contains("got:"), "{said}");
            out.status.success()
        };
        (0..9).find(|wanted| is(*wanted)).unwrap()
    };
    comparisons().iter().map(|query| count(query)).collect()
}

#[test]
fn the_queries_of_the_page_compare_both_exporters_for_every_type() {
    let both = |changed: &[Probed<'static>]| {
        let mut all = vec![
            ("blackbox", "https://a", 1),
            ("blackbox-new", "https://a", 1),
            ("blackbox", "h:22", 1),
            ("blackbox-new", "tcp://h:22", 1),
            ("blackbox", "192.0.2.1", 0),
            ("blackbox-new", "icmp://192.0.2.1", 0),
            // Two modules on one url.
            ("blackbox", "https://b", 1),
            ("blackbox", "https://b", 0),
            ("blackbox-new", "https://b", 1),
            ("blackbox-new", "https://b", 0),
        ];
        all.extend(changed);
        compared(&all)
    };
    assert_eq!(both(&[]), [0, 0, 0]);
    // Only one side has a server, or both say something different.
    assert_eq!(both(&[("blackbox", "c:1", 1)]), [1, 0, 1]);
    assert_eq!(both(&[("blackbox-new", "dns://c", 1)]), [1, 0, 1]);
    assert_eq!(both(&[("blackbox", "c:1", 1), ("blackbox-new", "grpc://c:1", 0)]), [0, 1, 1]);
    assert_eq!(both(&[("blackbox", "https://a", 0), ("blackbox-new", "https://b", 0)])[2], 0);
}
