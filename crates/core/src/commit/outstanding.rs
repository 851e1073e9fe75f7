//! Whom to call, tell and wait for next: a function of the state.
//!
//! Recovery relies on this: with the volatile state gone, everything the durable state calls for is
//! due again.

use super::{CommitTxn, Mode, Phase};
use crate::id::{BranchId, Timestamp};
use crate::limits::RETRY_MS_MAX;
use crate::step::{Effect, Outcome, Stage, Verb};

impl CommitTxn {
    /// Everything the current state calls for and that is not under way yet.
    pub(super) fn outstanding(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.tell(&mut effects);
        match self.durable.phase() {
            Phase::Active | Phase::Attention | Phase::Ended(_) => {}
            Phase::Preparing => self.call(Verb::Prepare, now, &mut effects),
            Phase::Delegated(_) => self.call(Verb::CommitOnePhase, now, &mut effects),
            Phase::Committing => self.call(Verb::Commit, now, &mut effects),
            Phase::Aborting => self.call(Verb::Rollback, now, &mut effects),
        }
        let wake_at = self.wake_at();
        if wake_at != self.volatile.wake_at {
            self.volatile.wake_at = wake_at;
            effects.extend(wake_at.map(Effect::WakeAt));
        }
        effects
    }

    fn call(&mut self, verb: Verb, now: Timestamp, effects: &mut Vec<Effect>) {
        // Without the decision it is collecting votes in the journal, or is not there at all. But one
        // that is still active there may be committed by its client, who was told of no abort, and
        // one that was delegated by its only branch.
        let aborts_anyway =
            self.durable.begun().mode != Mode::Interactive && self.durable.branches().len() > 1;
        for (index, progress) in self.volatile.branches.iter_mut().enumerate() {
            let branch = BranchId(index as u16);
            let wanted = match verb {
                Verb::Prepare => progress.vote.is_none(),
                Verb::Commit | Verb::CommitOnePhase | Verb::Rollback => {
                    self.durable.ending(branch).is_none()
                }
                Verb::Act | Verb::Compensate => unreachable!("no phase asks for it"),
            };
            if wanted && progress.call.is_due(now, RETRY_MS_MAX) {
                progress.call = crate::retry::Call::InFlight;
                effects.push(match verb == Verb::Rollback && aborts_anyway {
                    true => Effect::Undo(branch),
                    false => Effect::Call(branch, verb),
                });
            }
        }
    }

    fn tell(&mut self, effects: &mut Vec<Effect>) {
        let stage = match self.durable.phase() {
            Phase::Active | Phase::Preparing | Phase::Delegated(_) => Stage::Begun,
            Phase::Committing => Stage::Decided(Outcome::Committed),
            Phase::Aborting => Stage::Decided(Outcome::Aborted),
            Phase::Attention => Stage::NeedsAttention,
            Phase::Ended(outcome) => Stage::Ended(outcome),
        };
        if self.volatile.told != Some(stage) {
            self.volatile.told = Some(stage);
            effects.push(Effect::Tell(stage));
        }
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let retries = self.volatile.branches.iter().filter_map(|progress| progress.call.wake_at());
        match self.durable.phase() {
            Phase::Active => Some(self.volatile.deadline),
            Phase::Preparing => retries.chain([self.volatile.deadline]).min(),
            Phase::Delegated(_) | Phase::Committing | Phase::Aborting => retries.min(),
            Phase::Attention | Phase::Ended(_) => None,
        }
    }
}
