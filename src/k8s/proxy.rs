//! Which proxy is used for the API server. It is chosen as client-go does, so that whatever works for kubectl works for us.

use std::error::Error;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Uri};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder, ServiceExt};

use crate::error_chain::chain;

/// A proxy is configured that cannot be used. Each message says where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("{origin} is not the URL of a proxy: write for instance http://proxy.example.com:3128")]
    InvalidUrl { origin: &'static str },
    #[error(
        "{origin} names a proxy with {scheme}://, but only http:// is supported (https:// goes through it, by CONNECT): write the \
         http:// address of a proxy, or {instead}"
    )]
    Scheme { origin: &'static str, scheme: String, instead: &'static str },
    #[error(
        "{origin} names a proxy, but the API server is at {server}, which cannot be reached through a tunnel: write its https:// \
         address, or {instead}"
    )]
    PlainServer { origin: &'static str, server: String, instead: &'static str },
}

/// The proxy that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    url: Uri,
    /// Where it is configured.
    origin: &'static str,
}

/// A connection to the API server failed at the proxy, which is not the fault of the API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("the proxy {address} ({origin}) cannot be reached: {why}")]
    ProxyUnreachable { address: String, origin: &'static str, why: String },
    #[error("the proxy {address} ({origin}) does not open a tunnel to the API server: {why}")]
    Refused { address: String, origin: &'static str, why: String },
}

impl TunnelError {
    /// The tunnel error among the causes of an error, if there is one.
    pub(super) fn behind<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        chain(error).find_map(|link| link.downcast_ref())
    }
}

/// The proxy for the API server at `server`; `None`: it is connected to directly.
///
/// The `proxy_url` of the kubeconfig is meant for this server, so that `NO_PROXY` does not apply. The variables of the environment apply to
/// all but loopback and the hosts of `NO_PROXY`, also in a pod. `environment` gives the value of a variable.
pub(super) fn choose(
    server: &Uri,
    proxy_url: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, ProxyError> {
    let variable = |name: &str| {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        set(name).or_else(|| set(&name.to_lowercase()))
    };
    if let Some(text) = proxy_url.filter(|text| !text.is_empty()) {
        return usable("the kubeconfig's proxy-url", "leave it out", server, text).map(Some);
    }
    let origin = if server.scheme_str() == Some("http") { "HTTP_PROXY" } else { "HTTPS_PROXY" };
    let Some(text) = variable(origin) else { return Ok(None) };
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_excluded = variable("NO_PROXY").is_some_and(|list| is_listed(&list, host, port(server)));
    if is_excluded || is_loopback(host) {
        return Ok(None);
    }
    let text = with_scheme(text);
    usable(origin, "add the API server's host to NO_PROXY", server, &text).map(Some)
}

/// Checks the URLs in the environment, which kube parses too, also where the proxy is not used.
pub(super) fn check(environment: impl Fn(&str) -> Option<String>) -> Result<(), ProxyError> {
    for (origin, lower_case) in [("HTTPS_PROXY", "https_proxy"), ("HTTP_PROXY", "http_proxy")] {
        for text in [origin, lower_case].into_iter().filter_map(&environment).filter(|text| !text.is_empty()) {
            parsed(origin, &with_scheme(text))?;
        }
    }
    Ok(())
}

fn usable(origin: &'static str, instead: &'static str, server: &Uri, text: &str) -> Result<Proxy, ProxyError> {
    let url = parsed(origin, text)?;
    match url.scheme_str() {
        Some("http") if server.scheme_str() != Some("http") => Ok(Proxy { url, origin }),
        Some("http") => Err(ProxyError::PlainServer { origin, server: server.to_string(), instead }),
        Some(scheme) => Err(ProxyError::Scheme { origin, scheme: scheme.to_owned(), instead }),
        None => Err(ProxyError::InvalidUrl { origin }),
    }
}

/// A proxy of the environment may be written without a scheme.
fn with_scheme(text: String) -> String {
    if text.contains("://") { text } else { format!("http://{text}") }
}

fn parsed(origin: &'static str, text: &str) -> Result<Uri, ProxyError> {
    let proxy = text.parse::<Uri>().ok().filter(|proxy| proxy.host().is_some_and(|host| !host.is_empty()));
    proxy.ok_or(ProxyError::InvalidUrl { origin })
}

fn port(server: &Uri) -> u16 {
    let default = if server.scheme_str() == Some("http") { 80 } else { 443 };
    server.port_u16().unwrap_or(default)
}

/// Whether a host is the local machine, for which the proxy of the environment is not used.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `NO_PROXY` lists a host, as Go reads it: names with their subdomains, `.suffix` and `*.suffix` for subdomains alone, addresses,
/// ranges of addresses, and `*`; a name or an address may have a port. Other entries are ignored.
fn is_listed(list: &str, host: &str, port: u16) -> bool {
    let host = host.to_lowercase();
    let address = host.parse::<std::net::IpAddr>().ok();
    list.split(',').map(|entry| entry.trim().to_lowercase()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Ok(range) = entry.parse::<ipnet::IpNet>() {
            return address.is_some_and(|address| range.contains(&address));
        }
        let (name, wanted) = split_port(&entry);
        if name.is_empty() || wanted.is_some_and(|wanted| wanted != port.to_string()) {
            return false;
        }
        if let Ok(listed) = name.parse::<std::net::IpAddr>() {
            return address == Some(listed);
        }
        match name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name) {
            suffix if suffix.starts_with('.') => host.ends_with(suffix),
            name => host.strip_suffix(name).is_some_and(|below| below.is_empty() || below.ends_with('.')),
        }
    })
}

