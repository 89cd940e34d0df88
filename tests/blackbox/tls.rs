//! Rows about TLS, each by the probers for HTTP and for TCP: certificates of every sort, versions, and client certificates.

use std::sync::Arc;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};

use super::row::Row;
use super::sides::Files;
use crate::support::authority::{Authority, self_signed, server, tls};
use crate::support::conversation::{Conversation, Conversations};

/// A server for each certificate.
pub struct Servers {
    good: Conversations,
    only_12: Conversations,
    only_13: Conversations,
    expired: Conversations,
    not_yet: Conversations,
    other_name: Conversations,
    self_signed: Conversations,
    unknown: Conversations,
    incomplete: Conversations,
    older_root: Conversations,
    asks: Conversations,
    plain: Conversations,
}

pub async fn serve(mut client: Conversation) -> std::io::Result<()> {
    // A prober for TCP says nothing.
    let _ = client.until(b"\r\n\r\n").await;
    client.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello").await?;
    client.end().await
}

impl Servers {
    pub async fn start(authority: &Authority, files: &mut Files) -> Self {
        let both = &[&TLS12, &TLS13];
        let changed = |change: fn(&mut CertificateParams)| {
            let mut params = server();
            change(&mut params);
            params
        };
        let with = |change| tls(&authority.signs(&changed(change)), both);
        let start = async |config: Arc<ServerConfig>| Conversations::start("127.0.0.1", Some(config), serve).await;
        let alone = self_signed(&server());
        let client = authority.signs(&CertificateParams::new(["client.test".to_owned()]).unwrap());
        files.insert("root.pem", authority.pem());
        files.insert("below.pem", authority.pem_below());
        files.insert("self-signed.pem", alone.pem());
        files.insert("client.pem", client.pem());
        files.insert("client.key", client.key.serialize_pem());
        let good = authority.signs(&server());
        files.insert("server.pem", good.pem());
        files.insert("server.key", good.key.serialize_pem());
        Self {
            good: start(tls(&good, both)).await,
            only_12: start(tls(&authority.signs(&server()), &[&TLS12])).await,
            only_13: start(tls(&authority.signs(&server()), &[&TLS13])).await,
            expired: start(with(|params| params.not_after = date_time_ymd(2025, 1, 1))).await,
            not_yet: start(with(|params| params.not_before = date_time_ymd(2039, 1, 1))).await,
            other_name: start(tls(&authority.signs(&CertificateParams::new(["other.test".to_owned()]).unwrap()), both))
                .await,
            self_signed: start(tls(&alone, both)).await,
            unknown: start(tls(&Authority::new().signs(&server()), both)).await,
            incomplete: start(tls(&authority.signs(&server()).incomplete(), both)).await,
            older_root: start(tls(&authority.signs(&server()).with(&authority.older_root()), both)).await,
            asks: start(authority.asks_for_certificate(&authority.signs(&server()))).await,
            plain: Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
                // As web servers do that are spoken to in TLS.
                client.bytes(1).await?;
                client.say("HTTP/1.1 400 Bad Request\r\n\r\n").await?;
                client.end().await
            })
            .await,
        }
    }
}

const ROOT: &str = "ca_file: root.pem";
const SKIP: &str = "insecure_skip_verify: true";

pub fn rows(servers: &Servers) -> Vec<Row> {
    ["http", "tcp"].into_iter().flat_map(|prober| rows_of(prober, servers)).collect()
}

fn rows_of(prober: &'static str, servers: &Servers) -> Vec<Row> {
    let row = |name: &str, server: &Conversations, config: &str| {
        let options = format!("tls_config: {{ {config} }}");
        let name = format!("{prober}-tls-{name}");
        match prober {
            "http" => Row::new(&name, prober, &format!("https://{}/", server.address), &options),
            _ => Row::new(&name, prober, &server.address, &format!("tls: true, {options}")),
        }
    };
    let by_name = |name: &str, server: &Conversations, config: &str| {
        let mut row = row(name, server, config);
        row.target = row.target.replace("127.0.0.1", "localhost");
        row
    };
    let refused = |row: Row| row.fails("tls").differs("certificates that are refused");
    let unverified = |row: Row| row.differs("no verified chain");
    let rows = vec![
        row("good", &servers.good, ROOT),
        by_name("by-name", &servers.good, ROOT),
        row("by-server-name", &servers.good, "ca_file: root.pem, server_name: server.test"),
        row("only-12", &servers.only_12, ROOT),
        row("only-13", &servers.only_13, ROOT),
        row("too-old", &servers.only_12, "ca_file: root.pem, min_version: TLS13").fails("tls"),
        row("new-enough", &servers.good, "ca_file: root.pem, min_version: TLS13"),
        refused(row("expired", &servers.expired, ROOT)),
        unverified(row("expired-and-not-verified", &servers.expired, SKIP)),
        refused(row("not-yet-valid", &servers.not_yet, ROOT)),
        refused(row("other-name", &servers.other_name, ROOT)),
        row("other-name-wanted", &servers.other_name, "ca_file: root.pem, server_name: other.test"),
        refused(row("wrong-name-wanted", &servers.good, "ca_file: root.pem, server_name: other.test")),
        refused(row("self-signed", &servers.self_signed, ROOT)),
        row("self-signed-and-given", &servers.self_signed, "ca_file: self-signed.pem"),
        unverified(row("self-signed-and-not-verified", &servers.self_signed, SKIP)),
        refused(row("unknown-authority", &servers.unknown, ROOT)),
        refused(row("authority-of-the-system", &servers.good, "")),
        refused(row("incomplete", &servers.incomplete, ROOT)),
        row("authority-below-the-root", &servers.incomplete, "ca_file: below.pem"),
        row("older-root-sent", &servers.older_root, ROOT),
        row("client-certificate", &servers.asks, "ca_file: root.pem, cert_file: client.pem, key_file: client.key"),
        row("plain-server", &servers.plain, ROOT).fails("tls"),
    ];
    let mut rows: Vec<Row> = rows;
    // Only a request, or a read, finds out that the server did not like it.
    if prober == "http" {
        rows.push(row("no-client-certificate", &servers.asks, ROOT).fails("tls").differs("no answer over TLS"));
    }
    rows
}
