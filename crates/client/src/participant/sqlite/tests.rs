//! Random calls and crashes against a model, and what a batch does when a call of it fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rusqlite::params;
use serde_json::json;
use tempfile::TempDir;
use unanimous_core::barrier::{Mark, Ruling, rule};
use unanimous_core::id::{BranchId, BranchName, ShardId, TxnId};
use unanimous_core::{Decision, HeuristicKind, Opaque, Verb};

use super::*;
use crate::participant::store::Order;

/// Takes amounts from one account. Amounts over 900 fail, over 9,000 panic.
struct Account;

impl SqliteParticipant for Account {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch(
            "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INT, held INT);
             INSERT OR IGNORE INTO account VALUES (1, 500, 0);",
        )?)
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        let amount: i64 = work.json()?;
        db.execute("UPDATE account SET held = held + ?1", params![amount])?;
        assert!(amount <= 9_000, "as asked for");
        if amount > 900 {
            return Err(No::Failed("as asked for".into()));
        }
        let left: i64 = db.query_row("SELECT balance - held FROM account", [], |it| it.get(0))?;
        match left >= 0 {
            true => Ok(Vote::yes().with_result(json!(amount))),
            false => Err(No::refused("short", left.to_string())),
        }
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let amount: i64 = work.json()?;
        db.execute("UPDATE account SET balance = balance - ?1, held = held - ?1", [amount])?;
        Ok(())
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let amount: i64 = work.json()?;
        db.execute("UPDATE account SET held = held - ?1", [amount])?;
        Ok(())
    }
}

async fn books(store: &SqliteStore) -> (i64, i64) {
    let read = store.local(|db| {
        Ok(db.query_row("SELECT balance, held FROM account", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?)
    });
    read.await.expect("the books can be read")
}

fn call(number: u64, order: Order, amount: i64) -> Call {
    let txn = TxnId::mint(number, ShardId::of(0), u128::from(number));
    let branch = BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) };
    let body = match order {
        Order::Told(Verb::Prepare | Verb::CommitOnePhase) => Bytes::from(amount.to_string()),
        Order::Told(Verb::Commit | Verb::Rollback | Verb::Act | Verb::Compensate)
        | Order::Alone(_) => Bytes::new(),
    };
    Call { branch, order, body, now: Timestamp(number) }
}

fn prepare(number: u64, amount: i64) -> Call {
    call(number, Order::Told(Verb::Prepare), amount)
}

/// What the books and the answers have to be.
#[derive(Clone, Debug, Default)]
struct Model {
    balance: i64,
    held: i64,
    branches: BTreeMap<u64, (Mark, i64)>,
}

impl Model {
    /// Carries out one order, and says how it is answered.
    fn carry_out(&mut self, number: u64, order: Order, amount: i64) -> &'static str {
        let (mark, known) = self.branches.get(&number).copied().unwrap_or_default();
        let (verb, lonely) = match order {
            Order::Told(verb) => (verb, None),
            Order::Alone(Decision::Commit) => (Verb::Commit, Some(Decision::Commit)),
            Order::Alone(Decision::Abort) => (Verb::Rollback, Some(Decision::Abort)),
        };
        let mut amount = if mark == Mark::Prepared { known } else { amount };
        let next = match (rule(mark, verb), lonely) {
            (Ruling::Repeat(_), _) => mark,
            (Ruling::Bar(_), Some(_)) => return "done",
            (Ruling::Bar(mark), None) => mark,
            (Ruling::Perform, _) => match verb {
                Verb::Prepare | Verb::CommitOnePhase
                    if mark == Mark::Absent && self.balance - self.held < amount =>
                {
                    amount = 0;
                    Mark::Refused
                }
                Verb::Prepare => {
                    self.held += amount;
                    Mark::Prepared
                }
                Verb::Act | Verb::Compensate => unreachable!("the model has two phases"),
                Verb::Commit | Verb::CommitOnePhase => {
                    self.balance -= amount;
                    self.held -= if mark == Mark::Prepared { amount } else { 0 };
                    lonely.map_or(Mark::Committed, Mark::Heuristic)
                }
                Verb::Rollback => {
                    self.held -= amount;
                    lonely.map_or(Mark::RolledBack, Mark::Heuristic)
                }
            },
        };
        self.branches.insert(number, (next, amount));
        match rule(next, verb) {
            Ruling::Repeat(reply) => word(reply),
            Ruling::Perform | Ruling::Bar(_) => unreachable!("a mark answers its own verb"),
        }
    }
}

