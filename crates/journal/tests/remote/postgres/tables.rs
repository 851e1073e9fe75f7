//! What anybody can read with psql, and what is said of a database that cannot be used.

use std::sync::Arc;

use unanimous_core::id::{BranchId, ShardId};
use unanimous_core::txn::Record;
use unanimous_core::{Decision, Opaque, saga};
use unanimous_journal::{End, Journal, JournalError, PostgresJournal, PostgresOptions};

use super::private::{Private, open};
use crate::certificates::Authority;
use crate::history::{Client, begun, begun_of, decided, finished, mint, saga_begun};
use crate::listener::Heard;
use crate::patience::{free_port, until};

fn refused(url: &str, password: Option<&str>) -> String {
    let options =
        PostgresOptions { password: password.map(str::to_owned), ..PostgresOptions::default() };
    match PostgresJournal::open(url, options, Arc::new(Heard::default())) {
        Err(JournalError::Unusable(line)) => {
            assert!(!line.contains('\n') && !line.contains("s3cret"), "{line}");
            println!("{line}");
            line
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{url} opens"),
    }
}

#[test]
fn transactions_participants_and_log_can_be_read_while_the_journal_runs() {
    let Some(server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let txn = mint();
    client.append(txn, 0, &[begun(Some("order-42"))], End::Open).expect("it is ours");
    let abort = [decided(Decision::Abort)];
    let lsn = client.append(txn, 1, &abort, End::Open).expect("it is ours");
    heard.wait(lsn).expect("it is durable");
    let transactions = "SELECT txn_id, kind, status, outcome, shard, timeout_ms, idempotency_key,
        encode(fingerprint, 'hex'), records, ended_at IS NULL, coordinator LIKE '%:%'
        FROM unanimous.distributed_txn";
    let key = "order-42|07070707070707070707070707070707";
    let row = |status: &str, records: u32, open: &str| {
        format!("{txn}|atomic|{status}|aborted|3|30000|{key}|{records}|{open}|t")
    };
    assert_eq!(server.sql(transactions), row("ABORTING", 2, "t"));
    let participants = "SELECT branch, participant, resource, vote, ack
        FROM unanimous.txn_participant ORDER BY branch";
    assert_eq!(server.sql(participants), "0|wallet|wallet|YES|f\n1|ledger|ledger|YES|f");
    heard.wait(client.append(txn, 2, &finished(), End::Ended).expect("ours")).expect("durable");
    assert_eq!(server.sql(transactions), row("ABORTED", 4, "f"));
    assert_eq!(server.sql(participants), "0|wallet|wallet|YES|t\n1|ledger|ledger|YES|t");
    let log = server.sql("SELECT seq, event, detail FROM unanimous.txn_log ORDER BY seq");
    let lines = [
        "0|begun|participants: wallet, ledger",
        "1|decided|abort: client: changed\u{FFFD}its mind",
        "2|finished|branch 0: as decided",
        "3|finished|branch 1: as decided",
    ];
    assert_eq!(log, lines.join("\n"));
    assert_eq!(server.sql("SELECT count(*), max(epoch) FROM unanimous.shard"), "64|1");
    assert_eq!(server.sql("SELECT owner LIKE '%:%' FROM unanimous.shard WHERE epoch > 0"), "t");
}

#[test]
fn the_steps_of_a_saga_can_be_read_too() {
    let Some(server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let txn = mint();
    client.append(txn, 0, &[saga_begun(None)], End::Open).expect("it is ours");
    let acted = Record::Saga(saga::Record::Acted(BranchId(0), Opaque::default()));
    heard.wait(client.append(txn, 1, &[acted], End::Open).expect("ours")).expect("durable");
    let transaction = "SELECT kind, status, outcome IS NULL FROM unanimous.distributed_txn";
    assert_eq!(server.sql(transaction), "saga|RUNNING|t");
    let steps = "SELECT participant, resource, compensation_resource, vote, standing, ack
        FROM unanimous.txn_participant ORDER BY branch";
    assert_eq!(server.sql(steps), "reserve|wallet|seats||ACTED|t\ncharge|wallet|||WAITING|f");
    let log = "SELECT event, detail FROM unanimous.txn_log ORDER BY seq";
    assert_eq!(server.sql(log), "begun|steps: reserve, charge\nacted|step 0");
}

#[test]
fn an_append_reads_what_it_changes_however_many_transactions_are_open() {
    let Some(server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let decide = |txn| client.append(txn, 1, &[decided(Decision::Abort)], End::Open);
    let few: Vec<_> = (0..5).map(|_| mint()).collect();
    for &txn in &few {
        client.append(txn, 0, &[begun(None)], End::Open).expect("it is ours");
        heard.wait(decide(txn).expect("it is ours")).expect("it is durable");
    }
    // What is planned now is planned for next to nothing.
    server.sql("VACUUM ANALYZE unanimous.distributed_txn");
    let open: Vec<_> = (0..2_000).map(|_| mint()).collect();
    for &txn in &open {
        client.append(txn, 0, &[begun(None)], End::Open).expect("it is ours");
    }
    for &txn in &open[..500] {
        heard.wait(decide(txn).expect("it is ours")).expect("it is durable");
    }
    drop(journal);
    let read = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
        WHERE relname = 'distributed_txn' AND indexrelname <> 'distributed_txn_key'";
    let count = || server.sql(read).parse::<u64>().expect("a number");
    until("the server has counted", || count() >= 400);
    assert!(count() < 20 * 500, "{} read", count());
}

#[test]
fn a_claim_reads_what_is_open_however_many_transactions_have_ended() {
    let Some(server) = Private::start(&[]) else { return };
    server.sql("ALTER SYSTEM SET autovacuum = off");
    server.sql("SELECT pg_reload_conf()");
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    // The server knows nothing yet of what is in its tables.
    for txn in (0..15_000).map(|_| mint()) {
        client.append(txn, 0, &[begun(None), decided(Decision::Abort)], End::Open).expect("ours");
        client.append(txn, 2, &finished(), End::Ended).expect("it is ours");
    }
    let open_ones: Vec<_> = (0..20).map(|_| mint()).collect();
    for &txn in &open_ones {
        let lsn = client.append(txn, 0, &[begun(None)], End::Open).expect("it is ours");
        heard.wait(lsn).expect("it is durable");
    }
    drop(journal);
    let count = || {
        let read = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables
            WHERE relname IN ('txn_log', 'distributed_txn')";
        server.sql(read).parse::<u64>().expect("a number")
    };
    let before = count();
    let next = open(&server.url(), Arc::new(Heard::default()) as _);
    let all: Vec<ShardId> = ShardId::all().collect();
    next.claim_all(&all).expect("nobody else has them");
    let found = next.load().expect("it is ours");
    assert_eq!(found.len(), open_ones.len());
    drop(next);
    let sessions = "SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    // A session counts what it read when it ends.
    until("its sessions have ended", || server.sql(sessions) == "0");
    assert_eq!(count(), before, "it has read what has ended");
}

#[test]
fn large_entries_are_written_in_several_statements_and_huge_ones_are_refused() {
    let Some(server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let commits = journal.stats().syncs;
    let txns: Vec<_> = (0..40).map(|_| mint()).collect();
    for &txn in &txns {
        client.append(txn, 0, &[begun_of(1 << 20)], End::Open).expect("there is room");
    }
    heard.wait(client.decide(mint()).expect("there is room")).expect("it is durable");
    assert!(journal.stats().syncs >= commits + 5);
    assert_eq!(journal.read(txns[39]).expect("readable")[0].record, begun_of(1 << 20));
    let huge = client.append(mint(), 0, &[begun_of(5 << 20)], End::Open);
    assert!(matches!(huge, Err(JournalError::Full(_))), "{huge:?}");
}

#[test]
fn two_schemas_are_two_journals() {
    let Some(server) = Private::start(&[]) else { return };
    let one = open(&server.url(), Arc::new(Heard::default()));
    let two = open(&format!("{}?schema=una_2", server.url()), Arc::new(Heard::default()));
    assert_ne!(one.instance(), two.instance());
    let again = open(&server.url(), Arc::new(Heard::default()));
    assert_eq!(one.instance(), again.instance());
    Client::of(&one).decide(mint()).expect("it is ours");
    assert_eq!(one.load().expect("readable").len(), 1);
    assert!(two.load().expect("readable").is_empty());
}

#[test]
fn processes_that_open_at_once_make_the_tables_once() {
    let Some(server) = Private::start(&[]) else { return };
    let names: Vec<String> = std::thread::scope(|scope| {
        let name = || open(&server.url(), Arc::new(Heard::default())).instance().to_owned();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(name)).collect();
        threads.into_iter().map(|it| it.join().expect("it opens")).collect()
    });
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    assert_eq!(server.sql("SELECT openings FROM unanimous.journal_meta"), "4");
}

#[test]
fn tables_that_are_there_are_opened_whoever_hangs_while_it_looks_after_them() {
    let Some(server) = Private::start(&[]) else { return };
    drop(open(&server.url(), Arc::new(Heard::default())));
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.sql(
                "DO $$ BEGIN
                    PERFORM pg_advisory_lock(hashtextextended('unanimous journal unanimous', 0));
                    PERFORM pg_sleep(60);
                EXCEPTION WHEN query_canceled THEN NULL; END $$",
            )
        });
        until("somebody has the lock", || server.sql(held) == "1");
        let journal = open(&server.url(), Arc::new(Heard::default()));
        Client::of(&journal).decide(mint()).expect("it is ours");
        assert_eq!(server.sql(held), "1", "it has not waited");
        server.sql("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory'");
    });
}

