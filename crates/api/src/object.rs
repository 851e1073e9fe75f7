//! Reads a struct from a JSON object and from nothing else.
//!
//! Derived readers take an array of the fields in their order too. That is no part of the contract,
//! and would become one if it worked.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A struct that was written as an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(Members(PhantomData)).map(Self)
    }
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
    }
}

/// Reads a list of objects.
pub(crate) fn list<'de, D, T>(json: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(json)?;
    Ok(objects.into_iter().map(|Object(inner)| inner).collect())
}

/// The same where the list may be left out.
pub(crate) fn optional_list<'de, D, T>(json: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list(json).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Pair {
        left: u8,
        right: u8,
    }

    #[test]
    fn an_array_of_the_fields_is_not_taken_for_the_struct() {
        let read = serde_json::from_str::<Object<Pair>>;
        let pair = read(r#"{"right":2,"left":1}"#).expect("an object");
        assert_eq!(pair, Object(Pair { left: 1, right: 2 }));
        let error = read("[1,2]").expect_err("an array");
        assert!(error.to_string().contains("expected an object"), "{error}");
    }
}
