//! The rules themselves, in the order of the fields.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::Value;

use super::oauth2;
use crate::crd::pattern::{
    self, AUTHORITY, BODY_SIZE, DNS_LABEL, K8S_KEY, K8S_VALUE, LABEL_NAME, LABELS_BY_NAME, NO_PROXY, PRINTABLE, PROXY,
    SERVER_NAME, TOKEN, URL_OF_ADDRESS, URL_OF_SERVICE, URL_WITH_HOST,
};
use crate::crd::{regex_syntax, url_advice};
use crate::kind::re2::{PatternProblem, rewrite};
use crate::kind::reserved::{IDENTITY_LABELS, TAKEN_LABELS};
use crate::kind::{self, Field, UrlQuery};
use crate::rule::{BEYOND_ASCII, Rule, raw};
use crate::time::{self, PromDuration};

/// Every rule. The order is that of the fields.
pub fn all() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        [
            spec(),
            fields(),
            url_forms(),
            url(),
            proxy(),
            members(),
            durations(),
            labels(),
            headers(),
            access(),
            oauth2::rules(),
            regexes(),
            monitor(),
            relabelings(),
            member_relabelings(),
            kind::Type::ALL.iter().flat_map(|kind| kind.rules()).collect(),
            labels_of_kinds(),
        ]
        .into_iter()
        .flatten()
        .collect()
    });
    &RULES
}

/// Rules between the fields of the spec.
fn spec() -> Vec<Rule> {
    let mut rules: Vec<Rule> = kind::Type::ALL
        .iter()
        .map(|kind| {
            let (name, block) = (kind.as_str(), kind.block());
            Rule::new(
                "spec",
                format!("self.type == '{name}' || !has(self.{block})"),
                format!("the block {block} is only allowed with type {name}, remove it or write type: {name}"),
            )
            .field(block)
            .holds_if(move |spec| text(spec, "type").is_none_or(|kind| kind == name) || spec.get(block).is_none())
        })
        .collect();
    for field in ["timeout", "maxAge"] {
        rules.push(
            Rule::new(
                "spec",
                format!(
                    "!has(self.{field}) || !{} || !{} || duration(self.{field}) <= duration(self.interval)",
                    readable(&format!("self.{field}")),
                    readable("self.interval")
                ),
                format!("{field} must be at most interval, write a shorter {field} or a longer interval"),
            )
            .field(field)
            .holds_if(move |spec| match (span(spec, field), span(spec, "interval")) {
                (Some(field), Some(interval)) => field <= interval,
                _ => true,
            }),
        );
    }
    rules.push(
        Rule::new(
            "spec",
            "!has(self.basicAuth) || !has(self.authorization)",
            "basicAuth and authorization are mutually exclusive, remove one of them",
        )
        .field("authorization")
        .holds_if(|spec| spec.get("basicAuth").is_none() || spec.get("authorization").is_none()),
    );
    rules.push(
        Rule::new(
            "spec",
            "!(has(self.basicAuth) || has(self.authorization)) || !has(self.headers) || \
             !self.headers.exists(h, h.name.lowerAscii() == 'authorization')",
            "the header Authorization and basicAuth or authorization are mutually exclusive, remove one of them",
        )
        .field("headers")
        .holds_if(|spec| {
            let block = spec.get("basicAuth").is_some() || spec.get("authorization").is_some();
            !block || !kind::has_header(spec, |name| name == "authorization")
        }),
    );
    rules
}

/// The url of each type has a form. Types with the same form have one rule.
fn url_forms() -> Vec<Rule> {
    let mut forms: Vec<(kind::UrlForm, Vec<kind::Type>)> = Vec::new();
    for kind in kind::Type::ALL {
        let form = kind.url();
        match forms.iter_mut().find(|(known, _)| std::ptr::eq(known.pattern, form.pattern)) {
            Some((_, kinds)) => kinds.push(*kind),
            None => forms.push((form, vec![*kind])),
        }
    }
    let rule = |(form, kinds): (kind::UrlForm, Vec<kind::Type>)| {
        let cel = format!(
            "!(self.type in [{}]) || self.url.matches({}) || self.url.matches({})",
            names(&kinds),
            raw(form.pattern.as_str()),
            raw(BEYOND_ASCII.as_str())
        );
        let takes_credentials = kinds.iter().all(|kind| kind.fields().contains(&Field::Credentials));
        Rule::new("spec", cel, form.message)
            .field("url")
            .holds_if(move |spec| {
                let is_of = kinds.iter().any(|kind| text(spec, "type") == Some(kind.as_str()));
                !is_of || text(spec, "url").is_none_or(|url| form.pattern.is_match(url) || BEYOND_ASCII.is_match(url))
            })
            .more(move |spec| url_advice::advice(form, takes_credentials, text(spec, "url")?))
    };
    forms.into_iter().map(rule).collect()
}

