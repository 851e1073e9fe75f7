//! Steps whose work is in MariaDB or MySQL: one transaction each, with a row that says so in it.
//!
//! The transaction is one of XA, committed in one phase. In any other these servers would let a statement
//! commit halfway, or go on outside of it after a deadlock; and then the work would stay without its row.

use std::fmt::Display;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Pool};
use serde::Serialize;
use serde_json::Value;
use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, Opaque, Reason};

use super::clusters::Clusters;
use super::rows::{REFUSE, Rows, ToUndo, Undone, refusal, text};
use super::{Half, StepCall, StepOrder, StepStore, Steps};
use crate::chance;
use crate::error::chain;
use crate::limits::STEP_ATTEMPTS_MAX;
use crate::own::mysql::Closing;
use crate::own::mysql::conn::code;
use crate::participant::store::StoreError;
use crate::participant::work::No;

/// Makes the table, as the coordinator's own steps do. Anybody may do so in advance.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_barrier (branch VARBINARY(128) NOT NULL, \
     verb VARBINARY(16) NOT NULL, result MEDIUMTEXT CHARACTER SET utf8mb4, \
     asked INT UNSIGNED NOT NULL DEFAULT 0, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
     PRIMARY KEY (branch, verb)) ENGINE=InnoDB";

const WRITE: &str = "INSERT INTO unanimous_barrier (branch, verb) VALUES (?, ?)";
const BAR: &str = "INSERT IGNORE INTO unanimous_barrier (branch, verb) VALUES (?, 'act')";
/// What is there now, not what was there when the transaction first looked.
const ACTED: &str =
    "SELECT result FROM unanimous_barrier WHERE branch = ? AND verb = 'act' FOR UPDATE";
const KEEP: &str = "UPDATE unanimous_barrier SET result = ? WHERE branch = ? AND verb = ?";
const REFUSED: &str =
    "INSERT INTO unanimous_barrier (branch, verb, result) VALUES (?, 'act', NULL), (?, ?, ?)";
/// A commit can be seen a moment before it is on disk. One that comes after it is there only with it.
const ASKED: &str = "UPDATE unanimous_barrier SET asked = asked + 1 WHERE branch = ?";
const ASK: &str = "SELECT CAST(verb AS CHAR), result FROM unanimous_barrier WHERE branch = ?";
/// Looked for first, because a removal that finds nothing would still lock where it looked.
const OLD: &str = "SELECT 1 FROM unanimous_barrier \
     WHERE branch >= ? AND branch < ? AND at < FROM_UNIXTIME(?) LIMIT 1";
const PRUNE: &str = "DELETE FROM unanimous_barrier \
     WHERE branch >= ? AND branch < ? AND at < FROM_UNIXTIME(?) LIMIT ?";

/// The codes of errors that say something here.
const DUPLICATE: u16 = 1062;
const NO_TABLE: u16 = 1146;

/// What a path does in MariaDB or MySQL.
pub type MysqlDeed =
    dyn for<'a> Fn(&'a mut Conn, &'a StepCall) -> BoxFuture<'a, Result<Value, No>> + Send + Sync;

/// Steps with work in MariaDB or MySQL. Cheap to clone; clones share the connections.
///
/// ```no_run
/// use mysql_async::prelude::Queryable;
/// use serde_json::json;
/// use unanimous_client::Worker;
/// use unanimous_client::participant::{MysqlSteps, No, Steps};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mysql_async::Pool::new("mysql://app@127.0.0.1/payment");
/// let steps = Steps::new(MysqlSteps::new(pool))
///     .act("/charge", |db, call| Box::pin(async move {
///         let amount: i64 = call.json()?;
///         let take = "UPDATE account SET balance = balance - ? WHERE balance >= ?";
///         db.exec_drop(take, (amount, amount)).await?;
///         match db.affected_rows() {
///             1 => Ok(json!({"amount": amount})),
///             _ => Err(No::refused("no_funds", format!("{amount} is too much"))),
///         }
///     }))
///     .compensate("/refund", |db, call| Box::pin(async move {
///         let amount = call.result::<serde_json::Value>()?["amount"].as_i64();
///         db.exec_drop("UPDATE account SET balance = balance + ?", (amount,)).await?;
///         Ok(())
///     }));
/// let worker = Worker::new().steps(steps).bind("127.0.0.1:9000").await?;
/// worker.run_until(tokio::signal::ctrl_c()).await;
/// # Ok(())
/// # }
/// ```
///
/// The row is in the table `unanimous_barrier`, which is made at the first step if it is not there, and
/// which the coordinator's own steps in the same database share. A transaction is open already when the
/// work begins; the server refuses to end it. All of the work has to be in tables of InnoDB.
#[derive(Clone, Debug)]
pub struct MysqlSteps {
    pool: Pool,
    clusters: Arc<Clusters>,
}

