//! Orion behind Wilma and Keyrock, both simulated with the oddities of the real ones: what works, and what each mistake and each fault says.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::target::{Target, TargetId};
use serde_json::{Value, json};
use simulators::keyrock::{Application, Asked, Grant, Keyrock, User};
use simulators::orion::Broker;
use simulators::wilma::{Level, Wilma};
use simulators::{Mode, Simulated};
use support::eventually::{PATIENCE, pass};
use support::probing::{Probed, target_of};
use support::program::{Running, command, folder_with, said_to};
use support::{pollers_with, series, text};

const APPLICATION: &str = "8f7c2d0e-6a5f-4a8f-9d2b-1c0c5f6f7a01";
const SECRET: &str = "0b7f3c52-9c57-4a40-b8bb-a1d6f4f7c9d2";
const USER: &str = "exporter-of-metrics";
const PASSWORD: &str = "pa55-word.of_the_user";
const PATHS: [&str; 4] = ["/admin/metrics", "/statistics", "/cache/statistics", "/version"];

/// All three servers, and an exporter that polls when it is asked to.
struct Stage {
    keyrock: Keyrock,
    wilma: Wilma,
    front: Simulated,
    idm: Option<Simulated>,
    idm_address: SocketAddr,
    pollers: Arc<Pollers>,
}

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

impl Stage {
    async fn start(level: Level) -> Self {
        let keyrock = Keyrock::default();
        keyrock.register(Application::new(APPLICATION, SECRET));
        keyrock.add(User::with_role(USER, PASSWORD, APPLICATION, &PATHS));
        let wilma = Wilma::new(&keyrock, APPLICATION, level, Broker::new(1).routes());
        let idm = Simulated::serve(keyrock.routes(), LOOPBACK.into()).await.unwrap();
        Self {
            front: Simulated::serve(wilma.routes(), LOOPBACK.into()).await.unwrap(),
            idm_address: idm.address,
            idm: Some(idm),
            pollers: pollers_with(scrapetarget_exporter::fetch::Limits::new(1 << 20, 8 << 20), false),
            keyrock,
            wilma,
        }
    }

    fn token_url(&self) -> String {
        format!("http://{}/oauth2/token", self.idm_address)
    }

    /// The target, with these fields in the block `oauth2` beside those that are always there, or in place of them.
    fn target(&self, name: &str, more: &Value) -> Target {
        let mut oauth2 = json!({
            "clientId": { "secret": { "name": "plain", "key": APPLICATION } },
            "clientSecret": { "name": "plain", "key": SECRET },
            "tokenUrl": self.token_url(),
        });
        for (field, value) in more.as_object().unwrap() {
            oauth2[field] = value.clone();
        }
        let spec =
            json!({ "type": "Orion", "url": self.front.url(), "interval": "1m", "timeout": "60s", "oauth2": oauth2 });
        let mut target = target_of(&spec);
        target.id = TargetId::new("media", name);
        target.max_age = Duration::ZERO;
        target
    }

    /// Declares a target and polls it.
    async fn declare(&self, name: &str, more: &Value) -> Probed {
        self.pollers.apply([self.target(name, more)]);
        self.poll(name).await
    }

    /// Polls a target again.
    async fn poll(&self, name: &str) -> Probed {
        let poller = self.pollers.get(&TargetId::new("media", name)).unwrap();
        let snapshot = poller.answer(PATIENCE).await;
        let failure = snapshot.failure.clone();
        Probed {
            reason: failure.as_ref().map(|failure| failure.reason),
            message: failure.map(|failure| failure.message.to_string()).unwrap_or_default(),
            series: series(&text(&snapshot)),
            snapshot,
        }
    }

    /// How many tokens were issued.
    fn issued(&self) -> usize {
        self.keyrock.asked().iter().filter(|asked| asked.status == 200).count()
    }

    fn last_asked(&self) -> Asked {
        self.keyrock.asked().pop().unwrap()
    }
}

fn user() -> Value {
    json!({ "user": { "username": { "name": "plain", "key": USER }, "password": { "name": "plain", "key": PASSWORD } } })
}

fn with(mut block: Value, field: &str, value: impl Into<Value>) -> Value {
    block[field] = value.into();
    block
}

#[track_caller]
fn up(probed: &Probed) {
    assert_eq!((probed.reason, probed.value("orion_up")), (None, 1.0), "{}", probed.message);
    for call in ["admin_metrics", "statistics", "cache_statistics", "version"] {
        assert_eq!(probed.value(&format!("probe_call_success{{call=\"{call}\"}}")), 1.0, "{call}");
    }
}

