//! What a placeholder refers to, and finding that in JSON as it came.
//!
//! Only what lies on the way is looked at, and nothing is built of the rest. Of a key that an object has
//! twice the last counts, as for most readers.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Scope, Values};

/// A place in what is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reference {
    pub(super) root: Root,
    /// Keys of objects, or positions in lists counted from zero.
    path: Vec<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Root {
    Input,
    Result(String),
    Id,
}

impl Reference {
    /// Reads what stands between the braces.
    pub(super) fn read(text: &str, scope: &dyn Scope) -> Result<Self, String> {
        let (root, rest) = match text.split_once('.') {
            Some((root, rest)) => (root, Some(rest)),
            None => (text, None),
        };
        match (root, rest) {
            ("input", rest) => Ok(Self { root: Root::Input, path: path(rest)? }),
            ("id", None) => Ok(Self { root: Root::Id, path: Vec::new() }),
            ("id", Some(_)) => Err("id is a text and has no parts".to_owned()),
            ("steps", Some(rest)) => of_step(rest, scope),
            ("steps", None) => Err("steps is to be followed by .NAME.result".to_owned()),
            (_, _) => Err(format!(
                "{text:?} begins with none of input, steps and id; write {{{{{{{{ for {{{{"
            )),
        }
    }

    pub(super) fn find<'v>(&self, values: &'v dyn Values) -> Option<&'v RawValue> {
        let root = match &self.root {
            Root::Input => values.input(),
            Root::Result(step) => values.result(step),
            Root::Id => None,
        };
        self.path.iter().try_fold(root?, |value, part| below(value, part))
    }
}

fn of_step(text: &str, scope: &dyn Scope) -> Result<Reference, String> {
    const RESULT: &str = ".result";
    // Names may have dots in them.
    let is_end = |at: &usize| matches!(text.as_bytes().get(at + RESULT.len()), None | Some(b'.'));
    let Some(at) = text.match_indices(RESULT).map(|(at, _)| at).find(is_end) else {
        return Err("of a step there is only its result: write steps.NAME.result".to_owned());
    };
    let name = &text[..at];
    scope.reference(name)?;
    let path = path(text[at + RESULT.len()..].strip_prefix('.'))?;
    Ok(Reference { root: Root::Result(name.to_owned()), path })
}

fn path(text: Option<&str>) -> Result<Vec<String>, String> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let part = |part: &str| match part.is_empty() {
        true => Err("a part between two dots is empty".to_owned()),
        false => Ok(part.to_owned()),
    };
    text.split('.').map(part).collect()
}

fn below<'v>(value: &'v RawValue, part: &str) -> Option<&'v RawValue> {
    let mut json = serde_json::Deserializer::from_str(value.get());
    match value.get().as_bytes().first()? {
        b'{' => json.deserialize_map(Member(part)).ok()?,
        b'[' => json.deserialize_seq(Element(position(part)?)).ok()?,
        _ => None,
    }
}

fn position(part: &str) -> Option<usize> {
    let is_plain = part == "0" || !part.starts_with(['0', '+']);
    is_plain.then(|| part.parse().ok()).flatten()
}

struct Member<'k>(&'k str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(IsKey(self.0))? {
            match is_it {
                true => found = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

struct Element(usize);

impl<'de> Visitor<'de> for Element {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = list.next_element()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Compares a key without keeping it.
struct IsKey<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, parts: &[&str]) -> Option<String> {
        let value = RawValue::from_string(json.to_owned()).expect("JSON");
        let found = parts.iter().try_fold(&*value, |value, part| below(value, part));
        found.map(|value| value.get().to_owned())
    }

    #[test]
    fn values_are_found_as_they_were_written() {
        let json = r#"{"a":{"b.c":0,"b":[1.50, {"\u0064":1e999}]},"a\"b":"x","k":1,"k":2,"":3}"#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(json, &["a", "b", "0"]), some("1.50"));
        assert_eq!(found(json, &["a", "b", "1", "d"]), some("1e999"));
        assert_eq!(found(json, &["a\"b"]), some("\"x\""));
        assert_eq!(found(json, &["k"]), some("2"), "the last counts");
        for nowhere in [
            &["b"][..],
            &["a", "b", "2"],
            &["a", "b", "00"],
            &["a", "b", "+1"],
            &["a", "b", "-1"],
            &["a", "b", "99999999999999999999"],
            &["a", "b", "0", "c"],
            &["k", "0"],
        ] {
            assert_eq!(found(json, nowhere), None, "{nowhere:?}");
        }
    }

    struct All;

    impl Scope for All {
        fn reference(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn names_of_steps_may_have_dots() {
        let read = |text: &str| Reference::read(text, &All).expect("good");
        let root = |name: &str| Root::Result(name.to_owned());
        assert_eq!(read("steps.a.b.result").root, root("a.b"));
        assert_eq!(read("steps.results.result.result").path, ["result"]);
        assert_eq!(read("steps.a.resulting.result.x").root, root("a.resulting"));
    }
}
