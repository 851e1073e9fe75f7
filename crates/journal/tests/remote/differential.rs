//! The same random histories in a folder, in PostgreSQL and in etcd: whoever reads them sees no
//! difference.

use std::collections::HashMap;
use std::sync::Arc;

use unanimous_core::id::{BranchId, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::{Kind, Record};
use unanimous_core::{Decision, Opaque, Reason, saga};
use unanimous_journal::{End, Entry, FileJournal, Filter, Journal, JournalError, Options, Status};

use crate::etcd::private::Cluster;
use crate::history::{begun, decided, finished, now, saga_begun};
use crate::listener::Heard;
use crate::postgres::private::Private;
use crate::{etcd, postgres};

/// Transactions in all, unless `UNANIMOUS_HISTORIES` says more.
const TXNS: u64 = 2_000;
/// Transactions that are open at a time.
const OPEN: usize = 40;
const SHARDS: u64 = 5;

/// Numbers by chance (SplitMix64; Steele, Lea and Flood, 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % bound
    }

    fn any<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// The same journal in three places.
struct Three {
    places: [Place; 3],
}

/// One place, and what is open there.
struct Place {
    name: &'static str,
    open: Box<dyn Fn(Arc<Heard>) -> Box<dyn Journal>>,
    journal: Option<Box<dyn Journal>>,
    heard: Arc<Heard>,
    epochs: Vec<Epoch>,
    last: Lsn,
}

impl Place {
    fn new(name: &'static str, open: impl Fn(Arc<Heard>) -> Box<dyn Journal> + 'static) -> Self {
        let (heard, epochs) = (Arc::default(), Vec::new());
        let open = Box::new(open);
        let mut place = Self { name, open, journal: None, heard, epochs, last: Lsn(0) };
        place.reopen();
        place
    }

    /// Closes it, and opens it again as another life would.
    fn reopen(&mut self) {
        if let Some(journal) = self.journal.take() {
            journal.close().expect("a sound place");
        }
        self.heard = Arc::default();
        let journal = (self.open)(Arc::clone(&self.heard));
        let shards: Vec<_> = (0..SHARDS).map(ShardId::of).collect();
        self.epochs = journal.claim_all(&shards).expect("claimable");
        self.journal = Some(journal);
    }

    fn journal(&self) -> &dyn Journal {
        self.journal.as_deref().expect("it is open")
    }

    /// Appends, and returns whether that was taken.
    fn append(
        &mut self,
        txn: TxnId,
        expected: u32,
        at: Timestamp,
        step: &(Vec<Record>, End),
    ) -> bool {
        let epoch = self.epochs[txn.shard().index()];
        let entry = Entry { txn, epoch, expected, at, records: &step.0, end: step.1 };
        match self.journal().append(entry) {
            Ok(lsn) => {
                self.last = lsn;
                true
            }
            Err(JournalError::Conflict { .. }) => false,
            Err(error) => panic!("{}: {error:?}", self.name),
        }
    }
}

impl Three {
    fn open(postgres: Arc<Private>, etcd: Arc<Cluster>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let places = [
            Place::new("the folder", move |heard| {
                let options = Options { segment_bytes: 64 << 10, ..Options::default() };
                Box::new(FileJournal::open(folder.path(), options, heard).expect("it opens"))
            }),
            Place::new("PostgreSQL", move |heard| {
                Box::new(postgres::private::open(&postgres.url(), heard))
            }),
            Place::new("etcd", move |heard| Box::new(etcd::private::open(&etcd.url(), heard))),
        ];
        Self { places }
    }

    fn reopen(&mut self) {
        self.places.iter_mut().for_each(Place::reopen);
    }

    /// Appends everywhere, and returns whether that was taken.
    fn append(
        &mut self,
        txn: TxnId,
        expected: u32,
        at: Timestamp,
        step: &(Vec<Record>, End),
    ) -> bool {
        let taken = self.places.each_mut().map(|place| place.append(txn, expected, at, step));
        assert!(taken.iter().all(|it| *it == taken[0]), "{taken:?}");
        taken[0]
    }

