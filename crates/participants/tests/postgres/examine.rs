//! What an examination says of a server.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use unanimous_participants::testing::PrivatePostgres;
use unanimous_participants::{Finding, Fitness, Resource};

use crate::common::Bank;

async fn not_fit(resource: &dyn Resource) -> Vec<Finding> {
    let mut findings = resource.examine(Duration::from_secs(10)).await;
    assert!(!findings.is_empty());
    findings.retain(|finding| finding.fitness != Fitness::Fit);
    findings
}

/// Lets clients in as somebody else than the server that works for them. Returns its port.
async fn pooler(server: &PrivatePostgres) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let behind = server.port();
    tokio::spawn(async move {
        while let Ok((front, _)) = listener.accept().await {
            let back = TcpStream::connect(("127.0.0.1", behind)).await.expect("it listens");
            let ((mut from_us, mut to_us), (mut from_it, mut to_it)) =
                (front.into_split(), back.into_split());
            tokio::spawn(async move { copy(&mut from_us, &mut to_it).await });
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = from_it.read(&mut bytes).await {
                    // The process and its key, in a message of twelve bytes.
                    let named = bytes.windows(5).position(|it| it == b"K\0\0\0\x0c");
                    if let Some(at) = named.filter(|at| at + 9 <= read) {
                        bytes[at + 5..at + 9].copy_from_slice(&4_711_i32.to_be_bytes());
                    }
                    if to_us.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                    bytes = [0; 4096];
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_is_well_has_nothing_to_change_and_a_pooler_before_it_is_noticed() {
    let Some(bank) = Bank::start(&[]) else { return };
    let url = bank.server.url("postgres", "postgres");
    assert_eq!(not_fit(&*bank.at(&url)).await, []);
    let port = pooler(&bank.server).await;
    let behind = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let findings = not_fit(&*bank.at(&behind)).await;
    let [finding] = &*findings else { panic!("one finding: {findings:?}") };
    assert_eq!((finding.subject, finding.fitness), ("pooler", Fitness::Doubtful));
}

#[tokio::test]
async fn rights_that_were_taken_away_are_asked_for() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql("postgres", "CREATE ROLE app LOGIN");
    let resource = bank.at(&bank.server.url("app", "postgres"));
    for (taken, named) in [
        ("SELECT ON pg_prepared_xacts", "GRANT SELECT ON pg_prepared_xacts TO \"app\""),
        ("EXECUTE ON FUNCTION pg_xact_status(xid8)", "GRANT EXECUTE ON FUNCTION pg_xact_status"),
    ] {
        bank.server.sql("postgres", &format!("REVOKE {taken} FROM PUBLIC"));
        let findings = not_fit(&*resource).await;
        bank.server.sql("postgres", &format!("GRANT {taken} TO PUBLIC"));
        let [finding] = &*findings else { panic!("{taken}: {findings:?}") };
        assert_eq!(finding.fitness, Fitness::Unfit, "{findings:?}");
        assert!(finding.detail.contains(named), "{}", finding.detail);
    }
    bank.server.sql("postgres", "ALTER ROLE app SET default_transaction_read_only = on");
    let fresh = bank.at(&bank.server.url("app", "postgres"));
    let findings = not_fit(&*fresh).await;
    assert!(findings[0].detail.contains("default_transaction_read_only = off"), "{findings:?}");
}

#[tokio::test]
async fn an_examination_ends_in_time_and_changes_nothing() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = bank.at(&bank.server.url("postgres", "postgres"));
    let before = bank.server.sql("postgres", "SELECT pg_snapshot_xmax(pg_current_snapshot())");
    assert_eq!(not_fit(&*resource).await, []);
    let after = bank.server.sql("postgres", "SELECT pg_snapshot_xmax(pg_current_snapshot())");
    assert_eq!(before, after, "it took no transaction number");
    let stalled = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = stalled.local_addr().expect("bound").port();
    let silent = bank.at(&format!("postgres://postgres@127.0.0.1:{port}"));
    let findings = silent.examine(Duration::from_millis(50)).await;
    assert_eq!((findings.len(), findings[0].fitness), (1, Fitness::Unfit));
    assert!(findings[0].detail.contains("within 50 ms"), "{findings:?}");
}
