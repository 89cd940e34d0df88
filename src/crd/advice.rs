//! Advice in error messages: the shape of a field that has a value of another type, the name of a field that other tools call differently,
//! the word that was probably meant.

use std::time::Duration;

use serde_json::{Number, Value};
use strsim::osa_distance;

use super::rules;
use super::schema::{JsonType, SchemaNode, join};
use crate::kind::Type;
use crate::time::PromDuration;

/// The end of the message that `found` has the wrong type for `node`.
pub(super) fn for_type(node: &SchemaNode, path: &str, found: &Value) -> String {
    if let Some(hint) = hint_of_kind(path) {
        return format!(", {hint}");
    }
    match (node.kind, found) {
        (JsonType::Text, Value::Number(number)) if rules::is_duration(path) => {
            seconds(number).map_or_else(|| ", write for instance 15s".to_owned(), |span| format!(", write {span}"))
        }
        (JsonType::Text, Value::Number(_)) if path.ends_with("members.service.port") => {
            ", write the name of the port: its number is in url".to_owned()
        }
        (JsonType::Text, _) if !node.allowed.is_empty() => {
            let words: Vec<&str> = node.allowed.iter().filter_map(Value::as_str).collect();
            format!(", write one of {}", words.join(", "))
        }
        (JsonType::Text, Value::Number(_) | Value::Bool(_)) => ", put it in quotes".to_owned(),
        (JsonType::Integer, Value::String(text)) if text.parse::<i64>().is_ok() => {
            ", write it without quotes".to_owned()
        }
        (JsonType::Integer, _) => ", write a whole number".to_owned(),
        (JsonType::Boolean, Value::String(text)) if matches!(text.as_str(), "true" | "false") => {
            ", write it without quotes".to_owned()
        }
        (JsonType::Boolean, _) => ", write true or false".to_owned(),
        // A map instead of a list whose items have names: its first name shows what is meant, its value may be a secret.
        (JsonType::Array, Value::Object(fields)) if node.items.as_deref().is_some_and(is_named) => {
            let name = fields.keys().next().map_or("NAME", String::as_str);
            let name: String = name.chars().take(64).collect();
            format!(", write a list: [{{name: {name}, value: VALUE}}]")
        }
        (JsonType::Text, Value::Object(_) | Value::Array(_)) => {
            ", write a text, in quotes if it looks like YAML".to_owned()
        }
        (JsonType::Array, _) => format!(", write a list: {}", shape(node, "")),
        (JsonType::Object, _) if is_secret_key(node) => {
            let kind = if path.ends_with("configMap") { "ConfigMap" } else { "Secret" };
            format!(", write {}: the value is read from a {kind} in the target's namespace", shape(node, ""))
        }
        (JsonType::Object, _) => format!(", write {}", shape(node, "")),
        _ => String::new(),
    }
}

/// What a kind says of a value of the wrong type at this place of its block, or in a list there.
fn hint_of_kind(path: &str) -> Option<&'static str> {
    let is_at = |place: &str| path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
    let mut hints = Type::ALL.iter().flat_map(|kind| kind.type_hints());
    hints.find(|(place, _)| is_at(place)).map(|(_, hint)| *hint)
}

/// A number instead of a duration is taken for seconds, as in other tools.
fn seconds(number: &Number) -> Option<PromDuration> {
    let span = Duration::try_from_secs_f64(number.as_f64()?).ok()?;
    // Whole milliseconds, and no more digits than a duration can have.
    let millis = u64::try_from(span.as_millis()).ok().filter(|millis| *millis < 3_600_000_000)?;
    let rounded = Duration::from_millis(millis);
    (rounded == span || number.is_f64()).then(|| rounded.into())
}

