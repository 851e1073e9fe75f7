//! Records as bytes: what was once written reads back for ever, and nothing makes the decoder
//! panic.
//!
//! `UPDATE=1 cargo test -p unanimous-journal --test codec` writes the golden files of kinds that
//! have none. A file that exists is never written again: its kind may be on somebody's disk.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use unanimous_core::commit::{Begun, Branch, Ending, Key, Mode, Phases, Record as Commit, Shape};
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::saga::{self, Action, Plan, Record as Saga, Retry, Role, Trouble, Work};
use unanimous_core::txn::Record;
use unanimous_core::{Decision, Force, HeuristicKind, Opaque, Reason, Resolution, Vote};
use unanimous_journal::codec::{decode, encode};

/// Numbers by chance, the same for the same seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    /// Small numbers more often than large ones.
    fn number(&mut self) -> u64 {
        let bits = self.below(65);
        self.next().checked_shr(64 - bits as u32).unwrap_or(0)
    }

    fn text(&mut self) -> String {
        (0..self.below(12))
            .map(|_| self.pick(&['a', 'Z', '0', ' ', 'ß', '漢', '🙂', '\0']))
            .collect()
    }

    fn opaque(&mut self) -> Opaque {
        let bytes: Vec<u8> = (0..self.below(40)).map(|_| self.next() as u8).collect();
        Opaque::new(&bytes)
    }

    fn branch_id(&mut self) -> BranchId {
        BranchId(self.number() as u16)
    }

    fn branch(&mut self) -> Branch {
        Branch {
            name: self.text().into(),
            resource: self.text().into(),
            phases: self.pick(&[Phases::One, Phases::Two]),
            work: self.opaque(),
        }
    }

    fn decision(&mut self) -> Decision {
        self.pick(&[Decision::Commit, Decision::Abort])
    }

    fn ending(&mut self) -> Ending {
        self.pick(&[
            Ending::Done,
            Ending::Settled,
            Ending::Heuristic(HeuristicKind::Commit),
            Ending::Heuristic(HeuristicKind::Rollback),
            Ending::Heuristic(HeuristicKind::Mixed),
            Ending::Heuristic(HeuristicKind::Hazard),
        ])
    }

    fn many<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(6)).map(|_| item(self)).collect()
    }

    fn perhaps<T>(&mut self, item: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| item(self))
    }

    fn record(&mut self) -> Record {
        match self.below(2) {
            0 => self.of_two_phases(),
            _ => Record::Saga(self.of_a_saga()),
        }
    }

    fn reason(&mut self) -> Reason {
        Reason { kind: self.text().into(), detail: self.text().into() }
    }

    fn key(&mut self) -> Key {
        let fingerprint = std::array::from_fn(|_| self.next() as u8);
        Key { text: self.text().into(), fingerprint }
    }

    fn resolution(&mut self) -> Resolution {
        Resolution {
            outcome: self.decision(),
            force: self.pick(&[Force::No, Force::Yes]),
            by: self.text().into(),
            reason: self.text().into(),
        }
    }

    fn work(&mut self) -> Work {
        Work {
            resource: self.text().into(),
            work: self.opaque(),
            retry: Retry {
                attempts_max: self.perhaps(|rng| rng.number() as u32),
                backoff_ms: self.number(),
                backoff_max_ms: self.number(),
            },
            timeout_ms: self.perhaps(Self::number),
        }
    }

    fn plan(&mut self) -> Plan {
        Plan {
            name: self.text().into(),
            after: self.many(Self::branch_id),
            action: match self.below(5) {
                0 => Action::Call(self.work()),
                1 => Action::Signal(self.perhaps(Self::number)),
                2 => Action::Local(self.work(), self.number()),
                3 => Action::Message(self.work()),
                _ => Action::Pause(self.number()),
            },
            compensation: self.perhaps(Self::work),
            role: self.pick(&[Role::Compensable, Role::Pivot, Role::Retriable]),
            state: self.perhaps(|rng| rng.text().into()),
        }
    }

    fn of_a_saga(&mut self) -> Saga {
        match self.below(12) {
            0 => Saga::Begun(Arc::new(saga::Begun {
                start_at: self.perhaps(|rng| Timestamp(rng.number())),
                timeout_ms: self.perhaps(Self::number),
                deadline: self.perhaps(|rng| Timestamp(rng.number())),
                steps: self.many(Self::plan),
                input: self.opaque(),
                key: self.perhaps(Self::key),
                memo: self.opaque(),
            })),
            1 => Saga::Started,
            2 => Saga::Timed(self.branch_id(), Timestamp(self.number())),
            3 => Saga::Acted(self.branch_id(), self.opaque()),
            4 => Saga::Refused(self.branch_id(), self.reason()),
            5 => Saga::Unwinding { step: self.perhaps(Self::branch_id), reason: self.reason() },
            6 => Saga::Undone(self.branch_id()),
            7 => Saga::Kept(self.branch_id()),
            8 => {
                let trouble = self.pick(&[Trouble::Silent, Trouble::Refused]);
                Saga::Stuck(self.branch_id(), trouble, self.reason())
            }
            9 => Saga::Unstuck(self.branch_id()),
            10 => Saga::Announced(self.branch_id()),
            _ => Saga::Resolved(self.resolution()),
        }
    }

    fn of_two_phases(&mut self) -> Record {
        Record::Commit(match self.below(7) {
            0 => Commit::Begun(Arc::new(Begun {
                shape: self.pick(&[Shape::Atomic, Shape::Tcc]),
                mode: self.pick(&[Mode::Run, Mode::RunLater, Mode::Interactive]),
                timeout_ms: self.number(),
                deadline: Timestamp(self.number()),
                branches: self.many(Self::branch),
                key: self.perhaps(Self::key),
                memo: self.opaque(),
            })),
            1 => Commit::Enlisted(self.branch()),
            2 => Commit::Preparing,
            3 => Commit::Delegated(self.branch_id()),
            4 => Commit::Decided {
                decision: self.decision(),
                votes: self.many(|rng| {
                    rng.pick(&[None, Some(Vote::Yes), Some(Vote::ReadOnly), Some(Vote::No)])
                }),
                reason: self.perhaps(|rng| (rng.perhaps(Self::branch_id), rng.reason())),
                results: self.many(|rng| (rng.branch_id(), rng.opaque())),
            },
            5 => Commit::Finished(self.branch_id(), self.ending()),
            _ => Commit::Resolved(self.resolution()),
        })
    }
}

