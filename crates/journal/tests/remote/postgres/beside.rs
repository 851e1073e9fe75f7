//! Journals side by side on one PostgreSQL.

use std::sync::Arc;

use unanimous_core::id::ShardId;
use unanimous_journal::{Journal, PostgresJournal, PostgresOptions};

use super::private::{Private, open};
use crate::beside;
use crate::listener::Heard;
use crate::patience::until;

#[test]
fn journals_of_disjoint_shards_do_not_disturb_each_other() {
    let Some(server) = Private::start(&[]) else { return };
    beside::disjoint_shards_do_not_disturb_each_other(&|it| Box::new(open(&server.url(), it)));
}

#[test]
fn closing_hands_over_at_once() {
    let Some(server) = Private::start(&[]) else { return };
    beside::closing_hands_over_at_once_to_whoever_was_opened_before_or_after(&|it| {
        Box::new(open(&server.url(), it))
    });
}

#[test]
fn a_journal_that_was_opened_ahead_takes_over() {
    let Some(server) = Private::start(&[]) else { return };
    beside::one_that_was_opened_ahead_takes_over(&|it| Box::new(open(&server.url(), it)));
}

#[test]
fn a_claim_tells_that_the_shards_are_fenced() {
    let Some(server) = Private::start(&[]) else { return };
    beside::a_claim_tells_that_the_shards_are_fenced(&|it| Box::new(open(&server.url(), it)));
}

#[test]
fn who_is_late_takes_over_nothing_of_the_next_owner() {
    let Some(server) = Private::start(&[]) else { return };
    beside::who_is_late_takes_over_nothing_of_the_next_owner(&|it| {
        Box::new(open(&server.url(), it))
    });
}

#[test]
fn each_journal_removes_what_ended_in_its_own_shards() {
    let Some(server) = Private::start(&[]) else { return };
    let opened = || {
        let heard = Arc::new(Heard::default());
        let options = PostgresOptions { retention_ms: 1, ..PostgresOptions::default() };
        let journal = PostgresJournal::open(&server.url(), options, Arc::clone(&heard) as _);
        (journal.expect("it opens"), heard)
    };
    let journals = [3, 40, 50].map(|shard| {
        let (journal, heard) = opened();
        beside::end_in(&journal, &heard, ShardId::of(shard), 700);
        (journal, heard)
    });
    let [three, forty, fifty] = journals;
    drop(fifty);
    // It may have begun before it went.
    let left = || server.sql("SELECT DISTINCT shard FROM unanimous.distributed_txn ORDER BY 1");
    until("what is owned has gone", || ["50", ""].contains(&&*left()));
    let (next, _) = opened();
    next.claim(ShardId::of(50)).expect("claimable");
    until("the rest has an owner again, and goes", || left().is_empty());
    assert_eq!(server.sql("SELECT count(*) FROM unanimous.txn_log"), "0");
    assert!(three.1.failure().is_none() && forty.1.failure().is_none());
}
