//! The real exporters behind us: what Prometheus gets through this exporter is what it would get from them.
//!
//! Each is asked before, through us and after. What did not move meanwhile must be the same; what moved must be there, and what only grows
//! must lie between. Exporters that cannot be had here answer from a file.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]
#![allow(unreachable_pub, reason = "the modules of a test have no users but each other")]

#[path = "../support/mod.rs"]
mod support;

mod comparison;
mod dashboards;
mod exposition;
mod programs;

use comparison::{Side, Source as _, compare, through_us};
use dashboards::{Query, moving, still};
use programs::{Exporter, Recorded, Server};
use serde_json::{Value, json};
use support::authority::{Authority, server};
use support::program::folder_with;

#[tokio::test(flavor = "multi_thread")]
async fn node_exporter() {
    let exporter = Exporter::node(&[]);
    let families = compare(&exporter).await;
    for name in ["node_cpu_seconds_total", "node_memory_MemAvailable_bytes", "node_load1", "node_uname_info"] {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_exporter_with_tls_and_a_password() {
    let authority = Authority::new();
    let shown = authority.signs(&server());
    let hash = bcrypt::hash("s3cret", 4).unwrap();
    let config = json!({
        "tls_server_config": { "cert_file": "server.pem", "key_file": "server.key" },
        "basic_auth_users": { "prometheus": hash },
    });
    let files =
        [("server.pem", shown.pem()), ("server.key", shown.key.serialize_pem()), ("web.yml", config.to_string())];
    let folder = folder_with(files.iter().map(|(name, text)| (*name, text.as_str())));
    let exporter = Exporter::node(&[format!("--web.config.file={}", folder.path().join("web.yml").display())])
        .asked_by(|port| {
            let client = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
            Side::direct(format!("https://localhost:{port}/metrics"))
                .trusting(client)
                .with_password("prometheus", "s3cret")
        });
    let ca = json!({ "ca": { "configMap": { "name": "files", "key": "root.pem" } } });
    let by = |key: &str| json!({ "name": "files", "key": key });
    let good = json!({ "tlsConfig": ca, "basicAuth": { "username": by("username"), "password": by("password") } });
    let objects =
        [("root.pem", authority.pem()), ("username", "prometheus".to_owned()), ("password", "s3cret".to_owned())];
    let objects: Vec<(&str, &str)> = objects.iter().map(|(key, text)| (*key, text.as_str())).collect();
    comparison::compare_with(&exporter, good, &objects).await;

    let reason = async |spec: Value| {
        let ours = through_us(&[("a", exporter.url(), spec)], &objects).await;
        let answer = ours.body("/probe?target=media/a").await;
        let line = answer.lines().find(|line| line.starts_with("probe_failure_info{")).unwrap_or_default().to_owned();
        assert!(!answer.contains("node_"), "{answer}");
        line
    };
    let without = json!({ "tlsConfig": ca });
    assert_eq!(reason(without).await, r#"probe_failure_info{reason="auth"} 1"#);
    let wrong = json!({ "tlsConfig": ca, "basicAuth": { "username": by("username"), "password": by("username") } });
    assert_eq!(reason(wrong).await, r#"probe_failure_info{reason="auth"} 1"#);
    assert_eq!(reason(json!({})).await, r#"probe_failure_info{reason="tls"} 1"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_exporter_in_part() {
    let exporter = Exporter::node(&[]);
    let all = exporter.direct().read().await;
    let kept = json!({ "metrics": { "keep": ["node_(cpu|memory)_.*", "node_load1"], "drop": ["node_memory_Swap.*"] } });
    let query = json!({});
    let few = json!({ "sampleLimit": 50 });
    let targets = [
        ("part", exporter.url(), kept),
        ("collectors", format!("{}?collect[]=loadavg", exporter.url()), query),
        ("few", exporter.url(), few),
    ];
    let ours = through_us(&targets, &[]).await;
    let read = async |name: &str| exposition::read(&ours.body(&format!("/probe?target=media/{name}")).await);

    let part = read("part").await.unwrap();
    let wanted = |name: &str| {
        let kept = name.starts_with("node_cpu_") || name.starts_with("node_memory_") || name == "node_load1";
        kept && !name.starts_with("node_memory_Swap")
    };
    let passed: Vec<_> = part.keys().filter(|name| !exposition::is_ours(name)).collect();
    assert_eq!(passed, all.keys().filter(|name| wanted(name)).collect::<Vec<_>>());
    assert!(passed.len() > 30, "{passed:?}");

    let collectors = read("collectors").await.unwrap();
    assert!(collectors.contains_key("node_load1") && !collectors.contains_key("node_cpu_seconds_total"));

    // There is no detail that could go first: nothing is passed on.
    let few = read("few").await.unwrap();
    assert_eq!(few.keys().filter(|name| !exposition::is_ours(name)).count(), 0, "{few:#?}");
    assert_eq!(few["probe_failure_info"].series[r#"probe_failure_info{"reason": "limit"}"#], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_is_down_fails_the_scrape_where_that_is_wanted() {
    let exporter = Exporter::node(&[]);
    let url = exporter.url();
    let targets = [("a", url.clone(), json!({ "prometheus": { "failStatus": 502 } })), ("b", url, json!({}))];
    let ours = through_us(&targets, &[]).await;
    assert!(ours.body("/probe?target=media/a").await.contains("node_load1 "));
    drop(exporter);
    let (status, answer) = ours.get("/probe?target=media/a").await.unwrap();
    assert_eq!(status, 502, "{answer}");
    assert!(answer.contains("\nprobe_success 0\n") && !answer.contains("node_"), "{answer}");
    let answer = ours.body("/probe?target=media/b").await;
    assert!(answer.contains(r#"probe_failure_info{reason="connect"} 1"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn process_exporter() {
    let server = Server::redis();
    let exporter = Exporter::process(&server);
    let families = compare(&exporter).await;
    assert!(families.contains("namedprocess_namegroup_cpu_seconds_total"), "{families:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mysqld_exporter_of_mariadb() {
    let server = Server::mariadb();
    let exporter = Exporter::mysqld(&server);
    let families = compare(&exporter).await;
    for name in
        ["mysql_global_status_threads_connected", "mysql_global_variables_max_connections", "mysql_version_info"]
    {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_exporter() {
    let server = Server::postgres();
    let exporter = Exporter::postgres(&server);
    let families = compare(&exporter).await;
    for name in ["pg_stat_database_xact_commit", "pg_settings_max_connections", "pg_locks_count", "pg_static"] {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_exporter() {
    let server = Server::redis();
    let exporter = Exporter::redis(&server);
    let families = compare(&exporter).await;
    for name in ["redis_connected_clients", "redis_instance_info", "redis_commands_total"] {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_exporter() {
    let server = Server::nginx();
    let exporter = Exporter::nginx(&server);
    let families = compare(&exporter).await;
    assert!(families.contains("nginx_http_requests_total") && families.contains("nginxexporter_build_info"));
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_exporter() {
    let server = Server::apache();
    let exporter = Exporter::apache(&server);
    let families = compare(&exporter).await;
    assert!(families.contains("apache_scoreboard") && families.contains("apache_accesses_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn elasticsearch_exporter() {
    let server = Server::elasticsearch().await;
    let exporter = Exporter::elasticsearch(&server);
    let families = compare(&exporter).await;
    for name in ["elasticsearch_cluster_health_status", "elasticsearch_jvm_memory_used_bytes"] {
        assert!(families.contains(name), "{name}");
    }
}

/// Its metrics of itself, and a probe by it: of that, what we say of every target is ours.
#[tokio::test(flavor = "multi_thread")]
async fn blackbox_exporter() {
    let nginx = Server::nginx();
    let exporter = Exporter::blackbox();
    let families = compare(&exporter).await;
    assert!(families.contains("blackbox_exporter_config_last_reload_successful"));
    let probing = exporter.asked_at(&format!("/probe?module=http&target=127.0.0.1:{}", nginx.port));
    let families = compare(&probing).await;
    for name in ["probe_http_status_code", "probe_http_duration_seconds", "probe_dns_lookup_time_seconds"] {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oracledb_exporter_as_recorded() {
    let recorded = Recorded::start(include_str!("oracledb.prom")).await;
    let families = compare(&recorded).await;
    for name in ["oracledb_up", "oracledb_tablespace_bytes", "oracledb_sessions_value", "oracledb_wait_time_user_io"] {
        assert!(families.contains(name), "{name}");
    }
}

/// Its counters of the network are gauges of what came since the last time.
#[tokio::test(flavor = "multi_thread")]
async fn linux_tiny_exporter_as_described() {
    let recorded = Recorded::start(include_str!("linux_tiny.prom")).await;
    let families = compare(&recorded).await;
    assert_eq!(families.iter().filter(|name| name.starts_with("net_") && name.ends_with("_diff")).count(), 4);
}

/// What the dashboards and alerts of the exporter's own mixin ask.
const OF_NODES: &[Query] = &[
    still(r#"up{job="node-exporter"}"#),
    still(r#"count without (cpu, mode) (node_cpu_seconds_total{job="node-exporter",mode="idle"})"#),
    moving(r#"sum by (instance, mode) (rate(node_cpu_seconds_total{job="node-exporter"}[RANGE]))"#, 0.5),
    moving(
        r#"1 - avg without (cpu) (sum without (mode) (rate(node_cpu_seconds_total{job="node-exporter",mode=~"idle|iowait|steal"}[RANGE])))"#,
        0.5,
    ),
    moving(r#"node_load1{job="node-exporter"}"#, 2.0),
    moving(
        r#"node_load1{job="node-exporter"} / on (instance) count by (instance) (node_cpu_seconds_total{job="node-exporter",mode="idle"})"#,
        2.0,
    ),
    still(r#"node_memory_MemTotal_bytes{job="node-exporter"}"#),
    moving(
        r#"1 - (
          (node_memory_MemAvailable_bytes{job="node-exporter"} or (
            node_memory_Buffers_bytes{job="node-exporter"} + node_memory_Cached_bytes{job="node-exporter"}
            + node_memory_MemFree_bytes{job="node-exporter"} + node_memory_Slab_bytes{job="node-exporter"}
          )) / node_memory_MemTotal_bytes{job="node-exporter"}
        )"#,
        0.1,
    ),
    moving(r#"rate(node_vmstat_pgmajfault{job="node-exporter"}[RANGE])"#, 100.0),
    moving(r#"rate(node_disk_read_bytes_total{job="node-exporter",device!=""}[RANGE])"#, 1e8),
    moving(r#"rate(node_disk_io_time_seconds_total{job="node-exporter",device!=""}[RANGE])"#, 0.5),
    moving(r#"rate(node_network_receive_bytes_total{job="node-exporter",device!=""}[RANGE]) * 8"#, 1e9),
    moving(r#"rate(node_network_transmit_bytes_total{job="node-exporter",device!=""}[RANGE]) * 8"#, 1e9),
    still(r#"sum by (instance, device) (node_network_receive_errs_total{job="node-exporter"})"#),
    still(r#"max by (device, mountpoint) (node_filesystem_size_bytes{job="node-exporter",fstype!=""})"#),
    moving(
        r#"node_filesystem_avail_bytes{job="node-exporter",fstype!=""} / node_filesystem_size_bytes{job="node-exporter",fstype!=""} * 100
          and node_filesystem_readonly{job="node-exporter",fstype!=""} == 0"#,
        5.0,
    ),
    moving(r#"node_filefd_allocated{job="node-exporter"} * 100 / node_filefd_maximum{job="node-exporter"}"#, 5.0),
    moving(r#"time() - node_boot_time_seconds{job="node-exporter"}"#, 30.0),
    still(r#"count by (nodename, release, machine) (node_uname_info{job="node-exporter"})"#),
    still(
        r#"node_uname_info{job="node-exporter"} * on (instance) group_left (version) node_exporter_build_info{job="node-exporter"}"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_of_node_exporter_show_the_same() {
    let exporter = Exporter::node(&[]);
    dashboards::same_answers(&exporter.url(), "node-exporter", false, OF_NODES).await;
}
