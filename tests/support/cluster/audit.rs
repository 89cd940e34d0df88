//! What the API server was asked: its audit log.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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

/// The log as far as it was read: tests that wait for a line ask again and again.
#[derive(Default)]
pub(super) struct Audit {
    offset: u64,
    /// What takes long has a line for its beginning and another for its end.
    seen: BTreeSet<String>,
    lines: Vec<AuditLine>,
}

impl Audit {
    /// Every request of the log in its order. A watch counts as soon as it has begun.
    pub(super) fn read(&mut self, file: &Path) -> Vec<AuditLine> {
        let mut file = File::open(file).unwrap();
        file.seek(SeekFrom::Start(self.offset)).unwrap();
        let mut new = Vec::new();
        file.read_to_end(&mut new).unwrap();
        // The last line may be half written.
        new.truncate(new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.offset += u64::try_from(new.len()).unwrap();
        for text in String::from_utf8(new).unwrap().lines() {
            let event: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            if self.seen.insert(event["auditID"].as_str().unwrap_or_default().to_owned()) {
                self.lines.push(line(&event));
            }
        }
        self.lines.clone()
    }
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