/// The fields that have no meaning for some types.
fn fields() -> Vec<Rule> {
    let mut rules = Vec::new();
    let names_of_fields: BTreeSet<&'static str> = Field::ALL.iter().flat_map(|field| field.names()).copied().collect();
    for name in names_of_fields {
        let has = |kind: &kind::Type| kind.fields().iter().any(|field| field.names().contains(&name));
        let without: Vec<kind::Type> = kind::Type::ALL.iter().copied().filter(|kind| !has(kind)).collect();
        if without.is_empty() {
            continue;
        }
        let with: Vec<&str> = kind::Type::ALL.iter().filter(|kind| has(kind)).map(|kind| kind.as_str()).collect();
        let cel = format!("!has(self.{name}) || !(self.type in [{}])", names(&without));
        let message = format!("{name} has no effect with this type, only with {}: remove it", with.join(", "));
        rules.push(Rule::new("spec", cel, message).field(name).holds_if(move |spec| {
            spec.get(name).is_none() || !without.iter().any(|kind| text(spec, "type") == Some(kind.as_str()))
        }));
    }
    rules
}

/// The names of kinds for CEL.
fn names(kinds: &[kind::Type]) -> String {
    quoted(&kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>())
}

/// The most entries of `noProxy`.
const MAX_NO_PROXY: usize = 128;

/// Fields that say something about the proxy in `proxyUrl`.
fn proxy() -> Vec<Rule> {
    let has = |kind: &kind::Type| kind.fields().contains(&Field::Proxy);
    // Other types are told that they have none of the fields.
    let with: Vec<kind::Type> = kind::Type::ALL.iter().copied().filter(has).collect();
    let of_proxy = ["proxyAuth", "proxyTlsConfig", "noProxy"].map(|name| {
        let with = with.clone();
        Rule::new(
            "spec",
            format!("!has(self.{name}) || has(self.proxyUrl) || !(self.type in [{}])", names(&with)),
            format!("{name} has no effect without proxyUrl: write proxyUrl, or remove {name}"),
        )
        .field(name)
        .holds_if(move |spec| {
            let is_of = with.iter().any(|kind| text(spec, "type") == Some(kind.as_str()));
            !is_of || spec.get(name).is_none() || spec.get("proxyUrl").is_some()
        })
    });
    let needs_tls = Rule::new(
        "spec",
        "!has(self.proxyTlsConfig) || !has(self.proxyUrl) || self.proxyUrl.startsWith('https:')",
        "proxyTlsConfig has no effect with a proxy that is not spoken to by TLS: write https:// in proxyUrl, or remove proxyTlsConfig",
    )
    .field("proxyTlsConfig")
    .holds_if(|spec| {
        spec.get("proxyTlsConfig").is_none() || text(spec, "proxyUrl").is_none_or(|url| url.starts_with("https:"))
    });
    let own_header = Rule::new(
        "spec",
        "!has(self.proxyAuth) || !has(self.headers) || !self.headers.exists(h, h.name.lowerAscii() == 'proxy-authorization')",
        "the header Proxy-Authorization and proxyAuth are mutually exclusive, remove the header, which the target may get as well",
    )
    .field("headers")
    .holds_if(|spec| {
        spec.get("proxyAuth").is_none() || !kind::has_header(spec, |name| name == "proxy-authorization")
    });
    of_proxy.into_iter().chain([needs_tls, own_header]).collect()
}

fn url() -> Vec<Rule> {
    vec![
        Rule::new(
            "spec.url",
            format!("!self.matches({})", raw(BEYOND_ASCII.as_str())),
            "a host name with non-ASCII letters must be written in its DNS form (xn--...), and other non-ASCII characters must be \
             percent-encoded",
        )
        .also(&["spec.proxyUrl", "spec.oauth2.tokenUrl", "spec.oauth2.proxyUrl"])
        .holds_if_text(|url| !BEYOND_ASCII.is_match(url))
        .more_of_text(|url| Some(format!("write {}", pattern::host_in_ascii(url)?))),
        // Only the bracketed hosts that the pattern lets through are looked at: netip and Rust read those alike.
        Rule::new(
            "spec.url",
            "!self.matches(r\"^[a-z]+:(//)?\\[[0-9a-fA-F:]+\\]\") || isIP(self.substring(self.indexOf('[') + 1, self.indexOf(']')))",
            "the host in brackets is not an IPv6 address, write for instance http://[2001:db8::1]/",
        )
        .also(&["spec.proxyUrl", "spec.oauth2.tokenUrl", "spec.oauth2.proxyUrl"])
        .holds_if_text(pattern::ipv6_host_is_address),
        url_query(),
        Rule::matches_in_ascii(
            "spec.proxyUrl",
            &PROXY,
            "proxyUrl must be http://HOST:PORT, https://HOST:PORT or socks5h://HOST:PORT, without path, query or fragment; user name and \
             password come from a Secret, write proxyAuth",
        ),
        Rule::matches_in_ascii(
            "spec.oauth2.proxyUrl",
            &PROXY,
            "proxyUrl must be http://HOST:PORT, https://HOST:PORT or socks5h://HOST:PORT, without user, password, path, query or fragment",
        ),
        Rule::matches(
            "spec.noProxy",
            &NO_PROXY,
            "noProxy must consist of host names, .DOMAIN, addresses, CIDR ranges or *, with commas between them, for instance \
             .svc,10.0.0.0/8,example.com:8443",
        ),
        Rule::new(
            "spec.noProxy",
            "!self.contains('://')",
            "noProxy names hosts and no urls: write the host without scheme and path, with its port if only that is meant",
        )
        .holds_if_text(|list| !list.contains("://")),
        Rule::new(
            "spec.noProxy",
            format!("self.split(',').size() <= {MAX_NO_PROXY}"),
            format!("noProxy has more than {MAX_NO_PROXY} entries, write domains or ranges in their place"),
        )
        .holds_if_text(|list| list.split(',').count() <= MAX_NO_PROXY),
    ]
}

