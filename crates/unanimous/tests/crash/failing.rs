//! A disk that reports errors: if it is the journal's, the coordinator must stop at once, say why,
//! and have told nobody anything that is not durable. A slow one makes everything late, and nothing
//! wrong.
//!
//! After a failed sync nobody knows what the disk holds (Rebello et al., USENIX ATC 2020), so what
//! was written since the last good one is taken back before the next start.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::coordinator::Coordinator;
use crate::deed::Deed;
use crate::place::{eventually, skip};
use crate::trace::{Fault, Tracer};
use crate::world::World;

/// More calls than a life with a few transactions makes.
const PLACES_MAX: u32 = 100;

/// Microseconds that a sync of a slow disk takes, and how many of each kind use it at once.
const SYNC_US: u64 = 200_000;
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_process_with_a_clear_line_and_loses_nothing_that_was_told() {
    fail_at_each("fdatasync", "EIO", "Input/output error").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: every write of a segment"]
async fn a_failed_write_to_a_segment_stops_the_process_and_loses_nothing_that_was_told() {
    fail_at_each("pwrite64", "ENOSPC", "No space left").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_cannot_be_written_stops_no_decision() {
    if !Tracer::is_there() {
        return skip("strace");
    }
    let world = Arc::new(World::new().await);
    Coordinator::start(&world.setup).await.stop().await;
    let tracer = Tracer {
        log: world.folder.path().join("calls"),
        fault: Fault::Error("EIO"),
        call: "pwrite64",
        only: Some(world.setup.data.join("history.sqlite-wal")),
        when: 1,
    };
    let mut coordinator = Coordinator::spawn(&world.setup, Some(&tracer));
    coordinator.alive().await.expect("the history can be made later");
    for deed in Deed::ALL {
        world.perform(deed, &format!("{deed:?}")).await.expect("the journal is sound");
    }
    world.ask_about_all().await;
    // The history is written behind the journal, when there is time.
    eventually("a write of the history has failed", async || match tracer.has_struck() {
        true => Ok(()),
        false => Err("none was tried".to_owned()),
    })
    .await;
    coordinator.kill().await;
    let mut coordinator = Coordinator::start(&world.setup).await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_makes_everything_late_and_nothing_wrong() {
    if !Tracer::is_there() {
        return skip("strace");
    }
    let world = Arc::new(World::new().await);
    Coordinator::start(&world.setup).await.stop().await;
    let tracer = Tracer {
        log: world.folder.path().join("calls"),
        fault: Fault::Late(SYNC_US),
        call: "fdatasync",
        only: Some(world.setup.next_segment()),
        when: 1,
    };
    let mut coordinator = Coordinator::spawn(&world.setup, Some(&tracer));
    coordinator.ready().await.expect("it only takes longer");
    let mut clients = JoinSet::new();
    for (number, deed) in (0..CLIENTS).flat_map(|number| Deed::ALL.map(|deed| (number, deed))) {
        let world = Arc::clone(&world);
        clients.spawn(async move { world.perform(deed, &format!("{deed:?}-{number}")).await });
    }
    while let Some(performed) = clients.join_next().await {
        performed.expect("no client panics").expect("the disk is slow, not broken");
    }
    assert!(tracer.has_struck());
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

async fn fail_at_each(call: &'static str, error: &'static str, text: &str) {
    if !Tracer::is_there() {
        return skip("strace");
    }
    let world = Arc::new(World::new().await);
    Coordinator::start(&world.setup).await.stop().await;
    for when in 1..PLACES_MAX {
        let segment = world.setup.next_segment();
        let log = world.folder.path().join("calls");
        let tracer = Tracer { log, fault: Fault::Error(error), call, only: Some(segment), when };
        let mut coordinator = Coordinator::spawn(&world.setup, Some(&tracer));
        let ended = match coordinator.ready().await {
            Err(ended) => ended,
            Ok(()) => {
                for deed in [Deed::Run, Deed::Decided, Deed::Committed] {
                    // Replies that do not come are what this is about.
                    drop(world.perform(deed, &format!("{deed:?}-{when}")).await);
                }
                coordinator.stop().await
            }
        };
        let failed = ended.status.code() != Some(0);
        if failed {
            let code = ended.status.code().expect("it ends by itself");
            let line = ended.refusal(code);
            assert!(line.contains(text) && line.contains("segment"), "{line}");
            tracer.lose_unsynced();
        }
        let mut coordinator = Coordinator::start(&world.setup).await;
        world.verdict().await;
        coordinator.stop().await;
        if !failed {
            assert!(when > 4, "the tracer has failed nothing");
            return println!("{error}: {} places", when - 1);
        }
    }
    panic!("it still fails at place {PLACES_MAX}");
}
