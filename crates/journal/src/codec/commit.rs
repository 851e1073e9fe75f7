//! The records of atomic commit as bytes.
//!
//! docs/journal-format.md draws them. A kind, once written by a release, is never given another
//! meaning.

use std::sync::Arc;

use unanimous_core::commit::{Begun, Branch, Ending, Key, Mode, Phases, Record, Shape};
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::{Decision, Force, HeuristicKind, Opaque, Reason, Resolution, Vote};

use super::bytes::{Reader, Undecodable, put_bytes, put_list, put_option, put_varint};

const BEGUN: u8 = 0x01;
const ENLISTED: u8 = 0x02;
const PREPARING: u8 = 0x03;
const DELEGATED: u8 = 0x04;
const DECIDED: u8 = 0x05;
const FINISHED: u8 = 0x06;
const RESOLVED: u8 = 0x07;
/// As [`BEGUN`], of a transaction that tries, confirms and cancels.
const BEGUN_TCC: u8 = 0x08;

pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Begun(begun) => {
            out.push(match begun.shape {
                Shape::Atomic => BEGUN,
                Shape::Tcc => BEGUN_TCC,
            });
            put_begun(out, begun);
        }
        Record::Enlisted(branch) => {
            out.push(ENLISTED);
            put_branch(out, branch);
        }
        Record::Preparing => out.push(PREPARING),
        Record::Delegated(branch) => {
            out.push(DELEGATED);
            put_branch_id(out, branch);
        }
        Record::Decided { decision, votes, reason, results } => {
            out.extend([DECIDED, decision_byte(*decision)]);
            put_list(out, votes, |out, vote| out.push(vote_byte(*vote)));
            put_option(out, reason.as_ref(), |out, (branch, reason)| {
                put_option(out, branch.as_ref(), put_branch_id);
                put_reason(out, reason);
            });
            put_list(out, results, |out, (branch, result)| {
                put_branch_id(out, branch);
                put_bytes(out, result.bytes());
            });
        }
        Record::Finished(branch, ending) => {
            out.push(FINISHED);
            put_branch_id(out, branch);
            out.push(ending_byte(*ending));
        }
        Record::Resolved(resolution) => {
            out.push(RESOLVED);
            put_resolution(out, resolution);
        }
    }
}

/// Reads what follows the kind; `None` if no release knew the kind.
pub(super) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Option<Record>, Undecodable> {
    let record = match kind {
        BEGUN => Record::Begun(Arc::new(begun(reader, Shape::Atomic)?)),
        BEGUN_TCC => Record::Begun(Arc::new(begun(reader, Shape::Tcc)?)),
        ENLISTED => Record::Enlisted(branch(reader)?),
        PREPARING => Record::Preparing,
        DELEGATED => Record::Delegated(branch_id(reader)?),
        DECIDED => Record::Decided {
            decision: decision(reader)?,
            votes: reader.list(vote)?,
            reason: reader.option(|reader| Ok((reader.option(branch_id)?, reason(reader)?)))?,
            results: reader.list(|reader| Ok((branch_id(reader)?, opaque(reader)?)))?,
        },
        FINISHED => Record::Finished(branch_id(reader)?, ending(reader)?),
        RESOLVED => Record::Resolved(resolution(reader)?),
        _ => return Ok(None),
    };
    Ok(Some(record))
}

fn put_begun(out: &mut Vec<u8>, begun: &Begun) {
    out.push(match begun.mode {
        Mode::Run => 0,
        Mode::RunLater => 1,
        Mode::Interactive => 2,
    });
    put_varint(out, begun.timeout_ms);
    put_varint(out, begun.deadline.0);
    put_list(out, &begun.branches, put_branch);
    put_option(out, begun.key.as_ref(), put_key);
    put_bytes(out, begun.memo.bytes());
}

fn begun(reader: &mut Reader<'_>, shape: Shape) -> Result<Begun, Undecodable> {
    Ok(Begun {
        shape,
        mode: match reader.byte()? {
            0 => Mode::Run,
            1 => Mode::RunLater,
            2 => Mode::Interactive,
            _ => return Err(reader.wrong("an unknown mode")),
        },
        timeout_ms: reader.varint()?,
        deadline: Timestamp(reader.varint()?),
        branches: reader.list(branch)?,
        key: reader.option(key)?,
        memo: opaque(reader)?,
    })
}

fn put_branch(out: &mut Vec<u8>, branch: &Branch) {
    put_bytes(out, branch.name.as_bytes());
    put_bytes(out, branch.resource.as_bytes());
    out.push(match branch.phases {
        Phases::Two => 2,
        Phases::One => 1,
    });
    put_bytes(out, branch.work.bytes());
}

