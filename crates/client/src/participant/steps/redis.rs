//! Steps whose work is in Redis: commands that are carried out in one call of a script, with the mark.
//!
//! Redis takes nothing back, so a step only reads while it decides, and what it writes is kept until the end.
//! Then the script does all of it, if nothing that was read has changed since (`WATCH`); if something has,
//! the step decides anew.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{
    Arg, AsyncConnectionConfig, Client, Cmd, FromRedisValue, InfoDict, RedisError, RedisResult,
};
use serde::Serialize;
use serde_json::Value;
use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, Opaque, Reason};

use super::rows::{REFUSE, Rows, ToUndo, Undone, refusal, text};
use super::{Half, StepCall, StepOrder, StepStore, Steps};
use crate::chance;
use crate::error::chain;
use crate::limits::{
    POOL_CONNECTIONS_MAX, POOL_PATIENCE_MS, STEP_COMMANDS_MAX, STEP_CONFLICTS_MAX,
    STEP_RETENTION_MS, STEP_WORDS_MAX,
};
use crate::participant::store::StoreError;
use crate::participant::work::No;
use crate::pool::{Lent, Places};

const COMMIT: &str = include_str!("redis.lua");

/// Refuses whatever writes.
const READ: &str = "return redis.call(unpack(ARGV))";

/// The field of a mark whose step was done in part.
const BROKEN: &str = "broken";

/// A field without a result; one with a result has it behind a `=`.
const NO_RESULT: &str = "-";

/// What a path does in Redis.
pub type RedisDeed = dyn for<'a> Fn(&'a mut RedisWork, &'a StepCall) -> BoxFuture<'a, Result<Value, No>>
    + Send
    + Sync;

/// What a step reads and writes.
pub struct RedisWork {
    connection: MultiplexedConnection,
    commands: Vec<Cmd>,
}

/// Steps with work in one Redis server, 7 or later. Cheap to clone; clones share the connections.
///
/// ```no_run
/// use redis::cmd;
/// use serde_json::json;
/// use unanimous_client::Worker;
/// use unanimous_client::participant::{No, RedisSteps, Steps};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisSteps::new(redis::Client::open("redis://127.0.0.1:6379")?);
/// let steps = Steps::new(store)
///     .act("/reserve", |db, call| Box::pin(async move {
///         let count: i64 = call.json()?;
///         let left: Option<i64> = db.read(&["stock:17"], cmd("GET").arg("stock:17")).await?;
///         if left.unwrap_or(0) < count {
///             return Err(No::refused("sold_out", format!("{left:?} are left")));
///         }
///         db.write(cmd("DECRBY").arg("stock:17").arg(count));
///         Ok(json!({"count": count}))
///     }))
///     .compensate("/release", |db, call| Box::pin(async move {
///         let count = call.result::<serde_json::Value>()?["count"].as_i64();
///         db.write(cmd("INCRBY").arg("stock:17").arg(count));
///         Ok(())
///     }));
/// let worker = Worker::new().steps(steps).bind("127.0.0.1:9000").await?;
/// worker.run_until(tokio::signal::ctrl_c()).await;
/// # Ok(())
/// # }
/// ```
///
/// The mark is a hash, `unanimous:{una}:step:<branch>`, for thirty days. What it takes of the server is looked
/// at when a connection is made: a master, no cluster, no eviction, and an append-only file that is synced
/// always, unless [`RedisSteps::weakly_durable`] does without it. After a failover to a replica, what was
/// done last may be gone, with its marks: Redis answers before its replicas have it.
///
/// A command that Redis refuses halfway, such as an `INCR` of what is no number, leaves what those before it
/// have done. The step is then neither done nor refused: the call fails, whoever compensates it is refused
/// with the kind `half_done`, and an operator has to look.
#[derive(Clone)]
pub struct RedisSteps {
    client: Client,
    durability: Durability,
    places: Arc<Places<MultiplexedConnection>>,
}

/// What is asked of the server before it takes a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Durability {
    Strict,
    Weak,
}

impl RedisSteps {
    /// Steps on connections of `client`.
    pub fn new(client: Client) -> Self {
        let places = Places::new(POOL_CONNECTIONS_MAX);
        Self { client, durability: Durability::Strict, places }
    }

