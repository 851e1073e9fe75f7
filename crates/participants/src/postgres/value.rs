//! Values: from JSON to the texts that PostgreSQL reads, and from its texts to JSON.
//!
//! Values travel as texts and the server infers their types, so every type that can be written as a
//! text can be passed: dates, UUIDs, bytes as `\x…`. Only of a list it has to be known whether an
//! array or a JSON document is wanted.

use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, RowDescriptionBody};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::statement::Param;

const BOOL: u32 = 16;
const INTEGERS: [u32; 4] = [20, 21, 23, 26];
const FLOATS: [u32; 2] = [700, 701];
const DOCUMENTS: [u32; 2] = [114, 3802];

/// A column of a result.
pub(super) struct Column {
    name: String,
    oid: u32,
}

/// The text of a value, where `oid` is the type of its placeholder if that had to be asked for.
pub(super) fn text(param: &Param, oid: Option<u32>) -> Result<Option<String>, String> {
    Ok(match param {
        Param::Null => None,
        Param::Bool(true) => Some("true".to_owned()),
        Param::Bool(false) => Some("false".to_owned()),
        Param::Number(text) | Param::Text(text) | Param::Object(text) => Some(text.clone()),
        Param::List(json) if oid.is_some_and(|oid| DOCUMENTS.contains(&oid)) => Some(json.clone()),
        Param::List(json) => {
            let mut literal = String::with_capacity(json.len());
            array(json, &mut literal).map_err(|error| format!("a list: {error}"))?;
            Some(literal)
        }
    })
}

/// Writes a JSON list as an array literal. Numbers stay as they were written.
fn array(json: &str, literal: &mut String) -> Result<(), serde_json::Error> {
    let items: Vec<&RawValue> = serde_json::from_str(json)?;
    literal.push('{');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            literal.push(',');
        }
        let item = item.get();
        match item.as_bytes().first() {
            Some(b'[') => array(item, literal)?,
            Some(b'"') => quoted(&serde_json::from_str::<String>(item)?, literal),
            Some(b'{') => quoted(item, literal),
            Some(b'n') => literal.push_str("NULL"),
            Some(_) | None => literal.push_str(item),
        }
    }
    literal.push('}');
    Ok(())
}

fn quoted(text: &str, literal: &mut String) {
    literal.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            literal.push('\\');
        }
        literal.push(c);
    }
    literal.push('"');
}

pub(super) fn columns(body: &RowDescriptionBody) -> io::Result<Vec<Column>> {
    let column = |field: postgres_protocol::message::backend::Field<'_>| {
        Ok(Column { name: field.name().to_owned(), oid: field.type_oid() })
    };
    body.fields().map(column).collect()
}

/// A row as an object by column.
pub(super) fn row(columns: &[Column], row: &DataRowBody) -> io::Result<Value> {
    let mut object = Map::with_capacity(columns.len());
    let mut ranges = row.ranges();
    for column in columns {
        let Some(range) = ranges.next()? else { break };
        let text = range.map(|range| String::from_utf8_lossy(&row.buffer()[range]));
        let value = text.map_or(Value::Null, |text| json(column.oid, &text));
        object.insert(column.name.clone(), value);
    }
    Ok(Value::Object(object))
}

/// The first field of a row.
pub(super) fn first(row: &DataRowBody) -> io::Result<Option<String>> {
    let range = row.ranges().next()?.flatten();
    Ok(range.map(|range| String::from_utf8_lossy(&row.buffer()[range]).into_owned()))
}

/// What JSON has a form for that loses nothing; everything else, `numeric` too, stays a text.
fn json(oid: u32, text: &str) -> Value {
    let text_value = || Value::from(text);
    match oid {
        BOOL => Value::from(text == "t"),
        oid if INTEGERS.contains(&oid) => {
            text.parse::<i64>().map_or_else(|_| text_value(), Value::from)
        }
        oid if FLOATS.contains(&oid) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Value::from(number),
            Ok(_) | Err(_) => text_value(),
        },
        oid if DOCUMENTS.contains(&oid) => {
            serde_json::from_str(text).unwrap_or_else(|_| text_value())
        }
        _ => text_value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_an_array_or_a_document_as_its_placeholder_wants() {
        let list = Param::List(r#"[1.50,null,"a\"\\b",[true],{"k":"v"}]"#.to_owned());
        let literal = text(&list, Some(1007)).expect("a list").expect("not null");
        assert_eq!(literal, r#"{1.50,NULL,"a\"\\b",{true},"{\"k\":\"v\"}"}"#);
        let document = text(&list, Some(3802)).expect("a list").expect("not null");
        assert_eq!(document, r#"[1.50,null,"a\"\\b",[true],{"k":"v"}]"#);
    }

    #[test]
    fn results_lose_nothing() {
        assert_eq!(json(20, "9223372036854775807"), i64::MAX);
        assert_eq!(json(1700, "0.1000000000000000000001"), "0.1000000000000000000001");
        assert_eq!(json(701, "NaN"), "NaN");
        assert_eq!(json(16, "t"), true);
        assert_eq!(json(3802, r#"{"a":[1]}"#), serde_json::json!({"a": [1]}));
    }
}
