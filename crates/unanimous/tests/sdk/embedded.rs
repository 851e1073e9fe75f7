//! A coordinator within the process of its program.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous::resource::{Answer, Call, Local, Opaque, Reason, Verb, agree};
use unanimous::{Client, Config, Coordinator, Error, OpenError, api};
use unanimous_client::api::{Code, OutcomeWord, StatusWord, Wait};
use unanimous_client::participant::{SqliteStore, Steps};
use unanimous_client::{Filter, Step, Worker};
use unanimous_participants::testing::{PrivatePostgres, until};

/// Agrees to everything, and counts what it is asked for.
#[derive(Clone, Default)]
struct Audit {
    prepared: Arc<AtomicUsize>,
    committed: Arc<AtomicUsize>,
    rolled_back: Arc<AtomicUsize>,
    acted: Arc<AtomicUsize>,
}

impl Audit {
    fn counter(&self, verb: Verb) -> &AtomicUsize {
        match verb {
            Verb::Prepare => &self.prepared,
            Verb::Commit | Verb::CommitOnePhase => &self.committed,
            Verb::Rollback => &self.rolled_back,
            Verb::Act | Verb::Compensate => &self.acted,
        }
    }

    fn count(&self, verb: Verb) -> usize {
        self.counter(verb).load(Ordering::Relaxed)
    }

    fn on(&self, config: Config, name: &str) -> Config {
        let audit = self.clone();
        let answer = move |call: &Call| {
            audit.counter(call.verb).fetch_add(1, Ordering::Relaxed);
            agree(call)
        };
        config.own_resource(name, Arc::new(Local::new(answer)))
    }
}

fn votes_never(call: &Call) -> Answer {
    match call.verb {
        Verb::Prepare => Answer::Working,
        Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
            Answer::Done(Opaque::default())
        }
    }
}

fn commits_never(call: &Call) -> Answer {
    match call.verb {
        Verb::Prepare => Answer::Yes(Opaque::default()),
        Verb::Commit | Verb::CommitOnePhase => Answer::Silent("it does not answer".into()),
        Verb::Rollback | Verb::Act | Verb::Compensate => Answer::Done(Opaque::default()),
    }
}

fn refuses(call: &Call) -> Answer {
    match call.verb {
        Verb::Prepare => Answer::No(Reason::new("sold_out", "nothing is left")),
        Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
            Answer::Done(Opaque::default())
        }
    }
}

fn in_folder(folder: &TempDir) -> Config {
    Config::new().journal(format!("file:{}", folder.path().display()))
}

async fn open(config: Config) -> Coordinator {
    Coordinator::open(config).await.expect("it opens")
}

/// A service with one step, which says what it was given.
async fn echo() -> (String, tokio::task::AbortHandle) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let set_up = |_: &rusqlite::Connection| Ok::<_, rusqlite::Error>(());
    let store = SqliteStore::of_steps(folder.path().join("db"), set_up).expect("a store");
    let steps = Steps::new(store).act("/echo", move |_, call| {
        let _kept = &folder;
        call.json::<Value>().map_err(Into::into)
    });
    let worker = Worker::new().steps(steps).bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", worker.address());
    let serving = tokio::spawn(worker.run_until(std::future::pending::<()>()));
    (url, serving.abort_handle())
}

#[tokio::test]
async fn a_program_with_a_coordinator_within_runs_every_kind_of_transaction() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (url, serving) = echo().await;
    let audit = Audit::default();
    let config = audit.on(in_folder(&folder), "audit").resource("echo", url);
    let config = config.own_resource("stock", Arc::new(Local::new(refuses)));
    let coordinator = open(audit.on(config, "ledger")).await;
    assert_eq!(coordinator.address(), None, "nobody asked it to listen");

    let transfer = || coordinator.transaction().key("order-1").branch("audit", json!(1));
    let committed = transfer().branch("ledger", json!(1)).run().await.expect("committed");
    let again = transfer().branch("ledger", json!(1)).run().await.expect("committed");
    assert_eq!((&again.id, audit.count(Verb::Commit)), (&committed.id, 2));
    let error = transfer().branch("ledger", json!(2)).run().await.expect_err("another request");
    assert_eq!(error.code(), Some(Code::KeyReused));

    let refused = coordinator.transaction().branch("audit", json!(1)).branch("stock", json!(1));
    let error = refused.run().await.expect_err("nothing is left");
    assert_eq!(
        (error.code(), &*error.reason().expect("why").kind),
        (Some(Code::Aborted), "sold_out")
    );
    let nobody = coordinator.transaction().branch("nobody", json!(1)).run().await;
    assert_eq!(nobody.expect_err("unknown").code(), Some(Code::UnknownResource));

    let saga =
        coordinator.saga().input(&json!({"n": 7})).step(Step::new("one").calls("echo", "/echo"));
    let completed = saga.run().await.expect("completed");
    let request = json!({"kind": "saga", "input": {"n": 7}, "steps": [{"name": "one",
        "action": {"resource": "echo", "path": "/echo", "body": {"n": "{{input.n}}"}}}]});
    let request: api::BeginRequest = serde_json::from_value(request).expect("a request");
    let view = coordinator.run(&request, Some("saga-1")).await.expect("completed");
    assert_eq!(view.outcome, Some(OutcomeWord::Completed));
    let log = coordinator.log(completed.id()).await.expect("its log");
    assert!(!log.events.is_empty());

    let driven = coordinator.transaction().begin().await.expect("begun");
    driven.enlist("audit", "audit").await.expect("enlisted");
    let open = Filter { status: Some(StatusWord::Initiated), ..Filter::default() };
    let listed = coordinator.list(&open);
    assert_eq!(listed.await.expect("a list").transactions.len(), 1);
    driven.abort("changed its mind").await.expect("aborted");
    coordinator.close().await.expect("it closes");
    serving.abort();
}

