//! The types of the fields of a lenient document. None of them fails for a value of a wrong type.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::keep_item;
use crate::kind::{CallError, Reason};
use crate::metric::{Desc, Families};

/// A field of a document. A missing one gets the default by `#[serde(default)]` or `json_objects!`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JsonField<T> {
    /// The field is missing or `null`: this version of the server does not report it.
    #[default]
    Absent,
    /// A value of the right type.
    Value(T),
    /// A value of another type.
    Invalid,
}

/// A field that should be a number: any spelling of JSON (`12`, `12.0`, `1.2e1`), finite.
pub type Number = JsonField<f64>;

/// A field that should be a string.
pub type Text = JsonField<String>;

/// A field that should be `true` or `false`.
pub type Flag = JsonField<bool>;

impl<T> JsonField<T> {
    /// The value, if there is one.
    pub const fn as_ref(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }

    /// The value, to change it.
    pub const fn as_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }

    /// The value, if there is one; a field of a wrong type is counted as skipped.
    pub fn read(&self, out: &mut Families) -> Option<&T> {
        self.count_invalid(out);
        self.as_ref()
    }

    /// Counts a field of a wrong type as skipped.
    pub fn count_invalid(&self, out: &mut Families) {
        if matches!(self, Self::Invalid) {
            out.skip();
        }
    }

    /// The value, if the document is useless without it; `problem` is the message of the error.
    pub fn require(self, problem: &str) -> Result<T, CallError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Absent | Self::Invalid => Err(CallError::new(Reason::Schema, problem)),
        }
    }
}

impl<T: Copy + Default> JsonField<T> {
    /// The fields of an object, all of them absent if it is none.
    pub fn fields(&self) -> T {
        self.as_ref().copied().unwrap_or_default()
    }
}

impl Number {
    /// The value, if it is one.
    pub const fn value(self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }

    /// The same field in another unit.
    #[must_use]
    pub fn map(self, convert: impl FnOnce(f64) -> f64) -> Self {
        match self {
            Self::Value(value) => Self::Value(convert(value)),
            other => other,
        }
    }
}

impl Text {
    /// The string, if it is one.
    pub fn value(&self) -> Option<&str> {
        self.as_ref().map(String::as_str)
    }

    /// The value of a label: empty if the field is absent; one of a wrong type is counted as skipped.
    pub fn label(&self, out: &mut Families) -> &str {
        self.read(out).map_or("", String::as_str)
    }
}

impl Families {
    /// Adds a sample for a field: nothing if it is absent, a skipped field if it is not a number.
    pub fn number(&mut self, desc: &'static Desc, labels: &[&str], number: Number) {
        match number {
            Number::Value(value) => self.set(desc, labels, value),
            Number::Absent => {}
            Number::Invalid => self.skip(),
        }
    }
}

/// What can be read from a JSON value of one type, or of a few. The provided methods refuse the value: it becomes
/// [`JsonField::Invalid`].
pub trait FromJson: Sized {
    /// From a number.
    fn float(_: f64) -> Option<Self> {
        None
    }

    /// From a whole number, for types that must keep all of its digits.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
    fn unsigned(value: u64) -> Option<Self> {
        Self::float(value as f64)
    }

    /// From a negative whole number.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
    fn signed(value: i64) -> Option<Self> {
        Self::float(value as f64)
    }

    /// From a string.
    fn string(_: &str) -> Option<Self> {
        None
    }

    /// From `true` or `false`.
    fn boolean(_: bool) -> Option<Self> {
        None
    }

