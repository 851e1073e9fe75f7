//! A worker: steps of sagas and participants, served by this process itself.
//!
//! What comes over the network is bounded in number, size and patience. A worker that is told to stop
//! takes no more calls, and lets those that are under way come to their end. One that dies in the
//! middle loses nothing: whatever was not answered is asked again, and answered from the store if it
//! was done.

mod listen;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{StatusCode, Uri};
use tokio::net::{TcpListener, ToSocketAddrs};

use self::listen::Bounds;
use crate::limits::{
    WORKER_BODY_WAIT_MS, WORKER_CONNECTIONS_MAX, WORKER_GRACE_MS, WORKER_HEADER_WAIT_MS,
};
use crate::participant::{Service, StepStore, Steps, Store, refusal, with};

/// Where it is asked whether a worker is well: 200, or 503 if a store has stopped and the process has
/// to be restarted.
pub const HEALTH_PATH: &str = "/healthz";

/// Steps and participants, to be served at an address.
///
/// ```
/// use rusqlite::params;
/// use serde_json::json;
/// use unanimous_client::Worker;
/// use unanimous_client::participant::{No, SqliteStore, Steps};
///
/// #[derive(serde::Deserialize)]
/// struct Charge {
///     user: String,
///     amount: i64,
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("payment.db");
/// let store = SqliteStore::of_steps(file, |db| {
///     db.execute_batch("CREATE TABLE IF NOT EXISTS charge (id TEXT PRIMARY KEY, amount INT)")
/// })?;
/// let steps = Steps::new(store)
///     .act("/charge", |db, call| {
///         let Charge { user, amount } = call.json()?;
///         if amount > 1_000 {
///             return Err(No::refused("no_funds", format!("{user} has less than {amount}")));
///         }
///         let id = call.branch().to_string();
///         db.execute("INSERT INTO charge VALUES (?1, ?2)", params![id, amount])?;
///         Ok(json!({"id": id}))
///     })
///     .compensate("/refund", |db, call| {
///         db.execute("DELETE FROM charge WHERE id = ?1", [call.branch().to_string()])?;
///         Ok(())
///     });
/// let worker = Worker::new().steps(steps).bind("127.0.0.1:0").await?;
/// println!("steps are served at http://{}", worker.address());
/// # let ctrl_c = async {};
/// # let _ =
/// worker.run_until(ctrl_c).await;
/// # Ok(())
/// # }
/// ```
#[must_use = "it does nothing until it is bound and run"]
pub struct Worker {
    parts: Vec<Part>,
    stores: Vec<Stopped>,
    bounds: Bounds,
}

/// Puts what it serves beside what is there.
type Part = Box<dyn FnOnce(Router) -> Router + Send>;

/// Whether a store has stopped.
type Stopped = Box<dyn Fn() -> bool + Send + Sync>;

/// A worker that has its address. Calls wait until it runs.
#[must_use = "nobody is answered until it runs"]
pub struct BoundWorker {
    listener: TcpListener,
    address: SocketAddr,
    app: Router,
    bounds: Bounds,
}

/// How a worker has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Every call that was under way has been answered.
    Finished,
    /// So many were not, within the time that is given to them. Their callers ask again.
    CutOff(usize),
}

/// Why a worker has no address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there: stop that, or take another port.
    #[error("{0} is taken: stop who listens there, or take another port")]
    Taken(String),
    /// It is no address of this machine, or one that this process may not have.
    #[error("cannot listen at {address}: {cause}")]
    Unusable {
        /// The address.
        address: String,
        /// What the system says.
        cause: io::Error,
    },
}

impl Worker {
    /// A worker without anything to do.
    pub fn new() -> Self {
        let bounds = Bounds {
            connections_max: WORKER_CONNECTIONS_MAX,
            header_wait: Duration::from_millis(WORKER_HEADER_WAIT_MS),
            body_wait: Duration::from_millis(WORKER_BODY_WAIT_MS),
            grace: Duration::from_millis(WORKER_GRACE_MS),
        };
        Self { parts: Vec::new(), stores: Vec::new(), bounds }
    }

    /// With these steps, at their paths.
    pub fn steps<S: StepStore>(mut self, steps: Steps<S>) -> Self {
        let store = steps.store().clone();
        self.stores.push(Box::new(move || store.is_stopped()));
        self.parts.push(Box::new(|router| router.merge(steps.router())));
        self
    }

