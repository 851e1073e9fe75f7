//! Delayed starts, deadlines and clocks.

use super::*;

/// A saga that starts a second after it is begun, and may take two from then.
fn delayed(steps: Vec<Plan>) -> Begun {
    Begun { start_at: Some(T0.after_ms(1_000)), ..hurried(steps, 2_000) }
}

#[test]
fn a_start_that_is_put_off_calls_nobody_before_its_time() {
    let (mut run, step) = Run::begin(delayed(vec![step(&[])]));
    assert_eq!((calls(&step), wakes(&step)), (vec![], Some(T0.after_ms(1_000))));
    assert_eq!(calls(&run.wake_after(999)), []);
    assert_eq!(calls(&run.wake_after(1)), [(S0, Verb::Act)]);
}

#[test]
fn a_start_is_durable_before_its_first_call() {
    let (mut run, _) = Run::begin(delayed(vec![step(&[])]));
    let step = run.wake_after(1_000);
    assert_eq!(step.records, [Record::Started]);
    // A restart after the deadline would otherwise take the step for one that nobody has called.
    assert_eq!(step.records[0].durability(), Durability::Forced);
    run.now = run.now.after_ms(10_000);
    assert_eq!(calls(&run.crash()), [(S0, Verb::Compensate)]);
}

#[test]
fn what_is_cancelled_before_its_start_has_never_acted() {
    let (mut run, _) = Run::begin(delayed(vec![step(&[])]));
    assert_eq!(told(&run.cancel()), Some(Stage::Ended(Outcome::Aborted)));
    assert_eq!(run.standing(S0), Standing::Unreached);
}

#[test]
fn the_deadline_undoes_what_has_not_come_past_its_pivot() {
    let (mut run, step) = Run::begin(hurried(vec![step(&[]), pivot(&[S0])], 2_000));
    assert_eq!(wakes(&step), Some(T0.after_ms(2_000)));
    run.answer(S0, Verb::Act, silent());
    let step = run.wake_after(2_000);
    let [Record::Unwinding { step: None, reason }] = &step.records[..] else {
        panic!("{:?}", step.records)
    };
    assert_eq!(&*reason.detail, "not done within 2000 ms; last error: timed out");
    assert_eq!(calls(&step), [(S0, Verb::Compensate)]);
}

#[test]
fn the_deadline_means_nothing_once_the_pivot_may_have_been_called() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[]), pivot(&[S0])], 2_000));
    let step = run.acts(S0);
    assert_eq!((calls(&step), wakes(&step)), (vec![(S1, Verb::Act)], None));
    assert_eq!(run.wake_after(60_000).records, []);
    assert_eq!(told(&run.acts(S1)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn a_deadline_that_has_passed_comes_before_the_answer_that_arrives() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[]), step(&[S0])], 2_000));
    run.now = T0.after_ms(2_000);
    let step = run.acts(S0);
    assert!(matches!(&step.records[..], [Record::Unwinding { .. }, Record::Acted(S0, _)]));
    assert_eq!(calls(&step), [(S0, Verb::Compensate)]);
    assert_eq!(run.standing(S1), Standing::Unreached);
}

#[test]
fn a_last_step_that_answers_at_the_deadline_is_late() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[])], 2_000));
    run.now = T0.after_ms(2_000);
    assert_eq!(calls(&run.acts(S0)), [(S0, Verb::Compensate)]);
}

#[test]
fn an_answer_of_nobody_leaves_what_is_overdue_to_be_done() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[])], 2_000));
    run.answer(S0, Verb::Act, silent());
    run.now = T0.after_ms(2_000);
    let step = run.acts(S3);
    assert_eq!(step.refused, Some(Refusal::UnknownBranch(S3)));
    assert_eq!(calls(&step), [(S0, Verb::Compensate)]);
}

#[test]
fn a_clock_set_back_makes_no_deadline_later_than_it_was_granted() {
    let (mut run, _) = Run::begin(hurried(vec![step(&[])], 2_000));
    run.now = Timestamp(0);
    assert_eq!(wakes(&run.feed(Input::Woke)), Some(Timestamp(2_000)));
    assert!(matches!(&run.wake_after(2_000).records[..], [Record::Unwinding { .. }]));
}

#[test]
fn a_clock_set_back_makes_no_retry_later_than_its_longest_pause() {
    let mut run = Run::of(vec![step(&[])]);
    run.answer(S0, Verb::Act, silent());
    run.now = Timestamp(0);
    assert_eq!(calls(&run.feed(Input::Woke)), [(S0, Verb::Act)]);
}

#[test]
fn whoever_waits_is_woken_by_something() {
    // Of every state that a random walk comes to: a call under way, a time to wake, an operator to
    // call or a signal that may come; otherwise nothing would ever happen again.
    let steps = vec![step(&[]), signal(&[S0], Some(300)), pause(&[S1], 50), pivot(&[S2])];
    for walk in 0..5_000_u64 {
        let (mut run, mut step) = Run::begin(hurried(steps.clone(), 2_000));
        let mut wake_at = wakes(&step);
        let mut chance = walk;
        while !matches!(run.phase(), Phase::Ended(_)) {
            let in_flight = |it: &BranchId| {
                run.saga.progress(*it).expect("a step").call() == crate::retry::Call::InFlight
            };
            let flying = run.saga.durable().steps().find(in_flight);
            let Some(answered) = flying else {
                let stuck = run.saga.durable().needs_attention();
                assert!(stuck || wake_at.is_some_and(|at| at > run.now), "walk {walk}");
                step = match stuck {
                    true => run.resolve(Decision::Abort),
                    false => run.wake_after(wake_at.expect("as above").since_ms(run.now)),
                };
                wake_at = wakes(&step).or(wake_at);
                continue;
            };
            let verb = match run.phase() {
                Phase::Running => Verb::Act,
                Phase::Unwinding | Phase::Ended(_) => Verb::Compensate,
            };
            let answer = [done(), silent(), no()][(chance % 3) as usize].clone();
            chance /= 3;
            step = run.answer(answered, verb, answer);
            wake_at = wakes(&step).or(wake_at);
        }
    }
}
