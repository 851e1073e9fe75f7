//! A standby that has to have everything, and does not come.

use std::sync::Arc;

use unanimous_journal::Journal;

use super::private::{Private, open};
use crate::history::{Client, mint};
use crate::listener::Heard;
use crate::patience::until;

#[test]
fn what_waits_for_a_standby_is_not_durable_even_if_somebody_cancels_the_wait() {
    let Some(server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let waiting =
        || server.sql("SELECT max(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    until("the setting holds", || server.sql("SHOW synchronous_standby_names") == "nobody");
    let txn = mint();
    let lsn = client.decide(txn).expect("it is ours");
    until("it waits", || !waiting().is_empty());
    let first = waiting();
    server.sql(&format!("SELECT pg_cancel_backend({first})"));
    until("it waits again", || !waiting().is_empty() && waiting() != first);
    let seen = format!("SELECT count(*) FROM unanimous.txn_log WHERE txn_id = '{txn}'");
    assert_eq!(server.sql(&seen), "2", "it is there for all to see");
    assert!(heard.flushed() < lsn, "and not durable");
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    heard.wait(lsn).expect("it goes on");
    assert_eq!(journal.read(txn).expect("readable").len(), 2);
}