#[tokio::test]
async fn events_come_without_a_socket_and_end_with_the_coordinator() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let coordinator = open(Audit::default().on(in_folder(&folder), "audit")).await;
    let mut events = coordinator.events(None).await.expect("a stream");
    let transfer = coordinator.transaction().branch("audit", json!(1)).run();
    let committed = transfer.await.expect("committed");
    while events.next().await.expect("an event").status != StatusWord::Committed {}
    let client = coordinator.client().clone();
    let asked = tokio::spawn(async move { events.next().await });
    coordinator.close().await.expect("it closes");
    let ended = asked.await.expect("no panic").expect_err("nobody is there");
    assert_eq!(ended.code(), Some(Code::ShuttingDown));
    let error = client.show(&committed.id).await.expect_err("nobody is there");
    assert!(matches!(&error, Error::Busy(_)), "{error}");
}

#[tokio::test]
async fn what_was_decided_when_it_was_dropped_is_finished_by_the_next_one_on_its_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let audit = Audit::default();
    let config = audit.on(in_folder(&folder), "audit");
    let config = config.own_resource("stock", Arc::new(Local::new(commits_never)));
    let dead = open(config.own_resource("slow", Arc::new(Local::new(votes_never)))).await;
    let client = dead.client().clone();
    let transfer = |client: &Client| {
        let it = client.transaction().key("order-7").branch("audit", json!(1));
        it.branch("stock", json!(1))
    };
    let decided = client.transaction().key("order-7").wait(Wait::Decided);
    let decided = decided.branch("audit", json!(1)).branch("stock", json!(1)).run().await;
    let id = decided.expect("it is decided").id;
    let undecided = client.transaction().begin().await.expect("begun");
    let voting = client.transaction().key("order-8").branch("audit", json!(1));
    let voting = tokio::spawn(voting.branch("slow", json!(1)).run());
    let preparing = Filter { status: Some(StatusWord::Preparing), ..Filter::default() };
    until("it is voted on", async || {
        !client.list(&preparing).await.expect("a list").transactions.is_empty()
    })
    .await;
    drop(dead);
    let told = voting.await.expect("no panic").expect_err("nobody knows");
    assert!(matches!(&told, Error::Unknown { key, .. } if key == "order-8"), "{told}");
    until("the dropped one answers nobody", async || client.show(&id).await.is_err()).await;

    let next = Audit::default();
    let mut opened = None;
    until("the folder is free", async || {
        let config = next.on(next.on(next.on(in_folder(&folder), "audit"), "stock"), "slow");
        match Coordinator::open(config).await {
            Ok(coordinator) => opened = Some(coordinator),
            Err(OpenError::Start(error)) => {
                assert!(error.to_string().contains("in use"), "{error}")
            }
            Err(OpenError::Config(error)) => panic!("{error}"),
        }
        opened.is_some()
    })
    .await;
    let coordinator = opened.expect("it is open");
    let again = transfer(&coordinator).run().await.expect("it is committed");
    assert_eq!((&again.id, again.outcome), (&id, Some(OutcomeWord::Committed)));
    assert!(next.count(Verb::Commit) >= 1, "the stock hears of it at last");
    assert_eq!(audit.count(Verb::Rollback), 0);
    let unknown = coordinator.show(undecided.id()).await.map(|view| view.outcome);
    assert!(!matches!(unknown, Ok(Some(OutcomeWord::Committed))), "{unknown:?}");
    coordinator.close().await.expect("it closes");
    let reopened = open(next.on(next.on(in_folder(&folder), "audit"), "stock")).await;
    assert_eq!(reopened.show(&id).await.expect("it is kept").outcome, Some(OutcomeWord::Committed));
}

