//! The suites that every adapter has to pass.

use unanimous_participants::testing::{conformance, steps};

use crate::common::Bank;

#[tokio::test]
async fn sqlite_passes_the_conformance_suite() {
    let bank = Bank::open();
    conformance::suite(&bank).await;
    assert_eq!(bank.number("SELECT count(*) FROM unanimous_lock"), 0, "nothing is held any more");
}

#[tokio::test]
async fn sqlite_passes_the_conformance_suite_without_a_write_ahead_log() {
    let bank = Bank::open();
    bank.sql("PRAGMA journal_mode = DELETE");
    conformance::suite(&bank).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_passes_the_suite_of_steps() {
    let bank = Bank::open();
    steps::suite(&bank).await;
    let rows = "SELECT count(*) FROM unanimous_barrier WHERE verb NOT IN ('act', 'compensate')";
    assert_eq!(bank.number(rows), 0);
}
