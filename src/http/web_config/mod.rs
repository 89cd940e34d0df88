//! `--web.config.file`, in the format of Prometheus' exporter-toolkit: TLS, users, headers, a rate limit; reloaded when it changes.

mod basic_auth;
mod fields;
mod rate_limit;
mod tls;

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
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::fair_semaphore::ClientNetwork;
use super::{is_health, response};
use crate::yaml::{self, Dialect, YamlError, YamlFault};
use basic_auth::{Authentication, BasicAuthUsers, PasswordChecker};
use fields::ConfigFields;
use rate_limit::{RateLimitConfig, RequestRateLimiter};
use tls::TlsServerConfig;

/// The content of the file.
#[derive(Debug, Default)]
struct WebConfigFile {
    tls_server_config: Option<TlsServerConfig>,
    headers: BTreeMap<String, String>,
    basic_auth_users: BTreeMap<String, String>,
    rate_limit: Option<RateLimitConfig>,
}

impl WebConfigFile {
    fn parse(text: &str) -> Result<Self, String> {
        let node = yaml::read(text, 1, Dialect::Typed).map_err(unreadable)?;
        let mut root = ConfigFields::open(&node, String::new())?;
        let tls_server_config = root.block("tls_server_config")?.map(TlsServerConfig::read).transpose()?;
        let mut headers = BTreeMap::new();
        if let Some(mut block) = root.block("http_server_config")? {
            // Accepted and ignored: HTTP/1.1 is all that Prometheus needs, and all that is served.
            block.flag("http2")?;
            headers = block.text_map("headers")?;
            block.close()?;
        }
        let basic_auth_users = root.text_map("basic_auth_users")?;
        let rate_limit = root.block("rate_limit")?.map(RateLimitConfig::read).transpose()?;
        root.close()?;
        Ok(Self { tls_server_config, headers, basic_auth_users, rate_limit })
    }
}

/// Why the file cannot be read.
fn unreadable(error: YamlError) -> String {
    let line = error.line;
    match error.fault {
        YamlFault::DuplicateKey { key, path } if may_be_told(&key, &path) => {
            format!("line {line}: has {} twice: remove one of them", path.escape_debug())
        }
        fault => format!("line {line}: {fault}"),
    }
}

/// Whether a key with this path is that of a field, a header or a user. Any other one, and a hash that stands where a user should, may be a
/// secret.
fn may_be_told(key: &str, path: &str) -> bool {
    const BLOCKS: [&str; 4] = ["tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"];
    let is_known = match path.strip_suffix(key) {
        Some("") => BLOCKS.contains(&key),
        Some("http_server_config.headers.") => true,
        Some(block) => block.strip_suffix('.').is_some_and(|block| BLOCKS.contains(&block)),
        None => false,
    };
    is_known && !key.contains('$')
}

/// A web config file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--web.config.file {}: {problem}", path.display())]
pub struct WebConfigError {
    path: PathBuf,
    problem: String,
}

/// A web config file, and the last valid version of it.
#[derive(Debug)]
pub struct WebConfig {
    path: PathBuf,
    open_health: bool,
    current: ArcSwap<ActiveConfig>,
    passwords: Arc<PasswordChecker>,
    files: Mutex<FileStamps>,
}

/// One version of the file, ready to be applied to connections and requests.
struct ActiveConfig {
    tls: Option<TlsAcceptor>,
    requires_client_certificates: bool,
    users: Option<BasicAuthUsers>,
    headers: Vec<(HeaderName, HeaderValue)>,
    rate_limiter: Option<RequestRateLimiter>,
    /// A sentence for each setting that is not supported and left out.
    unsupported: Vec<String>,
}

impl std::fmt::Debug for ActiveConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActiveConfig")
            .field("tls", &self.tls.is_some())
            .field("users", &self.users.is_some())
            .finish_non_exhaustive()
    }
}

/// The metadata of the files when they were last read, to notice a change without reading them.
#[derive(Debug, PartialEq)]
struct FileStamps {
    files: Vec<PathBuf>,
    stamps: Vec<Option<FileStamp>>,
}

/// Device, inode, size, time of change: one of them differs after a write, a rename, or the swap of a mounted Secret.
type FileStamp = (u64, u64, u64, i64, i64);

