//! Steps that wait: for a signal, or for time to pass.

use super::*;

#[test]
fn a_signal_lets_the_saga_go_on_with_what_it_carries() {
    let mut run = Run::of(vec![signal(&[], None), step(&[S0])]);
    assert_eq!(calls(&run.signal(S0, b"paid")), [(S1, Verb::Act)]);
    assert_eq!(run.saga.durable().result(S0).expect("kept").bytes(), b"paid");
}

#[test]
fn of_two_signals_the_first_counts() {
    let mut run = Run::of(vec![signal(&[], None), step(&[S0])]);
    run.signal(S0, b"first");
    let second = run.signal(S0, b"second");
    assert_eq!((second.records.len(), second.refused), (0, None));
    assert_eq!(run.saga.durable().result(S0).expect("kept").bytes(), b"first");
}

#[test]
fn an_early_signal_is_kept_and_nothing_overtakes_the_steps_before_it() {
    let mut run = Run::of(vec![step(&[]), signal(&[S0], None), step(&[S1])]);
    assert_eq!(calls(&run.signal(S1, b"early")), []);
    assert_eq!(calls(&run.crash()), [(S0, Verb::Act)]);
    assert_eq!(calls(&run.acts(S0)), [(S2, Verb::Act)]);
}

#[test]
fn an_early_signal_for_the_pivot_decides_nothing_before_its_turn() {
    let waits = Plan { action: Action::Signal(None), ..pivot(&[S0]) };
    let mut run = Run::of(vec![signal(&[], Some(500)), waits]);
    run.signal(S1, b"early");
    let step = run.wake_after(500);
    assert!(matches!(&step.records[..], [Record::Unwinding { step: Some(S0), .. }]));
    assert_eq!(told(&step), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn a_signal_that_comes_too_late_is_told_so() {
    let mut run = Run::of(vec![step(&[]), signal(&[], Some(500))]);
    run.wake_after(500);
    assert_eq!(run.phase(), Phase::Unwinding);
    assert_eq!(run.signal(S1, b"").refused, Some(Refusal::Decided(Decision::Abort)));
    run.refuses(S0);
    assert_eq!(run.signal(S1, b"").refused, Some(Refusal::Decided(Decision::Abort)));

    let mut run = Run::of(vec![signal(&[], None)]);
    run.signal(S0, b"");
    assert_eq!(run.signal(S0, b"").refused, Some(Refusal::Decided(Decision::Commit)));
}

#[test]
fn a_signal_is_waited_for_from_its_turn_on_and_undoes_the_saga_if_it_does_not_come() {
    let mut run = Run::of(vec![step(&[]), signal(&[S0], Some(500))]);
    run.now = run.now.after_ms(10_000);
    assert_eq!(wakes(&run.acts(S0)), Some(run.now.after_ms(500)));
    assert_eq!(run.wake_after(499).records, []);
    let step = run.wake_after(1);
    assert!(matches!(&step.records[..], [Record::Unwinding { step: Some(S1), .. }]));
    assert_eq!(calls(&step), [(S0, Verb::Compensate)]);
}

#[test]
fn a_pause_lets_time_pass_and_survives_a_restart() {
    let mut run = Run::of(vec![pause(&[], 1_000), step(&[S0])]);
    assert!(matches!(&run.journal[..], [Record::Begun(_), Record::Timed(S0, _)]));
    run.saga = SagaTxn::replay(&run.journal).expect("the machine wrote it");
    run.now = run.now.after_ms(400);
    assert_eq!(wakes(&run.feed(Input::Resumed)), Some(T0.after_ms(1_000)));
    assert_eq!(calls(&run.wake_after(599)), []);
    assert_eq!(calls(&run.wake_after(1)), [(S1, Verb::Act)]);
}

#[test]
fn a_pause_is_no_longer_than_it_is_if_the_clock_is_set_back() {
    let mut run = Run::of(vec![pause(&[], 1_000), step(&[S0])]);
    run.now = Timestamp(5_000);
    assert_eq!(wakes(&run.feed(Input::Woke)), Some(Timestamp(6_000)));
    assert_eq!(calls(&run.wake_after(1_000)), [(S1, Verb::Act)]);
}

#[test]
fn a_wait_that_is_unwound_leaves_nothing_to_undo() {
    let mut run = Run::of(vec![pause(&[], 1_000), signal(&[], Some(5))]);
    assert_eq!(told(&run.cancel()), Some(Stage::Ended(Outcome::Aborted)));
    assert_eq!([S0, S1].map(|it| run.standing(it)), [Standing::Unreached; 2]);
}
