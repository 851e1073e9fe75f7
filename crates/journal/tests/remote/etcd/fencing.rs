//! Two journals on one cluster: the one that claims last owns it, and the other does no harm.

use std::sync::Arc;

use unanimous_core::Decision;
use unanimous_core::id::ShardId;
use unanimous_journal::{End, EtcdJournal, Journal, JournalError};

use super::private::{Cluster, open};
use crate::history::{Client, begun, decided, finished, mint, shard};
use crate::listener::Heard;

fn journal(cluster: &Cluster) -> (EtcdJournal, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (open(&cluster.url(), Arc::clone(&heard) as _), heard)
}

#[test]
fn what_is_appended_after_a_takeover_is_never_reported_durable_and_never_in_etcd() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let (first, first_heard) = journal(&cluster);
    let old = Client::of(&first);
    let (open_txn, ended) = (mint(), mint());
    let lsn = old.append(open_txn, 0, &[begun(None)], End::Open).expect("it is ours");
    old.whole(ended).expect("it is ours");
    first_heard.wait(old.decide(mint()).expect("it is ours")).expect("it is ours");

    let (second, second_heard) = journal(&cluster);
    let new = Client::of(&second);
    assert!(new.epoch > old.epoch);
    assert_eq!(second.instance(), first.instance());
    assert_eq!(second.load().expect("readable").len(), 2, "the ended one is not loaded");

    let before = first_heard.flushed();
    let late = old.append(open_txn, 1, &[decided(Decision::Commit)], End::Open);
    // It may have heard of it before.
    let refused = matches!(late, Err(JournalError::Failed(_)));
    assert!(refused || late.is_ok(), "{late:?}");
    let failure = first_heard.wait_failed();
    let JournalError::Fenced { ours, current } = &*failure else { panic!("{failure:?}") };
    assert_eq!((*ours, *current), (old.epoch, new.epoch));
    assert_eq!(first_heard.flushed(), before);
    assert!(lsn <= before);
    assert!(old.append(open_txn, 1, &finished(), End::Open).is_err(), "nothing more is taken");
    assert!(!first.has_room());

    let abort = decided(Decision::Abort);
    let lsn = new.append(open_txn, 1, std::slice::from_ref(&abort), End::Open).expect("ours now");
    second_heard.wait(lsn).expect("it is the owner");
    let records = second.read(open_txn).expect("readable");
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].record, abort);
}

#[test]
fn a_journal_in_etcd_that_is_not_used_hears_of_the_takeover_too() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let (first, heard) = journal(&cluster);
    Client::of(&first);
    let (second, _) = journal(&cluster);
    assert!(heard.failure().is_none(), "opening alone takes nothing over");
    Client::of(&second);
    assert!(matches!(&*heard.wait_failed(), JournalError::Fenced { .. }));
}

#[test]
fn that_etcd_knows_nothing_of_a_transaction_counts_only_for_the_owner() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let (first, _) = journal(&cluster);
    let old = Client::of(&first);
    let (known, unknown) = (mint(), mint());
    old.decide(known).expect("it is ours");
    assert!(first.read(unknown).expect("readable").is_empty());
    assert_eq!(first.read(known).expect("readable").len(), 2);
    let (second, _) = journal(&cluster);
    second.claim(shard()).expect("claimable");
    let read = first.read(unknown);
    assert!(matches!(read, Err(JournalError::Fenced { .. })), "{read:?}");
    assert_eq!(first.read(known).expect("what is there is there").len(), 2);
}

#[test]
fn whatever_a_takeover_races_with_in_etcd_is_seen_by_the_new_owner_or_never_there() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let (mut owner, mut heard) = journal(&cluster);
    let (mut landed, mut fenced) = (0, 0);
    for round in 0..60 {
        let (next, next_heard) = journal(&cluster);
        let client = Client::of(&owner);
        let txn = mint();
        std::thread::scope(|scope| {
            let claimed = scope.spawn(|| {
                next.claim(shard()).expect("claimable");
                next.read(txn).expect("readable").len()
            });
            // At another moment of the claim in each round.
            std::thread::sleep(std::time::Duration::from_micros(round * 100));
            let told = match client.decide(txn) {
                Ok(lsn) => heard.wait(lsn).is_ok(),
                // It has heard of the claim.
                Err(_) => false,
            };
            let seen = claimed.join().expect("it does not panic");
            assert!(seen == 0 || seen == 2, "{seen} of two records that were appended together");
            assert!(!told || seen == 2, "it was told, and the new owner does not know");
            let error = heard.wait_failed();
            assert!(matches!(&*error, JournalError::Fenced { .. }), "{error:?}");
            assert_eq!(next.read(txn).expect("readable").len(), seen, "something came later");
            if seen == 2 { landed += 1 } else { fenced += 1 }
        });
        (owner, heard) = (next, next_heard);
    }
    println!("{landed} were there before the takeover, {fenced} never");
}

#[test]
fn a_key_that_somebody_else_wrote_or_an_epoch_that_was_set_back_ends_the_journal() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let (first, heard) = journal(&cluster);
    let client = Client::of(&first);
    let txn = mint();
    let lsn = client.decide(txn).expect("it is ours");
    heard.wait(lsn).expect("it is ours");
    let ended = format!("unanimous/ended/{:032x}", !txn.0);
    cluster.ctl(&["put", &ended, "nonsense"]);
    client.append(txn, 2, &finished(), End::Ended).expect("not known yet");
    let failure = heard.wait_failed();
    let text = failure.to_string();
    assert!(text.contains(&txn.to_string()) && text.contains("unknown kind"), "{text}");

    cluster.ctl(&["del", &ended]);
    let (second, heard) = journal(&cluster);
    let client = Client::of(&second);
    let epoch = "unanimous/shard/03";
    let was = cluster.ctl(&["get", "--print-value-only", epoch]);
    let set_back = was.replace(&client.epoch.0.to_string(), "1");
    cluster.ctl(&["put", epoch, &set_back]);
    client.decide(mint()).expect("not known yet");
    let failure = heard.wait_failed();
    assert!(matches!(&*failure, JournalError::Fenced { .. }), "{failure:?}");
}

#[test]
fn all_shards_are_claimed_in_one_step_by_one_of_many() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let all: Vec<ShardId> = ShardId::all().collect();
    let journals: Vec<_> = (0..4).map(|_| journal(&cluster)).collect();
    let epochs: Vec<_> = std::thread::scope(|scope| {
        let claim = |(journal, _): &(EtcdJournal, _)| journal.claim_all(&all);
        let claims: Vec<_> = journals.iter().map(|it| scope.spawn(move || claim(it))).collect();
        claims.into_iter().map(|it| it.join().expect("it does not panic")).collect()
    });
    for epochs in epochs.iter().flatten() {
        assert!(epochs.iter().all(|epoch| epoch == &epochs[0]), "{epochs:?}");
    }
    let last = epochs.iter().flatten().map(|it| it[0]).max().expect("somebody has them");
    assert_eq!(last.0, journals.len() as u64, "the last one has them");
    for ((_, heard), epochs) in journals.iter().zip(&epochs) {
        match epochs {
            Ok(epochs) if epochs[0] == last => assert!(heard.failure().is_none()),
            Ok(_) => assert!(matches!(&*heard.wait_failed(), JournalError::Fenced { .. })),
            // Another one came before what is open was read.
            Err(error) => assert!(matches!(error, JournalError::Fenced { .. }), "{error}"),
        }
    }
}
