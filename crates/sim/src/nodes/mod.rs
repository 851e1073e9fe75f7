//! Several coordinators that share one journal, in a world of their own.
//!
//! Every transaction belongs to a part, and every part to one node at a time, under an epoch that the
//! journal compares with each append. Nodes suspect each other by silence, rightly or wrongly, claim
//! what the other owned, read what is open and resume it. Messages, appends and claims are lost, late,
//! or carried out without an answer; nodes are cut off in one direction or in both, paused for longer
//! than any timeout, crash, and hand over when they are to leave. Then comes a calm, in which
//! everything has to end and every part has exactly one owner.
//!
//! # Where is what
//!
//! `world` is the loop; `store` is the journal. A node is in `node`, with what it does in `driver`,
//! `writer` (to the journal), `member` (who owns what), `requests` and `hunt` (orphans). `participant`
//! and `client` act around it, `disaster` strikes at all of them, `oracle` judges, `exhibit` lists
//! deliberate mistakes; `placement` strikes everywhere in small histories instead of by chance.

mod client;
mod disaster;
mod draw;
mod driver;
mod event;
mod exhibit;
mod hunt;
mod member;
mod node;
mod oracle;
mod participant;
mod placement;
mod requests;
mod store;
mod world;
mod writer;

pub use exhibit::NodesExhibit;
pub(crate) use placement::{BLOWS, SCENARIOS, Scenario, struck};

use std::rc::Rc;

use crate::oracle::Violation;
use crate::totals::Totals;
use crate::world::Names;
use world::World;

/// Runs one seed.
pub(crate) fn one(seed: u64, exhibit: Option<NodesExhibit>, names: &Rc<Names>) -> Totals {
    let (mut totals, violation, _) = World::new(draw::setting(seed, exhibit), names).run();
    if let Some(violation) = violation {
        totals.keep(seed, violation);
    }
    totals
}

/// Runs one seed and returns its history as text, with the rule it broke, if it did.
pub(crate) fn traced(seed: u64, exhibit: Option<NodesExhibit>) -> (String, Option<Violation>) {
    let world = World::new(draw::setting(seed, exhibit), &Names::new()).traced();
    let (_, violation, history) = world.run();
    (history.unwrap_or_default(), violation)
}
