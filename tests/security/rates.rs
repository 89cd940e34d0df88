//! Targets of several namespaces that flood one address together.

use std::fmt::Write as _;
use std::time::Instant;

use tempfile::TempDir;
use tokio::net::TcpListener;

use super::support::attack::Server;
use super::support::program::Running;

/// The sum of a family of `/metrics` over the series with these words.
fn sum(text: &str, family: &str, words: &str) -> f64 {
    let samples = text.lines().filter(|line| line.starts_with(family) && line.contains(words));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Without the limit, each of these polls would be a request.
#[tokio::test]
async fn targets_of_all_namespaces_together_probe_an_address_no_more_often_than_the_flag_says() {
    const PER_SECOND: f64 = 2.0;
    /// What an address that was not probed for long gets at once, and what those that wait have got in advance: each of so many seconds.
    const IN_ADVANCE: f64 = 1.0 + 2.0;
    const TARGETS: usize = 40;
    const POLLS: f64 = 300.0;
    let flooded = Server::saying("").await;
    let other = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = other.local_addr().unwrap();
    tokio::spawn(async move { while other.accept().await.is_ok() {} });
    let mut targets: String = (0..TARGETS)
        .map(|number| flooded.target(&format!("n{}", number % 2), &format!("t{number}"), "Http", "timeout: 1s"))
        .collect();
    write!(
        targets,
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: other, namespace: n0 }}\n\
         spec: {{ type: Tcp, url: \"tcp://{url}\", interval: 10s }}\n"
    )
    .unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    std::fs::write(&file, targets).unwrap();
    let start = Instant::now();
    let program = Running::ready(&file, ["--max-probes-per-address", "2"]).await;
    let polls = |text: &str, words| sum(text, "scrapetarget_polls_total{", words);
    program.until("/metrics", |_, text| (polls(text, "type=\"Http\"") >= POLLS).then_some(())).await;
    // In this order: what is counted has taken no more time than what is measured.
    let asked = flooded.asked();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let (asked, at_most) = (asked as f64, PER_SECOND * (start.elapsed().as_secs_f64() + IN_ADVANCE));
    assert!(asked <= at_most, "{asked} probes, not at most {at_most}");
    assert!(asked >= 1.0, "the address is probed all the same");
    let text = program.body("/metrics").await;
    assert!(polls(&text, "outcome=\"limit\"") > 0.0, "{text}");
    program.until("/probe?target=n0/other", |_, text| text.contains("\nprobe_success 1").then_some(())).await;
    let page = program
        .until("/probe?target=n1/t1&debug=true", |_, text| {
            text.contains("--max-probes-per-address").then(|| text.to_owned())
        })
        .await;
    assert!(page.contains("127.0.0.1 2 times a second"), "{page}");
}