/// `host:port`, `[v6]:port`, or either without a port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (entry, None),
    }
}

/// A client as kube builds it from `config`, with a tunnel through `proxy` for each connection.
///
/// kube can do this itself, but compares `NO_PROXY` with the proxy instead of the server, and fails at an empty entry.
pub(super) fn client_through(proxy: &Proxy, config: &Config) -> kube::Result<Client> {
    let Proxy { url, origin } = proxy.clone();
    let address = address(proxy);
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    // Shorter than the timeout of the whole tunnel, so that the error names the proxy if it is the proxy that does not answer.
    connector.set_connect_timeout(config.connect_timeout.map(|all| all * 4 / 5));
    let unreachable = {
        let address = address.clone();
        move |error: BoxError| TunnelError::ProxyUnreachable { address: address.clone(), origin, why: root(&*error) }
    };
    let credentials = credentials(&url);
    let mut tunnel = Tunnel::new(url, ServiceExt::<Uri>::map_err(connector, move |error| unreachable(error.into())));
    if let Some(credentials) = credentials {
        tunnel = tunnel.with_auth(credentials);
    }
    let refused = move |error: BoxError| match TunnelError::behind(&*error) {
        Some(error) => error.clone(),
        None => TunnelError::Refused { address: address.clone(), origin, why: refusal(&*error) },
    };
    let tunnel = ServiceExt::<Uri>::map_err(tunnel, move |error| refused(error.into()));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tunnel)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let client = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// The innermost cause.
fn root(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

/// Why a tunnel was not opened, for messages. It is read from the text of the error, whose type is private.
fn refusal(error: &(dyn Error + 'static)) -> String {
    let why = root(error);
    match why.strip_prefix("tunnel error: ").unwrap_or(&why) {
        "proxy authorization required" => {
            "it requires a user and a password, or different ones: write http://USER:PASSWORD@HOST:PORT".to_owned()
        }
        "unsuccessful" => "it rejects CONNECT".to_owned(),
        "unexpected end of file" => "it closes the connection".to_owned(),
        other => other.to_owned(),
    }
}

/// `Proxy-Authorization` of the user and password in a proxy's URL, where they may be percent-encoded.
fn credentials(proxy: &Uri) -> Option<HeaderValue> {
    let (user, _) = proxy.authority()?.as_str().rsplit_once('@')?;
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(user).collect();
    HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(decoded))).ok()
}

