//! `--web.config.file`, in the format of Prometheus' exporter-toolkit: TLS, users, headers, a rate limit; re-read when it changes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::auth::{Checks, Users, Verdict};
use super::peer::Peer;
use super::rate::{RateBlock, RateLimit};
use super::tls::TlsBlock;
use super::{is_health, reply};

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<TlsBlock>,
    http_server_config: Option<HttpBlock>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<RateBlock>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpBlock {
    /// Taken and passed over: HTTP/1.1 is all there is, and all that Prometheus needs.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: BTreeMap<String, String>,
}

/// A web config that cannot be used, with its path.
#[derive(Debug, thiserror::Error)]
#[error("--web.config.file {}: {problem}", path.display())]
pub struct WebConfigError {
    path: PathBuf,
    problem: String,
}

/// A web config file, and what it said when it was last good.
#[derive(Debug)]
pub struct WebConfig {
    path: PathBuf,
    open_health: bool,
    gate: ArcSwap<Gate>,
    checks: Arc<Checks>,
    seen: Mutex<Seen>,
}

/// What is done with every connection and request.
struct Gate {
    tls: Option<TlsAcceptor>,
    client_certificates: bool,
    users: Option<Users>,
    headers: Vec<(HeaderName, HeaderValue)>,
    rate: Option<RateLimit>,
    /// What cannot be had of what the file asks for, and is done without.
    lacking: Vec<String>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("tls", &self.tls.is_some())
            .field("users", &self.users.is_some())
            .finish_non_exhaustive()
    }
}

/// The files at the last look, to notice a change without reading them.
#[derive(Debug, PartialEq)]
struct Seen {
    files: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
}

/// Device, inode, size, time of change: something differs after a write, a rename, or the swap of a mounted Secret.
type Stamp = (u64, u64, u64, i64, i64);

impl Seen {
    fn look(files: Vec<PathBuf>) -> Self {
        let stamp = |file: &PathBuf| {
            let data = fs::metadata(file).ok()?;
            Some((data.dev(), data.ino(), data.size(), data.ctime(), data.ctime_nsec()))
        };
        let stamps = files.iter().map(stamp).collect();
        Self { files, stamps }
    }
}

impl WebConfig {
    /// Reads the file and everything that it names.
    pub fn load(path: &Path) -> Result<Self, WebConfigError> {
        let (seen, gate) = read_whole(path);
        let gate = gate.map_err(|problem| WebConfigError { path: path.to_owned(), problem })?;
        gate.tell_lacking(path, None);
        Ok(Self {
            path: path.to_owned(),
            open_health: false,
            gate: ArcSwap::from_pointee(gate),
            checks: Arc::default(),
            seen: Mutex::new(seen),
        })
    }

    /// The same, and `/-/healthy` and `/-/ready` are answered without a password if `open`: the kubelet has none.
    #[must_use]
    pub fn with_open_health(self, open: bool) -> Self {
        Self { open_health: open, ..self }
    }

    /// Whether connections are TLS: this does not change while the process lives.
    pub fn is_tls(&self) -> bool {
        self.gate.load().tls.is_some()
    }

    /// Whether connections need a client certificate.
    pub fn wants_client_certificates(&self) -> bool {
        self.gate.load().client_certificates
    }

    /// Whether requests need a user.
    pub fn has_users(&self) -> bool {
        self.gate.load().users.is_some()
    }

    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.gate.load().tls.clone()
    }

    /// Reads the file again if it, or a file that it names, has changed. A broken one is logged, once; the last good one stays.
    pub fn reload_if_changed(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if Seen::look(seen.files.clone()) == *seen {
            return;
        }
        let (now, gate) = read_whole(&self.path);
        *seen = now;
        let file = self.path.display();
        match gate.and_then(|gate| self.may_follow(gate)) {
            Ok(gate) => {
                gate.tell_lacking(&self.path, Some(&self.gate.load()));
                self.gate.store(Arc::new(gate));
                tracing::info!(%file, "web config has changed and is in use");
            }
            Err(problem) => {
                tracing::error!(%file, %problem, "web config has changed but cannot be used; the last good one stays");
            }
        }
    }

    /// A file that is cut off half way may look like one without protection: that is never taken without a restart.
    fn may_follow(&self, gate: Gate) -> Result<Gate, String> {
        let current = self.gate.load();
        if current.tls.is_some() != gate.tls.is_some() {
            return Err("tls_server_config has come or gone: restart to switch TLS on or off".to_owned());
        }
        if current.users.is_some() && gate.users.is_none() {
            return Err("basic_auth_users has gone: restart to serve without passwords".to_owned());
        }
        Ok(gate)
    }

    /// Answers a request of `peer` by `router`, or refuses it.
    pub(super) async fn answer(
        &self,
        mut request: Request,
        peer: Peer,
        mut router: Router,
    ) -> Result<Response, Infallible> {
        let gate = self.gate.load_full();
        let authorization = request.headers().get(header::AUTHORIZATION).cloned();
        let health = is_health(request.uri().path());
        let refusal = if health && self.open_health {
            // No password is compared here, so that none can be guessed.
            if gate.users.is_some() {
                request.extensions_mut().insert(Stranger);
            }
            None
        } else {
            gate.refusal(&self.checks, peer, authorization, health).await
        };
        let mut response = match refusal {
            Some(refusal) => refusal,
            None => router.call(request).await?,
        };
        for (name, value) in &gate.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(response)
    }
}

/// Marks a request that was let through without the password that others need: it is told nothing but whether we are well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger;

