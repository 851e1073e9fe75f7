//! Seeded histories of coordinators, participants and clients, checked by oracles.
//!
//! One seed makes one history, always the same one: which processes there are, what the clients
//! want, which faults strike and when. First come the faults, then a calm in which everything has to
//! end. The machines, the gate, the barrier and the recovery plan are those of `unanimous-core`; the
//! driver around them takes the same steps as the one in the server.
//!
//! # Where is what
//!
//! `world` is the loop; `coordinator`, `participant`, `client` and `operator` act in it; `journal` is
//! the disk; `disaster` strikes at them and `swarm` says how often. `oracle` has a file for each rule
//! of the fault catalogue. `exhibit` lists deliberate mistakes, [`museum()`] shows that each is caught.
//! [`placements`] strikes before every event of small scripted histories instead of by chance.
//! `nodes` is a world of its own: several coordinators on one journal. [`model`] explores small models of commit protocols exhaustively.

mod client;
mod coordinator;
mod disaster;
mod draw;
mod event;
mod exhibit;
mod journal;
pub mod model;
mod museum;
mod nodes;
mod operator;
mod oracle;
mod participant;
mod placement;
mod rng;
mod runner;
mod saga;
mod scenario;
mod swarm;
mod totals;
mod world;

pub use exhibit::Exhibit;
pub use museum::{AnyExhibit, Row, museum, trace_exhibit};
pub use nodes::NodesExhibit;
pub use oracle::Violation;
pub use placement::{Depth, Placed, placements};
pub use runner::{Shape, run_seeds, trace};
pub use saga::SagaExhibit;
pub use totals::Totals;
