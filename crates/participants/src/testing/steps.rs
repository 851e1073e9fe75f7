//! What every adapter of a database must do with steps of sagas, as one suite that all of them run.
//!
//! Whatever is repeated, late, out of order, at once or cut off: a step takes effect at most once, and
//! not at all once it was compensated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};

use super::conformance::{Subject, call, fresh_name};
use super::{PATIENCE, Proxy, Toward, until};
use crate::{Call, Resource};

/// Runs every check.
///
/// # Panics
///
/// If one fails.
pub async fn suite(subject: &dyn Subject) {
    assert!(subject.resource().steps(), "the adapter says so");
    repeats(subject).await;
    refuses(subject).await;
    bars(subject).await;
    undoes(subject).await;
    races_itself(subject).await;
    races_its_compensation(subject).await;
}

/// Asks as a coordinator does that was restarted.
async fn ask(subject: &dyn Subject, name: &BranchName, verb: Verb, work: Opaque) -> Answer {
    subject.resource().call(call(name, verb, work)).await
}

/// Asks again until there is an answer.
async fn settle(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    verb: Verb,
    work: &Opaque,
) -> Answer {
    let mut answer = Answer::Working;
    until("it is answered", async || {
        answer = resource.call(call(name, verb, work.clone())).await;
        !matches!(answer, Answer::Silent(_) | Answer::Working)
    })
    .await;
    answer
}

fn result(answer: &Answer) -> Opaque {
    let Answer::Done(result) = answer else { panic!("{answer:?} is not done") };
    result.clone()
}

fn kind(answer: &Answer) -> &str {
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    &reason.kind
}

async fn repeats(subject: &dyn Subject) {
    println!("steps: what is repeated takes effect once and has the same result");
    let (name, before) = (fresh_name(), subject.counter());
    let first = ask(subject, &name, Verb::Act, subject.add(7)).await;
    assert!(!result(&first).is_empty(), "it says how many rows it changed");
    for _ in 0..3 {
        assert_eq!(ask(subject, &name, Verb::Act, subject.add(7)).await, first);
    }
    assert_eq!(subject.counter(), before + 7);
    let read = ask(subject, &fresh_name(), Verb::Act, subject.read()).await;
    let text = String::from_utf8_lossy(result(&read).bytes()).into_owned();
    assert!(text.contains(&subject.counter().to_string()), "{text}");
}

async fn refuses(subject: &dyn Subject) {
    println!("steps: a refusal leaves nothing, and a repeat is carried out again");
    let (name, before) = (fresh_name(), subject.counter());
    for _ in 0..2 {
        let answer = ask(subject, &name, Verb::Act, subject.refused()).await;
        assert_eq!(kind(&answer), "expectation");
        assert_eq!(subject.counter(), before);
    }
    result(&ask(subject, &name, Verb::Act, subject.add(3)).await);
    let answer = ask(subject, &name, Verb::Compensate, subject.refused()).await;
    assert_eq!(kind(&answer), "expectation", "a compensation can be refused");
    result(&ask(subject, &name, Verb::Compensate, subject.add(-3)).await);
    assert_eq!(subject.counter(), before);
}

async fn bars(subject: &dyn Subject) {
    println!("steps: what was compensated before it came never comes");
    let (name, before) = (fresh_name(), subject.counter());
    for _ in 0..2 {
        let done = ask(subject, &name, Verb::Compensate, subject.add(-5)).await;
        assert!(result(&done).is_empty(), "nothing was undone");
        let late = ask(subject, &name, Verb::Act, subject.add(5)).await;
        assert_eq!(kind(&late), "barred");
        assert_eq!(subject.counter(), before);
    }
}

async fn undoes(subject: &dyn Subject) {
    println!("steps: a compensation undoes once, and the step stays undone");
    let (name, before) = (fresh_name(), subject.counter());
    result(&ask(subject, &name, Verb::Act, subject.add(5)).await);
    let first = ask(subject, &name, Verb::Compensate, subject.add(-5)).await;
    assert!(!result(&first).is_empty());
    assert_eq!(ask(subject, &name, Verb::Compensate, subject.add(-5)).await, first);
    assert_eq!(subject.counter(), before);
    result(&ask(subject, &name, Verb::Act, subject.add(5)).await);
    assert_eq!(subject.counter(), before, "a late repeat changes nothing");
}

async fn races_itself(subject: &dyn Subject) {
    println!("steps: attempts at the same time take effect once");
    let (resource, before) = (subject.resource(), subject.counter());
    let name = fresh_name();
    let attempts: Vec<_> = (0..8)
        .map(|_| tokio::spawn(resource.call(call(&name, Verb::Act, subject.add(1)))))
        .collect();
    let mut answers = Vec::new();
    for attempt in attempts {
        answers.push(attempt.await.expect("it does not panic"));
    }
    let settled = settle(&resource, &name, Verb::Act, &subject.add(1)).await;
    for answer in &answers {
        assert!(*answer == settled || matches!(answer, Answer::Silent(_)), "{answer:?}");
    }
    assert_eq!(subject.counter(), before + 1);
}

