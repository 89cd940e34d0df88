//! A server behind `mediasoup.source: Prometheus` that sends what only Prometheus, this exporter or other types may say.

use std::fmt::Write as _;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::program::Running;

/// What an application has every right to send.
const OWN: &str = "# TYPE edumeet_rooms gauge\nedumeet_rooms 3\n# TYPE mediasoup_workers gauge\nmediasoup_workers 2\n\
    # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 7\n# TYPE http_request_duration_seconds histogram\n\
    http_request_duration_seconds_bucket{le=\"+Inf\"} 4\nhttp_request_duration_seconds_sum 2\nhttp_request_duration_seconds_count 4\n\
    upstream_requests 1\nALERTS_sent 1\n\
    labelled{instance=\"victim\",job=\"victim\",namespace=\"victim\",target_name=\"victim\",target_namespace=\"victim\"} 1\n";

/// What it has not.
const FORGED: &str = "up 1\nscrape_duration_seconds 0.1\nscrape_samples_scraped 1\nscrape_anything 1\n\
    ALERTS{alertname=\"ScrapeTargetDown\",alertstate=\"firing\"} 1\nALERTS_FOR_STATE{alertname=\"ScrapeTargetDown\"} 1\n\
    scrapetarget_up{target_namespace=\"victim\",target_name=\"victim\",type=\"Sora\"} 1\nscrapetarget_targets 0\n\
    probe_success 1\nprobe_ssl_earliest_cert_expiry 9999999999\nprobe_anything 1\nsora_up 1\norion_up 1\nsora_connections_total 5\n\
    mediasoup_up 0\njob:requests:rate5m 1\n\
    # TYPE scrapetarget histogram\nscrapetarget_bucket{le=\"+Inf\"} 1\nscrapetarget_sum 1\nscrapetarget_count 1\n\
    # TYPE orion summary\norion_sum 1\norion_count 1\n\
    hidden{__name__=\"sora_up\"} 1\nhidden{__address__=\"10.0.0.1\"} 1\n";

async fn server(text: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
            let _ = stream.write_all((head + &text).as_bytes()).await;
        }
    });
    format!("http://{address}/metrics")
}

/// The series of the target's own, without the families that tell of the poll.
fn own(exposition: &str) -> Vec<&str> {
    let series = exposition.lines().filter(|line| !line.starts_with('#'));
    series.filter(|line| !line.starts_with("probe_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_family_of_prometheus_of_ours_or_of_another_type_passes() {
    let folder = TempDir::new().unwrap();
    let mut manifests = String::new();
    let openmetrics = format!("{OWN}{FORGED}# EOF\n");
    for (name, text) in
        [("forging", format!("{FORGED}{OWN}")), ("openmetrics", openmetrics), ("honest", OWN.to_owned())]
    {
        let url = server(text).await;
        write!(
            manifests,
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\n\
             spec: {{ type: Mediasoup, url: \"{url}\", mediasoup: {{ source: Prometheus }} }}\n---\n"
        )
        .unwrap();
    }
    let file = folder.path().join("targets.yaml");
    std::fs::write(&file, manifests).unwrap();
    let running = Running::ready(&file, [""; 0]).await;

    let honest = running.body("/probe?target=media/honest").await;
    let mut wanted: Vec<&str> = OWN.lines().filter(|line| !line.starts_with('#')).chain(["mediasoup_up 1"]).collect();
    let mut passed = own(&honest);
    wanted.sort_unstable();
    passed.sort_unstable();
    assert_eq!(passed, wanted, "what is an application's own passes as it is");
    assert!(honest.contains("\nprobe_skipped_fields 0\n"), "{honest}");

    let forged = FORGED.lines().filter(|line| !line.starts_with('#')).count();
    for name in ["forging", "openmetrics"] {
        let exposition = running.body(&format!("/probe?target=media/{name}")).await;
        assert_eq!(own(&exposition), own(&honest), "{name}");
        assert_eq!(exposition.matches("\nprobe_success ").count(), 1, "{exposition}");
        assert!(exposition.contains(&format!("\nprobe_skipped_fields {forged}\n")), "{forged}: {exposition}");
        let debug = running.body(&format!("/probe?target=media/{name}&debug=true")).await;
        assert!(debug.contains(&format!("\nSamples left out: {}. Their names", forged - 2)), "{debug}");
    }
    let debug = running.body("/probe?target=media/honest&debug=true").await;
    assert!(!debug.contains("Samples left out"), "{debug}");
}
