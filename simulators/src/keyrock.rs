//! A simulated Keyrock 8: its token endpoint, and what a PEP proxy asks it about a token, with the rules, messages and oddities of the real one.
//!
//! The rest of its API and its pages are not simulated: applications and users are what the program that starts it says.

mod jwt;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Switch, Uptime};

/// How long a token is valid, unless the server is told otherwise.
pub const LIFETIME: Duration = Duration::from_hours(1);

/// How many tokens and requests it remembers. A real one keeps tokens in a database.
const REMEMBERED: usize = 4096;

/// A grant, which has to be enabled for an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// `client_credentials`: a token of the application itself.
    ClientCredentials,
    /// `password`: a token of a user or a sensor.
    Password,
}

/// What an application registered with Keyrock is.
#[derive(Clone, Debug)]
pub struct Application {
    /// A UUID.
    pub id: String,
    /// A UUID as well.
    pub secret: String,
    /// What JWTs of it are signed with.
    pub jwt_secret: String,
    /// The grants that are enabled.
    pub grants: BTreeSet<Grant>,
    /// The kinds of token that are enabled beside `bearer`: `permanent` and `jwt`.
    pub token_types: BTreeSet<String>,
}

impl Application {
    /// An application for which everything is enabled.
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            jwt_secret: format!("jwt of {secret}"),
            grants: [Grant::ClientCredentials, Grant::Password].into(),
            token_types: ["permanent", "jwt"].map(ToOwned::to_owned).into(),
        }
    }
}

/// Who can sign in by name and password.
#[derive(Clone, Debug)]
pub struct User {
    /// The name to sign in with: the email address of a user, the identifier of a sensor.
    pub name: String,
    /// The password.
    pub password: String,
    /// A sensor has no roles: Keyrock never decides about it.
    pub sensor: bool,
    /// What its roles permit, as application, method and path.
    pub permissions: Vec<(String, String, String)>,
}

impl User {
    /// A user whose role in an application permits GET of these paths, and nothing else.
    pub fn with_role(name: &str, password: &str, application: &str, paths: &[&str]) -> Self {
        let permission = |path: &&str| (application.to_owned(), "GET".to_owned(), (*path).to_owned());
        Self {
            name: name.to_owned(),
            password: password.to_owned(),
            sensor: false,
            permissions: paths.iter().map(permission).collect(),
        }
    }
}

/// What was asked of the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The status of the answer.
    pub status: u16,
    /// Whether the client gave its secret in the header `Authorization`, not in the body.
    pub basic: bool,
    /// The parameters of the body, without secrets.
    pub parameters: Vec<(String, String)>,
}

/// The identity manager. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Keyrock {
    inside: Arc<Mutex<Inside>>,
    tokens: Switch,
    decisions: Switch,
}

#[derive(Debug)]
struct Inside {
    clock: Uptime,
    /// The time by which the simulation was advanced.
    skipped: Duration,
    lifetime: Duration,
    delay: Duration,
    applications: Vec<Application>,
    users: Vec<User>,
    tokens: VecDeque<Token>,
    asked: VecDeque<Asked>,
}

/// A token that is no JWT.
#[derive(Clone, Debug)]
struct Token {
    value: String,
    owner: Owner,
    /// In uptime. A permanent one has no end.
    end: Option<Duration>,
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    application: String,
    /// The name of the user or sensor, if it is not the application's own.
    user: Option<String>,
}

impl Default for Keyrock {
    fn default() -> Self {
        Self {
            inside: Arc::new(Mutex::new(Inside {
                clock: Uptime::default(),
                skipped: Duration::ZERO,
                lifetime: LIFETIME,
                delay: Duration::ZERO,
                applications: Vec::new(),
                users: Vec::new(),
                tokens: VecDeque::new(),
                asked: VecDeque::new(),
            })),
            tokens: Switch::default(),
            decisions: Switch::default(),
        }
    }
}

impl Keyrock {
    /// Registers an application, or replaces the one of the same id.
    pub fn register(&self, application: Application) {
        let mut inside = self.inside();
        inside.applications.retain(|known| known.id != application.id);
        inside.applications.push(application);
    }

