//! Tests of the file journal: on real folders here, on simulated disks beside.

use std::sync::Arc;

use crate::conformance;
use crate::file::{FileJournal, Options};

#[test]
fn the_file_journal_conforms() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    conformance::suite(&|listener| {
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        Box::new(FileJournal::open(folder.path(), options, Arc::clone(&listener)).expect("opens"))
    });
}
