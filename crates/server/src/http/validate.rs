//! What can be checked of a request before anything begins.

use std::collections::HashSet;

use serde_json::value::RawValue;
use unanimous_api::{
    BranchRequest, Code, Problem, StatementRequest, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX,
};
use unanimous_core::Opaque;
use unanimous_core::commit::Shape;
use unanimous_core::limits::{BRANCHES_MAX, NAME_LEN_MAX, TEXT_LEN_MAX};
use unanimous_participants::Takes;
use unanimous_participants::limits::{PARAMS_MAX, STATEMENTS_MAX};

use super::Failure;
use crate::config::is_name;
use crate::driver::not_for_tcc;
use crate::limits::{BODY_DEPTH_MAX, OPERATOR_LEN_MAX};
use crate::resources::Resources;

/// Name, resource and work of each participant.
pub(super) type Branches = Vec<(String, String, Opaque)>;

/// The timeout of a request, within its bounds.
pub(super) fn timeout_ms(asked: Option<u64>) -> Result<u64, Failure> {
    let timeout_ms = asked.unwrap_or(TIMEOUT_MS_DEFAULT);
    match (1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
        true => Ok(timeout_ms),
        false => {
            let detail = format!("timeout_ms is {timeout_ms}, not within 1 to {TIMEOUT_MS_MAX}");
            Err(out_of_bounds(detail, "/timeout_ms"))
        }
    }
}

/// The branches of a request: known resources, and names of their own.
pub(super) fn branches(
    resources: &Resources,
    shape: Shape,
    branches: Vec<BranchRequest<&RawValue>>,
) -> Result<Branches, Failure> {
    if branches.len() > BRANCHES_MAX {
        let detail = format!("{} branches, at most {BRANCHES_MAX} are allowed", branches.len());
        return Err(Failure::of(Problem::new(Code::TooManyBranches, detail).at("/branches")));
    }
    let mut names = HashSet::new();
    let mut valid = Vec::with_capacity(branches.len());
    for (index, branch) in branches.into_iter().enumerate() {
        let at = |field: &str| format!("/branches/{index}/{field}");
        known(resources, &branch.resource, || at("resource"))?;
        if shape == Shape::Tcc && takes(resources, &branch.resource) != Takes::Body {
            return Err(Failure::of(not_for_tcc(&branch.resource).at(at("resource"))));
        }
        let name = branch.participant.unwrap_or_else(|| branch.resource.clone());
        participant(&name, || at("participant"))?;
        if let Some(earlier) = same_branch(resources, &mut valid, &name, &branch.resource) {
            // One transaction in one database is one branch: two would wait for each other's locks.
            not_for(branch.body, "statements", || at("body"))?;
            let more = statements(branch.statements.as_deref(), &at("statements"))?;
            earlier.2 = joined(&earlier.2, &more, || at("statements"))?;
            continue;
        }
        if !names.insert(name.clone()) {
            let detail = format!("two branches have the participant name {name}");
            let problem = Problem::new(Code::DuplicateParticipant, detail).at(at("participant"));
            return Err(Failure::of(problem));
        }
        let work = match takes(resources, &branch.resource) {
            Takes::Body | Takes::Commands => {
                not_for(branch.statements.as_ref(), "body", || at("statements"))?;
                work(branch.body, || at("body"))?
            }
            Takes::Statements => {
                not_for(branch.body, "statements", || at("body"))?;
                statements(branch.statements.as_deref(), &at("statements"))?
            }
        };
        valid.push((name, branch.resource, work));
    }
    Ok(valid)
}

/// The branch of the same name in the same database that was named before.
fn same_branch<'a>(
    resources: &Resources,
    valid: &'a mut Branches,
    name: &str,
    resource: &str,
) -> Option<&'a mut (String, String, Opaque)> {
    match takes(resources, resource) {
        Takes::Body | Takes::Commands => None,
        Takes::Statements => {
            valid.iter_mut().find(|(known, at, _)| *known == name && *at == resource)
        }
    }
}

/// Two lists of statements as one.
fn joined(
    first: &Opaque,
    second: &Opaque,
    pointer: impl FnOnce() -> String,
) -> Result<Opaque, Failure> {
    let list = |work: &Opaque| {
        serde_json::from_slice::<Vec<Box<RawValue>>>(work.bytes()).expect("written here as a list")
    };
    let mut all = list(first);
    all.extend(list(second));
    match all.len() <= STATEMENTS_MAX {
        true => Ok(Opaque::new(&serde_json::to_vec(&all).expect("it was JSON before"))),
        false => {
            let count = all.len();
            let detail = format!("{count} statements in one database, at most {STATEMENTS_MAX}");
            Err(out_of_bounds(detail, pointer()))
        }
    }
}