    /// Takes a server that may forget what it has answered when it crashes: a step may then be lost, or
    /// be done again.
    #[must_use]
    pub fn weakly_durable(mut self) -> Self {
        self.durability = Durability::Weak;
        self
    }

    async fn lend(&self) -> Result<Lent<MultiplexedConnection>, StoreError> {
        // One that has broken shows at its first use, and is not given back.
        let lent = self.places.lend(|_| true, self.dial()).await;
        lent.map_err(|error| unavailable(&error))
    }

    async fn dial(&self) -> Result<MultiplexedConnection, String> {
        let patience = Some(Duration::from_millis(POOL_PATIENCE_MS));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(patience)
            .set_response_timeout(patience);
        let dialled = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = dialled.map_err(|error| error.to_string())?;
        match self.unfit(&mut connection).await {
            Ok(None) => Ok(connection),
            Ok(Some(why)) => Err(why),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Why the server cannot keep marks.
    async fn unfit(&self, connection: &mut MultiplexedConnection) -> RedisResult<Option<String>> {
        let info: InfoDict = redis::cmd("INFO").query_async(connection).await?;
        let field = |name: &str| info.get::<String>(name).unwrap_or_default();
        let major = field("redis_version").split('.').next().and_then(|it| it.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Ok(Some(format!("Redis {:?}: use 7 or later", field("redis_version"))));
        }
        if field("role") != "master" {
            return Ok(Some("the server is no master".to_owned()));
        }
        if field("cluster_enabled") == "1" {
            return Ok(Some("the server is part of a cluster".to_owned()));
        }
        if field("maxmemory") != "0" && field("maxmemory_policy") != "noeviction" {
            let why = "its maxmemory-policy throws marks away: set noeviction";
            return Ok(Some(why.to_owned()));
        }
        if self.durability == Durability::Weak {
            return Ok(None);
        }
        let mut asked = redis::cmd("CONFIG");
        asked.arg("GET").arg("appendfsync").arg("no-appendfsync-on-rewrite");
        let synced: std::collections::HashMap<String, String> =
            asked.query_async(connection).await?;
        let is = |name: &str, value: &str| synced.get(name).is_some_and(|it| it == value);
        let is_durable = field("aof_enabled") == "1"
            && is("appendfsync", "always")
            && is("no-appendfsync-on-rewrite", "no");
        Ok((!is_durable).then(|| {
            "a crash may lose what it has answered: set appendonly yes, appendfsync always and \
             no-appendfsync-on-rewrite no, or take it as weakly durable"
                .to_owned()
        }))
    }
}

impl Steps<RedisSteps> {
    /// What an action does: it reads, and says what is to be written, which takes effect at most once for
    /// each step. It may be run again before that, if what it has read changes meanwhile. Its result goes
    /// to the saga, and is kept for repeated calls: at most [`crate::limits::RESULT_BYTES_MAX`] bytes of
    /// JSON.
    ///
    /// [`No::Refused`] is final: nothing is written, and whoever asks again is told the same. After
    /// [`No::Failed`], which `?` makes of errors of Redis, nothing is written either, and the call is made
    /// again; so a step that is retriable should fail where another would refuse.
    pub fn act<R: Serialize + Send + 'static>(
        self,
        path: impl Into<String>,
        deed: impl for<'a> Fn(&'a mut RedisWork, &'a StepCall) -> BoxFuture<'a, Result<R, No>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.path(path, Half::Act, with_value(deed))
    }

    /// What undoes an action: takes effect at most once for each step, and only if it has acted.
    /// [`StepCall::result`] has what the action returned.
    ///
    /// [`No::Refused`] stops the saga until an operator has it asked again; nothing is written.
    pub fn compensate(
        self,
        path: impl Into<String>,
        deed: impl for<'a> Fn(&'a mut RedisWork, &'a StepCall) -> BoxFuture<'a, Result<(), No>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.path(path, Half::Compensate, with_value(deed))
    }
}

fn with_value<R: Serialize + Send + 'static>(
    deed: impl for<'a> Fn(&'a mut RedisWork, &'a StepCall) -> BoxFuture<'a, Result<R, No>>
    + Send
    + Sync
    + 'static,
) -> Arc<RedisDeed> {
    Arc::new(move |db, call| {
        let done = deed(db, call);
        Box::pin(async move { StepOrder::value(done.await?) })
    })
}

