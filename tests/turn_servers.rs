//! Types Turn and Stun against the servers that people run: coturn, pion and node-turn. What they log of allocations is what counts.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use scrapetarget_exporter::dial::{AddressRules, Dialers};
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Target, TargetId};
use serde_json::{Value, json};
use simulators::Noise;
use support::choose_tls_provider;
use support::eventually::{PATIENCE, eventually};
use support::listener::port_of_nobody_else;
use support::probing::{Certificate, Probed, pem, target_of};
use support::program::Running;
use support::tools;
use tempfile::TempDir;

/// A server of which is known where it listens.
struct Server {
    process: Running,
    certificate: Certificate,
    _folder: TempDir,
    udp: String,
    tcp: String,
    tls: String,
}

fn at(port: u16) -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
}

/// Whether a Binding request gets an answer, whatever it is.
async fn answers_over_udp(port: u16) -> std::io::Result<()> {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect((Ipv4Addr::LOCALHOST, port)).await?;
    socket.send(&[&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()).await?;
    tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut [0; 512])).await??;
    Ok(())
}

/// A folder with a certificate and its key.
fn with_certificate() -> (TempDir, Certificate) {
    let (folder, certificate) = (TempDir::new().unwrap(), Certificate::good());
    std::fs::write(folder.path().join("cert.pem"), pem(&certificate)).unwrap();
    std::fs::write(folder.path().join("key.pem"), certificate.key.serialize_pem()).unwrap();
    (folder, certificate)
}

