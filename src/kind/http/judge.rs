//! Whether an answer is good: the rules of the target in the order of the blackbox exporter. The first that does not hold is the verdict, and
//! the others that cost nothing are judged nevertheless, since their families must be there.

use std::sync::Arc;

use ::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, LAST_MODIFIED, TRANSFER_ENCODING};
use ::http::{HeaderMap, Method, StatusCode, Version};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::body::BodyReader;
use super::redirects::{LastAnswer, RefusedRedirect};
use super::{
    AnswerRules, BODY_LENGTH, CONTENT_LENGTH as CONTENT_LENGTH_FAMILY, HeaderRule, HttpVersion,
    LAST_MODIFIED as LAST_MODIFIED_FAMILY, Phase, SSL, STATUS_CODE, VERSION,
};
use crate::failure::{CallError, Reason};
use crate::kind::Probe;
use crate::kind::probe::{FAILED_DUE_TO_REGEX, Pattern, copy_bytes, readable, search_work, work};
use crate::metric::Stop;
use crate::rule::FieldError;

/// One of the rules about headers, compiled.
#[derive(Debug)]
pub(super) struct HeaderTest {
    header: HeaderName,
    pattern: Pattern,
    /// Whether it fails where the pattern matches, and not where it does not.
    is_bad: bool,
    allow_missing: bool,
    /// `http.failIfHeaderMatches[0]`.
    field: String,
}

impl HeaderTest {
    /// Those at `path`, where a match is bad or good, are added to `tests`.
    pub(super) fn add(
        tests: &mut Vec<Self>,
        path: &str,
        rules: &[HeaderRule],
        is_bad: bool,
        errors: &mut Vec<FieldError>,
    ) {
        for (index, rule) in rules.iter().enumerate() {
            let header = HeaderName::from_bytes(rule.header.as_bytes());
            let pattern = Pattern::new(&rule.regexp);
            match (header, pattern) {
                (Ok(header), Ok(pattern)) => {
                    let field = format!("{}[{index}]", path.trim_start_matches("spec."));
                    tests.push(Self { header, pattern, is_bad, allow_missing: rule.allow_missing, field });
                }
                (Err(_), _) => {
                    let message = "is no name of a header, write for instance Content-Type";
                    errors.push(FieldError::new(&format!("{path}[{index}].header"), message));
                }
                (_, Err(message)) => errors.push(FieldError::new(&format!("{path}[{index}].regexp"), message)),
            }
        }
    }

    /// Why an answer with these values of the header fails.
    fn problem(&self, values: &[HeaderValue]) -> Option<String> {
        let Self { header, pattern, is_bad, allow_missing, field } = self;
        if values.is_empty() {
            return (!allow_missing).then(|| format!("the answer has no header {header} ({field})"));
        }
        let matcher = pattern.matcher();
        let is_found = values.iter().any(|value| matcher.is_match(&readable(value.as_bytes())));
        let does = if *is_bad { "matches" } else { "does not match" };
        (is_found == *is_bad).then(|| format!("the header {header} {does} {}", shown(pattern, field)))
    }
}

/// The first reason to fail.
#[derive(Default)]
struct Verdict(Option<CallError>);

impl Verdict {
    const fn is_good(&self) -> bool {
        self.0.is_none()
    }

    fn fail(&mut self, error: CallError) {
        self.0.get_or_insert(error);
    }

    fn note(&mut self, result: Result<(), CallError>) {
        if let Err(error) = result {
            self.fail(error);
        }
    }
}

