//! The records of a saga as bytes.
//!
//! docs/journal-format.md draws them. A kind, once written by a release, is never given another
//! meaning.

use std::sync::Arc;

use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::saga::{Action, Begun, Plan, Record, Retry, Role, Trouble, Work};

use super::bytes::{Reader, Undecodable, put_bytes, put_list, put_option, put_varint};
use super::commit::{
    branch_id, key, opaque, put_branch_id, put_key, put_reason, put_resolution, reason, resolution,
};

const BEGUN: u8 = 0x40;
const STARTED: u8 = 0x41;
const TIMED: u8 = 0x42;
const ACTED: u8 = 0x43;
const REFUSED: u8 = 0x44;
const UNWINDING: u8 = 0x45;
const UNDONE: u8 = 0x46;
const KEPT: u8 = 0x47;
const STUCK: u8 = 0x48;
const UNSTUCK: u8 = 0x49;
const RESOLVED: u8 = 0x4A;
const ANNOUNCED: u8 = 0x4B;

pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    let of_step = |out: &mut Vec<u8>, kind, step: &BranchId| {
        out.push(kind);
        put_branch_id(out, step);
    };
    match record {
        Record::Begun(begun) => {
            out.push(BEGUN);
            put_begun(out, begun);
        }
        Record::Started => out.push(STARTED),
        Record::Timed(step, until) => {
            of_step(out, TIMED, step);
            put_varint(out, until.0);
        }
        Record::Acted(step, result) => {
            of_step(out, ACTED, step);
            put_bytes(out, result.bytes());
        }
        Record::Refused(step, reason) => {
            of_step(out, REFUSED, step);
            put_reason(out, reason);
        }
        Record::Unwinding { step, reason } => {
            out.push(UNWINDING);
            put_option(out, step.as_ref(), put_branch_id);
            put_reason(out, reason);
        }
        Record::Announced(step) => of_step(out, ANNOUNCED, step),
        Record::Undone(step) => of_step(out, UNDONE, step),
        Record::Kept(step) => of_step(out, KEPT, step),
        Record::Stuck(step, trouble, reason) => {
            of_step(out, STUCK, step);
            out.push(match trouble {
                Trouble::Silent => 0,
                Trouble::Refused => 1,
            });
            put_reason(out, reason);
        }
        Record::Unstuck(step) => of_step(out, UNSTUCK, step),
        Record::Resolved(resolution) => {
            out.push(RESOLVED);
            put_resolution(out, resolution);
        }
    }
}

/// Reads what follows the kind; `None` if no release knew the kind.
pub(super) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Option<Record>, Undecodable> {
    let record = match kind {
        BEGUN => Record::Begun(Arc::new(begun(reader)?)),
        STARTED => Record::Started,
        TIMED => Record::Timed(branch_id(reader)?, Timestamp(reader.varint()?)),
        ACTED => Record::Acted(branch_id(reader)?, opaque(reader)?),
        REFUSED => Record::Refused(branch_id(reader)?, reason(reader)?),
        UNWINDING => Record::Unwinding { step: reader.option(branch_id)?, reason: reason(reader)? },
        UNDONE => Record::Undone(branch_id(reader)?),
        KEPT => Record::Kept(branch_id(reader)?),
        STUCK => Record::Stuck(branch_id(reader)?, trouble(reader)?, reason(reader)?),
        UNSTUCK => Record::Unstuck(branch_id(reader)?),
        RESOLVED => Record::Resolved(resolution(reader)?),
        ANNOUNCED => Record::Announced(branch_id(reader)?),
        _ => return Ok(None),
    };
    Ok(Some(record))
}

fn trouble(reader: &mut Reader<'_>) -> Result<Trouble, Undecodable> {
    match reader.byte()? {
        0 => Ok(Trouble::Silent),
        1 => Ok(Trouble::Refused),
        _ => Err(reader.wrong("an unknown trouble")),
    }
}