    /// From an array.
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Option<Self>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// From an object.
    fn object<'de, A: MapAccess<'de>>(mut entries: A) -> Result<Option<Self>, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl FromJson for f64 {
    fn float(value: f64) -> Option<Self> {
        value.is_finite().then_some(value)
    }
}

impl FromJson for String {
    fn string(value: &str) -> Option<Self> {
        Some(value.to_owned())
    }
}

impl FromJson for bool {
    fn boolean(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl<'de, T: FromJson> Deserialize<'de> for JsonField<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<T> FieldVisitor<T> {
    fn field(value: Option<T>) -> JsonField<T> {
        value.map_or(JsonField::Invalid, JsonField::Value)
    }
}

impl<'de, T: FromJson> Visitor<'de> for FieldVisitor<T> {
    type Value = JsonField<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(JsonField::Absent)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(JsonField::Absent)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Self::field(T::unsigned(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Self::field(T::signed(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Self::field(T::float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Self::field(T::string(value)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Self::field(T::boolean(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        T::list(items).map(Self::field)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        T::object(entries).map(Self::field)
    }
}

/// A field that should be a list of objects, without those of its items that are none.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonList<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Whether there was a list at all.
    pub is_given: bool,
    /// How many items were not objects; 1 where the field itself was not a list.
    pub invalid: usize,
}

impl<T> Default for JsonList<T> {
    fn default() -> Self {
        Self { items: Vec::new(), is_given: false, invalid: 0 }
    }
}

impl<T> JsonList<T> {
    /// The items; what was not an object, or the field if it was not a list, is counted as skipped.
    pub fn read(&self, out: &mut Families) -> &[T] {
        (0..self.invalid).for_each(|_| out.skip());
        &self.items
    }
}

impl<T: FromJson> FromJson for JsonList<T> {
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Option<Self>, A::Error> {
        let mut list = Self { is_given: true, ..Self::default() };
        while let Some(item) = items.next_element()? {
            match item {
                JsonField::Value(item) => {
                    keep_item(size_of::<T>())?;
                    list.items.push(item);
                }
                JsonField::Absent | JsonField::Invalid => list.invalid += 1,
            }
        }
        Ok(Some(list))
    }
}

impl<'de, T: FromJson> Deserialize<'de> for JsonList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match JsonField::deserialize(deserializer)? {
            JsonField::Value(list) => list,
            JsonField::Absent => Self::default(),
            JsonField::Invalid => Self { invalid: 1, ..Self::default() },
        })
    }
}

/// An object whose keys only the server knows, in the order of the keys; of equal keys the last one stays.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonEntries<T> {
    /// All keys, one after the other: there may be thousands.
    keys: String,
    entries: Vec<JsonEntry<T>>,
}

/// A value, and the position of its key in [`JsonEntries::keys`].
#[derive(Clone, Debug, PartialEq)]
struct JsonEntry<T> {
    start: usize,
    end: usize,
    value: T,
}

impl<T> JsonEntry<T> {
    fn key<'k>(&self, keys: &'k str) -> &'k str {
        keys.get(self.start..self.end).unwrap_or_default()
    }
}

impl<T> Default for JsonEntries<T> {
    fn default() -> Self {
        Self { keys: String::new(), entries: Vec::new() }
    }
}

impl<T> JsonEntries<T> {
    /// Every entry, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|entry| (entry.key(&self.keys), &entry.value))
    }

    /// Every entry, in the order of the document.
    pub fn in_document_order(&self) -> impl Iterator<Item = (&str, &T)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_unstable_by_key(|entry| (entry.start, entry.end));
        entries.into_iter().map(|entry| (entry.key(&self.keys), &entry.value))
    }

    /// Every value, to change it.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&T> {
        let at = self.entries.binary_search_by(|entry| entry.key(&self.keys).cmp(key)).ok()?;
        self.entries.get(at).map(|entry| &entry.value)
    }

    fn sort(&mut self) {
        let keys = &self.keys;
        // The sort is stable, so that of equal keys the last one written stays last; servers write them nearly in order.
        self.entries.sort_by(|a, b| a.key(keys).cmp(b.key(keys)));
        self.entries.dedup_by(|later, earlier| {
            let is_same = later.key(keys) == earlier.key(keys);
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
    }
}

impl<T: DeserializeOwned> FromJson for JsonEntries<T> {
    fn object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut object = Self::default();
        loop {
            let start = object.keys.len();
            if map.next_key_seed(ReadKey(|key: &str| object.keys.push_str(key)))?.is_none() {
                break;
            }
            let end = object.keys.len();
            keep_item(size_of::<JsonEntry<T>>() + end - start)?;
            object.entries.push(JsonEntry { start, end, value: map.next_value()? });
        }
        object.sort();
        Ok(Some(object))
    }
}

/// Reads a key without a copy of it.
pub(in crate::kind) struct ReadKey<F>(pub(in crate::kind) F);

impl<'de, R, F: FnOnce(&str) -> R> DeserializeSeed<'de> for ReadKey<F> {
    type Value = R;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<R, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<R, F: FnOnce(&str) -> R> Visitor<'_> for ReadKey<F> {
    type Value = R;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<R, E> {
        Ok(self.0(key))
    }
}

/// Declares objects of a document. A field is called on the wire as it is here, unless `as` gives it other names:
/// `refreshes: Number as "refresh" | "refreshs"`. Each type must have a `Default`: what missing fields keep.
macro_rules! json_objects {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty $(as $($key:literal)|+)?,)+
        }
    )+) => {$(
        $(#[$meta])*
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)+
        }

        impl $crate::kind::json::FromJson for $name {
            fn object<'de, A: serde::de::MapAccess<'de>>(mut entries: A) -> Result<Option<Self>, A::Error> {
                #[allow(non_camel_case_types, reason = "they are the names of the fields")]
                enum Key { $($field,)+ }
                let mut object = Self::default();
                while let Some(key) = entries.next_key_seed($crate::kind::json::field::ReadKey(|key: &str| match key {
                    $($crate::kind::json::field::json_objects!(@key $field $($($key)|+)?) => Some(Key::$field),)+
                    _ => None,
                }))? {
                    match key {
                        $(Some(Key::$field) => object.$field = entries.next_value()?,)+
                        None => drop(entries.next_value::<serde::de::IgnoredAny>()?),
                    }
                }
                Ok(Some(object))
            }
        }
    )+};
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $($key:literal)|+) => { $($key)|+ };
}
pub(crate) use json_objects;

