//! Who refers to what, and what was found there. It knows no times and reads nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};

use super::ObjectId;
use super::read::{Outcome, Trouble};
use super::schedule::Verdict;
use crate::crd::Reference;
use crate::target::{LookupError, TargetId};

/// What is known of a key.
#[derive(Debug)]
enum Finding {
    /// Its value.
    Value(SecretSlice<u8>),
    /// The object lacks it.
    NoKey,
    /// The object was not read.
    Trouble(Trouble),
}

impl Finding {
    /// What there is not, for whoever runs the exporter.
    fn missing(&self) -> Option<&'static str> {
        match self {
            Self::NoKey => Some("the object lacks the key"),
            Self::Trouble(Trouble::NoObject) => Some("the object does not exist"),
            Self::Trouble(Trouble::NotAllowed) => Some("the Secret lacks the label of --secret-label"),
            Self::Value(_) | Self::Trouble(Trouble::Forbidden(_) | Trouble::Unread(_)) => None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(this), Self::Value(that)) => this.expose_secret() == that.expose_secret(),
            (Self::NoKey, Self::NoKey) => true,
            (Self::Trouble(this), Self::Trouble(that)) => this == that,
            _ => false,
        }
    }
}

/// A key that some target refers to.
#[derive(Debug, Default)]
struct Key {
    /// Each with whether it can do without.
    wanters: HashMap<TargetId, bool>,
    /// `None`: it was not asked for yet.
    finding: Option<Finding>,
}

impl Key {
    /// Whether a target waits for its owner to create or to label it.
    fn is_missed(&self) -> bool {
        let missing =
            matches!(self.finding, Some(Finding::NoKey | Finding::Trouble(Trouble::NoObject | Trouble::NotAllowed)));
        missing && self.wanters.values().any(|optional| !optional)
    }

    /// Whether something is known that is better than nothing.
    fn is_held(&self) -> bool {
        !matches!(self.finding, None | Some(Finding::Trouble(Trouble::Unread(_))))
    }
}

/// An object that some target refers to.
#[derive(Debug, Default)]
struct Object {
    keys: HashMap<Arc<str>, Key>,
    /// It was refused for the first time after it had been read.
    doubted: bool,
}

/// What a change of references leads to.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Objects with a key that was never asked for.
    pub(super) unread: Vec<ObjectId>,
    /// Objects that nobody refers to any more.
    pub(super) gone: Vec<ObjectId>,
}

/// What each target refers to, each with whether it can do without.
type Wants = BTreeMap<(ObjectId, Arc<str>), bool>;

/// All objects that targets refer to.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Only those that refer to something.
    targets: HashMap<TargetId, Wants>,
    objects: HashMap<ObjectId, Object>,
}

