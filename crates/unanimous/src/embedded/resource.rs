//! Resources of the program's own: what takes part in transactions without a server of its own.
//!
//! A resource is asked to prepare, to commit and to roll back, and as often as it takes; one that has
//! said yes has to be able to do either after a crash. Where its work is in a database, the configured
//! resources do all that. [`Local`] makes one of a closure.

pub use unanimous_core::commit::Phases;
pub use unanimous_core::{Answer, HeuristicKind, Opaque, Reason, Verb};
pub use unanimous_participants::local::{Local, agree};
pub use unanimous_participants::{Call, Calling, Held, Listing, Reading, Resource, State, Takes};
