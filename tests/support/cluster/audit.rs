//! What the API server was asked: its audit log.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

/// Who asked what, never the content. The API server's questions to itself are left out.
pub(super) const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - { level: None, users: ["system:apiserver"] }
  - { level: Metadata }
"#;

/// One request.
#[derive(Clone, Debug)]
pub struct AuditLine {
    /// `system:serviceaccount:NAMESPACE:NAME`, or `admin`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// In the plural: `scrapetargets`. Empty for what is no resource, such as `/apis`.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Empty for all namespaces.
    pub namespace: String,
    /// Empty for lists and watches of more than one object.
    pub name: String,
    /// The path with its query.
    pub uri: String,
    /// The HTTP status of the answer.
    pub code: u64,
    /// When the request came.
    pub at: Timestamp,
}

/// Every request of the log in its order. A watch counts as soon as it has begun.
pub(super) fn read(file: &Path) -> Vec<AuditLine> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    // What takes long has a line for its beginning and another for its end.
    let mut seen = BTreeSet::new();
    whole
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .filter(|event| seen.insert(event["auditID"].as_str().unwrap_or_default().to_owned()))
        .map(|event| line(&event))
        .collect()
}

fn line(event: &Value) -> AuditLine {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    AuditLine {
        user: text("/user/username"),
        verb: text("/verb"),
        resource: text("/objectRef/resource"),
        subresource: text("/objectRef/subresource"),
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        uri: text("/requestURI"),
        code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
        at: text("/requestReceivedTimestamp").parse().unwrap(),
    }
}
