//! What a coordinator does with the requests of clients and of branches in doubt.
//!
//! Only the owner of a part answers for it; everybody else passes the question on.

use std::rc::Rc;

use unanimous_core::commit::{Begun, Branch, CommitTxn, Key, Mode};
use unanimous_core::id::{BranchId, Epoch, Timestamp};
use unanimous_core::{Decision, Input, Opaque, Reason, Refusal};

use super::client::{Share, Token};
use super::driver::Fed;
use super::event::{Ask, Found, Message, Part, Party, Reply, Request, What};
use super::exhibit::NodesExhibit;
use super::node::{Asked, Live, Out, Waiter};
use super::world::{Truth, World};
use crate::coordinator::{Wait, stage_of};
use crate::event::Slot;
use crate::participant::Cell;

/// Times that a question is passed on before it is dropped and has to be asked again.
const HOPS_MAX: u8 = 2;
const TXNS_MAX: usize = 60;

impl World {
    pub(super) fn requested(&mut self, node: u8, order: u8, request: Request, hops: u8) {
        let part = self.part_wanted(node, order, request);
        if self.node(node).open_share(part).is_none() {
            if let (Request::Status(slot), Some(NodesExhibit::StandbyAnswers)) =
                (request, self.exhibit)
            {
                self.reply(node, order, Reply::Unknown(slot));
            }
            return self.pass_on(
                node,
                part,
                hops,
                What::Request { order, request, hops: hops + 1 },
            );
        }
        self.note(|| format!("n{node}      o{order} asks {request:?}"));
        match request {
            Request::Begin => self.begin(node, part, order),
            Request::BeginAs(slot, epoch) => self.begin_as(node, order, slot, epoch),
            Request::Commit(slot) => {
                self.ask_machine(node, order, slot, Input::CommitAsked(Vec::new()));
            }
            Request::Abort(slot) => {
                let reason = Reason::clone(&self.names.refusal);
                self.ask_machine(node, order, slot, Input::AbortAsked(reason));
            }
            Request::Status(slot) => self.status(node, order, slot, Wait::Begun),
        }
    }

    /// The part that a request is about. A key belongs to one part, whoever is asked; without a key a
    /// transaction begins where it is asked for.
    pub(super) fn part_wanted(&mut self, node: u8, order: u8, request: Request) -> Part {
        let parts = self.parts();
        match request {
            Request::Begin if self.orders[usize::from(order)].token == Token::Key => order % parts,
            Request::Begin => {
                let known = self.node(node);
                let open = (0..parts).find(|&part| known.open_share(part).is_some());
                open.unwrap_or(order % parts)
            }
            Request::BeginAs(slot, _)
            | Request::Commit(slot)
            | Request::Abort(slot)
            | Request::Status(slot) => self.part_of(slot),
        }
    }

    /// Passes a question on to whom it takes for the owner.
    fn pass_on(&mut self, node: u8, part: Part, hops: u8, what: What) {
        let seen = self.nodes[usize::from(node)].shares[usize::from(part)].seen;
        let Some(owner) = seen.owner.filter(|owner| owner.node != node) else { return };
        if hops < HOPS_MAX {
            let (from, to) = (Party::Node(node), Party::Node(owner.node));
            self.send(Message { from, to, what });
        }
    }

    /// How far a transaction has to come before whoever asked for it to begin is answered.
    fn begin_wait(&self, order: u8) -> Wait {
        let wanted = &self.orders[usize::from(order)];
        match wanted.mode {
            Mode::Run => wanted.wait,
            Mode::RunLater | Mode::Interactive => Wait::Begun,
        }
    }

    /// Begins a transaction, or finds the one that was begun under the same key.
    fn begin(&mut self, node: u8, part: Part, order: u8) {
        let keyed = self.orders[usize::from(order)].token == Token::Key;
        let held = self.nodes[usize::from(node)].held(part).expect("it is open");
        let found = held.keys.iter().find(|(it, _)| keyed && *it == order);
        if let Some(&(_, slot)) = found {
            return self.wait_along(node, order, slot);
        }
        if self.has_room() {
            let slot = self.mint(order, part);
            self.begin_now(node, order, slot);
        }
    }

