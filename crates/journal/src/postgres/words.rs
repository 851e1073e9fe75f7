//! What the columns say, for people who look with psql. The records alone are the truth.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unanimous_core::commit::{self, Ending};
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::saga::{self, Plan, Standing, Trouble, Work};
use unanimous_core::txn::{Kind, Record, Txn};
use unanimous_core::{Decision, HeuristicKind, Outcome, Reason, Resolution, Vote};

use super::limits::{TEXT_LEN_MAX, TIME_MAX_MS};
use crate::entry::Stored;
use crate::query::Status;

/// What the rows say of a transaction beside its summary.
pub(super) struct Particulars {
    pub(super) timeout_ms: Option<u64>,
    pub(super) fingerprint: Option<[u8; 16]>,
    pub(super) parts: Vec<Part>,
}

/// What a row says of a participant, or of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) name: String,
    /// None for a step that calls nobody.
    pub(super) resource: Option<String>,
    /// The resource that compensates a step, if it is another one.
    pub(super) compensation_resource: Option<String>,
    pub(super) vote: Option<&'static str>,
    /// Where a step stands.
    pub(super) standing: Option<&'static str>,
    /// Whether it needs no more calls.
    pub(super) ack: bool,
}

/// `None` if no machine can have written the records.
pub(super) fn particulars(stored: &[Stored]) -> Option<Particulars> {
    let machine = Txn::replay(stored.iter().map(|stored| &stored.record)).ok()?;
    let fingerprint = machine.key().map(|key| key.fingerprint);
    Some(match &machine {
        Txn::Commit(machine) => {
            let durable = machine.durable();
            let timeout_ms = Some(durable.begun().timeout_ms);
            Particulars { timeout_ms, fingerprint, parts: participants(durable) }
        }
        Txn::Saga(saga) => {
            let durable = saga.durable();
            let timeout_ms = durable.begun().timeout_ms;
            Particulars { timeout_ms, fingerprint, parts: steps(durable) }
        }
    })
}

fn participants(durable: &commit::Durable) -> Vec<Part> {
    let parts = (0..).map(BranchId).zip(durable.branches()).map(|(id, branch)| Part {
        name: shown(&branch.name),
        resource: Some(shown(&branch.resource)),
        compensation_resource: None,
        vote: durable.vote(id).map(vote),
        standing: None,
        ack: durable.ending(id).is_some(),
    });
    parts.collect()
}

fn steps(durable: &saga::Durable) -> Vec<Part> {
    let plans = (0..).map(BranchId).zip(&durable.begun().steps);
    let part = |(id, plan): (BranchId, &Plan)| {
        let calls = |work: &Work| shown(&work.resource);
        let resource = plan.action.work().map(calls);
        let other = plan.compensation.as_ref().map(calls);
        let step = durable.standing(id);
        Part {
            name: shown(&plan.name),
            compensation_resource: other.filter(|other| resource.as_ref() != Some(other)),
            resource,
            vote: None,
            standing: Some(standing(step)),
            ack: match step {
                Standing::Waiting | Standing::Announced | Standing::Stuck(_) => false,
                Standing::Acted => durable.phase() != saga::Phase::Unwinding,
                Standing::Refused
                | Standing::Unreached
                | Standing::Undone
                | Standing::Kept
                | Standing::Skipped => true,
            },
        }
    };
    plans.map(part).collect()
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Waiting => "WAITING",
        Standing::Announced => "ANNOUNCED",
        Standing::Acted => "ACTED",
        Standing::Refused => "REFUSED",
        Standing::Unreached => "UNREACHED",
        Standing::Undone => "UNDONE",
        Standing::Kept => "KEPT",
        Standing::Stuck(_) => "STUCK",
        Standing::Skipped => "SKIPPED",
    }
}

pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Initiated => "INITIATED",
        Status::Preparing => "PREPARING",
        Status::Committing => "COMMITTING",
        Status::Committed => "COMMITTED",
        Status::Aborting => "ABORTING",
        Status::Aborted => "ABORTED",
        Status::Running => "RUNNING",
        Status::Compensating => "COMPENSATING",
        Status::NeedsAttention => "NEEDS_ATTENTION",
        Status::Completed => "COMPLETED",
        Status::Compensated => "COMPENSATED",
    }
}

pub(super) fn outcome(kind: Kind, outcome: Outcome) -> &'static str {
    match (outcome, kind) {
        (Outcome::Committed, Kind::Atomic | Kind::Tcc | Kind::Message) => "committed",
        (Outcome::Aborted, Kind::Atomic | Kind::Tcc | Kind::Message) => "aborted",
        (Outcome::Committed, Kind::Saga) => "completed",
        (Outcome::Aborted, Kind::Saga) => "compensated",
        (Outcome::Mixed, _) => "mixed",
    }
}

pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Atomic => "atomic",
        Kind::Tcc => "tcc",
        Kind::Saga => "saga",
        Kind::Message => "message",
    }
}

fn vote(vote: Vote) -> &'static str {
    match vote {
        Vote::Yes => "YES",
        Vote::ReadOnly => "READ_ONLY",
        Vote::No => "NO",
    }
}

/// The event and the detail of one record.
pub(super) fn line(record: &Record) -> (&'static str, String) {
    let (event, detail) = match record {
        Record::Commit(record) => line_of_commit(record),
        Record::Saga(record) => line_of_saga(record),
    };
    (event, shown(&detail))
}

fn line_of_commit(record: &commit::Record) -> (&'static str, String) {
    use commit::Record as Commit;
    match record {
        Commit::Begun(begun) => {
            let names: Vec<&str> = begun.branches.iter().map(|branch| &*branch.name).collect();
            let with = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
            ("begun", format!("participants: {with}"))
        }
        Commit::Enlisted(branch) => {
            ("enlisted", format!("{} on resource {}", branch.name, branch.resource))
        }
        Commit::Preparing => ("preparing", "commit was asked for".to_owned()),
        Commit::Delegated(branch) => ("delegated", format!("branch {} decides", branch.0)),
        Commit::Decided { decision: Decision::Commit, .. } => ("decided", "commit".to_owned()),
        Commit::Decided { decision: Decision::Abort, reason: None, .. } => {
            ("decided", "abort".to_owned())
        }
        Commit::Decided { decision: Decision::Abort, reason: Some((branch, reason)), .. } => {
            ("decided", format!("abort: {}", because(*branch, reason)))
        }
        Commit::Finished(branch, ending) => {
            ("finished", format!("branch {}: {}", branch.0, end(*ending)))
        }
        Commit::Resolved(resolution) => ("resolved", resolved(resolution)),
    }
}

fn line_of_saga(record: &saga::Record) -> (&'static str, String) {
    use saga::Record as Saga;
    let step = |step: &BranchId| format!("step {}", step.0);
    match record {
        Saga::Begun(begun) => {
            let names: Vec<&str> = begun.steps.iter().map(|plan| &*plan.name).collect();
            ("begun", format!("steps: {}", names.join(", ")))
        }
        Saga::Started => ("started", "its time has come".to_owned()),
        Saga::Timed(id, until) => ("waiting", format!("{}: until {} ms", step(id), until.0)),
        Saga::Acted(id, _) => ("acted", step(id)),
        Saga::Announced(id) => ("announced", step(id)),
        Saga::Refused(id, reason) => ("refused", because(Some(*id), reason)),
        Saga::Unwinding { step, reason } => ("compensating", because(*step, reason)),
        Saga::Undone(id) => ("compensated", step(id)),
        Saga::Kept(id) => ("kept", format!("{}: it has no compensation", step(id))),
        Saga::Stuck(id, Trouble::Silent, reason) => {
            ("stuck", format!("still called now and then: {}", because(Some(*id), reason)))
        }
        Saga::Stuck(id, Trouble::Refused, reason) => {
            ("stuck", format!("not called any more: {}", because(Some(*id), reason)))
        }
        Saga::Unstuck(id) => ("retried", format!("{}: an operator asked for it", step(id))),
        Saga::Resolved(resolution) => ("resolved", resolved(resolution)),
    }
}

fn because(branch: Option<BranchId>, reason: &Reason) -> String {
    let by = branch.map_or_else(String::new, |branch| format!("branch {}: ", branch.0));
    format!("{by}{}: {}", reason.kind, reason.detail)
}

fn resolved(resolution: &Resolution) -> String {
    let outcome = match resolution.outcome {
        Decision::Commit => "commit",
        Decision::Abort => "rollback",
    };
    format!("{outcome} by {}: {}", resolution.by, resolution.reason)
}

fn end(ending: Ending) -> &'static str {
    match ending {
        Ending::Done => "as decided",
        Ending::Settled => "an operator vouches for it",
        Ending::Heuristic(HeuristicKind::Commit) => "by itself: heuristic commit",
        Ending::Heuristic(HeuristicKind::Rollback) => "by itself: heuristic rollback",
        Ending::Heuristic(HeuristicKind::Mixed) => "by itself: heuristic mixed",
        Ending::Heuristic(HeuristicKind::Hazard) => "by itself: heuristic hazard",
    }
}

/// A text as a column takes it.
pub(super) fn shown(text: &str) -> String {
    storable(&text[..text.floor_char_boundary(TEXT_LEN_MAX)])
}

/// The same at full length, for what is looked up. PostgreSQL knows no text with a zero in it.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// A time as a column takes it.
pub(super) fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0.min(TIME_MAX_MS))
}

/// A time as a column has it.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
