//! Statements for a database: the work of a branch that the coordinator runs itself.
//!
//! The work is the JSON list of the request. Numbers stay as they were written, because no machine
//! type holds every number that a database does.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use unanimous_core::{Opaque, Reason};

/// One statement with the values of its placeholders.
#[derive(Clone, Debug)]
pub struct Statement {
    /// As the client wrote it.
    pub sql: String,
    /// In the order of the placeholders.
    pub params: Vec<Param>,
    /// How many rows it must change or return.
    pub expect_rows: Option<u64>,
}

/// The value of a placeholder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Param {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// A text, or what the database reads from one: a date, a UUID, bytes.
    Text(String),
    /// A list, as JSON.
    List(String),
    /// An object, as JSON.
    Object(String),
}

/// What one statement did.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct StatementResult {
    /// Rows that it changed or returned.
    pub rows_affected: u64,
    /// The rows that it returned, as objects by column, as far as they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Value>>,
    /// Whether more rows came than are kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

#[derive(Deserialize)]
struct Written {
    sql: String,
    #[serde(default)]
    params: Vec<Box<RawValue>>,
    expect_rows: Option<u64>,
}

/// Reads the work of a branch. None at all is an empty list: the application works itself.
///
/// # Errors
///
/// What is wrong with it.
pub fn read(work: &Opaque) -> Result<Vec<Statement>, String> {
    if work.is_empty() {
        return Ok(Vec::new());
    }
    let written: Vec<Written> =
        serde_json::from_slice(work.bytes()).map_err(|error| format!("its statements: {error}"))?;
    written.into_iter().map(statement).collect()
}

fn statement(written: Written) -> Result<Statement, String> {
    let params = written.params.iter().map(|raw| param(raw.get())).collect::<Result<_, _>>()?;
    Ok(Statement { sql: written.sql, params, expect_rows: written.expect_rows })
}

fn param(json: &str) -> Result<Param, String> {
    Ok(match json.as_bytes().first() {
        Some(b'n') => Param::Null,
        Some(b't') => Param::Bool(true),
        Some(b'f') => Param::Bool(false),
        Some(b'[') => Param::List(json.to_owned()),
        Some(b'{') => Param::Object(json.to_owned()),
        Some(b'"') => {
            Param::Text(serde_json::from_str(json).map_err(|error| format!("a text: {error}"))?)
        }
        Some(_) | None => Param::Number(json.to_owned()),
    })
}

/// The vote of a branch whose statement, counted from one, touched other rows than expected.
pub fn unexpected(number: usize, rows: u64, expected: u64) -> Reason {
    let detail = format!("statement {number} changed {rows} rows, expected {expected}");
    Reason::new("expectation", &detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kind_and_numbers_every_digit() {
        let work = br#"[{"sql":"x","params":[null,true,-1.50,123456789012345678901234567890,
            "a\n","\u00fc",[1,[2]],{"a":null}],"expect_rows":1},{"sql":"y"}]"#;
        let read = read(&Opaque::new(work)).expect("statements");
        let text = |text: &str| Param::Text(text.to_owned());
        assert_eq!(
            read[0].params,
            [
                Param::Null,
                Param::Bool(true),
                Param::Number("-1.50".to_owned()),
                Param::Number("123456789012345678901234567890".to_owned()),
                text("a\n"),
                text("ü"),
                Param::List("[1,[2]]".to_owned()),
                Param::Object(r#"{"a":null}"#.to_owned()),
            ]
        );
        assert_eq!((read[0].expect_rows, read[1].expect_rows), (Some(1), None));
        assert!(read[1].params.is_empty());
    }

    #[test]
    fn no_work_is_no_statements_and_other_work_is_refused() {
        assert!(super::read(&Opaque::default()).expect("nothing").is_empty());
        assert!(super::read(&Opaque::new(br#"{"sql":"x"}"#)).is_err());
    }
}