/// A failure whose message has all of these words, and no secret.
#[track_caller]
fn down(probed: &Probed, reason: Reason, words: &[&str]) -> String {
    assert_eq!(probed.reason, Some(reason), "{}", probed.message);
    for word in words {
        assert!(probed.message.contains(word), "{word:?} is not in: {}", probed.message);
    }
    for secret in [SECRET, PASSWORD] {
        assert!(!probed.message.contains(secret), "{}", probed.message);
    }
    probed.message.clone()
}

/// Longer than the time within which a token that is refused is not replaced.
const AGED: Duration = Duration::from_secs(31);

#[tokio::test]
async fn level_1_takes_client_credentials_and_one_token_lasts() {
    const CALL: &str = "probe_call_success{call=\"token\"}";
    let stage = Stage::start(Level::Authentication).await;
    let first = stage.declare("a", &json!({})).await;
    up(&first);
    assert_eq!(first.value(CALL), 1.0);
    for _ in 0..3 {
        let probed = stage.poll("a").await;
        up(&probed);
        assert!(!probed.series.contains_key(CALL), "no token was requested");
    }
    let asked = stage.keyrock.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].basic);
    assert_eq!(asked[0].parameters, [("grant_type".to_owned(), "client_credentials".to_owned())]);
    // Another target with the same settings has the same token, one with other settings another.
    up(&stage.declare("b", &json!({})).await);
    assert_eq!(stage.issued(), 1);
    up(&stage.declare("c", &json!({ "clientAuthentication": "Body" })).await);
    assert!(!stage.last_asked().basic);
    up(&stage.declare("d", &user()).await);
}

#[tokio::test]
async fn level_2_takes_a_user_with_the_role_in_either_header() {
    let stage = Stage::start(Level::Authorization).await;
    up(&stage.declare("a", &user()).await);
    let parameters = stage.last_asked().parameters;
    assert!(parameters.contains(&("grant_type".to_owned(), "password".to_owned())), "{parameters:?}");
    assert!(parameters.contains(&("username".to_owned(), USER.to_owned())), "{parameters:?}");
    up(&stage.declare("b", &with(user(), "header", "X-Auth-Token")).await);
    up(&stage.declare("c", &with(user(), "scopes", json!(["jwt"]))).await);
    up(&stage.declare("d", &with(user(), "clientAuthentication", "Body")).await);
}

#[tokio::test]
async fn many_targets_at_once_get_one_token_and_the_next_one_together() {
    let stage = Stage::start(Level::Authorization).await;
    stage.keyrock.set_delay(Duration::from_millis(100));
    let names: Vec<String> = (0..20).map(|number| format!("target-{number}")).collect();
    stage.pollers.apply(names.iter().map(|name| stage.target(name, &user())));
    for issued in 1..3 {
        for probed in futures::future::join_all(names.iter().map(|name| stage.poll(name))).await {
            up(&probed);
        }
        assert_eq!(stage.issued(), issued);
        pass(AGED).await;
        stage.keyrock.revoke_all();
        stage.wilma.forget();
    }
}

#[tokio::test]
async fn a_permission_that_only_one_request_lacks_leaves_the_target_up() {
    let stage = Stage::start(Level::Authorization).await;
    stage.keyrock.add(User::with_role(USER, PASSWORD, APPLICATION, &[PATHS[0], PATHS[2], PATHS[3]]));
    let probed = stage.declare("a", &user()).await;
    assert_eq!((probed.reason, probed.value("orion_up")), (None, 1.0), "{}", probed.message);
    for (call, status) in
        [("admin_metrics", 200.0), ("statistics", 401.0), ("cache_statistics", 200.0), ("version", 200.0)]
    {
        assert_eq!(probed.value(&format!("probe_call_http_status_code{{call=\"{call}\"}}")), status, "{call}");
    }
    // A 401 may also mean that the token has died, but not at every poll.
    for _ in 0..5 {
        assert_eq!(stage.poll("a").await.reason, None);
    }
    assert_eq!(stage.issued(), 1);
    // A poll that comes later requests one, for this call alone, and once.
    for issued in 2..4 {
        pass(AGED).await;
        let probed = stage.poll("a").await;
        assert_eq!((probed.reason, stage.issued()), (None, issued), "{}", probed.message);
        assert_eq!(probed.value("probe_call_http_status_code{call=\"statistics\"}"), 401.0);
        assert_eq!(probed.value("probe_call_http_status_code{call=\"version\"}"), 200.0);
    }
}

