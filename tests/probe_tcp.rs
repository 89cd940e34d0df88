//! Type Tcp against servers that follow a script: every dialogue that people use, what is left when it fails, and servers that mean ill.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::sync::Arc;

use rcgen::KeyPair;
use scrapetarget_exporter::kind::Reason;
use serde_json::{Value, json};
use support::faults::closed_port;
use support::probing::{Act, Actor, Certificate, Probed, authority, hear, say, target_of};

const YEAR_2030: f64 = 1_893_456_000.0;
const YEAR_2035: f64 = 2_051_222_400.0;
const YEAR_2040: f64 = 2_208_988_800.0;
const PHASES: [&str; 4] = ["resolve", "connect", "tls", "exchange"];

/// A probe of `server`, with these steps.
async fn probe(server: &Actor, steps: Value) -> Probed {
    Probed::of(json!({ "type": "Tcp", "url": server.url("tcp"), "tcp": { "queryResponse": steps } })).await
}

/// The same with an authority that is trusted.
async fn probe_with(url: String, steps: Value, ca: &str) -> Probed {
    let spec = json!({ "type": "Tcp", "url": url, "tcp": { "queryResponse": steps } });
    Probed::changed(spec, |target| Arc::make_mut(&mut target.source).connection.tls.ca = Some(ca.as_bytes().into()))
        .await
}

fn phase(name: &str) -> String {
    format!("probe_tcp_duration_seconds{{phase=\"{name}\"}}")
}

/// What is there whatever becomes of a probe.
#[track_caller]
fn has_what_is_always_there(probed: &Probed) {
    for family in ["probe_failed_due_to_regex", "probe_failed_due_to_bytes", "probe_duration_seconds", "probe_success"]
    {
        probed.value(family);
    }
    for name in PHASES {
        probed.value(&phase(name));
    }
}

#[tokio::test]
async fn a_port_that_answers_is_enough_without_a_dialogue() {
    let server = Actor::start([]).await;
    let probed = Probed::of(json!({ "type": "Tcp", "url": server.url("tcp") })).await;
    probed.succeeded();
    has_what_is_always_there(&probed);
    assert_eq!(probed.value("probe_ip_protocol"), 4.0);
    assert_eq!(probed.value("probe_ip_addr_hash"), 3_668_918_509.0);
    assert_eq!(probed.value("probe_timeout_seconds"), 60.0);
    assert!(probed.value(&phase("connect")) > 0.0);
    assert_eq!(probed.value(&phase("tls")), 0.0);
    assert!(!probed.has("probe_ssl_last_chain_info") && !probed.has("probe_expect_info"));
}

#[tokio::test]
async fn a_port_that_refuses_is_a_failure_with_all_families() {
    let url = closed_port().replace("http://", "tcp://");
    let probed = Probed::of(json!({ "type": "Tcp", "url": url.trim_end_matches('/') })).await;
    probed.failed(Reason::Connect);
    assert!(probed.message.contains("refused"), "{}", probed.message);
    has_what_is_always_there(&probed);
    assert_eq!(probed.value("probe_ip_protocol"), 4.0);
}

#[tokio::test]
async fn a_name_without_an_address_is_a_failure_with_all_families() {
    let probed = Probed::of(json!({ "type": "Tcp", "url": "tcp://no-such-host.invalid:80" })).await;
    probed.failed(Reason::Dns);
    has_what_is_always_there(&probed);
    assert_eq!((probed.value("probe_ip_protocol"), probed.value("probe_ip_addr_hash")), (0.0, 0.0));
    assert!(probed.value("probe_dns_lookup_time_seconds") > 0.0);
}

#[tokio::test]
async fn tls_from_the_start_gives_the_certificate() {
    let certificate = Certificate::good();
    let server = Actor::with_tls([Act::Tls, say("hello\n"), Act::Hang], Some(certificate.acceptor())).await;
    let probed = probe_with(server.url("tls"), json!([{ "expect": "^hello$" }]), &certificate.ca).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_earliest_cert_expiry"), YEAR_2040);
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2040);
    assert_eq!(probed.value("probe_tls_version_info{version=\"TLS 1.3\"}"), 1.0);
    assert!(!probed.has("probe_tls_cipher_info"), "it is of Http alone");
    let labels = probed.labels("probe_ssl_last_chain_info");
    for part in ["issuer=\"CN=test root\"", "subjectalternative=\"localhost\"", "subject=\"CN=rcgen self signed cert\""]
    {
        assert!(labels.contains(part), "{labels}");
    }
    assert!(probed.value(&phase("tls")) > 0.0);
    let shown = probed.snapshot.probe.as_ref().unwrap();
    assert_eq!(shown.certificates().count(), 1);
    assert!(shown.events().any(|event| event.text.starts_with("agreed on TLS 1.3")), "{shown:?}");
}

