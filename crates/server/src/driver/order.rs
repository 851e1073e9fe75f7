//! When the branches of a transaction work one after the other, and in which order.
//!
//! Two transactions that each work in two databases at once can each hold a lock that the other
//! waits for, in different databases; neither database sees the cycle, and both wait for their lock
//! timeouts. So where conflicts are seen, statements run in one order of resources, the same for
//! every transaction. Votes are still made durable side by side.
//!
//! Those in which conflicts are seen come first. Whoever waits there has done nothing elsewhere, and
//! thousands that wait for one row leave all other databases alone. Behind it conflicts are not seen
//! any more, so that the order stays what it is as long as there are any. And only so many transactions
//! work there at once: what those who wait had prepared elsewhere would take the places of those they wait
//! for, until nobody could prepare anything.

use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use unanimous_core::commit::Branch;
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::{Answer, Reason, Verb};
use unanimous_participants::{Call, Closed, Line, Resource, Turn};

use super::clock::Clock;
use crate::limits::{CALL_TIMEOUT_MS_MIN, CONTENDED_AFTER, CONTENDED_AT_WORK_MAX, CONTENDED_MS};
use crate::resources::Resources;

/// What a call that has waited for its turn is given at least.
const PATIENCE_MIN: Duration = Duration::from_millis(CALL_TIMEOUT_MS_MIN);

/// When statements in several databases run in one order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BranchOrder {
    /// First, one after the other, those in which conflicts are seen; then all others at once.
    #[default]
    Contended,
    /// Always one after the other, by their names alone.
    Always,
}

/// The resources in which conflicts have been seen lately, by all coordinators of a process.
#[derive(Debug, Default)]
pub struct Contention(Mutex<HashMap<Arc<str>, Contended>>);

/// A resource in which conflicts have been seen.
#[derive(Debug)]
struct Contended {
    at: Timestamp,
    /// Places of transactions that work there.
    free: Arc<Semaphore>,
}

impl Contention {
    /// A conflict, or a first phase that takes so long that it may be one.
    pub(super) fn seen(&self, resource: &Arc<str>, now: Timestamp) {
        let mut seen = self.lock();
        let is_news = !is_fresh(seen.get(resource), now);
        match seen.get_mut(resource) {
            Some(contended) => contended.at = now,
            None => {
                let free = Arc::new(Semaphore::new(CONTENDED_AT_WORK_MAX));
                seen.insert(Arc::clone(resource), Contended { at: now, free });
            }
        }
        drop(seen);
        if is_news {
            tracing::info!(
                resource = &**resource,
                "conflicts: transactions work here first, and elsewhere after that, for a while"
            );
        }
    }

    /// The places of those who work in a resource, if it is one of these.
    fn places(&self, resource: &str, now: Timestamp) -> Option<Arc<Semaphore>> {
        let seen = self.lock();
        let contended = seen.get(resource);
        contended.filter(|it| is_fresh(Some(it), now)).map(|it| Arc::clone(&it.free))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Contended>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

fn is_fresh(contended: Option<&Contended>, now: Timestamp) -> bool {
    contended.is_some_and(|it| now.since_ms(it.at) <= CONTENDED_MS)
}

/// The way of one transaction to where conflicts have been seen.
pub(super) struct Entry {
    /// In the order of the resources' names, so that nobody waits for somebody who waits for him.
    places: Vec<Arc<Semaphore>>,
    held: tokio::sync::Mutex<Vec<OwnedSemaphorePermit>>,
    stage: Mutex<Stage>,
}

/// How far a transaction is on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Outside,
    Inside,
    /// It needs no place any more.
    Left,
    /// It does not come in here: whoever takes over finds it as it is.
    Stays,
}

impl Entry {
    fn to(places: Vec<Arc<Semaphore>>) -> Arc<Self> {
        let stage = Mutex::new(Stage::Outside);
        Arc::new(Self { places, held: tokio::sync::Mutex::default(), stage })
    }

    /// Waits until the transaction has a place everywhere. It waits with empty hands.
    async fn come(&self) {
        let mut held = self.held.lock().await;
        for place in self.places.iter().skip(held.len()) {
            let place = Arc::clone(place).acquire_owned().await;
            held.push(place.expect("it is never closed"));
        }
        let stage = {
            let mut stage = self.stage();
            if *stage == Stage::Outside {
                *stage = Stage::Inside;
            }
            *stage
        };
        match stage {
            Stage::Outside | Stage::Inside => {}
            Stage::Left => held.clear(),
            Stage::Stays => {
                held.clear();
                drop(held);
                pending().await
            }
        }
    }

