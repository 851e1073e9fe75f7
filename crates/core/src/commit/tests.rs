//! One rule of atomic commit for each test.
#![expect(unused_must_use, reason = "what led to the state under test is not looked at")]

mod operator;
mod time;

use std::sync::Arc;

use super::*;
use crate::limits::{BRANCHES_MAX, RETRY_MS_MAX};
use crate::step::{
    Answer, Decision, Durability, Effect, Force, HeuristicKind, Outcome, Reason, Resolution, Verb,
};

const B0: BranchId = BranchId(0);
const B1: BranchId = BranchId(1);
const TIMEOUT_MS: u64 = 30_000;
const T0: Timestamp = Timestamp(1_000_000);
const DEADLINE: Timestamp = Timestamp(1_000_000 + TIMEOUT_MS);

fn branch(name: &str, phases: Phases) -> Branch {
    Branch { name: Arc::from(name), resource: Arc::from(name), phases, work: Opaque::default() }
}

fn begin_with(mode: Mode, branches: Vec<Branch>) -> (CommitTxn, Step<Record>) {
    let begun = Begun {
        shape: Shape::Atomic,
        mode,
        timeout_ms: TIMEOUT_MS,
        deadline: DEADLINE,
        branches,
        key: None,
        memo: Opaque::default(),
    };
    CommitTxn::begin(begun, T0)
}

fn branches(count: usize) -> Vec<Branch> {
    ["wallet", "ledger", "audit"][..count].iter().map(|name| branch(name, Phases::Two)).collect()
}

/// A transaction of `count` branches whose votes are being collected.
fn running(count: usize) -> CommitTxn {
    begin_with(Mode::Run, branches(count)).0
}

/// A transaction of the client's with two branches.
fn interactive() -> CommitTxn {
    begin_with(Mode::Interactive, branches(2)).0
}

fn committing() -> CommitTxn {
    let mut txn = running(2);
    answer(&mut txn, B0, Verb::Prepare, yes());
    answer(&mut txn, B1, Verb::Prepare, yes());
    assert_eq!(txn.durable().phase(), Phase::Committing);
    txn
}

fn aborting() -> CommitTxn {
    let mut txn = running(2);
    feed(&mut txn, Input::AbortAsked(why()));
    answer(&mut txn, B0, Verb::Prepare, yes());
    answer(&mut txn, B1, Verb::Prepare, yes());
    assert_eq!(txn.durable().phase(), Phase::Aborting);
    txn
}

fn delegated() -> CommitTxn {
    begin_with(Mode::Run, vec![branch("wallet", Phases::One)]).0
}

fn attention() -> CommitTxn {
    let mut txn = committing();
    answer(&mut txn, B0, Verb::Commit, done());
    answer(&mut txn, B1, Verb::Commit, Answer::Heuristic(HeuristicKind::Rollback));
    assert_eq!(txn.durable().phase(), Phase::Attention);
    txn
}

fn ended() -> CommitTxn {
    let mut txn = committing();
    answer(&mut txn, B0, Verb::Commit, done());
    answer(&mut txn, B1, Verb::Commit, done());
    assert_eq!(txn.durable().phase(), Phase::Ended(Outcome::Committed));
    txn
}

fn feed(txn: &mut CommitTxn, input: Input) -> Step<Record> {
    txn.handle(T0, input)
}

fn answer(txn: &mut CommitTxn, branch: BranchId, verb: Verb, answer: Answer) -> Step<Record> {
    feed(txn, Input::Answered(branch, verb, answer))
}

fn yes() -> Answer {
    Answer::Yes(Opaque::default())
}

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

fn silent() -> Answer {
    Answer::Silent(Arc::from("timed out"))
}

fn why() -> Reason {
    Reason::new("client", "changed its mind")
}

fn resolve(outcome: Decision, force: Force) -> Input {
    Input::ResolveAsked(Resolution {
        outcome,
        force,
        by: Arc::from("ops"),
        reason: Arc::from("looked"),
    })
}

