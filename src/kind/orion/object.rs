//! JSON objects as Orion writes them, read entry by entry: a key may come twice (the last wins), a value may have a wrong type
//! (it is lost alone), a key may be new (it is passed over). Never holds a document twice, since a tree may have thousands of parts.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::kind::json::keep_item;
use crate::kind::{CallError, Number, Reason};
use crate::metric::{Desc, Families};

/// A place where an object should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Object<T> {
    /// The key is missing or `null`.
    #[default]
    Absent,
    /// An object.
    Present(T),
    /// Something else.
    Invalid,
}

impl<T> Object<T> {
    /// The object; what is no object at all is counted as a skipped field.
    pub(super) fn open(&self, out: &mut Families) -> Option<&T> {
        match self {
            Self::Present(fields) => Some(fields),
            Self::Absent => None,
            Self::Invalid => {
                out.skip();
                None
            }
        }
    }

    /// The object, for the parts without which a document is not what was asked for.
    pub(super) fn require(self, what: &str) -> Result<T, CallError> {
        match self {
            Self::Present(fields) => Ok(fields),
            Self::Absent => Err(CallError::new(Reason::Schema, format!("{what} is missing"))),
            Self::Invalid => Err(CallError::new(Reason::Schema, format!("{what} is no object"))),
        }
    }
}

/// What an object may hold.
pub(super) trait Fields: Default {
    /// Takes the value that stands next in `map`, the one of the key `name`.
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;

    /// Called after the last entry.
    fn complete(&mut self) {}
}

/// Says which key fills which field; all others are passed over.
macro_rules! fields {
    ($type:ident { $($name:literal $(| $alias:literal)* => $field:ident),+ $(,)? }) => {
        impl $crate::kind::orion::object::Fields for $type {
            fn field<'de, A: serde::de::MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
                match name {
                    $($name $(| $alias)* => self.$field = map.next_value()?,)+
                    _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
                }
                Ok(())
            }
        }
    };
}
pub(super) use fields;

/// An object whose keys only the server knows, in the order of the keys, each of them once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entries<T>(Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Entries<T> {
    /// Every entry.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<T: for<'de> Deserialize<'de>> Fields for Entries<T> {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let value = map.next_value()?;
        keep_item(size_of::<(String, T)>() + name.len())?;
        self.0.push((name.to_owned(), value));
        Ok(())
    }

    fn complete(&mut self) {
        // Orion's own order is nearly this one, and the sort is stable: of equal keys the last one written stays last.
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        self.0.dedup_by(|later, earlier| {
            let twice = later.0 == earlier.0;
            if twice {
                std::mem::swap(later, earlier);
            }
            twice
        });
    }
}

/// A number that cannot be below 0: every one that Orion reports. A negative one is the trace of an overflow, and invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amount(pub(super) Number);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Number::deserialize(deserializer)? {
            Number::Value(value) if value < 0.0 => Number::Invalid,
            number => number,
        }))
    }
}

/// Adds one sample per entry, the key being the only label.
pub(super) fn write_entries(desc: &'static Desc, entries: &Object<Entries<Amount>>, out: &mut Families) {
    let Some(entries) = entries.open(out) else { return };
    for (name, amount) in entries.iter() {
        out.number(desc, &[name], amount.0);
    }
}

impl<'de, T: Fields> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Fields> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<T>, A::Error> {
        let mut fields = T::default();
        let mut name = String::new();
        while map.next_key_seed(KeyInto(&mut name))?.is_some() {
            fields.field(&name, &mut map)?;
        }
        fields.complete();
        Ok(Object::Present(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Object<T>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Object::Invalid)
    }

    fn visit_unit<E>(self) -> Result<Object<T>, E> {
        Ok(Object::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Object<T>, E> {
        Ok(Object::Invalid)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Object<T>, E> {
        Ok(Object::Invalid)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Object<T>, E> {
        Ok(Object::Invalid)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Object<T>, E> {
        Ok(Object::Invalid)
    }

    fn visit_str<E>(self, _: &str) -> Result<Object<T>, E> {
        Ok(Object::Invalid)
    }
}

/// Reads a key into a buffer that all keys of one object share: most keys are compared and forgotten.
struct KeyInto<'b>(&'b mut String);

impl<'de> DeserializeSeed<'de> for KeyInto<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyInto<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.0.clear();
        self.0.push_str(key);
        Ok(())
    }
}
