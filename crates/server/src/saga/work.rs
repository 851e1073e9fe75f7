//! What a step's call sends: its template, filled in when it is called.
//!
//! The journal has the template as the request had it. It was checked when the saga began, so that
//! all that can go wrong here is that results make it too large.

use serde_json::value::RawValue;
use unanimous_core::id::{BranchId, TxnId};
use unanimous_core::saga::{Durable, Work};
use unanimous_core::{Answer, Opaque, Reason, Verb};
use unanimous_participants::step;

use super::sent::Sent;
use super::template::{Scope, Template, TooLarge, Values};

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
pub(crate) fn rendered(
    txn: TxnId,
    saga: &Durable,
    sent: Option<Sent<'_>>,
) -> Result<Opaque, Answer> {
    let unreadable =
        || Answer::Silent("what the step sends cannot be read from the journal".into());
    let sent = sent.ok_or_else(unreadable)?;
    if sent.template.get() == step::SETTLE {
        return Ok(Opaque::new(step::SETTLE.as_bytes()));
    }
    let id = txn.to_string();
    let own = json(&saga.begun().input).map(|input| input.get().to_owned());
    let too_large = |error: TooLarge| Answer::No(Reason::new("too_large", &error.to_string()));
    let mut known = Known { id: &id, input: own, prefix: String::new(), saga };
    for child in &sent.around {
        if let Some(input) = child.input {
            let input = Template::json(input, &Anything).map_err(|_| unreadable())?;
            known.input = Some(input.render(&known).map_err(too_large)?);
        }
        known.prefix = format!("{}.", child.name);
    }
    let template = template(&sent).map_err(|_| unreadable())?;
    match template.render(&known) {
        Ok(json) if sent.tried.is_some() && json == "null" => Ok(Opaque::default()),
        Ok(json) => Ok(Opaque::new(json.as_bytes())),
        Err(error) => Err(too_large(error)),
    }
}

fn template(sent: &Sent<'_>) -> Result<Template, super::template::BadTemplate> {
    let raw = sent.template;
    match (sent.tried, raw.get().starts_with('[')) {
        (Some(_), _) => Template::json(raw, &Anything),
        (None, true) => Template::statements(raw, &Anything),
        (None, false) => Template::request(raw, &Anything),
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
    id: &'a str,
    input: Option<String>,
    /// Before the names of its steps.
    prefix: String,
    saga: &'a Durable,
}

impl Values for Known<'_> {
    fn input(&self) -> Option<&RawValue> {
        serde_json::from_str(self.input.as_deref()?).ok()
    }

    fn result(&self, step: &str) -> Option<&RawValue> {
        let is_it = |name: &str| name.strip_prefix(&*self.prefix) == Some(step);
        let found = self.saga.begun().steps.iter().position(|plan| is_it(&plan.name))?;
        json(self.saga.result(BranchId(found as u16))?)
    }

    fn id(&self) -> &str {
        self.id
    }
}

fn json(bytes: &Opaque) -> Option<&RawValue> {
    serde_json::from_slice(bytes.bytes()).ok()
}
