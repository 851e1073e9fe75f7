//! The directory in PostgreSQL.

use std::time::{Duration, Instant};

use unanimous_journal::{
    Directory, JournalError, NodeEntry, NodeState, PostgresDirectory, PostgresJournal,
    PostgresOptions,
};

use super::private::{Private, open};
use crate::directory::{Site, deaf, suite};

/// The tables as the first release made them.
const VERSION_1: &str = include_str!("../../../src/postgres/versions/1.sql");

#[test]
fn the_directory_in_postgresql_conforms() {
    let Some(server) = Private::start(&[]) else { return };
    suite(&Site {
        directory: &|| Box::new(PostgresDirectory::open(&server.url(), None).expect("it opens")),
        journal: &|coordinator| {
            let coordinator = coordinator.to_owned();
            let options = PostgresOptions { coordinator, ..PostgresOptions::default() };
            Box::new(PostgresJournal::open(&server.url(), options, deaf()).expect("it opens"))
        },
    });
    assert_eq!(server.sql("SELECT openings FROM unanimous.journal_meta"), "5", "of journals only");
}

#[test]
fn tables_of_the_first_version_are_brought_up_to_date_by_one_of_many_that_open_at_once() {
    let Some(server) = Private::start(&[]) else { return };
    server.sql(&format!("CREATE SCHEMA unanimous; SET search_path = unanimous; {VERSION_1}"));
    server.sql("INSERT INTO unanimous.journal_meta VALUES (true, 'abcdefgh', 1, 7)");
    server.sql("UPDATE unanimous.shard SET epoch = 9, owner = 'old:1' WHERE shard = 3");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| open(&server.url(), deaf()));
            scope.spawn(|| PostgresDirectory::open(&server.url(), None).expect("it opens"));
        }
    });
    let meta = "SELECT instance, schema_version, openings FROM unanimous.journal_meta";
    assert_eq!(server.sql(meta), "abcdefgh|3|10");
    let directory = PostgresDirectory::open(&server.url(), None).expect("it opens");
    let owners = directory.read().expect("readable").owners;
    assert_eq!((owners[3].1.0, owners[3].2.as_deref()), (9, Some("old:1")));
}

#[test]
fn a_directory_goes_on_when_its_database_is_back_and_says_meanwhile_that_it_does_not_answer() {
    let Some(mut server) = Private::start(&[]) else { return };
    let directory = PostgresDirectory::open(&server.url(), None).expect("it opens");
    let state = NodeState::Active;
    let entry = NodeEntry { name: "a".into(), address: "http://a:1".into(), incarnation: 1, state };
    directory.announce(&entry, None).expect("the name is free");
    server.kill();
    let start = Instant::now();
    let read = directory.read();
    assert!(matches!(read, Err(JournalError::Unreachable(_))), "{read:?}");
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    server.up();
    assert_eq!(directory.read().expect("it is back").nodes, [entry]);
    server.sql("UPDATE unanimous.journal_meta SET schema_version = 99");
    let Err(JournalError::Unusable(line)) = PostgresDirectory::open(&server.url(), None) else {
        panic!("it opens");
    };
    assert!(line.contains("version 99") && !line.contains('\n'), "{line}");
}
