//! Idempotency keys: what makes two requests the same.
//!
//! The key of a begin is kept in the journal with a fingerprint of what was asked for. The other
//! requests may be repeated as they are, so nothing has to be saved for them: a repeat shows the
//! present state. What is remembered of those is the fingerprint, so that a key is not taken for two
//! requests. A key that is forgotten after a restart costs no more than that check.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use unanimous_api::{BeginRequest, BranchRequest, Code, StatementRequest};
use unanimous_core::id::TxnId;

use super::Failure;
use crate::limits::REQUEST_KEYS_MAX;

type Print = [u8; 16];

fn digest(parts: &[&[u8]]) -> Print {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut print = [0; 16];
    print.copy_from_slice(&hash.finalize()[..16]);
    print
}

/// Digest of a begin as it was understood: white space and the order of members do not matter, and
/// neither does when to answer. It is kept in the journal, so its meaning must not change.
pub(super) fn of_begin(request: &BeginRequest<&RawValue>) -> Print {
    let branches = request.branches.iter().map(|branch| BranchRequest {
        resource: branch.resource.clone(),
        participant: branch.participant.clone(),
        body: branch.body.map(canonical),
        statements: branch.statements.as_ref().map(|list| list.iter().map(statement).collect()),
    });
    let canonical_request = BeginRequest {
        kind: request.kind,
        domain: request.domain.clone(),
        timeout_ms: request.timeout_ms,
        wait: None,
        branches: branches.collect(),
        input: request.input.map(canonical),
        saga: request.saga.clone(),
        steps: Vec::new(),
        source: request.source.clone(),
        webhook: request.webhook.clone(),
        delay_ms: request.delay_ms,
    };
    let canonical_json = serde_json::to_vec(&canonical_request).expect("a request is always JSON");
    match request.steps.is_empty() {
        true => digest(&[b"/v1/transactions", &canonical_json]),
        false => {
            let steps = to_raw_value(&request.steps).expect("a request is always JSON");
            let steps = canonical(&steps);
            digest(&[b"/v1/transactions", &canonical_json, steps.get().as_bytes()])
        }
    }
}

fn statement(statement: &StatementRequest<&RawValue>) -> StatementRequest<Box<RawValue>> {
    StatementRequest {
        sql: statement.sql.clone(),
        params: statement.params.iter().map(|param| canonical(param)).collect(),
        expect_rows: statement.expect_rows,
    }
}

/// Digest of another request.
pub(super) fn of_ask(txn: TxnId, verb: &str, body: &[u8]) -> Print {
    digest(&[&txn.0.to_le_bytes(), verb.as_bytes(), body])
}

/// The same JSON without white space and with members in the order of their names. Numbers and
/// strings stay as they were written: no machine type holds every number.
fn canonical(json: &RawValue) -> Box<RawValue> {
    let text = json.get();
    let sorted = match text.as_bytes().first() {
        Some(b'{') => serde_json::from_str::<BTreeMap<String, &RawValue>>(text)
            .map(|members| members.into_iter().map(|(name, value)| (name, canonical(value))))
            .and_then(|members| serde_json::to_string(&members.collect::<BTreeMap<_, _>>())),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text)
            .map(|items| items.into_iter().map(canonical))
            .and_then(|items| serde_json::to_string(&items.collect::<Vec<_>>())),
        Some(_) | None => Ok(text.to_owned()),
    };
    // What cannot be taken apart, such as a name with half a surrogate, counts as it is.
    let sorted = sorted.unwrap_or_else(|_| text.to_owned());
    RawValue::from_string(sorted).unwrap_or_else(|_| json.to_owned())
}

/// Whether a request was seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// Not under a key that is remembered.
    First,
    /// The same key with the same request.
    Again,
}

/// The last [`REQUEST_KEYS_MAX`] keys of requests other than begin, as digests of their text.
#[derive(Default)]
pub(crate) struct Keys(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    by_key: HashMap<Print, Print>,
    oldest: VecDeque<Print>,
}