fn calls(step: &Step<Record>) -> Vec<(BranchId, Verb)> {
    let call = |effect: &Effect| match effect {
        Effect::Call(branch, verb) => Some((*branch, *verb)),
        Effect::Undo(branch) => Some((*branch, Verb::Rollback)),
        Effect::Tell(_) | Effect::WakeAt(_) => None,
    };
    step.effects.iter().filter_map(call).collect()
}

fn tells(step: &Step<Record>) -> Vec<Stage> {
    let tell = |effect: &Effect| match effect {
        Effect::Tell(stage) => Some(*stage),
        Effect::Call(..) | Effect::Undo(_) | Effect::WakeAt(_) => None,
    };
    step.effects.iter().filter_map(tell).collect()
}

fn woken_at(step: &Step<Record>) -> Option<Timestamp> {
    step.effects.iter().find_map(|effect| match effect {
        Effect::WakeAt(at) => Some(*at),
        Effect::Call(..) | Effect::Undo(_) | Effect::Tell(_) => None,
    })
}

fn decision(step: &Step<Record>) -> Option<Decision> {
    step.records.iter().find_map(|record| match record {
        Record::Decided { decision, .. } => Some(*decision),
        Record::Begun(_)
        | Record::Enlisted(_)
        | Record::Preparing
        | Record::Delegated(_)
        | Record::Finished(..)
        | Record::Resolved(_) => None,
    })
}

fn is_idle(step: &Step<Record>) -> bool {
    step.records.is_empty() && step.effects.is_empty()
}

#[test]
fn commit_is_decided_by_the_last_yes_and_not_before() {
    let mut txn = running(3);
    assert_eq!(decision(&answer(&mut txn, B0, Verb::Prepare, yes())), None);
    assert_eq!(decision(&answer(&mut txn, B1, Verb::Prepare, yes())), None);
    let last = answer(&mut txn, BranchId(2), Verb::Prepare, yes());
    assert_eq!(decision(&last), Some(Decision::Commit));
    assert_eq!(calls(&last).len(), 3);
    assert_eq!(tells(&last), [Stage::Decided(Outcome::Committed)]);
}

#[test]
fn one_no_aborts_at_once_and_only_the_others_are_rolled_back() {
    let mut txn = running(2);
    let step = answer(&mut txn, B0, Verb::Prepare, Answer::No(why()));
    assert_eq!(decision(&step), Some(Decision::Abort));
    assert_eq!(calls(&step), [], "the prepare of the other one is still under way");
    let step = answer(&mut txn, B1, Verb::Prepare, yes());
    assert_eq!(calls(&step), [(B1, Verb::Rollback)]);
    answer(&mut txn, B1, Verb::Rollback, done());
    assert_eq!(txn.durable().phase(), Phase::Ended(Outcome::Aborted));
}

#[test]
fn a_lost_vote_aborts_and_the_branch_is_rolled_back_all_the_same() {
    let mut txn = running(1);
    let step = answer(&mut txn, B0, Verb::Prepare, Answer::Lost(why()));
    assert_eq!(decision(&step), Some(Decision::Abort));
    assert_eq!(calls(&step), [(B0, Verb::Rollback)]);
}

#[test]
fn a_read_only_branch_is_left_out_of_the_second_phase() {
    let mut txn = running(2);
    answer(&mut txn, B0, Verb::Prepare, Answer::ReadOnly(Opaque::default()));
    let step = answer(&mut txn, B1, Verb::Prepare, yes());
    assert_eq!(calls(&step), [(B1, Verb::Commit)]);
}

#[test]
fn branches_that_only_read_commit_without_a_second_phase() {
    let mut txn = running(1);
    let step = answer(&mut txn, B0, Verb::Prepare, Answer::ReadOnly(Opaque::default()));
    assert_eq!(decision(&step), Some(Decision::Commit));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Committed)]);
}

#[test]
fn no_branches_commit_at_once() {
    let (_, step) = begin_with(Mode::Run, Vec::new());
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Committed)]);
}

#[test]
fn an_only_branch_that_can_decide_is_asked_to() {
    let (mut txn, step) = begin_with(Mode::Run, vec![branch("wallet", Phases::One)]);
    assert_eq!(step.records[1], Record::Delegated(B0));
    assert_eq!(calls(&step), [(B0, Verb::CommitOnePhase)]);
    let step = answer(&mut txn, B0, Verb::CommitOnePhase, done());
    assert_eq!(decision(&step), Some(Decision::Commit));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Committed)]);
}

