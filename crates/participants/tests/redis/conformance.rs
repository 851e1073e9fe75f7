//! The suite that every adapter has to pass.

use unanimous_participants::testing::conformance;

use crate::common::Shop;

#[tokio::test]
async fn redis_passes_the_conformance_suite() {
    let Some(shop) = Shop::start(&[]) else { return };
    conformance::suite(&shop).await;
}
