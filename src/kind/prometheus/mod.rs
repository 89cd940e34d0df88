//! Any server with metrics for Prometheus: its exposition is passed on.
//!
//! Names, types, help texts, labels and values stay as they are. Left out is only what Prometheus and this exporter say about the scrape
//! itself, and what the format of the answer to a scrape cannot carry: timestamps, exemplars and creation times.

use std::borrow::Cow;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reserved::{OF_A_POLL, OF_A_SCRAPE};
use super::{Answer, Call, CallError, Context, Kind, MaxAge, Method, Reason, UrlQuery};
use crate::metric::{
    Desc, ExpositionError, ExpositionPolicy, ExpositionSource, Families, Filter, Format, pass_exposition,
};
use crate::rule::Rule;

/// How the metrics of a server are passed on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The HTTP status of `/probe` while the metrics of the server cannot be read. 200: `up` is 1 and `probe_success` is 0, as for every
    /// type. 502: the scrape fails, so that `up` is 0 as if Prometheus scraped the server itself, and alerts on `up` fire. With members,
    /// while none of them can be read.
    #[schemars(range(min = 100, max = 599))]
    pub fail_status: u16,
    /// Whether a line that cannot be read fails the poll, with reason `parse`, as it fails a scrape by Prometheus. Otherwise such a line is
    /// skipped, and `probe_skipped_fields` counts it.
    pub strict: bool,
    /// Always false: the time of a sample is that of the scrape. Timestamps of the server are dropped.
    pub honor_timestamps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fail_status: 200, strict: false, honor_timestamps: false }
    }
}

impl super::Options for Options {
    const URL_USAGE: &'static str = "it is fetched unchanged, and may have a query: http://HOST:PORT/metrics";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const MAX_AGE: MaxAge = MaxAge::Zero;
    const PASSES_ON: bool = true;
    const OWN_HEADERS: &'static [(&'static str, &'static str)] =
        &[(TIMEOUT_HEADER, "from what is left of spec.timeout, remove it")];
    const RESERVED: &'static [(&'static str, &'static str)] = &[
        ("honorLabels", "write spec.monitor.honorLabels"),
        ("createdTimestamps", "creation times are not passed on, remove it"),
        ("path", "write the path into spec.url"),
        ("metricsPath", "write the path into spec.url"),
        ("params", "write the query into spec.url"),
        ("scheme", "write http:// or https:// into spec.url"),
    ];

    fn rules() -> Vec<Rule> {
        vec![
            Rule::new("spec.prometheus.failStatus", "self == 200 || self == 502", "failStatus must be 200 or 502, write one of them")
                .holds_if(|value| value.as_u64().is_none_or(|status| matches!(status, 200 | 502))),
            Rule::new(
                "spec.prometheus.honorTimestamps",
                "!self",
                "timestamps of the server are dropped, since an answer may be given to several scrapes: write honorTimestamps: false or \
                 remove it",
            )
            .holds_if(|value| *value != Value::Bool(true)),
        ]
    }

    fn fail_status(&self) -> u16 {
        self.fail_status
    }
}

impl super::CallOptions for Options {
    fn build(&self, url: &Url) -> Box<dyn Kind> {
        Box::new(Prometheus { url: url.clone(), strict: self.strict })
    }
}

/// None is known beforehand: the server chooses them all.
pub const fn families() -> Vec<&'static Desc> {
    Vec::new()
}

/// What Prometheus sends with each scrape.
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";

/// Text, since protobuf has nothing more that could be passed on. OpenMetrics is preferred, as Prometheus does.
const ACCEPT: &str =
    "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";

#[derive(Debug)]
struct Prometheus {
    /// Used unchanged.
    url: Url,
    strict: bool,
}

impl Kind for Prometheus {
    fn calls(&self, _: Option<&Filter>) -> Vec<Call> {
        let headers = vec![("accept", ACCEPT.to_owned())];
        let timeout_header = Some(TIMEOUT_HEADER);
        vec![Call { name: "scrape", method: Method::Get, url: self.url.clone(), headers, timeout_header }]
    }

    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>> {
        let start = out.mark();
        let missing = || CallError::new(Reason::Internal, "the call was not made");
        let passed = answers.first().ok_or_else(missing).and_then(|answer| self.pass(answer, cx, out));
        if passed.is_err() {
            out.rewind(start);
        }
        vec![passed]
    }
}

impl Prometheus {
    fn pass(&self, answer: &Answer, cx: &Context, out: &mut Families) -> Result<(), CallError> {
        let body = answer.success()?;
        if let Some(status) = answer.0.as_ref().ok().map(|response| response.status).filter(|status| *status != 200) {
            let message = format!("answered {status}; for Prometheus, only an answer with status 200 has metrics");
            return Err(CallError::new(Reason::HttpStatus, message));
        }
        let content_type = answer.0.as_ref().ok().and_then(|response| response.content_type.as_deref());
        let source = ExpositionSource { format: format(content_type)?, is_strict: self.strict };
        let policy = OwnNames { has_certificate: self.url.scheme() == "https" };
        pass_exposition(body, source, &policy, cx.sample_limit, out).map_err(|error| refused(&error))
    }
}