impl Keys {
    /// Takes a key for a request, or says that it was used for another one.
    pub(super) fn take(&self, key: &str, request: Print) -> Result<Seen, Failure> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let print = digest(&[key.as_bytes()]);
        match keys.by_key.get(&print) {
            Some(known) if *known == request => return Ok(Seen::Again),
            Some(_) => {
                let detail = format!("the key {key:?} was used for another request");
                return Err(Failure::new(Code::KeyReused, detail));
            }
            None => {}
        }
        if keys.oldest.len() == REQUEST_KEYS_MAX
            && let Some(oldest) = keys.oldest.pop_front()
        {
            keys.by_key.remove(&oldest);
        }
        keys.by_key.insert(print, request);
        keys.oldest.push_back(print);
        Ok(Seen::First)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TXN: TxnId = TxnId(1);

    #[test]
    fn a_key_is_good_for_one_request_however_often_it_is_repeated() {
        let keys = Keys::default();
        let commit = of_ask(TXN, "commit", b"{}");
        assert_eq!(keys.take("k", commit).ok(), Some(Seen::First));
        assert_eq!(keys.take("k", commit).ok(), Some(Seen::Again));
        for other in [
            of_ask(TxnId(2), "commit", b"{}"),
            of_ask(TXN, "abort", b"{}"),
            of_ask(TXN, "commit", b"{ }"),
        ] {
            assert!(keys.take("k", other).is_err());
        }
        assert_eq!(keys.take("other", commit).ok(), Some(Seen::First));
    }

    #[test]
    fn the_oldest_key_is_forgotten_when_there_are_too_many() {
        let keys = Keys::default();
        for number in 0..=REQUEST_KEYS_MAX {
            assert!(keys.take(&number.to_string(), [0; 16]).is_ok());
        }
        assert_eq!(keys.take("0", [1; 16]).ok(), Some(Seen::First));
        assert!(keys.take("2", [1; 16]).is_err());
    }

    fn print(json: &str) -> Print {
        of_begin(&serde_json::from_str(json).expect("a request"))
    }

    #[test]
    fn a_begin_is_the_same_in_whatever_order_and_with_whatever_white_space_it_is_written() {
        let one = print(
            r#"{"kind":"atomic","branches":[{"resource":"a","body":{"x":[1,{"p":1,"q":"ü"}],"y":null}}]}"#,
        );
        let two = print(
            r#"{"wait":"none", "branches":[{"body":{"y" : null, "x":[1, {"q":"ü","p":1}]},
                "resource":"a"}], "kind":"atomic"}"#,
        );
        assert_eq!(one, two);
    }

    #[test]
    fn a_begin_with_other_numbers_is_another_however_small_the_difference() {
        let with = |body: &str| {
            print(&format!(r#"{{"kind":"atomic","branches":[{{"resource":"a","body":{body}}}]}}"#))
        };
        assert_ne!(with("100000000000000000001"), with("100000000000000000002"));
        assert_ne!(with("[1,2]"), with("[2,1]"));
        assert_ne!(with("null"), with(r#""null""#));
        assert_ne!(with("{}"), with("[]"));
    }

    #[test]
    fn a_begin_with_other_statements_is_another() {
        let with = |statement: &str| {
            let branch = format!(r#"{{"resource":"a","statements":[{statement}]}}"#);
            print(&format!(r#"{{"kind":"atomic","branches":[{branch}]}}"#))
        };
        let one = with(r#"{"sql":"x","params":[1],"expect_rows":1}"#);
        assert_eq!(one, with(r#"{"params": [1], "expect_rows":1, "sql":"x"}"#));
        for other in [
            r#"{"sql":"y","params":[1],"expect_rows":1}"#,
            r#"{"sql":"x","params":[2],"expect_rows":1}"#,
            r#"{"sql":"x","params":[1]}"#,
        ] {
            assert_ne!(one, with(other), "{other}");
        }
    }
}
