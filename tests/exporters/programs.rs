//! The exporters, and the servers that they ask: each on a free port of loopback with a folder of its own, and gone with the test.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::comparison::{Side, Source};
use crate::support::eventually::PATIENCE;
use crate::support::listener::port_of_nobody_else;
use crate::support::program::{Running, said_to};
use crate::support::tools::{file_of_debian, of_debian, of_debian_as_nobody};

/// A server that an exporter asks.
pub struct Server {
    _running: Serving,
    _folder: Option<TempDir>,
    pub port: u16,
}

enum Serving {
    Process(#[expect(dead_code, reason = "it runs as long as this is there")] Running),
    Task(JoinHandle<()>),
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Self::Task(task) = self {
            task.abort();
        }
    }
}

impl Server {
    /// A process that listens on this port before long.
    fn process(command: Command, folder: TempDir, port: u16) -> Self {
        Self { _running: Serving::Process(listening(command, port)), _folder: Some(folder), port }
    }

    /// `MariaDB`, with a user `exporter` who may see everything.
    pub fn mariadb() -> Self {
        let folder = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let sources = file_of_debian("usr/share/mysql");
        let command = || {
            let mut command = of_debian_as_nobody("usr/sbin/mariadbd");
            let flag = |name: &str, path: std::path::PathBuf| format!("--{name}={}", path.display());
            command.arg("--no-defaults").args([
                flag("basedir", file_of_debian("usr")),
                flag("datadir", folder.path().to_owned()),
                flag("tmpdir", folder.path().to_owned()),
                flag("lc-messages-dir", sources.clone()),
            ]);
            command.args([
                "--innodb-buffer-pool-size=8M",
                "--innodb-log-file-size=4M",
                "--innodb-flush-log-at-trx-commit=0",
            ]);
            command
        };
        let mut setup = "create database mysql;\nuse mysql;\n".to_owned();
        for name in ["mysql_system_tables", "mysql_performance_tables", "mysql_system_tables_data"] {
            setup += &fs::read_to_string(sources.join(name).with_extension("sql")).unwrap();
        }
        setup += "\nflush privileges;\ncreate user 'exporter'@'%' identified by 's3cret';\ngrant all on *.* to 'exporter'@'%';\n";
        let said = said_to(command().arg("--bootstrap"), &setup, PATIENCE);
        assert!(said.good(), "{}", said.stderr);
        let mut command = command();
        command.arg(format!("--port={port}")).arg(format!("--socket={}", folder.path().join("socket").display()));
        command.args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
        Self::process(command, folder, port)
    }

    /// `PostgreSQL`, where everybody is trusted.
    pub fn postgres() -> Self {
        let folder = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let data = folder.path().join("data");
        let mut init = of_debian_as_nobody("usr/lib/postgresql/15/bin/initdb");
        init.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"]);
        let said = said_to(&mut init, "", PATIENCE);
        assert!(said.good(), "{}", said.stderr);
        let mut command = of_debian_as_nobody("usr/lib/postgresql/15/bin/postgres");
        command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-k", "", "-F", "-p", &port.to_string()]);
        Self::process(command, folder, port)
    }

    pub fn redis() -> Self {
        let folder = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let mut command = of_debian("usr/bin/redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"]).arg(folder.path());
        Self::process(command, folder, port)
    }

    pub fn nginx() -> Self {
        let folder = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}} http {{ access_log off; \
             client_body_temp_path client; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; \
             scgi_temp_path scgi; server {{ listen 127.0.0.1:{port}; location /status {{ stub_status; }} \
             location / {{ return 200; }} }} }}"
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = of_debian("usr/sbin/nginx");
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        Self::process(command, folder, port)
    }

    pub fn apache() -> Self {
        let folder = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let modules = file_of_debian("usr/lib/apache2/modules");
        let mut config = format!(
            "ServerRoot {0}\nDefaultRuntimeDir {0}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile apache.pid\n\
             ErrorLog /dev/stderr\nMutex posixsem\n",
            folder.path().display()
        );
        for module in ["mpm_event", "authz_core", "status"] {
            let _ = writeln!(config, "LoadModule {module}_module {}/mod_{module}.so", modules.display());
        }
        config += "ExtendedStatus On\n<Location /server-status>\nSetHandler server-status\n</Location>\n";
        let file = folder.path().join("apache.conf");
        fs::write(&file, config).unwrap();
        let mut command = of_debian_as_nobody("usr/sbin/apache2");
        command.arg("-f").arg(&file).arg("-DFOREGROUND");
        Self::process(command, folder, port)
    }

    /// What its exporter asks a node of Elasticsearch for.
    pub async fn elasticsearch() -> Self {
        Self::answering(&[
            ("/", elasticsearch_node()),
            ("/_cluster/health", elasticsearch_health()),
            ("/_nodes/_local/stats", elasticsearch_stats()),
        ])
        .await
    }

    async fn answering(answers: &[(&str, Value)]) -> Self {
        let mut router = Router::new();
        for (path, value) in answers {
            let text = value.to_string();
            router = router.route(path, get(async move || ([(CONTENT_TYPE, "application/json")], text)));
        }
        let (task, address) = serve(router).await;
        Self { _running: Serving::Task(task), _folder: None, port: address.port() }
    }
}

