//! DNS servers, probed with one query. Nothing of the system's resolver is used but for the server's own name.

mod exchange;
mod judge;
mod query;
mod reply;
mod text;
mod types;

use std::sync::{Arc, LazyLock};

use domain::base::name::Name;
use futures::future::BoxFuture;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::surface::tls_config_needs_tls;
use super::{CallError, Field, Probe, Prober, Reason, Recorder, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, RulePattern, host, patterns, port, raw};
use exchange::{Query, DnsTransport};
use judge::{RecordRules, ReplyRules};
use query::DnsQuestion;
use reply::{NoReply, Reply, Section};

/// The query to a DNS server, and what its reply must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The domain name that is asked for, if it is not in `url`; `.` is the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 254))]
    pub query_name: Option<String>,
    /// The type of the records that are asked for, if it is not in `url`: `A`, `SOA`, …, or `TYPE` with a number. Default: `ANY`, which many
    /// servers answer only in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub query_type: Option<String>,
    /// The class of the records that are asked for, if it is not in `url`: `IN`, or `CH` for `version.bind`. Default: `IN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub query_class: Option<String>,
    /// Ask the server to ask other servers, if it does not know the answer.
    pub recursion_desired: bool,
    /// `udp` or `tcp`. Default: `udp`, and `tcp` with `dnsOverTLS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_protocol: Option<TransportProtocol>,
    /// Ask over TLS, at port 853 unless `url` has another one.
    #[serde(rename = "dnsOverTLS")]
    pub dns_over_tls: bool,
    /// The response codes that are right.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub valid_rcodes: Vec<Rcode>,
    /// What the records of the answer must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_answer_rrs: Option<RecordRules>,
    /// What the records of the authority section must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_authority_rrs: Option<RecordRules>,
    /// What the records of the additional section must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_additional_rrs: Option<RecordRules>,
    /// Send the query with EDNS. Without it, a reply over UDP has at most 512 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edns: Option<Edns>,
    /// If a reply over UDP is truncated, ask again over TCP.
    pub retry_truncated: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            query_name: None,
            query_type: None,
            query_class: None,
            recursion_desired: true,
            transport_protocol: None,
            dns_over_tls: false,
            valid_rcodes: vec![Rcode("NOERROR".to_owned())],
            validate_answer_rrs: None,
            validate_authority_rrs: None,
            validate_additional_rrs: None,
            edns: None,
            retry_truncated: false,
        }
    }
}

/// What the query is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TransportProtocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// The name of a response code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Rcode(#[schemars(extend("enum" = rcode_names()))] String);

/// The names of all response codes.
fn rcode_names() -> Vec<&'static str> {
    types::RCODES.iter().map(|(_, name)| *name).collect()
}

/// The extensions of the protocol that the query offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Edns {
    /// The largest datagram that the server may send, in bytes.
    #[schemars(range(min = 512, max = 65535))]
    pub buffer_size: u16,
    /// Ask for the records of DNSSEC as well (the flag DO).
    pub r#do: bool,
}