impl Book {
    /// Notes what a target refers to, instead of what it referred to before.
    pub(super) fn want(&mut self, id: &TargetId, references: &[Reference<'_>]) -> Difference {
        let mut wants = Wants::new();
        for reference in references {
            let Reference { kind, name, key, optional, .. } = *reference;
            let object = ObjectId { kind, namespace: Arc::clone(&id.namespace), name: name.into() };
            let all = wants.entry((object, key.into())).or_insert(true);
            *all &= optional;
        }
        let mut difference = Difference::default();
        for ((object, key), optional) in &wants {
            let keys = &mut self.objects.entry(object.clone()).or_default().keys;
            let key = keys.entry(Arc::clone(key)).or_default();
            key.wanters.insert(id.clone(), *optional);
            if key.finding.is_none() && difference.unread.last() != Some(object) {
                difference.unread.push(object.clone());
            }
        }
        let before = if wants.is_empty() { self.targets.remove(id) } else { self.targets.insert(id.clone(), wants) };
        for (object, key) in before.unwrap_or_default().into_keys() {
            let wanted =
                self.targets.get(id).is_some_and(|wants| wants.contains_key(&(object.clone(), Arc::clone(&key))));
            if !wanted && self.drop_want(id, &object, &key) {
                difference.gone.push(object);
            }
        }
        difference
    }

    /// Returns whether nobody refers to the object any more.
    fn drop_want(&mut self, id: &TargetId, object: &ObjectId, key: &Arc<str>) -> bool {
        let Entry::Occupied(mut place) = self.objects.entry(object.clone()) else { return false };
        let keys = &mut place.get_mut().keys;
        if let Entry::Occupied(mut key) = keys.entry(Arc::clone(key)) {
            key.get_mut().wanters.remove(id);
            if key.get().wanters.is_empty() {
                key.remove();
            }
        }
        let gone = keys.is_empty();
        if gone {
            place.remove();
        }
        gone
    }

    /// The objects that a target refers to.
    pub(super) fn objects_of(&self, id: &TargetId) -> impl Iterator<Item = &ObjectId> {
        let wants = self.targets.get(id).into_iter().flatten();
        wants.map(|((object, _), _)| object)
    }

    /// The keys of an object that are wanted.
    pub(super) fn keys(&self, object: &ObjectId) -> Vec<Arc<str>> {
        self.objects.get(object).map(|object| object.keys.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether all that a target refers to has been asked for, whatever the answer was.
    pub(super) fn settled(&self, id: &TargetId) -> bool {
        let mut wants = self.targets.get(id).into_iter().flatten();
        wants.all(|((object, key), _)| self.finding(object, key).is_some())
    }

    fn finding(&self, object: &ObjectId, key: &str) -> Option<&Finding> {
        self.objects.get(object)?.keys.get(key)?.finding.as_ref()
    }

    /// Notes what a read of `asked` has brought. Returns how the object stands, and the settled targets for which it is news.
    pub(super) fn note(&mut self, id: &ObjectId, asked: &[Arc<str>], outcome: Outcome) -> (Verdict, Vec<TargetId>) {
        let Some(object) = self.objects.get_mut(id) else { return (Verdict::Known, Vec::new()) };
        let has_value = object.keys.values().any(|key| matches!(key.finding, Some(Finding::Value(_))));
        // An API server that has just started refuses until it knows all Roles: a refusal counts when it is repeated.
        let doubted = matches!(outcome, Err(Trouble::Forbidden(_))) && has_value && !object.doubted;
        object.doubted = doubted;
        let unanswered = matches!(outcome, Err(Trouble::Unread(_)));
        if unanswered {
            tracing::debug!(object = %id, "not read, older values stay");
        }
        let mut outcome = outcome;
        let mut touched = HashSet::new();
        for name in asked {
            let Some(key) = object.keys.get_mut(name) else { continue };
            if (unanswered || doubted) && key.is_held() {
                continue;
            }
            let finding = match &mut outcome {
                Ok(values) => values.remove(name).map_or(Finding::NoKey, Finding::Value),
                Err(trouble) => Finding::Trouble(trouble.clone()),
            };
            if !key.finding.as_ref().is_some_and(|before| before.is_same(&finding)) {
                if let Some(what) = finding.missing() {
                    // Only here: who reads this log may know it, who reads the status of a target need not.
                    tracing::debug!(object = %id, key = %name, "{what}");
                }
                touched.extend(key.wanters.keys().cloned());
                key.finding = Some(finding);
            }
        }
        let keys = || object.keys.values();
        let verdict = if keys().any(|key| key.finding.is_none()) {
            Verdict::Incomplete
        } else if unanswered {
            Verdict::Unanswered { held: keys().all(Key::is_held) }
        } else if doubted || keys().any(Key::is_missed) {
            Verdict::Missing
        } else {
            Verdict::Known
        };
        (verdict, touched.into_iter().filter(|target| self.settled(target)).collect())
    }

    /// What is known of a key, for a target. `condition` is what every object must have beside the key; whether it has is not told.
    pub(super) fn value(&self, object: &ObjectId, key: &str, condition: &str) -> Result<Vec<u8>, LookupError> {
        let (kind, namespace, name) = (object.kind, object.namespace.to_string(), object.name.to_string());
        match self.finding(object, key) {
            Some(Finding::Value(value)) => Ok(value.expose_secret().to_vec()),
            Some(Finding::NoKey | Finding::Trouble(Trouble::NoObject | Trouble::NotAllowed)) => {
                let (key, condition) = (key.to_owned(), condition.to_owned());
                Err(LookupError::NotFound { kind, namespace, name, key, condition })
            }
            Some(Finding::Trouble(Trouble::Forbidden(why))) => {
                Err(LookupError::Forbidden { kind, namespace, name, why: why.to_string() })
            }
            Some(Finding::Trouble(Trouble::Unread(why))) => {
                Err(LookupError::Unread { kind, namespace, name, why: why.to_string() })
            }
            None => {
                let why = "the API server has not answered yet".to_owned();
                Err(LookupError::Unread { kind, namespace, name, why })
            }
        }
    }
}
