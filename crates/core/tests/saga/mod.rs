//! How golden histories write a saga down.
//!
//! `begin saga seat charge:seat/attempts=2 ticket:charge/pivot sms:ticket/retriable/kept` names each
//! step, the steps that it comes after, and what is special about it; `start=MS` and `timeout=MS`
//! are of the saga.

use std::sync::Arc;

use unanimous_core::Opaque;
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::saga::{Action, Begun, Plan, Record, Retry, Role, Work};

pub(crate) fn begun(now: Timestamp, words: &[&str]) -> Begun {
    let mut begun = Begun {
        start_at: None,
        timeout_ms: None,
        deadline: None,
        steps: Vec::new(),
        input: Opaque::default(),
        key: None,
        memo: Opaque::default(),
    };
    for word in words {
        if let Some(ms) = word.strip_prefix("start=") {
            begun.start_at = Some(now.after_ms(number(ms)));
        } else if let Some(ms) = word.strip_prefix("timeout=") {
            begun.timeout_ms = Some(number(ms));
            begun.deadline = Some(begun.start_at.unwrap_or(now).after_ms(number(ms)));
        } else {
            let plan = plan(word, &begun.steps);
            begun.steps.push(plan);
        }
    }
    begun
}

fn plan(word: &str, earlier: &[Plan]) -> Plan {
    let mut parts = word.split('/');
    let head = parts.next().expect("a split has a first part");
    let (name, after) = head.split_once(':').unwrap_or((head, ""));
    let before = |name: &str| {
        let index = earlier.iter().position(|it| &*it.name == name).expect("named before");
        BranchId(index as u16)
    };
    let mut plan = Plan {
        name: Arc::from(name),
        after: after.split(',').filter(|it| !it.is_empty()).map(before).collect(),
        action: Action::Call(work(3)),
        compensation: Some(work(2)),
        role: Role::Compensable,
        state: None,
    };
    for part in parts {
        let (word, value) = part.split_once('=').unwrap_or((part, ""));
        match word {
            "pivot" => (plan.role, plan.compensation) = (Role::Pivot, None),
            "retriable" => plan.role = Role::Retriable,
            "kept" => plan.compensation = None,
            "attempts" => plan.action = Action::Call(work(number(value) as u32)),
            "pause" => (plan.action, plan.compensation) = (Action::Pause(number(value)), None),
            "signal" => {
                let wait_ms = (!value.is_empty()).then(|| number(value));
                (plan.action, plan.compensation) = (Action::Signal(wait_ms), None);
            }
            "message" => {
                (plan.action, plan.compensation) = (Action::Message(work(3)), None);
                plan.role = Role::Retriable;
            }
            _ => panic!("what is {part}?"),
        }
    }
    plan
}

fn work(attempts_max: u32) -> Work {
    let retry = Retry { attempts_max: Some(attempts_max), backoff_ms: 100, backoff_max_ms: 1_000 };
    Work { resource: Arc::from("service"), work: Opaque::default(), retry, timeout_ms: None }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

pub(crate) fn shown(record: &Record) -> String {
    match record {
        Record::Begun(begun) => {
            let names: Vec<_> = begun.steps.iter().map(|it| &*it.name).collect();
            let until = begun.deadline.map_or(String::new(), |at| format!(" until {}", at.0));
            format!("Begun Saga [{}]{until}", names.join(" "))
        }
        Record::Started => "Started".to_owned(),
        Record::Timed(step, until) => format!("Timed {step} until {}", until.0),
        Record::Acted(step, result) => match result.bytes() {
            [] => format!("Acted {step}"),
            bytes => format!("Acted {step} {}", String::from_utf8_lossy(bytes)),
        },
        Record::Refused(step, reason) => format!("Refused {step} {}", reason.kind),
        Record::Unwinding { step, reason } => {
            let step = step.map_or(String::new(), |it| format!(" {it}"));
            format!("Unwinding because{step} {}: {}", reason.kind, reason.detail)
        }
        Record::Announced(step) => format!("Announced {step}"),
        Record::Undone(step) => format!("Undone {step}"),
        Record::Kept(step) => format!("Kept {step}"),
        Record::Stuck(step, trouble, reason) => {
            format!("Stuck {step} {trouble:?}: {}", reason.detail)
        }
        Record::Unstuck(step) => format!("Unstuck {step}"),
        Record::Resolved(it) => format!("Resolved {:?} by {}: {}", it.outcome, it.by, it.reason),
    }
}
