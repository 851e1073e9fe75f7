//! What etcd keeps, and what happens when it can keep no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unanimous_core::Decision;
use unanimous_core::txn::Record;
use unanimous_journal::{End, EtcdJournal, EtcdOptions, Filter, Journal, JournalError};

use super::private::{Cluster, open};
use crate::history::{Client, begun, begun_of, decided, finished, mint};
use crate::listener::Heard;
use crate::patience::until;

#[test]
fn a_full_etcd_begins_nothing_loses_nothing_and_goes_on_after_the_alarm() {
    let Some(cluster) = Cluster::start(1, &["--quota-backend-bytes", "12000000"]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let (before, during) = (mint(), mint());
    heard.wait(client.decide(before).expect("there is room")).expect("it is written");
    // Somebody else's keys fill it.
    let junk = "x".repeat(100_000);
    let filled =
        (0..1_000).find(|it| cluster.try_ctl(&["put", &format!("junk/{it}"), &junk]).is_err());
    assert!(filled.is_some() && cluster.ctl(&["alarm", "list"]).contains("NOSPACE"));

    let lsn = client.append(before, 2, &finished(), End::Ended).expect("open ones go on");
    until("it is noticed", || !journal.has_room());
    let refused = client.append(during, 0, &[begun(None)], End::Open);
    let Err(JournalError::Full(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("database space exceeded"), "{why}");
    let second =
        EtcdJournal::open(&cluster.url(), EtcdOptions::default(), Arc::new(Heard::default()));
    let Err(JournalError::Unusable(line)) = second else { panic!("it opens") };
    assert!(line.contains("alarm disarm"), "{line}");
    assert!(heard.flushed() < lsn && heard.failure().is_none());

    // An operator makes room.
    cluster.ctl(&["del", "--prefix", "junk/"]);
    let fields = cluster.ctl(&["get", "nothing", "-w", "fields"]);
    let revision = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
    cluster.ctl(&["compact", "--physical", revision.expect("a header")]);
    cluster.ctl(&["defrag"]);
    cluster.ctl(&["alarm", "disarm"]);
    heard.wait(lsn).expect("it goes on");
    until("there is room", || journal.has_room());
    heard.wait(client.decide(during).expect("there is room")).expect("it is written");
    assert_eq!(journal.read(before).expect("readable").len(), 4);
}

#[test]
fn what_is_longer_than_a_request_comes_back_whole_and_goes_as_a_whole() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let (long, many) = (mint(), [(); 30].map(|()| mint()));
    client.append(long, 0, &[begun_of(3_500_000)], End::Open).expect("there is room");
    for txn in many {
        client.append(txn, 0, &[begun_of(60_000)], End::Open).expect("there is room");
    }
    let lsn = client.append(long, 1, &[decided(Decision::Commit)], End::Open).expect("ours");
    heard.wait(lsn).expect("it is written");
    let records = |journal: &EtcdJournal, txn| -> Vec<Record> {
        let stored = journal.read(txn).expect("readable");
        stored.into_iter().map(|it| it.record).collect()
    };
    let whole = [begun_of(3_500_000), decided(Decision::Commit)];
    assert_eq!(records(&journal, long), whole);
    drop(journal);

    let heard = Arc::new(Heard::default());
    let journal = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let open_ones = journal.load().expect("readable");
    assert_eq!(open_ones.len(), 31);
    assert!(open_ones.iter().all(|it| it.records.is_ok()));
    for txn in many {
        client.append(txn, 1, &[decided(Decision::Commit)], End::Open).expect("ours");
        client.append(txn, 3 - 1, &finished(), End::Ended).expect("ours");
    }
    let lsn = client.append(long, 2, &finished(), End::Ended).expect("ours");
    heard.wait(lsn).expect("it is written");
    assert_eq!(records(&journal, long)[..2], whole);
    assert!(many.iter().all(|&txn| records(&journal, txn).len() == 4));
    let list = Filter { limit: 40, ..Filter::default() };
    assert_eq!(journal.query(&list).expect("readable").rows.len(), 31);
    assert!(journal.load().expect("readable").is_empty());
}

#[test]
fn old_revisions_may_be_given_up_at_any_time() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let begin = || client.append(mint(), 0, &[begun(None)], End::Open).expect("there is room");
    // Several answers of etcd.
    (0..1_000).for_each(|_| assert!(begin().0 > 0));
    heard.wait(begin()).expect("it is written");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                heard.wait(client.whole(mint()).expect("there is room")).expect("it is written");
                let fields = cluster.ctl(&["get", "nothing", "-w", "fields"]);
                let revision = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
                cluster.ctl(&["compact", revision.expect("a header")]);
            }
        });
        for _ in 0..60 {
            let open = journal.load().expect("readable");
            assert!(open.iter().filter(|it| it.records.is_ok()).count() >= 1_001);
        }
        over.store(true, Ordering::SeqCst);
    });
    let all = Filter { limit: 2_000, ..Filter::default() };
    assert!(journal.query(&all).expect("readable").rows.len() > 1_001);
}

#[test]
fn ended_transactions_go_by_age_and_by_number_with_their_keys() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&format!("{}?ended_max=50", cluster.url()), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let open_txn = mint();
    client.append(open_txn, 0, &[begun(Some("open"))], End::Open).expect("there is room");
    for number in 0..120 {
        let (txn, key) = (mint(), format!("order-{number}"));
        client.append(txn, 0, &[begun(Some(&key))], End::Open).expect("there is room");
        client.append(txn, 1, &[decided(Decision::Commit)], End::Open).expect("ours");
        let lsn = client.append(txn, 2, &finished(), End::Ended).expect("ours");
        heard.wait(lsn).expect("it is written");
    }
    let count = |room: &str| {
        let prefix = format!("unanimous/{room}/");
        cluster.ctl(&["get", "--prefix", "--keys-only", &prefix]).split_whitespace().count()
    };
    until("there are not too many", || count("ended") <= 50);
    assert!(count("ended") > 30, "{}", count("ended"));
    until("their keys have gone too", || count("key") == count("ended") + 1);
    assert!(journal.find_key("order-119").expect("readable").is_some(), "the newest stay");
    assert_eq!(journal.find_key("order-0").expect("readable"), None);
    drop(journal);

    let options = EtcdOptions { retention_ms: 1, ..EtcdOptions::default() };
    let journal = EtcdJournal::open(&cluster.url(), options, Arc::new(Heard::default()));
    let journal = journal.expect("it opens");
    Client::of(&journal);
    until("all that has ended is gone", || count("ended") == 0);
    assert_eq!(journal.find_key("open").expect("readable"), Some(open_txn));
    assert_eq!(count("key"), 1);
}
