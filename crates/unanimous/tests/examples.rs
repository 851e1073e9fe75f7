//! The demos with orders and with seats as their readers run them: the books balance, in every way, and
//! nothing is left behind.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a demo in a folder, and returns its exit code and what it said.
fn demo(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    command.arg("demo").args(arguments).env("TMPDIR", folder).stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (output.status.code(), String::from_utf8(said).expect("output is UTF-8"))
}

/// Runs one that must come out, and returns its report.
fn report(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, said) = demo(folder.path(), &[arguments, &["--json"]].concat());
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(code, Some(0), "{report:#}");
    let left = std::fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(left, 0, "the demo left its folder");
    report
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn every_order_is_paid_sold_and_placed_or_nothing_in_each_of_three_ways() {
    let report = report(&["order", "--orders", "10"]);
    let runs = report["runs"].as_array().expect("a list");
    let ways: Vec<_> = runs.iter().map(|run| run["way"].as_str().expect("a word")).collect();
    assert_eq!(ways, ["two_phase", "naive_saga", "authorise_capture"]);
    for run in runs {
        let audit = &run["audit"];
        for wrong in ["half_done", "done_wrongly", "lied_about"] {
            assert_eq!(audit[wrong], 0, "{run:#}");
        }
        assert_eq!(
            (&audit["whole"], &audit["undone"]),
            (&run["placed"], &Value::from(3)),
            "{run:#}"
        );
        assert_eq!(run["placed"], 7, "{run:#}");
        assert_eq!(run["failed"]["undeliverable"], 2, "{run:#}");
        assert_eq!(run["failed"]["declined"], 1, "{run:#}");
    }
    // A reply that was lost is not asked for again if the order had failed elsewhere by then; the saga
    // asks for one thing at a time.
    let repeats = |run: &Value| number(&run["audit"]["repeats"]);
    assert!(runs.iter().map(repeats).sum::<f64>() > 0.0, "no reply was lost: {report:#}");
    let seen = |way: usize, what: &str| runs[way]["audit"]["seen_of_failed"][what].clone();
    assert_eq!(seen(0, "nothing"), 3);
    assert_eq!(seen(1, "charged, refunded"), 2);
    assert_eq!(seen(2, "authorised, released"), 2);
    let locked = |way: usize| number(&runs[way]["alone"]["locked_ms_p50"]);
    assert!(locked(0) >= 240.0, "2PC keeps the lock until the card has answered: {}", locked(0));
    assert!(locked(2) < locked(0), "{} and {}", locked(2), locked(0));
}

#[test]
fn every_seat_of_a_failed_attempt_is_free_again_and_every_other_has_one_ticket() {
    let report = report(&["seats", "--seconds", "1", "--in-flight", "16", "--seed", "1"]);
    let audit = &report["audit"];
    for wrong in ["seats_kept", "charged_wrongly", "tickets_wrong", "otherwise_wrong", "unbalanced"]
    {
        assert_eq!(audit[wrong], 0, "{report:#}");
    }
    for left in ["unknown", "unfinished", "stuck"] {
        assert_eq!(report[left], 0, "{report:#}");
    }
    assert_eq!(report["failed"]["no_funds"], audit["undone"], "{report:#}");
    for load in ["full", "half"] {
        let load = &report[load];
        assert!(number(&load["booked"]) > 0.0, "{report:#}");
        assert_eq!(load["failed"], load["shown_reserved"], "{report:#}");
        assert_eq!(
            number(&load["attempts"]),
            number(&load["booked"]) + number(&load["failed"]),
            "{report:#}"
        );
    }
}

#[test]
fn each_demo_is_one_screen_for_people() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, said) = demo(folder.path(), &["seats", "--seconds", "1", "--seed", "2"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("EVERY ATTEMPT IS WHOLE OR UNDONE"), "{said}");
    assert!(said.lines().count() < 24, "more than a screen: {said}");
    let (code, said) = demo(folder.path(), &["order", "--orders", "10"]);
    assert_eq!(code, Some(0), "{said}");
    for line in ["THE BOOKS BALANCE in each way", "2 charged, refunded", "2 authorised, released"] {
        assert!(said.contains(line), "not there: {line}\n{said}");
    }
    assert!(said.lines().count() < 24, "more than a screen: {said}");
    let (code, said) = demo(folder.path(), &["--transfers", "40", "order"]);
    assert_eq!(code, Some(2), "{said}");
}
