//! Deadlines, retries and wakes.

use super::*;

#[test]
fn a_delegated_decision_is_waited_for_past_the_deadline_and_across_a_restart() {
    let mut txn = delegated();
    let late = DEADLINE.after_ms(TIMEOUT_MS);
    let step = txn.handle(late, Input::Answered(B0, Verb::CommitOnePhase, silent()));
    assert_eq!(decision(&step), None);
    assert_eq!(decision(&txn.handle(late, Input::Woke)), None);
    let refused = txn.handle(late, Input::AbortAsked(why())).refused;
    assert_eq!(refused, Some(Refusal::Delegated(B0)));
    let mut records = begin_with(Mode::Run, vec![branch("wallet", Phases::One)]).1.records;
    let mut txn = CommitTxn::replay(&records).expect("fits");
    let step = txn.handle(late, Input::Resumed);
    assert_eq!(calls(&step), [(B0, Verb::CommitOnePhase)]);
    records.extend(step.records);
    assert_eq!(records.len(), 2);
}

#[test]
fn undecided_at_its_deadline_a_transaction_aborts() {
    let mut txn = running(2);
    let early = Timestamp(DEADLINE.0 - 1);
    assert_eq!(decision(&txn.handle(early, Input::Woke)), None);
    let step = txn.handle(DEADLINE, Input::Woke);
    assert_eq!(decision(&step), Some(Decision::Abort));
    let (at_fault, reason) = txn.durable().reason().expect("aborted");
    assert_eq!((*at_fault, &*reason.kind), (Some(B0), "timeout"));
    assert_eq!(decision(&interactive().handle(DEADLINE, Input::Woke)), Some(Decision::Abort));
}

#[test]
fn a_commit_asked_at_the_deadline_comes_too_late() {
    let mut txn = interactive();
    let votes = vec![(B0, Vote::Yes), (B1, Vote::Yes)];
    assert_eq!(decision(&txn.handle(DEADLINE, Input::CommitAsked(votes))), Some(Decision::Abort));
}

#[test]
fn once_decided_the_deadline_means_nothing() {
    for mut txn in [committing(), aborting(), attention(), ended()] {
        let step = txn.handle(DEADLINE.after_ms(1), Input::Woke);
        assert!(step.records.is_empty(), "{:?}", step.records);
    }
}

#[test]
fn a_clock_set_back_does_not_postpone_a_deadline_for_longer_than_the_timeout() {
    let mut txn = running(2);
    let year_ago = Timestamp(T0.0 - 900_000);
    let step = txn.handle(year_ago, Input::Woke);
    let woken_at = woken_at(&step).expect("still to be decided");
    assert_eq!(woken_at, year_ago.after_ms(TIMEOUT_MS));
    assert_eq!(decision(&txn.handle(woken_at, Input::Woke)), Some(Decision::Abort));
}

#[test]
fn a_clock_set_back_does_not_postpone_a_retry() {
    let mut txn = running(2);
    answer(&mut txn, B0, Verb::Prepare, silent());
    let back = Timestamp(T0.0 - RETRY_MS_MAX - 1);
    assert_eq!(calls(&txn.handle(back, Input::Woke)), [(B0, Verb::Prepare)]);
}

#[test]
fn silence_is_neither_a_vote_nor_an_acknowledgement() {
    let mut txn = running(1);
    assert!(answer(&mut txn, B0, Verb::Prepare, silent()).records.is_empty());
    let mut txn = committing();
    assert!(answer(&mut txn, B0, Verb::Commit, silent()).records.is_empty());
    let mut txn = aborting();
    assert!(answer(&mut txn, B0, Verb::Rollback, silent()).records.is_empty());
}

#[test]
fn a_silent_branch_is_asked_again_after_a_pause_that_grows() {
    let mut txn = committing();
    let mut now = T0;
    for pause_ms in [50, 100, 200] {
        let step = txn.handle(now, Input::Answered(B0, Verb::Commit, silent()));
        assert_eq!(woken_at(&step), Some(now.after_ms(pause_ms)));
        now = now.after_ms(pause_ms);
        assert_eq!(calls(&txn.handle(now, Input::Woke)), [(B0, Verb::Commit)]);
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_asked_about_again_only_after_a_pause() {
    for (mut txn, verb, nonsense) in [
        (running(2), Verb::Prepare, done()),
        (committing(), Verb::Commit, Answer::No(why())),
        (aborting(), Verb::Rollback, yes()),
        (delegated(), Verb::CommitOnePhase, Answer::Heuristic(HeuristicKind::Hazard)),
    ] {
        let step = answer(&mut txn, B0, verb, nonsense);
        assert_eq!((calls(&step), step.records), (vec![], vec![]), "{verb:?}");
        let step = txn.handle(T0.after_ms(50), Input::Woke);
        assert_eq!(calls(&step), [(B0, verb)]);
        assert!(txn.progress(B0).expect("a branch").last_error().is_some());
    }
}

#[test]
fn at_most_one_call_of_a_branch_is_under_way() {
    for mut txn in [running(2), committing(), aborting(), delegated()] {
        for input in [Input::Woke, Input::RetryAsked, Input::Inquired(B0), Input::Resumed] {
            let mut again = txn.clone();
            let step = again.handle(T0, input);
            let phase_is_over = decision(&step).is_some();
            assert!(calls(&step).is_empty() || phase_is_over, "{:?}", step.effects);
        }
        assert_eq!(calls(&feed(&mut txn, Input::RetryAsked)), []);
    }
}

#[test]
fn an_operator_or_a_branch_in_doubt_ends_the_pause() {
    for hurry in [Input::RetryAsked, Input::Inquired(B0)] {
        let mut txn = committing();
        answer(&mut txn, B0, Verb::Commit, silent());
        assert_eq!(calls(&feed(&mut txn, hurry)), [(B0, Verb::Commit)]);
    }
}

#[test]
fn a_pause_after_the_last_question_does_not_hold_up_the_first_of_the_next_phase() {
    let mut txn = running(2);
    answer(&mut txn, B0, Verb::Prepare, silent());
    let step = feed(&mut txn, Input::AbortAsked(why()));
    assert_eq!(calls(&step), [(B0, Verb::Rollback)]);
}

#[test]
fn a_prepare_under_way_is_waited_for_before_the_rollback() {
    let mut txn = running(1);
    assert_eq!(calls(&feed(&mut txn, Input::AbortAsked(why()))), []);
    assert_eq!(calls(&answer(&mut txn, B0, Verb::Prepare, yes())), [(B0, Verb::Rollback)]);
}

#[test]
fn the_machine_asks_to_be_woken_for_the_nearest_thing_to_do() {
    let (mut txn, step) = begin_with(Mode::Run, branches(2));
    assert_eq!(woken_at(&step), Some(DEADLINE));
    let step = answer(&mut txn, B0, Verb::Prepare, silent());
    assert_eq!(woken_at(&step), Some(T0.after_ms(50)));
    assert_eq!(woken_at(&answer(&mut txn, B1, Verb::Prepare, yes())), None, "asked already");
    let step = txn.handle(T0.after_ms(50), Input::Woke);
    assert_eq!(woken_at(&step), Some(DEADLINE), "a wake is used up");
}
