//! What every adapter of a resource that prepares must do, as one suite that all of them run.
//!
//! The suite asks the resource through its adapter, and looks at the result through the resource's
//! own client, which the [`Subject`] provides.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use unanimous_core::commit::Shape;
use unanimous_core::id::{BranchId, BranchName, ShardId, Timestamp, TxnId};
use unanimous_core::{Answer, Decision, HeuristicKind, Opaque, Verb};

use crate::{Call, Resource, Trace, Turn};

/// A real resource under test, with one counter in it.
pub trait Subject: Sync {
    /// An adapter that remembers nothing, as after a restart of the coordinator.
    fn resource(&self) -> Arc<dyn Resource>;
    /// Work that adds to the counter and returns its new value or its count of rows.
    fn add(&self, amount: i64) -> Opaque;
    /// Work that only reads it.
    fn read(&self) -> Opaque;
    /// Work that adds to it and then meets an expectation that does not hold.
    fn refused(&self) -> Opaque;
    /// The counter, as anybody sees it.
    fn counter(&self) -> i64;
    /// Ends a prepared branch as an operator does, past the coordinator.
    fn end_by_hand(&self, name: &BranchName, decision: Decision);
    /// Prepares something of somebody else's, and returns how the resource spells its name.
    fn prepare_foreign(&self) -> String;
    /// Everything that is prepared, of ours and of others.
    fn prepared(&self) -> Vec<String>;
}

/// Runs every check.
///
/// # Panics
///
/// If one fails.
pub async fn suite(subject: &dyn Subject) {
    let foreign = subject.prepare_foreign();
    let checks: [(&str, Check); 11] = [
        ("work takes effect with the commit and not before", commits),
        ("a rollback leaves nothing", rolls_back),
        ("a commit or rollback that is repeated is done, after a restart too", repeats),
        ("a refusal leaves nothing prepared and says why", refuses),
        ("a branch that only reads needs no second phase", reads),
        ("a rollback of what was never prepared is done", rolls_back_nothing),
        ("what is prepared is listed until it is finished", lists),
        ("two coordinators finish a branch at once, and both hear that it is done", races),
        ("a branch ended by hand against the decision is named", names_heuristics),
        ("a branch ended by hand as decided is done", accepts_help),
        ("a branch that waits for another is refused within its patience", waits_bounded),
    ];
    for (what, check) in checks {
        println!("conformance: {what}");
        check(subject).await;
        assert_eq!(subject.prepared(), std::slice::from_ref(&foreign), "left behind: {what}");
    }
}

type Check = for<'a> fn(&'a dyn Subject) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A branch name that no other has.
///
/// # Panics
///
/// Never.
pub fn fresh_name() -> BranchName {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("it is after 1970");
    let entropy = u128::from(count) << 64 | u128::from(std::process::id());
    let txn = TxnId::mint(now.as_millis() as u64, ShardId::of(count), entropy ^ now.as_nanos());
    BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) }
}

/// A call for a branch, with patience for a slow machine.
pub fn call(name: &BranchName, verb: Verb, work: Opaque) -> Call {
    Call {
        name: name.clone(),
        verb,
        shape: Shape::Atomic,
        work,
        returned: Opaque::default(),
        attempt: 1,
        trace: Trace::of(name.txn),
        deadline: Timestamp(u64::MAX),
        patience: Duration::from_secs(10),
        is_listed: false,
        turn: Turn::default(),
    }
}

/// Prepares, and returns what came with the yes.
async fn yes(resource: &Arc<dyn Resource>, name: &BranchName, work: Opaque) -> Opaque {
    let answer = resource.call(call(name, Verb::Prepare, work)).await;
    let Answer::Yes(returned) = answer else { panic!("{answer:?} is no yes") };
    returned
}

async fn finish(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    verb: Verb,
    returned: &Opaque,
) -> Answer {
    let returned = returned.clone();
    resource.call(Call { returned, ..call(name, verb, Opaque::default()) }).await
}

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

fn commits(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let (resource, name, before) = (subject.resource(), fresh_name(), subject.counter());
        let returned = yes(&resource, &name, subject.add(5)).await;
        assert_eq!(subject.counter(), before);
        assert_eq!(crate::returned::results(returned.bytes()).len(), 1);
        assert_eq!(finish(&resource, &name, Verb::Commit, &returned).await, done());
        assert_eq!(subject.counter(), before + 5);
    })
}