impl Default for Edns {
    fn default() -> Self {
        Self { buffer_size: 1232, r#do: false }
    }
}

/// A domain name in a url.
macro_rules! name {
    () => {
        r"([a-zA-Z0-9_*-]{1,63}\.)*[a-zA-Z0-9_*-]{1,63}\.?"
    };
}

/// The type and the class in a url.
macro_rules! kinds_of_records {
    () => {
        concat!(
            r"(\?(type=[a-zA-Z0-9-]{1,16}([&;]class=[a-zA-Z]{2,16})?|class=[a-zA-Z]{2,16}([&;]type=[a-zA-Z0-9-]{1,16})?))?"
        )
    };
}

patterns! {
    URL = concat!("^dns://", host!(), port!(), "(/(\\.|", name!(), ")?)?", kinds_of_records!(), "$");
    /// The same, whatever the server and the name are: the whole one is too large to stand in every rule.
    ROUGH_URL = concat!("^dns://[^?]+", kinds_of_records!(), "$");
    URL_WITH_NAME = "^dns://[^/]+/[^?]";
    URL_WITH_TYPE = r"[?&;]type=";
    URL_WITH_CLASS = r"[?&;]class=";
    URL_TYPE = format!("[?&;]type={}([&;]|$)", types::any_type());
    URL_CLASS = r"[?&;]class=(IN|CS|CH|HS|NONE|ANY)([&;]|$)";
    QUERY_NAME = r"^(\.|([a-zA-Z0-9_*/-]{1,63}\.)*[a-zA-Z0-9_*/-]{1,63}\.?)$";
    QUERY_TYPE = format!("^{}$", types::any_type());
    QUERY_CLASS = "^(IN|CS|CH|HS|NONE|ANY)$";
}

const UNKNOWN_TYPE: &str = "is no type of DNS records, write A, AAAA, MX, NS, SOA, TXT, … in capital letters, or TYPE with a number";
const UNKNOWN_CLASS: &str = "is no class of DNS records, write IN, CH, HS, CS, NONE or ANY";

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be dns://SERVER:PORT/NAME?type=TYPE&class=CLASS, where :PORT, /NAME, type and class can be left out: the server \
                  that is asked, and the domain name that is asked for",
        separator: UrlSeparator::Slashes,
    };
    const URL_USAGE: &'static str = "the server that is asked and what it is asked for, as in dns://192.0.2.53/example.com?type=SOA";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::Tls, Field::Addresses];
    const REGEXES: &'static [&'static str] = &[
        "spec.dns.validateAnswerRrs.failIfMatchesRegexp[]",
        "spec.dns.validateAnswerRrs.failIfAllMatchRegexp[]",
        "spec.dns.validateAnswerRrs.failIfNotMatchesRegexp[]",
        "spec.dns.validateAnswerRrs.failIfNoneMatchesRegexp[]",
        "spec.dns.validateAuthorityRrs.failIfMatchesRegexp[]",
        "spec.dns.validateAuthorityRrs.failIfAllMatchRegexp[]",
        "spec.dns.validateAuthorityRrs.failIfNotMatchesRegexp[]",
        "spec.dns.validateAuthorityRrs.failIfNoneMatchesRegexp[]",
        "spec.dns.validateAdditionalRrs.failIfMatchesRegexp[]",
        "spec.dns.validateAdditionalRrs.failIfAllMatchRegexp[]",
        "spec.dns.validateAdditionalRrs.failIfNotMatchesRegexp[]",
        "spec.dns.validateAdditionalRrs.failIfNoneMatchesRegexp[]",
    ];
    const TYPE_HINTS: &'static [(&'static str, &'static str)] =
        &[("spec.dns.queryType", "write its name in capital letters, for instance A, or TYPE with the number, for instance TYPE65280")];

    fn fill(&mut self) {
        let default = if self.dns_over_tls { TransportProtocol::Tcp } else { TransportProtocol::Udp };
        self.transport_protocol.get_or_insert(default);
    }

    fn rules() -> Vec<Rule> {
        let mut rules = vec![
            Rule::matches(
                "spec.dns.queryName",
                &QUERY_NAME,
                "must be a domain name of letters, digits, -, _, * and /, with at most 63 of them between two dots, for instance example.com, \
                 or . for the root",
            ),
            Rule::matches("spec.dns.queryType", &QUERY_TYPE, UNKNOWN_TYPE)
                .more_of_text(|name| in_capitals(name, &QUERY_TYPE)),
            Rule::matches("spec.dns.queryClass", &QUERY_CLASS, UNKNOWN_CLASS)
                .more_of_text(|name| in_capitals(name, &QUERY_CLASS)),
            Rule::new(
                "spec.dns",
                "!self.dnsOverTLS || !has(self.transportProtocol) || self.transportProtocol == 'tcp'",
                "dnsOverTLS is over TCP, remove transportProtocol or write tcp",
            )
            .field("transportProtocol")
            .holds_if(|dns| dns.get("dnsOverTLS") != Some(&Value::Bool(true)) || text(dns, "transportProtocol") != Some("udp")),
            Rule::new(
                "spec.dns",
                "!self.retryTruncated || !(self.dnsOverTLS || (has(self.transportProtocol) && self.transportProtocol == 'tcp'))",
                "over TCP no reply is truncated, remove retryTruncated",
            )
            .field("retryTruncated")
            .holds_if(|dns| {
                let is = |field: &str| dns.get(field) == Some(&Value::Bool(true));
                !is("retryTruncated") || !(is("dnsOverTLS") || text(dns, "transportProtocol") == Some("tcp"))
            }),
            of_dns(
                &with_url(&format!("self.url.matches({}) || (has(self.dns) && has(self.dns.queryName))", raw(URL_WITH_NAME.as_str()))),
                "the domain name that is asked for is missing: write it into url, as in dns://SERVER/example.com, or in dns.queryName",
                "url",
                |spec, url| {
                    !ROUGH_URL.is_match(url) || URL_WITH_NAME.is_match(url) || spec.pointer("/dns/queryName").is_some()
                },
            ),
            tls_config_needs_tls(
                "self.type != 'Dns' || (has(self.dns) && self.dns.dnsOverTLS)",
                "tlsConfig has no effect without TLS: write dns.dnsOverTLS: true, or remove it",
                |spec| text(spec, "type") != Some("Dns") || spec.pointer("/dns/dnsOverTLS") == Some(&Value::Bool(true)),
            ),
            of_dns(
                &with_url(&format!("!self.url.matches({}) || self.url.matches({})", raw(URL_WITH_TYPE.as_str()), raw(URL_TYPE.as_str()))),
                "the type in url is no type of DNS records, write A, AAAA, MX, NS, SOA, TXT, … in capital letters, or TYPE with a number",
                "url",
                |_, url| !ROUGH_URL.is_match(url) || !URL_WITH_TYPE.is_match(url) || URL_TYPE.is_match(url),
            )
            .more(|spec| in_capitals(of_url(text(spec, "url")?, "type")?, &QUERY_TYPE)),
            of_dns(
                &with_url(&format!("!self.url.matches({}) || self.url.matches({})", raw(URL_WITH_CLASS.as_str()), raw(URL_CLASS.as_str()))),
                "the class in url is no class of DNS records, write IN, CH, HS, CS, NONE or ANY",
                "url",
                |_, url| !ROUGH_URL.is_match(url) || !URL_WITH_CLASS.is_match(url) || URL_CLASS.is_match(url),
            )
            .more(|spec| in_capitals(of_url(text(spec, "url")?, "class")?, &QUERY_CLASS)),
        ];
        let twice: [(&'static str, &'static LazyLock<RulePattern>, &'static str); 3] = [
            ("queryName", &URL_WITH_NAME, "the domain name is in url as well, remove it from one of them"),
            ("queryType", &URL_WITH_TYPE, "the type is in url as well, remove it from one of them"),
            ("queryClass", &URL_WITH_CLASS, "the class is in url as well, remove it from one of them"),
        ];
        rules.extend(twice.map(|(field, with, message)| {
            let cel = format!("!has(self.dns) || !has(self.dns.{field}) || !self.url.matches({})", raw(with.as_str()));
            of_dns(&cel, message, &format!("dns.{field}"), move |spec, url| {
                spec.pointer(&format!("/dns/{field}")).is_none() || !with.is_match(url)
            })
        }));
        rules
    }
}

