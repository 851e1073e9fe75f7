//! The suite that every journal passes.

use unanimous_journal::conformance::suite;

use super::private::{Private, open};

#[test]
fn the_journal_in_postgresql_conforms() {
    let Some(server) = Private::start(&[]) else { return };
    suite(&|listener| Box::new(open(&server.url(), listener)));
}
