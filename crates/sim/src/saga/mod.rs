//! Sagas in a world of their own, with the same network, disk and clocks as the other transactions.
//!
//! Steps act for all to see, so the oracles look at every effect when it happens: whether it may
//! still happen, whether everything before it has, and whether whatever it rests on is durable.
//! A history has first faults, then a calm in which every saga has to end.
//!
//! # Where is what
//!
//! `world` is the loop; `node` with `recover` and `requests`, `service`, `client` and `operator` act
//! in it; `disaster` strikes at them. `oracle` judges, `exhibit` lists deliberate mistakes;
//! `scenario` and `placement` strike everywhere instead of by chance.

mod client;
mod disaster;
mod draw;
mod event;
mod exhibit;
mod node;
mod operator;
mod oracle;
mod placement;
mod recover;
mod requests;
mod scenario;
mod service;
mod world;

pub use exhibit::SagaExhibit;
pub(crate) use placement::struck;
pub(crate) use scenario::{SCENARIOS, SERVICES, Scenario};

use std::rc::Rc;

use crate::oracle::Violation;
use crate::totals::Totals;
use crate::world::Names;
use world::World;

/// Runs one seed.
pub(crate) fn one(seed: u64, exhibit: Option<SagaExhibit>, names: &Rc<Names>) -> Totals {
    let (mut totals, violation, _) =
        World::new(draw::setting(seed, exhibit), names).with_strikes().run();
    if let Some(violation) = violation {
        totals.keep(seed, violation);
    }
    totals
}

/// Runs one seed and returns its history as text, with the rule it broke, if it did.
pub(crate) fn traced(seed: u64, exhibit: Option<SagaExhibit>) -> (String, Option<Violation>) {
    let world = World::new(draw::setting(seed, exhibit), &Names::new()).with_strikes().traced();
    let (_, violation, history) = world.run();
    (history.unwrap_or_default(), violation)
}