/// The format with this `Content-Type`. Many servers have a wrong one, or none: then it is text 0.0.4.
fn format(content_type: Option<&str>) -> Result<Format, CallError> {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/openmetrics-text") {
        Ok(Format::OpenMetrics)
    } else if essence.eq_ignore_ascii_case("application/vnd.google.protobuf") {
        Err(CallError::new(Reason::Parse, "the body is protobuf, though text was asked for"))
    } else {
        Ok(Format::Text)
    }
}

fn refused(error: &ExpositionError) -> CallError {
    let reason = if error.is_about_limit() { Reason::Limit } else { Reason::Parse };
    CallError::new(reason, error.to_string())
}

/// Keeps out what Prometheus and this exporter say themselves about a scrape. Another exporter of probes may stand behind this one, so only
/// whole names count.
struct OwnNames {
    /// The connection has certificates, about which the exporter says something.
    has_certificate: bool,
}

/// What other exporters say about certificates as well.
const CHAIN_EXPIRY: &str = "probe_ssl_last_chain_expiry_timestamp_seconds";

impl ExpositionPolicy for OwnNames {
    fn admits(&self, name: &str) -> bool {
        let of_certificate = name == CHAIN_EXPIRY && self.has_certificate;
        !(of_certificate || OF_A_SCRAPE.contains(&name) || OF_A_POLL.contains(&name))
    }

    fn rewrite<'v>(&self, _: &str, value: Cow<'v, str>) -> Cow<'v, str> {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{CallOptions as _, Response};
    use crate::metric::encode;

    fn translated(content_type: Option<&str>, body: &[u8], strict: bool) -> (String, Option<CallError>) {
        let url = Url::parse("http://example.com/metrics?collect[]=cpu").unwrap();
        let mut kind = Options { strict, ..Options::default() }.build(&url);
        let response =
            Response { status: 200, content_type: content_type.map(Box::from), body: body.to_vec().into() };
        let mut out = Families::default();
        let results =
            kind.translate(&[Answer(Ok(response))], &Context { now: 0.0, sample_limit: 3 }, &mut out);
        let mut text = Vec::new();
        encode(&[&out.finish()], Format::Text, &mut text);
        (String::from_utf8(text).unwrap(), results.into_iter().next().unwrap().err())
    }

    #[test]
    fn the_url_is_fetched_as_it_stands_with_the_headers_of_a_scrape() {
        let url = Url::parse("http://example.com/metrics?collect[]=cpu").unwrap();
        let calls = Options::default().build(&url).calls(None);
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].url.as_str(), calls[0].timeout_header), (url.as_str(), Some(TIMEOUT_HEADER)));
        assert!(calls[0].headers[0].1.starts_with("application/openmetrics-text;version=1.0.0"));
    }

    #[test]
    fn the_content_type_says_what_a_text_is_and_without_one_it_is_text() {
        let openmetrics = b"# TYPE a counter\na_total 1\n# EOF\n";
        let header = Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert_eq!(translated(header, openmetrics, true).0, "# HELP a_total \n# TYPE a_total counter\na_total 1\n");
        let cut_off = &openmetrics[..openmetrics.len() - 6];
        let error = translated(header, cut_off, false).1.unwrap();
        assert_eq!((error.reason, error.message.contains("# EOF")), (Reason::Parse, true));
        for none in [None, Some("text/plain"), Some("application/json"), Some("garbage;;")] {
            assert_eq!(translated(none, cut_off, true).1, None, "{none:?}");
        }
        let protobuf = translated(Some("application/vnd.google.protobuf; encoding=delimited"), b"\x0a", false);
        assert!(protobuf.1.unwrap().message.contains("protobuf"));
    }

    #[test]
    fn what_is_said_of_the_scrape_itself_is_left_out_and_all_else_stays() {
        let body = b"up 0\nprobe_success 1\nprobe_http_status_code 200\nscrape_other 1\nALERTS 1\n";
        let (text, error) = translated(None, body, true);
        assert_eq!(error, None);
        for (name, stays) in
            [("up", false), ("probe_success", false), ("probe_http_status_code", true), ("scrape_other", true), ("ALERTS", true)]
        {
            assert_eq!(text.contains(&format!("\n{name} ")), stays, "{name}");
        }
    }

    #[test]
    fn beyond_the_limit_nothing_is_passed_on() {
        let (text, error) = translated(None, b"a 1\nb 1\nc 1\nd 1\n", false);
        assert_eq!((text.as_str(), error.unwrap().reason), ("", Reason::Limit));
    }
}
