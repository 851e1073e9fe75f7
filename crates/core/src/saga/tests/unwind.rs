//! The way back.

use super::*;

#[test]
fn compensations_come_in_the_reverse_order_and_side_by_side_where_steps_did() {
    let mut run = Run::of(vec![step(&[]), step(&[S0]), step(&[S0]), step(&[S1, S2])]);
    run.acts(S0);
    run.acts(S1);
    run.acts(S2);
    assert_eq!(calls(&run.refuses(S3)), [(S1, Verb::Compensate), (S2, Verb::Compensate)]);
    assert_eq!(calls(&run.undoes(S2)), []);
    assert_eq!(calls(&run.undoes(S1)), [(S0, Verb::Compensate)]);
    assert_eq!(told(&run.undoes(S0)), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn a_step_without_compensation_between_two_others_does_not_change_their_order() {
    let mut run = Run::of(vec![step(&[]), kept(step(&[S0])), step(&[S1]), step(&[S2])]);
    run.acts(S0);
    run.acts(S1);
    run.acts(S2);
    assert_eq!(calls(&run.refuses(S3)), [(S2, Verb::Compensate)]);
    assert_eq!(calls(&run.undoes(S2)), [(S0, Verb::Compensate)]);
}

#[test]
fn the_unwinding_is_durable_before_the_first_compensation() {
    let mut run = Run::of(vec![step(&[]), step(&[S0])]);
    run.acts(S0);
    let step = run.refuses(S1);
    let [Record::Refused(S1, _), unwinding @ Record::Unwinding { .. }] = &step.records[..] else {
        panic!("{:?}", step.records)
    };
    assert_eq!(unwinding.durability(), Durability::Forced);
}

#[test]
fn a_step_that_refuses_the_only_call_there_was_is_not_compensated() {
    let mut run = Run::of(vec![step(&[])]);
    assert_eq!(told(&run.refuses(S0)), Some(Stage::Ended(Outcome::Aborted)));
    assert_eq!(run.standing(S0), Standing::Refused);
}

#[test]
fn a_step_that_refuses_a_repeated_call_is_compensated() {
    let mut run = Run::of(vec![step(&[])]);
    run.answer(S0, Verb::Act, silent());
    run.wake_after(BACKOFF_MS);
    assert_eq!(calls(&run.refuses(S0)), [(S0, Verb::Compensate)]);
}

#[test]
fn a_step_that_refuses_a_repeated_call_and_cannot_be_undone_counts_as_one_that_stays() {
    let mut run = Run::of(vec![kept(step(&[]))]);
    run.answer(S0, Verb::Act, silent());
    run.wake_after(BACKOFF_MS);
    assert_eq!(told(&run.refuses(S0)), Some(Stage::Ended(Outcome::Aborted)));
    assert_eq!(run.standing(S0), Standing::Kept);
}

#[test]
fn a_step_that_refuses_after_a_restart_is_compensated() {
    let mut run = Run::of(vec![step(&[])]);
    run.crash();
    assert_eq!(calls(&run.refuses(S0)), [(S0, Verb::Compensate)]);
}

#[test]
fn a_retriable_step_that_refused_beside_the_pivot_is_compensated_if_the_pivot_refuses() {
    let mut run = Run::of(vec![pivot(&[]), retriable(&[])]);
    run.answer(S1, Verb::Act, silent());
    run.wake_after(BACKOFF_MS);
    run.refuses(S1);
    assert_eq!(run.standing(S1), Standing::Stuck(Trouble::Refused));
    assert_eq!(calls(&run.refuses(S0)), [(S1, Verb::Compensate)]);
}

#[test]
fn a_call_under_way_is_heard_before_its_step_is_compensated() {
    let mut run = Run::of(vec![step(&[]), step(&[])]);
    assert_eq!(calls(&run.refuses(S0)), []);
    assert_eq!(run.phase(), Phase::Unwinding);
    assert_eq!(calls(&run.acts(S1)), [(S1, Verb::Compensate)]);
}

#[test]
fn a_call_under_way_that_brings_no_answer_is_compensated_all_the_same() {
    let mut run = Run::of(vec![step(&[]), step(&[])]);
    run.refuses(S0);
    run.answer(S1, Verb::Act, silent());
    assert_eq!(calls(&run.wake_after(BACKOFF_MS)), [(S1, Verb::Compensate)]);
}

#[test]
fn a_call_under_way_that_refuses_leaves_nothing_to_undo() {
    let mut run = Run::of(vec![step(&[]), step(&[])]);
    run.refuses(S0);
    let step = run.refuses(S1);
    assert_eq!(step.records[0].durability(), Durability::Forced);
    assert_eq!(told(&step), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn a_call_under_way_without_compensation_is_heard_before_the_end_and_stays() {
    let mut run = Run::of(vec![step(&[]), kept(step(&[]))]);
    run.refuses(S0);
    assert_eq!((run.phase(), run.standing(S1)), (Phase::Unwinding, Standing::Waiting));
    assert_eq!(told(&run.acts(S1)), Some(Stage::Ended(Outcome::Aborted)));
    assert_eq!(run.standing(S1), Standing::Kept);

    let mut run = Run::of(vec![step(&[]), kept(step(&[]))]);
    run.refuses(S0);
    assert_eq!(told(&run.answer(S1, Verb::Act, silent())), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn nothing_acts_once_a_saga_unwinds() {
    let mut run = Run::of(vec![step(&[]), step(&[]), step(&[S0])]);
    run.cancel();
    let mut called = calls(&run.acts(S0));
    called.extend(calls(&run.crash()));
    called.extend(calls(&run.feed(Input::RetryAsked)));
    called.extend(calls(&run.wake_after(BACKOFF_MAX_MS)));
    assert!(called.iter().all(|(_, verb)| *verb == Verb::Compensate), "{called:?}");
    assert_eq!(run.standing(S2), Standing::Unreached);
}

#[test]
fn a_restart_compensates_what_may_have_acted() {
    let mut run = Run::of(vec![step(&[]), step(&[S0])]);
    run.acts(S0);
    run.cancel();
    assert_eq!(calls(&run.crash()), [(S1, Verb::Compensate)]);
    assert_eq!(calls(&run.undoes(S1)), [(S0, Verb::Compensate)]);
    assert_eq!(calls(&run.crash()), [(S0, Verb::Compensate)]);
}

#[test]
fn late_answers_to_actions_change_nothing_once_the_compensation_is_under_way() {
    let mut run = Run::of(vec![step(&[]), step(&[])]);
    run.acts(S0);
    run.cancel();
    run.answer(S1, Verb::Act, silent());
    run.wake_after(BACKOFF_MS);
    run.undoes(S1);
    assert_eq!(run.acts(S1).records, []);
    assert_eq!(run.refuses(S1).records, []);
    assert_eq!(run.standing(S1), Standing::Undone);
}

#[test]
fn a_compensation_that_is_refused_stops_the_ones_before_it_and_calls_nobody_until_asked() {
    let mut run = Run::of(vec![step(&[]), step(&[S0]), step(&[S1])]);
    run.acts(S0);
    run.acts(S1);
    run.refuses(S2);
    let step = run.answer(S1, Verb::Compensate, no());
    assert_eq!((told(&step), calls(&step)), (Some(Stage::NeedsAttention), vec![]));
    assert_eq!(calls(&run.wake_after(STUCK_PAUSE_MS)), []);
    assert_eq!(calls(&run.crash()), []);
    assert_eq!(calls(&run.feed(Input::RetryAsked)), [(S1, Verb::Compensate)]);
    assert_eq!(calls(&run.undoes(S1)), [(S0, Verb::Compensate)]);
}

#[test]
fn a_compensation_that_never_answers_is_stuck_and_still_called_now_and_then() {
    let mut run = Run::of(vec![step(&[]), step(&[S0])]);
    run.acts(S0);
    run.refuses(S1);
    run.answer(S0, Verb::Compensate, silent());
    run.wake_after(BACKOFF_MS);
    let step = run.answer(S0, Verb::Compensate, silent());
    assert_eq!(told(&step), Some(Stage::NeedsAttention));
    assert_eq!(calls(&run.wake_after(BACKOFF_MAX_MS)), [(S0, Verb::Compensate)]);
    let step = run.answer(S0, Verb::Compensate, silent());
    assert_eq!(wakes(&step), Some(run.now.after_ms(STUCK_PAUSE_MS)));
    run.wake_after(STUCK_PAUSE_MS);
    assert_eq!(told(&run.undoes(S0)), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn a_compensation_without_a_limit_of_its_own_is_stuck_after_the_usual_one() {
    let unlimited = Plan { compensation: Some(work(None)), ..step(&[]) };
    let mut run = Run::of(vec![unlimited, step(&[S0])]);
    run.acts(S0);
    run.refuses(S1);
    for attempt in 1..=COMPENSATIONS_MAX {
        assert!(!run.saga.durable().needs_attention(), "before attempt {attempt}");
        run.answer(S0, Verb::Compensate, silent());
        run.wake_after(BACKOFF_MAX_MS);
    }
    assert_eq!(run.standing(S0), Standing::Stuck(Trouble::Silent));
}
