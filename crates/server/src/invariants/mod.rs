//! Invariants across databases: queries whose values belong together, whatever is committed.
//!
//! Each invariant is checked on its schedule and on demand, one check at a time. A check reads the
//! values outside of any transaction, over connections that nothing else waits for, and never holds
//! up what is being committed; so it may have to say that it cannot tell. What the values say is
//! decided in `rule`.
//!
//! A violation is told once: one warning when it is found, and one line when it is gone.

pub(crate) mod config;
mod decimal;
mod reading;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use unanimous_api::{InvariantQuery, InvariantResult, InvariantView, InvariantsView};
use unanimous_core::id::Timestamp;

pub use config::{InvariantConfig, QueryConfig};
pub(crate) use reading::{Stir, stir};
pub use rule::Relation;

use self::rule::{Motion, Reading, Verdict};
use crate::Metrics;
use crate::config::Config;
use crate::driver::Coordinator;
use crate::limits::CHECK_PAUSE;
use crate::resources::Resources;

/// The configured invariants. Cheap to clone.
#[derive(Clone)]
pub struct Invariants {
    by_name: Arc<BTreeMap<String, Invariant>>,
    scope: Arc<dyn Scope>,
}

/// Where the values are, and who knows of the transactions that change them.
pub(crate) trait Scope: Send + Sync + 'static {
    fn resources(&self) -> &Resources;

    fn metrics(&self) -> &Metrics;

    fn now(&self) -> Timestamp;

    /// What is known of commits on these resources, whoever drives them; the error is for people.
    fn stir<'a>(
        &'a self,
        resources: &'a BTreeSet<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<Stir, String>> + Send + 'a>>;
}

/// For a coordinator that drives every transaction.
impl Scope for Coordinator {
    fn resources(&self) -> &Resources {
        self.resources()
    }

    fn metrics(&self) -> &Metrics {
        self.metrics()
    }

    fn now(&self) -> Timestamp {
        self.clock().now()
    }

    fn stir<'a>(
        &'a self,
        resources: &'a BTreeSet<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<Stir, String>> + Send + 'a>> {
        Box::pin(async { reading::stir(self, resources).await.map_err(|error| error.to_string()) })
    }
}

/// One invariant, and what was last found of it.
struct Invariant {
    config: InvariantConfig,
    /// Held during a check.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Checked>,
    /// What was told of it last.
    told: Told,
}

/// What came of a check.
#[derive(Clone)]
struct Checked {
    begun: Instant,
    at: Timestamp,
    found: Found,
}

#[derive(Clone)]
enum Found {
    Read {
        verdict: Verdict,
        /// The reading that the verdict stands on.
        reading: Reading,
        readings: usize,
    },
    /// A query did not answer with a number.
    Failed(String),
}

/// What the log has last been told of an invariant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Told {
    violated: bool,
    failing: bool,
}

/// What is worth a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum News {
    Violated,
    HoldsAgain,
    Failing,
}

impl Told {
    /// What is new, and what has been told then. What cannot be said changes nothing.
    fn hear(self, result: InvariantResult) -> (Self, Option<News>) {
        let well = Self { failing: false, ..self };
        match result {
            InvariantResult::Holds if self.violated => (Self::default(), Some(News::HoldsAgain)),
            InvariantResult::Violated if !self.violated => {
                (Self { violated: true, failing: false }, Some(News::Violated))
            }
            InvariantResult::Unknown if !self.failing => {
                (Self { failing: true, ..self }, Some(News::Failing))
            }
            InvariantResult::Unknown => (self, None),
            InvariantResult::Holds
            | InvariantResult::Violated
            | InvariantResult::Busy
            | InvariantResult::Unchecked => (well, None),
        }
    }
}

impl Invariants {
    /// Those of the configuration, on the resources of a coordinator that drives every transaction.
    pub fn new(coordinator: &Coordinator, config: &Config) -> Self {
        Self::within(Arc::new(coordinator.clone()), config)
    }

    pub(crate) fn within(scope: Arc<dyn Scope>, config: &Config) -> Self {
        let invariant = |config: &InvariantConfig| Invariant {
            config: config.clone(),
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
        };
        let by_name: BTreeMap<_, _> =
            config.invariants.iter().map(|(name, it)| (name.clone(), invariant(it))).collect();
        by_name.keys().for_each(|name| scope.metrics().invariant_is_watched(name));
        Self { by_name: Arc::new(by_name), scope }
    }

    /// Checks each on its schedule, until the set is dropped. One that waits delays no other.
    pub(crate) fn start(&self) -> JoinSet<()> {
        let mut checking = JoinSet::new();
        for (name, invariant) in self.by_name.iter() {
            let pause = Duration::from_millis(invariant.config.every_ms);
            if pause.is_zero() {
                continue;
            }
            let (all, name) = (self.clone(), name.clone());
            checking.spawn(async move {
                loop {
                    all.check(&name).await;
                    tokio::time::sleep(pause).await;
                }
            });
        }
        checking
    }

    /// Every invariant with what was last found of it, in the order of their names.
    pub(crate) fn view(&self) -> InvariantsView {
        let views = self.by_name.iter().map(|(name, it)| it.view(name));
        InvariantsView { invariants: views.collect() }
    }

