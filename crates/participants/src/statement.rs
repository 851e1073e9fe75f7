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

impl StatementResult {
    /// The value of the only row, as a text that has lost no digit; `None` for NULL.
    ///
    /// # Errors
    ///
    /// What came instead of one row with one value.
    pub(crate) fn only_value(&self) -> Result<Option<String>, String> {
        let rows = self.rows.as_deref().unwrap_or_default();
        let [Value::Object(row)] = rows else {
            return Err(format!("one row is wanted, and {} came", self.rows_affected));
        };
        if self.truncated {
            return Err("one row is wanted, and more came".to_owned());
        }
        let mut values = row.values();
        match (values.next(), values.next()) {
            (Some(Value::Null), None) => Ok(None),
            (Some(Value::String(text)), None) => Ok(Some(text.clone())),
            (Some(value @ (Value::Number(_) | Value::Bool(_))), None) => {
                Ok(Some(value.to_string()))
            }
            (Some(Value::Array(_) | Value::Object(_)), None) => {
                Err("a number is wanted, and a document came".to_owned())
            }
            (_, _) => Err(format!("one column is wanted, and {} came", row.len())),
        }
    }
}

/// What a resource answers that is to run statements and takes none.
pub(crate) fn takes_none(kind: &str) -> String {
    format!("a resource of the kind {kind} takes no statements")
}

/// What went wrong with a query, with enough of it to find it again.
pub(crate) fn failed(sql: &str, why: &str) -> String {
    const SHOWN: usize = 80;
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}: {why}", &line[..line.floor_char_boundary(SHOWN)])
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
    fn a_query_of_a_number_answers_with_one_row_of_one_value() {
        let result = |rows: Value| {
            let rows = rows.as_array().expect("a list").clone();
            let rows_affected = rows.len() as u64;
            StatementResult { rows_affected, rows: Some(rows), truncated: false }.only_value()
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(result(serde_json::json!([{"sum": "0.10"}])), some("0.10"));
        assert_eq!(result(serde_json::json!([{"sum": u64::MAX}])), some("18446744073709551615"));
        assert_eq!(result(serde_json::json!([{"sum": null}])), Ok(None));
        for (rows, named) in [
            (serde_json::json!([]), "0 came"),
            (serde_json::json!([{"a": 1}, {"a": 2}]), "2 came"),
            (serde_json::json!([{"a": 1, "b": 2}]), "2 came"),
            (serde_json::json!([{}]), "0 came"),
            (serde_json::json!([{"a": [1]}]), "document"),
        ] {
            let why = result(rows.clone()).expect_err("no number");
            assert!(why.contains(named), "{rows}: {why}");
        }
        assert!(StatementResult::default().only_value().is_err());
    }

    #[test]
    fn no_work_is_no_statements_and_other_work_is_refused() {
        assert!(super::read(&Opaque::default()).expect("nothing").is_empty());
        assert!(super::read(&Opaque::new(br#"{"sql":"x"}"#)).is_err());
    }
}
