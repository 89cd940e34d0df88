//! The configuration of a blackbox exporter. Every field is read and judged as the exporter judges it, so that what it would refuse is
//! refused here; what is good becomes the part of a target's spec that is the same for all targets of a module.

mod client;
mod dns;
mod http;
mod stream;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::block::{Block, BlockField};
use super::name::{Names, slug};
use super::report::{Reporter, join, quoted};
use super::secret::{ModuleSecrets, OF_FILES};
use super::{FileAccess, MAX_TARGETS};
use crate::kind::re2::{PatternProblem, rewrite};
use crate::kind::{ProbeLimits, pattern_problem};
use crate::yaml::{Data, Node};

/// The module that is used where none is named.
pub(super) const DEFAULT_MODULE: &str = "http_2xx";

/// One module.
#[derive(Debug)]
pub(super) struct BlackboxModule {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) path: String,
    pub(super) prober: ModuleProber,
    pub(super) timeout: Option<Duration>,
    pub(super) settings: ModuleSettings,
}

/// What a module probes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ModuleProber {
    Http,
    Tcp {
        tls: bool,
    },
    Dns,
    Icmp,
    Grpc {
        tls: bool,
    },
    WebSocket,
    /// Targets of this prober cannot be converted, and why.
    Missing(&'static str),
}

/// What a module says about each of its targets.
#[derive(Debug, Default)]
pub(super) struct ModuleSettings {
    /// Fields of `spec`.
    pub(super) spec: Map<String, Value>,
    /// The headers of `spec`, in order.
    pub(super) headers: Vec<Value>,
    /// The header Host.
    pub(super) host: Option<String>,
    /// Whether `preferred_ip_protocol` is not written, and so is ip6.
    pub(super) ip6_by_default: bool,
    /// Whether the exporter asks an `http` target by TLS all the same.
    pub(super) forces_https: bool,
    /// Whether a step of the dialogue starts TLS.
    pub(super) starts_tls: bool,
    pub(super) secrets: ModuleSecrets,
}

/// What the readers of all fields of a module share.
struct ModuleReader<'r> {
    reporter: &'r mut Reporter,
    files: &'r dyn FileAccess,
    settings: ModuleSettings,
}

/// Reads all modules of a configuration. Faults are in the reporter.
pub(super) fn modules(
    root: &Node,
    path: &str,
    names: &mut Names,
    files: &dyn FileAccess,
    reporter: &mut Reporter,
) -> BTreeMap<String, BlackboxModule> {
    let mut modules = BTreeMap::new();
    let Some(mut block) = Block::open(root, path, reporter) else { return modules };
    let list = block.node("modules");
    let line = block.line;
    block.close(reporter);
    let Some(list) = list else {
        reporter.fault(
            line,
            path,
            "has no modules: write the configuration of a blackbox exporter, with its field modules",
        );
        return modules;
    };
    if !matches!(list.node.data, Data::Map(_)) {
        reporter.wrong_type(list.node, &list.path, "a map from names to modules");
        return modules;
    }
    if list.node.entries().len() > MAX_TARGETS {
        reporter.fault(list.line(), &list.path, format!("has more than {MAX_TARGETS} modules: split the file"));
        return modules;
    }
    for entry in list.node.entries() {
        let path = join(&list.path, &entry.key);
        // Two Secrets, of which no other module may have one.
        let secret = format!("blackbox-{}", slug(&entry.key));
        let secrets = ModuleSecrets::new(names.unique_with(&["", OF_FILES], &secret, &entry.key, SECRET_NAME));
        let settings = ModuleSettings { secrets, ..ModuleSettings::default() };
        let mut reader = ModuleReader { reporter: &mut *reporter, files, settings };
        if let Some((prober, timeout)) = reader.module(&entry.value, &path) {
            let settings = reader.settings;
            let module = BlackboxModule { name: entry.key.clone(), line: entry.line, path, prober, timeout, settings };
            modules.insert(entry.key.clone(), module);
        }
    }
    modules
}

/// The longest name of a Secret that leaves room for `-files`.
const SECRET_NAME: usize = 57;

/// The blocks of a module, each for one prober.
const PROBERS: [&str; 7] = ["http", "tcp", "unix", "dns", "icmp", "grpc", "websocket"];