fn word(reply: unanimous_core::barrier::Reply) -> &'static str {
    use unanimous_core::barrier::Reply;
    match reply {
        Reply::Yes => "yes",
        Reply::ReadOnly => "read-only",
        Reply::No => "no",
        Reply::Done => "done",
        Reply::Heuristic(HeuristicKind::Commit) => "heuristic commit",
        Reply::Heuristic(HeuristicKind::Rollback) => "heuristic rollback",
        Reply::Heuristic(HeuristicKind::Mixed | HeuristicKind::Hazard) => "heuristic",
    }
}

fn answered(answer: &Answer) -> &'static str {
    match answer {
        Answer::Yes(_) => "yes",
        Answer::ReadOnly(_) => "read-only",
        Answer::No(_) => "no",
        Answer::Done(_) => "done",
        Answer::Heuristic(HeuristicKind::Commit) => "heuristic commit",
        Answer::Heuristic(HeuristicKind::Rollback) => "heuristic rollback",
        Answer::Heuristic(HeuristicKind::Mixed | HeuristicKind::Hazard) => "heuristic",
        Answer::Lost(_) | Answer::Working | Answer::Silent(_) => "no answer",
    }
}

const ORDERS: [Order; 6] = [
    Order::Told(Verb::Prepare),
    Order::Told(Verb::Commit),
    Order::Told(Verb::Rollback),
    Order::Told(Verb::CommitOnePhase),
    Order::Alone(Decision::Commit),
    Order::Alone(Decision::Abort),
];

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ bits >> 31) % bound
    }
}

/// One opening of the file, to crash where it is told.
fn open(path: &Path, armed: &Arc<Mutex<Option<Point>>>) -> SqliteStore {
    let armed = Arc::clone(armed);
    let crash = move |point| armed.lock().expect("no panic").take_if(|at| *at == point).is_some();
    SqliteStore::open_to_crash(path, Box::new(Account), Box::new(crash)).expect("opens")
}

async fn play(seed: u64) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("account.db");
    let armed = Arc::new(Mutex::new(None));
    let mut store = open(&path, &armed);
    let mut model = Model { balance: 500, ..Model::default() };
    let mut chance = Chance(seed);
    for step in 0..60 {
        let number = chance.below(6);
        let order = ORDERS[chance.below(6) as usize];
        let amount = 1 + chance.below(200) as i64;
        let crash = match chance.below(12) {
            0 => Some(Point::Called),
            1 => Some(Point::Worked),
            2 => Some(Point::Committed),
            _ => None,
        };
        *armed.lock().expect("no panic") = crash;
        let mut next = model.clone();
        let expected = next.carry_out(number, order, amount);
        match (store.carry_out(call(number, order, amount)).await, crash) {
            (Ok(answer), None) => {
                assert_eq!(answered(&answer), expected, "seed {seed}, step {step}");
                model = next;
            }
            (Err(StoreError::Stopped), Some(point)) => {
                if point == Point::Committed {
                    model = next;
                }
                store = open(&path, &armed);
            }
            (other, _) => panic!("seed {seed}, step {step}: {other:?} with {crash:?}"),
        }
        assert_eq!(books(&store).await, (model.balance, model.held), "seed {seed}, step {step}");
    }
    let prepared = model.branches.values().filter(|(mark, _)| *mark == Mark::Prepared).count();
    assert_eq!(store.in_doubt(100).await.expect("listed").len(), prepared, "seed {seed}");
}

#[tokio::test]
async fn random_calls_and_crashes_do_what_the_barrier_says() {
    for seed in 0..40 {
        play(seed).await;
    }
}

#[test]
fn whoever_asks_while_the_store_stops_is_told() {
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let threads = threads.expect("threads start");
    for round in 0..2_000 {
        let folder = TempDir::new().expect("a folder");
        let armed = Arc::new(Mutex::new(None));
        let store = open(&folder.path().join("account.db"), &armed);
        let asking = (0..400).map(|_| {
            let store = store.clone();
            threads.spawn(async move { while store.local(|_| Ok(())).await.is_ok() {} })
        });
        let asking: Vec<_> = asking.collect();
        *armed.lock().expect("no panic") = Some(Point::Called);
        let all = futures_util::future::join_all(asking);
        let told = threads.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(10), all).await
        });
        assert!(told.is_ok(), "in round {round} somebody waits for ever");
    }
}

fn open_plainly(folder: &TempDir) -> SqliteStore {
    SqliteStore::open(folder.path().join("account.db"), Account).expect("opens")
}