#[tokio::test]
async fn one_that_listens_serves_others_who_have_the_token_and_asks_its_own_process_for_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Audit::default().on(in_folder(&folder), "audit");
    let coordinator = open(config.listen("127.0.0.1:0").token("s3cret")).await;
    let url = format!("http://{}", coordinator.address().expect("it listens"));
    let transfer = |client: &Client| client.transaction().branch("audit", json!(1)).run();
    transfer(&coordinator).await.expect("it is this process");
    let others = Client::builder(&url).token("s3cret").build().expect("an address");
    transfer(&others).await.expect("it has the token");
    let strangers = Client::connect(&url).expect("an address");
    let error = transfer(&strangers).await.expect_err("no token");
    assert_eq!(error.code(), Some(Code::Unauthorized));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_followed_is_one_line_that_says_what_to_change() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = open(Audit::default().on(in_folder(&folder), "audit")).await;
    let own = || Audit::default().on(Config::new(), "wallet");
    for (config, named) in [
        (in_folder(&folder), "in use"),
        (Config::from_toml("listn = 1"), "listn"),
        (Config::new().journal("here"), "file:FOLDER"),
        (Config::new().resource("a b", "http://x"), "a b"),
        (Config::new().resource("a", "http://x").resource("a", "http://y"), "twice"),
        (Config::new().resource("a", "gopher://x"), "gopher"),
        (Config::new().listen("0.0.0.0:0"), "token"),
        (own().resource("wallet", "http://x"), "rename"),
        (Audit::default().on(Config::new(), "a b"), "a b"),
    ] {
        let line = Coordinator::open(config).await.expect_err(named).to_string();
        assert!(line.contains(named) && !line.contains('\n'), "{named}: {line}");
    }
    open.close().await.expect("it closes");
}

/// A node on a journal in PostgreSQL.
async fn node(server: &PrivatePostgres, name: &str, audit: &Audit) -> Coordinator {
    let config = Config::new().journal(server.url("coordinator", "journal")).node(name);
    open(audit.on(audit.on(config, "audit"), "ledger")).await
}

/// Runs transfers until the other one says stop; every one of them has to come out.
async fn transfers(client: Client, enough: Arc<AtomicUsize>) -> Vec<String> {
    let mut committed = Vec::new();
    while enough.load(Ordering::Relaxed) == 0 {
        let number = committed.len();
        let transfer = client.transaction().branch("audit", json!(number));
        let view = transfer.branch("ledger", json!(number)).run().await.expect("it is committed");
        committed.push(view.id);
    }
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_on_one_journal_are_nodes_and_one_takes_over_when_the_other_is_dropped() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    server.sql("postgres", "CREATE ROLE coordinator LOGIN");
    server.sql("postgres", "CREATE DATABASE journal OWNER coordinator");
    let audit = Audit::default();
    let (one, other) = (node(&server, "one", &audit).await, node(&server, "other", &audit).await);
    let owned = async |client: &Client| {
        let nodes = client.nodes().await.expect("the nodes").nodes;
        nodes.into_iter().map(|node| node.partitions.len()).collect::<Vec<_>>()
    };
    until("each has its share", async || owned(&one).await == [4, 4]).await;

    let enough = Arc::new(AtomicUsize::new(0));
    let running = tokio::spawn(transfers(one.client().clone(), Arc::clone(&enough)));
    let begun = other.transaction().key("held").begin().await.expect("begun");
    begun.enlist("audit", "audit").await.expect("enlisted");
    drop(other);
    until("one drives everything", async || owned(&one).await.contains(&8)).await;
    let here = one.transaction().key("after").branch("audit", json!(1)).run().await;
    here.expect("it is committed");
    enough.store(1, Ordering::Relaxed);
    let committed = running.await.expect("no panic");
    for id in &committed {
        let view = one.show(id).await.expect("it is known");
        assert_eq!(view.outcome, Some(OutcomeWord::Committed), "{id}");
    }
    let back = node(&server, "other", &audit).await;
    until("it has its share again", async || owned(&back).await == [4, 4]).await;
    one.close().await.expect("it gives away what it drives");
    let id = committed.first().expect("some have run meanwhile");
    back.show(id).await.expect("it is known to whoever has the journal");
    tokio::time::timeout(Duration::from_secs(20), back.close())
        .await
        .expect("in time")
        .expect("closed");
}
