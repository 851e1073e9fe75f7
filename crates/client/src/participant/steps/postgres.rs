//! Steps whose work is in PostgreSQL: one transaction each, with a row that says so in it.

use std::fmt::Display;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};
use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, Opaque, Reason};

use super::clusters::Clusters;
use super::rows::{REFUSE, Rows, ToUndo, Undone, refusal, text};
use super::{Half, StepCall, StepOrder, StepStore, Steps};
use crate::error::chain;
use crate::limits::STEP_ATTEMPTS_MAX;
use crate::participant::store::StoreError;
use crate::participant::work::No;
use crate::pool::PostgresPool;

/// Makes the table, as the coordinator's own steps do. Anybody may do so in advance.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_barrier (branch text COLLATE \"C\" NOT NULL, \
     verb text NOT NULL, result text, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (branch, verb))";

/// What a process holds that dies out of sight is free again soon, and nobody waits for it for ever.
const BOUNDS: &str = "SELECT set_config(name, bound, true) FROM (VALUES ('lock_timeout', '30s'), \
     ('idle_in_transaction_session_timeout', '60s')) AS wanted (name, bound) \
     WHERE current_setting(name) = '0'";

const WRITE: &str = "INSERT INTO unanimous_barrier (branch, verb) VALUES ($1, $2)";
const BAR: &str =
    "INSERT INTO unanimous_barrier (branch, verb) VALUES ($1, 'act') ON CONFLICT DO NOTHING";
const ACTED: &str = "SELECT result FROM unanimous_barrier WHERE branch = $1 AND verb = 'act'";
const KEEP: &str = "UPDATE unanimous_barrier SET result = $3 WHERE branch = $1 AND verb = $2";
const REFUSED: &str =
    "INSERT INTO unanimous_barrier (branch, verb, result) VALUES ($1, 'act', NULL), ($1, $2, $3)";
const ASK: &str = "SELECT verb, result FROM unanimous_barrier WHERE branch = $1";
const PRUNE: &str = "DELETE FROM unanimous_barrier WHERE ctid = ANY (ARRAY( \
     SELECT ctid FROM unanimous_barrier WHERE branch COLLATE \"C\" >= $1 AND branch COLLATE \"C\" < $2 \
     AND at < to_timestamp($3) LIMIT $4))";

/// What a path does in PostgreSQL.
pub type PostgresDeed = dyn for<'a> Fn(&'a Transaction<'a>, &'a StepCall) -> BoxFuture<'a, Result<Value, No>>
    + Send
    + Sync;

/// Steps with work in PostgreSQL. Cheap to clone; clones share the connections.
///
/// ```no_run
/// use serde_json::json;
/// use tokio_postgres::NoTls;
/// use unanimous_client::participant::{No, PostgresSteps, Steps};
/// use unanimous_client::{PostgresPool, Worker};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = PostgresPool::new("postgres://app@127.0.0.1/payment".parse()?, NoTls);
/// let steps = Steps::new(PostgresSteps::new(pool))
///     .act("/charge", |db, call| Box::pin(async move {
///         let amount: i64 = call.json()?;
///         let take = "UPDATE account SET balance = balance - $1 WHERE balance >= $1";
///         match db.execute(take, &[&amount]).await? {
///             1 => Ok(json!({"amount": amount})),
///             _ => Err(No::refused("no_funds", format!("{amount} is too much"))),
///         }
///     }))
///     .compensate("/refund", |db, call| Box::pin(async move {
///         let amount = call.result::<serde_json::Value>()?["amount"].as_i64();
///         db.execute("UPDATE account SET balance = balance + $1", &[&amount]).await?;
///         Ok(())
///     }));
/// let worker = Worker::new().steps(steps).bind("127.0.0.1:9000").await?;
/// worker.run_until(tokio::signal::ctrl_c()).await;
/// # Ok(())
/// # }
/// ```
///
/// The row is in the table `unanimous_barrier`, which is made at the first step if it is not there, and
/// which the coordinator's own steps in the same database share. The work may not end the transaction
/// that it is given.
#[derive(Clone, Debug)]
pub struct PostgresSteps {
    pool: PostgresPool,
    clusters: Arc<Clusters>,
}

impl PostgresSteps {
    /// Steps on the connections of `pool`.
    pub fn new(pool: PostgresPool) -> Self {
        Self { pool, clusters: Arc::default() }
    }
}

