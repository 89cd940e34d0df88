//! Guesses at passwords, in every number: they cost us the time of those that are waited for, and nobody else waits for them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connections::{address, connect};
use crate::support::eventually::PATIENCE;
use crate::support::load::allowed;
use crate::support::program::Running;

const PROMETHEUS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A service with one user, `ann`, whose password is `secret`, with a hash that takes some time.
fn service(folder: &TempDir) -> Running {
    write_users(folder.path(), &bcrypt::hash("secret", 8).unwrap());
    let targets = folder.path().join("targets.yaml");
    std::fs::write(&targets, "apiVersion: v1\nkind: List\nitems: []\n").unwrap();
    let web = folder.path().join("web.yml");
    let arguments = ["--targets", targets.to_str().unwrap(), "--web.config.file", web.to_str().unwrap()];
    Running::service(arguments)
}

fn write_users(folder: &Path, hash: &str) {
    std::fs::write(folder.join("web.yml"), format!("basic_auth_users:\n  ann: {hash}\n")).unwrap();
}

fn request(password: &str) -> String {
    let credentials = BASE64_STANDARD.encode(format!("ann:{password}"));
    format!("GET /metrics HTTP/1.1\r\nHost: x.localhost\r\nAuthorization: Basic {credentials}\r\n\r\n")
}

/// Sends a request on a connection of its own.
async fn send(service: &Running, from: Ipv4Addr, request: &str) -> TcpStream {
    let mut stream = connect(from, address(service)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The status of the answer, and how long it took.
async fn status(service: &Running, from: Ipv4Addr, password: &str) -> (String, Duration) {
    let start = Instant::now();
    let mut stream = send(service, from, &request(password)).await;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.unwrap();
    (String::from_utf8(line[9..].to_vec()).unwrap(), start.elapsed())
}

/// Processor time of a process.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Processor time of one comparison: the mean of some, since it is told in steps of 10 ms.
async fn cost(service: &Running) -> Duration {
    const GUESSES: u32 = 5;
    let before = cpu(service.id());
    for guess in 0..GUESSES {
        assert_eq!(status(service, Ipv4Addr::LOCALHOST, &format!("first {guess}")).await.0, "401");
    }
    cpu(service.id()).saturating_sub(before) / GUESSES
}

async fn guesses_of_clients_that_went_away_cost_no_more_than_those_begun(requests_at_once: usize) {
    let folder = TempDir::new().unwrap();
    let service = service(&folder);
    let one = cost(&service).await;
    for guess in 0..300 {
        let requests: String = (0..requests_at_once).map(|again| request(&format!("wrong {guess} {again}"))).collect();
        let stream = send(&service, Ipv4Addr::LOCALHOST, &requests).await;
        tokio::time::sleep(Duration::from_millis(4)).await;
        drop(stream);
    }
    let before = cpu(service.id());
    let (status, waited) = status(&service, Ipv4Addr::LOCALHOST, "secret").await;
    assert_eq!(status, "200");
    // Time in which 40 comparisons would fit, and those of 300 clients do not.
    tokio::time::sleep(one * 40).await;
    let spent = cpu(service.id()).saturating_sub(before);
    assert!(spent < one * 15, "{spent:?} after the clients had gone, where one comparison takes {one:?}");
    let most = allowed(one * 20 + Duration::from_secs(1));
    assert!(waited < most, "a good password took {waited:?}, a comparison {one:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_ends_with_its_client() {
    guesses_of_clients_that_went_away_cost_no_more_than_those_begun(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_ends_with_its_client_although_another_was_sent_along_with_it() {
    guesses_of_clients_that_went_away_cost_no_more_than_those_begun(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_without_end_keeps_out_nobody_who_knows_the_password() {
    let folder = TempDir::new().unwrap();
    let service = service(&folder);
    let one = cost(&service).await;
    let mut flood = Vec::new();
    for guess in 0..300 {
        flood.push(send(&service, Ipv4Addr::LOCALHOST, &request(&format!("wrong {guess}"))).await);
    }
    let (first, waited) = status(&service, PROMETHEUS, "secret").await;
    assert_eq!(first, "200");
    assert!(waited < allowed(one * 10 + Duration::from_secs(1)), "{waited:?}, where one comparison takes {one:?}");
    // It is known from now on, also after the file has changed: another user has come, who takes no time.
    write_users(folder.path(), &format!("{}\n  bob: {}", hash_in(folder.path()), bcrypt::hash("b", 4).unwrap()));
    let start = Instant::now();
    while service.logged("web config has changed and is in use") == 0 {
        assert!(start.elapsed() < PATIENCE, "{}", service.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for guess in 0..30 {
        flood.push(send(&service, Ipv4Addr::LOCALHOST, &request(&format!("later {guess}"))).await);
    }
    let (again, waited) = status(&service, Ipv4Addr::LOCALHOST, "secret").await;
    assert_eq!(again, "200", "asked from where the guesses come from, whose line is full: {waited:?}");
}

fn hash_in(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("web.yml")).unwrap();
    text.split_whitespace().last().unwrap().to_owned()
}
