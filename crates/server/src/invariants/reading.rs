//! Reads the values of an invariant once, and finds out whether that was quiet.
//!
//! A transaction can make values of several databases differ only from its first commit to its last.
//! Its branches are in doubt from its decision on until each has been acknowledged, and each commit
//! is counted before it counts as acknowledged. So if no transaction that is decided is in doubt
//! before the values are read, and none after, and from before all of that until after it commits
//! were counted in one of the databases at most, no transaction was half done while they were read.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use unanimous_api::StatusWord;
use unanimous_journal::JournalError;

use super::Scope;
use super::config::InvariantConfig;
use super::decimal::Decimal;
use super::rule::{Motion, Reading};
use crate::driver::Coordinator;
use crate::limits::INVARIANT_PATIENCE;
use crate::resources::Resources;

/// The queries of each resource with their places among all.
type ByResource<'a> = BTreeMap<&'a str, Vec<(usize, &'a str)>>;

/// Reads the values.
///
/// # Errors
///
/// What was seen instead of a number.
pub(super) async fn read(scope: &dyn Scope, config: &InvariantConfig) -> Result<Reading, String> {
    let mut queries = ByResource::new();
    for (index, query) in config.queries.iter().enumerate() {
        queries.entry(&query.resource).or_default().push((index, &query.sql));
    }
    let resources: BTreeSet<&str> = queries.keys().copied().collect();
    let before = scope.stir(&resources).await?;
    let texts = texts(scope.resources(), &queries, config.queries.len()).await?;
    let after = scope.stir(&resources).await?;
    let moved = after.commits.1.iter().zip(&before.commits.0).filter(|(now, then)| now != then);
    let moved = moved.count();
    let motion = match before.half_done.or(after.half_done) {
        Some(txn) => Motion::HalfDone(txn),
        None if moved > 1 => Motion::Passing,
        None => Motion::Quiet,
    };
    let values = config.queries.iter().zip(&texts).map(|(query, text)| {
        Decimal::parse(text).map_err(|error| format!("{}: {error}", query.resource))
    });
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let off_by = config.relation.off_by(&values).map_err(|error| error.to_string())?;
    Ok(Reading { values: texts, off_by, motion })
}

/// Asks every resource at the same time; each answers all of its queries from one state.
async fn texts(
    resources: &Resources,
    queries: &ByResource<'_>,
    count: usize,
) -> Result<Vec<String>, String> {
    let asked = queries.iter().map(async |(name, queries)| {
        let Some((_, resource)) = resources.get(name) else {
            return Err(format!("{name}: it is not configured"));
        };
        let sqls = queries.iter().map(|(_, sql)| (*sql).to_owned()).collect();
        let values = resource.read(sqls, INVARIANT_PATIENCE).await;
        let values = values.map_err(|why| format!("{name}: {why}"))?;
        Ok(queries.iter().map(|(index, _)| *index).zip(values).collect::<Vec<_>>())
    });
    let mut texts = vec![String::new(); count];
    for answer in join_all(asked).await {
        for (index, value) in answer? {
            texts[index] = value.unwrap_or_else(|| "0".to_owned());
        }
    }
    Ok(texts)
}

/// What is known of commits on some resources.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Stir {
    /// How many each has answered, before it was asked what is half done and after.
    pub(crate) commits: (Vec<u64>, Vec<u64>),
    /// A transaction that is to commit in more than one of them, and has not in all.
    pub(crate) half_done: Option<String>,
}

/// What one coordinator knows.
pub(crate) async fn stir(
    coordinator: &Coordinator,
    resources: &BTreeSet<&str>,
) -> Result<Stir, JournalError> {
    let commits = || {
        let metrics = coordinator.metrics();
        resources.iter().map(|name| metrics.commits(name)).collect()
    };
    let before = commits();
    let half_done = half_done(coordinator, resources).await?;
    Ok(Stir { half_done, commits: (before, commits()) })
}

async fn half_done(
    coordinator: &Coordinator,
    resources: &BTreeSet<&str>,
) -> Result<Option<String>, JournalError> {
    if resources.len() < 2 {
        return Ok(None);
    }
    let mut seen = BTreeSet::new();
    for name in resources {
        for branch in coordinator.in_doubt(name).await? {
            if branch.status == StatusWord::Committing
                && seen.insert(branch.transaction.clone())
                && spans(coordinator, &branch.transaction, resources).await?
            {
                return Ok(Some(branch.transaction));
            }
        }
    }
    Ok(None)
}

async fn spans(
    coordinator: &Coordinator,
    transaction: &str,
    resources: &BTreeSet<&str>,
) -> Result<bool, JournalError> {
    let Ok(txn) = transaction.parse() else { return Ok(true) };
    let Some(view) = coordinator.show(txn, None).await? else { return Ok(true) };
    let names = view.participants.iter().map(|it| &*it.resource);
    let touched: BTreeSet<&str> = names.filter(|name| resources.contains(name)).collect();
    Ok(touched.len() > 1)
}
