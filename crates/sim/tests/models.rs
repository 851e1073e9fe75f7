//! The models of commit protocols: every state is reached and right, and every mistake is found.

use unanimous_sim::model::{
    Explored, PaxosCommit, PaxosMistake, TCommit, TwoPhase, TwoPhaseMistake,
};

#[test]
fn transaction_commit_has_the_states_that_its_authors_found() {
    let explored = whole(TCommit.explore());
    assert_eq!(explored.states, 34);
}

#[test]
fn two_phase_commit_refines_transaction_commit() {
    let explored = whole(TwoPhase::default().explore());
    assert_eq!(explored.states, 288);
}

#[test]
fn paxos_commit_refines_transaction_commit_and_never_blocks() {
    let explored = whole(PaxosCommit::default().explore());
    assert!(explored.states > 100_000, "only {} states", explored.states);
}

#[test]
fn paxos_commit_survives_one_acceptor_of_three_and_blocks_without_two() {
    whole(PaxosCommit::with_dead_acceptors(1).explore());
    let explored = PaxosCommit::with_dead_acceptors(2).explore();
    assert!(explored.broken.is_none(), "{explored}");
    assert!(explored.blocked > 0, "one acceptor is no majority");
}

#[test]
fn every_mistake_in_a_model_is_found() {
    use TwoPhaseMistake::{AbortsAlone, CommitsEarly, DecidesAgain};
    let two_phase = [CommitsEarly, AbortsAlone, DecidesAgain]
        .map(|mistake| (format!("{mistake:?}"), TwoPhase::with(mistake).explore()));
    let paxos = PaxosMistake::ALL
        .map(|mistake| (format!("{mistake:?}"), PaxosCommit::with(mistake).explore()));
    for (mistake, explored) in two_phase.iter().chain(&paxos) {
        println!("{mistake}: {explored}");
        assert!(explored.broken.is_some(), "{mistake} was not found: {explored}");
    }
}

fn whole(explored: Explored) -> Explored {
    println!("{explored}");
    assert!(explored.broken.is_none(), "{explored}");
    assert_eq!(explored.blocked, 0, "{explored}");
    explored
}
