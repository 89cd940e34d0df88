//! Servers that send without a pause what is small and costs much: each poll ends at its deadline, and others go on meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::support::attack::Attacked;

/// A server that begins every answer with `head` and goes on with `flood` without end; its connections have threads of their own, so that
/// it is as fast as it can.
fn server(head: &'static str, flood: &str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let flood = flood.repeat(10_000);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let flood = flood.clone();
            std::thread::spawn(move || -> std::io::Result<()> {
                assert_ne!(stream.read(&mut [0; 4096])?, 0, "a request came");
                stream.write_all(head.as_bytes())?;
                loop {
                    stream.write_all(flood.as_bytes())?;
                }
            });
        }
    });
    address
}

/// Three targets flood, each poll for up to a second, and nobody else notices.
async fn unnoticed(address: SocketAddr) {
    let target = |i: usize| {
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\n\
             metadata: {{ name: t{i}, namespace: tenant-{i} }}\nspec:\n  type: Mediasoup\n  url: http://{address}/\n  \
             mediasoup: {{ source: Prometheus }}\n  interval: 1s\n  timeout: 1s\n"
        )
    };
    let attacked = Attacked::start(&(0..3).map(target).collect::<String>(), &[]).await;
    let watch = attacked.watch();
    for i in 0..3 {
        let path = format!("/probe?target=tenant-{i}/t{i}");
        let has_ended = |body: &str| body.contains("{reason=\"timeout\"} 1") && body.contains("probe_duration_seconds");
        attacked.program.until(&path, |_, body| has_ended(body).then_some(())).await;
    }
    attacked.unnoticed(watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_without_end_delay_nobody() {
    unnoticed(server("", "HTTP/1.1 102 Processing\r\n\r\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_one_byte_without_end_delay_nobody() {
    unnoticed(server("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\n#\r\n")).await;
}
