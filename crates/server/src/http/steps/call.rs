//! What a step's call sends, as the journal keeps it.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use unanimous_api::{CallRequest, Code, Problem};

use crate::http::{Failure, validate};

/// What a service is sent, as the journal keeps it.
#[derive(Serialize)]
struct Request<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    headers: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
}

/// A request to a service.
pub(super) fn request(
    call: &CallRequest<&RawValue>,
    at: &impl Fn(&str) -> String,
) -> Result<Box<RawValue>, Failure> {
    if call.statements.is_some() {
        return Err(misplaced("statements", "a service takes a path and a body", at));
    }
    let Some(path) = &call.path else {
        let detail = "a call to a service needs a path, which is appended to its url";
        return Err(Failure::of(Problem::new(Code::BadSaga, detail).at(at("path"))));
    };
    let input = to_raw_value("{{input}}").expect("a text is always JSON");
    let has_body = call.method.as_deref() != Some("GET");
    let request = Request {
        path,
        method: call.method.as_deref(),
        headers: &call.headers,
        body: call.body.or(has_body.then_some(&*input)),
        status: call.status.as_deref(),
    };
    Ok(to_raw_value(&request).expect("a request is always JSON"))
}

/// Statements in a database.
pub(super) fn statements(
    call: &CallRequest<&RawValue>,
    at: &impl Fn(&str) -> String,
) -> Result<Box<RawValue>, Failure> {
    let not_taken = [
        ("path", call.path.is_some()),
        ("method", call.method.is_some()),
        ("headers", !call.headers.is_empty()),
        ("body", call.body.is_some()),
        ("status", call.status.is_some()),
    ];
    if let Some((field, _)) = not_taken.into_iter().find(|(_, given)| *given) {
        return Err(misplaced(field, "a database takes statements", at));
    }
    validate::statements(call.statements.as_deref(), &at("statements"))?;
    Ok(to_raw_value(&call.statements).expect("statements are always JSON"))
}

/// A field that does not go with the resource.
pub(super) fn misplaced(field: &str, why: &str, at: &impl Fn(&str) -> String) -> Failure {
    Failure::of(Problem::new(Code::BadField, why).at(at(field)))
}
