//! From the url of the target to the answer that is judged: every redirect is another request, to an address that is judged like the first.

use ::http::header::{HeaderValue, LOCATION};
use ::http::{Method, StatusCode};
use reqwest::Url;

use super::connection::UnreadAnswer;
use super::cookies::CookieJar;
use super::request::{Hop, RequestTemplate, Route};
use super::{Phase, REDIRECTS};
use crate::failure::{CallError, Reason};
use crate::kind::Probe;

/// The most redirects that are followed, as with the blackbox exporter.
const MAX_REDIRECTS: usize = 10;

/// The answer that is judged.
pub(super) struct LastAnswer {
    pub(super) response: UnreadAnswer,
    /// Whether it came over TLS.
    pub(super) is_tls: bool,
    /// It is a redirect that is not followed, and its body is not read.
    pub(super) refused: Option<RefusedRedirect>,
    /// When its first byte came.
    pub(super) began: tokio::time::Instant,
    pub(super) method: Method,
    /// Whether it is that of the server in the url of the target, which alone gets what is secret.
    pub(super) is_at_home: bool,
    /// It is not of the server: the proxy wants credentials.
    pub(super) rejection: Option<CallError>,
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedRedirect {
    /// `followRedirects` is false.
    Unwanted,
    /// There were too many.
    TooMany,
}

/// Sends the request of the target and follows redirects.
pub(super) async fn follow(template: &RequestTemplate, probe: &mut Probe<'_>) -> Result<LastAnswer, CallError> {
    let mut hop = Hop::first(template);
    let mut jar = CookieJar::default();
    let mut route = Route::default();
    let mut redirects = 0;
    loop {
        let connection = route.connect(template, &hop, probe).await.map_err(|error| hop.explain(error))?;
        let asks_proxy = connection.is_of_proxy();
        let ready = tokio::time::Instant::now();
        let request = hop.request(template, &connection, probe, &jar).map_err(|error| hop.explain(error))?;
        let sending = tokio::time::timeout_at(probe.deadline, connection.send(request));
        let response = match sending.await {
            Ok(response) => response.map_err(|error| hop.explain(error))?,
            Err(_) => return Err(hop.explain(CallError::new(Reason::Timeout, "no answer in time"))),
        };
        let began = response.first_byte.unwrap_or_else(tokio::time::Instant::now);
        Phase::Processing.took(probe.record, began.duration_since(ready));
        jar.store(&hop.url, &response.head.headers);
        let status = response.head.status;
        let is_tls = hop.is_tls();
        let Some(location) = location(status, response.head.headers.get(LOCATION)) else {
            probe.record.event(format!("answered {} over {:?}", status.as_u16(), response.head.version));
            let wants_login = asks_proxy && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
            let rejection = probe.proxy.filter(|_| wants_login).map(|proxy| hop.explain(proxy.unauthorized()));
            return Ok(LastAnswer { response, is_tls, refused: None, began, method: hop.method, is_at_home: hop.is_at_home, rejection });
        };
        redirects += 1;
        #[expect(clippy::cast_precision_loss, reason = "at most eleven")]
        probe.record.set(&REDIRECTS, &[], redirects as f64);
        let refused = if !template.follow_redirects {
            Some(RefusedRedirect::Unwanted)
        } else if redirects > MAX_REDIRECTS {
            Some(RefusedRedirect::TooMany)
        } else {
            None
        };
        if refused.is_some() {
            probe.record.event(format!("answered {} with a redirect that is not followed", status.as_u16()));
            return Ok(LastAnswer { response, is_tls, refused, began, method: hop.method, is_at_home: hop.is_at_home, rejection: None });
        }
        hop = hop.next(template, status, location)?;
        probe.record.event(format!("answered {}, redirected to {}", status.as_u16(), shown(&hop.url)));
    }
}

/// Where a redirect leads.
fn location(status: StatusCode, location: Option<&HeaderValue>) -> Option<&HeaderValue> {
    location.filter(|location| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) && !location.is_empty())
}

/// A url without what may be secret: a query often has tokens.
pub(super) fn shown(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{origin}{}{query}", url.path())
}