#[tokio::test]
async fn a_prober_passes_as_well() {
    let stage = Stage::start(Level::Authorization).await;
    let mut spec =
        json!({ "type": "Http", "url": format!("{}version", stage.front.url()), "interval": "1m", "timeout": "60s" });
    let without = Probed::of(spec.clone()).await;
    without.failed(Reason::Auth);
    spec["oauth2"] = json!({
        "clientId": { "secret": { "name": "plain", "key": APPLICATION } },
        "clientSecret": { "name": "plain", "key": SECRET },
        "tokenUrl": stage.token_url(),
        "user": user()["user"],
    });
    for header in [None, Some("X-Auth-Token")] {
        if let Some(header) = header {
            spec["oauth2"]["header"] = header.into();
        }
        Probed::of(spec.clone()).await.succeeded();
    }
}

#[tokio::test]
async fn every_kind_of_token_is_taken_and_kept() {
    let stage = Stage::start(Level::Authorization).await;
    for (number, scopes) in
        [json!(["permanent"]), json!(["jwt"]), json!(["jwt", "permanent"]), json!(["anything"])].iter().enumerate()
    {
        let name = format!("kind-{number}");
        up(&stage.declare(&name, &with(user(), "scopes", scopes.clone())).await);
        up(&stage.poll(&name).await);
        assert_eq!(stage.issued(), number + 1, "{scopes}");
    }
}

#[tokio::test]
async fn a_token_that_dies_early_costs_no_poll_anything() {
    for (scopes, header) in [("bearer", None), ("jwt", None), ("permanent", Some("X-Auth-Token"))] {
        let stage = Stage::start(Level::Authorization).await;
        let mut block = with(user(), "scopes", json!([scopes]));
        if let Some(header) = header {
            block["header"] = header.into();
        }
        up(&stage.declare("a", &block).await);
        for issued in 2..4 {
            pass(AGED).await;
            stage.keyrock.revoke_all();
            stage.wilma.forget();
            up(&stage.poll("a").await);
            assert_eq!(stage.issued(), issued, "{scopes}: one new token for all calls");
        }
    }
}

#[tokio::test]
async fn a_token_that_has_come_to_its_end_is_replaced_in_time() {
    let stage = Stage::start(Level::Authorization).await;
    stage.keyrock.set_lifetime(Duration::from_secs(600));
    up(&stage.declare("a", &user()).await);
    for time in [700, 2_000] {
        pass(Duration::from_secs(time)).await;
        stage.keyrock.pass(Duration::from_secs(time));
        stage.wilma.pass(Duration::from_secs(time));
        let before = stage.issued();
        up(&stage.poll("a").await);
        assert_eq!(stage.issued(), before + 1);
    }
}

#[tokio::test]
async fn what_no_token_helps_against_is_not_asked_for_again_and_again() {
    let stage = Stage::start(Level::Authorization).await;
    stage.keyrock.add(User::with_role(USER, PASSWORD, APPLICATION, &[]));
    down(&stage.declare("a", &user()).await, Reason::Auth, &["401"]);
    for _ in 0..5 {
        down(&stage.poll("a").await, Reason::Auth, &["401"]);
    }
    assert!(stage.issued() <= 2, "{:?}", stage.keyrock.asked());
    // Once the role is right, the next polls succeed.
    stage.keyrock.add(User::with_role(USER, PASSWORD, APPLICATION, &PATHS));
    stage.wilma.forget();
    pass(AGED).await;
    up(&stage.poll("a").await);
}

