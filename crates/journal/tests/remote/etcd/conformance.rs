//! The suite that every journal passes.

use unanimous_journal::conformance::suite;

use super::private::{Cluster, open};

#[test]
fn the_journal_in_etcd_conforms() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    suite(&|listener| Box::new(open(&cluster.url(), listener)));
}