/// A url has a query only where its kind allows it.
fn url_query() -> Rule {
    let mut cel = vec!["!self.url.contains('?')".to_owned()];
    let mut except = Vec::new();
    for kind in kind::Type::ALL {
        match kind.url_query() {
            UrlQuery::Never => {}
            UrlQuery::AsWritten => {
                cel.push(format!("self.type == '{kind}'"));
                except.push(format!("type: {kind}"));
            }
            UrlQuery::With(option, value) => {
                let block = kind.block();
                cel.push(format!("(self.type == '{kind}' && has(self.{block}) && self.{block}.{option} == '{value}')"));
                except.push(format!("{block}.{option}: {value}"));
            }
        }
    }
    let message = match except.split_last() {
        None => "url must not have a query, remove it".to_owned(),
        Some((last, [])) => format!("url must not have a query except with {last}, remove it"),
        Some((last, others)) => {
            format!("url must not have a query except with {} or {last}, remove it", others.join(", "))
        }
    };
    Rule::new("spec", cel.join(" || "), message).field("url").holds_if(move |spec| {
        let is_allowed = kind::Type::ALL.iter().any(|kind| {
            text(spec, "type") == Some(kind.as_str())
                && match kind.url_query() {
                    UrlQuery::Never => false,
                    UrlQuery::AsWritten => true,
                    UrlQuery::With(option, value) => {
                        spec.get(kind.block()).is_some_and(|block| text(block, option) == Some(value))
                    }
                }
        });
        is_allowed || !text(spec, "url").is_some_and(|url| url.contains('?'))
    })
}

/// What names one process of a target: `pod`, or `member` where there is no pod.
const MEMBER: [&str; 2] = ["pod", "member"];

fn members() -> Vec<Rule> {
    let has = |spec: &Value, path: &str| spec.pointer(path).is_some();
    vec![
        Rule::new(
            "spec.members",
            "has(self.service) != has(self.dns)",
            "needs either service or dns, write one of them and not both: service: {} for the pods of a Service, dns: {} for all addresses \
             of the host in url",
        )
        .holds_if(|members| {
            !members.is_object() || members.get("service").is_some() != members.get("dns").is_some()
        }),
        Rule::new(
            "spec.members",
            "!has(self.dns) || self.include == 'Serving'",
            "include has no effect with dns, which knows nothing of readiness: remove it, or write service instead of dns",
        )
        .field("include")
        .holds_if(|members| {
            members.get("dns").is_none() || text(members, "include").is_none_or(|include| include == "Serving")
        }),
        Rule::matches(
            "spec.members.service.name",
            &DNS_LABEL,
            "must be the name of a Service in the namespace of the target, of lower-case letters, digits and -, without namespace and domain",
        ),
        Rule::matches(
            "spec.members.service.port",
            &DNS_LABEL,
            "must be the name of a port of the Service, of lower-case letters, digits and -, as kubectl describe service prints it",
        ),
        Rule::new(
            "spec",
            format!(
                "!has(self.members) || !has(self.members.service) || has(self.members.service.name) || !self.url.matches({}) || \
                 (self.url.matches({}) && !self.url.matches({}))",
                raw(URL_WITH_HOST.as_str()),
                raw(URL_OF_SERVICE.as_str()),
                raw(URL_OF_ADDRESS.as_str()),
            ),
            "the host in url does not begin with the name of a Service, write members.service.name",
        )
        .field("members.service.name")
        .holds_if(move |spec| {
            let can_name = |url: &str| URL_OF_SERVICE.is_match(url) && !URL_OF_ADDRESS.is_match(url);
            !has(spec, "/members/service")
                || has(spec, "/members/service/name")
                || text(spec, "url").is_none_or(|url| !URL_WITH_HOST.is_match(url) || can_name(url))
        }),
        Rule::new(
            "spec",
            format!(
                "!has(self.members) || !has(self.members.dns) || !self.url.matches({})",
                raw(URL_OF_ADDRESS.as_str())
            ),
            "the host in url is an address, so there is nothing to resolve: write a name that has the addresses of all members",
        )
        .field("members.dns")
        .holds_if(move |spec| {
            !has(spec, "/members/dns") || text(spec, "url").is_none_or(|url| !URL_OF_ADDRESS.is_match(url))
        }),
        Rule::new(
            "spec",
            "!has(self.members) || !has(self.proxyUrl)",
            "members and proxyUrl are mutually exclusive, since a proxy cannot be told which member is meant: remove one of them",
        )
        .field("proxyUrl")
        .holds_if(move |spec| !has(spec, "/members") || !has(spec, "/proxyUrl")),
        Rule::new(
            "spec",
            format!("!has(self.members) || !has(self.labels) || !self.labels.exists(key, key in [{}])", quoted(&MEMBER)),
            "with members, the labels pod and member tell which process a series belongs to, write another name",
        )
        .field("labels")
        .holds_if(move |spec| {
            let labels = spec.get("labels").and_then(Value::as_object);
            !has(spec, "/members") || labels.is_none_or(|labels| MEMBER.iter().all(|name| !labels.contains_key(*name)))
        }),
        // No member has the address, and with dns it is refused anyway.
        Rule::new(
            "spec",
            format!(
                "!has(self.members) || !has(self.members.service) || !self.url.startsWith('https:') || !self.url.matches({}) || \
                 (has(self.tlsConfig) && has(self.tlsConfig.serverName))",
                raw(URL_OF_ADDRESS.as_str())
            ),
            "the host in url is an address that no member has, so over https write tlsConfig.serverName, the name in the certificates of the \
             members, or that name as the host",
        )
        .field("tlsConfig.serverName")
        .holds_if(move |spec| {
            let is_unnamed = |url: &str| url.starts_with("https:") && URL_OF_ADDRESS.is_match(url);
            !has(spec, "/members/service")
                || has(spec, "/tlsConfig/serverName")
                || !text(spec, "url").is_some_and(is_unnamed)
        }),
    ]
}

