//! Rows of the prober for gRPC, against the health service of the gRPC project itself.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use tempfile::TempDir;

use super::row::{Row, SHORT};
use super::sides::Files;
use crate::support::conversation::{Conversation, Conversations};
use crate::support::program::Running;
use crate::support::scripted::Blackhole;
use crate::support::tools;

pub struct Servers {
    _process: Running,
    plain: String,
    tls: String,
    bare: String,
    closes: Conversations,
    silent: Conversations,
    speaks_http1: Conversations,
    hole: Blackhole,
    closed: String,
}

impl Servers {
    pub async fn start(files: &Files) -> Self {
        let folder = TempDir::new().unwrap();
        let [certificate, key] = ["server.pem", "server.key"].map(|name| {
            let path = folder.path().join(name);
            fs::write(&path, &files[name]).unwrap();
            path
        });
        let mut command = Command::new(tools::health());
        command.args([certificate, key]);
        let mut process = Running::spawn(command);
        let [plain, tls, bare] = ["plain", "tls", "bare"].map(|kind| {
            process.wait("its address", |process| {
                let said = process.stdout();
                let line = said.split_inclusive('\n').find_map(|line| line.strip_suffix('\n')?.strip_prefix(kind));
                line.map(|address| address.trim().to_owned())
            })
        });
        let closed = crate::support::faults::closed_port();
        Self {
            _process: process,
            plain,
            tls,
            bare,
            closes: Conversations::start("127.0.0.1", None, Conversation::end).await,
            silent: Conversations::start("127.0.0.1", None, |client: Conversation| async move {
                // Theirs has no deadline.
                tokio::time::sleep(2 * SHORT).await;
                client.end().await
            })
            .await,
            speaks_http1: Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
                client.say("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
                client.end().await
            })
            .await,
            hole: Blackhole::start(Ipv4Addr::LOCALHOST),
            closed: closed.trim_start_matches("http://").trim_end_matches('/').to_owned(),
        }
    }
}

pub fn rows(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, address: &str, options: &str| Row::new(&format!("grpc-{name}"), "grpc", address, options);
    let plain = |name: &str, options: &str| row(name, &servers.plain, options);
    let over = |name: &str, config: &str| row(name, &servers.tls, &format!("tls: true, tls_config: {{ {config} }}"));
    vec![
        plain("serving", ""),
        plain("not-serving", "service: down").fails("response"),
        plain("undecided", "service: undecided").fails("response"),
        plain("service-unknown", "service: unheard").fails("response"),
        plain("no-such-service", "service: nothing").fails("response"),
        plain("unauthenticated", "service: code-16").fails("auth"),
        plain("permission-denied", "service: code-7").fails("auth"),
        plain("internal", "service: code-13").fails("response"),
        plain("exhausted", "service: code-8").fails("response"),
        plain("slow-service", "service: slow").times_out().theirs_succeeds().differs("deadline of gRPC"),
        row("no-health-service", &servers.bare, "").fails("response"),
        over("tls", "ca_file: root.pem").differs("last chain of gRPC"),
        over("tls-by-name", "ca_file: root.pem, server_name: server.test").differs("last chain of gRPC"),
        over("tls-other-name", "ca_file: root.pem, server_name: other.test")
            .fails("tls")
            .differs("certificates that are refused"),
        over("tls-unknown-authority", "ca_file: self-signed.pem").fails("tls").differs("certificates that are refused"),
        over("tls-not-verified", "insecure_skip_verify: true"),
        row("plain-server", &servers.plain, "tls: true, tls_config: { ca_file: root.pem }").fails("tls"),
        row("tls-server", &servers.tls, "").fails("protocol or connect"),
        row("refused", &servers.closed, "").fails("connect"),
        row("closes", &servers.closes.address.to_string(), "").fails("protocol"),
        row("speaks-http1", &servers.speaks_http1.address.to_string(), "").fails("protocol"),
        row("silent", &servers.silent.address.to_string(), "").times_out().differs("deadline of gRPC"),
        row("black-hole", &servers.hole.address.to_string(), "").times_out().differs("deadline of gRPC"),
    ]
}