impl RedisWork {
    /// What a command that writes nothing answers. If any of `keys` changes before the step is done, all of
    /// it is decided anew: name all that the decision rests on.
    ///
    /// # Errors
    ///
    /// [`RedisError`], also of a command that would write.
    pub async fn read<T: FromRedisValue>(
        &mut self,
        keys: &[&str],
        command: &Cmd,
    ) -> RedisResult<T> {
        let mut pipeline = redis::pipe();
        if !keys.is_empty() {
            pipeline.cmd("WATCH").arg(keys).ignore();
        }
        pipeline.cmd("EVAL_RO").arg(READ).arg(keys.len()).arg(keys).arg(words(command));
        let (answer,) = pipeline.query_async(&mut self.connection).await?;
        Ok(answer)
    }

    /// A command to carry out when the step is done, behind those before it.
    pub fn write(&mut self, command: &Cmd) {
        self.commands.push(command.clone());
    }
}

fn words(command: &Cmd) -> Vec<&[u8]> {
    let words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word,
        // Of a scan, which begins here.
        Arg::Cursor | _ => b"0",
    });
    words.collect()
}

impl StepStore for RedisSteps {
    type Deed = RedisDeed;

    async fn step(&self, order: StepOrder, deed: Arc<RedisDeed>) -> Result<Answer, StoreError> {
        for _ in 0..STEP_CONFLICTS_MAX {
            let lent = self.lend().await?;
            let mut attempt = Attempt {
                mark: format!("unanimous:{{una}}:step:{}", order.branch),
                work: RedisWork { connection: lent.connection.clone(), commands: Vec::new() },
            };
            // Any other is closed, and what it watches with it.
            let came = attempt.make(&order, &*deed).await?;
            drop(attempt);
            lent.give_back();
            match came {
                Came::To(answer) => return Ok(answer),
                Came::Taken(why) => return Err(StoreError::Work(why.into())),
                Came::Changed => {}
            }
            tokio::time::sleep(Duration::from_millis(chance::jitter(2))).await;
        }
        let why = "others change all the time what the step reads";
        Err(unavailable(&why))
    }

    /// Redis forgets them by itself.
    async fn prune_steps(&self, _: Timestamp, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }
}

/// What an attempt came to. Nothing is watched behind it.
enum Came {
    To(Answer),
    /// Nothing was done, because this is wrong with the work; or a part of it, which is remembered.
    Taken(String),
    /// Something that was read has changed: nothing was done.
    Changed,
}

struct Attempt {
    mark: String,
    work: RedisWork,
}

impl Attempt {
    async fn make(&mut self, order: &StepOrder, deed: &RedisDeed) -> Result<Came, StoreError> {
        let mut read = redis::pipe();
        read.cmd("WATCH").arg(&self.mark).ignore().cmd("HGETALL").arg(&self.mark);
        let (fields,): (Vec<(String, String)>,) =
            read.query_async(&mut self.work.connection).await.map_err(|error| said(&error))?;
        if let Some((_, why)) = fields.iter().find(|(field, _)| field == BROKEN) {
            self.forget_watches().await?;
            return Ok(half_done(order.half, why));
        }
        let fields = fields.into_iter().map(|(field, value)| {
            let result = value.strip_prefix('=').map(str::to_owned);
            (field, result)
        });
        let rows = Rows::read(fields);
        if let Some(answer) = rows.answer(order.half) {
            self.forget_watches().await?;
            return Ok(Came::To(answer));
        }
        let result = match (order.half, rows.to_undo()) {
            (Half::Act, _) => Value::Null,
            (Half::Compensate, ToUndo::Unheard) if order.may_be_forgotten() => {
                self.forget_watches().await?;
                return Ok(Came::To(Answer::No(StepOrder::forgotten())));
            }
            (Half::Compensate, ToUndo::Unheard) => {
                let fields = [("act", NO_RESULT), ("compensate", NO_RESULT)];
                return self.commit(&fields, Answer::Done(Opaque::default())).await;
            }
            (Half::Compensate, ToUndo::Nothing) => {
                let fields = [("compensate", NO_RESULT)];
                return self.commit(&fields, Answer::Done(Opaque::default())).await;
            }
            (Half::Compensate, ToUndo::Acted(result)) => result,
        };
        let call = order.call(result);
        let done = order.came(deed(&mut self.work, &call).await);
        match (done.map_err(Undone::from), order.half) {
            (Ok(result), half) => self.finish(half, &result).await,
            (Err(Undone::Refused(reason)), Half::Act) => {
                self.work.commands.clear();
                let refusal = format!("={}", refusal(&reason));
                let fields = [("act", NO_RESULT), (REFUSE, &*refusal)];
                self.commit(&fields, Answer::No(reason)).await
            }
            // It may be asked for again when somebody has mended what it met.
            (Err(Undone::Refused(reason)), Half::Compensate) => {
                self.forget_watches().await?;
                Ok(Came::To(Answer::No(reason)))
            }
            (Err(Undone::Failed(error)), _) => {
                self.forget_watches().await?;
                Ok(Came::Taken(chain(&*error)))
            }
        }
    }