#[cfg(test)]
mod tests {
    use super::*;

    json_objects! {
        #[derive(Debug, Default, PartialEq)]
        struct Point {
            x: Number,
            y: Number as "why" | "Y",
        }
    }

    fn read<T: DeserializeOwned>(json: &str) -> T {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_number_is_read_in_any_spelling() {
        for (json, value) in [
            ("12", 12.0),
            ("-3", -3.0),
            ("1.50", 1.5),
            ("1e3", 1000.0),
            ("18446744073709551616", 1.844_674_407_370_955_2e19),
        ] {
            assert_eq!(read::<Number>(json), Number::Value(value), "{json}");
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_costs_only_its_field() {
        for json in ["\"12\"", "true", "[1]", "{\"a\":[{}]}"] {
            assert_eq!(read::<Number>(json), Number::Invalid, "{json}");
        }
        for json in ["12", "-12", "1.2", "true", "[\"\"]", "{}"] {
            assert_eq!(read::<Text>(json), Text::Invalid, "{json}");
        }
        for json in ["1", "\"true\"", "[true]", "{}"] {
            assert_eq!(read::<Flag>(json), Flag::Invalid, "{json}");
        }
        assert_eq!((read::<Number>("null"), read::<Text>("null"), read::<Flag>("null")), Default::default());
    }

    #[test]
    fn an_object_takes_the_last_of_equal_keys_and_skips_what_it_does_not_know() {
        let point = read::<JsonField<Point>>(r#"{"x": 1, "new": [{"x": 3}], "why": 2, "x": "2", "Y": 4, "y": 5}"#);
        assert_eq!(point, JsonField::Value(Point { x: Number::Invalid, y: Number::Value(4.0) }));
        assert_eq!(read::<JsonField<Point>>("[1, 2]"), JsonField::Invalid);
        assert_eq!(read::<JsonField<Point>>(r#"{"\u0078": 1}"#).as_ref().unwrap().x, Number::Value(1.0));
    }

    #[test]
    fn entries_are_in_the_order_of_their_keys_and_the_last_of_equal_keys_stays() {
        let entries = read::<JsonField<JsonEntries<Number>>>(r#"{"b": 1, "": 2, "a": 3, "b": "x", "\u0061": 4}"#);
        let entries = entries.as_ref().unwrap();
        let all: Vec<_> = entries.iter().map(|(key, value)| (key, *value)).collect();
        assert_eq!(all, [("", Number::Value(2.0)), ("a", Number::Value(4.0)), ("b", Number::Invalid)]);
        assert_eq!(entries.in_document_order().map(|(key, _)| key).collect::<Vec<_>>(), ["", "b", "a"]);
        assert_eq!((entries.get("a"), entries.get("c")), (Some(&Number::Value(4.0)), None));
    }

    fn list(json: &str) -> (usize, bool, usize) {
        let list: JsonList<Point> = read(json);
        (list.items.iter().filter(|point| point.x.value() == Some(1.0)).count(), list.is_given, list.invalid)
    }

    #[test]
    fn items_that_are_not_objects_are_counted_and_left_out() {
        assert_eq!(list(r#"[{"x": 1}, 2, "x", null, [1, {}], {"x": 1, "y": {}}, true]"#), (2, true, 5));
        assert_eq!(list("[]"), (0, true, 0));
    }

    #[test]
    fn what_is_not_a_list_is_one_invalid_value_and_null_is_none() {
        for json in ["3", "-3", "1.5", "\"x\"", "true", "{\"x\": [1]}"] {
            assert_eq!(list(json), (0, false, 1), "{json}");
        }
        assert_eq!(list("null"), (0, false, 0));
    }
}