impl Server {
    /// coturn with the user whom the Secrets of tests name, and more options.
    async fn coturn(more: &[&str]) -> Self {
        let (folder, certificate) = with_certificate();
        let [plain, secure, console] = [(); 3].map(|()| port_of_nobody_else());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut command = tools::of_debian("usr/bin/turnserver");
        command.args([
            "-n",
            "-v",
            "--simple-log",
            "--log-file=stdout",
            "--no-dtls",
            "--relay-threads=1",
            "--realm=example.org",
        ]);
        command.args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--cli-password=none"]);
        command.args([format!("--listening-port={plain}"), format!("--tls-listening-port={secure}")]);
        command.args([format!("--cli-port={console}"), format!("--userdb={}", path("db"))]);
        command.args([format!("--cert={}", path("cert.pem")), format!("--pkey={}", path("key.pem"))]);
        command.arg(format!("--pidfile={}", path("pid"))).args(more);
        let process = Running::spawn(command);
        for port in [plain, secure] {
            eventually(PATIENCE, async || match tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error}: {}", process.stdout())),
            })
            .await;
        }
        // It listens over UDP later than over TCP.
        eventually(PATIENCE, async || {
            answers_over_udp(plain).await.map_err(|error| format!("{error}: {}", process.stdout()))
        })
        .await;
        Self { process, certificate, _folder: folder, udp: at(plain), tcp: at(plain), tls: at(secure) }
    }

    /// pion, whose user is alice.
    fn pion() -> Self {
        let (folder, certificate) = with_certificate();
        let mut command = Command::new(tools::pion());
        command.args(["cert.pem", "key.pem"].map(|name| folder.path().join(name)));
        let mut process = Running::spawn(command);
        process.wait("its addresses", |pion| pion.stdout().contains("ready").then_some(()));
        let [udp, tcp, tls] = [const { String::new() }; 3];
        let mut server = Self { process, certificate, _folder: folder, udp, tcp, tls };
        [server.udp, server.tcp, server.tls] = ["udp", "tcp", "tls"].map(|kind| server.said_by_pion(kind));
        server
    }

    /// Where pion listens with this.
    fn said_by_pion(&self, kind: &str) -> String {
        let said = self.process.stdout();
        said.lines().find_map(|line| line.strip_prefix(&format!("{kind} "))).unwrap().to_owned()
    }

    const USER: [&str; 2] = ["--lt-cred-mech", "--user=username-value:password-value"];

    /// How to probe it over each transport.
    fn urls(&self) -> [String; 3] {
        [format!("turn:{}", self.udp), format!("turn:{}?transport=tcp", self.tcp), format!("turns:{}", self.tls)]
    }

    async fn probe(&self, url: &str, turn: &Value) -> Probed {
        self.probe_with(json!({ "type": "Turn", "url": url, "timeout": "30s", "turn": turn })).await
    }

    async fn probe_with(&self, spec: Value) -> Probed {
        let ca: Arc<[u8]> = self.certificate.ca.as_bytes().into();
        Probed::changed(spec, |target| {
            let source = Arc::make_mut(&mut target.source);
            if source.url.scheme().ends_with('s') {
                source.connection.tls.ca = Some(ca);
            }
        })
        .await
    }

    /// Over each transport, it says from where Binding requests come, and that it is no other place.
    async fn answers_binding_requests(&self) {
        for url in self.urls().map(|url| url.replacen("turn", "stun", 1)) {
            let spec = |stun: Value| json!({ "type": "Stun", "url": url, "timeout": "30s", "stun": stun });
            let probed =
                self.probe_with(spec(json!({ "expectAddress": "127.0.0.0/8", "mappedAddress": "Plain" }))).await;
            assert_eq!(probed.reason, None, "{url}: {}", probed.message);
            assert_eq!(probed.value("probe_stun_mapped_address_info{address=\"127.0.0.1\"}"), 1.0);
            assert!(probed.value("probe_stun_transmissions") >= 1.0);
            assert_eq!(probed.has("probe_ssl_earliest_cert_expiry"), url.starts_with("stuns:"), "{url}");
            self.probe_with(spec(json!({ "expectAddress": "192.0.2.1" }))).await.failed(Reason::Match);
        }
    }

    /// The sessions of coturn that got an allocation, and those whose allocation is deleted, by its log.
    fn sessions(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let log = self.process.stdout();
        let with = |what: &str| {
            let lines = log.lines().filter(|line| line.contains(what));
            lines.map(|line| line.split("session ").nth(1).unwrap().split(':').next().unwrap().to_owned()).collect()
        };
        (with(": new, realm="), with(": delete: realm="))
    }

    /// Waits until every allocation of coturn is deleted, long before it would expire. Returns how many there were.
    async fn all_deleted(&self) -> usize {
        eventually(PATIENCE, async || {
            let (new, deleted) = self.sessions();
            let left: Vec<&String> = new.difference(&deleted).collect();
            if left.is_empty() {
                Ok(new.len())
            } else {
                Err(format!("{} of {} are left: {left:?}", left.len(), new.len()))
            }
        })
        .await
    }
}

fn with_credentials(mut turn: Value) -> Value {
    turn["username"] = json!({ "name": "turn", "key": "username" });
    turn["password"] = json!({ "name": "turn", "key": "password" });
    turn
}

fn relay() -> Value {
    with_credentials(
        json!({ "mode": "Relay", "packets": 10, "packetInterval": "5ms", "requireRelay": true, "minReceived": 10 }),
    )
}

/// With the credentials that pion and node-turn know.
fn of_alice(mut turn: Value) -> Value {
    turn["username"] = json!({ "name": "plain", "key": "alice" });
    turn["password"] = json!({ "name": "plain", "key": "s3cret" });
    turn
}

#[tokio::test]
async fn coturn_relays_over_every_transport_and_gets_its_allocations_back() {
    let server = Server::coturn(&[Server::USER[0], Server::USER[1], "--allow-loopback-peers"]).await;
    for url in server.urls() {
        for turn in [json!({}), with_credentials(json!({})), relay()] {
            let probed = server.probe(&url, &turn).await;
            assert_eq!(probed.reason, None, "{url} {turn}: {}", probed.message);
            assert_eq!(probed.value("probe_turn_authentication_required"), 1.0);
            assert!(probed.labels("probe_stun_server_info").contains("Coturn"));
        }
    }
    let probed = server.probe(&server.urls()[0], &relay()).await;
    assert_eq!(probed.value("probe_turn_allocation_lifetime_seconds"), 600.0);
    assert_eq!(probed.value("probe_turn_relay_packets_received"), 10.0);
    assert_eq!(server.all_deleted().await, 7);
    assert!(server.process.stdout().matches("lifetime=0").count() >= 7, "{}", server.process.stdout());
}