    /// Checks one now; `None` if there is none of that name. Whoever asks while a check is under way
    /// waits for the next one, and shares it with everybody else who does.
    pub(crate) async fn check(&self, name: &str) -> Option<InvariantView> {
        let invariant = self.by_name.get(name)?;
        let asked = Instant::now();
        let _turn = invariant.turn.lock().await;
        let checked_since =
            invariant.state().last.as_ref().is_some_and(|checked| checked.begun >= asked);
        if !checked_since {
            let begun = Instant::now();
            let found = self.find(&invariant.config).await;
            let at = self.scope.now();
            self.tell(name, invariant, Checked { begun, at, found });
        }
        Some(invariant.view(name))
    }

    async fn find(&self, config: &InvariantConfig) -> Found {
        let mut readings: Vec<Reading> = Vec::new();
        loop {
            match reading::read(&*self.scope, config).await {
                Ok(reading) => readings.push(reading),
                Err(why) => return Found::Failed(why),
            }
            if let Some((verdict, at)) = rule::conclude(&readings) {
                let count = readings.len();
                return Found::Read { verdict, reading: readings.swap_remove(at), readings: count };
            }
            tokio::time::sleep(CHECK_PAUSE).await;
        }
    }

    /// Keeps what was found, counts it, and logs it if it is new.
    fn tell(&self, name: &str, invariant: &Invariant, checked: Checked) {
        let result = checked.found.result();
        self.scope.metrics().invariant_checked(name, result);
        let mut state = invariant.state();
        let (told, news) = state.told.hear(result);
        *state = State { last: Some(checked), told };
        drop(state);
        let Some(news) = news else { return };
        let view = invariant.view(name);
        let difference = view.difference.as_deref().unwrap_or_default();
        let detail = view.detail.as_deref().unwrap_or_default();
        let values = values(&view.queries);
        match news {
            News::Violated => tracing::warn!(
                invariant = name,
                relation = view.relation,
                values,
                difference,
                "an invariant is violated: compare the databases"
            ),
            News::HoldsAgain => {
                tracing::info!(invariant = name, values, "an invariant holds again");
            }
            News::Failing => {
                tracing::warn!(invariant = name, error = detail, "an invariant cannot be checked");
            }
        }
    }
}

/// The values of queries on one line.
fn values(queries: &[InvariantQuery]) -> String {
    let value = |it: &InvariantQuery| {
        format!("{}={}", it.resource, it.value.as_deref().unwrap_or_default())
    };
    queries.iter().map(value).collect::<Vec<_>>().join(" ")
}

impl Found {
    fn result(&self) -> InvariantResult {
        match self {
            Self::Read { verdict: Verdict::Holds, .. } => InvariantResult::Holds,
            Self::Read { verdict: Verdict::Violated, .. } => InvariantResult::Violated,
            Self::Read { verdict: Verdict::Busy, .. } => InvariantResult::Busy,
            Self::Failed(_) => InvariantResult::Unknown,
        }
    }

    /// Why nothing can be said.
    fn detail(&self) -> Option<String> {
        match self {
            Self::Read { verdict: Verdict::Holds | Verdict::Violated, .. } => None,
            Self::Read { verdict: Verdict::Busy, reading, readings } => {
                let going_on = match &reading.motion {
                    Motion::Quiet => "values changed without a transaction of this coordinator",
                    Motion::Passing => "transactions were committed meanwhile",
                    Motion::HalfDone(txn) => {
                        return Some(format!(
                            "read {readings} times; transaction {txn} was being committed"
                        ));
                    }
                };
                Some(format!("read {readings} times; {going_on}"))
            }
            Self::Failed(why) => Some(why.clone()),
        }
    }
}

impl Invariant {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, name: &str) -> InvariantView {
        let state = self.state();
        let last = state.last.as_ref();
        let reading = last.and_then(|checked| match &checked.found {
            Found::Read { reading, readings, .. } => Some((reading, *readings)),
            Found::Failed(_) => None,
        });
        let queries = self.config.queries.iter().enumerate();
        let queries = queries.map(|(index, query)| InvariantQuery {
            resource: query.resource.clone(),
            sql: query.sql.clone(),
            value: reading.map(|(reading, _)| reading.values[index].clone()),
        });
        InvariantView {
            name: name.to_owned(),
            relation: self.config.relation.as_str().to_owned(),
            every_ms: self.config.every_ms,
            result: last.map_or(InvariantResult::Unchecked, |checked| checked.found.result()),
            queries: queries.collect(),
            difference: reading.map(|(reading, _)| reading.difference().to_string()),
            quiet: reading.map(|(reading, _)| reading.is_quiet()),
            readings: reading.map(|(_, readings)| readings as u64),
            detail: last.and_then(|checked| checked.found.detail()),
            checked_at_ms: last.map(|checked| checked.at.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        use InvariantResult::{Busy, Holds, Unknown, Violated};
        let mut told = Told::default();
        for (result, expected) in [
            (Holds, None),
            (Busy, None),
            (Violated, Some(News::Violated)),
            (Violated, None),
            (Busy, None),
            (Unknown, Some(News::Failing)),
            (Unknown, None),
            (Violated, None),
            (Unknown, Some(News::Failing)),
            (Holds, Some(News::HoldsAgain)),
            (Holds, None),
            (Unknown, Some(News::Failing)),
            (Holds, None),
            (Violated, Some(News::Violated)),
        ] {
            let (next, news) = told.hear(result);
            assert_eq!(news, expected, "{result:?} after {told:?}");
            told = next;
        }
    }
}
