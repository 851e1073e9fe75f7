//! Golden histories: each `history/*.txt` is a conversation with one machine.
//!
//! A line starting with `>` is an input; the indented lines below it are what the machine did, with
//! `!` before a forced record. `UPDATE=1 cargo test` rewrites the files; review the diff.

use std::fmt::Write as _;
use std::sync::Arc;
use std::{env, fs, path::Path};

use unanimous_core::commit::{Begun, Branch, Ending, Mode, Phases, Record as CommitRecord, Shape};
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::txn::{Begun as TxnBegun, Record, Txn};
use unanimous_core::{
    Answer, Decision, Durability, Effect, Force, HeuristicKind, Input, Opaque, Reason, Resolution,
    Step, Verb, Vote,
};

mod saga;

const TIMEOUT_MS: u64 = 30_000;

#[test]
fn histories_are_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/history");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        let expected = fs::read_to_string(&path).expect("it can be read");
        let actual = Conversation::default().replayed(&expected);
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, actual).expect("it can be written");
        } else {
            assert_eq!(expected, actual, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 20, "only {count} histories");
}

/// One machine, its journal, and what was said so far.
#[derive(Default)]
struct Conversation {
    now: Timestamp,
    txn: Option<Txn>,
    journal: Vec<Record>,
    text: String,
}

impl Conversation {
    fn replayed(mut self, history: &str) -> String {
        for line in history.lines().filter(|line| !line.starts_with("  ")) {
            writeln!(self.text, "{line}").expect("a string takes all");
            if let Some(at_ms) = line.strip_prefix("> now ") {
                self.now = Timestamp(at_ms.parse().expect("milliseconds"));
            } else if let Some(words) = line.strip_prefix("> ") {
                let words: Vec<_> = words.split(' ').collect();
                let step = self.said(&words);
                self.print(&step);
                self.journal.extend(step.records);
            }
        }
        self.text
    }

    fn said(&mut self, words: &[&str]) -> Step<Record> {
        let input = match *words {
            ["begin", "saga", ref words @ ..] => {
                return self.begun(TxnBegun::Saga(saga::begun(self.now, words)));
            }
            ["begin", mode, ref branches @ ..] => return self.begin(mode, branches),
            ["at", at_ms] => {
                self.now = Timestamp(at_ms.parse().expect("milliseconds"));
                Input::Woke
            }
            ["restart"] => {
                self.txn = Some(Txn::replay(&self.journal).expect("the machine wrote it"));
                Input::Resumed
            }
            ["crash"] => {
                let is_forced = |it: &Record| it.durability() == Durability::Forced;
                let durable = self.journal.iter().rposition(is_forced).map_or(0, |last| last + 1);
                self.journal.truncate(durable);
                return self.said(&["restart"]);
            }
            ["enlist", name] => Input::Enlist(branch(name)),
            ["commit", ref votes @ ..] => Input::CommitAsked(votes.iter().map(vote).collect()),
            ["abort"] => Input::AbortAsked(Reason::new("client", "changed its mind")),
            ["retry"] => Input::RetryAsked,
            ["resolve", outcome, ref force @ ..] => Input::ResolveAsked(Resolution {
                outcome: if outcome == "commit" { Decision::Commit } else { Decision::Abort },
                force: if force.is_empty() { Force::No } else { Force::Yes },
                by: Arc::from("asha"),
                reason: Arc::from("looked at the books"),
            }),
            [step, "signal", payload] => {
                Input::Signalled(id(step), Opaque::new(payload.as_bytes()))
            }
            [branch, "inquires"] => Input::Inquired(id(branch)),
            [branch, verb, said] => Input::Answered(id(branch), verb_of(verb), answer(said)),
            _ => panic!("what is {words:?}?"),
        };
        self.txn.as_mut().expect("begun").handle(self.now, input)
    }

    fn begin(&mut self, mode: &str, branches: &[&str]) -> Step<Record> {
        let begun = Begun {
            shape: match mode {
                "tcc" => Shape::Tcc,
                _ => Shape::Atomic,
            },
            mode: match mode {
                "run" | "tcc" => Mode::Run,
                "later" => Mode::RunLater,
                "interactive" => Mode::Interactive,
                _ => panic!("no such mode: {mode}"),
            },
            timeout_ms: TIMEOUT_MS,
            deadline: self.now.after_ms(TIMEOUT_MS),
            branches: branches.iter().map(|name| branch(name)).collect(),
            key: None,
            memo: Opaque::default(),
        };
        self.begun(TxnBegun::Commit(begun))
    }

    fn begun(&mut self, begun: TxnBegun) -> Step<Record> {
        let (txn, step) = Txn::begin(begun, self.now);
        self.txn = Some(txn);
        step
    }