/// A rule between the url of a target of this type and other fields.
fn of_dns(
    cel: &str,
    message: &str,
    field: &str,
    holds: impl Fn(&Value, &str) -> bool + Send + Sync + 'static,
) -> Rule {
    Rule::new("spec", format!("self.type != 'Dns' || {cel}"), message).field(field).holds_if(move |spec| {
        text(spec, "type") != Some("Dns") || text(spec, "url").is_none_or(|url| holds(spec, url))
    })
}

/// A condition for urls that have more or less the right form: of others it is said how they are written.
fn with_url(cel: &str) -> String {
    format!("!self.url.matches({}) || {cel}", raw(ROUGH_URL.as_str()))
}

/// What a url says of the type or the class.
fn of_url<'u>(url: &'u str, key: &str) -> Option<&'u str> {
    let (_, query) = url.split_once('?')?;
    query.split(['&', ';']).filter_map(|part| part.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// What is known by the same name in capital letters.
fn in_capitals(name: &str, known: &RulePattern) -> Option<String> {
    let name = name.to_ascii_uppercase();
    known.is_match(&name).then(|| format!("write {name}"))
}

fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field)?.as_str()
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let mut errors = Vec::new();
        let sections = [&self.validate_answer_rrs, &self.validate_authority_rrs, &self.validate_additional_rrs];
        let rules = ReplyRules::new(sections.map(Option::as_ref), &mut errors);
        let question = self.question(url).map_err(|error| errors.push(error)).ok();
        let Some(question) = question.filter(|_| errors.is_empty()) else { return Err(errors) };
        let transport = match (self.dns_over_tls, self.transport_protocol) {
            (true, _) => DnsTransport::Tls,
            (false, Some(TransportProtocol::Tcp)) => DnsTransport::Tcp,
            (false, _) => DnsTransport::Udp,
        };
        let default_port = if self.dns_over_tls { 853 } else { 53 };
        Ok(Arc::new(DnsProber {
            question: Arc::new(question),
            recursion_desired: self.recursion_desired,
            edns: self.edns,
            transport,
            port: url.port().unwrap_or(default_port),
            retry_truncated: self.retry_truncated,
            valid_rcodes: self.valid_rcodes.iter().filter_map(|rcode| types::rcode_number(&rcode.0)).collect(),
            rules,
        }))
    }
}