impl Steps<PostgresSteps> {
    /// What an action does: within a transaction that belongs to the store, at most once for each step. Its
    /// result goes to the saga, and is kept for repeated calls: at most
    /// [`crate::limits::RESULT_BYTES_MAX`] bytes of JSON.
    ///
    /// [`No::Refused`] is final: nothing of the work is left, and whoever asks again is told the same.
    /// After [`No::Failed`], which `?` makes of errors of the database, nothing is left either, and the
    /// call is made again; so a step that is retriable should fail where another would refuse.
    pub fn act<R: Serialize + Send + 'static>(
        self,
        path: impl Into<String>,
        deed: impl for<'a> Fn(&'a Transaction<'a>, &'a StepCall) -> BoxFuture<'a, Result<R, No>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.path(path, Half::Act, with_value(deed))
    }

    /// What undoes an action: called at most once with success for each step, and only if it has acted.
    /// [`StepCall::result`] has what the action returned.
    ///
    /// [`No::Refused`] stops the saga until an operator has it asked again; nothing of the work is left.
    pub fn compensate(
        self,
        path: impl Into<String>,
        deed: impl for<'a> Fn(&'a Transaction<'a>, &'a StepCall) -> BoxFuture<'a, Result<(), No>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.path(path, Half::Compensate, with_value(deed))
    }
}

fn with_value<R: Serialize + Send + 'static>(
    deed: impl for<'a> Fn(&'a Transaction<'a>, &'a StepCall) -> BoxFuture<'a, Result<R, No>>
    + Send
    + Sync
    + 'static,
) -> Arc<PostgresDeed> {
    Arc::new(move |db, call| {
        let done = deed(db, call);
        Box::pin(async move { StepOrder::value(done.await?) })
    })
}

impl StepStore for PostgresSteps {
    type Deed = PostgresDeed;

    async fn step(&self, order: StepOrder, deed: Arc<PostgresDeed>) -> Result<Answer, StoreError> {
        self.clusters.saw(&order.branch);
        let mut lent = self.pool.lend().await.map_err(|error| unavailable(&error))?;
        let done = carry_out(&mut lent.connection, &order, &*deed).await;
        let is_outside = !matches!(done, Err(Fault { left: Left::Unknown, .. }));
        // Any other is closed, and its server takes back what is open.
        if is_outside {
            lent.give_back();
        }
        done.map_err(|fault| fault.error)
    }

    async fn prune_steps(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let (before_s, limit) = (before.0 as f64 / 1_000.0, limit as i64);
        let mut pruned = 0;
        for (from, to) in self.clusters.old(before) {
            let lent = self.pool.lend().await.map_err(|error| unavailable(&error))?;
            let bounds: [(&(dyn ToSql + Sync), Type); 4] = [
                (&from, Type::TEXT),
                (&to, Type::TEXT),
                (&before_s, Type::FLOAT8),
                (&limit, Type::INT8),
            ];
            let removed = lent.connection.execute_typed(PRUNE, &bounds).await;
            let removed = removed.map_err(|error| unavailable(&chain(&error)))?;
            lent.give_back();
            pruned += removed as usize;
        }
        Ok(pruned)
    }
}

/// What an attempt came to. No transaction is open behind it.
enum Came {
    To(Answer),
    /// The row is there already.
    Second,
    /// The action refuses, and nothing of it is left.
    Refused(Reason),
    /// There is no table for the row.
    NoTable,
}

/// Why a call is not answered.
struct Fault {
    error: StoreError,
    left: Left,
}

/// What is open on the connection.
enum Left {
    Nothing,
    Unknown,
}

impl Fault {
    /// What the database said, or that it said nothing.
    fn of(error: &tokio_postgres::Error) -> Self {
        Self { error: unavailable(&chain(error)), left: Left::Unknown }
    }

    /// The work failed, and was taken back.
    fn work(why: String) -> Self {
        Self { error: StoreError::Work(why.into()), left: Left::Nothing }
    }
}

fn unavailable(why: &dyn Display) -> StoreError {
    StoreError::Unavailable(why.to_string().into())
}

async fn carry_out(
    db: &mut Client,
    order: &StepOrder,
    deed: &PostgresDeed,
) -> Result<Answer, Fault> {
    for _ in 0..STEP_ATTEMPTS_MAX {
        let answer = match attempt(db, order, deed).await? {
            Came::To(answer) => Some(answer),
            Came::Second => saved(db, order).await?,
            Came::Refused(reason) => refuse(db, order, reason).await?,
            Came::NoTable => make_table(db).await?,
        };
        // Without one, whoever came first has taken it back since, or is making the table.
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
    let why = "others begin the step and take it back all the time";
    Err(Fault { error: unavailable(&why), left: Left::Nothing })
}

async fn attempt(db: &mut Client, order: &StepOrder, deed: &PostgresDeed) -> Result<Came, Fault> {
    let (name, verb) = (order.branch.to_string(), order.half.word());
    let tx = db.transaction().await.map_err(|error| Fault::of(&error))?;
    let row = [(&name as &(dyn ToSql + Sync), Type::TEXT), (&verb, Type::TEXT)];
    let (bounded, written) = join(tx.batch_execute(BOUNDS), tx.execute_typed(WRITE, &row)).await;
    if let Err(error) = bounded.and(written) {
        take_back(tx).await?;
        return match error.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => Ok(Came::Second),
            Some(&SqlState::UNDEFINED_TABLE) => Ok(Came::NoTable),
            _ => Err(Fault { left: Left::Nothing, ..Fault::of(&error) }),
        };
    }
    let result = match order.half {
        Half::Act => Value::Null,
        Half::Compensate => match to_undo(&tx, &name).await? {
            ToUndo::Unheard if order.may_be_forgotten() => {
                take_back(tx).await?;
                return Ok(Came::To(Answer::No(StepOrder::forgotten())));
            }
            ToUndo::Unheard | ToUndo::Nothing => {
                commit(tx).await?;
                return Ok(Came::To(Answer::Done(Opaque::default())));
            }
            ToUndo::Acted(result) => result,
        },
    };
    let call = order.call(result);
    let done = order.came(deed(&tx, &call).await);
    match (done.map_err(Undone::from), order.half) {
        (Ok(result), half) => finish(tx, (&name, half), &result).await.map(Came::To),
        (Err(Undone::Refused(reason)), half) => {
            take_back(tx).await?;
            Ok(match half {
                Half::Act => Came::Refused(reason),
                // It may be asked for again when somebody has mended what it met.
                Half::Compensate => Came::To(Answer::No(reason)),
            })
        }
        (Err(Undone::Failed(error)), _) => {
            take_back(tx).await?;
            Err(Fault::work(chain(&*error)))
        }
    }
}