    /// With a participant below `path`, such as `/wallet`: the url of its resource ends with that. `/`
    /// is for one that has the worker to itself.
    pub fn participant<S: Store>(mut self, path: &str, service: Service<S>) -> Self {
        let store = service.store();
        self.stores.push(Box::new(move || store.is_stopped()));
        let path = path.trim_end_matches('/').to_owned();
        self.parts.push(Box::new(move |router| match path.is_empty() {
            true => router.merge(service.router()),
            false => router.nest(&path, service.router()),
        }));
        self
    }

    /// Connections at the same time; [`WORKER_CONNECTIONS_MAX`] by default. A coordinator opens as many
    /// as its `calls_max` for the resource; more than there are places for wait.
    pub fn connections_max(mut self, connections_max: usize) -> Self {
        self.bounds.connections_max = connections_max;
        self
    }

    /// Milliseconds that calls which are under way are given when it stops; [`WORKER_GRACE_MS`] by
    /// default.
    pub fn grace_ms(mut self, grace_ms: u64) -> Self {
        self.bounds.grace = Duration::from_millis(grace_ms);
        self
    }

    /// Takes an address, such as `127.0.0.1:9000`. Port 0 is any that is free:
    /// [`BoundWorker::address`] has which.
    ///
    /// Whoever can call steps can act and undo, and whoever can call participants can end branches:
    /// bind where only the coordinator can.
    ///
    /// # Errors
    ///
    /// [`BindError`]. Nothing was started.
    ///
    /// # Panics
    ///
    /// If two of what it serves have the same path, or one does not begin with `/`.
    pub async fn bind(
        self,
        address: impl ToSocketAddrs + fmt::Display,
    ) -> Result<BoundWorker, BindError> {
        let unusable = |cause: io::Error| match cause.kind() == io::ErrorKind::AddrInUse {
            true => BindError::Taken(address.to_string()),
            false => BindError::Unusable { address: address.to_string(), cause },
        };
        let listener = TcpListener::bind(&address).await.map_err(unusable)?;
        let local = listener.local_addr().map_err(unusable)?;
        let bounds = self.bounds;
        Ok(BoundWorker { listener, address: local, app: self.app(), bounds })
    }

    fn app(self) -> Router {
        let served = self.parts.into_iter().fold(Router::new(), |router, part| part(router));
        let served = self.bounds.bodies_in_time(served);
        let stores = Arc::new(self.stores);
        let health = get(async move || match stores.iter().any(|is_stopped| is_stopped()) {
            false => (StatusCode::OK, "ok"),
            true => (StatusCode::SERVICE_UNAVAILABLE, "a store has stopped: restart the process"),
        });
        served.route(HEALTH_PATH, health).fallback(async |uri: Uri| {
            let detail = format!("nothing is served at {}", uri.path());
            with(StatusCode::NOT_FOUND, &refusal("no_such_path", &detail))
        })
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self::new()
    }
}

impl BoundWorker {
    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, such as `tokio::signal::ctrl_c()`; then frees the address, lets
    /// the calls that are under way come to their end, and says whether all of them did.
    pub async fn run_until<T>(self, stop: impl Future<Output = T>) -> Ending {
        listen::serve(self.listener, self.app, self.bounds, stop).await
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl fmt::Debug for BoundWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundWorker").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use axum::body::Body;
    use http::Request;
    use rusqlite::Connection;
    use tower::ServiceExt;

    use super::*;
    use crate::participant::{BoxError, No, SqliteParticipant, SqliteStore, Vote, Work};

    struct Idle;

    impl SqliteParticipant for Idle {
        fn prepare(&self, _: &Connection, _: &Work) -> Result<Vote, No> {
            Ok(Vote::yes())
        }

        fn commit(&self, _: &Connection, _: &Work) -> Result<(), BoxError> {
            Ok(())
        }

        fn rollback(&self, _: &Connection, _: &Work) -> Result<(), BoxError> {
            Ok(())
        }
    }

    async fn health(app: &Router) -> StatusCode {
        let request = Request::get(HEALTH_PATH).body(Body::empty()).expect("a request");
        app.clone().oneshot(request).await.expect("a router always answers").status()
    }

    #[tokio::test]
    async fn a_worker_whose_store_has_stopped_says_so_when_it_is_asked_for_its_health() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("idle.db");
        let dies_when_called = Box::new(|_| true);
        let store = SqliteStore::open_to_crash(&path, Box::new(Idle), dies_when_called);
        let store = store.expect("opens");
        let app = Worker::new().steps(Steps::new(store.clone())).app();
        assert_eq!(health(&app).await, StatusCode::OK);
        store.local(|_| Ok(())).await.expect_err("it stops");
        // Whoever was answered may have heard of it before it had stopped altogether.
        let stopped = async {
            while health(&app).await == StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("it is told");
        assert_eq!(health(&app).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