fn rolls_back(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let (resource, name, before) = (subject.resource(), fresh_name(), subject.counter());
        let returned = yes(&resource, &name, subject.add(5)).await;
        assert_eq!(finish(&resource, &name, Verb::Rollback, &returned).await, done());
        assert_eq!(subject.counter(), before);
    })
}

fn repeats(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        for verb in [Verb::Commit, Verb::Rollback] {
            let (name, before) = (fresh_name(), subject.counter());
            let returned = yes(&subject.resource(), &name, subject.add(5)).await;
            for _ in 0..3 {
                assert_eq!(finish(&subject.resource(), &name, verb, &returned).await, done());
            }
            let added = if verb == Verb::Commit { 5 } else { 0 };
            assert_eq!(subject.counter(), before + added);
        }
    })
}

fn refuses(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let (resource, name, before) = (subject.resource(), fresh_name(), subject.counter());
        let answer = resource.call(call(&name, Verb::Prepare, subject.refused())).await;
        let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
        assert_eq!(&*reason.kind, "expectation", "{}", reason.detail);
        assert_eq!(subject.counter(), before);
    })
}

fn reads(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let answer =
            subject.resource().call(call(&fresh_name(), Verb::Prepare, subject.read())).await;
        assert!(matches!(answer, Answer::ReadOnly(_)), "{answer:?}");
    })
}

fn rolls_back_nothing(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let answer =
            finish(&subject.resource(), &fresh_name(), Verb::Rollback, &Opaque::default()).await;
        assert_eq!(answer, done());
    })
}

fn lists(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let (resource, name) = (subject.resource(), fresh_name());
        let held = async || {
            let held = subject.resource().in_doubt(Duration::from_secs(10)).await;
            let held = held.expect("it answers").expect("it can be asked");
            held.into_iter().map(|held| held.name).collect::<Vec<_>>()
        };
        let returned = yes(&resource, &name, subject.add(5)).await;
        assert_eq!(held().await, [name.to_string()]);
        assert_eq!(finish(&resource, &name, Verb::Rollback, &returned).await, done());
        assert!(held().await.is_empty());
    })
}

fn races(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        for _ in 0..20 {
            let (name, before) = (fresh_name(), subject.counter());
            let resources = [subject.resource(), subject.resource()];
            let returned = yes(&resources[0], &name, subject.add(1)).await;
            let [one, two] = resources.each_ref().map(|resource| async {
                let resource = Arc::clone(resource);
                until_settled(&resource, &name, &returned).await
            });
            assert_eq!(tokio::join!(one, two), (done(), done()));
            assert_eq!(subject.counter(), before + 1);
        }
    })
}

/// Commits, and asks again for as long as there is no answer, as the coordinator does.
async fn until_settled(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    returned: &Opaque,
) -> Answer {
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    loop {
        let answer = finish(resource, name, Verb::Commit, returned).await;
        if !matches!(answer, Answer::Working | Answer::Silent(_)) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "never settled: {answer:?}");
        tokio::task::yield_now().await;
    }
}

fn names_heuristics(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        for (verb, by_hand, kind) in [
            (Verb::Commit, Decision::Abort, HeuristicKind::Rollback),
            (Verb::Rollback, Decision::Commit, HeuristicKind::Commit),
        ] {
            let (resource, name) = (subject.resource(), fresh_name());
            let returned = yes(&resource, &name, subject.add(5)).await;
            subject.end_by_hand(&name, by_hand);
            let answer = finish(&resource, &name, verb, &returned).await;
            assert_eq!(answer, Answer::Heuristic(kind));
        }
    })
}

fn accepts_help(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        for (verb, by_hand) in [(Verb::Commit, Decision::Commit), (Verb::Rollback, Decision::Abort)]
        {
            let (resource, name) = (subject.resource(), fresh_name());
            let returned = yes(&resource, &name, subject.add(5)).await;
            subject.end_by_hand(&name, by_hand);
            assert_eq!(finish(&resource, &name, verb, &returned).await, done());
        }
    })
}

fn waits_bounded(subject: &dyn Subject) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        let (resource, first, second) = (subject.resource(), fresh_name(), fresh_name());
        let returned = yes(&resource, &first, subject.add(5)).await;
        let patience = Duration::from_secs(1);
        let waits = Call { patience, ..call(&second, Verb::Prepare, subject.add(1)) };
        let answer = resource.call(waits).await;
        assert!(matches!(answer, Answer::No(_)), "{answer:?}");
        assert_eq!(finish(&resource, &first, Verb::Rollback, &returned).await, done());
    })
}