    /// Answers whoever asked for something to begin that has begun already.
    fn wait_along(&mut self, node: u8, order: u8, slot: Slot) {
        match self.begin_wait(order) {
            Wait::Begun => self.reply_gated(node, slot, order, Reply::Begun(slot)),
            wait @ (Wait::Decided | Wait::Ended) => self.status(node, order, slot, wait),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.txns.len() < TXNS_MAX
    }

    /// An identity for what an order wants.
    pub(super) fn mint(&mut self, order: u8, part: Part) -> Slot {
        let slot = Slot(self.txns.len() as u8);
        let wanted = &self.orders[usize::from(order)];
        let cells = wanted.shares.iter().map(|share| Cell::new(share.resource, share.plan));
        let truth = Truth::new(order, part, wanted.token == Token::Key, cells.collect());
        self.txns.push(truth);
        slot
    }

    fn begin_now(&mut self, node: u8, order: u8, slot: Slot) {
        let (now, part) = (self.time_of(node), self.part_of(slot));
        let (begun, wait) = (self.begun(order, now), self.begin_wait(order));
        let keyed = begun.key.is_some();
        self.totals.txns += 1;
        self.txns[slot.index()].begun = true;
        self.note(|| format!("n{node}      {slot} begins for o{order} in p{part}"));
        let (machine, step) = CommitTxn::begin(begun, now);
        let held = self.node(node).held_mut(part).expect("whoever begins it holds its part");
        held.live.insert(slot, Live::new(machine, Vec::new()));
        held.waiters.push(Waiter { slot, order, wait });
        if keyed {
            held.keys.push((order, slot));
        }
        self.take(node, slot, step);
    }

    /// Begins under a name, or waits along with what was begun under it.
    fn begin_as(&mut self, node: u8, order: u8, slot: Slot, named: Epoch) {
        let part = self.part_of(slot);
        if self.live_stage(node, slot).is_some() {
            return self.wait_along(node, order, slot);
        }
        let Some(held) = self.node(node).held_mut(part) else { return };
        if !held.is_busy_with(slot) {
            let epoch = held.epoch;
            let ask = Ask::Look(part, Rc::new([slot]));
            self.ask(node, ask, Asked::Name { part, epoch, order, named });
        }
    }

    /// The journal has been asked about what is to begin under a name.
    pub(super) fn name_found(
        &mut self,
        node: u8,
        (part, epoch): (Part, Epoch),
        (order, named): (u8, Epoch),
        (current, found): Found<'_>,
    ) {
        let is_open = self.node(node).open_share(part).is_some();
        if current != epoch || self.epoch_of(node, part) != Some(epoch) || !is_open {
            return;
        }
        let careless = self.exhibit == Some(NodesExhibit::BegunUnderAnyEpoch);
        for (slot, records) in found {
            if self.drives(node, *slot) {
                return;
            }
            let held = self.node(node).held_mut(part).expect("it is open");
            // It has begun and ended since the journal was asked.
            let overtaken = held.named.contains(slot);
            match CommitTxn::replay(records) {
                Ok(machine) => self.reply(node, order, Reply::Stage(*slot, stage_of(&machine))),
                Err(_) if overtaken => self.status(node, order, *slot, self.begin_wait(order)),
                Err(_) if named == epoch || careless => {
                    held.named.push(*slot);
                    self.begin_now(node, order, *slot);
                }
                // A branch that a former owner called may be on its way to undo it.
                Err(_) if named < epoch => self.reply(node, order, Reply::NeverBegun(*slot)),
                Err(_) => {}
            }
        }
    }

    fn begun(&self, order: u8, now: Timestamp) -> Begun {
        let wanted = &self.orders[usize::from(order)];
        let branch = |(index, share): (usize, &Share)| Branch {
            name: self.names.branches[index].clone(),
            resource: self.names.resources[usize::from(share.resource)].clone(),
            phases: self.resources[usize::from(share.resource)].phases,
            work: Opaque::default(),
        };
        Begun {
            shape: wanted.shape,
            mode: wanted.mode,
            timeout_ms: wanted.timeout_ms,
            deadline: now.after_ms(wanted.timeout_ms),
            branches: wanted.shares.iter().enumerate().map(branch).collect(),
            key: (wanted.token == Token::Key).then(|| Key {
                text: self.names.keys[usize::from(order)].clone(),
                fingerprint: [0; 16],
            }),
            memo: Opaque::default(),
        }
    }

    /// Feeds what the client wants, and answers as soon as the outcome it waits for is there.
    fn ask_machine(&mut self, node: u8, order: u8, slot: Slot, input: Input) {
        let wait = self.orders[usize::from(order)].wait;
        if self.live_stage(node, slot).is_none() {
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
        let part = self.part_of(slot);
        let stage = self.live_stage(node, slot);
        let Some(held) = self.node(node).held_mut(part) else { return };
        match stage {
            Some(stage) if wait.is_over(stage) || wait == Wait::Begun => {
                self.reply_gated(node, slot, order, Reply::Stage(slot, stage));
            }
            Some(_) => {
                held.waiters.retain(|it| it.order != order || it.slot != slot);
                held.waiters.push(Waiter { slot, order, wait });
            }
            // Its last records are on their way: whoever wants to know asks again.
            None if held.is_busy_with(slot) => {}
            None => {
                let epoch = held.epoch;
                let ask = Ask::Look(part, Rc::new([slot]));
                self.ask(node, ask, Asked::Status { part, epoch, order });
            }
        }
    }

    /// The journal has been asked about a transaction that nobody drives.
    pub(super) fn status_found(
        &mut self,
        node: u8,
        (part, epoch): (Part, Epoch),
        order: u8,
        (current, found): Found<'_>,
    ) {
        // Only the owner can tell that there is nothing.
        if current != epoch || self.epoch_of(node, part) != Some(epoch) {
            return;
        }
        for (slot, records) in found {
            let reply = match CommitTxn::replay(records) {
                Ok(machine) => Reply::Stage(*slot, stage_of(&machine)),
                Err(_) => Reply::Unknown(*slot),
            };
            self.reply(node, order, reply);
        }
    }

    fn reply_gated(&mut self, node: u8, slot: Slot, order: u8, reply: Reply) {
        self.admit(node, slot, None, std::iter::once(Out::Reply(order, reply)));
    }

    /// A branch in doubt asks for the outcome.
    pub(super) fn inquired(&mut self, node: u8, slot: Slot, branch: u8, hops: u8) {
        let part = self.part_of(slot);
        let careless = self.exhibit == Some(NodesExhibit::AbsentMeansAbort);
        let is_live = self.live_stage(node, slot).is_some();
        let (epoch, busy) = match self.node(node).open_share(part) {
            Some(held) => (held.epoch, held.is_busy_with(slot)),
            None if careless => (Epoch(0), false),
            None => {
                let what = What::Inquiry { slot, branch, hops: hops + 1 };
                return self.pass_on(node, part, hops, what);
            }
        };
        self.note(|| format!("n{node}      {slot} b{branch} asks"));
        if is_live {
            let _ = self.feed(node, slot, Input::Inquired(BranchId(u16::from(branch))));
        } else if !busy {
            let ask = Ask::Look(part, Rc::new([slot]));
            self.ask(node, ask, Asked::Inquiry { part, epoch, branch });
        }
    }

    /// The journal has been asked for a branch in doubt.
    pub(super) fn inquiry_found(
        &mut self,
        node: u8,
        (part, epoch): (Part, Epoch),
        branch: u8,
        (current, found): Found<'_>,
    ) {
        let owns = current == epoch && self.epoch_of(node, part) == Some(epoch);
        if !owns && self.exhibit != Some(NodesExhibit::AbsentMeansAbort) {
            return;
        }
        for (slot, records) in found {
            let decision = match CommitTxn::replay(records) {
                Ok(machine) => machine.durable().decision(),
                // Presumed abort, spoken by who holds the epoch.
                Err(_) => Some(Decision::Abort),
            };
            if let Some(decision) = decision {
                self.end(node, *slot, branch, decision);
            }
        }
    }

    /// A reply leaves a node.
    pub(super) fn reply(&mut self, node: u8, order: u8, reply: Reply) {
        self.check_reply(order, reply);
        let what = What::Reply { order, from: node, reply };
        self.send(Message { from: Party::Node(node), to: Party::Client, what });
    }
}