/// What can be written for `node`, the field `name`. Words in capitals stand for the user's values.
fn shape(node: &SchemaNode, name: &str) -> String {
    let has = |field: &str| node.properties.contains_key(field);
    let fields = |names: &[&str]| {
        let fields =
            names.iter().filter_map(|name| Some(format!("{name}: {}", shape(node.properties.get(*name)?, name))));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
    };
    match node.kind {
        JsonType::Array => format!("[{}]", node.items.as_deref().map_or_else(String::new, |item| shape(item, name))),
        JsonType::Object if node.additional.as_ref().is_some_and(|value| value.kind == JsonType::Array) => {
            "{NAME: [VALUE]}".to_owned()
        }
        JsonType::Object if node.additional.is_some() => "{NAME: VALUE}".to_owned(),
        JsonType::Object if has("secret") && has("configMap") => {
            format!("{} or {}", fields(&["secret"]), fields(&["configMap"]))
        }
        JsonType::Object if has("service") && has("dns") => format!("{} or {}", fields(&["service"]), fields(&["dns"])),
        JsonType::Object if is_service(node) => fields(&["name"]),
        JsonType::Object if node.properties.is_empty() => "{}".to_owned(),
        JsonType::Object if is_named(node) => fields(&["name", "value"]),
        JsonType::Object if is_secret_key(node) => fields(&["name", "key"]),
        JsonType::Object if !node.required.is_empty() => {
            fields(&node.required.iter().map(String::as_str).collect::<Vec<_>>())
        }
        JsonType::Object => {
            let names: Vec<&str> = node.properties.keys().map(String::as_str).collect();
            format!("a block with any of {}", names.join(", "))
        }
        JsonType::Boolean => "true".to_owned(),
        _ => match node.allowed.first().and_then(Value::as_str) {
            Some(word) => word.to_owned(),
            None if name.is_empty() => "…".to_owned(),
            None => name.to_uppercase(),
        },
    }
}

/// Whether it refers to a key of a Secret or ConfigMap.
fn is_secret_key(node: &SchemaNode) -> bool {
    ["name", "key"].iter().all(|field| node.required.iter().any(|required| required == field))
}

/// Whether it has a name and a value, as a header has.
fn is_named(node: &SchemaNode) -> bool {
    ["name", "value"].iter().all(|field| node.properties.contains_key(*field))
}

/// Whether it refers to a Service.
fn is_service(node: &SchemaNode) -> bool {
    node.properties.keys().eq(["name", "port"])
}

/// Names in other tools, without case and punctuation, and the fields here that mean the same.
const ELSEWHERE: &[(&[&str], &[&str])] = &[
    (&["bearertoken", "bearertokenfile", "bearertokensecret", "bearer", "token", "tokenfile"], &["authorization"]),
    (&["credentialsfile", "credentialssecret"], &["credentials"]),
    (&["passwordfile", "passwordref", "passwordsecret"], &["password"]),
    (&["usernamefile", "usernameref", "user"], &["username"]),
    (&["auth", "basic", "login"], &["basicAuth"]),
    (&["oauth", "clientcredentials", "oidc"], &["oauth2"]),
    (&["clientsecretfile", "clientsecretref"], &["clientSecret"]),
    (&["tokenendpoint", "tokenuri"], &["tokenUrl"]),
    (&["tls", "ssl", "tlsclientconfig"], &["tlsConfig"]),
    (&["cafile", "cacert", "cabundle", "rootca"], &["ca"]),
    (&["certfile", "clientcert", "certificate"], &["cert"]),
    (&["keyfile", "clientkey", "privatekey", "key"], &["keySecret"]),
    (&["insecure", "skipverify", "insecuretls"], &["insecureSkipVerify"]),
    (&["secretname", "secretref", "secret"], &["secretKeyRef", "secret", "name"]),
    (&["configmapname", "configmapref"], &["configMap", "name"]),
    (&["secretkey", "configmapkey"], &["key"]),
    (&["address", "host", "hostname", "target", "targets", "endpoint", "server", "scheme", "port", "path"], &["url"]),
    (&["kind", "module"], &["type"]),
    (&["period", "scrapeinterval", "pollinterval"], &["interval"]),
    (&["proxy", "httpproxy"], &["proxyUrl"]),
    (&["proxyconnectheader", "proxyauthorization", "proxybasicauth", "proxycredentials"], &["proxyAuth"]),
    (&["proxytls", "proxyssl"], &["proxyTlsConfig"]),
    (&["enabled", "disabled", "paused"], &["suspend"]),
    (&["httpheaders", "customheaders"], &["headers"]),
    (&["limit", "serieslimit", "maxseries"], &["sampleLimit"]),
    (&["include", "includes", "allow"], &["keep"]),
    (&["exclude", "excludes", "deny"], &["drop"]),
    (&["pods", "replicas", "instances", "processes", "backends"], &["members"]),
    (&["services", "servicename", "serviceref", "endpoints", "endpointslice", "endpointslices"], &["service"]),
    (&["hosts", "dnsname", "addresses", "srv"], &["dns"]),
    (&["portname", "targetport", "containerport"], &["port"]),
    (&["maxmembers", "maxpods"], &["limit"]),
];

