//! The directory in etcd.

use std::time::{Duration, Instant};

use unanimous_journal::{
    Directory, EtcdDirectory, EtcdJournal, EtcdOptions, JournalError, NodeEntry, NodeState,
};

use super::private::Cluster;
use crate::cuts::{Proxy, Toward};
use crate::directory::{Site, deaf, suite};

#[test]
fn the_directory_in_etcd_conforms() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    suite(&Site {
        directory: &|| Box::new(EtcdDirectory::open(&cluster.url(), None).expect("it opens")),
        journal: &|coordinator| {
            let coordinator = coordinator.to_owned();
            let options = EtcdOptions { coordinator, ..EtcdOptions::default() };
            Box::new(EtcdJournal::open(&cluster.url(), options, deaf()).expect("it opens"))
        },
    });
}

#[test]
fn an_entry_is_written_and_removed_wherever_the_connection_breaks() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let proxy = Proxy::start(cluster.port(0));
    let directory = EtcdDirectory::open(&format!("etcd://127.0.0.1:{}", proxy.port), None);
    let directory = directory.expect("it opens");
    let questions = (0..400).step_by(23).map(|at| (Toward::Server, at));
    let answers = (0..160).step_by(11).map(|at| (Toward::Client, at));
    for (incarnation, (toward, at)) in (0..).zip(questions.chain(answers)) {
        let (name, address) = ("a".to_owned(), "http://a:1".to_owned());
        let entry = NodeEntry { name, address, incarnation, state: NodeState::Active };
        proxy.cut(toward, at);
        directory.announce(&entry, None).expect("the name is free");
        proxy.heal();
        assert_eq!(directory.read().expect("readable").nodes, [entry], "{toward:?} {at}");
        proxy.cut(toward, at);
        directory.leave("a", incarnation).expect("it is its own");
        proxy.heal();
        assert!(directory.read().expect("readable").nodes.is_empty(), "{toward:?} {at}");
    }
}

#[test]
fn a_directory_in_etcd_goes_on_when_it_is_back_and_says_meanwhile_that_it_does_not_answer() {
    let Some(mut cluster) = Cluster::start(1, &[]) else { return };
    let directory = EtcdDirectory::open(&cluster.url(), None).expect("it opens");
    cluster.kill(0);
    let start = Instant::now();
    let read = directory.read();
    assert!(matches!(read, Err(JournalError::Unreachable(_))), "{read:?}");
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    cluster.up(0);
    assert_eq!(directory.read().expect("it is back").owners.len(), 64);
    cluster.ctl(&["put", "unanimous/node/x", "nonsense"]);
    let read = directory.read();
    let Err(JournalError::Failed(line)) = read else { panic!("{read:?}") };
    assert!(line.contains("nonsense"), "{line}");
}