impl Options {
    /// What is asked, from the url and the block together. The rules have refused what stands in both or in none.
    fn question(&self, url: &Url) -> Result<DnsQuestion, FieldError> {
        let in_url = url.path().trim_start_matches('/');
        let (name_field, name) = match &self.query_name {
            Some(name) => ("spec.dns.queryName", name.as_str()),
            None => ("spec.url", in_url),
        };
        let (type_field, type_name) = match &self.query_type {
            Some(name) => ("spec.dns.queryType", Some(name.as_str())),
            None => ("spec.url", of_url(url.as_str(), "type")),
        };
        // What has no such form at all, the rules have refused.
        let number = type_name.and_then(types::type_number);
        if number.is_none() && type_name.is_some_and(|name| name.starts_with("TYPE")) {
            return Err(FieldError::new(type_field, "there is no type with this number, write at most TYPE65535"));
        }
        let number = number.unwrap_or(types::ANY);
        let class = self.query_class.as_deref().or_else(|| of_url(url.as_str(), "class"));
        let class = class.and_then(types::class_number).unwrap_or(1);
        if name.is_empty() || !QUERY_NAME.is_match(name) {
            return Ok(DnsQuestion { name: Name::root_vec(), number, class });
        }
        let name = name.parse::<Name<Vec<u8>>>().map_err(|_| {
            FieldError::new(name_field, "is no domain name: it is longer than 253 characters, without a dot at its end")
        })?;
        Ok(DnsQuestion { name, number, class })
    }
}

crate::descs! {
    DURATION = gauge "probe_dns_duration_seconds" ["phase"] "Duration of the DNS query in seconds by phase: resolve is the lookup of the server's own name, connect the way to it with TCP and TLS, request from the query to the reply.";
    ANSWER = gauge "probe_dns_answer_rrs" [] "Records in the answer of the reply; 0 without a reply.";
    AUTHORITY = gauge "probe_dns_authority_rrs" [] "Records in the authority section of the reply; 0 without a reply.";
    ADDITIONAL = gauge "probe_dns_additional_rrs" [] "Records in the additional section of the reply; 0 without a reply.";
    SUCCEEDED = gauge "probe_dns_query_succeeded" [] "Whether there was a reply, whatever its response code.";
    SERIAL = gauge "probe_dns_serial" [] "Serial number of the zone, if its SOA record was asked for and is in the answer.";
    RCODE = gauge "probe_dns_rcode" [] "Response code of the reply as a number: 0 is NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED.";
    ANSWER_HASH = gauge "probe_dns_answer_hash" [] "Hash (FNV-1a, 32 bits) of the records in the answer of the reply, in any order and without their TTLs: it changes when the answer changes. 0 without an answer.";
    FLAG = gauge "probe_dns_flag" ["flag"] "Whether the reply has this flag: aa (the server is an authority for the name), tc (truncated), ad (verified with DNSSEC).";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [SharedFamilies::ADDRESS, SharedFamilies::TLS, FAMILIES].concat()
}

// What a fuzzer judges: it has messages, and no query that they could be replies to.

/// A message, read as one with this number about the root.
fn read_as_reply(message: &[u8], id: u16) -> Result<Reply, NoReply> {
    Reply::read(message, id, &DnsQuestion { name: Name::root_vec(), number: types::ANY, class: 1 })
}