/// The most fields that are listed where none is similar to the one that was written.
const LISTED: usize = 12;

/// A name without case and punctuation.
fn plain(name: &str) -> String {
    name.chars().take(64).filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

/// Whether both mean the same field: `body_file` and `bodyFile`.
pub(super) fn is_same_name(one: &str, other: &str) -> bool {
    plain(one) == plain(other)
}

/// The end of the message that `node` has no field `name`.
pub(super) fn for_unknown_field(node: &SchemaNode, name: &str) -> String {
    let fields = || node.properties.keys().map(String::as_str);
    let has = |field: &str| node.properties.contains_key(field);
    // This is the shape of keySecret, which is always a Secret.
    if ["name", "key"].contains(&name) && has("secret") && has("configMap") {
        return format!(", write {}", shape(node, ""));
    }
    if node.kind == JsonType::Object && node.properties.is_empty() {
        return ", remove it: write {}".to_owned();
    }
    if let Some(advice) = where_secrets_belong(node, name).or_else(|| how_pods_are_selected(node, name)) {
        return advice;
    }
    if has("tokenUrl") && of_a_proxy(name) {
        return ", remove it: of the proxy to the token endpoint, there is only proxyUrl".to_owned();
    }
    if let Some(near) = nearest(name, fields()) {
        return format!(", did you mean {near:?}?");
    }
    let plain = plain(name);
    let ours = ELSEWHERE.iter().filter(|(theirs, _)| theirs.contains(&plain.as_str())).flat_map(|(_, ours)| *ours);
    let mut found = None;
    for ours in ours {
        if let Some(here) = node.properties.get(*ours) {
            found = Some(((*ours).to_owned(), here));
            break;
        }
    }
    if let Some(near) = longer(name, fields()).filter(|_| found.is_none()) {
        return format!(", did you mean {near:?}?");
    }
    // Elsewhere only by names with a single meaning: `secret` could belong to several fields.
    let elsewhere = || {
        let ours = ELSEWHERE.iter().find(|(theirs, ours)| ours.len() == 1 && theirs.contains(&plain.as_str()));
        let ours = ours.and_then(|(_, ours)| ours.first()).copied().unwrap_or(name);
        find(SchemaNode::of_target(), "", ours)
    };
    if let Some((path, field)) = found.or_else(elsewhere) {
        return match field.kind {
            JsonType::Object | JsonType::Array => format!(", write {path}: {}", shape(field, "")),
            _ => format!(", did you mean {path:?}?"),
        };
    }
    let count = fields().count();
    if (1..=LISTED).contains(&count) {
        return format!(", remove it: the fields here are {}", fields().collect::<Vec<_>>().join(", "));
    }
    ", remove it".to_owned()
}

/// Whether it says more of a proxy than its url, here or elsewhere.
fn of_a_proxy(name: &str) -> bool {
    const NAMES: [&str; 5] = ["noproxy", "proxyauth", "proxyconnectheader", "proxyfromenvironment", "proxytlsconfig"];
    NAMES.contains(&plain(name).as_str())
}

/// The end of the message where a whole Secret or `ConfigMap` is named: here its keys are referred to one by one.
fn where_secrets_belong(node: &SchemaNode, name: &str) -> Option<String> {
    const WHOLE: [&str; 5] = ["secretname", "secretref", "secret", "configmapname", "configmapref"];
    let plain = plain(name);
    let is_source = |node: &SchemaNode| {
        is_secret_key(node) || ["secret", "configMap"].iter().all(|field| node.properties.contains_key(*field))
    };
    if !WHOLE.contains(&plain.as_str()) || is_source(node) || is_named(node) {
        return None;
    }
    let places = node.properties.iter().filter(|(_, field)| is_source(field));
    let places: Vec<String> = places.map(|(field, node)| format!("{field}: {}", shape(node, ""))).collect();
    if !places.is_empty() {
        return Some(format!(", write the keys that are used: {}", places.join("; ")));
    }
    let is_spec = node.properties.contains_key("basicAuth");
    is_spec.then(|| {
        ", refer to it where its values are used: basicAuth, authorization, oauth2, headers or tlsConfig".to_owned()
    })
}

/// The end of the message where pods are selected by their labels, or a Service by its namespace.
fn how_pods_are_selected(node: &SchemaNode, name: &str) -> Option<String> {
    const SELECTORS: [&str; 5] = ["podselector", "selector", "labelselector", "matchlabels", "matchexpressions"];
    let plain = plain(name);
    if is_service(node) && plain.starts_with("namespace") {
        return Some(", remove it: the Service must be in the namespace of the target".to_owned());
    }
    if !SELECTORS.contains(&plain.as_str()) {
        return None;
    }
    let members = node.properties.get("members");
    let service = shape(members.unwrap_or(node).properties.get("service")?, "");
    let block =
        if members.is_some() { format!("members: {{service: {service}}}") } else { format!("service: {service}") };
    Some(format!(", write {block}, and let a Service select the pods: it may be headless"))
}

/// The one of `words` that contains this one, if there is only one.
fn longer<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Shorter ones are in too many.
    const SHORTEST: usize = 6;
    let written = plain(word);
    let mut longer = words.filter(|candidate| written.len() >= SHORTEST && plain(candidate).contains(&written));
    longer.next().filter(|_| longer.next().is_none())
}