#[test]
fn a_delegated_branch_that_refuses_has_aborted_the_transaction() {
    let step = answer(&mut delegated(), B0, Verb::CommitOnePhase, Answer::No(why()));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Aborted)]);
}

#[test]
fn a_branch_that_can_decide_is_not_asked_to_if_it_is_not_alone() {
    let two = vec![branch("wallet", Phases::One), branch("ledger", Phases::One)];
    let (_, step) = begin_with(Mode::Run, two);
    assert_eq!(calls(&step), [(B0, Verb::Prepare), (B1, Verb::Prepare)]);
}

#[test]
fn what_a_wrong_outcome_could_come_of_is_forced() {
    for (step, forced) in [
        (begin_with(Mode::Run, branches(2)).1, false),
        (begin_with(Mode::RunLater, branches(2)).1, true),
        (begin_with(Mode::Interactive, branches(2)).1, true),
        (feed(&mut interactive(), Input::Enlist(branch("audit", Phases::Two))), true),
        (feed(&mut interactive(), Input::CommitAsked(Vec::new())), false),
        (begin_with(Mode::Run, vec![branch("wallet", Phases::One)]).1, true),
        (answer(&mut running(1), B0, Verb::Prepare, yes()), true),
        (answer(&mut running(1), B0, Verb::Prepare, Answer::No(why())), true),
        (answer(&mut committing(), B0, Verb::Commit, done()), false),
        (feed(&mut aborting(), resolve(Decision::Abort, Force::No)), true),
    ] {
        let is_forced = step.records.iter().any(|it| it.durability() == Durability::Forced);
        assert_eq!(is_forced, forced, "{:?}", step.records);
    }
}

#[test]
fn an_abort_that_was_told_is_still_known_after_a_crash() {
    for mut txn in [interactive(), running(2)] {
        let step = feed(&mut txn, Input::AbortAsked(why()));
        assert_eq!(tells(&step), [Stage::Decided(Outcome::Aborted)]);
        assert_eq!(step.records[0].durability(), Durability::Forced);
    }
}

#[test]
fn how_a_branch_ended_by_itself_is_not_forgotten_in_a_crash() {
    let heard = Answer::Heuristic(HeuristicKind::Rollback);
    let step = answer(&mut committing(), B0, Verb::Commit, heard);
    assert_eq!(step.records[0].durability(), Durability::Forced);
}

#[test]
fn a_no_that_comes_after_the_abort_saves_the_rollback() {
    let mut txn = running(1);
    feed(&mut txn, Input::AbortAsked(why()));
    let step = answer(&mut txn, B0, Verb::Prepare, Answer::No(why()));
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Aborted)]);
}

#[test]
fn late_and_repeated_answers_change_nothing() {
    for txn in [committing(), aborting(), attention(), ended()] {
        for late in [yes(), Answer::No(why()), Answer::Lost(why()), done()] {
            for verb in [Verb::Prepare, Verb::CommitOnePhase] {
                let mut txn = txn.clone();
                let phase = txn.durable().phase();
                let no = matches!(late, Answer::No(_)) && verb == Verb::Prepare;
                let step = answer(&mut txn, B0, verb, late.clone());
                let spared = no && phase == Phase::Aborting;
                assert_eq!(step.records.is_empty(), !spared, "{late:?} in {phase:?}");
            }
        }
    }
    let mut txn = committing();
    assert_eq!(answer(&mut txn, B0, Verb::Commit, done()).records.len(), 1);
    assert!(is_idle(&answer(&mut txn, B0, Verb::Commit, done())));
    assert!(is_idle(&answer(&mut ended(), B0, Verb::Commit, done())));
}

