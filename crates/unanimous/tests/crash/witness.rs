//! Everything that anybody was told about transactions, and what of it cannot be true together.
//!
//! An outcome that was told once stands for ever (invariant I11 of the fault catalogue, and I3). To
//! be told that a transaction is not known is to be told that it has aborted (presumed abort).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use unanimous_client::api::{Code, OutcomeWord, TransactionView};

use crate::http::Reply;

/// What can be told of a transaction that is decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Committed,
    Aborted,
}

/// Hears what everybody hears.
#[derive(Default)]
pub(crate) struct Witness(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    /// Outcomes by transaction, with who was told first.
    told: HashMap<String, (Outcome, String)>,
    /// Transactions that were said to exist, from when on they may not be forgotten.
    promised: HashSet<String>,
    /// The transaction that each idempotency key was answered with.
    keys: HashMap<String, String>,
    /// What cannot be.
    wrong: Vec<String>,
}

impl Witness {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().expect("nobody panics while it writes down")
    }

    /// `who` was told an outcome.
    pub(crate) fn outcome(&self, who: &str, txn: &str, outcome: OutcomeWord) {
        let outcome = match outcome {
            OutcomeWord::Committed => Outcome::Committed,
            OutcomeWord::Aborted => Outcome::Aborted,
            OutcomeWord::Mixed
            | OutcomeWord::Completed
            | OutcomeWord::Compensated
            | OutcomeWord::NeedsAttention => {
                return self.wrong(format!("{who} was told that {txn} is {}", outcome.as_str()));
            }
        };
        let mut heard = self.heard();
        let first = heard.told.entry(txn.to_owned()).or_insert_with(|| (outcome, who.to_owned()));
        if first.0 != outcome {
            let wrong = format!("{txn}: {who} was told {outcome:?}, {} {:?}", first.1, first.0);
            heard.wrong.push(wrong);
        }
    }

    /// `who` was shown a transaction.
    pub(crate) fn view(&self, who: &str, view: &TransactionView) {
        if let Some(outcome) = view.outcome {
            self.outcome(who, &view.id, outcome);
        }
    }

    /// `who` was told that a transaction is not known.
    pub(crate) fn unknown(&self, who: &str, txn: &str) {
        self.outcome(who, txn, OutcomeWord::Aborted);
        let mut heard = self.heard();
        if heard.promised.contains(txn) {
            heard.wrong.push(format!("{txn}: {who} was told that it is unknown, but it was begun"));
        }
    }

    /// A transaction was said to exist, whoever crashes.
    pub(crate) fn promised(&self, txn: &str) {
        self.heard().promised.insert(txn.to_owned());
    }

    /// A request under a key was answered with the outcome of a transaction.
    pub(crate) fn keyed(&self, key: &str, txn: &str) {
        let mut heard = self.heard();
        let first = heard.keys.entry(key.to_owned()).or_insert_with(|| txn.to_owned());
        if first != txn {
            let wrong = format!("{key} was answered with {first}, and later with {txn}");
            heard.wrong.push(wrong);
        }
    }

    /// `who` asked about a transaction and got this reply. Returns the view, if it is one.
    pub(crate) fn reply(&self, who: &str, txn: &str, reply: &Reply) -> Option<TransactionView> {
        if reply.code() == Some(Code::UnknownTransaction) {
            self.unknown(who, txn);
            return None;
        }
        let view = reply.view()?;
        self.view(who, &view);
        Some(view)
    }

    /// Something happened that may not happen.
    pub(crate) fn wrong(&self, what: String) {
        self.heard().wrong.push(what);
    }

    /// Every transaction of which somebody knows the outcome.
    pub(crate) fn told(&self) -> HashMap<String, Outcome> {
        let heard = self.heard();
        heard.told.iter().map(|(txn, (outcome, _))| (txn.clone(), *outcome)).collect()
    }

    /// How many outcomes were told.
    pub(crate) fn count(&self) -> usize {
        self.heard().told.len()
    }

    /// Every key that was answered with an outcome, and the transaction it stands for.
    pub(crate) fn keys(&self) -> HashMap<String, String> {
        self.heard().keys.clone()
    }

    /// Fails if anything was wrong.
    pub(crate) fn assert_nothing_wrong(&self) {
        let wrong = std::mem::take(&mut self.heard().wrong);
        assert!(wrong.is_empty(), "{} contradictions:\n{}", wrong.len(), wrong.join("\n"));
    }
}
