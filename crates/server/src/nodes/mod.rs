//! Several nodes on one journal, each driving a share of the transactions.
//!
//! The shards are divided into partitions. Each is driven by one coordinator, in one node, with a
//! journal of its own in the database that all share; who owns it is an epoch there, and nothing else.
//! Whatever a node is asked is answered by whoever drives it.
//!
//! | file | what it is for |
//! |---|---|
//! | `partition` | the parts of the shards |
//! | `beat`, `peers` | what nodes tell each other, and who is heard |
//! | `placement` | who should own what |
//! | `keeper` | claims, gives away, drops |
//! | `held` | a partition that is driven here |
//! | `node` | what all parts of a node see |
//! | `face`, `relay`, `gather` | requests: to one owner, to all nodes |
//! | `name` | under which a node asks for a transaction to begin |
//!
//! # Invariants
//!
//! 1. What a node believes of others decides where a request goes and what is claimed, never an
//!    outcome: that is the epochs' business, in the journal.
//! 2. A begin that is sent again is the same transaction, or the earlier one never happens.

mod beat;
pub(crate) mod config;
mod face;
mod gather;
mod held;
mod keeper;
mod limits;
mod lookout;
mod name;
mod node;
mod partition;
mod peers;
mod placement;
mod relay;
mod run;

pub use config::NodeConfig;
pub use run::Nodes;