#[test]
fn what_has_ended_longer_ago_than_it_is_kept_goes_from_every_table() {
    let Some(server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let options = PostgresOptions { retention_ms: 1, ..PostgresOptions::default() };
    let journal = PostgresJournal::open(&server.url(), options, Arc::clone(&heard) as _);
    let journal = journal.expect("it opens");
    let client = Client::of(&journal);
    for _ in 0..1_200 {
        client.whole(mint()).expect("it is ours");
    }
    let kept = mint();
    heard.wait(client.decide(kept).expect("it is ours")).expect("it is durable");
    until("the others are gone", || {
        server.sql("SELECT count(*) FROM unanimous.distributed_txn") == "1"
    });
    let left = "SELECT (SELECT count(*) FROM unanimous.txn_log),
        (SELECT count(*) FROM unanimous.txn_participant)";
    assert_eq!(server.sql(left), "2|2");
    assert_eq!(journal.read(kept).expect("readable").len(), 2);
}

#[test]
fn a_database_that_cannot_be_used_is_named_with_what_to_do_in_one_line() {
    let Some(server) = Private::start(&[]) else { return };
    let url = |user: &str, database: &str| {
        format!("postgres://{user}@127.0.0.1:{}/{database}", server.port())
    };
    assert!(refused(&url("postgres", "nowhere"), None).contains("createdb nowhere"));
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres", free_port());
    assert!(refused(&nobody, None).contains("is it running"));
    server.sql("CREATE ROLE small LOGIN");
    let line = refused(&url("small", "postgres"), None);
    assert!(line.contains("CREATE SCHEMA unanimous AUTHORIZATION \"small\""), "{line}");
    server.sql("CREATE SCHEMA unanimous AUTHORIZATION small");
    drop(open(&url("small", "postgres"), Arc::new(Heard::default())));
    server.sql("CREATE ROLE other LOGIN");
    let line = refused(&url("other", "postgres"), None);
    assert!(line.contains("make \"other\" the owner of schema unanimous"), "{line}");
    server.sql("UPDATE unanimous.journal_meta SET schema_version = 99");
    let line = refused(&url("postgres", "postgres"), None);
    assert!(line.contains("version 99") && line.contains("newer"), "{line}");
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    let line = refused(&url("postgres", "latin"), None);
    assert!(line.contains("ENCODING 'UTF8'"), "{line}");
}

#[test]
fn a_wrong_or_missing_password_is_told_and_not_shown() {
    let Some(server) = Private::start(&[]) else { return };
    server.sql("CREATE ROLE app LOGIN PASSWORD 'right'");
    server.sql("CREATE SCHEMA unanimous AUTHORIZATION app");
    server
        .let_in("host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n");
    let url = format!("postgres://app@127.0.0.1:{}/postgres", server.port());
    assert!(refused(&url, None).contains("UNANIMOUS_JOURNAL_PASSWORD"));
    assert!(refused(&url, Some("s3cret")).contains("UNANIMOUS_JOURNAL_PASSWORD"));
    let options = PostgresOptions { password: Some("right".into()), ..PostgresOptions::default() };
    PostgresJournal::open(&url, options, Arc::new(Heard::default())).expect("it opens");
}

#[test]
fn a_server_that_does_not_keep_what_it_says_it_wrote_is_refused() {
    let Some(server) = Private::start(&["fsync=off"]) else { return };
    assert!(refused(&server.url(), None).contains("set fsync = on"));
}

#[test]
fn over_tls_only_the_host_in_the_url_gets_anything() {
    let Some(server) = Private::start(&[]) else { return };
    server.sql("CREATE ROLE app LOGIN");
    server.sql("CREATE SCHEMA unanimous AUTHORIZATION app");
    let url = format!("postgres://app@127.0.0.1:{}/postgres", server.port());
    let authority = Authority::new();
    let trusted = format!("{url}?sslmode=verify-full&ca_file={}", authority.ca());
    assert!(refused(&trusted, None).contains("set ssl = on there"));

    let certified = authority.certify("server", "127.0.0.1");
    server.encrypt(&certified, &authority.ca(), "app", "cert");
    let client = authority.certify("client", "app");
    let with_client = trusted.clone() + &client.params();
    let encrypted = "SELECT count(*) > 1 AND bool_and(ssl) FROM pg_stat_ssl
        JOIN pg_stat_activity USING (pid) WHERE usename = 'app'";
    until("it speaks tls", || {
        let listener = Arc::new(Heard::default());
        PostgresJournal::open(&with_client, PostgresOptions::default(), listener).is_ok()
    });
    let heard = Arc::new(Heard::default());
    let journal = open(&with_client, Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let txn = mint();
    heard.wait(client.whole(txn).expect("it is ours")).expect("it is there");
    assert_eq!(journal.read(txn).expect("it is there").len(), 4);
    assert_eq!(server.sql(encrypted), "t");

    assert!(refused(&trusted, None).contains("name one by client_cert_file"));
    assert!(refused(&url, None).contains("add sslmode=verify-full"));
    let other_name = with_client.replace("127.0.0.1", "localhost");
    assert!(refused(&other_name, None).contains("name the host"));
    let untrusted = with_client.replace(&format!("ca_file={}&", authority.ca()), "");
    assert!(refused(&untrusted, None).contains("ca_file"));
    let missing = with_client.replace("ca.crt", "nothing");
    assert!(refused(&missing, None).contains("No such file"));
}
