//! Decides which branches that a resource still holds to commit, roll back or leave alone.
//!
//! Most resources never ask: they hold a prepared branch until somebody ends it. Every few seconds,
//! and at start, each is asked what it holds under our names. The plan is a pure function of two
//! such listings and of what the coordinator knows.
//!
//! A branch with a commit decision is never rolled back. A branch of another cluster, or of a
//! transaction that is live here, is never touched. A branch nobody knows is rolled back only when
//! two complete listings a grace period apart both hold it: what looks forgotten may be a prepare
//! that has just overtaken its transaction's first record. Voters speak as in Narayana's orphan
//! filters: abstain, leave alone, roll back; one "leave alone" wins.

use std::collections::BTreeSet;

use crate::id::{BranchName, ShardId, Timestamp, TxnId};
use crate::step::{Decision, Outcome};

/// What one resource held at one time. Only a listing that came back whole counts: after an error
/// start over with two new ones.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// When it was asked for.
    pub at: Timestamp,
    /// The identifiers as the resource spells them.
    pub held: BTreeSet<String>,
}

/// What the coordinator knows of a transaction, after both listings were taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Known {
    /// A machine is driving it and will end its branches by itself.
    Live,
    /// The journal has its end.
    Ended(Outcome),
    /// Neither in memory nor in the journal.
    Absent,
    /// So old that the journal may have forgotten how it ended.
    Forgotten,
}

/// What to do with a branch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// End it this way.
    End(Decision),
    /// Leave it alone, for this reason.
    LeaveAlone(Why),
}

/// Why a branch is left alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// The identifier is not one of ours.
    Foreign,
    /// Its shard belongs to another coordinator.
    NotOwned,
    /// Its transaction is being driven.
    Live,
    /// Only one of the two listings holds it.
    SeenOnce,
    /// The listings are not a grace period apart.
    TooSoon,
    /// Its transaction has ended with a commit, or mixed: an operator has to look.
    Contradiction,
    /// Nobody can tell any more how its transaction ended: an operator has to look.
    Forgotten,
}

/// The facts of one recovery pass.
pub struct Pass<'a> {
    /// Our cluster's name.
    pub cluster: &'a str,
    /// How far the listings must be apart, in milliseconds.
    pub grace_ms: u64,
    /// The older listing.
    pub earlier: &'a Listing,
    /// The newer listing.
    pub later: &'a Listing,
    /// What is known of a transaction now.
    pub known: &'a dyn Fn(TxnId) -> Known,
    /// Whether this coordinator's epoch of a shard still stands.
    pub owned: &'a dyn Fn(ShardId) -> bool,
}

/// What a voter says of an orphan.
enum Ballot {
    Abstain,
    LeaveAlone(Why),
    Rollback,
}

impl Pass<'_> {
    /// Gives a verdict on every branch that the later listing holds.
    pub fn plan(&self) -> Vec<(String, Verdict)> {
        self.later.held.iter().map(|name| (name.clone(), self.verdict(name))).collect()
    }

    fn verdict(&self, text: &str) -> Verdict {
        let voters: [fn(&Self, &str, &BranchName) -> Ballot; 4] =
            [Self::ownership, Self::liveness, Self::patience, Self::history];
        let Ok(name) = text.parse::<BranchName>() else {
            return Verdict::LeaveAlone(Why::Foreign);
        };
        let mut rollback = false;
        for voter in voters {
            match voter(self, text, &name) {
                Ballot::Abstain => {}
                Ballot::LeaveAlone(why) => return Verdict::LeaveAlone(why),
                Ballot::Rollback => rollback = true,
            }
        }
        assert!(rollback, "one voter always has an opinion");
        Verdict::End(Decision::Abort)
    }

    fn ownership(&self, _: &str, name: &BranchName) -> Ballot {
        match (name.cluster == self.cluster, (self.owned)(name.txn.shard())) {
            (false, _) => Ballot::LeaveAlone(Why::Foreign),
            (true, false) => Ballot::LeaveAlone(Why::NotOwned),
            (true, true) => Ballot::Abstain,
        }
    }

    fn liveness(&self, _: &str, name: &BranchName) -> Ballot {
        match (self.known)(name.txn) {
            Known::Live => Ballot::LeaveAlone(Why::Live),
            Known::Ended(_) | Known::Absent | Known::Forgotten => Ballot::Abstain,
        }
    }

    fn patience(&self, text: &str, _: &BranchName) -> Ballot {
        if !self.earlier.held.contains(text) {
            return Ballot::LeaveAlone(Why::SeenOnce);
        }
        match self.later.at.since_ms(self.earlier.at) >= self.grace_ms {
            true => Ballot::Abstain,
            false => Ballot::LeaveAlone(Why::TooSoon),
        }
    }

    /// Presumed abort, spoken by the owner of the shard's epoch.
    fn history(&self, _: &str, name: &BranchName) -> Ballot {
        match (self.known)(name.txn) {
            Known::Absent | Known::Ended(Outcome::Aborted) => Ballot::Rollback,
            Known::Ended(Outcome::Committed | Outcome::Mixed) => {
                Ballot::LeaveAlone(Why::Contradiction)
            }
            Known::Live => Ballot::LeaveAlone(Why::Live),
            Known::Forgotten => Ballot::LeaveAlone(Why::Forgotten),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BranchId;

    fn name(cluster: &str) -> String {
        let txn = TxnId::mint(1, ShardId::of(7), 1);
        BranchName { cluster: cluster.into(), txn, branch: BranchId(0) }.to_string()
    }

    fn verdict(text: &str, earlier: &[&str], apart_ms: u64, known: Known, owned: bool) -> Verdict {
        let held = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let pass = Pass {
            cluster: "main",
            grace_ms: 5_000,
            earlier: &Listing { at: Timestamp(1_000), held: held(earlier) },
            later: &Listing { at: Timestamp(1_000 + apart_ms), held: held(&[text]) },
            known: &|_| known,
            owned: &|_| owned,
        };
        pass.plan()[0].1
    }

    #[test]
    fn an_orphan_seen_twice_a_grace_period_apart_is_rolled_back() {
        let orphan = name("main");
        let rollback = Verdict::End(Decision::Abort);
        assert_eq!(verdict(&orphan, &[&orphan], 5_000, Known::Absent, true), rollback);
        let ended = Known::Ended(Outcome::Aborted);
        assert_eq!(verdict(&orphan, &[&orphan], 5_000, ended, true), rollback);
    }

    #[test]
    fn one_objection_is_enough() {
        let ours = name("main");
        let left = |why| Verdict::LeaveAlone(why);
        let absent = Known::Absent;
        let committed = Known::Ended(Outcome::Committed);
        assert_eq!(verdict(&ours, &[], 9_000, absent, true), left(Why::SeenOnce));
        assert_eq!(verdict(&ours, &[&ours], 4_999, absent, true), left(Why::TooSoon));
        assert_eq!(verdict(&ours, &[&ours], 9_000, absent, false), left(Why::NotOwned));
        assert_eq!(verdict(&ours, &[&ours], 9_000, Known::Live, true), left(Why::Live));
        assert_eq!(verdict(&ours, &[&ours], 9_000, committed, true), left(Why::Contradiction));
        let forgotten = Known::Forgotten;
        assert_eq!(verdict(&ours, &[&ours], 9_000, forgotten, true), left(Why::Forgotten));
        for foreign in [name("other"), "una:main:nonsense".into(), "gid-17".into()] {
            let seen = verdict(&foreign, &[&foreign], 9_000, absent, true);
            assert_eq!(seen, left(Why::Foreign), "{foreign}");
        }
    }
}