/// The durations, beside `spec.interval`.
const DURATIONS: [&str; 4] = ["spec.timeout", "spec.maxAge", "spec.monitor.interval", "spec.monitor.scrapeTimeout"];

/// Whether the field at `path` is a duration.
pub(crate) fn is_duration(path: &str) -> bool {
    let is_of_block = || kind::Type::ALL.iter().any(|kind| kind.durations().contains(&path));
    path == "spec.interval" || DURATIONS.contains(&path) || is_of_block()
}

fn durations() -> Vec<Rule> {
    vec![
        Rule::new(
            "spec.interval",
            readable("self"),
            "must be a duration in whole hours, minutes, seconds and milliseconds, for instance 15s, 1m30s or 500ms",
        )
        .also(&DURATIONS)
        .holds_if_text(|text| text.parse::<PromDuration>().is_ok()),
        Rule::new(
            "spec.interval",
            format!("!{} || (duration(self) >= duration('1s') && duration(self) <= duration('1h'))", readable("self")),
            "must be from 1s to 1h",
        )
        .also(&["spec.monitor.interval"])
        .holds_if_text(|text| {
            let range = PromDuration::from_secs(1)..=PromDuration::from_secs(3600);
            text.parse().map_or(true, |span: PromDuration| range.contains(&span))
        }),
        Rule::new(
            "spec.timeout",
            format!("!{} || duration(self) > duration('0s')", readable("self")),
            "must be longer than 0s",
        )
        .also(&["spec.monitor.scrapeTimeout"])
        .holds_if_text(|text| text.parse().map_or(true, |span: PromDuration| span > PromDuration::from_secs(0))),
    ]
}

/// Labels of the generic families of every poll: `probe_failure_info`, `probe_call_*`.
const PROBE: [&str; 2] = ["call", "reason"];

/// Every name that `spec.labels` must not use.
pub fn reserved_labels() -> &'static BTreeSet<&'static str> {
    static NAMES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
        let kinds = kind::Type::ALL.iter().filter(|kind| !kind.is_probed());
        let families = kinds.flat_map(|kind| kind.families());
        families
            .flat_map(|family| family.labels)
            .chain(&IDENTITY_LABELS)
            .chain(&TAKEN_LABELS)
            .chain(&PROBE)
            .copied()
            .collect()
    });
    &NAMES
}

fn labels() -> Vec<Rule> {
    let reserved: Vec<&str> = reserved_labels().iter().copied().collect();
    vec![
        Rule::new(
            "spec.labels",
            format!("key.matches({})", raw(LABEL_NAME.as_str())),
            "a label name must start with a letter or underscore, followed by letters, digits and underscores, 256 characters at most",
        )
        .on_keys()
        .holds_if_text(|key| LABEL_NAME.is_match(key)),
        Rule::new(
            "spec.labels",
            "!key.startsWith('__')",
            "label names that begin with __ are reserved for Prometheus, write another name",
        )
        .on_keys()
        .holds_if_text(|key| !key.starts_with("__")),
        Rule::new(
            "spec.labels",
            format!("!(key in [{}])", quoted(&reserved)),
            "this label is set by Prometheus, by discovery or by a family of the exporter, write another name",
        )
        .on_keys()
        .holds_if_text(|key| !reserved_labels().contains(key)),
        no_variable("spec.labels{}"),
    ]
}

