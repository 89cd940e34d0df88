//! The reference pages are written by the program's own lists, so that they cannot drift: `make generate` renews them.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
use scrapetarget_exporter::cli::Cli;
use scrapetarget_exporter::file::documents;
use scrapetarget_exporter::kind::{Reason, Type};
use scrapetarget_exporter::metric::{Desc, Families, Format, Type as Kind, encode};
use scrapetarget_exporter::poll::{PROBE_FAMILIES, TargetState};
use serde_json::Value;
use support::families::own_families;

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Compares the page with what it should be; with `UPDATE_DOCS=1` writes it first.
fn assert_current(name: &str, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(page(name), expected).unwrap();
    }
    let found = fs::read_to_string(page(name)).unwrap_or_default();
    assert!(found == expected, "docs/{name} is not what the code says: run `make generate`");
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn table(out: &mut String, families: &[&Desc]) {
    out.push_str("| family | type | labels | meaning |\n|---|---|---|---|\n");
    let mut families = families.to_vec();
    families.sort_by_key(|desc| desc.name);
    for desc in families {
        let labels: Vec<String> = desc.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ =
            writeln!(out, "| `{}` | {} | {} | {} |", desc.name, desc.kind.text(), labels.join(", "), cell(desc.help));
    }
    out.push('\n');
}

/// One part of a kind's families: a title, what a reader must know, and the beginnings of the names that belong there. The first
/// part that fits a name has it, so the empty beginning, which fits all names, stands last.
struct Part(&'static str, &'static str, &'static [&'static str]);

const SORA: &[Part] = &[
    Part(
        "Cluster: `sora.clusterMetrics`",
        "Needs one more request, `ListClusterNodes`. On a Sora that is not part of a cluster, it fails and `sora_cluster_up` is 0.",
        &["sora_cluster_"],
    ),
    Part("Client software: `sora.clientMetrics`", "", &["sora_client_type_"]),
    Part("Connection errors: `sora.connectionErrorMetrics`", "", &["sora_connection_error_"]),
    Part(
        "The Erlang virtual machine: `sora.erlangVMMetrics`",
        "Names and units are those of sora_exporter.",
        &["sora_erlang_vm_"],
    ),
    Part(
        "Server mode: `sora.serverMode`",
        "Needs one more request, `GetMode`. Enabled by default.",
        &["sora_server_mode"],
    ),
    Part("Licence", "From `GetLicense`.", &["sora_license_"]),
    Part(
        "Always exported",
        "From `GetStatsReport`; `sora_up` also from `GetLicense`. An older Sora does not report all of these values; those that it does \
         not report are absent.",
        &[""],
    ),
];

const ORION: &[Part] = &[
    Part(
        "Traffic, from `/admin/metrics`",
        "The labels depend on `orion.level`: both with `Subservice`, only `service` with `Service`, none with `Total`. Orion itself \
         reports the sums of services and subservices; exactly one level is exported, so nothing is counted twice.",
        &["orion_incoming_", "orion_outgoing_", "orion_service_time_"],
    ),
    Part(
        "Subscription cache, from `/cache/statistics`",
        "Unless `orion.cacheStatistics` is false.",
        &["orion_subscription_cache_"],
    ),
    Part(
        "The broker",
        "From `/version`, from `/statistics`, or from whether Orion answered at all.",
        &["orion_up", "orion_metrics_enabled", "orion_build_info", "orion_uptime_"],
    ),
    Part(
        "Counters, semaphores, timing, queue, from `/statistics`",
        "Unless `orion.statistics` is false. Orion reports each block only if it was started with the corresponding flag: \
         `-statCounters`, `-statSemWait`, `-statTiming`, `-statNotifQueue`. Blocks that are not enabled are absent.",
        &[""],
    ),
];

