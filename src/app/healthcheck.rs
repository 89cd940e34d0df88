//! The command `healthcheck`: sends one request to a running service, and says why it is not healthy.

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::Url;
use rustls::AlertDescription;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::HealthcheckArgs;
use crate::error_chain::chain;
use crate::fetch;
use crate::tls::{self, Peer, ServerVerifier};

/// The time limit of the request.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(args: HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let HealthcheckArgs { url, username, password_file, cert_file, key_file } = args;
    let identity = match (&cert_file, key_file) {
        (Some(certificate), Some(key)) => Some(identity(certificate, &key)?),
        _ => None,
    };
    let tls = tls_config(identity);
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .tls_backend_preconfigured(tls.clone())
        .build()
        .context("make a client")?;
    let mut request = client.get(url.clone());
    if let (Some(username), Some(file)) = (username, password_file) {
        let password = String::from_utf8(read("--password-file", &file)?)
            .map_err(|_| anyhow!("--password-file {}: is not UTF-8 text", file.display()))?;
        let password = password.strip_suffix('\n').unwrap_or(&password);
        request = request.basic_auth(username, Some(password.strip_suffix('\r').unwrap_or(password)));
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            let asked = error.url().unwrap_or(&url).clone(); // after a redirect it is another one
            let why = match cause_of_tls(&error) {
                Some(cause) => Some(cause.clone()),
                None if error.is_timeout() || error.is_connect() => None,
                None => refusal(&asked, tls).await,
            };
            let cert_file = cert_file.as_deref();
            bail!(why.map_or_else(|| unanswered(&error, &asked), |why| of_tls(&why, cert_file)));
        }
    };
    let status = response.status();
    if status == 400 && url.scheme() == "http" {
        // The exporter's answer to plain HTTP on a TLS port.
        let body = response.bytes().await.unwrap_or_default();
        let speaks_https = String::from_utf8_lossy(&body).contains(tls::SPEAKS_HTTPS);
        anyhow::ensure!(!speaks_https, "the service speaks https: write https:// instead of http://");
    }
    anyhow::ensure!(status.is_success(), "the service answered {status}");
    Ok(ExitCode::SUCCESS)
}

/// The client certificate.
fn identity(certificate: &Path, key: &Path) -> anyhow::Result<CertifiedKey> {
    let chain = tls::certificates(&read("--cert-file", certificate)?)
        .ok_or_else(|| anyhow!("--cert-file {}: contains no PEM certificate", certificate.display()))?;
    let pem = read("--key-file", key)?;
    let private = tls::private_key(&pem).map_err(|error| anyhow!("--key-file {}: contains {error}", key.display()))?;
    tls::certified_key(chain, private).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            anyhow!("--key-file {}: is not the key of --cert-file {}", key.display(), certificate.display())
        }
        _ => anyhow!(
            "--key-file {}: cannot be used: write a key of RSA of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519",
            key.display()
        ),
    })
}

/// Does not verify certificates: a pod checks the health of its own process on loopback, and its certificate names another host.
fn tls_config(identity: Option<CertifiedKey>) -> rustls::ClientConfig {
    let verifier = Arc::new(ServerVerifier::new(None, ()));
    let builder = rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Reads a file of a flag, up to a size that no password or certificate exceeds.
fn read(flag: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    const LARGEST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(|error| anyhow!("{flag} {}: cannot be read: {error}", path.display()))?;
    Ok(bytes)
}

/// The TLS error among the causes, if there is one.
fn cause_of_tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    chain(error).find_map(|link| link.downcast_ref())
}

/// Connects once more to learn why the service closed an established connection.
async fn refusal(url: &Url, tls: rustls::ClientConfig) -> Option<rustls::Error> {
    let host = url.host_str().filter(|_| url.scheme() == "https")?;
    let name = ServerName::try_from(host.trim_matches(['[', ']'])).ok()?.to_owned();
    let asked = async {
        let stream = TcpStream::connect((name.to_str().as_ref(), url.port_or_known_default()?)).await.ok()?;
        fetch::handshake_alert(stream, Arc::new(tls), name).await
    };
    timeout(TIMEOUT, asked).await.ok().flatten()
}

/// Why no answer came, if TLS is not the cause.
fn unanswered(error: &reqwest::Error, asked: &Url) -> String {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
    let host = asked.host_str().unwrap_or_default();
    let place = format!("{host}:{}", asked.port_or_known_default().unwrap_or_default());
    let system = links.iter().find_map(|link| link.downcast_ref::<io::Error>());
    let cause = links.last().map(ToString::to_string).unwrap_or_default();
    if error.is_timeout() {
        format!("{place} does not answer within {TIMEOUT:?}")
    } else if system.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        format!("nothing listens at {place}: {cause}")
    } else if links.iter().any(|link| link.to_string() == "dns error") {
        format!("the name {host} cannot be resolved: {cause}")
    } else if error.is_connect() && cause == "tls handshake eof" {
        format!("{place} closes the connection instead of starting TLS: if it speaks http, write http://")
    } else if error.is_connect() {
        format!("no connection to {place}: {cause}")
    } else {
        format!("{place} does not answer: {cause}")
    }
}

/// What is wrong with TLS, in terms of the flags.
fn of_tls(error: &rustls::Error, shown: Option<&Path>) -> String {
    use AlertDescription as A;
    let alert = match error {
        rustls::Error::AlertReceived(alert) => alert,
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            return "the response is not TLS: if the service speaks http, write http:// instead of https://".to_owned();
        }
        other => return tls::describe(other, Peer::TARGET),
    };
    let Some(file) = shown.map(Path::display) else {
        return match alert {
            A::CertificateRequired | A::NoCertificate | A::BadCertificate => {
                "the service requires a client certificate: set --cert-file and --key-file".to_owned()
            }
            A::HandshakeFailure => {
                "the service aborted the handshake: if it requires a client certificate, set --cert-file and --key-file"
                    .to_owned()
            }
            _ => tls::describe(error, Peer::TARGET),
        };
    };
    match alert {
        A::UnknownCA => format!("--cert-file {file}: the service does not trust its authority"),
        A::DecryptError => format!(
            "--cert-file {file}: the service trusts a different authority of the same name as the one that has signed it"
        ),
        A::CertificateExpired => format!("--cert-file {file}: the service says that it has expired"),
        A::CertificateRevoked => format!("--cert-file {file}: the service says that it is revoked"),
        A::CertificateRequired | A::NoCertificate => {
            format!("--cert-file {file}: the service requires a certificate with another type of key")
        }
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            format!("--cert-file {file}: the service rejects it")
        }
        _ => tls::describe(error, Peer::TARGET),
    }
}
