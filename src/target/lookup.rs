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
    /// The object is there but must not be read.
    #[error("{kind} {namespace}/{name} cannot be read: {why}")]
    Refused {
        /// Secret or ConfigMap.
        kind: ObjectKind,
        /// The target's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// Who refuses, and what would allow it.
        why: String,
    },
}