impl ModuleReader<'_> {
    fn module(&mut self, node: &Node, path: &str) -> Option<(ModuleProber, Option<Duration>)> {
        let mut block = Block::open(node, path, self.reporter)?;
        let word = block.filled("prober", self.reporter);
        let timeout = block.go_duration("timeout", self.reporter);
        let chosen = word.as_ref().map(|word| word.value.as_str()).unwrap_or_default();
        let mut prober = None;
        for name in PROBERS {
            let Some(inner) = block.node(name) else {
                if name == chosen {
                    let empty = Node { line: node.line, data: Data::Null };
                    prober = Some(self.prober(name, &empty, &join(path, name)));
                }
                continue;
            };
            if name == chosen {
                prober = Some(self.prober(name, inner.node, &inner.path));
                continue;
            }
            let faults = self.reporter.faults.len();
            self.unused(|reader| _ = reader.prober(name, inner.node, &inner.path));
            if !chosen.is_empty() && self.reporter.faults.len() == faults {
                let message = format!("is not used, since prober is {chosen}: it is left out");
                self.reporter.remark(inner.line(), &inner.path, message);
            }
        }
        let line = block.line;
        block.close(self.reporter);
        let Some(prober) = prober else {
            let message = match &word {
                None => format!("is missing, write one of {}", PROBERS.join(", ")),
                Some(word) => format!("{} is no prober, write one of {}", quoted(&word.value), PROBERS.join(", ")),
            };
            let line = word.as_ref().map_or(line, BlockField::line);
            self.reporter.fault(line, &join(path, "prober"), message);
            return None;
        };
        // 0 is as if it were not written.
        Some((prober, timeout.map(|timeout| timeout.value).filter(|timeout| !timeout.is_zero())))
    }

    /// Reads what the exporter reads, refuses mistakes in, and does not use: nothing but the faults is left of it.
    fn unused(&mut self, read: impl FnOnce(&mut Self)) {
        let used = std::mem::take(&mut self.settings);
        let said = self.reporter.remarks.len();
        read(self);
        self.reporter.remarks.truncate(said);
        self.settings = used;
    }

    fn prober(&mut self, name: &str, node: &Node, path: &str) -> ModuleProber {
        let Some(block) = Block::open(node, path, self.reporter) else { return ModuleProber::Icmp };
        match name {
            "http" => {
                self.http(block);
                ModuleProber::Http
            }
            "tcp" => ModuleProber::Tcp { tls: self.tcp(block) },
            "dns" => {
                self.dns(block);
                ModuleProber::Dns
            }
            "icmp" => {
                self.icmp(block);
                ModuleProber::Icmp
            }
            "grpc" => ModuleProber::Grpc { tls: self.grpc(block) },
            "unix" => {
                self.unix(block);
                ModuleProber::Missing(
                    "the prober unix is not offered: a socket in the file system of the exporter's own container is nobody's target; \
                     give the server a TCP port and write a target of type Tcp",
                )
            }
            _ => {
                self.websocket(block);
                ModuleProber::WebSocket
            }
        }
    }

    fn icmp(&mut self, mut block: Block<'_>) {
        self.family(&mut block);
        self.source_address(&mut block);
        let mut icmp = Map::new();
        if let Some(size) = block.integer("payload_size", self.reporter).filter(|size| size.value != 0) {
            if (0..=65_507).contains(&size.value) {
                let most = ProbeLimits::default().max_echo_payload;
                if size.value > i64::from(most) {
                    let message = format!(
                        "is more than {most}, up to which the exporter sends without a flag: start it with \
                         --icmp-max-payload {} (chart: limits.icmpMaxPayload)",
                        size.value
                    );
                    self.reporter.remark(size.line(), &size.path, message);
                }
                icmp.insert("payloadSize".to_owned(), json!(size.value));
            } else {
                self.reporter.fault(size.line(), &size.path, "must be from 0 to 65507");
            }
        }
        if let Some(flag) = block.flag("dont_fragment", self.reporter).filter(|flag| flag.value) {
            icmp.insert("dontFragment".to_owned(), json!(flag.value));
        }
        if let Some(ttl) = block.integer("ttl", self.reporter).filter(|ttl| ttl.value != 0) {
            if (0..=255).contains(&ttl.value) {
                icmp.insert("ttl".to_owned(), json!(ttl.value));
            } else {
                self.reporter.fault(ttl.line(), &ttl.path, "must be from 0 to 255");
            }
        }
        self.put_block("icmp", icmp);
        block.close(self.reporter);
    }

    fn grpc(&mut self, mut block: Block<'_>) -> bool {
        self.family(&mut block);
        let mut grpc = Map::new();
        if let Some(service) = block.filled("service", self.reporter) {
            grpc.insert("service".to_owned(), json!(service.value));
        }
        let (confidential, mut metadata): (Vec<_>, Vec<_>) = block
            .list_map("metadata", self.reporter)
            .into_iter()
            .partition(|(name, _)| super::secret::is_confidential(name));
        for (name, values) in confidential {
            // Headers are sent as metadata too, and may come from Secrets; each has one value, and none of them is binary.
            if let [value] = values.value.as_slice()
                && !name.to_ascii_lowercase().ends_with("-bin")
            {
                self.header(&name, value, (values.line(), &values.path));
                continue;
            }
            let message = format!(
                "the values of {name} stay in the target in plain text, as they were: restrict who may read targets"
            );
            self.reporter.remark(values.line(), &values.path, message);
            metadata.push((name, values));
        }
        if !metadata.is_empty() {
            let metadata: Map<String, Value> =
                metadata.into_iter().map(|(name, values)| (name, json!(values.value))).collect();
            grpc.insert("metadata".to_owned(), Value::Object(metadata));
        }
        let tls = block.flag("tls", self.reporter).is_some_and(|tls| tls.value);
        self.tls_config(&mut block, tls);
        self.put_block("grpc", grpc);
        block.close(self.reporter);
        tls
    }

    #[inline(never)]
    fn put(&mut self, field: &str, value: Value) {
        self.settings.spec.insert(field.to_owned(), value);
    }

    /// Adds the block of a type, unless everything in it is a default.
    fn put_block(&mut self, name: &str, fields: Map<String, Value>) {
        if !fields.is_empty() {
            self.put(name, Value::Object(fields));
        }
    }

    /// `preferred_ip_protocol` and `ip_protocol_fallback`.
    fn family(&mut self, block: &mut Block<'_>) {
        match block.filled("preferred_ip_protocol", self.reporter) {
            None => self.settings.ip6_by_default = true,
            Some(word) if matches!(word.value.as_str(), "ip4" | "ip6") => {
                self.put("preferredIpProtocol", json!(word.value));
            }
            Some(word) => {
                let message = format!(
                    "{} is neither ip4 nor ip6: it means ip4, as in the blackbox exporter",
                    quoted(&word.value)
                );
                self.reporter.remark(word.line(), &word.path, message);
                self.put("preferredIpProtocol", json!("ip4"));
            }
        }
        if let Some(flag) = block.flag("ip_protocol_fallback", self.reporter).filter(|flag| !flag.value) {
            self.put("ipProtocolFallback", json!(flag.value));
        }
    }

    fn source_address(&mut self, block: &mut Block<'_>) {
        let Some(address) = block.filled("source_ip_address", self.reporter) else { return };
        if address.value.parse::<IpAddr>().is_ok() {
            self.put("sourceIpAddress", json!(address.value));
        } else {
            let message = format!("{} is no IP address", quoted(&address.value));
            self.reporter.fault(address.line(), &address.path, message);
        }
    }

    /// An expression in the common dialect. One that Go refuses is a fault, one that only Go reads or that is too large is left out with a remark.
    fn regex(&mut self, field: &BlockField<'_, String>) -> Option<String> {
        match rewrite(&field.value) {
            Ok(common) => {
                if let Some(why) = pattern_problem(&common) {
                    self.reporter.remark(
                        field.line(),
                        &field.path,
                        format!("is left out, and the check with it: {why}"),
                    );
                    return None;
                }
                if common != field.value {
                    let message = format!("is written as {}, which Rust and RE2 read in the same way", quoted(&common));
                    self.reporter.remark(field.line(), &field.path, message);
                }
                Some(common)
            }
            Err(PatternProblem::Invalid(why)) => {
                self.reporter.fault(field.line(), &field.path, format!("is no regular expression of RE2: {why}"));
                None
            }
            Err(PatternProblem::GoOnly(why)) => {
                self.reporter.remark(field.line(), &field.path, format!("is left out, and the check with it: {why}"));
                None
            }
        }
    }

    /// A list of expressions, as a list of the spec; nothing if it is empty.
    fn regexes(&mut self, block: &mut Block<'_>, key: &'static str) -> Option<Value> {
        let texts = block.texts(key, self.reporter);
        let common: Vec<String> = texts.iter().filter_map(|text| self.regex(text)).collect();
        (!common.is_empty()).then(|| json!(common))
    }
}