    /// Adds a user, or replaces the one of the same name.
    pub fn add(&self, user: User) {
        let mut inside = self.inside();
        inside.users.retain(|known| known.name != user.name);
        inside.users.push(user);
    }

    /// Its routes.
    pub fn routes(&self) -> Router {
        let tokens = Router::new().route("/oauth2/token", post(token)).with_state(self.clone());
        let decisions = Router::new().route("/user", get(user)).with_state(self.clone());
        let rest = Router::new()
            .route(
                "/version",
                get(async || json_response(StatusCode::OK, &json!({ "keyrock": { "version": "8.3.0" } }))),
            )
            .fallback(async || (StatusCode::NOT_FOUND, Html("<!DOCTYPE html><html><body>Not Found</body></html>")));
        self.tokens.guard(tokens).merge(self.decisions.guard(decisions)).merge(rest)
    }

    /// The switch of the mode of its token endpoint.
    pub fn token_switch(&self) -> &Switch {
        &self.tokens
    }

    /// The switch of the mode of what PEP proxies ask.
    pub fn decision_switch(&self) -> &Switch {
        &self.decisions
    }

    /// How long tokens that are issued from now on are valid.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.inside().lifetime = lifetime;
    }

    /// How long the token endpoint takes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.inside().delay = delay;
    }

    /// Ends all tokens before their time, as a restart with an empty database does. JWTs end as well: the keys of all applications change.
    pub fn revoke_all(&self) {
        let mut inside = self.inside();
        inside.tokens.clear();
        for application in &mut inside.applications {
            application.jwt_secret.push('\'');
        }
    }

    /// Advances the simulation, without waiting.
    pub fn pass(&self, time: Duration) {
        self.inside().skipped += time;
    }

    /// What was asked of the token endpoint, the oldest first; requests that its switch answered are not among them.
    pub fn asked(&self) -> Vec<Asked> {
        self.inside().asked.iter().cloned().collect()
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a request is not granted. The body of the answer is the message alone, as a JSON string.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(StatusCode, &'static str);

const fn bad(message: &'static str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, message)
}

async fn token(State(keyrock): State<Keyrock>, headers: HeaderMap, body: Bytes) -> Response {
    let delay = keyrock.inside().delay;
    tokio::time::sleep(delay).await;
    let parameters: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let basic = basic(&headers);
    let mut inside = keyrock.inside();
    let (status, answer) = match inside.grant(&headers, basic.as_ref(), &parameters) {
        Ok(answer) => (StatusCode::OK, answer),
        Err(Refusal(status, message)) => (status, Value::from(message)),
    };
    let shown = parameters.into_iter().filter(|(name, _)| !matches!(name.as_str(), "client_secret" | "password"));
    push(&mut inside.asked, Asked { status: status.as_u16(), basic: basic.is_some(), parameters: shown.collect() });
    json_response(status, &answer)
}

async fn user(State(keyrock): State<Keyrock>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let parameter = |name: &str| {
        let mut found = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
    };
    let wanted = parameter("action").zip(parameter("resource"));
    let answer = keyrock.inside().decide(parameter("access_token"), parameter("app_id").as_deref(), wanted.as_ref());
    match answer {
        Ok(answer) => json_response(StatusCode::OK, &answer),
        Err(Refusal(status, message)) => json_response(status, &Value::from(message)),
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}

/// Identifier and secret of `Authorization: Basic`. They are not decoded any further.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// Adds one to a list that forgets the oldest.
fn push<T>(list: &mut VecDeque<T>, one: T) {
    if list.len() >= REMEMBERED {
        list.pop_front();
    }
    list.push_back(one);
}

impl Inside {
    fn now(&self) -> Duration {
        self.clock.elapsed() + self.skipped
    }

    /// The time of day, in seconds since 1970.
    fn date(&self) -> u64 {
        u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default() + self.skipped.as_secs()
    }

    /// The answer of the token endpoint.
    fn grant(
        &mut self,
        headers: &HeaderMap,
        basic: Option<&(String, String)>,
        parameters: &[(String, String)],
    ) -> Result<Value, Refusal> {
        let parameter = |name: &str| {
            let mut found = parameters.iter().filter(|(key, value)| key == name && !value.is_empty());
            found.next().map(|(_, value)| value.as_str())
        };
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Err(bad("Invalid request: content must be application/x-www-form-urlencoded"));
        }
        let (id, secret) = match basic {
            Some((id, secret)) => (id.as_str(), secret.as_str()),
            None => parameter("client_id")
                .zip(parameter("client_secret"))
                .ok_or_else(|| bad("Invalid client: cannot retrieve client credentials"))?,
        };
        if id.is_empty() {
            return Err(bad("Missing parameter: `client_id`"));
        }
        if secret.is_empty() {
            return Err(bad("Missing parameter: `client_secret`"));
        }
        let refused = if headers.contains_key(header::AUTHORIZATION) {
            StatusCode::UNAUTHORIZED
        } else {
            StatusCode::BAD_REQUEST
        };
        let application = self.applications.iter().find(|known| known.id == id && known.secret == secret);
        let application = application.ok_or(Refusal(refused, "Invalid client: client is invalid"))?.clone();
        let grant = match parameter("grant_type").ok_or_else(|| bad("Missing parameter: `grant_type`"))? {
            "client_credentials" => Grant::ClientCredentials,
            "password" => Grant::Password,
            _ => return Err(bad("Unsupported grant type: `grant_type` is invalid")),
        };
        if !application.grants.contains(&grant) {
            return Err(bad("Unauthorized client: `grant_type` is invalid"));
        }
        let user = match grant {
            Grant::ClientCredentials => None,
            Grant::Password => {
                let name = parameter("username").ok_or_else(|| bad("Missing parameter: `username`"))?;
                let password = parameter("password").ok_or_else(|| bad("Missing parameter: `password`"))?;
                let known = self.users.iter().find(|user| user.name == name && user.password == password);
                Some(known.ok_or_else(|| bad("Invalid grant: user credentials are invalid"))?.name.clone())
            }
        };
        let scopes =
            scopes(parameter("scope"), &application).ok_or_else(|| bad("Invalid scope: Requested scope is invalid"))?;
        Ok(self.issue(&application, user, &scopes))
    }

    /// A new token, as the answer has it.
    fn issue(&mut self, application: &Application, user: Option<String>, scopes: &[String]) -> Value {
        let has = |scope: &str| scopes.iter().any(|given| given == scope);
        let (permanent, jwt) = (has("permanent"), has("jwt"));
        let refresh = (user.is_some() && !permanent).then(random);
        let owner = Owner { application: application.id.clone(), user };
        let value = if jwt {
            let claims = self.claims(&owner, (!permanent).then_some(self.lifetime));
            jwt::sign(&claims, &application.jwt_secret)
        } else {
            let end = (!permanent).then(|| self.now() + self.lifetime);
            let token = Token { value: random(), owner, end };
            push(&mut self.tokens, token.clone());
            token.value
        };
        let mut answer = json!({ "access_token": value, "token_type": if jwt { "jwt" } else { "Bearer" } });
        if !permanent && !jwt {
            // A moment has passed since the end of the token was computed.
            answer["expires_in"] = self.lifetime.as_secs().saturating_sub(1).into();
        }
        if let Some(refresh) = refresh {
            answer["refresh_token"] = refresh.into();
        }
        answer["scope"] = scopes.into();
        answer
    }

    fn claims(&self, owner: &Owner, lifetime: Option<Duration>) -> Value {
        let mut claims = self.described(owner);
        claims["type"] = match owner.user.as_deref() {
            None => Value::Null,
            Some(name) if self.is_sensor(name) => "iot".into(),
            Some(_) => "user".into(),
        };
        claims["iat"] = self.date().into();
        if let Some(lifetime) = lifetime {
            claims["exp"] = (self.date() + lifetime.as_secs()).into();
        }
        claims
    }

    fn is_sensor(&self, name: &str) -> bool {
        self.users.iter().any(|user| user.name == name && user.sensor)
    }

    /// What Keyrock tells of the owner of a token. Of an application it is the id alone.
    fn described(&self, owner: &Owner) -> Value {
        let Some(name) = owner.user.as_deref() else { return json!({ "app_id": owner.application }) };
        if self.is_sensor(name) {
            return json!({ "app_id": owner.application, "id": name });
        }
        let permissions = self.users.iter().filter(|user| user.name == name).flat_map(|user| &user.permissions);
        let roles = permissions.filter(|(application, ..)| *application == owner.application).count().min(1);
        json!({
            "organizations": [],
            "displayName": "",
            "roles": vec![json!({ "id": "b1d5c4f0-7c1b-4f52-9c3c-0a2c2b7a1f10", "name": "monitoring" }); roles],
            "app_id": owner.application,
            "trusted_apps": [],
            "isGravatarEnabled": false,
            "id": name,
            "authorization_decision": "",
            "app_azf_domain": "",
            "username": name,
            "email": name,
        })
    }

    /// What a PEP proxy is told about a token: whose it is, and about a user, whether a role permits method and path.
    fn decide(
        &self,
        token: Option<String>,
        application: Option<&str>,
        wanted: Option<&(String, String)>,
    ) -> Result<Value, Refusal> {
        const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
        let known = |id: &str| self.applications.iter().find(|known| known.id == id);
        let asking = match application {
            Some(id) => Some(known(id).ok_or(Refusal(UNAUTHORIZED, "Unauthorized"))?),
            None => None,
        };
        let token = token.ok_or(Refusal(UNAUTHORIZED, "Unauthorized request: no authentication given"))?;
        let claims = asking
            .filter(|application| application.token_types.contains("jwt"))
            .and_then(|application| jwt::verified(&token, &application.jwt_secret, self.date()));
        let owner = if let Some(claims) = claims {
            Owner {
                application: claims["app_id"].as_str().unwrap_or_default().to_owned(),
                user: claims["id"].as_str().map(ToOwned::to_owned),
            }
        } else {
            let found = self.tokens.iter().find(|issued| issued.value == token);
            let found = found.ok_or(Refusal(UNAUTHORIZED, "Invalid token: access token is invalid"))?;
            if found.end.is_some_and(|end| end <= self.now()) {
                return Err(Refusal(UNAUTHORIZED, "Invalid token: access token has expired"));
            }
            found.owner.clone()
        };
        let mut answer = self.described(&owner);
        if let Some(name) = owner.user.as_deref().filter(|name| !self.is_sensor(name)) {
            if application.is_some_and(|asking| asking != owner.application) {
                return Err(Refusal(UNAUTHORIZED, "User not authorized in application"));
            }
            if let Some((action, resource)) = wanted {
                let permits = |(of, method, path): &(String, String, String)| {
                    *of == owner.application && method == action && path == resource
                };
                let user = self.users.iter().find(|user| user.name == name);
                let permit = user.is_some_and(|user| user.permissions.iter().any(permits));
                answer["authorization_decision"] = if permit { "Permit" } else { "Deny" }.into();
            }
        }
        Ok(answer)
    }
}

/// The scopes of a token, separated by commas or spaces in the request; nothing if one is not enabled for the application.
fn scopes(asked: Option<&str>, application: &Application) -> Option<Vec<String>> {
    let Some(asked) = asked else { return Some(vec!["bearer".to_owned()]) };
    let scopes: Vec<String> =
        asked.split([',', ' ']).filter(|scope| !scope.is_empty()).map(ToOwned::to_owned).collect();
    let has = |scope: &str| scopes.iter().any(|given| given == scope);
    let enabled = |scope: &String| scope == "bearer" || application.token_types.contains(scope);
    let refused = (has("bearer") && has("jwt")) || has("openid");
    let checked = has("permanent") || has("jwt");
    (!refused && (!checked || scopes.iter().all(enabled))).then_some(scopes)
}

/// 40 digits that nobody can guess.
fn random() -> String {
    let (mut long, mut short) = ([0; 16], [0; 4]);
    let random = SystemRandom::new();
    // On a machine without random numbers nothing works anyway.
    let _ = random.fill(&mut long).and_then(|()| random.fill(&mut short));
    format!("{:032x}{:08x}", u128::from_be_bytes(long), u32::from_be_bytes(short))
}

#[cfg(test)]
mod tests;
