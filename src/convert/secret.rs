//! Credentials: where a target will read each from, and what the user must put there.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::report::Reporter;

/// Where a credential stands in the input.
pub(super) enum CredentialSource {
    /// In the input itself.
    Inline(String),
    /// In a file, which is not read: it may be on another machine.
    File(String),
    /// In a secret manager of the exporter, under a name.
    Reference(String),
}

/// Its Debug shows no password.
impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline(_) => "Inline(…)",
            Self::File(_) => "File",
            Self::Reference(_) => "Reference",
        })
    }
}

/// The Secrets of one module: one with the values that stand in the input, one with those that stand elsewhere, so that each can be made
/// by one command.
#[derive(Debug, Default)]
pub(super) struct ModuleSecrets {
    /// The name of the first; that of the second ends in `-files`.
    name: String,
    pub(super) credentials: BTreeMap<String, CredentialSource>,
}

/// A Secret that targets refer to.
#[derive(Debug)]
pub(super) struct NeededSecret<'m> {
    pub(super) name: String,
    /// Keys with the values of the input.
    pub(super) values: Vec<(&'m str, &'m str)>,
    /// Keys with files, or other names under which the user finds the value.
    pub(super) files: Vec<(&'m str, &'m str)>,
}

impl ModuleSecrets {
    pub(super) fn new(name: String) -> Self {
        Self { name, credentials: BTreeMap::new() }
    }

    /// Adds a credential, and returns the reference to it. A field that is not the only one of its key gets a key of its own.
    pub(super) fn add(
        &mut self,
        key: &str,
        source: CredentialSource,
        at: (usize, &str),
        reporter: &mut Reporter,
    ) -> Value {
        let mut own = key.to_owned();
        let mut number = 2;
        while self.credentials.contains_key(&own) {
            own = format!("{key}-{number}");
            number += 1;
        }
        let (line, path) = at;
        let name = match &source {
            CredentialSource::Inline(_) => self.name.clone(),
            CredentialSource::File(_) | CredentialSource::Reference(_) => format!("{}-files", self.name),
        };
        let whence = match &source {
            CredentialSource::Inline(_) => "the value itself is not written into the target",
            CredentialSource::File(_) => "a target reads no files",
            CredentialSource::Reference(_) => "a target uses no other secret manager than Kubernetes",
        };
        reporter.remark(line, path, format!("is read from the key {own} of the Secret {name}: {whence}"));
        self.credentials.insert(own.clone(), source);
        json!({ "name": name, "key": own })
    }

    /// The Secrets that must exist in each namespace with a target of the module.
    pub(super) fn needed(&self) -> Vec<NeededSecret<'_>> {
        let (mut values, mut files) = (Vec::new(), Vec::new());
        for (key, source) in &self.credentials {
            match source {
                CredentialSource::Inline(value) => values.push((key.as_str(), value.as_str())),
                CredentialSource::File(place) | CredentialSource::Reference(place) => {
                    files.push((key.as_str(), place.as_str()));
                }
            }
        }
        let inline = NeededSecret { name: self.name.clone(), values, files: Vec::new() };
        let elsewhere = NeededSecret { name: format!("{}-files", self.name), values: Vec::new(), files };
        let both = [inline, elsewhere].into_iter();
        both.filter(|secret| !secret.values.is_empty() || !secret.files.is_empty()).collect()
    }
}

/// A value that should not be readable by everyone who may read targets, judged by the name of what holds it.
pub(super) fn is_confidential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "auth-key"]
        .iter()
        .any(|word| name.contains(word))
}