#[tokio::test]
async fn coturn_answers_binding_requests_over_every_transport() {
    let server = Server::coturn(&Server::USER).await;
    server.answers_binding_requests().await;
    // One that wants credentials for these as well.
    let server = Server::coturn(&[Server::USER[0], Server::USER[1], "--secure-stun"]).await;
    let url = server.urls()[0].replacen("turn", "stun", 1);
    let probed = server.probe_with(json!({ "type": "Stun", "url": url, "timeout": "30s" })).await;
    probed.failed(Reason::Auth);
    assert_eq!(probed.value("probe_stun_error_code"), 401.0);
    assert!(probed.message.contains("probe it with type Turn"), "{}", probed.message);
}

#[tokio::test]
async fn coturn_that_forbids_the_loop_or_the_credentials_says_so() {
    let server = Server::coturn(&Server::USER).await;
    let url = &server.urls()[0];
    let mut turn = relay();
    server.probe(url, &turn).await.failed(Reason::Response);
    turn["requireRelay"] = false.into();
    let probed = server.probe(url, &turn).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_turn_relay_forbidden"), 1.0);
    assert_eq!(probed.value("probe_turn_error_code{step=\"permission\"}"), 403.0);
    turn["password"]["key"] = "other".into();
    let probed = server.probe(url, &turn).await;
    probed.failed(Reason::Auth);
    assert_eq!(probed.value("probe_turn_error_code{step=\"allocate\"}"), 401.0);
    assert_eq!(server.all_deleted().await, 2);
}

#[tokio::test]
async fn coturn_takes_credentials_of_a_shared_secret() {
    let more = ["--use-auth-secret", "--static-auth-secret=secret-value", "--allow-loopback-peers"];
    let server = Server::coturn(&more).await;
    let url = &server.urls()[0];
    let of =
        |key: &str| json!({ "mode": "Relay", "requireRelay": true, "sharedSecret": { "name": "turn", "key": key } });
    let mut turn = of("secret");
    server.probe(url, &turn).await.succeeded();
    turn["userId"] = "".into();
    server.probe(url, &turn).await.succeeded();
    server.probe(url, &of("other")).await.failed(Reason::Auth);
    assert_eq!(server.all_deleted().await, 2);
}

#[tokio::test]
async fn coturn_without_authentication_is_an_open_relay() {
    let server = Server::coturn(&["--no-auth", "--allow-loopback-peers"]).await;
    for turn in [json!({}), relay()] {
        let probed = server.probe(&server.urls()[0], &turn).await;
        probed.succeeded();
        assert_eq!(probed.value("probe_turn_authentication_required"), 0.0);
    }
    assert_eq!(server.all_deleted().await, 2);
}

/// A thousand probes whose targets are removed at random moments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coturn_gets_every_allocation_back_of_a_thousand_probes_that_were_cut_off() {
    const PROBES: u32 = 1000;
    choose_tls_provider();
    let server = Server::coturn(&[Server::USER[0], Server::USER[1], "--allow-loopback-peers"]).await;
    let clients = Clients::with(Dialers::new(AddressRules::default()).limiting(0));
    let metrics = SelfMetrics::new().unwrap();
    let pollers = Arc::new(Pollers::new(clients, Limits::new(1 << 20, 64 << 20), metrics.polls, true).0);
    let mut noise = Noise::new(23);
    let mut cut = Vec::new();
    for number in 0..PROBES {
        let name = format!("t{number}");
        let url = &server.urls()[usize::from(number.is_multiple_of(4))];
        let spec = json!({ "type": "Turn", "url": url, "interval": "1h", "timeout": "30s", "turn": relay() });
        pollers.apply([Target { id: TargetId::new("media", &name), ..target_of(&spec) }]);
        let (pollers, after) = (Arc::clone(&pollers), Duration::from_micros(noise.below(60_000)));
        cut.push(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            pollers.remove(&TargetId::new("media", &name));
        }));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for cut in cut {
        cut.await.unwrap();
    }
    pollers.shutdown().await;
    let count = server.all_deleted().await;
    assert!(count > 100, "only {count} probes came so far that there was an allocation");
    println!("{count} of {PROBES} probes had an allocation when they were cut off, or before");
}

