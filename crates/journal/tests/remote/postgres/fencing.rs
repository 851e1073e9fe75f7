//! Two journals on one database: the one that claims last owns it, and the other does no harm.

use std::sync::Arc;

use unanimous_core::Decision;
use unanimous_journal::{End, Journal, JournalError, PostgresJournal};

use super::private::{Private, open};
use crate::history::{Client, begun, decided, finished, mint, shard};
use crate::listener::Heard;
use crate::patience::until;

fn journal(server: &Private) -> (PostgresJournal, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (open(&server.url(), Arc::clone(&heard) as _), heard)
}

#[test]
fn what_is_appended_after_a_takeover_is_never_reported_durable_and_never_there() {
    let Some(server) = Private::start(&[]) else { return };
    let (first, first_heard) = journal(&server);
    let old = Client::of(&first);
    let (open_txn, ended) = (mint(), mint());
    let lsn = old.append(open_txn, 0, &[begun(None)], End::Open).expect("it is ours");
    old.whole(ended).expect("it is ours");
    first_heard.wait(old.decide(mint()).expect("it is ours")).expect("it is ours");

    let (second, second_heard) = journal(&server);
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
fn an_epoch_that_was_set_back_or_is_gone_ends_the_journal() {
    let Some(server) = Private::start(&[]) else { return };
    for damage in ["UPDATE unanimous.shard SET epoch = 0", "DELETE FROM unanimous.shard"] {
        let (journal, heard) = journal(&server);
        let client = Client::of(&journal);
        heard.wait(client.decide(mint()).expect("it is ours")).expect("it is ours");
        server.sql(damage);
        let before = heard.flushed();
        // It may have heard of it before.
        drop(client.decide(mint()));
        let failure = heard.wait_failed();
        assert!(matches!(&*failure, JournalError::Fenced { .. }), "{damage}: {failure:?}");
        assert_eq!(heard.flushed(), before);
    }
}

#[test]
fn a_journal_that_is_not_used_hears_of_the_takeover_too() {
    let Some(server) = Private::start(&[]) else { return };
    let (first, heard) = journal(&server);
    Client::of(&first);
    let (second, _) = journal(&server);
    assert!(heard.failure().is_none(), "opening alone takes nothing over");
    Client::of(&second);
    assert!(matches!(&*heard.wait_failed(), JournalError::Fenced { .. }));
}

#[test]
fn that_nothing_is_known_of_a_transaction_counts_only_for_the_owner() {
    let Some(server) = Private::start(&[]) else { return };
    let (first, _) = journal(&server);
    let old = Client::of(&first);
    let (known, unknown) = (mint(), mint());
    old.decide(known).expect("it is ours");
    assert!(first.read(unknown).expect("readable").is_empty());
    assert_eq!(first.read(known).expect("readable").len(), 2);
    let (second, _) = journal(&server);
    second.claim(shard()).expect("claimable");
    let read = first.read(unknown);
    assert!(matches!(read, Err(JournalError::Fenced { .. })), "{read:?}");
    assert_eq!(first.read(known).expect("what is there is there").len(), 2);
}

#[test]
fn whatever_a_takeover_races_with_is_seen_by_the_new_owner_or_never_there() {
    let Some(server) = Private::start(&[]) else { return };
    let (mut owner, mut heard) = journal(&server);
    let (mut landed, mut fenced) = (0, 0);
    for round in 0..60 {
        let (next, next_heard) = journal(&server);
        let client = Client::of(&owner);
        let txn = mint();
        let lsn = std::thread::scope(|scope| {
            let claimed = scope.spawn(|| {
                next.claim(shard()).expect("claimable");
                next.read(txn).expect("readable").len()
            });
            // At another moment of the claim in each round.
            std::thread::sleep(std::time::Duration::from_micros(round * 150));
            let lsn = client.decide(txn).expect("it is not known yet");
            let told = heard.wait(lsn).is_ok();
            let seen = claimed.join().expect("it does not panic");
            assert!(seen == 0 || seen == 2, "{seen} of two records that were appended together");
            assert!(!told || seen == 2, "it was told, and the new owner does not know");
            let error = heard.wait_failed();
            assert!(matches!(&*error, JournalError::Fenced { .. }), "{error:?}");
            assert_eq!(next.read(txn).expect("readable").len(), seen, "something came later");
            if seen == 2 {
                landed += 1
            } else {
                fenced += 1
            }
            lsn
        });
        assert!(lsn.0 > 0);
        (owner, heard) = (next, next_heard);
    }
    println!("{landed} were there before the takeover, {fenced} never");
}

#[test]
fn a_claim_waits_for_what_is_being_written_and_reads_it() {
    let Some(server) = Private::start(&[]) else { return };
    let (first, heard) = journal(&server);
    let (second, _) = journal(&server);
    let old = Client::of(&first);
    server.sql(
        "SET search_path = unanimous;
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END';
         CREATE TRIGGER slow BEFORE INSERT ON txn_log FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let txn = mint();
    let lsn = old.decide(txn).expect("it is ours");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until("the batch is being written", || server.sql(sleeping) != "0");
    second.claim(shard()).expect("claimable");
    assert_eq!(second.load().expect("readable").len(), 1);
    assert_eq!(second.read(txn).expect("readable").len(), 2);
    heard.wait(lsn).expect("it was written before the claim");
    heard.wait_failed();
}