    async fn finish(&mut self, half: Half, result: &Value) -> Result<Came, StoreError> {
        let result = match (half, StepOrder::kept(result)) {
            (Half::Act, Ok(result)) => result,
            (Half::Compensate, Ok(_)) => Opaque::default(),
            (_, Err(error)) => {
                self.forget_watches().await?;
                return Ok(Came::Taken(error.to_string()));
            }
        };
        let kept = format!("={}", text(&result));
        self.commit(&[(half.word(), &*kept)], Answer::Done(result)).await
    }

    /// Carries the commands out and writes the mark, if nothing has changed that was read.
    async fn commit(
        &mut self,
        fields: &[(&str, &str)],
        answer: Answer,
    ) -> Result<Came, StoreError> {
        let commands = std::mem::take(&mut self.work.commands);
        let mut script = redis::cmd("EVAL");
        script.arg(COMMIT).arg(1).arg(&self.mark).arg(STEP_RETENTION_MS).arg(fields.len() * 2);
        script.arg(fields);
        if commands.len() > STEP_COMMANDS_MAX {
            self.forget_watches().await?;
            let count = commands.len();
            return Ok(Came::Taken(format!("{count} commands, at most {STEP_COMMANDS_MAX}")));
        }
        for command in &commands {
            let words = words(command);
            if words.is_empty() || words.len() > STEP_WORDS_MAX {
                self.forget_watches().await?;
                let count = words.len();
                return Ok(Came::Taken(format!(
                    "a command of {count} words, at most {STEP_WORDS_MAX}"
                )));
            }
            script.arg(words.len()).arg(words);
        }
        let mut transaction = redis::pipe();
        transaction.atomic().add_command(script);
        let done: Option<(String,)> = transaction
            .query_async(&mut self.work.connection)
            .await
            .map_err(|error| said(&error))?;
        Ok(match done {
            None => Came::Changed,
            Some((wrong,)) if wrong.is_empty() => Came::To(answer),
            Some((wrong,)) => Came::Taken(wrong),
        })
    }

    async fn forget_watches(&mut self) -> Result<(), StoreError> {
        let forgotten = redis::cmd("UNWATCH").exec_async(&mut self.work.connection).await;
        forgotten.map_err(|error| said(&error))
    }
}

/// The answer to whoever asks for a step of which a part was done.
fn half_done(half: Half, why: &str) -> Came {
    let detail = format!("only a part of the step was done, and somebody has to look: {why}");
    match half {
        // It has neither acted nor refused: the saga must not take it for either.
        Half::Act => Came::Taken(detail),
        Half::Compensate => Came::To(Answer::No(Reason::new("half_done", &detail))),
    }
}

fn said(error: &RedisError) -> StoreError {
    unavailable(error)
}

fn unavailable(why: &dyn Display) -> StoreError {
    StoreError::Unavailable(why.to_string().into())
}