/// Fields of many blocks, which belong to none in particular.
const COMMON: [&str; 3] = ["name", "key", "value"];

/// Blocks with the fields of another block, which is meant more often: `tlsConfig`.
const SECONDARY: [&str; 1] = ["proxyTlsConfig"];

/// Where below this node a field called `name` belongs, however it is spelt. Of several, the one that is in the fewest blocks.
fn find<'n>(node: &'n SchemaNode, path: &str, name: &str) -> Option<(String, &'n SchemaNode)> {
    if COMMON.contains(&name) {
        return None;
    }
    let mut level = vec![(path.to_owned(), node)];
    while !level.is_empty() {
        for (path, node) in level.iter().filter(|(path, _)| !path.is_empty()) {
            if let Some((name, field)) = node.properties.iter().find(|(field, _)| is_same_name(field, name)) {
                return Some((join(path, name), field));
            }
        }
        // The block of one probe says nothing to a target of another type, and each has fields with common names.
        let is_of_probe = |field: &str| Type::ALL.iter().any(|kind| kind.is_probed() && kind.block() == field);
        let below = level.iter().flat_map(|(path, node)| node.properties.iter().map(move |field| (path, field)));
        let is_passed_over = |field: &str| field == "status" || is_of_probe(field) || SECONDARY.contains(&field);
        let below = below.filter(|(_, (field, _))| !is_passed_over(field));
        level = below.map(|(path, (field, node))| (join(path, field), node)).collect();
    }
    None
}

