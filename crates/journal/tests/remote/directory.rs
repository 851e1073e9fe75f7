//! What every directory must do, as one suite that both run.

use std::sync::Arc;

use unanimous_core::Opaque;
use unanimous_core::commit::{self, Begun, Mode, Shape};
use unanimous_core::id::{Epoch, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Record;
use unanimous_journal::{
    Directory, DirectoryError, End, Entry, GiveError, Journal, JournalError, NodeEntry, NodeState,
    Sight,
};

/// A journal with the directory beside it, in one database.
pub(crate) struct Site<'a> {
    pub(crate) directory: &'a dyn Fn() -> Box<dyn Directory>,
    /// Opens the journal, as the coordinator of this name.
    pub(crate) journal: &'a dyn Fn(&str) -> Box<dyn Journal>,
}

/// Runs every check on a fresh database.
pub(crate) fn suite(site: &Site<'_>) {
    let directory = (site.directory)();
    let fresh = directory.read().expect("readable");
    assert!(fresh.nodes.is_empty());
    assert_eq!(fresh.owners.len(), 64, "every shard is there before any journal was opened");
    assert!(fresh.owners.iter().all(|(_, epoch, owner)| *epoch == Epoch(0) && owner.is_none()));
    let order: Vec<_> = fresh.owners.iter().map(|(shard, _, _)| *shard).collect();
    assert_eq!(order, ShardId::all().collect::<Vec<_>>());
    names(&*directory);
    leaving(&*directory);
    races(site);
    owners(site, &*directory);
    giving(site, &*directory);
}

fn node(name: &str, incarnation: u64) -> NodeEntry {
    let address = format!("http://{name}.example:8080");
    NodeEntry { name: name.to_owned(), address, incarnation, state: NodeState::Active }
}

fn nodes(directory: &dyn Directory) -> Vec<NodeEntry> {
    directory.read().expect("readable").nodes
}

#[track_caller]
fn assert_taken(told: Result<(), DirectoryError>, by: &NodeEntry) {
    match told {
        Err(DirectoryError::NameTaken(standing)) => assert_eq!(standing, *by),
        other => panic!("expected the name to be taken, got {other:?}"),
    }
}

fn names(directory: &dyn Directory) {
    let (first, second) = (node("b", u64::MAX), node("b", 2));
    directory.announce(&first, None).expect("the name is free");
    directory.announce(&first, None).expect("its own entry is in nobody's way");
    assert_taken(directory.announce(&second, None), &first);
    assert_taken(directory.announce(&second, Some(7)), &first);
    assert_eq!(nodes(directory), std::slice::from_ref(&first), "what was refused changed nothing");
    directory.announce(&second, Some(u64::MAX)).expect("that is who stands there");
    assert_taken(directory.announce(&first, Some(u64::MAX)), &second);
    let draining = NodeEntry { state: NodeState::Draining, ..second.clone() };
    directory.announce(&draining, Some(2)).expect("its own");
    let named = [node("", 1), node("a/b", 0), node("é ü", 4)];
    for other in &named {
        directory.announce(other, Some(99)).expect("nothing stands under that name");
    }
    let [empty, slash, accents] = named;
    assert_eq!(nodes(directory), [empty, slash, draining, accents], "in order, each as written");
}

fn leaving(directory: &dyn Directory) {
    directory.leave("b", 3).expect("of another incarnation");
    directory.leave("nobody", 3).expect("nobody");
    assert_eq!(nodes(directory).len(), 4);
    for (name, incarnation) in [("b", 2), ("b", 2), ("", 1), ("a/b", 0), ("é ü", 4)] {
        directory.leave(name, incarnation).expect("its own, or gone already");
    }
    assert!(nodes(directory).is_empty());
    directory.announce(&node("b", 5), None).expect("free again");
    directory.leave("b", 5).expect("its own");
}

