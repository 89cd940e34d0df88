//! Permissions are in force a moment after they were written: the API server follows its roles by a watch. Who goes on before that meets
//! a refusal, or a permission that was taken away.

use std::collections::BTreeSet;

use http::Request;
use kube::Client;
use serde_json::{Value, json};

use super::super::eventually::{PATIENCE, eventually};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Questions whether somebody may do something, each the spec of a `SubjectAccessReview` as text.
pub(super) type Questions = BTreeSet<String>;

/// Everything that the bindings among these objects permit, by the roles as they are in the cluster.
pub(super) async fn permitted(client: &Client, objects: &[Value]) -> Questions {
    let mut questions = Questions::new();
    for binding in objects {
        let is_binding = matches!(binding["kind"].as_str(), Some("RoleBinding" | "ClusterRoleBinding"));
        if !is_binding || !binding["apiVersion"].as_str().is_some_and(|version| version.starts_with(GROUP)) {
            continue;
        }
        let namespace = binding["metadata"]["namespace"].as_str();
        let role = role(client, namespace, &binding["roleRef"]).await;
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            for rule in role["rules"].as_array().into_iter().flatten() {
                questions.extend(questions_of(subject, namespace, rule));
            }
        }
    }
    questions
}

/// The role that a binding names; null if there is none.
async fn role(client: &Client, namespace: Option<&str>, reference: &Value) -> Value {
    let name = reference["name"].as_str().unwrap_or_default();
    let path = match (reference["kind"].as_str(), namespace) {
        (Some("Role"), Some(namespace)) => format!("/apis/{GROUP}/v1/namespaces/{namespace}/roles/{name}"),
        _ => format!("/apis/{GROUP}/v1/clusterroles/{name}"),
    };
    client.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap_or_default()
}

/// One for each verb, resource and name of a rule.
fn questions_of(subject: &Value, namespace: Option<&str>, rule: &Value) -> Vec<String> {
    let texts = |list: &Value| -> Vec<String> {
        let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.map(ToOwned::to_owned).collect()
    };
    let name = subject["name"].as_str().unwrap_or_default();
    let (user, groups) = match subject["kind"].as_str() {
        Some("ServiceAccount") => {
            (format!("system:serviceaccount:{}:{name}", subject["namespace"].as_str().unwrap_or_default()), vec![])
        }
        Some("Group") => (String::new(), vec![name]),
        _ => (name.to_owned(), vec![]),
    };
    let names =
        Some(texts(&rule["resourceNames"])).filter(|names| !names.is_empty()).unwrap_or_else(|| vec![String::new()]);
    let mut questions = Vec::new();
    for group in texts(&rule["apiGroups"]) {
        for resource in texts(&rule["resources"]) {
            let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
            for verb in texts(&rule["verbs"]) {
                for name in &names {
                    let asked = json!({
                        "group": group, "resource": resource, "subresource": subresource, "verb": verb, "name": name,
                        "namespace": namespace.unwrap_or_default(),
                    });
                    questions.push(json!({ "user": user, "groups": groups, "resourceAttributes": asked }).to_string());
                }
            }
        }
    }
    questions
}

/// What was permitted before and is not any more. Who may do something to all may do it to one of them.
pub(super) fn taken_away(before: &Questions, now: &Questions) -> Questions {
    let to_all = |question: &String| {
        let mut spec: Value = serde_json::from_str(question).unwrap();
        spec["resourceAttributes"]["name"] = "".into();
        spec.to_string()
    };
    before.iter().filter(|question| !now.contains(*question) && !now.contains(&to_all(question))).cloned().collect()
}

/// Waits until the API server answers each of these questions so.
pub(super) async fn until_answered(client: &Client, questions: &Questions, wanted: bool) {
    for question in questions {
        let spec: Value = serde_json::from_str(question).unwrap();
        let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
        eventually(PATIENCE, async || {
            let post = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews");
            let post = post.header("content-type", "application/json").body(review.to_string().into_bytes()).unwrap();
            let answer: Value = client.request(post).await.map_err(|error| error.to_string())?;
            let is_so = answer["status"]["allowed"].as_bool().unwrap_or_default() == wanted;
            is_so.then_some(()).ok_or_else(|| format!("permitted is {}: {question}", !wanted))
        })
        .await;
    }
}
