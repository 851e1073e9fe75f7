//! The connection breaks at some byte of a question or an answer.

use std::sync::Arc;

use unanimous_journal::{End, Journal};

use super::private::{Cluster, open};
use crate::cuts::{Proxy, Toward};
use crate::history::{Client, finished, mint};
use crate::listener::Heard;

#[test]
fn an_append_whose_answer_is_lost_is_read_back_wherever_the_connection_breaks() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let proxy = Proxy::start(cluster.port(0));
    let url = format!("etcd://127.0.0.1:{}", proxy.port);
    let heard = Arc::new(Heard::default());
    let journal = open(&url, Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let questions = (0..40).chain((40..1_200).step_by(60)).map(|at| (Toward::Server, at));
    let answers = (0..160).step_by(3).map(|at| (Toward::Client, at));
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
    assert!(journal.load().expect("readable").is_empty());
    assert_eq!(cluster.ctl(&["get", "--prefix", "--keys-only", "unanimous/open/"]), "");
}
