//! A coordinator in this process.

use std::path::Path;
use std::sync::Arc;

use unanimous_core::id::ShardId;
use unanimous_journal::{FileJournal, Journal, JournalError, Listener, Options};
use unanimous_server::driver::{BranchOrder, Coordinator, CoordinatorOptions, Ears};
use unanimous_server::{Metrics, Resources};

/// Opens a journal in `data` and starts a coordinator on it, as the server does.
pub(super) fn start(
    data: &Path,
    resources: Resources,
) -> Result<(Coordinator, Arc<dyn Journal>), JournalError> {
    let open = |ears| -> Result<Arc<dyn Journal>, _> {
        Ok(Arc::new(FileJournal::open(data, Options::default(), ears)?))
    };
    start_on(open, ShardId::all().collect(), resources)
}

/// Starts a coordinator of some shards on a journal.
pub(super) fn start_on(
    open: impl FnOnce(Arc<dyn Listener>) -> Result<Arc<dyn Journal>, JournalError>,
    shards: Vec<ShardId>,
    resources: Resources,
) -> Result<(Coordinator, Arc<dyn Journal>), JournalError> {
    let ears = Ears::new();
    let journal = open(Arc::clone(&ears) as _)?;
    let options = CoordinatorOptions {
        shards,
        cluster: journal.instance().to_owned(),
        drivers: std::thread::available_parallelism().map_or(1, usize::from),
        call_timeout_ms: 5_000,
        branch_order: BranchOrder::default(),
        contention: Arc::default(),
        open_max: 1_000_000,
        queue_max: 1_000_000,
        metrics: Arc::new(Metrics::new()),
        events: unanimous_server::driver::events(),
    };
    let coordinator = Coordinator::start(options, Arc::clone(&journal), ears, resources)?;
    Ok((coordinator, journal))
}
