//! A disk that is full: nothing new begins, nothing that was told is lost, and what is open goes on.
//!
//! The disk is a small one in memory, and a file takes the room on it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use unanimous_client::api::Code;

use crate::coordinator::Coordinator;
use crate::deed::{Deed, request};
use crate::http::Reply;
use crate::place::{eventually, skip};
use crate::service::Work;
use crate::witness::Outcome;
use crate::world::World;

/// Room for the first segment, the next one and the one after that.
const DISK_BYTES: u64 = 96 << 20;

/// A segment made in advance, as it is by default.
const SPARE_BYTES: u64 = 32 << 20;

/// Work that fills segments soon.
const HEAVY_BYTES: usize = 100_000;

/// More heavy transactions than the first two segments have room for.
const HEAVY_MAX: usize = 250;

/// Transactions that are open when the disk becomes full, and the time they have.
const OPEN: usize = 8;
const LONG_TIMEOUT_MS: u64 = 600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_work_loses_nothing_and_goes_on_when_there_is_room() {
    let world = Arc::new(World::new().await);
    let Some(disk) = Disk::mount(&world.setup.data) else { return skip("leave to mount a disk") };
    let mut coordinator = Coordinator::start(&world.setup).await;
    eventually("prepared for the next segment", async || prepared(&world)).await;
    let ballast = disk.fill();

    let mut open = Vec::new();
    for number in 0..OPEN {
        let work = Work { label: format!("open-{number}"), ..Work::default() };
        let begun = world.prepare_within(&work, LONG_TIMEOUT_MS).await;
        open.push(begun.expect("there is room to begin"));
    }
    let refusal = work_until_refused(&world).await;
    assert_refused(&refusal);
    let keyed = request(&Work::of("keyed"), "finished");
    let keyed = world.http.post("/v1/transactions", Some("keyed"), &keyed).await;
    assert_refused(&keyed.expect("it answers"));
    let ready = world.http.get("/readyz").await.expect("it answers");
    assert_eq!(ready.status, 503);

    world.ask_about_all().await;
    for txn in &open {
        world.commit(txn).await.expect("what is open goes on");
        assert_eq!(world.witness.told().get(txn), Some(&Outcome::Committed));
    }

    std::fs::remove_file(ballast).expect("it is ours");
    eventually("room again", async || world.perform(Deed::Run, "room again").await).await;
    world.perform(Deed::Keyed, "keyed").await.expect("there is room");
    world.verdict().await;
    coordinator.kill().await;
    let mut coordinator = Coordinator::start(&world.setup).await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_is_not_started_on_a_full_disk_and_loses_nothing_by_the_attempt() {
    let world = Arc::new(World::new().await);
    let Some(disk) = Disk::mount(&world.setup.data) else { return skip("leave to mount a disk") };
    let ballast = disk.fill();
    let ended = Coordinator::spawn(&world.setup, None).ended().await;
    assert_names_disk(ended.refusal(2), &world);
    std::fs::remove_file(&ballast).expect("it is ours");

    let mut coordinator = Coordinator::start(&world.setup).await;
    for deed in Deed::ALL {
        world.perform(deed, &format!("{deed:?}")).await.expect("there is room");
    }
    coordinator.kill().await;
    let ballast = disk.fill();
    // Segments that were made in advance are used up by the first attempts.
    let ended = eventually("refused", async || {
        let mut coordinator = Coordinator::spawn(&world.setup, None);
        let Err(ended) = coordinator.alive().await else {
            world.ask_about_all().await;
            coordinator.kill().await;
            return Err("it still finds a segment".to_owned());
        };
        Ok(ended)
    })
    .await;
    assert_names_disk(ended.refusal(2), &world);
    std::fs::remove_file(ballast).expect("it is ours");
    let mut coordinator = Coordinator::start(&world.setup).await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

fn assert_names_disk(line: &str, world: &World) {
    let folder = world.setup.data.display().to_string();
    assert!(line.contains(&folder) && line.contains("No space left"), "{line}");
}

/// Fills the segments that there are. Returns the refusal.
async fn work_until_refused(world: &World) -> Reply {
    for number in 0..HEAVY_MAX {
        let ballast = "x".repeat(HEAVY_BYTES);
        let work = Work { label: format!("heavy-{number}"), ballast, ..Work::default() };
        let request: Value = request(&work, "finished");
        let reply = world.http.post("/v1/transactions", None, &request).await;
        let reply = reply.expect("it answers");
        match reply.view() {
            Some(view) => world.witness.view("a client", &view),
            None => return reply,
        }
    }
    panic!("{HEAVY_MAX} transactions of {HEAVY_BYTES} bytes a branch were taken on a full disk");
}

fn assert_refused(reply: &Reply) {
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!((reply.status, reply.code()), (503, Some(Code::JournalFull)), "{text}");
    assert!(reply.headers.contains_key("retry-after"), "{:?}", reply.headers);
}

/// Whether the segment after the present one is there.
fn prepared(world: &World) -> Result<(), String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let files = world.setup.files();
    let spare = files.iter().find(|path| name(path).is_some_and(|it| it.starts_with("spare-")));
    let len = spare.and_then(|path| path.metadata().ok()).map_or(0, |facts| facts.len());
    if len >= SPARE_BYTES { Ok(()) } else { Err(format!("{len} bytes are")) }
}

/// A disk in memory.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one at `path`, if we may.
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("the folder of the test can be written to");
        let size = format!("size={DISK_BYTES},mode=0777");
        let mounted = as_root("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], path);
        mounted.then(|| Self(path.to_owned()))
    }

    /// Takes all the room that is left. Returns the file that has it.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).expect("a file without bytes takes no room");
        let block = [0; 4_096];
        while file.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        as_root("umount", &["--lazy"], &self.0);
    }
}

/// Runs a command that needs rights, if there is a way to get them without a question.
fn as_root(command: &str, arguments: &[&str], path: &Path) -> bool {
    [vec![command], vec!["sudo", "-n", command]].into_iter().any(|words| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments).arg(path).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}
