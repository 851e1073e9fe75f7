//! The clients: each has one saga, looks how far it is, and may cancel it or send signals.

use unanimous_core::Stage;
use unanimous_core::saga::{Action, Plan, Role};

use super::event::{Event, Message, Party, Reply, Request, Verdict, Want, What, Wished};
use super::service::Share;
use super::world::World;
use crate::event::Slot;

/// What one client wants, and how far it has come.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) steps: Vec<Plan>,
    pub(super) shares: Vec<Share>,
    /// For each step those before it, however far, as bits.
    pub(super) before: Vec<u8>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) start_in_ms: Option<u64>,
    pub(super) starts_ms: u64,
    pub(super) wishes: Vec<Wish>,
    pub(super) slot: Option<Slot>,
    pub(super) done: bool,
    pub(super) attempt: u32,
    /// The last version that it was shown.
    pub(super) version: u8,
}

/// What a client asks of its saga while it runs.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) after_ms: u64,
    pub(super) kind: WishKind,
    pub(super) answered: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WishKind {
    Cancel,
    CancelIfUnchanged,
    Signal(u8),
    /// The application commits the local transaction of its message, if it still can.
    CommitLocally,
    /// It says so, if it has.
    TellCommitted,
}

const RETRY_MS: u64 = 250;
const LOOK_MS: u64 = 300;

impl Order {
    /// Whether a step has an effect of its own.
    pub(super) fn has_effect(&self, step: usize) -> bool {
        matches!(self.steps[step].action, Action::Call(_) | Action::Local(..) | Action::Message(_))
    }

    /// Whether a step is the application's local transaction.
    pub(super) fn is_local(&self, step: usize) -> bool {
        matches!(self.steps[step].action, Action::Local(..))
    }

    /// Whether a step is a message, which is sent when the saga can only go on.
    pub(super) fn is_message(&self, step: usize) -> bool {
        matches!(self.steps[step].action, Action::Message(_))
    }

    pub(super) fn pivot(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.role == Role::Pivot)
    }

    pub(super) fn is_before(&self, earlier: usize, later: usize) -> bool {
        self.before[later] >> earlier & 1 == 1
    }

    /// For the readable history.
    pub(super) fn described(&self) -> Vec<String> {
        let step = |(index, (plan, share)): (usize, (&Plan, &Share))| {
            let after: Vec<_> = plan.after.iter().map(|it| it.0).collect();
            let does = match &plan.action {
                Action::Call(work) => {
                    let Share { service, refuses, undo_refusals } = share;
                    format!(
                        "calls s{service}, refuses {refuses} ‰, then {undo_refusals} times, {:?}",
                        work.retry.attempts_max
                    )
                }
                Action::Signal(wait_ms) => format!("waits for a signal, {wait_ms:?}"),
                Action::Pause(ms) => format!("pauses {ms} ms"),
                Action::Message(_) => {
                    format!("is a message to s{}, refuses {} ‰", share.service, share.refuses)
                }
                Action::Local(_, wait_ms) => {
                    format!("is a local transaction in s{}, {wait_ms} ms", share.service)
                }
            };
            let undo = if plan.compensation.is_some() { "" } else { ", stays" };
            format!("step {index} {:?} after {after:?}: {does}{undo}", plan.role)
        };
        let head = format!(
            "at {} ms, timeout {:?}, start in {:?}, {:?}",
            self.starts_ms, self.timeout_ms, self.start_in_ms, self.wishes
        );
        let steps = self.steps.iter().zip(&self.shares).enumerate().map(step);
        std::iter::once(head).chain(steps).collect()
    }
}

impl World {
    /// A client starts, repeats what was not answered, or looks again.
    pub(super) fn client_acts(&mut self, order: u8, attempt: u32) {
        let known = &mut self.orders[usize::from(order)];
        if known.done || known.attempt != attempt {
            return;
        }
        known.attempt += 1;
        let next = known.attempt;
        let request = match known.slot {
            None => Request::Begin,
            Some(slot) => Request::Status(slot),
        };
        self.after(RETRY_MS, Event::Client { order, attempt: next });
        self.request(order, request);
    }

    /// A client cancels or signals, and does so again until it hears of it.
    pub(super) fn wish(&mut self, order: u8, wish: u8) {
        let known = &self.orders[usize::from(order)];
        let wanted = &known.wishes[usize::from(wish)];
        if wanted.answered || known.done {
            return;
        }
        self.after(RETRY_MS, Event::Wish { order, wish });
        let known = &self.orders[usize::from(order)];
        let Some(slot) = known.slot else { return };
        let kind = known.wishes[usize::from(wish)].kind;
        let what = match kind {
            WishKind::CommitLocally => {
                let over = self.commit_locally(slot);
                self.orders[usize::from(order)].wishes[usize::from(wish)].answered = over;
                return;
            }
            WishKind::TellCommitted if self.txns[slot.index()].cells[0].acted == 0 => return,
            WishKind::TellCommitted => Want::Commit,
            WishKind::Cancel => Want::Cancel,
            WishKind::CancelIfUnchanged => Want::CancelIf(known.version),
            WishKind::Signal(step) => {
                self.cell_mut(slot, step).signalled = true;
                Want::Signal(step)
            }
        };
        self.next_wish += 1;
        let number = self.next_wish;
        self.request(order, Request::Wish(slot, Wished { wish, number, what }));
    }

    pub(super) fn request(&mut self, order: u8, request: Request) {
        let node = match self.nodes[0].owner {
            true if !self.rng.chance(150) => 0,
            true | false => self.rng.below(2) as u8,
        };
        let what = What::Request(order, request);
        self.send(Message { from: Party::Client, to: Party::Node(node), what });
    }

    pub(super) fn replied(&mut self, order: u8, reply: Reply) {
        let Some(known) = self.orders.get_mut(usize::from(order)) else { return };
        match reply {
            Reply::Begun(slot) if known.slot.is_none() => {
                known.slot = Some(slot);
                known.attempt += 1;
                let attempt = known.attempt;
                self.after(LOOK_MS, Event::Client { order, attempt });
            }
            Reply::Stage(_, stage, version) => {
                known.version = version;
                known.done |= matches!(stage, Stage::Ended(_));
            }
            Reply::Granted(_, wished, verdict) => {
                let wish = &mut known.wishes[usize::from(wished.wish)];
                // Somebody else's cancel may still be granted where this one lost.
                wish.answered |= verdict != Verdict::Changed || self.calm;
            }
            Reply::Begun(_) | Reply::Unknown(_) | Reply::Busy => {}
        }
    }
}