const MEDIASOUP: &[Part] = &[
    Part(
        "Received streams, one by one: `mediasoup.perObject: [Producers]`",
        "`room_id` and `peer_id` require `mediasoup.roomLabels: true`. They have a value if the application sets `roomId` and \
         `peerId` in `appData` of the producer or consumer, its transport or its router, and the agent is configured to report them:\n\
         `SCRAPETARGET_AGENT_APP_DATA=roomId,peerId`. If there are more series than `sampleLimit`, these are dropped first.",
        &["mediasoup_producer_stream_"],
    ),
    Part(
        "Sent streams, one by one: `mediasoup.perObject: [Consumers]`",
        "If `metrics.drop` drops all of these and all `mediasoup_consumers_…`, the agent does not query consumers: in large rooms \
         this saves most of the work.",
        &["mediasoup_consumer_stream_", "mediasoup_consumer_current_", "mediasoup_consumer_producer_"],
    ),
    Part(
        "Transports, one by one: `mediasoup.perObject: [Transports]`",
        "",
        &["mediasoup_transport_available_", "mediasoup_transport_max_", "mediasoup_transport_rtp_loss_"],
    ),
    Part(
        "For dashboards of edumeet: `mediasoup.compatibility`",
        "Derived from the document of the agent, with the names and labels of edumeet's own exporter. The prefix `edumeet` is the \
         value of `compatibility.prefix`. Rooms and peers are those that the application passes to the agent with `setRooms()`, \
         otherwise those of `roomId` and `peerId`.\nOtherwise each router is a room, and its peers are the addresses of its clients, \
         which the agent reports only with `SCRAPETARGET_AGENT_ADDRESSES=hash` or `plain`: without it, peers are absent.",
        &[
            "edumeet_",
            "mediasoup_consumer_byte_count_",
            "mediasoup_consumer_score",
            "mediasoup_producer_byte_count_",
            "mediasoup_producer_score",
        ],
    ),
    Part(
        "Aggregated, for dashboards of edumeet: `mediasoup.compatibility.aggregated`",
        "64 families with the names and units of edumeet's `/metrics`. All are gauges: a sum decreases when a stream ends.",
        &[
            "mediasoup_audio_",
            "mediasoup_video_",
            "mediasoup_packets_",
            "mediasoup_spatial_",
            "mediasoup_temporal_",
            "mediasoup_round_trip_times_",
            "mediasoup_workers_",
            "mediasoup_rooms",
            "mediasoup_peers",
        ],
    ),
    Part("Workers", "Worker processes of mediasoup, identified by `pid`.", &["mediasoup_worker"]),
    Part(
        "Totals",
        "Always exported. The exporter accumulates the counters from poll to poll, so they include streams that have ended; they \
         start at 0 when the exporter starts.",
        &[
            "mediasoup_producers",
            "mediasoup_consumers",
            "mediasoup_transport",
            "mediasoup_webrtc_",
            "mediasoup_data_",
            "mediasoup_routers",
        ],
    ),
    Part("The agent and its application", "", &[""]),
];

/// How the families of a kind are shown. A kind that is not listed is shown as one table.
fn parts(kind: Type) -> &'static [Part] {
    match kind.as_str() {
        "Sora" => SORA,
        "Orion" => ORION,
        "Mediasoup" => MEDIASOUP,
        _ => &[],
    }
}

/// The families that several of these kinds have, and those that each has for itself alone.
fn shared_families(kinds: &[Type]) -> (Vec<&'static Desc>, Vec<(Type, Vec<&'static Desc>)>) {
    let all: Vec<&Desc> = kinds.iter().flat_map(|kind| kind.families()).collect();
    let is_shared = |desc: &Desc| all.iter().filter(|other| other.name == desc.name).count() > 1;
    let own = |kind: &Type| (*kind, kind.families().into_iter().filter(|desc| !is_shared(desc)).collect());
    let mut shared: Vec<&Desc> = all.iter().copied().filter(|desc| is_shared(desc)).collect();
    shared.sort_by_key(|desc| desc.name);
    shared.dedup_by_key(|desc| desc.name);
    (shared, kinds.iter().map(own).collect())
}

