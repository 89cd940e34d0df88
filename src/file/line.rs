//! On which line of a document a field stands. Asked only when there is something to complain about, so it reads the text again.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The shape of a document, with lines and without values.
enum Shape {
    Leaf,
    List(Vec<(u64, Self)>),
    Map(Vec<(String, u64, Self)>),
}

/// The line of the field at `path` (`spec.headers[2].name`) in `text`, counted from 0; of the nearest field around it if it is not
/// there; nothing if the text cannot be read.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut shape: Shape = serde_saphyr::from_str_with_options(text, super::yaml::options()).ok()?;
    let mut line = None;
    let mut rest = path;
    while !rest.is_empty() {
        let step = take_step(&mut rest);
        let next = match shape {
            Shape::Leaf => None,
            Shape::List(items) => step.parse().ok().and_then(|index| items.into_iter().nth(index)),
            Shape::Map(fields) => {
                fields.into_iter().find(|(key, ..)| key == step).map(|(_, line, inner)| (line, inner))
            }
        };
        let Some((at, inner)) = next else { break };
        (line, shape) = (Some(at), inner);
    }
    line.and_then(|line| usize::try_from(line).ok()).map(|line| line.saturating_sub(1))
}

/// Cuts the first step off a path: `spec` of `spec.labels[a.b]`, then `labels`, then `a.b`.
fn take_step<'a>(path: &mut &'a str) -> &'a str {
    let text = path.trim_start_matches('.');
    let (step, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
        None => text.split_at(text.find(['.', '[']).unwrap_or(text.len())),
    };
    *path = rest;
    step
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

/// Scalars of any type are leaves.
macro_rules! leaves {
    ($($visit:ident: $type:ty),+) => {
        $(fn $visit<E>(self, _: $type) -> Result<Shape, E> {
            Ok(Shape::Leaf)
        })+
    };
}

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    leaves!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Leaf)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Shape>>()? {
            items.push((item.referenced.line(), item.value));
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            fields.push((key.value, key.referenced.line(), map.next_value::<Shape>()?));
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "kind: x\nspec:\n  labels:\n    a.b: 1\n  headers:\n    - name: p\n    - name: q\n      value: 7\n  list: [1,\n    2]\n";

    #[test]
    fn fields_are_found_on_their_lines() {
        for (path, line) in [
            ("kind", Some(0)),
            ("spec", Some(1)),
            ("spec.labels[a.b]", Some(3)),
            ("spec.headers[1]", Some(6)),
            ("spec.headers[1].value", Some(7)),
            ("spec.list[1]", Some(9)),
            ("spec.headers[1].secret.name", Some(6)),
            ("spec.url", Some(1)),
            ("", None),
            ("other", None),
        ] {
            assert_eq!(line_of(TEXT, path), line, "{path}");
        }
        assert_eq!(line_of("a: [", "a"), None);
    }
}
