//! The demo with bookings as its readers run it: every booking is whole or undone, whatever is killed.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Kills of each process in the long test.
const KILLS: &str = "UNANIMOUS_KILLS";

/// How many bookings there are for each kill of each process.
const BOOKINGS_PER_KILL: u32 = 50;

fn demo(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    command.arg("demo").args(arguments).env("TMPDIR", folder).stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let (said, complaint) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    let said = String::from_utf8(said).expect("output is UTF-8");
    (output.status.code(), if said.is_empty() { complaint } else { said })
}

/// Runs it, and checks all that has to hold whatever the seed.
fn whole(bookings: u32, seed: &str) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, said) =
        demo(folder.path(), &["--bookings", &bookings.to_string(), "--seed", seed, "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(code, Some(0), "{report:#}");
    let audit = &report["audit"];
    for wrong in ["half_done", "done_wrongly", "oversold", "unbalanced", "lied_about"] {
        assert_eq!(audit[wrong], 0, "{report:#}");
    }
    for left in ["unknown", "unfinished", "stuck"] {
        assert_eq!(report[left], 0, "{report:#}");
    }
    assert_eq!(audit["whole"], report["made"], "{report:#}");
    let ends = audit["whole"].as_u64().zip(audit["undone"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(ends, Some(bookings.into()), "{report:#}");
    let kills = report["kills"].as_object().expect("by process");
    assert_eq!(kills.len(), 4, "{report:#}");
    let each = u64::from((bookings / BOOKINGS_PER_KILL).max(3));
    assert!(kills.values().all(|kills| kills.as_u64() == Some(each)), "{report:#}");
    let left = std::fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(left, 0, "the demo left its folder");
    report
}

#[test]
fn every_booking_is_whole_or_undone_though_everything_is_killed() {
    let report = whole(300, "1");
    for some in ["made", "cancelled", "asked_twice"] {
        assert!(report[some].as_u64() > Some(0), "no booking was {some}: {report:#}");
    }
    for kind in ["no_funds", "no_seat"] {
        assert!(report["refused"][kind].as_u64() > Some(0), "none for {kind}: {report:#}");
    }
    assert!(report["audit"]["refunded"].as_u64() > Some(0), "nothing was undone: {report:#}");
}

#[test]
#[ignore = "takes minutes: hundreds of kills"]
fn every_booking_is_whole_or_undone_after_hundreds_of_kills() {
    let kills = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok());
    whole(kills.unwrap_or(200) * BOOKINGS_PER_KILL, "42");
}

#[test]
fn bookings_are_one_screen_for_people_and_no_transfers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, said) = demo(folder.path(), &["booking", "--bookings", "40", "--seed", "2"]);
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "12 times: coordinator 3, flight 3, hotel 3, payment 3;",
        "0 half done, 0 done twice or wrongly, 0 oversold, 0 told other than done",
        "0 sagas unfinished, 0 wait for an operator",
        "EVERY BOOKING IS WHOLE OR UNDONE:",
    ] {
        assert!(said.contains(line), "not there: {line}\n{said}");
    }
    assert!(said.lines().count() < 24, "more than a screen: {said}");
    let (code, said) = demo(folder.path(), &["--bookings", "40", "--transfers", "40"]);
    assert_eq!(code, Some(2), "{said}");
}