/// The families of a kind by its parts, each family once.
fn kind_tables(out: &mut String, kind: Type, mut left: Vec<&'static Desc>) {
    for Part(title, text, beginnings) in parts(kind) {
        let (here, others) =
            left.into_iter().partition(|desc| beginnings.iter().any(|start| desc.name.starts_with(start)));
        left = others;
        let _ = writeln!(out, "### {title}\n");
        if !text.is_empty() {
            let _ = writeln!(out, "{text}\n");
        }
        table(out, &here);
        assert!(!here.is_empty(), "{kind} has no family for the part {title:?}");
    }
    if !left.is_empty() {
        table(out, &left);
    }
}

/// Names that follow an older exporter rather than today's conventions, so that dashboards go on working. `promtool` flags them.
fn kept_names() -> Vec<&'static str> {
    let kept = |desc: &&Desc| {
        let total = desc.name.ends_with("_total");
        match desc.kind {
            Kind::Counter => !total || desc.name.contains("_us_"),
            Kind::Gauge => ["_total", "_count", "_sum"].iter().any(|end| desc.name.ends_with(end)),
            _ => false,
        }
    };
    let mut names: Vec<&str> =
        Type::ALL.iter().flat_map(|kind| kind.families()).filter(kept).map(|desc| desc.name).collect();
    names.sort_unstable();
    names
}

fn metrics_page() -> String {
    let mut out = String::from(
        "# Metrics\n\nThis page is generated from the code (`make generate`).\n\n\
         Every response of `/probe?target=namespace/name` contains the families of the target's kind, sorted by name, followed by \
         the families `probe_*` that describe the poll. Labels that identify the target (`instance`, `namespace`, \
         `target_namespace`, `target_name` and those of `spec.labels`) are added by discovery, never by the exporter.\n\n\
         A value that a server does not report is absent, never 0. Polls run in the background: `probe_timestamp_seconds` is the \
         time at which the values were collected. Use `spec.metrics` to select the families that are exported.\n\n\
         If a target has [`spec.members`](members.md), every series of its kind and of `probe_call_success` and `probe_member_*` has \
         one more label, not listed in the tables: `pod`, the name of the member's pod, or `member`, its `ADDRESS:PORT` if there is no \
         pod. The other families `probe_*` are about the target as a whole. `probe_call_duration_seconds` and \
         `probe_call_http_status_code` are absent.\n\n",
    );
    out.push_str("## The poll: `probe_*`\n\n");
    table(&mut out, PROBE_FAMILIES);
    out.push_str("The values of `reason` are a closed set: ");
    let reasons: Vec<String> = Reason::ALL.iter().map(|reason| format!("`{}`", reason.as_str())).collect();
    let _ = writeln!(out, "{}.\n", reasons.join(", "));
    let (probed, polled): (Vec<Type>, Vec<Type>) = Type::ALL.iter().partition(|kind| kind.is_probed());
    for kind in polled {
        let _ = writeln!(out, "## {kind}\n\n{}\n", kind.about().trim());
        if kind.passes_on() {
            out.push_str(OF_THE_SERVER);
            continue;
        }
        kind_tables(&mut out, kind, kind.families());
        if kind.as_str() == "Mediasoup" {
            out.push_str(PASSED_ON);
        }
    }
    out.push_str(PROBES);
    let (shared, own) = shared_families(&probed);
    table(&mut out, &shared);
    for (kind, families) in own {
        let _ = writeln!(out, "### {kind}\n\n{}\n", kind.about().trim());
        kind_tables(&mut out, kind, families);
    }
    out.push_str(
        "## Names kept for compatibility\n\nThese names are those of an older exporter, so that its dashboards and alerts keep \
         working. `promtool check metrics` reports these names and no others. A counter in this list has the type `unknown` in \
         OpenMetrics, because that format has no counter without `_total`.\n\n",
    );
    for name in kept_names() {
        let _ = writeln!(out, "* `{name}`");
    }
    out.push('\n');
    out.push_str("## The exporter itself: `/metrics`\n\n| family | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, kind, labels, help) in own_families() {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(out, "| `{name}` | {kind} | {} | {} |", labels.join(", "), cell(&help));
    }
    let states: Vec<String> = TargetState::ALL.iter().map(|state| format!("`{}`", state.as_str())).collect();
    let _ = write!(out, "\nThe values of `state` are a closed set: {}.\n", states.join(", "));
    out
}