/// The address of a proxy for messages, without credentials.
pub(super) fn address(proxy: &Proxy) -> String {
    let authority = proxy.url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, address)| address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://api.example.com:6443";

    fn chosen(
        server: &str,
        proxy_url: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<Option<String>, ProxyError> {
        let value = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        choose(&server.parse().unwrap(), proxy_url, value).map(|proxy| proxy.map(|proxy| proxy.url.to_string()))
    }

    fn is_direct(server: &str, no_proxy: &str) -> bool {
        chosen(server, None, &[("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", no_proxy)]).unwrap().is_none()
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for list in [
            "*",
            "api.example.com",
            "example.com",
            ".example.com",
            "*.example.com",
            "API.Example.COM",
            "api.example.com:6443",
            "x.test, api.example.com ,y.test",
            "localhost,,example.com,",
            "http://nonsense/path,example.com",
        ] {
            assert!(is_direct(SERVER, list), "{list}");
        }
        for list in
            ["", "ample.com", ".api.example.com", "*.api.example.com", "api.example.com:443", "example", "10.0.0.0/8"]
        {
            assert!(!is_direct(SERVER, list), "{list}");
        }
        for list in ["10.0.0.1", "10.0.0.0/8", "10.0.0.1:443", "0.0.0.0/0"] {
            assert!(is_direct("https://10.0.0.1", list), "{list}");
        }
        for list in ["10.0.0.2", "10.1.0.0/16", "10.0.0.1:6443", "fd00::/8"] {
            assert!(!is_direct("https://10.0.0.1", list), "{list}");
        }
        for list in ["fd00::1", "fd00::/8", "[fd00::1]:6443", "[fd00::1]"] {
            assert!(is_direct("https://[fd00::1]:6443", list), "{list}");
        }
        assert!(!is_direct("https://[fd00::1]:6443", "[fd00::1]:443"));
    }

    #[test]
    fn a_proxy_of_the_environment_is_used_in_a_pod_and_never_for_loopback() {
        for own in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"] {
            assert!(is_direct(own, ""), "{own}");
        }
        let pod = "https://10.96.0.1:443";
        let lacking = [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "localhost,.svc")];
        assert_eq!(chosen(pod, None, &lacking), Ok(Some("http://proxy:3128/".to_owned())));
        assert!(is_direct(pod, ".svc,10.96.0.0/12"));
    }

    #[test]
    fn the_kubeconfig_precedes_the_environment_and_upper_case_precedes_lower_case() {
        let environment = [("HTTPS_PROXY", "http://big:1"), ("https_proxy", "http://small:1"), ("NO_PROXY", "*")];
        assert_eq!(chosen(SERVER, Some("http://own:3128"), &environment), Ok(Some("http://own:3128/".to_owned())));
        assert_eq!(chosen(SERVER, None, &environment[..2]), Ok(Some("http://big:1/".to_owned())));
        let small = [("HTTPS_PROXY", ""), ("https_proxy", "small:1"), ("no_proxy", "x.test")];
        assert_eq!(chosen(SERVER, None, &small), Ok(Some("http://small:1/".to_owned())));
        assert_eq!(chosen(SERVER, Some(""), &[]), Ok(None));
        assert_eq!(chosen("http://api.example.com", None, &[("HTTPS_PROXY", "http://proxy:1")]), Ok(None));
    }

    #[test]
    fn the_password_of_a_proxy_is_sent_to_it_and_never_shown() {
        let proxy: Uri = "http://ann:p%40ss@proxy.test:3128".parse().unwrap();
        assert_eq!(credentials(&proxy).unwrap(), format!("Basic {}", BASE64_STANDARD.encode("ann:p@ss")));
        assert_eq!(address(&Proxy { url: proxy, origin: "HTTPS_PROXY" }), "proxy.test:3128");
        assert_eq!(credentials(&"http://proxy.test:3128".parse().unwrap()), None);
    }

    #[test]
    fn a_variable_that_is_no_url_is_reported_before_kube_parses_it() {
        for wrong in ["http://[::1", " ", "http://"] {
            for name in ["HTTPS_PROXY", "https_proxy"] {
                let checked = check(|variable| (variable == name).then(|| wrong.to_owned()));
                assert_eq!(checked, Err(ProxyError::InvalidUrl { origin: "HTTPS_PROXY" }), "{wrong:?}");
            }
        }
        for good in ["", "http://proxy:3128", "proxy:3128", "socks5://proxy:1080"] {
            assert_eq!(check(|_| Some(good.to_owned())), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_what_to_write_instead() {
        for (proxy_url, environment, words) in [
            (Some("socks5://h:1"), &[][..], "proxy-url names a proxy with socks5://, but only http:// is supported"),
            (None, &[("HTTPS_PROXY", "https://h:1")][..], "add the API server's host to NO_PROXY"),
            (None, &[("HTTPS_PROXY", "http://")][..], "HTTPS_PROXY is not the URL of a proxy"),
            (Some("proxy"), &[][..], "write for instance http://proxy.example.com:3128"),
        ] {
            let error = chosen(SERVER, proxy_url, environment).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = chosen("http://api.example.com", Some("http://h:1"), &[]).unwrap_err();
        assert!(error.to_string().contains("write its https:// address"), "{error}");
    }

    /// The error of a call through a proxy at `url`.
    async fn error_through(url: &str) -> String {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::new(SERVER.parse().unwrap());
        config.default_retry = false;
        let proxy = Proxy { url: url.parse().unwrap(), origin: "HTTPS_PROXY" };
        let error = client_through(&proxy, &config).unwrap().apiserver_version().await.unwrap_err();
        TunnelError::behind(&error)
            .map_or_else(|| panic!("the error is not one of the proxy: {error:?}"), ToString::to_string)
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_reached_is_named_and_the_api_server_is_not() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = error_through(&format!("http://ann:secret@{address}")).await;
        assert!(
            error.starts_with(&format!("the proxy {address} (HTTPS_PROXY) cannot be reached: Connection refused")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_proxy_that_opens_no_tunnel_is_named_with_its_answer() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for (answer, words) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "it requires a user and a password"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "it rejects CONNECT"),
            ("", "it closes the connection"),
        ] {
            let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = proxy.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut connection, _) = proxy.accept().await.unwrap();
                let _ = connection.read(&mut [0; 1024]).await.unwrap();
                connection.write_all(answer.as_bytes()).await.unwrap();
            });
            let error = error_through(&format!("http://{address}")).await;
            let expected =
                format!("the proxy {address} (HTTPS_PROXY) does not open a tunnel to the API server: {words}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