/// The labels of the families of a kind that is probed are taken for its own targets only: other targets may have had such labels before the
/// kind came.
fn labels_of_kinds() -> Vec<Rule> {
    let kinds = kind::Type::ALL.iter().filter(|kind| kind.is_probed());
    kinds
        .filter_map(|kind| {
            let labels: BTreeSet<&str> = kind.families().iter().flat_map(|family| family.labels).copied().collect();
            let own: Vec<&str> = labels.difference(reserved_labels()).copied().collect();
            if own.is_empty() {
                return None;
            }
            let cel = format!(
                "self.type != '{kind}' || !has(self.labels) || !self.labels.exists(key, key in [{}])",
                quoted(&own)
            );
            let message = format!("{} are labels of the families of type {kind}, write another name", own.join(", "));
            Some(Rule::new("spec", cel, message).field("labels").holds_if(move |spec| {
                let labels = spec.get("labels").and_then(Value::as_object);
                text(spec, "type") != Some(kind.as_str())
                    || labels.is_none_or(|labels| own.iter().all(|name| !labels.contains_key(*name)))
            }))
        })
        .collect()
}

/// The Operator's config reloader replaces `$(NAME)` by an environment variable, and stops all of Prometheus if there is none.
fn no_variable(path: &'static str) -> Rule {
    Rule::new(
        path,
        "!self.contains('$(')",
        "must not contain $(, which the config reloader of Prometheus would expand, remove it",
    )
    .holds_if_text(|text| !text.contains("$("))
}

/// Headers of the connection and of the length of a body, in lower case: they belong to the exporter whatever the kind.
pub(crate) const CONNECTION_HEADERS: [&str; 5] =
    ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"];

/// Headers that belong to it if it calls an API, and what names of others begin with.
const API_HEADERS: [&str; 1] = ["host"];
const API_PREFIXES: [&str; 2] = ["content-", "accept"];

fn headers() -> Vec<Rule> {
    let own = quoted(&CONNECTION_HEADERS);
    let prefixes = API_PREFIXES
        .map(|prefix| format!(" || (h.name.lowerAscii().startsWith('{prefix}') && !(h.name.lowerAscii() in [{own}]))"));
    let prefixes = prefixes.concat();
    let callers: Vec<kind::Type> =
        kind::Type::ALL.iter().copied().filter(|kind| kind.fields().contains(&Field::Headers)).collect();
    let mut rules = vec![
        Rule::new(
            "spec.headers[]",
            "has(self.value) != has(self.secretKeyRef)",
            "a header needs either value or secretKeyRef, write one of them and not both",
        )
        .holds_if(|header| {
            !header.is_object() || header.get("value").is_some() != header.get("secretKeyRef").is_some()
        }),
        Rule::matches(
            "spec.headers[].name",
            &TOKEN,
            "the name of a header must consist of letters, digits and the characters !#$%&'*+-.^_`|~",
        ),
        Rule::new(
            "spec.headers[].name",
            format!("!(self.lowerAscii() in [{own}])"),
            "this header is about the connection or the length of the body, which are up to the exporter, remove it",
        )
        .holds_if_text(|name| !CONNECTION_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own))),
        Rule::new(
            "spec",
            format!(
                "!(self.type in [{}]) || !has(self.headers) || !self.headers.exists(h, h.name.lowerAscii() in [{}]{prefixes})",
                names(&callers),
                quoted(&API_HEADERS),
            ),
            "with this type the exporter sets Host, Accept* and Content-* itself, remove them",
        )
        .field("headers")
        .holds_if(move |spec| {
            let is_own = |name: &str| {
                let has_prefix = API_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
                API_HEADERS.contains(&name) || has_prefix && !CONNECTION_HEADERS.contains(&name)
            };
            !callers.iter().any(|kind| text(spec, "type") == Some(kind.as_str())) || !kind::has_header(spec, is_own)
        }),
        Rule::matches(
            "spec.headers[].value",
            &PRINTABLE,
            "the value of a header must consist of printable ASCII characters and tabs, without line breaks",
        ),
        Rule::new(
            "spec.headers[]",
            format!(
                "self.name.lowerAscii() != 'host' || !has(self.value) || self.value.matches({})",
                raw(AUTHORITY.as_str())
            ),
            "the value of the header Host must be HOST or HOST:PORT, with a port from 1 to 65535, and without scheme, user, path and \
             whitespace",
        )
        .field("value")
        .holds_if(|header| {
            !text(header, "name").is_some_and(|name| name.eq_ignore_ascii_case("host"))
                || text(header, "value").is_none_or(|value| AUTHORITY.is_match(value))
        }),
    ];
    rules.extend(kind::Type::ALL.iter().flat_map(|kind| headers_of_kind(*kind)));
    rules
}

