//! Which targets refer to which keys, and the values that were read of these keys. It knows no times and reads nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};

use super::SecretRef;
use super::read::{ReadError, ReadResult};
use super::schedule::ReadOutcome;
use crate::crd::Reference;
use crate::target::{LookupError, TargetId};

/// The result of the last read of a key.
#[derive(Debug)]
enum CachedState {
    Value(SecretSlice<u8>),
    /// The object exists and lacks the key.
    Missing,
    /// The object could not be used.
    Failed(ReadError),
}

impl CachedState {
    /// What the owner of the object must change, for the log of the exporter.
    fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("the object lacks the key"),
            Self::Failed(ReadError::NotFound) => Some("the object does not exist"),
            Self::Failed(ReadError::LabelMissing) => Some("the Secret lacks the label of --secret-label"),
            Self::Value(_) | Self::Failed(ReadError::Forbidden(_) | ReadError::Unavailable(_)) => None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(this), Self::Value(that)) => this.expose_secret() == that.expose_secret(),
            (Self::Missing, Self::Missing) => true,
            (Self::Failed(this), Self::Failed(that)) => this == that,
            _ => false,
        }
    }
}

/// A key that some target refers to.
#[derive(Debug, Default)]
struct CachedKey {
    /// The targets, each with whether its reference is optional.
    referrers: HashMap<TargetId, bool>,
    /// `None`: it was not read yet.
    state: Option<CachedState>,
}

impl CachedKey {
    /// Whether a target waits for the owner of the object to create or label it, or to add the key.
    fn is_awaited(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.problem().is_some())
            && self.referrers.values().any(|optional| !optional)
    }

    /// Whether there is a result other than an API server that did not answer.
    fn is_cached(&self) -> bool {
        !matches!(self.state, None | Some(CachedState::Failed(ReadError::Unavailable(_))))
    }
}

/// An object that some target refers to.
#[derive(Debug, Default)]
struct CachedObject {
    keys: HashMap<Arc<str>, CachedKey>,
    /// The last read was denied, after one that was not. A denial replaces a value only when it is repeated.
    denied_once: bool,
}

/// What follows from a change of references.
#[derive(Debug, Default)]
pub(super) struct ReferenceChanges {
    /// Objects with a key that was never read.
    pub(super) unread: Vec<SecretRef>,
    /// Objects to which no target refers any more.
    pub(super) removed: Vec<SecretRef>,
}

/// The references of a target: keys, each with whether it is optional.
type TargetReferences = BTreeMap<(SecretRef, Arc<str>), bool>;

/// All objects that targets refer to.
#[derive(Debug, Default)]
pub(super) struct ValueStore {
    /// Only those that refer to something.
    targets: HashMap<TargetId, TargetReferences>,
    objects: HashMap<SecretRef, CachedObject>,
}

