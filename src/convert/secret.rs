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

/// The end of the name of a Secret whose values stand elsewhere.
pub(super) const OF_FILES: &str = "-files";

/// The longest key of a Secret, with room for a number.
const MAX_KEY: usize = 240;

/// The Secrets of one module: one with the values that stand in the input, one with those that stand elsewhere, so that each can be made
/// by one command.
#[derive(Debug, Default)]
pub(super) struct ModuleSecrets {
    /// The name of the first; that of the second has [`OF_FILES`] at its end.
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
        // As it must be, whatever header it is of.
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let key: String = key.chars().take(MAX_KEY).map(|c| if valid(c) { c } else { '-' }).collect();
        let mut own = key.clone();
        let mut number = 2;
        while self.credentials.contains_key(&own) {
            own = format!("{key}-{number}");
            number += 1;
        }
        let (line, path) = at;
        let name = match &source {
            CredentialSource::Inline(_) => self.name.clone(),
            CredentialSource::File(_) | CredentialSource::Reference(_) => format!("{}{OF_FILES}", self.name),
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
        let elsewhere = NeededSecret { name: format!("{}{OF_FILES}", self.name), values: Vec::new(), files };
        let both = [inline, elsewhere].into_iter();
        both.filter(|secret| !secret.values.is_empty() || !secret.files.is_empty()).collect()
    }
}

/// Parts of names of what only some may know, in small letters and with hyphens.
const CONFIDENTIAL: [&str; 12] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "session",
    "signature",
    "apikey",
    "-key",
];

/// Words of protocols, and names of fields, that a password follows.
const BEFORE_PASSWORDS: [&str; 6] = ["pass", "auth", "login", "authenticate", "pwd", "key"];

/// A value that should not be readable by everyone who may read targets, judged by the name of what holds it.
pub(super) fn is_confidential(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    CONFIDENTIAL.iter().any(|word| name.contains(word))
}

/// Whether a text that is sent to a server has a password in it, judged by the words before passwords. Rather too many than too few.
pub(super) fn has_password(text: &str) -> bool {
    is_confidential(text) || has_word_before_password(text)
}

/// Whether a text is the command of SMTP that begins a login, and nothing else: the server asks for name and password then.
pub(super) fn only_begins_login(text: &str) -> bool {
    matches!(text.trim(), "AUTH" | "AUTH LOGIN" | "AUTH PLAIN")
}

/// Whether a text has a word such as `AUTH`, as a whole word.
pub(super) fn has_word_before_password(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| BEFORE_PASSWORDS.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

/// A text as the value of a Secret. Whatever reads one removes a newline at its end, so that one more is needed.
pub(super) fn with_newline_kept(text: &str) -> String {
    let more = if text.ends_with('\n') { "\n" } else { "" };
    format!("{text}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_password_is_known_by_its_words() {
        for name in
            ["Authorization", "X-Api-Key", "X_ACCESS_KEY", "apikey", "Cookie", "X-Session-Id", "X-Amz-Signature"]
        {
            assert!(is_confidential(name), "{name}");
        }
        for name in ["Accept", "Host", "Content-Type", "Keep-Alive", "X-Team", "Origin"] {
            assert!(!is_confidential(name), "{name}");
        }
        for text in [
            "PASS hunter2\r",
            "AUTH PLAIN AGEAaHVudGVyMg==",
            "a1 LOGIN alice hunter2",
            "user=alice&pass=hunter2",
            r#"{"api_key": "hunter2"}"#,
            "password=hunter2",
        ] {
            assert!(has_password(text), "{text}");
        }
        for text in
            ["EHLO prober\r", "QUIT", "STARTTLS", "NICK prober", r#"{"probe": true}"#, "PASSIVE", "monkey", "PONG ${1}"]
        {
            assert!(!has_password(text), "{text}");
        }
    }
}
