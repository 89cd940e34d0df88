//! The rules of `spec.oauth2`. Those that it has in common with other blocks, about TLS and proxies, stand with theirs.

use std::collections::BTreeSet;

use super::table::{CONNECTION_HEADERS, capitalized, quoted, text};
use crate::crd::pattern::{SCOPE, TOKEN};
use crate::kind::{self, UrlForm};
use crate::rule::Rule;

/// Parameters of a token request that have fields of their own, or that the exporter decides about.
const OWN_PARAMETERS: [&str; 4] = ["grant_type", "password", "scope", "username"];

/// What the names of the client's own parameters begin with: its ID and secret, and the assertions that can stand for them.
const CLIENT_PARAMETERS: &str = "client_";

/// The longest name of a parameter.
const LONGEST_NAME: usize = 256;

/// Headers that cannot carry a token: they have a meaning of their own, or are sent to other servers as well. In lower case.
const NO_TOKEN_HEADERS: [&str; 8] =
    ["authorization", "cache-control", "cookie", "host", "pragma", "proxy-authorization", "referer", "user-agent"];

/// What the names of others begin with.
const NO_TOKEN_PREFIXES: [&str; 2] = ["accept", "content-"];

pub(super) fn rules() -> Vec<Rule> {
    vec![
        Rule::new(
            "spec",
            "!has(self.oauth2) || !(has(self.basicAuth) || has(self.authorization))",
            "oauth2 is mutually exclusive with basicAuth and authorization, keep one of them",
        )
        .field("oauth2")
        .holds_if(|spec| {
            spec.get("oauth2").is_none() || spec.get("basicAuth").is_none() && spec.get("authorization").is_none()
        }),
        Rule::new(
            "spec",
            "!has(self.oauth2) || !has(self.headers) || !self.headers.exists(h, h.name.lowerAscii() == \
             (has(self.oauth2.header) ? self.oauth2.header.lowerAscii() : 'authorization'))",
            "oauth2 sets this header itself: remove it, or let oauth2.header name another one for the token",
        )
        .field("headers")
        .holds_if(|spec| {
            let Some(oauth2) = spec.get("oauth2") else { return true };
            let own = text(oauth2, "header").unwrap_or("authorization").to_ascii_lowercase();
            !kind::has_header(spec, |name| name == own)
        }),
        Rule::matches_in_ascii(
            "spec.oauth2.tokenUrl",
            UrlForm::HTTP.pattern,
            "tokenUrl must be http://HOST:PORT/PATH or https://HOST:PORT/PATH, with a port from 1 to 65535 if any, and without user, password, \
             fragment, backslash or whitespace",
        ),
        Rule::matches(
            "spec.oauth2.scopes[]",
            &SCOPE,
            "a scope must consist of printable ASCII characters without space, double quote and backslash: write several scopes as several items",
        ),
        Rule::new(
            "spec.oauth2.endpointParams",
            format!("!(key in [{}]) && !key.startsWith('{CLIENT_PARAMETERS}')", quoted(&OWN_PARAMETERS)),
            "this parameter is set by the exporter, remove it: write clientId, clientSecret, scopes and user, by which grant_type is decided",
        )
        .on_keys()
        .holds_if_text(|key| !OWN_PARAMETERS.contains(&key) && !key.starts_with(CLIENT_PARAMETERS)),
        Rule::new(
            "spec.oauth2.endpointParams",
            format!("key.size() >= 1 && key.size() <= {LONGEST_NAME}"),
            format!("the name of a parameter must have 1 to {LONGEST_NAME} characters, correct it"),
        )
        .on_keys()
        .holds_if_text(|key| (1..=LONGEST_NAME).contains(&key.chars().count())),
        Rule::matches(
            "spec.oauth2.header",
            &TOKEN,
            "the name of a header must consist of letters, digits and the characters !#$%&'*+-.^_`|~",
        ),
        header(),
    ]
}

/// The token has a header for itself, which only the target gets.
fn header() -> Rule {
    let of_kinds = kind::Type::ALL.iter().flat_map(|kind| kind.own_headers().iter().chain(kind.command_headers()));
    let taken: BTreeSet<&str> =
        of_kinds.map(|(name, _)| *name).chain(NO_TOKEN_HEADERS).chain(CONNECTION_HEADERS).collect();
    let listed: Vec<&str> = taken.iter().copied().collect();
    let prefixes = NO_TOKEN_PREFIXES.map(|prefix| format!(" && !self.lowerAscii().startsWith('{prefix}')"));
    let names: Vec<String> = listed.iter().map(|name| capitalized(name)).collect();
    let message = format!(
        "must not be {}, Accept* or Content-*: write for instance X-Auth-Token, or leave header out, so that the token is sent as \
         Authorization: Bearer",
        names.join(", ")
    );
    Rule::new(
        "spec.oauth2.header",
        format!("!(self.lowerAscii() in [{}]){}", quoted(&listed), prefixes.concat()),
        message,
    )
    .holds_if_text(move |name| {
        let name = name.to_ascii_lowercase();
        !taken.contains(name.as_str()) && !NO_TOKEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_header_that_other_servers_get_cannot_carry_the_token() {
        let rule = header();
        for name in ["Authorization", "user-agent", "ACCEPT-language", "Content-Type", "Connection", "X-Sora-Target"] {
            assert!(!rule.accepts(&Value::from(name)), "{name}");
        }
        for name in ["X-Auth-Token", "x-api-key", "X-Access-Token"] {
            assert!(rule.accepts(&Value::from(name)), "{name}");
        }
    }
}