/// Judges the last answer, and records what it is.
pub(super) async fn judge(
    rules: &AnswerRules,
    mut answer: LastAnswer,
    probe: &mut Probe<'_>,
) -> Result<(), CallError> {
    let (status, version) = (answer.response.head.status, answer.response.head.version);
    probe.record.status(status.as_u16());
    probe.record.set(&STATUS_CODE, &[], f64::from(status.as_u16()));
    probe.record.set(&VERSION, &[], number(version));
    probe.record.set(&SSL, &[], f64::from(u8::from(answer.is_tls)));
    probe.record.set(&CONTENT_LENGTH_FAMILY, &[], content_length(&answer));
    if let Some(modified) = last_modified(&answer.response.head.headers) {
        probe.record.set(&LAST_MODIFIED_FAMILY, &[], modified);
    }
    let mut verdict = Verdict::default();
    let judged = judge_status(rules, status, answer.refused);
    verdict.note(match answer.rejection.take() {
        Some(rejection) if judged.is_err() => Err(rejection),
        _ => judged,
    });
    if status == StatusCode::UNAUTHORIZED && answer.is_at_home && !verdict.is_good() {
        probe.record.credentials_refused();
    }
    if verdict.is_good() {
        let judged = judge_headers(rules, &answer.response.head.headers, probe).await;
        verdict.note(judged);
    }
    let has_body_rules = !rules.body_matches.is_empty() || !rules.body_not_matches.is_empty();
    let compares = verdict.is_good() && has_body_rules;
    if answer.refused.is_some() {
        if compares {
            let message = "the answer is a redirect that is not followed, so there is no body to compare";
            verdict.fail(CallError::new(Reason::Match, message));
            probe.record.set(&FAILED_DUE_TO_REGEX, &[], 1.0);
        }
    } else {
        let body = read(rules, compares, &mut answer, probe).await;
        let failed_to_read = body.is_err();
        match body {
            Ok(body) if compares => {
                let judged = judge_body(rules, body, probe).await;
                verdict.note(judged);
            }
            Ok(_) => {}
            Err(error) => verdict.fail(error),
        }
        if compares && (failed_to_read || !verdict.is_good()) {
            probe.record.set(&FAILED_DUE_TO_REGEX, &[], 1.0);
        }
    }
    verdict.note(judge_version(rules, version));
    if answer.is_tls && rules.fail_if_ssl {
        let message = "the answer came over TLS, and http.failIfSsl does not allow that";
        verdict.fail(CallError::new(Reason::Response, message));
    }
    if !answer.is_tls && rules.fail_if_not_ssl {
        let message = "the answer did not come over TLS, and http.failIfNotSsl demands it";
        verdict.fail(CallError::new(Reason::Response, message));
    }
    verdict.0.map_or(Ok(()), Err)
}

fn judge_status(
    rules: &AnswerRules,
    status: StatusCode,
    refused: Option<RefusedRedirect>,
) -> Result<(), CallError> {
    let code = status.as_u16();
    let valid = &rules.valid_status_codes;
    if if valid.is_empty() { status.is_success() } else { valid.contains(&code) } {
        return Ok(());
    }
    let wanted = if valid.is_empty() { "200 to 299" } else { "one of http.validStatusCodes" };
    Err(match (refused, code) {
        (Some(RefusedRedirect::TooMany), _) => {
            CallError::new(Reason::Response, format!("the server answered {code} after 10 redirects: they are not followed further"))
        }
        (Some(RefusedRedirect::Unwanted), _) => {
            let message = format!("the server answered {code}, a redirect that http.followRedirects does not allow to follow");
            CallError::new(Reason::HttpStatus, message)
        }
        (None, 401 | 403) => CallError::new(
            Reason::Auth,
            format!("the server answered {code}: it wants other credentials, in basicAuth, authorization, oauth2 or headers"),
        ),
        (None, _) => CallError::new(Reason::HttpStatus, format!("the server answered {code}, and not {wanted}")),
    })
}

async fn judge_headers(rules: &AnswerRules, headers: &HeaderMap, probe: &mut Probe<'_>) -> Result<(), CallError> {
    if rules.header_tests.is_empty() {
        return Ok(());
    }
    let values_of = |test: &HeaderTest| headers.get_all(&test.header).iter().cloned().collect::<Vec<HeaderValue>>();
    let values: Vec<Vec<HeaderValue>> = rules.header_tests.iter().map(values_of).collect();
    let (mut cost, mut bytes) = (0_u64, 0);
    for (test, values) in rules.header_tests.iter().zip(&values) {
        let length = values.iter().map(HeaderValue::len).sum();
        cost = cost.saturating_add(work([&test.pattern], values.len(), length));
        bytes += length;
    }
    let tests = Arc::clone(&rules.header_tests);
    let compare = move |_: &Stop| tests.iter().zip(&values).find_map(|(test, values)| test.problem(values));
    match probe.compare(cost, bytes, compare).await? {
        None => Ok(()),
        Some(problem) => {
            probe.record.set(&FAILED_DUE_TO_REGEX, &[], 1.0);
            Err(CallError::new(Reason::Match, problem))
        }
    }
}

/// Reads the body, and records its length and how long that took.
async fn read(
    rules: &AnswerRules,
    keep: bool,
    answer: &mut LastAnswer,
    probe: &mut Probe<'_>,
) -> Result<Bytes, CallError> {
    let Probe { memory, record, max_body_bytes, deadline, .. } = probe;
    let mut reader = BodyReader::new(rules, keep, *max_body_bytes, memory, record);
    let body = timeout_at(*deadline, reader.read(&mut answer.response)).await;
    let body = body.unwrap_or_else(|_| Err(CallError::new(Reason::Timeout, "the body did not end in time")));
    let length = reader.length;
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    probe.record.set(&BODY_LENGTH, &[], length as f64);
    Phase::Transfer.took(probe.record, Instant::now().duration_since(answer.began));
    probe.record.event(format!("read {length} bytes of the body"));
    body
}