#[tokio::test]
async fn a_rejected_certificate_is_told_of_and_no_chain_of_it_is_verified() {
    let expired = Certificate::changed(|params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let nameless = Certificate::changed(|params| params.subject_alt_names.truncate(0));
    let elsewhere = Certificate::changed(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere.test".try_into().unwrap())];
    });
    let good = Certificate::good();
    let stranger = authority("stranger", 2040, KeyPair::generate().unwrap()).pem();
    for (certificate, ca, says) in [
        (&expired, &expired.ca, "expired"),
        (&nameless, &nameless.ca, "not valid for"),
        (&elsewhere, &elsewhere.ca, "not valid for"),
        (&good, &stranger, "unknown authority"),
    ] {
        let server = Actor::with_tls([Act::Tls, Act::Hang], Some(certificate.acceptor())).await;
        let probed = probe_with(server.url("tls"), json!([]), ca).await;
        probed.failed(Reason::Tls);
        assert!(probed.message.contains(says), "{}", probed.message);
        assert!(probed.has("probe_ssl_last_chain_info") && probed.has("probe_ssl_earliest_cert_expiry"), "{says}");
        assert!(!probed.has("probe_ssl_last_chain_expiry_timestamp_seconds"), "{says}");
        assert!(!probed.has("probe_tls_version_info"), "{says}");
        has_what_is_always_there(&probed);
    }
}

/// The chain that was sent has an older root, which is not the trusted one.
#[tokio::test]
async fn the_earliest_end_is_that_of_all_that_was_sent_and_the_last_chain_that_of_what_was_verified() {
    let key = KeyPair::generate().unwrap();
    let older = authority("root", 2030, KeyPair::from_pem(&key.serialize_pem()).unwrap());
    let trusted = authority("root", 2035, key);
    let mut certificate = Certificate::good();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
    let leaf = params.signed_by(&certificate.key, &trusted).unwrap();
    certificate.chain = vec![leaf.der().clone(), older.der().clone()];
    let server = Actor::with_tls([Act::Tls, Act::Hang], Some(certificate.acceptor())).await;
    let probed = probe_with(server.url("tls"), json!([]), &trusted.pem()).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_earliest_cert_expiry"), YEAR_2030);
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2035);

    let both = format!("{}{}", older.pem(), trusted.pem());
    let probed = probe_with(server.url("tls"), json!([]), &both).await;
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2035, "the later of two chains");
    let probed = probe_with(server.url("tls"), json!([]), &older.pem()).await;
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2030);
}

/// An authority between has one key and two certificates: of two roots that end at different times.
#[tokio::test]
async fn of_two_ways_to_a_root_the_one_that_lasts_longest_counts() {
    let [short, long] =
        [("short", 2030), ("long", 2035)].map(|(name, until)| authority(name, until, KeyPair::generate().unwrap()));
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "between");
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2050, 1, 1));
    let crossed = [&short, &long].map(|root| params.signed_by(&key, root).unwrap().der().clone());
    let between = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let mut certificate = Certificate::good();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
    let leaf = params.signed_by(&certificate.key, &between).unwrap();
    certificate.chain = std::iter::once(leaf.der().clone()).chain(crossed).collect();
    let server = Actor::with_tls([Act::Tls, Act::Hang], Some(certificate.acceptor())).await;
    for (trusted, expected) in [
        (short.pem(), YEAR_2030),
        (long.pem(), YEAR_2035),
        (format!("{}{}", short.pem(), long.pem()), YEAR_2035),
        (format!("{}{}", long.pem(), short.pem()), YEAR_2035),
    ] {
        let probed = probe_with(server.url("tls"), json!([]), &trusted).await;
        probed.succeeded();
        assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), expected);
        assert_eq!(probed.value("probe_ssl_earliest_cert_expiry"), YEAR_2040);
    }
}

