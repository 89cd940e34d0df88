use axum::body::Body;
use axum::http::Request;
use tower::ServiceExt;

use super::*;
use crate::Mode;

const APPLICATION: &str = "8f7c2d0e-6a5f-4a8f-9d2b-1c0c5f6f7a01";
const SECRET: &str = "0b7f3c52-9c57-4a40-b8bb-a1d6f4f7c9d2";
const PATHS: [&str; 2] = ["/admin/metrics", "/version"];

fn keyrock() -> Keyrock {
    let keyrock = Keyrock::default();
    keyrock.register(Application::new(APPLICATION, SECRET));
    keyrock.add(User::with_role("exporter@example.com", "pass word", APPLICATION, &PATHS));
    keyrock
}

async fn sent(keyrock: &Keyrock, request: Request<Body>) -> (u16, Value) {
    let response = keyrock.routes().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// Asks for a token, with the client's secret in the header or, without credentials for it, in the body.
async fn ask(keyrock: &Keyrock, credentials: Option<&str>, form: &str) -> (u16, Value) {
    let mut request = Request::post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
    if let Some(credentials) = credentials {
        request = request.header("authorization", format!("Basic {}", STANDARD.encode(credentials)));
    }
    sent(keyrock, request.body(Body::from(form.to_owned())).unwrap()).await
}

async fn granted(keyrock: &Keyrock, form: &str) -> Value {
    let (status, answer) = ask(keyrock, Some(&format!("{APPLICATION}:{SECRET}")), form).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn decision(keyrock: &Keyrock, token: &str, more: &str) -> (u16, Value) {
    let uri = format!("/user?access_token={token}&app_id={APPLICATION}{more}");
    sent(keyrock, Request::get(uri).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn it_obeys_the_table_of_token_requests() {
    let good = format!("{APPLICATION}:{SECRET}");
    let both = format!("client_id={APPLICATION}&client_secret={SECRET}&grant_type=client_credentials");
    let wrong = format!("client_id={APPLICATION}&client_secret=x&grant_type=client_credentials");
    let user = "grant_type=password&username=exporter%40example.com&password=pass+word";
    let rows: [(Option<&str>, &str, u16, &str); 14] = [
        (Some(&good), "grant_type=client_credentials", 200, ""),
        (None, &both, 200, ""),
        (Some(&good), user, 200, ""),
        (None, "grant_type=client_credentials", 400, "Invalid client: cannot retrieve client credentials"),
        (Some("x:y"), "grant_type=client_credentials", 401, "Invalid client: client is invalid"),
        (None, &wrong, 400, "Invalid client: client is invalid"),
        (Some(&format!("{APPLICATION}:")), "", 400, "Missing parameter: `client_secret`"),
        (Some(&good), "", 400, "Missing parameter: `grant_type`"),
        (Some(&good), "grant_type=token", 400, "Unsupported grant type: `grant_type` is invalid"),
        (Some(&good), "grant_type=password&username=a", 400, "Missing parameter: `password`"),
        (
            Some(&good),
            "grant_type=password&username=exporter&password=pass+word",
            400,
            "Invalid grant: user credentials are invalid",
        ),
        (Some(&good), "grant_type=client_credentials&scope=openid", 400, "Invalid scope: Requested scope is invalid"),
        (
            Some(&good),
            "grant_type=client_credentials&scope=bearer+jwt",
            400,
            "Invalid scope: Requested scope is invalid",
        ),
        (Some(&good), "grant_type=client_credentials&scope=anything", 200, ""),
    ];
    let keyrock = keyrock();
    for (credentials, form, status, message) in rows {
        let (answered, body) = ask(&keyrock, credentials, form).await;
        assert_eq!(answered, status, "{form}: {body}");
        if status != 200 {
            assert_eq!(body, message, "{form}");
        }
    }
    let asked = keyrock.asked();
    assert_eq!(asked.len(), rows.len());
    assert!(!format!("{asked:?}").contains(SECRET) && !format!("{asked:?}").contains("pass word"));
    let json = Request::post("/oauth2/token").header("content-type", "application/json");
    let (status, body) = sent(&keyrock, json.body(Body::from("{}")).unwrap()).await;
    assert_eq!((status, body.as_str().unwrap().starts_with("Invalid request")), (400, true));
}

#[tokio::test]
async fn grants_and_kinds_of_token_are_enabled_for_each_application() {
    let keyrock = keyrock();
    let mut application = Application::new(APPLICATION, SECRET);
    application.grants.remove(&Grant::Password);
    application.token_types.clear();
    keyrock.register(application);
    let credentials = format!("{APPLICATION}:{SECRET}");
    for (form, message) in [
        ("grant_type=password", "Unauthorized client: `grant_type` is invalid"),
        ("grant_type=client_credentials&scope=jwt", "Invalid scope: Requested scope is invalid"),
        ("grant_type=client_credentials&scope=permanent", "Invalid scope: Requested scope is invalid"),
    ] {
        assert_eq!(ask(&keyrock, Some(&credentials), form).await, (400, message.into()));
    }
}

#[tokio::test]
async fn the_kinds_of_token_have_the_fields_of_the_real_ones() {
    let keyrock = keyrock();
    let bearer = granted(&keyrock, "grant_type=client_credentials").await;
    assert_eq!((&bearer["token_type"], &bearer["expires_in"]), (&"Bearer".into(), &3599.into()));
    assert_eq!((&bearer["scope"], bearer.get("refresh_token")), (&json!(["bearer"]), None));
    let user = granted(&keyrock, "grant_type=password&username=exporter%40example.com&password=pass+word").await;
    assert!(user["refresh_token"].is_string());
    let permanent = granted(&keyrock, "grant_type=client_credentials&scope=permanent").await;
    assert_eq!((&permanent["token_type"], permanent.get("expires_in")), (&"Bearer".into(), None));
    let jwt = granted(&keyrock, "grant_type=client_credentials&scope=jwt").await;
    assert_eq!((&jwt["token_type"], jwt.get("expires_in"), &jwt["scope"]), (&"jwt".into(), None, &json!(["jwt"])));
    let forever = granted(&keyrock, "grant_type=client_credentials&scope=jwt,permanent").await;
    let application = Application::new(APPLICATION, SECRET);
    for (answer, ends) in [(&jwt, true), (&forever, false)] {
        let claims = jwt::verified(answer["access_token"].as_str().unwrap(), &application.jwt_secret, 0).unwrap();
        assert_eq!((&claims["app_id"], claims["exp"].is_u64()), (&APPLICATION.into(), ends));
    }
    keyrock.pass(LIFETIME);
    for (answer, status) in [(bearer, 401), (jwt, 401), (permanent, 200), (forever, 200)] {
        let decided = decision(&keyrock, answer["access_token"].as_str().unwrap(), "").await;
        assert_eq!(decided.0, status, "{answer}: {}", decided.1);
    }
}

#[tokio::test]
async fn it_decides_about_users_and_about_nobody_else() {
    let keyrock = keyrock();
    let sensor = User { sensor: true, ..User::with_role("iot_sensor", "sensor", APPLICATION, &PATHS) };
    keyrock.add(sensor);
    for scope in ["", "&scope=jwt"] {
        let token = async |form: &str| {
            granted(&keyrock, &format!("{form}{scope}")).await["access_token"].as_str().unwrap().to_owned()
        };
        let user = token("grant_type=password&username=exporter%40example.com&password=pass+word").await;
        let sensor = token("grant_type=password&username=iot_sensor&password=sensor").await;
        let application = token("grant_type=client_credentials").await;
        let about = async |token: &str, path: &str| {
            let (status, answer) = decision(&keyrock, token, &format!("&action=GET&resource={path}")).await;
            assert_eq!((status, &answer["app_id"]), (200, &APPLICATION.into()));
            answer["authorization_decision"].as_str().map(ToOwned::to_owned)
        };
        assert_eq!(about(&user, "/version").await.as_deref(), Some("Permit"));
        assert_eq!(about(&user, "/statistics").await.as_deref(), Some("Deny"));
        assert_eq!(about(&user, "/version/").await.as_deref(), Some("Deny"));
        assert_eq!(about(&sensor, "/version").await, None);
        assert_eq!(about(&application, "/version").await, None);
        keyrock.revoke_all();
        for token in [user, sensor, application] {
            assert_eq!(decision(&keyrock, &token, "").await.0, 401);
        }
    }
}

#[tokio::test]
async fn a_token_is_for_one_application() {
    const OTHER: &str = "c6d7f0a1-1111-4222-8333-944455556666";
    let keyrock = keyrock();
    keyrock.register(Application::new(OTHER, SECRET));
    let form = "grant_type=password&username=exporter%40example.com&password=pass+word";
    let (_, user) = ask(&keyrock, Some(&format!("{OTHER}:{SECRET}")), form).await;
    let (status, message) = decision(&keyrock, user["access_token"].as_str().unwrap(), "").await;
    assert_eq!((status, message), (401, "User not authorized in application".into()));
    let unknown = Request::get("/user?access_token=x&app_id=y").body(Body::empty()).unwrap();
    assert_eq!(sent(&keyrock, unknown).await, (401, "Unauthorized".into()));
    assert_eq!(decision(&keyrock, "x", "").await, (401, "Invalid token: access token is invalid".into()));
}

#[tokio::test(start_paused = true)]
async fn its_two_halves_misbehave_apart() {
    let keyrock = keyrock();
    let bearer = granted(&keyrock, "grant_type=client_credentials").await;
    let token = bearer["access_token"].as_str().unwrap();
    keyrock.token_switch().set(Mode::Status(503));
    assert_eq!(ask(&keyrock, None, "").await.0, 503);
    assert_eq!(decision(&keyrock, token, "").await.0, 200);
    keyrock.token_switch().set(Mode::Healthy);
    keyrock.decision_switch().set(Mode::Html);
    assert_eq!(decision(&keyrock, token, "").await, (200, Value::Null));
    keyrock.set_delay(Duration::from_secs(7));
    let start = tokio::time::Instant::now();
    granted(&keyrock, "grant_type=client_credentials").await;
    assert_eq!(start.elapsed().as_secs(), 7);
}