/// The headers that a kind sets itself, and those that are commands to its servers.
fn headers_of_kind(kind: kind::Type) -> Vec<Rule> {
    let own = kind.own_headers().iter().map(|(header, instead)| {
        let cel = format!(
            "self.type != '{kind}' || !has(self.headers) || !self.headers.exists(h, h.name.lowerAscii() == '{header}')"
        );
        let message = format!("with type {kind} the exporter sets {} itself, {instead}", capitalized(header));
        Rule::new("spec", cel, message).field("headers").holds_if(move |spec| {
            text(spec, "type") != Some(kind.as_str()) || !kind::has_header(spec, |name| name == *header)
        })
    });
    let commands = kind.command_headers().iter().map(|(header, why)| {
        let message = format!("{} {why}", capitalized(header));
        Rule::new("spec.headers[].name", format!("self.lowerAscii() != '{header}'"), message)
            .holds_if_text(|name| !name.eq_ignore_ascii_case(header))
    });
    own.chain(commands).collect()
}

/// `X-Own-Header` of `x-own-header`.
pub(crate) fn capitalized(header: &str) -> String {
    let words = header.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

fn access() -> Vec<Rule> {
    let one_of = |path| {
        Rule::new(
            path,
            "has(self.secret) != has(self.configMap)",
            "needs either secret or configMap, write one of them and not both",
        )
        .holds_if(|either: &Value| {
            !either.is_object() || either.get("secret").is_some() != either.get("configMap").is_some()
        })
    };
    vec![
        Rule::matches(
            "spec.authorization.type",
            &TOKEN,
            "the type of authorization must be one word, for instance Bearer",
        ),
        Rule::new(
            "spec.authorization.type",
            "self.lowerAscii() != 'basic'",
            "the type of authorization must not be Basic, write basicAuth instead",
        )
        .holds_if_text(|scheme| !scheme.eq_ignore_ascii_case("basic")),
        one_of("spec.tlsConfig.ca").also(&[
            "spec.tlsConfig.cert",
            "spec.oauth2.clientId",
            "spec.oauth2.tlsConfig.ca",
            "spec.oauth2.tlsConfig.cert",
            "spec.proxyTlsConfig.ca",
            "spec.proxyTlsConfig.cert",
        ]),
        Rule::new(
            "spec.tlsConfig",
            "has(self.cert) == has(self.keySecret)",
            "cert and keySecret must be set together, write both or neither",
        )
        .also(&["spec.oauth2.tlsConfig", "spec.proxyTlsConfig"])
        .holds_if(|tls| !tls.is_object() || tls.get("cert").is_some() == tls.get("keySecret").is_some()),
        Rule::new(
            "spec.tlsConfig",
            "!has(self.minVersion) || !has(self.maxVersion) || self.minVersion <= self.maxVersion",
            "minVersion must be at most maxVersion, exchange them or remove one",
        )
        .also(&["spec.oauth2.tlsConfig", "spec.proxyTlsConfig"])
        .field("minVersion")
        .holds_if(|tls| match (text(tls, "minVersion"), text(tls, "maxVersion")) {
            (Some(least), Some(most)) => least <= most,
            _ => true,
        }),
        Rule::new("spec.sourceIpAddress", "isIP(self)", "must be an IPv4 or IPv6 address, for instance 10.0.0.7")
            .holds_if_text(|text| text.parse::<IpAddr>().is_ok_and(|address| !is_mapped(address))),
        Rule::matches(
            "spec.tlsConfig.serverName",
            &SERVER_NAME,
            "serverName must be a host name or an IP address, without scheme, port and brackets",
        )
        .also(&["spec.oauth2.tlsConfig.serverName", "spec.proxyTlsConfig.serverName"]),
    ]
}

/// Kubernetes' `isIP` refuses these.
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn regexes() -> Vec<Rule> {
    // An expression that RE2 cannot read makes `matches` fail, and with it the rule: the value does not matter.
    let rule = |path| {
        Rule::new(path, "''.matches(self) ? true : true", "is not a regular expression that RE2 accepts, correct it")
    };
    let mut rules = vec![
        rule("spec.metrics.keep[]")
            .also(&[
                "spec.metrics.drop[]",
                "spec.monitor.relabelings[].regex",
                "spec.monitor.metricRelabelings[].regex",
            ])
            .holds_if_text(regex_syntax::is_readable)
            .more_of_text(regex_syntax::mistake),
    ];
    // Those of kinds are read here alone, in the whole syntax of RE2.
    let of_kinds: Vec<_> = kind::Type::ALL.iter().flat_map(|kind| kind.regexes()).copied().collect();
    if let Some((first, others)) = of_kinds.split_first() {
        rules
            .push(rule(first).also(others).holds_if_text(|text| re2_mistake(text).is_none()).more_of_text(re2_mistake));
    }
    rules
}

/// Why RE2 cannot read `pattern`.
fn re2_mistake(pattern: &str) -> Option<String> {
    match rewrite(pattern) {
        Err(PatternProblem::Invalid(cause)) => Some(cause),
        _ => None,
    }
}

fn monitor() -> Vec<Rule> {
    let two_minutes = "duration(self.interval) < duration('2m') ? duration(self.interval) : duration('2m')";
    let written = readable("self.monitor.scrapeTimeout");
    let mut rules = vec![
        Rule::new(
            "spec",
            format!(
                "!has(self.monitor) || !has(self.monitor.scrapeTimeout) || !{written} || !{} || \
                 (has(self.monitor.interval) && !{}) || duration(self.monitor.scrapeTimeout) <= \
                 (has(self.monitor.interval) ? duration(self.monitor.interval) : ({two_minutes}))",
                readable("self.interval"),
                readable("self.monitor.interval"),
            ),
            "monitor.scrapeTimeout must be at most monitor.interval (by default the smaller of interval and 2m), write a shorter one",
        )
        .field("monitor.scrapeTimeout")
        .holds_if(|spec| {
            let Some(monitor) = spec.get("monitor") else { return true };
            let interval = span(spec, "interval").map(|interval| interval.min(PromDuration::from_secs(120)));
            let most = if monitor.get("interval").is_some() {
                interval.and_then(|_| span(monitor, "interval"))
            } else {
                interval
            };
            match (span(monitor, "scrapeTimeout"), most) {
                (Some(written), Some(most)) => written <= most,
                _ => true,
            }
        }),
        Rule::new(
            "spec.monitor.labels",
            format!("key.matches({})", raw(K8S_KEY.as_str())),
            "is not a valid name of a Kubernetes label or annotation, write for instance release or example.com/team",
        )
        .also(&["spec.monitor.annotations"])
        .on_keys()
        .holds_if_text(|key| K8S_KEY.is_match(key)),
        Rule::matches(
            "spec.monitor.labels{}",
            &K8S_VALUE,
            "is not a valid value of a Kubernetes label, write only letters, digits, -, _ and ., with a letter or digit at both ends",
        ),
        Rule::matches(
            "spec.monitor.bodySizeLimit",
            &BODY_SIZE,
            "must be a whole number with one of the units B, KB, MB, GB, KiB, MiB and GiB, where 1 KB is 1024 bytes, write for instance 16MB",
        ),
    ];
    rules.extend(
        [
            "spec.monitor.relabelings[].separator",
            "spec.monitor.relabelings[].regex",
            "spec.monitor.relabelings[].replacement",
            "spec.monitor.metricRelabelings[].separator",
            "spec.monitor.metricRelabelings[].regex",
            "spec.monitor.metricRelabelings[].replacement",
            "spec.monitor.job",
        ]
        .map(no_variable),
    );
    rules.push(
        Rule::new(
            "spec",
            "!has(self.monitor) || self.monitor.instance != 'Url' || !self.url.contains('$(')",
            "with monitor.instance: Url, url must not contain $(, which the config reloader of Prometheus would expand: write %24(",
        )
        .field("url")
        .holds_if(|spec| {
            let as_url = spec.pointer("/monitor/instance").and_then(Value::as_str) == Some("Url");
            !as_url || text(spec, "url").is_none_or(|url| !url.contains("$("))
        }),
    );
    rules
}

/// Relabelings may neither redirect a scrape, by labels that begin with `__`, nor make series look like those of another target.
fn relabelings() -> Vec<Rule> {
    let identity = quoted(&IDENTITY_LABELS);
    let [writes, drops] = [
        Rule::new(
            RELABELINGS[0],
            format!(
                "!has(self.targetLabel) || self.action.lowerAscii() in [{}] || (self.targetLabel.matches({}) && \
                 !self.targetLabel.startsWith('__') && !(self.targetLabel in [{identity}]))",
                quoted(&COMPARING),
                raw(LABEL_NAME.as_str()),
            ),
            format!(
                "targetLabel must be one constant name of letters, digits and underscores that does not begin with __ and is none of {}, \
                 which identify the target: write another label",
                IDENTITY_LABELS.join(", ")
            ),
        )
        .field("targetLabel")
        .holds_if(|step| {
            COMPARING.contains(&action(step).as_str())
                || text(step, "targetLabel").is_none_or(|label| {
                    LABEL_NAME.is_match(label) && !label.starts_with("__") && !IDENTITY_LABELS.contains(&label)
                })
        }),
        // The names come from the labels of a series, which are not known here, so only the beginning of the expression is checked.
        Rule::new(
            RELABELINGS[0],
            format!(
                "self.action.lowerAscii() != 'labeldrop' || (has(self.regex) && self.regex.matches({}) && \
                 ![{identity}].exists(name, name.matches('^(?:' + self.regex + ')$')))",
                raw(LABELS_BY_NAME.as_str()),
            ),
            format!(
                "the regex of a labeldrop must be label names, or prefixes of them followed by .*, separated by |, that do not begin with \
                 __ and are none of {}: write for instance region|rack_.*",
                IDENTITY_LABELS.join(", ")
            ),
        )
        .field("regex")
        .holds_if(|step| {
            action(step) != "labeldrop"
                || text(step, "regex").is_some_and(|regex| {
                    LABELS_BY_NAME.is_match(regex) && !IDENTITY_LABELS.iter().any(|name| is_named(name, regex))
                })
        }),
    ]
    .map(|rule| rule.also(&RELABELINGS[1..]));
    let maps = Rule::new(
        RELABELINGS[0],
        "!(self.action.lowerAscii() in ['labelmap', 'labelkeep'])",
        "labelmap and labelkeep affect labels that do not belong to the target: write one replace for each label, or labeldrop with the \
         names of the labels to remove",
    )
    .field("action")
    .also(&RELABELINGS[1..])
    .holds_if(|step| !matches!(action(step).as_str(), "labelmap" | "labelkeep"));
    vec![maps, writes, drops]
}

/// With members, no relabeling may take from a series what tells whose it is.
fn member_relabelings() -> Vec<Rule> {
    let names = quoted(&MEMBER);
    let rule = |list: &'static str, cel: String, breaks: fn(&Value) -> bool, instead: &str| {
        Rule::new(
            "spec",
            format!(
                "!has(self.members) || !has(self.monitor) || !has(self.monitor.{list}) || !self.monitor.{list}.exists(step, {cel})"
            ),
            format!("with members, the labels pod and member tell which process a series belongs to, {instead}"),
        )
        .field(format!("monitor.{list}"))
        .holds_if(move |spec| {
            let steps = spec.pointer(&format!("/monitor/{list}")).and_then(Value::as_array);
            spec.get("members").is_none() || !steps.is_some_and(|steps| steps.iter().any(breaks))
        })
    };
    let writes = |list| {
        let comparing = quoted(&COMPARING);
        let cel = format!(
            "has(step.targetLabel) && step.targetLabel in [{names}] && !(step.action.lowerAscii() in [{comparing}])"
        );
        let breaks = |step: &Value| {
            let writes = text(step, "targetLabel").is_some_and(|label| MEMBER.contains(&label));
            writes && !COMPARING.contains(&action(step).as_str())
        };
        rule(list, cel, breaks, "write another targetLabel")
    };
    // A relabeling of the target cannot drop a label of its samples. What is no list of names has a message of its own.
    let by_name = raw(LABELS_BY_NAME.as_str());
    let drops = rule(
        "metricRelabelings",
        format!(
            "step.action.lowerAscii() == 'labeldrop' && has(step.regex) && step.regex.matches({by_name}) && \
             [{names}].exists(name, name.matches('^(?:' + step.regex + ')$'))"
        ),
        |step| {
            let is_dropped =
                |regex: &str| LABELS_BY_NAME.is_match(regex) && MEMBER.iter().any(|name| is_named(name, regex));
            action(step) == "labeldrop" && text(step, "regex").is_some_and(is_dropped)
        },
        "keep them out of the regex of a labeldrop",
    );
    vec![writes("relabelings"), writes("metricRelabelings"), drops]
}

