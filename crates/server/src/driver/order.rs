//! When the branches of a transaction work one after the other, and in which order.
//!
//! Two transactions that each work in two databases at once can each hold a lock that the other
//! waits for, in different databases; neither database sees the cycle, and both wait for their lock
//! timeouts. So where conflicts are seen, statements run in one order of resources, the same for
//! every transaction. Votes are still made durable side by side.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use unanimous_core::commit::Branch;
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::{Answer, Reason};
use unanimous_participants::{Call, Closed, Line, Resource, Turn};

use super::clock::Clock;
use crate::limits::{CALL_TIMEOUT_MS_MIN, CONTENDED_AFTER, CONTENDED_MS};
use crate::resources::Resources;

/// What a call that has waited for its turn is given at least.
const PATIENCE_MIN: Duration = Duration::from_millis(CALL_TIMEOUT_MS_MIN);

/// When statements in several databases run in one order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BranchOrder {
    /// While conflicts are seen in one of the databases.
    #[default]
    Contended,
    /// Always.
    Always,
}

/// The resources in which conflicts have been seen lately.
#[derive(Debug, Default)]
pub(super) struct Contention(Mutex<HashMap<Arc<str>, Timestamp>>);

impl Contention {
    /// A conflict, or a first phase that takes so long that it may be one.
    pub(super) fn seen(&self, resource: &Arc<str>, now: Timestamp) {
        let before = self.lock().insert(Arc::clone(resource), now);
        if before.is_none_or(|before| now.since_ms(before) > CONTENDED_MS) {
            tracing::info!(
                resource = &**resource,
                "conflicts: transactions work in one database after the other for a while"
            );
        }
    }

    fn among<'a>(&self, mut resources: impl Iterator<Item = &'a Arc<str>>, now: Timestamp) -> bool {
        let seen = self.lock();
        !seen.is_empty()
            && resources.any(|resource| {
                seen.get(resource).is_some_and(|&at| now.since_ms(at) <= CONTENDED_MS)
            })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Timestamp>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

/// Whether an answer to a first phase tells of a conflict.
fn is_conflict(answer: &Answer) -> bool {
    match answer {
        Answer::No(reason) => matches!(&*reason.kind, "lock_timeout" | "deadlock"),
        Answer::Yes(_)
        | Answer::ReadOnly(_)
        | Answer::Lost(_)
        | Answer::Done(_)
        | Answer::Heuristic(_)
        | Answer::Working
        | Answer::Silent(_) => false,
    }
}

/// Waits for the answer of a first phase with statements, and notes if it shows a conflict.
pub(super) async fn watch(
    contention: &Contention,
    clock: Clock,
    resource: &Arc<str>,
    answer: impl Future<Output = Answer>,
) -> Answer {
    let mut answer = pin!(answer);
    let answer = match timeout(CONTENDED_AFTER, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => {
            contention.seen(resource, clock.now());
            answer.await
        }
    };
    if is_conflict(&answer) {
        contention.seen(resource, clock.now());
    }
    answer
}

/// Makes a call when its turn comes.
pub(super) async fn in_turn(resource: Arc<dyn Resource>, mut call: Call) -> Answer {
    let start = Instant::now();
    match (timeout(call.patience, call.turn.come()).await, call.attempt) {
        (Ok(Ok(())), _) => {
            call.patience = call.patience.saturating_sub(start.elapsed()).max(PATIENCE_MIN);
            resource.call(call).await
        }
        (Ok(Err(Closed)), 1) => {
            Answer::No(Reason::new("not_run", "a branch that works before it has failed"))
        }
        (Ok(Err(Closed)), _) => Answer::Silent(Arc::from("a branch that works before it failed")),
        (Err(_), _) => Answer::Silent(Arc::from("the branches that work before it are not done")),
    }
}

/// What an answer to a first phase means for the branches that wait for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// They may begin.
    Begins,
    /// They need not.
    GoesHome,
    /// The branch will be asked again.
    Waits,
}

impl Next {
    pub(super) fn after(answer: &Answer) -> Self {
        match answer {
            Answer::Yes(_) | Answer::ReadOnly(_) | Answer::Done(_) => Self::Begins,
            Answer::No(_) | Answer::Lost(_) | Answer::Heuristic(_) => Self::GoesHome,
            Answer::Working | Answer::Silent(_) => Self::Waits,
        }
    }

    pub(super) fn tell(self, turn: &Turn) {
        match self {
            Self::Begins => turn.pass(),
            Self::GoesHome => turn.close(),
            Self::Waits => {}
        }
    }
}

/// The branches of one transaction that work in order.
pub(super) struct InOrder {
    line: Arc<Line>,
    /// The places in the line, first come first served, by branch.
    places: Box<[Option<usize>]>,
}

impl InOrder {
    /// The order of the branches that take locks, if there is a reason for one.
    pub(super) fn of(
        branches: &[Branch],
        resources: &Resources,
        contention: &Contention,
        order: BranchOrder,
        now: Timestamp,
    ) -> Option<Self> {
        if branches.len() < 2 {
            return None;
        }
        let locks = |branch: &Branch| {
            resources.get(&branch.resource).is_some_and(|(_, it)| it.takes().locks())
        };
        let at_work = || branches.iter().enumerate().filter(|(_, branch)| locks(branch));
        let wanted = match order {
            BranchOrder::Always => true,
            BranchOrder::Contended => {
                contention.among(at_work().map(|(_, branch)| &branch.resource), now)
            }
        };
        let mut line: Vec<usize> = match wanted {
            true => at_work().map(|(index, _)| index).collect(),
            false => return None,
        };
        if line.len() < 2 {
            return None;
        }
        line.sort_by_key(|&index| &branches[index].resource);
        let mut places = vec![None; branches.len()].into_boxed_slice();
        for (place, &index) in line.iter().enumerate() {
            places[index] = Some(place);
        }
        Some(Self { line: Line::new(line.len()), places })
    }

    /// The turn of a branch.
    pub(super) fn turn(&self, branch: BranchId) -> Turn {
        match self.places.get(branch.index()).copied().flatten() {
            Some(place) => self.line.turn(place),
            None => Turn::default(),
        }
    }

    /// Nobody else need begin.
    pub(super) fn close(&self) {
        self.line.close();
    }
}
