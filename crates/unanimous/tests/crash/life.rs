//! An ordinary life: asked to stop, paused, started twice, started on a folder that is damaged.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::chance::Chance;
use crate::coordinator::Coordinator;
use crate::crowd::Crowd;
use crate::deed::Deed;
use crate::place::eventually;
use crate::world::World;

/// Longer than a transaction here may take.
const PAUSED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_coordinator_on_a_folder_or_an_address_in_use_is_refused_in_one_line() {
    let world = Arc::new(World::new().await);
    let mut first = Coordinator::start(&world.setup).await;

    let setup = world.setup.at_another_address();
    let ended = Coordinator::spawn(&setup, None).ended().await;
    let folder = setup.data.display().to_string();
    let line = ended.refusal(2);
    assert!(line.contains(&folder) && line.contains("in use by another process"), "{line}");

    let setup = world.setup.in_another_folder();
    let ended = Coordinator::spawn(&setup, None).ended().await;
    let line = ended.refusal(2);
    assert!(line.contains(&world.setup.address.to_string()), "{line}");

    world.perform(Deed::Run, "still there").await.expect("the first one goes on");
    world.verdict().await;
    assert_eq!(first.stop().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_asked_to_stop_under_load_decides_what_is_open_and_exits_with_0() {
    let mut chance = Chance::new();
    let world = Arc::new(World::new().await);
    let mut coordinator = Coordinator::start(&world.setup).await;
    let crowd = Crowd::start(&world, &mut chance);
    for round in 1..=3 {
        let enough = world.witness.count() + 100;
        eventually("busy", async || world.told_at_least(enough)).await;
        let ended = coordinator.stop().await;
        assert_eq!(ended.status.code(), Some(0), "round {round}: {}", ended.stderr);
        coordinator = Coordinator::start(&world.setup).await;
    }
    crowd.finish().await;
    world.verdict().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_paused_beyond_every_timeout_goes_on_as_if_nothing_were() {
    let mut chance = Chance::new();
    let world = Arc::new(World::new().await);
    let mut coordinator = Coordinator::start(&world.setup).await;
    let crowd = Crowd::start(&world, &mut chance);
    eventually("busy", async || world.told_at_least(100)).await;
    coordinator.signal(Signal::STOP);
    tokio::time::sleep(PAUSED).await;
    coordinator.signal(Signal::CONT);
    let enough = world.witness.count() + 100;
    eventually("busy again", async || world.told_at_least(enough)).await;
    crowd.finish().await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_is_refused_with_its_name_and_the_place_and_left_as_it_is() {
    let world = Arc::new(World::new().await);
    kill_after_some_work(&world).await;
    let segment = world.setup.newest_segment().expect("there was work");
    let frames = frames(&segment);
    assert!(frames.len() > 4, "{frames:?}");
    for &frame in &frames[..frames.len() - 1] {
        let offset = frame + 20;
        flip(&segment, offset);
        let damaged = std::fs::read(&segment).expect("it is there");
        let ended = Coordinator::spawn(&world.setup, None).ended().await;
        let line = ended.refusal(2);
        let place = format!("{} is damaged at offset {frame}", segment.display());
        assert!(line.contains(&place), "{line}, not {place}");
        assert!(damaged == std::fs::read(&segment).expect("it is there"), "it was changed");
        flip(&segment, offset);
    }
    let _coordinator = Coordinator::start(&world.setup).await;
    world.verdict().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_last_frame_is_cut_off_and_what_it_said_is_found_out_again() {
    for kept in [0, 4, 33] {
        let world = Arc::new(World::new().await);
        kill_after_some_work(&world).await;
        // The last frame says which branches have finished: that costs repeated calls only.
        let segment = world.setup.newest_segment().expect("there was work");
        let last = *frames(&segment).last().expect("there are frames");
        let file = OpenOptions::new().write(true).open(&segment).expect("it is there");
        file.write_all_at(&[0; 4_096], last + kept).expect("it can be written");
        world.setup.forget_history();
        let _coordinator = Coordinator::start(&world.setup).await;
        world.verdict().await;
    }
}

async fn kill_after_some_work(world: &World) {
    let mut coordinator = Coordinator::start(&world.setup).await;
    for deed in Deed::ALL {
        world.perform(deed, &format!("{deed:?}")).await.expect("nobody is killed here");
    }
    world.perform(Deed::Run, "last").await.expect("nobody is killed here");
    // Which branches have finished is written some milliseconds after the last outcome was told.
    let segment = world.setup.newest_segment().expect("the coordinator runs");
    let told = frames(&segment).len();
    eventually("written", async || match frames(&segment).len() {
        count if count > told => Ok(()),
        count => Err(format!("{count} frames")),
    })
    .await;
    coordinator.kill().await;
}

/// Where the frames of a segment begin.
fn frames(segment: &Path) -> Vec<u64> {
    let bytes = std::fs::read(segment).expect("it is there");
    let begins = bytes.windows(4).enumerate().step_by(8).filter(|(_, bytes)| bytes == b"UFRM");
    begins.map(|(offset, _)| offset as u64).collect()
}

fn flip(segment: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(segment).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the segment is longer");
    file.write_all_at(&[byte[0] ^ 0x04], offset).expect("it can be written");
}
