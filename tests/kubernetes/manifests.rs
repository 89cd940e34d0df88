//! The table of good and bad manifests before a real API server: it judges as `check` and file mode do, in the same words.

use axum::http::Request;
use futures::StreamExt;
use kube::Client;
use scrapetarget_exporter::crd::{self, rules};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::manifests::{Case, Expect, table};

/// The words for what `check` explains better: they are the API server's own, and no rule of ours can change them.
const OTHER_WORDS: [&str; 3] =
    ["unknown field", "name or generateName is required", "does not match the expected API version"];

/// What the API server says to a manifest as it stands in the file: its words, and the fields that it blames.
async fn answer(client: &Client, namespace: &str, text: &str) -> Result<(), (String, Vec<String>)> {
    let path = format!("/apis/{}/namespaces/{namespace}/scrapetargets", crd::API_VERSION);
    let request = Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"));
    let request = request.header("content-type", "application/yaml").body(text.as_bytes().to_vec()).unwrap();
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            Err((status.message, causes.into_iter().map(|cause| cause.field).collect()))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether the API server means the place that we call `path`: it writes an entry of a map as `labels.a`, which is ambiguous, we write
/// `labels[a]`; and where a rule of ours on the keys of a map fails, it can only name the map.
fn is_same(field: &str, path: &str) -> bool {
    let plain = |place: &str| place.replace('[', ".").replace(']', "");
    let map = path.ends_with(']').then(|| path.rsplit_once('[')).flatten();
    plain(field) == plain(path) || map.is_some_and(|(map, _)| field == map)
}

/// What is wrong with the API server's answer.
fn judged(case: &Case, answer: &Result<(), (String, Vec<String>)>) -> Option<String> {
    let (right, answer) = match (&case.expect, answer) {
        (Expect::Good, answer) => (answer.is_ok(), answer),
        (Expect::Refused(sentence), answer @ Err((words, fields))) => {
            let problems = crd::judge(&case.manifest).unwrap_err();
            // An unknown field stands in the words alone. A sentence of a rule is ours to the letter; to others we add advice.
            let blamed = |path: &str| fields.is_empty() || fields.iter().any(|field| is_same(field, path));
            let said = |ours: &str| words.contains(ours) || rules::all().iter().all(|rule| rule.message != ours);
            let blamed = problems.iter().all(|problem| blamed(&problem.path) && said(&problem.message));
            (words.contains(sentence) && blamed, answer)
        }
        (Expect::RefusedOffline(_), answer @ Err((words, _))) => {
            (OTHER_WORDS.iter().any(|other| words.contains(other)), answer)
        }
        (Expect::RefusedOffline(_), answer @ Ok(())) => (true, answer),
        (Expect::Refused(_), answer @ Ok(())) => (false, answer),
    };
    (!right).then(|| format!("{}: {:?}, but {answer:?}", case.place, case.expect))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_answers_every_manifest_as_the_table_says() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("manifests");
    let client = cluster.client();
    let cases = table();
    let asked = cases.iter().map(|case| {
        let answer = answer(&client, &namespace, &case.text);
        async { judged(case, &answer.await) }
    });
    let wrong: Vec<String> =
        futures::stream::iter(asked).buffer_unordered(8).filter_map(std::future::ready).collect().await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
