//! Access to the values of Secrets and ConfigMaps, which come from files or from the cluster.

use crate::crd::ObjectKind;

/// Reads values of Secrets and ConfigMaps of one namespace.
pub trait Lookup {
    /// The value of `key` as it is stored: decoded from base64, and with a trailing newline if there is one.
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError>;
}

/// A reference that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such object in files.
    #[error("{kind} {namespace}/{name} is not in any of the files: add its manifest{}", or_values(*.kind))]
    NoObject {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// The object of a file lacks the key.
    #[error("{kind} {namespace}/{name} has no key {key:?}: add it to the manifest")]
    NoKey {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// Neither a manifest nor a file has the value.
    #[error("{kind} {namespace}/{name} has no key {key:?}: no manifest has it, and {}", no_file(.places))]
    NoFile {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The missing key.
        key: String,
        /// Where the file could be; empty if there can be none.
        places: String,
    },
    /// No manifest has the value, and its file cannot be used.
    #[error("{kind} {namespace}/{name} has no key {key:?}: no manifest has it, and {why}")]
    BadFile {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
        /// The file, and what is wrong with it.
        why: String,
    },
    /// There is no such value that targets may use. It does not say whether the object, its key or its label is missing: users who may
    /// declare targets need not have permission to know this.
    #[error("there is no {kind} {namespace}/{name} with the key {key:?}{condition}")]
    NotFound {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
        /// What else is required of the object, whether it has it or not: ` and the label …`.
        condition: String,
    },
    /// The exporter has no permission to read it, which its administrator can grant.
    #[error("{kind} {namespace}/{name} may not be read: {why}")]
    Forbidden {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The permission that is missing.
        why: String,
    },
    /// It has not been read yet because the API server does not answer. This resolves itself.
    #[error("{kind} {namespace}/{name} could not be read yet: {why}")]
    Unread {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// What was tried.
        why: String,
    },
}

/// What else helps where an object is missing in files.
const fn or_values(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Secret => ", or provide its values with --secrets-directory",
        ObjectKind::ConfigMap => "",
    }
}

/// The end of the message of [`LookupError::NoFile`].
fn no_file(places: &str) -> String {
    if places.is_empty() {
        return "no file name can represent it: write it into a manifest, or rename the key".to_owned();
    }
    format!("there is no file {places}")
}

impl LookupError {
    /// Whether the value does not exist, as opposed to one that only could not be read.
    pub const fn is_not_found(&self) -> bool {
        match self {
            Self::NoObject { .. } | Self::NoKey { .. } | Self::NoFile { .. } | Self::NotFound { .. } => true,
            Self::BadFile { .. } | Self::Forbidden { .. } | Self::Unread { .. } => false,
        }
    }

    /// The reason of the condition `Accepted`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoObject { kind, .. }
            | Self::NoKey { kind, .. }
            | Self::NoFile { kind, .. }
            | Self::NotFound { kind, .. } => match kind {
                ObjectKind::Secret => "SecretNotFound",
                ObjectKind::ConfigMap => "ConfigMapNotFound",
            },
            Self::Forbidden { kind: ObjectKind::Secret, .. } => "SecretForbidden",
            Self::Forbidden { kind: ObjectKind::ConfigMap, .. } => "ConfigMapForbidden",
            Self::Unread { kind: ObjectKind::Secret, .. } | Self::BadFile { kind: ObjectKind::Secret, .. } => {
                "SecretUnread"
            }
            Self::Unread { kind: ObjectKind::ConfigMap, .. } | Self::BadFile { kind: ObjectKind::ConfigMap, .. } => {
                "ConfigMapUnread"
            }
        }
    }
}