#[tokio::test]
async fn versions_of_tls_can_be_chosen_for_probes_and_for_polls() {
    let certificate = Certificate::good();
    for (spoken, name, chosen, other) in [
        (&rustls::version::TLS12, "TLS 1.2", json!({ "maxVersion": "TLS12" }), json!({ "minVersion": "TLS13" })),
        (&rustls::version::TLS13, "TLS 1.3", json!({ "minVersion": "TLS13" }), json!({ "maxVersion": "TLS12" })),
    ] {
        support::choose_tls_provider();
        let key = rustls_pki_types::PrivateKeyDer::try_from(certificate.key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_protocol_versions(&[spoken])
            .with_no_client_auth()
            .with_single_cert(certificate.chain.clone(), key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let answer = say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        let server = Actor::with_tls([Act::Tls, hear("POST / HTTP/1.1\r\n"), answer], Some(acceptor)).await;
        for (versions, agreed) in [(json!({}), true), (chosen, true), (other, false)] {
            let trust = |target: &mut scrapetarget_exporter::target::Target| {
                Arc::make_mut(&mut target.source).connection.tls.ca = Some(certificate.ca.as_bytes().into());
            };
            let spec = json!({ "type": "Tcp", "url": server.url("tls"), "tlsConfig": versions });
            let probed = Probed::changed(spec, trust).await;
            if agreed {
                probed.succeeded();
                assert_eq!(probed.value(&format!("probe_tls_version_info{{version=\"{name}\"}}")), 1.0);
            } else {
                probed.failed(Reason::Tls);
                assert!(probed.message.contains("version") || probed.message.contains("TLS 1."), "{}", probed.message);
            }
            let spec = json!({ "type": "Sora", "url": server.url("https"), "tlsConfig": versions, "sora": { "serverMode": false } });
            let polled = Probed::changed(spec, trust).await;
            // `{}` is no answer of Sora: the handshake succeeded.
            let expected = if agreed { Reason::Schema } else { Reason::Tls };
            assert_eq!(polled.reason, Some(expected), "{name} {versions}: {}", polled.message);
        }
    }
}

#[tokio::test]
async fn a_server_that_signed_for_itself_is_told_of_and_can_be_trusted() {
    let mut certificate = Certificate::good();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
    let own = params.self_signed(&certificate.key).unwrap();
    certificate.chain = vec![own.der().clone()];
    let server = Actor::with_tls([Act::Tls, Act::Hang], Some(certificate.acceptor())).await;
    let probed = probe_with(server.url("tls"), json!([]), &certificate.ca).await;
    probed.failed(Reason::Tls);
    assert!(probed.has("probe_ssl_last_chain_info") && probed.has("probe_ssl_earliest_cert_expiry"));
    let probed = probe_with(server.url("tls"), json!([]), &own.pem()).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2040);
}

/// In TLS 1.3 the handshake is over for us before the server has looked at our certificate, and it may end the connection while we send.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_is_missing_is_told_of_during_the_dialogue() {
    let certificate = Certificate::good();
    let config = certificate.demanding_server_config();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let server = Actor::with_tls([Act::Tls, Act::Hang], Some(acceptor)).await;
    let steps: Vec<Value> = (0..4).map(|_| json!({ "send": "x" })).chain([json!({ "expect": "y" })]).collect();
    for _ in 0..20 {
        let probed = probe_with(server.url("tls"), json!(steps), &certificate.ca).await;
        probed.failed(Reason::Tls);
        assert!(probed.message.contains("requires a client certificate"), "{}", probed.message);
        assert!(probed.has("probe_ssl_last_chain_info"));
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_verified_has_no_last_chain() {
    let certificate = Certificate::good();
    let server = Actor::with_tls([Act::Tls, Act::Hang], Some(certificate.acceptor())).await;
    let url = server.url("tls");
    let probed = Probed::of(json!({ "type": "Tcp", "url": url, "tlsConfig": { "insecureSkipVerify": true } })).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_earliest_cert_expiry"), YEAR_2040);
    assert!(!probed.has("probe_ssl_last_chain_expiry_timestamp_seconds"));
}

#[tokio::test]
async fn a_port_without_tls_is_told_as_such() {
    let server = Actor::start([say("SSH-2.0-x\r\n"), Act::Hang]).await;
    let probed = Probed::of(json!({ "type": "Tcp", "url": server.url("tls") })).await;
    probed.failed(Reason::Tls);
    assert!(probed.message.contains("not TLS") && probed.message.contains("tcp://"), "{}", probed.message);
}

#[tokio::test]
async fn the_banner_of_ssh_gives_labels() {
    let server = Actor::start([say("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), Act::Hang]).await;
    let steps = json!([{
        "expect": "^SSH-([0-9.]+)-([^ ]+)(?: (?P<comment>.*))?$",
        "labels": [{ "name": "protocol", "value": "${1}" }, { "name": "software", "value": "$2" }, { "name": "comment", "value": "<${comment}>$$" }],
    }]);
    let probed = probe(&server, steps).await;
    probed.succeeded();
    assert_eq!(
        probed.labels("probe_expect_info"),
        "protocol=\"2.0\",software=\"OpenSSH_9.2p1\",comment=\"<Debian-2>$\""
    );
}

#[tokio::test]
async fn a_greeting_is_sent_and_a_ping_of_irc_is_answered_with_what_it_said() {
    let server = Actor::start([
        hear("NICK prober\nUSER prober prober prober :prober\n"),
        say(":server.example.com NOTICE AUTH :*** Looking up your hostname...\r\nPING :4B0C\r\n"),
        hear("PONG 4B0C\n"),
        say(":server.example.com 001 prober :Welcome\r\n"),
        Act::Hang,
    ])
    .await;
    let steps = json!([
        { "send": "NICK prober" },
        { "send": "USER prober prober prober :prober" },
        { "expect": "^PING :([^ ]+)", "send": "PONG ${1}" },
        { "expect": "^:[^ ]+ 001" },
    ]);
    probe(&server, steps.clone()).await.succeeded();

    let other =
        Actor::start([hear("NICK prober\nUSER prober prober prober :prober\n"), say("ERROR :go away\r\n")]).await;
    let probed = probe(&other, steps).await;
    probed.failed(Reason::Match);
    assert_eq!((probed.value("probe_failed_due_to_regex"), probed.value("probe_failed_due_to_bytes")), (1.0, 0.0));
    assert!(
        probed.message.contains("queryResponse[2].expect") && !probed.message.contains("go away"),
        "{}",
        probed.message
    );
}

fn smtp() -> Value {
    json!([
        { "expect": "^220 ([^ ]+) ESMTP (.+)$", "send": "EHLO prober\r" },
        { "expect": "^250-STARTTLS", "send": "STARTTLS\r" },
        { "expect": "^220", "starttls": true },
        { "send": "EHLO prober\r" },
        { "expect": "^250-AUTH", "send": "QUIT\r" },
    ])
}

#[tokio::test]
async fn smtp_goes_on_with_tls() {
    let certificate = Certificate::good();
    let acts = [
        say("220 mail.example.com ESMTP Postfix\r\n"),
        hear("EHLO prober\r\n"),
        say("250-mail.example.com\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 8BITMIME\r\n"),
        hear("STARTTLS\r\n"),
        say("220 2.0.0 Ready to start TLS\r\n"),
        Act::Tls,
        hear("EHLO prober\r\n"),
        say("250-mail.example.com\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n"),
        hear("QUIT\r\n"),
    ];
    let server = Actor::with_tls(acts.clone(), Some(certificate.acceptor())).await;
    let probed = probe_with(server.url("tcp"), smtp(), &certificate.ca).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2040);
    assert_eq!(probed.value("probe_tls_version_info{version=\"TLS 1.3\"}"), 1.0);
    for name in PHASES {
        assert!(probed.value(&phase(name)) > 0.0, "{name}");
    }
    let probed = probe(&server, smtp()).await;
    probed.failed(Reason::Tls);
    assert!(probed.has("probe_ssl_last_chain_info"), "it is told which certificate was rejected");
}

/// Whoever stands between may put an answer after the one that allows TLS: it is not one of the encrypted connection.
#[tokio::test]
async fn what_was_sent_before_the_handshake_is_not_read_after_it() {
    let certificate = Certificate::good();
    let acts = [say("220 ready\r\n250-AUTH injected\r\n"), hear("GO\n"), Act::Tls, say("500 no\r\n")];
    let server = Actor::with_tls(acts, Some(certificate.acceptor())).await;
    let steps = json!([{ "expect": "^220", "send": "GO", "starttls": true }, { "expect": "^250-AUTH" }]);
    let probed = probe_with(server.url("tcp"), steps, &certificate.ca).await;
    probed.failed(Reason::Match);
    assert_eq!(probed.value("probe_failed_due_to_regex"), 1.0);
}

#[tokio::test]
async fn imap_goes_on_with_tls() {
    let certificate = Certificate::good();
    let acts = [
        say("* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n"),
        hear(". STARTTLS\n"),
        say(". OK Begin TLS negotiation now.\r\n"),
        Act::Tls,
        hear(". capability\n"),
        say("* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n. OK\r\n"),
    ];
    let server = Actor::with_tls(acts, Some(certificate.acceptor())).await;
    let steps = json!([
        { "expect": "OK.*STARTTLS", "send": ". STARTTLS" },
        { "expect": "OK", "starttls": true },
        { "send": ". capability" },
        { "expect": "CAPABILITY IMAP4rev1" },
    ]);
    probe_with(server.url("tcp"), steps, &certificate.ca).await.succeeded();
}

#[tokio::test]
async fn pop3_over_tls_greets() {
    let certificate = Certificate::good();
    let server =
        Actor::with_tls([Act::Tls, say("+OK Dovecot ready.\r\n"), Act::Hang], Some(certificate.acceptor())).await;
    probe_with(server.url("tls"), json!([{ "expect": r"^\+OK" }]), &certificate.ca).await.succeeded();
}

#[tokio::test]
async fn postgresql_is_asked_for_tls_with_eight_bytes() {
    let certificate = Certificate::good();
    let request = vec![0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
    let acts = [Act::Hear(request), say("S"), Act::Tls, Act::Hang];
    let server = Actor::with_tls(acts, Some(certificate.acceptor())).await;
    let steps = json!([{ "sendBase64": "AAAACATSFi8=" }, { "expectBytes": "S", "starttls": true }]);
    let probed = probe_with(server.url("tcp"), steps.clone(), &certificate.ca).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2040);

    let without = Actor::start([say("N"), Act::Hang]).await;
    let probed = probe(&without, steps).await;
    probed.failed(Reason::Match);
    assert_eq!((probed.value("probe_failed_due_to_regex"), probed.value("probe_failed_due_to_bytes")), (0.0, 1.0));
}

#[tokio::test]
async fn redis_answers_a_ping_after_a_password_from_a_secret() {
    let server =
        Actor::start([hear("AUTH password-value\n"), say("+OK\r\n"), hear("PING\n"), say("+PONG\r\n"), Act::Hang])
            .await;
    let steps = json!([
        { "send": "AUTH ", "newline": false },
        { "sendSecretRef": { "name": "redis", "key": "password" } },
        { "expect": r"^\+OK", "send": "PING" },
        { "expect": r"\+PONG", "labels": [{ "name": "answer", "value": "$0" }] },
    ]);
    let probed = probe(&server, steps).await;
    probed.succeeded();
    assert_eq!(probed.labels("probe_expect_info"), "answer=\"+PONG\"");
}

/// A server that repeats what it got.
#[tokio::test]
async fn a_secret_that_comes_back_is_not_exported() {
    let server = Actor::start([hear("password-value\n"), say("unknown command password-value\r\n"), Act::Hang]).await;
    let steps = json!([
        { "sendSecretRef": { "name": "redis", "key": "password" } },
        { "expect": "^(.*)$", "labels": [{ "name": "answer", "value": "$1" }] },
    ]);
    let probed = probe(&server, steps).await;
    assert!(!format!("{probed:?}").contains("password-value"), "{probed:?}");
}

/// The same with a short secret, and with one that is longer than a label.
#[tokio::test]
async fn of_a_secret_that_comes_back_no_label_has_even_the_beginning() {
    let long = "k".repeat(200);
    for (key, shown) in [("k", "k-value"), (long.as_str(), &long[..100])] {
        let line = format!("unknown command {key}-value");
        let server = Actor::start([hear(&format!("{key}-value\n")), say(&format!("{line}\r\n")), Act::Hang]).await;
        let steps = json!([
            { "sendSecretRef": { "name": "redis", "key": key } },
            { "expect": "^(.*)$", "labels": [{ "name": "answer", "value": "$1" }] },
        ]);
        let probed = probe(&server, steps).await;
        probed.succeeded();
        assert!(!probed.has("probe_expect_info"), "{probed:?}");
        assert_eq!(probed.value("probe_skipped_fields"), 1.0);
        let told: Vec<_> = probed.snapshot.probe.iter().flat_map(|report| report.events()).collect();
        assert!(told.iter().any(|event| event.text.contains("queryResponse[1]: no labels")), "{told:?}");
        assert!(told.iter().all(|event| !event.text.contains(shown)), "{told:?}");
    }
}

#[tokio::test]
async fn a_label_without_the_secret_is_exported_as_it_is() {
    let server =
        Actor::start([hear("k-value\n"), say("k-value\nk-valu is refused: -value\r\nk-value\n"), Act::Hang]).await;
    let steps = json!([
        { "sendSecretRef": { "name": "redis", "key": "k" } },
        { "expect": "refused: (.*)$", "labels": [{ "name": "answer", "value": "$1" }] },
    ]);
    let probed = probe(&server, steps).await;
    probed.succeeded();
    assert_eq!(probed.labels("probe_expect_info"), "answer=\"-value\"");
}

/// Patterns that cut the secret in the line, and secrets of several lines.
#[tokio::test]
async fn of_a_secret_that_comes_back_no_pattern_takes_a_part() {
    for (key, expect, line) in [
        ("abc-def", r"command (\w+)", "unknown command abc-def-value"),
        ("abc-def", "(.)alue", "unknown command abc-def-value"),
        ("caf\u{e9}", "command (...)", "unknown command caf\u{e9}-value, of 1"),
        ("first-line\n\n second-line", "(first)", "first-line: unknown command"),
        ("first-line\n\n second-line", "(second)", "unknown command second-line-value"),
        ("line\r\nlast", "(.*)", "line"),
        ("in-a-file\n", r"(in-\w+)", "unknown command in-a-file"),
    ] {
        let server =
            Actor::start([hear(&format!("{key}-value\n")), say(&format!("ready\r\n{line}\r\n")), Act::Hang]).await;
        let steps = json!([
            { "sendSecretRef": { "name": "redis", "key": key } },
            { "expect": "^ready" },
            { "expect": expect, "labels": [{ "name": "answer", "value": "$1" }] },
        ]);
        let probed = probe(&server, steps).await;
        probed.succeeded();
        assert!(!probed.has("probe_expect_info"), "{expect}: {}", probed.labels("probe_expect_info"));
        assert_eq!(probed.value("probe_skipped_fields"), 1.0);
    }
}

#[tokio::test]
async fn bytes_and_lines_are_read_from_one_stream() {
    let server = Actor::start([Act::Say(b"\x00\xff\x01tail of a line\r\nrest".to_vec()), Act::Hang]).await;
    let steps = json!([{ "expectBase64": "AP8B" }, { "expect": "^tail of a line$" }, { "expectBytes": "rest" }]);
    probe(&server, steps).await.succeeded();
}

#[tokio::test]
async fn too_few_bytes_are_no_other_bytes() {
    let server = Actor::start([say("ab")]).await;
    let probed = probe(&server, json!([{ "expectBytes": "abc" }])).await;
    probed.failed(Reason::Match);
    assert_eq!(probed.value("probe_failed_due_to_bytes"), 0.0);
    assert!(probed.message.contains("2 of the 3 bytes"), "{}", probed.message);
}

#[tokio::test]
async fn a_line_needs_no_end_where_the_stream_ends_and_bytes_that_are_no_text_are_characters() {
    let server = Actor::start([say("first\n\nlast")]).await;
    probe(&server, json!([{ "expect": "^first$" }, { "expect": "^$" }, { "expect": "^last$" }])).await.succeeded();
    let latin = Actor::start([Act::Say(b"220 caf\xe9 ESMTP\r\n".to_vec()), Act::Hang]).await;
    probe(&latin, json!([{ "expect": "^220 caf. ESMTP$" }])).await.succeeded();
}

#[tokio::test]
async fn a_step_that_did_not_match_leaves_no_labels_and_a_later_failure_leaves_them() {
    let server = Actor::start([say("a=1\nb=2\n")]).await;
    let labels = json!([{ "name": "value", "value": "$1" }]);
    let probed = probe(&server, json!([{ "expect": "^c=(.)", "labels": labels }])).await;
    probed.failed(Reason::Match);
    assert!(!probed.has("probe_expect_info"));
    let probed = probe(&server, json!([{ "expect": "^a=(.)", "labels": labels }, { "expect": "^c=" }])).await;
    probed.failed(Reason::Match);
    assert_eq!(probed.labels("probe_expect_info"), "value=\"1\"");
}

#[tokio::test]
async fn a_label_is_cut_and_escaped() {
    let line = format!("\"\\{}\n", "é".repeat(500));
    let server = Actor::start([say(&line), Act::Hang]).await;
    let probed = probe(&server, json!([{ "expect": "^.*$", "labels": [{ "name": "line", "value": "$0$0" }] }])).await;
    probed.succeeded();
    assert_eq!(probed.labels("probe_expect_info"), format!("line=\"\\\"\\\\{}\"", "é".repeat(126)));
}

#[tokio::test]
async fn a_silent_server_is_a_timeout_and_no_mismatch() {
    let server = Actor::start([say("half a line"), Act::Hang]).await;
    for (step, says) in [
        (json!({ "expect": "line" }), "no line that matches"),
        (json!({ "expectBytes": "half a line, and more" }), "11 of the 21 bytes"),
    ] {
        let spec =
            json!({ "type": "Tcp", "url": server.url("tcp"), "timeout": "300ms", "tcp": { "queryResponse": [step] } });
        let probed = Probed::of(spec).await;
        probed.failed(Reason::Timeout);
        assert!(probed.message.contains(says), "{}", probed.message);
        assert_eq!((probed.value("probe_failed_due_to_regex"), probed.value("probe_failed_due_to_bytes")), (0.0, 0.0));
        assert!(probed.value(&phase("exchange")) > 0.0, "a phase that ended with the deadline has its time");
    }
}

#[tokio::test]
async fn a_server_that_is_silent_in_the_handshake_is_a_timeout() {
    let server = Actor::start([Act::Hang]).await;
    let probed = Probed::of(json!({ "type": "Tcp", "url": server.url("tls"), "timeout": "300ms" })).await;
    probed.failed(Reason::Timeout);
    assert!(probed.message.contains("handshake"), "{}", probed.message);
    assert!(probed.value(&phase("tls")) > 0.0);
}

#[tokio::test]
async fn a_server_that_sends_without_end_is_a_limit() {
    let line = Actor::start([Act::Endless(vec![b'x'; 4096])]).await;
    let probed = probe(&line, json!([{ "expect": "y" }])).await;
    probed.failed(Reason::Limit);
    assert!(probed.message.contains("64 KiB"), "{}", probed.message);
    assert_eq!(probed.value("probe_failed_due_to_regex"), 0.0);

    let lines = Actor::start([Act::Endless(b"a line\n".repeat(500))]).await;
    let probed = probe(&lines, json!([{ "expect": "another" }])).await;
    probed.failed(Reason::Limit);
    assert!(probed.message.contains("--max-body-bytes"), "{}", probed.message);

    let zeros = Actor::start([Act::Endless(vec![0; 4096])]).await;
    probe(&zeros, json!([{ "expect": "y" }])).await.failed(Reason::Limit);
}

#[tokio::test]
async fn the_comparisons_of_all_lines_are_bounded_together() {
    let server = Actor::start([say(&"x\n".repeat(200_000)), Act::Hang]).await;
    let probed = probe(&server, json!([{ "expect": "x[xy]{300}z" }])).await;
    probed.failed(Reason::Limit);
    assert!(probed.message.contains("regular expressions"), "{}", probed.message);
    // The same lines and a simple pattern.
    let server = Actor::start([say(&"x\n".repeat(100_000)), say("y 1\n"), Act::Hang]).await;
    probe(&server, json!([{ "expect": "^y ([0-9])$" }])).await.succeeded();
}

#[tokio::test]
async fn a_server_that_never_reads_does_not_hold_the_probe() {
    let server = Actor::start([Act::Hang]).await;
    let steps: Vec<Value> = (0..16).map(|_| json!({ "send": "x".repeat(1024) })).collect();
    probe(&server, json!(steps)).await.succeeded();
}

/// The same texts as from a manifest: what `check` says.
#[test]
fn a_target_with_a_dialogue_can_be_declared() {
    let target = target_of(
        &json!({ "type": "Tcp", "url": "tcp://[::1]:22", "tcp": { "queryResponse": [{ "expect": "^SSH" }] } }),
    );
    assert_eq!(target.source.url.port(), Some(22));
}