impl ValueStore {
    /// Replaces the references of a target.
    pub(super) fn set_references(&mut self, id: &TargetId, references: &[Reference<'_>]) -> ReferenceChanges {
        let mut after = TargetReferences::new();
        for reference in references {
            let Reference { kind, name, key, optional, .. } = *reference;
            let object = SecretRef { kind, namespace: Arc::clone(&id.namespace), name: name.into() };
            *after.entry((object, key.into())).or_insert(true) &= optional;
        }
        let mut changes = ReferenceChanges::default();
        for ((object, key), optional) in &after {
            let keys = &mut self.objects.entry(object.clone()).or_default().keys;
            let key = keys.entry(Arc::clone(key)).or_default();
            key.referrers.insert(id.clone(), *optional);
            if key.state.is_none() && changes.unread.last() != Some(object) {
                changes.unread.push(object.clone());
            }
        }
        for reference in self.targets.remove(id).unwrap_or_default().into_keys() {
            if !after.contains_key(&reference) && self.remove_reference(id, &reference.0, &reference.1) {
                changes.removed.push(reference.0);
            }
        }
        if !after.is_empty() {
            self.targets.insert(id.clone(), after);
        }
        changes
    }

    /// Returns whether no target refers to the object any more.
    fn remove_reference(&mut self, id: &TargetId, object: &SecretRef, key: &Arc<str>) -> bool {
        let Entry::Occupied(mut entry) = self.objects.entry(object.clone()) else { return false };
        let keys = &mut entry.get_mut().keys;
        if let Entry::Occupied(mut key) = keys.entry(Arc::clone(key)) {
            key.get_mut().referrers.remove(id);
            if key.get().referrers.is_empty() {
                key.remove();
            }
        }
        let is_unused = keys.is_empty();
        if is_unused {
            entry.remove();
        }
        is_unused
    }

    /// The objects that a target refers to.
    pub(super) fn objects_of(&self, id: &TargetId) -> impl Iterator<Item = &SecretRef> {
        self.targets.get(id).into_iter().flatten().map(|((object, _), _)| object)
    }

    /// The keys of an object that targets refer to.
    pub(super) fn keys(&self, object: &SecretRef) -> Vec<Arc<str>> {
        self.objects.get(object).map(|object| object.keys.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether every reference of a target was read, with or without success.
    pub(super) fn is_read(&self, id: &TargetId) -> bool {
        self.targets.get(id).into_iter().flatten().all(|((object, key), _)| self.key_state(object, key).is_some())
    }

    fn key_state(&self, object: &SecretRef, key: &str) -> Option<&CachedState> {
        self.objects.get(object)?.keys.get(key)?.state.as_ref()
    }

    /// Stores the result of a read of the keys `names`. Returns what it means for the next read, and the targets whose values have changed,
    /// provided that all their references were read.
    pub(super) fn store(
        &mut self,
        id: &SecretRef,
        names: &[Arc<str>],
        mut result: ReadResult,
    ) -> (ReadOutcome, Vec<TargetId>) {
        let Some(object) = self.objects.get_mut(id) else { return (ReadOutcome::Complete, Vec::new()) };
        let has_value = object.keys.values().any(|key| matches!(key.state, Some(CachedState::Value(_))));
        // An API server that has just started denies everything until it knows the Roles: a single denial does not replace a value.
        let is_doubtful = matches!(result, Err(ReadError::Forbidden(_))) && has_value && !object.denied_once;
        object.denied_once = is_doubtful;
        let is_unanswered = matches!(result, Err(ReadError::Unavailable(_)));
        if is_unanswered {
            tracing::debug!(object = %id, "not read, older values stay in use");
        }
        let mut referrers = HashSet::new();
        for name in names {
            let Some(key) = object.keys.get_mut(name) else { continue };
            if (is_unanswered || is_doubtful) && key.is_cached() {
                continue;
            }
            let state = match &mut result {
                Ok(values) => values.remove(name).map_or(CachedState::Missing, CachedState::Value),
                Err(error) => CachedState::Failed(error.clone()),
            };
            if !key.state.as_ref().is_some_and(|before| before.is_same(&state)) {
                if let Some(problem) = state.problem() {
                    // The status of the target does not say this much: its readers may not be allowed to know.
                    tracing::debug!(object = %id, key = %name, "{problem}");
                }
                referrers.extend(key.referrers.keys().cloned());
                key.state = Some(state);
            }
        }
        let keys = || object.keys.values();
        let outcome = if keys().any(|key| key.state.is_none()) {
            ReadOutcome::Incomplete
        } else if is_unanswered {
            ReadOutcome::Unanswered { is_cached: keys().all(CachedKey::is_cached) }
        } else if is_doubtful || keys().any(CachedKey::is_awaited) {
            ReadOutcome::Missing
        } else {
            ReadOutcome::Complete
        };
        (outcome, referrers.into_iter().filter(|target| self.is_read(target)).collect())
    }

    /// The value of a key, for a target. The message of a failure does not say which part of the `condition` is not met.
    pub(super) fn value(&self, object: &SecretRef, key: &str, condition: &str) -> Result<Vec<u8>, LookupError> {
        let (kind, namespace, name) = (object.kind, object.namespace.to_string(), object.name.to_string());
        match self.key_state(object, key) {
            Some(CachedState::Value(value)) => Ok(value.expose_secret().to_vec()),
            Some(CachedState::Missing | CachedState::Failed(ReadError::NotFound | ReadError::LabelMissing)) => {
                let (key, condition) = (key.to_owned(), condition.to_owned());
                Err(LookupError::NotFound { kind, namespace, name, key, condition })
            }
            Some(CachedState::Failed(ReadError::Forbidden(why))) => {
                Err(LookupError::Forbidden { kind, namespace, name, why: why.to_string() })
            }
            Some(CachedState::Failed(ReadError::Unavailable(why))) => {
                Err(LookupError::Unread { kind, namespace, name, why: why.to_string() })
            }
            None => {
                let why = "the API server has not answered yet".to_owned();
                Err(LookupError::Unread { kind, namespace, name, why })
            }
        }
    }
}
