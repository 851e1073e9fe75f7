//! What a step's call sends: its template, filled in when it is called.
//!
//! The journal has the template as the request had it. It was checked when the saga began, so that
//! all that can go wrong here is that results make it too large.

use serde_json::value::RawValue;
use unanimous_core::id::{BranchId, TxnId};
use unanimous_core::saga::{Durable, Work};
use unanimous_core::{Answer, Opaque, Reason, Verb};
use unanimous_participants::step;

use super::template::{Scope, Template, Values};

/// The call that a verb makes to a step's resource.
pub(crate) fn of(saga: &Durable, step: BranchId, verb: Verb) -> &Work {
    let plan = saga.plan(step).expect("machines call their own steps");
    let work = match verb {
        Verb::Compensate => plan.compensation.as_ref(),
        Verb::Act | Verb::Prepare | Verb::Commit | Verb::CommitOnePhase | Verb::Rollback => {
            plan.action.work()
        }
    };
    work.expect("machines call only for what there is")
}

/// What to send, or what the step has to be taken to answer because nothing can be sent.
pub(crate) fn rendered(txn: TxnId, saga: &Durable, work: &Work) -> Result<Opaque, Answer> {
    if work.work.bytes() == step::SETTLE.as_bytes() {
        return Ok(work.work.clone());
    }
    let text = std::str::from_utf8(work.work.bytes()).ok();
    let raw = text.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let unreadable =
        || Answer::Silent("what the step sends cannot be read from the journal".into());
    let raw = raw.ok_or_else(unreadable)?;
    let template = template(raw).map_err(|_| unreadable())?;
    let known = Known { id: txn.to_string(), input: json(&saga.begun().input), saga };
    match template.render(&known) {
        Ok(json) => Ok(Opaque::new(json.as_bytes())),
        Err(error) => Err(Answer::No(Reason::new("too_large", &error.to_string()))),
    }
}

fn template(raw: &RawValue) -> Result<Template, super::template::BadTemplate> {
    match raw.get().starts_with('[') {
        true => Template::statements(raw, &Anything),
        false => Template::request(raw, &Anything),
    }
}

/// The template was checked when the saga began.
struct Anything;

impl Scope for Anything {
    fn reference(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

struct Known<'a> {
    id: String,
    input: Option<&'a RawValue>,
    saga: &'a Durable,
}

impl Values for Known<'_> {
    fn input(&self) -> Option<&RawValue> {
        self.input
    }

    fn result(&self, step: &str) -> Option<&RawValue> {
        let found = self.saga.begun().steps.iter().position(|plan| *plan.name == *step)?;
        json(self.saga.result(BranchId(found as u16))?)
    }

    fn id(&self) -> &str {
        &self.id
    }
}

fn json(bytes: &Opaque) -> Option<&RawValue> {
    serde_json::from_slice(bytes.bytes()).ok()
}
