//! The cookies of one probe: a server may want back in one request what it has set in the answer before. Bounded, and forgotten afterwards.

use std::time::SystemTime;

use ::http::HeaderMap;
use ::http::header::SET_COOKIE;
use reqwest::Url;

/// The most cookies, and the longest one.
const MAX_COOKIES: usize = 32;
const MAX_COOKIE: usize = 4096;

/// The cookies that servers have set.
#[derive(Debug, Default)]
pub(super) struct CookieJar {
    cookies: Vec<Cookie>,
}

#[derive(Debug)]
struct Cookie {
    /// `NAME=VALUE`.
    pair: String,
    name_length: usize,
    host: String,
    /// Whether it is sent to subdomains as well.
    with_subdomains: bool,
    path: String,
    is_secure: bool,
}

impl CookieJar {
    /// Keeps the cookies that the answer to `url` sets.
    pub(super) fn store(&mut self, url: &Url, headers: &HeaderMap) {
        for header in headers.get_all(SET_COOKIE) {
            let Some(text) = header.to_str().ok().filter(|text| text.len() <= MAX_COOKIE) else { continue };
            let Some((cookie, is_live)) = Cookie::parse(text, url) else { continue };
            self.cookies.retain(|known| !known.is_replaced_by(&cookie));
            if is_live && self.cookies.len() < MAX_COOKIES {
                self.cookies.push(cookie);
            }
        }
    }

    /// The header `Cookie` of a request to `url`; none without cookies for it.
    pub(super) fn header(&self, url: &Url) -> Option<String> {
        let mut fitting: Vec<&Cookie> = self.cookies.iter().filter(|cookie| cookie.is_for(url)).collect();
        // Longer paths first.
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<&str> = fitting.iter().map(|cookie| cookie.pair.as_str()).collect();
        if pairs.is_empty() { None } else { Some(pairs.join("; ")) }
    }
}

impl Cookie {
    /// A cookie, and whether it is to be kept: a server removes one by a date in the past.
    fn parse(text: &str, url: &Url) -> Option<(Self, bool)> {
        let mut parts = text.split(';').map(str::trim);
        let pair = parts.next()?;
        let name_length = pair.find('=').filter(|length| *length > 0)?;
        if !pair.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return None;
        }
        let own = url.host_str()?.trim_end_matches('.');
        let (mut host, mut with_subdomains, mut path) = (own.to_owned(), false, default_path(url.path()).to_owned());
        let (mut is_secure, mut is_live, mut has_age) = (false, true, false);
        for part in parts {
            let (name, value) = part.split_once('=').map_or((part, ""), |(name, value)| (name.trim(), value.trim()));
            match name.to_ascii_lowercase().as_str() {
                "domain" if !value.is_empty() => {
                    let domain = value.trim_start_matches('.').to_ascii_lowercase();
                    // The names of whole registries are not known here, so at least one with a dot is wanted.
                    if domain != own && (!domain.contains('.') || !is_below(own, &domain)) {
                        return None;
                    }
                    with_subdomains = domain.contains('.') && own.parse::<std::net::IpAddr>().is_err();
                    host = domain;
                }
                "path" if value.starts_with('/') => value.clone_into(&mut path),
                "secure" => is_secure = true,
                "max-age" => {
                    has_age = true;
                    is_live = value.parse::<i64>().is_ok_and(|seconds| seconds > 0);
                }
                "expires" if !has_age => {
                    is_live = httpdate::parse_http_date(value).map_or(true, |at| at > SystemTime::now());
                }
                _ => {}
            }
        }
        Some((Self { pair: pair.to_owned(), name_length, host, with_subdomains, path, is_secure }, is_live))
    }

    fn name(&self) -> Option<&str> {
        self.pair.get(..self.name_length)
    }

    fn is_replaced_by(&self, other: &Self) -> bool {
        self.name() == other.name() && self.host == other.host && self.path == other.path
    }

    fn is_for(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let is_host = host == self.host || self.with_subdomains && is_below(host, &self.host);
        is_host && (!self.is_secure || url.scheme() == "https") && is_within(url.path(), &self.path)
    }
}

