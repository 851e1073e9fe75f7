//! The guard around a scripted adapter, with time that only passes when nothing else can happen.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use unanimous_core::commit::{Phases, Shape};
use unanimous_core::id::{BranchId, BranchName, ShardId, Timestamp, TxnId};
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::guard::{Adapter, Contact, Guarded, Heard, Hearing};
use unanimous_participants::{
    AnswerKind, Call, CircuitState, Listing, Observer, Resource, Settings, Turn, Unobserved, open,
};

/// How the resource is at the moment.
#[derive(Clone, Copy)]
enum Mood {
    Well,
    Dead,
    Confused,
}

/// A resource that answers when it is let, the way it is told.
struct Scripted {
    mood: Mutex<Mood>,
    sent: AtomicUsize,
    gate: Semaphore,
}

impl Scripted {
    fn new(mood: Mood) -> Arc<Self> {
        let sent = AtomicUsize::new(0);
        Arc::new(Self { mood: Mutex::new(mood), sent, gate: Semaphore::new(1_000_000) })
    }

    fn closed() -> Arc<Self> {
        let sent = AtomicUsize::new(0);
        Arc::new(Self { mood: Mutex::new(Mood::Well), sent, gate: Semaphore::new(0) })
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().expect("not poisoned") = mood;
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

struct Handle(Arc<Scripted>);

impl Adapter for Handle {
    fn call(&self, call: Call) -> Hearing {
        let scripted = Arc::clone(&self.0);
        Box::pin(async move {
            scripted.sent.fetch_add(1, Ordering::SeqCst);
            scripted.gate.acquire().await.expect("never closed").forget();
            let mood = *scripted.mood.lock().expect("not poisoned");
            match mood {
                Mood::Well => Heard {
                    answer: unanimous_participants::local::agree(&call),
                    contact: Contact::Made,
                },
                Mood::Dead => silent("connection refused", Contact::Broken),
                Mood::Confused => silent("status 500", Contact::Made),
            }
        })
    }

    fn phases(&self) -> Phases {
        Phases::Two
    }

    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn location(&self) -> &str {
        "here"
    }
}

fn silent(text: &str, contact: Contact) -> Heard {
    Heard { answer: Answer::Silent(Arc::from(text)), contact }
}

fn guarded(scripted: &Arc<Scripted>, settings: &Settings) -> Arc<Guarded> {
    Arc::new(Guarded::new("wallet", Handle(Arc::clone(scripted)), settings, Arc::new(Unobserved)))
}

fn call(verb: Verb, attempt: u32) -> Call {
    let txn = TxnId::mint(1, ShardId::of(0), 1);
    Call {
        name: BranchName { cluster: "main".to_owned(), txn, branch: BranchId(0) },
        verb,
        shape: Shape::Atomic,
        deadline: Timestamp(u64::MAX),
        work: Opaque::default(),
        returned: Opaque::default(),
        attempt,
        trace: unanimous_participants::Trace::of(txn),
        patience: Duration::from_secs(5),
        is_listed: false,
        turn: Turn::default(),
    }
}

/// Lets calls fail until the circuit opens.
async fn until_open(resource: &Guarded) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while resource.state().circuit == CircuitState::Closed {
        assert!(Instant::now() < deadline, "the circuit never opened");
        resource.call(call(Verb::Commit, 1)).await;
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_prepare_to_a_dead_resource_is_a_no_that_says_since_when_and_why() {
    let scripted = Scripted::new(Mood::Dead);
    let resource = guarded(&scripted, &Settings::default());
    until_open(&resource).await;
    resource.call(call(Verb::Commit, 1)).await; // The probe that is due.
    let sent = scripted.sent();

    let Answer::No(reason) = resource.call(call(Verb::Prepare, 1)).await else {
        panic!("not a no");
    };
    assert_eq!(&*reason.kind, "unreachable");
    assert!(reason.detail.starts_with("resource wallet has not answered for 1 s"), "{reason:?}");
    assert!(reason.detail.ends_with("last error: connection refused"), "{reason:?}");
    assert_eq!(scripted.sent(), sent, "it was sent");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_been_carried_out_before_is_never_refused_as_a_no() {
    let scripted = Scripted::new(Mood::Dead);
    let resource = guarded(&scripted, &Settings::default());
    until_open(&resource).await;
    resource.call(call(Verb::Commit, 1)).await;
    let sent = scripted.sent();
    for (verb, attempt) in [
        (Verb::Prepare, 2),
        (Verb::Commit, 1),
        (Verb::Rollback, 1),
        (Verb::CommitOnePhase, 1),
        (Verb::Act, 1),
        (Verb::Compensate, 1),
    ] {
        let answer = resource.call(call(verb, attempt)).await;
        assert!(matches!(answer, Answer::Silent(_)), "{verb:?}: {answer:?}");
    }
    assert_eq!(scripted.sent(), sent, "they were sent");
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_comes_back_is_found_by_a_probe() {
    let scripted = Scripted::new(Mood::Dead);
    let resource = guarded(&scripted, &Settings::default());
    until_open(&resource).await;
    assert_eq!(resource.state().last_error.as_deref(), Some("connection refused"));
    scripted.becomes(Mood::Well);
    sleep(Duration::from_millis(50)).await;
    assert!(matches!(resource.call(call(Verb::Prepare, 1)).await, Answer::Yes(_)));
    let state = resource.state();
    assert_eq!((state.circuit, state.last_error), (CircuitState::Closed, None));
}

#[tokio::test(start_paused = true)]
async fn answers_that_make_no_sense_are_shown_and_open_nothing() {
    let scripted = Scripted::new(Mood::Confused);
    let resource = guarded(&scripted, &Settings::default());
    for _ in 0..100 {
        resource.call(call(Verb::Commit, 1)).await;
        sleep(Duration::from_millis(100)).await;
    }
    let state = resource.state();
    assert_eq!(state.circuit, CircuitState::Closed);
    assert_eq!(state.last_error.as_deref(), Some("status 500"));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_does_not_leave_the_circuit_waiting_for_it() {
    let scripted = Scripted::new(Mood::Dead);
    let resource = guarded(&scripted, &Settings::default());
    until_open(&resource).await;
    scripted.gate.forget_permits(usize::MAX);
    let probe =
        tokio::time::timeout(Duration::from_millis(20), resource.call(call(Verb::Commit, 1)));
    assert!(probe.await.is_err(), "it hangs");
    assert_eq!(resource.state().circuit, CircuitState::Open);
    scripted.gate.add_permits(1);
    scripted.becomes(Mood::Well);
    assert!(matches!(resource.call(call(Verb::Commit, 1)).await, Answer::Done(_)));
}

#[tokio::test(start_paused = true)]
async fn prepares_that_fill_their_places_do_not_hold_up_commits() {
    let scripted = Scripted::closed();
    let settings = Settings { first_phase_calls_max: 2, waiting_max: 3, ..Settings::default() };
    let resource = guarded(&scripted, &settings);
    let prepares: Vec<_> =
        (0..6).map(|_| tokio::spawn(resource.call(call(Verb::Prepare, 1)))).collect();
    let commit = tokio::spawn(resource.call(call(Verb::Commit, 1)));
    while scripted.sent() < 3 || resource.state().waiting < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(resource.state().calls, 3, "two prepares and the commit");
    scripted.gate.add_permits(6);
    assert!(matches!(commit.await.expect("ran"), Answer::Done(_)));
    let mut overloaded = 0;
    for prepare in prepares {
        if let Answer::No(reason) = prepare.await.expect("ran") {
            assert_eq!(&*reason.kind, "overloaded");
            overloaded += 1;
        }
    }
    assert_eq!(overloaded, 1, "two under way and three waiting are taken");
    assert_eq!((resource.state().calls, resource.state().waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn steps_that_fill_their_places_do_not_hold_up_compensations() {
    let scripted = Scripted::closed();
    let settings = Settings { first_phase_calls_max: 1, waiting_max: 1, ..Settings::default() };
    let resource = guarded(&scripted, &settings);
    let acts: Vec<_> = (0..3).map(|_| tokio::spawn(resource.call(call(Verb::Act, 1)))).collect();
    let compensation = tokio::spawn(resource.call(call(Verb::Compensate, 1)));
    while scripted.sent() < 2 || resource.state().waiting < 1 {
        tokio::task::yield_now().await;
    }
    scripted.gate.add_permits(3);
    assert!(matches!(compensation.await.expect("ran"), Answer::Done(_)));
    let mut unsent = 0;
    for act in acts {
        let answer = act.await.expect("ran");
        if let Answer::Silent(why) = &answer {
            assert!(why.contains("has 1 calls waiting already"), "{why}");
            unsent += 1;
        } else {
            assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
        }
    }
    assert_eq!(unsent, 1, "one under way and one waiting are taken");
}

#[tokio::test(start_paused = true)]
async fn a_first_prepare_without_a_place_within_its_patience_is_a_no() {
    let scripted = Scripted::closed();
    let settings = Settings { first_phase_calls_max: 1, ..Settings::default() };
    let resource = guarded(&scripted, &settings);
    let _first = tokio::spawn(resource.call(call(Verb::Prepare, 1)));
    while scripted.sent() < 1 {
        tokio::task::yield_now().await;
    }
    let Answer::No(reason) = resource.call(call(Verb::Prepare, 1)).await else {
        panic!("not a no");
    };
    assert_eq!(&*reason.detail, "resource wallet had no place for a call in 5000 ms");
    assert!(matches!(resource.call(call(Verb::Prepare, 2)).await, Answer::Silent(_)));
    assert_eq!(resource.state().waiting, 0);
}

/// Takes two seconds for each call, and remembers how long each might have taken.
struct Slow(Arc<Mutex<Vec<Duration>>>);

impl Adapter for Slow {
    fn call(&self, call: Call) -> Hearing {
        self.0.lock().expect("not poisoned").push(call.patience);
        Box::pin(async move {
            sleep(Duration::from_secs(2)).await;
            Heard { answer: unanimous_participants::local::agree(&call), contact: Contact::Made }
        })
    }

    fn phases(&self) -> Phases {
        Phases::Two
    }

    fn kind(&self) -> &'static str {
        "slow"
    }

    fn location(&self) -> &str {
        "here"
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_phase_that_waited_for_its_place_has_what_is_left() {
    let settings =
        Settings { first_phase_calls_max: 1, second_phase_calls_max: 1, ..Settings::default() };
    for (verb, left_s) in [(Verb::Prepare, [5, 3, 1]), (Verb::Commit, [5, 5, 5])] {
        let asked = Arc::default();
        let slow = Slow(Arc::clone(&asked));
        let resource = Guarded::new("wallet", slow, &settings, Arc::new(Unobserved));
        let calls = [1, 1, 1].map(|attempt| resource.call(call(verb, attempt)));
        let [first, second, third] = calls;
        tokio::join!(first, second, third);
        assert_eq!(*asked.lock().expect("not poisoned"), left_s.map(Duration::from_secs));
    }
}

/// What an adapter was asked.
#[derive(Default)]
struct Listed {
    lists: AtomicUsize,
    calls: AtomicUsize,
}

/// Holds nothing, and says so.
struct Lists(Arc<Listed>);

impl Adapter for Lists {
    fn call(&self, call: Call) -> Hearing {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let answer = unanimous_participants::local::agree(&call);
        Box::pin(std::future::ready(Heard { answer, contact: Contact::Made }))
    }

    fn in_doubt(&self, _: Duration) -> Listing {
        self.0.lists.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(Some(Vec::new()))))
    }

    fn is_settled_by_list(&self, _: &Call) -> bool {
        true
    }

    fn phases(&self) -> Phases {
        Phases::Two
    }

    fn kind(&self) -> &'static str {
        "listed"
    }

    fn location(&self) -> &str {
        "here"
    }
}

#[tokio::test]
async fn a_branch_that_was_listed_is_rolled_back_without_another_list() {
    let listed = Arc::new(Listed::default());
    let settings = Settings::default();
    let lists = Lists(Arc::clone(&listed));
    let resource = Guarded::new("wallet", lists, &settings, Arc::new(Unobserved));
    let counts = || [&listed.lists, &listed.calls].map(|it| it.load(Ordering::SeqCst));
    let asked = call(Verb::Rollback, 1);
    assert!(matches!(resource.call(asked.clone()).await, Answer::Done(_)));
    assert_eq!(counts(), [1, 0], "nothing is left of what is not listed");
    assert!(matches!(resource.call(Call { is_listed: true, ..asked }).await, Answer::Done(_)));
    assert_eq!(counts(), [1, 1]);
}

#[tokio::test]
async fn every_call_that_is_sent_is_observed_once() {
    #[derive(Default)]
    struct Heeding(Mutex<Vec<(String, Verb, AnswerKind)>>);
    impl Observer for Heeding {
        fn called(&self, resource: &str, verb: Verb, _: Duration, answer: AnswerKind) {
            self.0.lock().expect("not poisoned").push((resource.to_owned(), verb, answer));
        }
    }
    let heeding = Arc::new(Heeding::default());
    let adapter = Handle(Scripted::new(Mood::Well));
    let observer: Arc<dyn Observer> = Arc::<Heeding>::clone(&heeding);
    let resource = Guarded::new("wallet", adapter, &Settings::default(), observer);
    resource.call(call(Verb::Prepare, 1)).await;
    resource.call(call(Verb::Commit, 1)).await;
    let expected = [
        ("wallet".to_owned(), Verb::Prepare, AnswerKind::Yes),
        ("wallet".to_owned(), Verb::Commit, AnswerKind::Done),
    ];
    assert_eq!(*heeding.0.lock().expect("not poisoned"), expected);
}

#[test]
fn a_url_that_cannot_be_followed_is_named_with_what_to_do_and_without_its_secret() {
    let opened = |url: &str| open("wallet", url, &Settings::default(), Arc::new(Unobserved));
    let cases = [
        (
            "oracle://app:hunter2@h/db",
            "unknown scheme \"oracle\" in its url; known: http, https, mysql, postgres, redis, \
             sqlite",
        ),
        ("postgres://app:hunter2@h/db", "its url must not carry a password"),
        ("localhost:9000", "the url has no scheme; write it as http://host:port/path"),
        ("http://", "its url is wrong"),
        ("http://app:hunter2@h/p", "its url must not carry a user name or password"),
        ("http://h/p?key=hunter2", "its url must not carry a query"),
    ];
    for (url, problem) in cases {
        let error = opened(url).err().expect(url).to_string();
        assert!(error.starts_with(&format!("resource wallet: {problem}")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let resource = opened("http://127.0.0.1:9000/participant/").expect("a good url");
    assert_eq!(resource.location(), "http://127.0.0.1:9000/participant");
}

#[test]
fn a_resource_that_may_not_be_called_at_all_is_refused() {
    let settings = Settings { second_phase_calls_max: 0, ..Settings::default() };
    assert!(open("wallet", "http://h", &settings, Arc::new(Unobserved)).is_err());
}
