//! Branches that end by themselves, and the operator who settles it.

use super::*;

#[test]
fn a_branch_that_ended_against_the_decision_needs_attention_until_an_operator_settles_it() {
    let mut txn = committing();
    answer(&mut txn, B0, Verb::Commit, done());
    let step = answer(&mut txn, B1, Verb::Commit, Answer::Heuristic(HeuristicKind::Hazard));
    assert_eq!(tells(&step), [Stage::NeedsAttention]);
    assert_eq!(txn.durable().outcome(), Some(Outcome::Mixed));
    let step = feed(&mut txn, resolve(Decision::Commit, Force::No));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Mixed)]);
}

#[test]
fn a_branch_that_ended_by_itself_as_decided_needs_nobody() {
    let mut txn = aborting();
    answer(&mut txn, B0, Verb::Rollback, done());
    let step = answer(&mut txn, B1, Verb::Rollback, Answer::Heuristic(HeuristicKind::Rollback));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Aborted)]);
}

#[test]
fn an_operator_can_abort_what_is_undecided_but_not_commit_it() {
    for txn in [interactive(), running(2)] {
        let refused = feed(&mut txn.clone(), resolve(Decision::Commit, Force::Yes)).refused;
        assert_eq!(refused, Some(Refusal::Undecided));
        let step = feed(&mut txn.clone(), resolve(Decision::Abort, Force::No));
        assert_eq!(decision(&step), Some(Decision::Abort));
        assert!(matches!(step.records[0], Record::Resolved(_)));
    }
}

#[test]
fn an_operator_decides_for_a_delegated_branch_only_by_force() {
    let refused = feed(&mut delegated(), resolve(Decision::Abort, Force::No)).refused;
    assert_eq!(refused, Some(Refusal::Delegated(B0)));
    for (outcome, ended) in
        [(Decision::Commit, Outcome::Committed), (Decision::Abort, Outcome::Aborted)]
    {
        let mut txn = delegated();
        assert_eq!(tells(&feed(&mut txn, resolve(outcome, Force::Yes))), [Stage::Ended(ended)]);
    }
}

#[test]
fn an_operator_vouches_for_branches_that_never_come_back() {
    let mut txn = committing();
    answer(&mut txn, B0, Verb::Commit, done());
    let step = feed(&mut txn, resolve(Decision::Commit, Force::No));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Committed)]);
    assert_eq!(txn.durable().ending(B1), Some(Ending::Settled));
}

#[test]
fn an_operator_contradicts_a_decision_only_by_force_and_that_is_mixed() {
    let mut txn = committing();
    answer(&mut txn, B0, Verb::Commit, done());
    let refused = feed(&mut txn, resolve(Decision::Abort, Force::No)).refused;
    assert_eq!(refused, Some(Refusal::Decided(Decision::Commit)));
    let step = feed(&mut txn, resolve(Decision::Abort, Force::Yes));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Mixed)]);
    assert_eq!(txn.durable().decision(), Some(Decision::Commit));
}

#[test]
fn what_has_ended_cannot_be_resolved() {
    let refused = feed(&mut ended(), resolve(Decision::Abort, Force::Yes)).refused;
    assert_eq!(refused, Some(Refusal::NothingToResolve));
}
