//! Values of results, from the texts of the protocol to JSON.

use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::{Column, Row, Value as Field};
use serde_json::{Map, Value};

/// The number that marks a column of bytes among the character sets.
const BINARY: u16 = 63;

/// A row as an object by column.
pub(super) fn row(row: &Row) -> Value {
    let mut object = Map::with_capacity(row.len());
    for (index, column) in row.columns_ref().iter().enumerate() {
        let value = row.as_ref(index).map_or(Value::Null, |field| json(column, field));
        object.insert(column.name_str().into_owned(), value);
    }
    Value::Object(object)
}

fn json(column: &Column, field: &Field) -> Value {
    match field {
        Field::NULL => Value::Null,
        Field::Bytes(bytes) => of_text(column, bytes),
        // The text protocol has texts only.
        Field::Int(_)
        | Field::UInt(_)
        | Field::Float(_)
        | Field::Double(_)
        | Field::Date(..)
        | Field::Time(..) => Value::from(field.as_sql(false)),
    }
}

/// What JSON has a form for that loses nothing; everything else, decimals too, stays a text, and
/// bytes are written as `0x…`.
#[expect(clippy::wildcard_enum_match_arm, reason = "the protocol's types, not ours")]
fn of_text(column: &Column, bytes: &[u8]) -> Value {
    use ColumnType as T;
    let text = || Value::from(String::from_utf8_lossy(bytes));
    let read = std::str::from_utf8(bytes).unwrap_or_default();
    match column.column_type() {
        T::MYSQL_TYPE_TINY
        | T::MYSQL_TYPE_SHORT
        | T::MYSQL_TYPE_INT24
        | T::MYSQL_TYPE_LONG
        | T::MYSQL_TYPE_LONGLONG
        | T::MYSQL_TYPE_YEAR => {
            let number = match column.flags().contains(ColumnFlags::UNSIGNED_FLAG) {
                true => read.parse::<u64>().map(Value::from),
                false => read.parse::<i64>().map(Value::from),
            };
            number.unwrap_or_else(|_| text())
        }
        T::MYSQL_TYPE_FLOAT | T::MYSQL_TYPE_DOUBLE => match read.parse::<f64>() {
            Ok(number) if number.is_finite() => Value::from(number),
            Ok(_) | Err(_) => text(),
        },
        T::MYSQL_TYPE_JSON => serde_json::from_slice(bytes).unwrap_or_else(|_| text()),
        T::MYSQL_TYPE_BIT => hex(bytes),
        T::MYSQL_TYPE_TINY_BLOB
        | T::MYSQL_TYPE_MEDIUM_BLOB
        | T::MYSQL_TYPE_LONG_BLOB
        | T::MYSQL_TYPE_BLOB
        | T::MYSQL_TYPE_VAR_STRING
        | T::MYSQL_TYPE_STRING
        | T::MYSQL_TYPE_GEOMETRY
            if column.character_set() == BINARY =>
        {
            hex(bytes)
        }
        _ => text(),
    }
}

fn hex(bytes: &[u8]) -> Value {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Value::from(std::iter::once("0x".to_owned()).chain(digits).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: ColumnType, bytes: &[u8]) -> Value {
        of_text(&Column::new(kind), bytes)
    }

    #[test]
    fn results_lose_nothing() {
        let long = ColumnType::MYSQL_TYPE_LONGLONG;
        assert_eq!(read(long, b"9223372036854775807"), i64::MAX);
        let unsigned = Column::new(long).with_flags(ColumnFlags::UNSIGNED_FLAG);
        assert_eq!(of_text(&unsigned, b"18446744073709551615"), u64::MAX);
        let decimal = ColumnType::MYSQL_TYPE_NEWDECIMAL;
        assert_eq!(read(decimal, b"0.1000000000000000000001"), "0.1000000000000000000001");
        let bytes = Column::new(ColumnType::MYSQL_TYPE_BLOB).with_character_set(BINARY);
        assert_eq!(of_text(&bytes, b"\x00\xff"), "0x00ff");
        let document = serde_json::json!({"a": [1]});
        assert_eq!(read(ColumnType::MYSQL_TYPE_JSON, br#"{"a":[1]}"#), document);
    }
}