/// Where relabeling steps stand.
const RELABELINGS: [&str; 2] = ["spec.monitor.relabelings[]", "spec.monitor.metricRelabelings[]"];

/// Actions that compare `targetLabel` and do not write it.
const COMPARING: [&str; 2] = ["keepequal", "dropequal"];

/// What is wrong with a relabeling step, if it reaches labels that are not the target's own: the field, and the sentence.
pub fn relabeling_problem(step: &Value) -> Option<(&'static str, &'static str)> {
    let rules = all().iter().filter(|rule| rule.paths.contains(&RELABELINGS[0]));
    let broken = rules.filter(|rule| !rule.accepts(step)).map(|rule| (rule.field.as_str(), rule.message.as_str()));
    broken.into_iter().next()
}

/// The action of a step in small letters, as Prometheus reads it.
fn action(step: &Value) -> String {
    text(step, "action").unwrap_or("replace").to_ascii_lowercase()
}

/// Whether `regex`, which [`LABELS_BY_NAME`] takes, matches the label `name`.
fn is_named(name: &str, regex: &str) -> bool {
    regex.trim_matches(['(', ')']).split('|').any(|one| match (one.strip_suffix(".*"), one.strip_suffix(".+")) {
        (Some(beginning), _) => name.starts_with(beginning),
        (_, Some(beginning)) => name.starts_with(beginning) && name != beginning,
        _ => name == one,
    })
}

/// A list of texts for CEL.
pub(super) fn quoted(texts: &[&str]) -> String {
    texts.iter().map(|text| format!("'{text}'")).collect::<Vec<_>>().join(", ")
}

fn span(value: &Value, field: &str) -> Option<PromDuration> {
    value.get(field)?.as_str()?.parse().ok()
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}

/// CEL: another rule reports a duration that cannot be parsed, so this one must not report it as well.
fn readable(field: &str) -> String {
    format!("({field} != '' && {field}.matches({}))", raw(time::DURATION_PATTERN))
}
