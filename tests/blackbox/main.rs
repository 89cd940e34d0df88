//! Side by side with the real blackbox exporter: both programs probe the same servers, with the same options, and say the same but for
//! what is wanted to differ. docs/probers.md shows that list.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]
#![allow(unreachable_pub, reason = "the modules of a test have no users but each other")]

#[path = "../support/mod.rs"]
mod support;

mod comparison;
mod differences;
mod dns;
mod grpc;
mod http;
mod row;
mod sides;
mod tcp;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use rustls::version::{TLS12, TLS13};
use row::Row;
use sides::{Files, Sides};
use support::authority::{self, Authority, server};

/// How many rows are asked at a time.
const TOGETHER: usize = 16;

/// Probes all rows; the wanted differences that occurred.
async fn compare(mut rows: Vec<Row>, files: Files) -> BTreeSet<&'static str> {
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
    occurred
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
    let rows = [grpc::rows(&grpc), dns::rows(&dns), tcp::rows(&tcp), self::tls::rows(&of_tls), http::rows(&http)];
    compare(rows.into_iter().flatten().collect(), files).await;
}