/// Starts a process, and waits until it listens on this port.
fn listening(command: Command, port: u16) -> Running {
    let mut process = Running::spawn(command);
    process.wait("a connection to it", |_| TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

async fn serve(router: Router) -> (JoinHandle<()>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (task, address)
}

/// An exporter that is asked at `/metrics`.
pub struct Exporter {
    _process: Running,
    _folder: TempDir,
    port: u16,
    direct: Side,
}

impl Source for Exporter {
    fn direct(&self) -> &Side {
        &self.direct
    }
}

impl Exporter {
    /// Starts an exporter of a Debian package. `configure` is given the command and its folder; `flag` is what its address follows.
    fn start(name: &str, flag: &str, configure: impl FnOnce(&mut Command, &TempDir)) -> Self {
        let folder = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let mut command = of_debian(&format!("usr/bin/prometheus-{name}-exporter"));
        configure(&mut command, &folder);
        command.arg(format!("{flag}=127.0.0.1:{port}"));
        let process = listening(command, port);
        Self {
            _process: process,
            _folder: folder,
            port,
            direct: Side::direct(format!("http://127.0.0.1:{port}/metrics")),
        }
    }

    pub fn url(&self) -> String {
        self.direct.url.clone()
    }

    /// The same exporter, asked at another path.
    pub fn asked_at(mut self, path: &str) -> Self {
        self.direct = Side::direct(format!("http://127.0.0.1:{}{path}", self.port));
        self
    }

    /// The same exporter, asked as `side` says.
    pub fn asked_by(mut self, side: impl FnOnce(u16) -> Side) -> Self {
        self.direct = side(self.port);
        self
    }

    /// Without what is about every file and device of the machine that runs the tests.
    pub fn node(arguments: &[String]) -> Self {
        Self::start("node", "--web.listen-address", |command, folder| {
            command.arg(format!("--collector.textfile.directory={}", folder.path().display())).args(arguments);
        })
    }

    /// It watches this server alone: others come and go.
    pub fn process(server: &Server) -> Self {
        Self::start("process", "-web.listen-address", |command, folder| {
            let file = folder.path().join("config.yml");
            let config = json!({ "process_names": [{ "name": "{{.Comm}}", "cmdline": [format!("127.0.0.1:{}", server.port)] }] });
            fs::write(&file, config.to_string()).unwrap();
            command.arg("-config.path").arg(file);
        })
    }

    pub fn mysqld(server: &Server) -> Self {
        Self::start("mysqld", "--web.listen-address", |command, _| {
            command.env("DATA_SOURCE_NAME", format!("exporter:s3cret@(127.0.0.1:{})/", server.port));
        })
    }

    pub fn postgres(server: &Server) -> Self {
        Self::start("postgres", "--web.listen-address", |command, _| {
            let source = format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", server.port);
            command.env("DATA_SOURCE_NAME", source);
        })
    }

    pub fn redis(server: &Server) -> Self {
        Self::start("redis", "-web.listen-address", |command, _| {
            command.arg(format!("-redis.addr=redis://127.0.0.1:{}", server.port));
        })
    }

    pub fn nginx(server: &Server) -> Self {
        Self::start("nginx", "-web.listen-address", |command, _| {
            command.arg(format!("-nginx.scrape-uri=http://127.0.0.1:{}/status", server.port));
        })
    }

    pub fn apache(server: &Server) -> Self {
        Self::start("apache", "--telemetry.address", |command, _| {
            command.arg(format!("--scrape_uri=http://127.0.0.1:{}/server-status?auto", server.port));
        })
    }

    pub fn elasticsearch(server: &Server) -> Self {
        Self::start("elasticsearch", "--web.listen-address", |command, _| {
            command.arg(format!("--es.uri=http://127.0.0.1:{}", server.port));
        })
    }

    pub fn blackbox() -> Self {
        Self::start("blackbox", "--web.listen-address", |command, folder| {
            let file = folder.path().join("blackbox.yml");
            fs::write(&file, "{ modules: { http: { prober: http } } }").unwrap();
            command.arg(format!("--config.file={}", file.display()));
        })
    }
}

/// What an exporter wrote once.
pub struct Recorded {
    task: JoinHandle<()>,
    direct: Side,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source for Recorded {
    fn direct(&self) -> &Side {
        &self.direct
    }
}

impl Recorded {
    pub async fn start(text: &'static str) -> Self {
        let answer = async move || ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text);
        let (task, address) = serve(Router::new().route("/metrics", get(answer))).await;
        Self { task, direct: Side::direct(format!("http://{address}/metrics")) }
    }
}

fn elasticsearch_node() -> Value {
    json!({
        "name": "es-0", "cluster_name": "media", "cluster_uuid": "c9Yx2mQ1Rk2nC0Qw",
        "version": {
            "number": "8.15.0", "build_hash": "0123456789abcdef", "build_date": "2024-08-01T00:00:00.000000000Z",
            "build_snapshot": false, "lucene_version": "9.11.1",
        },
        "tagline": "for tests",
    })
}

fn elasticsearch_health() -> Value {
    json!({
        "cluster_name": "media", "status": "yellow", "timed_out": false, "number_of_nodes": 3, "number_of_data_nodes": 2,
        "active_primary_shards": 12, "active_shards": 20, "relocating_shards": 1, "initializing_shards": 0,
        "unassigned_shards": 4, "delayed_unassigned_shards": 0, "number_of_pending_tasks": 0,
        "number_of_in_flight_fetch": 0, "task_max_waiting_in_queue_millis": 0, "active_shards_percent_as_number": 83.3,
    })
}

/// A part of what a node says: documents, memory of its virtual machine, thread pools, file systems.
fn elasticsearch_stats() -> Value {
    let pool = json!({ "threads": 4, "queue": 0, "active": 1, "rejected": 0, "largest": 4, "completed": 1234 });
    json!({
        "cluster_name": "media",
        "nodes": { "n0deIdent1fier": {
            "name": "es-0", "host": "127.0.0.1", "transport_address": "127.0.0.1:9300", "timestamp": 1_700_000_000_000_u64,
            "roles": ["data", "ingest", "master"],
            "indices": {
                "docs": { "count": 123_456_789, "deleted": 1234 },
                "store": { "size_in_bytes": 9_876_543_210_u64, "throttle_time_in_millis": 0 },
                "indexing": { "index_total": 5678, "index_time_in_millis": 91011, "delete_total": 12, "delete_time_in_millis": 3 },
                "search": { "query_total": 77, "query_time_in_millis": 888, "fetch_total": 66, "fetch_time_in_millis": 55 },
            },
            "os": { "load_average": 1.5, "cpu": { "percent": 12, "load_average": { "1m": 1.5, "5m": 1.25, "15m": 1.0 } } },
            "process": { "open_file_descriptors": 321, "max_file_descriptors": 65535, "cpu": { "percent": 3, "total_in_millis": 45678 } },
            "jvm": {
                "uptime_in_millis": 86_400_000, "mem": {
                    "heap_used_in_bytes": 268_435_456, "heap_max_in_bytes": 1_073_741_824, "heap_committed_in_bytes": 1_073_741_824,
                    "non_heap_used_in_bytes": 134_217_728, "non_heap_committed_in_bytes": 142_606_336,
                    "pools": { "young": { "used_in_bytes": 1024, "max_in_bytes": 4096, "peak_used_in_bytes": 2048, "peak_max_in_bytes": 4096 } },
                },
                "gc": { "collectors": { "young": { "collection_count": 17, "collection_time_in_millis": 1700 } } },
            },
            "thread_pool": { "search": pool, "write": pool },
            "fs": { "data": [{
                "path": "/data", "mount": "/ (overlay)", "type": "overlay",
                "total_in_bytes": 107_374_182_400_u64, "free_in_bytes": 53_687_091_200_u64, "available_in_bytes": 48_318_382_080_u64,
            }] },
            "breakers": { "parent": {
                "limit_size_in_bytes": 1_020_054_732, "estimated_size_in_bytes": 268_435_456, "overhead": 1.0, "tripped": 0,
            } },
        } },
    })
}
