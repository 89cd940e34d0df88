//! One row of the table: what both programs are asked. It is written once, in the words of the blackbox exporter.

use std::net::Ipv6Addr;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// Enough for whatever is to succeed, also on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);

/// For what is to end by its deadline: everything before the silence must fit in, and nothing else waits for it.
pub const SHORT: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub prober: &'static str,
    /// As the blackbox exporter is asked: a URL, or a host with or without a port.
    pub target: String,
    /// The options of the prober.
    pub options: Map<String, Value>,
    timeout: Duration,
    /// What both say about success, and the reason that only we tell.
    pub verdict: Result<(), &'static str>,
    /// Whether theirs succeeds; as ours, unless that is a wanted difference.
    pub theirs_succeeds: bool,
    /// The wanted differences that must occur here, beside those that occur everywhere.
    pub differs: Vec<&'static str>,
}

impl Row {
    /// `options` is the inside of a flow mapping of YAML.
    pub fn new(name: &str, prober: &'static str, target: &(impl ToString + ?Sized), options: &str) -> Self {
        let mut parsed: Map<String, Value> =
            serde_saphyr::from_str(&format!("{{ {options} }}")).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Theirs is ip6, ours is ip4.
        parsed.entry("preferred_ip_protocol").or_insert_with(|| "ip4".into());
        let (name, target, differs) = (name.to_owned(), target.to_string(), Vec::new());
        Self {
            name,
            prober,
            target,
            options: parsed,
            timeout: PATIENT,
            verdict: Ok(()),
            theirs_succeeds: true,
            differs,
        }
    }

    /// Both say that it failed, and we say why: one reason, or one `or` another where that is a race.
    pub fn fails(mut self, reason: &'static str) -> Self {
        self.verdict = Err(reason);
        self.theirs_succeeds = false;
        self
    }

    pub fn theirs_succeeds(mut self) -> Self {
        self.theirs_succeeds = true;
        self
    }

    /// Both wait in vain.
    pub fn times_out(mut self) -> Self {
        self.timeout = SHORT;
        self.fails("timeout")
    }

    pub fn differs(mut self, difference: &'static str) -> Self {
        self.differs.push(difference);
        self
    }

    /// Those that wait go first.
    pub fn waits(&self) -> bool {
        self.timeout == SHORT
    }

    /// The module of the blackbox exporter.
    pub fn module(&self) -> Value {
        json!({ "prober": self.prober, "timeout": format!("{}s", self.timeout.as_secs()), self.prober: self.options })
    }

    /// Our type of target.
    pub fn kind(&self) -> String {
        self.prober[..1].to_uppercase() + &self.prober[1..]
    }

    fn flag(&self, name: &str) -> bool {
        self.options.get(name).is_some_and(|value| value == true)
    }

    fn text(&self, name: &str) -> &str {
        self.options.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn url(&self) -> String {
        let Self { target, .. } = self;
        match self.prober {
            "tcp" if self.flag("tls") => format!("tls://{target}"),
            "dns" => {
                let class = self.options.get("query_class").and_then(Value::as_str);
                let class = class.map(|class| format!("&class={class}")).unwrap_or_default();
                let kind = self.options.get("query_type").and_then(Value::as_str).unwrap_or("ANY");
                format!("dns://{target}/{}?type={kind}{class}", self.text("query_name"))
            }
            "icmp" if target.parse::<Ipv6Addr>().is_ok() => format!("icmp://[{target}]"),
            "grpc" if self.flag("tls") => format!("grpcs://{target}"),
            "tcp" | "icmp" | "grpc" => format!("{}://{target}", self.prober),
            _ => target.clone(),
        }
    }

    /// Our manifest that asks the same, with the Secret of its credentials. Files are in the ConfigMap and the Secret `files`.
    pub fn manifest(&self) -> Vec<Value> {
        let mut spec = json!({
            "type": self.kind(), "url": self.url(), "interval": "1h", "timeout": format!("{}s", self.timeout.as_secs()), "maxAge": "0s",
        });
        let mut block = Map::new();
        let mut secret = Map::new();
        let mut refer = |key: &str, value: &Value| {
            secret.insert(key.to_owned(), value.clone());
            json!({ "name": self.name, "key": key })
        };
        for (name, value) in &self.options {
            match name.as_str() {
                // A part of the URL.
                "query_name" | "query_type" | "query_class" | "tls" => {}
                "preferred_ip_protocol" | "ip_protocol_fallback" | "source_ip_address" | "proxy_url" => {
                    spec[camel(name)] = value.clone();
                }
                "headers" => {
                    let headers = value.as_object().unwrap().iter();
                    spec["headers"] = headers.map(|(name, value)| json!({ "name": name, "value": value })).collect();
                }
                "basic_auth" => {
                    spec["basicAuth"] = json!({
                        "username": refer("username", &value["username"]), "password": refer("password", &value["password"]),
                    });
                }
                "bearer_token" => spec["authorization"] = json!({ "credentials": refer("token", value) }),
                "tls_config" => spec["tlsConfig"] = tls_config(value.as_object().unwrap()),
                _ => {
                    block.insert(camel(name), camel_keys(value));
                }
            }
        }
        if !block.is_empty() {
            spec[self.prober] = block.into();
        }
        let metadata = json!({ "name": self.name, "namespace": NAMESPACE });
        let mut documents = vec![
            json!({ "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": metadata, "spec": spec }),
        ];
        if !secret.is_empty() {
            documents.push(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": secret }));
        }
        documents
    }
}

/// Where our targets are declared.
pub const NAMESPACE: &str = "peer";

fn tls_config(theirs: &Map<String, Value>) -> Value {
    let file = |kind: &str, name: &Value| json!({ kind: { "name": "files", "key": name } });
    let ours = theirs.iter().map(|(name, value)| match name.as_str() {
        "ca_file" => ("ca".to_owned(), file("configMap", value)),
        "cert_file" => ("cert".to_owned(), file("secret", value)),
        "key_file" => ("keySecret".to_owned(), json!({ "name": "files", "key": value })),
        _ => (camel(name), value.clone()),
    });
    ours.collect::<Map<_, _>>().into()
}

/// `valid_status_codes` as `validStatusCodes`.
fn camel(snake: &str) -> String {
    if snake == "dns_over_tls" {
        return "dnsOverTLS".to_owned();
    }
    let mut words = snake.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

fn camel_keys(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (camel(name), camel_keys(value))).collect(),
        Value::Array(items) => items.iter().map(camel_keys).collect(),
        _ => value.clone(),
    }
}