impl FileStamps {
    fn take(files: Vec<PathBuf>) -> Self {
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
        let (files, config) = read_with_stamps(path);
        let config = config.map_err(|problem| WebConfigError { path: path.to_owned(), problem })?;
        config.log_unsupported(path, None);
        Ok(Self {
            path: path.to_owned(),
            open_health: false,
            current: ArcSwap::from_pointee(config),
            passwords: Arc::default(),
            files: Mutex::new(files),
        })
    }

    /// With `open`, `/-/healthy` and `/-/ready` need no password: the kubelet has none.
    #[must_use]
    pub fn with_open_health(self, open: bool) -> Self {
        Self { open_health: open, ..self }
    }

    /// Whether connections are TLS; a reload does not change this.
    pub fn is_tls(&self) -> bool {
        self.current.load().tls.is_some()
    }

    /// Whether connections need a client certificate.
    pub fn requires_client_certificates(&self) -> bool {
        self.current.load().requires_client_certificates
    }

    /// Whether requests need a user.
    pub fn has_users(&self) -> bool {
        self.current.load().users.is_some()
    }

    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.current.load().tls.clone()
    }

    /// Reads the file again if it, or a file that it names, has changed. An invalid version is logged once, and the last valid one stays.
    pub fn reload_if_changed(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if FileStamps::take(files.files.clone()) == *files {
            return;
        }
        let (now, config) = read_with_stamps(&self.path);
        *files = now;
        let file = self.path.display();
        match config.and_then(|config| self.check_downgrade(config)) {
            Ok(config) => {
                config.log_unsupported(&self.path, Some(&self.current.load()));
                self.current.store(Arc::new(config));
                tracing::info!(%file, "web config has changed and is in use");
            }
            Err(problem) => {
                tracing::error!(%file, %problem, "web config has changed but cannot be used; the last good one stays in use");
            }
        }
    }

    /// Refuses to drop TLS or passwords without a restart: a file that is half written may look like one without them.
    fn check_downgrade(&self, config: ActiveConfig) -> Result<ActiveConfig, String> {
        let current = self.current.load();
        if current.tls.is_some() != config.tls.is_some() {
            return Err("tls_server_config was added or removed: restart to enable or disable TLS".to_owned());
        }
        if current.users.is_some() && config.users.is_none() {
            return Err("basic_auth_users was removed: restart to serve without passwords".to_owned());
        }
        Ok(config)
    }

    /// Passes a request of `client` to `router`, or refuses it.
    pub(super) async fn handle(
        &self,
        mut request: Request,
        client: ClientNetwork,
        mut router: Router,
    ) -> Result<Response, Infallible> {
        let config = self.current.load_full();
        let authorization = request.headers().get(header::AUTHORIZATION).cloned();
        let health = is_health(request.uri().path());
        let refusal = if health && self.open_health {
            // No password is compared here, so that none can be guessed.
            if config.users.is_some() {
                request.extensions_mut().insert(Unauthenticated);
            }
            None
        } else {
            config.refusal(&self.passwords, client, authorization, health).await
        };
        let mut response = match refusal {
            Some(refusal) => refusal,
            None => router.call(request).await?,
        };
        for (name, value) in &config.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(response)
    }
}

/// Marks a health check that was admitted without the password that other requests need: the response contains only the health.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unauthenticated;

impl ActiveConfig {
    /// Logs the settings that are not supported, unless they were the same `before`.
    fn log_unsupported(&self, path: &Path, before: Option<&Self>) {
        if before.is_some_and(|before| before.unsupported == self.unsupported) {
            return;
        }
        for problem in &self.unsupported {
            tracing::warn!(file = %path.display(), %problem, "the web config contains unsupported items; the rest of the list is in use");
        }
    }

    async fn refusal(
        &self,
        passwords: &Arc<PasswordChecker>,
        client: ClientNetwork,
        authorization: Option<HeaderValue>,
        health: bool,
    ) -> Option<Response> {
        const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"scrapetarget-exporter\"");
        let authorization = authorization.as_ref();
        // Health checks are exempt: a client that uses up the rate must not make us look dead. Those with a password that is not known yet
        // are not, or passwords could be guessed here.
        let is_exempt =
            || health && self.users.as_ref().is_none_or(|users| users.is_cached_valid(passwords, authorization));
        if self.rate_limiter.as_ref().is_some_and(|limiter| !is_exempt() && !limiter.allows(Instant::now())) {
            return Some(response::retry_later(StatusCode::TOO_MANY_REQUESTS, "too many requests\n"));
        }
        match self.users.as_ref()?.authenticate(passwords, client, authorization).await {
            Authentication::Succeeded => None,
            Authentication::Busy => {
                let text = "too many passwords to compare, try again later\n";
                Some(response::retry_later(StatusCode::TOO_MANY_REQUESTS, text))
            }
            Authentication::Failed => {
                let refusal = response::text(StatusCode::UNAUTHORIZED, "a user and a password are required\n");
                Some(([(header::WWW_AUTHENTICATE, BASIC)], refusal).into_response())
            }
        }
    }
}