fn branch(reader: &mut Reader<'_>) -> Result<Branch, Undecodable> {
    Ok(Branch {
        name: reader.text()?,
        resource: reader.text()?,
        phases: match reader.byte()? {
            2 => Phases::Two,
            1 => Phases::One,
            _ => return Err(reader.wrong("an unknown number of phases")),
        },
        work: opaque(reader)?,
    })
}

pub(super) fn put_branch_id(out: &mut Vec<u8>, branch: &BranchId) {
    put_varint(out, u64::from(branch.0));
}

pub(super) fn branch_id(reader: &mut Reader<'_>) -> Result<BranchId, Undecodable> {
    reader.varint16().map(BranchId)
}

pub(super) fn opaque(reader: &mut Reader<'_>) -> Result<Opaque, Undecodable> {
    reader.bytes().map(Opaque::new)
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &Key) {
    put_bytes(out, key.text.as_bytes());
    out.extend_from_slice(&key.fingerprint);
}

pub(super) fn key(reader: &mut Reader<'_>) -> Result<Key, Undecodable> {
    Ok(Key { text: reader.text()?, fingerprint: reader.array()? })
}

pub(super) fn put_resolution(out: &mut Vec<u8>, resolution: &Resolution) {
    let force = match resolution.force {
        Force::No => 0,
        Force::Yes => 1,
    };
    out.extend([decision_byte(resolution.outcome), force]);
    put_bytes(out, resolution.by.as_bytes());
    put_bytes(out, resolution.reason.as_bytes());
}

pub(super) fn resolution(reader: &mut Reader<'_>) -> Result<Resolution, Undecodable> {
    Ok(Resolution {
        outcome: decision(reader)?,
        force: force(reader)?,
        by: reader.text()?,
        reason: reader.text()?,
    })
}

pub(super) fn put_reason(out: &mut Vec<u8>, reason: &Reason) {
    put_bytes(out, reason.kind.as_bytes());
    put_bytes(out, reason.detail.as_bytes());
}

// Not through `Reason::new`, which would cut a text that an older release allowed to be longer.
pub(super) fn reason(reader: &mut Reader<'_>) -> Result<Reason, Undecodable> {
    Ok(Reason { kind: reader.text()?, detail: reader.text()? })
}

fn decision_byte(decision: Decision) -> u8 {
    match decision {
        Decision::Commit => 1,
        Decision::Abort => 2,
    }
}

fn decision(reader: &mut Reader<'_>) -> Result<Decision, Undecodable> {
    match reader.byte()? {
        1 => Ok(Decision::Commit),
        2 => Ok(Decision::Abort),
        _ => Err(reader.wrong("an unknown decision")),
    }
}

fn force(reader: &mut Reader<'_>) -> Result<Force, Undecodable> {
    match reader.byte()? {
        0 => Ok(Force::No),
        1 => Ok(Force::Yes),
        _ => Err(reader.wrong("an unknown force")),
    }
}

fn vote_byte(vote: Option<Vote>) -> u8 {
    match vote {
        None => 0,
        Some(Vote::Yes) => 1,
        Some(Vote::ReadOnly) => 2,
        Some(Vote::No) => 3,
    }
}

fn vote(reader: &mut Reader<'_>) -> Result<Option<Vote>, Undecodable> {
    match reader.byte()? {
        0 => Ok(None),
        1 => Ok(Some(Vote::Yes)),
        2 => Ok(Some(Vote::ReadOnly)),
        3 => Ok(Some(Vote::No)),
        _ => Err(reader.wrong("an unknown vote")),
    }
}

fn ending_byte(ending: Ending) -> u8 {
    match ending {
        Ending::Done => 0,
        Ending::Settled => 1,
        Ending::Heuristic(HeuristicKind::Commit) => 2,
        Ending::Heuristic(HeuristicKind::Rollback) => 3,
        Ending::Heuristic(HeuristicKind::Mixed) => 4,
        Ending::Heuristic(HeuristicKind::Hazard) => 5,
    }
}

fn ending(reader: &mut Reader<'_>) -> Result<Ending, Undecodable> {
    match reader.byte()? {
        0 => Ok(Ending::Done),
        1 => Ok(Ending::Settled),
        2 => Ok(Ending::Heuristic(HeuristicKind::Commit)),
        3 => Ok(Ending::Heuristic(HeuristicKind::Rollback)),
        4 => Ok(Ending::Heuristic(HeuristicKind::Mixed)),
        5 => Ok(Ending::Heuristic(HeuristicKind::Hazard)),
        _ => Err(reader.wrong("an unknown ending")),
    }
}
