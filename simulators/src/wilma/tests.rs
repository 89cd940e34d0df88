use axum::routing::get;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::Mode;
use crate::keyrock::{Application, User};

const APPLICATION: &str = "8f7c2d0e-6a5f-4a8f-9d2b-1c0c5f6f7a01";
const OTHER: &str = "c6d7f0a1-1111-4222-8333-944455556666";

fn upstream() -> Router {
    Router::new().route("/version", get(async || ([("x-inside", "1"), ("content-type", "application/json")], "{}")))
}

fn keyrock() -> Keyrock {
    let keyrock = Keyrock::default();
    for id in [APPLICATION, OTHER] {
        keyrock.register(Application::new(id, "secret"));
    }
    keyrock.add(User::with_role("exporter", "password", APPLICATION, &["/version"]));
    keyrock
}

async fn token_of(keyrock: &Keyrock, id: &str, form: &str) -> String {
    let request = Request::post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
    let request = request.header("authorization", format!("Basic {}", STANDARD.encode(format!("{id}:secret"))));
    let response = keyrock.routes().oneshot(request.body(Body::from(form.to_owned())).unwrap()).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), MAX_BODY).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

const CLIENT: &str = "grant_type=client_credentials";
const USER: &str = "grant_type=password&username=exporter&password=password";

/// Status, and the last part of the type of an error.
async fn sent(wilma: &Wilma, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = wilma.routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    assert!(!response.headers().contains_key("x-inside"));
    let body = axum::body::to_bytes(response.into_body(), MAX_BODY).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    (status, answer["type"].as_str().unwrap_or_default().trim_start_matches("urn:dx:as:").to_owned())
}

async fn with(wilma: &Wilma, path: &str, token: &str) -> (u16, String) {
    sent(wilma, path, &[("authorization", &format!("Bearer {token}"))]).await
}

fn answer(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

/// Headers, and the answer.
type Row<'r> = (&'r [(&'r str, &'r str)], (u16, String));

#[tokio::test]
async fn headers_have_the_order_and_the_spelling_of_the_real_one() {
    let keyrock = keyrock();
    let wilma = Wilma::new(&keyrock, APPLICATION, Level::Authentication, upstream());
    let token = token_of(&keyrock, APPLICATION, CLIENT).await;
    let bearer = format!("Bearer {token}");
    let small = format!("bearer {token}");
    let encoded = format!("Basic {}", STANDARD.encode(&token));
    let invalid = || answer(401, "InvalidAuthenticationToken");
    let rows: [Row<'_>; 8] = [
        (&[("authorization", &bearer)], answer(200, "")),
        (&[("x-auth-token", &token)], answer(200, "")),
        (&[("authorization", &encoded)], answer(200, "")),
        (&[("authorization", &small)], invalid()),
        (&[("authorization", &small), ("x-auth-token", &token)], invalid()),
        (&[("x-auth-token", &bearer)], invalid()),
        (&[("authorization", &token)], answer(500, "")),
        (&[], answer(401, "MissingAuthenticationToken")),
    ];
    for (headers, expected) in rows {
        assert_eq!(sent(&wilma, "/version", headers).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn level_2_wants_a_user_with_the_role_and_level_1_any_token_of_the_application() {
    let keyrock = keyrock();
    let [one, two] =
        [Level::Authentication, Level::Authorization].map(|level| Wilma::new(&keyrock, APPLICATION, level, upstream()));
    let user = token_of(&keyrock, APPLICATION, USER).await;
    let client = token_of(&keyrock, APPLICATION, CLIENT).await;
    for (wilma, token, path, expected) in [
        (&one, &user, "/version", answer(200, "")),
        (&one, &client, "/version", answer(200, "")),
        (&one, &client, "/nothing", answer(404, "")),
        (&two, &user, "/version", answer(200, "")),
        (&two, &user, "/nothing", answer(401, "InvalidRole")),
        (&two, &client, "/version", answer(401, "InvalidRole")),
    ] {
        assert_eq!(with(wilma, path, token).await, expected, "{:?} {path}", wilma.0.level);
    }
    for (form, expected) in
        [(USER, answer(401, "InvalidAuthenticationToken")), (CLIENT, answer(500, "InternalServerError"))]
    {
        let foreign = token_of(&keyrock, OTHER, form).await;
        assert_eq!(with(&one, "/version", &foreign).await, expected, "of another application: {form}");
    }
}

#[tokio::test]
async fn an_answer_is_believed_for_five_minutes() {
    let keyrock = keyrock();
    let wilma = Wilma::new(&keyrock, APPLICATION, Level::Authorization, upstream());
    let token = token_of(&keyrock, APPLICATION, USER).await;
    assert_eq!(with(&wilma, "/version", &token).await.0, 200);
    keyrock.revoke_all();
    assert_eq!(with(&wilma, "/version", &token).await.0, 200);
    assert_eq!(with(&wilma, "/nothing", &token).await, answer(401, "InvalidAuthenticationToken"));
    wilma.pass(CACHED + Duration::from_secs(1));
    assert_eq!(with(&wilma, "/version", &token).await.0, 401);
    let token = token_of(&keyrock, APPLICATION, USER).await;
    assert_eq!(with(&wilma, "/version", &token).await.0, 200);
    keyrock.revoke_all();
    wilma.forget();
    assert_eq!(with(&wilma, "/version", &token).await.0, 401);
}

#[tokio::test]
async fn an_error_of_keyrock_is_a_401_and_what_cannot_be_read_a_500() {
    let keyrock = keyrock();
    let wilma = Wilma::new(&keyrock, APPLICATION, Level::Authentication, upstream());
    let token = token_of(&keyrock, APPLICATION, CLIENT).await;
    for (mode, expected) in [
        (Mode::Status(500), answer(401, "InvalidAuthenticationToken")),
        (Mode::Html, answer(500, "InternalServerError")),
        (Mode::Empty, answer(500, "InternalServerError")),
        (Mode::Healthy, answer(200, "")),
    ] {
        keyrock.decision_switch().set(mode);
        assert_eq!(with(&wilma, "/version", &token).await, expected, "{mode:?}");
    }
}
