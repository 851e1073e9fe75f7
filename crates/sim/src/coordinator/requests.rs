//! What a coordinator does with the requests of clients, operators and branches in doubt.

use unanimous_core::commit::CommitTxn;
use unanimous_core::commit::{Begun, Branch, Key, Mode};
use unanimous_core::id::BranchId;
use unanimous_core::{Decision, Input, Opaque, Reason, Refusal, Vote};

use super::{Fed, Live, Out, Wait, Waiter, resolution, stage_of};
use crate::event::{Message, Party, Reply, Request, Slot, Votes, What};
use crate::exhibit::Exhibit;
use crate::participant::Cell;
use crate::world::{Truth, World};
use unanimous_core::Force;

impl World {
    pub(crate) fn requested(&mut self, node: u8, order: u8, request: Request) {
        let known = &self.nodes[usize::from(node)];
        if !known.up || !known.owner {
            return;
        }
        self.note(|| format!("n{node}      o{order} asks {request:?}"));
        match request {
            Request::Begin => self.begin(node, order),
            Request::Enlist(slot, branch) => self.enlist(node, order, slot, branch),
            Request::Commit(slot, votes) => {
                let input = Input::CommitAsked(brought(&votes));
                self.ask_machine(node, order, slot, input);
            }
            Request::Abort(slot) => {
                let input = Input::AbortAsked(Reason::clone(&self.names.refusal));
                self.ask_machine(node, order, slot, input);
            }
            Request::Status(slot) => self.status(node, order, slot, Wait::Begun),
            Request::Retry(slot) => {
                let _ = self.feed(node, slot, Input::RetryAsked);
            }
            Request::Resolve(slot, outcome, force) => {
                let force = match self.exhibit {
                    Some(Exhibit::ForceAlways) => Force::Yes,
                    Some(_) | None => force,
                };
                let _ = self.feed(node, slot, Input::ResolveAsked(resolution(outcome, force)));
            }
        }
    }

    /// Begins a transaction, or finds the one that was begun under the same key.
    fn begin(&mut self, node: u8, order: u8) {
        let wanted = &self.orders[usize::from(order)];
        let wait = match wanted.mode {
            Mode::Run => wanted.wait,
            Mode::RunLater | Mode::Interactive => Wait::Begun,
        };
        if wanted.keyed && self.exhibit != Some(Exhibit::KeyBeginsTwice) {
            let key = self.names.keys[usize::from(order)].clone();
            let found = self.journal.find_key(&key);
            // Another coordinator's transaction is seen once it is durable.
            if let Some(slot) = found.filter(|&it| !self.records_to(node, it).is_empty()) {
                return self.begun_before(node, order, slot, wait);
            }
        }
        let is_full = self.strikes(self.faults.full) || self.txns.len() >= 60;
        if is_full {
            return self.reply(node, order, Reply::Busy);
        }
        let slot = Slot(self.txns.len() as u8);
        let now = self.time_of(node);
        let wanted = &self.orders[usize::from(order)];
        let begun = Begun {
            shape: wanted.shape,
            mode: wanted.mode,
            timeout_ms: wanted.timeout_ms,
            deadline: now.after_ms(wanted.timeout_ms),
            branches: (0..wanted.at_begin).map(|branch| self.branch(order, branch)).collect(),
            key: wanted.keyed.then(|| Key {
                text: self.names.keys[usize::from(order)].clone(),
                fingerprint: [0; 16],
            }),
            memo: Opaque::default(),
        };
        let shares = &wanted.shares[..usize::from(wanted.at_begin)];
        let cells = shares.iter().map(|share| Cell::new(share.resource, share.plan)).collect();
        self.txns.push(Truth::new(order, cells));
        self.totals.txns += 1;
        self.note(|| format!("n{node}      {slot} begins for o{order}"));
        let (machine, step) = CommitTxn::begin(begun, now);
        let known = self.node(node);
        known.insert(slot, Live::new(machine, 0));
        known.waiters.push(Waiter { slot, order, wait });
        let _ = self.take(node, slot, step, None);
    }

    fn branch(&self, order: u8, branch: u8) -> Branch {
        let share = self.orders[usize::from(order)].shares[usize::from(branch)];
        Branch {
            name: self.names.branches[usize::from(branch)].clone(),
            resource: self.names.resources[usize::from(share.resource)].clone(),
            phases: self.resources[usize::from(share.resource)].phases,
            work: Opaque::default(),
        }
    }

    fn begun_before(&mut self, node: u8, order: u8, slot: Slot, wait: Wait) {
        match wait {
            Wait::Begun => self.reply_gated(node, slot, order, Reply::Begun(slot)),
            Wait::Decided | Wait::Ended => self.status(node, order, slot, wait),
        }
    }

