//! Journals side by side on one database, each with shards of its own, as one suite for both kinds.

use std::collections::BTreeSet;
use std::sync::Arc;

use unanimous_core::Decision;
use unanimous_core::id::{Epoch, ShardId, TxnId};
use unanimous_core::txn::Record;
use unanimous_journal::{End, Filter, Journal, JournalError};

use crate::history::{Client, begun, decided, finished, mint_in};
use crate::listener::Heard;

/// Opens one more journal on the same database.
pub(crate) type Open<'a> = dyn Fn(Arc<Heard>) -> Box<dyn Journal> + 'a;

const ONE: u64 = 3;
const TWO: u64 = 40;

fn opened(open: &Open<'_>) -> (Box<dyn Journal>, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (open(Arc::clone(&heard)), heard)
}

fn loaded(journal: &dyn Journal) -> BTreeSet<TxnId> {
    journal.load().expect("readable").into_iter().map(|it| it.txn).collect()
}

fn records(journal: &dyn Journal, txn: TxnId) -> Vec<Record> {
    let stored = journal.read(txn).expect("readable");
    assert!(stored.iter().all(|it| it.lsn <= journal.flushed()), "what is read is durable");
    stored.into_iter().map(|it| it.record).collect()
}

/// Ends some transactions, and leaves the others open.
fn work(client: &Client<'_>, heard: &Heard, shard: ShardId) -> BTreeSet<TxnId> {
    let mut open = BTreeSet::new();
    for _ in 0..200 {
        let (ended, left) = (mint_in(shard), mint_in(shard));
        client.whole(ended).expect("it is ours");
        let lsn = client.decide(left).expect("it is ours");
        heard.wait(lsn).expect("it is ours");
        open.insert(left);
    }
    open
}

pub(crate) fn disjoint_shards_do_not_disturb_each_other(open: &Open<'_>) {
    let (one, one_heard) = opened(open);
    let (two, two_heard) = opened(open);
    let (onlooker, onlooker_heard) = opened(open);
    let [shard_one, shard_two] = [ONE, TWO].map(ShardId::of);
    let client_one = Client::in_shard(&*one, shard_one);
    let client_two = Client::in_shard(&*two, shard_two);
    let (open_one, open_two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| work(&client_one, &one_heard, shard_one));
        let two = scope.spawn(|| work(&client_two, &two_heard, shard_two));
        (one.join().expect("it does not panic"), two.join().expect("it does not panic"))
    });
    assert_eq!(loaded(&*one), open_one);
    assert_eq!(loaded(&*two), open_two);
    assert!(loaded(&*onlooker).is_empty(), "it has claimed nothing");

    let (third, third_heard) = opened(open);
    let client_three = Client::in_shard(&*third, shard_two);
    assert_eq!(loaded(&*third), open_two);
    let fenced = two_heard.wait_failed();
    assert!(matches!(&*fenced, JournalError::Fenced { .. }), "{fenced:?}");
    assert!(two.load().is_err() || loaded(&*two) == open_two);
    for txn in &open_two {
        client_three.append(*txn, 2, &finished(), End::Ended).expect("it is ours now");
    }
    let more = work(&client_one, &one_heard, shard_one);
    assert_eq!(loaded(&*one), open_one.union(&more).copied().collect());
    third_heard.wait(client_three.decide(mint_in(shard_two)).expect("ours")).expect("ours");
    let ended = open_two.first().expect("there are some");
    assert_eq!(records(&*onlooker, *ended).len(), 4);
    let all = Filter { limit: 2_000, ..Filter::default() };
    assert_eq!(onlooker.query(&all).expect("readable").rows.len(), 1_201);
    for heard in [one_heard, third_heard, onlooker_heard] {
        assert!(heard.failure().is_none(), "{:?}", heard.failure());
    }
}

pub(crate) fn closing_hands_over_at_once_to_whoever_was_opened_before_or_after(open: &Open<'_>) {
    // The positions of later openings are higher: hand over against that order, and with it.
    let mut journals: Vec<_> = (0..4).map(|_| opened(open)).collect();
    let shards = [ONE, TWO].map(ShardId::of);
    let txns = shards.map(mint_in);
    let mut expected = vec![begun(None)];
    for (turn, index) in [2, 0, 3, 1].into_iter().enumerate() {
        let (journal, heard) = &mut journals[index];
        let epochs = journal.claim_all(&shards).expect("claimable");
        assert_eq!(loaded(&**journal), if turn > 0 { txns.into() } else { BTreeSet::new() });
        let next = match turn {
            0 => expected[0].clone(),
            1 => decided(Decision::Commit),
            more => finished()[more - 2].clone(),
        };
        let end = if turn == 3 { End::Ended } else { End::Open };
        for (txn, epoch) in txns.into_iter().zip(epochs) {
            let client = Client { journal: &**journal, epoch };
            if turn > 0 {
                assert_eq!(records(&**journal, txn), expected, "before turn {turn}");
            }
            let before = u32::try_from(turn).expect("four");
            client.append(txn, before, std::slice::from_ref(&next), end).expect("it is ours");
        }
        if turn > 0 {
            expected.push(next);
        }
        journal.close().expect("it is written");
        assert!(heard.failure().is_none());
        assert_eq!(records(&**journal, txns[0]), expected, "after the close");
    }
    let (last, _) = opened(open);
    last.claim_all(&shards).expect("claimable");
    assert!(loaded(&*last).is_empty(), "they have ended");
    for txn in txns {
        assert_eq!(records(&*last, txn), expected);
    }
}