/// A resource that is configured.
pub(super) fn known(
    resources: &Resources,
    name: &str,
    pointer: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match resources.get(name) {
        Some(_) => Ok(()),
        None => {
            let known: Vec<&str> = resources.iter().map(|(name, _)| &**name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let detail =
                format!("no resource {:?} is configured; configured: {known}", brief(name));
            Err(Failure::of(Problem::new(Code::UnknownResource, detail).at(pointer())))
        }
    }
}

/// A name that a participant may have.
pub(super) fn participant(name: &str, pointer: impl FnOnce() -> String) -> Result<(), Failure> {
    match is_name(name) {
        true => Ok(()),
        false => {
            let detail = format!(
                "a participant's name has 1 to {NAME_LEN_MAX} letters, digits, dashes, dots and \
                 underscores"
            );
            Err(out_of_bounds(detail, pointer()))
        }
    }
}

/// What a branch is asked to do, as it was written: its adapter reads it.
pub(super) fn work(
    body: Option<&RawValue>,
    pointer: impl FnOnce() -> String,
) -> Result<Opaque, Failure> {
    let Some(body) = body else { return Ok(Opaque::default()) };
    match depth(body.get()) <= BODY_DEPTH_MAX {
        true => Ok(Opaque::new(body.get().as_bytes())),
        false => {
            let detail = format!("the body is nested deeper than {BODY_DEPTH_MAX} levels");
            Err(out_of_bounds(detail, pointer()))
        }
    }
}

pub(super) fn takes(resources: &Resources, name: &str) -> Takes {
    resources.get(name).map_or(Takes::Body, |(_, resource)| resource.takes())
}

/// A field that the resource does not take; `instead` is the one it does.
fn not_for<T>(
    given: Option<T>,
    instead: &str,
    pointer: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match given {
        None => Ok(()),
        Some(_) => {
            let detail = format!("the resource is of a kind that takes {instead}, not this");
            Err(Failure::of(Problem::new(Code::BadField, detail).at(pointer())))
        }
    }
}

/// A branch that the application prepares itself has no work that the coordinator knows of.
pub(super) fn no_work(
    resources: &Resources,
    name: &str,
    body: Option<&RawValue>,
) -> Result<(), Failure> {
    match takes(resources, name) {
        Takes::Body | Takes::Commands => Ok(()),
        Takes::Statements => not_for(body, "no body when it is enlisted", || "/body".to_owned()),
    }
}

/// What a database is asked to run, as it was written: its adapter reads it.
pub(super) fn statements(
    statements: Option<&[StatementRequest<&RawValue>]>,
    pointer: &str,
) -> Result<Opaque, Failure> {
    let statements = statements.unwrap_or_default();
    if !(1..=STATEMENTS_MAX).contains(&statements.len()) {
        let detail = format!(
            "{} statements; a branch in a database has 1 to {STATEMENTS_MAX}",
            statements.len()
        );
        return Err(out_of_bounds(detail, pointer));
    }
    for (index, statement) in statements.iter().enumerate() {
        if statement.sql.trim().is_empty() || statement.sql.contains('\0') {
            let detail = "a statement is a text that is not empty and has no zero bytes";
            return Err(out_of_bounds(detail, format!("{pointer}/{index}/sql")));
        }
        if statement.params.len() > PARAMS_MAX {
            let detail = format!("{} values, at most {PARAMS_MAX}", statement.params.len());
            return Err(out_of_bounds(detail, format!("{pointer}/{index}/params")));
        }
        for (param, value) in statement.params.iter().enumerate() {
            work(Some(value), || format!("{pointer}/{index}/params/{param}"))?;
        }
    }
    Ok(Opaque::new(&serde_json::to_vec(statements).expect("a request is always JSON")))
}

/// How deep JSON is nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest): (usize, usize) = (0, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            // To the end of the string, over whatever is escaped in it.
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// What an operator gives as the reason of a resolution. It is kept for the audit, so it is refused
/// rather than cut.
pub(super) fn reason(text: &str) -> Result<String, Failure> {
    let plain = plain(text);
    match plain.len() {
        0 => Err(out_of_bounds("a resolution needs a reason", "/reason")),
        1..=TEXT_LEN_MAX => Ok(plain),
        len => {
            let detail = format!("the reason has {len} bytes, at most {TEXT_LEN_MAX} are kept");
            Err(out_of_bounds(detail, "/reason"))
        }
    }
}

/// Who an operator says to be.
pub(super) fn operator(name: Option<&str>) -> Result<String, Failure> {
    let plain = plain(name.unwrap_or("operator"));
    match (1..=OPERATOR_LEN_MAX).contains(&plain.len()) {
        true => Ok(plain),
        false => {
            let detail = format!("an operator's name has 1 to {OPERATOR_LEN_MAX} bytes");
            Err(out_of_bounds(detail, "/by"))
        }
    }
}

/// A text in one line, without what could forge a second one in a log or move a terminal's cursor.
pub(super) fn plain(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.trim().to_owned()
}

/// The beginning of what a client wrote, for a message.
pub(super) fn brief(text: &str) -> &str {
    &text[..text.floor_char_boundary(2 * NAME_LEN_MAX)]
}

pub(super) fn out_of_bounds(detail: impl Into<String>, pointer: impl Into<String>) -> Failure {
    Failure::of(Problem::new(Code::OutOfBounds, detail).at(pointer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_what_is_open_at_once_and_nothing_in_strings() {
        for (json, deep) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[1,{"b":2}],"c":[]}"#, 3),
            (r#"["[[[[\"[[[[","\\",[]]"#, 2),
            (r#"{"[[\\":"]]"}"#, 1),
        ] {
            assert_eq!(depth(json), deep, "{json}");
        }
    }

    #[test]
    fn a_text_for_people_is_one_line() {
        assert_eq!(plain(" a\r\nlevel=ERROR \u{1b}[2Jb\0 "), "a  level=ERROR  [2Jb");
    }
}
