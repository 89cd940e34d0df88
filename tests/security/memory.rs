//! What targets and clients can make the program keep: it is bounded, and an operator can say how much it is.

use std::fmt::Write;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::attack::{Attacked, Server};
use crate::support::program::{run, signal};

const MIB: u64 = 1 << 20;

/// An exposition of this many series, each with a label of this length that compresses badly.
fn series(count: usize, length: usize) -> String {
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
    let mut text = String::with_capacity(count * (length + 16));
    for i in 0..count {
        let _ = write!(text, "s{{i=\"{i}\",v=\"");
        for _ in 0..length / 16 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            let _ = write!(text, "{bits:016x}");
        }
        text.push_str("\"} 1\n");
    }
    text
}

fn target(server: &Server, name: &str, limit: u32) -> String {
    server.target("tenant", name, "Mediasoup", &format!("sampleLimit: {limit}\nmediasoup: {{ source: Prometheus }}"))
}

/// Half a second of work in a build without optimizations; on a busy machine, polls are the last to get it.
const RARELY: &str = "interval: 60s\n  timeout: 60s";

/// The forms that are not kept: `Accept`, and what is asked to be compressed.
const RARE: [(&str, &str); 3] =
    [("text/plain", "identity"), ("text/plain", "gzip"), ("application/openmetrics-text", "identity")];

/// Asks for a form, and reads nothing yet.
async fn ask(attacked: &Attacked, from: [u8; 4], (accept, encoding): (&str, &str)) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut client = socket.connect(attacked.program.base["http://".len()..].parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /probe?target=tenant/large HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\naccept-encoding: {encoding}\r\n\
         connection: close\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

/// Whether an answer that came in chunks, to the end of the connection, ends as it should.
fn is_whole(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\r\n0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rare_forms_of_a_large_exposition_are_not_kept_however_many_ask_and_however_slowly_they_read() {
    let server = Server::saying(series(20_000, 256)).await;
    let large = target(&server, "large", 100_000).replace("interval: 1s", RARELY);
    let attacked = Attacked::start(&large, &[]).await;
    attacked.all_up(3).await;
    let watch = attacked.watch();
    let before = attacked.memory("VmRSS");
    // 600 who ask and never read: their answers would be more than a GiB, and what makes them 300 MiB.
    let mut silent = Vec::new();
    for form in RARE.into_iter().cycle().take(600) {
        silent.push(ask(&attacked, [127, 0, 0, 1], form).await);
    }
    for (accept, encoding) in RARE {
        let mut answer = Vec::new();
        let read = ask(&attacked, [127, 0, 0, 2], (accept, encoding)).await.read_to_end(&mut answer).await;
        assert!(read.is_ok() && is_whole(&answer), "{read:?} after {} bytes of {accept} {encoding}", answer.len());
        let series = String::from_utf8_lossy(&answer).matches("\ns{").count();
        assert!(encoding == "gzip" || series >= 19_000, "{series} of {accept}"); // some are cut by the chunks
        let after = attacked.memory("VmRSS");
        assert!(after < before + 96 * MIB, "from {} to {} MiB", before / MIB, after / MIB);
    }
    attacked.unnoticed(watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exposition_that_is_being_read_is_read_to_its_end_although_the_service_stops() {
    let server = Server::saying(series(20_000, 256)).await;
    let large = target(&server, "large", 100_000).replace("interval: 1s", RARELY);
    let mut attacked = Attacked::start(&large, &[]).await;
    attacked.all_up(3).await;
    let mut client = ask(&attacked, [127, 0, 0, 1], RARE[0]).await;
    let mut answer = vec![0; 64 << 10];
    client.read_exact(&mut answer).await.unwrap();
    signal(attacked.program.id(), "TERM");
    attacked.program.wait("the signal", |program| (program.logged("stopping") > 0).then_some(()));
    while !is_whole(&answer) {
        let mut piece = vec![0; 256 << 10];
        let read = client.read(&mut piece).await.unwrap();
        assert!(read > 0, "it ended after {} bytes", answer.len());
        answer.extend_from_slice(&piece[..read]);
        tokio::time::sleep(Duration::from_millis(20)).await; // a client that reads slowly, but reads
    }
    assert!(attacked.program.ended().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exposition_takes_a_kibibyte_for_each_series_of_its_limit_and_no_more() {
    let server = Server::saying(series(900, 16 << 10)).await; // labels are cut at 1024 bytes each, and then there are many
    let labels = (0..40).map(|i| format!("l{i}=\"{}\"", "x".repeat(1000))).collect::<Vec<_>>().join(",");
    let wide = (0..300).map(|i| format!("w{{{labels},i=\"{i}\"}} 1")).collect::<Vec<_>>().join("\n");
    let wide = Server::saying(wide).await;
    let attacked = Attacked::start(&(target(&server, "cut", 1000) + &target(&wide, "wide", 1000)), &[]).await;
    let watch = attacked.watch();
    let reason = "probe_failure_info{reason=\"limit\"} 1";
    attacked.program.until("/probe?target=tenant/wide", |_, body| body.contains(reason).then_some(())).await;
    let nothing = attacked.program.body("/probe?target=tenant/wide").await;
    assert!(nothing.contains("\nmediasoup_up 0\n") && !nothing.contains("\nw{"), "{nothing}");
    let told = attacked.program.body("/probe?target=tenant/wide&debug=true").await;
    assert!(told.contains("larger than 1024000 bytes"), "{told}");
    let up = "\nprobe_success 1\n";
    attacked.program.until("/probe?target=tenant/cut", |_, body| body.contains(up).then_some(())).await;
    attacked.unnoticed(watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_cap_is_stronger_than_the_targets_sample_limit_and_is_told() {
    let server = Server::saying(series(500, 32)).await;
    let targets = target(&server, "greedy", 1_000_000) + &target(&server, "modest", 100);
    let attacked = Attacked::start(&targets, &["--max-sample-limit", "400"]).await;
    for (name, limit, sentence) in
        [("greedy", 400, "what --max-sample-limit allows"), ("modest", 100, "what spec.sampleLimit allows")]
    {
        let reason = "probe_failure_info{reason=\"limit\"} 1";
        let path = format!("/probe?target=tenant/{name}");
        attacked.program.until(&path, |_, body| body.contains(reason).then_some(())).await;
        let told = attacked.program.body(&format!("{path}&debug=true")).await;
        assert!(told.contains(sentence), "{name}: {told}");
        assert!(told.contains(&format!("\nsampleLimit: {limit}\n")), "{name}: {told}");
    }
    for wrong in ["0", "-1", "1000001", "many"] {
        let said = run(["run", &format!("--max-sample-limit={wrong}")]);
        assert_eq!((said.code, said.stderr.lines().count()), (Some(2), 1), "{}", said.stderr);
        assert!(said.stderr.contains("from 1 to 1000000"), "{}", said.stderr);
    }
}