fn put_begun(out: &mut Vec<u8>, begun: &Begun) {
    put_option(out, begun.start_at.as_ref(), |out, at| put_varint(out, at.0));
    put_option(out, begun.timeout_ms.as_ref(), |out, ms| put_varint(out, *ms));
    put_option(out, begun.deadline.as_ref(), |out, at| put_varint(out, at.0));
    put_list(out, &begun.steps, put_plan);
    put_bytes(out, begun.input.bytes());
    put_option(out, begun.key.as_ref(), put_key);
    put_bytes(out, begun.memo.bytes());
}

fn begun(reader: &mut Reader<'_>) -> Result<Begun, Undecodable> {
    Ok(Begun {
        start_at: reader.option(|reader| reader.varint().map(Timestamp))?,
        timeout_ms: reader.option(Reader::varint)?,
        deadline: reader.option(|reader| reader.varint().map(Timestamp))?,
        steps: reader.list(plan)?,
        input: opaque(reader)?,
        key: reader.option(key)?,
        memo: opaque(reader)?,
    })
}

fn put_plan(out: &mut Vec<u8>, plan: &Plan) {
    put_bytes(out, plan.name.as_bytes());
    put_list(out, &plan.after, put_branch_id);
    match &plan.action {
        Action::Call(work) => {
            out.push(0);
            put_work(out, work);
        }
        Action::Signal(timeout_ms) => {
            out.push(1);
            put_option(out, timeout_ms.as_ref(), |out, ms| put_varint(out, *ms));
        }
        Action::Pause(ms) => {
            out.push(2);
            put_varint(out, *ms);
        }
        Action::Local(work, ms) => {
            out.push(3);
            put_work(out, work);
            put_varint(out, *ms);
        }
        Action::Message(work) => {
            out.push(4);
            put_work(out, work);
        }
    }
    put_option(out, plan.compensation.as_ref(), put_work);
    out.push(match plan.role {
        Role::Compensable => 0,
        Role::Pivot => 1,
        Role::Retriable => 2,
    });
    put_option(out, plan.state.as_ref(), |out, state| put_bytes(out, state.as_bytes()));
}

fn plan(reader: &mut Reader<'_>) -> Result<Plan, Undecodable> {
    Ok(Plan {
        name: reader.text()?,
        after: reader.list(branch_id)?,
        action: match reader.byte()? {
            0 => Action::Call(work(reader)?),
            1 => Action::Signal(reader.option(Reader::varint)?),
            2 => Action::Pause(reader.varint()?),
            3 => Action::Local(work(reader)?, reader.varint()?),
            4 => Action::Message(work(reader)?),
            _ => return Err(reader.wrong("an unknown action")),
        },
        compensation: reader.option(work)?,
        role: match reader.byte()? {
            0 => Role::Compensable,
            1 => Role::Pivot,
            2 => Role::Retriable,
            _ => return Err(reader.wrong("an unknown role")),
        },
        state: reader.option(Reader::text)?,
    })
}

fn put_work(out: &mut Vec<u8>, work: &Work) {
    put_bytes(out, work.resource.as_bytes());
    put_bytes(out, work.work.bytes());
    put_option(out, work.retry.attempts_max.as_ref(), |out, max| put_varint(out, (*max).into()));
    put_varint(out, work.retry.backoff_ms);
    put_varint(out, work.retry.backoff_max_ms);
    put_option(out, work.timeout_ms.as_ref(), |out, ms| put_varint(out, *ms));
}

fn work(reader: &mut Reader<'_>) -> Result<Work, Undecodable> {
    Ok(Work {
        resource: reader.text()?,
        work: opaque(reader)?,
        retry: Retry {
            attempts_max: reader.option(Reader::varint32)?,
            backoff_ms: reader.varint()?,
            backoff_max_ms: reader.varint()?,
        },
        timeout_ms: reader.option(Reader::varint)?,
    })
}
