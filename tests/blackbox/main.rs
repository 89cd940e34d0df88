//! Side by side with the real blackbox exporter: both programs probe the same servers, with the same options, and say the same but for
//! what is wanted to differ. docs/probers.md shows that list. The variable `BLACKBOX_ROWS` chooses some of the rows, by a part of the name.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]
#![allow(unreachable_pub, reason = "the modules of a test have no users but each other")]

#[path = "../support/mod.rs"]
mod support;

mod comparison;
mod differences;
mod dns;
mod grpc;
mod http;
mod names;
mod nginx;
mod row;
mod sides;
mod tcp;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;

use differences::{DIFFERENCES, Rows};
use futures::StreamExt;
use row::Row;
use rustls::version::{TLS12, TLS13};
use sides::{Files, Sides};
use support::authority::{self, Authority, server};
use support::namespaces::inside;

/// How many rows are asked at a time.
const TOGETHER: usize = 16;

/// Probes all rows. The wanted differences must occur that are for rows in namespaces, or all others.
async fn compare(mut rows: Vec<Row>, files: Files, namespaces: bool) {
    let chosen = std::env::var("BLACKBOX_ROWS").ok();
    rows.retain(|row| chosen.as_ref().is_none_or(|part| row.name.contains(part)));
    rows.sort_by_key(|row| !row.waits());
    let sides = Sides::start(&rows, &files).await;
    let compared = futures::stream::iter(&rows).map(|row| comparison::compare(&sides, row));
    let compared: Vec<_> = compared.buffer_unordered(TOGETHER).collect().await;
    let mut occurred = BTreeSet::new();
    let mut wrong = Vec::new();
    for result in compared {
        match result {
            Ok(differences) => occurred.extend(differences),
            Err(problem) => wrong.push(problem),
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    let wanted = DIFFERENCES.iter().filter(|difference| (difference.rows == Rows::NamedInNamespaces) == namespaces);
    if chosen.is_some() {
        return;
    }
    let missing: Vec<_> = wanted.map(|difference| difference.name).filter(|name| !occurred.contains(name)).collect();
    assert!(missing.is_empty(), "these wanted differences no longer occur: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_say_the_same_of_every_server() {
    support::choose_tls_provider();
    let authority = Authority::new();
    let secure = authority::tls(&authority.signs(&server()), &[&TLS12, &TLS13]);
    let mut files = Files::new();
    let of_tls = self::tls::Servers::start(&authority, &mut files).await;
    let http = http::Servers::start(Arc::clone(&secure)).await;
    let tcp = tcp::Servers::start(Arc::clone(&secure)).await;
    let grpc = grpc::Servers::start(&files).await;
    let dns = dns::Servers::start(Arc::clone(&secure)).await;
    let nginx = nginx::Server::start(&files).await;
    let rows = [
        grpc::rows(&grpc),
        nginx::rows(&nginx),
        dns::rows(&dns),
        tcp::rows(&tcp),
        self::tls::rows(&of_tls),
        http::rows(&http),
    ];
    compare(rows.into_iter().flatten().collect(), files, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_say_the_same_of_names_and_pings() {
    if !inside("both_say_the_same_of_names_and_pings", &[]) {
        return;
    }
    support::choose_tls_provider();
    let mut files = Files::new();
    let servers = names::Servers::start(&mut files).await;
    compare(names::rows(&servers), files, true).await;
}