    fn print(&mut self, step: &Step<Record>) {
        for record in &step.records {
            let forced = record.durability() == Durability::Forced;
            let mark = if forced { '!' } else { ' ' };
            let shown = match record {
                Record::Commit(record) => shown(record),
                Record::Saga(record) => saga::shown(record),
            };
            writeln!(self.text, "  {mark}{shown}").expect("a string takes all");
        }
        for effect in &step.effects {
            let effect = match effect {
                Effect::Call(branch, verb) => format!("call {branch} {verb:?}"),
                Effect::Undo(branch) => format!("undo {branch}"),
                Effect::Tell(stage) => format!("tell {stage:?}"),
                Effect::WakeAt(at) => format!("wake at {}", at.0),
            };
            writeln!(self.text, "   -> {effect}").expect("a string takes all");
        }
        if let Some(refusal) = &step.refused {
            writeln!(self.text, "   refused: {refusal:?}").expect("a string takes all");
        }
    }
}

/// `wallet`, or `wallet/one` if it can decide alone.
fn branch(name: &str) -> Branch {
    let (name, phases) = match name.strip_suffix("/one") {
        Some(name) => (name, Phases::One),
        None => (name, Phases::Two),
    };
    Branch { name: Arc::from(name), resource: Arc::from(name), phases, work: Opaque::default() }
}

/// `b0=yes`
fn vote(text: &&str) -> (BranchId, Vote) {
    let (branch, vote) = text.split_once('=').expect("a branch and its vote");
    let vote = match vote {
        "yes" => Vote::Yes,
        "read-only" => Vote::ReadOnly,
        "no" => Vote::No,
        _ => panic!("no such vote: {vote}"),
    };
    (id(branch), vote)
}

fn id(text: &str) -> BranchId {
    let number = text.strip_prefix('b').expect("a branch starts with b");
    BranchId(number.parse().expect("a number"))
}

fn verb_of(text: &str) -> Verb {
    match text {
        "prepare" => Verb::Prepare,
        "commit" => Verb::Commit,
        "commit-one-phase" => Verb::CommitOnePhase,
        "rollback" => Verb::Rollback,
        "act" => Verb::Act,
        "compensate" => Verb::Compensate,
        _ => panic!("no such verb: {text}"),
    }
}

fn answer(text: &str) -> Answer {
    match text {
        "yes" => Answer::Yes(Opaque::default()),
        "read-only" => Answer::ReadOnly(Opaque::default()),
        "no" => Answer::No(Reason::new("expectation", "statement 1 changed 0 rows, expected 1")),
        "lost" => Answer::Lost(Reason::new("lost", "the connection broke")),
        "done" => Answer::Done(Opaque::default()),
        "working" => Answer::Working,
        "silent" => Answer::Silent(Arc::from("timed out")),
        "committed-by-itself" => Answer::Heuristic(HeuristicKind::Commit),
        "rolled-back-by-itself" => Answer::Heuristic(HeuristicKind::Rollback),
        "cannot-say" => Answer::Heuristic(HeuristicKind::Hazard),
        _ => panic!("no such answer: {text}"),
    }
}

fn shown(record: &CommitRecord) -> String {
    match record {
        CommitRecord::Begun(begun) => {
            let names: Vec<_> = begun.branches.iter().map(|it| &*it.name).collect();
            let shape = match begun.shape {
                Shape::Atomic => "",
                Shape::Tcc => "Tcc ",
            };
            let names = names.join(" ");
            format!("Begun {shape}{:?} [{names}] until {}", begun.mode, begun.deadline.0)
        }
        CommitRecord::Enlisted(branch) => format!("Enlisted {}", branch.name),
        CommitRecord::Preparing => "Preparing".to_owned(),
        CommitRecord::Delegated(branch) => format!("Delegated to {branch}"),
        CommitRecord::Decided { decision, votes, reason, .. } => {
            let votes: Vec<_> = votes.iter().map(|vote| vote.map_or("?".into(), named)).collect();
            let why = reason.as_ref().map_or(String::new(), |(branch, reason)| {
                let branch = branch.map_or(String::new(), |it| format!(" {it}"));
                format!(" because{branch} {}: {}", reason.kind, reason.detail)
            });
            format!("Decided {decision:?} [{}]{why}", votes.join(" "))
        }
        CommitRecord::Finished(branch, Ending::Heuristic(kind)) => {
            format!("Finished {branch} by itself: {kind:?}")
        }
        CommitRecord::Finished(branch, ending) => format!("Finished {branch} {ending:?}"),
        CommitRecord::Resolved(it) => {
            format!("Resolved {:?} by {}: {}", it.outcome, it.by, it.reason)
        }
    }
}

fn named(vote: Vote) -> String {
    format!("{vote:?}")
}
