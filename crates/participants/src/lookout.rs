//! Who holds the lock that a branch waits for.
//!
//! When a wait has ended the server does not know any more whom it was for. So a branch that has not been
//! answered for half of its lock timeout is looked at over another connection, while it still waits; for
//! one that is answered sooner nobody asks. What was seen stands behind what the server says when it gives
//! up.
//!
//! What always holds: a look changes nothing of the branch, neither its answer nor when that comes.
//! A look that fails, or takes too long, or is not allowed, is as if there had been none. No text of
//! a statement is ever looked at.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use unanimous_core::id::BranchName;

use crate::Call;
use crate::limits::{HOLDERS_NAMED_MAX, LOOK_PATIENCE};

/// Sessions of the server in which branches of ours are at work now, by the server's own number.
#[derive(Default)]
pub(crate) struct AtWork(Mutex<HashMap<i64, BranchName>>);

impl AtWork {
    /// The branch that works in a session.
    pub(crate) fn branch(&self, session: i64) -> Option<BranchName> {
        self.sessions().get(&session).cloned()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<i64, BranchName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the last look for a call saw, for whoever says why there is no answer.
#[derive(Clone)]
pub(crate) struct Sight {
    /// When the call came.
    since: Instant,
    seen: Arc<Mutex<Option<String>>>,
}

impl Sight {
    /// Nothing was seen yet of a call that comes now.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), seen: Arc::default() }
    }

    /// Such as `after 375 ms it waited for …`.
    fn seen(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts what was seen behind a text.
    pub(crate) fn behind(&self, mut text: String) -> String {
        if let Some(seen) = self.seen() {
            text.push_str("; ");
            text.push_str(&seen);
        }
        text
    }

    fn keep(&self, seen: String) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

/// Looks after one branch while its statements are carried out.
pub(crate) struct Lookout<'a> {
    at_work: &'a AtWork,
    /// The session that it works in.
    session: i64,
    /// What is left of the call's patience, from which all timeouts derive.
    pub(crate) left: Duration,
    sight: Sight,
}

impl<'a> Lookout<'a> {
    /// For a call that is about to send its statements over a session.
    pub(crate) fn post(at_work: &'a AtWork, session: i64, call: &Call, sight: &Sight) -> Self {
        at_work.sessions().insert(session, call.name.clone());
        let left = call.patience.saturating_sub(sight.since.elapsed());
        Self { at_work, session, left, sight: sight.clone() }
    }

    /// Half of the lock timeout, which is three quarters of what is left.
    fn pause(&self) -> Duration {
        self.left * 3 / 8
    }

    /// Carries out `work`, and looks whenever half of the lock timeout has passed: the first look meets every
    /// wait that the lock timeout ends, the second those that the statement's ends.
    pub(crate) async fn beside<T, L>(
        &self,
        work: impl Future<Output = T>,
        look: impl Fn() -> L,
    ) -> T
    where
        L: Future<Output = Option<Vec<Holder>>>,
    {
        let start = Instant::now();
        let looking = async {
            loop {
                sleep(self.pause().max(Duration::from_millis(1))).await;
                let after = start.elapsed();
                if let Ok(Some(holders)) = timeout(LOOK_PATIENCE, look()).await
                    && let Some(told) = told(after, &holders)
                {
                    self.sight.keep(told);
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            never = looking => never,
        }
    }

    /// As [`Sight::seen`].
    pub(crate) fn seen(&self) -> Option<String> {
        self.sight.seen()
    }

    /// Names the sessions of a deadlock in which other branches of ours work.
    pub(crate) fn named(&self, sessions: impl Iterator<Item = i64>) -> Option<String> {
        let mut others: Vec<i64> = sessions.filter(|&it| it != self.session).collect();
        others.sort_unstable();
        others.dedup();
        let names: Vec<String> = others
            .into_iter()
            .filter_map(|it| Some(format!("process {it} is {}", self.at_work.branch(it)?)))
            .take(HOLDERS_NAMED_MAX)
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

impl Drop for Lookout<'_> {
    fn drop(&mut self) {
        self.at_work.sessions().remove(&self.session);
    }
}

/// Somebody who is in the way of a branch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Holder {
    pub(crate) who: Who,
    /// What else is known, such as `user "app"`.
    pub(crate) known: Vec<String>,
    /// Whether it waits for somebody else itself.
    pub(crate) waits: Waits,
}

/// Who that is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// What is prepared under an identifier, of ours or not.
    Prepared(String),
    /// A branch of ours whose statements are being carried out.
    Executing(BranchName),
    /// Anything else, in the server's words, such as `process 4711`.
    Other(String),
}

/// Whether somebody waits for a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waits {
    No,
    Yes,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Prepared(id) if id.parse::<BranchName>().is_ok() => write!(f, "{id}, prepared")?,
            // Quoted, because it may be any text.
            Who::Prepared(id) => write!(f, "prepared transaction {id:?}")?,
            Who::Executing(name) => write!(f, "{name}, still executing")?,
            Who::Other(other) => f.write_str(other)?,
        }
        match &*self.known {
            [] => Ok(()),
            known => write!(f, " ({})", known.join(", ")),
        }
    }
}