#[tokio::test]
async fn a_call_that_fails_or_panics_takes_back_itself_and_nothing_else() {
    let folder = TempDir::new().expect("a folder");
    let store = open_plainly(&folder);
    let calls: Vec<_> = (0..60)
        .map(|number| {
            let store = store.clone();
            let amount = [1, 950, 9_999][number as usize % 3];
            tokio::spawn(async move { store.carry_out(prepare(number, amount)).await })
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        match (call.await.expect("not lost"), number % 3) {
            (Ok(Answer::Yes(result)), 0) => assert_eq!(result, Opaque::new(b"1")),
            (Err(StoreError::Work(_)), 1 | 2) => {}
            (other, _) => panic!("{number}: {other:?}"),
        }
    }
    assert_eq!(books(&store).await, (500, 20));
    assert_eq!(store.in_doubt(100).await.expect("listed").len(), 20);
}

#[tokio::test]
async fn nobody_may_end_the_transaction_of_the_store() {
    let folder = TempDir::new().expect("a folder");
    let store = open_plainly(&folder);
    for sql in ["COMMIT", "ROLLBACK", "BEGIN", "RELEASE unanimous", "ROLLBACK TO Unanimous"] {
        let denied = store.local(move |db| Ok(db.execute_batch(sql)?)).await;
        assert!(matches!(denied, Err(StoreError::Work(_))), "{sql}: {denied:?}");
    }
    let own = "SAVEPOINT mine; UPDATE account SET held = 1; ROLLBACK TO mine; RELEASE mine";
    store.local(move |db| Ok(db.execute_batch(own)?)).await.expect("savepoints of its own");
    assert_eq!(books(&store).await, (500, 0));
}

#[tokio::test]
async fn a_full_disk_refuses_and_when_there_is_room_it_goes_on() {
    let folder = TempDir::new().expect("a folder");
    let store = open_plainly(&folder);
    store.carry_out(prepare(1, 5)).await.expect("there is room");
    let limit = |sql: &'static str| store.local(move |db| Ok(db.query_row(sql, [], |_| Ok(()))?));
    limit("PRAGMA max_page_count = 1").await.expect("limited to what there is");
    let mut full = None;
    for number in 2..2_000 {
        let long = Bytes::from(format!("{:4000}", 0));
        let call = Call { body: long, ..prepare(number, 0) };
        if let Err(error) = store.carry_out(call).await {
            full = Some(error);
            break;
        }
    }
    assert!(matches!(full, Some(StoreError::Unavailable(_))), "{full:?}");
    store.carry_out(call(1, Order::Told(Verb::Commit), 0)).await.expect("what is promised is kept");
    limit("PRAGMA max_page_count = 100000").await.expect("room again");
    store.carry_out(prepare(3_000, 7)).await.expect("goes on");
    assert_eq!(books(&store).await, (495, 7));
}

#[tokio::test]
async fn marks_are_forgotten_after_their_time_but_for_doubts_and_heuristics() {
    let folder = TempDir::new().expect("a folder");
    let store = open_plainly(&folder);
    for number in 0..10 {
        store.carry_out(prepare(number, 1)).await.expect("prepared");
    }
    for number in 0..8 {
        let order = match number {
            0 => Order::Alone(Decision::Commit),
            _ => Order::Told(Verb::Commit),
        };
        store.carry_out(call(number, order, 0)).await.expect("ended");
    }
    assert_eq!(store.prune(Timestamp(6), 3).await.expect("pruned"), 3);
    assert_eq!(store.prune(Timestamp(6), 3).await.expect("pruned"), 2);
    assert_eq!(store.prune(Timestamp(6), 3).await.expect("pruned"), 0);
    let left = store.local(|db| {
        let count = "SELECT count(*), sum(mark = 'prepared') FROM unanimous_branch";
        Ok(db.query_row(count, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?)
    });
    assert_eq!(left.await.expect("counted"), (5, 2));
}

#[test]
fn what_is_no_database_is_refused_with_its_path() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("account.db");
    std::fs::write(&path, "this is no database, however long it may be made to look like one")
        .expect("written");
    let refused = SqliteStore::open(&path, Account).expect_err("no database");
    assert!(refused.to_string().contains("account.db"), "{refused}");
    let nowhere = SqliteStore::open(folder.path().join("no/such.db"), Account);
    assert!(matches!(nowhere, Err(StoreError::Unavailable(_))), "{nowhere:?}");
}
