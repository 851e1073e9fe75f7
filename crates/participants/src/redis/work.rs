//! The body of a branch, as a request has it and as the functions take it.
//!
//! ```json
//! {"conditions":[{"key":"stock:17","exists":true}],
//!  "commands":[["DECRBY","stock:17",2],["HSET","order:42","state","paid"]],
//!  "expect":[{"key":"stock:17","at_least":0}]}
//! ```
//!
//! Here only its form is checked, and numbers become texts, because no machine type holds every number
//! that Redis does. Which commands there are, and what they touch, `functions.lua` says alone.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_core::Opaque;

use crate::limits::{REDIS_WORDS_MAX, STATEMENTS_MAX};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    conditions: Vec<Check<Box<RawValue>>>,
    #[serde(default)]
    commands: Vec<Vec<Box<RawValue>>>,
    #[serde(default)]
    expect: Vec<Check<Box<RawValue>>>,
}

#[derive(Serialize)]
struct Work {
    // An empty list would be read as an empty object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Check<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expect: Vec<Check<String>>,
}

/// Something that must hold at a key, or at a field of it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Check<T> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    equals: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<T>,
}

/// Reads the body of a branch.
///
/// # Errors
///
/// What is wrong with it, and where.
pub(super) fn read(work: &Opaque) -> Result<String, String> {
    let written: Written = match work.is_empty() {
        true => return Err("the branch has no body with commands".to_owned()),
        false => {
            serde_json::from_slice(work.bytes()).map_err(|error| format!("its body: {error}"))?
        }
    };
    let lists = [
        ("conditions", written.conditions.len()),
        ("commands", written.commands.len()),
        ("expectations", written.expect.len()),
    ];
    if let Some((what, count)) = lists.into_iter().find(|(_, count)| *count > STATEMENTS_MAX) {
        return Err(format!("{count} {what}, at most {STATEMENTS_MAX} are allowed"));
    }
    if lists.iter().all(|(_, count)| *count == 0) {
        return Err("its body has no commands".to_owned());
    }
    let checks = |what: &'static str, list: Vec<Check<Box<RawValue>>>| {
        let numbered = (1..).zip(list);
        numbered
            .map(|(number, it)| check(it).map_err(|why| format!("{what} {number}: {why}")))
            .collect::<Result<Vec<_>, _>>()
    };
    let work = Work {
        conditions: checks("condition", written.conditions)?,
        expect: checks("expectation", written.expect)?,
        commands: (1..)
            .zip(written.commands)
            .map(|(number, it)| command(&it).map_err(|why| format!("command {number}: {why}")))
            .collect::<Result<_, _>>()?,
    };
    Ok(serde_json::to_string(&work).expect("texts are always JSON"))
}

fn command(words: &[Box<RawValue>]) -> Result<Vec<String>, String> {
    if words.is_empty() {
        return Err("it is empty".to_owned());
    }
    if words.len() > REDIS_WORDS_MAX {
        return Err(format!("{} words, at most {REDIS_WORDS_MAX} are allowed", words.len()));
    }
    let mut words: Vec<String> = words.iter().map(|it| text(it)).collect::<Result<_, _>>()?;
    words[0].make_ascii_uppercase();
    Ok(words)
}

fn check(check: Check<Box<RawValue>>) -> Result<Check<String>, String> {
    let number = |raw: Option<Box<RawValue>>| match raw {
        Some(raw) => text(&raw).and_then(|text| match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(text)),
            Ok(_) | Err(_) => Err(format!("{raw} is not a number")),
        }),
        None => Ok(None),
    };
    let Check { key, field, exists, kind, equals, at_least, at_most } = check;
    let equals = equals.map(|raw| text(&raw)).transpose()?;
    let (at_least, at_most) = (number(at_least)?, number(at_most)?);
    let tests = [exists.is_some(), kind.is_some(), equals.is_some(), at_least.is_some()];
    if !tests.contains(&true) && at_most.is_none() {
        return Err(
            "it asks for nothing: give exists, type, equals, at_least or at_most".to_owned()
        );
    }
    Ok(Check { key, field, exists, kind, equals, at_least, at_most })
}

/// A text as it is, and a number as it was written.
fn text(raw: &RawValue) -> Result<String, String> {
    let json = raw.get();
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).map_err(|error| format!("a text: {error}")),
        Some(b'-' | b'0'..=b'9') => Ok(json.to_owned()),
        Some(_) | None => {
            let brief = &json[..json.floor_char_boundary(40)];
            Err(format!("{brief} is neither a text nor a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit_and_empty_lists_are_left_out() {
        let body = br#"{"commands":[["incrby","k\n",123456789012345678901],["GET","\u00fc"]],
            "expect":[{"key":"k","at_least":-1.50,"exists":true}]}"#;
        assert_eq!(
            read(&Opaque::new(body)).expect("good"),
            r#"{"commands":[["INCRBY","k\n","123456789012345678901"],["GET","ü"]],"expect":[{"key":"k","exists":true,"at_least":"-1.50"}]}"#
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (body, named) in [
            ("", "no body"),
            ("{}", "no commands"),
            (r#"[["GET","k"]]"#, "its body"),
            (r#"{"command":[]}"#, "unknown field `command`"),
            (r#"{"commands":[["GET","k"],[]]}"#, "command 2: it is empty"),
            (r#"{"commands":[["SET","k",{"a":1}]]}"#, r#"command 1: {"a":1} is neither"#),
            (r#"{"commands":[["SET","k",null]]}"#, "command 1: null is neither"),
            (r#"{"conditions":[{"key":"k"}]}"#, "condition 1: it asks for nothing"),
            (r#"{"conditions":[{"key":"k","at_least":"much"}]}"#, "condition 1: \"much\" is not"),
            (r#"{"expect":[{"key":"k","exist":true}]}"#, "unknown field `exist`"),
        ] {
            let why = read(&Opaque::new(body.as_bytes())).expect_err(body);
            assert!(why.contains(named), "{body}: {why}");
        }
    }
}
