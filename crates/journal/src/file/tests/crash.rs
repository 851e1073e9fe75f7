//! Crashes at every place, by chance and by exhaustion, and damage to every byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Rng;
use super::disk::{Crash, Disk};
use super::life::{Life, Model};
use crate::error::JournalError;

/// Draws how a life ends.
fn any_crash(rng: &mut Rng) -> Crash {
    match rng.below(5) {
        0 => Crash::Kill,
        1 => Crash::PowerLoss(0),
        2 => Crash::PowerLoss(100),
        _ => Crash::PowerLoss(10 + rng.below(80)),
    }
}

/// Lives of one journal that end in crashes, failing syncs and good order, one after the other.
fn history(seed: u64) {
    let mut rng = Rng::new(seed);
    let disk = Disk::new(seed ^ 0xD15C);
    let mut model = Model::default();
    for _ in 0..2 + rng.below(5) {
        if rng.below(3) > 0 {
            disk.crash_after(1 + rng.below(60));
        } else if rng.below(2) == 0 {
            disk.fail_sync_after(rng.below(20));
        }
        match Life::open(&disk, &mut model) {
            Ok(life) => live(life, &mut model, &mut rng),
            Err(error) => assert!(matches!(error, JournalError::Failed(_)), "{error}"),
        }
        disk.crash(any_crash(&mut rng));
    }
    let life = Life::open(&disk, &mut model).expect("a sound disk");
    life.check_history(&model).expect("a sound disk");
}

fn live(mut life: Life, model: &mut Model, rng: &mut Rng) {
    life.check_history(model).expect("only writing fails");
    for _ in 0..rng.below(120) {
        if life.step(model, rng).is_err() {
            assert!(life.failures() <= 1, "a failure is told once");
            return;
        }
    }
    if rng.below(3) == 0 {
        let _ = life.close(model);
    }
}

#[test]
fn no_crash_takes_what_was_told_durable() {
    for seed in 0..super::seeds(3_000) {
        let run = std::panic::catch_unwind(|| history(seed));
        if let Err(panic) = run {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A life with appends, rolls, recycled segments and a close; always the same operations.
fn script(disk: &Arc<Disk>, model: &mut Model) -> Result<(), JournalError> {
    let mut rng = Rng::new(7);
    let mut life = Life::open(disk, model)?;
    while life.segments().last() < Some(&4) {
        life.step(model, &mut rng)?;
    }
    life.close(model)
}

#[test]
fn a_crash_at_any_operation_and_another_while_it_is_repaired_lose_nothing() {
    let disk = Disk::new(1);
    script(&disk, &mut Model::default()).expect("a sound disk");
    let ops = disk.ops();
    let crashes = [Crash::Kill, Crash::PowerLoss(0), Crash::PowerLoss(50), Crash::PowerLoss(100)];
    for (at, first) in (1..=ops).flat_map(|at| crashes.map(|crash| (at, crash))) {
        let crashed = Disk::new(at);
        let mut before = Model::default();
        crashed.crash_after(at);
        let _ = script(&crashed, &mut before);
        crashed.crash(first);
        for again in 1.. {
            let (disk, mut model) = (crashed.fork(at * 1_000 + again), before.clone());
            disk.crash_after(again);
            let repaired = Life::open(&disk, &mut model).is_ok();
            disk.crash(Crash::PowerLoss(50));
            let life = Life::open(&disk, &mut model).expect("a sound disk");
            life.check_history(&model).expect("a sound disk");
            if repaired {
                break;
            }
        }
    }
}

/// Opens a disk with this image, and goes through all of its history.
fn inspect(image: &BTreeMap<String, Vec<u8>>, model: &mut Model) -> Result<(), JournalError> {
    let disk = Disk::with(image);
    Life::open(&disk, model)?.check_history(model)
}

/// Changes each byte of each segment in turn. Nothing before `spared` may go unnoticed.
fn damage_everything(image: &BTreeMap<String, Vec<u8>>, model: &Model, spared: &Model) -> [u64; 2] {
    let (mut refused, mut harmless) = (0, 0);
    for name in image.keys().filter(|name| name.ends_with(".seg")) {
        for offset in 0..image[name].len() {
            let mut damaged = image.clone();
            damaged.get_mut(name).expect("named")[offset] ^= 1 << (offset % 8);
            let mut found = model.clone();
            found.promised = spared.promised;
            match inspect(&damaged, &mut found) {
                Ok(()) => harmless += 1,
                Err(JournalError::Damaged { path, .. }) => {
                    assert!(path.ends_with(name), "{name} was damaged, not {}", path.display());
                    refused += 1;
                }
                Err(error) => panic!("{name} byte {offset}: {error}"),
            }
        }
    }
    [refused, harmless]
}

#[test]
fn a_changed_byte_is_told_with_its_segment_or_harms_nothing() {
    let mut model = Model::default();
    let disk = Disk::new(2);
    let mut rng = Rng::new(11);
    let mut life = Life::open(&disk, &mut model).expect("a sound disk");
    while life.segments().len() < 2 {
        life.work(&mut model, &mut rng).expect("a sound disk");
    }
    // Not closed: of the last frame nobody can tell whether it is torn or damaged.
    let torn_may_be = model.clone();
    for _ in 0..12 {
        life.work(&mut model, &mut rng).expect("a sound disk");
    }
    life.flush(&mut model).expect("a sound disk");
    let [refused, harmless] = damage_everything(&disk.image(), &model, &torn_may_be);
    assert!(refused > 1_000 && harmless > 0, "{refused} {harmless}");
}

#[test]
fn after_a_close_in_good_order_every_changed_byte_of_an_entry_is_told() {
    let mut model = Model::default();
    let disk = Disk::new(3);
    let mut rng = Rng::new(12);
    let mut life = Life::open(&disk, &mut model).expect("a sound disk");
    for _ in 0..30 {
        life.work(&mut model, &mut rng).expect("a sound disk");
    }
    life.close(&mut model).expect("a sound disk");
    let whole = model.clone();
    damage_everything(&disk.image(), &model, &whole);
}

#[test]
fn a_segment_that_was_cut_short_is_refused() {
    let mut model = Model::default();
    let disk = Disk::new(4);
    let mut rng = Rng::new(13);
    let mut life = Life::open(&disk, &mut model).expect("a sound disk");
    for _ in 0..30 {
        life.work(&mut model, &mut rng).expect("a sound disk");
    }
    let image = disk.image();
    let (name, bytes) = image.iter().find(|(name, _)| name.ends_with(".seg")).expect("one");
    for len in (0..bytes.len()).step_by(97) {
        let mut cut = image.clone();
        cut.get_mut(name).expect("named").truncate(len);
        let opened = Life::open(&Disk::with(&cut), &mut model.clone());
        assert!(matches!(opened, Err(JournalError::Damaged { .. })), "{len} bytes");
    }
    let mut gone = image.clone();
    gone.remove(name);
    let opened = Life::open(&Disk::with(&gone), &mut model.clone());
    assert!(matches!(opened, Err(JournalError::Damaged { .. })), "the only segment is gone");
}