async fn judge_body(rules: &AnswerRules, body: Bytes, probe: &mut Probe<'_>) -> Result<(), CallError> {
    let length = body.len();
    let cost = search_work(rules.body_matches.iter().chain(&*rules.body_not_matches), length);
    let compare = |is_copied: bool| {
        let (bad, good, body) = (Arc::clone(&rules.body_matches), Arc::clone(&rules.body_not_matches), body.clone());
        move |stop: &Stop| match copy_bytes(&body) {
            copy if copy > 0 && !is_copied => BodyVerdict::Copy(copy),
            _ => judge_text(&bad, &good, &readable(&body), stop).unwrap_or(BodyVerdict::Stopped),
        }
    };
    let mut verdict = probe.compare(cost, length, compare(false)).await?;
    if let BodyVerdict::Copy(copy) = verdict {
        probe.memory.cover(length + copy).await;
        verdict = probe.compare(0, length, compare(true)).await?;
    }
    match verdict {
        BodyVerdict::Bad(problem) => Err(CallError::new(Reason::Match, problem)),
        BodyVerdict::Stopped => {
            let message = "the body could not be compared with the regular expressions in time: write simpler ones";
            Err(CallError::new(Reason::Timeout, message))
        }
        BodyVerdict::Good | BodyVerdict::Copy(_) => Ok(()),
    }
}

/// What came of the comparison of a body.
enum BodyVerdict {
    Good,
    Bad(String),
    /// It is not UTF-8: it can be compared when the memory for a copy of so many bytes is covered.
    Copy(usize),
    /// It took too long.
    Stopped,
}

/// The verdict on a text; `None` if it was stopped before.
fn judge_text(bad: &[Pattern], good: &[Pattern], body: &str, stop: &Stop) -> Option<BodyVerdict> {
    for (index, pattern) in bad.iter().enumerate() {
        if pattern.search(body, stop)? {
            let shown = shown(pattern, &format!("http.failIfBodyMatchesRegexp[{index}]"));
            return Some(BodyVerdict::Bad(format!("the body matches {shown}")));
        }
    }
    for (index, pattern) in good.iter().enumerate() {
        if !pattern.search(body, stop)? {
            let shown = shown(pattern, &format!("http.failIfBodyNotMatchesRegexp[{index}]"));
            return Some(BodyVerdict::Bad(format!("the body does not match {shown}")));
        }
    }
    Some(BodyVerdict::Good)
}

/// A pattern and where it is written.
fn shown(pattern: &Pattern, field: &str) -> String {
    const MOST: usize = 64;
    let text = pattern.as_str();
    let start: String = text.chars().take(MOST).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{rest} ({field})")
}

fn judge_version(rules: &AnswerRules, version: Version) -> Result<(), CallError> {
    let is_it = |wanted: &HttpVersion| match wanted {
        HttpVersion::Http10 => version == Version::HTTP_10,
        HttpVersion::Http11 => version == Version::HTTP_11,
        HttpVersion::Http20 | HttpVersion::Http2 => version == Version::HTTP_2,
    };
    let valid = &rules.valid_http_versions;
    if valid.is_empty() || valid.iter().any(is_it) {
        return Ok(());
    }
    let message = format!("the answer came over {version:?}, which is none of http.validHttpVersions");
    Err(CallError::new(Reason::Response, message))
}

/// The version as the family has it.
fn number(version: Version) -> f64 {
    match version {
        Version::HTTP_2 => 2.0,
        Version::HTTP_10 => 1.0,
        Version::HTTP_09 => 0.9,
        _ => 1.1,
    }
}

/// What the header declares, as Go reads it.
fn content_length(answer: &LastAnswer) -> f64 {
    let head = &answer.response.head;
    if matches!(head.status.as_u16(), 204 | 304) && answer.method != Method::HEAD {
        return 0.0;
    }
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    match declared {
        Some(length) if !head.headers.contains_key(TRANSFER_ENCODING) => length as f64,
        _ if head.version == Version::HTTP_2 && answer.method != Method::HEAD && answer.response.is_complete() => 0.0,
        _ => -1.0,
    }
}

pub(super) fn last_modified(headers: &HeaderMap) -> Option<f64> {
    let text = headers.get(LAST_MODIFIED)?.to_str().ok()?;
    let at = httpdate::parse_http_date(text).ok()?;
    Some(match at.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    })
}