impl MysqlSteps {
    /// Steps on the connections of `pool`.
    pub fn new(pool: Pool) -> Self {
        Self { pool, clusters: Arc::default() }
    }
}

impl Steps<MysqlSteps> {
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
        deed: impl for<'a> Fn(&'a mut Conn, &'a StepCall) -> BoxFuture<'a, Result<R, No>>
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
        deed: impl for<'a> Fn(&'a mut Conn, &'a StepCall) -> BoxFuture<'a, Result<(), No>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.path(path, Half::Compensate, with_value(deed))
    }
}

fn with_value<R: Serialize + Send + 'static>(
    deed: impl for<'a> Fn(&'a mut Conn, &'a StepCall) -> BoxFuture<'a, Result<R, No>>
    + Send
    + Sync
    + 'static,
) -> Arc<MysqlDeed> {
    Arc::new(move |db, call| {
        let done = deed(db, call);
        Box::pin(async move { StepOrder::value(done.await?) })
    })
}

impl StepStore for MysqlSteps {
    type Deed = MysqlDeed;

    async fn step(&self, order: StepOrder, deed: Arc<MysqlDeed>) -> Result<Answer, StoreError> {
        self.clusters.saw(&order.branch);
        let conn = self.pool.get_conn().await.map_err(|error| unavailable(&chain(&error)))?;
        // Closed, unless nothing is open on it.
        let mut lent = Closing::new(conn);
        let done = carry_out(lent.conn(), &order, &*deed).await;
        if !matches!(done, Err(Fault { left: Left::Unknown, .. })) {
            drop(lent.keep());
        }
        done.map_err(|fault| fault.error)
    }

    async fn prune_steps(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let before_s = before.0 / 1_000;
        let mut pruned = 0;
        for (from, to) in self.clusters.old(before) {
            let conn = self.pool.get_conn().await.map_err(|error| unavailable(&chain(&error)))?;
            let mut lent = Closing::new(conn);
            let removed = prune(lent.conn(), (&from, &to), before_s, limit).await;
            pruned += removed.map_err(|error| unavailable(&chain(&error)))?;
            drop(lent.keep());
        }
        Ok(pruned)
    }
}

async fn prune(
    db: &mut Conn,
    (from, to): (&str, &str),
    before_s: u64,
    limit: usize,
) -> mysql_async::Result<usize> {
    let any: Option<u8> = db.exec_first(OLD, (from, to, before_s)).await?;
    if any.is_none() {
        return Ok(0);
    }
    db.exec_drop(PRUNE, (from, to, before_s, limit)).await?;
    let removed = db.affected_rows() as usize;
    // Where a session does not by itself.
    db.query_drop("COMMIT").await?;
    Ok(removed)
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
    /// The work failed, and was taken back.
    fn work(why: String) -> Self {
        Self { error: StoreError::Work(why.into()), left: Left::Nothing }
    }
}

/// What the database said, or that it said nothing.
impl From<mysql_async::Error> for Fault {
    fn from(error: mysql_async::Error) -> Self {
        Self { error: unavailable(&chain(&error)), left: Left::Unknown }
    }
}

fn unavailable(why: &dyn Display) -> StoreError {
    StoreError::Unavailable(why.to_string().into())
}