/// Has so many transactions of a shard end.
pub(crate) fn end_in(journal: &dyn Journal, heard: &Heard, shard: ShardId, count: usize) {
    let client = Client::in_shard(journal, shard);
    let mut last = None;
    for _ in 0..count {
        last = Some(client.whole(mint_in(shard)).expect("it is ours"));
    }
    heard.wait(last.expect("some")).expect("it is ours");
}

/// Whose positions begin below those of the journal that it takes over from.
pub(crate) fn one_that_was_opened_ahead_takes_over(open: &Open<'_>) {
    let (spare, spare_heard) = opened(open);
    spare.claim_all(&[]).expect("there is nothing to claim");
    let (owner, owner_heard) = opened(open);
    let shard = ShardId::of(ONE);
    let left = work(&Client::in_shard(&*owner, shard), &owner_heard, shard);
    let client = Client::in_shard(&*spare, shard);
    assert_eq!(loaded(&*spare), left);
    for &txn in &left {
        assert_eq!(records(&*spare, txn).len(), 2);
        client.append(txn, 2, &finished(), End::Ended).expect("it is ours now");
    }
    let last = mint_in(shard);
    spare_heard.wait(client.decide(last).expect("it is ours")).expect("it is ours");
    let (next, _) = opened(open);
    Client::in_shard(&*next, shard);
    assert_eq!(loaded(&*next), BTreeSet::from([last]));
    assert!(left.iter().all(|&txn| records(&*next, txn).len() == 4));
}

/// Before it returns: what is open is read after that.
pub(crate) fn a_claim_tells_that_the_shards_are_fenced(open: &Open<'_>) {
    let (owner, owner_heard) = opened(open);
    let shard = ShardId::of(ONE);
    let client = Client::in_shard(&*owner, shard);
    let (next, _) = opened(open);
    let (tell, told) = std::sync::mpsc::channel();
    let fenced = move |epochs: &[Epoch]| tell.send(epochs.to_vec()).expect("somebody hears it");
    let claimed = next.claim_all_fencing(&[shard], Box::new(fenced)).expect("it can be claimed");
    assert_eq!(told.try_recv().expect("it was told meanwhile"), claimed);
    let is_durable = |lsn| owner_heard.wait(lsn).is_ok();
    assert!(!client.decide(mint_in(shard)).is_ok_and(is_durable), "another has the shard");
}

/// A process may be paused between its claim and its look at what is open. What the next owner has begun
/// meanwhile is driven there, and is not to be recovered.
pub(crate) fn who_is_late_takes_over_nothing_of_the_next_owner(open: &Open<'_>) {
    let shard = ShardId::of(ONE);
    let (late, _) = opened(open);
    let (next, heard) = opened(open);
    let next: Arc<dyn Journal> = next.into();
    let owner = Arc::clone(&next);
    let meanwhile = move |claimed: &[Epoch]| {
        let client = Client::in_shard(&*owner, shard);
        heard.wait(client.decide(mint_in(shard)).expect("it is ours")).expect("it is ours");
        assert!(owner.epochs(&[shard]).expect("readable")[0] > claimed[0]);
    };
    let claimed = late.claim_all_fencing(&[shard], Box::new(meanwhile));
    assert!(matches!(claimed, Err(JournalError::Fenced { .. })), "{claimed:?}");
    assert_eq!(loaded(&*late), BTreeSet::new());
    assert_eq!(loaded(&*next).len(), 1);
    // Nor is it told of it when it looks later.
    let (owner, _) = opened(open);
    Client::in_shard(&*owner, shard);
    Client::in_shard(&*next, shard);
    assert!(matches!(owner.load(), Ok(ours) if ours.len() == 1), "read when it was claimed");
    assert!(matches!(owner.load(), Err(JournalError::Fenced { .. })), "read again");
}
