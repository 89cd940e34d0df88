//! JSON values that cost only themselves when they are of another type than they should be, beside
//! [`Number`](crate::kind::Number): one odd field of one object must not hide a whole server.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::kind::json::keep_item;

/// Longest id or name that is kept, in bytes.
const MAX_WORD: usize = 256;

/// An id or a name: a string, or a number, which some applications use as ids. Anything else is as good as none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Word(Option<Box<str>>);

impl Word {
    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The word, empty if there is none.
    pub(super) fn as_str(&self) -> &str {
        self.get().unwrap_or_default()
    }

    fn new(text: &str) -> Self {
        Self(Some(text[..text.floor_char_boundary(MAX_WORD)].into()))
    }
}

/// A list, without those of its items that are no objects.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    /// Whether there was a list at all: an object whose statistics failed has none.
    pub(super) given: bool,
    /// How many items were no objects; 1 where the list itself was no list.
    pub(super) invalid: usize,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), given: false, invalid: 0 }
    }
}

/// An object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Object<T> {
    /// Missing, or `null`.
    #[default]
    Absent,
    /// An object.
    Value(T),
    /// Something else.
    Invalid,
}

impl<T> Object<T> {
    pub(super) fn get(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }
}

/// The methods of a visitor for values that carry nothing: `$nothing` for null, `$other` for scalars.
macro_rules! scalars {
    ($value:ty, $nothing:expr, $other:expr; $($method:ident($type:ty))*) => {
        fn visit_unit<E>(self) -> Result<$value, E> {
            Ok($nothing)
        }

        $(fn $method<E>(self, _: $type) -> Result<$value, E> {
            Ok($other)
        })*
    };
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Word, E> {
        Ok(Word::new(text))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
        Ok(Word::new(itoa::Buffer::new().format(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Word, E> {
        Ok(Word::new(itoa::Buffer::new().format(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Word, E> {
        Ok(Word::new(&number.to_string())) // 12.0 is written as 12
    }

    scalars!(Word, Word::default(), Word::default(); visit_bool(bool));

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Word, A::Error> {
        drain_list(seq).map(|()| Word::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Word::default())
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    scalars!(Object<T>, Object::Absent, Object::Invalid;
        visit_bool(bool) visit_u64(u64) visit_i64(i64) visit_f64(f64) visit_str(&str));

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Object<T>, A::Error> {
        drain_list(seq).map(|()| Object::Invalid)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object::Value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<T> ListVisitor<T> {
    const NO_LIST: List<T> = List { items: Vec::new(), given: false, invalid: 1 };
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    scalars!(List<T>, List::default(), Self::NO_LIST;
        visit_bool(bool) visit_u64(u64) visit_i64(i64) visit_f64(f64) visit_str(&str));

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut list = List { items: Vec::new(), given: true, invalid: 0 };
        while let Some(item) = seq.next_element()? {
            match item {
                Object::Value(item) => {
                    keep_item(size_of::<T>())?;
                    list.items.push(item);
                }
                Object::Absent | Object::Invalid => list.invalid += 1,
            }
        }
        Ok(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::NO_LIST)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

/// An object whose keys the server makes up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Map<T>(pub(super) BTreeMap<String, T>);

struct MapVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MapVisitor<T> {
    type Value = Map<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map<T>, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, T>()? {
            keep_item(2 * size_of::<(String, T)>())?; // with what holds them together
            entries.insert(key, value);
        }
        Ok(Map(entries))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

fn drain_list<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Number;

    #[derive(serde::Deserialize)]
    struct Point {
        #[serde(default)]
        x: Number,
    }

    fn list(json: &str) -> (usize, bool, usize) {
        let list: List<Point> = serde_json::from_str(json).unwrap();
        (list.items.iter().filter(|point| point.x.value() == Some(1.0)).count(), list.given, list.invalid)
    }

    #[test]
    fn items_that_are_no_objects_are_counted_and_left_out() {
        assert_eq!(list(r#"[{"x": 1}, 2, "x", null, [1, {}], {"x": 1, "y": {}}, true]"#), (2, true, 5));
        assert_eq!(list("[]"), (0, true, 0));
    }

    #[test]
    fn what_is_no_list_is_one_invalid_value_and_null_is_none() {
        for json in ["3", "-3", "1.5", "\"x\"", "true", "{\"x\": [1]}"] {
            assert_eq!(list(json), (0, false, 1), "{json}");
        }
        assert_eq!(list("null"), (0, false, 0));
    }

    #[test]
    fn a_word_may_be_a_number_but_nothing_else() {
        for (json, word) in
            [("\"a\\n\"", Some("a\n")), ("7", Some("7")), ("-7", Some("-7")), ("7.0", Some("7")), ("null", None), ("[7]", None), ("{}", None), ("true", None)]
        {
            assert_eq!(serde_json::from_str::<Word>(json).unwrap().get(), word, "{json}");
        }
        let long: Word = serde_json::from_str(&format!("\"{}\"", "é".repeat(999))).unwrap();
        assert_eq!(long.as_str().len(), 256);
    }
}