/// The texts of the records of a reply to any query.
pub fn record_texts(message: &[u8]) -> Option<Vec<String>> {
    let reply = read_as_reply(message, u16::from_be_bytes(*message.first_chunk()?)).ok()?;
    let records = Section::ALL.into_iter().flat_map(|section| reply.records(section));
    Some(records.map(|(_, text)| String::from_utf8_lossy(&text).into_owned()).collect())
}

/// Whether bytes that begin with the number of another query are a message about that, which is passed over.
pub fn is_about_another_query(message: &[u8]) -> bool {
    let Some(id) = message.first_chunk().map(|id| !u16::from_be_bytes(*id)) else { return false };
    matches!(read_as_reply(message, id), Err(NoReply::Other(_)))
}

#[derive(Debug)]
struct DnsProber {
    question: Arc<DnsQuestion>,
    recursion_desired: bool,
    edns: Option<Edns>,
    transport: DnsTransport,
    port: u16,
    retry_truncated: bool,
    valid_rcodes: Vec<u16>,
    rules: ReplyRules,
}

impl Prober for DnsProber {
    fn call(&self) -> &'static str {
        "query"
    }

    fn begin(&self, record: &mut Recorder) {
        for phase in ["resolve", "connect", "request"] {
            record.set(&DURATION, &[phase], 0.0);
        }
        for family in [&ANSWER, &AUTHORITY, &ADDITIONAL, &SUCCEEDED, &ANSWER_HASH] {
            record.set(family, &[], 0.0);
        }
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(async move {
            let host = probe.host.to_owned();
            let (address, took) = probe.resolve(&host).await;
            let address = address?;
            probe.record.set(&DURATION, &["resolve"], took.as_secs_f64());
            let query = self.query()?;
            let mut reply = query.exchange(probe, address, self.transport).await?;
            if reply.is_truncated && self.retry_truncated && self.transport == DnsTransport::Udp {
                probe.record.event("the reply was truncated");
                reply = query.exchange(probe, address, DnsTransport::Tcp).await?;
            }
            self.record(&reply, probe.record);
            self.judge(&reply, probe).await
        })
    }
}

impl DnsProber {
    fn query(&self) -> Result<Query<'_>, CallError> {
        let id = query::random_id();
        let message = self.question.message(id, self.recursion_desired, self.edns);
        let message = message.map_err(|_| CallError::new(Reason::Internal, "the query could not be written"))?;
        Ok(Query { id, question: &self.question, message, edns: self.edns, port: self.port })
    }

    fn record(&self, reply: &Reply, record: &mut Recorder) {
        let [answer, authority, additional] = Section::ALL.map(|section| reply.count(section));
        for (family, count) in [(&ANSWER, answer), (&AUTHORITY, authority), (&ADDITIONAL, additional)] {
            #[expect(clippy::cast_precision_loss, reason = "at most some thousands")]
            record.set(family, &[], count as f64);
        }
        record.set(&ANSWER_HASH, &[], f64::from(reply.answer_hash));
        record.set(&SUCCEEDED, &[], 1.0);
        record.set(&RCODE, &[], f64::from(reply.rcode));
        let flags = [("aa", reply.is_authoritative), ("tc", reply.is_truncated), ("ad", reply.is_authenticated)];
        for (flag, is_set) in flags {
            record.set(&FLAG, &[flag], f64::from(u8::from(is_set)));
        }
        if self.question.number == types::SOA
            && let Some(serial) = reply.serial
        {
            record.set(&SERIAL, &[], f64::from(serial));
        }
        let set: Vec<&str> = flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| *flag).collect();
        let set = if set.is_empty() { "no flags".to_owned() } else { format!("flags {}", set.join(" ")) };
        record.event(format!(
            "answered {} with {answer} answer, {authority} authority and {additional} additional records, {set}",
            types::rcode_name(reply.rcode)
        ));
    }

    async fn judge(&self, reply: &Reply, probe: &mut Probe<'_>) -> Result<(), CallError> {
        if !self.valid_rcodes.contains(&reply.rcode) {
            let wanted: Vec<String> = self.valid_rcodes.iter().map(|rcode| types::rcode_name(*rcode)).collect();
            let message = format!(
                "the server answered {}, and dns.validRcodes wants {}",
                types::rcode_name(reply.rcode),
                wanted.join(" or ")
            );
            return Err(CallError::new(Reason::Response, message));
        }
        self.rules.judge(reply, probe).await
    }
}