    fn enlist(&mut self, node: u8, order: u8, slot: Slot, branch: u8) {
        if self.nodes[usize::from(node)].live(slot).is_none() {
            return self.status(node, order, slot, Wait::Begun);
        }
        let reply = match self.feed(node, slot, Input::Enlist(self.branch(order, branch))) {
            Fed::Refused(_) if self.exhibit != Some(Exhibit::RefusalIsSuccess) => {
                Reply::Refused(slot, None)
            }
            Fed::Refused(_) | Fed::Taken => Reply::Enlisted(slot, branch),
            Fed::Lost => return,
        };
        self.reply_gated(node, slot, order, reply);
    }

    /// Feeds what the client wants, and answers as soon as the outcome it waits for is there.
    fn ask_machine(&mut self, node: u8, order: u8, slot: Slot, input: Input) {
        let wait = self.orders.get(usize::from(order)).map_or(Wait::Decided, |order| order.wait);
        if self.nodes[usize::from(node)].live(slot).is_none() {
            return self.status(node, order, slot, wait);
        }
        match self.feed(node, slot, input) {
            Fed::Lost => {}
            Fed::Refused(Refusal::Decided(decision)) => {
                self.reply_gated(node, slot, order, Reply::Refused(slot, Some(decision)));
            }
            Fed::Refused(
                Refusal::NotEnlisting
                | Refusal::TooManyBranches
                | Refusal::UnknownBranch(_)
                | Refusal::Delegated(_)
                | Refusal::Undecided
                | Refusal::NothingToResolve
                | Refusal::Pivoting(_)
                | Refusal::NotForSaga
                | Refusal::NoSignals,
            ) => self.reply_gated(node, slot, order, Reply::Refused(slot, None)),
            Fed::Taken => self.status(node, order, slot, wait),
        }
    }

    /// Answers with how far the transaction has come, or when it has come far enough.
    fn status(&mut self, node: u8, order: u8, slot: Slot, wait: Wait) {
        let known = &self.nodes[usize::from(node)];
        if !known.owner {
            return;
        }
        let stage = match known.live(slot) {
            Some(live) => Some(stage_of(&live.machine)),
            None => self.stage_to(node, slot),
        };
        match stage {
            Some(stage) if wait.is_over(stage) || wait == Wait::Begun => {
                self.reply_gated(node, slot, order, Reply::Stage(slot, stage));
            }
            Some(_) => {
                let waiters = &mut self.node(node).waiters;
                waiters.retain(|it| it.order != order || it.slot != slot);
                waiters.push(Waiter { slot, order, wait });
            }
            // Only the owner can tell that there is nothing.
            None if self.journal.epoch() == self.nodes[usize::from(node)].epoch => {
                self.reply_gated(node, slot, order, Reply::Unknown(slot));
            }
            None => {}
        }
    }

    fn reply_gated(&mut self, node: u8, slot: Slot, order: u8, reply: Reply) {
        self.admit(node, slot, None, std::iter::once(Out::Reply(order, reply)));
    }

    /// A branch in doubt asks for the outcome.
    pub(crate) fn asked(&mut self, node: u8, slot: Slot, branch: u8) {
        let known = &self.nodes[usize::from(node)];
        let careless = self.exhibit == Some(Exhibit::AbsentMeansAbort);
        if !known.up || self.exhibit == Some(Exhibit::InquiryUnanswered) {
            return;
        }
        if !known.owner && !careless {
            return;
        }
        let is_live = known.live(slot).is_some();
        let owns = known.epoch == self.journal.epoch();
        self.note(|| format!("n{node}      {slot} b{branch} asks"));
        let id = BranchId(u16::from(branch));
        if is_live && self.exhibit == Some(Exhibit::InquiryMeansAbort) {
            return self.admit(
                node,
                slot,
                None,
                std::iter::once(Out::End(branch, Decision::Abort)),
            );
        }
        if is_live {
            let _ = self.feed(node, slot, Input::Inquired(id));
            return;
        }
        let decision = match CommitTxn::replay(self.records_to(node, slot)) {
            Ok(machine) => match machine.durable().decision() {
                Some(decision) => decision,
                None if careless => Decision::Abort,
                // Another coordinator drives it.
                None => return,
            },
            Err(_) if owns || careless => Decision::Abort,
            Err(_) => return,
        };
        self.admit(node, slot, None, std::iter::once(Out::End(branch, decision)));
    }

    /// A reply leaves the coordinator.
    pub(crate) fn reply(&mut self, node: u8, order: u8, reply: Reply) {
        self.check_reply(node, order, reply);
        let what = What::Reply { order, reply };
        self.send(Message { from: Party::Node(node), to: Party::Client, what });
    }
}

fn brought(votes: &Votes) -> Vec<(BranchId, Vote)> {
    let votes = (0_u16..).zip(votes);
    votes.filter_map(|(index, vote)| Some((BranchId(index), (*vote)?))).collect()
}
