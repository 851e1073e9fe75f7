//! How fast it is.

use std::sync::Arc;
use std::time::Instant;

use unanimous_core::id::ShardId;
use unanimous_journal::{End, Journal};

use super::private::{Cluster, open};
use crate::history::{Client, begun, mint};
use crate::listener::Heard;
use crate::speed::decisions;

#[test]
#[ignore = "measures"]
fn decisions_per_second_of_one_member() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    decisions(|listener| Box::new(open(&cluster.url(), listener)));
}

#[test]
#[ignore = "measures"]
fn decisions_per_second_of_three_members() {
    let Some(cluster) = Cluster::start(3, &[]) else { return };
    decisions(|listener| Box::new(open(&cluster.url(), listener)));
}

#[test]
#[ignore = "measures"]
fn a_takeover_of_ten_thousand_open_transactions() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let heard = Arc::new(Heard::default());
    let first = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&first);
    let begin = || client.append(mint(), 0, &[begun(None)], End::Open).expect("there is room");
    (1..10_000).for_each(|_| assert!(begin().0 > 0));
    heard.wait(begin()).expect("it is written");
    let second = open(&cluster.url(), Arc::new(Heard::default()));
    let all: Vec<ShardId> = ShardId::all().collect();
    let start = Instant::now();
    second.claim_all(&all).expect("claimable");
    let claimed = start.elapsed();
    assert_eq!(second.load().expect("readable").len(), 10_000);
    println!("claimed after {claimed:?}, loaded after {:?}", start.elapsed());
}
