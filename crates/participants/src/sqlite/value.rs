//! Values: from JSON to SQLite's, and from SQLite's to JSON.
//!
//! SQLite has integers of 64 bits, floating-point numbers, texts and bytes. What would lose a digit is
//! refused; lists and objects are passed as JSON texts, which its own functions read.

use rusqlite::Statement as Compiled;
use rusqlite::types::{Value as Stored, ValueRef};
use serde_json::Value;

use crate::statement::Param;

/// Digits that every floating-point number of 64 bits keeps.
const DIGITS_MAX: usize = 15;

/// The value of a placeholder.
pub(super) fn stored(param: &Param) -> Result<Stored, String> {
    Ok(match param {
        Param::Null => Stored::Null,
        Param::Bool(truth) => Stored::Integer(i64::from(*truth)),
        Param::Number(text) => number(text)?,
        Param::Text(text) | Param::List(text) | Param::Object(text) => Stored::Text(text.clone()),
    })
}

fn number(text: &str) -> Result<Stored, String> {
    if let Ok(integer) = text.parse() {
        return Ok(Stored::Integer(integer));
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_start_matches('0').trim_end_matches('0').len();
    match text.parse::<f64>() {
        Ok(real) if real.is_finite() && significant <= DIGITS_MAX => Ok(Stored::Real(real)),
        Ok(_) | Err(_) => {
            Err(format!("{text} has more digits than a number of SQLite: pass it as a text"))
        }
    }
}

/// Gives a statement its values. `$2` is the second of them wherever it stands, as elsewhere.
pub(super) fn bind(compiled: &mut Compiled<'_>, params: &[Param]) -> Result<(), Misfit> {
    let mut most = 0;
    for index in 1..=compiled.parameter_count() {
        let number = match compiled.parameter_name(index) {
            None => index,
            Some(name) => name[1..].parse().map_err(|_| {
                Misfit::Statement(format!("{name} is no placeholder: write ?, ?1 or $1"))
            })?,
        };
        most = most.max(number);
        let Some(param) = params.get(number.wrapping_sub(1)) else { continue };
        let value = stored(param).map_err(Misfit::Data)?;
        compiled
            .raw_bind_parameter(index, value)
            .map_err(|error| Misfit::Data(error.to_string()))?;
    }
    match most == params.len() {
        true => Ok(()),
        false => Err(Misfit::Statement(format!(
            "{most} placeholders and {} params: give each its value",
            params.len()
        ))),
    }
}

/// The values do not fit the statement.
pub(super) enum Misfit {
    Statement(String),
    Data(String),
}

/// What JSON has a form for that loses nothing; bytes become a text of hexadecimal digits.
pub(super) fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::from(integer),
        ValueRef::Real(real) if real.is_finite() => Value::from(real),
        ValueRef::Real(real) => Value::from(real.to_string()),
        ValueRef::Text(text) => Value::from(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            Value::from(std::iter::once("0x".to_owned()).chain(digits).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_number_keeps_every_digit_or_is_refused() {
        let number = |text: &str| stored(&Param::Number(text.to_owned()));
        assert_eq!(number("-9223372036854775808"), Ok(Stored::Integer(i64::MIN)));
        assert_eq!(number("12.50"), Ok(Stored::Real(12.5)));
        assert_eq!(number("1e3"), Ok(Stored::Real(1000.0)));
        for refused in ["9223372036854775808", "0.12345678901234567", "1e999"] {
            assert!(number(refused).is_err_and(|why| why.contains("as a text")), "{refused}");
        }
    }

    #[test]
    fn placeholders_take_their_values_by_number() {
        let db = Connection::open_in_memory().expect("memory");
        let params = [Param::Number("7".to_owned()), Param::Text("b".to_owned())];
        for sql in ["SELECT $2 || $1", "SELECT ?2 || ?1", "SELECT :2 || :1"] {
            let mut compiled = db.prepare(sql).expect(sql);
            assert!(bind(&mut compiled, &params).is_ok(), "{sql}");
            let row: String =
                compiled.raw_query().next().expect("a row").expect("a row").get(0).expect("a text");
            assert_eq!(row, "b7", "{sql}");
        }
        for sql in ["SELECT ?", "SELECT ?, ?, ?", "SELECT $1, :name"] {
            let mut compiled = db.prepare(sql).expect(sql);
            assert!(bind(&mut compiled, &params).is_err(), "{sql}");
        }
    }

    #[test]
    fn results_lose_nothing() {
        assert_eq!(json(ValueRef::Integer(i64::MAX)), i64::MAX);
        assert_eq!(json(ValueRef::Blob(b"\x00\xff")), "0x00ff");
        assert_eq!(json(ValueRef::Real(f64::INFINITY)), "inf");
        assert_eq!(json(ValueRef::Text("ü".as_bytes())), "ü");
    }
}