async fn carry_out(db: &mut Conn, order: &StepOrder, deed: &MysqlDeed) -> Result<Answer, Fault> {
    for _ in 0..STEP_ATTEMPTS_MAX {
        let xa = Xa::begin(db).await?;
        let answer = match attempt(db, &xa, order, deed).await? {
            Came::To(answer) => Some(answer),
            Came::Second => saved(db, order).await?,
            Came::Refused(reason) => refuse(db, order, reason).await?,
            Came::NoTable => make_table(db).await?,
        };
        // Without one, whoever came first has taken it back since.
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
    let why = "others begin the step and take it back all the time";
    Err(Fault { error: unavailable(&why), left: Left::Nothing })
}

/// A transaction. Its name matters to nobody: it is never prepared.
struct Xa(String);

impl Xa {
    async fn begin(db: &mut Conn) -> Result<Self, Fault> {
        let xa = Self(format!("'una-step-{}'", chance::key()));
        db.query_drop(format!("XA START {}", xa.0)).await?;
        Ok(xa)
    }

    async fn commit(&self, db: &mut Conn) -> Result<(), Fault> {
        db.query_drop(format!("XA END {}", self.0)).await?;
        // Whether it has committed the next attempt sees by the row.
        Ok(db.query_drop(format!("XA COMMIT {} ONE PHASE", self.0)).await?)
    }

    async fn take_back(&self, db: &mut Conn) -> Result<(), Fault> {
        // A deadlock has ended it already.
        drop(db.query_drop(format!("XA END {}", self.0)).await);
        Ok(db.query_drop(format!("XA ROLLBACK {}", self.0)).await?)
    }
}

async fn attempt(
    db: &mut Conn,
    xa: &Xa,
    order: &StepOrder,
    deed: &MysqlDeed,
) -> Result<Came, Fault> {
    let (name, verb) = (order.branch.to_string(), order.half.word());
    if let Err(error) = db.exec_drop(WRITE, (&name, verb)).await {
        xa.take_back(db).await?;
        return match code(&error) {
            Some(DUPLICATE) => Ok(Came::Second),
            Some(NO_TABLE) => Ok(Came::NoTable),
            _ => Err(Fault { left: Left::Nothing, ..Fault::from(error) }),
        };
    }
    let result = match order.half {
        Half::Act => Value::Null,
        Half::Compensate => match to_undo(db, &name).await? {
            ToUndo::Unheard if order.may_be_forgotten() => {
                xa.take_back(db).await?;
                return Ok(Came::To(Answer::No(StepOrder::forgotten())));
            }
            ToUndo::Unheard | ToUndo::Nothing => {
                xa.commit(db).await?;
                return Ok(Came::To(Answer::Done(Opaque::default())));
            }
            ToUndo::Acted(result) => result,
        },
    };
    let call = order.call(result);
    let done = order.came(deed(db, &call).await);
    match (done.map_err(Undone::from), order.half) {
        (Ok(result), half) => finish(db, xa, (&name, half), &result).await.map(Came::To),
        (Err(Undone::Refused(reason)), half) => {
            xa.take_back(db).await?;
            Ok(match half {
                Half::Act => Came::Refused(reason),
                // It may be asked for again when somebody has mended what it met.
                Half::Compensate => Came::To(Answer::No(reason)),
            })
        }
        (Err(Undone::Failed(error)), _) => {
            xa.take_back(db).await?;
            Err(Fault::work(chain(&*error)))
        }
    }
}

async fn to_undo(db: &mut Conn, name: &str) -> Result<ToUndo, Fault> {
    db.exec_drop(BAR, (name,)).await?;
    if db.affected_rows() == 1 {
        return Ok(ToUndo::Unheard);
    }
    let kept: Option<Option<String>> = db.exec_first(ACTED, (name,)).await?;
    Ok(ToUndo::of(kept.flatten().as_deref()))
}

/// The work has come out: its result is kept, and both are committed.
async fn finish(
    db: &mut Conn,
    xa: &Xa,
    (name, half): (&str, Half),
    result: &Value,
) -> Result<Answer, Fault> {
    let result = match (half, StepOrder::kept(result)) {
        (Half::Act, Ok(result)) => result,
        (Half::Compensate, Ok(_)) => Opaque::default(),
        (_, Err(error)) => {
            xa.take_back(db).await?;
            return Err(Fault { error, left: Left::Nothing });
        }
    };
    let kept = db.exec_drop(KEEP, (text(&result), name, half.word())).await;
    let why = match kept {
        Ok(()) if db.affected_rows() == 1 => {
            xa.commit(db).await?;
            return Ok(Answer::Done(result));
        }
        Ok(()) => "its row in unanimous_barrier is not there any more".to_owned(),
        // The transaction was given up under the work, and the work went on.
        Err(error) => chain(&error),
    };
    xa.take_back(db).await?;
    Err(Fault::work(why))
}

/// What the call that came first has done, if it has not taken it back.
async fn saved(db: &mut Conn, order: &StepOrder) -> Result<Option<Answer>, Fault> {
    let name = order.branch.to_string();
    db.exec_drop(ASKED, (&name,)).await?;
    db.query_drop("COMMIT").await?;
    let rows: Vec<(String, Option<String>)> = db.exec(ASK, (&name,)).await?;
    db.query_drop("COMMIT").await?;
    Ok(Rows::read(rows).answer(order.half))
}

/// Keeps a refusal, unless somebody else was faster.
async fn refuse(db: &mut Conn, order: &StepOrder, reason: Reason) -> Result<Option<Answer>, Fault> {
    let (name, refusal) = (order.branch.to_string(), refusal(&reason));
    match db.exec_drop(REFUSED, (&name, &name, REFUSE, refusal)).await {
        Ok(()) => {
            db.query_drop("COMMIT").await?;
            Ok(Some(Answer::No(reason)))
        }
        Err(error) if code(&error) == Some(DUPLICATE) => saved(db, order).await,
        Err(error) => Err(error.into()),
    }
}

async fn make_table(db: &mut Conn) -> Result<Option<Answer>, Fault> {
    match db.query_drop(TABLE).await {
        Ok(()) => Ok(None),
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