#[tokio::test]
async fn pion_relays_over_every_transport_and_rejects_wrong_credentials() {
    let server = Server::pion();
    server.answers_binding_requests().await;
    let turn = of_alice(relay());
    for url in server.urls() {
        let probed = server.probe(&url, &turn).await;
        assert_eq!(probed.reason, None, "{url}: {}", probed.message);
    }
    let mut wrong = turn.clone();
    wrong["password"]["key"] = "wrong".into();
    for turn in [wrong, relay()] {
        let probed = server.probe(&server.urls()[0], &turn).await;
        probed.failed(Reason::Auth);
        // Which of them depends on the version.
        let code = probed.value("probe_turn_error_code{step=\"allocate\"}");
        assert!([400.0, 401.0].contains(&code), "{code}");
    }
    let probed = server.probe(&format!("turn:{}", server.said_by_pion("closed")), &turn).await;
    probed.failed(Reason::Response);
    assert_eq!(probed.value("probe_turn_relay_forbidden"), 1.0);
    eventually(PATIENCE, async || {
        let log = server.process.stdout();
        let count = |word: &str| log.lines().filter(|line| line.starts_with(word)).count();
        match (count("created"), count("deleted")) {
            (4, 4) => Ok(()),
            counts => Err(format!("created, deleted: {counts:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn node_turn_is_probed_but_for_its_relay_whose_answer_it_does_not_sign() {
    let port = port_of_nobody_else();
    let mut command = Command::new("node");
    command.arg(tools::node_turn()).arg(port.to_string());
    let _process = Running::spawn(command);
    let turn = format!("turn:{}", at(port));
    let probe = async |kind: &str, url: &str, options: Value| {
        let block = kind.to_lowercase();
        Probed::of(json!({ "type": kind, "url": url, "timeout": "5s", block: options })).await
    };
    eventually(PATIENCE, async || {
        let probed = probe("Turn", &turn, json!({})).await;
        match probed.reason {
            None => {
                assert_eq!(probed.value("probe_turn_authentication_required"), 1.0);
                Ok(())
            }
            Some(reason) => Err(format!("{reason:?}: {}", probed.message)),
        }
    })
    .await;
    let probed = probe("Turn", &turn, of_alice(json!({}))).await;
    assert_eq!(probed.reason, None, "{}", probed.message);
    assert_eq!(probed.value("probe_turn_allocation_lifetime_seconds"), 600.0);
    assert!(probed.value("probe_turn_duration_seconds{phase=\"release\"}") > 0.0);
    // It does not sign that it binds a channel, which is said as it is.
    let probed = probe("Turn", &turn, of_alice(relay())).await;
    probed.failed(Reason::Protocol);
    assert!(
        probed.message.contains("permission: the server sent a success without MESSAGE-INTEGRITY"),
        "{}",
        probed.message
    );
    assert!(probed.value("probe_turn_duration_seconds{phase=\"release\"}") > 0.0);
    assert_eq!(probed.value("probe_turn_error_code{step=\"release\"}"), 0.0);
    let mut wrong = of_alice(json!({}));
    wrong["password"]["key"] = "wrong".into();
    probe("Turn", &turn, wrong).await.failed(Reason::Auth);

    let stun = turn.replacen("turn", "stun", 1);
    let probed = probe("Stun", &stun, json!({ "expectAddress": "127.0.0.1" })).await;
    assert_eq!(probed.reason, None, "{}", probed.message);
    probe("Stun", &stun, json!({ "expectAddress": "192.0.2.1" })).await.failed(Reason::Match);
}
