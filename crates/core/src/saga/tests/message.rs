//! Messages: announced at their turn, sent when the saga can only go on.

use super::*;

#[test]
fn a_message_is_sent_when_the_pivot_has_acted_and_not_before() {
    let mut run = Run::of(vec![step(&[]), message(&[S0]), pivot(&[S1])]);
    let step = run.acts(S0);
    assert!(matches!(&step.records[..], [Record::Acted(S0, _), Record::Announced(S1)]));
    assert_eq!(calls(&step), [(S2, Verb::Act)]);
    assert_eq!(calls(&run.wake_after(60_000)), []);
    assert_eq!(calls(&run.acts(S2)), [(S1, Verb::Act)]);
    assert_eq!(told(&run.acts(S1)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn without_a_pivot_a_message_is_sent_when_everything_else_is_done() {
    let mut run = Run::of(vec![message(&[]), step(&[S0]), step(&[])]);
    assert_eq!(run.standing(S0), Standing::Announced);
    assert_eq!(calls(&run.acts(S1)), []);
    assert_eq!(calls(&run.acts(S2)), [(S0, Verb::Act)]);
    assert_eq!(told(&run.acts(S0)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn a_message_of_a_saga_that_is_undone_is_dropped() {
    let mut run = Run::of(vec![step(&[]), message(&[S0]), step(&[S1])]);
    run.acts(S0);
    assert_eq!(calls(&run.refuses(S2)), [(S0, Verb::Compensate)]);
    assert_eq!(run.standing(S1), Standing::Unreached);
    let step = run.undoes(S0);
    assert_eq!((told(&step), calls(&step)), (Some(Stage::Ended(Outcome::Aborted)), vec![]));
}

#[test]
fn an_announcement_is_durable_because_it_may_be_the_last_thing_that_was_waited_for() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[]), message(&[S0])], 2_000));
    assert_eq!(calls(&run.acts(S0)), [(S1, Verb::Act)]);
    run.now = T0.after_ms(5_000);
    assert_eq!(calls(&run.crash()), [(S1, Verb::Act)]);
}

#[test]
fn whoever_comes_when_messages_are_sent_is_too_late_to_cancel_and_so_is_the_deadline() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[]), message(&[S0]), message(&[])], 2_000));
    let step = run.acts(S0);
    assert_eq!((calls(&step), wakes(&step)), (vec![(S1, Verb::Act), (S2, Verb::Act)], None));
    assert_eq!(run.cancel().refused, Some(Refusal::Decided(Decision::Commit)));
    assert_eq!(run.wake_after(60_000).records, []);
    run.answer(S1, Verb::Act, silent());
    assert_eq!(calls(&run.wake_after(BACKOFF_MS)), [(S1, Verb::Act)]);
    run.acts(S2);
    assert_eq!(told(&run.acts(S1)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn a_message_that_is_refused_is_stuck_and_does_not_make_the_saga_undoable_again() {
    let mut run = Run::of(vec![step(&[]), message(&[S0]), message(&[S0])]);
    run.acts(S0);
    let step = run.refuses(S1);
    assert_eq!(told(&step), Some(Stage::NeedsAttention));
    assert_eq!(run.cancel().refused, Some(Refusal::Decided(Decision::Commit)));
    assert_eq!(calls(&run.crash()), [(S2, Verb::Act)]);
    assert_eq!(calls(&run.feed(Input::RetryAsked)), [(S1, Verb::Act)]);
    run.acts(S2);
    run.refuses(S1);
    assert_eq!(told(&run.resolve(Decision::Abort)), Some(Stage::Ended(Outcome::Mixed)));
    assert_eq!(run.standing(S1), Standing::Skipped);
}

#[test]
fn a_message_before_the_pivot_that_is_refused_does_not_make_the_saga_undoable_again() {
    let mut run = Run::of(vec![message(&[]), pivot(&[S0]), retriable(&[S0]), message(&[S2])]);
    run.acts(S1);
    run.refuses(S0);
    assert_eq!(run.cancel().refused, Some(Refusal::Pivoting(S1)));
    assert_eq!(calls(&run.crash()), [(S2, Verb::Act)]);
    assert_eq!(calls(&run.acts(S2)), [(S3, Verb::Act)]);
    run.acts(S3);
    assert_eq!(told(&run.resolve(Decision::Commit)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn messages_wait_for_a_step_that_is_stuck() {
    let mut run = Run::of(vec![retriable(&[]), message(&[])]);
    run.cancel();
    assert_eq!(run.standing(S1), Standing::Unreached);

    let mut run = Run::of(vec![pivot(&[]), retriable(&[]), message(&[S1])]);
    run.acts(S0);
    run.refuses(S1);
    assert_eq!(run.standing(S2), Standing::Waiting);
    assert_eq!(calls(&run.resolve(Decision::Commit)), [(S2, Verb::Act)]);
}

#[test]
fn an_early_signal_for_the_pivot_sends_nothing() {
    let waits = Plan { action: Action::Signal(None), ..pivot(&[S0]) };
    let mut run = Run::of(vec![step(&[]), waits, message(&[])]);
    assert_eq!(calls(&run.signal(S1, b"early")), []);
    assert_eq!(calls(&run.acts(S0)), [(S2, Verb::Act)]);
}

#[test]
fn the_pivot_is_no_message() {
    let steps = vec![Plan { role: Role::Pivot, ..message(&[]) }];
    assert_eq!(check(&steps), Err(Fault::SentPivot(S0)));
    assert!(Fault::SentPivot(S0).explain(&steps).to_string().contains("step is a message"));
    assert_eq!(check(&[step(&[]), pivot(&[S0]), message(&[]), message(&[S1])]), Ok(()));
}