/// What no table can list either.
const OF_THE_SERVER: &str = "Its families are those of the server, with their original names: [prometheus.md](prometheus.md#what-is-passed-on) \
    says what is left out.\n\n";

/// What no table can list.
const PASSED_ON: &str = "### Source `Prometheus`\n\n\
    With `mediasoup.source: Prometheus` the families are those of the application's own exporter, with their original names; \
    `mediasoup_up` is added. `mediasoup.addresses` controls labels that contain client addresses.\n\n";

/// What the types have in common that are probed.
const PROBES: &str = "## Types that probe\n\n\
    [Probes](probers.md) are what the blackbox exporter does, with the names, labels and units of its families. Unlike the families of \
    other types, they do not vanish when a probe fails: what could not be measured is 0, as dashboards for the blackbox exporter expect. \
    Each family of this table belongs to several types. Families of TLS are there as soon \
    as a certificate was sent, even if it was rejected.\n\n";

fn flags_page() -> String {
    let mut out = String::from(
        "# Commands and flags\n\nThis page is generated from the code (`make generate`).\n\n\
         Where a variable is listed, it sets the flag as well; the flag takes precedence. Separate the items of a list in a variable \
         with commas. Durations are written as in a ScrapeTarget: `90s`, `1m30s`, `250ms`. A number of bytes may end with `KiB`, \
         `MiB` or `GiB`. An invalid flag or value prints one line on stderr, and the exit code is 2.\n\n",
    );
    for command in Cli::command().get_subcommands() {
        let _ = writeln!(out, "## `{}`\n\n{}.\n", command.get_name(), command.get_about().unwrap());
        arguments(&mut out, command);
    }
    out
}

fn arguments(out: &mut String, command: &Command) {
    let arguments: Vec<&Arg> = command.get_arguments().filter(|arg| arg.get_id() != "help").collect();
    if arguments.is_empty() {
        return;
    }
    out.push_str("| flag | variable | default | meaning |\n|---|---|---|---|\n");
    for argument in arguments {
        let value = argument.get_value_names().map_or_else(String::new, |names| format!(" {}", names.join(" ")));
        let value = if argument.get_action().takes_values() { value } else { String::new() };
        let aliases = argument.get_visible_aliases().unwrap_or_default();
        let aliases = aliases.iter().fold(String::new(), |before, alias| before + ", or `--" + alias + "`");
        let flag = match argument.get_long() {
            Some(long) => format!("`--{long}{value}`{aliases}"),
            None => format!("`{}`", value.trim()),
        };
        let variable = argument.get_env().map_or_else(String::new, |name| format!("`{}`", name.to_string_lossy()));
        let defaults: Vec<String> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy().into_owned())
            .filter(|value| value != "false")
            .collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let possible: Vec<String> =
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let possible = if possible.len() < 3 { String::new() } else { format!(": {}", possible.join(", ")) };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "| {flag} | {variable} | {default} | {}{possible} |", cell(&help));
    }
    out.push('\n');
}

#[test]
fn the_page_of_metrics_says_what_the_code_says() {
    assert_current("metrics.md", &metrics_page());
}

#[test]
fn promtool_complains_about_the_names_kept_for_compatibility_and_no_others() {
    let mut out = Families::default();
    let mut seen = BTreeSet::new();
    let all = Type::ALL.iter().flat_map(|kind| kind.families()).chain(PROBE_FAMILIES.iter().copied());
    for desc in all.filter(|desc| seen.insert(desc.name)) {
        match desc.kind {
            Kind::Histogram => out.histogram(desc, [(1.0, 1.0)], 1.0, 1.0),
            _ => out.set(desc, &vec!["x"; desc.labels.len()], 1.0),
        }
    }
    let mut text = Vec::new();
    encode(&[&out.finish()], Format::Text, &mut text);
    let findings = support::tools::lint(std::str::from_utf8(&text).unwrap()).unwrap();
    let flagged: BTreeSet<&str> = findings.iter().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(flagged, kept_names().into_iter().collect(), "{findings:#?}");
}

#[test]
fn the_page_of_flags_says_what_the_code_says() {
    assert_current("flags.md", &flags_page());
}

