//! Steps that make a saga, and the way to its end.

use super::*;

#[test]
fn steps_that_do_not_wait_for_each_other_act_side_by_side() {
    let (mut run, begun) = Run::begin(begun(vec![step(&[]), step(&[]), step(&[S0, S1])]));
    assert_eq!(calls(&begun), [(S0, Verb::Act), (S1, Verb::Act)]);
    assert_eq!(calls(&run.acts(S1)), []);
    assert_eq!(calls(&run.acts(S0)), [(S2, Verb::Act)]);
    assert_eq!(told(&run.acts(S2)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn what_a_step_returned_is_durable_before_the_next_acts() {
    let mut run = Run::of(vec![step(&[]), step(&[S0])]);
    let step = run.answer(S0, Verb::Act, Answer::Done(Opaque::new(b"seat 12")));
    assert_eq!(step.records[0].durability(), Durability::Forced);
    assert_eq!(run.saga.durable().result(S0).expect("kept").bytes(), b"seat 12");
}

#[test]
fn silence_is_asked_again_with_growing_pauses_and_counts_for_nothing() {
    let mut run = Run::of(vec![Plan { action: Action::Call(work(None)), ..step(&[]) }]);
    for pause_ms in [BACKOFF_MS, 2 * BACKOFF_MS, 4 * BACKOFF_MS] {
        let step = run.answer(S0, Verb::Act, silent());
        assert_eq!((step.records.len(), wakes(&step)), (0, Some(run.now.after_ms(pause_ms))));
        assert_eq!(calls(&run.wake_after(pause_ms)), [(S0, Verb::Act)]);
    }
    assert_eq!(run.phase(), Phase::Running);
}

#[test]
fn being_still_at_it_is_no_failed_attempt() {
    let mut run = Run::of(vec![step(&[])]);
    for _ in 0..10 {
        run.answer(S0, Verb::Act, Answer::Working);
        assert_eq!(calls(&run.wake_after(BACKOFF_MS)), [(S0, Verb::Act)]);
    }
    assert_eq!(run.phase(), Phase::Running);
}

#[test]
fn a_step_that_never_answers_is_given_up_after_its_attempts_and_compensated() {
    let mut run = Run::of(vec![step(&[])]);
    for _ in 0..2 {
        run.answer(S0, Verb::Act, silent());
        run.wake_after(BACKOFF_MAX_MS);
    }
    let step = run.answer(S0, Verb::Act, silent());
    assert!(matches!(&step.records[..], [Record::Unwinding { step: Some(S0), .. }]));
    assert_eq!(calls(&step), [(S0, Verb::Compensate)]);
}

#[test]
fn a_pivot_and_a_retriable_step_that_never_answer_are_asked_for_ever() {
    for plan in [pivot(&[]), retriable(&[])] {
        let mut run = Run::of(vec![plan]);
        for _ in 0..100 {
            run.answer(S0, Verb::Act, silent());
            assert_eq!(calls(&run.wake_after(BACKOFF_MAX_MS)), [(S0, Verb::Act)]);
        }
    }
}

#[test]
fn after_the_pivot_a_refusal_waits_for_an_operator_and_the_others_go_on() {
    let steps = vec![pivot(&[]), retriable(&[S0]), retriable(&[S0]), retriable(&[S2])];
    let mut run = Run::of(steps);
    run.acts(S0);
    let step = run.refuses(S1);
    assert_eq!(told(&step), Some(Stage::NeedsAttention));
    assert_eq!(run.standing(S1), Standing::Stuck(Trouble::Refused));
    assert_eq!(calls(&run.acts(S2)), [(S3, Verb::Act)]);
    assert_eq!(calls(&run.wake_after(STUCK_PAUSE_MS)), []);
}

#[test]
fn the_pivots_own_refusal_undoes_the_saga() {
    let mut run = Run::of(vec![step(&[]), pivot(&[S0])]);
    run.acts(S0);
    assert_eq!(calls(&run.refuses(S1)), [(S0, Verb::Compensate)]);
    assert_eq!(told(&run.undoes(S0)), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn a_cancel_loses_against_a_pivot_that_may_have_been_called() {
    let mut run = Run::of(vec![step(&[]), pivot(&[S0]), retriable(&[S1])]);
    run.acts(S0);
    assert_eq!(run.cancel().refused, Some(Refusal::Pivoting(S1)));
    run.acts(S1);
    assert_eq!(run.cancel().refused, Some(Refusal::Pivoting(S1)));
    assert_eq!(run.phase(), Phase::Running);
}

#[test]
fn a_cancel_after_the_end_is_told_how_it_ended() {
    let mut run = Run::of(vec![step(&[])]);
    run.acts(S0);
    assert_eq!(run.cancel().refused, Some(Refusal::Decided(Decision::Commit)));
    let mut run = Run::of(vec![step(&[])]);
    run.refuses(S0);
    assert_eq!(run.phase(), Phase::Ended(Outcome::Aborted));
    assert_eq!(run.cancel().refused, None);
}

#[test]
fn inputs_of_other_protocols_are_refused() {
    let mut run = Run::of(vec![step(&[])]);
    assert_eq!(run.feed(Input::CommitAsked(Vec::new())).refused, Some(Refusal::NotForSaga));
    assert_eq!(run.acts(S3).refused, Some(Refusal::UnknownBranch(S3)));
    assert_eq!(run.feed(Input::Inquired(S3)).refused, Some(Refusal::UnknownBranch(S3)));
    assert_eq!(run.signal(S0, b"").refused, Some(Refusal::UnknownBranch(S0)));
}

#[test]
fn a_restart_asks_again_whoever_has_not_answered_and_nobody_else() {
    let mut run = Run::of(vec![step(&[]), step(&[]), step(&[S0])]);
    run.acts(S0);
    assert_eq!(calls(&run.crash()), [(S1, Verb::Act), (S2, Verb::Act)]);
}

#[test]
fn steps_that_make_no_saga_are_named() {
    let named = |name: &str, plan: Plan| Plan { name: Arc::from(name), ..plan };
    let steps = [
        named("a", step(&[S2])),
        named("b", step(&[S0])),
        named("c", step(&[S1])),
        named("d", step(&[S0])),
    ];
    let fault = check(&steps).expect_err("a cycle");
    let text = "the steps wait for each other: a after c after b after a";
    assert_eq!(fault.explain(&steps).to_string(), text);
    assert_eq!(check(&[step(&[S0])]), Err(Fault::Cycle(vec![S0])));
    assert_eq!(check(&[pivot(&[]), pivot(&[])]), Err(Fault::SecondPivot(S1)));
    let compensable = Plan { role: Role::Pivot, ..step(&[]) };
    assert_eq!(check(&[compensable]), Err(Fault::CompensablePivot(S0)));
    assert_eq!(check(&[pivot(&[]), step(&[])]), Err(Fault::NotBeforePivot(S1)));
    assert_eq!(check(&[pivot(&[]), signal(&[], Some(5))]), Err(Fault::NotBeforePivot(S1)));
    assert_eq!(check(&[pivot(&[]), signal(&[], None), pause(&[S0], 5)]), Ok(()));
    assert_eq!(check(&[step(&[]), pivot(&[S0]), retriable(&[S1])]), Ok(()));
}

#[test]
#[should_panic(expected = "the request was checked")]
fn steps_that_make_no_saga_cannot_begin() {
    Run::of(vec![step(&[S1]), step(&[S0])]);
}

#[test]
fn records_that_no_machine_writes_are_refused() {
    let begun = || Record::Begun(Arc::new(begun(vec![step(&[]), pivot(&[S0])])));
    let why = || Reason::new("client", "changed its mind");
    let acted = |step| Record::Acted(step, Opaque::default());
    let unwinding = || Record::Unwinding { step: None, reason: why() };
    for (records, what) in [
        (vec![], "nothing"),
        (vec![acted(S0)], "no beginning"),
        (vec![begun(), begun()], "two beginnings"),
        (vec![begun(), acted(S2)], "no such step"),
        (vec![begun(), acted(S0), acted(S0)], "acted twice"),
        (vec![begun(), acted(S0), acted(S1), unwinding()], "unwound after the end"),
        (vec![begun(), unwinding(), unwinding()], "unwound twice"),
        (vec![begun(), Record::Unstuck(S0)], "not stuck"),
        (vec![begun(), unwinding(), Record::Undone(S1)], "undone without being called"),
    ] {
        assert!(SagaTxn::replay(&records).is_err(), "{what}");
    }
}
