//! Messages: steps that follow a local transaction of the application.

use super::*;

const WAIT_MS: u64 = 500;

fn local() -> Plan {
    Plan { action: Action::Local(work(None), WAIT_MS), ..pivot(&[]) }
}

fn message() -> Run {
    Run::of(vec![local(), Plan { compensation: None, ..retriable(&[S0]) }])
}

impl Run {
    fn tell_committed(&mut self) -> Step<Record> {
        self.feed(Input::CommitAsked(Vec::new()))
    }

    fn force(&mut self, outcome: Decision, force: Force) -> Step<Record> {
        let (by, reason) = (Arc::from("ops"), Arc::from("looked"));
        self.feed(Input::ResolveAsked(Resolution { outcome, force, by, reason }))
    }
}

#[test]
fn nothing_follows_before_the_application_has_said_that_it_committed() {
    let mut run = message();
    assert_eq!(run.phase(), Phase::Running);
    assert_eq!(calls(&run.wake_after(WAIT_MS - 1)), []);
    let step = run.tell_committed();
    assert_eq!(calls(&step), [(S1, Verb::Act)]);
    assert_eq!(told(&step), Some(Stage::Decided(Outcome::Committed)));
    assert_eq!(told(&run.acts(S1)), Some(Stage::Ended(Outcome::Committed)));
}

#[test]
fn that_it_has_committed_survives_a_crash_before_anything_follows() {
    let mut run = message();
    run.tell_committed();
    assert_eq!(calls(&run.crash()), [(S1, Verb::Act)]);
}

#[test]
fn of_an_application_that_says_nothing_the_resource_is_asked() {
    let mut run = message();
    assert_eq!(calls(&run.wake_after(WAIT_MS)), [(S0, Verb::Act)]);
    assert_eq!(calls(&run.answer(S0, Verb::Act, done())), [(S1, Verb::Act)]);

    let mut run = message();
    run.wake_after(WAIT_MS);
    let step = run.refuses(S0);
    assert_eq!(calls(&step), []);
    assert_eq!(told(&step), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn silence_of_the_resource_is_asked_again_for_as_long_as_it_takes() {
    let mut run = message();
    let mut step = run.wake_after(WAIT_MS);
    for _ in 0..50 {
        assert_eq!(calls(&step), [(S0, Verb::Act)]);
        let pause = run.answer(S0, Verb::Act, silent());
        assert_eq!(pause.records, []);
        step = run.wake_after(wakes(&pause).expect("it asks again").since_ms(run.now));
    }
    assert_eq!(run.phase(), Phase::Running);
}

#[test]
fn whoever_takes_it_back_has_the_resource_asked_because_it_may_have_committed() {
    let mut run = message();
    assert_eq!(calls(&run.cancel()), [(S0, Verb::Act)]);
    assert_eq!(run.cancel().refused, None);
    run.acts(S0);
    assert_eq!(run.cancel().refused, Some(Refusal::Decided(Decision::Commit)));
}

#[test]
fn a_crash_while_the_resource_is_asked_asks_it_again() {
    let mut run = message();
    run.cancel();
    run.tell_committed();
    assert_eq!(run.standing(S0), Standing::Waiting, "the question decides");
    run.crash();
    run.wake_after(WAIT_MS);
    let refused = run.refuses(S0);
    assert_eq!(told(&refused), Some(Stage::Ended(Outcome::Aborted)));
}

#[test]
fn a_refusal_to_the_second_question_is_certain_too() {
    let mut run = message();
    run.wake_after(WAIT_MS);
    let pause = run.answer(S0, Verb::Act, silent());
    run.wake_after(wakes(&pause).expect("it asks again").since_ms(run.now));
    run.refuses(S0);
    assert_eq!(run.standing(S0), Standing::Refused);
}

#[test]
fn that_it_has_committed_is_told_too_late_once_the_resource_has_said_no() {
    let mut run = message();
    run.cancel();
    run.refuses(S0);
    assert_eq!(run.tell_committed().refused, Some(Refusal::Decided(Decision::Abort)));
}

#[test]
fn an_operator_who_insists_ends_the_question() {
    let mut run = message();
    run.wake_after(WAIT_MS);
    let refused = run.force(Decision::Abort, Force::No).refused;
    assert_eq!(refused, Some(Refusal::Delegated(S0)));
    let step = run.force(Decision::Abort, Force::Yes);
    assert_eq!(told(&step), Some(Stage::Ended(Outcome::Aborted)));

    let mut run = message();
    assert_eq!(calls(&run.force(Decision::Commit, Force::Yes)), [(S1, Verb::Act)]);
}

#[test]
fn a_clock_that_was_set_back_does_not_stretch_the_wait() {
    let mut run = message();
    run.now = Timestamp(T0.0 - 100_000);
    let step = run.feed(Input::Woke);
    assert_eq!(wakes(&step), Some(run.now.after_ms(WAIT_MS)));
}
