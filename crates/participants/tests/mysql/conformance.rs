//! The suite that every adapter has to pass.

use unanimous_participants::testing::conformance;

use crate::common::Bank;

#[tokio::test]
async fn mariadb_passes_the_conformance_suite() {
    let Some(bank) = Bank::start(&[]) else { return };
    conformance::suite(&bank).await;
}

#[tokio::test]
async fn mariadb_with_a_binary_log_passes_the_conformance_suite() {
    let Some(bank) = Bank::start(&["--log-bin", "--sync-binlog=1"]) else { return };
    conformance::suite(&bank).await;
}