/// Of several that take one name at once, one has it, and the others are told which.
fn races(site: &Site<'_>) {
    let directories: Vec<_> = (0..4).map(|_| (site.directory)()).collect();
    for round in 0..10 {
        let told: Vec<_> = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (index, directory) in (0..).zip(&directories) {
                let entry = node("race", round * 10 + index);
                threads.push(scope.spawn(move || directory.announce(&entry, None)));
            }
            threads.into_iter().map(|it| it.join().expect("it does not panic")).collect()
        });
        let standing = nodes(&*directories[0]).remove(0);
        assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 1);
        for refused in told.into_iter().filter(Result::is_err) {
            assert_taken(refused, &standing);
        }
        directories[1].leave("race", standing.incarnation).expect("reachable");
    }
}

fn owners(site: &Site<'_>, directory: &dyn Directory) {
    let (one, two) = ((site.journal)("node one"), (site.journal)("node-2"));
    let [a, b, c] = [3, 4, 63].map(ShardId::of);
    let untouched: Sight = directory.read().expect("readable");
    one.claim_all(&[a, b]).expect("claimable");
    let taken = two.claim_all(&[b, c]).expect("claimable");
    let seen = directory.read().expect("readable");
    let of = |shard: ShardId| seen.owners[shard.index()].clone();
    assert_eq!(of(a), (a, Epoch(1), Some("node one".to_owned())));
    assert_eq!(of(b), (b, Epoch(2), Some("node-2".to_owned())));
    assert_eq!(of(c), (c, Epoch(1), Some("node-2".to_owned())));
    assert_eq!(taken, [Epoch(2), Epoch(1)]);
    for (was, is) in untouched.owners.iter().zip(&seen.owners) {
        assert_eq!(was == is, ![a, b, c].contains(&is.0), "{is:?}");
    }
    assert_eq!(seen.nodes, untouched.nodes);
}

/// What is given to another journal is nobody's here any more; what is open in it stays.
fn giving(site: &Site<'_>, directory: &dyn Directory) {
    let former = (site.journal)("former");
    let [a, b, c] = [10, 11, 12].map(ShardId::of);
    former.claim_all(&[a, b, c]).expect("claimable");
    let open = TxnId::mint(1_700_000_000_000, b, 1);
    begin(&*former, open, Epoch(1)).expect("it owns the shard");
    match directory.give(&[a, b], "elsewhere") {
        Err(GiveError::Open(1)) => {}
        other => panic!("one is open, and not {other:?}"),
    }
    assert!(directory.read().expect("readable").moved.is_empty(), "as it was before");
    assert_eq!((site.journal)("next").claim_all(&[a, b]).expect("claimable"), [Epoch(3); 2]);

    directory.give(&[a, c], "elsewhere").expect("nothing is open in them");
    directory.give(&[a, c], "elsewhere").expect("it has them already");
    match directory.give(&[c], "a third") {
        Err(GiveError::Elsewhere(name)) => assert_eq!(name, "elsewhere"),
        other => panic!("it is elsewhere, and not {other:?}"),
    }
    let given = ["elsewhere"; 2].map(str::to_owned);
    let moved: Vec<_> = [a, c].into_iter().zip(given).collect();
    assert_eq!(directory.read().expect("readable").moved, moved);
    match (site.journal)("late").claim_all(&[c]) {
        Err(JournalError::Unusable(line)) => assert!(line.contains("shard 12"), "{line}"),
        other => panic!("nobody claims it here, and not {other:?}"),
    }
    let late = TxnId::mint(1_700_000_000_001, c, 2);
    begin(&*former, late, Epoch(1)).expect_err("who had it has lost it");
}

/// Begins a transaction, durably.
fn begin(journal: &dyn Journal, txn: TxnId, epoch: Epoch) -> Result<(), JournalError> {
    let begun = Begun {
        mode: Mode::Interactive,
        shape: Shape::Atomic,
        deadline: Timestamp(u64::MAX),
        timeout_ms: 1_000,
        branches: Vec::new(),
        key: None,
        memo: Opaque::default(),
    };
    let records = [Record::Commit(commit::Record::Begun(begun.into()))];
    let at = Timestamp(1_700_000_000_000);
    let entry = Entry { txn, epoch, expected: 0, at, records: &records, end: End::Open };
    journal.append(entry)?;
    // It flushes what is there, or says why it cannot.
    journal.read(txn).map(drop)
}

/// A listener that nobody asks.
pub(crate) fn deaf() -> Arc<crate::listener::Heard> {
    Arc::default()
}
