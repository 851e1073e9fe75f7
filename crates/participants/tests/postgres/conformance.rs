//! The suite that every adapter has to pass.

use unanimous_participants::testing::conformance;

use crate::common::Bank;

#[tokio::test]
async fn postgres_passes_the_conformance_suite() {
    let Some(bank) = Bank::start(&[]) else { return };
    conformance::suite(&bank).await;
}