async fn races_its_compensation(subject: &dyn Subject) {
    println!("steps: whoever comes first, a step and its compensation leave nothing");
    let (resource, before) = (subject.resource(), subject.counter());
    for round in 0..40_u64 {
        let name = fresh_name();
        let act = resource.call(call(&name, Verb::Act, subject.add(9)));
        let act = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(round % 8 * 100)).await;
            act.await
        });
        let compensation = settle(&resource, &name, Verb::Compensate, &subject.add(-9)).await;
        result(&compensation);
        act.await.expect("it does not panic");
        // A repeat of what has been compensated is answered, and does nothing.
        settle(&resource, &name, Verb::Act, &subject.add(9)).await;
        assert_eq!(subject.counter(), before, "round {round}");
    }
}

/// The kind and the detail of the refusal of a step, or `silent` and what was seen.
///
/// # Panics
///
/// If it is done.
pub async fn refusal(resource: &Arc<dyn Resource>, work: Opaque) -> (String, String) {
    let text = String::from_utf8_lossy(work.bytes()).into_owned();
    let asked = call(&fresh_name(), Verb::Act, work);
    match resource.call(Call { patience: Duration::from_secs(1), ..asked }).await {
        Answer::No(reason) => (reason.kind.to_string(), reason.detail.to_string()),
        Answer::Silent(seen) => ("silent".to_owned(), seen.to_string()),
        other @ (Answer::Yes(_)
        | Answer::ReadOnly(_)
        | Answer::Lost(_)
        | Answer::Done(_)
        | Answer::Heuristic(_)
        | Answer::Working) => panic!("{other:?} to {text}"),
    }
}

/// Cuts a step and its compensation after every few bytes, in both directions; `through` makes an
/// adapter whose connections go through the proxy.
///
/// # Panics
///
/// If one takes effect more than once, or is not answered in the end.
pub async fn cuts(subject: &dyn Subject, proxy: &Proxy, through: impl Fn() -> Arc<dyn Resource>) {
    let (direct, before) = (subject.resource(), subject.counter());
    // No number of the one that is small makes up for one of the other.
    let halves = [(Verb::Act, 1_000), (Verb::Compensate, -1)];
    let mut rounds = 0;
    for toward in [Toward::Server, Toward::Client] {
        for bytes in (0..).step_by(3) {
            let resource = through();
            let name = fresh_name();
            let mut whole = true;
            for (verb, amount) in halves {
                // A connection is made before the cut counts.
                settle(&resource, &fresh_name(), Verb::Act, &subject.read()).await;
                proxy.cut_after(bytes, toward);
                let patience = Duration::from_secs(2);
                let work = subject.add(amount);
                let cut = resource.call(Call { patience, ..call(&name, verb, work.clone()) }).await;
                whole &= !proxy.has_cut();
                proxy.mend();
                let settled = settle(&direct, &name, verb, &work).await;
                result(&settled);
                let fits = cut == settled || matches!(cut, Answer::Silent(_));
                assert!(fits, "{toward:?} {bytes} {verb:?}: {cut:?}, then {settled:?}");
            }
            rounds += 1;
            if whole {
                break;
            }
        }
    }
    assert_eq!(subject.counter(), before + rounds * 999, "each half once, in {rounds} rounds");
}

/// Does steps that add one until it is told to stop, every other of them compensated, and returns how
/// many stay.
///
/// # Panics
///
/// If one is refused, or is not answered in the end.
pub async fn work_on(
    resource: Arc<dyn Resource>,
    [add, subtract]: [Opaque; 2],
    stop: Arc<AtomicBool>,
) -> i64 {
    let mut stay = 0;
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = fresh_name();
        done(&resource, call(&name, Verb::Act, add.clone())).await;
        stay += 1;
        if round % 2 == 1 {
            done(&resource, call(&name, Verb::Compensate, subtract.clone())).await;
            stay -= 1;
        }
    }
    stay
}

async fn done(resource: &Arc<dyn Resource>, asked: Call) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let patience = Duration::from_secs(2);
        match resource.call(Call { patience, ..asked.clone() }).await {
            Answer::Done(_) => return,
            Answer::Silent(_) | Answer::Working => {}
            other @ (Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::No(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)) => panic!("{:?} of {}: {other:?}", asked.verb, asked.name),
        }
        assert!(Instant::now() < deadline, "{:?} of {} is never done", asked.verb, asked.name);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
