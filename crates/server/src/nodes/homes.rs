//! Sees to it that each partition is in the journal that the configuration says, and in no other.
//!
//! A partition of a domain that has a journal of its own is given to that by the main one, once nothing
//! in it is open, and for good. A node that is configured otherwise could take what it does not find
//! for what never was, and tell a branch that it is aborted which is committed in the other journal.

use std::sync::Arc;

use unanimous_core::id::ShardId;
use unanimous_journal::{Directory, GiveError, JournalError};

use super::partition::Partition;
use crate::config::Config;
use crate::driver::Ears;
use crate::journal::JournalConfig;
use crate::serve::StartError;

/// What a journal is called.
fn instance(config: &Config, journal: &JournalConfig) -> Result<String, JournalError> {
    let journal = journal.open(config.retention_ms(), config.node.name.as_deref(), Ears::new())?;
    let instance = journal.instance().to_owned();
    journal.close().map(|()| instance)
}

/// What the main journal is called, if there are others. The cluster is called after it in all of them,
/// so that branches in doubt are known in whichever journal their transaction is.
///
/// # Errors
///
/// [`StartError::Journal`] if it cannot be opened.
pub(super) fn main_journal(config: &Config) -> Result<Option<String>, StartError> {
    if config.domains.apart().next().is_none() {
        return Ok(None);
    }
    let failed = |error| StartError::Journal { place: config.journal.to_string(), error };
    instance(config, &config.journal).map(Some).map_err(failed)
}

/// Gives each domain's partitions to its journal, and finds those that were given away before. `main` is
/// what [`main_journal`] said.
///
/// # Errors
///
/// [`StartError`] with one line that names what to change.
pub(super) fn settle(
    config: &Config,
    main: Option<&str>,
    directory: &Arc<dyn Directory>,
) -> Result<(), StartError> {
    for (name, partitions, journal) in config.domains.apart() {
        let key = format!("domains.{name}.journal");
        let failed = |error| StartError::Journal { place: key.clone(), error };
        let theirs = instance(config, journal).map_err(failed)?;
        if main == Some(&*theirs) {
            return Err(StartError::Domains(format!("{key} is the main journal: leave it out")));
        }
        let shards: Vec<ShardId> = partitions.iter().flat_map(|it| it.shards()).collect();
        directory.give(&shards, &theirs).map_err(|refused| match refused {
            GiveError::Open(open) => StartError::Domains(format!(
                "{key}: its partitions have transactions in the main journal that have not ended \
                 ({open}): start without it until they have"
            )),
            GiveError::Elsewhere(other) => StartError::Domains(format!(
                "{key}: its partitions are in journal {other}, and this one is {theirs}: name the \
                 one that has them"
            )),
            GiveError::Journal(error) => failed(error),
        })?;
    }
    let failed = |error| StartError::Journal { place: config.journal.to_string(), error };
    let moved = directory.read().map_err(failed)?.moved;
    let stray = moved.into_iter().map(|(shard, journal)| (Partition::of(shard), journal));
    match stray.into_iter().find(|(it, _)| config.domains.journal_of(*it).is_none()) {
        None => Ok(()),
        Some((partition, journal)) => Err(StartError::Domains(format!(
            "partition {partition} is in journal {journal}, which it was given for a domain: name \
             partition and journal in [domains] again"
        ))),
    }
}