/// The rules of all roles in a file: role, resource with the names it is for, and verbs, as the page has them.
fn rules(manifests: &str) -> BTreeSet<(String, String, Vec<String>)> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut found = BTreeSet::new();
    for document in documents(manifests) {
        let role = document.value().unwrap();
        let role_name = format!("{} ({})", role["metadata"]["name"].as_str().unwrap(), role["kind"].as_str().unwrap());
        for rule in role["rules"].as_array().into_iter().flatten() {
            let names = texts(&rule["resourceNames"]).join(" ");
            for resource in texts(&rule["resources"]) {
                let what = if names.is_empty() { resource } else { format!("{resource} named {names}") };
                assert!(found.insert((role_name.clone(), what, texts(&rule["verbs"]))), "{role_name} has it twice");
            }
        }
    }
    found
}

/// The cells of the tables in a part of a page, without the heads and without the marks of code.
fn rows(part: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect()
    };
    let tables = part.split("\n|---").skip(1).map(|table| table.split("\n\n").next().unwrap());
    tables.flat_map(|table| table.lines().skip(1).filter(|line| line.starts_with('|')).map(cells)).collect()
}

#[test]
fn each_permission_is_on_the_page_and_each_on_the_page_is_shipped() {
    let page = fs::read_to_string(page("kubernetes.md")).unwrap();
    let part = page.split("<!-- rules: begin -->").nth(1).unwrap().split("<!-- rules: end -->").next().unwrap();
    let told: BTreeSet<_> = rows(part)
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone(), row[2].split(", ").map(ToOwned::to_owned).collect()))
        .collect();
    let shipped = rules(include_str!("../deploy/rbac.yaml"));
    assert!(shipped.len() >= 8, "{shipped:#?}");
    assert_eq!(told, shipped);
}

/// The words in CamelCase that the code of a file, or of all files of a folder, holds as texts, but for its tests.
fn camel_case(path: &Path, words: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            camel_case(&entry.unwrap().path(), words);
        }
    } else if !path.ends_with("tests.rs") && path.extension().is_some_and(|end| end == "rs") {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let is_word = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphabetic())
        };
        words.extend(code.split('"').filter(is_word).map(ToOwned::to_owned));
    }
}

#[test]
fn each_reason_of_a_condition_is_on_the_page_and_each_on_the_page_exists() {
    /// Texts in CamelCase that are no reasons.
    const OTHERS: [&str; 12] = [
        "Apply",
        "B",
        "ConfigMap",
        "GiB",
        "KiB",
        "MiB",
        "MonitorReady",
        "RoleSelector",
        "ScrapeTarget",
        "Secret",
        "ServiceMonitor",
        "Up",
    ];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut reasons: BTreeSet<String> = Reason::ALL.iter().map(|reason| reason.condition().to_owned()).collect();
    for place in ["k8s/status", "k8s/monitor", "k8s/endpoint_slices/problem.rs", "target"] {
        camel_case(&source.join(place), &mut reasons);
    }
    reasons.retain(|word| !OTHERS.contains(&word.as_str()));
    assert!(reasons.len() > 30, "{reasons:#?}");
    let page = fs::read_to_string(page("kubernetes.md")).unwrap();
    let part = page.split("\n### `Ready`").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeSet<String> =
        rows(part).into_iter().flat_map(|row| row[0].split(", ").map(ToOwned::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(told, reasons);
}

#[test]
fn each_reason_is_in_the_table_of_what_to_do_and_each_there_exists() {
    let page = fs::read_to_string(page("operating.md")).unwrap();
    let part = page.split("\n## When a target is down").nth(1).unwrap().split("\n## ").next().unwrap();
    let table = part.split("| reason | what happened |").nth(1).unwrap();
    let told: BTreeSet<String> = rows(table).into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(told, Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect());
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_run_has_an_environment_variable() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for argument in run.get_arguments().filter(|arg| arg.get_id() != "help") {
        let long = argument.get_long().unwrap();
        let expected = format!("SCRAPETARGET_{}", long.to_uppercase().replace(['-', '.'], "_"));
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()), "--{long}");
    }
}