/// Reads the file and all that it names. The stamps are taken before, so that a change in the meantime is noticed at the next check.
fn read_with_stamps(path: &Path) -> (FileStamps, Result<ActiveConfig, String>) {
    let mut files = vec![path.to_owned()];
    let _ = read(path, &mut files); // only to learn which files it names
    let stamps = FileStamps::take(files);
    (stamps, read(path, &mut Vec::new()))
}

/// Reads the file and all that it names. Adds the named files to `files`, even if they cannot be read.
fn read(path: &Path, files: &mut Vec<PathBuf>) -> Result<ActiveConfig, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let file = WebConfigFile::parse(&text)?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let (tls, unsupported) = match &file.tls_server_config {
        None => (None, Vec::new()),
        Some(block) => {
            files.extend(block.files(directory));
            let (tls, unsupported) = block.build(directory)?;
            (Some(TlsAcceptor::from(Arc::new(tls))), unsupported)
        }
    };
    Ok(ActiveConfig {
        tls,
        requires_client_certificates: file
            .tls_server_config
            .as_ref()
            .is_some_and(TlsServerConfig::requires_certificates),
        users: BasicAuthUsers::new(file.basic_auth_users)?,
        headers: headers(&file.headers)?,
        rate_limiter: file.rate_limit.map(|config| RequestRateLimiter::new(&config)).transpose()?.flatten(),
        unsupported,
    })
}

/// The headers that the format allows, and the values of each; no values: any.
const ALLOWED_HEADERS: &[(&str, &[&str])] = &[
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
        let Some((_, values)) = ALLOWED_HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            let known: Vec<&str> = ALLOWED_HEADERS.iter().map(|(known, _)| *known).collect();
            return Err(format!("{field} cannot be set, only {}", known.join(", ")));
        };
        if value.is_empty() {
            continue;
        }
        if !values.is_empty() && !values.iter().any(|allowed| allowed.eq_ignore_ascii_case(value)) {
            return Err(format!("{field} must be {}", values.join(" or ")));
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{field} is not a header name"))?;
        headers.push((
            name,
            HeaderValue::from_str(value)
                .map_err(|_| format!("{field} has a character that is not allowed in a header"))?,
        ));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn an_error_is_one_line_that_names_the_field() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        for (yaml, words) in [
            ("", "empty"),
            ("tls_server_config: {cert_fil: x}", "cert_fil"),
            ("basic_auth_user: {}", "line 1: unknown field basic_auth_user"),
            ("a: 1\nb: [", "line 2: is not well-formed YAML"),
            ("- a", "line 1: the file is a list"),
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
            ("tls_server_config: {min_version: ''}", "line 1: tls_server_config.min_version \"\" must be TLS10 or"),
            ("tls_server_config: {}\ntls_server_config: {}", "line 2: has tls_server_config twice: remove one of them"),
            ("rate_limit:\n  burst: 1\n  burst: 2", "line 3: has rate_limit.burst twice"),
            ("http_server_config: {headers: {X-A: a, X-A: b}}", "line 1: has http_server_config.headers.X-A twice"),
            ("basic_auth_users:\n  ann.b: x\n  ann.b: y", "line 3: has basic_auth_users.ann.b twice"),
            ("basic_auth_users: {$2y$10$abc: ann, $2y$10$abc: bob}", "line 1: has a key twice"),
            ("tls_server_config: {key: {secret: a, secret: b}}", "line 1: has a key twice"),
            ("basic_auth_users: {ann: [x]}", "line 1: basic_auth_users.ann is a list, write a text"),
            ("rate_limit: {interval: 1s}", "burst"),
            ("rate_limit: {interval: soon, burst: 1}", "soon"),
        ] {
            std::fs::write(&path, yaml).unwrap();
            let problem = read(&path, &mut vec![]).map(|_| ()).unwrap_err();
            assert!(problem.contains(words) && !problem.contains('\n'), "{yaml:?}: {problem:?}");
        }
    }
}
