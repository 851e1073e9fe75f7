//! Steps that are stuck, and who settles them.

use super::*;

/// A saga whose first step refuses to be compensated.
fn stuck() -> Run {
    let mut run = Run::of(vec![step(&[]), step(&[S0])]);
    run.acts(S0);
    run.refuses(S1);
    run.answer(S0, Verb::Compensate, no());
    run
}

/// A saga that cannot go on after its pivot.
fn stuck_after_the_pivot() -> Run {
    let mut run = Run::of(vec![pivot(&[]), retriable(&[S0]), retriable(&[S1])]);
    run.acts(S0);
    run.refuses(S1);
    run
}

#[test]
fn an_operator_who_undid_it_by_hand_lets_the_saga_end_as_compensated() {
    let step = stuck().resolve(Decision::Abort);
    assert_eq!(told(&step), Some(Stage::Ended(Outcome::Aborted)));
    assert_eq!(step.records[0].durability(), Durability::Forced);
}

#[test]
fn an_operator_who_leaves_it_as_it_is_makes_the_outcome_mixed() {
    let step = stuck().resolve(Decision::Commit);
    assert_eq!(told(&step), Some(Stage::Ended(Outcome::Mixed)));
}

#[test]
fn an_operator_who_did_the_step_by_hand_lets_the_saga_go_on() {
    let mut run = stuck_after_the_pivot();
    assert_eq!(calls(&run.resolve(Decision::Commit)), [(S2, Verb::Act)]);
    assert_eq!(told(&run.acts(S2)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn an_operator_who_skips_a_step_lets_the_saga_go_on_to_a_mixed_outcome() {
    let mut run = stuck_after_the_pivot();
    assert_eq!(calls(&run.resolve(Decision::Abort)), [(S2, Verb::Act)]);
    assert_eq!(told(&run.acts(S2)), Some(Stage::Ended(Outcome::Mixed)));
}

#[test]
fn an_operator_has_a_step_after_the_pivot_called_once_more() {
    let mut run = stuck_after_the_pivot();
    assert_eq!(calls(&run.feed(Input::RetryAsked)), [(S1, Verb::Act)]);
    assert_eq!(told(&run.acts(S1)), Some(Stage::Begun));
}

#[test]
fn a_retry_that_a_crash_forgets_leaves_the_step_stuck() {
    let mut run = stuck_after_the_pivot();
    run.feed(Input::RetryAsked);
    assert_eq!(told(&run.crash()), Some(Stage::NeedsAttention));
    assert_eq!(run.standing(S1), Standing::Stuck(Trouble::Refused));
}

#[test]
fn what_is_not_stuck_cannot_be_resolved() {
    let mut run = Run::of(vec![step(&[])]);
    assert_eq!(run.resolve(Decision::Abort).refused, Some(Refusal::NothingToResolve));
    run.cancel();
    assert_eq!(run.resolve(Decision::Abort).refused, Some(Refusal::NothingToResolve));
}

#[test]
fn a_retry_does_not_wait_for_the_next_attempt() {
    let mut run = Run::of(vec![step(&[])]);
    run.answer(S0, Verb::Act, silent());
    assert_eq!(calls(&run.feed(Input::RetryAsked)), [(S0, Verb::Act)]);
    run.answer(S0, Verb::Act, silent());
    assert_eq!(calls(&run.feed(Input::Inquired(S0))), [(S0, Verb::Act)]);
}