#[test]
fn an_answer_of_a_branch_that_does_not_exist_is_refused() {
    for input in [
        Input::Answered(BranchId(9), Verb::Prepare, yes()),
        Input::Inquired(BranchId(9)),
        Input::CommitAsked(vec![(BranchId(9), Vote::Yes)]),
    ] {
        let step = feed(&mut interactive(), input);
        assert_eq!(step.refused, Some(Refusal::UnknownBranch(BranchId(9))));
        assert!(step.records.is_empty());
    }
}

#[test]
fn abort_and_commit_race_and_the_loser_hears_who_won() {
    let mut txn = committing();
    let lost = feed(&mut txn, Input::AbortAsked(why()));
    assert_eq!(lost.refused, Some(Refusal::Decided(Decision::Commit)));
    assert_eq!(feed(&mut txn, Input::CommitAsked(Vec::new())).refused, None);
    let mut txn = aborting();
    let lost = feed(&mut txn, Input::CommitAsked(Vec::new()));
    assert_eq!(lost.refused, Some(Refusal::Decided(Decision::Abort)));
    assert_eq!(feed(&mut txn, Input::AbortAsked(why())).refused, None);
}

#[test]
fn the_clients_votes_count_for_the_branches_it_prepared() {
    let mut txn = interactive();
    let step = feed(&mut txn, Input::CommitAsked(vec![(B0, Vote::Yes)]));
    assert_eq!(step.records, [Record::Preparing]);
    assert_eq!(calls(&step), [(B1, Verb::Prepare)]);
    assert_eq!(decision(&answer(&mut txn, B1, Verb::Prepare, yes())), Some(Decision::Commit));
}

#[test]
fn a_no_of_the_clients_aborts() {
    let mut txn = interactive();
    let step = feed(&mut txn, Input::CommitAsked(vec![(B0, Vote::Yes), (B1, Vote::No)]));
    assert_eq!(decision(&step), Some(Decision::Abort));
    assert_eq!(calls(&step), [(B0, Verb::Rollback)]);
}

#[test]
fn a_no_after_a_yes_of_the_same_branch_aborts_and_rolls_that_branch_back_too() {
    let mut txn = interactive();
    let step = feed(&mut txn, Input::CommitAsked(vec![(B0, Vote::Yes), (B0, Vote::No)]));
    assert_eq!(decision(&step), Some(Decision::Abort));
    assert_eq!(calls(&step), [(B0, Verb::Rollback), (B1, Verb::Rollback)]);
}

#[test]
fn a_no_of_the_clients_does_not_spare_the_rollback_of_a_branch_that_was_asked_to_prepare() {
    let mut txn = interactive();
    feed(&mut txn, Input::CommitAsked(Vec::new()));
    let step = feed(&mut txn, Input::CommitAsked(vec![(B0, Vote::No)]));
    assert_eq!(decision(&step), Some(Decision::Abort));
    assert_eq!(calls(&answer(&mut txn, B0, Verb::Prepare, yes())), [(B0, Verb::Rollback)]);
}

#[test]
fn nobody_votes_for_a_branch_that_the_coordinator_prepares() {
    let mut txn = running(2);
    let votes = vec![(B0, Vote::Yes), (B1, Vote::Yes)];
    assert!(is_idle(&feed(&mut txn, Input::CommitAsked(votes))));
}

#[test]
fn enlisting_ends_when_commit_or_abort_is_asked_for() {
    let audit = || Input::Enlist(branch("audit", Phases::Two));
    let mut txn = interactive();
    assert_eq!(feed(&mut txn, audit()).records.len(), 1);
    assert!(feed(&mut txn, audit()).records.is_empty(), "asked for twice, added once");
    feed(&mut txn, Input::CommitAsked(Vec::new()));
    for mut txn in [txn, running(2), delegated(), committing(), aborting(), attention(), ended()] {
        assert_eq!(feed(&mut txn, audit()).refused, Some(Refusal::NotEnlisting));
    }
}

#[test]
fn there_is_a_bound_on_the_branches() {
    let many = (0..BRANCHES_MAX).map(|index| branch(&format!("p{index}"), Phases::Two)).collect();
    let (mut txn, _) = begin_with(Mode::Interactive, many);
    let one_more = feed(&mut txn, Input::Enlist(branch("one-more", Phases::Two)));
    assert_eq!(one_more.refused, Some(Refusal::TooManyBranches));
}