async fn to_undo(tx: &Transaction<'_>, name: &str) -> Result<ToUndo, Fault> {
    let row = [(&name as &(dyn ToSql + Sync), Type::TEXT)];
    let barred = tx.execute_typed(BAR, &row).await.map_err(|error| Fault::of(&error))?;
    if barred == 1 {
        return Ok(ToUndo::Unheard);
    }
    let kept = tx.query_typed_one(ACTED, &row).await.map_err(|error| Fault::of(&error))?;
    Ok(ToUndo::of(kept.get(0)))
}

/// The work has come out: its result is kept, and both are committed.
async fn finish(
    tx: Transaction<'_>,
    (name, half): (&str, Half),
    result: &Value,
) -> Result<Answer, Fault> {
    let result = match (half, StepOrder::kept(result)) {
        (Half::Act, Ok(result)) => result,
        (Half::Compensate, Ok(_)) => Opaque::default(),
        (_, Err(error)) => {
            take_back(tx).await?;
            return Err(Fault { error, left: Left::Nothing });
        }
    };
    let (verb, text) = (half.word(), text(&result));
    let row =
        [(&name as &(dyn ToSql + Sync), Type::TEXT), (&verb, Type::TEXT), (&text, Type::TEXT)];
    let why = match tx.execute_typed(KEEP, &row).await {
        Ok(1) => {
            commit(tx).await?;
            return Ok(Answer::Done(result));
        }
        Ok(_) => "its row in unanimous_barrier is not there any more".to_owned(),
        // A statement of the work has failed, and the work went on.
        Err(error) => chain(&error),
    };
    take_back(tx).await?;
    Err(Fault::work(why))
}

async fn commit(tx: Transaction<'_>) -> Result<(), Fault> {
    // Whether it has committed the next attempt sees by the row.
    tx.commit().await.map_err(|error| Fault::of(&error))
}

async fn take_back(tx: Transaction<'_>) -> Result<(), Fault> {
    tx.rollback().await.map_err(|error| Fault::of(&error))
}

/// What the call that came first has done, if it has not taken it back.
async fn saved(db: &Client, order: &StepOrder) -> Result<Option<Answer>, Fault> {
    let name = order.branch.to_string();
    let rows = db.query_typed(ASK, &[(&name, Type::TEXT)]).await;
    let rows = rows.map_err(|error| Fault::of(&error))?;
    Ok(Rows::read(rows.iter().map(|row| (row.get(0), row.get(1)))).answer(order.half))
}

/// Keeps a refusal, unless somebody else was faster.
async fn refuse(db: &Client, order: &StepOrder, reason: Reason) -> Result<Option<Answer>, Fault> {
    let (name, refusal) = (order.branch.to_string(), refusal(&reason));
    let row =
        [(&name as &(dyn ToSql + Sync), Type::TEXT), (&REFUSE, Type::TEXT), (&refusal, Type::TEXT)];
    match db.execute_typed(REFUSED, &row).await {
        Ok(_) => Ok(Some(Answer::No(reason))),
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => saved(db, order).await,
        Err(error) => Err(Fault::of(&error)),
    }
}

async fn make_table(db: &Client) -> Result<Option<Answer>, Fault> {
    // What is said to whoever makes it while somebody else does.
    let made_elsewhere =
        [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_OBJECT, SqlState::DUPLICATE_TABLE];
    match db.batch_execute(TABLE).await {
        Ok(()) => Ok(None),
        Err(error) if error.code().is_some_and(|code| made_elsewhere.contains(code)) => Ok(None),
        Err(error) => {
            let why = format!(
                "the table that makes repeats harmless is not there and cannot be made: {}; run once: \
                 {TABLE}, and let the service's user SELECT, INSERT, UPDATE and DELETE in it",
                chain(&error)
            );
            Err(Fault { error: unavailable(&why), left: Left::Unknown })
        }
    }
}
