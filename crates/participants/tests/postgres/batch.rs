//! Many branches that end at once, over fewer connections than there are branches.

use serde_json::json;
use tokio::task::JoinSet;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Decision, HeuristicKind, Opaque, Verb};
use unanimous_participants::Call;
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};

use crate::common::{Bank, prepare, work};

const BRANCHES: usize = 40;

fn verb(number: usize) -> Verb {
    if number.is_multiple_of(2) { Verb::Commit } else { Verb::Rollback }
}

#[tokio::test]
async fn of_branches_that_end_at_once_each_hears_what_became_of_it() {
    let Some(bank) = Bank::start(&["max_prepared_transactions=64"]) else { return };
    let resource = bank.at(&bank.server.url("postgres", "postgres?connections=2"));
    let mut branches: Vec<(BranchName, Opaque)> = Vec::new();
    for number in 0..BRANCHES {
        let insert = work(json!([
            {"sql": "INSERT INTO account VALUES ($1, 1)", "params": [100 + number]},
        ]));
        let name = fresh_name();
        let Answer::Yes(returned) = prepare(&resource, &name, insert).await else {
            panic!("nothing is in its way");
        };
        branches.push((name, returned));
    }
    // Somebody ends some by hand, as they will be told to or otherwise.
    for (number, decision) in
        [(4, Decision::Commit), (6, Decision::Abort), (7, Decision::Abort), (9, Decision::Commit)]
    {
        bank.end_by_hand(&branches[number].0, decision);
    }
    let expected = |number| match number {
        6 => Answer::Heuristic(HeuristicKind::Rollback),
        9 => Answer::Heuristic(HeuristicKind::Commit),
        _ => Answer::Done(Opaque::default()),
    };
    // The second time all of them are gone.
    for _ in 0..2 {
        let mut ends = JoinSet::new();
        for (number, (name, returned)) in branches.iter().enumerate() {
            let end = call(name, verb(number), Opaque::default());
            let asked = resource.call(Call { returned: returned.clone(), ..end });
            ends.spawn(async move { (number, asked.await) });
        }
        while let Some(ended) = ends.join_next().await {
            let (number, answer) = ended.expect("no call panics");
            assert_eq!(answer, expected(number), "{number}");
        }
    }
    assert!(bank.prepared().is_empty());
    let there = (0..BRANCHES).filter(|&number| match number {
        6 => false,
        9 => true,
        _ => verb(number) == Verb::Commit,
    });
    let sum: usize = there.map(|number| 100 + number).sum();
    assert_eq!(bank.number("SELECT sum(id) FROM account WHERE id >= 100"), sum as i64);
}
