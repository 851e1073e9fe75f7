//! A coordinator among others: what it believes to own, and what it is waiting for.
//!
//! Everything that rests on an epoch is in one [`Held`]. Whoever loses the epoch drops that whole.

use std::collections::BTreeMap;
use std::rc::Rc;

use unanimous_core::commit::{CommitTxn, Record};
use unanimous_core::gate::Gate;
use unanimous_core::id::{BranchId, Epoch, Lsn, Timestamp};
use unanimous_core::recovery::Listing;
use unanimous_core::{Stage, Verb};

use super::event::{Event, Part, Reply};
use super::store::{Batch, Entry, Owner, Shard};
use crate::coordinator::Wait;
use crate::event::{BRANCHES, Slot};

/// One coordinator process.
pub(super) struct Node {
    pub(super) up: bool,
    pub(super) paused: bool,
    /// It never comes back.
    pub(super) gone: bool,
    /// It hands over what it owns, and stops.
    pub(super) leaving: bool,
    /// Grows with each start, so that nothing of a former life is taken for its own.
    pub(super) life: u32,
    pub(super) clock_ms: i64,
    /// What happened while it was paused.
    pub(super) backlog: Vec<Event>,
    /// When it last heard of each other node.
    pub(super) heard_at_ms: Vec<u64>,
    pub(super) shares: Vec<Share>,
    /// Questions to the store and to resources that are not answered yet.
    pub(super) asked: BTreeMap<u32, Asked>,
    /// The last two listings of each resource.
    pub(super) listings: Vec<Vec<Listing>>,
}

/// One part of the transactions, as a node sees it.
#[derive(Default)]
pub(super) struct Share {
    /// The newest owner it has heard of.
    pub(super) seen: Shard,
    pub(super) seen_at_ms: u64,
    /// How long it leaves the part to an owner of whom it hears nothing.
    pub(super) patience_ms: u64,
    pub(super) progress: Progress,
    pub(super) held: Option<Held>,
    /// What it held when it last lost the part, for an exhibit.
    pub(super) cache: Vec<(Slot, Vec<Record>)>,
}

/// How far a node is on its way to own a part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Progress {
    #[default]
    Idle,
    Claiming,
    /// This epoch is won; what is open is being read.
    Loading(Epoch),
}

/// Everything that an owner has under its epoch.
pub(super) struct Held {
    pub(super) epoch: Epoch,
    pub(super) live: BTreeMap<Slot, Live>,
    pub(super) gate: Gate<Out>,
    pub(super) waiters: Vec<Waiter>,
    /// Transactions by the orders whose keys they were begun under.
    pub(super) keys: Vec<(u8, Slot)>,
    /// What it has begun under names that several requests may bring.
    pub(super) named: Vec<Slot>,
    pub(super) writer: Writer,
    /// It is being handed over: nothing new is taken.
    pub(super) closing: bool,
}

/// A transaction that is being driven.
pub(super) struct Live {
    pub(super) machine: CommitTxn,
    /// Its records, durable or on their way.
    pub(super) records: Vec<Record>,
    /// The call of each branch that is waited for; zero if none is.
    pub(super) calls: [u32; BRANCHES],
    pub(super) wake: u32,
}

/// What is on its way to the store. One batch at a time, so that order is kept.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) queue: Vec<Entry>,
    /// Entries taken so far: the position of the last one.
    pub(super) appended: u64,
    pub(super) under_way: Option<(Rc<Batch>, Lsn)>,
    /// When the next batch is sent, and the number of the timer.
    pub(super) planned: Option<(u64, u32)>,
}

/// A client that waits for a transaction to come so far.
#[derive(Clone, Copy)]
pub(super) struct Waiter {
    pub(super) slot: Slot,
    pub(super) order: u8,
    pub(super) wait: Wait,
}

/// Whatever shows a transaction to somebody.
#[derive(Debug)]
pub(super) enum Out {
    Call(BranchId, Verb),
    Tell(Stage),
    Wake { in_ms: u64 },
    Reply(u8, Reply),
}

/// What an answer is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Append(Part, Epoch),
    /// Whether an append without an answer was taken.
    ReadBack(Part, Epoch),
    Claim(Part),
    Load(Part, Epoch),
    Release,
    Directory,
    Status {
        part: Part,
        epoch: Epoch,
        order: u8,
    },
    /// Whether what is to begin under a name is known already.
    Name {
        part: Part,
        epoch: Epoch,
        order: u8,
        named: Epoch,
    },
    Inquiry {
        part: Part,
        epoch: Epoch,
        branch: u8,
    },
    List {
        resource: u8,
        at: Timestamp,
    },
    Hunt {
        part: Part,
        epoch: Epoch,
        resource: u8,
    },
}

impl Node {
    pub(super) fn new(nodes: u8, parts: u8, resources: usize) -> Self {
        Self {
            up: false,
            paused: false,
            gone: false,
            leaving: false,
            life: 0,
            clock_ms: 0,
            backlog: Vec::new(),
            heard_at_ms: vec![0; usize::from(nodes)],
            shares: (0..parts).map(|_| Share::default()).collect(),
            asked: BTreeMap::new(),
            listings: vec![Vec::new(); resources],
        }
    }

    pub(super) fn share(&mut self, part: Part) -> &mut Share {
        &mut self.shares[usize::from(part)]
    }

    pub(super) fn held(&self, part: Part) -> Option<&Held> {
        self.shares[usize::from(part)].held.as_ref()
    }

    pub(super) fn held_mut(&mut self, part: Part) -> Option<&mut Held> {
        self.shares[usize::from(part)].held.as_mut()
    }

    /// What it holds of a part and may still work with.
    pub(super) fn open_share(&mut self, part: Part) -> Option<&mut Held> {
        self.held_mut(part).filter(|held| !held.closing)
    }

    /// Forgets all that a crash takes.
    pub(super) fn forget(&mut self) {
        self.leaving = false;
        self.asked.clear();
        self.backlog.clear();
        self.shares.iter_mut().for_each(|share| *share = Share::default());
        self.listings.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn as_owner(&self, node: u8) -> Owner {
        Owner { node, life: self.life }
    }
}

impl Held {
    pub(super) fn new(epoch: Epoch, keys: Vec<(u8, Slot)>) -> Self {
        Self {
            epoch,
            live: BTreeMap::new(),
            gate: Gate::default(),
            waiters: Vec::new(),
            keys,
            named: Vec::new(),
            writer: Writer::default(),
            closing: false,
        }
    }

    /// Whether the journal is not the whole truth about a transaction.
    pub(super) fn is_busy_with(&self, slot: Slot) -> bool {
        let under_way = self.writer.under_way.iter().flat_map(|(batch, _)| &batch.entries);
        self.live.contains_key(&slot)
            || self.writer.queue.iter().chain(under_way).any(|entry| entry.slot == slot)
    }

    /// The records of a transaction, with those that are on their way to the journal.
    pub(super) fn records(&self, slot: Slot, stored: &[Record]) -> Vec<Record> {
        let mut records = stored.to_vec();
        let under_way = self.writer.under_way.iter().flat_map(|(batch, _)| &batch.entries);
        let entries = under_way.chain(&self.writer.queue).filter(|entry| entry.slot == slot);
        for entry in entries {
            records.truncate(entry.expected);
            records.extend_from_slice(&entry.records);
        }
        records
    }
}

impl Live {
    pub(super) fn new(machine: CommitTxn, records: Vec<Record>) -> Self {
        Self { machine, records, calls: [0; BRANCHES], wake: 0 }
    }
}

impl Writer {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_none()
    }
}