/// Whether `host` is a name below `domain`.
fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')) && host.parse::<std::net::IpAddr>().is_err()
}

fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || parent.ends_with('/') || rest.starts_with('/'))
}

/// The path up to its last slash.
fn default_path(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(end) => path.get(..end).unwrap_or("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(set: &[&str], at: &str, to: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        for text in set {
            headers.append(SET_COOKIE, text.parse().unwrap());
        }
        let mut jar = CookieJar::default();
        jar.store(&Url::parse(at).unwrap(), &headers);
        jar.header(&Url::parse(to).unwrap())
    }

    #[test]
    fn cookies_go_back_to_whom_they_belong() {
        const AT: &str = "http://www.example.com/a/b";
        for (set, to, expected) in [
            ("s=1", AT, true),
            ("s=1", "http://www.example.com/a/c", true),
            ("s=1", "http://www.example.com/ab", false),
            ("s=1; Path=/", "http://www.example.com/x", true),
            ("s=1; path=/a", "http://www.example.com/ab", false),
            ("s=1", "http://other.example.com/a/b", false),
            ("s=1; Domain=example.com; Path=/", "http://other.example.com/", true),
            ("s=1; Domain=.example.com; Path=/", "http://example.com/", true),
            ("s=1; Domain=com; Path=/", "http://other.com/", false),
            ("s=1; Domain=com; Path=/", AT, false),
            ("s=1; Domain=evil.test; Path=/", "http://evil.test/", false),
            ("s=1; Domain=ample.com; Path=/", "http://ample.com/", false),
            ("s=1; Secure; Path=/", "http://www.example.com/", false),
            ("s=1; Secure; Path=/", "https://www.example.com/", true),
            ("s=1; Max-Age=0", AT, false),
            ("s=1; Max-Age=10; Expires=Thu, 01 Jan 1970 00:00:00 GMT", AT, true),
            ("s=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", AT, false),
            ("=1", AT, false),
            ("s", AT, false),
        ] {
            assert_eq!(sent(&[set], AT, to).is_some(), expected, "{set} {to}");
        }
        assert_eq!(sent(&["a=1; Path=/", "b=2; Path=/a", "a=3; Path=/"], AT, AT).unwrap(), "b=2; a=3");
        assert_eq!(sent(&["a=1", "a=; Max-Age=0"], AT, AT), None);
        let of_address = sent(&["s=1; Domain=0.1"], "http://10.0.0.1/", "http://11.0.0.1/");
        assert_eq!(of_address, None);
    }

    proptest::proptest! {
        #[test]
        fn no_cookie_makes_it_panic_or_goes_to_a_stranger(
            text in "[\\PC]{0,60}|s=1(; ?(Domain|Path|Max-Age|Expires|Secure)=?[a-z./0-9-]{0,12}){0,4}",
        ) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = ::http::HeaderValue::from_bytes(text.as_bytes()) {
                headers.append(SET_COOKIE, value);
            }
            let mut jar = CookieJar::default();
            jar.store(&Url::parse("http://www.example.com/a/b").unwrap(), &headers);
            for stranger in ["http://www.example.org/a/b", "http://com/a/b", "http://10.0.0.1/a/b"] {
                assert_eq!(jar.header(&Url::parse(stranger).unwrap()), None, "{text}");
            }
        }
    }

    #[test]
    fn a_flood_of_cookies_is_bounded() {
        let many: Vec<String> = (0..1000).map(|n| format!("c{n}={}", "x".repeat(100))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let sent = sent(&many, "http://a.test/", "http://a.test/").unwrap();
        assert_eq!(sent.split("; ").count(), MAX_COOKIES);
        let long = format!("c={}", "x".repeat(MAX_COOKIE));
        assert_eq!(super::tests::sent(&[&long], "http://a.test/", "http://a.test/"), None);
    }
}