impl Gate {
    /// Logs what is done without, unless it was the same `before`.
    fn tell_lacking(&self, path: &Path, before: Option<&Self>) {
        if before.is_some_and(|before| before.lacking == self.lacking) {
            return;
        }
        for problem in &self.lacking {
            tracing::warn!(file = %path.display(), %problem, "the web config names what is not supported; the rest of the list is in use");
        }
    }

    async fn refusal(
        &self,
        checks: &Arc<Checks>,
        peer: Peer,
        authorization: Option<HeaderValue>,
        health: bool,
    ) -> Option<Response> {
        const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"scrapetarget-exporter\"");
        // Whoever uses up the rate must not make us look dead. A password that is not known yet counts, so that none is guessed here.
        let exempt = || health && self.users.as_ref().is_none_or(|users| users.know(checks, authorization.as_ref()));
        if self.rate.as_ref().is_some_and(|rate| !exempt() && !rate.allows(Instant::now())) {
            return Some(reply::come_again(StatusCode::TOO_MANY_REQUESTS, "too many requests\n"));
        }
        let users = self.users.as_ref()?;
        match users.judge(checks, peer, authorization.as_ref()).await {
            Verdict::Admitted => return None,
            Verdict::Busy => {
                return Some(reply::come_again(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many passwords to compare, come again\n",
                ));
            }
            Verdict::Refused => {}
        }
        let refusal = reply::text(StatusCode::UNAUTHORIZED, "a user and a password are needed\n");
        Some(([(header::WWW_AUTHENTICATE, BASIC)], refusal).into_response())
    }
}

/// Reads and builds everything, and notes the files as they were before: what changes meanwhile is noticed at the next look.
fn read_whole(path: &Path) -> (Seen, Result<Gate, String>) {
    let mut files = vec![path.to_owned()];
    let _ = read(path, &mut files); // only to learn which files there are
    let seen = Seen::look(files);
    (seen, read(path, &mut Vec::new()))
}

/// Reads and builds everything; adds the files that `path` names to `files`, as far as it can be read.
fn read(path: &Path, files: &mut Vec<PathBuf>) -> Result<Gate, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let file: File = serde_saphyr::from_str(&text).map_err(|error| one_line(&error.to_string()))?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let (tls, lacking) = match &file.tls_server_config {
        None => (None, Vec::new()),
        Some(block) => {
            files.extend(block.files(directory));
            let (tls, lacking) = block.build(directory)?;
            (Some(TlsAcceptor::from(Arc::new(tls))), lacking)
        }
    };
    Ok(Gate {
        tls,
        client_certificates: file.tls_server_config.as_ref().is_some_and(TlsBlock::wants_certificates),
        users: Users::new(file.basic_auth_users.unwrap_or_default())?,
        headers: headers(&file.http_server_config.unwrap_or_default().headers)?,
        rate: file.rate_limit.map(|block| RateLimit::new(&block)).transpose()?.flatten(),
        lacking,
    })
}

/// A parser's report without its picture of the place.
fn one_line(report: &str) -> String {
    let line = report.lines().next().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The headers that the format allows, each with the values that it may have; none: any value.
const HEADERS: &[(&str, &[&str])] = &[
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

fn headers(wanted: &BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, value) in wanted {
        let field = format!("http_server_config.headers.{name}");
        let Some((_, values)) = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            let known: Vec<&str> = HEADERS.iter().map(|(known, _)| *known).collect();
            return Err(format!("{field} cannot be set, only {}", known.join(", ")));
        };
        if value.is_empty() {
            continue;
        }
        if !values.is_empty() && !values.iter().any(|allowed| allowed.eq_ignore_ascii_case(value)) {
            return Err(format!("{field} must be {}", values.join(" or ")));
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{field} is no header name"))?;
        headers.push((
            name,
            HeaderValue::from_str(value).map_err(|_| format!("{field} has a character that no header may have"))?,
        ));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::{one_line, read};

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_names_the_field() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        for (yaml, words) in [
            ("", "empty"),
            ("tls_server_config: {cert_fil: x}", "cert_fil"),
            ("basic_auth_user: {}", "basic_auth_user"),
            ("tls_server_config: {cert_file: a.pem, key_file: b.pem}", "a.pem"),
            ("tls_server_config: {key_file: b.pem}", "cert_file"),
            ("tls_server_config: {cert: a, cert_file: b, key: c}", "both cert and cert_file"),
            ("tls_server_config: {cert: a, key: c}", "tls_server_config.cert holds no PEM certificate"),
            ("tls_server_config: {cert_file: web.yml, key: c}", "tls_server_config.cert_file holds no PEM certificate"),
            ("tls_server_config: {min_version: TLS9}", "TLS9"),
            ("tls_server_config: {client_auth_type: Maybe}", "Maybe"),
            (
                "tls_server_config: {cert: a, key: b, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}",
                "TLS_RSA_WITH_RC4_128_SHA",
            ),
            ("tls_server_config: {cert: a, key: b, curve_preferences: [CurveP521]}", "CurveP521"),
            ("basic_auth_users: {ann: plain}", "basic_auth_users.ann"),
            ("http_server_config: {headers: {X-Powered-By: us}}", "X-Powered-By"),
            ("http_server_config: {headers: {X-Frame-Options: allow}}", "deny or sameorigin"),
            ("rate_limit: {interval: 1s}", "burst"),
            ("rate_limit: {interval: soon, burst: 1}", "soon"),
        ] {
            std::fs::write(&path, yaml).unwrap();
            let problem = read(&path, &mut vec![]).map(|_| ()).unwrap_err();
            assert!(problem.contains(words) && !problem.contains('\n'), "{yaml:?}: {problem:?}");
        }
    }

    #[test]
    fn only_the_first_line_of_a_report_is_kept() {
        assert_eq!(one_line("error: unknown field\n --> line 3\n"), "unknown field");
    }
}