    /// Keeps it outside, unless it is inside already.
    fn stay(&self) {
        let mut stage = self.stage();
        if *stage == Stage::Outside {
            *stage = Stage::Stays;
        }
    }

    /// Others may have its places: what it waits for now is nobody's lock.
    fn leave(&self) {
        *self.stage() = Stage::Left;
        // Whoever holds this sees that, or leaves when it is sent home.
        if let Ok(mut held) = self.held.try_lock() {
            held.clear();
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("nothing panics while it is held")
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

/// Notes if a first phase with statements shows a conflict.
pub(super) struct Watch {
    pub(super) contention: Arc<Contention>,
    pub(super) clock: Clock,
    pub(super) resource: Arc<str>,
}

impl Watch {
    /// Waits for the answer.
    pub(super) async fn over(&self, answer: impl Future<Output = Answer>) -> Answer {
        let seen = || self.contention.seen(&self.resource, self.clock.now());
        let mut answer = pin!(answer);
        let answer = match timeout(CONTENDED_AFTER, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                seen();
                answer.await
            }
        };
        if is_conflict(&answer) {
            seen();
        }
        answer
    }
}

/// Makes a call when its turn comes. What it waits for before that says nothing of its own resource.
pub(super) async fn in_turn(
    resource: Arc<dyn Resource>,
    mut call: Call,
    entry: Arc<Entry>,
    watch: Option<Watch>,
) -> Answer {
    let start = Instant::now();
    let turn = async {
        tokio::select! {
            biased;
            () = call.turn.closed() => Err(Closed),
            () = entry.come() => call.turn.come().await,
        }
    };
    match (timeout(call.patience, turn).await, call.attempt) {
        (Ok(Ok(())), _) => {
            call.patience = call.patience.saturating_sub(start.elapsed()).max(PATIENCE_MIN);
            let answer = resource.call(call);
            match watch {
                Some(watch) => watch.over(answer).await,
                None => answer.await,
            }
        }
        (Ok(Err(Closed)), attempt) => {
            entry.leave();
            match attempt {
                1 => Answer::No(Reason::new("not_run", "a branch that works before it has failed")),
                _ => Answer::Silent(Arc::from("a branch that works before it failed")),
            }
        }
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
    entry: Arc<Entry>,
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
        let locks = |branch: &Branch| {
            resources.get(&branch.resource).is_some_and(|(_, it)| it.takes().locks())
        };
        let mut at_work: Vec<usize> = (0..branches.len()).collect();
        at_work.retain(|&index| locks(&branches[index]));
        if at_work.len() < 2 {
            return None;
        }
        at_work.sort_by_key(|&index| &branches[index].resource);
        let (mut contended, mut ways) = (Vec::new(), Vec::new());
        for &index in &at_work {
            if let Some(way) = contention.places(&branches[index].resource, now) {
                contended.push(index);
                ways.push(way);
            }
        }
        let (one_by_one, together) = match order {
            BranchOrder::Always => (at_work, Vec::new()),
            BranchOrder::Contended if contended.is_empty() => return None,
            BranchOrder::Contended => {
                at_work.retain(|index| !contended.contains(index));
                (contended, at_work)
            }
        };
        let mut places = vec![None; branches.len()].into_boxed_slice();
        for (place, &index) in one_by_one.iter().enumerate() {
            places[index] = Some(place);
        }
        let last = one_by_one.len();
        together.iter().for_each(|&index| places[index] = Some(last));
        let line = Line::new(last + usize::from(!together.is_empty()));
        Some(Self { line, places, entry: Entry::to(ways) })
    }

    fn turn(&self, branch: BranchId) -> Turn {
        match self.places.get(branch.index()).copied().flatten() {
            Some(place) => self.line.turn(place),
            None => Turn::default(),
        }
    }

    /// What a call to a branch waits for, and what it comes in by. A call that makes the decision known
    /// waits for nobody, and lets others come.
    pub(super) fn call(&self, branch: BranchId, verb: Verb) -> (Turn, Option<Arc<Entry>>) {
        match verb {
            Verb::Prepare => return (self.turn(branch), Some(Arc::clone(&self.entry))),
            Verb::Commit => self.entry.leave(),
            Verb::Rollback => self.close(),
            Verb::CommitOnePhase | Verb::Act | Verb::Compensate => {}
        }
        (Turn::default(), None)
    }

    /// One that still waits outside stays there. Branches that take no locks may be at work all the same.
    pub(super) fn stay(&self) {
        self.entry.stay();
    }

    /// Whether it waits outside for whoever takes over.
    pub(super) fn stays(&self) -> bool {
        *self.entry.stage() == Stage::Stays
    }

    /// Nobody else need begin.
    pub(super) fn close(&self) {
        self.line.close();
        self.entry.leave();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;
    use unanimous_core::Opaque;
    use unanimous_core::commit::Phases;
    use unanimous_participants::{Settings, Unobserved, open};

    use super::*;

    #[tokio::test]
    async fn so_many_work_where_conflicts_are_seen_and_the_next_comes_when_one_leaves() {
        let (contention, now) = (Contention::default(), Timestamp(1_000_000));
        let wallet: Arc<str> = Arc::from("wallet");
        assert!(contention.places(&wallet, now).is_none());
        contention.seen(&wallet, now);
        let entry = || Entry::to(contention.places(&wallet, now).into_iter().collect());
        let at_work: Vec<_> = (0..CONTENDED_AT_WORK_MAX).map(|_| entry()).collect();
        for entry in &at_work {
            entry.come().await;
            // Another branch of the same transaction.
            entry.come().await;
        }
        let [aborted, next] = [entry(), entry()];
        let waiting = [&aborted, &next].map(|entry| {
            let entry = Arc::clone(entry);
            tokio::spawn(async move { entry.come().await })
        });
        yield_now().await;
        assert!(waiting.iter().all(|it| !it.is_finished()));
        // It waits no more, but for what it has asked for.
        aborted.leave();
        at_work[0].leave();
        for waiting in waiting {
            waiting.await.expect("it comes");
        }
        let [inside, outside] = [&at_work[1], &entry()].map(Arc::clone);
        [&inside, &outside].iter().for_each(|entry| entry.stay());
        inside.come().await;
        assert_eq!([*inside.stage(), *outside.stage()], [Stage::Inside, Stage::Stays]);
        let staying = Arc::clone(&outside);
        let staying = tokio::spawn(async move { staying.come().await });
        at_work[2].leave();
        // It takes no place from whoever comes after it.
        entry().come().await;
        assert!(!staying.is_finished());
        let later = Timestamp(now.0 + CONTENDED_MS + 1);
        assert!(contention.places(&wallet, later).is_none(), "nothing was seen for long");
    }

    /// A branch at a database that nobody connects to.
    fn branch(resource: &str) -> Branch {
        let name = Arc::from(resource);
        let work = Opaque::default();
        Branch { name: Arc::clone(&name), resource: name, phases: Phases::Two, work }
    }

    #[tokio::test]
    async fn resources_with_conflicts_come_first_and_one_by_one() {
        let (contention, now) = (Contention::default(), Timestamp(1_000_000));
        let branches = ["audit", "bank", "ledger", "wallet"].map(branch);
        let resources = branches.iter().fold(Resources::default(), |all, branch| {
            let url = format!("postgres://app@127.0.0.1:1/{}", branch.resource);
            let settings = Settings::default();
            let opened = open(&branch.resource, &url, &settings, Arc::new(Unobserved));
            all.with(&branch.resource, opened.expect("a good url"))
        });
        let places = |order| {
            InOrder::of(&branches, &resources, &contention, order, now).map(|it| it.places.to_vec())
        };
        assert_eq!(places(BranchOrder::Contended), None);
        let by_name = (0..4).map(Some).collect::<Vec<_>>();
        assert_eq!(places(BranchOrder::Always), Some(by_name.clone()));
        ["wallet", "bank"].iter().for_each(|name| contention.seen(&Arc::from(*name), now));
        assert_eq!(places(BranchOrder::Contended), Some(vec![Some(2), Some(0), Some(2), Some(1)]));
        assert_eq!(places(BranchOrder::Always), Some(by_name));
    }
}