/// The one of `words` that was probably meant by `word`, for `did you mean`: the closest one, if it is close enough.
pub(crate) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer than any word here: the comparison takes time.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let written = word.to_lowercase();
    // One typing error in three letters; case does not count.
    let most = (written.chars().count() / 3).clamp(1, 3);
    let near = words.map(|candidate| (osa_distance(&written, &candidate.to_lowercase()), candidate));
    near.filter(|(slips, _)| *slips <= most).min_by_key(|(slips, _)| *slips).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;
    use crate::crd::judge;
    use crate::yaml::{self, Dialect};
    use serde_json::json;

    /// The one sentence about a target of type Orion with these fields besides.
    fn sentence(more: &str) -> String {
        let more = yaml::read(more, 1, Dialect::Kubernetes).unwrap().to_value();
        let mut manifest = json!({
            "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": {"name": "a"},
            "spec": {"type": "Orion", "url": "http://a/"},
        });
        let fields = manifest["spec"].as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let problems = judge(&manifest).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_with_the_shape_of_the_right_one() {
        let mut wrong = Vec::new();
        let secret = "{name: NAME, key: KEY}: the value is read from a Secret in the target's namespace";
        for (more, wanted) in [
            ("interval: 15", ", write 15s"),
            ("interval: 90", ", write 1m30s"),
            ("timeout: 0.5", ", write 500ms"),
            ("timeout: -1", ", write for instance 15s"),
            ("monitor: {interval: 30}", ", write 30s"),
            ("labels: {shard: 1}", ", put it in quotes"),
            ("basicAuth: {username: monitoring}", secret),
            ("authorization: {credentials: t0ken}", secret),
            ("tlsConfig: {cert: {secret: {name: a, key: b}}, keySecret: [a]}", secret),
            (
                "tlsConfig: {ca: company-ca}",
                ", write {secret: {name: NAME, key: KEY}} or {configMap: {name: NAME, key: KEY}}",
            ),
            ("tlsConfig: {ca: {configMap: company-ca}}", "{name: NAME, key: KEY}: the value is read from a ConfigMap"),
            ("basicAuth: monitoring", ", write {username: {name: NAME, key: KEY}}"),
            ("headers: {x-api-key: hunter2}", ", write a list: [{name: x-api-key, value: VALUE}]"),
            ("headers: ['x-api-key: hunter2']", ", write {name: NAME, value: VALUE}"),
            ("headers: x", ", write a list: [{name: NAME, value: VALUE}]"),
            ("members: true", ", write {service: {name: NAME}} or {dns: {}}"),
            ("members: [orion]", ", write {service: {name: NAME}} or {dns: {}}"),
            ("members: {service: orion}", ", write {name: NAME}"),
            ("members: {service: {name: orion, port: 1026}}", ", write the name of the port: its number is in url"),
            ("members: {dns: true}", "\"boolean\", write {}"),
            ("members: {dns: orion}", "\"string\", write {}"),
            ("members: {dns: {}, limit: '5'}", ", write it without quotes"),
            ("labels: [a]", ", write {NAME: VALUE}"),
            ("metrics: {keep: sora_.*}", ", write a list: […]"),
            ("metrics: all", ", write a block with any of drop, keep"),
            ("sampleLimit: '5'", ", write it without quotes"),
        ] {
            let told = sentence(more);
            let shows_values = told.contains("hunter2") || told.contains("t0ken");
            if !told.contains(wanted) || told.contains('\n') || shows_values {
                wrong.push(format!("{more}: {told}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    #[test]
    fn a_field_that_other_tools_have_leads_to_the_one_that_exists() {
        let mut wrong = Vec::new();
        let secret = "{name: NAME, key: KEY}";
        for (more, wanted) in [
            ("orion: {levle: Total}", "did you mean \"level\"?".to_owned()),
            ("intervall: 5s", "did you mean \"interval\"?".to_owned()),
            ("tls_config: {}", "did you mean \"tlsConfig\"?".to_owned()),
            ("no_proxy: a", "did you mean \"noProxy\"?".to_owned()),
            ("proxyConnectHeader: {}", format!("write proxyAuth: {{username: {secret}}}")),
            (
                "oauth2: {clientId: {configMap: {name: a, key: b}}, clientSecret: {name: a, key: b}, tokenUrl: 'https://a/', noProxy: a}",
                "remove it: of the proxy to the token endpoint, there is only proxyUrl".to_owned(),
            ),
            ("bearerToken: x", format!("write authorization: {{credentials: {secret}}}")),
            ("bearer_token_file: /x", format!("write authorization: {{credentials: {secret}}}")),
            ("caFile: /x", format!("write spec.tlsConfig.ca: {{secret: {secret}}} or {{configMap: {secret}}}")),
            ("tlsConfig: {caFile: /x}", format!("write ca: {{secret: {secret}}} or {{configMap: {secret}}}")),
            ("tlsConfig: {ca: {secretName: x}}", format!("write secret: {secret}")),
            ("tlsConfig: {keyFile: x}", format!("write keySecret: {secret}")),
            ("authorization: {credentials: {name: a, key: b, secretName: x}}", "did you mean \"name\"?".to_owned()),
            ("headers: [{name: a, secret: x}]", format!("write secretKeyRef: {secret}")),
            ("passwordFile: /x", format!("write spec.basicAuth.password: {secret}")),
            ("username: x", format!("write spec.basicAuth.username: {secret}")),
            ("scrapeTimeout: 5s", "did you mean \"spec.monitor.scrapeTimeout\"?".to_owned()),
            ("host: a", "did you mean \"url\"?".to_owned()),
            ("enabled: false", "did you mean \"suspend\"?".to_owned()),
            ("metrics: {relabel: []}", "remove it: the fields here are drop, keep".to_owned()),
            ("secretName: x", ", refer to it where its values are used: basicAuth".to_owned()),
            ("basicAuth: {username: {name: a, key: b}, secretName: x}", format!("username: {secret}")),
            ("tlsConfig: {secretName: x}", format!("keySecret: {secret}")),
            ("tlsConfig: {ca: {name: company-ca}}", format!("write {{secret: {secret}}} or {{configMap: {secret}}}")),
            ("tlsConfig: {ca: {key: ca.crt}}", format!("write {{secret: {secret}}} or {{configMap: {secret}}}")),
            ("className: x", "reserved for a later version".to_owned()),
            ("member: {service: {}}", "did you mean \"members\"?".to_owned()),
            ("service: {name: orion}", "write spec.members.service: {name: NAME}".to_owned()),
            ("serviceName: orion", "write spec.members.service: {name: NAME}".to_owned()),
            ("endpoints: [orion]", "write spec.members.service: {name: NAME}".to_owned()),
            ("replicas: 3", "write members: {service: {name: NAME}} or {dns: {}}".to_owned()),
            (
                "podSelector: {app: orion}",
                "write members: {service: {name: NAME}}, and let a Service select".to_owned(),
            ),
            ("selector: {app: orion}", "write members: {service: {name: NAME}}, and let a Service select".to_owned()),
            (
                "members: {podSelector: {app: orion}}",
                "write service: {name: NAME}, and let a Service select".to_owned(),
            ),
            ("members: {selector: {}}", "write service: {name: NAME}, and let a Service select".to_owned()),
            ("members: {serviceName: orion}", "write service: {name: NAME}".to_owned()),
            ("members: {service: {namespace: x}}", "the Service must be in the namespace of the target".to_owned()),
            ("members: {service: {portName: http}}", "did you mean \"port\"?".to_owned()),
            ("members: {service: {selector: {}}}", "remove it: the fields here are name, port".to_owned()),
            ("members: {dns: {name: orion}}", "remove it: write {}".to_owned()),
            ("members: {dns: {}, maxPods: 3}", "did you mean \"limit\"?".to_owned()),
            ("port: 3000", "did you mean \"url\"?".to_owned()),
            ("limit: 3000", "did you mean \"sampleLimit\"?".to_owned()),
            ("metrics: {include: [a]}", "write keep: […]".to_owned()),
        ] {
            let told = sentence(more);
            if !told.contains("unknown field") || !told.contains(&wanted) || told.contains('\n') {
                wrong.push(format!("{more}: {told}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    #[test]
    fn a_bad_regular_expression_is_told_with_what_is_wrong_and_where() {
        for (more, wanted) in [
            ("metrics: {keep: ['a(b']}", "unclosed group at character 2"),
            ("metrics: {drop: ['(?=x)']}", "is not supported at character 1"),
            ("metrics: {keep: ['foo)']}", "unopened group at character 4"),
            ("monitor: {relabelings: [{regex: 'x('}]}", "unclosed group at character 2"),
        ] {
            let told = sentence(more);
            assert!(
                told.contains("is not a regular expression that RE2 accepts") && told.contains(wanted),
                "{more}: {told}"
            );
        }
    }

    #[test]
    fn a_slip_in_a_target_that_is_probed_is_told_with_what_to_write() {
        let mut wrong = Vec::new();
        let codes = "[200, 204, 404]; without this field, 200 to 299 are good";
        for (spec, wanted) in [
            ("type: Http, url: http://a/, http: {method: get}", "or POST: write GET"),
            ("type: Http, url: http://a/, http: {validStatusCodes: [2xx]}", codes),
            ("type: Http, url: http://a/, http: {validStatusCodes: ['200']}", codes),
            ("type: Http, url: http://a/, http: {validStatusCodes: 200}", codes),
            ("type: Http, url: http://a/, http: {statusCodes: [200]}", "did you mean \"validStatusCodes\"?"),
            ("type: Http, url: http://a/, http: {bodySizeLimit: 1024}", "write a text, for instance 512KB or 10MB"),
            ("type: Http, url: http://a/, http: {validHttpVersions: [2]}", "write one of HTTP/1.0, HTTP/1.1,"),
            ("type: Http, url: http://a/, http: {followRedirects: 'no'}", "write true or false"),
            ("type: Http, url: http://a/, http: {no_follow_redirects: true}", "write followRedirects: false instead"),
            ("type: Http, url: http://a/, http: {bodyFile: /x}", "write the text itself into body, or"),
            ("type: Http, url: http://a/, http: {body: {a: 1}}", "write a text, in quotes if it looks like YAML"),
            (
                "type: Http, url: http://a/, http: {fail_if_body_json_matches_cel: x}",
                "CEL expressions are not supported",
            ),
            ("type: Http, url: http://a/, http: {basic_auth: {}}", "write spec.basicAuth: {username: "),
            (
                "type: Http, url: http://a/, http: {preferred_ip_protocol: ip4}",
                "did you mean \"spec.preferredIpProtocol\"?",
            ),
            ("type: Http, url: http://a/, http: {proxy_url: http://p}", "did you mean \"spec.proxyUrl\"?"),
            ("type: Http, url: http://me:hunter2@a/", "write basicAuth instead of the user"),
            ("type: Http, url: 'tcp://a:80'", "it is the url of a target of type Tcp"),
            ("type: Tcp, url: 'tls://a:22/'", "remove the / at its end"),
            ("type: Tcp, url: tls://a", "add the port"),
            ("type: Tcp, url: 'tcp://a:smtp'", "write the number of the port"),
            ("type: Tcp, url: 'tcp://a:22', tcp: {tls: true}", "write tls:// instead of tcp:// in url"),
            ("type: Tcp, url: 'tcp://a:22', tcp: {queryResponse: [{starttls: 'yes'}]}", "write true or false"),
            ("type: Dns, url: 'dns://a/b?type=soa'", "or TYPE with a number: write SOA"),
            ("type: Dns, url: 'dns://a/b?type=A&class=ch'", "NONE or ANY: write CH"),
            ("type: Dns, url: dns://a/b, dns: {queryType: aaaa}", "or TYPE with a number: write AAAA"),
            ("type: Dns, url: dns://a/b, dns: {queryType: 1}", "write its name in capital letters, for instance A"),
            ("type: Dns, url: dns://a/b, dns: {queryClass: in}", "NONE or ANY: write IN"),
            ("type: Dns, url: dns://a/b/", "remove the / at its end"),
            ("type: Dns, url: dns://a/b, dns: {recursion: true}", "did you mean \"recursionDesired\"?"),
            ("type: Icmp, url: icmp://a, icmp: {packetInterval: 5}", "write 5s"),
            ("type: Icmp, url: icmp://a, icmp: {count: 0}", "should be greater than or equal to 1"),
            ("type: Icmp, url: icmp://a, icmp: {payloadSize: 1KB}", "write a whole number"),
            ("type: Icmp, url: 'icmp://a:80'", "remove the port"),
            ("type: Grpc, url: grpc://a, grpc: {tls: true}", "write grpcs:// instead of grpc:// in url"),
            ("type: Grpc, url: grpc://a, grpc: {metadata: [a]}", "write {NAME: [VALUE]}"),
            ("type: WebSocket, url: 'ws://a/', websocket: {tls: true}", "write wss:// instead of ws:// in url"),
            ("type: WebSocket, url: 'ws://a/', websocket: {validStatusCodes: 401}", "for instance [101] or [401]"),
            ("type: WebSocket, url: 'ws://a/', websocket: {subprotocols: protoo}", "for instance [protoo]"),
            ("type: WebSocket, url: 'ws://a/', websocket: {ping: 'yes'}", "write true or false"),
            (
                "type: WebSocket, url: 'http://a/'",
                "it is the url of a target of type Sora, Orion, Mediasoup, Http or Prometheus",
            ),
        ] {
            let spec = yaml::read(&format!("{{{spec}}}"), 1, Dialect::Kubernetes).unwrap().to_value();
            let manifest = json!({
                "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": {"name": "a"}, "spec": spec,
            });
            let problems = judge(&manifest).err().unwrap_or_default();
            let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            if !told.contains(wanted) || told.contains('\n') || told.contains("hunter2") {
                wrong.push(format!("{spec}: {told}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    #[test]
    fn a_slip_is_forgiven_and_another_word_is_not() {
        let words = || ["interval", "timeout", "maxAge", "url"].into_iter();
        assert_eq!(nearest("intervall", words()), Some("interval"));
        assert_eq!(nearest("maxage", words()), Some("maxAge"));
        assert_eq!(nearest("uri", words()), Some("url"));
        assert_eq!(nearest("ulr", words()), Some("url"), "two letters that changed places are one slip");
        assert_eq!(nearest("scrapeTimeout", words()), None);
    }
}
