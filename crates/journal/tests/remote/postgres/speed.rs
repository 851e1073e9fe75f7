//! How fast it is.

use super::private::{Private, open};
use crate::speed::{decisions, takeovers};

#[test]
#[ignore = "measures"]
fn decisions_per_second() {
    let Some(server) = Private::start(&["shared_buffers=512MB", "max_wal_size=4GB"]) else {
        return;
    };
    decisions(|listener| Box::new(open(&server.url(), listener)));
}

#[test]
#[ignore = "measures"]
fn takeovers_of_ten_thousand_open_transactions() {
    let Some(server) = Private::start(&[]) else { return };
    takeovers(|listener| Box::new(open(&server.url(), listener)));
}