#[tokio::test]
async fn each_mistake_is_answered_with_what_to_do_and_stands_on_the_page() {
    const OTHER: &str = "c6d7f0a1-1111-4222-8333-944455556666";
    let mut stage = Stage::start(Level::Authorization).await;
    let keyrock = stage.keyrock.clone();
    let without = |change: fn(&mut Application)| {
        let mut application = Application::new(APPLICATION, SECRET);
        change(&mut application);
        keyrock.register(application);
    };
    let plain = |key: &str| json!({ "name": "plain", "key": key });
    let mut messages = Vec::new();
    // In Keyrock, and in the manifest.
    without(|application| {
        application.grants.remove(&Grant::Password);
    });
    let grant = stage.declare("grant", &user()).await;
    messages.push(down(&grant, Reason::Auth, &["token: ", "unauthorized_client", "enable password"]));
    without(|application| {
        application.grants.remove(&Grant::ClientCredentials);
    });
    let grant = stage.declare("other-grant", &json!({})).await;
    messages.push(down(&grant, Reason::Auth, &["token: ", "unauthorized_client", "enable client_credentials"]));
    without(|application| application.token_types.clear());
    let jwt = with(user(), "scopes", json!(["jwt"]));
    messages.push(down(&stage.declare("kind-of-token", &jwt).await, Reason::Auth, &["token: ", "invalid_scope"]));
    without(|_| ());
    let secret = with(user(), "clientSecret", plain("wrong"));
    messages.push(down(&stage.declare("secret", &secret).await, Reason::Auth, &["token: ", "invalid_client"]));
    let password = json!({ "user": { "username": plain(USER), "password": plain("wrong") } });
    messages.push(down(&stage.declare("password", &password).await, Reason::Auth, &["token: ", "invalid_grant"]));
    let path = with(user(), "tokenUrl", format!("http://{}/oauth/token", stage.idm_address));
    messages.push(down(&stage.declare("path", &path).await, Reason::Auth, &["token: ", "404"]));
    stage.keyrock.token_switch().set(Mode::Html);
    // A url of its own: what is found out about an endpoint holds for all its tokens, for a second at least.
    let page = with(user(), "tokenUrl", format!("http://{}/oauth2/token?page", stage.idm_address));
    messages.push(down(&stage.declare("page", &page).await, Reason::Auth, &["token: ", "tokenUrl"]));
    stage.keyrock.token_switch().set(Mode::Healthy);
    // In Wilma, and in the roles of the user.
    let no_user = json!({ "scopes": ["no-user"] });
    messages.push(down(&stage.declare("no-user", &no_user).await, Reason::Auth, &["401"]));
    for (name, paths) in
        [("no-role", &[][..]), ("a-path-less", &PATHS[1..]), ("slashes", &["/admin/metrics/", "/statistics/"])]
    {
        stage.keyrock.add(User::with_role(name, PASSWORD, APPLICATION, paths));
        let block = json!({ "user": { "username": plain(name), "password": plain(PASSWORD) } });
        messages.push(down(&stage.declare(name, &block).await, Reason::Auth, &["admin_metrics: ", "401"]));
    }
    stage.keyrock.register(Application::new(OTHER, SECRET));
    let other = json!({ "clientId": { "secret": plain(OTHER) } });
    messages.push(down(&stage.declare("other-application", &other).await, Reason::HttpStatus, &["500"]));
    let other = with(user(), "clientId", json!({ "secret": plain(OTHER) }));
    messages.push(down(&stage.declare("user-of-other", &other).await, Reason::Auth, &["401"]));
    stage.idm = None;
    let nobody = with(user(), "scopes", json!(["nobody"]));
    messages.push(down(&stage.declare("nobody", &nobody).await, Reason::Auth, &["token: "]));

    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/keyrock.md")).unwrap();
    let (_, table) = page.split_once("| message | mistake | what to do |\n|---|---|---|\n").unwrap();
    let rows: Vec<&str> = table.lines().map_while(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(rows.len() > 5, "{rows:?}");
    for row in &rows {
        assert!(messages.iter().any(|message| message.contains(row)), "nothing says {row:?}: {messages:#?}");
    }
    for message in &messages {
        assert!(rows.iter().any(|row| message.contains(row)), "the page does not have {message:?}");
    }
}

#[tokio::test]
async fn a_token_endpoint_out_of_order_is_said_as_such_and_recovers() {
    for (mode, words) in [
        (Mode::Status(500), "500"),
        (Mode::Status(503), "503"),
        (Mode::Html, "JSON"),
        (Mode::Empty, "token"),
        (Mode::Truncated, "JSON"),
    ] {
        let stage = Stage::start(Level::Authorization).await;
        stage.keyrock.token_switch().set(mode);
        down(&stage.declare("a", &user()).await, Reason::Auth, &["token: ", words]);
        stage.keyrock.token_switch().set(Mode::Healthy);
        pass(Duration::from_secs(61)).await;
        up(&stage.poll("a").await);
    }
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_found_again_and_one_that_is_slow_is_waited_for() {
    let mut stage = Stage::start(Level::Authorization).await;
    stage.idm = None;
    let probed = stage.declare("a", &user()).await;
    down(&probed, Reason::Auth, &["token: "]);
    let listener = tokio::net::TcpListener::bind(stage.idm_address).await.unwrap();
    stage.idm = Some(Simulated::on(listener, stage.keyrock.routes()).unwrap());
    stage.keyrock.set_delay(Duration::from_secs(1));
    pass(Duration::from_secs(61)).await;
    up(&stage.poll("a").await);
}

#[tokio::test]
async fn an_outage_of_keyrock_is_not_felt_while_the_token_lasts() {
    let stage = Stage::start(Level::Authorization).await;
    up(&stage.declare("a", &user()).await);
    for mode in [Mode::Status(500), Mode::Html, Mode::Hang] {
        stage.keyrock.token_switch().set(mode);
        pass(AGED).await;
        up(&stage.poll("a").await);
    }
    assert_eq!(stage.issued(), 1);
}

#[tokio::test]
async fn what_wilma_cannot_read_is_a_500_and_leaves_the_token_alone() {
    let stage = Stage::start(Level::Authorization).await;
    up(&stage.declare("a", &user()).await);
    stage.wilma.forget();
    stage.keyrock.decision_switch().set(Mode::Html);
    pass(AGED).await;
    down(&stage.poll("a").await, Reason::HttpStatus, &["500"]);
    stage.keyrock.decision_switch().set(Mode::Healthy);
    up(&stage.poll("a").await);
    assert_eq!(stage.issued(), 1);
}

/// The three servers that the command `simulate` starts with these flags, and the manifest of a target for them.
fn simulated(flags: &[&str]) -> (Running, String) {
    const FREE: &str = "127.0.0.1:0,127.0.0.1:0";
    let arguments = [&["simulate", "Wilma", "--listen-address", FREE, "--token", PASSWORD], flags].concat();
    let mut server = Running::spawn(command(arguments));
    let said = server.wait("what to know of it", |server| {
        let said = server.stdout();
        said.ends_with('\n').then_some(said).filter(|said| said.contains(", its user "))
    });
    let addresses: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("listening on ")).collect();
    let known = said.lines().find_map(|line| line.strip_prefix("the application is ")).unwrap();
    let (application, user) = known.split_once(", its user ").unwrap();
    let (user, _) = user.split_once(';').unwrap();
    let [wilma, keyrock] = addresses[..] else { panic!("{said}") };
    let manifest = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: a, namespace: fiware }}\nspec:\n  type: Orion\n  \
         url: http://{wilma}/\n  timeout: 60s\n  interval: 60s\n  oauth2:\n    clientId: {{ secret: {{ name: k, key: id }} }}\n    \
         clientSecret: {{ name: k, key: password }}\n    tokenUrl: http://{keyrock}/oauth2/token\n    \
         user: {{ username: {{ name: k, key: user }}, password: {{ name: k, key: password }} }}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{ name: k, namespace: fiware }}\n\
         stringData: {{ id: {application}, user: {user}, password: {PASSWORD} }}\n"
    );
    (server, manifest)
}