    fn settle(&self) {
        for place in &self.places {
            place.heard.wait(place.last).expect("a sound place");
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        of: impl Fn(&dyn Journal) -> T,
    ) -> T {
        let [first, others @ ..] = &self.places;
        let expected = of(first.journal());
        for place in others {
            assert_eq!(of(place.journal()), expected, "{what}: {}, then the folder", place.name);
        }
        expected
    }

    fn same_records(&self, txn: TxnId) {
        self.same("records", |journal| {
            let stored = journal.read(txn).expect("readable");
            stored.into_iter().map(|it| (it.at, it.record)).collect::<Vec<_>>()
        });
    }

    fn same_open(&self) {
        self.same("open transactions", |journal| {
            let open = journal.load().expect("readable").into_iter();
            let records = |it: unanimous_journal::OpenTxn| it.records.expect("readable");
            open.map(|it| (it.txn, records(it).len())).collect::<Vec<_>>()
        });
    }
}

/// What a transaction still has to append.
struct Live {
    txn: TxnId,
    count: u32,
    steps: Vec<(Vec<Record>, End)>,
}

fn steps(chance: &mut Chance, number: u64) -> Vec<(Vec<Record>, End)> {
    let key = format!("order-{number}");
    let begun = begun((chance.below(3) > 0).then_some(&*key));
    let decision = *chance.any(&[Decision::Commit, Decision::Abort]);
    let [one, two] = finished();
    let mut steps = match chance.below(3) {
        0 => vec![(vec![begun, decided(decision)], End::Open)],
        _ => vec![(vec![begun], End::Open), (vec![decided(decision)], End::Open)],
    };
    match chance.below(3) {
        0 => steps.push((vec![one, two], End::Ended)),
        1 => steps.extend([(vec![one], End::Open), (vec![two], End::Ended)]),
        _ => {}
    }
    steps
}

fn saga_steps(chance: &mut Chance, number: u64) -> Vec<(Vec<Record>, End)> {
    let key = format!("order-{number}");
    let record = |record| vec![Record::Saga(record)];
    let (one, two) = (BranchId(0), BranchId(1));
    let mut steps = vec![
        (vec![saga_begun((chance.below(3) > 0).then_some(&*key))], End::Open),
        (record(saga::Record::Acted(one, Opaque::new(br#"{"id":1}"#))), End::Open),
    ];
    let reason = || Reason::new("refused", "sold out");
    match chance.below(3) {
        0 => steps.push((record(saga::Record::Acted(two, Opaque::default())), End::Ended)),
        1 => steps.extend([
            (record(saga::Record::Refused(two, reason())), End::Open),
            (record(saga::Record::Unwinding { step: Some(two), reason: reason() }), End::Open),
            (record(saga::Record::Undone(one)), End::Ended),
        ]),
        _ => {}
    }
    steps
}

fn filter(chance: &mut Chance, known: &[TxnId], start: Timestamp) -> Filter {
    let statuses = [
        None,
        None,
        None,
        Some(Status::Initiated),
        Some(Status::Preparing),
        Some(Status::Committing),
        Some(Status::Committed),
        Some(Status::Aborting),
        Some(Status::Aborted),
        Some(Status::Running),
        Some(Status::Compensating),
        Some(Status::NeedsAttention),
        Some(Status::Completed),
        Some(Status::Compensated),
    ];
    let resources = [None, None, Some("wallet"), Some("seats"), Some("nobody")];
    Filter {
        status: *chance.any(&statuses),
        kind: *chance.any(&[None, None, Some(Kind::Atomic), Some(Kind::Tcc), Some(Kind::Saga)]),
        resource: chance.any(&resources).map(str::to_owned),
        begun_before: (chance.below(3) == 0).then(|| start.after_ms(chance.below(40_000))),
        after: (chance.below(2) == 0).then(|| *chance.any(known)),
        limit: 1 + chance.below(30) as usize,
    }
}

#[test]
fn random_histories_read_the_same_from_a_folder_from_postgresql_and_from_etcd() {
    let Some((postgres, etcd)) = Private::start(&[]).zip(Cluster::start(1, &[])) else { return };
    let asked = std::env::var("UNANIMOUS_HISTORIES").ok().and_then(|it| it.parse().ok());
    let txns: u64 = asked.unwrap_or(TXNS);
    let mut chance = Chance(7);
    let mut three = Three::open(Arc::new(postgres), Arc::new(etcd));
    let start = Timestamp(now().0 - 100_000);
    let (mut live, mut known): (Vec<Live>, Vec<TxnId>) = (Vec::new(), Vec::new());
    let (mut at, mut seen) = (start, HashMap::new());
    while (known.len() as u64) < txns || !live.is_empty() {
        at = at.after_ms(chance.below(6));
        if live.len() < OPEN && (known.len() as u64) < txns {
            let number = known.len() as u64;
            let entropy = u128::from(number) << 40;
            let txn = TxnId::mint(at.0, ShardId::of(chance.below(SHARDS)), entropy);
            known.push(txn);
            live.push(Live {
                txn,
                count: 0,
                steps: match number % 3 {
                    0 => saga_steps(&mut chance, number),
                    _ => steps(&mut chance, number),
                },
            });
        }
        let index = chance.below(live.len() as u64) as usize;
        let one = &mut live[index];
        if one.steps.is_empty() {
            // It stays open for ever.
            live.swap_remove(index);
            continue;
        }
        if chance.below(20) == 0 {
            let wrong = one.count + 1 + chance.below(3) as u32;
            assert!(!three.append(one.txn, wrong, at, &one.steps[0]), "a gap is no conflict");
        }
        let step = one.steps.remove(0);
        assert!(three.append(one.txn, one.count, at, &step), "what follows is taken");
        one.count += step.0.len() as u32;
        match chance.below(60) {
            0 => three.settle(),
            1 | 2 => three.same_records(*chance.any(&known)),
            3 | 4 => {
                let key = format!("order-{}", chance.below(known.len() as u64));
                three.same("keys", |journal| journal.find_key(&key).expect("readable"));
            }
            5 | 6 => {
                let filter = filter(&mut chance, &known, start);
                let what = format!("{filter:?}");
                let page = three.same(&what, |it| {
                    let page = it.query(&filter).expect("readable");
                    (page.rows, page.next)
                });
                for row in page.0 {
                    *seen.entry((row.kind, row.status)).or_insert(0) += 1;
                }
            }
            7 => three.same_open(),
            8 if chance.below(10) == 0 => three.reopen(),
            _ => {}
        }
    }
    three.reopen();
    three.same_open();
    known.iter().for_each(|&txn| three.same_records(txn));
    let enough = seen.values().filter(|&&count| count > 20).count();
    assert!(enough >= 6, "too little was compared: {seen:?}");
}
