//! Journals side by side on one etcd.

use std::sync::Arc;

use unanimous_core::id::ShardId;
use unanimous_journal::{EtcdJournal, Journal, JournalError};

use super::private::{Cluster, open};
use crate::beside;
use crate::history::{Client, mint_in};
use crate::listener::Heard;
use crate::patience::until;

#[test]
fn journals_of_disjoint_shards_in_etcd_do_not_disturb_each_other() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    beside::disjoint_shards_do_not_disturb_each_other(&|it| Box::new(open(&cluster.url(), it)));
}

#[test]
fn closing_hands_over_at_once_in_etcd() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    beside::closing_hands_over_at_once_to_whoever_was_opened_before_or_after(&|it| {
        Box::new(open(&cluster.url(), it))
    });
}

#[test]
fn a_journal_that_was_opened_ahead_takes_over_in_etcd() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    beside::one_that_was_opened_ahead_takes_over(&|it| Box::new(open(&cluster.url(), it)));
}

#[test]
fn a_claim_in_etcd_tells_that_the_shards_are_fenced() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    beside::a_claim_tells_that_the_shards_are_fenced(&|it| Box::new(open(&cluster.url(), it)));
}

#[test]
fn who_is_late_takes_over_nothing_of_the_next_owner() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    beside::who_is_late_takes_over_nothing_of_the_next_owner(&|it| {
        Box::new(open(&cluster.url(), it))
    });
}

#[test]
fn heads_go_with_the_last_shard_and_never_before() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let opened = || -> (EtcdJournal, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        (open(&cluster.url(), Arc::clone(&heard) as _), heard)
    };
    let heads = || {
        let keys = cluster.ctl(&["get", "--prefix", "--keys-only", "unanimous/head/"]);
        keys.split_whitespace().count()
    };
    let shards = [3, 40, 41, 50].map(ShardId::of);
    let (waiting, waiting_heard) = opened();
    assert_eq!(heads(), 0, "what claims nothing has none");
    let (busy, busy_heard) = opened();
    let client = Client::in_shard(&busy, shards[0]);
    let (other, other_heard) = opened();
    let other_client = Client::in_shard(&other, shards[1]);
    // Each takes the shard of the one before; nobody closes anything.
    for _ in 0..5 {
        let (brief, heard) = opened();
        beside::end_in(&brief, &heard, shards[2], 2);
    }
    assert!(heads() >= 5);
    until("those that own nothing are gone", || heads() == 3);
    let all: Vec<ShardId> = ShardId::all().collect();
    let mine = waiting.claim(shards[3]).expect("it has been open for long");
    let late = Client { journal: &waiting, epoch: mine };
    for (client, heard, shard) in [
        (&client, &busy_heard, shards[0]),
        (&other_client, &other_heard, shards[1]),
        (&late, &waiting_heard, shards[3]),
    ] {
        heard.wait(client.whole(mint_in(shard)).expect("ours")).expect("its head is there");
    }
    let (last, last_heard) = opened();
    last.claim_all(&all).expect("claimable");
    for heard in [busy_heard, other_heard, waiting_heard] {
        let failure = heard.wait_failed();
        assert!(matches!(&*failure, JournalError::Fenced { .. }), "{failure:?}");
    }
    until("only the last is there", || heads() == 1);
    beside::end_in(&last, &last_heard, shards[0], 2);
}
