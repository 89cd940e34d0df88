//! A simulated website over https, whose certificate ends soon, or has ended: a start page, a page that has moved, a slow one and one that is out of order.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Simulated, Switch};

const DAY: Duration = Duration::from_hours(24);

/// How long its certificate was valid in the first place, as those of many public authorities.
const LIFETIME: Duration = Duration::from_hours(24 * 90);

/// A website.
#[derive(Clone)]
pub struct Website {
    authority: CertificateDer<'static>,
    acceptor: TlsAcceptor,
    switch: Switch,
}

impl std::fmt::Debug for Website {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Website").finish_non_exhaustive()
    }
}

impl Website {
    /// A website with these names or addresses, whose certificate ends at that time. It is signed by an intermediate authority, which is sent,
    /// and that by the [`authority`](Self::authority), which is not.
    pub fn new(names: &[&str], end: SystemTime) -> Result<Self, WebsiteError> {
        let now = SystemTime::now();
        let mut root = authority("Simulated Root");
        valid(&mut root, now - 100 * DAY, now + 3650 * DAY);
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
        let mut issuer = authority("Simulated Authority 1");
        valid(&mut issuer, now - 100 * DAY, now + 365 * DAY);
        let issuer = CertifiedIssuer::signed_by(issuer, KeyPair::generate()?, &root)?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut own = CertificateParams::new(names.clone())?;
        own.distinguished_name = named(names.first().map_or("website", String::as_str));
        valid(&mut own, end - LIFETIME, end);
        let key = KeyPair::generate()?;
        let certificate = own.signed_by(&key, &issuer)?;
        let chain = vec![certificate.der().clone(), issuer.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(WebsiteError::Key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { authority: root.der().clone(), acceptor, switch: Switch::default() })
    }

    /// The certificate of the authority that has to be trusted.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The switch of its mode.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Its pages.
    pub fn routes(&self) -> Router {
        /// Longer than a page should take, shorter than any timeout.
        const SLOW: Duration = Duration::from_secs(1);
        let routes = Router::new()
            .route("/", get(start_page))
            .route("/old", get(async || Redirect::permanent("/")))
            .route(
                "/slow",
                get(async || {
                    tokio::time::sleep(SLOW).await;
                    page("Slow")
                }),
            )
            .route("/broken", get(async || (StatusCode::SERVICE_UNAVAILABLE, page("Out of order"))))
            .fallback(async || (StatusCode::NOT_FOUND, page("Not found")));
        self.switch.guard(routes)
    }

    /// Serves it on an open listener.
    pub fn on(&self, listener: TcpListener) -> std::io::Result<Simulated> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (stopped, acceptor, routes) = (stop.clone(), self.acceptor.clone(), self.routes());
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Too many open files, for instance.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let serve = serve(stream, acceptor.clone(), routes.clone());
                tokio::spawn(stopped.clone().run_until_cancelled_owned(serve));
            }
        }));
        Ok(Simulated { address, stop })
    }
}

/// One connection. What a client does wrong ends it.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, routes: Router) {
    /// Of a handshake, and of a request's header.
    const PATIENCE: Duration = Duration::from_secs(10);
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}

async fn start_page() -> Response {
    ([(header::LAST_MODIFIED, "Thu, 01 Jan 2026 09:00:00 GMT")], page("Welcome")).into_response()
}

fn page(title: &str) -> Html<String> {
    Html(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><title>{title}</title><h1>{title}</h1><p>The simulated website.</p></html>\n"
    ))
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn valid(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let date = |at: SystemTime| rcgen::date_time_ymd(1970, 1, 1) + at.duration_since(UNIX_EPOCH).unwrap_or_default();
    (params.not_before, params.not_after) = (date(from), date(until));
}

/// Why there is no website.
#[derive(Debug)]
pub enum WebsiteError {
    /// No certificate could be made.
    Certificate(rcgen::Error),
    /// Its key cannot be used.
    Key(&'static str),
    /// TLS refuses it.
    Tls(rustls::Error),
}

impl std::fmt::Display for WebsiteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "make a certificate: {error}"),
            Self::Key(error) => write!(f, "the key of the certificate: {error}"),
            Self::Tls(error) => write!(f, "use the certificate: {error}"),
        }
    }
}

impl std::error::Error for WebsiteError {}

impl From<rcgen::Error> for WebsiteError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

impl From<rustls::Error> for WebsiteError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}
