//! Where the values of Secrets and ConfigMaps come from: files, or the cluster. A target never sees which.

use crate::crd::ObjectKind;

/// Reads values of Secrets and ConfigMaps of one namespace.
pub trait Lookup {
    /// The value of `key`, as it is stored: base64 is decoded, a trailing newline is still there.
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError>;
}

/// A reference that leads nowhere: the user must create the object or the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such object.
    #[error("{kind} {namespace}/{name} does not exist")]
    NoObject {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// The object lacks the key.
    #[error("{kind} {namespace}/{name} has no key {key:?}")]
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
    /// We may not read it: whoever installed the exporter must allow it.
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
    /// It must not be used: whoever owns it must say that targets may.
    #[error("{kind} {namespace}/{name} may not be used: {why}")]
    NotAllowed {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// What would allow it.
        why: String,
    },
    /// It has never been read, since nobody answers; this ends by itself.
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

impl LookupError {
    /// One word in CamelCase that says what must be done: the reason of the condition `Accepted`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoObject { kind: ObjectKind::Secret, .. } => "SecretNotFound",
            Self::NoObject { kind: ObjectKind::ConfigMap, .. } => "ConfigMapNotFound",
            Self::NoKey { kind: ObjectKind::Secret, .. } => "SecretKeyNotFound",
            Self::NoKey { kind: ObjectKind::ConfigMap, .. } => "ConfigMapKeyNotFound",
            Self::Forbidden { kind: ObjectKind::Secret, .. } => "SecretForbidden",
            Self::Forbidden { kind: ObjectKind::ConfigMap, .. } => "ConfigMapForbidden",
            Self::NotAllowed { kind: ObjectKind::Secret, .. } => "SecretNotAllowed",
            Self::NotAllowed { kind: ObjectKind::ConfigMap, .. } => "ConfigMapNotAllowed",
            Self::Unread { kind: ObjectKind::Secret, .. } => "SecretUnread",
            Self::Unread { kind: ObjectKind::ConfigMap, .. } => "ConfigMapUnread",
        }
    }
}
