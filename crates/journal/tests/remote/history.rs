//! Transactions for tests, and who appends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use unanimous_core::commit::{self, Begun, Branch, Ending, Key, Mode, Phases, Shape};
use unanimous_core::id::{BranchId, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::saga::{self, Action, Plan, Retry, Role, Work};
use unanimous_core::txn::Record;
use unanimous_core::{Decision, Opaque, Reason, Vote};
use unanimous_journal::{End, Entry, Journal, JournalError};

pub(crate) fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("past 1970");
    Timestamp(elapsed.as_millis() as u64)
}

pub(crate) fn shard() -> ShardId {
    ShardId::of(3)
}

pub(crate) fn mint() -> TxnId {
    mint_in(shard())
}

pub(crate) fn mint_in(shard: ShardId) -> TxnId {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    let serial = MINTED.fetch_add(1, Ordering::Relaxed);
    TxnId::mint(now().0, shard, u128::from(serial.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// One that began with two participants.
pub(crate) fn begun(key: Option<&str>) -> Record {
    begun_with(key, Opaque::default(), now().after_ms(30_000))
}

/// The same with so many bytes more.
pub(crate) fn begun_of(bytes: usize) -> Record {
    begun_with(None, Opaque::new(&vec![b'x'; bytes]), Timestamp(1))
}

fn begun_with(key: Option<&str>, memo: Opaque, deadline: Timestamp) -> Record {
    let branch = |name: &str| Branch {
        name: name.into(),
        resource: name.into(),
        phases: Phases::Two,
        work: Opaque::default(),
    };
    Record::Commit(commit::Record::Begun(Arc::new(Begun {
        shape: Shape::Atomic,
        mode: Mode::Run,
        timeout_ms: 30_000,
        deadline,
        branches: vec![branch("wallet"), branch("ledger")],
        key: key.map(|key| Key { text: Arc::from(key), fingerprint: [7; 16] }),
        memo,
    })))
}

/// A saga of two steps, of which other resources undo the first.
pub(crate) fn saga_begun(key: Option<&str>) -> Record {
    let work = |resource: &str| Work {
        resource: resource.into(),
        work: Opaque::default(),
        retry: Retry { attempts_max: None, backoff_ms: 100, backoff_max_ms: 1_000 },
        timeout_ms: None,
    };
    let step = |name: &str, after: Vec<BranchId>, compensation: Option<Work>| Plan {
        name: name.into(),
        after,
        action: Action::Call(work("wallet")),
        compensation,
        role: Role::Compensable,
        state: None,
    };
    Record::Saga(saga::Record::Begun(Arc::new(saga::Begun {
        start_at: None,
        timeout_ms: None,
        deadline: None,
        steps: vec![
            step("reserve", Vec::new(), Some(work("seats"))),
            step("charge", vec![BranchId(0)], None),
        ],
        input: Opaque::new(b"{}"),
        key: key.map(|key| Key { text: Arc::from(key), fingerprint: [8; 16] }),
        memo: Opaque::default(),
    })))
}

pub(crate) fn decided(decision: Decision) -> Record {
    let reason = match decision {
        Decision::Commit => None,
        Decision::Abort => Some((None, Reason::new("client", "changed\0its mind"))),
    };
    let votes = vec![Some(Vote::Yes); 2];
    Record::Commit(commit::Record::Decided { decision, votes, reason, results: Vec::new() })
}

pub(crate) fn finished() -> [Record; 2] {
    [0, 1].map(|it| Record::Commit(commit::Record::Finished(BranchId(it), Ending::Done)))
}

/// Appends under one epoch.
pub(crate) struct Client<'a> {
    pub(crate) journal: &'a dyn Journal,
    pub(crate) epoch: Epoch,
}

impl<'a> Client<'a> {
    /// Claims the shard.
    pub(crate) fn of(journal: &'a dyn Journal) -> Self {
        Self::in_shard(journal, shard())
    }

    /// Claims another one.
    pub(crate) fn in_shard(journal: &'a dyn Journal, shard: ShardId) -> Self {
        Self { journal, epoch: journal.claim(shard).expect("claimable") }
    }

    pub(crate) fn append(
        &self,
        txn: TxnId,
        expected: u32,
        records: &[Record],
        end: End,
    ) -> Result<Lsn, JournalError> {
        let entry = Entry { txn, epoch: self.epoch, expected, at: now(), records, end };
        self.journal.append(entry)
    }

    /// Begins one and commits it.
    pub(crate) fn decide(&self, txn: TxnId) -> Result<Lsn, JournalError> {
        self.append(txn, 0, &[begun(None)], End::Open)?;
        self.append(txn, 1, &[decided(Decision::Commit)], End::Open)
    }

    /// The same to its end.
    pub(crate) fn whole(&self, txn: TxnId) -> Result<Lsn, JournalError> {
        self.decide(txn)?;
        self.append(txn, 2, &finished(), End::Ended)
    }
}