/// One sentence on who is in the way. `None` if nobody is.
///
/// Those who only wait in front are counted: they hold nothing up by themselves. If all of them wait
/// they wait in a circle.
fn told(after: Duration, holders: &[Holder]) -> Option<String> {
    let (mut named, waiting): (Vec<_>, Vec<_>) =
        holders.iter().partition(|it| it.waits == Waits::No);
    let mut in_front = waiting.len();
    if named.is_empty() {
        (named, in_front) = (waiting, 0);
    }
    let (first, rest) = named.split_first()?;
    let mut told = format!("after {} ms it waited for {first}", after.as_millis());
    for holder in rest.iter().take(HOLDERS_NAMED_MAX - 1) {
        write!(told, " and {holder}").expect("a string takes everything");
    }
    let unnamed = named.len().saturating_sub(HOLDERS_NAMED_MAX);
    if unnamed > 0 {
        write!(told, " and {unnamed} more").expect("a string takes everything");
    }
    if in_front > 0 {
        write!(told, ", with {in_front} more waiting in front").expect("a string takes everything");
    }
    Some(told)
}

/// A time as people say it.
pub(crate) fn lasted(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::{BranchId, ShardId, TxnId};

    use super::*;

    const AFTER: Duration = Duration::from_millis(375);

    fn name(branch: u16) -> BranchName {
        let txn = TxnId::mint(5, ShardId::of(3), 9);
        BranchName { cluster: "main".to_owned(), txn, branch: BranchId(branch) }
    }

    fn holder(who: Who, known: &[&str], waits: Waits) -> Holder {
        Holder { who, known: known.iter().map(|it| (*it).to_owned()).collect(), waits }
    }

    fn other(process: &str, waits: Waits) -> Holder {
        holder(Who::Other(process.to_owned()), &[], waits)
    }

    #[test]
    fn each_holder_is_named_by_what_is_known_of_it() {
        let name = name(1);
        for (who, known, expected) in [
            (
                Who::Prepared(name.to_string()),
                &["for 812 ms"][..],
                format!("after 375 ms it waited for {name}, prepared (for 812 ms)"),
            ),
            (
                Who::Executing(name.clone()),
                &["process 7", "active for 3 s"],
                format!(
                    "after 375 ms it waited for {name}, still executing (process 7, active for 3 s)"
                ),
            ),
            (
                Who::Other("process 7".to_owned()),
                &["application \"psql\"", "idle in transaction for 12 s"],
                "after 375 ms it waited for process 7 (application \"psql\", idle in transaction for \
                 12 s)"
                .to_owned(),
            ),
            (
                Who::Prepared("una:\n\"else\"".to_owned()),
                &[],
                "after 375 ms it waited for prepared transaction \"una:\\n\\\"else\\\"\"".to_owned(),
            ),
        ] {
            assert_eq!(told(AFTER, &[holder(who, known, Waits::No)]), Some(expected));
        }
        assert_eq!(told(AFTER, &[]), None);
    }

    #[test]
    fn who_only_waits_in_front_is_counted_unless_all_do() {
        let queue = [other("a", Waits::Yes), other("b", Waits::No), other("c", Waits::Yes)];
        let expected = "after 375 ms it waited for b, with 2 more waiting in front";
        assert_eq!(told(AFTER, &queue).as_deref(), Some(expected));
        let circle = [other("a", Waits::Yes), other("b", Waits::Yes)];
        let expected = "after 375 ms it waited for a and b";
        assert_eq!(told(AFTER, &circle).as_deref(), Some(expected));
        let many: Vec<Holder> = (1..=5).map(|it| other(&it.to_string(), Waits::No)).collect();
        let expected = "after 375 ms it waited for 1 and 2 and 3 and 2 more";
        assert_eq!(told(AFTER, &many).as_deref(), Some(expected));
    }

    #[test]
    fn times_are_said_in_the_unit_that_fits() {
        let times = [0, 999, 1_000, 119_999, 120_000, 7_199_999, 7_200_000];
        let said = ["0 ms", "999 ms", "1 s", "119 s", "2 min", "119 min", "2 h"];
        assert_eq!(times.map(lasted), said);
    }

    fn call(patience: Duration) -> Call {
        let name = name(0);
        Call {
            verb: unanimous_core::Verb::Prepare,
            shape: unanimous_core::commit::Shape::Atomic,
            work: unanimous_core::Opaque::default(),
            returned: unanimous_core::Opaque::default(),
            attempt: 1,
            trace: crate::Trace::of(name.txn),
            deadline: unanimous_core::id::Timestamp(u64::MAX),
            turn: crate::Turn::default(),
            is_listed: false,
            patience,
            name,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_before_half_of_the_lock_timeout_and_a_look_holds_up_nothing() {
        let (at_work, sight) = (AtWork::default(), Sight::new());
        let lookout = Lookout::post(&at_work, 7, &call(Duration::from_secs(8)), &sight);
        let looks = Mutex::new(0);
        let look = || {
            *looks.lock().expect("not poisoned") += 1;
            std::future::pending()
        };
        let healthy = sleep(Duration::from_millis(2_999));
        lookout.beside(healthy, look).await;
        assert_eq!(*looks.lock().expect("not poisoned"), 0);
        let start = Instant::now();
        lookout.beside(sleep(Duration::from_millis(3_500)), look).await;
        assert_eq!(start.elapsed(), Duration::from_millis(3_500));
        assert_eq!((*looks.lock().expect("not poisoned"), lookout.seen()), (1, None));
        let look = || std::future::ready(Some(vec![other("a", Waits::No)]));
        lookout.beside(sleep(Duration::from_millis(3_500)), look).await;
        let seen = "after 3000 ms it waited for a";
        assert_eq!(sight.behind("late".to_owned()), format!("late; {seen}"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_branch_is_known_by_its_session_for_as_long_as_it_works() {
        let at_work = AtWork::default();
        let call = call(Duration::from_secs(8));
        let post = |session| Lookout::post(&at_work, session, &call, &Sight::new());
        let (mine, theirs) = (post(7), post(8));
        let named = format!("process 8 is {}", name(0));
        assert_eq!(mine.named([7, 8, 8, 9].into_iter()), Some(named));
        drop(theirs);
        assert_eq!(mine.named([7, 8, 9].into_iter()), None);
        assert_eq!((at_work.branch(7), at_work.branch(8)), (Some(name(0)), None));
    }
}
