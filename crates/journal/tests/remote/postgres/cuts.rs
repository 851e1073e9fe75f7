//! The connection breaks at some byte of a question or an answer.

use std::sync::Arc;

use unanimous_journal::{End, Journal};

use super::private::{Private, open};
use crate::cuts::{Proxy, Toward};
use crate::history::{Client, finished, mint};
use crate::listener::Heard;

#[test]
fn a_connection_that_breaks_at_any_byte_costs_nothing_but_time() {
    let Some(server) = Private::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
    let heard = Arc::new(Heard::default());
    let journal = open(&url, Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let questions = (0..40).chain((40..2_600).step_by(160)).map(|at| (Toward::Server, at));
    let answers = (0..130).step_by(3).map(|at| (Toward::Client, at));
    let mut cuts = 0;
    for (toward, at) in questions.chain(answers) {
        let txn = mint();
        proxy.cut(toward, at);
        let lsn = client.decide(txn).expect("it is ours");
        heard.wait(lsn).expect("it goes on");
        cuts += u32::from(proxy.has_cut());
        proxy.heal();
        let lsn = client.append(txn, 2, &finished(), End::Ended).expect("it is ours");
        heard.wait(lsn).expect("it goes on");
        assert_eq!(journal.read(txn).expect("readable").len(), 4, "{toward:?} {at}");
    }
    assert!(cuts > 50, "only {cuts} were in time");
    let double = "SELECT count(*) - count(DISTINCT (txn_id, seq)) FROM unanimous.txn_log";
    assert_eq!(server.sql(double), "0");
    let rows = "SELECT count(*) FROM unanimous.distributed_txn WHERE status <> 'COMMITTED'";
    assert_eq!(server.sql(rows), "0");
}
