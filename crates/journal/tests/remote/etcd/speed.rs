//! How fast it is.

use super::private::{Cluster, open};
use crate::speed::{decisions, takeovers};

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
fn takeovers_of_ten_thousand_open_transactions_in_etcd() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    takeovers(|listener| Box::new(open(&cluster.url(), listener)));
}
