//! A simulated Wilma 8: the PEP proxy that asks Keyrock about the token of each request, with the header rules, messages and cache of the real one.
//!
//! It stands in front of routes of the same process, and asks a simulated [`Keyrock`] of the same process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;
use serde_json::Value;
use tower::ServiceExt;

use super::keyrock::Keyrock;
use super::{Switch, Uptime};

/// How long an answer of Keyrock is believed.
pub const CACHED: Duration = Duration::from_secs(300);

/// How many tokens are remembered.
const REMEMBERED: usize = 1024;

/// The largest answer of Keyrock, or of the server behind.
const MAX_BODY: usize = 16 << 20;

/// What the proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Level 1: a valid token of the application or of one of its users.
    Authentication,
    /// Level 2: a token of a user whose role permits method and path.
    Authorization,
}

/// The PEP proxy. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Wilma(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    keyrock: Router,
    upstream: Router,
    /// The id of the application that it protects.
    application: String,
    level: Level,
    switch: Switch,
    clock: Uptime,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// The time by which the simulation was advanced.
    skipped: Duration,
    /// By token: when it was asked about, for which method and path, and the answer. Only the last answer is kept.
    answers: BTreeMap<String, (Duration, (String, String), Value)>,
}

impl Wilma {
    /// A proxy for an application of `keyrock`, in front of `upstream`.
    pub fn new(keyrock: &Keyrock, application: &str, level: Level, upstream: Router) -> Self {
        Self(Arc::new(Inside {
            keyrock: keyrock.routes(),
            upstream,
            application: application.to_owned(),
            level,
            switch: Switch::default(),
            clock: Uptime::default(),
            cache: Mutex::default(),
        }))
    }

    /// Its routes.
    pub fn routes(&self) -> Router {
        self.0.switch.guard(Router::new().fallback(guard).with_state(self.clone()))
    }

    /// The switch of its mode.
    pub fn switch(&self) -> &Switch {
        &self.0.switch
    }

    /// Forgets all answers of Keyrock, as a restart does.
    pub fn forget(&self) {
        self.cache().answers.clear();
    }

    /// Advances the simulation, without waiting.
    pub fn pass(&self, time: Duration) {
        self.cache().skipped += time;
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Keyrock says about a token, or said lately.
    async fn identity(&self, token: &str, method: &str, path: &str) -> Result<Value, Denial> {
        let wanted = (method.to_owned(), path.to_owned());
        {
            let cache = self.cache();
            let now = self.0.clock.elapsed() + cache.skipped;
            if let Some((asked, about, answer)) = cache.answers.get(token)
                && now.saturating_sub(*asked) <= CACHED
                && *about == wanted
            {
                return Ok(answer.clone());
            }
        }
        let answer = self.ask(token, method, path).await?;
        let application = answer["app_id"].as_str().unwrap_or_default();
        if application != self.0.application {
            // The list of trusted applications is looked through, which only answers about users have.
            return Err(match answer["trusted_apps"].as_array() {
                None => Denial::Internal("Cannot read properties of undefined (reading 'indexOf')".to_owned()),
                Some(_) => Denial::Role("User not have the required role in the application"),
            });
        }
        let mut cache = self.cache();
        let now = self.0.clock.elapsed() + cache.skipped;
        if cache.answers.len() >= REMEMBERED {
            cache.answers.clear();
        }
        cache.answers.insert(token.to_owned(), (now, wanted, answer.clone()));
        Ok(answer)
    }

    /// The path and the query with which Keyrock is asked.
    fn question(&self, token: &str, method: &str, path: &str) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix("/user?".to_owned(), "/user?".len());
        query.append_pair("access_token", token).append_pair("app_id", &self.0.application);
        if self.0.level == Level::Authorization {
            query.append_pair("action", method).append_pair("resource", path);
        }
        query.finish()
    }

    async fn ask(&self, token: &str, method: &str, path: &str) -> Result<Value, Denial> {
        let request = Request::builder().uri(self.question(token, method, path));
        let request = request.header(header::ACCEPT, "application/json").body(Body::empty());
        let request = request.map_err(|error| Denial::Internal(error.to_string()))?;
        let Ok(response) = self.0.keyrock.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(Denial::Token);
        }
        let body = axum::body::to_bytes(body, MAX_BODY).await.unwrap_or_default();
        serde_json::from_slice(&body).map_err(|_| {
            Denial::Internal(match body.first() {
                None => "Unexpected end of JSON input".to_owned(),
                Some(first) => format!("Unexpected token {} in JSON at position 0", char::from(*first)),
            })
        })
    }
}

/// Why a request does not pass.
#[derive(Debug)]
enum Denial {
    /// No token.
    Missing,
    /// Keyrock answered with an error, whichever.
    Token,
    /// Not for this user.
    Role(&'static str),
    /// Keyrock answered, or did not, in a way that the proxy cannot read.
    Internal(String),
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let (status, kind, detail) = match self {
            Self::Missing => (
                StatusCode::UNAUTHORIZED,
                "MissingAuthenticationToken",
                "Auth-token not found in request header".to_owned(),
            ),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "InvalidAuthenticationToken",
                "User not authorized in the application".to_owned(),
            ),
            Self::Role(detail) => (StatusCode::UNAUTHORIZED, "InvalidRole", detail.to_owned()),
            Self::Internal(detail) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", detail),
        };
        let title = status.canonical_reason().unwrap_or_default();
        let body = format!(
            "{{\n    \"type\": \"urn:dx:as:{kind}\",\n    \"title\": \"{title}\",\n    \"detail\": \"{detail}\"\n  }}"
        );
        (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
    }
}

/// The token of a request. `Authorization` wins over `X-Auth-Token`, and what has no "Bearer " in exactly these letters is decoded.
fn token(headers: &HeaderMap) -> Result<Option<String>, Unreadable> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Some(authorization) = text("authorization").filter(|value| !value.is_empty()) else {
        return Ok(text("x-auth-token"));
    };
    if let Some(token) = authorization.split("Bearer ").nth(1) {
        return Ok(Some(token.to_owned()));
    }
    // Without a space there is nothing to decode, and the real one throws.
    let encoded = authorization.split(' ').nth(1).ok_or(Unreadable)?;
    Ok(Some(String::from_utf8_lossy(&decoded(encoded)).into_owned()))
}

struct Unreadable;

/// Base64 as Node.js decodes it: both alphabets, and whatever belongs to neither is left out.
fn decoded(text: &str) -> Vec<u8> {
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&base64::alphabet::STANDARD, NO_PAD.with_decode_allow_trailing_bits(true));
    let mut digits: Vec<u8> = text
        .bytes()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
        .collect();
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    LENIENT.decode(digits).unwrap_or_default()
}

async fn guard(State(wilma): State<Wilma>, request: Request) -> Response {
    let token = match token(request.headers()) {
        Ok(Some(token)) => token,
        Ok(None) => return Denial::Missing.into_response(),
        Err(Unreadable) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, Html("<h1>Internal Server Error</h1>")).into_response();
        }
    };
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let answer = match wilma.identity(&token, &method, &path).await {
        Ok(answer) => answer,
        Err(denial) => return denial.into_response(),
    };
    if wilma.0.level == Level::Authorization && answer["authorization_decision"] != "Permit" {
        return Denial::Role("User access-token not authorized").into_response();
    }
    let Ok(response) = wilma.0.upstream.clone().oneshot(request).await;
    let (head, body) = response.into_parts();
    // Of the answer, only these three pass.
    let mut passed = (head.status, body).into_response();
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        passed.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    passed
}

#[cfg(test)]
mod tests;