/// One record of every kind and layout, with the name of its golden file.
fn samples() -> Vec<(&'static str, Record)> {
    let branch = |name: &str, phases, work: &[u8]| Branch {
        name: name.into(),
        resource: format!("{name}-db").into(),
        phases,
        work: Opaque::new(work),
    };
    let begun = |mode, key, branches| {
        Commit::Begun(Arc::new(Begun {
            shape: Shape::Atomic,
            mode,
            timeout_ms: 30_000,
            deadline: Timestamp(1_763_700_030_123),
            branches,
            key,
            memo: Opaque::new(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        }))
    };
    let tcc = Begun {
        shape: Shape::Tcc,
        mode: Mode::Run,
        timeout_ms: 30_000,
        deadline: Timestamp(1_763_700_030_123),
        branches: vec![branch("seats", Phases::Two, b"{}")],
        key: None,
        memo: Opaque::default(),
    };
    let two = || vec![branch("wallet", Phases::Two, b"{}"), branch("ledger", Phases::One, b"")];
    let key = Key { text: "order-42".into(), fingerprint: *b"0123456789abcdef" };
    let records = [
        ("01-begun", begun(Mode::Run, Some(key), two())),
        ("01-begun-later", begun(Mode::RunLater, None, two())),
        ("01-begun-interactive", begun(Mode::Interactive, None, Vec::new())),
        ("02-enlisted", Commit::Enlisted(branch("audit", Phases::Two, &[0xFF; 200]))),
        ("03-preparing", Commit::Preparing),
        ("04-delegated", Commit::Delegated(BranchId(0))),
        (
            "05-decided-commit",
            Commit::Decided {
                decision: Decision::Commit,
                votes: vec![Some(Vote::Yes), Some(Vote::ReadOnly)],
                reason: None,
                results: vec![(BranchId(1), Opaque::new(b"[{\"rows_affected\":1}]"))],
            },
        ),
        (
            "05-decided-abort",
            Commit::Decided {
                decision: Decision::Abort,
                votes: vec![Some(Vote::No), None],
                reason: Some((Some(BranchId(0)), Reason::new("expectation", "0 rows, not 1"))),
                results: Vec::new(),
            },
        ),
        ("06-finished", Commit::Finished(BranchId(300), Ending::Done)),
        ("06-finished-settled", Commit::Finished(BranchId(1), Ending::Settled)),
        (
            "06-finished-hazard",
            Commit::Finished(BranchId(1), Ending::Heuristic(HeuristicKind::Hazard)),
        ),
        (
            "07-resolved",
            Commit::Resolved(Resolution {
                outcome: Decision::Abort,
                force: Force::Yes,
                by: "ops@example".into(),
                reason: "ended by hand, ticket 7".into(),
            }),
        ),
        ("08-begun-tcc", Commit::Begun(Arc::new(tcc))),
    ];
    let two_phases = records.map(|(name, record)| (name, Record::Commit(record)));
    let sagas = of_sagas().into_iter().map(|(name, record)| (name, Record::Saga(record)));
    two_phases.into_iter().chain(sagas).collect()
}

fn of_sagas() -> Vec<(&'static str, Saga)> {
    let retry = Retry { attempts_max: Some(5), backoff_ms: 100, backoff_max_ms: 5_000 };
    let work = |path: &str, timeout_ms| Work {
        resource: "wallet".into(),
        work: Opaque::new(format!(r#"{{"path":"{path}"}}"#).as_bytes()),
        retry,
        timeout_ms,
    };
    let plan = |name: &str, action, role| Plan {
        name: name.into(),
        after: Vec::new(),
        action,
        compensation: None,
        role,
        state: None,
    };
    let charge = Plan {
        compensation: Some(work("/refund", None)),
        state: Some("PaymentPending".into()),
        ..plan("charge", Action::Call(work("/charge", Some(2_000))), Role::Compensable)
    };
    let approve = Plan {
        after: vec![BranchId(0)],
        ..plan("approve", Action::Signal(Some(86_400_000)), Role::Compensable)
    };
    let ticket = plan("ticket", Action::Call(work("/emit", None)), Role::Pivot);
    let rest = plan("rest", Action::Pause(60_000), Role::Retriable);
    let wait = plan("wait", Action::Signal(None), Role::Retriable);
    let begun = saga::Begun {
        start_at: Some(Timestamp(1_763_700_001_123)),
        timeout_ms: Some(30_000),
        deadline: Some(Timestamp(1_763_700_031_123)),
        steps: vec![charge, approve, ticket, rest, wait],
        input: Opaque::new(br#"{"user":"u-204"}"#),
        key: Some(Key { text: "order-42".into(), fingerprint: *b"0123456789abcdef" }),
        memo: Opaque::default(),
    };
    let local = Action::Local(work("settle", None), 30_000);
    let message = saga::Begun {
        steps: vec![
            plan("source", local, Role::Pivot),
            plan("rest", Action::Pause(1), Role::Retriable),
        ],
        ..begun.clone()
    };
    let sent = Action::Message(work("/receipts", Some(2_000)));
    let sends =
        saga::Begun { steps: vec![plan("receipt", sent, Role::Retriable)], ..begun.clone() };
    let reason = || Reason::new("sold_out", "B2-31 is taken");
    vec![
        ("40-saga-begun", Saga::Begun(Arc::new(begun))),
        ("40-saga-begun-message", Saga::Begun(Arc::new(message))),
        ("41-saga-started", Saga::Started),
        ("42-saga-timed", Saga::Timed(BranchId(1), Timestamp(1_763_786_400_123))),
        ("43-saga-acted", Saga::Acted(BranchId(0), Opaque::new(br#"{"id":"ch_1"}"#))),
        ("44-saga-refused", Saga::Refused(BranchId(2), reason())),
        ("45-saga-unwinding", Saga::Unwinding { step: Some(BranchId(2)), reason: reason() }),
        ("46-saga-undone", Saga::Undone(BranchId(0))),
        ("47-saga-kept", Saga::Kept(BranchId(300))),
        ("48-saga-stuck", Saga::Stuck(BranchId(0), Trouble::Silent, reason())),
        ("48-saga-stuck-refused", Saga::Stuck(BranchId(0), Trouble::Refused, reason())),
        ("49-saga-unstuck", Saga::Unstuck(BranchId(0))),
        ("4b-saga-announced", Saga::Announced(BranchId(1))),
        ("40-saga-begun-sends", Saga::Begun(Arc::new(sends))),
        (
            "4a-saga-resolved",
            Saga::Resolved(Resolution {
                outcome: Decision::Abort,
                force: Force::No,
                by: "ops@example".into(),
                reason: "refunded by hand, ticket 7".into(),
            }),
        ),
    ]
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").expect("writing to a string");
        }
        text.push('\n');
    }
    text
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes);
    bytes
}

#[test]
fn what_was_once_written_reads_back_for_ever() {
    for (name, record) in samples() {
        let path = golden(name);
        let hex = to_hex(&encoded(&record));
        if !path.exists() {
            assert!(std::env::var_os("UPDATE").is_some(), "{} is missing", path.display());
            fs::write(&path, &hex).expect("writable");
        }
        let kept = fs::read_to_string(&path).expect("readable");
        let digits: Vec<char> = kept.chars().filter(|digit| !digit.is_whitespace()).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).expect("hexadecimal"))
            .collect();
        assert_eq!(decode(&bytes), Ok((record, bytes.len())), "{name}");
        assert_eq!(hex, kept, "{name} is written as it was");
    }
}

#[test]
fn every_kind_has_a_golden_file() {
    let named = samples();
    let kinds: std::collections::BTreeSet<u8> =
        named.iter().map(|(_, record)| encoded(record)[0]).collect();
    let known = (0..=u8::MAX).filter(|&kind| {
        // A known kind fails later than at its first byte, or not at all.
        match decode(&[&[kind][..], &[0xFF; 64]].concat()) {
            Ok(_) => true,
            Err(error) => error.offset > 0,
        }
    });
    assert_eq!(kinds, known.collect());
}

#[test]
fn any_record_reads_back() {
    let mut rng = Rng(1);
    for _ in 0..50_000 {
        let record = rng.record();
        let mut bytes = encoded(&record);
        let len = bytes.len();
        bytes.extend([0xAB; 3]);
        assert_eq!(decode(&bytes), Ok((record, len)));
        for cut in 0..len {
            assert!(decode(&bytes[..cut]).is_err(), "a part of a record is none");
        }
    }
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    let mut rng = Rng(2);
    let samples: Vec<Vec<u8>> = samples().iter().map(|(_, record)| encoded(record)).collect();
    for _ in 0..400_000 {
        let mut bytes = rng.pick(&samples);
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(5) {
                0 => bytes[at] = rng.next() as u8,
                1 => bytes[at] ^= 1 << rng.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, rng.pick(&[0, 1, 0x7F, 0x80, 0xFF])),
                _ => {
                    let other = rng.pick(&samples);
                    bytes.extend_from_slice(&other[rng.below(other.len() as u64) as usize..]);
                }
            }
        }
        if let Ok((record, len)) = decode(&bytes) {
            let again = encoded(&record);
            assert!(again.len() <= len, "no longer than what it was read from");
            assert_eq!(decode(&again), Ok((record, again.len())));
        }
    }
    for _ in 0..100_000 {
        let bytes: Vec<u8> = (0..rng.below(80)).map(|_| rng.next() as u8).collect();
        let _ = decode(&bytes);
    }
}
