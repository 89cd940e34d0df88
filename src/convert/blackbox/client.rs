//! Options of connections and clients that several probers have: TLS, credentials, proxies, headers from elsewhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::block::{Block, BlockField};
use super::super::report::quoted;
use super::super::secret::CredentialSource;
use super::ModuleReader;
use crate::dial::NoProxy;
use crate::yaml::Node;

/// The most characters of `noProxy`.
const MAX_NO_PROXY: usize = 2048;

/// What is reached through a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyUse {
    Target,
    TokenEndpoint,
}

/// Headers that the exporter does not let `http_headers` set, in small letters.
const RESERVED_HEADERS: [&str; 22] = [
    "authorization",
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
    "x-prometheus-scrape-timeout-seconds",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
];

/// One of the three ways to write a credential, and its place.
type Credential<'n> = BlockField<'n, CredentialSource>;

impl ModuleReader<'_> {
    /// A credential that is written as `NAME`, `NAME_file` or `NAME_ref`; at most one of them.
    #[inline(never)]
    fn credential<'n>(&mut self, block: &mut Block<'n>, keys: [&'static str; 3]) -> Option<Credential<'n>> {
        let [inline, file, reference] = keys;
        let inline = block.filled(inline, self.reporter).map(|field| {
            let value = field.value.clone();
            field.with(CredentialSource::Inline(value))
        });
        let file = block.filled(file, self.reporter).map(|field| {
            let value = field.value.clone();
            field.with(CredentialSource::File(value))
        });
        let reference = block.filled(reference, self.reporter).map(|field| {
            let value = field.value.clone();
            field.with(CredentialSource::Reference(value))
        });
        let mut found = [inline, file, reference].into_iter().flatten();
        let first = found.next();
        if let Some(second) = found.next() {
            self.reporter.fault(
                second.line(),
                &second.path,
                format!("at most one of {} may be written", keys.join(", ")),
            );
        }
        first
    }

    /// The reference to a credential.
    #[inline(never)]
    fn reference(&mut self, key: &str, credential: Credential<'_>) -> Value {
        let (line, path) = (credential.line(), credential.path);
        self.settings.secrets.add(key, credential.value, (line, &path), self.reporter)
    }

    /// `tls_config`. It is written into the spec only if there is TLS at all.
    pub(super) fn tls_config(&mut self, block: &mut Block<'_>, has_tls: bool) {
        let Some(mut inner) = block.block("tls_config", self.reporter) else { return };
        let said = self.reporter.remarks.len();
        let mut tls = Map::new();
        let ca = self.credential(&mut inner, ["ca", "ca_file", "ca_ref"]);
        let cert = self.credential(&mut inner, ["cert", "cert_file", "cert_ref"]);
        let key = self.credential(&mut inner, ["key", "key_file", "key_ref"]);
        if cert.is_some() != key.is_some() {
            let missing = if cert.is_some() { "key" } else { "cert" };
            let message = format!("a client certificate needs both: write {missing} or {missing}_file as well");
            self.reporter.fault(inner.line, &inner.path, message);
        }
        let server_name = inner.filled("server_name", self.reporter);
        let skip_verify = inner.flag("insecure_skip_verify", self.reporter).is_some_and(|flag| flag.value);
        let min = self.tls_version(&mut inner, "min_version");
        let max = self.tls_version(&mut inner, "max_version");
        if let (Some(min), Some(max)) = (&min, &max)
            && min.value > max.value
        {
            let message = format!(
                "min_version TLS{} is above max_version TLS{}: write the lower one first",
                min.value, max.value
            );
            self.reporter.fault(min.line(), &min.path, message);
        }
        let (line, path) = (inner.line, inner.path.clone());
        inner.close(self.reporter);
        if !has_tls {
            // The exporter does not use it either.
            self.reporter.remarks.truncate(said);
            self.reporter.remark(line, &path, "is left out, since nothing here uses TLS");
            return;
        }
        if let Some(ca) = ca {
            tls.insert("ca".to_owned(), json!({ "secret": self.reference("ca.crt", ca) }));
        }
        if let (Some(cert), Some(key)) = (cert, key) {
            tls.insert("cert".to_owned(), json!({ "secret": self.reference("tls.crt", cert) }));
            tls.insert("keySecret".to_owned(), self.reference("tls.key", key));
        }
        if let Some(name) = server_name {
            tls.insert("serverName".to_owned(), json!(name.value));
        }
        if skip_verify {
            tls.insert("insecureSkipVerify".to_owned(), json!(true));
        }
        if let Some(min) = min {
            if min.value < 12 {
                let message = format!(
                    "TLS{} is not offered, no connection is made below TLS 1.2: minVersion TLS12 is in effect",
                    min.value
                );
                self.reporter.remark(min.line(), &min.path, message);
            } else {
                tls.insert("minVersion".to_owned(), json!(format!("TLS{}", min.value)));
            }
        }
        if let Some(max) = max {
            if max.value < 12 {
                let message = format!(
                    "TLS{} is not offered, no connection is made below TLS 1.2: the limit is left out, so that a server that speaks only \
                     older versions is reported as failed with the reason tls; keep the blackbox exporter for it",
                    max.value
                );
                self.reporter.remark(max.line(), &max.path, message);
            } else {
                tls.insert("maxVersion".to_owned(), json!(format!("TLS{}", max.value)));
            }
        }
        if !tls.is_empty() {
            self.put("tlsConfig", Value::Object(tls));
        }
    }

    fn tls_version<'n>(&mut self, block: &mut Block<'n>, key: &'static str) -> Option<BlockField<'n, u8>> {
        let word = block.filled(key, self.reporter)?;
        let version = match word.value.as_str() {
            "TLS10" => 10,
            "TLS11" => 11,
            "TLS12" => 12,
            "TLS13" => 13,
            _ => {
                let message = format!("{} is no version of TLS, write TLS12 or TLS13", quoted(&word.value));
                self.reporter.fault(word.line(), &word.path, message);
                return None;
            }
        };
        Some(word.with(version))
    }

    /// The options of an HTTP client, as far as they are the same wherever there is one.
    pub(super) fn client(&mut self, block: &mut Block<'_>) {
        self.authentication(block);
        self.proxy(block, ProxyUse::Target);
        self.tls_config(block, true);
        self.http_headers(block, "http_headers");
    }

    fn authentication(&mut self, block: &mut Block<'_>) {
        let mut ways = self.credentials(block);
        self.token_from_endpoint(block, &mut ways);
        self.one_way(&ways);
    }

    /// The credentials of a client that are written here, and where each of them stands.
    pub(super) fn credentials(&mut self, block: &mut Block<'_>) -> Vec<(usize, String)> {
        let mut ways = Vec::new();
        if let Some(field) = block.node("basic_auth")
            && let Some(mut inner) = Block::open(field.node, &field.path, self.reporter)
        {
            ways.push((field.line(), field.path.clone()));
            let username = self.credential(&mut inner, ["username", "username_file", "username_ref"]);
            let password = self.credential(&mut inner, ["password", "password_file", "password_ref"]);
            let path = inner.path.clone();
            inner.close(self.reporter);
            // Some servers take a token as the password, and no name.
            let username = username.unwrap_or_else(|| BlockField {
                value: CredentialSource::Inline(String::new()),
                node: field.node,
                path: path.clone(),
            });
            let mut basic = Map::new();
            basic.insert("username".to_owned(), self.reference("username", username));
            if let Some(password) = password {
                basic.insert("password".to_owned(), self.reference("password", password));
            }
            self.put("basicAuth", Value::Object(basic));
        }
        if let Some(field) = block.node("authorization")
            && let Some(mut inner) = Block::open(field.node, &field.path, self.reporter)
        {
            ways.push((field.line(), field.path));
            let scheme = inner.filled("type", self.reporter);
            let credentials = self.credential(&mut inner, ["credentials", "credentials_file", "credentials_ref"]);
            let (line, path) = (inner.line, inner.path.clone());
            inner.close(self.reporter);
            if let Some(scheme) = scheme.as_ref().filter(|scheme| scheme.value.trim().eq_ignore_ascii_case("basic")) {
                self.reporter.fault(
                    scheme.line(),
                    &scheme.path,
                    "Basic is not allowed here: write basic_auth in its place",
                );
            }
            match credentials {
                Some(credentials) => self.authorization(scheme.map(|scheme| scheme.value), credentials),
                None => self.reporter.remark(line, &path, "is left out, since it has no credentials"),
            }
        }
        let token = self.credential(block, ["bearer_token", "bearer_token_file", "bearer_token_ref"]);
        if let Some(token) = token {
            ways.push((token.line(), token.path.clone()));
            self.authorization(None, token);
        }
        ways
    }

    /// The token that a client gets from a token endpoint.
    pub(super) fn token_from_endpoint(&mut self, block: &mut Block<'_>, ways: &mut Vec<(usize, String)>) {
        if let Some(field) = block.node("oauth2") {
            ways.push((field.line(), field.path.clone()));
            self.oauth2(&field);
        }
    }

    /// Refuses more than one way to authenticate a client.
    pub(super) fn one_way(&mut self, ways: &[(usize, String)]) {
        if let [_, (line, path), ..] = ways {
            let message =
                "at most one of basic_auth, authorization, bearer_token and oauth2 may be written: remove the others";
            self.reporter.fault(*line, path, message);
        }
    }

    fn authorization(&mut self, scheme: Option<String>, credentials: Credential<'_>) {
        let credentials = self.reference("token", credentials);
        let mut authorization = Map::new();
        if let Some(scheme) = scheme.filter(|scheme| scheme != "Bearer") {
            authorization.insert("type".to_owned(), json!(scheme.trim()));
        }
        authorization.insert("credentials".to_owned(), credentials);
        self.put("authorization", Value::Object(authorization));
    }

    fn oauth2(&mut self, field: &BlockField<'_, ()>) {
        let Some(mut inner) = Block::open(field.node, &field.path, self.reporter) else { return };
        let id = inner.filled("client_id", self.reporter);
        let url = inner.filled("token_url", self.reporter);
        for (key, is_missing) in [("client_id", id.is_none()), ("token_url", url.is_none())] {
            if is_missing {
                self.reporter.fault(inner.line, &inner.path, format!("{key} is missing, write it"));
            }
        }
        let secret = self.credential(&mut inner, ["client_secret", "client_secret_file", "client_secret_ref"]);
        let key = ["client_certificate_key", "client_certificate_key_file", "client_certificate_key_ref"];
        let certificate_key = self.credential(&mut inner, key);
        if let Some(word) = inner.filled("signature_algorithm", self.reporter)
            && !matches!(word.value.as_str(), "RS256" | "RS384" | "RS512")
        {
            let message =
                format!("{} is no algorithm that can be used, write RS256, RS384 or RS512", quoted(&word.value));
            self.reporter.fault(word.line(), &word.path, message);
        }
        // They are joined by spaces in the end, so that one may be several.
        let scopes = inner.texts("scopes", self.reporter);
        let scopes: Vec<&str> = scopes.iter().flat_map(|scope| scope.value.split_whitespace()).collect();
        let params = inner.text_map("endpoint_params", self.reporter);
        let grant = inner.filled("grant_type", self.reporter).map(|grant| grant.value);
        for key in ["client_certificate_key_id", "iss", "audience"] {
            inner.text(key, self.reporter);
        }
        inner.node("claims");
        // The proxy and the settings of TLS are those of the token endpoint alone.
        let of_target = std::mem::take(&mut self.settings.spec);
        self.proxy(&mut inner, ProxyUse::TokenEndpoint);
        self.tls_config(&mut inner, true);
        let mut oauth2 = std::mem::replace(&mut self.settings.spec, of_target);
        inner.close(self.reporter);
        let (Some(id), Some(url)) = (id, url) else { return };
        // There is one url only, so it is known now whether it is reached through the proxy.
        let no_proxy = oauth2.remove("noProxy");
        if let Some(list) = no_proxy.as_ref().and_then(Value::as_str).map(NoProxy::parse)
            && reqwest::Url::parse(&url.value).is_ok_and(|url| list.covers(&url))
        {
            oauth2.remove("proxyUrl");
        }
        let in_params = params.iter().find(|(name, _)| name == "grant_type").map(|(_, grant)| grant.value.as_str());
        let other_grant = grant.as_deref().is_some_and(|grant| grant != "client_credentials")
            || in_params.is_some_and(|grant| !matches!(grant, "client_credentials" | "password"));
        let Some(secret) = secret.filter(|_| !other_grant && certificate_key.is_none()) else {
            let message = "is left out: a token is requested with client_id and client_secret only, and not with a signed assertion; until \
                           then the target is asked without a token, so that a server that demands one answers 401; suspend the target, or \
                           keep the blackbox exporter for it";
            self.reporter.remark(field.line(), &field.path, message);
            return;
        };
        let value = id.value.clone();
        let id = id.with(CredentialSource::Inline(value));
        oauth2.insert("clientId".to_owned(), json!({ "secret": self.reference("client-id", id) }));
        oauth2.insert("clientSecret".to_owned(), self.reference("client-secret", secret));
        oauth2.insert("tokenUrl".to_owned(), json!(url.value));
        if !scopes.is_empty() {
            oauth2.insert("scopes".to_owned(), json!(scopes));
        }
        self.token_parameters(params, &mut oauth2);
        self.put("oauth2", Value::Object(oauth2));
    }

    /// `endpoint_params`: what makes a request of the password grant has fields of its own.
    fn token_parameters(&mut self, params: Vec<(String, BlockField<'_, String>)>, oauth2: &mut Map<String, Value>) {
        let is_password = params.iter().any(|(name, value)| name == "grant_type" && value.value == "password");
        let (mut kept, mut user) = (Map::new(), Map::new());
        let has_user =
            is_password && ["username", "password"].iter().all(|field| params.iter().any(|(name, _)| name == field));
        let mut password_grant = None;
        for (name, value) in params {
            let text = value.value.clone();
            match name.as_str() {
                "grant_type" if is_password => password_grant = Some((value.line(), value.path.clone())),
                "grant_type" if text == "client_credentials" => {}
                "username" | "password" if has_user => {
                    let source = value.with(CredentialSource::Inline(text));
                    user.insert(name.clone(), self.reference(&format!("user-{name}"), source));
                }
                "grant_type" | "username" | "password" | "scope" => {
                    let message = "is left out: write scopes, or user for the password grant";
                    self.reporter.remark(value.line(), &value.path, message);
                }
                _ if name.starts_with("client_") => {
                    let message = "is left out: the client authenticates itself by client_id and client_secret";
                    self.reporter.remark(value.line(), &value.path, message);
                }
                _ => drop(kept.insert(name, json!(text))),
            }
        }
        if !kept.is_empty() {
            oauth2.insert("endpointParams".to_owned(), Value::Object(kept));
        }
        if let Some((line, path)) = password_grant.filter(|_| user.is_empty()) {
            self.reporter.remark(line, &path, "is left out: the password grant needs username and password");
        }
        if !user.is_empty() {
            oauth2.insert("user".to_owned(), Value::Object(user));
        }
    }

    pub(super) fn proxy(&mut self, block: &mut Block<'_>, of: ProxyUse) {
        let url = block.filled("proxy_url", self.reporter);
        let from_environment = block.flag("proxy_from_environment", self.reporter).filter(|flag| flag.value);
        let no_proxy = block.filled("no_proxy", self.reporter);
        let connect = block.node("proxy_connect_header");
        let connect_headers = block.list_map("proxy_connect_header", self.reporter);
        if let (Some(flag), Some(_)) = (&from_environment, &url) {
            self.reporter.fault(flag.line(), &flag.path, "excludes proxy_url: remove one of them");
        }
        if let (Some(flag), Some(_)) = (&from_environment, &no_proxy) {
            self.reporter.fault(flag.line(), &flag.path, "excludes no_proxy: remove one of them");
        }
        let has_proxy = url.is_some() || from_environment.is_some();
        if let Some(no_proxy) = no_proxy.as_ref().filter(|_| url.is_none()) {
            self.reporter.fault(no_proxy.line(), &no_proxy.path, "needs proxy_url: write it, or remove no_proxy");
        }
        if let Some(connect) = connect.filter(|_| !has_proxy) {
            let message = "needs proxy_url: write it, or remove proxy_connect_header";
            self.reporter.fault(connect.line(), &connect.path, message);
        }
        if let Some(flag) = from_environment {
            let message =
                "is left out: a target uses no proxy from the environment; write proxyUrl in the targets that need one";
            self.reporter.remark(flag.line(), &flag.path, message);
        }
        let Some(url) = url else { return };
        self.proxy_url(&url, of);
        if !self.settings.spec.contains_key("proxyUrl") {
            return;
        }
        for (name, values) in connect_headers {
            self.connect_header(&name, &values, of);
        }
        if let Some(no_proxy) = no_proxy {
            self.no_proxy(&no_proxy);
        }
    }

    /// A header for the proxy: all that a target can send it is user name and password.
    fn connect_header(&mut self, name: &str, values: &BlockField<'_, Vec<String>>, of: ProxyUse) {
        let login = match values.value.as_slice() {
            [value] if name.eq_ignore_ascii_case("proxy-authorization") => basic_login(value),
            _ => None,
        };
        match login {
            Some(login) if !self.settings.spec.contains_key("proxyAuth") => {
                self.proxy_auth(login, values.node, &values.path, of);
            }
            Some(_) => {
                let message = "is left out: proxy_url has a user name as well";
                self.reporter.remark(values.line(), &values.path, message);
            }
            None if of == ProxyUse::TokenEndpoint => {
                let message = "is left out: no headers are sent to the proxy of a token endpoint, so let it want none";
                self.reporter.remark(values.line(), &values.path, message);
            }
            None => {
                let message = "is left out: of the headers for a proxy, a target has only Proxy-Authorization with Basic credentials; let the \
                               proxy accept those of proxyAuth, or the address of the exporter";
                self.reporter.remark(values.line(), &values.path, message);
            }
        }
    }

    fn proxy_auth(&mut self, (username, password): (String, String), node: &Node, path: &str, of: ProxyUse) {
        if of == ProxyUse::TokenEndpoint {
            let message = "the user name and password are left out: none are sent to the proxy of a token endpoint, so let it want none";
            self.reporter.remark(node.line, path, message);
            return;
        }
        if username.contains(':') {
            let message = "the user name and password are left out: a colon in the user name would end it, so no proxy can be told it";
            self.reporter.remark(node.line, path, message);
            return;
        }
        let inline = |value: String| BlockField { value: CredentialSource::Inline(value), node, path: path.to_owned() };
        let mut auth = Map::new();
        auth.insert("username".to_owned(), self.reference("proxy-username", inline(username)));
        if !password.is_empty() {
            auth.insert("password".to_owned(), self.reference("proxy-password", inline(password)));
        }
        self.put("proxyAuth", Value::Object(auth));
    }

    fn no_proxy(&mut self, field: &BlockField<'_, String>) {
        let written = field.value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let is_entry = |entry: &&str| {
            let is_of_host = |c: char| c.is_ascii_alphanumeric() || "_.:*/-[]".contains(c);
            entry.chars().all(is_of_host) && !entry.contains("://")
        };
        let (kept, lost): (Vec<&str>, Vec<&str>) = written.partition(is_entry);
        if !lost.is_empty() {
            let lost: Vec<String> = lost.into_iter().map(quoted).collect();
            let message =
                format!("{} is left out: it is the name of no host, so that it has no effect", lost.join(", "));
            self.reporter.remark(field.line(), &field.path, message);
        }
        let entries = kept.join(",");
        if kept.len() > NoProxy::MAX_ENTRIES || entries.len() > MAX_NO_PROXY {
            let most = NoProxy::MAX_ENTRIES;
            let message = format!(
                "is left out: a target has {most} entries and {MAX_NO_PROXY} characters at most; write domains or ranges of addresses in their \
                 place"
            );
            self.reporter.remark(field.line(), &field.path, message);
        } else if !entries.is_empty() {
            self.put("noProxy", json!(entries));
        }
    }

    fn proxy_url(&mut self, field: &BlockField<'_, String>, of: ProxyUse) {
        let parsed = reqwest::Url::parse(&field.value).ok().filter(reqwest::Url::has_host);
        let Some(mut url) = parsed else {
            // It may contain a password, and is not repeated.
            self.reporter.fault(
                field.line(),
                &field.path,
                "is no URL of a proxy, write for instance http://proxy:3128",
            );
            return;
        };
        if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
            let message = format!(
                "the scheme {} of a proxy is not offered, write http://HOST:PORT; the target is written without it",
                url.scheme()
            );
            self.reporter.remark(field.line(), &field.path, message);
            return;
        }
        if !url.username().is_empty() || url.password().is_some() {
            let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let login = (decoded(url.username()), url.password().map(decoded).unwrap_or_default());
            self.proxy_auth(login, field.node, &field.path, of);
            let _ = (url.set_username(""), url.set_password(None));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            self.reporter.remark(
                field.line(),
                &field.path,
                "its path, query and fragment are left out, a proxy has none",
            );
        }
        url.set_path("");
        url.set_query(None);
        url.set_fragment(None);
        self.put("proxyUrl", json!(url.as_str().trim_end_matches('/')));
    }

    /// Headers with values from the file, from secrets and from other files.
    pub(super) fn http_headers(&mut self, block: &mut Block<'_>, key: &'static str) {
        let Some(field) = block.node(key) else { return };
        let Some(outer) = Block::open(field.node, &field.path, self.reporter) else { return };
        for entry in outer.rest() {
            let path = super::join(&field.path, &entry.key);
            let Some(mut inner) = Block::open(&entry.value, &path, self.reporter) else { continue };
            let values = inner.texts("values", self.reporter);
            let secrets = inner.texts("secrets", self.reporter);
            let files = inner.texts("files", self.reporter);
            inner.close(self.reporter);
            if key == "http_headers" && RESERVED_HEADERS.contains(&entry.key.to_ascii_lowercase().as_str()) {
                let message =
                    "is a header that the exporter sets itself, and that it refuses here: write it under headers";
                self.reporter.fault(entry.line, &path, message);
                continue;
            }
            let plain: Vec<&str> = values.iter().map(|value| value.value.as_str()).collect();
            match (plain.len(), secrets.len() + files.len()) {
                (0, 0) => {}
                (1.., 0) => self.header(&entry.key, &plain.join(", "), (entry.line, &path)),
                (0, 1) => {
                    let inline = secrets.into_iter().map(|secret| {
                        let value = secret.value.clone();
                        secret.with(CredentialSource::Inline(value))
                    });
                    let elsewhere = files.into_iter().map(|file| {
                        let value = file.value.clone();
                        file.with(CredentialSource::File(value))
                    });
                    for credential in inline.chain(elsewhere) {
                        let reference = self.reference(&header_key(&entry.key), credential);
                        self.settings.headers.push(json!({ "name": entry.key, "secretKeyRef": reference }));
                    }
                }
                _ => {
                    let message = "is left out: a header with a secret value has one value only; put all values, with commas between them, \
                                   into one key of a Secret, and write the header with secretKeyRef";
                    self.reporter.remark(entry.line, &path, message);
                }
            }
        }
    }

    /// A header with its value in plain text, unless its name says that the value is confidential.
    pub(super) fn header(&mut self, name: &str, value: &str, at: (usize, &str)) {
        if super::super::secret::is_confidential(name) {
            let source = CredentialSource::Inline(value.to_owned());
            let reference = self.settings.secrets.add(&header_key(name), source, at, self.reporter);
            self.settings.headers.push(json!({ "name": name, "secretKeyRef": reference }));
        } else {
            self.settings.headers.push(json!({ "name": name, "value": value }));
        }
    }
}

/// User name and password in `Basic …`.
fn basic_login(value: &str) -> Option<(String, String)> {
    let (scheme, pair) = value.trim().split_once(' ')?;
    let pair = STANDARD.decode(pair.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (username, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// The key of a Secret for the value of a header.
fn header_key(name: &str) -> String {
    let safe =
        name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>();
    format!("header-{safe}")
}