/// What `probe` says of them.
fn probe_of_simulated(flags: &[&str]) -> support::program::Said {
    let (_server, manifest) = simulated(flags);
    said_to(&mut command(["probe", "--debug", "-"]), &manifest, PATIENCE)
}

#[test]
fn the_simulated_servers_of_the_command_line_are_such_a_stage() {
    let probe = probe_of_simulated(&[]);
    assert!(probe.good() && probe.stdout.contains("\norion_up 1"), "{}{}", probe.stdout, probe.stderr);
    assert!(!probe.stdout.contains(PASSWORD) && !probe.stderr.contains(PASSWORD), "{}{}", probe.stdout, probe.stderr);
    let probe = probe_of_simulated(&["--fault", "error"]);
    assert!(!probe.good() && probe.stderr.contains("token: "), "{}{}", probe.stdout, probe.stderr);
    let probe = probe_of_simulated(&["--fault", "bad-decisions"]);
    assert!(!probe.good() && probe.stderr.contains("answered 500"), "{}{}", probe.stdout, probe.stderr);
    let probe = probe_of_simulated(&["--fault", "slow-tokens"]);
    let took = "probe_call_duration_seconds{call=\"token\"} ";
    let took = probe.stdout.lines().find_map(|line| line.strip_prefix(took)).unwrap();
    assert!(probe.good() && took.parse::<f64>().unwrap() >= 3.0, "{took}");
}

#[tokio::test]
async fn tokens_that_the_simulated_keyrock_has_lost_are_replaced() {
    let (_server, manifest) = simulated(&["--fault", "lost-tokens"]);
    let manifest = manifest.replace("timeout: 60s\n  interval: 60s", "interval: 1s");
    let folder = folder_with([("a.yaml", manifest.as_str())]);
    let service = Running::ready(folder.path(), [""; 0]).await;
    let second = "scrapetarget_token_requests_total{outcome=\"success\"} 2";
    service.until("/metrics", |_, body| body.lines().any(|line| line == second).then_some(())).await;
    let up = |status, body: &str| (status == 200 && body.lines().any(|line| line == "orion_up 1")).then_some(());
    service.until("/probe?target=fiware/a", up).await;
}