#[test]
fn a_restart_aborts_what_was_collecting_votes_and_keeps_what_the_client_drives() {
    let (_, begun) = begin_with(Mode::RunLater, branches(2));
    let mut txn = CommitTxn::replay(&begun.records).expect("fits");
    assert_eq!(decision(&feed(&mut txn, Input::Resumed)), Some(Decision::Abort));
    let (_, begun) = begin_with(Mode::Interactive, branches(2));
    let mut txn = CommitTxn::replay(&begun.records).expect("fits");
    assert!(feed(&mut txn, Input::Resumed).records.is_empty());
    assert_eq!(txn.durable().phase(), Phase::Active);
    let mut txn = CommitTxn::replay(&begun.records).expect("fits");
    assert_eq!(decision(&txn.handle(DEADLINE, Input::Resumed)), Some(Decision::Abort));
}

#[test]
fn a_restart_calls_again_whoever_has_not_acknowledged() {
    let (mut txn, step) = begin_with(Mode::Run, branches(2));
    let mut records = step.records;
    for (branch, verb, given) in
        [(B0, Verb::Prepare, yes()), (B1, Verb::Prepare, yes()), (B0, Verb::Commit, done())]
    {
        records.extend(answer(&mut txn, branch, verb, given).records);
    }
    let mut txn = CommitTxn::replay(&records).expect("fits");
    let step = feed(&mut txn, Input::Resumed);
    assert_eq!(calls(&step), [(B1, Verb::Commit)]);
    assert_eq!(tells(&step), [Stage::Decided(Outcome::Committed)]);
}

#[test]
fn every_stage_is_told_once() {
    let (mut txn, step) = begin_with(Mode::Run, branches(1));
    assert_eq!(tells(&step), [Stage::Begun]);
    assert_eq!(tells(&feed(&mut txn, Input::Woke)), []);
    answer(&mut txn, B0, Verb::Prepare, yes());
    assert_eq!(tells(&feed(&mut txn, Input::Woke)), []);
    let step = answer(&mut txn, B0, Verb::Commit, done());
    assert_eq!(tells(&step), [Stage::Ended(Outcome::Committed)]);
}

#[test]
fn what_a_branch_returned_with_its_vote_is_kept_with_the_decision() {
    let mut txn = running(1);
    answer(&mut txn, B0, Verb::Prepare, Answer::Yes(Opaque::new(b"seat 12")));
    assert_eq!(txn.durable().result(B0).expect("kept").bytes(), b"seat 12");
}

#[test]
fn records_that_no_machine_writes_are_refused() {
    let begun = || begin_with(Mode::Interactive, branches(2)).1.records[0].clone();
    let decided = |decision, votes: &[Option<Vote>]| Record::Decided {
        decision,
        votes: votes.to_vec(),
        reason: None,
        results: Vec::new(),
    };
    let both = [Some(Vote::Yes), Some(Vote::Yes)];
    let commit = || decided(Decision::Commit, &both);
    let abort = || decided(Decision::Abort, &[None, None]);
    for (records, what) in [
        (vec![], "nothing"),
        (vec![Record::Preparing], "no beginning"),
        (vec![begun(), begun()], "two beginnings"),
        (vec![begun(), commit()], "commit before the participants are fixed"),
        (
            vec![begun(), Record::Preparing, decided(Decision::Commit, &[Some(Vote::Yes), None])],
            "commit without a vote",
        ),
        (vec![begun(), decided(Decision::Abort, &[None])], "votes of another transaction"),
        (vec![begun(), Record::Preparing, commit(), abort()], "two decisions"),
        (vec![begun(), Record::Finished(B0, Ending::Done)], "an end before the decision"),
        (vec![begun(), Record::Delegated(B0)], "delegated before commit was asked for"),
        (vec![begun(), Record::Preparing, Record::Delegated(BranchId(7))], "no such branch"),
        (vec![begun(), abort(), Record::Enlisted(branch("late", Phases::Two))], "a late branch"),
    ] {
        assert!(CommitTxn::replay(&records).is_err(), "{what}");
    }
}
