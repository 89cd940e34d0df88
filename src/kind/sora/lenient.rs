//! Objects, lists and flags of an answer, read so that a wrong type costs one field and not the document.
//!
//! Derived structures alone would not do: they fail as a whole on the first wrong field, and they read `[]` as an object.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::kind::json::keep_item;
use crate::metric::Families;

/// A field that should be an object of the shape `T`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Object<T> {
    /// The field is missing or `null`.
    #[default]
    Absent,
    /// An object.
    Value(T),
    /// Something else.
    Invalid,
}

impl<T> Object<T> {
    /// The object, if it is one; something else is counted as a skipped field.
    pub(super) fn read(&self, out: &mut Families) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent => None,
            Self::Invalid => {
                out.skip();
                None
            }
        }
    }

    /// Counts the field if it is there and no object: for those whose fields are read by [`fields`](Self::fields).
    pub(super) fn check(&self, out: &mut Families) {
        if matches!(self, Self::Invalid) {
            out.skip();
        }
    }
}

impl<T: Copy + Default> Object<T> {
    /// The fields of the object, all of them absent if it is none.
    pub(super) fn fields(&self) -> T {
        match self {
            Self::Value(value) => *value,
            Self::Absent | Self::Invalid => T::default(),
        }
    }
}

/// A field that should be an array.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum List<T> {
    /// The field is missing or `null`.
    #[default]
    Absent,
    /// An array.
    Value(Vec<T>),
    /// Something else.
    Invalid,
}

impl<T> List<T> {
    /// The items; none, and a skipped field, if it is no array.
    pub(super) fn read(&self, out: &mut Families) -> &[T] {
        match self {
            Self::Value(items) => items,
            Self::Absent => &[],
            Self::Invalid => {
                out.skip();
                &[]
            }
        }
    }
}

/// A field that should be `true` or `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flag {
    /// The field is missing or `null`.
    #[default]
    Absent,
    /// A boolean.
    Value(bool),
    /// Something else.
    Invalid,
}

/// The methods of a visitor for every JSON type but those named by the caller.
macro_rules! otherwise {
    (scalars) => {
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Self::Value::Invalid)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Self::Value::Invalid)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Self::Value::Invalid)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(Self::Value::Invalid)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::Absent)
        }
    };
    (bool) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Self::Value::Invalid)
        }
    };
    (seq) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::Invalid)
        }
    };
    (map) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Self::Value::Invalid)
        }
    };
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object::Value)
    }

    otherwise!(scalars);
    otherwise!(bool);
    otherwise!(seq);
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            keep_item(size_of::<T>())?;
            items.push(item);
        }
        Ok(List::Value(items))
    }

    otherwise!(scalars);
    otherwise!(bool);
    otherwise!(map);
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct FlagVisitor;

impl<'de> Visitor<'de> for FlagVisitor {
    type Value = Flag;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Flag, E> {
        Ok(Flag::Value(value))
    }

    otherwise!(scalars);
    otherwise!(seq);
    otherwise!(map);
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FlagVisitor)
    }
}
